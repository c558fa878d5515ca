//! The memory that one verification may take: every allocation is counted, and every one may fail.

use alloc::vec::Vec;

use crate::refusal::Reason;

/// What an allocation fails with. Small, so that what only allocates takes little stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OutOfMemory;

impl From<OutOfMemory> for Reason {
    fn from(OutOfMemory: OutOfMemory) -> Self {
        Self::Memory
    }
}

/// Counts the bytes that a verification allocates against the bound of its options.
#[derive(Debug)]
pub(crate) struct Memory {
    left: usize,
}

impl Memory {
    pub(crate) fn new(bytes: usize) -> Self {
        Self { left: bytes }
    }

    pub(crate) fn left(&self) -> usize {
        self.left
    }

    fn grow<T>(&mut self, vec: &mut Vec<T>, capacity: usize) -> Result<(), OutOfMemory> {
        // Growing copies: for a moment there are both.
        if capacity.checked_mul(size_of::<T>()).is_none_or(|bytes| bytes > self.left) {
            return Err(OutOfMemory);
        }
        let before = vec.capacity();
        vec.try_reserve_exact(capacity - vec.len()).map_err(|_| OutOfMemory)?;
        // The allocator may give more than was asked for; what is counted is what is given back later.
        self.left = self.left.saturating_sub((vec.capacity() - before) * size_of::<T>());
        Ok(())
    }

    /// Makes room for `additional` more elements.
    pub(crate) fn reserve<T>(&mut self, vec: &mut Vec<T>, additional: usize) -> Result<(), OutOfMemory> {
        let wanted = vec.len().checked_add(additional).ok_or(OutOfMemory)?;
        if wanted > vec.capacity() {
            // Growing by halves wastes little of a bound that counts capacity, not use.
            let capacity = wanted.max(vec.capacity() + vec.capacity() / 2).max(8);
            self.grow(vec, capacity)?;
        }
        Ok(())
    }

    /// Appends `value`.
    pub(crate) fn push<T>(&mut self, vec: &mut Vec<T>, value: T) -> Result<(), OutOfMemory> {
        self.reserve(vec, 1)?;
        append(vec, value)
    }

    /// Puts `value` in front of the element at `index`, or behind the last one.
    pub(crate) fn insert<T>(&mut self, vec: &mut Vec<T>, index: usize, value: T) -> Result<(), OutOfMemory> {
        self.reserve(vec, 1)?;
        if index > vec.len() || vec.len() >= vec.capacity() {
            return Err(OutOfMemory);
        }
        vec.insert(index, value);
        Ok(())
    }

    /// A vector of `len` copies of `value`.
    pub(crate) fn filled<T: Clone>(&mut self, len: usize, value: T) -> Result<Vec<T>, OutOfMemory> {
        let mut vec = Vec::new();
        self.grow(&mut vec, len)?;
        for _ in 0..len {
            append(&mut vec, value.clone())?;
        }
        Ok(vec)
    }

    /// A vector of what `from` gives.
    pub(crate) fn collect<T>(
        &mut self,
        from: impl Iterator<Item = T> + Clone,
    ) -> Result<Vec<T>, OutOfMemory> {
        let mut vec = Vec::new();
        self.grow(&mut vec, from.clone().count())?;
        for value in from {
            append(&mut vec, value)?;
        }
        Ok(vec)
    }

    /// Makes room for exactly `len` elements in an empty vector.
    pub(crate) fn reserve_exact<T>(&mut self, vec: &mut Vec<T>, len: usize) -> Result<(), OutOfMemory> {
        self.grow(vec, len)
    }

    /// Gives a vector's memory back.
    pub(crate) fn discard<T>(&mut self, vec: Vec<T>) {
        self.left += vec.capacity() * size_of::<T>();
    }
}

/// Appends `value` where there is room for it. The library's own functions panic where there is none, and a linker must find
/// no panic in this crate (vm's `tests/no_panic.rs`): nothing else makes a vector longer.
pub(crate) fn append<T>(vec: &mut Vec<T>, value: T) -> Result<(), OutOfMemory> {
    if vec.len() >= vec.capacity() {
        return Err(OutOfMemory);
    }
    vec.push(value);
    Ok(())
}

/// Takes the element at `index` out, if there is one.
pub(crate) fn take<T: Copy>(vec: &mut Vec<T>, index: usize) -> Option<T> {
    let taken = *vec.get(index)?;
    let rest = vec.get_mut(index..)?;
    rest.copy_within(1.., 0);
    vec.pop();
    Some(taken)
}

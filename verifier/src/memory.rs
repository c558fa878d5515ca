//! The memory that one verification may take: every allocation is counted, and every one may fail.

use alloc::vec::Vec;

use crate::refusal::Reason;

/// Counts the bytes that a verification allocates against the bound of its options.
#[derive(Debug)]
pub(crate) struct Memory {
    left: usize,
}

impl Memory {
    pub(crate) fn new(bytes: usize) -> Self {
        Self { left: bytes }
    }

    fn take(&mut self, bytes: usize) -> Result<(), Reason> {
        self.left = self.left.checked_sub(bytes).ok_or(Reason::Memory)?;
        Ok(())
    }

    /// Makes room for `additional` more elements.
    pub(crate) fn reserve<T>(&mut self, vec: &mut Vec<T>, additional: usize) -> Result<(), Reason> {
        let wanted = vec.len().checked_add(additional).ok_or(Reason::Memory)?;
        if wanted > vec.capacity() {
            // Growing by halves wastes little of a bound that counts capacity, not use.
            let capacity = wanted.max(vec.capacity() + vec.capacity() / 2).max(8);
            let grown = (capacity - vec.capacity()).checked_mul(size_of::<T>()).ok_or(Reason::Memory)?;
            self.take(grown)?;
            vec.try_reserve_exact(capacity - vec.len()).map_err(|_| Reason::Memory)?;
        }
        Ok(())
    }

    /// Appends `value`.
    pub(crate) fn push<T>(&mut self, vec: &mut Vec<T>, value: T) -> Result<(), Reason> {
        self.reserve(vec, 1)?;
        vec.push(value);
        Ok(())
    }

    /// A vector of `len` copies of `value`.
    pub(crate) fn filled<T: Clone>(&mut self, len: usize, value: T) -> Result<Vec<T>, Reason> {
        let mut vec = Vec::new();
        let bytes = len.checked_mul(size_of::<T>()).ok_or(Reason::Memory)?;
        self.take(bytes)?;
        vec.try_reserve_exact(len).map_err(|_| Reason::Memory)?;
        vec.resize(len, value);
        Ok(vec)
    }
}

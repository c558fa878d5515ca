//! Memory that is allocated once, or not at all, and shared with programs.

use alloc::vec::Vec;
use core::cmp::Ordering;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use tidegate_abi::control::Status;
use tidegate_vm::{MapMemory, Shared};

/// A vector of `count` values of `make`, or [`Status::NoMemory`].
pub(crate) fn vector<T>(count: usize, make: impl FnMut() -> T) -> Result<Vec<T>, Status> {
    let mut vector = room(count)?;
    // Said once more for the compiler, which then leaves out what ends the machine.
    if vector.capacity() - vector.len() < count {
        return Err(Status::NoMemory);
    }
    vector.resize_with(count, make);
    Ok(vector)
}

/// An empty vector with room for `count` values, or [`Status::NoMemory`].
pub(crate) fn room<T>(count: usize) -> Result<Vec<T>, Status> {
    let mut vector = Vec::new();
    vector.try_reserve_exact(count).map_err(|_| Status::NoMemory)?;
    Ok(vector)
}

/// Puts `value` behind the others, where there is room: what grows by itself ends the machine when there is no memory.
pub(crate) fn push<T>(vector: &mut Vec<T>, value: T) -> Result<(), Status> {
    if vector.len() == vector.capacity() {
        return Err(Status::NoMemory);
    }
    vector.push(value);
    Ok(())
}

/// Puts `value` in front of the one at `at`, or behind all others, where there is room.
pub(crate) fn insert<T>(vector: &mut Vec<T>, at: usize, value: T) -> Result<(), Status> {
    push(vector, value)?;
    if let Some(moved @ [_, ..]) = vector.get_mut(at..) {
        moved.rotate_right(1);
    }
    Ok(())
}

/// Takes out the one at `at`.
pub(crate) fn remove<T>(vector: &mut Vec<T>, at: usize) -> Option<T> {
    let [_, ..] = vector.get(at..)? else { return None };
    vector.get_mut(at..)?.rotate_left(1);
    vector.pop()
}

/// Puts `value` behind a shared pointer, or [`Status::NoMemory`].
pub(crate) fn shared<T>(value: T) -> Result<Shared<T>, Status> {
    Shared::new(value).ok_or(Status::NoMemory)
}

/// The bytes of `bytes` as words of memory, the last one padded with zeros.
pub(crate) fn words(bytes: &[u8]) -> impl Iterator<Item = u64> {
    let (whole, rest) = bytes.as_chunks::<8>();
    let last = (!rest.is_empty()).then(|| {
        let mut word = [0; 8];
        word.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
        u64::from_ne_bytes(word)
    });
    whole.iter().map(|word| u64::from_ne_bytes(*word)).chain(last)
}

/// Zeroed words that programs and control requests may touch at the same time.
///
/// Each word is read and written whole; a value of several words can be seen while another thread is halfway through it,
/// as with the maps of Linux. A range that does not lie in the memory is cut to what does.
#[derive(Debug)]
pub(crate) struct Words(Shared<MapMemory>);

impl Words {
    /// `count` zeroed words, or [`Status::NoMemory`].
    pub(crate) fn new(count: usize) -> Result<Self, Status> {
        MapMemory::new(count).map(Self).ok_or(Status::NoMemory)
    }

    /// The memory as the machine takes it.
    pub(crate) fn memory(&self) -> &Shared<MapMemory> {
        &self.0
    }

    /// Address of the word `at`, for programs. The memory does not move while it lives.
    pub(crate) fn address(&self, at: usize) -> u64 {
        self.0.address() + at as u64 * 8
    }

    /// The word whose address is `address`, if there is one.
    pub(crate) fn at(&self, address: u64) -> Option<usize> {
        let bytes = address.checked_sub(self.address(0))?;
        let at = usize::try_from(bytes / 8).ok()?;
        (bytes % 8 == 0 && at < self.0.words().len()).then_some(at)
    }

    /// One word.
    pub(crate) fn word(&self, at: usize) -> Option<&AtomicU64> {
        self.0.words().get(at)
    }

    fn range(&self, at: usize, bytes: usize) -> &[AtomicU64] {
        let from = self.0.words().get(at..).unwrap_or_default();
        from.get(..bytes.div_ceil(8)).unwrap_or(from)
    }

    /// Copies memory from word `at` on into `out`.
    pub(crate) fn read(&self, at: usize, out: &mut [u8]) {
        for (to, from) in out.chunks_mut(8).zip(self.range(at, usize::MAX)) {
            let word = from.load(Relaxed).to_ne_bytes();
            to.iter_mut().zip(word).for_each(|(to, from)| *to = from);
        }
    }

    /// Copies `bytes` to memory from word `at` on; the rest of their last word becomes zero.
    pub(crate) fn write(&self, at: usize, bytes: &[u8]) {
        for (to, word) in self.range(at, bytes.len()).iter().zip(words(bytes)) {
            to.store(word, Relaxed);
        }
    }

    /// Zeroes `bytes` bytes from word `at` on, and the rest of their last word.
    pub(crate) fn zero(&self, at: usize, bytes: usize) {
        for word in self.range(at, bytes) {
            word.store(0, Relaxed);
        }
    }

    /// Compares the words from `at` on with those of `bytes`.
    pub(crate) fn compare(&self, at: usize, bytes: &[u8]) -> Ordering {
        self.range(at, bytes.len()).iter().map(|word| word.load(Relaxed)).cmp(words(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_gives_back_what_was_written_and_no_more_than_it_has() {
        let memory = Words::new(4).expect("small");
        memory.write(1, b"eleven byte");
        let mut out = [0xff; 16];
        memory.read(1, &mut out);
        assert_eq!(&out, b"eleven byte\0\0\0\0\0");
        assert_eq!(memory.compare(1, b"eleven byte"), Ordering::Equal);
        assert_ne!(memory.compare(1, b"eleven bytf"), Ordering::Equal);
        memory.write(3, &[1; 64]);
        memory.zero(9, 8);
        let mut out = [9; 16];
        memory.read(3, &mut out);
        assert_eq!(out, [1, 1, 1, 1, 1, 1, 1, 1, 9, 9, 9, 9, 9, 9, 9, 9]);
    }

    #[test]
    fn an_address_is_a_word_only_inside_and_aligned() {
        let memory = Words::new(4).expect("small");
        assert_eq!(memory.at(memory.address(3)), Some(3));
        for stranger in [memory.address(4), memory.address(1) + 1, memory.address(0) - 8, 0] {
            assert_eq!(memory.at(stranger), None);
        }
    }

    #[test]
    fn what_can_not_be_had_is_no_memory() {
        assert_eq!(Words::new(usize::MAX / 8).map(|_| ()), Err(Status::NoMemory));
    }
}

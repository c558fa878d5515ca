//! Arrays, shared and per processor.

use tidegate_abi::MapDef;
use tidegate_abi::control::Status;

use super::MapError;
use crate::memory::Words;

/// Values by index, `copies` of each: one, or one for each processor. They exist from the start and are never deleted.
#[derive(Debug)]
pub(crate) struct Array {
    pub(super) values: Words,
    entries: usize,
    stride: usize,
    value_size: usize,
    copies: usize,
}

impl Array {
    pub(super) fn new(def: &MapDef, copies: usize) -> Result<Self, Status> {
        let (entries, stride) = (def.max_entries as usize, def.stride() / 8);
        let words = entries.checked_mul(stride).and_then(|words| words.checked_mul(copies));
        let values = Words::new(words.ok_or(Status::NoMemory)?)?;
        Ok(Self { values, entries, stride, value_size: def.value_size as usize, copies })
    }

    /// The values of one processor lie together, so that processors don't share cache lines.
    fn word(&self, key: &[u8], copy: usize) -> Option<usize> {
        let index = u32::from_le_bytes(key.try_into().ok()?) as usize;
        (index < self.entries).then_some((copy * self.entries + index) * self.stride)
    }

    pub(super) fn lookup(&self, key: &[u8], processor: usize) -> Option<u64> {
        Some(self.values.address(self.word(key, processor.checked_rem(self.copies)?)?))
    }

    /// Sets the value of one processor.
    pub(super) fn update(&self, key: &[u8], value: &[u8], processor: usize) -> Result<(), MapError> {
        let copy = processor.checked_rem(self.copies);
        let word = copy.and_then(|copy| self.word(key, copy)).ok_or(MapError::Range)?;
        self.values.write(word, value);
        Ok(())
    }

    /// Sets the values of all processors: to one value, or to one after the other.
    pub(super) fn update_all(&self, key: &[u8], values: &[u8]) -> Result<(), MapError> {
        if values.len() != self.value_size && values.len() != self.value_size * self.copies {
            return Err(MapError::Invalid);
        }
        for (copy, value) in (0..self.copies).zip(values.chunks(self.value_size.max(1)).cycle()) {
            self.update(key, value, copy)?;
        }
        Ok(())
    }

    /// Bytes of the values of all processors.
    pub(super) fn read_size(&self) -> usize {
        self.value_size * self.copies
    }

    /// Copies the values of all processors, one after the other.
    pub(super) fn read_all(&self, key: &[u8], out: &mut [u8]) -> Result<(), MapError> {
        for (copy, out) in (0..self.copies).zip(out.chunks_mut(self.value_size.max(1))) {
            self.values.read(self.word(key, copy).ok_or(MapError::Range)?, out);
        }
        Ok(())
    }

    /// The index that follows.
    pub(super) fn next_key(&self, key: Option<&[u8]>, out: &mut [u8]) -> Result<(), MapError> {
        let next = match key {
            None => 0,
            Some(key) => u32::from_le_bytes(key.try_into().map_err(|_| MapError::Invalid)?).saturating_add(1),
        };
        if next as usize >= self.entries {
            return Err(MapError::NotFound);
        }
        out.iter_mut().zip(next.to_le_bytes()).for_each(|(to, from)| *to = from);
        Ok(())
    }
}

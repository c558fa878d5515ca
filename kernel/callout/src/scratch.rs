//! Work space of a classify, allocated once so that classify does not allocate and does not need a large stack.
//!
//! Every processor has a few desks. A classify takes one and gives it back; a classify inside a classify (an injection that
//! another callout sees at once) takes the next one, and when a processor's desks are all taken, the neighbours' serve. Only
//! when every desk of the machine is taken is there none: then nothing can be run, and the links' `on_error` decides.

use alloc::vec::Vec;

use spin::mutex::{Mutex, MutexGuard};
use tidegate_abi::limits::MAX_WINDOW;
use tidegate_vm::Stack;

use crate::edit::Changes;
use crate::memory::{self, NoMemory};
use crate::watch::Pending;

/// Desks of one processor: a classify and one nested into it.
const DESKS: usize = 2;

/// What one classify needs.
pub(crate) struct Desk {
    /// The window, when the bytes shown do not lie together. [`MAX_WINDOW`] bytes.
    pub(crate) window: Vec<u8>,
    /// The program's stack.
    pub(crate) stack: Stack,
    /// What the program wants changed.
    pub(crate) changes: Changes,
    /// The run of a packet, when somebody watches it and its packet is still to be built.
    pub(crate) pending: Option<Pending>,
}

/// The desks of all processors.
pub(crate) struct Scratch {
    desks: Vec<Mutex<Desk>>,
}

impl Scratch {
    /// Desks for so many processors. `PASSIVE_LEVEL`.
    pub(crate) fn new(processors: u32) -> Result<Self, NoMemory> {
        let count = processors.max(1) as usize * DESKS;
        let mut desks = memory::vec(count)?;
        for _ in 0..count {
            let window = memory::filled(MAX_WINDOW, 0)?;
            // There is room for all. The compiler does not know, and would have the vector grow, which ends the machine when
            // it fails.
            if desks.len() == desks.capacity() {
                return Err(NoMemory);
            }
            // A constant is copied to where it is to be; what is put together here lies on the stack first, which is small.
            desks.push(
                const {
                    Mutex::new(Desk {
                        window: Vec::new(),
                        stack: Stack::new(),
                        changes: Changes::new(),
                        pending: None,
                    })
                },
            );
            if let Some(desk) = desks.last_mut() {
                desk.get_mut().window = window;
            }
        }
        Ok(Self { desks })
    }

    /// A free desk, one of `processor`'s if there is one. Never waits.
    pub(crate) fn take(&self, processor: u32) -> Option<MutexGuard<'_, Desk>> {
        let first = processor as usize * DESKS;
        self.desks.get(first).and_then(Mutex::try_lock).or_else(|| self.search(first))
    }

    /// The first that is free, from `first` on.
    #[cold]
    #[inline(never)]
    fn search(&self, first: usize) -> Option<MutexGuard<'_, Desk>> {
        let (before, from) = self.desks.split_at_checked(first % self.desks.len().max(1))?;
        from.iter().chain(before).find_map(Mutex::try_lock)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_desk_can_be_taken_and_then_there_is_none() {
        let scratch = Scratch::new(3).expect("memory");
        let taken: Vec<_> = (0..3 * DESKS).map(|_| scratch.take(1).expect("one is free")).collect();
        assert!(scratch.take(0).is_none());
        drop(taken);
        assert!(scratch.take(0).is_some());
    }

    #[test]
    fn a_nested_classify_stays_on_its_processor_s_desks() {
        let scratch = Scratch::new(2).expect("memory");
        let outer = scratch.take(1).expect("free");
        let inner = scratch.take(1).expect("free");
        for processor in 0..2 {
            let own = [&scratch.desks[DESKS * processor], &scratch.desks[DESKS * processor + 1]];
            assert!(own.iter().all(|desk| desk.is_locked() == (processor == 1)));
        }
        drop((outer, inner));
    }

    #[test]
    fn a_processor_beyond_the_last_is_served_too() {
        let scratch = Scratch::new(2).expect("memory");
        assert!(scratch.take(u32::MAX).is_some());
    }
}

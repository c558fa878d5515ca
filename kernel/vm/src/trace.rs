//! Which instructions ran, for coverage. Only with the feature `trace`, which no driver has; and only programs that were made
//! with [`Executable::traced`](crate::Executable::traced) pay for it.

use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use crate::CompileError;

/// How often an instruction ran.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Visits {
    /// Times that it ran.
    pub runs: u64,
    /// Times that another than the next slot followed: of a conditional jump, that it jumped.
    pub jumps: u64,
}

/// What all runs of a program visited. Jumps are right when its runs are one after the other.
#[derive(Debug)]
pub(crate) struct Trace {
    slots: Vec<[AtomicU64; 2]>,
    /// The slot that ran last, of the run that goes on.
    last: AtomicUsize,
}

/// No slot.
const NONE: usize = usize::MAX - 1;

impl Trace {
    pub(crate) fn new(slots: usize) -> Result<Self, CompileError> {
        let mut all = Vec::new();
        all.try_reserve_exact(slots).map_err(|_| CompileError::NoMemory)?;
        all.resize_with(slots, Default::default);
        Ok(Self { slots: all, last: AtomicUsize::new(NONE) })
    }

    /// A run begins.
    pub(crate) fn begin(&self) {
        self.last.store(NONE, Relaxed);
    }

    /// The instruction in `slot` is about to run.
    pub(crate) fn visit(&self, slot: usize) {
        let last = self.last.swap(slot, Relaxed);
        if let Some([_, jumps]) = self.slots.get(last).filter(|_| last + 1 != slot) {
            jumps.fetch_add(1, Relaxed);
        }
        if let Some([runs, _]) = self.slots.get(slot) {
            runs.fetch_add(1, Relaxed);
        }
    }

    /// By slot.
    pub(crate) fn read(&self) -> impl Iterator<Item = Visits> {
        self.slots.iter().map(|[runs, jumps]| Visits { runs: runs.load(Relaxed), jumps: jumps.load(Relaxed) })
    }
}

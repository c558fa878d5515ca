//! Counting runs without processors getting in each other's way.

use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use tidegate_abi::Verdict;
use tidegate_abi::control::{Counters, Status};

use crate::memory::vector;
use crate::platform::Platform;
use crate::spin::Padded;

/// What is counted.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Count {
    /// A run that ended with this verdict.
    Verdict(Verdict),
    Error,
    BytesShown,
    Edited,
    Injected,
}

const VERDICTS: usize = Verdict::ALL.len();

impl Count {
    const fn index(self) -> usize {
        match self {
            Self::Verdict(verdict) => verdict as usize,
            Self::Error => VERDICTS,
            Self::BytesShown => VERDICTS + 1,
            Self::Edited => VERDICTS + 2,
            Self::Injected => VERDICTS + 3,
        }
    }
}

/// Counters, with cache lines of its own for each processor. Reading adds them up.
#[derive(Debug)]
pub(crate) struct Tally(Vec<Padded<[AtomicU64; VERDICTS + 4]>>);

impl Tally {
    pub(crate) fn new(platform: &Platform) -> Result<Self, Status> {
        Ok(Self(vector(platform.count(), Padded::default)?))
    }

    /// Adds `amount` on the current processor; gives back what there was. IRQL <= `DISPATCH_LEVEL`.
    pub(crate) fn add(&self, platform: &Platform, count: Count, amount: u64) -> u64 {
        let cell = self.0.get(platform.index()).and_then(|cells| cells.0.get(count.index()));
        cell.map_or(0, |cell| cell.fetch_add(amount, Relaxed))
    }

    /// Adds a run that was shown so many bytes; without a verdict it failed. `processor` should be the current one: what
    /// another one counts at the same time is not lost, only slow. Gives back how many like it there were on that processor.
    #[inline]
    pub(crate) fn add_run(&self, processor: u32, verdict: Option<Verdict>, bytes: usize) -> u64 {
        let Some(Padded(cells)) = self.0.get(processor as usize) else {
            return self.add_run_elsewhere(verdict, bytes);
        };
        let end = match verdict {
            Some(verdict) => Count::Verdict(verdict).index(),
            None => Count::Error.index(),
        };
        if let Some(cell) = cells.get(Count::BytesShown.index()) {
            cell.fetch_add(bytes as u64, Relaxed);
        }
        cells.get(end).map_or(0, |cell| cell.fetch_add(1, Relaxed))
    }

    /// On a processor that the system did not speak of.
    #[cold]
    #[inline(never)]
    fn add_run_elsewhere(&self, verdict: Option<Verdict>, bytes: usize) -> u64 {
        if self.0.is_empty() { 0 } else { self.add_run(0, verdict, bytes) }
    }

    /// The sums over all processors. Each is right on its own; together they may be of slightly different moments.
    pub(crate) fn read(&self) -> Counters {
        let sum = |count: Count| {
            let cells = self.0.iter().filter_map(|cells| cells.0.get(count.index()));
            cells.fold(0_u64, |sum, cell| sum.wrapping_add(cell.load(Relaxed)))
        };
        let verdicts = Verdict::ALL.map(|verdict| sum(Count::Verdict(verdict)));
        let errors = sum(Count::Error);
        Counters {
            runs: verdicts.iter().fold(errors, |runs, count| runs.wrapping_add(*count)),
            verdicts,
            errors,
            bytes_shown: sum(Count::BytesShown),
            edited: sum(Count::Edited),
            injected: sum(Count::Injected),
        }
    }
}

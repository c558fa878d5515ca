//! How long runs take: one of many is timed, so that all others pay next to nothing for it.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use tidegate_abi::Verdict;
use tidegate_abi::control::Times;
use tidegate_abi::limits::{TIME_CLASSES, TIME_SHIFT};

/// The times of a link's runs: by verdict, and last of those that failed.
#[derive(Debug, Default)]
pub(crate) struct Timing([Histogram; Verdict::ALL.len() + 1]);

#[derive(Debug, Default)]
struct Histogram {
    sum_ns: AtomicU64,
    runs: [AtomicU64; TIME_CLASSES],
}

impl Timing {
    fn of(&self, verdict: Option<Verdict>) -> Option<&Histogram> {
        self.0.get(verdict.map_or(Verdict::ALL.len(), |verdict| verdict as usize))
    }

    /// Adds a run that took so long. Any IRQL.
    pub(crate) fn add(&self, verdict: Option<Verdict>, ns: u64) {
        let Some(histogram) = self.of(verdict) else { return };
        histogram.sum_ns.fetch_add(ns, Relaxed);
        if let Some(runs) = histogram.runs.get(class(ns)) {
            runs.fetch_add(1, Relaxed);
        }
    }

    /// What was added. The numbers may be of slightly different moments.
    pub(crate) fn read(&self, verdict: Option<Verdict>) -> Times {
        let Some(Histogram { sum_ns, runs }) = self.of(verdict) else { return Times::default() };
        let mut times = Times { sum_ns: sum_ns.load(Relaxed), ..Times::default() };
        times.runs.iter_mut().zip(runs).for_each(|(to, from)| *to = from.load(Relaxed));
        times
    }
}

/// The class of a run that took so long.
fn class(ns: u64) -> usize {
    ((u64::BITS - (ns >> TIME_SHIFT).leading_zeros()) as usize).min(TIME_CLASSES - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_class_reaches_twice_as_far_as_the_one_before_and_the_last_has_the_rest() {
        for class_of in 0..TIME_CLASSES - 1 {
            let end = 1_u64 << (TIME_SHIFT as usize + class_of);
            assert_eq!((class(end - 1), class(end)), (class_of, class_of + 1));
        }
        assert_eq!((class(0), class(u64::MAX)), (0, TIME_CLASSES - 1));
    }

    #[test]
    fn what_was_added_is_read_by_verdict() {
        let timing = Timing::default();
        timing.add(Some(Verdict::Block), 300);
        timing.add(Some(Verdict::Block), 100);
        timing.add(None, 7);
        let mut runs = [0; TIME_CLASSES];
        (runs[0], runs[2]) = (1, 1);
        assert_eq!(timing.read(Some(Verdict::Block)), Times { sum_ns: 400, runs });
        assert_eq!(timing.read(Some(Verdict::Permit)), Times::default());
        assert_eq!(timing.read(None).sum_ns, 7);
    }
}

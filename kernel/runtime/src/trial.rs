//! Trials: another program in a link, beside the link's own (shadow) or in its place for a share of the flows (canary).

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use tidegate_abi::control::{self, Id, TrialInfo, TrialMode};
use tidegate_vm::Shared;

use crate::link::Link;

/// What is tried in a link.
#[derive(Clone, Debug)]
pub struct Trial {
    /// The link as it would be with the program that is tried. Its place is the one that the link had then.
    pub(crate) candidate: Shared<Link>,
    pub(crate) score: Shared<Score>,
}

/// How a shadow's run and the one of the link's own program compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// Both want the same.
    Agreed,
    /// Another verdict, or one on other bytes.
    Verdict,
    /// The same verdict, and other bytes come of it.
    Bytes,
    /// The shadow's run failed.
    Error,
}

impl Trial {
    /// The link with the program that is tried.
    pub fn candidate(&self) -> &Shared<Link> {
        &self.candidate
    }

    /// Whether the program runs beside the link's own.
    pub fn is_shadow(&self) -> bool {
        self.score.mode == TrialMode::Shadow
    }

    /// Whether the program runs in the place of the link's own for this flow; if so, the run is counted. `now` gives an id that is
    /// newer than all: it tells flows that the program had from those that come when it has none any more.
    pub fn stands_in(&self, flow: u64, now: impl FnOnce() -> Id) -> bool {
        if !self.score.share().has(flow) {
            return false;
        }
        match self.score.returned.load(Relaxed) {
            0 => {
                self.score.runs.fetch_add(1, Relaxed);
                self.score.weigh();
                true
            }
            UNNAMED => {
                let _ = self.score.returned.compare_exchange(UNNAMED, now(), Relaxed, Relaxed);
                false
            }
            _ => false,
        }
    }

    /// Whether a flow was the program's and is not any more: the link's own has not seen all of it.
    pub fn gave_back(&self, flow: u64, born: Id) -> bool {
        self.score.returned.load(Relaxed) > born && self.score.share().has(flow)
    }

    /// Counts a run of a shadow.
    pub fn count(&self, comparison: Comparison) {
        let score = &self.score;
        score.runs.fetch_add(1, Relaxed);
        let count = match comparison {
            Comparison::Agreed => &score.agreed,
            Comparison::Verdict => &score.verdicts,
            Comparison::Bytes => &score.bytes,
            Comparison::Error => &score.errors,
        };
        count.fetch_add(1, Relaxed);
    }

    /// Counts a run of a shadow that there was no memory for.
    pub fn count_missed(&self) {
        self.score.missed.fetch_add(1, Relaxed);
    }

    pub(crate) fn info(&self) -> TrialInfo {
        let score = &self.score;
        let [runs, agreed, verdicts, bytes, errors, missed] =
            [&score.runs, &score.agreed, &score.verdicts, &score.bytes, &score.errors, &score.missed]
                .map(|count| count.load(Relaxed));
        TrialInfo {
            trial: control::Trial { program: self.candidate.program.id, mode: score.mode },
            runs,
            agreed,
            verdicts,
            bytes,
            errors,
            missed,
            returned: score.returned.load(Relaxed) != 0,
        }
    }
}

/// What came of a trial so far.
#[derive(Debug)]
pub(crate) struct Score {
    pub(crate) mode: TrialMode,
    runs: AtomicU64,
    agreed: AtomicU64,
    verdicts: AtomicU64,
    bytes: AtomicU64,
    errors: AtomicU64,
    missed: AtomicU64,
    /// 0: it goes on. Else an id that was new when all flows went back to the link's own program.
    returned: AtomicU32,
}

/// Flows went back, and there is no id for that moment yet.
const UNNAMED: Id = Id::MAX;

impl Score {
    pub(crate) const fn new(mode: TrialMode) -> Self {
        Self {
            mode,
            runs: AtomicU64::new(0),
            agreed: AtomicU64::new(0),
            verdicts: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            missed: AtomicU64::new(0),
            returned: AtomicU32::new(0),
        }
    }

    /// The flows that a canary has.
    pub(crate) const fn share(&self) -> Share {
        match self.mode {
            TrialMode::Shadow => Share::NONE,
            TrialMode::Canary { percent, .. } => Share { percent },
        }
    }

    /// Counts a run of a canary that failed.
    pub(crate) fn count_error(&self) {
        self.errors.fetch_add(1, Relaxed);
        self.weigh();
    }

    /// Gives all flows back when too many runs failed.
    fn weigh(&self) {
        let TrialMode::Canary { max_errors, min_runs, .. } = self.mode else { return };
        let (runs, errors) = (self.runs.load(Relaxed), self.errors.load(Relaxed));
        let most = runs.saturating_mul(u64::from(max_errors));
        if runs >= u64::from(min_runs) && errors.saturating_mul(1_000) > most {
            let _ = self.returned.compare_exchange(0, UNNAMED, Relaxed, Relaxed);
        }
    }
}

/// A share of all flows, by their numbers: a larger one has those of a smaller one too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Share {
    percent: u8,
}

impl Share {
    pub(crate) const NONE: Self = Self { percent: 0 };

    /// Whether a flow is one of them. Numbers that follow each other are spread (SplitMix64).
    pub(crate) fn has(self, flow: u64) -> bool {
        let mixed = (flow ^ flow >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed >> 32) * 100) >> 32 < u64::from(self.percent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_as_large_as_it_says_and_a_larger_one_has_all_of_a_smaller_one() {
        for flows in [0..10_000, 1 << 40..(1 << 40) + 10_000] {
            for percent in [0, 1, 10, 50, 99, 100] {
                let share = Share { percent };
                let has = flows.clone().filter(|flow| share.has(*flow)).count();
                let expected = 100 * usize::from(percent);
                assert!(
                    has.abs_diff(expected) <= if matches!(percent, 0 | 100) { 0 } else { 200 },
                    "{percent}: {has}"
                );
                let more = Share { percent: percent + 1 };
                assert!(flows.clone().all(|flow| !share.has(flow) || more.has(flow)));
            }
        }
    }

    #[test]
    fn a_canary_goes_on_while_no_more_runs_fail_than_may_and_until_there_are_enough() {
        let canary =
            |max_errors, min_runs| Score::new(TrialMode::Canary { percent: 100, max_errors, min_runs });
        let play = |score: &Score, runs: &[bool]| {
            for failed in runs {
                score.runs.fetch_add(1, Relaxed);
                score.weigh();
                if *failed {
                    score.count_error();
                }
            }
            score.returned.load(Relaxed) != 0
        };
        assert!(!play(&canary(0, 1), &[false; 50]));
        assert!(play(&canary(0, 1), &[true]));
        assert!(!play(&canary(0, 3), &[true, true]), "too few to tell");
        assert!(play(&canary(0, 3), &[true, false, false]), "told when there are enough");
        assert!(!play(&canary(500, 2), &[false, true, false, true]), "half of them may fail");
        assert!(play(&canary(499, 2), &[false, true]));
        assert!(!play(&canary(1_000, 1), &[true; 50]), "all of them may fail");
    }
}

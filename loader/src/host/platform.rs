//! The machine under a runtime: each thread has a clock, which stands until its owner moves it, so that a run repeats; under live
//! traffic it runs.

use std::cell::Cell;
use std::time::{Duration, Instant};

use tidegate_runtime::Platform;

/// Nanoseconds since the start of a machine that nobody told anything else: policies may take 0 for "never".
pub const START: u64 = 3_600_000_000_000;

/// Where the random numbers of a machine start.
const SEED: u64 = 1;

/// The clock of a thread's machines.
#[derive(Clone, Copy)]
struct Clock {
    /// What it shows, or what it showed when it began to run.
    shows: u64,
    runs_since: Option<Instant>,
}

impl Clock {
    const STANDING: Self = Self { shows: START, runs_since: None };

    fn now(self) -> u64 {
        self.shows.saturating_add(self.runs_since.map_or(0, |since| nanoseconds(since.elapsed())))
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

thread_local! {
    static CLOCK: Cell<Clock> = const { Cell::new(Clock::STANDING) };
    static RANDOM: Cell<u64> = const { Cell::new(SEED) };
}

fn now() -> u64 {
    CLOCK.get().now()
}

fn set(shows: u64) {
    let runs_since = CLOCK.get().runs_since.map(|_| Instant::now());
    CLOCK.set(Clock { shows, runs_since });
}

/// Has the clock of this thread's machines run by itself from now on, as the world's does.
pub(super) fn run_clock() {
    CLOCK.set(Clock { shows: now(), runs_since: Some(Instant::now()) });
}

/// Sets the clock of this thread's machines to `since_start` behind their start. The clock of a machine never runs
/// backwards: an earlier time leaves it where it is.
pub fn set_time(since_start: Duration) {
    set(now().max(START.saturating_add(nanoseconds(since_start))));
}

/// Starts this thread's machines anew, with a clock that stands: what one run saw of time and chance, the next one sees again. None
/// may be at work.
pub(super) fn restart() {
    CLOCK.set(Clock::STANDING);
    RANDOM.set(SEED);
}

/// Lets time pass for this thread's machines.
pub fn pass_time(time: Duration) {
    set(now().saturating_add(nanoseconds(time)));
}

/// A machine with one processor, which every thread takes for its own.
pub fn platform() -> Platform {
    Platform {
        now_ns: now,
        // Weyl's sequence: good enough to spread the keys of a map.
        random: || {
            RANDOM.set(RANDOM.get().wrapping_add(0x9e37_79b9_7f4a_7c15));
            RANDOM.get()
        },
        processor: || 0,
        processors: 1,
        raise: || 0,
        enter: || (0, 0),
        lower: |_| {},
        wake: || {},
    }
}

//! The machine under a runtime, so that a run repeats: each thread has a clock that only its owner moves.

use std::cell::Cell;
use std::time::Duration;

use tidegate_runtime::Platform;

/// Nanoseconds since the start of a machine that nobody told anything else: policies may take 0 for "never".
pub const START: u64 = 3_600_000_000_000;

/// Where the random numbers of a machine start.
const SEED: u64 = 1;

thread_local! {
    static NOW: Cell<u64> = const { Cell::new(START) };
    static RANDOM: Cell<u64> = const { Cell::new(SEED) };
}

/// Sets the clock of this thread's machines to `since_start` behind their start. The clock of a machine never runs
/// backwards: an earlier time leaves it where it is.
pub fn set_time(since_start: Duration) {
    let nanoseconds = u64::try_from(since_start.as_nanos()).unwrap_or(u64::MAX);
    NOW.set(NOW.get().max(START.saturating_add(nanoseconds)));
}

/// Starts this thread's machines anew: what one run saw of time and chance, the next one sees again. None may be at work.
pub(super) fn restart() {
    NOW.set(START);
    RANDOM.set(SEED);
}

/// Lets time pass for this thread's machines.
pub fn pass_time(time: Duration) {
    let nanoseconds = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    NOW.set(NOW.get().saturating_add(nanoseconds));
}

/// A machine with one processor, which every thread takes for its own.
pub fn platform() -> Platform {
    Platform {
        now_ns: || NOW.get(),
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

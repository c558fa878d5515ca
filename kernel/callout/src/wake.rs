//! One worker for all that waits: whoever wakes it has it look again, and it never runs twice at a time.
//!
//! What is done before [`Wake::wake`] is seen by a look that begins after it. The work item that runs the worker may be queued
//! again as soon as it has started, so that two of them can run at once: the second leaves its look to the first.

use crate::atomic::{AtomicBool, AtomicU32, Ordering};

/// Whether there is something to look at, and who looks.
pub(crate) struct Wake {
    /// A run is wanted and has not started.
    queued: AtomicBool,
    /// Runs that are wanted or have not ended.
    outstanding: AtomicU32,
    /// There is something that no look has seen.
    again: AtomicBool,
    /// A run looks.
    busy: AtomicBool,
}

impl Wake {
    /// Asleep.
    pub(crate) fn new() -> Self {
        Self {
            queued: AtomicBool::new(false),
            outstanding: AtomicU32::new(0),
            again: AtomicBool::new(false),
            busy: AtomicBool::new(false),
        }
    }

    /// Whether it was not woken since its last look, and does not run.
    pub(crate) fn is_idle(&self) -> bool {
        self.outstanding.load(Ordering::Acquire) == 0
    }

    /// There is something to look at. True when the caller must have [`Wake::run`] called, once.
    #[must_use]
    pub(crate) fn wake(&self) -> bool {
        let starts = !self.queued.swap(true, Ordering::AcqRel);
        if starts {
            self.outstanding.fetch_add(1, Ordering::AcqRel);
        }
        starts
    }

    /// Looks as often as there is something to look at, unless another run does.
    pub(crate) fn run(&self, mut look: impl FnMut()) {
        // From here on another run may be wanted. Swaps, not stores, here and below: each must see, and pass on, what those had
        // done whose word it writes over.
        self.queued.swap(false, Ordering::AcqRel);
        self.again.swap(true, Ordering::AcqRel);
        while self.again.load(Ordering::Acquire) && !self.busy.swap(true, Ordering::AcqRel) {
            while self.again.swap(false, Ordering::AcqRel) {
                look();
            }
            self.busy.swap(false, Ordering::AcqRel);
        }
        self.outstanding.fetch_sub(1, Ordering::AcqRel);
    }
}

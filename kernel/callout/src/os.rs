//! What differs by platform and is not WFP, on std: what a [`Runtime`](tidegate_runtime::Runtime) and its callouts need in
//! tests where the driver has ntoskrnl (`os` of `kernel/driver/sys`).

use std::cell::Cell;
use std::hash::{BuildHasher, RandomState};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Instant;

use tidegate_runtime::Platform;

/// This process as a platform. Threads stand for processors; there are no interrupt levels.
pub(crate) fn platform() -> Platform {
    Platform {
        now_ns,
        random,
        processor,
        processors: processors(),
        raise: || 0,
        enter: || (0, processor()),
        lower: |_| {},
        wake: || {},
    }
}

fn now_ns() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    START.get_or_init(Instant::now).elapsed().as_nanos() as u64
}

fn random() -> u64 {
    RandomState::new().hash_one(0)
}

/// As many as the machine has, and at least so many as tests have threads: no interrupt level keeps one that is in the
/// middle of a classify from losing its processor to the next.
fn processors() -> u32 {
    static COUNT: OnceLock<u32> = OnceLock::new();
    *COUNT.get_or_init(|| thread::available_parallelism().map_or(1, |count| count.get() as u32).max(8))
}

/// Threads are dealt out to processors in turn.
fn processor() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    std::thread_local! {
        // As cheap to read as a processor's own number is in a kernel.
        static OWN: Cell<u32> = const { Cell::new(u32::MAX) };
    }
    if OWN.get() == u32::MAX {
        OWN.set(NEXT.fetch_add(1, Ordering::Relaxed) % processors());
    }
    OWN.get()
}

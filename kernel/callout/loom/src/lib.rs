//! The orders that threads can run in, and the values that a processor may still see, for what the callouts share without a lock. The sources are the callouts' own; the atomics under them are loom's.
#![cfg(test)]

extern crate alloc;

mod atomic {
    pub(crate) use loom::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering, fence};
}

#[path = "../../../vm/src/shared.rs"]
#[expect(unsafe_code, reason = "owners are counted")]
#[allow(dead_code, unreachable_pub, reason = "a module of another crate, of which this shows a part")]
mod shared;
#[path = "../../src/wake.rs"]
mod wake;

use std::ptr::NonNull;

use loom::sync::Arc;
use loom::thread;

use crate::atomic::{AtomicBool, AtomicU32, Ordering};
use crate::shared::{Lent, Shared};
use crate::wake::Wake;

/// What wakers leave for the worker, and what it has seen.
struct Job {
    wake: Wake,
    left: [AtomicBool; 2],
    seen: [AtomicBool; 2],
    looking: AtomicBool,
}

impl Job {
    /// Leaves something and wakes the worker, whose run is this thread's if one is wanted.
    fn wake(&self, at: usize) {
        self.left[at].store(true, Ordering::Relaxed);
        if self.wake.wake() {
            self.run();
        }
    }

    fn run(&self) {
        self.wake.run(|| {
            assert!(!self.looking.swap(true, Ordering::Relaxed), "two look at once");
            for (left, seen) in self.left.iter().zip(&self.seen) {
                if left.load(Ordering::Relaxed) {
                    seen.store(true, Ordering::Relaxed);
                }
            }
            self.looking.store(false, Ordering::Relaxed);
        });
    }
}

/// Runs `body` in every order of its threads that has at most three switches which nobody waits for. All orders took 42
/// seconds once, and found no more.
fn model(body: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(body);
}

#[test]
fn whoever_wakes_the_worker_is_seen_and_by_one_look_at_a_time() {
    model(|| {
        let flags = || [AtomicBool::new(false), AtomicBool::new(false)];
        let job = Job { wake: Wake::new(), left: flags(), seen: flags(), looking: AtomicBool::new(false) };
        let job = Arc::new(job);
        let other = {
            let job = Arc::clone(&job);
            thread::spawn(move || job.wake(1))
        };
        job.wake(0);
        other.join().unwrap();
        assert!(job.wake.is_idle());
        for seen in &job.seen {
            assert!(seen.load(Ordering::Relaxed), "somebody was not seen");
        }
    });
}

/// Says when it goes.
struct Value {
    dropped: Arc<AtomicU32>,
    written: [AtomicBool; 2],
}

impl Drop for Value {
    fn drop(&mut self) {
        for written in &self.written {
            assert!(written.load(Ordering::Relaxed), "what an owner did comes after the end");
        }
        self.dropped.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn a_shared_value_goes_once_behind_all_that_its_owners_did() {
    model(|| {
        let dropped = Arc::new(AtomicU32::new(0));
        let written = [AtomicBool::new(false), AtomicBool::new(false)];
        let value = Shared::new(Value { dropped: Arc::clone(&dropped), written }).expect("memory");
        let other = value.clone();
        let thread = thread::spawn(move || {
            let raw = Shared::into_raw(other);
            let raw = NonNull::new(raw.cast_mut()).unwrap();
            // SAFETY: the owner of the lines above lives.
            let more = unsafe { Lent::from_raw(raw) }.share();
            // SAFETY: that owner.
            let other = unsafe { Shared::from_raw(raw) };
            assert_eq!(Shared::as_ptr(&other), raw.as_ptr().cast_const());
            drop(other);
            more.written[1].store(true, Ordering::Relaxed);
        });
        value.written[0].store(true, Ordering::Relaxed);
        drop(value);
        thread.join().unwrap();
        assert_eq!(dropped.load(Ordering::Relaxed), 1);
    });
}

//! The worker, at PASSIVE_LEVEL: it injects what may not be injected from classify. TCP packets of the transport layers, since
//! the stack holds its locks while it classifies; and what was kept back of streams.

use core::ffi::c_void;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use fwps_sys::{HANDLE, IoQueueWorkItem};
use tidegate_runtime::{Platform, Spin};

use crate::engine::Engine;
use crate::held;
use crate::injection::SendList;
use crate::shared::Shared;

/// `DelayedWorkQueue`.
const DELAYED: i32 = 1;

/// A work item, and the packets that wait for it.
pub(crate) struct Worker {
    sends: Spin<SendList>,
    /// The work item is queued and has not started.
    queued: AtomicBool,
    /// Runs that are queued or have not ended.
    outstanding: AtomicU32,
    /// There is work that no run has seen.
    again: AtomicBool,
    /// Only one run works at a time, so that what it injects keeps its order.
    busy: spin::Mutex<()>,
    work_item: HANDLE,
}

impl Worker {
    /// Without work; `work_item` runs it.
    pub(crate) const fn new(work_item: HANDLE) -> Self {
        Self {
            sends: Spin::new(SendList::new()),
            queued: AtomicBool::new(false),
            outstanding: AtomicU32::new(0),
            again: AtomicBool::new(false),
            busy: spin::Mutex::new(()),
            work_item,
        }
    }

    /// True when nothing waits and it does not run. Stays so when no classify runs any more.
    pub(crate) fn is_idle(&self) -> bool {
        self.outstanding.load(Ordering::Acquire) == 0
    }

    /// Injects packets later, behind those that wait. IRQL <= DISPATCH_LEVEL.
    pub(crate) fn send(&self, engine: &Shared<Engine>, packets: SendList) {
        self.sends.with(&engine.platform, |sends| sends.append(packets));
        self.wake(engine);
    }

    /// An endpoint closes: what waits to be sent from it has lost its sender. IRQL <= DISPATCH_LEVEL.
    ///
    /// A packet that the worker holds in its hands at this moment is injected, and the system's to refuse.
    pub(crate) fn orphan(&self, endpoint: u64, platform: &Platform) {
        self.sends.with(platform, |sends| sends.orphan(endpoint));
    }

    /// Has it look at everything that waits, soon. IRQL <= DISPATCH_LEVEL.
    pub(crate) fn wake(&self, engine: &Shared<Engine>) {
        if !self.queued.swap(true, Ordering::AcqRel) {
            self.outstanding.fetch_add(1, Ordering::AcqRel);
            let context = Shared::into_raw(Shared::clone(engine)).cast_mut().cast();
            // SAFETY: the item is freed only when the worker is idle, and `queued` says that it is not in the system's queue.
            unsafe { IoQueueWorkItem(self.work_item, Some(work), DELAYED, context) };
        }
    }
}

/// The work item's routine.
///
/// # Safety
/// `context` is what [`Worker::wake`] gave.
unsafe extern "system" fn work(_device: *mut c_void, context: *mut c_void) {
    let Some(engine) = NonNull::new(context.cast::<Engine>()) else { return };
    // SAFETY: the reference that `wake` gave away.
    let engine = unsafe { Shared::from_raw(engine) };
    let worker = &engine.worker;
    // From here on the item may be queued again; what came before this is seen below. A swap, since it must see what those
    // who found `queued` set had done.
    worker.queued.swap(false, Ordering::AcqRel);
    worker.again.store(true, Ordering::Release);
    while worker.again.load(Ordering::Acquire) {
        // Another run is at it: it looks again before it ends.
        let Some(busy) = worker.busy.try_lock() else { break };
        while worker.again.swap(false, Ordering::AcqRel) {
            send_all(&engine);
            held::work(&engine);
        }
        drop(busy);
    }
    worker.outstanding.fetch_sub(1, Ordering::AcqRel);
}

/// Injects the packets that wait.
fn send_all(engine: &Engine) {
    while let Some(packet) = engine.worker.sends.with(&engine.platform, SendList::pop) {
        if !packet.send() {
            // The original is gone: TCP sends its bytes again, and they are classified again.
            engine.counters.lost.add();
        }
    }
}

//! The worker, at PASSIVE_LEVEL: it injects what may not be injected from classify. TCP packets of the transport layers, since
//! the stack holds its locks while it classifies; and what was kept back of streams.

use core::ffi::c_void;
use core::ptr::NonNull;

use fwps_sys::{HANDLE, IoQueueWorkItem};
use tidegate_runtime::{Platform, Spin};
use tidegate_vm::{Lent, Shared};

use crate::engine::Engine;
use crate::held;
use crate::injection::SendList;
use crate::wake::Wake;

/// `DelayedWorkQueue`.
const DELAYED: i32 = 1;

/// A work item, and the packets that wait for it.
pub(crate) struct Worker {
    sends: Spin<SendList>,
    wake: Wake,
    work_item: HANDLE,
}

impl Worker {
    /// Without work; `work_item` runs it.
    pub(crate) fn new(work_item: HANDLE) -> Self {
        Self { sends: Spin::new(SendList::new()), wake: Wake::new(), work_item }
    }

    /// True when nothing waits and it does not run. Stays so when no classify runs any more.
    pub(crate) fn is_idle(&self) -> bool {
        self.wake.is_idle()
    }

    /// Injects packets later, behind those that wait. IRQL <= DISPATCH_LEVEL.
    pub(crate) fn send(&self, engine: Lent<'_, Engine>, packets: SendList) {
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
    pub(crate) fn wake(&self, engine: Lent<'_, Engine>) {
        if self.wake.wake() {
            let context = Shared::into_raw(engine.share()).cast_mut().cast();
            // SAFETY: the item is freed only when the worker is idle, and `wake` says that it is not in the system's queue.
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
    engine.worker.wake.run(|| {
        send_all(&engine);
        held::work(engine.lend());
    });
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

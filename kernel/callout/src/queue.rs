//! TCP packets on their way out of classify: injected by a worker at PASSIVE_LEVEL, since the stack holds its TCP locks while
//! it classifies.

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::ffi::c_void;
use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, Ordering};

use fwps_sys::{HANDLE, IoQueueWorkItem};

use crate::engine::Engine;
use crate::injection::{SendInjection, SendList};

/// `DelayedWorkQueue`.
const DELAYED: i32 = 1;

/// The packets that wait. Any processor puts them in without a lock, the worker takes them all at once.
pub(crate) struct SendQueue {
    /// The last one in; they are linked by `next`.
    head: AtomicPtr<SendInjection>,
    /// The work item is queued and has not started.
    queued: AtomicBool,
    /// Runs of the worker that are queued or have not ended.
    outstanding: AtomicU32,
    work_item: HANDLE,
}

impl SendQueue {
    /// An empty queue that is worked off by `work_item`.
    pub(crate) const fn new(work_item: HANDLE) -> Self {
        Self {
            head: AtomicPtr::new(ptr::null_mut()),
            queued: AtomicBool::new(false),
            outstanding: AtomicU32::new(0),
            work_item,
        }
    }

    /// True when nothing waits and no worker runs. Stays so when no classify runs any more.
    pub(crate) fn is_idle(&self) -> bool {
        self.outstanding.load(Ordering::Acquire) == 0
    }

    fn push(&self, packet: Box<SendInjection>) {
        let packet = Box::into_raw(packet);
        let mut head = self.head.load(Ordering::Relaxed);
        loop {
            // SAFETY: the packet is ours until the exchange publishes it.
            unsafe { (*packet).next = head };
            match self.head.compare_exchange_weak(head, packet, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => return,
                Err(now) => head = now,
            }
        }
    }

    /// Every packet that waits, the first one in in front.
    fn take(&self) -> SendList {
        let head = self.head.swap(ptr::null_mut(), Ordering::Acquire);
        // SAFETY: `push` linked live packets, and the swap made them ours.
        unsafe { SendList::from_raw(head) }.reversed()
    }
}

impl Drop for SendQueue {
    fn drop(&mut self) {
        drop(self.take());
    }
}

/// Hands packets to the worker, in the order that they leave in. IRQL <= DISPATCH_LEVEL.
pub(crate) fn send_later(engine: &Arc<Engine>, mut packets: SendList) {
    let queue = &engine.sends;
    while let Some(packet) = packets.pop() {
        queue.push(packet);
    }
    if !queue.queued.swap(true, Ordering::AcqRel) {
        queue.outstanding.fetch_add(1, Ordering::AcqRel);
        let context = Arc::into_raw(Arc::clone(engine)).cast_mut().cast();
        // SAFETY: the item is freed only when the queue is idle, and `queued` says that it is not in the system's queue.
        unsafe { IoQueueWorkItem(queue.work_item, Some(work), DELAYED, context) };
    }
}

/// The worker: injects what waits.
///
/// # Safety
/// `context` is what [`send_later`] gave.
unsafe extern "system" fn work(_device: *mut c_void, context: *mut c_void) {
    // SAFETY: the reference that `send_later` gave away.
    let engine = unsafe { Arc::from_raw(context.cast_const().cast::<Engine>()) };
    // From here on the item may be queued again; what is pushed before this is taken below. A swap, since it must see what
    // those who found `queued` set had pushed.
    engine.sends.queued.swap(false, Ordering::AcqRel);
    let mut packets = engine.sends.take();
    while let Some(packet) = packets.pop() {
        if !packet.send() {
            // The original is gone: TCP sends its bytes again, and they are classified again.
            engine.counters.lost.add();
        }
    }
    engine.sends.outstanding.fetch_sub(1, Ordering::AcqRel);
}

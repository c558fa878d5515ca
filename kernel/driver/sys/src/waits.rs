//! Requests for events that wait: a cancel-safe queue, and the worker that answers them.
//!
//! The queue's lock and the races with cancellation are the system's (`IoCsq`); the callbacks here only link and unlink. A
//! request that waits notes what it asks for in its own driver context, so that waiting allocates nothing.

use core::ffi::c_void;
use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

use fwps_sys::NTSTATUS;
use tidegate_abi::control::{self, EventRead, Request};
use tidegate_driver::request;
use tidegate_runtime::{Runtime, Shared};
use wdk_sys::ntddk::{
    IoCsqInitializeEx, IoCsqInsertIrpEx, IoCsqRemoveNextIrp, KeAcquireSpinLockRaiseToDpc, KeReleaseSpinLock,
};
use wdk_sys::{FILE_OBJECT, IO_CSQ, IRP, KIRQL, KSPIN_LOCK, LIST_ENTRY, PIRP, PVOID};

use crate::irp::Irp;
use crate::work::Work;

/// Who is woken when there are events. Set while callouts may run.
static WAKE: AtomicPtr<Waits> = AtomicPtr::new(ptr::null_mut());

/// The requests that wait. It does not move: the queue and its links point into it.
#[repr(C)]
pub(crate) struct Waits {
    queue: IO_CSQ,
    lock: KSPIN_LOCK,
    list: LIST_ENTRY,
    /// Requests in the list.
    count: AtomicU32,
    most: u32,
    runtime: Shared<Runtime>,
    work: Work,
}

impl Waits {
    /// Makes the queue at `place`. PASSIVE_LEVEL.
    ///
    /// # Safety
    /// The place is as large and aligned as this type, is not moved, and is given back by [`Waits::end`].
    pub(crate) unsafe fn begin(
        place: *mut Self,
        device: *mut c_void,
        runtime: Shared<Runtime>,
        most: u32,
    ) -> Result<(), NTSTATUS> {
        let work = Work::new(device, Some(serve))?;
        let list = LIST_ENTRY { Flink: ptr::null_mut(), Blink: ptr::null_mut() };
        let waits =
            Self { queue: IO_CSQ::default(), lock: 0, list, count: AtomicU32::new(0), most, runtime, work };
        // SAFETY: the caller's place.
        unsafe { place.write(waits) };
        // SAFETY: just written; the links of an empty list point at itself.
        let list = unsafe { &raw mut (*place).list };
        // SAFETY: as above.
        unsafe { *list = LIST_ENTRY { Flink: list, Blink: list } };
        // SAFETY: the queue lives in its place until `end`, and the callbacks find the rest around it.
        let status = unsafe {
            IoCsqInitializeEx(
                &raw mut (*place).queue,
                Some(insert),
                Some(remove),
                Some(peek),
                Some(acquire),
                Some(release),
                Some(cancelled),
            )
        };
        if status != 0 {
            // SAFETY: written above, and given back to the caller as bytes.
            unsafe { place.drop_in_place() };
            return Err(NTSTATUS(status));
        }
        WAKE.store(place, Ordering::Release);
        Ok(())
    }

    /// Ends it: nothing wakes it any more, and every handle is closed. PASSIVE_LEVEL.
    ///
    /// # Safety
    /// [`Waits::begin`] made it, and no callout can run.
    pub(crate) unsafe fn end(place: *mut Self) {
        WAKE.store(ptr::null_mut(), Ordering::Release);
        // SAFETY: the caller's promise. A handle's close took its requests, so that none is left.
        unsafe { (*place).cancel_all(ptr::null_mut()) };
        // SAFETY: as above. Dropping the work waits for its routine.
        unsafe { place.drop_in_place() };
    }

    /// Puts a request into the queue, and has the worker look at once. The answer to the I/O manager is `PENDING`, whatever
    /// becomes of the request.
    pub(crate) fn wait(&self, irp: Irp, message: &[u8]) -> NTSTATUS {
        irp.mark_pending();
        let Ok(Request::EventRead(EventRead { map, max })) = Request::parse(message) else {
            irp.complete(NTSTATUS::INVALID_PARAMETER, 0);
            return NTSTATUS::PENDING;
        };
        *irp.note() = u64::from(map) << 32 | u64::from(max);
        self.queue(irp);
        self.kick();
        NTSTATUS::PENDING
    }

    fn queue(&self, irp: Irp) {
        let queue = (&raw const self.queue).cast_mut();
        // SAFETY: the queue is initialised; the request is ours and becomes the queue's.
        let status = unsafe { IoCsqInsertIrpEx(queue, irp.as_ptr(), ptr::null_mut(), ptr::null_mut()) };
        if status != 0 {
            // `insert` refused it: it is still ours.
            irp.complete(NTSTATUS(status), 0);
        }
    }

    /// Takes a request out: any, or one of a handle. The queue skips those that are being cancelled.
    fn take(&self, file: *mut FILE_OBJECT) -> Option<Irp> {
        let queue = (&raw const self.queue).cast_mut();
        // SAFETY: the queue is initialised; what it gives is ours.
        let irp = unsafe { IoCsqRemoveNextIrp(queue, file.cast()) };
        // SAFETY: as above.
        (!irp.is_null()).then(|| unsafe { Irp::new(irp) })
    }

    /// Ends the requests of a handle; of all when it is NULL. May be called again, with nothing left to do.
    pub(crate) fn cancel_all(&self, file: *mut FILE_OBJECT) {
        while let Some(irp) = self.take(file) {
            irp.complete(NTSTATUS::CANCELLED, 0);
        }
    }

    fn kick(&self) {
        self.work.kick(ptr::from_ref(self).cast_mut().cast());
    }

    /// Answers every request that can be answered, each once. PASSIVE_LEVEL.
    fn serve(&self) {
        for _ in 0..self.count.load(Ordering::Acquire) {
            let Some(irp) = self.take(ptr::null_mut()) else { return };
            let (_, lengths) = irp.device_control();
            let noted = *irp.note();
            let mut message = [0; 32];
            let request = EventRead { map: (noted >> 32) as u32, max: noted as u32 };
            let length = control::write_request(&request, &mut message).unwrap_or(0);
            // SAFETY: the request is ours again, and was found to be a buffered one.
            let buffer = unsafe { irp.buffer(lengths) };
            let reply = buffer.get_mut(..lengths.output).unwrap_or_default();
            let bytes = self.runtime.handle(message.get(..length).unwrap_or_default(), reply);
            if request::is_empty(reply.get(..bytes).unwrap_or_default()) {
                self.queue(irp);
            } else {
                irp.complete(NTSTATUS::SUCCESS, bytes);
            }
        }
    }
}

/// Tells the worker that there may be events. IRQL <= DISPATCH_LEVEL; costs a load while nobody waits.
pub(crate) fn wake() {
    // SAFETY: it is set while callouts run, and only they have programs run.
    let Some(waits) = (unsafe { WAKE.load(Ordering::Acquire).as_ref() }) else { return };
    if waits.count.load(Ordering::Acquire) != 0 {
        waits.kick();
    }
}

/// # Safety
/// `context` is what [`Waits::kick`] gave.
unsafe extern "system" fn serve(_device: *mut c_void, context: *mut c_void) {
    // SAFETY: the work is drained before the place goes.
    let waits = unsafe { &*context.cast::<Waits>() };
    waits.work.begun();
    waits.serve();
    waits.work.ended();
}

/// The queue's own [`Waits`].
fn waits(queue: *mut IO_CSQ) -> *mut Waits {
    // The queue is the first member.
    queue.cast()
}

/// # Safety
/// The queue calls it, with its lock held.
unsafe extern "C" fn insert(queue: *mut IO_CSQ, irp: PIRP, _: PVOID) -> i32 {
    // SAFETY: the queue lies in its `Waits`; count and bound are read, the list is ours under the lock.
    let (waits, irp) = unsafe { (&mut *waits(queue), Irp::new(irp)) };
    // A handle may be closed while the worker has its request in hand.
    if irp.is_file_closed() {
        return NTSTATUS::CANCELLED.0;
    }
    if waits.count.load(Ordering::Relaxed) >= waits.most {
        return NTSTATUS::DEVICE_BUSY.0;
    }
    let (links, list) = (irp.links(), &raw mut waits.list);
    let last = waits.list.Blink;
    // SAFETY: the request becomes the queue's; the list's links are valid under the lock.
    unsafe {
        *links = LIST_ENTRY { Flink: list, Blink: last };
        (*last).Flink = links;
    }
    waits.list.Blink = links;
    waits.count.fetch_add(1, Ordering::AcqRel);
    0
}

/// # Safety
/// As [`insert`]; the request is in the list.
unsafe extern "C" fn remove(queue: *mut IO_CSQ, irp: PIRP) {
    // SAFETY: the request is linked, and the list is ours under the lock.
    unsafe {
        let links = Irp::new(irp).links();
        let LIST_ENTRY { Flink: next, Blink: last } = *links;
        (*last).Flink = next;
        (*next).Blink = last;
        (*waits(queue)).count.fetch_sub(1, Ordering::AcqRel);
    }
}

/// # Safety
/// As [`insert`]; `from` is NULL or in the list, `context` is NULL or a handle's file object.
unsafe extern "C" fn peek(queue: *mut IO_CSQ, from: PIRP, context: PVOID) -> PIRP {
    // SAFETY: only the address is taken.
    let list = unsafe { &raw mut (*waits(queue)).list };
    // SAFETY: the links of the list and of requests in it are valid under the lock.
    let mut next = unsafe { if from.is_null() { (*list).Flink } else { (*Irp::new(from).links()).Flink } };
    while next != list {
        // SAFETY: what is linked here are requests.
        let irp = unsafe { Irp::of_links(next) };
        if context.is_null() || irp.file().cast::<c_void>() == context {
            return irp.as_ptr();
        }
        // SAFETY: as above.
        next = unsafe { (*next).Flink };
    }
    ptr::null_mut::<IRP>()
}

/// # Safety
/// The queue calls it.
unsafe extern "C" fn acquire(queue: *mut IO_CSQ, irql: *mut KIRQL) {
    // SAFETY: the lock lives with the queue.
    unsafe { *irql = KeAcquireSpinLockRaiseToDpc(&raw mut (*waits(queue)).lock) };
}

/// # Safety
/// The queue calls it, after [`acquire`].
unsafe extern "C" fn release(queue: *mut IO_CSQ, irql: KIRQL) {
    // SAFETY: held since `acquire`.
    unsafe { KeReleaseSpinLock(&raw mut (*waits(queue)).lock, irql) };
}

/// # Safety
/// The queue calls it for a request that it took out.
unsafe extern "C" fn cancelled(_: *mut IO_CSQ, irp: PIRP) {
    // SAFETY: out of the queue it is ours.
    unsafe { Irp::new(irp) }.complete(NTSTATUS::CANCELLED, 0);
}

//! Cancel-safe queues of IRPs, which Wine has as stubs.
#![expect(unreachable_pub, reason = "symbols under the names of the DDI")]

use std::ffi::c_void;
use std::mem::offset_of;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicPtr, Ordering};

use fwps_sim::irql::DISPATCH_LEVEL;
use fwps_sys::NTSTATUS;

use crate::police::{at_most, violate};

/// `IO_CSQ`.
#[repr(C)]
pub struct IoCsq {
    kind: u32,
    insert: Option<unsafe extern "system" fn(*mut IoCsq, *mut Irp)>,
    remove: Option<unsafe extern "system" fn(*mut IoCsq, *mut Irp)>,
    peek_next: Option<unsafe extern "system" fn(*mut IoCsq, *mut Irp, *mut c_void) -> *mut Irp>,
    acquire: Option<unsafe extern "system" fn(*mut IoCsq, *mut u8)>,
    release: Option<unsafe extern "system" fn(*mut IoCsq, u8)>,
    cancelled: Option<unsafe extern "system" fn(*mut IoCsq, *mut Irp)>,
    reserved: *mut c_void,
}

/// `IO_TYPE_CSQ`: an insert that can't fail.
const QUEUE: u32 = 2;
/// `IO_TYPE_CSQ_EX`: an insert that answers a status.
const QUEUE_EX: u32 = 3;

type Cancel = unsafe extern "system" fn(*mut c_void, *mut Irp);

/// `IRP` of x64, as far as it is needed here.
#[repr(C)]
pub struct Irp {
    head: [u8; 0x44],
    cancel: u8,
    cancel_irql: u8,
    between: [u8; 0x22],
    cancel_routine: *mut c_void,
    user_buffer: *mut c_void,
    /// The last of the four belongs to the queue.
    driver_context: [*mut c_void; 4],
    thread: *mut c_void,
    auxiliary: *mut c_void,
    list: [*mut c_void; 2],
    stack: *mut StackLocation,
}

/// `IO_STACK_LOCATION`, its first bytes.
#[repr(C)]
struct StackLocation {
    major: u8,
    minor: u8,
    flags: u8,
    control: u8,
}

const SL_PENDING_RETURNED: u8 = 1;

const _: () = assert!(
    offset_of!(Irp, cancel) == 0x44
        && offset_of!(Irp, cancel_routine) == 0x68
        && offset_of!(Irp, driver_context) == 0x78
        && offset_of!(Irp, stack) == 0xb8
        && offset_of!(IoCsq, insert) == 8
        && size_of::<IoCsq>() == 64
);

#[link(name = "ntoskrnl.exe", kind = "raw-dylib", modifiers = "+verbatim")]
unsafe extern "system" {
    fn IoReleaseCancelSpinLock(irql: u8);
}

/// `IoSetCancelRoutine`: atomic, since cancelling races with it.
///
/// # Safety
/// `irp` is an IRP of the caller's.
unsafe fn set_cancel_routine(irp: *mut Irp, routine: Option<Cancel>) -> *mut c_void {
    let routine = routine.map_or(null_mut(), |routine| routine as *mut c_void);
    // SAFETY: the caller's promise; the field is aligned.
    unsafe { AtomicPtr::from_ptr(&raw mut (*irp).cancel_routine) }.swap(routine, Ordering::AcqRel)
}

/// Runs `body` with the queue locked.
///
/// # Safety
/// `csq` is a queue that was initialised.
unsafe fn locked<R>(csq: *mut IoCsq, body: impl FnOnce() -> R) -> R {
    let mut irql = 0;
    // SAFETY: the caller's promise; the driver's routines take and release its own lock.
    unsafe {
        if let Some(acquire) = (*csq).acquire {
            acquire(csq, &raw mut irql);
        }
        let result = body();
        if let Some(release) = (*csq).release {
            release(csq, irql);
        }
        result
    }
}

unsafe fn initialize(csq: *mut IoCsq, kind: u32, routines: [*mut c_void; 6]) -> NTSTATUS {
    // SAFETY: the caller's structure; a routine is a pointer that may be NULL.
    unsafe {
        (*csq).kind = kind;
        (&raw mut (*csq).insert).cast::<[*mut c_void; 6]>().write(routines);
        (*csq).reserved = null_mut();
    }
    NTSTATUS::SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "system" fn IoCsqInitialize(
    csq: *mut IoCsq,
    insert: *mut c_void,
    remove: *mut c_void,
    peek_next: *mut c_void,
    acquire: *mut c_void,
    release: *mut c_void,
    cancelled: *mut c_void,
) -> NTSTATUS {
    // SAFETY: the caller's promise.
    unsafe { initialize(csq, QUEUE, [insert, remove, peek_next, acquire, release, cancelled]) }
}

#[unsafe(no_mangle)]
pub unsafe extern "system" fn IoCsqInitializeEx(
    csq: *mut IoCsq,
    insert: *mut c_void,
    remove: *mut c_void,
    peek_next: *mut c_void,
    acquire: *mut c_void,
    release: *mut c_void,
    cancelled: *mut c_void,
) -> NTSTATUS {
    // SAFETY: the caller's promise.
    unsafe { initialize(csq, QUEUE_EX, [insert, remove, peek_next, acquire, release, cancelled]) }
}

/// The IRP's cancel routine while it is queued; called with the cancel lock held.
unsafe extern "system" fn on_cancel(_device: *mut c_void, irp: *mut Irp) {
    // SAFETY: an IRP that was queued names its queue; the cancel lock is released as it was taken.
    unsafe {
        IoReleaseCancelSpinLock((*irp).cancel_irql);
        let csq = (*irp).driver_context[3].cast::<IoCsq>();
        locked(csq, || take_out(csq, irp));
        if let Some(cancelled) = (*csq).cancelled {
            cancelled(csq, irp);
        }
    }
}

/// # Safety
/// The queue is locked, and `irp` is in it.
unsafe fn take_out(csq: *mut IoCsq, irp: *mut Irp) {
    // SAFETY: the caller's promise.
    unsafe {
        if let Some(remove) = (*csq).remove {
            remove(csq, irp);
        }
        (*irp).driver_context[3] = null_mut();
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "system" fn IoCsqInsertIrpEx(
    csq: *mut IoCsq,
    irp: *mut Irp,
    context: *mut c_void,
    insert_context: *mut c_void,
) -> NTSTATUS {
    at_most(DISPATCH_LEVEL, "IoCsqInsertIrpEx");
    if !context.is_null() {
        violate("IoCsqInsertIrpEx with a context, which this double does not have".into());
    }
    // SAFETY: the caller's queue and IRP; between insert and cancel routine the queue is locked.
    let (status, cancelled) = unsafe {
        locked(csq, || {
            (*irp).driver_context[3] = csq.cast();
            (*(*irp).stack).control |= SL_PENDING_RETURNED;
            let status = match (*csq).insert {
                Some(insert) if (*csq).kind == QUEUE_EX => {
                    let insert: unsafe extern "system" fn(*mut IoCsq, *mut Irp, *mut c_void) -> NTSTATUS =
                        std::mem::transmute(insert);
                    insert(csq, irp, insert_context)
                }
                Some(insert) => {
                    insert(csq, irp);
                    NTSTATUS::SUCCESS
                }
                None => NTSTATUS::INVALID_PARAMETER,
            };
            if !status.nt_success() {
                (*irp).driver_context[3] = null_mut();
                (*(*irp).stack).control &= !SL_PENDING_RETURNED;
                return (status, false);
            }
            set_cancel_routine(irp, Some(on_cancel));
            let cancelled =
                (&raw const (*irp).cancel).read_volatile() != 0 && !set_cancel_routine(irp, None).is_null();
            if cancelled {
                take_out(csq, irp);
            }
            (status, cancelled)
        })
    };
    if cancelled {
        // SAFETY: the IRP is out of the queue, and nobody else's.
        unsafe {
            if let Some(routine) = (*csq).cancelled {
                routine(csq, irp);
            }
        }
    }
    status
}

#[unsafe(no_mangle)]
pub unsafe extern "system" fn IoCsqInsertIrp(csq: *mut IoCsq, irp: *mut Irp, context: *mut c_void) {
    // SAFETY: the caller's promise.
    let _ = unsafe { IoCsqInsertIrpEx(csq, irp, context, null_mut()) };
}

#[unsafe(no_mangle)]
pub unsafe extern "system" fn IoCsqRemoveNextIrp(csq: *mut IoCsq, peek_context: *mut c_void) -> *mut Irp {
    at_most(DISPATCH_LEVEL, "IoCsqRemoveNextIrp");
    // SAFETY: the caller's queue. An IRP whose cancel routine is gone already is being cancelled: it is left to that.
    unsafe {
        locked(csq, || {
            let Some(peek_next) = (*csq).peek_next else { return null_mut() };
            let mut irp = peek_next(csq, null_mut(), peek_context);
            while !irp.is_null() && set_cancel_routine(irp, None).is_null() {
                irp = peek_next(csq, irp, peek_context);
            }
            if !irp.is_null() {
                take_out(csq, irp);
            }
            irp
        })
    }
}

//! Requests of the I/O manager. What wdm.h has as inline functions and unnamed members is here and nowhere else.

use core::slice;
use core::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use fwps_sys::NTSTATUS;
use tidegate_driver::request::Lengths;
use wdk_sys::ntddk::IofCompleteRequest;
use wdk_sys::{FILE_OBJECT, IO_STACK_LOCATION, IRP, LIST_ENTRY, SL_PENDING_RETURNED};

/// `IO_NO_INCREMENT`.
const NO_BOOST: i8 = 0;

/// A request that is ours: until it is completed or pended.
#[derive(Clone, Copy)]
pub(crate) struct Irp(*mut IRP);

impl Irp {
    /// # Safety
    /// The I/O manager gave it to a dispatch routine, or a cancel-safe queue gave it back, and it was not completed since.
    pub(crate) unsafe fn new(irp: *mut IRP) -> Self {
        Self(irp)
    }

    pub(crate) fn as_ptr(self) -> *mut IRP {
        self.0
    }

    /// `IoGetCurrentIrpStackLocation`.
    fn stack(self) -> *mut IO_STACK_LOCATION {
        // SAFETY: the request is ours, and a stack location is current while it is.
        unsafe { (*self.0).Tail.Overlay.__bindgen_anon_2.__bindgen_anon_1.CurrentStackLocation }
    }

    /// The handle that it came through.
    pub(crate) fn file(self) -> *mut FILE_OBJECT {
        // SAFETY: the stack location lives as long as the request.
        unsafe { (*self.stack()).FileObject }
    }

    /// Notes on the handle that it is closed.
    pub(crate) fn close_file(self) {
        if let Some(mark) = self.file_mark() {
            mark.store(true, Ordering::Release);
        }
    }

    /// Whether [`close_file`](Self::close_file) was called for its handle.
    pub(crate) fn is_file_closed(self) -> bool {
        self.file_mark().is_some_and(|mark| mark.load(Ordering::Acquire))
    }

    /// The driver's word in the file object: zero when the handle is opened. Requests of other drivers may have no handle.
    fn file_mark<'a>(self) -> Option<&'a AtomicBool> {
        let file = self.file();
        // SAFETY: the file object lives as long as the request, its context is the driver's, and only this touches it.
        (!file.is_null()).then(|| unsafe { AtomicBool::from_ptr((&raw mut (*file).FsContext).cast()) })
    }

    /// Code and lengths of a device control request.
    pub(crate) fn device_control(self) -> (u32, Lengths) {
        // SAFETY: as above; the dispatch routine for device control has this member.
        let control = unsafe { (*self.stack()).Parameters.DeviceIoControl };
        let lengths = Lengths {
            input: control.InputBufferLength as usize,
            output: control.OutputBufferLength as usize,
        };
        (control.IoControlCode, lengths)
    }

    /// The buffer that holds what comes in, and then what goes out: the longer of both.
    ///
    /// # Safety
    /// A buffered device control request. One borrow at a time, none after its completion.
    pub(crate) unsafe fn buffer<'a>(self, lengths: Lengths) -> &'a mut [u8] {
        // SAFETY: the request is ours.
        let buffer: *mut u8 = unsafe { (*self.0).AssociatedIrp.SystemBuffer }.cast();
        let length = lengths.input.max(lengths.output);
        if buffer.is_null() || length == 0 {
            return &mut [];
        }
        // SAFETY: the I/O manager allocated as many bytes, and nobody else has them. What lies behind the input is whatever
        // was there; none of it is handed on, since an answer is as long as what was written.
        unsafe { slice::from_raw_parts_mut(buffer, length) }
    }

    /// Other than 0 once its sender has taken it back or gone away.
    pub(crate) fn cancelled<'a>(self) -> &'a AtomicU8 {
        // SAFETY: a byte of the request, which is ours; the I/O manager writes it whole.
        unsafe { AtomicU8::from_ptr(&raw mut (*self.0).Cancel) }
    }

    /// `IoMarkIrpPending`: the dispatch routine then returns `STATUS_PENDING`, whatever becomes of the request.
    pub(crate) fn mark_pending(self) {
        // SAFETY: the stack location is ours.
        unsafe { (*self.stack()).Control |= SL_PENDING_RETURNED as u8 };
    }

    /// Completes it with `bytes` bytes of answer, and returns what a dispatch routine then returns. IRQL <= DISPATCH_LEVEL.
    pub(crate) fn complete(self, status: NTSTATUS, bytes: usize) -> i32 {
        // SAFETY: the request is ours, and no more after this.
        unsafe {
            (*self.0).IoStatus.__bindgen_anon_1.Status = status.0;
            (*self.0).IoStatus.Information = bytes as _;
            IofCompleteRequest(self.0, NO_BOOST);
        }
        status.0
    }

    /// A number that stays with the request while it is ours (a word of its driver context).
    pub(crate) fn note(self) -> &'static mut u64 {
        // SAFETY: the first words of the context are the driver's; the last one is the cancel-safe queue's.
        unsafe {
            &mut *(&raw mut (*self.0).Tail.Overlay.__bindgen_anon_1.__bindgen_anon_1.DriverContext).cast()
        }
    }

    /// The links by which it waits in a list of ours.
    pub(crate) fn links(self) -> *mut LIST_ENTRY {
        // SAFETY: only the address is taken.
        unsafe { &raw mut (*self.0).Tail.Overlay.__bindgen_anon_2.ListEntry }
    }

    /// The request whose [`links`](Self::links) these are.
    ///
    /// # Safety
    /// They are those of a request that is ours.
    pub(crate) unsafe fn of_links(links: *mut LIST_ENTRY) -> Self {
        let none = Self(core::ptr::null_mut::<IRP>());
        let offset = none.0.cast::<u8>().wrapping_add(links_offset()).addr();
        Self(links.wrapping_byte_sub(offset).cast())
    }
}

/// Where the links lie in a request.
const fn links_offset() -> usize {
    core::mem::offset_of!(IRP, Tail.Overlay.__bindgen_anon_2.ListEntry)
}

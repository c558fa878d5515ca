//! Work for a system thread at PASSIVE_LEVEL, queued once at a time.

use core::ffi::c_void;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use fwps_sys::{IO_WORKITEM_ROUTINE, IoAllocateWorkItem, IoFreeWorkItem, IoQueueWorkItem, NTSTATUS};

use crate::os;

/// `DelayedWorkQueue`.
const DELAYED: i32 = 1;

/// A work item with its routine. Dropped, it waits until the routine has ended for the last time: PASSIVE_LEVEL.
pub(crate) struct Work {
    item: *mut c_void,
    routine: IO_WORKITEM_ROUTINE,
    queued: AtomicBool,
    outstanding: AtomicU32,
}

impl Work {
    /// Work for `device`'s driver. The routine calls [`Work::begun`] first and [`Work::ended`] last.
    pub(crate) fn new(device: *mut c_void, routine: IO_WORKITEM_ROUTINE) -> Result<Self, NTSTATUS> {
        // SAFETY: the device is our own.
        let item = unsafe { IoAllocateWorkItem(device) };
        if item.is_null() {
            return Err(NTSTATUS::INSUFFICIENT_RESOURCES);
        }
        Ok(Self { item, routine, queued: AtomicBool::new(false), outstanding: AtomicU32::new(0) })
    }

    /// Has the routine run, with `context`, after this call. IRQL <= DISPATCH_LEVEL.
    pub(crate) fn kick(&self, context: *mut c_void) {
        if !self.queued.swap(true, Ordering::AcqRel) {
            self.outstanding.fetch_add(1, Ordering::AcqRel);
            // SAFETY: `queued` says that the item is not in the system's queue, and `drop` waits for it.
            unsafe { IoQueueWorkItem(self.item, self.routine, DELAYED, context) };
        }
    }

    /// From here on it may be queued again. A swap, since it must see what those who found it queued did before.
    pub(crate) fn begun(&self) {
        self.queued.swap(false, Ordering::AcqRel);
    }

    /// The routine does not touch anything after this.
    pub(crate) fn ended(&self) {
        self.outstanding.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        while self.outstanding.load(Ordering::Acquire) != 0 {
            os::sleep(1);
        }
        // SAFETY: ours, not queued, and given back once.
        unsafe { IoFreeWorkItem(self.item) };
    }
}

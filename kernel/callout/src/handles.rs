//! What registration takes from the system: each value gives back what it took when it is dropped. All at PASSIVE_LEVEL.

use core::ffi::c_void;
use core::ptr;

use fwps_sys::{
    ADDRESS_FAMILY, FWPS_CALLOUT1, FWPS_INJECTION_TYPE, FwpsCalloutRegister1, FwpsCalloutUnregisterById0,
    FwpsInjectionHandleCreate0, FwpsInjectionHandleDestroy0, HANDLE, IoAllocateWorkItem, IoFreeWorkItem,
    NET_BUFFER_LIST_POOL_PARAMETERS, NTSTATUS, NdisAllocateGenericObject, NdisAllocateNetBufferListPool,
    NdisFreeGenericObject, NdisFreeNetBufferListPool,
};

/// Tag of everything that this driver allocates; the debugger shows it as `Tide`.
const TAG: u32 = u32::from_le_bytes(*b"Tide");

/// All of it, given back in this order.
#[expect(dead_code, reason = "the fields are there to be dropped")]
pub(crate) struct System {
    pub(crate) stream: InjectionHandle,
    pub(crate) transport: InjectionHandle,
    pub(crate) work_item: WorkItem,
    pub(crate) pool: NblPool,
    pub(crate) owner: NdisObject,
}

// SAFETY: the handles are not tied to a thread, and nothing is done with them but to give them back.
unsafe impl Send for System {}
// SAFETY: as above.
unsafe impl Sync for System {}

/// What NDIS knows the driver as: the owner of pools.
pub(crate) struct NdisObject(*mut c_void);

impl NdisObject {
    pub(crate) fn new(driver: *mut c_void) -> Result<Self, NTSTATUS> {
        // SAFETY: the driver object is the caller's own.
        let object = unsafe { NdisAllocateGenericObject(driver, TAG, 0) };
        if object.is_null() { Err(NTSTATUS::INSUFFICIENT_RESOURCES) } else { Ok(Self(object)) }
    }
}

impl Drop for NdisObject {
    fn drop(&mut self) {
        // SAFETY: ours, and given back once.
        unsafe { NdisFreeGenericObject(self.0) };
    }
}

/// A pool of NBLs with one NB each. Dropped after its last NBL and before its owner.
pub(crate) struct NblPool(pub(crate) HANDLE);

impl NblPool {
    pub(crate) fn new(owner: &NdisObject) -> Result<Self, NTSTATUS> {
        let parameters = NET_BUFFER_LIST_POOL_PARAMETERS::for_injection(TAG);
        // SAFETY: the owner is alive, the parameters are read before the call returns.
        let pool = unsafe { NdisAllocateNetBufferListPool(owner.0, &raw const parameters) };
        if pool.is_null() { Err(NTSTATUS::INSUFFICIENT_RESOURCES) } else { Ok(Self(pool)) }
    }
}

impl Drop for NblPool {
    fn drop(&mut self) {
        // SAFETY: ours, and given back once.
        unsafe { NdisFreeNetBufferListPool(self.0) };
    }
}

/// A handle to inject with, both address families. Dropping it waits for every completion.
pub(crate) struct InjectionHandle(pub(crate) HANDLE);

impl InjectionHandle {
    pub(crate) fn new(kind: FWPS_INJECTION_TYPE) -> Result<Self, NTSTATUS> {
        let mut handle = ptr::null_mut();
        // SAFETY: the handle is written before the call returns.
        unsafe { FwpsInjectionHandleCreate0(ADDRESS_FAMILY::UNSPEC, kind, &raw mut handle) }.ok()?;
        Ok(Self(handle))
    }
}

impl Drop for InjectionHandle {
    fn drop(&mut self) {
        // SAFETY: ours, and given back once. It cannot fail for a handle that exists.
        let _ = unsafe { FwpsInjectionHandleDestroy0(self.0) };
    }
}

/// A work item. Dropped when it is not queued.
pub(crate) struct WorkItem(pub(crate) HANDLE);

impl WorkItem {
    pub(crate) fn new(device: *mut c_void) -> Result<Self, NTSTATUS> {
        // SAFETY: the device object is the caller's own.
        let item = unsafe { IoAllocateWorkItem(device) };
        if item.is_null() { Err(NTSTATUS::INSUFFICIENT_RESOURCES) } else { Ok(Self(item)) }
    }
}

impl Drop for WorkItem {
    fn drop(&mut self) {
        // SAFETY: ours, and given back once.
        unsafe { IoFreeWorkItem(self.0) };
    }
}

/// A callout that the filter engine knows. It has no Drop: unregistering can fail, and must then be tried again.
#[must_use]
pub(crate) struct Registered(u32);

impl Registered {
    /// # Safety
    /// The callbacks may be called from now on, until `unregister` has succeeded.
    pub(crate) unsafe fn new(device: *mut c_void, callout: &FWPS_CALLOUT1) -> Result<Self, NTSTATUS> {
        let mut id = 0;
        // SAFETY: the caller's promise; the struct is read before the call returns.
        unsafe { FwpsCalloutRegister1(device, callout, &raw mut id) }.ok()?;
        Ok(Self(id))
    }

    /// What the filter engine knows it by.
    pub(crate) fn id(&self) -> u32 {
        self.0
    }

    /// Ends the registration. After success no callback runs and none will.
    ///
    /// # Errors
    /// Still registered: a classify runs (`FWP_IN_USE`), or flow contexts are left (`DEVICE_BUSY`).
    pub(crate) fn unregister(&self) -> Result<(), NTSTATUS> {
        // SAFETY: only a number is passed.
        unsafe { FwpsCalloutUnregisterById0(self.0) }.ok()
    }
}

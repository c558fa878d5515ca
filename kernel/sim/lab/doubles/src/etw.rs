//! Event tracing: providers are counted, events are taken and forgotten.
#![expect(unreachable_pub, reason = "symbols under the names of the DDI")]

use std::collections::BTreeSet;
use std::ffi::c_void;
use std::sync::{Mutex, PoisonError};

use fwps_sim::irql::PASSIVE_LEVEL;
use fwps_sys::{GUID, NTSTATUS};

use crate::police::{at_most, violate};

/// Handles that are registered, and the last one given.
static PROVIDERS: Mutex<(BTreeSet<u64>, u64)> = Mutex::new((BTreeSet::new(), 0));

fn known<R>(look: impl FnOnce(&mut (BTreeSet<u64>, u64)) -> R) -> R {
    look(&mut PROVIDERS.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Notes a call with a handle that is not registered.
fn check(handle: u64, call: &str) -> NTSTATUS {
    if known(|(handles, _)| handles.contains(&handle)) {
        NTSTATUS::SUCCESS
    } else {
        violate(format!("{call} with a handle that is not registered"));
        NTSTATUS::INVALID_PARAMETER
    }
}

/// Providers that are still registered.
pub(crate) fn left() -> usize {
    known(|(handles, _)| handles.len())
}

#[unsafe(no_mangle)]
pub unsafe extern "system" fn EtwRegister(
    _provider: *const GUID,
    _callback: *mut c_void,
    _context: *mut c_void,
    handle: *mut u64,
) -> NTSTATUS {
    at_most(PASSIVE_LEVEL, "EtwRegister");
    let new = known(|(handles, last)| {
        *last += 1;
        handles.insert(*last);
        *last
    });
    // SAFETY: the caller's promise.
    unsafe { handle.write(new) }
    NTSTATUS::SUCCESS
}

#[unsafe(no_mangle)]
pub extern "system" fn EtwUnregister(handle: u64) -> NTSTATUS {
    at_most(PASSIVE_LEVEL, "EtwUnregister");
    let status = check(handle, "EtwUnregister");
    known(|(handles, _)| handles.remove(&handle));
    if left() == 0 {
        // What the driver took first it gives back last.
        crate::traffic::unloaded();
    }
    status
}

/// The activity of a thread is nobody's concern here.
#[unsafe(no_mangle)]
pub extern "system" fn EtwActivityIdControl(_code: u32, _activity: *mut GUID) -> NTSTATUS {
    NTSTATUS::SUCCESS
}

#[unsafe(no_mangle)]
pub extern "system" fn EtwSetInformation(
    handle: u64,
    _class: i32,
    _information: *mut c_void,
    _length: u32,
) -> NTSTATUS {
    check(handle, "EtwSetInformation")
}

#[unsafe(no_mangle)]
pub extern "system" fn EtwWriteTransfer(
    handle: u64,
    _descriptor: *const c_void,
    _activity: *const GUID,
    _related: *const GUID,
    _count: u32,
    _data: *const c_void,
) -> NTSTATUS {
    check(handle, "EtwWriteTransfer")
}

#[unsafe(no_mangle)]
pub extern "system" fn EtwWrite(
    handle: u64,
    _descriptor: *const c_void,
    _activity: *const GUID,
    _count: u32,
    _data: *const c_void,
) -> NTSTATUS {
    check(handle, "EtwWrite")
}

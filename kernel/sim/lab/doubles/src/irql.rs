//! IRQL, and what raises it: Wine's functions leave it at 0. And the functions that may not be called when it is raised.
#![expect(unreachable_pub, non_snake_case, reason = "symbols under the names of the DDI")]

use std::ffi::c_void;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use fwps_sim::irql::{self, DISPATCH_LEVEL, PASSIVE_LEVEL};
use fwps_sim::locks;
use fwps_sys::NTSTATUS;

use crate::police::{at_most, violate};

#[unsafe(no_mangle)]
pub extern "system" fn KeGetCurrentIrql() -> u8 {
    irql::current()
}

#[unsafe(no_mangle)]
pub extern "system" fn KfRaiseIrql(level: u8) -> u8 {
    let before = irql::set(level);
    if level < before {
        violate(format!("KfRaiseIrql from {before} to {level}"));
    }
    before
}

#[unsafe(no_mangle)]
pub extern "system" fn KeRaiseIrqlToDpcLevel() -> u8 {
    KfRaiseIrql(DISPATCH_LEVEL)
}

#[unsafe(no_mangle)]
pub extern "system" fn KeLowerIrql(level: u8) {
    let before = irql::set(level);
    if level > before {
        violate(format!("KeLowerIrql from {before} to {level}"));
    }
}

/// Takes a spin lock: its word is 0 when it is free.
fn acquire(lock: &AtomicUsize) {
    while lock.compare_exchange_weak(0, 1, Ordering::Acquire, Ordering::Relaxed).is_err() {
        // Unlike a thread at DISPATCH_LEVEL, the owner may have lost its processor.
        std::thread::yield_now();
    }
    locks::taken();
}

fn release(lock: &AtomicUsize, call: &str) {
    locks::released();
    if lock.swap(0, Ordering::Release) == 0 {
        violate(format!("{call} of a lock that nobody holds"));
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "system" fn KeAcquireSpinLockRaiseToDpc(lock: *mut usize) -> u8 {
    at_most(DISPATCH_LEVEL, "KeAcquireSpinLockRaiseToDpc");
    let before = irql::set(DISPATCH_LEVEL);
    // SAFETY: the caller gives its lock.
    acquire(unsafe { AtomicUsize::from_ptr(lock) });
    before
}

#[unsafe(no_mangle)]
pub unsafe extern "system" fn KeReleaseSpinLock(lock: *mut usize, level: u8) {
    // SAFETY: the caller gives its lock.
    release(unsafe { AtomicUsize::from_ptr(lock) }, "KeReleaseSpinLock");
    KeLowerIrql(level);
}

#[unsafe(no_mangle)]
pub unsafe extern "system" fn KeAcquireSpinLockAtDpcLevel(lock: *mut usize) {
    if irql::current() < DISPATCH_LEVEL {
        violate("KeAcquireSpinLockAtDpcLevel below DISPATCH_LEVEL".into());
    }
    // SAFETY: the caller gives its lock.
    acquire(unsafe { AtomicUsize::from_ptr(lock) });
}

#[unsafe(no_mangle)]
pub unsafe extern "system" fn KeReleaseSpinLockFromDpcLevel(lock: *mut usize) {
    // SAFETY: the caller gives its lock.
    release(unsafe { AtomicUsize::from_ptr(lock) }, "KeReleaseSpinLockFromDpcLevel");
}

/// What the clock shows while it stands, in hundreds of nanoseconds; 0: it runs.
static STANDS_AT: AtomicU64 = AtomicU64::new(0);

/// A clock that stands, so that a run repeats; it runs again when this is dropped.
pub(crate) struct Clock;

impl Clock {
    /// Stops the clock at so many nanoseconds since the machine started.
    pub(crate) fn stop(at: u64) -> Self {
        STANDS_AT.store(at / 100, Ordering::Relaxed);
        Self
    }

    /// Lets time pass.
    pub(crate) fn pass(&self, time: Duration) {
        STANDS_AT.fetch_add(u64::try_from(time.as_nanos() / 100).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

impl Drop for Clock {
    fn drop(&mut self) {
        STANDS_AT.store(0, Ordering::Relaxed);
    }
}

/// Hundreds of nanoseconds since the machine started.
#[unsafe(no_mangle)]
pub unsafe extern "system" fn KeQueryUnbiasedInterruptTimePrecise(counter: *mut u64) -> u64 {
    let (mut ticks, mut frequency) = (0_i64, 0_i64);
    // SAFETY: pointers to locals.
    unsafe { NtQueryPerformanceCounter(&raw mut ticks, &raw mut frequency) };
    if !counter.is_null() {
        // SAFETY: the caller's promise.
        unsafe { counter.write(ticks as u64) }
    }
    match STANDS_AT.load(Ordering::Relaxed) {
        0 => (i128::from(ticks) * 10_000_000 / i128::from(frequency.max(1))) as u64,
        at => at,
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "system" fn KeQueryInterruptTimePrecise(counter: *mut u64) -> u64 {
    // SAFETY: the caller's promise.
    unsafe { KeQueryUnbiasedInterruptTimePrecise(counter) }
}

/// The processor that runs the caller, as Linux tells every program: Wine would ask it each time.
#[unsafe(no_mangle)]
pub unsafe extern "system" fn KeGetCurrentProcessorNumberEx(place: *mut [u8; 4]) -> u32 {
    let mut auxiliary = 0;
    // SAFETY: every x64 processor that Wine runs on has it; it writes to a local.
    unsafe { std::arch::x86_64::__rdtscp(&raw mut auxiliary) };
    // The bits above are the node's.
    let number = auxiliary & 0xfff;
    if !place.is_null() {
        // PROCESSOR_NUMBER: group, number within it.
        // SAFETY: the caller's promise.
        unsafe { place.write([0, 0, number as u8, 0]) }
    }
    number
}

/// Makes a function of Wine's known under `Lab` and its name, with a check of the IRQL in front.
macro_rules! guarded {
    ($( $level:ident $export:literal $name:ident($($arg:ident: $ty:ty),*) $(-> $result:ty)?; )*) => {
        #[link(name = "ntoskrnl.exe", kind = "raw-dylib", modifiers = "+verbatim")]
        unsafe extern "system" {
            $( fn $name($($arg: $ty),*) $(-> $result)?; )*
        }

        mod guards {
            use super::*;
            $(
                #[unsafe(export_name = $export)]
                pub unsafe extern "system" fn $name($($arg: $ty),*) $(-> $result)? {
                    at_most($level, stringify!($name));
                    // SAFETY: the caller's promises, passed on.
                    unsafe { super::$name($($arg),*) }
                }
            )*
        }
    };
}

guarded! {
    PASSIVE_LEVEL "LabKeDelayExecutionThread" KeDelayExecutionThread(mode: i8, alertable: u8, interval: *const i64) -> NTSTATUS;
    PASSIVE_LEVEL "LabIoCreateSymbolicLink" IoCreateSymbolicLink(link: *mut c_void, device: *mut c_void) -> NTSTATUS;
    PASSIVE_LEVEL "LabIoDeleteSymbolicLink" IoDeleteSymbolicLink(link: *mut c_void) -> NTSTATUS;
    PASSIVE_LEVEL "LabIoDeleteDevice" IoDeleteDevice(device: *mut c_void);
    PASSIVE_LEVEL "LabZwOpenKey" ZwOpenKey(key: *mut *mut c_void, access: u32, attributes: *mut c_void) -> NTSTATUS;
    PASSIVE_LEVEL "LabZwQueryValueKey" ZwQueryValueKey(
        key: *mut c_void, name: *mut c_void, class: i32, information: *mut c_void, length: u32, result: *mut u32
    ) -> NTSTATUS;
    PASSIVE_LEVEL "LabZwClose" ZwClose(handle: *mut c_void) -> NTSTATUS;
    DISPATCH_LEVEL "LabIofCompleteRequest" IofCompleteRequest(irp: *mut c_void, boost: i8);
    DISPATCH_LEVEL "LabKeSetEvent" KeSetEvent(event: *mut c_void, increment: i32, wait: u8) -> i32;
}

#[link(name = "ntoskrnl.exe", kind = "raw-dylib", modifiers = "+verbatim")]
unsafe extern "system" {
    fn KeWaitForSingleObject(
        object: *mut c_void,
        reason: i32,
        mode: i8,
        alertable: u8,
        timeout: *const i64,
    ) -> NTSTATUS;
}

#[link(name = "ntdll.dll", kind = "raw-dylib", modifiers = "+verbatim")]
unsafe extern "system" {
    fn NtQueryPerformanceCounter(counter: *mut i64, frequency: *mut i64) -> i32;
}

/// To ask without waiting is allowed at DISPATCH_LEVEL.
#[unsafe(export_name = "LabKeWaitForSingleObject")]
pub unsafe extern "system" fn wait_for_single_object(
    object: *mut c_void,
    reason: i32,
    mode: i8,
    alertable: u8,
    timeout: *const i64,
) -> NTSTATUS {
    // SAFETY: NULL or the caller's.
    let waits = unsafe { timeout.as_ref() } != Some(&0);
    at_most(if waits { PASSIVE_LEVEL } else { DISPATCH_LEVEL }, "KeWaitForSingleObject");
    // SAFETY: the caller's promises, passed on.
    unsafe { KeWaitForSingleObject(object, reason, mode, alertable, timeout) }
}

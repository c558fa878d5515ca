//! What the runtime and the callouts need from the system: `callout::os` for ntoskrnl.

use core::ptr;

use fwps_sys::NTSTATUS;
use fwps_sys::ntos::{
    BCRYPT_USE_SYSTEM_PREFERRED_RNG, BCryptGenRandom, DISPATCH_LEVEL, KeLowerIrql,
    KeQueryUnbiasedInterruptTimePrecise, KfRaiseIrql,
};
use tidegate_runtime::Platform;
use wdk_sys::LARGE_INTEGER;
use wdk_sys::ntddk::{KeDelayExecutionThread, KeGetCurrentProcessorNumberEx, KeQueryMaximumProcessorCountEx};

use crate::waits;

/// `ALL_PROCESSOR_GROUPS`.
const ALL_GROUPS: u16 = 0xffff;

/// ntoskrnl as a platform. PASSIVE_LEVEL.
///
/// # Errors
/// The system gives no random numbers: keys of maps would be guessable.
pub(crate) fn platform() -> Result<Platform, NTSTATUS> {
    draw()?;
    // SAFETY: a number only.
    let processors = unsafe { KeQueryMaximumProcessorCountEx(ALL_GROUPS) };
    Ok(Platform { now_ns, random, processor, processors, raise, enter, lower, wake: waits::wake })
}

/// Waits. PASSIVE_LEVEL.
pub(crate) fn sleep(milliseconds: u32) {
    // Negative: from now on, in units of 100 ns.
    let mut interval = LARGE_INTEGER { QuadPart: -(i64::from(milliseconds) * 10_000) };
    // SAFETY: the interval is read before the call returns. Nothing can alert a wait in kernel mode.
    let _ = unsafe { KeDelayExecutionThread(0, 0, &raw mut interval) };
}

fn now_ns() -> u64 {
    let mut counter = 0;
    // SAFETY: the counter is written before the call returns.
    unsafe { KeQueryUnbiasedInterruptTimePrecise(&raw mut counter) }.wrapping_mul(100)
}

fn draw() -> Result<u64, NTSTATUS> {
    let mut bytes = [0; 8];
    // SAFETY: the bytes are ours, and written before the call returns.
    unsafe { BCryptGenRandom(ptr::null_mut(), bytes.as_mut_ptr(), 8, BCRYPT_USE_SYSTEM_PREFERRED_RNG) }
        .ok()?;
    Ok(u64::from_ne_bytes(bytes))
}

/// It was drawn from once already. Should the system ever refuse later, time has to do.
fn random() -> u64 {
    draw().unwrap_or_else(|_| now_ns())
}

fn processor() -> u32 {
    // SAFETY: no more than the index is asked for.
    unsafe { KeGetCurrentProcessorNumberEx(ptr::null_mut()) }
}

fn raise() -> u8 {
    // SAFETY: callers are at DISPATCH_LEVEL or below.
    unsafe { KfRaiseIrql(DISPATCH_LEVEL) }
}

fn enter() -> (u8, u32) {
    let irql = raise();
    (irql, processor())
}

fn lower(irql: u8) {
    // SAFETY: what `raise` returned.
    unsafe { KeLowerIrql(irql) };
}

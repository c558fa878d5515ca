//! tidegate.sys: DriverEntry, device and unload on ntoskrnl.
//!
//! Everything that decides lies in `tidegate-driver` and below, where any machine can test it; here are the calls. One file
//! for each thing that is taken from the system: `device`, `waits`, `filters`, `trace`, `registry`, `pool`, and
//! the order of taking them in `entry`.
//!
//! Without the feature `wdk` the crate is empty.
#![cfg(feature = "wdk")]
#![no_std]

extern crate alloc;

mod device;
mod entry;
mod filters;
mod irp;
mod os;
mod pool;
mod registry;
mod text;
mod trace;
mod waits;
mod work;

use core::panic::PanicInfo;

use wdk_sys::ntddk::KeBugCheckEx;

/// The code that a panic stops the machine with: bit 29 is set in codes that are not Microsoft's.
const PANIC: u32 = 0x2000_7467;

/// A panic is a bug of ours, and a kernel that goes on after one can't be trusted. Line and column are the first parameters.
#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    let (line, column) = info.location().map_or((0, 0), |at| (at.line(), at.column()));
    // SAFETY: only numbers are passed, at any IRQL; it does not return.
    unsafe { KeBugCheckEx(PANIC, line.into(), column.into(), 0, 0) }
}

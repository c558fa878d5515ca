//! Functions of ntoskrnl.exe and cng.sys that a driver needs and that mingw-w64's DDK headers lack, or have inline: declared
//! once, here, for Windows and for the cross build.

use core::ffi::c_void;

use crate::base::{BOOLEAN, GUID};
use crate::status::NTSTATUS;

/// `POOL_FLAG_NON_PAGED`.
pub const POOL_FLAG_NON_PAGED: u64 = 0x40;
/// `DISPATCH_LEVEL`.
pub const DISPATCH_LEVEL: u8 = 2;
/// `BCRYPT_USE_SYSTEM_PREFERRED_RNG`.
pub const BCRYPT_USE_SYSTEM_PREFERRED_RNG: u32 = 2;

#[cfg_attr(all(windows, not(feature = "simulated")), link(name = "ntoskrnl"))]
unsafe extern "system" {
    /// D for nonpaged memory, which comes zeroed. NULL on failure. Windows 10 2004 and later.
    pub fn ExAllocatePool2(flags: u64, bytes: usize, tag: u32) -> *mut c_void;
    /// D. 100 ns since the machine started, sleep not counted.
    pub fn KeQueryUnbiasedInterruptTimePrecise(qpc: *mut u64) -> u64;
    /// To `new`, which is not below the current one; returns that.
    pub fn KfRaiseIrql(new: u8) -> u8;
    /// To what [`KfRaiseIrql`] returned.
    pub fn KeLowerIrql(new: u8);
}

#[cfg_attr(all(windows, not(feature = "simulated")), link(name = "wdmsec"))]
unsafe extern "system" {
    /// P. A device with a security descriptor of its own from the start. The headers' `IoCreateDeviceSecure`.
    pub fn WdmlibIoCreateDeviceSecure(
        driver: *mut c_void,
        extension: u32,
        name: *const c_void,
        deviceType: u32,
        characteristics: u32,
        exclusive: BOOLEAN,
        sddl: *const c_void,
        class: *const GUID,
        device: *mut *mut c_void,
    ) -> NTSTATUS;
}

#[cfg_attr(
    all(windows, not(feature = "simulated")),
    link(name = "cng.sys", kind = "raw-dylib", modifiers = "+verbatim")
)]
unsafe extern "system" {
    /// P. Random bytes that can't be guessed.
    pub fn BCryptGenRandom(algorithm: *mut c_void, buffer: *mut u8, bytes: u32, flags: u32) -> NTSTATUS;
}

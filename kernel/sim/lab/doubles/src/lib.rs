//! `fwpkclnt.sys`, `ndis.sys` and what Wine lacks of `ntoskrnl.exe`, for a real `tidegate.sys` in a Wine process.
//!
//! One simulator answers the WFP and NDIS functions, as in user space: this image only gives it to the threads of the
//! driver's process, and adds the kernel that Wine does not have (`irql`, `pool`, `csq`, `etw`). What goes against the
//! rules of that kernel is written down (`police`), not fatal. Traffic comes over loopback (`traffic`).
//!
//! It is a Windows DLL in all but name, with the whole of std: Wine runs drivers in a process of user mode.
#![cfg(windows)]

mod csq;
mod etw;
mod irql;
mod police;
mod pool;
mod stop;
mod traffic;

use std::ffi::c_void;
use std::sync::OnceLock;

use fwps_sim::{Config, Simulator};

/// The simulator of this process.
fn simulator() -> &'static Simulator {
    static SIMULATOR: OnceLock<Simulator> = OnceLock::new();
    SIMULATOR.get_or_init(|| Simulator::new(Config { trace_length: 0, ..Config::default() }))
}

/// Called by the loader when the driver's image is loaded, before its `DriverEntry`.
#[unsafe(no_mangle)]
pub extern "system" fn DllMain(_image: *mut c_void, reason: u32, _reserved: *mut c_void) -> i32 {
    const PROCESS_ATTACH: u32 = 1;
    if reason == PROCESS_ATTACH {
        pin();
        simulator().serve();
        // Both begin when the loader is done.
        std::thread::spawn(traffic::listen);
        std::thread::spawn(traffic::work);
    }
    1
}

/// Keeps this image loaded until the process ends: its threads outlive the driver.
fn pin() {
    #[link(name = "kernel32.dll", kind = "raw-dylib", modifiers = "+verbatim")]
    unsafe extern "system" {
        fn GetModuleHandleExW(flags: u32, name: *const c_void, module: *mut *mut c_void) -> i32;
    }
    const PIN: u32 = 1;
    const FROM_ADDRESS: u32 = 4;
    let mut module = std::ptr::null_mut();
    // SAFETY: the address is one of this image, and the result goes to a local.
    let pinned = unsafe { GetModuleHandleExW(PIN | FROM_ADDRESS, pin as *const c_void, &raw mut module) };
    if pinned == 0 {
        police::violate("the doubles can't stay loaded".into());
    }
}

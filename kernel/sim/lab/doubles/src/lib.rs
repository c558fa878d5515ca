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
        simulator().serve();
        // Both begin when the loader is done.
        std::thread::spawn(traffic::listen);
        std::thread::spawn(traffic::work);
    }
    1
}

//! The end of the machine: where the driver was when it asked for it.

use std::ffi::c_void;
use std::ptr::null_mut;

#[link(name = "kernel32.dll", kind = "raw-dylib", modifiers = "+verbatim")]
unsafe extern "system" {
    fn RtlCaptureStackBackTrace(skip: u32, count: u32, places: *mut *mut c_void, hash: *mut u32) -> u16;
    fn OutputDebugStringA(text: *const u8);
    fn RtlPcToFileHeader(place: *mut c_void, image: *mut *mut c_void) -> *mut c_void;
}

#[link(name = "ntoskrnl.exe", kind = "raw-dylib", modifiers = "+verbatim")]
unsafe extern "system" {
    fn KeBugCheckEx(code: u32, first: usize, second: usize, third: usize, fourth: usize) -> !;
}

/// Writes the callers' places into the log, each relative to its image: `llvm-symbolizer --relative-address --obj=tidegate.sys`
/// knows their names. Then it is Wine's.
#[unsafe(export_name = "LabKeBugCheckEx")]
pub(crate) unsafe extern "system" fn bug_check(
    code: u32,
    first: usize,
    second: usize,
    third: usize,
    fourth: usize,
) -> ! {
    let mut places = [null_mut(); 62];
    // SAFETY: there is room for as many places as asked for.
    let count = unsafe { RtlCaptureStackBackTrace(1, 62, places.as_mut_ptr(), null_mut()) };
    for place in places.into_iter().take(count.into()) {
        let mut image = null_mut();
        // SAFETY: any address may be asked for; the result goes to a local.
        unsafe { RtlPcToFileHeader(place, &raw mut image) };
        let text =
            format!("bug check {code:#x}: from {image:p} + {:#x}\n\0", place as usize - image as usize);
        // SAFETY: the text ends with a zero.
        unsafe { OutputDebugStringA(text.as_ptr()) };
    }
    // SAFETY: numbers only.
    unsafe { KeBugCheckEx(code, first, second, third, fourth) }
}

//! The way of a run, for a linker that must not find a panic on it.
//!
//! The panic handler calls a function that does not exist. So this library links only when nothing that a run reaches can
//! panic: both engines, and what helpers do to memory. `tests/no_panic.rs` links it.
#![no_std]

use core::alloc::{GlobalAlloc, Layout};
use core::panic::PanicInfo;

use tidegate_abi::{SendContext, StreamContext};
use tidegate_vm::{Cause, Executable, Fault, Host, Memory, Stack};

unsafe extern "C" {
    safe fn a_run_can_panic() -> !;
}

#[panic_handler]
fn panic(_: &PanicInfo<'_>) -> ! {
    a_run_can_panic()
}

/// A run does not allocate; what is linked besides it is never called.
struct NoMemory;

// SAFETY: never gives memory out.
unsafe impl GlobalAlloc for NoMemory {
    unsafe fn alloc(&self, _: Layout) -> *mut u8 {
        core::ptr::null_mut()
    }
    unsafe fn dealloc(&self, _: *mut u8, _: Layout) {}
}

#[global_allocator]
static ALLOCATOR: NoMemory = NoMemory;

struct Copying;

impl Host for Copying {
    fn call(&mut self, helper: u32, args: [u64; 5], memory: &mut Memory<'_>) -> Result<u64, Fault> {
        match helper {
            1 => Ok(memory.read(args[0], args[1] as usize)?.iter().map(|byte| u64::from(*byte)).sum()),
            2 => {
                memory.write(args[0], args[1] as usize)?.fill(args[2] as u8);
                Ok(memory.window().len() as u64)
            }
            number => Err(Cause::UnknownHelper { number }.into()),
        }
    }
}

/// A run of a stream program.
#[cfg(not(feature = "no-panic-control"))]
#[unsafe(no_mangle)]
pub fn run_stream(
    program: &Executable,
    stack: &mut Stack,
    context: &mut StreamContext,
    window: &[u8],
) -> u64 {
    program.run(&mut Copying, stack, context, window, 1000).unwrap_or(9)
}

/// A run of a send program.
#[cfg(not(feature = "no-panic-control"))]
#[unsafe(no_mangle)]
pub fn run_send(program: &Executable, stack: &mut Stack, context: &mut SendContext, window: &[u8]) -> u64 {
    program.run(&mut Copying, stack, context, window, 1000).unwrap_or(9)
}

/// The control: what must not link.
#[cfg(feature = "no-panic-control")]
#[unsafe(no_mangle)]
pub fn run_and_panic(window: &[u8], at: usize) -> u8 {
    window[at]
}

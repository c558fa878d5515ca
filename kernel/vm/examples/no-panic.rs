//! The way of a verification and of a run, for a linker that must not find a panic on it.
//!
//! The panic handler calls a function that does not exist. So this library links only when nothing that these two reach can
//! panic: the verifier, both engines, and what helpers do to memory. `tests/no_panic.rs` links it.
#![no_std]

use core::alloc::{GlobalAlloc, Layout};
use core::ffi::c_void;
use core::panic::PanicInfo;

use tidegate_abi::{MapDef, ProgramType, SendContext, StreamContext};
use tidegate_verifier::{Options, Program, Refusal, Verified, verify};
use tidegate_vm::{Cause, Executable, Fault, Host, Memory, Stack};

unsafe extern "C" {
    safe fn it_can_panic() -> !;
    safe fn malloc(size: usize) -> *mut c_void;
    fn free(memory: *mut c_void);
}

#[panic_handler]
fn panic(_: &PanicInfo<'_>) -> ! {
    it_can_panic()
}

/// What a verification may allocate from, which may fail. A run does not.
struct Heap;

// SAFETY: malloc's contract is this one, up to its alignment.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if layout.align() > align_of::<u128>() { core::ptr::null_mut() } else { malloc(layout.size()).cast() }
    }

    unsafe fn dealloc(&self, memory: *mut u8, _: Layout) {
        // SAFETY: `memory` came from `alloc`, and so from malloc.
        unsafe { free(memory.cast()) }
    }
}

#[global_allocator]
static ALLOCATOR: Heap = Heap;

/// A verification, of whatever is given to it.
#[cfg(not(feature = "no-panic-control"))]
#[unsafe(no_mangle)]
pub fn verify_any(
    program_type: ProgramType,
    code: &[u8],
    maps: &[MapDef],
    options: &Options<'_>,
) -> Result<Verified, Refusal> {
    verify(&Program { program_type, code, maps }, options)
}

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

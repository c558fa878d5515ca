//! The kernel stack of one classify, measured by a painted one.
//!
//! A thread paints the stack below itself, classifies, and looks how far down the paint is gone. Injections complete inside of
//! their calls, which is the deepest that they get. The filter engine under it takes a few dozen bytes of its own, which count.

use std::hint::black_box;
use std::thread;

use anyhow::{Result, anyhow, ensure};
use fwps_sys::FWP_ACTION;

use crate::machine::{Case, Machine};
use crate::null;

/// What one classify may take, programs included.
const BUDGET: usize = 4096;
/// Bytes that are painted.
const PAINTED: usize = 64 << 10;
const PAINT: u8 = 0xc5;

/// How far below its own frame `run` takes the stack.
///
/// The paint goes on memory of this thread's stack that nobody uses yet, byte by byte: no call, and no array whose probes would
/// touch it.
#[inline(never)]
fn depth(run: &mut dyn FnMut() -> FWP_ACTION) -> usize {
    /// Room for this function's own frame, which is small.
    const OWN: usize = 256;
    let here = 0_u8;
    let top = black_box(std::ptr::from_ref(&here)).expose_provenance() - OWN;
    let at = |below: usize| std::ptr::with_exposed_provenance_mut::<u8>(top - below);
    for below in 0..PAINTED {
        // SAFETY: memory of this thread's stack, which has a megabyte, below every frame.
        unsafe { at(below).write_volatile(PAINT) }
    }
    black_box(run());
    // SAFETY: as above.
    let clean = (0..PAINTED).rev().take_while(|below| unsafe { at(*below).read_volatile() } == PAINT).count();
    OWN + PAINTED - clean
}

/// Bytes of stack that one classify takes, beyond what calling it takes.
fn classify(case: Case) -> Result<usize> {
    let measure = move || {
        null::complete_at_once(true);
        let mut nothing = Machine::nothing(case);
        let mut machine = Machine::tidegate(case, 8, 1)?;
        // Once for what is made at the first time.
        machine.classify();
        let calling = depth(&mut || nothing.classify());
        Ok(depth(&mut || machine.classify()).saturating_sub(calling))
    };
    let thread = thread::Builder::new().stack_size(1 << 20).spawn(measure)?;
    thread.join().map_err(|_| anyhow!("the classify of {} panicked", case.name()))?
}

/// Measures every case, and fails when one takes more than the budget.
pub(crate) fn check() -> Result<()> {
    let mut deepest = 0;
    for case in Case::ALL {
        let bytes = classify(case)?;
        println!("{:<30} {bytes:>6} bytes of stack", case.name());
        deepest = deepest.max(bytes);
    }
    ensure!(deepest > 256, "no classify takes {deepest} bytes only: the paint was not seen");
    ensure!(deepest <= BUDGET, "the deepest classify takes {deepest} bytes of stack, of {BUDGET}");
    println!("ok: {} passed, 0 failed", Case::ALL.len());
    Ok(())
}

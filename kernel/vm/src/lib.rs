//! Verified bytecode to a result: decode once, then run.
//!
//! An [`Executable`] is made at PASSIVE_LEVEL and run at any IRQL: [`Executable::run`] neither allocates nor panics, and
//! ends within its budget. `unsafe` is confined to `memory` (an address of a program becomes a reference), to the
//! cursor of `engine` (a place in the ops), and to `shared` (owners are counted).
#![no_std]

extern crate alloc;

mod arithmetic;
mod atomic {
    pub(crate) use core::sync::atomic::{AtomicUsize, Ordering, fence};
}
mod decode;
mod engine;
mod fault;
mod fuse;
mod memory;
mod op;
mod shared;
#[cfg(feature = "trace")]
mod trace;

use alloc::vec::Vec;
use core::ops::Range;

use tidegate_abi::insn::class;
use tidegate_abi::{MapDef, limits};
use tidegate_verifier::{Proven, Structure, Verified, WINDOW_ADDRESSES};

pub use decode::CompileError;
pub use fault::{Cause, Fault};
pub use memory::{Context, MapBinding, MapMemory, Memory, Raw, Stack};
pub use shared::{Lent, Shared};
#[cfg(feature = "trace")]
pub use trace::Visits;

/// What answers a program's helper calls. One run borrows it exclusively.
pub trait Host {
    /// Carries out helper `helper` with the program's r1 to r5 and returns its r0.
    ///
    /// # Errors
    /// A [`Fault`] ends the run; the engine fills in the instruction.
    fn call(&mut self, helper: u32, args: [u64; 5], memory: &mut Memory<'_>) -> Result<u64, Fault>;
}

/// A program in the form that runs.
#[derive(Debug)]
pub struct Executable {
    ops: Vec<op::Op>,
    maps: Vec<MapBinding>,
    functions: Vec<decode::Function>,
    /// Bytes of the entry function's frame that are zeroed at the start of a run.
    clear: u16,
    /// Every access is proven: no check is needed.
    proven: bool,
    /// Where it is written down what runs.
    #[cfg(feature = "trace")]
    trace: Option<trace::Trace>,
}

impl Executable {
    /// Makes a verified program executable; `maps` binds the maps of [`Verified::maps`], in their order.
    ///
    /// # Errors
    /// No memory, or bindings that don't fit the program.
    pub fn new(verified: &Verified, maps: &[MapBinding]) -> Result<Self, CompileError> {
        Self::compile(verified.structure(), verified.maps().len(), maps)
    }

    /// Makes a verified program executable without checks at run time: as [`new`](Self::new), where the verifier proved
    /// every access.
    ///
    /// # Errors
    /// As for [`new`](Self::new), and the first access that was not proven.
    pub fn proven(verified: &Verified, maps: &[MapBinding]) -> Result<Self, CompileError> {
        // A proof that does not even reach the entry is none.
        if !verified.proven(0).contains(Proven::REACHED) {
            return Err(CompileError::Unproven { insn: 0 });
        }
        for (slot, insn) in verified.insns().iter().enumerate() {
            let second = verified.structure().is_second_half(slot);
            let accesses = matches!(insn.class(), class::LDX | class::ST | class::STX) && !second;
            let facts = verified.proven(slot);
            if accesses && facts.contains(Proven::REACHED) && !facts.contains(Proven::ACCESS) {
                return Err(CompileError::Unproven { insn: slot });
            }
        }
        Ok(Self { proven: true, ..Self::new(verified, maps)? })
    }

    /// Makes a verified program executable, as [`new`](Self::new), and writes down which instructions run. It takes its time.
    ///
    /// # Errors
    /// As for [`new`](Self::new).
    #[cfg(feature = "trace")]
    pub fn traced(verified: &Verified, maps: &[MapBinding]) -> Result<Self, CompileError> {
        let mut this = Self::plain(verified.structure(), verified.maps().len(), maps)?;
        this.trace = Some(trace::Trace::new(this.ops.len())?);
        Ok(this)
    }

    /// What all runs visited, by slot; `None` for a program that is not [`traced`](Self::traced).
    #[cfg(feature = "trace")]
    pub fn visits(&self) -> Option<impl Iterator<Item = Visits>> {
        self.trace.as_ref().map(trace::Trace::read)
    }

    /// The instruction in `slot` is about to run on the engine that tells.
    #[inline(always)]
    fn visit(&self, slot: u32) {
        #[cfg(feature = "trace")]
        if let Some(trace) = &self.trace {
            trace.visit(slot as usize);
        }
        #[cfg(not(feature = "trace"))]
        let _ = slot;
    }

    /// Makes any well-formed bytecode executable, unproven: for conformance suites, fuzzing and comparisons. It runs on
    /// the checked engine, where nothing that a program does reaches memory that it was not given.
    ///
    /// # Errors
    /// Bytecode that is not well formed, no memory, or bindings that don't fit the program.
    pub fn unverified(code: &[u8], defs: &[MapDef], maps: &[MapBinding]) -> Result<Self, CompileError> {
        let structure = Structure::check(code, defs, limits::MAX_VERIFY_MEMORY)?;
        Self::compile(&structure, defs.len(), maps)
    }

    fn compile(program: &Structure, named: usize, bound: &[MapBinding]) -> Result<Self, CompileError> {
        let mut this = Self::plain(program, named, bound)?;
        fuse::fuse(&mut this.ops);
        Ok(this)
    }

    /// Nothing fused yet.
    fn plain(program: &Structure, named: usize, bound: &[MapBinding]) -> Result<Self, CompileError> {
        if named != bound.len() {
            return Err(CompileError::Bindings { maps: named, bindings: bound.len() });
        }
        let mut maps = Vec::new();
        maps.try_reserve_exact(bound.len()).map_err(|_| CompileError::NoMemory)?;
        maps.extend_from_slice(bound);
        let functions = decode::functions(program)?;
        let ops = decode::decode(program, &functions, bound)?;
        let clear = functions.first().map_or(0, |entry| entry.clear);
        Ok(Self {
            ops,
            maps,
            functions,
            clear,
            proven: false,
            #[cfg(feature = "trace")]
            trace: None,
        })
    }

    /// Runs the program: r1 is the address of `context`, which shows `window`. Ends after `budget` instructions, plus
    /// at most the length of the program.
    ///
    /// A window without bytes is given by [`nothing`], so that it is somewhere: behind an address like 1 pointers come round,
    /// and a program may go ways that were proven to be none. (It still reaches no memory that it was not given.)
    ///
    /// At any IRQL that the memory of the arguments allows. Returns r0.
    ///
    /// # Errors
    /// Why there is no result.
    pub fn run<C: Context, H: Host>(
        &self,
        host: &mut H,
        stack: &mut Stack,
        context: &mut C,
        window: &[u8],
        budget: u32,
    ) -> Result<u64, Fault> {
        #[cfg(feature = "trace")]
        if let Some(trace) = &self.trace {
            trace.begin();
            let result = engine::run::<C, H, true, true>(self, host, stack, context, window, budget);
            return result.ok_or_else(|| stack.fault());
        }
        let result = if self.proven {
            self.run_proven(host, stack, context, window, budget)
        } else {
            engine::run::<C, H, true, false>(self, host, stack, context, window, budget)
        };
        match result {
            Some(result) => Ok(result),
            None => Err(stack.fault()),
        }
    }

    /// As [`run`](Self::run), and the stack keeps where the run was: see [`Stack::path`]. Slower.
    ///
    /// # Errors
    /// As [`run`](Self::run)'s.
    #[cold]
    pub fn run_watched<C: Context, H: Host>(
        &self,
        host: &mut H,
        stack: &mut Stack,
        context: &mut C,
        window: &[u8],
        budget: u32,
    ) -> Result<u64, Fault> {
        #[cfg(feature = "trace")]
        if let Some(trace) = &self.trace {
            trace.begin();
        }
        let result = engine::run::<C, H, true, true>(self, host, stack, context, window, budget);
        result.ok_or_else(|| stack.fault())
    }

    /// Runs without checks, where the proofs hold. Apart, so that looking at the window costs other runs nothing.
    #[inline(never)]
    fn run_proven<C: Context, H: Host>(
        &self,
        host: &mut H,
        stack: &mut Stack,
        context: &mut C,
        window: &[u8],
        budget: u32,
    ) -> Option<u64> {
        if proofs_hold_for(window) {
            engine::run::<C, H, false, false>(self, host, stack, context, window, budget)
        } else {
            engine::run::<C, H, true, false>(self, host, stack, context, window, budget)
        }
    }

    /// Slots of bytecode.
    pub fn slots(&self) -> usize {
        self.ops.len()
    }

    fn ops(&self) -> &[op::Op] {
        &self.ops
    }

    fn maps(&self) -> &[MapBinding] {
        &self.maps
    }

    /// The function that is `value` to the program.
    #[inline(never)]
    fn function(&self, value: u64) -> Option<decode::Function> {
        let slot = u32::try_from(value.checked_sub(decode::FUNCTION_BASE)?).ok()?;
        let index = self.functions.binary_search_by_key(&slot, |function| function.slot).ok()?;
        self.functions.get(index).copied()
    }
}

/// A window without bytes, at an address like that of any other.
pub fn nothing() -> &'static [u8] {
    static SOMEWHERE: [u8; 1] = [0];
    SOMEWHERE.split_at(0).0
}

/// Whether `window` is as the verifier assumes when it proves what packet pointers do. Others run checked.
fn proofs_hold_for(window: &[u8]) -> bool {
    // In whole units, whose numbers are small enough for one instruction each.
    const UNIT: u32 = WINDOW_ADDRESSES.start.trailing_zeros();
    const UNITS: Range<u64> = WINDOW_ADDRESSES.start >> UNIT..WINDOW_ADDRESSES.end >> UNIT;
    const { assert!(WINDOW_ADDRESSES.end.trailing_zeros() >= UNIT) };
    window.len() <= limits::MAX_WINDOW && UNITS.contains(&(window.as_ptr().addr() as u64 >> UNIT))
}

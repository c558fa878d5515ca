//! Verified bytecode to a result: decode once, then run.
//!
//! An [`Executable`] is made at PASSIVE_LEVEL and run at any IRQL: [`Executable::run`] neither allocates nor panics, and
//! ends within its budget. `unsafe` is confined to `memory` (an address of a program becomes a reference) and to the
//! cursor of `engine` (a place in the ops).
#![no_std]

extern crate alloc;

mod arithmetic;
mod decode;
mod engine;
mod fault;
mod memory;
mod op;

use alloc::vec::Vec;

use tidegate_abi::{MapDef, limits};
use tidegate_verifier::{Structure, Verified};

pub use decode::CompileError;
pub use fault::{Cause, Fault};
pub use memory::{Context, MapBinding, MapMemory, Memory, Raw, Stack};

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
    functions: Vec<u32>,
}

impl Executable {
    /// Makes a verified program executable; `maps` binds the maps of [`Verified::maps`], in their order.
    ///
    /// # Errors
    /// No memory, or bindings that don't fit the program.
    pub fn new(verified: &Verified, maps: &[MapBinding]) -> Result<Self, CompileError> {
        Self::compile(verified.structure(), verified.maps().len(), maps)
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
        if named != bound.len() {
            return Err(CompileError::Bindings { maps: named, bindings: bound.len() });
        }
        let no_memory = |_| CompileError::NoMemory;
        let (mut maps, mut functions) = (Vec::new(), Vec::new());
        maps.try_reserve_exact(bound.len()).map_err(no_memory)?;
        maps.extend_from_slice(bound);
        functions.try_reserve_exact(program.functions().len()).map_err(no_memory)?;
        functions.extend_from_slice(program.functions());
        Ok(Self { ops: decode::decode(program, bound)?, maps, functions })
    }

    /// Runs the program: r1 is the address of `context`, which shows `window`. Ends after `budget` instructions, plus
    /// at most the length of the program.
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
        let (bytes, frames) = stack.parts();
        let mut memory = Memory::new(window, context, bytes, &self.maps);
        engine::run::<H, true>(self, host, &mut memory, frames, budget)
    }

    /// Slots of bytecode.
    pub fn slots(&self) -> usize {
        self.ops.len()
    }

    fn ops(&self) -> &[op::Op] {
        &self.ops
    }

    /// Slot of the function that is `value` to the program.
    fn function(&self, value: u64) -> Option<u32> {
        let slot = u32::try_from(value.checked_sub(decode::FUNCTION_BASE)?).ok()?;
        self.functions.binary_search(&slot).ok().map(|_| slot)
    }
}

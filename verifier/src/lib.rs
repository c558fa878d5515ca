//! Bytecode to a proof, or to a diagnosis.
//!
//! [`verify`] takes a program as it comes from a loader that nobody trusts, and either proves that no run of it can
//! fault, loop for ever, read what it wasn't given or leak what it was handed, or says which fact was missing. It runs
//! in the kernel at PASSIVE_LEVEL: time, memory and stack are bounded by its [`Options`], and it never panics.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod memory;
pub mod refusal;
pub mod structure;

use tidegate_abi::helper::Capability;
use tidegate_abi::{Insn, MapDef, ProgramType, limits};

pub use refusal::{Code, Reason, Refusal};
pub use structure::Structure;

/// A program to be verified.
#[derive(Clone, Copy, Debug)]
pub struct Program<'a> {
    /// What it is written for: decides its context, its helpers and its verdicts.
    pub program_type: ProgramType,
    /// Bytecode in wire form: 8-byte slots, the entry function at slot 0.
    pub code: &'a [u8],
    /// The maps that it names by index.
    pub maps: &'a [MapDef],
}

/// Bounds of one verification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Bytes that it may allocate.
    pub memory: usize,
    /// Instructions that it may walk.
    pub steps: u32,
}

impl Default for Options {
    fn default() -> Self {
        Self { memory: limits::MAX_VERIFY_MEMORY, steps: limits::MAX_VERIFY_STEPS }
    }
}

/// A program and what was proven about it. Only [`verify`] makes one.
#[derive(Debug)]
pub struct Verified {
    program_type: ProgramType,
    structure: Structure,
    maps: alloc::vec::Vec<MapDef>,
    facts: alloc::vec::Vec<Proven>,
    max_cost: u64,
    capabilities: Capability,
    steps: u32,
    states: u32,
}

impl Verified {
    /// What the program is written for.
    pub fn program_type(&self) -> ProgramType {
        self.program_type
    }

    /// The slots of the program.
    pub fn insns(&self) -> &[Insn] {
        self.structure.insns()
    }

    /// Functions, jump targets and second halves.
    pub fn structure(&self) -> &Structure {
        &self.structure
    }

    /// The maps that the program names by index.
    pub fn maps(&self) -> &[MapDef] {
        &self.maps
    }

    /// Instructions that one run takes at most, on any input.
    pub fn max_cost(&self) -> u64 {
        self.max_cost
    }

    /// The powers that the program uses.
    pub fn capabilities(&self) -> Capability {
        self.capabilities
    }

    /// What was proven about the instruction at `slot` on every path.
    pub fn proven(&self, slot: usize) -> Proven {
        self.facts.get(slot).copied().unwrap_or_default()
    }

    /// Instructions that the verification walked.
    pub fn steps(&self) -> u32 {
        self.steps
    }

    /// States that the verification held at most at one time.
    pub fn states(&self) -> u32 {
        self.states
    }
}

/// What was proven about one instruction; bits of a set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Proven(u8);

impl Proven {
    /// Some path reaches the instruction.
    pub const REACHED: Self = Self(1 << 0);
    /// The memory that a load, store or atomic touches is its own on every path: no check is needed at run time.
    pub const ACCESS: Self = Self(1 << 1);

    /// Whether everything in `other` was proven.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// Proves a program, or says why it can't be.
///
/// This first step holds the program against the rules of [`structure`] and proves nothing about its values yet: it
/// claims no [`Proven`] fact, and its cost is that of a program without loops and calls.
///
/// # Errors
/// The first fact that was missing.
pub fn verify(program: &Program<'_>, options: &Options) -> Result<Verified, Refusal> {
    let mut memory = memory::Memory::new(options.memory);
    let structure = Structure::check_within(program.code, program.maps, &mut memory)?;
    let whole = |reason| Refusal::new(0, reason);
    let facts = memory.filled(structure.insns().len(), Proven::default()).map_err(whole)?;
    let mut maps = alloc::vec::Vec::new();
    for map in program.maps {
        memory.push(&mut maps, *map).map_err(whole)?;
    }
    Ok(Verified {
        program_type: program.program_type,
        max_cost: structure.insns().len() as u64,
        structure,
        maps,
        facts,
        capabilities: Capability::NONE,
        steps: 0,
        states: 0,
    })
}

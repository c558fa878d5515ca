//! Bytecode to a proof, or to a diagnosis.
//!
//! [`verify`] takes a program as it comes from a loader that nobody trusts, and either proves that no run of it can
//! fault, loop for ever, read what it wasn't given or leak what it was handed, or says which fact was missing. It runs
//! in the kernel at PASSIVE_LEVEL: time, memory and stack are bounded by its [`Options`], and it never panics.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

#[cfg(feature = "claims")]
pub mod claims;
mod domain;
mod exec;
mod facts;
mod kept;
mod memory;
mod needs;
pub mod refusal;
mod rounds;
mod state;
pub mod structure;
mod value;
mod walk;

use alloc::vec::Vec;
use core::sync::atomic::AtomicU8;

use tidegate_abi::helper::Capability;
use tidegate_abi::{Insn, MapDef, ProgramType, Verdicts, limits};

pub use refusal::{Code, Reason, Refusal};
pub use structure::Structure;

use facts::{Facts, Proofs, Watcher};
use walk::Found;

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

/// Bytes that a verification may allocate unless it is told otherwise.
pub const MEMORY: usize = 16 << 20;

/// Bounds of one verification.
#[derive(Clone, Copy, Debug)]
pub struct Options<'a> {
    /// Bytes that it may allocate, up to [`limits::MAX_VERIFY_MEMORY`].
    pub memory: usize,
    /// Instructions that it may walk.
    pub steps: u32,
    /// Becomes other than 0 when nobody waits for the outcome any more (an IRP's `Cancel` is such a byte).
    pub cancelled: Option<&'a AtomicU8>,
}

impl Default for Options<'_> {
    fn default() -> Self {
        Self { memory: MEMORY, steps: limits::MAX_VERIFY_STEPS, cancelled: None }
    }
}

/// A program and what was proven about it. Only [`verify`] makes one.
#[derive(Debug)]
pub struct Verified {
    program_type: ProgramType,
    structure: Structure,
    maps: Vec<MapDef>,
    proofs: Proofs,
    found: Found,
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
        self.found.most.insns
    }

    /// New bytes that one run brings at most, on any input.
    pub fn max_new_bytes(&self) -> u64 {
        // Edits of what is shown, edits of its clone, and data of the program's own: each has so much room.
        self.found.most.bytes.min(3 * limits::MAX_EDIT_BYTES as u64)
    }

    /// The verdicts that a run may end with.
    pub fn verdicts(&self) -> Verdicts {
        self.found.verdicts
    }

    /// The powers that the program uses.
    pub fn capabilities(&self) -> Capability {
        self.found.capabilities
    }

    /// What was proven about the instruction at `slot` on every path.
    pub fn proven(&self, slot: usize) -> Proven {
        self.proofs.at(slot)
    }

    /// What the helper that the instruction at `slot` calls is given as its argument `index` (0 is r1), if that is the
    /// same whenever a run comes there.
    pub fn argument(&self, slot: usize, index: usize) -> Option<Argument> {
        self.proofs.argument(slot, index)
    }

    /// Instructions that the verification walked.
    pub fn steps(&self) -> u32 {
        self.found.steps
    }

    /// Bytes of program stack that one run takes at most.
    pub fn stack_bytes(&self) -> usize {
        usize::from(self.found.frames) * limits::STACK_FRAME
    }

    /// States that the verification kept at most at one time, to compare others with.
    pub fn states(&self) -> u32 {
        self.found.states
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

    const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// What an argument of a helper's call always is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Argument {
    /// This number.
    Number(u64),
    /// The map of this index in [`Verified::maps`].
    Map(u8),
}

/// Addresses of the windows for which proofs hold; others, such as an empty window's that is nowhere, must be run on an
/// engine with checks. The arithmetic of packet pointers that this crate proves can't come round from there.
pub const WINDOW_ADDRESSES: core::ops::Range<u64> = 1 << 34..0_u64.wrapping_sub(1 << 42);

/// Proves a program, or says why it can't be.
///
/// # Errors
/// The first fact that was missing.
// A function of its own, so that its way to no panic and its stack can be told in an image.
#[inline(never)]
pub fn verify(program: &Program<'_>, options: &Options<'_>) -> Result<Verified, Refusal> {
    prove(program, options, Watcher::default())
}

/// [`verify`], and `watch` is told of everything that is claimed of a run.
///
/// # Errors
/// As for [`verify`].
#[cfg(feature = "claims")]
pub fn verify_watched(
    program: &Program<'_>,
    options: &Options<'_>,
    watch: &mut dyn claims::Watch,
) -> Result<Verified, Refusal> {
    prove(program, options, Watcher::new(watch))
}

fn prove(
    program: &Program<'_>,
    options: &Options<'_>,
    mut watcher: Watcher<'_>,
) -> Result<Verified, Refusal> {
    let mut memory = memory::Memory::new(options.memory.min(limits::MAX_VERIFY_MEMORY));
    let mut verified = Verified::unproven(program, &mut memory);
    if let Ok(Verified { structure, proofs, found, .. }) = &mut verified {
        let facts = Facts::new(proofs, &mut watcher);
        walk::explore(program, structure, options, &mut memory, facts, found)?;
    }
    verified
}

impl Verified {
    /// A program that is well formed, and of which nothing was proven yet.
    #[inline(never)]
    fn unproven(program: &Program<'_>, memory: &mut memory::Memory) -> Result<Self, Refusal> {
        let structure = Structure::check_within(program.code, program.maps, memory)?;
        let maps = memory.collect(program.maps.iter().copied())?;
        let proofs = Proofs::none(&structure, memory)?;
        Ok(Self { program_type: program.program_type, structure, maps, proofs, found: Found::default() })
    }
}

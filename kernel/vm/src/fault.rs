//! Faults: why a run ended without a result.

use core::fmt;

/// Why a run ended without a result, and at which instruction.
///
/// A verified program ends in one of these only when a helper says so, or when its budget is smaller than its proven cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Slot of the instruction.
    pub insn: u32,
    /// What happened there.
    pub cause: Cause,
}

/// What ended a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The budget of instructions is spent.
    Budget,
    /// A load, store, atomic or helper argument touched memory that is not the program's.
    Access {
        /// First byte that it touched.
        address: u64,
        /// Bytes that it touched.
        size: u64,
        /// Whether it would have written.
        write: bool,
    },
    /// An atomic operation on an address that is not a multiple of its size.
    Unaligned {
        /// The address.
        address: u64,
    },
    /// Calls nested deeper than [`MAX_CALL_DEPTH`](tidegate_abi::limits::MAX_CALL_DEPTH).
    CallDepth,
    /// A call through a register that holds neither the address of a function nor the number of a helper.
    CallTarget {
        /// What the register holds.
        value: u64,
    },
    /// The host has no helper with this number.
    UnknownHelper {
        /// The number.
        number: u32,
    },
    /// A helper refused to go on: the program broke a rule that only the host can check.
    Helper {
        /// A number that the host chose.
        status: i32,
    },
}

impl Fault {
    /// A fault as a host's helper reports it: the engine adds the instruction.
    pub const fn new(cause: Cause) -> Self {
        Self { insn: 0, cause }
    }
}

impl From<Cause> for Fault {
    fn from(cause: Cause) -> Self {
        Self::new(cause)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "instruction {}: {}", self.insn, self.cause)
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Budget => f.write_str("the budget of instructions is spent"),
            Self::Access { address, size, write } => {
                let what = if *write { "writes" } else { "reads" };
                write!(f, "{what} {size} bytes at {address:#x}, which is not the program's memory")
            }
            Self::Unaligned { address } => {
                write!(f, "an atomic operation needs an aligned address, not {address:#x}")
            }
            Self::CallDepth => f.write_str("calls are nested too deeply"),
            Self::CallTarget { value } => write!(f, "calls {value:#x}, which is no function"),
            Self::UnknownHelper { number } => write!(f, "there is no helper {number}"),
            Self::Helper { status } => write!(f, "a helper refused to go on (status {status})"),
        }
    }
}

impl core::error::Error for Fault {}

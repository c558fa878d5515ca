//! Decoding: well-formed bytecode to ops, once, with jumps resolved and maps bound.

use alloc::vec::Vec;
use core::fmt;

use tidegate_abi::Insn;
use tidegate_abi::insn::{alu, call, class, jmp, mode, pseudo, size, source};
use tidegate_verifier::Refusal;
use tidegate_verifier::structure::{self, AtomicOp, Structure};

use crate::memory::MapBinding;
use crate::op::{Op, Reg, SHIFT, tables};

/// Why a program could not be made executable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CompileError {
    /// The bytecode is not well formed.
    Malformed(Refusal),
    /// There is not enough memory for the ops.
    NoMemory,
    /// The program names another number of maps than there are bindings.
    Bindings {
        /// Maps that the program names.
        maps: usize,
        /// Bindings that were given.
        bindings: usize,
    },
    /// The instruction takes the address of a value, and the map's binding has no memory.
    NoMapMemory {
        /// Slot of the instruction.
        insn: usize,
        /// Index of the map.
        map: u32,
    },
    /// An instruction that the engine does not know.
    Unknown {
        /// Its slot.
        insn: usize,
    },
}

impl From<Refusal> for CompileError {
    fn from(refusal: Refusal) -> Self {
        Self::Malformed(refusal)
    }
}

impl fmt::Display for CompileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed(refusal) => write!(f, "instruction {}: {refusal}", refusal.insn),
            Self::NoMemory => f.write_str("there is not enough memory for the program"),
            Self::Bindings { maps, bindings } => {
                write!(f, "the program names {maps} maps, and {bindings} were bound")
            }
            Self::NoMapMemory { insn, map } => {
                write!(f, "instruction {insn}: map {map} has no memory that a program may point to")
            }
            Self::Unknown { insn } => write!(f, "instruction {insn}: the engine does not know it"),
        }
    }
}

impl core::error::Error for CompileError {}

/// What a function of the program is to the program: a number that is no address, and above all helpers' numbers.
pub(crate) const FUNCTION_BASE: u64 = 1 << 32;

/// One op for each slot.
pub(crate) fn decode(program: &Structure, maps: &[MapBinding]) -> Result<Vec<Op>, CompileError> {
    let insns = program.insns();
    let mut ops = Vec::new();
    ops.try_reserve_exact(insns.len()).map_err(|_| CompileError::NoMemory)?;
    for slot in 0..insns.len() {
        // Nothing leads to the second half of a load; a jump to the next op stands in its place.
        let op = if program.is_second_half(slot) { Op::Jump { skip: 0 } } else { op(slot, insns, maps)? };
        ops.push(op);
    }
    Ok(ops)
}

fn op(slot: usize, insns: &[Insn], maps: &[MapBinding]) -> Result<Op, CompileError> {
    let unknown = CompileError::Unknown { insn: slot };
    let insn = insns.get(slot).copied().ok_or(unknown)?;
    let known = match insn.class() {
        class::ALU | class::ALU64 => arithmetic(insn),
        class::JMP | class::JMP32 => jump(slot, insn),
        class::LD => return constant(slot, insn, insns.get(slot + 1), maps),
        _ => access(insn),
    };
    known.ok_or(unknown)
}

fn arithmetic(insn: Insn) -> Option<Op> {
    let (dst, src, imm) = (Reg::new(insn.dst())?, Reg::new(insn.src())?, insn.imm);
    let wide = insn.class() == class::ALU64;
    let register = insn.opcode & source::X != 0;
    match (insn.opcode & 0xf0, wide) {
        (alu::NEG, true) => return Some(Op::Neg64 { dst }),
        (alu::NEG, false) => return Some(Op::Neg32 { dst }),
        (alu::END, _) => {
            let swap = wide || register;
            return Some(match (swap, imm) {
                (true, 16) => Op::Swap16 { dst },
                (true, 32) => Op::Swap32 { dst },
                (true, 64) => Op::Swap64 { dst },
                (false, 16) => Op::Low16 { dst },
                (false, 32) => Op::Low32 { dst },
                (false, 64) => Op::Mov64 { dst, src: dst },
                _ => return None,
            });
        }
        (alu::MOV, wide) if insn.offset != 0 => {
            return Some(match (insn.offset, wide) {
                (8, true) => Op::Extend8 { dst, src },
                (16, true) => Op::Extend16 { dst, src },
                (32, true) => Op::Extend32 { dst, src },
                (8, false) => Op::Extend8To32 { dst, src },
                (16, false) => Op::Extend16To32 { dst, src },
                _ => return None,
            });
        }
        _ => {}
    }
    macro_rules! pick {
        (
            arithmetic { $( $alu:ident $variant:literal $alu_fn:ident $r64:ident $k64:ident $r32:ident $k32:ident, )* }
            $($rest:tt)*
        ) => {
            Some(match (insn.opcode & 0xf0, insn.offset, wide, register) {
                $(
                    (alu::$alu, $variant, true, true) => Op::$r64 { dst, src },
                    (alu::$alu, $variant, true, false) => Op::$k64 { dst, imm },
                    (alu::$alu, $variant, false, true) => Op::$r32 { dst, src },
                    (alu::$alu, $variant, false, false) => Op::$k32 { dst, imm },
                )*
                _ => return None,
            })
        };
    }
    tables!(pick)
}

fn jump(slot: usize, insn: Insn) -> Option<Op> {
    let (dst, src, imm) = (Reg::new(insn.dst())?, Reg::new(insn.src())?, insn.imm);
    let target = structure::jump_target(slot, insn).or_else(|| structure::function_target(slot, insn));
    let skip = i32::try_from((target.unwrap_or(0) - slot as i64 - 1) << SHIFT).ok()?;
    let wide = insn.class() == class::JMP;
    let register = insn.opcode & source::X != 0;
    macro_rules! pick {
        (
            arithmetic { $($arithmetic:tt)* }
            compare { $( $jmp:ident $jmp_fn:ident $r64:ident $k64:ident $r32:ident $k32:ident, )* }
            $($rest:tt)*
        ) => {
            Some(match (insn.opcode & 0xf0, wide, register) {
                (jmp::JA, _, false) => Op::Jump { skip },
                (jmp::CALL, true, true) => Op::CallRegister { dst },
                (jmp::CALL, true, false) if insn.src() == call::LOCAL => Op::Call { skip },
                (jmp::CALL, true, false) if insn.src() == call::HELPER => Op::Helper { number: imm as u32 },
                (jmp::EXIT, true, false) => Op::Exit,
                $(
                    (jmp::$jmp, true, true) => Op::$r64 { dst, src, skip },
                    (jmp::$jmp, true, false) => Op::$k64 { dst, imm, skip },
                    (jmp::$jmp, false, true) => Op::$r32 { dst, src, skip },
                    (jmp::$jmp, false, false) => Op::$k32 { dst, imm, skip },
                )*
                _ => return None,
            })
        };
    }
    tables!(pick)
}

fn access(insn: Insn) -> Option<Op> {
    let (dst, src) = (Reg::new(insn.dst())?, Reg::new(insn.src())?);
    let (offset, imm) = (insn.offset, insn.imm);
    let width = insn.opcode & 0x18;
    macro_rules! pick {
        (
            arithmetic { $($arithmetic:tt)* }
            compare { $($compare:tt)* }
            access { $( $size:ident $ty:ident $signed:ident $load:ident $load_signed:ident $store:ident $store_imm:ident, )* }
        ) => {
            Some(match (insn.class(), insn.opcode & 0xe0, width) {
                $(
                    (class::LDX, mode::MEM, size::$size) => Op::$load { dst, src, offset },
                    (class::LDX, mode::MEMSX, size::$size) => Op::$load_signed { dst, src, offset },
                    (class::STX, mode::MEM, size::$size) => Op::$store { dst, src, offset },
                    (class::ST, mode::MEM, size::$size) => Op::$store_imm { dst, offset, imm },
                )*
                (class::STX, mode::ATOMIC, size::W) => Op::Atomic32 { dst, src, offset, op: AtomicOp::of(insn)? },
                (class::STX, mode::ATOMIC, size::DW) => Op::Atomic64 { dst, src, offset, op: AtomicOp::of(insn)? },
                _ => return None,
            })
        };
    }
    tables!(pick)
}

fn constant(slot: usize, insn: Insn, second: Option<&Insn>, maps: &[MapBinding]) -> Result<Op, CompileError> {
    let unknown = CompileError::Unknown { insn: slot };
    let dst = Reg::new(insn.dst()).ok_or(unknown)?;
    let second = second.ok_or(unknown)?.imm as u32;
    let map = insn.imm as u32;
    let binding = || {
        let bindings = CompileError::Bindings { maps: map as usize + 1, bindings: maps.len() };
        maps.get(map as usize).ok_or(bindings)
    };
    let value = match insn.src() {
        pseudo::NUMBER => u64::from(map) | u64::from(second) << 32,
        pseudo::FUNC => FUNCTION_BASE + structure::function_target(slot, insn).ok_or(unknown)? as u64,
        pseudo::MAP_IDX => binding()?.handle,
        pseudo::MAP_IDX_VALUE => {
            let memory = binding()?.memory.as_ref().ok_or(CompileError::NoMapMemory { insn: slot, map })?;
            memory.address() + u64::from(second)
        }
        _ => return Err(unknown),
    };
    Ok(Op::Constant { dst, value })
}

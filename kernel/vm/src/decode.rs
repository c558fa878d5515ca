//! Decoding: well-formed bytecode to ops, once, with jumps resolved and maps bound.

use alloc::vec::Vec;
use core::fmt;

use tidegate_abi::insn::{alu, call, class, jmp, mode, pseudo, size, source};
use tidegate_abi::{Insn, limits};
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
    /// Engines without checks want every access proven, and this one is not.
    Unproven {
        /// Slot of the instruction.
        insn: usize,
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
            Self::Unproven { insn } => write!(f, "instruction {insn}: its access to memory is not proven"),
            Self::Unknown { insn } => write!(f, "instruction {insn}: the engine does not know it"),
        }
    }
}

impl core::error::Error for CompileError {}

/// What a function of the program is to the program: a number that is no address, and above all helpers' numbers.
pub(crate) const FUNCTION_BASE: u64 = 1 << 32;

/// A function of a program.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Function {
    /// Its first slot.
    pub(crate) slot: u32,
    /// Bytes of its frame that are zeroed when it is entered.
    pub(crate) clear: u16,
}

/// The functions of a program, in the order of their slots.
pub(crate) fn functions(program: &Structure) -> Result<Vec<Function>, CompileError> {
    let mut functions = Vec::new();
    functions.try_reserve_exact(program.functions().len()).map_err(|_| CompileError::NoMemory)?;
    for (index, slot) in program.functions().iter().enumerate() {
        let code = program.insns().get(program.function_range(index)).unwrap_or_default();
        if functions.len() == functions.capacity() {
            return Err(CompileError::NoMemory);
        }
        functions.push(Function { slot: *slot, clear: frame_bytes(code) });
    }
    Ok(functions)
}

/// One op for each slot.
pub(crate) fn decode(
    program: &Structure,
    functions: &[Function],
    maps: &[MapBinding],
) -> Result<Vec<Op>, CompileError> {
    let insns = program.insns();
    let mut ops = Vec::new();
    ops.try_reserve_exact(insns.len()).map_err(|_| CompileError::NoMemory)?;
    for (slot, insn) in insns.iter().copied().enumerate() {
        // There is room for all. The compiler does not know, and would have the vector grow, which ends the machine when it fails.
        if ops.len() == ops.capacity() {
            return Err(CompileError::NoMemory);
        }
        // Nothing leads to the second half of a load; a jump to the next op stands in its place.
        if program.is_second_half(slot) {
            ops.push(Op::Jump { skip: 0 });
            continue;
        }
        let known = match insn.class() {
            class::ALU | class::ALU64 => arithmetic(insn),
            class::JMP | class::JMP32 => jump(slot, insn, functions),
            class::LD => Some(constant(slot, insn, insns.get(slot + 1), maps)?),
            _ => access(insn),
        };
        ops.push(known.ok_or(CompileError::Unknown { insn: slot })?);
    }
    Ok(ops)
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

fn jump(slot: usize, insn: Insn, functions: &[Function]) -> Option<Op> {
    let (dst, src, imm) = (Reg::new(insn.dst())?, Reg::new(insn.src())?, insn.imm);
    let target = structure::jump_target(slot, insn).or_else(|| structure::function_target(slot, insn));
    let skip = i32::try_from((target.unwrap_or(0) - slot as i64 - 1) << SHIFT).ok()?;
    let clear = || {
        let function = functions.binary_search_by_key(&target?, |function| function.slot.into()).ok()?;
        Some(functions.get(function)?.clear)
    };
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
                (jmp::CALL, true, false) if insn.src() == call::LOCAL => Op::Call { skip, clear: clear()? },
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
            access { $( $size:ident $ty:ident $signed:ident $load:ident $load_signed:ident $store:ident $store_imm:ident
                $load_frame:ident $store_frame:ident $store_frame_imm:ident, )* }
            $($rest:tt)*
        ) => {
            Some(match (insn.class(), insn.opcode & 0xe0, width) {
                $(
                    (class::LDX, mode::MEM, size::$size) if in_frame(src, offset, size_of::<$ty>()) => {
                        Op::$load_frame { dst, offset }
                    }
                    (class::STX, mode::MEM, size::$size) if in_frame(dst, offset, size_of::<$ty>()) => {
                        Op::$store_frame { src, offset }
                    }
                    (class::ST, mode::MEM, size::$size) if in_frame(dst, offset, size_of::<$ty>()) => {
                        Op::$store_frame_imm { offset, imm }
                    }
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

/// Whether an access lies in the frame of its function whatever happens: r10 never changes.
fn in_frame(base: Reg, offset: i16, size: usize) -> bool {
    let below = i64::from(offset);
    base == Reg::R10 && below >= -(limits::STACK_FRAME as i64) && below <= -(size as i64)
}

/// Bytes below r10 that the function with this code may look at, a multiple of eight: what is zeroed when it is entered.
fn frame_bytes(function: &[Insn]) -> u16 {
    let whole = limits::STACK_FRAME as u16;
    let below = |insn: &Insn| insn.offset.min(0).unsigned_abs().next_multiple_of(8).min(whole);
    let bytes = |insn: &Insn| match insn.class() {
        class::LD => 0,
        class::LDX if insn.src() == 10 => below(insn),
        class::ST | class::STX if insn.dst() == 10 && insn.src() != 10 => below(insn),
        // Whoever gets a copy of r10 may look anywhere.
        _ if insn.dst() == 10 || insn.src() == 10 => whole,
        _ => 0,
    };
    function.iter().map(bytes).max().unwrap_or(0)
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

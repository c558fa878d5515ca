//! Structure: what can be said of a program without running it, by RFC 9669.
//!
//! Opcodes, registers, reserved fields, jump and call targets, function boundaries, and the maps that loads name. The
//! verifier starts here, and so does an engine that runs a program unproven: there is no other implementation of these
//! rules. All conformance groups but `packet` are known.

use alloc::vec::Vec;

use tidegate_abi::insn::{alu, atomic, call, class, jmp, mode, pseudo, size, source};
use tidegate_abi::{Insn, MapDef, MapKind, limits};

use crate::memory::{Memory, append};
use crate::refusal::{Reason, Refusal};

/// A program whose every instruction is well formed.
#[derive(Debug)]
pub struct Structure {
    insns: Vec<Insn>,
    marks: Vec<u8>,
    functions: Vec<u32>,
}

/// The slot is the second half of a 64-bit immediate load.
const SECOND_HALF: u8 = 1 << 0;
/// A jump leads here.
const TARGET: u8 = 1 << 1;
/// A function starts here.
const FUNCTION: u8 = 1 << 2;

impl Structure {
    /// Holds a program against the rules; `memory` bounds the bytes that this may allocate.
    ///
    /// # Errors
    /// The first instruction that breaks a rule.
    pub fn check(code: &[u8], maps: &[MapDef], memory: usize) -> Result<Self, Refusal> {
        Self::check_within(code, maps, &mut Memory::new(memory))
    }

    pub(crate) fn check_within(code: &[u8], maps: &[MapDef], memory: &mut Memory) -> Result<Self, Refusal> {
        let whole = |reason| Refusal::new(0, reason);
        let slots = Insn::slots(code).ok_or(whole(Reason::Length { bytes: code.len() }))?;
        if slots.len() == 0 {
            return Err(whole(Reason::Empty));
        }
        if slots.len() > limits::MAX_INSNS {
            return Err(whole(Reason::TooLong { insns: slots.len() }));
        }
        if maps.len() > limits::MAX_MAPS {
            return Err(whole(Reason::TooManyMaps { maps: maps.len() }));
        }
        for (at, map) in maps.iter().enumerate() {
            map.check().map_err(|error| whole(Reason::MapDef { map: at as u32, error }))?;
        }
        let mut insns = Vec::new();
        memory.reserve_exact(&mut insns, slots.len())?;
        for slot in slots {
            append(&mut insns, slot)?;
        }
        let marks = memory.filled(insns.len(), 0)?;
        let mut this = Self { insns, marks, functions: Vec::new() };
        this.check_each(maps)?;
        this.check_targets()?;
        this.find_functions(memory).map_err(whole)?;
        this.check_flow()?;
        Ok(this)
    }

    /// The slots of the program.
    pub fn insns(&self) -> &[Insn] {
        &self.insns
    }

    /// The instruction at `slot`.
    pub fn insn(&self, slot: usize) -> Option<Insn> {
        self.insns.get(slot).copied()
    }

    /// Start slots of the functions, rising; the first is 0, the entry.
    pub fn functions(&self) -> &[u32] {
        &self.functions
    }

    /// Whether a function starts at `slot`: the entry, a local call's target or the target of a code address.
    pub fn is_function(&self, slot: usize) -> bool {
        self.has(slot, FUNCTION)
    }

    /// Whether a jump leads to `slot`.
    pub fn is_jump_target(&self, slot: usize) -> bool {
        self.has(slot, TARGET)
    }

    /// Whether `slot` is the second half of a 64-bit immediate load, and so no instruction.
    pub fn is_second_half(&self, slot: usize) -> bool {
        self.has(slot, SECOND_HALF)
    }

    /// Index into [`functions`](Self::functions) of the function that `slot` belongs to.
    pub fn function_of(&self, slot: usize) -> usize {
        self.functions.partition_point(|start| *start as usize <= slot).saturating_sub(1)
    }

    /// Slots from the start of function `index` to its end.
    pub fn function_range(&self, index: usize) -> core::ops::Range<usize> {
        let start = self.functions.get(index).map_or(self.insns.len(), |start| *start as usize);
        start..self.functions.get(index + 1).map_or(self.insns.len(), |end| *end as usize)
    }

    /// Where the plain jump at `slot` leads, when there is one.
    pub(crate) fn plain_jump(&self, slot: usize) -> Option<usize> {
        let insn = self.insn(slot).filter(|insn| insn.opcode & 0xf0 == jmp::JA && ends_flow(*insn))?;
        Some(jump_target(slot, insn).and_then(|target| usize::try_from(target).ok()).unwrap_or(slot))
    }

    fn has(&self, slot: usize, mark: u8) -> bool {
        self.marks.get(slot).is_some_and(|marks| marks & mark != 0)
    }

    fn mark(&mut self, slot: usize, mark: u8) {
        if let Some(marks) = self.marks.get_mut(slot) {
            *marks |= mark;
        }
    }

    /// Every instruction on its own.
    fn check_each(&mut self, maps: &[MapDef]) -> Result<(), Refusal> {
        let mut slot = 0;
        while let Some(insn) = self.insn(slot) {
            let second = self.insn(slot + 1);
            check_insn(insn, second, maps).map_err(|reason| Refusal::new(slot, reason))?;
            slot += width(insn);
            if width(insn) == 2 {
                self.mark(slot - 1, SECOND_HALF);
            }
        }
        Ok(())
    }

    /// Every jump, call and code address leads to an instruction.
    fn check_targets(&mut self) -> Result<(), Refusal> {
        for slot in 0..self.insns.len() {
            let Some(insn) = self.insn(slot).filter(|_| !self.is_second_half(slot)) else { continue };
            let (target, mark) = if let Some(target) = jump_target(slot, insn) {
                (target, TARGET)
            } else if let Some(target) = function_target(slot, insn) {
                (target, FUNCTION)
            } else {
                continue;
            };
            let at = usize::try_from(target).ok().filter(|at| *at < self.insns.len());
            let at = at.ok_or(Refusal::new(slot, Reason::TargetOutside { target }))?;
            if self.is_second_half(at) {
                return Err(Refusal::new(slot, Reason::TargetInsideLoad { target: at as u32 }));
            }
            self.mark(at, mark);
        }
        self.mark(0, FUNCTION);
        Ok(())
    }

    fn find_functions(&mut self, memory: &mut Memory) -> Result<(), Reason> {
        let count = self.marks.iter().filter(|marks| *marks & FUNCTION != 0).count();
        memory.reserve(&mut self.functions, count)?;
        let starts = self.marks.iter().enumerate().filter(|(_, marks)| *marks & FUNCTION != 0);
        for (slot, _) in starts {
            append(&mut self.functions, slot as u32)?;
        }
        Ok(())
    }

    /// Control stays inside a function: by jumps, and at its last instruction.
    fn check_flow(&self) -> Result<(), Refusal> {
        for (index, _) in self.functions.iter().enumerate() {
            let range = self.function_range(index);
            let mut slot = range.start;
            while let Some(insn) = self.insn(slot).filter(|_| range.contains(&slot)) {
                if let Some(target) = jump_target(slot, insn) {
                    let inside = usize::try_from(target).is_ok_and(|target| range.contains(&target));
                    if !inside {
                        return Err(Refusal::new(slot, Reason::JumpAcross { target }));
                    }
                }
                let next = slot + width(insn);
                if next >= range.end && !ends_flow(insn) {
                    return Err(Refusal::new(slot, Reason::FallThrough));
                }
                slot = next;
            }
        }
        Ok(())
    }
}

/// Slots that an instruction takes.
pub const fn width(insn: Insn) -> usize {
    if insn.opcode == class::LD | mode::IMM | size::DW { 2 } else { 1 }
}

/// The slot that a jump at `slot` leads to when it is taken; `None` for what isn't a jump.
pub fn jump_target(slot: usize, insn: Insn) -> Option<i64> {
    let distance = match (insn.class(), insn.opcode & 0xf0) {
        (class::JMP | class::JMP32, jmp::CALL | jmp::EXIT) => return None,
        (class::JMP32, jmp::JA) => i64::from(insn.imm),
        (class::JMP | class::JMP32, _) => i64::from(insn.offset),
        _ => return None,
    };
    Some(slot as i64 + 1 + distance)
}

/// The slot of the function that a local call or the load of a code address at `slot` names: for both, `imm` counts
/// from the slot behind `slot`.
pub fn function_target(slot: usize, insn: Insn) -> Option<i64> {
    let is_call = insn.opcode == class::JMP | jmp::CALL | source::K && insn.src() == call::LOCAL;
    let is_address = width(insn) == 2 && insn.src() == pseudo::FUNC;
    (is_call || is_address).then(|| slot as i64 + 1 + i64::from(insn.imm))
}

/// Whether control never goes on to the next instruction.
pub const fn ends_flow(insn: Insn) -> bool {
    matches!(
        (insn.class(), insn.opcode & 0xf0),
        (class::JMP, jmp::EXIT) | (class::JMP | class::JMP32, jmp::JA)
    )
}

/// The fields of an instruction, for [`Reason::Reserved`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the RFC's names")]
pub enum FieldName {
    Dst,
    Src,
    Offset,
    Imm,
    SecondSlot,
}

fn zero(value: i64, field: FieldName) -> Result<(), Reason> {
    if value == 0 { Ok(()) } else { Err(Reason::Reserved { field, value }) }
}

fn readable(register: u8) -> Result<(), Reason> {
    if register <= 10 { Ok(()) } else { Err(Reason::NoSuchRegister { register }) }
}

fn writable(register: u8) -> Result<(), Reason> {
    readable(register)?;
    if register == 10 { Err(Reason::FramePointerWrite) } else { Ok(()) }
}

/// The second operand of arithmetic and jumps: a register and no immediate, or an immediate and no register.
fn operand(insn: Insn) -> Result<(), Reason> {
    if insn.opcode & source::X == 0 {
        zero(insn.src().into(), FieldName::Src)
    } else {
        readable(insn.src())?;
        zero(insn.imm.into(), FieldName::Imm)
    }
}

fn check_insn(insn: Insn, second: Option<Insn>, maps: &[MapDef]) -> Result<(), Reason> {
    match insn.class() {
        class::ALU | class::ALU64 => check_alu(insn),
        class::JMP | class::JMP32 => check_jump(insn),
        class::LD => check_load_imm(insn, second, maps),
        class::LDX => check_load(insn),
        _ => check_store(insn),
    }
}

fn check_alu(insn: Insn) -> Result<(), Reason> {
    let unknown = Err(Reason::UnknownOpcode { opcode: insn.opcode });
    let wide = insn.class() == class::ALU64;
    let register = insn.opcode & source::X != 0;
    let op = insn.opcode & 0xf0;
    let variant = match op {
        alu::END => {
            if wide && register {
                return unknown;
            }
            zero(insn.src().into(), FieldName::Src)?;
            if !matches!(insn.imm, 16 | 32 | 64) {
                return Err(Reason::Swap { width: insn.imm });
            }
            insn.offset == 0
        }
        alu::NEG => {
            if register {
                return unknown;
            }
            zero(insn.src().into(), FieldName::Src)?;
            zero(insn.imm.into(), FieldName::Imm)?;
            insn.offset == 0
        }
        alu::DIV | alu::MOD => {
            operand(insn)?;
            matches!(insn.offset, 0 | 1)
        }
        alu::MOV if register => {
            operand(insn)?;
            matches!(insn.offset, 0 | 8 | 16) || wide && insn.offset == 32
        }
        alu::ADD | alu::SUB | alu::MUL | alu::OR | alu::AND | alu::LSH | alu::RSH => {
            operand(insn)?;
            insn.offset == 0
        }
        alu::XOR | alu::MOV | alu::ARSH => {
            operand(insn)?;
            insn.offset == 0
        }
        _ => return unknown,
    };
    if !variant {
        return Err(Reason::Reserved { field: FieldName::Offset, value: insn.offset.into() });
    }
    writable(insn.dst())
}

fn check_jump(insn: Insn) -> Result<(), Reason> {
    let unknown = Err(Reason::UnknownOpcode { opcode: insn.opcode });
    let register = insn.opcode & source::X != 0;
    let wide = insn.class() == class::JMP;
    match insn.opcode & 0xf0 {
        jmp::JA if !register => {
            zero(insn.dst().into(), FieldName::Dst)?;
            zero(insn.src().into(), FieldName::Src)?;
            if wide {
                zero(insn.imm.into(), FieldName::Imm)
            } else {
                zero(insn.offset.into(), FieldName::Offset)
            }
        }
        jmp::CALL if wide && register => {
            readable(insn.dst())?;
            zero(insn.src().into(), FieldName::Src)?;
            zero(insn.offset.into(), FieldName::Offset)?;
            zero(insn.imm.into(), FieldName::Imm)
        }
        jmp::CALL if wide => {
            zero(insn.dst().into(), FieldName::Dst)?;
            zero(insn.offset.into(), FieldName::Offset)?;
            if matches!(insn.src(), call::HELPER | call::LOCAL) {
                Ok(())
            } else {
                Err(Reason::CallKind { src: insn.src() })
            }
        }
        jmp::EXIT if wide && !register => {
            zero(insn.dst().into(), FieldName::Dst)?;
            zero(insn.src().into(), FieldName::Src)?;
            zero(insn.offset.into(), FieldName::Offset)?;
            zero(insn.imm.into(), FieldName::Imm)
        }
        jmp::JEQ | jmp::JGT | jmp::JGE | jmp::JSET | jmp::JNE | jmp::JSGT | jmp::JSGE => {
            operand(insn)?;
            readable(insn.dst())
        }
        jmp::JLT | jmp::JLE | jmp::JSLT | jmp::JSLE => {
            operand(insn)?;
            readable(insn.dst())
        }
        _ => unknown,
    }
}

fn check_load_imm(insn: Insn, second: Option<Insn>, maps: &[MapDef]) -> Result<(), Reason> {
    if matches!(insn.opcode & 0xe0, mode::ABS | mode::IND) {
        return Err(Reason::PacketLoad { opcode: insn.opcode });
    }
    if width(insn) != 2 {
        return Err(Reason::UnknownOpcode { opcode: insn.opcode });
    }
    writable(insn.dst())?;
    zero(insn.offset.into(), FieldName::Offset)?;
    let second = second.ok_or(Reason::HalfLoad)?;
    if second.opcode != 0 || second.regs != 0 || second.offset != 0 {
        return Err(Reason::HalfLoad);
    }
    let map = || {
        let index = insn.imm as u32;
        maps.get(index as usize).ok_or(Reason::NoSuchMap { index, maps: maps.len() as u32 })
    };
    match insn.src() {
        pseudo::NUMBER => Ok(()),
        pseudo::FUNC => zero(second.imm.into(), FieldName::SecondSlot),
        pseudo::MAP_IDX => {
            map()?;
            zero(second.imm.into(), FieldName::SecondSlot)
        }
        pseudo::MAP_IDX_VALUE => {
            let map = map()?;
            let offset = second.imm as u32;
            if map.kind != MapKind::Array {
                Err(Reason::NotAnArray { index: insn.imm as u32 })
            } else if offset >= map.value_size {
                Err(Reason::OutsideValue { offset, value_size: map.value_size })
            } else {
                Ok(())
            }
        }
        src => Err(Reason::LoadKind { src }),
    }
}

fn check_load(insn: Insn) -> Result<(), Reason> {
    let known = match insn.opcode & 0xe0 {
        mode::MEM => true,
        mode::MEMSX => insn.opcode & 0x18 != size::DW,
        _ => false,
    };
    if !known {
        return Err(Reason::UnknownOpcode { opcode: insn.opcode });
    }
    writable(insn.dst())?;
    readable(insn.src())?;
    zero(insn.imm.into(), FieldName::Imm)
}

fn check_store(insn: Insn) -> Result<(), Reason> {
    readable(insn.dst())?;
    let immediate = insn.class() == class::ST;
    match insn.opcode & 0xe0 {
        mode::MEM if immediate => zero(insn.src().into(), FieldName::Src),
        mode::MEM => {
            readable(insn.src())?;
            zero(insn.imm.into(), FieldName::Imm)
        }
        mode::ATOMIC if !immediate && matches!(insn.opcode & 0x18, size::W | size::DW) => {
            match AtomicOp::of(insn).ok_or(Reason::UnknownAtomic { imm: insn.imm })? {
                op if op.fetches_into_src() => writable(insn.src()),
                _ => readable(insn.src()),
            }
        }
        _ => Err(Reason::UnknownOpcode { opcode: insn.opcode }),
    }
}

/// What an atomic instruction does to memory (RFC 9669 section 5.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AtomicOp {
    /// Add, or, and, xor: the operation as [`alu`] numbers it, and whether the old value goes to the source register.
    Alu(u8, bool),
    /// Exchange; the old value goes to the source register.
    Exchange,
    /// Compare with r0 and exchange; the old value goes to r0.
    CompareExchange,
}

impl AtomicOp {
    /// The operation in the immediate of `insn`, when it is one.
    pub const fn of(insn: Insn) -> Option<Self> {
        match insn.imm {
            atomic::XCHG => Some(Self::Exchange),
            atomic::CMPXCHG => Some(Self::CompareExchange),
            imm => match (imm & !atomic::FETCH) as u8 {
                op @ (alu::ADD | alu::OR | alu::AND | alu::XOR) if imm & !0xff == 0 => {
                    Some(Self::Alu(op, imm & atomic::FETCH != 0))
                }
                _ => None,
            },
        }
    }

    /// Whether the source register gets the old value.
    pub const fn fetches_into_src(self) -> bool {
        matches!(self, Self::Alu(_, true) | Self::Exchange)
    }
}

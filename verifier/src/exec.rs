//! What one instruction does to a state, and what it needs to be allowed.

mod arithmetic;
mod branch;
mod calls;
mod memory_access;

use alloc::vec::Vec;
use core::cell::Cell;

use tidegate_abi::helper::Capability;
use tidegate_abi::insn::{alu, class, jmp, pseudo, source};
use tidegate_abi::{Insn, MapDef, Verdict, Verdicts};

use crate::Program;
use crate::domain::Scalar;
use crate::facts::Facts;
use crate::memory::{Memory, OutOfMemory};
use crate::needs::Need;
use crate::refusal::{Known, Leak, Reason};
use crate::state::{State, Told};
use crate::structure::{self, Structure};
use crate::value::{ANCHOR, ANY, Kind, NO_MORE_DATA, Symbol, Value};

/// Where control goes after an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flow {
    /// To one place.
    Go(usize),
    /// To one of two, by a comparison.
    Fork {
        /// When it fails.
        next: usize,
        /// When it holds.
        target: usize,
    },
    /// The run is over.
    Exit,
}

/// Why a walk can't go on. What an instruction lacked is written down in the machine: it is large, and would fill a kernel's
/// stack on its way up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    Refused,
    Endless,
    Steps,
    Cancelled,
    OutOfMemory,
}

impl From<OutOfMemory> for Stop {
    fn from(OutOfMemory: OutOfMemory) -> Self {
        Self::OutOfMemory
    }
}

/// The abstract machine: everything about a run but its state.
pub(crate) struct Machine<'a> {
    pub(crate) program: &'a Program<'a>,
    pub(crate) structure: &'a Structure,
    pub(crate) needs: Vec<Need>,
    pub(crate) memory: &'a mut Memory,
    pub(crate) facts: Facts<'a>,
    pub(crate) capabilities: Capability,
    pub(crate) verdicts: Verdicts,
    /// New bytes that the edits of one instruction may bring, since it was asked last.
    pub(crate) brought: u64,
    /// Frames that were in use at most.
    pub(crate) frames: u8,
    /// What the last instruction that was refused lacked.
    refused: Cell<Option<Reason>>,
    last_symbol: Symbol,
    last_anchor: Symbol,
}

impl<'a> Machine<'a> {
    pub(crate) fn new(
        program: &'a Program<'a>,
        structure: &'a Structure,
        needs: Vec<Need>,
        memory: &'a mut Memory,
        facts: Facts<'a>,
    ) -> Self {
        Self {
            program,
            structure,
            needs,
            memory,
            facts,
            capabilities: Capability::NONE,
            verdicts: Verdicts::default(),
            brought: 0,
            frames: 1,
            refused: Cell::new(None),
            last_symbol: 0,
            last_anchor: ANCHOR,
        }
    }

    /// Writes down what is missing.
    #[inline(never)]
    fn refuse(&self, reason: Reason) -> Stop {
        self.refused.set(Some(reason));
        Stop::Refused
    }

    /// What was missing when the machine refused an instruction.
    pub(crate) fn refused(&self) -> Option<Reason> {
        self.refused.get()
    }

    /// A name that nothing has. A verification would need billions of steps to run out of them.
    pub(crate) fn fresh(&mut self) -> Symbol {
        self.last_symbol = (self.last_symbol + 1).min(NO_MORE_DATA - 1);
        self.last_symbol
    }

    /// A name for what a round of a loop starts with.
    pub(crate) fn anchor(&mut self) -> Symbol {
        self.last_anchor = (self.last_anchor + 1).min(ANY - 1);
        self.last_anchor
    }

    /// A number with a name of its own.
    fn number(&mut self, num: Scalar) -> Value {
        if num.value().is_some() { Value::number(num) } else { Value::number(num).named(self.fresh()) }
    }

    fn map(&self, index: u8) -> Result<&'a MapDef, Stop> {
        let maps = self.program.maps;
        maps.get(usize::from(index))
            .ok_or_else(|| self.refuse(Reason::NoSuchMap { index: index.into(), maps: maps.len() as u32 }))
    }

    /// The value of a register that the instruction reads.
    fn read(&self, state: &State, register: u8) -> Result<Value, Stop> {
        let value = state.reg(register);
        match value.kind {
            Kind::Nothing => Err(self.refuse(Reason::NotReadable { register })),
            Kind::Released => Err(self.refuse(Reason::UsedAfterRelease { register, since: value.since })),
            _ => Ok(value),
        }
    }

    /// The second operand of arithmetic and jumps: a register, or the immediate with its sign extended.
    pub(crate) fn operand(&self, state: &State, insn: Insn) -> Result<Value, Stop> {
        if insn.opcode & source::X == 0 {
            Ok(Value::constant(i64::from(insn.imm) as u64))
        } else {
            self.read(state, insn.src())
        }
    }

    fn write(&self, state: &mut State, register: u8, value: Value, slot: usize) {
        state.set(register, Value { since: slot as u32, ..value });
    }

    /// Goes through the plain jumps at `slot`, if any. Returns where control is then, and how many there were.
    pub(crate) fn pass_jumps(&mut self, state: &State, mut slot: usize) -> (usize, u64) {
        // A ring of jumps is left to the walk.
        for jumps in 0..16 {
            let Some(next) = self.structure.plain_jump(slot) else { return (slot, jumps) };
            self.facts.reached(slot, state);
            slot = next;
        }
        (slot, 16)
    }

    /// Runs the instruction at `slot` on `state`.
    pub(crate) fn step(&mut self, state: &mut State, slot: usize) -> Result<Flow, Stop> {
        let insn = self.structure.insn(slot).ok_or_else(|| self.refuse(Reason::FallThrough))?;
        self.facts.reached(slot, state);
        let next = slot + structure::width(insn);
        match insn.class() {
            class::ALU | class::ALU64 => match insn.opcode & 0xf0 {
                alu::MOV => self.copy(state, slot, insn)?,
                alu::END => self.swap(state, slot, insn)?,
                _ => self.combine(state, slot, insn)?,
            },
            class::LD => self.load_imm(state, slot, insn)?,
            class::LDX => self.load(state, slot, insn)?,
            class::ST | class::STX => self.store(state, slot, insn)?,
            _ => return self.jump(state, slot, insn, next),
        }
        Ok(Flow::Go(next))
    }

    #[inline(never)]
    fn load_imm(&mut self, state: &mut State, slot: usize, insn: Insn) -> Result<(), Stop> {
        let second = self.structure.insn(slot + 1).map_or(0, |second| second.imm as u32);
        let value = match insn.src() {
            pseudo::FUNC => {
                let target = structure::function_target(slot, insn).unwrap_or(0);
                Value::pointer(Kind::Code(target as u32))
            }
            pseudo::MAP_IDX => Value::pointer(Kind::Map(insn.imm as u8)),
            pseudo::MAP_IDX_VALUE => Value {
                num: Scalar::constant(second.into()),
                ..Value::pointer(Kind::MapValue(insn.imm as u8))
            },
            _ => Value::constant(u64::from(second) << 32 | u64::from(insn.imm as u32)),
        };
        self.write(state, insn.dst(), value, slot);
        Ok(())
    }

    fn jump(&mut self, state: &mut State, slot: usize, insn: Insn, next: usize) -> Result<Flow, Stop> {
        let target = || {
            structure::jump_target(slot, insn)
                .and_then(|target| usize::try_from(target).ok())
                .ok_or_else(|| self.refuse(Reason::FallThrough))
        };
        match (insn.class(), insn.opcode & 0xf0) {
            (_, jmp::JA) => Ok(Flow::Go(target()?)),
            (class::JMP, jmp::CALL) if insn.is_helper_call() => {
                self.call_helper(state, slot, insn.imm as u32)?;
                Ok(Flow::Go(next))
            }
            (class::JMP, jmp::CALL) => self.call(state, slot, insn, next),
            (class::JMP, jmp::EXIT) => self.exit(state),
            _ => {
                let target = target()?;
                Ok(match self.decide(state, insn)? {
                    Some(true) => Flow::Go(target),
                    Some(false) => Flow::Go(next),
                    None => Flow::Fork { next, target },
                })
            }
        }
    }

    #[inline(never)]
    fn exit(&mut self, state: &mut State) -> Result<Flow, Stop> {
        if let Some(back) = state.leave() {
            return Ok(Flow::Go(back as usize));
        }
        if let Some(held) = state.held.first() {
            return Err(self.refuse(Reason::StillHeld { resource: held.resource, since: held.since }));
        }
        let verdict = self.read(state, 0)?;
        let known = Known::of(0, &verdict);
        if !verdict.is_number() {
            return Err(self.refuse(Reason::PointerLeak { known, to: Leak::Verdict }));
        }
        let program_type = self.program.program_type;
        let (least, most) = (verdict.num.umin(), verdict.num.umax());
        let few = most - least < Verdict::ALL.len() as u64;
        if !few || !(least..=most).all(|r0| Verdict::from_r0(program_type, r0).is_some()) {
            return Err(self.refuse(Reason::NotAVerdict { known, program_type }));
        }
        let bits = verdict.num.bits();
        let possible = (least..=most).filter(|r0| r0 & !bits.mask == bits.value);
        for verdict in possible.filter_map(|r0| Verdict::from_r0(program_type, r0)) {
            self.ends_with(state, verdict, known)?;
        }
        Ok(Flow::Exit)
    }

    /// Holds a verdict against what happened before it.
    fn ends_with(&mut self, state: &State, verdict: Verdict, known: Known) -> Result<(), Stop> {
        let injected = state.told.contains(Told::INJECTED);
        self.verdicts = self.verdicts.with(verdict);
        match verdict {
            Verdict::Block if injected => {}
            _ if injected => return Err(self.refuse(Reason::Twice { known })),
            Verdict::NeedMoreData if state.told.contains(Told::NO_MORE_DATA) => {
                return Err(self.refuse(Reason::NoMoreData { known }));
            }
            Verdict::Block | Verdict::DropConnection => self.capabilities.0 |= Capability::DROP.0,
            _ => {}
        }
        Ok(())
    }
}

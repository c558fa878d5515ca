//! What each instruction may still need: registers and stack that are read later, and numbers that decide something.
//!
//! Two linear analyses before the walk. What nothing needs is forgotten where paths meet, so that states become equal.
//! Forgetting only ever widens what is possible: a mistake here can cost an acceptance, never a proof. A pointer on the stack
//! that is forgotten could be read as a number, so the walk refuses to read what was not seen to be read here.

mod loops;

use alloc::vec::Vec;

use tidegate_abi::Insn;
use tidegate_abi::helper::{self, Arg};
use tidegate_abi::insn::{alu, call, class, jmp, mode, size, source};
use tidegate_abi::limits::STACK_FRAME;

use crate::memory::{Memory, OutOfMemory};
use crate::structure::{self, AtomicOp, Structure};

/// What may be needed from an instruction on; a bit for each register and for each 8-byte slot of the frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Need {
    /// Registers that are read.
    pub(crate) live: u16,
    /// Registers whose number decides an address, a size, a jump or the verdict.
    pub(crate) number: u16,
    /// Stack that is read.
    pub(crate) live_slots: u64,
    /// Stack whose numbers decide something.
    pub(crate) number_slots: u64,
    /// Registers whose number decides how often a loop runs.
    pub(crate) count: u16,
    /// Stack whose numbers decide how often a loop runs.
    pub(crate) count_slots: u64,
}

/// What a number is needed for.
#[derive(Clone, Copy)]
struct Use {
    number: bool,
    count: bool,
}

impl Use {
    const READ: Self = Self { number: false, count: false };
    const NUMBER: Self = Self { number: true, count: false };
}

impl Need {
    const ALL: Self = Self {
        live: 0x7ff,
        number: 0x7ff,
        live_slots: u64::MAX,
        number_slots: u64::MAX,
        count: 0x7ff,
        count_slots: u64::MAX,
    };

    fn merge(&mut self, other: &Self) {
        self.live |= other.live;
        self.number |= other.number;
        self.live_slots |= other.live_slots;
        self.number_slots |= other.number_slots;
        self.count |= other.count;
        self.count_slots |= other.count_slots;
    }

    fn kill(&mut self, register: u8) {
        self.live &= !(1 << register);
        self.number &= !(1 << register);
        self.count &= !(1 << register);
    }

    fn read(&mut self, register: u8, used: Use) {
        let bit = 1 << register;
        self.live |= bit;
        self.number |= if used.number { bit } else { 0 };
        self.count |= if used.count { bit } else { 0 };
    }

    fn used(&self, register: u8) -> Use {
        let bit = 1 << register;
        Use { number: self.number & bit != 0, count: self.count & bit != 0 }
    }
}

/// Which comparisons keep their numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Branches {
    /// All of them.
    All,
    /// Those that may leave a loop, by a number that is carried from round to round.
    Loops,
}

/// Sweeps over the program before an analysis gives up and needs everything: nests of loops deeper than compilers make.
const MAX_SWEEPS: usize = 48;

/// What each instruction may need on entry.
pub(crate) fn analyse(
    structure: &Structure,
    branches: Branches,
    memory: &mut Memory,
) -> Result<Vec<Need>, OutOfMemory> {
    let stack_pointers = stack_pointers(structure, memory)?;
    let loops = Loops::find(structure, memory)?;
    let len = structure.insns().len();
    let mut needs = memory.filled(len, Need::default())?;
    for _ in 0..MAX_SWEEPS {
        let mut changed = false;
        for slot in (0..len).rev() {
            let Some(insn) = structure.insn(slot).filter(|_| !structure.is_second_half(slot)) else {
                continue;
            };
            let mut after = Need::default();
            for next in successors(slot, insn).into_iter().flatten() {
                after.merge(&needs.get(next).copied().unwrap_or_default());
            }
            // What is carried from round to round may count them; what was just loaded doesn't.
            let count = loops.leaves(slot, insn).is_some_and(|head| {
                let carried = needs.get(head).map_or(0, |need| need.live);
                let src = if insn.opcode & source::X != 0 { 1 << insn.src() } else { 0 };
                carried & (1 << insn.dst() | src) != 0
            });
            let decisive = Use { number: count || branches == Branches::All, count };
            let pointers = stack_pointers.get(slot).copied().unwrap_or(u16::MAX);
            let before = transfer(insn, after, decisive, pointers);
            if let Some(need) = needs.get_mut(slot)
                && *need != before
            {
                *need = before;
                changed = true;
            }
        }
        if !changed {
            memory.discard(stack_pointers);
            loops.discard(memory);
            return Ok(needs);
        }
    }
    memory.discard(stack_pointers);
    loops.discard(memory);
    needs.fill(Need::ALL);
    Ok(needs)
}

/// Slots that control may go on to within the function.
pub(crate) fn successors(slot: usize, insn: Insn) -> [Option<usize>; 2] {
    let target = structure::jump_target(slot, insn).and_then(|target| usize::try_from(target).ok());
    let next = (!structure::ends_flow(insn)).then_some(slot + structure::width(insn));
    [next, target]
}

pub(crate) use loops::Loops;

/// Registers that may point into the function's own frame, on entry to each instruction.
fn stack_pointers(structure: &Structure, memory: &mut Memory) -> Result<Vec<u16>, OutOfMemory> {
    const FRAME: u16 = 1 << 10;
    let len = structure.insns().len();
    let mut pointers = memory.filled(len, FRAME)?;
    // Once a stack pointer is stored anywhere, any load may bring it back.
    let mut stored = false;
    for _ in 0..MAX_SWEEPS {
        let mut changed = false;
        for slot in 0..len {
            let Some(insn) = structure.insn(slot).filter(|_| !structure.is_second_half(slot)) else {
                continue;
            };
            let mut now = pointers.get(slot).copied().unwrap_or(u16::MAX);
            let (dst, src) = (1u16 << insn.dst(), 1u16 << insn.src());
            match insn.class() {
                class::ALU64 if insn.opcode & source::X != 0 => match insn.opcode & 0xf0 {
                    alu::MOV if now & src == 0 => now &= !dst,
                    _ if now & src != 0 => now |= dst,
                    _ => {}
                },
                class::ALU => now &= !dst,
                class::LD => now &= !dst,
                class::LDX => now = if stored { now | dst } else { now & !dst },
                class::STX if now & src != 0 && !stored => (stored, changed) = (true, true),
                class::JMP if insn.opcode & 0xf0 == jmp::CALL => {
                    // A function may give back a pointer that it was given.
                    let given = now & 0b111110 != 0 || stored;
                    let local = insn.opcode & source::X != 0 || insn.src() == call::LOCAL;
                    now &= FRAME | 0b11_1100_0000;
                    now |= u16::from(given && local);
                    // Or store it where it was told to.
                    changed |= given && local && !stored;
                    stored |= given && local;
                }
                _ => {}
            }
            now |= FRAME;
            for next in successors(slot, insn).into_iter().flatten() {
                if let Some(then) = pointers.get_mut(next)
                    && now & !*then != 0
                {
                    *then |= now;
                    changed |= next <= slot;
                }
            }
        }
        if !changed {
            return Ok(pointers);
        }
    }
    pointers.fill(u16::MAX);
    Ok(pointers)
}

/// The 8-byte slots of the frame that bytes from `from` to `to`, counted from the frame pointer, lie in.
pub(crate) fn slots(from: i64, to: i64) -> u64 {
    let first = (STACK_FRAME as i64).saturating_add(from);
    let last = (STACK_FRAME as i64).saturating_add(to) - 1;
    if first < 0 || last >= STACK_FRAME as i64 || last < first {
        return u64::MAX;
    }
    u64::MAX << (first / 8) & u64::MAX >> (63 - last / 8)
}

pub(crate) const fn access_size(opcode: u8) -> u16 {
    match opcode & 0x18 {
        size::W => 4,
        size::H => 2,
        size::B => 1,
        _ => 8,
    }
}

fn transfer(insn: Insn, after: Need, decisive: Use, stack_pointers: u16) -> Need {
    let mut need = after;
    let (dst, src) = (insn.dst(), insn.src());
    let register = insn.opcode & source::X != 0;
    match insn.class() {
        class::LD => need.kill(dst),
        class::ALU | class::ALU64 => match insn.opcode & 0xf0 {
            alu::MOV => {
                let used = need.used(dst);
                need.kill(dst);
                if register {
                    need.read(src, used);
                }
            }
            // An instruction reads its operands even when nothing reads its result.
            operation => {
                let used = need.used(dst);
                need.read(dst, Use::READ);
                if register && !matches!(operation, alu::END | alu::NEG) {
                    need.read(src, used);
                }
            }
        },
        class::LDX => {
            let used = need.used(dst);
            need.kill(dst);
            let touched = touched(insn, src, stack_pointers);
            need.live_slots |= touched;
            // Only whole numbers are remembered in memory, not the bytes of a text.
            if access_size(insn.opcode) >= 4 {
                need.number_slots |= if used.number { touched } else { 0 };
                need.count_slots |= if used.count { touched } else { 0 };
            }
            need.read(src, Use::NUMBER);
        }
        class::ST | class::STX => {
            let touched = touched(insn, dst, stack_pointers);
            let used =
                Use { number: need.number_slots & touched != 0, count: need.count_slots & touched != 0 };
            let atomic = insn.opcode & 0xe0 == mode::ATOMIC;
            if atomic {
                match AtomicOp::of(insn) {
                    Some(AtomicOp::CompareExchange) => need.read(0, Use::NUMBER),
                    Some(op) if op.fetches_into_src() => need.kill(src),
                    _ => {}
                }
                need.live_slots |= touched;
            } else if dst == 10 && insn.offset % 8 == 0 && access_size(insn.opcode) == 8 {
                need.live_slots &= !touched;
                need.number_slots &= !touched;
                need.count_slots &= !touched;
            }
            if insn.class() == class::STX {
                need.read(src, used);
            }
            need.read(dst, Use::NUMBER);
        }
        _ => jump(insn, &mut need, decisive),
    }
    need
}

/// The slots of the frame that a load or store through `base` may touch.
fn touched(insn: Insn, base: u8, stack_pointers: u16) -> u64 {
    if base == 10 {
        let from = i64::from(insn.offset);
        slots(from, from + i64::from(access_size(insn.opcode)))
    } else if stack_pointers & 1 << base != 0 {
        u64::MAX
    } else {
        0
    }
}

fn jump(insn: Insn, need: &mut Need, decisive: Use) {
    match insn.opcode & 0xf0 {
        jmp::JA => {}
        jmp::EXIT => *need = Need { live: 1, number: 1, ..Need::default() },
        jmp::CALL => {
            for register in 0..6 {
                need.kill(register);
            }
            if insn.is_helper_call() {
                let params = helper::by_number(insn.imm as u32).map_or(&[][..], |helper| helper.params);
                for (register, param) in (1..).zip(params) {
                    need.read(
                        register,
                        if matches!(param.arg, Arg::Scalar) { Use::READ } else { Use::NUMBER },
                    );
                    if matches!(param.arg, Arg::MapKey | Arg::MapValue | Arg::Readable) {
                        // What the helper reads must not hold a pointer: those are remembered.
                        need.live_slots = u64::MAX;
                    }
                }
            } else {
                for register in 1..6 {
                    need.read(register, Use { number: true, count: true });
                }
                if insn.opcode & source::X != 0 {
                    need.read(insn.dst(), Use::NUMBER);
                }
                // The function may be given pointers into this frame.
                need.live_slots = u64::MAX;
                need.number_slots = u64::MAX;
                need.count_slots = u64::MAX;
            }
        }
        _ => {
            need.read(insn.dst(), decisive);
            if insn.opcode & source::X != 0 {
                need.read(insn.src(), decisive);
            }
        }
    }
}

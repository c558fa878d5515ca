//! The engine: runs ops to a result.
//!
//! One source, two engines: `CHECKED` holds every memory access against what the program was given; the other trusts
//! the proof. No allocation, no panic, no recursion.
//!
//! The budget counts instructions exactly, at the price of one addition for each jump taken. Where control only falls
//! through, the place in the program is the count; a jump forward gives back what it skips, a jump back pays what it
//! repeats. Whether the budget is spent is asked where control goes back: at jumps, calls and returns. So a run whose
//! instructions are within the budget never fails for it, and one that is not ends at most one program length later.

use core::sync::atomic::Ordering;

use tidegate_abi::insn::{REGISTERS, alu};
use tidegate_abi::limits::{MAX_CALL_DEPTH, STACK_FRAME};
use tidegate_verifier::structure::AtomicOp;

use crate::arithmetic::Word;
use crate::fault::{Cause, Fault};
use crate::memory::{Frame, Memory};
use crate::op::{Op, Reg, SHIFT, tables};
use crate::{Executable, Host};

/// The registers r0 to r10.
struct Registers([u64; REGISTERS]);

impl core::ops::Index<Reg> for Registers {
    type Output = u64;
    #[inline(always)]
    fn index(&self, reg: Reg) -> &u64 {
        &self.0[reg as usize]
    }
}

impl core::ops::IndexMut<Reg> for Registers {
    #[inline(always)]
    fn index_mut(&mut self, reg: Reg) -> &mut u64 {
        &mut self.0[reg as usize]
    }
}

/// A place in a program.
#[derive(Clone, Copy)]
struct Cursor(*const Op);

impl Cursor {
    #[inline(always)]
    fn op<'a>(self) -> &'a Op {
        // SAFETY: the structure check let no jump, call, return or fall-through leave the ops, which outlive the run.
        unsafe { &*self.0 }
    }

    /// The place `distance` bytes behind the next op.
    #[inline(always)]
    fn after(self, distance: i64) -> Self {
        Self(self.0.wrapping_add(1).wrapping_byte_offset(distance as isize))
    }
}

#[expect(clippy::too_many_lines, reason = "one arm for each op; the compiler needs them in one place")]
pub(crate) fn run<H: Host, const CHECKED: bool>(
    program: &Executable,
    host: &mut H,
    memory: &mut Memory<'_>,
    frames: &mut [Frame; MAX_CALL_DEPTH],
    budget: u32,
) -> Result<u64, Fault> {
    let ops = program.ops();
    let start = ops.as_ptr();
    let mut pc = Cursor(start);
    let mut depth = 0usize;
    let mut fuel = i64::from(budget) << SHIFT;
    let mut regs = Registers([0; REGISTERS]);
    (regs[Reg::R1], regs[Reg::R2]) = memory.context();
    regs[Reg::R10] = memory.stack() + STACK_FRAME as u64;
    memory.clear_frame(0);

    macro_rules! go {
        ($skip:expr) => {{
            let skip = $skip;
            fuel += skip;
            if fuel < 0 {
                break Cause::Budget;
            }
            pc = pc.after(skip);
        }};
    }
    macro_rules! next {
        () => {
            pc = pc.after(0)
        };
    }
    macro_rules! access {
        ($address:expr, $ty:ty, $write:expr, $result:expr) => {
            match $result {
                Some(value) => value,
                None => {
                    break Cause::Access { address: $address, size: size_of::<$ty>() as u64, write: $write }
                }
            }
        };
    }
    macro_rules! arms {
        (
            arithmetic { $( $alu:ident $variant:literal $alu_fn:ident $r64:ident $k64:ident $r32:ident $k32:ident, )* }
            compare { $( $jmp:ident $jmp_fn:ident $jr64:ident $jk64:ident $jr32:ident $jk32:ident, )* }
            access { $( $size:ident $ty:ident $signed:ident $load:ident $load_signed:ident $store:ident $store_imm:ident, )* }
        ) => {
            match *pc.op() {
                $(
                    Op::$r64 { dst, src } => {
                        regs[dst] = Word::$alu_fn(regs[dst], regs[src]);
                        next!();
                    }
                    Op::$k64 { dst, imm } => {
                        regs[dst] = Word::$alu_fn(regs[dst], i64::from(imm) as u64);
                        next!();
                    }
                    Op::$r32 { dst, src } => {
                        regs[dst] = u64::from(Word::$alu_fn(regs[dst] as u32, regs[src] as u32));
                        next!();
                    }
                    Op::$k32 { dst, imm } => {
                        regs[dst] = u64::from(Word::$alu_fn(regs[dst] as u32, imm as u32));
                        next!();
                    }
                )*
                $(
                    Op::$jr64 { dst, src, skip } => {
                        if Word::$jmp_fn(regs[dst], regs[src]) { go!(i64::from(skip)) } else { next!() }
                    }
                    Op::$jk64 { dst, imm, skip } => {
                        if Word::$jmp_fn(regs[dst], i64::from(imm) as u64) { go!(i64::from(skip)) } else { next!() }
                    }
                    Op::$jr32 { dst, src, skip } => {
                        if Word::$jmp_fn(regs[dst] as u32, regs[src] as u32) { go!(i64::from(skip)) } else { next!() }
                    }
                    Op::$jk32 { dst, imm, skip } => {
                        if Word::$jmp_fn(regs[dst] as u32, imm as u32) { go!(i64::from(skip)) } else { next!() }
                    }
                )*
                $(
                    Op::$load { dst, src, offset } => {
                        let address = regs[src].wrapping_add_signed(i64::from(offset));
                        let value = access!(address, $ty, false, memory.load::<$ty, CHECKED>(address));
                        regs[dst] = value.into();
                        next!();
                    }
                    Op::$load_signed { dst, src, offset } => {
                        let address = regs[src].wrapping_add_signed(i64::from(offset));
                        let value = access!(address, $ty, false, memory.load::<$ty, CHECKED>(address));
                        regs[dst] = i64::from(value as $signed) as u64;
                        next!();
                    }
                    Op::$store { dst, src, offset } => {
                        let address = regs[dst].wrapping_add_signed(i64::from(offset));
                        access!(address, $ty, true, memory.store::<$ty, CHECKED>(address, regs[src] as $ty));
                        next!();
                    }
                    Op::$store_imm { dst, offset, imm } => {
                        let address = regs[dst].wrapping_add_signed(i64::from(offset));
                        let value = i64::from(imm) as $ty;
                        access!(address, $ty, true, memory.store::<$ty, CHECKED>(address, value));
                        next!();
                    }
                )*
                Op::Neg64 { dst } => {
                    regs[dst] = regs[dst].neg();
                    next!();
                }
                Op::Neg32 { dst } => {
                    regs[dst] = u64::from((regs[dst] as u32).neg());
                    next!();
                }
                Op::Extend8 { dst, src } => {
                    regs[dst] = regs[src] as i8 as u64;
                    next!();
                }
                Op::Extend16 { dst, src } => {
                    regs[dst] = regs[src] as i16 as u64;
                    next!();
                }
                Op::Extend32 { dst, src } => {
                    regs[dst] = regs[src] as i32 as u64;
                    next!();
                }
                Op::Extend8To32 { dst, src } => {
                    regs[dst] = u64::from(regs[src] as i8 as u32);
                    next!();
                }
                Op::Extend16To32 { dst, src } => {
                    regs[dst] = u64::from(regs[src] as i16 as u32);
                    next!();
                }
                Op::Low16 { dst } => {
                    regs[dst] = u64::from(regs[dst] as u16);
                    next!();
                }
                Op::Low32 { dst } => {
                    regs[dst] = u64::from(regs[dst] as u32);
                    next!();
                }
                Op::Swap16 { dst } => {
                    regs[dst] = u64::from((regs[dst] as u16).swap_bytes());
                    next!();
                }
                Op::Swap32 { dst } => {
                    regs[dst] = u64::from((regs[dst] as u32).swap_bytes());
                    next!();
                }
                Op::Swap64 { dst } => {
                    regs[dst] = regs[dst].swap_bytes();
                    next!();
                }
                Op::Constant { dst, value } => {
                    regs[dst] = value;
                    pc = pc.after(1 << SHIFT);
                }
                Op::Atomic32 { dst, src, offset, op } => {
                    let address = regs[dst].wrapping_add_signed(i64::from(offset));
                    match atomic32::<CHECKED>(memory, address, op, regs[src] as u32, regs[Reg::R0] as u32) {
                        Ok(old) => give_old(&mut regs, op, src, old.into()),
                        Err(cause) => break cause,
                    }
                    next!();
                }
                Op::Atomic64 { dst, src, offset, op } => {
                    let address = regs[dst].wrapping_add_signed(i64::from(offset));
                    match atomic64::<CHECKED>(memory, address, op, regs[src], regs[Reg::R0]) {
                        Ok(old) => give_old(&mut regs, op, src, old),
                        Err(cause) => break cause,
                    }
                    next!();
                }
                Op::Jump { skip } => go!(i64::from(skip)),
                Op::Helper { number } => {
                    let [_, r1, r2, r3, r4, r5, ..] = regs.0;
                    match host.call(number, [r1, r2, r3, r4, r5], memory) {
                        Ok(result) => regs[Reg::R0] = result,
                        Err(fault) => break fault.cause,
                    }
                    next!();
                }
                Op::Call { skip } => {
                    let Some(frame) = frames.get_mut(depth).filter(|_| depth + 1 < MAX_CALL_DEPTH) else {
                        break Cause::CallDepth;
                    };
                    let [_, _, _, _, _, _, r6, r7, r8, r9, _] = regs.0;
                    *frame = Frame { back: slot_of(start, pc.after(0)), saved: [r6, r7, r8, r9] };
                    depth += 1;
                    regs[Reg::R10] += STACK_FRAME as u64;
                    memory.clear_frame(depth);
                    go!(i64::from(skip));
                }
                Op::CallRegister { dst } => {
                    let value = regs[dst];
                    if let Ok(number) = u32::try_from(value) {
                        let [_, r1, r2, r3, r4, r5, ..] = regs.0;
                        match host.call(number, [r1, r2, r3, r4, r5], memory) {
                            Ok(result) => regs[Reg::R0] = result,
                            Err(fault) => break fault.cause,
                        }
                        next!();
                        continue;
                    }
                    let Some(slot) = program.function(value) else { break Cause::CallTarget { value } };
                    let Some(frame) = frames.get_mut(depth).filter(|_| depth + 1 < MAX_CALL_DEPTH) else {
                        break Cause::CallDepth;
                    };
                    let [_, _, _, _, _, _, r6, r7, r8, r9, _] = regs.0;
                    let back = slot_of(start, pc.after(0));
                    *frame = Frame { back, saved: [r6, r7, r8, r9] };
                    depth += 1;
                    regs[Reg::R10] += STACK_FRAME as u64;
                    memory.clear_frame(depth);
                    go!((i64::from(slot) - i64::from(back)) << SHIFT);
                }
                Op::Exit => {
                    let Some(left) = depth.checked_sub(1) else { return Ok(regs[Reg::R0]) };
                    let Some(frame) = frames.get(left) else { break Cause::CallDepth };
                    depth = left;
                    [regs[Reg::R6], regs[Reg::R7], regs[Reg::R8], regs[Reg::R9]] = frame.saved;
                    regs[Reg::R10] -= STACK_FRAME as u64;
                    go!((i64::from(frame.back) - i64::from(slot_of(start, pc.after(0)))) << SHIFT);
                }
            }
        };
    }
    let cause = loop {
        tables!(arms);
    };
    Err(Fault { insn: slot_of(start, pc), cause })
}

fn slot_of(start: *const Op, at: Cursor) -> u32 {
    (at.0.addr().wrapping_sub(start.addr()) >> SHIFT) as u32
}

/// What an atomic operation leaves in registers.
fn give_old(regs: &mut Registers, op: AtomicOp, src: Reg, old: u64) {
    if op == AtomicOp::CompareExchange {
        regs[Reg::R0] = old;
    } else if op.fetches_into_src() {
        regs[src] = old;
    }
}

macro_rules! atomic {
    ($name:ident, $ty:ty) => {
        /// Carries out an atomic operation; returns the old value.
        fn $name<const CHECKED: bool>(
            memory: &mut Memory<'_>,
            address: u64,
            op: AtomicOp,
            operand: $ty,
            expected: $ty,
        ) -> Result<$ty, Cause> {
            let order = Ordering::SeqCst;
            let cell = memory.atomic::<$ty, CHECKED>(address)?;
            Ok(match op {
                AtomicOp::Alu(alu::ADD, _) => cell.fetch_add(operand, order),
                AtomicOp::Alu(alu::OR, _) => cell.fetch_or(operand, order),
                AtomicOp::Alu(alu::AND, _) => cell.fetch_and(operand, order),
                AtomicOp::Alu(_, _) => cell.fetch_xor(operand, order),
                AtomicOp::Exchange => cell.swap(operand, order),
                AtomicOp::CompareExchange => {
                    cell.compare_exchange(expected, operand, order, order).unwrap_or_else(|found| found)
                }
            })
        }
    };
}

atomic!(atomic32, u32);
atomic!(atomic64, u64);

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
use tidegate_abi::limits::STACK_FRAME;
use tidegate_verifier::structure::AtomicOp;

use crate::arithmetic::Word;
use crate::fault::{Cause, Fault};
use crate::memory::{Access, Context, Frame, Memory, Stack};
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

/// Runs `program`. A fault is left in the stack, so that a result comes in registers.
#[expect(clippy::too_many_lines, reason = "one arm for each op; the compiler needs them in one place")]
#[inline(never)]
pub(crate) fn run<C: Context, H: Host, const CHECKED: bool, const TRACED: bool>(
    program: &Executable,
    host: &mut H,
    stack: &mut Stack,
    context: &mut C,
    window: &[u8],
    budget: u32,
) -> Option<u64> {
    let memory = &mut Memory::new(window, context, stack, program);
    let mut pc = Cursor(program.ops().as_ptr());
    let mut fuel = i64::from(budget) << SHIFT;
    let mut regs = Registers([0; REGISTERS]);
    (regs[Reg::R1], regs[Reg::R2]) = memory.context();
    regs[Reg::R10] = memory.stack() + STACK_FRAME as u64;
    let mut access = Access::<CHECKED>::new(memory);
    memory.start();
    if TRACED {
        memory.saved().path.begin();
    }

    // Goes on behind an op of this many instructions.
    macro_rules! next {
        ($slots:expr) => {{
            pc = pc.after(($slots - 1) << SHIFT);
            apart();
        }};
    }
    // Jumps from the last instruction of an op of this many.
    macro_rules! go {
        ($slots:expr, $skip:expr) => {{
            let skip = i64::from($skip);
            fuel += skip;
            pc = pc.after((($slots - 1) << SHIFT) + skip);
            if fuel < 0 {
                // Back to the instruction that jumped.
                pc = pc.after(-skip - (2 << SHIFT));
                break Cause::Budget;
            }
            apart();
        }};
    }
    macro_rules! branch {
        ($slots:expr, $taken:expr, $skip:expr) => {
            if $taken { go!($slots, $skip) } else { next!($slots) }
        };
    }
    macro_rules! address {
        ($base:expr, $offset:expr) => {
            regs[$base].wrapping_add_signed(i64::from($offset))
        };
    }
    // The number that a load found, or its fault.
    macro_rules! loaded {
        ($ty:ty, $result:expr, $address:expr, $behind:expr) => {
            match $result {
                Some(value) => value,
                None => {
                    pc = pc.after(($behind - 1) << SHIFT);
                    break Cause::Access { address: $address, size: size_of::<$ty>() as u64, write: false };
                }
            }
        };
    }
    // The number at an address; `$behind` says how many instructions of its op come before the load.
    macro_rules! load {
        ($ty:ty, $address:expr, $behind:expr) => {{
            let address = $address;
            loaded!($ty, access.load::<$ty>(memory, address), address, $behind)
        }};
        ($ty:ty, $address:expr) => {
            load!($ty, $address, 0)
        };
    }
    macro_rules! store {
        ($ty:ty, $address:expr, $value:expr) => {{
            let address = $address;
            if access.store::<$ty>(memory, address, $value).is_none() {
                break Cause::Access { address, size: size_of::<$ty>() as u64, write: true };
            }
        }};
    }
    // Calls a helper; `$behind` as for loads.
    macro_rules! helper {
        ($number:expr, $behind:expr) => {{
            let [_, r1, r2, r3, r4, r5, ..] = regs.0;
            match host.call($number, [r1, r2, r3, r4, r5], memory) {
                Ok(result) => regs[Reg::R0] = result,
                Err(fault) => {
                    pc = pc.after(($behind - 1) << SHIFT);
                    break fault.cause;
                }
            }
        }};
    }
    // Enters a function; `$skip` counts from behind the call.
    macro_rules! enter {
        ($skip:expr, $clear:expr) => {{
            let [_, _, _, _, _, _, r6, r7, r8, r9, _] = regs.0;
            let frame = Frame { back: slot_of(memory, pc.after(0)), saved: [r6, r7, r8, r9] };
            let Some(depth) = memory.saved().push(frame) else { break Cause::CallDepth };
            regs[Reg::R10] += STACK_FRAME as u64;
            memory.clear_frame(depth, $clear);
            go!(1, $skip)
        }};
    }
    // Ends the run.
    macro_rules! finish {
        ($slots:expr, $result:expr) => {{
            memory.saved().left = (fuel - ($slots << SHIFT)).wrapping_sub_unsigned(pc.0.addr() as u64);
            apart();
            return Some($result);
        }};
    }
    // Returns from a function, or ends the run.
    macro_rules! leave {
        ($slots:expr, $result:expr) => {{
            let result = $result;
            if memory.saved().depth == 0 {
                finish!($slots, result);
            }
            regs[Reg::R0] = result;
            let Some(frame) = memory.saved().pop() else { break Cause::CallDepth };
            [regs[Reg::R6], regs[Reg::R7], regs[Reg::R8], regs[Reg::R9]] = frame.saved;
            regs[Reg::R10] -= STACK_FRAME as u64;
            let behind = slot_of(memory, pc.after(($slots - 1) << SHIFT));
            go!($slots, (i64::from(frame.back) - i64::from(behind)) << SHIFT)
        }};
    }
    macro_rules! arms {
        (
            arithmetic { $( $alu:ident $variant:literal $alu_fn:ident $r64:ident $k64:ident $r32:ident $k32:ident, )* }
            compare { $( $jmp:ident $jmp_fn:ident $jr64:ident $jk64:ident $jr32:ident $jk32:ident, )* }
            access { $( $size:ident $ty:ident $signed:ident $load:ident $load_signed:ident $store:ident $store_imm:ident
                $load_frame:ident $store_frame:ident $store_frame_imm:ident, )* }
            moved { $( $mov_fn:ident $pr64:ident $pk64:ident $pr32:ident $pk32:ident $mr64:ident $mk64:ident $mr32:ident $mk32:ident, )* }
            guarded { $( $guard_fn:ident $g64:ident $g32:ident $over64:ident $over32:ident $add64:ident $add64_32:ident
                $add32:ident $set64:ident $set32:ident $and64:ident $and32:ident $mov_and:ident $load_k8:ident $load_k16:ident $load_k32:ident, )* }
            loaded { $( $lty:ident $plain:ident $load_eq:ident $load_ne:ident $load_add:ident $load_xor:ident $load_sum:ident $loads_ne:ident $loads:ident $set_loads:ident, )* }
            summed { $( $sum_fn:ident $sum_plain:ident $sum_exchanged:ident $sum:ident, )* }
        ) => {
            if TRACED {
                let slot = slot_of(memory, pc);
                program.visit(slot);
                memory.saved().path.visit(slot);
            }
            match *pc.op() {
                $(
                    Op::$r64 { dst, src } => {
                        regs[dst] = Word::$alu_fn(regs[dst], regs[src]);
                        next!(1);
                    }
                    Op::$k64 { dst, imm } => {
                        regs[dst] = Word::$alu_fn(regs[dst], wide(imm));
                        next!(1);
                    }
                    Op::$r32 { dst, src } => {
                        regs[dst] = u64::from(Word::$alu_fn(regs[dst] as u32, regs[src] as u32));
                        next!(1);
                    }
                    Op::$k32 { dst, imm } => {
                        regs[dst] = u64::from(Word::$alu_fn(regs[dst] as u32, imm as u32));
                        next!(1);
                    }
                )*
                $(
                    Op::$jr64 { dst, src, skip } => branch!(1, Word::$jmp_fn(regs[dst], regs[src]), skip),
                    Op::$jk64 { dst, imm, skip } => branch!(1, Word::$jmp_fn(regs[dst], wide(imm)), skip),
                    Op::$jr32 { dst, src, skip } => {
                        branch!(1, Word::$jmp_fn(regs[dst] as u32, regs[src] as u32), skip)
                    }
                    Op::$jk32 { dst, imm, skip } => branch!(1, Word::$jmp_fn(regs[dst] as u32, imm as u32), skip),
                )*
                $(
                    Op::$load { dst, src, offset } => {
                        regs[dst] = load!($ty, address!(src, offset)).into();
                        next!(1);
                    }
                    Op::$load_signed { dst, src, offset } => {
                        regs[dst] = i64::from(load!($ty, address!(src, offset)) as $signed) as u64;
                        next!(1);
                    }
                    Op::$store { dst, src, offset } => {
                        store!($ty, address!(dst, offset), regs[src] as $ty);
                        next!(1);
                    }
                    Op::$store_imm { dst, offset, imm } => {
                        store!($ty, address!(dst, offset), wide(imm) as $ty);
                        next!(1);
                    }
                    Op::$load_frame { dst, offset } => {
                        regs[dst] = access.load_frame::<$ty>(memory, regs[Reg::R10], offset).into();
                        next!(1);
                    }
                    Op::$store_frame { src, offset } => {
                        access.store_frame(memory, regs[Reg::R10], offset, regs[src] as $ty);
                        next!(1);
                    }
                    Op::$store_frame_imm { offset, imm } => {
                        access.store_frame(memory, regs[Reg::R10], offset, wide(imm) as $ty);
                        next!(1);
                    }
                )*
                $(
                    Op::$mr64 { dst, a, b } => {
                        regs[dst] = Word::$mov_fn(regs[a], regs[b]);
                        next!(2);
                    }
                    Op::$mk64 { dst, a, imm } => {
                        regs[dst] = Word::$mov_fn(regs[a], wide(imm));
                        next!(2);
                    }
                    Op::$mr32 { dst, a, b } => {
                        regs[dst] = u64::from(Word::$mov_fn(regs[a] as u32, regs[b] as u32));
                        next!(2);
                    }
                    Op::$mk32 { dst, a, imm } => {
                        regs[dst] = u64::from(Word::$mov_fn(regs[a] as u32, imm as u32));
                        next!(2);
                    }
                )*
                $(
                    // The jump that is jumped over is not paid for.
                    Op::$over64 { dst, imm, skip } => {
                        if Word::$guard_fn(regs[dst], wide(imm)) {
                            fuel += 1 << SHIFT;
                            next!(2)
                        } else {
                            go!(2, skip)
                        }
                    }
                    Op::$over32 { dst, imm, skip } => {
                        if Word::$guard_fn(regs[dst] as u32, imm as u32) {
                            fuel += 1 << SHIFT;
                            next!(2)
                        } else {
                            go!(2, skip)
                        }
                    }
                    Op::$add64 { dst, by, imm, skip } => {
                        regs[dst] = regs[dst].add(wide(by));
                        branch!(2, Word::$guard_fn(regs[dst], wide(imm)), skip)
                    }
                    Op::$add64_32 { dst, by, imm, skip } => {
                        regs[dst] = regs[dst].add(wide(by));
                        branch!(2, Word::$guard_fn(regs[dst] as u32, imm as u32), skip)
                    }
                    Op::$add32 { dst, by, imm, skip } => {
                        let sum = (regs[dst] as u32).add(by as u32);
                        regs[dst] = sum.into();
                        branch!(2, Word::$guard_fn(sum, imm as u32), skip)
                    }
                    Op::$set64 { to, value, dst, imm, skip } => {
                        regs[to] = wide(value);
                        branch!(2, Word::$guard_fn(regs[dst], wide(imm)), skip)
                    }
                    Op::$set32 { to, value, dst, imm, skip } => {
                        regs[to] = wide(value);
                        branch!(2, Word::$guard_fn(regs[dst] as u32, imm as u32), skip)
                    }
                    Op::$and64 { dst, mask, imm, skip } => {
                        let masked = regs[dst] & wide(mask);
                        regs[dst] = masked;
                        branch!(2, Word::$guard_fn(masked, wide(imm)), skip)
                    }
                    Op::$and32 { dst, mask, imm, skip } => {
                        let masked = regs[dst] as u32 & mask as u32;
                        regs[dst] = masked.into();
                        branch!(2, Word::$guard_fn(masked, imm as u32), skip)
                    }
                    Op::$mov_and { dst, a, mask, imm, skip } => {
                        let masked = regs[a] as u32 & mask as u32;
                        regs[dst] = masked.into();
                        branch!(3, Word::$guard_fn(masked, imm as u32), skip)
                    }
                    Op::$load_k8 { dst, src, offset, imm, skip } => {
                        let value = load!(u8, address!(src, offset));
                        regs[dst] = value.into();
                        branch!(2, Word::$guard_fn(u32::from(value), imm as u32), skip)
                    }
                    Op::$load_k16 { dst, src, offset, imm, skip } => {
                        let value = load!(u16, address!(src, offset));
                        regs[dst] = value.into();
                        branch!(2, Word::$guard_fn(u32::from(value), imm as u32), skip)
                    }
                    Op::$load_k32 { dst, src, offset, imm, skip } => {
                        let value = load!(u32, address!(src, offset));
                        regs[dst] = value.into();
                        branch!(2, Word::$guard_fn(value, imm as u32), skip)
                    }
                )*
                $(
                    Op::$load_eq { dst, src, offset, other, skip } => {
                        let value = load!($lty, address!(src, offset));
                        regs[dst] = value.into();
                        branch!(2, u64::from(value) as u32 == regs[other] as u32, skip)
                    }
                    Op::$load_ne { dst, src, offset, other, skip } => {
                        let value = load!($lty, address!(src, offset));
                        regs[dst] = value.into();
                        branch!(2, u64::from(value) as u32 != regs[other] as u32, skip)
                    }
                    Op::$loads_ne { src, dst, offset, other, dst2, offset2, other2, skip } => {
                        let address = address!(src, offset);
                        let (value, known) = loaded!($lty, access.load_first::<$lty>(memory, address), address, 0);
                        regs[dst] = value.into();
                        if u64::from(value) as u32 != regs[other] as u32 {
                            go!(2, i64::from(skip) + (2 << SHIFT))
                        } else {
                            let address = address!(src, offset2);
                            let value = loaded!($lty, access.load_second::<$lty>(memory, address, known), address, 2);
                            regs[dst2] = value.into();
                            branch!(4, u64::from(value) as u32 != regs[other2] as u32, skip)
                        }
                    }
                    Op::$loads { src, dst, offset, dst2, offset2 } => {
                        regs[dst] = load!($lty, address!(src, offset)).into();
                        regs[dst2] = load!($lty, address!(src, offset2), 1).into();
                        next!(2);
                    }
                    Op::$set_loads { to, value, src, dst, offset, dst2, offset2 } => {
                        regs[to] = wide(value);
                        regs[dst] = load!($lty, address!(src, offset), 1).into();
                        regs[dst2] = load!($lty, address!(src, offset2), 2).into();
                        next!(3);
                    }
                    Op::$load_add { dst, src, offset, to } => {
                        let value = u64::from(load!($lty, address!(src, offset)));
                        regs[dst] = value;
                        regs[to] = regs[to].add(value);
                        next!(2);
                    }
                    Op::$load_xor { dst, src, offset, to } => {
                        let value = u64::from(load!($lty, address!(src, offset)));
                        regs[dst] = value;
                        regs[to] ^= value;
                        next!(2);
                    }
                    Op::$load_sum { dst, a, b, offset } => {
                        let address = regs[a].add(regs[b]).wrapping_add_signed(i64::from(offset));
                        regs[dst] = load!($lty, address, 2).into();
                        next!(3);
                    }
                )*
                $(
                    Op::$sum { dst, a, by, other, skip } => {
                        let sum = regs[a].add(wide(by));
                        regs[dst] = sum;
                        branch!(3, Word::$sum_fn(sum, regs[other]), skip)
                    }
                )*
                Op::Moves { dst, src, dst2, src2 } => {
                    regs[dst] = regs[src];
                    regs[dst2] = regs[src2];
                    next!(2);
                }
                Op::LoadSwap16 { dst, src, offset } => {
                    regs[dst] = load!(u16, address!(src, offset)).swap_bytes().into();
                    next!(2);
                }
                Op::LoadSwap32 { dst, src, offset } => {
                    regs[dst] = load!(u32, address!(src, offset)).swap_bytes().into();
                    next!(2);
                }
                Op::LoadSwap64 { dst, src, offset } => {
                    regs[dst] = load!(u64, address!(src, offset)).swap_bytes();
                    next!(2);
                }
                Op::Cut64 { dst, left, right } => {
                    regs[dst] = regs[dst].lsh(left.into()).rsh(right.into());
                    next!(2);
                }
                Op::MovCut64 { dst, src, left, right } => {
                    regs[dst] = regs[src].lsh(left.into()).rsh(right.into());
                    next!(3);
                }
                Op::SCut32 { dst, left, right } => {
                    regs[dst] = u64::from((regs[dst] as u32).lsh(left.into()).arsh(right.into()));
                    next!(2);
                }
                Op::MovSCut32 { dst, src, left, right } => {
                    regs[dst] = u64::from((regs[src] as u32).lsh(left.into()).arsh(right.into()));
                    next!(3);
                }
                Op::Field64 { dst, shift, mask } => {
                    regs[dst] = regs[dst].rsh(shift.into()) & wide(mask);
                    next!(2);
                }
                Op::MovField64 { dst, src, shift, mask } => {
                    regs[dst] = regs[src].rsh(shift.into()) & wide(mask);
                    next!(3);
                }
                Op::Field32 { dst, shift, mask } => {
                    regs[dst] = u64::from((regs[dst] as u32).rsh(shift.into()) & mask as u32);
                    next!(2);
                }
                Op::MovField32 { dst, src, shift, mask } => {
                    regs[dst] = u64::from((regs[src] as u32).rsh(shift.into()) & mask as u32);
                    next!(3);
                }
                Op::MovHelper { dst, src, number } => {
                    regs[dst] = regs[src];
                    helper!(number, 1);
                    next!(2);
                }
                Op::Return { value } => {
                    leave!(2, wide(value))
                }
                Op::Neg64 { dst } => {
                    regs[dst] = regs[dst].neg();
                    next!(1);
                }
                Op::Neg32 { dst } => {
                    regs[dst] = u64::from((regs[dst] as u32).neg());
                    next!(1);
                }
                Op::Extend8 { dst, src } => {
                    regs[dst] = regs[src] as i8 as u64;
                    next!(1);
                }
                Op::Extend16 { dst, src } => {
                    regs[dst] = regs[src] as i16 as u64;
                    next!(1);
                }
                Op::Extend32 { dst, src } => {
                    regs[dst] = regs[src] as i32 as u64;
                    next!(1);
                }
                Op::Extend8To32 { dst, src } => {
                    regs[dst] = u64::from(regs[src] as i8 as u32);
                    next!(1);
                }
                Op::Extend16To32 { dst, src } => {
                    regs[dst] = u64::from(regs[src] as i16 as u32);
                    next!(1);
                }
                Op::Low16 { dst } => {
                    regs[dst] = u64::from(regs[dst] as u16);
                    next!(1);
                }
                Op::Low32 { dst } => {
                    regs[dst] = u64::from(regs[dst] as u32);
                    next!(1);
                }
                Op::Swap16 { dst } => {
                    regs[dst] = u64::from((regs[dst] as u16).swap_bytes());
                    next!(1);
                }
                Op::Swap32 { dst } => {
                    regs[dst] = u64::from((regs[dst] as u32).swap_bytes());
                    next!(1);
                }
                Op::Swap64 { dst } => {
                    regs[dst] = regs[dst].swap_bytes();
                    next!(1);
                }
                Op::Constant { dst, value } => {
                    regs[dst] = value;
                    next!(2);
                }
                Op::Atomic32 { dst, src, offset, op } => {
                    let (operand, expected) = (regs[src] as u32, regs[Reg::R0] as u32);
                    match atomic32(&mut access, memory, address!(dst, offset), op, operand, expected) {
                        Ok(old) => give_old(&mut regs, op, src, old.into()),
                        Err(cause) => break cause,
                    }
                    next!(1);
                }
                Op::Atomic64 { dst, src, offset, op } => {
                    let (operand, expected) = (regs[src], regs[Reg::R0]);
                    match atomic64(&mut access, memory, address!(dst, offset), op, operand, expected) {
                        Ok(old) => give_old(&mut regs, op, src, old),
                        Err(cause) => break cause,
                    }
                    next!(1);
                }
                Op::Jump { skip } => go!(1, skip),
                Op::Helper { number } => {
                    helper!(number, 0);
                    next!(1);
                }
                Op::Call { skip, clear } => enter!(skip, clear),
                Op::CallRegister { dst } => {
                    let value = regs[dst];
                    if let Ok(number) = u32::try_from(value) {
                        helper!(number, 0);
                        next!(1);
                    } else if let Some(function) = memory.program().function(value) {
                        let behind = i64::from(slot_of(memory, pc.after(0)));
                        enter!((i64::from(function.slot) - behind) << SHIFT, function.clear)
                    } else {
                        break Cause::CallTarget { value };
                    }
                }
                Op::Exit => leave!(1, regs[Reg::R0]),
            }
        };
    }
    let cause = loop {
        tables!(arms);
    };
    memory.saved().fault = Fault { insn: slot_of(memory, pc), cause };
    None
}

/// Keeps the compiler from merging an arm with others that end alike: each is to have its own way to the next op.
#[inline(always)]
fn apart() {
    // SAFETY: no instruction at all.
    unsafe { core::arch::asm!("", options(nomem, nostack, preserves_flags)) }
}

/// Bytes from the first op to a place.
fn distance(memory: &Memory<'_>, at: Cursor) -> i64 {
    at.0.addr().wrapping_sub(memory.program().ops().as_ptr().addr()) as i64
}

fn slot_of(memory: &Memory<'_>, at: Cursor) -> u32 {
    (distance(memory, at) >> SHIFT) as u32
}

/// An immediate as a 64-bit operand.
#[inline(always)]
fn wide(imm: i32) -> u64 {
    i64::from(imm) as u64
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
            access: &mut Access<CHECKED>,
            memory: &mut Memory<'_>,
            address: u64,
            op: AtomicOp,
            operand: $ty,
            expected: $ty,
        ) -> Result<$ty, Cause> {
            let order = Ordering::SeqCst;
            let cell = access.atomic::<$ty>(memory, address)?;
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

//! Fusing: pairs and triples of ops that compilers emit together become one op, so that they are dispatched once.
//!
//! A fused op takes the slot of its first instruction; the others stay where they are, so a jump to one of them finds it.
//! A fused op does exactly what its instructions do one after the other, registers in between included.

use crate::op::{Op, SHIFT, tables};

/// Replaces every op that begins a known pair or triple.
pub(crate) fn fuse(ops: &mut [Op]) {
    for first in 0..ops.len() {
        // What lies behind `first` is not fused yet.
        let Some(rest) = ops.get_mut(first..) else { break };
        if let Some(op) = triple(rest).or_else(|| pair(rest)).or_else(|| moved(rest))
            && let Some(place) = rest.first_mut()
        {
            *place = op;
        }
    }
}

/// The jump over one op, as in `if .. goto +1; goto X`.
const OVER: i32 = 1 << SHIFT;

/// Three ops, or two pairs.
fn triple(ops: &[Op]) -> Option<Op> {
    macro_rules! pick {
        (
            arithmetic { $($arithmetic:tt)* }
            compare { $($compare:tt)* }
            access { $($access:tt)* }
            moved { $($moved:tt)* }
            guarded { $( $guard_fn:ident $g64:ident $g32:ident $over64:ident $over32:ident $add64:ident $add64_32:ident
                $add32:ident $set64:ident $set32:ident $and64:ident $and32:ident $mov_and:ident $load_k8:ident $load_k16:ident $load_k32:ident, )* }
            loaded { $( $lty:ident $plain:ident $load_eq:ident $load_ne:ident $load_add:ident $load_xor:ident $load_sum:ident $loads_ne:ident $loads:ident $set_loads:ident, )* }
            summed { $( $sum_fn:ident $sum_plain:ident $sum_exchanged:ident $sum:ident, )* }
        ) => {
            match *ops {
                $(
                    [Op::Mov64 { dst, src: a }, Op::Add64K { dst: d2, imm: by }, Op::$sum_plain { dst: d3, src: other, skip }, ..]
                        if dst == d2 && dst == d3 && other != dst =>
                    {
                        Some(Op::$sum { dst, a, by, other, skip })
                    }
                    [Op::Mov64 { dst, src: a }, Op::Add64K { dst: d2, imm: by }, Op::$sum_exchanged { dst: other, src: d3, skip }, ..]
                        if dst == d2 && dst == d3 && other != dst =>
                    {
                        Some(Op::$sum { dst, a, by, other, skip })
                    }
                )*
                $(
                    [
                        Op::$plain { dst, src, offset },
                        Op::Ne32 { dst: d2, src: other, skip },
                        Op::$plain { dst: dst2, src: src2, offset: offset2 },
                        Op::Ne32 { dst: d4, src: other2, skip: skip2 },
                        ..,
                    ] if dst == d2
                        && other != dst
                        && dst2 == d4
                        && other2 != dst2
                        && src == src2
                        && src != dst
                        && one_check(offset, offset2, size_of::<$lty>())
                        && skip == skip2 + 2 * OVER =>
                    {
                        Some(Op::$loads_ne { src, dst, offset, other, dst2, offset2, other2, skip: skip2 })
                    }
                )*
                $(
                    [
                        Op::Mov64K { dst: to, imm: value } | Op::Mov32K { dst: to, imm: value @ 0.. },
                        Op::$plain { dst, src, offset },
                        Op::$plain { dst: dst2, src: src2, offset: offset2 },
                        ..,
                    ] if src == src2 && src != dst => {
                        Some(Op::$set_loads { to, value, src, dst, offset, dst2, offset2 })
                    }
                )*
                $(
                    [Op::Mov64 { dst, src: a }, Op::Add64 { dst: d2, src: b }, Op::$plain { dst: d3, src: d4, offset }, ..]
                        if dst == d2 && dst == d3 && dst == d4 && b != dst =>
                    {
                        Some(Op::$load_sum { dst, a, b, offset })
                    }
                )*
                $(
                    [Op::Mov64 { dst, src: a } | Op::Mov32 { dst, src: a }, Op::And32K { dst: d2, imm: mask }, Op::$g32 { dst: d3, imm, skip }, ..]
                        if dst == d2 && dst == d3 =>
                    {
                        Some(Op::$mov_and { dst, a, mask, imm, skip })
                    }
                )*
                [Op::Mov64 { dst, src }, Op::Lsh64K { dst: d2, imm: left }, Op::Rsh64K { dst: d3, imm: right }, ..]
                    if dst == d2 && dst == d3 =>
                {
                    Some(Op::MovCut64 { dst, src, left: left as u8, right: right as u8 })
                }
                [
                    Op::Mov64 { dst, src } | Op::Mov32 { dst, src },
                    Op::Lsh32K { dst: d2, imm: left },
                    Op::Arsh32K { dst: d3, imm: right },
                    ..,
                ] if dst == d2 && dst == d3 => {
                    Some(Op::MovSCut32 { dst, src, left: left as u8, right: right as u8 })
                }
                [Op::Mov64 { dst, src }, Op::Rsh64K { dst: d2, imm: shift }, Op::And64K { dst: d3, imm: mask }, ..]
                    if dst == d2 && dst == d3 =>
                {
                    Some(Op::MovField64 { dst, src, shift: shift as u8, mask })
                }
                [
                    Op::Mov64 { dst, src } | Op::Mov32 { dst, src },
                    Op::Rsh32K { dst: d2, imm: shift },
                    Op::And32K { dst: d3, imm: mask },
                    ..,
                ] if dst == d2 && dst == d3 => Some(Op::MovField32 { dst, src, shift: shift as u8, mask }),
                _ => None,
            }
        };
    }
    tables!(pick)
}

/// Whether one check does for a load at `first` and one at `second`, because they lie within eight bytes. Loads of eight
/// bytes are checked each.
fn one_check(first: i16, second: i16, size: usize) -> bool {
    let ahead = i32::from(second) - i32::from(first);
    size == 8 || (0..=8 - size as i32).contains(&ahead)
}

fn pair(ops: &[Op]) -> Option<Op> {
    macro_rules! pick {
        (
            arithmetic { $($arithmetic:tt)* }
            compare { $($compare:tt)* }
            access { $($access:tt)* }
            moved { $($moved:tt)* }
            guarded { $( $guard_fn:ident $g64:ident $g32:ident $over64:ident $over32:ident $add64:ident $add64_32:ident
                $add32:ident $set64:ident $set32:ident $and64:ident $and32:ident $mov_and:ident $load_k8:ident $load_k16:ident $load_k32:ident, )* }
            loaded { $( $lty:ident $plain:ident $load_eq:ident $load_ne:ident $load_add:ident $load_xor:ident $load_sum:ident $loads_ne:ident $loads:ident $set_loads:ident, )* }
            summed { $($summed:tt)* }
        ) => {
            match *ops {
                $(
                    [Op::$g64 { dst, imm, skip: OVER }, Op::Jump { skip }, ..] => Some(Op::$over64 { dst, imm, skip }),
                    [Op::$g32 { dst, imm, skip: OVER }, Op::Jump { skip }, ..] => Some(Op::$over32 { dst, imm, skip }),
                    [Op::Add64K { dst, imm: by }, Op::$g64 { dst: d2, imm, skip }, ..] if dst == d2 => {
                        Some(Op::$add64 { dst, by, imm, skip })
                    }
                    [Op::Add64K { dst, imm: by }, Op::$g32 { dst: d2, imm, skip }, ..] if dst == d2 => {
                        Some(Op::$add64_32 { dst, by, imm, skip })
                    }
                    [Op::Add32K { dst, imm: by }, Op::$g32 { dst: d2, imm, skip }, ..] if dst == d2 => {
                        Some(Op::$add32 { dst, by, imm, skip })
                    }
                    [Op::Mov64K { dst: to, imm: value }, Op::$g64 { dst, imm, skip }, ..] => {
                        Some(Op::$set64 { to, value, dst, imm, skip })
                    }
                    [Op::Mov64K { dst: to, imm: value }, Op::$g32 { dst, imm, skip }, ..] => {
                        Some(Op::$set32 { to, value, dst, imm, skip })
                    }
                    [Op::Mov32K { dst: to, imm: value @ 0.. }, Op::$g64 { dst, imm, skip }, ..] => {
                        Some(Op::$set64 { to, value, dst, imm, skip })
                    }
                    [Op::Mov32K { dst: to, imm: value @ 0.. }, Op::$g32 { dst, imm, skip }, ..] => {
                        Some(Op::$set32 { to, value, dst, imm, skip })
                    }
                    [Op::And64K { dst, imm: mask }, Op::$g64 { dst: d2, imm, skip }, ..] if dst == d2 => {
                        Some(Op::$and64 { dst, mask, imm, skip })
                    }
                    [Op::And32K { dst, imm: mask }, Op::$g32 { dst: d2, imm, skip }, ..] if dst == d2 => {
                        Some(Op::$and32 { dst, mask, imm, skip })
                    }
                    [Op::Load8 { dst, src, offset }, Op::$g32 { dst: d2, imm, skip }, ..] if dst == d2 => {
                        Some(Op::$load_k8 { dst, src, offset, imm, skip })
                    }
                    [Op::Load16 { dst, src, offset }, Op::$g32 { dst: d2, imm, skip }, ..] if dst == d2 => {
                        Some(Op::$load_k16 { dst, src, offset, imm, skip })
                    }
                    [Op::Load32 { dst, src, offset }, Op::$g32 { dst: d2, imm, skip }, ..] if dst == d2 => {
                        Some(Op::$load_k32 { dst, src, offset, imm, skip })
                    }
                )*
                $(
                    [Op::$plain { dst, src, offset }, Op::Eq32 { dst: d2, src: other, skip }, ..] if dst == d2 && other != dst => {
                        Some(Op::$load_eq { dst, src, offset, other, skip })
                    }
                    [Op::$plain { dst, src, offset }, Op::Ne32 { dst: d2, src: other, skip }, ..] if dst == d2 && other != dst => {
                        Some(Op::$load_ne { dst, src, offset, other, skip })
                    }
                    [Op::$plain { dst, src, offset }, Op::Add64 { dst: to, src: d2 }, ..] if dst == d2 && to != dst => {
                        Some(Op::$load_add { dst, src, offset, to })
                    }
                    [Op::$plain { dst, src, offset }, Op::Xor64 { dst: to, src: d2 }, ..] if dst == d2 && to != dst => {
                        Some(Op::$load_xor { dst, src, offset, to })
                    }
                )*
                $(
                    [Op::$plain { dst, src, offset }, Op::$plain { dst: dst2, src: src2, offset: offset2 }, ..]
                        if src == src2 && src != dst =>
                    {
                        Some(Op::$loads { src, dst, offset, dst2, offset2 })
                    }
                )*
                [Op::Load16 { dst, src, offset }, Op::Swap16 { dst: d2 }, ..] if dst == d2 => {
                    Some(Op::LoadSwap16 { dst, src, offset })
                }
                [Op::Load32 { dst, src, offset }, Op::Swap32 { dst: d2 }, ..] if dst == d2 => {
                    Some(Op::LoadSwap32 { dst, src, offset })
                }
                [Op::Load64 { dst, src, offset }, Op::Swap64 { dst: d2 }, ..] if dst == d2 => {
                    Some(Op::LoadSwap64 { dst, src, offset })
                }
                [Op::Lsh64K { dst, imm: left }, Op::Rsh64K { dst: d2, imm: right }, ..] if dst == d2 => {
                    Some(Op::Cut64 { dst, left: left as u8, right: right as u8 })
                }
                [Op::Lsh32K { dst, imm: left }, Op::Arsh32K { dst: d2, imm: right }, ..] if dst == d2 => {
                    Some(Op::SCut32 { dst, left: left as u8, right: right as u8 })
                }
                [Op::Rsh64K { dst, imm: shift }, Op::And64K { dst: d2, imm: mask }, ..] if dst == d2 => {
                    Some(Op::Field64 { dst, shift: shift as u8, mask })
                }
                [Op::Rsh32K { dst, imm: shift }, Op::And32K { dst: d2, imm: mask }, ..] if dst == d2 => {
                    Some(Op::Field32 { dst, shift: shift as u8, mask })
                }
                [Op::Mov64 { dst, src }, Op::Helper { number }, ..] => Some(Op::MovHelper { dst, src, number }),
                [Op::Mov64K { dst: crate::op::Reg::R0, imm }, Op::Exit, ..]
                | [Op::Mov32K { dst: crate::op::Reg::R0, imm: imm @ 0.. }, Op::Exit, ..] => Some(Op::Return { value: imm }),
                _ => None,
            }
        };
    }
    tables!(pick)
}

/// A move and what is then done to its destination: three-address arithmetic. Or two moves.
fn moved(ops: &[Op]) -> Option<Op> {
    macro_rules! pick {
        (
            arithmetic { $($arithmetic:tt)* }
            compare { $($compare:tt)* }
            access { $($access:tt)* }
            moved { $( $mov_fn:ident $pr64:ident $pk64:ident $pr32:ident $pk32:ident $mr64:ident $mk64:ident $mr32:ident $mk32:ident, )* }
            $($rest:tt)*
        ) => {
            match *ops {
                $(
                    // An operand that is the destination is what the move just brought there.
                    [Op::Mov64 { dst, src: a }, Op::$pr64 { dst: d2, src }, ..] if dst == d2 => {
                        Some(Op::$mr64 { dst, a, b: if src == dst { a } else { src } })
                    }
                    [Op::Mov64 { dst, src: a }, Op::$pk64 { dst: d2, imm }, ..] if dst == d2 => {
                        Some(Op::$mk64 { dst, a, imm })
                    }
                    [Op::Mov64 { dst, src: a } | Op::Mov32 { dst, src: a }, Op::$pr32 { dst: d2, src }, ..] if dst == d2 => {
                        Some(Op::$mr32 { dst, a, b: if src == dst { a } else { src } })
                    }
                    [Op::Mov64 { dst, src: a } | Op::Mov32 { dst, src: a }, Op::$pk32 { dst: d2, imm }, ..] if dst == d2 => {
                        Some(Op::$mk32 { dst, a, imm })
                    }
                )*
                [Op::Mov64 { dst, src }, Op::Mov64 { dst: dst2, src: src2 }, ..] => Some(Op::Moves { dst, src, dst2, src2 }),
                _ => None,
            }
        };
    }
    tables!(pick)
}

#[cfg(test)]
mod tests {
    use alloc::vec;
    use alloc::vec::Vec;

    use proptest::prelude::*;
    use tidegate_abi::insn::{alu, class, jmp, mode, size, source};
    use tidegate_abi::{Insn, limits};
    use tidegate_verifier::Structure;

    use crate::{Executable, Fault, Host, Memory, Raw, Stack};

    struct Sum;

    impl Host for Sum {
        fn call(&mut self, helper: u32, args: [u64; 5], _: &mut Memory<'_>) -> Result<u64, Fault> {
            if helper == 9 {
                return Err(Fault::new(crate::Cause::Helper { status: 1 }));
            }
            Ok(args.iter().fold(1, |sum, arg| sum.wrapping_add(*arg)))
        }
    }

    /// r0 to r3 hold numbers, r4 and r5 addresses of the memory shown and r6 its end; few registers make many pairs.
    fn number() -> impl Strategy<Value = u8> {
        prop_oneof![4 => Just(0u8), 2 => 1..4u8]
    }

    fn base() -> impl Strategy<Value = u8> {
        prop_oneof![3 => Just(4u8), 1 => Just(5u8), 1 => Just(10), 1 => 0..7u8]
    }

    fn immediate() -> impl Strategy<Value = i32> {
        prop_oneof![-3..40i32, Just(i32::MIN), Just(i32::MAX), any::<i32>()]
    }

    /// Instructions of the kinds that fuse, jumps forward and back by a little included.
    fn insn() -> impl Strategy<Value = Insn> {
        let wide = || any::<bool>();
        let operation = prop::sample::select(vec![
            alu::ADD,
            alu::SUB,
            alu::OR,
            alu::AND,
            alu::XOR,
            alu::LSH,
            alu::RSH,
            alu::ARSH,
            alu::MUL,
        ]);
        let comparison = prop::sample::select(vec![
            jmp::JEQ,
            jmp::JNE,
            jmp::JGT,
            jmp::JGE,
            jmp::JLT,
            jmp::JLE,
            jmp::JSET,
            jmp::JSGT,
        ]);
        let alu = |wide: bool| if wide { class::ALU64 } else { class::ALU };
        let jump = |wide: bool| if wide { class::JMP } else { class::JMP32 };
        let width = || prop::sample::select(vec![size::B, size::H, size::W, size::DW]);
        let distance = || prop_oneof![4 => Just(1i16), 2 => 0..5i16, 1 => -6..0i16];
        prop_oneof![
            6 => (wide(), number(), 0..7u8).prop_map(move |(w, dst, src)| Insn::new(alu(w) | alu::MOV | source::X, dst, src, 0, 0)),
            3 => (wide(), number(), immediate()).prop_map(move |(w, dst, imm)| Insn::new(alu(w) | alu::MOV, dst, 0, 0, imm)),
            6 => (wide(), operation.clone(), number(), 0..7u8)
                .prop_map(move |(w, op, dst, src)| Insn::new(alu(w) | op | source::X, dst, src, 0, 0)),
            8 => (wide(), operation, number(), immediate()).prop_map(move |(w, op, dst, imm)| Insn::new(alu(w) | op, dst, 0, 0, imm)),
            5 => (wide(), comparison.clone(), number(), 0..7u8, distance())
                .prop_map(move |(w, op, dst, src, to)| Insn::new(jump(w) | op | source::X, dst, src, to, 0)),
            8 => (wide(), comparison, number(), immediate(), distance())
                .prop_map(move |(w, op, dst, imm, to)| Insn::new(jump(w) | op, dst, 0, to, imm)),
            2 => distance().prop_map(|to| Insn::new(class::JMP | jmp::JA, 0, 0, to, 0)),
            8 => (width(), number(), base(), -9..40i16)
                .prop_map(|(w, dst, base, at)| Insn::new(class::LDX | mode::MEM | w, dst, base, at, 0)),
            2 => (width(), base(), -20..40i16, 0..4u8)
                .prop_map(|(w, base, at, src)| Insn::new(class::STX | mode::MEM | w, base, src, at, 0)),
            2 => (number(), prop::sample::select(vec![16, 32, 64]))
                .prop_map(|(dst, bits)| Insn::new(class::ALU64 | alu::END, dst, 0, 0, bits)),
            1 => (8..10i32).prop_map(|number| Insn::new(class::JMP | jmp::CALL, 0, 0, 0, number)),
            1 => Just(Insn::new(class::JMP | jmp::EXIT, 0, 0, 0, 0)),
        ]
    }

    fn program() -> impl Strategy<Value = Vec<Insn>> {
        let mov = |dst, src| Insn::new(class::ALU64 | alu::MOV | source::X, dst, src, 0, 0);
        let add = |dst, imm| Insn::new(class::ALU64 | alu::ADD, dst, 0, 0, imm);
        let start = [mov(4, 1), mov(5, 1), add(5, 8), mov(6, 1), add(6, 64)];
        let end = Insn::new(class::JMP | jmp::EXIT, 0, 0, 0, 0);
        prop::collection::vec(insn(), 1..24).prop_map(move |body| {
            // Jumps that leave the program go to its end instead.
            let (len, mut all) = (body.len() as i64, Vec::from(start));
            for (at, mut insn) in body.into_iter().enumerate() {
                let jumps =
                    matches!(insn.class(), class::JMP | class::JMP32) && insn.opcode & 0xf0 != jmp::CALL;
                if jumps && insn.opcode & 0xf0 != jmp::EXIT {
                    let target = (at as i64 + 1 + i64::from(insn.offset)).clamp(0, len);
                    insn.offset = (target - at as i64 - 1) as i16;
                    if insn.class() == class::JMP32 && insn.opcode & 0xf0 == jmp::JA {
                        insn.imm = insn.offset.into();
                        insn.offset = 0;
                    }
                }
                all.push(insn);
            }
            all.push(end);
            all
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 20_000, failure_persistence: None, ..ProptestConfig::default() })]

        /// A fused program gives the same result, memory, fault and cost as the plain one.
        #[test]
        fn fusing_changes_nothing(program in program(), bytes in any::<[u8; 32]>(), budget in 0..200u32) {
            let code: Vec<u8> = program.iter().flat_map(|insn| insn.to_bytes()).collect();
            let structure = Structure::check(&code, &[], limits::MAX_VERIFY_MEMORY).expect("well formed");
            let mut shown = [0; 64];
            let mut ends = Vec::new();
            for executable in [Executable::plain(&structure, 0, &[]), Executable::compile(&structure, 0, &[])] {
                let mut stack = Stack::new();
                shown[..32].copy_from_slice(&bytes);
                shown[32..].fill(7);
                let result = executable.expect("fits").run(&mut Sum, &mut stack, &mut Raw(&mut shown), &[], budget);
                ends.push((result, result.is_ok().then_some(stack.left()), shown));
            }
            prop_assert_eq!(ends[0], ends[1]);
        }
    }
}

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

fn triple(ops: &[Op]) -> Option<Op> {
    macro_rules! pick {
        (
            arithmetic { $($arithmetic:tt)* }
            compare { $($compare:tt)* }
            access { $($access:tt)* }
            moved { $($moved:tt)* }
            guarded { $($guarded:tt)* }
            loaded { $( $lty:ident $plain:ident $load_eq:ident $load_ne:ident $load_add:ident $load_xor:ident $load_sum:ident, )* }
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
                    [Op::Mov64 { dst, src: a }, Op::Add64 { dst: d2, src: b }, Op::$plain { dst: d3, src: d4, offset }, ..]
                        if dst == d2 && dst == d3 && dst == d4 && b != dst =>
                    {
                        Some(Op::$load_sum { dst, a, b, offset })
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

fn pair(ops: &[Op]) -> Option<Op> {
    macro_rules! pick {
        (
            arithmetic { $($arithmetic:tt)* }
            compare { $($compare:tt)* }
            access { $($access:tt)* }
            moved { $($moved:tt)* }
            guarded { $( $guard_fn:ident $g64:ident $g32:ident $over64:ident $over32:ident $add64:ident $add64_32:ident
                $add32:ident $set64:ident $set32:ident $and64:ident $and32:ident $load_k8:ident $load_k16:ident $load_k32:ident, )* }
            loaded { $( $lty:ident $plain:ident $load_eq:ident $load_ne:ident $load_add:ident $load_xor:ident $load_sum:ident, )* }
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

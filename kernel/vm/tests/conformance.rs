//! Every instruction of RFC 9669 but the `packet` group, over the edges of its operands, against the text of the RFC.
//!
//! What is expected is worked out in wider numbers than the machine's, so that it shares nothing with the engine.

mod common;

use common::{
    EXIT, add, alu, alu_k, atomic, code, goto, goto_long, jump, jump_k, load, mov, mov_reg, number, run,
    store, store_k,
};
use tidegate_abi::insn::{Insn, alu, atomic as op, class, jmp, mode, size};
use tidegate_vm::Executable;

/// Where arithmetic changes its ways.
const EDGES: [u64; 20] = [
    0,
    1,
    2,
    7,
    31,
    32,
    33,
    63,
    64,
    65,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    0x1_0000_0000,
    0x1234_5678_9abc_def0,
    i64::MAX as u64,
    i64::MIN as u64,
    u64::MAX - 1,
    u64::MAX,
    0xffff_ffff_8000_0000,
];

/// The edges that an immediate can be.
fn immediates() -> impl Iterator<Item = i32> {
    EDGES.into_iter().filter_map(|edge| i32::try_from(edge as i64).ok()).chain([i32::MIN, -2, 0x1234_5678])
}

const OPERATIONS: [(u8, i16); 14] = [
    (alu::ADD, 0),
    (alu::SUB, 0),
    (alu::MUL, 0),
    (alu::DIV, 0),
    (alu::DIV, 1),
    (alu::MOD, 0),
    (alu::MOD, 1),
    (alu::OR, 0),
    (alu::AND, 0),
    (alu::XOR, 0),
    (alu::LSH, 0),
    (alu::RSH, 0),
    (alu::ARSH, 0),
    (alu::MOV, 0),
];

const COMPARISONS: [u8; 11] = [
    jmp::JEQ,
    jmp::JNE,
    jmp::JGT,
    jmp::JGE,
    jmp::JLT,
    jmp::JLE,
    jmp::JSET,
    jmp::JSGT,
    jmp::JSGE,
    jmp::JSLT,
    jmp::JSLE,
];

/// The low `bits` of a number, without and with its sign.
fn parts(value: u64, bits: u32) -> (u128, i128) {
    let unsigned = u128::from(value) & ((1 << bits) - 1);
    let sign = unsigned >> (bits - 1) & 1;
    (unsigned, unsigned as i128 - ((sign as i128) << bits))
}

/// Section 4.1: the result of an operation, zero-extended from the width.
fn expected(op: u8, variant: i16, bits: u32, a: u64, b: u64) -> u64 {
    let ((ua, sa), (ub, sb)) = (parts(a, bits), parts(b, bits));
    let count = ub % u128::from(bits);
    let result = match (op, variant) {
        (alu::ADD, 0) => ua + ub,
        (alu::SUB, 0) => ua.wrapping_sub(ub),
        (alu::MUL, 0) => ua.wrapping_mul(ub),
        (alu::DIV, 0) => ua.checked_div(ub).unwrap_or(0),
        (alu::DIV, 1) => sa.checked_div(sb).unwrap_or(0) as u128,
        (alu::MOD, 0) => ua.checked_rem(ub).unwrap_or(ua),
        (alu::MOD, 1) => sa.checked_rem(sb).unwrap_or(sa) as u128,
        (alu::OR, 0) => ua | ub,
        (alu::AND, 0) => ua & ub,
        (alu::XOR, 0) => ua ^ ub,
        (alu::LSH, 0) => ua << count,
        (alu::RSH, 0) => ua >> count,
        (alu::ARSH, 0) => (sa >> count) as u128,
        (alu::MOV, 0) => ub,
        (alu::MOV, sign) => parts(b, sign as u32).1 as u128,
        _ => unreachable!("an operation that the test does not know"),
    };
    (result & ((1 << bits) - 1)) as u64
}

/// Section 4.3: whether a comparison holds.
fn holds(op: u8, bits: u32, a: u64, b: u64) -> bool {
    let ((ua, sa), (ub, sb)) = (parts(a, bits), parts(b, bits));
    match op {
        jmp::JEQ => ua == ub,
        jmp::JNE => ua != ub,
        jmp::JGT => ua > ub,
        jmp::JGE => ua >= ub,
        jmp::JLT => ua < ub,
        jmp::JLE => ua <= ub,
        jmp::JSET => ua & ub != 0,
        jmp::JSGT => sa > sb,
        jmp::JSGE => sa >= sb,
        jmp::JSLT => sa < sb,
        _ => sa <= sb,
    }
}

/// Runs `insns` with r3 = `a` and r4 = `b`; returns r0.
fn with(a: u64, b: u64, insns: &[Insn]) -> u64 {
    let program = [&number(3, a)[..], &number(4, b), insns].concat();
    run(&program, &mut []).expect("no fault")
}

#[test]
fn arithmetic_with_registers() {
    for ((op, variant), wide) in OPERATIONS.into_iter().flat_map(|op| [(op, true), (op, false)]) {
        let bits = if wide { 64 } else { 32 };
        for (a, b) in EDGES.into_iter().flat_map(|a| EDGES.map(|b| (a, b))) {
            let expected = expected(op, variant, bits, a, b);
            let what = format!("op {op:#x}/{variant} of {bits} bits on {a:#x} and {b:#x}");
            assert_eq!(with(a, b, &[alu(wide, op, 3, 4, variant), mov_reg(0, 3), EXIT]), expected, "{what}");
            // The same behind a move, which is fused with it.
            let moved = [mov_reg(0, 3), alu(wide, op, 0, 4, variant), EXIT];
            assert_eq!(with(a, b, &moved), expected, "{what}, moved");
        }
        for a in EDGES {
            let twice = [mov_reg(0, 3), alu(wide, op, 0, 0, variant), EXIT];
            assert_eq!(with(a, 0, &twice), expected(op, variant, bits, a, a), "op {op:#x} on itself, {a:#x}");
        }
    }
}

#[test]
fn arithmetic_with_immediates() {
    for ((op, variant), wide) in OPERATIONS.into_iter().flat_map(|op| [(op, true), (op, false)]) {
        let bits = if wide { 64 } else { 32 };
        for (a, imm) in EDGES.into_iter().flat_map(|a| immediates().map(move |imm| (a, imm))) {
            let expected = expected(op, variant, bits, a, i64::from(imm) as u64);
            let what = format!("op {op:#x}/{variant} of {bits} bits on {a:#x} and immediate {imm:#x}");
            assert_eq!(
                with(a, 0, &[alu_k(wide, op, 3, imm, variant), mov_reg(0, 3), EXIT]),
                expected,
                "{what}"
            );
            let moved = [mov_reg(0, 3), alu_k(wide, op, 0, imm, variant), EXIT];
            assert_eq!(with(a, 0, &moved), expected, "{what}, moved");
        }
    }
}

#[test]
fn negation_and_moves_with_sign() {
    for a in EDGES {
        assert_eq!(with(a, 0, &[alu_k(true, alu::NEG, 3, 0, 0), mov_reg(0, 3), EXIT]), 0u64.wrapping_sub(a));
        let low = 0u32.wrapping_sub(a as u32);
        assert_eq!(with(a, 0, &[alu_k(false, alu::NEG, 3, 0, 0), mov_reg(0, 3), EXIT]), low.into());
        for (wide, sign) in [(true, 8), (true, 16), (true, 32), (false, 8), (false, 16)] {
            let expected = expected(alu::MOV, sign, if wide { 64 } else { 32 }, 0, a);
            assert_eq!(with(0, a, &[alu(wide, alu::MOV, 0, 4, sign), EXIT]), expected, "movsx{sign} {a:#x}");
        }
    }
}

#[test]
fn byte_order() {
    let to_little = class::ALU | alu::END;
    let to_big = class::ALU | alu::END | 0x08;
    let swap = class::ALU64 | alu::END;
    for a in EDGES {
        let bytes = a.to_le_bytes();
        for (width, cut) in [(16, 2), (32, 4), (64, 8)] {
            let number =
                |bytes: &[u8]| bytes.iter().rev().fold(0u64, |sum, byte| sum << 8 | u64::from(*byte));
            let reversed: Vec<u8> = bytes[..cut].iter().rev().copied().collect();
            let go = |opcode| with(a, 0, &[Insn::new(opcode, 3, 0, 0, width), mov_reg(0, 3), EXIT]);
            assert_eq!(go(to_little), number(&bytes[..cut]), "le{width} {a:#x}");
            assert_eq!(go(to_big), number(&reversed), "be{width} {a:#x}");
            assert_eq!(go(swap), number(&reversed), "bswap{width} {a:#x}");
        }
    }
}

#[test]
fn jumps_compare() {
    for (op, wide) in COMPARISONS.into_iter().flat_map(|op| [(op, true), (op, false)]) {
        let bits = if wide { 64 } else { 32 };
        let outcome = |jump| [mov(0, 1), jump, mov(0, 0), EXIT];
        for a in EDGES {
            for b in EDGES {
                let taken = with(a, b, &outcome(jump(wide, op, 3, 4, 1)));
                assert_eq!(taken == 1, holds(op, bits, a, b), "{op:#x} of {bits} bits on {a:#x}, {b:#x}");
            }
            for imm in immediates() {
                let expected = holds(op, bits, a, i64::from(imm) as u64);
                let what = format!("{op:#x} of {bits} bits on {a:#x}, immediate {imm:#x}");
                assert_eq!(with(a, 0, &outcome(jump_k(wide, op, 3, imm, 1))) == 1, expected, "{what}");
                // Over a jump, as compilers close loops.
                let over =
                    [mov_reg(0, 3), jump_k(wide, op, 3, imm, 1), goto(2), mov(0, 1), EXIT, mov(0, 0), EXIT];
                assert_eq!(with(a, 0, &over) == 1, expected, "{what}, over a jump");
                // Behind an addition and behind a mask.
                let sum = a.wrapping_add(5);
                let added = [add(3, 5), jump_k(wide, op, 3, imm, 2), mov(0, 0), EXIT, mov(0, 1), EXIT];
                assert_eq!(
                    with(a, 0, &added) == 1,
                    holds(op, bits, sum, i64::from(imm) as u64),
                    "{what}, added"
                );
                let masked = [
                    alu_k(wide, alu::AND, 3, -256, 0),
                    jump_k(wide, op, 3, imm, 2),
                    mov(0, 0),
                    EXIT,
                    mov(0, 1),
                    EXIT,
                ];
                let mask = expected_and(a, bits);
                assert_eq!(
                    with(a, 0, &masked) == 1,
                    holds(op, bits, mask, i64::from(imm) as u64),
                    "{what}, masked"
                );
            }
        }
    }
}

fn expected_and(a: u64, bits: u32) -> u64 {
    expected(alu::AND, 0, bits, a, -256i64 as u64)
}

#[test]
fn jumps_go_forth_and_back() {
    let back = [goto(2), mov(0, 7), EXIT, goto(-3)];
    assert_eq!(run(&back, &mut []), Ok(7));
    let long = [goto_long(2), mov(0, 7), EXIT, goto_long(-3)];
    assert_eq!(run(&long, &mut []), Ok(7));
    // Farther than 16 bits reach.
    let far = [vec![goto_long(40_000)], vec![mov(0, 1); 40_000], vec![mov(0, 9), EXIT]].concat();
    assert_eq!(run(&far, &mut []), Ok(9));
    let none = [mov(0, 3), goto(0), EXIT];
    assert_eq!(run(&none, &mut []), Ok(3));
}

const WIDTHS: [(u8, usize); 4] = [(size::B, 1), (size::H, 2), (size::W, 4), (size::DW, 8)];

#[test]
fn loads_and_stores() {
    let bytes: [u8; 24] = core::array::from_fn(|at| 0xf9u8.wrapping_sub(at as u8 * 11));
    for (width, count) in WIDTHS {
        for at in 0..=24 - count {
            let expected =
                bytes[at..at + count].iter().rev().fold(0u64, |sum, byte| sum << 8 | u64::from(*byte));
            let loaded = run(&[load(width, 0, 1, at as i16), EXIT], &mut bytes.clone());
            assert_eq!(loaded, Ok(expected), "load of {count} at {at}");
            let below = [add(1, 24), load(width, 0, 1, at as i16 - 24), EXIT];
            assert_eq!(run(&below, &mut bytes.clone()), Ok(expected), "load of {count} below the end");
            if count < 8 {
                let signed = Insn::new(class::LDX | mode::MEMSX | width, 0, 1, at as i16, 0);
                let expected = parts(expected, 8 * count as u32).1 as u64;
                assert_eq!(
                    run(&[signed, EXIT], &mut bytes.clone()),
                    Ok(expected),
                    "signed load of {count} at {at}"
                );
            }
            let value = 0x8182_8384_8586_8788u64;
            let mut stored = bytes;
            let [first, second] = number(3, value);
            run(&[first, second, store(width, 1, at as i16, 3), mov(0, 0), EXIT], &mut stored)
                .expect("no fault");
            let mut wanted = bytes;
            wanted[at..at + count].copy_from_slice(&value.to_le_bytes()[..count]);
            assert_eq!(stored, wanted, "store of {count} at {at}");
            for imm in [-2, 0x7172_7374] {
                let mut stored = bytes;
                run(&[store_k(width, 1, at as i16, imm), mov(0, 0), EXIT], &mut stored).expect("no fault");
                wanted[at..at + count].copy_from_slice(&i64::from(imm).to_le_bytes()[..count]);
                assert_eq!(stored, wanted, "store of an immediate of {count} at {at}");
            }
        }
        for at in [24 - count as i16 + 1, 24, -1] {
            assert!(
                run(&[load(width, 0, 1, at), EXIT], &mut bytes.clone()).is_err(),
                "load of {count} at {at}"
            );
            assert!(
                run(&[store(width, 1, at, 0), EXIT], &mut bytes.clone()).is_err(),
                "store of {count} at {at}"
            );
        }
        for offset in [-512, -8 * count as i16, -(count as i16)] {
            let [first, second] = number(3, 0xf1f2_f3f4_f5f6_f7f8);
            let kept = [first, second, store(width, 10, offset, 3), load(width, 0, 10, offset), EXIT];
            let expected = 0xf1f2_f3f4_f5f6_f7f8u64 & (u64::MAX >> (64 - 8 * count));
            assert_eq!(run(&kept, &mut []), Ok(expected), "stack, {count} at {offset}");
            let kept = [store_k(width, 10, offset, -3), load(width, 0, 10, offset), EXIT];
            let expected = -3i64 as u64 & (u64::MAX >> (64 - 8 * count));
            assert_eq!(run(&kept, &mut []), Ok(expected), "stack, immediate, {count} at {offset}");
        }
    }
}

#[test]
fn loads_before_what_compilers_put_behind_them() {
    for (width, count) in WIDTHS {
        for value in EDGES {
            let mut bytes = value.to_le_bytes();
            let loaded = value & (u64::MAX >> (64 - 8 * count));
            for (op, imm) in COMPARISONS.into_iter().flat_map(|op| immediates().map(move |imm| (op, imm))) {
                let program = [
                    load(width, 4, 1, 0),
                    jump_k(false, op, 4, imm, 2),
                    mov_reg(0, 4),
                    EXIT,
                    mov(0, -7),
                    EXIT,
                ];
                let expected =
                    if holds(op, 32, loaded, i64::from(imm) as u64) { -7i64 as u64 } else { loaded };
                assert_eq!(run(&program, &mut bytes), Ok(expected), "load of {count}, {op:#x} {imm:#x}");
            }
            for (op, other) in [jmp::JEQ, jmp::JNE].into_iter().flat_map(|op| EDGES.map(|edge| (op, edge))) {
                let [first, second] = number(3, other);
                let behind =
                    [load(width, 4, 1, 0), jump(false, op, 4, 3, 2), mov_reg(0, 4), EXIT, mov(0, -7), EXIT];
                let program = [&[first, second][..], &behind].concat();
                let expected = if holds(op, 32, loaded, other) { -7i64 as u64 } else { loaded };
                assert_eq!(run(&program, &mut bytes), Ok(expected), "load of {count}, {op:#x} {other:#x}");
            }
            let summed = [mov(3, 9), load(width, 4, 1, 0), alu(true, alu::ADD, 3, 4, 0), mov_reg(0, 3), EXIT];
            assert_eq!(run(&summed, &mut bytes), Ok(loaded.wrapping_add(9)));
            let xored = [mov(3, 9), load(width, 4, 1, 0), alu(true, alu::XOR, 3, 4, 0), mov_reg(0, 3), EXIT];
            assert_eq!(run(&xored, &mut bytes), Ok(loaded ^ 9));
            let indexed = [
                mov(2, 3),
                mov_reg(3, 1),
                alu(true, alu::ADD, 3, 2, 0),
                load(width, 3, 3, -3),
                mov_reg(0, 3),
                EXIT,
            ];
            assert_eq!(run(&indexed, &mut bytes), Ok(loaded));
        }
    }
}

/// Bytes at an address that is a multiple of eight.
#[repr(align(8))]
struct Aligned<const N: usize>([u8; N]);

#[test]
fn atomics() {
    type Change = fn(u64, u64) -> u64;
    let changes: [(i32, Change); 4] = [
        (alu::ADD.into(), u64::wrapping_add),
        (alu::OR.into(), |a, b| a | b),
        (alu::AND.into(), |a, b| a & b),
        (alu::XOR.into(), |a, b| a ^ b),
    ];
    for (width, bits) in [(size::W, 32), (size::DW, 64)] {
        let low = |value: u64| parts(value, bits).0 as u64;
        // Runs an atomic with r3 as operand and r0 as what is expected; returns memory, r3 and r0.
        let go = |imm, held: u64, operand: u64, expected: u64| {
            let mut bytes = Aligned(held.to_le_bytes());
            let insns = [
                &number(3, operand)[..],
                &number(0, expected),
                &[atomic(width, 1, 0, 3, imm), store(size::DW, 10, -8, 3), store(size::DW, 10, -16, 0)],
            ];
            let src = run(&[&insns.concat()[..], &[load(size::DW, 0, 10, -8), EXIT]].concat(), &mut bytes.0);
            let mut again = Aligned(held.to_le_bytes());
            let r0 = run(&[&insns.concat()[..], &[load(size::DW, 0, 10, -16), EXIT]].concat(), &mut again.0);
            assert_eq!(bytes.0, again.0);
            (u64::from_le_bytes(bytes.0), src.expect("no fault"), r0.expect("no fault"))
        };
        let kept = |held: u64, new: u64| if bits == 64 { new } else { held & !0xffff_ffff | low(new) };
        for (held, operand) in EDGES.into_iter().flat_map(|a| EDGES.map(|b| (a, b))) {
            for (imm, change) in changes {
                let new = kept(held, change(held, operand));
                assert_eq!(go(imm, held, operand, 5), (new, operand, 5), "{imm:#x} {held:#x} {operand:#x}");
                assert_eq!(go(imm | op::FETCH, held, operand, 5), (new, low(held), 5), "fetch {imm:#x}");
            }
            assert_eq!(go(op::XCHG, held, operand, 5), (kept(held, operand), low(held), 5), "xchg {held:#x}");
            let same = go(op::CMPXCHG, held, operand, held);
            assert_eq!(same, (kept(held, operand), operand, low(held)), "cmpxchg, equal {held:#x}");
            if low(held) != 6 {
                assert_eq!(
                    go(op::CMPXCHG, held, operand, 6),
                    (held, operand, low(held)),
                    "cmpxchg, other {held:#x}"
                );
            }
        }
    }
}

#[test]
fn an_atomic_needs_an_aligned_address() {
    use tidegate_vm::{Cause, Fault};
    for (width, offset) in [(size::W, 1), (size::W, 2), (size::DW, 1), (size::DW, 4)] {
        let program = [atomic(width, 1, offset, 3, 0), mov(0, 0), EXIT];
        let fault = run(&program, &mut Aligned([0; 16]).0);
        assert!(matches!(fault, Err(Fault { insn: 0, cause: Cause::Unaligned { .. } })), "{fault:?}");
    }
}

#[test]
fn fields_that_an_instruction_does_not_use_are_zero() {
    let refused = |insn: Insn| Executable::unverified(&code(&[insn, EXIT]), &[], &[]).is_err();
    let fields = |insn: Insn| {
        [
            Insn { regs: insn.regs ^ 0x10, ..insn },
            Insn { offset: insn.offset ^ 2, ..insn },
            Insn { imm: insn.imm ^ 4, ..insn },
        ]
    };
    for wide in [true, false] {
        for (op, variant) in OPERATIONS {
            let [_, offset, imm] = fields(alu(wide, op, 3, 4, variant));
            assert!(refused(offset) && refused(imm), "{op:#x} with a register");
            let [src, offset, _] = fields(alu_k(wide, op, 3, 4, variant));
            assert!(refused(src) && refused(offset), "{op:#x} with an immediate");
        }
        for op in COMPARISONS {
            assert!(refused(fields(jump(wide, op, 3, 4, 0))[2]), "{op:#x} with a register");
            assert!(refused(fields(jump_k(wide, op, 3, 4, 0))[0]), "{op:#x} with an immediate");
        }
    }
    for insn in fields(EXIT).into_iter().chain(fields(alu_k(true, alu::NEG, 3, 0, 0))) {
        assert!(refused(insn), "{insn:?}");
    }
    for (width, _) in WIDTHS {
        assert!(refused(fields(load(width, 3, 1, 0))[2]) && refused(fields(store(width, 1, 0, 3))[2]));
        assert!(refused(fields(store_k(width, 1, 0, 3))[0]));
    }
    assert!(refused(Insn { imm: 1, ..goto(0) }) && refused(Insn { offset: 1, ..goto_long(0) }));
    assert!(refused(Insn { regs: 11, ..mov(0, 0) }) && refused(Insn { regs: 10, ..mov(0, 0) }));
}

//! Programs built to hurt a verifier: what they do to one that walks every path, keeps every state or follows every loop has no
//! end that anybody waits for.

use tidegate_abi::insn::{alu, jmp, size};
use tidegate_abi::limits::{MAX_CALL_DEPTH, MAX_INSNS};
use tidegate_abi::{StreamContext, Verdict};

use crate::code::Code;

/// A number that nobody knows.
const FLOW: i16 = std::mem::offset_of!(StreamContext, flow_id) as i16;

/// A program: its name, its code, and what is said of it.
pub(crate) type Hurting = (&'static str, Vec<u8>, &'static str);

/// Every one of them.
pub(crate) fn programs() -> Vec<Hurting> {
    let all: [(_, fn(&mut Code), _); 12] = [
        ("bits", bits, "TG0301"),
        ("ladder", ladder, "TG0901"),
        ("mesh", mesh, "TG0901"),
        ("states", states, "accepted"),
        ("wide", wide, "accepted"),
        ("relations", relations, "accepted"),
        ("nest", nest, "accepted"),
        ("deep-nest", deep_nest, "TG0901"),
        ("round-and-round", round_and_round, "TG0901"),
        ("long-round", long_round, "accepted"),
        ("collatz", collatz, "TG0602"),
        ("calls", calls, "TG0901"),
    ];
    let built = all.map(|(name, build, verdict)| {
        let mut code = Code::default();
        build(&mut code);
        (name, code.bytes(), verdict)
    });
    built.into()
}

/// Two ways for each of twenty bits, and at the end what no way leads to: who forgets the bits can't know.
fn bits(code: &mut Code) {
    code.load(size::DW, 6, 1, FLOW);
    code.alu(alu::MOV, 7, 0);
    for bit in 0..20 {
        code.alu_reg(alu::MOV, 8, 6);
        code.alu(alu::AND, 8, 1 << bit);
        code.branch(jmp::JEQ, 8, 0, 1);
        code.alu(alu::OR, 7, 1 << bit);
    }
    code.branch(jmp::JNE, 7, (1 << 20) - 1, 2);
    code.branch(jmp::JSET, 6, 1 << 19, 1);
    // Nothing is there.
    code.load(size::DW, 0, 7, 0);
    code.verdict(Verdict::Permit);
}

/// As many comparisons as fit, each with a way to the end that knows another number.
fn ladder(code: &mut Code) {
    code.load(size::DW, 2, 1, FLOW);
    code.alu(alu::MOV, 0, 1);
    let end = MAX_INSNS - 1;
    for number in 0.. {
        if code.here() + 4 > end {
            break;
        }
        code.branch_to(jmp::JEQ, 2, number, end);
    }
    while code.here() < end {
        code.alu(alu::MOV, 3, 0);
    }
    code.exit();
}

/// As many comparisons as fit, with ways to anywhere, forth and back.
fn mesh(code: &mut Code) {
    code.load(size::DW, 2, 1, FLOW);
    code.alu_reg(alu::MOV, 3, 2);
    let end = MAX_INSNS - 2;
    let mut chance = 1_u32;
    while code.here() + 6 < end {
        chance = chance.wrapping_mul(0x0019_660d).wrapping_add(0x3c6e_f35f);
        code.alu(alu::ADD, 3, 1);
        // Within the reach of one jump, so that the target is an instruction.
        let near = code.here() as i64 + i64::from(chance >> 8) % 30_000 - 15_000;
        let target = near.clamp(2, end as i64) as usize;
        code.branch_to([jmp::JGT, jmp::JNE, jmp::JSLT][chance as usize % 3], 3, chance as i32 >> 8, target);
    }
    while code.here() < end {
        code.alu(alu::MOV, 4, 0);
    }
    code.verdict(Verdict::Permit);
}

/// Sixty-three places of the stack with one of two numbers each, all of them distances in the end.
fn states(code: &mut Code) {
    const PLACES: i16 = 63;
    code.load(size::DW, 6, 1, FLOW);
    for place in 0..PLACES {
        code.alu(alu::MOV, 7, 8);
        code.branch(jmp::JSET, 6, 1 << (place % 31), 1);
        code.alu(alu::MOV, 7, 16 + i32::from(place) * 8);
        code.store(10, -8 * (place + 1), 7);
    }
    for place in 0..PLACES {
        code.load(size::DW, 7, 10, -8 * (place + 1));
        code.alu_reg(alu::MOV, 8, 10);
        code.alu_reg(alu::SUB, 8, 7);
        code.load(size::DW, 8, 8, 0);
    }
    code.verdict(Verdict::Permit);
}

/// Frames full of numbers that nobody knows, all of them needed, and as many ways as fit where the last one is.
fn wide(code: &mut Code) {
    const FUNCTION: usize = 2 + 2 * 63 + 1 + 2 * 63 + 3;
    for depth in 1..MAX_CALL_DEPTH {
        let start = code.here();
        code.alu_reg(alu::MOV, 6, 1);
        code.load(size::DW, 7, 6, FLOW);
        for place in 1..64 {
            code.alu(alu::ADD, 7, depth as i32 * 64 + i32::from(place));
            code.store(10, -8 * place, 7);
        }
        code.call(start + FUNCTION);
        for place in 1..64 {
            code.load(size::DW, 7, 10, -8 * place);
            code.branch(jmp::JEQ, 7, 0, 0);
        }
        code.alu_reg(alu::MOV, 0, 7);
        code.alu(alu::MOV, 0, 1);
        code.exit();
    }
    code.alu(alu::MOV, 3, 0);
    while code.here() + 6 < MAX_INSNS {
        code.alu(alu::ADD, 3, 3);
        code.branch(jmp::JSGT, 3, code.here() as i32, 1);
        code.alu(alu::XOR, 3, 1);
    }
    code.verdict(Verdict::Permit);
}

/// Numbers that are compared with each other, each pair of them.
fn relations(code: &mut Code) {
    const PLACES: i16 = 60;
    for place in 1..=PLACES {
        code.load(size::DW, 2, 1, FLOW);
        code.store(10, -8 * place, 2);
    }
    for high in 1..=PLACES {
        for low in 1..=PLACES {
            code.load(size::DW, 2, 10, -8 * high);
            code.load(size::DW, 3, 10, -8 * low);
            code.branch_reg(jmp::JGT, 2, 3, 1);
            code.alu_reg(alu::ADD, 2, 3);
        }
    }
    code.verdict(Verdict::Permit);
}

/// Loops in loops, `depth` of them, a hundred rounds each.
fn loops(code: &mut Code, depth: i16, rounds: i32) {
    let mut heads = Vec::new();
    for level in 1..=depth {
        code.alu(alu::MOV, 3, 0);
        code.store(10, -8 * level, 3);
        heads.push(code.here());
    }
    code.alu(alu::ADD, 5, 1);
    for level in (1..=depth).rev() {
        code.load(size::DW, 3, 10, -8 * level);
        code.alu(alu::ADD, 3, 1);
        code.store(10, -8 * level, 3);
        let head = heads.pop().unwrap_or_default();
        code.branch_to(jmp::JLT, 3, rounds, head);
    }
    code.verdict(Verdict::Permit);
}

fn nest(code: &mut Code) {
    code.load(size::DW, 5, 1, FLOW);
    loops(code, 3, 60);
}

fn deep_nest(code: &mut Code) {
    code.load(size::DW, 5, 1, FLOW);
    loops(code, 40, 100);
}

/// A loop that counts by one of two steps, so that its rounds are many and all different.
fn round_and_round(code: &mut Code) {
    code.load(size::DW, 6, 1, FLOW);
    code.alu(alu::MOV, 7, 1);
    let head = code.here();
    code.alu(alu::ADD, 7, 1);
    code.load(size::DW, 6, 1, FLOW);
    code.branch(jmp::JSET, 6, 1, 1);
    code.alu(alu::ADD, 7, 2);
    code.branch_to(jmp::JLT, 7, 4_000_000, head);
    code.verdict(Verdict::Permit);
}

/// One loop whose round is as long as a program may be.
fn long_round(code: &mut Code) {
    code.load(size::DW, 6, 1, FLOW);
    code.alu(alu::MOV, 7, 0);
    let head = code.here();
    for number in 0.. {
        if code.here() + 12 > MAX_INSNS {
            break;
        }
        code.alu(alu::MUL, 6, 3);
        code.branch(jmp::JSGT, 6, number, 1);
        code.alu(alu::ADD, 6, 1);
    }
    code.alu(alu::ADD, 7, 1);
    code.branch_to(jmp::JLT, 7, 200, head);
    code.verdict(Verdict::Permit);
}

/// A loop of which nobody knows whether it ends.
fn collatz(code: &mut Code) {
    code.load(size::DW, 6, 1, FLOW);
    let head = code.here();
    code.branch(jmp::JSET, 6, 1, 2);
    code.alu(alu::RSH, 6, 1);
    code.branch_to(jmp::JNE, 6, 1, head);
    code.alu(alu::MUL, 6, 3);
    code.alu(alu::ADD, 6, 1);
    code.branch_to(jmp::JNE, 6, 1, head);
    code.verdict(Verdict::Permit);
}

/// Each function calls the next one forty times.
fn calls(code: &mut Code) {
    const CALLS: usize = 40;
    const FUNCTION: usize = 2 + 3 * CALLS + 1;
    for _ in 1..MAX_CALL_DEPTH {
        let start = code.here();
        code.load(size::DW, 7, 1, FLOW);
        code.alu_reg(alu::MOV, 6, 1);
        for _ in 0..CALLS {
            code.alu_reg(alu::MOV, 1, 6);
            code.call(start + FUNCTION);
            code.alu_reg(alu::ADD, 7, 0);
        }
        code.exit();
    }
    code.verdict(Verdict::Permit);
}

#[cfg(test)]
mod tests {
    use tidegate_abi::limits::MAX_VERIFY_STEPS;
    use tidegate_verifier::MEMORY;

    use super::programs;
    use crate::{Group, Input, alone, measure};

    /// Within the budget of the driver's configuration, and by the code that fits the program.
    #[test]
    fn who_is_built_to_hurt_is_accepted_or_told_why_not() {
        let _alone = alone();
        for (name, code, verdict) in programs() {
            let row = measure(&Input::of(Group::Hurt, "hurt", name.to_owned(), code), 1);
            println!("{}", crate::page::line(&row));
            assert_eq!(row.verdict, verdict, "{name}");
            assert!(row.steps <= MAX_VERIFY_STEPS, "{name}: {} steps", row.steps);
            assert!(row.peak <= MEMORY, "{name}: {} bytes", row.peak);
        }
    }
}

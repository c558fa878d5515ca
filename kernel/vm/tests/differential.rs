//! The engine beside rbpf's interpreter and its JIT over generated programs.
//!
//! Not generated, because rbpf 0.4.1 is known to do something else:
//! - signed division and modulo, moves with sign (it ignores `offset`), loads with sign, unconditional swaps, long jumps:
//!   it knows nothing of version 4;
//! - 64-bit comparisons with a negative immediate: it extends the immediate with zeros;
//! - 32-bit modulo by a register: by zero it keeps the upper half;
//! - division and modulo by an immediate zero: its verifier refuses them;
//! - negation: of the least number it panics where overflow is checked;
//! - atomics: it knows only some of them;
//! - jumps back: it has no budget.
//!
//! Its JIT does not clear the stack: each program does so first.

mod common;

use common::{EXIT, alu, alu_k, code, executable, jump, jump_k, load, number, store, store_k};
use proptest::prelude::*;
use tidegate_abi::insn::{Insn, alu, class, jmp, size, source};
use tidegate_vm::{Raw, Stack};

const BYTES: usize = 64;
/// What rbpf's JIT is known to do otherwise, which its interpreter does not: conversions to little-endian and 32-bit moves of a
/// register leave the bits above as they are. Programs with one of these are compared with the interpreter alone.
const JIT_IS_WRONG: [u8; 2] = [class::ALU | alu::END | source::K, class::ALU | alu::MOV | source::X];

fn register() -> impl Strategy<Value = u8> {
    prop_oneof![Just(0u8), 2..10u8]
}

fn value() -> impl Strategy<Value = u64> {
    let edges = vec![0, 1, 31, 32, 63, 64, u32::MAX.into(), 1 << 31, 1 << 32, 1 << 63, u64::MAX];
    prop_oneof![prop::sample::select(edges), any::<u64>()]
}

fn immediate() -> impl Strategy<Value = i32> {
    prop_oneof![-2..70i32, Just(i32::MIN), Just(i32::MAX), any::<i32>()]
}

fn insn() -> impl Strategy<Value = Insn> {
    let operations = vec![
        alu::ADD,
        alu::SUB,
        alu::MUL,
        alu::DIV,
        alu::OR,
        alu::AND,
        alu::LSH,
        alu::RSH,
        alu::MOD,
        alu::XOR,
        alu::MOV,
        alu::ARSH,
    ];
    let comparisons = vec![
        jmp::JEQ,
        jmp::JGT,
        jmp::JGE,
        jmp::JSET,
        jmp::JNE,
        jmp::JSGT,
        jmp::JSGE,
        jmp::JLT,
        jmp::JLE,
        jmp::JSLT,
        jmp::JSLE,
    ];
    let operation = move || prop::sample::select(operations.clone());
    let comparison = move || prop::sample::select(comparisons.clone());
    let width = || prop::sample::select(vec![size::B, size::H, size::W, size::DW]);
    let shown = || 0..(BYTES as i16 - 8);
    let framed = || -512..-8i16;
    prop_oneof![
        4 => (any::<bool>(), operation(), register(), register()).prop_map(|(wide, op, dst, src)| {
            alu(wide || op == alu::MOD, op, dst, src, 0)
        }),
        4 => (any::<bool>(), operation(), register(), immediate()).prop_map(|(wide, op, dst, imm)| {
            let imm = if imm == 0 && matches!(op, alu::DIV | alu::MOD) { 3 } else { imm };
            let imm = if matches!(op, alu::LSH | alu::RSH | alu::ARSH) { imm & 31 } else { imm };
            alu_k(wide, op, dst, imm, 0)
        }),
        1 => (any::<bool>(), register(), prop::sample::select(vec![16, 32, 64])).prop_map(|(big, dst, bits)| {
            Insn::new(class::ALU | alu::END | if big { 8 } else { 0 }, dst, 0, 0, bits)
        }),
        2 => (any::<bool>(), comparison(), register(), register(), 0..6i16)
            .prop_map(|(wide, op, dst, src, to)| jump(wide, op, dst, src, to)),
        2 => (any::<bool>(), comparison(), register(), immediate(), 0..6i16)
            .prop_map(|(wide, op, dst, imm, to)| jump_k(wide && imm >= 0, op, dst, imm, to)),
        2 => (width(), register(), shown()).prop_map(|(width, dst, at)| load(width, dst, 1, at)),
        1 => (width(), register(), framed()).prop_map(|(width, dst, at)| load(width, dst, 10, at)),
        1 => (width(), shown(), register()).prop_map(|(width, at, src)| store(width, 1, at, src)),
        1 => (width(), framed(), register()).prop_map(|(width, at, src)| store(width, 10, at, src)),
        1 => (width(), shown(), immediate()).prop_map(|(width, at, imm)| store_k(width, 1, at, imm)),
        1 => (width(), framed(), immediate()).prop_map(|(width, at, imm)| store_k(width, 10, at, imm)),
    ]
}

/// Registers set, what was generated, every register folded into r0, and exit.
fn program() -> impl Strategy<Value = Vec<Insn>> {
    let values = prop::collection::vec(value(), 9);
    (values, prop::collection::vec(insn(), 1..60)).prop_map(|(values, body)| {
        let registers = [0].into_iter().chain(2..10u8);
        // rbpf's JIT leaves the stack as it finds it.
        let cleared = (1..=64).map(|word| store_k(size::DW, 10, -8 * word, 0));
        let values = registers.zip(values).flat_map(|(dst, value)| number(dst, value));
        let mut all: Vec<Insn> = cleared.chain(values).collect();
        let len = body.len() as i16;
        for (at, mut insn) in body.into_iter().enumerate() {
            if matches!(insn.class(), class::JMP | class::JMP32) {
                insn.offset = insn.offset.min(len - at as i16 - 1);
            }
            all.push(insn);
        }
        for src in 2..10 {
            all.push(alu_k(true, alu::MUL, 0, 31, 0));
            all.push(alu(true, alu::ADD, 0, src, 0));
        }
        all.push(EXIT);
        all
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn rbpf_agrees(program in program(), bytes in prop::array::uniform32(any::<u8>())) {
        // One buffer for both, so that addresses are the same.
        let mut shown = [0u8; BYTES];
        shown[..32].copy_from_slice(&bytes);
        let code = code(&program);
        let mut machine = rbpf::EbpfVmRaw::new(Some(&code)).expect("rbpf's verifier takes what is generated");
        let theirs = machine.execute_program(&mut shown).expect("rbpf runs what is generated");
        let left = shown;
        let begin = |shown: &mut [u8; BYTES]| {
            shown.fill(0);
            shown[..32].copy_from_slice(&bytes);
        };
        begin(&mut shown);
        #[cfg(target_arch = "x86_64")]
        if !program.iter().any(|insn| JIT_IS_WRONG.contains(&insn.opcode)) {
            machine.jit_compile().expect("rbpf compiles what is generated");
            // SAFETY: the program stays within its memory: the interpreter, which checks that, has just run it.
            let compiled = unsafe { machine.execute_program_jit(&mut shown) };
            prop_assert_eq!(compiled.expect("rbpf runs what it compiled"), theirs);
            prop_assert_eq!(shown, left);
        }
        begin(&mut shown);
        let ours = executable(&program).run(&mut common::Sum, &mut Stack::new(), &mut Raw(&mut shown), &[], 1000);
        prop_assert_eq!(ours, Ok(theirs));
        prop_assert_eq!(shown, left);
    }
}

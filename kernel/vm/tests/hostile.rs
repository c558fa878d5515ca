//! Programs that nobody verified: whatever they are, they end, and touch nothing that they were not given.

mod common;

use common::Sum;
use proptest::prelude::*;
use tidegate_abi::insn::{Insn, alu, class, jmp, mode, size};
use tidegate_abi::{MapDef, MapKind, SendContext};
use tidegate_vm::{Executable, MapBinding, MapMemory, Raw, Stack};

const MAP: MapDef = MapDef { kind: MapKind::Array, key_size: 4, value_size: 16, max_entries: 2, flags: 0 };

/// Instructions with any opcode and fields that it may have; most are well formed, and most addresses wild.
fn insn() -> impl Strategy<Value = Insn> {
    let opcode = prop_oneof![
        6 => any::<u8>(),
        2 => prop::sample::select(vec![class::LDX | mode::MEM, class::STX | mode::MEM | size::DW, class::ST | mode::MEM]),
        1 => prop::sample::select(vec![class::STX | mode::ATOMIC | size::DW, class::STX | mode::ATOMIC]),
        1 => Just(class::JMP | jmp::CALL),
    ];
    let offset = prop_oneof![4 => -16..64i16, 1 => any::<i16>()];
    let imm = prop_oneof![2 => Just(0i32), 4 => -8..64i32, 1 => any::<i32>()];
    (opcode, 0..11u8, 0..11u8, offset, imm).prop_map(|(opcode, dst, src, offset, imm)| {
        let mut insn = Insn::new(opcode, dst, src, offset, imm);
        match insn.class() {
            class::ALU | class::ALU64 => {
                let variants = matches!(opcode & 0xf0, alu::DIV | alu::MOD);
                insn.offset = if variants { offset & 1 } else { 0 };
                insn.regs &= if opcode & 8 == 0 { 0x0f } else { 0xff };
                insn.imm = if opcode & 8 == 0 { imm } else { 0 };
            }
            class::JMP | class::JMP32 if opcode & 0xf0 == jmp::CALL => {
                insn = Insn::new(opcode, if opcode & 8 == 0 { 0 } else { dst }, src & 1, 0, imm);
                if opcode & 8 != 0 {
                    insn = Insn::new(opcode, dst, 0, 0, 0);
                }
            }
            class::JMP | class::JMP32 => {
                insn.offset %= 8;
                insn.regs &= if opcode & 8 == 0 { 0x0f } else { 0xff };
                insn.imm = if opcode & 8 == 0 { imm } else { 0 };
            }
            class::LDX => insn.imm = 0,
            class::ST => insn.regs &= 0x0f,
            class::STX if opcode & 0xe0 == mode::MEM => insn.imm = 0,
            _ => {}
        }
        insn
    })
}

/// The well-formed part of what was generated, with addresses of everything in registers and an exit behind it.
fn program() -> impl Strategy<Value = Vec<u8>> {
    let map = |imm| [Insn::new(0x18, 3, 6, 0, imm), Insn::default()];
    prop::collection::vec(insn(), 1..40).prop_map(move |body| {
        let mov = |dst, src| Insn::new(class::ALU64 | alu::MOV | 8, dst, src, 0, 0);
        let mut all = Vec::from(map(0));
        all.extend([mov(4, 10), mov(5, 1), Insn::new(class::LDX | mode::MEM | size::DW, 6, 1, 0, 0)]);
        let exit = Insn::new(class::JMP | jmp::EXIT, 0, 0, 0, 0);
        for insn in body {
            // A jump has to stay inside; one that does not is left out, and so is what is not well formed.
            let alone = [&[exit; 9][..], &[insn], &[exit; 9]].concat();
            if Executable::unverified(&common::code(&alone), &[], &[]).is_ok() {
                all.push(insn);
            }
        }
        all.extend([exit; 9]);
        common::code(&all)
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 10_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_refused_or_run(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(executable) = Executable::unverified(&bytes, &[], &[]) {
            let _ = executable.run(&mut Sum, &mut Stack::new(), &mut Raw(&mut [0; 8]), &[1, 2, 3], 100);
        }
    }

    #[test]
    fn nothing_is_touched_that_was_not_given(code in program(), budget in 0..2_000u32) {
        let memory = MapMemory::new(4).expect("little");
        let read_only = MapBinding { handle: 77, memory: Some(memory.clone()), writable: false };
        // Jumps may still lead out of what was generated.
        let executable = Executable::unverified(&code, &[MAP], &[read_only]);
        let Ok(executable) = executable else { return Ok(()) };

        // A context with guards on both sides, and a window with guards, which is read-only itself.
        let mut buffer = [0x5au8; 192];
        let window = [0xa5u8; 192];
        let mut stack = Stack::new();
        let result = executable.run(&mut Sum, &mut stack, &mut Raw(&mut buffer[64..128]), &window[64..128], budget);
        prop_assert!(buffer[..64].iter().chain(&buffer[128..]).all(|byte| *byte == 0x5a));
        prop_assert!(window.iter().all(|byte| *byte == 0xa5));
        prop_assert!(memory.words().iter().all(|word| word.load(std::sync::atomic::Ordering::Relaxed) == 0));
        if result.is_ok() {
            prop_assert!(stack.left() >= -(executable.slots() as i64));
        }

        let mut context = SendContext { flow_id: 9, ..SendContext::default() };
        let _ = executable.run(&mut Sum, &mut stack, &mut context, &window[64..128], budget);
        prop_assert!(window.iter().all(|byte| *byte == 0xa5));
    }
}

//! What the engine that traces writes down: every instruction that ran, and which way its jumps went.
#![cfg(feature = "trace")]

use tidegate_abi::{Insn, ProgramType, StreamContext};
use tidegate_verifier::{Options, Program, verify};
use tidegate_vm::{Executable, Fault, Host, Memory, Stack, Visits};

/// A host whose programs call nothing.
struct Nobody;

impl Host for Nobody {
    fn call(&mut self, _: u32, _: [u64; 5], _: &mut Memory<'_>) -> Result<u64, Fault> {
        unreachable!("the program has no calls")
    }
}

#[test]
fn each_instruction_is_visited_as_often_as_it_runs_and_each_jump_as_often_as_it_is_taken() {
    let code: Vec<u8> = [
        Insn::new(0xb7, 1, 0, 0, 5),  // r1 = 5
        Insn::new(0xb7, 0, 0, 0, 0),  // r0 = 0
        Insn::new(0x07, 1, 0, 0, -1), // r1 -= 1
        Insn::new(0x55, 1, 0, -2, 0), // if r1 != 0 goto -2
        Insn::new(0x15, 0, 0, 1, 7),  // if r0 == 7 goto +1
        Insn::new(0x95, 0, 0, 0, 0),  // exit
        Insn::new(0x95, 0, 0, 0, 0),  // exit
    ]
    .iter()
    .flat_map(|insn| insn.to_bytes())
    .collect();
    let program = Program { program_type: ProgramType::Stream, code: &code, maps: &[] };
    let verified = verify(&program, &Options::default()).expect("it is right");
    let traced = Executable::traced(&verified, &[]).expect("memory");
    let run = |executable: &Executable| {
        let (mut stack, mut context) = (Box::new(Stack::new()), StreamContext::default());
        executable.run(&mut Nobody, &mut stack, &mut context, b"x", 100)
    };
    for _ in 0..2 {
        assert_eq!(run(&traced), Ok(0));
    }
    let visits: Vec<_> = traced.visits().expect("it is traced").collect();
    let of = |runs, jumps| Visits { runs, jumps };
    assert_eq!(visits, [of(2, 0), of(2, 0), of(10, 0), of(10, 8), of(2, 0), of(2, 0), of(0, 0)]);

    let plain = Executable::new(&verified, &[]).expect("memory");
    assert_eq!(run(&plain), Ok(0));
    assert!(plain.visits().is_none());
}

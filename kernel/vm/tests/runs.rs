//! What a run is, from the outside: registers at entry, memory, budget, calls, faults.

mod common;

use common::{
    EXIT, Sum, add, add_reg, call_register, executable, goto, helper, jump_k, load, local, mov, mov_reg, run,
    store,
};
use tidegate_abi::insn::{Insn, class, jmp, size, source};
use tidegate_abi::{SendContext, limits};
use tidegate_vm::{Cause, Fault, Raw, Stack, nothing};

#[test]
fn r1_and_r2_are_the_context_at_entry() {
    let program = [load(size::W, 0, 1, 0), add_reg(0, 2), EXIT];
    assert_eq!(run(&program, &mut [1, 2, 0, 0, 9]), Ok(0x201 + 5));
}

#[test]
fn a_context_shows_the_window_and_the_window_is_read_only() {
    let window = [7, 8, 9];
    let read = [load(size::DW, 1, 1, 0), load(size::B, 0, 1, 2), EXIT];
    let write = [load(size::DW, 1, 1, 0), store(size::B, 1, 0, 0), EXIT];
    let past = [load(size::DW, 1, 1, 8), load(size::B, 0, 1, 0), EXIT];
    let go = |program: &[Insn]| {
        let mut context = SendContext::default();
        executable(program).run(&mut Sum, &mut Stack::new(), &mut context, &window, 100)
    };
    assert_eq!(go(&read), Ok(9));
    assert!(matches!(go(&write), Err(Fault { insn: 1, cause: Cause::Access { write: true, size: 1, .. } })));
    assert!(matches!(go(&past), Err(Fault { insn: 1, cause: Cause::Access { write: false, size: 1, .. } })));
}

#[test]
fn a_watched_run_ends_as_any_and_tells_where_it_was_last() {
    // 0: r0 = 40, 1: r0 -= 1, 2: if r0 != 0 goto 1, 3: exit
    let program = [mov(0, 40), add(0, -1), jump_k(true, jmp::JNE, 0, 0, -2), EXIT];
    let (executable, mut stack, mut bytes) = (executable(&program), Stack::new(), [0; 8]);
    let watched = executable.run_watched(&mut Sum, &mut stack, &mut Raw(&mut bytes), &[], 1000);
    assert_eq!(watched, executable.run(&mut Sum, &mut Stack::new(), &mut Raw(&mut bytes), &[], 1000));
    let path: Vec<_> = stack.path().collect();
    assert_eq!((path.len(), path.last()), (limits::MAX_PATH, Some(&3)));
    assert!(path.iter().all(|slot| [1, 2, 3].contains(slot)), "the beginning is forgotten: {path:?}");
    // A shorter one tells nothing of the one before.
    let short = common::executable(&[mov(0, 1), EXIT]);
    assert_eq!(short.run_watched(&mut Sum, &mut stack, &mut Raw(&mut bytes), &[], 10), Ok(1));
    assert_eq!(stack.path().next(), Some(0));
    let fault = executable.run_watched(&mut Sum, &mut stack, &mut Raw(&mut bytes), &[], 10);
    assert_eq!(fault.map_err(|fault| fault.cause), Err(Cause::Budget));
    assert!(stack.path().last().is_some_and(|slot| slot == 1 || slot == 2));
}

#[test]
fn a_window_without_bytes_is_not_at_the_end_of_the_address_space() {
    // `data - 8 <= data_end`, as the verifier proves it.
    let program = [
        load(size::DW, 2, 1, 0),
        load(size::DW, 3, 1, 8),
        add(2, -8),
        mov(0, 1),
        Insn::new(class::JMP | jmp::JGT | source::X, 2, 3, 1, 0),
        mov(0, 2),
        EXIT,
    ];
    for window in [nothing(), &[1]] {
        let mut context = SendContext::default();
        let r0 = executable(&program).run(&mut Sum, &mut Stack::new(), &mut context, window, 100);
        assert_eq!(r0, Ok(2));
        assert_eq!(context.data_end - context.data, window.len() as u64);
    }
}

#[test]
fn a_pair_of_loads_is_held_to_the_last_byte() {
    let differs = |to| Insn::new(class::JMP32 | jmp::JNE | source::X, 3, 0, to, 0);
    for (width, bytes) in [(size::B, 1), (size::H, 2), (size::W, 4)] {
        for at in -9..20i16 {
            let second = at + 8 - bytes;
            let program = [load(width, 3, 1, at), differs(2), load(width, 3, 1, second), differs(0), EXIT];
            let expected = [(0, at), (2, second)].into_iter().find(|(_, at)| !(0..=16 - bytes).contains(at));
            let found = run(&program, &mut [0; 16]).map_err(|fault| fault.insn);
            assert_eq!(found, expected.map_or(Ok(0), |(insn, _)| Err(insn)), "{bytes} bytes at {at}");
        }
    }
}

#[test]
fn the_stack_is_zero_and_ends_at_its_ends() {
    assert_eq!(run(&[load(size::DW, 0, 10, -512), EXIT], &mut []), Ok(0));
    assert!(run(&[load(size::DW, 0, 10, -513), EXIT], &mut []).is_err());
    let keep = [mov(3, 77), store(size::DW, 10, -8, 3), load(size::DW, 0, 10, -8), EXIT];
    assert_eq!(run(&keep, &mut []), Ok(77));
}

#[test]
fn a_helper_gets_r1_to_r5_and_its_result_is_r0() {
    let program = [mov(1, 1), mov(2, 2), mov(3, 3), mov(4, 4), mov(5, 5), helper(1), EXIT];
    assert_eq!(run(&program, &mut []), Ok(15));
    assert_eq!(run(&[helper(2), EXIT], &mut [42]), Ok(42));
    let wild = [mov(1, 1), helper(2), EXIT];
    assert!(matches!(
        run(&wild, &mut []),
        Err(Fault { insn: 1, cause: Cause::Access { address: 1, size: 1, write: false } })
    ));
    assert_eq!(
        run(&[helper(99), EXIT], &mut []),
        Err(Fault { insn: 0, cause: Cause::UnknownHelper { number: 99 } })
    );
}

#[test]
fn a_call_saves_r6_to_r9_and_has_a_stack_of_its_own() {
    let program = [
        mov(6, 5),
        mov(3, 9),
        store(size::DW, 10, -8, 3),
        mov_reg(1, 6),
        local(4),
        add_reg(0, 6),
        load(size::DW, 1, 10, -8),
        add_reg(0, 1),
        EXIT,
        mov(6, 100),
        load(size::DW, 0, 10, -8),
        add_reg(0, 1),
        store(size::DW, 10, -8, 6),
        EXIT,
    ];
    assert_eq!(run(&program, &mut []), Ok(5 + 5 + 9));
}

#[test]
fn calls_nest_to_the_limit_and_no_deeper() {
    let nest = |levels: i32| {
        [mov(1, levels), local(1), EXIT, add(1, -1), jump_k(true, jmp::JEQ, 1, 0, 1), local(-3), EXIT]
    };
    assert!(run(&nest(limits::MAX_CALL_DEPTH as i32 - 1), &mut []).is_ok());
    assert_eq!(
        run(&nest(limits::MAX_CALL_DEPTH as i32), &mut []),
        Err(Fault { insn: 5, cause: Cause::CallDepth })
    );
}

#[test]
fn a_function_can_be_called_through_a_register() {
    let address = [Insn::new(0x18, 3, 4, 0, 5), Insn::default()];
    let program =
        [address[0], address[1], mov(1, 20), call_register(3), add(0, 1), EXIT, mov_reg(0, 1), EXIT];
    assert_eq!(run(&program, &mut []), Ok(21));
    let wild = [mov(3, -1), call_register(3), EXIT];
    assert_eq!(run(&wild, &mut []), Err(Fault { insn: 1, cause: Cause::CallTarget { value: u64::MAX } }));
}

#[test]
fn the_budget_counts_instructions() {
    // 1 + 3 a round + 2: the jump over the dead code is not paid for what it skips.
    let rounds = 10;
    let program = [mov(0, 0), goto(1), mov(0, 99), add(0, 1), jump_k(true, jmp::JLT, 0, rounds, -4), EXIT];
    let cost = 1 + 3 * rounds as u32 + 1;
    let go = |budget| executable(&program).run(&mut Sum, &mut Stack::new(), &mut Raw(&mut []), &[], budget);
    assert_eq!(go(cost), Ok(10));
    assert!(go(cost / 2).is_err());
    let forever = [goto(-1)];
    assert_eq!(run(&forever, &mut []), Err(Fault { insn: 0, cause: Cause::Budget }));
}

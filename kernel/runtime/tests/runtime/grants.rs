//! A program does, runs where, and costs what it was granted, and nothing beyond.

use crate::commit::commit;
use crate::common::*;
use proptest::prelude::*;
use tidegate_abi::control::*;
use tidegate_abi::helper::{self, Capability};
use tidegate_abi::{Grants, Hook, Insn, MapKind, ProgramType, limits};
use tidegate_runtime::Runtime;

fn load_granted(runtime: &Runtime, insns: &[Insn], maps: &[Id], grants: Grants) -> Result<Id, Status> {
    let (name, code, program_type) = (name("p"), code(insns), ProgramType::Stream);
    let maps = maps.iter().copied().collect();
    call(runtime, &ProgramLoad { name, program_type, code: &code, maps, grants }).map(|loaded| loaded.program)
}

fn attach_within(runtime: &Runtime, program: Id, hook: Hook, budget: u32) -> Result<Id, Status> {
    let (priority, on_error) = (0, OnError::Block);
    call(runtime, &LinkAttach { program, hook, priority, on_error, budget, snapshot: false, filter: None })
}

/// Puts a record into a ring buffer, and permits.
fn telling() -> Vec<Insn> {
    let mut program = map_handle(1, 0).to_vec();
    program.extend([store32(10, -4, 7), copy(2, 10), add(2, -4), mov(3, 4), mov(4, 0)]);
    program.extend([call_helper(helper::RINGBUF_OUTPUT), mov(0, 1), EXIT]);
    program
}

#[test]
fn a_program_that_uses_more_than_it_is_granted_is_not_loaded() {
    let runtime = runtime();
    let ring = map(&runtime, MapKind::RingBuf, 0, 0, 4096);
    let before = dump(&runtime);
    let without =
        |power: Capability| Grants { capabilities: !power.0 & Grants::ALL.capabilities, ..Grants::ALL };
    for (insns, power) in [(telling(), Capability::EVENTS), (returning(2).to_vec(), Capability::DROP)] {
        assert_eq!(load_granted(&runtime, &insns, &[ring], without(power)), Err(Status::NotGranted));
        assert_eq!(dump(&runtime), before, "it has left nothing");
        let only = Grants { capabilities: power.0, ..Grants::ALL };
        let program = load_granted(&runtime, &insns, &[ring], only).expect("granted");
        let info = call(&runtime, &ProgramInfo { program }).expect("loaded");
        assert_eq!((info.capabilities, info.grants), (power.0, only));
        call(&runtime, &ProgramUnload { program }).expect("no link runs it");
    }
}

#[test]
fn a_program_whose_worst_case_is_above_its_grant_is_not_loaded() {
    let runtime = runtime();
    let program = load(&runtime, ProgramType::Stream, &returning(1), &[]).expect("accepted");
    let cost = call(&runtime, &ProgramInfo { program }).expect("loaded").max_cost as u32;
    let of = |budget| load_granted(&runtime, &returning(1), &[], Grants { budget, ..Grants::ALL });
    assert_eq!(of(cost - 1), Err(Status::NotGranted));
    assert!(of(cost).is_ok());
}

#[test]
fn grants_of_what_there_is_not_are_refused() {
    let runtime = runtime();
    for grants in [
        Grants { capabilities: 1 << 31, ..Grants::ALL },
        Grants { hooks: 1 << Hook::ALL.len(), ..Grants::ALL },
        Grants { budget: limits::MAX_BUDGET + 1, ..Grants::ALL },
    ] {
        assert_eq!(load_granted(&runtime, &returning(1), &[], grants), Err(Status::Invalid), "{grants:?}");
    }
    assert_eq!(dump(&runtime), "");
}

#[test]
fn no_way_leads_a_program_to_a_hook_or_a_budget_that_is_not_granted() {
    let runtime = runtime();
    let grants = Grants { hooks: Grants::hooks(&[Hook::StreamV4]), budget: 100, ..Grants::ALL };
    let program = load_granted(&runtime, &returning(1), &[], grants).expect("granted");
    let free = load(&runtime, ProgramType::Stream, &returning(0), &[]).expect("accepted");
    let elsewhere = attach_within(&runtime, free, Hook::StreamV6, 100).expect("room");
    let costly = attach_within(&runtime, free, Hook::StreamV4, 101).expect("room");
    let before = dump(&runtime);
    let attach = |hook, budget| {
        let (priority, on_error, snapshot) = (0, OnError::Block, false);
        Change::Attach(LinkAttach { program, hook, priority, on_error, budget, snapshot, filter: None })
    };
    for (hook, budget) in [(Hook::StreamV6, 100), (Hook::StreamV4, 101)] {
        assert_eq!(attach_within(&runtime, program, hook, budget), Err(Status::NotGranted));
        assert_eq!(
            commit(&runtime, &[attach(Hook::StreamV4, 100), attach(hook, budget)]),
            Err(Status::NotGranted)
        );
    }
    for link in [elsewhere, costly] {
        assert_eq!(call(&runtime, &LinkReplace { link, program }), Err(Status::NotGranted));
        assert_eq!(commit(&runtime, &[Change::Replace { link, program }]), Err(Status::NotGranted));
    }
    assert_eq!(dump(&runtime), before, "what is refused changes nothing");
    let link = attach_within(&runtime, program, Hook::StreamV4, 100).expect("granted");
    assert_eq!(call(&runtime, &LinkReplace { link, program: free }), Ok(()));
    assert_eq!(call(&runtime, &LinkReplace { link, program }), Ok(()), "hook and budget are the link's");
}

proptest! {
    #[test]
    fn whatever_is_granted_what_is_linked_is_within_it(
        bits in 0..1_u32 << 5, hooks in 0..1_u16 << 8, granted in 1..200_u32, budget in 1..200_u32, verdict in 0..4,
    ) {
        let runtime = runtime();
        let grants = Grants { capabilities: bits, hooks, budget: granted };
        let uses = if verdict == 2 { Capability::DROP } else { Capability::NONE };
        let insns = returning(verdict);
        let loaded = load_granted(&runtime, &insns, &[], grants);
        let may_load = grants.covers(uses) && insns.len() as u32 <= granted;
        prop_assert_eq!(loaded.is_ok(), may_load, "{:?}", loaded);
        let Ok(program) = loaded else { return Ok(()) };
        for hook in [Hook::StreamV4, Hook::StreamV6] {
            let linked = attach_within(&runtime, program, hook, budget);
            let cost = call(&runtime, &ProgramInfo { program }).expect("loaded").max_cost;
            let may_link = grants.allows(hook) && budget <= granted && cost <= u64::from(budget);
            prop_assert_eq!(linked.is_ok(), may_link, "{:?}", linked);
        }
    }
}

#[test]
fn nothing_is_attached_where_no_traffic_is_ever_shown() {
    let runtime = runtime();
    let stream = load(&runtime, ProgramType::Stream, &returning(1), &[]).expect("accepted");
    let send = load(&runtime, ProgramType::Send, &returning(1), &[]).expect("accepted");
    runtime.set_filters(Filters::Only(ProgramType::Send));
    let before = dump(&runtime);
    let attach = |program, hook| LinkAttach {
        program,
        hook,
        priority: 0,
        on_error: OnError::Block,
        budget: limits::DEFAULT_BUDGET,
        snapshot: false,
        filter: None,
    };
    let (seen, unseen) = (attach(send, Hook::OutboundTransportV6), attach(stream, Hook::StreamV4));
    assert_eq!(call(&runtime, &unseen), Err(Status::NoTraffic));
    let both = [Change::Attach(seen.clone()), Change::Attach(unseen)];
    assert_eq!(commit(&runtime, &both), Err(Status::NoTraffic));
    assert_eq!(dump(&runtime), before, "nothing was changed");
    assert!(call(&runtime, &seen).is_ok());
}

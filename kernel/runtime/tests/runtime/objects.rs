//! How maps, programs and links come, go, and depend on each other.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::thread;

use crate::common::*;
use proptest::collection;
use proptest::prelude::*;
use tidegate_abi::control::*;
use tidegate_abi::{Grants, Hook, Insn, LinkFilter, MapKind, ProgramType, Verdict, helper, limits};

#[test]
fn ids_are_never_given_twice() {
    let runtime = runtime();
    let mut given = BTreeSet::new();
    for _ in 0..10 {
        let map = map(&runtime, MapKind::Array, 4, 8, 1);
        let program = load(&runtime, ProgramType::Send, &returning(1), &[map]).expect("accepted");
        let link = attach(&runtime, program, Hook::OutboundTransportV4, 0).expect("room");
        assert!([map, program, link].into_iter().all(|id| id != 0 && given.insert(id)));
        call(&runtime, &LinkDetach { link }).expect("it is there");
        call(&runtime, &ProgramUnload { program }).expect("no link runs it");
        call(&runtime, &MapRelease { map }).expect("it is there");
    }
    assert_eq!(dump(&runtime), "", "everything went");
}

#[test]
fn a_released_map_stays_until_the_last_program_that_names_it_goes() {
    let runtime = runtime();
    let map = map(&runtime, MapKind::Array, 4, 8, 1);
    // Naming a map twice is naming it once.
    let first = load(&runtime, ProgramType::Send, &returning(1), &[map, map]).expect("accepted");
    let second = load(&runtime, ProgramType::Send, &returning(1), &[map]).expect("accepted");
    call(&runtime, &MapRelease { map }).expect("it is there");
    assert_eq!(call(&runtime, &MapRelease { map }), Err(Status::NotFound), "released already");
    for program in [first, second] {
        assert_eq!(bytes(&runtime, &MapLookup { map, key: &[0; 4] }), Ok(vec![0; 8]));
        call(&runtime, &ProgramUnload { program }).expect("no link runs it");
    }
    assert_eq!(bytes(&runtime, &MapLookup { map, key: &[0; 4] }), Err(Status::NotFound));
    assert_eq!(load(&runtime, ProgramType::Send, &returning(1), &[map]), Err(Status::NotFound));
}

#[test]
fn a_program_gives_back_the_code_that_it_was_loaded_as() {
    let runtime = runtime();
    let code = returning(1);
    let program = load(&runtime, ProgramType::Stream, &code, &[]).expect("accepted");
    let given: Vec<u8> = code.iter().flat_map(|insn| insn.to_bytes()).collect();
    assert_eq!(bytes(&runtime, &ProgramCode { program }), Ok(given.clone()));
    let info = call(&runtime, &ProgramInfo { program }).expect("loaded");
    assert_eq!((info.insns as usize * Insn::SIZE, info.tag), (given.len(), tag(ProgramType::Stream, &given)));
    assert_eq!(bytes(&runtime, &ProgramCode { program: program + 1 }), Err(Status::NotFound));
}

#[test]
fn a_program_that_a_link_runs_is_busy() {
    let runtime = runtime();
    let program = load(&runtime, ProgramType::Stream, &returning(1), &[]).expect("accepted");
    let link = attach(&runtime, program, Hook::StreamV6, 0).expect("room");
    assert_eq!(call(&runtime, &ProgramUnload { program }), Err(Status::Busy));
    call(&runtime, &LinkDetach { link }).expect("it is there");
    assert_eq!(call(&runtime, &LinkDetach { link }), Err(Status::NotFound));
    assert_eq!(call(&runtime, &ProgramUnload { program }), Ok(()));
    assert_eq!(call(&runtime, &ProgramUnload { program }), Err(Status::NotFound));
}

#[test]
fn a_hook_takes_programs_of_its_type_within_their_budget_and_so_many() {
    let runtime = runtime();
    let program = load(&runtime, ProgramType::Send, &returning(1), &[]).expect("accepted");
    assert_eq!(attach(&runtime, program, Hook::StreamV4, 0), Err(Status::Invalid));
    assert_eq!(attach(&runtime, program + 9, Hook::OutboundTransportV4, 0), Err(Status::NotFound));
    let cost = call(&runtime, &ProgramInfo { program }).expect("loaded").max_cost as u32;
    let hook = Hook::OutboundTransportV4;
    let try_budget = |budget| {
        let (priority, on_error) = (0, OnError::Permit);
        call(
            &runtime,
            &LinkAttach { program, hook, priority, on_error, budget, snapshot: false, filter: None },
        )
    };
    assert_eq!(try_budget(0), Err(Status::Invalid));
    assert_eq!(try_budget(limits::MAX_BUDGET + 1), Err(Status::Invalid));
    assert_eq!(try_budget(cost - 1), Err(Status::OverBudget));
    assert!(try_budget(cost).is_ok());
    for _ in 1..limits::MAX_LINKS {
        attach(&runtime, program, hook, 7).expect("room");
    }
    let before = dump(&runtime);
    assert_eq!(attach(&runtime, program, hook, 7), Err(Status::Full));
    assert_eq!(dump(&runtime), before);
    assert_eq!(runtime.chain(hook).links().len(), limits::MAX_LINKS);
    assert!(attach(&runtime, program, Hook::OutboundTransportV6, 7).is_ok(), "each hook counts for itself");
}

#[test]
fn a_link_is_replaced_only_by_a_program_that_could_be_attached() {
    let runtime = runtime();
    let stream = load(&runtime, ProgramType::Stream, &returning(1), &[]).expect("accepted");
    let send = load(&runtime, ProgramType::Send, &returning(1), &[]).expect("accepted");
    let long: Vec<Insn> = [mov(3, 0); 200].into_iter().chain(returning(1)).collect();
    let costly = load(&runtime, ProgramType::Stream, &long, &[]).expect("accepted");
    let link = attach(&runtime, stream, Hook::StreamV4, 3).expect("room");
    let before = dump(&runtime);
    for (program, refusal) in
        [(send, Status::Invalid), (costly, Status::OverBudget), (link, Status::NotFound)]
    {
        assert_eq!(call(&runtime, &LinkReplace { link, program }), Err(refusal));
    }
    assert_eq!(call(&runtime, &LinkReplace { link: link + 1, program: stream }), Err(Status::NotFound));
    assert_eq!(dump(&runtime), before);
}

#[test]
fn bytecode_that_the_verifier_refuses_comes_back_with_the_reason() {
    let runtime = runtime();
    let code = code(&[mov(0, 1)]);
    let load = ProgramLoad {
        name: name("no exit"),
        program_type: ProgramType::Stream,
        code: &code,
        maps: [].into_iter().collect(),
        grants: Grants::ALL,
    };
    let reply = send(&runtime, &message(&load));
    assert_eq!(status(&reply), Status::Refused);
    let refusal = refusal(&reply).expect("a reason");
    assert!(refusal.code.starts_with("TG0"), "{refusal:?}");
    assert!(!refusal.reason.is_empty());
    assert_eq!(dump(&runtime), "");
}

proptest! {
    #[test]
    fn links_run_by_priority_then_by_age(priorities in collection::vec(0..4_u16, 1..20), gone in any::<u32>()) {
        let runtime = runtime();
        let program = load(&runtime, ProgramType::Stream, &returning(0), &[]).expect("accepted");
        let mut links: Vec<(u16, Id)> = Vec::new();
        for priority in priorities {
            links.push((priority, attach(&runtime, program, Hook::StreamV4, priority).expect("room")));
        }
        for (at, (_, link)) in links.clone().into_iter().enumerate() {
            if gone >> at & 1 == 1 {
                call(&runtime, &LinkDetach { link }).expect("it is there");
                links.retain(|other| other.1 != link);
            } else if at % 2 == 0 {
                call(&runtime, &LinkReplace { link, program }).expect("it fits");
            }
        }
        links.sort_unstable();
        let expected: Vec<Id> = links.into_iter().map(|(_, link)| link).collect();
        let chain = runtime.chain(Hook::StreamV4);
        prop_assert_eq!(chain.links().iter().map(|link| link.id()).collect::<Vec<_>>(), &expected[..]);
        prop_assert_eq!(&call(&runtime, &LinkList { hook: Hook::StreamV4 }).expect("a list")[..], &expected[..]);
    }
}

#[test]
fn a_chain_stays_what_it_was_and_keeps_what_it_runs_alive() {
    let runtime = runtime();
    let map = map(&runtime, MapKind::Hash, 4, 4, 4);
    let program = load(&runtime, ProgramType::Stream, &counting(), &[map]).expect("accepted");
    let link = attach(&runtime, program, Hook::StreamV4, 0).expect("room");
    let chain = runtime.chain(Hook::StreamV4);
    call(&runtime, &LinkDetach { link }).expect("it is there");
    call(&runtime, &ProgramUnload { program }).expect("no link runs it");
    call(&runtime, &MapRelease { map }).expect("it is there");
    assert_eq!(dump(&runtime), "");
    assert!(runtime.chain(Hook::StreamV4).links().is_empty());
    assert_eq!(run(&chain.links()[0], b"seen"), Ok(Verdict::Permit), "a classify that began before");
}

/// Sets key 7 of map 0 to 42 and permits.
fn counting() -> Vec<Insn> {
    let mut program = vec![store32(10, -4, 7), store32(10, -8, 42)];
    program.extend(map_handle(1, 0));
    program.extend([copy(2, 10), add(2, -4), copy(3, 10), add(3, -8), mov(4, 0)]);
    program.extend([call_helper(helper::MAP_UPDATE_ELEM), mov(0, 1), EXIT]);
    program
}

#[test]
fn what_a_program_stores_control_requests_read() {
    let runtime = runtime();
    let map = map(&runtime, MapKind::Hash, 4, 4, 4);
    let program = load(&runtime, ProgramType::Send, &counting(), &[map]).expect("accepted");
    attach(&runtime, program, Hook::OutboundTransportV4, 0).expect("room");
    assert_eq!(run(&runtime.chain(Hook::OutboundTransportV4).links()[0], b""), Ok(Verdict::Permit));
    let value = bytes(&runtime, &MapLookup { map, key: &7_u32.to_ne_bytes() });
    assert_eq!(value, Ok(42_u32.to_ne_bytes().to_vec()));
}

/// Copies the value of array 0 onto itself so many times, and permits.
fn copying(times: usize) -> Vec<Insn> {
    let key = [copy(2, 10), add(2, -4)];
    let mut program = vec![store32(10, -4, 0)];
    program.extend(map_handle(1, 0));
    program.extend(key);
    // r0 == 0: over the permission.
    program.extend([call_helper(helper::MAP_LOOKUP_ELEM), Insn::new(0x55, 0, 0, 1, 0), EXIT, copy(6, 0)]);
    for _ in 0..times {
        program.extend(map_handle(1, 0));
        program.extend(key);
        program.extend([copy(3, 6), mov(4, 0), call_helper(helper::MAP_UPDATE_ELEM)]);
    }
    program.extend([mov(0, 1), EXIT]);
    program
}

#[test]
fn a_run_may_move_as_much_as_the_limit_says() {
    let runtime = runtime();
    let map = map(&runtime, MapKind::Array, 4, limits::MAX_VALUE as u32, 1);
    let most = (limits::MAX_SCAN - 4) / (limits::MAX_VALUE + 4);
    for (times, verdict) in [(most, Some(Verdict::Permit)), (most + 1, None)] {
        let program = load(&runtime, ProgramType::Send, &copying(times), &[map]).expect("accepted");
        let (hook, priority, on_error, budget) = (Hook::OutboundTransportV4, 0, OnError::Block, 1000);
        let link = call(
            &runtime,
            &LinkAttach { program, hook, priority, on_error, budget, snapshot: false, filter: None },
        )
        .expect("room");
        let done = run(&runtime.chain(hook).links()[0], b"");
        assert_eq!(done.ok(), verdict, "{done:?}");
        call(&runtime, &LinkDetach { link }).expect("attached");
    }
}

/// Reserves a record, asks the time, submits the record, and permits.
fn reporting() -> Vec<Insn> {
    let mut program = map_handle(1, 0).to_vec();
    program.extend([mov(2, 8), mov(3, 0), call_helper(helper::RINGBUF_RESERVE)]);
    // r0 == 0: permit without a record.
    program.extend([Insn::new(0x15, 0, 0, 7, 0), copy(6, 0), store32(6, 0, 0x0102_0304)]);
    program.extend([call_helper(helper::KTIME_GET_NS), copy(1, 6), mov(2, 0)]);
    program.extend([call_helper(helper::RINGBUF_SUBMIT), mov(0, 1), mov(0, 1), EXIT]);
    program
}

#[test]
fn a_load_that_nobody_waits_for_is_refused_and_leaves_nothing() {
    let runtime = runtime();
    let before = dump(&runtime);
    let code = code(&returning(0));
    let load = ProgramLoad {
        name: name("p"),
        program_type: ProgramType::Stream,
        code: &code,
        maps: [].into_iter().collect(),
        grants: Grants::ALL,
    };
    let mut reply = vec![0; 4096];
    let length = runtime.handle_until(&AtomicU8::new(1), &message(&load), &mut reply);
    reply.truncate(length);
    assert_eq!(refusal(&reply).expect("a reason").code, "TG0903");
    assert_eq!(dump(&runtime), before);
}

#[test]
fn records_reach_the_reader_and_those_of_a_failed_run_do_not_hold_it_up() {
    let runtime = runtime();
    let ring = map(&runtime, MapKind::RingBuf, 0, 0, 4096);
    let program = load(&runtime, ProgramType::Stream, &reporting(), &[ring]).expect("accepted");
    let link = attach(&runtime, program, Hook::StreamV4, 0).expect("room");
    let chain = runtime.chain(Hook::StreamV4);
    let record = [&8_u32.to_le_bytes()[..], &0x0102_0304_u32.to_ne_bytes(), &[0; 4]].concat();

    assert!(run_with(&chain.links()[0], b"", Some(helper::KTIME_GET_NS)).is_err());
    assert_eq!(WOKEN.get(), 1, "a record that was given back may have held up others");
    assert_eq!(run(&chain.links()[0], b""), Ok(Verdict::Permit));
    assert_eq!(run(&chain.links()[0], b""), Ok(Verdict::Permit));
    assert_eq!(WOKEN.get(), 3, "who waits is woken for every record");
    assert_eq!(events(&runtime, ring, 11), Err(Status::ReplyTooLarge), "a record is not cut");
    assert_eq!(events(&runtime, ring, 12), Ok((0, record.clone())));
    assert_eq!(events(&runtime, ring, 100), Ok((0, record)));
    assert_eq!(events(&runtime, ring, 100), Ok((0, vec![])));

    let counters = call(&runtime, &LinkInfo { link }).expect("attached").counters;
    assert_eq!((counters.runs, counters.errors), (3, 1));

    for _ in 0..4096 / 16 + 5 {
        assert_eq!(run(&chain.links()[0], b""), Ok(Verdict::Permit));
    }
    assert_eq!(call(&runtime, &MapInfo { map: ring }).expect("a map").dropped, 5);
}

#[test]
fn runs_are_counted_by_verdict_for_the_link_and_for_the_program() {
    let runtime = runtime();
    let permit = load(&runtime, ProgramType::Stream, &returning(1), &[]).expect("accepted");
    let block = load(&runtime, ProgramType::Stream, &returning(2), &[]).expect("accepted");
    let link = attach(&runtime, permit, Hook::StreamV4, 0).expect("room");
    let first = |runtime: &tidegate_runtime::Runtime| runtime.chain(Hook::StreamV4).links()[0].clone();
    assert_eq!(run(&first(&runtime), b"12345"), Ok(Verdict::Permit));
    first(&runtime).count_edited();
    call(&runtime, &LinkReplace { link, program: block }).expect("it fits");
    PROCESSOR.set(1);
    assert_eq!(run(&first(&runtime), b"123"), Ok(Verdict::Block));
    first(&runtime).count_injected();
    assert_eq!(run(&first(&runtime), b""), Ok(Verdict::Block));
    PROCESSOR.set(2);
    first(&runtime).count_failed(Verdict::Block);

    let of_link = call(&runtime, &LinkInfo { link }).expect("attached").counters;
    let (runs, edited, injected) = (3, 1, 1);
    let verdicts = [0, 1, 1, 0, 0, 0, 0];
    assert_eq!(of_link, Counters { runs, verdicts, errors: 1, bytes_shown: 8, edited, injected });
    let of = |program| call(&runtime, &ProgramInfo { program }).expect("loaded").counters;
    let verdicts = [0, 1, 0, 0, 0, 0, 0];
    assert_eq!(of(permit), Counters { runs: 1, verdicts, errors: 0, bytes_shown: 5, edited, injected: 0 });
    let verdicts = [0, 0, 1, 0, 0, 0, 0];
    assert_eq!(of(block), Counters { runs: 2, verdicts, errors: 1, bytes_shown: 3, edited: 0, injected });
}

#[test]
fn readers_never_see_a_replaced_link_missing_double_or_half() {
    const ROUNDS: usize = 300;
    let runtime = runtime();
    let permit = load(&runtime, ProgramType::Stream, &returning(1), &[]).expect("accepted");
    let block = load(&runtime, ProgramType::Stream, &returning(2), &[]).expect("accepted");
    let link = attach(&runtime, permit, Hook::StreamV4, 5).expect("room");
    let done = AtomicBool::new(false);
    let runs: u64 = thread::scope(|scope| {
        let (runtime, done) = (&runtime, &done);
        let readers: Vec<_> = (0..PROCESSORS)
            .map(|processor| {
                scope.spawn(move || {
                    PROCESSOR.set(processor);
                    let mut runs = 0;
                    while !done.load(Ordering::Acquire) {
                        let chain = runtime.chain(Hook::StreamV4);
                        let ids: Vec<Id> = chain.links().iter().map(|link| link.id()).collect();
                        assert_eq!(ids.iter().filter(|id| **id == link).count(), 1, "{ids:?}");
                        let replaced = chain.links().iter().find(|other| other.id() == link).expect("one");
                        assert!(matches!(run(replaced, b"1"), Ok(Verdict::Permit | Verdict::Block)));
                        runs += 1;
                        thread::yield_now();
                    }
                    runs
                })
            })
            .collect();
        for round in 0..ROUNDS {
            let program = if round % 2 == 0 { block } else { permit };
            call(runtime, &LinkReplace { link, program }).expect("it fits");
            // Whoever asks after the reply gets the new one.
            let verdict = run(&runtime.chain(Hook::StreamV4).links()[0], b"");
            assert_eq!(verdict, Ok(if round % 2 == 0 { Verdict::Block } else { Verdict::Permit }));
            let other = attach(runtime, permit, Hook::StreamV4, 9).expect("room");
            call(runtime, &LinkDetach { link: other }).expect("it is there");
        }
        done.store(true, Ordering::Release);
        readers.into_iter().map(|reader| reader.join().expect("no assertion failed")).sum()
    });
    let of_link = call(&runtime, &LinkInfo { link }).expect("attached").counters;
    assert_eq!(of_link.runs, runs + ROUNDS as u64);
    assert_eq!(of_link.bytes_shown, runs);
    let of = |program| call(&runtime, &ProgramInfo { program }).expect("loaded").counters.runs;
    assert_eq!(of(permit) + of(block), of_link.runs);
}

fn trying(program: Id, mode: TrialMode) -> Option<Trial> {
    Some(Trial { program, mode })
}

const CANARY: TrialMode = TrialMode::Canary { percent: 10, max_errors: 10, min_runs: 20 };

#[test]
fn only_what_could_replace_a_link_s_program_is_tried_in_it() {
    let runtime = runtime();
    let stream = load(&runtime, ProgramType::Stream, &returning(1), &[]).expect("accepted");
    let send = load(&runtime, ProgramType::Send, &returning(1), &[]).expect("accepted");
    let long: Vec<Insn> = [mov(3, 0); 200].into_iter().chain(returning(1)).collect();
    let costly = load(&runtime, ProgramType::Stream, &long, &[]).expect("accepted");
    let link = attach(&runtime, stream, Hook::StreamV4, 3).expect("room");
    let before = dump(&runtime);
    for mode in [TrialMode::Shadow, CANARY] {
        for (program, refusal) in
            [(send, Status::Invalid), (costly, Status::OverBudget), (link, Status::NotFound)]
        {
            assert_eq!(call(&runtime, &LinkTry { link, trial: trying(program, mode) }), Err(refusal));
        }
        let trial = trying(stream, mode);
        assert_eq!(call(&runtime, &LinkTry { link: link + 1, trial }), Err(Status::NotFound));
    }
    for (percent, max_errors) in [(101, 10), (255, 10), (10, 1_001)] {
        let mode = TrialMode::Canary { percent, max_errors, min_runs: 1 };
        assert_eq!(call(&runtime, &LinkTry { link, trial: trying(stream, mode) }), Err(Status::Invalid));
    }
    assert_eq!(call(&runtime, &LinkTry { link, trial: None }), Err(Status::NotFound), "nothing is tried");
    assert_eq!(dump(&runtime), before);
}

#[test]
fn a_trial_ends_when_it_is_told_to_when_its_link_is_replaced_and_with_its_link() {
    let changes = |change: Change| {
        let mut room = [0; 64];
        let left = change.write(&mut room).expect("room").len();
        room[..64 - left].to_vec()
    };
    for mode in [TrialMode::Shadow, CANARY] {
        for ending in 0..6 {
            let runtime = runtime();
            let [own, tried, other] = [1, 2, 4]
                .map(|r0| load(&runtime, ProgramType::Stream, &returning(r0), &[]).expect("accepted"));
            let link = attach(&runtime, own, Hook::StreamV4, 3).expect("room");
            call(&runtime, &LinkTry { link, trial: trying(other, CANARY) }).expect("it fits");
            call(&runtime, &LinkTry { link, trial: trying(tried, mode) }).expect("one comes after the other");
            let trial = || call(&runtime, &LinkInfo { link }).map(|info| info.trial);
            assert_eq!(trial().expect("it is there").map(|info| info.trial), trying(tried, mode));
            assert_eq!(call(&runtime, &ProgramUnload { program: tried }), Err(Status::Busy));
            assert!(runtime.chain(Hook::StreamV4).links().iter().all(|link| link.is_special()));
            let program = [own, tried, other, own, tried, tried][ending];
            match ending {
                0 => call(&runtime, &LinkTry { link, trial: None }),
                1 | 2 => call(&runtime, &LinkReplace { link, program }),
                3 => call(&runtime, &LinkReplace { link, program }),
                4 => {
                    let changes = changes(Change::Replace { link, program });
                    call(&runtime, &LinkCommit { changes: &changes }).map(drop)
                }
                _ => call(&runtime, &LinkDetach { link }).map(drop),
            }
            .expect("it ends");
            let chain = runtime.chain(Hook::StreamV4);
            assert!(!chain.links().iter().any(|link| link.is_special() || link.trial().is_some()));
            drop(chain);
            if ending < 5 {
                let info = call(&runtime, &LinkInfo { link }).expect("it is there");
                assert_eq!((info.program, info.trial), (program, None), "{ending}");
                call(&runtime, &LinkDetach { link }).expect("it is there");
            }
            for program in [own, tried, other] {
                call(&runtime, &ProgramUnload { program }).expect("nobody uses it");
            }
            assert_eq!(dump(&runtime), "");
        }
    }
}

#[test]
fn a_filter_that_never_holds_is_refused_and_one_that_may_is_told() {
    let runtime = runtime();
    let program = load(&runtime, ProgramType::Send, &returning(1), &[]).expect("accepted");
    let attach = |direction| LinkAttach {
        program,
        hook: Hook::OutboundTransportV4,
        priority: 0,
        on_error: OnError::Block,
        budget: 100,
        snapshot: false,
        filter: Some(LinkFilter { direction: Some(direction), ..LinkFilter::default() }),
    };
    let before = dump(&runtime);
    assert_eq!(call(&runtime, &attach(1)), Err(Status::Invalid));
    assert_eq!(dump(&runtime), before);
    let link = call(&runtime, &attach(0)).expect("packets are outbound");
    assert_eq!(call(&runtime, &LinkInfo { link }).expect("it is there").filter, attach(0).filter);
}

//! Trials: a shadow changes nothing and is compared rightly, a canary has its share of the flows and gives it back.

use std::string::String;
use std::vec;
use std::vec::Vec;

use fwps_sim::{Call, Config, Direction, FlowState, Packet, SendOutcome, When};
use fwps_sys::NTSTATUS;
use proptest::collection;
use proptest::prelude::*;
use tidegate_abi::control::{
    Counters, Detached, LinkReplace, OnError, ProgramUnload, Status, TrialInfo, TrialMode, parse_reply,
};
use tidegate_abi::{Hook, Verdict, helper};

use super::{Bench, DATAGRAMS, SENDS, asm, ends};

const STREAM: Hook = Hook::StreamV4;
const SEND: Hook = Hook::OutboundTransportV4;
const OUT: Direction = Direction::Send;
const SHADOW: TrialMode = TrialMode::Shadow;

fn canary(percent: u8, max_errors: u16, min_runs: u32) -> TrialMode {
    TrialMode::Canary { percent, max_errors, min_runs }
}

/// Runs, those that agreed, with another verdict, with other bytes, and failed ones.
fn compared(trial: &TrialInfo) -> [u64; 5] {
    let TrialInfo { runs, agreed, verdicts, bytes, errors, .. } = *trial;
    [runs, agreed, verdicts, bytes, errors]
}

/// Stream programs of every kind of effect.
fn programs() -> Vec<Vec<u8>> {
    let clone = |verdict, inject| asm::clone(helper::CLONE_STREAM_DATA, inject, 0, 1, b"<>", verdict);
    vec![
        asm::verdict(Verdict::Permit),
        asm::verdict(Verdict::Continue),
        asm::verdict(Verdict::Block),
        asm::verdict(Verdict::DropConnection),
        asm::verdict(Verdict::AllowConnection),
        asm::replace_ab(b"x"),
        asm::replace_ab(b"long"),
        asm::enforce(1, Verdict::Permit),
        asm::enforce(2, Verdict::Continue),
        asm::edits(&[(0, 1, b"<>")], Verdict::Continue),
        asm::edits(&[(0, 0, b"!"), (1, 1, b"")], Verdict::Permit),
        asm::fail(),
        clone(Verdict::Block, helper::STREAM_INJECT),
        clone(Verdict::Permit, helper::CLONE_DISCARD),
        asm::inject_data(0, true, b"own", 0, Verdict::Permit),
        asm::inject_data(1, false, b"own", 0, Verdict::Permit),
        asm::remove_ahead(2),
        asm::tell_flags(),
        asm::need(3),
    ]
}

/// Shows data to a link, with something tried in it or not: what came out of both directions, how the flow ended, what the link
/// has counted, and the trial.
fn play(
    seed: u64,
    [own, tried]: [Option<&[u8]>; 2],
    on_error: OnError,
    pieces: &[(bool, Vec<u8>)],
) -> ([Vec<u8>; 2], [bool; 2], FlowState, Counters, Option<TrialInfo>) {
    let bench = Bench::new(Config::random(seed));
    let link = bench.link(STREAM, own.expect("a program"), on_error);
    // One behind, which is shown what the first leaves.
    bench.link(STREAM, &asm::replace_ab(b"last"), OnError::Block);
    if let Some(tried) = tried {
        bench.try_in(link, STREAM, tried, &[], SHADOW);
    }
    let flow = bench.flow(STREAM);
    for (receive, piece) in pieces {
        bench.sim.indicate(flow, Direction::BOTH[usize::from(*receive)], piece);
    }
    for direction in Direction::BOTH {
        bench.sim.fin(flow, direction);
    }
    let out = Direction::BOTH.map(|direction| bench.out(flow, direction));
    let fins = Direction::BOTH.map(|direction| bench.sim.delivered(flow, direction).fin);
    let trial = tried.map(|_| bench.trial(link));
    let seen = (out, fins, bench.sim.flow_state(flow), bench.counters(link), trial);
    bench.finish();
    seen
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn whatever_a_shadow_wants_the_bytes_are_those_without_it(
        seed: u64,
        own in 0..programs().len(),
        tried in 0..programs().len(),
        same: bool,
        open: bool,
        pieces in collection::vec((any::<bool>(), "[abx]{1,12}".prop_map(String::into_bytes)), 1..10),
    ) {
        let (programs, on_error) = (programs(), if open { OnError::Permit } else { OnError::Block });
        let tried = if same { own } else { tried };
        let alone = play(seed, [Some(&programs[own]), None], on_error, &pieces);
        let beside = play(seed, [Some(&programs[own]), Some(&programs[tried])], on_error, &pieces);
        let trial = beside.4.expect("something is tried");
        prop_assert_eq!((&alone.0, alone.1, alone.2, alone.3), (&beside.0, beside.1, beside.2, beside.3));
        let [runs, agreed, verdicts, bytes, errors] = compared(&trial);
        prop_assert_eq!((runs, trial.missed), (alone.3.runs, 0));
        prop_assert_eq!(agreed + verdicts + bytes + errors, runs);
        if own == tried {
            prop_assert_eq!((verdicts, bytes), (0, 0), "a program differs from itself");
        }
    }
}

#[test]
fn a_difference_is_one_of_the_verdict_or_of_the_bytes() {
    const AGREED: usize = 1;
    const VERDICT: usize = 2;
    const BYTES: usize = 3;
    const ERROR: usize = 4;
    let edit = |new: &[u8]| asm::edits(&[(1, 1, new)], Verdict::Permit);
    let clone = asm::clone(helper::CLONE_STREAM_DATA, helper::STREAM_INJECT, 1, 1, b"y", Verdict::Block);
    let own = |data: &[u8]| asm::inject_data(0, true, data, 0, Verdict::Permit);
    let permit = || asm::verdict(Verdict::Permit);
    for (first, second, expected) in [
        (permit(), permit(), AGREED),
        (permit(), asm::verdict(Verdict::Block), VERDICT),
        (permit(), asm::verdict(Verdict::Continue), VERDICT),
        (permit(), asm::enforce(4, Verdict::Permit), AGREED),
        (permit(), asm::enforce(3, Verdict::Permit), VERDICT),
        (asm::need(3), asm::need(3), AGREED),
        (asm::need(3), asm::need(4), VERDICT),
        (permit(), asm::need(4), VERDICT),
        (edit(b"x"), edit(b"x"), AGREED),
        (edit(b"x"), edit(b"y"), BYTES),
        (edit(b"b"), permit(), AGREED),
        (edit(b"xc"), asm::edits(&[(1, 2, b"xcc")], Verdict::Permit), AGREED),
        (permit(), edit(b"y"), BYTES),
        (edit(b"y"), clone.clone(), VERDICT),
        (asm::verdict(Verdict::Block), clone, BYTES),
        (own(b"one"), own(b"one"), AGREED),
        (own(b"one"), own(b"two"), BYTES),
        (permit(), own(b"one"), BYTES),
        (permit(), asm::fail(), ERROR),
        (asm::fail(), asm::fail(), ERROR),
        (asm::fail(), permit(), VERDICT),
    ] {
        let bench = Bench::new(Config::default());
        let link = bench.link(STREAM, &first, OnError::Permit);
        bench.try_in(link, STREAM, &second, &[], SHADOW);
        let flow = bench.flow(STREAM);
        bench.sim.indicate(flow, OUT, b"abcd");
        bench.sim.settle();
        let counted = compared(&bench.trial(link));
        let mut only = [0; 5];
        (only[0], only[expected]) = (counted[0], counted[0]);
        assert_eq!(counted, only);
        assert!(counted[0] > 0);
        bench.sim.forget_flow(flow);
        bench.finish();
    }
}

#[test]
fn a_shadow_of_packets_is_compared_and_sends_nothing() {
    for hook in [SENDS, DATAGRAMS].concat() {
        let edit = |new: &[u8]| asm::edits(&[(8, 1, new)], Verdict::Permit);
        let address: &[u8] = if hook.name().ends_with("v6") { &[0xfd; 16] } else { &[198, 51, 100, 9] };
        let send_to = |tos| asm::send_to(address, 5353, tos);
        for (first, second, expected) in [
            (edit(b"x"), edit(b"x"), [1, 1, 0, 0, 0]),
            (edit(b"x"), edit(b"y"), [1, 0, 0, 1, 0]),
            (edit(b"x"), asm::verdict(Verdict::Block), [1, 0, 1, 0, 0]),
            (send_to(1), send_to(1), [1, 1, 0, 0, 0]),
            (send_to(1), send_to(2), [1, 0, 0, 1, 0]),
            (asm::verdict(Verdict::Permit), send_to(2), [1, 0, 0, 1, 0]),
        ] {
            let bench = Bench::new(Config::default());
            let (local, remote) = ends(hook);
            let packet = Packet::udp(local, remote, b"data");
            let link = bench.link(hook, &first, OnError::Block);
            let (outcome, sent) = bench.send(&packet);
            bench.try_in(link, hook, &second, &[], SHADOW);
            let (again, same) = bench.send(&packet);
            assert_eq!(compared(&bench.trial(link)), expected, "{}", hook.name());
            let bytes =
                |sent: &[fwps_sim::Sent]| sent.iter().map(|sent| sent.bytes.clone()).collect::<Vec<_>>();
            assert_eq!((outcome, bytes(&sent)), (again, bytes(&same)));
            assert_eq!(bench.counters(link).runs, 2, "the shadow's runs are not the link's");
            bench.finish();
        }
    }
}

#[test]
fn a_shadow_writes_to_its_own_maps_and_counts_for_its_own_program() {
    let bench = Bench::new(Config::default());
    let [own, tried] = [(); 2].map(|()| bench.counter());
    let link = bench.link_with(STREAM, &asm::by_map(), &[own], OnError::Block);
    bench.set(own, Verdict::Permit as u64);
    bench.try_in(link, STREAM, &asm::by_map(), &[tried], SHADOW);
    bench.set(tried, Verdict::Block as u64);
    let flow = bench.flow(STREAM);
    bench.sim.indicate(flow, OUT, b"abcd");
    assert_eq!(bench.out(flow, OUT), b"abcd");
    assert_eq!(compared(&bench.trial(link)), [1, 0, 1, 0, 0]);
    bench.set(tried, Verdict::Permit as u64);
    bench.sim.indicate(flow, OUT, b"efgh");
    assert_eq!(bench.out(flow, OUT), b"abcdefgh");
    assert_eq!(compared(&bench.trial(link)), [2, 1, 1, 0, 0]);
    bench.finish();
}

/// Sends a piece over each of some new connections, twice, and gives what came out of each.
fn flows(bench: &Bench, count: usize) -> Vec<Vec<u8>> {
    let flows: Vec<_> = (0..count).map(|_| bench.flow(STREAM)).collect();
    for _ in 0..2 {
        flows.iter().for_each(|flow| bench.sim.indicate(*flow, OUT, b"abcd"));
    }
    flows.into_iter().map(|flow| bench.out(flow, OUT)).collect()
}

#[test]
fn a_canary_has_its_share_of_the_flows_and_a_flow_stays_with_one_program() {
    for (percent, least, most) in [(0, 0, 0), (30, 5, 40), (100, 60, 60)] {
        let bench = Bench::new(Config::default());
        let link = bench.link(STREAM, &asm::verdict(Verdict::Permit), OnError::Block);
        let edit = asm::edits(&[(0, 1, b"A")], Verdict::Permit);
        bench.try_in(link, STREAM, &edit, &[], canary(percent, 0, 1));
        let outs = flows(&bench, 60);
        let had = outs.iter().filter(|out| *out == b"AbcdAbcd").count();
        assert_eq!(outs.iter().filter(|out| *out == b"abcdabcd").count(), 60 - had, "none has both");
        assert!((least..=most).contains(&had), "{percent}: {had}");
        let trial = bench.trial(link);
        assert_eq!((trial.runs, trial.errors, trial.returned), (2 * had as u64, 0, false));
        let counters = bench.counters(link);
        assert_eq!((counters.runs, counters.edited), (120, 2 * had as u64), "what it does the link does");
        bench.finish();
    }
}

#[test]
fn a_canary_of_packets_has_a_share_by_their_ends() {
    let bench = Bench::new(Config::default());
    let link = bench.link(SEND, &asm::verdict(Verdict::Permit), OnError::Block);
    bench.try_in(link, SEND, &asm::verdict(Verdict::Block), &[], canary(50, 0, 1));
    let (local, remote) = ends(SEND);
    let mut blocked = 0;
    for port in 1..=60 {
        let mut remote = remote;
        remote.set_port(port);
        let [first, second] = [(); 2].map(|()| bench.send(&Packet::udp(local, remote, b"data")).0);
        assert_eq!(first, second, "a flow stays with one");
        blocked += u64::from(first == SendOutcome::Blocked);
    }
    assert!((15..=45).contains(&blocked), "{blocked}");
    assert_eq!(bench.trial(link).runs, 2 * blocked);
    bench.finish();
}

#[test]
fn a_canary_that_fails_too_often_gives_its_flows_back() {
    // A run that fails, and one whose edit can't be carried out.
    for code in [asm::fail(), asm::edits(&[(0, 1, b"<>")], Verdict::Permit)] {
        let bench = Bench::new(Config::default());
        bench.sim.fail(Call::StreamInject, When::Always, NTSTATUS::INSUFFICIENT_RESOURCES);
        let link = bench.link(STREAM, &asm::verdict(Verdict::Permit), OnError::Permit);
        bench.try_in(link, STREAM, &code, &[], canary(100, 100, 5));
        let flow = bench.flow(STREAM);
        for _ in 0..20 {
            bench.sim.indicate(flow, OUT, b"ab");
        }
        assert_eq!(bench.out(flow, OUT), b"ab".repeat(20));
        let trial = bench.trial(link);
        assert_eq!((trial.runs, trial.errors, trial.returned), (5, 5, true));
        assert_eq!(bench.counters(link).errors, 5);
        bench.finish();
    }
    let bench = Bench::new(Config::default());
    let link = bench.link(SEND, &asm::verdict(Verdict::Permit), OnError::Block);
    bench.try_in(link, SEND, &asm::edits(&[(8, 1, b"<>")], Verdict::Permit), &[], canary(100, 0, 2));
    bench.sim.fail(Call::SendInject, When::Always, NTSTATUS::INSUFFICIENT_RESOURCES);
    let (local, remote) = ends(SEND);
    let outcomes: Vec<_> = (0..4).map(|_| bench.send(&Packet::udp(local, remote, b"data")).0).collect();
    let (bad, good) = (SendOutcome::Blocked, SendOutcome::Permitted);
    assert_eq!(outcomes, [bad, bad, good, good]);
    assert!(bench.trial(link).returned);
    bench.finish();
}

/// Whether a program that tells its flags was told that it joins in the middle.
fn in_the_middle(out: &[u8]) -> bool {
    out[0] & tidegate_abi::context::STREAM_MID_STREAM as u8 != 0
}

#[test]
fn who_has_not_seen_a_flow_s_beginning_is_told_so_and_nobody_else() {
    let told = |bench: &Bench, flow| {
        let before = bench.out(flow, OUT).len();
        bench.sim.indicate(flow, OUT, b"a");
        in_the_middle(&bench.out(flow, OUT)[before..])
    };
    let bench = Bench::new(Config::default());
    let link = bench.link(STREAM, &asm::tell_flags(), OnError::Permit);
    let old: Vec<_> = (0..40).map(|_| bench.flow(STREAM)).collect();
    assert!(!old.iter().any(|flow| told(&bench, *flow)));

    bench.try_in(link, STREAM, &asm::tell_flags(), &[], canary(50, 1_000, 1));
    let had: Vec<_> = old.iter().filter(|flow| told(&bench, **flow)).collect();
    assert!((8..=32).contains(&had.len()), "those that the canary has, in the middle: {}", had.len());
    let new: Vec<_> = (0..40).map(|_| bench.flow(STREAM)).collect();
    assert!(!new.iter().any(|flow| told(&bench, *flow)), "each program sees its own from the beginning");
    let runs = bench.trial(link).runs as usize;
    bench.end_trial(link);
    let back: Vec<_> = old.iter().chain(&new).filter(|flow| told(&bench, **flow)).collect();
    assert_eq!(back.len(), runs, "the link's own program joins those that the canary had");
    assert!(had.iter().all(|flow| back.contains(flow)));
    let flow = bench.flow(STREAM);
    assert!(!told(&bench, flow));
    bench.finish();
}

#[test]
fn a_returned_flow_is_joined_in_the_middle_and_later_ones_are_not() {
    let bench = Bench::new(Config::default());
    let link = bench.link(STREAM, &asm::tell_flags(), OnError::Permit);
    bench.try_in(link, STREAM, &asm::fail(), &[], canary(100, 0, 1));
    let flow = bench.flow(STREAM);
    bench.sim.indicate(flow, OUT, b"a");
    assert_eq!(bench.out(flow, OUT), b"a", "it failed open");
    bench.sim.indicate(flow, OUT, b"a");
    assert!(in_the_middle(&bench.out(flow, OUT)[1..]));
    let flow = bench.flow(STREAM);
    bench.sim.indicate(flow, OUT, b"a");
    assert!(!in_the_middle(&bench.out(flow, OUT)), "the link's own program sees all of it");
    bench.finish();
}

#[test]
fn bytes_that_a_canary_keeps_are_the_link_s_and_the_next_program_decides_on_them() {
    for ending in 0..4 {
        let bench = Bench::new(Config::default());
        let link = bench.link(STREAM, &asm::verdict(Verdict::Permit), OnError::Block);
        let map = bench.counter();
        bench.set(map, Verdict::Pend as u64);
        bench.try_in(link, STREAM, &asm::by_map(), &[map], canary(100, 0, 1));
        let program = bench.trial(link).trial.program;
        let flow = bench.flow(STREAM);
        bench.sim.indicate(flow, OUT, b"abcd");
        bench.sim.indicate(flow, OUT, b"efgh");
        assert_eq!(bench.out(flow, OUT), b"");
        assert_eq!(bench.held(link), Detached { flows: 1, bytes: 8 });
        match ending {
            0 => bench.end_trial(link),
            // It is promoted, and goes on.
            1 => {
                parse_reply::<()>(&bench.ask(&LinkReplace { link, program })).expect("it fits");
                assert_eq!(bench.out(flow, OUT), b"");
                bench.set(map, Verdict::Permit as u64);
            }
            2 => bench.set(map, Verdict::Permit as u64),
            // The link ends: the canary decides on what it keeps.
            _ => {
                assert_eq!(bench.detach(link), Detached { flows: 1, bytes: 8 });
                let busy = parse_reply::<()>(&bench.ask(&ProgramUnload { program }));
                assert_eq!(busy, Err(Status::Busy));
                bench.set(map, Verdict::Permit as u64);
            }
        }
        assert_eq!(bench.out(flow, OUT), b"abcdefgh", "{ending}");
        assert_eq!(bench.held(link), Detached::default());
        bench.finish();
    }
}

#[test]
fn a_shadow_that_there_is_no_memory_for_is_missed_and_the_data_is_not() {
    let bench = Bench::new(Config::default());
    let link = bench.link(STREAM, &asm::verdict(Verdict::Permit), OnError::Block);
    bench.try_in(link, STREAM, &asm::verdict(Verdict::Block), &[], SHADOW);
    let flow = bench.flow(STREAM);
    crate::memory::failing::after(0);
    bench.sim.indicate(flow, OUT, b"abcd");
    assert!(!crate::memory::failing::stop());
    assert_eq!(bench.out(flow, OUT), b"abcd");
    let trial = bench.trial(link);
    assert_eq!((trial.runs, trial.missed), (0, 1));
    bench.finish();
}

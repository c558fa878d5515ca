//! Traces: what is told of runs is right, costs nothing when nobody asks, and changes nothing.

use std::vec;
use std::vec::Vec;

use fwps_sim::{Call, Config, Direction, FlowState, Packet, SendOutcome, When};
use fwps_sys::NTSTATUS;
use proptest::collection;
use proptest::prelude::*;
use tidegate_abi::control::{
    Counters, FlowEnds, OnError, RunEnd, RunInfo, RunRead, Status, TRACE_FAILED, TraceBegin, TrialMode,
};
use tidegate_abi::limits::{MAX_TRACES, TRACE_NS};
use tidegate_abi::{Hook, Verdict, helper};

use super::{Bench, DATAGRAMS, SENDS, STREAMS, asm, ends, wait};
use crate::memory::failing;

const STREAM: Hook = Hook::StreamV4;
const OUT: Direction = Direction::Send;
const ALL: TraceBegin = TraceBegin { link: 0, flow: 0, ends: 0, bytes: 1 << 16 };

/// What is told of a run without where it was and what it read.
fn told(record: &[u8]) -> (u32, RunEnd, bool, [u32; 4]) {
    let run = RunInfo::parse(record).expect("a run");
    (run.link, run.end, run.unfit, [run.shown, run.decided, run.passed, run.sent])
}

/// Links that are looked at before they run.
fn special(bench: &Bench, hook: Hook) -> usize {
    bench.runtime.chain(hook).links().iter().filter(|link| link.is_special()).count()
}

#[test]
fn a_run_is_told_with_where_it_was_and_what_it_looked_up() {
    for hook in STREAMS {
        let bench = Bench::new(Config::default());
        let map = bench.counter();
        bench.set(map, Verdict::DropConnection as u64);
        let first = bench.link(hook, &asm::verdict(Verdict::Continue), OnError::Block);
        let link = bench.link_with(hook, &asm::look_up(), &[map], OnError::Block);
        let flow = bench.flow(hook);
        let trace = bench.trace(&ALL).expect("room");
        bench.sim.indicate(flow, Direction::Receive, b"abc");
        assert_eq!(bench.sim.flow_state(flow), FlowState::Dropped);
        let (runs, lost) = bench.traced(trace).expect("it goes on");
        let [one, two] = &runs[..] else { panic!("two links ran, and {} are told", runs.len()) };
        assert_eq!(told(one), (first, RunEnd::Verdict(Verdict::Continue), false, [3, 3, 3, 0]));
        assert_eq!(told(two), (link, RunEnd::Verdict(Verdict::DropConnection), false, [3, 3, 0, 0]));
        assert_eq!(RunInfo::parse(one).expect("a run").read, None);
        let run = RunInfo::parse(two).expect("a run");
        let value = (Verdict::DropConnection as u64).to_ne_bytes();
        assert_eq!(run.read, Some(RunRead { map, key: &[0; 4], value: Some(&value) }));
        let code = asm::look_up();
        let exit = run.path.last().map(|slot| code[*slot as usize * 8]);
        assert_eq!(exit, Some(0x95), "the last place is the exit: {:?}", run.path);
        assert!(run.path.first() == Some(&0) && run.path.is_sorted(), "{:?}", run.path);
        let (local, remote) = ends(hook);
        let family = if hook == STREAM { 4 } else { 6 };
        assert_eq!((run.flow, run.hook, run.direction, lost), (flow.0, hook, 1, 0));
        assert_eq!((run.ends.protocol, run.ends.family), (6, family));
        assert_eq!((run.ends.local.1, run.ends.remote.1), (local.port(), remote.port()));
        bench.finish();
    }
}

#[test]
fn every_end_of_a_run_is_told_as_what_it_is() {
    let clone = |inject| asm::clone(helper::CLONE_STREAM_DATA, inject, 0, 1, b"<>", Verdict::Block);
    let verdict = RunEnd::Verdict;
    for (code, end, unfit, bytes) in [
        (asm::verdict(Verdict::Permit), verdict(Verdict::Permit), false, [3, 3, 3, 0]),
        (asm::enforce(2, Verdict::Permit), verdict(Verdict::Permit), false, [3, 2, 2, 0]),
        (asm::enforce(2, Verdict::Block), verdict(Verdict::Block), false, [3, 2, 0, 0]),
        (asm::edits(&[(1, 1, b"long")], Verdict::Permit), verdict(Verdict::Permit), false, [3, 3, 6, 0]),
        (clone(helper::STREAM_INJECT), verdict(Verdict::Block), false, [3, 3, 4, 0]),
        (asm::verdict(Verdict::AllowConnection), verdict(Verdict::AllowConnection), false, [3, 3, 3, 0]),
        (asm::need(1), verdict(Verdict::NeedMoreData), false, [3, 0, 0, 0]),
        (asm::verdict(Verdict::Pend), verdict(Verdict::Pend), false, [3, 0, 0, 0]),
        (
            asm::inject_data(0, true, b"own", 0, Verdict::Permit),
            verdict(Verdict::Permit),
            false,
            [3, 3, 3, 3],
        ),
        (
            asm::inject_data(0, true, b"own", 0, Verdict::DropConnection),
            verdict(Verdict::DropConnection),
            false,
            [3, 3, 0, 0],
        ),
        (asm::fail(), verdict(Verdict::Permit), true, [3, 3, 0, 0]),
    ] {
        let bench = Bench::new(Config::default());
        let link = bench.link(STREAM, &code, OnError::Block);
        let flow = bench.flow(STREAM);
        let trace = bench.trace(&ALL).expect("room");
        bench.sim.indicate(flow, OUT, b"abc");
        let runs = bench.traced(trace).expect("it goes on").0;
        assert_eq!(told(&runs[0]), (link, end, unfit, bytes));
        bench.finish();
    }
}

#[test]
fn a_packet_is_told_of_too() {
    for hook in SENDS.into_iter().chain(DATAGRAMS) {
        for (code, verdict, bytes) in [
            (asm::verdict(Verdict::Block), Verdict::Block, [0, 0]),
            (asm::verdict(Verdict::Continue), Verdict::Continue, [1, 1]),
            (asm::edits(&[(8, 1, b"longer")], Verdict::Permit), Verdict::Permit, [1, 6]),
        ] {
            let bench = Bench::new(Config::default());
            let link = bench.link(hook, &code, OnError::Block);
            let trace = bench.trace(&ALL).expect("room");
            let (local, remote) = ends(hook);
            let (outcome, _) = bench.send(&Packet::udp(local, remote, b"?"));
            assert_eq!(outcome == SendOutcome::Blocked, verdict == Verdict::Block);
            let runs = bench.traced(trace).expect("it goes on").0;
            let passed = if bytes[0] == 0 { 0 } else { 8 + bytes[1] };
            assert_eq!(
                told(&runs[0]),
                (link, RunEnd::Verdict(verdict), false, [9, 9, passed, 0]),
                "{hook:?}"
            );
            let FlowEnds { protocol, remote: (_, port), .. } = RunInfo::parse(&runs[0]).expect("a run").ends;
            assert_eq!((protocol, port), (17, remote.port()));
            bench.finish();
        }
    }
}

#[test]
fn a_packet_that_could_not_be_built_is_told_as_such() {
    for hook in SENDS.into_iter().chain(DATAGRAMS) {
        let (local, remote) = ends(hook);
        let address = if remote.is_ipv6() { &[7; 16][..] } else { &[7; 4] };
        let (copy, inject) = (helper::CLONE_NET_BUFFER_LIST, helper::INJECT_TRANSPORT_SEND);
        for (code, verdict, passed) in [
            (asm::edits(&[(8, 1, b"longer")], Verdict::Permit), Verdict::Permit, 14),
            (asm::edits(&[(8, 1, b"longer")], Verdict::Continue), Verdict::Continue, 14),
            (asm::clone(copy, inject, 8, 1, b"longer", Verdict::Block), Verdict::Block, 14),
            (asm::send_to(address, 5353, 0), Verdict::Permit, 9),
        ] {
            let bench = Bench::new(Config::default());
            let link = bench.link(hook, &code, OnError::Block);
            let second = bench.link(hook, &asm::verdict(Verdict::Permit), OnError::Block);
            let [all, failed] =
                [0, TRACE_FAILED].map(|ends| bench.trace(&TraceBegin { ends, ..ALL }).expect("room"));
            bench.sim.fail(Call::NblAllocate, When::Nth(1), NTSTATUS::INSUFFICIENT_RESOURCES);
            assert_eq!(bench.send(&Packet::udp(local, remote, b"?")).0, SendOutcome::Blocked);
            assert_eq!(bench.send(&Packet::udp(local, remote, b"?")).0, SendOutcome::Absorbed);
            assert_eq!(bench.counters(link).errors, 1);
            assert_eq!(bench.counters(second).runs, 0);
            let refused = (link, RunEnd::Verdict(verdict), true, [9, 9, 0, 0]);
            let runs = |trace| {
                let (runs, lost) = bench.traced(trace).expect("it goes on");
                assert_eq!(lost, 0);
                runs.iter().map(|run| told(run)).collect::<Vec<_>>()
            };
            assert_eq!(runs(all), [refused, (link, RunEnd::Verdict(verdict), false, [9, 9, passed, 0])]);
            assert_eq!(runs(failed), [refused]);
            bench.finish();
        }
    }
}

#[test]
fn a_trace_has_what_it_asked_for_and_nothing_else() {
    let bench = Bench::new(Config::default());
    let map = bench.counter();
    let first = bench.link(STREAM, &asm::verdict(Verdict::Continue), OnError::Block);
    let link = bench.link_with(STREAM, &asm::look_up(), &[map], OnError::Block);
    let [one, other] = [(); 2].map(|()| bench.flow(STREAM));
    let ends = 1 << Verdict::Block as u32 | TRACE_FAILED;
    let abouts = [TraceBegin { link, ..ALL }, TraceBegin { flow: one.0, ..ALL }, TraceBegin { ends, ..ALL }];
    let traces = abouts.map(|about| bench.trace(&about).expect("room"));
    for (flow, verdict) in [(one, Verdict::Permit), (other, Verdict::Block), (other, Verdict::Continue)] {
        bench.set(map, verdict as u64);
        bench.sim.indicate(flow, OUT, b"abc");
    }
    let [by_link, by_flow, by_end] = traces.map(|trace| bench.traced(trace).expect("it goes on").0);
    let links = |runs: &[Vec<u8>]| runs.iter().map(|run| told(run).0).collect::<Vec<_>>();
    assert_eq!(
        (links(&by_link), links(&by_flow), links(&by_end)),
        (vec![link; 3], vec![first, link], vec![link])
    );
    assert_eq!(bench.traced(traces[0]), Ok((vec![], 0)), "what was read is gone");
    bench.finish();
}

#[test]
fn links_run_as_before_when_no_trace_is_left() {
    let bench = Bench::new(Config::default());
    bench.link(STREAM, &asm::verdict(Verdict::Continue), OnError::Block);
    let tried = bench.link(STREAM, &asm::verdict(Verdict::Continue), OnError::Block);
    bench.try_in(tried, STREAM, &asm::verdict(Verdict::Permit), &[], TrialMode::Shadow);
    assert_eq!(special(&bench, STREAM), 1);
    let [one, two] = [(); 2].map(|()| bench.trace(&ALL).expect("room"));
    bench.link(STREAM, &asm::verdict(Verdict::Continue), OnError::Block);
    assert_eq!(special(&bench, STREAM), 3, "one that comes later is watched too");
    assert_eq!(bench.end_trace(one), Ok(()));
    assert_eq!((special(&bench, STREAM), bench.end_trace(one)), (3, Err(Status::NotFound)));
    assert_eq!(bench.end_trace(two), Ok(()));
    assert_eq!(special(&bench, STREAM), 1, "something is still tried in one of them");
    bench.end_trial(tried);
    assert_eq!(special(&bench, STREAM), 0);
    bench.finish();
}

#[test]
fn a_trace_that_nobody_reads_ends_by_itself() {
    let bench = Bench::new(Config::default());
    bench.link(STREAM, &asm::verdict(Verdict::Continue), OnError::Block);
    let flow = bench.flow(STREAM);
    let [read, left] = [(); 2].map(|()| bench.trace(&ALL).expect("room"));
    for _ in 0..4 {
        wait(TRACE_NS / 2);
        assert!(bench.traced(read).is_ok());
    }
    assert_eq!((bench.traced(left), special(&bench, STREAM)), (Err(Status::NotFound), 1));
    wait(2 * TRACE_NS);
    // The first run has the second one timed. No message comes before that.
    (0..2).for_each(|_| bench.sim.indicate(flow, OUT, b"abc"));
    assert_eq!((special(&bench, STREAM), bench.traced(read)), (0, Err(Status::NotFound)));
    bench.finish();
}

#[test]
fn what_is_tried_in_a_link_goes_on_when_a_trace_ends_by_itself() {
    for hook in [STREAM, Hook::DatagramDataV4] {
        let bench = Bench::new(Config::default());
        let link = bench.link(hook, &asm::verdict(Verdict::Block), OnError::Block);
        let mode = TrialMode::Canary { percent: 100, max_errors: 1_000, min_runs: 1_000 };
        bench.try_in(link, hook, &asm::verdict(Verdict::Permit), &[], mode);
        bench.trace(&ALL).expect("room");
        wait(2 * TRACE_NS);
        for run in 1..4 {
            if hook == STREAM {
                let flow = bench.flow(hook);
                bench.sim.indicate(flow, OUT, b"abc");
                assert_eq!(bench.out(flow, OUT), b"abc");
            } else {
                let (local, remote) = ends(hook);
                assert_eq!(bench.send(&Packet::udp(local, remote, b"?")).0, SendOutcome::Permitted);
            }
            assert_eq!((special(&bench, hook), bench.trial(link).runs), (1, run));
        }
        bench.finish();
    }
}

#[test]
fn there_are_so_many_traces_and_no_more_and_each_of_a_right_size() {
    let bench = Bench::new(Config::default());
    let traces: Vec<_> = (0..MAX_TRACES).map(|_| bench.trace(&ALL).expect("room")).collect();
    assert_eq!(bench.trace(&ALL), Err(Status::Full));
    bench.end_trace(traces[3]).expect("it goes on");
    for bytes in [0, 4095, 5000, 1 << 23, u32::MAX] {
        assert_eq!(bench.trace(&TraceBegin { bytes, ..ALL }), Err(Status::Invalid), "{bytes}");
    }
    assert!(bench.trace(&TraceBegin { bytes: 4096, ..ALL }).is_ok());
    bench.finish();
}

#[test]
fn runs_without_room_are_counted() {
    let bench = Bench::new(Config::default());
    bench.link(STREAM, &asm::verdict(Verdict::Continue), OnError::Block);
    let flow = bench.flow(STREAM);
    let trace = bench.trace(&TraceBegin { bytes: 4096, ..ALL }).expect("room");
    for _ in 0..200 {
        bench.sim.indicate(flow, OUT, b"abc");
    }
    let (runs, lost) = bench.traced(trace).expect("it goes on");
    assert!(lost > 0 && runs.len() as u64 + lost == 200, "{} runs, {lost} lost", runs.len());
    // For want of memory one is not watched; it runs all the same.
    failing::after(0);
    bench.sim.indicate(flow, OUT, b"abc");
    assert!(!failing::stop(), "memory was asked for");
    assert_eq!(bench.traced(trace), Ok((vec![], lost + 1)));
    assert_eq!(bench.out(flow, OUT).len(), 201 * 3);
    bench.finish();
}

/// Programs of every kind of effect, for streams.
fn programs() -> Vec<Vec<u8>> {
    let clone = |verdict, inject| asm::clone(helper::CLONE_STREAM_DATA, inject, 0, 1, b"<>", verdict);
    vec![
        asm::verdict(Verdict::Permit),
        asm::verdict(Verdict::Block),
        asm::verdict(Verdict::DropConnection),
        asm::verdict(Verdict::AllowConnection),
        asm::replace_ab(b"x"),
        asm::enforce(2, Verdict::Continue),
        asm::edits(&[(0, 0, b"!"), (1, 1, b"")], Verdict::Permit),
        asm::fail(),
        clone(Verdict::Block, helper::STREAM_INJECT),
        asm::inject_data(1, false, b"own", 0, Verdict::Permit),
        asm::remove_ahead(2),
        asm::need(3),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn whoever_watches_the_bytes_and_the_counts_are_those_without(
        seed: u64,
        program in 0..programs().len(),
        open: bool,
        pieces in collection::vec((any::<bool>(), "[abx]{1,12}".prop_map(std::string::String::into_bytes)), 1..10),
    ) {
        let on_error = if open { OnError::Permit } else { OnError::Block };
        let play = |watched: bool| -> ([Vec<u8>; 2], FlowState, Counters) {
            let bench = Bench::new(Config::random(seed));
            let link = bench.link(STREAM, &programs()[program], on_error);
            bench.link(STREAM, &asm::replace_ab(b"last"), OnError::Block);
            let flow = bench.flow(STREAM);
            let trace = watched.then(|| bench.trace(&TraceBegin { link, ..ALL }).expect("room"));
            for (receive, piece) in &pieces {
                bench.sim.indicate(flow, Direction::BOTH[usize::from(*receive)], piece);
            }
            Direction::BOTH.into_iter().for_each(|direction| bench.sim.fin(flow, direction));
            let out = Direction::BOTH.map(|direction| bench.out(flow, direction));
            let seen = (out, bench.sim.flow_state(flow), bench.counters(link));
            if let Some(trace) = trace {
                let (runs, lost) = bench.traced(trace).expect("it goes on");
                assert_eq!(runs.len() as u64 + lost, seen.2.runs, "each run is told, or counted as lost");
            }
            bench.finish();
            seen
        };
        prop_assert_eq!(play(false), play(true));
    }
}

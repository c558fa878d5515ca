//! Many simulators in one process, failures in one callout, threads beside each other.

mod support;

use fwps_sim::{Call, Completion, Config, Direction, FlowState, Simulator, When};
use fwps_sys::*;
use support::*;

const TEXT: &[u8] = b"one two three four five";

/// Replaces each space by a line feed, inline; what fails drops the connection, as a fail-closed policy does.
fn replace_spaces(shown: &mut Shown<'_>) {
    if shown.length() == 0 {
        return shown.permit_all();
    }
    match shown.bytes().iter().position(|byte| *byte == b' ') {
        Some(0) if try_inject(shown, b"\n") => shown.block(1),
        Some(0) => shown.act(FWPS_STREAM_ACTION::DROP_CONNECTION, 0),
        Some(at) => shown.permit(at),
        None => shown.permit_all(),
    }
}

fn try_inject(shown: &mut Shown<'_>, bytes: &[u8]) -> bool {
    let flags = shown.direction().flag();
    let Some((nbl, buffer)) = try_built(shown.sim, bytes) else { return false };
    let status = stream_inject(shown.sim, shown.flow(), flags, nbl, bytes.len(), free_built, buffer);
    if status != NTSTATUS::SUCCESS {
        // SAFETY: a refused NBL is the caller's.
        unsafe { free_built(buffer.cast(), nbl, 1) }
    }
    status == NTSTATUS::SUCCESS
}

fn run(config: Config, fail: Option<u64>) -> (Vec<u8>, FlowState, u64, String) {
    let (sim, driver) = start(config, layer::STREAM_V4, replace_spaces);
    if let Some(nth) = fail {
        sim.fail(Call::Any, When::Nth(nth), NTSTATUS::INSUFFICIENT_RESOURCES);
    }
    let flow = flow(&sim);
    TEXT.chunks(4).for_each(|part| sim.indicate(flow, Direction::Send, part));
    sim.fin(flow, Direction::Send);
    sim.settle();
    let (state, failures, trace) = (sim.flow_state(flow), sim.failures(), sim.trace());
    let bytes = sim.delivered(flow, Direction::Send).bytes;
    unload(&sim, driver);
    sim.finish();
    (bytes, state, failures, trace)
}

#[test]
fn each_call_can_fail_and_nothing_leaks() {
    let whole = TEXT.iter().map(|byte| if *byte == b' ' { b'\n' } else { *byte }).collect::<Vec<u8>>();
    let mut nth = 1;
    loop {
        let (bytes, state, failures, _) = run(Config::random(nth), Some(nth));
        assert!(whole.starts_with(&bytes));
        if failures == 0 {
            assert_eq!((bytes, state), (whole, FlowState::Open));
            break;
        }
        assert_eq!(state, FlowState::Dropped, "call {nth}");
        nth += 1;
    }
    assert!(nth > 12, "four replacements of three calls each, not {nth}");
}

#[test]
fn a_seed_is_a_run() {
    for seed in 0..20 {
        assert_eq!(run(Config::random(seed), None), run(Config::random(seed), None));
    }
}

#[test]
fn threads_run_simulators_of_their_own() {
    let threads: Vec<_> = (0..4)
        .map(|seed| {
            std::thread::spawn(move || {
                (0..50).map(|n| run(Config::random(seed * 50 + n), None).0).collect::<Vec<_>>()
            })
        })
        .collect();
    for thread in threads {
        assert!(thread.join().unwrap().iter().all(|bytes| bytes.starts_with(b"one\ntwo\nthree")));
    }
}

#[test]
fn one_simulator_serves_threads() {
    const fn shared<T: Send + Sync>() {}
    const { shared::<Simulator>() }
    let sim = Simulator::new(Config { completion: Completion::Random, ..Config::default() });
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let flow = flow(&sim);
                TEXT.chunks(3).for_each(|part| sim.indicate(flow, Direction::Receive, part));
                assert_eq!(sim.delivered(flow, Direction::Receive).bytes, TEXT);
            });
        }
    });
    sim.finish();
}

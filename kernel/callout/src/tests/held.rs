//! Bytes that are kept back: decided on later, injected in their order, bounded, and given up when it must be.

use std::sync::{Arc, Barrier};
use std::vec;
use std::vec::Vec;

use fwps_sim::{Call, Config, Direction, FlowId, FlowState, When};
use fwps_sys::{FWPS_STREAM_FLAG, NTSTATUS};
use proptest::collection;
use proptest::prelude::*;
use tidegate_abi::control::{Change, Committed, Detached, LinkAttach, OnError, Status};
use tidegate_abi::limits::{DEFAULT_BUDGET, DRAIN_NS, MAX_HELD};
use tidegate_abi::{Hook, Verdict};

use super::{Bench, STREAMS, asm, meet, wait};
use crate::flow::Marks;

const PEND: u64 = Verdict::Pend as u64;
const PERMIT: u64 = Verdict::Permit as u64;

/// A link that does what its map says, which says PEND.
fn pending(bench: &Bench, hook: Hook, on_error: OnError) -> (u32, u32) {
    let map = bench.counter();
    bench.set(map, PEND);
    (bench.link_with(hook, &asm::by_map(), &[map], on_error), map)
}

/// The same, and a connection of which it keeps bytes back.
fn kept(
    bench: &Bench,
    hook: Hook,
    direction: Direction,
    on_error: OnError,
    bytes: &[u8],
) -> (u32, u32, FlowId) {
    let (link, map) = pending(bench, hook, on_error);
    let flow = bench.flow(hook);
    bench.sim.indicate(flow, direction, bytes);
    bench.sim.settle();
    (link, map, flow)
}

/// Runs `check` for both families, directions and ways to fail, with everything else by chance.
fn everywhere(check: impl Fn(&Bench, Hook, Direction, OnError)) {
    for seed in 0..8 {
        for on_error in [OnError::Block, OnError::Permit] {
            let bench = Bench::new(Config::random(seed));
            let hook = STREAMS[seed as usize % 2];
            check(&bench, hook, Direction::BOTH[seed as usize / 2 % 2], on_error);
            bench.finish();
        }
    }
}

#[test]
fn what_is_kept_back_passes_in_its_order_with_the_end_behind_it() {
    everywhere(|bench, hook, direction, on_error| {
        let (link, map) = pending(bench, hook, on_error);
        let flow = bench.flow(hook);
        bench.sim.indicate(flow, direction, b"one ");
        bench.sim.indicate(flow, direction, b"two ");
        bench.sim.fin(flow, direction);
        assert_eq!(bench.out(flow, direction), b"");
        assert!(!bench.sim.delivered(flow, direction).fin);
        assert_eq!(bench.held(link), Detached { flows: 1, bytes: 8 });
        bench.set(map, PERMIT);
        assert_eq!(bench.out(flow, direction), b"one two ");
        assert!(bench.sim.delivered(flow, direction).fin);
        assert_eq!(bench.held(link), Detached::default());
        assert_eq!(bench.counters(link).errors, 0);
    });
}

#[test]
fn what_comes_later_does_not_overtake_and_is_decided_on_too() {
    everywhere(|bench, hook, direction, on_error| {
        let (_, map) = pending(bench, hook, on_error);
        let flow = bench.flow(hook);
        bench.sim.indicate(flow, direction, b"one ");
        bench.set(map, PERMIT);
        bench.sim.indicate(flow, direction, b"two ");
        bench.set(map, Verdict::Block as u64);
        bench.sim.settle();
        let out = bench.out(flow, direction);
        bench.sim.indicate(flow, direction, b"three ");
        // The worker may have come to it before or after the last change.
        assert!(b"one two ".starts_with(&out), "{out:?}");
        assert_eq!(bench.out(flow, direction), out);
    });
}

#[test]
fn the_other_direction_goes_on() {
    everywhere(|bench, hook, direction, on_error| {
        let (_, map) = pending(bench, hook, on_error);
        let other = Direction::BOTH[1 - direction as usize];
        let flow = bench.flow(hook);
        bench.sim.indicate(flow, direction, b"kept");
        bench.set(map, PERMIT);
        bench.sim.settle();
        bench.sim.indicate(flow, other, b"hello");
        bench.sim.fin(flow, other);
        assert_eq!(bench.out(flow, other), b"hello");
        assert!(bench.sim.delivered(flow, other).fin && !bench.sim.delivered(flow, direction).fin);
        assert_eq!(bench.out(flow, direction), b"kept");
    });
}

#[test]
fn an_edit_of_what_was_kept_back_is_made() {
    everywhere(|bench, hook, direction, on_error| {
        let map = bench.counter();
        bench.set(map, PEND);
        let link = bench.link_with(hook, &asm::by_map_with(b"<new>"), &[map], on_error);
        let flow = bench.flow(hook);
        bench.sim.indicate(flow, direction, b"abc");
        bench.sim.settle();
        bench.set(map, PERMIT);
        assert_eq!(bench.out(flow, direction), b"<new>bc");
        assert_eq!(bench.counters(link).edited, 1);
    });
}

#[test]
fn a_later_decision_to_drop_resets() {
    everywhere(|bench, hook, direction, on_error| {
        let (link, map, flow) = kept(bench, hook, direction, on_error, b"bad");
        bench.set(map, Verdict::DropConnection as u64);
        assert_eq!(bench.out(flow, direction), b"");
        assert_eq!(bench.sim.flow_state(flow), FlowState::Dropped);
        assert_eq!(bench.held(link), Detached::default());
    });
}

#[test]
fn allowed_later_all_passes_and_nobody_is_asked_again() {
    everywhere(|bench, hook, direction, on_error| {
        let (link, map, flow) = kept(bench, hook, direction, on_error, b"one ");
        bench.set(map, Verdict::AllowConnection as u64);
        bench.sim.settle();
        let runs = bench.counters(link).runs;
        bench.sim.indicate(flow, direction, b"two ");
        bench.sim.indicate(flow, direction, b"three");
        assert_eq!(bench.out(flow, direction), b"one two three");
        assert_eq!(bench.counters(link).runs, runs);
    });
}

#[test]
fn a_reset_frees_what_is_kept_and_nothing_is_injected_behind_it() {
    everywhere(|bench, hook, direction, on_error| {
        let (link, map) = pending(bench, hook, on_error);
        let flow = bench.flow(hook);
        bench.sim.indicate(flow, direction, b"kept");
        bench.sim.abort(flow, direction);
        bench.set(map, PERMIT);
        assert_eq!(bench.out(flow, direction), b"");
        assert_eq!(bench.sim.flow_state(flow), FlowState::Aborted);
        assert_eq!(bench.held(link), Detached::default());
    });
}

#[test]
fn more_than_a_queue_holds_is_an_error_of_the_link_that_keeps_it() {
    for (on_error, state) in [(OnError::Block, FlowState::Dropped), (OnError::Permit, FlowState::Open)] {
        let bench = Bench::new(Config::default());
        let (link, _) = pending(&bench, Hook::StreamV4, on_error);
        let flow = bench.flow(Hook::StreamV4);
        let mut sent = 0;
        while sent <= MAX_HELD {
            assert_eq!(bench.sim.flow_state(flow), FlowState::Open);
            bench.sim.indicate(flow, Direction::Send, &[7; 60_000]);
            sent += 60_000;
        }
        let out = bench.out(flow, Direction::Send).len();
        assert_eq!(bench.sim.flow_state(flow), state);
        assert_eq!(bench.counters(link).errors, 1);
        assert_eq!(out, if on_error == OnError::Permit { sent } else { 0 });
        bench.finish();
    }
}

#[test]
fn the_links_behind_the_one_that_keeps_are_asked_when_it_has_decided_and_those_before_are_not() {
    everywhere(|bench, hook, direction, on_error| {
        let first = bench.link(hook, &asm::verdict(Verdict::Continue), on_error);
        let (_, map) = pending(bench, hook, on_error);
        let last = bench.link(hook, &asm::edits(&[(0, 1, b"x")], Verdict::Permit), on_error);
        let flow = bench.flow(hook);
        bench.sim.indicate(flow, direction, b"abc");
        bench.sim.settle();
        assert_eq!(bench.counters(last).runs, 0);
        bench.set(map, Verdict::Continue as u64);
        assert_eq!(bench.out(flow, direction), b"xbc");
        assert_eq!((bench.counters(first).runs, bench.counters(last).runs), (1, 1));
    });
}

#[test]
fn links_that_move_meanwhile_are_asked_about_what_they_have_not_seen_and_no_other() {
    everywhere(|bench, hook, direction, on_error| {
        let first = bench.link(hook, &asm::verdict(Verdict::Continue), on_error);
        let (_, map) = pending(bench, hook, on_error);
        let last = bench.link(hook, &asm::edits(&[(0, 1, b"x")], Verdict::Permit), on_error);
        let flow = bench.flow(hook);
        bench.sim.indicate(flow, direction, b"abc");
        bench.sim.settle();
        // They change places: the one that has seen the bytes stands behind them now, the other in front.
        bench.move_links(&[(first, 2), (last, 0)]);
        bench.set(map, Verdict::Continue as u64);
        assert_eq!(bench.out(flow, direction), b"xbc");
        assert_eq!((bench.counters(first).runs, bench.counters(last).runs), (1, 1));
        // What comes now is shown to them as they stand.
        bench.sim.indicate(flow, direction, b"def");
        assert_eq!(bench.out(flow, direction), b"xbcxef");
        assert_eq!((bench.counters(first).runs, bench.counters(last).runs), (1, 2));
    });
}

#[test]
fn a_link_that_moves_takes_what_it_keeps_along() {
    everywhere(|bench, hook, direction, on_error| {
        let first = bench.link(hook, &asm::verdict(Verdict::Continue), on_error);
        let (link, map) = pending(bench, hook, on_error);
        let last = bench.link(hook, &asm::verdict(Verdict::Continue), on_error);
        let flow = bench.flow(hook);
        bench.sim.indicate(flow, direction, b"abc");
        bench.sim.settle();
        for priority in [0, 9, 1] {
            bench.move_links(&[(link, priority)]);
            bench.sim.settle();
            assert_eq!(bench.held(link), Detached { flows: 1, bytes: 3 }, "at {priority}");
            assert_eq!(bench.counters(first).runs, 1, "at {priority}");
        }
        bench.set(map, PERMIT);
        assert_eq!(bench.out(flow, direction), b"abc");
        assert_eq!(bench.held(link), Detached::default());
        assert_eq!(bench.counters(first).runs, 1, "it had passed the bytes on");
        assert!(bench.counters(last).runs <= 1, "it is asked when it stands in front, and no second time");
    });
}

#[test]
fn a_set_of_links_that_takes_another_s_place_leaves_it_what_it_keeps() {
    everywhere(|bench, hook, direction, on_error| {
        let (old, map, flow) = kept(bench, hook, direction, on_error, b"kept");
        let code = asm::verdict(Verdict::Continue);
        let program = bench.load(hook, &code, &[]).expect("accepted").program;
        let attach = |program| {
            let (priority, budget, snapshot) = (1, DEFAULT_BUDGET, false);
            Change::Attach(LinkAttach { program, hook, priority, on_error, budget, snapshot, filter: None })
        };
        // One mistake, and nothing is changed: the link keeps what comes, too.
        let detach = Change::Detach { link: old };
        assert_eq!(bench.commit(&[detach.clone(), attach(program), attach(99)]), Err(Status::NotFound));
        bench.sim.indicate(flow, direction, b" too");
        bench.sim.settle();
        let whole = Detached { flows: 1, bytes: 8 };
        assert_eq!(bench.held(old), whole);

        let Committed { first: new, draining } = bench.commit(&[detach, attach(program)]).expect("room");
        assert_eq!(draining, 1);
        bench.sim.settle();
        assert_eq!((bench.held(old), bench.counters(new).runs), (whole, 0), "it goes on keeping it");
        let other = bench.flow(hook);
        bench.sim.indicate(other, direction, b"hello");
        assert_eq!(bench.out(other, direction), b"hello", "the old one is shown nothing new");
        let runs = bench.counters(new).runs;
        assert!(runs > 0);
        bench.set(map, Verdict::Continue as u64);
        assert_eq!(bench.out(flow, direction), b"kept too");
        assert!(bench.counters(new).runs > runs, "what the old one has passed on is shown to the new one");
        assert_eq!(bench.detach(old), Detached::default());
        bench.sim.indicate(flow, direction, b", and more");
        assert_eq!(bench.out(flow, direction), b"kept too, and more");
        assert_eq!(bench.counters(new).errors, 0);
    });
}

#[test]
fn detaching_waits_for_what_the_link_keeps_and_shows_how_much_it_is() {
    everywhere(|bench, hook, direction, on_error| {
        let (link, map, flow) = kept(bench, hook, direction, on_error, b"kept");
        assert_eq!(bench.detach(link), Detached { flows: 1, bytes: 4 });
        // It is shown nothing new.
        let runs = bench.counters(link).runs;
        let other = bench.flow(hook);
        bench.sim.indicate(other, direction, b"hello");
        assert_eq!(bench.out(other, direction), b"hello");
        assert!(bench.counters(link).verdicts[Verdict::Permit as usize] == 0);
        assert!(bench.counters(link).runs >= runs);
        bench.set(map, PERMIT);
        assert_eq!(bench.out(flow, direction), b"kept");
        assert_eq!(bench.detach(link), Detached::default());
    });
}

#[test]
fn a_detached_link_that_does_not_decide_in_time_has_failed() {
    everywhere(|bench, hook, direction, on_error| {
        let (link, _, flow) = kept(bench, hook, direction, on_error, b"kept");
        bench.detach(link);
        bench.sim.settle();
        assert_eq!(bench.out(flow, direction), b"");
        wait(DRAIN_NS);
        bench.detach(link);
        let out = bench.out(flow, direction);
        let dropped = bench.sim.flow_state(flow) == FlowState::Dropped;
        assert_eq!(
            (out.is_empty(), dropped),
            if on_error == OnError::Block { (true, true) } else { (false, false) }
        );
        assert_eq!(bench.detach(link), Detached::default());
    });
}

#[test]
fn an_unload_ends_what_is_kept_by_the_link_s_rule() {
    for on_error in [OnError::Block, OnError::Permit] {
        let mut bench = Bench::new(Config::default());
        pending(&bench, Hook::StreamV4, on_error);
        let flow = bench.flow(Hook::StreamV4);
        bench.sim.indicate(flow, Direction::Send, b"kept");
        bench.sim.fin(flow, Direction::Send);
        bench.unload();
        let out = bench.sim.delivered(flow, Direction::Send);
        if on_error == OnError::Permit {
            assert_eq!((&*out.bytes, out.fin), (&b"kept"[..], true));
        } else {
            assert_eq!((out.bytes.len(), bench.sim.flow_state(flow)), (0, FlowState::Dropped));
        }
        bench.finish();
    }
}

/// What a link wants to see again when its run began before the unload, and ends after the unload has looked at the connection.
#[test]
fn a_run_that_outlasts_the_unload_s_look_is_answered_by_the_link_s_rule() {
    for (on_error, verdict) in [OnError::Block, OnError::Permit]
        .into_iter()
        .flat_map(|on_error| [Verdict::Pend, Verdict::NeedMoreData].map(|verdict| (on_error, verdict)))
    {
        let bench = Bench::new(Config::default());
        bench.link(Hook::StreamV4, &asm::later(4, verdict), on_error);
        let flow = bench.flow(Hook::StreamV4);
        let barrier = Arc::new(Barrier::new(2));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                meet(&barrier);
                bench.sim.indicate(flow, Direction::Send, b"late");
            });
            barrier.wait();
            bench.sim.enter(|| bench.callouts.as_ref().expect("registered").drain());
            barrier.wait();
        });
        bench.sim.settle();
        let out = (bench.sim.flow_state(flow), bench.sim.delivered(flow, Direction::Send).bytes);
        let expected = match on_error {
            OnError::Permit => (FlowState::Open, b"late".to_vec()),
            OnError::Block => (FlowState::Dropped, vec![]),
        };
        assert_eq!(out, expected, "{verdict:?}");
        bench.finish();
    }
}

/// Bytes come, and are kept back, while the contexts of their connection go on another thread.
#[test]
fn what_comes_while_an_unload_drains_passes_whole_or_is_reset() {
    let data = b"0123456789".repeat(20);
    for seed in 0..60 {
        let on_error = if seed % 2 == 0 { OnError::Block } else { OnError::Permit };
        let bench = Bench::new(Config::random(seed));
        let hook = STREAMS[seed as usize / 2 % 2];
        let (link, _) = pending(&bench, hook, on_error);
        let flow = bench.flow(hook);
        let direction = Direction::BOTH[seed as usize / 4 % 2];
        let (first, rest) = data.split_at(10);
        bench.sim.indicate(flow, direction, first);
        assert_eq!(bench.held(link), Detached { flows: 1, bytes: 10 });
        std::thread::scope(|scope| {
            scope.spawn(|| {
                rest.chunks(10).for_each(|piece| bench.sim.indicate(flow, direction, piece));
                bench.sim.fin(flow, direction);
            });
            let callouts = bench.callouts.as_ref().expect("registered");
            while bench.sim.enter(|| callouts.drain()) > 0 {
                bench.sim.settle();
            }
        });
        bench.sim.settle();
        let out = bench.sim.delivered(flow, direction);
        match bench.sim.flow_state(flow) {
            FlowState::Dropped if on_error == OnError::Block => {
                assert!(data.starts_with(&out.bytes) && !out.fin);
            }
            state => assert_eq!((&*out.bytes, out.fin), (&*data, true), "{seed}, {on_error:?}, {state:?}"),
        }
        bench.finish();
    }
}

#[test]
fn what_can_t_be_injected_stays_and_is_injected_later() {
    everywhere(|bench, hook, direction, on_error| {
        let (_, map, flow) = kept(bench, hook, direction, on_error, b"kept");
        for call in [Call::StreamInject, Call::NblAllocate, Call::MdlAllocate] {
            bench.sim.fail(call, When::Always, NTSTATUS::INSUFFICIENT_RESOURCES);
            bench.set(map, PERMIT);
            assert_eq!(bench.out(flow, direction), b"");
            assert_eq!(bench.sim.flow_state(flow), FlowState::Open);
            bench.sim.heal();
        }
        bench.set(map, PERMIT);
        assert_eq!(bench.out(flow, direction), b"kept");
    });
}

#[test]
fn what_could_not_be_injected_once_is_tried_again_by_itself() {
    everywhere(|bench, hook, direction, on_error| {
        let (_, map) = pending(bench, hook, on_error);
        let flow = bench.flow(hook);
        bench.sim.indicate(flow, direction, b"kept");
        bench.sim.fin(flow, direction);
        bench.sim.settle();
        bench.sim.fail(Call::StreamInject, When::Nth(1), NTSTATUS::INSUFFICIENT_RESOURCES);
        bench.set(map, PERMIT);
        assert_eq!(bench.out(flow, direction), b"kept");
        assert!(bench.sim.delivered(flow, direction).fin);
    });
}

#[test]
fn a_queue_that_nobody_holds_has_a_bound_too() {
    let bench = Bench::new(Config::default());
    let (_, map) = pending(&bench, Hook::StreamV4, OnError::Permit);
    let flow = bench.flow(Hook::StreamV4);
    bench.sim.indicate(flow, Direction::Send, b"kept");
    bench.set(map, PERMIT);
    assert_eq!(bench.out(flow, Direction::Send), b"kept");
    bench.sim.fail(Call::StreamInject, When::Always, NTSTATUS::INSUFFICIENT_RESOURCES);
    let piece = vec![b'x'; 60_000];
    for _ in 0..2 * MAX_HELD / piece.len() + 2 {
        bench.sim.indicate(flow, Direction::Send, &piece);
    }
    bench.sim.settle();
    assert_eq!((bench.sim.flow_state(flow), bench.counts().overflowed), (FlowState::Dropped, 1));
    bench.sim.heal();
    bench.finish();
}

#[test]
fn many_small_pieces_are_as_bad_as_large_ones() {
    let bench = Bench::new(Config::default());
    let (link, _) = pending(&bench, Hook::StreamV4, OnError::Block);
    let flow = bench.flow(Hook::StreamV4);
    for _ in 0..=4096 {
        bench.sim.indicate(flow, Direction::Receive, b"x");
    }
    bench.sim.settle();
    assert_eq!((bench.sim.flow_state(flow), bench.counters(link).errors), (FlowState::Dropped, 1));
    bench.finish();
}

#[test]
fn what_comes_on_one_connection_is_no_reason_to_ask_about_another() {
    let bench = Bench::new(Config::default());
    let (link, _) = pending(&bench, Hook::StreamV4, OnError::Block);
    let (quiet, busy) = (bench.flow(Hook::StreamV4), bench.flow(Hook::StreamV4));
    bench.sim.indicate(quiet, Direction::Send, b"quiet");
    bench.sim.settle();
    let runs = |pieces: usize| {
        let before = bench.counters(link).runs;
        for _ in 0..pieces {
            bench.sim.indicate(busy, Direction::Send, b"busy");
            bench.sim.settle();
        }
        bench.counters(link).runs - before
    };
    // The first piece is asked about when it comes and when it is kept, each other one when it is kept.
    assert_eq!((runs(1), runs(8)), (2, 8));
    bench.finish();
}

#[test]
fn half_of_what_a_program_wants_is_a_reset() {
    for on_error in [OnError::Block, OnError::Permit] {
        let bench = Bench::new(Config::default());
        let map = bench.counter();
        bench.set(map, PEND);
        let link = bench.link_with(Hook::StreamV4, &asm::by_map_sending(0, b"new"), &[map], on_error);
        let flow = bench.flow(Hook::StreamV4);
        bench.sim.indicate(flow, Direction::Send, b"kept");
        bench.sim.settle();
        bench.sim.fail(Call::StreamInject, When::Nth(2), NTSTATUS::INSUFFICIENT_RESOURCES);
        bench.set(map, PERMIT);
        bench.sim.settle();
        // The program's own data was on its way, and what it stands in front of could not follow.
        let out = bench.sim.delivered(flow, Direction::Send).bytes;
        assert!(out.is_empty() || out == b"new", "{}", out.escape_ascii());
        assert_eq!((bench.sim.flow_state(flow), bench.counters(link).runs), (FlowState::Dropped, 3));
        bench.finish();
    }
}

#[test]
fn a_connection_that_can_t_be_reset_at_once_lets_nothing_pass() {
    let bench = Bench::new(Config::default());
    let (_, map) = pending(&bench, Hook::StreamV4, OnError::Block);
    let flow = bench.flow(Hook::StreamV4);
    bench.sim.indicate(flow, Direction::Send, b"kept");
    bench.sim.settle();
    bench.sim.fail(Call::FlowAbort, When::Always, NTSTATUS::INSUFFICIENT_RESOURCES);
    bench.set(map, Verdict::DropConnection as u64);
    bench.sim.settle();
    bench.sim.heal();
    assert_eq!(bench.sim.flow_state(flow), FlowState::Open);
    bench.sim.indicate(flow, Direction::Receive, b"answer");
    assert_eq!(bench.out(flow, Direction::Receive), b"");
    assert_eq!(bench.sim.flow_state(flow), FlowState::Dropped);
    bench.finish();
}

#[test]
fn a_detached_link_decides_on_what_it_waited_for() {
    let bench = Bench::new(Config::default());
    let map = bench.counter();
    bench.set(map, Verdict::NeedMoreData as u64);
    let link = bench.link_with(Hook::StreamV4, &asm::by_map(), &[map], OnError::Block);
    let flow = bench.flow(Hook::StreamV4);
    bench.sim.indicate(flow, Direction::Send, b"abc");
    assert_eq!(bench.detach(link).flows, 1);
    bench.set(map, Verdict::Block as u64);
    bench.sim.indicate(flow, Direction::Send, b"def");
    assert_eq!(bench.out(flow, Direction::Send), b"");
    bench.sim.indicate(flow, Direction::Send, b"ghi");
    assert_eq!(bench.out(flow, Direction::Send), b"ghi");
    bench.finish();
}

#[test]
fn what_the_filter_engine_keeps_for_a_link_that_has_gone_is_reset_by_the_unload() {
    let bench = Bench::new(Config::default());
    let link = bench.link(Hook::StreamV4, &asm::need(1), OnError::Permit);
    let flow = bench.flow(Hook::StreamV4);
    bench.sim.indicate(flow, Direction::Send, b"abc");
    assert_eq!(bench.detach(link).flows, 1);
    wait(DRAIN_NS);
    bench.detach(link);
    bench.sim.settle();
    assert_eq!(bench.sim.flow_state(flow), FlowState::Open);
    // S4.2-09: no filter may go while it does.
    bench.finish();
}

#[test]
fn nothing_is_sent_behind_the_end_of_a_direction() {
    for on_error in [OnError::Block, OnError::Permit] {
        let bench = Bench::new(Config::default());
        let code = asm::inject_data(0, false, b"late", 0, Verdict::Permit);
        bench.link(Hook::StreamV4, &code, on_error);
        let flow = bench.flow(Hook::StreamV4);
        bench.sim.fin(flow, Direction::Send);
        bench.sim.indicate(flow, Direction::Receive, b"answer");
        // The program blocks what it can't answer.
        assert_eq!(bench.out(flow, Direction::Receive), b"");
        assert_eq!(bench.out(flow, Direction::Send), b"");
        bench.finish();
    }
}

#[test]
fn what_a_link_sends_is_not_asked_for_again_by_one_behind() {
    let bench = Bench::new(Config::default());
    let sends = asm::inject_data(0, true, b"new", 0, Verdict::Continue);
    bench.link(Hook::StreamV4, &sends, OnError::Block);
    let behind = bench.link(Hook::StreamV4, &asm::need(1), OnError::Block);
    let flow = bench.flow(Hook::StreamV4);
    bench.sim.indicate(flow, Direction::Send, b"abc");
    assert_eq!(bench.out(flow, Direction::Send), b"newabc");
    assert_eq!(bench.counters(behind).runs, 0);
    bench.finish();
}

#[test]
fn urgent_bytes_stay_urgent() {
    let bench = Bench::new(Config::default());
    let (_, map) = pending(&bench, Hook::StreamV4, OnError::Block);
    let flow = bench.flow(Hook::StreamV4);
    bench.sim.indicate(flow, Direction::Send, b"a");
    bench.sim.indicate_with(flow, Direction::Send, b"!", FWPS_STREAM_FLAG::SEND_EXPEDITED);
    bench.sim.indicate(flow, Direction::Send, b"b");
    bench.set(map, PERMIT);
    assert_eq!(bench.out(flow, Direction::Send), b"a!b");
    let urgent = std::format!("{:?}", FWPS_STREAM_FLAG::SEND | FWPS_STREAM_FLAG::SEND_EXPEDITED);
    assert!(
        bench.sim.trace().lines().any(|line| line.contains("inject") && line.contains(&urgent)),
        "{}",
        bench.sim.trace()
    );
    bench.finish();
}

/// What may happen to a connection.
#[derive(Clone, Debug)]
enum Event {
    Data(bool, Vec<u8>),
    Fin(bool),
    Decide(u64),
    Settle,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => (any::<bool>(), collection::vec(any::<u8>(), 1..50)).prop_map(|(receive, data)| Event::Data(receive, data)),
        1 => any::<bool>().prop_map(Event::Fin),
        3 => prop_oneof![Just(PEND), Just(PERMIT), Just(0)].prop_map(Event::Decide),
        1 => Just(Event::Settle),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn whatever_is_kept_when_the_stream_comes_out_as_it_went_in(
        seed: u64,
        events in collection::vec(event(), 1..40),
        failures in prop_oneof![Just(0_u32), 1..200_u32],
    ) {
        let bench = Bench::new(Config::random(seed));
        let (link, map) = pending(&bench, Hook::StreamV6, OnError::Permit);
        let flow = bench.flow(Hook::StreamV6);
        bench.sim.fail(Call::StreamInject, When::PerMille(failures), NTSTATUS::INSUFFICIENT_RESOURCES);
        let mut expected = [Vec::new(), Vec::new()];
        let mut ended = [false; 2];
        for event in events {
            match event {
                Event::Data(receive, data) => {
                    let direction = usize::from(receive);
                    bench.sim.indicate(flow, Direction::BOTH[direction], &data);
                    if !ended[direction] {
                        expected[direction].extend(data);
                    }
                }
                Event::Fin(receive) => {
                    let direction = usize::from(receive);
                    bench.sim.fin(flow, Direction::BOTH[direction]);
                    ended[direction] = true;
                }
                Event::Decide(verdict) => bench.set(map, verdict),
                Event::Settle => bench.sim.settle(),
            }
        }
        bench.sim.heal();
        bench.set(map, PERMIT);
        for (direction, expected) in Direction::BOTH.into_iter().zip(expected) {
            prop_assert_eq!(bench.out(flow, direction), expected);
        }
        let fins = Direction::BOTH.map(|direction| bench.sim.delivered(flow, direction).fin);
        prop_assert_eq!(fins, ended);
        prop_assert_eq!(bench.held(link), Detached::default());
        bench.finish();
    }
}

#[test]
fn data_of_a_connection_that_is_allowed_is_not_its_end() {
    everywhere(|bench, hook, direction, on_error| {
        let (_, map, flow) = kept(bench, hook, direction, on_error, b"one ");
        bench.set(map, Verdict::AllowConnection as u64);
        bench.sim.settle();
        bench.sim.indicate(flow, direction, b"two ");
        let engine = &bench.callouts.as_ref().expect("registered").engine;
        engine.flows.each(&engine.platform, |flow| {
            assert!((0..2).all(|direction| !flow.marks().has(Marks::ended(direction))), "nothing has ended");
        });
    });
}

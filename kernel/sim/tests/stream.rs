//! What the stream layers do with what a callout decides.

mod support;

use fwps_sim::{Completion, Config, Direction, Filter, FlowState, NeedMore, Simulator, Split};
use fwps_sys::*;
use support::*;

const TEXT: &[u8] = b"GET /one HTTP/1.1\r\nHost: example\r\n\r\n";

/// Runs a body over many layouts and orders.
fn over_all(mut body: impl FnMut(Config)) {
    for seed in 0..200 {
        body(Config::random(seed));
    }
}

#[test]
fn a_stream_without_callouts_is_delivered() {
    let sim = Simulator::new(Config::default());
    let flow = flow(&sim);
    sim.indicate(flow, Direction::Send, TEXT);
    sim.fin(flow, Direction::Send);
    let out = sim.delivered(flow, Direction::Send);
    assert_eq!((out.bytes.as_slice(), out.fin), (TEXT, true));
    sim.finish();
}

#[test]
fn the_rest_behind_a_partial_decision_is_shown_again() {
    over_all(|config| {
        let (sim, driver) = start(config, layer::STREAM_V4, |shown| {
            if shown.length() == 0 {
                return shown.permit_all();
            }
            // Permit a letter, block a digit, one byte at a time.
            if shown.bytes()[0].is_ascii_digit() { shown.block(1) } else { shown.permit(1) }
        });
        let flow = flow(&sim);
        sim.indicate(flow, Direction::Send, b"a1b22c");
        sim.indicate(flow, Direction::Send, b"3d");
        sim.fin(flow, Direction::Send);
        let out = sim.delivered(flow, Direction::Send);
        assert_eq!((out.bytes.as_slice(), out.fin), (&b"abcd"[..], true));
        unload(&sim, driver);
        sim.finish();
    });
}

#[test]
fn more_data_comes_in_one_longer_indication() {
    over_all(|config| {
        let (sim, driver) = start(config, layer::STREAM_V4, |shown| {
            let bytes = shown.bytes();
            if shown.is_fin()
                || shown.out.flags.has(FWPS_CLASSIFY_OUT_FLAG::NO_MORE_DATA)
                || bytes.len() >= 10
            {
                shown.permit_all();
            } else {
                assert!(TEXT.windows(bytes.len()).any(|window| window == bytes));
                shown.act(FWPS_STREAM_ACTION::NEED_MORE_DATA, (10 - bytes.len()) as u32);
            }
        });
        let flow = flow(&sim);
        for byte in &TEXT[..12] {
            sim.indicate(flow, Direction::Send, &[*byte]);
        }
        sim.fin(flow, Direction::Send);
        let out = sim.delivered(flow, Direction::Send);
        assert_eq!((out.bytes.as_slice(), out.fin), (&TEXT[..12], true));
        unload(&sim, driver);
        sim.finish();
    });
}

#[test]
fn at_the_limit_the_callout_is_told() {
    let config = Config { buffer_limit: 4, need_more: NeedMore::Any, ..Config::default() };
    let (sim, driver) = start(config, layer::STREAM_V4, |shown| {
        if shown.out.flags.has(FWPS_CLASSIFY_OUT_FLAG::BUFFER_LIMIT_REACHED) {
            assert_eq!(shown.length(), 4);
            shown.permit_all();
        } else {
            shown.act(FWPS_STREAM_ACTION::NEED_MORE_DATA, 1);
        }
    });
    let flow = flow(&sim);
    TEXT[..8].iter().for_each(|byte| sim.indicate(flow, Direction::Send, &[*byte]));
    assert_eq!(sim.delivered(flow, Direction::Send).bytes, &TEXT[..8]);
    unload(&sim, driver);
    sim.finish();
}

#[test]
fn injected_bytes_take_the_place_of_what_is_decided() {
    over_all(|config| {
        let (sim, driver) = start(config, layer::STREAM_V4, |shown| {
            let bytes = shown.bytes();
            match bytes.iter().position(|byte| *byte == b'x') {
                Some(0) => {
                    shown.inject(b"<in>");
                    shown.block(1);
                }
                Some(at) => shown.permit(at),
                None => shown.permit_all(),
            }
        });
        let flow = flow(&sim);
        sim.indicate(flow, Direction::Receive, b"onextwox");
        sim.indicate(flow, Direction::Receive, b"xthree");
        sim.fin(flow, Direction::Receive);
        sim.settle();
        let out = sim.delivered(flow, Direction::Receive);
        assert_eq!((out.bytes.as_slice(), out.fin), (&b"one<in>two<in><in>three"[..], true));
        unload(&sim, driver);
        sim.finish();
    });
}

#[test]
fn clones_carry_exactly_what_was_shown() {
    over_all(|config| {
        let (sim, driver) = start(config, layer::STREAM_V4, |shown| {
            let (length, flags) = (shown.length(), shown.flags());
            if shown.is_fin() {
                return shown.permit_all();
            }
            let clone = shown.clone_stream();
            stream_inject::<u8>(
                shown.sim,
                shown.flow(),
                flags,
                clone,
                length,
                free_clone,
                std::ptr::null_mut(),
            )
            .ok()
            .unwrap();
            shown.block_all();
        });
        let flow = flow(&sim);
        for part in TEXT.chunks(5) {
            sim.indicate_with(flow, Direction::Receive, part, FWPS_STREAM_FLAG::RECEIVE_PUSH);
        }
        sim.fin(flow, Direction::Receive);
        assert_eq!(sim.delivered(flow, Direction::Receive).bytes, TEXT);
        unload(&sim, driver);
        sim.finish();
    });
}

#[test]
fn a_stream_held_back_and_injected_later_keeps_its_order() {
    use std::cell::RefCell;
    use std::rc::Rc;
    type Queue = Rc<RefCell<Vec<(*mut NET_BUFFER_LIST, usize, FWPS_STREAM_FLAG)>>>;
    over_all(|config| {
        let queue: Queue = Rc::default();
        let pended = Rc::clone(&queue);
        let (sim, driver) = start(config, layer::STREAM_V4, move |shown| {
            let item = (shown.clone_stream(), shown.length(), shown.flags());
            pended.borrow_mut().push(item);
            shown.block_all();
        });
        let flow = flow(&sim);
        for part in TEXT.chunks(7) {
            sim.indicate(flow, Direction::Send, part);
        }
        sim.fin(flow, Direction::Send);
        assert!(sim.delivered(flow, Direction::Send).bytes.is_empty());
        for (clone, length, flags) in queue.borrow_mut().drain(..) {
            sim.enter(|| {
                stream_inject::<u8>(&driver, flow.0, flags, clone, length, free_clone, std::ptr::null_mut())
                    .ok()
                    .unwrap();
            });
        }
        let out = sim.delivered(flow, Direction::Send);
        assert_eq!((out.bytes.as_slice(), out.fin), (TEXT, true));
        unload(&sim, driver);
        sim.finish();
    });
}

#[test]
fn dropping_and_allowing_end_the_indications() {
    let (sim, driver) = start(Config::default(), layer::STREAM_V4, |shown| {
        let drops = shown.bytes() == b"bad";
        let action =
            if drops { FWPS_STREAM_ACTION::DROP_CONNECTION } else { FWPS_STREAM_ACTION::ALLOW_CONNECTION };
        shown.act(action, 0);
    });
    let (good, bad) = (flow(&sim), flow(&sim));
    sim.indicate(good, Direction::Send, b"good");
    sim.indicate(good, Direction::Send, b"bad");
    assert_eq!(sim.delivered(good, Direction::Send).bytes, b"goodbad");
    sim.indicate(bad, Direction::Send, b"bad");
    sim.indicate(bad, Direction::Send, b"more");
    assert_eq!(sim.flow_state(bad), FlowState::Dropped);
    assert!(sim.delivered(bad, Direction::Send).bytes.is_empty());
    assert!(sim.delivered(bad, Direction::Receive).aborted);
    unload(&sim, driver);
    sim.finish();
}

#[test]
fn lower_sublayers_see_what_upper_ones_let_through_and_inject() {
    let sim = Simulator::new(Config {
        completion: Completion::Inside,
        split: Split::Every(3),
        ..Config::default()
    });
    let upper = load(&sim, 1, FWP_CALLOUT_FLAG::NONE, |shown| {
        if shown.length() > 0 {
            shown.inject(b"[");
        }
        shown.permit_all();
    });
    let lower = load(&sim, 2, FWP_CALLOUT_FLAG::NONE, |shown| {
        let bytes = shown.bytes();
        if bytes == b"[" { shown.permit_all() } else { shown.block_all() }
    });
    sim.add_filter(Filter::at(layer::STREAM_V4, lower.key).sublayer(1));
    sim.add_filter(Filter::at(layer::STREAM_V4, upper.key).sublayer(2));
    let flow = flow(&sim);
    sim.indicate(flow, Direction::Send, b"data");
    assert_eq!(sim.delivered(flow, Direction::Send).bytes, b"[");
    unload(&sim, upper);
    unload(&sim, lower);
    sim.finish();
}

#[test]
fn flow_contexts_come_back_once() {
    let (sim, driver) = start(Config::default(), layer::STREAM_V4, |shown| {
        shown.permit_all();
    });
    let flow = flow(&sim);
    sim.associate(flow, layer::STREAM_V4, driver.callout, 7).ok().unwrap();
    assert_eq!(sim.associate(flow, layer::STREAM_V4, driver.callout, 8), NTSTATUS::OBJECT_NAME_EXISTS);
    // SAFETY: numbers only.
    let busy = sim.enter(|| unsafe { FwpsCalloutUnregisterById0(driver.callout) });
    assert_eq!(busy, NTSTATUS::DEVICE_BUSY);
    sim.abort(flow, Direction::Receive);
    assert_eq!(deleted(), [7]);
    unload(&sim, driver);
    sim.finish();
}

#[test]
fn flows_older_than_the_filter_are_for_who_can_join() {
    let sim = Simulator::new(Config::default());
    let strict = load(&sim, 1, FWP_CALLOUT_FLAG::NONE, |shown| {
        shown.block_all();
    });
    let joins = load(&sim, 2, FWP_CALLOUT_FLAG::ALLOW_MID_STREAM_INSPECTION, |shown| {
        assert!(shown.metadata.flags.has(FWPS_INCOMING_FLAG::MID_STREAM_INSPECTION));
        shown.permit(1);
    });
    sim.add_filter(Filter::at(layer::STREAM_V4, strict.key));
    sim.add_filter(Filter::at(layer::STREAM_V4, joins.key));
    let spec = fwps_sim::FlowSpec::inbound("10.0.0.2:80".parse().unwrap(), "10.0.0.9:999".parse().unwrap());
    let flow = sim.open_flow(&fwps_sim::FlowSpec { mid_stream: true, ..spec });
    sim.indicate(flow, Direction::Send, b"abc");
    assert_eq!(sim.delivered(flow, Direction::Send).bytes, b"abc");
    unload(&sim, strict);
    unload(&sim, joins);
    sim.finish();
}

#[test]
fn deferred_data_waits_for_its_continue() {
    over_all(|config| {
        let (sim, driver) = start(config, layer::STREAM_V4, |shown| {
            if shown.length() == 3 { shown.act(FWPS_STREAM_ACTION::DEFER, 0) } else { shown.permit_all() }
        });
        let flow = flow(&sim);
        sim.indicate(flow, Direction::Receive, b"abc");
        sim.indicate(flow, Direction::Receive, b"def");
        sim.fin(flow, Direction::Receive);
        assert!(sim.delivered(flow, Direction::Receive).bytes.is_empty());
        sim.enter(|| {
            // SAFETY: numbers only.
            unsafe {
                FwpsStreamContinue0(flow.0, driver.callout, layer::STREAM_V4, FWPS_STREAM_FLAG::RECEIVE)
            }
            .ok()
            .unwrap();
        });
        let out = sim.delivered(flow, Direction::Receive);
        assert_eq!((out.bytes.as_slice(), out.fin), (&b"abcdef"[..], true));
        unload(&sim, driver);
        sim.finish();
    });
}

#[test]
fn bytes_that_an_upper_callout_blocked_are_counted_for_the_next() {
    let sim = Simulator::new(Config::default());
    let upper = load(&sim, 1, FWP_CALLOUT_FLAG::NONE, |shown| {
        if shown.bytes()[0] == b'x' { shown.block(1) } else { shown.permit(1) }
    });
    let lower = load(&sim, 2, FWP_CALLOUT_FLAG::NONE, |shown| {
        let blocked_before = if shown.bytes() == b"b" { 2 } else { 0 };
        assert_eq!(shown.packet().missedBytes, blocked_before);
        shown.permit_all();
    });
    sim.add_filter(Filter::at(layer::STREAM_V4, upper.key).sublayer(2));
    sim.add_filter(Filter::at(layer::STREAM_V4, lower.key).sublayer(1));
    let flow = flow(&sim);
    sim.indicate(flow, Direction::Send, b"axxbc");
    assert_eq!(sim.delivered(flow, Direction::Send).bytes, b"abc");
    unload(&sim, upper);
    unload(&sim, lower);
    sim.finish();
}

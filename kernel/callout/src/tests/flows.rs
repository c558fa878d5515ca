//! Connections: what is known of them, what they cost, and that their contexts end once.

use std::vec;
use std::vec::Vec;

use fwps_sim::{Call, Config, Direction, FlowId, FlowSpec, FlowState, Packet, SendOutcome, When};
use fwps_sys::{FWPS_FILTER_FLAG, NTSTATUS};
use tidegate_abi::context::STREAM_MID_STREAM;
use tidegate_abi::control::{self, Detached, FlowSide, OnError, Status};
use tidegate_abi::limits::DRAIN_NS;
use tidegate_abi::{Hook, Verdict};

use super::{Bench, NOW, STREAMS, asm, ends, wait};
use crate::memory::failing;
use crate::{Counts, Options};

/// Connections that were there before are shown too.
const ALL: Options = Options { mid_stream: true, ..NOW };

fn contexts(bench: &Bench) -> usize {
    let engine = &bench.callouts.as_ref().expect("registered").engine;
    engine.flows.count(&engine.platform)
}

#[test]
fn a_program_knows_whose_connection_it_is() {
    for hook in STREAMS {
        let bench = Bench::new(Config::default());
        bench.link(hook, &asm::tell_process(), OnError::Block);
        let (local, remote) = ends(hook);
        let flow = bench.sim.open_flow(&FlowSpec { process_id: 0x1122, ..FlowSpec::inbound(local, remote) });
        bench.sim.indicate(flow, Direction::Receive, b"?");
        assert_eq!(bench.out(flow, Direction::Receive), 0x1122_u64.to_ne_bytes());
        bench.finish();
    }
}

#[test]
fn a_program_knows_which_program_owns_the_local_end() {
    let bench = Bench::new(Config::default());
    let path = r"\device\harddiskvolume1\a.exe";
    let wide: Vec<u8> = path.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let hook = Hook::StreamV4;
    bench.link(hook, &asm::tell_application(64), OnError::Block);
    let (local, remote) = ends(hook);
    let flow =
        bench.sim.open_flow(&FlowSpec { application: path.into(), ..FlowSpec::outbound(local, remote) });
    bench.sim.indicate(flow, Direction::Send, b"?");
    let out = bench.out(flow, Direction::Send);
    assert_eq!(out[..wide.len()], wide[..]);
    assert!(out[wide.len()..].iter().all(|byte| *byte == 0) && out.len() == 64);
    bench.finish();
}

#[test]
fn a_connection_that_no_link_waits_for_costs_nothing() {
    let bench = Bench::new(Config::default());
    bench.link(Hook::StreamV6, &asm::verdict(Verdict::Block), OnError::Block);
    let flow = bench.flow(Hook::StreamV4);
    assert_eq!(contexts(&bench), 0);
    bench.sim.indicate(flow, Direction::Send, b"hello");
    assert!(!bench.sim.trace().contains("indicate"), "{}", bench.sim.trace());
    assert_eq!(bench.out(flow, Direction::Send), b"hello");
    bench.finish();
}

#[test]
fn a_context_ends_with_its_connection() {
    let bench = Bench::new(Config::default());
    bench.link(Hook::StreamV4, &asm::verdict(Verdict::Permit), OnError::Block);
    let flows: Vec<_> = (0..4).map(|_| bench.flow(Hook::StreamV4)).collect();
    assert_eq!(contexts(&bench), 4);
    bench.sim.abort(flows[1], Direction::Send);
    bench.sim.close_flow(flows[0]);
    bench.sim.fin(flows[3], Direction::Send);
    bench.sim.fin(flows[3], Direction::Receive);
    assert_eq!(contexts(&bench), 1);
    bench.finish();
}

#[test]
fn connections_are_listed_with_what_has_become_of_them() {
    let bench = Bench::new(Config::default());
    let map = bench.counter();
    let code = asm::by_map();
    let link = bench.link_with(Hook::StreamV6, &code, &[map], OnError::Block);
    let (local, remote) = ends(Hook::StreamV6);
    let spec = FlowSpec { process_id: 7, application: "a".into(), ..FlowSpec::inbound(local, remote) };
    let flows =
        [Verdict::Permit, Verdict::AllowConnection, Verdict::NeedMoreData, Verdict::Pend].map(|verdict| {
            bench.set(map, verdict as u64);
            let flow = bench.sim.open_flow(&spec);
            bench.sim.indicate(flow, Direction::Receive, b"abc");
            flow
        });
    bench.flow(Hook::StreamV4);
    let listed = bench.listed();
    assert_eq!(listed.len(), 4, "no link is shown those over IPv4");
    let side = |held, holder, waits| FlowSide { held, holder, waits };
    let [open, allowed] = [control::FlowState::Open, control::FlowState::Allowed];
    let expected = [
        (open, side(0, 0, 0), 0),
        (allowed, side(0, 0, 0), link),
        (open, side(0, 0, link), 0),
        (open, side(3, link, 0), 0),
    ];
    for (flow, (state, inbound, by)) in flows.into_iter().zip(expected) {
        let (info, application) = listed.iter().find(|(info, _)| info.flow == flow.0).expect("it is listed");
        assert_eq!((info.state, info.sides, info.by), (state, [FlowSide::default(), inbound], by));
        assert_eq!((info.hook, info.opener, info.process, info.mid_stream), (Hook::StreamV6, 1, 7, false));
        assert_eq!((info.ends.family, info.ends.protocol, info.ends.local.1), (6, 6, local.port()));
        assert_eq!((info.ends.remote.0[0], info.ends.remote.1), (0x20, remote.port()));
        assert_eq!(&application[..2], b"a\0");
    }
    bench.set(map, Verdict::DropConnection as u64);
    bench.sim.settle();
    assert_eq!(bench.sim.flow_state(flows[3]), FlowState::Dropped);
    bench.finish();
}

#[test]
fn a_list_of_connections_comes_in_as_many_parts_as_there_is_room_for() {
    let bench = Bench::new(Config::default());
    bench.link(Hook::StreamV4, &asm::verdict(Verdict::Permit), OnError::Block);
    let mut flows: Vec<u64> = (0..200).map(|_| bench.flow(Hook::StreamV4).0).collect();
    for room in [1_000, 65_536] {
        let mut listed = bench.listed_in(room);
        listed.sort_by_key(|(info, _)| info.flow);
        flows.sort_unstable();
        assert!(listed.iter().map(|(info, _)| info.flow).eq(flows.iter().copied()), "in parts of {room}");
    }
    let mut reply = [0; 64];
    assert_eq!(bench.flows(0, &mut reply).map(|_| ()), Err(Status::ReplyTooLarge));
    bench.finish();
}

#[test]
fn a_connection_is_listed_once_whatever_others_begin_and_end_meanwhile() {
    let bench = Bench::new(Config::default());
    bench.link(Hook::StreamV4, &asm::verdict(Verdict::Permit), OnError::Block);
    let mut open: Vec<FlowId> = (0..500).map(|_| bench.flow(Hook::StreamV4)).collect();
    let engine = &bench.callouts.as_ref().expect("registered").engine;
    let mut listed = vec![];
    // What a list of connections is made from.
    engine.flows.each(&engine.platform, |flow| {
        listed.push(flow.id);
        match listed.len() % 4 {
            0 => {
                bench.flow(Hook::StreamV4);
            }
            // Some of its neighbours, seen or not, and some of other lists.
            turn => bench.sim.close_flow(open.swap_remove(listed.len() * 61 * turn % open.len())),
        }
    });
    listed.sort_unstable();
    assert!(listed.is_sorted_by(|one, next| one < next), "twice: {listed:?}");
    assert!(open.iter().all(|flow| listed.binary_search(&flow.0).is_ok()), "{open:?} of {listed:?}");
    assert!(open.len() > 100 && listed.len() > open.len(), "{} of {}", open.len(), listed.len());
    // Nor do all that end leave anything behind.
    bench.listed().iter().for_each(|(info, _)| bench.sim.close_flow(FlowId(info.flow)));
    assert_eq!((contexts(&bench), bench.listed().len()), (0, 0));
    let next = [(); 3].map(|()| bench.flow(Hook::StreamV4).0);
    assert!(next.iter().all(|flow| bench.listed().iter().any(|(info, _)| info.flow == *flow)));
    bench.finish();
}

#[test]
fn each_connection_has_a_value_of_its_own_until_it_ends() {
    for hook in STREAMS {
        let bench = Bench::new(Config::default());
        let storage = bench.storage(2);
        bench.link_with(hook, &asm::count_of_flow(0, 1), &[storage], OnError::Block);
        let (one, other) = (bench.flow(hook), bench.flow(hook));
        assert_eq!(bench.entries(storage), 0);
        for (flow, direction) in [
            (one, Direction::Send),
            (one, Direction::Receive),
            (one, Direction::Send),
            (other, Direction::Send),
        ] {
            bench.sim.indicate(flow, direction, b"?");
        }
        let count = |number: u64| number.to_le_bytes();
        assert_eq!(bench.out(one, Direction::Send), [count(1), count(3)].concat());
        assert_eq!(bench.out(one, Direction::Receive), count(2));
        assert_eq!(bench.out(other, Direction::Send), count(1));
        // There is room for two.
        let third = bench.flow(hook);
        bench.sim.indicate(third, Direction::Send, b"?");
        assert_eq!((bench.out(third, Direction::Send), bench.entries(storage)), (vec![], 2));
        bench.sim.close_flow(one);
        assert_eq!(bench.entries(storage), 1);
        bench.sim.indicate(third, Direction::Send, b"?");
        assert_eq!((bench.out(third, Direction::Send), bench.entries(storage)), (count(1).to_vec(), 2));
        bench.finish();
    }
}

#[test]
fn an_end_takes_the_value_from_every_storage_whatever_maps_are_between() {
    let bench = Bench::new(Config::default());
    let storages = [0; 3].map(|_| {
        bench.counter();
        bench.storage(4)
    });
    for storage in storages {
        // An edit ends the chain, so that each connection of a hook is seen by one link.
        let link = bench.link_with(Hook::StreamV4, &asm::count_of_flow(0, 1), &[storage], OnError::Block);
        let flow = bench.flow(Hook::StreamV4);
        bench.sim.indicate(flow, Direction::Send, b"?");
        bench.sim.settle();
        assert_eq!(bench.entries(storage), 1);
        bench.sim.close_flow(flow);
        assert_eq!(bench.entries(storage), 0);
        bench.detach(link);
    }
    bench.finish();
}

#[test]
fn what_is_kept_of_connections_goes_with_the_driver_too() {
    let mut bench = Bench::new(Config::default());
    let storage = bench.storage(8);
    bench.link_with(Hook::StreamV4, &asm::count_of_flow(0, 1), &[storage], OnError::Block);
    let flows: Vec<_> = (0..5).map(|_| bench.flow(Hook::StreamV4)).collect();
    flows.iter().for_each(|flow| bench.sim.indicate(*flow, Direction::Send, b"?"));
    bench.sim.settle();
    assert_eq!(bench.entries(storage), 5);
    bench.sim.abort(flows[0], Direction::Send);
    assert_eq!(bench.entries(storage), 4);
    bench.unload();
    assert_eq!(bench.entries(storage), 0);
    bench.finish();
}

#[test]
fn a_send_program_shares_the_value_of_its_connection_and_makes_none() {
    let bench = Bench::new(Config::default());
    let storage = bench.storage(8);
    bench.link_with(Hook::StreamV4, &asm::count_of_flow(0, 1), &[storage], OnError::Block);
    for flags in [0, 1] {
        bench.link_with(Hook::OutboundTransportV4, &asm::count_of_flow(8, flags), &[storage], OnError::Block);
        let (local, remote) = ends(Hook::StreamV4);
        let flow = bench.flow(Hook::StreamV4);
        let packet = Packet { flow: Some(flow), ..Packet::tcp(local, remote, 0x18, 1, b"?") };
        assert_eq!(bench.send(&packet).0, SendOutcome::Blocked);
        bench.sim.indicate(flow, Direction::Send, b"?");
        bench.sim.settle();
        let sent = bench.send(&packet);
        assert_eq!(sent.0, SendOutcome::Permitted);
        assert_eq!(bench.entries(storage), 1 + flags as u32);
    }
    // Without a connection there is nothing to keep it with.
    let (local, remote) = ends(Hook::StreamV4);
    assert_eq!(bench.send(&Packet::tcp(local, remote, 0x18, 1, b"?")).0, SendOutcome::Blocked);
    bench.finish();
}

#[test]
fn a_link_that_comes_later_knows_that_it_is_in_the_middle() {
    let bench = Bench::new(Config::default());
    bench.link(Hook::StreamV4, &asm::verdict(Verdict::Continue), OnError::Block);
    let old = bench.flow(Hook::StreamV4);
    bench.link(Hook::StreamV4, &asm::tell_flags(), OnError::Block);
    let new = bench.flow(Hook::StreamV4);
    for (flow, flags) in [(old, STREAM_MID_STREAM), (new, 0)] {
        bench.sim.indicate(flow, Direction::Send, b"?");
        assert_eq!(bench.out(flow, Direction::Send)[..4], flags.to_ne_bytes());
    }
    bench.finish();
}

#[test]
fn connections_that_were_there_before_are_shown_from_the_middle_on_if_so_wanted() {
    for (options, shown) in [(NOW, false), (ALL, true)] {
        let bench = Bench::with_options(Config::default(), FWPS_FILTER_FLAG::NONE, options);
        let before = bench.flow(Hook::StreamV4);
        bench.link(Hook::StreamV4, &asm::tell_flags(), OnError::Block);
        let (local, remote) = ends(Hook::StreamV4);
        let older = bench.sim.open_flow(&FlowSpec { mid_stream: true, ..FlowSpec::inbound(local, remote) });
        for flow in [before, older] {
            bench.sim.indicate(flow, Direction::Send, b"?");
            bench.sim.indicate(flow, Direction::Receive, b"?");
            let out = bench.out(flow, Direction::Send);
            assert_eq!(out.len() > 1, shown);
            assert!(!shown || out[..4] == STREAM_MID_STREAM.to_ne_bytes());
        }
        assert_eq!(contexts(&bench), if shown { 2 } else { 0 });
        bench.finish();
    }
}

#[test]
fn a_connection_that_can_t_be_watched_is_decided_on_by_the_links_rule() {
    for on_error in [OnError::Block, OnError::Permit] {
        for memory in 0..3 {
            for options in [NOW, ALL] {
                let bench = Bench::with_options(Config::default(), FWPS_FILTER_FLAG::NONE, options);
                let link =
                    bench.link(Hook::StreamV4, &asm::edits(&[(0, 1, b"x")], Verdict::Permit), on_error);
                if memory == 0 {
                    bench.sim.fail(Call::FlowAssociate, When::Nth(1), NTSTATUS::INSUFFICIENT_RESOURCES);
                } else {
                    failing::after(memory - 1);
                }
                let (local, remote) = ends(Hook::StreamV4);
                let spec = FlowSpec { mid_stream: options.mid_stream, ..FlowSpec::outbound(local, remote) };
                let flow = bench.sim.open_flow(&spec);
                if options.mid_stream {
                    bench.sim.indicate(flow, Direction::Send, b"abc");
                }
                let reached = memory == 0 || !failing::stop();
                bench.sim.heal();
                assert!(reached, "there are more allocations than these");
                let dropped = bench.sim.flow_state(flow) == FlowState::Dropped;
                assert_eq!(dropped, on_error == OnError::Block);
                assert_eq!((contexts(&bench), bench.counters(link).errors), (0, 1));
                bench.finish();
            }
        }
    }
}

#[test]
fn an_unload_ends_connections_that_wait_for_more() {
    let options = Options { grace: 1_000_000_000, ..NOW };
    let mut bench = Bench::with_options(Config::default(), FWPS_FILTER_FLAG::NONE, options);
    bench.link(Hook::StreamV4, &asm::need(1), OnError::Permit);
    let [waits, rests] = [(); 2].map(|()| bench.flow(Hook::StreamV4));
    bench.sim.indicate(waits, Direction::Send, b"abc");
    let callouts = bench.callouts.take().expect("registered");
    let busy = bench.sim.enter(|| callouts.unregister()).expect_err("a connection waits");
    assert_eq!((busy.status, busy.flows), (NTSTATUS::DEVICE_BUSY, 1));
    bench.callouts = Some(busy.callouts);
    bench.sim.settle();
    assert_eq!(bench.sim.flow_state(waits), FlowState::Open);
    wait(1_000_000_000);
    bench.unload();
    assert_eq!(
        (bench.sim.flow_state(waits), bench.sim.flow_state(rests)),
        (FlowState::Dropped, FlowState::Open)
    );
    bench.finish();
}

#[test]
fn a_connection_that_gets_its_data_in_time_survives_the_unload() {
    let options = Options { grace: u64::MAX, ..NOW };
    let mut bench = Bench::with_options(Config::default(), FWPS_FILTER_FLAG::NONE, options);
    bench.link(Hook::StreamV4, &asm::need(1), OnError::Block);
    let flow = bench.flow(Hook::StreamV4);
    bench.sim.indicate(flow, Direction::Send, b"abc");
    let callouts = bench.callouts.take().expect("registered");
    bench.callouts = Some(bench.sim.enter(|| callouts.unregister()).expect_err("it waits").callouts);
    bench.sim.indicate(flow, Direction::Send, b"def");
    bench.unload();
    assert_eq!(bench.out(flow, Direction::Send), b"abcdef");
    bench.finish();
}

#[test]
fn a_link_that_waits_for_more_is_detached_by_its_rule() {
    for on_error in [OnError::Block, OnError::Permit] {
        let bench = Bench::new(Config::default());
        let link = bench.link(Hook::StreamV4, &asm::need(1), on_error);
        let flow = bench.flow(Hook::StreamV4);
        bench.sim.indicate(flow, Direction::Send, b"abc");
        assert_eq!(bench.detach(link), Detached { flows: 1, bytes: 0 });
        wait(DRAIN_NS);
        bench.detach(link);
        bench.sim.settle();
        assert_eq!(bench.detach(link), Detached::default());
        bench.sim.indicate(flow, Direction::Send, b"def");
        let out = bench.out(flow, Direction::Send);
        assert_eq!(out, if on_error == OnError::Permit { &b"abcdef"[..] } else { b"" });
        bench.finish();
    }
}

#[test]
fn data_of_the_program_s_own_goes_in_either_direction() {
    for hook in STREAMS {
        for (to, direction) in [(0, Direction::Send), (1, Direction::Receive)] {
            for same in [false, true] {
                for seed in 0..6 {
                    let bench = Bench::new(Config::random(seed));
                    let code = asm::inject_data(to, same, b"own ", 0, Verdict::Permit);
                    let link = bench.link(hook, &code, OnError::Block);
                    let flow = bench.flow(hook);
                    for way in Direction::BOTH {
                        bench.sim.indicate(flow, way, b"data");
                    }
                    let other = Direction::BOTH[1 - to as usize];
                    let out = bench.out(flow, direction);
                    if same || direction == Direction::Receive {
                        assert_eq!(out, b"own data");
                    } else {
                        assert_eq!(out, b"dataown ");
                    }
                    assert_eq!(bench.out(flow, other), b"data");
                    assert_eq!(bench.counters(link).errors, 0);
                    bench.finish();
                }
            }
        }
    }
}

#[test]
fn data_of_the_program_s_own_can_be_the_last_where_the_end_is_shown() {
    let bench = Bench::new(Config::default());
    bench.link(Hook::StreamV4, &asm::inject_data(0, true, b"bye", 1, Verdict::Permit), OnError::Block);
    let flow = bench.flow(Hook::StreamV4);
    // Where data is shown the end is not the program's to make: the helper refuses, and the program blocks.
    bench.sim.indicate(flow, Direction::Send, b"data");
    assert_eq!(bench.out(flow, Direction::Send), b"");
    bench.sim.fin(flow, Direction::Send);
    let out = bench.sim.delivered(flow, Direction::Send);
    assert_eq!((&*out.bytes, out.fin), (&b"bye"[..], true));
    bench.finish();
}

#[test]
fn data_of_the_program_s_own_waits_its_turn_in_a_direction_that_is_kept_back() {
    let bench = Bench::new(Config::default());
    let map = bench.counter();
    bench.set(map, Verdict::Pend as u64);
    let inbound = asm::inject_data(1, false, b"own", 0, Verdict::Permit);
    let flow = {
        bench.link_with(Hook::StreamV4, &asm::by_map(), &[map], OnError::Block);
        bench.link(Hook::StreamV4, &inbound, OnError::Block);
        bench.flow(Hook::StreamV4)
    };
    bench.sim.indicate(flow, Direction::Receive, b"kept ");
    bench.sim.settle();
    bench.set(map, Verdict::Continue as u64);
    bench.sim.settle();
    bench.sim.indicate(flow, Direction::Send, b"request");
    assert_eq!(bench.out(flow, Direction::Receive), b"kept own");
    assert_eq!(bench.out(flow, Direction::Send), b"request");
    bench.finish();
}

#[test]
fn an_edit_can_reach_over_the_end_of_what_is_shown() {
    for seed in 0..8 {
        let bench = Bench::new(Config::random(seed));
        let direction = Direction::BOTH[seed as usize % 2];
        bench.link(Hook::StreamV4, &asm::remove_ahead(7), OnError::Block);
        let flow = bench.flow(Hook::StreamV4);
        bench.sim.indicate(flow, direction, b"x12");
        for piece in [&b"34"[..], b"567", b"89", b"end"] {
            bench.sim.indicate(flow, direction, piece);
        }
        assert_eq!(bench.out(flow, direction), b"12end");
        bench.sim.indicate(flow, direction, b"x");
        bench.sim.indicate(flow, direction, b"34");
        bench.sim.fin(flow, direction);
        assert_eq!(bench.out(flow, direction), b"12end");
        assert!(bench.sim.delivered(flow, direction).fin);
        bench.finish();
    }
}

#[test]
fn an_edit_says_what_it_copied_and_asked_for() {
    let bench = Bench::new(Config::default());
    bench.link(Hook::StreamV4, &asm::edits(&[(700, 20, &[b'x'; 40])], Verdict::Permit), OnError::Block);
    let flow = bench.flow(Hook::StreamV4);
    bench.sim.indicate(flow, Direction::Send, &[7; 1460]);
    let Counts { copied, allocated, .. } = bench.counts();
    assert_eq!(copied, 40);
    assert!((40..400).contains(&allocated), "{allocated}");
    assert_eq!(bench.out(flow, Direction::Send).len(), 1480);
    bench.finish();
}

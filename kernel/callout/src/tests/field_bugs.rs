//! Bugs that took other products down in the field, made to happen here and survived.

use std::vec;
use std::vec::Vec;

use fwps_sim::{Again, Call, Completion, Config, Direction, FlowState, Packet, SendOutcome, When};
use fwps_sys::{FWP_ACTION, NTSTATUS};
use tidegate_abi::control::{Detached, OnError};
use tidegate_abi::{Hook, Verdict};

use super::{Bench, DATAGRAMS, SENDS, STREAMS, asm, ends, stop_clock};
use crate::hops::MAX_HOPS;

const REFUSED: NTSTATUS = NTSTATUS::INSUFFICIENT_RESOURCES;
const COMPLETIONS: [Completion; 4] =
    [Completion::Inside, Completion::Fifo, Completion::Random, Completion::Manual];

/// The end of a direction went past data that was still to be injected, or data was injected into a connection that was gone.
#[test]
fn fin_during_out_of_band() {
    for completion in COMPLETIONS {
        for gone in [false, true] {
            let bench = Bench::new(Config { completion, ..Config::default() });
            let map = bench.counter();
            bench.set(map, Verdict::Pend as u64);
            let link = bench.link_with(Hook::StreamV4, &asm::by_map(), &[map], OnError::Block);
            let flow = bench.flow(Hook::StreamV4);
            for direction in Direction::BOTH {
                bench.sim.indicate(flow, direction, b"data");
                bench.sim.fin(flow, direction);
            }
            if gone {
                bench.sim.close_flow(flow);
            }
            bench.set(map, Verdict::Permit as u64);
            for direction in Direction::BOTH {
                let out = bench.out(flow, direction);
                assert_eq!(out, if gone { &b""[..] } else { b"data" });
                assert_eq!(bench.sim.delivered(flow, direction).fin, !gone);
            }
            assert_eq!(bench.held(link), Detached::default());
            bench.finish();
        }
    }
}

/// The ancillary data of a send was used after its classify, when it was gone.
#[test]
fn stale_control_data() {
    for completion in COMPLETIONS {
        for hook in SENDS {
            let bench = Bench::new(Config { completion, ..Config::default() });
            bench.link(hook, &asm::edits(&[(20, 1, b"x")], Verdict::Permit), OnError::Block);
            let (local, remote) = ends(hook);
            let control: Vec<u8> = (0..40).collect();
            for packet in [Packet::tcp(local, remote, 0x18, 1, b"data"), Packet::udp(local, remote, &[7; 40])]
            {
                bench.sim.send(&Packet { control_data: Some(control.clone()), ..packet });
            }
            bench.sim.settle();
            let sent = bench.sim.take_sent();
            assert_eq!(sent.len(), 2);
            assert!(sent.iter().all(|packet| packet.control_data.as_ref() == Some(&control)));
            bench.finish();
        }
    }
}

/// An injection was freed by who injected it and by its completion, or twice by a completion that came with an error.
#[test]
fn completion_double_free() {
    for completion in COMPLETIONS {
        for fails in [false, true] {
            let bench = Bench::new(Config { completion, ..Config::default() });
            for hook in Hook::ALL {
                bench.link(hook, &asm::edits(&[(0, 0, b"x")], Verdict::Permit), OnError::Block);
            }
            if fails {
                bench.sim.fail_completions(When::Always, REFUSED);
            }
            for hook in STREAMS {
                let flow = bench.flow(hook);
                for direction in Direction::BOTH {
                    bench.sim.indicate(flow, direction, b"one");
                    bench.sim.indicate(flow, direction, b"two");
                }
            }
            bench.sim.heal();
            // What is freed twice or used afterwards breaks a rule of the simulator.
            bench.finish();
        }
    }
}

/// What was built for an injection stayed behind when the injection was refused.
#[test]
fn leak_on_inject_failure() {
    for on_error in [OnError::Block, OnError::Permit] {
        let bench = Bench::new(Config::default());
        let own = asm::inject_data(1, true, b"own", 0, Verdict::Continue);
        bench.link(Hook::StreamV4, &own, on_error);
        let edit = bench.link(Hook::StreamV4, &asm::edits(&[(1, 1, b"x")], Verdict::Permit), on_error);
        let send =
            bench.link(Hook::OutboundTransportV6, &asm::edits(&[(8, 1, b"x")], Verdict::Permit), on_error);
        bench.sim.fail(Call::StreamInject, When::Always, REFUSED);
        bench.sim.fail(Call::SendInject, When::Always, REFUSED);
        let (local, remote) = ends(Hook::OutboundTransportV6);
        let open = on_error == OnError::Permit;
        for _ in 0..100 {
            let flow = bench.flow(Hook::StreamV4);
            bench.sim.indicate(flow, Direction::Receive, b"abc");
            let out = bench.out(flow, Direction::Receive);
            let dropped = bench.sim.flow_state(flow) == FlowState::Dropped;
            assert_eq!((&*out, dropped), if open { (&b"abc"[..], false) } else { (&b""[..], true) });
            bench.sim.close_flow(flow);
            let outcome = bench.send(&Packet::udp(local, remote, b"data")).0;
            assert_eq!(outcome, if open { SendOutcome::Permitted } else { SendOutcome::Blocked });
        }
        bench.sim.heal();
        assert_eq!(bench.counters(send).errors, 100);
        assert_eq!(bench.counters(edit).errors, if open { 100 } else { 0 });
        assert_eq!(bench.counts().injected, 0);
        bench.finish();
    }
}

/// The image was gone while injections were still to complete, packets to be sent and connections to be let go.
#[test]
fn unload_with_pending_injection() {
    for (on_error, completion) in
        [OnError::Block, OnError::Permit].into_iter().zip([Completion::Manual, Completion::Random])
    {
        let mut bench = Bench::new(Config { completion, ..Config::default() });
        let map = bench.counter();
        bench.set(map, Verdict::Pend as u64);
        for hook in STREAMS {
            bench.link(hook, &asm::drop_if_found(b'!', Some(b"x")), on_error);
            let flow = bench.flow(hook);
            bench.sim.indicate(flow, Direction::Send, b"0123456789");
        }
        bench.link_with(Hook::StreamV4, &asm::by_map(), &[map], on_error);
        let kept = bench.flow(Hook::StreamV4);
        bench.link(Hook::OutboundTransportV4, &asm::edits(&[(20, 1, b"x")], Verdict::Permit), on_error);
        bench.sim.indicate(kept, Direction::Receive, b"kept");
        let (local, remote) = ends(Hook::OutboundTransportV4);
        bench.sim.send(&Packet::tcp(local, remote, 0x18, 1, b"data"));
        bench.unload();
        bench.sim.send(&Packet::tcp(local, remote, 0x18, 1, b"data"));
        bench.finish();
    }
}

/// Two products took each other's packets over for ever.
#[test]
fn ping_pong_with_another_injector() {
    const MANY: usize = 20_000;
    stop_clock();
    for again in [Again::Clone, Again::Copy] {
        for on_error in [OnError::Block, OnError::Permit] {
            let bench = Bench::new(Config::default());
            let hook = Hook::OutboundTransportV4;
            let link = bench.link(hook, &asm::edits(&[(8, 1, b"x")], Verdict::Permit), on_error);
            let other = bench.sim.other_product(0xf000, again, MANY);
            let (local, remote) = ends(hook);
            bench.sim.send(&Packet::udp(local, remote, b"data"));
            bench.sim.settle();
            let taken = MANY - other.left();
            assert!(taken as u64 <= MAX_HOPS * 2, "it took {taken}");
            let sent = bench.sim.take_sent();
            assert!(sent.len() <= 1, "{} packets came of one", sent.len());
            assert!(bench.counters(link).edited >= 1);
            drop(other);
            bench.finish();
        }
    }
}

/// A datagram was injected at a socket that had closed while it waited.
#[test]
fn an_endpoint_that_closes_while_its_packets_wait() {
    // Whether or not the driver is being unloaded.
    for (hook, closing) in SENDS.into_iter().zip([false, true]) {
        let bench = Bench::new(Config { completion: Completion::Manual, ..Config::default() });
        let link = bench.link(hook, &asm::edits(&[(20, 1, b"x")], Verdict::Permit), OnError::Block);
        let (local, remote) = ends(hook);
        let segments = [0, 1, 2].map(|at| bench.sim.send(&Packet::tcp(local, remote, 0x18, at, b"data")));
        if closing {
            bench.sim.enter(|| bench.callouts.as_ref().expect("registered").drain());
        }
        bench.sim.close_endpoint(segments[1]);
        bench.sim.settle();
        assert_eq!(bench.sim.take_sent().len(), 2);
        assert_eq!((bench.counters(link).edited, bench.counters(link).errors), (2, 1));
        assert_eq!(bench.counts().lost, 1);
        bench.finish();
    }
}

/// A sender changed its memory after it was judged.
#[test]
fn a_sender_that_changes_what_was_judged() {
    for seed in 0..8 {
        for hook in STREAMS {
            for sealed in [false, true] {
                let config = Config { sender_changes: true, ..Config::random(seed) };
                let bench = Bench::new(config);
                let code = asm::drop_if_found(b'!', None);
                if sealed {
                    bench.snapshot(hook, &code, OnError::Block);
                } else {
                    bench.link(hook, &code, OnError::Block);
                }
                let flow = bench.flow(hook);
                let data = b"what was judged is what is sent";
                bench.sim.indicate(flow, Direction::Send, data);
                bench.sim.fin(flow, Direction::Send);
                let out = bench.out(flow, Direction::Send);
                assert_eq!(out == data, sealed, "{:?}", std::string::String::from_utf8_lossy(&out));
                assert!(bench.sim.delivered(flow, Direction::Send).fin);
                bench.finish();
            }
        }
    }
}

/// The same with edits, and where a link that fails open stands behind.
#[test]
fn an_edit_of_what_its_sender_changes() {
    for seed in 0..8 {
        let bench = Bench::new(Config { sender_changes: true, ..Config::random(seed) });
        bench.snapshot(Hook::StreamV4, &asm::edits(&[(2, 1, b"<new>")], Verdict::Permit), OnError::Block);
        let flow = bench.flow(Hook::StreamV4);
        bench.sim.indicate(flow, Direction::Send, b"abcdef");
        assert_eq!(bench.out(flow, Direction::Send), b"ab<new>def");
        bench.finish();
    }
}

/// The same with packets.
#[test]
fn a_sender_that_changes_a_packet() {
    // Each where it is shown first: the sender has changed a datagram before the transport layer sees it.
    for hook in SENDS.into_iter().chain(DATAGRAMS) {
        for (sealed, verdict) in
            [(false, Verdict::Permit), (true, Verdict::Permit), (true, Verdict::Continue)]
        {
            let bench = Bench::new(Config { sender_changes: true, ..Config::default() });
            let code = asm::verdict(verdict);
            if sealed {
                bench.snapshot(hook, &code, OnError::Block);
            } else {
                bench.link(hook, &code, OnError::Block);
            }
            let (local, remote) = ends(hook);
            let packet = if SENDS.contains(&hook) {
                Packet::tcp(local, remote, 0x18, 1, b"judged")
            } else {
                Packet::udp(local, remote, b"judged")
            };
            let (_, sent) = bench.send(&packet);
            assert_eq!(sent.len(), 1);
            assert_eq!(sent[0].bytes.ends_with(b"judged"), sealed);
            bench.finish();
        }
    }
}

/// The same with an edit, whose checksum covers what the sender still has: its receiver refuses what was not summed up.
#[test]
fn an_edit_of_a_packet_that_its_sender_changes() {
    for hook in DATAGRAMS {
        for sealed in [false, true] {
            let bench = Bench::new(Config { sender_changes: true, ..Config::default() });
            let code = asm::edits(&[(8, 1, b"<new>")], Verdict::Permit);
            if sealed {
                bench.snapshot(hook, &code, OnError::Block);
            } else {
                bench.link(hook, &code, OnError::Block);
            }
            let (local, remote) = ends(hook);
            let (_, sent) = bench.send(&Packet::udp(local, remote, b"judged"));
            let [sent] = &sent[..] else { panic!("one packet") };
            assert!(sent.bytes[8..].starts_with(b"<new>"));
            assert_eq!((sent.bytes.ends_with(b"udged"), sent.checksum_ok), (sealed, sealed));
            bench.finish();
        }
    }
}

/// Nothing was given where something was expected.
#[test]
fn null_data() {
    let bench = Bench::new(Config::default());
    for hook in Hook::ALL {
        bench.link(hook, &asm::verdict(Verdict::Block), OnError::Block);
        let actions = bench.sim.show_nothing(crate::layer::LAYERS[hook.index()].id);
        assert!(!actions.is_empty() && actions.iter().all(|action| *action == FWP_ACTION::PERMIT));
    }
    let flow = bench.flow(Hook::StreamV4);
    bench.sim.fin(flow, Direction::Send);
    assert_eq!(bench.out(flow, Direction::Send), vec![]);
    bench.finish();
}

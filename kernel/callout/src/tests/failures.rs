//! Every call and every allocation that an edit needs fails once: the link's `on_error` decides, nothing is half delivered,
//! and nothing is left behind.

use std::vec;
use std::vec::Vec;

use fwps_sim::{Call, Completion, Config, Direction, FlowState, Packet, SendOutcome, Split, When};
use fwps_sys::NTSTATUS;
use proptest::collection;
use proptest::prelude::*;
use tidegate_abi::control::{OnError, TrialMode};
use tidegate_abi::{Hook, Verdict, helper};

use super::send::raw_header;
use super::{Bench, asm, ends};
use crate::memory::failing;

const REFUSED: NTSTATUS = NTSTATUS::INSUFFICIENT_RESOURCES;

/// What fails: the nth call of the system, or the nth allocation of our own.
#[derive(Clone, Copy, Debug)]
enum Failing {
    Call(Call, u64),
    Memory(usize),
}

impl Failing {
    fn begin(self, bench: &Bench) {
        match self {
            Self::Call(call, nth) => bench.sim.fail(call, When::Nth(nth), REFUSED),
            Self::Memory(left) => failing::after(left),
        }
    }

    fn end(bench: &Bench) {
        bench.sim.heal();
        failing::stop();
    }
}

/// Every single failure of these calls and of our own allocations, one after the other.
fn one_by_one(calls: &'static [Call]) -> impl Iterator<Item = Failing> {
    let calls = calls.iter().flat_map(|call| (1..=6).map(|nth| Failing::Call(*call, nth)));
    calls.chain((0..8).map(Failing::Memory))
}

#[test]
fn an_edit_of_a_stream_is_made_whole_or_its_link_decides() {
    let edit = asm::edits(&[(1, 1, b"<"), (4, 0, b"new"), (6, 2, b"")], Verdict::Permit);
    let (shown, edited) = (b"abcdefgh", b"a<cdnewef");
    let mut failed = Vec::new();
    for failing in one_by_one(&[Call::MdlAllocate, Call::NblAllocate, Call::StreamInject, Call::MdlMap]) {
        for on_error in [OnError::Block, OnError::Permit] {
            let config = Config { split: Split::Every(3), unmapped: true, seed: 5, ..Config::default() };
            let bench = Bench::new(config);
            let link = bench.link(Hook::StreamV4, &edit, on_error);
            let flow = bench.flow(Hook::StreamV4);
            failing.begin(&bench);
            bench.sim.indicate(flow, Direction::Send, shown);
            bench.sim.settle();
            Failing::end(&bench);
            let out = bench.out(flow, Direction::Send);
            let errors = bench.counters(link).errors;
            match (errors, on_error) {
                (0, _) => assert_eq!(out, edited, "{failing:?}"),
                (1, OnError::Block) => {
                    assert_eq!(
                        (out, bench.sim.flow_state(flow)),
                        (vec![], FlowState::Dropped),
                        "{failing:?}"
                    );
                }
                (1, OnError::Permit) => assert_eq!(out, shown, "{failing:?}"),
                _ => panic!("{errors} errors: {failing:?}"),
            }
            if errors == 1 {
                failed.push(failing);
            }
            bench.finish();
        }
    }
    for call in [Call::MdlAllocate, Call::NblAllocate, Call::StreamInject, Call::MdlMap] {
        let hit = |failing: &Failing| matches!(failing, Failing::Call(of, 1) if *of == call);
        assert!(failed.iter().any(hit), "{call:?} never failed");
    }
    assert!(failed.iter().any(|failing| matches!(failing, Failing::Memory(2))), "memory never failed");
}

#[test]
fn an_edit_of_a_datagram_is_made_whole_or_its_link_decides() {
    let edit = asm::edits(&[(9, 1, b"<>")], Verdict::Permit);
    let mut failed = Vec::new();
    for failing in one_by_one(&[Call::MdlAllocate, Call::NblAllocate, Call::SendInject, Call::MdlMap]) {
        for on_error in [OnError::Block, OnError::Permit] {
            let config = Config { split: Split::Every(3), unmapped: true, seed: 5, ..Config::default() };
            let bench = Bench::new(config);
            let hook = Hook::OutboundTransportV6;
            let link = bench.link(hook, &edit, on_error);
            let (local, remote) = ends(hook);
            let packet = Packet { control_data: Some(vec![7; 24]), ..Packet::udp(local, remote, b"data") };
            failing.begin(&bench);
            let (outcome, sent) = bench.send(&packet);
            Failing::end(&bench);
            let sent: Vec<_> = sent.iter().map(|packet| &packet.bytes[8..]).collect();
            let errors = bench.counters(link).errors;
            match (errors, on_error) {
                (0, _) => {
                    assert_eq!((outcome, sent), (SendOutcome::Absorbed, vec![&b"d<>ta"[..]]), "{failing:?}");
                }
                (1, OnError::Block) => {
                    assert_eq!((outcome, sent), (SendOutcome::Blocked, vec![]), "{failing:?}");
                }
                (1, OnError::Permit) => {
                    assert_eq!((outcome, sent), (SendOutcome::Permitted, vec![&b"data"[..]]), "{failing:?}");
                }
                _ => panic!("{errors} errors: {failing:?}"),
            }
            if errors == 1 {
                failed.push(failing);
            }
            bench.finish();
        }
    }
    for call in [Call::MdlAllocate, Call::NblAllocate, Call::SendInject, Call::MdlMap] {
        let hit = |failing: &Failing| matches!(failing, Failing::Call(of, 1) if *of == call);
        assert!(failed.iter().any(hit), "{call:?} never failed");
    }
    assert!(failed.iter().any(|failing| matches!(failing, Failing::Memory(2))), "memory never failed");
}

/// Something that a link does to a connection or to packets, from its beginning to its end; gives back what came out.
struct Path {
    name: &'static str,
    play: fn(&Bench, OnError) -> Vec<u8>,
    /// What comes out, piece by piece, and what each piece is when the link failed and fails open.
    whole: &'static [&'static [u8]],
    open: &'static [&'static [u8]],
    /// They are packets, not a stream.
    packets: bool,
}

/// Shows a stream two pieces and its end.
fn stream(bench: &Bench) -> Vec<u8> {
    let flow = bench.flow(Hook::StreamV4);
    bench.sim.indicate(flow, Direction::Send, b"abcd");
    bench.sim.indicate(flow, Direction::Send, b"efgh");
    bench.sim.fin(flow, Direction::Send);
    bench.out(flow, Direction::Send)
}

fn payload((_, sent): (SendOutcome, Vec<fwps_sim::Sent>), header: usize) -> Vec<u8> {
    sent.iter().flat_map(|packet| packet.bytes[header..].to_vec()).collect()
}

const PATHS: [Path; 10] = [
    Path {
        name: "a clone of a stream",
        play: |bench, on_error| {
            let code =
                asm::clone(helper::CLONE_STREAM_DATA, helper::STREAM_INJECT, 1, 1, b"<>", Verdict::Block);
            bench.link(Hook::StreamV4, &code, on_error);
            stream(bench)
        },
        whole: &[b"a<>cd", b"e<>gh"],
        open: &[b"abcd", b"efgh"],
        packets: false,
    },
    Path {
        name: "data of a program's own",
        play: |bench, on_error| {
            let code = asm::inject_data(0, true, b"new", 0, Verdict::Permit);
            bench.link(Hook::StreamV4, &code, on_error);
            stream(bench)
        },
        whole: &[b"newabcd", b"newefgh", b"new"],
        open: &[b"abcd", b"efgh", b""],
        packets: false,
    },
    Path {
        name: "a snapshot",
        play: |bench, on_error| {
            bench.snapshot(Hook::StreamV4, &asm::verdict(Verdict::Permit), on_error);
            stream(bench)
        },
        whole: &[b"abcd", b"efgh"],
        open: &[b"abcd", b"efgh"],
        packets: false,
    },
    Path {
        name: "bytes that are kept back",
        play: |bench, on_error| {
            let map = bench.counter();
            bench.set(map, Verdict::Pend as u64);
            bench.link_with(Hook::StreamV4, &asm::by_map(), &[map], on_error);
            let flow = bench.flow(Hook::StreamV4);
            bench.sim.indicate(flow, Direction::Send, b"abcd");
            bench.sim.indicate(flow, Direction::Send, b"efgh");
            bench.sim.fin(flow, Direction::Send);
            bench.sim.settle();
            bench.set(map, Verdict::Permit as u64);
            bench.sim.settle();
            // What could not be injected was left for the next time.
            bench.sim.heal();
            bench.set(map, Verdict::Permit as u64);
            bench.out(flow, Direction::Send)
        },
        whole: &[b"abcd", b"efgh"],
        open: &[b"abcd", b"efgh"],
        packets: false,
    },
    Path {
        name: "a datagram with another address",
        play: |bench, on_error| {
            let hook = Hook::DatagramDataV4;
            bench.link(hook, &asm::send_to(&[198, 51, 100, 9], 5353, 0xb8), on_error);
            let (local, remote) = ends(hook);
            payload(bench.send(&Packet::udp(local, remote, b"data")), 8)
        },
        whole: &[b"data"],
        open: &[b"data"],
        packets: true,
    },
    Path {
        name: "a raw send",
        play: |bench, on_error| {
            let hook = Hook::DatagramDataV6;
            bench.link(hook, &asm::edits(&[(8, 1, b"<>")], Verdict::Permit), on_error);
            let (local, remote) = ends(hook);
            let packet =
                Packet { raw_ip_header: Some(raw_header(hook, 12)), ..Packet::udp(local, remote, b"data") };
            payload(bench.send(&packet), 8)
        },
        whole: &[b"<>ata"],
        open: &[b"data"],
        packets: true,
    },
    Path {
        name: "a stream with a shadow",
        play: |bench, on_error| {
            let code = asm::edits(&[(1, 1, b"<>")], Verdict::Permit);
            let link = bench.link(Hook::StreamV4, &code, on_error);
            let other = asm::inject_data(0, true, b"never", 0, Verdict::Permit);
            bench.try_in(link, Hook::StreamV4, &other, &[], TrialMode::Shadow);
            stream(bench)
        },
        whole: &[b"a<>cd", b"e<>gh"],
        open: &[b"abcd", b"efgh"],
        packets: false,
    },
    Path {
        name: "a datagram with a shadow",
        play: |bench, on_error| {
            let hook = Hook::DatagramDataV4;
            let link = bench.link(hook, &asm::edits(&[(8, 1, b"<>")], Verdict::Permit), on_error);
            bench.try_in(link, hook, &asm::verdict(Verdict::Block), &[], TrialMode::Shadow);
            let (local, remote) = ends(hook);
            payload(bench.send(&Packet::udp(local, remote, b"data")), 8)
        },
        whole: &[b"<>ata"],
        open: &[b"data"],
        packets: true,
    },
    Path {
        name: "a list of datagrams",
        play: |bench, on_error| {
            let hook = Hook::OutboundTransportV4;
            bench.link(hook, &asm::drop_if_found(b'n', None), on_error);
            let (local, remote) = ends(hook);
            payload(bench.send(&Packet::udp_batch(local, remote, &[b"a", b"n", b"b"])), 8)
        },
        whole: &[b"a", b"", b"b"],
        open: &[b"a", b"n", b"b"],
        packets: true,
    },
    Path {
        name: "a segment",
        play: |bench, on_error| {
            let hook = Hook::OutboundTransportV4;
            bench.link(hook, &asm::edits(&[(20, 1, b"D")], Verdict::Permit), on_error);
            let (local, remote) = ends(hook);
            payload(bench.send(&Packet::tcp(local, remote, 0x18, 1, b"data")), 20)
        },
        whole: &[b"Data"],
        open: &[b"data"],
        packets: true,
    },
];

/// Every call and every allocation of each path, one after the other, until a run meets none that is left to fail.
#[test]
fn whatever_fails_once_on_any_path_nothing_is_left_behind_or_half_there() {
    const CALLS: [Call; 4] = [Call::Any, Call::Complete, Call::MdlMap, Call::FlowAbort];
    for path in &PATHS {
        for on_error in [OnError::Block, OnError::Permit] {
            let mut failed = 0;
            let kinds = CALLS.iter().map(|call| Some(*call)).chain([None]);
            for kind in kinds {
                for nth in 1.. {
                    let config =
                        Config { split: Split::Every(3), unmapped: true, seed: 3, ..Config::default() };
                    let bench = Bench::new(config);
                    let failing =
                        kind.map_or(Failing::Memory(nth - 1), |call| Failing::Call(call, nth as u64));
                    failing.begin(&bench);
                    let out = (path.play)(&bench, on_error);
                    let met = match kind {
                        Some(_) => bench.sim.failures() > 0,
                        None => !failing::stop(),
                    };
                    Failing::end(&bench);
                    let says =
                        || std::format!("{}, {on_error:?}, {failing:?}: {}", path.name, out.escape_ascii());
                    // Each piece passes whole, as the link wants it or as it was, or is missing with all behind it.
                    assert!(is_whole(path, &out, on_error), "{}", says());
                    if !met {
                        assert_eq!(out, path.whole.concat(), "{}", says());
                    }
                    bench.finish();
                    failed += usize::from(met);
                    if !met {
                        break;
                    }
                }
            }
            assert!(failed >= 4, "{}: only {failed} failures", path.name);
        }
    }
}

/// Whether what came out is made of pieces of `whole` and, of a link that fails open, of `open`. A stream ends with the first
/// piece that is missing; packets are each on their own.
fn is_whole(path: &Path, out: &[u8], on_error: OnError) -> bool {
    let mut ways = vec![(out, true)];
    for (whole, open) in path.whole.iter().zip(path.open) {
        ways = ways
            .into_iter()
            .flat_map(|(out, goes_on)| {
                let open = (on_error == OnError::Permit).then_some(open);
                let taken = [Some(whole), open].into_iter().flatten().filter(|_| goes_on);
                let taken =
                    taken.filter_map(|piece| Some((out.strip_prefix(*piece)?, true))).collect::<Vec<_>>();
                taken.into_iter().chain([(out, path.packets)])
            })
            .collect();
    }
    ways.iter().any(|(out, _)| out.is_empty())
}

#[test]
fn a_refused_copy_fails_open_only_past_the_links_that_are_left() {
    let bench = Bench::new(Config::default());
    let hook = Hook::OutboundTransportV4;
    bench.link(hook, &asm::edits(&[(8, 1, b"x")], Verdict::Permit), OnError::Permit);
    bench.link(hook, &asm::verdict(Verdict::Block), OnError::Block);
    bench.sim.fail(Call::SendInject, When::Nth(1), REFUSED);
    let (local, remote) = ends(hook);
    assert_eq!(bench.send(&Packet::udp(local, remote, b"data")), (SendOutcome::Blocked, vec![]));
    bench.finish();
}

#[test]
fn a_segment_that_the_worker_can_t_send_is_lost_and_counted() {
    let bench = Bench::new(Config::default());
    let hook = Hook::OutboundTransportV4;
    let link = bench.link(hook, &asm::edits(&[(20, 1, b"x")], Verdict::Permit), OnError::Block);
    bench.sim.fail(Call::SendInject, When::Nth(1), REFUSED);
    let (local, remote) = ends(hook);
    let segment = Packet::tcp(local, remote, 0x18, 1, b"data");
    assert_eq!(bench.send(&segment), (SendOutcome::Absorbed, vec![]));
    assert_eq!((bench.counts().refused, bench.counts().lost), (1, 1));
    assert_eq!(bench.send(&segment).1.len(), 1);
    assert_eq!((bench.counters(link).edited, bench.counters(link).errors), (1, 1));
    bench.finish();
}

#[test]
fn a_list_that_can_t_be_copied_is_blocked() {
    for (nth, left) in [(1, 0), (2, 0), (3, 0)] {
        let bench = Bench::new(Config::default());
        let hook = Hook::OutboundTransportV4;
        bench.link(hook, &asm::drop_if_found(b'n', None), OnError::Block);
        bench.sim.fail(Call::NblAllocate, When::Nth(nth), REFUSED);
        let (local, remote) = ends(hook);
        let list = Packet::udp_batch(local, remote, &[b"yes", b"yes", b"no", b"yes"]);
        let (outcome, sent) = bench.send(&list);
        assert_eq!((outcome, sent.len()), (SendOutcome::Blocked, left));
        bench.finish();
    }
}

#[test]
fn a_datagram_of_a_list_that_can_t_be_sent_is_lost_and_counted() {
    let bench = Bench::new(Config::default());
    let hook = Hook::OutboundTransportV6;
    let link = bench.link(hook, &asm::edits(&[(8, 1, b"x")], Verdict::Permit), OnError::Permit);
    bench.sim.fail(Call::SendInject, When::Nth(2), REFUSED);
    let (local, remote) = ends(hook);
    let (outcome, sent) = bench.send(&Packet::udp_batch(local, remote, &[b"one", b"two", b"six"]));
    let sent: Vec<_> = sent.iter().map(|packet| &packet.bytes[8..]).collect();
    assert_eq!((outcome, sent), (SendOutcome::Absorbed, vec![&b"xne"[..], b"xix"]));
    assert_eq!((bench.counters(link).edited, bench.counters(link).errors), (2, 1));
    assert_eq!((bench.counts().refused, bench.counts().lost), (1, 1));
    bench.finish();
}

#[test]
fn an_injection_that_fails_later_resets_the_stream() {
    for completion in [Completion::Inside, Completion::Fifo, Completion::Random, Completion::Manual] {
        let bench = Bench::new(Config { completion, ..Config::default() });
        bench.link(Hook::StreamV6, &asm::edits(&[(0, 1, b"x")], Verdict::Permit), OnError::Permit);
        let flow = bench.flow(Hook::StreamV6);
        bench.sim.fail_completions(When::Nth(1), REFUSED);
        bench.sim.indicate(flow, Direction::Receive, b"abc");
        bench.sim.settle();
        assert_eq!(bench.sim.flow_state(flow), FlowState::Dropped);
        assert_eq!((bench.counts().injected, bench.counts().failed), (1, 1));
        bench.finish();
    }
}

#[test]
fn an_injected_packet_that_fails_later_is_freed_and_counted() {
    let bench = Bench::new(Config::default());
    let hook = Hook::OutboundTransportV6;
    bench.link(hook, &asm::edits(&[(8, 1, b"x")], Verdict::Permit), OnError::Block);
    bench.sim.fail_completions(When::Always, REFUSED);
    let (local, remote) = ends(hook);
    assert_eq!(bench.send(&Packet::udp(local, remote, b"data")).0, SendOutcome::Absorbed);
    assert_eq!((bench.counts().completed, bench.counts().failed), (0, 1));
    bench.finish();
}

#[test]
fn nothing_is_allocated_for_what_is_permitted_or_blocked() {
    for verdict in [Verdict::Permit, Verdict::Continue, Verdict::Block] {
        let bench = Bench::new(Config { split: Split::Every(2), ..Config::default() });
        for hook in Hook::ALL {
            bench.link(hook, &asm::verdict(verdict), OnError::Block);
        }
        let flow = bench.flow(Hook::StreamV4);
        failing::after(0);
        bench.sim.indicate(flow, Direction::Send, b"hello");
        bench.sim.fin(flow, Direction::Send);
        let (local, remote) = ends(Hook::OutboundTransportV6);
        bench.send(&Packet::udp(local, remote, b"data"));
        assert!(failing::stop(), "an allocation was tried");
        bench.finish();
    }
}

#[test]
fn without_a_free_desk_no_link_is_run() {
    for (on_error, state, outcome) in [
        (OnError::Block, FlowState::Dropped, SendOutcome::Blocked),
        (OnError::Permit, FlowState::Open, SendOutcome::Permitted),
    ] {
        let bench = Bench::new(Config::default());
        let stream = bench.link(Hook::StreamV4, &asm::verdict(Verdict::Permit), on_error);
        let send = bench.link(Hook::OutboundTransportV4, &asm::verdict(Verdict::Permit), on_error);
        let engine = &bench.callouts.as_ref().expect("registered").engine;
        let desks: Vec<_> = core::iter::from_fn(|| engine.scratch.take(0)).collect();
        let reset = bench.flow(Hook::StreamV4);
        bench.sim.abort(reset, Direction::Send);
        assert!(!bench.sim.trace().contains("DROP_CONNECTION"), "a reset passes always");
        let flow = bench.flow(Hook::StreamV4);
        bench.sim.indicate(flow, Direction::Send, b"hello");
        assert_eq!(bench.sim.trace().contains("DROP_CONNECTION"), on_error == OnError::Block);
        assert_eq!(bench.sim.flow_state(flow), state);
        let (local, remote) = ends(Hook::OutboundTransportV4);
        assert_eq!(bench.send(&Packet::udp(local, remote, b"data")).0, outcome);
        assert_eq!(bench.counts().no_desk, 3);
        for (link, errors) in [(stream, 2), (send, 1)] {
            assert_eq!((bench.counters(link).bytes_shown, bench.counters(link).errors), (0, errors));
        }
        drop(desks);
        bench.finish();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn whatever_fails_a_stream_never_has_a_gap(
        seed: u64,
        failures in 1..400_u32,
        pieces in collection::vec(collection::vec(any::<u8>(), 2..40), 1..8),
        open: bool,
    ) {
        let bench = Bench::new(Config::random(seed));
        let on_error = if open { OnError::Permit } else { OnError::Block };
        bench.link(Hook::StreamV4, &asm::edits(&[(1, 1, b"<new>")], Verdict::Permit), on_error);
        let flow = bench.flow(Hook::StreamV4);
        bench.sim.fail(Call::Any, When::PerMille(failures), REFUSED);
        for piece in &pieces {
            bench.sim.indicate(flow, Direction::Send, piece);
        }
        bench.sim.settle();
        bench.sim.heal();
        let out = bench.out(flow, Direction::Send);
        let mut rest = &out[..];
        let mut delivered = 0;
        for piece in &pieces {
            let edited = [&piece[..1], b"<new>", &piece[2..]].concat();
            if let Some(behind) = rest.strip_prefix(&edited[..]) {
                rest = behind;
            } else if let (Some(behind), true) = (rest.strip_prefix(&piece[..]), open) {
                rest = behind;
            } else {
                break;
            }
            delivered += 1;
        }
        prop_assert!(rest.is_empty(), "bytes that are neither edited nor original");
        prop_assert!(delivered == pieces.len() || bench.sim.flow_state(flow) == FlowState::Dropped);
        bench.finish();
    }
}

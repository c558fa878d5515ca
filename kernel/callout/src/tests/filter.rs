//! Filters: a link that is kept from data is as if it were not there, and one that is shown it as if it had no filter.

use std::string::String;
use std::vec;
use std::vec::Vec;

use fwps_sim::{Config, Direction, FlowState, Packet, SendOutcome};
use fwps_sys::FWPS_STREAM_FLAG;
use proptest::collection;
use proptest::prelude::*;
use tidegate_abi::control::{Change, Counters, LinkReplace, OnError, TrialMode, parse_reply};
use tidegate_abi::filter::{EndFilter, Net, Ports};
use tidegate_abi::limits::MAX_WINDOW;
use tidegate_abi::{Hook, LinkFilter, Verdict};

use super::{Bench, SENDS, STREAMS, asm, ends};

const STREAM: Hook = Hook::StreamV4;
const OUT: Direction = Direction::Send;
const IN: Direction = Direction::Receive;

/// What the tests' connections and packets fit, by the port of the other end, or not.
fn port(port: u16) -> LinkFilter {
    let mut remote = EndFilter::default();
    remote.ports[0] = Some(Ports { first: port, last: port });
    LinkFilter { remote, ..LinkFilter::default() }
}

const THEIRS: u16 = 53;
const ANOTHER: u16 = 54;

/// Programs of every kind of effect on a stream.
fn programs() -> Vec<Vec<u8>> {
    vec![
        asm::verdict(Verdict::Permit),
        asm::verdict(Verdict::Block),
        asm::verdict(Verdict::DropConnection),
        asm::verdict(Verdict::AllowConnection),
        asm::replace_ab(b"long"),
        asm::enforce(2, Verdict::Continue),
        asm::edits(&[(0, 1, b"<>")], Verdict::Permit),
        asm::fail(),
        asm::need(3),
        asm::later(3, Verdict::Permit),
        asm::inject_data(1, false, b"own", 0, Verdict::Permit),
    ]
}

/// What comes of data that a link with this filter is shown, or no such link, with one behind it.
fn play(
    seed: u64,
    hook: Hook,
    link: Option<(&[u8], Option<LinkFilter>, bool)>,
    pieces: &[(bool, Vec<u8>)],
) -> ([Vec<u8>; 2], FlowState, Counters) {
    let bench = Bench::new(Config::random(seed));
    let link = link.map(|(code, filter, snapshot)| bench.shown(hook, code, OnError::Block, filter, snapshot));
    bench.link(hook, &asm::replace_ab(b"last"), OnError::Block);
    let flow = bench.flow(hook);
    for (receive, piece) in pieces {
        bench.sim.indicate(flow, Direction::BOTH[usize::from(*receive)], piece);
    }
    for direction in Direction::BOTH {
        bench.sim.fin(flow, direction);
    }
    let out = Direction::BOTH.map(|direction| bench.out(flow, direction));
    let seen =
        (out, bench.sim.flow_state(flow), link.map_or_else(Counters::default, |link| bench.counters(link)));
    bench.finish();
    seen
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn a_link_is_there_for_what_fits_its_filter_and_for_nothing_else(
        seed: u64,
        hook in prop::sample::select(&STREAMS[..]),
        program in 0..programs().len(),
        snapshot: bool,
        pieces in collection::vec((any::<bool>(), "[abx]{1,12}".prop_map(String::into_bytes)), 1..10),
    ) {
        let code = &programs()[program][..];
        let with = |filter| play(seed, hook, Some((code, filter, snapshot)), &pieces);
        prop_assert_eq!(with(Some(port(THEIRS))), with(None));
        prop_assert_eq!(with(Some(port(ANOTHER))), play(seed, hook, None, &pieces));
    }
}

#[test]
fn a_link_for_one_direction_is_shown_nothing_of_the_other() {
    for (way, blocked, passed) in [(0, OUT, IN), (1, IN, OUT)] {
        let bench = Bench::new(Config::default());
        let filter = LinkFilter { direction: Some(way), ..LinkFilter::default() };
        let link = bench.shown(STREAM, &asm::verdict(Verdict::Block), OnError::Block, Some(filter), false);
        let flow = bench.flow(STREAM);
        bench.sim.indicate(flow, blocked, b"gone");
        bench.sim.indicate(flow, passed, b"here");
        assert_eq!((bench.out(flow, blocked), bench.out(flow, passed)), (vec![], b"here".to_vec()));
        assert_eq!(bench.counters(link).runs, 1);
        bench.finish();
    }
}

#[test]
fn a_packet_that_a_link_is_kept_from_goes_to_the_next_one() {
    for hook in SENDS {
        let bench = Bench::new(Config::default());
        let first =
            bench.shown(hook, &asm::verdict(Verdict::Block), OnError::Block, Some(port(ANOTHER)), true);
        let second =
            bench.shown(hook, &asm::verdict(Verdict::Block), OnError::Block, Some(port(THEIRS)), false);
        let (local, mut remote) = ends(hook);
        assert_eq!(bench.send(&Packet::udp(local, remote, b"x")).0, SendOutcome::Blocked);
        remote.set_port(ANOTHER + 1);
        let (outcome, sent) = bench.send(&Packet::udp(local, remote, b"x"));
        assert!(outcome == SendOutcome::Permitted || sent.len() == 1, "{outcome:?}");
        assert_eq!([first, second].map(|link| bench.counters(link).runs), [0, 1]);
        bench.finish();
    }
}

#[test]
fn a_packet_that_can_be_shown_to_nobody_is_blocked_only_by_those_that_should_have_seen_it() {
    for (filter, errors, outcome) in
        [(port(ANOTHER), 0, SendOutcome::Permitted), (port(THEIRS), 1, SendOutcome::Blocked)]
    {
        let bench = Bench::new(Config::default());
        let hook = SENDS[0];
        let link = bench.shown(hook, &asm::verdict(Verdict::Permit), OnError::Block, Some(filter), false);
        let (local, remote) = ends(hook);
        let packet = Packet::tcp(local, remote, 0x10, 1, &vec![0; MAX_WINDOW]);
        assert_eq!(bench.send(&packet).0, outcome);
        assert_eq!(bench.counters(link).errors, errors);
        bench.finish();
    }
}

#[test]
fn a_filter_stays_with_its_link_whatever_becomes_of_that() {
    let bench = Bench::new(Config::default());
    let block = asm::verdict(Verdict::Block);
    let link = bench.shown(STREAM, &block, OnError::Block, Some(port(ANOTHER)), false);
    let shows = |what: &str| {
        let flow = bench.flow(STREAM);
        bench.sim.indicate(flow, OUT, b"here");
        assert_eq!(bench.out(flow, OUT), b"here", "{what}");
        bench.sim.close_flow(flow);
    };
    shows("as attached");
    let program = bench.program(STREAM, &block);
    parse_reply::<()>(&bench.ask(&LinkReplace { link, program })).expect("it fits");
    shows("with another program");
    bench.commit(&[Change::Move { link, priority: 9 }]).expect("it exists");
    shows("at another place");
    bench.try_in(link, STREAM, &block, &[], TrialMode::Shadow);
    shows("with a shadow");
    assert_eq!(bench.trial(link).runs, 0);
    bench.end_trial(link);
    let all = TrialMode::Canary { percent: 100, max_errors: 1_000, min_runs: 1 };
    bench.try_in(link, STREAM, &block, &[], all);
    shows("with a canary");
    assert_eq!(bench.counters(link).runs, 0);
    bench.finish();
}

#[test]
fn addresses_are_those_of_the_data() {
    for (address, prefix, runs) in [([192, 0, 2, 7], 32, 1), ([192, 0, 2, 0], 24, 1), ([192, 0, 3, 0], 24, 0)]
    {
        let bench = Bench::new(Config::default());
        let mut bytes = [0; 16];
        bytes[..4].copy_from_slice(&address);
        let net = Some(Net { family: 4, prefix, address: bytes });
        let filter =
            LinkFilter { remote: EndFilter { net, ..EndFilter::default() }, ..LinkFilter::default() };
        let link = bench.shown(STREAM, &asm::verdict(Verdict::Permit), OnError::Block, Some(filter), false);
        let flow = bench.flow(STREAM);
        bench.sim.indicate(flow, OUT, b"x");
        assert_eq!(bench.counters(link).runs, runs, "{address:?}/{prefix}");
        bench.finish();
    }
}

#[test]
fn a_link_that_is_kept_from_data_has_it_neither_copied_nor_blocked_for_want_of_a_copy() {
    // The end of a direction that comes together with bytes, and a packet that nothing may take the place of: neither can be copied.
    for (filter, passes) in [(port(ANOTHER), true), (port(THEIRS), false)] {
        let bench = Bench::new(Config::default());
        let link = bench.shown(STREAM, &asm::verdict(Verdict::Permit), OnError::Block, Some(filter), true);
        let flow = bench.flow(STREAM);
        bench.sim.indicate_with(flow, OUT, b"last", FWPS_STREAM_FLAG::SEND_DISCONNECT);
        assert_eq!(bench.out(flow, OUT) == b"last", passes);
        assert_eq!(bench.counters(link).errors, u64::from(!passes));
        bench.finish();

        let bench = Bench::new(Config::default());
        let hook = SENDS[0];
        let link = bench.shown(hook, &asm::verdict(Verdict::Permit), OnError::Block, Some(filter), true);
        let (local, remote) = ends(hook);
        let list = Packet { segment: 1, ..Packet::udp(local, remote, b"x") };
        assert_eq!(bench.send(&list).0 == SendOutcome::Permitted, passes);
        assert_eq!(bench.counters(link).errors, u64::from(!passes));
        bench.finish();
    }
}

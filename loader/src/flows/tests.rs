//! Any way that a network and a capture can treat a stream must leave its bytes as they were.

use std::net::SocketAddr;
use std::time::Duration;

use proptest::prelude::*;
use proptest::sample::Index;

use super::*;

const CLIENT: &str = "10.0.0.2:40000";
const SERVER: &str = "192.0.2.1:443";

fn address(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

/// A TCP packet in the making: flags by their letters.
fn packet(from: &str, to: &str, sequence: u32, flags: &str, bytes: &[u8]) -> Packet {
    let flags = Flags {
        syn: flags.contains('S'),
        fin: flags.contains('F'),
        rst: flags.contains('R'),
        psh: flags.contains('P'),
        ack: flags.contains('A'),
    };
    Packet {
        frame: 0,
        time: Duration::ZERO,
        source: address(from),
        destination: address(to),
        transport: Transport::Tcp { sequence, flags },
        header: Vec::new(),
        payload: bytes.to_vec(),
        cut: 0,
    }
}

fn client(sequence: u32, flags: &str, bytes: &[u8]) -> Packet {
    packet(CLIENT, SERVER, sequence, flags, bytes)
}

fn server(sequence: u32, flags: &str, bytes: &[u8]) -> Packet {
    packet(SERVER, CLIENT, sequence, flags, bytes)
}

fn capture(packets: impl IntoIterator<Item = Packet>) -> Capture {
    let numbered = packets.into_iter().zip(1..).map(|(packet, frame)| Packet { frame, ..packet });
    Capture { packets: numbered.collect(), ..Capture::default() }
}

fn only(packets: impl IntoIterator<Item = Packet>) -> Connection {
    let mut all = connections(&capture(packets), &[]);
    assert_eq!(all.len(), 1, "one connection");
    all.remove(0)
}

/// Events in short: `>` outbound, `<` inbound, `!n` bytes missed, then the bytes, FIN or RST.
fn story(connection: &Connection) -> Vec<String> {
    let tell = |Event { step, .. }: &Event| {
        let arrow = if step.direction == Direction::Outbound { ">" } else { "<" };
        let missed = if step.missed > 0 { format!("!{} ", step.missed) } else { String::new() };
        let what = match &step.kind {
            Kind::Data { bytes, .. } => String::from_utf8_lossy(bytes).into_owned(),
            Kind::Fin => "FIN".to_string(),
            Kind::Reset => "RST".to_string(),
        };
        format!("{arrow} {missed}{what}")
    };
    connection.events.iter().map(tell).collect()
}

#[test]
fn a_connection_is_told_in_the_order_of_the_capture() {
    let connection = only([
        client(100, "S", b""),
        server(500, "SA", b""),
        client(101, "A", b""),
        client(101, "PA", b"hello"),
        server(501, "PA", b"hi"),
        client(106, "FA", b"bye"),
        server(503, "FA", b""),
    ]);
    assert_eq!(story(&connection), ["> hello", "< hi", "> bye", "> FIN", "< FIN"]);
    assert_eq!(connection.opened, Direction::Outbound);
    assert_eq!(connection.notes, Notes::default());
}

#[test]
fn whoever_opens_is_local_unless_told_otherwise() {
    let capture = capture([client(1, "S", b""), server(1, "SA", b""), client(2, "A", b"x")]);
    let server_is_here = [address(SERVER).ip()];
    let seen = &connections(&capture, &server_is_here)[0];
    assert_eq!((seen.local, seen.opened), (address(SERVER), Direction::Inbound));
    assert_eq!(story(seen), ["< x"]);
    // Both ends here, as on loopback, or neither: the opener.
    for local in [vec![], vec![address(CLIENT).ip(), address(SERVER).ip()], vec![address("192.0.2.9:1").ip()]]
    {
        let seen = &connections(&capture, &local)[0];
        assert_eq!((seen.local, seen.opened), (address(CLIENT), Direction::Outbound));
    }
    // The SYN was not captured, the answer to it was.
    let seen = only([server(1, "SA", b""), client(2, "A", b"x")]);
    assert_eq!(seen.local, address(CLIENT));
}

#[test]
fn bytes_behind_a_hole_wait_only_for_what_will_come() {
    // The hole's first half comes later, its second half never.
    let connection =
        only([client(0, "S", b""), client(1, "A", b"ab"), client(9, "A", b"ij"), client(3, "A", b"cde")]);
    assert_eq!(story(&connection), ["> ab", "> cde", "> !3 ij"]);
    assert_eq!((connection.notes.missing, connection.notes.out_of_order), (3, 1));
}

#[test]
fn a_hole_that_is_never_filled_does_not_hold_anything_back() {
    let connection = only([
        client(0, "S", b""),
        client(1, "A", b"ab"),
        client(5, "A", b"ef"),
        server(0, "A", b"answer"),
        client(7, "A", b"gh"),
        client(20, "FA", b""),
    ]);
    assert_eq!(story(&connection), ["> ab", "> !2 ef", "< answer", "> gh", "> !11 FIN"]);
}

#[test]
fn a_cut_packet_leaves_a_hole() {
    let cut = Packet { cut: 4, ..client(1, "A", b"abcd") };
    let connection = only([client(0, "S", b""), cut, client(9, "A", b"ij")]);
    assert_eq!(story(&connection), ["> abcd", "> !4 ij"]);
}

#[test]
fn the_first_bytes_captured_win_and_a_contradiction_is_reported() {
    let connection = only([
        client(0, "S", b""),
        client(4, "A", b"DEF"),
        client(1, "A", b"abcdefgh"),
        client(1, "A", b"abc"),
    ]);
    assert_eq!(connection.bytes(Direction::Outbound), b"abcDEFgh");
    assert_eq!((connection.notes.conflicts, connection.notes.retransmitted), (1, 6));
}

#[test]
fn keep_alives_are_no_data() {
    let connection = only([
        client(0, "S", b""),
        client(1, "A", b"abc"),
        client(3, "A", b"\0"),
        client(3, "A", b""),
        client(4, "A", b"d"),
    ]);
    assert_eq!(story(&connection), ["> abc", "> d"]);
    assert_eq!(connection.notes, Notes { keep_alives: 2, ..Notes::default() });
}

#[test]
fn data_on_the_syn_counts() {
    assert_eq!(story(&only([client(7, "S", b"fast"), client(12, "A", b" open")])), ["> fast", ">  open"]);
}

#[test]
fn a_connection_may_begin_before_the_capture() {
    let connection = only([client(700, "A", b"late"), server(90, "A", b"yes"), client(704, "FA", b"")]);
    assert_eq!(story(&connection), ["> late", "< yes", "> FIN"]);
    assert!(connection.notes.mid_stream);
}

#[test]
fn a_reset_ends_both_directions() {
    let connection =
        only([client(0, "S", b""), client(1, "A", b"a"), server(5, "R", b""), client(2, "A", b"b")]);
    assert_eq!(story(&connection), ["> a", "< RST"]);
    assert_eq!(connection.notes.stray, 1);
}

#[test]
fn ports_that_are_used_again_make_another_connection() {
    let packets = [
        client(0, "S", b""),
        client(0, "S", b""),
        client(1, "FA", b"one"),
        client(90_000_000, "S", b""),
        client(90_000_001, "A", b"two"),
    ];
    let all = connections(&capture(packets), &[]);
    assert_eq!(all.iter().map(story).collect::<Vec<_>>(), [vec!["> one", "> FIN"], vec!["> two"]]);
}

#[test]
fn a_sequence_number_from_nowhere_is_ignored() {
    let connection = only([
        client(0, "S", b""),
        client(1, "A", b"a"),
        client(0x7000_0000, "A", b"?"),
        client(2, "A", b"b"),
    ]);
    assert_eq!(connection.bytes(Direction::Outbound), b"ab");
    assert_eq!(connection.notes.stray, 1);
}

/// A stream in segments that overlap, come twice and in any order; every byte is in at least one.
fn mangled() -> impl Strategy<Value = (Vec<u8>, u32, Vec<(usize, usize)>)> {
    (prop::collection::vec(any::<u8>(), 1..400), any::<u32>(), 0..64u32).prop_flat_map(
        |(stream, isn, near)| {
            // Every other case wraps around within the stream.
            let isn = if isn % 2 == 0 { u32::MAX - near } else { isn };
            let length = stream.len();
            let cuts = prop::collection::vec(any::<Index>(), 0..12);
            let again = prop::collection::vec((any::<Index>(), 1..60usize), 0..12);
            let segments = (cuts, again).prop_map(move |(cuts, again)| {
                let mut at: Vec<usize> =
                    cuts.iter().map(|cut| cut.index(length)).chain([0, length]).collect();
                at.sort_unstable();
                let once = at.windows(2).map(|pair| (pair[0], pair[1]));
                let again = again.iter().map(|(from, size)| (from.index(length), *size));
                let again = again.map(|(from, size)| (from, (from + size).min(length)));
                once.chain(again).filter(|(from, to)| from < to).collect::<Vec<_>>()
            });
            (Just(stream), Just(isn), segments.prop_shuffle())
        },
    )
}

proptest! {
    #[test]
    fn every_way_to_send_a_stream_gives_the_same_bytes(
        (stream, isn, segments) in mangled(),
        syn_at in any::<Index>(),
        fin_at in any::<Index>(),
    ) {
        let first = isn.wrapping_add(1);
        let position = |at: usize| first.wrapping_add(at as u32);
        let mut packets: Vec<_> =
            segments.iter().map(|(from, to)| client(position(*from), "A", &stream[*from..*to])).collect();
        packets.insert(syn_at.index(packets.len() + 1), client(isn, "S", b""));
        packets.insert(fin_at.index(packets.len() + 1), client(position(stream.len()), "FA", b""));
        let connection = only(packets);
        prop_assert_eq!(connection.bytes(Direction::Outbound), stream);
        prop_assert_eq!(&connection.events.last().expect("an end").step.kind, &Kind::Fin);
        prop_assert!(connection.events.iter().all(|event| event.step.missed == 0));
        prop_assert_eq!(connection.notes.conflicts, 0);
    }

    #[test]
    fn of_segments_that_contradict_each_other_the_first_wins(
        isn in any::<u32>(),
        segments in prop::collection::vec((0..60usize, prop::collection::vec(any::<u8>(), 2..30)), 1..12),
    ) {
        let mut expected = [None; 100];
        for (at, bytes) in &segments {
            for (place, byte) in expected[*at..].iter_mut().zip(bytes) {
                place.get_or_insert(*byte);
            }
        }
        // The bytes that nobody sent are what the events miss.
        let mut shown = [None; 100];
        let first = isn.wrapping_add(1);
        let data = segments.iter().map(|(at, bytes)| client(first.wrapping_add(*at as u32), "A", bytes));
        let connection = only([client(isn, "S", b"")].into_iter().chain(data));
        let mut at = 0;
        for Event { step, .. } in &connection.events {
            at += step.missed as usize;
            let Kind::Data { bytes, .. } = &step.kind else { panic!("only data was sent") };
            for byte in bytes {
                shown[at] = Some(*byte);
                at += 1;
            }
        }
        prop_assert_eq!(shown, expected);
    }

    #[test]
    fn no_sequence_of_segments_is_too_strange(
        packets in prop::collection::vec(
            (any::<bool>(), any::<u32>(), "[SFRPA]{0,3}", prop::collection::vec(any::<u8>(), 0..4), 0..3usize),
            0..20,
        ),
    ) {
        let strange = packets.iter().map(|(from_client, sequence, flags, bytes, cut)| {
            let packet = if *from_client { client } else { server }(*sequence, flags, bytes);
            Packet { cut: *cut, ..packet }
        });
        let sent: usize = packets.iter().map(|(_, _, _, bytes, _)| bytes.len()).sum();
        let all = connections(&capture(strange), &[]);
        let told = |connection: &Connection| {
            Direction::ALL.iter().map(|direction| connection.bytes(*direction).len()).sum::<usize>()
        };
        prop_assert!(all.iter().map(told).sum::<usize>() <= sent, "bytes out of nowhere");
    }
}

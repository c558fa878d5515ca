//! A capture is never believed: whatever the bytes, the packets that are there come out and the rest is told.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use proptest::prelude::*;
use proptest::sample::Index;

use super::*;

fn examples() -> Vec<(PathBuf, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/captures");
    let entries =
        std::fs::read_dir(folder).expect("examples/captures").map(|entry| entry.expect("an entry").path());
    let captures = entries.filter(|path| path.extension().is_some_and(|extension| extension == "pcap"));
    captures.map(|path| (path.clone(), std::fs::read(path).expect("a capture"))).collect()
}

fn sample() -> Vec<u8> {
    let mut writer = CaptureWriter::new();
    let v4 = ("10.0.0.2:40000", "192.0.2.1:443");
    let v6 = ("[fd00::2]:40000", "[2001:db8::1]:443");
    for (at, (from, to)) in [v4, v6].into_iter().enumerate() {
        let (from, to): (SocketAddr, SocketAddr) = (from.parse().expect("from"), to.parse().expect("to"));
        let flags = Flags { psh: true, ack: true, ..Flags::default() };
        writer.tcp(Duration::from_millis(at as u64 * 1500), from, to, (7, 9), flags, b"payload");
    }
    writer.into_bytes()
}

/// The bytes of the records of a pcap file in this machine's byte order, without the 16-byte headers.
fn records(file: &[u8]) -> Vec<&[u8]> {
    let mut rest = &file[24..];
    let mut found = Vec::new();
    while let Some((header, behind)) = rest.split_at_checked(16) {
        let length = u32::from_le_bytes(header[8..12].try_into().expect("four bytes")) as usize;
        found.push(&behind[..length]);
        rest = &behind[length..];
    }
    found
}

fn pcap(link: u32, big_endian: bool, packets: &[Vec<u8>]) -> Vec<u8> {
    let word = |number: u32| if big_endian { number.to_be_bytes() } else { number.to_le_bytes() };
    let half = |number: u16| if big_endian { number.to_be_bytes() } else { number.to_le_bytes() };
    let mut file = word(0xa1b2_3c4d).to_vec();
    file.extend([half(2), half(4)].concat());
    file.extend([word(0), word(0), word(65_535), word(link)].concat());
    for packet in packets {
        let length = packet.len() as u32;
        file.extend([word(1), word(2), word(length), word(length)].concat());
        file.extend(packet);
    }
    file
}

/// A pcapng file with one interface and enhanced packet blocks.
fn pcapng(link: u16, packets: &[Vec<u8>]) -> Vec<u8> {
    let block = |kind: u32, mut body: Vec<u8>| {
        body.resize(body.len().next_multiple_of(4), 0);
        let length = (body.len() as u32 + 12).to_le_bytes();
        [&kind.to_le_bytes()[..], &length, &body, &length].concat()
    };
    let words = |words: &[u32]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>();
    let mut file = block(0x0a0d_0d0a, words(&[0x1a2b_3c4d, 1, u32::MAX, u32::MAX]));
    file.extend(block(1, words(&[u32::from(link), 0])));
    for packet in packets {
        let length = packet.len() as u32;
        file.extend(block(6, [words(&[0, 0, 3_000_000, length, length + 5]), packet.clone()].concat()));
    }
    file
}

#[test]
fn what_is_written_is_read_back() {
    let capture = Capture::parse(&sample()).expect("a capture");
    assert_eq!(capture.notes, Notes { frames: 2, ..Notes::default() });
    let [v4, v6] = &capture.packets[..] else { panic!("two packets") };
    assert_eq!(
        (v4.frame, v4.source, v4.payload.as_slice()),
        (1, "10.0.0.2:40000".parse().unwrap(), &b"payload"[..])
    );
    assert_eq!((v6.frame, v6.destination), (2, "[2001:db8::1]:443".parse().unwrap()));
    assert_eq!(v6.time, Duration::from_millis(1500));
    let flags = Flags { psh: true, ack: true, ..Flags::default() };
    assert_eq!(v4.transport, Transport::Tcp { sequence: 7, flags });
}

#[test]
fn written_packets_have_right_checksums() {
    let file = sample();
    for packet in records(&file) {
        let headers = etherparse::SlicedPacket::from_ip(packet).expect("an IP packet");
        let Some(etherparse::TransportSlice::Tcp(tcp)) = headers.transport else { panic!("a segment") };
        match headers.net.expect("an IP header") {
            etherparse::NetSlice::Ipv4(ip) => {
                let header = ip.header();
                assert_eq!(header.header_checksum(), header.to_header().calc_header_checksum());
                assert_eq!(
                    tcp.checksum(),
                    tcp.calc_checksum_ipv4(header.source(), header.destination()).unwrap()
                );
            }
            etherparse::NetSlice::Ipv6(ip) => {
                let (from, to) = (ip.header().source(), ip.header().destination());
                assert_eq!(tcp.checksum(), tcp.calc_checksum_ipv6(from, to).unwrap());
            }
            etherparse::NetSlice::Arp(_) => panic!("no ARP was written"),
        }
    }
}

#[test]
fn a_packet_that_is_longer_than_its_header_can_say_is_written_and_read_whole() {
    for (from, to) in [("10.0.0.1", "10.0.0.2"), ("fd00::1", "fd00::2")] {
        let (from, to): (IpAddr, IpAddr) = (from.parse().unwrap(), to.parse().unwrap());
        let mut bytes = [9_u16, 53, 0, 0].map(u16::to_be_bytes).concat();
        bytes.extend(vec![7; 70_000]);
        let mut writer = CaptureWriter::new();
        writer.transport(Duration::ZERO, from, to, 17, bytes);
        let capture = Capture::parse(&writer.into_bytes()).expect("a capture");
        let packet = &capture.packets[0];
        assert_eq!((packet.source.ip(), packet.destination.port()), (from, 53), "{:?}", capture.notes);
        assert_eq!((packet.payload.len(), packet.cut), (70_000, 0));
    }
}

#[test]
fn every_link_type_and_format_carries_the_same_packet() {
    let file = sample();
    let ip = records(&file)[0].to_vec();
    let behind = |header: &[u8]| vec![[header, &ip].concat()];
    let ethernet = b"\0\0\0\0\0\x01\0\0\0\0\0\x02\x08\0";
    let vlan = b"\0\0\0\0\0\x01\0\0\0\0\0\x02\x81\0\0\x05\x08\0";
    let cooked = b"\0\x04\0\x01\0\x06\0\0\0\0\0\0\0\0\x08\0";
    let cooked2 = b"\x08\0\0\0\0\0\0\x01\0\x01\x04\x06\0\0\0\0\0\0\0\0";
    let files = [
        pcap(1, false, &behind(ethernet)),
        pcap(1, true, &behind(ethernet)),
        pcap(1, false, &behind(vlan)),
        pcap(0, false, &behind(&2_u32.to_ne_bytes())),
        pcap(108, false, &behind(&2_u32.to_be_bytes())),
        pcap(101, true, &behind(b"")),
        pcap(12, false, &behind(b"")),
        pcap(228, false, &behind(b"")),
        pcap(113, false, &behind(cooked)),
        pcap(276, false, &behind(cooked2)),
        // Four bits of the field announce frame check sequences.
        pcap(1 | 0x5000_0000, false, &behind(ethernet)),
        pcapng(1, &behind(ethernet)),
        pcapng(101, &behind(b"")),
    ];
    for (at, file) in files.iter().enumerate() {
        let capture = Capture::parse(file).expect("a capture");
        let [packet] = &capture.packets[..] else { panic!("file {at}: {:?}", capture.notes) };
        assert_eq!(packet.source, "10.0.0.2:40000".parse().unwrap(), "file {at}");
        assert_eq!((packet.payload.as_slice(), packet.cut), (&b"payload"[..], 0), "file {at}");
    }
    let time = |file: &[u8]| Capture::parse(file).expect("a capture").packets[0].time;
    assert_eq!(time(&files[0]), Duration::new(1, 2));
    assert_eq!(time(&files[11]), Duration::from_secs(3));
}

#[test]
fn what_is_left_out_is_counted_by_its_cause() {
    let file = sample();
    let ip = records(&file)[0].to_vec();
    let mut fragment = ip.clone();
    fragment[6] = 0x20;
    let mut icmp = ip.clone();
    icmp[9] = 1;
    let mut headless = ip.clone();
    headless.truncate(30);
    let notes =
        Capture::parse(&pcap(101, false, &[fragment, icmp, headless, ip, vec![0xff; 40]])).unwrap().notes;
    let expected = Notes { frames: 5, fragments: 1, other_protocols: 1, malformed: 2, ..Notes::default() };
    assert_eq!(notes, expected);
    let notes = Capture::parse(&pcap(147, false, &[vec![1, 2, 3]])).unwrap().notes;
    assert_eq!(notes.unknown_links, [(147, 1)].into());
    let arp = [&[0_u8; 12][..], b"\x08\x06", &[0; 28]].concat();
    assert_eq!(Capture::parse(&pcap(1, false, &[arp])).unwrap().notes.not_ip, 1);
}

#[test]
fn a_packet_that_was_cut_knows_what_it_lost() {
    let file = sample();
    let cut = records(&file)[0][..44].to_vec();
    let capture = Capture::parse(&pcapng(101, &[cut])).expect("a capture");
    assert_eq!((capture.packets[0].payload.as_slice(), capture.packets[0].cut), (&b"payl"[..], 3));
    assert_eq!(capture.notes.cut, 1);
    assert!(capture.notes.to_string().starts_with("1 of 1 packets are cut"), "{}", capture.notes);
}

#[test]
fn what_is_no_capture_is_refused() {
    for bytes in [&b""[..], b"ELF", b"\x7fELF\x02\x01\x01", b"\x0a\x0d\x0d\x0a", &sample()[..23]] {
        assert!(Capture::parse(bytes).is_err(), "{bytes:?}");
    }
    assert!(Capture::parse(&sample()[..24]).expect("no packets are a capture").packets.is_empty());
}

#[test]
fn every_example_is_read_whole() {
    let examples = examples();
    assert!(!examples.is_empty());
    for (path, bytes) in examples {
        let notes = Capture::parse(&bytes).expect("a capture").notes;
        assert_eq!(notes, Notes { frames: notes.frames, ..Notes::default() }, "{}", path.display());
    }
}

#[test]
fn a_file_cut_anywhere_gives_the_packets_before_the_cut() {
    for (path, bytes) in examples() {
        let whole = Capture::parse(&bytes).expect("a capture").packets;
        for end in (24..bytes.len()).step_by(7) {
            let cut = Capture::parse(&bytes[..end]).expect("a capture, cut");
            assert_eq!(cut.packets, whole[..cut.packets.len()], "{} at {end}", path.display());
            let told: usize = cut.packets.iter().map(|packet| packet.payload.len()).sum();
            assert!(told < end, "{} at {end}", path.display());
        }
    }
}

proptest! {
    #[test]
    fn flipped_bits_never_do_more_than_change_what_is_read(
        example in any::<Index>(),
        flips in prop::collection::vec((any::<Index>(), 0..8u32), 1..8),
    ) {
        let examples = examples();
        let mut bytes = example.get(&examples).1.clone();
        for (at, bit) in flips {
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
        }
        if let Ok(capture) = Capture::parse(&bytes) {
            prop_assert!(capture.packets.len() as u64 <= capture.notes.frames);
            for connection in crate::flows::connections(&capture, &[]) {
                let kept: usize = capture.packets.iter().map(|packet| packet.payload.len()).sum();
                let told = connection.bytes(crate::flows::Direction::Outbound).len();
                prop_assert!(told <= kept);
            }
        }
    }

    #[test]
    fn no_bytes_are_too_strange(
        start in prop::sample::select(vec![pcapng(1, &[]), pcap(1, false, &[]), pcap(113, true, &[]), vec![]]),
        rest in prop::collection::vec(any::<u8>(), 0..400),
    ) {
        let _ = Capture::parse(&[start, rest].concat());
    }

    #[test]
    fn no_pcapng_block_is_too_strange(
        kind in prop::sample::select(vec![1_u32, 2, 3, 4, 5, 6, 9, 10, 0xbad, 0x4000_0bad, 0x8000_0001, 0x0a0d_0d0a]),
        body in prop::collection::vec(any::<u8>(), 0..80),
        honest in any::<bool>(),
    ) {
        let length = if honest { body.len().next_multiple_of(4) as u32 + 12 } else { 12 };
        let mut block = [&kind.to_le_bytes()[..], &length.to_le_bytes(), &body].concat();
        block.resize(block.len().next_multiple_of(4), 0);
        block.extend(length.to_le_bytes());
        let _ = Capture::parse(&[pcapng(1, &[]), block].concat());
    }
}

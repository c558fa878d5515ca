//! Layers of what is sent: verdicts, edited packets and what they are sent with, lists of several packets.

use std::net::{IpAddr, SocketAddr};
use std::vec;
use std::vec::Vec;

use fwps_sim::{Call, Checksum, Config, Filter, Packet, SendOutcome, Sent, Split, When};
use fwps_sys::{FWPS_FILTER_FLAG, NTSTATUS};
use proptest::collection;
use proptest::prelude::*;
use tidegate_abi::control::OnError;
use tidegate_abi::limits::MAX_WINDOW;
use tidegate_abi::{Hook, Verdict, helper};

use super::{Bench, DATAGRAMS, ICMP_ERRORS, SENDS, asm, ends};
use crate::key;
use crate::layer::LAYERS;

fn udp(hook: Hook, payload: &[u8]) -> Packet {
    let (local, remote) = ends(hook);
    Packet::udp(local, remote, payload)
}

fn tcp(hook: Hook, payload: &[u8]) -> Packet {
    let (local, remote) = ends(hook);
    Packet::tcp(local, remote, 0x18, 1, payload)
}

fn icmp(hook: Hook, payload: &[u8]) -> Packet {
    let (local, remote) = ends(hook);
    let (protocol, kind) = if local.is_ipv4() { (1, 8) } else { (58, 128) };
    let buffer = [&[kind, 0, 0, 0, 0, 1, 0, 1], payload].concat();
    Packet::transport(protocol, local, remote, vec![buffer])
}

/// Runs `check` for both families.
fn everywhere(check: impl Fn(&Bench, Hook)) {
    at(SENDS, check);
}

/// Runs `check` for both families and both layers that show datagrams.
fn for_datagrams(check: impl Fn(&Bench, Hook)) {
    at(SENDS.into_iter().chain(DATAGRAMS), check);
}

fn at(hooks: impl IntoIterator<Item = Hook>, check: impl Fn(&Bench, Hook)) {
    for hook in hooks {
        let bench = Bench::new(Config::default());
        check(&bench, hook);
        bench.finish();
    }
}

/// The payloads of packets whose transport header has this size, each injected or not and right on the wire.
fn payloads(sent: &[Sent], header: usize, injected: bool) -> Vec<&[u8]> {
    for packet in sent {
        assert_eq!(packet.injected, injected);
        assert!(packet.checksum_ok, "{packet:?}");
    }
    sent.iter().map(|packet| &packet.bytes[header..]).collect()
}

#[test]
fn without_links_and_with_permission_packets_go_as_they_are() {
    for verdict in [None, Some(Verdict::Permit), Some(Verdict::Continue)] {
        everywhere(|bench, hook| {
            if let Some(verdict) = verdict {
                bench.link(hook, &asm::verdict(verdict), OnError::Block);
            }
            for (packet, header) in
                [(udp(hook, b"data"), 8), (tcp(hook, b"data"), 20), (icmp(hook, b"data"), 8)]
            {
                let (outcome, sent) = bench.send(&packet);
                assert_eq!(outcome, SendOutcome::Permitted);
                assert_eq!(payloads(&sent, header, false), [b"data"]);
            }
        });
    }
}

#[test]
fn a_block_is_seen_by_the_sender() {
    everywhere(|bench, hook| {
        bench.link(hook, &asm::verdict(Verdict::Block), OnError::Block);
        for packet in [udp(hook, b"data"), tcp(hook, b"data"), icmp(hook, b"data")] {
            assert_eq!(bench.send(&packet), (SendOutcome::Blocked, vec![]));
        }
    });
}

#[test]
fn an_edited_datagram_goes_out_right_however_its_checksum_was() {
    for checksum in [Checksum::Full, Checksum::Offloaded, Checksum::Zero] {
        for_datagrams(|bench, hook| {
            if checksum == Checksum::Zero && ends(hook).0.is_ipv6() {
                return;
            }
            let link = bench.link(hook, &asm::edits(&[(9, 2, b"longer")], Verdict::Permit), OnError::Block);
            let packet = Packet { checksum, ..udp(hook, b"data") };
            let (outcome, sent) = bench.send(&packet);
            assert_eq!(outcome, SendOutcome::Absorbed);
            assert_eq!(payloads(&sent, 8, true), [b"dlongera"]);
            assert_eq!(sent[0].bytes[4..6], [0, 16]);
            assert_ne!(sent[0].bytes[6..8], [0, 0]);
            let counters = bench.counters(link);
            assert_eq!((counters.runs, counters.edited, counters.errors), (1, 1, 0));
        });
    }
}

#[test]
fn an_edited_icmp_message_goes_out_right() {
    for_datagrams(|bench, hook| {
        bench.link(hook, &asm::edits(&[(8, 4, b"x")], Verdict::Continue), OnError::Block);
        let (outcome, sent) = bench.send(&icmp(hook, b"data"));
        assert_eq!(outcome, SendOutcome::Absorbed);
        assert_eq!(payloads(&sent, 8, true), [b"x"]);
    });
}

#[test]
fn a_segment_is_edited_in_its_length_and_sent_by_the_worker() {
    for checksum in [Checksum::Full, Checksum::Offloaded] {
        everywhere(|bench, hook| {
            let link = bench.link(hook, &asm::edits(&[(20, 2, b"DA")], Verdict::Permit), OnError::Block);
            for _ in 0..3 {
                let (outcome, sent) = bench.send(&Packet { checksum, ..tcp(hook, b"data") });
                assert_eq!(outcome, SendOutcome::Absorbed);
                assert_eq!(payloads(&sent, 20, true), [b"DAta"]);
            }
            assert_eq!(bench.counters(link).edited, 3);
        });
    }
}

#[test]
fn an_edit_that_would_change_the_length_of_a_segment_is_refused_when_it_is_made() {
    everywhere(|bench, hook| {
        let link = bench.link(hook, &asm::edit_or_block(20, 2, b"x"), OnError::Permit);
        assert_eq!(bench.send(&tcp(hook, b"data")).0, SendOutcome::Blocked);
        assert_eq!(bench.send(&udp(hook, b"data, and more of it")).0, SendOutcome::Absorbed);
        assert_eq!(bench.counters(link).errors, 0);
    });
}

#[test]
fn what_can_t_be_injected_is_not_edited() {
    for_datagrams(|bench, hook| {
        let link = bench.link(hook, &asm::edit_or_block(9, 1, b"x"), OnError::Permit);
        let (local, remote) = ends(hook);
        let stack = Packet { endpoint: false, ..udp(hook, b"data") };
        let unknown = Packet::transport(47, local, remote, vec![vec![0; 32]]);
        let segmented = Packet { segment: 1000, ..udp(hook, b"data") };
        for packet in [stack, unknown, segmented] {
            assert_eq!(bench.send(&packet), (SendOutcome::Blocked, vec![]));
        }
        assert_eq!(bench.counters(link).errors, 0);
    });
}

/// A raw socket's IP header in front of a UDP packet of so many bytes.
pub(super) fn raw_header(hook: Hook, len: usize) -> Vec<u8> {
    match ends(hook) {
        (SocketAddr::V4(local), SocketAddr::V4(remote)) => {
            let start = [&[0x45, 0], &(20 + len as u16).to_be_bytes()[..], &[0, 0, 0, 0, 64, 17, 0, 0]];
            [&start.concat()[..], &local.ip().octets(), &remote.ip().octets()].concat()
        }
        (SocketAddr::V6(local), SocketAddr::V6(remote)) => {
            let start = [&[0x60, 0, 0, 0][..], &(len as u16).to_be_bytes(), &[17, 64]];
            [&start.concat()[..], &local.ip().octets(), &remote.ip().octets()].concat()
        }
        _ => panic!("both ends are of one family"),
    }
}

/// The same with its checksum, where it has one.
pub(super) fn summed(mut header: Vec<u8>) -> Vec<u8> {
    if header.len() == 20 {
        let words = header.chunks(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])));
        let sum: u32 = words.sum();
        header[10..12].copy_from_slice(&(!((sum & 0xffff) + (sum >> 16)) as u16).to_be_bytes());
    }
    header
}

#[test]
fn a_raw_send_keeps_its_header_with_the_right_length_and_sum() {
    for_datagrams(|bench, hook| {
        let header = raw_header(hook, 12);
        let shown = if DATAGRAMS.contains(&hook) { 0 } else { header.len() };
        let edits = asm::edits(&[(shown as i32 + 9, 2, b"longer")], Verdict::Permit);
        bench.link(hook, &edits, OnError::Block);
        let packet = Packet { raw_ip_header: Some(header), ..udp(hook, b"data") };
        let (outcome, sent) = bench.send(&packet);
        assert_eq!(outcome, SendOutcome::Absorbed);
        assert_eq!(payloads(&sent, 8, true), [b"dlongera"]);
        assert_eq!(sent[0].header, summed(raw_header(hook, 16)));
    });
}

#[test]
fn a_raw_send_with_a_header_that_is_not_understood_is_an_error_of_who_edits_it() {
    for_datagrams(|bench, hook| {
        let mut header = raw_header(hook, 12);
        header[0] ^= 0x70;
        let shown = if DATAGRAMS.contains(&hook) { 0 } else { header.len() };
        let edits = asm::edits(&[(shown as i32 + 9, 1, b"x")], Verdict::Permit);
        let link = bench.link(hook, &edits, OnError::Block);
        let packet = Packet { raw_ip_header: Some(header), ..udp(hook, b"data") };
        assert_eq!(bench.send(&packet), (SendOutcome::Blocked, vec![]));
        assert_eq!(bench.counters(link).errors, 1);
    });
}

#[test]
fn the_envelope_of_a_raw_send_is_in_its_header() {
    for_datagrams(|bench, hook| {
        bench.link(hook, &asm::send_to(&[192, 0, 2, 9], 0, 0), OnError::Permit);
        let packet = Packet { raw_ip_header: Some(raw_header(hook, 12)), ..udp(hook, b"data") };
        assert_eq!(bench.send(&packet).0, SendOutcome::Blocked);
    });
}

#[test]
fn a_datagram_goes_to_another_address_with_a_sum_that_fits() {
    for_datagrams(|bench, hook| {
        let other: IpAddr =
            if ends(hook).0.is_ipv4() { "198.51.100.9" } else { "fd00::9" }.parse().expect("one");
        let address = match other {
            IpAddr::V4(v4) => v4.octets().to_vec(),
            IpAddr::V6(v6) => v6.octets().to_vec(),
        };
        let link = bench.link(hook, &asm::send_to(&address, 5353, 0xb8), OnError::Block);
        let control =
            [[20, 0, 0, 0, 0, 0, 0, 0].to_vec(), vec![0; 4], vec![99, 0, 0, 0], vec![1; 8]].concat();
        for before in [None, Some(control)] {
            let had = before.clone().unwrap_or_default();
            let (outcome, sent) = bench.send(&Packet { control_data: before, ..udp(hook, b"data") });
            assert_eq!(outcome, SendOutcome::Absorbed);
            assert_eq!(payloads(&sent, 8, true), [b"data"]);
            assert_eq!((sent[0].remote, &sent[0].bytes[2..4]), (other, &5353_u16.to_be_bytes()[..]));
            let after = sent[0].control_data.clone().expect("the type of service");
            assert_eq!(
                (after.len(), &after[..had.len()], after[had.len() + 16]),
                (had.len() + 24, &*had, 0xb8)
            );
        }
        assert_eq!(bench.counters(link).edited, 2);
        // A segment can't be sent elsewhere: its connection would not follow.
        if SENDS.contains(&hook) {
            assert_eq!(bench.send(&tcp(hook, b"data")).0, SendOutcome::Blocked);
        }
    });
}

#[test]
fn an_icmp_error_is_judged_and_edited_at_its_own_layer() {
    at(ICMP_ERRORS, |bench, hook| {
        let (mut local, mut remote) = ends(hook);
        local.set_port(3);
        remote.set_port(1);
        let error = Packet::icmp_error(local, remote, b"about this");
        let pass = bench.link(hook, &asm::verdict(Verdict::Permit), OnError::Block);
        assert_eq!(bench.send(&error).0, SendOutcome::Permitted);
        bench.detach(pass);
        let edit = bench.link(hook, &asm::edits(&[(8, 6, b"")], Verdict::Permit), OnError::Block);
        let (outcome, sent) = bench.send(&error);
        assert_eq!(outcome, SendOutcome::Absorbed);
        assert_eq!(payloads(&sent, 8, true), [b"this"]);
        assert_eq!(bench.counters(edit).edited, 1);
        // Datagrams are not errors.
        assert_eq!(bench.send(&udp(hook, b"data")).0, SendOutcome::Permitted);
        bench.detach(edit);
        bench.link(hook, &asm::verdict(Verdict::Block), OnError::Permit);
        assert_eq!(bench.send(&error), (SendOutcome::Blocked, vec![]));
    });
}

#[test]
fn a_datagram_is_asked_about_at_each_layer_until_one_replaces_it() {
    for (first, second) in DATAGRAMS.into_iter().zip(SENDS) {
        let bench = Bench::new(Config::default());
        let above = bench.link(first, &drop_n(Some(b"x")), OnError::Block);
        let below = bench.link(second, &asm::verdict(Verdict::Permit), OnError::Block);
        assert_eq!(bench.send(&udp(first, b"no")).0, SendOutcome::Blocked);
        assert_eq!(payloads(&bench.send(&udp(first, b"yes")).1, 8, true), [b"xes"]);
        bench.detach(above);
        assert_eq!(payloads(&bench.send(&udp(first, b"yes")).1, 8, false), [b"yes"]);
        assert_eq!(bench.counters(below).runs, 1);
        bench.finish();
    }
}

#[test]
fn an_edited_packet_is_sent_with_all_that_its_send_had() {
    for_datagrams(|bench, hook| {
        bench.link(hook, &asm::edits(&[(8, 1, b"D")], Verdict::Permit), OnError::Block);
        let control = (0..40).collect::<Vec<u8>>();
        let packet = Packet {
            control_data: Some(control.clone()),
            compartment: Some(3),
            scope_id: Some(7),
            ..udp(hook, b"data")
        };
        // Scope and compartment are compared by the engine's rules.
        let (_, sent) = bench.send(&packet);
        assert_eq!(payloads(&sent, 8, true), [b"Data"]);
        assert_eq!(sent[0].control_data.as_deref(), Some(&*control));
        assert_eq!(sent[0].remote, ends(hook).1.ip());
        let bare = Packet { compartment: None, scope_id: None, ..udp(hook, b"data") };
        assert_eq!(payloads(&bench.send(&bare).1, 8, true), [b"Data"]);
    });
}

#[test]
fn an_edit_that_leaves_no_whole_header_is_an_error() {
    for (on_error, outcome) in
        [(OnError::Block, SendOutcome::Blocked), (OnError::Permit, SendOutcome::Permitted)]
    {
        for_datagrams(|bench, hook| {
            let link = bench.link(hook, &asm::edits(&[(0, 5, b"")], Verdict::Permit), on_error);
            assert_eq!(bench.send(&udp(hook, b"data")).0, outcome);
            assert_eq!(bench.counters(link).errors, 1);
        });
    }
}

#[test]
fn a_clone_goes_in_the_place_of_a_blocked_packet() {
    let (clone, inject) = (helper::CLONE_NET_BUFFER_LIST, helper::INJECT_TRANSPORT_SEND);
    for_datagrams(|bench, hook| {
        let link = bench.link(hook, &asm::clone(clone, inject, 8, 1, b"D", Verdict::Block), OnError::Block);
        for (packet, header) in [(udp(hook, b"data"), 8), (icmp(hook, b"data"), 8)] {
            let (outcome, sent) = bench.send(&packet);
            assert_eq!(outcome, SendOutcome::Absorbed);
            assert_eq!(payloads(&sent, header, true), [b"Data"]);
        }
        assert_eq!((bench.counters(link).injected, bench.counters(link).edited), (2, 0));
    });
    for_datagrams(|bench, hook| {
        let beside = asm::clone(clone, inject, 8, 1, b"D", Verdict::Permit);
        assert_eq!(bench.refused(hook, &beside), "TG0603");
    });
}

#[test]
fn a_list_goes_as_it_is_when_every_packet_passes() {
    for_datagrams(|bench, hook| {
        let link = bench.link(hook, &asm::verdict(Verdict::Permit), OnError::Block);
        let (local, remote) = ends(hook);
        let (outcome, sent) = bench.send(&Packet::udp_batch(local, remote, &[b"one", b"two"]));
        assert_eq!(outcome, SendOutcome::Permitted);
        assert_eq!(payloads(&sent, 8, false), [b"one", b"two"]);
        assert_eq!(bench.counters(link).runs, 2);
    });
}

/// Drops packets with an `n` in them, and permits the others with the edits.
fn drop_n(edit: Option<&[u8]>) -> Vec<u8> {
    asm::drop_if_found(b'n', edit)
}

#[test]
fn each_packet_of_a_list_is_judged_on_its_own() {
    for_datagrams(|bench, hook| {
        bench.link(hook, &drop_n(None), OnError::Block);
        let (local, remote) = ends(hook);
        let list = Packet::udp_batch(local, remote, &[b"yes", b"yea", b"no", b"yes", b"nay", b"aye"]);
        let (outcome, sent) = bench.send(&list);
        assert_eq!(outcome, SendOutcome::Absorbed);
        assert_eq!(payloads(&sent, 8, true), [b"yes", b"yea", b"yes", b"aye"]);
        let none = Packet::udp_batch(local, remote, &[b"no", b"nay"]);
        assert_eq!(bench.send(&none), (SendOutcome::Blocked, vec![]));
    });
}

#[test]
fn the_segments_of_a_list_stay_in_order() {
    everywhere(|bench, hook| {
        bench.link(hook, &asm::edits(&[(20, 1, b"*")], Verdict::Permit), OnError::Block);
        let (local, remote) = ends(hook);
        let buffers =
            [&b"1st"[..], b"2nd", b"3rd"].map(|payload| tcp(hook, payload).buffers.remove(0)).to_vec();
        let (outcome, sent) = bench.send(&Packet::transport(6, local, remote, buffers));
        assert_eq!(outcome, SendOutcome::Absorbed);
        assert_eq!(payloads(&sent, 20, true), [b"*st", b"*nd", b"*rd"]);
    });
}

#[test]
fn a_list_that_can_t_be_injected_is_blocked_with_any_of_its_packets() {
    for_datagrams(|bench, hook| {
        bench.link(hook, &drop_n(None), OnError::Block);
        let (local, remote) = ends(hook);
        let list = Packet { endpoint: false, ..Packet::udp_batch(local, remote, &[b"yes", b"no", b"yes"]) };
        assert_eq!(bench.send(&list), (SendOutcome::Blocked, vec![]));
    });
}

#[test]
fn a_packet_larger_than_a_window_is_not_shown() {
    for (on_error, outcome) in
        [(OnError::Block, SendOutcome::Blocked), (OnError::Permit, SendOutcome::Permitted)]
    {
        everywhere(|bench, hook| {
            let link = bench.link(hook, &asm::verdict(Verdict::Permit), on_error);
            assert_eq!(bench.send(&tcp(hook, &vec![0; MAX_WINDOW])).0, outcome);
            assert_eq!((bench.counters(link).bytes_shown, bench.counters(link).errors), (0, 1));
            assert_eq!(bench.counts().oversized, 1);
        });
    }
}

#[test]
fn permit_is_hard_where_the_filter_says_so() {
    let bench = Bench::with_flags(Config::default(), FWPS_FILTER_FLAG::CLEAR_ACTION_RIGHT);
    bench.link(Hook::OutboundTransportV4, &asm::verdict(Verdict::Permit), OnError::Block);
    assert_eq!(bench.send(&udp(Hook::OutboundTransportV4, b"data")).0, SendOutcome::Permitted);
    bench.finish();
}

#[test]
fn behind_a_hard_permit_only_a_veto_is_left() {
    let bench = Bench::new(Config::default());
    let hook = Hook::OutboundTransportV4;
    // The same callout in a sublayer above, where its permit is hard.
    let above = Filter::at(LAYERS[hook.index()].id, key(hook))
        .context(bench.callouts.as_ref().expect("registered").context())
        .sublayer(0xf000)
        .flags(FWPS_FILTER_FLAG::CLEAR_ACTION_RIGHT);
    bench.sim.add_filter(above);
    let map = bench.counter();
    let link = bench.link_with(hook, &asm::permit_then_edit(), &[map], OnError::Permit);
    assert_eq!(bench.send(&udp(hook, b"data")), (SendOutcome::Blocked, vec![]));
    assert_eq!((bench.counters(link).runs, bench.counters(link).errors), (2, 0));
    bench.finish();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn edited_datagrams_come_out_as_on_a_string_whatever_the_layout_and_the_completions(
        seed: u64,
        hook in proptest::sample::select([SENDS, DATAGRAMS].concat()),
        payload in collection::vec(any::<u8>(), 1..300),
        wanted in collection::vec((0..12_usize, 0..12_usize, collection::vec(any::<u8>(), 0..40)), 1..6),
        offloaded: bool,
    ) {
        let bench = Bench::new(Config::random(seed));
        let mut at = 8;
        let mut program = Vec::new();
        for (gap, remove, new) in &wanted {
            if at + gap + remove > 8 + payload.len() {
                break;
            }
            program.push(((at + gap) as i32, *remove as i32, &**new));
            at += gap + remove;
        }
        let mut expected = payload.clone();
        for (offset, remove, new) in program.iter().rev() {
            let offset = *offset as usize - 8;
            expected.splice(offset..offset + *remove as usize, new.iter().copied());
        }
        let edited = program.iter().any(|(_, remove, new)| *remove > 0 || !new.is_empty());
        bench.link(hook, &asm::edits(&program, Verdict::Permit), OnError::Block);
        let checksum = if offloaded { Checksum::Offloaded } else { Checksum::Full };
        let (outcome, sent) = bench.send(&Packet { checksum, ..udp(hook, &payload) });
        prop_assert_eq!(outcome, if edited { SendOutcome::Absorbed } else { SendOutcome::Permitted });
        prop_assert_eq!(payloads(&sent, 8, edited), [&*expected]);
        bench.finish();
    }
}

#[test]
fn a_packet_in_pieces_is_shown_whole() {
    for split in [Split::Every(1), Split::Every(7), Split::Random] {
        let bench = Bench::new(Config { split, ..Config::default() });
        let hook = Hook::OutboundTransportV6;
        bench.link(hook, &drop_n(Some(b"!")), OnError::Block);
        assert_eq!(bench.send(&udp(hook, b"there is one")).0, SendOutcome::Blocked);
        assert_eq!(payloads(&bench.send(&udp(hook, b"yes")).1, 8, true), [b"!es"]);
        bench.finish();
    }
}

#[test]
fn a_judged_copy_that_is_refused_is_its_link_s_failure_and_no_reason_to_try_for_ever() {
    for (on_error, outcome) in
        [(OnError::Permit, SendOutcome::Permitted), (OnError::Block, SendOutcome::Blocked)]
    {
        for_datagrams(|bench, hook| {
            bench.snapshot(hook, &asm::verdict(Verdict::Permit), on_error);
            // One that fails open stands behind: that it could not edit does not undo what the first wants.
            bench.link(hook, &asm::edits(&[(9, 1, b"x")], Verdict::Permit), OnError::Permit);
            bench.sim.fail(Call::SendInject, When::Always, NTSTATUS::INSUFFICIENT_RESOURCES);
            assert_eq!(bench.send(&udp(hook, b"data")).0, outcome);
            bench.sim.heal();
        });
    }
}

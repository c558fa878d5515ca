//! What the outbound transport layers do with what callouts decide.

mod support;

use std::cell::RefCell;
use std::ffi::c_void;
use std::net::SocketAddr;
use std::rc::Rc;

use fwps_sim::{Checksum, Config, Filter, Packet, SendOutcome, Simulator};
use fwps_sys::*;
use support::*;

const REMOTE: [u8; 4] = [192, 0, 2, 53];

fn here() -> SocketAddr {
    "10.0.0.2:5353".parse().unwrap()
}

fn there() -> SocketAddr {
    (REMOTE, 53).into()
}

/// Runs a body over many layouts and orders.
fn over_all(mut body: impl FnMut(Config)) {
    (0..200).for_each(|seed| body(Config::random(seed)));
}

/// The one's complement sum of a UDP packet with its pseudo-header, written into the header.
fn fix_udp(bytes: &mut [u8], remote: [u8; 4]) {
    bytes[6..8].fill(0);
    let length = bytes.len() as u16;
    bytes[4..6].copy_from_slice(&length.to_be_bytes());
    let pseudo = [&[10, 0, 0, 2], &remote[..], &[0, 17], &length.to_be_bytes(), bytes].concat();
    let mut sum: u32 =
        pseudo.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    let sum = !(sum as u16);
    bytes[6..8].copy_from_slice(&if sum == 0 { 0xffff } else { sum }.to_be_bytes());
}

#[test]
fn packets_leave_as_they_were_sent() {
    let sim = Simulator::new(Config::default());
    for checksum in [Checksum::Full, Checksum::Offloaded, Checksum::Zero] {
        let id = sim.send(&Packet { checksum, ..Packet::udp(here(), there(), b"query") });
        let sent = sim.take_sent();
        assert_eq!(sim.outcome(id), Some(SendOutcome::Permitted));
        assert_eq!((sent.len(), &sent[0].bytes[8..], sent[0].origin), (1, &b"query"[..], Some(id)));
        assert!(sent[0].checksum_ok, "{checksum:?}");
    }
    let v6: SocketAddr = "[2001:db8::1]:1000".parse().unwrap();
    sim.send(&Packet { checksum: Checksum::Offloaded, ..Packet::tcp(v6, v6, 2, 1, b"") });
    assert!(sim.sent()[0].checksum_ok);
    sim.finish();
}

#[test]
fn callouts_read_values_of_their_layer_and_nothing_else() {
    over_all(|config| {
        let (sim, driver) = start(config, layer::OUTBOUND_TRANSPORT_V4, |shown| {
            use layer::outbound_transport as field;
            // SAFETY: the layer has these fields, with these types.
            unsafe {
                let value = |at: usize| (*shown.values.incomingValue.add(at)).value.data;
                assert_eq!(value(field::IP_PROTOCOL).uint8, 17);
                assert_eq!(value(field::IP_REMOTE_ADDRESS).uint32, u32::from_be_bytes(REMOTE));
                assert_eq!(value(field::IP_REMOTE_PORT).uint16, 53);
            }
            assert!(shown.metadata.has(FWPS_METADATA_FIELD::TRANSPORT_ENDPOINT_HANDLE));
            assert!(!shown.metadata.has(FWPS_METADATA_FIELD::PROCESS_ID));
            assert_eq!(&packet_bytes(shown.data)[8..], b"query");
            shown.decide(FWP_ACTION::PERMIT);
        });
        sim.send(&Packet::udp(here(), there(), b"query"));
        unload(&sim, driver);
        sim.finish();
    });
}

#[test]
fn blocked_packets_do_not_leave() {
    let (sim, driver) =
        start(Config::default(), layer::OUTBOUND_TRANSPORT_V4, |shown| shown.decide(FWP_ACTION::BLOCK));
    let id = sim.send(&Packet::udp_batch(here(), there(), &[b"one", b"two"]));
    assert_eq!(sim.outcome(id), Some(SendOutcome::Blocked));
    assert!(sim.sent().is_empty());
    unload(&sim, driver);
    sim.finish();
}

#[test]
fn a_rewritten_datagram_leaves_in_place_of_the_original() {
    over_all(|config| {
        let (sim, driver) = start(config, layer::OUTBOUND_TRANSPORT_V4, |shown| {
            if shown.injection_state() != FWPS_PACKET_INJECTION_STATE::NOT_INJECTED {
                return shown.decide(FWP_ACTION::PERMIT);
            }
            let mut bytes = packet_bytes(shown.data);
            bytes.truncate(8);
            bytes.extend(b"other name");
            fix_udp(&mut bytes, REMOTE);
            let status = send_inject(shown.sim, shown.metadata, REMOTE, &bytes, |_| ());
            assert_eq!(status, NTSTATUS::SUCCESS);
            shown.absorb();
        });
        let id = sim.send(&Packet { checksum: Checksum::Offloaded, ..Packet::udp(here(), there(), b"name") });
        sim.settle();
        let sent = sim.sent();
        assert_eq!(sim.outcome(id), Some(SendOutcome::Absorbed));
        assert_eq!((sent.len(), sent[0].injected, sent[0].checksum_ok), (1, true, true));
        assert_eq!(&sent[0].bytes[8..], b"other name");
        unload(&sim, driver);
        sim.finish();
    });
}

thread_local! {
    static LATER: RefCell<Option<Box<dyn FnOnce()>>> = RefCell::default();
}

unsafe extern "system" fn work(_: *mut c_void, item: *mut c_void) {
    let body = LATER.with(|later| later.borrow_mut().take());
    body.into_iter().for_each(|body| body());
    // SAFETY: the item frees itself when it has run.
    unsafe { IoFreeWorkItem(item) }
}

#[test]
fn tcp_is_cloned_and_injected_from_a_work_item() {
    over_all(|config| {
        let (sim, driver) = start(config, layer::OUTBOUND_TRANSPORT_V4, |shown| {
            if shown.injection_state() != FWPS_PACKET_INJECTION_STATE::NOT_INJECTED {
                return shown.decide(FWP_ACTION::PERMIT);
            }
            let (driver, metadata) = (*shown.sim, *shown.metadata);
            let bytes = packet_bytes(shown.data);
            // SAFETY: the device object is the simulator's.
            unsafe {
                let item = IoAllocateWorkItem(driver.device);
                let body = move || send_inject(&driver, &metadata, REMOTE, &bytes, |_| ()).ok().unwrap();
                LATER.with(|later| *later.borrow_mut() = Some(Box::new(body)));
                IoQueueWorkItem(item, Some(work), 1, item);
            }
            shown.absorb();
        });
        sim.send(&Packet::tcp(here(), there(), 0x18, 7, b"data"));
        sim.settle();
        let sent = sim.sent();
        assert_eq!((sent.len(), sent[0].injected, &sent[0].bytes[20..]), (1, true, &b"data"[..]));
        unload(&sim, driver);
        sim.finish();
    });
}

#[test]
fn sublayers_decide_from_the_heaviest_down_and_veto() {
    let sim = Simulator::new(Config::default());
    let seen = Rc::new(RefCell::new(Vec::new()));
    let note = |name: &'static str| {
        let seen = Rc::clone(&seen);
        move |shown: &Shown<'_>| {
            seen.borrow_mut().push((name, shown.out.rights.has(FWPS_RIGHT::ACTION_WRITE)));
        }
    };
    let (high, low) = (note("hard permit"), note("veto"));
    let permits = load(&sim, 1, FWP_CALLOUT_FLAG::NONE, move |shown| {
        high(shown);
        shown.out.actionType = FWP_ACTION::PERMIT;
        shown.out.rights = FWPS_RIGHT::NONE;
    });
    let vetoes = load(&sim, 2, FWP_CALLOUT_FLAG::NONE, move |shown| {
        low(shown);
        shown.decide(FWP_ACTION::BLOCK);
    });
    sim.add_filter(Filter::at(layer::OUTBOUND_TRANSPORT_V4, vetoes.key).sublayer(1));
    sim.add_filter(
        Filter::at(layer::OUTBOUND_TRANSPORT_V4, permits.key)
            .sublayer(9)
            .flags(FWPS_FILTER_FLAG::CLEAR_ACTION_RIGHT),
    );
    let id = sim.send(&Packet::udp(here(), there(), b"x"));
    assert_eq!(*seen.borrow(), [("hard permit", true), ("veto", false)]);
    assert_eq!(sim.outcome(id), Some(SendOutcome::Blocked));
    unload(&sim, permits);
    unload(&sim, vetoes);
    sim.finish();
}

#[test]
fn a_filter_without_its_callout_blocks_unless_told_otherwise() {
    let sim = Simulator::new(Config::default());
    let filter = Filter::at(layer::OUTBOUND_TRANSPORT_V4, GUID::from_u128(5));
    let id = sim.add_filter(filter.clone());
    let blocked = sim.send(&Packet::udp(here(), there(), b"x"));
    sim.remove_filter(id);
    sim.add_filter(filter.flags(FWPS_FILTER_FLAG::PERMIT_IF_CALLOUT_UNREGISTERED));
    let permitted = sim.send(&Packet::udp(here(), there(), b"x"));
    assert_eq!(sim.outcome(blocked), Some(SendOutcome::Blocked));
    assert_eq!(sim.outcome(permitted), Some(SendOutcome::Permitted));
    sim.finish();
}

#[test]
fn control_data_reaches_the_callout_and_the_wire() {
    let control = vec![7_u8; 24];
    let expected = control.clone();
    let (sim, driver) = start(Config::default(), layer::OUTBOUND_TRANSPORT_V4, move |shown| {
        if shown.injection_state() != FWPS_PACKET_INJECTION_STATE::NOT_INJECTED {
            return shown.decide(FWP_ACTION::PERMIT);
        }
        let (metadata, bytes) = (shown.metadata, packet_bytes(shown.data));
        // SAFETY: the metadata says so.
        let data = unsafe {
            std::slice::from_raw_parts(metadata.controlData.cast::<u8>(), metadata.controlDataLength as usize)
        };
        assert_eq!(data, expected);
        send_inject(shown.sim, metadata, REMOTE, &bytes, |buffer| {
            buffer.control = data.to_vec();
            buffer.args.controlData = buffer.control.as_mut_ptr().cast();
            buffer.args.controlDataLength = buffer.control.len() as u32;
        })
        .ok()
        .unwrap();
        shown.absorb();
    });
    sim.send(&Packet { control_data: Some(control.clone()), ..Packet::udp(here(), there(), b"x") });
    assert_eq!(sim.sent()[0].control_data, Some(control));
    unload(&sim, driver);
    sim.finish();
}

#[test]
fn raw_sends_begin_with_their_ip_header() {
    let (sim, driver) = start(Config::default(), layer::OUTBOUND_TRANSPORT_V4, |shown| {
        assert!(shown.metadata.has(FWPS_METADATA_FIELD::IP_HEADER_SIZE));
        assert_eq!((shown.metadata.ipHeaderSize, packet_bytes(shown.data)[0]), (20, 0x45));
        shown.decide(FWP_ACTION::PERMIT);
    });
    let mut header = vec![0; 20];
    header[0] = 0x45;
    sim.send(&Packet { raw_ip_header: Some(header), ..Packet::udp(here(), there(), b"raw") });
    assert_eq!(&sim.sent()[0].bytes[8..], b"raw");
    unload(&sim, driver);
    sim.finish();
}

#[test]
fn every_packet_of_a_list_leaves() {
    over_all(|config| {
        let sim = Simulator::new(config);
        sim.send(&Packet::udp_batch(here(), there(), &[b"one", b"", b"three"]));
        let sent: Vec<Vec<u8>> = sim.sent().into_iter().map(|sent| sent.bytes[8..].to_vec()).collect();
        assert_eq!(sent, [&b"one"[..], b"", b"three"]);
        sim.finish();
    });
}

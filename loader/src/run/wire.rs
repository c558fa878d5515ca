//! The wire behind a machine: what left it and what reached it, as a capture.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::capture::{CaptureWriter, Flags, Packet};
use crate::flows::Direction;

/// A capture that is written as things happen.
pub(super) struct Wire {
    file: CaptureWriter,
}

/// A TCP connection on the wire: its own sequence numbers, since what passes may be longer or shorter than what came.
pub(super) struct WireFlow {
    /// The ends: by direction, who sends.
    ends: [SocketAddr; 2],
    /// The next sequence number of each direction.
    next: [u32; 2],
    /// Directions that have ended.
    ended: [bool; 2],
}

/// Sequence numbers start here, so that one sees them count.
const FIRST: [u32; 2] = [1_000_000, 2_000_000];
/// Payload of one segment in an Ethernet frame, over IPv6 as well.
const SEGMENT: usize = 1440;

const ACK: Flags = Flags { syn: false, fin: false, rst: false, psh: false, ack: true };

impl Wire {
    pub(super) fn new() -> Self {
        Self { file: CaptureWriter::new() }
    }

    /// Writes the handshake of a connection.
    pub(super) fn open(
        &mut self,
        time: Duration,
        local: SocketAddr,
        remote: SocketAddr,
        opened: Direction,
    ) -> WireFlow {
        let mut flow = WireFlow { ends: [local, remote], next: FIRST, ended: [false; 2] };
        let syn = Flags { syn: true, ..Flags::default() };
        self.segment(&mut flow, time, opened, syn, &[]);
        self.segment(&mut flow, time, opened.reverse(), Flags { syn: true, ..ACK }, &[]);
        self.segment(&mut flow, time, opened, ACK, &[]);
        flow
    }

    /// Writes bytes of a connection, in as many segments as they need.
    pub(super) fn data(&mut self, flow: &mut WireFlow, time: Duration, direction: Direction, bytes: &[u8]) {
        let pieces = bytes.len().div_ceil(SEGMENT);
        for (number, piece) in (1..).zip(bytes.chunks(SEGMENT)) {
            self.segment(flow, time, direction, Flags { psh: number == pieces, ..ACK }, piece);
        }
    }

    /// Writes the end of a direction, once.
    pub(super) fn fin(&mut self, flow: &mut WireFlow, time: Duration, direction: Direction) {
        if !std::mem::replace(&mut flow.ended[direction as usize], true) {
            self.segment(flow, time, direction, Flags { fin: true, ..ACK }, &[]);
        }
    }

    /// Writes the reset of a connection, once.
    pub(super) fn reset(&mut self, flow: &mut WireFlow, time: Duration, direction: Direction) {
        if flow.ended != [true; 2] {
            self.segment(flow, time, direction, Flags { rst: true, ..ACK }, &[]);
            flow.ended = [true; 2];
        }
    }

    fn segment(
        &mut self,
        flow: &mut WireFlow,
        time: Duration,
        direction: Direction,
        flags: Flags,
        bytes: &[u8],
    ) {
        let (here, there) = (direction as usize, direction.reverse() as usize);
        let numbers = (flow.next[here], flow.next[there]);
        self.file.tcp(time, flow.ends[here], flow.ends[there], numbers, flags, bytes);
        let length = bytes.len() as u32 + u32::from(flags.syn) + u32::from(flags.fin);
        flow.next[here] = flow.next[here].wrapping_add(length);
    }

    /// Writes a packet that came from a machine.
    pub(super) fn packet(&mut self, time: Duration, from: IpAddr, to: IpAddr, protocol: u8, bytes: Vec<u8>) {
        self.file.transport(time, from, to, protocol, bytes);
    }

    /// Writes a packet of the capture as it is; one that was cut can't be written whole and is left out.
    pub(super) fn pass(&mut self, packet: &Packet) {
        if packet.cut == 0 {
            let bytes = [&packet.header[..], &packet.payload].concat();
            let (from, to) = (packet.source.ip(), packet.destination.ip());
            self.file.transport(packet.time, from, to, packet.transport.protocol(), bytes);
        }
    }

    /// The file.
    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.file.into_bytes()
    }
}

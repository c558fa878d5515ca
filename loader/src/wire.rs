//! A wire: what is on it, as a capture that grows.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::capture::{CaptureWriter, Flags, Packet};
use crate::flows::{Direction, Kind, Step};

/// A capture that is written as things happen.
pub(crate) struct Wire {
    file: CaptureWriter,
    /// The most payload of one segment.
    segment: usize,
}

/// A TCP connection on the wire: its own sequence numbers, since what passes may be longer or shorter than what came.
pub(crate) struct WireFlow {
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
pub(crate) const ETHERNET: usize = 1440;
/// The most payload that one segment can have here: what was shown at once stays in one piece.
pub(crate) const WHOLE: usize = 65_000;

const ACK: Flags = Flags { syn: false, fin: false, rst: false, psh: false, ack: true };

impl Wire {
    pub(crate) fn new(segment: usize) -> Self {
        Self { file: CaptureWriter::new(), segment }
    }

    /// Writes a step of a connection as it was shown.
    pub(crate) fn step(&mut self, flow: &mut WireFlow, time: Duration, step: &Step) {
        let here = step.direction as usize;
        // Sequence numbers wrap: of more than they can count only the rest is seen.
        flow.next[here] = flow.next[here].wrapping_add(step.missed as u32);
        match &step.kind {
            Kind::Data { bytes, push } => self.pieces(flow, time, step.direction, bytes, *push),
            Kind::Fin => self.fin(flow, time, step.direction),
            Kind::Reset => self.reset(flow, time, step.direction),
        }
    }

    /// Writes the handshake of a connection.
    pub(crate) fn open(
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
    pub(crate) fn data(&mut self, flow: &mut WireFlow, time: Duration, direction: Direction, bytes: &[u8]) {
        self.pieces(flow, time, direction, bytes, true);
    }

    /// `push`: the sender asked for prompt delivery of the last of them.
    fn pieces(
        &mut self,
        flow: &mut WireFlow,
        time: Duration,
        direction: Direction,
        bytes: &[u8],
        push: bool,
    ) {
        let pieces = bytes.len().div_ceil(self.segment);
        for (number, piece) in (1..).zip(bytes.chunks(self.segment)) {
            self.segment(flow, time, direction, Flags { psh: push && number == pieces, ..ACK }, piece);
        }
    }

    /// Writes the end of a direction, once.
    pub(crate) fn fin(&mut self, flow: &mut WireFlow, time: Duration, direction: Direction) {
        if !std::mem::replace(&mut flow.ended[direction as usize], true) {
            self.segment(flow, time, direction, Flags { fin: true, ..ACK }, &[]);
        }
    }

    /// Writes the reset of a connection, once.
    pub(crate) fn reset(&mut self, flow: &mut WireFlow, time: Duration, direction: Direction) {
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
    pub(crate) fn packet(&mut self, time: Duration, from: IpAddr, to: IpAddr, protocol: u8, bytes: Vec<u8>) {
        self.file.transport(time, from, to, protocol, bytes);
    }

    /// Writes a packet of the capture as it is; one that was cut can't be written whole and is left out.
    pub(crate) fn pass(&mut self, packet: &Packet) {
        if packet.cut == 0 {
            let bytes = [&packet.header[..], &packet.payload].concat();
            let (from, to) = (packet.source.ip(), packet.destination.ip());
            self.file.transport(packet.time, from, to, packet.transport.protocol(), bytes);
        }
    }

    /// What was written since this was last asked: put end to end it is the file.
    pub(crate) fn take(&mut self) -> Vec<u8> {
        self.file.take()
    }

    /// The file.
    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.file.into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::Capture;
    use crate::flows;

    #[test]
    fn a_connection_is_read_from_a_wire_as_it_was_put_there() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/captures");
        let mut count = 0;
        for entry in std::fs::read_dir(folder).expect("captures") {
            let path = entry.expect("an entry").path();
            let Some(capture) = Capture::read(&path).ok() else { continue };
            for connection in flows::connections(&capture, &[]) {
                let mut wire = Wire::new(WHOLE);
                let (local, remote) = (connection.local, connection.remote);
                let mut flow = wire.open(connection.time, local, remote, connection.opened);
                connection.events.iter().for_each(|event| wire.step(&mut flow, event.time, &event.step));
                let again = Capture::parse(&wire.into_bytes()).expect("a capture");
                let [again] = &flows::connections(&again, &[])[..] else { panic!("one connection") };
                assert_eq!((again.local, again.remote, again.opened), (local, remote, connection.opened));
                let steps = |connection: &flows::Connection| -> Vec<Step> {
                    connection.events.iter().map(|event| event.step.clone()).collect()
                };
                assert_eq!(steps(again), steps(&connection), "{}", path.display());
                count += 1;
            }
        }
        assert!(count > 10, "{count}");
    }
}

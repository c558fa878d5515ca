//! Flows: the TCP connections of a capture, put together into what a stream hook would have been shown.
//!
//! The cuts stay where the sender's segments had them. Retransmissions are dropped, segments out of order wait for their
//! turn, and where two segments disagree about a byte the first one captured wins. Since the whole capture is at hand,
//! it is known which bytes never come: the next bytes behind such a hole are shown at once, and say how many they miss.

mod direction;

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use schemars::JsonSchema;
use serde::Serialize;

use crate::capture::{Capture, Flags, Packet, Transport};
use direction::Assembly;

/// Which way bytes go, seen from this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// This machine sends them.
    Outbound,
    /// This machine receives them.
    Inbound,
}

impl Direction {
    /// Both, in the order of their numbers in a context.
    pub const ALL: [Self; 2] = [Self::Outbound, Self::Inbound];

    /// The other one.
    pub const fn reverse(self) -> Self {
        match self {
            Self::Outbound => Self::Inbound,
            Self::Inbound => Self::Outbound,
        }
    }
}

/// One TCP connection.
#[derive(Clone, Debug)]
pub struct Connection {
    /// Frame of its first packet.
    pub frame: u64,
    /// Time of its first packet.
    pub time: Duration,
    /// The end on this machine.
    pub local: SocketAddr,
    /// The other end.
    pub remote: SocketAddr,
    /// The way that its first packet, as far as it is known, went: outbound when this machine opened it.
    pub opened: Direction,
    /// What happened, in the order in which it became visible.
    pub events: Vec<Event>,
    /// What was not as it should be.
    pub notes: Notes,
}

/// Something that became visible in a capture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Frame that made it visible.
    pub frame: u64,
    /// Time of that frame.
    pub time: Duration,
    /// What it is.
    pub step: Step,
}

/// One thing that a stream hook is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Which way it goes.
    pub direction: Direction,
    /// How long after the step before it, where that is to be waited for.
    pub after: Duration,
    /// Bytes of this direction right before it that nobody has.
    pub missed: u64,
    /// What it is.
    pub kind: Kind,
}

impl Step {
    /// What follows at once, with nothing missed.
    pub const fn new(direction: Direction, kind: Kind) -> Self {
        Self { direction, after: Duration::ZERO, missed: 0, kind }
    }
}

/// The kinds of [`Step`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Bytes, never none.
    Data {
        /// The bytes.
        bytes: Vec<u8>,
        /// Whether the sender asked for prompt delivery.
        push: bool,
    },
    /// The direction ends.
    Fin,
    /// The connection is reset by the sender of this direction.
    Reset,
}

/// What was not as it should be with a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Notes {
    /// The capture began when the connection was open already.
    pub mid_stream: bool,
    /// Bytes that came again.
    pub retransmitted: u64,
    /// Segments that came before bytes that precede them.
    pub out_of_order: u64,
    /// Segments that brought other bytes for a place that was known already; the first ones were kept.
    pub conflicts: u64,
    /// Bytes that were sent and are not in the capture.
    pub missing: u64,
    /// Probes of an idle connection.
    pub keep_alives: u64,
    /// Segments behind the end of their direction, or far from where it is.
    pub stray: u64,
}

impl Connection {
    /// Everything that `direction` carried, holes left out.
    pub fn bytes(&self, direction: Direction) -> Vec<u8> {
        let mut all = Vec::new();
        for step in self.events.iter().map(|event| &event.step).filter(|step| step.direction == direction) {
            if let Kind::Data { bytes, .. } = &step.kind {
                all.extend_from_slice(bytes);
            }
        }
        all
    }
}

impl fmt::Display for Notes {
    /// What a reader of the result should know, as a list with commas; nothing when all is well.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        if self.mid_stream {
            write!(f, "the capture begins within the connection")?;
            separator = ", ";
        }
        for (count, what) in [
            (self.missing, "bytes lost to the capture"),
            (self.conflicts, "segments contradict earlier ones"),
            (self.retransmitted, "bytes retransmitted"),
            (self.out_of_order, "segments out of order"),
            (self.keep_alives, "keep-alives"),
            (self.stray, "stray segments ignored"),
        ] {
            if count > 0 {
                write!(f, "{separator}{count} {what}")?;
                separator = ", ";
            }
        }
        Ok(())
    }
}

/// The TCP connections of `capture`, in the order of their first packets.
///
/// This machine is the end whose address is in `local`; when that is neither end or both, the one that opened the
/// connection. A pair of endpoints that is used again makes a connection of its own.
pub fn connections(capture: &Capture, local: &[IpAddr]) -> Vec<Connection> {
    let mut groups: Vec<Group<'_>> = Vec::new();
    let mut newest: HashMap<(SocketAddr, SocketAddr), usize> = HashMap::new();
    for packet in &capture.packets {
        let Transport::Tcp { sequence, flags } = packet.transport else { continue };
        let ends = (packet.source, packet.destination);
        let key = if ends.0 <= ends.1 { ends } else { (ends.1, ends.0) };
        let at = match newest.get(&key) {
            Some(at) if groups[*at].continues_with(packet, sequence, flags) => *at,
            _ => {
                newest.insert(key, groups.len());
                groups.push(Group::default());
                groups.len() - 1
            }
        };
        groups[at].segments.push(Segment { packet, sequence, flags });
    }
    groups.iter().filter_map(|group| group.assemble(local)).collect()
}

/// The packets that this machine sends, in the order of the capture.
///
/// This machine is the sender whose address is in `local`; when that says nothing, whoever spoke first between two
/// endpoints.
pub fn outgoing<'a>(capture: &'a Capture, local: &[IpAddr]) -> Vec<&'a Packet> {
    let mut first: HashMap<(SocketAddr, SocketAddr, u8), SocketAddr> = HashMap::new();
    let here = capture.packets.iter().filter(|packet| {
        let ends = (packet.source, packet.destination);
        let (low, high) = if ends.0 <= ends.1 { ends } else { (ends.1, ends.0) };
        let speaker = match packet.transport {
            Transport::Tcp { flags: Flags { syn: true, ack: true, .. }, .. } => packet.destination,
            _ => packet.source,
        };
        let opener = *first.entry((low, high, packet.transport.protocol())).or_insert(speaker);
        match (local.contains(&packet.source.ip()), local.contains(&packet.destination.ip())) {
            (true, false) => true,
            (false, true) => false,
            _ => packet.source == opener,
        }
    });
    here.collect()
}

/// A TCP packet.
#[derive(Clone, Copy)]
struct Segment<'a> {
    packet: &'a Packet,
    sequence: u32,
    flags: Flags,
}

/// The segments of one connection, both directions, in the order of the capture.
#[derive(Default)]
struct Group<'a> {
    segments: Vec<Segment<'a>>,
}

/// A SYN that was captured late belongs to the connection when its data is not further ahead than this.
const LATE_SYN: u32 = 1 << 20;

impl Group<'_> {
    /// Whether a packet is of this connection; otherwise it opens another one between the same ends.
    fn continues_with(&self, packet: &Packet, sequence: u32, flags: Flags) -> bool {
        if !flags.syn || flags.ack {
            return true;
        }
        let mut same_way = self.segments.iter().filter(|segment| segment.packet.source == packet.source);
        match self.segments.iter().find(|known| known.flags.syn && known.packet.source == packet.source) {
            Some(syn) => syn.sequence == sequence,
            None => same_way.all(|known| known.sequence.wrapping_sub(sequence) <= LATE_SYN),
        }
    }

    fn assemble(&self, local: &[IpAddr]) -> Option<Connection> {
        let first = self.segments.first()?;
        let opening = self.segments.iter().find(|segment| segment.flags.syn);
        let (opener, acceptor) = match opening {
            Some(syn) if syn.flags.ack => (syn.packet.destination, syn.packet.source),
            Some(syn) => (syn.packet.source, syn.packet.destination),
            None => (first.packet.source, first.packet.destination),
        };
        let accepted_here = local.contains(&acceptor.ip()) && !local.contains(&opener.ip());
        let (local, remote, opened) = if accepted_here {
            (acceptor, opener, Direction::Inbound)
        } else {
            (opener, acceptor, Direction::Outbound)
        };

        let of = |segment: &Segment<'_>| {
            if segment.packet.source == local { Direction::Outbound } else { Direction::Inbound }
        };
        // A reset ends the connection for both directions; what follows is not part of it.
        let end = self
            .segments
            .iter()
            .position(|segment| segment.flags.rst)
            .map_or(self.segments.len(), |at| at + 1);
        let (alive, behind) = self.segments.split_at(end);
        let mut assemblies = Direction::ALL.map(|direction| {
            Assembly::new(
                alive.iter().filter(|segment| of(segment) == direction).map(|&segment| segment.into()),
            )
        });
        let mut connection = Connection {
            frame: first.packet.frame,
            time: first.packet.time,
            local,
            remote,
            opened,
            events: Vec::new(),
            notes: Notes { mid_stream: opening.is_none(), ..Notes::default() },
        };
        for segment in alive {
            let direction = of(segment);
            let [outbound, inbound] = &mut assemblies;
            let assembly = if direction == Direction::Outbound { outbound } else { inbound };
            let mut show = |missed, kind| {
                let (frame, time) = (segment.packet.frame, segment.packet.time);
                connection.events.push(Event {
                    frame,
                    time,
                    step: Step { missed, ..Step::new(direction, kind) },
                });
            };
            assembly.take(&(*segment).into(), &mut connection.notes, &mut show);
            if segment.flags.rst {
                show(0, Kind::Reset);
            }
        }
        connection.notes.stray +=
            behind.iter().filter(|segment| !segment.packet.payload.is_empty()).count() as u64;
        connection.notes.missing = connection.events.iter().map(|event| event.step.missed).sum();
        Some(connection)
    }
}

impl<'a> From<Segment<'a>> for direction::Segment<'a> {
    fn from(segment: Segment<'a>) -> Self {
        Self {
            sequence: segment.sequence,
            syn: segment.flags.syn,
            fin: segment.flags.fin,
            push: segment.flags.psh,
            bytes: &segment.packet.payload,
            cut: segment.packet.cut,
        }
    }
}

#[cfg(test)]
mod tests;

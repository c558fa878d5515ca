//! What is told about a run over a capture: a line for each connection and packet, and totals.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Serialize, Serializer};

use super::Options;
use crate::capture::{self, Capture, Packet};
use crate::cli;
use crate::error::Exit;
use crate::flows::{self, Connection, Direction};
use crate::scenario::literal;
use crate::tally::{Bytes, Tally, count};

/// What came of a capture.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Report {
    object: PathBuf,
    capture: PathBuf,
    written: Option<PathBuf>,
    /// How often it was run: what else is told is of the last time.
    pub(super) times: u32,
    /// Of several times: what each took, with the reading of the capture and the machine around the programs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) seconds_each: Option<f64>,
    pub(super) connections: Vec<ConnectionReport>,
    pub(super) packets: Vec<PacketReport>,
    /// Packets that were not shown, since the capture has only their start.
    pub(super) cut_packets: u64,
    /// What the capture held besides, and what is wrong with it.
    notes: capture::Notes,
    /// What went against the contract with the filter engine.
    pub(super) broken: Vec<String>,
}

/// What came of a connection.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub(super) struct ConnectionReport {
    /// Its place in the capture, from 1.
    pub(super) number: usize,
    local: SocketAddr,
    remote: SocketAddr,
    opened: Direction,
    sent: Bytes,
    received: Bytes,
    #[serde(flatten)]
    pub(super) tally: Tally,
    /// The policy reset it.
    pub(super) dropped: bool,
    pub(super) events: Vec<Event>,
    notes: flows::Notes,
}

/// What came of a packet.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub(super) struct PacketReport {
    frame: u64,
    protocol: &'static str,
    local: SocketAddr,
    remote: SocketAddr,
    fate: PacketFate,
    /// Bytes of payload shown, and of that which left.
    payload: Bytes,
    #[serde(flatten)]
    pub(super) tally: Tally,
    pub(super) events: Vec<Event>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum PacketFate {
    Sent,
    Blocked,
    Changed,
}

/// A record that a policy wrote into a ring buffer.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub(super) struct Event {
    map: String,
    /// Its bytes, two hex digits each.
    #[serde(serialize_with = "hex")]
    data: Vec<u8>,
}

impl Event {
    pub(super) fn all(events: BTreeMap<String, Vec<Vec<u8>>>) -> Vec<Self> {
        let named = |(map, records): (String, Vec<Vec<u8>>)| {
            records.into_iter().map(move |data| Self { map: map.clone(), data })
        };
        events.into_iter().flat_map(named).collect()
    }
}

impl Report {
    pub(super) fn new(options: &Options, capture: &Capture) -> Self {
        Self {
            object: options.policy.file.clone(),
            capture: options.pcap.clone(),
            written: options.pcap_out.clone(),
            times: 1,
            seconds_each: None,
            connections: Vec::new(),
            packets: Vec::new(),
            cut_packets: 0,
            notes: capture.notes.clone(),
            broken: Vec::new(),
        }
    }

    fn total(&self) -> Tally {
        let mut total = Tally::default();
        self.connections.iter().for_each(|connection| total.add(&connection.tally));
        self.packets.iter().for_each(|packet| total.add(&packet.tally));
        total
    }
}

impl ConnectionReport {
    pub(super) fn new(number: usize, connection: &Connection) -> Self {
        Self {
            number,
            local: connection.local,
            remote: connection.remote,
            opened: connection.opened,
            sent: Bytes::default(),
            received: Bytes::default(),
            tally: Tally::default(),
            dropped: false,
            events: Vec::new(),
            notes: connection.notes,
        }
    }

    pub(super) fn bytes_mut(&mut self, direction: Direction) -> &mut Bytes {
        match direction {
            Direction::Outbound => &mut self.sent,
            Direction::Inbound => &mut self.received,
        }
    }
}

impl PacketReport {
    pub(super) fn new(packet: &Packet) -> Self {
        Self {
            frame: packet.frame,
            protocol: packet.transport.name(),
            local: packet.source,
            remote: packet.destination,
            fate: PacketFate::Blocked,
            payload: Bytes { shown: packet.payload.len() as u64, delivered: 0 },
            tally: Tally::default(),
            events: Vec::new(),
        }
    }

    /// A packet left: `packet` itself when it `passed`, otherwise one in its place.
    pub(super) fn left(&mut self, passed: bool, packet: &Packet, bytes: &[u8]) {
        let payload = bytes.get(packet.header.len()..).unwrap_or(&[]);
        let same = passed || payload == packet.payload;
        self.fate = if same { PacketFate::Sent } else { PacketFate::Changed };
        self.payload.delivered += payload.len() as u64;
    }
}

impl cli::Report for Report {
    fn exit(&self) -> Exit {
        if self.broken.is_empty() && self.total().errors == 0 { Exit::Ok } else { Exit::Partial }
    }
}

fn hex<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    serializer.serialize_str(&digits)
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for one in &self.connections {
            let arrow = if one.opened == Direction::Outbound { "->" } else { "<-" };
            let state = if one.dropped { "DROPPED" } else { "open   " };
            write!(f, "#{:<3} {} {arrow} {}  {state}  {}", one.number, one.local, one.remote, one.tally)?;
            writeln!(f, "; sent {} B, received {} B", one.sent, one.received)?;
            for event in &one.events {
                writeln!(f, "       {}: {}", event.map, literal::describe(&event.data))?;
            }
            if one.notes != flows::Notes::default() {
                writeln!(f, "       note: {}", one.notes)?;
            }
        }
        for one in &self.packets {
            let fate = match one.fate {
                PacketFate::Sent => "sent   ",
                PacketFate::Blocked => "BLOCKED",
                PacketFate::Changed => "CHANGED",
            };
            write!(f, "frame {:<4} {} {} -> {}  {fate}", one.frame, one.protocol, one.local, one.remote)?;
            let payload = if one.fate == PacketFate::Blocked {
                one.payload.shown.to_string()
            } else {
                one.payload.to_string()
            };
            writeln!(f, "  {}; {payload} B", one.tally)?;
            for event in &one.events {
                writeln!(f, "       {}: {}", event.map, literal::describe(&event.data))?;
            }
        }
        if self.connections.is_empty() && self.packets.is_empty() {
            writeln!(f, "the capture has nothing that these programs are shown")?;
        }
        write!(f, "{}", self.notes)?;
        if self.cut_packets > 0 {
            writeln!(
                f,
                "{} packets were not shown to the programs: the capture has only their start",
                self.cut_packets
            )?;
        }
        for broken in &self.broken {
            writeln!(f, "the contract with the filter engine was broken: {broken}")?;
        }
        let total = self.total();
        if !self.connections.is_empty() {
            let dropped = self.connections.iter().filter(|one| one.dropped).count();
            write!(f, "{}, {dropped} dropped; ", count(self.connections.len(), "connection"))?;
        }
        if !self.packets.is_empty() {
            let of = |fate| self.packets.iter().filter(|one| one.fate == fate).count();
            let (sent, blocked) = (of(PacketFate::Sent), of(PacketFate::Blocked));
            write!(
                f,
                "{} sent, {blocked} blocked, {} changed; ",
                count(sent, "packet"),
                of(PacketFate::Changed)
            )?;
        }
        writeln!(f, "{} runs of programs, {} edited, {} failed", total.runs, total.edited, total.errors)?;
        if let Some(seconds) = self.seconds_each {
            writeln!(f, "run {} times, {:.3} ms each; this is of the last", self.times, seconds * 1000.0)?;
        }
        if let Some(path) = &self.written {
            writeln!(f, "written: {}", path.display())?;
        }
        Ok(())
    }
}

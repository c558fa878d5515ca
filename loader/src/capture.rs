//! Captures: the TCP and UDP packets of pcap and pcapng files, and pcap files of packets.
//!
//! A capture is what a stranger sends, so nothing in it is believed: a file that is cut short gives the packets before
//! the cut, a packet that can't be read is counted and left out, and [`Notes`] says in words what was not used.

mod file;
mod link;
mod write;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use schemars::JsonSchema;
use serde::Serialize;

use crate::error::Error;
pub(crate) use link::{Found, dissect};
pub use write::{CaptureWriter, Flags};
pub(crate) use write::{Hop, LINK_RAW, ip_packet};

/// The packets of one capture.
#[derive(Clone, Debug, Default)]
pub struct Capture {
    /// TCP and UDP packets, in the order of the file.
    pub packets: Vec<Packet>,
    /// What the file held besides, and what is wrong with it.
    pub notes: Notes,
}

/// One TCP or UDP packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Number of the record in the file, from 1, as other tools count.
    pub frame: u64,
    /// Time since 1970.
    pub time: Duration,
    /// Who sent it.
    pub source: SocketAddr,
    /// Whom it was sent to.
    pub destination: SocketAddr,
    /// What is specific to its protocol.
    pub transport: Transport,
    /// Its transport header as it was, options included.
    pub header: Vec<u8>,
    /// Its payload, or the start of it when the capture kept no more.
    pub payload: Vec<u8>,
    /// Bytes of payload that the packet had and the capture did not keep.
    pub cut: usize,
}

/// What a packet's transport header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// A TCP segment.
    Tcp {
        /// Sequence number.
        sequence: u32,
        /// SYN, FIN, RST, PSH, ACK.
        flags: Flags,
    },
    /// A UDP datagram.
    Udp,
}

impl Transport {
    /// IP protocol number.
    pub const fn protocol(self) -> u8 {
        match self {
            Self::Tcp { .. } => 6,
            Self::Udp => 17,
        }
    }

    /// The name that people know.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp { .. } => "TCP",
            Self::Udp => "UDP",
        }
    }
}

/// What a capture held that is not in its packets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Notes {
    /// Records in the file, of any kind.
    pub frames: u64,
    /// Packets of which the capture kept only the start.
    pub cut: u64,
    /// Fragments of IP packets: they are not put together.
    pub fragments: u64,
    /// Packets that are not IP, as ARP.
    pub not_ip: u64,
    /// IP packets that are neither TCP nor UDP.
    pub other_protocols: u64,
    /// Packets whose headers contradict themselves or are cut.
    pub malformed: u64,
    /// Packets by link types that are not known, with their numbers.
    pub unknown_links: BTreeMap<i32, u64>,
    /// Where and why the file could not be read to its end.
    pub damage: Option<String>,
}

impl Capture {
    /// Reads the capture in the file at `path`.
    ///
    /// # Errors
    /// The file can't be read, or it is no capture at all.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let bytes = std::fs::read(path).map_err(|error| Error::file("read", path, &error))?;
        Self::parse(&bytes).map_err(|reason| {
            Error::usage("capture-malformed", format!("{}: {reason}", path.display()))
                .with_help("captures are pcap or pcapng files, as tcpdump -w and Wireshark write them")
        })
    }

    /// Reads a capture.
    ///
    /// # Errors
    /// The bytes don't start as a capture does, in words. Damage further on is in the [`Notes`].
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let mut capture = Self::default();
        let damage = file::records(bytes, |record| capture.take(record))?;
        capture.notes.damage = damage;
        Ok(capture)
    }

    fn take(&mut self, record: file::Record<'_>) {
        let notes = &mut self.notes;
        notes.frames += 1;
        notes.cut += u64::from(record.cut);
        match dissect(record.link, record.bytes) {
            Ok(found) => self.packets.push(Packet {
                frame: notes.frames,
                time: record.time,
                source: found.source,
                destination: found.destination,
                transport: found.transport,
                header: found.header.to_vec(),
                payload: found.payload.to_vec(),
                cut: found.cut,
            }),
            Err(link::Skip::Fragment) => notes.fragments += 1,
            Err(link::Skip::NotIp) => notes.not_ip += 1,
            Err(link::Skip::OtherProtocol) => notes.other_protocols += 1,
            Err(link::Skip::Malformed) => notes.malformed += 1,
            Err(link::Skip::UnknownLink) => *notes.unknown_links.entry(record.link).or_default() += 1,
        }
    }
}

impl fmt::Display for Notes {
    /// One line for each thing that a reader of the result should know; nothing when all is well.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(damage) = &self.damage {
            writeln!(f, "the file is damaged: {damage}")?;
        }
        for (count, what) in [
            (
                self.cut,
                "packets are cut (the capture kept only their start): their missing bytes count as lost",
            ),
            (self.malformed, "packets have headers that can't be read: left out"),
            (self.fragments, "fragments of IP packets are not put together: left out"),
            (self.not_ip, "packets are not IP: left out"),
            (self.other_protocols, "IP packets are neither TCP nor UDP: left out"),
        ] {
            if count > 0 {
                writeln!(f, "{count} of {} {what}", self.frames)?;
            }
        }
        for (link, count) in &self.unknown_links {
            writeln!(
                f,
                "{count} of {} packets are of link type {link}, which is not known: left out",
                self.frames
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;

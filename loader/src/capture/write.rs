//! Writing pcap files: raw IP packets, made anew with right lengths and checksums.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use etherparse::{IpNumber, Ipv4Header, Ipv6FlowLabel, Ipv6Header, TcpHeader};
use serde::Serialize;

/// The flags of a TCP segment that matter here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Flags {
    /// Opens a direction.
    pub syn: bool,
    /// Ends a direction.
    pub fin: bool,
    /// Resets the connection.
    pub rst: bool,
    /// Asks for prompt delivery.
    pub psh: bool,
    /// The acknowledgment number counts.
    pub ack: bool,
}

/// LINKTYPE_RAW: a packet starts with its IP header, of either version.
const LINK_RAW: u32 = 101;
const TTL: u8 = 64;

/// A pcap file that grows packet by packet.
#[derive(Clone, Debug)]
pub struct CaptureWriter {
    file: Vec<u8>,
}

impl Default for CaptureWriter {
    fn default() -> Self {
        Self::new()
    }
}

impl CaptureWriter {
    /// A file without packets.
    pub fn new() -> Self {
        let mut file = Vec::new();
        // Magic for microseconds, version 2.4, no time zone, any length, link type.
        file.extend(0xa1b2_c3d4_u32.to_le_bytes());
        file.extend(2_u16.to_le_bytes());
        file.extend(4_u16.to_le_bytes());
        for word in [0, 0, 0x4_0000, LINK_RAW] {
            file.extend(word.to_le_bytes());
        }
        Self { file }
    }

    /// Adds a TCP segment. The payload must fit into an IP packet: the largest segment takes 65,000 bytes.
    pub fn tcp(
        &mut self,
        time: Duration,
        from: SocketAddr,
        to: SocketAddr,
        (sequence, acknowledgment): (u32, u32),
        flags: Flags,
        payload: &[u8],
    ) {
        let mut header = TcpHeader::new(from.port(), to.port(), sequence, 65_535);
        header.syn = flags.syn;
        header.fin = flags.fin;
        header.rst = flags.rst;
        header.psh = flags.psh;
        header.ack = flags.ack;
        header.acknowledgment_number = if flags.ack { acknowledgment } else { 0 };
        let checksum = match (from.ip(), to.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                header.calc_checksum_ipv4_raw(from.octets(), to.octets(), payload).ok()
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                header.calc_checksum_ipv6_raw(from.octets(), to.octets(), payload).ok()
            }
            _ => None,
        };
        header.checksum = checksum.unwrap_or(0);
        let mut bytes = header.to_bytes().to_vec();
        bytes.extend_from_slice(payload);
        self.transport(time, from.ip(), to.ip(), IpNumber::TCP.0, &bytes);
    }

    /// Adds a packet whose transport header and payload are `bytes`, checksums as they are.
    pub fn transport(&mut self, time: Duration, from: IpAddr, to: IpAddr, protocol: u8, bytes: &[u8]) {
        let protocol = IpNumber(protocol);
        let mut packet = Vec::with_capacity(40 + bytes.len());
        match (from, to) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                let length = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
                if let Ok(header) = Ipv4Header::new(length, TTL, protocol, from.octets(), to.octets()) {
                    packet.extend_from_slice(&with_checksum(header).to_bytes());
                }
            }
            (from, to) => {
                let header = Ipv6Header {
                    traffic_class: 0,
                    flow_label: Ipv6FlowLabel::ZERO,
                    payload_length: u16::try_from(bytes.len()).unwrap_or(u16::MAX),
                    next_header: protocol,
                    hop_limit: TTL,
                    source: ipv6(from),
                    destination: ipv6(to),
                };
                packet.extend_from_slice(&header.to_bytes());
            }
        }
        packet.extend_from_slice(bytes);
        self.record(time, &packet);
    }

    fn record(&mut self, time: Duration, packet: &[u8]) {
        // The file's fields have 32 bits; a time behind 2106 wraps as it does for everyone.
        let length = packet.len() as u32;
        for word in [time.as_secs() as u32, time.subsec_micros(), length, length] {
            self.file.extend(word.to_le_bytes());
        }
        self.file.extend_from_slice(packet);
    }

    /// The file.
    pub fn into_bytes(self) -> Vec<u8> {
        self.file
    }
}

fn with_checksum(mut header: Ipv4Header) -> Ipv4Header {
    header.header_checksum = header.calc_header_checksum();
    header
}

fn ipv6(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

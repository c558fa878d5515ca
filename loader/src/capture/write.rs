//! Writing pcap files: raw IP packets, made anew with right lengths and checksums.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use etherparse::checksum::Sum16BitWords;
use etherparse::{IpDscp, IpEcn, IpNumber, Ipv4Header, Ipv6FlowLabel, Ipv6Header, TcpHeader};
use schemars::JsonSchema;
use serde::Serialize;

/// The flags of a TCP segment that matter here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
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
pub(crate) const LINK_RAW: i32 = 101;
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
        for word in [0, 0, 0x4_0000, LINK_RAW as u32] {
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
        let bytes = [&header.to_bytes(), payload].concat();
        self.transport(time, from.ip(), to.ip(), IpNumber::TCP.0, bytes);
    }

    /// Adds a packet whose transport header and payload are `bytes`. The checksum of TCP and UDP is made right.
    pub fn transport(&mut self, time: Duration, from: IpAddr, to: IpAddr, protocol: u8, bytes: Vec<u8>) {
        self.record(time, &ip_packet(from, to, protocol, bytes, Hop { ttl: TTL, tos: 0 }));
    }

    fn record(&mut self, time: Duration, packet: &[u8]) {
        // The file's fields have 32 bits; a time behind 2106 wraps as it does for everyone.
        let length = packet.len() as u32;
        for word in [time.as_secs() as u32, time.subsec_micros(), length, length] {
            self.file.extend(word.to_le_bytes());
        }
        self.file.extend_from_slice(packet);
    }

    /// What was added since this was last asked, the start of the file included: put end to end it is the file.
    pub fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.file)
    }

    /// The file.
    pub fn into_bytes(self) -> Vec<u8> {
        self.file
    }
}

/// What the stack puts into the IP header of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hop {
    /// Time to live, or hop limit.
    pub(crate) ttl: u8,
    /// Type of service, or traffic class.
    pub(crate) tos: u8,
}

/// An IP packet whose transport header and payload are `bytes`. The checksum of TCP and UDP is made right. Where they are more than
/// its header can say, the length is zero, as segmentation offload leaves it in captures.
pub(crate) fn ip_packet(from: IpAddr, to: IpAddr, protocol: u8, mut bytes: Vec<u8>, hop: Hop) -> Vec<u8> {
    let protocol = IpNumber(protocol);
    write_checksum(from, to, protocol, &mut bytes);
    let mut packet = Vec::with_capacity(40 + bytes.len());
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let header = Ipv4Header {
                total_len: u16::try_from(Ipv4Header::MIN_LEN + bytes.len()).unwrap_or(0),
                time_to_live: hop.ttl,
                protocol,
                source: from.octets(),
                destination: to.octets(),
                dscp: IpDscp::try_new(hop.tos >> 2).unwrap_or_default(),
                ecn: IpEcn::try_new(hop.tos & 3).unwrap_or_default(),
                dont_fragment: true,
                ..Ipv4Header::default()
            };
            packet.extend_from_slice(&with_checksum(header).to_bytes());
        }
        (from, to) => {
            let header = Ipv6Header {
                traffic_class: hop.tos,
                flow_label: Ipv6FlowLabel::ZERO,
                payload_length: u16::try_from(bytes.len()).unwrap_or(0),
                next_header: protocol,
                hop_limit: hop.ttl,
                source: ipv6(from),
                destination: ipv6(to),
            };
            packet.extend_from_slice(&header.to_bytes());
        }
    }
    packet.extend_from_slice(&bytes);
    packet
}

/// Puts the sum over the pseudo-header and `bytes` (RFC 9293 section 3.1, RFC 768) into the transport header.
fn write_checksum(from: IpAddr, to: IpAddr, protocol: IpNumber, bytes: &mut [u8]) {
    let place = match protocol {
        IpNumber::TCP => 16,
        IpNumber::UDP => 6,
        _ => return,
    };
    let length = (bytes.len() as u32).to_be_bytes();
    let Some(field) = bytes.get_mut(place..place + 2) else { return };
    field.copy_from_slice(&[0, 0]);
    let mut sum = Sum16BitWords::new().add_2bytes([0, protocol.0]);
    sum = sum.add_4bytes(length);
    sum = match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => sum.add_4bytes(from.octets()).add_4bytes(to.octets()),
        (from, to) => sum.add_16bytes(ipv6(from)).add_16bytes(ipv6(to)),
    };
    let sum = sum.add_slice(bytes).ones_complement().to_be();
    // Zero would say that there is no checksum; its other form in ones' complement says the same sum.
    let sum = if sum == 0 && protocol == IpNumber::UDP { u16::MAX } else { sum };
    if let Some(field) = bytes.get_mut(place..place + 2) {
        field.copy_from_slice(&sum.to_be_bytes());
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

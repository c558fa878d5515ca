//! Packets as the outbound transport layers see them, and as they leave.

use std::net::{IpAddr, SocketAddr};

use crate::checksum;
use crate::flow::FlowId;

/// Who finishes the transport checksum of a packet that the stack sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checksum {
    /// Nobody: the header has the full sum.
    Full,
    /// The hardware: the header has the sum of the pseudo-header, and the list says so.
    Offloaded,
    /// There is none (UDP over IPv4).
    Zero,
}

/// One list of packets that an application sends.
#[derive(Clone, Debug)]
pub struct Packet {
    /// IP protocol number.
    pub protocol: u8,
    /// Sender; the port is the ICMP type for ICMP.
    pub local: SocketAddr,
    /// Receiver; the port is the ICMP code for ICMP.
    pub remote: SocketAddr,
    /// Each packet of the list: transport header, then payload.
    pub buffers: Vec<Vec<u8>>,
    /// State of the checksums in those headers; the simulator writes them.
    pub checksum: Checksum,
    /// Ancillary data of the send call, its header included.
    pub control_data: Option<Vec<u8>>,
    /// False for what the stack sends by itself (RST, ICMP): no endpoint handle.
    pub endpoint: bool,
    /// A raw, header-included send: the IP header in front of the transport header. At the outbound transport layers it is in
    /// front of the data that is shown, at the datagram-data layers in the metadata (`headerIncludeHeader`).
    pub raw_ip_header: Option<Vec<u8>>,
    /// An error message of the stack: shown at the ICMP error layers first.
    pub icmp_error: bool,
    /// Both ends are this machine.
    pub loopback: bool,
    /// Compartment in the metadata; `None` leaves its bit clear.
    pub compartment: Option<u32>,
    /// Remote scope in the metadata; `None` leaves its bit clear.
    pub scope_id: Option<u32>,
    /// The connection that a TCP segment belongs to; `None` leaves the flow handle's bit clear.
    pub flow: Option<FlowId>,
    /// Segment size of a large send that the hardware cuts; 0 for none.
    pub segment: u32,
}

impl Packet {
    /// Packets of any protocol; each buffer is a transport header and payload. Checksums of TCP, UDP and ICMPv6 are
    /// written in full.
    pub fn transport(protocol: u8, local: SocketAddr, remote: SocketAddr, buffers: Vec<Vec<u8>>) -> Self {
        Self {
            protocol,
            local,
            remote,
            buffers,
            checksum: Checksum::Full,
            control_data: None,
            endpoint: true,
            raw_ip_header: None,
            icmp_error: false,
            loopback: false,
            compartment: Some(1),
            scope_id: Some(0),
            flow: None,
            segment: 0,
        }
    }

    /// An ICMP error of the stack: 8 bytes of header, then what it complains about. The ports of the addresses are the type
    /// and the code.
    pub fn icmp_error(local: SocketAddr, remote: SocketAddr, about: &[u8]) -> Self {
        let mut bytes = vec![local.port() as u8, remote.port() as u8, 0, 0, 0, 0, 0, 0];
        bytes.extend_from_slice(about);
        let protocol = if local.is_ipv6() { checksum::ICMPV6 } else { checksum::ICMP };
        Self { icmp_error: true, ..Self::transport(protocol, local, remote, vec![bytes]) }
    }

    /// One datagram.
    pub fn udp(local: SocketAddr, remote: SocketAddr, payload: &[u8]) -> Self {
        Self::udp_batch(local, remote, &[payload])
    }

    /// Several datagrams in one list, as a segmented send makes them.
    pub fn udp_batch(local: SocketAddr, remote: SocketAddr, payloads: &[&[u8]]) -> Self {
        let buffers = payloads
            .iter()
            .map(|payload| {
                let mut bytes = Vec::with_capacity(8 + payload.len());
                bytes.extend(local.port().to_be_bytes());
                bytes.extend(remote.port().to_be_bytes());
                bytes.extend(((8 + payload.len()) as u16).to_be_bytes());
                bytes.extend([0, 0]);
                bytes.extend_from_slice(payload);
                bytes
            })
            .collect();
        Self::transport(checksum::UDP, local, remote, buffers)
    }

    /// One TCP segment with a header without options. `flags` as on the wire (FIN 1, SYN 2, RST 4, PSH 8, ACK 16).
    pub fn tcp(local: SocketAddr, remote: SocketAddr, flags: u8, sequence: u32, payload: &[u8]) -> Self {
        let mut bytes = Vec::with_capacity(20 + payload.len());
        bytes.extend(local.port().to_be_bytes());
        bytes.extend(remote.port().to_be_bytes());
        bytes.extend(sequence.to_be_bytes());
        bytes.extend(0_u32.to_be_bytes());
        bytes.extend([0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
        bytes.extend_from_slice(payload);
        Self::transport(checksum::TCP, local, remote, vec![bytes])
    }
}

/// A list given to [`Simulator::send`](crate::Simulator::send).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SendId(pub u64);

/// What the callouts decided about a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendOutcome {
    /// It went out.
    Permitted,
    /// It was dropped, and the sender and the audit know.
    Blocked,
    /// It was dropped in silence.
    Absorbed,
}

/// One packet on the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    /// Source address.
    pub local: IpAddr,
    /// Destination address.
    pub remote: IpAddr,
    /// IP protocol number.
    pub protocol: u8,
    /// The IP header of a raw, header-included send.
    pub header: Vec<u8>,
    /// Transport header and payload; the checksum is as the receiver gets it.
    pub bytes: Vec<u8>,
    /// A callout injected it.
    pub injected: bool,
    /// The list that the stack sent, if it is not injected.
    pub origin: Option<SendId>,
    /// The receiver accepts its checksum (or there is none to check).
    pub checksum_ok: bool,
    /// Ancillary data that it was sent with.
    pub control_data: Option<Vec<u8>>,
}

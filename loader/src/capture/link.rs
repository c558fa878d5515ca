//! From link header to payload: finds the TCP or UDP packet in a record.

use std::net::{IpAddr, SocketAddr};

use etherparse::{EtherType, IpNumber, LaxNetSlice, LaxSlicedPacket, TransportSlice};
use pcap_parser::Linktype;

use super::{Flags, Transport};

/// The TCP or UDP packet in a record.
pub(crate) struct Found<'a> {
    pub source: SocketAddr,
    pub destination: SocketAddr,
    pub transport: Transport,
    pub header: &'a [u8],
    pub payload: &'a [u8],
    /// Bytes of payload that are not in the record.
    pub cut: usize,
}

/// Why there is none.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Skip {
    UnknownLink,
    NotIp,
    Fragment,
    OtherProtocol,
    Malformed,
}

/// LINKTYPE_RAW as OpenBSD and the rest of the BSDs number it in files of their own.
const RAW_BSD: [Linktype; 2] = [Linktype(12), Linktype(14)];

/// Finds the packet in `bytes`, which start with the header of link type `link`.
///
/// Checksums are not looked at: a capture on the sending machine is made before hardware fills them in.
pub(crate) fn dissect(link: i32, bytes: &[u8]) -> Result<Found<'_>, Skip> {
    let link = Linktype(link);
    let packet = match link {
        Linktype::ETHERNET => LaxSlicedPacket::from_ethernet(bytes).map_err(|_| Skip::Malformed)?,
        // The protocol is the last field of the one header and the first of the other (LINKTYPE_LINUX_SLL, _SLL2).
        Linktype::LINUX_SLL => ether_payload(bytes, 14, 16)?,
        Linktype::LINUX_SLL2 => ether_payload(bytes, 0, 20)?,
        // The four bytes tell the address family in the numbers of the system of the capture; so does the IP header.
        Linktype::NULL | Linktype::LOOP => ip(bytes.get(4..).ok_or(Skip::Malformed)?)?,
        Linktype::RAW | Linktype::IPV4 | Linktype::IPV6 => ip(bytes)?,
        raw if RAW_BSD.contains(&raw) => ip(bytes)?,
        _ => return Err(Skip::UnknownLink),
    };
    // Bytes of the IP payload that its header announces: what is behind them is padding, what lacks was cut.
    let (addresses, announced) = match &packet.net {
        Some(LaxNetSlice::Ipv4(ip)) => {
            let header = ip.header();
            let behind = usize::from(header.total_len()).saturating_sub(header.slice().len());
            let extensions = ip.extensions().auth.map_or(0, |auth| auth.slice().len());
            let pair = (IpAddr::V4(header.source_addr()), IpAddr::V4(header.destination_addr()));
            (pair, behind.saturating_sub(extensions))
        }
        Some(LaxNetSlice::Ipv6(ip)) => {
            let header = ip.header();
            let behind = usize::from(header.payload_length());
            let pair = (IpAddr::V6(header.source_addr()), IpAddr::V6(header.destination_addr()));
            (pair, behind.saturating_sub(ip.extensions().slice().len()))
        }
        Some(LaxNetSlice::Arp(_)) => return Err(Skip::NotIp),
        None if packet.stop_err.is_some() => return Err(Skip::Malformed),
        None => return Err(Skip::NotIp),
    };
    let inside = packet.ip_payload().ok_or(Skip::Malformed)?;
    if inside.fragmented {
        return Err(Skip::Fragment);
    }
    let (ports, transport, header, payload) = match &packet.transport {
        Some(TransportSlice::Tcp(tcp)) => {
            let flags =
                Flags { syn: tcp.syn(), fin: tcp.fin(), rst: tcp.rst(), psh: tcp.psh(), ack: tcp.ack() };
            (
                (tcp.source_port(), tcp.destination_port()),
                Transport::Tcp { sequence: tcp.sequence_number(), flags },
                tcp.header_slice(),
                tcp.payload(),
            )
        }
        Some(TransportSlice::Udp(udp)) => {
            ((udp.source_port(), udp.destination_port()), Transport::Udp, udp.header_slice(), udp.payload())
        }
        _ if [IpNumber::TCP, IpNumber::UDP].contains(&inside.ip_number) => return Err(Skip::Malformed),
        _ => return Err(Skip::OtherProtocol),
    };
    // Segmentation offload leaves a length of zero in the IP header: then the record is all there is.
    let announced = if announced == 0 { inside.payload.len() } else { announced };
    Ok(Found {
        source: SocketAddr::new(addresses.0, ports.0),
        destination: SocketAddr::new(addresses.1, ports.1),
        transport,
        header,
        payload,
        cut: announced.saturating_sub(header.len() + payload.len()),
    })
}

fn ip(bytes: &[u8]) -> Result<LaxSlicedPacket<'_>, Skip> {
    LaxSlicedPacket::from_ip(bytes).map_err(|_| Skip::Malformed)
}

fn ether_payload(bytes: &[u8], protocol: usize, header: usize) -> Result<LaxSlicedPacket<'_>, Skip> {
    let (Some(kind), Some(payload)) = (bytes.get(protocol..protocol + 2), bytes.get(header..)) else {
        return Err(Skip::Malformed);
    };
    let kind = kind.iter().fold(0, |number, byte| number << 8 | u16::from(*byte));
    Ok(LaxSlicedPacket::from_ether_type(EtherType(kind), payload))
}

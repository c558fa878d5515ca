//! The internet checksum (RFC 1071) over transport headers, as the stack and the hardware compute it.

use std::net::IpAddr;

pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const ICMP: u8 = 1;
pub(crate) const ICMPV6: u8 = 58;

/// Bytes of a header without options.
pub(crate) fn header(protocol: u8) -> usize {
    if protocol == TCP { 20 } else { 8 }
}

/// Where the checksum of a protocol lies in its header.
pub(crate) fn position(protocol: u8) -> Option<usize> {
    match protocol {
        TCP => Some(16),
        UDP => Some(6),
        ICMP | ICMPV6 => Some(2),
        _ => None,
    }
}

fn sum(bytes: &[u8]) -> u64 {
    let (pairs, rest) = bytes.as_chunks::<2>();
    let tail = rest.first().map_or(0, |byte| u64::from(*byte) << 8);
    pairs.iter().map(|pair| u64::from(u16::from_be_bytes(*pair))).sum::<u64>() + tail
}

fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// The folded sum of the pseudo-header, not complemented: what a header holds when hardware finishes it.
pub(crate) fn pseudo(local: IpAddr, remote: IpAddr, protocol: u8, length: usize) -> u16 {
    if protocol == ICMP {
        return 0;
    }
    let addresses = match (local, remote) {
        (IpAddr::V4(local), IpAddr::V4(remote)) => sum(&local.octets()) + sum(&remote.octets()),
        (IpAddr::V6(local), IpAddr::V6(remote)) => sum(&local.octets()) + sum(&remote.octets()),
        _ => 0,
    };
    fold(addresses + u64::from(protocol) + (length as u64 & 0xffff) + (length as u64 >> 16))
}

/// The checksum of a packet whose checksum field counts as zero.
pub(crate) fn full(local: IpAddr, remote: IpAddr, protocol: u8, packet: &[u8]) -> Option<u16> {
    let at = position(protocol)?;
    let field = packet.get(at..at + 2)?;
    let without = sum(packet) - sum(field);
    let value = !fold(without + u64::from(pseudo(local, remote, protocol, packet.len())));
    Some(if protocol == UDP && value == 0 { 0xffff } else { value })
}

/// Writes the checksum field; a packet too short for one stays as it is.
pub(crate) fn put(protocol: u8, packet: &mut [u8], value: u16) {
    if let Some(field) = position(protocol).and_then(|at| packet.get_mut(at..at + 2)) {
        field.copy_from_slice(&value.to_be_bytes());
    }
}

/// The checksum field.
pub(crate) fn get(protocol: u8, packet: &[u8]) -> Option<u16> {
    let field = position(protocol).and_then(|at| packet.get(at..at + 2))?;
    Some(u16::from_be_bytes([field[0], field[1]]))
}

/// Whether a receiver accepts the packet.
pub(crate) fn right(local: IpAddr, remote: IpAddr, protocol: u8, packet: &[u8]) -> bool {
    match (get(protocol, packet), full(local, remote, protocol, packet)) {
        (Some(0), _) if protocol == UDP && local.is_ipv4() => true,
        // One's complement has two zeroes; only UDP's 0 means something else.
        (Some(got), Some(wanted)) => {
            got == wanted || (protocol != UDP && got ^ wanted == 0xffff && got % 0xffff == 0)
        }
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of RFC 1071 section 3.
    #[test]
    fn sums_like_the_rfc() {
        assert_eq!(fold(sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7])), 0xddf2);
    }

    #[test]
    fn hardware_finishes_what_the_pseudo_header_began() {
        let (local, remote) = ("10.1.2.3".parse().unwrap(), "192.0.2.9".parse().unwrap());
        let mut packet = vec![0x12, 0x34, 0x00, 0x35, 0, 11, 0, 0, b'a', b'b', b'c'];
        put(UDP, &mut packet, pseudo(local, remote, UDP, 11));
        let finished = !fold(sum(&packet));
        put(UDP, &mut packet, finished);
        assert!(right(local, remote, UDP, &packet));
        packet[9] ^= 1;
        assert!(!right(local, remote, UDP, &packet));
    }
}

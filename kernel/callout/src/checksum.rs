//! Lengths and checksums of an edited packet (RFC 768, 792, 1071, 4443, 8200 section 8.1, 9293).
//!
//! An edited packet goes out in a new list without offload requests, so its checksum is always computed in full: over the
//! pseudo-header, the transport header and the data. Its data may lie in pieces, and is only read.

use fwps_sys::IPPROTO;

/// The two ends of a packet, network order, as the pseudo-header has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ends {
    /// IPv4: source, destination.
    V4([u8; 4], [u8; 4]),
    /// IPv6: source, destination.
    V6([u8; 16], [u8; 16]),
}

impl Ends {
    /// The same source, and this destination, IPv4 in the first four bytes.
    pub(crate) fn to(self, remote: [u8; 16]) -> Self {
        match self {
            Self::V4(source, _) => {
                let [a, b, c, d, ..] = remote;
                Self::V4(source, [a, b, c, d])
            }
            Self::V6(source, _) => Self::V6(source, remote),
        }
    }
}

/// Why a packet can't be repaired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Broken {
    /// It is shorter than its header.
    Short,
    /// It is longer than its length field can say.
    Long,
    /// Nothing is known about checksums of this protocol.
    Protocol,
}

/// Whether [`repair`] knows this protocol.
pub(crate) fn knows(protocol: IPPROTO) -> bool {
    header(protocol).is_some()
}

/// Bytes of a header without options.
pub(crate) fn least(protocol: IPPROTO) -> usize {
    header(protocol).map_or(0, |(least, _)| least)
}

/// Bytes of a protocol's header without options, and where in it the checksum is.
fn header(protocol: IPPROTO) -> Option<(usize, usize)> {
    match protocol {
        IPPROTO::UDP => Some((8, 6)),
        IPPROTO::TCP => Some((20, 16)),
        IPPROTO::ICMP | IPPROTO::ICMPV6 => Some((8, 2)),
        _ => None,
    }
}

/// Makes the length and the checksum of a packet of `len` bytes right. It begins with `head`, which has its transport header
/// and an even number of bytes or all; `behind` is the sum of what follows.
///
/// A UDP sender over IPv4 that asked for no checksum (0) gets one too: a right one is always allowed.
///
/// # Errors
/// [`Broken`]; the packet is then as it was.
pub(crate) fn repair(
    head: &mut [u8],
    behind: Sum,
    len: usize,
    protocol: IPPROTO,
    ends: &Ends,
) -> Result<(), Broken> {
    let (least, field) = header(protocol).ok_or(Broken::Protocol)?;
    if head.len() < least {
        return Err(Broken::Short);
    }
    let length = u16::try_from(len).map_err(|_| Broken::Long)?;
    if protocol == IPPROTO::UDP {
        put(head, 4, length);
    }
    put(head, field, 0);
    let mut sum = Sum { odd: false, ..behind };
    if protocol != IPPROTO::ICMP {
        sum.pseudo_header(ends, protocol, u32::from(length));
    }
    sum.add(head);
    let checksum = match sum.finish() {
        // Zero on the wire means "no checksum" to UDP; both forms of zero are equal in ones' complement.
        0 if protocol == IPPROTO::UDP => 0xffff,
        other => other,
    };
    put(head, field, checksum);
    Ok(())
}

/// Makes the IP header of a raw send right for so many bytes behind it: its length, and IPv4's checksum. Gives back the ends
/// that it names, which count for the pseudo-header.
///
/// # Errors
/// [`Broken`]: it is no header of its own size without extensions, or of a fragment; it is then as it was.
pub(crate) fn repair_header(header: &mut [u8], behind: usize) -> Result<Ends, Broken> {
    match (header.first().map(|first| first >> 4), header.len()) {
        (Some(4), size @ 20..=60) => {
            let words = header.first().map_or(0, |first| usize::from(first & 0xf));
            let fragment =
                header.get(6..8).is_none_or(|bytes| matches!(bytes, [a, b] if a & 0x3f != 0 || *b != 0));
            if words * 4 != size || fragment {
                return Err(Broken::Protocol);
            }
            put(header, 2, u16::try_from(size + behind).map_err(|_| Broken::Long)?);
            put(header, 10, 0);
            let mut sum = Sum::default();
            sum.add(header);
            put(header, 10, sum.finish());
            Ok(Ends::V4(address(header, 12)?, address(header, 16)?))
        }
        (Some(6), 40) => {
            put(header, 4, u16::try_from(behind).map_err(|_| Broken::Long)?);
            Ok(Ends::V6(address(header, 8)?, address(header, 24)?))
        }
        _ => Err(Broken::Protocol),
    }
}

fn address<const BYTES: usize>(header: &[u8], at: usize) -> Result<[u8; BYTES], Broken> {
    header.get(at..).and_then(|bytes| bytes.first_chunk()).copied().ok_or(Broken::Short)
}

/// Writes the destination port of a UDP packet.
pub(crate) fn set_udp_port(packet: &mut [u8], port: u16) {
    put(packet, 2, port);
}

fn put(packet: &mut [u8], at: usize, value: u16) {
    if let Some(field) = packet.get_mut(at..at + 2) {
        field.copy_from_slice(&value.to_be_bytes());
    }
}

/// A sum in ones' complement (RFC 1071), not folded yet: 64 bits hold every packet's.
#[derive(Clone, Copy, Default)]
pub(crate) struct Sum {
    /// In the order of the machine's bytes, which the sum does not depend on (section 2B).
    total: u64,
    /// An odd number of bytes was added.
    odd: bool,
}

impl Sum {
    /// Adds bytes that follow those added before.
    pub(crate) fn add(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<4>();
        let mut sum = words.iter().map(|word| u64::from(u32::from_ne_bytes(*word))).sum::<u64>();
        let mut last = [0; 4];
        last.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
        sum += u64::from(u32::from_ne_bytes(last));
        // Behind an odd number every byte is the other half of its word.
        self.total += if self.odd { u64::from(folded(sum).swap_bytes()) } else { sum };
        self.odd ^= !bytes.len().is_multiple_of(2);
    }

    fn pseudo_header(&mut self, ends: &Ends, protocol: IPPROTO, length: u32) {
        match ends {
            Ends::V4(source, destination) => {
                self.add(source);
                self.add(destination);
            }
            Ends::V6(source, destination) => {
                self.add(source);
                self.add(destination);
            }
        }
        self.add(&length.to_be_bytes());
        self.add(&[0, protocol.0]);
    }

    fn finish(self) -> u16 {
        !u16::from_be(folded(self.total))
    }
}

fn folded(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    sum as u16
}

#[cfg(test)]
mod tests {
    use std::vec;
    use std::vec::Vec;

    use proptest::collection;
    use proptest::prelude::*;

    use super::*;

    const V4: Ends = Ends::V4([192, 0, 2, 1], [198, 51, 100, 2]);
    const V6: Ends = Ends::V6([0x20; 16], [0xfe; 16]);

    /// What a receiver computes: over everything, checksum included, it must come to zero.
    fn receiver_accepts(packet: &[u8], protocol: IPPROTO, ends: &Ends) -> bool {
        let mut sum = Sum::default();
        if protocol != IPPROTO::ICMP {
            sum.pseudo_header(ends, protocol, packet.len() as u32);
        }
        sum.add(packet);
        sum.finish() == 0
    }

    /// A packet that lies together.
    fn repair_all(packet: &mut [u8], protocol: IPPROTO, ends: &Ends) -> Result<(), Broken> {
        let len = packet.len();
        repair(packet, Sum::default(), len, protocol, ends)
    }

    fn header(protocol: IPPROTO, payload: &[u8]) -> Vec<u8> {
        let size = if protocol == IPPROTO::TCP { 20 } else { 8 };
        let mut packet = vec![0x5a; size];
        packet.extend_from_slice(payload);
        packet
    }

    proptest! {
        #[test]
        fn a_receiver_accepts_what_was_repaired(payload in collection::vec(any::<u8>(), 0..300), v6: bool) {
            let ends = if v6 { V6 } else { V4 };
            for protocol in [IPPROTO::UDP, IPPROTO::TCP, IPPROTO::ICMP, IPPROTO::ICMPV6] {
                let mut packet = header(protocol, &payload);
                prop_assert_eq!(repair_all(&mut packet, protocol, &ends), Ok(()));
                prop_assert!(receiver_accepts(&packet, protocol, &ends));
                if protocol == IPPROTO::UDP {
                    prop_assert_eq!(packet[4..6].to_vec(), (packet.len() as u16).to_be_bytes().to_vec());
                    prop_assert_ne!(packet[6..8].to_vec(), vec![0, 0]);
                }
            }
        }

        #[test]
        fn what_lies_in_pieces_sums_up_as_what_lies_together(
            head in collection::vec(any::<u8>(), 4..15),
            pieces in collection::vec(collection::vec(any::<u8>(), 0..40), 0..8),
        ) {
            for protocol in [IPPROTO::UDP, IPPROTO::TCP, IPPROTO::ICMPV6] {
                let mut behind = Sum::default();
                pieces.iter().for_each(|piece| behind.add(piece));
                let mut head = header(protocol, &head[..head.len() / 2 * 2]);
                let mut whole = [&*head, &pieces.concat()].concat();
                prop_assert_eq!(repair_all(&mut whole, protocol, &V6), Ok(()));
                prop_assert_eq!(repair(&mut head, behind, whole.len(), protocol, &V6), Ok(()));
                prop_assert_eq!(&whole[..head.len()], &*head);
            }
        }

        #[test]
        fn a_changed_byte_is_noticed(payload in collection::vec(any::<u8>(), 1..64), at: prop::sample::Index, bit in 0..8_u8) {
            let mut packet = header(IPPROTO::UDP, &payload);
            prop_assert_eq!(repair_all(&mut packet, IPPROTO::UDP, &V6), Ok(()));
            let at = at.index(packet.len());
            packet[at] ^= 1 << bit;
            prop_assert!(!receiver_accepts(&packet, IPPROTO::UDP, &V6));
        }
    }

    #[test]
    fn a_udp_checksum_that_comes_to_zero_is_sent_as_ones() {
        for ends in [V4, V6] {
            let mut packet = header(IPPROTO::UDP, &[0, 0]);
            assert_eq!(repair_all(&mut packet, IPPROTO::UDP, &ends), Ok(()));
            let spare = u16::from_be_bytes([packet[6], packet[7]]);
            // Adding the checksum itself to the data brings the sum to all ones, so its complement to zero.
            packet[8..10].copy_from_slice(&spare.to_be_bytes());
            assert_eq!(repair_all(&mut packet, IPPROTO::UDP, &ends), Ok(()));
            assert_eq!(packet[6..8], [0xff, 0xff]);
            assert!(receiver_accepts(&packet, IPPROTO::UDP, &ends));
        }
    }

    #[test]
    fn the_example_of_rfc_1071_comes_out_right() {
        let mut sum = Sum::default();
        sum.add(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]);
        assert_eq!(sum.finish(), !0xddf2);
    }

    #[test]
    fn the_header_of_a_raw_send_says_how_long_it_is_and_sums_up() {
        let mut v4 =
            [&[0x46, 0, 9, 9, 1, 2, 0x40, 0, 64, 17, 9, 9][..], &[192, 0, 2, 1], &[198, 51, 100, 2], &[1; 4]]
                .concat();
        assert_eq!(repair_header(&mut v4, 100), Ok(V4));
        assert_eq!(v4[2..4], 124_u16.to_be_bytes());
        let mut sum = Sum::default();
        sum.add(&v4);
        assert_eq!(sum.finish(), 0);
        let mut v6 = [&[0x60, 0, 0, 0, 9, 9, 17, 64][..], &[0x20; 16], &[0xfe; 16]].concat();
        assert_eq!(repair_header(&mut v6, 100), Ok(V6));
        assert_eq!(v6[4..6], 100_u16.to_be_bytes());

        for (broken, why) in [
            (v4[..20].to_vec(), Broken::Protocol),
            ([&v6[..], &[0; 8]].concat(), Broken::Protocol),
            ([&v4[..6], &[0x20, 0], &v4[8..]].concat(), Broken::Protocol),
            (vec![], Broken::Protocol),
        ] {
            let mut after = broken.clone();
            assert_eq!((repair_header(&mut after, 9), after), (Err(why), broken));
        }
        assert_eq!(repair_header(&mut v4, 65_512), Err(Broken::Long));
        assert_eq!(repair_header(&mut v6, 65_536), Err(Broken::Long));
    }

    #[test]
    fn what_is_too_short_or_unknown_is_left_alone() {
        for (protocol, least) in [(IPPROTO::UDP, 8), (IPPROTO::TCP, 20), (IPPROTO::ICMP, 8)] {
            let mut packet = vec![7; least - 1];
            assert_eq!(repair_all(&mut packet, protocol, &V4), Err(Broken::Short));
            assert!(packet.iter().all(|byte| *byte == 7));
        }
        let mut long = vec![7; 65_536];
        assert_eq!(repair_all(&mut long, IPPROTO::UDP, &V4), Err(Broken::Long));
        assert!(long.iter().all(|byte| *byte == 7));
        assert_eq!(repair_all(&mut [7; 64], IPPROTO(47), &V4), Err(Broken::Protocol));
        assert!(!knows(IPPROTO(47)));
    }
}

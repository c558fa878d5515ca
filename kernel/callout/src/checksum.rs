//! Lengths and checksums of an edited packet (RFC 768, 792, 1071, 4443, 8200 section 8.1, 9293).
//!
//! An edited packet goes out in a new list without offload requests, so its checksum is always computed in full: over the
//! pseudo-header, the transport header and the data.

use fwps_sys::IPPROTO;

/// The two ends of a packet, network order, as the pseudo-header has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ends {
    /// IPv4: source, destination.
    V4([u8; 4], [u8; 4]),
    /// IPv6: source, destination.
    V6([u8; 16], [u8; 16]),
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
    matches!(protocol, IPPROTO::UDP | IPPROTO::TCP | IPPROTO::ICMP | IPPROTO::ICMPV6)
}

/// Makes the length and the checksum of `packet` right. It begins with its transport header.
///
/// A UDP sender over IPv4 that asked for no checksum (0) gets one too: a right one is always allowed.
///
/// # Errors
/// [`Broken`]; the packet is then as it was.
pub(crate) fn repair(packet: &mut [u8], protocol: IPPROTO, ends: &Ends) -> Result<(), Broken> {
    let (least, field) = match protocol {
        IPPROTO::UDP => (8, 6),
        IPPROTO::TCP => (20, 16),
        IPPROTO::ICMP | IPPROTO::ICMPV6 => (8, 2),
        _ => return Err(Broken::Protocol),
    };
    if packet.len() < least {
        return Err(Broken::Short);
    }
    let length = u16::try_from(packet.len()).map_err(|_| Broken::Long)?;
    if protocol == IPPROTO::UDP {
        put(packet, 4, length);
    }
    put(packet, field, 0);
    let mut sum = Sum(0);
    if protocol != IPPROTO::ICMP {
        sum.pseudo_header(ends, protocol, u32::from(length));
    }
    sum.add(packet);
    let checksum = match sum.finish() {
        // Zero on the wire means "no checksum" to UDP; both forms of zero are equal in ones' complement.
        0 if protocol == IPPROTO::UDP => 0xffff,
        other => other,
    };
    put(packet, field, checksum);
    Ok(())
}

fn put(packet: &mut [u8], at: usize, value: u16) {
    if let Some(field) = packet.get_mut(at..at + 2) {
        field.copy_from_slice(&value.to_be_bytes());
    }
}

/// A sum in ones' complement (RFC 1071), not folded yet: 64 bits hold every packet's.
struct Sum(u64);

impl Sum {
    /// Adds bytes that begin at an even place; an odd last one counts as if a zero followed.
    fn add(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<2>();
        self.0 += words.iter().map(|word| u64::from(u16::from_be_bytes(*word))).sum::<u64>();
        self.0 += rest.iter().map(|byte| u64::from(*byte) << 8).sum::<u64>();
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
        let mut sum = self.0;
        while sum > 0xffff {
            sum = (sum >> 16) + (sum & 0xffff);
        }
        !(sum as u16)
    }
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
        let mut sum = Sum(0);
        if protocol != IPPROTO::ICMP {
            sum.pseudo_header(ends, protocol, packet.len() as u32);
        }
        sum.add(packet);
        sum.finish() == 0
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
                prop_assert_eq!(repair(&mut packet, protocol, &ends), Ok(()));
                prop_assert!(receiver_accepts(&packet, protocol, &ends));
                if protocol == IPPROTO::UDP {
                    prop_assert_eq!(packet[4..6].to_vec(), (packet.len() as u16).to_be_bytes().to_vec());
                    prop_assert_ne!(packet[6..8].to_vec(), vec![0, 0]);
                }
            }
        }

        #[test]
        fn a_changed_byte_is_noticed(payload in collection::vec(any::<u8>(), 1..64), at: prop::sample::Index, bit in 0..8_u8) {
            let mut packet = header(IPPROTO::UDP, &payload);
            prop_assert_eq!(repair(&mut packet, IPPROTO::UDP, &V6), Ok(()));
            let at = at.index(packet.len());
            packet[at] ^= 1 << bit;
            prop_assert!(!receiver_accepts(&packet, IPPROTO::UDP, &V6));
        }
    }

    #[test]
    fn a_udp_checksum_that_comes_to_zero_is_sent_as_ones() {
        for ends in [V4, V6] {
            let mut packet = header(IPPROTO::UDP, &[0, 0]);
            assert_eq!(repair(&mut packet, IPPROTO::UDP, &ends), Ok(()));
            let spare = u16::from_be_bytes([packet[6], packet[7]]);
            // Adding the checksum itself to the data brings the sum to all ones, so its complement to zero.
            packet[8..10].copy_from_slice(&spare.to_be_bytes());
            assert_eq!(repair(&mut packet, IPPROTO::UDP, &ends), Ok(()));
            assert_eq!(packet[6..8], [0xff, 0xff]);
            assert!(receiver_accepts(&packet, IPPROTO::UDP, &ends));
        }
    }

    #[test]
    fn the_example_of_rfc_1071_comes_out_right() {
        let mut sum = Sum(0);
        sum.add(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]);
        assert_eq!(sum.finish(), !0xddf2);
    }

    #[test]
    fn what_is_too_short_or_unknown_is_left_alone() {
        for (protocol, least) in [(IPPROTO::UDP, 8), (IPPROTO::TCP, 20), (IPPROTO::ICMP, 8)] {
            let mut packet = vec![7; least - 1];
            assert_eq!(repair(&mut packet, protocol, &V4), Err(Broken::Short));
            assert!(packet.iter().all(|byte| *byte == 7));
        }
        let mut long = vec![7; 65_536];
        assert_eq!(repair(&mut long, IPPROTO::UDP, &V4), Err(Broken::Long));
        assert!(long.iter().all(|byte| *byte == 7));
        assert_eq!(repair(&mut [7; 64], IPPROTO(47), &V4), Err(Broken::Protocol));
        assert!(!knows(IPPROTO(47)));
    }
}

//! Filters: what of the data at its hook a link is shown.

use serde::{Deserialize, Serialize};

use crate::control::{FlowEnds, Status};
use crate::hook::{Hook, ProgramType};
use crate::limits::MAX_PORT_RANGES;

/// IP protocol number.
pub const TCP: u8 = 6;
/// IP protocol number.
pub const UDP: u8 = 17;

/// IP protocol number.
pub const ICMP: u8 = 1;
/// IP protocol number.
pub const ICMP_V6: u8 = 58;

/// Conditions on data. All of them must hold; the default has none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkFilter {
    /// Which way the bytes go: 0 outbound, 1 inbound. Packets are outbound.
    pub direction: Option<u8>,
    /// IP protocol number. Streams are TCP.
    pub protocol: Option<u8>,
    /// This machine's end.
    pub local: EndFilter,
    /// The other end.
    pub remote: EndFilter,
    /// One of both ends: any for the address, any for the port.
    pub either: EndFilter,
}

/// Conditions on an end of a connection or packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndFilter {
    /// Its address is in this network.
    pub net: Option<Net>,
    /// Its port is in one of these ranges; none: any. Only TCP and UDP have ports.
    pub ports: [Option<Ports>; MAX_PORT_RANGES],
}

/// A network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Net {
    /// Address family: 4 or 6.
    pub family: u8,
    /// Bits that the addresses of the network have in common: at most 32 or 128.
    pub prefix: u8,
    /// An address in it, in network order, IPv4 in the first four bytes.
    pub address: [u8; 16],
}

/// A range of ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ports {
    /// The first one.
    pub first: u16,
    /// The last one.
    pub last: u16,
}

impl LinkFilter {
    /// Whether data that goes this way between these ends is shown. Any IRQL.
    pub fn has(&self, direction: u8, ends: &FlowEnds) -> bool {
        self.direction.is_none_or(|wanted| wanted == direction)
            && self.protocol.is_none_or(|wanted| wanted == ends.protocol)
            && self.local.has(ends, &[&ends.local])
            && self.remote.has(ends, &[&ends.remote])
            && self.either.has(ends, &[&ends.local, &ends.remote])
    }

    /// Whether it is one for this hook, where it can hold.
    ///
    /// # Errors
    /// [`Status::Invalid`].
    pub fn check(&self, hook: Hook) -> Result<(), Status> {
        let is_stream = hook.program_type() == ProgramType::Stream;
        let nets = [self.local.net, self.remote.net, self.either.net].into_iter().flatten();
        let ports = [self.local.ports, self.remote.ports, self.either.ports];
        let mut ports = ports.as_flattened().iter().flatten();
        let may_have_ports = self.protocol.is_none_or(|protocol| matches!(protocol, TCP | UDP));
        let holds = self.direction.is_none_or(|direction| direction <= u8::from(is_stream))
            && self.protocol.is_none_or(|protocol| protocol == TCP || !is_stream)
            && self.family().is_none_or(|family| family == hook.family())
            && nets.clone().all(|net| net.family == hook.family() && net.prefix <= net.width())
            && ports.all(|ports| may_have_ports && ports.first <= ports.last);
        if holds { Ok(()) } else { Err(Status::Invalid) }
    }

    /// The address family that it is about, where its protocol or its addresses are of one.
    pub fn family(&self) -> Option<u8> {
        match self.protocol {
            Some(ICMP) => Some(4),
            Some(ICMP_V6) => Some(6),
            _ => [self.local, self.remote, self.either].iter().find_map(|end| end.net).map(|net| net.family),
        }
    }
}

impl EndFilter {
    /// Whether one of `these` ends has the address, and one the port.
    fn has(&self, ends: &FlowEnds, these: &[&([u8; 16], u16)]) -> bool {
        let in_net = |net: Net| net.family == ends.family && these.iter().any(|end| net.has(end.0));
        let in_range = |port: u16| self.ports.iter().flatten().any(|ports| ports.has(port));
        let has_ports = matches!(ends.protocol, TCP | UDP);
        self.net.is_none_or(in_net)
            && (self.ports.iter().all(Option::is_none)
                || has_ports && these.iter().any(|end| in_range(end.1)))
    }
}

impl Net {
    /// Bits of an address of its family.
    pub const fn width(&self) -> u8 {
        if self.family == 4 { 32 } else { 128 }
    }

    fn has(&self, address: [u8; 16]) -> bool {
        let differs = u128::from_be_bytes(self.address) ^ u128::from_be_bytes(address);
        // The bits behind the prefix don't count. Of a prefix of 0 none do.
        differs.checked_shr(128_u32.saturating_sub(self.prefix.into())).unwrap_or(0) == 0
    }
}

impl Ports {
    const fn has(&self, port: u16) -> bool {
        self.first <= port && port <= self.last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v4(address: [u8; 4]) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..4].copy_from_slice(&address);
        bytes
    }

    fn net(address: [u8; 4], prefix: u8) -> EndFilter {
        EndFilter { net: Some(Net { family: 4, prefix, address: v4(address) }), ..EndFilter::default() }
    }

    fn port(first: u16, last: u16) -> EndFilter {
        let mut end = EndFilter::default();
        end.ports[2] = Some(Ports { first, last });
        end
    }

    const NONE: LinkFilter = LinkFilter {
        direction: None,
        protocol: None,
        local: EndFilter { net: None, ports: [None; MAX_PORT_RANGES] },
        remote: EndFilter { net: None, ports: [None; MAX_PORT_RANGES] },
        either: EndFilter { net: None, ports: [None; MAX_PORT_RANGES] },
    };

    fn ends() -> FlowEnds {
        let (local, remote) = ((v4([10, 1, 2, 3]), 50_000), (v4([192, 0, 2, 1]), 443));
        FlowEnds { protocol: TCP, family: 4, local, remote }
    }

    fn has(filter: &LinkFilter) -> bool {
        filter.has(0, &ends())
    }

    #[test]
    fn without_conditions_everything_is_shown() {
        assert_eq!(NONE, LinkFilter::default());
        assert!(has(&NONE));
        assert!(Hook::ALL.iter().all(|hook| NONE.check(*hook).is_ok()));
    }

    #[test]
    fn each_condition_is_about_its_own_end() {
        for (local, remote, either) in [(true, false, true), (false, true, true)] {
            let (address, number) = if local { ([10, 1, 2, 3], 50_000) } else { ([192, 0, 2, 1], 443) };
            for end in [net(address, 32), port(number, number)] {
                assert_eq!(has(&LinkFilter { local: end, ..NONE }), local);
                assert_eq!(has(&LinkFilter { remote: end, ..NONE }), remote);
                assert_eq!(has(&LinkFilter { either: end, ..NONE }), either);
            }
        }
    }

    #[test]
    fn the_address_and_the_port_of_either_end_need_not_be_of_the_same() {
        let either = EndFilter { net: net([10, 0, 0, 0], 8).net, ..port(443, 443) };
        assert!(has(&LinkFilter { either, ..NONE }));
        assert!(!has(&LinkFilter { local: either, ..NONE }));
    }

    #[test]
    fn a_prefix_counts_to_the_bit() {
        for (address, prefix, is_in) in [
            ([10, 1, 2, 3], 32, true),
            ([10, 1, 2, 2], 32, false),
            ([10, 1, 2, 2], 31, true),
            ([10, 1, 2, 1], 31, false),
            ([10, 1, 2, 1], 30, true),
            ([11, 0, 0, 0], 8, false),
            ([11, 0, 0, 0], 7, true),
            ([200, 0, 0, 0], 1, false),
            ([200, 0, 0, 0], 0, true),
        ] {
            assert_eq!(
                has(&LinkFilter { local: net(address, prefix), ..NONE }),
                is_in,
                "{address:?}/{prefix}"
            );
        }
    }

    #[test]
    fn a_network_is_of_one_family() {
        let any_v6 =
            EndFilter { net: Some(Net { family: 6, prefix: 0, address: [0; 16] }), ..EndFilter::default() };
        assert!(!has(&LinkFilter { either: any_v6, ..NONE }));
        assert!(LinkFilter { either: any_v6, ..NONE }.has(0, &FlowEnds { family: 6, ..ends() }));
        assert_eq!(LinkFilter { either: any_v6, ..NONE }.family(), Some(6));
    }

    #[test]
    fn ranges_have_their_ends_and_only_protocols_with_ports_have_ports() {
        for (first, last, is_in) in
            [(443, 443, true), (444, 500, false), (1, 442, false), (442, 443, true), (443, 444, true)]
        {
            assert_eq!(has(&LinkFilter { remote: port(first, last), ..NONE }), is_in, "{first}-{last}");
        }
        let filter = LinkFilter { remote: port(443, 443), ..NONE };
        assert!(filter.has(0, &FlowEnds { protocol: UDP, ..ends() }));
        assert!(!filter.has(0, &FlowEnds { protocol: 1, ..ends() }));
    }

    #[test]
    fn one_range_of_several_is_enough() {
        let mut remote = port(80, 80);
        remote.ports[0] = Some(Ports { first: 400, last: 500 });
        assert!(has(&LinkFilter { remote, ..NONE }));
    }

    #[test]
    fn direction_and_protocol_are_the_data_s() {
        assert!(LinkFilter { direction: Some(1), ..NONE }.has(1, &ends()));
        assert!(!LinkFilter { direction: Some(1), ..NONE }.has(0, &ends()));
        assert!(has(&LinkFilter { protocol: Some(TCP), ..NONE }));
        assert!(!has(&LinkFilter { protocol: Some(UDP), ..NONE }));
    }

    #[test]
    fn what_can_never_hold_at_a_hook_is_refused() {
        let check = |filter: LinkFilter| {
            [Hook::StreamV4, Hook::StreamV6, Hook::OutboundTransportV4].map(|hook| filter.check(hook).is_ok())
        };
        assert_eq!(check(LinkFilter { direction: Some(0), ..NONE }), [true; 3]);
        assert_eq!(check(LinkFilter { direction: Some(1), ..NONE }), [true, true, false]);
        assert_eq!(check(LinkFilter { direction: Some(2), ..NONE }), [false; 3]);
        assert_eq!(check(LinkFilter { protocol: Some(TCP), ..NONE }), [true; 3]);
        assert_eq!(check(LinkFilter { protocol: Some(UDP), ..NONE }), [false, false, true]);
        assert_eq!(check(LinkFilter { local: net([1; 4], 32), ..NONE }), [true, false, true]);
        assert_eq!(check(LinkFilter { remote: net([1; 4], 33), ..NONE }), [false; 3]);
        assert_eq!(check(LinkFilter { either: port(2, 1), ..NONE }), [false; 3]);
        assert_eq!(check(LinkFilter { protocol: Some(ICMP), ..NONE }), [false, false, true]);
        assert_eq!(check(LinkFilter { protocol: Some(ICMP_V6), ..NONE }), [false; 3]);
        let six =
            |protocol| LinkFilter { protocol: Some(protocol), ..NONE }.check(Hook::DatagramDataV6).is_ok();
        assert_eq!([ICMP, ICMP_V6].map(six), [false, true]);
        let with_ports = |protocol| check(LinkFilter { protocol: Some(protocol), local: port(1, 2), ..NONE });
        assert_eq!([UDP, ICMP].map(with_ports), [[false, false, true], [false; 3]]);
        let beyond = Net { family: 6, prefix: 129, address: [0; 16] };
        let end = EndFilter { net: Some(beyond), ..EndFilter::default() };
        assert_eq!(check(LinkFilter { local: end, ..NONE }), [false; 3]);
        let unknown = Net { family: 5, ..beyond };
        let end = EndFilter { net: Some(unknown), ..EndFilter::default() };
        assert_eq!(check(LinkFilter { local: end, ..NONE }), [false; 3]);
    }
}

//! Filters of links as people write them: conditions that all must hold, in words that pcap-filter knows.

use std::net::IpAddr;

use tidegate_abi::filter::{EndFilter, ICMP, ICMP_V6, Net, Ports, TCP, UDP};
use tidegate_abi::limits::MAX_PORT_RANGES;
use tidegate_abi::{Hook, LinkFilter, ProgramType};

use crate::error::Error;

/// What a filter may say, for help texts.
pub const HELP: &str = "What the link is shown, as conditions that must all hold:\n  \
    tcp, udp, icmp, icmp6, proto NUMBER   the protocol\n  \
    outbound, inbound                     which way the bytes go\n  \
    port 80,443,8000-8080                 a port of one of both ends\n  \
    host ADDRESS, net ADDRESS/BITS        an address of one of both ends\n  \
    local ..., remote ...                 the same of this machine's end, or of the other one\n\
    For example 'tcp port 443', or 'outbound and remote port 80,443 and remote net 192.0.2.0/24'.";

const PROTOCOLS: [(&str, u8); 4] = [("tcp", TCP), ("udp", UDP), ("icmp", ICMP), ("icmp6", ICMP_V6)];
const DIRECTIONS: [(&str, u8); 2] = [("outbound", 0), ("inbound", 1)];

/// Reads a filter.
///
/// # Errors
/// What is wrong with it, and what it should be.
pub fn parse(text: &str) -> Result<LinkFilter, String> {
    let mut filter = LinkFilter::default();
    let mut words = text.split_whitespace().filter(|word| !matches!(*word, "and" | "&&")).peekable();
    if words.peek().is_none() {
        return Err("a filter has a condition, as `tcp port 443`".into());
    }
    while let Some(word) = words.next() {
        let (whose, end, word) = match word {
            "local" => (true, &mut filter.local, words.next()),
            "remote" => (true, &mut filter.remote, words.next()),
            word => (false, &mut filter.either, Some(word)),
        };
        let word = word.unwrap_or_default();
        if whose && !matches!(word, "port" | "portrange" | "host" | "net") {
            return Err("behind `local` and `remote` stands `port`, `host` or `net`".into());
        }
        let mut next = || words.next().ok_or_else(|| format!("behind `{word}` stands what it is"));
        match word {
            "port" | "portrange" => set_ports(end, next()?)?,
            "host" | "net" => set_net(end, word, next()?)?,
            "proto" => {
                let number = next()?;
                let number = called(&PROTOCOLS, number).or_else(|| number.parse().ok());
                once(&mut filter.protocol, "the protocol", number.ok_or("`proto` is a number up to 255")?)?;
            }
            "src" | "dst" => {
                return Err(format!(
                    "`{word}`: bytes go both ways between the ends; say `local` (this machine) or `remote`"
                ));
            }
            "or" | "||" | "not" | "!" => {
                return Err(format!(
                    "`{word}`: the conditions of a filter all hold. Ports may be several, `port 80,443`; for other \
                     data, attach the program once more"
                ));
            }
            word => {
                if let Some(protocol) = called(&PROTOCOLS, word) {
                    once(&mut filter.protocol, "the protocol", protocol)?;
                } else if let Some(direction) = called(&DIRECTIONS, word) {
                    once(&mut filter.direction, "the direction", direction)?;
                } else {
                    return Err(format!(
                        "`{word}` is no condition: tcp, udp, icmp, icmp6, proto, outbound, inbound, port, host, net, \
                         local, remote"
                    ));
                }
            }
        }
    }
    Ok(filter)
}

/// The number of a name.
fn called(names: &[(&str, u8)], name: &str) -> Option<u8> {
    names.iter().find(|(known, _)| *known == name).map(|(_, number)| *number)
}

fn once<T>(place: &mut Option<T>, what: &str, value: T) -> Result<(), String> {
    match place.replace(value) {
        Some(_) => Err(format!("{what} is said twice, and all conditions must hold")),
        None => Ok(()),
    }
}

fn set_ports(end: &mut EndFilter, list: &str) -> Result<(), String> {
    if end.ports != EndFilter::default().ports {
        return Err(
            "the port is said twice, and all conditions must hold; several are a list: `port 80,443`".into(),
        );
    }
    let range = |text: &str| {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let ports = first.parse().ok().zip(last.parse().ok()).map(|(first, last)| Ports { first, last });
        ports
            .filter(|ports| ports.first <= ports.last)
            .ok_or_else(|| format!("`{text}` is no port or range of ports, as 443 or 8000-8080"))
    };
    let ranges = list.split(',').map(range).collect::<Result<Vec<_>, _>>()?;
    if ranges.len() > MAX_PORT_RANGES {
        return Err(format!("{} ports and ranges, there is room for {MAX_PORT_RANGES}", ranges.len()));
    }
    end.ports.iter_mut().zip(ranges).for_each(|(place, range)| *place = Some(range));
    Ok(())
}

fn set_net(end: &mut EndFilter, word: &str, text: &str) -> Result<(), String> {
    let wrong = || match word {
        "host" => format!("`{text}` is no address"),
        _ => format!("`{text}` is no network, as 192.0.2.0/24 or 2001:db8::/32"),
    };
    let (address, bits) = match text.split_once('/') {
        Some((address, bits)) if word == "net" => (address, Some(bits)),
        None if word == "host" => (text, None),
        _ => return Err(wrong()),
    };
    let address: IpAddr = address.parse().map_err(|_| wrong())?;
    let (family, width, bytes) = match address {
        IpAddr::V4(v4) => (4, 32, u128::from(u32::from(v4)) << 96),
        IpAddr::V6(v6) => (6, 128, u128::from(v6)),
    };
    let prefix = bits.map_or(Ok(width), str::parse).map_err(|_| wrong())?;
    if prefix > width {
        return Err(wrong());
    }
    let inside = u128::MAX.checked_shr(prefix.into()).unwrap_or(0);
    let net = Net { family, prefix, address: (bytes & !inside).to_be_bytes() };
    if bytes & inside != 0 {
        return Err(format!("`{text}` has bits behind its prefix; the network is {}", show_net(net)));
    }
    once(&mut end.net, "the address", net)
}

/// Where a program of this type runs with this filter: at these hooks, or where nobody says at which at those of both families,
/// or of the one that the filter names.
///
/// # Errors
/// It never holds at one of them.
pub fn hooks(said: &[Hook], kind: ProgramType, filter: Option<&LinkFilter>) -> Result<Vec<Hook>, Error> {
    let Some(filter) = filter else {
        return Ok(if said.is_empty() { kind.hooks().to_vec() } else { said.to_vec() });
    };
    let is_of = |hook: &Hook| filter.family().is_none_or(|family| hook.family() == family);
    let all = kind.hooks().into_iter().filter(is_of);
    let hooks = if said.is_empty() { all.collect() } else { said.to_vec() };
    match hooks.iter().find(|hook| filter.check(**hook).is_err()) {
        None => Ok(hooks),
        Some(hook) => {
            let message = format!("`{}` never holds at {}", show(filter), hook.name());
            Err(Error::usage("link-filter", message)
                .with_help("streams are TCP, packets are outbound, only TCP and UDP have ports, and a hook has addresses of one family"))
        }
    }
}

/// A filter as it is written: what is shown can be typed again.
pub fn show(filter: &LinkFilter) -> String {
    let named = |names: &[(&str, u8)], number: u8| {
        names.iter().find(|(_, named)| *named == number).map(|(name, _)| (*name).to_owned())
    };
    let mut all = Vec::new();
    all.extend(
        filter.protocol.map(|number| named(&PROTOCOLS, number).unwrap_or_else(|| format!("proto {number}"))),
    );
    all.extend(filter.direction.and_then(|number| named(&DIRECTIONS, number)));
    for (whose, end) in [("local ", filter.local), ("remote ", filter.remote), ("", filter.either)] {
        let ports: Vec<_> = end.ports.iter().flatten().map(show_ports).collect();
        if !ports.is_empty() {
            all.push(format!("{whose}port {}", ports.join(",")));
        }
        all.extend(end.net.map(|net| match net.prefix == net.width() {
            true => format!("{whose}host {}", address(net)),
            false => format!("{whose}net {}", show_net(net)),
        }));
    }
    all.join(" and ")
}

fn show_ports(ports: &Ports) -> String {
    match ports {
        Ports { first, last } if first == last => first.to_string(),
        Ports { first, last } => format!("{first}-{last}"),
    }
}

fn show_net(net: Net) -> String {
    format!("{}/{}", address(net), net.prefix)
}

fn address(net: Net) -> IpAddr {
    let [a, b, c, d, ..] = net.address;
    if net.family == 4 { IpAddr::from([a, b, c, d]) } else { IpAddr::from(net.address) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn conditions_are_read_in_any_order_and_shown_in_one() {
        for (text, shown) in [
            ("tcp port 443", "tcp and port 443"),
            ("port 443 and tcp", "tcp and port 443"),
            ("outbound && remote port 80,8000-8080", "outbound and remote port 80,8000-8080"),
            ("portrange 1-9", "port 1-9"),
            ("proto udp local host 10.0.0.1", "udp and local host 10.0.0.1"),
            ("proto 47", "proto 47"),
            ("net 10.0.0.0/8 port 53", "port 53 and net 10.0.0.0/8"),
            ("remote net 2001:db8::/32 icmp6", "icmp6 and remote net 2001:db8::/32"),
            ("host ::1 inbound", "inbound and host ::1"),
            ("net 0.0.0.0/0", "net 0.0.0.0/0"),
        ] {
            let filter = parse(text).expect(text);
            assert_eq!(show(&filter), shown);
            assert_eq!(parse(shown), Ok(filter));
        }
    }

    #[test]
    fn what_is_wrong_is_said_with_its_cure() {
        for (text, wrong) in [
            ("", "a filter has a condition, as `tcp port 443`"),
            ("tcp udp", "the protocol is said twice, and all conditions must hold"),
            ("port 80 port 443", "several are a list: `port 80,443`"),
            ("port 80 or port 443", "Ports may be several, `port 80,443`"),
            ("not tcp", "the conditions of a filter all hold"),
            ("dst port 80", "say `local` (this machine) or `remote`"),
            ("port", "behind `port` stands what it is"),
            ("port 70000", "`70000` is no port or range of ports"),
            ("port 9-1", "`9-1` is no port or range of ports"),
            ("port 1,2,3,4,5", "5 ports and ranges, there is room for 4"),
            ("host 10.0.0.0/8", "`10.0.0.0/8` is no address"),
            ("net 10.0.0.0/33", "`10.0.0.0/33` is no network"),
            ("net 10.1.0.0/8", "the network is 10.0.0.0/8"),
            ("local", "behind `local` and `remote` stands"),
            ("local tcp", "behind `local` and `remote` stands"),
            ("proto 256", "`proto` is a number up to 255"),
            ("tpc", "`tpc` is no condition: tcp"),
        ] {
            let error = parse(text).expect_err(text);
            assert!(error.contains(wrong), "{text}: {error}");
        }
    }

    fn end() -> impl Strategy<Value = EndFilter> {
        let net = (any::<bool>(), 0_u8..=128, any::<u128>()).prop_map(|(v6, prefix, address)| {
            let (family, prefix) = if v6 { (6, prefix) } else { (4, prefix.min(32)) };
            let inside = u128::MAX.checked_shr(prefix.into()).unwrap_or(0);
            Net { family, prefix, address: (address & !inside).to_be_bytes() }
        });
        let range = (any::<u16>(), any::<u16>()).prop_map(|(a, b)| Ports { first: a.min(b), last: a.max(b) });
        let ports = prop::collection::vec(range, 0..=MAX_PORT_RANGES).prop_map(|ranges| {
            let mut ports = [None; MAX_PORT_RANGES];
            ports.iter_mut().zip(ranges).for_each(|(place, range)| *place = Some(range));
            ports
        });
        (prop::option::of(net), ports).prop_map(|(net, ports)| EndFilter { net, ports })
    }

    proptest! {
        #[test]
        fn what_is_shown_can_be_typed_again(
            direction in prop::option::of(0_u8..2), protocol: Option<u8>, local in end(), remote in end(), either in end(),
        ) {
            let filter = LinkFilter { direction, protocol, local, remote, either };
            prop_assume!(filter != LinkFilter::default());
            prop_assert_eq!(parse(&show(&filter)), Ok(filter));
        }

        #[test]
        fn any_text_is_read_or_refused(text: String) {
            let _ = parse(&text);
        }
    }
}

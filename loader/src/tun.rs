//! Send policies on a system's real outgoing packets: what is routed into one TUN device leaves through another one, as the
//! policy lets it. Linux.
//!
//! Two devices and one thread between them, which owns the machine. What comes back is carried unseen: the send hooks see only
//! what goes out. Packets that no hook would be shown (other protocols, fragments, options in their IP header, lengths that
//! contradict each other) pass or don't, as is asked for, and are counted.

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::pin::pin;

use schemars::JsonSchema;
use serde::Serialize;
use tidegate_abi::ProgramType;
use tokio::sync::mpsc;
use tun_rs::{AsyncDevice, DeviceBuilder};

use crate::capture::{self, Found, Hop, LINK_RAW, Transport};
use crate::cli;
use crate::control::{Control, Messages, Request};
use crate::error::{Error, Exit};
use crate::host::{self, Machine, Session};
use crate::object::Object;
use crate::run::Policy;
use crate::signals;
use crate::tally::{Tally, count};

/// Bytes of the largest IP packet.
const LARGEST: usize = 65_535;

/// What `tidegate tun` was asked to do.
#[derive(clap::Args, Clone, Debug)]
#[command(mut_arg("file", |arg| arg.required(false)))]
pub struct Options {
    /// The object, and how its programs are set up; with --control there need be none
    #[command(flatten)]
    pub policy: Option<Policy>,
    /// The device that packets are routed into
    #[arg(long, value_name = "NAME", default_value = "tg-in")]
    pub inside: String,
    /// The device that they come out of
    #[arg(long, value_name = "NAME", default_value = "tg-out")]
    pub outside: String,
    /// What becomes of packets that no hook is shown: other protocols, fragments, those with options in their IP header or with
    /// lengths that contradict each other
    #[arg(long, value_enum, default_value = "permit", value_name = "FATE")]
    pub unseen: Unseen,
    /// Be a host: answer `tidegate --host PATH` on this socket, which only its owner may open; `vm` is the one to which verbs speak
    /// that name no host
    #[arg(long, value_name = "PATH")]
    pub control: Option<PathBuf>,
    /// End after so many packets from inside
    #[arg(long, value_name = "N")]
    pub packets: Option<u64>,
}

/// What becomes of a packet that can't be shown.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unseen {
    /// It leaves as it is
    Permit,
    /// It does not leave: nothing passes by the policy
    Block,
}

/// Something that happened.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Line {
    /// Packets are carried from now on.
    Up {
        /// The device that packets are routed into.
        inside: String,
        /// The device that they come out of.
        outside: String,
    },
}

/// What it all came to.
#[derive(Clone, Debug, Default, Serialize, JsonSchema)]
pub struct Summary {
    /// Packets that were shown to programs.
    pub shown: u64,
    /// Those that left as they were.
    pub passed: u64,
    /// Packets that left in place of others, or besides.
    pub changed: u64,
    /// Those of which nothing left.
    pub blocked: u64,
    /// Packets that no hook is shown.
    pub unseen: u64,
    /// Packets that came back.
    pub returned: u64,
    /// Packets that the system did not take, or that were too long to be packets.
    pub failed: u64,
    /// What the programs did.
    #[serde(flatten)]
    pub tally: Tally,
    /// What went against the contract with the filter engine.
    pub broken: Vec<String>,
}

/// Carries packets until it is interrupted or terminated, or until so many came from inside as were asked for. `tell` hears what happens.
///
/// # Errors
/// The policy does not fit, or the devices can't be made.
pub fn run(options: &Options, tell: impl FnOnce(&Line)) -> Result<Summary, Error> {
    let mut machine = match &options.policy {
        Some(policy) => Machine::new(&Object::read(&policy.file)?, &policy.setup()?)?,
        None if options.control.is_some() => Machine::empty()?,
        None => {
            return Err(Error::usage("tun-policy", "there is no object, and nobody could bring one")
                .with_help("name an object, or a socket to which they are brought: --control PATH"));
        }
    };
    if let Some(program) = machine.runs_beside(ProgramType::Send) {
        let message = format!("`{program}` is no program for packets: a tunnel would never run it");
        return Err(Error::usage("tun-program", message).with_help(
            "programs in the section tidegate/send decide about packets; `tidegate proxy` runs those about streams",
        ));
    }
    let tasks = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let tasks = tasks.map_err(|error| Error::new("tun-runtime", Exit::Partial, error.to_string()))?;
    tasks.block_on(async {
        let (inside, outside) = (device(&options.inside)?, device(&options.outside)?);
        let (asks, asked) = mpsc::unbounded_channel();
        if let Some(path) = &options.control {
            tokio::spawn(Control::bind(path)?.serve(Messages::new(asks, machine.runtime())));
        }
        let ending = signals::ending();
        let ending = ending.map_err(|error| Error::new("tun-signal", Exit::Partial, error.to_string()))?;
        let session = machine.live(ProgramType::Send)?;
        tell(&Line::Up { inside: options.inside.clone(), outside: options.outside.clone() });
        let mut carrier = Carrier::new(session, options.unseen);
        carrier.carry(&inside, &outside, asked, ending, options.packets).await?;
        carrier.summary.broken = carrier.session.end();
        Ok(carrier.summary)
    })
}

fn device(name: &str) -> Result<AsyncDevice, Error> {
    // Whoever routes into it says when it is up, and what its address is.
    DeviceBuilder::new().name(name).enable(false).build_async().map_err(|error| {
        let exit = if error.kind() == io::ErrorKind::PermissionDenied { Exit::Denied } else { Exit::Usage };
        Error::new("tun-device", exit, format!("cannot make the device {name}: {error}")).with_help(
            "it takes the right to administer the network: run it as root, or in a namespace of its own \
             (`unshare --map-root-user --net`)",
        )
    })
}

/// The thread between the devices.
struct Carrier<'m> {
    session: Session<'m>,
    unseen: Unseen,
    summary: Summary,
}

impl<'m> Carrier<'m> {
    fn new(session: Session<'m>, unseen: Unseen) -> Self {
        Self { session, unseen, summary: Summary::default() }
    }

    async fn carry(
        &mut self,
        inside: &AsyncDevice,
        outside: &AsyncDevice,
        mut asked: mpsc::UnboundedReceiver<Request>,
        ending: impl Future<Output = ()>,
        packets: Option<u64>,
    ) -> Result<(), Error> {
        let (mut going, mut coming) = (vec![0; LARGEST], vec![0; LARGEST]);
        // One for all packets: a signal that comes while one is shown is there before the next.
        let mut ending = pin!(ending);
        while packets.is_none_or(|packets| self.summary.shown + self.summary.unseen < packets) {
            tokio::select! {
                length = inside.recv(&mut going) => {
                    let packet = received(length, &going)?;
                    for out in self.show(packet)? {
                        self.summary.failed += u64::from(outside.send(&out).await.is_err());
                    }
                }
                length = outside.recv(&mut coming) => {
                    let packet = received(length, &coming)?;
                    self.summary.returned += 1;
                    self.summary.failed += u64::from(inside.send(packet).await.is_err());
                }
                // Without a socket there is nobody who asks.
                Some(Request { message, answer }) = asked.recv() => {
                    // Whoever asked may be gone.
                    let _ = answer.send(self.session.control(&message));
                }
                () = &mut ending => break,
            }
        }
        Ok(())
    }

    /// Shows a packet to the hooks. What leaves in the end.
    fn show(&mut self, packet: &[u8]) -> Result<Vec<Vec<u8>>, Error> {
        let Some((found, hop)) = plain(packet) else {
            self.summary.unseen += 1;
            return Ok(match self.unseen {
                Unseen::Permit => vec![packet.to_vec()],
                Unseen::Block => Vec::new(),
            });
        };
        self.summary.shown += 1;
        let whole = [found.header, found.payload].concat();
        let asked = self.session.send_whole(found.source, found.destination, found.transport, whole);
        self.session.settle();
        let passed = self.session.passed(asked);
        let (mut out, mut failed) = (Vec::new(), 0);
        for sent in self.session.take_sent() {
            if passed && !sent.injected {
                self.summary.passed += 1;
                out.push(packet.to_vec());
                continue;
            }
            let hop = Hop { tos: host::tos(&sent).unwrap_or(hop.tos), ..hop };
            let whole = capture::ip_packet(sent.local, sent.remote, sent.protocol, sent.bytes, hop);
            // A policy can make of a long packet one that no header can describe.
            if whole.len() > LARGEST {
                failed += 1;
            } else {
                self.summary.changed += 1;
                out.push(whole);
            }
        }
        self.session.forget_sends();
        self.summary.failed += failed;
        self.summary.blocked += u64::from(out.is_empty() && failed == 0);
        self.summary.tally.add(&self.session.tally()?);
        Ok(out)
    }
}

fn received(length: io::Result<usize>, buffer: &[u8]) -> Result<&[u8], Error> {
    let length = length
        .map_err(|error| Error::new("tun-device", Exit::Partial, format!("a device is gone: {error}")))?;
    Ok(buffer.get(..length).unwrap_or_default())
}

/// The TCP or UDP packet in an IP packet that is nothing but its headers and its payload, and says so itself.
fn plain(packet: &[u8]) -> Option<(Found<'_>, Hop)> {
    let found = capture::dissect(LINK_RAW, packet).ok()?;
    let number = |bytes: &[u8], at: usize| {
        bytes.get(at..at + 2).map(|two| two.iter().fold(0, |number, byte| number << 8 | usize::from(*byte)))
    };
    let (header, length, ttl, tos) = match found.source.ip() {
        IpAddr::V4(_) => (20, number(packet, 2)?, *packet.get(8)?, *packet.get(1)?),
        IpAddr::V6(_) => {
            (40, 40 + number(packet, 4)?, *packet.get(7)?, packet.first()? << 4 | packet.get(1)? >> 4)
        }
    };
    let inside = found.header.len() + found.payload.len();
    let is_plain = length == packet.len()
        && header + inside == length
        && match found.transport {
            Transport::Udp => number(found.header, 4)? == inside,
            Transport::Tcp { .. } => true,
        };
    is_plain.then_some((found, Hop { ttl, tos }))
}

impl cli::Report for Summary {
    fn exit(&self) -> Exit {
        let whole = self.broken.is_empty() && self.failed == 0 && self.tally.errors == 0;
        if whole { Exit::Ok } else { Exit::Partial }
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Up { inside, outside } => {
                write!(
                    f,
                    "what is routed into {inside} comes out of {outside}: `ip link set` them up, give them addresses"
                )
            }
        }
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for broken in &self.broken {
            writeln!(f, "the contract with the filter engine was broken: {broken}")?;
        }
        let Self { shown, passed, changed, blocked, unseen, returned, failed, tally, .. } = self;
        write!(
            f,
            "{} shown: {passed} passed, {changed} changed, {blocked} blocked; ",
            count(*shown as usize, "packet")
        )?;
        writeln!(f, "{unseen} unseen, {returned} came back, {failed} not taken; {tally}")
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use proptest::prelude::*;
    use proptest::sample::select;

    use super::*;
    use crate::run::OnErrorArg;

    const HOP: Hop = Hop { ttl: 64, tos: 0 };
    const UDP: u8 = 17;
    const TCP: u8 = 6;

    /// Lets `work` show packets to a policy which replaces the first byte of what goes to port 53 by three, and blocks what goes to
    /// port 54. The contract with the filter engine holds.
    fn carried<T>(unseen: Unseen, work: impl FnOnce(&mut Carrier<'_>) -> T) -> T {
        let policy = Policy {
            file: concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/probes.o").into(),
            programs: vec!["by_port".into()],
            maps: vec!["ports.53=2".into(), "ports.54=1".into()],
            map_file: None,
            globals: Vec::new(),
            on_error: OnErrorArg::Block,
        };
        let object = Object::read(&policy.file).expect("the fixture");
        let mut machine = Machine::new(&object, &policy.setup().expect("it fits")).expect("it is accepted");
        let session = machine.live(ProgramType::Send).expect("an engine");
        let mut carrier = Carrier::new(session, unseen);
        let done = work(&mut carrier);
        assert_eq!(carrier.session.end(), Vec::<String>::new());
        done
    }

    /// A whole packet to `port`.
    fn whole(v6: bool, protocol: u8, port: u16, payload: &[u8]) -> Vec<u8> {
        let (from, to): (IpAddr, IpAddr) = if v6 {
            let address = |last| Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, last).into();
            (address(1), address(2))
        } else {
            (Ipv4Addr::new(10, 7, 0, 1).into(), Ipv4Addr::new(10, 7, 0, 2).into())
        };
        let mut bytes = [49152_u16.to_be_bytes(), port.to_be_bytes()].concat();
        if protocol == TCP {
            // Sequence numbers, five words of header, PSH and ACK, a window.
            bytes.extend([0, 0, 0, 1, 0, 0, 0, 1, 5 << 4, 0x18, 1, 0, 0, 0, 0, 0]);
        } else {
            bytes.extend(u16::try_from(8 + payload.len()).expect("it fits").to_be_bytes());
            bytes.extend([0, 0]);
        }
        bytes.extend_from_slice(payload);
        capture::ip_packet(from, to, protocol, bytes, HOP)
    }

    fn set_length(packet: &mut [u8]) {
        let (at, length) = if packet[0] >> 4 == 6 { (4, packet.len() - 40) } else { (2, packet.len()) };
        packet[at..at + 2].copy_from_slice(&(length as u16).to_be_bytes());
    }

    /// Puts options behind the header of an IPv4 packet, or extension headers of these kinds behind that of an IPv6 packet.
    fn extend(mut packet: Vec<u8>, kinds: &[u8]) -> Vec<u8> {
        if packet[0] >> 4 == 4 {
            packet[0] += kinds.len() as u8;
            packet.splice(20..20, vec![1; 4 * kinds.len()]);
        } else {
            for kind in kinds {
                let next = std::mem::replace(&mut packet[6], *kind);
                // Eight bytes; in an authentication header the length counts words less two, elsewhere what is beyond eight bytes.
                packet.splice(40..40, [next, 0, 0, 0, 0, 0, 0, 0]);
            }
        }
        set_length(&mut packet);
        packet
    }

    /// Packets that are proper, that are not what hooks are shown, and that nobody should send.
    fn packet() -> impl Strategy<Value = Vec<u8>> {
        let bytes = prop::collection::vec(any::<u8>(), 0..48);
        let kinds = prop::collection::vec(select(vec![0_u8, 43, 44, 51, 60, 59, 135]), 0..4);
        let change = (0_usize..80, any::<u8>());
        let sound = (any::<bool>(), select(vec![UDP, UDP, TCP, 1, 58, 132]), select(vec![53, 54, 55]), bytes)
            .prop_map(|(v6, protocol, port, payload)| whole(v6, protocol, port, &payload));
        let extended = (sound.clone(), kinds).prop_map(|(packet, kinds)| extend(packet, &kinds));
        let fragment = (sound.clone(), any::<u16>()).prop_map(|(mut packet, place)| {
            // Of IPv6 it is another traffic class, and no fragment.
            packet[6..8].copy_from_slice(&place.to_be_bytes());
            packet
        });
        let changed =
            (extended.clone(), prop::collection::vec(change, 1..4)).prop_map(|(mut packet, changes)| {
                for (at, byte) in changes {
                    let at = at % packet.len();
                    packet[at] = byte;
                }
                packet
            });
        let cut =
            (extended.clone(), 0_usize..120, any::<bool>()).prop_map(|(mut packet, length, says_so)| {
                packet.truncate(length);
                if says_so && packet.len() > 40 {
                    set_length(&mut packet);
                }
                packet
            });
        let padded = (sound.clone(), prop::collection::vec(any::<u8>(), 1..20), any::<bool>());
        let padded = padded.prop_map(|(mut packet, more, says_so)| {
            packet.extend(more);
            if says_so {
                set_length(&mut packet);
            }
            packet
        });
        let noise = prop::collection::vec(any::<u8>(), 0..120);
        prop_oneof![4 => sound, 2 => extended, 1 => fragment, 3 => changed, 2 => cut, 1 => padded, 1 => noise]
    }

    /// Whether hooks are shown it, said without the parser: an IP header and nothing behind it but one TCP or UDP packet.
    fn is_proper(packet: &[u8]) -> bool {
        let number = |at: usize| {
            packet.get(at..at + 2).map_or(0, |two| usize::from(two[0]) << 8 | usize::from(two[1]))
        };
        let (header, protocol, length) = match packet.first().map(|byte| byte >> 4) {
            Some(4) if packet.len() >= 20 && packet[0] == 0x45 && number(6) & 0x3fff == 0 => {
                (20, packet[9], number(2))
            }
            Some(6) if packet.len() >= 40 => (40, packet[6], 40 + number(4)),
            _ => return false,
        };
        let inside = packet.len() - header;
        let has_header = match protocol {
            UDP => inside >= 8 && number(header + 4) == inside,
            TCP => inside >= 20 && (20..=inside).contains(&(usize::from(packet[header + 12] >> 4) * 4)),
            _ => false,
        };
        has_header && length == packet.len()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn whatever_is_sent_leaves_as_the_policy_says_or_as_it_was(packets in prop::collection::vec(packet(), 1..40)) {
            carried(Unseen::Permit, |carrier| {
                for packet in &packets {
                    let before = carrier.summary.clone();
                    let out = carrier.show(packet).expect("it goes on");
                    let now = carrier.summary.clone();
                    let proper = is_proper(packet);
                    prop_assert_eq!(now.shown - before.shown, u64::from(proper), "{:02x?}", packet);
                    prop_assert_eq!(now.unseen - before.unseen, u64::from(!proper));
                    if !proper {
                        prop_assert_eq!(&out, std::slice::from_ref(packet));
                        continue;
                    }
                    let (found, hop) = plain(packet).expect("it is proper");
                    match (found.destination.port(), found.transport, found.payload) {
                        (53, Transport::Udp, [_, rest @ ..]) => {
                            prop_assert_eq!((out.len(), now.changed - before.changed), (1, 1));
                            let (left, left_hop) = plain(&out[0]).expect("it is proper");
                            prop_assert_eq!(left.payload, [b"!!!", rest].concat());
                            prop_assert_eq!((left.source, left.destination), (found.source, found.destination));
                            prop_assert_eq!(left_hop, hop);
                        }
                        (54, ..) => {
                            prop_assert_eq!((out.len(), now.blocked - before.blocked), (0, 1));
                        }
                        // Where there is no first byte, it is not replaced; nor in a segment of TCP, which keeps its length.
                        _ => {
                            prop_assert_eq!(now.passed - before.passed, 1);
                            prop_assert_eq!(&out, std::slice::from_ref(packet));
                        }
                    }
                }
                Ok(())
            })?;
        }
    }

    #[test]
    fn what_no_hook_is_shown_passes_or_does_not_as_is_asked_for() {
        let proper = whole(false, UDP, 55, b"a");
        let mut short = proper.clone();
        // A receiver takes the datagram that this length says.
        short[20 + 5] -= 1;
        let fragment = [&proper[..6], &[0x20, 0], &proper[8..]].concat();
        let unseen = [
            extend(proper.clone(), &[1]),
            extend(whole(true, UDP, 53, b"a"), &[60, 60, 0]),
            whole(false, 1, 53, b"a"),
            fragment,
            short,
            [&proper[..], b"more"].concat(),
            proper[..19].to_vec(),
            Vec::new(),
        ];
        for (fate, left) in [(Unseen::Permit, 1), (Unseen::Block, 0)] {
            carried(fate, |carrier| {
                for packet in &unseen {
                    assert_eq!(carrier.show(packet).expect("it goes on").len(), left, "{packet:02x?}");
                }
                assert_eq!(carrier.show(&proper).expect("it goes on"), std::slice::from_ref(&proper));
                let Summary { shown, passed, unseen: count, blocked, .. } = carrier.summary;
                assert_eq!((shown, passed, count, blocked), (1, 1, unseen.len() as u64, 0));
            });
        }
    }

    #[test]
    fn what_a_policy_made_too_long_for_a_packet_does_not_leave() {
        for v6 in [false, true] {
            let room = LARGEST - if v6 { 40 } else { 20 } - 8;
            carried(Unseen::Permit, |carrier| {
                let longest = whole(v6, UDP, 53, &vec![b'a'; room - 2]);
                let out = carrier.show(&longest).expect("it goes on");
                assert_eq!(out.iter().map(Vec::len).collect::<Vec<_>>(), [LARGEST]);
                assert!(plain(&out[0]).is_some());
                let longer = whole(v6, UDP, 53, &vec![b'a'; room - 1]);
                assert_eq!(carrier.show(&longer).expect("it goes on"), Vec::<Vec<u8>>::new());
                let Summary { changed, blocked, failed, .. } = carrier.summary;
                assert_eq!((changed, blocked, failed), (1, 0, 1), "v6: {v6}");
            });
        }
    }
}

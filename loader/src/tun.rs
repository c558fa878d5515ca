//! Send policies on a system's real outgoing packets: what is routed into one TUN device leaves through another one, as the
//! policy lets it. Linux.
//!
//! Two devices and one thread between them, which owns the machine. What comes back is carried unseen: the send hooks see only
//! what goes out. Packets that no hook would be shown (other protocols, fragments, options in their IP header) pass, and are
//! counted.

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::pin::pin;
use std::time::Instant;

use schemars::JsonSchema;
use serde::Serialize;
use tidegate_abi::ProgramType;
use tun_rs::{AsyncDevice, DeviceBuilder};

use crate::capture::{self, Found, Hop, LINK_RAW};
use crate::cli;
use crate::error::{Error, Exit};
use crate::host::{self, Config, Machine, Session};
use crate::object::Object;
use crate::run::Policy;
use crate::tally::{Tally, count};

/// Bytes of the largest IP packet.
const LARGEST: usize = 65_535;

/// What `tidegate tun` was asked to do.
#[derive(clap::Args, Clone, Debug)]
pub struct Options {
    /// The object, and how its programs are set up
    #[command(flatten)]
    pub policy: Policy,
    /// The device that packets are routed into
    #[arg(long, value_name = "NAME", default_value = "tg-in")]
    pub inside: String,
    /// The device that they come out of
    #[arg(long, value_name = "NAME", default_value = "tg-out")]
    pub outside: String,
    /// End after so many packets from inside
    #[arg(long, value_name = "N")]
    pub packets: Option<u64>,
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
    /// Packets that no hook is shown: they passed.
    pub unseen: u64,
    /// Packets that came back.
    pub returned: u64,
    /// Packets that the system did not take.
    pub failed: u64,
    /// What the programs did.
    #[serde(flatten)]
    pub tally: Tally,
    /// What went against the contract with the filter engine.
    pub broken: Vec<String>,
}

/// Carries packets until it is interrupted, or until so many came from inside as were asked for. `tell` hears what happens.
///
/// # Errors
/// The policy does not fit, or the devices can't be made.
pub fn run(options: &Options, tell: impl FnOnce(&Line)) -> Result<Summary, Error> {
    let object = Object::read(&options.policy.file)?;
    let mut machine = Machine::new(&object, &options.policy.setup()?)?;
    if !machine.runs(ProgramType::Send) {
        return Err(Error::usage("tun-program", "the object has no program for packets").with_help(
            "programs in the section tidegate/send decide about packets; `tidegate proxy` runs those about streams",
        ));
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Error::new("tun-runtime", Exit::Partial, error.to_string()))?;
    runtime.block_on(async {
        let (inside, outside) = (device(&options.inside)?, device(&options.outside)?);
        tell(&Line::Up { inside: options.inside.clone(), outside: options.outside.clone() });
        let session = machine.session(Config { trace_length: 0, ..Config::default() })?;
        let mut carrier = Carrier { session, start: Instant::now(), summary: Summary::default() };
        carrier.carry(&inside, &outside, options.packets).await?;
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
    start: Instant,
    summary: Summary,
}

impl Carrier<'_> {
    async fn carry(
        &mut self,
        inside: &AsyncDevice,
        outside: &AsyncDevice,
        packets: Option<u64>,
    ) -> Result<(), Error> {
        let (mut going, mut coming) = (vec![0; LARGEST], vec![0; LARGEST]);
        // One for all packets: a signal that comes while one is shown is there before the next.
        let mut interrupted = pin!(tokio::signal::ctrl_c());
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
                interrupted = &mut interrupted => {
                    interrupted.map_err(|error| Error::new("tun-signal", Exit::Partial, error.to_string()))?;
                    break;
                }
            }
        }
        Ok(())
    }

    /// Shows a packet to the hooks. What leaves in the end.
    fn show(&mut self, packet: &[u8]) -> Result<Vec<Vec<u8>>, Error> {
        let Some((found, hop)) = plain(packet) else {
            self.summary.unseen += 1;
            return Ok(vec![packet.to_vec()]);
        };
        self.summary.shown += 1;
        host::set_time(self.start.elapsed());
        let whole = [found.header, found.payload].concat();
        let asked = self.session.send_whole(found.source, found.destination, found.transport, whole);
        self.session.settle();
        let passed = self.session.passed(asked);
        let mut out = Vec::new();
        for sent in self.session.take_sent() {
            if passed && !sent.injected {
                self.summary.passed += 1;
                out.push(packet.to_vec());
            } else {
                self.summary.changed += 1;
                let hop = Hop { tos: host::tos(&sent).unwrap_or(hop.tos), ..hop };
                out.push(capture::ip_packet(sent.local, sent.remote, sent.protocol, sent.bytes, hop));
            }
        }
        self.session.forget_sends();
        self.summary.blocked += u64::from(out.is_empty());
        self.summary.tally.add(&self.session.tally()?);
        Ok(out)
    }
}

fn received(length: io::Result<usize>, buffer: &[u8]) -> Result<&[u8], Error> {
    let length = length
        .map_err(|error| Error::new("tun-device", Exit::Partial, format!("a device is gone: {error}")))?;
    Ok(buffer.get(..length).unwrap_or_default())
}

/// The TCP or UDP packet in an IP packet that is nothing but its headers and its payload.
fn plain(packet: &[u8]) -> Option<(Found<'_>, Hop)> {
    let found = capture::dissect(LINK_RAW, packet).ok()?;
    let (header, ttl, tos) = match found.source.ip() {
        IpAddr::V4(_) => (20, *packet.get(8)?, *packet.get(1)?),
        IpAddr::V6(_) => (40, *packet.get(7)?, packet.first()? << 4 | packet.get(1)? >> 4),
    };
    let is_plain = found.cut == 0 && header + found.header.len() + found.payload.len() == packet.len();
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

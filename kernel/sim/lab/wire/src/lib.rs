//! What the lab's traffic says to the simulator inside the driver's process, and what that answers.
#![forbid(unsafe_code)]

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// File in which the doubles say at which port of this machine they listen.
pub const PORT_FILE: &str = r"C:\tidegate-lab\port";

/// File in which the doubles say what a driver left behind that was unloaded: bytes and blocks of pool and the number of
/// violations, then those, a line each.
pub const UNLOADED_FILE: &str = r"C:\tidegate-lab\unloaded";

/// A request.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Request {
    /// Shows a connection to the callouts, from its opening to its end.
    Stream(Stream),
    /// Sends packets one after the other.
    Packets {
        /// Source of every choice that the contract leaves free.
        seed: u64,
        /// Nanoseconds since the machine's start; only what the packets wait for is added.
        now: u64,
        /// The packets.
        packets: Vec<Packet>,
    },
    /// Shows a connection and leaves it open, with everything that the callouts injected still under way.
    Leave(Stream),
    /// Calls classifyFn this often with the same bytes, and says how long that took.
    Time {
        /// Calls.
        count: u32,
        /// The bytes of each indication.
        bytes: Vec<u8>,
    },
    /// From now on so many pool allocations in a thousand fail.
    FailPool {
        /// None: none.
        per_mille: u32,
    },
    /// Starts or stops the base filtering engine.
    Service {
        /// It runs.
        runs: bool,
    },
    /// Asks what was found so far.
    Report,
}

/// A connection.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Stream {
    /// Source of every choice that the contract leaves free.
    pub seed: u64,
    /// Nanoseconds since the machine's start; only what the steps wait for is added.
    pub now: u64,
    /// The end on this machine.
    pub local: SocketAddr,
    /// The other end.
    pub remote: SocketAddr,
    /// This machine opened it.
    pub outbound: bool,
    /// Path of the program that has the end on this machine, where one is said; empty when nobody knows it.
    pub application: Option<String>,
    /// What happens.
    pub steps: Vec<Step>,
}

/// What happens next to a connection.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Step {
    /// How long after the step before it.
    pub after: Duration,
    /// To the other end.
    pub outbound: bool,
    /// Bytes that never come.
    pub missed: u64,
    /// What it is.
    pub kind: Kind,
}

/// What a step is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Kind {
    /// Bytes.
    Data {
        /// The bytes.
        bytes: Vec<u8>,
        /// They were pushed.
        push: bool,
    },
    /// The end of the direction.
    Fin,
    /// A reset.
    Reset,
}

/// A packet that this machine sends: its transport header and what it carries.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Packet {
    /// How long after the packet before it.
    pub after: Duration,
    /// From where.
    pub local: SocketAddr,
    /// To where.
    pub remote: SocketAddr,
    /// TCP: flags as in the header and the sequence number. None: UDP.
    pub tcp: Option<(u8, u32)>,
    /// What it carries.
    pub payload: Vec<u8>,
}

/// The answer to a [`Request`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// To [`Request::Stream`].
    Stream(Delivery),
    /// To [`Request::Packets`]: by packet.
    Packets(Vec<Fate>),
    /// To [`Request::Time`]: nanoseconds inside classifyFn in all.
    Time {
        /// Calls of classifyFn.
        count: u64,
        /// How long they took.
        nanoseconds: u64,
    },
    /// To everything else.
    Report(Report),
}

/// How a connection looks from both its ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delivery {
    /// What callouts know it by.
    pub flow: u64,
    /// What came out of the outbound direction, and of the inbound one.
    pub ends: [End; 2],
    /// The policy reset the connection.
    pub dropped: bool,
}

/// What came out of one direction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// The bytes.
    pub bytes: Vec<u8>,
    /// The end of the direction came behind them.
    pub fin: bool,
    /// The connection was reset.
    pub aborted: bool,
}

/// What became of a packet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fate {
    /// The packet itself left.
    pub passed: bool,
    /// What left since it was given to the stack.
    pub sent: Vec<Sent>,
}

/// A packet that left.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sent {
    /// To where.
    pub remote: IpAddr,
    /// Transport header and what it carries.
    pub bytes: Vec<u8>,
    /// Its checksum is right.
    pub checksum_ok: bool,
}

/// What the doubles found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Rules that were broken since the last report, in words.
    pub violations: Vec<String>,
    /// Bytes of pool that the driver holds.
    pub pool_bytes: u64,
    /// Allocations that it holds.
    pub pool_blocks: u64,
    /// Allocations that failed because they were asked to.
    pub failed: u64,
    /// Providers of events that are registered.
    pub providers: u64,
}

/// Writes a message: its length, then its bytes.
///
/// # Errors
/// The other side is gone.
pub fn write<T: Serialize>(to: &mut impl Write, message: &T) -> io::Result<()> {
    let bytes = postcard::to_extend(message, Vec::new()).map_err(io::Error::other)?;
    to.write_all(&[&(bytes.len() as u32).to_le_bytes()[..], &bytes].concat())
}

/// Reads a message.
///
/// # Errors
/// The other side is gone, or says something else.
pub fn read<T: for<'a> Deserialize<'a>>(from: &mut impl Read) -> io::Result<T> {
    let mut length = [0; 4];
    from.read_exact(&mut length)?;
    let mut bytes = vec![0; u32::from_le_bytes(length) as usize];
    from.read_exact(&mut bytes)?;
    postcard::from_bytes(&bytes).map_err(io::Error::other)
}

//! TCP connections as the stream layer sees them: how they are opened, cut and read back.

use std::net::SocketAddr;

use fwps_sys::FWPS_STREAM_FLAG;

/// Which way bytes go, seen from this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// To the peer.
    Send,
    /// From the peer.
    Receive,
}

impl Direction {
    /// Both of them.
    pub const BOTH: [Self; 2] = [Self::Send, Self::Receive];

    /// The flag that an indication and an injection of this direction carry.
    pub const fn flag(self) -> FWPS_STREAM_FLAG {
        match self {
            Self::Send => FWPS_STREAM_FLAG::SEND,
            Self::Receive => FWPS_STREAM_FLAG::RECEIVE,
        }
    }

    /// The flag of the end of this direction.
    pub const fn disconnect(self) -> FWPS_STREAM_FLAG {
        match self {
            Self::Send => FWPS_STREAM_FLAG::SEND_DISCONNECT,
            Self::Receive => FWPS_STREAM_FLAG::RECEIVE_DISCONNECT,
        }
    }

    /// The flag of a reset in this direction.
    pub const fn abort(self) -> FWPS_STREAM_FLAG {
        match self {
            Self::Send => FWPS_STREAM_FLAG::SEND_ABORT,
            Self::Receive => FWPS_STREAM_FLAG::RECEIVE_ABORT,
        }
    }

    /// Every flag of this direction.
    pub(crate) const fn family(self) -> FWPS_STREAM_FLAG {
        match self {
            Self::Send => FWPS_STREAM_FLAG::SEND_FAMILY,
            Self::Receive => FWPS_STREAM_FLAG::RECEIVE_FAMILY,
        }
    }

    pub(crate) const fn index(self) -> usize {
        self as usize
    }
}

/// A TCP connection; its number is what callouts see as the flow handle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FlowId(pub u64);

/// How a connection looks to the layers.
#[derive(Clone, Debug)]
pub struct FlowSpec {
    /// This machine's end.
    pub local: SocketAddr,
    /// The other end, of the same address family.
    pub remote: SocketAddr,
    /// True when this machine opened it.
    pub outbound: bool,
    /// True when both ends are this machine.
    pub loopback: bool,
    /// Routing compartment.
    pub compartment: u32,
    /// It was there before the filters: shown only to callouts with `ALLOW_MID_STREAM_INSPECTION`, and its beginning to
    /// nobody.
    pub mid_stream: bool,
    /// IP protocol number. Only TCP has a stream; what others send names the flow in [`Packet::flow`](crate::Packet::flow).
    pub protocol: u8,
    /// The process that owns the local end.
    pub process_id: u64,
    /// Its program, as the system writes its path.
    pub application: String,
}

impl FlowSpec {
    /// A connection that this machine opened.
    pub fn outbound(local: SocketAddr, remote: SocketAddr) -> Self {
        Self {
            local,
            remote,
            outbound: true,
            loopback: false,
            compartment: 1,
            mid_stream: false,
            protocol: 6,
            process_id: 4242,
            application: r"\device\harddiskvolume2\programs\client.exe".into(),
        }
    }

    /// A connection that this machine accepted.
    pub fn inbound(local: SocketAddr, remote: SocketAddr) -> Self {
        Self { outbound: false, ..Self::outbound(local, remote) }
    }
}

/// What came out at the far side of all callouts, in one direction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Delivered {
    /// The bytes, in order.
    pub bytes: Vec<u8>,
    /// The end of this direction came after them.
    pub fin: bool,
    /// The connection was reset.
    pub aborted: bool,
}

/// Where a connection is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlowState {
    /// Data may come.
    Open,
    /// A callout dropped it.
    Dropped,
    /// One of its ends reset it.
    Aborted,
    /// It ended in order.
    Closed,
}

//! Program types, and the hooks (WFP layers) that a link attaches a program to.

use serde::{Deserialize, Serialize};

/// What a program is written for: decides its context and the helpers that it may call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[repr(u8)]
pub enum ProgramType {
    /// Sees the bytes of one direction of a TCP connection, in order.
    Stream = 0,
    /// Sees an outgoing datagram or segment, from its transport header on, before it has an IP header.
    Send = 1,
}

impl ProgramType {
    /// Every program type, in the order of their numbers.
    pub const ALL: [Self; 2] = [Self::Stream, Self::Send];

    /// The name that people type.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stream => "stream",
            Self::Send => "send",
        }
    }

    /// The ELF section whose functions are programs of this type. More than one program in an object: append `/NAME`.
    pub const fn section(self) -> &'static str {
        match self {
            Self::Stream => "tidegate/stream",
            Self::Send => "tidegate/send",
        }
    }

    /// The type of the programs in the ELF section `name`, if it is one of Tidegate's.
    pub fn from_section(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| {
            name.strip_prefix(kind.section()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        })
    }

    /// Where a program of this type goes when nobody says where: each byte or packet passes one of them, and one only.
    pub const fn hooks(self) -> [Hook; 2] {
        match self {
            Self::Stream => [Hook::StreamV4, Hook::StreamV6],
            Self::Send => [Hook::OutboundTransportV4, Hook::OutboundTransportV6],
        }
    }

    /// A set with this one type.
    pub const fn set(self) -> ProgramTypes {
        ProgramTypes(1 << self as u8)
    }
}

/// A set of program types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProgramTypes(u8);

impl ProgramTypes {
    /// Every program type.
    pub const ALL: Self = Self(0b11);

    /// Whether `kind` is in the set.
    pub const fn contains(self, kind: ProgramType) -> bool {
        self.0 & kind.set().0 != 0
    }
}

/// A place where programs run: one WFP layer of one address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[repr(u8)]
pub enum Hook {
    /// `FWPM_LAYER_STREAM_V4`.
    StreamV4 = 0,
    /// `FWPM_LAYER_STREAM_V6`.
    StreamV6 = 1,
    /// `FWPM_LAYER_OUTBOUND_TRANSPORT_V4`.
    OutboundTransportV4 = 2,
    /// `FWPM_LAYER_OUTBOUND_TRANSPORT_V6`.
    OutboundTransportV6 = 3,
    /// `FWPM_LAYER_DATAGRAM_DATA_V4`, outbound only: UDP, ICMP and raw sends, before the transport layer sees them.
    DatagramDataV4 = 4,
    /// `FWPM_LAYER_DATAGRAM_DATA_V6`, outbound only.
    DatagramDataV6 = 5,
    /// `FWPM_LAYER_OUTBOUND_ICMP_ERROR_V4`: what the stack answers by itself, before the transport layer sees it.
    OutboundIcmpErrorV4 = 6,
    /// `FWPM_LAYER_OUTBOUND_ICMP_ERROR_V6`.
    OutboundIcmpErrorV6 = 7,
}

impl Hook {
    /// Every hook, in the order of their numbers.
    pub const ALL: [Self; 8] = [
        Self::StreamV4,
        Self::StreamV6,
        Self::OutboundTransportV4,
        Self::OutboundTransportV6,
        Self::DatagramDataV4,
        Self::DatagramDataV6,
        Self::OutboundIcmpErrorV4,
        Self::OutboundIcmpErrorV6,
    ];

    /// The name that people type.
    pub const fn name(self) -> &'static str {
        match self {
            Self::StreamV4 => "stream-v4",
            Self::StreamV6 => "stream-v6",
            Self::OutboundTransportV4 => "outbound-transport-v4",
            Self::OutboundTransportV6 => "outbound-transport-v6",
            Self::DatagramDataV4 => "datagram-data-v4",
            Self::DatagramDataV6 => "datagram-data-v6",
            Self::OutboundIcmpErrorV4 => "outbound-icmp-error-v4",
            Self::OutboundIcmpErrorV6 => "outbound-icmp-error-v6",
        }
    }

    /// The type of program that runs here.
    pub const fn program_type(self) -> ProgramType {
        match self {
            Self::StreamV4 | Self::StreamV6 => ProgramType::Stream,
            Self::OutboundTransportV4
            | Self::OutboundTransportV6
            | Self::DatagramDataV4
            | Self::DatagramDataV6
            | Self::OutboundIcmpErrorV4
            | Self::OutboundIcmpErrorV6 => ProgramType::Send,
        }
    }

    /// Its address family: 4 or 6.
    pub const fn family(self) -> u8 {
        match self {
            Self::StreamV4 | Self::OutboundTransportV4 | Self::DatagramDataV4 | Self::OutboundIcmpErrorV4 => {
                4
            }
            Self::StreamV6 | Self::OutboundTransportV6 | Self::DatagramDataV6 | Self::OutboundIcmpErrorV6 => {
                6
            }
        }
    }

    /// Index into a table with a row for every hook.
    pub const fn index(self) -> usize {
        self as usize
    }

    /// The hook that `name` names.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|hook| hook.name() == name)
    }
}

//! Contexts: what a program sees through its first argument.
//!
//! Layout is C's. Addresses of the peers are bytes in network order (IPv4 in the first four, the rest zero); ports and
//! every other number are in host order. A program may load any field with its exact size, and store only to those
//! marked writable.

use crate::hook::ProgramType;

/// What a field holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldKind {
    /// Pointer to the first byte shown. Read-only memory.
    Data,
    /// Pointer behind the last byte shown.
    DataEnd,
    /// A number.
    Scalar,
    /// An array of bytes, loaded in naturally aligned pieces of 1, 2, 4 or 8.
    Bytes,
}

/// One field of a context.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// Name in C and in Rust.
    pub name: &'static str,
    /// Bytes from the start of the context.
    pub offset: usize,
    /// Bytes that it takes.
    pub size: usize,
    /// What it holds.
    pub kind: FieldKind,
    /// Whether a program may store to it.
    pub writable: bool,
    /// What it means.
    pub doc: &'static str,
}

macro_rules! context {
    ($(#[$meta:meta])* $name:ident, size $size:literal {
        $( $offset:literal $field:ident : $ty:ty, $kind:ident $(, $writable:ident)? ; $doc:literal )*
    }) => {
        $(#[$meta])*
        #[repr(C, align(8))]
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct $name {
            $( #[doc = $doc] pub $field: $ty, )*
        }

        impl $name {
            /// The fields, in the order of their offsets.
            pub const FIELDS: &'static [Field] = &[
                $( Field {
                    name: stringify!($field),
                    offset: core::mem::offset_of!($name, $field),
                    size: size_of::<$ty>(),
                    kind: FieldKind::$kind,
                    writable: context!(@writable $($writable)?),
                    doc: $doc,
                }, )*
            ];
        }

        const _: () = {
            $( assert!(core::mem::offset_of!($name, $field) == $offset, "a field of a context moved"); )*
            assert!(size_of::<$name>() == $size, "a context changed its size");
        };
    };
    (@writable) => { false };
    (@writable writable) => { true };
}

context! {
    /// What a stream program sees: in-order bytes of one direction of a TCP connection.
    StreamContext, size 112 {
        0 data: u64, Data; "First byte shown."
        8 data_end: u64, DataEnd; "Behind the last byte shown."
        16 flow_id: u64, Scalar; "The flow's id, the same for both directions; not reused while the flow lives."
        24 process_id: u64, Scalar; "The process that owns the local end, 0 when it is not known."
        32 missed_bytes: u64, Scalar; "Bytes of this direction that a callout above took before these. Not 0: resynchronise or give up."
        40 flags: u32, Scalar; "TIDEGATE_STREAM_* bits of this indication."
        44 direction: u32, Scalar; "Direction of these bytes: 0 outbound (sent by this machine), 1 inbound."
        48 opener: u32, Scalar; "Who opened the connection: 0 this machine, 1 the remote one."
        52 family: u32, Scalar; "Address family: 4 or 6."
        56 local_port: u16, Scalar; "Local port, host order."
        58 remote_port: u16, Scalar; "Remote port, host order."
        60 compartment_id: u32, Scalar; "Network compartment, 0 when it is not known."
        64 local_addr: [u8; 16], Bytes; "Local address, network order."
        80 remote_addr: [u8; 16], Bytes; "Remote address, network order."
        96 bytes_enforced: u32, Scalar, writable; "The verdict covers so many of the bytes shown, the rest is shown again at once. 0: all of them."
        100 bytes_required: u32, Scalar, writable; "With NEED_MORE_DATA: so many more bytes are needed at least. 0: any."
        104 reserved: u64, Scalar; "Zero."
    }
}

context! {
    /// What a send program sees: an outgoing packet from its transport header on, before it has an IP header.
    SendContext, size 96 {
        0 data: u64, Data; "First byte shown: the transport header (the IP header when RAW is set)."
        8 data_end: u64, DataEnd; "Behind the last byte shown."
        16 flow_id: u64, Scalar; "The flow's id, 0 when there is none."
        24 process_id: u64, Scalar; "The process that sends, 0 when it is not known."
        32 flags: u32, Scalar; "TIDEGATE_SEND_* bits of this packet."
        36 protocol: u32, Scalar; "IP protocol number: 1 ICMP, 6 TCP, 17 UDP, 58 ICMPv6."
        40 family: u32, Scalar; "Address family: 4 or 6."
        44 header_size: u32, Scalar; "Bytes of the transport header: the payload starts at data + header_size."
        48 local_port: u16, Scalar; "Local port, host order; for ICMP the type."
        50 remote_port: u16, Scalar; "Remote port, host order; for ICMP the code."
        52 interface_index: u32, Scalar; "Interface that the packet leaves by, 0 when it is not known."
        56 compartment_id: u32, Scalar; "Network compartment, 0 when it is not known."
        60 reserved: u32, Scalar; "Zero."
        64 local_addr: [u8; 16], Bytes; "Local address, network order."
        80 remote_addr: [u8; 16], Bytes; "Remote address, network order."
    }
}

/// A named bit of a context's `flags`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flag {
    /// Name in C: `TIDEGATE_` and this.
    pub name: &'static str,
    /// The bit.
    pub bit: u32,
    /// What it means when it is set.
    pub doc: &'static str,
}

/// Out-of-band (urgent) data.
pub const STREAM_EXPEDITED: u32 = 1 << 0;
/// The sender asked for prompt delivery.
pub const STREAM_PUSH: u32 = 1 << 1;
/// The direction ends here (FIN): no data follows.
pub const STREAM_DISCONNECT: u32 = 1 << 2;
/// The connection was reset.
pub const STREAM_ABORT: u32 = 1 << 3;
/// No more data can be had: NEED_MORE_DATA is refused.
pub const STREAM_NO_MORE_DATA: u32 = 1 << 4;
/// The connection began before the link could see it: what it is shown first is not the beginning.
pub const STREAM_MID_STREAM: u32 = 1 << 5;
/// The bytes were kept back (PEND) and are shown again.
pub const STREAM_HELD: u32 = 1 << 6;
/// The packet stays on this machine.
pub const SEND_LOOPBACK: u32 = 1 << 0;
/// A raw socket sends it: the data starts at the IP header.
pub const SEND_RAW: u32 = 1 << 1;
/// Another driver injected it.
pub const SEND_REINJECTED: u32 = 1 << 2;

/// The bits of [`StreamContext::flags`].
pub const STREAM_FLAGS: &[Flag] = &[
    Flag { name: "STREAM_EXPEDITED", bit: STREAM_EXPEDITED, doc: "Out-of-band (urgent) data." },
    Flag { name: "STREAM_PUSH", bit: STREAM_PUSH, doc: "The sender asked for prompt delivery." },
    Flag { name: "STREAM_DISCONNECT", bit: STREAM_DISCONNECT, doc: "The direction ends here (FIN)." },
    Flag { name: "STREAM_ABORT", bit: STREAM_ABORT, doc: "The connection was reset." },
    Flag {
        name: "STREAM_NO_MORE_DATA",
        bit: STREAM_NO_MORE_DATA,
        doc: "No more data can be had: NEED_MORE_DATA is refused.",
    },
    Flag {
        name: "STREAM_MID_STREAM",
        bit: STREAM_MID_STREAM,
        doc: "The connection began before the link could see it: what it is shown first is not the beginning.",
    },
    Flag {
        name: "STREAM_HELD",
        bit: STREAM_HELD,
        doc: "The bytes were kept back (PEND) and are shown again.",
    },
];

/// The bits of [`SendContext::flags`].
pub const SEND_FLAGS: &[Flag] = &[
    Flag { name: "SEND_LOOPBACK", bit: SEND_LOOPBACK, doc: "The packet stays on this machine." },
    Flag { name: "SEND_RAW", bit: SEND_RAW, doc: "A raw socket sends it: the data starts at the IP header." },
    Flag { name: "SEND_REINJECTED", bit: SEND_REINJECTED, doc: "Another driver injected it." },
];

impl ProgramType {
    /// The fields of this type's context.
    pub const fn fields(self) -> &'static [Field] {
        match self {
            Self::Stream => StreamContext::FIELDS,
            Self::Send => SendContext::FIELDS,
        }
    }

    /// The flag bits of this type's context.
    pub const fn flags(self) -> &'static [Flag] {
        match self {
            Self::Stream => STREAM_FLAGS,
            Self::Send => SEND_FLAGS,
        }
    }

    /// The field of this type's context that tells that no more data can be had, and its bit.
    pub const fn no_more_data(self) -> Option<(usize, u32)> {
        match self {
            Self::Stream => Some((core::mem::offset_of!(StreamContext, flags), STREAM_NO_MORE_DATA)),
            Self::Send => None,
        }
    }

    /// Bytes of this type's context.
    pub const fn context_size(self) -> usize {
        match self {
            Self::Stream => size_of::<StreamContext>(),
            Self::Send => size_of::<SendContext>(),
        }
    }

    /// Name of this type's context in C: `struct` and this.
    pub const fn context_name(self) -> &'static str {
        match self {
            Self::Stream => "tidegate_stream",
            Self::Send => "tidegate_send",
        }
    }
}

//! Helpers: the functions that a program may call, one row each.
//!
//! A row says everything that a verifier needs to know about a helper, so that it knows kinds of arguments and not
//! helpers. Names that BPF programmers know keep their meaning and Linux's numbers; Tidegate's own start at
//! [`TIDEGATE_BASE`].

use crate::hook::{ProgramType, ProgramTypes};
use crate::limits;
use crate::map::{MapKind, MapKinds};

/// Number of the first helper that is Tidegate's own.
pub const TIDEGATE_BASE: u32 = 0x10000;

/// What a helper may hand out and takes back: each must be consumed exactly once on every path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource {
    /// A record of a ring buffer: reserved, then submitted or discarded.
    Record,
    /// A clone of the data shown: edited, then injected or discarded. Opaque: a program can't look inside.
    Clone,
}

/// What an argument must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arg {
    /// The program's context, unchanged.
    Context,
    /// Any number.
    Scalar,
    /// A number that is known at load and has no bits but these.
    Flags(u64),
    /// A map of one of these kinds, named by the instruction that loads it.
    Map(MapKinds),
    /// Readable, initialised memory of the map's key size.
    MapKey,
    /// Readable, initialised memory of the map's value size.
    MapValue,
    /// Readable, initialised memory; the next argument is its size.
    Readable,
    /// Writable memory; the next argument is its size. The helper fills it, whatever it returns.
    Writable,
    /// Size in bytes of the memory before it, within these bounds on every path.
    Size {
        /// Least.
        min: u32,
        /// Most.
        max: u32,
    },
    /// A size in bytes that is known at load.
    ConstSize,
    /// A resource that stays the program's.
    Borrow(Resource),
    /// A resource that the helper takes back.
    Consume(Resource),
}

/// What a helper returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ret {
    /// Any number.
    Scalar,
    /// A number within these bounds.
    Range {
        /// Least.
        min: i64,
        /// Most.
        max: i64,
    },
    /// Nothing: r0 is not readable.
    Void,
    /// A pointer to a value of the map argument, or null.
    MapValueOrNull,
    /// A pointer to writable memory of the [`Arg::ConstSize`] argument that must be consumed, or null.
    RecordOrNull,
    /// A clone that must be consumed, or null.
    CloneOrNull,
}

/// A power that a program uses, as an operator would grant it. Bits of a set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capability(pub u32);

impl Capability {
    /// Nothing that anyone would ask about.
    pub const NONE: Self = Self(0);
    /// Reads the bytes that it is shown.
    pub const SEE_PAYLOAD: Self = Self(1 << 0);
    /// Changes bytes.
    pub const EDIT: Self = Self(1 << 1);
    /// Injects data.
    pub const INJECT: Self = Self(1 << 2);
    /// Sends records to user space.
    pub const EVENTS: Self = Self(1 << 3);
    /// Takes data away: blocks it without injecting anything in its place, or resets its connection.
    pub const DROP: Self = Self(1 << 4);
    /// Everything that there is to ask about.
    pub const ALL: Self = Self(0b1_1111);

    /// Each with the name that people read and type: a program may ...
    pub const NAMED: [(Self, &'static str); 5] = [
        (Self::SEE_PAYLOAD, "see payload"),
        (Self::EDIT, "edit"),
        (Self::INJECT, "inject"),
        (Self::EVENTS, "send events"),
        (Self::DROP, "drop"),
    ];
}

/// What a call does to the bytes shown, beside what its arguments and its result say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Nothing.
    None,
    /// Plans an edit; its parameters, counted from 0.
    Edit {
        /// The offset in what is shown.
        offset: usize,
        /// The number of bytes that are removed there.
        remove: Option<usize>,
        /// The number of new bytes.
        size: Option<usize>,
    },
    /// Injects a clone of all that is shown, in its place: the run must end with BLOCK.
    Replace,
    /// Is about what is beside the bytes shown: plans to send new ones, to remove some that follow, or what a packet is
    /// sent with.
    Beside {
        /// The parameter that is the number of new bytes.
        size: Option<usize>,
    },
}

/// One parameter of a helper.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Param {
    /// Name in C and in Rust.
    pub name: &'static str,
    /// What it must be.
    pub arg: Arg,
}

/// One row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Helper {
    /// Number in the instruction's immediate.
    pub number: u32,
    /// Name in C and in Rust.
    pub name: &'static str,
    /// Up to five parameters.
    pub params: &'static [Param],
    /// What it returns.
    pub ret: Ret,
    /// The program types that may call it.
    pub program_types: ProgramTypes,
    /// The power that it stands for.
    pub capability: Capability,
    /// What it does, for people.
    pub doc: &'static str,
}

impl Helper {
    /// The resource that a call hands out, if any.
    pub const fn acquires(&self) -> Option<Resource> {
        match self.ret {
            Ret::RecordOrNull => Some(Resource::Record),
            Ret::CloneOrNull => Some(Resource::Clone),
            _ => None,
        }
    }

    /// What a call does to the bytes shown.
    pub const fn effect(&self) -> Effect {
        match self.number {
            REPLACE | CLONE_REPLACE => Effect::Edit { offset: 1, remove: Some(2), size: Some(4) },
            INSERT => Effect::Edit { offset: 1, remove: None, size: Some(3) },
            REMOVE => Effect::Edit { offset: 1, remove: Some(2), size: None },
            STREAM_INJECT | INJECT_TRANSPORT_SEND => Effect::Replace,
            STREAM_INJECT_DATA => Effect::Beside { size: Some(3) },
            REMOVE_AHEAD | SET_REMOTE | SET_TOS => Effect::Beside { size: None },
            _ => Effect::None,
        }
    }
}

/// The row of helper `number`.
pub fn by_number(number: u32) -> Option<&'static Helper> {
    HELPERS.binary_search_by_key(&number, |helper| helper.number).ok().and_then(|at| HELPERS.get(at))
}

/// The row of the helper that `name` names.
pub fn by_name(name: &str) -> Option<&'static Helper> {
    HELPERS.iter().find(|helper| helper.name == name)
}

const fn p(name: &'static str, arg: Arg) -> Param {
    Param { name, arg }
}

const CTX: Param = p("ctx", Arg::Context);
const STATUS: Ret = Ret::Range { min: -crate::errno::MAX_ERRNO, max: 0 };
const EDIT_SIZE: Arg = Arg::Size { min: 1, max: limits::MAX_EDIT_BYTES as u32 };
const RING: Arg = Arg::Map(MapKind::RingBuf.set());

macro_rules! helpers {
    ($( $number:literal $const_name:ident $name:ident ($($param:expr),*) -> $ret:expr, $types:expr, $capability:ident; $doc:literal )*) => {
        $( #[doc = $doc] pub const $const_name: u32 = $number; )*

        /// Every helper, in the order of their numbers.
        pub const HELPERS: &[Helper] = &[
            $( Helper {
                number: $number,
                name: stringify!($name),
                params: &[$($param),*],
                ret: $ret,
                program_types: $types,
                capability: Capability::$capability,
                doc: $doc,
            }, )*
        ];
    };
}

helpers! {
    1 MAP_LOOKUP_ELEM bpf_map_lookup_elem(p("map", Arg::Map(MapKinds::KEYED)), p("key", Arg::MapKey))
        -> Ret::MapValueOrNull, ProgramTypes::ALL, NONE;
        "The value of a key, or null."
    2 MAP_UPDATE_ELEM bpf_map_update_elem(
        p("map", Arg::Map(MapKinds::KEYED)),
        p("key", Arg::MapKey),
        p("value", Arg::MapValue),
        p("flags", Arg::Flags(3))
    )
        -> STATUS, ProgramTypes::ALL, NONE;
        "Sets the value of a key. Flags: 0 any, 1 only if it is new (BPF_NOEXIST), 2 only if it \
         exists (BPF_EXIST)."
    3 MAP_DELETE_ELEM bpf_map_delete_elem(p("map", Arg::Map(MapKinds::HASHED)), p("key", Arg::MapKey))
        -> STATUS, ProgramTypes::ALL, NONE;
        "Deletes a key."
    5 KTIME_GET_NS bpf_ktime_get_ns()
        -> Ret::Scalar, ProgramTypes::ALL, NONE;
        "Nanoseconds since the machine started, not counting sleep; never runs backwards."
    7 GET_PRANDOM_U32 bpf_get_prandom_u32()
        -> Ret::Range { min: 0, max: u32::MAX as i64 }, ProgramTypes::ALL, NONE;
        "A pseudo-random number. Not for secrets."
    8 GET_SMP_PROCESSOR_ID bpf_get_smp_processor_id()
        -> Ret::Range { min: 0, max: u32::MAX as i64 }, ProgramTypes::ALL, NONE;
        "Number of the processor that runs the program."
    130 RINGBUF_OUTPUT bpf_ringbuf_output(
        p("ringbuf", RING),
        p("data", Arg::Readable),
        p("size", Arg::Size { min: 1, max: 65_536 }),
        p("flags", Arg::Flags(0))
    )
        -> STATUS, ProgramTypes::ALL, EVENTS;
        "Copies a record into a ring buffer. A record that does not fit is dropped and counted."
    131 RINGBUF_RESERVE bpf_ringbuf_reserve(
        p("ringbuf", RING),
        p("size", Arg::ConstSize),
        p("flags", Arg::Flags(0))
    )
        -> Ret::RecordOrNull, ProgramTypes::ALL, EVENTS;
        "Reserves a zeroed record in a ring buffer, or null when it does not fit (counted). Submit or \
         discard it."
    132 RINGBUF_SUBMIT bpf_ringbuf_submit(
        p("data", Arg::Consume(Resource::Record)),
        p("flags", Arg::Flags(0))
    )
        -> Ret::Void, ProgramTypes::ALL, EVENTS;
        "Hands a reserved record to the reader."
    133 RINGBUF_DISCARD bpf_ringbuf_discard(
        p("data", Arg::Consume(Resource::Record)),
        p("flags", Arg::Flags(0))
    )
        -> Ret::Void, ProgramTypes::ALL, EVENTS;
        "Gives a reserved record back unread."
    134 RINGBUF_QUERY bpf_ringbuf_query(p("ringbuf", RING), p("flags", Arg::Flags(3)))
        -> Ret::Scalar, ProgramTypes::ALL, EVENTS;
        "Of a ring buffer: 0 bytes not yet read, 1 its size, 2 the reader's position, 3 the writer's \
         position."
    0x10000 REPLACE tidegate_replace(
        CTX,
        p("offset", Arg::Scalar),
        p("remove", Arg::Scalar),
        p("data", Arg::Readable),
        p("size", EDIT_SIZE)
    )
        -> STATUS, ProgramTypes::ALL, EDIT;
        "Replaces `remove` bytes from `offset` of what is shown with `data`. Offsets always speak of \
         the bytes as shown; edits come in the order of their offsets and don't overlap. -EOPNOTSUPP where the length of a \
         TCP packet would change: use the stream layer for that."
    0x10001 INSERT tidegate_insert(
        CTX,
        p("offset", Arg::Scalar),
        p("data", Arg::Readable),
        p("size", EDIT_SIZE)
    )
        -> STATUS, ProgramTypes::ALL, EDIT;
        "Inserts `data` before the byte at `offset` of what is shown; at its length: behind the last \
         byte."
    0x10002 REMOVE tidegate_remove(CTX, p("offset", Arg::Scalar), p("size", Arg::Scalar))
        -> STATUS, ProgramTypes::ALL, EDIT;
        "Removes `size` bytes from `offset` of what is shown."
    0x10003 FIND tidegate_find(
        CTX,
        p("offset", Arg::Scalar),
        p("pattern", Arg::Readable),
        p("size", Arg::Size { min: 1, max: limits::MAX_PATTERN as u32 })
    )
        -> Ret::Range { min: -crate::errno::MAX_ERRNO, max: limits::MAX_WINDOW as i64 }, ProgramTypes::ALL, SEE_PAYLOAD;
        "Offset of the first place at or behind `offset` where the bytes shown equal `pattern`, or \
         -ENOENT."
    0x10004 LOAD_BYTES tidegate_load_bytes(
        CTX,
        p("offset", Arg::Scalar),
        p("to", Arg::Writable),
        p("size", Arg::Size { min: 0, max: 4096 })
    )
        -> STATUS, ProgramTypes::ALL, SEE_PAYLOAD;
        "Copies `size` bytes from `offset` of what is shown; when not all of them are there, zeroes \
         `to` and returns -EINVAL."
    0x10005 FLOW_STORAGE_GET tidegate_flow_storage_get(
        CTX,
        p("map", Arg::Map(MapKind::FlowStorage.set())),
        p("flags", Arg::Flags(1))
    )
        -> Ret::MapValueOrNull, ProgramTypes::ALL, NONE;
        "The value of this connection, or null. Flag 1 makes it, zeroed, when there is none: for stream \
         programs, whose connections are known to end; null when the map is full."
    0x10006 FLOW_STORAGE_DELETE tidegate_flow_storage_delete(
        CTX,
        p("map", Arg::Map(MapKind::FlowStorage.set()))
    )
        -> STATUS, ProgramTypes::ALL, NONE;
        "Deletes the value of this connection. The end of the connection does so too."
    0x10010 CLONE_STREAM_DATA tidegate_clone_stream_data(CTX)
        -> Ret::CloneOrNull, ProgramType::Stream.set(), EDIT;
        "A clone of the bytes shown (FwpsCloneStreamData0), to be edited and injected; null when one \
         is held already. Inject or discard it."
    0x10011 STREAM_INJECT tidegate_stream_inject(
        CTX,
        p("clone", Arg::Consume(Resource::Clone)),
        p("flags", Arg::Flags(0))
    )
        -> STATUS, ProgramType::Stream.set(), INJECT;
        "Injects the clone in place of the bytes shown (FwpsStreamInjectAsync0). The program must \
         return BLOCK, or both would pass."
    0x10012 STREAM_INJECT_DATA tidegate_stream_inject_data(
        CTX,
        p("direction", Arg::Scalar),
        p("data", Arg::Readable),
        p("size", EDIT_SIZE),
        p("flags", Arg::Flags(1))
    )
        -> STATUS, ProgramType::Stream.set(), INJECT;
        "Sends `data` of the program's own in a direction of the connection (0 outbound, 1 inbound), in \
         front of what is shown when it is the same. Flag 1 ends the direction behind it, where its own end \
         is what is shown. Nothing is sent when the verdict is NEED_MORE_DATA, PEND or DROP_CONNECTION."
    0x10013 REMOVE_AHEAD tidegate_remove_ahead(CTX, p("size", Arg::Scalar))
        -> STATUS, ProgramType::Stream.set(), EDIT;
        "Removes the `size` bytes of this direction that follow those shown, in whatever pieces they \
         come: an edit that reaches over the end of what is shown. The verdict must cover all bytes shown."
    0x10014 STREAM_APPLICATION tidegate_stream_application(
        CTX,
        p("to", Arg::Writable),
        p("size", Arg::Size { min: 0, max: 1024 })
    )
        -> Ret::Range { min: -crate::errno::MAX_ERRNO, max: 65_535 }, ProgramType::Stream.set(), NONE;
        "Copies the path of the program that owns the local end, as the filter engine gives it (UTF-16, \
         little-endian), zero behind its end, and returns all of its bytes; -ENOENT when it is not known."
    0x10020 CLONE_NET_BUFFER_LIST tidegate_clone_net_buffer_list(CTX)
        -> Ret::CloneOrNull, ProgramType::Send.set(), EDIT;
        "A clone of the packet shown (FwpsAllocateCloneNetBufferList0), to be edited and injected; \
         null when one is held already. Inject or discard it."
    0x10021 INJECT_TRANSPORT_SEND tidegate_inject_transport_send(
        CTX,
        p("clone", Arg::Consume(Resource::Clone)),
        p("flags", Arg::Flags(0))
    )
        -> STATUS, ProgramType::Send.set(), INJECT;
        "Injects the clone in place of the packet shown (FwpsInjectTransportSendAsync1); lengths and \
         checksums are made right. The program must return BLOCK, or both would be sent."
    0x10022 SET_REMOTE tidegate_set_remote(
        CTX,
        p("address", Arg::Readable),
        p("size", Arg::Size { min: 4, max: 16 }),
        p("port", Arg::Scalar)
    )
        -> STATUS, ProgramType::Send.set(), EDIT;
        "Sends the packet, or its clone, to another address: 4 bytes for IPv4, 16 for IPv6, network order, \
         of the packet's own family (-EINVAL). `port` is UDP's, host order; 0 keeps it. Replies come from \
         there. -EOPNOTSUPP for TCP and for raw sends."
    0x10023 SET_TOS tidegate_set_tos(CTX, p("tos", Arg::Scalar))
        -> STATUS, ProgramType::Send.set(), EDIT;
        "Sends the packet, or its clone, with this type of service (IPv4) or traffic class (IPv6): DSCP in \
         the upper six bits. -EOPNOTSUPP for TCP and for raw sends."
    0x10030 CLONE_REPLACE tidegate_clone_replace(
        p("clone", Arg::Borrow(Resource::Clone)),
        p("offset", Arg::Scalar),
        p("remove", Arg::Scalar),
        p("data", Arg::Readable),
        p("size", Arg::Size { min: 0, max: limits::MAX_EDIT_BYTES as u32 })
    )
        -> STATUS, ProgramTypes::ALL, EDIT;
        "Replaces `remove` bytes from `offset` of the clone with `data`; offsets speak of the bytes \
         as shown, as with tidegate_replace. Size 0 removes. -EOPNOTSUPP where the length of a TCP packet would change: \
         use the stream layer for that."
    0x10031 CLONE_DISCARD tidegate_clone_discard(p("clone", Arg::Consume(Resource::Clone)))
        -> Ret::Void, ProgramTypes::ALL, NONE;
        "Gives a clone back without injecting it."
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_rise_so_that_a_helper_is_found_by_number() {
        assert!(HELPERS.is_sorted_by(|a, b| a.number < b.number));
        assert!(HELPERS.iter().all(|helper| by_number(helper.number) == Some(helper)));
        assert!(HELPERS.iter().all(|helper| by_name(helper.name) == Some(helper)));
    }

    #[test]
    fn names_tell_whose_a_helper_is() {
        for helper in HELPERS {
            assert_eq!(
                helper.number >= TIDEGATE_BASE,
                helper.name.starts_with("tidegate_"),
                "{}",
                helper.name
            );
        }
    }

    #[test]
    fn effects_name_the_parameters_that_they_are_about() {
        for helper in HELPERS {
            let named =
                |at: usize, names: &[&str]| helper.params.get(at).is_some_and(|p| names.contains(&p.name));
            match helper.effect() {
                Effect::Edit { offset, remove, size } => {
                    assert!(named(offset, &["offset"]), "{}", helper.name);
                    assert!(remove.is_none_or(|at| named(at, &["remove", "size"])), "{}", helper.name);
                    assert!(size.is_none_or(|at| named(at, &["size"])), "{}", helper.name);
                    assert!(size.is_none_or(|at| matches!(helper.params[at].arg, Arg::Size { .. })));
                }
                Effect::Replace => assert_eq!(helper.capability, Capability::INJECT, "{}", helper.name),
                Effect::Beside { size } => assert_eq!(
                    (helper.capability, size.is_none_or(|at| named(at, &["size"]))),
                    (if size.is_some() { Capability::INJECT } else { Capability::EDIT }, true),
                    "{}",
                    helper.name
                ),
                Effect::None => assert_eq!(
                    helper.capability.0 & (Capability::EDIT.0 | Capability::INJECT.0) != 0,
                    helper.acquires() == Some(Resource::Clone),
                    "{}",
                    helper.name
                ),
            }
        }
    }

    #[test]
    fn memory_arguments_are_followed_by_their_size() {
        for helper in HELPERS {
            assert!(helper.params.len() <= 5);
            for (at, param) in helper.params.iter().enumerate() {
                let sized = matches!(param.arg, Arg::Readable | Arg::Writable);
                let size_next =
                    matches!(helper.params.get(at + 1), Some(Param { arg: Arg::Size { .. }, .. }));
                assert_eq!(sized, size_next, "{} argument {at}", helper.name);
            }
        }
    }
}

//! Map kinds and what defines a map.

use serde::{Deserialize, Serialize};

use crate::limits;

/// The kinds of map, with Linux's numbers (`enum bpf_map_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[repr(u32)]
pub enum MapKind {
    /// Keys of any bytes; an update of a full map fails.
    ///
    /// All entries have their memory from the start. A pointer to a value stays valid memory, but when its entry is deleted
    /// the value may become that of another key, as with Linux's preallocated maps.
    Hash = 1,
    /// Keys are `u32` indexes below `max_entries`; every entry exists, zeroed, from the start.
    Array = 2,
    /// An [`Array`](Self::Array) with a value of its own for each processor.
    PerCpuArray = 6,
    /// A [`Hash`](Self::Hash) that forgets the entry that was not used for longest when it is full. Uses are the lookups of
    /// programs and all updates; lookups by control messages are not.
    LruHash = 9,
    /// One value for each connection: made, zeroed, when a stream program first asks for it, gone with its connection. Its key is
    /// the flow's id. All have their memory from the start, as those of a [`Hash`](Self::Hash).
    FlowStorage = 24,
    /// Records from programs to user space, in order; `max_entries` is its size in bytes, a power of two.
    RingBuf = 27,
}

impl MapKind {
    /// Every kind.
    pub const ALL: [Self; 6] =
        [Self::Hash, Self::Array, Self::PerCpuArray, Self::LruHash, Self::FlowStorage, Self::RingBuf];

    /// The name that people type, bpftool's.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Hash => "hash",
            Self::Array => "array",
            Self::PerCpuArray => "percpu_array",
            Self::LruHash => "lru_hash",
            Self::FlowStorage => "flow_storage",
            Self::RingBuf => "ringbuf",
        }
    }

    /// The kind with Linux's number `number`.
    pub fn from_number(number: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u32 == number)
    }

    /// The kind that `name` names.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// The bytes that a key of this kind has, where the kind leaves no choice.
    pub const fn key_size(self) -> Option<u32> {
        match self {
            Self::Hash | Self::LruHash => None,
            Self::Array | Self::PerCpuArray => Some(4),
            Self::FlowStorage => Some(8),
            Self::RingBuf => Some(0),
        }
    }

    /// A set with this one kind.
    pub const fn set(self) -> MapKinds {
        MapKinds(1 << self as u32)
    }
}

/// A set of map kinds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapKinds(u64);

impl MapKinds {
    /// The kinds with keys and values.
    pub const KEYED: Self = MapKind::Hash
        .set()
        .union(MapKind::Array.set())
        .union(MapKind::PerCpuArray.set())
        .union(MapKind::LruHash.set());
    /// The kinds whose entries can be deleted.
    pub const HASHED: Self = MapKind::Hash.set().union(MapKind::LruHash.set());

    const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether `kind` is in the set.
    pub const fn contains(self, kind: MapKind) -> bool {
        self.0 & kind.set().0 != 0
    }
}

/// What a map is: its kind and its sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MapDef {
    /// Kind of the map.
    pub kind: MapKind,
    /// Bytes of a key; 4 for arrays, 0 for ring buffers.
    pub key_size: u32,
    /// Bytes of a value; 0 for ring buffers.
    pub value_size: u32,
    /// Entries, or the bytes of a ring buffer.
    pub max_entries: u32,
    /// Flags, [`RDONLY_PROG`] or zero.
    pub flags: u32,
}

/// Map flag: programs may read, not write (Linux's `BPF_F_RDONLY_PROG`).
pub const RDONLY_PROG: u32 = 1 << 7;

/// Bytes that a hash keeps for each entry beside its key and value, at most.
pub const HASH_ENTRY: u64 = 24;

/// Why a definition is not one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapDefError {
    /// The key size is not one that the kind allows.
    KeySize,
    /// The value size is not one that the kind allows.
    ValueSize,
    /// The number of entries is zero, or not a power of two where it must be.
    MaxEntries,
    /// An unknown flag is set.
    Flags,
    /// The map would take more than [`limits::MAX_MAP_MEMORY`].
    Memory,
}

impl MapDefError {
    /// The reason in words.
    pub const fn text(self) -> &'static str {
        match self {
            Self::KeySize => {
                "key size: arrays take 4, flow storages 8, ring buffers 0, hashes 1 to 512 bytes"
            }
            Self::ValueSize => "value size: ring buffers take 0, the other kinds 1 to 65,536 bytes",
            Self::MaxEntries => {
                "max_entries: at least 1, and for a ring buffer a power of two from 4,096 bytes on"
            }
            Self::Flags => "flags: only BPF_F_RDONLY_PROG is known",
            Self::Memory => "memory: one map may take 64 MiB",
        }
    }
}

impl MapDef {
    /// Whether programs may only read the map's values.
    pub const fn read_only(&self) -> bool {
        self.flags & RDONLY_PROG != 0
    }

    /// Bytes from one value to the next in memory: the value size rounded up to eight.
    pub const fn stride(&self) -> usize {
        (self.value_size as usize).next_multiple_of(8)
    }

    /// Holds the definition against the rules of its kind.
    ///
    /// # Errors
    /// The first rule that it breaks.
    pub const fn check(&self) -> Result<(), MapDefError> {
        let (key_min, key_max) = match self.kind.key_size() {
            None => (1, limits::MAX_KEY as u32),
            Some(size) => (size, size),
        };
        if self.key_size < key_min || self.key_size > key_max {
            return Err(MapDefError::KeySize);
        }
        let ring = matches!(self.kind, MapKind::RingBuf);
        if ring != (self.value_size == 0) || self.value_size as usize > limits::MAX_VALUE {
            return Err(MapDefError::ValueSize);
        }
        if self.max_entries == 0 || (ring && (!self.max_entries.is_power_of_two() || self.max_entries < 4096))
        {
            return Err(MapDefError::MaxEntries);
        }
        if self.flags & !RDONLY_PROG != 0 {
            return Err(MapDefError::Flags);
        }
        let key = self.key_size.next_multiple_of(8) as u64;
        let each = match self.kind {
            MapKind::RingBuf => 1,
            MapKind::Array | MapKind::PerCpuArray => self.stride() as u64,
            MapKind::Hash | MapKind::LruHash | MapKind::FlowStorage => {
                self.stride() as u64 + key + HASH_ENTRY
            }
        };
        if each * self.max_entries as u64 > limits::MAX_MAP_MEMORY as u64 {
            return Err(MapDefError::Memory);
        }
        Ok(())
    }
}

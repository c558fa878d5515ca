//! Maps: memory that programs and control requests share.
//!
//! All memory of a map is allocated when it is made. A value has an address that programs get and that stays valid for
//! the life of the map; each program that names a map keeps it alive.

mod array;
mod hash;
mod ring;
mod table;

use core::sync::atomic::{AtomicBool, Ordering};

use tidegate_abi::control::{Id, MapInfoReply, Name, Status};
use tidegate_abi::{MapDef, MapKind, errno, limits};
use tidegate_vm::{MapBinding, Shared};

use self::array::Array;
pub(crate) use self::ring::Ring;
use self::table::Table;
use crate::memory::Words;
use crate::platform::Platform;

/// Why a map did not do what it was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MapError {
    /// A key or value of the wrong size, unknown flags, or an operation that the kind does not have.
    Invalid,
    /// There is no entry with this key.
    NotFound,
    /// There is an entry with this key.
    Exists,
    /// There is no free element.
    Full,
    /// The index lies behind the end.
    Range,
}

impl MapError {
    /// What a helper returns: a negated number, Linux's for the same case.
    pub(crate) const fn result(self) -> u64 {
        let number = match self {
            Self::Invalid => errno::EINVAL,
            Self::NotFound => errno::ENOENT,
            Self::Exists => errno::EEXIST,
            Self::Full | Self::Range => errno::E2BIG,
        };
        number.wrapping_neg() as u64
    }
}

impl From<MapError> for Status {
    fn from(error: MapError) -> Self {
        match error {
            MapError::Invalid => Self::Invalid,
            MapError::NotFound | MapError::Range => Self::NotFound,
            MapError::Exists => Self::Exists,
            MapError::Full => Self::Full,
        }
    }
}

/// Which entries an update may set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Updates {
    Any,
    /// `BPF_NOEXIST`: only one that does not exist.
    New,
    /// `BPF_EXIST`: only one that exists.
    Existing,
}

/// `BPF_EXIST`.
const EXISTING: u64 = 2;

impl Updates {
    fn from_flags(flags: u64) -> Result<Self, MapError> {
        match flags {
            0 => Ok(Self::Any),
            1 => Ok(Self::New),
            EXISTING => Ok(Self::Existing),
            _ => Err(MapError::Invalid),
        }
    }
}

/// A map.
#[derive(Debug)]
pub(crate) struct Map {
    pub(crate) id: Id,
    pub(crate) def: MapDef,
    name: Name,
    frozen: AtomicBool,
    platform: Platform,
    kind: Kind,
}

#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "a map lies behind a shared pointer and is never moved")]
enum Kind {
    Array(Array),
    Table(Table),
    Ring(Ring),
}

impl Map {
    /// Allocates a map. `PASSIVE_LEVEL`.
    ///
    /// # Errors
    /// [`Status::Invalid`] when the definition breaks a rule; [`Status::NoMemory`], also when the values of all processors
    /// would take more than [`limits::MAX_MAP_MEMORY`].
    pub(crate) fn new(id: Id, name: Name, def: MapDef, platform: Platform) -> Result<Self, Status> {
        def.check().map_err(|_| Status::Invalid)?;
        let kind = match def.kind {
            MapKind::Array => Kind::Array(Array::new(&def, 1)?),
            MapKind::PerCpuArray => {
                let copies = platform.count();
                if def.stride() as u64 * u64::from(def.max_entries) * copies as u64
                    > limits::MAX_MAP_MEMORY as u64
                {
                    return Err(Status::NoMemory);
                }
                Kind::Array(Array::new(&def, copies)?)
            }
            MapKind::Hash | MapKind::LruHash | MapKind::FlowStorage => {
                Kind::Table(Table::new(&def, &platform)?)
            }
            MapKind::RingBuf => Kind::Ring(Ring::new(&def)?),
        };
        Ok(Self { id, def, name, frozen: AtomicBool::new(false), platform, kind })
    }

    /// The memory that pointers into the map may touch: its values, or a ring buffer's records with their headers.
    fn memory(&self) -> &Words {
        match &self.kind {
            Kind::Array(array) => &array.values,
            Kind::Table(table) => &table.values,
            Kind::Ring(ring) => &ring.data,
        }
    }

    /// The map as the machine takes it: programs hand `handle` to helpers.
    pub(crate) fn binding(&self, handle: u64) -> MapBinding {
        let writable = !self.def.read_only() || self.ring().is_some();
        MapBinding { handle, memory: Some(Shared::clone(self.memory().memory())), writable }
    }

    /// The ring buffer, if it is one.
    pub(crate) fn ring(&self) -> Option<&Ring> {
        match &self.kind {
            Kind::Ring(ring) => Some(ring),
            _ => None,
        }
    }

    /// Bytes of a key, and of the value that [`lookup`](Self::lookup) gives.
    pub(crate) fn sizes(&self) -> (usize, usize) {
        (self.def.key_size as usize, self.def.value_size as usize)
    }

    fn key<'a>(&self, key: &'a [u8]) -> Result<&'a [u8], MapError> {
        let keyed = key.len() == self.def.key_size as usize && !matches!(self.kind, Kind::Ring(_));
        if keyed { Ok(key) } else { Err(MapError::Invalid) }
    }

    /// For programs: address of the value of `key`; of a per-CPU array, of this processor's. IRQL <= `DISPATCH_LEVEL`.
    pub(crate) fn lookup(&self, key: &[u8]) -> Option<u64> {
        let key = self.key(key).ok()?;
        match &self.kind {
            Kind::Array(array) => array.lookup(key, self.platform.index()),
            Kind::Table(table) => table.lookup(key, &self.platform),
            Kind::Ring(_) => None,
        }
    }

    /// For programs: sets the value of `key`; of a per-CPU array, this processor's. IRQL <= `DISPATCH_LEVEL`.
    pub(crate) fn update(&self, key: &[u8], value: &[u8], flags: u64) -> Result<(), MapError> {
        if self.def.read_only() {
            return Err(MapError::Invalid);
        }
        self.set(key, value, flags, |array, key| array.update(key, value, self.platform.index()))
    }

    /// For programs: deletes `key`. IRQL <= `DISPATCH_LEVEL`.
    pub(crate) fn delete(&self, key: &[u8]) -> Result<(), MapError> {
        if self.def.read_only() {
            return Err(MapError::Invalid);
        }
        self.remove(key)
    }

    /// For programs: address of the value of a connection, made if it must and `makes` says so. Of a flow storage only. IRQL <=
    /// `DISPATCH_LEVEL`.
    pub(crate) fn storage(&self, flow: u64, makes: bool) -> Option<u64> {
        let (Kind::Table(table), MapKind::FlowStorage) = (&self.kind, self.def.kind) else { return None };
        let key = flow.to_le_bytes();
        if makes && !self.def.read_only() {
            table.entry(&key, &self.platform)
        } else {
            table.lookup(&key, &self.platform)
        }
    }

    /// A connection has ended. Of a flow storage only. IRQL <= `DISPATCH_LEVEL`.
    pub(crate) fn end_flow(&self, flow: u64) {
        // It may have none here.
        let _ = self.remove(&flow.to_le_bytes());
    }

    /// For control requests: sets the value of `key`; of a per-CPU array, one for all processors or one for each.
    pub(crate) fn control_update(&self, key: &[u8], value: &[u8], flags: u64) -> Result<(), Status> {
        self.thawed()?;
        // Only its connection makes a value: one that nobody ends would stay for ever.
        let flags = if self.def.kind == MapKind::FlowStorage { flags | EXISTING } else { flags };
        Ok(self.set(key, value, flags, |array, key| array.update_all(key, value))?)
    }

    /// For control requests: deletes `key`.
    pub(crate) fn control_delete(&self, key: &[u8]) -> Result<(), Status> {
        self.thawed()?;
        Ok(self.remove(key)?)
    }

    /// For control requests: bytes of what [`control_lookup`](Self::control_lookup) copies.
    pub(crate) fn control_value_size(&self) -> usize {
        match &self.kind {
            Kind::Array(array) => array.read_size(),
            Kind::Table(_) | Kind::Ring(_) => self.def.value_size as usize,
        }
    }

    /// For control requests: copies the value of `key`; of a per-CPU array, those of all processors one after the other.
    pub(crate) fn control_lookup(&self, key: &[u8], out: &mut [u8]) -> Result<(), MapError> {
        let key = self.key(key)?;
        match &self.kind {
            Kind::Array(array) => array.read_all(key, out),
            Kind::Table(table) => table.read(key, out, &self.platform),
            Kind::Ring(_) => Err(MapError::Invalid),
        }
    }

    /// For control requests: copies the key that follows `key`, or the first, to `out`.
    pub(crate) fn next_key(&self, key: Option<&[u8]>, out: &mut [u8]) -> Result<(), MapError> {
        let key = key.map(|key| self.key(key)).transpose()?;
        match &self.kind {
            Kind::Array(array) => array.next_key(key, out),
            Kind::Table(table) => table.next_key(key, out, &self.platform),
            Kind::Ring(_) => Err(MapError::Invalid),
        }
    }

    /// For control requests: takes records of a ring buffer; see [`Ring`].
    pub(crate) fn read_events(
        &self,
        max: usize,
        deliver: impl FnOnce(u64, &[u8]) -> Result<usize, Status>,
    ) -> Result<usize, Status> {
        self.ring().ok_or(Status::Invalid)?.read(max, deliver)
    }

    /// Ends all changes by control requests.
    pub(crate) fn freeze(&self) {
        self.frozen.store(true, Ordering::Relaxed);
    }

    pub(crate) fn info(&self) -> MapInfoReply {
        let (entries, dropped) = match &self.kind {
            Kind::Array(_) => (self.def.max_entries, 0),
            Kind::Table(table) => (table.entries(), 0),
            Kind::Ring(ring) => (ring.query(0) as u32, ring.dropped()),
        };
        MapInfoReply {
            name: self.name.clone(),
            def: self.def,
            frozen: self.frozen.load(Ordering::Relaxed),
            entries,
            dropped,
        }
    }

    fn thawed(&self) -> Result<(), Status> {
        if self.frozen.load(Ordering::Relaxed) { Err(Status::ReadOnly) } else { Ok(()) }
    }

    fn set(
        &self,
        key: &[u8],
        value: &[u8],
        flags: u64,
        array: impl FnOnce(&Array, &[u8]) -> Result<(), MapError>,
    ) -> Result<(), MapError> {
        let (key, updates) = (self.key(key)?, Updates::from_flags(flags)?);
        match &self.kind {
            // Every index below the end exists from the start.
            Kind::Array(_) if updates == Updates::New => Err(MapError::Exists),
            Kind::Array(to) => array(to, key),
            Kind::Table(table) if value.len() == self.def.value_size as usize => {
                table.update(key, value, updates, &self.platform)
            }
            Kind::Table(_) | Kind::Ring(_) => Err(MapError::Invalid),
        }
    }

    fn remove(&self, key: &[u8]) -> Result<(), MapError> {
        match &self.kind {
            Kind::Table(table) => table.delete(self.key(key)?, &self.platform),
            Kind::Array(_) | Kind::Ring(_) => Err(MapError::Invalid),
        }
    }
}

#[cfg(test)]
mod tests;

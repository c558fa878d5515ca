//! The helpers that every program type has: maps, ring buffers, time, randomness, processor.

use tidegate_abi::limits::{MAX_RECORD, MAX_RESERVED, MAX_SCAN};
use tidegate_abi::{errno, helper};
use tidegate_vm::{Cause, Fault, Memory};

use crate::link::Link;
use crate::map::{Map, MapError, Ring};
use crate::watch::Sight;

/// Answers the helper calls of the runs of links, one after the other, that are not about the data shown. Holds the records
/// that a run reserved: behind it, those that are left (the run failed) are discarded, so that they don't hold up the reader.
#[derive(Debug)]
pub struct Calls<'a> {
    link: &'a Link,
    reserved: heapless::Vec<Record<'a>, MAX_RESERVED>,
    /// Bytes that the helpers of this run may still look at or move.
    moves_left: usize,
}

#[derive(Clone, Copy, Debug)]
struct Record<'a> {
    ring: &'a Ring,
    address: u64,
}

impl<'a> Calls<'a> {
    /// Calls of one run of `link`.
    pub fn new(link: &'a Link) -> Self {
        Self { link, reserved: heapless::Vec::new(), moves_left: MAX_SCAN }
    }

    /// Goes over to the next run, of `link`.
    #[inline]
    pub fn turn_to(&mut self, link: &'a Link) {
        self.give_back();
        (self.link, self.moves_left) = (link, MAX_SCAN);
    }

    /// Discards the records that are still reserved.
    #[inline]
    fn give_back(&mut self) {
        if !self.reserved.is_empty() {
            self.discard();
        }
    }

    #[cold]
    #[inline(never)]
    fn discard(&mut self) {
        for record in &self.reserved {
            record.ring.discard(record.address);
            (self.link.platform.wake)();
        }
        self.reserved.clear();
    }

    /// Carries out helper `number`, or returns `None` when it is not one of these. IRQL <= `DISPATCH_LEVEL`.
    ///
    /// # Errors
    /// A fault ends the run: it moved more than [`MAX_SCAN`] bytes, which is over its budget, or an argument is not what the
    /// helper's row in [`helper::HELPERS`] asks for. Verified programs don't do that. Flags that can only be zero are the verifier's business and not looked at.
    #[inline]
    pub fn call(
        &mut self,
        number: u32,
        args: [u64; 5],
        memory: &mut Memory<'_>,
    ) -> Option<Result<u64, Fault>> {
        Some(match number {
            helper::MAP_LOOKUP_ELEM => self.lookup(args, memory),
            helper::MAP_UPDATE_ELEM => self.update(args, memory),
            helper::MAP_DELETE_ELEM => self.delete(args, memory),
            helper::KTIME_GET_NS => Ok((self.link.platform.now_ns)()),
            helper::GET_PRANDOM_U32 => Ok(u64::from(self.link.program.dice.roll(&self.link.platform))),
            helper::GET_SMP_PROCESSOR_ID => Ok(self.link.platform.index() as u64),
            helper::RINGBUF_OUTPUT => self.output(args, memory),
            helper::RINGBUF_RESERVE => self.reserve(args),
            helper::RINGBUF_SUBMIT => self.consume(args, Ring::submit),
            helper::RINGBUF_DISCARD => self.consume(args, Ring::discard),
            helper::RINGBUF_QUERY => self.ring(args[0]).map(|ring| ring.query(args[1])),
            _ => return None,
        })
    }

    /// The value that a flow storage has for a connection, or that `makes` says it is to have. IRQL <= `DISPATCH_LEVEL`.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub fn flow_storage(&mut self, map: u64, flow: u64, makes: bool) -> Result<u64, Fault> {
        let map = self.map(map)?;
        self.moves(map.sizes().0 + map.sizes().1)?;
        Ok(map.storage(flow, makes).unwrap_or(0))
    }

    /// Deletes the value that a flow storage has for a connection. IRQL <= `DISPATCH_LEVEL`.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub fn delete_flow_storage(&mut self, map: u64, flow: u64) -> Result<u64, Fault> {
        let map = self.map(map)?;
        self.moves(map.sizes().0)?;
        Ok(map.delete(&flow.to_le_bytes()).map_or_else(MapError::result, |()| 0))
    }

    /// Counts `bytes` that a helper is about to look at or move: an instruction's cost does not tell how many they are.
    ///
    /// # Errors
    /// More than [`MAX_SCAN`] in one run, which is over its budget.
    pub fn moves(&mut self, bytes: usize) -> Result<(), Fault> {
        self.moves_left = self.moves_left.checked_sub(bytes).ok_or(Cause::Budget)?;
        Ok(())
    }

    /// Notes what a helper looked up in a map, which answered `result`. IRQL <= `DISPATCH_LEVEL`.
    #[cold]
    #[inline(never)]
    pub fn note(&self, map: u64, key: &[u8], result: u64, memory: &Memory<'_>, sight: &mut Sight) {
        if let Ok(map) = self.map(map) {
            sight.looked_up(map, key, result, memory);
        }
    }

    /// Bytes of a map's key; 0 when there is no such map.
    pub fn key_size(&self, map: u64) -> usize {
        self.map(map).map_or(0, |map| map.sizes().0)
    }

    fn lookup(&mut self, [map, key, ..]: [u64; 5], memory: &Memory<'_>) -> Result<u64, Fault> {
        let map = self.map(map)?;
        self.moves(map.sizes().0)?;
        Ok(map.lookup(memory.read(key, map.sizes().0)?).unwrap_or(0))
    }

    fn update(&mut self, [map, key, value, flags, _]: [u64; 5], memory: &Memory<'_>) -> Result<u64, Fault> {
        let map = self.map(map)?;
        let (key_size, value_size) = map.sizes();
        self.moves(key_size + value_size)?;
        let (key, value) = (memory.read(key, key_size)?, memory.read(value, value_size)?);
        Ok(map.update(key, value, flags).map_or_else(MapError::result, |()| 0))
    }

    fn delete(&mut self, [map, key, ..]: [u64; 5], memory: &Memory<'_>) -> Result<u64, Fault> {
        let map = self.map(map)?;
        self.moves(map.sizes().0)?;
        let key = memory.read(key, map.sizes().0)?;
        Ok(map.delete(key).map_or_else(MapError::result, |()| 0))
    }

    fn output(&mut self, [ring, data, size, ..]: [u64; 5], memory: &Memory<'_>) -> Result<u64, Fault> {
        let ring = self.ring(ring)?;
        let record = memory.read(data, usize::try_from(size).map_err(|_| misuse())?)?;
        self.moves(record.len())?;
        let written = ring.output(record, &self.link.platform);
        (self.link.platform.wake)();
        Ok(if written { 0 } else { errno::ENOMEM.wrapping_neg() as u64 })
    }

    fn reserve(&mut self, [ring, size, ..]: [u64; 5]) -> Result<u64, Fault> {
        let ring = self.ring(ring)?;
        self.moves(usize::try_from(size).map_err(|_| misuse())?.min(MAX_RECORD))?;
        if self.reserved.is_full() {
            ring.drop_one();
            return Ok(0);
        }
        let Some(address) = ring.reserve(size, &self.link.platform) else { return Ok(0) };
        // There is room.
        let _ = self.reserved.push(Record { ring, address });
        Ok(address)
    }

    /// Ends the reservation of a record that this run holds.
    fn consume(&mut self, [address, ..]: [u64; 5], end: fn(&Ring, u64) -> bool) -> Result<u64, Fault> {
        let record = self.reserved.iter().find(|record| record.address == address).copied();
        let record = record.ok_or_else(misuse)?;
        self.reserved.retain(|held| held.address != address);
        end(record.ring, record.address);
        // A discarded one too: it may have held up others.
        (self.link.platform.wake)();
        Ok(0)
    }

    fn map(&self, handle: u64) -> Result<&'a Map, Fault> {
        let index = handle.checked_sub(1).and_then(|index| usize::try_from(index).ok());
        let map = index.and_then(|index| self.link.program.maps.get(index));
        map.map(|map| &**map).ok_or_else(misuse)
    }

    fn ring(&self, handle: u64) -> Result<&'a Ring, Fault> {
        self.map(handle)?.ring().ok_or_else(misuse)
    }
}

impl Drop for Calls<'_> {
    fn drop(&mut self) {
        self.give_back();
    }
}

/// An argument that no verified program passes.
fn misuse() -> Fault {
    Cause::Helper { status: errno::EINVAL as i32 }.into()
}

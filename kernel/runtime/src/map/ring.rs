//! Ring buffers: records from programs on every processor to one reader in user space, in the order of their reservation.
//!
//! A record is a header of one word, then its bytes rounded up to words. Positions count bytes since the ring was made and
//! never wrap; a record lies at its position modulo the size. The memory goes on behind the end of the ring for as long as the
//! largest record, so that a record which begins before the end is never cut in two; the bytes that it covers there stand
//! for those at the start, which stay unused.
//!
//! As on Linux, a record that is reserved and not yet submitted holds up the reader, not the other writers.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tidegate_abi::control::Status;
use tidegate_abi::{MapDef, limits};

use crate::memory::{Words, vector};
use crate::platform::Platform;
use crate::spin::{Padded, Spin};

/// Bytes of a header: the length of the record in the low half, its state in the high bits.
const HEADER: u64 = 8;
/// Header: reserved, not yet submitted.
const BUSY: u64 = 1 << 63;
/// Header: given back unread.
const DISCARDED: u64 = 1 << 62;
/// Header: the length.
const LENGTH: u64 = 0xffff_ffff;

#[derive(Debug)]
pub(crate) struct Ring {
    pub(super) data: Words,
    size: u64,
    /// Where the next record goes; changes under `writers`, behind the header's store.
    producer: Padded<AtomicU64>,
    /// The oldest record that was not read; only the reader changes it.
    consumer: Padded<AtomicU64>,
    writers: Padded<Spin<()>>,
    reading: AtomicBool,
    dropped: AtomicU64,
}

impl Ring {
    pub(crate) fn new(def: &MapDef) -> Result<Self, Status> {
        let size = def.max_entries as usize;
        Ok(Self {
            data: Words::new((size + size.min(limits::MAX_RECORD)) / 8)?,
            size: size as u64,
            producer: Padded::default(),
            consumer: Padded::default(),
            writers: Padded(Spin::new(())),
            reading: AtomicBool::new(false),
            dropped: AtomicU64::new(0),
        })
    }

    /// Reserves a zeroed record of `len` bytes and returns its address; or counts it as dropped.
    pub(crate) fn reserve(&self, len: u64, platform: &Platform) -> Option<u64> {
        let position = self.claim(len, platform);
        if position.is_none() {
            self.drop_one();
        }
        let at = self.word(position?) + 1;
        self.data.zero(at, len as usize);
        Some(self.data.address(at))
    }

    /// Copies a record in. False when it did not fit and was counted as dropped.
    pub(crate) fn output(&self, record: &[u8], platform: &Platform) -> bool {
        let Some(position) = self.claim(record.len() as u64, platform) else {
            self.drop_one();
            return false;
        };
        let header = self.word(position);
        self.data.write(header + 1, record);
        self.settle(header, 0)
    }

    /// Hands the record at `address` to the reader. False when no reserved record is there.
    pub(crate) fn submit(&self, address: u64) -> bool {
        self.header_of(address).is_some_and(|header| self.settle(header, 0))
    }

    /// Gives the record at `address` back unread. False when no reserved record is there.
    pub(crate) fn discard(&self, address: u64) -> bool {
        self.header_of(address).is_some_and(|header| self.settle(header, DISCARDED))
    }

    /// Counts a record that was not written.
    pub(crate) fn drop_one(&self) {
        self.dropped.fetch_add(1, Ordering::Relaxed);
    }

    /// Bytes not yet read, size, reader's and writer's position: what `bpf_ringbuf_query` answers for 0, 1, 2 and 3.
    pub(crate) fn query(&self, what: u64) -> u64 {
        let consumer = self.consumer.0.load(Ordering::Acquire);
        let producer = self.producer.0.load(Ordering::Acquire);
        match what {
            0 => producer.saturating_sub(consumer),
            1 => self.size,
            2 => consumer,
            3 => producer,
            _ => 0,
        }
    }

    /// Records that did not fit, since the ring was made.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Takes the records that wait, as many as fit into `max` bytes of events, and frees them once `deliver` succeeds with
    /// the count of the dropped and the records, each behind its length as a little-endian u32. `PASSIVE_LEVEL`.
    ///
    /// # Errors
    /// [`Status::Busy`] when someone else reads at this moment, [`Status::ReplyTooLarge`] when not even the first record
    /// fits, [`Status::NoMemory`], and what `deliver` says. Nothing is taken then.
    pub(crate) fn read(
        &self,
        max: usize,
        deliver: impl FnOnce(u64, &[u8]) -> Result<usize, Status>,
    ) -> Result<usize, Status> {
        if self.reading.swap(true, Ordering::Acquire) {
            return Err(Status::Busy);
        }
        let taken = self.take(max, deliver);
        self.reading.store(false, Ordering::Release);
        taken
    }

    fn take(
        &self,
        max: usize,
        deliver: impl FnOnce(u64, &[u8]) -> Result<usize, Status>,
    ) -> Result<usize, Status> {
        let start = self.consumer.0.load(Ordering::Relaxed);
        let (mut bytes, mut end) = (0_usize, start);
        for (position, length, discarded) in self.settled(start) {
            if !discarded {
                let more = bytes + 4 + length;
                if more > max && bytes == 0 {
                    return Err(Status::ReplyTooLarge);
                }
                if more > max {
                    break;
                }
                bytes = more;
            }
            end = position + span(length as u64);
        }
        let mut events = vector(bytes, || 0_u8)?;
        let mut room = events.as_mut_slice();
        let records = self.settled(start).take_while(|(position, ..)| *position < end);
        for (position, length, _) in records.filter(|(.., discarded)| !discarded) {
            let Some((head, rest)) = core::mem::take(&mut room).split_first_chunk_mut() else { break };
            let Some((record, rest)) = rest.split_at_mut_checked(length) else { break };
            *head = (length as u32).to_le_bytes();
            self.data.read(self.word(position) + 1, record);
            room = rest;
        }
        let delivered = deliver(self.dropped(), &events)?;
        self.consumer.0.store(end, Ordering::Release);
        Ok(delivered)
    }

    /// The records from `position` on, up to the first that is still reserved: position, length, whether discarded.
    fn settled(&self, mut position: u64) -> impl Iterator<Item = (u64, usize, bool)> {
        let producer = self.producer.0.load(Ordering::Acquire);
        core::iter::from_fn(move || {
            if position >= producer {
                return None;
            }
            let header = self.data.word(self.word(position))?.load(Ordering::Acquire);
            let (at, length) = (position, header & LENGTH);
            position += span(length);
            // A length that leads beyond the writers can't be; should memory be corrupt, nothing is read.
            (header & BUSY == 0 && position <= producer).then_some((
                at,
                length as usize,
                header & DISCARDED != 0,
            ))
        })
    }

    /// Index of the word at a position.
    fn word(&self, position: u64) -> usize {
        ((position & (self.size - 1)) / 8) as usize
    }

    /// Makes room for a record and marks it busy; returns its position.
    fn claim(&self, len: u64, platform: &Platform) -> Option<u64> {
        if len == 0 || len > limits::MAX_RECORD as u64 {
            return None;
        }
        self.writers.0.with(platform, |()| {
            let position = self.producer.0.load(Ordering::Relaxed);
            let end = position.checked_add(span(len))?;
            if end - self.consumer.0.load(Ordering::Acquire) > self.size {
                return None;
            }
            self.data.word(self.word(position))?.store(len | BUSY, Ordering::Relaxed);
            self.producer.0.store(end, Ordering::Release);
            Some(position)
        })
    }

    /// The header of the reserved record at `address`.
    fn header_of(&self, address: u64) -> Option<usize> {
        self.data.at(address)?.checked_sub(1)
    }

    /// Ends a reservation.
    fn settle(&self, header: usize, state: u64) -> bool {
        self.data.word(header).is_some_and(|word| {
            let value = word.load(Ordering::Relaxed);
            let busy = value & BUSY != 0;
            if busy {
                word.store(value & LENGTH | state, Ordering::Release);
            }
            busy
        })
    }
}

/// Bytes that a record of `len` bytes takes.
fn span(len: u64) -> u64 {
    HEADER + len.next_multiple_of(8)
}

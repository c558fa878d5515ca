//! Hash maps, and those that forget the entry that was not used for longest.

use alloc::vec::Vec;
use core::cmp::Ordering;
use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

use tidegate_abi::control::Status;
use tidegate_abi::map::HASH_ENTRY;
use tidegate_abi::{MapDef, MapKind};

use super::hash::Seed;
use super::{MapError, Updates};
use crate::memory::{Words, vector};
use crate::platform::Platform;
use crate::spin::{Padded, Spin};

/// No element.
const NIL: u32 = u32::MAX;
/// Locks of a hash map; each guards every so-manieth bucket.
const LOCKS: usize = 64;

/// A hash table of elements that are all allocated when it is made.
///
/// Elements hang in chains from buckets. A chain, and the elements in it, change under the lock of its bucket; the list of
/// free elements has a lock of its own, taken inside a bucket's. A map that forgets has one lock for everything, because each
/// use of an entry moves it in the order of use: its lookups wait for each other, which a hash map's hardly ever do.
///
/// A program keeps the address of a value after the lock is given up. The memory stays; when the entry is deleted or
/// forgotten meanwhile, the program reads and writes a value that is free or belongs to another key by then. Linux's
/// preallocated maps do the same.
#[derive(Debug)]
pub(crate) struct Table {
    pub(super) values: Words,
    keys: Words,
    value_words: usize,
    key_words: usize,
    seed: Seed,
    /// First element of each bucket; a power of two of them.
    heads: Vec<AtomicU32>,
    links: Vec<Link>,
    free: Spin<u32>,
    locks: Vec<Padded<Spin<Use>>>,
    forgets: bool,
    entries: AtomicU32,
}

/// What an element says about itself beside its key and value.
#[derive(Debug, Default)]
struct Link {
    /// Next element of the bucket, or of the free list.
    next: AtomicU32,
    /// Hash of the key.
    hash: AtomicU32,
    /// Neighbours in the order of use; only of a map that forgets.
    newer: AtomicU32,
    older: AtomicU32,
}

// A link and its share of the heads, of which there are fewer than twice as many.
const _: () = assert!(size_of::<Link>() + 2 * size_of::<AtomicU32>() <= HASH_ENTRY as usize);

/// The ends of the order of use; only of a map that forgets.
#[derive(Debug)]
struct Use {
    newest: u32,
    oldest: u32,
}

impl Table {
    pub(super) fn new(def: &MapDef, platform: &Platform) -> Result<Self, Status> {
        let entries = def.max_entries as usize;
        let (key_words, value_words) = ((def.key_size as usize).div_ceil(8), def.stride() / 8);
        let forgets = def.kind == MapKind::LruHash;
        let links = vector(entries, Link::default)?;
        for (link, next) in links.iter().zip(1..) {
            link.next.store(if next as usize == entries { NIL } else { next }, Relaxed);
        }
        let size = |words: usize| entries.checked_mul(words).ok_or(Status::NoMemory);
        Ok(Self {
            values: Words::new(size(value_words)?)?,
            keys: Words::new(size(key_words)?)?,
            value_words,
            key_words,
            seed: Seed::new(platform.random),
            heads: vector(entries.next_power_of_two(), || AtomicU32::new(NIL))?,
            links,
            free: Spin::new(0),
            locks: vector(if forgets { 1 } else { LOCKS }, || {
                Padded(Spin::new(Use { newest: NIL, oldest: NIL }))
            })?,
            forgets,
            entries: AtomicU32::new(0),
        })
    }

    /// Entries that exist.
    pub(super) fn entries(&self) -> u32 {
        self.entries.load(Relaxed)
    }

    /// Address of the value of `key`; counts as a use.
    pub(super) fn lookup(&self, key: &[u8], platform: &Platform) -> Option<u64> {
        let hash = self.seed.hash(key);
        self.locked(hash, platform, |order| {
            let (_, at) = self.find(hash, key)?;
            self.touch(order, at);
            Some(self.values.address(at as usize * self.value_words))
        })?
    }

    /// Address of the value of `key`, which is made, zeroed, when there is none; `None` when it can't be.
    pub(super) fn entry(&self, key: &[u8], platform: &Platform) -> Option<u64> {
        let hash = self.seed.hash(key);
        self.locked(hash, platform, |order| {
            let at = match self.find(hash, key) {
                Some((_, at)) => {
                    self.touch(order, at);
                    at
                }
                None => {
                    let at = self.insert(order, hash, key, platform).ok()?;
                    self.values.zero(at as usize * self.value_words, self.value_words * 8);
                    at
                }
            };
            Some(self.values.address(at as usize * self.value_words))
        })?
    }

    /// Copies the value of `key`; does not count as a use.
    pub(super) fn read(&self, key: &[u8], out: &mut [u8], platform: &Platform) -> Result<(), MapError> {
        let hash = self.seed.hash(key);
        let found = self.locked(hash, platform, |_| {
            let (_, at) = self.find(hash, key)?;
            self.values.read(at as usize * self.value_words, out);
            Some(())
        });
        found.flatten().ok_or(MapError::NotFound)
    }

    pub(super) fn update(
        &self,
        key: &[u8],
        value: &[u8],
        updates: Updates,
        platform: &Platform,
    ) -> Result<(), MapError> {
        let hash = self.seed.hash(key);
        let done = self.locked(hash, platform, |order| {
            let at = match (self.find(hash, key), updates) {
                (Some(_), Updates::New) => return Err(MapError::Exists),
                (None, Updates::Existing) => return Err(MapError::NotFound),
                (Some((_, at)), _) => {
                    self.touch(order, at);
                    at
                }
                (None, _) => self.insert(order, hash, key, platform)?,
            };
            self.values.write(at as usize * self.value_words, value);
            Ok(())
        });
        done.unwrap_or(Err(MapError::Invalid))
    }

    pub(super) fn delete(&self, key: &[u8], platform: &Platform) -> Result<(), MapError> {
        let hash = self.seed.hash(key);
        let found = self.locked(hash, platform, |order| {
            let (before, at) = self.find(hash, key)?;
            self.unchain(before, at);
            self.unlist(order, at);
            self.give_back(at, platform);
            Some(())
        });
        found.flatten().ok_or(MapError::NotFound)
    }

    /// Copies the key that follows `key` in an order of the map's own, or the first.
    ///
    /// A key that is not (or no longer) there has its place in that order too, so a walk over a map that changes meanwhile
    /// ends, and sees each entry that was there from its start to its end.
    pub(super) fn next_key(
        &self,
        key: Option<&[u8]>,
        out: &mut [u8],
        platform: &Platform,
    ) -> Result<(), MapError> {
        let mut after = key.map(|key| (self.seed.hash(key), key));
        let first = after.map_or(0, |(hash, _)| self.bucket(hash));
        for (bucket, head) in self.heads.iter().enumerate().skip(first) {
            if head.load(Relaxed) != NIL {
                let found = self.locked(bucket as u32, platform, |_| {
                    let at = self.least(head, after)?;
                    self.keys.read(at as usize * self.key_words, out);
                    Some(())
                });
                if found.flatten().is_some() {
                    return Ok(());
                }
            }
            after = None;
        }
        Err(MapError::NotFound)
    }

    fn bucket(&self, hash: u32) -> usize {
        hash as usize & (self.heads.len() - 1)
    }

    /// Runs `section` with the lock of the bucket of `hash`. There always is one: `None` is for the compiler.
    fn locked<R>(&self, hash: u32, platform: &Platform, section: impl FnOnce(&mut Use) -> R) -> Option<R> {
        let lock = self.locks.get(self.bucket(hash) % self.locks.len().max(1))?;
        Some(lock.0.with(platform, section))
    }

    fn next(&self, at: u32) -> Option<&AtomicU32> {
        self.links.get(at as usize).map(|link| &link.next)
    }

    /// The elements of a chain, each with the link that leads to it.
    fn chain<'a>(&'a self, head: &'a AtomicU32) -> impl Iterator<Item = (&'a AtomicU32, u32)> {
        let mut before = Some(head);
        core::iter::from_fn(move || {
            let from = before?;
            let at = from.load(Relaxed);
            before = self.next(at);
            (at != NIL).then_some((from, at))
        })
    }

    /// The element with `key`, and the link that leads to it.
    fn find(&self, hash: u32, key: &[u8]) -> Option<(&AtomicU32, u32)> {
        let head = self.heads.get(self.bucket(hash))?;
        self.chain(head).find(|(_, at)| {
            self.hash_of(*at) == hash
                && self.keys.compare(*at as usize * self.key_words, key) == Ordering::Equal
        })
    }

    fn hash_of(&self, at: u32) -> u32 {
        self.links.get(at as usize).map_or(0, |link| link.hash.load(Relaxed))
    }

    /// The key of an element, in words.
    fn key(&self, at: u32) -> impl Iterator<Item = u64> {
        let from = at as usize * self.key_words;
        (from..from + self.key_words).map(|word| self.keys.word(word).map_or(0, |word| word.load(Relaxed)))
    }

    /// The least element of a chain by hash and key that is greater than `after`.
    fn least(&self, head: &AtomicU32, after: Option<(u32, &[u8])>) -> Option<u32> {
        let follows = |at: u32| {
            after.is_none_or(|(hash, after)| {
                let order = self.hash_of(at).cmp(&hash);
                order.then_with(|| self.keys.compare(at as usize * self.key_words, after)).is_gt()
            })
        };
        self.chain(head).map(|(_, at)| at).filter(|at| follows(*at)).min_by(|a, b| {
            self.hash_of(*a).cmp(&self.hash_of(*b)).then_with(|| self.key(*a).cmp(self.key(*b)))
        })
    }

    /// Makes an element for `key`, forgetting the one that was not used for longest if it must and may.
    fn insert(&self, order: &mut Use, hash: u32, key: &[u8], platform: &Platform) -> Result<u32, MapError> {
        let free = self.free.with(platform, |free| {
            let at = *free;
            if let Some(next) = self.next(at) {
                *free = next.load(Relaxed);
            }
            at
        });
        let at = if free != NIL {
            self.entries.fetch_add(1, Relaxed);
            free
        } else if self.forgets {
            self.forget(order).ok_or(MapError::Full)?
        } else {
            return Err(MapError::Full);
        };
        self.keys.write(at as usize * self.key_words, key);
        // A program's key may lie in a map, where another processor changes it meanwhile. An element under a hash that is not
        // its key's would never be found again.
        if self.seed.hash_words(key.len(), self.key(at)) != hash {
            self.give_back(at, platform);
            return Err(MapError::Invalid);
        }
        if let (Some(link), Some(head)) = (self.links.get(at as usize), self.heads.get(self.bucket(hash))) {
            link.hash.store(hash, Relaxed);
            link.next.store(head.load(Relaxed), Relaxed);
            head.store(at, Relaxed);
        }
        self.enlist(order, at);
        Ok(at)
    }

    /// Makes an element that is in no chain a free one.
    fn give_back(&self, at: u32, platform: &Platform) {
        self.free.with(platform, |free| {
            set(self.next(at), *free);
            *free = at;
        });
        self.entries.fetch_sub(1, Relaxed);
    }

    /// Takes the element that was not used for longest out of its chain.
    fn forget(&self, order: &mut Use) -> Option<u32> {
        let at = order.oldest;
        let hash = self.hash_of(at);
        let head = self.heads.get(self.bucket(hash))?;
        let (before, _) = self.chain(head).find(|(_, element)| *element == at)?;
        self.unchain(before, at);
        self.unlist(order, at);
        Some(at)
    }

    fn unchain(&self, before: &AtomicU32, at: u32) {
        before.store(self.next(at).map_or(NIL, |next| next.load(Relaxed)), Relaxed);
    }

    /// Makes an element the one used last.
    fn touch(&self, order: &mut Use, at: u32) {
        if self.forgets && order.newest != at {
            self.unlist(order, at);
            self.enlist(order, at);
        }
    }

    fn enlist(&self, order: &mut Use, at: u32) {
        if !self.forgets {
            return;
        }
        set(self.newer(at), NIL);
        set(self.older(at), order.newest);
        match self.newer(order.newest) {
            Some(newer) => newer.store(at, Relaxed),
            None => order.oldest = at,
        }
        order.newest = at;
    }

    fn unlist(&self, order: &mut Use, at: u32) {
        if !self.forgets {
            return;
        }
        let load = |link: Option<&AtomicU32>| link.map_or(NIL, |link| link.load(Relaxed));
        let (newer, older) = (load(self.newer(at)), load(self.older(at)));
        match self.older(newer) {
            Some(link) => link.store(older, Relaxed),
            None => order.newest = older,
        }
        match self.newer(older) {
            Some(link) => link.store(newer, Relaxed),
            None => order.oldest = newer,
        }
    }

    fn newer(&self, at: u32) -> Option<&AtomicU32> {
        self.links.get(at as usize).map(|link| &link.newer)
    }

    fn older(&self, at: u32) -> Option<&AtomicU32> {
        self.links.get(at as usize).map(|link| &link.older)
    }
}

/// Stores to a link of an element, if there is that element.
fn set(link: Option<&AtomicU32>, to: u32) {
    if let Some(link) = link {
        link.store(to, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::tests::platform;

    #[test]
    fn a_key_that_changes_while_it_is_inserted_is_refused_and_takes_no_room() {
        let platform = platform(1);
        for kind in [MapKind::Hash, MapKind::LruHash] {
            let def = MapDef { kind, key_size: 4, value_size: 8, max_entries: 2, flags: 0 };
            let table = Table::new(&def, &platform).expect("small");
            for _ in 0..5 {
                let hash = table.seed.hash(b"then");
                let done =
                    table.locked(hash, &platform, |order| table.insert(order, hash, b"now!", &platform));
                assert_eq!(done, Some(Err(MapError::Invalid)));
                assert_eq!(table.entries(), 0);
            }
            for key in [b"then", b"now!"] {
                assert_eq!(table.update(key, &[1; 8], Updates::New, &platform), Ok(()));
            }
        }
    }
}

//! Maps against models that are too simple to be wrong.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::vec;
use std::vec::Vec;

use proptest::collection;
use proptest::prelude::*;
use tidegate_abi::control::{Name, Status};
use tidegate_abi::map::{MapDefError, RDONLY_PROG};
use tidegate_abi::{MapDef, MapKind, limits};

use super::{Map, MapError, Ring};
use crate::platform::tests::platform;

fn make(kind: MapKind, key_size: u32, value_size: u32, max_entries: u32) -> Map {
    let def = MapDef { kind, key_size, value_size, max_entries, flags: 0 };
    Map::new(1, Name::new(), def, platform(3)).expect("a good definition")
}

/// The value of a key as control requests see it.
fn read(map: &Map, key: &[u8]) -> Result<Vec<u8>, MapError> {
    let mut value = vec![0; map.control_value_size()];
    map.control_lookup(key, &mut value).map(|()| value)
}

/// Every key, by walking from one to the next.
fn keys(map: &Map) -> Vec<Vec<u8>> {
    let mut keys: Vec<Vec<u8>> = Vec::new();
    let mut next = vec![0; map.sizes().0];
    while map.next_key(keys.last().map(Vec::as_slice), &mut next).is_ok() {
        keys.push(next.clone());
    }
    keys
}

#[derive(Clone, Debug)]
enum Op {
    Update { key: u8, value: [u8; 3], flags: u64, control: bool },
    Delete { key: u8, control: bool },
    Use(u8),
    Read(u8),
}

fn op() -> impl Strategy<Value = Op> {
    let key = 0..12_u8;
    prop_oneof![
        4 => (key.clone(), any::<[u8; 3]>(), 0..4_u64, any::<bool>())
            .prop_map(|(key, value, flags, control)| Op::Update { key, value, flags, control }),
        2 => (key.clone(), any::<bool>()).prop_map(|(key, control)| Op::Delete { key, control }),
        3 => key.clone().prop_map(Op::Use),
        1 => key.prop_map(Op::Read),
    ]
}

/// A key of eleven bytes: not whole words.
fn long(key: u8) -> [u8; 11] {
    let mut long = *b"key number ";
    long[10] = key;
    long
}

/// A hash map as a list of entries, the one used last at its end.
#[derive(Default)]
struct Model {
    entries: Vec<(u8, [u8; 3])>,
    forgets: bool,
}

impl Model {
    const MAX: usize = 5;

    fn take(&mut self, key: u8) -> Option<[u8; 3]> {
        let at = self.entries.iter().position(|entry| entry.0 == key)?;
        Some(self.entries.remove(at).1)
    }

    fn update(&mut self, key: u8, value: [u8; 3], flags: u64) -> Result<(), MapError> {
        let exists = self.entries.iter().any(|entry| entry.0 == key);
        match (flags, exists) {
            (3.., _) => return Err(MapError::Invalid),
            (1, true) => return Err(MapError::Exists),
            (2, false) => return Err(MapError::NotFound),
            _ => {}
        }
        if !exists && self.entries.len() == Self::MAX {
            if !self.forgets {
                return Err(MapError::Full);
            }
            self.entries.remove(0);
        }
        self.take(key);
        self.entries.push((key, value));
        Ok(())
    }
}

fn follows_its_model(kind: MapKind, ops: Vec<Op>) {
    let map = make(kind, 11, 3, Model::MAX as u32);
    let mut model = Model { forgets: kind == MapKind::LruHash, ..Model::default() };
    for op in ops {
        match op {
            Op::Update { key, value, flags, control } => {
                let expected = model.update(key, value, flags);
                if control {
                    let expected = expected.map_err(Status::from);
                    assert_eq!(map.control_update(&long(key), &value, flags), expected);
                } else {
                    assert_eq!(map.update(&long(key), &value, flags), expected);
                }
            }
            Op::Delete { key, control } => {
                let expected = model.take(key).map(|_| ()).ok_or(MapError::NotFound);
                if control {
                    assert_eq!(map.control_delete(&long(key)), expected.map_err(Status::from));
                } else {
                    assert_eq!(map.delete(&long(key)), expected);
                }
            }
            Op::Use(key) => {
                let value = model.take(key);
                value.into_iter().for_each(|value| model.entries.push((key, value)));
                let found = map.lookup(&long(key)).map(|address| {
                    let mut bytes = [0; 3];
                    map.memory().read(map.memory().at(address).expect("inside"), &mut bytes);
                    bytes
                });
                assert_eq!(found, value);
            }
            Op::Read(key) => {
                let value = model.entries.iter().find(|entry| entry.0 == key);
                let value = value.map(|entry| entry.1.to_vec()).ok_or(MapError::NotFound);
                assert_eq!(read(&map, &long(key)), value);
            }
        }
        let walked = keys(&map);
        let expected: BTreeSet<_> = model.entries.iter().map(|entry| long(entry.0).to_vec()).collect();
        assert_eq!(walked.len(), expected.len(), "no key twice");
        assert_eq!(walked.into_iter().collect::<BTreeSet<_>>(), expected);
        assert_eq!(map.info().entries as usize, expected.len());
    }
}

proptest! {
    #[test]
    fn a_hash_map_is_a_map_with_a_limit(ops in collection::vec(op(), 0..120)) {
        follows_its_model(MapKind::Hash, ops);
    }

    #[test]
    fn an_lru_hash_forgets_exactly_the_entry_not_used_for_longest(ops in collection::vec(op(), 0..120)) {
        follows_its_model(MapKind::LruHash, ops);
    }

    #[test]
    fn a_walk_sees_every_key_that_stays_and_ends_while_others_come_and_go(
        changes in collection::vec((64..128_u8, any::<bool>()), 200)
    ) {
        let map = make(MapKind::Hash, 1, 1, 128);
        (0..64).for_each(|key| map.update(&[key], &[1], 0).expect("room"));
        let mut seen = Vec::new();
        let mut changes = changes.into_iter();
        let mut key = [0];
        while map.next_key(seen.last().map(<[u8; 1]>::as_slice), &mut key).is_ok() {
            seen.push(key);
            // The key that the walk stands on may go as well.
            for (other, update) in changes.by_ref().take(2) {
                let _ = if update { map.update(&[other], &[2], 0) } else { map.delete(&[other]) };
            }
        }
        let stayed = seen.iter().filter(|key| key[0] < 64).count();
        prop_assert_eq!(stayed, 64);
        prop_assert_eq!(seen.iter().collect::<BTreeSet<_>>().len(), seen.len());
    }
}

#[test]
fn arrays_have_every_index_zeroed_and_no_other() {
    let map = make(MapKind::Array, 4, 12, 3);
    assert_eq!(keys(&map), [[0, 0, 0, 0], [1, 0, 0, 0], [2, 0, 0, 0]]);
    assert_eq!(read(&map, &[2, 0, 0, 0]), Ok(vec![0; 12]));
    assert_eq!(map.update(&[2, 0, 0, 0], &[7; 12], 0), Ok(()));
    assert_eq!(read(&map, &[2, 0, 0, 0]), Ok(vec![7; 12]));
    assert_eq!(read(&map, &[1, 0, 0, 0]), Ok(vec![0; 12]));
    assert_eq!(map.lookup(&[2, 0, 0, 0]), Some(map.memory().address(4)));
    assert_eq!(map.lookup(&[3, 0, 0, 0]), None);
    assert_eq!(map.update(&[3, 0, 0, 0], &[7; 12], 0), Err(MapError::Range));
    assert_eq!(map.update(&[0, 0, 0, 0], &[7; 12], 1), Err(MapError::Exists));
    assert_eq!(map.update(&[0, 0, 0, 0], &[7; 12], 2), Ok(()));
    assert_eq!(map.delete(&[0, 0, 0, 0]), Err(MapError::Invalid));
    assert_eq!(map.control_update(&[0, 0, 0, 0], &[7; 11], 0), Err(Status::Invalid));
}

#[test]
fn a_per_cpu_array_gives_programs_their_own_and_control_requests_all_values() {
    let map = make(MapKind::PerCpuArray, 4, 2, 2);
    let key = [1, 0, 0, 0];
    assert_eq!(map.control_update(&key, &[1, 1, 2, 2, 3, 3], 0), Ok(()));
    assert_eq!(read(&map, &key), Ok(vec![1, 1, 2, 2, 3, 3]));
    assert_eq!(map.update(&key, &[9, 9], 0), Ok(()), "by a program, on processor 0");
    assert_eq!(read(&map, &key), Ok(vec![9, 9, 2, 2, 3, 3]));
    assert_eq!(map.control_update(&key, &[5, 6], 0), Ok(()));
    assert_eq!(read(&map, &key), Ok(vec![5, 6, 5, 6, 5, 6]));
    assert_eq!(read(&map, &[0; 4]), Ok(vec![0; 6]));
    assert_eq!(map.control_update(&key, &[1, 2, 3, 4], 0), Err(Status::Invalid), "neither one nor all");
}

#[test]
fn read_only_maps_refuse_programs_and_frozen_ones_control_requests() {
    let def = MapDef { kind: MapKind::Hash, key_size: 1, value_size: 1, max_entries: 2, flags: RDONLY_PROG };
    let map = Map::new(1, Name::new(), def, platform(1)).expect("a good definition");
    assert_eq!(map.control_update(&[1], &[2], 0), Ok(()));
    assert_eq!(map.update(&[1], &[3], 0), Err(MapError::Invalid));
    assert_eq!(map.delete(&[1]), Err(MapError::Invalid));
    map.freeze();
    assert_eq!(map.control_update(&[1], &[3], 0), Err(Status::ReadOnly));
    assert_eq!(map.control_delete(&[1]), Err(Status::ReadOnly));
    assert_eq!(read(&map, &[1]), Ok(vec![2]));
}

#[test]
fn the_values_of_all_processors_together_are_bounded() {
    let def =
        MapDef { kind: MapKind::PerCpuArray, key_size: 4, value_size: 8, max_entries: 4 << 20, flags: 0 };
    assert_eq!(Map::new(1, Name::new(), def, platform(64)).map(|_| ()), Err(Status::NoMemory));
}

#[test]
fn what_a_hash_keeps_beside_its_entries_counts_as_its_memory() {
    let def = |max_entries| MapDef { kind: MapKind::Hash, key_size: 1, value_size: 1, max_entries, flags: 0 };
    let most = (limits::MAX_MAP_MEMORY / (8 + 8 + 24)) as u32;
    assert_eq!(def(most).check(), Ok(()));
    assert_eq!(def(most + 1).check(), Err(MapDefError::Memory));
}

#[test]
fn threads_that_change_a_hash_map_lose_nothing() {
    let map = make(MapKind::Hash, 4, 8, 400);
    thread::scope(|scope| {
        for thread in 0..4_u32 {
            let map = &map;
            scope.spawn(move || {
                for round in 0..50_u64 {
                    for key in (thread * 100)..(thread * 100 + 100) {
                        map.update(&key.to_ne_bytes(), &round.to_ne_bytes(), 1).expect("room for all");
                    }
                    for key in (thread * 100)..(thread * 100 + 100) {
                        assert_eq!(read(map, &key.to_ne_bytes()), Ok(round.to_ne_bytes().to_vec()));
                        map.delete(&key.to_ne_bytes()).expect("there");
                    }
                }
            });
        }
    });
    assert_eq!(map.info().entries, 0);
    (0..400_u32).for_each(|key| map.update(&key.to_ne_bytes(), &[0; 8], 0).expect("every element is free"));
    assert_eq!(map.update(&400_u32.to_ne_bytes(), &[0; 8], 0), Err(MapError::Full));
}

#[test]
fn threads_that_fill_an_lru_hash_keep_it_whole() {
    let map = make(MapKind::LruHash, 4, 4, 64);
    thread::scope(|scope| {
        for thread in 0..4_u32 {
            let map = &map;
            scope.spawn(move || {
                for step in 0..5_000_u32 {
                    let key = step.wrapping_mul(2_654_435_761).wrapping_add(thread) % 200;
                    map.update(&key.to_ne_bytes(), &key.to_ne_bytes(), 0).expect("it makes room");
                    map.lookup(&(key / 2).to_ne_bytes());
                    let _ = map.delete(&(key / 3).to_ne_bytes());
                }
            });
        }
    });
    let keys = keys(&map);
    assert_eq!(keys.len(), map.info().entries as usize);
    assert!(keys.len() <= 64);
    keys.iter().for_each(|key| assert_eq!(read(&map, key).as_ref(), Ok(key)));
}

/// A ring buffer as a queue of records.
struct Queue {
    records: VecDeque<(Vec<u8>, State)>,
    used: usize,
    dropped: u64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    Reserved(u64),
    Ready,
    Discarded,
}

impl Queue {
    const SIZE: usize = 4096;

    fn span(len: usize) -> usize {
        8 + len.next_multiple_of(8)
    }

    fn push(&mut self, record: Vec<u8>, state: State) -> bool {
        let fits = self.used + Self::span(record.len()) <= Self::SIZE;
        if fits {
            self.used += Self::span(record.len());
            self.records.push_back((record, state));
        } else {
            self.dropped += 1;
        }
        fits
    }

    /// The reserved record number `which`, round and round.
    fn reserved(&mut self, which: usize) -> Option<&mut (Vec<u8>, State)> {
        let mut reserved: Vec<_> =
            self.records.iter_mut().filter(|record| matches!(record.1, State::Reserved(_))).collect();
        let count = reserved.len();
        (count > 0).then(|| reserved.swap_remove(which % count))
    }

    fn read(&mut self, max: usize) -> Result<Vec<u8>, Status> {
        let (mut out, mut taken) = (Vec::new(), 0);
        for (record, state) in &self.records {
            let after = out.len() + 4 + record.len();
            match state {
                State::Reserved(_) => break,
                State::Ready if after > max && out.is_empty() => return Err(Status::ReplyTooLarge),
                State::Ready if after > max => break,
                State::Ready => {
                    out.extend((record.len() as u32).to_le_bytes());
                    out.extend(record);
                }
                State::Discarded => {}
            }
            taken += 1;
        }
        self.used -= self.records.drain(..taken).map(|(record, _)| Self::span(record.len())).sum::<usize>();
        Ok(out)
    }
}

#[derive(Clone, Debug)]
enum RingOp {
    Output { len: usize, fill: u8 },
    Reserve(usize),
    Submit { which: usize, fill: u8 },
    Discard(usize),
    Read(usize),
}

fn ring_op() -> impl Strategy<Value = RingOp> {
    let len = prop_oneof![5 => 1..300_usize, 1 => 1..4200_usize];
    prop_oneof![
        3 => (len.clone(), any::<u8>()).prop_map(|(len, fill)| RingOp::Output { len, fill }),
        3 => len.prop_map(RingOp::Reserve),
        3 => (any::<usize>(), any::<u8>()).prop_map(|(which, fill)| RingOp::Submit { which, fill }),
        1 => any::<usize>().prop_map(RingOp::Discard),
        2 => (0..6000_usize).prop_map(RingOp::Read),
    ]
}

fn drain(map: &Map, max: usize) -> Result<(u64, Vec<u8>), Status> {
    let mut events = (0, Vec::new());
    map.read_events(max, |dropped, records| {
        events = (dropped, records.to_vec());
        Ok(0)
    })?;
    Ok(events)
}

proptest! {
    #[test]
    fn a_ring_buffer_is_a_queue_with_a_limit(ops in collection::vec(ring_op(), 0..150)) {
        let map = make(MapKind::RingBuf, 0, 0, Queue::SIZE as u32);
        let (ring, platform) = (map.ring().expect("it is one"), platform(1));
        let mut queue = Queue { records: VecDeque::new(), used: 0, dropped: 0 };
        for op in ops {
            match op {
                RingOp::Output { len, fill } => {
                    let record = vec![fill; len];
                    prop_assert_eq!(ring.output(&record, &platform), queue.push(record, State::Ready));
                }
                RingOp::Reserve(len) => {
                    let address = ring.reserve(len as u64, &platform);
                    let state = State::Reserved(address.unwrap_or(0));
                    prop_assert_eq!(address.is_some(), queue.push(vec![0; len], state));
                }
                RingOp::Submit { which, fill } => {
                    if let Some((record, state)) = queue.reserved(which) {
                        let State::Reserved(address) = *state else { unreachable!() };
                        // Half of the record stays as it was reserved: zeroed.
                        let half = record.len() / 16 * 8;
                        record[..half].fill(fill);
                        let at = ring.data.at(address).expect("inside");
                        ring.data.write(at, &record[..half]);
                        *state = State::Ready;
                        prop_assert!(ring.submit(address));
                        prop_assert!(!ring.submit(address), "no record ends twice");
                    }
                }
                RingOp::Discard(which) => {
                    if let Some((_, state)) = queue.reserved(which) {
                        let State::Reserved(address) = *state else { unreachable!() };
                        *state = State::Discarded;
                        prop_assert!(ring.discard(address));
                    }
                }
                RingOp::Read(max) => {
                    let expected = queue.read(max).map(|records| (queue.dropped, records));
                    prop_assert_eq!(drain(&map, max), expected);
                }
            }
            prop_assert_eq!(ring.query(0), queue.used as u64);
            prop_assert_eq!(ring.query(3) - ring.query(2), queue.used as u64);
        }
    }
}

#[test]
fn a_record_is_never_larger_than_the_ring_or_the_limit() {
    let small = make(MapKind::RingBuf, 0, 0, 4096);
    let large = make(MapKind::RingBuf, 0, 0, 1 << 20);
    let (platform, limit) = (platform(1), limits::MAX_RECORD as u64);
    let reserve = |map: &Map, len| map.ring().and_then(|ring: &Ring| ring.reserve(len, &platform)).is_some();
    assert!(!reserve(&small, 4089) && reserve(&small, 4088));
    assert!(!reserve(&large, limit + 1) && reserve(&large, limit));
    assert!(!reserve(&large, u64::MAX) && !reserve(&large, 0));
}

#[test]
fn nothing_is_taken_when_delivery_fails_and_readers_do_not_meet() {
    let map = make(MapKind::RingBuf, 0, 0, 4096);
    let ring = map.ring().expect("it is one");
    assert!(ring.output(b"record", &platform(1)));
    let failed = map.read_events(100, |_, _| {
        assert_eq!(drain(&map, 100), Err(Status::Busy));
        Err(Status::ReplyTooLarge)
    });
    assert_eq!(failed, Err(Status::ReplyTooLarge));
    assert_eq!(drain(&map, 100), Ok((0, b"\x06\0\0\0record".to_vec())));
    assert_eq!(drain(&map, 100), Ok((0, vec![])));
}

#[test]
fn records_of_many_threads_arrive_whole_and_in_each_threads_order() {
    const RECORDS: u64 = 4_000;
    let map = make(MapKind::RingBuf, 0, 0, 4096);
    let ring = map.ring().expect("it is one");
    let done = AtomicBool::new(false);
    let mut last = BTreeMap::new();
    let mut read = 0_u64;
    let mut take = |events: &[u8]| {
        let mut rest = events;
        while let Some((len, more)) = rest.split_first_chunk::<4>() {
            let (record, more) = more.split_at(u32::from_le_bytes(*len) as usize);
            let words: Vec<u64> =
                record.chunks(8).map(|word| u64::from_ne_bytes(word.try_into().expect("whole"))).collect();
            assert!(words.iter().all(|word| *word == words[0]), "a record of one thread: {words:x?}");
            let (thread, sequence) = (words[0] >> 32, words[0] & 0xffff_ffff);
            assert_eq!(words.len() as u64, sequence % 9 + 1);
            assert!(last.insert(thread, sequence).is_none_or(|before| before < sequence));
            (rest, read) = (more, read + 1);
        }
    };
    thread::scope(|scope| {
        let writers: Vec<_> = (0..3_u64)
            .map(|thread| {
                scope.spawn(move || {
                    for sequence in 0..RECORDS {
                        let record =
                            (thread << 32 | sequence).to_ne_bytes().repeat(sequence as usize % 9 + 1);
                        if sequence % 2 == 0 {
                            ring.output(&record, &platform(1));
                        } else if let Some(address) = ring.reserve(record.len() as u64, &platform(1)) {
                            ring.data.write(ring.data.at(address).expect("inside"), &record);
                            assert!(ring.submit(address));
                        }
                    }
                })
            })
            .collect();
        scope.spawn(|| {
            while !done.load(Ordering::Acquire) {
                take(&drain(&map, 1000).expect("one reader").1);
                thread::yield_now();
            }
            while let Ok((_, events)) = drain(&map, 1000)
                && !events.is_empty()
            {
                take(&events);
            }
        });
        writers.into_iter().for_each(|writer| writer.join().expect("no assertion failed"));
        done.store(true, Ordering::Release);
    });
    assert_eq!(read + map.info().dropped, 3 * RECORDS);
    assert!(read > 0);
}

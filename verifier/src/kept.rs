//! States that are kept to compare later ones with: compact, and with names that don't depend on the path.

use alloc::vec::Vec;
use core::hash::{Hash, Hasher};

use crate::domain::Scalar;
use crate::memory::{Memory, OutOfMemory, append};
use crate::state::{Entry, Held, REGISTER, Reach, Relation, SAVED, State, Sum, Told, copy};
use crate::value::{ANY, Form, Kind, Symbol, Value, is_fixed};

/// Each value once, however many states hold it: states that follow each other differ in few of theirs.
#[derive(Debug, Default)]
pub(crate) struct Values {
    list: Vec<Value>,
    /// Places in the list by hash, open addressing; a power of two of them.
    table: Vec<u32>,
}

const FREE: u32 = u32::MAX;

/// FNV-1a.
struct Fnv(u64);

impl Hasher for Fnv {
    fn finish(&self) -> u64 {
        self.0 ^ self.0 >> 29
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64((*byte).into());
        }
    }

    fn write_u32(&mut self, number: u32) {
        self.write_u64(number.into());
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = (self.0 ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(31);
    }
}

impl Values {
    fn get(&self, index: u32) -> Value {
        self.list.get(index as usize).copied().unwrap_or(Value::NOTHING)
    }

    fn intern(&mut self, value: &Value, memory: &mut Memory) -> Result<u32, OutOfMemory> {
        if self.table.len() < 2 * self.list.len() + 2 {
            self.rehash(memory)?;
        }
        let mask = self.table.len() - 1;
        let mut at = Self::hash(value) & mask;
        loop {
            match self.table.get(at).copied() {
                Some(FREE) => break,
                Some(index) if self.list.get(index as usize) == Some(value) => return Ok(index),
                _ => at = (at + 1) & mask,
            }
        }
        let index = self.list.len() as u32;
        memory.push(&mut self.list, *value)?;
        if let Some(place) = self.table.get_mut(at) {
            *place = index;
        }
        Ok(index)
    }

    /// Of the parts in which values differ most: comparing is cheaper than hashing all.
    fn hash(value: &Value) -> usize {
        let mut hasher = Fnv(0xcbf2_9ce4_8422_2325);
        value.kind.hash(&mut hasher);
        hasher.write_u64(u64::from(value.symbol) << 32 | u64::from(value.since));
        hasher.write_u64(value.delta as u64);
        hasher.write_u64(value.num.umin());
        hasher.write_u64(value.num.umax());
        hasher.finish() as usize
    }

    fn rehash(&mut self, memory: &mut Memory) -> Result<(), OutOfMemory> {
        let size = (self.table.len() * 2).max(64);
        memory.discard(core::mem::take(&mut self.table));
        self.table = memory.filled(size, FREE)?;
        for (index, value) in self.list.iter().enumerate() {
            let mut at = Self::hash(value) & (size - 1);
            while self.table.get(at).is_some_and(|place| *place != FREE) {
                at = (at + 1) & (size - 1);
            }
            if let Some(place) = self.table.get_mut(at) {
                *place = index as u32;
            }
        }
        Ok(())
    }
}

/// A register or an entry of a state, with its value by its place in [`Values`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Slim {
    at: u16,
    size: u16,
    value: u32,
}

/// A state in compact form, for comparison or to be gone on with later.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Kept {
    entries: Vec<Slim>,
    reaches: Vec<Reach>,
    sums: Vec<Sum>,
    relations: Vec<Relation>,
    held: Vec<Held>,
    returns: Vec<u32>,
    told: Told,
}

/// The numbers in registers that are known, to find a state that may cover another without a comparison in full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Key {
    /// The registers whose number is known.
    pub(crate) registers: u16,
    hash: u64,
}

impl Key {
    /// The key of a state by the given registers, or by all whose number is known.
    pub(crate) fn of(state: &State, registers: Option<u16>) -> Self {
        let mut key = Self { registers: 0, hash: 0 };
        for register in 0..10 {
            let bit = 1 << register;
            if registers.is_some_and(|registers| registers & bit == 0) {
                continue;
            }
            if let Some(number) = state.reg(register).known() {
                key.registers |= bit;
                key.hash = (key.hash ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
            }
        }
        key
    }
}

/// How a name is used in a state that is to be kept.
#[derive(Clone, Copy, Debug)]
struct Uses {
    symbol: Symbol,
    count: u32,
    /// Every use is a number, or a place, that is known.
    known: bool,
}

/// What each name of a kept state is in the state compared: a name and a distance.
#[derive(Debug, Default)]
pub(crate) struct Names {
    /// Names of the path; the index of one and one is the kept state's name.
    uses: Vec<Uses>,
    bound: Vec<Option<(Symbol, i64)>>,
}

impl Names {
    fn count(
        &mut self,
        symbol: Symbol,
        count: u32,
        known: bool,
        memory: &mut Memory,
    ) -> Result<(), OutOfMemory> {
        if symbol == 0 {
            return Ok(());
        }
        match self.uses.iter_mut().find(|uses| uses.symbol == symbol) {
            Some(uses) => (uses.count, uses.known) = (uses.count + count, uses.known && known),
            None => memory.push(&mut self.uses, Uses { symbol, count, known })?,
        }
        Ok(())
    }

    /// The kept state's name and how it is used.
    fn name(&self, symbol: Symbol) -> Uses {
        if is_fixed(symbol) {
            return Uses { symbol, count: u32::MAX, known: false };
        }
        let found = self.uses.iter().zip(1..).find(|(uses, _)| uses.symbol == symbol);
        found
            .map_or(Uses { symbol: 0, count: 0, known: false }, |(uses, name)| Uses { symbol: name, ..*uses })
    }

    fn bound(&self, symbol: Symbol) -> Option<(Symbol, i64)> {
        if symbol == 0 || is_fixed(symbol) {
            Some((symbol, 0))
        } else {
            self.bound.get(symbol as usize - 1).copied().flatten()
        }
    }

    /// Binds `kept + kept_delta` to `now + now_delta`; false when it is bound to something else.
    fn bind(&mut self, kept: (Symbol, i64), now: (Symbol, i64)) -> bool {
        let distance = now.1.wrapping_sub(kept.1);
        match self.bound(kept.0) {
            Some(bound) => bound == (now.0, distance),
            None => match self.bound.get_mut(kept.0 as usize - 1) {
                Some(slot) => {
                    *slot = Some((now.0, distance));
                    true
                }
                None => false,
            },
        }
    }
}

impl Kept {
    /// `state` as it is, to be gone on with later.
    pub(crate) fn pack(state: &State, values: &mut Values, memory: &mut Memory) -> Result<Self, OutOfMemory> {
        let mut this = Self::default();
        this.fill(state, |value| *value, values, memory)?;
        this.reaches = copy(&state.reaches, memory)?;
        this.sums = copy(&state.sums, memory)?;
        this.relations = copy(&state.relations, memory)?;
        this.held = copy(&state.held, memory)?;
        this.returns = copy(&state.returns, memory)?;
        this.told = state.told;
        Ok(this)
    }

    /// The state that was packed.
    pub(crate) fn unpack(&self, values: &Values, memory: &mut Memory) -> Result<State, OutOfMemory> {
        let mut state = State::blank(memory)?;
        memory.reserve_exact(&mut state.entries, self.entries.len())?;
        for entry in &self.entries {
            let value = values.get(entry.value);
            match entry.at.checked_sub(REGISTER) {
                Some(register) => state.set(register as u8, value),
                None => append(&mut state.entries, Entry { at: entry.at, size: entry.size, value })?,
            }
        }
        state.reaches = copy(&self.reaches, memory)?;
        state.sums = copy(&self.sums, memory)?;
        state.relations = copy(&self.relations, memory)?;
        state.held = copy(&self.held, memory)?;
        state.returns = copy(&self.returns, memory)?;
        state.told = self.told;
        state.set(10, Value::pointer(Kind::Stack(state.frame())));
        Ok(state)
    }

    fn fill(
        &mut self,
        state: &State,
        rename: impl Fn(&Value) -> Value,
        values: &mut Values,
        memory: &mut Memory,
    ) -> Result<(), OutOfMemory> {
        let live = (0..10).filter(|register| state.reg(*register).kind.is_readable()).count();
        memory.reserve_exact(&mut self.entries, live + state.entries.len())?;
        for register in 0..10 {
            let value = state.reg(register);
            if value.kind.is_readable() {
                let at = REGISTER + u16::from(register);
                let value = values.intern(&rename(&value), memory)?;
                append(&mut self.entries, Slim { at, size: 1, value })?;
            }
        }
        for &Entry { at, size, value } in &state.entries {
            let value = rename(&value);
            let anything = Scalar::of_width(u32::from(size).min(8) * 8);
            // Bytes of the stack of which nothing is known need no entry.
            if !(at < SAVED
                && value.is_number()
                && value.symbol == 0
                && value.form == Form::Plain
                && value.num.covers(&anything))
            {
                let value = values.intern(&value, memory)?;
                append(&mut self.entries, Slim { at, size, value })?;
            }
        }
        Ok(())
    }

    /// The comparable form of `state`.
    pub(crate) fn new(
        state: &State,
        values: &mut Values,
        names: &mut Names,
        memory: &mut Memory,
    ) -> Result<Self, OutOfMemory> {
        names.uses.clear();
        for value in state.values().filter(|value| value.kind.is_readable()) {
            let known = value.num.value().is_some() && value.form != Form::Remaining;
            names.count(value.symbol, 1, known, memory)?;
        }
        // What relates names is a use that can't be forgotten.
        for held in &state.held {
            names.count(held.symbol, 2, false, memory)?;
        }
        for reach in &state.reaches {
            names.count(reach.symbol, 2, false, memory)?;
        }
        for sum in &state.sums {
            for symbol in [sum.parts[0], sum.parts[1], sum.sum] {
                names.count(symbol, 2, false, memory)?;
            }
        }
        for relation in &state.relations {
            for symbol in [relation.low, relation.high] {
                names.count(symbol, 2, false, memory)?;
            }
        }
        let mut this = Self::default();
        this.fill(state, |value| names.rename(value), values, memory)?;
        let name = |symbol| names.name(symbol).symbol;
        this.reaches = memory.collect(state.reaches.iter().map(|reach| Reach {
            symbol: name(reach.symbol),
            since: 0,
            ..*reach
        }))?;
        this.sums = memory
            .collect(state.sums.iter().map(|sum| Sum { parts: sum.parts.map(name), sum: name(sum.sum) }))?;
        this.relations = memory.collect(state.relations.iter().map(|relation| Relation {
            low: name(relation.low),
            high: name(relation.high),
            ..*relation
        }))?;
        this.held = memory.collect(state.held.iter().map(|held| Held {
            symbol: name(held.symbol),
            since: 0,
            ..*held
        }))?;
        this.returns = copy(&state.returns, memory)?;
        this.told = state.told;
        Ok(this)
    }

    pub(crate) fn discard(self, memory: &mut Memory) {
        memory.discard(self.entries);
        memory.discard(self.reaches);
        memory.discard(self.sums);
        memory.discard(self.relations);
        memory.discard(self.held);
        memory.discard(self.returns);
    }

    /// Whether everything that is possible in `state` is possible here, so that what was proven from here on holds
    /// there too.
    pub(crate) fn covers(
        &self,
        state: &State,
        values: &Values,
        names: &mut Names,
        memory: &mut Memory,
    ) -> Result<bool, OutOfMemory> {
        if self.returns != state.returns
            || self.held.len() != state.held.len()
            || !self.told.contains(state.told)
            // Where nothing was injected, BLOCK takes data away.
            || self.told.contains(Told::INJECTED) != state.told.contains(Told::INJECTED)
        {
            return Ok(false);
        }
        names.bound.clear();
        let count = self.entries.len()
            + 2 * self.reaches.len()
            + 3 * self.sums.len()
            + 2 * self.relations.len()
            + self.held.len();
        memory.reserve(&mut names.bound, count)?;
        for _ in 0..count {
            append(&mut names.bound, None)?;
        }
        Ok(self.covers_values(state, values, names) && self.covers_facts(state, names))
    }

    fn covers_values(&self, state: &State, values: &Values, names: &mut Names) -> bool {
        let mut numbered = 0;
        for entry in &self.entries {
            let kept = values.get(entry.value);
            let now = if entry.at >= REGISTER {
                state.reg((entry.at - REGISTER) as u8)
            } else {
                match state.entries.binary_search_by_key(&entry.at, |now| now.at) {
                    Ok(index) if state.entries.get(index).is_some_and(|now| now.size == entry.size) => {
                        numbered += 1;
                        state.entries.get(index).map_or(Value::NOTHING, |now| now.value)
                    }
                    _ if kept.kind.is_readable() => return false,
                    _ => continue,
                }
            };
            if !covers_value(&kept, &now, names) {
                return false;
            }
        }
        // A pointer that the kept state doesn't know of could be read as a number.
        numbered == state.entries.len()
            || state.entries.iter().all(|now| {
                now.value.is_number()
                    || self.entries.iter().any(|entry| entry.at == now.at && entry.size == now.size)
            })
    }

    fn covers_facts(&self, state: &State, names: &mut Names) -> bool {
        for (kept, now) in self.held.iter().zip(&state.held) {
            if kept.resource != now.resource || !names.bind((kept.symbol, 0), (now.symbol, 0)) {
                return false;
            }
        }
        if !self.sums.iter().all(|sum| self.covers_sum(sum, state, names)) {
            return false;
        }
        let relations = self.relations.iter().all(|relation| {
            let (Some((low, low_by)), Some((high, high_by))) =
                (names.bound(relation.low), names.bound(relation.high))
            else {
                return false;
            };
            let gap = relation.gap.saturating_sub(high_by).saturating_add(low_by);
            if relation.differs {
                state.differ(high, low, gap)
            } else {
                state.least_difference(high, low).is_some_and(|least| least >= gap)
            }
        });
        if !relations {
            return false;
        }
        self.reaches.iter().all(|reach| {
            names.bound(reach.symbol).is_some_and(|(symbol, delta)| {
                state.reach(symbol).is_some_and(|bytes| bytes >= reach.bytes.saturating_add(delta))
            })
        })
    }

    /// The three names of a sum: two that are bound bind the third.
    fn covers_sum(&self, sum: &Sum, state: &State, names: &mut Names) -> bool {
        let [a, b] = sum.parts;
        match (names.bound(a), names.bound(b), names.bound(sum.sum)) {
            (Some((x, x_by)), Some((y, y_by)), whole) => match state.find_sum(x, y) {
                Some(now) => names.bind((sum.sum, 0), (now, x_by.wrapping_add(y_by))),
                None => whole.is_none() && self.is_free(sum.sum),
            },
            // One part was forgotten: it is what the state's own sum says, or nothing is known of it.
            (Some(part), None, Some(whole)) => self.covers_part(b, part, whole, state, names),
            (None, Some(part), Some(whole)) => self.covers_part(a, part, whole, state, names),
            _ => false,
        }
    }

    fn covers_part(
        &self,
        missing: Symbol,
        (part, part_by): (Symbol, i64),
        (whole, whole_by): (Symbol, i64),
        state: &State,
        names: &mut Names,
    ) -> bool {
        match state.sums.iter().find(|now| now.sum == whole && now.parts.contains(&part)) {
            Some(&Sum { parts: [x, y], .. }) => {
                let other = if x == part { y } else { x };
                names.bind((missing, 0), (other, whole_by.wrapping_sub(part_by)))
            }
            None => self.is_free(missing),
        }
    }

    /// Whether a name that nothing bears is in one sum only: then some number fits it, whatever the others are. In two it
    /// relates what both are made of.
    fn is_free(&self, symbol: Symbol) -> bool {
        let names = self.sums.iter().flat_map(|sum| [sum.parts[0], sum.parts[1], sum.sum]);
        names.filter(|name| *name == symbol).count() == 1
    }
}

fn covers_value(kept: &Value, now: &Value, names: &mut Names) -> bool {
    if !kept.kind.is_readable() {
        return true;
    }
    if kept.kind != now.kind || now.nullable && !kept.nullable || !kept.num.covers(&now.num) {
        return false;
    }
    // A state that is covered must be as far from where the round of a loop started: the bound of the loop rests on it.
    if kept.origin != 0 && (now.origin, now.delta) != (kept.origin, kept.delta) {
        return false;
    }
    let name = (kept.symbol, kept.delta);
    match kept.kind {
        Kind::Scalar if kept.form == Form::Remaining => {
            now.remaining().is_some_and(|now| names.bind(name, now))
        }
        Kind::Scalar if is_fixed(kept.symbol) => {
            (now.form, now.symbol, now.delta) == (kept.form, kept.symbol, kept.delta)
        }
        Kind::Scalar if kept.symbol != 0 => {
            // A number that is known may have a name too: either is what it is.
            let half = (kept.form, now.form) == (Form::Low, Form::Low);
            let named = now.symbol != 0 && (half || now.form == Form::Plain);
            named && names.bind(name, (now.symbol, now.delta))
                || now.plain().is_some_and(|now| names.bind(name, now))
        }
        Kind::Window | Kind::WindowLow if kept.symbol != ANY => names.bind(name, (now.symbol, now.delta)),
        Kind::MapValue(_) | Kind::Record(_) | Kind::Clone if kept.symbol != 0 => {
            names.bind((kept.symbol, 0), (now.symbol, 0))
        }
        _ => true,
    }
}

impl Names {
    /// A value with the kept state's names. A name that is used once says nothing, and goes; so does one that only numbers bear
    /// that are known. Where another bears it too, what is learned of that is learned of the known number, and can't be. A lower
    /// half that is known tells something of the whole still.
    fn rename(&self, value: &Value) -> Value {
        let uses = self.name(value.symbol);
        let mut value = Value { symbol: uses.symbol, since: 0, ..*value };
        if !value.kind.is_readable() {
            return Value { kind: Kind::Nothing, ..Value::NOTHING };
        }
        let known = value.known().is_some() && value.form == Form::Plain && uses.known;
        if uses.symbol != 0 && uses.count == 1 || known {
            (value.form, value.delta) = (Form::Plain, 0);
            value.symbol = if matches!(value.kind, Kind::Window | Kind::WindowLow) { ANY } else { 0 };
        }
        value
    }
}

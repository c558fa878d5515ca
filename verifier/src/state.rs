//! The state of the machine at one place of one path: registers, spilled values, frames, and what relates them.

use alloc::vec::Vec;

use tidegate_abi::helper::Resource;
use tidegate_abi::insn::{REGISTERS, alu};
use tidegate_abi::limits::{MAX_CALL_DEPTH, STACK_FRAME, STACK_SIZE};

use crate::domain::Scalar;
use crate::memory::{Memory, OutOfMemory, take};
use crate::needs::Need;
use crate::value::{Form, Kind, NAMED_LIMIT, Symbol, Value};

/// A value in memory that the program owns: spilled to the stack, or a caller's register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Byte of the stack, frame by frame; behind those, the callers' registers.
    pub(crate) at: u16,
    pub(crate) size: u16,
    pub(crate) value: Value,
}

impl Entry {
    fn end(&self) -> u16 {
        self.at + self.size
    }
}

/// `symbol + bytes`, read as a signed number, is at most the number of bytes shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reach {
    pub(crate) symbol: Symbol,
    pub(crate) bytes: i64,
    /// Slot of the comparison.
    pub(crate) since: u32,
}

/// `sum` names the sum of two named numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sum {
    pub(crate) parts: [Symbol; 2],
    pub(crate) sum: Symbol,
}

/// How two named numbers lie to each other, read as the signed number `high - low`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Relation {
    pub(crate) low: Symbol,
    pub(crate) high: Symbol,
    /// The difference is at least this, or it is not this.
    pub(crate) gap: i64,
    pub(crate) differs: bool,
}

/// A resource that is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) symbol: Symbol,
    pub(crate) resource: Resource,
    /// Slot that acquired it.
    pub(crate) since: u32,
}

/// A part of a pointer would be read.
#[derive(Debug)]
pub(crate) struct PointerBytes;

/// Facts of one kind that a state keeps; older ones are forgotten first.
const MAX_FACTS: usize = 64;
/// Resources that may be held at a time.
pub(crate) const MAX_HELD: usize = 8;
const HALF: u64 = u32::MAX as u64;
/// Where callers' registers are kept, behind the stack.
pub(crate) const SAVED: u16 = STACK_SIZE as u16;
/// Where the registers are, behind those.
pub(crate) const REGISTER: u16 = 0x8000;

/// What happened on a path that its verdict must fit; bits of a set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Told(u8);

impl Told {
    /// A clone was injected in place of what is shown.
    pub(crate) const INJECTED: Self = Self(1 << 0);
    /// The context says that no more data can be had.
    pub(crate) const NO_MORE_DATA: Self = Self(1 << 1);

    pub(crate) const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    pub(crate) fn add(&mut self, other: Self) {
        self.0 |= other.0;
    }
}

/// The state of the machine at one place of one path.
#[derive(Debug, Default)]
pub(crate) struct State {
    regs: Vec<Value>,
    /// Sorted by place, never overlapping.
    pub(crate) entries: Vec<Entry>,
    pub(crate) reaches: Vec<Reach>,
    pub(crate) sums: Vec<Sum>,
    pub(crate) relations: Vec<Relation>,
    pub(crate) held: Vec<Held>,
    /// Where each called function returns to; its length is the depth.
    pub(crate) returns: Vec<u32>,
    pub(crate) told: Told,
}

pub(crate) fn copy<T: Copy>(from: &[T], memory: &mut Memory) -> Result<Vec<T>, OutOfMemory> {
    memory.collect(from.iter().copied())
}

impl State {
    /// A state that knows nothing.
    pub(crate) fn blank(memory: &mut Memory) -> Result<Self, OutOfMemory> {
        Ok(Self { regs: memory.filled(REGISTERS, Value::NOTHING)?, ..Self::default() })
    }

    pub(crate) fn at_entry(memory: &mut Memory) -> Result<Self, OutOfMemory> {
        let mut this = Self::blank(memory)?;
        this.set(1, Value::pointer(Kind::Context));
        this.set(10, Value::pointer(Kind::Stack(0)));
        Ok(this)
    }

    pub(crate) fn try_clone(&self, memory: &mut Memory) -> Result<Self, OutOfMemory> {
        Ok(Self {
            regs: copy(&self.regs, memory)?,
            entries: copy(&self.entries, memory)?,
            reaches: copy(&self.reaches, memory)?,
            sums: copy(&self.sums, memory)?,
            relations: copy(&self.relations, memory)?,
            held: copy(&self.held, memory)?,
            returns: copy(&self.returns, memory)?,
            told: self.told,
        })
    }

    /// Gives the memory back.
    pub(crate) fn discard(self, memory: &mut Memory) {
        memory.discard(self.regs);
        memory.discard(self.entries);
        memory.discard(self.reaches);
        memory.discard(self.sums);
        memory.discard(self.relations);
        memory.discard(self.held);
        memory.discard(self.returns);
    }

    pub(crate) fn frame(&self) -> u8 {
        self.returns.len() as u8
    }

    pub(crate) fn reg(&self, register: u8) -> Value {
        self.regs.get(usize::from(register)).copied().unwrap_or(Value::NOTHING)
    }

    pub(crate) fn set(&mut self, register: u8, value: Value) {
        if let Some(reg) = self.regs.get_mut(usize::from(register)) {
            *reg = value;
        }
    }

    fn values_mut(&mut self) -> impl Iterator<Item = &mut Value> {
        self.regs.iter_mut().chain(self.entries.iter_mut().map(|entry| &mut entry.value))
    }

    pub(crate) fn values(&self) -> impl Iterator<Item = &Value> + Clone {
        self.regs.iter().chain(self.entries.iter().map(|entry| &entry.value))
    }

    /// Every value with its place and size: registers, then memory.
    pub(crate) fn places(&self) -> impl Iterator<Item = (u16, u16, &Value)> + Clone {
        let registers = (REGISTER..).zip(&self.regs).take(10).map(|(at, value)| (at, 8, value));
        registers.chain(self.entries.iter().map(|entry| (entry.at, entry.size, &entry.value)))
    }

    /// The value at a place.
    pub(crate) fn at(&self, at: u16) -> Option<&Value> {
        match at.checked_sub(REGISTER) {
            Some(register) => self.regs.get(usize::from(register)),
            None => {
                let index = self.entries.binary_search_by_key(&at, |entry| entry.at).ok()?;
                self.entries.get(index).map(|entry| &entry.value)
            }
        }
    }

    pub(crate) fn at_mut(&mut self, at: u16) -> Option<&mut Value> {
        match at.checked_sub(REGISTER) {
            Some(register) => self.regs.get_mut(usize::from(register)),
            None => {
                let index = self.entries.binary_search_by_key(&at, |entry| entry.at).ok()?;
                self.entries.get_mut(index).map(|entry| &mut entry.value)
            }
        }
    }

    /// Another name for what `old` names.
    pub(crate) fn rename(&mut self, old: Symbol, new: Symbol) {
        let other = |symbol: Symbol| if symbol == old { new } else { symbol };
        for value in self.values_mut() {
            value.symbol = other(value.symbol);
            if value.origin == old {
                (value.origin, value.delta) = (0, 0);
            }
        }
        for reach in &mut self.reaches {
            reach.symbol = other(reach.symbol);
        }
        for Sum { parts: [a, b], sum } in &mut self.sums {
            let (x, y) = (other(*a), other(*b));
            (*a, *b, *sum) = (x.min(y), x.max(y), other(*sum));
        }
        for relation in &mut self.relations {
            (relation.low, relation.high) = (other(relation.low), other(relation.high));
        }
    }

    // Names and reach.

    /// Bytes behind `symbol` that are known to be shown.
    pub(crate) fn reach(&self, symbol: Symbol) -> Option<i64> {
        let known = self.reaches.iter().find(|reach| reach.symbol == symbol).map(|reach| reach.bytes);
        if symbol == 0 { Some(known.unwrap_or(0).max(0)) } else { known }
    }

    /// The comparison that [`reach`](Self::reach) knows it from.
    pub(crate) fn compared_at(&self, symbol: Symbol) -> Option<u32> {
        self.reaches.iter().find(|reach| reach.symbol == symbol).map(|reach| reach.since)
    }

    pub(crate) fn learn_reach(
        &mut self,
        symbol: Symbol,
        bytes: i64,
        since: u32,
        memory: &mut Memory,
    ) -> Result<(), OutOfMemory> {
        if bytes.abs_diff(0) > NAMED_LIMIT as u64 {
            return Ok(());
        }
        match self.reaches.iter_mut().find(|reach| reach.symbol == symbol) {
            Some(reach) if reach.bytes >= bytes => {}
            Some(reach) => (reach.bytes, reach.since) = (bytes, since),
            None => {
                if self.reaches.len() >= MAX_FACTS {
                    take(&mut self.reaches, 0);
                }
                memory.push(&mut self.reaches, Reach { symbol, bytes, since })?;
            }
        }
        Ok(())
    }

    pub(crate) fn find_sum(&self, a: Symbol, b: Symbol) -> Option<Symbol> {
        if a == 0 || b == 0 {
            return Some(a | b);
        }
        let parts = [a.min(b), a.max(b)];
        self.sums.iter().find(|sum| sum.parts == parts).map(|sum| sum.sum)
    }

    /// The name of the sum of two named numbers: `fresh` unless it has one.
    pub(crate) fn sum(
        &mut self,
        a: Symbol,
        b: Symbol,
        fresh: Symbol,
        memory: &mut Memory,
    ) -> Result<Symbol, OutOfMemory> {
        if let Some(sum) = self.find_sum(a, b) {
            return Ok(sum);
        }
        if self.sums.len() >= MAX_FACTS {
            take(&mut self.sums, 0);
        }
        memory.push(&mut self.sums, Sum { parts: [a.min(b), a.max(b)], sum: fresh })?;
        Ok(fresh)
    }

    /// The name of the difference of two named numbers: `fresh` unless it has one.
    pub(crate) fn difference(
        &mut self,
        a: Symbol,
        b: Symbol,
        fresh: Symbol,
        memory: &mut Memory,
    ) -> Result<Symbol, OutOfMemory> {
        let known = self.sums.iter().find(|sum| sum.sum == a && sum.parts.contains(&b));
        if let Some(&Sum { parts: [x, y], .. }) = known {
            return Ok(if x == b { y } else { x });
        }
        if self.sums.len() >= MAX_FACTS {
            take(&mut self.sums, 0);
        }
        memory.push(&mut self.sums, Sum { parts: [fresh.min(b), fresh.max(b)], sum: a })?;
        Ok(fresh)
    }

    pub(crate) fn learn_relation(
        &mut self,
        relation: Relation,
        memory: &mut Memory,
    ) -> Result<(), OutOfMemory> {
        let Relation { low, high, gap, differs } = relation;
        if low == 0 || high == 0 || low == high || gap.abs_diff(0) > NAMED_LIMIT as u64 {
            return Ok(());
        }
        let same = |known: &&mut Relation| {
            (known.low, known.high, known.differs) == (low, high, differs) && (!differs || known.gap == gap)
        };
        if let Some(known) = self.relations.iter_mut().find(same) {
            known.gap = known.gap.max(gap);
            return Ok(());
        }
        if self.relations.len() >= MAX_FACTS {
            take(&mut self.relations, 0);
        }
        memory.push(&mut self.relations, relation)
    }

    /// The least that `high - low` can be, read as a signed number.
    pub(crate) fn least_difference(&self, high: Symbol, low: Symbol) -> Option<i64> {
        let known =
            self.relations.iter().find(|known| (known.low, known.high, known.differs) == (low, high, false));
        known.map(|known| known.gap)
    }

    /// Whether `a - b` is known not to be `gap`.
    pub(crate) fn differ(&self, a: Symbol, b: Symbol, gap: i64) -> bool {
        self.least_difference(a, b).is_some_and(|least| least > gap)
            || self.relations.iter().any(|known| {
                known.differs
                    && ((known.high, known.low, known.gap) == (a, b, gap)
                        || (known.low, known.high, known.gap) == (a, b, -gap))
            })
    }

    /// Everything that shares `like`'s name learns that `like` is within `num`. Returns whether some number is left.
    pub(crate) fn learn(
        &mut self,
        like: &Value,
        num: &Scalar,
        slot: u32,
        memory: &mut Memory,
    ) -> Result<bool, OutOfMemory> {
        let remaining = like.remaining();
        let named = remaining.is_some() || like.symbol != 0;
        if !named || !matches!(like.kind, Kind::Scalar | Kind::Window) {
            return Ok(true);
        }
        let mut possible = true;
        for value in self.values_mut() {
            let kin = matches!(value.kind, Kind::Scalar | Kind::Window)
                && (value.form == Form::Remaining) == remaining.is_some()
                && value.symbol == like.symbol;
            if !kin {
                continue;
            }
            let distance = value.delta.wrapping_sub(like.delta);
            let told = match (like.form, value.form) {
                (Form::Plain, Form::Plain) => offset(num, distance),
                (Form::Remaining, _) => offset(num, distance.wrapping_neg()),
                // A whole number can be told from its lower half when its upper half is zero.
                (Form::Low, Form::Plain) if value.num.umax() > HALF => continue,
                _ => Scalar::alu32(alu::ADD, false, num, &Scalar::constant(distance as u64)),
            };
            if like.form == Form::Plain && value.form == Form::Low && num.umax() <= HALF {
                // A step that can't have wrapped after all is exact.
                let exact = offset(num, distance);
                if exact.umax() <= HALF {
                    value.form = Form::Plain;
                }
            }
            match value.num.intersect(&told) {
                Some(num) if num != value.num => {
                    value.num = num;
                    value.since = slot;
                }
                Some(_) => {}
                None => possible = false,
            }
        }
        if let Some((symbol, delta)) = remaining {
            // So many bytes remain at least.
            if num.smin().abs_diff(0) <= NAMED_LIMIT as u64 {
                self.learn_reach(symbol, delta + num.smin(), slot, memory)?;
            }
        } else if let Some(value) = num.value().filter(|_| like.form == Form::Plain) {
            let number = (value as i64).wrapping_sub(like.delta);
            self.learn_constant(like.symbol, number, slot, memory)?;
        }
        Ok(possible)
    }

    /// A name turned out to be a known number: what was known of its reach holds without the name too.
    fn learn_constant(
        &mut self,
        symbol: Symbol,
        number: i64,
        slot: u32,
        memory: &mut Memory,
    ) -> Result<(), OutOfMemory> {
        if number.abs_diff(0) > NAMED_LIMIT as u64 {
            return Ok(());
        }
        if let Some(bytes) = self.reach(symbol) {
            self.learn_reach(0, bytes + number, slot, memory)?;
        }
        for at in 0..self.sums.len() {
            let Some(&Sum { parts: [a, b], sum }) = self.sums.get(at) else { break };
            let other = if a == symbol { b } else { a };
            if (a == symbol || b == symbol)
                && let Some(bytes) = self.reach(sum)
            {
                self.learn_reach(other, bytes + number, slot, memory)?;
            }
        }
        Ok(())
    }

    /// The pointer that may be null with this identity is null, or is not.
    pub(crate) fn learn_null(&mut self, symbol: Symbol, null: bool, slot: u32) {
        for value in self.values_mut() {
            if value.nullable && value.symbol == symbol {
                if null {
                    *value = Value::constant(0);
                }
                value.nullable = false;
                value.since = slot;
            }
        }
        if null {
            self.held.retain(|held| held.symbol != symbol);
        }
    }

    // Resources.

    /// Holds a resource. False when too many are held.
    pub(crate) fn acquire(&mut self, held: Held, memory: &mut Memory) -> Result<bool, OutOfMemory> {
        if self.held.len() >= MAX_HELD {
            return Ok(false);
        }
        memory.push(&mut self.held, held)?;
        Ok(true)
    }

    /// Takes a resource back: every copy of it becomes unusable.
    pub(crate) fn release(&mut self, symbol: Symbol, slot: u32) {
        self.held.retain(|held| held.symbol != symbol);
        for value in self.values_mut() {
            if matches!(value.kind, Kind::Record(_) | Kind::Clone) && value.symbol == symbol {
                *value = Value { kind: Kind::Released, since: slot, ..Value::NOTHING };
            }
        }
    }

    // Frames.

    /// Enters a function: the caller's registers are kept for its return, and only the arguments are seen. False when it is
    /// too deep.
    pub(crate) fn enter(&mut self, back: u32, memory: &mut Memory) -> Result<bool, OutOfMemory> {
        if self.returns.len() + 1 >= MAX_CALL_DEPTH {
            return Ok(false);
        }
        let frame = u16::from(self.frame());
        for register in 6..10 {
            let value = self.reg(register);
            if value.kind != Kind::Nothing {
                let at = SAVED + frame * 16 + u16::from(register);
                memory.push(&mut self.entries, Entry { at, size: 1, value })?;
            }
            self.set(register, Value::NOTHING);
        }
        self.set(0, Value::NOTHING);
        memory.push(&mut self.returns, back)?;
        self.set(10, Value::pointer(Kind::Stack(self.frame())));
        Ok(true)
    }

    /// Leaves a function; pointers into its frame die with it. `None` when it was the entry function.
    pub(crate) fn leave(&mut self) -> Option<u32> {
        let dying = self.frame();
        let back = self.returns.pop()?;
        let frame = u16::from(self.frame());
        for register in 1..10 {
            let at = SAVED + frame * 16 + u16::from(register);
            let saved = self.entries.iter().position(|entry| entry.at == at);
            let value = saved.and_then(|index| take(&mut self.entries, index)).map(|entry| entry.value);
            self.set(register, value.unwrap_or(Value::NOTHING));
        }
        let start = u16::from(dying) * STACK_FRAME as u16;
        self.entries.retain(|entry| entry.at >= SAVED || entry.at < start);
        for value in self.values_mut().filter(|value| value.kind == Kind::Stack(dying)) {
            *value = Value::NOTHING;
        }
        self.set(10, Value::pointer(Kind::Stack(self.frame())));
        Some(back)
    }

    // Stack.

    /// Place of the byte `offset` behind the frame pointer of `frame`; the offset was checked.
    fn place(frame: u8, offset: i64) -> u16 {
        u16::from(frame) * STACK_FRAME as u16 + (STACK_FRAME as i64 + offset) as u16
    }

    /// What a load of `size` bytes gives: a value stored so, a piece of a known number, or some number.
    pub(crate) fn stack_load(
        &self,
        frame: u8,
        offset: i64,
        size: u16,
    ) -> Result<Option<Value>, PointerBytes> {
        let at = Self::place(frame, offset);
        for entry in self.entries.iter().filter(|entry| entry.at < at + size && at < entry.end()) {
            if !entry.value.kind.is_readable() {
                return Err(PointerBytes);
            }
            if entry.at == at && entry.size == size {
                return Ok(Some(entry.value));
            }
            if !entry.value.is_number() {
                return Err(PointerBytes);
            }
            if let Some(number) = entry.value.known()
                && entry.at <= at
                && at + size <= entry.end()
            {
                let shift = u32::from(at - entry.at) * 8;
                let piece = Scalar::constant(number >> shift).zero_extend(u32::from(size) * 8);
                return Ok(Some(Value { since: entry.value.since, ..Value::number(piece) }));
            }
        }
        Ok(None)
    }

    /// Remembers a value stored at a known place.
    pub(crate) fn stack_store(
        &mut self,
        frame: u8,
        offset: i64,
        size: u16,
        value: Value,
        memory: &mut Memory,
    ) -> Result<(), OutOfMemory> {
        self.stack_clobber(frame, offset, offset + i64::from(size), true, memory)?;
        let at = Self::place(frame, offset);
        let index = self.entries.partition_point(|entry| entry.at < at);
        memory.insert(&mut self.entries, index, Entry { at, size, value })
    }

    /// Forgets the bytes from `start` to `end`. What is left of a pointer that is overwritten in part, or perhaps
    /// (`certain` is false), can't be read any more.
    pub(crate) fn stack_clobber(
        &mut self,
        frame: u8,
        start: i64,
        end: i64,
        certain: bool,
        memory: &mut Memory,
    ) -> Result<(), OutOfMemory> {
        let (start, end) = (Self::place(frame, start), Self::place(frame, end));
        let mut index = 0;
        while let Some(&entry) = self.entries.get(index) {
            if entry.at >= end || entry.end() <= start {
                index += 1;
                continue;
            }
            let rest = Value { kind: Kind::Nothing, since: entry.value.since, ..Value::NOTHING };
            if !entry.value.is_number() && !certain {
                if let Some(entry) = self.entries.get_mut(index) {
                    entry.value = rest;
                }
                index += 1;
                continue;
            }
            take(&mut self.entries, index);
            if entry.value.is_number() {
                continue;
            }
            for (from, to) in [(entry.at, start), (end, entry.end())] {
                if from < to && from >= entry.at && to <= entry.end() {
                    memory.insert(
                        &mut self.entries,
                        index,
                        Entry { at: from, size: to - from, value: rest },
                    )?;
                    index += 1;
                }
            }
        }
        Ok(())
    }

    /// Whether bytes from `start` to `end` hold a pointer, or what is left of one.
    pub(crate) fn stack_has_pointer(&self, frame: u8, start: i64, end: i64) -> bool {
        let (start, end) = (Self::place(frame, start), Self::place(frame, end));
        self.entries.iter().any(|entry| entry.at < end && start < entry.end() && !entry.value.is_number())
    }

    // Forgetting.

    /// Forgets what nothing reads any more, and of numbers that decide nothing, which number it is.
    pub(crate) fn forget(&mut self, need: &Need) {
        for register in 0..10 {
            if need.live & 1 << register == 0 {
                self.set(register, Value::NOTHING);
            } else if self.reg(register).is_number() && need.number & 1 << register == 0 {
                let since = self.reg(register).since;
                self.set(register, Value { since, ..Value::number(Scalar::UNKNOWN) });
            }
        }
        self.forget_stack(need);
        self.forget_facts();
    }

    /// Widens this state to what is possible here or in `other`, which is at the same place, when the two differ in
    /// numbers that count no loop's rounds. Returns whether they do.
    pub(crate) fn join(&mut self, other: &Self, need: &Need) -> bool {
        let frame = u16::from(self.frame()) * STACK_FRAME as u16;
        let counts = |entry: &Entry| match entry.at.checked_sub(frame).filter(|at| *at < STACK_FRAME as u16) {
            Some(at) => need.count_slots & 1 << (at / 8) != 0,
            None => true,
        };
        let fits = self.told == other.told
            && self.returns == other.returns
            && self.held == other.held
            && self.entries.len() == other.entries.len()
            && (0..REGISTERS as u8).all(|register| {
                joinable(&self.reg(register), &other.reg(register), need.count & 1 << register != 0)
            })
            && self.entries.iter().zip(&other.entries).all(|(mine, its)| {
                (mine.at, mine.size) == (its.at, its.size) && joinable(&mine.value, &its.value, counts(mine))
            });
        if !fits {
            return false;
        }
        for register in 0..REGISTERS as u8 {
            self.set(register, either(self.reg(register), &other.reg(register)));
        }
        for (mine, its) in self.entries.iter_mut().zip(&other.entries) {
            mine.value = either(mine.value, &its.value);
        }
        self.reaches.retain_mut(|mine| match other.reach(mine.symbol) {
            Some(bytes) => {
                mine.bytes = mine.bytes.min(bytes);
                true
            }
            None => false,
        });
        self.sums.retain(|sum| other.sums.contains(sum));
        self.relations.retain(|relation| other.relations.contains(relation));
        true
    }

    /// The same for the current frame alone.
    pub(crate) fn forget_stack(&mut self, need: &Need) {
        let start = u16::from(self.frame()) * STACK_FRAME as u16;
        let end = start + STACK_FRAME as u16;
        self.entries.retain(|entry| {
            if entry.at < start || entry.at >= end {
                return true;
            }
            // An entry may lie across two slots when it was stored unaligned.
            let slots = 1u64 << ((entry.at - start) / 8) | 1u64 << ((entry.end() - 1 - start) / 8);
            let needed = if entry.value.is_number() { need.number_slots } else { need.live_slots };
            needed & slots != 0
        });
    }

    /// Forgets facts about names that nothing bears any more.
    pub(crate) fn forget_facts(&mut self) {
        let mut reaches = core::mem::take(&mut self.reaches);
        let mut sums = core::mem::take(&mut self.sums);
        let mut relations = core::mem::take(&mut self.relations);
        relations.retain(|relation| self.bears(relation.low) && self.bears(relation.high));
        // Two of three must be borne: from those the third can come back.
        sums.retain(|sum| {
            let [a, b] = sum.parts.map(|part| self.bears(part));
            a && b || (a || b) && self.bears(sum.sum)
        });
        reaches.retain(|reach| {
            reach.symbol == 0 || self.bears(reach.symbol) || sums.iter().any(|sum| sum.sum == reach.symbol)
        });
        (self.reaches, self.sums, self.relations) = (reaches, sums, relations);
    }

    fn bears(&self, symbol: Symbol) -> bool {
        self.values().any(|value| value.symbol == symbol && value.kind.is_readable())
    }
}

fn name(value: &Value) -> (Form, Symbol, i64) {
    (value.form, value.symbol, value.delta)
}

/// A value that is one or the other.
fn either(mine: Value, its: &Value) -> Value {
    if mine.is_number() && (mine.num != its.num || name(&mine) != name(its)) {
        return Value { since: mine.since, ..Value::number(mine.num.hull(&its.num)) };
    }
    mine
}

/// Whether two values may be taken for one that is either.
fn joinable(mine: &Value, its: &Value, counts: bool) -> bool {
    if mine.is_number() && its.is_number() {
        return !counts || mine.num == its.num;
    }
    let same = Value { since: mine.since, ..*its };
    *mine == same
}

/// A number `distance` further.
pub(crate) fn offset(num: &Scalar, distance: i64) -> Scalar {
    if distance == 0 {
        return *num;
    }
    Scalar::alu(alu::ADD, false, num, &Scalar::constant(distance as u64))
}

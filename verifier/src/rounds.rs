//! Loops at once: a state at the head of a loop that holds in every round, and a bound on the rounds.
//!
//! What the first round changed tells what to look for. A value that each round moves by the same step is *steady*: it is
//! named by an anchor at the head, and wherever control comes back it must be the anchor and the step. So all steady values
//! are where they started plus the number of rounds times their steps. One of them is the counter: it must not come back
//! beyond a bound, which is one on the rounds, and with them on every other steady value. By induction over the rounds: the
//! walk of one round from what holds after `n` of them shows what holds after `n + 1`.
//!
//! The bound is guessed, from what the loop compares when it may leave; a walk of the round proves the guess or refutes it.
//! What changes in another way is widened until a round changes it no more.

use alloc::vec::Vec;

use tidegate_abi::insn::alu;
use tidegate_abi::limits::{MAX_BUDGET, MAX_WINDOW};

use crate::domain::Scalar;
use crate::exec::Machine;
use crate::kept::{Kept, Names, Values};
use crate::memory::{OutOfMemory, append};
use crate::state::{Reach, SAVED, State};
use crate::value::{Form, Kind, NAMED_LIMIT, Symbol, Value};

/// Numbers that a loop compares with when it may leave.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Bounds {
    numbers: [i64; 12],
    count: usize,
}

impl Bounds {
    pub(crate) fn add(&mut self, value: &Value) {
        for number in [value.num.smin(), value.num.smax()] {
            let known = number.abs_diff(0) <= NAMED_LIMIT as u64;
            if known
                && !self.iter().any(|known| known == number)
                && let Some(place) = self.numbers.get_mut(self.count)
            {
                *place = number;
                self.count += 1;
            }
        }
    }

    fn iter(&self) -> impl Iterator<Item = i64> + '_ {
        self.numbers.iter().take(self.count).copied()
    }
}

/// A value that each round moves by the same step.
#[derive(Clone, Copy, Debug)]
struct Steady {
    at: u16,
    /// As it was when the loop was entered.
    first: Value,
    step: i64,
    anchor: Symbol,
    /// Distance from the anchor at the head.
    delta: i64,
}

impl Steady {
    /// What it is after up to so many rounds.
    fn after(&self, rounds: u64) -> Scalar {
        let steps = Scalar::between(0, rounds);
        let way = Scalar::alu(alu::MUL, false, &steps, &Scalar::constant(self.step as u64));
        Scalar::alu(alu::ADD, false, &self.first.num, &way)
    }

    /// The same; of the counter it is known besides that it is not beyond the last.
    #[inline(never)]
    fn within(&self, rounds: u64, is_counter: bool) -> Scalar {
        let num = self.after(rounds);
        if !is_counter {
            return num;
        }
        let (last, first) = (self.last(rounds), &self.first.num);
        let within = Scalar::signed_between(first.smin().min(last), first.smax().max(last));
        num.intersect(&within).unwrap_or(num)
    }

    /// The last number that shows that control came back so many times at most.
    fn last(&self, rounds: u64) -> i64 {
        let from = if self.step > 0 { self.first.num.smin() } else { self.first.num.smax() };
        from.saturating_add(self.step.saturating_mul(rounds as i64))
    }

    /// Whether a number shows that.
    fn shows(&self, rounds: u64, now: &Scalar) -> bool {
        let last = self.last(rounds);
        if self.step > 0 { now.smax() <= last } else { now.smin() >= last }
    }

    /// Whether it is a step from where it was at the head.
    fn is_step(&self, now: &Value) -> bool {
        let here = (now.kind, now.nullable, now.anchor(), now.delta);
        here == (self.first.kind, false, Some(self.anchor), self.delta + self.step)
            && now.form == Form::Plain
            && (named(now.kind) || now.symbol == self.first.symbol)
    }
}

/// Whether values of this kind are named by their symbol, and not by their origin.
fn named(kind: Kind) -> bool {
    matches!(kind, Kind::Scalar | Kind::Window)
}

/// A bound on the rounds to be proven by a counter.
#[derive(Clone, Copy, Debug)]
struct Guess {
    rounds: u64,
    counter: usize,
}

/// What came of a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Round {
    /// It keeps what is claimed of every round.
    Kept,
    /// The claim was changed: the round must be walked again from the new one.
    Changed,
    /// There is nothing left to try.
    Hopeless,
}

/// Claims that are tried for one loop before it is walked round by round.
const TRIES: u32 = 20;
/// The longest step.
const LONGEST: u64 = 1 << 20;

/// What is claimed of every round of a loop.
pub(crate) struct Rounds {
    /// The claim, but for the numbers of steady values.
    base: State,
    steady: Vec<Steady>,
    bounds: Bounds,
    /// Those not yet refuted, the best last.
    guesses: Vec<Guess>,
    /// Without this one none is left.
    guess: Guess,
    kept: Kept,
    tries: u32,
}

impl Rounds {
    /// Nothing is claimed yet of a loop that is entered in a state.
    pub(crate) fn new(entry: State, bounds: Bounds) -> Self {
        Self {
            base: entry,
            steady: Vec::new(),
            bounds,
            guesses: Vec::new(),
            guess: Guess { rounds: 0, counter: 0 },
            kept: Kept::default(),
            tries: 0,
        }
    }

    /// Claims what may be claimed when one round led to `back`; false when nothing counts the rounds.
    #[inline(never)]
    pub(crate) fn first(
        &mut self,
        back: &State,
        machine: &mut Machine<'_>,
        values: &mut Values,
        names: &mut Names,
    ) -> Result<bool, OutOfMemory> {
        let base = &self.base;
        if base.returns != back.returns || base.held != back.held || base.told != back.told {
            return Ok(false);
        }
        self.find_steady(back, machine)?;
        self.make_guesses(machine)?;
        if !self.widen(back, machine)? || !self.next_guess() {
            return Ok(false);
        }
        self.claim(machine, values, names)?;
        Ok(true)
    }

    /// Gives the memory back.
    pub(crate) fn discard(&mut self, machine: &mut Machine<'_>) {
        core::mem::take(&mut self.base).discard(machine.memory);
        core::mem::take(&mut self.kept).discard(machine.memory);
        machine.memory.discard(core::mem::take(&mut self.steady));
        machine.memory.discard(core::mem::take(&mut self.guesses));
    }

    /// Times that control comes back to the head at most, once a round keeps the claim.
    pub(crate) fn most(&self) -> u64 {
        self.guess.rounds
    }

    /// The names of this loop's rounds.
    pub(crate) fn anchors(&self) -> impl Iterator<Item = Symbol> + '_ {
        self.steady.iter().map(|steady| steady.anchor)
    }

    /// The state to walk a round from.
    #[inline(never)]
    pub(crate) fn state(&self, machine: &mut Machine<'_>) -> Result<State, OutOfMemory> {
        let mut state = self.base.try_clone(machine.memory);
        for (index, steady) in self.steady.iter().enumerate() {
            let Some(value) = state.as_mut().ok().and_then(|state| state.at_mut(steady.at)) else { continue };
            value.num = steady.within(self.guess.rounds, index == self.guess.counter);
        }
        state
    }

    /// Control comes back to the head in a state.
    pub(crate) fn back(
        &mut self,
        state: &State,
        machine: &mut Machine<'_>,
        values: &mut Values,
        names: &mut Names,
    ) -> Result<Round, OutOfMemory> {
        let steady = |steady: &Steady| state.at(steady.at).is_some_and(|now| steady.is_step(now));
        if self.steady.iter().all(steady) {
            if !self.shows_bound(state) {
                if !self.next_guess() {
                    return Ok(Round::Hopeless);
                }
            } else if self.keeps(state, machine, values, names)? {
                return Ok(Round::Kept);
            } else if !self.widen(state, machine)? {
                return Ok(Round::Hopeless);
            }
        } else {
            // An anchor names what is steady. What is not was something else at first, from where it is widened.
            for other in self.steady.iter().filter(|other| !steady(other)) {
                if let Some(value) = self.base.at_mut(other.at) {
                    *value = other.first;
                }
            }
            self.steady.retain(steady);
            self.make_guesses(machine)?;
            let rounds = self.guess.rounds;
            // What was refuted stays so.
            self.guesses.retain(|guess| guess.rounds >= rounds);
            if !self.widen(state, machine)? || !self.next_guess() {
                return Ok(Round::Hopeless);
            }
        }
        self.tries += 1;
        if self.tries > TRIES {
            return Ok(Round::Hopeless);
        }
        self.claim(machine, values, names)?;
        Ok(Round::Changed)
    }

    #[inline(never)]
    fn claim(
        &mut self,
        machine: &mut Machine<'_>,
        values: &mut Values,
        names: &mut Names,
    ) -> Result<(), OutOfMemory> {
        let state = self.state(machine)?;
        let mut kept = Kept::new(&state, values, names, machine.memory)?;
        state.discard(machine.memory);
        core::mem::swap(&mut self.kept, &mut kept);
        kept.discard(machine.memory);
        Ok(())
    }

    /// Whether what comes back can only come back so often: the counter shows it, or another whose start is known.
    fn shows_bound(&self, state: &State) -> bool {
        let rounds = self.guess.rounds;
        self.steady.iter().enumerate().any(|(index, steady)| {
            let may = index == self.guess.counter || steady.first.num.value().is_some();
            may && state.at(steady.at).is_some_and(|now| steady.shows(rounds, &now.num))
        }) && (self.steady.get(self.guess.counter)).is_some_and(|counter| {
            // Its claim was narrowed by the guess.
            counter.first.num.value().is_some()
                || state.at(counter.at).is_some_and(|now| counter.shows(rounds, &now.num))
        })
    }

    /// Whether what comes back is within the claim. Steady values are, as long as the bound is shown.
    #[inline(never)]
    fn keeps(
        &self,
        state: &State,
        machine: &mut Machine<'_>,
        values: &Values,
        names: &mut Names,
    ) -> Result<bool, OutOfMemory> {
        let mut back = state.try_clone(machine.memory)?;
        for (index, steady) in self.steady.iter().enumerate() {
            if let (Some(claimed), Some(now)) = (self.base.at(steady.at), back.at_mut(steady.at)) {
                *now =
                    Value { num: steady.within(self.guess.rounds, index == self.guess.counter), ..*claimed };
            }
        }
        let keeps = self.kept.covers(&back, values, names, machine.memory)?;
        back.discard(machine.memory);
        Ok(keeps)
    }

    #[inline(never)]
    fn find_steady(&mut self, back: &State, machine: &mut Machine<'_>) -> Result<(), OutOfMemory> {
        let count = self.base.places().count();
        machine.memory.reserve_exact(&mut self.steady, count)?;
        for (at, size, first) in self.base.places() {
            let Some(now) = back.at(at).filter(|_| same_size(back, at, size)) else { continue };
            let Some(step) = step(first, now) else { continue };
            // Numbers that keep their distance are named by one anchor.
            let kin = self.steady.iter().find_map(|kin| {
                let (a, b) = (kin.first.plain()?, first.plain()?);
                (kin.step == step && a.0 == b.0).then(|| (kin.anchor, kin.delta + b.1 - a.1))
            });
            let (anchor, delta) = kin.unwrap_or_else(|| (machine.anchor(), 0));
            append(&mut self.steady, Steady { at, first: *first, step, anchor, delta })?;
        }
        for steady in &self.steady {
            if let Some(value) = self.base.at_mut(steady.at) {
                let (form, delta) = (Form::Plain, steady.delta);
                *value = if named(value.kind) {
                    Value { form, symbol: steady.anchor, delta, ..*value }
                } else {
                    Value { form, origin: steady.anchor, delta, ..*value }
                };
            }
        }
        Ok(())
    }

    fn make_guesses(&mut self, machine: &mut Machine<'_>) -> Result<(), OutOfMemory> {
        self.guesses.clear();
        for (counter, steady) in self.steady.iter().enumerate() {
            let Steady { first, step, .. } = steady;
            let by_end = (first.kind == Kind::Window).then_some(MAX_WINDOW as i64);
            let bounds = self.bounds.iter().chain(by_end);
            let lasts = bounds.flat_map(|bound| [bound - step, bound, bound + step]);
            let rounds = lasts.filter_map(|last| {
                let way = if *step > 0 { last - first.num.smin() } else { first.num.smax() - last };
                u64::try_from(way).ok().map(|way| way.checked_div(step.unsigned_abs()).unwrap_or(0))
            });
            for rounds in rounds.filter(|rounds| (1..=MAX_BUDGET.into()).contains(rounds)) {
                let exact = first.num.value().is_some();
                let known = self
                    .guesses
                    .iter()
                    .any(|guess| guess.rounds == rounds && (exact || guess.counter == counter));
                if !known {
                    let index = self.guesses.partition_point(|guess| guess.rounds > rounds);
                    machine.memory.insert(&mut self.guesses, index, Guess { rounds, counter })?;
                }
            }
        }
        Ok(())
    }

    fn next_guess(&mut self) -> bool {
        let next = self.guesses.pop();
        self.guess = next.unwrap_or(self.guess);
        next.is_some()
    }

    /// Widens the claim to what came back. False when that is not possible.
    #[inline(never)]
    fn widen(&mut self, back: &State, machine: &mut Machine<'_>) -> Result<bool, OutOfMemory> {
        let places = self.base.places().map(|(at, size, value)| (at, size, *value));
        let places = machine.memory.collect(places)?;
        let mut possible =
            self.base.returns == back.returns && self.base.held == back.held && self.base.told == back.told;
        // A pointer that is only there now could be read as a number.
        possible &= back
            .entries
            .iter()
            .all(|entry| entry.value.is_number() || same_size(&self.base, entry.at, entry.size));
        for (at, size, value) in &places {
            if self.steady.iter().any(|steady| steady.at == *at) {
                continue;
            }
            let nothing = Value { since: value.since, ..Value::NOTHING };
            let either = match back.at(*at).filter(|_| same_size(back, *at, *size)) {
                Some(now) => self.either(value, now, machine),
                // Bytes that are stored in other pieces now.
                None if value.is_number() => Some(Value::number(Scalar::UNKNOWN)),
                None => Some(nothing),
            };
            possible &= either.is_some();
            if let (Some(place), Some(either)) = (self.base.at_mut(*at), either) {
                *place = either;
            }
        }
        machine.memory.discard(places);
        // A number on the stack of which nothing is known needs no entry, and one in other pieces must have none.
        let unknown = |value: &Value| value.is_number() && value.num == Scalar::UNKNOWN;
        self.base.entries.retain(|entry| entry.at >= SAVED || !unknown(&entry.value));
        let Self { base, .. } = self;
        base.reaches.retain_mut(|Reach { symbol, bytes, .. }| match back.reach(*symbol) {
            Some(now) => {
                *bytes = now.min(*bytes);
                true
            }
            None => false,
        });
        base.sums.retain(|sum| back.sums.contains(sum));
        base.relations.retain(|relation| back.relations.contains(relation));
        base.forget_facts();
        Ok(possible)
    }

    /// A value that is what it was, what it is now, or something between. `None` for a resource that is another one now.
    #[inline(never)]
    fn either(&self, was: &Value, now: &Value, machine: &mut Machine<'_>) -> Option<Value> {
        if !was.kind.is_readable() || *was == (Value { since: was.since, ..*now }) {
            return Some(*was);
        }
        let nothing = Value { since: was.since, ..Value::NOTHING };
        let held = |value: &Value| {
            value.symbol != 0 && self.base.held.iter().any(|held| held.symbol == value.symbol)
        };
        if was.kind != now.kind {
            return (!held(was)).then_some(nothing);
        }
        let num = if was.num.covers(&now.num) { was.num } else { self.grown(&was.num, &now.num) };
        // An anchor names a steady value, and this one is none: nor is it one of another loop's any more.
        let name = |value: &Value| (value.form, value.symbol, value.delta);
        let same_name = name(was) == name(now);
        match was.kind {
            Kind::Scalar if same_name => Some(Value { num, ..*was }),
            Kind::Scalar if num.value().is_some() => Some(Value::number(num)),
            Kind::Scalar => Some(Value { since: was.since, ..Value::number(num).named(machine.fresh()) }),
            Kind::Window if same_name => Some(Value { num, ..*was }),
            Kind::Window => Some(Value { num, ..*was }.named(machine.fresh())),
            Kind::Stack(_) | Kind::MapValue(_) | Kind::Record(_) => {
                let nullable = was.nullable || now.nullable;
                let same = was.symbol == now.symbol && was.nullable == now.nullable;
                if !same && held(was) {
                    return None;
                }
                let symbol =
                    if same || was.symbol == 0 && now.symbol == 0 { was.symbol } else { machine.fresh() };
                let from = (was.origin, was.delta) == (now.origin, now.delta);
                let (origin, delta) = if from { (was.origin, was.delta) } else { (0, 0) };
                Some(Value { num, nullable, symbol, origin, delta, ..*was })
            }
            _ => (!held(was)).then_some(nothing),
        }
    }

    /// Bounds for two numbers, and room for more: the next of few widths, so that growing ends soon.
    fn grown(&self, was: &Scalar, now: &Scalar) -> Scalar {
        const WIDTHS: [u32; 8] = [7, 8, 16, 17, 31, 32, 33, 63];
        let both = was.hull(now);
        if both.smin() < 0 || self.tries > TRIES / 2 {
            return Scalar::UNKNOWN;
        }
        let most = WIDTHS.into_iter().map(|width| (1_u64 << width) - 1).find(|most| both.umax() <= *most);
        let least = if now.umin() < was.umin() { 0 } else { was.umin() };
        if both.umax() == was.umax() {
            return Scalar::between(least, was.umax());
        }
        most.map_or(Scalar::UNKNOWN, |most| Scalar::between(least, most))
    }
}

/// Whether a state has a value of this size at the place.
fn same_size(state: &State, at: u16, size: u16) -> bool {
    state.places().any(|place| (place.0, place.1) == (at, size))
}

/// How far the first round moved a value, when it is the same way in numbers or in memory.
fn step(first: &Value, now: &Value) -> Option<i64> {
    if first.kind != now.kind || first.nullable || now.nullable {
        return None;
    }
    let step = match first.kind {
        Kind::Scalar | Kind::Window => {
            let (a, b) = (first.plain()?, now.plain()?);
            (a.0 == b.0).then_some(b.1 - a.1)?
        }
        Kind::Stack(_) | Kind::MapValue(_) | Kind::Record(_) if first.symbol == now.symbol => {
            if first.origin != 0 && first.origin == now.origin {
                now.delta.checked_sub(first.delta)?
            } else {
                (now.num.value()? as i64).checked_sub(first.num.value()? as i64)?
            }
        }
        _ => return None,
    };
    let near = first.num.smin() >= -NAMED_LIMIT && first.num.smax() <= NAMED_LIMIT;
    (near && step != 0 && step.unsigned_abs() <= LONGEST).then_some(step)
}

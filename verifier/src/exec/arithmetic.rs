//! Arithmetic on numbers and on pointers. Nothing is refused for going out of bounds here: pointers are held against
//! their bounds where they are used.

use tidegate_abi::Insn;
use tidegate_abi::insn::{alu, class, source};
use tidegate_abi::limits::MAX_WINDOW;

use super::{Machine, Stop};
use crate::domain::{Cmp, Scalar};
use crate::memory::OutOfMemory;
use crate::refusal::{Known, Reason};
use crate::state::{State, offset};
use crate::value::{FLAGS, Form, Kind, NAMED_LIMIT, NO_MORE_DATA, Symbol, Value, WINDOW_LIMIT};

const HALF: u64 = u32::MAX as u64;

impl Machine<'_> {
    #[inline(never)]
    pub(super) fn combine(&mut self, state: &mut State, slot: usize, insn: Insn) -> Result<(), Stop> {
        let wide = insn.class() == class::ALU64;
        let op = insn.opcode & 0xf0;
        let mut a = self.read(state, insn.dst())?;
        let mut b = if op == alu::NEG { Value::constant(0) } else { self.operand(state, insn)? };
        let value = match (a.is_number(), b.is_number()) {
            (true, true) => self.numbers(state, op, insn.offset == 1, wide, &a, &b)?,
            (false, true) if wide && op == alu::ADD => self.pointer_plus(state, insn.dst(), &a, &b)?,
            (true, false) if wide && op == alu::ADD => self.pointer_plus(state, insn.src(), &b, &a)?,
            (false, true) if wide && op == alu::SUB => self.pointer_minus(state, insn.dst(), &a, &b)?,
            (false, false) if wide && op == alu::SUB => self.distance(state, insn, &a, &b)?,
            (false, _) if !wide && matches!(op, alu::ADD | alu::SUB) => {
                self.low(state, insn, op, &mut a, &mut b)?
            }
            (is_number, _) => {
                let (register, pointer) = if is_number { (insn.src(), &b) } else { (insn.dst(), &a) };
                return Err(self.refuse(Reason::PointerMath { known: Known::of(register, pointer) }));
            }
        };
        self.write(state, insn.dst(), value, slot);
        Ok(())
    }

    fn only_number(&self, register: u8, value: &Value) -> Result<Scalar, Stop> {
        if value.is_number() {
            Ok(value.num)
        } else {
            Err(self.refuse(Reason::PointerMath { known: Known::of(register, value) }))
        }
    }

    #[inline(never)]
    pub(super) fn copy(&mut self, state: &mut State, slot: usize, insn: Insn) -> Result<(), Stop> {
        let value = self.copied(state, insn)?;
        self.write(state, insn.dst(), value, slot);
        Ok(())
    }

    fn copied(&mut self, state: &State, insn: Insn) -> Result<Value, Stop> {
        let (wide, register) = (insn.class() == class::ALU64, insn.opcode & source::X != 0);
        // Compilers copy what was never set, when no path reads the copy.
        if register && state.reg(insn.src()).kind == Kind::Nothing {
            return Ok(Value::NOTHING);
        }
        let value = self.operand(state, insn)?;
        if wide && insn.offset == 0 {
            return Ok(value);
        }
        if let (false, 0, Some(kind)) = (wide, insn.offset, value.kind.low()) {
            return Ok(Value { kind, ..value });
        }
        let number = self.only_number(if register { insn.src() } else { insn.dst() }, &value)?;
        let extended = match (wide, insn.offset) {
            (true, width) => number.sign_extend(width as u32),
            (false, 0) => number.zero_extend32(),
            (false, width) => number.zero_extend32().sign_extend_half(width as u32),
        };
        // What didn't change keeps its name.
        let unchanged = match (wide, insn.offset) {
            (true, width) => number.fits_signed(width as u32),
            (false, 0) => number.umax() <= HALF,
            (false, width) => number.umax() <= HALF >> (33 - width),
        };
        if unchanged {
            return Ok(value);
        }
        let low = !wide && insn.offset == 0 && value.form != Form::Remaining && value.symbol != 0;
        Ok(if low { Value { form: Form::Low, num: extended, ..value } } else { self.number(extended) })
    }

    #[inline(never)]
    pub(super) fn swap(&mut self, state: &mut State, slot: usize, insn: Insn) -> Result<(), Stop> {
        let value = self.read(state, insn.dst())?;
        let number = self.only_number(insn.dst(), &value)?;
        let width = insn.imm as u32;
        let swaps = insn.class() == class::ALU64 || insn.opcode & source::X != 0;
        let swapped = if swaps { number.swap_bytes(width) } else { number.zero_extend(width) };
        let value = if !swaps && swapped == number { value } else { self.number(swapped) };
        self.write(state, insn.dst(), value, slot);
        Ok(())
    }

    #[inline(never)]
    fn numbers(
        &mut self,
        state: &mut State,
        op: u8,
        signed: bool,
        wide: bool,
        a: &Value,
        b: &Value,
    ) -> Result<Value, OutOfMemory> {
        let num = if wide {
            Scalar::alu(op, signed, &a.num, &b.num)
        } else {
            Scalar::alu32(op, signed, &a.num, &b.num)
        };
        if num.value().is_some() {
            let (symbol, delta) = stepped(op, wide, a, b).unwrap_or((0, 0));
            return Ok(Value { symbol, delta, ..Value::number(num) });
        }
        if unchanged(op, wide, &a.num, &b.num) {
            return Ok(*a);
        }
        if op == alu::AND && (a.form, a.symbol, a.delta) == (Form::Plain, FLAGS, 0) {
            let told = self.program.program_type.no_more_data();
            let one = told.is_some_and(|(_, bit)| b.num.low_value() == Some(bit.into()));
            return Ok(if one { Value::number(num).named(NO_MORE_DATA) } else { self.number(num) });
        }
        // In 32 bits, adding a large constant is subtracting a small one.
        let (op, b) = match b.num.low_value() {
            Some(known) if !wide && op == alu::ADD && known >> 31 != 0 => {
                (alu::SUB, Value::constant((1 << 32) - known))
            }
            Some(known) if !wide => (op, Value::constant(known)),
            _ => (op, *b),
        };
        let narrow = a.num.umax() <= HALF && b.num.umax() <= HALF;
        if let (alu::SUB, true, Some((x, at)), Some((y, from))) = (op, wide || narrow, a.plain(), b.plain())
            && x == y
        {
            let distance = (at - from) as u64;
            return Ok(Value::constant(if wide { distance } else { distance & HALF }));
        }
        let num = if op == alu::SUB && (wide || narrow) { related(state, a, &b, num, wide) } else { num };
        let exact = match op {
            alu::ADD => wide || narrow && b.num.umax() <= HALF - a.num.umax(),
            alu::SUB => wide || narrow && (b.num.umax() <= a.num.umin() || at_most(state, &b, a)),
            _ => false,
        };
        if !exact {
            return Ok(self.wrapped(op, a, &b, num));
        }
        let named =
            if op == alu::ADD { self.sum_name(state, a, &b)? } else { self.difference_name(state, a, &b)? };
        let Some((form, symbol, delta)) = named.filter(|(.., delta)| delta.abs_diff(0) <= NAMED_LIMIT as u64)
        else {
            return Ok(self.number(num));
        };
        Ok(Value { form, symbol, delta, ..Value::number(num) })
    }

    /// The result of arithmetic that may have wrapped in 32 bits: it keeps its name when it is a step.
    #[inline(never)]
    fn wrapped(&mut self, op: u8, a: &Value, b: &Value, num: Scalar) -> Value {
        let step = match (op, b.known()) {
            (alu::ADD, Some(step)) => step as i64,
            (alu::SUB, Some(step)) => -(step as i64),
            _ => return self.number(num),
        };
        let delta = a.delta.saturating_add(step);
        let named = a.form != Form::Remaining && a.symbol != 0 && a.num.value().is_none();
        if !named || delta.abs_diff(0) > NAMED_LIMIT as u64 || b.num.umax() > HALF {
            return self.number(num);
        }
        Value { form: Form::Low, symbol: a.symbol, delta, ..Value::number(num) }
    }

    #[inline(never)]
    fn sum_name(
        &mut self,
        state: &mut State,
        a: &Value,
        b: &Value,
    ) -> Result<Option<(Form, Symbol, i64)>, OutOfMemory> {
        let (a, b) = if a.remaining().is_some() { (b, a) } else { (a, b) };
        if let Some((place, at)) = b.remaining() {
            // Fewer bytes remain behind an earlier place.
            let known = a.plain().filter(|(symbol, _)| *symbol == 0);
            return Ok(known.map(|(_, number)| (Form::Remaining, place, at - number)));
        }
        let (Some((a, a_delta)), Some((b, b_delta))) = (a.plain(), b.plain()) else { return Ok(None) };
        let fresh = self.fresh();
        let symbol = state.sum(a, b, fresh, self.memory)?;
        Ok(Some((Form::Plain, symbol, a_delta + b_delta)))
    }

    #[inline(never)]
    fn difference_name(
        &mut self,
        state: &mut State,
        a: &Value,
        b: &Value,
    ) -> Result<Option<(Form, Symbol, i64)>, OutOfMemory> {
        let Some((b_symbol, b_delta)) = b.plain() else { return Ok(None) };
        if let Some((place, at)) = a.remaining() {
            if !near(&b.num) {
                return Ok(None);
            }
            let fresh = self.fresh();
            let symbol = state.sum(place, b_symbol, fresh, self.memory)?;
            return Ok(Some((Form::Remaining, symbol, at + b_delta)));
        }
        let Some((a_symbol, a_delta)) = a.plain().filter(|(symbol, _)| *symbol != 0) else { return Ok(None) };
        let symbol = if b_symbol == 0 {
            a_symbol
        } else {
            let fresh = self.fresh();
            state.difference(a_symbol, b_symbol, fresh, self.memory)?
        };
        Ok(Some((Form::Plain, symbol, a_delta - b_delta)))
    }

    /// A pointer and a number.
    #[inline(never)]
    fn pointer_plus(
        &mut self,
        state: &mut State,
        register: u8,
        pointer: &Value,
        number: &Value,
    ) -> Result<Value, Stop> {
        self.may_move(register, pointer, number)?;
        let num = Scalar::alu(alu::ADD, false, &pointer.num, &number.num);
        let moved = Value { num, ..*pointer };
        if pointer.kind != Kind::Window {
            return Ok(from_origin(moved, number.known()));
        }
        if let Some((place, at)) = number.remaining()
            && place == pointer.symbol
        {
            // All that remains behind a place, added to it: the end.
            let num = Scalar::constant((pointer.delta - at) as u64);
            return Ok(Value { num, ..Value::pointer(Kind::WindowEnd) });
        }
        let Some((symbol, delta)) = number.plain() else { return Ok(moved.named(self.fresh())) };
        let fresh = self.fresh();
        let symbol = state.sum(pointer.symbol, symbol, fresh, self.memory)?;
        Ok(self.place(moved, symbol, pointer.delta + delta))
    }

    fn pointer_minus(
        &mut self,
        state: &mut State,
        register: u8,
        pointer: &Value,
        number: &Value,
    ) -> Result<Value, Stop> {
        if pointer.kind == Kind::WindowEnd
            && let Some((symbol, delta)) = number.remaining()
        {
            // The end less what remains behind a place: the place.
            let end = pointer.num.value().unwrap_or(0) as i64;
            let num = Scalar::alu(alu::SUB, false, &shown(state), &number.num);
            let moved = Value { num: offset(&num, end), ..Value::pointer(Kind::Window) };
            return Ok(self.place(moved, symbol, delta + end));
        }
        self.may_move(register, pointer, number)?;
        let num = Scalar::alu(alu::SUB, false, &pointer.num, &number.num);
        let moved = Value { num, ..*pointer };
        if pointer.kind != Kind::Window {
            return Ok(from_origin(moved, number.known().map(u64::wrapping_neg)));
        }
        Ok(match number.plain() {
            Some((0, delta)) => self.place(moved, pointer.symbol, pointer.delta - delta),
            Some((symbol, delta)) if symbol == pointer.symbol => {
                let delta = pointer.delta - delta;
                self.place(Value { num: Scalar::constant(delta as u64), ..moved }, 0, delta)
            }
            _ => moved.named(self.fresh()),
        })
    }

    /// A packet pointer with its name, or with a new one when the distance is too large for it.
    fn place(&mut self, pointer: Value, symbol: Symbol, delta: i64) -> Value {
        if delta.abs_diff(0) > NAMED_LIMIT as u64 {
            return pointer.named(self.fresh());
        }
        Value { symbol, delta, ..pointer }
    }

    fn may_move(&self, register: u8, pointer: &Value, number: &Value) -> Result<(), Stop> {
        let known = Known::of(register, pointer);
        if pointer.nullable {
            return Err(self.refuse(Reason::MaybeNull { known }));
        }
        // The end of what is shown stays near it: what is compared with it must not come round.
        let near =
            |value: &Value| value.num.value().is_some_and(|by| (by as i64).abs_diff(0) <= NAMED_LIMIT as u64);
        match pointer.kind {
            Kind::Window | Kind::Stack(_) | Kind::MapValue(_) | Kind::Record(_) => Ok(()),
            Kind::Context if number.known().is_some() => Ok(()),
            Kind::WindowEnd if number.is_number() && near(number) && near(pointer) => Ok(()),
            _ => Err(self.refuse(Reason::PointerMath { known })),
        }
    }

    /// Arithmetic on the lower halves of packet pointers: known steps, and the distance of two.
    #[inline(never)]
    fn low(
        &mut self,
        state: &mut State,
        insn: Insn,
        op: u8,
        a: &mut Value,
        b: &mut Value,
    ) -> Result<Value, Stop> {
        let known = Known::of(insn.dst(), a);
        let low = a.kind.low().filter(|_| b.known().is_some() || op == alu::SUB && b.kind.low().is_some());
        let Some(low) = low else { return Err(self.refuse(Reason::PointerMath { known })) };
        a.kind = a.kind.whole();
        let Some(step) = b.known() else {
            b.kind = b.kind.whole();
            let distance = self.distance(state, insn, a, b)?;
            let fits = distance.num.umax() <= HALF;
            return Ok(if fits { distance } else { self.number(distance.num.zero_extend32()) });
        };
        *b = Value::constant(i64::from(step as i32) as u64);
        let mut moved = if op == alu::ADD {
            self.pointer_plus(state, insn.dst(), a, b)?
        } else {
            self.pointer_minus(state, insn.dst(), a, b)?
        };
        moved.kind = low;
        Ok(moved)
    }

    /// The distance between two pointers into the same memory.
    fn distance(&mut self, state: &State, insn: Insn, a: &Value, b: &Value) -> Result<Value, Stop> {
        let num = Scalar::alu(alu::SUB, false, &a.num, &b.num);
        match (a.kind, b.kind) {
            (Kind::WindowEnd, Kind::Window) => {
                let end = a.num.value().unwrap_or(0) as i64;
                let whole = Scalar::alu(alu::SUB, false, &offset(&shown(state), end), &b.num);
                if !near(&b.num) {
                    return Ok(self.number(Scalar::UNKNOWN));
                }
                let at = b.delta - end;
                let known = state
                    .reach(b.symbol)
                    .and_then(|bytes| whole.intersect(&Scalar::signed_between(bytes - at, i64::MAX)));
                let num = known.unwrap_or(whole);
                Ok(Value { form: Form::Remaining, symbol: b.symbol, delta: at, ..Value::number(num) })
            }
            (Kind::Window, Kind::Window) if a.symbol == b.symbol => {
                Ok(Value::constant(a.delta.wrapping_sub(b.delta) as u64))
            }
            (Kind::Window, Kind::Window) if b.symbol == 0 => {
                let delta = a.delta - b.delta;
                Ok(Value { symbol: a.symbol, delta, ..Value::number(num) })
            }
            (Kind::Window, Kind::Window) => Ok(self.number(num)),
            (Kind::WindowEnd, Kind::WindowEnd) => Ok(self.number(num)),
            (Kind::Window, Kind::WindowEnd) => Ok(self.number(Scalar::UNKNOWN)),
            (Kind::Stack(x), Kind::Stack(y)) if x == y => Ok(self.number(num)),
            (Kind::MapValue(_) | Kind::Record(_), _)
                if a.kind == b.kind
                    && a.symbol == b.symbol
                    && a.symbol != 0
                    && !a.nullable
                    && !b.nullable =>
            {
                Ok(self.number(num))
            }
            _ => Err(self.refuse(Reason::PointerMath { known: Known::of(insn.dst(), a) })),
        }
    }
}

/// A pointer that was moved by a number: as far as that is known, it knows how far it is from its origin.
fn from_origin(pointer: Value, by: Option<u64>) -> Value {
    if pointer.origin == 0 {
        return pointer;
    }
    match by.and_then(|by| pointer.delta.checked_add(by as i64)) {
        Some(delta) => Value { delta, ..pointer },
        None => Value { origin: 0, delta: 0, ..pointer },
    }
}

/// The name of a number that is known after a step: with it, a loop's counter is followed past comparisons that tell it.
fn stepped(op: u8, wide: bool, a: &Value, b: &Value) -> Option<(Symbol, i64)> {
    a.anchor().filter(|_| a.is_number() && a.form == Form::Plain)?;
    let (number, step) = (a.num.value()?, b.num.value()?);
    let step = if wide { step as i64 } else { (step as i32).into() };
    let step = match op {
        alu::ADD => step,
        alu::SUB => step.checked_neg()?,
        _ => return None,
    };
    let exact = wide || number <= HALF && (0..=HALF as i64).contains(&(number as i64 + step));
    let delta = a.delta.checked_add(step)?;
    (exact && delta.abs_diff(0) <= NAMED_LIMIT as u64).then_some((a.symbol, delta))
}

/// The difference `a - b`, with what is known of how the two lie to each other. In 32 bits both must fit.
#[inline(never)]
fn related(state: &State, a: &Value, b: &Value, num: Scalar, wide: bool) -> Scalar {
    let (Some((high, at)), Some((low, from))) = (a.plain(), b.plain()) else { return num };
    let step = at - from;
    let mut known = num;
    if let Some(least) = state.least_difference(high, low).map(|least| least + step)
        && (wide || least >= 0)
    {
        let whole = Scalar::alu(alu::SUB, false, &a.num, &b.num);
        let told = whole.intersect(&Scalar::signed_between(least, i64::MAX));
        known = told.and_then(|told| told.intersect(&known)).unwrap_or(known);
    }
    if state.differ(high, low, -step) {
        // Neither the whole nor, of two that fit, its lower half is zero.
        let mut rest = known;
        if Scalar::learn(Cmp::Ne, &mut rest, &mut Scalar::constant(0)).is_some() {
            known = rest;
        }
    }
    known
}

/// Whether `a` is known to be at most `b`.
fn at_most(state: &State, a: &Value, b: &Value) -> bool {
    let (Some((high, at)), Some((low, from))) = (b.plain(), a.plain()) else { return false };
    state.least_difference(high, low).is_some_and(|least| least + at - from >= 0)
}

/// How many bytes are shown.
pub(super) fn shown(state: &State) -> Scalar {
    let least = state.reach(0).unwrap_or(0).clamp(0, MAX_WINDOW as i64);
    Scalar::between(least as u64, MAX_WINDOW as u64)
}

/// Whether a distance from the first byte is so small that it can't wrap around the address space.
pub(super) fn near(num: &Scalar) -> bool {
    num.smin() >= -WINDOW_LIMIT && num.smax() <= WINDOW_LIMIT
}

/// Whether the operation gives back its first operand.
fn unchanged(op: u8, wide: bool, a: &Scalar, b: &Scalar) -> bool {
    if !wide && a.umax() > HALF {
        return false;
    }
    let b = if wide { b.value() } else { b.low_value() };
    match (op, b) {
        (alu::AND, Some(mask)) => (a.bits().value | a.bits().mask) & !mask == 0,
        (alu::ADD | alu::SUB | alu::OR | alu::XOR | alu::LSH | alu::RSH | alu::ARSH, Some(0)) => true,
        (alu::MUL, Some(1)) => true,
        _ => false,
    }
}

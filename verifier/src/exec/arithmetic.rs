//! Arithmetic on numbers and on pointers. Nothing is refused for going out of bounds here: pointers are held against
//! their bounds where they are used.

use tidegate_abi::Insn;
use tidegate_abi::insn::{alu, class, source};
use tidegate_abi::limits::MAX_WINDOW;

use super::Machine;
use crate::domain::Scalar;
use crate::refusal::{Known, Reason};
use crate::state::{State, offset};
use crate::value::{Form, Kind, NAMED_LIMIT, Symbol, Value, WINDOW_LIMIT};

const HALF: u64 = u32::MAX as u64;

impl Machine<'_> {
    pub(super) fn arithmetic(&mut self, state: &mut State, slot: usize, insn: Insn) -> Result<(), Reason> {
        let wide = insn.class() == class::ALU64;
        let op = insn.opcode & 0xf0;
        let value = match op {
            alu::MOV => {
                let value = self.operand(state, insn)?;
                self.moved(insn, value, wide)?
            }
            alu::END => {
                let value = self.read(state, insn.dst())?;
                let number = self.only_number(insn.dst(), &value)?;
                let swaps = wide || insn.opcode & source::X != 0;
                self.swapped(value, number, insn.imm as u32, swaps)
            }
            _ => {
                let a = self.read(state, insn.dst())?;
                let b = if op == alu::NEG { Value::constant(0) } else { self.operand(state, insn)? };
                match (a.is_number(), b.is_number()) {
                    (true, true) => self.numbers(state, op, insn.offset == 1, wide, &a, &b)?,
                    (false, true) if wide && op == alu::ADD => {
                        self.pointer_plus(state, insn.dst(), &a, &b)?
                    }
                    (true, false) if wide && op == alu::ADD => {
                        self.pointer_plus(state, insn.src(), &b, &a)?
                    }
                    (false, true) if wide && op == alu::SUB => {
                        self.pointer_minus(state, insn.dst(), &a, &b)?
                    }
                    (false, false) if wide && op == alu::SUB => self.distance(state, insn, &a, &b)?,
                    (false, _) => return Err(Reason::PointerMath { known: Known::of(insn.dst(), &a) }),
                    (true, _) => return Err(Reason::PointerMath { known: Known::of(insn.src(), &b) }),
                }
            }
        };
        self.write(state, insn.dst(), value, slot);
        Ok(())
    }

    fn only_number(&self, register: u8, value: &Value) -> Result<Scalar, Reason> {
        if value.is_number() {
            Ok(value.num)
        } else {
            Err(Reason::PointerMath { known: Known::of(register, value) })
        }
    }

    fn moved(&mut self, insn: Insn, value: Value, wide: bool) -> Result<Value, Reason> {
        if wide && insn.offset == 0 {
            return Ok(value);
        }
        let register = insn.opcode & source::X != 0;
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
        Ok(if unchanged { value } else { self.number(extended) })
    }

    fn swapped(&mut self, value: Value, number: Scalar, width: u32, swaps: bool) -> Value {
        let narrow = number.zero_extend(width);
        if !swaps {
            return if narrow == number { value } else { self.number(narrow) };
        }
        match narrow.value() {
            Some(known) => Value::constant(known.swap_bytes() >> (64 - width)),
            None => self.number(Scalar::of_width(width)),
        }
    }

    fn numbers(
        &mut self,
        state: &mut State,
        op: u8,
        signed: bool,
        wide: bool,
        a: &Value,
        b: &Value,
    ) -> Result<Value, Reason> {
        let num = if wide {
            Scalar::alu(op, signed, &a.num, &b.num)
        } else {
            Scalar::alu32(op, signed, &a.num, &b.num)
        };
        if num.value().is_some() {
            return Ok(Value::number(num));
        }
        if unchanged(op, wide, &a.num, &b.num) {
            return Ok(*a);
        }
        // In 32 bits, adding a large constant is subtracting a small one.
        let (op, b) = match b.num.low_value() {
            Some(known) if !wide && op == alu::ADD && known >> 31 != 0 => {
                (alu::SUB, Value::constant((1 << 32) - known))
            }
            Some(known) if !wide => (op, Value::constant(known)),
            _ => (op, *b),
        };
        let exact = match op {
            alu::ADD => wide || a.num.umax() <= HALF && b.num.umax() <= HALF - a.num.umax(),
            alu::SUB => wide || a.num.umax() <= HALF && b.num.umax() <= a.num.umin(),
            _ => false,
        };
        if !exact {
            return Ok(self.number(num));
        }
        if let (alu::SUB, Some((x, at)), Some((y, from))) = (op, a.plain(), b.plain())
            && x == y
        {
            return Ok(Value::constant((at - from) as u64));
        }
        let named =
            if op == alu::ADD { self.sum_name(state, a, &b)? } else { self.difference_name(state, a, &b)? };
        let Some((form, symbol, delta)) = named.filter(|(.., delta)| delta.abs_diff(0) <= NAMED_LIMIT as u64)
        else {
            return Ok(self.number(num));
        };
        Ok(Value { form, symbol, delta, ..Value::number(num) })
    }

    fn sum_name(
        &mut self,
        state: &mut State,
        a: &Value,
        b: &Value,
    ) -> Result<Option<(Form, Symbol, i64)>, Reason> {
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

    fn difference_name(
        &mut self,
        state: &mut State,
        a: &Value,
        b: &Value,
    ) -> Result<Option<(Form, Symbol, i64)>, Reason> {
        let Some((b_symbol, b_delta)) = b.plain() else { return Ok(None) };
        if let Some((place, at)) = a.remaining() {
            if !near(&b.num) {
                return Ok(None);
            }
            let fresh = self.fresh();
            let symbol = state.sum(place, b_symbol, fresh, self.memory)?;
            return Ok(Some((Form::Remaining, symbol, at + b_delta)));
        }
        Ok(match a.plain() {
            Some((symbol, delta)) if b_symbol == 0 => Some((Form::Plain, symbol, delta - b_delta)),
            _ => None,
        })
    }

    /// A pointer and a number.
    fn pointer_plus(
        &mut self,
        state: &mut State,
        register: u8,
        pointer: &Value,
        number: &Value,
    ) -> Result<Value, Reason> {
        self.may_move(register, pointer, number)?;
        let num = Scalar::alu(alu::ADD, false, &pointer.num, &number.num);
        let moved = Value { num, ..*pointer };
        if pointer.kind != Kind::Window {
            return Ok(moved);
        }
        if let Some((place, at)) = number.remaining()
            && place == pointer.symbol
        {
            // All that remains behind a place, added to it: the end.
            return Ok(Value {
                num: Scalar::constant((pointer.delta - at) as u64),
                ..Value::pointer(Kind::WindowEnd)
            });
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
    ) -> Result<Value, Reason> {
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
            return Ok(moved);
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

    fn may_move(&self, register: u8, pointer: &Value, number: &Value) -> Result<(), Reason> {
        let known = Known::of(register, pointer);
        if pointer.nullable {
            return Err(Reason::MaybeNull { known });
        }
        match pointer.kind {
            Kind::Window | Kind::Stack(_) | Kind::MapValue(_) | Kind::Record(_) => Ok(()),
            Kind::Context | Kind::WindowEnd if number.known().is_some() => Ok(()),
            _ => Err(Reason::PointerMath { known }),
        }
    }

    /// The distance between two pointers into the same memory.
    fn distance(&mut self, state: &State, insn: Insn, a: &Value, b: &Value) -> Result<Value, Reason> {
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
            _ => Err(Reason::PointerMath { known: Known::of(insn.dst(), a) }),
        }
    }
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

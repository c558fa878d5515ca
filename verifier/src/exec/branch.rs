//! Comparisons: what each outcome teaches about numbers, packet pointers, and null.

use tidegate_abi::Insn;
use tidegate_abi::insn::{class, jmp, source};
use tidegate_abi::limits::MAX_WINDOW;

use super::arithmetic::near;
use super::{Machine, Stop};
use crate::domain::{Cmp, Scalar};
use crate::memory::OutOfMemory;
use crate::refusal::{Known, Reason};
use crate::state::{Relation, State, Told};
use crate::value::{FLAGS, Form, Kind, NAMED_LIMIT, NO_MORE_DATA, Value};

/// The comparison that an instruction makes.
fn comparison(insn: Insn) -> Cmp {
    match insn.opcode & 0xf0 {
        jmp::JEQ => Cmp::Eq,
        jmp::JNE => Cmp::Ne,
        jmp::JGT => Cmp::Gt,
        jmp::JGE => Cmp::Ge,
        jmp::JLT => Cmp::Lt,
        jmp::JLE => Cmp::Le,
        jmp::JSGT => Cmp::SGt,
        jmp::JSGE => Cmp::SGe,
        jmp::JSLT => Cmp::SLt,
        jmp::JSLE => Cmp::SLe,
        _ => Cmp::Set,
    }
}

/// The upper bound of what the first operand of a comparison is compared with: `lower + gap <= upper`.
fn ordered<'v>(cmp: Cmp, a: &'v Value, b: &'v Value) -> Option<(&'v Value, &'v Value, i64)> {
    match cmp {
        Cmp::Lt | Cmp::SLt => Some((a, b, 1)),
        Cmp::Le | Cmp::SLe => Some((a, b, 0)),
        Cmp::Gt | Cmp::SGt => Some((b, a, 1)),
        Cmp::Ge | Cmp::SGe => Some((b, a, 0)),
        Cmp::Ne if a.num.umax() < b.num.umin() => Some((a, b, 1)),
        Cmp::Ne if b.num.umax() < a.num.umin() => Some((b, a, 1)),
        _ => None,
    }
}

impl Machine<'_> {
    /// The outcome of the comparison, when there is only one.
    #[inline(never)]
    pub(super) fn decide(&self, state: &State, insn: Insn) -> Result<Option<bool>, Stop> {
        let a = self.read(state, insn.dst())?;
        let b = self.operand(state, insn)?;
        let cmp = comparison(insn);
        if !a.is_number() || !b.is_number() {
            return self.comparable(insn, cmp, &a, &b).map(|()| None);
        }
        let assume = if insn.class() == class::JMP { Scalar::assume } else { Scalar::assume32 };
        Ok(if assume(cmp, &a.num, &b.num).is_none() {
            Some(false)
        } else if assume(cmp.opposite(), &a.num, &b.num).is_none() {
            Some(true)
        } else {
            None
        })
    }

    /// Whether a comparison with a pointer makes sense, and tells nothing of its address: how far a pointer must be moved to come
    /// round is its address.
    fn comparable(&self, insn: Insn, cmp: Cmp, a: &Value, b: &Value) -> Result<(), Stop> {
        let equality = matches!(cmp, Cmp::Eq | Cmp::Ne);
        let ordered = !matches!(cmp, Cmp::Set | Cmp::SGt | Cmp::SGe | Cmp::SLt | Cmp::SLe);
        let fine = insn.class() == class::JMP
            && ordered
            && match (a.kind, b.kind) {
                (Kind::Window | Kind::WindowEnd, Kind::Window | Kind::WindowEnd) => stays(a) && stays(b),
                (Kind::Scalar, _) => equality && a.known() == Some(0) && stays(b),
                (_, Kind::Scalar) => equality && b.known() == Some(0) && stays(a),
                (Kind::Stack(_) | Kind::MapValue(_) | Kind::Record(_), _) => {
                    a.kind == b.kind && !a.nullable && !b.nullable && stays(a) && stays(b)
                }
                _ => false,
            };
        let (register, pointer) = if a.is_number() { (insn.src(), b) } else { (insn.dst(), a) };
        if fine {
            Ok(())
        } else {
            Err(self.refuse(Reason::PointerCompare { known: Known::of(register, pointer) }))
        }
    }

    /// Lets the state learn that the comparison holds, or that it doesn't. Returns whether that is possible.
    pub(crate) fn assume(
        &mut self,
        state: &mut State,
        slot: usize,
        insn: Insn,
        holds: bool,
    ) -> Result<bool, Stop> {
        let a = self.read(state, insn.dst())?;
        let b = self.operand(state, insn)?;
        let cmp = if holds { comparison(insn) } else { comparison(insn).opposite() };
        match (a.kind, b.kind) {
            (Kind::Scalar, Kind::Scalar) => Ok(self.assume_numbers(state, slot, insn, cmp, &a, &b)?),
            (Kind::Scalar, _) => Ok(assume_null(state, slot, cmp, &b)),
            (_, Kind::Scalar) => Ok(assume_null(state, slot, cmp, &a)),
            (Kind::Window | Kind::WindowEnd, _) => Ok(self.assume_places(state, slot, cmp, &a, &b)?),
            _ => Ok(may_compare(cmp, &a, &b)),
        }
    }

    #[inline(never)]
    fn assume_numbers(
        &mut self,
        state: &mut State,
        slot: usize,
        insn: Insn,
        cmp: Cmp,
        a: &Value,
        b: &Value,
    ) -> Result<bool, OutOfMemory> {
        let wide = insn.class() == class::JMP;
        let since = slot as u32;
        let learn = if wide { Scalar::learn } else { Scalar::learn32 };
        let (mut x, mut y) = (a.num, b.num);
        if learn(cmp, &mut x, &mut y).is_none() {
            return Ok(false);
        }
        if let Some((number, cmp, bound)) = wrap_check(cmp, a, b, wide) {
            // `x - c > x` asks whether `x < c`.
            let mut num = number.num;
            if Scalar::learn(cmp, &mut num, &mut Scalar::constant(bound)).is_none() {
                return Ok(false);
            }
            return state.learn(number, &num, since, self.memory);
        }
        let (a, b) = (Value { num: x, since, ..*a }, Value { num: y, since, ..*b });
        if self.tells_no_more(&a) {
            state.told.add(Told::NO_MORE_DATA);
        }
        if insn.opcode & source::X != 0 {
            if insn.dst() == insn.src() {
                return Ok(true);
            }
            self.bounded(state, insn.src(), &b);
        }
        self.bounded(state, insn.dst(), &a);
        if !state.learn(&a, &a.num, since, self.memory)? || !state.learn(&b, &b.num, since, self.memory)? {
            return Ok(false);
        }
        // Lower halves are ordered as the numbers are where these are no more than that, and have no sign there.
        let limit = if cmp.is_signed() { i32::MAX as u64 } else { u32::MAX.into() };
        let whole = wide || a.num.umax() <= limit && b.num.umax() <= limit;
        if cmp == Cmp::Eq && whole {
            self.relate(state, since, &a, &b, 0)?;
            self.relate(state, since, &b, &a, 0)?;
        } else if let Some((lower, upper, gap)) = ordered(cmp, &a, &b).filter(|_| whole) {
            self.relate(state, since, lower, upper, gap)?;
        } else if let (Cmp::Ne, true, Some((high, at)), Some((low, from))) =
            (cmp, whole, a.plain(), b.plain())
        {
            state.learn_relation(Relation { low, high, gap: from - at, differs: true }, self.memory)?;
        }
        Ok(true)
    }

    /// Whether the flag that no more data can be had is set, by what is known of a number.
    fn tells_no_more(&self, value: &Value) -> bool {
        let told = self.program.program_type.no_more_data();
        told.is_some_and(|(_, bit)| match (value.form, value.symbol, value.delta) {
            (Form::Plain, FLAGS, 0) => value.num.bits().value & u64::from(bit) != 0,
            (Form::Plain, NO_MORE_DATA, 0) => value.num.umin() > 0,
            _ => false,
        })
    }

    fn bounded(&self, state: &mut State, register: u8, value: &Value) {
        if state.reg(register).num != value.num {
            state.set(register, *value);
        }
    }

    /// `lower + gap <= upper`, read as numbers without sign: what reaches as far as `upper` reaches `lower` with more
    /// to spare.
    #[inline(never)]
    fn relate(
        &mut self,
        state: &mut State,
        since: u32,
        lower: &Value,
        upper: &Value,
        gap: i64,
    ) -> Result<(), OutOfMemory> {
        let Some((symbol, delta)) = lower.plain() else { return Ok(()) };
        if lower.num.smin() < 0 || upper.num.smin() < 0 || upper.num.smax() > NAMED_LIMIT {
            return Ok(());
        }
        if let Some((place, at)) = upper.remaining() {
            let fresh = self.fresh();
            let sum = state.sum(place, symbol, fresh, self.memory)?;
            state.learn_reach(sum, at + delta + gap, since, self.memory)?;
            return Ok(());
        }
        let Some((bound, bound_delta)) = upper.plain().filter(|(bound, _)| *bound != symbol) else {
            return Ok(());
        };
        if bound == 0 {
            return Ok(());
        }
        let distance = delta + gap - bound_delta;
        let relation = Relation { low: symbol, high: bound, gap: distance, differs: false };
        state.learn_relation(relation, self.memory)?;
        if let Some(bytes) = state.reach(bound) {
            state.learn_reach(symbol, bytes + distance, since, self.memory)?;
        }
        for index in 0..state.sums.len() {
            let Some(&sum) = state.sums.get(index) else { break };
            let Some(at) = sum.parts.iter().position(|part| *part == bound) else { continue };
            let Some(bytes) = state.reach(sum.sum) else { continue };
            let other = sum.parts[1 - at.min(1)];
            let fresh = self.fresh();
            let name = state.sum(other, symbol, fresh, self.memory)?;
            state.learn_reach(name, bytes + distance, since, self.memory)?;
        }
        Ok(())
    }

    /// Comparisons of places in the packet, or with its end.
    #[inline(never)]
    fn assume_places(
        &mut self,
        state: &mut State,
        slot: usize,
        cmp: Cmp,
        a: &Value,
        b: &Value,
    ) -> Result<bool, OutOfMemory> {
        match (a.kind, b.kind) {
            (Kind::Window, Kind::WindowEnd) => self.assume_end(state, slot, cmp, a, b),
            (Kind::WindowEnd, Kind::Window) => self.assume_end(state, slot, cmp.mirrored(), b, a),
            (Kind::Window, Kind::Window) => {
                let near = |value: &Value| value.num.smin() >= 0 && near(&value.num);
                if !near(a) || !near(b) {
                    return Ok(true);
                }
                let Some((x, y)) = Scalar::assume(cmp, &a.num, &b.num) else { return Ok(false) };
                let since = slot as u32;
                if !state.learn(a, &x, since, self.memory)? || !state.learn(b, &y, since, self.memory)? {
                    return Ok(false);
                }
                let (a, b) = (Value { num: x, ..*a }, Value { num: y, ..*b });
                if let Some((lower, upper, gap)) = ordered(cmp, &a, &b) {
                    self.relate(state, since, lower, upper, gap)?;
                }
                Ok(true)
            }
            _ => Ok(true),
        }
    }

    /// `place cmp end`.
    #[inline(never)]
    fn assume_end(
        &mut self,
        state: &mut State,
        slot: usize,
        cmp: Cmp,
        place: &Value,
        end: &Value,
    ) -> Result<bool, OutOfMemory> {
        // Neither the place nor what lies behind the end may be so far away that it came round.
        if !near(&place.num) || !near(&end.num) {
            return Ok(true);
        }
        let behind = end.num.value().unwrap_or(0) as i64;
        // The number of bytes for which `place + bytes <= end of what is shown` would be news.
        let at = place.delta - behind;
        let known = state.reach(place.symbol).map(|bytes| bytes - at);
        let furthest = MAX_WINDOW as i64 + behind;
        let gap = match cmp {
            Cmp::Lt => 1,
            Cmp::Le | Cmp::Eq => 0,
            // Not behind the end and not at it: before it.
            Cmp::Ne if known.is_some_and(|bytes| bytes >= 0) => 1,
            Cmp::Ne => return Ok(true),
            // The place lies at least so far behind the end.
            _ => {
                let beyond = i64::from(cmp == Cmp::Gt);
                return Ok(known.is_none_or(|bytes| bytes + beyond <= 0));
            }
        };
        if place.num.smin() > furthest - gap {
            return Ok(false);
        }
        state.learn_reach(place.symbol, at + gap, slot as u32, self.memory)?;
        let limit = Scalar::signed_between(i64::MIN, furthest - gap);
        let Some(num) = place.num.intersect(&limit) else { return Ok(false) };
        state.learn(place, &num, slot as u32, self.memory)
    }
}

/// A comparison of a number with itself and a step, which tells whether the step wraps: the number, and how it compares
/// with a bound. In 32 bits the number must fit.
fn wrap_check<'v>(cmp: Cmp, a: &'v Value, b: &'v Value, wide: bool) -> Option<(&'v Value, Cmp, u64)> {
    let whole = |value: &Value| value.form == Form::Plain && (wide || value.num.umax() <= u32::MAX.into());
    if a.symbol == 0 || a.symbol != b.symbol || a.form == Form::Remaining || b.form == Form::Remaining {
        return None;
    }
    // As `number - bound cmp number`.
    let (number, stepped, cmp) = match (whole(a), whole(b)) {
        (_, true) => (b, a, cmp),
        (true, false) => (a, b, cmp.mirrored()),
        _ => return None,
    };
    if wide && stepped.form != Form::Plain {
        return None;
    }
    let mask = if wide { u64::MAX } else { u32::MAX.into() };
    let bound = number.delta.wrapping_sub(stepped.delta) as u64 & mask;
    match cmp {
        _ if bound == 0 => None,
        Cmp::Gt | Cmp::Ge => Some((number, Cmp::Lt, bound)),
        Cmp::Lt | Cmp::Le => Some((number, Cmp::Ge, bound)),
        _ => None,
    }
}

/// Signed and unsigned order of addresses in one object are the same, and are the signed order of their offsets.
fn signed(cmp: Cmp) -> Cmp {
    match cmp {
        Cmp::Gt => Cmp::SGt,
        Cmp::Ge => Cmp::SGe,
        Cmp::Lt => Cmp::SLt,
        Cmp::Le => Cmp::SLe,
        same => same,
    }
}

/// No address of the stack, a map value or a record is so near to either end of the address space.
const OBJECT: i64 = 1 << 16;

/// Whether a pointer with this offset can't have left its object for the other end of the address space.
fn inside(num: &Scalar) -> bool {
    num.smin() >= -OBJECT && num.smax() <= OBJECT
}

/// Whether two pointers that are no packet pointers may compare so.
#[inline(never)]
fn may_compare(cmp: Cmp, a: &Value, b: &Value) -> bool {
    same_base(a, b).is_none_or(|(a, b)| Scalar::assume(signed(cmp), &a, &b).is_some())
}

/// The offsets of two pointers into one object, when they are in it and known to be in the same.
fn same_base(a: &Value, b: &Value) -> Option<(Scalar, Scalar)> {
    let same = match a.kind {
        Kind::Stack(_) => a.kind == b.kind,
        _ => a.kind == b.kind && a.symbol == b.symbol && a.symbol != 0,
    };
    (same && inside(&a.num) && inside(&b.num)).then_some((a.num, b.num))
}

#[inline(never)]
fn assume_null(state: &mut State, slot: usize, cmp: Cmp, pointer: &Value) -> bool {
    let null = cmp == Cmp::Eq;
    if pointer.nullable {
        state.learn_null(pointer.symbol, null, slot as u32);
        return true;
    }
    // A pointer is not null, unless it went so far that it came round.
    !null || !stays(pointer)
}

/// Whether a pointer can't have gone so far that it came round, and is no null therefore.
fn stays(pointer: &Value) -> bool {
    match pointer.kind {
        Kind::Window | Kind::WindowEnd => near(&pointer.num),
        // The lower half of an address may be zero.
        Kind::WindowLow | Kind::WindowEndLow => false,
        _ => inside(&pointer.num),
    }
}

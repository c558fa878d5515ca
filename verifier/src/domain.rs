//! What is known of a number: its bits, and its bounds as unsigned and signed, in full and in its lower half.
//!
//! Everything is written for a width of `W` bits with a half of `W / 2`, so that tests can hold every operation against
//! every operand of a narrow machine; programs are verified with 64.

mod num;
mod range;
mod tnum;

#[cfg(test)]
mod tests;

use tidegate_abi::insn::alu;

pub(crate) use num::{Cmp, Num};
pub(crate) use range::Range;
pub(crate) use tnum::Tnum;

/// All ones in the lowest `width` bits.
pub(crate) const fn ones(width: u32) -> u64 {
    if width >= 64 { u64::MAX } else { (1 << width) - 1 }
}

/// The lowest `width` bits of `value`, their sign extended.
pub(crate) const fn sign_extend(value: u64, width: u32) -> i64 {
    let shift = 64 - width;
    ((value << shift) as i64) >> shift
}

/// The lowest `width` bits of `value` in pieces of `byte` bits, the last piece first.
const fn swapped(value: u64, width: u32, byte: u32) -> u64 {
    let (mut result, mut at) = (0, 0);
    while at < width {
        result = result << byte | (value >> at & ones(byte));
        at += byte;
    }
    result
}

/// What is known of a number of `W` bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Scalar<const W: u32 = 64> {
    bits: Tnum,
    full: Range,
    umin32: u32,
    umax32: u32,
    smin32: i32,
    smax32: i32,
}

impl<const W: u32> Scalar<W> {
    const HALF: u32 = W / 2;

    /// Nothing is known.
    pub(crate) const UNKNOWN: Self = {
        let half = Range::unknown(Self::HALF);
        Self {
            bits: Tnum::unknown(W),
            full: Range::unknown(W),
            umin32: half.umin as u32,
            umax32: half.umax as u32,
            smin32: half.smin as i32,
            smax32: half.smax as i32,
        }
    };

    /// Exactly `value`.
    pub(crate) const fn constant(value: u64) -> Self {
        let half = Range::constant(value, Self::HALF);
        Self {
            bits: Tnum::constant(value, W),
            full: Range::constant(value, W),
            umin32: half.umin as u32,
            umax32: half.umax as u32,
            smin32: half.smin as i32,
            smax32: half.smax as i32,
        }
    }

    /// From `min` to `max`, unsigned.
    pub(crate) fn between(min: u64, max: u64) -> Self {
        Self::from_full(Num {
            bits: Tnum::unknown(W),
            range: Range { umin: min, umax: max, ..Range::unknown(W) },
        })
    }

    /// From `min` to `max`, signed.
    pub(crate) fn signed_between(min: i64, max: i64) -> Self {
        Self::from_full(Num {
            bits: Tnum::unknown(W),
            range: Range { smin: min, smax: max, ..Range::unknown(W) },
        })
    }

    /// Any number of `width` bits, the rest zero.
    pub(crate) fn of_width(width: u32) -> Self {
        Self::between(0, ones(width))
    }

    pub(crate) const fn bits(&self) -> Tnum {
        self.bits
    }

    pub(crate) const fn umin(&self) -> u64 {
        self.full.umin
    }

    pub(crate) const fn umax(&self) -> u64 {
        self.full.umax
    }

    pub(crate) const fn smin(&self) -> i64 {
        self.full.smin
    }

    pub(crate) const fn smax(&self) -> i64 {
        self.full.smax
    }

    /// The number, when only one is possible.
    pub(crate) const fn value(&self) -> Option<u64> {
        if self.full.umin == self.full.umax { Some(self.full.umin) } else { None }
    }

    /// Whether `value` is possible.
    #[cfg(any(test, feature = "claims"))]
    pub(crate) fn contains(&self, value: u64) -> bool {
        let value = value & ones(W);
        self.full().contains(value, W) && self.low().contains(value & ones(Self::HALF), Self::HALF)
    }

    /// Whether everything that is possible in `other` is possible here.
    pub(crate) fn covers(&self, other: &Self) -> bool {
        self.bits.covers(other.bits) && self.full.covers(&other.full) && self.half().covers(&other.half())
    }

    /// What is known of the whole number.
    pub(crate) const fn full(&self) -> Num {
        Num { bits: self.bits, range: self.full }
    }

    const fn half(&self) -> Range {
        Range {
            umin: self.umin32 as u64,
            umax: self.umax32 as u64,
            smin: self.smin32 as i64,
            smax: self.smax32 as i64,
        }
    }

    /// What is known of the lower half.
    pub(crate) const fn low(&self) -> Num {
        Num { bits: self.bits.truncate(Self::HALF), range: self.half() }
    }

    fn set_half(&mut self, half: Range) {
        (self.umin32, self.umax32) = (half.umin as u32, half.umax as u32);
        (self.smin32, self.smax32) = (half.smin as i32, half.smax as i32);
    }

    fn from_full(num: Num) -> Self {
        let mut this = Self::UNKNOWN;
        (this.bits, this.full) = (num.bits, num.range);
        this.settled()
    }

    /// The lower half, the rest zero.
    fn from_low(num: Num) -> Self {
        let mut this = Self::UNKNOWN;
        this.bits = num.bits;
        this.full = Range { umin: num.range.umin, umax: num.range.umax, ..Range::unknown(W) };
        this.set_half(num.range);
        this.settled()
    }

    /// What is known, settled; nothing when it contradicts itself.
    fn settled(mut self) -> Self {
        if self.settle().is_some() { self } else { Self::UNKNOWN }
    }

    /// Lets bits, bounds and widths learn from each other; `None` when they contradict, so that no number is left.
    #[inline(never)]
    fn settle(&mut self) -> Option<()> {
        for _ in 0..3 {
            let before = *self;
            let mut half = self.half();
            let mut low = self.bits.truncate(Self::HALF);
            // Within each width.
            self.full = self.full.with_bits(self.bits, W).deduce(W);
            half = half.with_bits(low, Self::HALF).deduce(Self::HALF);
            // From full to half: when the upper half can't change, the bounds' lower halves are bounds.
            let full = self.full;
            if full.is_empty() || half.is_empty() {
                return None;
            }
            if full.umin >> Self::HALF == full.umax >> Self::HALF {
                half.umin = half.umin.max(full.umin & ones(Self::HALF));
                half.umax = half.umax.min(full.umax & ones(Self::HALF));
            }
            let limits = Range::unknown(Self::HALF);
            if full.smin >= limits.smin && full.smax <= limits.smax {
                half.smin = half.smin.max(full.smin);
                half.smax = half.smax.min(full.smax);
                self.full.smin = full.smin.max(half.smin);
                self.full.smax = full.smax.min(half.smax);
            }
            // From half to full: an upper half no less than the bound's and a lower half no less than its own bound.
            let upper = !ones(Self::HALF);
            let full = &mut self.full;
            full.umin = full.umin.max(full.umin & upper | half.umin);
            full.umax = full.umax.min(full.umax & upper | half.umax);
            full.smin = full.smin.max(full.smin & upper as i64 | half.umin as i64);
            full.smax = full.smax.min(full.smax & upper as i64 | half.umax as i64);
            if full.is_empty() || half.is_empty() {
                return None;
            }
            self.bits = self.bits.intersect(Tnum::between(full.umin, full.umax))?;
            low = self.bits.truncate(Self::HALF).intersect(Tnum::between(half.umin, half.umax))?;
            self.bits = self.bits.with_low(low, Self::HALF);
            self.set_half(half);
            if *self == before {
                break;
            }
        }
        Some(())
    }

    /// What one or the other says.
    pub(crate) fn hull(&self, other: &Self) -> Self {
        let mut this = *self;
        this.bits = self.bits.hull(other.bits);
        this.full = self.full.hull(&other.full);
        this.set_half(self.half().hull(&other.half()));
        this.settled()
    }

    /// What both say; `None` when they contradict.
    pub(crate) fn intersect(&self, other: &Self) -> Option<Self> {
        let mut this = *self;
        this.bits = self.bits.intersect(other.bits)?;
        this.full = self.full.intersect(&other.full);
        this.set_half(self.half().intersect(&other.half()));
        this.settle()?;
        Some(this)
    }

    /// Arithmetic of RFC 9669 section 4.1; `signed` chooses between the two divisions. For what depends on the lower
    /// half only, that half is computed on its own too, and keeps its bounds when the whole overflows.
    pub(crate) fn alu(op: u8, signed: bool, a: &Self, b: &Self) -> Self {
        let full = Num::alu(op, signed, &a.full(), &b.full(), W);
        let mut this = Self::UNKNOWN;
        (this.bits, this.full) = (full.bits, full.range);
        if matches!(op, alu::ADD | alu::SUB | alu::MUL | alu::AND | alu::OR | alu::XOR | alu::NEG) {
            let low = Num::alu(op, signed, &a.low(), &b.low(), Self::HALF);
            this.set_half(low.range);
        }
        this.settled()
    }

    /// Arithmetic on the lower halves; the upper half of the result is zero.
    pub(crate) fn alu32(op: u8, signed: bool, a: &Self, b: &Self) -> Self {
        Self::from_low(Num::alu(op, signed, &a.low(), &b.low(), Self::HALF))
    }

    /// The lower half; the upper half of the result is zero.
    pub(crate) fn zero_extend32(&self) -> Self {
        Self::from_low(self.low())
    }

    /// The lowest `width` bits, the rest zero.
    pub(crate) fn zero_extend(&self, width: u32) -> Self {
        if self.full.umax <= ones(width) {
            return *self;
        }
        Self::from_full(Num { bits: self.bits.truncate(width), range: Range::unknown(W) })
    }

    /// The lowest `width` bits with their bytes in the other order, the rest zero. A byte is an eighth of the machine's width.
    pub(crate) fn swap_bytes(&self, width: u32) -> Self {
        let [value, mask] = [self.bits.value, self.bits.mask].map(|bits| swapped(bits, width, W / 8));
        Self::from_full(Num { bits: Tnum { value, mask }, range: Range::unknown(W) })
    }

    /// The lowest `width` bits, their sign extended.
    pub(crate) fn sign_extend(&self, width: u32) -> Self {
        if self.fits_signed(width) {
            return *self;
        }
        let limits = Range::unknown(width);
        if width == Self::HALF {
            let mut this = Self::UNKNOWN;
            this.full = Range { smin: self.smin32.into(), smax: self.smax32.into(), ..Range::unknown(W) };
            this.set_half(self.half());
            this.bits = Tnum::unknown(W).with_low(self.bits.truncate(width), width);
            return this.settled();
        }
        match self.bits.truncate(width).value() {
            Some(value) => Self::constant(sign_extend(value, width) as u64 & ones(W)),
            None => Self::signed_between(limits.smin, limits.smax),
        }
    }

    /// The lowest `width` bits, their sign extended to the lower half; the upper half of the result is zero.
    pub(crate) fn sign_extend_half(&self, width: u32) -> Self {
        let extended = self.sign_extend(width);
        Self::from_low(extended.low())
    }

    /// Whether the number is what its lowest `width` bits are when their sign is extended.
    pub(crate) fn fits_signed(&self, width: u32) -> bool {
        let limits = Range::unknown(width);
        self.full.smin >= limits.smin && self.full.smax <= limits.smax
    }

    /// The lower half, when only one is possible.
    pub(crate) fn low_value(&self) -> Option<u64> {
        self.bits.truncate(Self::HALF).value()
    }

    /// What is left of both after `a cmp b` was found true; `None` when it can't be.
    pub(crate) fn assume(cmp: Cmp, a: &Self, b: &Self) -> Option<(Self, Self)> {
        let (mut a, mut b) = (*a, *b);
        Self::learn(cmp, &mut a, &mut b)?;
        Some((a, b))
    }

    /// The same for a comparison of the lower halves.
    pub(crate) fn assume32(cmp: Cmp, a: &Self, b: &Self) -> Option<(Self, Self)> {
        let (mut a, mut b) = (*a, *b);
        Self::learn32(cmp, &mut a, &mut b)?;
        Some((a, b))
    }

    /// Leaves of both what is possible after `a cmp b` was found true; `None` when it can't be.
    #[inline(never)]
    pub(crate) fn learn(cmp: Cmp, a: &mut Self, b: &mut Self) -> Option<()> {
        let (mut x, mut y) = (a.full(), b.full());
        Num::assume(cmp, &mut x, &mut y, W)?;
        (a.bits, a.full) = (x.bits, x.range);
        (b.bits, b.full) = (y.bits, y.range);
        a.settle()?;
        b.settle()
    }

    /// The same for a comparison of the lower halves.
    #[inline(never)]
    pub(crate) fn learn32(cmp: Cmp, a: &mut Self, b: &mut Self) -> Option<()> {
        let (mut x, mut y) = (a.low(), b.low());
        Num::assume(cmp, &mut x, &mut y, Self::HALF)?;
        for (this, num) in [(&mut *a, x), (&mut *b, y)] {
            this.bits = this.bits.with_low(num.bits, Self::HALF);
            this.set_half(num.range);
        }
        a.settle()?;
        b.settle()
    }
}

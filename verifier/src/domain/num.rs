//! Arithmetic and comparisons on known bits and bounds of one width.

use tidegate_abi::insn::alu;

use super::{Range, Tnum, ones, sign_extend};

/// What is known of a number of one width: bits and bounds, not yet reconciled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Num {
    pub(crate) bits: Tnum,
    pub(crate) range: Range,
}

/// A comparison of RFC 9669 section 4.3 or the opposite of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cmp {
    Eq,
    Ne,
    Gt,
    Ge,
    Lt,
    Le,
    SGt,
    SGe,
    SLt,
    SLe,
    /// Some bit is set in both.
    Set,
    /// No bit is set in both.
    Clear,
}

impl Cmp {
    /// Whether it reads numbers as signed ones.
    pub(crate) const fn is_signed(self) -> bool {
        matches!(self, Self::SGt | Self::SGe | Self::SLt | Self::SLe)
    }

    /// What holds when this doesn't.
    pub(crate) const fn opposite(self) -> Self {
        match self {
            Self::Eq => Self::Ne,
            Self::Ne => Self::Eq,
            Self::Gt => Self::Le,
            Self::Ge => Self::Lt,
            Self::Lt => Self::Ge,
            Self::Le => Self::Gt,
            Self::SGt => Self::SLe,
            Self::SGe => Self::SLt,
            Self::SLt => Self::SGe,
            Self::SLe => Self::SGt,
            Self::Set => Self::Clear,
            Self::Clear => Self::Set,
        }
    }

    /// The comparison that holds with its sides exchanged.
    pub(crate) const fn mirrored(self) -> Self {
        match self {
            Self::Gt => Self::Lt,
            Self::Ge => Self::Le,
            Self::Lt => Self::Gt,
            Self::Le => Self::Ge,
            Self::SGt => Self::SLt,
            Self::SGe => Self::SLe,
            Self::SLt => Self::SGt,
            Self::SLe => Self::SGe,
            same => same,
        }
    }
}

impl Num {
    pub(crate) const fn unknown(width: u32) -> Self {
        Self { bits: Tnum::unknown(width), range: Range::unknown(width) }
    }

    pub(crate) const fn constant(value: u64, width: u32) -> Self {
        Self { bits: Tnum::constant(value, width), range: Range::constant(value, width) }
    }

    #[cfg(any(test, feature = "claims"))]
    pub(crate) fn contains(&self, value: u64, width: u32) -> bool {
        self.bits.contains(value) && self.range.contains(value, width)
    }

    const fn value(&self) -> Option<u64> {
        if self.range.umin == self.range.umax { Some(self.range.umin) } else { self.bits.value() }
    }

    const fn unsigned(min: u64, max: u64, width: u32) -> Self {
        let mut this = Self::unknown(width);
        (this.range.umin, this.range.umax) = (min, max);
        this
    }

    /// Signed bounds, when both fit.
    fn signed(min: i128, max: i128, width: u32) -> Self {
        let mut this = Self::unknown(width);
        if min >= this.range.smin.into() && max <= this.range.smax.into() {
            (this.range.smin, this.range.smax) = (min as i64, max as i64);
        }
        this
    }

    fn with_bits(mut self, bits: Tnum) -> Self {
        self.bits = bits;
        self
    }

    fn with_unsigned(mut self, min: u64, max: u64) -> Self {
        (self.range.umin, self.range.umax) = (min, max);
        self
    }

    /// `a op b` in `width` bits, as RFC 9669 section 4.1 defines it.
    pub(crate) fn alu(op: u8, signed: bool, a: &Self, b: &Self, width: u32) -> Self {
        match op {
            alu::ADD => Self::add(a, b, width),
            alu::SUB => Self::sub(a, b, width),
            alu::NEG => Self::sub(&Self::constant(0, width), a, width),
            alu::MUL => Self::mul(a, b, width),
            alu::DIV if signed => Self::signed_div(a, b, width),
            alu::MOD if signed => Self::signed_mod(a, b, width),
            alu::DIV => Self::div(a, b, width),
            alu::MOD => Self::modulo(a, b, width),
            alu::AND => {
                let most = a.range.umax.min(b.range.umax);
                Self::unsigned(0, most, width).with_bits(a.bits.and(b.bits))
            }
            alu::OR => {
                let least = a.range.umin.max(b.range.umin);
                Self::unsigned(least, ones(width), width).with_bits(a.bits.or(b.bits))
            }
            alu::XOR => Self::unknown(width).with_bits(a.bits.xor(b.bits)),
            alu::LSH | alu::RSH | alu::ARSH => Self::shift(op, a, b, width),
            alu::MOV => *b,
            _ => Self::unknown(width),
        }
    }

    fn add(a: &Self, b: &Self, width: u32) -> Self {
        let (a_range, b_range) = (a.range, b.range);
        let this = Self::signed(
            i128::from(a_range.smin) + i128::from(b_range.smin),
            i128::from(a_range.smax) + i128::from(b_range.smax),
            width,
        );
        let this = this.with_bits(a.bits.add(b.bits, width));
        let least = u128::from(a_range.umin) + u128::from(b_range.umin);
        let most = u128::from(a_range.umax) + u128::from(b_range.umax);
        // Bounds survive when no sum overflows, or when every sum does.
        if (least >> width) == (most >> width) {
            this.with_unsigned(least as u64 & ones(width), most as u64 & ones(width))
        } else {
            this
        }
    }

    fn sub(a: &Self, b: &Self, width: u32) -> Self {
        let (a_range, b_range) = (a.range, b.range);
        let this = Self::signed(
            i128::from(a_range.smin) - i128::from(b_range.smax),
            i128::from(a_range.smax) - i128::from(b_range.smin),
            width,
        );
        let this = this.with_bits(a.bits.sub(b.bits, width));
        let least = i128::from(a_range.umin) - i128::from(b_range.umax);
        let most = i128::from(a_range.umax) - i128::from(b_range.umin);
        if (least < 0) == (most < 0) {
            this.with_unsigned(least as u64 & ones(width), most as u64 & ones(width))
        } else {
            this
        }
    }

    fn mul(a: &Self, b: &Self, width: u32) -> Self {
        let product = |x: i64, y: i64| i128::from(x) * i128::from(y);
        let corners = [
            product(a.range.smin, b.range.smin),
            product(a.range.smin, b.range.smax),
            product(a.range.smax, b.range.smin),
            product(a.range.smax, b.range.smax),
        ];
        let least = corners.iter().copied().min().unwrap_or(i128::MIN);
        let most = corners.iter().copied().max().unwrap_or(i128::MAX);
        let this = Self::signed(least, most, width).with_bits(a.bits.mul(b.bits, width));
        let least = u128::from(a.range.umin) * u128::from(b.range.umin);
        let most = u128::from(a.range.umax) * u128::from(b.range.umax);
        if most <= ones(width).into() { this.with_unsigned(least as u64, most as u64) } else { this }
    }

    fn div(a: &Self, b: &Self, width: u32) -> Self {
        // Division by zero gives zero.
        let least = if b.range.umin == 0 { 0 } else { a.range.umin.checked_div(b.range.umax).unwrap_or(0) };
        let most = a.range.umax / b.range.umin.max(1);
        Self::unsigned(least, most, width)
    }

    fn modulo(a: &Self, b: &Self, width: u32) -> Self {
        // By zero, or by more than itself, a number stays what it is.
        if b.range.umax == 0 || b.range.umin > a.range.umax {
            return *a;
        }
        if let (Some(x), Some(y)) = (a.value(), b.value()) {
            return Self::constant(x.checked_rem(y).unwrap_or(x), width);
        }
        let most = if b.range.umin == 0 { a.range.umax } else { a.range.umax.min(b.range.umax - 1) };
        Self::unsigned(0, most, width)
    }

    fn signed_div(a: &Self, b: &Self, width: u32) -> Self {
        if let (Some(x), Some(y)) = (a.value(), b.value()) {
            let (x, y) = (sign_extend(x, width), sign_extend(y, width));
            let quotient = if y == 0 { 0 } else { x.wrapping_div(y) };
            return Self::constant(quotient as u64, width);
        }
        if b.range.smin <= 0 {
            return Self::unknown(width);
        }
        let quotient = |x: i64, y: i64| i128::from(x.checked_div(y).unwrap_or(0));
        let least = quotient(a.range.smin, b.range.smin).min(quotient(a.range.smin, b.range.smax));
        let most = quotient(a.range.smax, b.range.smin).max(quotient(a.range.smax, b.range.smax));
        Self::signed(least, most, width)
    }

    fn signed_mod(a: &Self, b: &Self, width: u32) -> Self {
        if let (Some(x), Some(y)) = (a.value(), b.value()) {
            let (x, y) = (sign_extend(x, width), sign_extend(y, width));
            let rest = if y == 0 { x } else { x.wrapping_rem(y) };
            return Self::constant(rest as u64, width);
        }
        if b.range.smin <= 0 {
            return Self::unknown(width);
        }
        // The rest has the sign of the dividend and is smaller than the divisor.
        let limit = b.range.smax - 1;
        Self::signed(a.range.smin.min(0).max(-limit).into(), a.range.smax.max(0).min(limit).into(), width)
    }

    fn shift(op: u8, a: &Self, b: &Self, width: u32) -> Self {
        // Only the lowest bits of the amount count.
        let (least, most) = match b.value() {
            Some(amount) => (amount & u64::from(width - 1), amount & u64::from(width - 1)),
            None if b.range.umax < width.into() => (b.range.umin, b.range.umax),
            None => (0, u64::from(width - 1)),
        };
        let (least, most) = (least as u32, most as u32);
        let bits = |bits: Tnum| if least == most { bits } else { Tnum::unknown(width) };
        let Range { umin, umax, smin, smax } = a.range;
        match op {
            alu::LSH => {
                let this = Self::unknown(width).with_bits(bits(a.bits.shl(least, width)));
                let top = u128::from(umax) << most;
                if top <= ones(width).into() { this.with_unsigned(umin << least, top as u64) } else { this }
            }
            alu::RSH => Self::unsigned(umin >> most, umax >> least, width).with_bits(bits(a.bits.shr(least))),
            _ => {
                let low = (smin >> least).min(smin >> most);
                let high = (smax >> least).max(smax >> most);
                let value = sign_extend(a.bits.value, width) >> least;
                let mask = sign_extend(a.bits.mask, width) >> least;
                let shifted = Tnum { value: value as u64, mask: mask as u64 }.truncate(width);
                Self::signed(low.into(), high.into(), width).with_bits(bits(shifted))
            }
        }
    }

    /// Leaves of `a` and `b` what is possible after `a cmp b` was found true; `None` when it can't be.
    #[inline(never)]
    pub(crate) fn assume(cmp: Cmp, a: &mut Self, b: &mut Self, width: u32) -> Option<()> {
        let (cmp, a, b) = match cmp {
            Cmp::Lt | Cmp::Le | Cmp::SLt | Cmp::SLe => (cmp.mirrored(), b, a),
            _ => (cmp, a, b),
        };
        match cmp {
            Cmp::Eq => {
                a.bits = a.bits.intersect(b.bits)?;
                a.range = a.range.intersect(&b.range);
                *b = *a;
            }
            Cmp::Ne => {
                let (x, y) = (a.value(), b.value());
                if x.is_some() && x == y {
                    return None;
                }
                if let Some(value) = y {
                    a.range = a.range.without(value, width);
                }
                if let Some(value) = x {
                    b.range = b.range.without(value, width);
                }
            }
            Cmp::Gt | Cmp::Lt => {
                a.range.umin = a.range.umin.max(b.range.umin.checked_add(1)?);
                b.range.umax = b.range.umax.min(a.range.umax.checked_sub(1)?);
            }
            Cmp::Ge | Cmp::Le => {
                a.range.umin = a.range.umin.max(b.range.umin);
                b.range.umax = b.range.umax.min(a.range.umax);
            }
            Cmp::SGt | Cmp::SLt => {
                a.range.smin = a.range.smin.max(b.range.smin.checked_add(1)?);
                b.range.smax = b.range.smax.min(a.range.smax.checked_sub(1)?);
            }
            Cmp::SGe | Cmp::SLe => {
                a.range.smin = a.range.smin.max(b.range.smin);
                b.range.smax = b.range.smax.min(a.range.smax);
            }
            Cmp::Set => {
                let bits = set_in(a.bits, b.bits)?;
                b.bits = set_in(b.bits, a.bits)?;
                a.bits = bits;
            }
            Cmp::Clear => {
                let bits = clear_in(a.bits, b.bits)?;
                b.bits = clear_in(b.bits, a.bits)?;
                a.bits = bits;
            }
        }
        (!a.range.is_empty() && !b.range.is_empty()).then_some(())
    }
}

/// The bits of a number that shares a set bit with `other`.
fn set_in(bits: Tnum, other: Tnum) -> Option<Tnum> {
    let possible = (bits.value | bits.mask) & (other.value | other.mask);
    if possible == 0 {
        return None;
    }
    // Only one bit can be the shared one: then it is set.
    let set = if possible.is_power_of_two() { possible } else { 0 };
    Some(Tnum { value: bits.value | set, mask: bits.mask & !set })
}

/// The bits of a number that shares no set bit with `other`.
fn clear_in(bits: Tnum, other: Tnum) -> Option<Tnum> {
    if bits.value & other.value != 0 { None } else { Some(Tnum { mask: bits.mask & !other.value, ..bits }) }
}

impl Range {
    /// Without one value, when it is a bound.
    fn without(mut self, value: u64, width: u32) -> Self {
        let signed = sign_extend(value, width);
        if self.umin == value {
            self.umin = self.umin.saturating_add(1);
        } else if self.umax == value {
            self.umax = self.umax.saturating_sub(1);
        }
        if self.smin == signed {
            self.smin = self.smin.saturating_add(1);
        } else if self.smax == signed {
            self.smax = self.smax.saturating_sub(1);
        }
        self
    }
}

//! Bounds of a number, unsigned and signed.

use super::{Tnum, ones, sign_extend};

/// Least and most, both included, of the same bits read unsigned and read signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Range {
    pub(crate) umin: u64,
    pub(crate) umax: u64,
    pub(crate) smin: i64,
    pub(crate) smax: i64,
}

impl Range {
    pub(crate) const fn unknown(width: u32) -> Self {
        let top = ones(width) >> 1;
        Self { umin: 0, umax: ones(width), smin: -(top as i64) - 1, smax: top as i64 }
    }

    pub(crate) const fn constant(value: u64, width: u32) -> Self {
        let (unsigned, signed) = (value & ones(width), sign_extend(value, width));
        Self { umin: unsigned, umax: unsigned, smin: signed, smax: signed }
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.umin > self.umax || self.smin > self.smax
    }

    #[cfg(any(test, feature = "claims"))]
    pub(crate) const fn contains(&self, value: u64, width: u32) -> bool {
        let signed = sign_extend(value, width);
        self.umin <= value && value <= self.umax && self.smin <= signed && signed <= self.smax
    }

    pub(crate) const fn covers(&self, other: &Self) -> bool {
        self.umin <= other.umin
            && other.umax <= self.umax
            && self.smin <= other.smin
            && other.smax <= self.smax
    }

    pub(crate) fn intersect(&self, other: &Self) -> Self {
        Self {
            umin: self.umin.max(other.umin),
            umax: self.umax.min(other.umax),
            smin: self.smin.max(other.smin),
            smax: self.smax.min(other.smax),
        }
    }

    pub(crate) fn hull(&self, other: &Self) -> Self {
        Self {
            umin: self.umin.min(other.umin),
            umax: self.umax.max(other.umax),
            smin: self.smin.min(other.smin),
            smax: self.smax.max(other.smax),
        }
    }

    /// Tightened by known bits.
    pub(crate) fn with_bits(&self, bits: Tnum, width: u32) -> Self {
        let sign = ones(width) ^ ones(width) >> 1;
        let least = bits.value | bits.mask & sign;
        let most = bits.value | bits.mask & !sign;
        self.intersect(&Self {
            umin: bits.value,
            umax: bits.value | bits.mask,
            smin: sign_extend(least, width),
            smax: sign_extend(most, width),
        })
    }

    /// Tightened by each other: on either side of the sign, unsigned and signed order agree.
    pub(crate) fn deduce(&self, width: u32) -> Self {
        let mut this = *self;
        if this.is_empty() {
            return this;
        }
        let (low, high) = (sign_extend(this.umin, width), sign_extend(this.umax, width));
        if low <= high {
            this.smin = this.smin.max(low);
            this.smax = this.smax.min(high);
        }
        if (this.smin < 0) == (this.smax < 0) {
            this.umin = this.umin.max(this.smin as u64 & ones(width));
            this.umax = this.umax.min(this.smax as u64 & ones(width));
        }
        this
    }
}

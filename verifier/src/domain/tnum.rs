//! Known bits: a value for those that are known, and a mask of those that are not.

use super::ones;

/// Bits of a number. Where `mask` is set the bit may be either, elsewhere it is that of `value`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Tnum {
    pub(crate) value: u64,
    pub(crate) mask: u64,
}

impl Tnum {
    pub(crate) const fn unknown(width: u32) -> Self {
        Self { value: 0, mask: ones(width) }
    }

    pub(crate) const fn constant(value: u64, width: u32) -> Self {
        Self { value: value & ones(width), mask: 0 }
    }

    /// The bits that every number from `min` to `max` shares: those above the highest where the two differ.
    pub(crate) const fn between(min: u64, max: u64) -> Self {
        let mask = ones(64 - (min ^ max).leading_zeros());
        Self { value: min & !mask, mask }
    }

    pub(crate) const fn value(self) -> Option<u64> {
        if self.mask == 0 { Some(self.value) } else { None }
    }

    #[cfg(any(test, feature = "claims"))]
    pub(crate) const fn contains(self, value: u64) -> bool {
        value & !self.mask == self.value
    }

    pub(crate) const fn covers(self, other: Self) -> bool {
        other.mask & !self.mask == 0 && other.value & !self.mask == self.value
    }

    /// What both say; `None` when they contradict.
    pub(crate) const fn intersect(self, other: Self) -> Option<Self> {
        let mask = self.mask & other.mask;
        if (self.value ^ other.value) & !self.mask & !other.mask != 0 {
            return None;
        }
        Some(Self { value: (self.value | other.value) & !mask, mask })
    }

    /// What one or the other says.
    pub(crate) const fn hull(self, other: Self) -> Self {
        let mask = self.mask | other.mask | self.value ^ other.value;
        Self { value: self.value & !mask, mask }
    }

    pub(crate) const fn truncate(self, width: u32) -> Self {
        Self { value: self.value & ones(width), mask: self.mask & ones(width) }
    }

    /// These bits with the lowest `width` replaced.
    pub(crate) const fn with_low(self, low: Self, width: u32) -> Self {
        let upper = !ones(width);
        Self { value: self.value & upper | low.value, mask: self.mask & upper | low.mask }
    }

    /// Carries spread uncertainty: a bit is unknown where the largest and the smallest sum differ.
    pub(crate) const fn add(self, other: Self, width: u32) -> Self {
        let least = self.value.wrapping_add(other.value);
        let most = least.wrapping_add(self.mask.wrapping_add(other.mask));
        let mask = (least ^ most) | self.mask | other.mask;
        Self { value: least & !mask, mask }.truncate(width)
    }

    /// Borrows spread uncertainty the same way.
    pub(crate) const fn sub(self, other: Self, width: u32) -> Self {
        let middle = self.value.wrapping_sub(other.value);
        let most = middle.wrapping_add(self.mask);
        let least = middle.wrapping_sub(other.mask);
        let mask = (least ^ most) | self.mask | other.mask;
        Self { value: middle & !mask, mask }.truncate(width)
    }

    pub(crate) const fn and(self, other: Self) -> Self {
        let (a, b) = (self.value | self.mask, other.value | other.mask);
        let value = self.value & other.value;
        Self { value, mask: a & b & !value }
    }

    pub(crate) const fn or(self, other: Self) -> Self {
        let value = self.value | other.value;
        Self { value, mask: (self.mask | other.mask) & !value }
    }

    pub(crate) const fn xor(self, other: Self) -> Self {
        let mask = self.mask | other.mask;
        Self { value: (self.value ^ other.value) & !mask, mask }
    }

    pub(crate) const fn shl(self, by: u32, width: u32) -> Self {
        Self { value: self.value << by, mask: self.mask << by }.truncate(width)
    }

    pub(crate) const fn shr(self, by: u32) -> Self {
        Self { value: self.value >> by, mask: self.mask >> by }
    }

    /// Long multiplication: the product of the known parts, and for each bit what the unknown parts may add.
    pub(crate) const fn mul(self, other: Self, width: u32) -> Self {
        let (mut a, mut b) = (self, other);
        let mut unknown = Self { value: 0, mask: 0 };
        while a.value | a.mask != 0 {
            if a.value & 1 != 0 {
                unknown = unknown.add(Self { value: 0, mask: b.mask }, 64);
            } else if a.mask & 1 != 0 {
                unknown = unknown.add(Self { value: 0, mask: b.value | b.mask }, 64);
            }
            a = a.shr(1);
            b = b.shl(1, 64);
        }
        let known = Self { value: self.value.wrapping_mul(other.value), mask: 0 };
        known.add(unknown, width)
    }
}

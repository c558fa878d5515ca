//! Arithmetic and comparisons of RFC 9669 sections 4.1 and 4.3, once for both widths.

/// A 64-bit register, or the low half of one.
pub(crate) trait Word: Copy {
    fn add(self, other: Self) -> Self;
    fn sub(self, other: Self) -> Self;
    fn mul(self, other: Self) -> Self;
    /// Unsigned; by zero gives zero.
    fn div(self, other: Self) -> Self;
    /// Signed, towards zero; by zero gives zero, and the least number by -1 itself.
    fn sdiv(self, other: Self) -> Self;
    /// Unsigned; by zero leaves the dividend.
    fn rem(self, other: Self) -> Self;
    /// Signed, with the sign of the dividend; by zero leaves the dividend, by -1 gives zero.
    fn srem(self, other: Self) -> Self;
    fn or(self, other: Self) -> Self;
    fn and(self, other: Self) -> Self;
    fn xor(self, other: Self) -> Self;
    /// Shifts take their count modulo the width.
    fn lsh(self, count: Self) -> Self;
    fn rsh(self, count: Self) -> Self;
    fn arsh(self, count: Self) -> Self;
    fn mov(self, other: Self) -> Self;
    fn neg(self) -> Self;

    fn eq(self, other: Self) -> bool;
    fn ne(self, other: Self) -> bool;
    fn gt(self, other: Self) -> bool;
    fn ge(self, other: Self) -> bool;
    fn lt(self, other: Self) -> bool;
    fn le(self, other: Self) -> bool;
    fn set(self, other: Self) -> bool;
    fn sgt(self, other: Self) -> bool;
    fn sge(self, other: Self) -> bool;
    fn slt(self, other: Self) -> bool;
    fn sle(self, other: Self) -> bool;
}

macro_rules! word {
    ($unsigned:ty, $signed:ty) => {
        impl Word for $unsigned {
            #[inline(always)]
            fn add(self, other: Self) -> Self {
                self.wrapping_add(other)
            }
            #[inline(always)]
            fn sub(self, other: Self) -> Self {
                self.wrapping_sub(other)
            }
            #[inline(always)]
            fn mul(self, other: Self) -> Self {
                self.wrapping_mul(other)
            }
            #[inline(always)]
            fn div(self, other: Self) -> Self {
                self.checked_div(other).unwrap_or(0)
            }
            #[inline(always)]
            fn sdiv(self, other: Self) -> Self {
                if other == 0 { 0 } else { (self as $signed).wrapping_div(other as $signed) as Self }
            }
            #[inline(always)]
            fn rem(self, other: Self) -> Self {
                self.checked_rem(other).unwrap_or(self)
            }
            #[inline(always)]
            fn srem(self, other: Self) -> Self {
                if other == 0 { self } else { (self as $signed).wrapping_rem(other as $signed) as Self }
            }
            #[inline(always)]
            fn or(self, other: Self) -> Self {
                self | other
            }
            #[inline(always)]
            fn and(self, other: Self) -> Self {
                self & other
            }
            #[inline(always)]
            fn xor(self, other: Self) -> Self {
                self ^ other
            }
            #[inline(always)]
            fn lsh(self, count: Self) -> Self {
                self.wrapping_shl(count as u32)
            }
            #[inline(always)]
            fn rsh(self, count: Self) -> Self {
                self.wrapping_shr(count as u32)
            }
            #[inline(always)]
            fn arsh(self, count: Self) -> Self {
                (self as $signed).wrapping_shr(count as u32) as Self
            }
            #[inline(always)]
            fn mov(self, other: Self) -> Self {
                other
            }
            #[inline(always)]
            fn neg(self) -> Self {
                self.wrapping_neg()
            }
            #[inline(always)]
            fn eq(self, other: Self) -> bool {
                self == other
            }
            #[inline(always)]
            fn ne(self, other: Self) -> bool {
                self != other
            }
            #[inline(always)]
            fn gt(self, other: Self) -> bool {
                self > other
            }
            #[inline(always)]
            fn ge(self, other: Self) -> bool {
                self >= other
            }
            #[inline(always)]
            fn lt(self, other: Self) -> bool {
                self < other
            }
            #[inline(always)]
            fn le(self, other: Self) -> bool {
                self <= other
            }
            #[inline(always)]
            fn set(self, other: Self) -> bool {
                self & other != 0
            }
            #[inline(always)]
            fn sgt(self, other: Self) -> bool {
                self as $signed > other as $signed
            }
            #[inline(always)]
            fn sge(self, other: Self) -> bool {
                self as $signed >= other as $signed
            }
            #[inline(always)]
            fn slt(self, other: Self) -> bool {
                (self as $signed) < other as $signed
            }
            #[inline(always)]
            fn sle(self, other: Self) -> bool {
                self as $signed <= other as $signed
            }
        }
    };
}

word!(u64, i64);
word!(u32, i32);

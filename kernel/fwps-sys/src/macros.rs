//! The two shapes of a constant family: a set of bits and a list of values.

/// Prints the names of a family's members where a number would say nothing.
macro_rules! flags {
    ($(#[$doc:meta])* $name:ident: $repr:ty { $($member:ident = $value:expr,)* }) => {
        $(#[$doc])*
        #[repr(transparent)]
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
        pub struct $name(pub $repr);

        impl $name {
            $(pub const $member: Self = Self($value);)*

            /// No bit at all.
            pub const NONE: Self = Self(0);

            /// True when every bit of `wanted` is set.
            pub const fn has(self, wanted: Self) -> bool {
                self.0 & wanted.0 == wanted.0
            }

            /// True when at least one bit of `wanted` is set.
            pub const fn has_any(self, wanted: Self) -> bool {
                self.0 & wanted.0 != 0
            }

            /// These bits without those of `other`.
            #[must_use]
            pub const fn without(self, other: Self) -> Self {
                Self(self.0 & !other.0)
            }

            /// These bits and those of `other`; `|` for constants.
            #[must_use]
            pub const fn with(self, other: Self) -> Self {
                Self(self.0 | other.0)
            }
        }

        impl core::ops::BitOr for $name {
            type Output = Self;
            fn bitor(self, other: Self) -> Self {
                Self(self.0 | other.0)
            }
        }

        impl core::ops::BitOrAssign for $name {
            fn bitor_assign(&mut self, other: Self) {
                self.0 |= other.0;
            }
        }

        impl core::ops::BitAnd for $name {
            type Output = Self;
            fn bitand(self, other: Self) -> Self {
                Self(self.0 & other.0)
            }
        }

        impl core::fmt::Debug for $name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                let mut rest = self.0;
                let mut between = "";
                $(if rest & $value == $value {
                    write!(f, "{between}{}", stringify!($member))?;
                    rest &= !$value;
                    between = "|";
                })*
                if rest != 0 || between.is_empty() { write!(f, "{between}{rest:#x}") } else { Ok(()) }
            }
        }
    };
}

/// A number that the system writes, with the names it had when this was written.
macro_rules! values {
    ($(#[$doc:meta])* $name:ident: $repr:ty { $($member:ident = $value:expr,)* }) => {
        $(#[$doc])*
        #[repr(transparent)]
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
        pub struct $name(pub $repr);

        impl $name {
            $(pub const $member: Self = Self($value);)*
        }

        impl core::fmt::Debug for $name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                match *self {
                    $(Self::$member => f.write_str(stringify!($member)),)*
                    Self(other) => write!(f, "{other:#x}"),
                }
            }
        }
    };
}

pub(crate) use {flags, values};

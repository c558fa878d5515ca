//! What a register or a piece of stack holds: a number, or a pointer with what it points into.

use crate::domain::Scalar;

/// A name for a number that is not known, so that equal numbers are known to be equal. 0 names the number zero.
pub(crate) type Symbol = u32;

/// The first of the symbols that name what a loop's round started with; see [`crate::rounds`].
pub(crate) const ANCHOR: Symbol = 1 << 31;

/// Names the flags of the context.
pub(crate) const FLAGS: Symbol = ANCHOR - 1;
/// Names the one of them that tells that no more data can be had, as a number of flags.
pub(crate) const NO_MORE_DATA: Symbol = ANCHOR - 2;

/// Whether the symbol names the same number in every state that is compared: what is read again bears it again, so that it tells
/// something even where one value bears it alone. What a round started with is one number for all of its paths: the bound of
/// the loop rests on how far values are from it, whether they bear its name or only a sum tells.
pub(crate) const fn is_fixed(symbol: Symbol) -> bool {
    matches!(symbol, FLAGS | NO_MORE_DATA) || ANCHOR <= symbol && symbol < ANY
}

/// Stands for any symbol, in a kept state whose pointer shares its symbol with nothing.
pub(crate) const ANY: Symbol = u32::MAX;

/// Offsets and differences beyond this lose their names: sums of what is below can't wrap.
pub(crate) const NAMED_LIMIT: i64 = 1 << 40;

/// A packet pointer further than this from the first byte could wrap around the address space; see
/// [`crate::WINDOW_ADDRESSES`].
pub(crate) const WINDOW_LIMIT: i64 = 1 << 33;

/// What a value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    /// Nothing that may be read.
    Nothing,
    /// A resource that was given back.
    Released,
    /// A number.
    Scalar,
    /// The context, `num` bytes behind its start.
    Context,
    /// `num` bytes behind the first byte shown.
    Window,
    /// `num` bytes behind the end of what is shown.
    WindowEnd,
    /// The lower half of the address of a `Window` place: compilers subtract addresses in 32 bits when they need no more.
    WindowLow,
    /// The lower half of the address of a `WindowEnd` place.
    WindowEndLow,
    /// `num` bytes behind the frame pointer of a frame.
    Stack(u8),
    /// `num` bytes into a value of a map.
    MapValue(u8),
    /// A map itself.
    Map(u8),
    /// `num` bytes into a ring buffer's record of this size.
    Record(u32),
    /// A clone.
    Clone,
    /// A function of the program, by its start slot.
    Code(u32),
}

impl Kind {
    pub(crate) const fn is_pointer(self) -> bool {
        !matches!(self, Self::Nothing | Self::Released | Self::Scalar)
    }

    /// The kind of a packet pointer's lower half.
    pub(crate) const fn low(self) -> Option<Self> {
        match self {
            Self::Window | Self::WindowLow => Some(Self::WindowLow),
            Self::WindowEnd | Self::WindowEndLow => Some(Self::WindowEndLow),
            _ => None,
        }
    }

    /// The kind of the pointer that this is the lower half of, and any other kind as it is.
    pub(crate) const fn whole(self) -> Self {
        match self {
            Self::WindowLow => Self::Window,
            Self::WindowEndLow => Self::WindowEnd,
            other => other,
        }
    }

    pub(crate) const fn is_readable(self) -> bool {
        !matches!(self, Self::Nothing | Self::Released)
    }
}

/// How a number relates to its symbol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Form {
    /// The symbol's number plus `delta`.
    Plain,
    /// The lower half of the symbol's number plus `delta`: a sum in 32 bits that may have wrapped.
    Low,
    /// Bytes shown behind the place `symbol + delta`: `data_end - data - symbol - delta`.
    Remaining,
}

/// What a register or a piece of stack holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Value {
    pub(crate) kind: Kind,
    /// A pointer that may be null.
    pub(crate) nullable: bool,
    pub(crate) form: Form,
    /// Of a number or a packet pointer: the name in its form. Of a map value, a record or a clone: its identity.
    pub(crate) symbol: Symbol,
    /// See [`Form`]; of a pointer with an origin, its distance from that.
    pub(crate) delta: i64,
    /// Of a pointer that is no packet pointer: names where it was when a round of a loop started, or 0.
    pub(crate) origin: Symbol,
    /// The number, or the distance of a pointer from its base.
    pub(crate) num: Scalar,
    /// Slot that set or bounded it last.
    pub(crate) since: u32,
}

impl Value {
    pub(crate) const NOTHING: Self = Self {
        kind: Kind::Nothing,
        nullable: false,
        form: Form::Plain,
        symbol: 0,
        delta: 0,
        origin: 0,
        num: Scalar::UNKNOWN,
        since: 0,
    };

    pub(crate) const fn number(num: Scalar) -> Self {
        Self { kind: Kind::Scalar, num, ..Self::NOTHING }
    }

    pub(crate) const fn constant(value: u64) -> Self {
        Self::number(Scalar::constant(value))
    }

    /// A pointer to the start of `kind`.
    pub(crate) const fn pointer(kind: Kind) -> Self {
        Self { kind, num: Scalar::constant(0), ..Self::NOTHING }
    }

    pub(crate) fn is_number(&self) -> bool {
        self.kind == Kind::Scalar
    }

    /// The number, when it is one and known.
    pub(crate) fn known(&self) -> Option<u64> {
        if self.is_number() { self.num.value() } else { None }
    }

    /// Symbol and distance of a number or a packet pointer in plain form.
    pub(crate) fn plain(&self) -> Option<(Symbol, i64)> {
        match self.kind {
            Kind::Window => Some((self.symbol, self.delta)),
            Kind::Scalar => match self.num.value() {
                Some(value) => {
                    Some((0, value as i64)).filter(|(_, value)| value.abs_diff(0) <= NAMED_LIMIT as u64)
                }
                None if self.form != Form::Plain || self.symbol == 0 => None,
                None => Some((self.symbol, self.delta)),
            },
            _ => None,
        }
    }

    /// Place of a number of bytes that remain.
    pub(crate) fn remaining(&self) -> Option<(Symbol, i64)> {
        (self.is_number() && self.form == Form::Remaining).then_some((self.symbol, self.delta))
    }

    /// The symbol that names what a round of a loop started with, if the value has one.
    pub(crate) fn anchor(&self) -> Option<Symbol> {
        let symbol = if self.origin != 0 { self.origin } else { self.symbol };
        (ANCHOR..ANY).contains(&symbol).then_some(symbol)
    }

    /// Another name for the number.
    pub(crate) fn named(mut self, symbol: Symbol) -> Self {
        (self.form, self.symbol, self.delta) = (Form::Plain, symbol, 0);
        self
    }
}

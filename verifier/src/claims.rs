//! What the verifier claims of a run at each instruction, told to whoever holds it against real runs. For tests and
//! fuzzing: the kernel's build has none of it.

use alloc::vec::Vec;

use tidegate_abi::insn::REGISTERS;
use tidegate_abi::limits::{STACK_FRAME, STACK_SIZE};

use crate::domain::Scalar;
use crate::state::State;
use crate::value::{ANY, Form, Kind, Value};

/// Is told every claim of a verification.
pub trait Watch {
    /// The walk starts anew: what was claimed before counts no more.
    fn restart(&mut self);
    /// A run that comes to the instruction at `slot` is in a state as claimed, or as in another claim at this slot.
    fn claimed(&mut self, slot: usize, claim: Claim);
}

/// A set of states of the machine.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Claim {
    /// Where each called function returns to.
    pub returns: Vec<u32>,
    /// What is known of registers and of the stack; of others nothing is.
    pub values: Vec<(Place, Claimed)>,
    /// The named number plus so many is at most the number of bytes shown, both signed.
    pub reaches: Vec<(u32, i64)>,
    /// The third named number is the sum of the others.
    pub sums: Vec<[u32; 3]>,
    /// Of two named numbers, how the second minus the first, signed, compares with a third: at least that, or never that.
    pub relations: Vec<([u32; 2], i64, bool)>,
    /// Resources that are held at most.
    pub held: usize,
}

/// Where a value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    /// In a register.
    Register(u8),
    /// On the stack: frame, distance from its frame pointer, bytes.
    Stack(u8, i16, u16),
    /// In a register of a caller, by frame.
    Saved(u8, u8),
}

/// What a value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the kinds of value.rs")]
pub enum What {
    Number,
    Context,
    Window,
    WindowEnd,
    WindowLow,
    WindowEndLow,
    Stack(u8),
    MapValue(u8),
    Map(u8),
    Record(u32),
    Clone,
    Code(u32),
}

/// The name of a number or of a place in the window: relates those with one name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Name {
    /// It has none.
    None,
    /// The named number plus this. 0 is the name of the number 0.
    Plain(u32, i64),
    /// The lower half of that.
    Low(u32, i64),
    /// The bytes shown, less that.
    Remaining(u32, i64),
}

/// What is known of one value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Claimed {
    /// What it is.
    pub what: What,
    /// Or null.
    pub nullable: bool,
    /// Its name.
    pub name: Name,
    num: Scalar,
}

impl Claimed {
    /// Whether the number, or the distance from what a pointer points to, may be `value`.
    pub fn contains(&self, value: u64) -> bool {
        self.num.contains(value)
    }

    fn of(value: &Value) -> Option<Self> {
        let what = match value.kind {
            Kind::Nothing | Kind::Released => return None,
            Kind::Scalar => What::Number,
            Kind::Context => What::Context,
            Kind::Window => What::Window,
            Kind::WindowEnd => What::WindowEnd,
            Kind::WindowLow => What::WindowLow,
            Kind::WindowEndLow => What::WindowEndLow,
            Kind::Stack(frame) => What::Stack(frame),
            Kind::MapValue(map) => What::MapValue(map),
            Kind::Map(map) => What::Map(map),
            Kind::Record(size) => What::Record(size),
            Kind::Clone => What::Clone,
            Kind::Code(slot) => What::Code(slot),
        };
        let (symbol, delta) = (value.symbol, value.delta);
        let name = match (value.kind, value.form) {
            (_, _) if symbol == ANY => Name::None,
            (Kind::Scalar, Form::Remaining) => Name::Remaining(symbol, delta),
            (Kind::Scalar, Form::Low) if symbol != 0 => Name::Low(symbol, delta),
            (Kind::Scalar, Form::Plain) if symbol != 0 => Name::Plain(symbol, delta),
            (Kind::Window, _) => Name::Plain(symbol, delta),
            (Kind::WindowLow, _) => Name::Low(symbol, delta),
            _ => Name::None,
        };
        Some(Self { what, nullable: value.nullable, name, num: value.num })
    }
}

impl Claim {
    pub(crate) fn of(state: &State) -> Self {
        let registers = (0..REGISTERS as u8).map(|register| (Place::Register(register), state.reg(register)));
        let entries = state.entries.iter().map(|entry| {
            let at = usize::from(entry.at);
            let place = match at.checked_sub(STACK_SIZE) {
                Some(saved) => Place::Saved((saved / 16) as u8, (saved % 16) as u8),
                None => {
                    let (frame, byte) = (at / STACK_FRAME, at % STACK_FRAME);
                    Place::Stack(frame as u8, byte as i16 - STACK_FRAME as i16, entry.size)
                }
            };
            (place, entry.value)
        });
        let values = registers.chain(entries);
        Self {
            returns: state.returns.clone(),
            values: values.filter_map(|(place, value)| Some((place, Claimed::of(&value)?))).collect(),
            reaches: state.reaches.iter().map(|reach| (reach.symbol, reach.bytes)).collect(),
            sums: state.sums.iter().map(|sum| [sum.parts[0], sum.parts[1], sum.sum]).collect(),
            relations: state
                .relations
                .iter()
                .map(|known| ([known.low, known.high], known.gap, known.differs))
                .collect(),
            held: state.held.len(),
        }
    }
}

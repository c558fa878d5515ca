//! Refusals: why a program is not accepted, in words that its author can act on.

use core::fmt;

use tidegate_abi::helper::Resource;
use tidegate_abi::map::MapDefError;
use tidegate_abi::{ProgramType, Verdict, limits};

use crate::memory::OutOfMemory;
use crate::structure::FieldName;
use crate::value::{Kind, Value};

/// What is known of a register: what it holds, its bounds, and who set or bounded it last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// Number of the register.
    pub register: u8,
    /// What it holds, in words.
    pub what: &'static str,
    /// Whether `min` and `max` bound a distance from the start of something, not a number.
    pub pointer: bool,
    /// Least number or distance.
    pub min: i64,
    /// Most.
    pub max: i64,
    /// Slot of the instruction that set or bounded it last.
    pub since: u32,
}

impl Known {
    pub(crate) fn of(register: u8, value: &Value) -> Self {
        let what = match value.kind {
            Kind::Nothing | Kind::Released => "nothing",
            Kind::Scalar => "a number",
            Kind::Context => "the context",
            Kind::Window => "a pointer to data",
            Kind::WindowEnd => "a pointer to data_end",
            Kind::WindowLow => "the lower half of a pointer to data",
            Kind::WindowEndLow => "the lower half of a pointer to data_end",
            Kind::Stack(_) => "a pointer to the stack",
            Kind::MapValue(_) => "a pointer to a map value",
            Kind::Map(_) => "a map",
            Kind::Record(_) => "a pointer to a record",
            Kind::Clone => "a clone",
            Kind::Code(_) => "the address of a function",
        };
        let (min, max) = (value.num.smin(), value.num.smax());
        Self { register, what, pointer: value.kind.is_pointer(), min, max, since: value.since }
    }
}

/// How an instruction is named in a sentence: by its slot, or by who knows lines, by its line.
type Place<'a> = &'a dyn Fn(u32, &mut fmt::Formatter<'_>) -> fmt::Result;

/// A slot in a sentence.
struct At<'a>(u32, Place<'a>);

impl fmt::Display for At<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (self.1)(self.0, f)
    }
}

/// What is known of a register, in a sentence.
struct Words<'a>(Known, Place<'a>);

impl fmt::Display for Words<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(Known { register, what, pointer, min, max, since }, place) = *self;
        write!(f, "r{register} is {what}")?;
        match (min, max) {
            (0, 0) if pointer => {}
            (i64::MIN, i64::MAX) => f.write_str(" without known bounds")?,
            _ if pointer => write!(f, ", {}", Offsets(min, max))?,
            _ if min == max => write!(f, ", {min}")?,
            _ => write!(f, " from {min} to {max}")?,
        }
        write!(f, " (since {})", At(since, place))
    }
}

/// A distance or two, with their signs.
struct Offsets(i64, i64);

impl fmt::Display for Offsets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == self.1 { write!(f, "{:+}", self.0) } else { write!(f, "{:+}..{:+}", self.0, self.1) }
    }
}

/// Where a pointer would be told to others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "see text()")]
pub enum Leak {
    MapValue,
    Record,
    Context,
    Verdict,
    Helper,
    HelperMemory,
}

impl Leak {
    const fn text(self) -> &'static str {
        match self {
            Self::MapValue => "a store to a map value",
            Self::Record => "a store to a record",
            Self::Context => "a store to the context",
            Self::Verdict => "the verdict",
            Self::Helper => "an argument that is a number",
            Self::HelperMemory => "the memory that a helper reads: it holds a pointer",
        }
    }
}

const fn resource_name(resource: Resource) -> &'static str {
    match resource {
        Resource::Record => "record",
        Resource::Clone => "clone",
    }
}

/// Why a program was refused: a fixed-size value that names the instruction, the missing fact and what is known.
///
/// `Display` says what was missing, without the instruction: who knows source lines puts the place before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The stable code of the rule.
    pub code: Code,
    /// Slot of the instruction; 0 when the program as a whole is meant.
    pub insn: usize,
    /// What was missing.
    pub reason: Reason,
    /// Instructions that the verification walked until it knew.
    pub steps: u32,
}

impl From<OutOfMemory> for Refusal {
    fn from(spent: OutOfMemory) -> Self {
        Self::new(0, spent.into())
    }
}

impl Refusal {
    pub(crate) fn new(insn: usize, reason: Reason) -> Self {
        Self { code: reason.code(), insn, reason, steps: 0 }
    }

    /// What to do about it.
    pub const fn cure(&self) -> Cure<'_> {
        Cure(self)
    }

    /// What was missing, for people who know source lines: `place` names an instruction by its slot.
    pub fn told<'a>(
        &'a self,
        place: &'a dyn Fn(u32, &mut fmt::Formatter<'_>) -> fmt::Result,
    ) -> impl fmt::Display + 'a {
        Told(self, place)
    }

    /// The instructions that what is known comes from, and what they did.
    pub fn origins(&self) -> impl Iterator<Item = (u32, &'static str)> + use<> {
        let known = self.reason.known().map(|known| (known.since, "what is known of it comes from here"));
        let other = match self.reason {
            Reason::PacketBounds { since: Some(since), .. } => Some((since, "so far it was compared here")),
            Reason::StillHeld { since, .. } => Some((since, "acquired here")),
            Reason::UsedAfterRelease { since, .. } => Some((since, "given back here")),
            _ => None,
        };
        other.into_iter().chain(known)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.reason.fmt(f)
    }
}

impl core::error::Error for Refusal {}

/// One row of the table of codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The code.
    pub code: Code,
    /// Its stable text.
    pub text: &'static str,
    /// The rule in a few words.
    pub title: &'static str,
    /// Why there is such a rule.
    pub explanation: &'static str,
    /// What to do when it is broken.
    pub cure: &'static str,
}

macro_rules! codes {
    ($( $name:ident $text:literal $title:literal $explanation:literal $cure:literal )*) => {
        /// Stable codes of refusals, by family: `TG00` the program as a whole, `TG01` its structure, `TG02` values and
        /// pointers, `TG03` memory, `TG04` calls, `TG05` resources, `TG06` the end of a run, `TG09` limits.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Code { $( #[doc = $title] $name, )* }

        /// Every code, in their order.
        pub const CODES: &[Entry] = &[
            $( Entry { code: Code::$name, text: $text, title: $title, explanation: $explanation, cure: $cure }, )*
        ];
    };
}

codes! {
    Empty "TG0001" "The program has no instructions"
        "A run starts at the first instruction and ends at an exit."
        "Compile a function into the section of its program type; an empty section is not a program."
    Length "TG0002" "The program is not whole instructions"
        "Every slot of bytecode has eight bytes."
        "The object is cut short or damaged: build it again."
    TooLong "TG0003" "The program has too many instructions"
        "The time that a verification takes must be bounded."
        "Split the program, or let loops be loops instead of unrolling them."
    Maps "TG0004" "The list of maps is not usable"
        "Each map of the list must follow the rules of its kind, and the list has a bound."
        "Correct the definition of the map that is named."
    Opcode "TG0101" "No such instruction"
        "Only the instructions of RFC 9669, without the legacy packet loads, are known."
        "Compile for the BPF target with -mcpu=v3 or v4."
    Register "TG0102" "No such register, or one that can't be written"
        "There are r0 to r10, and r10 is the read-only frame pointer."
        "Compilers never emit this: the bytecode is damaged or written by hand."
    Reserved "TG0103" "A reserved field is not zero"
        "Fields that an instruction doesn't use must be zero, so that they can get a meaning later."
        "Compilers never emit this: the bytecode is damaged or for a later machine."
    Target "TG0104" "A jump or call leads to no instruction"
        "Control must stay inside the program, and never enter the second half of a 64-bit load."
        "Compilers never emit this: the bytecode is damaged or was relocated wrongly."
    Across "TG0105" "Control leaves its function"
        "A function is entered by a call at its start and left by an exit; each has a stack frame of its own."
        "End every function in a return; a function that never returns must end in a loop back."
    Load "TG0106" "A 64-bit load that names nothing"
        "A 64-bit load takes two slots, and names a number, a function or a map of the program's list."
        "Load the object with the tool that resolves its relocations; file descriptors of maps mean nothing here."
    CallKind "TG0107" "Not a kind of call"
        "A call names a helper by number or a function of the program by distance."
        "Calls into kernel functions (kfuncs) don't exist here: use a helper."
    NotReadable "TG0201" "A register is read that holds nothing"
        "A register can be used after something was put into it on every path; a call empties r0 to r5."
        "Give the variable a value on every path. After a call, don't use what was in its argument registers."
    PointerMath "TG0202" "Arithmetic that a pointer doesn't allow"
        "Numbers can be added to and subtracted from pointers into memory, in 64 bits; nothing else keeps a pointer a pointer."
        "Compute the offset as a number first, then add it to the pointer."
    PointerCompare "TG0203" "A comparison that a pointer doesn't allow"
        "Pointers compare with null, and with pointers into the same memory, while they are near it; else they would tell addresses."
        "Compare packet pointers with data_end or with each other, and lengths with lengths; bound what a pointer is moved by."
    PointerLeak "TG0204" "A pointer goes where others could read it"
        "Addresses of the kernel are secret: they stay in registers and on the stack."
        "Store the number that the pointer leads to, or an offset, instead of the pointer."
    PointerBytes "TG0205" "A pointer in memory is used in part"
        "A pointer on the stack is stored and loaded whole; its bytes are not numbers."
        "Store and load pointers with all eight bytes, at the place where they were put."
    NotMemory "TG0301" "An access through what is no pointer to memory"
        "Only pointers into memory can be read and written through."
        "Check where the address comes from: a number, a map or a clone is not an address."
    MaybeNull "TG0302" "A pointer that may be null is used"
        "A lookup, a reservation and a clone can fail, and then give null."
        "Compare the result with NULL before it is used, and leave when it is."
    PacketBounds "TG0303" "An access beyond the bytes that were compared with data_end"
        "What is shown can be of any length: each byte that is read must have been compared with data_end on this path."
        "Before the access: if (p + size > data_end) return ...; with the same p, and an offset of a bounded type."
    OutOfBounds "TG0304" "An access outside its object"
        "Stack, map values and records have sizes, and each access must lie inside on every path."
        "Bound the index with a comparison (or a mask) right before the access, on the same variable."
    Context "TG0305" "An access to the context that no field allows"
        "Fields of the context are loaded, and some stored, by their exact size."
        "Use the fields of the header, unchanged in type, through the context pointer itself."
    ReadOnly "TG0306" "A store to memory that is read-only"
        "What is shown, the context and read-only maps belong to others."
        "Change bytes with tidegate_replace, tidegate_insert or tidegate_remove; keep state in a map."
    Unaligned "TG0307" "An atomic access that may not be aligned"
        "An atomic operation is atomic only at a multiple of its size."
        "Put the counter at a multiple of its size in the value."
    Helper "TG0401" "No such helper, or not for this program type"
        "A program may call the helpers of its type's table."
        "Use a helper of this program type."
    Argument "TG0402" "An argument of a helper is not what it must be"
        "The table of helpers says what each argument is."
        "Pass what the helper's declaration says."
    ArgumentSize "TG0403" "A size given to a helper may be out of its range"
        "The size must be within the helper's bounds, and within the memory before it, on every path."
        "Bound the size with comparisons right before the call: neither 0 nor too large."
    CallDepth "TG0404" "Calls are nested too deeply"
        "Each call has a stack frame of its own, and there are eight."
        "Inline functions (static __always_inline), and replace recursion by a loop."
    NotAFunction "TG0405" "A call through what is no function"
        "The target of an indirect call must be known to be a function of the program."
        "Call the function directly, or through a pointer that is assigned from functions only."
    EditOutside "TG0406" "An edit that lies outside of anything that is shown"
        "A program is shown a bounded number of bytes, and an edit counts its offsets from the first of them."
        "Count the offset from data, and compare it with data_end - data before the edit."
    StillHeld "TG0501" "A resource is not given back on every path"
        "A record is submitted or discarded, a clone injected or discarded, exactly once on every path."
        "Find the return that comes without it; discard the resource before it."
    Released "TG0502" "A resource is used after it was given back"
        "Once it is submitted, injected or discarded it belongs to someone else."
        "Move the use in front of the call that gives it back."
    TooManyHeld "TG0503" "Too many resources are held at a time"
        "A run may hold eight."
        "Give one back before the next one is acquired."
    Verdict "TG0601" "The program may return what is no verdict"
        "The number returned says what happens to the data; each program type has its verdicts."
        "Return one of the TIDEGATE_ constants of the program's type on every path."
    Endless "TG0602" "A loop may run for ever"
        "A program must come to its end on any input: each round must change what the loop's condition reads."
        "Count the rounds in a variable that changes each round, and compare it with a constant."
    Twice "TG0603" "What is injected would pass twice"
        "A clone is injected in place of everything that is shown: if that passed too, the receiver would get both."
        "Return TIDEGATE_BLOCK on every path on which a clone was given to an inject helper."
    NoMoreData "TG0604" "More data is asked for where none can come"
        "On this path TIDEGATE_STREAM_NO_MORE_DATA is set: what is held back for more data would never be decided."
        "Where the flag is set, decide on what is there: permit it, block it, or drop the connection."
    Costly "TG0605" "A run may take longer than any link allows"
        "A link ends a run that goes beyond its budget of instructions, and there is a largest one: this program's worst run has no place."
        "Give nested loops fewer rounds: their numbers multiply. Or share the work between runs, with what was found in a map."
    Memory "TG0901" "Out of memory for this verification"
        "One verification may take a bounded number of bytes."
        "Make the program smaller or its control flow simpler: fewer nested loops and branches with state that lives on."
    Steps "TG0902" "Too many steps for this verification"
        "The walk over all paths may take a bounded number of instructions."
        "Bound loops more tightly, and let fewer variables that differ between paths live on after a branch."
    Cancelled "TG0903" "The verification was cancelled"
        "Who asked for it took the request back, or went away."
        "Ask again."
}

impl Code {
    /// The row of the table.
    pub const fn entry(self) -> &'static Entry {
        &CODES[self as usize]
    }

    /// The stable text: `TG` and four digits.
    pub const fn text(self) -> &'static str {
        self.entry().text
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.text())
    }
}

/// The fact that was missing, with what is known instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each one is a sentence in Display")]
pub enum Reason {
    Empty,
    Length {
        bytes: usize,
    },
    TooLong {
        insns: usize,
    },
    TooManyMaps {
        maps: usize,
    },
    MapDef {
        map: u32,
        error: MapDefError,
    },
    UnknownOpcode {
        opcode: u8,
    },
    PacketLoad {
        opcode: u8,
    },
    UnknownAtomic {
        imm: i32,
    },
    Swap {
        width: i32,
    },
    NoSuchRegister {
        register: u8,
    },
    FramePointerWrite,
    Reserved {
        field: FieldName,
        value: i64,
    },
    TargetOutside {
        target: i64,
    },
    TargetInsideLoad {
        target: u32,
    },
    JumpAcross {
        target: i64,
    },
    FallThrough,
    HalfLoad,
    LoadKind {
        src: u8,
    },
    NoSuchMap {
        index: u32,
        maps: u32,
    },
    NotAnArray {
        index: u32,
    },
    OutsideValue {
        offset: u32,
        value_size: u32,
    },
    CallKind {
        src: u8,
    },
    NotReadable {
        register: u8,
    },
    PointerMath {
        known: Known,
    },
    PointerCompare {
        known: Known,
    },
    PointerLeak {
        known: Known,
        to: Leak,
    },
    PointerBytes,
    PointerPlace {
        known: Known,
    },
    NotMemory {
        known: Known,
    },
    MaybeNull {
        known: Known,
    },
    PacketBounds {
        known: Known,
        size: u32,
        min: i64,
        max: i64,
        at: i64,
        whole: i64,
        compared: Option<i64>,
        since: Option<u32>,
    },
    OutOfBounds {
        known: Known,
        size: u32,
        min: i64,
        max: i64,
        from: i64,
        to: i64,
    },
    NoSuchField {
        program_type: ProgramType,
        offset: i64,
        size: u32,
    },
    FieldReadOnly {
        name: &'static str,
    },
    ReadOnly {
        known: Known,
    },
    Unaligned {
        known: Known,
        size: u32,
    },
    NoSuchHelper {
        number: u32,
    },
    HelperForbidden {
        helper: &'static str,
        program_type: ProgramType,
    },
    Argument {
        helper: &'static str,
        param: &'static str,
        wanted: &'static str,
        known: Known,
    },
    ArgumentSize {
        helper: &'static str,
        param: &'static str,
        min: u32,
        max: u32,
        known: Known,
    },
    CallDepth,
    NotAFunction {
        known: Known,
    },
    StillHeld {
        resource: Resource,
        since: u32,
    },
    UsedAfterRelease {
        register: u8,
        since: u32,
    },
    TooManyHeld,
    NotAVerdict {
        known: Known,
        program_type: ProgramType,
    },
    EditOutside {
        helper: &'static str,
        from: u64,
        to: u64,
    },
    Twice {
        known: Known,
    },
    NoMoreData {
        known: Known,
    },
    Costly {
        insns: u64,
    },
    Endless,
    Memory,
    Steps {
        steps: u32,
    },
    Cancelled,
}

impl Reason {
    /// The rule that was broken.
    pub const fn code(&self) -> Code {
        match self {
            Self::Empty => Code::Empty,
            Self::Length { .. } => Code::Length,
            Self::TooLong { .. } => Code::TooLong,
            Self::TooManyMaps { .. } | Self::MapDef { .. } => Code::Maps,
            Self::UnknownOpcode { .. }
            | Self::PacketLoad { .. }
            | Self::UnknownAtomic { .. }
            | Self::Swap { .. } => Code::Opcode,
            Self::NoSuchRegister { .. } | Self::FramePointerWrite => Code::Register,
            Self::Reserved { .. } => Code::Reserved,
            Self::TargetOutside { .. } | Self::TargetInsideLoad { .. } => Code::Target,
            Self::JumpAcross { .. } | Self::FallThrough => Code::Across,
            Self::HalfLoad
            | Self::LoadKind { .. }
            | Self::NoSuchMap { .. }
            | Self::NotAnArray { .. }
            | Self::OutsideValue { .. } => Code::Load,
            Self::CallKind { .. } => Code::CallKind,
            Self::NotReadable { .. } => Code::NotReadable,
            Self::PointerMath { .. } => Code::PointerMath,
            Self::PointerCompare { .. } => Code::PointerCompare,
            Self::PointerLeak { .. } => Code::PointerLeak,
            Self::PointerBytes | Self::PointerPlace { .. } => Code::PointerBytes,
            Self::NotMemory { .. } => Code::NotMemory,
            Self::MaybeNull { .. } => Code::MaybeNull,
            Self::PacketBounds { .. } => Code::PacketBounds,
            Self::OutOfBounds { .. } => Code::OutOfBounds,
            Self::NoSuchField { .. } => Code::Context,
            Self::FieldReadOnly { .. } | Self::ReadOnly { .. } => Code::ReadOnly,
            Self::Unaligned { .. } => Code::Unaligned,
            Self::NoSuchHelper { .. } | Self::HelperForbidden { .. } => Code::Helper,
            Self::Argument { .. } => Code::Argument,
            Self::ArgumentSize { .. } => Code::ArgumentSize,
            Self::CallDepth => Code::CallDepth,
            Self::NotAFunction { .. } => Code::NotAFunction,
            Self::StillHeld { .. } => Code::StillHeld,
            Self::UsedAfterRelease { .. } => Code::Released,
            Self::TooManyHeld => Code::TooManyHeld,
            Self::NotAVerdict { .. } => Code::Verdict,
            Self::EditOutside { .. } => Code::EditOutside,
            Self::Twice { .. } => Code::Twice,
            Self::NoMoreData { .. } => Code::NoMoreData,
            Self::Costly { .. } => Code::Costly,
            Self::Endless => Code::Endless,
            Self::Memory => Code::Memory,
            Self::Steps { .. } => Code::Steps,
            Self::Cancelled => Code::Cancelled,
        }
    }
}

impl Reason {
    /// Says what was missing; `place` names instructions.
    fn tell(&self, f: &mut fmt::Formatter<'_>, place: Place<'_>) -> fmt::Result {
        let words = |known: Known| Words(known, place);
        let at = |slot: u32| At(slot, place);
        match *self {
            Self::Empty => f.write_str("the program has no instructions"),
            Self::Length { bytes } => write!(f, "{bytes} bytes are not whole instructions of 8 bytes"),
            Self::TooLong { insns } => {
                write!(f, "{insns} instructions, and a program may have {}", limits::MAX_INSNS)
            }
            Self::TooManyMaps { maps } => {
                write!(f, "{maps} maps, and a program may have {}", limits::MAX_MAPS)
            }
            Self::MapDef { map, error } => write!(f, "map {map} is not well defined: {}", error.text()),
            Self::UnknownOpcode { opcode } => write!(f, "no instruction has opcode {opcode:#04x}"),
            Self::PacketLoad { opcode } => {
                write!(
                    f,
                    "opcode {opcode:#04x} is a legacy packet load (LD_ABS, LD_IND), which is not supported"
                )
            }
            Self::UnknownAtomic { imm } => write!(f, "no atomic operation has number {imm:#x}"),
            Self::Swap { width } => write!(f, "bytes can be swapped in 16, 32 or 64 bits, not in {width}"),
            Self::NoSuchRegister { register } => write!(f, "there is no register r{register}"),
            Self::FramePointerWrite => f.write_str("r10 is the frame pointer and can't be written"),
            Self::Reserved { field, value } => {
                let name = match field {
                    FieldName::Dst => "the destination register",
                    FieldName::Src => "the source register",
                    FieldName::Offset => "the offset",
                    FieldName::Imm => "the immediate",
                    FieldName::SecondSlot => "the immediate of the second slot",
                };
                write!(f, "{name} is {value}, and this instruction doesn't use it so")
            }
            Self::TargetOutside { target } => {
                write!(f, "the target, slot {target}, lies outside the program")
            }
            Self::TargetInsideLoad { target } => {
                write!(f, "the target, slot {target}, is the second half of a 64-bit load")
            }
            Self::JumpAcross { target } => write!(f, "the jump to slot {target} leaves the function"),
            Self::FallThrough => f.write_str("control falls off the end of the function"),
            Self::HalfLoad => f.write_str("the second half of the 64-bit load is missing or not zero"),
            Self::LoadKind { src } => {
                write!(
                    f,
                    "source {src} of a 64-bit load is none of 0 (number), 4 (function), 5 (map), 6 (map value)"
                )
            }
            Self::NoSuchMap { index, maps } => write!(f, "map {index} is named, and the program has {maps}"),
            Self::NotAnArray { index } => {
                write!(f, "map {index} is not an array, so the address of its first value can't be loaded")
            }
            Self::OutsideValue { offset, value_size } => {
                write!(f, "byte {offset} of a value is named, and a value has {value_size} bytes")
            }
            Self::CallKind { src } => write!(f, "source {src} of a call is none of 0 (helper), 1 (function)"),
            Self::NotReadable { register } => {
                write!(f, "r{register} is used, and on some path nothing was put into it")
            }
            Self::PointerMath { known } => write!(f, "{}, and this arithmetic is for numbers", words(known)),
            Self::PointerCompare { known } => {
                write!(f, "{}, and can't be compared with this in this way", words(known))
            }
            Self::PointerLeak { known, to } => {
                write!(f, "{}, and would be told to others by {}", words(known), to.text())
            }
            Self::PointerBytes => {
                f.write_str("the stack holds a pointer here, and only a part of it is used")
            }
            Self::PointerPlace { known } => {
                write!(f, "{}, and is stored at a place on the stack that is not known", words(known))
            }
            Self::NotMemory { known } => write!(f, "{}, and is used as an address", words(known)),
            Self::MaybeNull { known } => {
                write!(f, "{} and may be null: it was not compared with NULL on this path", words(known))
            }
            Self::PacketBounds { known, size, min, max, at: offset, whole, compared, since } => {
                let register = known.register;
                let bytes = if size == 1 { "byte" } else { "bytes" };
                write!(
                    f,
                    "r{register} may read {size} {bytes} at data{}",
                    Offsets(min, max.saturating_add(size.into()))
                )?;
                match compared {
                    _ if min < 0 => return f.write_str(", before the first byte shown"),
                    Some(compared) if compared > 0 => {
                        write!(
                            f,
                            ", and behind r{register} only {compared} bytes were compared with data_end"
                        )?;
                    }
                    _ if whole > 0 => {
                        write!(f, ", but only the first {whole} bytes were compared with data_end")?;
                    }
                    _ if max > 1 << 33 => write!(f, ", and its offset has no bound (+{offset})")?,
                    _ => return f.write_str(", and nothing was compared with data_end on this path"),
                }
                since.map_or(Ok(()), |since| write!(f, " (at {})", at(since)))
            }
            Self::OutOfBounds { known, size, min, max, from, to } => {
                let bytes = if size == 1 { "byte is" } else { "bytes are" };
                let end = max.saturating_add(size.into());
                let start = if min == max { "at" } else { "somewhere at" };
                write!(
                    f,
                    "{}: {size} {bytes} touched {start} {}, and it has {} to {to}",
                    words(known),
                    Offsets(min, end),
                    from
                )
            }
            Self::NoSuchField { program_type, offset, size } => write!(
                f,
                "struct {} has no field of {size} bytes at offset {offset}",
                program_type.context_name()
            ),
            Self::FieldReadOnly { name } => write!(f, "the field `{name}` of the context can't be written"),
            Self::ReadOnly { known } => write!(f, "{}, and that memory can't be written", words(known)),
            Self::Unaligned { known, size } => {
                write!(f, "{}, and may not be at a multiple of {size}", words(known))
            }
            Self::NoSuchHelper { number } => write!(f, "there is no helper {number}"),
            Self::HelperForbidden { helper, program_type } => {
                write!(f, "{helper} is not for {} programs", program_type.name())
            }
            Self::Argument { helper, param, wanted, known } => {
                write!(f, "{helper} takes {wanted} as `{param}`, and {}", words(known))
            }
            Self::ArgumentSize { helper, param, min, max, known } => {
                write!(f, "{helper} takes {min} to {max} as `{param}`, and {}", words(known))
            }
            Self::CallDepth => write!(f, "functions are nested more than {} deep", limits::MAX_CALL_DEPTH),
            Self::NotAFunction { known } => write!(f, "{}, and is called", words(known)),
            Self::StillHeld { resource, since } => write!(
                f,
                "the {} that was acquired at {} is still held at this exit",
                resource_name(resource),
                at(since)
            ),
            Self::UsedAfterRelease { register, since } => {
                write!(f, "r{register} was given back at {}, and is used", at(since))
            }
            Self::TooManyHeld => f.write_str("more resources are held than a run may hold"),
            Self::NotAVerdict { known, program_type } => {
                write!(f, "{}, and a {} program returns ", words(known), program_type.name())?;
                let verdicts =
                    Verdict::ALL.into_iter().filter(|verdict| verdict.program_types().contains(program_type));
                for (at, verdict) in verdicts.enumerate() {
                    write!(f, "{}{} ({})", if at == 0 { "" } else { ", " }, verdict as u8, verdict.name())?;
                }
                Ok(())
            }
            Self::EditOutside { helper, from, to } => write!(
                f,
                "{helper} is about the bytes from {from} to {to} at least, and at most {} are shown",
                limits::MAX_WINDOW
            ),
            Self::Twice { known } => {
                let block = Verdict::Block as u8;
                write!(
                    f,
                    "a clone was injected on this path, and {}: only {block} may be returned",
                    words(known)
                )
            }
            Self::NoMoreData { known } => {
                let need = Verdict::NeedMoreData as u8;
                write!(f, "no more data can come on this path, and {}: {need} asks for more", words(known))
            }
            Self::Costly { insns: u64::MAX } => {
                write!(
                    f,
                    "a run may take more instructions than can be counted, and a link allows {} at most",
                    limits::MAX_BUDGET
                )
            }
            Self::Costly { insns } => {
                write!(
                    f,
                    "a run may take {insns} instructions, and a link allows {} at most",
                    limits::MAX_BUDGET
                )
            }
            Self::Endless => {
                f.write_str("a round of this loop changes nothing that its condition depends on")
            }
            Self::Memory => f.write_str("the verification needs more memory than it may take"),
            Self::Cancelled => f.write_str("who asked for the verification does not wait for it any more"),
            Self::Steps { steps } => write!(f, "not every path came to its end within {steps} steps"),
        }
    }

    /// The register that is in question, and what is known of it.
    const fn known(&self) -> Option<Known> {
        match *self {
            Self::PointerMath { known }
            | Self::PointerCompare { known }
            | Self::PointerLeak { known, .. }
            | Self::PointerPlace { known }
            | Self::NotMemory { known }
            | Self::MaybeNull { known }
            | Self::PacketBounds { known, .. }
            | Self::OutOfBounds { known, .. }
            | Self::ReadOnly { known }
            | Self::Unaligned { known, .. }
            | Self::Argument { known, .. }
            | Self::ArgumentSize { known, .. }
            | Self::NotAFunction { known }
            | Self::NotAVerdict { known, .. }
            | Self::Twice { known }
            | Self::NoMoreData { known } => Some(known),
            _ => None,
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.tell(f, &|slot, f| write!(f, "instruction {slot}"))
    }
}

/// What to do about a refusal: as much as is known of this one, and the rule's cure where that is nothing.
pub struct Cure<'a>(&'a Refusal);

impl fmt::Display for Cure<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cure = self.0.code.entry().cure;
        match self.0.reason {
            Reason::PacketBounds { min, .. } if min < 0 => {
                f.write_str("Keep the offset at 0 or above: compare it, or make its type unsigned.")
            }
            Reason::PacketBounds { known, size, min, max, .. } if min == max => write!(
                f,
                "Compare data + {} with data_end before this access: if (data + {0} > data_end) return ...; \
                 (r{} is data + {min} here)",
                max.saturating_add(size.into()),
                known.register
            ),
            Reason::PacketBounds { size, at, max, .. } if max <= 1 << 33 => write!(
                f,
                "Compare this very pointer before the access: if (p + {} > data_end) return ...;",
                at.saturating_add(size.into())
            ),
            Reason::PacketBounds { size, at, .. } => write!(
                f,
                "Bound the offset first (offset & 0xffff, or a comparison), add it to the pointer once, and compare that \
                 pointer: if (p + {} > data_end) return ...;",
                at.saturating_add(size.into())
            ),
            Reason::OutOfBounds { known, size, from, to, min, max } if to - from >= size.into() => {
                let (register, last) = (known.register, to - i64::from(size));
                f.write_str("Right before this access, on the variable that is the index: ")?;
                match (min < from, max > last) {
                    (true, true) => write!(f, "keep r{register} at {from} or above and at {last} or below."),
                    (true, false) => write!(f, "keep r{register} at {from} or above."),
                    _ => write!(f, "keep r{register} at {last} or below, with a comparison or a mask."),
                }
            }
            Reason::MaybeNull { known } => write!(
                f,
                "Compare r{} with NULL before this, and leave when it is: if (!p) return ...;",
                known.register
            ),
            Reason::ArgumentSize { param, min: 0, max, .. } => {
                write!(
                    f,
                    "Right before the call: if ({param} > {max}) return ...; on the variable that is passed."
                )
            }
            Reason::ArgumentSize { param, min, max, .. } => write!(
                f,
                "Right before the call: if ({param} < {min} || {param} > {max}) return ...; on the variable that is passed."
            ),
            Reason::FieldReadOnly { .. } => {
                f.write_str("Only the fields that a verdict reads can be written.")
            }
            _ => f.write_str(cure),
        }
    }
}

/// A refusal in words, instructions named by `place`.
struct Told<'a>(&'a Refusal, Place<'a>);

impl fmt::Display for Told<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.reason.tell(f, self.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_stable_texts_in_their_order() {
        assert!(CODES.is_sorted_by(|a, b| a.text < b.text));
        assert!(CODES.iter().enumerate().all(|(at, entry)| entry.code as usize == at));
        assert!(CODES.iter().all(|entry| entry.text.len() == 6 && entry.text.starts_with("TG")));
    }
}

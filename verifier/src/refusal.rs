//! Refusals: why a program is not accepted, in words that its author can act on.

use core::fmt;

use tidegate_abi::limits;
use tidegate_abi::map::MapDefError;

use crate::structure::FieldName;

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
}

impl Refusal {
    pub(crate) fn new(insn: usize, reason: Reason) -> Self {
        Self { code: reason.code(), insn, reason }
    }

    /// What to do about it.
    pub const fn hint(&self) -> &'static str {
        self.code.entry().cure
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
    Memory "TG0901" "Out of memory for this verification"
        "One verification may take a bounded number of bytes."
        "Make the program smaller or its control flow simpler: fewer nested loops and branches with state that lives on."
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
    Length { bytes: usize },
    TooLong { insns: usize },
    TooManyMaps { maps: usize },
    MapDef { map: u32, error: MapDefError },
    UnknownOpcode { opcode: u8 },
    PacketLoad { opcode: u8 },
    UnknownAtomic { imm: i32 },
    Swap { width: i32 },
    NoSuchRegister { register: u8 },
    FramePointerWrite,
    Reserved { field: FieldName, value: i64 },
    TargetOutside { target: i64 },
    TargetInsideLoad { target: u32 },
    JumpAcross { target: i64 },
    FallThrough,
    HalfLoad,
    LoadKind { src: u8 },
    NoSuchMap { index: u32, maps: u32 },
    NotAnArray { index: u32 },
    OutsideValue { offset: u32, value_size: u32 },
    CallKind { src: u8 },
    Memory,
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
            Self::Memory => Code::Memory,
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
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
            Self::Memory => f.write_str("the verification needs more memory than it may take"),
        }
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

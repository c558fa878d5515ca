//! Objects: an ELF file of a BPF compiler becomes programs in the wire form of the ABI, and the maps that they use.
//!
//! The file may come from anywhere: whatever is wrong with it is an [`ObjectError`], never a panic, and the memory and the
//! time that it takes are in proportion to its size.

mod elf;
mod error;
mod link;
mod maps;
mod places;

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;

use tidegate_abi::insn::{call, class, jmp, mode, pseudo, size};
use tidegate_abi::{API_VERSION, Insn, MapDef, ProgramType};

use crate::btf::Shape;
use crate::error::Error;
use crate::header::ABI_SECTION;

pub(crate) use elf::text_at;
pub use error::ObjectError;
pub use places::{Place, Places};

/// Bytes of the largest file that is read as an object; debug information makes them larger than their code.
const MAX_FILE: u64 = 64 << 20;

/// What an ELF object holds. Programs are linked: relocated, with the functions that they call behind them.
#[derive(Clone, Debug)]
pub struct Object {
    programs: Vec<Program>,
    maps: Vec<Map>,
}

/// One program: a function in a section `tidegate/stream` or `tidegate/send`, and all that it calls.
#[derive(Clone, Debug)]
pub struct Program {
    /// Name of the function.
    pub name: String,
    /// What it is written for.
    pub program_type: ProgramType,
    /// Its slots: the entry function first, the functions that it reaches behind it.
    pub insns: Vec<Insn>,
    /// The maps that it names: index `i` in the bytecode is map `maps[i]` of [`Object::maps`].
    pub maps: Vec<usize>,
    /// The functions, in the order of their slots; the first is the program itself.
    pub functions: Vec<Function>,
    /// Where the instructions came from, in the order of their slots; empty when the object has no line table.
    pub lines: Vec<Line>,
}

/// Where a function of a program starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Function {
    /// Its name.
    pub name: String,
    /// Its first slot.
    pub slot: usize,
    /// Its address, as debug information counts: see [`places::address`].
    address: u64,
}

/// The source of the instructions from one slot on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// The first slot that it speaks of; it holds up to the next line or function.
    pub slot: usize,
    /// The file, as the compiler was told.
    pub file: Arc<str>,
    /// Line, from 1.
    pub line: u32,
    /// Column, from 1; 0 when it is not known.
    pub column: u32,
    /// The text of the line as it was compiled; empty when it is not known.
    pub text: Arc<str>,
}

/// A map of an object.
#[derive(Clone, Debug)]
pub struct Map {
    /// Name of the variable, or of the section (`.rodata`) for global data.
    pub name: String,
    /// What it is.
    pub def: MapDef,
    /// For global data: the bytes of its only entry, to be written before a program runs.
    pub initial: Option<Vec<u8>>,
    /// The type of its keys, when BTF tells it.
    pub key: Option<Shape>,
    /// The type of its values, when BTF tells it.
    pub value: Option<Shape>,
}

impl Object {
    /// Reads and links the object in the file at `path`.
    ///
    /// # Errors
    /// The file can't be read, or [`parse`](Self::parse) fails; the error names the file.
    pub fn read(path: &Path) -> Result<Self, Error> {
        Self::of(path, &Self::bytes(path)?)
    }

    /// What is in the file at `path`.
    ///
    /// # Errors
    /// The file can't be read, or is too large for an object.
    pub fn bytes(path: &Path) -> Result<Vec<u8>, Error> {
        let bytes = read_at_most(path, MAX_FILE).map_err(|error| Error::file("read", path, &error))?;
        if bytes.len() as u64 > MAX_FILE {
            let message = format!("{}: more than {} MiB", path.display(), MAX_FILE >> 20);
            return Err(Error::usage("object-too-large", message)
                .with_help("give an object, not an archive or a device"));
        }
        Ok(bytes)
    }

    /// Links the object that was read from the file at `path`.
    ///
    /// # Errors
    /// As [`parse`](Self::parse)'s; the error names the file.
    pub fn of(path: &Path, bytes: &[u8]) -> Result<Self, Error> {
        Self::parse(bytes).map_err(|error| error.of(path))
    }

    /// Reads and links an object.
    ///
    /// # Errors
    /// The bytes are not an ELF object for BPF, or something in it can't be loaded; the error says what and where.
    pub fn parse(bytes: &[u8]) -> Result<Self, ObjectError> {
        let file = elf::File::parse(bytes)?;
        check_abi(&file)?;
        let (programs, maps) = link::link(&file)?;
        Ok(Self { programs, maps })
    }

    /// The object of one program that was linked before, as a host has it: `code` names its `maps` by index. Its functions and
    /// lines are those that are `known`; else it has functions where it calls some, and no lines.
    pub fn linked(
        name: &str,
        program_type: ProgramType,
        code: &[u8],
        maps: Vec<Map>,
        known: Option<(Vec<Function>, Vec<Line>)>,
    ) -> Self {
        let insns: Vec<_> = code.as_chunks().0.iter().map(|slot| Insn::from_bytes(*slot)).collect();
        let (functions, lines) = known.unwrap_or_else(|| (called(name, &insns), Vec::new()));
        let own = (0..maps.len()).collect();
        let program = Program { name: name.into(), program_type, insns, maps: own, functions, lines };
        Self { programs: vec![program], maps }
    }

    /// The programs, in the order of their sections and of the functions there. There is at least one.
    pub fn programs(&self) -> &[Program] {
        &self.programs
    }

    /// The program called `name`.
    pub fn program(&self, name: &str) -> Option<&Program> {
        self.programs.iter().find(|program| program.name == name)
    }

    /// Calls the program `name` something else from now on.
    pub fn rename(&mut self, name: &str, other: &str) {
        for program in self.programs.iter_mut().filter(|program| program.name == name) {
            program.name = other.into();
        }
    }

    /// Every map that the object defines, and the global data that its programs use.
    pub fn maps(&self) -> &[Map] {
        &self.maps
    }

    /// The maps of `program`, in the order of its own list, by whose indexes its instructions name them.
    pub fn maps_of<'o>(&'o self, program: &'o Program) -> impl Iterator<Item = &'o Map> {
        program.maps.iter().filter_map(|at| self.maps.get(*at))
    }

    /// Their definitions.
    pub fn map_defs(&self, program: &Program) -> Vec<MapDef> {
        self.maps_of(program).map(|map| map.def).collect()
    }
}

/// The section `.BTF` of the object at `path`, whether or not its programs can be loaded.
///
/// # Errors
/// The file can't be read, is no ELF object for BPF, or has no BTF.
pub fn read_btf(path: &Path) -> Result<Vec<u8>, Error> {
    let bytes = read_at_most(path, MAX_FILE).map_err(|error| Error::file("read", path, &error))?;
    let file = elf::File::parse(&bytes).map_err(|error| error.of(path))?;
    match file.section(".BTF") {
        Some((_, section)) => Ok(section.data.to_vec()),
        None => Err(Error::usage("object-btf", format!("{}: the object has no BTF", path.display()))
            .with_help("compile with -g (clang) or -C debuginfo=2 (rustc)")),
    }
}

/// The functions of a program of which only the code is known: itself, and what it calls or takes the address of.
fn called(name: &str, insns: &[Insn]) -> Vec<Function> {
    let targets = insns.iter().enumerate().filter_map(|(slot, insn)| {
        let calls = insn.opcode == class::JMP | jmp::CALL && insn.src() == call::LOCAL;
        let takes = insn.opcode == class::LD | mode::IMM | size::DW && insn.src() == pseudo::FUNC;
        (calls || takes).then(|| slot.checked_add_signed(insn.imm as isize)?.checked_add(1)).flatten()
    });
    let slots: BTreeSet<usize> = targets.filter(|slot| (1..insns.len()).contains(slot)).collect();
    // There is no debug information that could count addresses.
    let own = Function { name: name.into(), slot: 0, address: 0 };
    let others =
        slots.into_iter().map(|slot| Function { name: format!("function_{slot}"), slot, address: 0 });
    [own].into_iter().chain(others).collect()
}

/// An object that was compiled against other tables would read its context in the wrong places. One that says nothing was
/// written without the header and the SDK: its author knows.
fn check_abi(file: &elf::File<'_>) -> Result<(), ObjectError> {
    let Some((_, section)) = file.section(ABI_SECTION) else { return Ok(()) };
    let mut versions = section
        .data
        .chunks(2)
        .map(|bytes| bytes.iter().rev().fold(0, |all, byte| all << 8 | u16::from(*byte)));
    match versions.find(|version| *version != API_VERSION) {
        None => Ok(()),
        Some(version) => Err(ObjectError::new(
            "object-abi",
            format!("the object is compiled against API version {version}, and this is {API_VERSION}"),
            "compile it again with the header or the SDK of this release: `tidegate abi dump c` prints the header",
        )),
    }
}

/// The bytes of a file, or one more than `limit`: a device or a pipe has no end that one can wait for.
fn read_at_most(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(limit + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

impl Program {
    /// The bytecode in its wire form.
    pub fn code(&self) -> Vec<u8> {
        self.insns.iter().flat_map(|insn| insn.to_bytes()).collect()
    }

    /// The function that the instruction at `slot` belongs to.
    pub fn function(&self, slot: usize) -> Option<&Function> {
        let behind = self.functions.partition_point(|function| function.slot <= slot);
        self.functions.get(behind.checked_sub(1)?)
    }

    /// The source line of the instruction at `slot`.
    pub fn line(&self, slot: usize) -> Option<&Line> {
        let behind = self.lines.partition_point(|line| line.slot <= slot);
        let line = self.lines.get(behind.checked_sub(1)?)?;
        (line.slot >= self.function(slot)?.slot).then_some(line)
    }
}

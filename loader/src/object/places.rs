//! Where instructions come from, with the calls that were inlined.
//!
//! The line table of BTF names one place of an instruction, the innermost. Of a policy in Rust that is mostly a place of the SDK or
//! of `core`, whose functions are all inlined: whole policies have hardly a line of their own there. Debug information (DWARF) knows
//! the calls as well that led to the place.

use std::convert::Infallible;
use std::path::Path;

use addr2line::Context;
use gimli::{Dwarf, EndianArcSlice, LittleEndian};
use tidegate_abi::Insn;

use super::elf::{self, File};
use super::{Object, ObjectError, Program};
use crate::error::Error;

/// The relocation of LLVM's BPF target that an address in debug information has (R_BPF_64_ABS64). What stands there is added. The
/// others (R_BPF_64_ABS32) are offsets into other debug sections, and whole as they stand.
const ADDRESS: u32 = 2;

/// What the debug information of an object says.
pub struct Places {
    /// `None` when there is none that can be read.
    dwarf: Option<Context<EndianArcSlice<LittleEndian>>>,
}

/// A line of a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file, as the compiler was told.
    pub file: String,
    /// Line, from 1.
    pub line: u32,
}

impl Places {
    /// Reads the debug information of the object in the file at `path`.
    ///
    /// # Errors
    /// As those of [`Object::read`].
    pub fn read(path: &Path) -> Result<Self, Error> {
        Self::parse(&Object::bytes(path)?).map_err(|error| error.of(path))
    }

    /// Reads the debug information of an object. What is wrong with it is no error: less is known then.
    ///
    /// # Errors
    /// The bytes are not an ELF object for BPF.
    pub fn parse(bytes: &[u8]) -> Result<Self, ObjectError> {
        let file = File::parse(bytes)?;
        let section = |id: gimli::SectionId| {
            let bytes = file.section(id.name()).map(|(_, section)| relocated(&file, section));
            Ok::<_, Infallible>(EndianArcSlice::new(bytes.unwrap_or_default().into(), LittleEndian))
        };
        let Ok(dwarf) = Dwarf::load(section);
        Ok(Self { dwarf: Context::from_dwarf(dwarf).ok() })
    }

    /// Where the instruction at `slot` comes from: the innermost place first, then the call that it was inlined at, and so on.
    pub fn of(&self, program: &Program, slot: usize) -> Vec<Place> {
        let places = self.inlined(program, slot).unwrap_or_default();
        if !places.is_empty() {
            return places;
        }
        program
            .line(slot)
            .map(|line| Place { file: line.file.to_string(), line: line.line })
            .into_iter()
            .collect()
    }

    fn inlined(&self, program: &Program, slot: usize) -> Option<Vec<Place>> {
        let function = program.function(slot)?;
        let address = function.address + ((slot - function.slot) * Insn::SIZE) as u64;
        let mut frames = self.dwarf.as_ref()?.find_frames(address).skip_all_loads().ok()?;
        let mut places = Vec::new();
        while let Some(frame) = frames.next().ok()? {
            let Some(location) = frame.location else { continue };
            // Line 0 is what compilers give to instructions that belong to no line, or to several.
            if let (Some(file), Some(line @ 1..)) = (location.file, location.line) {
                places.push(Place { file: file.into(), line });
            }
        }
        Some(places)
    }
}

/// Where the section with this index would lie in memory. Each has its own start, since debug information tells sections apart by
/// their addresses; a file is smaller than what lies between two.
pub(super) fn address(section: usize) -> u64 {
    (section as u64) << 32
}

/// The bytes of a section with its addresses filled in.
fn relocated(file: &File<'_>, section: &elf::Section<'_>) -> Vec<u8> {
    let mut bytes = section.data.to_vec();
    for relocation in section.relocations.iter().filter(|relocation| relocation.kind == ADDRESS) {
        let Some(symbol) = file.symbols.get(relocation.symbol) else { continue };
        let elf::Place::Section(index) = symbol.place else { continue };
        let at = usize::try_from(relocation.offset).unwrap_or(usize::MAX);
        let Some(field) = bytes.get_mut(at..).and_then(|rest| rest.first_chunk_mut()) else { continue };
        let value = u64::from_le_bytes(*field).wrapping_add(symbol.value).wrapping_add(address(index));
        *field = value.to_le_bytes();
    }
    bytes
}

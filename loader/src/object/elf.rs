//! The ELF file: sections, symbols and relocations as far as a BPF object has them.
//!
//! Everything here borrows from the file. Sections must not overlap, so whatever walks the sections walks the file once:
//! a small file can't ask for a lot of work.

use goblin::container::{Container, Ctx, Endian};
use goblin::elf::header::{EM_BPF, ET_REL, Header};
use goblin::elf::section_header::{
    SHF_EXECINSTR, SHN_COMMON, SHN_LORESERVE, SHN_UNDEF, SHN_XINDEX, SHT_NOBITS, SHT_NULL, SHT_REL, SHT_RELA,
    SHT_SYMTAB, SectionHeader,
};
use goblin::elf::sym::{STB_LOCAL, STT_FUNC, STT_SECTION, Sym, Symtab};
use goblin::elf::{Elf, RelocSection};

use super::error::ObjectError;

/// Characters of a name that are kept; the mangled names of compilers can be much longer.
const NAME: usize = 256;
/// Bytes of a symbol of a 64-bit object.
const SYMBOL: usize = 24;

/// A BPF object file, in parts.
pub(super) struct File<'a> {
    pub(super) sections: Vec<Section<'a>>,
    pub(super) symbols: Vec<Symbol<'a>>,
}

/// One section.
pub(super) struct Section<'a> {
    pub(super) name: &'a str,
    /// Its bytes; empty when it has none in the file (`.bss`).
    pub(super) data: &'a [u8],
    /// Its size in memory.
    pub(super) size: u64,
    /// Whether it holds instructions.
    pub(super) code: bool,
    /// The relocations of its bytes, in the order of their offsets.
    pub(super) relocations: Vec<Relocation>,
}

/// One symbol.
#[derive(Clone, Copy)]
pub(super) struct Symbol<'a> {
    pub(super) name: &'a str,
    pub(super) place: Place,
    pub(super) value: u64,
    pub(super) size: u64,
    pub(super) kind: SymbolKind,
    pub(super) local: bool,
}

/// Where a symbol is defined.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// In the section with this index.
    Section(usize),
    /// In no section of this file.
    Undefined,
    /// Nowhere that matters here: an absolute value, the name of the source file.
    Elsewhere,
}

/// What a symbol names, as far as it matters.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum SymbolKind {
    Function,
    Section,
    Other,
}

/// One relocation: at `offset` of its section stands something that depends on a symbol.
#[derive(Clone, Copy)]
pub(super) struct Relocation {
    pub(super) offset: u64,
    pub(super) kind: u32,
    pub(super) symbol: usize,
}

impl<'a> File<'a> {
    pub(super) fn parse(bytes: &'a [u8]) -> Result<Self, ObjectError> {
        let header = Elf::parse_header(bytes).map_err(|_| not_bpf("not an ELF file"))?;
        let context = check_header(&header)?;
        let headers =
            SectionHeader::parse(bytes, as_usize(header.e_shoff), usize::from(header.e_shnum), context)
                .map_err(|error| {
                    ObjectError::damaged(format!("the section headers can't be read: {error}"))
                })?;
        check_overlaps(bytes, &headers)?;
        let names = match usize::from(header.e_shstrndx) {
            index if index == SHN_XINDEX as usize => {
                headers.first().map_or(0, |first| first.sh_link as usize)
            }
            index => index,
        };
        let names =
            contents(bytes, &headers, names).ok_or_else(|| ObjectError::damaged("no section names"))?;

        let mut sections = Vec::with_capacity(headers.len());
        for (index, header) in headers.iter().enumerate() {
            let name = string(names, header.sh_name)
                .ok_or_else(|| ObjectError::damaged(format!("section {index} has no readable name")))?;
            sections.push(Section {
                name,
                data: contents(bytes, &headers, index).unwrap_or_default(),
                size: header.sh_size,
                code: header.sh_flags & u64::from(SHF_EXECINSTR) != 0,
                relocations: Vec::new(),
            });
        }
        let symbols = symbols(bytes, &headers, context)?;
        relocations(bytes, &headers, context, &mut sections)?;
        Ok(Self { sections, symbols })
    }

    /// The first section called `name`.
    pub(super) fn section(&self, name: &str) -> Option<(usize, &Section<'a>)> {
        self.sections.iter().enumerate().find(|(_, section)| section.name == name)
    }
}

impl Section<'_> {
    /// The relocation at `offset`, if there is one.
    pub(super) fn relocation_at(&self, offset: u64) -> Option<Relocation> {
        let at = self.relocations.binary_search_by_key(&offset, |relocation| relocation.offset).ok()?;
        self.relocations.get(at).copied()
    }
}

fn not_bpf(what: &str) -> ObjectError {
    ObjectError::new(
        "object-elf",
        what,
        "give an object made by `clang -target bpf -c`, or by rustc for bpfel-unknown-none and llc",
    )
}

fn check_header(header: &Header) -> Result<Ctx, ObjectError> {
    let endian = header.endianness().map_err(|_| not_bpf("an ELF file of an unknown byte order"))?;
    if !matches!(header.container(), Ok(Container::Big)) || endian != Endian::Little {
        return Err(not_bpf("an ELF file that is not 64-bit little-endian"));
    }
    if header.e_machine != EM_BPF {
        let machine = goblin::elf::header::machine_to_str(header.e_machine);
        return Err(not_bpf(&format!("an ELF file for another machine ({machine}), not for BPF")));
    }
    if header.e_type != ET_REL {
        return Err(not_bpf("a linked ELF file, not an object"));
    }
    Ok(Ctx::new(Container::Big, Endian::Little))
}

/// Sections that share bytes of the file are no compiler's: they would make a small file a large object.
fn check_overlaps(bytes: &[u8], headers: &[SectionHeader]) -> Result<(), ObjectError> {
    let mut ranges = Vec::with_capacity(headers.len());
    for (index, header) in headers.iter().enumerate() {
        if !has_bytes(header) {
            continue;
        }
        let end = header.sh_offset.checked_add(header.sh_size).filter(|end| *end <= bytes.len() as u64);
        let Some(end) = end else {
            return Err(ObjectError::damaged(format!("section {index} lies outside the file")));
        };
        ranges.push((header.sh_offset, end));
    }
    ranges.sort_unstable();
    if ranges.windows(2).any(|pair| matches!(pair, [(_, end), (start, _)] if start < end)) {
        return Err(ObjectError::damaged("two sections share bytes of the file"));
    }
    Ok(())
}

fn has_bytes(header: &SectionHeader) -> bool {
    header.sh_type != SHT_NOBITS && header.sh_type != SHT_NULL && header.sh_size != 0
}

/// The bytes of section `index`.
fn contents<'a>(bytes: &'a [u8], headers: &[SectionHeader], index: usize) -> Option<&'a [u8]> {
    let header = headers.get(index)?;
    if !has_bytes(header) {
        return Some(&[]);
    }
    let start = usize::try_from(header.sh_offset).ok()?;
    let size = usize::try_from(header.sh_size).ok()?;
    bytes.get(start..start.checked_add(size)?)
}

/// The string at `offset` of a string table; `None` when it lies outside or is not text.
fn string(table: &[u8], offset: usize) -> Option<&str> {
    text_at(table, offset, NAME)
}

/// The text at `offset` of `table` up to a zero byte or its end, at most `length` bytes of it.
///
/// No more than that is looked at: many names that end in one long text are no way to make a loader slow.
pub(crate) fn text_at(table: &[u8], offset: usize, length: usize) -> Option<&str> {
    let rest = table.get(offset..)?;
    let rest = rest.get(..length).unwrap_or(rest);
    let end = rest.iter().position(|byte| *byte == 0).unwrap_or(rest.len());
    let text = rest.get(..end)?;
    match std::str::from_utf8(text) {
        Ok(text) => Some(text),
        // Cut inside of a character, or not text at all.
        Err(error) if end == length && error.error_len().is_none() => {
            std::str::from_utf8(text.get(..error.valid_up_to())?).ok()
        }
        Err(_) => None,
    }
}

fn as_usize(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

fn symbols<'a>(
    bytes: &'a [u8],
    headers: &[SectionHeader],
    context: Ctx,
) -> Result<Vec<Symbol<'a>>, ObjectError> {
    let damaged = || ObjectError::damaged("the symbol table can't be read");
    let Some(index) = headers.iter().position(|header| header.sh_type == SHT_SYMTAB) else {
        return Err(ObjectError::new(
            "object-stripped",
            "the object has no symbol table",
            "don't strip the object: its functions and maps are found by their symbols",
        ));
    };
    let table = contents(bytes, headers, index).ok_or_else(damaged)?;
    let link = headers.get(index).map_or(0, |header| header.sh_link as usize);
    let names = contents(bytes, headers, link).ok_or_else(damaged)?;
    if table.is_empty() {
        return Ok(Vec::new());
    }
    let table = Symtab::parse(table, 0, table.len() / SYMBOL, context).map_err(|_| damaged())?;
    let mut symbols = Vec::with_capacity(table.len());
    for (index, symbol) in table.iter().enumerate() {
        let name = string(names, symbol.st_name)
            .ok_or_else(|| ObjectError::damaged(format!("symbol {index} has no readable name")))?;
        symbols.push(self::symbol(name, &symbol, headers.len())?);
    }
    Ok(symbols)
}

fn symbol<'a>(name: &'a str, symbol: &Sym, sections: usize) -> Result<Symbol<'a>, ObjectError> {
    let place = match u32::try_from(symbol.st_shndx).unwrap_or(u32::MAX) {
        SHN_UNDEF => Place::Undefined,
        SHN_COMMON => {
            return Err(ObjectError::new(
                "object-symbol",
                format!("{name} is a common symbol"),
                "compile with -fno-common, or give the variable an initial value",
            ));
        }
        index if index >= SHN_LORESERVE => Place::Elsewhere,
        index if (index as usize) < sections => Place::Section(index as usize),
        index => {
            return Err(ObjectError::damaged(format!(
                "symbol {name} lies in section {index}, which is none"
            )));
        }
    };
    let kind = match symbol.st_type() {
        STT_FUNC => SymbolKind::Function,
        STT_SECTION => SymbolKind::Section,
        _ => SymbolKind::Other,
    };
    let local = symbol.st_bind() == STB_LOCAL;
    Ok(Symbol { name, place, value: symbol.st_value, size: symbol.st_size, kind, local })
}

fn relocations(
    bytes: &[u8],
    headers: &[SectionHeader],
    context: Ctx,
    sections: &mut [Section<'_>],
) -> Result<(), ObjectError> {
    for (index, header) in headers.iter().enumerate() {
        if header.sh_type != SHT_REL && header.sh_type != SHT_RELA {
            continue;
        }
        let damaged = || ObjectError::damaged(format!("the relocations in section {index} can't be read"));
        let target = sections.get_mut(header.sh_info as usize).ok_or_else(damaged)?;
        if header.sh_type == SHT_RELA {
            return Err(ObjectError::relocation(
                format!("section {}: relocations with explicit addends", target.name),
                "compile with clang or with rustc and llc: other compilers' objects are not supported",
            ));
        }
        let table = contents(bytes, headers, index).ok_or_else(damaged)?;
        let table = RelocSection::parse(table, 0, table.len(), false, context).map_err(|_| damaged())?;
        target.relocations.extend(table.iter().map(|relocation| Relocation {
            offset: relocation.r_offset,
            kind: relocation.r_type,
            symbol: relocation.r_sym,
        }));
    }
    for section in sections {
        section.relocations.sort_by_key(|relocation| relocation.offset);
    }
    Ok(())
}

//! Linking: each program becomes one piece of bytecode, with the functions that it reaches behind its entry.

use std::collections::{BTreeMap, BTreeSet};

use rustc_demangle::demangle;
use tidegate_abi::insn::{call, class, jmp, mode, pseudo, size, source};
use tidegate_abi::{Insn, ProgramType, limits};

use super::elf::{File, Place, Relocation, SymbolKind};
use super::error::ObjectError;
use super::maps::{Address, Maps, section_name};
use super::{Function, Line, Map, Program, places};
use crate::btf::{Btf, Lines};

/// Slots that all programs of an object may have together: functions are copied into each program that reaches them.
const MAX_LINKED: usize = 16 * limits::MAX_INSNS;
/// How the names of all sections with programs start.
const FAMILY: &str = "tidegate/";
/// Bytes of a slot.
const SLOT: u64 = Insn::SIZE as u64;

const CALL: u8 = class::JMP | jmp::CALL | source::K;
const LOAD_64: u8 = class::LD | mode::IMM | size::DW;

/// Relocations of LLVM's BPF target.
mod relocation {
    pub(super) const NONE: u32 = 0;
    /// The immediate of a 64-bit load.
    pub(super) const LOAD_64: u32 = 1;
    /// The immediate of a call.
    pub(super) const CALL: u32 = 10;
}

/// A function of the file: where its code lies.
#[derive(Clone, Copy)]
struct Code<'a> {
    name: &'a str,
    section: usize,
    /// First slot, counted from the start of its section.
    start: u64,
    /// Number of slots.
    slots: u64,
    /// Whether other files can see it: a program must be one that they can.
    global: bool,
}

/// Links every program of `file`.
pub(super) fn link(file: &File<'_>) -> Result<(Vec<Program>, Vec<Map>), ObjectError> {
    let btf_error = |error: crate::btf::BtfError| {
        ObjectError::new(
            "object-btf",
            error.to_string(),
            "the file is damaged or from an unknown compiler: build it again",
        )
    };
    let data = |name| file.section(name).map(|(_, section)| section.data);
    let btf = data(".BTF").map(Btf::parse).transpose().map_err(btf_error)?;
    let lines = match (&btf, data(".BTF.ext")) {
        (Some(btf), Some(bytes)) => Lines::parse(bytes, btf).map_err(btf_error)?,
        _ => Lines::default(),
    };
    if let Some(section) = lines.core_section() {
        return Err(ObjectError::relocation(
            format!("section {section}: CO-RE relocations, which adapt a program to a running Linux kernel"),
            "don't use preserve_access_index or vmlinux.h: a context is read through its own structure",
        ));
    }
    let functions = functions(file)?;
    let mut linker =
        Linker { file, lines: &lines, maps: Maps::parse(file, btf.as_ref())?, functions, linked: 0 };
    let programs = linker.programs()?;
    Ok((programs, linker.maps.into_list()))
}

/// The functions of the file, by their section and their first slot.
fn functions<'a>(file: &File<'a>) -> Result<BTreeMap<(usize, u64), Code<'a>>, ObjectError> {
    let mut functions = BTreeMap::<(usize, u64), Code<'a>>::new();
    for symbol in &file.symbols {
        let (Place::Section(index), SymbolKind::Function) = (symbol.place, symbol.kind) else { continue };
        let Some(section) = file.sections.get(index) else { continue };
        let inside =
            symbol.value.checked_add(symbol.size).is_some_and(|end| end <= section.data.len() as u64);
        if !section.code || !inside || symbol.value % SLOT != 0 || symbol.size % SLOT != 0 || symbol.size == 0
        {
            return Err(ObjectError::damaged(format!(
                "section {}: function {} is not whole instructions of its section",
                section.name, symbol.name
            )));
        }
        let code = Code {
            name: symbol.name,
            section: index,
            start: symbol.value / SLOT,
            slots: symbol.size / SLOT,
            global: !symbol.local,
        };
        // Two names of one function: the one that others can see stands for it.
        let kept = functions.entry((index, code.start)).or_insert(code);
        if code.global && !kept.global {
            *kept = code;
        }
    }
    let overlap = functions
        .values()
        .zip(functions.values().skip(1))
        .find(|(one, next)| one.section == next.section && one.start.saturating_add(one.slots) > next.start);
    if let Some((one, next)) = overlap {
        return Err(ObjectError::damaged(format!("functions {} and {} overlap", one.name, next.name)));
    }
    Ok(functions)
}

struct Linker<'f, 'a> {
    file: &'f File<'a>,
    lines: &'f Lines<'a>,
    maps: Maps,
    functions: BTreeMap<(usize, u64), Code<'a>>,
    /// Slots linked so far, of all programs.
    linked: usize,
}

impl<'a> Linker<'_, 'a> {
    fn programs(&mut self) -> Result<Vec<Program>, ObjectError> {
        let mut programs = Vec::new();
        let mut names = BTreeSet::new();
        for code in self.functions.values().copied().collect::<Vec<_>>() {
            let section = section_name(self.file, code.section);
            let Some(program_type) = ProgramType::from_section(section) else {
                if section.starts_with(FAMILY) {
                    return Err(unknown_section(section));
                }
                continue;
            };
            if !code.global {
                continue;
            }
            if code.name.len() > limits::MAX_NAME {
                return Err(ObjectError::new(
                    "object-symbol",
                    format!(
                        "section {section}: the name of program {} is longer than {} bytes",
                        code.name,
                        limits::MAX_NAME
                    ),
                    "give it a shorter name; a Rust function needs #[unsafe(no_mangle)]",
                ));
            }
            if !names.insert(code.name) {
                return Err(ObjectError::new(
                    "object-symbol",
                    format!("section {section}: there are two programs called {}", code.name),
                    "give each a name of its own",
                ));
            }
            programs.push(self.program(code, program_type)?);
        }
        if programs.is_empty() { Err(self.no_program()) } else { Ok(programs) }
    }

    fn no_program(&self) -> ObjectError {
        let sections = ProgramType::ALL.map(ProgramType::section).join(" or ");
        let code = self.file.sections.iter().filter(|section| section.code && section.size != 0);
        let mut found: Vec<_> = code.take(8).map(|section| section.name).collect();
        found.sort_unstable();
        let found = if found.is_empty() { "none".into() } else { found.join(", ") };
        ObjectError::new(
            "object-no-program",
            format!("no program: no global function in section {sections} (sections with code: {found})"),
            "put the entry function there: SEC(\"tidegate/stream\") int NAME(struct tidegate_stream *ctx)",
        )
    }

    /// Links the program whose entry is `entry`.
    fn program(&mut self, entry: Code<'a>, program_type: ProgramType) -> Result<Program, ObjectError> {
        let mut layout = Layout::default();
        layout.place(entry)?;
        let mut insns = Vec::new();
        let mut maps = Vec::new();
        let mut lines = Vec::new();
        // The list grows as functions are reached; each is copied once its own place is known.
        let mut next = 0;
        while let Some((code, start)) = layout.order.get(next).copied() {
            next += 1;
            self.linked += code.slots as usize;
            if self.linked > MAX_LINKED {
                return Err(ObjectError::too_large(format!(
                    "the programs of this object have more than {MAX_LINKED} instructions, \
                     with the functions that they share"
                )));
            }
            self.copy(code, &mut layout, &mut maps, &mut insns)?;
            self.copy_lines(code, start, &mut lines);
        }
        if maps.len() > limits::MAX_MAPS {
            return Err(ObjectError::too_large(format!(
                "program {}: {} maps, and a program may name {}",
                entry.name,
                maps.len(),
                limits::MAX_MAPS
            )));
        }
        let function = |(code, start): &(Code<'_>, usize)| Function {
            name: format!("{:#}", demangle(code.name)),
            slot: *start,
            address: places::address(code.section) + code.start * SLOT,
        };
        let functions = layout.order.iter().map(function).collect();
        Ok(Program { name: entry.name.into(), program_type, insns, maps, functions, lines })
    }

    /// Appends the relocated instructions of `code`.
    fn copy(
        &mut self,
        code: Code<'a>,
        layout: &mut Layout<'a>,
        maps: &mut Vec<usize>,
        insns: &mut Vec<Insn>,
    ) -> Result<(), ObjectError> {
        let Some(section) = self.file.sections.get(code.section) else { return Ok(()) };
        let bytes =
            section.data.get((code.start * SLOT) as usize..((code.start + code.slots) * SLOT) as usize);
        let mut slots = Insn::slots(bytes.unwrap_or_default()).into_iter().flatten().zip(code.start..);
        while let Some((mut insn, slot)) = slots.next() {
            let place = Site { code, slot, section: section.name };
            let relocation =
                section.relocation_at(slot * SLOT).filter(|relocation| relocation.kind != relocation::NONE);
            match insn.opcode {
                CALL => {
                    if let Some(target) = self.call_target(&place, insn, relocation)? {
                        insn =
                            Insn::new(CALL, 0, call::LOCAL, 0, distance(insns.len(), layout.place(target)?));
                    }
                    insns.push(insn);
                }
                LOAD_64 => {
                    let Some((mut second, _)) = slots.next() else {
                        return Err(ObjectError::damaged(format!("{place}: a 64-bit load is cut in half")));
                    };
                    if let Some(relocation) = relocation {
                        match self.load_target(&place, insn, relocation)? {
                            Target::Function(target) => {
                                let imm = distance(insns.len(), layout.place(target)?);
                                (insn, second) = load(insn, pseudo::FUNC, imm, 0);
                            }
                            Target::Address(Address::Map(map)) => {
                                (insn, second) = load(insn, pseudo::MAP_IDX, own_index(maps, map), 0);
                            }
                            Target::Address(Address::Value(map, offset)) => {
                                let imm = own_index(maps, map);
                                (insn, second) = load(insn, pseudo::MAP_IDX_VALUE, imm, offset as i32);
                            }
                        }
                    } else if insn.src() != pseudo::NUMBER {
                        return Err(ObjectError::relocation(
                            format!("{place}: a 64-bit load names something without a relocation"),
                            "load the object as the compiler made it, not one that was linked for Linux",
                        ));
                    }
                    insns.extend([insn, second]);
                }
                _ if relocation.is_some() => {
                    return Err(ObjectError::relocation(
                        format!("{place}: a relocation of an instruction that is no call and no 64-bit load"),
                        "the compiler is not supported: use clang, or rustc and llc",
                    ));
                }
                _ => insns.push(insn),
            }
        }
        Ok(())
    }

    /// The function that a call leads to; `None` for a call of a helper.
    fn call_target(
        &self,
        place: &Site<'_>,
        insn: Insn,
        relocation: Option<Relocation>,
    ) -> Result<Option<Code<'a>>, ObjectError> {
        let Some(relocation) = relocation else {
            if insn.src() != call::LOCAL {
                return Ok(None);
            }
            let target = i128::from(place.slot) + 1 + i128::from(insn.imm);
            return self.function_at(place, place.code.section, target).map(Some);
        };
        if relocation.kind != relocation::CALL {
            return Err(unknown_kind(place, relocation.kind));
        }
        let (section, value) = self.defined(place, relocation)?;
        // The immediate counts from the next instruction, so the start of the symbol is -1.
        let target = i128::from(value / SLOT) + 1 + i128::from(insn.imm);
        self.function_at(place, section, target).map(Some)
    }

    /// What a 64-bit load with a relocation names.
    fn load_target(
        &mut self,
        place: &Site<'_>,
        insn: Insn,
        relocation: Relocation,
    ) -> Result<Target<'a>, ObjectError> {
        if relocation.kind != relocation::LOAD_64 {
            return Err(unknown_kind(place, relocation.kind));
        }
        let (section, value) = self.defined(place, relocation)?;
        let offset = i128::from(value) + i128::from(insn.imm);
        if self.file.sections.get(section).is_some_and(|section| section.code) {
            let whole = offset % i128::from(SLOT) == 0;
            let slot = if whole { offset / i128::from(SLOT) } else { -1 };
            return self.function_at(place, section, slot).map(Target::Function);
        }
        let offset = u64::try_from(offset)
            .map_err(|_| ObjectError::damaged(format!("{place}: a relocation points before its section")))?;
        match self.maps.address(self.file, section, offset)? {
            Some(address) => Ok(Target::Address(address)),
            None => Err(ObjectError::relocation(
                format!("{place}: the address of something in section {}", section_name(self.file, section)),
                "programs can use .maps, .rodata, .data and .bss: move the variable there",
            )),
        }
    }

    /// Section and offset of the symbol of `relocation`.
    fn defined(&self, place: &Site<'_>, relocation: Relocation) -> Result<(usize, u64), ObjectError> {
        let symbol = self.file.symbols.get(relocation.symbol).ok_or_else(|| {
            ObjectError::damaged(format!(
                "{place}: a relocation with symbol {}, which is none",
                relocation.symbol
            ))
        })?;
        match symbol.place {
            Place::Section(section) => Ok((section, symbol.value)),
            Place::Undefined => Err(ObjectError::new(
                "object-undefined",
                format!("{place}: {:#} is used, and this object does not define it", demangle(symbol.name)),
                undefined_help(symbol.name),
            )),
            Place::Elsewhere => Err(ObjectError::relocation(
                format!("{place}: the address of {}, which lies in no section", symbol.name),
                "the compiler is not supported: use clang, or rustc and llc",
            )),
        }
    }

    fn function_at(&self, place: &Site<'_>, section: usize, slot: i128) -> Result<Code<'a>, ObjectError> {
        let found = u64::try_from(slot).ok().and_then(|slot| self.functions.get(&(section, slot)));
        found.copied().ok_or_else(|| {
            ObjectError::relocation(
                format!(
                    "{place}: no function starts at slot {slot} of section {}",
                    section_name(self.file, section)
                ),
                "the file is damaged, or was stripped of local symbols: build it again",
            )
        })
    }

    /// Appends the lines of `code`, whose first slot has become `start`.
    fn copy_lines(&self, code: Code<'_>, start: usize, lines: &mut Vec<Line>) {
        let all = self.lines.of_section(section_name(self.file, code.section));
        let (from, to) = (code.start * SLOT, (code.start + code.slots) * SLOT);
        let first = all.partition_point(|line| u64::from(line.offset) < from);
        for info in all.iter().skip(first).take_while(|line| u64::from(line.offset) < to) {
            let slot = start + ((u64::from(info.offset) - from) / SLOT) as usize;
            // One line a slot: more would make a small file a large object.
            if lines.last().is_some_and(|last| last.slot == slot) {
                lines.pop();
            }
            lines.push(Line {
                slot,
                file: info.file.clone(),
                line: info.line,
                column: info.column,
                text: info.text.clone(),
            });
        }
    }
}

/// What a 64-bit load names.
enum Target<'a> {
    Function(Code<'a>),
    Address(Address),
}

/// The functions of a program, each with the slot that it starts at.
#[derive(Default)]
struct Layout<'a> {
    order: Vec<(Code<'a>, usize)>,
    placed: BTreeMap<(usize, u64), usize>,
    end: usize,
}

impl<'a> Layout<'a> {
    /// The slot at which `code` starts: it gets one behind all others when it has none yet.
    fn place(&mut self, code: Code<'a>) -> Result<usize, ObjectError> {
        let key = (code.section, code.start);
        if let Some(start) = self.placed.get(&key) {
            return Ok(*start);
        }
        let start = self.end;
        let slots = usize::try_from(code.slots).unwrap_or(usize::MAX);
        self.end = start.saturating_add(slots);
        if self.end > limits::MAX_INSNS {
            let entry = self.order.first().map_or(code.name, |(entry, _)| entry.name);
            return Err(ObjectError::too_large(format!(
                "program {entry}: more than {} instructions, with the functions that it calls",
                limits::MAX_INSNS
            )));
        }
        self.placed.insert(key, start);
        self.order.push((code, start));
        Ok(start)
    }
}

/// An instruction of the file, as errors name it.
struct Site<'a> {
    code: Code<'a>,
    slot: u64,
    section: &'a str,
}

impl std::fmt::Display for Site<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let at = self.slot - self.code.start;
        write!(f, "section {}, function {:#}, instruction {at}", self.section, demangle(self.code.name))
    }
}

fn load(insn: Insn, src: u8, imm: i32, next: i32) -> (Insn, Insn) {
    (Insn::new(LOAD_64, insn.dst(), src, 0, imm), Insn::new(0, 0, 0, 0, next))
}

/// The immediate that leads from the instruction at slot `from` to `to`. Both are below [`limits::MAX_INSNS`].
fn distance(from: usize, to: usize) -> i32 {
    to as i32 - from as i32 - 1
}

/// The index of `map` in a program's own list.
fn own_index(maps: &mut Vec<usize>, map: usize) -> i32 {
    let index = maps.iter().position(|known| *known == map).unwrap_or_else(|| {
        maps.push(map);
        maps.len() - 1
    });
    index as i32
}

fn unknown_section(section: &str) -> ObjectError {
    let sections = ProgramType::ALL.map(ProgramType::section).join(" and ");
    ObjectError::new(
        "object-section",
        format!("section {section}: no such program type"),
        format!("the sections are {sections}, either with /NAME behind it"),
    )
}

fn unknown_kind(place: &Site<'_>, kind: u32) -> ObjectError {
    ObjectError::relocation(
        format!("{place}: a relocation of kind {kind}, which does not belong to its instruction"),
        "the compiler is not supported: use clang, or rustc and llc",
    )
}

/// What to do about a symbol that nobody defines; compilers have their own reasons to use some.
fn undefined_help(name: &str) -> &'static str {
    match name {
        "memcpy" | "memmove" | "memset" | "memcmp" | "bcmp" | "strlen" => {
            "there is no C library here: copy and compare with a loop, or with __builtin_memcpy of a constant size"
        }
        _ if name.contains("panic") || name.contains("unwind") => {
            "this Rust code can panic: use get() instead of indexing, and checked or wrapping arithmetic"
        }
        _ => {
            "define the function in the same file; helpers are called through the declarations of tidegate.h"
        }
    }
}

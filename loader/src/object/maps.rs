//! The maps of an object: those that the source defines in `.maps`, and global data, which is an array of one entry.

use std::collections::BTreeMap;

use tidegate_abi::map::RDONLY_PROG;
use tidegate_abi::{MapDef, MapKind, limits};

use super::Map;
use super::elf::{File, Place, Symbol, SymbolKind};
use super::error::ObjectError;
use crate::btf::{Btf, Member, Shape};

/// Name of the section with the definitions of maps.
const SECTION: &str = ".maps";

/// The maps found so far, and where they lie in the file.
pub(super) struct Maps {
    list: Vec<Map>,
    /// Index of `.maps`, if there is one.
    section: Option<usize>,
    /// The map that is defined at an offset of `.maps`.
    defined: BTreeMap<u64, usize>,
    /// The map that holds the global data of a section.
    data: BTreeMap<usize, usize>,
    /// The variables of a section with global data.
    variables: BTreeMap<usize, Vec<Member>>,
}

/// What the bytecode means by the address of something in a section.
pub(super) enum Address {
    /// A map.
    Map(usize),
    /// So many bytes behind the start of the only value of a map.
    Value(usize, u32),
}

impl Maps {
    /// Reads the definitions in `.maps`.
    pub(super) fn parse(file: &File<'_>, btf: Option<&Btf<'_>>) -> Result<Self, ObjectError> {
        let mut maps = Self {
            list: Vec::new(),
            section: None,
            defined: BTreeMap::new(),
            data: BTreeMap::new(),
            variables: btf.map_or_else(BTreeMap::new, |btf| variables(file, btf)),
        };
        if file.section("maps").is_some_and(|(_, section)| section.size != 0) {
            return Err(ObjectError::new(
                "object-map",
                "section maps: definitions of maps in the old form",
                "define maps in section .maps: struct { __uint(type, ..); __type(key, ..); .. } name SEC(\".maps\")",
            ));
        }
        let Some((index, section)) = file.section(SECTION) else { return Ok(maps) };
        maps.section = Some(index);
        if let Some(relocation) = section.relocations.first() {
            return Err(ObjectError::relocation(
                format!(
                    "section .maps: a definition refers to something else at offset {}",
                    relocation.offset
                ),
                "maps of maps and maps with initial values are not supported",
            ));
        }
        let Some(btf) = btf else {
            return Err(ObjectError::new(
                "object-btf",
                "section .maps: the object has no BTF, which describes its maps",
                "compile with -g (clang) or -C debuginfo=2 (rustc)",
            ));
        };
        let variables: BTreeMap<&str, u32> =
            btf.variables(SECTION).map(|variable| (variable.name, variable.kind)).collect();
        let symbols = file.symbols.iter().filter(|symbol| {
            symbol.place == Place::Section(index) && symbol.kind == SymbolKind::Other && symbol.size != 0
        });
        for symbol in symbols {
            maps.define(symbol, variables.get(symbol.name).copied(), btf)?;
        }
        Ok(maps)
    }

    fn define(&mut self, symbol: &Symbol<'_>, kind: Option<u32>, btf: &Btf<'_>) -> Result<(), ObjectError> {
        let name = symbol.name;
        let Some(kind) = kind else {
            return Err(ObjectError::map(
                name,
                "BTF has no variable of this name in .maps",
                "a Rust static needs #[unsafe(no_mangle)]; otherwise the file is damaged: build it again",
            ));
        };
        let (def, key, value) = definition(name, kind, btf)?;
        let at = self.add(Map { name: name.into(), def, initial: None, key, value })?;
        self.defined.insert(symbol.value, at);
        Ok(())
    }

    fn add(&mut self, map: Map) -> Result<usize, ObjectError> {
        if self.list.len() == limits::MAX_RUNTIME_MAPS {
            return Err(ObjectError::too_large(format!("more than {} maps", limits::MAX_RUNTIME_MAPS)));
        }
        if map.name.len() > limits::MAX_NAME {
            return Err(ObjectError::map(
                &map.name,
                format!("the name has {} bytes, and {} are possible", map.name.len(), limits::MAX_NAME),
                "give it a shorter name",
            ));
        }
        map.def.check().map_err(|error| {
            ObjectError::map(&map.name, error.text(), "correct its definition (`tidegate feature list maps`)")
        })?;
        self.list.push(map);
        Ok(self.list.len() - 1)
    }

    /// What the address `offset` of section `section` means; `None` when the section holds neither maps nor data.
    pub(super) fn address(
        &mut self,
        file: &File<'_>,
        section: usize,
        offset: u64,
    ) -> Result<Option<Address>, ObjectError> {
        if self.section == Some(section) {
            let map = self.defined.get(&offset).copied().ok_or_else(|| {
                ObjectError::relocation(
                    format!("section .maps: no map starts at offset {offset}"),
                    "use the address of a map as a whole, as an argument of a helper",
                )
            })?;
            return Ok(Some(Address::Map(map)));
        }
        let Some(map) = self.data_map(file, section)? else { return Ok(None) };
        // The end itself is an address too, but none that the bytecode can name.
        let size = self.list.get(map).map_or(0, |map| map.def.value_size);
        match u32::try_from(offset) {
            Ok(offset) if offset < size => Ok(Some(Address::Value(map, offset))),
            _ => Err(ObjectError::relocation(
                format!(
                    "section {}: byte {offset} is named, and there are {size}",
                    section_name(file, section)
                ),
                "an index is out of the bounds of a global variable; otherwise the file is damaged: build it again",
            )),
        }
    }

    /// The map with the global data of section `index`, if that is what the section holds.
    fn data_map(&mut self, file: &File<'_>, index: usize) -> Result<Option<usize>, ObjectError> {
        if let Some(map) = self.data.get(&index) {
            return Ok(Some(*map));
        }
        let Some(section) = file.sections.get(index) else { return Ok(None) };
        if !is_data(section.name) {
            return Ok(None);
        }
        if !section.relocations.is_empty() {
            return Err(ObjectError::relocation(
                format!("section {}: global data holds an address", section.name),
                "keep numbers and bytes in global variables, not pointers; a Rust &str or slice in a table is a pointer",
            ));
        }
        let value_size = match usize::try_from(section.size) {
            Ok(size) if size <= limits::MAX_VALUE => size,
            _ => {
                return Err(ObjectError::map(
                    section.name,
                    format!("{} bytes of global data, and {} are possible", section.size, limits::MAX_VALUE),
                    "move large tables to a map of their own",
                ));
            }
        };
        let mut initial = section.data.to_vec();
        initial.resize(value_size, 0);
        let flags = if is_part_of(section.name, ".rodata") { RDONLY_PROG } else { 0 };
        let (name, size) = (section.name.to_owned(), value_size as u32);
        let value = self.variables.remove(&index).map(|members| Shape::Struct { name, size, members });
        let map = self.add(Map {
            name: section.name.into(),
            def: MapDef {
                kind: MapKind::Array,
                key_size: 4,
                value_size: value_size as u32,
                max_entries: 1,
                flags,
            },
            initial: Some(initial),
            key: None,
            value,
        })?;
        self.data.insert(index, map);
        Ok(Some(map))
    }

    pub(super) fn into_list(self) -> Vec<Map> {
        self.list
    }
}

/// Whether a section of this name holds global data, its own or of one variable (`-fdata-sections`).
fn is_data(name: &str) -> bool {
    [".rodata", ".data", ".bss"].iter().any(|data| is_part_of(name, data))
}

fn is_part_of(name: &str, section: &str) -> bool {
    name.strip_prefix(section).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// The variables of every section with global data: where they lie by their symbols, what they are by BTF.
fn variables(file: &File<'_>, btf: &Btf<'_>) -> BTreeMap<usize, Vec<Member>> {
    let mut found = BTreeMap::new();
    for (index, section) in file.sections.iter().enumerate().filter(|(_, section)| is_data(section.name)) {
        let kinds: BTreeMap<&str, u32> =
            btf.variables(section.name).map(|variable| (variable.name, variable.kind)).collect();
        let here = file.symbols.iter().filter(|symbol| symbol.place == Place::Section(index));
        let members = here.filter_map(|symbol| {
            let shape = Shape::of(btf, *kinds.get(symbol.name)?)?;
            let offset = u32::try_from(symbol.value).ok()?;
            let end = symbol.value.checked_add(shape.size())?;
            (end <= section.size).then(|| Member { name: symbol.name.into(), offset, shape })
        });
        let members: Vec<Member> = members.collect();
        if !members.is_empty() {
            found.insert(index, members);
        }
    }
    found
}

pub(super) fn section_name<'a>(file: &File<'a>, index: usize) -> &'a str {
    file.sections.get(index).map_or("?", |section| section.name)
}

/// The definition that the structure `kind` spells: a member is a pointer to an array whose length is the number
/// (`__uint`), or a pointer to the type (`__type`).
fn definition(
    name: &str,
    kind: u32,
    btf: &Btf<'_>,
) -> Result<(MapDef, Option<Shape>, Option<Shape>), ObjectError> {
    let refuse = |what: String, help: &str| Err(ObjectError::map(name, what, help));
    let Some(members) = btf.members(kind) else {
        return refuse(
            "its type is not a structure".into(),
            "define it as struct { .. } name SEC(\".maps\")",
        );
    };
    let (mut map_type, mut key_size, mut value_size, mut max_entries, mut flags) =
        (None, None, None, None, 0);
    let (mut key, mut value) = (None, None);
    for (member, kind) in members {
        let target = btf.pointee(kind);
        let number = target.and_then(|target| btf.array_length(target));
        let size = target.and_then(|target| btf.size_of(target)).and_then(|size| u32::try_from(size).ok());
        let known = match member {
            "type" => number.map(|number| map_type = Some(number)),
            "max_entries" => number.map(|number| max_entries = Some(number)),
            "map_flags" => number.map(|number| flags = number),
            "key_size" => number.map(|number| key_size = Some(number)),
            "value_size" => number.map(|number| value_size = Some(number)),
            "key" | "value" => size.map(|size| {
                let shape = target.and_then(|target| Shape::of(btf, target));
                if member == "key" {
                    (key_size, key) = (Some(size), shape);
                } else {
                    (value_size, value) = (Some(size), shape);
                }
            }),
            _ => {
                return refuse(
                    format!("member {member} is not known"),
                    "the members are type, max_entries, key or key_size, value or value_size, map_flags",
                );
            }
        };
        if known.is_none() {
            return refuse(
                format!("member {member} can't be read"),
                "write numbers with __uint(name, number) and types with __type(name, type)",
            );
        }
    }
    let Some(number) = map_type else {
        return refuse("it has no type".into(), "say which: __uint(type, BPF_MAP_TYPE_HASH)");
    };
    let Some(kind) = MapKind::from_number(number) else {
        let names = MapKind::ALL.map(|kind| format!("{} ({})", kind.name(), kind as u32)).join(", ");
        return refuse(format!("there is no map of type {number}"), &format!("the types are {names}"));
    };
    // The sizes that a kind leaves no choice about need not be written.
    let def = MapDef {
        kind,
        key_size: key_size.or(kind.key_size()).unwrap_or(0),
        value_size: value_size.unwrap_or(0),
        max_entries: max_entries.unwrap_or(0),
        flags,
    };
    Ok((def, key, value))
}

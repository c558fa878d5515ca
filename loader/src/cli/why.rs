//! Why a run of a program ended as it did: where it was last, as lines of the source, and what it read.

use std::fmt;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::Serialize;
use tidegate_abi::control::{Id, MapInfoReply, ProgramInfoReply, RunInfo, RunRead, tag};
use tidegate_abi::insn::{Insn, class, jmp};

use super::dump::Source;
use super::live;
use crate::bundle::Versions;
use crate::error::Error;
use crate::object::{self, Object};
use crate::scenario::literal::Tree;

/// The objects whose lines and types are known.
pub(super) struct Objects(Vec<Object>);

impl Objects {
    /// Those at `paths`, and those that `apply` has kept of what the host runs.
    pub(super) fn read(paths: &[PathBuf], host: Option<&Path>) -> Result<Self, Error> {
        let mut objects = paths.iter().map(|path| Object::read(path)).collect::<Result<Vec<_>, _>>()?;
        // Nobody named these: one that can't be read is as good as none.
        let kept = Versions::at(live::versions(host)).objects();
        objects.extend(kept.iter().filter_map(|path| Object::read(path).ok()));
        Ok(Self(objects))
    }

    /// The program that this one was made of, and its object.
    pub(super) fn program(&self, info: &ProgramInfoReply) -> Option<(&Object, &object::Program)> {
        let programs =
            self.0.iter().flat_map(|object| object.programs().iter().map(move |one| (object, one)));
        programs.into_iter().find(|(_, one)| {
            one.program_type == info.program_type && tag(one.program_type, &one.code()) == info.tag
        })
    }
}

/// Why a run ended so.
#[derive(Serialize, JsonSchema)]
pub(super) struct Why {
    /// The instruction that it ended with.
    instruction: Option<u32>,
    /// The last line of the source that it came by, closing braces apart; null where no object with line information was named.
    source: Option<Source>,
    /// The lines that it came by last, the oldest first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    path: Vec<Source>,
    /// The entry of a map that it looked up last.
    read: Option<Read>,
}

/// An entry of a map, as it was when it was looked up.
#[derive(Serialize, JsonSchema)]
struct Read {
    map: Id,
    /// The name of the map; null: it is gone.
    name: Option<String>,
    /// The first bytes of the key.
    key: Vec<u8>,
    /// The first bytes of the value; null: there was no such entry.
    value: Option<Vec<u8>>,
    /// Both in the form of their types, where those are known.
    #[serde(skip_serializing_if = "Option::is_none")]
    typed: Option<Typed>,
}

#[derive(Serialize, JsonSchema)]
struct Typed {
    #[schemars(with = "serde_json::Value")]
    key: Tree,
    #[schemars(with = "Option<serde_json::Value>")]
    value: Option<Tree>,
}

impl Why {
    /// That of a run of the program that `info` is of; `map` knows the maps of the host.
    pub(super) fn of(
        run: &RunInfo<'_>,
        info: Option<&ProgramInfoReply>,
        objects: &Objects,
        map: impl Fn(Id) -> Option<MapInfoReply>,
    ) -> Self {
        let known = info.and_then(|info| Some((info, objects.program(info)?)));
        let mut path: Vec<Source> = Vec::new();
        if let Some((_, (_, program))) = known {
            for line in walked(&program.insns, &run.path).into_iter().filter_map(|slot| program.line(slot)) {
                let source = Source::of(line);
                if path.last() != Some(&source) {
                    path.push(source);
                }
            }
        }
        let source = path.iter().rfind(|source| !source.is_brace()).or(path.last()).cloned();
        let read = run.read.as_ref().map(|read| {
            let declared = known.and_then(|(info, (object, program))| {
                let at = info.maps.iter().position(|map| *map == read.map)?;
                object.maps_of(program).nth(at)
            });
            Read::new(read, declared, map(read.map))
        });
        Self { instruction: run.path.last().copied(), source, path, read }
    }
}

impl Read {
    fn new(read: &RunRead<'_>, declared: Option<&object::Map>, info: Option<MapInfoReply>) -> Self {
        let typed = declared.map(|map| Typed {
            key: Tree::of(read.key, map.key.as_ref()),
            value: read.value.map(|value| Tree::of(value, map.value.as_ref())),
        });
        Self {
            map: read.map,
            name: info.map(|info| info.name.to_string()),
            key: read.key.to_vec(),
            value: read.value.map(<[u8]>::to_vec),
            typed,
        }
    }
}

/// The instructions of a path, of which the first of several is told that the machine runs as one: those between two places are
/// the ones up to the next place, or to the jump that leads there.
fn walked(insns: &[Insn], path: &[u32]) -> Vec<usize> {
    /// Instructions that the machine runs as one, at most.
    const FUSED: usize = 4;
    let mut slots = Vec::new();
    for (at, from) in path.iter().enumerate() {
        let (from, next) = (*from as usize, path.get(at + 1).map(|next| *next as usize));
        for slot in (from..from + FUSED).take_while(|slot| *slot < insns.len()) {
            if slot > from && Some(slot) == next {
                break;
            }
            slots.push(slot);
            let insn = insns[slot];
            let operation = insn.opcode & 0xf0;
            let jumps = matches!(insn.class(), class::JMP | class::JMP32) && !insn.is_helper_call();
            let target = slot.wrapping_add_signed(insn.offset as isize).wrapping_add(1);
            if jumps
                && (operation == jmp::EXIT
                    || operation == jmp::CALL
                    || next.is_none_or(|next| next == target || operation == jmp::JA))
            {
                break;
            }
        }
    }
    slots
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.source, self.instruction) {
            (Some(source), _) => {
                writeln!(f, "    at {}:{}  {}", source.file, source.line, source.text.trim())?;
            }
            (None, Some(slot)) => {
                writeln!(f, "    at instruction {slot}; no object was named that has its lines (--types)")?;
            }
            (None, None) => {}
        }
        if let [_, .., _] = &self.path[..] {
            let lines: Vec<_> = self.path.iter().map(|source| source.line.to_string()).collect();
            writeln!(f, "    by way of lines {}", lines.join(", "))?;
        }
        match &self.read {
            None => writeln!(f, "    looked up nothing in maps"),
            Some(read) => writeln!(f, "    looked up last {read}"),
        }
    }
}

impl fmt::Display for Read {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let untyped = |bytes: &[u8]| Tree::of(bytes, None);
        let (key, value) = match &self.typed {
            Some(Typed { key, value }) => (key.clone(), value.clone()),
            None => (untyped(&self.key), self.value.as_deref().map(untyped)),
        };
        match &self.name {
            Some(name) => write!(f, "{name}")?,
            None => write!(f, "map {}", self.map)?,
        }
        match value {
            Some(value) => write!(f, "[{key}] = {value}"),
            None => write!(f, "[{key}]: there was no such entry"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_runs_as_one_is_walked_instruction_by_instruction() {
        let set = Insn::new(class::ALU64 | 0xb0, 0, 0, 0, 1);
        let jump = |offset| Insn::new(class::JMP | jmp::JEQ, 1, 0, offset, 0);
        let exit = Insn::new(class::JMP | jmp::EXIT, 0, 0, 0, 0);
        // 0: set, 1: if .. goto 4, 2: set, 3: exit, 4: set, 5: exit
        let insns = [set, jump(2), set, exit, set, exit];
        assert_eq!(walked(&insns, &[0, 4]), [0, 1, 4, 5], "two run as one, and it jumps");
        assert_eq!(walked(&insns, &[0, 2, 3]), [0, 1, 2, 3], "it does not");
        assert_eq!(walked(&insns, &[0, 1, 4]), [0, 1, 4, 5]);
        assert_eq!(walked(&insns, &[5]), [5]);
        assert_eq!(walked(&insns, &[77]), [0_usize; 0], "it is of another program");
    }
}

//! `tidegate prog dump`: the bytecode of programs beside their sources.

use std::fmt;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use schemars::JsonSchema;
use serde::Serialize;
use tidegate_abi::control::{Id, MapInfo, MapInfoReply, ProgramCode, ProgramInfo};
use tidegate_abi::helper::{self, Param};
use tidegate_verifier::{Argument, Proven, Verified};

use super::why::Objects;
use super::{Report, live, prog};
use crate::client::{Client, Refused};
use crate::disasm;
use crate::error::{Error, Exit};
use crate::graph::{self, Way};
use crate::object::{self, Line, Object, Program};
use crate::report;

#[derive(Args)]
pub(super) struct Options {
    /// The object: compiled by clang -target bpf, or by rustc and llc. Where there is no such file: a program of the host, by its id,
    /// its name or its tag
    what: PathBuf,
    /// How it is printed
    #[arg(default_value = "xlated")]
    detail: Detail,
    /// Only the program of this name
    #[arg(long, value_name = "NAME")]
    program: Option<String>,
    /// An object with the functions and lines of the host's program; those of bundles that `apply` has put into place are known
    #[arg(long = "types", value_name = "OBJECT")]
    types: Vec<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Detail {
    /// Every instruction as it runs: linked, with the names of maps, helpers and functions
    Xlated,
    /// The same, and the bytes of every instruction
    Opcodes,
    /// The graph of what runs behind what, in the language of Graphviz: `... visual | dot -Tsvg > graph.svg`
    Visual,
    /// What the verifier proved: instructions that no run comes to, and what a helper is given in every run
    Proofs,
}

#[derive(Serialize, JsonSchema)]
pub(super) struct Dump {
    programs: Vec<Listing>,
    #[serde(skip)]
    detail: Detail,
}

#[derive(Serialize, JsonSchema)]
struct Listing {
    name: String,
    /// Of a program that a host has.
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<Id>,
    #[serde(rename = "type")]
    program_type: &'static str,
    maps: Vec<String>,
    functions: Vec<Function>,
}

#[derive(Serialize, JsonSchema)]
struct Function {
    name: String,
    slot: usize,
    instructions: Vec<Row>,
    /// Which of them run one after the other, if that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    blocks: Option<Vec<Block>>,
}

/// Instructions that run one after the other, up to where the next block begins.
#[derive(Serialize, JsonSchema)]
struct Block {
    /// Its first slot.
    slot: usize,
    /// The blocks that may run behind it.
    next: Vec<Next>,
}

#[derive(Serialize, JsonSchema)]
struct Next {
    slot: usize,
    /// Whether the condition that the block ends with must hold, or must not; null: it has none.
    taken: Option<bool>,
}

#[derive(Serialize, JsonSchema)]
struct Row {
    slot: usize,
    text: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    opcodes: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    proof: Option<Proof>,
    /// Where it came from, when that is not where the instruction before it came from, or a block begins with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<Source>,
}

#[derive(Serialize, JsonSchema)]
struct Proof {
    reached: bool,
    /// Arguments of a helper that are the same in every run.
    arguments: Vec<String>,
}

/// A line of the source.
#[derive(Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub(super) struct Source {
    pub(super) file: String,
    pub(super) line: u32,
    pub(super) text: String,
}

impl Options {
    /// The program of a host that is meant, if no file is.
    fn loaded(&self) -> Option<&str> {
        let text = self.what.to_str()?;
        // A path that leads nowhere is a mistake, and no program's name.
        let is_path = text.contains(['/', '\\', '.']) || self.what.is_file();
        (!is_path).then_some(text)
    }
}

pub(super) fn dump(
    options: &Options,
    host: Option<&Path>,
    connect: &dyn Fn() -> Result<Client, Error>,
) -> Result<Dump, Error> {
    if let Some(text) = options.loaded() {
        return match connect() {
            Ok(mut client) => loaded(&mut client, text, options, host),
            Err(_) if !live::is_named(host) => {
                let error = Error::new("file-not-found", Exit::NotFound, format!("there is no file {text}"));
                Err(error.with_help("if it is a program of a host, say of which: --host PATH"))
            }
            Err(other) => Err(other),
        };
    }
    let object = Object::read(&options.what)?;
    let wanted = |program: &&Program| options.program.as_ref().is_none_or(|name| *name == program.name);
    let programs = object.programs().iter().filter(wanted);
    let programs: Vec<_> =
        programs.map(|program| list(&object, program, options.detail)).collect::<Result<_, _>>()?;
    match &options.program {
        Some(name) if programs.is_empty() => {
            let known = object.programs().iter().map(|program| program.name.as_str()).collect::<Vec<_>>();
            let file = options.what.display();
            Err(Error::new(
                "program-not-found",
                Exit::NotFound,
                format!("{file}: no program is called {name}"),
            )
            .with_help(format!("its programs: {}", known.join(", "))))
        }
        _ => Ok(Dump { programs, detail: options.detail }),
    }
}

/// The program of the host that `text` names.
fn loaded(client: &mut Client, text: &str, options: &Options, host: Option<&Path>) -> Result<Dump, Error> {
    let refused = |refused: Refused| live::refused(&format!("dump `{text}`"), &refused);
    let (id, _) = prog::find(client, text)?;
    let info = client.call(&ProgramInfo { program: id }).map_err(refused)?;
    let code = client.call_bytes(&ProgramCode { program: id }).map_err(refused)?;
    let mut maps = Vec::new();
    for map in &info.maps {
        let MapInfoReply { name, def, .. } = client.call(&MapInfo { map: *map }).map_err(refused)?;
        maps.push(object::Map { name: name.to_string(), def, initial: None, key: None, value: None });
    }
    let objects = Objects::read(&options.types, host)?;
    let known = objects.program(&info).map(|(_, program)| (program.functions.clone(), program.lines.clone()));
    let object = Object::linked(&info.name, info.program_type, &code, maps, known);
    let programs = object.programs().iter().map(|program| list(&object, program, options.detail));
    let mut programs = programs.collect::<Result<Vec<_>, _>>()?;
    programs.iter_mut().for_each(|listing| listing.id = Some(id));
    Ok(Dump { programs, detail: options.detail })
}

fn list(object: &Object, program: &Program, detail: Detail) -> Result<Listing, Error> {
    let proven = match detail {
        Detail::Proofs => Some(report::prove(object, program).map_err(|_| {
            let message = format!("{} is refused: nothing is proven of it", program.name);
            Error::new("program-refused", Exit::Refused, message)
                .with_help("`tidegate verify` says what is missing")
        })?),
        _ => None,
    };
    let blocks = if detail == Detail::Visual { graph::blocks(object, program) } else { Vec::new() };
    let mut functions: Vec<Function> = Vec::new();
    let mut shown = None;
    for instruction in disasm::program(object, program) {
        let disasm::Instruction { slot, slots, text } = instruction;
        if let Some(function) = program.function(slot).filter(|function| function.slot == slot) {
            let name = function.name.clone();
            functions.push(Function { name, slot, instructions: Vec::new(), blocks: None });
            shown = None;
        }
        // A box of its own needs a line of its own.
        if blocks.binary_search_by_key(&slot, graph::Block::slot).is_ok() {
            shown = None;
        }
        let line = program.line(slot).map(Source::of);
        let source = line.clone().filter(|line| shown.as_ref() != Some(line));
        shown = line;
        let opcodes = (detail == Detail::Opcodes)
            .then(|| disasm::bytes(program.insns.get(slot..slot + slots).unwrap_or_default()));
        let proof = proven.as_ref().map(|proven| Proof::of(object, program, proven, slot));
        if let Some(function) = functions.last_mut() {
            function.instructions.push(Row { slot, text, opcodes, proof, source });
        }
    }
    for block in &blocks {
        let function = functions.iter_mut().rfind(|function| function.slot <= block.slot());
        if let Some(function) = function {
            function.blocks.get_or_insert_default().push(Block::from(block));
        }
    }
    Ok(Listing {
        name: program.name.clone(),
        id: None,
        program_type: program.program_type.name(),
        maps: object.maps_of(program).map(|map| map.name.clone()).collect(),
        functions,
    })
}

impl From<&graph::Block> for Block {
    fn from(block: &graph::Block) -> Self {
        let next = block.next.iter().map(|edge| Next {
            slot: edge.to,
            taken: match edge.way {
                Way::Always => None,
                Way::Taken => Some(true),
                Way::Not => Some(false),
            },
        });
        Self { slot: block.slot(), next: next.collect() }
    }
}

impl Proof {
    fn of(object: &Object, program: &Program, proven: &Verified, slot: usize) -> Self {
        let helper = program.insns.get(slot).filter(|insn| insn.is_helper_call());
        let helper = helper.and_then(|insn| helper::by_number(insn.imm as u32));
        let params = helper.map_or(&[][..], |helper| helper.params);
        let argument = |(index, param): (usize, &Param)| {
            let value = match proven.argument(slot, index)? {
                Argument::Number(number) => (number as i64).to_string(),
                Argument::Map(map) => format!("map {}", object.maps_of(program).nth(map.into())?.name),
            };
            Some(format!("{} = {value}", param.name))
        };
        Self {
            reached: proven.proven(slot).contains(Proven::REACHED),
            arguments: params.iter().enumerate().filter_map(argument).collect(),
        }
    }
}

impl Source {
    pub(super) fn of(line: &Line) -> Self {
        // The text comes from the object, which anyone may have made: nothing in it may steer a terminal.
        let clean = annotate_snippets::normalize_untrusted_str;
        Self { file: clean(&line.file), line: line.line, text: clean(&line.text) }
    }
}

impl Source {
    /// Whether it only says that a block ends.
    pub(super) fn is_brace(&self) -> bool {
        self.text.trim() == "}"
    }
}

impl Report for Dump {}

impl fmt::Display for Dump {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.detail == Detail::Visual {
            return self.write_graph(f);
        }
        for program in &self.programs {
            for function in &program.functions {
                writeln!(f, "{} ({} of program {})", function.name, program.program_type, program.name)?;
                for row in &function.instructions {
                    if let Some(source) = &row.source {
                        writeln!(f, "; {}:{}  {}", source.file, source.line, source.text.trim())?;
                    }
                    writeln!(f, "{:6}: {}", row.slot, row.text)?;
                    if let Some(opcodes) = &row.opcodes {
                        writeln!(f, "        {opcodes}")?;
                    }
                    match &row.proof {
                        Some(Proof { reached: false, .. }) => writeln!(f, "        no run comes here")?,
                        Some(Proof { arguments, .. }) if !arguments.is_empty() => {
                            writeln!(f, "        in every run {}", arguments.join(", "))?;
                        }
                        _ => {}
                    }
                }
                writeln!(f)?;
            }
        }
        Ok(())
    }
}

impl Dump {
    /// One graph of all programs: a frame for each function, a box for each block.
    fn write_graph(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "digraph programs {{\n  node [shape=box, fontname=monospace];")?;
        for (at, program) in self.programs.iter().enumerate() {
            for function in &program.functions {
                let title =
                    format!("{} ({} of program {})", function.name, program.program_type, program.name);
                writeln!(f, "  subgraph \"cluster_{at}_{}\" {{", function.slot)?;
                writeln!(f, "    label=\"{}\";", dot(&title))?;
                let blocks = function.blocks.as_deref().unwrap_or_default();
                for (number, block) in blocks.iter().enumerate() {
                    let end = blocks.get(number + 1).map_or(usize::MAX, |next| next.slot);
                    write!(f, "    \"{at}_{}\" [label=\"", block.slot)?;
                    let from = function.instructions.partition_point(|row| row.slot < block.slot);
                    for row in function.instructions[from..].iter().take_while(|row| row.slot < end) {
                        row.write_label(f)?;
                    }
                    writeln!(f, "\"];")?;
                }
                writeln!(f, "  }}")?;
                for block in blocks {
                    for next in &block.next {
                        let look = match next.taken {
                            None => "",
                            Some(true) => " [label=yes]",
                            Some(false) => " [label=no, style=dashed]",
                        };
                        writeln!(f, "  \"{at}_{}\" -> \"{at}_{}\"{look};", block.slot, next.slot)?;
                    }
                }
            }
        }
        writeln!(f, "}}")
    }
}

impl Row {
    /// Its lines in a box: `\l` ends one that begins at the left.
    fn write_label(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(Source { file, line, text }) = &self.source {
            write!(f, "; {}:{line}  {}\\l", dot(file), dot(text.trim()))?;
        }
        write!(f, "{:6}: {}\\l", self.slot, dot(&self.text))
    }
}

/// `text` between quotes of Graphviz's language. Names come from the object, which anyone may have made.
fn dot(text: &str) -> String {
    let clean = annotate_snippets::normalize_untrusted_str(text);
    clean.replace('\\', "\\\\").replace('"', "\\\"").replace('&', "&amp;")
}

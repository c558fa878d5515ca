//! `tidegate prog dump` and `tidegate prog run`.

use std::fmt;
use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use serde::Serialize;

use super::Report;
use crate::disasm;
use crate::error::{Error, Exit};
use crate::object::{Line, Object, Program};
use crate::run;

#[derive(Subcommand)]
pub(super) enum Verb {
    /// Print the bytecode of the programs in an object, beside the source lines that it came from
    Dump(DumpOptions),
    /// Run the programs of an object over a capture and write what comes out as a capture
    Run(run::Options),
}

#[derive(Args)]
pub(super) struct DumpOptions {
    /// The object: compiled by clang -target bpf, or by rustc and llc
    file: PathBuf,
    /// What to print beside the instructions
    detail: Option<Detail>,
    /// Only the program of this name
    #[arg(long, value_name = "NAME")]
    program: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Detail {
    /// The bytes of every instruction
    Opcodes,
}

#[derive(Serialize)]
pub(super) struct Dump {
    programs: Vec<Listing>,
}

#[derive(Serialize)]
struct Listing {
    name: String,
    #[serde(rename = "type")]
    program_type: &'static str,
    maps: Vec<String>,
    functions: Vec<Function>,
}

#[derive(Serialize)]
struct Function {
    name: String,
    slot: usize,
    instructions: Vec<Row>,
}

#[derive(Serialize)]
struct Row {
    slot: usize,
    text: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    opcodes: Option<String>,
    /// Where it came from, when that is not where the instruction before it came from.
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<Source>,
}

#[derive(Serialize, PartialEq, Eq, Clone)]
struct Source {
    file: String,
    line: u32,
    text: String,
}

pub(super) fn dump(options: &DumpOptions) -> Result<Dump, Error> {
    let object = Object::read(&options.file)?;
    let wanted = |program: &&Program| options.program.as_ref().is_none_or(|name| *name == program.name);
    let opcodes = options.detail == Some(Detail::Opcodes);
    let programs: Vec<_> =
        object.programs().iter().filter(wanted).map(|program| list(&object, program, opcodes)).collect();
    match &options.program {
        Some(name) if programs.is_empty() => {
            let known = object.programs().iter().map(|program| program.name.as_str()).collect::<Vec<_>>();
            let file = options.file.display();
            Err(Error::new(
                "program-not-found",
                Exit::NotFound,
                format!("{file}: no program is called {name}"),
            )
            .with_help(format!("its programs: {}", known.join(", "))))
        }
        _ => Ok(Dump { programs }),
    }
}

fn list(object: &Object, program: &Program, opcodes: bool) -> Listing {
    let mut functions: Vec<Function> = Vec::new();
    let mut shown = None;
    for instruction in disasm::program(object, program) {
        let disasm::Instruction { slot, slots, text } = instruction;
        if let Some(function) = program.function(slot).filter(|function| function.slot == slot) {
            functions.push(Function { name: function.name.clone(), slot, instructions: Vec::new() });
            shown = None;
        }
        let line = program.line(slot).map(Source::of);
        let source = line.clone().filter(|line| shown.as_ref() != Some(line));
        shown = line;
        let opcodes =
            opcodes.then(|| disasm::bytes(program.insns.get(slot..slot + slots).unwrap_or_default()));
        if let Some(function) = functions.last_mut() {
            function.instructions.push(Row { slot, text, opcodes, source });
        }
    }
    let maps = program.maps.iter().filter_map(|index| object.maps().get(*index));
    Listing {
        name: program.name.clone(),
        program_type: program.program_type.name(),
        maps: maps.map(|map| map.name.clone()).collect(),
        functions,
    }
}

impl Source {
    fn of(line: &Line) -> Self {
        // The text comes from the object, which anyone may have made: nothing in it may steer a terminal.
        let clean = annotate_snippets::normalize_untrusted_str;
        Self { file: clean(&line.file), line: line.line, text: clean(&line.text) }
    }
}

impl Report for Dump {}

impl fmt::Display for Dump {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
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
                }
                writeln!(f)?;
            }
        }
        Ok(())
    }
}

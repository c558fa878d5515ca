//! `tidegate prog dump`: the bytecode of programs beside their sources.

use std::fmt;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use schemars::JsonSchema;
use serde::Serialize;
use tidegate_abi::helper::{self, Param};
use tidegate_verifier::{Argument, Proven, Verified};

use super::Report;
use crate::disasm;
use crate::error::{Error, Exit};
use crate::object::{Line, Object, Program};
use crate::report;

#[derive(Args)]
pub(super) struct Options {
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
    /// What the verifier proved: instructions that no run comes to, and what a helper is given in every run
    Proofs,
}

#[derive(Serialize, JsonSchema)]
pub(super) struct Dump {
    programs: Vec<Listing>,
}

#[derive(Serialize, JsonSchema)]
struct Listing {
    name: String,
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
}

#[derive(Serialize, JsonSchema)]
struct Row {
    slot: usize,
    text: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    opcodes: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    proof: Option<Proof>,
    /// Where it came from, when that is not where the instruction before it came from.
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

pub(super) fn dump(options: &Options) -> Result<Dump, Error> {
    let object = Object::read(&options.file)?;
    let wanted = |program: &&Program| options.program.as_ref().is_none_or(|name| *name == program.name);
    let programs = object.programs().iter().filter(wanted);
    let programs: Vec<_> =
        programs.map(|program| list(&object, program, options.detail)).collect::<Result<_, _>>()?;
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

fn list(object: &Object, program: &Program, detail: Option<Detail>) -> Result<Listing, Error> {
    let proven = match detail {
        Some(Detail::Proofs) => Some(report::prove(object, program).map_err(|_| {
            let message = format!("{} is refused: nothing is proven of it", program.name);
            Error::new("program-refused", Exit::Refused, message)
                .with_help("`tidegate verify` says what is missing")
        })?),
        _ => None,
    };
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
        let opcodes = (detail == Some(Detail::Opcodes))
            .then(|| disasm::bytes(program.insns.get(slot..slot + slots).unwrap_or_default()));
        let proof = proven.as_ref().map(|proven| Proof::of(object, program, proven, slot));
        if let Some(function) = functions.last_mut() {
            function.instructions.push(Row { slot, text, opcodes, proof, source });
        }
    }
    Ok(Listing {
        name: program.name.clone(),
        program_type: program.program_type.name(),
        maps: object.maps_of(program).map(|map| map.name.clone()).collect(),
        functions,
    })
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

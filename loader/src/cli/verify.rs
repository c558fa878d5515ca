//! `tidegate verify FILE...`.

use std::fmt;
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;
use tidegate_abi::limits::DEFAULT_BUDGET;
use tidegate_verifier as verifier;

use super::Report;
use crate::error::{Error, Exit};
use crate::object::{Object, Program};
use crate::report::{Diagnosis, capabilities};

#[derive(Args)]
pub(super) struct Options {
    /// The objects: compiled by clang -target bpf, or by rustc and llc
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
}

/// The verdict about every program of some objects.
#[derive(Serialize)]
pub(super) struct Verification {
    accepted: usize,
    refused: usize,
    objects: Vec<Verified>,
    #[serde(skip)]
    color: bool,
}

#[derive(Serialize)]
struct Verified {
    file: String,
    programs: Vec<Checked>,
}

#[derive(Serialize)]
struct Checked {
    name: String,
    #[serde(rename = "type")]
    program_type: &'static str,
    insns: usize,
    maps: Vec<UsedMap>,
    #[serde(flatten)]
    outcome: Outcome,
}

#[derive(Serialize)]
struct UsedMap {
    name: String,
    kind: &'static str,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
}

#[derive(Serialize)]
#[serde(tag = "verdict", rename_all = "kebab-case")]
enum Outcome {
    Accepted { max_cost: u64, steps: u32, states: u32, capabilities: Vec<&'static str> },
    Refused { diagnosis: Box<Diagnosis> },
}

pub(super) fn verify(options: &Options) -> Result<Verification, Error> {
    let objects = options.files.iter().map(|file| verify_file(file)).collect::<Result<Vec<_>, _>>()?;
    let programs = || objects.iter().flat_map(|object| &object.programs);
    let accepted = programs().filter(|program| matches!(program.outcome, Outcome::Accepted { .. })).count();
    Ok(Verification {
        accepted,
        refused: programs().count() - accepted,
        objects,
        color: io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none(),
    })
}

fn verify_file(file: &Path) -> Result<Verified, Error> {
    let object = Object::read(file)?;
    let programs = object.programs().iter().map(|program| check(&object, program)).collect();
    Ok(Verified { file: file.display().to_string(), programs })
}

fn check(object: &Object, program: &Program) -> Checked {
    let code = program.code();
    let defs = object.map_defs(program);
    let input = verifier::Program { program_type: program.program_type, code: &code, maps: &defs };
    let outcome = match verifier::verify(&input, &verifier::Options::default()) {
        Ok(verified) => Outcome::Accepted {
            max_cost: verified.max_cost(),
            steps: verified.steps(),
            states: verified.states(),
            capabilities: capabilities(verified.capabilities()),
        },
        Err(refusal) => Outcome::Refused { diagnosis: Box::new(Diagnosis::new(object, program, &refusal)) },
    };
    let maps = program.maps.iter().filter_map(|index| object.maps().get(*index));
    Checked {
        name: program.name.clone(),
        program_type: program.program_type.name(),
        insns: program.insns.len(),
        maps: maps
            .map(|map| UsedMap {
                name: map.name.clone(),
                kind: map.def.kind.name(),
                key_size: map.def.key_size,
                value_size: map.def.value_size,
                max_entries: map.def.max_entries,
            })
            .collect(),
        outcome,
    }
}

impl Report for Verification {
    fn exit(&self) -> Exit {
        if self.refused == 0 { Exit::Ok } else { Exit::Refused }
    }
}

impl fmt::Display for Verification {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for object in &self.objects {
            writeln!(f, "{}", object.file)?;
            for program in &object.programs {
                program.write(f, self.color)?;
            }
        }
        writeln!(f, "{} accepted, {} refused", self.accepted, self.refused)
    }
}

impl Checked {
    fn write(&self, f: &mut fmt::Formatter<'_>, color: bool) -> fmt::Result {
        let Self { name, program_type, .. } = self;
        match &self.outcome {
            Outcome::Accepted { max_cost, steps, states, capabilities } => {
                writeln!(f, "{name} ({program_type}): accepted")?;
                writeln!(f, "  instructions  {}, at most {max_cost} executed in one run", self.insns)?;
                if *max_cost > u64::from(DEFAULT_BUDGET) {
                    writeln!(
                        f,
                        "                more than the default budget of {DEFAULT_BUDGET}: its link needs a larger one"
                    )?;
                }
                writeln!(f, "  verified in   {steps} steps, {states} states")?;
                self.write_maps(f)?;
                let powers =
                    if capabilities.is_empty() { "nothing else".into() } else { capabilities.join(", ") };
                writeln!(f, "  may           decide, {powers}")
            }
            Outcome::Refused { diagnosis } => {
                writeln!(f, "{name} ({program_type}): refused")?;
                writeln!(f, "{}", diagnosis.render(color))?;
                writeln!(f)
            }
        }
    }

    fn write_maps(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, map) in self.maps.iter().enumerate() {
            let UsedMap { name, kind, key_size, value_size, max_entries } = map;
            let label = if index == 0 { "maps" } else { "" };
            let sizes = match *kind {
                "ringbuf" => format!("{max_entries} bytes"),
                _ => format!("{max_entries} entries, {key_size} bytes to {value_size}"),
            };
            writeln!(f, "  {label:<13} {name} ({kind}, {sizes})")?;
        }
        Ok(())
    }
}

//! `tidegate verify FILE...`, which is `tidegate prog verify FILE...` too.

use std::fmt;
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};

use clap::Args;
use schemars::JsonSchema;
use serde::{Serialize, Serializer};
use tidegate_abi::limits::DEFAULT_BUDGET;

use super::{Fields, Output, Report};
use crate::error::{Error, Exit};
use crate::explain::{self, Explanation};
use crate::object::{Object, Program};
use crate::report::{Diagnosis, capabilities, prove};
use crate::sarif;
use crate::tally::count;

#[derive(Args)]
pub(super) struct Options {
    /// The objects: compiled by clang -target bpf, or by rustc and llc
    #[arg(required_unless_present = "explain", value_name = "FILE")]
    files: Vec<PathBuf>,
    /// What a code means, with a program that is refused with it and the same program mended
    #[arg(long, value_name = "CODE", conflicts_with = "files")]
    explain: Option<String>,
    /// Print refusals as a SARIF 2.1.0 log, for editors and code hosts; a JSON document of its own, so not with -j
    #[arg(long, conflicts_with = "explain")]
    sarif: bool,
}

/// What the verb has to say.
#[derive(Serialize, JsonSchema)]
#[serde(untagged)]
pub(super) enum Said {
    Verification(Verification),
    Explanation(Explanation),
}

/// The verdict about every program of some objects.
#[derive(Serialize, JsonSchema)]
pub(super) struct Verification {
    accepted: usize,
    refused: usize,
    /// Files that no object could be read from.
    unread: usize,
    objects: Vec<Verified>,
    #[serde(skip)]
    look: Look,
}

/// How a verification is shown to people.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Look {
    Plain,
    Color,
    Sarif,
}

#[derive(Serialize, JsonSchema)]
struct Verified {
    file: String,
    programs: Vec<Checked>,
    /// Why nothing is known of its programs.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "fields")]
    #[schemars(with = "Option<Fields>")]
    error: Option<Error>,
}

fn fields<S: Serializer>(error: &Option<Error>, to: S) -> Result<S::Ok, S::Error> {
    error.as_ref().map(Fields::from).serialize(to)
}

impl Verified {
    fn unread(file: &Path, error: Error) -> Self {
        Self { file: file.display().to_string(), programs: Vec::new(), error: Some(error) }
    }
}

#[derive(Serialize, JsonSchema)]
struct Checked {
    name: String,
    #[serde(rename = "type")]
    program_type: &'static str,
    insns: usize,
    maps: Vec<UsedMap>,
    #[serde(flatten)]
    outcome: Outcome,
}

#[derive(Serialize, JsonSchema)]
struct UsedMap {
    name: String,
    kind: &'static str,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
}

#[derive(Serialize, JsonSchema)]
#[serde(tag = "verdict", rename_all = "kebab-case")]
enum Outcome {
    Accepted { max_cost: u64, steps: u32, states: u32, capabilities: Vec<&'static str> },
    Refused { diagnosis: Box<Diagnosis> },
}

pub(super) fn verify(options: &Options, output: Output) -> Result<Said, Error> {
    if let Some(code) = &options.explain {
        let found = explain::explain(code).ok_or_else(|| {
            let codes: Vec<_> = explain::all().map(|known| known.code).collect();
            Error::new("no-such-code", Exit::NotFound, format!("there is no code {code}"))
                .with_help(format!("the codes are {}", codes.join(", ")))
        });
        return found.map(Said::Explanation);
    }
    if options.sarif && output.json() {
        return Err(Error::usage(
            "verify-sarif",
            "a SARIF log is a JSON document of its own, and -j prints another",
        )
        .with_help("leave out -j, or --sarif"));
    }
    let progress = output.progress();
    progress.expect(options.files.len());
    let verified = |file: &PathBuf| progress.of(|| file.display().to_string(), || verify_file(file));
    let objects = match &options.files[..] {
        [file] => vec![verified(file)?],
        // What is wrong with one says nothing of the others.
        files => files
            .iter()
            .map(|file| verified(file).unwrap_or_else(|error| Verified::unread(file, error)))
            .collect(),
    };
    let programs = || objects.iter().flat_map(|object| &object.programs);
    let accepted = programs().filter(|program| matches!(program.outcome, Outcome::Accepted { .. })).count();
    let color = io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let look = if color { Look::Color } else { Look::Plain };
    let unread = objects.iter().filter(|object| object.error.is_some()).count();
    let look = if options.sarif { Look::Sarif } else { look };
    let refused = programs().count() - accepted;
    Ok(Said::Verification(Verification { accepted, refused, unread, objects, look }))
}

fn verify_file(file: &Path) -> Result<Verified, Error> {
    let object = Object::read(file)?;
    let programs = object.programs().iter().map(|program| check(&object, program)).collect();
    Ok(Verified { file: file.display().to_string(), programs, error: None })
}

fn check(object: &Object, program: &Program) -> Checked {
    let outcome = match prove(object, program) {
        Ok(verified) => Outcome::Accepted {
            max_cost: verified.max_cost(),
            steps: verified.steps(),
            states: verified.states(),
            capabilities: capabilities(verified.capabilities()),
        },
        Err(refusal) => Outcome::Refused { diagnosis: Box::new(Diagnosis::new(object, program, &refusal)) },
    };
    Checked {
        name: program.name.clone(),
        program_type: program.program_type.name(),
        insns: program.insns.len(),
        maps: object
            .maps_of(program)
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

impl Report for Said {
    /// The highest of what its files would end it with one by one.
    fn exit(&self) -> Exit {
        let Self::Verification(verification) = self else { return Exit::Ok };
        let refused = if verification.refused > 0 { Exit::Refused } else { Exit::Ok };
        let unread = verification.objects.iter().filter_map(|object| Some(object.error.as_ref()?.exit));
        unread.chain([refused]).max_by_key(|exit| *exit as u8).unwrap_or(Exit::Ok)
    }
}

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Verification(verification) => verification.fmt(f),
            Self::Explanation(explanation) => explanation.fmt(f),
        }
    }
}

impl fmt::Display for Verification {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.look == Look::Sarif {
            let refused = self.objects.iter().flat_map(|object| {
                object.programs.iter().filter_map(|program| match &program.outcome {
                    Outcome::Refused { diagnosis } => Some((object.file.as_str(), &**diagnosis)),
                    Outcome::Accepted { .. } => None,
                })
            });
            let unread = self.objects.iter().filter_map(|object| object.error.as_ref());
            return writeln!(f, "{:#}", sarif::log(refused, unread));
        }
        for object in &self.objects {
            writeln!(f, "{}", object.file)?;
            if let Some(error) = &object.error {
                writeln!(f, "{error}\n")?;
            }
            for program in &object.programs {
                program.write(f, self.look == Look::Color)?;
            }
        }
        if self.refused > 0 {
            writeln!(f, "tidegate verify --explain CODE tells more of a code.")?;
        }
        write!(f, "{} accepted, {} refused", self.accepted, self.refused)?;
        match self.unread {
            0 => writeln!(f),
            unread => writeln!(f, "; {} could not be read", count(unread, "file")),
        }
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

//! `tidegate gen`: the start of a policy, and what else is written from what is known.

use std::fmt;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use schemars::JsonSchema;
use serde::Serialize;
use tidegate_abi::ProgramType;

use super::{Report, man};
use crate::error::Error;
use crate::skeleton::{self, Language};

#[derive(Subcommand)]
pub(super) enum Verb {
    /// Start a policy: a folder with its source, how it is built, and scenarios that pass
    Skeleton(Options),
    /// Write a manual page for each verb
    Man(man::Options),
}

#[derive(Args)]
pub(super) struct Options {
    /// What it is written in
    language: Language,
    /// Its name: of the folder, the files and the function
    name: String,
    /// Where the folder is made
    #[arg(long, value_name = "DIR", default_value = ".")]
    dir: PathBuf,
    /// Start one about outgoing packets, instead of streams
    #[arg(long)]
    send: bool,
}

#[derive(Serialize, JsonSchema)]
pub(super) struct Made {
    folder: PathBuf,
    files: Vec<PathBuf>,
    object: PathBuf,
}

impl Report for Made {}

impl fmt::Display for Made {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for file in &self.files {
            writeln!(f, "{}", file.display())?;
        }
        let (folder, object) = (self.folder.display(), self.object.display());
        writeln!(f, "\nNow:\n  sh {folder}/build.sh\n  tidegate verify {object}\n  tidegate test {folder}")
    }
}

pub(super) fn skeleton(options: &Options) -> Result<Made, Error> {
    let folder = options.dir.join(&options.name);
    let kind = if options.send { ProgramType::Send } else { ProgramType::Stream };
    let files = skeleton::write(&folder, &options.name, options.language, kind)?;
    let object = match options.language {
        Language::C => format!("{}.o", options.name),
        Language::Rust => format!("{}-rs.o", options.name),
    };
    let object = folder.join(object);
    Ok(Made { folder, files, object })
}

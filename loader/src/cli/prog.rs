//! `tidegate prog dump` and `tidegate prog run`.

use std::fmt;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde::Serialize;

use super::Report;
use crate::error::Error;
use crate::object::Object;
use crate::run;

#[derive(Subcommand)]
pub(super) enum Verb {
    /// Print the bytecode of every program in an object, beside the source lines that it came from
    Dump(DumpOptions),
    /// Run the programs of an object over a capture and write what comes out as a capture
    Run(run::Options),
}

#[derive(Args)]
pub(super) struct DumpOptions {
    /// The object: compiled by clang -target bpf, or by rustc and llc
    file: PathBuf,
}

#[derive(Serialize)]
pub(super) struct Dump {}

impl Report for Dump {}

impl fmt::Display for Dump {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        Ok(())
    }
}

pub(super) fn dump(options: &DumpOptions) -> Result<Dump, Error> {
    Object::read(&options.file)?;
    Ok(Dump {})
}

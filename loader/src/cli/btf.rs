//! `tidegate btf dump`: the types of an object.

use std::fmt;
use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use schemars::JsonSchema;
use serde::Serialize;

use super::Report;
use crate::btf::{self, Btf, Row};
use crate::error::Error;
use crate::object;

#[derive(Subcommand)]
pub(super) enum Verb {
    /// Print the types of an object: as C declarations, or one by one as they stand in the file
    Dump(Options),
}

#[derive(Args)]
pub(super) struct Options {
    /// The object: compiled by clang -target bpf, or by rustc and llc
    file: PathBuf,
    /// How they are printed; with -j both are
    #[arg(long, value_enum, default_value = "c")]
    format: Format,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Declarations that a C compiler takes, with the sizes and offsets of the object
    C,
    /// A line for each type, with its number
    Text,
}

/// Types.
#[derive(Serialize, JsonSchema)]
pub(super) struct Dump {
    types: Vec<Row>,
    /// All of them as C declarations.
    c: String,
    #[serde(skip)]
    format: Option<Format>,
}

pub(super) fn dump(options: &Options) -> Result<Dump, Error> {
    let section = object::read_btf(&options.file)?;
    let btf = Btf::parse(&section).map_err(|error| {
        Error::usage("object-btf", format!("{}: {error}", options.file.display()))
            .with_help("the file is damaged, or its compiler is newer than this: build it again")
    })?;
    Ok(Dump { types: btf::rows(&btf).collect(), c: btf::c(&btf), format: Some(options.format) })
}

impl Report for Dump {}

impl fmt::Display for Dump {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.format == Some(Format::C) {
            return f.write_str(&self.c);
        }
        for row in &self.types {
            writeln!(f, "{row}")?;
        }
        Ok(())
    }
}

//! `tidegate abi dump c|rust|markdown`.

use std::fmt;

use clap::{Args, Subcommand, ValueEnum};
use schemars::JsonSchema;
use serde::Serialize;

use super::Report;
use crate::header;

#[derive(Subcommand)]
pub(super) enum Verb {
    /// Print what a policy is compiled against, for a compiler or for people
    Dump(Options),
}

#[derive(Args)]
pub(super) struct Options {
    /// The language to print it in
    language: Language,
}

#[derive(Clone, Copy, ValueEnum, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Language {
    /// A C header that needs no other: programs/include/tidegate.h is this output
    C,
    /// Declarations for a `no_std` crate
    Rust,
    /// The reference for people: docs/reference.md is this output
    Markdown,
}

#[derive(Serialize, JsonSchema)]
pub(super) struct Dump {
    language: Language,
    text: String,
}

impl Report for Dump {}

impl fmt::Display for Dump {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

pub(super) fn dump(options: &Options) -> Dump {
    let text = match options.language {
        Language::C => header::c(),
        Language::Rust => header::rust(),
        Language::Markdown => header::markdown(),
    };
    Dump { language: options.language, text }
}

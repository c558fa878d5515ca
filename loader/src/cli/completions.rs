//! `tidegate completions`.

use std::fmt;

use clap::{Args, CommandFactory};
use clap_complete::Shell;
use schemars::JsonSchema;
use serde::Serialize;

use super::{Cli, Report};

#[derive(Args)]
pub(super) struct Options {
    /// The shell
    shell: Shell,
}

#[derive(Serialize, JsonSchema)]
pub(super) struct Completions {
    shell: String,
    script: String,
}

pub(super) fn completions(options: &Options) -> Completions {
    let mut script = Vec::new();
    clap_complete::generate(options.shell, &mut Cli::command(), "tidegate", &mut script);
    Completions { shell: options.shell.to_string(), script: String::from_utf8_lossy(&script).into_owned() }
}

impl Report for Completions {}

impl fmt::Display for Completions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.script)
    }
}

//! Project chores: `cargo xtask VERB`. Each verb is one module; `--help` lists them.
#![forbid(unsafe_code)]

mod captures;
mod fuzz;
mod programs;
mod setup;
mod shell;
mod test;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Project chores of Tidegate.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Check everything: format, policies, lints, tests, documentation, licences.
    Test,
    /// Check for the Debian packages that demo, test and bench need, and install those that are missing.
    Setup,
    /// Compile the policies of programs/ into target/programs/.
    Programs,
    /// Run one fuzz target for a while; a finding is an error.
    Fuzz {
        /// What is fuzzed.
        target: fuzz::Target,
        /// For how long.
        #[arg(long, default_value_t = 60)]
        seconds: u32,
    },
    /// Record examples/captures/ anew from real programs talking over loopback.
    Captures {
        /// Set on the second call, which runs inside a network namespace of its own.
        #[arg(long, hide = true)]
        inside: bool,
    },
}

fn main() -> Result<()> {
    match Cli::parse().verb {
        Verb::Test => test::run(),
        Verb::Setup => setup::need(&[&setup::POLICIES, &setup::BENCHES]),
        Verb::Programs => programs::build().map(drop),
        Verb::Fuzz { target, seconds } => fuzz::run(target, seconds),
        Verb::Captures { inside: false } => captures::enter_namespace(),
        Verb::Captures { inside: true } => captures::record_all(),
    }
}

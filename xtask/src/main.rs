//! Project chores: `cargo xtask VERB`. Each verb is one module; `--help` lists them.
#![forbid(unsafe_code)]

mod captures;
mod code;
mod demo;
mod driver;
mod fuzz;
mod headers;
mod image;
mod lab;
mod matrix;
mod mutate;
mod programs;
mod readmes;
mod refusals;
mod rules;
mod schemas;
mod setup;
mod shell;
mod soak;
mod test;

use std::process::ExitCode;

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
    /// Show policies at work on captures of real programs.
    Demo,
    /// Check everything: format, policies, lints, tests, documentation, licences. Or one part of it.
    Test {
        /// Only this part.
        part: Option<test::Part>,
    },
    /// The platform's contract: each rule, its check, and the test that was seen to break it.
    Rules {
        /// Print one JSON document instead of a table.
        #[arg(long)]
        json: bool,
        /// Write docs/rules.md.
        #[arg(long, conflicts_with = "json")]
        write: bool,
    },
    /// Measure.
    #[command(subcommand)]
    Bench(Bench),
    /// Check for the Debian packages that demo, test and bench need, and install those that are missing.
    Setup,
    /// Build tidegate.sys and hold it against the rules for an image of the kernel.
    Driver {
        /// Build it a second time from nothing: both images must be the same.
        #[arg(long)]
        twice: bool,
        /// Check that it compiles for Windows on Arm too.
        #[arg(long)]
        arm: bool,
        /// Print one JSON document instead of text.
        #[arg(long)]
        json: bool,
    },
    /// Hold random programs of edits on random connections against what they do to a string; a million takes minutes.
    Property {
        /// How many connections.
        #[arg(long, default_value_t = 1_000_000)]
        cases: u64,
        /// Where to begin: the same seed runs the same cases.
        #[arg(long, default_value_t = 1 << 32)]
        seed: u64,
    },
    /// Load the engine from two threads while links are swapped, and watch its memory.
    Soak {
        /// For how long.
        #[arg(long, default_value_t = 600)]
        seconds: u64,
        /// Print one JSON document instead of a table.
        #[arg(long)]
        json: bool,
    },
    /// Run the driver in Wine: scenarios, unloading, speed, abuse.
    Lab(lab::Options),
    /// Compile the policies of programs/ into target/programs/.
    Programs,
    /// Verify every policy as clang 14, 16 and 19 compile it at -O1, -O2 and -Os, and as rustc does.
    Matrix,
    /// Hold the READMEs of programs/ against what the verifier says of the policies.
    Readmes,
    /// Change every comparison and constant of the policies, one at a time: do their scenarios notice?
    Mutate(mutate::Options),
    /// Write docs/refusals.md, and what users are shown for mistakes planted in policies.
    Refusals,
    /// Write loader/schemas/: what every verb of the command prints as JSON.
    Schemas,
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
        /// Only these of its files.
        files: Vec<String>,
    },
}

#[derive(Subcommand)]
enum Bench {
    /// One classify beside a callout written by hand: time, host instructions, bytes copied and allocated.
    Classify {
        /// Print one JSON document instead of a table.
        #[arg(long)]
        json: bool,
    },
    /// The virtual machine beside rbpf's interpreter and JIT and native code: time, and host instructions.
    Vm {
        /// Print one JSON document instead of a table.
        #[arg(long)]
        json: bool,
    },
    /// The verifier on policies, the fuzz corpus, generated programs and those built to hurt: time, memory, steps.
    Verify {
        /// Print one JSON document instead of tables.
        #[arg(long)]
        json: bool,
        /// Write docs/verifier-figures.md too.
        #[arg(long)]
        write: bool,
    },
    /// `tidegate proxy` beside a plain copy loop before nginx: bytes lost, throughput, latency.
    Proxy {
        /// Print one JSON document instead of a table.
        #[arg(long)]
        json: bool,
    },
}

fn main() -> ExitCode {
    match run(Cli::parse().verb) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(verb: Verb) -> Result<()> {
    match verb {
        Verb::Demo => demo::run(),
        Verb::Test { part: None } => test::run(),
        Verb::Test { part: Some(test::Part::Engine) } => test::engine(),
        Verb::Test { part: Some(test::Part::Lab) } => test::lab(),
        Verb::Rules { json, write } => rules::run(json, write),
        Verb::Bench(Bench::Classify { json }) => {
            setup::need(&[&setup::BENCHES])?;
            let mut bench = shell::command(&["cargo", "run", "--locked", "--release", "--quiet"]);
            shell::run(
                bench.args(["--package", "tidegate-callout-bench", "--"]).args(json.then_some("--json")),
            )
        }
        Verb::Bench(Bench::Vm { json }) => {
            setup::need(&[&setup::BENCHES])?;
            let mut bench = shell::command(&["cargo", "run", "--locked", "--release", "--quiet"]);
            shell::run(bench.args(["--package", "tidegate-vm-bench", "--"]).args(json.then_some("--json")))
        }
        Verb::Bench(Bench::Verify { json, write }) => {
            programs::build()?;
            matrix::compile()?;
            let mut bench = shell::command(&["cargo", "run", "--locked", "--release", "--quiet"]);
            bench.args(["--package", "tidegate-verifier-bench", "--"]).args(json.then_some("--json"));
            shell::run(bench.args(write.then_some("--write=docs/verifier-figures.md")))
        }
        Verb::Bench(Bench::Proxy { json }) => {
            setup::need(&[&setup::POLICIES, &setup::SERVERS])?;
            programs::build()?;
            let build = ["cargo", "build", "--locked", "--release", "--quiet", "--package", "tidegate"];
            shell::run(&mut shell::command(&[&build[..], &["--package", "tidegate-proxy-bench"]].concat()))?;
            let mut bench = shell::command(&["target/release/bench-proxy", "run"]);
            bench.args(["--tidegate", "target/release/tidegate", "--programs", "target/programs"]);
            shell::run(bench.args(json.then_some("--json")))
        }
        Verb::Setup => setup::need(&[&setup::POLICIES, &setup::CLANGS, &setup::READERS, &setup::BENCHES]),
        Verb::Driver { twice, arm, json } => driver::run(twice, arm, json),
        Verb::Property { cases, seed } => soak::property(cases, seed),
        Verb::Soak { seconds, json } => soak::soak(seconds, json),
        Verb::Lab(options) => lab::run(&options),
        Verb::Programs => programs::build().map(drop),
        Verb::Matrix => {
            shell::run(&mut shell::command(&["cargo", "build", "--locked", "--package", "tidegate"]))?;
            let tally = matrix::run()?;
            anyhow::ensure!(tally.failed == 0, "{} cells are not as they were", tally.failed);
            Ok(())
        }
        Verb::Readmes => {
            shell::run(&mut shell::command(&["cargo", "build", "--locked", "--package", "tidegate"]))?;
            let tally = readmes::check()?;
            anyhow::ensure!(tally.failed == 0, "{} objects are not described as they are", tally.failed);
            Ok(())
        }
        Verb::Mutate(options) => mutate::run(&options),
        Verb::Refusals => refusals::write(),
        Verb::Schemas => schemas::write(),
        Verb::Fuzz { target, seconds } => fuzz::run(target, seconds),
        Verb::Captures { inside: false, files } => captures::enter_namespace(&files),
        Verb::Captures { inside: true, files } => captures::record_all(&files),
    }
}

//! Shows the scenarios of policies to the driver, and to a machine in user space, and compares what comes of them.
//!
//! It runs beside the driver: programs go in through the driver's device, traffic through the simulator in the driver's
//! process. Every verb prints lines of JSON.

mod abuse;
mod doubles;
mod installed;
mod requests;
mod scenarios;
mod speed;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use serde::Serialize;

/// The lab's traffic.
#[derive(Parser)]
#[command(name = "traffic")]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Every scenario, on the driver and on a machine in user space: one line each
    Scenarios(scenarios::Options),
    /// Round trips, loads and classifies of the driver beside those of a machine in user space
    Speed {
        /// Folder with the compiled policies
        objects: PathBuf,
    },
    /// Load a policy and leave connections open with injections under way
    Leave {
        /// Folder with the compiled policies
        objects: PathBuf,
    },
    /// Show the driver, as it is, what the connections of a capture carried
    Replay {
        /// A capture, pcap or pcapng
        capture: PathBuf,
    },
    /// Start or stop the base filtering engine
    Service {
        /// true: it runs
        #[arg(action = clap::ArgAction::Set)]
        runs: bool,
    },
    /// What the doubles have found since they were last asked
    Report,
    /// Requests that no client makes, from many threads, while clients are killed and memory is short
    Abuse(abuse::Options),
    /// Ordinary commands without an end, for someone to kill in the middle of one
    Victim {
        /// Folder with the compiled policies
        objects: PathBuf,
    },
    /// Say `holding`, and wait for the end of the input
    Hold,
}

fn main() -> ExitCode {
    match run(&Cli::parse().verb) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(verb: &Verb) -> Result<()> {
    match verb {
        Verb::Scenarios(options) => scenarios::run(options),
        Verb::Speed { objects } => speed::run(objects),
        Verb::Leave { objects } => scenarios::leave(objects),
        Verb::Replay { capture } => scenarios::replay(capture),
        Verb::Service { runs } => line(&doubles::Doubles::connect()?.service(*runs)?),
        Verb::Report => line(&doubles::Doubles::connect()?.report()?),
        Verb::Abuse(options) => abuse::run(options),
        Verb::Victim { objects } => abuse::victim(objects),
        Verb::Hold => {
            println!("holding");
            std::io::copy(&mut std::io::stdin(), &mut std::io::sink())?;
            Ok(())
        }
    }
}

/// Prints a line of JSON.
fn line<T: Serialize>(value: &T) -> Result<()> {
    println!("{}", serde_json::to_string(value)?);
    Ok(())
}

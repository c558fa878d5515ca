//! `tidegate driver install|start|stop|uninstall|status`.

use std::fmt;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde::Serialize;
use tidegate_abi::control::Version;

use super::Report;
use crate::client::Client;
use crate::device::Device;
use crate::error::{Error, Exit};
use crate::service::{self, State};

#[derive(Subcommand)]
pub(super) enum Verb {
    /// Install the driver from its INF; it does not start by that
    Install(Install),
    /// Start the driver: from then on programs can be loaded
    Start,
    /// Stop the driver; its programs, maps and links are gone then
    Stop,
    /// Stop the driver and delete its service
    Uninstall,
    /// Say whether the driver is installed, runs and answers; exit code 3 when it does not
    Status,
}

#[derive(Args)]
pub(super) struct Install {
    /// The INF; tidegate.sys lies beside it
    #[arg(default_value = "tidegate.inf")]
    inf: PathBuf,
}

/// What became of the driver.
#[derive(Serialize)]
pub(super) struct Status {
    driver: State,
    /// What it answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    answer: Option<Answer>,
    #[serde(skip)]
    exit: Exit,
}

#[derive(Serialize)]
struct Answer {
    abi: u16,
    processors: u32,
}

pub(super) fn run(verb: &Verb) -> Result<Status, Error> {
    let done = |driver| Status { driver, answer: None, exit: Exit::Ok };
    match verb {
        Verb::Install(options) => service::install(&options.inf).map(done),
        Verb::Start => service::start().map(done),
        Verb::Stop => service::stop().map(done),
        Verb::Uninstall => service::uninstall().map(done),
        Verb::Status => status(),
    }
}

fn status() -> Result<Status, Error> {
    let driver = service::status()?;
    if driver != State::Running {
        return Ok(Status { driver, answer: None, exit: Exit::Driver });
    }
    let version = Client::driver(Device::open()?).call(&Version {});
    let version = version.map_err(|refused| {
        Error::new("driver-version", Exit::Driver, format!("the driver runs and is of no use: {refused}"))
    })?;
    let answer = Answer { abi: version.api, processors: version.processors };
    Ok(Status { driver, answer: Some(answer), exit: Exit::Ok })
}

impl Report for Status {
    fn exit(&self) -> Exit {
        self.exit
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the driver is {}", self.driver)?;
        match &self.answer {
            Some(answer) => {
                writeln!(f, "; it speaks ABI {} and knows {} processors", answer.abi, answer.processors)
            }
            None => writeln!(f),
        }
    }
}

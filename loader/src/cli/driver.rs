//! `tidegate driver install|start|stop|uninstall|status`.

use std::fmt;
use std::path::PathBuf;
use std::thread::sleep;
use std::time::Duration;

use clap::{Args, Subcommand};
use schemars::JsonSchema;
use serde::Serialize;
use tidegate_abi::ProgramType;
use tidegate_abi::control::{self, Filters, Version};

use super::Report;
use crate::client::{Client, Refused};
use crate::device::Device;
use crate::error::{Error, Exit};
use crate::service::{self, State};

#[derive(Subcommand)]
pub(super) enum Verb {
    /// Install the driver from its INF; it does not start by that
    Install(Install),
    /// Start the driver, and say what `status` says once its filters stand: from then on programs can be loaded
    Start,
    /// Stop the driver; its programs, maps and links are gone then
    Stop,
    /// Stop the driver and delete its service
    Uninstall,
    /// Say whether the driver is installed, runs, answers and is shown traffic, and what it holds; exit code 3 when it is not
    Status,
}

#[derive(Args)]
pub(super) struct Install {
    /// The INF; tidegate.sys lies beside it
    #[arg(default_value = "tidegate.inf")]
    inf: PathBuf,
}

/// What became of the driver.
#[derive(Serialize, JsonSchema)]
pub(super) struct Status {
    driver: State,
    /// What it answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    answer: Option<Answer>,
    #[serde(skip)]
    exit: Exit,
}

/// What a runtime says of itself.
#[derive(Serialize, JsonSchema)]
pub(super) struct Answer {
    pub(super) abi: u16,
    pub(super) release: String,
    processors: u32,
    filters: Traffic,
    programs: u32,
    links: u32,
    maps: u32,
}

/// Whether traffic is shown to the programs.
#[derive(Serialize, JsonSchema)]
#[serde(tag = "state", rename_all = "kebab-case")]
enum Traffic {
    None,
    Waiting,
    Refused {
        status: String,
    },
    Standing {
        persistent: bool,
    },
    /// A process shows its traffic, and none but that of programs of this type.
    Only {
        program_type: &'static str,
    },
}

impl Answer {
    /// Whether traffic of hooks of this type is ever shown.
    pub(super) fn shows(&self, kind: ProgramType) -> bool {
        !matches!(self.filters, Traffic::Only { program_type } if program_type != kind.name())
    }
}

pub(super) fn run(verb: &Verb) -> Result<Status, Error> {
    let done = |driver| Status { driver, answer: None, exit: Exit::Ok };
    match verb {
        Verb::Install(options) => service::install(&options.inf).map(done),
        Verb::Start => {
            service::start()?;
            settled()
        }
        Verb::Stop => service::stop().map(done),
        Verb::Uninstall => service::uninstall().map(done),
        Verb::Status => status(),
    }
}

/// The status once the filters stand, which the driver adds a moment after it has started; or what it is when that moment has
/// passed.
fn settled() -> Result<Status, Error> {
    let mut now = status()?;
    for _ in 0..500 {
        match now.answer {
            Some(Answer { filters: Traffic::Waiting, .. }) => sleep(Duration::from_millis(10)),
            _ => break,
        }
        now = status()?;
    }
    Ok(now)
}

fn status() -> Result<Status, Error> {
    let driver = service::status()?;
    if driver != State::Running {
        return Ok(Status { driver, answer: None, exit: Exit::Driver });
    }
    let answer = ask(&mut Client::driver(Device::open()?)).map_err(|refused| {
        Error::new("driver-version", Exit::Driver, format!("the driver runs and is of no use: {refused}"))
    })?;
    let exit = if matches!(answer.filters, Traffic::Standing { .. }) { Exit::Ok } else { Exit::Driver };
    Ok(Status { driver, answer: Some(answer), exit })
}

pub(super) fn ask(client: &mut Client) -> Result<Answer, Refused> {
    let version = client.call(&Version {})?;
    let state = client.call(&control::State {})?;
    let filters = match state.filters {
        Filters::None => Traffic::None,
        Filters::Waiting => Traffic::Waiting,
        Filters::Refused(status) => Traffic::Refused { status: format!("{status:#010x}") },
        Filters::Standing { persistent } => Traffic::Standing { persistent },
        Filters::Only(kind) => Traffic::Only { program_type: kind.name() },
    };
    Ok(Answer {
        abi: version.api,
        release: state.release.to_string(),
        processors: version.processors,
        filters,
        programs: state.programs,
        links: state.links,
        maps: state.maps,
    })
}

impl Report for Status {
    fn exit(&self) -> Exit {
        self.exit
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "the driver is {}", self.driver)?;
        self.answer.as_ref().map_or(Ok(()), |answer| answer.fmt(f))
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { abi, release, processors, filters, programs, links, maps } = self;
        write!(f, "release {release}")?;
        let ours = env!("CARGO_PKG_VERSION");
        if release != ours {
            write!(f, " (this command is of {ours})")?;
        }
        writeln!(f, ", ABI {abi}; processors: {processors}")?;
        match filters {
            Traffic::None => writeln!(f, "no filters: no filter engine was told of it, as in user space")?,
            Traffic::Waiting => {
                writeln!(f, "no filters yet: the base filtering engine (service bfe) does not run")?;
            }
            Traffic::Refused { status } => {
                writeln!(f, "no filters: the base filtering engine refused them with {status}")?;
            }
            Traffic::Standing { persistent: false } => {
                writeln!(f, "callouts and filters stand; they go with the driver")?;
            }
            Traffic::Standing { persistent: true } => {
                writeln!(f, "callouts and filters stand; they outlive the driver")?;
            }
            Traffic::Only { program_type } => {
                writeln!(
                    f,
                    "a process in user space, which shows programs of type {program_type} what passes it"
                )?;
            }
        }
        let [programs, links, maps] = [(programs, "program"), (links, "link"), (maps, "map")]
            .map(|(count, what)| crate::tally::count(*count as usize, what));
        writeln!(f, "{programs}, {links}, {maps}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host;

    #[test]
    fn the_state_is_told_whole() {
        let runtime = host::runtime().expect("a runtime");
        let told = |filters| {
            runtime.set_filters(filters);
            ask(&mut Client::new(runtime.clone())).expect("an answer").to_string()
        };
        let standing = told(Filters::Standing { persistent: false });
        let version = format!("release {}, ABI {}", env!("CARGO_PKG_VERSION"), tidegate_abi::API_VERSION);
        assert!(standing.starts_with(&version), "{standing}");
        assert!(standing.contains("filters stand; they go with the driver"), "{standing}");
        assert!(standing.ends_with("\n0 programs, 0 links, 0 maps\n"), "{standing}");
        assert!(told(Filters::Waiting).contains("bfe"));
        assert!(told(Filters::Refused(0xc000_0022_u32 as i32)).contains("0xc0000022"));
        assert!(told(Filters::Standing { persistent: true }).contains("outlive"));
        assert!(told(Filters::Only(ProgramType::Send)).contains("of type send"));
    }
}

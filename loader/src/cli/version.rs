//! `tidegate version`: what this command is of, and the host, where one is named or found.

use std::fmt;
use std::path::Path;

use schemars::JsonSchema;
use serde::Serialize;

use super::{Fields, Report, SCHEMA, driver, live};
use crate::client::{Client, Refused};
use crate::error::{Error, Exit};

#[derive(Serialize, JsonSchema)]
pub(super) struct Version {
    version: &'static str,
    /// Of the verifier in this command: a host has that of its own release.
    verifier: &'static str,
    abi: u16,
    json_schema: u32,
    /// Null: none was named, and none is found.
    host: Option<Host>,
}

/// The host that verbs speak to.
#[derive(Serialize, JsonSchema)]
struct Host {
    /// How it was named: `driver`, or the path of a control socket.
    name: String,
    #[serde(flatten)]
    answer: Answer,
}

#[derive(Serialize, JsonSchema)]
#[serde(untagged)]
enum Answer {
    Is {
        kind: &'static str,
        version: String,
        /// It is of the same release.
        verifier: String,
        abi: u16,
    },
    /// It is of no use.
    Not {
        error: Fields,
        #[serde(skip)]
        exit: Exit,
    },
}

pub(super) fn version(host: Option<&Path>, connect: &dyn Fn() -> Result<Client, Error>) -> Version {
    let answer = match connect().and_then(|mut client| ask(&mut client)) {
        Ok(answer) => Some(answer),
        Err(error) if live::is_named(host) => {
            Some(Answer::Not { error: Fields::from(&error), exit: error.exit })
        }
        Err(_) => None,
    };
    let release = env!("CARGO_PKG_VERSION");
    Version {
        version: release,
        // All parts of a release have its number.
        verifier: release,
        abi: tidegate_abi::API_VERSION,
        json_schema: SCHEMA,
        host: answer.map(|answer| Host { name: live::name(host), answer }),
    }
}

fn ask(client: &mut Client) -> Result<Answer, Error> {
    let refused = |refused: Refused| live::refused("ask the host for its version", &refused);
    let kind = client.kind();
    let answer = driver::ask(client).map_err(refused)?;
    Ok(Answer::Is { kind, version: answer.release.clone(), verifier: answer.release, abi: answer.abi })
}

impl Report for Version {
    fn exit(&self) -> Exit {
        match &self.host {
            Some(Host { answer: Answer::Not { exit, .. }, .. }) => *exit,
            _ => Exit::Ok,
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "tidegate     {}", self.version)?;
        writeln!(f, "verifier     {}", self.verifier)?;
        writeln!(f, "abi          {}", self.abi)?;
        writeln!(f, "json schema  {}", self.json_schema)?;
        let Some(Host { name, answer }) = &self.host else { return Ok(()) };
        writeln!(f, "host         {name}")?;
        match answer {
            Answer::Is { kind, version, verifier, abi } => {
                writeln!(f, "  kind       {kind}\n  version    {version}")?;
                writeln!(f, "  verifier   {verifier}\n  abi        {abi}")
            }
            Answer::Not { error: Fields { code, message, help, .. }, .. } => {
                writeln!(f, "  error[{code}]: {message}")?;
                help.as_ref().map_or(Ok(()), |help| writeln!(f, "  help: {help}"))
            }
        }
    }
}

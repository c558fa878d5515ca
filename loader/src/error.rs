//! What a verb of the command line ends with when it does not succeed.

use std::fmt;
use std::io;
use std::path::Path;

use schemars::JsonSchema;
use serde::Serialize;

/// How the process ends. The numbers are part of the interface: scripts and pipelines read them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[repr(u8)]
pub enum Exit {
    /// Everything was done.
    Ok = 0,
    /// The arguments, or a file that they name, cannot be used.
    Usage = 1,
    /// The verifier refused a program.
    Refused = 2,
    /// The driver does not answer, or speaks another version.
    Driver = 3,
    /// The system denied access, or whoever answers for a program did not grant what it does.
    Denied = 4,
    /// A file, or a thing that was asked for by name, is not there.
    NotFound = 5,
    /// Part of the work was done, or a test failed.
    Partial = 6,
}

/// An error for people (the message and its cure) and for programs (the code and the exit).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// Stable name of the kind of error, as `object-malformed`; no two causes share one.
    pub code: &'static str,
    /// How the process ends.
    pub exit: Exit,
    /// What is wrong, and where.
    pub message: String,
    /// What to do about it, when that is known.
    pub help: Option<String>,
}

impl Error {
    /// An error without a cure.
    pub fn new(code: &'static str, exit: Exit, message: impl Into<String>) -> Self {
        Self { code, exit, message: message.into(), help: None }
    }

    /// The arguments, or a file that they name, cannot be used.
    pub fn usage(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(code, Exit::Usage, message)
    }

    /// The same error with what to do about it.
    #[must_use]
    pub fn with_help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// `doing` (as "read", "write") the file at `path` failed.
    pub fn file(doing: &str, path: &Path, error: &io::Error) -> Self {
        let (code, exit) = match error.kind() {
            io::ErrorKind::NotFound => ("file-not-found", Exit::NotFound),
            io::ErrorKind::PermissionDenied => ("file-denied", Exit::Denied),
            _ => ("file-io", Exit::Usage),
        };
        Self::new(code, exit, format!("cannot {doing} {}: {error}", path.display()))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error[{}]: {}", self.code, self.message)?;
        match &self.help {
            Some(help) => write!(f, "\n  help: {help}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Error {}

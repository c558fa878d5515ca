//! Why a file is not an object that can be loaded.

use std::fmt;
use std::path::Path;

use crate::error::Error;

/// What is wrong with an object, where, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectError {
    /// Stable name of the kind of error.
    pub code: &'static str,
    /// What is wrong, and in which section or symbol.
    pub message: String,
    /// What to do about it.
    pub help: String,
}

/// The tool's help for damage: nothing in the source is at fault.
const REBUILD: &str = "the file is damaged or was cut short: build it again";

impl ObjectError {
    pub(super) fn new(code: &'static str, message: impl Into<String>, help: impl Into<String>) -> Self {
        Self { code, message: message.into(), help: help.into() }
    }

    /// As the error of a command that was given the file at `path`.
    pub(super) fn of(self, path: &Path) -> Error {
        Error::usage(self.code, format!("{}: {}", path.display(), self.message)).with_help(self.help)
    }

    /// The file contradicts itself.
    pub(super) fn damaged(message: impl Into<String>) -> Self {
        Self::new("object-damaged", message, REBUILD)
    }

    /// The object is well formed, and larger than anything that could be loaded.
    pub(super) fn too_large(message: impl Into<String>) -> Self {
        Self::new("object-too-large", message, "split the object: each policy in a file of its own")
    }

    /// A map is not well defined.
    pub(super) fn map(name: &str, what: impl fmt::Display, help: impl Into<String>) -> Self {
        Self::new("object-map", format!("map {name}: {what}"), help)
    }

    /// A relocation that can't be carried out.
    pub(super) fn relocation(message: impl Into<String>, help: impl Into<String>) -> Self {
        Self::new("object-relocation", message, help)
    }
}

impl fmt::Display for ObjectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.message, self.help)
    }
}

impl std::error::Error for ObjectError {}

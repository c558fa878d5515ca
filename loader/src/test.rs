//! Runs the scenarios of policies.

use std::fmt;

use serde::Serialize;

use crate::cli;
use crate::error::{Error, Exit};

/// What `tidegate test` was asked to do.
#[derive(clap::Args)]
pub struct Options {}

/// What came of it.
#[derive(Serialize)]
pub struct Report {}

impl cli::Report for Report {
    fn exit(&self) -> Exit {
        Exit::Ok
    }
}

impl fmt::Display for Report {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        Ok(())
    }
}

/// Does it.
///
/// # Errors
/// Input that cannot be used.
pub fn run(_options: &Options) -> Result<Report, Error> {
    Err(Error::new("not-available", Exit::Partial, "this verb is not built yet"))
}

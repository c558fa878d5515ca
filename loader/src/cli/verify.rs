//! `tidegate verify FILE`.

use std::fmt;
use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use super::Report;
use crate::error::{Error, Exit};
use crate::object::Object;

#[derive(Args)]
pub(super) struct Options {
    /// The object: compiled by clang -target bpf, or by rustc and llc
    file: PathBuf,
}

#[derive(Serialize)]
pub(super) struct Verified {}

impl Report for Verified {
    fn exit(&self) -> Exit {
        Exit::Ok
    }
}

impl fmt::Display for Verified {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        Ok(())
    }
}

pub(super) fn verify(options: &Options) -> Result<Verified, Error> {
    Object::read(&options.file)?;
    Ok(Verified {})
}

//! `tidegate version`.

use std::fmt;

use schemars::JsonSchema;
use serde::Serialize;

use super::{Report, SCHEMA};

#[derive(Serialize, JsonSchema)]
pub(super) struct Version {
    version: &'static str,
    abi: u16,
    json_schema: u32,
}

impl Report for Version {}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "tidegate     {}", self.version)?;
        writeln!(f, "abi          {}", self.abi)?;
        writeln!(f, "json schema  {}", self.json_schema)
    }
}

pub(super) fn version() -> Version {
    Version { version: env!("CARGO_PKG_VERSION"), abi: tidegate_abi::API_VERSION, json_schema: SCHEMA }
}

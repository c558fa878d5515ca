//! The command line and its library: objects, reports, captures, host, scenarios.
// On Windows one module calls the system: `device`.
#![cfg_attr(not(windows), forbid(unsafe_code))]
#![cfg_attr(windows, deny(unsafe_code))]

pub mod btf;
pub mod bundle;
pub mod cli;
pub mod disasm;
pub mod error;
pub mod explain;
pub mod graph;
pub mod header;
pub mod object;
pub mod report;

pub mod capture;
pub mod client;
pub mod device;
pub mod filter;
pub mod flows;
pub mod grants;
pub mod host;
pub mod progress;
pub mod proxy;
pub mod run;
pub mod sarif;
pub mod scenario;
pub mod service;
pub mod skeleton;
pub mod socket;
pub mod tally;
pub mod test;
#[cfg(target_os = "linux")]
pub mod tun;

mod control;
mod signals;
mod wire;

pub use error::{Error, Exit};
pub use object::{Object, ObjectError};

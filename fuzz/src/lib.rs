//! What the fuzzers run: one module a target, each with a function over bytes that may be anything. A panic is a finding.
#![forbid(unsafe_code)]

pub mod bytecode;
pub mod control;
pub mod generate;
pub mod object;
#[cfg(feature = "claims")]
pub mod reference;
pub mod scenario;
#[cfg(feature = "claims")]
pub mod verify;

//! Hosts and those who speak to them, each the real command in a process of its own.
#![cfg(unix)]

mod apply;
mod batch;
mod common;
#[path = "../conform/mod.rs"]
mod conform;
mod control;
mod flow;
mod hostile;
mod signed;

//! The command line and its library: objects, control, host, scenarios, captures.
#![forbid(unsafe_code)]

//! What the driver decides, without the system under it: everything that can be held against tests on any machine.
//!
//! `sys` (the package in this folder's `sys/`) makes it tidegate.sys: it calls ntoskrnl and the filter engine, and asks here
//! what to do. The order of start and stop is [`sequence`], the judgement of requests [`request`], the service's parameters
//! [`parameters`], and what the filter engine is told to do with traffic [`objects`].
#![no_std]
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate std;

pub mod objects;
pub mod parameters;
pub mod request;
pub mod sequence;

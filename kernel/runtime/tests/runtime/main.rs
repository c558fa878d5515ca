//! A runtime seen from outside: control messages in, runs of links, replies out.

mod common;
mod memory;
mod messages;
mod objects;

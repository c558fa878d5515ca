//! A runtime seen from outside: control messages in, runs of links, replies out.

mod commit;
mod common;
mod memory;
mod messages;
mod objects;

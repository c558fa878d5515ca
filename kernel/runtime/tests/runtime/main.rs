//! A runtime seen from outside: control messages in, runs of links, replies out.

mod commit;
mod common;
mod grants;
mod memory;
mod messages;
mod objects;

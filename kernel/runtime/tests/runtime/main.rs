//! A runtime seen from outside: control messages in, runs of links, replies out.

mod common;
mod messages;
mod objects;

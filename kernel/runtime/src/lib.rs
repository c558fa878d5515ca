//! Programs, maps, links and events, and the answers to control requests.
#![no_std]
#![forbid(unsafe_code)]

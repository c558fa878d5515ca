//! Verified bytecode to a result: decode once, then run.
#![no_std]

//! Bytecode to a proof, or to a diagnosis.
#![no_std]
#![forbid(unsafe_code)]

//! What programs, loader and kernel agree on.
#![no_std]
#![forbid(unsafe_code)]

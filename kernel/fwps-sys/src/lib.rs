//! Declarations of fwpsk.h, fwpmk.h and nbl.h, and nothing else.
//!
//! Written by hand from the public DDI pages for x64 and arm64 Windows 10 and 11. Names are those of the DDI, so a
//! search for one finds its page; what that page says about IRQL and ownership is repeated on each function.
//! A constant family is one type, so that families that share numbers cannot be mixed:
//! `FWPS_STREAM_FLAG_RECEIVE` is [`FWPS_STREAM_FLAG::RECEIVE`]. What the system writes is a number with named
//! constants and never a Rust `enum`: a value that a later Windows invents must not be undefined behaviour here.
//!
//! On Windows the functions are imported from fwpkclnt.sys, ndis.sys and ntoskrnl.exe. Everywhere else, and wherever
//! the feature `simulated` is on, they are plain symbols and the crate `fwps-sim` answers them.
#![no_std]
#![allow(
    non_camel_case_types,
    non_snake_case,
    non_upper_case_globals,
    missing_docs,
    reason = "types and members carry the names of the DDI, whose pages describe them"
)]

mod base;
mod callout;
mod classify;
mod constants;
mod functions;
mod fwpm;
pub mod guid;
pub mod layer;
mod layout;
mod macros;
mod packet;
mod status;
mod stream;
mod transport;
mod value;

pub use base::*;
pub use callout::*;
pub use classify::*;
pub use constants::*;
pub use functions::*;
pub use fwpm::*;
pub use packet::*;
pub use status::*;
pub use stream::*;
pub use transport::*;
pub use value::*;

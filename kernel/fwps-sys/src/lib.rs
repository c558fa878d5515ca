//! Declarations of fwpsk.h, fwpmk.h and nbl.h, and nothing else.
//!
//! Written by hand from the public DDI pages for x64 and arm64 Windows 10 and 11. Names are those of the DDI, so a
//! search for one finds its page; what that page says about IRQL and ownership is repeated on each function.
//! A constant family is one type, so that families that share numbers cannot be mixed:
//! `FWPS_STREAM_FLAG_RECEIVE` is [`FWPS_STREAM_FLAG::RECEIVE`]. What the system writes is a number with named
//! constants and never a Rust `enum`: a value that a later Windows invents must not be undefined behaviour here.
//!
//! On Windows the functions are imported from fwpkclnt.sys, ndis.sys and (through the WDK's import library, which a driver
//! links anyway) ntoskrnl.exe. Everywhere else, and wherever
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
pub mod ntos;
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

#[cfg(test)]
mod tests {
    extern crate std;

    use std::format;

    use super::*;

    #[test]
    fn names_are_printed_instead_of_numbers() {
        assert_eq!(format!("{}", guid::LAYER_STREAM_V4), "3b89653c-c170-49e4-b1cd-e0eeeee19a3e");
        assert_eq!(
            format!("{:?}", FWPS_STREAM_FLAG::SEND | FWPS_STREAM_FLAG::SEND_DISCONNECT),
            "SEND|SEND_DISCONNECT"
        );
        assert_eq!(format!("{:?}", FWPS_STREAM_FLAG(0x8000_0001)), "RECEIVE|0x80000000");
        assert_eq!(format!("{:?}", FWP_ACTION(0x1002)), "PERMIT");
        assert_eq!(format!("{}", NTSTATUS::FWP_TCPIP_NOT_READY), "STATUS_FWP_TCPIP_NOT_READY");
    }

    #[test]
    fn only_success_is_ok() {
        assert_eq!(NTSTATUS::SUCCESS.ok(), Ok(()));
        assert!(NTSTATUS::OBJECT_NAME_EXISTS.nt_success() && NTSTATUS::OBJECT_NAME_EXISTS.ok().is_err());
        assert!(!NTSTATUS::DEVICE_BUSY.nt_success());
    }
}

//! Write Tidegate policies in Rust.
//!
//! A policy is a function from a context to `Result<Verdict, Error>`, made a program by [`stream!`] or [`send!`]; its maps are
//! statics inside [`maps!`]. Everything here is inlined into the policy: there is nothing to link.
//!
//! An error drops the data: what a policy can't judge does not pass.
//!
//! These are the files of `programs/sdk/examples`, which are compiled, verified and tested as the policies are.
// Only there for rustdoc, so that a copy of these sources beside a policy needs no examples. They are no doctests: those would be
// compiled for the host.
#![cfg_attr(doc, doc = "# A stream\n```ignore")]
#![cfg_attr(doc, doc = include_str!("../examples/no_telnet.rs"))]
#![cfg_attr(doc, doc = "```\n# Packets\n```ignore")]
#![cfg_attr(doc, doc = include_str!("../examples/mark_rtp.rs"))]
#![cfg_attr(doc, doc = "```\n# Maps, and records for user space\n```ignore")]
#![cfg_attr(doc, doc = include_str!("../examples/new_ports.rs"))]
#![cfg_attr(doc, doc = "```")]
#![no_std]

pub mod bindings;
mod cursor;
mod map;
mod send;
mod stream;

pub use bindings::Verdict;
pub use cursor::Cursor;
pub use map::{Array, FlowStorage, HashMap, LruHashMap, PerCpuArray, Record, RingBuf};
pub use send::{PacketClone, Send};
pub use stream::Stream;

/// Why a policy could not go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// The data ends before what was asked for.
    Short,
    /// The data is not what it should be.
    Malformed,
    /// A helper failed with this negated number.
    Helper(i64),
}

/// The result of a helper: zero is success, anything else its number.
#[inline(always)]
fn status(result: i64) -> Result<(), Error> {
    if result == 0 { Ok(()) } else { Err(Error::Helper(result)) }
}

/// Makes a function `fn(&Stream) -> Result<Verdict, Error>` the program `NAME` in section `tidegate/stream`.
#[macro_export]
macro_rules! stream {
    ($name:ident, $policy:path) => {
        $crate::program!($name, $policy, "tidegate/stream", StreamContext, Stream, DropConnection);
    };
}

/// Makes a function `fn(&Send) -> Result<Verdict, Error>` the program `NAME` in section `tidegate/send`.
#[macro_export]
macro_rules! send {
    ($name:ident, $policy:path) => {
        $crate::program!($name, $policy, "tidegate/send", SendContext, Send, Block);
    };
}

/// What [`stream!`] and [`send!`] have in common: the entry point.
#[doc(hidden)]
#[macro_export]
macro_rules! program {
    ($name:ident, $policy:path, $section:literal, $raw:ident, $context:ident, $on_error:ident) => {
        #[unsafe(no_mangle)]
        #[unsafe(link_section = $section)]
        extern "C" fn $name(context: *mut $crate::bindings::$raw) -> u64 {
            // SAFETY: the machine calls a program with the context of its type and no other.
            let context = unsafe { $crate::$context::from_raw(context) };
            match $policy(&context) {
                Ok(verdict) => verdict as u64,
                Err(_) => $crate::Verdict::$on_error as u64,
            }
        }
        /// What the object is compiled against, for its loader to see.
        const _: () = {
            #[used]
            #[unsafe(link_section = "tidegate.abi")]
            static ABI: u16 = $crate::bindings::API_VERSION;
        };
    };
}

/// Puts statics of map types where the loader finds them.
#[macro_export]
macro_rules! maps {
    ($( $(#[$meta:meta])* static $name:ident: $kind:ty; )*) => {
        $(
            $(#[$meta])*
            #[unsafe(no_mangle)]
            #[unsafe(link_section = ".maps")]
            static $name: $kind = <$kind>::new();
        )*
    };
}

/// No verified path reaches a panic; the language asks for a handler all the same.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

//! What programs, loader and kernel agree on: the one place for every number, name and limit.
//!
//! Everything here is `const` data or a plain type. The verifier and the VM read these tables, the C header and the
//! Rust SDK are checked against them, and the control messages are the wire between the loader and the kernel.
#![no_std]
#![forbid(unsafe_code)]

pub mod context;
pub mod control;
pub mod device;
pub mod errno;
pub mod filter;
pub mod grants;
pub mod helper;
pub mod hook;
pub mod insn;
pub mod limits;
pub mod map;
pub mod verdict;

pub use context::{Field, FieldKind, SendContext, StreamContext};
pub use filter::LinkFilter;
pub use grants::Grants;
pub use helper::{Arg, Helper, Resource, Ret};
pub use hook::{Hook, ProgramType};
pub use insn::Insn;
pub use map::{MapDef, MapKind};
pub use verdict::{Verdict, Verdicts};

/// Version of everything in this crate that crosses a boundary: control messages, contexts, helpers, map kinds, verdicts.
///
/// It moves whenever one of them changes; a test holds it against [`API_HISTORY`].
pub const API_VERSION: u16 = 3;

/// The fingerprint of the wire at each version, as `tests/api.rs` computes it. Rows are appended, never changed, once a
/// release carries them.
pub const API_HISTORY: &[(u16, u64)] =
    &[(1, 0x5d7c_58be_f84f_94e6), (2, 0x6879_6873_e34a_7675), (3, 0xe495_6c86_6574_40c4)];

//! BTF: the types and the line table that compilers put beside bytecode.
//!
//! The bytes come from files that anyone may have made: every offset is checked, recursion is bounded, and nothing is
//! allocated that is not in proportion to the file.

mod dump;
mod lines;
mod shape;
mod types;

pub use dump::{Row, c, rows};
pub use lines::{LineInfo, Lines};
pub use shape::{Member, Shape};
pub use types::{Btf, Type, Variable};

use std::fmt;

/// What is wrong with the BTF of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BtfError(String);

impl BtfError {
    fn new(what: impl Into<String>) -> Self {
        Self(what.into())
    }
}

impl fmt::Display for BtfError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for BtfError {}

/// The 32-bit number at `offset`.
fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    let bytes = bytes.get(offset..offset.checked_add(4)?)?;
    Some(u32::from_le_bytes(bytes.try_into().ok()?))
}

/// `length` bytes from `offset`, numbers as the format gives them.
fn range(bytes: &[u8], offset: u64, length: u32) -> Option<&[u8]> {
    let start = usize::try_from(offset).ok()?;
    bytes.get(start..start.checked_add(length as usize)?)
}

/// The parts that the headers of `.BTF` and `.BTF.ext` share: magic, version, flags, and the header's own length.
fn header_length(bytes: &[u8], section: &str) -> Result<u32, BtfError> {
    const MAGIC: u16 = 0xeb9f;
    const VERSION: u8 = 1;
    match bytes {
        [low, high, version, _flags, ..] if u16::from_le_bytes([*low, *high]) == MAGIC => {
            if *version != VERSION {
                return Err(BtfError::new(format!(
                    "{section} has version {version}, and {VERSION} is known"
                )));
            }
            u32_at(bytes, 4).ok_or_else(|| BtfError::new(format!("{section} ends in its header")))
        }
        _ => Err(BtfError::new(format!("{section} does not start with the BTF magic"))),
    }
}

//! Results of helpers that can fail: zero or the negated number, as BPF programmers know them from Linux.

/// No such entry.
pub const ENOENT: i64 = 2;
/// The map or the edits of this run are full, or an index lies behind the end of an array.
pub const E2BIG: i64 = 7;
/// No memory, or no room in a ring buffer.
pub const ENOMEM: i64 = 12;
/// The entry exists already.
pub const EEXIST: i64 = 17;
/// An argument is out of its range.
pub const EINVAL: i64 = 22;
/// The operation is not possible on this data (for example a length change of a TCP segment at a send hook).
pub const EOPNOTSUPP: i64 = 95;
/// The filter engine refused.
pub const EIO: i64 = 5;

/// The largest number that a helper may negate: results from `-MAX_ERRNO` to `-1` are errors.
pub const MAX_ERRNO: i64 = 4095;

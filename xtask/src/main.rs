//! Project chores: demo, test, bench, fuzz, captures.
#![forbid(unsafe_code)]
fn main() {}

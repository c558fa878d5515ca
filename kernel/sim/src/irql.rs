//! The interrupt request level of each thread. Nothing interrupts anyone here: the level is what rules are judged by.

use std::cell::Cell;

/// Code may wait and touch paged memory.
pub const PASSIVE_LEVEL: u8 = 0;
/// Code may do neither.
pub const DISPATCH_LEVEL: u8 = 2;

thread_local! {
    static LEVEL: Cell<u8> = const { Cell::new(PASSIVE_LEVEL) };
}

/// The level of this thread.
pub fn current() -> u8 {
    LEVEL.get()
}

/// Sets the level of this thread; gives back what it was.
pub fn set(level: u8) -> u8 {
    LEVEL.replace(level)
}

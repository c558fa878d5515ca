//! The spin locks that a driver's threads hold. Who answers the system's functions for them says so here; some calls must not
//! be made with one.

use std::cell::Cell;

thread_local! {
    static HELD: Cell<usize> = const { Cell::new(0) };
}

/// This thread has taken a spin lock.
pub fn taken() {
    HELD.set(HELD.get() + 1);
}

/// This thread has released a spin lock.
pub fn released() {
    HELD.set(HELD.get().saturating_sub(1));
}

/// How many this thread holds.
pub(crate) fn held() -> usize {
    HELD.get()
}

//! A test's memory, of which any allocation can be made to fail, and what is held is counted: both by thread.
//!
//! It becomes a test's own by `#[global_allocator] static HEAP: Heap = Heap;`.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::ptr::null_mut;

/// The system's memory, counted and withheld.
#[derive(Debug)]
pub struct Heap;

thread_local! {
    /// Allocations until the one that fails.
    static LEFT: Cell<Option<usize>> = const { Cell::new(None) };
    /// Bytes that this thread holds.
    static HELD: Cell<usize> = const { Cell::new(0) };
}

impl Heap {
    /// Bytes that this thread took and did not give back.
    pub fn held() -> usize {
        HELD.get()
    }

    /// The allocation behind `left` more of this thread fails, once.
    pub fn fail_behind(left: usize) {
        LEFT.set(Some(left));
    }

    /// No allocation of this thread fails any more. Returns whether one was still to.
    pub fn heal() -> bool {
        LEFT.take().is_some()
    }
}

// SAFETY: the system's allocator answers, or nothing does.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        match LEFT.get() {
            Some(0) => {
                LEFT.set(None);
                return null_mut();
            }
            Some(left) => LEFT.set(Some(left - 1)),
            None => {}
        }
        HELD.set(HELD.get().wrapping_add(layout.size()));
        // SAFETY: the caller's layout.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        HELD.set(HELD.get().wrapping_sub(layout.size()));
        // SAFETY: the system gave it, for this layout.
        unsafe { System.dealloc(memory, layout) };
    }
}

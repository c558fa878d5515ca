//! Memory: nonpaged pool under one tag.

use core::alloc::{GlobalAlloc, Layout};

use fwps_sys::ntos::{ExAllocatePool2, POOL_FLAG_NON_PAGED};
use tidegate_abi::device::POOL_TAG;
use wdk_sys::ntddk::ExFreePoolWithTag;

/// What pool memory is aligned to.
const ALIGNMENT: usize = 16;
/// Blocks of at least a page begin at one.
const PAGE: usize = 4096;

/// Nonpaged, never executable, zeroed. IRQL <= DISPATCH_LEVEL.
struct Pool;

// SAFETY: what the pool gives is as large and aligned as asked, and ours until it is freed.
unsafe impl GlobalAlloc for Pool {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let bytes = match layout.align() {
            ..=ALIGNMENT => layout.size(),
            // A page or more is aligned to a page.
            ..=PAGE => layout.size().max(PAGE),
            _ => return core::ptr::null_mut(),
        };
        // SAFETY: numbers only.
        unsafe { ExAllocatePool2(POOL_FLAG_NON_PAGED, bytes, POOL_TAG) }.cast()
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's layout. The pool zeroes by itself.
        unsafe { self.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, _: Layout) {
        // SAFETY: `alloc` gave it, and the caller gives it back once.
        unsafe { ExFreePoolWithTag(memory.cast(), POOL_TAG) };
    }
}

#[global_allocator]
static POOL: Pool = Pool;

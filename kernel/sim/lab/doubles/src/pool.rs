//! Pool memory: every block is known by its tag, and its end is watched.
#![expect(unreachable_pub, reason = "symbols under the names of the DDI")]

use std::alloc::{Layout, alloc, dealloc};
use std::collections::HashMap;
use std::ffi::c_void;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use fwps_sim::irql::DISPATCH_LEVEL;

use crate::police::{at_most, violate};

/// A block that the driver holds.
#[derive(Clone, Copy)]
struct Block {
    size: usize,
    tag: u32,
}

static BLOCKS: LazyLock<Mutex<HashMap<usize, Block>>> = LazyLock::new(Mutex::default);
static FAIL_PER_MILLE: AtomicU32 = AtomicU32::new(0);
static FAILED: AtomicU64 = AtomicU64::new(0);

const UNINITIALIZED: u64 = 0x2;
const NON_PAGED: u64 = 0x40;
const PAGED: u64 = 0x100;
/// What the pool guarantees.
const ALIGNMENT: usize = 16;
/// What stands behind every block.
const GUARD: [u8; 16] = *b"end of the block";
/// What fresh memory reads as when nobody asked for zeros, and what freed memory does.
const JUNK: u8 = 0xdd;
const APC_LEVEL: u8 = 1;

fn blocks() -> MutexGuard<'static, HashMap<usize, Block>> {
    BLOCKS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// From now on so many allocations in a thousand fail.
pub(crate) fn fail(per_mille: u32) {
    FAIL_PER_MILLE.store(per_mille, Ordering::Relaxed);
}

/// Bytes and blocks that the driver holds, and allocations that failed as asked.
pub(crate) fn held() -> (u64, u64, u64) {
    let blocks = blocks();
    let bytes = blocks.values().map(|block| block.size as u64).sum();
    (bytes, blocks.len() as u64, FAILED.load(Ordering::Relaxed))
}

/// Whether an allocation fails.
fn fails() -> bool {
    let per_mille = FAIL_PER_MILLE.load(Ordering::Relaxed);
    if per_mille == 0 {
        return false;
    }
    // A Weyl sequence, mixed: which of the allocations fail need not be known beforehand.
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let word = NEXT.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
    let word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 32;
    let fails = word % 1000 < u64::from(per_mille);
    FAILED.fetch_add(u64::from(fails), Ordering::Relaxed);
    fails
}

fn layout(size: usize) -> Option<Layout> {
    Layout::from_size_align(size.checked_add(GUARD.len())?, ALIGNMENT).ok()
}

#[unsafe(no_mangle)]
pub extern "system" fn ExAllocatePool2(flags: u64, size: usize, tag: u32) -> *mut c_void {
    at_most(if flags & PAGED != 0 { APC_LEVEL } else { DISPATCH_LEVEL }, "ExAllocatePool2");
    if size == 0 || tag == 0 || flags & (PAGED | NON_PAGED) == 0 {
        violate(format!("ExAllocatePool2 of {size} bytes with tag {tag:#x} and flags {flags:#x}"));
        return null_mut();
    }
    let Some(layout) = layout(size).filter(|_| !fails()) else { return null_mut() };
    // SAFETY: the layout is not empty; everything is written below.
    unsafe {
        let block = alloc(layout);
        if !block.is_null() {
            block.write_bytes(if flags & UNINITIALIZED != 0 { JUNK } else { 0 }, size);
            block.add(size).copy_from_nonoverlapping(GUARD.as_ptr(), GUARD.len());
            blocks().insert(block as usize, Block { size, tag });
        }
        block.cast()
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "system" fn ExFreePoolWithTag(block: *mut c_void, tag: u32) {
    at_most(DISPATCH_LEVEL, "ExFreePoolWithTag");
    let Some(known) = blocks().remove(&(block as usize)) else {
        return violate(format!("ExFreePoolWithTag of {block:p}, which is no block, or was freed"));
    };
    if tag != 0 && tag != known.tag {
        violate(format!("a block with tag {:#x} is freed with tag {tag:#x}", known.tag));
    }
    let Some(layout) = layout(known.size) else { return };
    let block = block.cast::<u8>();
    // SAFETY: the block was made with this layout, and is freed once.
    unsafe {
        if std::slice::from_raw_parts(block.add(known.size), GUARD.len()) != GUARD {
            violate(format!("a block of {} bytes was written behind its end", known.size));
        }
        block.write_bytes(JUNK, known.size);
        dealloc(block, layout);
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "system" fn ExFreePool(block: *mut c_void) {
    // SAFETY: the caller's promise.
    unsafe { ExFreePoolWithTag(block, 0) }
}

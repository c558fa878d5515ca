//! Everything the simulator hands out has a header in front that says what it is and whose.
//!
//! Freed blocks are poisoned and kept for a while, so that a late use is seen for what it is instead of reading what came
//! after.

use core::ffi::c_void;
use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::sync::Arc;

use crate::state::Inner;

/// What a block is.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    Device,
    Injection,
    NblPool,
    NbPool,
    Generic,
    WorkItem,
    Session,
    Subscription,
    Nbl,
    Nb,
    Mdl,
}

/// What is known of an address that should be a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Life {
    Live,
    Freed,
    Unknown,
}

/// An MDL that the engine made.
pub(crate) const MDL_OF_ENGINE: u32 = 0;
/// An MDL of a callout that describes nothing yet.
pub(crate) const MDL_UNBUILT: u32 = 1;
/// An MDL of a callout that describes memory.
pub(crate) const MDL_BUILT: u32 = 2;

const LIVE: u64 = 0x6c69_7665_2074_6964;
const FREED: u64 = 0x6672_6565_6420_7469;
/// What freed memory reads as.
pub(crate) const POISON: u8 = 0xdd;

#[repr(C, align(16))]
pub(crate) struct Header {
    magic: u64,
    owner: *const Inner,
    kind: Kind,
    /// For MDLs one of the `MDL_*` states above, for pools whether NBs come with the NBLs.
    pub(crate) detail: u32,
    /// For MDLs the length that was asked for.
    pub(crate) extent: usize,
}

#[repr(C, align(16))]
struct Block<T> {
    header: Header,
    object: T,
}

/// Makes a block of zeroes. `owner` may be NULL: a block of nobody.
pub(crate) fn allocate<T>(kind: Kind, owner: *const Inner) -> *mut T {
    let layout = Layout::new::<Block<T>>();
    // SAFETY: the layout is not empty, the header alone has a size.
    let block = unsafe { alloc_zeroed(layout) }.cast::<Block<T>>();
    if block.is_null() {
        handle_alloc_error(layout);
    }
    // SAFETY: the block was just allocated with this layout; zeroes are a valid T because T is one of the plain C structs
    // of fwps-sys or nothing at all.
    unsafe {
        (&raw mut (*block).header).write(Header { magic: LIVE, owner, kind, detail: 0, extent: 0 });
        &raw mut (*block).object
    }
}

/// The header of what should be a block.
fn header(object: *const c_void) -> *mut Header {
    object.cast_mut().wrapping_byte_sub(size_of::<Header>()).cast()
}

/// Whether `object` is a live block of `kind`.
pub(crate) fn life(object: *const c_void, kind: Kind) -> Life {
    if object.is_null() || !object.addr().is_multiple_of(16) {
        return Life::Unknown;
    }
    let header = header(object);
    // SAFETY: callouts pass what the simulator gave them, and freed blocks stay allocated in the graveyard. A wild pointer
    // is as fatal here as in the kernel.
    let (magic, found) = unsafe { ((*header).magic, (&raw const (*header).kind).cast::<u32>().read()) };
    match magic {
        LIVE if found == kind as u32 => Life::Live,
        FREED if found == kind as u32 => Life::Freed,
        _ => Life::Unknown,
    }
}

/// The simulator that a block belongs to, if it is a block and its simulator still exists.
pub(crate) fn owner(object: *const c_void) -> Option<Arc<Inner>> {
    if object.is_null() || !object.addr().is_multiple_of(16) {
        return None;
    }
    let header = header(object);
    // SAFETY: as in `life`; a live owner keeps its blocks' headers up to date and clears them when it goes.
    unsafe {
        let magic = (*header).magic;
        let owner = (*header).owner;
        if (magic != LIVE && magic != FREED) || owner.is_null() {
            return None;
        }
        Arc::increment_strong_count(owner);
        Some(Arc::from_raw(owner))
    }
}

/// The detail and extent of a live block.
///
/// # Safety
/// `object` is a block that is not being freed by another thread.
pub(crate) unsafe fn details<'a>(object: *const c_void) -> &'a mut Header {
    // SAFETY: the caller's promise; a block begins with its header.
    unsafe { &mut *header(object) }
}

/// A freed block that still occupies its memory.
pub(crate) struct Grave {
    block: *mut u8,
    layout: Layout,
}

// SAFETY: a grave is only memory to be returned; nobody else has a claim on it.
unsafe impl Send for Grave {}

impl Drop for Grave {
    fn drop(&mut self) {
        // SAFETY: the block was allocated with this layout and is only freed here.
        unsafe { dealloc(self.block, self.layout) }
    }
}

/// Poisons a block; its memory goes when the grave does.
///
/// # Safety
/// `object` is a live block made by `allocate::<T>`.
pub(crate) unsafe fn bury<T>(object: *mut T) -> Grave {
    let header = header(object.cast());
    // SAFETY: the caller's promise.
    unsafe {
        (*header).magic = FREED;
        object.cast::<u8>().write_bytes(POISON, size_of::<T>());
    }
    Grave { block: header.cast(), layout: Layout::new::<Block<T>>() }
}

/// Cuts the tie between a block and a simulator that is going away.
///
/// # Safety
/// `object` is a block that was not returned to the allocator.
pub(crate) unsafe fn disown(object: *const c_void) {
    // SAFETY: the caller's promise.
    unsafe { (*header(object)).owner = core::ptr::null() }
}

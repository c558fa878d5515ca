//! Memory that an edit needs. It comes from the global allocator, which the driver makes nonpaged pool, and asking for it
//! can fail.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::alloc::Layout;
use core::ptr::NonNull;

use tidegate_vm::Shared;

/// There is no memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NoMemory;

/// A vector with room for `capacity` elements, so that pushing so many does not allocate. IRQL <= DISPATCH_LEVEL.
pub(crate) fn vec<T>(capacity: usize) -> Result<Vec<T>, NoMemory> {
    let mut vec = Vec::new();
    reserve(&mut vec, capacity)?;
    Ok(vec)
}

/// Puts `value` behind the others, where there is room. IRQL <= DISPATCH_LEVEL.
pub(crate) fn push<T>(vec: &mut Vec<T>, value: T) -> Result<(), NoMemory> {
    let len = vec.len();
    vec.spare_capacity_mut().first_mut().ok_or(NoMemory)?.write(value);
    // SAFETY: there was room for one more, which was just written.
    unsafe { vec.set_len(len + 1) };
    Ok(())
}

/// A vector of these bytes. IRQL <= DISPATCH_LEVEL.
pub(crate) fn copied(bytes: &[u8]) -> Result<Vec<u8>, NoMemory> {
    let mut vec = vec(bytes.len())?;
    for (place, byte) in vec.spare_capacity_mut().iter_mut().zip(bytes) {
        place.write(*byte);
    }
    // SAFETY: there is room for as many, all of it just written.
    unsafe { vec.set_len(bytes.len()) };
    Ok(vec)
}

/// A vector of `count` copies of `value`. IRQL <= DISPATCH_LEVEL.
pub(crate) fn filled<T: Copy>(count: usize, value: T) -> Result<Vec<T>, NoMemory> {
    let mut vec = vec(count)?;
    for place in vec.spare_capacity_mut().iter_mut().take(count) {
        place.write(value);
    }
    // SAFETY: there is room for `count`, all of it just written.
    unsafe { vec.set_len(count) };
    Ok(vec)
}

/// Makes room for `more` elements. IRQL <= DISPATCH_LEVEL.
pub(crate) fn reserve<T>(vec: &mut Vec<T>, more: usize) -> Result<(), NoMemory> {
    check()?;
    vec.try_reserve_exact(more).map_err(|_| NoMemory)
}

/// Fails when a test wants the next allocation to.
#[cfg_attr(not(test), expect(clippy::unnecessary_wraps, reason = "tests make it fail"))]
pub(crate) fn check() -> Result<(), NoMemory> {
    #[cfg(test)]
    failing::check()?;
    Ok(())
}

/// `value` in memory of its own. IRQL <= DISPATCH_LEVEL.
pub(crate) fn boxed<T>(value: T) -> Result<Box<T>, NoMemory> {
    const { assert!(size_of::<T>() > 0, "nothing needs no box") };
    check()?;
    // SAFETY: the size is not zero.
    let place = NonNull::new(unsafe { alloc::alloc::alloc(Layout::new::<T>()) }).ok_or(NoMemory)?.cast::<T>();
    // SAFETY: it is new memory of the global allocator, of a `T`'s layout, and holds one then.
    unsafe {
        place.write(value);
        Ok(Box::from_raw(place.as_ptr()))
    }
}

/// A copy of `value` in memory of its own, which never lies on the stack. IRQL <= DISPATCH_LEVEL.
pub(crate) fn boxed_copy<T: Copy>(value: &T) -> Result<Box<T>, NoMemory> {
    const { assert!(size_of::<T>() > 0, "nothing needs no box") };
    check()?;
    // SAFETY: the size is not zero.
    let place = NonNull::new(unsafe { alloc::alloc::alloc(Layout::new::<T>()) }).ok_or(NoMemory)?.cast::<T>();
    // SAFETY: it is new memory of the global allocator, of a `T`'s layout, and holds one then.
    unsafe {
        place.copy_from_nonoverlapping(NonNull::from_ref(value), 1);
        Ok(Box::from_raw(place.as_ptr()))
    }
}

/// `value` behind a shared pointer. IRQL <= DISPATCH_LEVEL.
pub(crate) fn shared<T>(value: T) -> Result<Shared<T>, NoMemory> {
    check()?;
    Shared::new(value).ok_or(NoMemory)
}

/// Allocations that fail on request, by thread: the simulator fails the calls of the system, this fails our own.
#[cfg(test)]
pub(crate) mod failing {
    use std::cell::Cell;

    use super::NoMemory;

    std::thread_local! {
        static LEFT: Cell<Option<usize>> = const { Cell::new(None) };
    }

    /// The allocation after the next `left` ones fails, and no other.
    pub(crate) fn after(left: usize) {
        LEFT.set(Some(left));
    }

    /// None fails any more. True when the one that was asked for was not reached.
    pub(crate) fn stop() -> bool {
        LEFT.take().is_some()
    }

    pub(super) fn check() -> Result<(), NoMemory> {
        match LEFT.get() {
            Some(0) => {
                LEFT.set(None);
                Err(NoMemory)
            }
            Some(left) => {
                LEFT.set(Some(left - 1));
                Ok(())
            }
            None => Ok(()),
        }
    }
}

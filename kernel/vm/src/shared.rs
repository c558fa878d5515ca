//! A shared pointer of which the allocation can fail, which an `Arc` of stable Rust can't: it ends the machine instead.

use alloc::boxed::Box;
use core::alloc::Layout;
use core::fmt;
use core::marker::PhantomData;
use core::mem::ManuallyDrop;
use core::ops::Deref;
use core::ptr::NonNull;

use crate::atomic::{AtomicUsize, Ordering, fence};

/// One of the owners of a value, which goes with the last of them. IRQL <= DISPATCH_LEVEL.
pub struct Shared<T>(NonNull<Counted<T>>);

/// The value is first, so that a pointer to it is one to the whole.
#[repr(C)]
struct Counted<T> {
    value: T,
    owners: AtomicUsize,
}

// SAFETY: as with `Arc`: each owner reaches the value by reference, and any of them may be the one that drops it.
unsafe impl<T: Send + Sync> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T: Send + Sync> Sync for Shared<T> {}

impl<T> Shared<T> {
    /// The only owner of `value`; `None` when there is no memory.
    pub fn new(value: T) -> Option<Self> {
        // SAFETY: there is a counter in it, so that its size is not zero.
        let place = NonNull::new(unsafe { alloc::alloc::alloc(Layout::new::<Counted<T>>()) })?.cast();
        // SAFETY: it is new memory of the layout of what is written.
        unsafe { place.write(Counted { value, owners: AtomicUsize::new(1) }) };
        Some(Self(place))
    }

    /// Whether both are owners of one value.
    pub fn is_same(this: &Self, other: &Self) -> bool {
        this.0 == other.0
    }

    /// Owners that there are at this moment.
    pub fn owners(this: &Self) -> usize {
        this.counted().owners.load(Ordering::Relaxed)
    }

    /// Where the value is, for [`Shared::from_raw`].
    pub const fn as_ptr(this: &Self) -> *const T {
        this.0.as_ptr().cast_const().cast()
    }

    /// Gives up being an owner; [`Shared::from_raw`] makes one of the pointer again.
    pub fn into_raw(this: Self) -> *const T {
        Self::as_ptr(&ManuallyDrop::new(this))
    }

    /// The owner that [`Shared::into_raw`] was.
    ///
    /// # Safety
    /// `value` came from there and is used once.
    pub const unsafe fn from_raw(value: NonNull<T>) -> Self {
        Self(value.cast())
    }

    /// The value, for as long as this owner lives.
    pub const fn lend(&self) -> Lent<'_, T> {
        Lent(self.0, PhantomData)
    }
}

/// A shared value that has another owner for as long as 'a.
pub struct Lent<'a, T>(NonNull<Counted<T>>, PhantomData<&'a T>);

impl<T> Clone for Lent<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Lent<'_, T> {}

impl<'a, T> Lent<'a, T> {
    /// # Safety
    /// `value` came from [`Shared::into_raw`] or [`Shared::as_ptr`], and an owner lives as long as 'a.
    pub const unsafe fn from_raw(value: NonNull<T>) -> Self {
        Self(value.cast(), PhantomData)
    }

    /// The value.
    pub const fn get(self) -> &'a T {
        // SAFETY: an owner lives as long as 'a.
        unsafe { &self.0.as_ref().value }
    }

    /// One more owner.
    pub fn share(self) -> Shared<T> {
        // SAFETY: as above.
        unsafe { self.0.as_ref() }.owners.fetch_add(1, Ordering::Relaxed);
        Shared(self.0)
    }
}

impl<T> Deref for Lent<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.get()
    }
}

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        self.lend().share()
    }
}

impl<T: fmt::Debug> fmt::Debug for Shared<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        T::fmt(self, f)
    }
}

impl<T> Shared<T> {
    const fn counted(&self) -> &Counted<T> {
        // SAFETY: this is an owner, so it lives.
        unsafe { self.0.as_ref() }
    }
}

impl<T> Deref for Shared<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.counted().value
    }
}

impl<T> Drop for Shared<T> {
    fn drop(&mut self) {
        // What the others did with the value comes before its end.
        if self.counted().owners.fetch_sub(1, Ordering::Release) == 1 {
            fence(Ordering::Acquire);
            // SAFETY: `new` allocated it as a box does, and this was its last owner.
            drop(unsafe { Box::from_raw(self.0.as_ptr()) });
        }
    }
}

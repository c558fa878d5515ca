//! Maps as statics, with the types of their keys and values.
//!
//! The layout of each struct is how a map is described in BTF: the loader reads the numbers from the types of pointers
//! that are never followed.

use core::ffi::c_void;
use core::marker::PhantomData;
use core::ops::{Deref, DerefMut};

use crate::bindings;
use crate::{Error, Stream, status};

/// What helpers take for a map: the loader puts the map where the address of its description is loaded.
#[inline(always)]
fn handle<T>(map: &T) -> *mut c_void {
    (&raw const *map).cast_mut().cast()
}

macro_rules! keyed_map {
    ($(#[$meta:meta])* $name:ident, $kind:ident) => {
        $(#[$meta])*
        #[repr(C)]
        pub struct $name<K, V, const ENTRIES: usize> {
            r#type: *const [i32; bindings::$kind],
            max_entries: *const [i32; ENTRIES],
            key: *const K,
            value: *const V,
        }

        // SAFETY: the pointers are descriptions and never followed; the map itself is shared by the machine's rules.
        unsafe impl<K, V, const ENTRIES: usize> Sync for $name<K, V, ENTRIES> {}

        impl<K, V, const ENTRIES: usize> $name<K, V, ENTRIES> {
            /// The description of an empty map.
            #[expect(clippy::new_without_default, reason = "only ever the value of a static")]
            pub const fn new() -> Self {
                Self {
                    r#type: core::ptr::null(),
                    max_entries: core::ptr::null(),
                    key: core::ptr::null(),
                    value: core::ptr::null(),
                }
            }

            /// The value of a key. Other processors may change it while it is looked at.
            #[inline(always)]
            pub fn get(&self, key: &K) -> Option<&V> {
                // SAFETY: the helper returns null or a value of this map, which lives as long as the program.
                unsafe { bindings::bpf_map_lookup_elem(handle(self), (&raw const *key).cast()).cast::<V>().as_ref() }
            }

            /// Pointer to the value of a key, for changes in place; null when there is none.
            #[inline(always)]
            pub fn get_ptr(&self, key: &K) -> *mut V {
                // SAFETY: as in `get`.
                unsafe { bindings::bpf_map_lookup_elem(handle(self), (&raw const *key).cast()).cast() }
            }

            /// Sets the value of a key.
            ///
            /// # Errors
            /// [`Error::Helper`] when the map is full.
            #[inline(always)]
            pub fn insert(&self, key: &K, value: &V) -> Result<(), Error> {
                // SAFETY: key and value have the types that the map is described with.
                status(unsafe {
                    bindings::bpf_map_update_elem(handle(self), (&raw const *key).cast(), (&raw const *value).cast(), 0)
                })
            }
        }
    };
}

keyed_map!(
    /// Keys of any bytes; an insertion into a full map fails.
    HashMap, BPF_MAP_TYPE_HASH
);
keyed_map!(
    /// A [`HashMap`] that forgets the entry that was not used for longest when it is full.
    LruHashMap, BPF_MAP_TYPE_LRU_HASH
);
keyed_map!(
    /// Values by index; the key is a `u32`.
    Array, BPF_MAP_TYPE_ARRAY
);
keyed_map!(
    /// An [`Array`] with a value of its own for each processor.
    PerCpuArray, BPF_MAP_TYPE_PERCPU_ARRAY
);

/// One value for each connection, which goes with it; `ENTRIES` connections have one at a time.
#[repr(C)]
pub struct FlowStorage<V, const ENTRIES: usize> {
    r#type: *const [i32; bindings::BPF_MAP_TYPE_FLOW_STORAGE],
    max_entries: *const [i32; ENTRIES],
    key: *const u64,
    value: *const V,
}

// SAFETY: the pointers are descriptions and never followed; the map itself is shared by the machine's rules.
unsafe impl<V, const ENTRIES: usize> Sync for FlowStorage<V, ENTRIES> {}

impl<V, const ENTRIES: usize> FlowStorage<V, ENTRIES> {
    /// The description of an empty map.
    #[expect(clippy::new_without_default, reason = "only ever the value of a static")]
    pub const fn new() -> Self {
        Self {
            r#type: core::ptr::null(),
            max_entries: core::ptr::null(),
            key: core::ptr::null(),
            value: core::ptr::null(),
        }
    }

    /// Pointer to the value of a connection, zeroed when it is new; null when the map is full.
    #[inline(always)]
    pub fn get_ptr(&self, stream: &Stream) -> *mut V {
        // SAFETY: the helper returns null or a value of this map, which lives as long as the program.
        unsafe { bindings::tidegate_flow_storage_get(stream.raw.cast(), handle(self), 1).cast() }
    }
}

/// Records for user space, in a ring of `BYTES` bytes (a power of two).
#[repr(C)]
pub struct RingBuf<const BYTES: usize> {
    r#type: *const [i32; bindings::BPF_MAP_TYPE_RINGBUF],
    max_entries: *const [i32; BYTES],
}

// SAFETY: the pointers are descriptions and never followed.
unsafe impl<const BYTES: usize> Sync for RingBuf<BYTES> {}

impl<const BYTES: usize> RingBuf<BYTES> {
    /// The description of an empty ring.
    #[expect(clippy::new_without_default, reason = "only ever the value of a static")]
    pub const fn new() -> Self {
        Self { r#type: core::ptr::null(), max_entries: core::ptr::null() }
    }

    /// Room for a record, zeroed; `None` when the ring is full (the machine counts it). Dropping it gives it back unread.
    #[inline(always)]
    pub fn reserve<T>(&self) -> Option<Record<'_, T>> {
        // SAFETY: the helper returns null or `size_of::<T>()` writable bytes, aligned to eight.
        let data = unsafe { bindings::bpf_ringbuf_reserve(handle(self), size_of::<T>() as u64, 0) };
        if data.is_null() { None } else { Some(Record { data: data.cast(), ring: PhantomData }) }
    }
}

/// A reserved record. All-zero bytes must be a `T`.
pub struct Record<'a, T> {
    data: *mut T,
    ring: PhantomData<&'a ()>,
}

impl<T> Record<'_, T> {
    /// Hands the record to the reader.
    #[inline(always)]
    pub fn submit(self) {
        let data = self.data;
        core::mem::forget(self);
        // SAFETY: the record is this one's alone, and consumed here.
        unsafe { bindings::bpf_ringbuf_submit(data.cast(), 0) }
    }
}

impl<T> Drop for Record<'_, T> {
    #[inline(always)]
    fn drop(&mut self) {
        // SAFETY: the record is this one's alone, and consumed here.
        unsafe { bindings::bpf_ringbuf_discard(self.data.cast(), 0) }
    }
}

impl<T> Deref for Record<'_, T> {
    type Target = T;

    #[inline(always)]
    fn deref(&self) -> &T {
        // SAFETY: reserved, zeroed and not null.
        unsafe { &*self.data }
    }
}

impl<T> DerefMut for Record<'_, T> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: reserved, zeroed, not null, and this one's alone.
        unsafe { &mut *self.data }
    }
}

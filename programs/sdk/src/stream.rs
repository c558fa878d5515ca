//! What a stream program sees and may do.

use crate::bindings::{self, StreamContext};
use crate::{Cursor, Error, status};

/// Bytes of one direction of a TCP connection, in order.
pub struct Stream {
    pub(crate) raw: *mut StreamContext,
}

macro_rules! fields {
    ($( $(#[$meta:meta])* $name:ident: $ty:ty; )*) => {
        $(
            $(#[$meta])*
            #[inline(always)]
            pub fn $name(&self) -> $ty {
                // SAFETY: `raw` is the context that the machine gave.
                unsafe { (*self.raw).$name }
            }
        )*
    };
}

impl Stream {
    /// Wraps the context of a program.
    ///
    /// # Safety
    /// `raw` is what the machine called a stream program with.
    #[inline(always)]
    pub unsafe fn from_raw(raw: *mut StreamContext) -> Self {
        Self { raw }
    }

    fields! {
        /// The flow's id, the same for both directions.
        flow_id: u64;
        /// The process that owns the local end, 0 when it is not known.
        process_id: u64;
        /// Bytes of this direction that a callout above took before these.
        missed_bytes: u64;
        /// `STREAM_*` bits of this indication.
        flags: u32;
        /// Address family: 4 or 6.
        family: u32;
        /// Local port.
        local_port: u16;
        /// Remote port.
        remote_port: u16;
    }

    /// Whether this machine sends these bytes.
    #[inline(always)]
    pub fn is_outbound(&self) -> bool {
        // SAFETY: `raw` is the context that the machine gave.
        unsafe { (*self.raw).direction == 0 }
    }

    /// Whether this machine opened the connection.
    #[inline(always)]
    pub fn is_opened_here(&self) -> bool {
        // SAFETY: `raw` is the context that the machine gave.
        unsafe { (*self.raw).opener == 0 }
    }

    /// Whether NEED_MORE_DATA would be refused.
    #[inline(always)]
    pub fn is_last(&self) -> bool {
        self.flags() & bindings::STREAM_NO_MORE_DATA != 0
    }

    /// Whether the connection began before this link could see it: what it is shown first is not the beginning.
    #[inline(always)]
    pub fn is_mid_stream(&self) -> bool {
        self.flags() & bindings::STREAM_MID_STREAM != 0
    }

    /// Whether the bytes were kept back and are shown again.
    #[inline(always)]
    pub fn is_held(&self) -> bool {
        self.flags() & bindings::STREAM_HELD != 0
    }

    /// Bytes shown.
    #[inline(always)]
    pub fn len(&self) -> u32 {
        // SAFETY: `raw` is the context that the machine gave.
        let (data, data_end) = unsafe { ((*self.raw).data, (*self.raw).data_end) };
        (data_end as u64 - data as u64) as u32
    }

    /// Whether no byte is shown: the direction ends, or the connection was reset.
    #[inline(always)]
    pub fn is_empty(&self) -> bool {
        // SAFETY: `raw` is the context that the machine gave.
        unsafe { (*self.raw).data == (*self.raw).data_end }
    }

    /// A cursor at the first byte shown.
    #[inline(always)]
    pub fn bytes(&self) -> Cursor<'_> {
        // SAFETY: these are the context's data and data_end, and the cursor borrows the context.
        unsafe { Cursor::new((*self.raw).data, (*self.raw).data_end) }
    }

    /// The verdict will cover the first `n` bytes shown; the rest is shown again at once.
    #[inline(always)]
    pub fn enforce(&self, n: u32) {
        // SAFETY: `raw` is the context that the machine gave, and the field is writable.
        unsafe { (*self.raw).bytes_enforced = n }
    }

    /// Copies `size` bytes from `offset` to the start of `to`.
    ///
    /// # Errors
    /// [`Error::Helper`] when not all of them are shown, [`Error::Malformed`] when `size` is more than `N`.
    #[inline(always)]
    pub fn load<const N: usize>(&self, offset: u64, to: &mut [u8; N], size: u32) -> Result<(), Error> {
        if size as usize > N {
            return Err(Error::Malformed);
        }
        // SAFETY: `to` has room for `size` bytes.
        status(unsafe { bindings::tidegate_load_bytes(self.raw.cast(), offset, to.as_mut_ptr().cast(), size) })
    }

    /// Offset of the first place at or behind `offset` where the bytes equal `pattern`.
    #[inline(always)]
    pub fn find<const N: usize>(&self, offset: u64, pattern: &[u8; N]) -> Option<u64> {
        // SAFETY: `pattern` has N bytes.
        let at = unsafe { bindings::tidegate_find(self.raw.cast(), offset, pattern.as_ptr().cast(), N as u32) };
        u64::try_from(at).ok()
    }

    /// As [`Self::find`], with the first `size` bytes of a pattern whose length is known at run time only.
    #[inline(always)]
    pub fn find_start<const N: usize>(&self, offset: u64, pattern: &[u8; N], size: u32) -> Option<u64> {
        if size as usize > N {
            return None;
        }
        // SAFETY: `pattern` has `size` bytes.
        let at = unsafe { bindings::tidegate_find(self.raw.cast(), offset, pattern.as_ptr().cast(), size) };
        u64::try_from(at).ok()
    }

    /// Replaces `remove` bytes from `offset` of what is shown with `data`.
    ///
    /// # Errors
    /// [`Error::Helper`] when the range is not all shown, or the edits of this run are too many.
    #[inline(always)]
    pub fn replace<const N: usize>(&self, offset: u64, remove: u64, data: &[u8; N]) -> Result<(), Error> {
        // SAFETY: `data` has N bytes.
        status(unsafe { bindings::tidegate_replace(self.raw.cast(), offset, remove, data.as_ptr().cast(), N as u32) })
    }

    /// Inserts `data` before the byte at `offset`.
    ///
    /// # Errors
    /// As [`Self::replace`].
    #[inline(always)]
    pub fn insert<const N: usize>(&self, offset: u64, data: &[u8; N]) -> Result<(), Error> {
        // SAFETY: `data` has N bytes.
        status(unsafe { bindings::tidegate_insert(self.raw.cast(), offset, data.as_ptr().cast(), N as u32) })
    }

    /// Removes `size` bytes from `offset`.
    ///
    /// # Errors
    /// As [`Self::replace`].
    #[inline(always)]
    pub fn remove(&self, offset: u64, size: u64) -> Result<(), Error> {
        // SAFETY: no memory is handed over.
        status(unsafe { bindings::tidegate_remove(self.raw.cast(), offset, size) })
    }

    /// Removes the `size` bytes of this direction that follow those shown, in whatever pieces they come.
    ///
    /// # Errors
    /// [`Error::Helper`] where nothing follows.
    #[inline(always)]
    pub fn remove_ahead(&self, size: u64) -> Result<(), Error> {
        // SAFETY: no memory is handed over.
        status(unsafe { bindings::tidegate_remove_ahead(self.raw, size) })
    }

    /// Sends `data` of the policy's own: to the peer, or to the application of this machine.
    ///
    /// # Errors
    /// [`Error::Helper`] when it is too much, or that direction can't be injected into now.
    #[inline(always)]
    pub fn inject<const N: usize>(&self, outbound: bool, data: &[u8; N]) -> Result<(), Error> {
        let direction = u64::from(!outbound);
        // SAFETY: `data` has N bytes.
        status(unsafe {
            bindings::tidegate_stream_inject_data(self.raw, direction, data.as_ptr().cast(), N as u32, 0)
        })
    }

    /// Copies the path of the program that owns the local end (UTF-16, little-endian), zeros behind it. Bytes that it has.
    #[inline(always)]
    pub fn application<const N: usize>(&self, to: &mut [u8; N]) -> Option<u64> {
        // SAFETY: `to` has N bytes.
        let size = unsafe {
            bindings::tidegate_stream_application(self.raw, to.as_mut_ptr().cast(), N as u32)
        };
        u64::try_from(size).ok()
    }
}

//! What a send program sees and may do.

use crate::bindings::{self, SendContext};
use crate::{Cursor, Error, status};

/// An outgoing packet from its transport header on.
pub struct Send {
    raw: *mut SendContext,
}

impl Send {
    /// Wraps the context of a program.
    ///
    /// # Safety
    /// `raw` is what the machine called a send program with.
    #[inline(always)]
    pub unsafe fn from_raw(raw: *mut SendContext) -> Self {
        Self { raw }
    }

    /// IP protocol number.
    #[inline(always)]
    pub fn protocol(&self) -> u32 {
        // SAFETY: `raw` is the context that the machine gave.
        unsafe { (*self.raw).protocol }
    }

    /// Remote port.
    #[inline(always)]
    pub fn remote_port(&self) -> u16 {
        // SAFETY: `raw` is the context that the machine gave.
        unsafe { (*self.raw).remote_port }
    }

    /// Local port.
    #[inline(always)]
    pub fn local_port(&self) -> u16 {
        // SAFETY: `raw` is the context that the machine gave.
        unsafe { (*self.raw).local_port }
    }

    /// Whether the sender wrote the header itself: such a packet passes or not, and is not changed.
    #[inline(always)]
    pub fn is_raw(&self) -> bool {
        // SAFETY: `raw` is the context that the machine gave.
        unsafe { (*self.raw).flags & bindings::SEND_RAW != 0 }
    }

    /// Bytes of the transport header: the payload starts behind them.
    #[inline(always)]
    pub fn header_size(&self) -> u32 {
        // SAFETY: `raw` is the context that the machine gave.
        unsafe { (*self.raw).header_size }
    }

    /// A cursor at the first byte of the transport header.
    #[inline(always)]
    pub fn bytes(&self) -> Cursor<'_> {
        // SAFETY: these are the context's data and data_end, and the cursor borrows the context.
        unsafe { Cursor::new((*self.raw).data, (*self.raw).data_end) }
    }

    /// Sends the packet to another IPv4 address and, unless it is 0, to another UDP port.
    ///
    /// # Errors
    /// [`Error::Helper`] when it is no IPv4 packet, or TCP.
    #[inline(always)]
    pub fn set_remote_v4(&self, address: &[u8; 4], port: u16) -> Result<(), Error> {
        // SAFETY: `raw` is the context that the machine gave.
        status(unsafe { bindings::tidegate_set_remote(self.raw, address.as_ptr().cast(), 4, u64::from(port)) })
    }

    /// Sends the packet to another IPv6 address and, unless it is 0, to another UDP port.
    ///
    /// # Errors
    /// [`Error::Helper`] when it is no IPv6 packet, or TCP.
    #[inline(always)]
    pub fn set_remote_v6(&self, address: &[u8; 16], port: u16) -> Result<(), Error> {
        // SAFETY: `raw` is the context that the machine gave.
        status(unsafe { bindings::tidegate_set_remote(self.raw, address.as_ptr().cast(), 16, u64::from(port)) })
    }

    /// Sends the packet with this type of service or traffic class; DSCP is its upper six bits.
    ///
    /// # Errors
    /// [`Error::Helper`] for TCP.
    #[inline(always)]
    pub fn set_tos(&self, tos: u8) -> Result<(), Error> {
        // SAFETY: `raw` is the context that the machine gave.
        status(unsafe { bindings::tidegate_set_tos(self.raw, u64::from(tos)) })
    }

    /// A clone of the packet, to be edited and injected; `None` when one is held already.
    #[inline(always)]
    pub fn clone_packet(&self) -> Option<PacketClone<'_>> {
        // SAFETY: `raw` is the context that the machine gave.
        let handle = unsafe { bindings::tidegate_clone_net_buffer_list(self.raw) };
        if handle.is_null() { None } else { Some(PacketClone { send: self, handle }) }
    }
}

/// A clone of a packet. Dropping it discards it.
pub struct PacketClone<'a> {
    send: &'a Send,
    handle: *mut bindings::Clone,
}

impl PacketClone<'_> {
    /// Replaces `remove` bytes from `offset` of the packet as shown with `data`.
    ///
    /// # Errors
    /// [`Error::Helper`] when the range is not all there, or the length of a TCP segment would change.
    #[inline(always)]
    pub fn replace<const N: usize>(&self, offset: u64, remove: u64, data: &[u8; N]) -> Result<(), Error> {
        // SAFETY: the clone is held, and `data` has N bytes.
        status(unsafe { bindings::tidegate_clone_replace(self.handle, offset, remove, data.as_ptr().cast(), N as u32) })
    }

    /// Sends the clone in place of the packet: the policy must return `Verdict::Block`, or both would be sent.
    ///
    /// # Errors
    /// [`Error::Helper`].
    #[inline(always)]
    pub fn inject(self) -> Result<(), Error> {
        let (send, handle) = (self.send.raw, self.handle);
        core::mem::forget(self);
        // SAFETY: the clone is held, and consumed here.
        status(unsafe { bindings::tidegate_inject_transport_send(send, handle, 0) })
    }
}

impl Drop for PacketClone<'_> {
    #[inline(always)]
    fn drop(&mut self) {
        // SAFETY: the clone is held, and consumed here.
        unsafe { bindings::tidegate_clone_discard(self.handle) }
    }
}

//! Owners of what is injected: one value has the NBL, the MDLs, the memory and the references of an injection.
//!
//! Injecting consumes the owner. When the system takes the NBL, the owner goes with it as the completion's context and
//! comes back in the completion, exactly once; when the system refuses, the owner comes back as the error. Dropping an owner
//! frees everything, so there is no third way.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::ffi::c_void;
use core::ops::Range;
use core::ptr::{self, NonNull};

use fwps_sys::{
    ADDRESS_FAMILY, BOOLEAN, COMPARTMENT_ID, FALSE, FWPS_STREAM_FLAG, FWPS_TRANSPORT_SEND_PARAMS1,
    FwpsAllocateNetBufferAndNetBufferList0, FwpsDereferenceNetBufferList0, FwpsFlowAbort0,
    FwpsFreeNetBufferList0, FwpsInjectTransportSendAsync1, FwpsReferenceNetBufferList0,
    FwpsStreamInjectAsync0, HANDLE, IoAllocateMdl, IoBuildPartialMdl, IoFreeMdl, MDL,
    MmBuildMdlForNonPagedPool, NET_BUFFER_LIST, SCOPE_ID,
};

use tidegate_abi::Verdict;
use tidegate_runtime::Link;
use tidegate_vm::Shared;

use crate::engine::Engine;
use crate::memory::{self, NoMemory};
use crate::packet::{Segment, Unreadable};

/// Why an edit was not carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// No memory, MDL or NBL.
    NoMemory,
    /// The bytes to be kept can't be looked at.
    Unreadable,
    /// The edited packet would not be one: too short, too long, no flow.
    Unfit,
    /// The system refused the injection.
    Refused,
    /// A part was injected, and the rest can't be.
    Half,
}

impl From<NoMemory> for Failure {
    fn from(_: NoMemory) -> Self {
        Self::NoMemory
    }
}

impl From<Unreadable> for Failure {
    fn from(_: Unreadable) -> Self {
        Self::Unreadable
    }
}

/// A new NBL and everything that it is made of.
pub(crate) struct Body {
    nbl: *mut NET_BUFFER_LIST,
    first: *mut MDL,
    last: *mut MDL,
    /// Bytes described so far.
    len: usize,
    /// The originals whose bytes are shared, each referenced once.
    originals: Vec<NonNull<NET_BUFFER_LIST>>,
    /// Memory of the new bytes; never moves or grows once an MDL describes it.
    bytes: Vec<u8>,
}

// SAFETY: everything in it is owned, and the system lets any thread free it.
unsafe impl Send for Body {}

impl Body {
    /// Nothing yet, with the memory that new bytes will be taken from.
    pub(crate) const fn new(bytes: Vec<u8>) -> Self {
        Self {
            nbl: ptr::null_mut(),
            first: ptr::null_mut(),
            last: ptr::null_mut(),
            len: 0,
            originals: Vec::new(),
            bytes,
        }
    }

    /// Bytes that it describes.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Bytes of memory of its own: those of the system's descriptors are not known.
    pub(crate) fn allocated(&self) -> usize {
        self.bytes.capacity() + self.originals.capacity() * size_of::<NonNull<NET_BUFFER_LIST>>()
    }

    /// Adds these of the new bytes. IRQL <= DISPATCH_LEVEL.
    pub(crate) fn push_new(&mut self, range: Range<usize>) -> Result<(), Failure> {
        let len = self.bytes.get(range.clone()).ok_or(Failure::Unfit)?.len();
        let len = u32::try_from(len).map_err(|_| Failure::Unfit)?;
        // Not through a reference: that would claim the bytes of the MDLs made before.
        let start = self.bytes.as_mut_ptr().wrapping_add(range.start);
        // SAFETY: the bytes are nonpaged memory that lives as long as the MDL: `drop` frees the MDL first.
        let mdl = unsafe {
            let mdl = IoAllocateMdl(start.cast(), len, FALSE, FALSE, ptr::null_mut());
            if !mdl.is_null() {
                MmBuildMdlForNonPagedPool(mdl);
            }
            mdl
        };
        self.push(mdl, len)
    }

    /// Adds bytes of an original, shared with it. IRQL <= DISPATCH_LEVEL.
    pub(crate) fn push_kept(&mut self, segment: &Segment<'_>) -> Result<(), Failure> {
        if self.originals.last() != Some(&segment.nbl) {
            memory::reserve(&mut self.originals, 1)?;
            memory::push(&mut self.originals, segment.nbl)?;
            // SAFETY: the list is alive during classify, and given back in `drop`. Its bytes are not modified.
            unsafe { FwpsReferenceNetBufferList0(segment.nbl.as_ptr(), FALSE) };
        }
        // SAFETY: the segment lies within its MDL, and the reference keeps both alive until `drop` has freed the new MDL.
        let mdl = unsafe {
            let source = segment.mdl.as_ptr();
            let start = MDL::virtual_address(source).wrapping_byte_add(segment.offset as usize);
            let mdl = IoAllocateMdl(start, segment.len, FALSE, FALSE, ptr::null_mut());
            if !mdl.is_null() {
                IoBuildPartialMdl(source, mdl, start, segment.len);
            }
            mdl
        };
        self.push(mdl, segment.len)
    }

    fn push(&mut self, mdl: *mut MDL, len: u32) -> Result<(), Failure> {
        if mdl.is_null() {
            return Err(Failure::NoMemory);
        }
        if self.last.is_null() {
            self.first = mdl;
        } else {
            // SAFETY: both MDLs are ours.
            unsafe { MDL::set_next(self.last, mdl) };
        }
        self.last = mdl;
        self.len += len as usize;
        Ok(())
    }

    /// Makes the NBL over what was added. IRQL <= DISPATCH_LEVEL.
    pub(crate) fn finish(&mut self, pool: HANDLE) -> Result<(), Failure> {
        // SAFETY: the pool is the engine's, the MDL chain describes `len` bytes and lives as long as the NBL.
        let status = unsafe {
            FwpsAllocateNetBufferAndNetBufferList0(pool, 0, 0, self.first, 0, self.len, &raw mut self.nbl)
        };
        status.ok().map_err(|_| {
            self.nbl = ptr::null_mut();
            Failure::NoMemory
        })
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        // SAFETY: all of it is owned by this value, and an NBL that was injected is back from its completion.
        unsafe {
            if !self.nbl.is_null() {
                FwpsFreeNetBufferList0(self.nbl);
            }
            let mut mdl = self.first;
            while !mdl.is_null() {
                let next = MDL::next(mdl);
                IoFreeMdl(mdl);
                mdl = next;
            }
            for original in &self.originals {
                // FALSE: the IRQL is not known, which is always right.
                FwpsDereferenceNetBufferList0(original.as_ptr(), FALSE);
            }
        }
    }
}

/// Edited bytes of a stream.
pub(crate) struct StreamInjection {
    pub(crate) engine: Shared<Engine>,
    pub(crate) body: Body,
    pub(crate) flow: u64,
    pub(crate) callout: u32,
    pub(crate) layer: u16,
    pub(crate) flags: FWPS_STREAM_FLAG,
}

impl StreamInjection {
    /// Injects the bytes. Only from the classify of their flow. IRQL <= DISPATCH_LEVEL.
    ///
    /// # Errors
    /// The owner, when the system refused.
    pub(crate) fn inject(self: Box<Self>) -> Result<(), Box<Self>> {
        let (handle, flow, flags) = (self.engine.handles.stream, self.flow, self.flags);
        let (callout, layer, nbl, len) = (self.callout, self.layer, self.body.nbl, self.body.len);
        let owner = Box::into_raw(self);
        // SAFETY: `owner` is a live allocation that nobody else has. After SUCCESS it is the completion's and not
        // touched here again; it may be gone already.
        unsafe {
            let status = FwpsStreamInjectAsync0(
                handle,
                ptr::null_mut(),
                0,
                flow,
                callout,
                layer,
                flags,
                nbl,
                len,
                Some(stream_completed),
                owner.cast(),
            );
            status.ok().map_err(|_| Box::from_raw(owner))
        }
    }
}

/// The end of a direction, behind everything that was kept back of it.
pub(crate) struct StreamEnd {
    pub(crate) flow: u64,
    pub(crate) callout: u32,
    pub(crate) layer: u16,
    /// With DISCONNECT.
    pub(crate) flags: FWPS_STREAM_FLAG,
}

impl StreamEnd {
    /// Injects the end. It has no bytes and no NBL, and so no completion. IRQL <= DISPATCH_LEVEL.
    pub(crate) fn inject(self, engine: &Engine) -> Result<(), Failure> {
        let Self { flow, callout, layer, flags } = self;
        // SAFETY: nothing but numbers and a live handle are passed. The completion has to be named, and is never called.
        let status = unsafe {
            FwpsStreamInjectAsync0(
                engine.handles.stream,
                ptr::null_mut(),
                0,
                flow,
                callout,
                layer,
                flags,
                ptr::null_mut(),
                0,
                Some(stream_completed),
                ptr::null_mut(),
            )
        };
        status.ok().map_err(|_| {
            engine.counters.refused.add();
            Failure::Refused
        })
    }
}

/// Completion of a stream injection. IRQL <= DISPATCH_LEVEL.
///
/// # Safety
/// `context` is the owner that [`StreamInjection::inject`] gave away, and `nbl` is its NBL.
unsafe extern "system" fn stream_completed(context: *mut c_void, nbl: *mut NET_BUFFER_LIST, _: BOOLEAN) {
    // SAFETY: the promise of this callback, which is called once: the owner is ours again.
    let (owner, status) =
        unsafe { (Box::from_raw(context.cast::<StreamInjection>()), NET_BUFFER_LIST::status(nbl)) };
    owner.engine.counters.completed(status);
    if status.ok().is_err() {
        // Bytes that were blocked did not come back: the stream has a gap, which must not pass for data.
        // SAFETY: only a number is passed. A flow that is gone already is refused.
        let _ = unsafe { FwpsFlowAbort0(owner.flow) };
    }
}

/// An edited packet, and what its injection is told about it.
pub(crate) struct SendInjection {
    pub(crate) engine: Shared<Engine>,
    pub(crate) body: Body,
    pub(crate) family: ADDRESS_FAMILY,
    pub(crate) compartment: COMPARTMENT_ID,
    pub(crate) endpoint: u64,
    /// Network order.
    pub(crate) remote: [u8; 16],
    pub(crate) scope: SCOPE_ID,
    /// A copy of the ancillary data, in words for its alignment.
    pub(crate) control: Vec<u64>,
    /// Bytes of it.
    pub(crate) control_len: u32,
    /// A copy of a raw socket's IP header that is apart from the packet, in words as the stack wants it aligned.
    pub(crate) header: Vec<u64>,
    /// Bytes of it.
    pub(crate) header_len: u32,
    /// The packet begins with a raw socket's IP header, which says all that the parameters would.
    pub(crate) is_raw: bool,
    /// The link that wants it so, and its verdict; none for an unchanged copy.
    pub(crate) by: Option<(Shared<Link>, Verdict)>,
    /// Filled in when it is injected; the system reads it until the completion.
    pub(crate) args: FWPS_TRANSPORT_SEND_PARAMS1,
    /// The next one of a [`SendList`].
    pub(crate) next: *mut Self,
    /// Its endpoint has closed: it can't be injected any more.
    pub(crate) orphaned: bool,
}

// SAFETY: all of its pointers lead to what it owns, or are set while it is in a list.
unsafe impl Send for SendInjection {}

impl SendInjection {
    /// Parameters that say nothing.
    pub(crate) const NO_ARGS: FWPS_TRANSPORT_SEND_PARAMS1 = FWPS_TRANSPORT_SEND_PARAMS1 {
        remoteAddress: ptr::null_mut(),
        remoteScopeId: SCOPE_ID(0),
        controlData: ptr::null_mut(),
        controlDataLength: 0,
        headerIncludeHeader: ptr::null_mut(),
        headerIncludeHeaderLength: 0,
    };

    /// Injects the packet and counts what came of it. TCP: never from inside a classify. IRQL <= DISPATCH_LEVEL.
    ///
    /// True when it is on its way; else it is freed.
    pub(crate) fn send(mut self: Box<Self>) -> bool {
        let (engine, by) = (Shared::clone(&self.engine), self.by.take());
        let accepted = !self.orphaned && self.inject().is_ok();
        let counter = if accepted { &engine.counters.injected } else { &engine.counters.refused };
        counter.add();
        match by {
            Some((link, verdict)) if !accepted => link.count_failed(verdict),
            Some((link, Verdict::Block)) => link.count_injected(),
            Some((link, _)) => link.count_edited(),
            None => {}
        }
        accepted
    }

    /// Injects the packet. TCP: never from inside a classify. IRQL <= DISPATCH_LEVEL.
    ///
    /// # Errors
    /// The owner, when the system refused.
    fn inject(self: Box<Self>) -> Result<(), Box<Self>> {
        let handle = self.engine.handles.transport;
        let owner = Box::into_raw(self);
        // SAFETY: as in `StreamInjection::inject`; the parameters point into the same allocation, which does not move.
        unsafe {
            let this = &mut *owner;
            this.args = FWPS_TRANSPORT_SEND_PARAMS1 {
                remoteAddress: this.remote.as_mut_ptr(),
                remoteScopeId: this.scope,
                ..Self::NO_ARGS
            };
            if this.control_len > 0 {
                this.args.controlData = this.control.as_mut_ptr().cast();
                this.args.controlDataLength = this.control_len;
            }
            if this.header_len > 0 {
                this.args.headerIncludeHeader = this.header.as_mut_ptr().cast();
                this.args.headerIncludeHeaderLength = this.header_len;
            }
            let args = if this.is_raw { ptr::null_mut() } else { &raw mut this.args };
            let (endpoint, family, compartment, nbl) =
                (this.endpoint, this.family, this.compartment, this.body.nbl);
            let status = FwpsInjectTransportSendAsync1(
                handle,
                ptr::null_mut(),
                endpoint,
                0,
                args,
                family,
                compartment,
                nbl,
                Some(send_completed),
                owner.cast(),
            );
            status.ok().map_err(|_| Box::from_raw(owner))
        }
    }
}

/// Completion of a send injection. IRQL <= DISPATCH_LEVEL.
///
/// # Safety
/// `context` is the owner that [`SendInjection::inject`] gave away, and `nbl` is its NBL.
unsafe extern "system" fn send_completed(context: *mut c_void, nbl: *mut NET_BUFFER_LIST, _: BOOLEAN) {
    // SAFETY: the promise of this callback, which is called once: the owner is ours again.
    let (owner, status) =
        unsafe { (Box::from_raw(context.cast::<SendInjection>()), NET_BUFFER_LIST::status(nbl)) };
    owner.engine.counters.completed(status);
}

/// Packets that wait to be injected, in the order that they leave in.
pub(crate) struct SendList {
    first: *mut SendInjection,
    last: *mut SendInjection,
}

// SAFETY: the list owns its packets, and the system lets any thread free them.
unsafe impl Send for SendList {}

impl SendList {
    /// None.
    pub(crate) const fn new() -> Self {
        Self { first: ptr::null_mut(), last: ptr::null_mut() }
    }

    /// True when none waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.first.is_null()
    }

    /// Puts one behind the others.
    pub(crate) fn push(&mut self, packet: Box<SendInjection>) {
        let packet = Box::into_raw(packet);
        if self.last.is_null() {
            self.first = packet;
        } else {
            // SAFETY: the list owns its packets.
            unsafe { (*self.last).next = packet };
        }
        self.last = packet;
    }

    /// Puts all of another list behind these.
    pub(crate) fn append(&mut self, other: Self) {
        let (first, last) = (other.first, other.last);
        core::mem::forget(other);
        if first.is_null() {
            return;
        }
        if self.last.is_null() {
            self.first = first;
        } else {
            // SAFETY: the list owns its packets.
            unsafe { (*self.last).next = first };
        }
        self.last = last;
    }

    /// Takes the one in front.
    pub(crate) fn pop(&mut self) -> Option<Box<SendInjection>> {
        if self.first.is_null() {
            return None;
        }
        // SAFETY: the list owns its packets.
        let mut packet = unsafe { Box::from_raw(self.first) };
        self.first = core::mem::replace(&mut packet.next, ptr::null_mut());
        if self.first.is_null() {
            self.last = ptr::null_mut();
        }
        Some(packet)
    }

    /// Says of each packet of an endpoint that the endpoint is closed.
    pub(crate) fn orphan(&mut self, endpoint: u64) {
        let mut packet = self.first;
        while !packet.is_null() {
            // SAFETY: the list owns its packets, and nobody else refers to them.
            let this = unsafe { &mut *packet };
            this.orphaned |= this.endpoint == endpoint;
            packet = this.next;
        }
    }
}

impl Drop for SendList {
    fn drop(&mut self) {
        while self.pop().is_some() {}
    }
}

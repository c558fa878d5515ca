//! A view of the bytes that classify shows: runs of memory in a chain of NBLs, NBs and MDLs.
//!
//! Stream data begins at a place inside the chain (`FWPS_STREAM_DATA_OFFSET0`: NBL, NB, MDL, and an offset counted from the
//! start of that MDL) and goes on for `dataLength` bytes over the rest of that NB, the NBs behind it and the NBLs behind
//! that, so it may begin and end inside of anything. MDL lengths are not data lengths: an MDL may be empty, and the last
//! one of an NB may be longer than its data, so what an NB holds is counted against its `DataLength`.
//!
//! The bytes are someone else's: an application that sends from locked memory may change them while they are looked at. A
//! program that reads a byte twice may see two values, and nothing but its own verdict depends on that.

use core::marker::PhantomData;
use core::ops::Range;
use core::ptr::NonNull;
use core::slice;

use fwps_sys::{
    FWPS_PACKET_INJECTION_STATE, FWPS_STREAM_DATA0, FwpsQueryPacketInjectionState0, HANDLE, MDL,
    MmGetSystemAddressForMdlSafe, NET_BUFFER, NET_BUFFER_LIST, NET_BUFFER_LIST_INFO, NORMAL_PAGE_PRIORITY,
    segmentation_mss,
};

/// The bytes can't be looked at: the chain ends before the data does, or memory could not be mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unreadable;

/// A run of bytes in one MDL; never empty.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Segment<'c> {
    /// The list that owns the MDL.
    pub(crate) nbl: NonNull<NET_BUFFER_LIST>,
    /// The MDL that describes the bytes.
    pub(crate) mdl: NonNull<MDL>,
    /// The first byte, counted from the start of the MDL.
    pub(crate) offset: u32,
    /// Bytes.
    pub(crate) len: u32,
    classify: PhantomData<&'c [u8]>,
}

impl<'c> Segment<'c> {
    /// The bytes themselves, mapped if they were not.
    pub(crate) fn bytes(&self) -> Result<&'c [u8], Unreadable> {
        // SAFETY: `mdl` is alive while classify runs ('c, the promise of `View`'s makers), and packet memory is locked or
        // nonpaged.
        let start = unsafe { MmGetSystemAddressForMdlSafe(self.mdl.as_ptr(), NORMAL_PAGE_PRIORITY) };
        let start = NonNull::new(start.cast::<u8>()).ok_or(Unreadable)?;
        // SAFETY: the segment lies within the bytes that the MDL describes (`Segments::next` cuts it so), which stay
        // mapped while the MDL lives.
        Ok(unsafe { slice::from_raw_parts(start.add(self.offset as usize).as_ptr(), self.len as usize) })
    }
}

/// Some bytes of a chain, for as long as the classify that showed them runs.
#[derive(Clone, Copy)]
pub(crate) struct View<'c> {
    start: Cursor,
    len: usize,
    classify: PhantomData<&'c [u8]>,
}

impl<'c> View<'c> {
    /// No bytes.
    pub(crate) const fn empty() -> Self {
        let start = Cursor {
            nbl: core::ptr::null_mut(),
            nb: core::ptr::null_mut(),
            mdl: core::ptr::null_mut(),
            offset: 0,
            left: 0,
        };
        Self { start, len: 0, classify: PhantomData }
    }

    /// The bytes of a stream indication.
    ///
    /// # Errors
    /// [`Unreadable`] when the place where the data begins is not in the chain.
    ///
    /// # Safety
    /// `data` is what classify was given, and 'c ends with that classify.
    pub(crate) unsafe fn of_stream(data: &FWPS_STREAM_DATA0) -> Result<Self, Unreadable> {
        if data.dataLength == 0 {
            return Ok(Self::empty());
        }
        let place = &data.dataOffset;
        if place.netBufferList.is_null() || place.netBuffer.is_null() || place.mdl.is_null() {
            return Err(Unreadable);
        }
        // SAFETY: the engine gave these pointers for this classify.
        let start = unsafe { Cursor::at(place.netBufferList, place.netBuffer, place.mdl, place.mdlOffset)? };
        Ok(Self { start, len: data.dataLength, classify: PhantomData })
    }

    /// The bytes of one packet, from its current position on.
    ///
    /// # Safety
    /// `nb` is a NET_BUFFER of `nbl`, and both are alive while 'c lasts.
    pub(crate) unsafe fn of_net_buffer(nbl: NonNull<NET_BUFFER_LIST>, nb: NonNull<NET_BUFFER>) -> Self {
        // SAFETY: the caller's promise.
        let (start, len) = unsafe {
            (Cursor::of_net_buffer(nbl.as_ptr(), nb.as_ptr()), NET_BUFFER::data_length(nb.as_ptr()) as usize)
        };
        Self { start, len, classify: PhantomData }
    }

    /// Bytes.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The runs of memory that hold `range`, in order.
    pub(crate) fn segments(&self, range: Range<usize>) -> Segments<'c> {
        let end = range.end.min(self.len);
        let skip = range.start.min(end);
        Segments { cursor: self.start, skip, left: end - skip, classify: PhantomData }
    }

    /// The first `len` bytes in one piece: where they lie if they lie together, else copied to `scratch`.
    ///
    /// # Errors
    /// [`Unreadable`], also when `scratch` or the data is shorter than `len`.
    pub(crate) fn window<'w>(&self, len: usize, scratch: &'w mut [u8]) -> Result<&'w [u8], Unreadable>
    where
        'c: 'w,
    {
        if len == 0 {
            return Ok(&[]);
        }
        let first = self.segments(0..len).next().ok_or(Unreadable)??;
        if first.len as usize == len {
            return first.bytes();
        }
        let scratch = scratch.get_mut(..len).ok_or(Unreadable)?;
        self.copy(0..len, scratch)?;
        Ok(scratch)
    }

    /// Copies `range` to `out`, which is as long.
    ///
    /// # Errors
    /// [`Unreadable`], also when the data ends before the range does.
    pub(crate) fn copy(&self, range: Range<usize>, out: &mut [u8]) -> Result<(), Unreadable> {
        let mut rest = out;
        for segment in self.segments(range) {
            let bytes = segment?.bytes()?;
            let (to, behind) = rest.split_at_mut_checked(bytes.len()).ok_or(Unreadable)?;
            to.copy_from_slice(bytes);
            rest = behind;
        }
        if rest.is_empty() { Ok(()) } else { Err(Unreadable) }
    }
}

/// A list of outgoing packets, for as long as the classify that showed it runs. Its successor in a chain is not ours.
#[derive(Clone, Copy)]
pub(crate) struct Packets<'c> {
    nbl: NonNull<NET_BUFFER_LIST>,
    classify: PhantomData<&'c [u8]>,
}

impl<'c> Packets<'c> {
    /// # Safety
    /// `nbl` is what classify was given at a transport layer, and 'c ends with that classify.
    pub(crate) unsafe fn new(nbl: NonNull<NET_BUFFER_LIST>) -> Self {
        Self { nbl, classify: PhantomData }
    }

    /// The packets, in the order that they are sent in.
    pub(crate) fn views(&self) -> impl Iterator<Item = View<'c>> + use<'c> {
        let nbl = self.nbl;
        // SAFETY: the list and its NBs are alive while 'c lasts (the promise of `new`), here and below.
        let first = NonNull::new(unsafe { NET_BUFFER_LIST::first_nb(nbl.as_ptr()) });
        // SAFETY: as above.
        let next = |nb: &NonNull<_>| NonNull::new(unsafe { NET_BUFFER::next(nb.as_ptr()) });
        // SAFETY: as above, and `nb` is of this list.
        core::iter::successors(first, next).map(move |nb| unsafe { View::of_net_buffer(nbl, nb) })
    }

    /// Who injected the list, as far as this handle knows. IRQL <= DISPATCH_LEVEL.
    pub(crate) fn injection_state(&self, handle: HANDLE) -> FWPS_PACKET_INJECTION_STATE {
        // SAFETY: the handle lives as long as the callout, the list as long as classify.
        unsafe { FwpsQueryPacketInjectionState0(handle, self.nbl.as_ptr(), core::ptr::null_mut()) }
    }

    /// Whether hardware is asked to cut the packets: they may be larger than the link takes, and a list without that
    /// request can't carry them.
    pub(crate) fn is_segmented(&self) -> bool {
        [NET_BUFFER_LIST_INFO::TcpLargeSend, NET_BUFFER_LIST_INFO::UdpSegmentationOffload].into_iter().any(
            // SAFETY: the list is alive, and every Windows 10 has these slots.
            |slot| segmentation_mss(unsafe { NET_BUFFER_LIST::info(self.nbl.as_ptr(), slot) }) != 0,
        )
    }
}

/// A place in a chain, and what the NB around it still holds.
#[derive(Clone, Copy)]
struct Cursor {
    nbl: *mut NET_BUFFER_LIST,
    nb: *mut NET_BUFFER,
    mdl: *mut MDL,
    /// Counted from the start of `mdl`.
    offset: u32,
    /// Bytes that the NB holds from here on.
    left: usize,
}

impl Cursor {
    /// The current position of `nb`.
    ///
    /// # Safety
    /// Both are alive.
    unsafe fn of_net_buffer(nbl: *mut NET_BUFFER_LIST, nb: *mut NET_BUFFER) -> Self {
        // SAFETY: the caller's promise.
        unsafe {
            Self {
                nbl,
                nb,
                mdl: NET_BUFFER::current_mdl(nb),
                offset: NET_BUFFER::current_mdl_offset(nb),
                left: NET_BUFFER::data_length(nb) as usize,
            }
        }
    }

    /// A place somewhere in `nb`, at or behind its current position.
    ///
    /// # Safety
    /// All are alive, and `nb` is of `nbl`.
    unsafe fn at(
        nbl: *mut NET_BUFFER_LIST,
        nb: *mut NET_BUFFER,
        mdl: *mut MDL,
        offset: u32,
    ) -> Result<Self, Unreadable> {
        // SAFETY: the caller's promise.
        let mut cursor = unsafe { Self::of_net_buffer(nbl, nb) };
        while cursor.mdl != mdl {
            // SAFETY: a place in the chain of a live NB.
            if !unsafe { cursor.next_mdl() } {
                return Err(Unreadable);
            }
        }
        let skipped = offset.checked_sub(cursor.offset).ok_or(Unreadable)?;
        cursor.left = cursor.left.saturating_sub(skipped as usize);
        cursor.offset = offset;
        Ok(cursor)
    }

    /// Bytes in one piece from here on: what the MDL has, at most what the NB holds.
    ///
    /// # Safety
    /// The chain is alive.
    unsafe fn run(&self) -> u32 {
        if self.mdl.is_null() {
            return 0;
        }
        // SAFETY: the caller's promise.
        let in_mdl = unsafe { MDL::byte_count(self.mdl) }.saturating_sub(self.offset);
        in_mdl.min(u32::try_from(self.left).unwrap_or(u32::MAX))
    }

    /// Goes to the start of the next MDL of the NB; false when there is none.
    ///
    /// # Safety
    /// The chain is alive.
    unsafe fn next_mdl(&mut self) -> bool {
        if self.mdl.is_null() {
            return false;
        }
        // SAFETY: the caller's promise.
        unsafe {
            self.left -= self.run() as usize;
            self.mdl = MDL::next(self.mdl);
        }
        self.offset = 0;
        !self.mdl.is_null()
    }

    /// Goes to the next NB, of this list or of one behind it; false when there is none.
    ///
    /// # Safety
    /// The chain is alive.
    unsafe fn next_net_buffer(&mut self) -> bool {
        if self.nb.is_null() {
            return false;
        }
        // SAFETY: the caller's promise.
        unsafe {
            let (mut nbl, mut nb) = (self.nbl, NET_BUFFER::next(self.nb));
            while nb.is_null() {
                nbl = NET_BUFFER_LIST::next(nbl);
                if nbl.is_null() {
                    return false;
                }
                nb = NET_BUFFER_LIST::first_nb(nbl);
            }
            *self = Self::of_net_buffer(nbl, nb);
        }
        true
    }
}

/// The runs of memory of a range. Ends after [`Unreadable`], which comes when the chain ends too early.
pub(crate) struct Segments<'c> {
    cursor: Cursor,
    skip: usize,
    left: usize,
    classify: PhantomData<&'c [u8]>,
}

impl<'c> Iterator for Segments<'c> {
    type Item = Result<Segment<'c>, Unreadable>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.left > 0 {
            // SAFETY: the chain is alive while 'c lasts, the promise of `View`'s makers.
            let run = unsafe { self.cursor.run() };
            let skipped = (run as usize).min(self.skip) as u32;
            let len = ((run - skipped) as usize).min(self.left) as u32;
            let offset = self.cursor.offset + skipped;
            self.skip -= skipped as usize;
            self.left -= len as usize;
            let segment = (NonNull::new(self.cursor.nbl), NonNull::new(self.cursor.mdl));
            if self.left > 0 {
                // SAFETY: as above. An NB whose MDLs end before its data does is not read past.
                let more = unsafe {
                    self.cursor.next_mdl() || (self.cursor.left == 0 && self.cursor.next_net_buffer())
                };
                if !more {
                    self.left = 0;
                    return Some(Err(Unreadable));
                }
            }
            if let (true, (Some(nbl), Some(mdl))) = (len > 0, segment) {
                return Some(Ok(Segment { nbl, mdl, offset, len, classify: PhantomData }));
            }
        }
        None
    }
}

//! A view of the bytes that classify shows: runs of memory in a chain of NBLs, NBs and MDLs.
//!
//! Stream data begins at a place inside the chain (`FWPS_STREAM_DATA_OFFSET0`: NBL, NB, MDL, and an offset counted from the
//! start of that MDL) and goes on for `dataLength` bytes over the rest of that NB, the NBs behind it and the NBLs behind
//! that, so it may begin and end inside of anything. MDL lengths are not data lengths: an MDL may be empty, and the last
//! one of an NB may be longer than its data, so what an NB holds is counted against its `DataLength`.
//!
//! The bytes are someone else's: an application that sends from locked memory may change them while they are looked at. A
//! program that reads a byte twice may see two values, and nothing but its own verdict depends on that.

use alloc::vec::Vec;
use core::marker::PhantomData;
use core::ops::{Deref, Range};
use core::ptr::NonNull;
use core::slice;

use fwps_sys::{
    FWPS_PACKET_INJECTION_STATE, FWPS_STREAM_DATA_OFFSET0, FWPS_STREAM_DATA0, FwpsQueryPacketInjectionState0,
    HANDLE, MDL, MmGetSystemAddressForMdlSafe, NET_BUFFER, NET_BUFFER_LIST, NET_BUFFER_LIST_INFO,
    NORMAL_PAGE_PRIORITY, segmentation_mss,
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
        // SAFETY: `mdl` is alive while classify runs ('c, the promise of `View`'s makers), and the segment lies within what it
        // describes (`Segments::next` cuts it so).
        unsafe { mapped(self.mdl, self.offset, self.len as usize) }
    }
}

/// Bytes of an MDL, mapped if they were not.
///
/// # Safety
/// The MDL is alive while 'c lasts, its memory is locked or nonpaged, and the bytes lie within those that it describes.
#[inline]
unsafe fn mapped<'c>(mdl: NonNull<MDL>, offset: u32, len: usize) -> Result<&'c [u8], Unreadable> {
    // SAFETY: the caller's promise.
    let start = unsafe { MmGetSystemAddressForMdlSafe(mdl.as_ptr(), NORMAL_PAGE_PRIORITY) };
    let start = NonNull::new(start.cast::<u8>()).ok_or(Unreadable)?;
    // SAFETY: the caller's promise; what is mapped stays so while the MDL lives.
    Ok(unsafe { slice::from_raw_parts(start.add(offset as usize).as_ptr(), len) })
}

/// What a stream layer indicates, for as long as the classify that showed it runs.
#[derive(Clone, Copy)]
pub(crate) struct Indicated<'c>(&'c FWPS_STREAM_DATA0);

impl Deref for Indicated<'_> {
    type Target = FWPS_STREAM_DATA0;

    fn deref(&self) -> &FWPS_STREAM_DATA0 {
        self.0
    }
}

impl<'c> Indicated<'c> {
    /// # Safety
    /// `data` is what classify was given, and 'c ends with that classify.
    pub(crate) unsafe fn new(data: &'c FWPS_STREAM_DATA0) -> Self {
        Self(data)
    }

    /// Its bytes.
    ///
    /// # Errors
    /// [`Unreadable`] when the place where the data begins is not in the chain.
    pub(crate) fn view(self) -> Result<View<'c>, Unreadable> {
        // SAFETY: the promise of `new`.
        unsafe { View::of_stream(self.0) }
    }

    /// The first `len` bytes where they lie, when they lie in the first MDL of their NB and can be mapped: most do.
    #[inline]
    pub(crate) fn together(self, len: usize) -> Option<&'c [u8]> {
        let FWPS_STREAM_DATA_OFFSET0 { netBuffer: nb, mdl, mdlOffset: offset, .. } = self.dataOffset;
        let (nb, mdl) = (NonNull::new(nb)?, NonNull::new(mdl)?);
        // SAFETY: both are alive, the promise of `new`.
        let (first, before, in_nb, in_mdl) = unsafe {
            (
                NET_BUFFER::current_mdl(nb.as_ptr()),
                NET_BUFFER::current_mdl_offset(nb.as_ptr()),
                NET_BUFFER::data_length(nb.as_ptr()),
                MDL::byte_count(mdl.as_ptr()),
            )
        };
        // From the start of the MDL.
        let end = u64::from(offset).checked_add(len as u64)?;
        let here = first == mdl.as_ptr() && offset >= before;
        if here && end <= u64::from(in_mdl) && end <= u64::from(before) + u64::from(in_nb) {
            // SAFETY: the MDL is alive while 'c lasts, and the bytes lie within what it describes.
            return unsafe { mapped(mdl, offset, len) }.ok();
        }
        None
    }

    /// The first `len` bytes, wherever they lie: in `scratch` if they don't lie together, or are to be `copied`.
    ///
    /// # Errors
    /// [`Unreadable`], as with [`View::window`].
    #[cold]
    #[inline(never)]
    #[expect(
        clippy::ptr_arg,
        reason = "most calls of classify don't get here, nor need to know where it lies"
    )]
    pub(crate) fn anywhere<'w>(
        self,
        len: usize,
        copied: bool,
        scratch: &'w mut Vec<u8>,
    ) -> Result<&'w [u8], Unreadable>
    where
        'c: 'w,
    {
        let view = self.view()?;
        if copied { view.copied(len, scratch) } else { view.window(len, scratch) }
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
        if first.len as usize == len { first.bytes() } else { self.copied(len, scratch) }
    }

    /// The first `len` bytes, copied to `scratch` wherever they lie.
    ///
    /// # Errors
    /// [`Unreadable`], as with [`window`](Self::window).
    pub(crate) fn copied<'w>(&self, len: usize, scratch: &'w mut [u8]) -> Result<&'w [u8], Unreadable> {
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

#[cfg(test)]
mod tests {
    use std::boxed::Box;
    use std::vec;
    use std::vec::Vec;

    use fwps_sys::{FWPS_STREAM_DATA_OFFSET0, FWPS_STREAM_FLAG, MDL_FLAG};
    use proptest::collection;
    use proptest::prelude::*;

    use super::*;

    /// Chains made by hand: what the simulator would never show can be made too.
    #[derive(Default)]
    struct Chain {
        memory: Vec<Box<[u8]>>,
        mdls: Vec<*mut MDL>,
        nbs: Vec<*mut NET_BUFFER>,
        nbls: Vec<*mut NET_BUFFER_LIST>,
    }

    /// A zeroed object of the system.
    fn zeroed<T>() -> *mut T {
        // SAFETY: the system's structs are made of integers and pointers.
        Box::into_raw(unsafe { Box::<T>::new_zeroed().assume_init() })
    }

    impl Chain {
        /// An NB over MDLs with these bytes; it begins `before` bytes into the first and says that it holds `length`.
        fn net_buffer(&mut self, mdls: &[Vec<u8>], before: u32, length: usize) -> NonNull<NET_BUFFER> {
            let nb: *mut NET_BUFFER = zeroed();
            let mut link: *mut *mut MDL = core::ptr::null_mut();
            for bytes in mdls {
                let mut memory = bytes.clone().into_boxed_slice();
                let mdl: *mut MDL = zeroed();
                // SAFETY: both were just made, and `link` leads into one made in the turn before.
                unsafe {
                    (*mdl).MdlFlags = MDL_FLAG::MAPPED_TO_SYSTEM_VA;
                    (*mdl).MappedSystemVa = memory.as_mut_ptr().cast();
                    (*mdl).ByteCount = memory.len() as u32;
                    if link.is_null() {
                        (*nb).CurrentMdl = mdl;
                    } else {
                        *link = mdl;
                    }
                    link = &raw mut (*mdl).Next;
                }
                self.mdls.push(mdl);
                self.memory.push(memory);
            }
            // SAFETY: just made.
            unsafe {
                (*nb).CurrentMdlOffset = before;
                (*nb).DataLength = length as u32;
            }
            self.nbs.push(nb);
            NonNull::new(nb).expect("a box")
        }

        /// A list of these NBs, behind the lists made before.
        fn list(&mut self, nbs: &[NonNull<NET_BUFFER>]) -> NonNull<NET_BUFFER_LIST> {
            let nbl: *mut NET_BUFFER_LIST = zeroed();
            // SAFETY: all of them were made here.
            unsafe {
                (*nbl).FirstNetBuffer = nbs.first().map_or(core::ptr::null_mut(), |nb| nb.as_ptr());
                for pair in nbs.windows(2) {
                    (*pair[0].as_ptr()).Next = pair[1].as_ptr();
                }
                if let Some(last) = self.nbls.last() {
                    (**last).Next = nbl;
                }
            }
            self.nbls.push(nbl);
            NonNull::new(nbl).expect("a box")
        }

        /// An indication of `length` bytes from this place on.
        fn data(&self, mdl: *mut MDL, offset: u32, length: usize) -> FWPS_STREAM_DATA0 {
            FWPS_STREAM_DATA0 {
                flags: FWPS_STREAM_FLAG::SEND,
                dataOffset: FWPS_STREAM_DATA_OFFSET0 {
                    netBufferList: self.nbls[0],
                    netBuffer: self.nbs[0],
                    mdl,
                    mdlOffset: offset,
                    netBufferOffset: 0,
                    streamDataOffset: 0,
                },
                dataLength: length,
                netBufferListChain: self.nbls[0],
            }
        }
    }

    impl Drop for Chain {
        fn drop(&mut self) {
            // SAFETY: all were boxed here, and nobody else has them.
            unsafe {
                self.mdls.iter().for_each(|mdl| drop(Box::from_raw(*mdl)));
                self.nbs.iter().for_each(|nb| drop(Box::from_raw(*nb)));
                self.nbls.iter().for_each(|nbl| drop(Box::from_raw(*nbl)));
            }
        }
    }

    fn copied(view: &View<'_>, range: Range<usize>) -> Result<Vec<u8>, Unreadable> {
        let mut out = vec![0; range.len()];
        view.copy(range, &mut out)?;
        Ok(out)
    }

    fn stream<'c>(data: &'c FWPS_STREAM_DATA0) -> Result<View<'c>, Unreadable> {
        // SAFETY: the chain outlives the views of these tests.
        unsafe { View::of_stream(data) }
    }

    proptest! {
        #[test]
        fn any_range_of_any_chain_reads_as_the_bytes_put_together(
            lists in collection::vec(collection::vec(
                (collection::vec(collection::vec(any::<u8>(), 0..6), 1..4), 0..9_usize), 1..3), 1..4),
            begin: prop::sample::Index,
            from: prop::sample::Index,
            to: prop::sample::Index,
        ) {
            let mut chain = Chain::default();
            let mut bytes = Vec::new();
            for nbs in &lists {
                let mut made = Vec::new();
                for (mdls, spare) in nbs {
                    // The last MDL may hold more than the NB does.
                    let all = mdls.concat();
                    let length = all.len().saturating_sub(*spare);
                    bytes.extend_from_slice(&all[..length]);
                    made.push(chain.net_buffer(mdls, 0, length));
                }
                chain.list(&made);
            }
            // Data that begins somewhere in the first NB, named by one of its MDLs.
            let first: usize = lists[0][0].0.iter().map(Vec::len).sum::<usize>().saturating_sub(lists[0][0].1);
            let skip = begin.index(first + 1);
            prop_assume!(skip < bytes.len());
            let (mut mdl, mut offset) = (0, skip);
            while offset > lists[0][0].0[mdl].len() {
                offset -= lists[0][0].0[mdl].len();
                mdl += 1;
            }
            let bytes = &bytes[skip..];
            let data = chain.data(chain.mdls[mdl], offset as u32, bytes.len());
            let view = stream(&data).expect("the place is in the chain");
            let (a, b) = (from.index(bytes.len() + 1), to.index(bytes.len() + 1));
            let range = a.min(b)..a.max(b);
            prop_assert_eq!(copied(&view, range.clone()), Ok(bytes[range].to_vec()));
            let mut scratch = vec![0; bytes.len()];
            prop_assert_eq!(view.window(b, &mut scratch), Ok(&bytes[..b]));
            // SAFETY: the chain outlives it.
            let indicated = unsafe { Indicated::new(&data) };
            prop_assert!(indicated.together(b).is_none_or(|together| together == &bytes[..b]));
            for copy in [false, true] {
                prop_assert_eq!(indicated.anywhere(b, copy, &mut scratch), Ok(&bytes[..b]));
            }
            // One byte more than there is.
            let data = chain.data(chain.mdls[mdl], offset as u32, bytes.len() + 1);
            let view = stream(&data).expect("the place is in the chain");
            prop_assert_eq!(copied(&view, 0..bytes.len() + 1), Err(Unreadable));
        }
    }

    #[test]
    fn a_window_that_lies_together_is_not_copied() {
        let mut chain = Chain::default();
        let nb = chain.net_buffer(&[b"..abcdef".to_vec()], 2, 6);
        let nbl = chain.list(&[nb]);
        // SAFETY: the chain outlives the view.
        let view = unsafe { View::of_net_buffer(nbl, nb) };
        let window = view.window(4, &mut []).expect("readable");
        assert_eq!(window, b"abcd");
        assert_eq!(window.as_ptr(), chain.memory[0][2..].as_ptr());
        let data = chain.data(chain.mdls[0], 3, 5);
        // SAFETY: the chain outlives it.
        let indicated = unsafe { Indicated::new(&data) };
        let together = indicated.together(4).expect("in the first MDL");
        assert_eq!(together, b"bcde");
        assert_eq!(together.as_ptr(), chain.memory[0][3..].as_ptr());
        let from_before_the_data = chain.data(chain.mdls[0], 1, 5);
        // SAFETY: as above.
        assert_eq!(unsafe { Indicated::new(&from_before_the_data) }.together(4), None);
    }

    #[test]
    fn an_nb_whose_mdls_end_before_its_data_is_unreadable() {
        let mut chain = Chain::default();
        let short = chain.net_buffer(&[b"ab".to_vec(), b"c".to_vec()], 0, 5);
        let next = chain.net_buffer(&[b"defgh".to_vec()], 0, 5);
        let nbl = chain.list(&[short, next]);
        let data = chain.data(chain.mdls[0], 0, 8);
        assert_eq!(copied(&stream(&data).expect("in the chain"), 0..8), Err(Unreadable));
        // SAFETY: the chain outlives the view.
        let view = unsafe { View::of_net_buffer(nbl, short) };
        assert_eq!(view.window(5, &mut [0; 5]), Err(Unreadable));
        assert_eq!(view.window(3, &mut [0; 5]), Ok(&b"abc"[..]));
    }

    #[test]
    fn a_place_that_is_not_in_the_chain_is_unreadable() {
        let mut chain = Chain::default();
        let nb = chain.net_buffer(&[b"abc".to_vec()], 1, 2);
        let strange = chain.net_buffer(&[b"xyz".to_vec()], 0, 3);
        chain.list(&[nb]);
        chain.list(&[strange]);
        let elsewhere = chain.data(chain.mdls[1], 0, 1);
        assert!(stream(&elsewhere).is_err());
        let before_the_data = chain.data(chain.mdls[0], 0, 1);
        assert!(stream(&before_the_data).is_err());
        let nowhere = chain.data(core::ptr::null_mut(), 0, 1);
        assert!(stream(&nowhere).is_err());
    }

    #[test]
    fn an_indication_without_bytes_needs_no_chain() {
        let mut chain = Chain::default();
        let nb = chain.net_buffer(&[], 0, 0);
        chain.list(&[nb]);
        let data = chain.data(core::ptr::null_mut(), 0, 0);
        let view = stream(&data).expect("nothing to read");
        assert_eq!(view.window(0, &mut []), Ok(&b""[..]));
    }
}

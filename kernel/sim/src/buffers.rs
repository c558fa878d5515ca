//! NBLs, NBs and MDLs: building what is shown, cloning, walking, freeing.

use std::collections::HashMap;
use std::ptr::null_mut;

use fwps_sys::*;

use crate::config::Split;
use crate::memory::{self, Kind, Life, POISON};
use crate::rules;
use crate::state::{Fate, Inner, Nbl, NblKind, Region, State};

/// What one NB is to hold: bytes in front of its start (inside the MDL chain), the data, bytes after it.
pub(crate) struct Shape<'a> {
    pub(crate) before: usize,
    pub(crate) data: &'a [u8],
    pub(crate) after: usize,
}

/// A run of bytes inside one MDL.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Piece {
    pub(crate) address: usize,
    pub(crate) length: usize,
    pub(crate) mapped: bool,
}

/// Where a byte position of an NB lies.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) mdl: *mut MDL,
    pub(crate) offset: u32,
}

const PAGE: usize = 4096;

/// What reads as nothing sensible: bytes around the data that a callout has no business with.
const FILLER: u8 = 0xee;

impl State {
    /// Lengths of the MDLs that hold `total` bytes, as the configuration wants them.
    fn cut(&mut self, total: usize) -> Vec<usize> {
        match self.config.split {
            Split::Contiguous => vec![total],
            Split::Every(each) => {
                let each = each.max(1);
                let mut lengths = vec![each; total / each];
                if !total.is_multiple_of(each) || total == 0 {
                    lengths.push(total % each);
                }
                lengths
            }
            Split::Random => {
                let mut lengths = Vec::new();
                let mut left = total;
                while left > 0 {
                    let length = match self.rng.below(6) {
                        0 => 0,
                        1 => 1,
                        2 => left,
                        3 => left.min(1 + self.rng.below(8)),
                        _ => 1 + self.rng.below(left),
                    };
                    lengths.push(length);
                    left -= length;
                    // A stream of single bytes is a fine test and a slow one: cut a long one into fewer.
                    if lengths.len() > 64 && left > 0 {
                        lengths.push(left);
                        left = 0;
                    }
                }
                if total == 0 || self.rng.one_in(4) {
                    lengths.push(0);
                }
                lengths
            }
        }
    }

    fn new_mdl(&mut self, owner: *const Inner, piece: Piece) -> *mut MDL {
        let mdl: *mut MDL = memory::allocate(Kind::Mdl, owner);
        // SAFETY: just allocated, nobody else has it.
        unsafe {
            describe(mdl, piece.address, piece.length, MDL_FLAG::PAGES_LOCKED);
            if piece.mapped {
                (*mdl).MdlFlags |= MDL_FLAG::MAPPED_TO_SYSTEM_VA;
                (*mdl).MappedSystemVa = piece.address as *mut _;
            }
            let header = memory::details(mdl.cast());
            header.detail = memory::MDL_OF_ENGINE;
            header.extent = piece.length;
        }
        mdl
    }

    /// Makes an NB over `pieces`, starting `before` bytes into them.
    fn new_nb(
        &mut self,
        owner: *const Inner,
        pieces: &[Piece],
        before: usize,
        length: usize,
    ) -> (*mut NET_BUFFER, Vec<usize>) {
        let nb: *mut NET_BUFFER = memory::allocate(Kind::Nb, owner);
        let mdls: Vec<*mut MDL> = pieces.iter().map(|piece| self.new_mdl(owner, *piece)).collect();
        for pair in mdls.windows(2) {
            // SAFETY: both were just made.
            unsafe { (*pair[0]).Next = pair[1] }
        }
        let first = mdls.first().copied().unwrap_or(null_mut());
        // SAFETY: the NB was just made, and the chain begins at `first`.
        unsafe {
            (*nb).MdlChain = first;
            (*nb).DataOffset = before as u32;
            (*nb).DataLength = length as u32;
            let place = seek(first, before).unwrap_or(Place { mdl: null_mut(), offset: 0 });
            (*nb).CurrentMdl = place.mdl;
            (*nb).CurrentMdlOffset = place.offset;
        }
        (nb, mdls.into_iter().map(|mdl| mdl as usize).collect())
    }

    fn new_nbl(
        &mut self,
        owner: *const Inner,
        kind: NblKind,
        nbs: &[*mut NET_BUFFER],
        mdls: Vec<usize>,
    ) -> *mut NET_BUFFER_LIST {
        let nbl: *mut NET_BUFFER_LIST = memory::allocate(Kind::Nbl, owner);
        for pair in nbs.windows(2) {
            // SAFETY: the caller just made them.
            unsafe { (*pair[0]).Next = pair[1] }
        }
        // SAFETY: just allocated.
        unsafe { (*nbl).FirstNetBuffer = nbs.first().copied().unwrap_or(null_mut()) }
        for nb in nbs {
            self.nbs.insert(*nb as usize, nbl as usize);
        }
        let info = Nbl {
            kind,
            nbs: nbs.iter().map(|nb| *nb as usize).collect(),
            mdls,
            holds: 1,
            references: 0,
            fate: Fate::Idle,
            injectors: Vec::new(),
            injection_context: 0,
            region: None,
            shifts: HashMap::new(),
        };
        self.nbls.insert(nbl as usize, info);
        nbl
    }

    /// Makes an NBL of the engine's own over new memory, one NB for each shape.
    pub(crate) fn new_original(&mut self, owner: *const Inner, shapes: &[Shape<'_>]) -> *mut NET_BUFFER_LIST {
        // A gap between the pieces, so that reading across the end of an MDL shows.
        const GAP: usize = 8;
        let contiguous = self.config.split == Split::Contiguous;
        let cuts: Vec<Vec<usize>> = shapes
            .iter()
            .map(|shape| {
                let mut lengths = self.cut(shape.before + shape.data.len());
                if let Some(last) = lengths.last_mut() {
                    *last += shape.after;
                }
                lengths
            })
            .collect();
        let size = cuts.iter().flatten().map(|length| length + GAP).sum::<usize>() + GAP;
        let mut bytes = vec![FILLER; size].into_boxed_slice();
        let base = bytes.as_ptr() as usize;
        let mut at = if contiguous { 0 } else { GAP };
        let mut nbs = Vec::with_capacity(shapes.len());
        let mut mdls = Vec::new();
        for (shape, cut) in shapes.iter().zip(cuts) {
            let mut skip = shape.before;
            let mut data = shape.data;
            let mut pieces = Vec::with_capacity(cut.len());
            for length in cut {
                let mapped = !(self.config.unmapped && self.rng.one_in(2));
                pieces.push(Piece { address: base + at, length, mapped });
                let skipped = skip.min(length);
                skip -= skipped;
                let take = data.len().min(length - skipped);
                bytes[at + skipped..at + skipped + take].copy_from_slice(&data[..take]);
                data = &data[take..];
                at += length + if contiguous { 0 } else { GAP };
            }
            let (nb, of_nb) = self.new_nb(owner, &pieces, shape.before, shape.data.len());
            nbs.push(nb);
            mdls.extend(of_nb);
        }
        let nbl = self.new_nbl(owner, NblKind::Original, &nbs, mdls);
        let pristine = bytes.clone();
        self.regions.insert(base, Region { bytes, pristine, live: true });
        self.nbl_mut(nbl).region = Some(base);
        nbl
    }

    /// Makes an NBL with nothing in it: how a FIN is shown.
    pub(crate) fn new_empty(&mut self, owner: *const Inner) -> *mut NET_BUFFER_LIST {
        let (nb, mdls) = self.new_nb(owner, &[], 0, 0);
        self.new_nbl(owner, NblKind::Original, &[nb], mdls)
    }

    /// Makes an NBL over a callout's MDL chain.
    ///
    /// # Safety
    /// The chain is made of MDLs that the simulator gave out.
    pub(crate) unsafe fn new_built(
        &mut self,
        owner: *const Inner,
        pool: usize,
        chain: *mut MDL,
        offset: usize,
        length: usize,
    ) -> *mut NET_BUFFER_LIST {
        let (nb, _) = self.new_nb(owner, &[], 0, length);
        // SAFETY: the NB is new, the chain is the caller's promise.
        unsafe {
            (*nb).MdlChain = chain;
            (*nb).DataOffset = offset as u32;
            let place = seek(chain, offset).unwrap_or(Place { mdl: null_mut(), offset: 0 });
            (*nb).CurrentMdl = place.mdl;
            (*nb).CurrentMdlOffset = place.offset;
        }
        self.new_nbl(owner, NblKind::Built { pool }, &[nb], Vec::new())
    }

    /// Makes a clone with new descriptors over `ranges`, one NB for each.
    pub(crate) fn new_clone(
        &mut self,
        owner: *const Inner,
        kind: NblKind,
        of: *mut NET_BUFFER_LIST,
        ranges: &[Vec<Piece>],
    ) -> *mut NET_BUFFER_LIST {
        let mut nbs = Vec::with_capacity(ranges.len());
        let mut mdls = Vec::new();
        for pieces in ranges {
            let length = pieces.iter().map(|piece| piece.length).sum();
            let (nb, of_nb) = self.new_nb(owner, pieces, 0, length);
            nbs.push(nb);
            mdls.extend(of_nb);
        }
        let nbl = self.new_nbl(owner, kind, &nbs, mdls);
        if !of.is_null() {
            let inherit = self.config.clones_inherit_offload;
            // SAFETY: `of` is live, the callers checked; the clone was just made.
            unsafe {
                (*nbl).ParentNetBufferList = of;
                (*of).ChildRefCount += 1;
                if inherit {
                    (*nbl).NetBufferListInfo = (*of).NetBufferListInfo;
                }
            }
            let info = self.nbl_mut(of);
            info.holds += 1;
            // A clone carries the platform's tag on: who injected its original has injected it before.
            let injectors = info.injectors.clone();
            self.nbl_mut(nbl).injectors = injectors;
        }
        nbl
    }

    pub(crate) fn nbl_mut(&mut self, nbl: *const NET_BUFFER_LIST) -> &mut Nbl {
        self.nbls.get_mut(&(nbl as usize)).expect("a live NBL is registered")
    }

    /// Checks that a pointer that a callout passed is a live NBL of this simulator.
    pub(crate) fn is_nbl(&mut self, nbl: *const NET_BUFFER_LIST, call: &str) -> bool {
        match memory::life(nbl.cast(), Kind::Nbl) {
            Life::Live if self.nbls.contains_key(&(nbl as usize)) => return true,
            Life::Freed => self.violate(rules::FREED_NBL, format!("{call} on an NBL that was freed")),
            _ => self
                .violate(rules::FREED_NBL, format!("{call} on {nbl:p}, which is no NBL of this simulator")),
        }
        false
    }

    /// Drops one hold on an NBL and frees it with the last.
    pub(crate) fn release(&mut self, nbl: *mut NET_BUFFER_LIST) {
        let info = self.nbl_mut(nbl);
        info.holds -= 1;
        if info.holds > 0 {
            return;
        }
        let info = self.nbls.remove(&(nbl as usize)).expect("a live NBL is registered");
        if let Some(base) = info.region {
            self.check_untouched(base);
            self.kill_region(base);
        }
        let parent = match info.kind {
            NblKind::Clone { of } => Some(of),
            NblKind::StreamClone { of, .. } => of,
            NblKind::Built { pool } => {
                if let Some(pool) = self.handles.get_mut(&pool) {
                    pool.used -= 1;
                }
                None
            }
            NblKind::Original => None,
        };
        for mdl in info.mdls {
            // SAFETY: descriptors of this NBL, made by `new_mdl`.
            let grave = unsafe { memory::bury(mdl as *mut MDL) };
            self.bury(grave);
        }
        for nb in info.nbs {
            self.nbs.remove(&nb);
            // SAFETY: made by `new_nb`, and this was its NBL.
            let grave = unsafe { memory::bury(nb as *mut NET_BUFFER) };
            self.bury(grave);
        }
        // SAFETY: made by `new_nbl`; its entry is gone.
        let grave = unsafe { memory::bury(nbl) };
        self.bury(grave);
        if let Some(parent) = parent.filter(|parent| self.nbls.contains_key(parent)) {
            let parent = parent as *mut NET_BUFFER_LIST;
            // SAFETY: the parent is registered, so live.
            unsafe { (*parent).ChildRefCount -= 1 }
            self.release(parent);
        }
    }

    /// Notices when bytes that belong to the stack were written.
    pub(crate) fn check_untouched(&mut self, base: usize) {
        let Some(region) = self.regions.get_mut(&base) else { return };
        // Callouts write behind the compiler's back: look at what is there, not at what was put there.
        let seen: &[u8] = std::hint::black_box(&region.bytes);
        if *seen == *region.pristine {
            return;
        }
        let changed = seen.iter().zip(&*region.pristine).position(|(seen, kept)| seen != kept);
        if let Some(at) = changed {
            region.bytes.copy_from_slice(&region.pristine);
            self.violate(
                rules::READ_ONLY_DATA,
                format!("byte {at} of the memory that was shown has been changed in place"),
            );
        }
    }

    /// Takes back bytes that were lent for one classify.
    pub(crate) fn take_back(&mut self, base: usize) {
        self.kill_region(base);
    }

    fn kill_region(&mut self, base: usize) {
        const KEPT: usize = 128;
        if let Some(region) = self.regions.get_mut(&base) {
            region.bytes.fill(POISON);
            region.live = false;
            self.dead_regions.push_back(base);
        }
        if self.dead_regions.len() > KEPT
            && let Some(oldest) = self.dead_regions.pop_front()
        {
            self.regions.remove(&oldest);
        }
    }

    /// The pieces of an NB from its current position, `skip` bytes in, at most `limit` bytes. `None` when the chain is
    /// broken, which is a violation.
    ///
    /// # Safety
    /// `nb` is a live NB.
    pub(crate) unsafe fn pieces(
        &mut self,
        nb: *mut NET_BUFFER,
        skip: usize,
        limit: usize,
    ) -> Option<Vec<Piece>> {
        // SAFETY: the caller's promise.
        let (mdl, offset, length) =
            unsafe { ((*nb).CurrentMdl, (*nb).CurrentMdlOffset as usize, (*nb).DataLength) };
        let wanted = (length as usize).saturating_sub(skip).min(limit);
        // SAFETY: as above; MDLs are checked one by one.
        unsafe { self.pieces_from(mdl, offset + skip, wanted) }
    }

    /// The pieces of `wanted` bytes of an MDL chain from `skip` on.
    ///
    /// # Safety
    /// `mdl` is NULL or was given out by the simulator.
    pub(crate) unsafe fn pieces_from(
        &mut self,
        mdl: *mut MDL,
        skip: usize,
        wanted: usize,
    ) -> Option<Vec<Piece>> {
        let (mut mdl, mut skip, mut wanted) = (mdl, skip, wanted);
        let mut pieces = Vec::new();
        while wanted > 0 {
            if mdl.is_null() {
                self.violate(
                    rules::SHORT_CHAIN,
                    format!("an NB says {wanted} bytes more than its MDL chain holds"),
                );
                return None;
            }
            if !self.usable_mdl(mdl) {
                return None;
            }
            // SAFETY: the MDL is live.
            let (start, count, next, flags) = unsafe {
                let at = (*mdl).StartVa as usize + (*mdl).ByteOffset as usize;
                (at, (*mdl).ByteCount as usize, (*mdl).Next, (*mdl).MdlFlags)
            };
            if skip < count {
                let length = (count - skip).min(wanted);
                let address = start + skip;
                if self.engine_memory(address) == Some(false) {
                    self.violate(
                        rules::KEEP_REFERENCE,
                        "bytes of an original NBL are used after it was released: take a reference or a clone",
                    );
                    return None;
                }
                let mapped = flags.has_any(MDL_FLAG::MAPPED_TO_SYSTEM_VA | MDL_FLAG::SOURCE_IS_NONPAGED_POOL);
                pieces.push(Piece { address, length, mapped });
                wanted -= length;
                skip = 0;
            } else {
                skip -= count;
            }
            mdl = next;
        }
        Some(pieces)
    }

    /// Checks that an MDL is live and describes something.
    pub(crate) fn usable_mdl(&mut self, mdl: *mut MDL) -> bool {
        match memory::life(mdl.cast(), Kind::Mdl) {
            // SAFETY: the MDL is live.
            Life::Live => match unsafe { memory::details(mdl.cast()) }.detail {
                memory::MDL_UNBUILT => {
                    self.violate(rules::BAD_MDL, "an MDL is used that was never built");
                    false
                }
                _ => true,
            },
            Life::Freed => {
                self.violate(rules::FREED_MDL, "an MDL is used after it was freed");
                false
            }
            Life::Unknown => {
                self.violate(rules::BAD_MDL, format!("{mdl:p} is used as an MDL and is none"));
                false
            }
        }
    }

    /// The bytes of every NB of one NBL.
    ///
    /// # Safety
    /// `nbl` is live.
    pub(crate) unsafe fn packets(&mut self, nbl: *mut NET_BUFFER_LIST) -> Option<Vec<Vec<u8>>> {
        let mut packets = Vec::new();
        // SAFETY: the NBL is live, and its NBs with it.
        let mut nb = unsafe { (*nbl).FirstNetBuffer };
        while !nb.is_null() {
            // SAFETY: as above.
            let pieces = unsafe { self.pieces(nb, 0, usize::MAX) }?;
            packets.push(read(&pieces));
            // SAFETY: as above.
            nb = unsafe { (*nb).Next };
        }
        Some(packets)
    }
}

/// Copies what the pieces describe.
pub(crate) fn read(pieces: &[Piece]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(pieces.iter().map(|piece| piece.length).sum());
    for piece in pieces {
        // SAFETY: the pieces come from live MDLs, which describe memory that their makers keep while they are used.
        bytes.extend_from_slice(unsafe {
            std::slice::from_raw_parts(piece.address as *const u8, piece.length)
        });
    }
    bytes
}

/// Makes an MDL describe `length` bytes at `address`.
///
/// # Safety
/// `mdl` is a live MDL that the caller owns.
pub(crate) unsafe fn describe(mdl: *mut MDL, address: usize, length: usize, flags: MDL_FLAG) {
    // SAFETY: the caller's promise.
    unsafe {
        (*mdl).Size = size_of::<MDL>() as i16;
        (*mdl).MdlFlags = flags;
        (*mdl).StartVa = (address & !(PAGE - 1)) as *mut _;
        (*mdl).ByteOffset = (address & (PAGE - 1)) as u32;
        (*mdl).ByteCount = length as u32;
    }
}

/// The place of byte `skip` of a chain: the first MDL that has it, or the end of the last one.
///
/// # Safety
/// `mdl` is NULL or begins a chain of live MDLs.
pub(crate) unsafe fn seek(mdl: *mut MDL, skip: usize) -> Option<Place> {
    let (mut mdl, mut skip) = (mdl, skip);
    while !mdl.is_null() {
        // SAFETY: the caller's promise.
        let (count, next) = unsafe { ((*mdl).ByteCount as usize, (*mdl).Next) };
        if skip < count || (skip == count && next.is_null()) {
            return Some(Place { mdl, offset: skip as u32 });
        }
        skip -= count;
        mdl = next;
    }
    None
}

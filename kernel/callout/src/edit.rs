//! The plan of edits of one run: which of the bytes shown are kept, and what is new between them.
//!
//! A plan is only a plan: it names ranges and owns the new bytes, and nothing is cloned, allocated or changed until the
//! run is over and its verdict says that the edits count.

use alloc::boxed::Box;
use core::ops::Range;

use tidegate_abi::errno;
use tidegate_abi::limits::{MAX_EDIT_BYTES, MAX_EDITS, MAX_INJECTIONS};

use crate::memory::{self, NoMemory};

/// One edit. Its new bytes follow those of the edit before in [`Plan::bytes`].
#[derive(Clone, Copy)]
struct Edit {
    offset: u32,
    remove: u32,
    new: u16,
}

/// Edits in the order of their offsets. Fixed size, so that recording one never allocates.
#[derive(Clone, Copy)]
pub(crate) struct Plan {
    edits: [Edit; MAX_EDITS],
    count: usize,
    bytes: [u8; MAX_EDIT_BYTES],
    used: usize,
}

/// A stretch of what comes out when a plan is carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    /// These of the bytes shown.
    Keep(Range<usize>),
    /// These of the plan's new bytes ([`Plan::new_bytes`]).
    New(Range<usize>),
}

/// The same when the first bytes that come out are to lie together in memory of their own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// These of the bytes shown, copied.
    Copied(Range<usize>),
    /// These of the plan's new bytes.
    New(Range<usize>),
    /// These of the bytes shown, where they lie.
    Shared(Range<usize>),
}

impl Plan {
    /// No edits.
    pub(crate) const fn new() -> Self {
        Self {
            edits: [Edit { offset: 0, remove: 0, new: 0 }; MAX_EDITS],
            count: 0,
            bytes: [0; MAX_EDIT_BYTES],
            used: 0,
        }
    }

    /// Forgets every edit.
    pub(crate) fn clear(&mut self) {
        self.count = 0;
        self.used = 0;
    }

    /// True when there is nothing to carry out.
    pub(crate) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Every new byte, in the order of the edits.
    pub(crate) fn new_bytes(&self) -> &[u8] {
        self.bytes.get(..self.used).unwrap_or(&[])
    }

    /// Behind the last of the bytes shown that an edit touches.
    pub(crate) fn end(&self) -> usize {
        self.edits().last().map_or(0, Edit::end)
    }

    /// Replaces `remove` of the `shown` bytes from `offset` on with `new`. An edit that does nothing is not recorded.
    ///
    /// # Errors
    /// What a helper negates: `EINVAL` for a range that is not within the bytes shown or that begins before the end of the
    /// edit before, `E2BIG` when the edits or their bytes are too many. The plan is then as it was.
    pub(crate) fn record(&mut self, shown: usize, offset: u64, remove: u64, new: &[u8]) -> Result<(), i64> {
        let end = offset.checked_add(remove).ok_or(errno::EINVAL)?;
        if end > shown as u64 || offset < self.end() as u64 {
            return Err(errno::EINVAL);
        }
        if remove == 0 && new.is_empty() {
            return Ok(());
        }
        let (Ok(offset), Ok(remove)) = (u32::try_from(offset), u32::try_from(remove)) else {
            return Err(errno::EINVAL);
        };
        let used = self.used + new.len();
        let (Some(edit), Some(bytes)) = (self.edits.get_mut(self.count), self.bytes.get_mut(self.used..used))
        else {
            return Err(errno::E2BIG);
        };
        bytes.copy_from_slice(new);
        *edit = Edit { offset, remove, new: new.len() as u16 };
        self.count += 1;
        self.used = used;
        Ok(())
    }

    /// What comes out of the first `cover` bytes shown, in order and without empty pieces. No edit lies behind them.
    pub(crate) fn pieces(&self, cover: usize) -> impl Iterator<Item = Piece> + '_ {
        let (mut kept, mut new) = (0, 0);
        let edited = self.edits().iter().flat_map(move |edit| {
            let keep = Piece::Keep(kept..edit.offset as usize);
            let fresh = Piece::New(new..new + edit.new as usize);
            kept = edit.end();
            new += edit.new as usize;
            [keep, fresh]
        });
        edited.chain([Piece::Keep(self.end()..cover)]).filter(|piece| piece.len() != 0)
    }

    /// The same when the first `head` bytes that come out are to be copied: no part lies on both sides of their end.
    pub(crate) fn parts(&self, cover: usize, head: usize) -> impl Iterator<Item = Part> + '_ {
        let mut left = head;
        let cut = self.pieces(cover).flat_map(move |piece| {
            let before = left.min(piece.len());
            left -= before;
            match piece {
                Piece::Keep(Range { start, end }) => {
                    let middle = start + before;
                    [Part::Copied(start..middle), Part::Shared(middle..end)]
                }
                Piece::New(Range { start, end }) => {
                    let middle = start + before;
                    [Part::New(start..middle), Part::New(middle..end)]
                }
            }
        });
        cut.filter(|part| part.len() != 0)
    }

    /// What comes out of the first `cover` bytes shown, byte by byte.
    pub(crate) fn output<'p>(&'p self, shown: &'p [u8], cover: usize) -> impl Iterator<Item = u8> + 'p {
        let bytes = |piece| match piece {
            Piece::Keep(range) => shown.get(range),
            Piece::New(range) => self.new_bytes().get(range),
        };
        self.pieces(cover).flat_map(move |piece| bytes(piece).unwrap_or_default().iter().copied())
    }

    /// Bytes that come out of the first `cover` bytes shown.
    pub(crate) fn output_len(&self, cover: usize) -> usize {
        self.pieces(cover).map(|piece| piece.len()).sum()
    }

    fn edits(&self) -> &[Edit] {
        self.edits.get(..self.count).unwrap_or(&[])
    }
}

/// What one run wants to send of its own, and to remove of what is still to come. Fixed size, as a plan is.
#[derive(Clone, Copy)]
pub(crate) struct Own {
    sent: [Sent; MAX_INJECTIONS],
    count: usize,
    bytes: [u8; MAX_EDIT_BYTES],
    used: usize,
    ahead: u64,
}

/// What one run wants changed.
#[derive(Clone, Copy)]
pub(crate) struct Changes {
    /// There may be something.
    touched: bool,
    /// Of the bytes shown.
    pub(crate) edits: Plan,
    /// Of the program's clone.
    pub(crate) clone: Plan,
    /// What the program sends of its own.
    pub(crate) own: Own,
}

impl Changes {
    /// Nothing.
    pub(crate) const fn new() -> Self {
        Self { touched: false, edits: Plan::new(), clone: Plan::new(), own: Own::new() }
    }

    /// The same in memory of its own.
    ///
    /// # Errors
    /// There is none.
    #[inline(never)]
    pub(crate) fn boxed() -> Result<Box<Self>, NoMemory> {
        static NOTHING: Changes = Changes::new();
        memory::boxed_copy(&NOTHING)
    }

    /// The same, for whoever changes something.
    pub(crate) fn touch(&mut self) -> &mut Self {
        self.touched = true;
        self
    }

    /// Whether there may be something.
    #[inline]
    pub(crate) fn is_touched(&self) -> bool {
        self.touched
    }

    /// Forgets everything.
    #[inline]
    pub(crate) fn clear(&mut self) {
        if self.touched {
            self.touched = false;
            self.edits.clear();
            self.clone.clear();
            self.own.clear();
        }
    }
}

/// One piece of data of a program's own. Its bytes follow those of the piece before.
#[derive(Clone, Copy)]
struct Sent {
    direction: u8,
    end: bool,
    len: u16,
}

/// The same, for whoever sends it.
pub(crate) struct OwnPiece<'p> {
    /// 0 outbound, 1 inbound.
    pub(crate) direction: usize,
    /// The direction ends behind it.
    pub(crate) end: bool,
    pub(crate) bytes: &'p [u8],
}

impl Own {
    /// Nothing.
    pub(crate) const fn new() -> Self {
        Self {
            sent: [Sent { direction: 0, end: false, len: 0 }; MAX_INJECTIONS],
            count: 0,
            bytes: [0; MAX_EDIT_BYTES],
            used: 0,
            ahead: 0,
        }
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        (self.count, self.used, self.ahead) = (0, 0, 0);
    }

    /// Sends `data` in a direction, which ends behind it if so wanted.
    ///
    /// # Errors
    /// What a helper negates: `E2BIG` for too many or too much, `EINVAL` behind the end of the direction.
    pub(crate) fn send(&mut self, direction: usize, data: &[u8], end: bool) -> Result<(), i64> {
        if self.pieces().any(|piece| piece.end && piece.direction == direction) {
            return Err(errno::EINVAL);
        }
        let used = self.used + data.len();
        let (Some(sent), Some(bytes)) = (self.sent.get_mut(self.count), self.bytes.get_mut(self.used..used))
        else {
            return Err(errno::E2BIG);
        };
        bytes.copy_from_slice(data);
        *sent = Sent { direction: direction as u8, end, len: data.len() as u16 };
        self.count += 1;
        self.used = used;
        Ok(())
    }

    /// Removes so many more of the bytes to come.
    pub(crate) fn remove_ahead(&mut self, bytes: u64) {
        self.ahead = self.ahead.saturating_add(bytes);
    }

    /// Bytes to come that are to be removed.
    pub(crate) fn ahead(&self) -> u64 {
        self.ahead
    }

    /// True when nothing is sent or removed.
    pub(crate) fn is_empty(&self) -> bool {
        self.count == 0 && self.ahead == 0
    }

    /// Whether the same is sent and removed.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        fn sent(own: &Own, direction: usize) -> impl Iterator<Item = &u8> {
            own.pieces().filter(move |piece| piece.direction == direction).flat_map(|piece| piece.bytes)
        }
        let same = |direction| sent(self, direction).eq(sent(other, direction));
        self.ahead == other.ahead && self.ends() == other.ends() && same(0) && same(1)
    }

    /// Whether a direction is ended.
    pub(crate) fn ends(&self) -> bool {
        self.pieces().any(|piece| piece.end)
    }

    /// What is to be sent, in order.
    pub(crate) fn pieces(&self) -> impl Iterator<Item = OwnPiece<'_>> {
        let mut at = 0;
        self.sent.get(..self.count).unwrap_or_default().iter().map(move |sent| {
            let from = at;
            at += sent.len as usize;
            let bytes = self.bytes.get(from..at).unwrap_or_default();
            OwnPiece { direction: sent.direction as usize, end: sent.end, bytes }
        })
    }
}

impl Edit {
    fn end(&self) -> usize {
        self.offset as usize + self.remove as usize
    }
}

impl Piece {
    fn len(&self) -> usize {
        let (Self::Keep(range) | Self::New(range)) = self;
        range.len()
    }
}

impl Part {
    /// Bytes.
    pub(crate) fn len(&self) -> usize {
        let (Self::Copied(range) | Self::New(range) | Self::Shared(range)) = self;
        range.len()
    }

    /// Those that need memory.
    pub(crate) fn owned(&self) -> usize {
        if matches!(self, Self::Shared(_)) { 0 } else { self.len() }
    }
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn carry_out(plan: &Plan, shown: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        for piece in plan.pieces(shown.len()) {
            match piece {
                Piece::Keep(range) => out.extend_from_slice(&shown[range]),
                Piece::New(range) => out.extend_from_slice(&plan.new_bytes()[range]),
            }
        }
        assert_eq!(plan.output_len(shown.len()), out.len());
        out
    }

    /// The same edits on a plain vector, from the last to the first so that offsets stay true.
    fn model(shown: &[u8], edits: &[(usize, usize, Vec<u8>)]) -> Vec<u8> {
        let mut out = shown.to_vec();
        for (offset, remove, new) in edits.iter().rev() {
            out.splice(*offset..offset + remove, new.iter().copied());
        }
        out
    }

    proptest! {
        #[test]
        fn a_plan_does_what_splicing_a_vector_does(
            shown in vec(any::<u8>(), 0..200),
            wanted in vec((0..40_usize, 0..40_usize, vec(any::<u8>(), 0..200)), 0..24),
            head in 0..300_usize,
        ) {
            let mut plan = Plan::new();
            let mut done = Vec::new();
            let (mut end, mut used) = (0, 0);
            for (gap, remove, new) in wanted {
                let offset = end + gap;
                let fits = offset + remove <= shown.len();
                let room = done.len() < MAX_EDITS && used + new.len() <= MAX_EDIT_BYTES;
                let answer = plan.record(shown.len(), offset as u64, remove as u64, &new);
                match (fits, remove == 0 && new.is_empty(), room) {
                    (false, _, _) => prop_assert_eq!(answer, Err(errno::EINVAL)),
                    (true, true, _) => prop_assert_eq!(answer, Ok(())),
                    (true, false, false) => prop_assert_eq!(answer, Err(errno::E2BIG)),
                    (true, false, true) => {
                        prop_assert_eq!(answer, Ok(()));
                        end = offset + remove;
                        used += new.len();
                        done.push((offset, remove, new));
                    }
                }
            }
            prop_assert_eq!(plan.end(), end);
            prop_assert_eq!(plan.is_empty(), done.is_empty());
            let expected = model(&shown, &done);
            prop_assert_eq!(carry_out(&plan, &shown), &*expected);

            // Cut where a head ends: the same comes out, and all of the head and nothing else that was shown is copied.
            let (mut out, mut copied, mut shared) = (Vec::new(), 0, 0);
            for part in plan.parts(shown.len(), head) {
                prop_assert!(part.len() > 0 && (out.len() >= head || out.len() + part.len() <= head));
                prop_assert!(!matches!(part, Part::Shared(_)) || out.len() >= head);
                prop_assert!(!matches!(part, Part::Copied(_)) || out.len() < head);
                if let Part::Shared(range) = &part { shared += range.len() } else { copied += part.owned() }
                match part {
                    Part::Copied(range) | Part::Shared(range) => out.extend_from_slice(&shown[range]),
                    Part::New(range) => out.extend_from_slice(&plan.new_bytes()[range]),
                }
            }
            prop_assert_eq!(copied + shared, out.len());
            prop_assert!(copied <= used + head);
            prop_assert_eq!(out, expected);
        }
    }

    #[test]
    fn inserts_at_one_place_come_out_in_the_order_they_were_made() {
        let mut plan = Plan::new();
        assert_eq!(plan.record(4, 2, 0, b"one"), Ok(()));
        assert_eq!(plan.record(4, 2, 0, b"two"), Ok(()));
        assert_eq!(plan.record(4, 4, 0, b"end"), Ok(()));
        assert_eq!(carry_out(&plan, b"abcd"), b"abonetwocdend");
    }

    #[test]
    fn edits_neither_go_back_nor_overlap() {
        let mut plan = Plan::new();
        assert_eq!(plan.record(9, 3, 3, b"x"), Ok(()));
        assert_eq!(plan.record(9, 2, 0, b"y"), Err(errno::EINVAL));
        assert_eq!(plan.record(9, 5, 2, b"y"), Err(errno::EINVAL));
        assert_eq!(plan.record(9, 3, 0, b"y"), Err(errno::EINVAL));
        assert_eq!(plan.record(9, 6, 0, b"y"), Ok(()));
        assert_eq!(carry_out(&plan, b"abcdefghi"), b"abcxyghi");
    }

    #[test]
    fn offsets_that_do_not_fit_a_number_are_refused() {
        let mut plan = Plan::new();
        assert_eq!(plan.record(9, u64::MAX, 1, b""), Err(errno::EINVAL));
        assert_eq!(plan.record(9, 1, u64::MAX, b""), Err(errno::EINVAL));
        assert_eq!(plan.record(9, 1 << 32, 0, b"x"), Err(errno::EINVAL));
        assert!(plan.is_empty());
    }

    #[test]
    fn a_cleared_plan_changes_nothing() {
        let mut plan = Plan::new();
        assert_eq!(plan.record(3, 0, 3, b"new"), Ok(()));
        plan.clear();
        assert_eq!(carry_out(&plan, b"abc"), b"abc");
        assert_eq!(plan.record(3, 0, 1, b"A"), Ok(()));
        assert_eq!(carry_out(&plan, b"abc"), b"Abc");
    }
}

//! One direction of a connection: segments in the order of the capture become bytes in the order of the stream.

use std::collections::{BTreeMap, VecDeque};

use super::{Kind, Notes};

/// A TCP segment of this direction.
#[derive(Clone, Copy, Debug)]
pub(super) struct Segment<'a> {
    pub sequence: u32,
    pub syn: bool,
    pub fin: bool,
    pub push: bool,
    pub bytes: &'a [u8],
    /// Bytes behind `bytes` that the segment had and the capture did not keep.
    pub cut: usize,
}

/// The largest window that TCP can announce (RFC 7323 section 2.3): nothing is further away from the newest byte.
const LARGEST_WINDOW: i64 = 1 << 30;
/// How far before its first captured segment a direction may begin when its SYN was not captured.
const REACH_BACK: i64 = 1 << 16;

/// Bytes of a stream that came in one segment.
struct Piece {
    bytes: Vec<u8>,
    push: bool,
}

/// The state of a direction. Positions count bytes from its first one; sequence numbers wrap, positions don't.
pub(super) struct Assembly {
    /// Position of each segment, in the order of the capture; none for a stray one.
    positions: VecDeque<Option<i64>>,
    /// Position ranges that the capture has, in order, not touching.
    covered: Vec<(i64, i64)>,
    /// What has been captured so far. Pieces don't overlap.
    pieces: BTreeMap<i64, Piece>,
    /// Position of the next byte to be shown.
    next: i64,
    /// Bytes left out right before it.
    missed: u64,
    /// Position behind the newest byte seen.
    top: i64,
    /// Position of the FIN, when it was seen.
    fin: Option<i64>,
    ended: bool,
}

impl Assembly {
    /// Looks at all `segments` first, to know where the direction begins and which of its bytes will ever come.
    pub(super) fn new<'a>(segments: impl Iterator<Item = Segment<'a>> + Clone) -> Self {
        // Positions are first counted from the SYN, or from the first segment.
        let syn = segments.clone().find(|segment| segment.syn);
        let base = syn.map(|syn| syn.sequence.wrapping_add(1));
        let mut newest =
            base.or_else(|| segments.clone().next().map(|first| first.sequence)).map(|base| (base, 0));
        let mut positions = VecDeque::new();
        for segment in segments.clone() {
            // The SYN takes a number of its own before the data.
            let start = segment.sequence.wrapping_add(u32::from(segment.syn));
            let position = newest.map_or(0, |(sequence, position)| {
                position + i64::from(start.wrapping_sub(sequence).cast_signed())
            });
            let far = newest.is_some_and(|(_, newest)| (position - newest).abs() > LARGEST_WINDOW);
            if !far && newest.is_none_or(|(_, newest)| position > newest) {
                newest = Some((start, position));
            }
            positions.push_back((!far).then_some(position));
        }
        let with_bytes = || segments.clone().zip(&positions).filter(|(segment, _)| !segment.bytes.is_empty());
        let begin = match base {
            Some(_) => 0,
            None => with_bytes().filter_map(|(_, at)| *at).filter(|at| *at >= -REACH_BACK).min().unwrap_or(0),
        };
        let mut ranges: Vec<_> = with_bytes()
            .filter_map(|(segment, at)| Some((at.as_ref()? - begin, segment.bytes.len() as i64)))
            .map(|(at, length)| (at.max(0), at + length))
            .filter(|(at, end)| at < end)
            .collect();
        ranges.sort_unstable();
        let mut covered: Vec<(i64, i64)> = Vec::new();
        for (at, end) in ranges {
            match covered.last_mut() {
                Some((_, last)) if *last >= at => *last = end.max(*last),
                _ => covered.push((at, end)),
            }
        }
        let positions = positions.into_iter().map(|at| Some(at? - begin)).collect();
        let (pieces, next, missed, top, fin, ended) = (BTreeMap::new(), 0, 0, 0, None, false);
        Self { positions, covered, pieces, next, missed, top, fin, ended }
    }

    /// Takes the next segment in the order of the capture, and hands what it makes visible to `show`: the bytes missed
    /// right before it, and what it is.
    pub(super) fn take(
        &mut self,
        segment: &Segment<'_>,
        notes: &mut Notes,
        show: &mut impl FnMut(u64, Kind),
    ) {
        let Some(at) = self.positions.pop_front().flatten() else {
            notes.stray += 1;
            return;
        };
        let end = at + segment.bytes.len() as i64 + segment.cut as i64;
        if end - at <= 1 && at + 1 == self.top && !segment.syn && !segment.fin && self.at(at).is_some() {
            // RFC 9293 section 3.8.4: the number before the next one, with no byte or any one byte.
            notes.keep_alives += 1;
            return;
        }
        if !segment.bytes.is_empty() {
            if self.fin.is_some_and(|fin| at >= fin) {
                notes.stray += 1;
                return;
            }
            if at > self.top && self.covers(self.top) {
                notes.out_of_order += 1;
            }
            self.keep(at, segment, notes);
            self.top = self.top.max(end);
        }
        if segment.fin && self.fin.is_none() {
            self.fin = Some(end.max(self.next));
        }
        self.show(show);
    }

    /// Adds the bytes of a segment where none are known.
    fn keep(&mut self, at: i64, segment: &Segment<'_>, notes: &mut Notes) {
        let skip = usize::try_from(-at).unwrap_or(0).min(segment.bytes.len());
        let mut at = at + skip as i64;
        let mut rest = &segment.bytes[skip..];
        notes.retransmitted += skip as u64;
        let mut differs = false;
        while !rest.is_empty() {
            let length = if let Some(known) = self.at(at) {
                let length = known.len().min(rest.len());
                notes.retransmitted += length as u64;
                differs |= known[..length] != rest[..length];
                length
            } else {
                let free = self.pieces.range(at..).next().map_or(i64::MAX, |(next, _)| next - at);
                let length = usize::try_from(free).unwrap_or(usize::MAX).min(rest.len());
                let push = segment.push && length == rest.len();
                self.pieces.insert(at, Piece { bytes: rest[..length].to_vec(), push });
                length
            };
            at += length as i64;
            rest = &rest[length..];
        }
        notes.conflicts += u64::from(differs);
    }

    /// The bytes known from position `at` on, up to the end of their piece.
    fn at(&self, at: i64) -> Option<&[u8]> {
        let (start, piece) = self.pieces.range(..=at).next_back()?;
        piece.bytes.get(usize::try_from(at - start).ok()?..).filter(|bytes| !bytes.is_empty())
    }

    /// Whether the capture has the byte at `at`, here or further on.
    fn covers(&self, at: i64) -> bool {
        let behind = self.covered.partition_point(|(start, _)| *start <= at);
        behind.checked_sub(1).and_then(|range| self.covered.get(range)).is_some_and(|(_, end)| at < *end)
    }

    /// Shows everything that is in order now.
    fn show(&mut self, show: &mut impl FnMut(u64, Kind)) {
        while !self.ended {
            if self.fin == Some(self.next) {
                self.ended = true;
                show(std::mem::take(&mut self.missed), Kind::Fin);
            } else if let Some(piece) = self.pieces.get(&self.next) {
                // A piece that reaches behind the FIN is the FIN's fault: it ends the direction.
                let end = self.fin.map_or(i64::MAX, |fin| fin - self.next);
                let length = piece.bytes.len().min(usize::try_from(end).unwrap_or(0));
                let bytes = piece.bytes[..length].to_vec();
                let kind = Kind::Data { bytes, push: piece.push };
                self.next += length as i64;
                show(std::mem::take(&mut self.missed), kind);
            } else if self.covers(self.next) {
                break;
            } else {
                // This byte never comes: go on where the capture does, once that is there.
                let behind = self.covered.partition_point(|(start, _)| *start <= self.next);
                let go_on = self.covered.get(behind).map(|(start, _)| *start);
                let to = match (go_on.filter(|at| self.pieces.contains_key(at)), self.fin) {
                    (Some(data), Some(fin)) if fin > self.next => data.min(fin),
                    (Some(data), _) => data,
                    (None, Some(fin)) if fin > self.next && go_on.is_none_or(|at| at >= fin) => fin,
                    (None, _) => break,
                };
                self.missed += to.abs_diff(self.next);
                self.next = to;
            }
        }
    }
}

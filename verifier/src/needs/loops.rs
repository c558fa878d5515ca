//! Which loop each instruction belongs to, found in one depth-first pass over the control flow.

use alloc::vec::Vec;

use tidegate_abi::Insn;

use super::successors;
use crate::memory::{Memory, OutOfMemory};
use crate::structure::Structure;

const NO_LOOP: u32 = u32::MAX;
/// Steps along chains of loops before the search gives up: nests far deeper than compilers make.
const MAX_WORK: usize = 4 << 20;

/// The nest of loops. It only guides the walk: what it gets wrong costs time, never a proof.
#[derive(Default)]
pub(crate) struct Loops {
    /// Head of the innermost loop that each slot is in; of a head, of the loop around its own.
    around: Vec<u32>,
    heads: Vec<bool>,
}

/// The pass in progress.
struct Search {
    loops: Loops,
    /// Place on the current path, from 1; 0 when the slot isn't on it.
    place: Vec<u32>,
    work: usize,
}

impl Loops {
    pub(crate) fn find(structure: &Structure, memory: &mut Memory) -> Result<Self, OutOfMemory> {
        let len = structure.insns().len();
        let loops = Self { around: memory.filled(len, NO_LOOP)?, heads: memory.filled(len, false)? };
        let mut search = Search { loops, place: memory.filled(len, 0)?, work: 0 };
        let mut seen = memory.filled(len, false)?;
        // Slots of the path, each with the number of its ways that were taken.
        let mut path: Vec<(usize, usize)> = Vec::new();
        for start in structure.functions() {
            let mut entered = Some(*start as usize);
            while let Some(slot) = entered.take().or_else(|| path.last().map(|(slot, _)| *slot)) {
                if let Some(seen) = seen.get_mut(slot).filter(|seen| !**seen) {
                    *seen = true;
                    memory.push(&mut path, (slot, 0))?;
                    if let Some(place) = search.place.get_mut(slot) {
                        *place = path.len() as u32;
                    }
                }
                let Some((_, taken)) = path.last_mut() else { break };
                let ways = structure.insn(slot).map_or([None; 2], |insn| successors(slot, insn));
                let way = *taken;
                *taken += 1;
                match ways.get(way).copied() {
                    Some(Some(next)) if seen.get(next) == Some(&false) => entered = Some(next),
                    Some(Some(next)) => search.again(slot, next),
                    Some(None) => {}
                    None => {
                        path.pop();
                        if let Some(place) = search.place.get_mut(slot) {
                            *place = 0;
                        }
                        if let Some((parent, _)) = path.last() {
                            search.tag(*parent, search.loops.around(slot));
                        }
                    }
                }
            }
        }
        memory.discard(search.place);
        memory.discard(seen);
        memory.discard(path);
        Ok(search.loops)
    }

    fn around(&self, slot: usize) -> u32 {
        self.around.get(slot).copied().unwrap_or(NO_LOOP)
    }

    /// The head of the innermost loop around a jump at `slot` that has one way that stays in it and one that doesn't.
    pub(crate) fn leaves(&self, slot: usize, insn: Insn) -> Option<usize> {
        let [Some(next), Some(target)] = successors(slot, insn) else { return None };
        (self.stays(slot, next) != self.stays(slot, target)).then_some(self.head(slot) as usize)
    }

    pub(crate) fn is_head(&self, slot: usize) -> bool {
        self.heads.get(slot).copied().unwrap_or(false)
    }

    /// The head of the innermost loop that `slot` is in.
    fn head(&self, slot: usize) -> u32 {
        if self.is_head(slot) { slot as u32 } else { self.around(slot) }
    }

    /// Whether going on from `slot` to `next` stays in the innermost loop around `slot`.
    pub(crate) fn stays(&self, slot: usize, next: usize) -> bool {
        self.contains(self.head(slot), next)
    }

    /// Whether a slot is in the loop of a head.
    pub(crate) fn contains(&self, head: u32, slot: usize) -> bool {
        let mut at = slot as u32;
        // Nests are shallow: what lies deeper counts as outside.
        for _ in 0..64 {
            if head == NO_LOOP || at == NO_LOOP {
                return false;
            }
            if at == head {
                return true;
            }
            at = self.around(at as usize);
        }
        false
    }

    pub(crate) fn discard(self, memory: &mut Memory) {
        memory.discard(self.around);
        memory.discard(self.heads);
    }
}

impl Search {
    fn place(&self, slot: u32) -> u32 {
        self.place.get(slot as usize).copied().unwrap_or(0)
    }

    /// An edge to a slot that was seen before: back to a head, or into what was left already.
    fn again(&mut self, from: usize, to: usize) {
        if self.place(to as u32) > 0 {
            if let Some(head) = self.loops.heads.get_mut(to) {
                *head = true;
            }
            self.tag(from, to as u32);
            return;
        }
        let mut head = self.loops.around(to);
        while head != NO_LOOP && self.work < MAX_WORK {
            self.work += 1;
            if self.place(head) > 0 {
                return self.tag(from, head);
            }
            head = self.loops.around(head as usize);
        }
    }

    /// `slot` is in the loop of `head`: weaves that into the chain of the loops around it, the innermost first.
    fn tag(&mut self, slot: usize, head: u32) {
        let (mut slot, mut head) = (slot as u32, head);
        while slot != head && head != NO_LOOP && self.work < MAX_WORK {
            self.work += 1;
            let around = self.loops.around(slot as usize);
            let inner = around == NO_LOOP || self.place(around) < self.place(head);
            if around == head {
                return;
            }
            if inner {
                if let Some(slot) = self.loops.around.get_mut(slot as usize) {
                    *slot = head;
                }
                (slot, head) = (head, around);
            } else {
                slot = around;
            }
        }
    }
}

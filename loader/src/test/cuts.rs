//! Every way to cut a stream: what one sender wrote can arrive in any pieces, and nothing may depend on which.

use std::collections::BTreeSet;

use schemars::JsonSchema;
use serde::Serialize;

use crate::flows::{Kind, Step};

/// A stream without its cuts: bytes that follow each other in one direction are one block.
#[derive(Clone, Debug)]
pub struct Script {
    parts: Vec<Part>,
    /// Where it was cut as given. Places count the bytes of all blocks.
    given: Cuts,
    /// Every place where it can be cut.
    places: Vec<usize>,
}

#[derive(Clone, Debug)]
enum Part {
    /// Data in one block, which starts at this place.
    Block(usize, Step),
    /// What can't be cut: the end of a direction, a reset.
    Whole(Step),
}

/// Places where a stream is cut, in order, in addition to the ends of its blocks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(transparent)]
pub struct Cuts(pub Vec<usize>);

/// What was tried of all that could be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Tried {
    /// Runs with one cut.
    pub single: usize,
    /// How many single cuts there are.
    pub of_single: usize,
    /// Runs with two cuts.
    pub pairs: usize,
    /// How many pairs of cuts there are.
    pub of_pairs: usize,
    /// Runs with random cuts.
    pub random: usize,
    /// Whether it was shown byte by byte.
    pub bytewise: bool,
}

impl Script {
    /// The stream that `steps` show.
    pub fn new(steps: &[Step]) -> Self {
        let mut parts: Vec<Part> = Vec::new();
        let mut given = Vec::new();
        let mut total = 0;
        for step in steps {
            let Kind::Data { bytes, push } = &step.kind else {
                parts.push(Part::Whole(step.clone()));
                continue;
            };
            match parts.last_mut() {
                Some(Part::Block(
                    _,
                    Step { direction, kind: Kind::Data { bytes: block, push: last }, .. },
                )) if *direction == step.direction && step.missed == 0 && step.after.is_zero() => {
                    given.push(total);
                    block.extend_from_slice(bytes);
                    *last = *push;
                }
                _ => parts.push(Part::Block(total, step.clone())),
            }
            total += bytes.len();
        }
        let mut places = Vec::new();
        for part in &parts {
            if let Part::Block(start, Step { kind: Kind::Data { bytes, .. }, .. }) = part {
                places.extend(start + 1..start + bytes.len());
            }
        }
        Self { parts, given: Cuts(given), places }
    }

    /// The cuts that it came with.
    pub fn given(&self) -> &Cuts {
        &self.given
    }

    /// Cut everywhere.
    pub fn bytewise(&self) -> Cuts {
        Cuts(self.places.clone())
    }

    /// Cut in a few places, chosen by `dice`.
    pub fn random(&self, dice: &mut Dice) -> Cuts {
        let places: BTreeSet<usize> = match self.places.len() {
            0 => BTreeSet::new(),
            count => (0..1 + dice.below(8)).map(|_| self.places[dice.below(count)]).collect(),
        };
        Cuts(places.into_iter().collect())
    }

    /// The stream, cut at `cuts`.
    pub fn steps(&self, cuts: &Cuts) -> Vec<Step> {
        let mut steps = Vec::with_capacity(self.parts.len() + cuts.0.len());
        let mut cuts = cuts.0.iter().copied().peekable();
        for part in &self.parts {
            let (start, step) = match part {
                Part::Block(start, step) => (*start, step),
                Part::Whole(step) => {
                    steps.push(step.clone());
                    continue;
                }
            };
            let Kind::Data { bytes, push } = &step.kind else { continue };
            // What precedes a block precedes its first piece.
            let (mut after, mut missed) = (step.after, step.missed);
            let mut from = 0;
            while from < bytes.len() {
                let next =
                    cuts.next_if(|cut| cut - start < bytes.len()).map_or(bytes.len(), |cut| cut - start);
                // Only the last piece of what was pushed is.
                let push = *push && next == bytes.len();
                let kind = Kind::Data { bytes: bytes[from..next].to_vec(), push };
                let (after, missed) = (std::mem::take(&mut after), std::mem::take(&mut missed));
                steps.push(Step { direction: step.direction, after, missed, kind });
                from = next;
            }
        }
        steps
    }

    /// Ways to cut it, the given one first: whole, byte by byte, with every single cut, with two and at random. About
    /// `runs` of them, half as many on top of the single cuts at least: every pair when there are few enough, otherwise a
    /// choice made by `seed`.
    pub fn ways(&self, runs: usize, seed: u64) -> (Vec<Cuts>, Tried) {
        let mut dice = Dice(seed);
        let count = self.places.len();
        let mut ways = vec![self.given.clone()];
        let mut tried =
            Tried { of_single: count, of_pairs: count * count.saturating_sub(1) / 2, ..Tried::default() };
        if count == 0 || runs <= 1 {
            return (ways, tried);
        }
        ways.push(Cuts::default());
        ways.push(Cuts(self.places.clone()));
        tried.bytewise = true;

        ways.extend(self.places.iter().map(|place| Cuts(vec![*place])));
        tried.single = count;
        let runs = runs.max(ways.len() + runs / 2);
        let left = runs.saturating_sub(ways.len());
        let room = if tried.of_pairs <= left { left } else { left / 2 };
        let pairs = self.choose(tried.of_pairs, room, &mut dice, |at| {
            let (low, high) = pair(at);
            vec![self.places[low], self.places[high]]
        });
        tried.pairs = pairs.len();
        ways.extend(pairs);
        // Three cuts and more, up to one in four places: few and many alike.
        if count > 2 {
            for _ in ways.len()..runs {
                let most = (3 << dice.below(8)).min(count / 4).max(3).min(count);
                let cuts: BTreeSet<usize> =
                    (0..3 + dice.below(most - 2)).map(|_| dice.below(count)).collect();
                ways.push(Cuts(cuts.into_iter().map(|at| self.places[at]).collect()));
                tried.random += 1;
            }
        }
        (ways, tried)
    }

    /// All of `count` ways when there is room, otherwise as many different ones as there is room for.
    fn choose(
        &self,
        count: usize,
        room: usize,
        dice: &mut Dice,
        way: impl Fn(usize) -> Vec<usize>,
    ) -> Vec<Cuts> {
        if count <= room {
            return (0..count).map(|at| Cuts(way(at))).collect();
        }
        let mut chosen = BTreeSet::new();
        while chosen.len() < room {
            chosen.insert(dice.below(count));
        }
        chosen.into_iter().map(|at| Cuts(way(at))).collect()
    }
}

impl Cuts {
    /// The fewest of these cuts that still `fails`: first one alone, then without one after the other.
    pub fn shrink(&self, mut fails: impl FnMut(&Self) -> bool) -> Self {
        let none = Self::default();
        if fails(&none) {
            return none;
        }
        // One cut is most often enough; of very many, only some can be tried alone.
        for cut in self.0.iter().take(MOST_ALONE) {
            let alone = Self(vec![*cut]);
            if fails(&alone) {
                return alone;
            }
        }
        let mut fewest = self.clone();
        let mut size = fewest.0.len() / 2;
        while size > 0 {
            let mut at = 0;
            while at < fewest.0.len() {
                let mut fewer = fewest.clone();
                fewer.0.drain(at..(at + size).min(fewest.0.len()));
                if fails(&fewer) {
                    fewest = fewer;
                } else {
                    at += size;
                }
            }
            size /= 2;
        }
        fewest
    }
}

/// Cuts that are tried alone when a failure is made smaller.
const MOST_ALONE: usize = 2000;

/// The pair of numbers `low < high` with the number `at`, counted by `high` first.
fn pair(at: usize) -> (usize, usize) {
    let mut high = (((8.0 * at as f64 + 1.0).sqrt() + 1.0) / 2.0) as usize;
    // The root of a large number is near, not exact.
    while high * (high - 1) / 2 > at {
        high -= 1;
    }
    while (high + 1) * high / 2 <= at {
        high += 1;
    }
    (at - high * (high - 1) / 2, high)
}

/// Choices that a seed decides (splitmix64).
pub struct Dice(pub u64);

impl Dice {
    /// The next choice, among all numbers.
    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ word >> 31
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.roll() % bound.max(1) as u64) as usize
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use std::time::Duration;

    use super::*;
    use crate::flows::Direction::{self, Inbound, Outbound};

    fn data(direction: Direction, bytes: &[u8]) -> Step {
        Step::new(direction, Kind::Data { bytes: bytes.into(), push: true })
    }

    fn pieces(steps: &[Step]) -> Vec<&[u8]> {
        let bytes = |step: &'_ Step| match &step.kind {
            Kind::Data { bytes, .. } => Some(bytes.len()),
            _ => None,
        };
        assert!(steps.iter().filter_map(bytes).all(|length| length > 0), "no piece is empty");
        steps
            .iter()
            .filter_map(
                |step| if let Kind::Data { bytes, .. } = &step.kind { Some(&bytes[..]) } else { None },
            )
            .collect()
    }

    #[test]
    fn what_comes_later_is_a_block_of_its_own_and_only_its_first_piece_is_waited_for() {
        let after = Duration::from_millis(5);
        let steps = [data(Outbound, b"ab"), Step { after, ..data(Outbound, b"cd") }];
        let script = Script::new(&steps);
        let cut = script.steps(&script.bytewise());
        assert_eq!(pieces(&cut), [&b"a"[..], b"b", b"c", b"d"]);
        let waits: Vec<_> = cut.iter().map(|step| step.after).collect();
        assert_eq!(waits, [Duration::ZERO, Duration::ZERO, after, Duration::ZERO]);
        assert_eq!(script.steps(&Cuts::default()), steps);
    }

    #[test]
    fn blocks_end_where_the_direction_turns_or_bytes_are_missed() {
        let fin = Step::new(Outbound, Kind::Fin);
        let steps = [
            data(Outbound, b"ab"),
            data(Outbound, b"cd"),
            data(Inbound, b"ef"),
            Step { missed: 9, ..data(Inbound, b"gh") },
            fin,
        ];
        let script = Script::new(&steps);
        assert_eq!(script.given(), &Cuts(vec![2]));
        assert_eq!(script.places, [1, 2, 3, 5, 7]);
        assert_eq!(pieces(&script.steps(&Cuts::default())), [&b"abcd"[..], b"ef", b"gh"]);
        let cut = script.steps(&Cuts(vec![3, 7]));
        assert_eq!(pieces(&cut), [&b"abc"[..], b"d", b"ef", b"g", b"h"]);
        assert_eq!(cut.iter().map(|step| step.missed).collect::<Vec<_>>(), [0, 0, 0, 9, 0, 0]);
        let given = script.steps(script.given());
        assert_eq!(pieces(&given), pieces(&steps));
    }

    #[test]
    fn few_enough_cuts_are_all_tried() {
        let (ways, tried) = Script::new(&[data(Outbound, b"abcdef")]).ways(100, 1);
        assert_eq!((tried.single, tried.of_single, tried.pairs, tried.of_pairs), (5, 5, 10, 10));
        assert_eq!(ways.len(), 100);
        let different: BTreeSet<&[usize]> =
            ways.iter().map(|cuts| &cuts.0[..]).filter(|cuts| cuts.len() == 2).collect();
        assert_eq!(different.len(), 10);
    }

    #[test]
    fn every_single_cut_is_tried_and_pairs_are_chosen_from() {
        let (ways, tried) = Script::new(&[data(Outbound, &[7; 5000])]).ways(1000, 1);
        assert_eq!((tried.single, tried.of_single, tried.of_pairs), (4999, 4999, 4999 * 4998 / 2));
        assert!(tried.pairs > 200 && tried.random > 200 && tried.bytewise, "{tried:?}");
        assert_eq!(ways.len(), 3 + 4999 + 500);
    }

    #[test]
    fn pairs_are_numbered_without_a_gap() {
        let all: Vec<_> = (1..40).flat_map(|high| (0..high).map(move |low| (low, high))).collect();
        assert_eq!((0..all.len()).map(pair).collect::<Vec<_>>(), all);
    }

    #[test]
    fn a_failure_shrinks_to_the_cuts_that_cause_it() {
        let many = Cuts((1..100).collect());
        assert_eq!(many.shrink(|cuts| cuts.0.contains(&42)), Cuts(vec![42]));
        assert_eq!(many.shrink(|cuts| cuts.0.contains(&42) && cuts.0.contains(&77)), Cuts(vec![42, 77]));
        assert_eq!(many.shrink(|_| true), Cuts::default());
    }

    proptest! {
        #[test]
        fn cutting_changes_no_byte(
            blocks in prop::collection::vec((any::<bool>(), prop::collection::vec(any::<u8>(), 1..40)), 1..5),
            seed in any::<u64>(),
        ) {
            let steps: Vec<_> =
                blocks.iter().map(|(out, bytes)| data(if *out { Outbound } else { Inbound }, bytes)).collect();
            let script = Script::new(&steps);
            let whole = pieces(&steps).concat();
            for cuts in script.ways(60, seed).0 {
                let cut = script.steps(&cuts);
                prop_assert_eq!(pieces(&cut).concat(), whole.clone());
                let one_way = |steps: &[Step]| {
                    let one: Vec<_> = steps.iter().filter(|step| step.direction == Outbound).cloned().collect();
                    pieces(&one).concat()
                };
                prop_assert_eq!(one_way(&cut), one_way(&steps));
            }
        }
    }
}

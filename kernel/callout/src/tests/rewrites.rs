//! Random programs of edits on random connections, held against what they do to a string.

use std::collections::BTreeSet;
use std::vec::Vec;

use fwps_sim::{Call, Config, Direction, FlowId, FlowState, Simulator, When};
use fwps_sys::NTSTATUS;
use tidegate_abi::Hook;
use tidegate_abi::control::OnError;

use super::asm::{How, Rewrite};
use super::{Bench, STREAMS, asm, packets};
use crate::memory::failing;

/// SplitMix64: a case is its seed.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }
}

/// The alphabet of each pattern: two patterns never overlap.
const ALPHABETS: [&[u8]; 3] = [b"ab", b"cd", b"ef"];
/// What streams are made of.
const LETTERS: &[u8] = b"abcdefxyz";

/// One to three rewrites.
pub(crate) fn rewrites(dice: &mut Dice) -> Vec<Rewrite> {
    let count = 1 + dice.below(3);
    let one = |alphabet: &&[u8]| {
        let pattern = (0..1 + dice.below(4)).map(|_| alphabet[dice.below(2)]).collect();
        let how = match dice.below(5) {
            0 => How::Replace,
            1 => How::Remove,
            2 => How::InsertBefore,
            3 => How::InsertBehind,
            _ => How::Clone,
        };
        let new = (0..1 + dice.below(12)).map(|_| LETTERS[dice.below(LETTERS.len())]).collect();
        Rewrite { pattern, how, new }
    };
    ALPHABETS[..count].iter().map(one).collect()
}

/// Bytes of one direction.
pub(crate) fn bytes(dice: &mut Dice, most: usize) -> Vec<u8> {
    (0..dice.below(most)).map(|_| LETTERS[dice.below(LETTERS.len())]).collect()
}

/// The rewrite that applies at the start of `rest`.
fn at_start<'r>(rewrites: &'r [Rewrite], rest: &[u8]) -> Option<&'r Rewrite> {
    rewrites.iter().find(|rewrite| rest.starts_with(&rewrite.pattern))
}

/// What the rewrites make of a string.
pub(crate) fn on_a_string(rewrites: &[Rewrite], bytes: &[u8]) -> Vec<u8> {
    let (mut out, mut at) = (Vec::new(), 0);
    while let Some(byte) = bytes.get(at) {
        match at_start(rewrites, &bytes[at..]) {
            Some(rewrite) => {
                out.extend(rewrite.result());
                at += rewrite.pattern.len();
            }
            None => {
                out.push(*byte);
                at += 1;
            }
        }
    }
    out
}

/// Whether `out` begins what the rewrites make of a string when any of the places may stay as they are; `whole` when it has
/// to be all of it.
pub(crate) fn in_places(rewrites: &[Rewrite], bytes: &[u8], out: &[u8], whole: bool) -> bool {
    // Pairs of places, in the string and in what came out, that fit so far.
    let mut open = BTreeSet::from([(0, 0)]);
    while let Some((at, done)) = open.pop_first() {
        if done == out.len() && (!whole || at == bytes.len()) {
            return true;
        }
        if bytes.get(at).is_some() && bytes.get(at) == out.get(done) {
            open.insert((at + 1, done + 1));
        }
        for rewrite in rewrites.iter().filter(|rewrite| bytes[at..].starts_with(&rewrite.pattern)) {
            let (result, rest) = (rewrite.result(), &out[done..]);
            // What came out may end inside of it.
            let fits =
                if whole { rest.starts_with(&result) } else { result.iter().zip(rest).all(|(a, b)| a == b) };
            if fits {
                open.insert((at + rewrite.pattern.len(), (done + result.len()).min(out.len())));
            }
        }
    }
    false
}

/// Shows both directions of a flow in random cuts, and their ends.
pub(crate) fn play(dice: &mut Dice, sim: &Simulator, flow: FlowId, data: [&[u8]; 2]) {
    let mut rest = data;
    while rest.iter().any(|rest| !rest.is_empty()) {
        let side = dice.below(2);
        let cut = if dice.below(4) == 0 { rest[side].len() } else { dice.below(rest[side].len().min(9) + 1) };
        let (now, later) = rest[side].split_at(cut);
        sim.indicate(flow, Direction::BOTH[side], now);
        rest[side] = later;
        if dice.below(16) == 0 {
            sim.settle();
        }
    }
    let first = dice.below(2);
    for side in [first, 1 - first] {
        sim.fin(flow, Direction::BOTH[side]);
    }
    sim.settle();
}

/// What goes wrong in a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    None,
    /// Calls of the system fail, so many in a thousand.
    Calls(u32),
    /// One allocation of our own fails.
    Memory(usize),
    /// Injections are taken and fail later.
    Completions(u32),
}

impl Trouble {
    pub(crate) fn random(dice: &mut Dice) -> Self {
        match dice.below(8) {
            0 | 1 => Self::Calls(1 << dice.below(9)),
            2 => Self::Memory(dice.below(12)),
            3 => Self::Completions(1 << dice.below(9)),
            _ => Self::None,
        }
    }

    pub(crate) fn begin(self, bench: &Bench) {
        const STATUS: NTSTATUS = NTSTATUS::INSUFFICIENT_RESOURCES;
        match self {
            Self::None => {}
            Self::Calls(rate) => bench.sim.fail(Call::Any, When::PerMille(rate), STATUS),
            Self::Memory(left) => failing::after(left),
            Self::Completions(rate) => bench.sim.fail_completions(When::PerMille(rate), STATUS),
        }
    }

    /// Nothing fails any more. True when memory did.
    pub(crate) fn end(self, bench: &Bench) -> bool {
        bench.sim.heal();
        failing::stop() != matches!(self, Self::Memory(_))
    }
}

/// Connections that share a machine and a program.
const CONNECTIONS: u64 = 8;

/// Runs `CONNECTIONS` connections past one random program on one random machine.
///
/// # Panics
/// When anything comes out that should not, or anything is left behind.
fn machine(seed: u64) {
    let mut dice = Dice::new(seed);
    let bench = Bench::new(Config { trace_length: 64, ..Config::random(dice.next()) });
    let hook = STREAMS[dice.below(2)];
    let on_error = if dice.below(2) == 0 { OnError::Block } else { OnError::Permit };
    let rewrites = rewrites(&mut dice);
    bench.link(hook, &asm::rewrite(&rewrites, 1 + dice.below(3) as i32), on_error);
    for _ in 0..CONNECTIONS {
        connection(&mut dice, &bench, hook, on_error, &rewrites);
    }
    bench.finish();
}

fn connection(dice: &mut Dice, bench: &Bench, hook: Hook, on_error: OnError, rewrites: &[Rewrite]) {
    let data = [bytes(dice, 60), bytes(dice, 60)];
    let trouble = Trouble::random(dice);
    let flow = bench.flow(hook);
    let failed = bench.sim.failures();
    trouble.begin(bench);
    play(dice, &bench.sim, flow, [&data[0], &data[1]]);
    let hurt = trouble.end(bench) || bench.sim.failures() > failed;
    let state = bench.sim.flow_state(flow);
    for (side, data) in Direction::BOTH.into_iter().zip(&data) {
        let out = bench.sim.delivered(flow, side);
        let expected = on_a_string(rewrites, data);
        let says = || {
            let text = |bytes: &[u8]| std::string::String::from_utf8_lossy(bytes).into_owned();
            let (data, out, expected) = (text(data), text(&out.bytes), text(&expected));
            std::format!(
                "{trouble:?}, {on_error:?}, {state:?}: {data} came out as {out}, not {expected}: {rewrites:#?}"
            )
        };
        if !hurt {
            assert!(out.bytes == expected && out.fin && state == FlowState::Closed, "{}", says());
        } else if state == FlowState::Closed {
            // Open policies let places pass as they were; nothing else changes.
            let right = match on_error {
                OnError::Block => out.bytes == expected,
                OnError::Permit => in_places(rewrites, data, &out.bytes, true),
            };
            assert!(right && out.fin, "{}", says());
        } else {
            assert_eq!(state, FlowState::Dropped, "{}", says());
            let right = match on_error {
                OnError::Block => expected.starts_with(&out.bytes),
                OnError::Permit => in_places(rewrites, data, &out.bytes, false),
            };
            assert!(right, "{}", says());
        }
    }
    bench.sim.close_flow(flow);
    bench.sim.forget_flow(flow);
}

/// Runs machines from `seed` on until there were so many cases. A failure names its seed.
pub(crate) fn machines(machine: fn(u64), seed: u64, cases: u64) {
    for seed in seed..seed + cases.div_ceil(CONNECTIONS) {
        if let Err(why) = std::panic::catch_unwind(|| machine(seed)) {
            std::eprintln!("the machine of seed {seed}");
            std::panic::resume_unwind(why);
        }
    }
}

#[test]
fn rewritten_streams_come_out_as_on_a_string() {
    machines(machine, 0, 2000);
}

/// `cargo xtask property`: as many connections and lists of packets as are asked for, half of each, on all processors.
#[test]
#[ignore = "runs for minutes: cargo xtask property"]
fn streams_and_packets_come_out_as_on_a_string_for_long() {
    const _: () = assert!(packets::LISTS == CONNECTIONS);
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let (cases, seed) =
        (number("TIDEGATE_CASES").unwrap_or(100_000), number("TIDEGATE_SEED").unwrap_or(1 << 32));
    let threads = std::thread::available_parallelism().map_or(1, |count| count.get() as u64);
    let either = |seed: u64| if seed.is_multiple_of(2) { machine(seed) } else { packets::machine(seed) };
    std::thread::scope(|scope| {
        for thread in 0..threads {
            scope.spawn(move || machines(either, seed + thread * cases, cases.div_ceil(threads)));
        }
    });
}

#[test]
fn the_model_knows_what_a_string_becomes() {
    let rewrite = |pattern: &[u8], how, new: &[u8]| Rewrite { pattern: pattern.into(), how, new: new.into() };
    let rewrites = [rewrite(b"ab", How::Replace, b"X"), rewrite(b"c", How::InsertBehind, b"!")];
    assert_eq!(on_a_string(&rewrites, b"aabcab"), b"aXc!X");
    assert!(
        in_places(&rewrites, b"aabcab", b"aXcab", true) && in_places(&rewrites, b"aabcab", b"aabc!", false)
    );
    assert!(
        !in_places(&rewrites, b"aabcab", b"aabcb", true) && !in_places(&rewrites, b"aabcab", b"aXcaX", true)
    );
}

//! What the verifier accepts, run on the checked engine with any input: no access is ever refused, no run takes more than
//! was proven, every helper gets what its row demands, and what is returned is a verdict.

#[path = "../../../verifier/tests/common/mod.rs"]
mod assembler;
#[path = "soundness/stories.rs"]
mod stories;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt::Write;

use assembler::{MAPS, assemble};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use stories::program_of_stories;
use tidegate_abi::helper::{self, Arg, Resource, Ret};
use tidegate_abi::insn::{class, mode, size};
use tidegate_abi::{Insn, ProgramType, SendContext, StreamContext, Verdict};
use tidegate_verifier::structure::ends_flow;
use tidegate_verifier::{Options, Program, Proven, Verified, verify};
use tidegate_vm::{
    Cause, Context, Executable, Fault, Host, MapBinding, MapMemory, Memory, Shared, Stack, nothing,
};

const CASES: u32 = 25_000;
/// Programs of loops.
const LOOPS: u32 = 4_000;
/// Programs of stories.
const STORIES: u32 = 10_000;
/// Inputs that each accepted program is run with.
const RUNS: u64 = 12;
/// Bytes of a map's memory: its one value, or the largest record that is reserved.
const BYTES: [usize; 4] = [16, 64, 64, 32];
const HANDLE: u64 = 0x7001_0000;

/// Numbers by chance, mostly near the places where widths and signs change.
struct Chance(u64);

impl Chance {
    fn any(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        (self.0 ^ self.0 >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9) ^ self.0 >> 32
    }

    fn below(&mut self, count: u64) -> u64 {
        self.any() % count
    }

    fn number(&mut self) -> u64 {
        let near = self.below(9).wrapping_sub(4);
        match self.below(8) {
            0 | 1 => self.below(80),
            2 => near,
            3 => (1_u64 << self.below(64)).wrapping_add(near),
            4 => i64::from(self.any() as i32) as u64,
            5 => self.any() & 0xffff_ffff,
            6 => u64::MAX << self.below(64),
            _ => self.any(),
        }
    }
}

/// One statement of a program: what it is, and what it is about.
type Statement = (u8, [u8; 6]);

/// Registers that hold numbers between statements; r6 to r8 hold the context and the packet's ends.
const NUMBERS: [u8; 5] = [0, 3, 4, 5, 9];
const OPERATIONS: [&str; 15] =
    ["+=", "-=", "*=", "/=", "s/=", "%=", "s%=", "|=", "&=", "^=", "<<=", ">>=", "s>>=", "=", "&="];
const COMPARISONS: [&str; 11] = ["==", "!=", ">", ">=", "<", "<=", "s>", "s>=", "s<", "s<=", "&"];
const IMMEDIATES: [i32; 20] =
    [0, 1, 2, 3, 5, 7, 8, 15, 31, 32, 33, 48, 56, 63, 64, -1, -8, i32::MIN, i32::MAX, 0xffff];
const SIZES: [(&str, i32); 4] = [("u8", 1), ("u16", 2), ("u32", 4), ("u64", 8)];
/// Loads of numbers that nobody knows, to make the registers readable again after a call.
const RELOAD: &str = "r3 = *(u64 *)(r6 + 24)\n r4 = *(u32 *)(r6 + 40)\n r5 = *(u64 *)(r6 + 16)\n";

fn pick<T: Copy>(from: &[T], by: u8) -> T {
    from[usize::from(by) % from.len()]
}

/// The text of statement number `at`.
fn write_statement(text: &mut String, at: usize, (kind, about): &Statement) {
    let [a, b, c, d, e, f] = *about;
    let (x, y) = (pick(&NUMBERS, a), pick(&NUMBERS, b));
    let wide = pick(&["r", "r", "w"], c);
    let number = pick(&IMMEDIATES, d);
    let (size, bytes) = pick(&SIZES, e);
    let slot = -8 * (1 + i32::from(d % 6)) + if f & 31 == 31 { 4 } else { 0 };
    let target = format!("s{}", at + 2 + usize::from(f % 4));
    let out = if f & 16 == 0 { "out" } else { &target };
    let bound = |text: &mut String| match a % 6 {
        0 | 1 => writeln!(text, "r{y} &= {}", pick(&[7, 8, 15, 31, 56, 63], d)).unwrap(),
        2 => writeln!(text, "if r{y} > {number} goto {out}").unwrap(),
        3 => writeln!(text, "if w{y} >= {number} goto {out}").unwrap(),
        4 => writeln!(text, "if r{y} s> {number} goto {out}\n if r{y} s< 0 goto {out}").unwrap(),
        _ => {}
    };
    writeln!(text, "s{at}:").unwrap();
    match kind {
        0..=2 => writeln!(text, "{wide}{x} {} {number}", pick(&OPERATIONS, b)).unwrap(),
        3 | 4 => writeln!(text, "{wide}{x} {} {wide}{y}", pick(&OPERATIONS, d)).unwrap(),
        5 | 6 => writeln!(text, "if {wide}{x} {} {number} goto {target}", pick(&COMPARISONS, b)).unwrap(),
        7 => writeln!(text, "if {wide}{x} {} {wide}{y} goto {target}", pick(&COMPARISONS, d)).unwrap(),
        8 => match b % 4 {
            0 => writeln!(text, "{wide}{x} = (s{}){wide}{y}", pick(&[8, 16], d)).unwrap(),
            1 => writeln!(text, "r{x} = (s32)r{y}").unwrap(),
            2 => writeln!(text, "r{x} = {}{} r{x}", pick(&["be", "le", "bswap"], c), pick(&[16, 32, 64], d))
                .unwrap(),
            _ => writeln!(text, "{wide}{x} = -{wide}{x}").unwrap(),
        },
        // The packet behind a comparison with its end, at a fixed or a computed place.
        9..=11 => {
            writeln!(text, "r1 = r7").unwrap();
            if b & 8 != 0 {
                bound(text);
                writeln!(text, "r1 += r{y}").unwrap();
            }
            let shown = 1 + i32::from(d % 24);
            writeln!(text, "r2 = r1\n r2 += {shown}").unwrap();
            let compare = pick(
                &[
                    "if r2 > r8",
                    "if r8 < r2",
                    "if r2 > r8",
                    "if r2 >= r8",
                    "if r8 <= r2",
                    "if r2 != r8",
                    "if r1 > r8",
                    "if r2 < r8",
                ],
                c,
            );
            let within = if f & 64 == 0 { shown - bytes } else { i32::from(e) % shown };
            writeln!(text, "{compare} goto {out}\n r{x} = *({size} *)(r1 + {})", within.max(0)).unwrap();
        }
        // What is shown, as a length.
        12 => {
            writeln!(
                text,
                "r1 = r8\n r1 -= r7\n if {wide}1 {} {number} goto {out}",
                pick(&["<", "<=", "!="], b)
            )
            .unwrap();
            writeln!(text, "r{x} = *({size} *)(r7 + {})", number.saturating_sub(bytes).clamp(0, 63)).unwrap();
        }
        // The stack, at a fixed or a computed place, and pointers on it.
        13 => writeln!(text, "*({size} *)(r10 + {slot}) = r{x}").unwrap(),
        14 => writeln!(text, "r{x} = *({size} *)(r10 + {slot})").unwrap(),
        15 => {
            bound(text);
            writeln!(text, "r1 = r10\n r1 += -64\n r1 += r{y}").unwrap();
            match c % 2 {
                0 => writeln!(text, "*({size} *)(r1 + 0) = r{x}").unwrap(),
                _ => writeln!(text, "r{x} = *({size} *)(r1 + 0)").unwrap(),
            }
        }
        16 => writeln!(text, "*(u64 *)(r10 - {}) = r{}", 72 + d % 2 * 8, pick(&[7, 8], b)).unwrap(),
        17 => writeln!(
            text,
            "*(u64 *)(r10 - 88) = r7\n if {wide}{x} > {number} goto {target}\n r1 = *(u64 *)(r10 - 88)
             r2 = r1\n r2 += {bytes}\n if r2 > r8 goto {out}\n r{x} = *({size} *)(r1 + 0)"
        )
        .unwrap(),
        // A map's value: looked up or by its address, at a fixed or a computed place.
        18..=20 => {
            let map = c % 2;
            if b & 1 == 0 {
                writeln!(text, "*(u64 *)(r10 - 96) = 1\n r2 = r10\n r2 += -96\n r1 = map {map}").unwrap();
                writeln!(text, "call bpf_map_lookup_elem").unwrap();
                if f & 32 == 0 || f & 3 != 0 {
                    writeln!(text, "if r0 == 0 goto out").unwrap();
                }
                writeln!(text, "r1 = r0\n r0 = 3\n {RELOAD}").unwrap();
            } else {
                writeln!(text, "r1 = value {} + 0", 1 + c % 2).unwrap();
            }
            if d & 1 == 0 {
                writeln!(text, "r{y} = *({size} *)(r1 + 8)").unwrap();
            }
            bound(text);
            writeln!(text, "r1 += r{y}").unwrap();
            match e & 12 {
                0 => writeln!(text, "*({size} *)(r1 + 0) = r{x}").unwrap(),
                4 => writeln!(
                    text,
                    "lock {}*(u64 *)(r1 + 0) {} r{x}",
                    pick(&["", "fetch "], c),
                    pick(&["+=", "^="], d)
                )
                .unwrap(),
                _ => writeln!(text, "r{x} = *({size} *)(r1 + 0)").unwrap(),
            }
        }
        21 => writeln!(
            text,
            "lock {}*({} *)(r10 + {slot}) {} r{x}",
            pick(&["", "fetch "], c),
            pick(&["u64", "u32"], e),
            pick(&["+=", "|=", "&=", "^="], b)
        )
        .unwrap(),
        22 => writeln!(
            text,
            "lock *({} *)(r10 + {slot}) {} r{x}",
            pick(&["u64", "u32"], e),
            pick(&["xchg", "cmpxchg"], b)
        )
        .unwrap(),
        // Helpers that take memory and a size.
        23 => {
            bound(text);
            let to = pick(&["r3 = r10\n r3 += -64", "r3 = value 1 + 0", "r3 = r10\n r3 += -16"], c);
            writeln!(text, "r2 = r{x}\n r1 = r6\n r4 = r{y}\n {to}\n call tidegate_load_bytes\n {RELOAD}")
                .unwrap();
        }
        24 => {
            writeln!(text, "r1 = r{y}\n r1 &= 15\n r1 += 1\n r2 = r7\n r2 += r1\n if r2 > r8 goto {out}")
                .unwrap();
            writeln!(text, "r4 = r1\n r1 = r6\n r2 = 0\n r3 = r7\n call tidegate_find\n {RELOAD}").unwrap();
        }
        // A record, filled at a computed place.
        25 => {
            writeln!(
                text,
                "r1 = map 3\n r2 = {}\n r3 = 0\n call bpf_ringbuf_reserve\n r1 = r0",
                8 + d % 4 * 8
            )
            .unwrap();
            writeln!(text, "r0 = 1\n {RELOAD} if r1 == 0 goto {target}\n r{y} &= {}", pick(&[7, 8, 16], c))
                .unwrap();
            writeln!(text, "r2 = r1\n r2 += r{y}\n *({size} *)(r2 + 0) = r{x}\n r2 = 0").unwrap();
            writeln!(
                text,
                "call {}\n r0 = 1\n {RELOAD}",
                pick(&["bpf_ringbuf_submit", "bpf_ringbuf_discard"], b)
            )
            .unwrap();
        }
        // A loop: by a count, or by a number that is walked to its bound.
        26 | 27 => {
            let turns = 1 + i32::from(d % 40);
            writeln!(text, "r2 = {}\n top{at}:", pick(&[0, 0, 1, 5], c)).unwrap();
            match b % 4 {
                0 => writeln!(text, "r{x} += {number}").unwrap(),
                1 => writeln!(text, "r1 = r7\n r1 += r2\n if r1 >= r8 goto {out}\n r{x} = *(u8 *)(r1 + 0)")
                    .unwrap(),
                2 => writeln!(text, "r1 = value 1 + 0\n r1 += r2\n r{x} = *(u8 *)(r1 + 0)").unwrap(),
                _ => writeln!(text, "if r{x} > {number} goto {target}\n r{x} += 1").unwrap(),
            }
            let step = 1 + i32::from(e % 3);
            writeln!(
                text,
                "{wide}2 += {step}\n if {wide}2 {} {turns} goto top{at}",
                pick(&["<", "<=", "s<", "!="], f)
            )
            .unwrap();
        }
        // Functions: one that reads through its argument, one that stores, one that gives a number back.
        28 => writeln!(text, "r1 = r10\n r1 += -64\n r2 = r{y}\n call read\n {RELOAD}").unwrap(),
        29 => writeln!(text, "r1 = r10\n r1 += {slot}\n r2 = r{x}\n call store\n {RELOAD}").unwrap(),
        30 => writeln!(text, "r1 = r{x}\n r2 = code clamp\n callx r2\n r9 = r0\n {RELOAD}").unwrap(),
        _ => writeln!(text, "r{x} = r{y}").unwrap(),
    }
}

/// Writes loops in loops, or stories, from bytes that decide.
struct Loops<'b> {
    bytes: std::slice::Iter<'b, u8>,
    text: String,
    labels: usize,
}

impl Loops<'_> {
    fn byte(&mut self) -> Option<u8> {
        self.bytes.next().copied()
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        let by = self.byte().unwrap_or(0);
        pick(from, by)
    }

    fn label(&mut self) -> String {
        self.labels += 1;
        format!("l{}", self.labels)
    }

    fn line(&mut self, line: String) {
        self.text += &line;
        self.text += "\n";
    }

    /// Statements until the bytes or the turns are at their end; `out` leaves the loop around them.
    fn body(&mut self, turns: u32, depth: u32, out: &str) {
        const STEPS: [i32; 10] = [1, 1, 1, 2, 3, 4, 8, -1, -1, -2];
        for _ in 0..turns {
            let Some(kind) = self.byte() else { return };
            let x = self.pick(&NUMBERS);
            let y = self.pick(&NUMBERS);
            let wide = self.pick(&["r", "r", "w"]);
            let slot = -8 * (1 + i32::from(self.byte().unwrap_or(0) % 6));
            match kind % 16 {
                0..=2 => {
                    let step = self.pick(&STEPS);
                    self.line(format!("{wide}{x} += {step}"));
                }
                3 => {
                    let step = self.pick(&STEPS);
                    self.line(format!("r2 += {step}"));
                }
                4 => self.line(format!("{wide}{x} += {wide}{y}")),
                5 => self.line(format!("{wide}{x} = {wide}{y}")),
                6 => self.line(format!("*(u64 *)(r10 + {slot}) = r{x}")),
                7 => self.line(format!("r{x} = *(u64 *)(r10 + {slot})")),
                // Something that only some rounds do.
                8 | 9 => {
                    let (op, number, label) =
                        (self.pick(&COMPARISONS), self.pick(&[0, 1, 2, 5, 7, 30]), self.label());
                    self.line(format!("if {wide}{x} {op} {number} goto {label}"));
                    self.body(1 + u32::from(kind >> 7), depth, out);
                    self.line(format!("{label}:"));
                }
                10 => {
                    let (op, number) = (self.pick(&COMPARISONS), self.pick(&[0, 1, 7, 8, 20, 31, 40]));
                    self.line(format!("if {wide}{x} {op} {number} goto {out}"));
                }
                // A byte where a number or the pointer that is carried from round to round leads.
                11 => {
                    let base = self.pick(&["r10", "r9"]);
                    let start = if base == "r10" { "r1 = r10\n r1 += -64" } else { "r1 = value 1 + 0" };
                    self.line(format!("{start}\n r1 += r{x}\n r{y} = *(u8 *)(r1 + 0)"));
                }
                12 => self.line(format!("*(u8 *)(r2 + 0) = r{x}")),
                13 => {
                    self.line(format!("r1 = r7\n r1 += r{x}\n r2 = r1\n r2 += 1\n if r2 > r8 goto {out}"));
                    self.line(format!("r{y} = *(u8 *)(r1 + 0)\n r2 = r10\n r2 += -64"));
                }
                _ if depth > 0 => self.a_loop(depth - 1),
                _ => self.line(format!("r{x} &= 31")),
            }
        }
    }

    fn a_loop(&mut self, depth: u32) {
        let (top, out, test) = (self.label(), self.label(), self.byte().unwrap_or(0));
        let counter = self.pick(&NUMBERS);
        let bound = self.pick(&[1, 2, 7, 8, 16, 31, 40, 63]);
        let from = self.pick(&[0, 0, 0, 1, 5, 40]);
        let step = self.pick(&[1, 1, 1, 2, 3, -1]);
        if test & 1 == 0 {
            self.line(format!("r{counter} = {from}"));
        }
        if test & 6 == 0 {
            let start = self.pick(&["r2 = r10\n r2 += -64", "r2 = value 1 + 0", "r2 = r10\n r2 += -1"]);
            self.line(start.into());
        }
        self.line(format!("{top}:"));
        if test & 8 == 0 {
            let op = self.pick(&[">=", ">", "==", "s>", "s>="]);
            self.line(format!("if r{counter} {op} {bound} goto {out}"));
        }
        let turns = 1 + u32::from(self.byte().unwrap_or(0) % 5);
        self.body(turns, depth, &out);
        let wide = self.pick(&["r", "r", "w"]);
        if test & 48 != 0 {
            self.line(format!("{wide}{counter} += {step}"));
        }
        if test & 8 == 0 {
            self.line(format!("goto {top}"));
        } else {
            let op = self.pick(&["<", "<=", "!=", "s<", ">", "s>"]);
            let bound = if step < 0 { 0 } else { bound };
            self.line(format!("if {wide}{counter} {op} {bound} goto {top}"));
        }
        self.line(format!("{out}:"));
    }
}

/// A program of loops that keep numbers and a pointer from round to round.
fn program_of_loops(bytes: &[u8]) -> String {
    let start = format!(
        "r6 = r1\n r7 = *(u64 *)(r6 + 0)\n r8 = *(u64 *)(r6 + 8)\n r9 = *(u64 *)(r6 + 16)\n r0 = *(u32 *)(r6 + 52)\n
         {RELOAD} r9 &= 7\n r2 = r10\n r2 += -64\n"
    );
    let mut loops = Loops { bytes: bytes.iter(), text: start, labels: 0 };
    loops.body(3, 0, "out");
    loops.a_loop(2);
    loops.body(3, 1, "out");
    loops.text + "out:\n r0 = 0\n exit"
}

fn program(statements: &[Statement], last: u8) -> String {
    let mut text = format!(
        "r6 = r1\n r7 = *(u64 *)(r6 + 0)\n r8 = *(u64 *)(r6 + 8)\n r9 = *(u64 *)(r6 + 16)\n r0 = *(u32 *)(r6 + 52)\n {RELOAD}"
    );
    for (at, statement) in statements.iter().enumerate() {
        write_statement(&mut text, at, statement);
    }
    for at in statements.len()..statements.len() + 6 {
        writeln!(text, "s{at}:").unwrap();
    }
    match last % 4 {
        0 => writeln!(text, "r0 = r{}", pick(&NUMBERS, last >> 2)).unwrap(),
        1 => writeln!(text, "r0 &= 1").unwrap(),
        _ => {}
    }
    if !last.is_multiple_of(4) {
        writeln!(text, "if r0 > 2 goto out").unwrap();
    }
    write!(
        text,
        "exit\n out:\n r0 = 0\n exit
         read:\n r0 = 0\n if r2 > 56 goto done\n r1 += r2\n r0 = *(u64 *)(r1 + 0)\n done:\n exit
         store:\n *(u64 *)(r1 + 0) = r2\n *(u32 *)(r10 - 4) = 1\n r0 = *(u64 *)(r10 - 8)\n exit
         clamp:\n r0 = r1\n if r0 s< 64 goto low\n r0 = 63\n low:\n if r0 s> 0 goto high\n r0 = 0\n high:\n exit"
    )
    .unwrap();
    text
}

/// Holds every call against its row, and answers anything that the row allows.
struct Strict<'a> {
    memory: &'a [Shared<MapMemory>],
    chance: Chance,
    held: BTreeMap<u64, Resource>,
}

impl Host for Strict<'_> {
    fn call(&mut self, number: u32, args: [u64; 5], memory: &mut Memory<'_>) -> Result<u64, Fault> {
        let row = helper::by_number(number).ok_or(Cause::UnknownHelper { number })?;
        let (mut map, mut constant) = (0, 0);
        for (at, param) in row.params.iter().enumerate() {
            let (arg, next) = (args[at], args.get(at + 1).copied().unwrap_or(0));
            match param.arg {
                Arg::Context => drop(memory.read(arg, 96)?),
                Arg::Scalar => {}
                Arg::Flags(bits) => assert_eq!(arg & !bits, 0, "{}", row.name),
                Arg::Map(kinds) => {
                    map = (arg - HANDLE) as usize;
                    assert!(kinds.contains(MAPS[map].kind), "{}", row.name);
                }
                Arg::MapKey => drop(memory.read(arg, MAPS[map].key_size as usize)?),
                Arg::MapValue => drop(memory.read(arg, MAPS[map].value_size as usize)?),
                Arg::Readable => drop(memory.read(arg, next as usize)?),
                Arg::Writable => {
                    let byte = self.chance.any() as u8;
                    memory.write(arg, next as usize)?.fill(byte);
                }
                Arg::Size { min, max } => {
                    assert!((u64::from(min)..=max.into()).contains(&arg), "{}", row.name);
                }
                Arg::ConstSize => constant = arg as usize,
                Arg::Borrow(resource) => assert_eq!(self.held.get(&arg), Some(&resource)),
                Arg::Consume(resource) => assert_eq!(self.held.remove(&arg), Some(resource)),
            }
        }
        let none = self.chance.below(4) == 0;
        Ok(match row.ret {
            Ret::Void => 0xdead_beef,
            Ret::Scalar => self.chance.number(),
            Ret::Range { min, max } => (self.chance.number() as i64).clamp(min, max) as u64,
            Ret::MapValueOrNull if none => 0,
            Ret::MapValueOrNull => self.memory[map].address(),
            // Records lie at the end of the memory, so that a step behind one is a step out of it.
            Ret::RecordOrNull if none || !self.held.is_empty() || constant > BYTES[3] => 0,
            Ret::RecordOrNull => {
                let record = self.memory[map].address() + (BYTES[3] - constant) as u64;
                self.held.insert(record, Resource::Record);
                record
            }
            Ret::CloneOrNull => 0,
        })
    }
}

/// The result of a run, and the instructions of its budget that it left.
fn run_once<C: Context>(
    executable: &Executable,
    context: &mut C,
    host: &mut Strict<'_>,
    window: &[u8],
    budget: u32,
) -> Result<(u64, i64), Fault> {
    let window = if window.is_empty() { nothing() } else { window };
    let mut stack = Stack::new();
    let r0 = executable.run(host, &mut stack, context, window, budget)?;
    Ok((r0, stack.left()))
}

/// The code, with a load of nobody's memory in place of everything that no path reaches: a run that comes there faults.
fn with_traps(verified: &Verified) -> Vec<u8> {
    let load = class::LDX | mode::MEM | size::DW;
    let mut slots = verified.insns().to_vec();
    for (at, slot) in slots.iter_mut().enumerate() {
        let whole =
            !verified.structure().is_second_half(at) && slot.opcode != class::LD | mode::IMM | size::DW;
        // What ends a function must stay, so that none falls into the next.
        if whole && !ends_flow(*slot) && !verified.proven(at).contains(Proven::REACHED) {
            *slot = Insn::new(load, 0, 10, i16::MAX - 7, 0);
        }
    }
    slots.iter().flat_map(|slot| slot.to_bytes()).collect()
}

/// Verifies the program and runs it when it is accepted, which is what is returned.
fn check(program_type: ProgramType, text: &str, steps: u32, seed: u64) -> Result<bool, TestCaseError> {
    let code = assemble(text);
    let options = Options { steps, ..Options::default() };
    let verify = |code: &[u8]| verify(&Program { program_type, code, maps: &MAPS }, &options);
    let Ok(verified) = verify(&code) else { return Ok(false) };
    // Where what is never read was not forgotten any more, a trap may be reached after all.
    let verified = verify(&with_traps(&verified)).unwrap_or(verified);
    let budget = u32::try_from(verified.max_cost()).expect("few steps prove a small cost");
    let mut chance = Chance(seed);
    for _ in 0..RUNS {
        let memory = BYTES.map(|bytes| MapMemory::new(bytes / 8).expect("memory for one value"));
        for word in memory.iter().flat_map(|memory| memory.words()) {
            word.store(chance.number(), std::sync::atomic::Ordering::Relaxed);
        }
        let bindings: Vec<_> = memory
            .iter()
            .zip(0..)
            .map(|(memory, map)| MapBinding {
                handle: HANDLE + map,
                memory: Some(memory.clone()),
                writable: map != 2,
            })
            .collect();
        let executable = Executable::new(&verified, &bindings).expect("a verified program compiles");
        let size = chance.below(40) as usize;
        let window: Vec<u8> = (0..size).map(|_| chance.number() as u8).collect();
        let (flow_id, process_id) = (chance.number(), chance.number());
        let (one, two) = (chance.number() as u32, chance.number() as u32);
        let mut host = Strict { memory: &memory, chance: Chance(chance.any()), held: BTreeMap::new() };
        let result = match program_type {
            ProgramType::Stream => {
                let mut context = StreamContext {
                    flow_id,
                    process_id,
                    flags: one,
                    family: two,
                    ..StreamContext::default()
                };
                run_once(&executable, &mut context, &mut host, &window, budget)
            }
            ProgramType::Send => {
                let mut context = SendContext {
                    flow_id,
                    process_id,
                    family: one,
                    interface_index: two,
                    ..SendContext::default()
                };
                run_once(&executable, &mut context, &mut host, &window, budget)
            }
        };
        match result {
            Ok((r0, left)) => {
                // An engine does not ask on the last stretch.
                prop_assert!(left >= 0, "{} instructions more than the proven {}\n{}", -left, budget, text);
                prop_assert!(Verdict::from_r0(program_type, r0).is_some(), "returned {:#x}\n{}", r0, text);
            }
            Err(fault) => {
                prop_assert!(false, "{} with {} bytes shown; proven {}\n{}", fault, size, budget, text);
            }
        }
        prop_assert!(host.held.is_empty(), "a resource was kept\n{}", text);
    }
    Ok(true)
}

#[test]
fn accepted_programs_do_what_was_proven() {
    let statement = (0..32u8, any::<[u8; 6]>());
    let statements = prop::collection::vec(statement, 1..12);
    let (tried, accepted) = (Cell::new(0), Cell::new(0));
    let config =
        Config { cases: CASES, max_shrink_iters: 4_000, failure_persistence: None, ..Config::default() };
    let result = TestRunner::new(config).run(
        &(statements, any::<(u8, bool, u64)>()),
        |(statements, (last, stream, seed))| {
            let program_type = if stream { ProgramType::Stream } else { ProgramType::Send };
            tried.set(tried.get() + 1);
            let taken = check(program_type, &program(&statements, last), 20_000, seed)?;
            accepted.set(accepted.get() + u32::from(taken));
            Ok(())
        },
    );
    println!("{} of {} programs accepted, each run {RUNS} times", accepted.get(), tried.get());
    if let Err(error) = result {
        panic!("{error}");
    }
    // Programs that are all refused would show nothing.
    assert!(accepted.get() > CASES / 8, "{} of {CASES}", accepted.get());
}

/// Without traps the stories' questions would be asked in vain.
#[test]
fn a_trap_lies_where_no_path_leads() {
    let code = assemble("r0 = 1\n if r0 == 1 goto out\n r0 = 2\n out:\n exit");
    let program = Program { program_type: ProgramType::Stream, code: &code, maps: &MAPS };
    let verified = verify(&program, &Options::default()).expect("it is safe");
    let slots: Vec<_> = Insn::slots(&with_traps(&verified)).into_iter().flatten().collect();
    let changed = slots.iter().zip(verified.insns()).map(|(now, was)| now != was);
    assert_eq!(changed.collect::<Vec<_>>(), [false, false, true, false]);
}

#[test]
fn stories_do_what_was_proven() {
    let (tried, accepted) = (Cell::new(0), Cell::new(0));
    let config =
        Config { cases: STORIES, max_shrink_iters: 4_000, failure_persistence: None, ..Config::default() };
    let bytes = prop::collection::vec(any::<u8>(), 10..120);
    let result = TestRunner::new(config).run(&(bytes, any::<u64>()), |(bytes, seed)| {
        tried.set(tried.get() + 1);
        let taken = check(ProgramType::Stream, &program_of_stories(&bytes), 6_000, seed)?;
        accepted.set(accepted.get() + u32::from(taken));
        Ok(())
    });
    println!("{} of {} programs of stories accepted, each run {RUNS} times", accepted.get(), tried.get());
    if let Err(error) = result {
        panic!("{error}");
    }
    assert!(accepted.get() > STORIES / 8, "{} of {STORIES}", accepted.get());
}

#[test]
fn loops_do_what_was_proven_in_every_round() {
    let (tried, accepted) = (Cell::new(0), Cell::new(0));
    let config =
        Config { cases: LOOPS, max_shrink_iters: 4_000, failure_persistence: None, ..Config::default() };
    let bytes = prop::collection::vec(any::<u8>(), 10..120);
    let result = TestRunner::new(config).run(&(bytes, any::<u64>()), |(bytes, seed)| {
        tried.set(tried.get() + 1);
        let taken = check(ProgramType::Stream, &program_of_loops(&bytes), 6_000, seed)?;
        accepted.set(accepted.get() + u32::from(taken));
        Ok(())
    });
    println!("{} of {} programs of loops accepted, each run {RUNS} times", accepted.get(), tried.get());
    if let Err(error) = result {
        panic!("{error}");
    }
    assert!(accepted.get() > LOOPS / 8, "{} of {LOOPS}", accepted.get());
}

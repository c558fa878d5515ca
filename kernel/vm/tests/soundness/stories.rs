//! Stories: a few instructions that a verifier of this kind may be wrong about, and questions about what it believes then.
//!
//! A question is a comparison with a place of its own for either answer: where the verifier is sure of the answer, the other
//! place is none that a path reaches, and so holds a trap when the program is run.

use crate::{COMPARISONS, Loops, NUMBERS, RELOAD, SIZES};

/// Instructions that change nothing that is read: where many lie between two places, states are kept at both.
const LONG_WAY: &str = concat!(
    "*(u8 *)(r10 - 200) = 1\n *(u8 *)(r10 - 200) = 2\n *(u8 *)(r10 - 200) = 3\n *(u8 *)(r10 - 200) = 4\n",
    "*(u8 *)(r10 - 200) = 5\n *(u8 *)(r10 - 200) = 6\n *(u8 *)(r10 - 200) = 7\n *(u8 *)(r10 - 200) = 8\n",
    "*(u8 *)(r10 - 200) = 9\n *(u8 *)(r10 - 200) = 10\n *(u8 *)(r10 - 200) = 11"
);

impl Loops<'_> {
    fn any(&mut self) -> u8 {
        self.byte().unwrap_or(0)
    }

    fn number(&mut self) -> i32 {
        let near = i32::from(self.any() % 3) - 1;
        self.pick(&[0, 0, 1, 5, 7, 8, 15, 16, 31, 63, 64, 255, 256, 0xffff, i32::MAX - 1, i32::MIN + 1])
            + near
    }

    fn register(&mut self) -> u8 {
        self.pick(&NUMBERS)
    }

    fn slot(&mut self) -> i32 {
        -8 * (1 + i32::from(self.any() % 3))
    }

    fn wide(&mut self) -> &'static str {
        self.pick(&["r", "r", "w"])
    }

    fn ask(&mut self, x: u8) {
        let number = self.number();
        self.ask_about(x, number);
    }

    fn ask_about(&mut self, x: u8, number: i32) {
        let (wide, op) = (self.wide(), self.pick(&COMPARISONS));
        let (yes, after) = (self.label(), self.label());
        self.line(format!("if {wide}{x} {op} {number} goto {yes}\n r2 = 1\n goto {after}"));
        self.line(format!("{yes}:\n r2 = 2\n {after}:"));
        // What decides no more than a way may be forgotten; an address needs its number.
        if self.any() & 1 == 0 {
            let small = self.label();
            self.line(format!("if r{x} > 56 goto {small}\n r1 = value 1 + 0\n r1 += r{x}"));
            self.line(format!("r2 = *(u8 *)(r1 + 0)\n {small}:"));
        }
    }

    fn ask_all(&mut self) {
        for _ in 0..1 + self.any() % 3 {
            let x = self.register();
            self.ask(x);
        }
    }

    /// A number that nobody knows, or one that is.
    fn fresh(&mut self, x: u8) {
        let number = self.number();
        match self.any() % 8 {
            0 => self.line(format!("r{x} = {number}")),
            1..=3 => {
                let field = self.pick(&[40, 52]);
                self.line(format!("r{x} = *(u32 *)(r6 + {field})"));
            }
            // More than 32 bits, and few enough to have a name.
            4 | 5 => self.line(format!("r{x} = *(u64 *)(r6 + 16)\n r{x} >>= 25")),
            6 => self.line(format!("r{x} = *(u64 *)(r6 + 24)")),
            _ => self.line(format!("r{x} = *(u64 *)(r6 + 16)")),
        }
    }

    /// Makes a number smaller, or changes it.
    fn bound(&mut self, x: u8) {
        let (wide, number) = (self.wide(), self.number());
        match self.any() % 8 {
            0 | 1 => {
                let mask = self.pick(&[1, 3, 7, 8, 15, 31, 63, 0xff, 0xffff]);
                self.line(format!("{wide}{x} &= {mask}"));
            }
            2 => self.line(format!("{wide}{x} = {number}")),
            3 => self.line(format!("w{x} = w{x}")),
            4 => {
                let op = self.pick(&[">>=", "s>>=", "%=", "/=", "|=", "+=", "-=", "*="]);
                let by = self.pick(&[1, 2, 8, 31]);
                self.line(format!("{wide}{x} {op} {by}"));
            }
            _ => {
                let op = self.pick(&COMPARISONS);
                self.line(format!("if {wide}{x} {op} {number} goto out"));
            }
        }
    }

    /// What `write` writes, to be put elsewhere.
    fn aside(&mut self, write: impl FnOnce(&mut Self)) -> String {
        let start = self.text.len();
        write(self);
        self.text.split_off(start)
    }

    /// Two ways that meet: one past a few instructions, or one of two that are long enough for states to be kept on both.
    fn ways(&mut self, condition: &str, first: &str, second: &str) {
        let (other, met) = (self.label(), self.label());
        let kind = self.any() % 4;
        self.line(match kind {
            0 | 1 => format!("if {condition} goto {met}\n {first}\n {met}:"),
            2 => format!("if {condition} goto {met}\n {first}\n {LONG_WAY}\n {met}:"),
            _ => format!(
                "if {condition} goto {other}\n {first}\n {LONG_WAY}\n goto {met}\n {other}:\n {second}\n {LONG_WAY}\n {met}:"
            ),
        });
    }

    /// Something that may happen to a number on each of two ways.
    fn two_ways(&mut self, x: u8) -> [String; 2] {
        [(); 2].map(|()| {
            let bounds = self.any() & 1 == 0;
            self.aside(|this| if bounds { this.bound(x) } else { this.fresh(x) })
        })
    }

    fn story(&mut self) {
        let (x, y) = (self.register(), self.register());
        let (wide, number, slot) = (self.wide(), self.number(), self.slot());
        let label = self.label();
        match self.any() % 26 {
            // Two ways that meet, on one of which something is learned or changed.
            0..=2 => {
                let op = self.pick(&COMPARISONS);
                self.fresh(x);
                if self.any() & 1 == 0 {
                    self.line(format!("*(u64 *)(r10 + {slot}) = r{x}"));
                }
                let [first, second] = [(); 2].map(|()| {
                    let which = self.any() % 6;
                    self.aside(|this| match which {
                        0 => this.line(format!("*(u64 *)(r10 + {slot}) = r{y}")),
                        1 => this.line(format!("*(u64 *)(r10 + {slot}) = {number}")),
                        2 => this.line(format!("r{y} = r{x}")),
                        3 => this.fresh(y),
                        _ => this.bound(y),
                    })
                });
                self.ways(&format!("{wide}{x} {op} {number}"), &first, &second);
                match self.any() % 3 {
                    0 => {
                        self.line(format!("r{y} = *(u64 *)(r10 + {slot})"));
                        self.ask(y);
                    }
                    1 => {
                        self.bound(x);
                        self.ask(y);
                    }
                    _ => self.ask(y),
                }
            }
            // A function: what the caller's register holds is as it was.
            3 | 4 => {
                let function = self.pick(&["count", "count", "count", "clamp", "store", "spin"]);
                // What is known of it is not the same on every way to the function.
                let (op, [first, second]) = (self.pick(&COMPARISONS), self.two_ways(9));
                self.ways(&format!("{wide}{x} {op} {number}"), &first, &second);
                self.line(format!("r1 = r10\n r1 += {slot}"));
                if function == "clamp" || function == "count" || function == "spin" {
                    self.line(format!("r1 = r{x}"));
                }
                self.line(format!("r2 = r{y}\n call {function}\n {RELOAD}"));
                self.ask(9);
            }
            // A number on the stack, overwritten in part, at any place, or by others.
            5..=7 => {
                if self.any() & 1 == 0 {
                    self.bound(x);
                }
                let whole = self.pick(&["u64", "u64", "u32"]);
                self.line(format!("*({whole} *)(r10 + {slot}) = r{x}"));
                let (size, bytes) = self.pick(&SIZES);
                let at = slot + i32::from(self.any() % 8) / bytes * bytes;
                match self.any() % 8 {
                    0 | 1 => self.line(format!("*({size} *)(r10 + {at}) = r{y}")),
                    2 => self.line(format!("*({size} *)(r10 + {at}) = {number}")),
                    3 => self.line(format!("r{y} &= 7\n r1 = r10\n r1 += {slot}\n r1 += r{y}\n *(u8 *)(r1 - 1) = r{y}")),
                    4 => {
                        let (op, fetch) = (self.pick(&["+=", "|=", "&=", "^="]), self.pick(&["", "fetch "]));
                        self.line(format!("lock {fetch}*(u64 *)(r10 + {slot}) {op} r{y}"));
                    }
                    5 => {
                        let op = self.pick(&["xchg", "cmpxchg"]);
                        self.line(format!("lock *({whole} *)(r10 + {slot}) {op} r{y}"));
                    }
                    6 => self.line(format!(
                        "r1 = r6\n r2 = 0\n r3 = r10\n r3 += {at}\n r4 = {bytes}\n call tidegate_load_bytes\n {RELOAD}"
                    )),
                    _ => {}
                }
                let (size, bytes) = self.pick(&[
                    ("u64", 8),
                    ("u64", 8),
                    ("u32", 4),
                    ("s32", 4),
                    ("u8", 1),
                    ("s8", 1),
                    ("s16", 2),
                ]);
                let at = slot + i32::from(self.any() % 8) / bytes * bytes;
                let (z, again) = (self.register(), self.pick(&[size, whole]));
                let at = if again == whole { slot } else { at };
                self.line(format!("r{z} = *({again} *)(r10 + {at})"));
                if self.any() & 1 == 0 {
                    // What is learned of one is learned of the other, when they are one.
                    self.bound(z);
                    self.ask(x);
                } else {
                    self.ask(z);
                }
            }
            // An atomic that gives back what was there.
            8 => {
                let op = self.pick(&[
                    "fetch *(u64 *)(r1 + 0) +=",
                    "*(u64 *)(r1 + 0) xchg",
                    "*(u32 *)(r1 + 0) cmpxchg",
                    "fetch *(u32 *)(r1 + 0) ^=",
                ]);
                self.bound(x);
                self.line(format!("r1 = value 1 + 0\n lock {op} r{x}"));
            }
            // Two numbers that are one, or in a known order, or with a known sum.
            9..=11 | 22..=25 => {
                let condition = format!("{wide}{x} {} {wide}{y}", self.pick(&COMPARISONS));
                self.fresh(x);
                match self.any() % 8 {
                    7 => {
                        // A lower half that is known, on one of two ways, and what that says of the whole.
                        let (z, op) = (self.register(), self.pick(&COMPARISONS));
                        let half = format!("w{y} = w{x}\n if w{y} != {number} goto out");
                        self.ways(&format!("r{z} {op} {number}"), &half, &format!("r{y} = {number}"));
                        self.ask(x);
                        self.ask(y);
                    }
                    0 => {
                        let (z, op) = (self.register(), self.pick(&COMPARISONS));
                        let other = self.aside(|this| this.fresh(y));
                        self.ways(&format!("r{z} {op} {number}"), &format!("{wide}{y} = {wide}{x}"), &other);
                        self.bound(x);
                        self.ask(y);
                    }
                    1 => self.line(format!("r{y} = r{x}\n {wide}{y} += {number}")),
                    way => {
                        if !self.any().is_multiple_of(4) {
                            self.fresh(y);
                        }
                        match way {
                            2 => self.line(format!("if {condition} goto out")),
                            _ => self.ways(&condition, "r2 = 1", "r2 = 2"),
                        }
                    }
                }
                if self.any().is_multiple_of(4) {
                    let which = self.pick(&[x, y]);
                    self.bound(which);
                }
                match self.any() % 4 {
                    0 => {
                        let which = self.pick(&[x, y]);
                        self.ask(which);
                    }
                    by => {
                        let (first, second) = if by & 1 == 0 { (x, y) } else { (y, x) };
                        let (wide, op) = (self.wide(), self.pick(&["-=", "-=", "-=", "+="]));
                        self.line(format!("r1 = r{first}\n {wide}1 {op} {wide}{second}\n r{first} = r1"));
                        let sign = self.pick(&[0, 0, 1, -1]);
                        self.ask_about(first, sign);
                    }
                }
            }
            // A place in the packet, counted from two numbers, and shown by a comparison; perhaps only on one way.
            12 | 13 => {
                let mask = self.pick(&[7, 15, 31]);
                self.line(format!("r{x} &= {mask}\n r{y} &= 7\n r1 = r7\n r1 += r{x}"));
                if self.any() & 1 == 0 {
                    self.line(format!("r1 += r{y}"));
                }
                let (shown, less) = (1 + i32::from(self.any() % 8), i32::from(self.any() % 3));
                if self.any() & 1 == 0 {
                    let op = self.pick(&[">", "<="]);
                    self.line(format!("r3 = *(u32 *)(r6 + 40)\n if r3 {op} {number} goto {label}"));
                }
                self.line(format!("r2 = r1\n r2 += {shown}\n if r2 > r8 goto out"));
                if self.any() & 1 == 0 {
                    self.line(LONG_WAY.into());
                }
                let other = self.label();
                if self.any() & 1 == 0 {
                    self.line(format!(
                        "goto {other}\n {label}:\n r2 = r1\n r2 += {}\n if r2 > r8 goto out\n {other}:",
                        shown - less
                    ));
                } else {
                    self.line(format!("{label}:"));
                }
                self.line(format!("r{x} = *(u8 *)(r1 + {})", (shown - 1 - less).max(0)));
            }
            // How much is shown, learned on one of two ways.
            14 => {
                let (shown, op) = (1 + i32::from(self.any() % 24), self.pick(&[">", ">=", "<", "<="]));
                self.line(format!("r1 = r7\n r1 += {shown}"));
                self.ways(&format!("r1 {op} r8"), "r2 = 1", "r2 = 2");
                self.line(format!("r{x} = r8\n r{x} -= r7"));
                self.ask(x);
            }
            // Two lookups, one of them checked.
            15 => {
                let (first, second) = (self.pick(&[0, 1]), self.pick(&[0, 1]));
                self.line("*(u64 *)(r10 - 96) = 1".into());
                for (map, at) in [(first, -104), (second, -112)] {
                    self.line(format!("r2 = r10\n r2 += -96\n r1 = map {map}\n call bpf_map_lookup_elem\n *(u64 *)(r10 + {at}) = r0"));
                }
                let (checked, used) = (self.pick(&[-104, -112]), self.pick(&[-104, -112]));
                self.line(format!(
                    "{RELOAD} r1 = *(u64 *)(r10 + {checked})\n r0 = 1\n if r1 == 0 goto out\n r1 = *(u64 *)(r10 + {used})\n r{x} = *(u8 *)(r1 + 3)"
                ));
            }
            // A record, and a copy of its address.
            16 => {
                let end = self.pick(&["bpf_ringbuf_submit", "bpf_ringbuf_discard"]);
                self.line("r1 = map 3\n r2 = 8\n r3 = 0\n call bpf_ringbuf_reserve\n *(u64 *)(r10 - 104) = r0\n r1 = r0".to_string());
                self.line(format!(
                    "r0 = 1\n {RELOAD} if r1 == 0 goto {label}\n r2 = 0\n call {end}\n r0 = 1\n {RELOAD}"
                ));
                if self.any().is_multiple_of(4) {
                    self.line(format!("r1 = *(u64 *)(r10 - 104)\n r2 = 0\n call {end}\n r0 = 1\n {RELOAD}"));
                }
                self.line(format!("{label}:"));
            }
            // A function that leaves something in its frame, and another one that looks there.
            17 => self.line(format!("r1 = r{x}\n call leave\n call look\n r9 = r0\n {RELOAD}")),
            // A loop that changes something beside its counter.
            _ => {
                let turns = self.pick(&[1, 2, 3, 8, 20]);
                let top = self.label();
                let start = self.pick(&["0", "0", "r3", "*(u64 *)(r6 + 16)"]);
                self.line(format!("r2 = {start}\n {top}:"));
                match self.any() % 7 {
                    0 => self.line(format!("r{x} += 1")),
                    5 => {
                        let (op, again) = (self.pick(&COMPARISONS), self.pick(&COMPARISONS));
                        let out = self.label();
                        self.line(format!("if {wide}{x} {op} {number} goto {out}\n r{x} += 1"));
                        self.bound(y);
                        self.line(format!("r{y} = r{x}\n if r{x} {again} r2 goto {out}\n r2 += 1\n if r2 < {turns} goto {top}\n {out}:"));
                        self.ask(x);
                        self.ask(y);
                        return;
                    }
                    6 => {
                        // The counter goes further on one of two ways.
                        let (op, z) = (self.pick(&COMPARISONS), self.register());
                        self.ways(&format!("{wide}{z} {op} {number}"), "r2 += 1", "");
                    }
                    1 => self.line(format!("r{x} = r{y}")),
                    2 => self.line(format!("*(u64 *)(r10 + {slot}) = r{x}\n r{x} &= {number}")),
                    3 => {
                        let op = self.pick(&COMPARISONS);
                        self.line(format!("if {wide}{x} {op} {number} goto {label}\n r{y} = {number}"));
                    }
                    _ => self.line(format!(
                        "r{x} = *(u64 *)(r10 + {slot})\n r{x} += 3\n *(u64 *)(r10 + {slot}) = r{x}"
                    )),
                }
                self.line(format!("{label}:\n r2 += 1\n if r2 < {turns} goto {top}"));
                self.ask(x);
            }
        }
    }
}

/// A program of stories.
pub(crate) fn program_of_stories(bytes: &[u8]) -> String {
    let start = format!(
        "r6 = r1\n r7 = *(u64 *)(r6 + 0)\n r8 = *(u64 *)(r6 + 8)\n r9 = *(u64 *)(r6 + 16)\n r0 = *(u32 *)(r6 + 52)\n {RELOAD}"
    );
    let mut stories = Loops { bytes: bytes.iter(), text: start, labels: 0 };
    for _ in 0..1 + stories.any() % 6 {
        stories.story();
        if stories.any() & 1 == 0 {
            stories.ask_all();
        }
    }
    stories.ask_all();
    stories.text
        + "out:\n r0 = 0\n exit
         store:\n *(u64 *)(r1 + 0) = r2\n *(u32 *)(r10 - 4) = 1\n r0 = *(u64 *)(r10 - 8)\n exit
         clamp:\n r0 = r1\n if r0 s< 64 goto low\n r0 = 63\n low:\n if r0 s> 0 goto high\n r0 = 0\n high:\n exit
         count:\n r0 = 0\n r6 = r1\n more:\n r6 >>= 1\n r0 += 1\n if r0 < 5 goto more\n if r6 > 9 goto few\n r0 = 7\n few:\n exit
         spin:\n r0 = 0\n if r1 > 7 goto on\n r0 = 1\n on:\n if r2 > 7 goto off\n r0 += 1\n off:\n exit
         leave:\n *(u64 *)(r10 - 8) = 5\n r0 = 0\n exit
         look:\n r0 = *(u64 *)(r10 - 8)\n if r0 == 5 goto five\n r0 = 1\n five:\n exit"
}

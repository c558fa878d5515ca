//! One classify of the callouts beside a callout written by hand that does the same, and the stack that it takes.
//!
//! `bench-classify` prints a table, `bench-classify --json` one JSON document, `bench-classify stack` the deepest stack. The
//! filter engine is one that costs next to nothing. Times drift; counts of host instructions don't, so ratios are of those.

#[allow(dead_code, reason = "the tests of the callouts use all of it")]
#[path = "../../src/tests/asm.rs"]
mod asm;
mod count;
mod hand;
mod machine;
mod null;
#[allow(unreachable_pub, reason = "the tests of the callouts have it as a module of theirs")]
#[path = "../../src/os.rs"]
mod os;
mod stack;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::hint::black_box;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use fwps_sys::FWP_ACTION;
use serde_json::json;

use crate::machine::{Case, Machine};

/// The system's allocator, with the bytes counted that this thread asks for.
struct Counting;

thread_local! {
    static ALLOCATED: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: every call goes on to the system's allocator as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATED.set(ALLOCATED.get() + layout.size());
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Links at a hook.
const LINKS: [usize; 3] = [1, 8, 64];
/// Flows that take turns.
const FLOWS: [u64; 3] = [1, 10_000, 1_000_000];

/// Who classifies.
#[derive(Clone, Copy, PartialEq, Eq)]
enum By {
    /// A callout that does nothing: what calling one costs.
    Nobody,
    Hand,
    Tidegate,
    /// The runs of the programs alone.
    Runs,
}

impl By {
    const ALL: [Self; 4] = [Self::Nobody, Self::Hand, Self::Tidegate, Self::Runs];

    fn name(self) -> &'static str {
        match self {
            Self::Nobody => "nobody",
            Self::Hand => "by hand",
            Self::Tidegate => "tidegate",
            Self::Runs => "runs alone",
        }
    }
}

/// One thing that is measured.
struct Subject {
    case: Case,
    by: By,
    links: usize,
    flows: u64,
}

/// Everything that is measured, in the order of the table.
fn subjects() -> Vec<Subject> {
    let mut all = Vec::new();
    for case in Case::ALL {
        for links in LINKS {
            for flows in FLOWS {
                for by in By::ALL {
                    // Runs see no flows, and helpers that edit are the callouts'.
                    let runs = flows == 1 && matches!(case, Case::Permit | Case::Block);
                    let measured = match by {
                        By::Nobody => links == 1 && flows == 1,
                        By::Hand | By::Tidegate => true,
                        By::Runs => runs,
                    };
                    if measured {
                        all.push(Subject { case, by, links, flows });
                    }
                }
            }
        }
    }
    all
}

impl Subject {
    fn prepare(&self) -> Result<Box<dyn FnMut() -> FWP_ACTION>> {
        let (case, links, flows) = (self.case, self.links, self.flows);
        Ok(match self.by {
            By::Nobody => {
                let mut machine = Machine::nothing(case);
                Box::new(move || machine.classify())
            }
            By::Hand => {
                let mut machine = Machine::hand(case, links, flows);
                Box::new(move || machine.classify())
            }
            By::Tidegate => {
                let mut machine = Machine::tidegate(case, links, flows)?;
                Box::new(move || machine.classify())
            }
            By::Runs => machine::runs(case, links)?,
        })
    }
}

/// One line of the table.
struct Row {
    subject: Subject,
    ns: f64,
    host_insns: f64,
    ratio: f64,
    copied: usize,
    allocated: usize,
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        [] => print_table(&bench()?),
        ["--json"] => println!("{:#}", document(&bench()?)),
        ["--counted"] => counted()?,
        ["stack"] => stack::check()?,
        _ => bail!("usage: bench-classify [--json | stack]"),
    }
    Ok(())
}

/// What runs under callgrind: nothing at all, then everything.
fn counted() -> Result<()> {
    count::measured(&mut || FWP_ACTION::NONE);
    for subject in subjects() {
        count::measured(&mut *subject.prepare()?);
    }
    Ok(())
}

fn bench() -> Result<Vec<Row>> {
    let mut counts = count::count()?.into_iter();
    let nothing = counts.next().unwrap_or_default();
    let mut calling = 0.0;
    let mut rows: Vec<Row> = Vec::new();
    for subject in subjects() {
        let mut run = subject.prepare()?;
        let action = run();
        let _ = null::copied();
        let before = ALLOCATED.get();
        run();
        let (copied, allocated) = (null::copied(), ALLOCATED.get() - before);
        let ns = time(&mut *run);
        let host_insns = counts.next().unwrap_or(f64::NAN) - nothing;
        let host_insns = match subject.by {
            By::Nobody => {
                calling = host_insns;
                host_insns
            }
            // The filter engine's part is not the callout's.
            By::Hand | By::Tidegate => host_insns - calling,
            By::Runs => host_insns,
        };
        let hand = rows.iter().rev().find(|row| row.subject.by == By::Hand);
        let ratio = hand
            .filter(|_| !matches!(subject.by, By::Nobody | By::Hand))
            .map_or(1.0, |hand| host_insns / hand.host_insns);
        let expected = if subject.case == Case::Permit || subject.case == Case::Inspect {
            FWP_ACTION::PERMIT
        } else {
            FWP_ACTION::BLOCK
        };
        ensure!(
            matches!(subject.by, By::Nobody | By::Runs) || action == expected,
            "{} {}: the answer is {action:?}",
            subject.case.name(),
            subject.by.name()
        );
        rows.push(Row { subject, ns, host_insns, ratio, copied, allocated });
    }
    Ok(rows)
}

/// Nanoseconds of one call: the median of five rounds.
fn time(run: &mut dyn FnMut() -> FWP_ACTION) -> f64 {
    const ROUND: Duration = Duration::from_millis(10);
    let mut runs = 1_u32;
    let mut rounds = Vec::new();
    while rounds.len() < 5 {
        let start = Instant::now();
        for _ in 0..runs {
            black_box(run());
        }
        let took = start.elapsed();
        if took < ROUND {
            runs = runs.saturating_mul(2);
        } else {
            rounds.push(took.as_secs_f64() * 1e9 / f64::from(runs));
        }
    }
    rounds.sort_by(f64::total_cmp);
    rounds[2]
}

fn print_table(rows: &[Row]) {
    println!(
        "{:<30} {:>5} {:>9} {:<10} {:>9} {:>11} {:>9} {:>8} {:>10}",
        "case", "links", "flows", "by", "ns", "host insns", "to hand", "copied", "allocated"
    );
    for Row { subject, ns, host_insns, ratio, copied, allocated } in rows {
        println!(
            "{:<30} {:>5} {:>9} {:<10} {ns:>9.1} {host_insns:>11.1} {ratio:>8.2}x {copied:>8} {allocated:>10}",
            subject.case.name(),
            subject.links,
            subject.flows,
            subject.by.name(),
        );
    }
}

fn document(rows: &[Row]) -> serde_json::Value {
    let rows: Vec<_> = rows
        .iter()
        .map(|row| {
            json!({
                "case": row.subject.case.name(),
                "by": row.subject.by.name(),
                "links": row.subject.links,
                "flows": row.subject.flows,
                "ns": row.ns,
                "host_insns": row.host_insns,
                "ratio_to_handwritten": row.ratio,
                "bytes_copied": row.copied,
                "bytes_allocated": row.allocated,
            })
        })
        .collect();
    json!({ "schema": 1, "rows": rows })
}

//! The engines beside rbpf's interpreter and JIT and native code, on the eight programs of `programs.c`.
//!
//! `bench-vm` prints a table, `bench-vm --json` one JSON document. Times drift from machine to machine and run to run;
//! counts of host instructions don't, so those are what to compare.

mod count;
mod engines;
mod programs;

use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use serde_json::json;

use crate::engines::Run;
use crate::programs::Program;

/// One program on one machine.
struct Row {
    letter: &'static str,
    program: &'static str,
    engine: &'static str,
    ns_per_run: f64,
    host_insns_per_run: f64,
    bpf_insns: u64,
    ratio_to_native: f64,
}

impl Row {
    fn per_insn(&self) -> f64 {
        self.host_insns_per_run / self.bpf_insns as f64
    }
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        [] => print_table(&bench()?),
        ["--json"] => println!("{:#}", document(&bench()?)),
        ["--counted"] => counted()?,
        _ => bail!("usage: bench-vm [--json]"),
    }
    Ok(())
}

/// A folder of this run's own; removed at its end.
struct Work(PathBuf);

impl Work {
    fn new() -> Result<Self> {
        let path = std::env::temp_dir().join(format!("bench-vm-{}", std::process::id()));
        std::fs::create_dir_all(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        // What can't be removed is left to the system's own cleaning of temporary files.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The machines that can run `program`, in the order of the table, over `window`.
fn ready<'a>(program: &'a Program, window: &'a [u8]) -> Vec<(&'static str, Result<Run<'a>>)> {
    engines::NAMES.into_iter().map(|engine| (engine, engines::prepare(engine, program, window))).collect()
}

fn bench() -> Result<Vec<Row>> {
    let work = Work::new()?;
    let (programs, window) = (programs::compile(&work.0)?, programs::window()?);
    let mut counts = count(&work.0)?.into_iter();
    let nothing = counts.next().unwrap_or_default();
    let mut rows = Vec::new();
    for program in &programs {
        let first = rows.len();
        let bpf_insns = engines::instructions(program, window)?;
        let mut results = Vec::new();
        for (engine, run) in ready(program, window) {
            let mut run = match run {
                Ok(run) => run,
                Err(why) => {
                    eprintln!("bench-vm: {} can't run ({}) {}: {why}", engine, program.letter, program.name);
                    continue;
                }
            };
            results.push((engine, run()));
            rows.push(Row {
                letter: program.letter,
                program: program.name,
                engine,
                ns_per_run: time(&mut run),
                host_insns_per_run: counts.next().unwrap_or(f64::NAN) - nothing,
                bpf_insns,
                ratio_to_native: f64::NAN,
            });
        }
        ensure!(
            results.iter().all(|(_, result)| *result == results[0].1),
            "the machines don't agree on ({}) {}: {results:?}",
            program.letter,
            program.name
        );
        let native = rows.last().map_or(f64::NAN, |row| row.ns_per_run);
        for row in &mut rows[first..] {
            row.ratio_to_native = row.ns_per_run / native;
        }
    }
    Ok(rows)
}

fn count(work: &Path) -> Result<Vec<f64>> {
    count::count(work)
}

/// What runs under callgrind: nothing at all, then every program on every machine.
fn counted() -> Result<()> {
    let work = Work::new()?;
    let (programs, window) = (programs::compile(&work.0)?, programs::window()?);
    let mut nothing: Run<'_> = Box::new(|| 0);
    count::measured(&mut nothing);
    for program in &programs {
        for (_, run) in ready(program, window) {
            if let Ok(mut run) = run {
                count::measured(&mut run);
            }
        }
    }
    Ok(())
}

/// Nanoseconds of one run: the median of five rounds.
fn time(run: &mut Run<'_>) -> f64 {
    const ROUND: Duration = Duration::from_millis(20);
    let mut runs = 1u32;
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
        "{:<14}{:<18}{:>10}{:>14}{:>12}{:>14}{:>12}",
        "program", "engine", "ns", "host insns", "bpf insns", "host per bpf", "to native"
    );
    for row in rows {
        println!(
            "{:<14}{:<18}{:>10.1}{:>14.1}{:>12}{:>14.2}{:>11.1}x",
            format!("({}) {}", row.letter, row.program),
            row.engine,
            row.ns_per_run,
            row.host_insns_per_run,
            row.bpf_insns,
            row.per_insn(),
            row.ratio_to_native
        );
    }
}

fn document(rows: &[Row]) -> serde_json::Value {
    let rows: Vec<_> = rows
        .iter()
        .map(|row| {
            json!({
                "program": row.program,
                "engine": row.engine,
                "ns_per_run": row.ns_per_run,
                "host_insns_per_bpf_insn": row.per_insn(),
                "ratio_to_native": row.ratio_to_native,
            })
        })
        .collect();
    json!({ "schema": 1, "rows": rows })
}

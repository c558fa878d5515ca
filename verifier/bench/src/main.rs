//! What verifications take in the driver's configuration: time, memory and steps of the project's policies, of what the fuzzers
//! make, of generated programs of every size, and of programs built to hurt.
//!
//! `bench-verify` prints tables and a plot, `--json` one JSON document, `--write FILE` the page in docs/.

mod code;
mod generated;
mod hurt;
mod page;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result};
use clap::Parser;
use peak_alloc::PeakAlloc;
use serde_json::json;
use tidegate::Object;
use tidegate_abi::{MapDef, ProgramType};
use tidegate_fuzz::generate::{self, Bytes, MAPS};
use tidegate_verifier::{Options, Program, Refusal, Verified};

use crate::generated::Shape;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// Sizes of generated programs.
const SIZES: [usize; 9] = [10, 30, 100, 300, 1_000, 3_000, 10_000, 30_000, 65_536];
/// Programs that the fuzzer's generator makes of bytes by chance, besides its corpus.
const GENERATED: u64 = 2_000;

/// What verifications take in the driver's configuration.
#[derive(Parser)]
struct Cli {
    /// Print one JSON document instead of tables.
    #[arg(long)]
    json: bool,
    /// Write the page of figures there.
    #[arg(long, value_name = "FILE")]
    write: Option<PathBuf>,
    /// Only programs whose object has this in its name, verified once: for a profiler.
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
}

/// A program to be verified, and where it comes from.
struct Input {
    group: Group,
    object: String,
    program: String,
    program_type: ProgramType,
    code: Vec<u8>,
    maps: Vec<MapDef>,
}

/// Where programs come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Group {
    Policies,
    Fuzz,
    Generated,
    Hurt,
}

impl Group {
    const ALL: [Self; 4] = [Self::Policies, Self::Fuzz, Self::Generated, Self::Hurt];

    fn name(self) -> &'static str {
        match self {
            Self::Policies => "policies",
            Self::Fuzz => "fuzz corpus",
            Self::Generated => "generated",
            Self::Hurt => "built to hurt",
        }
    }
}

impl Input {
    /// A stream program of this bench's own, without maps.
    fn of(group: Group, object: &str, program: String, code: Vec<u8>) -> Self {
        let (object, maps) = (object.to_owned(), Vec::new());
        Self { group, object, program, program_type: ProgramType::Stream, code, maps }
    }

    fn program(&self) -> Program<'_> {
        Program { program_type: self.program_type, code: &self.code, maps: &self.maps }
    }
}

/// What one verification took.
struct Row {
    group: Group,
    object: String,
    program: String,
    insns: usize,
    steps: u32,
    ms: f64,
    /// Bytes allocated at most at one time.
    peak: usize,
    /// `accepted`, or the code of the refusal.
    verdict: &'static str,
}

/// The driver's own call: its bounds are those that the runtime sets.
fn verify(input: &Input) -> Result<Verified, Refusal> {
    tidegate_verifier::verify(&input.program(), &Options::default())
}

/// Verifies once for the memory, and `times` for the time, of which the middle one counts.
fn measure(input: &Input, times: usize) -> Row {
    let mut took = Vec::new();
    let (mut peak, mut steps, mut verdict) = (0, 0, "");
    for _ in 0..times {
        let before = MEMORY.current_usage();
        MEMORY.reset_peak_usage();
        let start = Instant::now();
        let result = verify(input);
        took.push(start.elapsed().as_secs_f64() * 1e3);
        peak = MEMORY.peak_usage() - before;
        (steps, verdict) = match &result {
            Ok(verified) => (verified.steps(), "accepted"),
            Err(refusal) => (refusal.steps, refusal.code.text()),
        };
        // What takes long needs no second look.
        if took[0] > 100.0 {
            break;
        }
    }
    took.sort_by(f64::total_cmp);
    Row {
        group: input.group,
        object: input.object.clone(),
        program: input.program.clone(),
        insns: input.code.len() / 8,
        steps,
        ms: took[took.len() / 2],
        peak,
        verdict,
    }
}

/// Files of a folder of the project, in order; none when it isn't there.
fn files(folder: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(folder);
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut files: Vec<_> = entries.map(|entry| entry.path()).filter(|path| path.is_file()).collect();
    files.sort();
    files
}

fn stem(path: &Path) -> String {
    path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

/// Every program of every object that the policies were compiled to.
fn policies() -> Result<Vec<Input>> {
    let mut inputs = Vec::new();
    let objects = [files("target/programs"), files("target/programs/matrix")].concat();
    for path in objects.iter().filter(|path| path.extension().is_some_and(|extension| extension == "o")) {
        let object = Object::read(path).with_context(|| format!("{}", path.display()))?;
        inputs.extend(object.programs().iter().map(|program| Input {
            group: Group::Policies,
            object: stem(path),
            program: program.name.clone(),
            program_type: program.program_type,
            code: program.code(),
            maps: object.map_defs(program),
        }));
    }
    Ok(inputs)
}

/// What the fuzzers' inputs are as programs: the committed ones, those that runs on this machine found, and some by chance.
fn fuzz() -> Vec<Input> {
    let input = |object: &str, name: String, bytes: &[u8]| {
        let (program_type, code, _) = generate::program(Bytes::new(bytes));
        let object = object.to_owned();
        Input { group: Group::Fuzz, object, program: name, program_type, code, maps: MAPS.to_vec() }
    };
    let mut inputs = Vec::new();
    for (folder, skipped) in [("bytecode", 0), ("verify", 1)] {
        let found = [format!("fuzz/corpus/{folder}"), format!("target/fuzz/corpus/{folder}")];
        for path in found.iter().flat_map(|folder| files(folder)) {
            let bytes = fs::read(&path).unwrap_or_default();
            inputs.push(input(folder, stem(&path), bytes.get(skipped..).unwrap_or_default()));
        }
    }
    let mut chance = 1_u64;
    for number in 0..GENERATED {
        let mut byte = || {
            chance = chance.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            (chance >> 56) as u8
        };
        let length = 2 * usize::from(byte());
        let bytes: Vec<u8> = (0..length).map(|_| byte()).collect();
        inputs.push(input("chance", number.to_string(), &bytes));
    }
    inputs
}

fn generated() -> impl Iterator<Item = Input> {
    let each = Shape::ALL.into_iter().flat_map(|shape| SIZES.map(|insns| (shape, insns)));
    each.map(|(shape, insns)| {
        Input::of(Group::Generated, shape.name(), insns.to_string(), shape.program(insns))
    })
}

fn built_to_hurt() -> impl Iterator<Item = Input> {
    let each = hurt::programs().into_iter();
    each.map(|(name, code, _)| Input::of(Group::Hurt, "hurt", name.to_owned(), code))
}

fn document(rows: &[Row]) -> serde_json::Value {
    let rows: Vec<_> = rows
        .iter()
        .map(|row| {
            json!({
                "object": row.object,
                "program": row.program,
                "insns": row.insns,
                "steps": row.steps,
                "ms": row.ms,
                "peak_kib": row.peak.div_ceil(1024),
                "verdict": row.verdict,
            })
        })
        .collect();
    json!({ "schema": 1, "rows": rows })
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    let mut inputs = policies()?;
    inputs.extend(fuzz());
    inputs.extend(generated());
    inputs.extend(built_to_hurt());
    if let Some(text) = &cli.only {
        inputs.retain(|input| format!("{} {}", input.object, input.program).contains(text));
    }
    let times = if cli.only.is_some() { 1 } else { 5 };
    let rows: Vec<_> = inputs.iter().map(|input| measure(input, times)).collect();
    if cli.json {
        println!("{:#}", document(&rows));
    } else if cli.only.is_some() {
        for row in &rows {
            println!("{}", page::line(row));
        }
    } else {
        print!("{}", page::text(&rows));
    }
    if let Some(path) = cli.write {
        fs::write(&path, page::markdown(&rows))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// Held while memory is measured: it is counted for the whole process.
#[cfg(test)]
fn alone() -> std::sync::MutexGuard<'static, ()> {
    static ALONE: std::sync::Mutex<()> = std::sync::Mutex::new(());
    ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

//! Every policy under every compiler and optimisation that its authors may use: each object must be accepted.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::programs;
use crate::setup;
use crate::shell;
use crate::test::Tally;

/// What Debian 12 has, the oldest first.
const CLANGS: [&str; 3] = ["clang-14", "clang-16", "clang-19"];
const LEVELS: [&str; 3] = ["-O1", "-O2", "-Os"];

/// One policy compiled in one way.
pub(crate) struct Cell {
    policy: String,
    compiler: &'static str,
    level: &'static str,
    object: PathBuf,
}

/// Compiles and verifies every cell and prints the matrix: the steps of a verification, or the code of the refusal. A
/// cell holds when it is accepted.
pub(crate) fn run() -> Result<Tally> {
    let mut cells = compile()?;
    let rust = programs::build()?.into_iter().filter(|object| object.to_string_lossy().ends_with("-rs.o"));
    cells.extend(rust.map(|object| {
        let stem = object.file_stem().unwrap_or_default().to_string_lossy();
        let policy = stem.trim_end_matches("-rs").to_owned();
        Cell { policy, compiler: "rustc", level: "-O3", object }
    }));
    let verdicts = verify(&cells)?;

    let mut tally = Tally::default();
    print!("{:<20}", "");
    let columns = CLANGS.iter().flat_map(|clang| LEVELS.map(|level| (*clang, level)));
    let columns: Vec<_> = columns.chain([("rustc", "-O3")]).collect();
    for (compiler, level) in &columns {
        print!(" {:>12}", format!("{compiler} {level}"));
    }
    println!();
    let mut policies: Vec<_> = cells.iter().map(|cell| cell.policy.as_str()).collect();
    policies.dedup();
    policies.sort_unstable();
    policies.dedup();
    for policy in policies {
        print!("{policy:<20}");
        for column in &columns {
            let of = |cell: &&Cell| cell.policy == policy && (cell.compiler, cell.level) == *column;
            let Some(cell) = cells.iter().find(of) else {
                print!(" {:>12}", "");
                continue;
            };
            let verdict = verdicts.get(&cell.object).context("every object has a verdict")?;
            let holds = verdict.is_ok();
            let text = verdict.as_ref().map_or_else(String::clone, ToString::to_string);
            print!(" {text:>12}");
            tally = tally + Tally { passed: u64::from(holds), failed: u64::from(!holds) };
        }
        println!();
    }
    println!("steps of each verification, or the code of the refusal");
    Ok(tally)
}

/// Compiles what is older than its source or the header.
pub(crate) fn compile() -> Result<Vec<Cell>> {
    setup::need(&[&setup::POLICIES, &setup::CLANGS])?;
    let programs = shell::root().join("programs");
    let header = programs::newest(&programs.join("include"))?;
    let out = shell::root().join("target/programs/matrix");
    fs::create_dir_all(&out)?;
    let mut cells = Vec::new();
    for folder in programs::folders(&programs)? {
        let policy = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let source = folder.join(format!("{policy}.c"));
        if !source.exists() {
            continue;
        }
        let newest = programs::newest(&source)?.max(header);
        for compiler in CLANGS {
            for level in LEVELS {
                let object = out.join(format!("{policy}-{compiler}{level}.o"));
                if programs::is_stale(&object, newest) {
                    programs::compile_c_with(compiler, level, &source, &object)
                        .with_context(|| format!("{compiler} {level} does not compile {policy}"))?;
                }
                cells.push(Cell { policy: policy.clone(), compiler, level, object });
            }
        }
    }
    Ok(cells)
}

/// Steps of the verification of each object, or the code of its refusal.
fn verify(cells: &[Cell]) -> Result<BTreeMap<PathBuf, Result<u64, String>>> {
    let mut command = shell::tidegate(&["-j", "verify"])?;
    command.args(cells.iter().map(|cell| &cell.object));
    let out = command.stderr(Stdio::inherit()).output().context("cannot start tidegate")?;
    let document: Value = serde_json::from_slice(&out.stdout).context("`tidegate verify` printed no JSON")?;
    let objects = document["objects"].as_array();
    let objects = objects.with_context(|| format!("an object can't be read: {}", document["error"]))?;
    let verdict = |object: &Value| {
        let mut steps = 0;
        for program in object["programs"].as_array().into_iter().flatten() {
            if program["verdict"] != "accepted" {
                return Err(program["diagnosis"]["code"].as_str().unwrap_or("refused").to_owned());
            }
            steps += program["steps"].as_u64().unwrap_or(0);
        }
        Ok(steps)
    };
    let file = |object: &Value| Path::new(object["file"].as_str().unwrap_or_default()).to_path_buf();
    Ok(objects.iter().map(|object| (file(object), verdict(object))).collect())
}

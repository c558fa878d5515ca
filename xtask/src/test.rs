//! `cargo xtask test`: everything that must hold before a change lands, in the order in which it fails fastest.

use std::cell::RefCell;
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread::{self, Scope, ScopedJoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};

use crate::driver;
use crate::lab;
use crate::matrix;
use crate::programs;
use crate::readmes;
use crate::rules;
use crate::setup;
use crate::shell;

/// How many checks and tests held and how many did not.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(crate) struct Tally {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
}

impl std::ops::Add for Tally {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { passed: self.passed + other.passed, failed: self.failed + other.failed }
    }
}

/// What `cargo xtask test` runs alone.
#[derive(Clone, Copy, clap::ValueEnum)]
pub(crate) enum Part {
    /// The simulator and the callouts in front of it, and that every rule of the contract was seen to be checked.
    Engine,
    /// The driver in the lab.
    Lab,
}

/// One step: its name and what does it.
type Step<'a> = (&'a str, Box<dyn FnOnce() -> Result<Tally> + 'a>);

/// Runs every step, stops at the first that fails, and closes with one line `N passed, N failed`.
pub(crate) fn run() -> Result<()> {
    setup::rust_components()?;
    setup::need(&[
        &setup::POLICIES,
        &setup::CLANGS,
        &setup::DRIVER,
        &setup::LAB,
        &setup::NAMESPACES,
        &setup::SERVERS,
    ])?;
    let licences = Licences::start()?;
    // Beside the tests, which leave a processor idle half of the time.
    thread::scope(|beside| {
        let building = Building::default();
        run_steps(steps(&building, beside, licences))
    })
}

/// The check of the driver, and then the build of what the lab runs with it.
type Checked = (Result<(u64, u64)>, Result<lab::Built>);

/// What goes on beside the tests, and what came of it for the lab.
#[derive(Default)]
struct Building<'s> {
    check: RefCell<Option<ScopedJoinHandle<'s, Checked>>>,
    lab: RefCell<Option<Result<lab::Built>>>,
}

fn steps<'a, 's: 'a>(
    building: &'a Building<'s>,
    beside: &'s Scope<'s, '_>,
    licences: Licences,
) -> Vec<Step<'a>> {
    vec![
        ("format", Box::new(|| check("cargo fmt --all --check"))),
        ("policies", Box::new(|| Ok(Tally { passed: programs::build()?.len() as u64, failed: 0 }))),
        ("lints", Box::new(|| check("cargo clippy --locked --workspace --all-targets -- -D warnings"))),
        (
            "tests",
            Box::new(move || {
                building.check.replace(Some(beside.spawn(|| (driver::check(), lab::prepare()))));
                tests("cargo test --locked --workspace --no-fail-fast")
            }),
        ),
        ("scenarios", Box::new(|| tally(&mut shell::tidegate(&["test", "programs"])?))),
        ("readmes", Box::new(readmes::check)),
        ("matrix", Box::new(matrix::run)),
        (
            "driver",
            Box::new(|| {
                let check = building.check.take().context("the tests begin it")?;
                let (driver, lab) = check.join().map_err(|_| anyhow!("it was not brought to its end"))?;
                building.lab.replace(Some(lab));
                let (passed, failed) = driver?;
                Ok(Tally { passed, failed })
            }),
        ),
        (
            "lab",
            Box::new(|| {
                let built = building.lab.take().context("the driver's check begins it")??;
                let (passed, failed) = lab::check(&built)?;
                Ok(Tally { passed, failed })
            }),
        ),
        ("rules", Box::new(rules::check)),
        ("stack", Box::new(stack)),
        ("documentation", Box::new(documentation)),
        ("book", Box::new(|| tally(&mut shell::built("tidegate-book")?))),
        ("licences", Box::new(|| licences.check())),
    ]
}

/// Runs what holds the engine: the simulator, the callouts in front of it, and the table of rules.
pub(crate) fn engine() -> Result<()> {
    run_steps(vec![
        (
            "tests",
            Box::new(|| {
                tests("cargo test --locked --package fwps-sim --package tidegate-callout --no-fail-fast")
            }),
        ),
        ("rules", Box::new(rules::check)),
        ("stack", Box::new(stack)),
    ])
}

/// Runs the driver in the lab.
pub(crate) fn lab() -> Result<()> {
    let check = || lab::check(&lab::prepare()?).map(|(passed, failed)| Tally { passed, failed });
    run_steps(vec![("lab", Box::new(check))])
}

fn run_steps(steps: Vec<Step<'_>>) -> Result<()> {
    let mut total = Tally::default();
    let mut times = Vec::new();
    let mut failure = None;
    for (name, step) in steps {
        println!("== {name}");
        let start = Instant::now();
        let tally = step().unwrap_or_else(|error| {
            eprintln!("{error:#}");
            Tally { passed: 0, failed: 1 }
        });
        times.push((name, start.elapsed(), tally));
        total = total + tally;
        if tally.failed > 0 {
            failure = Some(name);
            break;
        }
    }

    println!("\n{}", summary(&times));
    println!("{} passed, {} failed", total.passed, total.failed);
    match failure {
        Some(name) => bail!("the step `{name}` failed; what it said stands above"),
        None => Ok(()),
    }
}

fn summary(times: &[(&str, Duration, Tally)]) -> String {
    let rows: Vec<_> = times
        .iter()
        .map(|(name, time, tally)| {
            format!(
                "{name:<14} {:>7.1} s {:>6} passed {:>4} failed",
                time.as_secs_f64(),
                tally.passed,
                tally.failed
            )
        })
        .collect();
    rows.join("\n")
}

/// A command that holds or does not: one check.
fn check(words: &str) -> Result<Tally> {
    let words: Vec<_> = words.split_whitespace().collect();
    shell::run(&mut shell::command(&words))?;
    Ok(Tally { passed: 1, failed: 0 })
}

/// The deepest classify stays within its budget of kernel stack. Only what is built for release says something about that.
fn stack() -> Result<Tally> {
    tests("cargo run --locked --release --quiet --package tidegate-callout-bench -- stack")
}

fn documentation() -> Result<Tally> {
    let mut doc = shell::command(&["cargo", "doc", "--locked", "--workspace", "--no-deps", "--quiet"]);
    shell::run(doc.env("RUSTDOCFLAGS", "-D warnings"))?;
    programs::document_sdk()?;
    Ok(Tally { passed: 2, failed: 0 })
}

/// Runs a command that closes with counts, once or often. What it prints is shown only when something failed.
fn tests(words: &str) -> Result<Tally> {
    let words: Vec<_> = words.split_whitespace().collect();
    tally(&mut shell::command(&words))
}

fn tally(command: &mut Command) -> Result<Tally> {
    let out = command.stderr(Stdio::inherit()).output();
    let out = out.with_context(|| format!("cannot start `{}`", shell::shown(command)))?;
    let text = String::from_utf8_lossy(&out.stdout);
    let tally = text.lines().filter_map(counts).fold(Tally::default(), std::ops::Add::add);
    if !out.status.success() {
        println!("{text}");
        if tally.failed == 0 {
            bail!("`{}` failed: {}", shell::shown(command), out.status);
        }
    }
    Ok(tally)
}

/// The counts in a closing line of libtest's or of `tidegate test`: a word of result, then `2 passed`, `0 failed`.
fn counts(line: &str) -> Option<Tally> {
    let results = ["test result: ok. ", "test result: FAILED. ", "ok: ", "FAILED: "];
    let counts = results.iter().find_map(|result| line.strip_prefix(result))?;
    let count = |what: &str| counts.split(what).next()?.rsplit(' ').next()?.parse().ok();
    Some(Tally { passed: count(" passed")?, failed: count(" failed")? })
}

/// The licence check by cargo-deny. Compiling that tool is the longest step on a fresh machine, so it starts first and
/// goes on beside the others.
struct Licences {
    tool: PathBuf,
    install: Option<Child>,
}

impl Licences {
    fn start() -> Result<Self> {
        let tools = shell::root().join("target/tools");
        let tool = tools.join("bin/cargo-deny");
        if tool.exists() {
            return Ok(Self { tool, install: None });
        }
        println!("Installing cargo-deny into target/tools (log: target/tools/cargo-deny.log)");
        fs::create_dir_all(&tools)?;
        let log = fs::File::create(tools.join("cargo-deny.log"))?;
        // It runs for a second each time: what counts is how soon it is compiled. No features: no advisories, no network.
        let mut install =
            shell::command(&["cargo", "install", "--locked", "--no-default-features", "--root"]);
        install
            .arg(&tools)
            .args(["--target-dir", "target/tools/build", "cargo-deny"])
            .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "0")
            .env("CARGO_PROFILE_RELEASE_LTO", "off")
            .env("CARGO_PROFILE_RELEASE_DEBUG", "0")
            .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "256")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        let child = install.spawn().context("cannot start cargo install")?;
        Ok(Self { tool, install: Some(child) })
    }

    fn check(mut self) -> Result<Tally> {
        if let Some(mut install) = self.install.take()
            && !install.wait()?.success()
        {
            bail!("cargo-deny could not be installed; see target/tools/cargo-deny.log");
        }
        let mut deny = Command::new(&self.tool);
        deny.current_dir(shell::root()).args([
            "--all-features",
            "--locked",
            "check",
            "licenses",
            "bans",
            "sources",
        ]);
        shell::run(&mut deny)?;
        Ok(Tally { passed: 1, failed: 0 })
    }
}

impl Drop for Licences {
    fn drop(&mut self) {
        if let Some(mut install) = self.install.take() {
            // An earlier step failed: nobody waits for the tool. Both calls fail only when it is already gone.
            let _ = install.kill();
            let _ = install.wait();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_read_from_closing_lines() {
        let line = "test result: FAILED. 12 passed; 3 failed; 1 ignored; 0 measured; 0 filtered out";
        assert_eq!(counts(line), Some(Tally { passed: 12, failed: 3 }));
        assert_eq!(counts("ok: 9 passed, 0 failed; 3021 runs"), Some(Tally { passed: 9, failed: 0 }));
        assert_eq!(counts("test result: nonsense"), None);
        assert_eq!(counts("running 12 tests"), None);
    }
}

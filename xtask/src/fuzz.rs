//! Runs one fuzz target for a while and says what it found.
//!
//! The coverage counters come from options that the stable compiler has, so no nightly toolchain and no further tool
//! is needed; libFuzzer itself is compiled from source by `libfuzzer-sys`, with the system's C++ compiler.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

use crate::programs;
use crate::setup;
use crate::shell;

/// What is fuzzed.
#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Target {
    /// Bytecode: verify, then run what is accepted.
    Bytecode,
    /// Control messages.
    Control,
    /// ELF objects.
    Object,
    /// Scenario files and captures.
    Scenario,
    /// What the verifier claims, held against runs of what it accepts.
    Verify,
}

impl Target {
    /// Bytes of an input at most: the fewer, the more of them a second.
    fn most_bytes(self) -> u32 {
        match self {
            Self::Bytecode | Self::Verify => 512,
            Self::Control => 2048,
            Self::Object | Self::Scenario => 65536,
        }
    }

    /// Folders with inputs that the project has anyway: the fuzzer starts from them too.
    fn seeds(self) -> &'static [&'static str] {
        match self {
            Self::Bytecode | Self::Control | Self::Verify => &[],
            Self::Object => &["target/programs"],
            Self::Scenario => &["examples/captures", "programs"],
        }
    }
}

const INSTRUMENTED: &str = "--cfg fuzzing -Cpasses=sancov-module \
    -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares";

/// Runs `target` for `seconds`, starting from the committed corpus and from what earlier runs here discovered.
/// Fails when there is a finding.
pub(crate) fn run(target: Target, seconds: u32) -> Result<()> {
    setup::need(&[&setup::FUZZERS])?;
    if let Target::Object | Target::Verify = target {
        programs::build()?;
    }
    let value = target.to_possible_value().context("every target has a name")?;
    let name = value.get_name();
    let binary = format!("fuzz-{name}");
    let build = shell::root().join("target/fuzz");
    let host = host()?;
    // Naming the target keeps the counters out of build scripts and macros.
    shell::run(
        shell::command(&["cargo", "build", "--locked", "--profile", "fuzz", "--package", "tidegate-fuzz"])
            .args(["--features", "libfuzzer", "--bin", &binary, "--target", &host, "--target-dir"])
            .arg(&build)
            .env("RUSTFLAGS", INSTRUMENTED),
    )?;

    let (corpus, findings) = (build.join("corpus").join(name), build.join("findings").join(name));
    fs::create_dir_all(&corpus)?;
    fs::create_dir_all(&findings)?;
    let mut fuzzer = Command::new(build.join(&host).join("fuzz").join(&binary));
    fuzzer
        .current_dir(shell::root())
        .arg(&corpus)
        .arg(Path::new("fuzz/corpus").join(name))
        .args(target.seeds())
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-artifact_prefix={}/", findings.display()))
        .args(["-print_final_stats=1", "-timeout=600", "-rss_limit_mb=4096", "-len_control=0"])
        .arg(format!("-max_len={}", target.most_bytes()));
    let out = fuzzer.stdin(Stdio::null()).output().context("cannot start the fuzzer")?;
    let said = String::from_utf8_lossy(&out.stderr);
    let executions = statistic(&said, "number_of_executed_units").unwrap_or(0);
    if !out.status.success() {
        println!("{said}");
        // libFuzzer's own codes: too slow, too much memory, a panic.
        if !matches!(out.status.code(), Some(70 | 71 | 77)) {
            bail!(
                "{name}: the fuzzer was ended or did not start ({}); what it said stands above",
                out.status
            );
        }
        bail!("{name}: a finding after {executions} executions; the input is in {}", findings.display());
    }
    let kept = fs::read_dir(&corpus)?.count();
    println!("{name}: {executions} executions in {seconds} s, {kept} inputs in the corpus, no findings");
    if let Target::Verify = target {
        let count = |what| statistic(&said, what).unwrap_or(0);
        println!(
            "{name}: {} accepted programs, {} runs of them, {} states held against claims",
            count("accepted_programs"),
            count("accepted_runs"),
            count("embedded_states")
        );
    }
    Ok(())
}

/// The triple of this machine, as rustc names it.
fn host() -> Result<String> {
    let version = shell::output(&mut shell::command(&["rustc", "--version", "--verbose"]))?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("rustc does not say its host")?.to_owned())
}

/// The number in a line such as `stat::number_of_executed_units: 6360313`.
fn statistic(said: &str, name: &str) -> Option<u64> {
    said.lines().rev().find_map(|line| {
        line.strip_prefix("stat::")?.strip_prefix(name)?.strip_prefix(": ")?.trim().parse().ok()
    })
}

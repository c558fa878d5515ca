//! The engine's long runs: random rewrites by the million, and load for minutes with links swapped under it.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::json;

use crate::shell;

/// One of the callouts' tests that are too long for `cargo xtask test`, built to be fast and to catch wrong sums.
fn long_test(name: &str) -> Command {
    let mut test = shell::command(&["cargo", "test", "--locked", "--quiet", "--profile", "fuzz"]);
    test.args(["--package", "tidegate-callout", "--lib", "--", "--ignored", "--exact", "--nocapture", name]);
    test
}

/// Runs `cases` random connections and lists of packets past random programs.
pub(crate) fn property(cases: u64, seed: u64) -> Result<()> {
    let mut test = long_test("tests::rewrites::streams_and_packets_come_out_as_on_a_string_for_long");
    test.env("TIDEGATE_CASES", cases.to_string()).env("TIDEGATE_SEED", seed.to_string());
    shell::run(&mut test)
}

/// Runs the load for `seconds`, and prints what memory it took.
pub(crate) fn soak(seconds: u64, as_json: bool) -> Result<()> {
    let file = shell::root().join("target/soak-rows");
    let mut test = long_test("tests::soak::soaks");
    test.env("TIDEGATE_SECONDS", seconds.to_string()).env("TIDEGATE_SOAK_ROWS", &file);
    shell::output(&mut test)?;
    let rows = rows(&file)?;
    if as_json {
        let rows: Vec<_> = rows
            .iter()
            .map(|[seconds, flows, swaps, resident]| {
                json!({ "seconds": seconds, "flows": flows, "swaps": swaps, "resident_kib": resident })
            })
            .collect();
        // The test fails when there is one.
        println!("{:#}", json!({ "schema": 1, "violations": 0, "rows": rows }));
    } else {
        println!("{:>8} {:>12} {:>8} {:>14}", "seconds", "connections", "swaps", "resident KiB");
        for [seconds, flows, swaps, resident] in rows {
            println!("{seconds:>8} {flows:>12} {swaps:>8} {resident:>14}");
        }
        println!("no rule was broken, no byte was wrong, nothing was left behind, and memory did not grow");
    }
    Ok(())
}

fn rows(file: &Path) -> Result<Vec<[u64; 4]>> {
    let text = fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let row = |line: &str| {
        let numbers: Result<Vec<u64>, _> = line.split(' ').map(str::parse).collect();
        numbers.ok().and_then(|numbers| numbers.try_into().ok()).context("a row of four numbers")
    };
    text.lines().map(row).collect()
}

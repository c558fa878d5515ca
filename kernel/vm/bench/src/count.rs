//! Host instructions of one run, counted by callgrind.
//!
//! The bench runs itself under callgrind. The copy calls [`mark`] before and after the runs that count; callgrind dumps
//! and zeroes its counters at each, so every second dump is the count of one machine on one program.

use std::hint::black_box;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::engines::Run;

/// Runs between two marks: enough that the marks themselves vanish.
const RUNS: u32 = 50;

/// Where callgrind cuts its counts.
#[inline(never)]
fn mark() {
    black_box(());
}

/// In the copy under callgrind: lets the runs that count happen. Not inlined, so that a run of nothing costs what the
/// calls of the others cost.
#[inline(never)]
pub(crate) fn measured(run: &mut Run<'_>) {
    black_box(run());
    mark();
    for _ in 0..RUNS {
        black_box(run());
    }
    mark();
}

/// Runs this program under callgrind with the argument `--counted`, and returns the host instructions of one run for each
/// call of [`measured`], in their order.
pub(crate) fn count(work: &Path) -> Result<Vec<f64>> {
    let output = work.join("callgrind.out");
    let status = Command::new("valgrind")
        .args(["-q", "--tool=callgrind", "--dump-after=*count::mark*"])
        .arg(format!("--callgrind-out-file={}", output.display()))
        .arg(std::env::current_exe()?)
        .arg("--counted")
        .status()
        .context("cannot start valgrind: install the package of that name")?;
    ensure!(status.success(), "the bench failed under valgrind: {status}");
    let mut counts = Vec::new();
    while let Ok(dump) = std::fs::read_to_string(format!("{}.{}", output.display(), 2 * counts.len() + 2)) {
        let total = dump.lines().find_map(|line| line.strip_prefix("totals: "));
        let total: f64 = total.context("a dump of callgrind without totals")?.trim().parse()?;
        counts.push(total / f64::from(RUNS));
    }
    Ok(counts)
}

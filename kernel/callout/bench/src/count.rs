//! Host instructions of one classify, counted by callgrind.
//!
//! The bench runs itself under callgrind. The copy calls [`mark`] before and after the classifies that count; callgrind dumps
//! and zeroes its counters at each, so every second dump is the count of one subject.

use std::hint::black_box;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use fwps_sys::FWP_ACTION;

/// Classifies between two marks: enough that the marks themselves vanish.
const RUNS: u32 = 50;

/// Where callgrind cuts its counts.
#[inline(never)]
fn mark() {
    black_box(());
}

/// In the copy under callgrind: lets the classifies that count happen.
#[inline(never)]
pub(crate) fn measured(run: &mut dyn FnMut() -> FWP_ACTION) {
    black_box(run());
    black_box(run());
    mark();
    for _ in 0..RUNS {
        black_box(run());
    }
    mark();
}

/// Runs this program under callgrind with the argument `--counted`, and returns the host instructions of one classify for
/// each call of [`measured`], in their order.
pub(crate) fn count() -> Result<Vec<f64>> {
    let folder = std::env::temp_dir().join(format!("bench-classify-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let counts = count_in(&folder);
    // What can't be removed is left to the system's own cleaning of temporary files.
    let _ = std::fs::remove_dir_all(&folder);
    counts
}

fn count_in(folder: &std::path::Path) -> Result<Vec<f64>> {
    let output = folder.join("callgrind.out");
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

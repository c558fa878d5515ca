//! The figures as text: a table of the groups, a plot of time by size, and the programs that took most.

use std::fmt::Write;

use crate::generated::Shape;
use crate::{Group, Row, SIZES};

/// Columns of the plot between two sizes.
const STRIDE: usize = 7;
/// Lines of the plot between two powers of ten.
const LINES: usize = 4;

/// The value below which `percent` of a sorted list lie.
fn percentile(sorted: &[f64], percent: usize) -> f64 {
    let at = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
    sorted.get(at).copied().unwrap_or(f64::NAN)
}

fn sorted(rows: &[&Row], of: impl Fn(&Row) -> f64) -> Vec<f64> {
    let mut values: Vec<_> = rows.iter().map(|row| of(row)).collect();
    values.sort_by(f64::total_cmp);
    values
}

fn kib(row: &Row) -> f64 {
    row.peak as f64 / 1024.0
}

/// A table: a line for each group, and one for all.
fn summary(rows: &[Row]) -> String {
    let mut text = String::new();
    let columns = "accepted | median ms | p95 | p99 | max | median KiB | p95 | p99 | max |";
    let _ = writeln!(text, "| programs | of them | {columns}");
    let _ = writeln!(text, "|---|{}", "---:|".repeat(10));
    let groups = Group::ALL.map(|group| (group.name(), Some(group)));
    for (name, group) in groups.into_iter().chain([("all", None)]) {
        let rows: Vec<_> = rows.iter().filter(|row| group.is_none_or(|group| row.group == group)).collect();
        let accepted = rows.iter().filter(|row| row.verdict == "accepted").count();
        let _ = write!(text, "| {name} | {} | {accepted} |", rows.len());
        for values in [sorted(&rows, |row| row.ms), sorted(&rows, kib)] {
            for percent in [50, 95, 99, 100] {
                let value = percentile(&values, percent);
                let digits = if value < 10.0 { 3 } else { 0 };
                let _ = write!(text, " {value:.digits$} |");
            }
        }
        text.push('\n');
    }
    text
}

/// Milliseconds by size, both in powers: a letter for each shape of generated programs.
fn plot(rows: &[Row]) -> String {
    let of = |shape: Shape, insns: usize| {
        rows.iter()
            .find(|row| row.group == Group::Generated && row.object == shape.name() && row.insns == insns)
    };
    // From 1 microsecond to 1 second.
    let height = 6 * LINES;
    let mut grid = vec![vec![' '; STRIDE * SIZES.len()]; height + 1];
    for (column, insns) in SIZES.into_iter().enumerate() {
        for (index, shape) in Shape::ALL.into_iter().enumerate() {
            let Some(row) = of(shape, insns) else { continue };
            let line = ((row.ms.log10() + 3.0) * LINES as f64).round().clamp(0.0, height as f64);
            let letter = shape.name().chars().next().unwrap_or('?');
            grid[height - line as usize][STRIDE * column + index] = letter;
        }
    }
    let mut text = String::new();
    for (line, cells) in grid.iter().enumerate() {
        let power = 3 - (line / LINES) as i32;
        let label = if line % LINES == 0 { format!("{} ms", 10_f64.powi(power)) } else { String::new() };
        let cells: String = cells.iter().collect();
        let _ = writeln!(text, "{:>9} |{}", label, cells.trim_end());
    }
    let _ = writeln!(text, "{:>9} +{}", "", "-".repeat(STRIDE * SIZES.len()));
    let sizes: String = SIZES.iter().map(|insns| format!("{insns:<STRIDE$}")).collect();
    let _ = writeln!(text, "{:>9}  {}", "", sizes.trim_end());
    let names: Vec<_> = Shape::ALL.iter().map(|shape| shape.name()).collect();
    let _ = writeln!(text, "{:>9}  instructions; {}", "", names.join(", "));
    text
}

/// What one verification took, in a line.
pub(crate) fn line(row: &Row) -> String {
    format!(
        "{:<40} {:>6} insns {:>8} steps {:>10.3} ms {:>7.0} KiB  {}",
        format!("{} {}", row.object, row.program),
        row.insns,
        row.steps,
        row.ms,
        kib(row),
        row.verdict
    )
}

/// Lines about the programs of a group, or about those that took longest.
fn lines<'a>(rows: impl Iterator<Item = &'a Row>) -> String {
    rows.map(|row| line(row) + "\n").collect()
}

fn longest(rows: &[Row]) -> Vec<&Row> {
    let mut longest: Vec<_> = rows.iter().filter(|row| row.group != Group::Hurt).collect();
    longest.sort_by(|a, b| b.ms.total_cmp(&a.ms));
    longest.truncate(10);
    longest
}

/// Everything, for a terminal.
pub(crate) fn text(rows: &[Row]) -> String {
    let hurt = rows.iter().filter(|row| row.group == Group::Hurt);
    format!(
        "{}\n{}\nbuilt to hurt:\n{}\nlongest of the others:\n{}",
        summary(rows),
        plot(rows),
        lines(hurt),
        lines(longest(rows).into_iter())
    )
}

/// Everything, as a page.
pub(crate) fn markdown(rows: &[Row]) -> String {
    let hurt = rows.iter().filter(|row| row.group == Group::Hurt);
    format!(
        "# What verifications take\n\n\
         Written by `cargo xtask bench verify --write`, in the driver's configuration, one thread. How to read it:\n\
         [verifier.md](verifier.md).\n\n{}\n\
         Generated programs, time by size:\n\n```text\n{}```\n\n\
         Programs built to hurt (`verifier/bench/src/hurt.rs`):\n\n```text\n{}```\n\n\
         Those of the others that took longest:\n\n```text\n{}```\n",
        summary(rows),
        plot(rows),
        lines(hurt),
        lines(longest(rows).into_iter())
    )
}

//! The platform's contract as a table: each line, what checks it, and the test that was seen to break it.
//!
//! Nothing here is written by hand: the lines are the simulator's, and who fired comes from notes that its tests leave while
//! they run.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;

use anyhow::{Context, Result, bail, ensure};
use fwps_sim::rules::{ALL, Kind, Rule};
use serde_json::json;

use crate::shell;
use crate::test::Tally;

/// A line of the contract, and what the tests saw of it.
struct Row {
    rule: &'static Rule,
    /// Where the simulator noticed the breach: a file and a line of it.
    check: String,
    test: String,
    fired: bool,
}

/// The page that is made from the table.
const PAGE: &str = "docs/rules.md";

/// Prints the table, or writes the page that is made from it.
pub(crate) fn run(as_json: bool, write: bool) -> Result<()> {
    let rows = rows()?;
    if write {
        fs::create_dir_all(shell::root().join("docs"))?;
        fs::write(shell::root().join(PAGE), page(&rows))?;
        println!("wrote {PAGE}");
    } else if as_json {
        println!("{:#}", document(&rows));
    } else {
        for row in &rows {
            println!("{:<9} {:<52} {}", row.rule.id, held(row), row.rule.text);
        }
    }
    complete(&rows)
}

/// The table is complete, and the page says what it says.
pub(crate) fn check() -> Result<Tally> {
    let rows = rows()?;
    complete(&rows)?;
    let page_now = fs::read_to_string(shell::root().join(PAGE)).unwrap_or_default();
    ensure!(page_now == page(&rows), "{PAGE} is not what the rules are: run `cargo xtask rules --write`");
    Ok(Tally { passed: rows.iter().filter(|row| row.fired).count() as u64, failed: 0 })
}

/// Runs the tests of the rules, and reads what they saw.
fn rows() -> Result<Vec<Row>> {
    let notes = shell::root().join("target/rules-seen");
    if notes.exists() {
        fs::remove_dir_all(&notes)?;
    }
    fs::create_dir_all(&notes)?;
    let mut tests =
        shell::command(&["cargo", "test", "--locked", "--quiet", "--package", "fwps-sim", "--test", "rules"]);
    shell::output(tests.env("TIDEGATE_RULES_SEEN", &notes))?;
    let mut seen: BTreeMap<String, Vec<(String, String)>> = BTreeMap::new();
    for note in fs::read_dir(&notes)? {
        let note = note?;
        let name = note.file_name().into_string().ok().context("a note with a strange name")?;
        let (id, test) = name.rsplit_once('.').context("a note without a test")?;
        seen.entry(id.to_owned()).or_default().push((test.to_owned(), fs::read_to_string(note.path())?));
    }
    let row = |rule: &'static Rule| {
        let mut seen = seen.remove(rule.id).unwrap_or_default();
        seen.sort();
        let tests: Vec<_> = seen.iter().map(|(test, _)| test.as_str()).collect();
        Row {
            rule,
            test: tests.join(", "),
            fired: !seen.is_empty(),
            check: seen.into_iter().next().map(|(_, check)| check).unwrap_or_default(),
        }
    };
    Ok(ALL.iter().map(row).collect())
}

/// Fails when a line that can be tested was not.
fn complete(rows: &[Row]) -> Result<()> {
    let missing: Vec<_> = rows
        .iter()
        .filter(|row| !row.fired && !matches!(row.rule.kind, Kind::Unchecked(_)))
        .map(|row| row.rule.id)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    bail!("no test saw the check of these rules fire: {}", missing.join(", "))
}

/// In a few words, how a line is held.
fn held(row: &Row) -> String {
    match row.rule.kind {
        Kind::Checked => row.check.clone(),
        Kind::Like(other) => format!("as {other}, {}", row.check),
        Kind::Shown => "shown".to_owned(),
        Kind::Unchecked(_) => "not checked".to_owned(),
    }
}

fn document(rows: &[Row]) -> serde_json::Value {
    let rows: Vec<_> = rows
        .iter()
        .map(|row| {
            let kind = match row.rule.kind {
                Kind::Checked | Kind::Like(_) => "checked",
                Kind::Shown => "shown",
                Kind::Unchecked(_) => "unchecked",
            };
            let check = match row.rule.kind {
                Kind::Unchecked(why) => format!("none: {why}"),
                _ => held(row),
            };
            json!({
                "id": row.rule.id,
                "rule": row.rule.text,
                "kind": kind,
                "check": check,
                "test": row.test,
                "fired": row.fired,
            })
        })
        .collect();
    json!({ "schema": 1, "rows": rows })
}

/// Titles of the contract's sections.
const SECTIONS: [(&str, &str); 22] = [
    ("S3.0", "Linking"),
    ("S3.1", "Statuses"),
    ("S3.2", "Callouts and injection handles"),
    ("S3.3", "Building NBLs"),
    ("S3.4", "Packet injection"),
    ("S3.5", "Stream functions"),
    ("S3.6", "Flow contexts"),
    ("S3.7", "Management"),
    ("S3.8", "NDIS"),
    ("S3.9", "The kernel's helpers"),
    ("S4.1", "Injecting into a stream"),
    ("S4.2", "When a stream may be injected into"),
    ("S4.3", "What classify answers at a stream layer"),
    ("S4.4", "The end of a stream"),
    ("S4.5", "Injecting sends"),
    ("S4.6", "What classify answers at a packet layer"),
    ("S4.7", "Packet memory"),
    ("S4.8", "Checksums and offloads"),
    ("S4.9", "Callout flags"),
    ("S4.10", "IPsec and loopback"),
    ("S4.11", "Levels, locks and time"),
    ("S4.12", "Unloading"),
];

fn page(rows: &[Row]) -> String {
    let count = |wanted: fn(&Kind) -> bool| rows.iter().filter(|row| wanted(&row.rule.kind)).count();
    let mut page = format!(
        "# The platform's contract\n\n\
         Every line of what Windows' filter engine and a callout owe each other, as the simulator holds it. {} lines are checked:\n\
         the simulator names a callout that breaks one, and the test beside it breaks it on purpose. {} are shown: the simulator\n\
         behaves so, and the test beside it sees it. {} can't be held by a simulator, and say why.\n\n\
         Made by `cargo xtask rules --write` from `kernel/sim/src/rules.rs` and a run of `kernel/sim/tests/rules/`; the check is the\n\
         file that noticed the breach in that run. `cargo xtask test engine` fails when this page is not current.\n",
        count(|kind| matches!(kind, Kind::Checked | Kind::Like(_))),
        count(|kind| *kind == Kind::Shown),
        count(|kind| matches!(kind, Kind::Unchecked(_))),
    );
    for (section, title) in SECTIONS {
        let _ = write!(
            page,
            "\n## {} {title}\n\n| rule | says | check | test |\n|---|---|---|---|\n",
            &section[1..]
        );
        for row in rows.iter().filter(|row| row.rule.id.split('-').next() == Some(section)) {
            let file = row.check.rsplit_once(':').map_or("", |(file, _)| file);
            let check = match row.rule.kind {
                Kind::Checked => format!("`{file}`"),
                Kind::Like(other) => format!("as {other}, `{file}`"),
                Kind::Shown => "shown".to_owned(),
                Kind::Unchecked(why) => format!("none: {why}"),
            };
            let tests: Vec<_> = row.test.split(", ").filter(|test| !test.is_empty()).collect();
            let tests: Vec<_> = tests.iter().map(|test| format!("`{test}`")).collect();
            let _ =
                writeln!(page, "| {} | {} | {check} | {} |", row.rule.id, row.rule.text, tests.join(", "));
        }
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_has_a_section_of_the_page() {
        for rule in ALL {
            let section = rule.id.split('-').next().unwrap_or_default();
            assert!(SECTIONS.iter().any(|(known, _)| *known == section), "{}", rule.id);
        }
    }

    #[test]
    fn a_rule_that_no_test_saw_makes_the_table_incomplete() {
        let rows: Vec<_> = ALL
            .iter()
            .map(|rule| Row { rule, check: String::new(), test: String::new(), fired: rule.id != "S4.1-03" })
            .collect();
        let error = complete(&rows).expect_err("one is missing").to_string();
        assert!(error.contains("S4.1-03") && !error.contains("S4.1-04"), "{error}");
    }
}

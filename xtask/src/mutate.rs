//! Whether the scenarios of a policy notice when it changes: each comparison and each constant of its source is changed, one
//! at a time, and the policy compiled and tested.
//!
//! A change that does not compile, or that compiles to the same program and maps, is none. One that the verifier refuses, or that a
//! scenario tells from the policy, is caught. One that no input can tell from the policy is equal to it: `equal.mutants` beside the
//! policy says which and why, under the name of the source, by the line and what it becomes; by `nth` as well where only one of several
//! lines that read alike is meant. It is an error to say so of a change that is caught, or that the source does not have. Errors are
//! told when all is done.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Mutex;
use std::thread;

use anyhow::{Context, Result, ensure};
use goblin::elf::Elf;
use goblin::elf::section_header::{SHF_ALLOC, SHT_REL};
use serde_json::{Value, json};

use crate::{programs, shell};

/// What the scenarios of each policy must notice, in percent.
const GOAL: usize = 90;

/// What `cargo xtask mutate` was asked to do.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Options {
    /// Print one JSON document instead of text
    #[arg(long)]
    json: bool,
    /// Only the policy in this folder of programs/; may be given several times
    #[arg(long, value_name = "NAME")]
    policy: Vec<String>,
}

/// One change of a source.
#[derive(Debug, PartialEq, Eq)]
struct Mutation {
    /// Bytes of the source that are replaced.
    at: std::ops::Range<usize>,
    by: String,
}

/// A change as it is named: by its line, what that becomes, and which of the places it is where both read alike.
#[derive(Debug)]
struct Placed {
    mutation: Mutation,
    line: String,
    becomes: String,
    /// From 1.
    nth: usize,
}

/// What became of a change.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Fate {
    /// It is no program, or no other one.
    None,
    Survived,
    Caught,
}

/// A change that is said to make no difference.
#[derive(Debug)]
struct Equal {
    line: String,
    becomes: String,
    /// Which of the places where the line stands, from 1; all of them when it is not said.
    nth: Option<usize>,
    /// What became of it: `None` until the source has such a change.
    fate: Mutex<Option<Fate>>,
}

/// What came of one source.
struct Row {
    policy: String,
    /// Changes, but for those that are equal to the policy.
    mutants: usize,
    caught: usize,
    equal: usize,
    /// Where nothing noticed, and what was changed.
    survived: Vec<String>,
    /// What is said to make no difference, and is wrong.
    wrong: Vec<String>,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    programs::build()?;
    shell::run(&mut shell::command(&[
        "cargo",
        "build",
        "--locked",
        "--quiet",
        "--release",
        "--package",
        "tidegate",
    ]))?;
    let sources = programs::sources()?;
    let name = |source: &programs::Source| {
        source.source.parent().and_then(Path::file_name).unwrap_or_default().to_string_lossy().into_owned()
    };
    for wanted in &options.policy {
        ensure!(sources.iter().any(|source| name(source) == *wanted), "there is no policy {wanted}");
    }
    let (mut rows, mut wrong) = (Vec::new(), Vec::new());
    for source in &sources {
        if !options.policy.is_empty() && !options.policy.contains(&name(source)) {
            continue;
        }
        // What is wrong with one policy does not keep the others from being looked at.
        match mutate(source) {
            Ok(row) => {
                if !options.json {
                    print!("{}", row.text());
                }
                wrong.extend(row.wrong.iter().map(|wrong| format!("{}: {wrong}", row.policy)));
                rows.push(row);
            }
            Err(error) => wrong.push(format!("{error:#}")),
        }
    }
    if options.json {
        let rows: Vec<_> = rows
            .iter()
            .map(|row| json!({"policy": row.policy, "mutants": row.mutants, "caught": row.caught, "equal": row.equal, "survived": row.survived}))
            .collect();
        println!("{}", json!({"schema": 1, "rows": rows}));
    }
    let few: Vec<_> =
        rows.iter().filter(|row| row.caught * 100 < row.mutants * GOAL).map(|row| &*row.policy).collect();
    if !few.is_empty() {
        wrong.push(format!("the scenarios of {} notice less than {GOAL} % of the changes", few.join(", ")));
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

fn mutate(source: &programs::Source) -> Result<Row> {
    let text = fs::read_to_string(&source.source)?;
    let policy = source.source.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let left = Mutex::new(placed(&text).into_iter());
    let equal = equal(source, &policy)?;
    let row =
        Mutex::new(Row { policy, mutants: 0, caught: 0, equal: 0, survived: Vec::new(), wrong: Vec::new() });
    let workers = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        let workers: Vec<_> = (0..workers)
            .map(|worker| {
                let (left, row, text, equal) = (&left, &row, &text, &equal);
                scope.spawn(move || -> Result<()> {
                    let place = Place::new(source, worker)?;
                    loop {
                        let Some(placed) = left.lock().expect("no worker panics").next() else {
                            return Ok(());
                        };
                        let fate = place.fate(&placed.mutation.apply(text))?;
                        let said: Vec<_> = equal.iter().filter(|equal| equal.is_about(&placed)).collect();
                        for said in &said {
                            let mut known = said.fate.lock().expect("no worker panics");
                            // What is said of several places is wrong when one of them is noticed.
                            *known = (*known).max(Some(fate));
                        }
                        let mut row = row.lock().expect("no worker panics");
                        if !said.is_empty() && fate == Fate::Survived {
                            row.equal += 1;
                            continue;
                        }
                        row.mutants += usize::from(fate != Fate::None);
                        row.caught += usize::from(fate == Fate::Caught);
                        if fate == Fate::Survived {
                            row.survived.push(placed.mutation.shown(text));
                        }
                    }
                })
            })
            .collect();
        workers.into_iter().try_for_each(|worker| worker.join().expect("no worker panics"))
    })?;
    let mut row = row.into_inner().expect("no worker panics");
    row.wrong.extend(equal.iter().filter_map(Equal::wrong));
    row.survived.sort();
    Ok(row)
}

/// What stands beside a policy of changes that make no difference.
fn equal(source: &programs::Source, policy: &str) -> Result<Vec<Equal>> {
    let file = source.source.with_file_name("equal.mutants");
    if !file.exists() {
        return Ok(Vec::new());
    }
    let text = fs::read_to_string(&file)?;
    let table: toml::Table = text.parse().with_context(|| file.display().to_string())?;
    for name in table.keys() {
        let found = source.source.with_file_name(name).exists();
        ensure!(found, "{}: there is no source {name}", file.display());
    }
    let rows = table.get(policy).and_then(toml::Value::as_array).into_iter().flatten();
    let member = |row: &toml::Value, name: &str| {
        let text = row.get(name).and_then(toml::Value::as_str).filter(|text| !text.is_empty());
        text.map(str::to_owned).with_context(|| format!("{}: a change without `{name}`", file.display()))
    };
    rows.map(|row| {
        // Why is for people, but it must be there.
        member(row, "because")?;
        let (line, becomes) = (member(row, "line")?, member(row, "becomes")?);
        let nth = row.get("nth").map(|nth| {
            let nth = nth.as_integer().and_then(|nth| usize::try_from(nth).ok()).filter(|nth| *nth > 0);
            nth.with_context(|| format!("{}: `nth` counts from 1", file.display()))
        });
        Ok(Equal { line, becomes, nth: nth.transpose()?, fate: Mutex::new(None) })
    })
    .collect()
}

impl Equal {
    fn is_about(&self, placed: &Placed) -> bool {
        self.line == placed.line
            && self.becomes == placed.becomes
            && self.nth.is_none_or(|nth| nth == placed.nth)
    }

    /// Why it is wrong to say so, once it is known what became of every change.
    fn wrong(&self) -> Option<String> {
        let wrong = match *self.fate.lock().expect("no worker panics") {
            // What makes no difference to this compiler may make one to another.
            Some(Fate::Survived | Fate::None) => return None,
            Some(Fate::Caught) => "makes a difference: a scenario noticed",
            None => "is no change of the source",
        };
        let nth = self.nth.map_or(String::new(), |nth| format!(", place {nth},"));
        Some(format!("equal.mutants: `{}` becoming `{}`{nth} {wrong}", self.line, self.becomes))
    }
}

impl Row {
    fn text(&self) -> String {
        let percent =
            if self.mutants == 0 { 100.0 } else { 100.0 * self.caught as f64 / self.mutants as f64 };
        let equal = match self.equal {
            0 => String::new(),
            equal => format!(", {equal} make no difference"),
        };
        let (policy, caught, mutants) = (&self.policy, self.caught, self.mutants);
        let head = format!("{policy}: {caught} of {mutants} changes caught, {percent:.1} %{equal}\n");
        self.survived.iter().fold(head, |text, survived| text + "  not noticed: " + survived + "\n")
    }
}

/// Where one worker compiles and tests.
struct Place<'a> {
    policy: &'a programs::Source,
    /// The changed source, under its own name.
    source: PathBuf,
    object: PathBuf,
    folder: PathBuf,
    /// What the source as it is compiles to here.
    unchanged: Substance,
    /// Whether scenarios have streams to cut. Packets have none: more runs would be the same again.
    has_cuts: bool,
}

impl<'a> Place<'a> {
    fn new(policy: &'a programs::Source, worker: usize) -> Result<Self> {
        let folder = shell::root().join("target/mutants").join(worker.to_string());
        // Beside the changed object there are those that the scenario file tests too, and what they are compiled against.
        if folder.exists() {
            fs::remove_dir_all(&folder)?;
        }
        fs::create_dir_all(&folder)?;
        for made in fs::read_dir(shell::root().join("target/programs"))? {
            let made = made?.path();
            if made.is_file() {
                fs::copy(&made, folder.join(made.file_name().unwrap_or_default()))?;
            }
        }
        let name = |path: &Path| folder.join(path.file_name().unwrap_or_default());
        let (source, object) = (name(&policy.source), name(&policy.object));
        fs::copy(&policy.source, &source)?;
        ensure!(policy.compiles(&source, &object)?, "{} does not compile", source.display());
        let mut place =
            Self { policy, unchanged: Substance::of(&object)?, source, object, folder, has_cuts: false };
        let tested = place.test("1")?;
        // Else everything would count as noticed.
        let passed = tested.status.success();
        ensure!(passed, "{} as it is does not pass its scenarios", policy.source.display());
        let report: Value = serde_json::from_slice(&tested.stdout).context("what tidegate test says")?;
        place.has_cuts = has_cuts(&report);
        Ok(place)
    }

    fn fate(&self, text: &str) -> Result<Fate> {
        fs::write(&self.source, text)?;
        if !self.policy.compiles(&self.source, &self.object)?
            || Substance::of(&self.object)? == self.unchanged
        {
            return Ok(Fate::None);
        }
        // The cuts that the scenarios give first: most changes need no more.
        let runs: &[&str] = if self.has_cuts { &["1", "1000"] } else { &["1"] };
        for runs in runs {
            if !self.test(runs)?.status.success() {
                return Ok(Fate::Caught);
            }
        }
        Ok(Fate::Survived)
    }

    fn test(&self, runs: &str) -> Result<Output> {
        let mut tidegate = Command::new(shell::root().join("target/release/tidegate"));
        tidegate.args(["-j", "test", "--runs", runs, "--objects"]).arg(&self.folder);
        tidegate.arg(self.policy.source.with_extension("toml"));
        tidegate.stderr(Stdio::null()).output().context("cannot start tidegate")
    }
}

/// What an object is but for its debug information, which has the text of the source in it.
#[derive(PartialEq, Eq)]
struct Substance {
    /// The sections that are loaded, and their relocations, by name.
    sections: BTreeMap<String, Vec<u8>>,
    /// Types, those of maps among them.
    types: Vec<u8>,
}

impl Substance {
    fn of(object: &Path) -> Result<Self> {
        let mut types = Command::new(shell::root().join("target/release/tidegate"));
        let types = types.args(["btf", "dump"]).arg(object).output().context("cannot start tidegate")?;
        ensure!(types.status.success(), "{}: {}", object.display(), String::from_utf8_lossy(&types.stderr));
        let sections = sections(&fs::read(object)?).with_context(|| object.display().to_string())?;
        Ok(Self { sections, types: types.stdout })
    }
}

fn sections(object: &[u8]) -> Result<BTreeMap<String, Vec<u8>>> {
    let elf = Elf::parse(object)?;
    let mut sections = BTreeMap::new();
    for header in &elf.section_headers {
        let of = match header.sh_type {
            SHT_REL => elf.section_headers.get(header.sh_info as usize).unwrap_or(header),
            _ => header,
        };
        if of.sh_flags & u64::from(SHF_ALLOC) != 0 {
            let name = elf.shdr_strtab.get_at(header.sh_name).context("a section without a name")?;
            let bytes = header.file_range().map_or(Some(&[][..]), |range| object.get(range));
            sections.insert(name.into(), bytes.context("a section behind the end")?.into());
        }
    }
    Ok(sections)
}

/// Whether a report of `tidegate test` is about scenarios that have streams to cut.
fn has_cuts(report: &Value) -> bool {
    let scenarios = report["scenarios"].as_array();
    scenarios.into_iter().flatten().any(|scenario| !scenario["tried"].is_null())
}

impl Mutation {
    fn apply(&self, text: &str) -> String {
        [&text[..self.at.start], &self.by, &text[self.at.end..]].concat()
    }

    /// The line, and what it becomes.
    fn lines(&self, text: &str) -> (String, String) {
        let start = text[..self.at.start].rfind('\n').map_or(0, |end| end + 1);
        let end = text[self.at.end..].find('\n').map_or(text.len(), |end| self.at.end + end);
        let becomes = [&text[start..self.at.start], &self.by, &text[self.at.end..end]].concat();
        (text[start..end].trim().into(), becomes.trim().into())
    }

    /// Line and change, for people.
    fn shown(&self, text: &str) -> String {
        let line = text[..self.at.start].matches('\n').count();
        let source = text.lines().nth(line).unwrap_or_default().trim();
        format!("line {:3}: {} becomes {} in `{source}`", line + 1, &text[self.at.clone()], self.by)
    }
}

/// Every change of a source, with its place.
fn placed(text: &str) -> Vec<Placed> {
    let mut found: Vec<Placed> = Vec::new();
    for mutation in mutations(text) {
        let (line, becomes) = mutation.lines(text);
        let before = found.iter().filter(|before| before.line == line && before.becomes == becomes).count();
        found.push(Placed { mutation, line, becomes, nth: before + 1 });
    }
    found
}

/// Every comparison with another one in its place, and every whole number with the next one, outside of comments, strings and
/// lines that include something.
fn mutations(text: &str) -> Vec<Mutation> {
    const COMPARISONS: [(&str, &str); 6] = [
        (" <= ", " < "),
        (" >= ", " > "),
        (" < ", " <= "),
        (" > ", " >= "),
        (" == ", " != "),
        (" != ", " == "),
    ];
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(rest) = text.get(at..).filter(|rest| !rest.is_empty()) {
        let skipped = skipped(rest);
        if skipped > 0 {
            at += skipped;
            continue;
        }
        if let Some((from, by)) = COMPARISONS.iter().find(|(from, _)| rest.starts_with(from)) {
            found.push(Mutation { at: at..at + from.len(), by: (*by).into() });
        }
        let word =
            rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_alphanumeric() || c == '_').len();
        if let Some(by) = next(&rest[..word]) {
            found.push(Mutation { at: at..at + word, by });
        }
        at += word.max(rest.chars().next().map_or(1, char::len_utf8));
    }
    found
}

/// Bytes at the start of `rest` that are no code.
fn skipped(rest: &str) -> usize {
    let until = |end: &str| rest[1..].find(end).map_or(rest.len(), |found| found + 1 + end.len());
    if rest.starts_with("//") || rest.starts_with("#include") {
        return until("\n");
    }
    if rest.starts_with("/*") {
        return until("*/");
    }
    if let Some(inside) = rest.strip_prefix('"') {
        let mut escaped = false;
        let end = inside.find(|c| {
            let ends = c == '"' && !escaped;
            escaped = c == '\\' && !escaped;
            ends
        });
        return end.map_or(rest.len(), |end| end + 2);
    }
    // A character: 'x' or '\x'. A lifetime is no character.
    let mut quoted = rest.char_indices().skip(1);
    match (rest.starts_with('\''), quoted.next(), quoted.next(), quoted.next()) {
        (true, Some((_, '\\')), _, Some((at, '\''))) => at + 1,
        (true, Some(_), Some((at, '\'')), _) => at + 1,
        _ => 0,
    }
}

/// The number after the one that `word` is, written like it, with its suffix.
fn next(word: &str) -> Option<String> {
    if !word.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    let (prefix, digits, radix) = match word.strip_prefix("0x") {
        Some(digits) => ("0x", digits, 16),
        None => ("", word, 10),
    };
    let end = digits.find(|c: char| !c.is_digit(radix) && c != '_').unwrap_or(digits.len());
    let number = u64::from_str_radix(&digits[..end].replace('_', ""), radix).ok()?.checked_add(1)?;
    let suffix = &digits[end..];
    Some(if radix == 16 { format!("{prefix}{number:x}{suffix}") } else { format!("{number}{suffix}") })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(text: &str) -> Vec<String> {
        mutations(text).iter().map(|mutation| mutation.apply(text)).collect()
    }

    #[test]
    fn comparisons_and_numbers_are_changed_one_at_a_time() {
        assert_eq!(all("a < 2"), ["a <= 2", "a < 3"]);
        assert_eq!(all("x1 != 0xff"), ["x1 == 0xff", "x1 != 0x100"]);
        assert_eq!(all("n << 10u"), ["n << 11u"]);
        assert_eq!(all("1_000u32 >= n"), ["1001u32 >= n", "1_000u32 > n"]);
    }

    #[test]
    fn a_change_is_named_by_its_line_and_what_that_becomes() {
        let text = "a;\n\tif (b < 2) /* c */\n";
        let lines: Vec<_> = mutations(text).iter().map(|mutation| mutation.lines(text)).collect();
        let line = |becomes: &str| ("if (b < 2) /* c */".into(), becomes.into());
        assert_eq!(lines, [line("if (b <= 2) /* c */"), line("if (b < 3) /* c */")]);
    }

    #[test]
    fn of_lines_that_read_alike_all_are_meant_or_one() {
        let found = placed("a == b;\na == c;\n  a == b;\n");
        let about = |nth| {
            let (line, becomes) = ("a == b;".into(), "a != b;".into());
            let equal = Equal { line, becomes, nth, fate: Mutex::new(None) };
            found.iter().map(|placed| equal.is_about(placed)).collect::<Vec<_>>()
        };
        assert_eq!(about(None), [true, false, true]);
        assert_eq!(about(Some(1)), [true, false, false]);
        assert_eq!(about(Some(2)), [false, false, true]);
        assert_eq!(about(Some(3)), [false; 3]);
    }

    #[test]
    fn only_what_survives_is_rightly_said_to_be_equal() {
        let equal =
            |nth, fate| Equal { line: "a".into(), becomes: "b".into(), nth, fate: Mutex::new(fate) }.wrong();
        assert_eq!(equal(None, Some(Fate::Survived)), None);
        assert_eq!(equal(None, Some(Fate::None)), None);
        for (nth, fate, wrong) in [
            (
                None,
                Some(Fate::Caught),
                "equal.mutants: `a` becoming `b` makes a difference: a scenario noticed",
            ),
            (Some(2), None, "equal.mutants: `a` becoming `b`, place 2, is no change of the source"),
        ] {
            assert_eq!(equal(nth, fate).as_deref(), Some(wrong));
        }
    }

    #[test]
    fn what_only_reads_otherwise_is_the_same_object() {
        let folder = shell::root().join("target/mutants/substance");
        fs::create_dir_all(&folder).unwrap();
        let compiled = |returned: &str| {
            let (source, object) = (folder.join("a.c"), folder.join("a.o"));
            let text = format!(
                "__attribute__((section(\"tidegate/send\")))\nint a(void) {{ return {returned}; }}\n"
            );
            fs::write(&source, text).unwrap();
            programs::compile_c_with("clang-19", "-O2", &source, &object).unwrap();
            fs::read(object).unwrap()
        };
        let (two, same, three) = (compiled("2"), compiled("(_Bool)5 + 1"), compiled("3"));
        assert_ne!(two, same);
        assert_eq!(sections(&two).unwrap(), sections(&same).unwrap());
        assert_ne!(sections(&two).unwrap(), sections(&three).unwrap());
    }

    #[test]
    fn scenarios_of_packets_alone_have_no_cuts() {
        let packets = json!({"tried": null});
        assert!(!has_cuts(&json!({"scenarios": [packets, packets]})));
        assert!(has_cuts(&json!({"scenarios": [packets, {"tried": {"single": 3}}]})));
    }

    #[test]
    fn what_is_no_code_stays() {
        for text in
            ["// 1 < 2", "/* 1 */", "\"a\\\"1 == 2\"", "#include <a1.h>", "'1'", "'\\0'", "uint8_t x2"]
        {
            assert_eq!(all(text), [""; 0], "{text}");
        }
        assert_eq!(all("// 1\n2"), ["// 1\n3"]);
        assert_eq!(all("&'a 1"), ["&'a 2"]);
    }
}

//! Which lines and branches of a policy's source its scenarios ran: as text, for lcov, as HTML.
//!
//! What the machine counts are instructions; the debug information of the object says which line each came from. A line counts as
//! run when one of its instructions was, a branch has run both ways when its jump was taken and was not. Instructions that no run
//! can reach, by the verifier's proof, are left out. Only files of the policy's own folder are told of: neither the header nor
//! the SDK are the author's. What of them was inlined counts where the author's line calls it.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::fs;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::Serialize;
use tidegate_abi::insn::{class, jmp};
use tidegate_verifier::Proven;
use tidegate_vm::Visits;

use crate::error::Error;
use crate::object::{Object, Places, Program};

/// What was run, of every file.
#[derive(Clone, Debug, Default, Serialize, JsonSchema)]
pub struct Coverage {
    files: Vec<File>,
    /// Objects with a program of which no line is known to come from a file of the policy's folder: of it nothing can be told.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    unknown: Vec<PathBuf>,
}

/// What was run of a file.
#[derive(Clone, Debug, Serialize, JsonSchema)]
struct File {
    file: PathBuf,
    /// Lines that have instructions.
    lines: BTreeMap<u32, Line>,
}

/// What was run of a line.
#[derive(Clone, Debug, Default, Serialize, JsonSchema)]
struct Line {
    /// Times that the instruction of the line ran that ran most.
    runs: u64,
    branches: Vec<Branch>,
}

/// Where a conditional jump of a line went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
struct Branch {
    /// Times that it jumped.
    taken: u64,
    /// Times that it did not.
    not_taken: u64,
}

/// Why nothing is told of an object.
const UNKNOWN: &str = "no line is known to come from a file beside the scenarios; \
                       compile a source there with -g (clang) or -C debuginfo=2 (rustc)";

/// So many of so many.
#[derive(Clone, Copy, Default)]
struct Share {
    some: usize,
    all: usize,
}

impl Coverage {
    /// Adds what `visits` tells, by slot, of a program of the object at `path`. `folder` is the policy's.
    ///
    /// # Errors
    /// The object can't be read any more.
    pub(super) fn add(
        &mut self,
        path: &Path,
        object: &Object,
        program: &Program,
        visits: &[Visits],
        folder: &Path,
    ) -> Result<(), Error> {
        // One that was refused has not run.
        let Ok(verified) = crate::report::prove(object, program) else { return Ok(()) };
        let places = Places::read(path)?;
        let mut known = false;
        for (slot, (insn, seen)) in program.insns.iter().zip(visits).enumerate() {
            if !verified.proven(slot).contains(Proven::REACHED) {
                continue;
            }
            let mut places = places.of(program, slot).into_iter();
            let own = places.find_map(|place| Some((own(Path::new(&place.file), folder)?, place.line)));
            let Some((file, line)) = own else { continue };
            known = true;
            let at = self.files.iter().position(|known| known.file == file).unwrap_or_else(|| {
                self.files.push(File { file, lines: BTreeMap::new() });
                self.files.len() - 1
            });
            let entry = self.files[at].lines.entry(line).or_default();
            entry.runs = entry.runs.max(seen.runs);
            let jumps = matches!(insn.class(), class::JMP | class::JMP32);
            if jumps && !matches!(insn.opcode & 0xf0, jmp::JA | jmp::CALL | jmp::EXIT) {
                let not_taken = seen.runs.saturating_sub(seen.jumps);
                entry.branches.push(Branch { taken: seen.jumps, not_taken });
            }
        }
        if !known && !self.unknown.iter().any(|known| known == path) {
            self.unknown.push(path.into());
        }
        Ok(())
    }

    /// Writes what lcov, genhtml and most build servers read (`geninfo(1)`: "TRACEFILE FORMAT").
    pub(super) fn write_lcov(&self, path: &Path) -> Result<(), Error> {
        fs::write(path, self.lcov()).map_err(|error| Error::file("write", path, &error))
    }

    fn lcov(&self) -> String {
        let mut text = String::new();
        for File { file, lines } in &self.files {
            // Writing to a string can't fail.
            let _ = writeln!(text, "TN:\nSF:{}", file.display());
            for (number, line) in lines {
                for (block, branch) in line.branches.iter().enumerate() {
                    for (way, times) in [branch.taken, branch.not_taken].into_iter().enumerate() {
                        let times = if branch.runs() == 0 { "-".into() } else { times.to_string() };
                        let _ = writeln!(text, "BRDA:{number},{block},{way},{times}");
                    }
                }
            }
            let (lines_run, branches) = shares(lines);
            let _ = writeln!(text, "BRF:{}\nBRH:{}", branches.all, branches.some);
            for (number, line) in lines {
                let _ = writeln!(text, "DA:{number},{}", line.runs);
            }
            let _ = writeln!(text, "LF:{}\nLH:{}\nend_of_record", lines_run.all, lines_run.some);
        }
        text
    }

    /// Writes a page for each file, and one that leads to them, into `folder`.
    pub(super) fn write_html(&self, folder: &Path) -> Result<(), Error> {
        fs::create_dir_all(folder).map_err(|error| Error::file("make", folder, &error))?;
        let write = |name: &str, text: &str| {
            let path = folder.join(name);
            fs::write(&path, text).map_err(|error| Error::file("write", &path, &error))
        };
        let mut rows = String::new();
        for (number, file) in self.files.iter().enumerate() {
            let page = format!("{number}-{}.html", file.name());
            write(&page, &file.html()?)?;
            let (lines, branches) = shares(&file.lines);
            let name = escape(&file.file.display().to_string());
            let _ =
                writeln!(rows, "<tr><td><a href=\"{}\">{name}</a><td>{lines}<td>{branches}", escape(&page));
        }
        let mut unknown = String::new();
        for object in &self.unknown {
            let _ = writeln!(unknown, "<p>{}: {UNKNOWN}", escape(&object.display().to_string()));
        }
        let head = page("Coverage");
        write(
            "index.html",
            &format!("{head}<table><tr><th>file<th>lines<th>branches, each way\n{rows}</table>\n{unknown}"),
        )
    }
}

impl Branch {
    fn runs(self) -> u64 {
        self.taken + self.not_taken
    }
}

impl Line {
    /// What its branches did not do, in words.
    fn one_way(&self) -> Option<&'static str> {
        let ran = || self.branches.iter().filter(|branch| branch.runs() > 0);
        match (ran().any(|branch| branch.taken == 0), ran().any(|branch| branch.not_taken == 0)) {
            (false, false) => None,
            (true, false) => Some("never jumps"),
            (false, true) => Some("always jumps"),
            (true, true) => Some("some never jump, some always"),
        }
    }
}

impl File {
    fn name(&self) -> String {
        super::file_name(&self.file)
    }

    fn html(&self) -> Result<String, Error> {
        // What a compiler takes need not be UTF-8.
        let source = fs::read(&self.file).map_err(|error| Error::file("read", &self.file, &error))?;
        let source = String::from_utf8_lossy(&source);
        let (lines, branches) = shares(&self.lines);
        let mut text = page(&self.name());
        let _ = writeln!(text, "<p>lines {lines}, branches {branches} (each way counts)\n<pre>");
        for (number, code) in (1..).zip(source.lines()) {
            let (class, runs, note) = match self.lines.get(&number) {
                None => ("", String::new(), None),
                Some(line) if line.runs == 0 => ("no", "0".into(), None),
                Some(line) => (
                    if line.one_way().is_some() { "part" } else { "yes" },
                    line.runs.to_string(),
                    line.one_way(),
                ),
            };
            let note = note.map_or_else(String::new, |note| format!("  <i>{note}</i>"));
            let _ = writeln!(
                text,
                "<span class=\"{class}\">{number:>5} {runs:>12}  {}</span>{note}",
                escape(code)
            );
        }
        text += "</pre>\n";
        Ok(text)
    }
}

/// The lines that ran, and the ways that branches went.
fn shares(lines: &BTreeMap<u32, Line>) -> (Share, Share) {
    let run = Share { some: lines.values().filter(|line| line.runs > 0).count(), all: lines.len() };
    let mut ways = Share::default();
    for branch in lines.values().flat_map(|line| &line.branches) {
        ways.all += 2;
        ways.some += usize::from(branch.taken > 0) + usize::from(branch.not_taken > 0);
    }
    (run, ways)
}

/// The file of the policy's folder that a compiler called `file`, if it is one.
fn own(file: &Path, folder: &Path) -> Option<PathBuf> {
    let here = folder.join(file.file_name()?);
    let is_here = here.is_file()
        && (file.is_relative() || file.canonicalize().ok() == here.canonicalize().ok() || !file.exists());
    is_here.then_some(here)
}

fn page(title: &str) -> String {
    let title = escape(title);
    format!(
        "<!doctype html><meta charset=\"utf-8\"><title>{title}</title>\n<style>body{{font:14px sans-serif}}\
         pre{{font:13px monospace}}td,th{{padding:2px 12px;text-align:left}}.yes{{background:#dfd}}.no{{background:#fcc}}\
         .part{{background:#ffc}}i{{color:#888}}</style>\n<h1>{title}</h1>\n"
    )
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = if self.all == 0 { 100.0 } else { 100.0 * self.some as f64 / self.all as f64 };
        write!(f, "{} of {} ({percent:.1} %)", self.some, self.all)
    }
}

impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for File { file, lines } in &self.files {
            let (run, ways) = shares(lines);
            writeln!(f, "{}: lines {run}, branches {ways}", file.display())?;
            let missed: Vec<_> = lines
                .iter()
                .filter(|(_, line)| line.runs == 0)
                .map(|(number, _)| number.to_string())
                .collect();
            if !missed.is_empty() {
                writeln!(f, "  never run: {}", missed.join(", "))?;
            }
            for (number, line) in lines {
                if let Some(note) = line.one_way() {
                    writeln!(f, "  {number}: {note}")?;
                }
            }
        }
        for object in &self.unknown {
            writeln!(f, "{}: {UNKNOWN}", object.display())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::{env, process};

    use super::*;

    #[test]
    fn a_page_shows_a_source_of_any_bytes_as_it_is() {
        let path = env::temp_dir().join(format!("tidegate-page-{}.c", process::id()));
        fs::write(&path, b"/* caf\xe9 */\nif (a < b && \"c\")\n").expect("a file");
        let branches = vec![Branch { taken: 0, not_taken: 3 }];
        let file = File { file: path.clone(), lines: BTreeMap::from([(2, Line { runs: 3, branches })]) };
        let page = file.html();
        fs::remove_file(&path).expect("it is there");
        let page = page.expect("a page");
        let line = "<span class=\"part\">    2            3  if (a &lt; b &amp;&amp; &quot;c&quot;)</span>  <i>never jumps</i>";
        assert!(page.contains(line), "{page}");
        let lcov = Coverage { files: vec![file], unknown: Vec::new() }.lcov();
        let counts = "BRDA:2,0,0,0\nBRDA:2,0,1,3\nBRF:2\nBRH:1\nDA:2,3\nLF:1\nLH:1\nend_of_record\n";
        assert!(lcov.ends_with(counts), "{lcov}");
    }
}

//! `--bless`: what came out becomes what is expected, where that is the same under every cut.
//!
//! A change is tried before it is written: the file is changed in memory, read again, and tested with every build of the policy.
//! What passes is written; what does not stays as it was, and fails.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::Serialize;

use super::check::Cause;
use super::{Failure, Job, Tested};
use crate::error::Error;
use crate::scenario::Policy;
use crate::scenario::edit::{Change, Editor};
use crate::tally::count;

/// How often a scenario is changed until it passes: a connection that is open now may have delivered something else, too.
const ROUNDS: usize = 6;

/// A scenario file whose expectations were changed.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub(super) struct Blessed {
    file: PathBuf,
    /// How many expectations were changed.
    expectations: usize,
}

/// What was changed of a scenario.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub(super) struct Blessing {
    /// What was not as expected.
    wrong: Vec<String>,
    /// The lines of the file that were changed.
    changes: Vec<Hunk>,
}

/// Lines that were changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Hunk {
    /// The first of them, from 1, as the file was.
    pub line: usize,
    /// As they were.
    pub was: Vec<String>,
    /// As they are.
    pub now: Vec<String>,
}

impl fmt::Display for Blessed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "blessed: {} in {}", count(self.expectations, "expectation"), self.file.display())
    }
}

impl Blessing {
    /// The lines about it.
    pub(super) fn at(&self, tested: &Tested) -> String {
        let mut text = String::new();
        for wrong in &self.wrong {
            text += &format!("          {}\n", wrong.replace('\n', "\n          "));
        }
        for Hunk { line, was, now } in &self.changes {
            text += &format!("        {}:{line}\n", tested.file.display());
            was.iter().for_each(|line| text += &format!("          - {line}\n"));
            now.iter().for_each(|line| text += &format!("          + {line}\n"));
        }
        text
    }
}

/// Changes what the scenarios of `jobs` expect that failed by nothing else; `scenarios` are their results, as they are then.
pub(super) fn all(jobs: &[Job<'_>], scenarios: &mut [Tested]) -> Result<Vec<Blessed>, Error> {
    // By file and place in it: one scenario has a job for each build of its policy.
    let mut failed: BTreeMap<&Path, BTreeMap<usize, Vec<usize>>> = BTreeMap::new();
    for (number, job) in jobs.iter().enumerate() {
        failed.entry(&job.policy.path).or_default().entry(job.at).or_default().push(number);
    }
    let mut blessed = Vec::new();
    for (path, by_scenario) in failed {
        let old = fs::read_to_string(path).map_err(|error| Error::file("read", path, &error))?;
        let folder = path.parent().unwrap_or(Path::new("."));
        let mut editor = Editor::new(&old, folder);
        for numbers in by_scenario.values() {
            let first = numbers
                .iter()
                .find_map(|number| scenarios[*number].failure.clone().map(|failure| (*number, failure)));
            let Some((number, failure)) = first else { continue };
            let builds: Vec<_> = numbers.iter().map(|number| jobs[*number]).collect();
            let tried = match &editor {
                Some(editor) => one(&builds, editor, failure.clone())?,
                None => Err("the file has parts that can't be written again as they are".into()),
            };
            match tried {
                Ok((changed, results)) => {
                    let before = editor.as_ref().map_or(String::new(), Editor::text);
                    let changes = diff(&before, &changed.text());
                    editor = Some(changed);
                    for (at, tested) in numbers.iter().zip(results) {
                        scenarios[*at] = tested;
                    }
                    scenarios[number].blessing = Some(Blessing { wrong: failure.wrong, changes });
                }
                Err(why) => {
                    for number in numbers {
                        if let Some(failure) = &mut scenarios[*number].failure {
                            failure.not_blessed = Some(why.clone());
                        }
                    }
                }
            }
        }
        let Some(editor) = editor.filter(|editor| editor.expectations() > 0) else { continue };
        fs::write(path, editor.text()).map_err(|error| Error::file("write", path, &error))?;
        blessed.push(Blessed { file: path.into(), expectations: editor.expectations() });
    }
    Ok(blessed)
}

/// The file with what makes one scenario pass with all builds of its policy, and their results; or why there is no such.
pub(super) fn one(
    builds: &[Job<'_>],
    editor: &Editor,
    failure: Failure,
) -> Result<Result<(Editor, Vec<Tested>), String>, Error> {
    let Some(job) = builds.first() else { return Ok(Err("nothing was run".into())) };
    let mut editor = editor.clone();
    let mut failure = failure;
    for _ in 0..ROUNDS {
        if failure.instead.is_empty() {
            return Ok(Err(why_not(&failure)));
        }
        let at_first = failure.instead.iter().any(|change| matches!(change, Change::Connection { .. }));
        for change in &failure.instead {
            // What must be delivered is another thing when the connection is reset, or no longer.
            if at_first && matches!(change, Change::Whole(..) | Change::Texts { .. }) {
                continue;
            }
            if editor.apply(job.at, change).is_none() {
                return Ok(Err("the file does not say it where it could be changed".into()));
            }
        }
        let policy = Policy::parse(&editor.text(), &job.policy.path, job.options.objects.as_deref())?;
        let Some(scenario) = policy.scenarios.get(job.at) else { break };
        let results = super::in_parallel(builds, |build| {
            Job { policy: &policy, scenario, seen: None, ..*build }.test()
        });
        match results.iter().find_map(|tested| tested.failure.clone()) {
            None => return Ok(Ok((editor, results))),
            Some(next) => failure = next,
        }
    }
    Ok(Err("its runs, or the builds of the policy, do not agree about what comes out".into()))
}

fn why_not(failure: &Failure) -> String {
    let wrong = failure.wrong.first().map_or("", String::as_str);
    match failure.cause {
        Cause::Expectation | Cause::Cuts => {
            format!("what comes out depends on the cut; {}: {wrong}", failure.seen())
        }
        Cause::Fault => "runs of the policy fail".into(),
        Cause::Contract => "the contract with the filter engine is broken".into(),
        Cause::Setup => "the policy can't be run".into(),
    }
}

/// The lines that tell `new` from `old`.
pub fn diff(old: &str, new: &str) -> Vec<Hunk> {
    let (old, new): (Vec<_>, Vec<_>) = (old.lines().collect(), new.lines().collect());
    let same = old.iter().zip(&new).take_while(|(old, new)| old == new).count();
    let (a, b) = (&old[same..], &new[same..]);
    let behind = a.iter().rev().zip(b.iter().rev()).take_while(|(old, new)| old == new).count();
    let (a, b) = (&a[..a.len() - behind], &b[..b.len() - behind]);
    // The longest common subsequence, from each pair of places on.
    let mut longest = vec![vec![0_u32; b.len() + 1]; a.len() + 1];
    for (i, one) in a.iter().enumerate().rev() {
        for (j, other) in b.iter().enumerate().rev() {
            longest[i][j] = if one == other {
                longest[i + 1][j + 1] + 1
            } else {
                longest[i + 1][j].max(longest[i][j + 1])
            };
        }
    }
    let mut hunks: Vec<Hunk> = Vec::new();
    let (mut i, mut j, mut open) = (0, 0, false);
    while i < a.len() || j < b.len() {
        if i < a.len() && j < b.len() && a[i] == b[j] {
            (i, j, open) = (i + 1, j + 1, false);
            continue;
        }
        if !std::mem::replace(&mut open, true) {
            hunks.push(Hunk { line: same + i + 1, was: Vec::new(), now: Vec::new() });
        }
        let Some(hunk) = hunks.last_mut() else { break };
        if i < a.len() && (j == b.len() || longest[i + 1][j] >= longest[i][j + 1]) {
            hunk.was.push(a[i].into());
            i += 1;
        } else {
            hunk.now.push(b[j].into());
            j += 1;
        }
    }
    hunks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_diff_has_the_lines_that_changed_with_their_numbers() {
        let hunk = |line, was: &[&str], now: &[&str]| {
            let owned = |lines: &[&str]| lines.iter().map(ToString::to_string).collect();
            Hunk { line, was: owned(was), now: owned(now) }
        };
        assert_eq!(diff("a\nb\nc\n", "a\nb\nc\n"), []);
        assert_eq!(diff("a\nb\nc\nd\n", "a\nx\nc\ny\nd\n"), [hunk(2, &["b"], &["x"]), hunk(4, &[], &["y"])]);
        assert_eq!(diff("a\n", "a\nb\n"), [hunk(2, &[], &["b"])]);
        assert_eq!(diff("a\nb\n", "b\n"), [hunk(1, &["a"], &[])]);
    }
}

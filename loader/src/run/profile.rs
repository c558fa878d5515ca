//! `tidegate prog profile`: where programs spend their instructions over a capture, by source line and by verdict.
//!
//! The machine that traces counts instructions of the bytecode, as a budget does. What a run took is what was added while a
//! piece of the capture was shown; when several runs judged a piece at once, their instructions can't be told apart, and they
//! count for the lines only.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::Serialize;
use tidegate_abi::Verdict;
use tidegate_vm::Visits;

use super::{Options, Policy};
use crate::cli;
use crate::error::{Error, Exit};
use crate::host::{Machine, Session};
use crate::object::{Object, Program};
use crate::tally::Tally;

/// What the instructions of a run that failed are told under, beside the verdicts.
const FAILED: &str = "failed";

/// What `tidegate prog profile` was asked to do.
#[derive(clap::Args, Clone, Debug)]
pub struct ProfileOptions {
    /// The object, and how its programs are set up
    #[command(flatten)]
    pub policy: Policy,
    /// The capture: pcap or pcapng
    #[arg(long, value_name = "IN")]
    pub pcap: PathBuf,
    /// Address of this machine, instead of whoever opened a connection or spoke first
    #[arg(long, value_name = "ADDR")]
    pub local: Vec<IpAddr>,
}

/// Where programs spent their instructions.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Profile {
    object: PathBuf,
    capture: PathBuf,
    /// Runs of all programs.
    runs: u64,
    /// Runs that judged a piece together with others, and are in no row of `verdicts`.
    runs_together: u64,
    /// Instructions per run, by verdict; `failed`: of runs that gave none.
    verdicts: BTreeMap<&'static str, Spread>,
    programs: Vec<Profiled>,
}

/// How many instructions runs took.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
struct Spread {
    runs: usize,
    p50: u64,
    p99: u64,
    max: u64,
}

/// Where one program spent its instructions.
#[derive(Clone, Debug, Serialize, JsonSchema)]
struct Profiled {
    program: String,
    instructions: u64,
    /// Those of which the object does not say where they came from.
    without_line: u64,
    /// The lines that ran, those with the most instructions first.
    lines: Vec<Row>,
}

/// What one line took.
#[derive(Clone, Debug, Serialize, JsonSchema)]
struct Row {
    file: String,
    line: u32,
    /// The line as it was compiled; empty when the object does not have it.
    text: String,
    instructions: u64,
    /// Of all instructions of the program, in percent.
    share: f64,
}

/// Does it.
///
/// # Errors
/// Input that cannot be used.
pub fn profile(options: &ProfileOptions) -> Result<Profile, Error> {
    let ProfileOptions { policy, pcap, local } = options.clone();
    let options = Options { policy, pcap, pcap_out: None, local };
    let object = Object::read(&options.policy.file)?;
    let mut machine = Machine::traced(&object, &options.policy.setup()?)?;
    let mut watch = Watch::default();
    super::over(&mut machine, &options, Some(&mut watch))?;
    let programs = machine.visits()?.into_iter().filter_map(|(name, visits)| {
        let program = object.program(&name)?;
        Some(Profiled::new(program, &visits))
    });
    Ok(Profile {
        object: options.policy.file,
        capture: options.pcap,
        runs: watch.runs,
        runs_together: watch.together,
        programs: programs.collect(),
        verdicts: watch.took.into_iter().map(|(verdict, took)| (verdict, Spread::of(took))).collect(),
    })
}

/// What is gathered while a capture is shown.
#[derive(Default)]
pub(super) struct Watch {
    /// Instructions of all runs so far.
    instructions: u64,
    runs: u64,
    together: u64,
    /// What each run took, by verdict.
    took: BTreeMap<&'static str, Vec<u64>>,
}

impl Watch {
    /// A piece was shown: the programs of `session` have done what `tally` says.
    pub(super) fn shown(&mut self, session: &Session<'_>, tally: &Tally) -> Result<(), Error> {
        if tally.runs == 0 {
            return Ok(());
        }
        let all = session.visits()?.iter().map(|(_, visits)| total(visits)).sum();
        let took = all - std::mem::replace(&mut self.instructions, all);
        self.runs += tally.runs;
        if tally.runs > 1 {
            self.together += tally.runs;
            return Ok(());
        }
        let mut given = Verdict::ALL.iter().zip(tally.verdicts).filter(|(_, count)| *count > 0);
        let verdict =
            given.next().filter(|_| tally.errors == 0).map_or(FAILED, |(verdict, _)| verdict.name());
        self.took.entry(verdict).or_default().push(took);
        Ok(())
    }
}

fn total(visits: &[Visits]) -> u64 {
    visits.iter().map(|seen| seen.runs).sum()
}

impl Spread {
    /// Of at least one run.
    fn of(mut took: Vec<u64>) -> Self {
        took.sort_unstable();
        // The least number that so many percent of the runs do not exceed.
        let percentile = |percent: usize| {
            let rank = (took.len() * percent).div_ceil(100);
            took.get(rank.saturating_sub(1)).copied().unwrap_or(0)
        };
        Self { runs: took.len(), p50: percentile(50), p99: percentile(99), max: percentile(100) }
    }
}

impl Profiled {
    /// `visits` is by slot.
    fn new(program: &Program, visits: &[Visits]) -> Self {
        let instructions = total(visits);
        let mut without_line = 0;
        let mut lines: BTreeMap<(Arc<str>, u32), (u64, Arc<str>)> = BTreeMap::new();
        for (slot, seen) in visits.iter().enumerate().filter(|(_, seen)| seen.runs > 0) {
            match program.line(slot) {
                None => without_line += seen.runs,
                Some(line) => {
                    let text = || (0, Arc::clone(&line.text));
                    lines.entry((Arc::clone(&line.file), line.line)).or_insert_with(text).0 += seen.runs;
                }
            }
        }
        let mut lines: Vec<_> = lines
            .into_iter()
            .map(|((file, line), (count, text))| Row {
                file: file.to_string(),
                line,
                text: text.trim().into(),
                instructions: count,
                share: 100.0 * count as f64 / instructions as f64,
            })
            .collect();
        // Stable: lines that took as much stay in the order of the source.
        lines.sort_by_key(|row| std::cmp::Reverse(row.instructions));
        Self { program: program.name.clone(), instructions, without_line, lines }
    }
}

impl cli::Report for Profile {
    fn exit(&self) -> Exit {
        if self.verdicts.contains_key(FAILED) { Exit::Partial } else { Exit::Ok }
    }
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.runs == 0 {
            return writeln!(f, "the capture has nothing that these programs are shown");
        }
        writeln!(f, "{:>20} {:>8} {:>8} {:>8} {:>8}", "instructions per run", "runs", "p50", "p99", "max")?;
        for (verdict, Spread { runs, p50, p99, max }) in &self.verdicts {
            writeln!(f, "{verdict:>20} {runs:>8} {p50:>8} {p99:>8} {max:>8}")?;
        }
        if self.runs_together > 0 {
            writeln!(
                f,
                "{} of {} runs judged a piece together with others: they count for the lines only",
                self.runs_together, self.runs
            )?;
        }
        for program in &self.programs {
            writeln!(f, "\n{}: {} instructions", program.program, program.instructions)?;
            for Row { file, line, text, instructions, share } in &program.lines {
                let place = format!("{file}:{line}");
                writeln!(f, "{share:>6.1} % {instructions:>10}  {place:<24} {text}")?;
            }
            if program.without_line > 0 {
                writeln!(f, "         {:>10}  no line is known", program.without_line)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_the_least_that_so_many_do_not_exceed() {
        assert_eq!(Spread::of(vec![7]), Spread { runs: 1, p50: 7, p99: 7, max: 7 });
        assert_eq!(Spread::of(vec![4, 1, 3, 2]), Spread { runs: 4, p50: 2, p99: 4, max: 4 });
        let hundred = Spread::of((1..=100).rev().collect());
        assert_eq!(hundred, Spread { runs: 100, p50: 50, p99: 99, max: 100 });
    }
}

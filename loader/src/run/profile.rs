//! `tidegate prog profile`: where programs spend their instructions over a capture or the scenarios of a file, by source line and
//! by verdict.
//!
//! The machine that traces counts instructions of the bytecode, as a budget does. What a run took is what was added while a
//! piece of the traffic was shown; when several runs judged a piece at once, their instructions can't be told apart, and they
//! count for the lines only.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::Serialize;
use tidegate_abi::Verdict;
use tidegate_vm::Visits;

use super::{Options, Policy};
use crate::cli;
use crate::error::{Error, Exit};
use crate::host::{self, Config, Machine, Session, Setup};
use crate::object::{Object, Program};
use crate::scenario::{self, Scenario, Traffic};
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
    #[arg(long, value_name = "IN", required_unless_present = "scenario")]
    pub pcap: Option<PathBuf>,
    /// A scenario file in place of a capture: what its scenarios show, as they are cut there, with its programs, maps, globals and
    /// on_error; what is typed here goes over its programs, maps and globals
    #[arg(long, value_name = "FILE", conflicts_with = "pcap")]
    pub scenario: Option<PathBuf>,
    /// Only scenarios whose name has this text in it
    #[arg(long, value_name = "TEXT", requires = "scenario")]
    pub name: Option<String>,
    /// Address of this machine, instead of whoever opened a connection or spoke first
    #[arg(long, value_name = "ADDR", conflicts_with = "scenario")]
    pub local: Vec<IpAddr>,
}

/// Where programs spent their instructions.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Profile {
    object: PathBuf,
    /// What was shown, if it was a capture.
    capture: Option<PathBuf>,
    /// What was shown, if it was a scenario file.
    scenario: Option<PathBuf>,
    /// How many scenarios of it.
    scenarios: usize,
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
    let ProfileOptions { policy, pcap, scenario, name, local } = options.clone();
    let object = Object::read(&policy.file)?;
    let mut watch = Watch::default();
    let mut scenarios = 0;
    match (&pcap, &scenario) {
        (Some(pcap), _) => {
            let options = Options {
                policy: policy.clone(),
                pcap: pcap.clone(),
                pcap_out: None,
                local,
                repeat: NonZeroU32::MIN,
            };
            let mut machine = Machine::traced(&object, &policy.setup()?)?;
            super::over(&mut machine, &options, Some(&mut watch))?;
            watch.end(&machine)?;
        }
        (None, Some(file)) => {
            let read = scenario::Policy::read_for(file, &policy.file)?;
            let over = policy.setup()?;
            let wanted = name.as_deref().unwrap_or_default();
            for scenario in read.scenarios.iter().filter(|scenario| scenario.name.contains(wanted)) {
                let mut globals = scenario.globals.clone();
                globals.extend(over.globals.clone());
                let setup = Setup {
                    programs: if over.programs.is_empty() { &read.programs } else { &over.programs }.clone(),
                    on_error: read.on_error,
                    maps: scenario::merged(&scenario.maps, &over.maps),
                    globals,
                    grants: None,
                };
                let mut machine = Machine::traced(&object, &setup)?;
                watch.scenario(&mut machine, scenario)?;
                watch.end(&machine)?;
                scenarios += 1;
            }
            if scenarios == 0 {
                let message = format!("{} has no scenario with `{wanted}` in its name", file.display());
                return Err(Error::new("scenario-none", Exit::NotFound, message)
                    .with_help("`tidegate test FILE --list` names them"));
            }
        }
        (None, None) => {
            return Err(Error::usage("profile-traffic", "there is nothing to show to the programs")
                .with_help("name a capture, --pcap IN, or a scenario file, --scenario FILE"));
        }
    }
    let programs = watch.visits.iter().filter_map(|(name, visits)| {
        let program = object.program(name)?;
        Some(Profiled::new(program, visits))
    });
    Ok(Profile {
        object: policy.file,
        capture: pcap,
        scenario,
        scenarios,
        runs: watch.runs,
        runs_together: watch.together,
        programs: programs.collect(),
        verdicts: watch.took.into_iter().map(|(verdict, took)| (verdict, Spread::of(took))).collect(),
    })
}

/// What is gathered while traffic is shown.
#[derive(Default)]
pub(super) struct Watch {
    /// Instructions of all runs of the machine that is shown it, so far.
    instructions: u64,
    /// What ran of each program on the machines of before, by slot.
    visits: BTreeMap<String, Vec<Visits>>,
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

    /// The machine is shown no more.
    fn end(&mut self, machine: &Machine) -> Result<(), Error> {
        self.instructions = 0;
        for (name, visits) in machine.visits()? {
            let sum = self.visits.entry(name).or_default();
            sum.resize(visits.len(), Visits::default());
            for (sum, visits) in sum.iter_mut().zip(visits) {
                sum.runs += visits.runs;
                sum.jumps += visits.jumps;
            }
        }
        Ok(())
    }

    /// Shows what a scenario shows, as it is cut there.
    fn scenario(&mut self, machine: &mut Machine, scenario: &Scenario) -> Result<(), Error> {
        for traffic in &scenario.traffic {
            machine.reset()?;
            let mut session = machine.session(Config { trace_length: 0, ..Config::default() })?;
            match traffic {
                Traffic::Stream(stream) => {
                    let flow = session.open_as(stream, stream.local, stream.remote);
                    for step in &stream.steps {
                        session.show(flow, step);
                        session.settle();
                        self.seen(&mut session)?;
                    }
                    session.close(flow);
                }
                Traffic::Packets(packets) => {
                    for packet in packets {
                        host::pass_time(packet.after);
                        session.send(packet.local, packet.remote, packet.transport, &packet.payload);
                        session.settle();
                        self.seen(&mut session)?;
                    }
                }
            }
            self.seen(&mut session)?;
            // What it says of the contract, `tidegate test` says.
            let _ = session.end();
        }
        Ok(())
    }

    fn seen(&mut self, session: &mut Session<'_>) -> Result<(), Error> {
        let tally = session.tally()?;
        self.shown(session, &tally)
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
            return writeln!(f, "there is nothing in it that these programs are shown");
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

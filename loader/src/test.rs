//! Runs the scenarios of policies: each build of a policy, each scenario, a stream under every cut.

mod bless;
mod check;
mod coverage;
pub mod cuts;
mod junit;
mod record;
mod sarif;
mod witness;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use schemars::JsonSchema;
use serde::Serialize;
use tidegate_vm::Visits;

use crate::capture::Transport;
use crate::cli;
use crate::error::{Error, Exit};
use crate::flows::Direction;
use crate::host::{self, Config, Machine, Sent, Setup};
use crate::object::Object;
use crate::progress::Progress;
use crate::scenario::edit::{Became, Change};
use crate::scenario::{Fate, PacketStep, Policy, Scenario, Stream, Traffic};
use crate::tally::count;
use bless::{Blessed, Blessing};
pub use bless::{Hunk, diff};
use check::{Astray, Cause, Outcome, Wrong};
pub use coverage::Coverage;
use cuts::{Cuts, Dice, Script, Tried};
use record::Recorded;
pub use record::Wanted;
use witness::Witness;

/// What `tidegate test` was asked to do.
#[derive(clap::Args, Clone, Debug)]
pub struct Options {
    /// Scenario files (loader/SCENARIOS.md tells how they are written), or folders with scenario files in them
    #[arg(required_unless_present = "capture")]
    pub paths: Vec<PathBuf>,
    /// Folder with the compiled policies, instead of target/programs above each file
    #[arg(long, value_name = "DIR")]
    pub objects: Option<PathBuf>,
    /// Seed of every random choice: cuts, memory layouts, order of completions
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Runs of each stream scenario under different cuts; more of them try more
    #[arg(long, default_value_t = 1000)]
    pub runs: usize,
    /// Only scenarios whose name has this text in it
    #[arg(long, value_name = "TEXT")]
    pub filter: Option<String>,
    /// Only say which scenarios there are
    #[arg(long)]
    pub list: bool,
    /// What is made of a capture
    #[command(flatten)]
    pub record: Wanted,
    /// Where something else comes out than a scenario expects, show it and write it into the scenario file as what is expected;
    /// only what is the same under every cut, and never a run that failed
    #[arg(long, conflicts_with = "list")]
    pub bless: bool,
    /// Also write the result as JUnit XML, which build servers show
    #[arg(long, value_name = "FILE", conflicts_with = "list")]
    pub junit: Option<PathBuf>,
    /// Also write what failed as a SARIF 2.1.0 log, which editors and code hosts show beside the scenario
    #[arg(long, value_name = "FILE", conflicts_with = "list")]
    pub sarif: Option<PathBuf>,
    /// Tell which lines and branches of the sources were run, and which were not
    #[arg(long, conflicts_with = "list")]
    pub coverage: bool,
    /// Write it as lcov's tracefile, which editors and build servers read
    #[arg(long, value_name = "FILE", conflicts_with = "list")]
    pub lcov: Option<PathBuf>,
    /// Write it as pages for a browser
    #[arg(long, value_name = "DIR", conflicts_with = "list")]
    pub html: Option<PathBuf>,
}

impl Options {
    fn covers(&self) -> bool {
        self.coverage || self.lcov.is_some() || self.html.is_some()
    }

    fn chooses(&self, scenario: &Scenario) -> bool {
        self.filter.as_ref().is_none_or(|text| scenario.name.contains(text.as_str()))
    }
}

/// What came of it.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Report {
    passed: usize,
    failed: usize,
    runs: usize,
    seed: u64,
    seconds: f64,
    /// Whether they were only listed.
    listed: bool,
    scenarios: Vec<Tested>,
    /// Scenario files whose expectations were changed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    blessed: Vec<Blessed>,
    /// What was recorded, if that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    recorded: Option<Recorded>,
    /// What was run of the sources, if that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    coverage: Option<Coverage>,
}

/// One scenario with one build of its policy.
#[derive(Clone, Debug, Serialize, JsonSchema)]
struct Tested {
    file: PathBuf,
    line: usize,
    object: PathBuf,
    scenario: String,
    /// Null where it was not run, but listed.
    passed: Option<bool>,
    runs: usize,
    /// Time that its runs took.
    seconds: f64,
    /// Of a stream that passed under every cut.
    tried: Option<Tried>,
    failure: Option<Failure>,
    /// What its file expects now, so that it passes.
    #[serde(skip_serializing_if = "Option::is_none")]
    blessing: Option<Blessing>,
}

impl Tested {
    fn passed(&self) -> bool {
        self.passed == Some(true)
    }
}

/// Why a scenario failed, in the smallest run that shows it.
#[derive(Clone, Debug, Serialize, JsonSchema)]
struct Failure {
    /// What kind of thing is wrong.
    cause: Cause,
    /// The connection of a capture.
    connection: String,
    /// What is wrong, in words.
    wrong: Vec<String>,
    /// The fewest cuts that show it; none: the given ones.
    cuts: Option<Cuts>,
    /// Why its expectations were not changed, when that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    not_blessed: Option<String>,
    /// What would have to be expected instead; nothing when that would not make it right.
    #[serde(skip)]
    instead: Vec<Change>,
}

impl cli::Report for Report {
    fn exit(&self) -> Exit {
        if self.failed > 0 { Exit::Partial } else { Exit::Ok }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(recorded) = self.recorded.as_ref().filter(|recorded| recorded.is_printed()) {
            return recorded.fmt(f);
        }
        let mut heading = None;
        for tested in &self.scenarios {
            if heading != Some((&tested.file, &tested.object)) {
                heading = Some((&tested.file, &tested.object));
                writeln!(f, "{} with {}", tested.file.display(), file_name(&tested.object))?;
            }
            if self.listed {
                writeln!(f, "  {:4}  {}", tested.line, tested.scenario)?;
                continue;
            }
            let word = match (&tested.blessing, tested.passed) {
                (Some(_), _) => "now ",
                (None, Some(false)) => "FAIL",
                (None, _) => "ok  ",
            };
            write!(f, "  {word}  {}", tested.scenario)?;
            match &tested.tried {
                Some(tried) => writeln!(f, "  ({}: {tried})", count(tested.runs, "run"))?,
                None => writeln!(f, "  ({})", count(tested.runs, "run"))?,
            }
            if let Some(blessing) = &tested.blessing {
                write!(f, "{}", blessing.at(tested))?;
            }
            if let Some(failure) = &tested.failure {
                write!(f, "{}", failure.at(tested))?;
            }
        }
        if self.listed {
            return writeln!(f, "{}", count(self.scenarios.len(), "scenario"));
        }
        if let Some(coverage) = &self.coverage {
            write!(f, "{coverage}")?;
        }
        for blessed in &self.blessed {
            writeln!(f, "{blessed}")?;
        }
        if let Some(recorded) = &self.recorded {
            write!(f, "{recorded}")?;
        }
        let per_second = self.runs as f64 / self.seconds.max(0.001);
        let result = if self.failed == 0 { "ok" } else { "FAILED" };
        writeln!(
            f,
            "{result}: {} passed, {} failed; {} with seed {}, {per_second:.0} a second",
            self.passed,
            self.failed,
            count(self.runs, "run"),
            self.seed
        )
    }
}

impl fmt::Display for Tried {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let share = |tried: usize, all: usize, what: &str| {
            if tried == all { format!("every {what}") } else { format!("{tried} of {all} {what}s") }
        };
        write!(
            f,
            "{}, {}",
            share(self.single, self.of_single, "cut"),
            share(self.pairs, self.of_pairs, "pair")
        )?;
        if self.random > 0 {
            write!(f, ", {} random", self.random)?;
        }
        if self.bytewise { write!(f, ", byte by byte") } else { Ok(()) }
    }
}

impl Failure {
    /// In the smallest run that shows it: under `cuts`, or the given ones.
    fn new(connection: &str, wrong: Vec<Wrong>, cuts: Option<Cuts>) -> Self {
        let gravest = wrong.iter().map(|wrong| wrong.cause).max().unwrap_or(Cause::Expectation);
        let by_cuts = cuts.is_some() && gravest == Cause::Expectation;
        let instead = wrong.iter().map(|wrong| wrong.instead.clone()).collect::<Option<Vec<_>>>();
        Self {
            cause: if by_cuts { Cause::Cuts } else { gravest },
            connection: connection.into(),
            wrong: wrong.into_iter().map(|wrong| wrong.text).collect(),
            instead: if cuts.is_none() { instead.unwrap_or_default() } else { Vec::new() },
            not_blessed: None,
            cuts,
        }
    }

    /// Where it is seen: the connection, and the cuts.
    fn seen(&self) -> String {
        let connection =
            if self.connection.is_empty() { String::new() } else { format!("{}, ", self.connection) };
        let cuts = match &self.cuts {
            None => "as given".into(),
            Some(Cuts(places)) if places.is_empty() => "in one piece".into(),
            Some(Cuts(places)) => {
                let shown: Vec<_> = places.iter().take(12).map(ToString::to_string).collect();
                let more = if places.len() > 12 {
                    format!(" and {} more", places.len() - 12)
                } else {
                    String::new()
                };
                format!("cut at {}{more}", shown.join(", "))
            }
        };
        connection + &cuts
    }

    /// The lines about it.
    fn at(&self, tested: &Tested) -> String {
        let mut text = format!("        {}:{}: {}\n", tested.file.display(), tested.line, self.seen());
        for wrong in &self.wrong {
            text += &format!("          {}\n", wrong.replace('\n', "\n          "));
        }
        if let Some(why) = &self.not_blessed {
            text += &format!("          not blessed: {why}\n");
        }
        text
    }
}

/// Does it.
///
/// # Errors
/// A file that can't be used. A scenario that fails is no error but a result.
pub fn run(options: &Options) -> Result<Report, Error> {
    run_and_tell(options, &Progress::default())
}

/// Does it; `progress` is told how far it is.
///
/// # Errors
/// As [`run`]'s.
pub fn run_and_tell(options: &Options, progress: &Progress) -> Result<Report, Error> {
    let start = Instant::now();
    if let Some(capture) = &options.record.capture {
        let (recorded, scenarios) = record::record(options, capture)?;
        let report = Report::new(options, start, scenarios);
        return Report { recorded: Some(recorded), ..report }.written(options);
    }
    let mut policies = Vec::new();
    for path in &options.paths {
        let files = Policy::find(path)?;
        if files.is_empty() {
            let message = format!("there is no scenario file in {}", path.display());
            return Err(Error::new("scenario-none", Exit::NotFound, message)
                .with_help("scenario files are TOML files beside a policy: programs/NAME/NAME.toml"));
        }
        for file in files {
            policies.push(Policy::read(&file, options.objects.as_deref())?);
        }
    }
    check_filter(options, &policies)?;
    let objects = builds(&policies)?;
    let seen = Seen::default();
    let mut jobs = Vec::new();
    for policy in &policies {
        for object in &policy.objects {
            for (at, scenario) in
                policy.scenarios.iter().enumerate().filter(|(_, scenario)| options.chooses(scenario))
            {
                jobs.push(Job {
                    policy,
                    path: object,
                    object: &objects[object.as_path()],
                    scenario,
                    at,
                    options,
                    seen: options.covers().then_some(&seen),
                    witness: None,
                });
            }
        }
    }
    let mut scenarios = if options.list {
        jobs.iter().map(Job::list).collect()
    } else {
        progress.expect(jobs.len());
        in_parallel(&jobs, |job| progress.of(|| job.scenario.name.clone(), || job.test()))
    };
    let blessed = if options.bless { bless::all(&jobs, &mut scenarios)? } else { Vec::new() };
    let coverage = if options.covers() { Some(coverage(&jobs, &seen)?) } else { None };
    Report { blessed, coverage, ..Report::new(options, start, scenarios) }.written(options)
}

/// That something is left to test: a filter with a mistake in it would pass whatever the policy does.
fn check_filter(options: &Options, policies: &[Policy]) -> Result<(), Error> {
    let mut scenarios = policies.iter().flat_map(|policy| &policy.scenarios);
    match &options.filter {
        Some(text) if !scenarios.any(|scenario| options.chooses(scenario)) => {
            let message = format!("no scenario has `{text}` in its name");
            Err(Error::new("test-none", Exit::NotFound, message)
                .with_help("`tidegate test PATH --list` has their names"))
        }
        _ => Ok(()),
    }
}

/// The objects of policies, each read once.
fn builds(policies: &[Policy]) -> Result<BTreeMap<&Path, Object>, Error> {
    let mut objects = BTreeMap::new();
    for path in policies.iter().flat_map(|policy| &policy.objects) {
        if !objects.contains_key(path.as_path()) {
            objects.insert(path.as_path(), Object::read(path)?);
        }
    }
    Ok(objects)
}

impl Report {
    fn new(options: &Options, start: Instant, scenarios: Vec<Tested>) -> Self {
        let passed = scenarios.iter().filter(|tested| tested.passed()).count();
        Self {
            passed,
            failed: scenarios.iter().filter(|tested| tested.passed == Some(false)).count(),
            runs: scenarios.iter().map(|tested| tested.runs).sum(),
            seed: options.seed,
            seconds: start.elapsed().as_secs_f64(),
            listed: options.list,
            scenarios,
            blessed: Vec::new(),
            recorded: None,
            coverage: None,
        }
    }

    /// The report, once it is in the files that it was asked for in.
    fn written(self, options: &Options) -> Result<Self, Error> {
        options.junit.as_deref().map_or(Ok(()), |path| junit::write(&self, path))?;
        options.sarif.as_deref().map_or(Ok(()), |path| sarif::write(&self, path))?;
        if let Some(coverage) = &self.coverage {
            options.lcov.as_deref().map_or(Ok(()), |path| coverage.write_lcov(path))?;
            options.html.as_deref().map_or(Ok(()), |folder| coverage.write_html(folder))?;
        }
        Ok(self)
    }
}

/// Does every job on as many threads as there are processors; the results are in the order of the jobs.
fn in_parallel<J: Sync, R: Send>(jobs: &[J], work: impl Fn(&J) -> R + Sync) -> Vec<R> {
    let next = AtomicUsize::new(0);
    let done = Mutex::new(Vec::new());
    let threads = thread::available_parallelism().map_or(1, usize::from).min(jobs.len());
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some((at, job)) = {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    jobs.get(at).map(|job| (at, job))
                } {
                    let result = work(job);
                    done.lock().unwrap_or_else(PoisonError::into_inner).push((at, result));
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_by_key(|(at, _)| *at);
    done.into_iter().map(|(_, result)| result).collect()
}

/// A scenario to be tested with one build of its policy.
#[derive(Clone, Copy)]
struct Job<'a> {
    policy: &'a Policy,
    path: &'a Path,
    object: &'a Object,
    scenario: &'a Scenario,
    /// Its place in the file, from 0.
    at: usize,
    options: &'a Options,
    /// Where it is told what ran, if that is asked for.
    seen: Option<&'a Seen>,
    /// Who looks for what all runs have in common, if somebody does.
    witness: Option<&'a Witness>,
}

/// What ran of each program of each object, by slot.
#[derive(Default)]
struct Seen(Mutex<BTreeMap<(PathBuf, String), Vec<Visits>>>);

impl Seen {
    fn programs(&self) -> MutexGuard<'_, BTreeMap<(PathBuf, String), Vec<Visits>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, object: &Path, program: String, visits: Vec<Visits>) {
        let mut programs = self.programs();
        let sum = programs.entry((object.into(), program)).or_default();
        sum.resize(visits.len(), Visits::default());
        for (sum, visits) in sum.iter_mut().zip(visits) {
            sum.runs += visits.runs;
            sum.jumps += visits.jumps;
        }
    }
}

/// What ran of the sources of all that was tested.
///
/// # Errors
/// An object can't be read any more.
fn coverage(jobs: &[Job<'_>], seen: &Seen) -> Result<Coverage, Error> {
    let mut coverage = Coverage::default();
    for ((path, name), visits) in seen.programs().iter() {
        let job = jobs.iter().find(|job| job.path == path);
        if let Some((job, program)) = job.and_then(|job| Some((job, job.object.program(name)?))) {
            let folder = job.policy.path.parent().unwrap_or(Path::new("."));
            coverage.add(path, job.object, program, visits, folder)?;
        }
    }
    Ok(coverage)
}

/// Runs under different memory layouts that a scenario of packets gets: they have no cuts.
const PACKET_RUNS: usize = 16;

impl Job<'_> {
    fn list(&self) -> Tested {
        Tested {
            file: self.policy.path.clone(),
            line: self.scenario.line,
            object: self.path.into(),
            scenario: self.scenario.name.clone(),
            passed: None,
            runs: 0,
            seconds: 0.0,
            tried: None,
            failure: None,
            blessing: None,
        }
    }

    fn test(&self) -> Tested {
        let start = Instant::now();
        let mut tested = self.list();
        if let Err(error) = self.all(&mut tested) {
            let help = error.help.map(|help| format!("help: {help}"));
            let wrong = [error.message].into_iter().chain(help);
            let wrong = wrong.map(|text| Wrong::never_right(Cause::Setup, text)).collect();
            tested.failure = Some(Failure::new("", wrong, None));
        }
        tested.seconds = start.elapsed().as_secs_f64();
        tested.passed = Some(tested.failure.is_none());
        // Of what was planned, a scenario that failed has not done all.
        tested.tried = tested.tried.filter(|_| tested.passed());
        tested
    }

    /// Runs all traffic of the scenario, up to the first failure.
    fn all(&self, tested: &mut Tested) -> Result<(), Error> {
        let setup = Setup {
            programs: self.policy.programs.clone(),
            on_error: self.policy.on_error,
            maps: self.scenario.maps.clone(),
            globals: self.scenario.globals.clone(),
            grants: None,
        };
        let mut machine = match self.seen {
            None => Machine::new(self.object, &setup)?,
            Some(_) => Machine::traced(self.object, &setup)?,
        };
        for traffic in &self.scenario.traffic {
            match traffic {
                Traffic::Stream(stream) => self.every_cut(&mut machine, stream, tested)?,
                Traffic::Packets(packets) => self.packets(&mut machine, packets, tested)?,
            }
            if tested.failure.is_some() {
                break;
            }
        }
        if let Some(seen) = self.seen {
            for (program, visits) in machine.visits()? {
                seen.add(self.path, program, visits);
            }
        }
        Ok(())
    }

    fn every_cut(&self, machine: &mut Machine, stream: &Stream, tested: &mut Tested) -> Result<(), Error> {
        let script = Script::new(&stream.steps);
        let runs = if self.scenario.every_cut { self.options.runs } else { 1 };
        let (ways, tried) = script.ways(runs, self.options.seed);
        tested.tried = self.scenario.every_cut.then(|| tested.tried.map_or(tried, |before| before + tried));
        let mut dice = Dice(self.options.seed);
        let mut given: Option<Outcome> = None;
        for cuts in &ways {
            let seed = dice.roll();
            let wrong = {
                let outcome = self.stream(machine, stream, &script.steps(cuts), seed)?;
                tested.runs += 1;
                let wrong = self.judge(&script, cuts, given.as_ref(), &outcome);
                given.get_or_insert(outcome);
                wrong
            };
            if wrong.is_empty() {
                continue;
            }
            let is_given = cuts == script.given();
            let smallest = if is_given {
                cuts.clone()
            } else {
                cuts.shrink(|fewer| {
                    let outcome = self.stream(machine, stream, &script.steps(fewer), seed);
                    tested.runs += 1;
                    outcome
                        .is_ok_and(|outcome| !self.judge(&script, fewer, given.as_ref(), &outcome).is_empty())
                })
            };
            let outcome = self.stream(machine, stream, &script.steps(&smallest), seed)?;
            let shown = self.judge(&script, &smallest, given.as_ref(), &outcome);
            let wrong = if shown.is_empty() { wrong } else { shown };
            tested.failure = Some(Failure::new(&stream.label, wrong, (!is_given).then_some(smallest)));
            break;
        }
        Ok(())
    }

    /// What is wrong with a run under `cuts`, beside the one under the given cuts.
    fn judge(&self, script: &Script, cuts: &Cuts, given: Option<&Outcome>, outcome: &Outcome) -> Vec<Wrong> {
        let is_given = cuts == script.given();
        let mut wrong = check::stream(&self.scenario.expect, &script.steps(cuts), is_given, outcome);
        if let Some(given) = given.filter(|_| wrong.is_empty()) {
            wrong = check::same(given, outcome);
        }
        wrong
    }

    /// Shows one connection to the policy, from the start.
    fn stream(
        &self,
        machine: &mut Machine,
        stream: &Stream,
        steps: &[crate::flows::Step],
        seed: u64,
    ) -> Result<Outcome, Error> {
        self.start(machine, seed)?;
        let mut session = machine.session(Config { trace_length: 0, ..Config::random(seed) })?;
        if self.scenario.beside > 0 {
            for number in 1..=self.scenario.beside {
                let (mut local, mut remote) = (stream.local, stream.remote);
                let client = if stream.opened == Direction::Outbound { &mut local } else { &mut remote };
                client.set_port(client.port().wrapping_add(number as u16));
                let other = session.open_as(stream, local, remote);
                stream.steps.iter().take(1).for_each(|step| session.show(other, step));
            }
            session.settle();
            // What came of the others is not looked at.
            session.tally()?;
            session.events()?;
        }
        let flow = session.open_as(stream, stream.local, stream.remote);
        for step in steps {
            session.show(flow, step);
        }
        let delivery = session.close(flow);
        let tally = session.tally()?;
        let broken = session.end();
        let events = machine.events()?;
        let differences = machine.differences(&self.scenario.expect.maps)?;
        let outcome = Outcome { delivery: Some(delivery), tally, events, differences, broken };
        self.witnessed(machine, &outcome)?;
        Ok(outcome)
    }

    /// Puts the machine back to where every run starts.
    fn start(&self, machine: &mut Machine, seed: u64) -> Result<(), Error> {
        machine.reset()?;
        if self.witness.is_some() {
            // What depends on the time is not in common.
            host::pass_time(Duration::from_nanos(seed % 1_000_000_007));
        }
        Ok(())
    }

    fn witnessed(&self, machine: &mut Machine, outcome: &Outcome) -> Result<(), Error> {
        if let Some(witness) = self.witness {
            witness.saw(outcome, machine.changed()?);
        }
        Ok(())
    }

    fn packets(
        &self,
        machine: &mut Machine,
        packets: &[PacketStep],
        tested: &mut Tested,
    ) -> Result<(), Error> {
        let mut dice = Dice(self.options.seed);
        for _ in 0..PACKET_RUNS {
            let seed = dice.roll();
            self.start(machine, seed)?;
            let mut session = machine.session(Config { trace_length: 0, ..Config::random(seed) })?;
            let mut fates = Vec::new();
            for packet in packets {
                host::pass_time(packet.after);
                let asked = session.send(packet.local, packet.remote, packet.transport, &packet.payload);
                session.settle();
                fates.push(fate(packet, session.passed(asked), &session.take_sent()));
            }
            let tally = session.tally()?;
            let broken = session.end();
            let events = machine.events()?;
            let differences = machine.differences(&self.scenario.expect.maps)?;
            let outcome = Outcome { delivery: None, tally, events, differences, broken };
            self.witnessed(machine, &outcome)?;
            tested.runs += 1;
            let wrong = check::packets(&self.scenario.expect, packets, &fates, &outcome);
            if !wrong.is_empty() {
                tested.failure = Some(Failure::new("", wrong, None));
                break;
            }
        }
        Ok(())
    }
}

/// What became of a packet: `sent` is what left since it was given to the stack.
fn fate(packet: &PacketStep, passed: bool, sent: &[Sent]) -> Result<Fate, Astray> {
    let never = |text: String| Astray { text, became: None };
    let [one] = sent else {
        return match sent {
            [] if passed => Err(never("it was permitted and did not leave".into())),
            [] => Ok(Fate::Blocked),
            several => Err(never(format!("{} packets left in its place", several.len()))),
        };
    };
    if !one.checksum_ok {
        return Err(never("it left with a wrong checksum".into()));
    }
    let header = match packet.transport {
        Transport::Udp => {
            let length =
                one.bytes.get(4..6).map_or(0, |length| usize::from(length[0]) << 8 | usize::from(length[1]));
            if length != one.bytes.len() {
                let text = format!("its UDP header says {length} bytes, it has {}", one.bytes.len());
                return Err(never(text));
            }
            8
        }
        Transport::Tcp { .. } => one.bytes.get(12).map_or(0, |offset| usize::from(offset >> 4) * 4),
    };
    let Some((ports, payload)) = one.bytes.first_chunk::<4>().zip(one.bytes.get(header..)) else {
        return Err(never("it left without its whole header".into()));
    };
    let port = |at: usize| u16::from_be_bytes([ports[at], ports[at + 1]]);
    let left_for = SocketAddr::new(one.remote, port(2));
    let tos = host::tos(one);
    let expected = packet.leaves_for.unwrap_or(packet.remote);
    // Of a captured packet nothing of the kind is said.
    let said = packet.fate.is_some();
    let became = Became {
        blocked: false,
        payload: Some(payload.to_vec()).filter(|payload| *payload != packet.payload),
        leaves_for: Some(left_for).filter(|left| *left != packet.remote),
        tos,
    };
    let became = Some(became).filter(|_| said && port(0) == packet.local.port());
    if port(0) != packet.local.port() || left_for != expected {
        return Err(Astray { text: format!("it left for somewhere else, expected {expected}"), became });
    }
    if said && tos != packet.tos {
        let said = |tos: Option<u8>| tos.map_or("none of its own".into(), |tos| tos.to_string());
        let (left, expected) = (said(tos), said(packet.tos));
        let text = format!("the type of service that it left with is {left}, expected {expected}");
        return Err(Astray { text, became });
    }
    let same = payload == packet.payload && expected == packet.remote && tos.is_none();
    Ok(if same { Fate::Sent } else { Fate::Becomes(payload.to_vec()) })
}

impl std::ops::Add for Tried {
    type Output = Self;

    /// What was tried with two connections of one scenario.
    fn add(self, other: Self) -> Self {
        Self {
            single: self.single + other.single,
            of_single: self.of_single + other.of_single,
            pairs: self.pairs + other.pairs,
            of_pairs: self.of_pairs + other.of_pairs,
            random: self.random + other.random,
            bytewise: self.bytewise || other.bytewise,
        }
    }
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

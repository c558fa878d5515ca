//! Every scenario on both machines.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::Serialize;
use tidegate::capture::{Capture, Transport};
use tidegate::flows::{self, Connection, Direction};
use tidegate::host::{Config, Machine, START, Session, Setup, pass_time};
use tidegate::object::Object;
use tidegate::scenario::{PacketStep, Policy, Scenario, Stream, Traffic};
use tidegate::tally::Tally;
use tidegate::test::cuts::{Cuts, Dice, Script};
use tidegate_lab_wire::{self as wire, Delivery, End, Fate, Kind, Sent, Step};

use crate::doubles::Doubles;
use crate::installed::Installed;
use crate::line;

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Scenario files, or folders with scenario files in them
    paths: Vec<PathBuf>,
    /// Folder with the compiled policies
    #[arg(long)]
    objects: PathBuf,
    /// Random cuts of each stream, beside the given ones, none, and byte by byte
    #[arg(long, default_value_t = 2)]
    cuts: usize,
    /// Only scenarios whose name has this text in it
    #[arg(long)]
    filter: Option<String>,
}

/// One scenario with one build of its policy.
#[derive(Serialize)]
struct Row {
    scenario: String,
    object: String,
    /// Whether everything that came of it was the same on both machines.
    equal: bool,
    runs: usize,
    violations: usize,
    leaked_bytes: i64,
    /// How long the runs took on each machine.
    host_ms: u64,
    driver_ms: u64,
    /// What was different, broken or wrong.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    wrong: Vec<String>,
}

/// What came of a run.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    traffic: Came,
    tally: Tally,
    events: BTreeMap<String, Vec<Vec<u8>>>,
}

#[derive(Debug, PartialEq, Eq)]
enum Came {
    Stream(Delivery),
    Packets(Vec<Fate>),
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let mut doubles = Doubles::connect()?;
    // What was found before is nobody's scenario.
    let start = doubles.report()?;
    for violation in start.violations {
        eprintln!("before the first scenario: {violation}");
    }
    warm(&options.objects, &mut doubles)?;
    for path in &options.paths {
        for file in Policy::find(path)? {
            let policy = Policy::read(&file, Some(&options.objects))?;
            for path in &policy.objects {
                policy_with(path, &policy, options, &mut doubles)?;
            }
        }
    }
    Ok(())
}

/// Shows connections until the driver keeps no more memory behind them than before: its lists have the room then that they
/// need, and what is left behind by a scenario is that scenario's.
fn warm(objects: &Path, doubles: &mut Doubles) -> Result<()> {
    const ROUND: u16 = 512;
    let object = Object::read(&objects.join("permit_all.o"))?;
    let setup = Setup { programs: vec!["permit_all_stream".to_owned()], ..Setup::default() };
    let driver = Installed::new(&object, &setup)?;
    let mut before = None;
    for _ in 0..10 {
        for port in 1..=ROUND {
            // Numbers of connections lie irregularly far apart when they are of many lengths.
            let mut stream = request(port);
            stream.steps = vec![stream.steps.remove(0); 1 + usize::from(port % 7)];
            doubles.stream(stream)?;
        }
        let now = doubles.report()?.pool_bytes;
        if before == Some(now) {
            driver.unload();
            return Ok(());
        }
        before = Some(now);
    }
    anyhow::bail!("every round of {ROUND} connections leaves more behind in the driver's memory: {before:?}")
}

/// Every scenario of a policy with one of its builds. To verify it may take long: scenarios that begin alike share what was
/// loaded.
fn policy_with(path: &Path, policy: &Policy, options: &Options, doubles: &mut Doubles) -> Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let object = Object::read(path)?;
    let chosen = |scenario: &&Scenario| {
        options.filter.as_ref().is_none_or(|text| scenario.name.contains(text.as_str()))
    };
    let mut scenarios = policy.scenarios.iter().filter(chosen).peekable();
    while let Some(first) = scenarios.peek() {
        let setup = Setup {
            programs: policy.programs.clone(),
            on_error: policy.on_error,
            maps: first.maps.clone(),
            globals: first.globals.clone(),
            grants: None,
        };
        let before = doubles.report()?.pool_bytes;
        let mut both =
            Both { host: Machine::new(&object, &setup)?, driver: Installed::new(&object, &setup)?, options };
        let alike = |scenario: &&Scenario| scenario.maps == setup.maps && scenario.globals == setup.globals;
        let mut rows = Vec::new();
        while let Some(scenario) = scenarios.next_if(alike) {
            rows.push(both.row(&name, scenario, doubles)?);
        }
        both.driver.unload();
        let after = doubles.report()?;
        if let Some(last) = rows.last_mut() {
            last.violations += after.violations.len();
            last.wrong.extend(after.violations);
            // What the policy itself held, and its removal, are the last one's.
            last.leaked_bytes += after.pool_bytes as i64 - before as i64;
        }
        rows.iter().try_for_each(line)?;
    }
    Ok(())
}

/// A policy on both machines.
struct Both<'a> {
    host: Machine,
    driver: Installed,
    options: &'a Options,
}

impl Both<'_> {
    fn row(&mut self, object: &str, scenario: &Scenario, doubles: &mut Doubles) -> Result<Row> {
        self.driver.reset()?;
        let before = doubles.report()?.pool_bytes;
        let (mut runs, mut wrong, mut times) = (0, Vec::new(), [Duration::ZERO; 2]);
        for traffic in &scenario.traffic {
            match traffic {
                Traffic::Stream(stream) => {
                    let script = Script::new(&stream.steps);
                    for (cuts, seed) in self.ways(&script, scenario.every_cut).iter().zip(1..) {
                        let steps = script.steps(cuts);
                        let mut on_host =
                            timed(&mut times[0], || on_host_stream(&mut self.host, stream, &steps, seed))?;
                        let mut on_driver = timed(&mut times[1], || {
                            on_driver_stream(&mut self.driver, doubles, stream, &steps, seed)
                        })?;
                        forget_flow(&mut on_host, &mut on_driver);
                        runs += 1;
                        compare(&on_host, &on_driver, &stream.label, &mut wrong);
                    }
                }
                Traffic::Packets(packets) => {
                    let on_host = timed(&mut times[0], || on_host_packets(&mut self.host, packets))?;
                    let on_driver =
                        timed(&mut times[1], || on_driver_packets(&mut self.driver, doubles, packets))?;
                    runs += 1;
                    compare(&on_host, &on_driver, "", &mut wrong);
                }
            }
        }
        let equal = wrong.is_empty();
        self.driver.reset()?;
        let after = doubles.report()?;
        let violations = after.violations.len();
        wrong.extend(after.violations);
        let leaked_bytes = after.pool_bytes as i64 - before as i64;
        let [host_ms, driver_ms] = times.map(|time| time.as_millis() as u64);
        let (object, scenario) = (object.into(), scenario.name.clone());
        Ok(Row { scenario, object, equal, runs, violations, leaked_bytes, host_ms, driver_ms, wrong })
    }

    /// Ways to cut a stream: as given, whole, byte by byte, and some at random.
    fn ways(&self, script: &Script, every_cut: bool) -> Vec<Cuts> {
        let mut ways = vec![script.given().clone()];
        if every_cut {
            ways.extend([Cuts::default(), script.bytewise()]);
            let mut dice = Dice(7);
            ways.extend((0..self.options.cuts).map(|_| script.random(&mut dice)));
        }
        ways.dedup();
        ways
    }
}

/// Adds the time that `work` takes to `total`.
fn timed<R>(total: &mut Duration, work: impl FnOnce() -> R) -> R {
    let start = Instant::now();
    let result = work();
    *total += start.elapsed();
    result
}

fn compare(host: &Outcome, driver: &Outcome, label: &str, wrong: &mut Vec<String>) {
    if host != driver {
        wrong.push(format!("{label}: the host has {host:?}\nthe driver has {driver:?}"));
    }
}

fn config(seed: u64) -> Config {
    Config { trace_length: 0, ..Config::random(seed) }
}

/// Connections beside it are left out: tens of thousands would take hours on the driver's side.
fn on_host_stream(host: &mut Machine, stream: &Stream, steps: &[flows::Step], seed: u64) -> Result<Outcome> {
    host.reset()?;
    let session = host.session(config(seed))?;
    let flow = session.open_as(stream, stream.local, stream.remote);
    for step in steps {
        session.show(flow, step);
    }
    let delivery = session.close(flow);
    let end = |out: tidegate::host::Delivered| End { bytes: out.bytes, fin: out.fin, aborted: out.aborted };
    let delivery = Delivery {
        flow: flow.id(),
        ends: [end(delivery.sent), end(delivery.received)],
        dropped: delivery.dropped,
    };
    finish(session, Came::Stream(delivery))
}

fn on_host_packets(host: &mut Machine, packets: &[PacketStep]) -> Result<Outcome> {
    host.reset()?;
    let session = host.session(config(SEED))?;
    let mut fates = Vec::new();
    for packet in packets {
        pass_time(packet.after);
        let asked = session.send(packet.local, packet.remote, packet.transport, &packet.payload);
        session.settle();
        let sent = session.take_sent().into_iter();
        fates.push(Fate {
            passed: session.passed(asked),
            sent: sent
                .map(|sent| Sent { remote: sent.remote, bytes: sent.bytes, checksum_ok: sent.checksum_ok })
                .collect(),
        });
    }
    finish(session, Came::Packets(fates))
}

/// Of scenarios without cuts.
const SEED: u64 = 1;

fn finish(mut session: Session<'_>, traffic: Came) -> Result<Outcome> {
    let tally = session.tally()?;
    let events = session.events()?;
    let wrong = session.end();
    anyhow::ensure!(wrong.is_empty(), "on the machine in user space: {}", wrong.join("; "));
    Ok(Outcome { traffic, tally, events })
}

fn on_driver_stream(
    driver: &mut Installed,
    doubles: &mut Doubles,
    stream: &Stream,
    steps: &[flows::Step],
    seed: u64,
) -> Result<Outcome> {
    driver.reset()?;
    let delivery = doubles.stream(on_wire(stream, steps, seed))?;
    Ok(Outcome { traffic: Came::Stream(delivery), tally: driver.tally()?, events: driver.events()? })
}

/// Takes the flow's number out of records where both machines have it: each numbers its own.
fn forget_flow(host: &mut Outcome, driver: &mut Outcome) {
    let (Came::Stream(on_host), Came::Stream(on_driver)) = (&mut host.traffic, &mut driver.traffic) else {
        return;
    };
    let numbers = [&mut on_host.flow, &mut on_driver.flow].map(|flow| std::mem::take(flow).to_le_bytes());
    let records = host.events.values_mut().flatten().zip(driver.events.values_mut().flatten());
    for (host, driver) in records {
        for (host, driver) in host.chunks_exact_mut(8).zip(driver.chunks_exact_mut(8)) {
            if *host == numbers[0] && *driver == numbers[1] {
                host.fill(0);
                driver.fill(0);
            }
        }
    }
}

fn on_driver_packets(
    driver: &mut Installed,
    doubles: &mut Doubles,
    packets: &[PacketStep],
) -> Result<Outcome> {
    driver.reset()?;
    let packets = packets.iter().map(|packet| wire::Packet {
        after: packet.after,
        local: packet.local,
        remote: packet.remote,
        tcp: match packet.transport {
            Transport::Udp => None,
            Transport::Tcp { sequence, flags } => Some((tidegate::host::tcp_flags(flags), sequence)),
        },
        payload: packet.payload.clone(),
    });
    let traffic = Came::Packets(doubles.packets(SEED, START, packets.collect())?);
    Ok(Outcome { traffic, tally: driver.tally()?, events: driver.events()? })
}

fn on_wire(stream: &Stream, steps: &[flows::Step], seed: u64) -> wire::Stream {
    let steps = steps.iter().map(|step| Step {
        after: step.after,
        outbound: step.direction == Direction::Outbound,
        missed: step.missed,
        kind: match &step.kind {
            flows::Kind::Data { bytes, push } => Kind::Data { bytes: bytes.clone(), push: *push },
            flows::Kind::Fin => Kind::Fin,
            flows::Kind::Reset => Kind::Reset,
        },
    });
    wire::Stream {
        seed,
        now: START,
        local: stream.local,
        remote: stream.remote,
        outbound: stream.opened == Direction::Outbound,
        application: stream.application.clone(),
        steps: steps.collect(),
    }
}

/// Loads a policy that edits, shows it requests, and lets no injection come to its end.
pub(crate) fn leave(objects: &Path) -> Result<()> {
    let object = Object::read(&objects.join("http_hdr_rewrite.o"))?;
    let header = toml_table("0 = \"X-Via: tidegate\"")?;
    let setup = Setup { maps: [("header".to_owned(), header)].into(), ..Setup::default() };
    let mut driver = Installed::new(&object, &setup)?;
    let mut doubles = Doubles::connect()?;
    for port in 1..=20 {
        doubles.leave(request(port))?;
    }
    let tally = driver.tally()?;
    anyhow::ensure!(tally.edited == 20, "20 requests were shown, and edited were {}", tally.edited);
    line(&doubles.report()?)
}

/// Shows the driver the connections of a capture, whatever it has loaded.
pub(crate) fn replay(capture: &Path) -> Result<()> {
    let capture = Capture::parse(&std::fs::read(capture)?).map_err(anyhow::Error::msg)?;
    let mut doubles = Doubles::connect()?;
    for connection in flows::connections(&capture, &[]) {
        let Connection { local, remote, opened, events, .. } = connection;
        let steps = events.into_iter().map(|event| event.step).collect();
        let (label, application) = (String::new(), None);
        let stream = Stream { label, local, remote, opened, application, steps };
        doubles.stream(on_wire(&stream, &stream.steps, SEED))?;
    }
    line(&doubles.report()?)
}

/// A connection from `port` with a request over HTTP.
fn request(port: u16) -> wire::Stream {
    let bytes = b"GET / HTTP/1.1\r\nHost: www.example.com\r\n\r\n".to_vec();
    wire::Stream {
        seed: port.into(),
        now: START,
        local: (Ipv4Addr::new(10, 0, 0, 2), port).into(),
        remote: (Ipv4Addr::new(192, 0, 2, 1), 80).into(),
        outbound: true,
        application: None,
        steps: vec![Step {
            after: Duration::ZERO,
            outbound: true,
            missed: 0,
            kind: Kind::Data { bytes, push: true },
        }],
    }
}

fn toml_table(text: &str) -> Result<tidegate::scenario::Table> {
    text.parse().context("a table")
}

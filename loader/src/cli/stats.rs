//! `tidegate prog stats`: what links have counted, once, again and again, or for Prometheus.

use std::fmt;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use schemars::JsonSchema;
use serde::Serialize;
use tidegate_abi::control::{Id, LinkInfo, LinkInfoReply, LinkList, Status};
use tidegate_abi::{Hook, MapKind, Verdict};

use super::timed::{self, Histograms, Timed};
use super::{Report, live, map, prog, trial::Tried};
use crate::client::Client;
use crate::error::{Error, Exit};
use crate::tally::{Tally, count};

#[derive(Args)]
pub(super) struct Options {
    /// Print what was counted since the last time, every so many seconds, until it is interrupted
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "1", value_parser = seconds)]
    watch: Option<Duration>,
    /// End after so many times
    #[arg(long, value_name = "N", requires = "watch")]
    count: Option<u64>,
    /// Print all counts as Prometheus reads them
    #[arg(long, conflicts_with = "watch")]
    prometheus: bool,
    /// Answer Prometheus at this address of this machine's own (GET /metrics on 127.0.0.1 or [::1]) until it is interrupted
    #[arg(long, value_name = "ADDR:PORT", conflicts_with_all = ["watch", "prometheus"])]
    listen: Option<SocketAddr>,
}

impl Options {
    /// Whether it says something once.
    pub(super) fn ends(&self) -> bool {
        self.watch.is_none() && self.listen.is_none()
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "give a number of seconds".to_string())?;
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}

/// What every link has counted.
#[derive(Serialize, JsonSchema)]
pub(super) struct Stats {
    /// Over how long; not there: since the links were attached.
    #[serde(skip_serializing_if = "Option::is_none")]
    seconds: Option<f64>,
    links: Vec<Row>,
    #[serde(skip)]
    metrics: Option<String>,
}

#[derive(Serialize, JsonSchema)]
struct Row {
    link: Id,
    hook: &'static str,
    program: Id,
    name: String,
    /// Bytes that were shown to its runs.
    bytes_shown: u64,
    counted: Tally,
    /// How long runs took.
    times: Vec<Timed>,
    /// What is tried in it.
    #[serde(skip_serializing_if = "Option::is_none")]
    trial: Option<Tried>,
}

/// Tells what was counted; what comes in between goes to `tell`.
pub(super) fn stats(
    client: &mut Client,
    options: &Options,
    mut tell: impl FnMut(&Stats) -> io::Result<()>,
) -> Result<Stats, Error> {
    if let Some(address) = options.listen {
        return serve(client, address);
    }
    let Some(every) = options.watch else {
        let metrics = if options.prometheus { Some(metrics(client)?) } else { None };
        return Ok(Stats { seconds: None, links: rows(client)?, metrics });
    };
    let mut times = 0;
    let (mut before, mut at) = (rows(client)?, Instant::now());
    loop {
        thread::sleep(every.saturating_sub(at.elapsed()));
        let now = rows(client)?;
        let seconds = at.elapsed().as_secs_f64();
        at = Instant::now();
        let links = now.iter().map(|row| row.since(before.iter().find(|old| old.link == row.link))).collect();
        let stats = Stats { seconds: Some(seconds), links, metrics: None };
        before = now;
        times += 1;
        if options.count == Some(times) || tell(&stats).is_err() {
            return Ok(stats);
        }
    }
}

impl Row {
    fn since(&self, before: Option<&Self>) -> Self {
        let tried = before.and_then(|before| before.trial.as_ref());
        let (tally, bytes) =
            before.map_or((Tally::default(), 0), |before| (before.counted, before.bytes_shown));
        Self {
            name: self.name.clone(),
            counted: self.counted.since(&tally),
            bytes_shown: self.bytes_shown - bytes,
            times: timed::since(&self.times, before.map_or(&[], |before| &before.times)),
            trial: self.trial.as_ref().map(|trial| trial.since(tried)),
            ..*self
        }
    }
}

/// The links of every hook, in the order that they run, and what they have counted.
fn links(client: &mut Client) -> Result<Vec<(Id, LinkInfoReply, String)>, Error> {
    let programs = prog::all(client)?;
    let mut links = Vec::new();
    for hook in Hook::ALL {
        let ids = client.call(&LinkList { hook }).map_err(|refused| live::refused("list links", &refused))?;
        for link in ids {
            match client.call(&LinkInfo { link }) {
                Ok(info) => {
                    let program = programs.iter().find(|(id, _)| *id == info.program);
                    let name = program.map_or_else(String::new, |(_, program)| program.name.to_string());
                    links.push((link, info, name));
                }
                // It went meanwhile.
                Err(refused) if refused.status == Status::NotFound => {}
                Err(refused) => return Err(live::refused("show a link", &refused)),
            }
        }
    }
    Ok(links)
}

fn rows(client: &mut Client) -> Result<Vec<Row>, Error> {
    let links = links(client)?;
    let row = |(link, info, name): (Id, LinkInfoReply, String)| {
        Ok(Row {
            link,
            hook: info.hook.name(),
            program: info.program,
            name,
            bytes_shown: info.counters.bytes_shown,
            counted: info.counters.into(),
            times: timed::of(client, link, info.hook.program_type())?,
            trial: info.trial.map(Into::into),
        })
    };
    links.into_iter().map(row).collect()
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfLink {
    link: Id,
    hook: &'static str,
    program: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfVerdict {
    link: Id,
    hook: &'static str,
    program: String,
    verdict: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfTrial {
    link: Id,
    hook: &'static str,
    /// Id of the program that is tried.
    program: Id,
    mode: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfTrialEnd {
    link: Id,
    hook: &'static str,
    program: Id,
    mode: &'static str,
    end: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfMap {
    map: Id,
    name: String,
}

/// All counts, in OpenMetrics' text format.
fn metrics(client: &mut Client) -> Result<String, Error> {
    let mut registry = Registry::with_prefix("tidegate");
    let runs = Family::<OfVerdict, Counter>::default();
    registry.register("runs", "Runs that ended with this verdict", runs.clone());
    let counters = [
        ("errors", "Runs that failed: the link's on_error decided"),
        ("shown_bytes", "Bytes that were shown to runs"),
        ("edits", "Runs whose edits were carried out"),
        ("injections", "Clones that were injected"),
    ]
    .map(|(name, help)| {
        let family = Family::<OfLink, Counter>::default();
        registry.register(name, help, family.clone());
        family
    });
    let held = [("held_bytes", "Bytes that are kept back"), ("held_flows", "Directions that are kept back")]
        .map(|(name, help)| {
            let family = Family::<OfLink, Gauge>::default();
            registry.register(name, help, family.clone());
            family
        });
    let tried = Family::<OfTrialEnd, Counter>::default();
    registry.register(
        "trial_runs",
        "Runs of a program that is tried in a link, by how they ended",
        tried.clone(),
    );
    let returned = Family::<OfTrial, Gauge>::default();
    let help = "1: too many runs of a canary failed, the link's own program has all connections again";
    registry.register("trial_returned", help, returned.clone());
    let entries = Family::<OfMap, Gauge>::default();
    registry.register("map_entries", "Entries of a map; of a ring buffer: bytes that wait", entries.clone());
    let dropped = Family::<OfMap, Counter>::default();
    registry.register("records_dropped", "Records that did not fit into a ring buffer", dropped.clone());

    let mut times = Vec::new();
    for (link, info, program) in links(client)? {
        let hook = info.hook.name();
        for (verdict, number) in Verdict::ALL.into_iter().zip(info.counters.verdicts) {
            if verdict.program_types().contains(info.hook.program_type()) {
                let labels = OfVerdict { link, hook, program: program.clone(), verdict: verdict.name() };
                runs.get_or_create(&labels).inc_by(number);
            }
        }
        for timed in timed::of(client, link, info.hook.program_type())? {
            times.push((OfVerdict { link, hook, program: program.clone(), verdict: timed.verdict() }, timed));
        }
        if let Some(trial) = info.trial.map(Tried::from) {
            let (program, mode) = trial.mode();
            for (end, number) in trial.ends() {
                tried.get_or_create(&OfTrialEnd { link, hook, program, mode, end }).inc_by(number);
            }
            if let Some(is_returned) = trial.returned() {
                returned.get_or_create(&OfTrial { link, hook, program, mode }).set(i64::from(is_returned));
            }
        }
        let labels = OfLink { link, hook, program };
        let c = &info.counters;
        for (family, number) in counters.iter().zip([c.errors, c.bytes_shown, c.edited, c.injected]) {
            family.get_or_create(&labels).inc_by(number);
        }
        for (family, number) in held.iter().zip([info.held.bytes, u64::from(info.held.flows)]) {
            family.get_or_create(&labels).set(i64::try_from(number).unwrap_or(i64::MAX));
        }
    }
    for (map, info) in map::all(client)? {
        let labels = OfMap { map, name: info.name.to_string() };
        entries.get_or_create(&labels).set(i64::from(info.entries));
        if info.def.kind == MapKind::RingBuf {
            dropped.get_or_create(&labels).inc_by(info.dropped);
        }
    }
    registry.register_collector(Box::new(Histograms(times)));
    let mut text = String::new();
    // Writing to a string can't fail.
    let _ = text::encode(&mut text, &registry);
    Ok(text)
}

/// Bytes of a request that are read at most.
const REQUEST: u64 = 8192;

/// How long a client has for its request and for the answer to it: the next one waits.
const PATIENCE: Duration = Duration::from_secs(5);

/// A connection that is used until a time, and no longer.
struct Until<'s>(&'s TcpStream, Instant);

impl Until<'_> {
    fn left(&self) -> io::Result<Option<Duration>> {
        let left = self.1.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(Some(left)) }
    }
}

impl Read for Until<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.set_read_timeout(self.left()?)?;
        self.0.read(buffer)
    }
}

impl Write for Until<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.set_write_timeout(self.left()?)?;
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// Answers who asks for the counts, one after the other.
fn serve(client: &mut Client, address: SocketAddr) -> Result<Stats, Error> {
    if !address.ip().to_canonical().is_loopback() {
        let message = format!("{address} is not of this machine alone, and whoever asks would be answered");
        return Err(Error::usage("stats-loopback", message).with_help(
            "listen on 127.0.0.1 or [::1], and have an agent or a proxy that you trust pass it on",
        ));
    }
    let cannot = |error: io::Error| {
        let exit = if error.kind() == io::ErrorKind::PermissionDenied { Exit::Denied } else { Exit::Usage };
        Error::new("stats-listen", exit, format!("cannot listen on {address}: {error}"))
    };
    let listener = TcpListener::bind(address).map_err(cannot)?;
    eprintln!("http://{}/metrics", listener.local_addr().map_err(cannot)?);
    for stream in listener.incoming() {
        let metrics = metrics(client)?;
        // Who went away before it was answered asks again.
        let _ = stream.and_then(|stream| answer(&stream, PATIENCE, &metrics));
    }
    Ok(Stats { seconds: None, links: Vec::new(), metrics: None })
}

/// Answers one request (HTTP/1.0 is all that a scrape takes: RFC 1945).
fn answer(stream: &TcpStream, patience: Duration, metrics: &str) -> io::Result<()> {
    let mut stream = Until(stream, Instant::now() + patience);
    let mut lines = BufReader::new(Read::take(&mut stream, REQUEST)).lines();
    let first = lines.next().transpose()?.unwrap_or_default();
    while !first.is_empty() && lines.next().transpose()?.is_some_and(|line| !line.is_empty()) {}
    let (status, kind, body) = if first.starts_with("GET /metrics ") {
        ("200 OK", "application/openmetrics-text; version=1.0.0; charset=utf-8", metrics)
    } else {
        ("404 Not Found", "text/plain; charset=utf-8", "the counts are at /metrics\n")
    };
    write!(
        stream,
        "HTTP/1.0 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

impl Report for Stats {}

impl fmt::Display for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(metrics) = &self.metrics {
            return f.write_str(metrics);
        }
        for Row { link, hook, name, counted, bytes_shown, times, trial, .. } in &self.links {
            write!(f, "{link}: {name} at {hook}  {} runs", counted.runs)?;
            if let Some(seconds) = self.seconds {
                write!(f, " ({:.0} a second)", counted.runs as f64 / seconds)?;
            }
            let verdicts = Verdict::ALL.into_iter().zip(counted.verdicts).filter(|(_, count)| *count > 0);
            let verdicts: Vec<_> =
                verdicts.map(|(verdict, count)| format!("{} {count}", verdict.name())).collect();
            let verdicts = if verdicts.is_empty() { "no verdict".into() } else { verdicts.join(", ") };
            write!(
                f,
                ": {verdicts}; {} edited, {} injected, {} failed",
                counted.edited, counted.injected, counted.errors
            )?;
            writeln!(f, "; {bytes_shown} bytes shown")?;
            times.iter().try_for_each(|timed| write!(f, "{timed}"))?;
            if let Some(trial) = trial {
                write!(f, "{trial}")?;
            }
        }
        writeln!(f, "{}", count(self.links.len(), "link"))
    }
}

#[cfg(test)]
mod tests {
    use tidegate_runtime::Shared;

    use super::*;
    use crate::host::{self, Loaded, Setup};
    use crate::object::Object;

    const PROBES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/probes.o");

    #[test]
    fn every_count_is_there_before_anything_is_counted() {
        let runtime = host::runtime().expect("a runtime");
        let mut client = Client::new(Shared::clone(&runtime));
        let object = Object::read(PROBES.as_ref()).expect("the fixture loads");
        let setup = Setup { programs: vec!["account".into()], ..Setup::default() };
        let loaded = Loaded::new(&mut client, &object, &setup).expect("it is accepted");
        let link = loaded.links().first().expect("a link").hook.name();
        let text = metrics(&mut client).expect("an answer");
        for part in [
            &format!("hook=\"{link}\",program=\"account\",verdict=\"drop-connection\"}} 0\n"),
            "# TYPE tidegate_runs counter\n",
            "tidegate_errors_total{link=",
            "tidegate_shown_bytes_total{link=",
            "tidegate_held_flows{link=",
            "tidegate_map_entries{map=",
            "name=\"losses\"} 0\n",
        ] {
            assert!(text.contains(part), "{part:?} is missing in:\n{text}");
        }
        assert!(text.ends_with("# EOF\n"), "OpenMetrics says where its text ends: {text}");
    }

    #[test]
    fn counts_are_told_to_nobody_beyond_this_machine() {
        let mut client = Client::new(host::runtime().expect("a runtime"));
        // Nobody has these but documentation: they can't be listened on by mistake.
        for address in ["192.0.2.1:9", "[2001:db8::1]:9", "[::ffff:192.0.2.1]:9"] {
            let refused = serve(&mut client, address.parse().expect("an address")).err().expect(address);
            assert_eq!((refused.code, refused.exit), ("stats-loopback", Exit::Usage), "{refused}");
        }
        let taken = TcpListener::bind("[::ffff:127.0.0.1]:0").or_else(|_| TcpListener::bind("127.0.0.1:0"));
        let address = taken.and_then(|taken| Ok((taken.local_addr()?, taken))).expect("a free port");
        let refused = serve(&mut client, address.0).err().expect("it is taken");
        assert_eq!(refused.code, "stats-listen", "loopback it is: {refused}");
    }

    #[test]
    fn a_scrape_is_answered_and_nothing_else_is() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address");
        for (request, begin, end) in [
            ("GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP/1.0 200 OK\r\n", "\r\n\r\nthe counts"),
            ("GET / HTTP/1.1\r\n\r\n", "HTTP/1.0 404 ", "at /metrics\n"),
            ("\r\n", "HTTP/1.0 404 ", "at /metrics\n"),
        ] {
            let mut client = TcpStream::connect(address).expect("it listens");
            client.write_all(request.as_bytes()).expect("it is read");
            let (server, _) = listener.accept().expect("a connection");
            answer(&server, PATIENCE, "the counts").expect("an answer");
            drop(server);
            let mut answer = String::new();
            client.read_to_string(&mut answer).expect("text");
            assert!(answer.starts_with(begin) && answer.ends_with(end), "{answer}");
        }
    }

    #[test]
    fn a_client_that_asks_nothing_or_takes_nothing_is_left() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address");
        // More than the system keeps for a client that does not read.
        let metrics = "x".repeat(1 << 26);
        for request in ["", "GET /metrics HTTP/1.1\r\n\r\n"] {
            let mut client = TcpStream::connect(address).expect("it listens");
            client.write_all(request.as_bytes()).expect("it is connected");
            let (server, _) = listener.accept().expect("a connection");
            answer(&server, Duration::from_millis(50), &metrics).expect_err("the client does nothing");
        }
    }
}

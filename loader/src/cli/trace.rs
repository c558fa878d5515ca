//! `tidegate trace`: what links decide, as they do.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use clap::Args;
use schemars::JsonSchema;
use serde::Serialize;
use tidegate_abi::control::{
    FlowEnds, Id, LinkInfo, MapInfo, MapInfoReply, ProgramInfo, ProgramInfoReply, RunEnd, RunInfo,
    TRACE_FAILED, TraceBegin,
};
use tidegate_abi::limits::MAX_TRACE;
use tidegate_abi::{Hook, Verdict};

use super::flow::{self, Which};
use super::why::{Objects, Why};
use super::{Report, link, live};
use crate::client::Client;
use crate::error::Error;
use crate::tally::count;

/// What directions are called, in the order of their numbers.
const WAYS: [&str; 2] = ["outbound", "inbound"];

/// What `--verdict` calls runs that failed.
const FAILED: &str = "failed";

#[derive(Args)]
pub(super) struct Options {
    /// Runs of this link only, by its id
    #[arg(long)]
    link: Option<Id>,
    /// Runs that end so only: a verdict, or `failed`; several with commas between
    #[arg(long, value_name = "VERDICT", value_delimiter = ',', value_parser = end)]
    verdict: Vec<u32>,
    /// About this flow only: its number, an end (ADDRESS, ADDRESS:PORT or :PORT), two (END-END), or conditions as
    /// 'tcp remote port 443'
    #[arg(long, value_name = "FLOW", value_parser = flow::which)]
    flow: Option<Which>,
    /// End after so many runs
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    #[command(flatten)]
    types: Types,
    /// Bytes of what the host keeps for this command to read; runs for which there is no room are lost, and counted
    #[arg(long, value_name = "BYTES", default_value_t = 1 << 20, value_parser = buffer)]
    buffer: u32,
}

/// Where source lines and types are known from: a host keeps none.
#[derive(Args)]
pub(super) struct Types {
    /// An object whose programs run: its line information says where they decide, its types how keys and values are read. May be
    /// said for each object; those of the bundle that was applied last are known
    #[arg(long = "types", value_name = "OBJECT")]
    pub(super) objects: Vec<PathBuf>,
}

fn end(text: &str) -> Result<u32, String> {
    if text == FAILED {
        return Ok(TRACE_FAILED);
    }
    Verdict::from_name(text).map(|verdict| 1 << verdict as u32).ok_or_else(|| {
        let names: Vec<_> = Verdict::ALL.into_iter().map(Verdict::name).collect();
        format!("runs end with {} or {FAILED}", names.join(", "))
    })
}

fn buffer(text: &str) -> Result<u32, String> {
    let bytes = text
        .parse()
        .ok()
        .filter(|bytes: &u32| bytes.is_power_of_two() && (4096..=MAX_TRACE as u32).contains(bytes));
    bytes.ok_or_else(|| format!("a power of two from 4096 to {MAX_TRACE}"))
}

/// Something that is told while it happens.
#[derive(Serialize, JsonSchema)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub(super) enum Line {
    /// Runs are watched from now on.
    Begin {
        /// Links that there are now.
        links: usize,
    },
    /// A run of a link.
    Run(Box<Run>),
    /// There was no room for runs: so many are told of nowhere, from the beginning on.
    Lost { lost: u64 },
}

/// A run of a link.
#[derive(Serialize, JsonSchema)]
pub(super) struct Run {
    /// When, in seconds since 1970.
    pub(super) time: f64,
    /// The connection; null: there is none, or none that is known.
    pub(super) flow: Option<u64>,
    pub(super) local: String,
    pub(super) remote: String,
    #[serde(skip)]
    ends: FlowEnds,
    /// IP protocol number.
    protocol: u8,
    /// `outbound` or `inbound`: whose bytes were shown.
    direction: &'static str,
    hook: &'static str,
    process: Option<u64>,
    pub(super) link: Id,
    pub(super) program: Id,
    /// The program's name; null: it is gone.
    name: Option<String>,
    /// Its tag.
    tag: Option<String>,
    /// Null: it gave none.
    pub(super) verdict: Option<&'static str>,
    /// Why the link's `on_error` decided, when it did.
    failed: Option<String>,
    bytes_shown: u32,
    bytes_decided: u32,
    /// Bytes that go on in their place.
    bytes_passed: u32,
    /// Bytes of its own that it sent beside them.
    bytes_sent: u32,
    why: Why,
}

/// What came in all.
#[derive(Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub(super) struct Summary {
    runs: u64,
    /// Runs that are told of nowhere.
    lost: u64,
}

/// A trace of a host, for as long as this lives.
pub(super) struct Trace<'c> {
    client: &'c mut Client,
    id: Id,
    objects: Objects,
    programs: BTreeMap<Id, Option<ProgramInfoReply>>,
    /// When the host's clock was 0, since 1970.
    start: Option<Duration>,
}

impl<'c> Trace<'c> {
    pub(super) fn begin(client: &'c mut Client, about: &TraceBegin, objects: Objects) -> Result<Self, Error> {
        let id = client.call(about).map_err(|refused| live::refused("trace", &refused))?;
        Ok(Self { client, id, objects, programs: BTreeMap::new(), start: None })
    }

    /// The runs that came, and how many are told of nowhere since it began; it may be none that came.
    pub(super) fn read(&mut self) -> Result<(Vec<Run>, u64), Error> {
        let refused = |refused| live::refused("read the trace", &refused);
        let (records, now, lost) = self.client.runs(self.id).map_err(refused)?;
        let clock = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        // Asked for once, so that times are as far apart as the runs.
        let start = *self.start.get_or_insert_with(|| clock().saturating_sub(Duration::from_nanos(now)));
        let mut runs = Vec::new();
        for record in &records {
            // One that can't be read would be of another release, which is refused long before.
            let Ok(run) = RunInfo::parse(record) else { continue };
            runs.push(self.run(&run, start + Duration::from_nanos(run.at)));
        }
        Ok((runs, lost))
    }

    /// Whether no link is asked behind the last of `runs`, which one indication or packet came to.
    pub(super) fn is_last(&mut self, runs: &[Run]) -> Result<bool, Error> {
        let Some(run) = runs.last().filter(|run| !run.decides()) else { return Ok(true) };
        let links = match run.hook() {
            Some(hook) => {
                let way = u8::from(run.direction == WAYS[1]);
                link::shown(&link::filters(self.client, hook)?, &[way], &run.ends)
            }
            None => Vec::new(),
        };
        Ok(links.last() == Some(&run.link) || !links.contains(&run.link))
    }

    fn run(&mut self, run: &RunInfo<'_>, time: Duration) -> Run {
        let client = &mut *self.client;
        let program = self
            .programs
            .entry(run.program)
            .or_insert_with(|| client.call(&ProgramInfo { program: run.program }).ok());
        let map = |map| -> Option<MapInfoReply> { client.call(&MapInfo { map }).ok() };
        let map = run.read.map(|read| read.map).and_then(map);
        let why = Why::of(run, program.as_ref(), &self.objects, |_| map.clone());
        let [local, remote] = flow::ends(&run.ends).map(|end| end.to_string());
        let insn = |insn: u32, what: &str| Some(format!("{what} at instruction {insn}"));
        let (verdict, failed) = match run.end {
            RunEnd::Verdict(verdict) if run.unfit => (Some(verdict), Some("it can't be carried out".into())),
            RunEnd::Verdict(verdict) => (Some(verdict), None),
            RunEnd::Budget(at) => (None, insn(at, "the budget was spent")),
            RunEnd::Fault(at) => (None, insn(at, "a fault")),
            RunEnd::NoVerdict(number) => {
                (None, Some(format!("it returned {number}, which is no verdict of its type")))
            }
        };
        Run {
            time: time.as_secs_f64(),
            flow: Some(run.flow).filter(|flow| *flow != 0),
            local,
            remote,
            ends: run.ends,
            protocol: run.ends.protocol,
            direction: WAYS[usize::from(run.direction != 0)],
            hook: run.hook.name(),
            process: Some(run.process).filter(|process| *process != 0),
            link: run.link,
            program: run.program,
            name: program.as_ref().map(|info| info.name.to_string()),
            tag: program.as_ref().map(super::prog::tag),
            verdict: verdict.map(Verdict::name),
            failed,
            bytes_shown: run.shown,
            bytes_decided: run.decided,
            bytes_passed: run.passed,
            bytes_sent: run.sent,
            why,
        }
    }
}

impl Drop for Trace<'_> {
    fn drop(&mut self) {
        // One that the host does not hear of ends by itself.
        let _ = self.client.end_trace(self.id);
    }
}

impl Run {
    /// Whether it is about a flow that is meant.
    pub(super) fn is_of(&self, which: &Which) -> bool {
        which.has(self.flow.unwrap_or(0), &self.ends)
    }

    /// Whether links behind it are not asked.
    pub(super) fn decides(&self) -> bool {
        self.failed.is_some()
            || self.verdict != Some(Verdict::Continue.name())
            || self.bytes_decided != self.bytes_passed
    }

    /// Whether `next` is a run of the next link, which is shown the same.
    pub(super) fn is_followed_by(&self, next: &Self) -> bool {
        let same = |run: &Self| {
            (run.flow, run.hook, run.direction, run.bytes_shown, run.local.clone(), run.remote.clone())
        };
        self.link != next.link && same(self) == same(next)
    }

    /// Where it ran.
    fn hook(&self) -> Option<Hook> {
        Hook::ALL.into_iter().find(|hook| hook.name() == self.hook)
    }

    /// What it says, and who: without where it is from.
    pub(super) fn said(&self) -> String {
        let Self {
            link,
            program,
            name,
            verdict,
            failed,
            bytes_shown,
            bytes_decided,
            bytes_passed,
            bytes_sent,
            ..
        } = self;
        let name = name.as_ref().map_or_else(|| "which is gone".into(), |name| format!("`{name}`"));
        let mut said = format!("link {link}, program {program} {name}: {}", verdict.unwrap_or("no verdict"));
        if *bytes_shown == 0 {
            said += " at the end";
        } else if *bytes_decided != 0 && bytes_decided != bytes_shown {
            said += &format!(" of {bytes_decided} of {bytes_shown} bytes");
        } else {
            said += &format!(" of {}", count(*bytes_shown as usize, "byte"));
        }
        if bytes_passed != bytes_decided && *bytes_passed != 0 {
            said += &format!(", {bytes_passed} in their place");
        }
        if *bytes_sent != 0 {
            said += &format!(", {bytes_sent} of its own");
        }
        if let Some(failed) = failed {
            said += &format!("; failed: {failed}");
        }
        said
    }

    /// Between whom it is.
    pub(super) fn between(&self) -> String {
        let arrow = if self.direction == "outbound" { "->" } else { "<-" };
        let flow = self.flow.map_or_else(String::new, |flow| format!("{flow}: "));
        format!("{flow}{} {arrow} {}", self.local, self.remote)
    }

    pub(super) const fn why(&self) -> &Why {
        &self.why
    }
}

/// Tells what links decide until there is enough, or nobody listens.
pub(super) fn trace(
    client: &mut Client,
    host: Option<&Path>,
    options: &Options,
    mut tell: impl FnMut(&Line) -> io::Result<()>,
) -> Result<Summary, Error> {
    if let Some(link) = options.link {
        let known = client.call(&LinkInfo { link });
        known.map_err(|refused| live::refused(&format!("trace link {link}"), &refused))?;
    }
    let links = link::ids(client)?.len();
    let about = TraceBegin {
        link: options.link.unwrap_or(0),
        flow: match options.flow {
            Some(Which::Id(flow)) => flow,
            _ => 0,
        },
        ends: options.verdict.iter().fold(0, |all, bit| all | bit),
        bytes: options.buffer,
    };
    let mut trace = Trace::begin(client, &about, Objects::read(&options.types.objects, host)?)?;
    let mut summary = Summary::default();
    let mut heard = tell(&Line::Begin { links }).is_ok();
    while heard && options.count.is_none_or(|enough| summary.runs < enough) {
        let (runs, lost) = trace.read()?;
        if runs.is_empty() && lost == summary.lost {
            std::thread::sleep(Duration::from_millis(10));
            continue;
        }
        let wanted = |run: &Run| options.flow.as_ref().is_none_or(|which| run.is_of(which));
        for run in runs.into_iter().filter(wanted) {
            if options.count.is_some_and(|enough| summary.runs >= enough) {
                break;
            }
            summary.runs += 1;
            heard = heard && tell(&Line::Run(Box::new(run))).is_ok();
        }
        // What found no room came behind what did.
        if lost != summary.lost {
            summary.lost = lost;
            heard = heard && tell(&Line::Lost { lost }).is_ok();
        }
    }
    Ok(summary)
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Begin { links } => write!(f, "watching {}", count(*links, "link")),
            Self::Run(run) => {
                let micros = (run.time * 1e6) as u64;
                let (seconds, micros) = (micros / 1_000_000, micros % 1_000_000);
                let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
                write!(f, "{hour:02}:{minute:02}:{second:02}.{micros:06}  {}  {}", run.between(), run.said())
            }
            Self::Lost { lost } => write!(f, "{lost} runs lost since it began: the buffer was full"),
        }
    }
}

impl Report for Summary {}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}, {} lost", count(self.runs as usize, "run"), self.lost)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_ends_with_a_verdict_or_fails() {
        assert_eq!(end("failed"), Ok(TRACE_FAILED));
        assert_eq!(end("block"), Ok(1 << Verdict::Block as u32));
        assert!(end("blocked").is_err_and(|text| text.contains("drop-connection")));
    }

    #[test]
    fn a_buffer_is_a_power_of_two() {
        assert_eq!(buffer("65536"), Ok(65_536));
        for text in ["0", "4095", "65537", "8388608", "x"] {
            assert!(buffer(text).is_err(), "{text}");
        }
    }
}

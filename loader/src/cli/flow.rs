//! `tidegate flow`: the connections that links are shown, and why what is decided about one is decided.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use schemars::JsonSchema;
use serde::Serialize;
use tidegate_abi::control::{FlowEnds, FlowInfo, FlowSide, FlowState, Id, TraceBegin};
use tidegate_abi::{Hook, LinkFilter};

use super::trace::{Run, Trace, Types};
use super::why::Objects;
use super::{Report, link, live};
use crate::client::Client;
use crate::error::{Error, Exit};
use crate::filter;
use crate::tally::count;

#[derive(Subcommand)]
pub(super) enum Verb {
    /// The connections that links are shown now: their ends, whose they are, what is kept back of them
    #[command(visible_alias = "show")]
    List(List),
    /// Wait for the next bytes or packet of a flow, and say which link decides what about them, where in its source, and by which
    /// entry of a map
    #[command(after_help = "For example:\n  \
        tidegate flow explain :443 --types guard.o          the next that has to do with port 443\n  \
        tidegate flow explain 17 --types guard.o --wait 10\n\n\
        Nothing is noted of runs while nobody asks, so what was decided before can't be explained: of a flow that was reset or\n\
        allowed it says by which link.")]
    Explain(Explain),
}

#[derive(Args)]
pub(super) struct Explain {
    /// The flow: its number, an end (ADDRESS, ADDRESS:PORT or :PORT), two (END-END, in any order), or conditions as
    /// 'udp remote port 53'
    #[arg(value_name = "FLOW", value_parser = which)]
    flow: Which,
    #[command(flatten)]
    types: Types,
    /// Give up when nothing came for so long; none: wait
    #[arg(long, value_name = "SECONDS")]
    wait: Option<u64>,
}

#[derive(Args)]
pub(super) struct List {
    /// These only: by number, by an end (ADDRESS, ADDRESS:PORT or :PORT), by two (END-END, in any order), or by conditions as
    /// 'tcp remote port 443'
    #[arg(value_name = "FLOW", value_parser = which)]
    flow: Option<Which>,
}

/// Bytes of runs that may wait to be looked at.
const BUFFER: u32 = 1 << 20;

/// Which connections are meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Which {
    /// The one of this number.
    Id(u64),
    /// Those with these ends, in any order.
    Ends(Vec<End>),
    /// Those that a link with this filter is shown something of.
    Shown(LinkFilter),
}

/// An end of a connection, as far as it is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct End {
    address: Option<IpAddr>,
    port: Option<u16>,
}

impl End {
    fn is(self, end: SocketAddr) -> bool {
        self.address.is_none_or(|address| address == end.ip())
            && self.port.is_none_or(|port| port == end.port())
    }
}

impl Which {
    pub(super) fn has(&self, flow: u64, between: &FlowEnds) -> bool {
        let [local, remote] = ends(between);
        match self {
            Self::Id(id) => *id == flow,
            Self::Shown(filter) => [0, 1].into_iter().any(|way| filter.has(way, between)),
            Self::Ends(ends) => match ends[..] {
                [one] => one.is(local) || one.is(remote),
                [one, other] => one.is(local) && other.is(remote) || one.is(remote) && other.is(local),
                _ => false,
            },
        }
    }
}

/// Reads which connections are meant.
pub(super) fn which(text: &str) -> Result<Which, String> {
    if let Ok(id) = text.parse() {
        return Ok(Which::Id(id));
    }
    if let Some(ends) = text.split('-').map(end).collect::<Option<Vec<_>>>().filter(|ends| ends.len() <= 2) {
        return Ok(Which::Ends(ends));
    }
    filter::parse(text).map(Which::Shown).map_err(|error| {
        format!(
            "a flow is its number (42), an end (10.0.0.1, 10.0.0.1:443, [::1]:443, :443), two (10.0.0.1:443-:50000), or \
             what `link attach --filter` takes (tcp port 443): {error}"
        )
    })
}

fn end(text: &str) -> Option<End> {
    if let Some(port) = text.strip_prefix(':').and_then(|port| port.parse().ok()) {
        return Some(End { address: None, port: Some(port) });
    }
    if let Ok(end) = text.parse::<SocketAddr>() {
        return Some(End { address: Some(end.ip()), port: Some(end.port()) });
    }
    let address = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    Some(End { address: Some(address.parse().ok()?), port: None })
}

/// The ends as people write them: local, remote.
pub(super) fn ends(ends: &FlowEnds) -> [SocketAddr; 2] {
    [ends.local, ends.remote].map(|(bytes, port)| {
        let [a, b, c, d, ..] = bytes;
        let ip = if ends.family == 6 { Ipv6Addr::from(bytes).into() } else { IpAddr::from([a, b, c, d]) };
        SocketAddr::new(ip, port)
    })
}

/// Connections.
#[derive(Serialize, JsonSchema)]
pub(super) struct Flows {
    flows: Vec<Row>,
}

#[derive(Serialize, JsonSchema)]
struct Row {
    id: u64,
    local: String,
    remote: String,
    /// Who opened it: `outbound` this machine, `inbound` the remote one.
    opened: &'static str,
    hook: &'static str,
    /// The links that are shown it, in the order that they run.
    links: Vec<Id>,
    /// Who owns the local end, when it is known.
    process: Option<u64>,
    /// The path of its program, when it is known.
    application: Option<String>,
    /// Since it was first shown.
    age_seconds: f64,
    /// It was there before it could be seen: its beginning was shown to no link.
    mid_stream: bool,
    /// `open`: links are shown its bytes; `allowed`: a program wants none to be shown more; `reset`: by a link or by an end.
    state: &'static str,
    /// The link that allowed or reset it.
    by: Option<Id>,
    outbound: Side,
    inbound: Side,
}

/// What is kept of one direction.
#[derive(Serialize, JsonSchema)]
struct Side {
    /// Bytes that are kept back, or wait behind such.
    held_bytes: u64,
    /// The link that keeps them back.
    holder: Option<Id>,
    /// The link that waits for more.
    waits: Option<Id>,
}

pub(super) fn list(client: &mut Client, options: &List) -> Result<Flows, Error> {
    rows(client, options.flow.as_ref()).map(|flows| Flows { flows })
}

/// The connections that are meant; none said: all.
fn rows(client: &mut Client, which: Option<&Which>) -> Result<Vec<Row>, Error> {
    let mut links = Vec::new();
    for hook in Hook::ALL {
        links.push(link::filters(client, hook)?);
    }
    let mut flows = Vec::new();
    client
        .flows(|flow| {
            if which.is_none_or(|which| which.has(flow.flow, &flow.ends)) {
                let links = links.get(flow.hook.index()).map_or(&[][..], Vec::as_slice);
                flows.push(Row::new(flow, link::shown(links, &[0, 1], &flow.ends)));
            }
        })
        .map_err(|refused| live::refused("list flows", &refused))?;
    flows.sort_by_key(|flow| flow.id);
    Ok(flows)
}

/// Why what was decided about a flow was decided.
#[derive(Serialize, JsonSchema)]
pub(super) struct Explanation {
    /// The connection; null: there is none, or none that is known.
    flow: Option<u64>,
    /// What had become of it before: see `flow list`; null: it was not listed.
    state: Option<&'static str>,
    /// The link that allowed or reset it, or that decided in the last of the runs; null: none did, so that it passes.
    decided_by: Option<Id>,
    /// The runs that the next bytes or packet came to, in their order.
    runs: Vec<Run>,
}

/// Waits for the next bytes or packet of a flow, and says what links decide about them and why.
pub(super) fn explain(
    client: &mut Client,
    host: Option<&Path>,
    options: &Explain,
) -> Result<Explanation, Error> {
    let listed = rows(client, Some(&options.flow))?;
    if let (Which::Id(id), []) = (&options.flow, &listed[..]) {
        let message = format!("no link is shown a flow {id}: it has ended, or began before there was a link");
        return Err(Error::new("not-found", Exit::NotFound, message).with_help(
            "`tidegate flow list` lists them; by its ends (END-END) a flow can be named before it begins",
        ));
    }
    if let [row] = &listed[..]
        && row.state != "open"
    {
        let (flow, state, decided_by) = (Some(row.id), Some(row.state), row.by);
        return Ok(Explanation { flow, state, decided_by, runs: Vec::new() });
    }
    let flow = match (&options.flow, &listed[..]) {
        (Which::Id(id), _) => *id,
        _ => 0,
    };
    let about = TraceBegin { link: 0, flow, ends: 0, bytes: BUFFER };
    let until = options.wait.map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let mut trace = Trace::begin(client, &about, Objects::read(&options.types.objects, host)?)?;
    let mut runs: Vec<Run> = Vec::new();
    loop {
        let (came, lost) = trace.read()?;
        let idle = came.is_empty();
        for run in came.into_iter().filter(|run| run.is_of(&options.flow)) {
            // One of another flow, or of bytes that came before those: their last run was not asked for, or got lost.
            if runs.last().is_some_and(|last| !last.is_followed_by(&run)) {
                runs.clear();
            }
            runs.push(run);
            let last = trace.is_last(&runs)?;
            if last {
                let run = runs.last();
                let decided_by = run.filter(|run| run.decides()).map(|run| run.link);
                let flow = run.and_then(|run| run.flow);
                let state = listed.iter().find(|row| Some(row.id) == flow).map(|row| row.state);
                return Ok(Explanation { flow, state, decided_by, runs });
            }
        }
        if lost > 0 {
            return Err(Error::new(
                "trace-lost",
                Exit::Partial,
                format!("{lost} runs were lost: too much is going on"),
            )
            .with_help("name the flow by its number"));
        }
        if until.is_some_and(|until| Instant::now() > until) {
            return Err(Error::new(
                "flow-silent",
                Exit::NotFound,
                "nothing of the flow was shown to a link in that time",
            ));
        }
        if idle {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Row {
    fn new(flow: &FlowInfo<'_>, links: Vec<Id>) -> Self {
        let [outbound, inbound] = flow.sides.map(Side::from);
        let [local, remote] = ends(&flow.ends).map(|end| end.to_string());
        Self {
            id: flow.flow,
            local,
            remote,
            opened: if flow.opener == 0 { "outbound" } else { "inbound" },
            hook: flow.hook.name(),
            links,
            process: some(flow.process),
            application: path(flow.application),
            age_seconds: flow.age as f64 / 1e9,
            mid_stream: flow.mid_stream,
            state: match flow.state {
                FlowState::Open => "open",
                FlowState::Allowed => "allowed",
                FlowState::Reset => "reset",
            },
            by: some(flow.by),
            outbound,
            inbound,
        }
    }
}

impl From<FlowSide> for Side {
    fn from(FlowSide { held, holder, waits }: FlowSide) -> Self {
        Self { held_bytes: held, holder: some(holder), waits: some(waits) }
    }
}

/// A number of which 0 is none.
fn some<T: Default + PartialEq>(number: T) -> Option<T> {
    Some(number).filter(|number| *number != T::default())
}

/// A path as the filter engine gives it: UTF-16, with a zero behind it or not.
fn path(bytes: &[u8]) -> Option<String> {
    let (units, _) = bytes.as_chunks();
    let units: Vec<u16> =
        units.iter().map(|unit| u16::from_le_bytes(*unit)).take_while(|unit| *unit != 0).collect();
    // It comes from whoever started the program: nothing in it may steer a terminal.
    some(annotate_snippets::normalize_untrusted_str(&String::from_utf16_lossy(&units)))
}

impl Report for Flows {}

impl fmt::Display for Flows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for row in &self.flows {
            let Row { id, local, remote, hook, process, application, age_seconds, state, by, .. } = row;
            let arrow = if row.opened == "outbound" { "->" } else { "<-" };
            write!(f, "{id}: {local} {arrow} {remote}  {state}")?;
            if let Some(by) = by {
                write!(f, " by link {by}")?;
            }
            writeln!(
                f,
                "  {age_seconds:.1} s{}",
                if row.mid_stream { "  seen from the middle on" } else { "" }
            )?;
            let links: Vec<_> = row.links.iter().map(ToString::to_string).collect();
            write!(f, "    {hook}: ")?;
            match &links[..] {
                [] => write!(f, "no links")?,
                [one] => write!(f, "link {one}")?,
                all => write!(f, "links {}", all.join(", "))?,
            }
            match process {
                Some(process) => write!(f, "  process {process}")?,
                None => write!(f, "  process not known")?,
            }
            match application {
                Some(application) => writeln!(f, "  {application}")?,
                None => writeln!(f)?,
            }
            for (name, side) in [("outbound", &row.outbound), ("inbound", &row.inbound)] {
                if let Some(link) = side.waits {
                    writeln!(f, "    {name}: link {link} waits for more")?;
                }
                match side {
                    Side { holder: Some(link), held_bytes, .. } => {
                        writeln!(f, "    {name}: {held_bytes} bytes kept back by link {link}")?;
                    }
                    Side { held_bytes: 0, .. } => {}
                    Side { held_bytes, .. } => {
                        writeln!(f, "    {name}: {held_bytes} bytes on their way through a queue")?;
                    }
                }
            }
        }
        writeln!(f, "{}", count(self.flows.len(), "flow"))
    }
}

impl Report for Explanation {}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { state, decided_by, runs, .. } = self;
        match (&runs[..], decided_by) {
            ([], Some(link)) => {
                writeln!(
                    f,
                    "link {link}: {} before, so that nothing more is shown",
                    state.unwrap_or_default()
                )?;
                writeln!(f, "    at an instruction that is not known: nobody asked then")
            }
            ([], None) => writeln!(f, "{}, and not by a link", state.unwrap_or_default()),
            ([first, ..], decided_by) => {
                writeln!(f, "{}", first.between())?;
                for run in runs {
                    writeln!(f, "{}", run.said())?;
                    write!(f, "{}", run.why())?;
                }
                match decided_by {
                    Some(link) => writeln!(f, "decided by link {link}"),
                    None => writeln!(f, "no link decided: it passes"),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flow_is_named_by_its_number_or_by_its_ends() {
        let end = |end: &str| match end.parse().unwrap() {
            SocketAddr::V4(v4) => (u128::from(u32::from(*v4.ip())) << 96, v4.port()),
            SocketAddr::V6(v6) => ((*v6.ip()).into(), v6.port()),
        };
        let ends = |local: &str, remote: &str| {
            let [local, remote] = [local, remote].map(end).map(|(ip, port)| (ip.to_be_bytes(), port));
            FlowEnds { protocol: 6, family: if local.0[4..] == [0; 12] { 4 } else { 6 }, local, remote }
        };
        let between = ends("10.0.0.2:50000", "192.0.2.1:443");
        for (text, is_it) in [
            ("7", true),
            ("8", false),
            (":443", true),
            (":444", false),
            ("10.0.0.2", true),
            ("10.0.0.2:443", false),
            ("192.0.2.1:443-10.0.0.2", true),
            ("10.0.0.2-192.0.2.1:443", true),
            ("10.0.0.2-10.0.0.2", false),
            (":50000-:443", true),
            ("tcp remote port 443", true),
            ("inbound local net 10.0.0.0/8", true),
            ("udp", false),
        ] {
            assert_eq!(which(text).expect("it is one").has(7, &between), is_it, "{text}");
        }
        let between = ends("[fd00::2]:50000", "[::1]:443");
        for text in ["::1", "[::1]", "[::1]:443", "fd00::2-[::1]:443", ":443"] {
            assert!(which(text).expect("it is one").has(7, &between), "{text}");
        }
        for text in ["", "-", "x", ":", "1.2.3.4:99999", "1.1.1.1-2.2.2.2-3.3.3.3", "-1"] {
            assert!(which(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_path_is_shown_as_text() {
        let wide = |text: &str| -> Vec<u8> { text.encode_utf16().flat_map(u16::to_le_bytes).collect() };
        assert_eq!(path(&wide("\\device\\a.exe\0")).as_deref(), Some("\\device\\a.exe"));
        assert_eq!(path(&[]), None);
        assert!(!path(&wide("a\x1b[2J")).expect("a path").contains('\x1b'));
    }
}

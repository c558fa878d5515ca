//! `--record`: connections of a capture become scenarios, which expect what the policy does now.
//!
//! A scenario is for people: short connections are written out, and a long one goes into a capture of its own beside the
//! scenario file. What comes of it is found out as `--bless` does it: tried in memory, under every cut and with every build. So are
//! the records, the entries of maps and the verdicts that it expects: those that all runs have in common.

use std::fmt::{self, Write as _};
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use schemars::JsonSchema;
use serde::Serialize;
use tidegate_abi::ProgramType;

use super::{Job, Options, Tested, Witness, bless, builds};
use crate::capture::{Capture, Packet, Transport};
use crate::error::{Error, Exit};
use crate::flows::{self, Connection, Direction, Kind};
use crate::host::{Machine, Setup};
use crate::object::Object;
use crate::scenario::edit::Editor;
use crate::scenario::{Policy, write};
use crate::tally::count;
use crate::wire::{WHOLE, Wire};

/// What `--record` takes of a capture.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct Wanted {
    /// Make scenarios of the connections of a capture (pcap or pcapng), and add them to the scenario file PATH, or that of a folder
    /// or an object: they expect what the policy does now. Without PATH they are printed
    #[arg(long = "record", value_name = "CAPTURE", conflicts_with_all = ["list", "bless", "filter", "coverage", "lcov", "html"])]
    pub capture: Option<PathBuf>,
    /// Only this connection, as `prog run` counts them; may be given more than once
    #[arg(long = "flow", value_name = "N", requires = "capture")]
    pub flows: Vec<usize>,
    /// Only those to this port of the other end
    #[arg(long, requires = "capture")]
    pub port: Option<u16>,
    /// Address of this machine, instead of whoever opened a connection or spoke first
    #[arg(long, value_name = "ADDR", requires = "capture")]
    pub local: Vec<IpAddr>,
    /// This machine is the server: who opened a connection is the other end
    #[arg(long, requires = "capture", conflicts_with = "local")]
    pub inbound: bool,
    /// Name of the scenario, instead of the capture's name and the connection's number
    #[arg(long, value_name = "TEXT", requires = "capture", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub name: Option<String>,
}

/// What was recorded.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub(super) struct Recorded {
    /// The scenario file that has it now.
    file: Option<PathBuf>,
    /// How many scenarios.
    scenarios: usize,
    /// Captures that were written beside it.
    captures: Vec<PathBuf>,
    /// The scenarios, as they are in the file.
    toml: String,
}

impl fmt::Display for Recorded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.toml)?;
        for capture in &self.captures {
            writeln!(f, "written: {}", capture.display())?;
        }
        match &self.file {
            Some(file) => {
                writeln!(f, "recorded: {} in {}", count(self.scenarios, "scenario"), file.display())
            }
            None => Ok(()),
        }
    }
}

impl Recorded {
    /// Whether it was only printed.
    pub(super) fn is_printed(&self) -> bool {
        self.file.is_none()
    }
}

/// Lines that the steps of a connection may take in a scenario; when they would be more, they are a capture of their own.
const INLINE: usize = 64;

/// A scenario to be, and the capture that it refers to.
struct Scenario {
    name: String,
    toml: String,
    capture: Option<(PathBuf, Vec<u8>)>,
}

/// Records what `options` ask for: what was recorded, and how the policy did.
pub(super) fn record(options: &Options, source: &Path) -> Result<(Recorded, Vec<Tested>), Error> {
    let wanted = &options.record;
    let capture = Capture::read(source)?;
    let Some(path) = options.paths.first() else {
        let scenarios = chosen(wanted, source, &capture, None, None)?;
        let toml = scenarios.iter().map(|scenario| scenario.toml.as_str()).collect::<Vec<_>>().join("\n");
        return Ok((
            Recorded { file: None, scenarios: scenarios.len(), captures: Vec::new(), toml },
            Vec::new(),
        ));
    };
    if options.paths.len() > 1 {
        return Err(Error::usage("record-path", "scenarios are recorded into one file"));
    }
    let file = file_at(path)?;
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let old = match fs::read_to_string(&file) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => begin(&file, path),
        Err(error) => return Err(Error::file("read", &file, &error)),
    };
    // Whether the policy is shown streams or packets, its objects say. A file without a scenario can't be asked yet.
    let probe = format!("{old}\n[[scenario]]\nname = \"\\u0000\"\nsteps = [{{ send = \"a\" }}]\n");
    let policy = Policy::parse(&probe, &file, options.objects.as_deref())?;
    let before = policy.scenarios.len() - 1;
    let packets = only_sends(&policy)?;
    let scenarios = chosen(wanted, source, &capture, Some(folder), Some(packets))?;
    let known = |scenario: &&Scenario| policy.scenarios.iter().any(|other| other.name == scenario.name);
    if let Some(Scenario { name, .. }) = scenarios.iter().find(known) {
        let message = format!("{} has a scenario of this name already: {name}", file.display());
        return Err(Error::usage("record-name", message).with_help("give it another one: --name TEXT"));
    }

    let mut text = old.clone();
    for scenario in &scenarios {
        if !text.is_empty() {
            text += if text.ends_with('\n') { "\n" } else { "\n\n" };
        }
        text += &scenario.toml;
    }
    let mut captures = Vec::new();
    for (path, bytes) in scenarios.iter().filter_map(|scenario| scenario.capture.as_ref()) {
        fs::write(path, bytes).map_err(|error| Error::file("write", path, &error))?;
        captures.push(path.clone());
    }
    let tried = expected(options, &text, &file, before);
    let (text, tested) = tried.inspect_err(|_| {
        // What refers to them was not written.
        captures.iter().for_each(|path| drop(fs::remove_file(path)));
    })?;
    fs::write(&file, &text).map_err(|error| Error::file("write", &file, &error))?;
    let toml = text.strip_prefix(old.as_str()).unwrap_or(&text).trim_start().to_string();
    Ok((Recorded { file: Some(file), scenarios: scenarios.len(), captures, toml }, tested))
}

/// The file `text` with what comes of its scenarios from number `before` on as what is expected, and how they did.
fn expected(
    options: &Options,
    text: &str,
    file: &Path,
    before: usize,
) -> Result<(String, Vec<Tested>), Error> {
    let policy = Policy::parse(text, file, options.objects.as_deref())?;
    let objects = builds(std::slice::from_ref(&policy))?;
    let mut editor = Editor::new(text, file.parent().unwrap_or(Path::new(".")));
    let mut all = Vec::new();
    for (at, scenario) in policy.scenarios.iter().enumerate().skip(before) {
        let jobs: Vec<_> = policy
            .objects
            .iter()
            .map(|path| {
                let object = &objects[path.as_path()];
                Job { policy: &policy, path, object, scenario, at, options, seen: None, witness: None }
            })
            .collect();
        let mut tested = super::in_parallel(&jobs, Job::test);
        let failure = tested.iter().find_map(|tested| tested.failure.clone());
        if let (Some(failure), Some(now)) = (failure, &editor) {
            match bless::one(&jobs, now, failure)? {
                Ok((changed, results)) => (editor, tested) = (Some(changed), results),
                Err(why) => {
                    for failure in tested.iter_mut().filter_map(|tested| tested.failure.as_mut()) {
                        failure.not_blessed = Some(why.clone());
                    }
                }
            }
        }
        let passed = tested.iter().all(Tested::passed);
        if let Some(now) = editor.as_ref().filter(|_| passed)
            && let Some((changed, results)) = witnessed(&jobs, now)?
        {
            (editor, tested) = (Some(changed), results);
        }
        all.extend(tested);
    }
    Ok((editor.map_or(text.into(), |editor| editor.text()), all))
}

/// The file with what all runs of a scenario that passes have in common as what it expects too, and its results; nothing when it
/// does not pass any more.
fn witnessed(builds: &[Job<'_>], editor: &Editor) -> Result<Option<(Editor, Vec<Tested>)>, Error> {
    let Some(Job { policy, options, at, .. }) = builds.first() else { return Ok(None) };
    let test = |editor: &Editor, witness: Option<&Witness>| {
        let policy = Policy::parse(&editor.text(), &policy.path, options.objects.as_deref())?;
        let Some(scenario) = policy.scenarios.get(*at) else { return Ok(Vec::new()) };
        let jobs: Vec<_> =
            builds.iter().map(|build| Job { policy: &policy, scenario, witness, ..*build }).collect();
        // One after the other: the first run that is seen is one under the given cuts.
        let tested = match witness {
            Some(_) => jobs.iter().map(Job::test).collect(),
            None => super::in_parallel(&jobs, Job::test),
        };
        Ok::<_, Error>(tested)
    };
    let witness = Witness::default();
    test(editor, Some(&witness))?;
    let mut changed = editor.clone();
    for change in witness.changes() {
        if changed.apply(*at, &change).is_none() {
            return Ok(None);
        }
    }
    let results = test(&changed, None)?;
    Ok(results.iter().all(Tested::passed).then_some((changed, results)))
}

/// The scenario file that is meant: itself, the only one of a folder, or the one beside an object.
fn file_at(path: &Path) -> Result<PathBuf, Error> {
    if !path.is_dir() {
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        let is_object = path.extension().is_some_and(|extension| extension == "o");
        let name = stem.strip_suffix("-rs").unwrap_or(&stem);
        return Ok(if is_object { path.with_file_name(format!("{name}.toml")) } else { path.into() });
    }
    match &Policy::find(path)?[..] {
        [one] => Ok(one.clone()),
        [] => {
            let message = format!("there is no scenario file in {}", path.display());
            Err(Error::new("scenario-none", Exit::NotFound, message)
                .with_help("name the file that is to be written, as NAME.toml beside NAME.c"))
        }
        several => {
            let names: Vec<_> = several.iter().map(|path| path.display().to_string()).collect();
            let message = format!("{} has several scenario files", path.display());
            Err(Error::usage("record-path", message).with_help(format!("name one: {}", names.join(", "))))
        }
    }
}

/// The start of a scenario file that is not there yet: its object, where the source beside it does not say.
fn begin(file: &Path, named: &Path) -> String {
    if file.with_extension("c").exists() || file.with_extension("rs").exists() {
        return String::new();
    }
    let object = if named == file { file.with_extension("o") } else { named.into() };
    let name = object.file_name().unwrap_or_default().to_string_lossy();
    format!("objects = [{}]\n", write::quoted(&name))
}

/// Whether the policy looks at packets and at nothing else.
fn only_sends(policy: &Policy) -> Result<bool, Error> {
    let Some(path) = policy.objects.first() else { return Ok(false) };
    let setup = Setup { programs: policy.programs.clone(), on_error: policy.on_error, ..Setup::default() };
    let machine = Machine::new(&Object::read(path)?, &setup)?;
    Ok(machine.runs(ProgramType::Send) && !machine.runs(ProgramType::Stream))
}

/// The scenarios of what is wanted of a capture. `packets`: of UDP packets; not said: when there is no connection.
fn chosen(
    wanted: &Wanted,
    source: &Path,
    capture: &Capture,
    folder: Option<&Path>,
    packets: Option<bool>,
) -> Result<Vec<Scenario>, Error> {
    let to_port = |remote: SocketAddr| wanted.port.is_none_or(|port| port == remote.port());
    let stem = source.file_stem().unwrap_or_default().to_string_lossy();
    let said = source.file_name().unwrap_or_default().to_string_lossy();
    let nothing = |message: String| Error::new("record-nothing", Exit::NotFound, message);
    let mut scenarios = Vec::new();
    if packets != Some(true) {
        let connections = flows::connections(capture, &wanted.local);
        if let Some(flow) = wanted.flows.iter().find(|flow| !(1..=connections.len()).contains(*flow)) {
            let message = format!("{said} has no connection {flow}, but {}", connections.len());
            return Err(nothing(message).with_help("`tidegate prog run OBJECT --pcap CAPTURE` numbers them"));
        }
        let chosen =
            (1..).zip(connections).map(|(number, connection)| (number, turned(connection, wanted.inbound)));
        let chosen: Vec<_> = chosen
            .filter(|(number, connection)| {
                let by_number = wanted.flows.is_empty() || wanted.flows.contains(number);
                by_number && to_port(connection.remote) && !connection.events.is_empty()
            })
            .collect();
        let one = chosen.len() == 1;
        for (number, connection) in chosen {
            let name = match &wanted.name {
                Some(name) if one => name.clone(),
                Some(name) => format!("{name}, connection {number}"),
                None => format!("{said}: connection {number}"),
            };
            let beside = folder.map(|folder| folder.join(format!("{stem}-{number}.pcap")));
            scenarios.push(of_connection(name, &connection, beside, &said)?);
        }
    }
    if packets == Some(true) || (packets.is_none() && scenarios.is_empty() && wanted.flows.is_empty()) {
        let sent = flows::outgoing(capture, &wanted.local).into_iter();
        let sent: Vec<_> = sent
            .filter(|packet| {
                packet.transport == Transport::Udp && packet.cut == 0 && to_port(packet.destination)
            })
            .collect();
        if !sent.is_empty() {
            let name = wanted.name.clone().unwrap_or_else(|| format!("{said}: packets"));
            scenarios.push(Scenario { toml: of_packets(&name, &sent), name, capture: None });
        }
    }
    if scenarios.is_empty() {
        return Err(nothing(format!("{said} has nothing of the kind")).with_help(
            "policies about streams are shown TCP connections, policies about packets the UDP packets that this machine sends",
        ));
    }
    Ok(scenarios)
}

/// The connection as its server sees it.
fn turned(mut connection: Connection, inbound: bool) -> Connection {
    if inbound && connection.opened == Direction::Outbound {
        std::mem::swap(&mut connection.local, &mut connection.remote);
        connection.opened = Direction::Inbound;
        for event in &mut connection.events {
            event.step.direction = event.step.direction.reverse();
        }
    }
    connection
}

/// A scenario of a connection of `source`; when it is long, with a capture `beside` the scenario file.
fn of_connection(
    name: String,
    connection: &Connection,
    beside: Option<PathBuf>,
    source: &str,
) -> Result<Scenario, Error> {
    let Connection { local, remote, opened, .. } = connection;
    let mut toml = format!("[[scenario]]\nname = {}\n", write::quoted(&name));
    let steps: String = connection.events.iter().map(step).collect();
    // In a capture the two ends are told apart by their addresses.
    let told_apart = *opened == Direction::Outbound || local.ip() != remote.ip();
    let capture = match beside.filter(|_| steps.lines().count() > INLINE && told_apart) {
        Some(path) => {
            if path.exists() {
                let message = format!("{} is there already", path.display());
                return Err(Error::usage("record-exists", message)
                    .with_help("the connection is too long to be written out, and would be put there"));
            }
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            toml += &format!("capture = {}  # of {source}\n", write::quoted(&name));
            if *opened == Direction::Inbound {
                toml += &format!("local = \"{}\"\n", local.ip());
            }
            Some((path, alone(connection)))
        }
        None => {
            toml += &format!("local = \"{local}\"\nremote = \"{remote}\"\n");
            if *opened == Direction::Inbound {
                toml += "opener = \"remote\"\n";
            }
            toml += &format!("steps = [\n{steps}]\n");
            None
        }
    };
    toml += "[scenario.expect]\nconnection = \"open\"\n";
    Ok(Scenario { name, toml, capture })
}

fn step(event: &flows::Event) -> String {
    let (data, end) = match event.step.direction {
        Direction::Outbound => ("send", "\"send\""),
        Direction::Inbound => ("receive", "\"receive\""),
    };
    let missed = match event.step.missed {
        0 => String::new(),
        missed => format!(", missed = {missed}"),
    };
    let what = match &event.step.kind {
        Kind::Data { bytes, .. } => format!("{data} = {}", write::bytes(bytes, 4)),
        Kind::Fin => format!("fin = {end}"),
        Kind::Reset => format!("reset = {end}"),
    };
    format!("    {{ {what}{missed} }},\n")
}

/// A capture that has this connection and nothing else.
fn alone(connection: &Connection) -> Vec<u8> {
    let mut wire = Wire::new(WHOLE);
    let mut flow = wire.open(connection.time, connection.local, connection.remote, connection.opened);
    for event in &connection.events {
        wire.step(&mut flow, event.time, &event.step);
    }
    wire.into_bytes()
}

fn of_packets(name: &str, packets: &[&Packet]) -> String {
    let mut toml = format!("[[scenario]]\nname = {}\n", write::quoted(name));
    let (local, remote) = packets.first().map_or_else(Default::default, |first| {
        let _ = writeln!(toml, "local = \"{}\"\nremote = \"{}\"", first.source, first.destination);
        (Some(first.source), Some(first.destination))
    });
    toml += "steps = [\n";
    let mut shown: Option<Duration> = None;
    for packet in packets {
        toml += &format!("    {{ udp = {}", write::bytes(&packet.payload, 4));
        if Some(packet.source) != local {
            toml += &format!(", from = \"{}\"", packet.source);
        }
        if Some(packet.destination) != remote {
            toml += &format!(", to = \"{}\"", packet.destination);
        }
        // What is less than a millisecond adds up.
        let since = packet.time.saturating_sub(shown.unwrap_or(packet.time)).as_millis();
        let since = u64::try_from(since).unwrap_or(u64::MAX);
        if since > 0 {
            toml += &format!(", after_ms = {since}");
        }
        shown = Some(shown.unwrap_or(packet.time) + Duration::from_millis(since));
        toml += " },\n";
    }
    toml + "]\n"
}

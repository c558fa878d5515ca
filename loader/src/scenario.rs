//! Scenarios: what a policy is shown, and what must come of it. A TOML file beside the policy, readable by its author.

pub mod edit;
mod file;
pub mod literal;
pub mod write;

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tidegate_abi::Verdict;
use tidegate_abi::control::OnError;
use toml::Spanned;
pub use toml::Table;

use crate::capture::{Capture, Flags, Transport};
use crate::error::{Error, Exit};
use crate::flows::{self, Direction, Kind, Step};

/// Contents of maps: by the map's name, its keys and values as they were written.
pub type Contents = BTreeMap<String, Table>;

/// A scenario file: one policy and what is asked of it.
#[derive(Clone, Debug)]
pub struct Policy {
    /// The file.
    pub path: PathBuf,
    /// Builds of the policy: every scenario is run with each.
    pub objects: Vec<PathBuf>,
    /// Programs to attach, in this order; none: the only one of the object.
    pub programs: Vec<String>,
    /// What a failed run does.
    pub on_error: OnError,
    /// The scenarios, in the order of the file.
    pub scenarios: Vec<Scenario>,
}

/// One scenario.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// Its name, the only one of the file.
    pub name: String,
    /// Line of the file where it starts.
    pub line: usize,
    /// Contents of maps before it runs.
    pub maps: Contents,
    /// Values of the object's constants.
    pub globals: Table,
    /// What the policy is shown: each by itself, from the same start.
    pub traffic: Vec<Traffic>,
    /// Whether a stream is also shown under other cuts than the given ones.
    pub every_cut: bool,
    /// Other connections that are open beside each that it shows, after the first step of it.
    pub beside: u32,
    /// What must come of it.
    pub expect: Expect,
}

/// What a policy is shown.
#[derive(Clone, Debug)]
pub enum Traffic {
    /// A TCP connection at the stream hooks.
    Stream(Stream),
    /// Packets at the transport send hooks.
    Packets(Vec<PacketStep>),
}

/// A TCP connection.
#[derive(Clone, Debug)]
pub struct Stream {
    /// What to call it: where in a capture it is; empty for steps.
    pub label: String,
    /// The end on this machine.
    pub local: SocketAddr,
    /// The other end.
    pub remote: SocketAddr,
    /// Outbound when this machine opened it.
    pub opened: Direction,
    /// Path of the program that has the end on this machine, where one is said; empty when nobody knows it.
    pub application: Option<String>,
    /// What happens.
    pub steps: Vec<Step>,
}

/// A packet that this machine sends.
#[derive(Clone, Debug)]
pub struct PacketStep {
    /// What to call it: its step or its frame.
    pub label: String,
    /// From where.
    pub local: SocketAddr,
    /// To where.
    pub remote: SocketAddr,
    /// TCP with its sequence number and flags, or UDP.
    pub transport: Transport,
    /// What it carries.
    pub payload: Vec<u8>,
    /// How long after the packet before it.
    pub after: Duration,
    /// What must come of it, when that is said.
    pub fate: Option<Fate>,
    /// Where it must leave for, if not for where it was sent.
    pub leaves_for: Option<SocketAddr>,
    /// The type of service that it must leave with, if any.
    pub tos: Option<u8>,
}

/// What comes of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It leaves as it is.
    Sent,
    /// It does not leave.
    Blocked,
    /// It leaves with another payload, for somewhere else or with a type of service.
    Changed,
    /// It leaves changed, with this payload.
    Becomes(Vec<u8>),
}

/// What must come of a scenario.
#[derive(Clone, Debug, Default)]
pub struct Expect {
    /// The policy resets the connection.
    pub dropped: bool,
    /// What the other end got.
    pub sent: Delivery,
    /// What this machine got.
    pub received: Delivery,
    /// The kinds of verdict other than need-more-data, under the given cuts.
    pub verdicts: Option<Vec<Verdict>>,
    /// Runs that fail.
    pub errors: u64,
    /// Records of ring buffers: what each must start with.
    pub events: BTreeMap<String, Vec<Vec<u8>>>,
    /// Entries of maps; the text "absent" for one that must not be there.
    pub maps: Contents,
    /// Packets that leave unchanged.
    pub packets_sent: Option<u64>,
    /// Packets that don't leave.
    pub packets_blocked: Option<u64>,
    /// Packets that leave changed.
    pub packets_changed: Option<u64>,
}

/// What must come out of one direction of a stream.
#[derive(Clone, Debug, Default)]
pub struct Delivery {
    /// The whole of it.
    pub whole: Whole,
    /// Texts that must occur.
    pub contains: Vec<Vec<u8>>,
    /// Texts that must not occur.
    pub lacks: Vec<Vec<u8>>,
}

/// What one direction must deliver in all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Whole {
    /// Not looked at.
    #[default]
    Any,
    /// What was put in.
    Unchanged,
    /// These bytes.
    Exactly(Vec<u8>),
}

/// Addresses of a scenario that says nothing about them: from the ranges that documentation may use (RFC 5737, RFC 3849).
const LOCAL: &str = "10.0.0.2:49152";
const LOCAL_V6: &str = "[fd00::2]:49152";
const REMOTE_STREAM: &str = "192.0.2.1:80";
const REMOTE_PACKET: &str = "192.0.2.1:53";

impl Policy {
    /// Reads the scenario file at `path`. Objects are looked up beside it, then in `objects`, or in `target/programs`
    /// of the folders above it.
    ///
    /// # Errors
    /// The file, or one that it names, can't be used; with the line.
    pub fn read(path: &Path, objects: Option<&Path>) -> Result<Self, Error> {
        let text = read_text(path)?;
        Self::parse(&text, path, objects)
    }

    /// Gives `text`, what the scenario file at `path` holds, its meaning: as [`read`](Self::read) does.
    ///
    /// # Errors
    /// The text, or a file that it names, can't be used; with the line.
    pub fn parse(text: &str, path: &Path, objects: Option<&Path>) -> Result<Self, Error> {
        let reader = Reader { path, text };
        reader.policy(|named| reader.objects(named, objects))
    }

    /// Reads the scenario file at `path` for the build of its policy in the file `object`, whichever it names.
    ///
    /// # Errors
    /// As [`read`](Self::read)'s.
    pub fn read_for(path: &Path, object: &Path) -> Result<Self, Error> {
        Reader { path, text: &read_text(path)? }.policy(|_| Ok(vec![object.into()]))
    }

    /// The scenario files at or below `path`, in the order of their names.
    ///
    /// # Errors
    /// `path` can't be read.
    pub fn find(path: &Path) -> Result<Vec<PathBuf>, Error> {
        let is_folder = fs::metadata(path).map_err(|error| Error::file("read", path, &error))?.is_dir();
        if !is_folder {
            return Ok(vec![path.into()]);
        }
        let mut found = Vec::new();
        let mut folders = vec![path.to_path_buf()];
        while let Some(folder) = folders.pop() {
            let entries = fs::read_dir(&folder).map_err(|error| Error::file("read", &folder, &error))?;
            for entry in entries {
                let entry = entry.map_err(|error| Error::file("read", &folder, &error))?;
                let path = entry.path();
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    folders.push(path);
                } else if path.extension().is_some_and(|extension| extension == "toml")
                    && !matches!(
                        path.file_name().and_then(|name| name.to_str()),
                        Some("Cargo.toml" | "rustfmt.toml")
                    )
                {
                    found.push(path);
                }
            }
        }
        found.sort();
        Ok(found)
    }
}

/// Reads contents of maps and values of constants from the file at `path`: the `[maps]` and `[globals]` of a scenario file.
///
/// # Errors
/// The file can't be used; with the line.
pub fn read_contents(path: &Path) -> Result<(Contents, Table), Error> {
    let text = read_text(path)?;
    let reader = Reader { path, text: &text };
    let file: file::Contents = toml::from_str(&text).map_err(|error| reader.toml_error(&error))?;
    Ok((file.maps, file.globals))
}

fn read_text(path: &Path) -> Result<String, Error> {
    fs::read_to_string(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::InvalidData => {
            Error::usage("scenario-malformed", format!("{}: this is not text", path.display()))
        }
        _ => Error::file("read", path, &error),
    })
}

/// Gives a scenario file its meaning; knows where in it an error is.
struct Reader<'a> {
    path: &'a Path,
    text: &'a str,
}

impl Reader<'_> {
    fn line(&self, at: usize) -> usize {
        self.text.as_bytes().iter().take(at).filter(|byte| **byte == b'\n').count() + 1
    }

    fn error(&self, at: usize, message: impl std::fmt::Display) -> Error {
        let place = format!("{}:{}", self.path.display(), self.line(at));
        Error::usage("scenario-malformed", format!("{place}: {message}"))
    }

    fn toml_error(&self, error: &toml::de::Error) -> Error {
        self.error(error.span().map_or(0, |span| span.start), error.message())
    }

    fn folder(&self) -> &Path {
        // A name alone has an empty parent, which is no folder to any call of the system.
        self.path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
    }

    fn policy(
        &self,
        objects: impl FnOnce(Option<&[Spanned<String>]>) -> Result<Vec<PathBuf>, Error>,
    ) -> Result<Policy, Error> {
        let file: file::File = toml::from_str(self.text).map_err(|error| self.toml_error(&error))?;
        if file.scenario.is_empty() {
            return Err(self
                .error(0, "the file has no scenario")
                .with_help("a scenario starts with [[scenario]] and has a name and steps"));
        }
        let mut scenarios: Vec<Scenario> = Vec::new();
        for entry in &file.scenario {
            let scenario = self.scenario(entry, &file)?;
            if let Some(other) = scenarios.iter().find(|other| other.name == scenario.name) {
                let message =
                    format!("line {} has a scenario of this name already: {}", other.line, other.name);
                return Err(self.error(entry.span().start, message));
            }
            scenarios.push(scenario);
        }
        Ok(Policy {
            path: self.path.into(),
            objects: objects(file.objects.as_deref())?,
            programs: file.program.as_ref().map_or(Vec::new(), |names| names.all().to_vec()),
            on_error: match file.on_error {
                file::OnError::Block => OnError::Block,
                file::OnError::Permit => OnError::Permit,
            },
            scenarios,
        })
    }

    fn objects(
        &self,
        named: Option<&[Spanned<String>]>,
        folder: Option<&Path>,
    ) -> Result<Vec<PathBuf>, Error> {
        let names: Vec<(usize, String)> = match named {
            Some(names) => names.iter().map(|name| (name.span().start, name.get_ref().clone())).collect(),
            None => {
                let stem = self.path.file_stem().unwrap_or_default().to_string_lossy();
                let builds = [("c", format!("{stem}.o")), ("rs", format!("{stem}-rs.o"))];
                let built = builds.into_iter().filter(|(kind, _)| self.path.with_extension(kind).exists());
                built.map(|(_, object)| (0, object)).collect()
            }
        };
        if names.is_empty() {
            return Err(self.error(0, "no object to test").with_help(
                "say objects = [\"NAME.o\"], or put the policy's source beside this file under the same name",
            ));
        }
        let find = |(at, name): &(usize, String)| {
            let above = self.folder().ancestors().map(|folder| folder.join("target/programs"));
            // A relative path ends above the current folder's parents; the absolute one goes on to the root.
            let absolute = fs::canonicalize(self.folder()).unwrap_or_default();
            let absolute =
                absolute.ancestors().map(|folder| folder.join("target/programs")).collect::<Vec<_>>();
            let places: Vec<PathBuf> = match folder {
                Some(folder) => vec![self.folder().into(), folder.into()],
                None => [self.folder().into()].into_iter().chain(above).chain(absolute).collect(),
            };
            places.iter().map(|place| place.join(name)).find(|path| path.is_file()).ok_or_else(|| {
                let message = format!("{}:{}: there is no object {name}", self.path.display(), self.line(*at));
                let help = "build the policies with `cargo xtask programs`, or say where they are with --objects DIR";
                Error::new("object-not-found", Exit::NotFound, message).with_help(help)
            })
        };
        names.iter().map(find).collect()
    }

    fn scenario(&self, entry: &Spanned<file::Scenario>, file: &file::File) -> Result<Scenario, Error> {
        let at = entry.span().start;
        let scenario = entry.get_ref();
        let traffic = match &scenario.capture {
            Some(capture) if scenario.steps.is_empty() => self.captured(scenario, capture)?,
            Some(capture) => {
                return Err(
                    self.error(capture.span().start, "a scenario has `steps` or a `capture`, not both")
                );
            }
            None if scenario.steps.is_empty() => {
                return Err(self
                    .error(at, format!("scenario `{}` has neither `steps` nor a `capture`", scenario.name)));
            }
            None => vec![self.written(scenario)?],
        };
        let shows_packets = traffic.iter().any(|traffic| matches!(traffic, Traffic::Packets(_)));
        if let Some(beside) = scenario.beside.as_ref().filter(|_| shows_packets) {
            return Err(self.error(beside.span().start, "`beside` counts connections, not packets"));
        }
        if let Some(application) = scenario.application.as_ref().filter(|_| shows_packets) {
            let message = "`application` is whose a connection is: nobody says whose a packet is";
            return Err(self.error(application.span().start, message));
        }
        Ok(Scenario {
            name: scenario.name.clone(),
            line: self.line(at),
            maps: merged(&file.maps, &scenario.maps),
            globals: file
                .globals
                .iter()
                .chain(&scenario.globals)
                .map(|(k, v)| (k.clone(), v.clone()))
                .collect(),
            traffic,
            every_cut: matches!(scenario.segmentation, file::Segmentation::All),
            beside: scenario.beside.as_ref().map_or(0, |beside| *beside.get_ref()),
            expect: self.expect(at, &scenario.expect)?,
        })
    }

    fn address(&self, text: &Spanned<String>) -> Result<SocketAddr, Error> {
        text.get_ref().parse().map_err(|_| self.bad_address(text.span().start, text.get_ref()))
    }

    fn bad_address(&self, at: usize, text: &str) -> Error {
        let help = "addresses are written with their port: 192.0.2.1:443 or [2001:db8::1]:443";
        self.error(at, format!("`{text}` is not an address with a port")).with_help(help)
    }

    /// The two ends of a scenario of steps.
    fn ends(&self, scenario: &file::Scenario) -> Result<(SocketAddr, SocketAddr), Error> {
        let packets = scenario.steps.iter().any(|step| step.get_ref().udp.is_some());
        let known = |text: &str| text.parse().map_err(|_| self.bad_address(0, text));
        let remote = match &scenario.remote {
            Some(text) => self.address(text)?,
            None => known(if packets { REMOTE_PACKET } else { REMOTE_STREAM })?,
        };
        let local = match &scenario.local {
            Some(text) => self.address(text)?,
            None => known(if remote.is_ipv6() { LOCAL_V6 } else { LOCAL })?,
        };
        if let (Some(text), true) = (&scenario.local, local.is_ipv4() != remote.is_ipv4()) {
            return Err(
                self.error(text.span().start, "`local` and `remote` are of different address families")
            );
        }
        Ok((local, remote))
    }

    fn written(&self, scenario: &file::Scenario) -> Result<Traffic, Error> {
        let (local, remote) = self.ends(scenario)?;
        let is_packet = |step: &file::Step| step.udp.is_some() || step.tcp.is_some();
        let packets = scenario.steps.iter().filter(|step| is_packet(step.get_ref())).count();
        if packets == 0 {
            let mut steps = Vec::new();
            for step in &scenario.steps {
                steps.push(self.stream_step(step)?);
            }
            let opened = match scenario.opener {
                file::Opener::Local => Direction::Outbound,
                file::Opener::Remote => Direction::Inbound,
            };
            let application = scenario.application.as_ref().map(|path| path.get_ref().clone());
            let label = String::new();
            return Ok(Traffic::Stream(Stream { label, local, remote, opened, application, steps }));
        }
        let mut steps = Vec::new();
        for (number, step) in (1..).zip(&scenario.steps) {
            if !is_packet(step.get_ref()) {
                let message = "a scenario shows a connection (send, receive, fin, reset) or packets (udp, tcp), not both";
                return Err(self.error(step.span().start, message));
            }
            steps.push(self.packet_step(number, step, (local, remote))?);
        }
        Ok(Traffic::Packets(steps))
    }

    fn stream_step(&self, spanned: &Spanned<file::Step>) -> Result<Step, Error> {
        let at = spanned.span().start;
        let step = spanned.get_ref();
        let way = |way: file::Way| match way {
            file::Way::Send => Direction::Outbound,
            file::Way::Receive => Direction::Inbound,
        };
        if step.flags.is_some()
            || step.from.is_some()
            || step.to.is_some()
            || step.is.is_some()
            || step.becomes.is_some()
            || step.leaves_for.is_some()
            || step.tos.is_some()
        {
            let message = "`flags`, `from`, `to`, `is`, `becomes`, `leaves_for` and `tos` are for packets (udp, tcp); \
                           what comes of a connection stands in [scenario.expect]";
            return Err(self.error(at, message));
        }
        let data = |direction, text: &file::OneOrMany| {
            let bytes = self.bytes(at, text)?;
            if bytes.is_empty() {
                return Err(self.error(at, "a piece of a stream has at least one byte"));
            }
            Ok((direction, Kind::Data { bytes, push: true }))
        };
        let (direction, kind) = match (&step.send, &step.receive, step.fin, step.reset) {
            (Some(text), None, None, None) => data(Direction::Outbound, text)?,
            (None, Some(text), None, None) => data(Direction::Inbound, text)?,
            (None, None, Some(of), None) => (way(of), Kind::Fin),
            (None, None, None, Some(of)) => (way(of), Kind::Reset),
            _ => {
                return Err(
                    self.error(at, "a step is one of `send`, `receive`, `fin`, `reset`, `udp`, `tcp`")
                );
            }
        };
        Ok(Step { after: step.after(), missed: step.missed.unwrap_or(0), ..Step::new(direction, kind) })
    }

    fn packet_step(
        &self,
        number: usize,
        spanned: &Spanned<file::Step>,
        (local, remote): (SocketAddr, SocketAddr),
    ) -> Result<PacketStep, Error> {
        let at = spanned.span().start;
        let step = spanned.get_ref();
        let end = |text: &Option<String>, default| match text {
            Some(text) => text.parse().map_err(|_| self.bad_address(at, text)),
            None => Ok(default),
        };
        let (payload, transport) = match (&step.udp, &step.tcp, &step.flags) {
            (Some(text), None, None) => (text, Transport::Udp),
            (None, Some(text), flags) => {
                let flags = self.flags(at, flags.as_deref().unwrap_or("psh,ack"))?;
                (text, Transport::Tcp { sequence: 1, flags })
            }
            _ => return Err(self.error(at, "a packet is one of `udp` and `tcp`; `flags` are TCP's")),
        };
        let readdressed = step.leaves_for.is_some() || step.tos.is_some();
        let fate = match (step.is, &step.becomes) {
            (Some(file::Is::Sent | file::Is::Blocked), _) if readdressed => {
                return Err(self.error(at, "what `leaves_for` somewhere else or with a `tos` is changed"));
            }
            (None, None) if readdressed => Fate::Changed,
            (None, Some(text)) => Fate::Becomes(self.bytes(at, text)?),
            (Some(file::Is::Changed), Some(text)) => Fate::Becomes(self.bytes(at, text)?),
            (Some(_), Some(_)) => {
                return Err(self.error(at, "what `becomes` something else is not sent or blocked"));
            }
            (None | Some(file::Is::Sent), None) => Fate::Sent,
            (Some(file::Is::Blocked), None) => Fate::Blocked,
            (Some(file::Is::Changed), None) => Fate::Changed,
        };
        let stray = [step.send.is_some(), step.receive.is_some(), step.fin.is_some(), step.reset.is_some()];
        if stray.contains(&true) || step.missed.is_some() {
            return Err(self.error(at, "a step is one of `send`, `receive`, `fin`, `reset`, `udp`, `tcp`"));
        }
        let (local, remote) = (end(&step.from, local)?, end(&step.to, remote)?);
        if local.is_ipv4() != remote.is_ipv4() {
            return Err(self.error(at, "`from` and `to` are of different address families"));
        }
        let label = format!("step {number}");
        Ok(PacketStep {
            label,
            local,
            remote,
            transport,
            payload: self.bytes(at, payload)?,
            after: step.after(),
            fate: Some(fate),
            leaves_for: step.leaves_for.as_ref().map(|_| end(&step.leaves_for, remote)).transpose()?,
            tos: step.tos,
        })
    }

    fn flags(&self, at: usize, text: &str) -> Result<Flags, Error> {
        let mut flags = Flags::default();
        for name in text.split(',').map(str::trim).filter(|name| !name.is_empty()) {
            *match name {
                "syn" => &mut flags.syn,
                "fin" => &mut flags.fin,
                "rst" => &mut flags.rst,
                "psh" => &mut flags.psh,
                "ack" => &mut flags.ack,
                _ => return Err(self.error(at, format!("`{name}` is not a flag: syn, fin, rst, psh or ack"))),
            } = true;
        }
        Ok(flags)
    }

    fn captured(&self, scenario: &file::Scenario, name: &Spanned<String>) -> Result<Vec<Traffic>, Error> {
        let at = name.span().start;
        let absolute = fs::canonicalize(self.folder()).unwrap_or_default();
        let above = absolute.ancestors().map(|folder| folder.join("examples/captures"));
        let mut places =
            [self.folder().to_path_buf()].into_iter().chain(above).map(|place| place.join(name.get_ref()));
        let path = places.find(|path| path.is_file()).ok_or_else(|| {
            let help =
                "captures are looked up beside this file and in examples/captures of the folders above";
            let message =
                format!("{}:{}: there is no capture {}", self.path.display(), self.line(at), name.get_ref());
            Error::new("capture-not-found", Exit::NotFound, message).with_help(help)
        })?;
        let capture = Capture::read(&path)?;
        let local = match &scenario.local {
            Some(text) => {
                let address = text.get_ref().parse();
                vec![address.map_err(|_| {
                    self.error(text.span().start, "with a capture, `local` is an address without port")
                })?]
            }
            None => Vec::new(),
        };
        let wanted = |remote: SocketAddr| scenario.port.is_none_or(|port| port == remote.port());
        if scenario.expect.packets.is_some() {
            let packets = flows::outgoing(&capture, &local).into_iter().filter(|packet| {
                packet.transport == Transport::Udp && packet.cut == 0 && wanted(packet.destination)
            });
            let steps: Vec<_> = packets
                .map(|packet| PacketStep {
                    label: format!("frame {}", packet.frame),
                    local: packet.source,
                    remote: packet.destination,
                    transport: packet.transport,
                    payload: packet.payload.clone(),
                    after: Duration::ZERO,
                    fate: None,
                    leaves_for: None,
                    tos: None,
                })
                .collect();
            if steps.is_empty() {
                return Err(self.error(at, "the capture has no UDP packet that is sent to such a port"));
            }
            return Ok(vec![Traffic::Packets(steps)]);
        }
        let connections = flows::connections(&capture, &local);
        let number = scenario.flow.as_ref();
        if let Some(number) = number.filter(|number| !(1..=connections.len()).contains(number.get_ref())) {
            let message = format!("the capture has connections 1 to {}", connections.len());
            return Err(self.error(number.span().start, message));
        }
        let chosen = (1..).zip(connections).filter(|(at, connection)| {
            number.is_none_or(|number| number.get_ref() == at) && wanted(connection.remote)
        });
        let traffic: Vec<_> = chosen
            .map(|(at, connection)| {
                Traffic::Stream(Stream {
                    label: format!("connection {at}"),
                    local: connection.local,
                    remote: connection.remote,
                    opened: connection.opened,
                    application: scenario.application.as_ref().map(|path| path.get_ref().clone()),
                    steps: connection.events.into_iter().map(|event| event.step).collect(),
                })
            })
            .collect();
        if traffic.is_empty() {
            return Err(self.error(at, "the capture has no such connection").with_help(
                "a scenario for send programs says expect.packets = { sent = .., blocked = .. }",
            ));
        }
        Ok(traffic)
    }

    fn bytes(&self, at: usize, text: &file::OneOrMany) -> Result<Vec<u8>, Error> {
        self.pieces(at, text.all()).map(|pieces| pieces.concat())
    }

    fn pieces(&self, at: usize, texts: &[String]) -> Result<Vec<Vec<u8>>, Error> {
        let piece =
            |text: &String| literal::bytes(text, self.folder()).map_err(|error| self.error(at, error));
        texts.iter().map(piece).collect()
    }

    fn expect(&self, at: usize, expect: &file::Expect) -> Result<Expect, Error> {
        let dropped = matches!(expect.connection, Some(file::Connection::Dropped));
        let delivery = |whole: &Option<file::OneOrMany>, contains: &[String], lacks: &[String]| {
            let whole = match whole {
                Some(file::OneOrMany::One(word)) if word == "unchanged" => Whole::Unchanged,
                Some(file::OneOrMany::One(word)) if word == "nothing" => Whole::Exactly(Vec::new()),
                Some(text) => Whole::Exactly(self.bytes(at, text)?),
                None if dropped || !contains.is_empty() || !lacks.is_empty() => Whole::Any,
                None => Whole::Unchanged,
            };
            let (contains, lacks) = (self.pieces(at, contains)?, self.pieces(at, lacks)?);
            Ok::<_, Error>(Delivery { whole, contains, lacks })
        };
        let verdict = |name: &String| {
            Verdict::from_name(name).ok_or_else(|| {
                let known = Verdict::ALL.map(Verdict::name).join(", ");
                self.error(at, format!("`{name}` is not a verdict: {known}"))
            })
        };
        let events = expect.events.iter().map(|(map, records)| {
            let records =
                records.iter().map(|text| event(text).unwrap_or_else(|| literal::bytes(text, self.folder())));
            let records = records.collect::<Result<_, _>>().map_err(|error| self.error(at, error))?;
            Ok((map.clone(), records))
        });
        let packets = expect.packets;
        Ok(Expect {
            dropped,
            sent: delivery(&expect.sent, &expect.sent_contains, &expect.sent_lacks)?,
            received: delivery(&expect.received, &expect.received_contains, &expect.received_lacks)?,
            verdicts: expect
                .verdicts
                .as_ref()
                .map(|names| names.iter().map(verdict).collect::<Result<_, _>>())
                .transpose()?,
            errors: expect.errors,
            events: events.collect::<Result<_, Error>>()?,
            maps: expect.maps.clone(),
            packets_sent: packets.and_then(|packets| packets.sent),
            packets_blocked: packets.and_then(|packets| packets.blocked),
            packets_changed: packets.and_then(|packets| packets.changed),
        })
    }
}

/// A record that is written as `str:text`.
fn event(text: &str) -> Option<Result<Vec<u8>, String>> {
    text.strip_prefix("str:").map(|text| Ok(text.into()))
}

/// The contents of `base` with those of `over` added: key by key.
pub(crate) fn merged(base: &Contents, over: &Contents) -> Contents {
    let mut all = base.clone();
    for (map, entries) in over {
        all.entry(map.clone())
            .or_default()
            .extend(entries.iter().map(|(key, value)| (key.clone(), value.clone())));
    }
    all
}

#[cfg(test)]
mod tests;

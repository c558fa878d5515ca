//! Runs the programs of an object over a capture, and writes what would have been on the wire.

mod policy;
mod profile;
mod report;

use std::collections::HashSet;
use std::fs;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use tidegate_abi::ProgramType;

use crate::capture::{Capture, Packet, Transport};
use crate::cli;
use crate::error::{Error, Exit};
use crate::flows::{self, Connection, Direction, Kind, Step};
use crate::host::{self, Config, Flow, Machine, Session};
use crate::object::Object;
use crate::wire::{self, Wire, WireFlow};

pub use policy::{Chain, OnErrorArg, Policy};
use profile::Watch;
pub use profile::{Profile, ProfileOptions, profile};
pub use report::Report;
use report::{ConnectionReport, Event, PacketReport};

/// What `tidegate prog run` was asked to do.
#[derive(clap::Args, Clone, Debug)]
pub struct Options {
    /// The object, and how its programs are set up
    #[command(flatten)]
    pub policy: Policy,
    /// The capture: pcap or pcapng
    #[arg(long, value_name = "IN")]
    pub pcap: PathBuf,
    /// Write what would have been on the wire: changed streams with sequence numbers and checksums made anew
    #[arg(long, value_name = "OUT")]
    pub pcap_out: Option<PathBuf>,
    /// Address of this machine, instead of whoever opened a connection or spoke first
    #[arg(long, value_name = "ADDR")]
    pub local: Vec<IpAddr>,
    /// Run the capture so many times, one after the other, or until a run fails; maps go on with what they hold. What is told and
    /// written is of the last time
    #[arg(long, value_name = "N", default_value = "1")]
    pub repeat: NonZeroU32,
}

/// Does it.
///
/// # Errors
/// Input that cannot be used.
pub fn run(options: &Options) -> Result<Report, Error> {
    let object = Object::read(&options.policy.file)?;
    let mut machine = Machine::new(&object, &options.policy.setup()?)?;
    let start = Instant::now();
    let mut report = over(&mut machine, options, None)?;
    while report.times < options.repeat.get() && cli::Report::exit(&report) == Exit::Ok {
        let times = report.times + 1;
        report = over(&mut machine, options, None)?;
        report.times = times;
    }
    // Once is always the same, whatever the machine is busy with.
    report.seconds_each = (report.times > 1).then(|| start.elapsed().as_secs_f64() / f64::from(report.times));
    Ok(report)
}

/// Runs `machine` over the capture of `options`; `watch` is told of each piece that was shown.
fn over(machine: &mut Machine, options: &Options, watch: Option<&mut Watch>) -> Result<Report, Error> {
    let capture = Capture::read(&options.pcap)?;
    let sends = machine.runs(ProgramType::Send);
    // TCP goes through the stream hooks, or as packets when only the send hooks have a program.
    let as_streams = machine.runs(ProgramType::Stream) || !sends;
    let connections = if as_streams { flows::connections(&capture, &options.local) } else { Vec::new() };
    let outgoing: HashSet<u64> =
        flows::outgoing(&capture, &options.local).iter().map(|packet| packet.frame).collect();

    let mut timeline: Vec<(u64, Item<'_>)> = Vec::new();
    for (at, connection) in connections.iter().enumerate() {
        timeline.push((connection.frame, Item::Open(at)));
        timeline.extend(connection.events.iter().map(|event| (event.frame, Item::Step(at, event))));
    }
    for packet in &capture.packets {
        if packet.transport == Transport::Udp || !as_streams {
            let here = sends && outgoing.contains(&packet.frame);
            timeline.push((packet.frame, if here { Item::Send(packet) } else { Item::Pass(packet) }));
        }
    }
    timeline.sort_by_key(|(frame, _)| *frame);

    let start = capture.packets.first().map_or(Duration::ZERO, |packet| packet.time);
    let session = machine.session(Config { trace_length: 0, ..Config::default() })?;
    let mut run = Run {
        session,
        connections: &connections,
        flows: connections.iter().map(|_| None).collect(),
        wire: Wire::new(wire::ETHERNET),
        report: Report::new(options, &capture),
        start,
        watch,
    };
    for (_, item) in timeline {
        run.take(item)?;
    }
    let (report, wire) = run.end()?;
    if let Some(path) = &options.pcap_out {
        fs::write(path, wire.into_bytes()).map_err(|error| Error::file("write", path, &error))?;
    }
    Ok(report)
}

/// What happens next in a capture.
#[derive(Clone, Copy)]
enum Item<'a> {
    /// A connection appears.
    Open(usize),
    /// Something becomes visible on it.
    Step(usize, &'a flows::Event),
    /// This machine sends a packet.
    Send(&'a Packet),
    /// A packet that no hook sees.
    Pass(&'a Packet),
}

/// A capture on its way through a machine.
struct Run<'m, 'c, 'w> {
    session: Session<'m>,
    connections: &'c [Connection],
    /// The connections that were opened, with their place on the wire.
    flows: Vec<Option<(Flow, WireFlow)>>,
    wire: Wire,
    report: Report,
    /// Time of the first packet.
    start: Duration,
    watch: Option<&'w mut Watch>,
}

impl Run<'_, '_, '_> {
    fn take(&mut self, item: Item<'_>) -> Result<(), Error> {
        match item {
            Item::Open(at) => {
                let connection = &self.connections[at];
                let flow = self.session.open(connection.local, connection.remote, connection.opened);
                let on_wire =
                    self.wire.open(connection.time, connection.local, connection.remote, connection.opened);
                self.flows[at] = Some((flow, on_wire));
                self.report.connections.push(ConnectionReport::new(at + 1, connection));
                Ok(())
            }
            Item::Step(at, event) => self.step(at, event.time, &event.step),
            Item::Send(packet) => self.send(packet),
            Item::Pass(packet) => {
                self.wire.pass(packet);
                Ok(())
            }
        }
    }

    fn step(&mut self, at: usize, time: Duration, step: &Step) -> Result<(), Error> {
        let Some((flow, _)) = &self.flows[at] else { return Ok(()) };
        let flow = *flow;
        let place = self.report.connections.iter().position(|report| report.number == at + 1);
        let Some(place) = place else { return Ok(()) };
        if self.report.connections[place].dropped {
            return Ok(());
        }
        host::set_time(time.saturating_sub(self.start));
        self.session.show(flow, step);
        self.session.settle();
        let report = &mut self.report.connections[place];
        if let Kind::Data { bytes, .. } = &step.kind {
            report.bytes_mut(step.direction).shown += bytes.len() as u64;
        }
        let tally = self.session.tally()?;
        if let Some(watch) = &mut self.watch {
            watch.shown(&self.session, &tally)?;
        }
        report.tally.add(&tally);
        report.events.extend(Event::all(self.session.events()?));
        self.collect(at, place, time)
    }

    /// Puts on the wire what has come out of a connection.
    fn collect(&mut self, at: usize, place: usize, time: Duration) -> Result<(), Error> {
        let Some((flow, on_wire)) = &mut self.flows[at] else { return Ok(()) };
        let report = &mut self.report.connections[place];
        for direction in Direction::ALL {
            let out = self.session.take(*flow, direction);
            report.bytes_mut(direction).delivered += out.bytes.len() as u64;
            self.wire.data(on_wire, time, direction, &out.bytes);
            if out.fin {
                self.wire.fin(on_wire, time, direction);
            }
            if out.aborted && !self.session.is_dropped(*flow) {
                self.wire.reset(on_wire, time, direction);
            }
        }
        if self.session.is_dropped(*flow) && !report.dropped {
            report.dropped = true;
            self.wire.reset(on_wire, time, Direction::Outbound);
        }
        Ok(())
    }

    fn send(&mut self, packet: &Packet) -> Result<(), Error> {
        if packet.cut > 0 {
            self.report.cut_packets += 1;
            return Ok(());
        }
        host::set_time(packet.time.saturating_sub(self.start));
        let whole = [&packet.header[..], &packet.payload].concat();
        let asked = self.session.send_whole(packet.source, packet.destination, packet.transport, whole);
        self.session.settle();
        let passed = self.session.passed(asked);
        let mut report = PacketReport::new(packet);
        for sent in self.session.take_sent() {
            report.left(passed, packet, &sent.bytes);
            self.wire.packet(packet.time, sent.local, sent.remote, sent.protocol, sent.bytes);
        }
        report.tally = self.session.tally()?;
        if let Some(watch) = &mut self.watch {
            watch.shown(&self.session, &report.tally)?;
        }
        report.events = Event::all(self.session.events()?);
        self.report.packets.push(report);
        Ok(())
    }

    fn end(mut self) -> Result<(Report, Wire), Error> {
        for at in 0..self.flows.len() {
            let Some((flow, _)) = &self.flows[at] else { continue };
            self.session.settle();
            let time =
                self.connections[at].events.last().map_or(self.connections[at].time, |event| event.time);
            let place = self.report.connections.iter().position(|report| report.number == at + 1);
            let flow = *flow;
            if let Some(place) = place {
                self.collect(at, place, time)?;
            }
            self.session.close(flow);
        }
        self.report.broken = self.session.end();
        Ok((self.report, self.wire))
    }
}

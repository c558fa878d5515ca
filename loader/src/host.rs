//! A whole machine in this process: a runtime, the callouts, and the simulated filter engine that calls them.

mod loaded;
mod platform;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use fwps_sim::{Filter, FlowId, FlowSpec, FlowState, Packet, SendId, Simulator};
use fwps_sys::{FWP_ACTION, FWPS_STREAM_FLAG};
use tidegate_abi::control::{self, Filters, Header, Id, LinkInfo, LinkList, Status};
use tidegate_abi::{Hook, ProgramType};
use tidegate_callout::{Callouts, NOTICES, Objects, Options, filter_action, key, layer_of};
use tidegate_runtime::{Runtime, Shared};
use tidegate_vm::Visits;

use crate::capture::{Flags, Transport};
use crate::client::{self, Client};
use crate::error::{Error, Exit};
use crate::flows::{Direction, Kind, Step};
use crate::object::Object;
use crate::scenario::{Contents, Stream};
use crate::tally::Tally;

pub use fwps_sim::{Config, Delivered, Sent};
pub use loaded::{Changed, Difference, Link, Loaded, Planned, PlannedMap, Setup, Staged};
pub use platform::{START, pass_time, platform, set_time};

/// A runtime with a policy in it. It outlives the filter engines that it works under, one [`Session`] each.
pub struct Machine {
    runtime: Shared<Runtime>,
    client: Client,
    loaded: Loaded,
    /// Others whose programs run behind those of the policy: nothing more is asked about them than what they do.
    behind: Vec<Loaded>,
    /// The links that run, and what they had counted when they were last asked.
    counted: BTreeMap<Id, Tally>,
}

/// Where a new version of a policy is made ready: its maps made, its programs verified. That takes as long as it takes, and
/// nothing that runs waits for it.
pub struct Stage {
    client: Client,
    loaded: Loaded,
}

impl Stage {
    /// Loads the programs of `object` beside the ones that run: see [`Loaded::stage`].
    ///
    /// # Errors
    /// The new version does not fit, or is refused. Nothing of it is left then.
    pub fn load(mut self, object: &Object, setup: &Setup) -> Result<Staged, Error> {
        self.loaded.stage(&mut self.client, object, setup)
    }
}

impl Machine {
    /// A machine with the programs of `object`, set up as `setup` says.
    ///
    /// # Errors
    /// The setup does not fit the object, or a program is refused.
    pub fn new(object: &Object, setup: &Setup) -> Result<Self, Error> {
        Self::with(runtime()?, object, setup)
    }

    /// The same, and which instructions run is written down. It takes its time.
    ///
    /// # Errors
    /// As [`new`](Self::new)'s.
    pub fn traced(object: &Object, setup: &Setup) -> Result<Self, Error> {
        let runtime = Runtime::traced(platform()).map_err(|status| broken(status.text()))?;
        Self::with(runtime, object, setup)
    }

    fn with(runtime: Shared<Runtime>, object: &Object, setup: &Setup) -> Result<Self, Error> {
        let mut client = Client::new(Shared::clone(&runtime));
        let loaded = Loaded::new(&mut client, object, setup)?;
        let counted = loaded.links().iter().map(|link| (link.id(), Tally::default())).collect();
        Ok(Self { runtime, client, loaded, behind: Vec::new(), counted })
    }

    /// A machine without programs.
    ///
    /// # Errors
    /// There is not enough memory.
    pub fn empty() -> Result<Self, Error> {
        let runtime = runtime()?;
        let client = Client::new(Shared::clone(&runtime));
        Ok(Self { runtime, client, loaded: Loaded::default(), behind: Vec::new(), counted: BTreeMap::new() })
    }

    /// Adds the programs of another object behind those that are there.
    ///
    /// # Errors
    /// As [`new`](Self::new)'s.
    pub fn add(&mut self, object: &Object, setup: &Setup) -> Result<(), Error> {
        let others = u16::try_from(self.links().count()).unwrap_or(u16::MAX);
        let loaded = Loaded::behind(&mut self.client, object, setup, others)?;
        self.behind.push(loaded);
        self.relinked()
    }

    /// The objects, in the order that their programs run.
    fn all(&self) -> impl Iterator<Item = &Loaded> {
        std::iter::once(&self.loaded).chain(&self.behind)
    }

    fn links(&self) -> impl Iterator<Item = &Link> {
        self.all().flat_map(Loaded::links)
    }

    /// What control messages may be put to by any thread, as long as they change nothing that runs.
    pub fn runtime(&self) -> Shared<Runtime> {
        Shared::clone(&self.runtime)
    }

    /// What the runs of each program visited, by slot, of a machine that is [`traced`](Self::traced).
    ///
    /// # Errors
    /// It is not.
    pub fn visits(&self) -> Result<Vec<(String, Vec<Visits>)>, Error> {
        let mut programs: Vec<_> = self.links().map(|link| (link.loaded, &link.program)).collect();
        // A program is at the hooks of both address families.
        programs.sort_by_key(|(id, _)| *id);
        programs.dedup_by_key(|(id, _)| *id);
        let visits = |(id, name): (u32, &String)| {
            let visits = self.runtime.visits(id).map_err(|status| broken(status.text()))?;
            Ok((name.clone(), visits))
        };
        programs.into_iter().map(visits).collect()
    }

    /// Whether a program runs at hooks of this type.
    pub fn runs(&self, kind: ProgramType) -> bool {
        self.links().any(|link| link.hook.program_type() == kind)
    }

    /// A program that runs at a hook of another type, if there is one.
    pub fn runs_beside(&self, kind: ProgramType) -> Option<&str> {
        let other = self.links().find(|link| link.hook.program_type() != kind);
        other.map(|link| link.program.as_str())
    }

    /// Puts the maps back to what they were when the policy was loaded, and starts the machine's clock anew.
    ///
    /// # Errors
    /// The runtime refuses.
    pub fn reset(&mut self) -> Result<(), Error> {
        platform::restart();
        self.loaded.reset(&mut self.client)
    }

    /// Takes the records of all ring buffers, by the name of the map.
    ///
    /// # Errors
    /// The runtime refuses.
    pub fn events(&mut self) -> Result<BTreeMap<String, Vec<Vec<u8>>>, Error> {
        self.loaded.events(&mut self.client)
    }

    /// Holds the contents of the maps against `expected`: what is different, in words.
    ///
    /// # Errors
    /// `expected` does not fit the maps.
    pub fn differences(&mut self, expected: &Contents) -> Result<Vec<Difference>, Error> {
        self.loaded.differences(&mut self.client, expected)
    }

    /// See [`Loaded::changed`].
    ///
    /// # Errors
    /// As [`Loaded::changed`]'s.
    pub fn changed(&mut self) -> Result<Vec<Changed>, Error> {
        self.loaded.changed(&mut self.client)
    }

    /// What the policy did since this was last asked.
    ///
    /// # Errors
    /// The runtime refuses.
    pub fn tally(&mut self) -> Result<Tally, Error> {
        let mut sum = Tally::default();
        for (link, counted) in &mut self.counted {
            match self.client.call(&LinkInfo { link: *link }) {
                Ok(info) => {
                    let now = Tally::from(info.counters);
                    sum.add(&now.since(&std::mem::replace(counted, now)));
                }
                // It was detached meanwhile.
                Err(refused) if refused.status == Status::NotFound => {}
                Err(refused) => return Err(broken(&refused.to_string())),
            }
        }
        Ok(sum)
    }

    /// The links may be others now.
    fn relinked(&mut self) -> Result<(), Error> {
        let mut counted = BTreeMap::new();
        for hook in Hook::ALL {
            let links =
                self.client.call(&LinkList { hook }).map_err(|refused| broken(&refused.to_string()))?;
            counted.extend(links.iter().map(|link| (*link, self.counted.remove(link).unwrap_or_default())));
        }
        self.counted = counted;
        Ok(())
    }

    /// Where a new version of the object that runs `at` this place of those that run one behind the other is made ready, by any
    /// thread, while this machine works on.
    pub fn stage(&self, at: usize) -> Stage {
        let loaded = self.all().nth(at).cloned().unwrap_or_default();
        Stage { client: Client::new(Shared::clone(&self.runtime)), loaded }
    }

    /// Puts a new version in the place of the one that runs `at` this place.
    ///
    /// # Errors
    /// The runtime refuses; the old version runs on.
    pub fn commit(&mut self, at: usize, staged: Staged) -> Result<(), Error> {
        let Self { loaded, behind, client, .. } = self;
        let loaded = std::iter::once(loaded).chain(behind).nth(at);
        loaded.ok_or_else(|| broken("nothing runs there"))?.commit(client, staged)
    }

    /// A filter engine for real traffic of which only programs of this type are shown anything: others are attached nowhere any
    /// more. It keeps no account of what happens in it, and its clock runs.
    ///
    /// # Errors
    /// As [`session`](Self::session)'s.
    pub fn live(&mut self, kind: ProgramType) -> Result<Session<'_>, Error> {
        platform::run_clock();
        self.runtime.set_filters(Filters::Only(kind));
        self.session(Config { trace_length: 0, ..Config::default() })
    }

    /// A filter engine with the callouts in it, which behaves as `config` says.
    ///
    /// # Errors
    /// The callouts can't be registered.
    pub fn session(&mut self, config: Config) -> Result<Session<'_>, Error> {
        let sim = Simulator::new(config);
        let device = sim.device_object();
        let objects = Objects { driver: device, device };
        let callouts = sim
            .enter(|| Callouts::register(objects, Shared::clone(&self.runtime), AT_ONCE))
            .map_err(|error| broken(&error.to_string()))?;
        let hooks = Hook::ALL.map(|hook| Filter::at(layer_of(hook), key(hook)).action(filter_action(hook)));
        let notices =
            NOTICES.map(|told| Filter::at(told.layer, told.key).action(FWP_ACTION::CALLOUT_INSPECTION));
        let filters = hooks.into_iter().chain(notices);
        let filters = filters.map(|filter| sim.add_filter(filter.context(callouts.context()))).collect();
        Ok(Session { machine: self, sim, callouts, filters })
    }
}

/// Nothing comes any more when a session ends, so that nobody waits for it.
const AT_ONCE: Options = Options { mid_stream: false, grace: 0 };

/// An empty runtime of this process.
///
/// # Errors
/// There is not enough memory.
pub fn runtime() -> Result<Shared<Runtime>, Error> {
    Runtime::shared(platform()).map_err(|status| broken(status.text()))
}

fn broken(reason: &str) -> Error {
    Error::new("host", Exit::Partial, format!("the machine in this process can't be set up: {reason}"))
}

/// A filter engine at work. End it with [`Session::end`].
#[must_use]
pub struct Session<'m> {
    machine: &'m mut Machine,
    sim: Simulator,
    callouts: Callouts,
    filters: Vec<u64>,
}

/// A connection of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Flow(FlowId);

impl Flow {
    /// What callouts and programs know it by.
    pub fn id(self) -> u64 {
        self.0.0
    }
}

/// A packet of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked(SendId);

/// How a connection looks from both its ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// What came out of the outbound direction.
    pub sent: Delivered,
    /// What came out of the inbound direction.
    pub received: Delivered,
    /// The policy reset the connection.
    pub dropped: bool,
}

impl Session<'_> {
    /// Opens a connection.
    pub fn open(&self, local: SocketAddr, remote: SocketAddr, opened: Direction) -> Flow {
        Flow(self.sim.open_flow(&spec(local, remote, opened)))
    }

    /// The same, when the program at this path has the local end, or nobody knows which: an empty path.
    pub fn open_by(
        &self,
        local: SocketAddr,
        remote: SocketAddr,
        opened: Direction,
        application: &str,
    ) -> Flow {
        let mut spec = spec(local, remote, opened);
        if application.is_empty() {
            spec.process_id = 0;
        }
        Flow(self.sim.open_flow(&FlowSpec { application: application.into(), ..spec }))
    }

    /// Opens a connection of a scenario.
    pub fn open_as(&self, stream: &Stream, local: SocketAddr, remote: SocketAddr) -> Flow {
        match &stream.application {
            Some(application) => self.open_by(local, remote, stream.opened, application),
            None => self.open(local, remote, stream.opened),
        }
    }

    /// Lets the next thing happen to a connection.
    pub fn show(&self, flow: Flow, step: &Step) {
        if !step.after.is_zero() {
            self.settle();
            pass_time(step.after);
        }
        let direction = sim_direction(step.direction);
        if step.missed > 0 {
            self.sim.miss(flow.0, direction, usize::try_from(step.missed).unwrap_or(usize::MAX));
        }
        match &step.kind {
            Kind::Data { bytes, push } => {
                // Only received bytes say that they were pushed.
                let flags = match (push, step.direction) {
                    (true, Direction::Inbound) => FWPS_STREAM_FLAG::RECEIVE_PUSH,
                    _ => FWPS_STREAM_FLAG::NONE,
                };
                self.sim.indicate_with(flow.0, direction, bytes, flags);
            }
            Kind::Fin => self.sim.fin(flow.0, direction),
            Kind::Reset => self.sim.abort(flow.0, direction),
        }
    }

    /// Whether the policy has reset a connection.
    pub fn is_dropped(&self, flow: Flow) -> bool {
        self.sim.flow_state(flow.0) == FlowState::Dropped
    }

    /// What has come out of a direction since this was last asked.
    pub fn take(&self, flow: Flow, direction: Direction) -> Delivered {
        self.sim.take_delivered(flow.0, sim_direction(direction))
    }

    /// Lets everything that is under way come to its end, and says what became of a connection. It is over then.
    pub fn close(&self, flow: Flow) -> Delivery {
        self.sim.settle();
        let dropped = self.is_dropped(flow);
        self.sim.close_flow(flow.0);
        let sent = self.sim.delivered(flow.0, fwps_sim::Direction::Send);
        let received = self.sim.delivered(flow.0, fwps_sim::Direction::Receive);
        Delivery { sent, received, dropped }
    }

    /// Forgets a connection that is over: a session that sees many keeps nothing of each.
    pub fn forget(&self, flow: Flow) {
        self.sim.forget_flow(flow.0);
    }

    /// Lets everything that is under way come to its end.
    pub fn settle(&self) {
        self.sim.settle();
    }

    /// Sends a packet.
    pub fn send(&self, local: SocketAddr, remote: SocketAddr, transport: Transport, payload: &[u8]) -> Asked {
        Asked(self.sim.send(&match transport {
            Transport::Udp => Packet::udp(local, remote, payload),
            Transport::Tcp { sequence, flags } => {
                Packet::tcp(local, remote, tcp_flags(flags), sequence, payload)
            }
        }))
    }

    /// Sends a packet as it is, from its transport header on. Its checksum is made right.
    pub fn send_whole(
        &self,
        local: SocketAddr,
        remote: SocketAddr,
        transport: Transport,
        bytes: Vec<u8>,
    ) -> Asked {
        Asked(self.sim.send(&Packet::transport(transport.protocol(), local, remote, vec![bytes])))
    }

    /// Shows `bytes` so often on a connection of their own; how often that called the callouts, and how long it took in them.
    pub fn time(&self, count: u32, bytes: &[u8]) -> (u64, Duration) {
        let ends = ((Ipv4Addr::new(10, 0, 0, 2), 49152).into(), (Ipv4Addr::new(192, 0, 2, 1), 80).into());
        let flow = self.sim.open_flow(&FlowSpec::outbound(ends.0, ends.1));
        let _ = self.sim.take_classify_time();
        for _ in 0..count {
            self.sim.indicate(flow, fwps_sim::Direction::Send, bytes);
        }
        let time = self.sim.take_classify_time();
        self.close(Flow(flow));
        time
    }

    /// Takes the records of all ring buffers, by the name of the map.
    ///
    /// # Errors
    /// The runtime refuses.
    pub fn events(&mut self) -> Result<BTreeMap<String, Vec<Vec<u8>>>, Error> {
        self.machine.events()
    }

    /// Whether the packet itself left; one that was injected in its place is another.
    pub fn passed(&self, asked: Asked) -> bool {
        self.sim.outcome(asked.0) == Some(fwps_sim::SendOutcome::Permitted)
    }

    /// The packets that left since this was last asked.
    pub fn take_sent(&self) -> Vec<Sent> {
        self.sim.take_sent()
    }

    /// Forgets the packets that were sent: a session that sees many keeps nothing of each.
    pub fn forget_sends(&self) {
        self.sim.forget_sends();
    }

    /// What the policy did since this was last asked.
    ///
    /// # Errors
    /// The runtime refuses.
    pub fn tally(&mut self) -> Result<Tally, Error> {
        self.machine.tally()
    }

    /// See [`Machine::visits`].
    ///
    /// # Errors
    /// As [`Machine::visits`]'s.
    pub fn visits(&self) -> Result<Vec<(String, Vec<Visits>)>, Error> {
        self.machine.visits()
    }

    /// See [`Machine::stage`].
    pub fn stage(&self, at: usize) -> Stage {
        self.machine.stage(at)
    }

    /// See [`Machine::commit`].
    ///
    /// # Errors
    /// The runtime refuses; the old version runs on.
    pub fn commit(&mut self, at: usize, staged: Staged) -> Result<(), Error> {
        self.machine.commit(at, staged)
    }

    /// Answers a control message of someone else.
    pub fn control(&mut self, request: &[u8]) -> Vec<u8> {
        let reply = client::answer(&self.machine.runtime, request);
        self.sim.settle();
        if Header::parse(request).is_ok_and(|(header, _)| control::changes(header.code)) {
            // It fails when there is no memory, and then the links of before are counted for some time yet.
            let _ = self.machine.relinked();
        }
        reply
    }

    /// Unloads the callouts. Returns what went against the contract with the filter engine, in words: nothing, when all is
    /// well.
    pub fn end(self) -> Vec<String> {
        let Self { sim, callouts, filters, .. } = self;
        sim.settle();
        while sim.enter(|| callouts.drain()) > 0 {
            sim.settle();
        }
        for filter in filters {
            sim.remove_filter(filter);
        }
        let counts = callouts.counts();
        let unloaded = sim.enter(|| callouts.unregister());
        let mut wrong: Vec<String> = sim.end().iter().map(ToString::to_string).collect();
        if let Err(busy) = unloaded {
            wrong.push(busy.to_string());
        }
        for (count, what) in [
            (counts.no_desk, "classifies had no room to work"),
            (counts.unreadable, "classifies could not read what they were shown"),
            (counts.refused, "injections were refused"),
            (counts.failed, "injections failed"),
            (counts.lost, "packets were lost"),
        ] {
            if count > 0 {
                wrong.push(format!("{count} {what}"));
            }
        }
        wrong
    }
}

fn spec(local: SocketAddr, remote: SocketAddr, opened: Direction) -> FlowSpec {
    match opened {
        Direction::Outbound => FlowSpec::outbound(local, remote),
        Direction::Inbound => FlowSpec::inbound(local, remote),
    }
}

const fn sim_direction(direction: Direction) -> fwps_sim::Direction {
    match direction {
        Direction::Outbound => fwps_sim::Direction::Send,
        Direction::Inbound => fwps_sim::Direction::Receive,
    }
}

/// The type of service that a packet was sent with: the value of `IP_TOS` (level 0, type 3) or `IPV6_TCLASS` (41, 39) in its
/// ancillary data, a row of `WSACMSGHDR`s (ws2ipdef.h; WSASendMsg).
#[must_use]
pub fn tos(sent: &Sent) -> Option<u8> {
    let mut rest = sent.control_data.as_deref()?;
    loop {
        let (header, _) = rest.split_first_chunk::<16>()?;
        let [length, option] = [0, 8].map(|at| {
            header.iter().skip(at).take(8).rev().fold(0_u64, |number, byte| number << 8 | u64::from(*byte))
        });
        if option == 3 << 32 || option == 39 << 32 | 41 {
            return rest.get(16).copied();
        }
        rest = rest.get(usize::try_from(length).ok()?.max(16).next_multiple_of(8)..)?;
    }
}

/// The flags as a TCP header has them (RFC 9293 section 3.1).
pub fn tcp_flags(flags: Flags) -> u8 {
    let bits = [flags.fin, flags.syn, flags.rst, flags.psh, flags.ack];
    (0..).zip(bits).map(|(bit, set)| u8::from(set) << bit).sum()
}

#[cfg(test)]
mod tests;

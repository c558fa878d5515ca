//! The callouts in front of the simulator: programs go in through control messages, data through the filter engine.

mod asm;
mod failures;
mod field_bugs;
mod filter;
mod flows;
mod held;
mod life;
mod packets;
mod rewrites;
mod send;
mod shared;
mod soak;
mod stream;
mod times;
mod trial;
mod watch;

use std::cell::Cell;
use std::net::SocketAddr;
use std::sync::{Arc, Barrier};
use std::vec;
use std::vec::Vec;

use fwps_sim::{Config, Direction, Filter, FlowId, FlowSpec, Packet, SendOutcome, Sent, Simulator};
use fwps_sys::{FWP_ACTION, FWPS_FILTER_FLAG, layer};
use tidegate_abi::control::{
    Change, Committed, Counters, Detached, FlowInfo, FlowList, Flows, LinkAttach, LinkCommit, LinkDetach,
    LinkInfo, LinkInfoReply, LinkTimes, LinkTry, Loaded, MapCreate, MapInfo, MapInfoReply, MapUpdate, Name,
    OnError, Operation, ProgramLoad, Status, Times, TraceBegin, TraceEnd, TraceRead, Traced, Trial,
    TrialInfo, TrialMode, parse_reply, write_request,
};
use tidegate_abi::limits::DEFAULT_BUDGET;
use tidegate_abi::{Grants, Hook, LinkFilter, MapDef, MapKind, Verdict};
use tidegate_runtime::{Platform, Runtime, Shared};

use crate::layer::LAYERS;
use crate::{Callouts, Counts, NOTICES, Objects, Options, filter_action, key, layer_of, os};

/// An unload resets at once what waits for data.
pub(crate) const NOW: Options = Options { mid_stream: false, grace: 0 };

std::thread_local! {
    static LATER: Cell<u64> = const { Cell::new(0) };
    static STOPPED: Cell<Option<u64>> = const { Cell::new(None) };
}

/// The clock of this thread goes on by so much.
pub(crate) fn wait(nanoseconds: u64) {
    LATER.set(LATER.get() + nanoseconds);
}

/// From now on time passes for this thread only as it says: what is bounded in time is then bounded, however long a busy
/// machine takes for the test.
pub(crate) fn stop_clock() {
    STOPPED.set(Some((os::platform().now_ns)()));
}

std::thread_local! {
    static MEETING: Cell<Option<Arc<Barrier>>> = const { Cell::new(None) };
}

/// When this thread asks for the time next, it waits until another has come to the barrier twice: what that does between is
/// done in the middle of whatever asked, which a program can.
pub(crate) fn meet(barrier: &Arc<Barrier>) {
    MEETING.set(Some(Arc::clone(barrier)));
}

fn now() -> u64 {
    if let Some(barrier) = MEETING.take() {
        barrier.wait();
        barrier.wait();
    }
    STOPPED.get().unwrap_or_else(|| (os::platform().now_ns)()) + LATER.get()
}

/// A loaded driver, as far as this crate is one, in a simulator of its own.
pub(crate) struct Bench {
    pub(crate) sim: Simulator,
    pub(crate) runtime: Shared<Runtime>,
    pub(crate) callouts: Option<Callouts>,
}

impl Bench {
    /// With a filter at every layer.
    pub(crate) fn new(config: Config) -> Self {
        Self::with_flags(config, FWPS_FILTER_FLAG::NONE)
    }

    pub(crate) fn with_flags(config: Config, flags: FWPS_FILTER_FLAG) -> Self {
        Self::with_options(config, flags, NOW)
    }

    pub(crate) fn with_options(config: Config, flags: FWPS_FILTER_FLAG, options: Options) -> Self {
        let sim = Simulator::new(config);
        let platform = Platform { now_ns: now, ..os::platform() };
        let runtime = Runtime::shared(platform).expect("memory");
        let objects = Objects { driver: sim.device_object(), device: sim.device_object() };
        let callouts =
            sim.enter(|| Callouts::register(objects, Shared::clone(&runtime), options)).expect("registered");
        for layer in LAYERS {
            let filter = Filter::at(layer.id, key(layer.hook)).context(callouts.context()).flags(flags);
            sim.add_filter(filter.action(filter_action(layer.hook)));
        }
        for told in NOTICES {
            let filter = Filter::at(told.layer, told.key).context(callouts.context());
            sim.add_filter(filter.action(FWP_ACTION::CALLOUT_INSPECTION));
        }
        Self { sim, runtime, callouts: Some(callouts) }
    }

    fn ask<T: Operation>(&self, request: &T) -> Vec<u8> {
        let mut message = vec![0; 65_536];
        let length = write_request(request, &mut message).expect("small");
        let mut reply = vec![0; 65_536];
        let length = self.runtime.handle(&message[..length], &mut reply);
        reply.truncate(length);
        reply
    }

    /// Runs `code` at a hook. Links run in the order that they are made.
    pub(crate) fn link(&self, hook: Hook, code: &[u8], on_error: OnError) -> u32 {
        self.link_with(hook, code, &[], on_error)
    }

    /// An array of one u64.
    pub(crate) fn counter(&self) -> u32 {
        let def = MapDef { kind: MapKind::Array, key_size: 4, value_size: 8, max_entries: 1, flags: 0 };
        let name = Name::try_from("counter").expect("short");
        parse_reply(&self.ask(&MapCreate { name, def })).expect("memory")
    }

    /// A flow storage of one u64 for so many connections.
    pub(crate) fn storage(&self, max_entries: u32) -> u32 {
        let def = MapDef { kind: MapKind::FlowStorage, key_size: 8, value_size: 8, max_entries, flags: 0 };
        let name = Name::try_from("storage").expect("short");
        parse_reply(&self.ask(&MapCreate { name, def })).expect("memory")
    }

    /// Entries of a map.
    pub(crate) fn entries(&self, map: u32) -> u32 {
        parse_reply::<MapInfoReply>(&self.ask(&MapInfo { map })).expect("it exists").entries
    }

    /// Loads `code`, which names these maps; or the code that the verifier refuses it with.
    fn load(&self, hook: Hook, code: &[u8], maps: &[u32]) -> Result<Loaded, std::string::String> {
        let reply = self.ask(&ProgramLoad {
            name: Name::try_from("test").expect("short"),
            program_type: hook.program_type(),
            code,
            maps: maps.iter().copied().collect(),
            grants: Grants::ALL,
        });
        parse_reply(&reply).map_err(|status| match tidegate_abi::control::refusal(&reply) {
            Some(refusal) => refusal.code.as_str().into(),
            None => status.text().into(),
        })
    }

    /// The code that the verifier refuses `code` with.
    pub(crate) fn refused(&self, hook: Hook, code: &[u8]) -> std::string::String {
        self.load(hook, code, &[]).expect_err("refused")
    }

    /// Runs `code`, which names these maps, at a hook.
    pub(crate) fn link_with(&self, hook: Hook, code: &[u8], maps: &[u32], on_error: OnError) -> u32 {
        self.attach(hook, code, maps, on_error, false, None)
    }

    /// Runs `code` at a hook on copies that are also what is sent.
    pub(crate) fn snapshot(&self, hook: Hook, code: &[u8], on_error: OnError) -> u32 {
        self.attach(hook, code, &[], on_error, true, None)
    }

    /// Runs `code` at a hook on what fits a filter.
    pub(crate) fn shown(
        &self,
        hook: Hook,
        code: &[u8],
        on_error: OnError,
        filter: Option<LinkFilter>,
        snapshot: bool,
    ) -> u32 {
        self.attach(hook, code, &[], on_error, snapshot, filter)
    }

    /// Loads `code`.
    pub(crate) fn program(&self, hook: Hook, code: &[u8]) -> u32 {
        self.load(hook, code, &[]).unwrap_or_else(|code| panic!("{code}")).program
    }

    fn attach(
        &self,
        hook: Hook,
        code: &[u8],
        maps: &[u32],
        on_error: OnError,
        snapshot: bool,
        filter: Option<LinkFilter>,
    ) -> u32 {
        let loaded = self.load(hook, code, maps).unwrap_or_else(|code| panic!("{code}"));
        let attach = LinkAttach {
            program: loaded.program,
            hook,
            priority: 1,
            on_error,
            budget: DEFAULT_BUDGET,
            snapshot,
            filter,
        };
        parse_reply(&self.ask(&attach)).expect("attached")
    }

    /// Tries `code`, which names these maps, in a link.
    pub(crate) fn try_in(&self, link: u32, hook: Hook, code: &[u8], maps: &[u32], mode: TrialMode) {
        let program = self.load(hook, code, maps).unwrap_or_else(|code| panic!("{code}")).program;
        let trial = Some(Trial { program, mode });
        parse_reply::<()>(&self.ask(&LinkTry { link, trial })).expect("it fits");
    }

    /// Ends the trial of a link.
    pub(crate) fn end_trial(&self, link: u32) {
        parse_reply::<()>(&self.ask(&LinkTry { link, trial: None })).expect("something is tried");
    }

    /// What came of the trial of a link.
    pub(crate) fn trial(&self, link: u32) -> TrialInfo {
        let info = parse_reply::<LinkInfoReply>(&self.ask(&LinkInfo { link })).expect("it exists");
        info.trial.expect("something is tried")
    }

    /// Sets the number of a map that [`Self::counter`] made.
    pub(crate) fn set(&self, map: u32, number: u64) {
        let update = MapUpdate { map, key: &[0; 4], value: &number.to_ne_bytes(), flags: 0 };
        parse_reply::<()>(&self.ask(&update)).expect("it exists");
    }

    /// Changes links, all at once or not at all.
    pub(crate) fn commit(&self, changes: &[Change]) -> Result<Committed, Status> {
        let mut room = vec![0; 64 * changes.len()];
        let mut rest = &mut room[..];
        for change in changes {
            rest = change.write(rest).expect("room");
        }
        let left = rest.len();
        room.truncate(room.len() - left);
        parse_reply(&self.ask(&LinkCommit { changes: &room }))
    }

    /// Gives links other priorities, all at once.
    pub(crate) fn move_links(&self, moves: &[(u32, u16)]) {
        let moves: Vec<_> =
            moves.iter().map(|(link, priority)| Change::Move { link: *link, priority: *priority }).collect();
        self.commit(&moves).expect("they exist");
    }

    /// Ends a link, or tells what it still keeps back.
    pub(crate) fn detach(&self, link: u32) -> Detached {
        parse_reply(&self.ask(&LinkDetach { link })).expect("it exists")
    }

    /// What a link keeps back.
    pub(crate) fn held(&self, link: u32) -> Detached {
        parse_reply::<LinkInfoReply>(&self.ask(&LinkInfo { link })).expect("it exists").held
    }

    /// What a link has counted.
    /// How long the runs of a link took that ended with this verdict, or failed.
    pub(crate) fn times(&self, link: u32, verdict: Option<Verdict>) -> Times {
        parse_reply(&self.ask(&LinkTimes { link, verdict })).expect("it exists")
    }

    pub(crate) fn counters(&self, link: u32) -> Counters {
        let reply = self.ask(&LinkInfo { link });
        parse_reply::<LinkInfoReply>(&reply).expect("it exists").counters
    }

    /// One part of the list of connections, and where it goes on.
    pub(crate) fn flows<'r>(&self, from: u32, reply: &'r mut [u8]) -> Result<Flows<'r>, Status> {
        let mut message = [0; 64];
        let length = write_request(&FlowList { from }, &mut message).expect("small");
        let length = self.runtime.handle(&message[..length], reply);
        parse_reply(&reply[..length])
    }

    /// The connections that links are shown, in parts of so many bytes; each with the path of its program.
    pub(crate) fn listed_in(&self, room: usize) -> Vec<(FlowInfo<'static>, Vec<u8>)> {
        let (mut listed, mut from) = (Vec::new(), 0);
        loop {
            let mut reply = vec![0; room];
            let Flows { next, flows } = self.flows(from, &mut reply).expect("there is room");
            let mut rest = flows;
            while !rest.is_empty() {
                let (info, behind) = FlowInfo::take(rest).expect("a connection");
                listed.push((FlowInfo { application: &[], ..info }, info.application.to_vec()));
                rest = behind;
            }
            match next {
                0 => return listed,
                next => from = next,
            }
        }
    }

    /// The same in one part.
    pub(crate) fn listed(&self) -> Vec<(FlowInfo<'static>, Vec<u8>)> {
        self.listed_in(65_536)
    }

    /// Begins a trace of everything, or of what `about` says.
    pub(crate) fn trace(&self, about: &TraceBegin) -> Result<u32, Status> {
        parse_reply(&self.ask(about))
    }

    /// The runs that a trace has, each as it is on the wire, and how many it has not.
    pub(crate) fn traced(&self, trace: u32) -> Result<(Vec<Vec<u8>>, u64), Status> {
        let reply = self.ask(&TraceRead { trace, max: u32::MAX });
        let Traced { lost, records, .. } = parse_reply(&reply)?;
        let (mut runs, mut rest) = (Vec::new(), records);
        while let Some((length, behind)) = rest.split_first_chunk() {
            let (run, behind) = behind.split_at(u32::from_le_bytes(*length) as usize);
            runs.push(run.to_vec());
            rest = behind;
        }
        Ok((runs, lost))
    }

    /// Ends a trace.
    pub(crate) fn end_trace(&self, trace: u32) -> Result<(), Status> {
        parse_reply(&self.ask(&TraceEnd { trace }))
    }

    pub(crate) fn counts(&self) -> Counts {
        self.callouts.as_ref().expect("registered").counts()
    }

    /// A connection that this machine opened.
    pub(crate) fn flow(&self, hook: Hook) -> FlowId {
        let (local, remote) = ends(hook);
        self.sim.open_flow(&FlowSpec::outbound(local, remote))
    }

    /// What came out of one direction, behind everything that waits.
    pub(crate) fn out(&self, flow: FlowId, direction: Direction) -> Vec<u8> {
        self.sim.settle();
        self.sim.delivered(flow, direction).bytes
    }

    /// Sends a list; gives back the answer and what went out on the wire.
    pub(crate) fn send(&self, packet: &Packet) -> (SendOutcome, Vec<Sent>) {
        let id = self.sim.send(packet);
        self.sim.settle();
        (self.sim.outcome(id).expect("decided"), self.sim.take_sent())
    }

    /// Unregisters, as often as it takes.
    pub(crate) fn unload(&mut self) {
        let Some(mut callouts) = self.callouts.take() else { return };
        while let Err(busy) = self.sim.enter(|| callouts.unregister()) {
            callouts = busy.callouts;
            self.sim.settle();
        }
    }

    /// Unloads and holds the whole test against the contract.
    pub(crate) fn finish(mut self) {
        self.unload();
        assert_eq!(Shared::owners(&self.runtime), 1, "something still holds the engine");
        self.sim.finish();
    }
}

/// Local and remote end of a hook's family.
pub(crate) fn ends(hook: Hook) -> (SocketAddr, SocketAddr) {
    let (local, remote) = if layer::is_v6(layer_of(hook)) {
        ("[fd00::1:2]:40000", "[2001:db8::7]:53")
    } else {
        ("10.1.2.3:40000", "192.0.2.7:53")
    };
    (local.parse().expect("an address"), remote.parse().expect("an address"))
}

/// The hooks of the stream layers.
pub(crate) const STREAMS: [Hook; 2] = [Hook::StreamV4, Hook::StreamV6];
/// The hooks of the transport layers.
pub(crate) const SENDS: [Hook; 2] = [Hook::OutboundTransportV4, Hook::OutboundTransportV6];
/// The hooks of the datagram-data layers.
pub(crate) const DATAGRAMS: [Hook; 2] = [Hook::DatagramDataV4, Hook::DatagramDataV6];
/// The hooks of the ICMP error layers.
pub(crate) const ICMP_ERRORS: [Hook; 2] = [Hook::OutboundIcmpErrorV4, Hook::OutboundIcmpErrorV6];

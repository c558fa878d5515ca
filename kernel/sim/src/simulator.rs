//! The driving side: what a test or a user-space host does with a simulator.

use std::collections::HashSet;
use std::ffi::c_void;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use fwps_sys::*;

use crate::config::{Call, Config, Fault, When};
use crate::current::{self, Reason};
use crate::engine::filters::{self, Filter};
use crate::engine::{self, ale, complete, send, stream};
use crate::flow::{Delivered, Direction, FlowId, FlowSpec, FlowState};
use crate::management::enforce;
use crate::memory::{self, Kind};
use crate::packet::{Packet, SendId, SendOutcome, Sent};
use crate::rules::{self, Violation};
use crate::state::{Fate, Inner, NblKind, State};
use crate::{ffi, trace};

/// A filter engine. Dropping it does what [`Simulator::finish`] does, unless the test is failing already.
pub struct Simulator {
    inner: Arc<Inner>,
}

impl Simulator {
    /// An engine without callouts.
    pub fn new(config: Config) -> Self {
        ffi::keep();
        let inner = Arc::new(Inner::new(config));
        let device: *mut usize = memory::allocate(Kind::Device, Arc::as_ptr(&inner));
        inner.lock().device = device as usize;
        Self { inner }
    }

    pub(crate) fn inner(&self) -> Arc<Inner> {
        Arc::clone(&self.inner)
    }

    /// The device object of the driver under test, for `FwpsCalloutRegister1` and `IoAllocateWorkItem`.
    pub fn device_object(&self) -> *mut c_void {
        self.inner.lock().device as *mut c_void
    }

    /// Makes this the simulator of threads that are in none, once in the life of a process: what a real driver needs, whose
    /// threads come from a real system. False when another serves already.
    pub fn serve(&self) -> bool {
        current::serve(&self.inner)
    }

    /// Chooses anew what the contract leaves free. Flows and packets that are under way go on.
    pub fn configure(&self, config: Config) {
        let mut state = self.inner.lock();
        state.rng = crate::rng::Rng::new(config.seed);
        state.config = config;
    }

    /// Runs driver code at PASSIVE_LEVEL inside this simulator: start, unload, whatever asks for handles and memory.
    pub fn enter<R>(&self, body: impl FnOnce() -> R) -> R {
        current::enter(&self.inner, Reason::Driver, body)
    }

    /// Adds a filter and tells its callout; gives back the filter's id.
    ///
    /// # Panics
    /// When the callout's notifyFn refuses the filter.
    pub fn add_filter(&self, filter: Filter) -> u64 {
        self.try_add_filter(filter)
            .unwrap_or_else(|status| panic!("the callout refuses the filter: {status}"))
    }

    /// Adds a filter and tells its callout; gives back the filter's id.
    ///
    /// # Errors
    /// What the callout's notifyFn answered, when it refuses the filter.
    pub fn try_add_filter(&self, filter: Filter) -> Result<u64, NTSTATUS> {
        filters::add(&self.inner, &filter)
    }

    /// Removes a filter and tells its callout.
    pub fn remove_filter(&self, id: u64) {
        filters::remove(&self.inner, id);
    }

    /// Starts or stops the base filtering engine, and tells those who subscribed. When it does not run it has no sessions, and
    /// of the objects those that are persistent.
    pub fn set_service_state(&self, service: FWPM_SERVICE_STATE) {
        let told: Vec<_> = {
            let mut state = self.inner.lock();
            state.management.state = service;
            if service != FWPM_SERVICE_STATE::RUNNING {
                state.management.end_sessions();
            }
            state.management.subscriptions.values().copied().collect()
        };
        // Filters are taken out of force: no callout can refuse that.
        let _ = enforce(&self.inner);
        for subscription in told {
            let Some(callback) = subscription.callback else { continue };
            current::enter(&self.inner, Reason::Notify, || {
                // SAFETY: the driver gave this function with this context, and has not taken it back.
                unsafe { callback(subscription.context as *mut c_void, service) }
            });
        }
    }

    /// Opens a connection.
    pub fn open_flow(&self, spec: &FlowSpec) -> FlowId {
        let mut state = self.inner.lock();
        let id = state.fresh();
        state.flows.insert(id, stream::Flow::new(spec.clone()));
        drop(state);
        ale::established(&self.inner, id, spec);
        FlowId(id)
    }

    /// Closes the socket that sent a list: nothing may be injected there any more.
    pub fn close_endpoint(&self, id: SendId) {
        let handle = self.inner.lock().senders.get(&id.0).copied();
        if let Some(handle) = handle {
            ale::closed(&self.inner, handle);
        }
    }

    /// Associates a flow context on behalf of a callout at another layer (as from ALE_FLOW_ESTABLISHED).
    pub fn associate(&self, flow: FlowId, layer: u16, callout: u32, context: u64) -> NTSTATUS {
        // SAFETY: numbers only.
        self.enter(|| unsafe { FwpsFlowAssociateContext0(flow.0, layer, callout, context) })
    }

    /// One indication of data. Ignored when that direction has ended or the connection is gone.
    pub fn indicate(&self, flow: FlowId, direction: Direction, bytes: &[u8]) {
        self.indicate_with(flow, direction, bytes, FWPS_STREAM_FLAG::NONE);
    }

    /// One indication with more flags than its direction (`RECEIVE_PUSH`, `SEND_NODELAY`...).
    pub fn indicate_with(&self, flow: FlowId, direction: Direction, bytes: &[u8], flags: FWPS_STREAM_FLAG) {
        if !bytes.is_empty() {
            stream::indicate(&self.inner, flow.0, direction, bytes, flags);
        }
        complete::pump(&self.inner);
    }

    /// So many bytes of one direction never come, as if a callout above all others had taken them: the next indication says
    /// how many it misses.
    pub fn miss(&self, flow: FlowId, direction: Direction, bytes: usize) {
        stream::miss(&self.inner, flow.0, direction, bytes);
    }

    /// The end of one direction (FIN).
    pub fn fin(&self, flow: FlowId, direction: Direction) {
        stream::fin(&self.inner, flow.0, direction);
        complete::pump(&self.inner);
    }

    /// A reset (RST).
    pub fn abort(&self, flow: FlowId, direction: Direction) {
        stream::abort(&self.inner, flow.0, direction);
        complete::pump(&self.inner);
    }

    /// The stack forgets the connection, whatever its state.
    pub fn close_flow(&self, flow: FlowId) {
        stream::kill(&self.inner, flow.0, FlowState::Closed, "closed");
        complete::pump(&self.inner);
    }

    /// Forgets a connection that is over, and what came out of it: an engine that sees many of them keeps nothing of each.
    /// One that is open, or still has a context, stays.
    pub fn forget_flow(&self, flow: FlowId) {
        let mut state = self.inner.lock();
        if state.flows.get(&flow.0).is_some_and(stream::Flow::is_over) {
            state.flows.remove(&flow.0);
        }
    }

    /// What has come out of one direction so far.
    pub fn delivered(&self, flow: FlowId, direction: Direction) -> Delivered {
        let state = self.inner.lock();
        state.flows.get(&flow.0).map(|flow| flow.sides[direction.index()].out.clone()).unwrap_or_default()
    }

    /// What has come out of one direction since the last call; the end and a reset are repeated.
    pub fn take_delivered(&self, flow: FlowId, direction: Direction) -> Delivered {
        let mut state = self.inner.lock();
        let Some(flow) = state.flows.get_mut(&flow.0) else { return Delivered::default() };
        let out = &mut flow.side(direction).out;
        Delivered { bytes: std::mem::take(&mut out.bytes), ..*out }
    }

    /// Where a connection is in its life.
    pub fn flow_state(&self, flow: FlowId) -> FlowState {
        self.inner.lock().flows.get(&flow.0).map_or(FlowState::Closed, |flow| flow.state)
    }

    /// Sends a list of packets.
    pub fn send(&self, packet: &Packet) -> SendId {
        let id = send::send(&self.inner, packet);
        complete::pump(&self.inner);
        SendId(id)
    }

    /// Shows nothing (a NULL `layerData`, and at a stream layer one without stream data) to every callout of a layer, as some
    /// states of the stack do; gives back their actions.
    pub fn show_nothing(&self, layer: u16) -> Vec<FWP_ACTION> {
        engine::show_nothing(&self.inner, layer)
    }

    /// Forgets what was sent: what went out, and sockets where nothing was absorbed that is still to be injected. For runs that
    /// are longer than memory.
    pub fn forget_sends(&self) {
        let mut state = self.inner.lock();
        state.sent.clear();
        state.outcomes.clear();
        let State { senders, endpoints, injections, .. } = &mut *state;
        let waiting: HashSet<u64> =
            injections.iter().filter_map(|injection| Some(injection.send.as_ref()?.endpoint)).collect();
        endpoints.retain(|handle, endpoint| {
            endpoint.busy || (endpoint.absorbed > 0 && !endpoint.refused) || waiting.contains(handle)
        });
        senders.retain(|_, handle| endpoints.contains_key(handle));
    }

    /// What was decided about a list.
    pub fn outcome(&self, id: SendId) -> Option<SendOutcome> {
        self.inner.lock().outcomes.get(&id.0).copied()
    }

    /// Everything that went out, in order.
    pub fn sent(&self) -> Vec<Sent> {
        self.inner.lock().sent.clone()
    }

    /// Everything that went out since the last call.
    pub fn take_sent(&self) -> Vec<Sent> {
        std::mem::take(&mut self.inner.lock().sent)
    }

    /// Runs work items, injections and completions until nothing waits.
    pub fn settle(&self) {
        complete::settle(&self.inner);
    }

    /// Completes every pending injection; work items stay queued.
    pub fn complete_all(&self) {
        complete::complete_all(&self.inner);
    }

    /// Makes calls fail from now on.
    pub fn fail(&self, call: Call, when: When, status: NTSTATUS) {
        self.inner.lock().faults.push(Fault { call, when, status, seen: 0, stacks: HashSet::new() });
    }

    /// Makes injections complete with an error.
    pub fn fail_completions(&self, when: When, status: NTSTATUS) {
        self.fail(Call::Complete, when, status);
    }

    /// How many calls have failed as requested: a sweep over [`When::Nth`] ends with the first run that has none.
    pub fn failures(&self) -> u64 {
        self.inner.lock().failed
    }

    /// Takes all failures back.
    pub fn heal(&self) {
        self.inner.lock().faults.clear();
    }

    /// Runs the work items that are queued.
    pub fn work(&self) {
        complete::work_all(&self.inner);
    }

    /// Takes the rules broken since the last call.
    pub fn take_violations(&self) -> Vec<Violation> {
        std::mem::take(&mut self.inner.lock().violations)
    }

    /// How often classifyFn was called since the last call, and how long that took in all.
    pub fn take_classify_time(&self) -> (u64, Duration) {
        std::mem::take(&mut self.inner.lock().classify_time)
    }

    /// The rules broken so far.
    pub fn violations(&self) -> Vec<Violation> {
        self.inner.lock().violations.clone()
    }

    /// What the engine did, as text.
    pub fn trace(&self) -> String {
        let state = self.inner.lock();
        state.trace.iter().map(|event: &trace::Event| format!("{event}\n")).collect()
    }

    /// Ends the simulation: completes what is pending, then panics if a rule was broken or anything was left behind. The
    /// driver must be unloaded before.
    ///
    /// # Panics
    /// With the name of every broken rule and the last steps of the engine.
    pub fn finish(self) {
        drop(self);
    }

    /// Ends the simulation and gives back the broken rules instead of panicking: for tests that break them.
    pub fn end(self) -> Vec<Violation> {
        self.close();
        std::mem::take(&mut self.inner.lock().violations)
    }

    /// Looks for what a driver left behind that has been unloaded, while the simulator goes on: each is a broken rule.
    pub fn look_for_leaks(&self) {
        self.inner.lock().look_for_leaks();
    }

    /// Looks for what was left behind, once.
    fn close(&self) {
        let loaded = {
            let mut state = self.inner.lock();
            if std::mem::replace(&mut state.finished, true) {
                return;
            }
            state.callouts.iter().any(|callout| callout.registered)
        };
        // Without a driver its completions and work items point nowhere: they are reported instead of run.
        if loaded {
            complete::settle(&self.inner);
        }
        self.inner.lock().look_for_leaks();
    }
}

impl State {
    fn look_for_leaks(&mut self) {
        let mut found = Vec::new();
        for info in self.nbls.values() {
            let (rule, what) = match (info.kind, info.fate) {
                (NblKind::Original, _) if info.references > 0 => {
                    (rules::KEEP_REFERENCE, "a reference to an NBL was never given back")
                }
                (NblKind::Original, _) => continue,
                (_, Fate::InFlight) => (rules::HANDLE_LIFE, "an injection is pending behind the unload"),
                (_, Fate::Completed) => (rules::COMPLETION_FREES, "a completed NBL was not freed"),
                (_, Fate::Refused) => (rules::FAILURE_FREES, "an NBL whose injection failed was not freed"),
                (NblKind::Clone { .. } | NblKind::StreamClone { .. }, Fate::Idle) => {
                    (rules::IDLE_CLONE, "a clone was neither injected nor freed")
                }
                (NblKind::Built { .. }, Fate::Idle) => {
                    (rules::FAILURE_FREES, "an NBL was never injected nor freed")
                }
            };
            found.push((rule, what.to_owned()));
        }
        for handle in self.handles.values().filter(|handle| handle.live) {
            found.push(match handle.kind {
                Kind::Injection => (rules::HANDLE_LIFE, "an injection handle was not destroyed".to_owned()),
                kind => (rules::POOL_LEFT, format!("{kind:?} was not freed")),
            });
        }
        if !self.mdls.is_empty() {
            found.push((rules::FREED_MDL, format!("{} MDLs were not freed", self.mdls.len())));
        }
        if self.callouts.iter().any(|callout| callout.registered) {
            found.push((rules::CALLOUT_LEFT, "a callout is still registered".to_owned()));
        }
        if !self.work_items.is_empty() {
            found.push((rules::CALLOUT_LEFT, format!("{} work items were not freed", self.work_items.len())));
        }
        for flow in self.flows.values() {
            if !flow.contexts.is_empty() {
                found.push((rules::CONTEXTS_LEFT, "a flow still has a context".to_owned()));
            }
            if flow.torn && flow.state == FlowState::Open {
                found.push((
                    rules::LOST_BYTES,
                    "a flow whose injected bytes were lost is still open".to_owned(),
                ));
            }
            if flow.sides.iter().flat_map(|side| side.stages.values()).any(|stage| stage.deferred) {
                found.push((rules::DEFER, "a flow is still deferred".to_owned()));
            }
        }
        for endpoint in self.endpoints.values() {
            // With failures about, an absorbed packet may be lost rightly.
            if endpoint.absorbed > 0 && !endpoint.refused && self.failed == 0 {
                found.push((
                    rules::ABSORB_ONLY,
                    "a packet was absorbed and nothing injected in its place".to_owned(),
                ));
            }
        }
        for (rule, text) in found {
            self.violate(rule, text);
        }
    }
}

impl Drop for Simulator {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        self.close();
        let violations = self.violations();
        if violations.is_empty() {
            return;
        }
        let list: String = violations.iter().map(|violation| format!("  {violation}\n")).collect();
        panic!("broken rules:\n{list}the engine's last steps:\n{}", self.trace());
    }
}

impl fmt::Debug for Simulator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.inner.lock();
        f.debug_struct("Simulator")
            .field("config", &state.config)
            .field("flows", &state.flows.len())
            .field("pending", &state.injections.len())
            .field("violations", &state.violations)
            .finish_non_exhaustive()
    }
}

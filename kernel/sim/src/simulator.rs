//! The driving side: what a test or a user-space host does with a simulator.

use std::ffi::c_void;
use std::fmt;
use std::sync::Arc;

use fwps_sys::*;

use crate::config::{Call, Config, Fault, When};
use crate::current::{self, Reason};
use crate::engine::{ale, complete, send, stream};
use crate::flow::{Delivered, Direction, FlowId, FlowSpec, FlowState};
use crate::memory::{self, Kind};
use crate::packet::{Packet, SendId, SendOutcome, Sent};
use crate::rules::{self, Violation};
use crate::state::{Fate, FilterEntry, Inner, NblKind, State};
use crate::{ffi, trace};

/// A filter that leads to a callout. Made with [`Filter::at`] and the builder methods.
#[derive(Clone, Debug)]
pub struct Filter {
    layer: u16,
    callout: GUID,
    sublayer: u16,
    weight: u64,
    action: FWP_ACTION,
    flags: FWPS_FILTER_FLAG,
    context: u64,
}

impl Filter {
    /// A terminating filter for everything at a layer (see [`fwps_sys::layer`]).
    pub fn at(layer: u16, callout: GUID) -> Self {
        Self {
            layer,
            callout,
            sublayer: 0x8000,
            weight: 0,
            action: FWP_ACTION::CALLOUT_TERMINATING,
            flags: FWPS_FILTER_FLAG::NONE,
            context: 0,
        }
    }

    /// Weight of its sublayer; the heaviest is asked first. Filters of equal sublayer weight share a sublayer.
    #[must_use]
    pub fn sublayer(self, sublayer: u16) -> Self {
        Self { sublayer, ..self }
    }

    /// Weight within its sublayer.
    #[must_use]
    pub fn weight(self, weight: u64) -> Self {
        Self { weight, ..self }
    }

    /// `CALLOUT_TERMINATING`, `CALLOUT_UNKNOWN` or `CALLOUT_INSPECTION`.
    #[must_use]
    pub fn action(self, action: FWP_ACTION) -> Self {
        Self { action, ..self }
    }

    /// Flags that the callout finds in the filter.
    #[must_use]
    pub fn flags(self, flags: FWPS_FILTER_FLAG) -> Self {
        Self { flags, ..self }
    }

    /// Context that the callout finds in the filter, unless its notifyFn sets another.
    #[must_use]
    pub fn context(self, context: u64) -> Self {
        Self { context, ..self }
    }
}

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

    /// The device object of the driver under test, for `FwpsCalloutRegister1` and `IoAllocateWorkItem`.
    pub fn device_object(&self) -> *mut c_void {
        self.inner.lock().device as *mut c_void
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
        let mut state = self.inner.lock();
        let id = state.fresh();
        let mut entry = FilterEntry {
            id,
            layer: filter.layer,
            callout: filter.callout,
            sublayer: filter.sublayer,
            weight: filter.weight,
            action: filter.action,
            flags: filter.flags,
            context: filter.context,
        };
        let status = self.notify(state, &mut entry, FWPS_CALLOUT_NOTIFY_TYPE::ADD_FILTER);
        assert!(status.nt_success(), "the callout refuses the filter: {status}");
        let mut state = self.inner.lock();
        state.filters.push(entry);
        state.filters.sort_by_key(|filter| std::cmp::Reverse(filter.key()));
        id
    }

    /// Removes a filter and tells its callout.
    pub fn remove_filter(&self, id: u64) {
        let mut state = self.inner.lock();
        let Some(at) = state.filters.iter().position(|filter| filter.id == id) else { return };
        let mut filter = state.filters.remove(at);
        let owing = state
            .flows
            .values()
            .filter(|flow| flow.state == FlowState::Open)
            .flat_map(|flow| &flow.sides)
            .filter_map(|side| side.stages.get(&id))
            .any(stream::Stage::owes);
        if owing {
            state.violate(rules::REMOVED_BUSY, "a stream filter was removed");
        }
        let _ = self.notify(state, &mut filter, FWPS_CALLOUT_NOTIFY_TYPE::DELETE_FILTER);
    }

    fn notify(
        &self,
        state: std::sync::MutexGuard<'_, State>,
        filter: &mut FilterEntry,
        kind: FWPS_CALLOUT_NOTIFY_TYPE,
    ) -> NTSTATUS {
        let callout =
            state.callout_by_key(&filter.callout).map(|callout| (callout.callout.notifyFn, callout.id));
        drop(state);
        let Some((Some(notify), id)) = callout else { return NTSTATUS::SUCCESS };
        let mut fwps = filter.fwps(id);
        let key = GUID::from_u128(u128::from(filter.id));
        let key =
            if kind == FWPS_CALLOUT_NOTIFY_TYPE::DELETE_FILTER { std::ptr::null() } else { &raw const key };
        let status = current::enter(&self.inner, Reason::Notify, || {
            // SAFETY: the callout registered this function; both pointers live through the call.
            unsafe { notify(kind, key, &raw mut fwps) }
        });
        // The context of a filter is its callout's to set.
        filter.context = fwps.context;
        status
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
        self.inner.lock().faults.push(Fault { call, when, status, seen: 0 });
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

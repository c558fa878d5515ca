//! Everything one simulator knows. Locked for bookkeeping, never while callout code runs.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::net::SocketAddr;
use std::panic::Location;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fwps_sys::*;

use crate::config::{Call, Config, Fault, When};
use crate::engine::stream::Flow;
use crate::flow::Direction;
use crate::management::Management;
use crate::memory::{self, Grave, Kind};
use crate::packet::{SendOutcome, Sent};
use crate::rng::Rng;
use crate::rules::{Rule, Violation};
use crate::trace::Event;

/// One simulator. Blocks point to it from their headers.
pub(crate) struct Inner {
    state: Mutex<State>,
}

impl Inner {
    pub(crate) fn new(config: Config) -> Self {
        Self { state: Mutex::new(State::new(config)) }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A callout of the driver under test.
#[derive(Clone)]
pub(crate) struct Callout {
    pub(crate) id: u32,
    pub(crate) callout: FWPS_CALLOUT1,
    pub(crate) registered: bool,
    /// Classifies of it that are running.
    pub(crate) running: u32,
}

/// A filter, with the engine's form of it that callouts see.
pub(crate) struct FilterEntry {
    pub(crate) id: u64,
    pub(crate) layer: u16,
    pub(crate) callout: GUID,
    pub(crate) sublayer: u16,
    pub(crate) weight: u64,
    pub(crate) action: FWP_ACTION,
    pub(crate) flags: FWPS_FILTER_FLAG,
    pub(crate) context: u64,
}

/// Place of a filter in the order of evaluation: the greatest comes first.
pub(crate) type Key = (u16, u64, std::cmp::Reverse<u64>);

impl FilterEntry {
    pub(crate) fn key(&self) -> Key {
        (self.sublayer, self.weight, std::cmp::Reverse(self.id))
    }

    pub(crate) fn fwps(&self, callout: u32) -> FWPS_FILTER1 {
        FWPS_FILTER1 {
            filterId: self.id,
            weight: FWP_VALUE0::EMPTY,
            subLayerWeight: self.sublayer,
            flags: self.flags,
            numFilterConditions: 0,
            filterCondition: std::ptr::null_mut(),
            action: FWPS_ACTION0 { r#type: self.action, calloutId: callout },
            context: self.context,
            providerContext: std::ptr::null_mut(),
        }
    }
}

/// What an NBL is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NblKind {
    /// The engine's own, shown to callouts.
    Original,
    /// Made by `FwpsAllocateCloneNetBufferList0`.
    Clone { of: usize },
    /// Made by `FwpsCloneStreamData0`.
    StreamClone { of: Option<usize>, flow: u64, direction: Direction, flags: FWPS_STREAM_FLAG, serial: u64 },
    /// Made by `FwpsAllocateNetBufferAndNetBufferList0`.
    Built { pool: usize },
}

/// What became of an NBL that a callout made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Idle,
    InFlight,
    Completed,
    Refused,
}

/// One NBL.
pub(crate) struct Nbl {
    pub(crate) kind: NblKind,
    pub(crate) nbs: Vec<usize>,
    /// MDLs that go when the NBL goes.
    pub(crate) mdls: Vec<usize>,
    /// The engine itself, references and clones: at zero an original is released.
    pub(crate) holds: u32,
    pub(crate) references: u32,
    pub(crate) fate: Fate,
    /// Handles it was injected through, newest last, and the context of the newest.
    pub(crate) injectors: Vec<usize>,
    pub(crate) injection_context: usize,
    /// The bytes of an original.
    pub(crate) region: Option<usize>,
    /// Net retreat of each NB that was moved.
    pub(crate) shifts: HashMap<usize, i64>,
}

/// Bytes that the engine shows, with a copy to see whether they were written.
pub(crate) struct Region {
    pub(crate) bytes: Box<[u8]>,
    pub(crate) pristine: Box<[u8]>,
    pub(crate) live: bool,
}

/// An injection handle, pool or NDIS object.
pub(crate) struct Handle {
    pub(crate) kind: Kind,
    pub(crate) live: bool,
    /// It is being destroyed: what is injected now comes too late, and that is no mistake.
    pub(crate) closing: bool,
    /// What an injection handle was made for.
    pub(crate) injects: FWPS_INJECTION_TYPE,
    /// NBLs out of a pool.
    pub(crate) used: usize,
    /// A pool fit for building NBLs.
    pub(crate) allocates_nb: bool,
}

/// What an accepted injection still needs.
pub(crate) struct Injection {
    pub(crate) id: u64,
    pub(crate) handle: usize,
    pub(crate) nbl: usize,
    pub(crate) complete: FWPS_INJECT_COMPLETE0,
    pub(crate) context: usize,
    pub(crate) status: NTSTATUS,
    /// The bytes at the time of injection.
    pub(crate) bytes: Vec<u8>,
    /// Send parameters that must not change: address and what they said.
    pub(crate) args: Option<(usize, FWPS_TRANSPORT_SEND_PARAMS1)>,
    /// Memory that must not change: address and what was there.
    pub(crate) watched: Vec<(usize, Vec<u8>)>,
    /// The flow of a stream injection.
    pub(crate) flow: Option<u64>,
    /// A send that was not classified and sent yet.
    pub(crate) send: Option<PendingSend>,
    /// A thread is at it: it is neither sent twice nor completed before it is sent.
    pub(crate) sending: bool,
}

/// The parameters of a transport-send injection.
#[derive(Clone)]
pub(crate) struct PendingSend {
    pub(crate) endpoint: u64,
    pub(crate) v6: bool,
    pub(crate) remote: Option<std::net::IpAddr>,
    pub(crate) control_data: Option<Vec<u8>>,
    /// The IP header in front, from the send parameters.
    pub(crate) header: Vec<u8>,
}

/// A socket, as far as sending needs it.
#[derive(Clone, Debug)]
pub(crate) struct Endpoint {
    pub(crate) protocol: u8,
    pub(crate) local: SocketAddr,
    pub(crate) remote: SocketAddr,
    pub(crate) compartment: Option<u32>,
    pub(crate) scope_id: Option<u32>,
    pub(crate) had_control_data: bool,
    pub(crate) loopback: bool,
    pub(crate) flow: Option<u64>,
    /// Lists absorbed here that nothing was injected for yet.
    pub(crate) absorbed: i32,
    /// An injection here was refused, so an absorbed list may be lost rightly.
    pub(crate) refused: bool,
    /// Its socket is closed.
    pub(crate) closed: bool,
    /// What is sent here is an error message of the stack.
    pub(crate) icmp_error: bool,
    /// The IP header that a raw socket sends.
    pub(crate) raw_header: Option<Vec<u8>>,
    /// Segment size of what the hardware cuts; 0 for none.
    pub(crate) segment: u32,
    /// Packets that the sender sent.
    pub(crate) packets: usize,
    /// Injections here.
    pub(crate) injections: usize,
    /// What was sent here is being classified.
    pub(crate) busy: bool,
}

/// Stream data injected during a classify, waiting for its place in the stream.
pub(crate) struct InlineInjection {
    pub(crate) direction: Direction,
    pub(crate) bytes: Vec<u8>,
    pub(crate) flags: FWPS_STREAM_FLAG,
    /// Its injections, as long as they are pending.
    pub(crate) ids: Vec<u64>,
}

/// A classify that is running.
#[derive(Default)]
pub(crate) struct Classify {
    pub(crate) inline: Vec<InlineInjection>,
    /// Stream clones made in it.
    pub(crate) clones: Vec<usize>,
    /// Endpoints that were injected at.
    pub(crate) injected_at: Vec<u64>,
    /// An original was referenced to be modified.
    pub(crate) modified: bool,
    /// A clone of what is shown was injected at once.
    pub(crate) cloned_and_injected: bool,
    /// The callout asked and knows that the packet is its own.
    pub(crate) known_as_own: bool,
    /// Handles that the callout asked about.
    pub(crate) asked: Vec<usize>,
    /// The chain that is shown, as allocated.
    pub(crate) shown: Vec<usize>,
    pub(crate) flags: FWPS_STREAM_FLAG,
}

/// A work item.
pub(crate) struct WorkItem {
    pub(crate) routine: IO_WORKITEM_ROUTINE,
    pub(crate) context: usize,
    pub(crate) device: usize,
    pub(crate) queued: bool,
}

// SAFETY: pointers of callouts (send parameters) are kept to be compared; what they point to is read only on behalf of the
// callout that gave them, which the contract obliges to keep it.
unsafe impl Send for Injection {}

pub(crate) struct State {
    pub(crate) config: Config,
    pub(crate) rng: Rng,
    pub(crate) violations: Vec<Violation>,
    pub(crate) trace: VecDeque<Event>,
    pub(crate) faults: Vec<Fault>,
    pub(crate) device: usize,
    pub(crate) handles: HashMap<usize, Handle>,
    pub(crate) nbls: HashMap<usize, Nbl>,
    /// Which NBL an NB belongs to.
    pub(crate) nbs: HashMap<usize, usize>,
    /// MDLs that callouts allocated.
    pub(crate) mdls: HashSet<usize>,
    pub(crate) regions: BTreeMap<usize, Region>,
    pub(crate) dead_regions: VecDeque<usize>,
    pub(crate) graves: VecDeque<Grave>,
    pub(crate) callouts: Vec<Callout>,
    pub(crate) filters: Vec<FilterEntry>,
    pub(crate) flows: HashMap<u64, Flow>,
    pub(crate) injections: VecDeque<Injection>,
    pub(crate) work_items: HashMap<usize, WorkItem>,
    pub(crate) work_queue: VecDeque<usize>,
    pub(crate) classifies: HashMap<u64, Classify>,
    pub(crate) endpoints: HashMap<u64, Endpoint>,
    /// The endpoint of each list that was sent.
    pub(crate) senders: HashMap<u64, u64>,
    pub(crate) sent: Vec<Sent>,
    pub(crate) outcomes: HashMap<u64, SendOutcome>,
    pub(crate) finished: bool,
    /// Calls that failed as requested.
    pub(crate) failed: u64,
    /// Calls of classifyFn, and how long they took.
    pub(crate) classify_time: (u64, Duration),
    pub(crate) management: Management,
    next: u64,
}

impl State {
    fn new(config: Config) -> Self {
        Self {
            rng: Rng::new(config.seed),
            config,
            violations: Vec::new(),
            trace: VecDeque::new(),
            faults: Vec::new(),
            device: 0,
            handles: HashMap::new(),
            nbls: HashMap::new(),
            nbs: HashMap::new(),
            mdls: HashSet::new(),
            regions: BTreeMap::new(),
            dead_regions: VecDeque::new(),
            graves: VecDeque::new(),
            callouts: Vec::new(),
            filters: Vec::new(),
            flows: HashMap::new(),
            injections: VecDeque::new(),
            work_items: HashMap::new(),
            work_queue: VecDeque::new(),
            classifies: HashMap::new(),
            endpoints: HashMap::new(),
            senders: HashMap::new(),
            sent: Vec::new(),
            outcomes: HashMap::new(),
            finished: false,
            failed: 0,
            classify_time: (0, Duration::ZERO),
            management: Management::default(),
            next: 0,
        }
    }

    /// A number that was not given out before.
    pub(crate) fn fresh(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    #[track_caller]
    pub(crate) fn violate(&mut self, rule: Rule, text: impl Into<String>) {
        self.violations.push(Violation { rule: rule.id, text: text.into(), check: Location::caller() });
    }

    pub(crate) fn log(&mut self, event: Event) {
        if self.config.trace_length == 0 {
            return;
        }
        if self.trace.len() >= self.config.trace_length {
            self.trace.pop_front();
        }
        self.trace.push_back(event);
    }

    /// The status with which this call has to fail, if it has to.
    pub(crate) fn fault(&mut self, call: Call, name: &'static str) -> Option<NTSTATUS> {
        let mut failing = None;
        for fault in &mut self.faults {
            // A completion is no call, and an abort is what is left when calls fail: only asking by name reaches them.
            let named = matches!(call, Call::Complete | Call::FlowAbort);
            if fault.call != call && (fault.call != Call::Any || named) {
                continue;
            }
            fault.seen += 1;
            let hit = match fault.when {
                When::Nth(n) => fault.seen == n,
                When::NthStack(n) => {
                    fault.stacks.insert(crate::config::call_stack()) && fault.stacks.len() == n
                }
                When::Always => true,
                When::PerMille(n) => self.rng.below(1000) < n as usize,
            };
            if hit {
                failing = Some(fault.status);
            }
        }
        if let Some(status) = failing {
            self.failed += 1;
            self.log(Event::Failed { call: name, status });
        }
        failing
    }

    /// Notes a call that must not be made with a spin lock held.
    #[track_caller]
    pub(crate) fn check_locks(&mut self, rule: Rule, call: &str) {
        if crate::locks::held() > 0 {
            self.violate(rule, format!("{call} while the thread holds a spin lock"));
        }
    }

    pub(crate) fn callout(&self, id: u32) -> Option<&Callout> {
        self.callouts.iter().find(|callout| callout.id == id && callout.registered)
    }

    /// Counts classifies of a callout that begin or end.
    pub(crate) fn running(&mut self, id: u32, change: i32) {
        if let Some(entry) = self.callouts.iter_mut().find(|entry| entry.id == id) {
            entry.running = entry.running.saturating_add_signed(change);
        }
    }

    pub(crate) fn callout_by_key(&self, key: &GUID) -> Option<&Callout> {
        self.callouts.iter().find(|callout| callout.callout.calloutKey == *key && callout.registered)
    }

    /// Keeps the newest freed blocks and returns the memory of the oldest.
    pub(crate) fn bury(&mut self, grave: Grave) {
        const KEPT: usize = 512;
        if self.graves.len() >= KEPT {
            self.graves.pop_front();
        }
        self.graves.push_back(grave);
    }

    /// True when an address lies in bytes that the engine owns: `Some(false)` when those are gone.
    pub(crate) fn engine_memory(&self, address: usize) -> Option<bool> {
        let (base, region) = self.regions.range(..=address).next_back()?;
        (address < base + region.bytes.len()).then_some(region.live)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        let blocks = state
            .handles
            .iter()
            .filter(|(_, handle)| handle.live)
            .map(|(address, _)| *address)
            .chain(state.nbls.iter().flat_map(|(nbl, info)| {
                std::iter::once(*nbl).chain(info.nbs.iter().copied()).chain(info.mdls.iter().copied())
            }))
            .chain(state.mdls.iter().copied())
            .chain(state.work_items.keys().copied())
            .chain(std::iter::once(state.device));
        for block in blocks {
            if block != 0 {
                // SAFETY: live blocks of this simulator; what nobody freed stays allocated, without an owner.
                unsafe { memory::disown(block as *const _) }
            }
        }
    }
}

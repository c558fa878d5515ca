//! Completions, work items, and when they run.

use std::sync::Arc;

use fwps_sys::*;

use crate::config::{Call, Completion};
use crate::current::{self, Reason};
use crate::engine::send;
use crate::flow::FlowState;
use crate::rules;
use crate::state::{Fate, Injection, Inner, State};
use crate::trace::Event;

/// What the simulator does of its own accord before a driving call returns.
pub(crate) fn pump(sim: &Arc<Inner>) {
    if current::in_classify(sim) {
        return;
    }
    send::transmit_all(sim);
    let policy = sim.lock().config.completion;
    match policy {
        Completion::Manual => {}
        Completion::Inside | Completion::Fifo => while work(sim) || complete_one(sim, false) {},
        Completion::Random => loop {
            let (more, works) = {
                let mut state = sim.lock();
                (!state.rng.one_in(3), state.rng.one_in(2))
            };
            if !more || !(if works { work(sim) } else { complete_one(sim, true) }) {
                break;
            }
        },
    }
}

/// Sends what was injected during a classify, now that it is over.
pub(crate) fn pump_sends(sim: &Arc<Inner>) {
    if !current::in_classify(sim) {
        send::transmit_all(sim);
    }
}

/// Runs everything that waits, until nothing does.
pub(crate) fn settle(sim: &Arc<Inner>) {
    loop {
        send::transmit_all(sim);
        let random = sim.lock().config.completion == Completion::Random;
        if !work(sim) && !complete_one(sim, random) {
            return;
        }
    }
}

/// Completes all pending injections, and what they lead to; work items stay queued.
pub(crate) fn complete_all(sim: &Arc<Inner>) {
    loop {
        send::transmit_all(sim);
        let random = sim.lock().config.completion == Completion::Random;
        if !complete_one(sim, random) {
            return;
        }
    }
}

/// Completes what was injected through one handle.
pub(crate) fn complete_handle(sim: &Arc<Inner>, handle: usize) {
    loop {
        send::transmit_all(sim);
        let id = {
            let state = sim.lock();
            if !state.injections.iter().any(|injection| injection.handle == handle) {
                return;
            }
            // A clone that another handle injected holds its original up.
            let ready = |injection: &&Injection| !state.is_cloned(injection.nbl);
            let own = state.injections.iter().filter(ready).find(|injection| injection.handle == handle);
            own.or_else(|| state.injections.iter().find(ready)).map(|found| found.id)
        };
        match id {
            Some(id) => complete(sim, id),
            None => return,
        }
    }
}

fn complete_one(sim: &Arc<Inner>, random: bool) -> bool {
    let id = {
        let mut state = sim.lock();
        let waiting: Vec<(u64, usize)> =
            state.injections.iter().map(|injection| (injection.id, injection.nbl)).collect();
        let start = if random { state.rng.below(waiting.len()) } else { 0 };
        let (before, from) = waiting.split_at(start);
        let ready = from.iter().chain(before).find(|(_, nbl)| !state.is_cloned(*nbl));
        ready.map(|(id, _)| *id)
    };
    let Some(id) = id else { return false };
    complete(sim, id);
    true
}

/// Calls one completion.
pub(crate) fn complete(sim: &Arc<Inner>, id: u64) {
    let mut state = sim.lock();
    let Some(at) =
        state.injections.iter().position(|injection| injection.id == id && injection.send.is_none())
    else {
        return;
    };
    if state.injections.get(at).is_some_and(|injection| state.is_cloned(injection.nbl)) {
        return;
    }
    let Some(mut injection) = state.injections.remove(at) else { return };
    let nbl = injection.nbl as *mut NET_BUFFER_LIST;
    if !state.is_nbl(nbl, "a completion") {
        return;
    }
    if let Some(status) = state.fault(Call::Complete, "a completion") {
        injection.status = status;
    }
    // SAFETY: the NBL is live.
    match unsafe { state.packets(nbl) } {
        Some(packets) if packets.concat() == injection.bytes => {}
        // The sender changed them, not the callout.
        Some(_) if state.config.sender_changes => {}
        Some(_) => {
            state.violate(rules::HANDS_OFF, "the bytes of an injected NBL changed before its completion");
        }
        None => {}
    }
    if injection.moved() {
        state.violate(rules::SEND_ARGS_LIVE, "sendArgs or what it points to changed before the completion");
    }
    // SAFETY: the NBL is live and the engine's until the completion is called.
    unsafe { (*nbl).Status = injection.status }
    state.nbl_mut(nbl).fate = Fate::Completed;
    state.log(Event::Complete { injection: id, status: injection.status });
    let lost =
        injection.flow.filter(|_| injection.status != NTSTATUS::SUCCESS && !injection.bytes.is_empty());
    drop(state);
    if let Some(complete) = injection.complete {
        current::enter(sim, Reason::Completion, || {
            // SAFETY: the callout gave this function for this NBL; it is called once.
            unsafe { complete(injection.context as *mut _, nbl, 1) }
        });
    }
    if let Some(lost) = lost
        && let Some(flow) = sim.lock().flows.get_mut(&lost)
    {
        flow.torn = flow.state == FlowState::Open;
    }
}

impl State {
    /// Whether a clone of an NBL lives, or a reference: as long, the completion of the NBL waits.
    fn is_cloned(&self, nbl: usize) -> bool {
        self.nbls.get(&nbl).is_some_and(|info| info.holds > 1)
    }
}

impl Injection {
    /// True when the send parameters, or what they point to, are not what they were at the injection.
    fn moved(&self) -> bool {
        let says = |args: &FWPS_TRANSPORT_SEND_PARAMS1| {
            let pointers = (args.remoteAddress, args.controlData, args.headerIncludeHeader);
            (pointers, args.remoteScopeId, args.controlDataLength, args.headerIncludeHeaderLength)
        };
        // SAFETY: the contract says that this memory lives until now. Where it does not, this reads freed memory of the
        // same process, which is how the broken rule is seen.
        let args =
            |address: usize| unsafe { (address as *const FWPS_TRANSPORT_SEND_PARAMS1).read_volatile() };
        if self.args.is_some_and(|(address, kept)| says(&args(address)) != says(&kept)) {
            return true;
        }
        self.watched.iter().any(|(address, kept)| {
            // SAFETY: as above.
            let now = unsafe { std::slice::from_raw_parts(*address as *const u8, kept.len()) };
            std::hint::black_box(now) != kept.as_slice()
        })
    }
}

/// Runs the work items that are queued; nothing is sent or completed.
pub(crate) fn work_all(sim: &Arc<Inner>) {
    while work(sim) {}
}

/// Runs the oldest queued work item.
fn work(sim: &Arc<Inner>) -> bool {
    let (routine, device, context) = {
        let mut state = sim.lock();
        let Some(item) = state.work_queue.pop_front() else { return false };
        state.log(Event::Work);
        let Some(item) = state.work_items.get_mut(&item) else { return true };
        item.queued = false;
        (item.routine, item.device, item.context)
    };
    if let Some(routine) = routine {
        current::enter(sim, Reason::Work, || {
            // SAFETY: the driver queued this routine with this context; it runs once for each time it was queued.
            unsafe { routine(device as *mut _, context as *mut _) }
        });
    }
    true
}

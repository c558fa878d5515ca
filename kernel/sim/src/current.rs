//! Which simulator the running thread is in, and what for.
//!
//! Most calls carry the instance in a handle or a packet. The few that make the first handle do not
//! (`FwpsInjectionHandleCreate0`, the pools, `IoAllocateMdl`): they belong to the simulator that the thread has entered,
//! either with [`Simulator::enter`](crate::Simulator::enter) or because it is inside one of its callbacks. Where a real
//! driver runs over the simulator, its threads come from elsewhere: they are in the one that serves the process.

use std::cell::RefCell;
use std::sync::{Arc, OnceLock};

use crate::flow::Direction;
use crate::irql;
use crate::state::Inner;

/// Why callout code is running.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    /// The driver's own thread: DriverEntry, unload, a test.
    Driver,
    /// classifyFn at the stream layer.
    Stream { classify: u64, callout: u32, flow: u64, direction: Direction },
    /// classifyFn at a transport layer.
    Transport { classify: u64, callout: u32, tcp: bool },
    /// classifyFn at a layer that only tells.
    Notice,
    /// A completion routine.
    Completion,
    /// flowDeleteFn.
    FlowDelete,
    /// notifyFn.
    Notify,
    /// A work item.
    Work,
}

impl Reason {
    /// True where the contract lets the engine call at DISPATCH_LEVEL, so the simulator does.
    pub(crate) fn at_dispatch(self) -> bool {
        !matches!(self, Self::Driver | Self::Notify | Self::Work)
    }
}

thread_local! {
    static ENTERED: RefCell<Vec<(Arc<Inner>, Reason)>> = const { RefCell::new(Vec::new()) };
}

/// The simulator of threads that are in none.
static SERVING: OnceLock<Arc<Inner>> = OnceLock::new();

/// Makes `sim` the one that threads are in until they enter another. False when there is one already.
pub(crate) fn serve(sim: &Arc<Inner>) -> bool {
    SERVING.set(Arc::clone(sim)).is_ok()
}

/// Runs `body` inside the simulator, at the IRQL that the contract lets the engine call at.
pub(crate) fn enter<R>(sim: &Arc<Inner>, reason: Reason, body: impl FnOnce() -> R) -> R {
    struct Leave(u8);
    impl Drop for Leave {
        fn drop(&mut self) {
            irql::set(self.0);
            let left = ENTERED.with(|entered| entered.borrow_mut().pop());
            drop(left);
        }
    }
    ENTERED.with(|entered| entered.borrow_mut().push((Arc::clone(sim), reason)));
    let level = if reason.at_dispatch() { irql::DISPATCH_LEVEL } else { irql::PASSIVE_LEVEL };
    let _leave = Leave(irql::set(level));
    body()
}

/// The simulator that this thread is in.
pub(crate) fn simulator() -> Option<Arc<Inner>> {
    let entered = ENTERED.with(|entered| entered.borrow().last().map(|(sim, _)| Arc::clone(sim)));
    entered.or_else(|| SERVING.get().cloned())
}

/// Why the thread is in `sim`, seen from the innermost callback of that simulator.
pub(crate) fn reason(sim: &Arc<Inner>) -> Option<Reason> {
    ENTERED.with(|entered| {
        entered
            .borrow()
            .iter()
            .rev()
            .find(|(entered, _)| Arc::ptr_eq(entered, sim))
            .map(|(_, reason)| *reason)
    })
}

/// True while the thread is inside a classify of `sim`, however deep.
pub(crate) fn in_classify(sim: &Arc<Inner>) -> bool {
    ENTERED.with(|entered| {
        entered.borrow().iter().any(|(entered, reason)| {
            Arc::ptr_eq(entered, sim)
                && matches!(reason, Reason::Stream { .. } | Reason::Transport { .. } | Reason::Notice)
        })
    })
}

/// True when the thread is at DISPATCH_LEVEL.
pub(crate) fn at_dispatch() -> bool {
    irql::current() >= irql::DISPATCH_LEVEL
}

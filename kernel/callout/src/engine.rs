//! What classify, completions and the worker share: one for each registration.

use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use fwps_sys::HANDLE;
use tidegate_abi::Hook;
use tidegate_runtime::{Platform, Runtime};
use tidegate_vm::Shared;

use crate::counters::Counters;
use crate::flow::Flows;
use crate::hops::Hops;
use crate::scratch::Scratch;
use crate::worker::Worker;

/// One registration, as its callbacks see it.
pub(crate) struct Engine {
    pub(crate) runtime: Shared<Runtime>,
    pub(crate) platform: Platform,
    pub(crate) scratch: Scratch,
    pub(crate) counters: Counters,
    pub(crate) worker: Worker,
    pub(crate) flows: Flows,
    pub(crate) hops: Hops,
    /// The callouts of the stream layers, as the filter engine knows them, by hook.
    pub(crate) streams: [AtomicU32; Hook::ALL.len()],
    pub(crate) handles: Handles,
    /// A control message changed what may decide on what is kept back.
    pub(crate) changed: AtomicBool,
    /// When it began to be unregistered, in nanoseconds; 0: it did not. From then on everything passes.
    pub(crate) closing: AtomicU64,
    /// Nanoseconds from then on until connections of which the filter engine keeps bytes are reset.
    pub(crate) grace: u64,
}

/// Handles that live as long as a callout is registered, the worker runs or an injection is pending.
#[derive(Clone, Copy)]
pub(crate) struct Handles {
    /// Injects into streams.
    pub(crate) stream: HANDLE,
    /// Injects packets, and knows those again.
    pub(crate) transport: HANDLE,
    /// Where NBLs come from.
    pub(crate) pool: HANDLE,
}

// SAFETY: the handles are not tied to a thread; all else is `Send` and `Sync` by itself.
unsafe impl Send for Engine {}
// SAFETY: as above.
unsafe impl Sync for Engine {}

impl Engine {
    /// Whether it is being unregistered.
    pub(crate) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Acquire) != 0
    }

    /// Whether nothing may wait for data any more.
    pub(crate) fn must_end(&self) -> bool {
        let since = self.closing.load(Ordering::Acquire);
        since != 0 && (self.platform.now_ns)().saturating_sub(since) >= self.grace
    }

    /// Whether a connection or a link may wait for a control message.
    pub(crate) fn has_waiting(&self) -> bool {
        let drains = |hook| self.runtime.chain(hook).links().iter().any(|link| link.is_draining());
        !self.flows.held.is_empty(&self.platform) || Hook::ALL.into_iter().any(drains)
    }
}

/// DISPATCH_LEVEL until it is dropped: a classify keeps its processor, as values of per-CPU maps demand, and its desk is
/// never held by a thread that waits for a processor.
pub(crate) struct Dispatch<'e> {
    platform: &'e Platform,
    before: u8,
    /// The processor that is kept.
    pub(crate) processor: u32,
}

impl<'e> Dispatch<'e> {
    /// Raises the IRQL, from <= DISPATCH_LEVEL.
    pub(crate) fn raise(platform: &'e Platform) -> Self {
        let (before, processor) = (platform.enter)();
        Self { platform, before, processor }
    }
}

impl Drop for Dispatch<'_> {
    fn drop(&mut self) {
        (self.platform.lower)(self.before);
    }
}

//! What classify, completions and the worker share: one for each registration.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, Ordering};

use fwps_sys::HANDLE;
use tidegate_runtime::{Platform, Runtime};

use crate::counters::Counters;
use crate::queue::SendQueue;
use crate::scratch::Scratch;

/// One registration, as its callbacks see it.
pub(crate) struct Engine {
    pub(crate) runtime: Arc<Runtime>,
    pub(crate) platform: Platform,
    pub(crate) scratch: Scratch,
    pub(crate) counters: Counters,
    pub(crate) sends: SendQueue,
    pub(crate) handles: Handles,
    /// Set when it is being unregistered: from then on everything passes.
    pub(crate) closing: AtomicBool,
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
        self.closing.load(Ordering::Acquire)
    }
}

/// DISPATCH_LEVEL until it is dropped: a classify keeps its processor, as values of per-CPU maps demand, and its desk is
/// never held by a thread that waits for a processor.
pub(crate) struct Dispatch<'e> {
    platform: &'e Platform,
    before: u8,
}

impl<'e> Dispatch<'e> {
    /// Raises the IRQL, from <= DISPATCH_LEVEL.
    pub(crate) fn raise(platform: &'e Platform) -> Self {
        Self { platform, before: (platform.raise)() }
    }
}

impl Drop for Dispatch<'_> {
    fn drop(&mut self) {
        (self.platform.lower)(self.before);
    }
}

//! What ends a game of ping-pong with another injector.
//!
//! A packet that somebody else injected may be what became of one of ours, and he may take the next one of ours for new in the
//! same way. Such packets are shown to programs as all others, but how many of them are replaced is bounded for each flow:
//! beyond, they are permitted or blocked, not edited, so that one of the two gives up.

use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use tidegate_runtime::Platform;

use crate::memory::{self, NoMemory};

/// Packets of another injector that are replaced in one flow and [`TICK`]: some 90 a second, when they are not the same
/// ones over and over.
pub(crate) const MAX_HOPS: u64 = 6;
/// Nanoseconds.
const TICK: u64 = 1 << 26;
/// Flows are told apart by a hash; two that share a place share its budget.
const PLACES: usize = 1024;
const COUNT: u64 = 0xffff;

/// What each flow has spent: the tick (of the machine's life) in the upper bits, hops in it in the lower ones.
pub(crate) struct Hops(Vec<AtomicU64>);

impl Hops {
    /// Nothing spent. `PASSIVE_LEVEL`.
    pub(crate) fn new() -> Result<Self, NoMemory> {
        let mut places = memory::vec(PLACES)?;
        places.resize_with(PLACES, || AtomicU64::new(0));
        Ok(Self(places))
    }

    /// Whether a flow's budget has something left. Any IRQL.
    pub(crate) fn left(&self, flow: u64, platform: &Platform) -> bool {
        let tick = ((platform.now_ns)() / TICK) << 16;
        let spent = self.0.get(flow as usize % PLACES).map_or(MAX_HOPS, |place| {
            let spent = place.load(Relaxed);
            if spent & !COUNT == tick { spent & COUNT } else { 0 }
        });
        spent < MAX_HOPS
    }

    /// Takes one hop out of a flow's budget. False when it is spent. Any IRQL.
    pub(crate) fn spend(&self, flow: u64, platform: &Platform) -> bool {
        let Some(place) = self.0.get(flow as usize % PLACES) else { return false };
        let tick = ((platform.now_ns)() / TICK) << 16;
        let spent = place.fetch_update(Relaxed, Relaxed, |before| {
            let count = if before & !COUNT == tick { before & COUNT } else { 0 };
            (count < MAX_HOPS).then_some(tick | (count + 1))
        });
        spent.is_ok()
    }
}

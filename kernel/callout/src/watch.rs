//! Runs that somebody watches: what is told of them.

use alloc::boxed::Box;

use tidegate_abi::control::{FlowEnds, RunEnd, RunInfo};
use tidegate_abi::{SendContext, StreamContext};
use tidegate_runtime::{Link, Runtime, Sight};

use crate::edit::Changes;
use crate::memory;

/// What notes the next run of `link`, which is shown this flow; none when nobody wants to know. IRQL <= DISPATCH_LEVEL.
#[cold]
#[inline(never)]
pub(crate) fn sight(runtime: &Runtime, link: &Link, flow: u64) -> Option<Box<Sight>> {
    static NOTHING: Sight = Sight::new();
    if !runtime.is_watched(link, flow) {
        return None;
    }
    let sight = memory::boxed_copy(&NOTHING);
    if sight.is_err() {
        runtime.lose(link, flow);
    }
    sight.ok()
}

/// What a run came to.
pub(crate) struct Came {
    /// It could not be carried out.
    pub(crate) unfit: bool,
    pub(crate) shown: usize,
    /// Bytes that it decided on.
    pub(crate) decided: usize,
    /// Bytes that go on in their place.
    pub(crate) passed: usize,
    /// Bytes of its own.
    pub(crate) sent: usize,
}

/// A run that is told of when it is known whether it can be carried out.
pub(crate) struct Pending {
    pub(crate) came: Came,
    pub(crate) sight: Box<Sight>,
}

/// Bytes of its own that a run sends.
pub(crate) fn sent(changes: &Changes) -> usize {
    changes.own.pieces().map(|piece| piece.bytes.len()).sum()
}

/// Tells of a run at a stream layer. IRQL <= DISPATCH_LEVEL.
pub(crate) fn tell_stream(
    runtime: &Runtime,
    link: &Link,
    context: &StreamContext,
    direction: usize,
    came: &Came,
    sight: &mut Sight,
) {
    let about = (context.flow_id, direction as u8, context.into(), context.process_id);
    tell(runtime, link, about, came, sight);
}

/// The same of a packet.
pub(crate) fn tell_packet(
    runtime: &Runtime,
    link: &Link,
    context: &SendContext,
    came: &Came,
    sight: &mut Sight,
) {
    tell(runtime, link, (context.flow_id, 0, context.into(), context.process_id), came, sight);
}

#[inline(never)]
fn tell(
    runtime: &Runtime,
    link: &Link,
    (flow, direction, ends, process): (u64, u8, FlowEnds, u64),
    came: &Came,
    sight: &mut Sight,
) {
    let run = RunInfo {
        at: (runtime.platform().now_ns)(),
        flow,
        hook: link.hook(),
        direction,
        ends,
        process,
        link: link.id(),
        program: link.program(),
        shown: came.shown as u32,
        // The sight knows.
        end: RunEnd::Fault(0),
        unfit: came.unfit,
        decided: came.decided as u32,
        passed: came.passed as u32,
        sent: came.sent as u32,
        path: Default::default(),
        read: None,
    };
    runtime.tell(run, sight);
}

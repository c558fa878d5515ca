//! The stream layers: what classify answers for a connection, and when the chain is asked at once.
//!
//! Mostly inline: the chain is run on what was indicated, and its decision is carried out before classify returns. An edit is
//! injected and the bytes that it covers are blocked; what follows them is shown again by the filter engine, behind what was
//! injected. A direction that a program keeps back (PEND) goes through its queue instead (see [`held`]).
//!
//! With a link that wants a snapshot, the links are shown a copy, and what passes is the copy: a sender that changes its
//! buffer after it was judged has not sent what it changed.
//!
//! The end of a direction (FIN) is an indication without bytes: there is nothing to block in it, so it passes, with inserted
//! bytes in front of it, unless bytes before it are still kept back: then it waits behind them. A reset passes always, and
//! ends everything that is kept.

use alloc::vec::Vec;

use fwps_sys::{
    FWPS_CLASSIFY_OUT_FLAG, FWPS_CLASSIFY_OUT0, FWPS_FILTER1, FWPS_STREAM_CALLOUT_IO_PACKET0,
    FWPS_STREAM_FLAG,
};
use tidegate_abi::StreamContext;
use tidegate_abi::context::STREAM_NO_MORE_DATA;
use tidegate_abi::control::{Id, OnError};
use tidegate_abi::limits::MAX_WINDOW;
use tidegate_runtime::{Chain, Held, Link};
use tidegate_vm::{Lent, Shared, Stack};

use crate::ask::{Ask, Decision, Kept};
use crate::counters::Count;
use crate::edit::Changes;
use crate::engine::Engine;
use crate::flow::{Begin, Flow, Marks};
use crate::held::{self, Arrival, Holder, NotKept};
use crate::injection::Failure;
use crate::layer::{self, Incoming};
use crate::outcome::StreamOutcome;
use crate::packet::Indicated;
use crate::scratch::Desk;

/// One call of classify at a stream layer.
pub(crate) struct Indication<'c> {
    pub(crate) incoming: Incoming<'c>,
    pub(crate) packet: &'c FWPS_STREAM_CALLOUT_IO_PACKET0,
    /// That of the packet.
    pub(crate) data: Indicated<'c>,
    /// What led to the callout.
    pub(crate) filter: &'c FWPS_FILTER1,
    pub(crate) out: &'c FWPS_CLASSIFY_OUT0,
}

impl Indication<'_> {
    fn has(&self, flags: FWPS_STREAM_FLAG) -> bool {
        self.data.flags.has_any(flags)
    }

    /// What programs are told of it.
    #[inline]
    fn context(&self, flow: &Flow, may_wait: bool) -> StreamContext {
        // Bytes that a callout above took before these are missed.
        let mut context = layer::indication(&flow.context, self.data.flags, self.packet.missedBytes);
        if !may_wait {
            context.flags |= STREAM_NO_MORE_DATA;
        }
        context
    }

    /// More data can come, if there is room for it.
    fn may_wait(&self) -> bool {
        // Urgent data is not part of what follows, so that nothing can complete it.
        let urgent = FWPS_STREAM_FLAG::RECEIVE_EXPEDITED | FWPS_STREAM_FLAG::SEND_EXPEDITED;
        let full = FWPS_CLASSIFY_OUT_FLAG::BUFFER_LIMIT_REACHED | FWPS_CLASSIFY_OUT_FLAG::NO_MORE_DATA;
        !self.out.flags.has_any(full)
            && !self.has(FWPS_STREAM_FLAG::DISCONNECT | FWPS_STREAM_FLAG::ABORT | urgent)
    }

    /// 0 outbound, 1 inbound.
    fn direction(&self) -> usize {
        usize::from(self.has(FWPS_STREAM_FLAG::RECEIVE_FAMILY))
    }

    /// What links are asked about `window`, which is all that it shows or the first of it.
    #[inline(always)]
    fn ask<'a>(&self, flow: Lent<'a, Flow>, window: &'a [u8], kept: Kept<'a>, holder: Id) -> Ask<'a> {
        let (flags, len, out) = (self.data.flags, self.data.dataLength, self.out.flags);
        Ask { flow, flags, len, window, out, kept, holder, passed: None }
    }

    /// Flags of what is injected in its place.
    fn injected(&self) -> FWPS_STREAM_FLAG {
        self.data.flags.without(FWPS_STREAM_FLAG::DISCONNECT)
    }
}

/// What classify answers. DISPATCH_LEVEL.
///
/// Most data is plain: it meets nothing but the links, which cost little more than themselves. All other data goes out of line.
#[inline]
pub(crate) fn classify(
    engine: Lent<'_, Engine>,
    indication: &Indication<'_>,
    flow: Option<Lent<'_, Flow>>,
    processor: u32,
) -> StreamOutcome {
    let chain = engine.runtime.chain_on(processor, indication.incoming.layer.hook);
    let len = indication.data.dataLength;
    if let Some(flow) = flow
        && flow.marks().is_empty()
        && !engine.is_closing()
        && !indication.has(FWPS_STREAM_FLAG::DISCONNECT | FWPS_STREAM_FLAG::ABORT)
        && !chain.is_empty()
        && !chain.is_snapshot()
        // Fewer bytes than a window holds, that lie together.
        && (1..MAX_WINDOW).contains(&len)
        && let Some(window) = indication.data.together(len)
        && let Some(mut desk) = engine.scratch.take(processor)
    {
        let Desk { stack, changes, .. } = &mut *desk;
        let ask = indication.ask(flow, window, Kept::Shared(indication.data), 0);
        let mut context = indication.context(&flow, indication.may_wait());
        return answer(&ask, &mut context, indication, &chain, false, processor, (stack, changes));
    }
    rarely(engine, indication, flow, &chain, processor)
}

/// The answer for all other data: that of a connection without a context, or of which something is kept; the end of a
/// direction, a reset, and what comes while the callouts are unregistered; bytes in pieces, and those that are to be copied.
#[cold]
#[inline(never)]
fn rarely(
    engine: Lent<'_, Engine>,
    indication: &Indication<'_>,
    flow: Option<Lent<'_, Flow>>,
    chain: &Chain,
    processor: u32,
) -> StreamOutcome {
    let mut rare = Rare::default();
    let (flow, holder) = match before(engine, indication, flow, chain, &mut rare) {
        Ok(asked) => asked,
        Err(outcome) => return outcome,
    };
    let outcome = decide(engine, indication, flow, chain, processor, holder);
    last(indication, &flow, outcome)
}

/// What is kept while links are asked about data that is more than plain.
#[derive(Default)]
struct Rare {
    /// The context of a connection that had none.
    met: Option<Shared<Flow>>,
    /// The link that waited for the data.
    waited: Option<Held>,
}

/// What comes before the links are asked: the connection, and the link that waited for the data (0 for none).
///
/// # Errors
/// The answer, when they are not asked.
fn before<'k>(
    engine: Lent<'_, Engine>,
    indication: &Indication<'_>,
    flow: Option<Lent<'k, Flow>>,
    chain: &Chain,
    rare: &'k mut Rare,
) -> Result<(Lent<'k, Flow>, Id), StreamOutcome> {
    let Rare { met, waited } = rare;
    let flow = match flow {
        Some(flow) => flow,
        None => {
            let pass = StreamOutcome::Permit(indication.data.dataLength);
            if chain.is_empty() || engine.is_closing() {
                return Err(pass);
            }
            let flow = meet(engine, indication).map_err(|_| unseen(chain.links().iter(), pass))?;
            met.insert(flow).lend()
        }
    };
    if let Some(known) = marked(engine, indication, flow, waited) {
        return Err(last(indication, &flow, known));
    }
    Ok((flow, waited.as_ref().map_or(0, |waited| waited.link().id())))
}

/// What the end of a direction or a reset makes of an answer.
fn last(indication: &Indication<'_>, flow: &Flow, outcome: StreamOutcome) -> StreamOutcome {
    let pass = StreamOutcome::Permit(indication.data.dataLength);
    if indication.has(FWPS_STREAM_FLAG::ABORT) {
        return pass;
    }
    let ends = indication.has(FWPS_STREAM_FLAG::DISCONNECT);
    if ends && (outcome == pass || outcome == StreamOutcome::Allow) {
        flow.mark(Marks::ended(indication.direction()));
    }
    outcome
}

/// The answer when something stands against asking the links. `waited` becomes the link that waited for the data, if one did.
fn marked(
    engine: Lent<'_, Engine>,
    indication: &Indication<'_>,
    flow: Lent<'_, Flow>,
    waited: &mut Option<Held>,
) -> Option<StreamOutcome> {
    if indication.has(FWPS_STREAM_FLAG::ABORT) {
        held::give_up(&engine, &flow);
        return None;
    }
    let (marks, direction) = (flow.marks(), indication.direction());
    if marks.has(Marks::waits(direction)) {
        // What it waited for is here, as far as it comes.
        *waited = flow.side(direction, &engine.platform, |side| side.waits.take());
        flow.unmark(Marks::waits(direction));
    }
    let known = if marks.is_empty() { None } else { look(engine, indication, flow, marks) };
    let pass = StreamOutcome::Permit(indication.data.dataLength);
    known.or_else(|| engine.is_closing().then_some(pass))
}

/// A context for a connection that was there before it could be seen.
fn meet(engine: Lent<'_, Engine>, indication: &Indication<'_>) -> Result<Shared<Flow>, Failure> {
    let id = indication.incoming.flow().ok_or(Failure::Unfit)?;
    let layer = indication.incoming.layer.id;
    let callout = indication.filter.action.calloutId;
    let context = indication.incoming.connection();
    let begin = Begin { id, layer, callout, context, application: Vec::new(), mid_stream: true };
    match Flow::begin(engine, begin)? {
        Some(flow) => Ok(flow),
        // The other direction was quicker, on another processor.
        None => engine.flows.find(id, layer, &engine.platform).ok_or(Failure::Refused),
    }
}

/// What is to be done before anybody is asked: `None` when nothing stands against it.
fn look(
    engine: Lent<'_, Engine>,
    indication: &Indication<'_>,
    flow: Lent<'_, Flow>,
    marks: Marks,
) -> Option<StreamOutcome> {
    let (direction, platform) = (indication.direction(), &engine.platform);
    let len = indication.data.dataLength;
    if marks.has(Marks::DEAD) {
        // It was reset: what was not judged, or stands behind what is gone, must not pass meanwhile.
        return Some(StreamOutcome::Drop);
    }
    let ends = indication.has(FWPS_STREAM_FLAG::DISCONNECT);
    if marks.has(Marks::held(direction)) {
        let queued = flow.side(direction, platform, |side| side.is_queued());
        if queued || !(marks.has(Marks::ALLOWED) || engine.is_closing()) {
            return Some(keep(engine, indication, flow, None));
        }
    } else if marks.has(Marks::ahead(direction)) {
        let removed = flow.side(direction, platform, |side| {
            let removed = if ends { 0 } else { len.min(usize::try_from(side.ahead).unwrap_or(len)) };
            side.ahead = if ends { 0 } else { side.ahead - removed as u64 };
            if side.ahead == 0 {
                flow.unmark(Marks::ahead(direction));
            }
            removed
        });
        if removed > 0 {
            return Some(StreamOutcome::Block(removed));
        }
    }
    marks.has(Marks::ALLOWED).then(|| allow(&engine, &flow, len))
}

/// The answer for a connection that no program wants to see more of: what is kept of it goes first.
fn allow(engine: &Engine, flow: &Flow, len: usize) -> StreamOutcome {
    let queued = |direction| flow.side(direction, &engine.platform, |side| side.is_queued());
    if queued(0) || queued(1) { StreamOutcome::Permit(len) } else { StreamOutcome::Allow }
}

/// Puts the indication into its direction's queue.
fn keep(
    engine: Lent<'_, Engine>,
    indication: &Indication<'_>,
    flow: Lent<'_, Flow>,
    holder: Option<Holder<'_>>,
) -> StreamOutcome {
    let Ok(view) = indication.data.view() else {
        engine.counters.unreadable.add();
        held::give_up(&engine, &flow);
        return StreamOutcome::Drop;
    };
    let arrival = Arrival {
        hook: indication.incoming.layer.hook,
        context: indication.context(&flow, true),
        flags: indication.injected(),
        bytes: &view,
        end: indication.has(FWPS_STREAM_FLAG::DISCONNECT),
    };
    match held::keep(engine, flow, &arrival, holder) {
        Ok(()) => StreamOutcome::Block(indication.data.dataLength),
        Err(NotKept::Overflow) => {
            engine.counters.overflowed.add();
            held::give_up(&engine, &flow);
            StreamOutcome::Drop
        }
        Err(NotKept::Closing) => {
            too_late(&engine, &flow, holder.map(|holder| holder.link), indication.data.dataLength)
        }
    }
}

/// The answer when a link wants to see bytes again, and an unload may have looked at their connection already: what the unload
/// does to bytes that are kept.
fn too_late(engine: &Engine, flow: &Flow, by: Option<&Shared<Link>>, len: usize) -> StreamOutcome {
    match by.filter(|link| link.on_error() == OnError::Block) {
        Some(link) => {
            link.count_error();
            held::give_up(engine, flow);
            StreamOutcome::Drop
        }
        None => StreamOutcome::Permit(len),
    }
}

/// Asks the links about any data.
fn decide(
    engine: Lent<'_, Engine>,
    indication: &Indication<'_>,
    flow: Lent<'_, Flow>,
    chain: &Chain,
    processor: u32,
    holder: Id,
) -> StreamOutcome {
    let (links, data) = (chain.links(), indication.data);
    let len = data.dataLength;
    if links.is_empty() {
        return StreamOutcome::Permit(len);
    }
    let (shown, may_wait) = match extent(engine, indication, &flow, links) {
        Ok(extent) => extent,
        Err(outcome) => return outcome,
    };
    let unshown = |why| unshown(why, indication, &flow, links);
    let Some(mut desk) = engine.scratch.take(processor) else {
        return unshown(&engine.counters.no_desk);
    };
    let Desk { window, stack, changes, .. } = &mut *desk;
    let snapshot =
        chain.is_snapshot() && links.iter().any(|link| link.is_snapshot() && sees(link, indication, &flow));
    let Ok(window) = data.anywhere(shown, snapshot, window) else {
        return unshown(&engine.counters.unreadable);
    };
    let kept = if snapshot { Kept::Copied } else { Kept::Shared(data) };
    let ask = indication.ask(flow, window, kept, holder);
    let mut context = indication.context(&flow, may_wait);
    answer(&ask, &mut context, indication, chain, snapshot, processor, (stack, changes))
}

/// Asks the links, and carries out what they decide.
#[inline(always)]
fn answer(
    ask: &Ask<'_>,
    context: &mut StreamContext,
    indication: &Indication<'_>,
    chain: &Chain,
    snapshot: bool,
    processor: u32,
    (stack, changes): (&mut Stack, &mut Changes),
) -> StreamOutcome {
    let (decision, by) = ask.links(chain.links(), processor, context, stack, changes);
    match decision {
        Decision::Next(cover) | Decision::Permit(cover) if !snapshot => StreamOutcome::Permit(cover),
        Decision::Block(cover) if cover > 0 => StreamOutcome::Block(cover),
        decision => carry_out(ask, indication, chain, decision, by),
    }
}

/// How many bytes are shown, and whether more may be waited for.
///
/// # Errors
/// The answer, when there is nothing to ask about, or too much to be shown.
fn extent(
    engine: Lent<'_, Engine>,
    indication: &Indication<'_>,
    flow: &Flow,
    links: &[Shared<Link>],
) -> Result<(usize, bool), StreamOutcome> {
    let len = indication.data.dataLength;
    if len == 0 {
        let ends = indication.has(FWPS_STREAM_FLAG::DISCONNECT | FWPS_STREAM_FLAG::ABORT);
        return if ends { Ok((0, false)) } else { Err(StreamOutcome::Permit(0)) };
    }
    if len < MAX_WINDOW {
        return Ok((len, indication.may_wait()));
    }
    let whole = indication.out.flags.has(FWPS_CLASSIFY_OUT_FLAG::BUFFER_LIMIT_REACHED);
    if whole && len > MAX_WINDOW {
        return Err(unshown(&engine.counters.oversized, indication, flow, links));
    }
    Ok((MAX_WINDOW, false))
}

/// The outcome when no link could be shown the bytes: it is counted, and the `on_error` of every link that was to see them
/// counts.
#[cold]
#[inline(never)]
fn unshown(why: &Count, indication: &Indication<'_>, flow: &Flow, links: &[Shared<Link>]) -> StreamOutcome {
    why.add();
    let pass = StreamOutcome::Permit(indication.data.dataLength);
    unseen(links.iter().filter(|link| sees(link, indication, flow)), pass)
}

/// The same where it is counted elsewhere, of links that were to see the bytes.
fn unseen<'l>(links: impl Iterator<Item = &'l Shared<Link>>, pass: StreamOutcome) -> StreamOutcome {
    let mut outcome = pass;
    for link in links {
        link.count_error();
        if link.on_error() == OnError::Block {
            outcome = StreamOutcome::Drop;
        }
    }
    outcome
}

/// Whether a link is shown bytes of this direction of a connection.
fn sees(link: &Link, indication: &Indication<'_>, flow: &Flow) -> bool {
    !link.is_blind(indication.direction() as u8, || (&flow.context).into())
}

/// The answer for any decision.
#[inline(never)]
fn carry_out(
    ask: &Ask<'_>,
    indication: &Indication<'_>,
    chain: &Chain,
    decision: Decision,
    by: Option<&Shared<Link>>,
) -> StreamOutcome {
    let (engine, flow, len, direction) = (ask.engine(), ask.flow, ask.len, ask.direction());
    let (links, snapshot) = (chain.links(), matches!(ask.kept, Kept::Copied));
    match decision {
        Decision::Next(cover) | Decision::Permit(cover) => {
            if snapshot {
                sealed(ask, links, cover)
            } else {
                StreamOutcome::Permit(cover)
            }
        }
        Decision::Edit(cover) | Decision::Clone(cover) | Decision::Block(cover) => blocked(cover, len),
        // It was injected, and marked as such.
        Decision::Ended => StreamOutcome::Block(0),
        Decision::NeedMore(bytes) => {
            if let Some(by) = by {
                let waits = Held::new(by, 0);
                // What is dropped is dropped outside of the lock.
                let before = flow.side(direction, &engine.platform, |side| {
                    if engine.is_closing() {
                        return Err(waits);
                    }
                    flow.mark(Marks::waits(direction));
                    Ok(side.waits.replace(waits))
                });
                if before.is_err() {
                    return too_late(&engine, &flow, Some(by), len);
                }
            }
            StreamOutcome::NeedMore(bytes)
        }
        Decision::Hold(seen) => keep(engine, indication, flow, by.map(|link| Holder { link, seen, chain })),
        Decision::Drop => {
            flow.decided(by);
            held::give_up(&engine, &flow);
            StreamOutcome::Drop
        }
        Decision::Allow => {
            flow.decided(by);
            flow.mark(Marks::ALLOWED);
            // Nobody waits any more, though the filter engine keeps what the other direction has.
            for direction in 0..2 {
                drop(flow.side(direction, &engine.platform, |side| side.waits.take()));
            }
            if snapshot {
                return sealed(ask, links, ask.window.len());
            }
            allow(&engine, &flow, len)
        }
    }
}

/// Lets bytes pass as they were judged, whatever has become of the original.
fn sealed(ask: &Ask<'_>, links: &[Shared<Link>], cover: usize) -> StreamOutcome {
    let (way, context) = (ask.direction() as u8, &ask.flow.get().context);
    let seen = links.iter().filter(|link| !link.is_blind(way, || context.into()));
    if cover == 0 || (ask.ends() && cover == ask.len) {
        // The end that comes together with bytes can't be kept when they are taken out.
        return if cover == 0 {
            StreamOutcome::Permit(0)
        } else {
            unseen(seen, StreamOutcome::Permit(cover))
        };
    }
    match ask.pass(cover) {
        Ok(()) => StreamOutcome::Block(cover),
        Err(_) => unseen(seen, StreamOutcome::Permit(cover)),
    }
}

/// Takes bytes out of the stream. An indication without bytes is the end of its direction, and passes.
fn blocked(cover: usize, len: usize) -> StreamOutcome {
    if len == 0 { StreamOutcome::Permit(0) } else { StreamOutcome::Block(cover) }
}

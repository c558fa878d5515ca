//! Bytes that a program keeps back: out of the stream, in a queue of their direction, until it decides.
//!
//! A direction of which something was kept back once goes through its queue from then on: each indication is copied to the
//! end of it and blocked, and the worker shows the front of it to the chain and injects what passes, in order. So nothing
//! that comes later overtakes, and nothing is injected while classify permits. The end of the direction waits behind the
//! queue and is injected last.
//!
//! What is queued has been shown to the links before the one that keeps it: when that one decides, the links behind it are
//! asked, not those before. What came later is shown to all. Where links have moved meanwhile, each is asked about what it has
//! not seen.
//!
//! A queue holds [`MAX_HELD`] bytes. With more, the `on_error` of the link that keeps them decides: the connection is reset,
//! or the link is passed over for what is queued. A link that is being detached decides for a while on what it keeps; then
//! its `on_error` does, and at the unload at once.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use fwps_sys::{FWPS_CLASSIFY_OUT_FLAG, FWPS_STREAM_FLAG, FwpsFlowAbort0};
use tidegate_abi::context::{STREAM_EXPEDITED, STREAM_HELD, STREAM_NO_MORE_DATA, STREAM_PUSH};
use tidegate_abi::control::{FlowSide, Id, OnError};
use tidegate_abi::limits::{MAX_HELD, MAX_WINDOW};
use tidegate_abi::{Hook, StreamContext};
use tidegate_runtime::{Chain, Held, Link};
use tidegate_vm::{Lent, Shared};

use crate::ask::{self, Ask, Decision, Kept, Passed};
use crate::engine::{Dispatch, Engine};
use crate::flow::{Flow, Marks};
use crate::injection::Failure;
use crate::memory;
use crate::packet::View;
use crate::scratch::Desk;

/// Pieces of one direction that are kept back at most: small ones take much more memory than their bytes.
const MAX_PIECES: usize = 4096;
/// Decisions on one direction in a row, before it is the next one's turn.
const TURNS: usize = 64;
/// How often in a row an injection that fails is tried again at once; then it waits for whatever wakes the worker next.
const TRIES: u32 = 16;

/// What is kept of one direction of a connection.
pub(crate) struct Side {
    /// The link that waits for more: the filter engine keeps the bytes meanwhile.
    pub(crate) waits: Option<Held>,
    /// Bytes still to come that are removed.
    pub(crate) ahead: u64,
    /// There from the first time on that bytes are kept back.
    queue: Option<Box<Queue>>,
}

/// Bytes in the order of the stream, and its end.
struct Queue {
    chunks: Vec<Chunk>,
    /// The first chunk that is still here.
    first: usize,
    /// Bytes in all of them.
    len: usize,
    /// The direction has ended behind them.
    end: bool,
    /// Injections that failed since the last that did not.
    failures: u32,
    /// The link that keeps the front.
    holder: Option<Held>,
    /// Bytes at the front that the links before the holder have passed on.
    seen: usize,
    /// Those links.
    passed: Passed,
    /// Bytes at the front about which a link failed that fails open, and the link.
    failed: (usize, Id),
    hook: Hook,
    /// What programs are told of the direction.
    context: StreamContext,
}

/// Bytes that came together.
struct Chunk {
    bytes: Vec<u8>,
    /// The first that is still here.
    at: usize,
    flags: FWPS_STREAM_FLAG,
    missed: u64,
    /// Of a program's own: nobody is asked.
    own: bool,
}

/// What is put into a queue.
pub(crate) struct Arrival<'c> {
    pub(crate) hook: Hook,
    pub(crate) context: StreamContext,
    pub(crate) flags: FWPS_STREAM_FLAG,
    pub(crate) bytes: &'c View<'c>,
    /// The direction ends behind them.
    pub(crate) end: bool,
}

/// Who keeps what is put into a queue for the first time.
#[derive(Clone, Copy)]
pub(crate) struct Holder<'c> {
    pub(crate) link: &'c Shared<Link>,
    /// Bytes that the links before it have passed on.
    pub(crate) seen: usize,
    /// The links that were asked.
    pub(crate) chain: &'c Chain,
}

impl Side {
    pub(crate) const fn new() -> Self {
        Self { waits: None, ahead: 0, queue: None }
    }

    /// Whether something is still to be injected.
    pub(crate) fn is_queued(&self) -> bool {
        self.queue.as_ref().is_some_and(|queue| queue.len > 0 || queue.end)
    }

    /// What control messages tell of it.
    pub(crate) fn info(&self) -> FlowSide {
        let id = |held: &Option<Held>| held.as_ref().map_or(0, |held| held.link().id());
        let queue = self.queue.as_ref();
        FlowSide {
            held: queue.map_or(0, |queue| queue.len as u64),
            holder: queue.map_or(0, |queue| id(&queue.holder)),
            waits: id(&self.waits),
        }
    }

    /// Gives up everything: what is dropped outside of the lock.
    fn clear(&mut self) -> (Option<Held>, Option<Box<Queue>>) {
        self.ahead = 0;
        (self.waits.take(), self.queue.take())
    }
}

impl Queue {
    fn new(hook: Hook, context: StreamContext) -> Self {
        let context = StreamContext { flags: 0, missed_bytes: 0, data: 0, data_end: 0, ..context };
        Self {
            chunks: Vec::new(),
            first: 0,
            len: 0,
            end: false,
            failures: 0,
            holder: None,
            seen: 0,
            passed: Passed::default(),
            failed: (0, 0),
            hook,
            context,
        }
    }

    fn push(&mut self, chunk: Chunk) -> Result<(), Failure> {
        if self.chunks.len() == self.chunks.capacity() {
            let left = self.chunks.len().saturating_sub(self.first);
            let mut more = memory::vec((2 * left).max(4))?;
            for chunk in core::mem::take(&mut self.chunks).into_iter().skip(self.first) {
                memory::push(&mut more, chunk)?;
            }
            (self.chunks, self.first) = (more, 0);
        }
        let len = chunk.bytes.len();
        memory::push(&mut self.chunks, chunk)?;
        self.len += len;
        if let Some(holder) = &mut self.holder {
            holder.set(self.len as u64);
        }
        Ok(())
    }

    /// Takes bytes from the front.
    fn consume(&mut self, count: usize) {
        let mut left = count.min(self.len);
        self.len -= left;
        self.seen = self.seen.saturating_sub(left);
        self.failed.0 = self.failed.0.saturating_sub(left);
        while let Some(front) = self.chunks.get_mut(self.first) {
            let here = front.bytes.len().saturating_sub(front.at);
            if left < here {
                front.at += left;
                break;
            }
            left -= here;
            front.bytes = Vec::new();
            self.first += 1;
        }
        if self.first == self.chunks.len() {
            self.chunks.clear();
            self.first = 0;
        }
        if let Some(holder) = &mut self.holder {
            holder.set(self.len as u64);
        }
    }

    /// The bytes at the front that can be shown together, copied: of one kind, at most a window and what `seen` allows.
    fn front(&self, window: &mut [u8]) -> Option<Front> {
        let chunks = self.chunks.get(self.first..)?;
        let first = chunks.first()?;
        let limits = [self.seen, self.failed.0].into_iter().filter(|limit| *limit > 0);
        let limit = limits.fold(window.len(), usize::min);
        let mut len = 0;
        for chunk in chunks {
            if chunk.flags != first.flags || chunk.own != first.own || (len > 0 && chunk.missed > 0) {
                break;
            }
            let bytes = chunk.bytes.get(chunk.at..).unwrap_or_default();
            let Some(to) = window.get_mut(len..limit) else { break };
            let count = bytes.len().min(to.len());
            to.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
            len += count;
            if len == limit {
                break;
            }
        }
        Some(Front { len, flags: first.flags, missed: first.missed, own: first.own })
    }
}

/// What is at the front of a queue.
struct Front {
    len: usize,
    flags: FWPS_STREAM_FLAG,
    missed: u64,
    own: bool,
}

/// Why an arrival is not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotKept {
    /// There is no room for its bytes: the connection can't go on.
    Overflow,
    /// Nothing else is kept, and an unload may have looked at the connection already.
    Closing,
}

/// Puts what was indicated at the end of its direction's queue; `holder` is who keeps it, when this is the first time. Wakes the
/// worker. DISPATCH_LEVEL.
///
/// # Errors
/// [`Overflow`]: it was not taken.
pub(crate) fn keep(
    engine: Lent<'_, Engine>,
    flow: Lent<'_, Flow>,
    arrival: &Arrival<'_>,
    holder: Option<Holder<'_>>,
) -> Result<(), NotKept> {
    let direction = arrival.context.direction as usize;
    let chunk =
        if arrival.bytes.len() == 0 { None } else { Some(chunk_of(arrival).map_err(|_| NotKept::Overflow)?) };
    if let Some(chunk) = &chunk {
        engine.counters.copied.add_many(chunk.bytes.len());
        engine.counters.allocated.add_many(chunk.bytes.capacity());
    }
    engine.flows.held.add(flow, &engine.platform).map_err(|_| NotKept::Overflow)?;
    let kept = flow.side(direction, &engine.platform, |side| {
        // An unload looks at the connection behind the same lock, after it has said that it closes.
        if !side.is_queued() && engine.is_closing() {
            return Err(NotKept::Closing);
        }
        if side.queue.is_none() {
            let queue =
                memory::boxed(Queue::new(arrival.hook, arrival.context)).map_err(|_| NotKept::Overflow)?;
            side.queue = Some(queue);
        }
        let queue = side.queue.as_mut().ok_or(NotKept::Overflow)?;
        if let Some(chunk) = chunk {
            queue.push(chunk).map_err(|_| NotKept::Overflow)?;
        }
        queue.end |= arrival.end;
        if let Some(Holder { link, seen, chain }) = holder {
            queue.holder = Some(Held::new(link, queue.len as u64));
            queue.seen = seen;
            queue.passed = Passed::to(link, chain, &Passed::default());
        }
        let pieces = queue.chunks.len().saturating_sub(queue.first);
        if (queue.len > MAX_HELD || pieces > MAX_PIECES)
            && queue.failed.0 == 0
            && let Some(holder) = &queue.holder
        {
            holder.link().count_error();
            if holder.link().on_error() == OnError::Block {
                return Err(NotKept::Overflow);
            }
            queue.failed = (queue.len, holder.link().id());
        }
        // The worker is behind by a whole queue more: it will not get better.
        if queue.len > 2 * MAX_HELD || pieces > 2 * MAX_PIECES { Err(NotKept::Overflow) } else { Ok(()) }
    });
    kept?;
    flow.mark(Marks::held(direction));
    flow.mark(Marks::AGAIN);
    engine.worker.wake(engine);
    Ok(())
}

fn chunk_of(arrival: &Arrival<'_>) -> Result<Chunk, Failure> {
    let len = arrival.bytes.len();
    let mut bytes = memory::filled(len, 0)?;
    arrival.bytes.copy(0..len, &mut bytes)?;
    Ok(Chunk { bytes, at: 0, flags: arrival.flags, missed: arrival.context.missed_bytes, own: false })
}

/// Puts a program's own data at the end of a direction that goes through its queue.
pub(crate) fn keep_own(
    engine: Lent<'_, Engine>,
    flow: &Flow,
    direction: usize,
    data: &[u8],
    flags: FWPS_STREAM_FLAG,
) -> Result<(), Failure> {
    let bytes = memory::copied(data)?;
    let ended = flow.marks().has(Marks::ended(direction));
    flow.side(direction, &engine.platform, |side| {
        let queue = side.queue.as_mut().ok_or(Failure::Unfit)?;
        if ended || queue.end || queue.len + bytes.len() > MAX_HELD {
            return Err(Failure::Unfit);
        }
        queue.push(Chunk { bytes, at: 0, flags, missed: 0, own: true })
    })?;
    flow.mark(Marks::AGAIN);
    engine.worker.wake(engine);
    Ok(())
}

/// Forgets everything that is kept of a connection, and injects nothing into it any more. IRQL <= DISPATCH_LEVEL.
pub(crate) fn give_up(engine: &Engine, flow: &Flow) {
    flow.mark(Marks::DEAD);
    for direction in 0..2 {
        drop(flow.side(direction, &engine.platform, Side::clear));
    }
}

/// Resets a connection. Nothing is locked. IRQL <= DISPATCH_LEVEL.
pub(crate) fn abort(engine: &Engine, flow: &Flow) {
    give_up(engine, flow);
    // SAFETY: a number only. A flow that is gone already is refused.
    let _ = unsafe { FwpsFlowAbort0(flow.id) };
}

/// Shows what is kept back to the chain again, and injects what passes. The worker's, PASSIVE_LEVEL.
pub(crate) fn work(engine: Lent<'_, Engine>) {
    let all = engine.changed.swap(false, Ordering::AcqRel) || engine.is_closing();
    engine.flows.held.each(&engine.platform, |flow| {
        if !flow.take(Marks::AGAIN) && !all {
            return;
        }
        for direction in 0..2 {
            let mut turns = 0..TURNS;
            while turns.next().is_some() && step(engine, flow, direction) {}
            if turns.is_empty() {
                look_again(engine, &flow);
            }
        }
    });
    let overdue = |hook| engine.runtime.chain(hook).links().iter().any(|link| link.is_overdue());
    if engine.must_end() || Hook::ALL.into_iter().any(overdue) {
        engine.flows.each(&engine.platform, |flow| end_wait(&engine, &flow));
    }
}

/// Has the worker look at a connection again.
fn look_again(engine: Lent<'_, Engine>, flow: &Flow) {
    flow.mark(Marks::AGAIN);
    engine.worker.wake(engine);
}

/// Ends the wait for more of a link that had its time: the filter engine keeps the bytes, so only a reset ends it.
fn end_wait(engine: &Engine, flow: &Flow) {
    for direction in 0..2 {
        if !flow.marks().has(Marks::waits(direction)) {
            continue;
        }
        let must = engine.must_end();
        let waits = flow.side(direction, &engine.platform, |side| {
            let overdue = side.waits.as_ref().is_some_and(|held| held.link().is_overdue());
            if overdue || must { side.waits.take() } else { None }
        });
        // Of a link that fails open the bytes pass with the next ones that come: until then the filter engine keeps them.
        if must || waits.as_ref().is_some_and(|held| held.link().on_error() == OnError::Block) {
            abort(engine, flow);
            flow.unmark(Marks::waits(direction));
        }
        drop(waits);
    }
}

/// What the links are asked about: the front of a queue.
struct Asked {
    front: Front,
    /// It is the end of the direction.
    end: bool,
    hook: Hook,
    context: StreamContext,
    /// Whether the links before the one that keeps the front are not to be asked again.
    goes_on: bool,
    passed: Passed,
}

/// One decision about the front of a queue. False: there is nothing more to do now.
fn step(engine: Lent<'_, Engine>, flow: Lent<'_, Flow>, direction: usize) -> bool {
    if flow.is_dead() || !flow.marks().has(Marks::held(direction)) {
        return false;
    }
    let _dispatch = Dispatch::raise(&engine.platform);
    let Some(mut desk) = engine.scratch.take((engine.platform.processor)()) else {
        // Somebody gives one back, and wakes nobody: try again.
        look_again(engine, &flow);
        return false;
    };
    let desk = &mut *desk;
    // Nothing, until it is woken.
    let asked = flow.side(direction, &engine.platform, |side| {
        let ahead = &mut side.ahead;
        let queue = side.queue.as_mut()?;
        let removed = queue.len.min(usize::try_from(*ahead).unwrap_or(usize::MAX));
        queue.consume(removed);
        *ahead -= removed as u64;
        let front = queue.front(desk.window.get_mut(..MAX_WINDOW).unwrap_or_default());
        let end = front.is_none() && queue.end;
        let front = front.or(end.then(|| queue.nothing()))?;
        let goes_on = queue.seen > 0 || (end && queue.holder.is_some());
        let mut passed = if goes_on { queue.passed.clone() } else { Passed::default() };
        passed.failed = if queue.failed.0 > 0 { queue.failed.1 } else { 0 };
        Some(Asked { front, end, hook: queue.hook, context: queue.context, goes_on, passed })
    });
    asked.is_some_and(|asked| Step { engine, flow, direction, asked }.run(desk))
}

impl Queue {
    /// The end alone.
    fn nothing(&self) -> Front {
        let direction =
            if self.context.direction == 0 { FWPS_STREAM_FLAG::SEND } else { FWPS_STREAM_FLAG::RECEIVE };
        Front { len: 0, flags: direction, missed: 0, own: false }
    }
}

/// One turn of the worker at one direction.
struct Step<'c> {
    engine: Lent<'c, Engine>,
    flow: Lent<'c, Flow>,
    direction: usize,
    asked: Asked,
}

impl Step<'_> {
    fn run(self, desk: &mut Desk) -> bool {
        let engine = self.engine;
        let chain = engine.runtime.chain(self.asked.hook);
        let holder = self.holder();
        let closing = engine.is_closing();
        if let Some(link) = holder.as_ref().filter(|link| closing || link.is_overdue())
            && link.on_error() == OnError::Block
        {
            link.count_error();
            abort(&engine, &self.flow);
            return false;
        }
        let open = self.asked.front.own || closing || self.flow.marks().has(Marks::ALLOWED);
        let links = if open { &[][..] } else { chain.links() };
        let Desk { window, stack, changes, .. } = desk;
        let window = window.get(..self.asked.front.len).unwrap_or_default();
        let mut context = self.asked.context;
        context.missed_bytes = self.asked.front.missed;
        context.flags = STREAM_HELD;
        for (bits, flag) in [
            (FWPS_STREAM_FLAG::RECEIVE_EXPEDITED | FWPS_STREAM_FLAG::SEND_EXPEDITED, STREAM_EXPEDITED),
            (FWPS_STREAM_FLAG::RECEIVE_PUSH | FWPS_STREAM_FLAG::SEND_NODELAY, STREAM_PUSH),
        ] {
            if self.asked.front.flags.has_any(bits) {
                context.flags |= flag;
            }
        }
        if self.ends() || self.asked.goes_on || window.len() >= MAX_WINDOW {
            context.flags |= STREAM_NO_MORE_DATA;
        }
        let end = if self.asked.end { ask::disconnect(self.direction) } else { FWPS_STREAM_FLAG::NONE };
        let ask = Ask {
            flow: self.flow,
            flags: self.asked.front.flags | end,
            len: window.len(),
            window,
            out: FWPS_CLASSIFY_OUT_FLAG::NONE,
            kept: Kept::Copied,
            holder: holder.as_ref().map_or(0, |holder| holder.id()),
            passed: Some(&self.asked.passed),
        };
        let processor = (self.engine.platform.processor)();
        let (decision, by) = ask.links(links, processor, &mut context, stack, changes);
        let half = !changes.own.is_empty();
        match decision {
            // Bytes that stay must not be asked about again when what stands in front of them is gone already.
            Decision::Permit(cover) | Decision::Next(cover) => self.pass(&ask, cover, half),
            Decision::Edit(cover) | Decision::Clone(cover) => {
                self.done(cover);
                self.pass_end(&ask, true)
            }
            Decision::Block(cover) => {
                self.done(cover);
                self.pass_end(&ask, half)
            }
            Decision::Ended => self.ended(),
            Decision::NeedMore(_) => {
                self.hold(by, 0, &chain);
                false
            }
            Decision::Hold(seen) => {
                self.hold(by, seen, &chain);
                false
            }
            Decision::Drop => {
                self.flow.decided(by);
                abort(&engine, &self.flow);
                false
            }
            Decision::Allow => {
                self.flow.decided(by);
                self.flow.mark(Marks::ALLOWED);
                self.pass(&ask, window.len(), half)
            }
        }
    }

    fn queue<R>(&self, section: impl FnOnce(&mut Queue) -> R) -> Option<R> {
        self.flow.side(self.direction, &self.engine.platform, |side| {
            side.queue.as_mut().map(|queue| section(queue))
        })
    }

    fn holder(&self) -> Option<Shared<Link>> {
        self.queue(|queue| queue.holder.as_ref().map(|held| Shared::clone(held.link()))).flatten()
    }

    /// Whether the end of the direction is known.
    fn ends(&self) -> bool {
        self.queue(|queue| queue.end).unwrap_or(true)
    }

    /// Lets the first bytes pass as they are, or the end; `half` when something was injected for them already.
    fn pass(&self, ask: &Ask<'_>, cover: usize, half: bool) -> bool {
        if self.asked.end {
            return self.pass_end(ask, half);
        }
        let passed = ask.pass(cover).is_ok();
        if passed {
            self.done(cover);
        } else {
            self.failed(half);
        }
        passed
    }

    /// Lets the end pass, when it is what is shown. True when there is more to decide on.
    fn pass_end(&self, ask: &Ask<'_>, half: bool) -> bool {
        if !self.asked.end {
            return true;
        }
        if ask.end().is_ok() {
            return self.ended();
        }
        self.failed(half);
        false
    }

    /// What can't be injected stays, and is tried again; unless a part of it is gone already, or nobody waits any more.
    fn failed(&self, half: bool) {
        if half || self.engine.must_end() {
            abort(&self.engine, &self.flow);
            return;
        }
        let failures = self.queue(|queue| {
            queue.failures = queue.failures.saturating_add(1);
            queue.failures
        });
        if failures.is_some_and(|failures| failures <= TRIES) {
            look_again(self.engine, &self.flow);
        }
    }

    /// The first bytes were decided on.
    fn done(&self, cover: usize) {
        let held = self.queue(|queue| {
            queue.failures = 0;
            queue.consume(cover);
            if queue.seen == 0 {
                Some((queue.holder.take(), core::mem::take(&mut queue.passed)))
            } else {
                None
            }
        });
        drop(held);
    }

    /// The end was injected: nothing follows.
    fn ended(&self) -> bool {
        let held = self.queue(|queue| {
            queue.end = false;
            (queue.holder.take(), core::mem::take(&mut queue.passed))
        });
        drop(held);
        false
    }

    /// `by` keeps the front.
    fn hold(&self, by: Option<&Shared<Link>>, seen: usize, chain: &Chain) {
        let Some(by) = by else { return };
        // Links may have moved since it began to keep them: what they have seen they have seen.
        let passed = Passed::to(by, chain, &self.asked.passed);
        let held = self.queue(|queue| {
            let same = queue.holder.as_ref().is_some_and(|held| held.link().id() == by.id());
            // The first link of all is shown everything, so that it can decide on more than it has seen.
            queue.seen = if passed.is_nobody() { 0 } else { seen };
            let before = core::mem::replace(&mut queue.passed, passed);
            let len = queue.len as u64;
            (before, if same { None } else { queue.holder.replace(Held::new(by, len)) })
        });
        drop(held);
    }
}

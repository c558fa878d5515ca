//! What a chain of links says about bytes of a stream, and what is injected for it.
//!
//! An edit injects one NBL in place of the bytes that it covers, in their direction and with their flags: new memory for new
//! bytes, and for kept ranges the original's own pages behind partial MDLs, under a reference until the completion. Where the
//! bytes judged are a copy (they were kept back, or a link wants a snapshot), kept ranges are copied from it.
//!
//! A link that continues with the first bytes only wants to be asked about the rest again, so no link behind it decides on
//! more than those bytes: an edit that reaches further is an error of its link.

use alloc::sync::Arc;

use fwps_sys::FWPS_STREAM_FLAG;
use tidegate_abi::context::{STREAM_MID_STREAM, STREAM_NO_MORE_DATA};
use tidegate_abi::control::{Id, OnError};
use tidegate_abi::limits::MAX_WINDOW;
use tidegate_abi::{StreamContext, Verdict};
use tidegate_runtime::{Calls, Link};
use tidegate_vm::Stack;

use crate::edit::{Own, Piece, Plan};
use crate::engine::Engine;
use crate::flow::{Flow, Marks};
use crate::held::{self, Side};
use crate::host::{Connection, Editable, PacketHost};
use crate::injection::{Body, Failure, StreamEnd, StreamInjection};
use crate::memory;
use crate::packet::View;
use crate::shared::Shared;

/// What the bytes allow to be decided.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// Bytes there are.
    pub(crate) len: usize,
    /// Bytes shown to programs: the first of those.
    pub(crate) shown: usize,
    /// Bytes that may be decided on: those that every link before has seen enough of.
    pub(crate) open: usize,
    /// All of the bytes have to be decided on at once.
    pub(crate) whole: bool,
    /// More data can come.
    pub(crate) may_wait: bool,
    /// The direction ends behind these bytes.
    pub(crate) end: bool,
}

/// What was decided. Numbers are bytes from the first one shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// No opinion of so many.
    Next(usize),
    Permit(usize),
    /// These pass edited: the edited ones were injected.
    Edit(usize),
    /// The clone passes instead of these: it was injected.
    Clone(usize),
    Block(usize),
    NeedMore(u32),
    /// All is kept back; the links before have passed so many on.
    Hold(usize),
    /// The program has injected the end of the direction itself.
    Ended,
    Drop,
    Allow,
}

/// Where the bytes that an edit keeps are taken from.
#[derive(Clone, Copy)]
pub(crate) enum Kept<'c> {
    /// Shared with the original.
    Shared(&'c View<'c>),
    /// Copied from the window, which is a copy already.
    Copied,
}

/// Bytes of a stream that links are asked about.
pub(crate) struct Ask<'c> {
    pub(crate) engine: &'c Shared<Engine>,
    pub(crate) flow: &'c Shared<Flow>,
    /// 0 outbound, 1 inbound.
    pub(crate) direction: usize,
    /// What goes in the place of the bytes is injected with these.
    pub(crate) flags: FWPS_STREAM_FLAG,
    pub(crate) context: StreamContext,
    pub(crate) window: &'c [u8],
    pub(crate) kept: Kept<'c>,
    pub(crate) editable: Editable,
    /// The link that keeps the bytes back.
    pub(crate) holder: Option<&'c Arc<Link>>,
    /// The link that failed about them already; 0 for none.
    pub(crate) failed: Id,
    /// Asked from classify, not from the worker.
    pub(crate) inline: bool,
}

impl Ask<'_> {
    /// Asks the links one by one, and carries out what a decision injects. Gives back the link that decided.
    pub(crate) fn links<'l>(
        &self,
        links: &'l [Arc<Link>],
        mut bounds: Bounds,
        stack: &mut Stack,
        edits: &mut Plan,
        clone: &mut Plan,
        own: &mut Own,
    ) -> (Decision, Option<&'l Arc<Link>>) {
        let mut shown = self.context;
        if !bounds.may_wait {
            shown.flags |= STREAM_NO_MORE_DATA;
        }
        for link in links {
            if self.passes_over(link) {
                continue;
            }
            let mut context = shown;
            if self.flow.mid_stream || link.is_newer(self.flow.born) {
                context.flags |= STREAM_MID_STREAM;
            }
            let verdict = {
                let connection = Connection {
                    flow: self.flow,
                    own,
                    open: self.open_directions(),
                    ends: (bounds.end && bounds.len == 0).then_some(self.direction),
                };
                let mut host = PacketHost::new(Calls::new(link), self.window, self.editable, edits, clone)
                    .with(connection);
                let verdict = link.run(&mut host, stack, &mut context, self.window);
                verdict.map(|verdict| (verdict, host.injects()))
            };
            let decision = match verdict {
                // A run that failed has been counted.
                Err(_) => Err(()),
                Ok((verdict, injects)) => {
                    let plan = if injects { &*clone } else { &*edits };
                    let decision = judge(verdict, &context, injects, plan, own, &bounds);
                    let done = decision.and_then(|decision| self.carry_out(decision, edits, clone, own));
                    done.or_else(|failure| {
                        link.count_failed(verdict);
                        own.clear();
                        // What is half there can't be taken back, nor be left so.
                        if failure == Failure::Half { Ok(Decision::Drop) } else { Err(()) }
                    })
                }
            };
            let decision = match decision {
                Ok(Decision::Next(cover)) => {
                    bounds.open = cover;
                    continue;
                }
                Err(()) if link.on_error() == OnError::Permit => continue,
                Err(()) => Decision::Drop,
                Ok(decision) => decision,
            };
            match decision {
                Decision::Edit(_) => link.count_edited(),
                Decision::Clone(_) => link.count_injected(),
                _ => {}
            }
            return (decision, Some(link));
        }
        (Decision::Next(bounds.open), None)
    }

    /// Whether a link is not asked: it is being detached and keeps none of these bytes, or it failed about them.
    fn passes_over(&self, link: &Arc<Link>) -> bool {
        let holds = self.holder.is_some_and(|holder| holder.id() == link.id());
        (link.is_draining() && (!holds || link.is_overdue())) || link.id() == self.failed
    }

    /// Directions that a program can send data of its own in: from the worker only those that go through their queues.
    fn open_directions(&self) -> [bool; 2] {
        if self.editable != Editable::Yes {
            return [false; 2];
        }
        let marks = self.flow.marks();
        [0, 1].map(|direction| {
            let open = self.inline || direction == self.direction || marks.has(Marks::held(direction));
            open && !marks.has(Marks::ended(direction))
        })
    }

    fn carry_out(
        &self,
        decision: Decision,
        edits: &Plan,
        clone: &Plan,
        own: &Own,
    ) -> Result<Decision, Failure> {
        let goes_on = !matches!(decision, Decision::NeedMore(_) | Decision::Hold(_) | Decision::Drop);
        if matches!(decision, Decision::Hold(_)) && self.editable != Editable::Yes {
            return Err(Failure::Unfit);
        }
        let mut decision = decision;
        let mut half = false;
        let after = |half: bool, failure| if half { Failure::Half } else { failure };
        if goes_on {
            for piece in own.pieces() {
                self.send_own(piece.direction, piece.bytes, piece.end)
                    .map_err(|failure| after(half, failure))?;
                half = true;
                if piece.end {
                    decision = Decision::Ended;
                }
            }
        }
        let edited = match decision {
            Decision::Edit(cover) => self.edit(edits, cover),
            Decision::Clone(cover) => self.edit(clone, cover),
            _ => Ok(()),
        };
        edited.map_err(|failure| after(half, failure))?;
        if goes_on && own.ahead() > 0 {
            let longer = |side: &mut Side| side.ahead = side.ahead.max(own.ahead());
            self.flow.side(self.direction, &self.engine.platform, longer);
            self.flow.mark(Marks::ahead(self.direction));
        }
        Ok(decision)
    }

    /// Injects a program's own data.
    fn send_own(&self, direction: usize, data: &[u8], end: bool) -> Result<(), Failure> {
        let same = direction == self.direction;
        let mut flags = if direction == 0 { FWPS_STREAM_FLAG::SEND } else { FWPS_STREAM_FLAG::RECEIVE };
        if !same && self.flow.marks().has(Marks::held(direction)) {
            return held::keep_own(self.engine, self.flow, direction, data, flags);
        }
        if end {
            flags |= disconnect(direction);
        }
        let bytes = memory::copied(data)?;
        self.engine.counters.copied.add_many(data.len());
        let mut body = Body::new(bytes);
        body.push_new(0..data.len())?;
        self.inject(body, flags)?;
        if end {
            self.flow.mark(Marks::ended(direction));
        }
        Ok(())
    }

    /// Injects what a plan makes of the first `cover` bytes.
    fn edit(&self, plan: &Plan, cover: usize) -> Result<(), Failure> {
        let shared = match self.kept {
            Kept::Shared(view) => view,
            Kept::Copied => return self.copy(plan, cover),
        };
        let new = memory::copied(plan.new_bytes())?;
        self.engine.counters.copied.add_many(new.len());
        let mut body = Body::new(new);
        for piece in plan.pieces(cover) {
            match piece {
                Piece::Keep(range) => {
                    for segment in shared.segments(range) {
                        body.push_kept(&segment?)?;
                    }
                }
                Piece::New(range) => body.push_new(range)?,
            }
        }
        self.inject(body, self.flags)
    }

    /// The same with bytes that are all new.
    fn copy(&self, plan: &Plan, cover: usize) -> Result<(), Failure> {
        let len = plan.output_len(cover);
        let mut bytes = memory::filled(len, 0)?;
        let mut free = bytes.as_mut_slice();
        for piece in plan.pieces(cover) {
            let from = match piece {
                Piece::Keep(range) => self.window.get(range),
                Piece::New(range) => plan.new_bytes().get(range),
            };
            let from = from.ok_or(Failure::Unfit)?;
            let (to, behind) = free.split_at_mut_checked(from.len()).ok_or(Failure::Unfit)?;
            to.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
            free = behind;
        }
        self.engine.counters.copied.add_many(len);
        let mut body = Body::new(bytes);
        if len > 0 {
            body.push_new(0..len)?;
        }
        self.inject(body, self.flags)
    }

    /// Injects a copy of the first `cover` bytes as they were judged.
    pub(crate) fn pass(&self, cover: usize) -> Result<(), Failure> {
        const UNCHANGED: &Plan = &Plan::new();
        self.copy(UNCHANGED, cover)
    }

    /// Injects the end of the direction.
    pub(crate) fn end(&self) -> Result<(), Failure> {
        let flags = self.flags | disconnect(self.direction);
        if self.flow.is_dead() {
            return Err(Failure::Refused);
        }
        let Flow { id, callout, layer, .. } = **self.flow;
        StreamEnd { flow: id, callout, layer, flags }.inject(self.engine)?;
        self.flow.mark(Marks::ended(self.direction));
        Ok(())
    }

    fn inject(&self, mut body: Body, flags: FWPS_STREAM_FLAG) -> Result<(), Failure> {
        if body.len() == 0 {
            return Ok(());
        }
        if self.flow.is_dead() {
            return Err(Failure::Refused);
        }
        body.finish(self.engine.handles.pool)?;
        self.engine.counters.allocated.add_many(body.allocated() + size_of::<StreamInjection>());
        let injection = memory::boxed(StreamInjection {
            engine: Shared::clone(self.engine),
            body,
            flow: self.flow.id,
            callout: self.flow.callout,
            layer: self.flow.layer,
            flags,
        })?;
        match injection.inject() {
            Ok(()) => {
                self.engine.counters.injected.add();
                Ok(())
            }
            Err(_) => {
                self.engine.counters.refused.add();
                Err(Failure::Refused)
            }
        }
    }
}

const fn disconnect(direction: usize) -> FWPS_STREAM_FLAG {
    if direction == 0 { FWPS_STREAM_FLAG::SEND_DISCONNECT } else { FWPS_STREAM_FLAG::RECEIVE_DISCONNECT }
}

/// What a verdict comes to.
///
/// # Errors
/// The verdict can't be carried out on these bytes: an error of the link.
fn judge(
    verdict: Verdict,
    context: &StreamContext,
    injects: bool,
    plan: &Plan,
    own: &Own,
    bounds: &Bounds,
) -> Result<Decision, Failure> {
    let cover = match context.bytes_enforced as usize {
        0 => bounds.open,
        bytes if bytes > bounds.shown || (bounds.whole && bytes < bounds.shown) => {
            return Err(Failure::Unfit);
        }
        bytes => bytes.min(bounds.open),
    };
    let decision = match verdict {
        Verdict::Block if injects => Decision::Clone(cover),
        _ if injects => return Err(Failure::Unfit),
        Verdict::Continue | Verdict::Permit if !plan.is_empty() => Decision::Edit(cover),
        // As with edits: what was sent must not be asked for again when a link behind wants to wait.
        Verdict::Continue if !own.is_empty() => Decision::Permit(cover),
        Verdict::Continue => Decision::Next(cover),
        Verdict::Permit => Decision::Permit(cover),
        Verdict::Block => Decision::Block(cover),
        Verdict::NeedMoreData if !bounds.may_wait => return Err(Failure::Unfit),
        Verdict::NeedMoreData => {
            // One more byte at least, and not more than a window holds.
            let room = MAX_WINDOW.saturating_sub(bounds.shown) as u32;
            Decision::NeedMore(context.bytes_required.min(room).max(1))
        }
        Verdict::Pend => Decision::Hold(bounds.open),
        Verdict::DropConnection => Decision::Drop,
        Verdict::AllowConnection => Decision::Allow,
    };
    match decision {
        Decision::Edit(_) | Decision::Clone(_) if plan.end() > cover || own.ends() => Err(Failure::Unfit),
        // The end that comes together with bytes can't be kept when they are taken out.
        Decision::Edit(_) | Decision::Clone(_) | Decision::Block(_)
            if bounds.end && bounds.len > 0 && cover == bounds.len =>
        {
            Err(Failure::Unfit)
        }
        // What follows begins behind all bytes that were shown.
        Decision::Next(cover)
        | Decision::Permit(cover)
        | Decision::Edit(cover)
        | Decision::Clone(cover)
        | Decision::Block(cover)
            if own.ahead() > 0 && cover < bounds.shown =>
        {
            Err(Failure::Unfit)
        }
        decision => Ok(decision),
    }
}

//! What a chain of links says about bytes of a stream, and what is injected for it.
//!
//! An edit injects one NBL in place of the bytes that it covers, in their direction and with their flags: new memory for new
//! bytes, and for kept ranges the original's own pages behind partial MDLs, under a reference until the completion. Where the
//! bytes judged are a copy (they were kept back, or a link wants a snapshot), kept ranges are copied from it.
//!
//! A program that is tried in a link beside its own (see [`Trial`]) is shown what that one is shown, behind it, and before anything
//! is done: what it wants is compared and forgotten.
//!
//! A link that continues with the first bytes only wants to be asked about the rest again, so no link behind it decides on
//! more than those bytes: an edit that reaches further is an error of its link.

use alloc::boxed::Box;

use fwps_sys::{FWPS_CLASSIFY_OUT_FLAG, FWPS_STREAM_FLAG};
use tidegate_abi::context::{STREAM_MID_STREAM, STREAM_NO_MORE_DATA};
use tidegate_abi::control::{Id, OnError};
use tidegate_abi::limits::{self, MAX_WINDOW};
use tidegate_abi::{StreamContext, Verdict};
use tidegate_runtime::{Calls, Chain, Comparison, Link, Sight, Trial};
use tidegate_vm::{Lent, Shared, Stack};

use crate::edit::{Changes, Piece, Plan};
use crate::engine::Engine;
use crate::flow::{Flow, Marks};
use crate::held::{self, Side};
use crate::host::{About, Editable, PacketHost};
use crate::injection::{Body, Failure, StreamEnd, StreamInjection};
use crate::memory;
use crate::packet::Indicated;
use crate::watch::{self, Came};

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
    NeedMore(usize),
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
    Shared(Indicated<'c>),
    /// Copied from the window, which is a copy already.
    Copied,
}

/// Bytes of a stream that links are asked about.
pub(crate) struct Ask<'c> {
    pub(crate) flow: Lent<'c, Flow>,
    /// What they came with, and whether the direction ends behind them.
    pub(crate) flags: FWPS_STREAM_FLAG,
    /// Bytes there are.
    pub(crate) len: usize,
    /// Those that are shown to programs: the first.
    pub(crate) window: &'c [u8],
    /// What the filter engine said in `classifyOut`.
    pub(crate) out: FWPS_CLASSIFY_OUT_FLAG,
    pub(crate) kept: Kept<'c>,
    /// The link that keeps the bytes back, or waited for them; 0 for none.
    pub(crate) holder: Id,
    /// Links that are not asked about them; `None` from classify, where all are.
    pub(crate) passed: Option<&'c Passed>,
}

/// Links that bytes which one keeps back were shown to already.
#[derive(Clone, Default)]
pub(crate) struct Passed {
    /// The links of the hook when it began to keep them, in the order that they ran. It may be another one by now.
    then: Chain,
    /// Its place among them.
    holder: usize,
    /// Those that have passed the bytes on: a bit for each, and there are no more.
    seen: u64,
    /// The link that failed about the bytes; 0 for none.
    pub(crate) failed: Id,
}

const _: () = assert!(limits::MAX_LINKS <= u64::BITS as usize);

impl Passed {
    /// What holds when `by` keeps bytes that the links of `chain` were asked about, but for those that had seen them `before`.
    pub(crate) fn to(by: &Link, chain: &Chain, before: &Self) -> Self {
        let holder = chain.links().iter().position(|link| link.id() == by.id()).unwrap_or(0);
        let seen = |(at, link): (usize, &Shared<Link>)| at < holder || before.has_seen(link) == Some(true);
        let seen = chain.links().iter().enumerate().map(seen);
        let seen = seen.zip(0..).fold(0, |all, (seen, at)| all | u64::from(seen).wrapping_shl(at));
        Self { then: chain.clone(), holder, seen, failed: 0 }
    }

    /// Whether nobody has seen the bytes but who keeps them.
    pub(crate) fn is_nobody(&self) -> bool {
        self.seen == 0
    }

    /// Whether a link of then has seen the bytes.
    fn has_seen(&self, link: &Link) -> Option<bool> {
        let at = self.then.links().iter().position(|then| then.id() == link.id())?;
        Some(self.seen.wrapping_shr(at as u32) & 1 != 0)
    }

    /// Whether `link` is not to be asked: it has seen the bytes, or came later to a place that they have passed.
    #[cold]
    #[inline(never)]
    fn has(&self, link: &Link) -> bool {
        link.id() == self.failed
            || self.has_seen(link).unwrap_or_else(|| {
                let holder = self.then.links().get(self.holder);
                holder.is_some_and(|holder| link.order() < holder.order())
            })
    }
}

impl Decision {
    /// How many bytes it is about.
    const fn bytes(self) -> usize {
        match self {
            Self::Next(bytes) | Self::Permit(bytes) | Self::Edit(bytes) | Self::Clone(bytes) => bytes,
            Self::Block(bytes) | Self::NeedMore(bytes) | Self::Hold(bytes) => bytes,
            Self::Ended | Self::Drop | Self::Allow => 0,
        }
    }
}

/// What a run wants, before anything of it is done.
struct Wanted<'w> {
    /// Its verdict and what that comes to; `None`: it failed, or it can't be carried out.
    what: Option<(Verdict, Decision)>,
    changes: &'w Changes,
}

impl Wanted<'_> {
    /// How what a shadow's run wants and what the one of the link's own program wanted compare.
    // Not in the frame that a run stands on: the stack is short.
    #[inline(never)]
    fn compare(&self, own: &Self, window: &[u8]) -> Comparison {
        let Some((verdict, decision)) = self.what else { return Comparison::Error };
        match own.what {
            Some((same, done)) if verdict == same && decision.bytes() == done.bytes() => {
                let same = self.output(decision, window).eq(own.output(done, window))
                    && self.changes.own.is_same(&own.changes.own);
                if same { Comparison::Agreed } else { Comparison::Bytes }
            }
            _ => Comparison::Verdict,
        }
    }

    /// What comes out in the place of the bytes shown.
    fn output<'o>(&'o self, decision: Decision, window: &'o [u8]) -> impl Iterator<Item = u8> + 'o {
        let (plan, cover) = self.plan(decision);
        plan.output(window, cover)
    }

    /// How many bytes that are.
    fn output_len(&self, decision: Decision) -> usize {
        let (plan, cover) = self.plan(decision);
        plan.output_len(cover)
    }

    fn plan(&self, decision: Decision) -> (&Plan, usize) {
        match decision {
            Decision::Edit(cover) => (&self.changes.edits, cover),
            Decision::Clone(cover) => (&self.changes.clone, cover),
            Decision::Next(cover) | Decision::Permit(cover) => (UNCHANGED, cover),
            _ => (UNCHANGED, 0),
        }
    }
}

/// What leaves bytes as they are.
const UNCHANGED: &Plan = &Plan::new();

impl<'c> Ask<'c> {
    /// Asks the links one by one, on this processor, and carries out what a decision injects. Gives back the link that decided.
    #[inline(always)]
    pub(crate) fn links<'l>(
        &self,
        links: &'l [Shared<Link>],
        processor: u32,
        context: &mut StreamContext,
        stack: &mut Stack,
        changes: &mut Changes,
    ) -> (Decision, Option<&'l Shared<Link>>) {
        // Bytes that may be decided on: those that every link before has seen enough of.
        let mut open = self.window.len();
        let Some(first) = links.first() else {
            changes.clear();
            return (Decision::Next(open), None);
        };
        let flags = context.flags;
        // What does not change meanwhile, though it is lent to every run.
        let (passed, born, window, ends) = (self.passed, self.flow.born, self.window, self.ends());
        let mut host = PacketHost::new(Calls::new(first), About::Stream(self), changes);
        for link in links {
            if link.is_special() {
                match self.special(link, flags, context, open, stack, &mut host) {
                    (Decision::Next(cover), _) => open = cover,
                    (decision, by) => return (decision, Some(by)),
                }
                continue;
            }
            if passed.is_some_and(|passed| passed.has(link)) {
                continue;
            }
            // A program writes to its context what it wants: the next one finds nothing of that.
            context.flags = flags | if link.is_newer(born, self.flow.id) { STREAM_MID_STREAM } else { 0 };
            (context.bytes_enforced, context.bytes_required) = (0, 0);
            let verdict = host.run(link, stack, context, window, processor).ok();
            let wants_more = host.changes().is_touched() || context.bytes_enforced != 0;
            let decision = match verdict {
                // What `judge` says too.
                Some(Verdict::Continue) if !wants_more => continue,
                Some(Verdict::Permit) if !wants_more => Decision::Permit(open),
                Some(Verdict::Block) if !wants_more && !ends => Decision::Block(open),
                verdict => self.decide(link, verdict, context, open, &mut host),
            };
            match decision {
                Decision::Next(cover) => open = cover,
                decision => return (decision, Some(link)),
            }
        }
        (Decision::Next(open), None)
    }

    fn processor(&self) -> u32 {
        (self.engine().get().platform.processor)()
    }

    #[inline]
    fn mid_stream(&self, link: &Link) -> u32 {
        if link.is_newer(self.flow.born, self.flow.id) { STREAM_MID_STREAM } else { 0 }
    }

    /// Asks a link that is being detached, that is not shown everything, in which something is tried, whose run is timed, or that
    /// somebody watches. Gives back who decided: the link, or what stood in for it.
    #[cold]
    #[inline(never)]
    fn special<'l: 'h, 'h>(
        &'h self,
        link: &'l Shared<Link>,
        flags: u32,
        context: &mut StreamContext,
        open: usize,
        stack: &mut Stack,
        host: &mut PacketHost<'h>,
    ) -> (Decision, &'l Shared<Link>) {
        if (link.is_draining() && !self.may_end(link))
            || self.passed.is_some_and(|passed| passed.has(link))
            || link.is_blind(self.direction() as u8, || (&*context).into())
        {
            return (Decision::Next(open), link);
        }
        let (mut by, mut shadow, mut missed) = (link, None, 0);
        match link.trial() {
            Some(trial) if trial.is_shadow() => shadow = Some(trial),
            Some(trial) if trial.stands_in(self.flow.id, || self.engine().get().runtime.moment()) => {
                by = trial.candidate();
            }
            Some(trial) if trial.gave_back(self.flow.id, self.flow.born) => missed = STREAM_MID_STREAM,
            _ => {}
        }
        context.flags = flags | missed | self.mid_stream(by);
        (context.bytes_enforced, context.bytes_required) = (0, 0);
        let (mut sight, processor) =
            (watch::sight(&self.engine().runtime, by, self.flow.id), self.processor());
        let verdict = match &mut sight {
            Some(sight) => host.run_watched(by, stack, context, self.window, processor, sight),
            None => {
                let began = by.begin_run();
                let verdict = host.run(by, stack, context, self.window, processor).ok();
                by.end_run(began, verdict);
                verdict
            }
        };
        if let Some(trial) = shadow {
            let own = self.wanted(verdict, context, host, open);
            self.shadow(trial, flags, context, open, stack, &own);
        }
        let decision = match sight {
            Some(sight) => self.decide_watched(by, verdict, context, open, host, sight),
            None => self.decide(by, verdict, context, open, host),
        };
        (decision, by)
    }

    /// As [`decide`](Self::decide), and tells of it.
    #[cold]
    #[inline(never)]
    fn decide_watched(
        &self,
        link: &Link,
        verdict: Option<Verdict>,
        context: &StreamContext,
        open: usize,
        host: &mut PacketHost<'_>,
        mut sight: Box<Sight>,
    ) -> Decision {
        let (wanted, edited, sent) = {
            let wanted = self.wanted(verdict, context, host, open);
            let what = wanted.what.map(|(_, decision)| decision);
            (what, what.map_or(0, |decision| wanted.output_len(decision)), watch::sent(host.changes()))
        };
        let decision = self.decide(link, verdict, context, open, host);
        let unfit = wanted.is_none_or(|wanted| wanted != decision && decision != Decision::Ended);
        let (decided, passed) = match decision {
            Decision::Edit(cover) | Decision::Clone(cover) => (cover, edited),
            Decision::Next(cover) | Decision::Permit(cover) => (cover, cover),
            Decision::Block(cover) => (cover, 0),
            Decision::Allow => (self.window.len(), self.window.len()),
            Decision::Drop => (self.window.len(), 0),
            Decision::NeedMore(_) | Decision::Hold(_) | Decision::Ended => (0, 0),
        };
        let kept = matches!(decision, Decision::NeedMore(_) | Decision::Hold(_) | Decision::Drop);
        let sent = if unfit || kept { 0 } else { sent };
        let came = Came { unfit, shown: self.window.len(), decided, passed, sent };
        let (runtime, about) = (&self.engine().get().runtime, &self.flow.get().context);
        watch::tell_stream(runtime, link, about, self.direction(), &came, &mut sight);
        decision
    }

    /// Runs a program that is tried beside a link's own, which wanted `own`, and compares. `context` is what that one was given.
    #[inline(never)]
    fn shadow(
        &self,
        trial: &Trial,
        flags: u32,
        context: &StreamContext,
        open: usize,
        stack: &mut Stack,
        own: &Wanted<'_>,
    ) {
        let candidate = trial.candidate();
        let Ok(mut changes) = Changes::boxed() else { return trial.count_missed() };
        let flags = flags | self.mid_stream(candidate);
        let mut context = StreamContext { flags, bytes_enforced: 0, bytes_required: 0, ..*context };
        let mut host = PacketHost::new(Calls::new(candidate), About::Stream(self), &mut changes);
        let verdict = host.run(candidate, stack, &mut context, self.window, self.processor()).ok();
        trial.count(self.wanted(verdict, &context, &host, open).compare(own, self.window));
    }

    /// What a run wants.
    // Not in the frame that a run stands on: the stack is short.
    #[inline(never)]
    fn wanted<'h>(
        &self,
        verdict: Option<Verdict>,
        context: &StreamContext,
        host: &'h PacketHost<'_>,
        open: usize,
    ) -> Wanted<'h> {
        let changes = host.changes();
        let decide = |verdict| {
            let decision = self.judge(verdict, context, host.injects(), changes, open);
            decision.ok().map(|decision| (verdict, decision))
        };
        Wanted { what: verdict.and_then(decide), changes }
    }

    /// Whose flow it is.
    pub(crate) fn engine(&self) -> Lent<'c, Engine> {
        self.flow.get().engine.lend()
    }

    /// 0 outbound, 1 inbound.
    pub(crate) fn direction(&self) -> usize {
        usize::from(self.flags.has_any(FWPS_STREAM_FLAG::RECEIVE_FAMILY))
    }

    /// Whether the direction ends behind the bytes.
    pub(crate) fn ends(&self) -> bool {
        self.flags.has_any(FWPS_STREAM_FLAG::DISCONNECT)
    }

    /// Whether a link that is being detached is asked: it keeps these bytes, and has time left.
    #[cold]
    #[inline(never)]
    fn may_end(&self, link: &Link) -> bool {
        self.holder == link.id() && !link.is_overdue()
    }

    /// A reset can't be edited.
    pub(crate) fn editable(&self) -> Editable {
        if self.flags.has_any(FWPS_STREAM_FLAG::ABORT) { Editable::No } else { Editable::Yes }
    }

    /// Whether what is shown is the end of the direction.
    pub(crate) fn is_end(&self) -> bool {
        self.ends() && self.len == 0
    }

    /// Whether a program can send data of its own in a direction: from the worker only if it goes through its queue.
    pub(crate) fn is_open(&self, direction: usize) -> bool {
        let marks = self.flow.marks();
        let open =
            self.passed.is_none() || direction == self.direction() || marks.has(Marks::held(direction));
        open && !marks.has(Marks::ended(direction))
    }

    /// What a run comes to, whatever it wants; `None` is one that failed, and was counted.
    #[inline(never)]
    fn decide(
        &self,
        link: &Link,
        verdict: Option<Verdict>,
        context: &StreamContext,
        open: usize,
        host: &mut PacketHost<'_>,
    ) -> Decision {
        let decision = match verdict {
            None => {
                link.count_fault();
                Err(())
            }
            Some(verdict) => {
                let (injects, changes) = (host.injects(), host.changes());
                let decision = self.judge(verdict, context, injects, changes, open);
                let done = decision.and_then(|decision| self.carry_out(decision, changes));
                done.or_else(|failure| {
                    link.count_failed(verdict);
                    // What is half there can't be taken back, nor be left so.
                    if failure == Failure::Half { Ok(Decision::Drop) } else { Err(()) }
                })
            }
        };
        match decision {
            Ok(Decision::Edit(_)) => link.count_edited(),
            Ok(Decision::Clone(_)) => link.count_injected(),
            Ok(Decision::Next(_)) | Err(()) => host.forget(),
            Ok(_) => {}
        }
        decision.unwrap_or_else(|()| match link.on_error() {
            OnError::Permit => Decision::Next(open),
            OnError::Block => Decision::Drop,
        })
    }

    fn carry_out(&self, decision: Decision, changes: &Changes) -> Result<Decision, Failure> {
        let Changes { edits, clone, own, .. } = changes;
        let goes_on = !matches!(decision, Decision::NeedMore(_) | Decision::Hold(_) | Decision::Drop);
        if matches!(decision, Decision::Hold(_)) && self.editable() != Editable::Yes {
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
            self.flow.side(self.direction(), &self.engine().platform, longer);
            self.flow.mark(Marks::ahead(self.direction()));
        }
        Ok(decision)
    }

    /// Flags of what is injected in the place of the bytes: their end is injected apart.
    fn injected(&self) -> FWPS_STREAM_FLAG {
        self.flags.without(FWPS_STREAM_FLAG::DISCONNECT)
    }

    /// Injects a program's own data.
    fn send_own(&self, direction: usize, data: &[u8], end: bool) -> Result<(), Failure> {
        let same = direction == self.direction();
        let mut flags = if direction == 0 { FWPS_STREAM_FLAG::SEND } else { FWPS_STREAM_FLAG::RECEIVE };
        if !same && self.flow.marks().has(Marks::held(direction)) {
            return held::keep_own(self.engine(), &self.flow, direction, data, flags);
        }
        if end {
            flags |= disconnect(direction);
        }
        let bytes = memory::copied(data)?;
        self.engine().counters.copied.add_many(data.len());
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
            Kept::Shared(indicated) => indicated.view()?,
            Kept::Copied => return self.copy(plan, cover),
        };
        let new = memory::copied(plan.new_bytes())?;
        self.engine().counters.copied.add_many(new.len());
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
        self.inject(body, self.injected())
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
        self.engine().counters.copied.add_many(len);
        let mut body = Body::new(bytes);
        if len > 0 {
            body.push_new(0..len)?;
        }
        self.inject(body, self.injected())
    }

    /// Injects a copy of the first `cover` bytes as they were judged.
    pub(crate) fn pass(&self, cover: usize) -> Result<(), Failure> {
        self.copy(UNCHANGED, cover)
    }

    /// Injects the end of the direction.
    pub(crate) fn end(&self) -> Result<(), Failure> {
        let flags = self.injected() | disconnect(self.direction());
        if self.flow.is_dead() {
            return Err(Failure::Refused);
        }
        let Flow { id, callout, layer, .. } = *self.flow;
        StreamEnd { flow: id, callout, layer, flags }.inject(&self.engine())?;
        self.flow.mark(Marks::ended(self.direction()));
        Ok(())
    }

    fn inject(&self, mut body: Body, flags: FWPS_STREAM_FLAG) -> Result<(), Failure> {
        if body.len() == 0 {
            return Ok(());
        }
        if self.flow.is_dead() {
            return Err(Failure::Refused);
        }
        body.finish(self.engine().handles.pool)?;
        self.engine().counters.allocated.add_many(body.allocated() + size_of::<StreamInjection>());
        let injection = memory::boxed(StreamInjection {
            engine: self.engine().share(),
            body,
            flow: self.flow.id,
            callout: self.flow.callout,
            layer: self.flow.layer,
            flags,
        })?;
        match injection.inject() {
            Ok(()) => {
                self.engine().counters.injected.add();
                Ok(())
            }
            Err(_) => {
                self.engine().counters.refused.add();
                Err(Failure::Refused)
            }
        }
    }

    /// What a verdict comes to.
    ///
    /// # Errors
    /// The verdict can't be carried out on these bytes: an error of the link.
    #[inline(always)]
    fn judge(
        &self,
        verdict: Verdict,
        context: &StreamContext,
        injects: bool,
        changes: &Changes,
        open: usize,
    ) -> Result<Decision, Failure> {
        let (Changes { edits, clone, own, .. }, shown) = (changes, self.window.len());
        let plan = if injects { clone } else { edits };
        // All of the bytes have to be decided on at once.
        let whole = self.out.has(FWPS_CLASSIFY_OUT_FLAG::BUFFER_LIMIT_REACHED);
        let cover = match context.bytes_enforced as usize {
            0 => open,
            bytes if bytes > shown || (whole && bytes < shown) => {
                return Err(Failure::Unfit);
            }
            bytes => bytes.min(open),
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
            Verdict::NeedMoreData if context.flags & STREAM_NO_MORE_DATA != 0 => return Err(Failure::Unfit),
            Verdict::NeedMoreData => {
                // One more byte at least, and not more than a window holds.
                let room = MAX_WINDOW.saturating_sub(shown);
                Decision::NeedMore((context.bytes_required as usize).min(room).max(1))
            }
            Verdict::Pend => Decision::Hold(open),
            Verdict::DropConnection => Decision::Drop,
            Verdict::AllowConnection => Decision::Allow,
        };
        match decision {
            Decision::Edit(_) | Decision::Clone(_) if plan.end() > cover || own.ends() => Err(Failure::Unfit),
            // The end that comes together with bytes can't be kept when they are taken out.
            Decision::Edit(_) | Decision::Clone(_) | Decision::Block(_)
                if self.ends() && self.len > 0 && cover == self.len =>
            {
                Err(Failure::Unfit)
            }
            // What follows begins behind all bytes that were shown.
            Decision::Next(cover)
            | Decision::Permit(cover)
            | Decision::Edit(cover)
            | Decision::Clone(cover)
            | Decision::Block(cover)
                if own.ahead() > 0 && cover < shown =>
            {
                Err(Failure::Unfit)
            }
            decision => Ok(decision),
        }
    }
}

pub(crate) const fn disconnect(direction: usize) -> FWPS_STREAM_FLAG {
    if direction == 0 { FWPS_STREAM_FLAG::SEND_DISCONNECT } else { FWPS_STREAM_FLAG::RECEIVE_DISCONNECT }
}

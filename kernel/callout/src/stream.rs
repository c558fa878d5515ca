//! The stream layers, inline: the chain is run on what was indicated, and its decision is carried out before classify
//! returns.
//!
//! An edit injects one NBL in place of the bytes that it covers, in the direction and with the flags of the indication: new
//! memory for new bytes, and for kept ranges the original's own pages behind partial MDLs, under a reference until the
//! completion. The bytes covered are blocked; what follows them is shown again by the filter engine, behind what was
//! injected.
//!
//! A link that continues with the first bytes only wants to be asked about the rest again, so no link behind it decides on
//! more than those bytes: an edit that reaches further is an error of its link.
//!
//! The end of a direction (FIN) is an indication without bytes: there is nothing to block in it, so it passes, with inserted
//! bytes in front of it. A reset passes always.

use alloc::sync::Arc;

use fwps_sys::{FWPS_CLASSIFY_OUT_FLAG, FWPS_STREAM_DATA0, FWPS_STREAM_FLAG};
use tidegate_abi::context::STREAM_NO_MORE_DATA;
use tidegate_abi::control::OnError;
use tidegate_abi::limits::MAX_WINDOW;
use tidegate_abi::{StreamContext, Verdict};
use tidegate_runtime::{Calls, Link};

use crate::edit::{Piece, Plan};
use crate::engine::Engine;
use crate::host::{Editable, PacketHost};
use crate::injection::{Body, Failure, StreamInjection};
use crate::layer::Incoming;
use crate::memory;
use crate::outcome::StreamOutcome;
use crate::packet::{Unreadable, View};
use crate::scratch::Desk;

/// One call of classify at a stream layer.
pub(crate) struct Indication<'c> {
    pub(crate) incoming: &'c Incoming<'c>,
    pub(crate) data: &'c FWPS_STREAM_DATA0,
    /// Its bytes.
    pub(crate) view: Result<View<'c>, Unreadable>,
    /// Bytes that a callout above took before these.
    pub(crate) missed: usize,
    /// The callout that is called, as the engine knows it.
    pub(crate) callout: u32,
    /// What the engine said in `classifyOut`.
    pub(crate) flags: FWPS_CLASSIFY_OUT_FLAG,
}

/// What an indication allows to be decided.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    /// Bytes indicated.
    len: usize,
    /// Bytes shown to programs: the first of those.
    shown: usize,
    /// Bytes that may be decided on: those that every link before has seen enough of.
    open: usize,
    /// All of the bytes have to be decided on at once.
    whole: bool,
    /// More data can come.
    may_wait: bool,
    /// The direction ends behind these bytes.
    end: bool,
}

impl Indication<'_> {
    fn has(&self, flags: FWPS_STREAM_FLAG) -> bool {
        self.data.flags.has_any(flags)
    }

    fn bounds(&self) -> Bounds {
        let len = self.data.dataLength;
        let whole = self.flags.has(FWPS_CLASSIFY_OUT_FLAG::BUFFER_LIMIT_REACHED);
        let last = self.flags.has(FWPS_CLASSIFY_OUT_FLAG::NO_MORE_DATA)
            || self.has(FWPS_STREAM_FLAG::DISCONNECT | FWPS_STREAM_FLAG::ABORT);
        Bounds {
            len,
            shown: len.min(MAX_WINDOW),
            open: len.min(MAX_WINDOW),
            whole,
            may_wait: !whole && !last && len < MAX_WINDOW,
            end: self.has(FWPS_STREAM_FLAG::DISCONNECT),
        }
    }

    fn editable(&self) -> Editable {
        if self.has(FWPS_STREAM_FLAG::ABORT) || self.incoming.flow().is_none() {
            Editable::No
        } else {
            Editable::Yes
        }
    }
}

/// What one link decided. Numbers are bytes from the first one shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Decision {
    /// No opinion of so many.
    Next(usize),
    Permit(usize),
    /// These pass edited.
    Edit(usize),
    /// The clone passes instead of these.
    Clone(usize),
    Block(usize),
    NeedMore(u32),
    Drop,
    Allow,
}

/// Runs the chain on an indication and carries its decision out. DISPATCH_LEVEL.
pub(crate) fn classify(engine: &Arc<Engine>, indication: &Indication<'_>) -> StreamOutcome {
    let outcome = decide(engine, indication);
    if indication.has(FWPS_STREAM_FLAG::ABORT) {
        return StreamOutcome::Permit(indication.data.dataLength);
    }
    outcome
}

fn decide(engine: &Arc<Engine>, indication: &Indication<'_>) -> StreamOutcome {
    let chain = engine.runtime.chain(indication.incoming.layer.hook);
    let (links, bounds) = (chain.links(), indication.bounds());
    let pass = StreamOutcome::Permit(bounds.len);
    let abort = indication.has(FWPS_STREAM_FLAG::ABORT);
    if links.is_empty() || (bounds.len == 0 && !bounds.end && !abort) {
        return pass;
    }
    let Some(mut desk) = engine.scratch.take((engine.platform.processor)()) else {
        engine.counters.no_desk.add();
        return unseen(links, pass);
    };
    let Ok(view) = indication.view else {
        engine.counters.unreadable.add();
        return unseen(links, pass);
    };
    if bounds.whole && bounds.shown < bounds.len {
        engine.counters.oversized.add();
        return unseen(links, pass);
    }
    run(engine, indication, links, bounds, &view, &mut desk)
}

/// The outcome when no link could be shown the bytes: every link's `on_error` counts.
fn unseen(links: &[Arc<Link>], pass: StreamOutcome) -> StreamOutcome {
    links.iter().for_each(|link| link.count_error());
    if links.iter().any(|link| link.on_error() == OnError::Block) { StreamOutcome::Drop } else { pass }
}

fn run(
    engine: &Arc<Engine>,
    indication: &Indication<'_>,
    links: &[Arc<Link>],
    mut bounds: Bounds,
    view: &View<'_>,
    desk: &mut Desk,
) -> StreamOutcome {
    let Desk { window, stack, edits, clone } = desk;
    let Ok(window) = view.window(bounds.shown, window) else {
        engine.counters.unreadable.add();
        return unseen(links, StreamOutcome::Permit(bounds.len));
    };
    let mut shown = indication.incoming.stream_context(indication.data, indication.missed);
    if !bounds.may_wait {
        shown.flags |= STREAM_NO_MORE_DATA;
    }
    for link in links {
        let mut context = shown;
        let mut host = PacketHost::new(Calls::new(link), window, indication.editable(), edits, clone);
        let verdict = link.run(&mut host, stack, &mut context, window);
        let injects = host.injects();
        drop(host);
        let decision = match verdict {
            // A run that failed has been counted.
            Err(_) => Err(()),
            Ok(verdict) => {
                let decision =
                    judge(verdict, &context, injects, if injects { clone } else { edits }, &bounds);
                let done = decision.and_then(|decision| {
                    let plan = match decision {
                        Decision::Edit(cover) => Some((&*edits, cover)),
                        Decision::Clone(cover) => Some((&*clone, cover)),
                        _ => None,
                    };
                    match plan {
                        Some((plan, cover)) => {
                            inject(engine, indication, view, plan, cover).map(|()| decision)
                        }
                        None => Ok(decision),
                    }
                });
                done.map_err(|_| link.count_failed(verdict))
            }
        };
        return match decision {
            Ok(Decision::Next(cover)) => {
                bounds.open = cover;
                continue;
            }
            Err(()) if link.on_error() == OnError::Permit => continue,
            Err(()) => StreamOutcome::Drop,
            Ok(Decision::Permit(cover)) => StreamOutcome::Permit(cover),
            Ok(Decision::Edit(cover)) => {
                link.count_edited();
                blocked(cover, &bounds)
            }
            Ok(Decision::Clone(cover)) => {
                link.count_injected();
                blocked(cover, &bounds)
            }
            Ok(Decision::Block(cover)) => blocked(cover, &bounds),
            Ok(Decision::NeedMore(bytes)) => StreamOutcome::NeedMore(bytes),
            Ok(Decision::Drop) => StreamOutcome::Drop,
            Ok(Decision::Allow) => StreamOutcome::Allow,
        };
    }
    StreamOutcome::Permit(bounds.open)
}

/// Takes bytes out of the stream. An indication without bytes is the end of its direction, and passes.
fn blocked(cover: usize, bounds: &Bounds) -> StreamOutcome {
    if bounds.len == 0 { StreamOutcome::Permit(0) } else { StreamOutcome::Block(cover) }
}

/// What a verdict comes to.
///
/// # Errors
/// The verdict can't be carried out on this indication: an error of the link.
fn judge(
    verdict: Verdict,
    context: &StreamContext,
    injects: bool,
    plan: &Plan,
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
        Verdict::Continue => Decision::Next(cover),
        Verdict::Permit => Decision::Permit(cover),
        Verdict::Block => Decision::Block(cover),
        Verdict::NeedMoreData if !bounds.may_wait => return Err(Failure::Unfit),
        Verdict::NeedMoreData => {
            // One more byte at least, and not more than a window holds.
            let room = (MAX_WINDOW - bounds.shown).max(1) as u32;
            Decision::NeedMore(context.bytes_required.clamp(1, room))
        }
        Verdict::DropConnection => Decision::Drop,
        Verdict::AllowConnection => Decision::Allow,
    };
    match decision {
        Decision::Edit(_) | Decision::Clone(_) if plan.end() > cover => Err(Failure::Unfit),
        // The end that comes together with bytes can't be kept when they are taken out.
        Decision::Edit(_) | Decision::Clone(_) | Decision::Block(_)
            if bounds.end && bounds.len > 0 && cover == bounds.len =>
        {
            Err(Failure::Unfit)
        }
        decision => Ok(decision),
    }
}

/// Injects what a plan makes of the first `cover` bytes.
fn inject(
    engine: &Arc<Engine>,
    indication: &Indication<'_>,
    view: &View<'_>,
    plan: &Plan,
    cover: usize,
) -> Result<(), Failure> {
    let flow = indication.incoming.flow().ok_or(Failure::Unfit)?;
    let mut new = memory::vec(plan.new_bytes().len())?;
    new.extend_from_slice(plan.new_bytes());
    let mut body = Body::new(new);
    for piece in plan.pieces(cover) {
        match piece {
            Piece::Keep(range) => {
                for segment in view.segments(range) {
                    body.push_kept(&segment?)?;
                }
            }
            Piece::New(range) => body.push_new(range)?,
        }
    }
    if body.len() == 0 {
        return Ok(());
    }
    body.finish(engine.handles.pool)?;
    let injection = memory::boxed(StreamInjection {
        engine: Arc::clone(engine),
        body,
        flow,
        callout: indication.callout,
        layer: indication.incoming.layer.id,
        flags: indication.data.flags.without(FWPS_STREAM_FLAG::DISCONNECT),
    })?;
    match injection.inject() {
        Ok(()) => {
            engine.counters.injected.add();
            Ok(())
        }
        Err(_) => {
            engine.counters.refused.add();
            Err(Failure::Refused)
        }
    }
}

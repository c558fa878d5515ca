//! Links: a program at a hook, with a place in the order and a rule for failures.

use core::fmt;
use core::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};

use tidegate_abi::control::{Detached, FlowEnds, Id, LinkInfoReply, OnError, Times};
use tidegate_abi::limits::{DRAIN_NS, TIMED_EVERY};
use tidegate_abi::{Hook, LinkFilter, ProgramType, Verdict};
use tidegate_vm::{Context, Fault, Host, Shared, Stack};

use crate::counters::{Count, Tally};
use crate::platform::Platform;
use crate::program::Program;
use crate::times::Timing;
use crate::trial::{Score, Share, Trial};

/// A program attached to a hook. It never changes: replacing its program, or moving it, makes a new one with the same id and
/// counters.
#[derive(Debug)]
pub struct Link {
    pub(crate) id: Id,
    pub(crate) hook: Hook,
    pub(crate) priority: u16,
    pub(crate) on_error: OnError,
    pub(crate) budget: u32,
    pub(crate) snapshot: bool,
    pub(crate) filter: Option<LinkFilter>,
    /// Of what began when the newest id was this or a newer one, its program is shown everything.
    pub(crate) newest: Id,
    /// The same, but for the flows that are [`away`](Self::away).
    pub(crate) since: Id,
    /// Flows that another program had until `newest`.
    pub(crate) away: Share,
    pub(crate) holding: Shared<Holding>,
    pub(crate) program: Shared<Program>,
    pub(crate) tally: Shared<Tally>,
    /// What is tried in it.
    pub(crate) trial: Option<Trial>,
    /// Of one that is tried: where its failures count.
    pub(crate) score: Option<Shared<Score>>,
    pub(crate) platform: Platform,
}

impl Link {
    /// Its id, as control messages name it.
    pub fn id(&self) -> Id {
        self.id
    }

    /// Where it runs.
    pub fn hook(&self) -> Hook {
        self.hook
    }

    /// What its program is written for.
    pub fn program_type(&self) -> ProgramType {
        self.program.program_type
    }

    /// What happens to the data when a run fails.
    pub fn on_error(&self) -> OnError {
        self.on_error
    }

    /// Instructions that one run may take.
    pub fn budget(&self) -> u32 {
        self.budget
    }

    /// Whether the bytes judged are the bytes sent.
    pub fn is_snapshot(&self) -> bool {
        self.snapshot
    }

    /// The program that it runs, as control messages name it.
    pub fn program(&self) -> Id {
        self.program.id
    }

    /// Its place in the order of its hook.
    pub fn order(&self) -> (u16, Id) {
        (self.priority, self.id)
    }

    /// Whether it joins a flow that began when `born` was the newest id in the middle.
    #[inline]
    pub fn is_newer(&self, born: Id, flow: u64) -> bool {
        self.newest > born && self.has_missed(born, flow)
    }

    #[cold]
    #[inline(never)]
    fn has_missed(&self, born: Id, flow: u64) -> bool {
        self.since > born || self.away.has(flow)
    }

    /// Whether data that goes this way (0 outbound, 1 inbound) between these ends is kept from it by its filter: only what
    /// [is special](Self::is_special) has one. Any IRQL.
    pub fn is_blind(&self, direction: u8, ends: impl FnOnce() -> FlowEnds) -> bool {
        self.filter.as_ref().is_some_and(|filter| !filter.has(direction, &ends()))
    }

    /// Whether it may be draining, have a filter or a trial or be watched, or its next run is to be timed: what is to be looked
    /// at before it runs.
    #[inline]
    pub fn is_special(&self) -> bool {
        self.holding.special.load(Relaxed) != 0
    }

    /// When its run begins, if that is to be timed: only what [is special](Self::is_special) needs to ask. For
    /// [`end_run`](Self::end_run). Any IRQL.
    pub fn begin_run(&self) -> Option<u64> {
        self.holding.unmark(Holding::TIMED).then(self.platform.now_ns)
    }

    /// Tells how long a run took that began at `began`, when it was one that is timed. Any IRQL.
    pub fn end_run(&self, began: Option<u64>, verdict: Option<Verdict>) {
        if let Some(began) = began {
            self.holding.timing.add(verdict, (self.platform.now_ns)().saturating_sub(began));
        }
    }

    pub(crate) fn times(&self, verdict: Option<Verdict>) -> Times {
        self.holding.timing.read(verdict)
    }

    /// What is tried in it.
    pub fn trial(&self) -> Option<&Trial> {
        self.trial.as_ref()
    }

    /// Whether it is being detached: it is only shown what it keeps back.
    pub fn is_draining(&self) -> bool {
        self.holding.since.load(Relaxed) != 0
    }

    /// Whether it had all the time that a link which is being detached has.
    pub fn is_overdue(&self) -> bool {
        let since = self.holding.since.load(Relaxed);
        since != 0 && (self.platform.now_ns)().saturating_sub(since) >= DRAIN_NS
    }

    /// Runs the program over `window` and counts the run as one of `processor`, which should be the caller's; `host` answers
    /// its helpers, with [`crate::Calls`] for those that are not about the data. Takes at most [`budget`](Self::budget)
    /// instructions. IRQL <= `DISPATCH_LEVEL`.
    ///
    /// # Errors
    /// Why there is no verdict. The run is counted as failed then.
    // It is little beside the run itself: as a call from several places it would cost a link a fifth more.
    #[inline(always)]
    pub fn run<C: Context, H: Host>(
        &self,
        host: &mut H,
        stack: &mut Stack,
        context: &mut C,
        window: &[u8],
        processor: u32,
    ) -> Result<Verdict, RunError> {
        let window = if window.is_empty() { tidegate_vm::nothing() } else { window };
        let verdict = match self.program.executable.run(host, stack, context, window, self.budget) {
            Ok(r0) => match Verdict::from_r0(self.program_type(), r0) {
                Some(verdict) => verdict,
                None => return self.failed(RunError::Verdict(r0), window.len(), processor),
            },
            Err(fault) => return self.failed(RunError::Fault(fault), window.len(), processor),
        };
        self.count_run(Some(verdict), window.len(), processor);
        Ok(verdict)
    }

    /// As [`run`](Self::run), and `stack` keeps where the run was, for [`Sight`](crate::Sight). Slower.
    ///
    /// # Errors
    /// As [`run`](Self::run)'s.
    #[cold]
    #[inline(never)]
    pub fn run_watched<C: Context, H: Host>(
        &self,
        host: &mut H,
        stack: &mut Stack,
        context: &mut C,
        window: &[u8],
        processor: u32,
    ) -> Result<Verdict, RunError> {
        let window = if window.is_empty() { tidegate_vm::nothing() } else { window };
        let verdict = match self.program.executable.run_watched(host, stack, context, window, self.budget) {
            Ok(r0) => Verdict::from_r0(self.program_type(), r0).ok_or(RunError::Verdict(r0)),
            Err(fault) => Err(RunError::Fault(fault)),
        };
        match verdict {
            Ok(verdict) => self.count_run(Some(verdict), window.len(), processor),
            Err(error) => return self.failed(error, window.len(), processor),
        }
        verdict
    }

    #[cold]
    #[inline(never)]
    fn failed(&self, error: RunError, shown: usize, processor: u32) -> Result<Verdict, RunError> {
        self.count_run(None, shown, processor);
        Err(error)
    }

    #[inline(always)]
    fn count_run(&self, verdict: Option<Verdict>, shown: usize, processor: u32) {
        self.program.tally.add_run(processor, verdict, shown);
        if self.tally.add_run(processor, verdict, shown).is_multiple_of(TIMED_EVERY) {
            self.time_next();
        }
    }

    #[cold]
    #[inline(never)]
    fn time_next(&self) {
        self.holding.mark(Holding::TIMED);
    }

    /// Counts a run whose edits were carried out. IRQL <= `DISPATCH_LEVEL`, as for its kin.
    pub fn count_edited(&self) {
        self.add(Count::Edited, 1);
    }

    /// Counts a clone that was injected.
    pub fn count_injected(&self) {
        self.add(Count::Injected, 1);
    }

    /// Moves a run that ended with `verdict` to the failed ones: an edit or injection could not be carried out.
    pub fn count_failed(&self, verdict: Verdict) {
        self.add(Count::Verdict(verdict), 1_u64.wrapping_neg());
        // The next run may bring the count to where this one did: it is the count of the failed ones that goes on.
        self.holding.unmark(Holding::TIMED);
        if self.add(Count::Error, 1).is_multiple_of(TIMED_EVERY) {
            self.time_next();
        }
        self.count_fault();
    }

    /// Counts a failure without a run: the data could not even be shown.
    pub fn count_error(&self) {
        self.add(Count::Error, 1);
        self.count_fault();
    }

    /// Tells the trial that it is of, if it is one that is tried, of a run that failed and was counted.
    pub fn count_fault(&self) {
        if let Some(score) = &self.score {
            score.count_error();
        }
    }

    /// Gives back what the link's own count was on this processor.
    pub(crate) fn add(&self, count: Count, amount: u64) -> u64 {
        self.program.tally.add(&self.platform, count, amount);
        self.tally.add(&self.platform, count, amount)
    }

    pub(crate) fn info(&self) -> LinkInfoReply {
        LinkInfoReply {
            program: self.program.id,
            hook: self.hook,
            priority: self.priority,
            on_error: self.on_error,
            budget: self.budget,
            snapshot: self.snapshot,
            filter: self.filter,
            draining: self.is_draining(),
            held: self.holding.read(),
            counters: self.tally.read(),
            trial: self.trial.as_ref().map(Trial::info),
        }
    }
}

/// What a link keeps back, of all connections, and what else stays when its program is replaced.
#[derive(Debug, Default)]
pub(crate) struct Holding {
    flows: AtomicU32,
    bytes: AtomicU64,
    /// When it was first asked to end; 0: it was not.
    since: AtomicU64,
    /// All that is rare, behind one look.
    special: AtomicU8,
    timing: Timing,
}

impl Holding {
    /// It was asked to end.
    const DRAINS: u8 = 1;
    /// Something is tried in the link.
    const TRIED: u8 = 2;
    /// Its next run is timed.
    const TIMED: u8 = 4;
    /// Its runs may be watched.
    const WATCHED: u8 = 8;
    /// It is not shown everything.
    const FILTERED: u8 = 16;

    /// What a link that keeps nothing back yet has.
    pub(crate) fn new(filtered: bool) -> Self {
        let holding = Self::default();
        holding.set(Self::FILTERED, filtered);
        holding
    }

    fn mark(&self, mark: u8) {
        self.special.fetch_or(mark, Relaxed);
    }

    /// Takes a mark off; true when it was there.
    fn unmark(&self, mark: u8) -> bool {
        self.special.fetch_and(!mark, Relaxed) & mark != 0
    }

    pub(crate) fn read(&self) -> Detached {
        Detached { flows: self.flows.load(Relaxed), bytes: self.bytes.load(Relaxed) }
    }

    /// It is shown nothing new from now on.
    pub(crate) fn drain(&self, platform: &Platform) {
        let now = (platform.now_ns)().max(1);
        // Only the first time counts.
        let _ = self.since.compare_exchange(0, now, Relaxed, Relaxed);
        self.mark(Self::DRAINS);
    }

    /// Says whether something is tried in the link.
    pub(crate) fn set_tried(&self, tried: bool) {
        self.set(Self::TRIED, tried);
    }

    /// Says whether its runs may be watched.
    pub(crate) fn set_watched(&self, watched: bool) {
        self.set(Self::WATCHED, watched);
    }

    fn set(&self, mark: u8, is_set: bool) {
        if is_set {
            self.mark(mark);
        } else {
            self.unmark(mark);
        }
    }
}

/// What a link keeps back of one direction of a connection, counted there for as long as this lives.
#[derive(Debug)]
pub struct Held {
    link: Shared<Link>,
    bytes: u64,
}

impl Held {
    /// `link` keeps so many bytes back; none when it only waits for more.
    pub fn new(link: &Shared<Link>, bytes: u64) -> Self {
        link.holding.flows.fetch_add(1, Relaxed);
        link.holding.bytes.fetch_add(bytes, Relaxed);
        Self { link: Shared::clone(link), bytes }
    }

    /// The link, as it was when it began.
    pub fn link(&self) -> &Shared<Link> {
        &self.link
    }

    /// Says how many bytes it is now.
    pub fn set(&mut self, bytes: u64) {
        self.link.holding.bytes.fetch_add(bytes.wrapping_sub(self.bytes), Relaxed);
        self.bytes = bytes;
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.set(0);
        self.link.holding.flows.fetch_sub(1, Relaxed);
    }
}

/// Why a run gave no verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunError {
    /// The run did not come to its end.
    Fault(Fault),
    /// The program returned this, which is no verdict that its type may give.
    Verdict(u64),
}

impl fmt::Display for RunError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fault(fault) => fault.fmt(f),
            Self::Verdict(r0) => write!(f, "the program returned {r0}, which is no verdict of its type"),
        }
    }
}

impl core::error::Error for RunError {}

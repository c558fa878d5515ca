//! Links: a program at a hook, with a place in the order and a rule for failures.

use alloc::sync::Arc;
use core::fmt;

use tidegate_abi::control::{Id, LinkInfoReply, OnError};
use tidegate_abi::{Hook, ProgramType, Verdict};
use tidegate_vm::{Context, Fault, Host, Stack};

use crate::counters::{Count, Tally};
use crate::platform::Platform;
use crate::program::Program;

/// A program attached to a hook. It never changes: replacing its program makes a new one with the same id and counters.
#[derive(Debug)]
pub struct Link {
    pub(crate) id: Id,
    pub(crate) hook: Hook,
    pub(crate) priority: u16,
    pub(crate) on_error: OnError,
    pub(crate) budget: u32,
    pub(crate) program: Arc<Program>,
    pub(crate) tally: Arc<Tally>,
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

    /// Runs the program over `window` and counts the run; `host` answers its helpers, with [`crate::Calls`] for those that are
    /// not about the data. Takes at most [`budget`](Self::budget) instructions. IRQL <= `DISPATCH_LEVEL`.
    ///
    /// # Errors
    /// Why there is no verdict. The run is counted as failed then.
    pub fn run<C: Context, H: Host>(
        &self,
        host: &mut H,
        stack: &mut Stack,
        context: &mut C,
        window: &[u8],
    ) -> Result<Verdict, RunError> {
        let window = if window.is_empty() { tidegate_vm::nothing() } else { window };
        let r0 = self.program.executable.run(host, stack, context, window, self.budget);
        let verdict = r0
            .map_err(RunError::Fault)
            .and_then(|r0| Verdict::from_r0(self.program_type(), r0).ok_or(RunError::Verdict(r0)));
        self.add(Count::BytesShown, window.len() as u64);
        self.add(verdict.map_or(Count::Error, Count::Verdict), 1);
        verdict
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
        self.add(Count::Error, 1);
    }

    /// Counts a failure without a run: the data could not even be shown.
    pub fn count_error(&self) {
        self.add(Count::Error, 1);
    }

    pub(crate) fn add(&self, count: Count, amount: u64) {
        self.tally.add(&self.platform, count, amount);
        self.program.tally.add(&self.platform, count, amount);
    }

    pub(crate) fn info(&self) -> LinkInfoReply {
        LinkInfoReply {
            program: self.program.id,
            hook: self.hook,
            priority: self.priority,
            on_error: self.on_error,
            budget: self.budget,
            counters: self.tally.read(),
        }
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

//! Links: a program at a hook, with a place in the order and a rule for failures.

use alloc::sync::Arc;

use tidegate_abi::control::{Id, LinkInfoReply, OnError};
use tidegate_abi::{Hook, ProgramType, Verdict};

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

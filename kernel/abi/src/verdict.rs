//! Verdicts: what the number that a program returns means.

use serde::{Deserialize, Serialize};

use crate::hook::{ProgramType, ProgramTypes};

/// The decision of one run.
///
/// Edits that the run recorded (`tidegate_replace` and its kin) are carried out when the bytes pass, that is on
/// [`Continue`](Self::Continue) and [`Permit`](Self::Permit), and end the chain; on every other verdict they are dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[repr(u8)]
pub enum Verdict {
    /// No opinion: the next link in the chain decides; the data passes when none does.
    Continue = 0,
    /// The data passes.
    Permit = 1,
    /// The data is dropped: removed from the stream, or the packet is not sent.
    Block = 2,
    /// The data is held back and shown again with what follows it. Refused when no more can come.
    NeedMoreData = 3,
    /// The connection is reset.
    DropConnection = 4,
    /// The data passes, and the flow is never shown again.
    AllowConnection = 5,
    /// The data is taken out of the stream and kept. The program is asked again when more comes, or when a control message
    /// changed a map or a link; what it lets pass then goes back into the stream in its order.
    Pend = 6,
}

impl Verdict {
    /// Every verdict, in the order of their numbers.
    pub const ALL: [Self; 7] = [
        Self::Continue,
        Self::Permit,
        Self::Block,
        Self::NeedMoreData,
        Self::DropConnection,
        Self::AllowConnection,
        Self::Pend,
    ];

    /// The name that people read.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Continue => "continue",
            Self::Permit => "permit",
            Self::Block => "block",
            Self::NeedMoreData => "need-more-data",
            Self::DropConnection => "drop-connection",
            Self::AllowConnection => "allow-connection",
            Self::Pend => "pend",
        }
    }

    /// The program types that may return it.
    pub const fn program_types(self) -> ProgramTypes {
        match self {
            Self::Continue | Self::Permit | Self::Block => ProgramTypes::ALL,
            Self::NeedMoreData | Self::DropConnection | Self::AllowConnection | Self::Pend => {
                ProgramType::Stream.set()
            }
        }
    }

    /// The verdict that a program of type `kind` gave by returning `r0`, if it is one that it may give.
    pub const fn from_r0(kind: ProgramType, r0: u64) -> Option<Self> {
        if r0 >= Self::ALL.len() as u64 {
            return None;
        }
        let verdict = Self::ALL[r0 as usize];
        if verdict.program_types().contains(kind) { Some(verdict) } else { None }
    }

    /// The verdict that `name` names.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|verdict| verdict.name() == name)
    }
}

/// A set of verdicts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verdicts(u8);

impl Verdicts {
    /// The set with one more.
    #[must_use]
    pub const fn with(self, verdict: Verdict) -> Self {
        Self(self.0 | 1 << verdict as u8)
    }

    /// Whether `verdict` is in the set.
    pub const fn contains(self, verdict: Verdict) -> bool {
        self.0 & 1 << verdict as u8 != 0
    }
}

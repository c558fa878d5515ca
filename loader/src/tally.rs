//! What a policy is counted to have done, and how it is told.

use std::collections::BTreeMap;
use std::fmt;

use schemars::JsonSchema;
use serde::Serialize;
use tidegate_abi::Verdict;
use tidegate_abi::control::Counters;

/// What a policy did since it was last asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(into = "Told")]
pub struct Tally {
    /// Runs of programs.
    pub runs: u64,
    /// Runs by verdict, in the order of [`Verdict::ALL`].
    pub verdicts: [u64; Verdict::ALL.len()],
    /// Runs that failed.
    pub errors: u64,
    /// Runs whose edits were carried out.
    pub edited: u64,
    /// Clones injected.
    pub injected: u64,
}

impl From<Counters> for Tally {
    fn from(counters: Counters) -> Self {
        let Counters { runs, verdicts, errors, edited, injected, .. } = counters;
        Self { runs, verdicts, errors, edited, injected }
    }
}

/// A [`Tally`] as it is told: the verdicts by name, also those that were not given.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Tally")]
struct Told {
    runs: u64,
    verdicts: BTreeMap<&'static str, u64>,
    errors: u64,
    edited: u64,
    injected: u64,
}

impl From<Tally> for Told {
    fn from(Tally { runs, verdicts, errors, edited, injected }: Tally) -> Self {
        let named = Verdict::ALL.iter().map(|verdict| verdict.name()).zip(verdicts);
        Self { runs, verdicts: named.collect(), errors, edited, injected }
    }
}

impl Tally {
    /// The kinds of verdict that were given, need-more-data left out: it decides nothing.
    pub fn decided(&self) -> Vec<Verdict> {
        let given = Verdict::ALL.into_iter().zip(self.verdicts).filter(|(_, count)| *count > 0);
        given.map(|(verdict, _)| verdict).filter(|verdict| *verdict != Verdict::NeedMoreData).collect()
    }

    /// Adds what was counted by another.
    pub fn add(&mut self, other: &Self) {
        self.runs += other.runs;
        self.errors += other.errors;
        self.edited += other.edited;
        self.injected += other.injected;
        for (count, more) in self.verdicts.iter_mut().zip(other.verdicts) {
            *count += more;
        }
    }

    /// What was counted since it was `before`.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        let mut verdicts = self.verdicts;
        for (count, before) in verdicts.iter_mut().zip(before.verdicts) {
            // A run whose edits could not be carried out was counted by its verdict until that was known.
            *count = count.saturating_sub(before);
        }
        Self {
            runs: self.runs.saturating_sub(before.runs),
            verdicts,
            errors: self.errors.saturating_sub(before.errors),
            edited: self.edited.saturating_sub(before.edited),
            injected: self.injected.saturating_sub(before.injected),
        }
    }
}

/// Bytes of one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Bytes {
    /// Shown to the policy.
    pub shown: u64,
    /// Come out behind it.
    pub delivered: u64,
}

impl fmt::Display for Tally {
    /// The verdicts that decided, the most telling last, and what was changed.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts: Vec<String> =
            self.decided().iter().map(|verdict| verdict.name().to_string()).collect();
        for (count, what) in [(self.edited, "edited"), (self.injected, "injected"), (self.errors, "FAILED")] {
            if count > 0 {
                parts.push(format!("{count} {what}"));
            }
        }
        f.write_str(&if parts.is_empty() { "no verdict".into() } else { parts.join(", ") })
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self { shown, delivered } if shown == delivered => write!(f, "{shown}"),
            Self { shown, delivered } => write!(f, "{shown} -> {delivered}"),
        }
    }
}

/// So many of something, in words.
pub(crate) fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_that_turns_out_to_have_failed_is_no_number_below_none() {
        let before = Tally { runs: 1, verdicts: [1; _], ..Tally::default() };
        let now = Tally { runs: 1, errors: 1, ..Tally::default() };
        assert_eq!(now.since(&before), Tally { errors: 1, ..Tally::default() });
    }
}

//! What is tried in a link: how it is typed, and how it is told.

use std::fmt;

use clap::Args;
use schemars::JsonSchema;
use serde::Serialize;
use tidegate_abi::control::{Id, Trial, TrialInfo, TrialMode};

/// How a program is tried; without any of it, it replaces the link's own.
#[derive(Args)]
pub(super) struct Options {
    /// Try the program beside the link's own: what both want of the same data is compared and counted, and only what the link's
    /// own wants is done
    #[arg(long)]
    shadow: bool,
    /// Run the program in the place of the link's own for a share of the connections, 0% to 100%
    #[arg(long, value_name = "N%", value_parser = percent, conflicts_with = "shadow")]
    canary: Option<u8>,
    /// Canary: when more of its runs fail, all connections go back to the link's own program
    #[arg(long, value_name = "P%", value_parser = per_mille, default_value = "1%", requires = "canary")]
    max_errors: u16,
    /// Canary: but not before so many runs
    #[arg(long, value_name = "N", default_value_t = 20, requires = "canary")]
    min_runs: u32,
}

impl Options {
    /// How the program is tried, if it is.
    pub(super) fn mode(&self) -> Option<TrialMode> {
        let Self { shadow, canary, max_errors, min_runs } = *self;
        let share = |percent| TrialMode::Canary { percent, max_errors, min_runs };
        if shadow { Some(TrialMode::Shadow) } else { canary.map(share) }
    }
}

fn percent(text: &str) -> Result<u8, String> {
    let percent = text.strip_suffix('%').unwrap_or(text).parse::<u8>().ok().filter(|percent| *percent <= 100);
    percent.ok_or_else(|| "give a percentage of the connections, such as 10%".into())
}

/// A percentage with at most one digit behind the point.
fn per_mille(text: &str) -> Result<u16, String> {
    let number = text.strip_suffix('%').unwrap_or(text);
    let (whole, tenths) = number.split_once('.').unwrap_or((number, "0"));
    let number = |text: &str| text.parse::<u16>().ok();
    let tenths = number(tenths).filter(|_| tenths.len() == 1);
    let all =
        number(whole).zip(tenths).and_then(|(whole, tenths)| whole.checked_mul(10)?.checked_add(tenths));
    all.filter(|all| *all <= 1_000).ok_or_else(|| "give a percentage of the runs, such as 1% or 0.5%".into())
}

/// What is tried in a link, and what came of it.
#[derive(Clone, PartialEq, Serialize, JsonSchema)]
pub(super) struct Tried {
    program: Id,
    /// `shadow` or `canary`.
    mode: &'static str,
    /// Of a canary.
    #[serde(skip_serializing_if = "Option::is_none")]
    canary: Option<Canary>,
    /// Its runs; of a shadow each is in one of the next four.
    runs: u64,
    /// Shadow: runs that wanted what the link's own program wanted.
    agreed: u64,
    /// Shadow: runs with another verdict, or one on other bytes.
    other_verdicts: u64,
    /// Shadow: runs with the same verdict, of which other bytes would have come.
    other_bytes: u64,
    /// Runs that failed.
    errors: u64,
    /// Shadow: runs for which there was no memory.
    missed: u64,
}

/// What a canary has, and how long.
#[derive(Clone, Copy, PartialEq, Serialize, JsonSchema)]
struct Canary {
    /// Of a hundred connections so many.
    percent: u8,
    /// Of a hundred runs so many may fail.
    max_errors: f64,
    min_runs: u32,
    /// Whether too many have failed: the link's own program has all connections again.
    returned: bool,
}

impl From<TrialInfo> for Tried {
    fn from(info: TrialInfo) -> Self {
        let TrialInfo {
            trial: Trial { program, mode },
            runs,
            agreed,
            verdicts,
            bytes,
            errors,
            missed,
            returned,
        } = info;
        let canary = match mode {
            TrialMode::Shadow => None,
            TrialMode::Canary { percent, max_errors, min_runs } => {
                Some(Canary { percent, max_errors: f64::from(max_errors) / 10.0, min_runs, returned })
            }
        };
        let mode = if canary.is_some() { "canary" } else { "shadow" };
        let (other_verdicts, other_bytes) = (verdicts, bytes);
        Self { program, mode, canary, runs, agreed, other_verdicts, other_bytes, errors, missed }
    }
}

impl Tried {
    /// What it is: the program, and how it is tried.
    pub(super) fn mode(&self) -> (Id, &'static str) {
        (self.program, self.mode)
    }

    /// Whether too many runs of a canary have failed; `None` for a shadow.
    pub(super) fn returned(&self) -> Option<bool> {
        self.canary.map(|canary| canary.returned)
    }

    /// How its runs ended, and how many did so.
    pub(super) fn ends(&self) -> Vec<(&'static str, u64)> {
        if self.canary.is_some() {
            return vec![("done", self.runs.saturating_sub(self.errors)), ("failed", self.errors)];
        }
        vec![
            ("agreed", self.agreed),
            ("other-verdict", self.other_verdicts),
            ("other-bytes", self.other_bytes),
            ("failed", self.errors),
            ("missed", self.missed),
        ]
    }

    /// What was counted since it was `before`, when that was the same trial.
    pub(super) fn since(&self, before: Option<&Self>) -> Self {
        let mut since = self.clone();
        // A trial that began meanwhile has counted less, or is of another program.
        if let Some(before) = before.filter(|old| old.mode() == self.mode() && old.runs <= self.runs) {
            for (count, before) in [
                (&mut since.runs, before.runs),
                (&mut since.agreed, before.agreed),
                (&mut since.other_verdicts, before.other_verdicts),
                (&mut since.other_bytes, before.other_bytes),
                (&mut since.errors, before.errors),
                (&mut since.missed, before.missed),
            ] {
                *count = count.saturating_sub(before);
            }
        }
        since
    }
}

impl fmt::Display for Tried {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { program, mode, canary, runs, agreed, other_verdicts, other_bytes, errors, missed } = self;
        write!(f, "    {mode}: program {program}")?;
        match canary {
            None => {
                write!(f, "  {runs} runs: {agreed} agreed, {other_verdicts} with another verdict, ")?;
                write!(f, "{other_bytes} with other bytes, {errors} failed")?;
                if *missed > 0 {
                    write!(f, "; {missed} had no memory")?;
                }
            }
            Some(Canary { percent, max_errors, returned, .. }) => {
                write!(f, "  {percent}% of connections  {runs} runs: {errors} failed")?;
                if *returned {
                    write!(f, ", more than {max_errors}%: the link's own program has all connections again")?;
                }
            }
        }
        writeln!(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_percentages_and_what_may_fail_has_a_digit_behind_the_point() {
        for (text, expected) in
            [("0", Some(0)), ("10%", Some(10)), ("100%", Some(100)), ("101", None), ("a", None)]
        {
            assert_eq!(percent(text).ok(), expected, "{text}");
        }
        for (text, expected) in [
            ("1%", Some(10)),
            ("0.5%", Some(5)),
            ("0", Some(0)),
            ("100%", Some(1_000)),
            ("100.1", None),
            ("0.05", None),
            ("1.", None),
            ("-1", None),
        ] {
            assert_eq!(per_mille(text).ok(), expected, "{text}");
        }
    }
}

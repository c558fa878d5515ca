//! How long runs of a link took: a histogram for each verdict. One run of many is timed.

use std::fmt;
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Unit;
use schemars::JsonSchema;
use serde::Serialize;
use tidegate_abi::control::{Id, LinkTimes, Status, Times};
use tidegate_abi::limits::{TIME_CLASSES, TIME_SHIFT};
use tidegate_abi::{ProgramType, Verdict};

use super::live;
use crate::client::Client;
use crate::error::Error;

/// What a histogram of failed runs goes by, in place of a verdict.
const FAILED: &str = "failed";

/// The runs with one verdict that were timed, helper calls included.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub(super) struct Timed {
    verdict: &'static str,
    timed: u64,
    /// Nanoseconds of them all.
    sum_ns: u64,
    /// By how long they took; classes without runs are left out.
    classes: Vec<Class>,
    #[serde(skip)]
    times: Times,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
struct Class {
    /// They took less, and not less than half of it, but in the first class; not there: longer than all that is told apart.
    #[serde(skip_serializing_if = "Option::is_none")]
    below_ns: Option<u64>,
    runs: u64,
}

/// Where a class ends, but for the last.
fn end(class: usize) -> Option<u64> {
    (class + 1 < TIME_CLASSES).then(|| 1 << (TIME_SHIFT as usize + class))
}

impl Timed {
    fn new(verdict: &'static str, times: Times) -> Self {
        let class = |(class, runs): (usize, &u64)| Class { below_ns: end(class), runs: *runs };
        Self {
            verdict,
            timed: times.runs.iter().sum(),
            sum_ns: times.sum_ns,
            classes: times.runs.iter().enumerate().filter(|(_, runs)| **runs > 0).map(class).collect(),
            times,
        }
    }

    /// The class that so many of a hundred runs do not go beyond.
    fn percentile(&self, share: u64) -> Option<&Class> {
        let mut seen = 0;
        self.classes.iter().find(|class| {
            seen += class.runs;
            u128::from(seen) * 100 >= u128::from(self.timed) * u128::from(share)
        })
    }

    /// What was timed since it was `before`.
    fn since(&self, before: Option<&Self>) -> Self {
        let mut times = self.times;
        if let Some(before) = before {
            times.sum_ns = times.sum_ns.saturating_sub(before.times.sum_ns);
            for (runs, before) in times.runs.iter_mut().zip(before.times.runs) {
                *runs = runs.saturating_sub(before);
            }
        }
        Self::new(self.verdict, times)
    }
}

/// What was timed since it was `before`; what there is nothing of is left out.
pub(super) fn since(now: &[Timed], before: &[Timed]) -> Vec<Timed> {
    let before_of = |now: &Timed| before.iter().find(|old| old.verdict == now.verdict);
    let since = now.iter().map(|now| now.since(before_of(now)));
    since.filter(|timed| timed.timed > 0).collect()
}

/// The histograms of a link whose program is of this type; those without runs are left out.
pub(super) fn of(client: &mut Client, link: Id, program_type: ProgramType) -> Result<Vec<Timed>, Error> {
    let mut timed = Vec::new();
    let given = Verdict::ALL.into_iter().filter(|verdict| verdict.program_types().contains(program_type));
    for verdict in given.map(Some).chain([None]) {
        match client.call(&LinkTimes { link, verdict }) {
            Ok(times) => timed.push(Timed::new(verdict.map_or(FAILED, Verdict::name), times)),
            // It went meanwhile.
            Err(refused) if refused.status == Status::NotFound => {}
            Err(refused) => return Err(live::refused("ask how long runs took", &refused)),
        }
    }
    timed.retain(|timed| timed.timed > 0);
    Ok(timed)
}

impl fmt::Display for Timed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { verdict, timed, .. } = self;
        write!(f, "    {verdict}: {timed} timed")?;
        for (share, name) in [(50, "half of them"), (99, "99%")] {
            match self.percentile(share).map(|class| class.below_ns) {
                Some(Some(below)) => write!(f, ", {name} below {:?}", Duration::from_nanos(below))?,
                Some(None) => write!(f, ", {name} longer than is told apart")?,
                None => {}
            }
        }
        writeln!(f)
    }
}

/// The histograms of all links, as Prometheus reads them.
#[derive(Debug)]
pub(super) struct Histograms<L>(pub(super) Vec<(L, Timed)>);

impl Timed {
    pub(super) fn verdict(&self) -> &'static str {
        self.verdict
    }
}

impl<L: EncodeLabelSet + fmt::Debug + Send + Sync + 'static> Collector for Histograms<L> {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let help = "How long runs with this verdict took, helper calls included; one run of many is timed";
        let mut metric =
            encoder.encode_descriptor("run", help, Some(&Unit::Seconds), MetricType::Histogram)?;
        for (labels, timed) in &self.0 {
            let seconds = |ns: u64| Duration::from_nanos(ns).as_secs_f64();
            let ends = (0..TIME_CLASSES).map(|class| end(class).map_or(f64::INFINITY, seconds));
            let buckets: Vec<_> = ends.zip(timed.times.runs).collect();
            let mut family = metric.encode_family(labels)?;
            family.encode_histogram::<NoLabelSet>(seconds(timed.sum_ns), timed.timed, &buckets, None)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timed(runs: &[(usize, u64)], sum_ns: u64) -> Timed {
        let mut times = Times { sum_ns, ..Times::default() };
        runs.iter().for_each(|(class, runs)| times.runs[*class] = *runs);
        Timed::new("permit", times)
    }

    #[test]
    fn a_share_of_the_runs_ends_in_the_class_that_holds_the_last_of_them() {
        let text = |runs: &[(usize, u64)]| timed(runs, 0).to_string();
        let tail = "half of them below 128ns, 99% below";
        assert_eq!(text(&[(0, 99), (3, 1)]), format!("    permit: 100 timed, {tail} 128ns\n"));
        assert_eq!(text(&[(0, 98), (3, 2)]), format!("    permit: 100 timed, {tail} 1.024µs\n"));
        assert_eq!(
            text(&[(TIME_CLASSES - 1, 1)]),
            "    permit: 1 timed, half of them longer than is told apart, 99% longer than is told apart\n"
        );
    }

    #[test]
    fn what_was_timed_meanwhile_is_what_is_more() {
        let (before, now) = (timed(&[(0, 2), (1, 3)], 500), timed(&[(0, 2), (1, 4)], 700));
        assert_eq!(since(std::slice::from_ref(&now), &[before]), [timed(&[(1, 1)], 200)]);
        assert_eq!(since(std::slice::from_ref(&now), std::slice::from_ref(&now)), []);
        assert_eq!(since(std::slice::from_ref(&now), &[]), [now]);
    }
}

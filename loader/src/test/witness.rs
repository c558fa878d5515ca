//! What every run of a scenario has in common, whatever the cuts, the memory layout and the time: what a recorded scenario expects
//! besides what is delivered.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use tidegate_abi::Verdict;
use toml::Value;

use super::check::Outcome;
use crate::host::Changed;
use crate::scenario::edit::Change;

/// Records of one ring buffer, or changed entries of one map, that a scenario expects at most: it is for people.
const MOST: usize = 32;

/// Sees the runs.
#[derive(Default)]
pub(super) struct Witness(Mutex<Option<Common>>);

struct Common {
    /// Of the first run, which is that under the given cuts.
    verdicts: Vec<Verdict>,
    /// How each record starts in all runs, by ring buffer; none where there is not always the same number.
    events: BTreeMap<String, Option<Vec<Vec<u8>>>>,
    /// Changed entries, by map and key.
    entries: BTreeMap<(String, String), Option<Value>>,
}

impl Witness {
    pub(super) fn saw(&self, outcome: &Outcome, changed: Vec<Changed>) {
        let entries: BTreeMap<_, _> =
            changed.into_iter().map(|Changed { map, key, value }| ((map, key), value)).collect();
        let mut common = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(common) = common.as_mut() else {
            let events = outcome.events.iter().map(|(map, records)| (map.clone(), Some(records.clone())));
            let (verdicts, events) = (outcome.tally.decided(), events.collect());
            *common = Some(Common { verdicts, events, entries });
            return;
        };
        common.entries.retain(|place, value| entries.get(place) == Some(value));
        for (map, known) in &mut common.events {
            let records = outcome.events.get(map).map_or(&[][..], Vec::as_slice);
            *known = known.take().filter(|known| known.len() == records.len()).map(|known| {
                known.into_iter().zip(records).map(|(known, record)| start(known, record)).collect()
            });
        }
    }

    /// What is to be expected.
    pub(super) fn changes(self) -> Vec<Change> {
        let common = self.0.into_inner().unwrap_or_else(PoisonError::into_inner);
        let Some(Common { verdicts, events, entries }) = common else { return Vec::new() };
        let mut changes = vec![Change::Verdicts(verdicts)];
        changes.extend(events.into_iter().filter_map(|(map, records)| {
            let records = records.filter(|records| records.len() <= MOST)?;
            Some(Change::Events { map, records })
        }));
        let mut of_map = BTreeMap::<&String, usize>::new();
        for (map, _) in entries.keys() {
            *of_map.entry(map).or_default() += 1;
        }
        let few = |map: &String| of_map.get(map).is_some_and(|count| *count <= MOST);
        changes.extend(entries.iter().filter(|((map, _), _)| few(map)).map(|((map, key), value)| {
            Change::Entry { map: map.clone(), key: key.clone(), value: value.clone() }
        }));
        changes
    }
}

/// How both start.
fn start(mut known: Vec<u8>, record: &[u8]) -> Vec<u8> {
    let same = known.iter().zip(record).take_while(|(known, byte)| known == byte).count();
    known.truncate(same);
    known
}

#[cfg(test)]
mod tests {
    use std::slice;

    use super::*;
    use crate::tally::Tally;

    fn outcome(records: &[&[u8]]) -> Outcome {
        let mut tally = Tally::default();
        tally.verdicts[Verdict::ALL.iter().position(|verdict| *verdict == Verdict::Permit).unwrap()] = 1;
        let records = records.iter().map(|record| record.to_vec()).collect();
        let events = [("log".to_string(), records)].into();
        Outcome { delivery: None, tally, events, differences: Vec::new(), broken: Vec::new() }
    }

    fn changed(entries: &[(&str, i64)]) -> Vec<Changed> {
        let changed = |(key, value): &(&str, i64)| Changed {
            map: "counts".into(),
            key: (*key).into(),
            value: Some(Value::Integer(*value)),
        };
        entries.iter().map(changed).collect()
    }

    /// Records and entries of a run.
    type Run<'a> = (&'a [&'a [u8]], &'a [(&'a str, i64)]);

    fn seen(runs: &[Run<'_>]) -> Vec<Change> {
        let witness = Witness::default();
        for (records, entries) in runs {
            witness.saw(&outcome(records), changed(entries));
        }
        witness.changes()
    }

    #[test]
    fn what_all_runs_have_in_common_is_expected_and_nothing_else() {
        assert_eq!(Witness::default().changes(), []);
        let verdicts = Change::Verdicts(vec![Verdict::Permit]);
        let events = |records: &[&[u8]]| Change::Events {
            map: "log".into(),
            records: records.iter().map(|record| record.to_vec()).collect(),
        };
        let entry = |key: &str, value| Change::Entry {
            map: "counts".into(),
            key: key.into(),
            value: Some(Value::Integer(value)),
        };
        // Times in records and in maps are others in each run; a record may also be there in some runs only.
        assert_eq!(
            seen(&[(&[b"ab1", b"c"], &[("0", 1), ("1", 2)]), (&[b"ab2", b"c"], &[("1", 2), ("2", 1)])]),
            [verdicts.clone(), events(&[b"ab", b"c"]), entry("1", 2)]
        );
        assert_eq!(seen(&[(&[b"a"], &[("0", 1)]), (&[], &[("0", 2)])]), slice::from_ref(&verdicts));
        assert_eq!(seen(&[(&[], &[])]), [verdicts.clone(), events(&[])]);
        // What nobody would read is left out.
        let many: Vec<_> = (0..40).map(|number| (number.to_string(), number)).collect();
        let many: Vec<_> = many.iter().map(|(key, value)| (key.as_str(), *value)).collect();
        assert_eq!(seen(&[(&[b"a".as_slice(); 40], &many)]), [verdicts]);
    }
}

//! Holds what came of a scenario against what it expects.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Serialize;

use crate::flows::{Direction, Kind, Step};
use crate::host::{Delivery, Difference};
use crate::scenario::edit::{Became, Change, Delivered, name};
use crate::scenario::{self, Expect, Fate, Whole, literal};
use crate::tally::Tally;

/// What kind of thing is wrong, the gravest last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Cause {
    /// Something else came out than was expected.
    Expectation,
    /// What comes out depends on how the stream is cut.
    Cuts,
    /// A run failed that should not have, or the other way round.
    Fault,
    /// The contract with the filter engine was broken.
    Contract,
    /// The policy could not be run: it is refused, or the scenario names what it does not have.
    Setup,
}

/// Something that is wrong.
#[derive(Clone, Debug)]
pub(super) struct Wrong {
    /// In words.
    pub(super) text: String,
    pub(super) cause: Cause,
    /// What would have to be expected instead; none where nothing makes it right.
    pub(super) instead: Option<Change>,
}

impl Wrong {
    fn unexpected(text: String, instead: Change) -> Self {
        Self { text, cause: Cause::Expectation, instead: Some(instead) }
    }

    pub(super) fn never_right(cause: Cause, text: String) -> Self {
        Self { text, cause, instead: None }
    }
}

/// What came of one run.
#[derive(Debug)]
pub(super) struct Outcome {
    /// What both ends of the connection saw; none for packets.
    pub(super) delivery: Option<Delivery>,
    pub(super) tally: Tally,
    /// Records, by the name of their ring buffer.
    pub(super) events: BTreeMap<String, Vec<Vec<u8>>>,
    /// Entries of maps that are not what was expected.
    pub(super) differences: Vec<Difference>,
    /// Broken rules of the filter engine.
    pub(super) broken: Vec<String>,
}

/// A packet that became something that can't be, or that is not looked at further.
#[derive(Debug)]
pub(super) struct Astray {
    /// In words.
    pub(super) text: String,
    /// What it became; none where that is never right.
    pub(super) became: Option<Became>,
}

/// What is wrong with the outcome of a stream. `given`: it was shown under the cuts that it came with.
pub(super) fn stream(expect: &Expect, steps: &[Step], given: bool, outcome: &Outcome) -> Vec<Wrong> {
    let mut wrong = common(expect, given, outcome);
    let Some(delivery) = &outcome.delivery else { return wrong };
    let dropped = delivery.dropped;
    if expect.dropped != dropped {
        let text = if dropped { "the connection was dropped" } else { "the connection was not dropped" };
        wrong.push(Wrong::unexpected(text.into(), Change::Connection { dropped }));
    }
    let out = [
        (Direction::Outbound, &expect.sent, &delivery.sent.bytes),
        (Direction::Inbound, &expect.received, &delivery.received.bytes),
    ];
    for (direction, expected, bytes) in out {
        let what = name(direction);
        let delivered = || match put_in(steps, direction) == *bytes {
            true => Delivered::Unchanged,
            false => Delivered::Bytes(bytes.clone()),
        };
        let differs = match &expected.whole {
            Whole::Any => None,
            Whole::Unchanged => difference(&put_in(steps, direction), bytes),
            Whole::Exactly(whole) => difference(whole, bytes),
        };
        if let Some(difference) = differs {
            let instead = Change::Whole(direction, delivered());
            wrong.push(Wrong::unexpected(format!("{what}: {difference}"), instead));
        }
        let places = |texts: &[Vec<u8>], fails: bool| -> Vec<usize> {
            (0..texts.len()).filter(|at| occurs(bytes, &texts[*at]) == fails).collect()
        };
        let (contains, lacks) = (places(&expected.contains, false), places(&expected.lacks, true));
        let texts = contains.iter().map(|at| (&expected.contains[*at], "does not occur"));
        for (text, fails) in texts.chain(lacks.iter().map(|at| (&expected.lacks[*at], "occurs"))) {
            let text = format!("{what}: {} {fails}", literal::show(text));
            let (contains, lacks) = (contains.clone(), lacks.clone());
            let instead = Change::Texts { direction, contains, lacks, delivered: delivered() };
            wrong.push(Wrong::unexpected(text, instead));
        }
    }
    wrong
}

/// What is wrong with the outcome of packets: each with what became of it.
pub(super) fn packets(
    expect: &Expect,
    steps: &[scenario::PacketStep],
    fates: &[Result<Fate, Astray>],
    outcome: &Outcome,
) -> Vec<Wrong> {
    let mut wrong = common(expect, true, outcome);
    let mut totals = [0_u64; 3];
    for (number, (step, fate)) in steps.iter().zip(fates).enumerate() {
        let instead = |became| Change::Packet { step: number, became };
        let fate = match fate {
            Ok(fate) => fate,
            Err(Astray { text, became }) => {
                let text = format!("{}: {text}", step.label);
                wrong.push(match became {
                    Some(became) => Wrong::unexpected(text, instead(became.clone())),
                    None => Wrong::never_right(Cause::Contract, text),
                });
                continue;
            }
        };
        totals[match fate {
            Fate::Sent => 0,
            Fate::Blocked => 1,
            Fate::Changed | Fate::Becomes(_) => 2,
        }] += 1;
        let difference = match (&step.fate, fate) {
            (Some(Fate::Changed), Fate::Becomes(_)) | (None, _) => None,
            (Some(Fate::Becomes(expected)), Fate::Becomes(payload)) => difference(expected, payload),
            // Becoming what it was before is leaving as it is.
            (Some(Fate::Becomes(expected)), Fate::Sent) => difference(expected, &step.payload),
            (Some(expected), fate) if expected == fate => None,
            (Some(expected), fate) => Some(format!("it {}, expected that it {}", told(fate), told(expected))),
        };
        if let Some(difference) = difference {
            let became = Became::of(step, fate);
            wrong.push(Wrong::unexpected(format!("{}: {difference}", step.label), instead(became)));
        }
    }
    let expected = [
        ("sent", expect.packets_sent, totals[0]),
        ("blocked", expect.packets_blocked, totals[1]),
        ("changed", expect.packets_changed, totals[2]),
    ];
    for (what, expected, count) in expected {
        if let Some(expected) = expected.filter(|expected| *expected != count) {
            let text = format!("{count} packets were {what}, expected {expected}");
            wrong.push(Wrong::unexpected(text, Change::Total(what, count)));
        }
    }
    wrong
}

impl Became {
    /// What became of a packet that left, if it did, for where and with what type of service it was to.
    fn of(step: &scenario::PacketStep, fate: &Fate) -> Self {
        let payload = match fate {
            Fate::Becomes(payload) => Some(payload.clone()).filter(|payload| *payload != step.payload),
            Fate::Sent | Fate::Blocked | Fate::Changed => None,
        };
        match fate {
            Fate::Blocked => Self { blocked: true, ..Self::default() },
            _ => Self { blocked: false, payload, leaves_for: step.leaves_for, tos: step.tos },
        }
    }
}

/// What is different between two runs of one stream that only their cuts tell apart.
pub(super) fn same(first: &Outcome, other: &Outcome) -> Vec<Wrong> {
    let (Some(first), Some(other)) = (&first.delivery, &other.delivery) else { return Vec::new() };
    let by_cuts = |text| Wrong::never_right(Cause::Cuts, text);
    if first.dropped != other.dropped {
        let state = |dropped| if dropped { "dropped" } else { "open" };
        let (now, before) = (state(other.dropped), state(first.dropped));
        return vec![by_cuts(format!("the connection is {now}, under the given cuts it is {before}"))];
    }
    let mut wrong = Vec::new();
    for (what, before, now) in [
        ("sent", &first.sent.bytes, &other.sent.bytes),
        ("received", &first.received.bytes, &other.received.bytes),
    ] {
        // How much had left before the reason for a reset was seen is a matter of the cuts.
        if first.dropped && (before.starts_with(now) || now.starts_with(before)) {
            continue;
        }
        if let Some(difference) = difference(before, now) {
            wrong.push(by_cuts(format!("{what} is not what it is under the given cuts: {difference}")));
        }
    }
    wrong
}

/// What can be wrong with streams and packets alike.
fn common(expect: &Expect, given: bool, outcome: &Outcome) -> Vec<Wrong> {
    let broken = outcome.broken.iter().map(|rule| Wrong::never_right(Cause::Contract, rule.clone()));
    let mut wrong: Vec<_> = broken.collect();
    wrong.extend(outcome.differences.iter().map(|difference| {
        let Difference { map, key, held, text } = difference.clone();
        Wrong::unexpected(text, Change::Entry { map, key, value: held })
    }));
    // How often a program fails depends on how often it runs; whether it does, must not.
    let errors = outcome.tally.errors;
    if if given { errors != expect.errors } else { (errors > 0) != (expect.errors > 0) } {
        let text = format!("{errors} runs failed, expected {}", expect.errors);
        wrong.push(match errors {
            0 => Wrong::unexpected(text, Change::NoErrors),
            _ => Wrong::never_right(Cause::Fault, text),
        });
    }
    if let Some(expected) = expect.verdicts.as_ref().filter(|_| given) {
        let decided = outcome.tally.decided();
        let names = |verdicts: &[tidegate_abi::Verdict]| {
            let mut names: Vec<_> = verdicts.iter().map(|verdict| verdict.name()).collect();
            names.sort_unstable();
            names.join(", ")
        };
        if names(&decided) != names(expected) {
            let text = format!("the verdicts were {}, expected {}", names(&decided), names(expected));
            wrong.push(Wrong::unexpected(text, Change::Verdicts(decided)));
        }
    }
    for (map, expected) in &expect.events {
        let Some(records) = outcome.events.get(map) else {
            wrong.push(Wrong::never_right(Cause::Setup, format!("the policy has no ring buffer `{map}`")));
            continue;
        };
        let mut unexpected = |text| {
            let instead = Change::Events { map: map.clone(), records: records.clone() };
            wrong.push(Wrong::unexpected(text, instead));
        };
        if records.len() != expected.len() {
            let shown = records
                .first()
                .map_or(String::new(), |record| format!("; the first is {}", literal::show(record)));
            unexpected(format!("{map}: {} records, expected {}{shown}", records.len(), expected.len()));
        }
        for (number, (record, start)) in (1..).zip(records.iter().zip(expected)) {
            if !record.starts_with(start) {
                let (record, start) = (literal::show(record), literal::show(start));
                unexpected(format!("{map}: record {number} is {record}, expected {start}"));
            }
        }
    }
    wrong
}

/// Everything that `steps` put into a direction.
fn put_in(steps: &[Step], direction: Direction) -> Vec<u8> {
    let mut all = Vec::new();
    for step in steps.iter().filter(|step| step.direction == direction) {
        if let Kind::Data { bytes, .. } = &step.kind {
            all.extend_from_slice(bytes);
        }
    }
    all
}

fn occurs(bytes: &[u8], text: &[u8]) -> bool {
    text.is_empty() || bytes.windows(text.len()).any(|window| window == text)
}

fn told(fate: &Fate) -> String {
    match fate {
        Fate::Sent => "leaves as it is".into(),
        Fate::Blocked => "is blocked".into(),
        Fate::Changed => "leaves changed".into(),
        Fate::Becomes(payload) => format!("leaves as {}", around(payload, 0)),
    }
}

/// Bytes that are shown around a difference.
const SHOWN: usize = 24;

/// Where `found` is not `expected`, and what is there.
pub(super) fn difference(expected: &[u8], found: &[u8]) -> Option<String> {
    if expected == found {
        return None;
    }
    let at = expected.iter().zip(found).take_while(|(expected, found)| expected == found).count();
    let (expected_there, found_there) = (around(expected, at), around(found, at));
    Some(format!(
        "{} bytes, expected {}; from byte {at} on {found_there}, expected {expected_there}",
        found.len(),
        expected.len()
    ))
}

fn around(bytes: &[u8], at: usize) -> String {
    match bytes.get(at..) {
        None | Some([]) => "nothing".into(),
        Some(rest) if rest.len() > SHOWN => format!("{}..", literal::show(&rest[..SHOWN])),
        Some(rest) => literal::show(rest),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::Delivered;
    use crate::scenario::Delivery as Expected;

    fn texts(wrong: Vec<Wrong>) -> Vec<String> {
        wrong.into_iter().map(|wrong| wrong.text).collect()
    }

    fn stream(expect: &Expect, steps: &[Step], given: bool, outcome: &Outcome) -> Vec<String> {
        texts(super::stream(expect, steps, given, outcome))
    }

    fn packets(
        expect: &Expect,
        steps: &[scenario::PacketStep],
        fates: &[Result<Fate, Astray>],
        outcome: &Outcome,
    ) -> Vec<String> {
        texts(super::packets(expect, steps, fates, outcome))
    }

    fn same(first: &Outcome, other: &Outcome) -> Vec<String> {
        texts(super::same(first, other))
    }

    fn outcome(sent: &[u8], dropped: bool) -> Outcome {
        let delivered = |bytes: &[u8]| Delivered { bytes: bytes.into(), fin: false, aborted: false };
        Outcome {
            delivery: Some(Delivery { sent: delivered(sent), received: delivered(b""), dropped }),
            tally: Tally::default(),
            events: BTreeMap::new(),
            differences: Vec::new(),
            broken: Vec::new(),
        }
    }

    fn step(bytes: &[u8]) -> Step {
        Step::new(Direction::Outbound, Kind::Data { bytes: bytes.into(), push: true })
    }

    fn sent(whole: Whole) -> Expect {
        Expect { sent: Expected { whole, ..Expected::default() }, ..Expect::default() }
    }

    #[test]
    fn each_expectation_can_fail() {
        let steps = [step(b"GET "), step(b"/")];
        let unchanged = sent(Whole::Unchanged);
        assert_eq!(stream(&unchanged, &steps, true, &outcome(b"GET /", false)), Vec::<String>::new());
        let wrong = stream(&unchanged, &steps, true, &outcome(b"GET *", false));
        assert_eq!(wrong, ["sent: 5 bytes, expected 5; from byte 4 on \"*\", expected \"/\""]);
        assert_eq!(
            stream(&unchanged, &steps, true, &outcome(b"GET /", true)),
            ["the connection was dropped"]
        );

        let dropped = Expect { dropped: true, ..Expect::default() };
        assert_eq!(stream(&dropped, &steps, true, &outcome(b"", false)), ["the connection was not dropped"]);

        let mut texts = sent(Whole::Any);
        texts.sent.contains = vec![b"ET".into(), b"PUT".into()];
        texts.sent.lacks = vec![b"/".into(), b"*".into()];
        let wrong = stream(&texts, &steps, true, &outcome(b"GET /", false));
        assert_eq!(wrong, ["sent: \"PUT\" does not occur", "sent: \"/\" occurs"]);

        let errors = Expect { errors: 1, ..sent(Whole::Any) };
        assert_eq!(stream(&errors, &steps, true, &outcome(b"", false)), ["0 runs failed, expected 1"]);
        let verdicts = Expect { verdicts: Some(vec![tidegate_abi::Verdict::Permit]), ..sent(Whole::Any) };
        assert_eq!(
            stream(&verdicts, &steps, true, &outcome(b"", false)),
            ["the verdicts were , expected permit"]
        );
        assert_eq!(stream(&verdicts, &steps, false, &outcome(b"", false)), Vec::<String>::new());

        let mut events = outcome(b"", false);
        events.events = [("log".to_string(), vec![b"abc".to_vec()])].into();
        let expect = |records: &[&[u8]]| {
            let records = records.iter().map(|record| record.to_vec()).collect();
            Expect { events: [("log".to_string(), records)].into(), ..Expect::default() }
        };
        assert_eq!(stream(&expect(&[b"ab"]), &[], true, &events), Vec::<String>::new());
        assert_eq!(
            stream(&expect(&[b"b"]), &[], true, &events),
            ["log: record 1 is \"abc\", expected \"b\""]
        );
        assert_eq!(
            stream(&expect(&[]), &[], true, &events),
            ["log: 1 records, expected 0; the first is \"abc\""]
        );
        assert_eq!(
            stream(&expect(&[]), &[], true, &outcome(b"", false)),
            ["the policy has no ring buffer `log`"]
        );
    }

    #[test]
    fn each_packet_is_held_against_its_own_fate() {
        let packet = |fate: Fate| scenario::PacketStep {
            label: "step 1".into(),
            local: "10.0.0.2:1".parse().unwrap(),
            remote: "10.0.0.3:2".parse().unwrap(),
            transport: crate::capture::Transport::Udp,
            payload: b"a".into(),
            after: std::time::Duration::ZERO,
            fate: Some(fate),
            leaves_for: None,
            tos: None,
        };
        let wrong = |expected: Fate, fate: Fate| {
            packets(&Expect::default(), &[packet(expected)], &[Ok(fate)], &outcome(b"", false))
        };
        let becomes = |text: &[u8]| Fate::Becomes(text.into());
        for fine in [
            (Fate::Sent, Fate::Sent),
            (Fate::Blocked, Fate::Blocked),
            (Fate::Changed, becomes(b"b")),
            (becomes(b"b"), becomes(b"b")),
            (becomes(b"a"), Fate::Sent),
        ] {
            assert_eq!(wrong(fine.0, fine.1), Vec::<String>::new());
        }
        let said = wrong(Fate::Sent, Fate::Blocked);
        assert_eq!(said, ["step 1: it is blocked, expected that it leaves as it is"]);
        assert_eq!(wrong(becomes(b"b"), becomes(b"c")).len(), 1);
        assert_eq!(wrong(Fate::Changed, Fate::Sent).len(), 1);

        let totals = Expect { packets_sent: Some(2), packets_changed: Some(0), ..Expect::default() };
        let said = packets(&totals, &[packet(Fate::Sent)], &[Ok(Fate::Sent)], &outcome(b"", false));
        assert_eq!(said, ["1 packets were sent, expected 2"]);
    }

    #[test]
    fn cuts_may_not_tell_two_runs_apart() {
        assert_eq!(same(&outcome(b"a", false), &outcome(b"a", false)), Vec::<String>::new());
        assert_eq!(same(&outcome(b"a", false), &outcome(b"b", false)).len(), 1);
        assert_eq!(same(&outcome(b"a", false), &outcome(b"a", true)).len(), 1);
        // Before a reset more or less may have left, but not other bytes.
        assert_eq!(same(&outcome(b"ab", true), &outcome(b"a", true)), Vec::<String>::new());
        assert_eq!(same(&outcome(b"ab", true), &outcome(b"x", true)).len(), 1);
    }
}

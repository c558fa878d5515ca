//! What failed as SARIF 2.1.0: each failed scenario at its line of the scenario file.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use super::check::Cause;
use super::{Failure, Report, Tested, file_name};
use crate::error::{Error, Exit};
use crate::sarif;

/// Every rule: its stable id, what it says in short and at length, and what helps.
const RULES: [(Cause, &str, &str, &str, &str); 5] = [
    (
        Cause::Expectation,
        "scenario-expectation",
        "something else came out than was expected",
        "The policy did the same under every cut, and it is not what the scenario expects.",
        "Mend the policy; where it is right, `tidegate test --bless` writes what came out into the scenario file.",
    ),
    (
        Cause::Cuts,
        "scenario-cuts",
        "what comes out depends on how the stream is cut",
        "A stream arrives in any pieces. Under the cuts that are named the policy did something else than under the given ones.",
        "Wait for more (need-more-data) instead of deciding on what is there, or keep what was seen in flow storage.",
    ),
    (
        Cause::Fault,
        "scenario-fault",
        "a run of the policy failed",
        "A helper failed or the budget was spent, so that `on_error` decided.",
        "Look at what the policy does with such traffic; `errors` in [scenario.expect] says how many runs may fail.",
    ),
    (
        Cause::Contract,
        "scenario-contract",
        "the contract with the filter engine was broken",
        "A packet was lost or left malformed, or a rule of the filter engine was broken.",
        "No policy can do that by itself: this is a defect of Tidegate.",
    ),
    (
        Cause::Setup,
        "scenario-setup",
        "the policy could not be run",
        "The verifier refused it, or the scenario names a map or a constant that it does not have.",
        "`tidegate verify OBJECT` says why a policy is refused.",
    ),
];

/// Writes what failed of `report` to the file at `path`.
pub(super) fn write(report: &Report, path: &Path) -> Result<(), Error> {
    let text = serde_json::to_string_pretty(&log(report))
        .map_err(|error| Error::new("sarif", Exit::Partial, format!("cannot write SARIF: {error}")))?;
    fs::write(path, text + "\n").map_err(|error| Error::file("write", path, &error))
}

fn log(report: &Report) -> Value {
    let rules = RULES.iter().map(|(_, id, short, full, help)| sarif::rule(id, short, full, help)).collect();
    let results = report
        .scenarios
        .iter()
        .filter_map(|tested| Some(result(tested, tested.failure.as_ref()?, report.seed)))
        .collect();
    sarif::document(rules, results)
}

fn result(tested: &Tested, failure: &Failure, seed: u64) -> Value {
    let index = RULES.iter().position(|(cause, ..)| *cause == failure.cause).unwrap_or_default();
    let (scenario, object) = (&tested.scenario, file_name(&tested.object));
    let wrong = failure.wrong.join("; ");
    json!({
        "ruleId": RULES[index].1,
        "ruleIndex": index,
        "level": "error",
        "message": { "text": format!("{scenario}: {}: {wrong} (with {object})", failure.seen()) },
        "locations": [{
            "physicalLocation": {
                "artifactLocation": { "uri": sarif::uri(&tested.file.to_string_lossy()) },
                "region": { "startLine": tested.line },
            },
            "logicalLocations": [{ "name": scenario, "kind": "function" }],
        }],
        // The same scenario with the same build is the same alert, wherever its line went.
        "partialFingerprints": { "scenario/v1": format!("{object}: {scenario}") },
        "properties": { "object": tested.object, "seed": seed, "cuts": failure.cuts },
    })
}

//! Findings as SARIF 2.1.0, the form in which editors and code hosts take what tools found.

use serde_json::{Value, json};
use tidegate_verifier::refusal::CODES;

use crate::error::Error;
use crate::report::{Diagnosis, Source};

/// The log of one run of the verifier: the files with what each was refused for, and why others could not be read.
pub fn log<'d>(
    refusals: impl Iterator<Item = (&'d str, &'d Diagnosis)>,
    unread: impl Iterator<Item = &'d Error>,
) -> Value {
    let rules =
        CODES.iter().map(|entry| rule(entry.text, entry.title, entry.explanation, entry.cure)).collect();
    let mut log = document(rules, refusals.map(|(object, diagnosis)| result(object, diagnosis)).collect());
    let notes: Vec<_> = unread
        .map(|error| {
            json!({
                "level": "error",
                "descriptor": { "id": error.code },
                "message": { "text": error.message },
            })
        })
        .collect();
    log["runs"][0]["invocations"] =
        json!([{ "executionSuccessful": notes.is_empty(), "toolExecutionNotifications": notes }]);
    log
}

/// What a result refers to: a kind of finding.
pub(crate) fn rule(id: &str, short: &str, full: &str, help: &str) -> Value {
    json!({
        "id": id,
        "shortDescription": { "text": short },
        "fullDescription": { "text": full },
        "help": { "text": help },
        "defaultConfiguration": { "level": "error" },
    })
}

/// The log of one run.
pub(crate) fn document(rules: Vec<Value>, results: Vec<Value>) -> Value {
    json!({
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": { "driver": {
                "name": "tidegate",
                "version": env!("CARGO_PKG_VERSION"),
                "rules": rules,
            } },
            "columnKind": "unicodeCodePoints",
            "results": results,
        }],
    })
}

fn result(object: &str, diagnosis: &Diagnosis) -> Value {
    let index = CODES.iter().position(|entry| entry.text == diagnosis.code);
    let instruction = diagnosis.instruction.as_deref().unwrap_or_default();
    let function = diagnosis.function.as_deref().unwrap_or_default();
    // Without a line table the object itself is the place.
    let physical = diagnosis
        .source
        .as_ref()
        .map_or_else(|| json!({ "artifactLocation": { "uri": uri(object) } }), region_of);
    let related: Vec<_> = diagnosis
        .origins
        .iter()
        .filter_map(|origin| {
            let physical = region_of(origin.source.as_ref()?);
            Some(json!({ "physicalLocation": physical, "message": { "text": origin.what } }))
        })
        .collect();
    json!({
        "ruleId": diagnosis.code,
        "ruleIndex": index,
        "level": "error",
        "message": { "text": format!("{}: {}. {}", diagnosis.title, diagnosis.message, diagnosis.hint) },
        "locations": [{
            "physicalLocation": physical,
            "logicalLocations": [{ "name": function, "kind": "function" }],
        }],
        "relatedLocations": related,
        "properties": { "object": object, "slot": diagnosis.slot, "instruction": instruction },
    })
}

fn region_of(source: &Source) -> Value {
    let mut region = json!({ "startLine": source.line, "snippet": { "text": source.text } });
    if source.column > 0 {
        region["startColumn"] = source.column.into();
    }
    json!({ "artifactLocation": { "uri": uri(&source.file) }, "region": region })
}

/// A path as a reference: what is no letter, digit or `-._~/` by its bytes.
pub(crate) fn uri(path: &str) -> String {
    let mut uri = String::from(if path.starts_with('/') { "file://" } else { "" });
    for byte in path.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => {
                uri.push(byte.into());
            }
            b'\\' => uri.push('/'),
            _ => uri.push_str(&format!("%{byte:02X}")),
        }
    }
    uri
}

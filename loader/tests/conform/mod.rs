//! Holds documents that were printed with `-j` against the committed schemas.

use std::fs;

use serde_json::Value;

/// Checks that `document` is one that `verb` may print, and has no member that the schema does not know.
pub(crate) fn conforms(verb: &str, document: &Value) {
    let file = format!("{}/schemas/{}.json", env!("CARGO_MANIFEST_DIR"), verb.replace(' ', "-"));
    let text = fs::read_to_string(&file).unwrap_or_else(|error| panic!("{file}: {error}"));
    let mut schema: Value = serde_json::from_str(&text).expect("a schema is JSON");
    close(&mut schema);
    let schema = jsonschema::validator_for(&schema).expect("a schema is a schema");
    let wrong: Vec<_> = schema.iter_errors(document).map(|error| error.to_string()).collect();
    assert!(wrong.is_empty(), "not what {file} says: {}\n{document:#}", wrong.join("\n"));
}

/// A schema leaves room for what a later release adds; what this one prints has to be in it, wherever it is a value.
fn close(value: &mut Value) {
    if let Value::Object(members) = value {
        close_inside(members);
        if members.keys().all(|name| name == "description") {
            return; // Anything.
        }
        members.entry("unevaluatedProperties").or_insert(Value::Bool(false));
    }
}

/// Closes what is said of the values inside of a value. Its alternatives describe the same value: they stay as they are.
fn close_inside(members: &mut serde_json::Map<String, Value>) {
    for (name, member) in members {
        match (name.as_str(), member) {
            ("properties", Value::Object(properties)) => properties.values_mut().for_each(close),
            ("items" | "additionalProperties", value) => close(value),
            ("anyOf" | "oneOf", Value::Array(ways)) => {
                ways.iter_mut().filter_map(Value::as_object_mut).for_each(close_inside);
            }
            ("$defs", Value::Object(defs)) => {
                defs.values_mut().filter_map(Value::as_object_mut).for_each(close_inside);
            }
            _ => {}
        }
    }
}

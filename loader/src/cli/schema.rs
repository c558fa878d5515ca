//! `tidegate schema`: what every verb prints with `-j`, as JSON schemas (draft 2020-12).
//!
//! The schemas are derived from the types that are printed. Those of a release are in `loader/schemas/`, where a change of
//! them is seen: a field that is gone or has another name breaks somebody's script, and needs another [`SCHEMA`].

use std::fmt;

use clap::Args;
use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Serialize;
use serde_json::Value;

use super::{
    Document, Done, Failed, Report, SCHEMA, abi, batch, btf, bundle, completions, doctor, driver, dump,
    event, feature, flow, link, man, map, prog, skeleton, stats, trace, verify, version,
};
use crate::bundle::Plan;
use crate::error::Error;
#[cfg(target_os = "linux")]
use crate::tun;
use crate::{proxy, run, test};

#[derive(Args)]
pub(super) struct Options {
    /// The verb, as `prog show`; none: all of them
    #[arg(num_args = 0..=2, value_names = ["NOUN", "VERB"])]
    verb: Vec<String>,
}

/// What a verb prints: makes the schema of one document.
type Prints = fn(&mut SchemaGenerator) -> Schema;

/// A document of this body.
fn of<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<Document<'_, T>>()
}

/// Every verb and the documents that it prints; one that prints several has a line for each thing that it tells.
const VERBS: &[(&str, &[Prints])] = &[
    ("abi dump", &[of::<abi::Dump>]),
    ("apply", &[of::<Plan>]),
    ("batch", &[of::<batch::Said>, of::<batch::Summary>]),
    ("btf dump", &[of::<btf::Dump>]),
    ("bundle keygen", &[of::<bundle::Made>]),
    ("bundle sign", &[of::<bundle::Signed>]),
    ("bundle verify", &[of::<bundle::Signed>]),
    ("completions", &[of::<completions::Completions>]),
    ("diff", &[of::<Plan>]),
    ("doctor", &[of::<doctor::Doctor>]),
    ("driver install", &[of::<driver::Status>]),
    ("driver start", &[of::<driver::Status>]),
    ("driver status", &[of::<driver::Status>]),
    ("driver stop", &[of::<driver::Status>]),
    ("driver uninstall", &[of::<driver::Status>]),
    ("event", &[of::<event::Line>, of::<event::Summary>]),
    ("feature list", &[of::<feature::Features>]),
    ("feature probe", &[of::<feature::Probe>]),
    ("flow explain", &[of::<flow::Explanation>]),
    ("flow list", &[of::<flow::Flows>]),
    ("gen man", &[of::<man::Pages>]),
    ("gen skeleton", &[of::<skeleton::Made>]),
    ("link attach", &[of::<link::Links>]),
    ("link detach", &[of::<Done>]),
    ("link order", &[of::<link::Links>]),
    ("link replace", &[of::<link::Links>]),
    ("link show", &[of::<link::Links>]),
    ("map create", &[of::<map::Maps>]),
    ("map delete", &[of::<Done>]),
    ("map dump", &[of::<map::Entries>]),
    ("map freeze", &[of::<Done>]),
    ("map getnext", &[of::<map::Key>]),
    ("map lookup", &[of::<map::Entries>]),
    ("map release", &[of::<Done>]),
    ("map show", &[of::<map::Maps>]),
    ("map update", &[of::<Done>]),
    ("prog dump", &[of::<dump::Dump>]),
    ("prog load", &[of::<prog::Load>]),
    ("prog profile", &[of::<run::Profile>]),
    ("prog run", &[of::<run::Report>]),
    ("prog show", &[of::<prog::Show>]),
    ("prog stats", &[of::<stats::Stats>]),
    ("prog unload", &[of::<Done>]),
    ("prog verify", &[of::<verify::Said>]),
    ("proxy", &[of::<proxy::Line>, of::<proxy::Summary>]),
    ("rollback", &[of::<Plan>]),
    ("schema", &[of::<Schemas>]),
    ("test", &[of::<test::Report>]),
    ("trace", &[of::<trace::Line>, of::<trace::Summary>]),
    #[cfg(target_os = "linux")]
    ("tun", &[of::<tun::Line>, of::<tun::Summary>]),
    ("verify", &[of::<verify::Said>]),
    ("version", &[of::<version::Version>]),
];

/// Schemas, by verb.
#[derive(Serialize, JsonSchema)]
pub(super) struct Schemas {
    schemas: Vec<Row>,
}

#[derive(Serialize, JsonSchema)]
struct Row {
    verb: &'static str,
    /// A JSON schema of every document that the verb prints.
    documents: Value,
}

pub(super) fn schema(options: &Options) -> Result<Schemas, Error> {
    let wanted = options.verb.join(" ");
    let rows = VERBS.iter().filter(|(verb, _)| wanted.is_empty() || *verb == wanted);
    let schemas: Vec<_> =
        rows.map(|(verb, prints)| Row { verb, documents: documents(verb, prints) }).collect();
    if schemas.is_empty() {
        let known: Vec<_> = VERBS.iter().map(|(verb, _)| *verb).collect();
        return Err(Error::usage("schema-unknown", format!("no verb is called `{wanted}`"))
            .with_help(format!("verbs are {}", known.join(", "))));
    }
    Ok(Schemas { schemas })
}

/// The schema of all documents of a verb, an error's too.
fn documents(verb: &str, prints: &[Prints]) -> Value {
    let mut generator = SchemaSettings::default().for_serialize().into_generator();
    let any: Vec<_> =
        prints.iter().chain(&[of::<Failed> as Prints]).map(|print| print(&mut generator)).collect();
    let mut whole = json_schema!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": format!("tidegate -j {verb}"),
        "properties": { "schema": { "const": SCHEMA } },
        "anyOf": any,
    });
    whole.insert("$defs".into(), generator.take_definitions(true).into());
    whole.to_value()
}

impl Report for Schemas {}

impl fmt::Display for Schemas {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for row in &self.schemas {
            writeln!(f, "{:#}", row.documents)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::{env, fs};

    use clap::{CommandFactory, Parser};
    use tidegate_runtime::{Runtime, Shared};

    use super::*;
    use crate::cli::conform::conforms;
    use crate::cli::{Cli, Output, dispatch};
    use crate::client::Client;
    use crate::host;

    fn verbs_below(command: &clap::Command, name: &str, verbs: &mut Vec<String>) {
        let below: Vec<_> = command.get_subcommands().filter(|below| below.get_name() != "help").collect();
        for below in &below {
            verbs_below(below, format!("{name} {}", below.get_name()).trim_start(), verbs);
        }
        if below.is_empty() {
            verbs.push(name.to_string());
        }
    }

    #[test]
    fn every_verb_has_a_schema() {
        let mut verbs = Vec::new();
        verbs_below(&Cli::command(), "", &mut verbs);
        verbs.sort();
        let known: Vec<_> = VERBS.iter().map(|(verb, _)| *verb).collect();
        assert_eq!(verbs, known, "a verb is here and not there");
    }

    #[test]
    fn the_schemas_are_those_that_are_committed() {
        let folder = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/schemas"));
        let bless = env::var_os("TIDEGATE_BLESS").is_some();
        let mut files: Vec<_> = fs::read_dir(&folder)
            .map(|files| files.filter_map(|file| file.ok()?.file_name().into_string().ok()).collect())
            .unwrap_or_default();
        files.sort();
        for (verb, prints) in VERBS {
            let name = format!("{}.json", verb.replace(' ', "-"));
            let text = format!("{:#}\n", documents(verb, prints));
            if bless {
                fs::create_dir_all(&folder).expect("the folder can be made");
                fs::write(folder.join(&name), &text).expect("the file can be written");
            }
            let committed = fs::read_to_string(folder.join(&name)).unwrap_or_default();
            assert!(text == committed, "loader/schemas/{name} is not what is printed: `cargo xtask schemas`");
            files.retain(|file| *file != name);
        }
        assert!(files.is_empty(), "no verb has these schemas: {files:?}");
    }

    /// Types `words` behind `-j`, and holds what is printed against the schema of the verb, which is the first words.
    fn typed(runtime: &Shared<Runtime>, verb: &str, words: &[&str]) -> Value {
        let words = ["tidegate", "-j"].into_iter().chain(verb.split(' ')).chain(words.iter().copied());
        let cli = Cli::try_parse_from(words).expect("it parses");
        let output = cli.output;
        let printed = dispatch(output, cli.noun, None, &|| Ok(Client::new(Shared::clone(runtime))));
        let text = printed.map_or_else(|error| output.error(&error), |printed| printed.text);
        let document = serde_json::from_str(&text).expect("a document");
        conforms(verb, &document);
        document
    }

    #[test]
    fn what_is_said_of_a_runtime() {
        let runtime = host::runtime().expect("a runtime");
        let typed = |verb, words: &[&str]| typed(&runtime, verb, words);
        let probes = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/probes.o");
        let loaded = typed("prog load", &[probes, "--prog", "account"]);
        let program = loaded["programs"][0]["id"].to_string();
        typed("version", &[]);
        typed("prog show", &[]);
        typed("prog dump", &[&program]);
        typed("prog dump", &["account", "visual", "--types", probes]);
        assert_eq!(typed("feature probe", &[])["answer"]["programs"], 1);
        let attached = typed("link attach", &[&program]);
        let link = attached["links"][0]["id"].to_string();
        typed("link show", &[]);
        typed("prog stats", &[]);
        typed("prog stats", &["--watch", "0", "--count", "1"]);
        typed("link replace", &[&link, &program]);
        typed("link replace", &[&link, &program, "--canary", "10%"]);
        typed("prog stats", &[]);
        typed("link replace", &[&link, &program, "--shadow"]);
        typed("link show", &[]);
        typed("prog stats", &["--watch", "0", "--count", "1"]);
        typed("link replace", &[&link, "--end"]);
        typed("link order", &[&link, "--priority", "7"]);
        typed("map show", &[]);
        typed("map update", &["bytes", "1", "2"]);
        typed("map lookup", &["bytes", "1"]);
        typed("map getnext", &["bytes"]);
        typed("map getnext", &["bytes", "--types", probes]);
        typed("map dump", &["bytes"]);
        typed("map dump", &["bytes", "--types", probes]);
        typed("map delete", &["bytes", "1"]);
        typed("map create", &["mine", "--kind", "hash", "--key", "2", "--value", "4", "--entries", "16"]);
        typed("map freeze", &["mine"]);
        typed("map release", &["mine"]);
        typed("event", &["losses", "--once"]);
        typed("flow list", &[]);
        for link in attached["links"].as_array().expect("links") {
            assert_eq!(typed("link detach", &[&link["id"].to_string()])["schema"], SCHEMA);
        }
        assert_eq!(typed("prog unload", &[&program])["schema"], SCHEMA);
        assert_eq!(typed("link detach", &["77777"])["error"]["code"], "not-found");
        for verb in ["driver install", "driver start", "driver status", "driver stop", "driver uninstall"] {
            let words: &[&str] = if verb == "driver install" { &["nowhere.inf"] } else { &[] };
            typed(verb, words);
        }
    }

    #[test]
    fn what_is_told_of_a_ring_buffer() {
        let map = || "losses".to_string();
        for line in [
            event::Line::Record { map: map(), data: vec![1, 2] },
            event::Line::Dropped { map: map(), dropped: 3 },
        ] {
            let text = Output { json: true, pretty: false, quiet: true }.document(&line).expect("JSON");
            conforms("event", &serde_json::from_str(&text).expect("a document"));
        }
    }
}

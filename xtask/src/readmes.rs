//! Whether the README of each policy says what the verifier says (what a run costs, what it may do, what its maps are), and
//! whether its recipes work.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::test::Tally;
use crate::{programs, shell};

/// Holds the README beside each source against the verification of its object, and runs the commands in it. What is missing
/// is printed as it should stand.
pub(crate) fn check() -> Result<Tally> {
    programs::build()?;
    let mut tally = Tally::default();
    for source in programs::sources()? {
        let readme = source.source.with_file_name("README.md");
        let text = fs::read_to_string(&readme).unwrap_or_default();
        let said = one_line(&text);
        let missing: Vec<_> =
            facts(&source.object)?.into_iter().filter(|fact| !said.contains(fact.as_str())).collect();
        for fact in &missing {
            println!("{} does not say: {fact}", readme.strip_prefix(shell::root())?.display());
        }
        tally =
            tally + Tally { passed: u64::from(missing.is_empty()), failed: u64::from(!missing.is_empty()) };
        for recipe in text.lines().filter(|line| line.starts_with("tidegate ")) {
            let works = works(recipe)?;
            tally = tally + Tally { passed: u64::from(works), failed: u64::from(!works) };
        }
    }
    Ok(tally)
}

/// Whether a command of a README comes to a good end, typed in the repository's folder.
fn works(recipe: &str) -> Result<bool> {
    let tidegate = shell::tidegate::<&str>(&[])?;
    let words = recipe.strip_prefix("tidegate ").unwrap_or(recipe);
    let mut typed = Command::new("sh");
    typed.arg("-c").arg(format!("\"$0\" {words}")).arg(tidegate.get_program()).current_dir(shell::root());
    let out = typed.output().context("cannot start a shell")?;
    if !out.status.success() {
        println!("{recipe}: {}", String::from_utf8_lossy(&out.stderr));
    }
    Ok(out.status.success())
}

/// `text` without the places where its lines end.
fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// What is known of every program of an object, as a README says it.
fn facts(object: &Path) -> Result<Vec<String>> {
    let mut verify = shell::tidegate(&["-j", "verify"])?;
    let out = verify.arg(object).stderr(Stdio::inherit()).output().context("cannot start tidegate")?;
    let document: Value = serde_json::from_slice(&out.stdout).context("`tidegate verify` printed no JSON")?;
    let file = object.file_name().unwrap_or_default().to_string_lossy();
    let mut facts = Vec::new();
    for program in document["objects"][0]["programs"].as_array().context("no program")? {
        let cost = program["max_cost"].as_u64().with_context(|| format!("{file} is refused"))?;
        let mut may: Vec<_> =
            program["capabilities"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        if may.is_empty() {
            may.push("nothing else");
        }
        facts.push(format!("`{file}`: worst case {cost} instructions; may decide, {}", may.join(", ")));
        let maps = program["maps"].as_array().into_iter().flatten();
        facts.extend(maps.filter_map(map).filter(|fact| !facts.contains(fact)).collect::<Vec<_>>());
    }
    Ok(facts)
}

/// A map as `tidegate verify` shows it; none of those that the compiler made.
fn map(map: &Value) -> Option<String> {
    let name = map["name"].as_str().filter(|name| !name.starts_with('.'))?;
    let (kind, entries) = (map["kind"].as_str()?, &map["max_entries"]);
    Some(match kind {
        "ringbuf" => format!("`{name}` ({kind}, {entries} bytes)"),
        _ => format!(
            "`{name}` ({kind}, {entries} entries, {} bytes to {})",
            map["key_size"], map["value_size"]
        ),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_map_is_said_as_the_verifier_shows_it() {
        let hash = json!({"name": "a", "kind": "hash", "key_size": 4, "value_size": 8, "max_entries": 2});
        assert_eq!(map(&hash).as_deref(), Some("`a` (hash, 2 entries, 4 bytes to 8)"));
        let ring =
            json!({"name": "b", "kind": "ringbuf", "key_size": 0, "value_size": 0, "max_entries": 4096});
        assert_eq!(map(&ring).as_deref(), Some("`b` (ringbuf, 4096 bytes)"));
    }

    #[test]
    fn what_a_compiler_made_is_not_said() {
        let constants =
            json!({"name": ".rodata", "kind": "array", "key_size": 4, "value_size": 8, "max_entries": 1});
        assert_eq!(map(&constants), None);
    }

    #[test]
    fn lines_may_end_anywhere() {
        assert_eq!(one_line("may decide,\n  drop\n"), "may decide, drop");
    }
}

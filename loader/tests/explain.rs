//! What `--explain` shows is true: each first program is refused with its code, and each second one is accepted.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::AtomicU8;

use tidegate::Object;
use tidegate::explain::{self, Form};
use tidegate_abi::{MapDef, MapKind, ProgramType};
use tidegate_verifier::{Options, Program, verify};

const LOADER: &str = env!("CARGO_MANIFEST_DIR");

/// The code that a program is refused with, if it is.
fn judge(program: &Program<'_>, options: &Options<'_>) -> Option<&'static str> {
    verify(program, options).err().map(|refusal| refusal.code.text())
}

fn judge_c(name: &str, text: &str) -> Option<&'static str> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("explain");
    fs::create_dir_all(&folder).expect("a folder can be made");
    let (source, object) = (folder.join(format!("{name}.c")), folder.join(format!("{name}.o")));
    fs::write(&source, text).expect("the source can be written");
    let compiled = Command::new("clang-19")
        .args(["-target", "bpf", "-mcpu=v3", "-g", "-O2", "-w", "-I"])
        .arg(format!("{LOADER}/../programs/include"))
        .arg("-c")
        .arg(&source)
        .arg("-o")
        .arg(&object)
        .status()
        .expect("clang-19 is needed: `cargo xtask setup` installs it");
    assert!(compiled.success(), "{name} does not compile");
    let object = Object::read(&object).unwrap_or_else(|error| panic!("{name}: {error}"));
    let program = &object.programs()[0];
    let (code, maps) = (program.code(), object.map_defs(program));
    judge(&Program { program_type: program.program_type, code: &code, maps: &maps }, &Options::default())
}

static CANCELLED: AtomicU8 = AtomicU8::new(1);

/// Bytes in hexadecimal; `times N` repeats the line before it, `map` adds a map, `memory N` bounds the verification,
/// `cancelled` says that nobody waits for it.
fn judge_bytes(text: &str) -> Option<&'static str> {
    let (mut code, mut last, mut maps) = (Vec::new(), Vec::new(), Vec::new());
    let mut options = Options::default();
    for line in text.lines() {
        let words: Vec<_> = line.split(';').next().unwrap_or_default().split_whitespace().collect();
        let number = |at: usize| words[at].parse::<u32>().expect("a number");
        match words.first().copied() {
            None => {}
            Some("map") => {
                assert_eq!(words[1], "array");
                let [key_size, value_size, max_entries] = [3, 5, 7].map(number);
                maps.push(MapDef { kind: MapKind::Array, key_size, value_size, max_entries, flags: 0 });
            }
            Some("cancelled") => options.cancelled = Some(&CANCELLED),
            Some("memory") => options.memory = number(1) as usize,
            Some("times") => (1..number(1)).for_each(|_| code.extend_from_slice(&last)),
            Some(_) => {
                last = words.iter().map(|word| u8::from_str_radix(word, 16).expect("a byte")).collect();
                code.extend_from_slice(&last);
            }
        }
    }
    judge(&Program { program_type: ProgramType::Stream, code: &code, maps: &maps }, &options)
}

#[test]
fn every_first_program_is_refused_with_its_code_and_every_second_one_is_accepted() {
    let mut wrong = Vec::new();
    let mut codes = 0;
    for explain::Explanation { code, form, refused, accepted, .. } in explain::all() {
        let judge = |name: &str, text| match form {
            Form::C => judge_c(&format!("{code}-{name}"), text),
            Form::Bytes => judge_bytes(text),
        };
        let judged = [judge("refused", refused), judge("accepted", accepted)];
        if judged != [Some(code), None] {
            wrong.push(format!("{code}: {judged:?}"));
        }
        codes += 1;
    }
    println!("{codes} codes");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_code_is_explained_on_the_command_line() {
    let tidegate = |args: &[&str]| {
        let ran =
            Command::new(env!("CARGO_BIN_EXE_tidegate")).args(args).output().expect("the command starts");
        (ran.status.code(), String::from_utf8(ran.stdout).expect("output is text"))
    };
    let (exit, said) = tidegate(&["verify", "--explain", "TG0302"]);
    assert_eq!(exit, Some(0));
    for part in ["TG0302: A pointer that may be null is used", "Refused:", "Accepted:", "if (count)"] {
        assert!(said.contains(part), "{part:?} is missing in:\n{said}");
    }
    let (exit, said) = tidegate(&["-j", "verify", "--explain", "302"]);
    let document: serde_json::Value = serde_json::from_str(&said).expect("a document");
    assert_eq!((exit, &document["code"], &document["schema"]), (Some(0), &"TG0302".into(), &1.into()));
    assert_eq!(tidegate(&["verify", "--explain", "TG0000"]).0, Some(5));
}

#[test]
fn refusals_are_printed_as_sarif() {
    let text = explain::explain("TG0303").expect("there is such a code").refused;
    assert_eq!(judge_c("sarif", text), Some("TG0303"));
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("explain");
    let ran = Command::new(env!("CARGO_BIN_EXE_tidegate"))
        .args(["verify", "--sarif"])
        .arg(folder.join("sarif.o"))
        .output()
        .expect("the command starts");
    assert_eq!(ran.status.code(), Some(2));
    let log: serde_json::Value = serde_json::from_slice(&ran.stdout).expect("SARIF is JSON");
    assert_eq!(log["version"], "2.1.0");
    let run = &log["runs"][0];
    let result = &run["results"][0];
    let rule = &run["tool"]["driver"]["rules"][result["ruleIndex"].as_u64().expect("an index") as usize];
    assert_eq!((&result["ruleId"], &rule["id"]), (&"TG0303".into(), &"TG0303".into()));
    let place = &result["locations"][0]["physicalLocation"];
    let line = text.lines().position(|line| line.contains("data[4]")).expect("the line is there") + 1;
    assert_eq!(place["region"]["startLine"], line);
    assert!(place["artifactLocation"]["uri"].as_str().is_some_and(|uri| uri.ends_with("sarif.c")));
    let other = &result["relatedLocations"][0]["physicalLocation"]["region"]["startLine"];
    assert!(other.as_u64() < Some(line as u64), "where the comparison is: {result:#}");
}

#[test]
fn the_page_of_codes_is_the_committed_one() {
    let path = format!("{LOADER}/../docs/refusals.md");
    if std::env::var_os("TIDEGATE_BLESS").is_some() {
        fs::write(&path, explain::page()).expect("the page can be written");
    }
    let committed = fs::read_to_string(path).unwrap_or_default();
    assert!(
        committed == explain::page(),
        "docs/refusals.md is not what the codes are: run `cargo xtask refusals`"
    );
}

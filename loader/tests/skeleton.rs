//! A new policy builds, is accepted and passes its scenarios, as it was made.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use tidegate::object::{Object, Place, Places};

fn tidegate(arguments: &[&str], folder: &Path) -> Output {
    let command = Command::new(env!("CARGO_BIN_EXE_tidegate")).args(arguments).current_dir(folder).output();
    command.expect("the command starts")
}

/// An empty folder of one test alone.
fn folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("skeleton-{name}"));
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).expect("a folder");
    folder
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned()
}

#[test]
fn a_new_policy_builds_and_passes_its_scenarios_at_once() {
    for language in ["c", "rust"] {
        for (kind, option) in [("stream", None), ("send", Some("--send"))] {
            let folder = folder(&format!("{language}-{kind}"));
            let mut arguments = vec!["gen", "skeleton", language, "my_policy"];
            arguments.extend(option);
            let made = tidegate(&arguments, &folder);
            assert!(made.status.success(), "{}", said(&made));
            // What the verb says comes next, line by line.
            let told = said(&made);
            let next: Vec<&str> =
                told.split("Now:\n").nth(1).expect("what to do").lines().map(str::trim).collect();
            assert_eq!(next.len(), 3, "{told}");
            for line in next {
                let mut words = line.split(' ');
                let program = match words.next() {
                    Some("tidegate") => env!("CARGO_BIN_EXE_tidegate"),
                    other => other.expect("a command"),
                };
                let ran = Command::new(program).args(words).current_dir(&folder).output().expect("it starts");
                assert!(ran.status.success(), "{language} {kind}: {line}\n{}", said(&ran));
            }
        }
    }
}

/// Makes `policy/policy-rs.o` in `folder`.
fn build_rust(folder: &Path, option: Option<&str>) {
    let mut arguments = vec!["gen", "skeleton", "rust", "policy"];
    arguments.extend(option);
    assert!(tidegate(&arguments, folder).status.success());
    let build = Command::new("sh").arg("policy/build.sh").current_dir(folder).output().expect("it starts");
    assert!(build.status.success(), "{}", said(&build));
}

#[test]
fn the_lines_of_a_policy_in_rust_are_covered_though_all_of_the_sdk_is_inlined_into_them() {
    for (kind, option) in [("stream", None), ("send", Some("--send"))] {
        let folder = folder(&format!("coverage-{kind}"));
        build_rust(&folder, option);
        let report =
            tidegate(&["-j", "test", "policy", "--coverage", "--lcov", "policy.info"], &folder).stdout;
        let report: Value = serde_json::from_slice(&report).expect("JSON");
        let coverage = &report["coverage"];
        assert_eq!(coverage["files"].as_array().map(Vec::len), Some(1), "{coverage:#}");
        let source = fs::read_to_string(folder.join("policy/policy.rs")).expect("the source");
        for text in ["ports.get(", "listed {"] {
            let line = source.lines().position(|line| line.contains(text)).expect("a line with it") + 1;
            let line = &coverage["files"][0]["lines"][line.to_string()];
            assert!(line["runs"].as_u64() > Some(0), "{kind}, {text}: {coverage:#}");
        }
        let lcov = fs::read_to_string(folder.join("policy.info")).expect("the tracefile");
        assert!(lcov.contains("SF:policy/policy.rs\n") && lcov.contains("\nDA:"), "{lcov}");
    }
}

#[test]
fn debug_information_with_any_byte_changed_is_read_as_far_as_it_goes() {
    let folder = folder("damaged");
    build_rust(&folder, Some("--send"));
    let whole = fs::read(folder.join("policy/policy-rs.o")).expect("the object");
    let object = Object::parse(&whole).expect("it loads");
    let program = &object.programs()[0];
    let places = |bytes: &[u8]| -> Option<Vec<Vec<Place>>> {
        let places = Places::parse(bytes).ok()?;
        Some((0..program.insns.len()).map(|slot| places.of(program, slot)).collect())
    };
    // Of a call that was inlined both ends are known, the innermost first.
    let known = places(&whole).expect("it can be read");
    let lines = |places: &Vec<Place>| {
        let mut files = places.iter().filter_map(|place| Path::new(&place.file).file_name()?.to_str());
        files.next() == Some("bindings.rs") && files.any(|file| file == "policy.rs")
    };
    assert!(known.iter().any(lines), "{known:#?}");
    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 0xff;
        if let Some(damaged) = places(&bytes) {
            assert_eq!(damaged.len(), known.len());
        }
    }
}

#[test]
fn nothing_is_overwritten_and_a_name_is_a_functions() {
    let folder = folder("refused");
    assert!(tidegate(&["gen", "skeleton", "c", "one"], &folder).status.success());
    let before = fs::read(folder.join("one/one.c")).expect("written");
    let again = tidegate(&["gen", "skeleton", "rust", "one"], &folder);
    assert_eq!(again.status.code(), Some(1));
    assert!(said(&again).contains("gen-exists") && !folder.join("one/one.rs").exists());
    assert_eq!(fs::read(folder.join("one/one.c")).expect("still there"), before);
    for name in ["", "1st", "with-dash", "../up", "Upper"] {
        let refused = tidegate(&["gen", "skeleton", "c", name], &folder);
        assert_eq!(refused.status.code(), Some(1), "{name}");
        assert!(said(&refused).contains("gen-name"), "{}", said(&refused));
    }
}

#[test]
fn a_name_that_means_something_else_already_is_refused_with_why_and_another() {
    let folder = folder("taken");
    for (language, name, why) in [
        ("c", "main", "compilers have a function of that name"),
        ("c", "printf", "the C library"),
        ("c", "ports", "something else in a new policy"),
        ("c", "int", "a keyword of C"),
        ("c", "tidegate_find", "a helper"),
        ("rust", "match", "a keyword of Rust"),
        ("rust", "self", "a keyword of Rust"),
        ("rust", "judge", "something else in a new policy"),
        ("rust", "nul", "on Windows it is a device"),
    ] {
        let refused = tidegate(&["gen", "skeleton", language, name], &folder);
        let said = said(&refused);
        assert_eq!(refused.status.code(), Some(1), "{language} {name}: {said}");
        assert!(said.contains("error[gen-name]") && said.contains(why), "{said}");
        assert!(said.contains(&format!("help: call it `{name}_policy`")), "{said}");
        assert!(!folder.join(name).exists());
    }
}

/// clang takes none of them for the program's function: who is refused a name is refused it rightly.
#[test]
fn the_names_of_the_c_library_are_those_that_clang_refuses() {
    let folder = folder("library");
    assert!(tidegate(&["gen", "skeleton", "c", "mine"], &folder).status.success());
    let names = include_str!("../src/skeleton/library.txt");
    let names: Vec<_> = names.lines().skip(1).flat_map(str::split_whitespace).collect();
    assert!(names.len() > 300, "{}", names.len());
    let functions =
        names.iter().map(|name| format!("int {name}(struct tidegate_stream *ctx) {{ return 0; }}\n"));
    let source = String::from("#include \"tidegate.h\"\n") + &functions.collect::<String>();
    fs::write(folder.join("mine/all.c"), source).expect("a file");
    let clang = Command::new(std::env::var("CLANG").unwrap_or("clang-19".into()))
        .args(["-target", "bpf", "-Wall", "-Werror", "-ferror-limit=0", "-fsyntax-only", "all.c"])
        .current_dir(folder.join("mine"))
        .output()
        .expect("clang starts");
    let said = said(&clang);
    for (line, name) in (2..).zip(names) {
        assert!(said.contains(&format!("all.c:{line}:")), "clang takes {name}");
    }
}

//! What users of the neighbouring systems complain about does not happen here. `docs/complaints.md` says what they are and which
//! tests hold each: those that fit nowhere else are here.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

const LOADER: &str = env!("CARGO_MANIFEST_DIR");

/// A folder of one test alone, empty.
fn folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("complaints-{name}"));
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).expect("a folder");
    folder
}

fn tidegate(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tidegate")).args(arguments).output().expect("the command starts")
}

fn document(arguments: &[&str]) -> Value {
    let output = tidegate(&[&["-j"], arguments].concat());
    serde_json::from_slice(&output.stdout).expect("a document")
}

/// The object of a source in C, in a folder of its own, compiled with the header in `include`.
fn compiled(folder: &Path, include: &Path, source: &str) -> PathBuf {
    compiled_with(&["-g"], folder, include, source)
}

fn compiled_with(options: &[&str], folder: &Path, include: &Path, source: &str) -> PathBuf {
    let (file, object) = (folder.join("policy.c"), folder.join("policy.o"));
    fs::write(&file, source).expect("the source can be written");
    let status = Command::new("clang-19")
        .args(["-target", "bpf", "-mcpu=v3", "-O2"])
        .args(options)
        .arg("-I")
        .arg(include)
        .arg("-c")
        .arg(&file)
        .arg("-o")
        .arg(&object)
        .status();
    assert!(status.expect("clang-19 is needed: `cargo xtask setup` installs it").success());
    object
}

fn header() -> PathBuf {
    Path::new(LOADER).join("../programs/include")
}

/// falco's libs#316, kmesh#761 and others: the verifier's words were cut at the size of a buffer.
#[test]
fn a_refusal_is_told_whole() {
    let folder = folder("long");
    let long = "a_name_that_goes_on_".repeat(10);
    let source = format!(
        "#include <tidegate.h>\nSEC(\"tidegate/stream\") int policy(struct tidegate_stream *ctx) {{\n\
         unsigned char *{long} = (void *)(long)ctx->data;\nreturn {long}[4] ? {long}[4] : 2; }}\n"
    );
    let object = compiled(&folder, &header(), &source);
    let told = document(&["verify", object.to_str().unwrap()]);
    let text = told["objects"][0]["programs"][0]["diagnosis"]["source"]["text"].as_str().expect("a line");
    assert_eq!(text, format!("return {long}[4] ? {long}[4] : 2; }}"), "{told:#}");
}

/// ebpf-for-windows#3569: one cause was told 507 times.
#[test]
fn one_cause_is_told_once_and_every_program_has_its_own() {
    let folder = folder("once");
    let wrong = "n += ((volatile unsigned char *)(long)ctx->data)[at];".repeat(40);
    let policy = |name: &str| {
        format!(
            "SEC(\"tidegate/stream/{name}\") int {name}(struct tidegate_stream *ctx) {{ \
             int n = 0, at = 9;\n{wrong}\nreturn n ? 1 : 2; }}\n"
        )
    };
    let source = format!("#include <tidegate.h>\n{}{}", policy("one"), policy("two"));
    let object = compiled(&folder, &header(), &source);
    let output = tidegate(&["verify", object.to_str().unwrap()]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert_eq!(text.matches("error[").count(), 2, "one for each program: {text}");
    assert!(text.contains("0 accepted, 2 refused"), "{text}");
}

/// prevail#463: a refusal named no place. Of a program without line information it is the instruction.
#[test]
fn a_refusal_without_source_lines_names_the_instruction() {
    let folder = folder("no-lines");
    let source = "#include <tidegate.h>\nSEC(\"tidegate/stream\") int policy(struct tidegate_stream *ctx) {\n\
                  unsigned char *bytes = (void *)(long)ctx->data;\nreturn bytes[4] ? 1 : 2; }\n";
    let object = compiled_with(&["-g0"], &folder, &header(), source);
    let told = document(&["verify", object.to_str().unwrap()]);
    let diagnosis = &told["objects"][0]["programs"][0]["diagnosis"];
    assert_eq!(diagnosis["source"], Value::Null, "{diagnosis:#}");
    assert_eq!(
        (&diagnosis["slot"], &diagnosis["instruction"]),
        (&1.into(), &"r1 = *(u8 *)(r1 + 4)".into()),
        "{diagnosis:#}"
    );
    let text = String::from_utf8(tidegate(&["verify", object.to_str().unwrap()]).stdout).expect("text");
    for part in ["instruction 1 in policy: r1 = *(u8 *)(r1 + 4)", "compile with -g to see the source line"] {
        assert!(text.contains(part), "{part:?} is missing in:\n{text}");
    }
}

/// bpftrace#4308: one did not know whether a document comes, or one a line.
#[test]
fn what_is_asked_for_once_is_one_document_on_one_line() {
    let probes = format!("{LOADER}/tests/fixtures/probes.o");
    let capture = format!("{LOADER}/../examples/captures/http-get.pcap");
    for arguments in [
        &["version"][..],
        &["feature", "list"],
        &["verify", &probes],
        &["verify", "nowhere.o"],
        &["prog", "dump", &probes],
        &["prog", "run", &probes, "--prog", "mark", "--pcap", &capture],
        &["abi", "dump", "c"],
        &["schema"],
    ] {
        let text = String::from_utf8(tidegate(&[&["-j"], arguments].concat()).stdout).expect("text");
        assert_eq!(text.lines().count(), 1, "{arguments:?}: {text}");
        let pretty = String::from_utf8(tidegate(&[&["-p"], arguments].concat()).stdout).expect("text");
        let documents =
            [text, pretty].map(|text| serde_json::from_str::<Value>(&text).expect("one document"));
        assert_eq!(documents[0], documents[1], "{arguments:?}");
    }
}

/// bpftrace#3554: what was asked for was somewhere in pages of text, which programs had to take apart.
#[test]
fn what_people_read_is_short_and_what_programs_read_is_whole() {
    let features = format!("{LOADER}/tests/fixtures/features.o");
    let text = String::from_utf8(tidegate(&["verify", &features]).stdout).expect("text");
    let told = document(&["verify", &features]);
    let programs = told["objects"][0]["programs"].as_array().expect("programs");
    assert_eq!(programs.len(), 3, "{told:#}");
    let maps: usize = programs.iter().map(|program| program["maps"].as_array().map_or(0, Vec::len)).sum();
    // A heading, four lines a program, a line a map; what it came to in the end.
    assert!(text.lines().count() <= 2 + 4 * programs.len() + maps, "{text}");
    assert!(text.lines().all(|line| line.len() <= 120), "{text}");
    for program in programs {
        for member in ["name", "type", "insns", "maps", "max_cost", "steps", "states", "capabilities"] {
            assert!(!program[member].is_null(), "{member}: {program:#}");
        }
        assert!(text.contains(program["name"].as_str().expect("text")), "{text}");
    }
}

/// ebpf-for-windows#1683: what the system said was passed on as a number.
#[test]
#[cfg(not(windows))]
fn a_driver_that_is_not_there_is_told_with_what_to_do() {
    for verb in [["prog", "show"], ["link", "show"], ["map", "show"]] {
        let error = document(&verb)["error"].clone();
        assert_eq!(error["exit"], 3, "{error}");
        assert!(error["help"].as_str().is_some_and(|help| !help.is_empty()), "{verb:?}: {error}");
    }
}

/// aya#36, bcc#2342, pixie#709: nothing could be tested without root and a kernel.
#[test]
#[cfg(unix)]
fn policies_are_tested_without_any_privilege() {
    let folder = folder("unprivileged");
    let scenario = "objects = [\"probes.o\"]\nprogram = \"without_x\"\n[[scenario]]\nname = \"a\"\n\
                    steps = [{ send = \"axb\" }]\nexpect = { sent = \"ab\" }\n";
    fs::write(folder.join("probe.toml"), scenario).expect("a file");
    let id = Command::new("id").arg("-u").output().expect("id runs");
    let root = id.stdout == b"0\n";
    let mut command = if root {
        let mut command = Command::new("setpriv");
        command.args(["--bounding-set=-all", "--inh-caps=-all", "--no-new-privs", "--"]);
        command.arg(env!("CARGO_BIN_EXE_tidegate"));
        command
    } else {
        Command::new(env!("CARGO_BIN_EXE_tidegate"))
    };
    let fixtures = format!("{LOADER}/tests/fixtures");
    let output = command.args(["test", "--objects", &fixtures]).arg(&folder).output().expect("it starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// rezolus#1047: what was not counted was left out, and passed for something else.
#[test]
fn what_is_counted_is_always_told() {
    let capture = format!("{LOADER}/../examples/captures/http-get.pcap");
    let probes = format!("{LOADER}/tests/fixtures/probes.o");
    let told = document(&["prog", "run", &probes, "--prog", "constant", "--pcap", &capture]);
    for count in ["runs", "verdicts", "errors", "edited", "injected"] {
        assert!(!told["connections"][0][count].is_null(), "{count}: {told:#}");
    }
    for verdict in tidegate_abi::Verdict::ALL.map(tidegate_abi::Verdict::name) {
        assert!(told["connections"][0]["verdicts"][verdict].is_u64(), "{verdict}: {told:#}");
    }
}

/// rustinel#441: places in structures of another version were compiled in, and read without a word.
#[test]
fn what_was_compiled_against_other_tables_is_refused() {
    let refused = |object: &Path| {
        let error = document(&["verify", object.to_str().unwrap()])["error"].clone();
        assert_eq!((&error["code"], &error["exit"]), (&"object-abi".into(), &1.into()), "{error}");
        let message = error["message"].as_str().unwrap();
        let now = tidegate_abi::API_VERSION;
        assert!(message.contains(&format!("version {}, and this is {now}", now + 1)), "{message}");
    };
    let (now, next) = (tidegate_abi::API_VERSION, tidegate_abi::API_VERSION + 1);
    let folder = folder("abi");
    let text = fs::read_to_string(header().join("tidegate.h")).expect("the header");
    let define = |version| format!("#define TIDEGATE_API_VERSION {version}\n");
    assert!(text.contains(&define(now)));
    fs::write(folder.join("tidegate.h"), text.replace(&define(now), &define(next))).expect("a header");
    let source = "#include <tidegate.h>\nSEC(\"tidegate/stream\") int policy(struct tidegate_stream *ctx) { \
                  return ctx->direction; }\n";
    refused(&compiled(&folder, &folder, source));

    let made = Command::new(env!("CARGO_BIN_EXE_tidegate"))
        .args(["gen", "skeleton", "rust", "mine"])
        .current_dir(&folder)
        .status();
    assert!(made.expect("the command starts").success());
    let bindings = folder.join("mine/tidegate-sdk/bindings.rs");
    let text = fs::read_to_string(&bindings).expect("the SDK's bindings");
    let constant = |version| format!("API_VERSION: u16 = {version};");
    assert!(text.contains(&constant(now)));
    fs::write(&bindings, text.replace(&constant(now), &constant(next))).expect("bindings");
    let built = Command::new("sh").arg("mine/build.sh").current_dir(&folder).status();
    assert!(built.expect("a shell").success());
    refused(&folder.join("mine/mine-rs.o"));
}

/// The tests of a file, by name.
fn tests(path: &str) -> Vec<String> {
    let text = fs::read_to_string(Path::new(LOADER).join("..").join(path)).unwrap_or_default();
    let mut is_test = false;
    let mut names = Vec::new();
    for line in text.lines().map(str::trim) {
        match line.strip_prefix("fn ").and_then(|rest| rest.split_once('(')) {
            Some((name, _)) if is_test => names.push(name.to_string()),
            _ => {}
        }
        // Attributes and the function follow each other.
        is_test = line == "#[test]" || (is_test && line.starts_with("#[") && !line.starts_with("#[ignore"));
    }
    names
}

/// A row of the page names tests that are there, or says why there is none; and each test here is one of a row.
#[test]
fn the_page_of_complaints_names_tests_that_are_there() {
    let page = fs::read_to_string(Path::new(LOADER).join("../docs/complaints.md")).expect("the page");
    let rows: Vec<_> =
        page.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| Complaint")).collect();
    assert!(rows.len() >= 52, "there were more");
    for row in &rows {
        let held = row.trim_end_matches(" |").rsplit("| ").next().unwrap_or_default();
        if held.starts_with("none: ") {
            continue;
        }
        let named: Vec<_> = held.split('`').skip(1).step_by(2).collect();
        assert!(!named.is_empty(), "no test holds this: {row}");
        for name in named {
            let (path, test) = name.split_once("::").unwrap_or_else(|| panic!("{name} is no test: {row}"));
            assert!(tests(path).iter().any(|known| known == test), "there is no {name}: {row}");
        }
    }
    let here = tests("loader/tests/complaints.rs");
    assert!(here.len() > 5, "they are found: {here:?}");
    for test in here.iter().filter(|test| !test.starts_with("the_page_of_complaints")) {
        let named = rows.iter().any(|row| row.contains(&format!("`loader/tests/complaints.rs::{test}`")));
        assert!(named, "no row of docs/complaints.md names {test}");
    }
}

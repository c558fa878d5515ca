//! The command line as scripts see it: exit codes, text, JSON.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

const C: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/features.o");
const RUST: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/features-rs.o");

struct Ran {
    exit: i32,
    out: String,
    err: String,
}

fn tidegate(args: &[&str]) -> Ran {
    let output =
        Command::new(env!("CARGO_BIN_EXE_tidegate")).args(args).output().expect("the command starts");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("output is text");
    Ran {
        exit: output.status.code().expect("it ends by itself"),
        out: text(output.stdout),
        err: text(output.stderr),
    }
}

fn json(ran: &Ran) -> Value {
    assert!(ran.err.is_empty(), "a JSON answer is on the standard output: {}", ran.err);
    let document: Value = serde_json::from_str(&ran.out).expect("one JSON document");
    assert_eq!(document["schema"], 1);
    document
}

/// A file of this test alone, with `bytes`.
fn file(name: &str, bytes: &[u8]) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    fs::write(&path, bytes).expect("the file can be written");
    path
}

/// The object of the C fixture with the call of `tidegate_find` made into something that is no instruction.
fn broken(name: &str) -> PathBuf {
    let mut bytes = fs::read(C).expect("the fixture is there");
    let call = [0x85, 0, 0, 0, 3, 0, 1, 0];
    let at = bytes.windows(8).position(|slot| slot == call).expect("the fixture calls tidegate_find");
    bytes[at] = 0xff;
    file(name, &bytes)
}

#[test]
fn verify_says_what_was_accepted_and_what_it_may_do() {
    for object in [C, RUST] {
        let ran = tidegate(&["verify", object]);
        assert_eq!(ran.exit, 0, "{}{}", ran.out, ran.err);
        assert!(ran.out.contains("watch") && ran.out.contains("accepted"), "{}", ran.out);
        assert!(ran.out.contains("counts (hash, 16 entries, 16 bytes to 8)"), "{}", ran.out);
    }
    let document = json(&tidegate(&["-j", "verify", C]));
    assert_eq!(document["accepted"], 3);
    assert_eq!(json(&tidegate(&["-j", "verify", C, RUST]))["accepted"], 4, "more than one object at a time");
    let watch = &document["objects"][0]["programs"][1];
    assert_eq!(
        (&watch["name"], &watch["type"], &watch["verdict"]),
        (&"watch".into(), &"stream".into(), &"accepted".into())
    );
    assert!(watch["max_cost"].as_u64() > Some(0), "{watch}");
}

#[test]
fn verify_tells_about_every_file_and_ends_with_the_highest_code() {
    let (refused, empty) = (broken("several.o"), file("several-empty.o", b""));
    let (refused, empty) = (refused.to_str().unwrap(), empty.to_str().unwrap());
    let ran = tidegate(&["verify", refused, "nowhere.o", empty, RUST]);
    assert_eq!((ran.exit, ran.err.as_str()), (5, ""), "{}", ran.out);
    for part in [
        "error[TG0101]",
        "nowhere.o\nerror[file-not-found]: cannot read nowhere.o",
        "error[object-elf]",
        "watch (send): accepted",
        "3 accepted, 1 refused; 2 files could not be read",
    ] {
        assert!(ran.out.contains(part), "{part:?} is missing in:\n{}", ran.out);
    }
    for (files, exit) in [([refused, empty], 2), ([empty, RUST], 1), ([C, RUST], 0)] {
        assert_eq!(tidegate(&["verify", files[0], files[1]]).exit, exit, "{files:?}");
    }
    let document = json(&tidegate(&["-j", "verify", C, "nowhere.o"]));
    assert_eq!((&document["accepted"], &document["unread"]), (&3.into(), &1.into()));
    assert_eq!(document["objects"][1]["error"]["code"], "file-not-found");

    let log: Value =
        serde_json::from_str(&tidegate(&["verify", "--sarif", refused, "nowhere.o"]).out).unwrap();
    let run = &log["runs"][0];
    assert_eq!(run["results"].as_array().map(Vec::len), Some(1));
    assert_eq!(run["invocations"][0]["executionSuccessful"], false);
    assert_eq!(run["invocations"][0]["toolExecutionNotifications"][0]["descriptor"]["id"], "file-not-found");
    let both = tidegate(&["-j", "verify", "--sarif", C]);
    assert_eq!((both.exit, json(&both)["error"]["code"].as_str()), (1, Some("verify-sarif")));
}

#[test]
fn verify_is_a_verb_of_programs_too() {
    for args in [&[C, RUST][..], &["--explain", "TG0101"], &["--sarif", C], &["no-such-file.o"]] {
        let [short, long] =
            [&["verify"][..], &["prog", "verify"]].map(|verb| tidegate(&[verb, args].concat()));
        assert_eq!((short.exit, short.out, short.err), (long.exit, long.out, long.err), "{args:?}");
    }
    assert_eq!(json(&tidegate(&["-j", "prog", "verify", C]))["accepted"], 3);
}

#[test]
fn a_refused_program_is_shown_with_its_source_line_and_a_hint() {
    let object = broken("refused.o");
    let object = object.to_str().unwrap();
    let ran = tidegate(&["verify", object]);
    assert_eq!(ran.exit, 2);
    for part in [
        "error[TG0101]",
        "features.c:63",
        "return tidegate_find(ctx, 0, \"needle\", 6) >= 0",
        "in watch: not an instruction: ff",
        "help: ",
        "2 accepted, 1 refused",
    ] {
        assert!(ran.out.contains(part), "{part:?} is missing in:\n{}", ran.out);
    }
    let document = json(&tidegate(&["-j", "verify", object]));
    let diagnosis = &document["objects"][0]["programs"][1]["diagnosis"];
    assert_eq!((&diagnosis["code"], &diagnosis["source"]["line"]), (&"TG0101".into(), &63.into()));
    assert_eq!(tidegate(&["-j", "verify", object]).exit, 2);
}

#[test]
fn a_dump_shows_the_source_the_names_and_on_request_the_bytes() {
    let ran = tidegate(&["prog", "dump", C]);
    assert_eq!(ran.exit, 0, "{}", ran.err);
    for part in
        ["map counts", "call bpf_map_lookup_elem", "call is_watched", "&.rodata.str1.1[0]", "seen += 1;"]
    {
        assert!(ran.out.contains(part), "{part:?} is missing in:\n{}", ran.out);
    }
    assert!(!ran.out.contains("85 00 00 00 03 00 01 00"));
    let ran = tidegate(&["prog", "dump", C, "opcodes", "--program", "watch"]);
    assert!(ran.out.contains("85 00 00 00 03 00 01 00"), "{}", ran.out);
    assert!(!ran.out.contains("program second"), "only the program that was asked for");
    let ran = tidegate(&["prog", "dump", C, "proofs", "--program", "watch"]);
    assert!(ran.out.contains("in every run map = map counts"), "{}{}", ran.out, ran.err);
    let document = json(&tidegate(&["-j", "prog", "dump", RUST]));
    assert_eq!(document["programs"][0]["functions"][1]["name"], "features::count");
}

#[test]
fn a_dump_is_of_what_runs_and_opcodes_adds_the_bytes() {
    let [plain, xlated, opcodes] = [&[][..], &["xlated"], &["opcodes"]]
        .map(|detail| tidegate(&[&["prog", "dump", C], detail].concat()).out);
    assert_eq!(plain, xlated);
    assert_ne!(xlated, opcodes);
    let without: Vec<_> = opcodes.lines().filter(|line| !line.starts_with("        ")).collect();
    assert_eq!(without, xlated.lines().collect::<Vec<_>>());
}

#[test]
fn a_visual_dump_is_a_graph_of_blocks_with_their_source() {
    let ran = tidegate(&["prog", "dump", C, "visual"]);
    assert_eq!(ran.exit, 0, "{}", ran.err);
    assert!(ran.out.starts_with("digraph programs {") && ran.out.ends_with("}\n"), "{}", ran.out);
    for part in [
        "label=\"is_watched (stream of program watch)\"",
        "call bpf_map_lookup_elem\\l",
        "features.c:63  return tidegate_find(ctx, 0, \\\"needle\\\", 6) >= 0",
        "&amp;.rodata.str1.1[0]",
        " [label=yes];",
        " [label=no, style=dashed];",
    ] {
        assert!(ran.out.contains(part), "{part:?} is missing in:\n{}", ran.out);
    }
    let boxes = ran.out.lines().filter(|line| line.starts_with("    \"0_") || line.starts_with("    \"1_"));
    for one in boxes {
        assert!(one.contains("[label=\"; ./features.c:"), "each begins with its line: {one}");
    }
    // A line is an edge, a box, or what opens and closes a frame: in each, quotes come in pairs.
    for line in ran.out.lines() {
        let plain = line.replace("\\\\", "").replace("\\\"", "");
        assert_eq!(plain.matches('"').count() % 2, 0, "{line}");
    }
    let document = json(&tidegate(&["-j", "prog", "dump", C, "visual", "--program", "watch"]));
    let blocks = document["programs"][0]["functions"][0]["blocks"].as_array().expect("blocks");
    let next = blocks.iter().flat_map(|block| block["next"].as_array().expect("edges"));
    assert!(
        next.clone().any(|next| next["taken"] == true) && next.clone().any(|next| next["taken"] == false)
    );
    for next in next {
        assert!(blocks.iter().any(|block| block["slot"] == next["slot"]), "{next}");
    }
}

#[test]
fn the_abi_dump_in_c_is_the_committed_header() {
    let header = concat!(env!("CARGO_MANIFEST_DIR"), "/../programs/include/tidegate.h");
    assert_eq!(tidegate(&["abi", "dump", "c"]).out, fs::read_to_string(header).unwrap());
    assert!(tidegate(&["abi", "dump", "rust"]).out.contains("pub struct StreamContext"));
}

#[test]
fn features_and_versions_come_from_the_tables() {
    let document = json(&tidegate(&["-j", "feature", "list"]));
    let helpers = document["helpers"].as_array().unwrap();
    assert_eq!(helpers.len(), tidegate_abi::helper::HELPERS.len());
    assert_eq!(document["verdicts"].as_array().unwrap().len(), tidegate_abi::Verdict::ALL.len());
    let document = json(&tidegate(&["-j", "feature", "list", "capabilities"]));
    let rows = document["capabilities"].as_array().unwrap();
    let names: Vec<_> = rows.iter().map(|row| row["name"].as_str().unwrap()).collect();
    assert_eq!(names, tidegate_abi::helper::Capability::NAMED.map(|(_, name)| name));
    assert!(rows[2]["helpers"].as_array().unwrap().contains(&"tidegate_stream_inject".into()), "{document}");
    let document = json(&tidegate(&["-j", "feature", "list", "maps"]));
    assert!(document.get("helpers").is_none() && document["maps"].is_array());
    let document = json(&tidegate(&["-j", "version"]));
    assert_eq!(document["abi"], tidegate_abi::API_VERSION);
    assert!(document["host"].is_null(), "none is named: {document}");
    let ran = tidegate(&["--host", "/nowhere/at-all", "version"]);
    assert_ne!(ran.exit, 0, "what was named must answer");
    assert!(
        ran.out.starts_with("tidegate") && ran.out.contains("host         /nowhere/at-all\n  error["),
        "{}",
        ran.out
    );
    let document = json(&tidegate(&["-j", "--host", "/nowhere/at-all", "version"]));
    assert!(document["host"]["error"]["code"].is_string(), "{document}");
}

#[test]
fn errors_have_a_code_an_exit_and_a_way_out() {
    let empty = file("empty.o", b"");
    let cut = file("cut.o", &fs::read(C).unwrap()[..3000]);
    let (empty, cut) = (empty.to_str().unwrap(), cut.to_str().unwrap());
    for (args, exit, code) in [
        (["verify", "no-such-file.o"].as_slice(), 5, "file-not-found"),
        (&["prog", "dump", "no_such_program"], 5, "file-not-found"),
        (&["test", "--record", "no-such.pcap", "--name", ""], 1, "usage"),
        (&["verify", empty], 1, "object-elf"),
        (&["verify", cut], 1, "object-damaged"),
        (&["verify", env!("CARGO_MANIFEST_DIR")], 1, "file-io"),
        (&["verify", env!("CARGO_BIN_EXE_tidegate")], 1, "object-elf"),
        (&["prog", "dump", C, "--program", "nobody"], 5, "program-not-found"),
        (&["frobnicate"], 1, "usage"),
        (&["verify"], 1, "usage"),
        (&["abi", "dump", "fortran"], 1, "usage"),
    ] {
        let ran = tidegate(args);
        assert_eq!(ran.exit, exit, "{args:?}: {}{}", ran.out, ran.err);
        assert!(ran.out.is_empty() && ran.err.starts_with("error"), "{args:?}: {}{}", ran.out, ran.err);
        let ran = tidegate(&[&["-j"], args].concat());
        assert_eq!(ran.exit, exit, "{args:?}");
        let error = &json(&ran)["error"];
        assert_eq!((&error["code"], &error["exit"]), (&code.into(), &exit.into()), "{args:?}");
        assert!(!error["message"].as_str().unwrap().is_empty());
    }
}

#[test]
fn help_is_a_result_and_names_every_verb() {
    let ran = tidegate(&["--help"]);
    assert_eq!(ran.exit, 0);
    for verb in ["verify", "prog", "test", "abi", "feature", "version", "Exit codes"] {
        assert!(ran.out.contains(verb), "{verb}");
    }
    assert_eq!(tidegate(&["help", "prog", "dump"]).exit, 0);
}

#[test]
fn completions_know_every_noun() {
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let script = tidegate(&["completions", shell]);
        assert_eq!(script.exit, 0, "{}", script.err);
        for noun in ["verify", "prog", "test", "proxy", "gen", "doctor", "completions"] {
            assert!(script.out.contains(noun), "{shell}: {noun}");
        }
    }
}

#[cfg(target_os = "linux")]
#[test]
fn how_far_it_is_is_shown_on_a_terminal_and_nowhere_else() {
    // `script` gives the command a terminal of its own.
    let on_terminal = |args: &[&str]| {
        let command = [&[env!("CARGO_BIN_EXE_tidegate")], args, &["verify", C, RUST]].concat().join(" ");
        let output = Command::new("script").args(["-qec", &command, "/dev/null"]).output();
        String::from_utf8(output.expect("`script` starts").stdout).expect("text")
    };
    let told = format!("0 of 2: {C}").chars().take(78).collect::<String>();
    let ran = on_terminal(&[]);
    assert!(ran.contains(&told) && ran.contains("4 accepted, 0 refused"), "{ran}");
    for args in [&["-q"][..], &["--quiet"], &["-j"]] {
        let ran = on_terminal(args);
        assert!(!ran.contains("of 2:"), "{args:?}: {ran}");
    }
    assert_eq!(tidegate(&["verify", C, RUST]).err, "");
}

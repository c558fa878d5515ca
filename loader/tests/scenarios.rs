//! `tidegate test`: what holds passes, what does not fails with the cuts that show it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use tidegate::capture::{CaptureWriter, Flags};
use tidegate::cli::Report as _;
use tidegate::error::{Error, Exit};
use tidegate::test::{self, Options};

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures");

/// A folder of one test alone, with a scenario file in it.
fn folder(name: &str, text: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("scenarios-{name}"));
    fs::create_dir_all(&folder).expect("a folder");
    fs::write(folder.join("probe.toml"), text).expect("a file");
    folder
}

fn options(path: PathBuf) -> Options {
    Options {
        paths: vec![path],
        objects: Some(FIXTURES.into()),
        seed: 1,
        runs: 300,
        filter: None,
        list: false,
        record: test::Wanted::default(),
        bless: false,
        junit: None,
        sarif: None,
        coverage: false,
        lcov: None,
        html: None,
    }
}

/// Runs the scenarios of `text` with one of the probes: the exit, the report as JSON and as text.
fn tested(name: &str, program: &str, text: &str) -> (Exit, Value, String) {
    let text = format!("objects = [\"probes.o\"]\nprogram = \"{program}\"\n{text}");
    let report = test::run(&options(folder(name, &text))).unwrap_or_else(|error| panic!("{error}"));
    (report.exit(), serde_json::to_value(&report).expect("JSON"), report.to_string())
}

fn passes(name: &str, program: &str, text: &str) -> Value {
    let (exit, value, text) = tested(name, program, text);
    assert_eq!((exit, &value["failed"]), (Exit::Ok, &0.into()), "{text}");
    value
}

fn fails(name: &str, program: &str, text: &str) -> (Value, String) {
    let (exit, value, text) = tested(name, program, text);
    assert_eq!((exit, &value["passed"]), (Exit::Partial, &0.into()), "{text}");
    (value["scenarios"][0]["failure"].clone(), text)
}

fn refused(name: &str, text: &str) -> Error {
    test::run(&options(folder(name, text))).expect_err("refused")
}

#[test]
fn what_does_not_depend_on_cuts_passes_under_all_of_them() {
    let value = passes(
        "without-x",
        "without_x",
        r#"
        [[scenario]]
        name = "no x leaves"
        steps = [{ send = "axxbxc" }, { receive = "xyz" }, { send = "x" }, { fin = "send" }]
        [scenario.expect]
        sent = "abc"
        received = "yz"
        verdicts = ["permit", "block"]
        "#,
    );
    let tried = &value["scenarios"][0]["tried"];
    assert_eq!(
        (&tried["single"], &tried["of_single"], &tried["bytewise"]),
        (&7.into(), &7.into(), &true.into())
    );
    assert_eq!(tried["pairs"], tried["of_pairs"]);
    assert_eq!(value["runs"], 300);
}

#[test]
fn a_policy_that_depends_on_cuts_fails_with_the_cut_that_shows_it() {
    let (failure, text) = fails(
        "first-q",
        "drop_first_q",
        "[[scenario]]\nname = \"a q is dropped wherever it is\"\nsteps = [{ send = \"the quick fox\" }]\n[scenario.expect]\nsent = \"unchanged\"",
    );
    assert_eq!(failure["cuts"], serde_json::json!([4]), "{text}");
    assert_eq!(failure["wrong"][0], "the connection was dropped");
    assert!(text.contains("probe.toml:3: cut at 4\n"), "{text}");
    assert!(text.contains("FAILED: 0 passed, 1 failed; "), "{text}");
}

#[test]
fn bytes_that_depend_on_cuts_fail_even_when_nobody_says_what_they_should_be() {
    let (failure, text) = fails(
        "mark",
        "mark",
        "[[scenario]]\nname = \"marked\"\nsteps = [{ send = \"abcdef\" }]\n[scenario.expect]\nsent_contains = [\"[mark]\"]",
    );
    assert_eq!(failure["cuts"].as_array().expect("cuts").len(), 1, "{text}");
    assert!(
        failure["wrong"][0]
            .as_str()
            .expect("words")
            .starts_with("sent is not what it is under the given cuts"),
        "{text}"
    );
    passes(
        "mark-given",
        "mark",
        "[[scenario]]\nname = \"marked\"\nsegmentation = \"given\"\nsteps = [{ send = \"a\" }, { send = \"b\" }]\n[scenario.expect]\nsent = \"[mark]a[mark]b\"",
    );
}

#[test]
fn each_expectation_fails_when_it_does_not_hold() {
    let one = |name: &str, program: &str, expect: &str| {
        let text = format!(
            "[[scenario]]\nname = \"x\"\nsteps = [{{ send = \"a q\" }}]\n[scenario.expect]\n{expect}"
        );
        let (failure, _) = fails(name, program, &text);
        failure["wrong"][0].as_str().expect("words").to_string()
    };
    assert_eq!(one("e1", "constant", "connection = \"dropped\""), "the connection was not dropped");
    assert_eq!(one("e2", "drop_q", ""), "the connection was dropped");
    assert_eq!(one("e3", "constant", "sent = \"a x\"").split(';').next(), Some("sent: 3 bytes, expected 3"));
    assert_eq!(
        one("e4", "constant", "received = \"x\"").split(';').next(),
        Some("received: 0 bytes, expected 1")
    );
    assert_eq!(one("e5", "constant", "sent_lacks = [\"q\"]"), "sent: \"q\" occurs");
    assert_eq!(
        one("e6", "constant", "verdicts = [\"permit\"]"),
        "the verdicts were continue, expected permit"
    );
    assert_eq!(one("e7", "constant", "errors = 1"), "0 runs failed, expected 1");
    assert_eq!(one("e8", "account", "events = { losses = [\"str:x\"] }"), "losses: 0 records, expected 1");
    assert_eq!(one("e9", "account", "maps.bytes = { 0 = 4 }"), "map bytes: `0` is 3, expected 4");
    assert_eq!(one("e10", "fails", "connection = \"dropped\""), "1 runs failed, expected 0");
    assert_eq!(one("e11", "constant", "maps.none = { 0 = 4 }"), "the object has no map `none`");
}

#[test]
fn other_connections_do_the_first_step_and_what_they_tell_is_not_looked_at() {
    passes(
        "beside",
        "account",
        r#"
        [[scenario]]
        name = "four connections in all"
        segmentation = "given"
        beside = 3
        steps = [{ send = "abc", missed = 7 }, { send = "d" }]
        [scenario.expect]
        maps.bytes = { 0 = 13, 1 = 0 }
        events = { losses = ["hex:07"] }
        verdicts = ["continue"]
        "#,
    );
}

#[test]
fn every_run_starts_from_the_same_maps() {
    passes(
        "account",
        "account",
        r#"
        [maps.bytes]
        0 = 100
        [[scenario]]
        name = "bytes are counted"
        steps = [{ send = "abcdef" }, { receive = "gh", missed = 7 }]
        [scenario.expect]
        maps.bytes = { 0 = 106, 1 = 2 }
        events = { losses = ["hex:07"] }
        verdicts = ["continue"]
        "#,
    );
}

#[test]
fn packets_are_held_against_what_is_said_of_them() {
    let text = r#"
        [maps.ports]
        53 = 1
        54 = 2
        [[scenario]]
        name = "by port"
        steps = [
            { udp = "a" , to = "192.0.2.1:80" },
            { udp = "a" , to = "192.0.2.1:53", is = "blocked" },
            { udp = "abc" , to = "192.0.2.1:54", becomes = "!!!bc" },
            { udp = "abc" , from = "[fd00::2]:9", to = "[fd00::1]:54", is = "changed" },
            { tcp = "abc" , to = "192.0.2.1:53", is = "blocked" },
        ]
        [scenario.expect]
        packets = { sent = 1, blocked = 2, changed = 2 }
    "#;
    passes("by-port", "by_port", text);
    let (failure, _) =
        fails("by-port-wrong", "by_port", &text.replace("!!!bc", "!!bc").replace("sent = 1", "sent = 2"));
    assert_eq!(failure["wrong"].as_array().expect("words").len(), 2);
}

#[test]
fn where_a_packet_leaves_for_and_its_type_of_service_are_looked_at() {
    for (name, step, wrong) in [
        ("tos", "tos = 184", "the type of service that it left with is none of its own, expected 184"),
        (
            "leaves-for",
            "leaves_for = \"192.0.2.1:5353\"",
            "it left for somewhere else, expected 192.0.2.1:5353",
        ),
    ] {
        let text = format!("[[scenario]]\nname = \"x\"\nsteps = [{{ udp = \"a\", {step} }}]");
        let (failure, _) = fails(name, "by_port", &text);
        assert_eq!(failure["wrong"][0], format!("step 1: {wrong}"));
    }
}

#[test]
fn a_seed_repeats_a_run() {
    let text = "[[scenario]]\nname = \"x\"\nsteps = [{ send = \"fill:50:a\" }, { send = \"qfill\" }]";
    let text = format!("objects = [\"probes.o\"]\nprogram = \"drop_first_q\"\n{text}");
    let path = folder("seed", &text);
    let failure = |seed| {
        let report = test::run(&Options { seed, ..options(path.clone()) }).expect("a report");
        serde_json::to_value(&report).expect("JSON")["scenarios"][0]["failure"].clone()
    };
    assert_eq!(failure(5), failure(5));
    assert_eq!(failure(5)["wrong"], failure(6)["wrong"]);
}

#[test]
fn scenarios_are_chosen_and_listed_by_name() {
    let scenario = |name: &str| format!("[[scenario]]\nname = \"{name}\"\nsteps = [{{ send = \"a\" }}]\n");
    let text =
        format!("objects = [\"probes.o\"]\nprogram = \"constant\"\n{}{}", scenario("one"), scenario("two"));
    let path = folder("names", &text);
    let chosen =
        test::run(&Options { filter: Some("wo".into()), ..options(path.clone()) }).expect("a report");
    let value = serde_json::to_value(&chosen).expect("JSON");
    assert_eq!((&value["passed"], &value["scenarios"][0]["scenario"]), (&1.into(), &"two".into()));
    for list in [false, true] {
        let none = test::run(&Options { filter: Some("zzz".into()), list, ..options(path.clone()) });
        let none = none.expect_err("nothing was tested, and that is no success");
        assert_eq!((none.code, none.exit), ("test-none", Exit::NotFound));
    }
    let list = test::run(&Options { list: true, ..options(path) }).expect("a report");
    let value = serde_json::to_value(&list).expect("JSON");
    assert_eq!((&value["passed"], &value["failed"], &value["runs"]), (&0.into(), &0.into(), &0.into()));
    assert!(value["scenarios"][0]["passed"].is_null(), "it was not run: {value}");
    assert!(
        list.to_string().contains("     3  one\n") && list.to_string().ends_with("2 scenarios\n"),
        "{list}"
    );
}

#[test]
fn junit_has_a_case_for_each_scenario_and_the_smallest_cut_of_a_failure() {
    let text = "objects = [\"probes.o\"]\nprogram = \"drop_first_q\"\n\
        [[scenario]]\nname = \"holds & <is> shown\"\nsteps = [{ send = \"ab\" }]\n\
        [[scenario]]\nname = \"depends on the cut\"\nsteps = [{ send = \"abq\" }]\n";
    let path = folder("junit", text);
    let junit = path.join("junit.xml");
    test::run(&Options { junit: Some(junit.clone()), ..options(path) }).expect("a report");
    let file = fs::File::open(junit).expect("written");
    let document = quick_junit::Report::deserialize(std::io::BufReader::new(file)).expect("JUnit XML");
    assert_eq!((document.tests, document.failures), (2, 1));
    let [suite] = &document.test_suites[..] else { panic!("one build is one suite") };
    let [holds, fails] = &suite.test_cases[..] else { panic!("two scenarios") };
    assert_eq!(holds.name.as_str(), "holds & <is> shown");
    let quick_junit::TestCaseStatus::NonSuccess { description, .. } = &fails.status else {
        panic!("it fails: {fails:?}")
    };
    assert!(description.as_ref().is_some_and(|text| text.as_str().contains("cut at 2")), "{description:?}");
}

#[test]
fn what_cannot_be_tested_is_an_error_that_says_what_to_do() {
    let nothing = Path::new(env!("CARGO_TARGET_TMPDIR")).join("scenarios-empty");
    fs::create_dir_all(&nothing).expect("a folder");
    let error = test::run(&options(nothing)).expect_err("refused");
    assert_eq!((error.code, error.exit), ("scenario-none", Exit::NotFound));
    let error = test::run(&options("/none".into())).expect_err("refused");
    assert_eq!((error.code, error.exit), ("file-not-found", Exit::NotFound));

    let steps = "[[scenario]]\nname = \"x\"\nsteps = [{ send = \"a\" }]";
    let error = refused("no-object", &format!("objects = [\"none.o\"]\n{steps}"));
    assert_eq!((error.code, error.exit), ("object-not-found", Exit::NotFound));
    let error = refused("broken", "[[scenario]]\nname = \"x\"\nstep = 1");
    assert_eq!((error.code, error.exit), ("scenario-malformed", Exit::Usage));
    assert!(error.message.contains("probe.toml:3: unknown field `step`"), "{error}");
}

#[test]
fn scenario_files_with_flipped_bits_never_do_harm() {
    let text = "objects = [\"probes.o\"]\nprogram = \"constant\"\n[maps.bytes]\n0 = 1\n[[scenario]]\nname = \"x\"\n\
        steps = [{ send = \"hex:00ff\" }, { fin = \"send\" }, { receive = \"fill:3:ab\" }]\n[scenario.expect]\nsent = \"unchanged\"\n";
    let path = folder("flipped", text);
    for at in 0..text.len() {
        let mut bytes = text.as_bytes().to_vec();
        bytes[at] ^= 1 << (at % 8);
        fs::write(path.join("probe.toml"), &bytes).expect("a file");
        let _ = test::run(&Options { runs: 5, ..options(path.clone()) }).map_err(|error| {
            assert!(!error.message.is_empty());
        });
    }
}

/// The line of the fixture's source that has this text, from 1.
fn line_of(text: &str) -> usize {
    let source = fs::read_to_string(format!("{FIXTURES}/probes.c")).expect("the source is there");
    source.lines().position(|line| line.contains(text)).expect("a line with this text") + 1
}

#[test]
fn what_was_run_of_the_source_is_told_by_line_and_branch() {
    let text = "objects = [\"probes.o\"]\nprogram = \"account\"\n[[scenario]]\nname = \"a\"\n\
                steps = [{ send = \"a\" }]\n";
    let folder = folder("coverage", text);
    fs::copy(format!("{FIXTURES}/probes.c"), folder.join("probes.c"))
        .expect("the source beside the scenarios");
    let options = Options {
        lcov: Some(folder.join("lcov.info")),
        html: Some(folder.join("html")),
        ..options(folder.clone())
    };
    let told = |options: &Options| {
        let report = test::run(options).expect("it can be used");
        (report.to_string(), serde_json::to_value(&report).expect("JSON"))
    };
    let (text, value) = told(&options);
    let lines = &value["coverage"]["files"][0]["lines"];
    let (looks, logs) = (line_of("if (missed)"), line_of("bpf_ringbuf_output(&losses"));
    assert!(lines[looks.to_string()]["runs"].as_u64() > Some(0), "{text}\n{lines:#}");
    assert_eq!(lines[logs.to_string()]["runs"], 0, "{text}");
    assert!(text.contains(&format!("never run: {logs}\n")), "{text}");
    assert_eq!(lines.get((logs + 100).to_string()), None, "other programs of the object are not this one's");

    let lcov = fs::read_to_string(folder.join("lcov.info")).expect("the tracefile");
    assert!(lcov.starts_with("TN:\nSF:") && lcov.ends_with("end_of_record\n"), "{lcov}");
    assert!(lcov.contains(&format!("DA:{logs},0\n")), "{lcov}");
    let number = |key: &str| lcov.lines().find_map(|line| line.strip_prefix(key)?.parse::<usize>().ok());
    let count = |key: &str, holds: fn(&str) -> bool| {
        lcov.lines().filter(|line| line.starts_with(key) && holds(line)).count()
    };
    let not_zero = |line: &str| !line.ends_with(",0") && !line.ends_with('-');
    assert_eq!(number("LF:"), Some(count("DA:", |_| true)));
    assert_eq!(number("LH:"), Some(count("DA:", not_zero)));
    assert_eq!(number("BRF:"), Some(count("BRDA:", |_| true)));
    assert_eq!(number("BRH:"), Some(count("BRDA:", not_zero)));
    let page = fs::read_to_string(folder.join("html/0-probes.c.html")).expect("a page for the file");
    assert!(page.contains("class=\"no\"") && page.contains("ctx-&gt;data"), "{page}");
    assert!(
        fs::read_to_string(folder.join("html/index.html")).expect("an index").contains("0-probes.c.html")
    );

    // With what it lacks, all is run.
    let more = "objects = [\"probes.o\"]\nprogram = \"account\"\n[[scenario]]\nname = \"a\"\n\
                steps = [{ send = \"a\", missed = 7 }]\n";
    fs::write(folder.join("probe.toml"), more).expect("a file");
    let (text, value) = told(&options);
    assert!(value["coverage"]["files"][0]["lines"][logs.to_string()]["runs"].as_u64() > Some(0), "{text}");
    assert!(!text.contains("never run"), "{text}");

    // Without the source there is nothing to tell, and that is told.
    fs::remove_file(folder.join("probes.c")).expect("it is there");
    let (text, value) = told(&options);
    assert_eq!(value["coverage"]["files"], serde_json::json!([]));
    assert!(
        value["coverage"]["unknown"][0].as_str().is_some_and(|path| path.ends_with("probes.o")),
        "{value:#}"
    );
    assert!(text.contains("probes.o: no line is known to come from a file beside the scenarios"), "{text}");
    let index = fs::read_to_string(folder.join("html/index.html")).expect("an index");
    assert!(index.contains("probes.o: no line is known"), "{index}");
}

/// Blesses the scenarios of `text` with one of the probes: the exit, the report as JSON and as text, and the file as it is then.
fn blessed(name: &str, program: &str, text: &str) -> (Exit, Value, String, String) {
    let text = format!("objects = [\"probes.o\"]\nprogram = \"{program}\"\n{text}");
    let folder = folder(name, &text);
    let options = Options { bless: true, ..options(folder.clone()) };
    let report = test::run(&options).unwrap_or_else(|error| panic!("{error}"));
    let now = fs::read_to_string(folder.join("probe.toml")).expect("the file is there");
    // Whatever was written: a second time there is nothing to do.
    let again = test::run(&options).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(again.exit(), report.exit());
    assert_eq!(fs::read_to_string(folder.join("probe.toml")).expect("the file is there"), now);
    (report.exit(), serde_json::to_value(&report).expect("JSON"), report.to_string(), now)
}

#[test]
fn what_came_out_becomes_what_is_expected_and_the_rest_of_the_file_stays() {
    let before = "# What is not said here stays.\n\
        [[scenario]]\nname = \"no x leaves\"  # as its name says\n\
        steps = [\n    { send = \"axbxc\" },  # in one piece\n    { receive = \"x\" },\n]\n\
        [scenario.expect]\nsent = \"axbxc\"  # the bytes\nverdicts = [\"continue\"]\n\n\
        # And this one holds.\n[[scenario]]\nname = \"holds\"\nsteps = [{ send = \"a\" }]\n";
    let (exit, value, text, now) = blessed("bless", "without_x", before);
    assert_eq!(exit, Exit::Ok, "{text}");
    let after = before.replace("sent = \"axbxc\"", "sent = \"abc\"").replace(
        "verdicts = [\"continue\"]\n",
        "verdicts = [\"permit\", \"block\"]\nreceived = \"nothing\"\n",
    );
    assert!(now.ends_with(&after), "{now}");
    assert_eq!((&value["passed"], &value["failed"]), (&2.into(), &0.into()));
    assert_eq!(value["blessed"][0]["expectations"], 3);
    assert_eq!(value["scenarios"][0]["blessing"]["changes"][0]["was"][0], "sent = \"axbxc\"  # the bytes");
    assert!(text.contains("          - sent = \"axbxc\"  # the bytes\n"), "{text}");
    assert!(text.contains("          + sent = \"abc\"  # the bytes\n"), "{text}");
    assert!(text.contains("blessed: 3 expectations in ") && text.contains("probe.toml\n"), "{text}");
}

#[test]
fn each_kind_of_expectation_is_blessed() {
    for (name, program, expect, now) in [
        ("b1", "constant", "connection = \"dropped\"", "connection = \"open\""),
        ("b2", "drop_q", "connection = \"open\"", "connection = \"dropped\""),
        ("b3", "constant", "sent = \"a x\"", "sent = \"unchanged\""),
        ("b4", "constant", "received = \"x\"", "received = \"unchanged\""),
        ("b5", "constant", "sent_lacks = [\"q\", \"z\"]", "sent_lacks = [\"z\"]"),
        ("b6", "constant", "verdicts = [\"permit\"]", "verdicts = [\"continue\"]"),
        ("b7", "constant", "errors = 1", "errors = 0"),
        ("b8", "account", "events = { losses = [\"str:x\"] }", "events = { losses = [] }"),
        ("b9", "account", "maps.bytes = { 0 = 4 }", "maps.bytes = { 0 = 3 }"),
        ("b10", "account", "maps.ports = { 7 = 4 }", "maps.ports = { 7 = \"absent\" }"),
    ] {
        let text = |expect: &str| {
            format!(
                "[[scenario]]\nname = \"x\"\nsteps = [{{ send = \"a q\" }}]\n[scenario.expect]\n{expect}\n"
            )
        };
        let (exit, value, said, file) = blessed(&format!("kind-{name}"), program, &text(expect));
        assert_eq!((exit, &value["blessed"][0]["expectations"]), (Exit::Ok, &1.into()), "{said}");
        assert!(file.ends_with(&text(now)), "{file}");
    }
    let packets = |steps: &str, totals: &str| {
        format!(
            "[maps.ports]\n53 = 1\n54 = 2\n[[scenario]]\nname = \"x\"\nsteps = [\n{steps}]\n[scenario.expect]\npackets = {{ {totals} }}\n"
        )
    };
    let before = packets(
        "    { udp = \"a\", to = \"192.0.2.1:80\", is = \"blocked\" },\n    { udp = \"abc\", to = \"192.0.2.1:53\", becomes = \"b\" },\n    { udp = \"abc\", to = \"192.0.2.1:54\", tos = 4 },\n",
        "sent = 2",
    );
    let after = packets(
        "    { udp = \"a\", to = \"192.0.2.1:80\" },\n    { udp = \"abc\", to = \"192.0.2.1:53\", is = \"blocked\" },\n    { udp = \"abc\", to = \"192.0.2.1:54\", becomes = \"!!!bc\" },\n",
        "sent = 1",
    );
    let (exit, _, said, file) = blessed("kind-packets", "by_port", &before);
    assert_eq!(exit, Exit::Ok, "{said}");
    assert!(file.ends_with(&after), "{file}");
}

#[test]
fn what_depends_on_the_cut_what_failed_and_what_cannot_run_is_never_blessed() {
    let steps = "[[scenario]]\nname = \"x\"\nsteps = [{ send = \"abqdef\" }]\n[scenario.expect]\n";
    for (name, program, expect, cause, why) in [
        (
            "n1",
            "drop_first_q",
            "sent = \"unchanged\"",
            "cuts",
            "what comes out depends on the cut; cut at 2: ",
        ),
        ("n2", "mark", "sent = \"x\"", "expectation", "what comes out depends on the cut; "),
        ("n3", "fails", "connection = \"open\"", "fault", "runs of the policy fail"),
        ("n4", "constant", "maps.none = { 0 = 1 }", "setup", "the policy can't be run"),
        ("n5", "constant", "events = { none = [] }", "setup", "the policy can't be run"),
    ] {
        let before = format!("{steps}{expect}\n");
        let (exit, value, said, file) = blessed(&format!("never-{name}"), program, &before);
        assert_eq!(exit, Exit::Partial, "{said}");
        assert!(file.ends_with(&before), "{file}");
        let failure = &value["scenarios"][0]["failure"];
        assert_eq!(failure["cause"], cause, "{said}");
        assert!(failure["not_blessed"].as_str().is_some_and(|said| said.starts_with(why)), "{failure:#}");
    }
}

#[test]
fn without_bless_nothing_is_written() {
    let text = "objects = [\"probes.o\"]\nprogram = \"constant\"\n[[scenario]]\nname = \"x\"\n\
        steps = [{ send = \"a\" }]\n[scenario.expect]\nsent = \"b\"\n";
    let folder = folder("unblessed", text);
    let report = test::run(&options(folder.clone())).expect("a report");
    assert_eq!(report.exit(), Exit::Partial);
    assert_eq!(fs::read_to_string(folder.join("probe.toml")).expect("the file is there"), text);
}

#[test]
fn blessing_what_passes_changes_no_byte() {
    let programs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../programs");
    let mut files = 0;
    for file in tidegate::scenario::Policy::find(&programs).expect("the policies are there") {
        let text = fs::read_to_string(&file).expect("it can be read");
        let editor = tidegate::scenario::edit::Editor::new(&text, &programs);
        assert_eq!(editor.expect("it stays as it is").text(), text, "{}", file.display());
        files += 1;
    }
    assert!(files > 10, "{files}");
    let text = "objects = [\"probes.o\"]\r\nprogram = 'constant'\r\n[[scenario]]\r\nname = \"x\"\r\nsteps = [{ send = \"a\" }]";
    let folder = folder("as-it-is", text);
    let report = test::run(&Options { bless: true, ..options(folder.clone()) }).expect("a report");
    assert_eq!((report.exit(), report.to_string().contains("blessed")), (Exit::Ok, false));
    assert_eq!(fs::read_to_string(folder.join("probe.toml")).expect("the file is there"), text);
}

#[test]
fn what_failed_is_a_sarif_log_with_stable_rules() {
    let text = "objects = [\"probes.o\"]\nprogram = \"drop_first_q\"\n\
        [[scenario]]\nname = \"holds\"\nsteps = [{ send = \"ab\" }]\n\
        [[scenario]]\nname = \"depends on the cut\"\nsteps = [{ send = \"abq\" }]\n\
        [[scenario]]\nname = \"expects something else\"\nsteps = [{ send = \"abc\" }]\n[scenario.expect]\nsent = \"b\"\n";
    let folder = folder("sarif", text);
    let path = folder.join("result.sarif");
    test::run(&Options { sarif: Some(path.clone()), ..options(folder) }).expect("a report");
    let log: Value = serde_json::from_slice(&fs::read(path).expect("written")).expect("JSON");
    assert_eq!((&log["version"], &log["runs"].as_array().map(Vec::len)), (&"2.1.0".into(), &Some(1)));
    let run = &log["runs"][0];
    let rules: Vec<_> =
        run["tool"]["driver"]["rules"].as_array().expect("rules").iter().map(|rule| &rule["id"]).collect();
    assert_eq!(
        rules,
        ["scenario-expectation", "scenario-cuts", "scenario-fault", "scenario-contract", "scenario-setup"]
    );
    let results = run["results"].as_array().expect("results");
    assert_eq!(results.len(), 2);
    for (result, (rule, line, words)) in results.iter().zip([
        ("scenario-cuts", 6, "depends on the cut: cut at 2: the connection was dropped"),
        ("scenario-expectation", 9, "expects something else: as given: sent: 3 bytes, expected 1"),
    ]) {
        assert_eq!(result["ruleId"], rule);
        assert_eq!(rules[result["ruleIndex"].as_u64().expect("an index") as usize], rule);
        let place = &result["locations"][0]["physicalLocation"];
        assert_eq!(place["region"]["startLine"], line);
        assert!(place["artifactLocation"]["uri"].as_str().is_some_and(|uri| uri.ends_with("probe.toml")));
        assert!(result["message"]["text"].as_str().is_some_and(|text| text.starts_with(words)), "{result:#}");
        assert!(result["partialFingerprints"]["scenario/v1"].is_string());
    }
}

const CAPTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/captures");

/// Records what is wanted of a capture of the examples into the scenario file of `text`, which has one of the probes.
fn recorded(name: &str, text: &str, capture: &str, wanted: test::Wanted) -> (test::Report, String, PathBuf) {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("scenarios-{name}"));
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).expect("a folder");
    fs::write(folder.join("probe.toml"), text).expect("a file");
    let record = test::Wanted { capture: Some(Path::new(CAPTURES).join(capture)), ..wanted };
    let options = Options { record, ..options(folder.join("probe.toml")) };
    let report = test::run(&options).unwrap_or_else(|error| panic!("{error}"));
    let now = fs::read_to_string(folder.join("probe.toml")).expect("the file is there");
    assert!(now.starts_with(text), "what was there stays: {now}");
    (report, now, folder)
}

#[test]
fn a_connection_of_a_capture_becomes_a_scenario_that_passes() {
    let text = "# The policy.\nobjects = [\"probes.o\"]\nprogram = \"without_x\"\n";
    let wanted = test::Wanted { name: Some("from the field".into()), ..Default::default() };
    let (report, now, folder) = recorded("record", text, "http-get.pcap", wanted);
    let said = report.to_string();
    assert_eq!(report.exit(), Exit::Ok, "{said}");
    let value = serde_json::to_value(&report).expect("JSON");
    assert_eq!((&value["passed"], &value["recorded"]["scenarios"]), (&1.into(), &1.into()));
    assert!(now.contains("[[scenario]]\nname = \"from the field\"\nlocal = \""), "{now}");
    assert!(now.contains("{ send = ") && now.contains("\"GET /index.html HTTP/1.1\\r\\n"), "{now}");
    assert!(now.contains("\nsent = \"GET /inde.html HTTP/1.1\\r\\n"), "every x is taken out: {now}");
    assert!(now.contains("\n[scenario.expect]\nconnection = \"open\"\n"), "{now}");
    assert!(said.contains("\nrecorded: 1 scenario in "), "{said}");
    // It is a scenario like any other, and its name is taken.
    let again = test::run(&options(folder.clone())).expect("a report");
    assert_eq!(again.exit(), Exit::Ok, "{again}");
    let record = test::Wanted {
        capture: Some(Path::new(CAPTURES).join("http-get.pcap")),
        name: Some("from the field".into()),
        ..Default::default()
    };
    let error = test::run(&Options { record, ..options(folder.clone()) }).expect_err("refused");
    assert_eq!(error.code, "record-name");
    assert_eq!(fs::read_to_string(folder.join("probe.toml")).expect("the file is there"), now);
}

#[test]
fn a_recorded_connection_expects_its_verdicts_its_records_and_what_maps_hold() {
    let text = "objects = [\"probes.o\"]\nprogram = \"account\"\n";
    let (report, now, folder) = recorded("record-all", text, "http-get.pcap", test::Wanted::default());
    assert_eq!(report.exit(), Exit::Ok, "{report}");
    let table: toml::Table = now.parse().expect("TOML");
    let expect = &table["scenario"][0]["expect"];
    assert_eq!(expect["verdicts"], toml::Value::from(vec!["continue"]), "{now}");
    assert_eq!(expect["events"]["losses"], toml::Value::Array(Vec::new()), "nothing was lost: {now}");
    let bytes = &expect["maps"]["bytes"];
    assert!(bytes["0"].as_integer() > Some(0) && bytes["1"].as_integer() > bytes["0"].as_integer(), "{now}");
    assert!(now.contains("\nmaps.bytes = { 0 = "), "{now}");
    // Each of them can fail.
    let file = folder.join("probe.toml");
    for (from, to, wrong) in [
        ("verdicts = [\"continue\"]", "verdicts = [\"permit\"]", "the verdicts were"),
        ("events.losses = []", "events.losses = [\"hex:00\"]", "losses: 0 records"),
        ("maps.bytes = { 0 = ", "maps.bytes = { 0 = 1", "map bytes: "),
    ] {
        let other = now.replace(from, to);
        assert_ne!(other, now, "{from} is missing in {now}");
        fs::write(&file, other).expect("a file");
        let report = test::run(&options(file.clone())).expect("a report");
        assert!(report.exit() == Exit::Partial && report.to_string().contains(wrong), "{report}");
    }
}

#[test]
fn records_of_a_recorded_connection_are_expected_as_they_came() {
    // A segment of seven bytes is not in the capture.
    let (here, there) = ("10.0.0.2:40000".parse().unwrap(), "192.0.2.1:80".parse().unwrap());
    let mut capture = CaptureWriter::new();
    let (syn, ack) = (Flags { syn: true, ..Flags::default() }, Flags { ack: true, ..Flags::default() });
    let both = Flags { syn: true, ..ack };
    let time = |milliseconds| Duration::from_millis(milliseconds);
    capture.tcp(time(0), here, there, (100, 0), syn, b"");
    capture.tcp(time(1), there, here, (200, 101), both, b"");
    capture.tcp(time(2), here, there, (101, 201), ack, b"GET ");
    capture.tcp(time(3), here, there, (112, 201), ack, b"HTTP");
    capture.tcp(time(4), there, here, (201, 116), ack, b"200");
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("scenarios-lost.pcap");
    fs::write(&path, capture.into_bytes()).expect("a file");
    let text = "objects = [\"probes.o\"]\nprogram = \"account\"\n";
    let path = path.to_str().expect("a path");
    let (report, now, _) = recorded("record-events", text, path, test::Wanted::default());
    assert_eq!(report.exit(), Exit::Ok, "{report}");
    assert!(now.contains("missed = 7"), "{now}");
    assert!(now.contains("\nevents.losses = [\"hex:07\"]\n"), "{now}");
    assert!(now.contains("\nmaps.bytes = { 0 = 8, 1 = 3 }\n"), "{now}");
}

#[test]
fn only_the_connections_that_are_wanted_are_recorded_behind_what_is_there() {
    let text = "objects = [\"probes.o\"]\nprogram = \"constant\"\n\n[[scenario]]\nname = \"a\"\nsteps = [{ send = \"a\" }]\n";
    let wanted = test::Wanted { flows: vec![2, 4], ..Default::default() };
    let (report, now, _) = recorded("record-wanted", text, "http-headers.pcap", wanted);
    assert_eq!(report.exit(), Exit::Ok, "{report}");
    let names: Vec<_> = now.lines().filter(|line| line.starts_with("name = ")).skip(1).collect();
    assert_eq!(
        names,
        ["name = \"http-headers.pcap: connection 2\"", "name = \"http-headers.pcap: connection 4\""]
    );
    assert!(now[text.len()..].starts_with("\n[[scenario]]\n"), "{now}");
}

#[test]
fn a_server_sees_a_recorded_connection_from_its_side() {
    let text = "objects = [\"probes.o\"]\nprogram = \"constant\"\n";
    let wanted = test::Wanted { inbound: true, ..Default::default() };
    let (report, now, _) = recorded("record-inbound", text, "http-get.pcap", wanted);
    assert_eq!(report.exit(), Exit::Ok, "{report}");
    assert!(now.contains("opener = \"remote\"") && now.contains("{ receive = "), "{now}");
}

#[test]
fn a_long_connection_is_recorded_in_a_capture_of_its_own() {
    let text = "objects = [\"probes.o\"]\nprogram = \"constant\"\n";
    let wanted = test::Wanted { flows: vec![1], ..Default::default() };
    let (report, now, folder) = recorded("record-long", text, "tls13.pcap", wanted);
    assert_eq!(report.exit(), Exit::Ok, "{report}");
    assert!(now.contains("\ncapture = \"tls13-1.pcap\"  # of tls13.pcap\n"), "{now}");
    assert!(folder.join("tls13-1.pcap").exists());
    let again = test::run(&options(folder)).expect("a report");
    assert_eq!(again.exit(), Exit::Ok, "{again}");
}

#[test]
fn a_recorded_connection_whose_outcome_depends_on_the_cut_is_written_and_fails() {
    let text = "objects = [\"probes.o\"]\nprogram = \"mark\"\n";
    let (report, now, _) = recorded("record-cuts", text, "http-get.pcap", test::Wanted::default());
    assert_eq!(report.exit(), Exit::Partial, "{report}");
    assert!(report.to_string().contains("not blessed: what comes out depends on the cut"), "{report}");
    assert!(now.contains("[[scenario]]") && !now.contains("[mark]"), "{now}");
}

#[test]
fn packets_of_a_capture_become_a_scenario_of_packets() {
    let text = "objects = [\"probes.o\"]\nprogram = \"by_port\"\nmaps.ports = { 53 = 1 }\n";
    let wanted = test::Wanted { port: Some(53), ..Default::default() };
    let (report, now, _) = recorded("record-packets", text, "dns-udp.pcap", wanted);
    assert_eq!(report.exit(), Exit::Ok, "{report}");
    assert_eq!(now.matches("is = \"blocked\"").count(), 9, "{now}");
    assert!(now.contains("\"dns:"), "names are readable: {now}");
    assert!(now.contains("\n[scenario.expect]\nverdicts = [\"block\"]\n"), "{now}");
}

#[test]
fn what_is_recorded_without_a_policy_is_printed() {
    let record =
        test::Wanted { capture: Some(Path::new(CAPTURES).join("http-get.pcap")), ..Default::default() };
    let printed = |record| test::run(&Options { record, paths: vec![], ..options("".into()) });
    let text = printed(record.clone()).expect("a report").to_string();
    let table: toml::Table = text.parse().expect("TOML");
    assert_eq!(table["scenario"].as_array().map(Vec::len), Some(1), "{text}");
    let none = printed(test::Wanted { flows: vec![9], ..record }).expect_err("refused");
    assert_eq!((none.code, none.exit), ("record-nothing", Exit::NotFound));
}

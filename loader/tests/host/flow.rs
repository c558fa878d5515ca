//! What is told of the connections that pass through a host.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::common::{GATE, Host, Ran, folder, tidegate};
use crate::conform::conforms;

#[test]
fn the_connections_that_links_are_shown_are_listed() {
    let host = Host::start(&folder("host-flows"));
    let mut unseen = host.connect();
    assert_eq!(host.say(&mut unseen, "hello", 5).as_deref(), Some("hello"));
    assert_eq!(host.run(&["flow", "list"]).ok(), "0 flows\n", "no link is shown it");

    host.run(&["prog", "load", GATE, "--prog", "cut", "--map", "cuts.113=0", "--attach"]).ok();
    let mut streams = [host.connect(), host.connect()];
    for stream in &mut streams {
        assert_eq!(host.say(stream, "hello", 5).as_deref(), Some("hello"));
    }
    let link = host.run(&["-j", "link", "show"]).json()["links"][0]["id"].clone();
    let listed = host.run(&["-j", "flow", "list"]).json();
    conforms("flow list", &listed);
    let rows = |listed: &Value| listed["flows"].as_array().expect("flows").clone();
    assert_eq!(rows(&listed).len(), 2, "{listed}");
    for row in rows(&listed) {
        assert_eq!(
            (&row["hook"], &row["links"][0], &row["state"]),
            (&"stream-v4".into(), &link, &"open".into())
        );
        assert_eq!((&row["outbound"]["held_bytes"], &row["by"]), (&0.into(), &Value::Null));
        assert_eq!(
            (&row["process"], &row["application"]),
            (&Value::Null, &Value::Null),
            "a proxy does not know"
        );
    }
    // Each is found by its number, and by the end that is its alone.
    let local = |stream: &std::net::TcpStream| stream.local_addr().expect("an address").to_string();
    for stream in &streams {
        let one = host.run(&["-j", "flow", "list", &local(stream)]).json();
        let [row] = &rows(&one)[..] else { panic!("one flow: {one}") };
        let again = host.run(&["flow", "list", &row["id"].to_string()]).ok();
        assert!(again.contains(&local(stream)) && again.ends_with("1 flow\n"), "{again}");
    }
    assert_eq!(host.run(&["-j", "flow", "list", "1.1.1.1-:80"]).json()["flows"], Value::Array(Vec::new()));
    assert_eq!(host.run(&["flow", "list", "nonsense"]).exit, 1);
    drop((unseen, streams));
}

#[test]
fn a_flow_is_as_old_as_it_is_however_long_nothing_passed_before_it() {
    let host = Host::start(&folder("host-flow-age"));
    host.run(&["prog", "load", GATE, "--prog", "cut", "--attach"]).ok();
    assert_eq!(host.say(&mut host.connect(), "hello", 5).as_deref(), Some("hello"));
    thread::sleep(Duration::from_millis(500));
    let before = Instant::now();
    let mut stream = host.connect();
    assert_eq!(host.say(&mut stream, "hello", 5).as_deref(), Some("hello"));
    let end = stream.local_addr().expect("an address").to_string();
    let listed = host.run(&["-j", "flow", "list", &end]).json();
    let age = listed["flows"][0]["age_seconds"].as_f64().expect("an age");
    let most = before.elapsed().as_secs_f64();
    assert!(age > 0.0 && age <= most, "{age} of {most} s");
}

/// A command that runs while connections pass: what it said, once it has ended by itself. `meanwhile` is done again and again.
fn beside(host: &Host, words: &[&str], mut meanwhile: impl FnMut()) -> Ran {
    let mut command = tidegate();
    command.arg("--host").arg(&host.socket).args(words).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut process = command.spawn().expect("the command starts");
    while process.try_wait().expect("it is a child").is_none() {
        meanwhile();
    }
    let output = process.wait_with_output().expect("it has ended");
    let text = |bytes| String::from_utf8(bytes).expect("output is text");
    Ran { exit: output.status.code().expect("by itself"), out: text(output.stdout), err: text(output.stderr) }
}

#[test]
fn what_links_decide_is_told_as_they_do() {
    let host = Host::start(&folder("host-trace"));
    host.run(&["prog", "load", GATE, "--prog", "cut", "--map", "cuts.113=7", "--attach"]).ok();
    let talk = || {
        assert_eq!(host.say(&mut host.connect(), "hello", 5).as_deref(), Some("hello"));
        assert_eq!(host.say(&mut host.connect(), "quit", 4), None);
    };
    let told = beside(
        &host,
        &["-j", "trace", "--verdict", "drop-connection", "--count", "2", "--types", GATE],
        talk,
    )
    .ok();
    let lines: Vec<Value> =
        told.lines().map(|line| serde_json::from_str(line).expect("a document")).collect();
    lines.iter().for_each(|line| conforms("trace", line));
    let [begin, run, _, summary] = &lines[..] else { panic!("two runs: {told}") };
    assert_eq!((&begin["event"], &begin["links"]), (&"begin".into(), &2.into()));
    assert_eq!(
        (&run["event"], &run["name"], &run["verdict"]),
        (&"run".into(), &"cut".into(), &"drop-connection".into())
    );
    assert_eq!(
        (&run["bytes_shown"], &run["bytes_passed"], &run["direction"]),
        (&4.into(), &0.into(), &"outbound".into())
    );
    // It says where: behind the lookup, at the line that counts.
    let why = &run["why"];
    assert_eq!(why["source"]["text"].as_str().map(str::trim), Some("*count += version;"), "{why}");
    assert_eq!((&why["read"]["name"], &why["read"]["typed"]["key"]), (&"cuts".into(), &113.into()), "{why}");
    // The map counts its own hits: the value is the one that was found then.
    assert!(why["read"]["typed"]["value"].as_u64() >= Some(7), "{why}");
    assert_eq!((&summary["runs"], &summary["lost"]), (&2.into(), &0.into()));

    let mut stream = host.connect();
    let greet = || drop(host.say(&mut stream, "hello", 5));
    let text = beside(&host, &["trace", "--verdict", "continue", "--count", "1"], greet).ok();
    assert!(text.contains("`cut`: continue of 5 bytes") && text.ends_with("1 run, 0 lost\n"), "{text}");
    // Nobody watches any more, and nothing is the worse for it.
    talk();
    assert_eq!(host.run(&["trace", "--link", "77777"]).exit, 5);
    assert_eq!(host.run(&["trace", "--verdict", "nonsense"]).exit, 1);
}

#[test]
fn runs_that_find_no_room_are_counted_and_told_to_be_lost() {
    let host = Host::start(&folder("host-trace-lost"));
    host.run(&["prog", "load", GATE, "--prog", "cut", "--attach"]).ok();
    let mut stream = host.connect();
    let trace = ["-j", "trace", "--buffer", "4096", "--count", "100000"];
    let mut command = tidegate();
    command.arg("--host").arg(&host.socket).args(trace).stdout(Stdio::piped());
    let mut process = command.spawn().expect("the command starts");
    let mut lines = BufReader::new(process.stdout.take().expect("piped")).lines();
    assert!(lines.next().expect("a line").expect("text").contains("\"begin\""));
    // Who is stopped reads nothing meanwhile.
    let pid = Pid::from_raw(process.id().try_into().expect("a number"));
    kill(pid, Signal::SIGSTOP).expect("it lives");
    for _ in 0..100 {
        assert_eq!(host.say(&mut stream, "hello", 5).as_deref(), Some("hello"));
    }
    kill(pid, Signal::SIGCONT).expect("it lives");
    let lost = lines.map_while(Result::ok).find(|line| line.contains("\"lost\"")).expect("a line");
    let lost: Value = serde_json::from_str(&lost).expect("a document");
    conforms("trace", &lost);
    assert!(lost["lost"].as_u64() > Some(0), "{lost}");
    process.kill().expect("it lives");
    process.wait().expect("it ends");
}

#[test]
fn a_flow_is_explained_with_the_link_the_line_and_the_entry() {
    let host = Host::start(&folder("host-explain"));
    host.run(&["prog", "load", GATE, "--prog", "stamp", "--map", "marks.0=str:<first>"]).ok();
    host.run(&["prog", "load", GATE, "--prog", "cut", "--map", "cuts.113=7"]).ok();
    let attach = |program: &str| {
        host.run(&["-j", "link", "attach", program, "stream-v4"]).json()["links"][0]["id"].clone()
    };
    let (cut, stamp) = (attach("cut"), attach("stamp"));
    let mut stream = host.connect();
    assert_eq!(host.say(&mut stream, "hello", 13).as_deref(), Some("<first>\0hello"));
    let id = host.run(&["-j", "flow", "list"]).json()["flows"][0]["id"].to_string();

    // Both links are asked about what goes out; the second one stamps it.
    let say = || drop(host.say(&mut stream, "hello", 13));
    let ran = beside(&host, &["-j", "flow", "explain", &id, "--types", GATE], say);
    let explained = ran.json();
    conforms("flow explain", &explained);
    let runs = explained["runs"].as_array().expect("runs");
    assert_eq!((&explained["flow"].to_string(), &explained["state"]), (&id, &"open".into()), "{explained}");
    if runs[0]["direction"] == "outbound" {
        assert_eq!((&explained["decided_by"], runs.len()), (&stamp, 2), "{explained}");
        assert_eq!((&runs[0]["link"], &runs[0]["verdict"]), (&cut, &"continue".into()));
        assert_eq!((&runs[1]["verdict"], &runs[1]["bytes_passed"]), (&"permit".into(), &13.into()));
        assert_eq!(runs[1]["why"]["read"]["name"], "marks");
    }

    // One that begins later is named by its ends; without an object the instruction is told, and that there are no lines.
    let quit = || drop(host.say(&mut host.connect(), "quit", 4));
    let text = beside(&host, &["flow", "explain", "127.0.0.1"], quit).ok();
    assert!(text.contains("at instruction ") && text.contains("no object was named"), "{text}");
    assert!(text.contains(&format!("link {cut}, program ")) && text.contains("looked up last "), "{text}");
    for (words, code) in [
        (&["flow", "explain", "77777"][..], "not-found"),
        (&["flow", "explain", "10.9.8.7", "--wait", "0"], "flow-silent"),
    ] {
        let ran = host.run(&[&["-j"], words].concat());
        assert_eq!((ran.exit, &ran.json()["error"]["code"]), (5, &code.into()), "{words:?}");
    }
}

#[test]
fn the_lines_of_a_bundle_that_was_applied_are_known() {
    let folder = folder("host-explain-bundle");
    let host = Host::start(&folder);
    let bundle = folder.join("bundle.toml");
    let text = format!(
        "[[link]]\nobject = \"{GATE}\"\nprogram = \"cut\"\npriority = 5\nmaps.cuts = {{ 113 = 0 }}\n"
    );
    fs::write(&bundle, text).expect("a bundle");
    host.run(&["apply", bundle.to_str().expect("a path")]).ok();
    let quit = || drop(host.say(&mut host.connect(), "quit", 4));
    let text = beside(&host, &["flow", "explain", "127.0.0.1"], quit).ok();
    assert!(text.contains("gate.c:") && text.contains("looked up last cuts[113] = "), "{text}");
    assert!(text.contains("    by way of lines "), "{text}");
}

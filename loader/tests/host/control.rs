//! The verbs of a running host: the same words as with the driver, while connections pass.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::Value;
use tidegate_abi::control::{self, HEADER_SIZE, Header, MapList, Status};
use tidegate_abi::limits;

use crate::common::{GATE, Host, Ran, folder, tidegate};

/// The only id in a list of a document.
fn id(document: &Value, list: &str) -> String {
    let ids: Vec<_> =
        document[list].as_array().expect("a list").iter().map(|row| row["id"].to_string()).collect();
    assert_eq!(ids.len(), 1, "{document}");
    ids[0].clone()
}

#[test]
fn a_policy_comes_changes_and_goes_while_a_connection_passes() {
    let host = Host::start(&folder("host-life"));
    let mut stream = host.connect();
    assert_eq!(host.say(&mut stream, "hello", 5).as_deref(), Some("hello"), "nothing is loaded");

    host.run(&["prog", "load", GATE, "--prog", "stamp", "--map", "marks.0=str:<first>"]).ok();
    assert_eq!(host.say(&mut stream, "hello", 5).as_deref(), Some("hello"), "it runs nowhere yet");
    let attached = host.run(&["-j", "link", "attach", "stamp", "stream-v4", "--priority", "7"]).json();
    let link = id(&attached, "links");
    let shown = host.run(&["-j", "link", "show"]).json();
    assert_eq!(shown["links"][0]["priority"], 7);
    assert_eq!(
        host.say(&mut stream, "hello", 5).as_deref(),
        Some("hello"),
        "it was there before the first link"
    );
    let mut stream = host.connect();
    assert_eq!(host.say(&mut stream, "hello", 13).as_deref(), Some("<first>\0hello"));

    host.run(&["map", "update", "marks", "0", "str:<second>"]).ok();
    assert_eq!(host.run(&["-j", "map", "lookup", "marks", "0"]).json()["entries"][0]["value"][1], b's');
    assert_eq!(host.say(&mut stream, "hello", 13).as_deref(), Some("<second>hello"));
    let events = host.run(&["event", "stamped", "--count", "2"]).ok();
    assert_eq!(events.lines().last(), Some("2 records, 0 dropped"), "{events}");

    host.run(&["prog", "load", GATE, "--prog", "cut", "--map", "cuts.113=0"]).ok();
    host.run(&["link", "replace", &link, "cut"]).ok();
    assert_eq!(host.say(&mut stream, "hello", 5).as_deref(), Some("hello"), "the mark is gone");
    assert_eq!(host.say(&mut stream, "quit", 4), None, "the connection is reset");
    let counted = host.run(&["-j", "link", "show"]).json();
    assert_eq!(counted["links"][0]["id"].to_string(), link);
    assert_eq!(counted["links"][0]["counted"]["verdicts"]["drop-connection"], 1, "{counted}");

    host.run(&["link", "detach", &link]).ok();
    let mut stream = host.connect();
    assert_eq!(host.say(&mut stream, "quit", 4).as_deref(), Some("quit"));
    for program in ["cut", "stamp"] {
        host.run(&["prog", "unload", program]).ok();
    }
    assert_eq!(host.run(&["prog", "show"]).ok(), "0 programs\n");
}

#[test]
fn links_run_in_the_order_that_they_are_given() {
    let host = Host::start(&folder("host-order"));
    host.run(&["prog", "load", GATE, "--prog", "stamp", "--map", "marks.0=str:<first>"]).ok();
    host.run(&["prog", "load", GATE, "--prog", "cut", "--map", "cuts.113=0"]).ok();
    let attach = |program: &str| {
        id(&host.run(&["-j", "link", "attach", program, "stream-v4", "--priority", "3"]).json(), "links")
    };
    let (stamp, cut) = (attach("stamp"), attach("cut"));
    let say = |text: &str| host.say(&mut host.connect(), text, text.len() + 8);
    let order = |arguments: &[&str]| {
        let shown = host.run(&[&["-j", "link", "order"], arguments].concat()).json();
        let ids = |shown: &Value| -> Vec<String> {
            shown["links"].as_array().expect("links").iter().map(|link| link["id"].to_string()).collect()
        };
        assert_eq!(ids(&shown), ids(&host.run(&["-j", "link", "show"]).json()), "{shown}");
        ids(&shown)
    };
    assert_eq!(say("quit").as_deref(), Some("<first>\0quit"), "what is stamped is decided on");
    assert_eq!(order(&[&cut, "--before", &stamp]), [cut.clone(), stamp.clone()]);
    assert_eq!(say("quit"), None, "it looks first");
    assert_eq!(order(&[&cut, "--after", &stamp]), [stamp.clone(), cut.clone()]);
    assert_eq!(say("quit").as_deref(), Some("<first>\0quit"));
    assert_eq!(order(&[&stamp, "--priority", "9"]), [cut.clone(), stamp.clone()]);
    let counted = host.run(&["-j", "link", "show"]).json();
    assert_eq!(
        counted["links"][0]["counted"]["verdicts"]["drop-connection"], 1,
        "it keeps its counters: {counted}"
    );
    let other = id(&host.run(&["-j", "link", "attach", "cut", "stream-v6"]).json(), "links");
    let ran = host.run(&["-j", "link", "order", &cut, "--before", &other]);
    assert_eq!((ran.exit, &ran.json()["error"]["code"]), (1, &"link-hook".into()));
    let ran = host.run(&["-j", "link", "order", "77777", "--priority", "1"]);
    assert_eq!((ran.exit, &ran.json()["error"]["code"]), (5, &"not-found".into()));
}

#[test]
fn a_link_is_shown_what_fits_its_filter() {
    let host = Host::start(&folder("host-filter"));
    host.run(&["prog", "load", GATE, "--prog", "cut", "--map", "cuts.113=0"]).ok();
    let attach = |filter: &str| host.run(&["-j", "link", "attach", "cut", "--filter", filter]);
    let shown = attach("outbound and tcp remote net 10.0.0.0/8 port 1-9").json();
    assert_eq!(shown["links"][0]["filter"], "tcp and outbound and remote net 10.0.0.0/8 and port 1-9");
    assert_eq!(shown["links"][0]["hook"], "stream-v4", "the filter names one family");
    assert_eq!(shown["links"].as_array().map(Vec::len), Some(1));
    let mut stream = host.connect();
    assert_eq!(host.say(&mut stream, "quit", 4).as_deref(), Some("quit"), "it goes somewhere else");
    let flows = |filter: &str| host.run(&["-j", "flow", "list", filter]).json()["flows"].clone();
    assert_eq!(flows("tcp host 127.0.0.1")[0]["links"], serde_json::json!([]));
    assert_eq!(flows("remote net 10.0.0.0/8"), serde_json::json!([]));

    let link = id(&attach("net 127.0.0.0/8").json(), "links");
    assert_eq!(host.say(&mut host.connect(), "quit", 4), None, "the connection is reset");
    assert_eq!(flows("tcp host 127.0.0.1")[0]["links"].to_string(), format!("[{link}]"));
    let text = host.run(&["link", "show"]).ok();
    assert!(text.contains("    shown: net 127.0.0.0/8\n"), "{text}");

    for (filter, code) in [("udp", "link-filter"), ("port 80 or port 443", "usage"), ("", "usage")] {
        let ran = attach(filter);
        assert_eq!((ran.exit, &ran.json()["error"]["code"]), (1, &code.into()), "{filter}");
    }
    let ran = host.run(&["-j", "link", "attach", "cut", "stream-v6", "--filter", "host 127.0.0.1"]);
    assert_eq!((ran.exit, &ran.json()["error"]["code"]), (1, &"link-filter".into()));
}

#[test]
fn a_client_of_ipv4_is_one_where_both_families_are_listened_to() {
    let both = TcpListener::bind("[::]:0").and_then(|listener| {
        let port = listener.local_addr()?.port();
        TcpStream::connect((Ipv4Addr::LOCALHOST, port))
    });
    if both.is_err() {
        eprintln!("nothing listens to both families here");
        return;
    }
    let host = Host::start_dual(&folder("host-dual"));
    host.run(&["prog", "load", GATE, "--prog", "cut", "--map", "cuts.113=0"]).ok();
    host.run(&["link", "attach", "cut", "--filter", "remote net 127.0.0.0/8"]).ok();
    let mut stream = host.connect();
    assert_eq!(host.say(&mut stream, "hello", 5).as_deref(), Some("hello"));
    let flow = host.run(&["-j", "flow", "list"]).json()["flows"][0].clone();
    let local = stream.local_addr().expect("an address").to_string();
    assert_eq!((&flow["hook"], &flow["local"]), (&"stream-v4".into(), &local.into()), "{flow}");
    assert_eq!(host.say(&mut stream, "quit", 4), None, "the filter holds: the connection is reset");
}

#[test]
fn how_long_runs_took_is_told_by_verdict() {
    let host = Host::start(&folder("host-times"));
    host.run(&["prog", "load", GATE, "--prog", "stamp", "--map", "marks.0=str:<first>"]).ok();
    host.run(&["link", "attach", "stamp", "stream-v4"]).ok();
    let times = || host.run(&["-j", "prog", "stats"]).json()["links"][0]["times"].clone();
    assert_eq!(times(), Value::Array(Vec::new()), "nothing ran");
    let mut stream = host.connect();
    for word in ["quit", "more", "much"] {
        assert!(host.say(&mut stream, word, 4).is_some());
    }
    // Behind the first of many: the first run with a verdict comes before one that is timed.
    let times = times();
    let timed = times[0].as_object().expect("a run was timed");
    assert_eq!(timed["timed"].as_u64(), timed["classes"][0]["runs"].as_u64(), "{timed:?}");
    let verdict = timed["verdict"].as_str().expect("a name");
    let text = host.run(&["prog", "stats"]).ok();
    assert!(text.contains(&format!("    {verdict}: 1 timed, half of them below ")), "{text}");
    let metrics = host.run(&["prog", "stats", "--prometheus"]).ok();
    let labels = format!("hook=\"stream-v4\",program=\"stamp\",verdict=\"{verdict}\"}}");
    assert!(metrics.contains(&format!("{labels} 1\n")), "{metrics}");
    let sum = metrics.lines().find_map(|line| line.strip_prefix("tidegate_run_seconds_sum{")).expect("a sum");
    let (_, seconds) = sum.rsplit_once(' ').expect("a number");
    assert!(seconds.parse::<f64>().expect("a number") > 0.0, "it took some time: {sum}");
    for part in ["# TYPE tidegate_run_seconds histogram\n", "le=\"+Inf\"", "le=\"1.28e-7\""] {
        assert!(metrics.contains(part), "{part} is missing in {metrics}");
    }
}

#[test]
fn a_new_version_is_tried_beside_the_old_one_then_for_a_share_and_replaces_it() {
    let host = Host::start(&folder("host-trial"));
    host.run(&["prog", "load", GATE, "--prog", "stamp", "--map", "marks.0=str:<first>"]).ok();
    let link = id(&host.run(&["-j", "link", "attach", "stamp", "stream-v4"]).json(), "links");
    let trial = || host.run(&["-j", "link", "show"]).json()["links"][0]["trial"].clone();
    assert_eq!(trial(), Value::Null);

    // What it would do is compared, and not done.
    host.run(&["prog", "load", GATE, "--prog", "cut", "--map", "cuts.113=0", "--shadow", &link]).ok();
    let mut stream = host.connect();
    assert_eq!(host.say(&mut stream, "quit", 12).as_deref(), Some("<first>\0quit"));
    let shadow = trial();
    assert_eq!((&shadow["mode"], &shadow["errors"]), (&"shadow".into(), &0.into()), "{shadow}");
    assert!(shadow["other_verdicts"].as_u64() > Some(0), "{shadow}");
    let text = host.run(&["link", "show"]).ok();
    assert!(text.contains(" with another verdict, 0 with other bytes, 0 failed"), "{text}");
    let text = host.run(&["prog", "stats"]).ok();
    assert!(text.contains("    shadow: program "), "{text}");
    let metrics = host.run(&["prog", "stats", "--prometheus"]).ok();
    assert!(metrics.contains("mode=\"shadow\",end=\"other-verdict\"} "), "{metrics}");

    // A canary that has all connections, and one that has none.
    host.run(&["link", "replace", &link, "cut", "--canary", "100%"]).ok();
    let mut stream = host.connect();
    assert_eq!(host.say(&mut stream, "hello", 5).as_deref(), Some("hello"));
    assert_eq!(host.say(&mut stream, "quit", 4), None, "the connection is reset");
    let canary = trial();
    assert_eq!((&canary["mode"], &canary["canary"]["percent"]), (&"canary".into(), &100.into()));
    assert_eq!((&canary["canary"]["returned"], &canary["errors"]), (&false.into(), &0.into()), "{canary}");
    let metrics = host.run(&["prog", "stats", "--prometheus"]).ok();
    assert!(metrics.contains("mode=\"canary\",end=\"failed\"} 0"), "{metrics}");
    host.run(&["link", "replace", &link, "cut", "--canary", "0", "--max-errors", "0.5%"]).ok();
    let mut stream = host.connect();
    assert_eq!(host.say(&mut stream, "quit", 12).as_deref(), Some("<first>\0quit"));
    assert_eq!(host.run(&["prog", "unload", "cut"]).exit, 1, "it is tried");

    // It is given up, and put into place all the same.
    host.run(&["link", "replace", &link, "--end"]).ok();
    assert_eq!(trial(), Value::Null);
    assert_eq!(host.run(&["-j", "link", "replace", &link, "--end"]).json()["error"]["code"], "not-found");
    host.run(&["link", "replace", &link, "cut", "--shadow"]).ok();
    host.run(&["link", "replace", &link, "cut"]).ok();
    assert_eq!(trial(), Value::Null);
    let mut stream = host.connect();
    assert_eq!(host.say(&mut stream, "quit", 4), None);
    for words in
        [&["cut", "--canary", "101%"][..], &["cut", "--shadow", "--canary", "5"], &["cut", "--end"], &[]]
    {
        assert_eq!(host.run(&[&["link", "replace", &link], words].concat()).exit, 1, "{words:?}");
    }
}

#[test]
fn a_refused_program_is_refused_by_the_host_and_leaves_nothing() {
    let host = Host::start(&folder("host-refused"));
    let (link, budget) = ("link", "1");
    host.run(&["prog", "load", GATE, "--prog", "cut"]).ok();
    let ran = host.run(&["-j", link, "attach", "cut", "--budget", budget]);
    assert_eq!((ran.exit, &ran.json()["error"]["code"]), (2, &"program-refused".into()));
    assert_eq!(host.run(&["link", "show"]).ok(), "0 links\n");
    let ran = host.run(&["-j", "map", "lookup", "nothing", "0"]);
    assert_eq!((ran.exit, &ran.json()["error"]["code"]), (5, &"not-found".into()));
}

#[test]
fn who_names_no_host_or_one_that_is_not_there_is_told_what_to_do() {
    let folder_of_none = folder("host-none");
    let nowhere = folder_of_none.join("nobody");
    let nowhere = nowhere.to_str().unwrap();
    for (variable, words) in [
        (None, &["-j", "prog", "show"][..]),
        (None, &["-j", "--host", nowhere, "prog", "show"]),
        (None, &["-j", "link", "show", "--host", nowhere]),
        (Some(nowhere), &["-j", "map", "show"]),
    ] {
        let mut command = tidegate();
        command.args(words).env("XDG_RUNTIME_DIR", &folder_of_none);
        let ran = Ran::of(command.envs(variable.map(|name| ("TIDEGATE_HOST", name))));
        let error = &ran.json()["error"];
        assert_eq!((ran.exit, &error["code"]), (3, &"host-none".into()), "{words:?}");
        assert!(error["help"].as_str().unwrap().contains("tidegate proxy --control"), "{error}");
    }
    let host = Host::start(&folder("host-variable"));
    let ran = Ran::of(tidegate().args(["prog", "show"]).env("TIDEGATE_HOST", &host.socket));
    assert_eq!(ran.ok(), "0 programs\n");
}

#[test]
fn who_names_no_host_speaks_to_the_users_own() {
    let folder = folder("host-vm");
    let run = |variable: &str, words: &[&str]| Ran::of(tidegate().env(variable, &folder).args(words));
    let given = folder.join("tidegate.sock");
    let made = folder.join(format!("tidegate-{}", nix::unistd::geteuid())).join("tidegate.sock");
    // Without the variable of the first in the environment it is among temporary files, in a folder that is made.
    for (variable, socket) in [("XDG_RUNTIME_DIR", given), ("TMPDIR", made)] {
        let none = run(variable, &["-j", "prog", "show"]);
        let help = none.json()["error"]["help"].as_str().expect("help").to_string();
        assert_eq!((none.exit, help.contains("--control vm")), (3, true), "{help}");
        let mut host = Host::start_vm(socket.clone(), &[(variable, &folder)]);
        host.run(&["prog", "load", GATE, "--prog", "cut"]).ok();
        for words in [&["prog", "show"][..], &["--host", "vm", "prog", "show"]] {
            assert!(run(variable, words).ok().contains("cut"), "{words:?}");
        }
        assert_eq!(run(variable, &["-j", "feature", "probe"]).json()["host"], "vm");
        let ends = ["-j", "proxy", "--listen", "127.0.0.1:0", "--upstream", "127.0.0.1:9", "--control", "vm"];
        assert_eq!(run(variable, &ends).json()["error"]["code"], "control-taken", "one user has one");

        let own = socket.parent().expect("a folder");
        assert_eq!(fs::metadata(own).expect("it is there").permissions().mode() & 0o022, 0);
        fs::set_permissions(own, fs::Permissions::from_mode(0o777)).expect("it is ours");
        for words in [&["-j", "prog", "show"][..], &ends] {
            let refused = run(variable, words);
            assert_eq!((refused.exit, &refused.json()["error"]["code"]), (4, &"host-folder".into()));
        }
        fs::set_permissions(own, fs::Permissions::from_mode(0o700)).expect("it is ours");
        assert_eq!(host.terminate(), Some(0));
    }
}

#[test]
fn where_the_users_own_host_should_be_nobody_else_is_spoken_to() {
    use std::os::unix::process::CommandExt;

    let mut somebody = tidegate();
    somebody.uid(65_533);
    // That takes root, and a path to the command that is open to all.
    if !tidegate().uid(65_533).arg("version").output().is_ok_and(|output| output.status.success()) {
        eprintln!("no command of another user can be had");
        return;
    }
    let folder = folder("host-impostor");
    let (own, other) = (folder.join("tidegate.sock"), folder.join("other"));
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o777)).expect("it is ours");
    let host = Host::start_at(somebody, &other, other.clone());
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o700)).expect("it is ours");
    host.run(&["prog", "show"]).ok();

    // It takes the place of a host that hangs up in the middle.
    let listener = UnixListener::bind(&own).expect("a socket");
    let socket = own.clone();
    let leaves = thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a client");
        stream.read_exact(&mut [0; HEADER_SIZE]).expect("a request");
        fs::rename(other, socket).expect("it is there");
    });
    for when in ["while it speaks", "when it comes"] {
        let ran = Ran::of(tidegate().args(["-j", "prog", "show"]).env("XDG_RUNTIME_DIR", &folder));
        assert_eq!(
            (ran.exit, &ran.json()["error"]["code"]),
            (4, &"host-folder".into()),
            "{when}: {}",
            ran.out
        );
    }
    leaves.join().expect("no panic");
    let named = Ran::of(tidegate().arg("--host").arg(&own).args(["prog", "show"]));
    assert_eq!(named.ok(), "0 programs\n", "one that is named is whoever's it is");
}

#[test]
fn who_is_asked_to_terminate_says_what_it_came_to_and_leaves_nothing() {
    let mut host = Host::start(&folder("host-terminate"));
    assert_eq!(host.say(&mut host.connect(), "hello", 5).as_deref(), Some("hello"));
    assert_eq!(host.terminate(), Some(0));
    let closed: Value = serde_json::from_str(&host.line()).expect("a document");
    assert_eq!(closed["event"], "closed");
    let summary: Value = serde_json::from_str(&host.line()).expect("a document");
    assert_eq!(summary["connections"], 1, "{summary}");
    assert!(!host.socket.exists());
}

#[test]
fn nothing_is_attached_where_a_proxy_shows_no_traffic() {
    const PROBES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/probes.o");
    let folder = folder("host-unshown");
    let host = Host::start(&folder);
    let load = ["-j", "prog", "load", PROBES, "--prog", "by_port"];
    host.run(&load).ok();
    let batch = folder.join("batch");
    fs::write(&batch, "link attach by_port\n").expect("a file");
    let batch = batch.to_str().expect("a path");
    for words in [
        &["-j", "link", "attach", "by_port"][..],
        &["-j", "link", "attach", "by_port", "outbound-transport-v6"],
        &["-j", "batch", batch, "--atomic"],
        &[&load[..], &["--attach"]].concat(),
    ] {
        let ran = host.run(words);
        let error = ran.out.lines().last().and_then(|line| serde_json::from_str::<Value>(line).ok());
        let error = &error.expect("a document")["error"];
        assert_eq!((ran.exit, &error["code"]), (1, &"hook-unshown".into()), "{words:?}: {error}");
        assert!(error["help"].as_str().is_some_and(|help| help.contains("feature probe")), "{error}");
    }
    assert_eq!(host.run(&["link", "show"]).ok(), "0 links\n");
    let probe = host.run(&["-j", "feature", "probe"]).json();
    crate::conform::conforms("feature probe", &probe);
    for hook in probe["hooks"].as_array().expect("hooks") {
        assert_eq!(hook["shown"], hook["program_type"] == "stream", "{hook}");
    }
    assert!(host.run(&["feature", "probe"]).ok().contains("is never shown traffic here"));
}

#[test]
fn a_control_socket_is_its_owners_alone_and_nobody_elses_file() {
    let folder = folder("host-socket");
    let mut host = Host::start(&folder);
    let mode = |path| fs::metadata(path).expect("it is there").permissions().mode() & 0o777;
    assert_eq!(mode(&host.socket), 0o600);
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 1, "only the socket");

    let proxy = |path: &std::path::Path| {
        let ends = ["--listen", "127.0.0.1:0", "--upstream", "127.0.0.1:9", "--control"];
        Ran::of(tidegate().args(["-j", "proxy"]).args(ends).arg(path))
    };
    let ran = proxy(&host.socket);
    assert_eq!((ran.exit, &ran.json()["error"]["code"]), (1, &"control-taken".into()));
    let file = folder.join("file");
    fs::write(&file, "mine").unwrap();
    let ran = proxy(&file);
    assert_eq!((ran.exit, &ran.json()["error"]["code"]), (1, &"control-listen".into()));
    assert_eq!(fs::read(&file).unwrap(), b"mine");

    // What a host left behind that was ended hard is no host, and is replaced by the next one.
    host.kill();
    assert_eq!(host.run(&["prog", "show"]).exit, 3);
    let host = Host::start(&folder);
    assert_eq!(host.run(&["prog", "show"]).ok(), "0 programs\n");
}

#[test]
fn a_host_that_ends_leaves_the_socket_of_the_one_that_took_its_place() {
    let folder = folder("host-place");
    let mut first = Host::start(&folder);
    fs::rename(&first.socket, folder.join("elsewhere")).expect("it is there");
    let second = Host::start(&folder);
    assert_eq!(first.terminate(), Some(0));
    assert_eq!(second.run(&["prog", "show"]).ok(), "0 programs\n");
}

/// Sends bytes as they are; the status of the reply, or `None` when the host hangs up.
fn send(stream: &mut UnixStream, bytes: &[u8]) -> Option<Status> {
    stream.write_all(bytes).ok()?;
    let mut head = [0; HEADER_SIZE];
    stream.read_exact(&mut head).ok()?;
    let length = u32::from_le_bytes([head[4], head[5], head[6], head[7]]);
    let mut reply = head.to_vec();
    stream.take(u64::from(length)).read_to_end(&mut reply).ok()?;
    let (header, _) = Header::parse(&reply).expect("a reply is well formed");
    Status::from_number(header.code)
}

#[test]
fn a_malformed_message_is_answered_and_changes_nothing() {
    let host = Host::start(&folder("host-malformed"));
    host.run(&["prog", "load", GATE, "--prog", "cut", "--attach"]).ok();
    let state = || ["prog", "link", "map"].map(|noun| host.run(&[noun, "show"]).ok());
    let before = state();

    let mut good = [0; 64];
    let length = control::write_request(&MapList { after: 0 }, &mut good).expect("small");
    let good = &good[..length];
    let header = |version, code, length, reserved| Header { version, code, length, reserved }.to_bytes();
    let version = tidegate_abi::API_VERSION;
    let mut stream = UnixStream::connect(&host.socket).expect("it answers");
    for (bytes, status) in [
        (good.to_vec(), Status::Ok),
        (header(version + 1, 17, 0, 0).to_vec(), Status::Version),
        (header(version, 9999, 0, 0).to_vec(), Status::UnknownOperation),
        (header(version, 31, 0, 0).to_vec(), Status::Malformed),
        (header(version, 0, 0, 1).to_vec(), Status::Malformed),
        ([&header(version, 31, 3, 0)[..], &[0xff; 3]].concat(), Status::Malformed),
        (good.to_vec(), Status::Ok),
        // Too long by one byte: where the next message begins is not known, so this is the last answer.
        (header(version, 20, (limits::MAX_MESSAGE - HEADER_SIZE + 1) as u32, 0).to_vec(), Status::Malformed),
    ] {
        assert_eq!(send(&mut stream, &bytes), Some(status), "{bytes:?}");
    }
    assert_eq!(send(&mut stream, good), None);
    // Half a message, and no more: nobody waits for the rest in the way of others.
    let mut half = UnixStream::connect(&host.socket).expect("it answers");
    half.write_all(&good[..length - 1]).expect("it listens");
    assert_eq!(state(), before);
}

#[test]
fn a_link_that_was_detached_decides_about_nothing_more_of_connections_that_it_saw() {
    const PROBES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/probes.o");
    let mut host = Host::start(&folder("host-drain"));
    host.run(&["prog", "load", PROBES, "--prog", "drop_q", "--attach"]).ok();
    let mut stream = host.connect();
    assert_eq!(host.say(&mut stream, "abc", 3).as_deref(), Some("abc"));
    for link in host.run(&["-j", "link", "show"]).json()["links"].as_array().expect("links") {
        host.run(&["link", "detach", &link["id"].to_string()]).ok();
    }
    assert_eq!(host.say(&mut stream, "q", 1).as_deref(), Some("q"), "nobody looks any more");
    drop(stream);
    let closed: Value = serde_json::from_str(&host.line()).expect("a document");
    assert_eq!((&closed["event"], &closed["end"]), (&"closed".into(), &"closed".into()), "{closed}");
}

#[test]
fn what_never_happened_is_counted_as_zero_and_not_left_out() {
    let host = Host::start(&folder("host-zero"));
    host.run(&["prog", "load", GATE, "--prog", "cut", "--attach"]).ok();
    let stats = host.run(&["-j", "prog", "stats"]).json();
    let links = stats["links"].as_array().expect("links");
    assert_eq!(links.len(), 2, "{stats}");
    let verdicts = tidegate_abi::Verdict::ALL.map(tidegate_abi::Verdict::name);
    for link in links {
        let counted = &link["counted"];
        for count in ["runs", "errors", "edited", "injected"] {
            assert_eq!(counted[count], 0, "{count}: {link}");
        }
        for verdict in verdicts {
            assert_eq!(counted["verdicts"][verdict], 0, "{verdict}: {link}");
        }
        assert_eq!(link["bytes_shown"], 0, "{link}");
    }
    assert_eq!(host.run(&["prog", "stats"]).ok().matches(" 0 runs").count(), 2);
    let metrics = host.run(&["prog", "stats", "--prometheus"]).ok();
    for name in ["runs", "errors", "shown_bytes", "edits", "injections"] {
        assert!(metrics.contains(&format!("tidegate_{name}_total{{")), "{name}: {metrics}");
    }
    assert!(
        !metrics.lines().any(|line| line.starts_with("tidegate_runs") && !line.ends_with(" 0")),
        "{metrics}"
    );
}

#[test]
fn a_host_that_hangs_up_or_says_what_is_no_reply_is_told_in_words() {
    let path = folder("host-strange").join("strange");
    let listener = UnixListener::bind(&path).expect("a socket");
    let of_length = |length: u32| {
        Header { version: tidegate_abi::API_VERSION, code: 0, length, reserved: 0 }.to_bytes().to_vec()
    };
    let too_long = of_length(limits::MAX_MESSAGE as u32);
    let replies = [
        (vec![], "hung up"),
        (of_length(9)[..7].to_vec(), "hung up"),
        (of_length(9), "hung up"),
        (too_long, "no reply"),
    ];
    let verbs: [&[&str]; 4] = [
        &["prog", "show"],
        &["link", "show"],
        &["prog", "load", GATE, "--prog", "cut"],
        &["feature", "probe"],
    ];
    let said = Arc::new(Mutex::new(Vec::new()));
    let says = Arc::clone(&said);
    // Until the test has ended.
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            stream.read_exact(&mut [0; HEADER_SIZE]).expect("a request");
            let reply: Vec<u8> = says.lock().expect("no panic").clone();
            stream.write_all(&reply).expect("it reads");
        }
    });
    for (reply, words) in replies {
        *said.lock().expect("no panic") = reply;
        for verb in verbs {
            let ran = Ran::of(tidegate().arg("-j").arg("--host").arg(&path).args(verb));
            let error = ran.json()["error"].clone();
            assert_eq!((ran.exit, &error["code"]), (3, &"host-io".into()), "{verb:?}: {error}");
            assert!(error["message"].as_str().unwrap().contains(words), "{verb:?}: {error}");
            assert!(error["help"].as_str().is_some_and(|help| !help.is_empty()), "{verb:?}: {error}");
        }
    }
}

//! What every verb prints with `-j` is what its schema says. The verbs that speak to a runtime are in `src/cli/schema.rs`.

mod conform;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

use conform::conforms;
use serde_json::Value;

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures");

fn fixture(name: &str) -> String {
    format!("{FIXTURES}/{name}")
}

/// A folder of one test alone, empty.
fn folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("schemas-{name}"));
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).expect("a folder");
    folder
}

fn prints(verb: &str, arguments: &[&str], exit: i32) -> Value {
    prints_in(Path::new(FIXTURES), verb, arguments, exit)
}

/// What `tidegate -j VERB ARGUMENTS` prints in `folder`, held against the verb's schema; the exit code is `exit`.
fn prints_in(folder: &Path, verb: &str, arguments: &[&str], exit: i32) -> Value {
    let output = Command::new(env!("CARGO_BIN_EXE_tidegate"))
        .current_dir(folder)
        .arg("-j")
        .args(verb.split(' '))
        .args(arguments)
        .output()
        .expect("the command starts");
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(exit), "{verb} {arguments:?}: {text}");
    let document = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{verb}: {error}\n{text}"));
    conforms(verb, &document);
    document
}

#[test]
fn what_is_said_of_signed_bundles() {
    let folder = folder("bundle");
    let text = format!("[[link]]\nobject = \"{}\"\nprogram = \"cut\"\npriority = 5\n", fixture("gate.o"));
    fs::write(folder.join("bundle.toml"), text).expect("a bundle");
    let made = prints_in(&folder, "bundle keygen", &["ops.key"], 0);
    fs::write(folder.join("trust.toml"), made["trust"].as_str().expect("text")).expect("a trust file");
    prints_in(&folder, "bundle verify", &["bundle.toml", "--trust", "trust.toml"], 4);
    prints_in(&folder, "bundle sign", &["bundle.toml", "--key", "ops.key"], 0);
    prints_in(&folder, "bundle verify", &["bundle.toml", "--trust", "trust.toml"], 0);
}

#[test]
fn what_is_said_of_objects() {
    let (object, rust) = (fixture("features.o"), fixture("features-rs.o"));
    prints("verify", &[&object, &rust], 0);
    prints("prog verify", &[&object], 0);
    prints("verify", &[&object, "nowhere.o"], 5);
    prints("verify", &["--explain", "TG0301"], 0);
    prints("prog dump", &[&object], 0);
    prints("prog dump", &[&rust, "opcodes"], 0);
    prints("prog dump", &[&object, "proofs"], 0);
    prints("prog dump", &[&object, "visual"], 0);
    for object in [&object, &rust] {
        prints("btf dump", &[object], 0);
    }

    let mut bytes = fs::read(&object).expect("the fixture is there");
    let call = [0x85, 0, 0, 0, 3, 0, 1, 0];
    let at = bytes.windows(8).position(|slot| slot == call).expect("the fixture calls tidegate_find");
    bytes[at] = 0xff;
    let broken = folder("refused").join("broken.o");
    fs::write(&broken, bytes).expect("a file");
    let refused = prints("verify", &[broken.to_str().unwrap()], 2);
    assert_eq!(refused["refused"], 1, "{refused}");
}

#[test]
fn what_is_said_of_a_batch_line_by_line() {
    let batch = folder("batch").join("batch");
    fs::write(&batch, "version\nfeature list hooks\nverify nowhere.o\n").expect("a file");
    let output = Command::new(env!("CARGO_BIN_EXE_tidegate")).args(["-j", "batch"]).arg(&batch).output();
    let output = output.expect("the command starts");
    assert_eq!(output.status.code(), Some(6));
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(text.lines().count(), 3, "{text}");
    for line in text.lines() {
        conforms("batch", &serde_json::from_str(line).expect("a document"));
    }
    fs::write(&batch, "version\n").expect("a file");
    let output = Command::new(env!("CARGO_BIN_EXE_tidegate")).args(["-j", "batch"]).arg(&batch).output();
    let text = String::from_utf8_lossy(&output.expect("the command starts").stdout).into_owned();
    conforms("batch", &serde_json::from_str(text.lines().last().expect("a summary")).expect("a document"));
}

#[test]
fn what_is_said_of_runs_and_scenarios() {
    let capture = format!("{FIXTURES}/../../../examples/captures/http-get.pcap");
    prints("prog run", &[&fixture("probes.o"), "--prog", "mark", "--pcap", &capture], 0);
    prints("prog run", &[&fixture("probes.o"), "--prog", "account", "--pcap", &capture], 0);

    let folder = folder("scenarios");
    let head = "objects = [\"probes.o\"]\nprogram = \"without_x\"\n";
    let scenario = |out: &str| {
        format!(
            "{head}[[scenario]]\nname = \"a\"\nsteps = [{{ send = \"axb\" }}]\nexpect = {{ sent = \"{out}\" }}\n"
        )
    };
    let objects = ["--objects", FIXTURES, "--runs", "20"];
    for (out, exit) in [("ab", 0), ("axb", 6)] {
        fs::write(folder.join("probe.toml"), scenario(out)).expect("a file");
        prints("test", &[&[folder.to_str().unwrap()], objects.as_slice()].concat(), exit);
    }
    prints("test", &[&[folder.to_str().unwrap(), "--list"], objects.as_slice()].concat(), 0);
}

#[test]
fn what_is_said_of_this_build_and_this_machine() {
    prints("abi dump", &["c"], 0);
    prints("completions", &["bash"], 0);
    prints("feature list", &[], 0);
    prints("feature list", &["maps"], 0);
    prints("schema", &[], 0);
    prints("schema", &["prog", "show"], 0);
    prints("schema", &["prog", "paint"], 1);
    prints("version", &[], 0);
    prints("version", &["--host", "/nowhere/at-all"], 3);
    let folder = folder("skeleton");
    prints_in(&folder, "gen skeleton", &["c", "mine"], 0);
    let pages = prints_in(&folder, "gen man", &["man1"], 0);
    assert!(pages["files"].as_array().unwrap().contains(&"man1/tidegate-prog-dump.1".into()), "{pages}");
    let doctor =
        Command::new(env!("CARGO_BIN_EXE_tidegate")).args(["-j", "doctor"]).output().expect("it runs");
    conforms("doctor", &serde_json::from_slice(&doctor.stdout).expect("a document"));
}

#[test]
fn errors_are_documents_of_the_verb_too() {
    prints("verify", &["nowhere.o"], 5);
    prints("prog dump", &["nowhere.o"], 5);
    prints("test", &["nowhere"], 5);
    let nothing = fixture("README.md");
    prints("prog run", &[&nothing, "--pcap", &nothing], 1);
    prints("proxy", &[&nothing, "--listen", "127.0.0.1:0", "--upstream", "127.0.0.1:9"], 1);
}

#[test]
fn what_a_proxy_tells_line_by_line() {
    let upstream = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = upstream.local_addr().expect("an address").to_string();
    let echo = thread::spawn(move || {
        let (mut stream, _) = upstream.accept().expect("a connection");
        let mut all = Vec::new();
        stream.read_to_end(&mut all).expect("the client's bytes");
        stream.write_all(&all).expect("the client reads");
    });
    let mut proxy = Command::new(env!("CARGO_BIN_EXE_tidegate"))
        .args(["-j", "proxy", &fixture("probes.o"), "--prog", "mark", "--listen", "127.0.0.1:0"])
        .args(["--upstream", &address, "--connections", "1"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("the proxy starts");
    let mut kinds = Vec::new();
    for line in BufReader::new(proxy.stdout.take().expect("its output")).lines() {
        let line: Value = serde_json::from_str(&line.expect("a line")).expect("a document");
        conforms("proxy", &line);
        if let Some(listen) = line["listen"].as_str() {
            let mut client = TcpStream::connect(listen).expect("the proxy listens");
            client.write_all(b"hello").expect("it is read");
            client.shutdown(std::net::Shutdown::Write).expect("half a connection closes");
            client.read_to_end(&mut Vec::new()).expect("the echo");
        }
        kinds.push(line["event"].as_str().unwrap_or("summary").to_string());
    }
    assert_eq!(kinds, ["listening", "closed", "summary"]);
    assert!(proxy.wait().expect("it ends").success());
    echo.join().expect("no panic");
}

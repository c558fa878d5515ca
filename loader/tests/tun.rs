//! Send policies on real packets: a socket in one network namespace, another one in a second, and the policy between them.
#![cfg(target_os = "linux")]

mod conform;

use std::env;
use std::io::{BufRead, BufReader, Read};
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use nix::sched::{CloneFlags, unshare};
use nix::unistd::{gettid, getuid};
use serde_json::Value;

/// Set for the run of a test that is in a network namespace of its own.
const INSIDE: &str = "TIDEGATE_TEST_INSIDE";
const PROBES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/probes.o");

/// Whether this is the run inside of a namespace; else that run is made, and must hold.
fn is_inside(test: &str) -> bool {
    if env::var_os(INSIDE).is_some() {
        return true;
    }
    if !Path::new("/dev/net/tun").exists() {
        println!("NOT RUN: this system has no TUN devices");
        return false;
    }
    let mut inside = Command::new("unshare");
    inside.args(["--net", "--fork", "--kill-child"]);
    if !getuid().is_root() {
        inside.arg("--map-root-user");
    }
    let inside = inside
        .arg(env::current_exe().expect("this program has a name"))
        .args(["--exact", test, "--nocapture"])
        .env(INSIDE, "1")
        .output()
        .expect("unshare starts");
    let said = [inside.stdout, inside.stderr].concat();
    assert!(inside.status.success(), "{}", String::from_utf8_lossy(&said));
    false
}

fn ip(words: &str) {
    let status = Command::new("ip").args(words.split(' ')).status().expect("ip starts");
    assert!(status.success(), "ip {words}");
}

/// A thread in a network namespace of its own that answers each datagram at `address` with its bytes behind `got `; its thread
/// id is sent first, then it waits until its device is there.
fn remote(
    addresses: Vec<&'static str>,
    ready: mpsc::Sender<String>,
    moved: mpsc::Receiver<()>,
) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("a namespace");
        ready.send(gettid().to_string()).expect("the test waits");
        moved.recv().expect("the device is here");
        ip("addr add 10.7.0.2/24 dev tg-out");
        ip("addr add fd00:7::2/64 dev tg-out nodad");
        ip("link set tg-out up");
        let sockets: Vec<_> = addresses
            .into_iter()
            .map(|address| UdpSocket::bind(address).unwrap_or_else(|error| panic!("{address}: {error}")))
            .collect();
        ready.send(String::new()).expect("the test waits");
        let serve = |socket: UdpSocket| {
            thread::spawn(move || {
                let mut bytes = [0; 2000];
                while let Ok((length, from)) = socket.recv_from(&mut bytes) {
                    let answer = [b"got ", &bytes[..length]].concat();
                    socket.send_to(&answer, from).expect("an answer");
                }
            })
        };
        sockets.into_iter().for_each(|socket| drop(serve(socket)));
    })
}

/// What comes back for `bytes`, within a second.
fn asked(from: &str, to: &str, bytes: &[u8]) -> Option<Vec<u8>> {
    let socket = UdpSocket::bind(from).expect("a socket");
    socket.set_read_timeout(Some(Duration::from_millis(1000))).expect("a timeout");
    socket.send_to(bytes, to.parse::<SocketAddr>().expect("an address")).expect("it is sent");
    let mut answer = [0; 2000];
    let length = socket.recv(&mut answer).ok()?;
    Some(answer[..length].to_vec())
}

#[test]
fn packets_pass_are_changed_or_are_blocked_on_their_way_between_two_machines() {
    if !is_inside("packets_pass_are_changed_or_are_blocked_on_their_way_between_two_machines") {
        return;
    }
    let mut tun = Command::new(env!("CARGO_BIN_EXE_tidegate"))
        .args(["-j", "tun", PROBES, "--prog", "by_port", "--map", "ports.53=2", "--map", "ports.54=1"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut told = BufReader::new(tun.stdout.take().expect("its output"));
    let mut line = String::new();
    told.read_line(&mut line).expect("a line");
    let up: Value = serde_json::from_str(&line).expect("a document");
    conform::conforms("tun", &up);
    assert_eq!(up["event"], "up");

    let (ready, is_ready) = mpsc::channel();
    let (moved, is_moved) = mpsc::channel();
    let addresses = vec!["10.7.0.2:53", "10.7.0.2:54", "10.7.0.2:55", "[fd00:7::2]:53"];
    let remote = remote(addresses, ready, is_moved);
    let thread = is_ready.recv().expect("the namespace");
    ip(&format!("link set tg-out netns {thread}"));
    ip("addr add 10.7.0.1/24 dev tg-in");
    ip("addr add fd00:7::1/64 dev tg-in nodad");
    ip("link set tg-in up");
    moved.send(()).expect("it waits");
    is_ready.recv().expect("the sockets");

    assert_eq!(asked("10.7.0.1:0", "10.7.0.2:55", b"as it is").as_deref(), Some(b"got as it is".as_slice()));
    assert_eq!(asked("10.7.0.1:0", "10.7.0.2:53", b"longer").as_deref(), Some(b"got !!!onger".as_slice()));
    let answer = asked("[fd00:7::1]:0", "[fd00:7::2]:53", b"longer");
    assert_eq!(answer.as_deref(), Some(b"got !!!onger".as_slice()), "over IPv6");
    assert_eq!(asked("10.7.0.1:0", "10.7.0.2:54", b"not at all"), None);

    let interrupted = Command::new("kill").args(["-INT", &tun.id().to_string()]).status();
    assert!(interrupted.expect("kill starts").success());
    let mut rest = String::new();
    told.read_to_string(&mut rest).expect("the summary");
    assert!(tun.wait().expect("it ends").success(), "{rest}");
    let summary: Value = serde_json::from_str(&rest).expect("a document");
    conform::conforms("tun", &summary);
    for (what, number) in [("shown", 4), ("passed", 1), ("changed", 2), ("blocked", 1), ("failed", 0)] {
        assert_eq!(summary[what], number, "{what}: {summary}");
    }
    assert!(summary["returned"].as_u64() >= Some(3), "{summary}");
    remote.join().expect("no panic");
}

#[test]
fn a_policy_about_streams_is_refused() {
    let output = Command::new(env!("CARGO_BIN_EXE_tidegate"))
        .args(["-j", "tun", PROBES, "--prog", "mark"])
        .output()
        .expect("it starts");
    let document: Value = serde_json::from_slice(&output.stdout).expect("a document");
    assert_eq!(document["error"]["code"], "tun-program", "{document}");
}

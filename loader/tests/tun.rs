//! Send policies on real packets: a socket in one network namespace, another one in a second, and the policy between them.
#![cfg(target_os = "linux")]

mod conform;

use std::env;
use std::io::{self, BufRead, BufReader, IoSliceMut, Read};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::sockopt::{IpRecvTos, Ipv6RecvTClass};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, setsockopt};
use nix::unistd::{Pid, gettid, getuid};
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

/// Takes a datagram: its bytes, who sent it, and the type of service or traffic class in the header that it came with.
fn taken(socket: &UdpSocket) -> (Vec<u8>, SocketAddr, i32) {
    let (mut bytes, mut ancillary) = ([0; 2000], nix::cmsg_space!(i32));
    let mut parts = [IoSliceMut::new(&mut bytes)];
    let said =
        recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut parts, Some(&mut ancillary), MsgFlags::MSG_PEEK);
    let said = said.expect("a datagram");
    let tos = said.cmsgs().expect("it fits").find_map(|message| match message {
        ControlMessageOwned::Ipv4Tos(tos) => Some(tos.into()),
        ControlMessageOwned::Ipv6TClass(class) => Some(class),
        _ => None,
    });
    let (length, from) = socket.recv_from(&mut bytes).expect("the same datagram");
    (bytes[..length].to_vec(), from, tos.expect("it was asked for"))
}

/// A thread in a network namespace of its own that answers each datagram at one of `addresses` with its type of service and
/// its bytes; its thread id is sent first, then it waits until its device is there.
fn remote(
    addresses: Vec<&'static str>,
    ready: mpsc::Sender<String>,
    moved: mpsc::Receiver<()>,
) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("a namespace");
        ready.send(gettid().to_string()).expect("the test waits");
        moved.recv().expect("the device is here");
        // Up first: an address that a device has when it comes up is of use a moment later only.
        ip("link set tg-out up");
        ip("addr add 10.7.0.2/24 dev tg-out");
        ip("addr add fd00:7::2/64 dev tg-out nodad");
        let sockets: Vec<_> = addresses
            .into_iter()
            .map(|address| {
                let socket = UdpSocket::bind(address).unwrap_or_else(|error| panic!("{address}: {error}"));
                // Before anybody sends: what came earlier would be told without it.
                match socket.local_addr().expect("it is bound") {
                    SocketAddr::V4(_) => setsockopt(&socket, IpRecvTos, &true).expect("an option"),
                    SocketAddr::V6(_) => setsockopt(&socket, Ipv6RecvTClass, &true).expect("an option"),
                }
                socket
            })
            .collect();
        ready.send(String::new()).expect("the test waits");
        let serve = |socket: UdpSocket| {
            thread::spawn(move || {
                loop {
                    let (bytes, from, tos) = taken(&socket);
                    let answer = [format!("got {tos} ").as_bytes(), &bytes].concat();
                    socket.send_to(&answer, from).expect("an answer");
                }
            })
        };
        sockets.into_iter().for_each(|socket| drop(serve(socket)));
    })
}

/// What comes back for `bytes`, and how often they were sent for it: a datagram may get lost, and a machine may have other things
/// to do.
fn asked(from: &str, to: &str, bytes: &[u8]) -> (String, u64) {
    let socket = UdpSocket::bind(from).expect("a socket");
    let to = to.parse::<SocketAddr>().expect("an address");
    let mut times = 0;
    loop {
        times += 1;
        if let Some(answer) = answered(&socket, |socket| socket.send_to(bytes, to)) {
            return (String::from_utf8(answer).expect("text"), times);
        }
    }
}

/// What comes back for what is sent, within a second.
fn answered(socket: &UdpSocket, send: impl FnOnce(&UdpSocket) -> io::Result<usize>) -> Option<Vec<u8>> {
    socket.set_read_timeout(Some(Duration::from_millis(1000))).expect("a timeout");
    send(socket).expect("it is sent");
    let mut answer = [0; 2000];
    let length = socket.recv(&mut answer).ok()?;
    Some(answer[..length].to_vec())
}

/// `tidegate tun` with a policy, between this namespace and that of a remote machine with these addresses.
struct Between {
    tun: Child,
    told: BufReader<ChildStdout>,
    remote: thread::JoinHandle<()>,
}

impl Between {
    fn start(policy: &[&str], addresses: Vec<&'static str>) -> Self {
        let mut tun = Command::new(env!("CARGO_BIN_EXE_tidegate"))
            .args(["-j", "tun"])
            .args(policy)
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
        let remote = remote(addresses, ready, is_moved);
        let thread = is_ready.recv().expect("the namespace");
        ip(&format!("link set tg-out netns {thread}"));
        ip("link set tg-in up");
        ip("addr add 10.7.0.1/24 dev tg-in");
        ip("addr add fd00:7::1/64 dev tg-in nodad");
        moved.send(()).expect("it waits");
        is_ready.recv().expect("the sockets");
        Self { tun, told, remote }
    }

    /// Interrupts it. What it says in the end.
    fn end(self) -> Value {
        self.end_by(Signal::SIGINT)
    }

    fn end_by(mut self, signal: Signal) -> Value {
        kill(Pid::from_raw(self.tun.id().try_into().expect("a number")), signal).expect("it runs");
        let mut rest = String::new();
        self.told.read_to_string(&mut rest).expect("the summary");
        assert!(self.tun.wait().expect("it ends").success(), "{rest}");
        let summary: Value = serde_json::from_str(&rest).expect("a document");
        conform::conforms("tun", &summary);
        self.remote.join().expect("no panic");
        summary
    }
}

/// The object of a policy of the library that is written in C.
fn compiled(policy: &str) -> PathBuf {
    let programs = concat!(env!("CARGO_MANIFEST_DIR"), "/../programs");
    let object = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("tun-{policy}.o"));
    let status = Command::new("clang-19")
        .args(["-target", "bpf", "-mcpu=v3", "-g", "-O2", "-c", "-I"])
        .arg(format!("{programs}/include"))
        .arg(format!("{programs}/{policy}/{policy}.c"))
        .arg("-o")
        .arg(&object)
        .status()
        .expect("clang-19 is needed: `cargo xtask setup` installs it");
    assert!(status.success(), "{policy} does not compile");
    object
}

#[test]
fn packets_pass_are_changed_or_are_blocked_on_their_way_between_two_machines() {
    if !is_inside("packets_pass_are_changed_or_are_blocked_on_their_way_between_two_machines") {
        return;
    }
    let between = Between::start(
        &[PROBES, "--prog", "by_port", "--map", "ports.53=2", "--map", "ports.54=1"],
        vec!["10.7.0.2:53", "10.7.0.2:54", "10.7.0.2:55", "[fd00:7::2]:53"],
    );
    let (answer, passed) = asked("10.7.0.1:0", "10.7.0.2:55", b"as it is");
    assert_eq!(answer, "got 0 as it is");
    let (answer, changed) = asked("10.7.0.1:0", "10.7.0.2:53", b"longer");
    assert_eq!(answer, "got 0 !!!onger");
    let (answer, changed_v6) = asked("[fd00:7::1]:0", "[fd00:7::2]:53", b"longer");
    assert_eq!(answer, "got 0 !!!onger", "over IPv6");
    let changed = changed + changed_v6;
    let blocked = UdpSocket::bind("10.7.0.1:0").expect("a socket");
    assert_eq!(answered(&blocked, |socket| socket.send_to(b"not at all", "10.7.0.2:54")), None);

    let summary = between.end();
    let shown = passed + changed + 1;
    for (what, number) in
        [("shown", shown), ("passed", passed), ("changed", changed), ("blocked", 1), ("failed", 0)]
    {
        assert_eq!(summary[what], number, "{what}: {summary}");
    }
    assert!(summary["returned"].as_u64() >= Some(3), "{summary}");
}

#[test]
fn a_packet_is_received_with_the_type_of_service_and_at_the_port_that_a_policy_gave_it() {
    if !is_inside("a_packet_is_received_with_the_type_of_service_and_at_the_port_that_a_policy_gave_it") {
        return;
    }
    let object = compiled("dscp_port_mark");
    let marks = ["marks.5004={dscp = 46}", "marks.5005={dscp = 10, port = 6005}"];
    let between = Between::start(
        &[object.to_str().expect("a path"), "--map", marks[0], "--map", marks[1]],
        vec!["10.7.0.2:5003", "10.7.0.2:5004", "10.7.0.2:6005", "[fd00:7::2]:5004", "[fd00:7::2]:6005"],
    );
    let (answer, passed) = asked("10.7.0.1:0", "10.7.0.2:5003", b"a");
    assert_eq!(answer, "got 0 a", "no mark");
    let mut changed = 0;
    for (from, to, answer, why) in [
        ("10.7.0.1:0", "10.7.0.2:5004", "got 184 a", "46 in the upper six bits"),
        ("10.7.0.1:0", "10.7.0.2:5005", "got 40 a", "nobody listens at the port itself"),
        ("[fd00:7::1]:0", "[fd00:7::2]:5004", "got 184 a", "the traffic class"),
        ("[fd00:7::1]:0", "[fd00:7::2]:5005", "got 40 a", "and the port"),
    ] {
        let (came, times) = asked(from, to, b"a");
        assert_eq!(came, answer, "{why}");
        changed += times;
    }

    let summary = between.end();
    for (what, number) in [("passed", passed), ("changed", changed), ("blocked", 0), ("failed", 0)] {
        assert_eq!(summary[what], number, "{what}: {summary}");
    }
}

#[test]
fn who_takes_an_answer_from_anyone_gets_that_of_the_resolver_that_is_pinned_and_a_connected_socket_does_not()
{
    if !is_inside(
        "who_takes_an_answer_from_anyone_gets_that_of_the_resolver_that_is_pinned_and_a_connected_socket_does_not",
    ) {
        return;
    }
    let object = compiled("dns_pin");
    let resolver = "resolvers.4={address = \"10.7.0.2\", port = 53}";
    let between = Between::start(&[object.to_str().expect("a path"), "--map", resolver], vec!["10.7.0.2:53"]);
    let other = "10.7.0.9:53";
    let (answer, times) = asked("10.7.0.1:0", other, b"a");
    assert_eq!(answer, "got 0 a");

    let connected = UdpSocket::bind("10.7.0.1:0").expect("a socket");
    connected.connect(other).expect("an address");
    assert_eq!(answered(&connected, |socket| socket.send(b"a")), None, "the answer is from someone else");

    let summary = between.end();
    assert_eq!((&summary["changed"], &summary["failed"]), (&(times + 1).into(), &0.into()), "{summary}");
}

#[test]
fn a_tunnel_is_a_host_whose_policies_come_and_go_while_packets_pass() {
    if !is_inside("a_tunnel_is_a_host_whose_policies_come_and_go_while_packets_pass") {
        return;
    }
    let socket = Path::new(env!("CARGO_TARGET_TMPDIR")).join("tun-control");
    let path = socket.to_str().expect("a path");
    let between = Between::start(&["--control", path], vec!["10.7.0.2:53"]);
    let run = |words: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
        let output = command.args(["-j", "--host", path]).args(words).output().expect("it starts");
        let document = serde_json::from_slice::<Value>(&output.stdout);
        (output.status.code(), document.unwrap_or_else(|_| panic!("{output:?}")))
    };
    let ok = |words: &[&str]| {
        let (exit, document) = run(words);
        assert_eq!(exit, Some(0), "{words:?}: {document}");
        document
    };
    let ask = || asked("10.7.0.1:0", "10.7.0.2:53", b"longer");
    assert_eq!(ask().0, "got 0 longer", "nothing is loaded");

    ok(&["prog", "load", PROBES, "--prog", "by_port", "--map", "ports.53=2"]);
    let attached = ok(&["link", "attach", "by_port", "outbound-transport-v4"]);
    let (answer, changed) = ask();
    assert_eq!(answer, "got 0 !!!onger");
    ok(&["map", "delete", "ports", "53"]);
    let (answer, passed) = ask();
    assert_eq!(answer, "got 0 longer", "the map says so");
    let stats = ok(&["prog", "stats"]);
    let row = &stats["links"][0];
    let counted = (&row["counted"]["runs"], &row["counted"]["edited"]);
    assert_eq!(counted, (&(changed + passed).into(), &changed.into()), "{stats}");
    let time =
        row["times"].as_array().expect("times").iter().find(|time| time["timed"] != 0).expect("a time");
    conform::conforms("prog stats", &stats);
    assert!(time["sum_ns"].as_u64() > Some(0), "runs take time: {time}");

    let (exit, refused) = run(&["prog", "load", PROBES, "--prog", "mark", "--attach"]);
    assert_eq!((exit, &refused["error"]["code"]), (Some(1), &"hook-unshown".into()), "{refused}");
    assert_eq!(ok(&["feature", "probe"])["answer"]["filters"]["program_type"], "send");

    // A trace is told of packets too.
    let (sender, done) = mpsc::channel();
    let traced = thread::scope(|scope| {
        let tracing = scope.spawn(|| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
            let output = command.args(["-j", "--host", path, "trace", "--count", "1"]).output();
            sender.send(()).expect("the test waits");
            output.expect("it starts")
        });
        while done.try_recv().is_err() {
            ask();
        }
        tracing.join().expect("no panic")
    });
    let traced = String::from_utf8(traced.stdout).expect("text");
    assert!(traced.contains(r#""name":"by_port""#), "{traced}");

    ok(&["link", "detach", &attached["links"][0]["id"].to_string()]);
    ok(&["map", "update", "ports", "53", "2"]);
    assert_eq!(ask().0, "got 0 longer", "it runs no more");
    let summary = between.end_by(Signal::SIGTERM);
    assert_eq!((&summary["changed"], &summary["blocked"]), (&changed.into(), &0.into()), "{summary}");
    assert!(!socket.exists(), "its socket goes with it");
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

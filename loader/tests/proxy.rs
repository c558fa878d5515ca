//! The proxy on real sockets: what one end writes is what the other reads, but for what the policy changes.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};

use tidegate::error::{Error, Exit};
use tidegate::proxy::{self, Line, Options, Output, Summary};
use tidegate::run::{Chain, OnErrorArg, Policy};

const PROBES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/probes.o");

struct Lines(mpsc::Sender<Line>);

impl Output for Lines {
    fn line(&mut self, line: &Line) {
        // A test that has seen enough is gone.
        let _ = self.0.send(line.clone());
    }
}

/// A proxy in a thread, which ends after so many connections.
struct Proxy {
    address: SocketAddr,
    lines: mpsc::Receiver<Line>,
    thread: JoinHandle<Result<Summary, Error>>,
}

fn options(program: &str, upstream: SocketAddr, connections: u64) -> Options {
    Options {
        chain: Chain(vec![Policy {
            file: PROBES.into(),
            programs: vec![program.into()],
            maps: vec![],
            map_file: None,
            globals: vec![],
            on_error: OnErrorArg::Block,
        }]),
        listen: "127.0.0.1:0".parse().unwrap(),
        upstream,
        remote: None,
        inbound: false,
        watch: false,
        control: None,
        record: None,
        connections: Some(connections),
    }
}

fn policy(options: &mut Options) -> &mut Policy {
    options.chain.0.first_mut().expect("there is one")
}

impl Proxy {
    fn start(options: Options) -> Self {
        let (sender, lines) = mpsc::channel();
        let thread = thread::spawn(move || proxy::run(&options, &mut Lines(sender)));
        let Ok(Line::Listening { listen, .. }) = lines.recv() else { panic!("{:?}", thread.join()) };
        Self { address: listen, lines, thread }
    }

    fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).expect("the proxy listens")
    }

    /// The summary, once all connections are over. Nothing may have gone against the contract.
    fn end(self) -> Summary {
        let summary = self.thread.join().expect("no panic").expect("a summary");
        assert_eq!(summary.broken, Vec::<String>::new());
        summary
    }
}

/// An upstream that serves each of its connections by `serve`, one after the other.
fn upstream(connections: usize, serve: impl Fn(TcpStream) + Send + 'static) -> (SocketAddr, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("an address");
    let thread = thread::spawn(move || {
        listener.incoming().take(connections).for_each(|stream| serve(stream.expect("a connection")));
    });
    (address, thread)
}

/// Reads to the end of what is sent, then sends it back, and closes.
fn echo_at_the_end(mut stream: TcpStream) {
    let mut all = Vec::new();
    stream.read_to_end(&mut all).expect("the client's bytes");
    stream.write_all(&all).expect("the client reads");
}

/// Bytes with every value in them, the same ones each time.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 1_u32;
    let next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    };
    std::iter::repeat_with(next).take(length).collect()
}

#[test]
fn half_a_connection_closes_and_the_other_half_goes_on() {
    let (address, served) = upstream(1, echo_at_the_end);
    let proxy = Proxy::start(options("constant", address, 1));
    let mut client = proxy.connect();
    let sent = noise(3 << 20);
    client.write_all(&sent).expect("the upstream reads");
    client.shutdown(Shutdown::Write).expect("connected");
    let mut received = Vec::new();
    client.read_to_end(&mut received).expect("the upstream answers");
    assert!(sent == received, "{} of {} bytes came back", received.len(), sent.len());
    served.join().expect("served");
    let summary = proxy.end();
    assert_eq!((summary.connections, summary.dropped, summary.reset), (1, 0, 0));
    assert_eq!(summary.bytes, 2 * sent.len() as u64);
}

#[test]
fn many_connections_at_once_keep_their_own_bytes_edited_as_the_policy_says() {
    const CLIENTS: usize = 40;
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("an address");
    let served = thread::spawn(move || {
        let each: Vec<_> = listener
            .incoming()
            .take(CLIENTS)
            .map(|stream| thread::spawn(move || echo_at_the_end(stream.expect("a connection"))))
            .collect();
        each.into_iter().for_each(|thread| thread.join().expect("served"));
    });
    let proxy = Proxy::start(options("without_x", address, CLIENTS as u64));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|client| {
            let mut stream = proxy.connect();
            thread::spawn(move || {
                let sent = [format!("client {client} x").into_bytes(), noise(3000 + client)].concat();
                // Pieces of all sizes, so that the cuts are others in each connection.
                sent.chunks(1 + 97 * client).for_each(|piece| stream.write_all(piece).expect("connected"));
                stream.shutdown(Shutdown::Write).expect("connected");
                let mut received = Vec::new();
                stream.read_to_end(&mut received).expect("the upstream answers");
                let expected: Vec<u8> = sent.into_iter().filter(|byte| *byte != b'x').collect();
                assert!(received == expected, "client {client}: {:?}...", &received[..20]);
            })
        })
        .collect();
    clients.into_iter().for_each(|client| client.join().expect("as expected"));
    served.join().expect("served");
    assert_eq!(proxy.end().connections, CLIENTS as u64);
}

#[test]
fn a_dropped_connection_is_reset_at_both_ends() {
    let (sender, arrived) = mpsc::channel();
    let (address, served) = upstream(1, move |mut stream| {
        let mut bytes = [0; 3];
        stream.read_exact(&mut bytes).expect("what passes");
        sender.send(bytes).expect("the test waits");
        let error = stream.read(&mut bytes).expect_err("a reset");
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    });
    let proxy = Proxy::start(options("drop_q", address, 1));
    let mut client = proxy.connect();
    client.write_all(b"abc").expect("connected");
    assert_eq!(&arrived.recv().expect("it arrived"), b"abc");
    client.write_all(b"q").expect("connected");
    let line = proxy.lines.recv().expect("a line").to_string();
    assert!(line.contains("DROPPED  permit, drop-connection; sent 4 -> 3 B, received 0 B"), "{line}");
    let error = client.read(&mut [0]).expect_err("a reset");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    served.join().expect("reset");
    assert_eq!(proxy.end().dropped, 1);
}

#[test]
fn a_reset_of_one_end_reaches_the_other() {
    // Bytes that nobody has read when a socket is closed make the close a reset.
    let (address, served) = upstream(1, |stream| {
        stream.peek(&mut [0]).expect("the client's bytes");
    });
    let proxy = Proxy::start(options("constant", address, 1));
    let mut client = proxy.connect();
    client.write_all(b"unread").expect("connected");
    let error = client.read(&mut [0]).expect_err("a reset");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    served.join().expect("served");
    assert_eq!(proxy.end().reset, 1);
}

#[test]
fn a_client_whose_upstream_is_not_there_is_told_so_by_a_reset() {
    let nobody =
        TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port");
    let proxy = Proxy::start(options("constant", nobody, 1));
    let mut client = proxy.connect();
    assert_eq!(client.read(&mut [0]).expect_err("a reset").kind(), ErrorKind::ConnectionReset);
    let line = proxy.lines.recv().expect("a line").to_string();
    assert!(line.contains("unreachable"), "{line}");
    assert_eq!(proxy.end().unreachable, 1);
}

/// A copy of the probes for one test, in which `mark` inserts other bytes.
fn marking(name: &str, mark: &[u8; 6]) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let mut object = fs::read(PROBES).expect("the fixture");
    let at = object.windows(6).position(|bytes| bytes == b"[mark]").expect("its constant");
    object[at..at + 6].copy_from_slice(mark);
    fs::write(&path, object).expect("a file");
    path
}

/// Sends back what comes.
fn echo(mut stream: TcpStream) {
    let mut buffer = [0; 64];
    loop {
        match stream.read(&mut buffer).expect("the client's bytes") {
            0 => return,
            length => stream.write_all(&buffer[..length]).expect("the client reads"),
        }
    }
}

/// Sends `text`; `expected` comes back.
fn says(client: &mut TcpStream, text: &str, expected: &str) {
    client.write_all(text.as_bytes()).expect("connected");
    let mut answer = vec![0; expected.len()];
    client.read_exact(&mut answer).expect("an answer");
    assert_eq!(String::from_utf8_lossy(&answer), expected);
}

#[test]
fn a_new_version_takes_over_in_the_middle_of_a_connection() {
    let (address, served) = upstream(1, echo);
    let file = marking("proxy-hot-replace.o", b"<one1>");
    let mut options = options("mark", address, 1);
    policy(&mut options).file = file.clone();
    options.watch = true;
    let proxy = Proxy::start(options);
    let mut client = proxy.connect();
    let mut say = |text, expected| says(&mut client, text, expected);
    say("a", "<one1>a");

    marking("proxy-hot-replace.o", b"<two2>");
    assert!(matches!(proxy.lines.recv(), Ok(Line::Replaced { .. })));
    say("b", "<two2>b");

    fs::write(&file, b"no object").expect("a file");
    let Ok(Line::NotReplaced { reason, .. }) = proxy.lines.recv() else { panic!("it was replaced") };
    assert!(reason.contains("object"), "{reason}");
    say("c", "<two2>c");
    drop(client);
    served.join().expect("served");
    let summary = proxy.end();
    assert_eq!((summary.connections, summary.replaced), (1, 1));
}

/// A copy of the gate for one test, which cuts what has a q, as a policy.
fn cutting() -> Policy {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/gate.o").into();
    let mut options = options("cut", "127.0.0.1:9".parse().unwrap(), 1);
    Policy { file, maps: vec!["cuts.113=0".into()], ..policy(&mut options).clone() }
}

#[test]
fn objects_run_one_behind_the_other_in_the_order_that_they_are_named() {
    let (sender, arrived) = mpsc::channel();
    let (address, served) = upstream(2, move |mut stream| {
        let mut all = String::new();
        let whole = stream.read_to_string(&mut all).is_ok();
        sender.send(whole.then_some(all)).expect("the test waits");
    });
    // What the one puts its mark on has been decided on: the other one, which cuts, is not asked about it.
    let mut mark = options("mark", address, 1);
    let marking = policy(&mut mark).clone();
    let chains = [(vec![marking.clone(), cutting()], Some("[mark]quit")), (vec![cutting(), marking], None)];
    for (chain, expected) in chains {
        let proxy = Proxy::start(Options { chain: Chain(chain), ..mark.clone() });
        let mut client = proxy.connect();
        client.write_all(b"quit").expect("connected");
        // It may be reset by now.
        let _ = client.shutdown(Shutdown::Write);
        assert_eq!(arrived.recv().expect("what arrived").as_deref(), expected);
        drop(client);
        proxy.end();
    }
    served.join().expect("served");
}

#[test]
fn each_object_of_a_chain_is_replaced_in_its_place() {
    let (address, served) = upstream(1, echo);
    let mut options = options("mark", address, 1);
    policy(&mut options).file = marking("proxy-chain.o", b"<one1>");
    options.chain.0.insert(0, cutting());
    options.watch = true;
    let proxy = Proxy::start(options);
    let mut client = proxy.connect();
    let mut say = |text, expected| says(&mut client, text, expected);
    say("a", "<one1>a");
    marking("proxy-chain.o", b"<two2>");
    assert!(matches!(proxy.lines.recv(), Ok(Line::Replaced { .. })));
    say("b", "<two2>b");
    drop(client);
    served.join().expect("served");
    assert_eq!(proxy.end().replaced, 1);
}

#[test]
fn what_cannot_be_served_is_refused_before_anything_is_accepted() {
    let nobody = "127.0.0.1:9".parse().unwrap();
    let refused = |change: &dyn Fn(&mut Options)| {
        let mut options = options("mark", nobody, 1);
        change(&mut options);
        let (sender, lines) = mpsc::channel();
        let error = proxy::run(&options, &mut Lines(sender)).expect_err("refused");
        assert!(lines.try_recv().is_err());
        (error.code, error.exit)
    };
    assert_eq!(
        refused(&|options| policy(options).programs = vec!["by_port".into()]),
        ("proxy-program", Exit::Usage)
    );
    assert_eq!(
        refused(&|options| policy(options).file = "none.o".into()),
        ("file-not-found", Exit::NotFound)
    );
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let listen = taken.local_addr().expect("an address");
    assert_eq!(refused(&|options| options.listen = listen), ("proxy-listen", Exit::Usage));
}

#[test]
fn what_was_relayed_becomes_a_scenario_that_passes() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("proxy-record");
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).expect("a folder");
    let capture = folder.join("field.pcap");
    let (address, served) = upstream(2, |mut stream| {
        // The policy resets the second one.
        let _ = stream.read_to_end(&mut Vec::new());
    });
    let mut options = options("drop_q", address, 2);
    options.record = Some(capture.clone());
    let remote = "192.0.2.1:80".parse().unwrap();
    options.remote = Some(remote);
    let proxy = Proxy::start(options);
    for text in ["nothing to see", "a q"] {
        let mut client = proxy.connect();
        client.write_all(text.as_bytes()).expect("the proxy reads");
        // The second one may be reset by now.
        let _ = client.shutdown(Shutdown::Write);
        let _ = client.read_to_end(&mut Vec::new());
    }
    proxy.end();
    served.join().expect("no panic");

    let file = folder.join("field.toml");
    fs::write(&file, "objects = [\"probes.o\"]\nprogram = \"drop_q\"\n").expect("a file");
    let options = tidegate::test::Options {
        paths: vec![file.clone()],
        objects: Some(Path::new(PROBES).parent().expect("a folder").into()),
        seed: 1,
        runs: 100,
        filter: None,
        list: false,
        record: tidegate::test::Wanted { capture: Some(capture), ..Default::default() },
        bless: false,
        junit: None,
        sarif: None,
        coverage: false,
        lcov: None,
        html: None,
    };
    let report = tidegate::test::run(&options).unwrap_or_else(|error| panic!("{error}"));
    let text = fs::read_to_string(&file).expect("it is there");
    assert_eq!(tidegate::cli::Report::exit(&report), Exit::Ok, "{report}");
    assert!(text.contains("remote = \"192.0.2.1:80\""), "{text}");
    assert!(text.contains("{ send = \"nothing to see\" }"), "{text}");
    assert_eq!(text.matches("connection = \"open\"").count(), 1, "{text}");
    assert_eq!(text.matches("connection = \"dropped\"").count(), 1, "{text}");
}

/// The command line in a process of its own, as `tidegate proxy` is used.
#[cfg(target_os = "linux")]
#[test]
fn an_interrupt_that_comes_while_the_proxy_is_busy_is_not_lost() {
    use std::process::{Command, Stdio};

    use nix::fcntl::{FcntlArg, fcntl};
    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;

    // Nobody listens there, and no test is given this port.
    let nowhere = "127.0.0.1:1";
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command.args(["-j", "proxy", PROBES, "--prog", "constant", "--listen", "127.0.0.1:0", "--upstream"]);
    let mut proxy = command.arg(nowhere).stdout(Stdio::piped()).spawn().expect("the command");
    let mut out = proxy.stdout.take().expect("a pipe");
    // A page, so that lines which nobody reads soon keep it busy.
    fcntl(&out, FcntlArg::F_SETPIPE_SZ(4096)).expect("a pipe");
    let mut said = Vec::new();
    while !said.ends_with(b"\n") {
        let mut byte = [0];
        out.read_exact(&mut byte).expect("where it listens");
        said.extend(byte);
    }
    let said = String::from_utf8(said).expect("text");
    let (_, listen) = said.split_once(r#""listen":""#).expect("where it listens");
    let address: SocketAddr =
        listen.split('"').next().and_then(|text| text.parse().ok()).expect("an address");
    let clients: Vec<_> = (0..100).map(|_| TcpStream::connect(address).expect("the proxy listens")).collect();
    for mut client in clients {
        // Reset or closed: the proxy has tried, and has said so or waits to.
        let _ = client.read(&mut [0]);
    }
    kill(Pid::from_raw(proxy.id() as i32), Signal::SIGINT).expect("it runs");
    let mut rest = String::new();
    out.read_to_string(&mut rest).expect("the rest");
    assert!(proxy.wait().expect("it ends").success());
    let summary = rest.lines().last().expect("a summary");
    assert!(summary.contains(r#""connections":100"#), "{summary}");
}

/// Takes no line about a connection until it is told to.
struct Stopped(mpsc::Sender<Line>, mpsc::Receiver<()>);

impl Output for Stopped {
    fn line(&mut self, line: &Line) {
        if matches!(line, Line::Closed(_)) {
            // Whoever tells it to go on may have gone.
            let _ = self.1.recv();
        }
        let _ = self.0.send(line.clone());
    }
}

#[test]
fn a_report_that_nobody_reads_stops_no_connection() {
    let (address, server) = upstream(4, echo_at_the_end);
    let ((sender, lines), (go_on, stopped)) = (mpsc::channel(), mpsc::channel());
    let options = options("account", address, 4);
    let thread = thread::spawn(move || proxy::run(&options, &mut Stopped(sender, stopped)));
    let Ok(Line::Listening { listen, .. }) = lines.recv() else { panic!("{:?}", thread.join()) };
    for _ in 0..4 {
        let mut client = TcpStream::connect(listen).expect("it listens");
        // Before anybody reads: a connection that waited for that would wait for ever.
        client.set_read_timeout(Some(std::time::Duration::from_secs(60))).expect("a time");
        client.write_all(b"hello").expect("it is read");
        client.shutdown(Shutdown::Write).expect("it is connected");
        let mut back = Vec::new();
        client.read_to_end(&mut back).expect("what was said");
        assert_eq!(back, b"hello");
    }
    drop(go_on);
    let summary = thread.join().expect("no panic").expect("a summary");
    assert_eq!((summary.connections, summary.lost), (4, 0));
    assert_eq!(lines.iter().count(), 4, "nothing is lost that there was room for");
    server.join().expect("no panic");
}

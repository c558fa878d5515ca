//! A host with traffic, and commands that are typed to it.

use std::fs;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

pub(crate) const GATE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/gate.o");

pub(crate) fn tidegate() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command.env_remove("TIDEGATE_HOST").env_remove("TIDEGATE_TRUST").env_remove("XDG_RUNTIME_DIR");
    command
}

/// A folder of one test's own, empty.
pub(crate) fn folder(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    // One of an earlier run, or none.
    let _ = fs::remove_dir_all(&path);
    fs::create_dir_all(&path).expect("a folder");
    path
}

/// How a command ended, and what it said.
pub(crate) struct Ran {
    pub(crate) exit: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ran {
    pub(crate) fn of(command: &mut Command) -> Self {
        let output = command.stdin(Stdio::null()).output().expect("the command starts");
        let text = |bytes| String::from_utf8(bytes).expect("output is text");
        Self {
            exit: output.status.code().expect("it ends by itself"),
            out: text(output.stdout),
            err: text(output.stderr),
        }
    }

    /// What it said, when all went well.
    pub(crate) fn ok(self) -> String {
        assert_eq!(self.exit, 0, "{}{}", self.out, self.err);
        self.out
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.out)
            .unwrap_or_else(|_| panic!("one JSON document: {}{}", self.out, self.err))
    }
}

/// A proxy with a control socket and nothing loaded, in front of a server that sends back what it gets.
pub(crate) struct Host {
    process: Child,
    lines: mpsc::Receiver<String>,
    address: SocketAddr,
    pub(crate) socket: PathBuf,
}

impl Host {
    pub(crate) fn start(folder: &Path) -> Self {
        Self::start_by(tidegate(), folder)
    }

    /// One that can have no more than so many files and connections open.
    pub(crate) fn start_narrow(folder: &Path, files: u32) -> Self {
        let mut shell = Command::new("sh");
        shell.arg("-c").arg(format!("ulimit -n {files} && exec \"$0\" \"$@\""));
        shell.arg(env!("CARGO_BIN_EXE_tidegate")).env_remove("TIDEGATE_HOST").env_remove("TIDEGATE_TRUST");
        Self::start_by(shell, folder)
    }

    /// One that is told to listen at `vm`, with these variables in its environment; that is at `socket` then.
    pub(crate) fn start_vm(socket: PathBuf, variables: &[(&str, &Path)]) -> Self {
        let mut command = tidegate();
        command.envs(variables.iter().copied());
        Self::start_at(command, Path::new("vm"), socket)
    }

    fn start_by(command: Command, folder: &Path) -> Self {
        let socket = folder.join("host");
        Self::start_at(command, &socket.clone(), socket)
    }

    /// One that `command` starts, which is told to listen at `told`; that is at `socket` then.
    pub(crate) fn start_at(command: Command, told: &Path, socket: PathBuf) -> Self {
        Self::start_on(command, "127.0.0.1:0", told, socket)
    }

    /// One that accepts IPv4 and IPv6.
    pub(crate) fn start_dual(folder: &Path) -> Self {
        let socket = folder.join("host");
        Self::start_on(tidegate(), "[::]:0", &socket.clone(), socket)
    }

    fn start_on(mut command: Command, listen: &str, told: &Path, socket: PathBuf) -> Self {
        let mut process = command
            .args(["-j", "proxy", "--listen", listen, "--upstream", &echo().to_string()])
            .arg("--control")
            .arg(told)
            .stdout(Stdio::piped())
            .spawn()
            .expect("the command starts");
        // All that it says is read: one that nobody listens to would wait.
        let (said, lines) = mpsc::channel();
        let out = BufReader::new(process.stdout.take().expect("piped"));
        thread::spawn(move || out.lines().map_while(Result::ok).all(|line| said.send(line).is_ok()));
        let first = lines.recv().expect("it says that it listens");
        let first: Value = serde_json::from_str(&first).expect("a document");
        let address = first["listen"].as_str().and_then(|text| text.parse().ok()).expect("an address");
        Self { process, lines, address, socket }
    }

    /// Types a command to it.
    pub(crate) fn run<S: AsRef<std::ffi::OsStr>>(&self, words: &[S]) -> Ran {
        Ran::of(tidegate().arg("--host").arg(&self.socket).args(words))
    }

    /// A connection by IPv4.
    pub(crate) fn connect(&self) -> TcpStream {
        TcpStream::connect((Ipv4Addr::LOCALHOST, self.address.port())).expect("it listens")
    }

    /// Says `text` over a connection, and gives what comes back for it in `length` bytes; `None` when the connection is reset.
    pub(crate) fn say(&self, stream: &mut TcpStream, text: &str, length: usize) -> Option<String> {
        let mut answer = vec![0; length];
        match stream.write_all(text.as_bytes()).and_then(|()| stream.read_exact(&mut answer)) {
            Ok(()) => Some(String::from_utf8(answer).expect("text")),
            Err(error) if matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => None,
            Err(error) => panic!("{error}"),
        }
    }

    /// The most memory that it has had, in KiB.
    #[cfg(target_os = "linux")]
    pub(crate) fn most_memory(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.id())).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a line");
        line.trim().trim_end_matches(" kB").parse().expect("a number")
    }

    /// Asks it to terminate, waits until it has, and gives its exit code.
    pub(crate) fn terminate(&mut self) -> Option<i32> {
        let pid = Pid::from_raw(self.process.id().try_into().expect("a number"));
        kill(pid, Signal::SIGTERM).expect("it runs");
        self.process.wait().expect("it ends").code()
    }

    /// Ends it hard: it tidies nothing up.
    pub(crate) fn kill(&mut self) {
        self.process.kill().expect("it runs");
        self.process.wait().expect("it ends");
    }

    /// The next line about a connection or itself.
    pub(crate) fn line(&mut self) -> String {
        self.lines.recv().expect("it lives")
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A server that sends back what it gets, for as long as the process lives.
fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("an address");
    thread::spawn(move || {
        for stream in listener.incoming() {
            thread::spawn(move || {
                let mut stream = stream.expect("a connection");
                let mut buffer = [0; 4096];
                // Until the other end closes, or resets.
                while let Ok(length @ 1..) = stream.read(&mut buffer) {
                    if stream.write_all(&buffer[..length]).is_err() {
                        break;
                    }
                }
            });
        }
    });
    address
}

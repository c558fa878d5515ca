//! Stream policies on real TCP connections: accepts, connects to an upstream, and shows what is relayed to the hooks.
//!
//! The machine (programs, callouts, filter engine) lives in one thread, as a kernel would: see `engine`. Connections are
//! tasks of an asynchronous runtime that ask it what becomes of their bytes: see `connection`. What is relayed keeps its
//! half-closes, its resets, and its pace: nothing more is read from an end than the other end takes.

mod connection;
mod engine;
mod recording;
mod report;

use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::pin::pin;
use std::thread;
use std::time::{Duration, SystemTime};

use tidegate_abi::ProgramType;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::control::Control;
use crate::error::{Error, Exit};
use crate::flows::Direction;
use crate::host::Machine;
use crate::object::Object;
use crate::run::{Chain, Policy};
use crate::signals;
use connection::Closed;
use engine::Engine;
use recording::Recording;
use report::Report;
pub use report::{Line, Output, Summary};

/// How often the object is looked at, with `--watch`.
const LOOK: Duration = Duration::from_millis(200);

/// How long connections have to come to their end, once the proxy is interrupted.
const GRACE: Duration = Duration::from_millis(500);

/// Lines that wait for whoever reads the report, at most.
const LINES: usize = 4096;

/// What `tidegate proxy` was asked to do.
#[derive(clap::Args, Clone, Debug)]
pub struct Options {
    /// The objects, and how their programs are set up; with --control there need be none
    #[command(flatten)]
    pub chain: Chain,
    /// Where to accept connections; port 0 takes a free one, which is printed
    #[arg(long, value_name = "ADDR:PORT")]
    pub listen: SocketAddr,
    /// Where accepted connections are connected to
    #[arg(long, value_name = "ADDR:PORT")]
    pub upstream: SocketAddr,
    /// What programs see as the remote end, instead of the upstream: policies that decide by port see the real service
    #[arg(long, value_name = "ADDR:PORT")]
    pub remote: Option<SocketAddr>,
    /// Show programs a server's view: the client is the remote end and opened the connection
    #[arg(long)]
    pub inbound: bool,
    /// Put a new version into place when the file of an object changes; connections go on, and so do their maps
    #[arg(long)]
    pub watch: bool,
    /// Be a host: answer `tidegate --host PATH` on this socket, which only its owner may open; `vm` is the one to which verbs speak
    /// that name no host (Unix only)
    #[arg(long, value_name = "PATH")]
    pub control: Option<PathBuf>,
    /// Write what both ends send into a capture as it comes, from which `tidegate test --record` makes scenarios
    #[arg(long, value_name = "FILE")]
    pub record: Option<PathBuf>,
    /// End after so many connections
    #[arg(long, value_name = "N")]
    pub connections: Option<u64>,
}

/// Relays until it is interrupted or terminated, or until so many connections are over as were asked for. Each thing worth telling goes to
/// `output` when it happens; what it does not take in time is lost, and counted.
///
/// # Errors
/// The policy does not fit, or the address can't be listened on. What goes wrong with one connection ends that connection.
pub fn run(options: &Options, output: &mut dyn Output) -> Result<Summary, Error> {
    let mut chain = Vec::new();
    for policy in &options.chain.0 {
        chain.push((Object::read(&policy.file)?, policy.setup()?));
    }
    if chain.is_empty() && options.control.is_none() {
        return Err(Error::usage("proxy-policy", "there is no object, and nobody could bring one")
            .with_help("name an object, or a socket to which they are brought: --control PATH"));
    }
    // The machine stays with the thread that made it: its clock and its random numbers are that thread's.
    let recording = options.record.as_deref().map(Recording::begin).transpose()?;
    let (engine, worker) = Engine::start(recording, move || {
        let Some(((object, setup), behind)) = chain.split_first() else { return Machine::empty() };
        let mut machine = Machine::new(object, setup)?;
        behind.iter().try_for_each(|(object, setup)| machine.add(object, setup))?;
        match machine.runs_beside(ProgramType::Stream) {
            None => Ok(machine),
            Some(program) => {
                let message = format!("`{program}` is no program for streams: a proxy would never run it");
                Err(Error::usage("proxy-program", message).with_help(
                    "a proxy relays TCP streams: programs in the section tidegate/stream decide about them",
                ))
            }
        }
    })?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Error::new("proxy-runtime", Exit::Partial, format!("cannot start: {error}")))?;
    let (mut report, lines) = Report::new(LINES);
    // What reads the report may be slow, or stopped: the relaying has a thread of its own.
    let served = thread::scope(|scope| {
        let (runtime, engine) = (&runtime, &engine);
        let relaying = scope.spawn(move || runtime.block_on(serve(options, engine, &mut report)));
        lines.iter().for_each(|line| output.line(&line));
        relaying.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    });
    // Every task holds the engine: it ends when the last of them is gone.
    runtime.shutdown_timeout(Duration::from_secs(1));
    drop(engine);
    let broken = worker.join().unwrap_or_else(|_| vec!["the thread of the machine panicked".into()]);
    let mut summary = served?;
    summary.broken = broken;
    Ok(summary)
}

async fn serve(options: &Options, engine: &Engine, report: &mut Report) -> Result<Summary, Error> {
    let listener = TcpListener::bind(options.listen).await.map_err(|error| cannot_listen(options, &error))?;
    let listen = listener.local_addr().map_err(|error| cannot_listen(options, &error))?;
    if let Some(path) = &options.control {
        tokio::spawn(Control::bind(path)?.serve(engine.messages()));
    }
    // One for all turns of the loop: a signal that comes while a turn is busy is there in the next.
    let mut ending = pin!(signals::ending().map_err(|error| Error::new(
        "proxy-signal",
        Exit::Partial,
        error.to_string()
    ))?);
    report.line(Line::Listening { listen, upstream: options.upstream });

    let mut summary = Summary::default();
    let mut tasks: JoinSet<Closed> = JoinSet::new();
    let (told, mut changes) = mpsc::channel(1);
    for (at, policy) in options.chain.0.iter().enumerate().filter(|_| options.watch) {
        tokio::spawn(watch(at, policy.clone(), engine.clone(), told.clone()));
    }
    drop(told);
    let mut number = 0;
    loop {
        let enough = options.connections.is_some_and(|wanted| number >= wanted);
        if enough && tasks.is_empty() {
            break;
        }
        tokio::select! {
            accepted = listener.accept(), if !enough => match accepted {
                Ok((client, peer)) => {
                    number += 1;
                    tasks.spawn(connection::relay(engine.clone(), ends(options, number, peer), client));
                }
                // One connection that went away before it was accepted, or no more descriptors: others go on.
                Err(error) => {
                    summary.refused += 1;
                    report.line(Line::NotAccepted { reason: error.to_string() });
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            },
            Some(closed) = tasks.join_next() => match closed {
                Ok(closed) => {
                    summary.add(&closed);
                    report.line(Line::Closed(closed));
                }
                Err(error) => summary.broken.push(error.to_string()),
            },
            Some(line) = changes.recv() => {
                summary.replaced += u64::from(matches!(line, Line::Replaced { .. }));
                report.line(line);
            }
            () = &mut ending => break,
        }
    }
    // Connections that are at their end come to it; the others are cut.
    let finish = async {
        while let Some(Ok(closed)) = tasks.join_next().await {
            summary.add(&closed);
            report.line(Line::Closed(closed));
        }
    };
    // When the time is over the rest is cut.
    let _ = tokio::time::timeout(GRACE, finish).await;
    summary.cut = tasks.len() as u64;
    tasks.shutdown().await;
    summary.tally = engine.tally().await?;
    summary.lost = report.lost();
    Ok(summary)
}

/// Where a connection goes and how programs see it.
fn ends(options: &Options, number: u64, peer: SocketAddr) -> connection::Ends {
    // Where both families are listened to, an IPv4 client has an IPv6 address that says so.
    let (peer, upstream) = (canonical(peer), canonical(options.upstream));
    let (client, service) = of_one_family(peer, options.remote.map_or(upstream, canonical));
    let (local, remote, opened) = if options.inbound {
        (service, client, Direction::Inbound)
    } else {
        (client, service, Direction::Outbound)
    };
    connection::Ends { number, peer, upstream, local, remote, opened }
}

/// The same end, of IPv4 where its address is one of IPv4 in that of IPv6.
fn canonical(mut end: SocketAddr) -> SocketAddr {
    end.set_ip(end.ip().to_canonical());
    end
}

/// Both ends as programs can be shown them: a connection has one family. Where a proxy leads from one to the other it is IPv6, in
/// which IPv4 has a place.
fn of_one_family(client: SocketAddr, service: SocketAddr) -> (SocketAddr, SocketAddr) {
    let mapped = |mut end: SocketAddr| {
        if let IpAddr::V4(v4) = end.ip() {
            end.set_ip(v4.to_ipv6_mapped().into());
        }
        end
    };
    if client.is_ipv4() == service.is_ipv4() { (client, service) } else { (mapped(client), mapped(service)) }
}

fn cannot_listen(options: &Options, error: &io::Error) -> Error {
    let exit = if error.kind() == io::ErrorKind::PermissionDenied { Exit::Denied } else { Exit::Usage };
    Error::new("proxy-listen", exit, format!("cannot listen on {}: {error}", options.listen))
}

/// Puts the object `at` this place of the chain there whenever its file is another one, and has stayed that for one look: compilers write in pieces.
/// What came of it goes to `told`.
async fn watch(at: usize, policy: Policy, engine: Engine, told: mpsc::Sender<Line>) {
    let state = |file: &PathBuf| -> Option<(SystemTime, u64)> {
        let data = fs::metadata(file).ok()?;
        Some((data.modified().ok()?, data.len()))
    };
    let mut runs = state(&policy.file);
    let mut seen = runs;
    loop {
        tokio::time::sleep(LOOK).await;
        let now = state(&policy.file);
        if now.is_some() && now == seen && now != runs {
            runs = now;
            let file = policy.file.clone();
            let line = match replace(at, &policy, &engine).await {
                Ok(()) => Line::Replaced { file },
                Err(error) => Line::NotReplaced { file, reason: error.to_string() },
            };
            if told.send(line).await.is_err() {
                return;
            }
        }
        seen = now;
    }
}

async fn replace(at: usize, policy: &Policy, engine: &Engine) -> Result<(), Error> {
    engine.replace(at, Object::read(&policy.file)?, policy.setup()?).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_shown_both_ends_in_one_family() {
        let end = |text: &str| text.parse::<SocketAddr>().expect("an end");
        for (client, service, shown) in [
            ("[::ffff:10.0.0.1]:9", "10.0.0.2:80", ("10.0.0.1:9", "10.0.0.2:80")),
            ("10.0.0.1:9", "[::ffff:10.0.0.2]:80", ("10.0.0.1:9", "10.0.0.2:80")),
            ("[::ffff:10.0.0.1]:9", "[fd00::2]:80", ("[::ffff:10.0.0.1]:9", "[fd00::2]:80")),
            ("[fd00::1]:9", "10.0.0.2:80", ("[fd00::1]:9", "[::ffff:10.0.0.2]:80")),
        ] {
            let (client, service) = (canonical(end(client)), canonical(end(service)));
            assert_eq!(of_one_family(client, service), (end(shown.0), end(shown.1)));
        }
    }
}

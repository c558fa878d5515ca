//! Answers the lab's traffic: what it asks for is shown to the driver's callouts, here, in the driver's process.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use fwps_sim::{Completion, Config, Direction, FlowId, FlowSpec, FlowState, Packet, SendOutcome};
use fwps_sys::{FWPM_SERVICE_STATE, FWPS_STREAM_FLAG};
use tidegate_lab_wire::{
    self as wire, Delivery, End, Fate, Kind, PORT_FILE, Reply, Report, Request, Sent, UNLOADED_FILE,
};

use crate::irql::Clock;
use crate::{etw, police, pool, simulator};

/// Held while traffic is shown: work items then run when the simulator's own order says so.
static SHOWING: Mutex<()> = Mutex::new(());

fn showing() -> MutexGuard<'static, ()> {
    SHOWING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs the driver's work items that are queued while no traffic is shown.
pub(crate) fn work() {
    let mut held = 0;
    loop {
        thread::sleep(Duration::from_millis(1));
        let _turn = showing();
        simulator().work();
        // A driver that has just ended may still free its last memory.
        let bytes = pool::held().0;
        if bytes != held
            && etw::left() == 0
            && let Ok(before) = fs::read_to_string(UNLOADED_FILE)
        {
            write_down(&before.lines().skip(1).map(str::to_owned).collect::<Vec<_>>());
        }
        held = bytes;
    }
}

/// Listens at a port of this machine until the process ends.
pub(crate) fn listen() {
    if let Err(error) = serve() {
        police::violate(format!("the lab's traffic can't be heard: {error}"));
    }
}

fn serve() -> io::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let port = listener.local_addr()?.port();
    // Whoever reads the file finds it whole.
    let file = Path::new(PORT_FILE);
    let new = file.with_extension("new");
    if let Some(folder) = file.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(&new, port.to_string())?;
    fs::rename(&new, file)?;
    for client in listener.incoming() {
        let client = client?;
        thread::spawn(move || {
            // A client that goes away is done.
            let _ = answer_all(client);
        });
    }
    Ok(())
}

fn answer_all(mut client: TcpStream) -> io::Result<()> {
    client.set_nodelay(true)?;
    loop {
        let request = wire::read(&mut client)?;
        let reply = answer(&request);
        wire::write(&mut client, &reply)?;
    }
}

fn answer(request: &Request) -> Reply {
    let _turn = showing();
    match request {
        Request::Stream(stream) => {
            configure(Config::random(stream.seed));
            let clock = Clock::stop(stream.now);
            let flow = show(stream, &clock);
            Reply::Stream(close(flow))
        }
        Request::Packets { seed, now, packets } => {
            configure(Config::random(*seed));
            let clock = Clock::stop(*now);
            Reply::Packets(packets.iter().map(|packet| send(packet, &clock)).collect())
        }
        Request::Leave(stream) => {
            configure(Config { completion: Completion::Manual, ..Config::random(stream.seed) });
            show(stream, &Clock::stop(stream.now));
            Reply::Report(report())
        }
        Request::Time { count, bytes } => {
            configure(Config::default());
            time(*count, bytes)
        }
        Request::FailPool { per_mille } => {
            pool::fail(*per_mille);
            Reply::Report(report())
        }
        Request::Service { runs } => {
            let state = if *runs { FWPM_SERVICE_STATE::RUNNING } else { FWPM_SERVICE_STATE::STOPPED };
            simulator().set_service_state(state);
            Reply::Report(report())
        }
        Request::Report => Reply::Report(report()),
    }
}

fn configure(config: Config) {
    simulator().configure(Config { trace_length: 0, ..config });
}

const fn direction(outbound: bool) -> Direction {
    if outbound { Direction::Send } else { Direction::Receive }
}

/// Shows a connection up to its last step.
fn show(stream: &wire::Stream, clock: &Clock) -> FlowId {
    let sim = simulator();
    let spec = if stream.outbound { FlowSpec::outbound } else { FlowSpec::inbound };
    let mut spec = spec(stream.local, stream.remote);
    if let Some(application) = &stream.application {
        if application.is_empty() {
            spec.process_id = 0;
        }
        spec.application.clone_from(application);
    }
    let flow = sim.open_flow(&spec);
    for step in &stream.steps {
        if !step.after.is_zero() {
            sim.settle();
            clock.pass(step.after);
        }
        let direction = direction(step.outbound);
        if step.missed > 0 {
            sim.miss(flow, direction, step.missed as usize);
        }
        match &step.kind {
            Kind::Data { bytes, push } => {
                let pushed = *push && !step.outbound;
                let flags = if pushed { FWPS_STREAM_FLAG::RECEIVE_PUSH } else { FWPS_STREAM_FLAG::NONE };
                sim.indicate_with(flow, direction, bytes, flags);
            }
            Kind::Fin => sim.fin(flow, direction),
            Kind::Reset => sim.abort(flow, direction),
        }
    }
    flow
}

fn close(flow: FlowId) -> Delivery {
    let sim = simulator();
    sim.settle();
    let dropped = sim.flow_state(flow) == FlowState::Dropped;
    sim.close_flow(flow);
    let ends = Direction::BOTH.map(|direction| {
        let out = sim.take_delivered(flow, direction);
        End { bytes: out.bytes, fin: out.fin, aborted: out.aborted }
    });
    sim.forget_flow(flow);
    Delivery { flow: flow.0, ends, dropped }
}

fn send(packet: &wire::Packet, clock: &Clock) -> Fate {
    let sim = simulator();
    let wire::Packet { after, local, remote, tcp, payload } = packet;
    clock.pass(*after);
    let id = sim.send(&match tcp {
        Some((flags, sequence)) => Packet::tcp(*local, *remote, *flags, *sequence, payload),
        None => Packet::udp(*local, *remote, payload),
    });
    sim.settle();
    let sent = sim.take_sent().into_iter();
    Fate {
        passed: sim.outcome(id) == Some(SendOutcome::Permitted),
        sent: sent
            .map(|sent| Sent { remote: sent.remote, bytes: sent.bytes, checksum_ok: sent.checksum_ok })
            .collect(),
    }
}

fn time(count: u32, bytes: &[u8]) -> Reply {
    let sim = simulator();
    let ends = ((Ipv4Addr::new(10, 0, 0, 2), 49152).into(), (Ipv4Addr::new(192, 0, 2, 1), 80).into());
    let flow = sim.open_flow(&FlowSpec::outbound(ends.0, ends.1));
    let _ = sim.take_classify_time();
    for _ in 0..count {
        sim.indicate(flow, Direction::Send, bytes);
    }
    let (count, time) = sim.take_classify_time();
    close(flow);
    Reply::Time { count, nanoseconds: time.as_nanos() as u64 }
}

fn report() -> Report {
    let (pool_bytes, pool_blocks, failed) = pool::held();
    let mut violations = police::take();
    violations.extend(simulator().take_violations().iter().map(ToString::to_string));
    Report { violations, pool_bytes, pool_blocks, failed, providers: etw::left() as u64 }
}

/// Writes down what a driver that has ended left behind.
pub(crate) fn unloaded() {
    simulator().look_for_leaks();
    write_down(&report().violations);
}

/// Bytes and blocks of pool and the number of violations, then those, a line each.
fn write_down(violations: &[String]) {
    let (bytes, blocks, _) = pool::held();
    let head = format!("{bytes} {blocks} {}\n", violations.len());
    let text = violations.iter().fold(head, |all, line| all + line + "\n");
    if let Err(error) = fs::write(UNLOADED_FILE, text) {
        police::violate(format!("the last report can't be written: {error}"));
    }
}

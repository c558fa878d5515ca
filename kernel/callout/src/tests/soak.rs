//! A machine under load for as long as asked: two threads open and close connections, links are swapped under them, and its
//! memory is watched.

use std::format;
use std::fs;
use std::string::String;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::ScopedJoinHandle;
use std::time::{Duration, Instant};
use std::vec::Vec;

use fwps_sim::{Completion, Config, Direction, FlowSpec, FlowState, Packet, Simulator, Split};
use tidegate_abi::control::{
    Detached, Id, LinkAttach, LinkDetach, LinkReplace, Loaded, Name, OnError, ProgramLoad, parse_reply,
};
use tidegate_abi::limits::DEFAULT_BUDGET;
use tidegate_abi::{Grants, Hook, Verdict};

use super::asm::Rewrite;
use super::rewrites::{Dice, bytes, in_places, play, rewrites};
use super::{Bench, SENDS, STREAMS, asm, ends};

/// Programs for the stream hooks, as what they do to a string and as bytecode.
const PROGRAMS: usize = 4;
/// How often the links of a hook change.
const SWAP: Duration = Duration::from_millis(100);
/// Bytes that every datagram gets in front.
const MARK: &[u8] = b"<>";

/// What the threads share.
struct Load<'b> {
    sim: &'b Simulator,
    /// Every rewrite that some link may make: any place may be rewritten, or not.
    rewrites: &'b [Rewrite],
    stop: AtomicBool,
    flows: AtomicU64,
    datagrams: AtomicU64,
}

/// One thread: connections one after the other, each seen to its end and held against the string.
fn connections(load: &Load<'_>, seed: u64) {
    let mut dice = Dice::new(seed);
    let sim = load.sim;
    while !load.stop.load(Ordering::Relaxed) {
        let (local, remote) = ends(STREAMS[dice.below(2)]);
        let spec = FlowSpec::outbound(local, remote);
        let flow =
            sim.open_flow(&if dice.below(2) == 0 { spec } else { FlowSpec { outbound: false, ..spec } });
        let data = [bytes(&mut dice, 200), bytes(&mut dice, 200)];
        match dice.below(8) {
            0 => {
                sim.indicate(flow, Direction::Send, &data[0]);
                sim.abort(flow, Direction::BOTH[dice.below(2)]);
            }
            1 => {
                sim.indicate(flow, Direction::Receive, &data[1]);
                sim.close_flow(flow);
            }
            _ => {
                play(&mut dice, sim, flow, [&data[0], &data[1]]);
                let whole = sim.flow_state(flow) == FlowState::Closed;
                for (side, data) in Direction::BOTH.into_iter().zip(&data) {
                    let out = sim.delivered(flow, side).bytes;
                    assert!(in_places(load.rewrites, data, &out, whole), "{data:?} came out as {out:?}");
                }
            }
        }
        sim.settle();
        sim.close_flow(flow);
        sim.forget_flow(flow);
        if dice.below(4) == 0 {
            let (local, remote) = ends(SENDS[dice.below(2)]);
            sim.send(&Packet::udp(local, remote, b"datagram"));
            load.datagrams.fetch_add(1, Ordering::Relaxed);
        }
        if load.flows.fetch_add(1, Ordering::Relaxed).is_multiple_of(256) {
            for sent in sim.take_sent() {
                let payload = sent.bytes[8..].strip_prefix(MARK).unwrap_or(&sent.bytes[8..]);
                assert_eq!((payload, sent.checksum_ok), (&b"datagram"[..], true));
            }
            sim.forget_sends();
        }
    }
}

/// Memory of this process that is in the machine's, in KiB.
fn resident() -> u64 {
    let statm = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).map_or(0, |pages| pages * 4)
}

/// The links of the hooks, while they are swapped.
struct Links<'b> {
    bench: &'b Bench,
    programs: [Vec<Id>; 2],
    links: Vec<(Hook, Id)>,
    swaps: u64,
}

impl Links<'_> {
    fn attach(&mut self, hook: Hook, program: Id, on_error: OnError) {
        let attach = LinkAttach {
            program,
            hook,
            priority: 1,
            on_error,
            budget: DEFAULT_BUDGET,
            snapshot: false,
            filter: None,
        };
        let link = parse_reply(&self.bench.ask(&attach)).expect("attached");
        self.links.push((hook, link));
    }

    /// Replaces the program of a link, or ends a link and makes another.
    fn swap(&mut self, dice: &mut Dice) {
        self.swaps += 1;
        let at = dice.below(self.links.len());
        let (hook, link) = self.links[at];
        let programs = &self.programs[usize::from(SENDS.contains(&hook))];
        let program = programs[dice.below(programs.len())];
        if dice.below(2) == 0 {
            parse_reply::<()>(&self.bench.ask(&LinkReplace { link, program })).expect("replaced");
            return;
        }
        // What it still keeps back is decided on by its rule, once its time is over; it is asked nothing new.
        parse_reply::<Detached>(&self.bench.ask(&LinkDetach { link })).expect("detached");
        self.links.swap_remove(at);
        let on_error = if dice.below(2) == 0 { OnError::Block } else { OnError::Permit };
        self.attach(hook, program, on_error);
    }
}

fn load(bench: &Bench, hook: Hook, code: &[u8]) -> Id {
    let name = Name::try_from("soak").expect("short");
    let program_type = hook.program_type();
    let reply =
        bench.ask(&ProgramLoad { name, program_type, code, maps: Default::default(), grants: Grants::ALL });
    parse_reply::<Loaded>(&reply).expect("a right program").program
}

/// One line of the table.
struct Row {
    seconds: u64,
    flows: u64,
    swaps: u64,
    resident: u64,
}

/// Runs the load for `seconds`.
///
/// # Panics
/// When a rule is broken, a byte is wrong, something is left behind, or memory grows.
fn soak(seconds: u64, seed: u64) -> Vec<Row> {
    let config = Config {
        seed,
        split: Split::Random,
        completion: Completion::Random,
        unmapped: true,
        trace_length: 0,
        ..Config::default()
    };
    let bench = Bench::new(config);
    let mut dice = Dice::new(seed);
    let sets: Vec<Vec<Rewrite>> = (0..PROGRAMS).map(|_| rewrites(&mut dice)).collect();
    let streams = sets.iter().map(|set| load(&bench, Hook::StreamV4, &asm::rewrite(set, 1))).collect();
    let marks = asm::edits(&[(8, 0, MARK)], Verdict::Permit);
    let sends = [asm::verdict(Verdict::Permit), marks];
    let sends = sends.iter().map(|code| load(&bench, Hook::OutboundTransportV4, code)).collect();
    let mut links = Links { bench: &bench, programs: [streams, sends], links: Vec::new(), swaps: 0 };
    for hook in STREAMS.into_iter().chain(SENDS) {
        let program = links.programs[usize::from(SENDS.contains(&hook))][0];
        links.attach(hook, program, OnError::Block);
    }

    let work = Load {
        sim: &bench.sim,
        rewrites: &sets.concat(),
        stop: AtomicBool::new(false),
        flows: AtomicU64::new(0),
        datagrams: AtomicU64::new(0),
    };
    let mut rows = Vec::new();
    std::thread::scope(|scope| {
        let workers = [1, 2].map(|worker| {
            let work = &work;
            scope.spawn(move || connections(work, seed + worker))
        });
        let start = Instant::now();
        let every = (seconds / 20).max(1);
        let mut next = every;
        while start.elapsed() < Duration::from_secs(seconds)
            && !workers.iter().any(ScopedJoinHandle::is_finished)
        {
            std::thread::sleep(SWAP);
            links.swap(&mut dice);
            let now = start.elapsed().as_secs();
            if now >= next {
                next += every;
                let flows = work.flows.load(Ordering::Relaxed);
                rows.push(Row { seconds: now, flows, swaps: links.swaps, resident: resident() });
            }
        }
        work.stop.store(true, Ordering::Relaxed);
    });
    drop(links);
    bench.finish();
    rows
}

/// The most memory of some rows.
fn most(rows: &[Row]) -> u64 {
    rows.iter().map(|row| row.resident).max().unwrap_or(0)
}

#[test]
fn links_are_swapped_under_load() {
    let rows = soak(2, 7);
    assert!(rows.last().is_some_and(|row| row.flows > 100 && row.swaps > 2));
}

/// `cargo xtask soak`.
#[test]
#[ignore = "runs for minutes: cargo xtask soak"]
fn soaks() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let rows = soak(number("TIDEGATE_SECONDS").unwrap_or(60), number("TIDEGATE_SEED").unwrap_or(1));
    let lines: String = rows
        .iter()
        .map(|row| format!("{} {} {} {}\n", row.seconds, row.flows, row.swaps, row.resident))
        .collect();
    match std::env::var_os("TIDEGATE_SOAK_ROWS") {
        Some(file) => fs::write(file, lines).expect("the file of the rows"),
        None => std::println!("{lines}"),
    }
    // The first third fills the pools and the books of the simulator.
    let third = rows.len() / 3;
    let (before, after) = (most(&rows[third..2 * third]), most(&rows[2 * third..]));
    assert!(
        after <= before + before / 20,
        "memory grows: {before} KiB in the second third, {after} in the last"
    );
}

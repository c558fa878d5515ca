//! What no client does: random and truncated requests, wrong codes, huge lengths, requests that are cancelled or left behind,
//! from many threads, while other clients are killed in the middle of a command and allocations of the driver fail.
//!
//! The driver may refuse all of it. It has to go on answering, and to hold nothing in the end that nobody asked it to hold.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use tidegate::client::{Client, Refused};
use tidegate::device::Device;
use tidegate::host::{Loaded, Setup};
use tidegate::object::Object;
use tidegate::test::cuts::Dice;
use tidegate_abi::control::{
    self, Id, LinkList, MapCreate, MapList, MapRelease, Name, Operation, ProgramList, ProgramUnload, Status,
    Version,
};
use tidegate_abi::{Hook, MapDef, MapKind, device, limits};

use crate::doubles::Doubles;
use crate::line;
use crate::requests::{Handle, Sent};

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Folder with the compiled policies
    objects: PathBuf,
    /// For how long
    #[arg(long, default_value_t = 20)]
    seconds: u64,
    /// Source of every choice
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Threads that send requests
    #[arg(long, default_value_t = 8)]
    threads: u64,
}

/// What came of it.
#[derive(Serialize)]
struct Row {
    seconds: u64,
    requests: u64,
    answered: u64,
    refused_by_the_system: u64,
    cancelled: u64,
    clients_killed: u64,
    allocations_failed: u64,
    violations: usize,
    leaked_bytes: i64,
    /// Rules that were broken.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    wrong: Vec<String>,
}

/// What the threads count.
#[derive(Default)]
struct Counts {
    requests: AtomicU64,
    answered: AtomicU64,
    refused: AtomicU64,
    cancelled: AtomicU64,
}

impl Counts {
    fn count(&self, sent: Sent) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        let counter = match sent {
            Sent::Answered => &self.answered,
            Sent::Refused => &self.refused,
            Sent::Cancelled => &self.cancelled,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// Of a thousand allocations, in the seconds when memory is short.
const SHORT: u32 = 50;

pub(crate) fn run(options: &Options) -> Result<()> {
    let mut doubles = Doubles::connect()?;
    let before = doubles.report()?;
    let (counts, over) = (Counts::default(), AtomicBool::new(false));
    let mut killed = 0;
    let start = Instant::now();
    thread::scope(|scope| -> Result<()> {
        for thread in 0..options.threads {
            let (counts, over) = (&counts, &over);
            let mut dice = Dice(options.seed.wrapping_add(thread).wrapping_mul(0x9e37_79b9));
            scope.spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    abuse(&mut dice, counts);
                }
            });
        }
        let result = oversee(options, start, &mut doubles, &mut killed);
        over.store(true, Ordering::Relaxed);
        result
    })?;
    doubles.fail_pool(0)?;

    let mut client = Client::driver(Device::open()?);
    client.call(&Version {}).context("the driver does not answer any more")?;
    take_out_all(&mut client)?;
    let after = doubles.report()?;
    let row = Row {
        seconds: options.seconds,
        requests: counts.requests.into_inner(),
        answered: counts.answered.into_inner(),
        refused_by_the_system: counts.refused.into_inner(),
        cancelled: counts.cancelled.into_inner(),
        clients_killed: killed,
        allocations_failed: after.failed,
        violations: after.violations.len(),
        leaked_bytes: after.pool_bytes as i64 - before.pool_bytes as i64,
        wrong: after.violations,
    };
    line(&row)?;
    ensure!(row.violations == 0 && row.leaked_bytes == 0, "the driver did not keep its rules");
    Ok(())
}

/// Kills clients, and lets memory be short every other second, until the time is over.
fn oversee(options: &Options, start: Instant, doubles: &mut Doubles, killed: &mut u64) -> Result<()> {
    let mut dice = Dice(options.seed);
    while start.elapsed() < Duration::from_secs(options.seconds) {
        let mut client = victim_process(&options.objects)?;
        thread::sleep(Duration::from_millis(50 + dice.below(300) as u64));
        client.kill()?;
        client.wait()?;
        *killed += 1;
        let short = start.elapsed().as_secs() % 2 == 1;
        doubles.fail_pool(if short { SHORT } else { 0 })?;
        if !short && let Ok(device) = Device::open() {
            // So that what is made by chance does not fill the driver. Someone may be at the same thing meanwhile.
            let _ = take_out_all(&mut Client::driver(device));
        }
    }
    Ok(())
}

fn victim_process(objects: &Path) -> Result<Child> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("victim").arg(objects).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    Ok(command.spawn()?)
}

/// Ordinary commands: a policy is loaded, attached, fed and taken out, again and again. What is refused is tried again.
pub(crate) fn victim(objects: &Path) -> Result<()> {
    let names = ["tls_sni_allow", "http_hdr_rewrite", "dns_filter"];
    let objects: Vec<Object> = names
        .iter()
        .map(|name| Object::read(&objects.join(format!("{name}.o"))))
        .collect::<Result<_, _>>()?;
    loop {
        for object in &objects {
            let mut client = Client::driver(Device::open()?);
            if let Ok(loaded) = Loaded::new(&mut client, object, &Setup::default()) {
                let _ = loaded.reset(&mut client);
                let _ = loaded.events(&mut client);
                loaded.unload(&mut client);
            }
        }
    }
}

/// One thing that no client does.
fn abuse(dice: &mut Dice, counts: &Counts) {
    let Ok(handle) = Handle::open(dice.below(4) > 0, dice.below(2) == 0) else {
        return counts.count(Sent::Refused);
    };
    for _ in 0..1 + dice.below(8) {
        let (code, request) = (code(dice), request(dice));
        let room = match dice.below(8) {
            0 => dice.below(40),
            1 => limits::MAX_MESSAGE + dice.below(2),
            _ => 64 + dice.below(8192),
        };
        let patience = Duration::from_micros(dice.below(3000) as u64);
        counts.count(handle.send(code, &request, room, patience));
    }
    // A request that waits is left behind with the handle, one time in two.
    if dice.below(2) == 0 {
        leave(handle, counts);
    }
}

/// Closes `handle` while it waits for the records of a ring buffer that has none.
fn leave(handle: Handle, counts: &Counts) {
    let Ok(mut client) = Device::open().map(Client::driver) else { return counts.count(Sent::Refused) };
    let def = MapDef { kind: MapKind::RingBuf, key_size: 0, value_size: 0, max_entries: 4096, flags: 0 };
    let name = Name::try_from("abused").unwrap_or_default();
    // Without one, as when memory is short, there is no waiting.
    let Ok(map) = client.call(&MapCreate { name, def }) else { return counts.count(Sent::Refused) };
    counts.count(handle.leave(device::WAIT, &message(&control::EventRead { map, max: u32::MAX })));
    let _ = client.call(&MapRelease { map });
}

/// Most often a code that the driver has, sometimes with a bit of it changed, sometimes any.
fn code(dice: &mut Dice) -> u32 {
    let known = [device::QUERY, device::CHANGE, device::WAIT][dice.below(3)];
    match dice.below(8) {
        0 => dice.roll() as u32,
        1 => known ^ 1 << dice.below(32),
        _ => known,
    }
}

/// A message: right, cut, lengthened, changed somewhere, random, or very long.
fn request(dice: &mut Dice) -> Vec<u8> {
    let id = dice.below(40) as Id;
    let mut bytes = match dice.below(14) {
        0 => message(&Version {}),
        1 => message(&MapList { after: id }),
        2 => message(&ProgramList { after: id }),
        3 => message(&LinkList { hook: Hook::ALL[dice.below(4)] }),
        4 => message(&MapRelease { map: id }),
        5 => message(&control::MapLookup { map: id, key: &[0; 4] }),
        6 => message(&control::MapUpdate { map: id, key: &[0; 4], value: &[1; 8], flags: dice.roll() & 3 }),
        7 => message(&control::EventRead { map: id, max: dice.roll() as u32 }),
        8 => program(dice),
        9 => message(&control::FlowList { from: dice.roll() as u32 & 127 }),
        10 => message(&control::TraceBegin { link: 0, flow: 0, ends: 0, bytes: 1 << dice.below(25) }),
        11 => message(&control::TraceRead { trace: id, max: dice.roll() as u32 }),
        12 => message(&control::ProgramCode { program: id }),
        _ => {
            let kind = MapKind::ALL[dice.below(MapKind::ALL.len())];
            let mut size = || dice.below(256) as u32;
            let def = MapDef { kind, key_size: 4, value_size: size(), max_entries: size(), flags: 0 };
            message(&MapCreate { name: Name::try_from("abuse").unwrap_or_default(), def })
        }
    };
    match dice.below(8) {
        0 => bytes.truncate(dice.below(bytes.len() + 1)),
        1 => bytes.extend((0..dice.below(64)).map(|at| at as u8)),
        2 if !bytes.is_empty() => {
            for _ in 0..1 + dice.below(4) {
                let at = dice.below(bytes.len());
                bytes[at] ^= 1 << dice.below(8);
            }
        }
        3 => bytes = (0..dice.below(200)).map(|_| dice.roll() as u8).collect(),
        4 if dice.below(16) == 0 => bytes.resize(limits::MAX_MESSAGE + dice.below(2), 0),
        _ => {}
    }
    bytes
}

/// Random instructions, which the verifier has to judge.
fn program(dice: &mut Dice) -> Vec<u8> {
    let code: Vec<u8> = (0..8 * (1 + dice.below(40))).map(|_| dice.roll() as u8).collect();
    message(&control::ProgramLoad {
        name: Name::try_from("abuse").unwrap_or_default(),
        program_type: tidegate_abi::ProgramType::ALL[dice.below(2)],
        code: &code,
        maps: Default::default(),
        grants: tidegate_abi::Grants::ALL,
    })
}

fn message<O: Operation>(operation: &O) -> Vec<u8> {
    let mut bytes = vec![0; 4096];
    let length = control::write_request(operation, &mut bytes).unwrap_or(0);
    bytes.truncate(length);
    bytes
}

/// Takes everything out of the driver: what is left of killed clients, and of requests that were right by chance.
fn take_out_all(client: &mut Client) -> Result<()> {
    for hook in Hook::ALL {
        for link in client.call(&LinkList { hook })? {
            gone(client.detach(link))?;
        }
    }
    loop {
        let programs = client.call(&ProgramList { after: 0 })?;
        let maps = client.call(&MapList { after: 0 })?;
        if programs.is_empty() && maps.is_empty() {
            return Ok(());
        }
        for program in programs {
            gone(client.call(&ProgramUnload { program }))?;
        }
        for map in maps {
            gone(client.call(&MapRelease { map }))?;
        }
    }
}

/// What is gone already need not be taken out.
fn gone(result: Result<(), Refused>) -> Result<()> {
    match result {
        Err(refused) if refused.status != Status::NotFound => Err(refused.into()),
        _ => Ok(()),
    }
}

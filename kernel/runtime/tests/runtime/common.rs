//! A runtime to talk to, and programs to load into it.

use std::cell::Cell;
use std::time::Instant;

use serde::de::DeserializeOwned;
use tidegate_abi::control::*;
use tidegate_abi::insn::{class, jmp, pseudo, source};
use tidegate_abi::{Grants, Hook, Insn, MapDef, MapKind, ProgramType, SendContext, StreamContext, Verdict};
use tidegate_runtime::{Calls, Link, Platform, RunError, Runtime};
use tidegate_vm::{Fault, Host, Memory, Stack};

thread_local! {
    /// The processor that a thread plays.
    pub(crate) static PROCESSOR: Cell<u32> = const { Cell::new(0) };
    /// The IRQL that a thread runs at.
    pub(crate) static IRQL: Cell<u8> = const { Cell::new(PASSIVE) };
    /// How often who waits for events was woken by a thread.
    pub(crate) static WOKEN: Cell<u32> = const { Cell::new(0) };
}

const PASSIVE: u8 = 0;
const DISPATCH: u8 = 2;

pub(crate) const PROCESSORS: u32 = 4;

pub(crate) fn platform() -> Platform {
    fn now() -> u64 {
        static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
        START.get_or_init(Instant::now).elapsed().as_nanos() as u64
    }
    Platform {
        now_ns: now,
        random: || {
            assert_eq!(IRQL.get(), PASSIVE, "the system's randomness may wait");
            now().wrapping_mul(0x9e37_79b9_7f4a_7c15)
        },
        processor: || PROCESSOR.get(),
        processors: PROCESSORS,
        raise: || IRQL.replace(DISPATCH),
        enter: || (IRQL.replace(DISPATCH), PROCESSOR.get()),
        lower: |irql| assert_eq!(IRQL.replace(irql), DISPATCH, "lowered once for each time it was raised"),
        wake: || WOKEN.set(WOKEN.get() + 1),
    }
}

pub(crate) fn runtime() -> Runtime {
    Runtime::new(platform()).expect("memory")
}

/// Sends a message as it is and returns the reply.
pub(crate) fn send(runtime: &Runtime, request: &[u8]) -> Vec<u8> {
    let mut reply = vec![0; 1 << 13];
    let length = runtime.handle(request, &mut reply);
    assert_eq!(IRQL.get(), PASSIVE, "as it was");
    reply.truncate(length);
    reply
}

pub(crate) fn status(reply: &[u8]) -> Status {
    let (header, _) = Header::parse(reply).expect("a reply is well formed");
    Status::from_number(header.code).expect("a known status")
}

pub(crate) fn message<O: Operation>(request: &O) -> Vec<u8> {
    let mut message = vec![0; 1 << 13];
    let length = write_request(request, &mut message).expect("fits");
    message.truncate(length);
    message
}

/// Asks, and takes the reply apart.
pub(crate) fn call<O: Operation>(runtime: &Runtime, request: &O) -> Result<O::Reply, Status>
where
    O::Reply: DeserializeOwned,
{
    parse_reply(&send(runtime, &message(request)))
}

/// Asks for bytes.
pub(crate) fn bytes<O: Operation>(runtime: &Runtime, request: &O) -> Result<Vec<u8>, Status> {
    let reply = send(runtime, &message(request));
    parse_reply::<&[u8]>(&reply).map(<[u8]>::to_vec)
}

pub(crate) fn events(runtime: &Runtime, map: Id, max: u32) -> Result<(u64, Vec<u8>), Status> {
    let reply = send(runtime, &message(&EventRead { map, max }));
    parse_reply::<Events<'_>>(&reply).map(|events| (events.dropped, events.records.to_vec()))
}

pub(crate) fn name(text: &str) -> Name {
    Name::try_from(text).expect("short")
}

pub(crate) fn map(runtime: &Runtime, kind: MapKind, key_size: u32, value_size: u32, max_entries: u32) -> Id {
    let def = MapDef { kind, key_size, value_size, max_entries, flags: 0 };
    call(runtime, &MapCreate { name: name("map"), def }).expect("a good definition")
}

pub(crate) fn code(insns: &[Insn]) -> Vec<u8> {
    insns.iter().flat_map(|insn| insn.to_bytes()).collect()
}

pub(crate) fn load(
    runtime: &Runtime,
    program_type: ProgramType,
    insns: &[Insn],
    maps: &[Id],
) -> Result<Id, Status> {
    let (name, code) = (name("program"), code(insns));
    let maps = maps.iter().copied().collect();
    call(runtime, &ProgramLoad { name, program_type, code: &code, maps, grants: Grants::ALL })
        .map(|loaded| loaded.program)
}

/// A program that returns `r0`.
pub(crate) fn returning(r0: i32) -> [Insn; 2] {
    [mov(0, r0), EXIT]
}

pub(crate) fn attach(runtime: &Runtime, program: Id, hook: Hook, priority: u16) -> Result<Id, Status> {
    let (on_error, budget) = (OnError::Block, 100);
    call(runtime, &LinkAttach { program, hook, priority, on_error, budget, snapshot: false, filter: None })
}

pub(crate) const EXIT: Insn = Insn::new(class::JMP | jmp::EXIT, 0, 0, 0, 0);

pub(crate) const fn mov(dst: u8, imm: i32) -> Insn {
    Insn::new(class::ALU64 | 0xb0, dst, 0, 0, imm)
}

pub(crate) const fn copy(dst: u8, src: u8) -> Insn {
    Insn::new(class::ALU64 | 0xb0 | source::X, dst, src, 0, 0)
}

pub(crate) const fn add(dst: u8, imm: i32) -> Insn {
    Insn::new(class::ALU64, dst, 0, 0, imm)
}

/// Stores the low four bytes of `imm` at `[dst + offset]`.
pub(crate) const fn store32(dst: u8, offset: i16, imm: i32) -> Insn {
    Insn::new(0x62, dst, 0, offset, imm)
}

pub(crate) const fn call_helper(number: u32) -> Insn {
    Insn::new(class::JMP | jmp::CALL, 0, 0, 0, number as i32)
}

/// Both slots that load map `index`.
pub(crate) const fn map_handle(dst: u8, index: i32) -> [Insn; 2] {
    [Insn::new(0x18, dst, pseudo::MAP_IDX, 0, index), Insn::new(0, 0, 0, 0, 0)]
}

/// A host with no helpers but the runtime's, or with one that fails.
pub(crate) struct Plain<'a> {
    pub(crate) calls: Calls<'a>,
    pub(crate) fail_at: Option<u32>,
}

impl Host for Plain<'_> {
    fn call(&mut self, helper: u32, args: [u64; 5], memory: &mut Memory<'_>) -> Result<u64, Fault> {
        if self.fail_at == Some(helper) {
            return Err(tidegate_vm::Cause::Helper { status: -5 }.into());
        }
        self.calls.call(helper, args, memory).expect("one of the runtime's helpers")
    }
}

/// Runs a link once over `window`.
pub(crate) fn run(link: &Link, window: &[u8]) -> Result<Verdict, RunError> {
    run_with(link, window, None)
}

pub(crate) fn run_with(link: &Link, window: &[u8], fail_at: Option<u32>) -> Result<Verdict, RunError> {
    let (mut host, mut stack) = (Plain { calls: Calls::new(link), fail_at }, Box::new(Stack::new()));
    let before = IRQL.get();
    let verdict = match link.program_type() {
        ProgramType::Stream => link.run(&mut host, &mut stack, &mut StreamContext::default(), window, 0),
        ProgramType::Send => link.run(&mut host, &mut stack, &mut SendContext::default(), window, 0),
    };
    drop(host);
    assert_eq!(IRQL.get(), before, "as it was");
    verdict
}

/// Everything that control messages can tell about a runtime, as text.
pub(crate) fn dump(runtime: &Runtime) -> String {
    use std::fmt::Write;
    let mut text = String::new();
    for map in call(runtime, &MapList { after: 0 }).expect("a list") {
        let info = call(runtime, &MapInfo { map }).expect("it is listed");
        writeln!(text, "map {map} {info:?}").expect("memory");
        if info.def.kind == MapKind::RingBuf {
            continue;
        }
        let mut key: Option<Vec<u8>> = None;
        while let Ok(next) = bytes(runtime, &MapNextKey { map, key: key.as_deref() }) {
            let value = bytes(runtime, &MapLookup { map, key: &next }).expect("it is there");
            writeln!(text, "  {next:?} {value:?}").expect("memory");
            key = Some(next);
        }
    }
    for program in call(runtime, &ProgramList { after: 0 }).expect("a list") {
        let info = call(runtime, &ProgramInfo { program }).expect("it is listed");
        writeln!(text, "program {program} {info:?}").expect("memory");
    }
    for hook in Hook::ALL {
        for link in call(runtime, &LinkList { hook }).expect("a list") {
            let info = call(runtime, &LinkInfo { link }).expect("it is listed");
            writeln!(text, "link {link} {info:?}").expect("memory");
        }
    }
    text
}

//! A machine without memory: every allocation of every request fails once, which is an answer and nothing else.

use fwps_sim::heap::Heap;
use tidegate_abi::control::*;
use tidegate_abi::{Grants, Hook, MapDef, MapKind, ProgramType};
use tidegate_runtime::Runtime;

use crate::common::{call, code, dump, map_handle, message, name, platform, returning, runtime, status};

#[global_allocator]
static HEAP: Heap = Heap;

/// The code of a verification that had no memory.
const NO_MEMORY: &str = "TG0901";

/// Does something again and again, with the first of its allocations failing, then the second and so on, until it needs
/// no more: `failed` holds what came of it without memory. Returns what came of it in the end, and how often it failed.
fn starving<T>(mut act: impl FnMut() -> T, failed: impl Fn(T)) -> (T, usize) {
    for left in 0.. {
        let held = Heap::held();
        Heap::fail_behind(left);
        let result = act();
        if Heap::heal() {
            return (result, left);
        }
        failed(result);
        assert_eq!(Heap::held(), held, "what was taken before allocation {left} failed is given back");
    }
    unreachable!("some number of allocations is enough")
}

/// Sends a request that starves until it is done, and then holds what came of it against what it says without memory.
fn ask<O: Operation>(runtime: &Runtime, request: &O) -> (Vec<u8>, usize) {
    let (request, before) = (message(request), dump(runtime));
    let send = || {
        let mut reply = [0; 1 << 10];
        let length = runtime.handle(&request, &mut reply);
        (reply, length)
    };
    let ((reply, length), starved) = starving(send, |(reply, length)| {
        match status(&reply[..length]) {
            Status::NoMemory => {}
            Status::Refused => assert_eq!(refusal(&reply[..length]).expect("why").code, NO_MEMORY),
            // A verification can do without what only saves it time.
            Status::Ok => {
                let Loaded { program, .. } = parse_reply(&reply[..length]).expect("a program");
                call(runtime, &ProgramUnload { program }).expect("it was loaded");
            }
            other => panic!("{other:?} without memory"),
        }
        assert_eq!(dump(runtime), before, "a request that is refused changes nothing");
    });
    assert_eq!(status(&reply[..length]), Status::Ok);
    (reply[..length].to_vec(), starved)
}

/// The same for a request that gives an id.
fn id<O: Operation<Reply = Id>>(runtime: &Runtime, request: &O) -> (Id, usize) {
    let (reply, starved) = ask(runtime, request);
    (parse_reply(&reply).expect("an id"), starved)
}

#[test]
fn a_runtime_is_made_whole_or_not_at_all() {
    let (made, starved) = starving(
        || Runtime::shared(platform()),
        |failed| assert_eq!(failed.map(|_| ()), Err(Status::NoMemory)),
    );
    assert!(made.is_ok() && starved > Hook::ALL.len(), "{starved}");
}

#[test]
fn without_memory_every_request_is_refused_and_changes_nothing() {
    let held = Heap::held();
    requests();
    assert_eq!(Heap::held(), held, "all memory is given back");
}

/// Makes and takes away one of everything.
fn requests() {
    let runtime = runtime();
    let mut starved = 0;
    let mut maps = Vec::new();
    for (kind, key_size, value_size, max_entries) in [
        (MapKind::Array, 4, 8, 3),
        (MapKind::PerCpuArray, 4, 8, 3),
        (MapKind::Hash, 4, 8, 3),
        (MapKind::LruHash, 4, 8, 3),
        (MapKind::FlowStorage, 8, 8, 3),
        (MapKind::RingBuf, 0, 0, 4096),
    ] {
        let def = MapDef { kind, key_size, value_size, max_entries, flags: 0 };
        let (map, failed) = id(&runtime, &MapCreate { name: name("m"), def });
        assert!(failed >= 2, "{kind:?} has memory of its own");
        maps.push(map);
    }
    let map = maps[2];
    for key in [b"one ", b"two "] {
        ask(&runtime, &MapUpdate { map, key, value: &[7; 8], flags: 0 });
    }
    starved += ask(&runtime, &MapLookup { map, key: b"one " }).1;
    starved += ask(&runtime, &MapNextKey { map, key: None }).1;
    ask(&runtime, &MapDelete { map, key: b"one " });
    ask(&runtime, &EventRead { map: maps[5], max: 100 });

    let mut programs = Vec::new();
    for verdict in [0, 1] {
        let insns = [&map_handle(1, 0)[..], &returning(verdict)].concat();
        let code = code(&insns);
        let maps = [map].into_iter().collect();
        let (program_type, grants) = (ProgramType::Stream, Grants::ALL);
        let request = ProgramLoad { name: name("p"), program_type, code: &code, maps, grants };
        let (reply, failed) = ask(&runtime, &request);
        assert!(failed >= 5, "a verification takes memory: {failed}");
        programs.push(parse_reply::<Loaded>(&reply).expect("loaded").program);
    }
    let attach = |program| LinkAttach {
        program,
        hook: Hook::StreamV4,
        priority: 1,
        on_error: OnError::Block,
        budget: 100,
        snapshot: false,
        filter: None,
    };
    let (link, failed) = id(&runtime, &attach(programs[0]));
    assert!(failed > platform().processors as usize, "a chain for each processor: {failed}");
    let canary = TrialMode::Canary { percent: 5, max_errors: 10, min_runs: 20 };
    for mode in [TrialMode::Shadow, canary] {
        let trial = Some(Trial { program: programs[1], mode });
        starved += ask(&runtime, &LinkTry { link, trial }).1;
    }
    starved += ask(&runtime, &LinkTry { link, trial: None }).1;
    starved += ask(&runtime, &LinkReplace { link, program: programs[1] }).1;
    for request in [programs[1], programs[0]] {
        id(&runtime, &attach(request));
    }
    let (trace, failed) = id(&runtime, &TraceBegin { link: 0, flow: 0, ends: 0, bytes: 4096 });
    assert!(failed > 0, "what waits to be read takes memory");
    ask(&runtime, &TraceRead { trace, max: 100 });
    ask(&runtime, &TraceEnd { trace });
    let (mut room, on_error) = ([0; 64], OnError::Block);
    let (program, hook) = (programs[0], Hook::StreamV4);
    let added = Change::Attach(LinkAttach {
        program,
        hook,
        priority: 1,
        on_error,
        budget: 100,
        snapshot: false,
        filter: None,
    });
    let left = added.write(Change::Detach { link }.write(&mut room).expect("room")).expect("room").len();
    starved += ask(&runtime, &LinkCommit { changes: &room[..64 - left] }).1;
    for link in parse_reply::<IdList>(&ask(&runtime, &LinkList { hook: Hook::StreamV4 }).0).expect("links") {
        starved += ask(&runtime, &LinkDetach { link }).1;
    }
    for program in programs {
        starved += ask(&runtime, &ProgramUnload { program }).1;
    }
    for map in maps {
        starved += ask(&runtime, &MapRelease { map }).1;
    }
    assert!(starved > 20, "{starved}");
    assert_eq!(dump(&runtime), "", "nothing is left");
}

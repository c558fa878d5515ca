//! Holds everything that crosses a boundary against the fingerprint that its version was given.
//!
//! The fingerprint is a hash over the tables (helpers, contexts, verdicts, map kinds, program types, hooks, statuses, error
//! numbers, limits, operations) and over one message of each operation with its reply, as bytes. Descriptions don't count.

use std::fmt::Debug;

use serde::Serialize;
use tidegate_abi::control::*;
use tidegate_abi::filter::{EndFilter, Net, Ports};
use tidegate_abi::helper::{Capability, HELPERS};
use tidegate_abi::{
    API_HISTORY, API_VERSION, Grants, Hook, LinkFilter, MapDef, MapKind, ProgramType, Verdict,
};

/// FNV-1a over lines of text.
struct Fingerprint(u64);

impl Fingerprint {
    fn line(&mut self, line: &str) {
        for byte in line.bytes().chain([b'\n']) {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    fn add(&mut self, what: &[&dyn Debug]) {
        self.line(&format!("{what:?}"));
    }

    fn message<T: Serialize + ?Sized>(&mut self, code: u16, body: &T) {
        let mut bytes = [0; 1024];
        // The header's version is left out: moving it must not change the fingerprint.
        let length = write(code, body, &mut bytes).expect("golden messages are small");
        self.add(&[&code, &&bytes[2..length]]);
    }

    /// One operation: what is asked, and what is answered.
    fn operation<O: Operation>(&mut self, request: &O, reply: &O::Reply)
    where
        O::Reply: Serialize,
    {
        self.message(O::NUMBER, request);
        self.message(0, reply);
    }

    /// The constants of a source file, by name and value.
    fn constants(&mut self, source: &str) {
        source.lines().filter(|line| line.starts_with("pub const ")).for_each(|line| self.line(line));
    }
}

fn fingerprint() -> u64 {
    let mut all = Fingerprint(0xcbf2_9ce4_8422_2325);
    for helper in HELPERS {
        let params: Vec<_> = helper.params.iter().map(|param| (param.name, param.arg)).collect();
        all.add(&[&helper.number, &helper.name, &params, &helper.ret]);
        all.add(&[&helper.program_types, &helper.capability]);
    }
    for kind in ProgramType::ALL {
        all.add(&[&kind.name(), &(kind as u8), &kind.section(), &kind.context_name(), &kind.context_size()]);
        for field in kind.fields() {
            all.add(&[&field.name, &field.offset, &field.size, &field.kind, &field.writable]);
        }
        kind.flags().iter().for_each(|flag| all.add(&[&flag.name, &flag.bit]));
    }
    for hook in Hook::ALL {
        all.add(&[&hook.name(), &(hook as u8), &hook.program_type()]);
    }
    for (power, name) in Capability::NAMED {
        all.add(&[&name, &power]);
    }
    for verdict in Verdict::ALL {
        all.add(&[&verdict.name(), &(verdict as u8), &verdict.program_types()]);
    }
    for kind in MapKind::ALL {
        all.add(&[&kind.name(), &(kind as u32)]);
    }
    for (number, status) in (0..=u16::MAX).filter_map(|number| Some((number, Status::from_number(number)?))) {
        all.add(&[&number, &status]);
    }
    all.constants(include_str!("../src/limits.rs"));
    all.constants(include_str!("../src/errno.rs"));
    all.constants(include_str!("../src/map.rs"));
    all.add(&[&OPERATIONS]);
    operations(&mut all);
    all.0
}

/// One message of each operation and its reply, with a value of its own in every field.
fn operations(all: &mut Fingerprint) {
    let name = || Name::try_from("golden").expect("short");
    let ids = |ids: &[Id]| ids.iter().copied().collect();
    let maps = || [0x0101, 0x0202].into_iter().collect();
    let def = |kind| MapDef { kind, key_size: 4, value_size: 300, max_entries: 70_000, flags: 128 };
    let counters = Counters {
        runs: 1 << 40,
        verdicts: [1, 2, 3, 4, 5, 6, 7],
        errors: 7,
        bytes_shown: 1 << 50,
        edited: 8,
        injected: 9,
    };
    let map = 0x0001_0203;
    let (key, value): (&[u8], &[u8]) = (&[1, 2, 3], &[4; 130]);

    all.operation(&Version {}, &VersionReply { api: 1, processors: 300 });
    let standing = [false, true].map(|persistent| Filters::Standing { persistent });
    let only = ProgramType::ALL.map(Filters::Only);
    for filters in [Filters::None, Filters::Waiting, Filters::Refused(-1_073_741_790)]
        .into_iter()
        .chain(standing)
        .chain(only)
    {
        let release = "0.1.0".try_into().expect("short");
        all.operation(&State {}, &StateReply { release, filters, maps: 200, programs: 201, links: 202 });
    }
    for kind in MapKind::ALL {
        all.operation(&MapCreate { name: name(), def: def(kind) }, &map);
    }
    all.operation(&MapRelease { map }, &());
    all.operation(&MapUpdate { map, key, value, flags: 1 << 35 }, &());
    all.operation(&MapLookup { map, key }, &b"value".as_slice());
    all.operation(&MapDelete { map, key }, &());
    all.operation(&MapNextKey { map, key: None }, &b"key".as_slice());
    all.operation(&MapNextKey { map, key: Some(key) }, &b"key".as_slice());
    let info = MapInfoReply {
        name: name(),
        def: def(MapKind::Hash),
        frozen: true,
        entries: 70_001,
        dropped: 1 << 36,
    };
    all.operation(&MapInfo { map }, &info);
    all.operation(&MapList { after: 130 }, &ids(&[131, 132]));
    all.operation(&MapFreeze { map }, &());

    let grants = Grants { capabilities: 0x15, hooks: 0x99, budget: 70_003 };
    for program_type in ProgramType::ALL {
        let load = ProgramLoad { name: name(), program_type, code: value, maps: maps(), grants };
        all.operation(&load, &Loaded { program: 0x0405, max_cost: 1 << 33 });
    }
    all.operation(&ProgramUnload { program: 0x0506 }, &());
    let info = ProgramInfoReply {
        name: name(),
        program_type: ProgramType::Send,
        tag: 1 << 63,
        insns: 4096,
        max_cost: 1 << 34,
        capabilities: 0xf,
        grants,
        maps: maps(),
        counters,
    };
    all.operation(&ProgramInfo { program: 0x0607 }, &info);
    all.operation(&ProgramList { after: 140 }, &ids(&[141]));
    all.operation(&ProgramCode { program: 0x0608 }, &value);
    let refusal = Refusal {
        code: "TG0104".try_into().expect("short"),
        insn: 200,
        reason: "in words".try_into().expect("short"),
    };
    all.message(Status::Refused as u16, &refusal);

    let net = Net { family: 6, prefix: 127, address: [7; 16] };
    let ports = [Some(Ports { first: 300, last: 70 }), None, None, Some(Ports { first: 1, last: 2 })];
    let filter = LinkFilter {
        direction: Some(1),
        protocol: Some(17),
        local: EndFilter { net: Some(net), ports },
        remote: EndFilter { net: None, ports },
        either: EndFilter { net: Some(net), ..EndFilter::default() },
    };
    for hook in Hook::ALL {
        for on_error in [OnError::Block, OnError::Permit] {
            let attach = LinkAttach {
                program: 0x0708,
                hook,
                priority: 400,
                on_error,
                budget: 65_536,
                snapshot: on_error == OnError::Permit,
                filter: (on_error == OnError::Permit).then_some(filter),
            };
            all.operation(&attach, &0x0809);
        }
        all.operation(&LinkList { hook }, &ids(&[150, 151, 152]));
    }
    all.operation(&LinkDetach { link: 0x0910 }, &Detached { flows: 300, bytes: 1 << 37 });
    all.operation(&LinkReplace { link: 0x1011, program: 0x1112 }, &());
    let modes =
        [TrialMode::Shadow, TrialMode::Canary { percent: 90, max_errors: 0x0a01, min_runs: 0x0b02_0304 }];
    let trial = |mode| Trial { program: 0x1c1d, mode };
    for verdict in [None, Some(Verdict::NeedMoreData)] {
        let runs = core::array::from_fn(|class| 1 << (class * 2));
        all.operation(&LinkTimes { link: 0x2021, verdict }, &Times { sum_ns: 1 << 46, runs });
    }
    all.operation(&LinkTry { link: 0x1e1f, trial: None }, &());
    for mode in modes {
        all.operation(&LinkTry { link: 0x1e1f, trial: Some(trial(mode)) }, &());
    }
    let [shadow, canary] = modes.map(|mode| TrialInfo {
        trial: trial(mode),
        runs: 1 << 40,
        agreed: 1 << 41,
        verdicts: 1 << 42,
        bytes: 1 << 43,
        errors: 1 << 44,
        missed: 1 << 45,
        returned: true,
    });
    let info = LinkInfoReply {
        program: 0x1213,
        hook: Hook::OutboundTransportV6,
        priority: 500,
        on_error: OnError::Permit,
        budget: 65_537,
        snapshot: true,
        filter: Some(filter),
        draining: true,
        held: Detached { flows: 301, bytes: 1 << 38 },
        counters,
        trial: None,
    };
    for trial in [None, Some(shadow), Some(canary)] {
        all.operation(&LinkInfo { link: 0x1314 }, &LinkInfoReply { trial, ..info.clone() });
    }
    for hook in Hook::ALL {
        let (program, priority, budget) = (0x1516, 501, 65_538);
        for (on_error, snapshot) in [(OnError::Block, true), (OnError::Permit, false)] {
            let filter = snapshot.then_some(filter);
            let attach = LinkAttach { program, hook, priority, on_error, budget, snapshot, filter };
            for change in [
                Change::Detach { link: 0x1617 },
                Change::Attach(attach),
                Change::Replace { link: 0x1718, program },
                Change::Move { link: 0x1920, priority },
            ] {
                let mut room = [0; 256];
                let left = change.write(&mut room).expect("room").len();
                let changes = &room[..256 - left];
                all.operation(&LinkCommit { changes }, &Committed { first: 0x1819, draining: 130 });
            }
        }
    }
    all.operation(&EventRead { map, max: 70_002 }, &Events { dropped: 160, records: b"\x01\0\0\0r" });

    for state in [FlowState::Open, FlowState::Allowed, FlowState::Reset] {
        let side = |held| FlowSide { held, holder: 0x2021, waits: 0x2223 };
        let flow = FlowInfo {
            flow: 1 << 46,
            hook: Hook::StreamV6,
            opener: 1,
            ends: FlowEnds { protocol: 17, family: 6, local: ([5; 16], 0x2425), remote: ([6; 16], 0x2627) },
            process: 1 << 47,
            age: 1 << 48,
            mid_stream: true,
            state,
            by: 0x2829,
            sides: [side(70_003), side(70_004)],
            application: value,
        };
        let room = Vec::leak(vec![0; 512]);
        let left = flow.write(room).expect("room").len();
        all.operation(&FlowList { from: 170 }, &Flows { next: 171, flows: &room[..512 - left] });
    }

    let trace = 0x2a2b;
    all.operation(&TraceBegin { link: 0x2c2d, flow: 1 << 49, ends: TRACE_FAILED, bytes: 1 << 16 }, &trace);
    let reads =
        [None, Some(RunRead { map, key, value: None }), Some(RunRead { map, key, value: Some(value) })];
    let ends =
        [RunEnd::Verdict(Verdict::Pend), RunEnd::Budget(300), RunEnd::Fault(301), RunEnd::NoVerdict(1 << 51)];
    for (end, read) in ends.into_iter().flat_map(|end| reads.map(|read| (end, read))) {
        let run = RunInfo {
            at: 1 << 52,
            flow: 1 << 53,
            hook: Hook::DatagramDataV6,
            direction: 1,
            ends: FlowEnds { protocol: 6, family: 4, local: ([7; 16], 0x2e2f), remote: ([8; 16], 0x3031) },
            process: 1 << 54,
            link: 0x3233,
            program: 0x3435,
            shown: 70_005,
            end,
            unfit: read.is_some(),
            decided: 70_006,
            passed: 70_007,
            sent: 70_008,
            path: [302, 303].into_iter().collect(),
            read,
        };
        let room = Vec::leak(vec![0; 512]);
        let length = run.write(room).expect("room");
        let records = &room[..length];
        all.operation(&TraceRead { trace, max: 70_009 }, &Traced { now: 1 << 55, lost: 172, records });
    }
    all.operation(&TraceEnd { trace }, &());
}

#[test]
fn the_wire_is_the_one_of_its_version() {
    let (now, last) = (fingerprint(), API_HISTORY.last().expect("there is a version"));
    assert_eq!(last.0, API_VERSION, "the last row of API_HISTORY must be of API_VERSION");
    assert_eq!(
        last.1,
        now,
        "the wire changed: move API_VERSION and set the fingerprint to {now:#018x}, that is, append ({}, {now:#018x}) to \
         API_HISTORY. Programs, loaders and drivers of different versions refuse each other.",
        API_VERSION + 1
    );
}

#[test]
fn every_version_has_a_wire_of_its_own() {
    assert!(API_HISTORY.is_sorted_by(|a, b| a.0 < b.0), "versions rise");
    for (at, row) in API_HISTORY.iter().enumerate() {
        assert!(
            API_HISTORY[..at].iter().all(|before| before.1 != row.1),
            "version {} changed nothing",
            row.0
        );
    }
}

#[test]
fn every_operation_has_a_golden_message() {
    let source = include_str!("api.rs");
    for (name, _) in OPERATIONS {
        assert!(source.contains(&format!("{name} {{")), "add {name} to `operations`");
    }
}

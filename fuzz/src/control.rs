//! Control messages: any bytes, and sequences that mostly make sense. A refused message changes nothing, and every answer
//! is one that a client can read.

use heapless::Vec as Bounded;
use tidegate_abi::control::*;
use tidegate_abi::filter::{EndFilter, Net, Ports};
use tidegate_abi::limits::MAX_PORT_RANGES;
use tidegate_abi::{Grants, Hook, LinkFilter, MapDef, MapKind, ProgramType, Verdict};
use tidegate_runtime::{Platform, Runtime};

use crate::generate::{self, Bytes};

/// Messages of one input.
const MESSAGES: usize = 48;

/// Runs one input: see the head of the module.
pub fn run(data: &[u8]) {
    let mut input = Bytes::new(data);
    let runtime = Runtime::new(platform()).expect("an empty runtime is small");
    let mut client = Client { runtime, reply: vec![0xaa; 70_000] };
    let mut room = [0; 4096];
    for _ in 0..MESSAGES {
        if input.is_empty() {
            break;
        }
        let kind = input.byte();
        let length =
            if kind & 0x0f == 0x0f { raw(&mut input, &mut room) } else { request(&mut input, &mut room) };
        let message = &mut room[..length.unwrap_or(0)];
        if kind & 0xe0 == 0xe0 && !message.is_empty() {
            // Sometimes a good message is damaged.
            let at = usize::from(input.byte()) % message.len();
            message[at] ^= input.byte();
        }
        // Most clients give room, some don't.
        let answer = if kind & 0x10 == 0 { 4096 } else { usize::from(input.byte()) };
        client.handle(message, answer);
    }
}

fn platform() -> Platform {
    Platform {
        now_ns: || 1,
        random: || 2,
        processor: || 1,
        processors: 2,
        raise: || 0,
        enter: || (0, 1),
        lower: |_| {},
        wake: || {},
    }
}

/// A client of one runtime, with its room for replies.
struct Client {
    runtime: Runtime,
    reply: Vec<u8>,
}

impl Client {
    /// Hands `message` over and holds the answer against the rules.
    fn handle(&mut self, message: &[u8], room: usize) {
        let before = self.state();
        let length = self.runtime.handle(message, &mut self.reply[..room]);
        assert!(length <= room, "a reply of {length} bytes in {room}");
        if room < HEADER_SIZE {
            assert_eq!(length, 0, "no room for a header, no reply");
        } else {
            let reply = &self.reply[..length];
            let (header, _) = Header::parse(reply).expect("a reply has a good header");
            let status = Status::from_number(header.code).expect("a reply has a known status");
            if status == Status::Ok {
                return;
            }
            assert_eq!(status == Status::Refused, refusal(reply).is_some(), "a refusal has its reason");
        }
        assert_eq!(
            self.state(),
            before,
            "a message that was not carried out changed something: {message:02x?}"
        );
    }

    /// Everything that can be asked for: the lists, what each object is, and what each map holds.
    fn state(&mut self) -> Vec<u8> {
        let mut state = Vec::new();
        for map in self.list(&MapList { after: 0 }, &mut state) {
            state.extend(self.ask(&MapInfo { map }));
            let mut key: Option<Vec<u8>> = None;
            for _ in 0..8 {
                let next = self.ask(&MapNextKey { map, key: key.as_deref() });
                let Ok(next) = parse_reply::<&[u8]>(next).map(<[u8]>::to_vec) else { break };
                state.extend(self.ask(&MapLookup { map, key: &next }));
                key = Some(next);
            }
        }
        for program in self.list(&ProgramList { after: 0 }, &mut state) {
            state.extend(self.ask(&ProgramInfo { program }));
            state.extend(self.ask(&ProgramCode { program }));
        }
        for hook in Hook::ALL {
            for link in self.list(&LinkList { hook }, &mut state) {
                state.extend(self.ask(&LinkInfo { link }));
            }
        }
        state
    }

    fn list<T: Operation>(&mut self, request: &T, state: &mut Vec<u8>) -> IdList {
        let reply = self.ask(request);
        state.extend_from_slice(reply);
        parse_reply(reply).expect("a list comes")
    }

    fn ask<T: Operation>(&mut self, request: &T) -> &[u8] {
        let mut message = [0; 1024];
        let length = write_request(request, &mut message).expect("the request fits");
        let length = self.runtime.handle(&message[..length], &mut self.reply);
        &self.reply[..length]
    }
}

/// A header that is right, mostly, and any body.
fn raw(input: &mut Bytes<'_>, message: &mut [u8]) -> Option<usize> {
    let code = OPERATIONS[input.below(OPERATIONS.len())].1;
    let length = usize::from(input.byte());
    let header = Header {
        version: tidegate_abi::API_VERSION,
        code,
        length: length as u32,
        reserved: u32::from(input.byte() == 9),
    };
    message[..HEADER_SIZE].copy_from_slice(&header.to_bytes());
    message[HEADER_SIZE..HEADER_SIZE + length].fill_with(|| input.byte());
    Some(HEADER_SIZE + length)
}

/// A request whose fields are mostly ones that may exist.
fn request(input: &mut Bytes<'_>, out: &mut [u8]) -> Option<usize> {
    let (map, program, link, after) = (id(input), id(input), id(input), id(input));
    let hook = Hook::ALL[input.below(Hook::ALL.len())];
    let name = Name::try_from(["", "a", "a longer name"][input.below(3)]).ok()?;
    let (mut key, mut value) = ([0; 64], [0; 256]);
    let key = bytes(input, &mut key);
    let result = match input.below(OPERATIONS.len() + 4) {
        0 => write_request(&Version {}, out),
        1..=3 => write_request(&MapCreate { name, def: def(input) }, out),
        4 => write_request(&MapRelease { map }, out),
        5..=6 => {
            let flags = u64::from(input.byte() & 3);
            write_request(&MapUpdate { map, key, value: bytes(input, &mut value), flags }, out)
        }
        7 => write_request(&MapLookup { map, key }, out),
        8 => write_request(&MapDelete { map, key }, out),
        9 => write_request(&MapNextKey { map, key: (input.byte() & 1 == 1).then_some(key) }, out),
        10 => write_request(&MapInfo { map }, out),
        11 => write_request(&MapList { after }, out),
        12 => write_request(&MapFreeze { map }, out),
        13..=15 => {
            let mut maps = Bounded::new();
            for _ in 0..input.below(4) {
                maps.push(id(input)).ok()?;
            }
            let (program_type, code) = code(input);
            write_request(&ProgramLoad { name, program_type, code: &code, maps, grants: grants(input) }, out)
        }
        16 => write_request(&ProgramUnload { program }, out),
        17 => write_request(&ProgramInfo { program }, out),
        18 => write_request(&ProgramList { after }, out),
        19 => {
            let on_error = [OnError::Block, OnError::Permit][input.below(2)];
            let (priority, budget) =
                (u16::from(input.byte()), u32::from(input.byte()) << (input.byte() & 31));
            let snapshot = input.below(2) == 1;
            let filter = filter(input);
            write_request(&LinkAttach { program, hook, priority, on_error, budget, snapshot, filter }, out)
        }
        20 => write_request(&LinkDetach { link }, out),
        21 => write_request(&LinkReplace { link, program }, out),
        22 => write_request(&LinkInfo { link }, out),
        23 => write_request(&LinkList { hook }, out),
        24 => {
            let mut room = [0; 1024];
            let whole = room.len();
            let mut rest = &mut room[..];
            for _ in 0..input.below(4) {
                let change = match input.below(4) {
                    0 => Change::Detach { link: id(input) },
                    1 => Change::Replace { link: id(input), program: id(input) },
                    2 => Change::Move { link: id(input), priority: u16::from(input.byte()) },
                    _ => {
                        let (program, priority) = (id(input), u16::from(input.byte()));
                        let (on_error, budget, snapshot) = (OnError::Block, 100, false);
                        Change::Attach(LinkAttach {
                            program,
                            hook,
                            priority,
                            on_error,
                            budget,
                            snapshot,
                            filter: filter(input),
                        })
                    }
                };
                rest = change.write(rest).ok()?;
            }
            let length = whole - rest.len();
            write_request(&LinkCommit { changes: &room[..length] }, out)
        }
        25..=26 => {
            let mode = match input.below(3) {
                0 => TrialMode::Shadow,
                _ => TrialMode::Canary {
                    percent: input.byte() & 0x7f,
                    max_errors: u16::from(input.byte()) << 3,
                    min_runs: u32::from(input.byte()),
                },
            };
            let trial = (input.below(4) > 0).then_some(Trial { program, mode });
            write_request(&LinkTry { link, trial }, out)
        }
        27 => write_request(&FlowList { from: u32::from(input.byte()) }, out),
        28 => {
            let bytes = 1 << (input.byte() & 31);
            write_request(&TraceBegin { link, flow: 0, ends: 0, bytes }, out)
        }
        29 => write_request(&TraceRead { trace: id(input), max: u32::MAX }, out),
        30 => write_request(&TraceEnd { trace: id(input) }, out),
        31 => {
            let verdict = Verdict::ALL.get(input.below(Verdict::ALL.len() + 1)).copied();
            write_request(&LinkTimes { link, verdict }, out)
        }
        _ => write_request(&EventRead { map, max: u32::from(input.byte()) << 6 }, out),
    };
    result.ok()
}

fn id(input: &mut Bytes<'_>) -> Id {
    u32::from(input.byte() & 0x1f)
}

fn bytes<'a>(input: &mut Bytes<'_>, room: &'a mut [u8]) -> &'a [u8] {
    let length = [4, 8, 16, 24, 0, 1, 48, 64][input.below(8)].min(room.len());
    room[..length].fill_with(|| input.byte());
    &room[..length]
}

/// Small maps of every kind, and now and then sizes that no map has.
fn def(input: &mut Bytes<'_>) -> MapDef {
    let kind = MapKind::ALL[input.below(MapKind::ALL.len())];
    let odd = input.byte();
    let (key_size, value_size, max_entries) = match kind {
        MapKind::Array | MapKind::PerCpuArray => (4, 8 + u32::from(odd & 0x18), 1 + u32::from(odd >> 6)),
        MapKind::Hash | MapKind::LruHash | MapKind::FlowStorage => (8, 16, 1 + u32::from(odd & 7)),
        MapKind::RingBuf => (0, 0, 4096),
    };
    match odd {
        0xfe => MapDef { kind, key_size: u32::from(input.byte()), value_size, max_entries, flags: 0 },
        0xff => {
            MapDef { kind, key_size, value_size, max_entries: u32::MAX - u32::from(input.byte()), flags: 0 }
        }
        _ => MapDef {
            kind,
            key_size,
            value_size,
            max_entries,
            flags: u32::from(odd & 1) * tidegate_abi::map::RDONLY_PROG,
        },
    }
}

/// Whatever a filter can say, now and then of a link.
fn filter(input: &mut Bytes<'_>) -> Option<LinkFilter> {
    let mut end = || EndFilter {
        net: (input.below(2) == 1).then(|| Net {
            family: [4, 6, input.byte()][input.below(3)],
            prefix: input.byte(),
            address: [input.byte(); 16],
        }),
        ports: [(); MAX_PORT_RANGES].map(|()| {
            let mut port = || u16::from(input.byte()) << (input.byte() & 8);
            (port() & 1 == 1).then(|| Ports { first: port(), last: port() })
        }),
    };
    let (local, remote, either) = (end(), end(), end());
    let mut byte = || (input.below(2) == 1).then(|| input.byte());
    let filter = LinkFilter { direction: byte(), protocol: byte(), local, remote, either };
    (input.below(2) == 1).then_some(filter)
}

/// Mostly everything, so that programs come to run.
fn grants(input: &mut Bytes<'_>) -> Grants {
    match input.byte() {
        0xf0.. => Grants {
            capabilities: u32::from(input.byte()),
            hooks: u16::from(input.byte()) << (input.byte() & 8),
            budget: u32::from(input.byte()) << (input.byte() & 31),
        },
        _ => Grants::ALL,
    }
}

/// A program that is accepted, or one that the fuzzer makes up.
fn code(input: &mut Bytes<'_>) -> (ProgramType, Vec<u8>) {
    let program_type = ProgramType::ALL[input.below(2)];
    let permit = [0xb7, 0, 0, 0, 1, 0, 0, 0, 0x95, 0, 0, 0, 0, 0, 0, 0].to_vec();
    match input.byte() {
        0xc0.. => {
            let mut seed = [0; 48];
            seed.fill_with(|| input.byte());
            let (program_type, code, _) = generate::program(Bytes::new(&seed));
            (program_type, code)
        }
        0x80.. => {
            // Names the program's first map, then permits.
            let mut code = vec![0x18, 0x51, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
            code.extend(permit);
            (program_type, code)
        }
        _ => (program_type, permit),
    }
}

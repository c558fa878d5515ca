//! Bytecode: what the verifier accepts never faults, and what it refuses is told in words.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use tidegate_abi::helper::{self, Arg, Resource, Ret};
use tidegate_abi::{MapDef, ProgramType, SendContext, StreamContext};
use tidegate_verifier::{Options, Program, Verified, verify};
use tidegate_vm::{Cause, Executable, Fault, Host, MapBinding, MapMemory, Memory, Shared, Stack};

use crate::generate::{self, Bytes, MAPS};

/// A map's handle is its index and this.
const HANDLE: u64 = 0x7001_0000;

/// Steps of a verification: enough for any program that the generator makes, few enough for many of them a second.
const STEPS: u32 = 20_000;

/// Runs one input: see the head of the module. Returns whether the verifier accepted its program.
pub fn run(data: &[u8]) -> bool {
    let (program_type, code, mut rest) = generate::program(Bytes::new(data));
    let window = window(&mut rest);

    // Whatever it is, the checked engine lets it reach nothing that it was not given, and ends it.
    let maps = Maps::new(&window);
    if let Ok(executable) = Executable::unverified(&code, MAPS, &maps.bindings()) {
        let mut host = Anything { seed: u64::from(rest.byte()) };
        let _ = execute(&executable, program_type, &mut host, &window, 10_000);
    }

    let options = Options { steps: STEPS, ..Options::default() };
    match verify(&Program { program_type, code: &code, maps: MAPS }, &options) {
        Err(refusal) => {
            assert!(!refusal.to_string().is_empty(), "a refusal says what is wrong");
            false
        }
        Ok(verified) => {
            let budget = u32::try_from(verified.max_cost()).expect("few steps prove a small cost");
            // Two engines, each on maps and a host of its own: neither faults, and they agree.
            let engines: [fn(&Verified, &[MapBinding]) -> _; 2] = [Executable::new, Executable::proven];
            let results = engines.map(|compile| {
                let maps = Maps::new(&window);
                let executable = compile(&verified, &maps.bindings()).expect("a verified program compiles");
                let mut host = Strict::new(program_type, &maps, rest);
                let result = execute(&executable, program_type, &mut host, &window, budget);
                let result = result.unwrap_or_else(|fault| {
                    panic!("an accepted program faulted: {fault}; proven cost {budget}\n{}", listing(&code))
                });
                assert!(host.held.is_empty(), "an accepted program kept {:?}\n{}", host.held, listing(&code));
                (result, maps.contents())
            });
            assert_eq!(results[0], results[1], "the engines disagree\n{}", listing(&code));
            true
        }
    }
}

/// The program in the form that a report needs.
fn listing(code: &[u8]) -> String {
    let slots = tidegate_abi::Insn::slots(code).into_iter().flatten();
    slots.enumerate().map(|(at, slot)| format!("{at:4} {:02x?} {slot:?}\n", slot.to_bytes())).collect()
}

fn window(rest: &mut Bytes<'_>) -> Vec<u8> {
    let size = match rest.byte() {
        b @ 0..=0xbf => usize::from(b),
        b => usize::from(b & 0x3f) * 32,
    };
    (0..size).map(|_| rest.byte()).collect()
}

fn execute<H: Host>(
    executable: &Executable,
    program_type: ProgramType,
    host: &mut H,
    window: &[u8],
    budget: u32,
) -> Result<u64, Fault> {
    // The fields may hold anything: here, what the window starts with.
    let window = if window.is_empty() { tidegate_vm::nothing() } else { window };
    let number = window.iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte));
    let (half, port) = (number as u32, number as u16);
    let (mut address, stack) = ([0; 16], &mut Stack::new());
    address[..8].copy_from_slice(&number.to_le_bytes());
    match program_type {
        ProgramType::Stream => {
            let mut context = StreamContext {
                flow_id: number,
                process_id: !number,
                missed_bytes: number,
                flags: half,
                direction: half & 1,
                opener: half >> 1 & 1,
                family: 4,
                local_port: port,
                remote_port: !port,
                compartment_id: half,
                remote_addr: address,
                ..StreamContext::default()
            };
            executable.run(host, stack, &mut context, window, budget)
        }
        ProgramType::Send => {
            let mut context = SendContext {
                flow_id: number,
                process_id: !number,
                flags: half,
                protocol: 17,
                family: 6,
                header_size: 8,
                local_port: port,
                remote_port: !port,
                interface_index: half,
                compartment_id: half,
                remote_addr: address,
                ..SendContext::default()
            };
            executable.run(host, stack, &mut context, window, budget)
        }
    }
}

/// Memory of the maps: room for exactly one value each, so that any step over a value's end leaves the program's memory.
/// A ring buffer has room for one record of the greatest size that the generator asks for.
struct Maps(Vec<(MapDef, Shared<MapMemory>)>);

const RECORD: usize = 64;

impl Maps {
    /// Values that hold what `bytes` starts with, over and over.
    fn new(bytes: &[u8]) -> Self {
        let mut filling = bytes.iter().take(32).copied().cycle();
        let memory = |def: &MapDef| {
            let size = if def.value_size == 0 { RECORD } else { def.stride() };
            let memory = MapMemory::new(size / 8).expect("there is memory for a value");
            for word in memory.words() {
                let bytes = std::array::from_fn(|_| filling.next().unwrap_or(0));
                word.store(u64::from_le_bytes(bytes), Ordering::Relaxed);
            }
            (*def, memory)
        };
        Self(MAPS.iter().map(memory).collect())
    }

    fn bindings(&self) -> Vec<MapBinding> {
        let bind = |(index, (def, memory)): (usize, &(MapDef, Shared<MapMemory>))| MapBinding {
            handle: HANDLE + index as u64,
            memory: Some(memory.clone()),
            writable: !def.read_only(),
        };
        self.0.iter().enumerate().map(bind).collect()
    }

    fn contents(&self) -> Vec<u64> {
        let words = self.0.iter().flat_map(|(_, memory)| memory.words());
        words.map(|word| word.load(Ordering::Relaxed)).collect()
    }

    fn of(&self, handle: u64) -> &(MapDef, Shared<MapMemory>) {
        let index = handle.checked_sub(HANDLE).and_then(|index| self.0.get(index as usize));
        index.expect("a map argument is the handle of a map")
    }
}

/// A host that answers anything, for programs that nobody verified.
struct Anything {
    seed: u64,
}

impl Host for Anything {
    fn call(&mut self, number: u32, args: [u64; 5], memory: &mut Memory<'_>) -> Result<u64, Fault> {
        self.seed = self.seed.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(u64::from(number) | 1);
        memory.read(args[0], (args[1] & 0xff) as usize)?;
        memory.write(args[2], (args[3] & 0xff) as usize)?.fill(self.seed as u8);
        Ok(self.seed)
    }
}

/// A host that holds every call against the helper's row: what a row demands, the verifier must have proven.
struct Strict<'a> {
    program_type: ProgramType,
    maps: &'a Maps,
    answers: Bytes<'a>,
    /// What was handed out and not yet given back: its value, and what it is.
    held: BTreeMap<u64, Resource>,
    clones: u64,
}

impl<'a> Strict<'a> {
    fn new(program_type: ProgramType, maps: &'a Maps, answers: Bytes<'a>) -> Self {
        Self { program_type, maps, answers, held: BTreeMap::new(), clones: 0 }
    }

    /// Any number within the bounds; the bounds themselves more often than others.
    fn between(&mut self, min: i64, max: i64) -> u64 {
        let number = match self.answers.byte() {
            b @ 0..=0x1f => i64::from(b),
            b @ 0x20..=0x3f => -i64::from(b & 0x1f),
            0x40..=0x7f => min,
            0x80..=0xbf => max,
            b => min.wrapping_add(i64::from(b) << (self.answers.byte() & 0x3f)),
        };
        number.clamp(min, max) as u64
    }
}

impl Host for Strict<'_> {
    fn call(&mut self, number: u32, args: [u64; 5], memory: &mut Memory<'_>) -> Result<u64, Fault> {
        let row = helper::by_number(number).ok_or(Cause::UnknownHelper { number })?;
        assert!(row.program_types.contains(self.program_type), "{} is not for this program type", row.name);
        let mut map = None;
        let mut constant = 0;
        for (index, param) in row.params.iter().enumerate() {
            let arg = args[index];
            let next = args.get(index + 1).copied().unwrap_or(0);
            match param.arg {
                Arg::Context => {
                    let data = memory.window().as_ptr() as u64;
                    assert_eq!(
                        memory.read(arg, 8)?,
                        data.to_le_bytes(),
                        "the context starts with the window"
                    );
                    memory.read(arg, self.program_type.context_size())?;
                }
                Arg::Scalar => {}
                Arg::Flags(bits) => assert_eq!(arg & !bits, 0, "{}: flags {arg:#x}", row.name),
                Arg::Map(kinds) => {
                    let found = self.maps.of(arg);
                    assert!(kinds.contains(found.0.kind), "{}: not for a {:?}", row.name, found.0.kind);
                    map = Some(found);
                }
                Arg::MapKey => {
                    memory.read(arg, map.expect("a map comes before its key").0.key_size as usize)?;
                }
                Arg::MapValue => {
                    memory.read(arg, map.expect("a map comes before its value").0.value_size as usize)?;
                }
                Arg::Readable => {
                    memory.read(arg, next as usize)?;
                }
                Arg::Writable => memory.write(arg, next as usize)?.fill(self.answers.byte()),
                Arg::Size { min, max } => {
                    assert!((u64::from(min)..=u64::from(max)).contains(&arg), "{}: size {arg}", row.name);
                }
                Arg::ConstSize => constant = arg as usize,
                Arg::Borrow(resource) => assert_eq!(self.held.get(&arg), Some(&resource), "{}", row.name),
                Arg::Consume(resource) => assert_eq!(self.held.remove(&arg), Some(resource), "{}", row.name),
            }
        }
        let none = row.acquires().is_some() && self.answers.byte() & 3 == 3;
        Ok(match row.ret {
            Ret::Void => 0xdead_beef,
            Ret::Scalar => self.between(i64::MIN, i64::MAX),
            Ret::Range { min, max } => self.between(min, max),
            Ret::MapValueOrNull => match map {
                Some((_, value)) if self.answers.byte() & 3 != 3 => value.address(),
                _ => 0,
            },
            Ret::RecordOrNull => {
                let (_, room) = map.expect("a record is of a ring buffer");
                // The room is one record: a second one at a time, or one that is too large, gets none.
                let size = constant.next_multiple_of(8);
                if none || size > RECORD || self.held.contains_key(&room.address()) {
                    return Ok(0);
                }
                let at_end = self.answers.byte() & 1 == 1 && self.held.is_empty();
                let record = if at_end { room.address() + (RECORD - size) as u64 } else { room.address() };
                if self.held.insert(record, Resource::Record).is_some() { 0 } else { record }
            }
            Ret::CloneOrNull => {
                if none {
                    return Ok(0);
                }
                self.clones += 1;
                let clone = 0x5000_0000 + self.clones;
                self.held.insert(clone, Resource::Clone);
                clone
            }
        })
    }
}

//! What the verifier claims, held against runs: an accepted program runs many times, and every state that a run is in lies
//! in what was claimed at its instruction. Programs are generated, or compiled ones with a few instructions changed.

use std::collections::HashSet;
use std::fmt::Write;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use tidegate::Object;
use tidegate::capture::Capture;
use tidegate::flows::{self, Direction};
use tidegate_abi::{Insn, MapDef, ProgramType};
use tidegate_verifier::claims::{Claim, Claimed, Name, Place, Watch, What};
use tidegate_verifier::{Argument, Options, Program, Verified, verify, verify_watched};

use crate::generate::{self, Bytes, MAPS};
use crate::reference::{self, Broken, Chance, ENTRIES, Machine};

/// Steps of a verification: enough for what is generated and for most policies.
const STEPS: u32 = 24_000;
/// Runs of an accepted program.
const RUNS: u64 = 256;
/// Instructions after which a run has shown enough.
const LONG: u64 = 2_000;
/// Instructions of all runs of one program.
const WORK: u64 = 40_000;

/// What an input came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Programs that the verifier accepted.
    pub accepted: u64,
    /// Runs of those.
    pub runs: u64,
    /// States that were held against claims.
    pub states: u64,
}

impl std::ops::AddAssign for Count {
    fn add_assign(&mut self, other: Self) {
        self.accepted += other.accepted;
        self.runs += other.runs;
        self.states += other.states;
    }
}

/// Runs one input: see the head of the module.
pub fn run(data: &[u8]) -> Count {
    let mut hasher = DefaultHasher::new();
    data.hash(&mut hasher);
    let chance = Chance(hasher.finish());
    let (kind, rest) = data.split_first().unwrap_or((&0, &[]));
    let policies = if kind & 3 == 3 { policies() } else { &[] };
    if !policies.is_empty() {
        let mut bytes = Bytes::new(rest);
        let policy = &policies[bytes.below(policies.len())];
        if policy.is_small() {
            let code = mutated(policy.code.clone(), &mut bytes);
            return embed(policy.program_type, &code, &policy.maps, &policy.initial, chance);
        }
    }
    let (program_type, code, _) = generate::program(Bytes::new(rest));
    embed(program_type, &code, MAPS, &[], chance)
}

/// A compiled program.
struct Policy {
    program_type: ProgramType,
    code: Vec<u8>,
    maps: Vec<MapDef>,
    initial: Vec<Option<Vec<u8>>>,
    small: OnceLock<bool>,
}

impl Policy {
    /// Whether it is verified in few enough steps.
    fn is_small(&self) -> bool {
        *self.small.get_or_init(|| {
            let Self { program_type, code, maps, .. } = self;
            let options = Options { steps: STEPS, ..Options::default() };
            verify(&Program { program_type: *program_type, code, maps }, &options).is_ok()
        })
    }
}

fn folder(name: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name);
    let mut files: Vec<_> =
        fs::read_dir(folder).into_iter().flatten().flatten().map(|file| file.path()).collect();
    files.sort();
    files
}

/// Compiled policies, as far as there are any.
fn policies() -> &'static [Policy] {
    static POLICIES: OnceLock<Vec<Policy>> = OnceLock::new();
    POLICIES.get_or_init(|| {
        let files = [folder("target/programs"), folder("target/programs/matrix")].concat();
        let objects = files.iter().filter_map(|file| Object::read(file).ok());
        let mut policies = Vec::new();
        for object in objects {
            for program in object.programs() {
                let initial = |index: &usize| object.maps()[*index].initial.clone();
                policies.push(Policy {
                    program_type: program.program_type,
                    code: program.code(),
                    maps: object.map_defs(program),
                    initial: program.maps.iter().map(initial).collect(),
                    small: OnceLock::new(),
                });
            }
        }
        policies
    })
}

/// What captures of real clients carried, so that runs of policies get somewhere.
fn carried() -> &'static [Vec<u8>] {
    static CARRIED: OnceLock<Vec<Vec<u8>>> = OnceLock::new();
    CARRIED.get_or_init(|| {
        let mut carried = Vec::new();
        for file in folder("examples/captures") {
            let Ok(bytes) = fs::read(&file) else { continue };
            let Ok(capture) = Capture::parse(&bytes) else { continue };
            for connection in flows::connections(&capture, &[]) {
                carried.extend(Direction::ALL.map(|direction| connection.bytes(direction)));
            }
            let packets = capture.packets.iter().take(4);
            carried.extend(packets.map(|packet| [packet.header.as_slice(), &packet.payload].concat()));
        }
        for bytes in &mut carried {
            bytes.truncate(1500);
        }
        carried
    })
}

/// Changes up to seven instructions.
fn mutated(code: Vec<u8>, bytes: &mut Bytes<'_>) -> Vec<u8> {
    let mut slots: Vec<Insn> = Insn::slots(&code).into_iter().flatten().collect();
    for _ in 0..bytes.below(8) {
        let at = (usize::from(bytes.byte()) << 8 | usize::from(bytes.byte())) % slots.len();
        let (what, by) = (bytes.byte(), bytes.byte());
        let old = slots[at];
        let step = i32::from(by as i8);
        let (dst, src) = (old.dst(), old.src());
        slots[at] = match what % 10 {
            0 | 1 => Insn { imm: old.imm.wrapping_add(step), ..old },
            2 => Insn { imm: old.imm ^ 1 << (by & 31), ..old },
            3 | 4 => Insn { offset: old.offset.wrapping_add(step as i16), ..old },
            5 => Insn { opcode: old.opcode ^ 1 << (by & 7), ..old },
            6 => Insn::new(old.opcode, by % 11, src, old.offset, old.imm),
            7 => Insn::new(old.opcode, dst, by % 11, old.offset, old.imm),
            8 => slots[usize::from(by) % slots.len()],
            // Nothing at all: a jump to what comes next.
            _ => Insn::new(0x05, 0, 0, 0, 0),
        };
    }
    slots.iter().flat_map(|slot| slot.to_bytes()).collect()
}

/// Claims by slot.
struct Claims {
    at: Vec<Vec<Claim>>,
    known: HashSet<u64>,
    /// The claim of each slot that is tried first.
    next: Vec<usize>,
    bound: Bound,
}

impl Claims {
    fn of(slots: usize) -> Self {
        let next = vec![0; slots];
        Self { at: vec![Vec::new(); slots], known: HashSet::new(), next, bound: Bound::new() }
    }
}

impl Watch for Claims {
    fn restart(&mut self) {
        self.at.iter_mut().for_each(Vec::clear);
        self.known.clear();
    }

    fn claimed(&mut self, slot: usize, mut claim: Claim) {
        rename(&mut claim);
        let mut hasher = DefaultHasher::new();
        (slot, &claim).hash(&mut hasher);
        if self.known.insert(hasher.finish()) {
            self.at[slot].push(claim);
        }
    }
}

/// Gives the names of a claim numbers in the order in which they come, so that equal claims look it.
fn rename(claim: &mut Claim) {
    let mut names = vec![0];
    let mut number = |name: &mut u32| {
        let known = names.iter().position(|known| known == name);
        *name = known.unwrap_or_else(|| {
            names.push(*name);
            names.len() - 1
        }) as u32;
    };
    for (_, claimed) in &mut claim.values {
        if let Name::Plain(name, _) | Name::Low(name, _) | Name::Remaining(name, _) = &mut claimed.name {
            number(name);
        }
    }
    claim.reaches.iter_mut().for_each(|(name, _)| number(name));
    claim.sums.iter_mut().flatten().for_each(&mut number);
    claim.relations.iter_mut().for_each(|(names, ..)| names.iter_mut().for_each(&mut number));
}

/// Verifies a program, and runs it when it is accepted.
pub fn embed(
    program_type: ProgramType,
    code: &[u8],
    maps: &[MapDef],
    initial: &[Option<Vec<u8>>],
    mut chance: Chance,
) -> Count {
    let mut claims = Claims::of(code.len() / 8);
    let options = Options { steps: STEPS, ..Options::default() };
    let program = Program { program_type, code, maps };
    let Ok(verified) = verify_watched(&program, &options, &mut claims) else { return Count::default() };
    let mut count = Count { accepted: 1, ..Count::default() };
    while count.runs < RUNS && count.states < WORK {
        let window = window_of(&mut chance);
        let input = Chance(chance.any());
        let mut machine = Machine::new(program_type, verified.insns(), maps, initial, &window, input.clone());
        match follow(&mut machine, &mut claims, &verified) {
            Ok(states) => count.states += states,
            Err(broken) => panic!(
                "at instruction {}: {broken}\nregisters {:#x?}\nwindow {window:02x?}\n{input:?}, proven cost {}\n{}",
                machine.slot,
                machine.registers,
                verified.max_cost(),
                listing(verified.insns())
            ),
        }
        count.runs += 1;
    }
    count
}

/// Whether a helper is given what it was proven to be given always.
fn given(machine: &Machine<'_>, verified: &Verified) -> Result<(), Broken> {
    for (index, register) in (1..6).enumerate() {
        let proven = match verified.argument(machine.slot, index) {
            Some(Argument::Number(number)) => number,
            Some(Argument::Map(map)) => reference::map(map.into()),
            None => continue,
        };
        if machine.registers[register] != proven {
            return Err(format!("r{register} is not {proven:#x}, which it was proven to be always"));
        }
    }
    Ok(())
}

/// Runs a machine to its end, or for long enough, and holds each of its states against the claims. Returns how many.
fn follow(machine: &mut Machine<'_>, claims: &mut Claims, verified: &Verified) -> Result<u64, Broken> {
    for states in 1.. {
        admit(claims, machine)?;
        given(machine, verified)?;
        let end = machine.step()?;
        if machine.cost > verified.max_cost() {
            return Err(format!("{} instructions are more than were proven", machine.cost));
        }
        if end.is_some() || machine.cost > LONG {
            return Ok(states);
        }
    }
    Ok(0)
}

fn listing(insns: &[Insn]) -> String {
    let mut text = String::new();
    for (at, insn) in insns.iter().enumerate() {
        writeln!(text, "{at:4} {:02x?} {insn:?}", insn.to_bytes()).expect("a string takes all");
    }
    text
}

fn window_of(chance: &mut Chance) -> Vec<u8> {
    let carried = carried();
    let mut window = if carried.is_empty() || chance.once_in(2) {
        let size = if chance.once_in(8) { chance.below(2048) } else { chance.below(80) };
        let number = chance.number();
        (0..size)
            .map(|at| if chance.once_in(3) { (number >> (at % 8 * 8)) as u8 } else { chance.any() as u8 })
            .collect()
    } else {
        let mut bytes = carried[chance.below(carried.len())].clone();
        if chance.once_in(3) {
            bytes.truncate(chance.below(bytes.len() + 1));
        }
        bytes
    };
    if !window.is_empty() {
        for _ in 0..chance.below(3) {
            let at = chance.below(window.len());
            window[at] = chance.any() as u8;
        }
    }
    window
}

/// Whether a claim at the machine's instruction admits its state. In a loop that is mostly the one behind the last.
fn admit(claims: &mut Claims, machine: &Machine<'_>) -> Result<(), Broken> {
    let (at, next) = (&claims.at[machine.slot], &mut claims.next[machine.slot]);
    let bound = &mut claims.bound;
    let mut order = (*next..at.len()).chain(0..*next);
    if let Some(found) = order.find(|index| admits(&at[*index], machine, bound).is_ok()) {
        *next = (found + 1) % at.len();
        return Ok(());
    }
    let mut why = format!("none of {} claims admits this state", at.len());
    for claim in at.iter().take(8) {
        let missing = admits(claim, machine, bound).expect_err("it was not admitted");
        write!(why, "\n  {missing:x?}\n    in {claim:x?}").expect("a string takes all");
    }
    Err(why)
}

/// What a claim says that is not so.
#[derive(Debug)]
#[expect(dead_code, reason = "for the message of a finding")]
enum Missing {
    Calls,
    Held(usize),
    Value(Place, u64),
    /// The value is in the claim, and its name is that of another number.
    Name(Place, u64),
    Sum([u32; 3]),
    Reach(u64, i64),
    Relation([u64; 2], i64, bool),
}

/// Numbers of names.
type Bound = Vec<Option<u64>>;

/// The name is that of `number`, which must be so everywhere.
fn bind(bound: &mut Bound, name: u32, number: u64) -> bool {
    let name = name as usize;
    if bound.len() <= name {
        bound.resize(name + 1, None);
    }
    *bound[name].get_or_insert(number) == number
}

fn get(bound: &Bound, name: u32) -> Option<u64> {
    bound.get(name as usize).copied().flatten()
}

/// Whether the machine's state is one of those that are claimed; else what is not.
fn admits(claim: &Claim, machine: &Machine<'_>, bound: &mut Bound) -> Result<(), Missing> {
    let returns = machine.frames.iter().map(|frame| frame.back as u32);
    if !claim.returns.iter().copied().eq(returns) {
        return Err(Missing::Calls);
    }
    if machine.held.len() > claim.held {
        return Err(Missing::Held(machine.held.len()));
    }
    bound.clear();
    bound.push(Some(0));
    let shown = machine.window.len() as u64;
    for (place, claimed) in &claim.values {
        let value = value_at(machine, *place);
        if !is_admitted(claimed, value, machine) {
            return Err(Missing::Value(*place, value));
        }
        let fits = match claimed.name {
            Name::Plain(name, delta) if claimed.what == What::Window => {
                bind(bound, name, value.wrapping_sub(reference::window()).wrapping_sub(delta as u64))
            }
            Name::Plain(name, delta) => bind(bound, name, value.wrapping_sub(delta as u64)),
            Name::Remaining(name, delta) => {
                bind(bound, name, shown.wrapping_sub(delta as u64).wrapping_sub(value))
            }
            Name::Low(..) | Name::None => true,
        };
        if !fits {
            return Err(Missing::Name(*place, value));
        }
    }
    for (place, claimed) in &claim.values {
        let Name::Low(name, delta) = claimed.name else { continue };
        let start = if claimed.what == What::WindowLow { reference::window() } else { 0 };
        let Some(number) = get(bound, name) else { continue };
        let low = number.wrapping_add(delta as u64).wrapping_add(start) & 0xffff_ffff;
        if low != value_at(machine, *place) {
            return Err(Missing::Name(*place, number));
        }
    }
    // What two of three names say about the third may be needed for another sum.
    for _ in 0..2 {
        for &[a, b, sum] in &claim.sums {
            let fits = match (get(bound, a), get(bound, b), get(bound, sum)) {
                (Some(x), Some(y), _) => bind(bound, sum, x.wrapping_add(y)),
                (Some(x), None, Some(whole)) => bind(bound, b, whole.wrapping_sub(x)),
                (None, Some(y), Some(whole)) => bind(bound, a, whole.wrapping_sub(y)),
                _ => true,
            };
            if !fits {
                return Err(Missing::Sum([a, b, sum]));
            }
        }
    }
    for &(name, bytes) in &claim.reaches {
        let Some(number) = get(bound, name) else { continue };
        if (number as i64).wrapping_add(bytes) > shown as i64 {
            return Err(Missing::Reach(number, bytes));
        }
    }
    for &([low, high], gap, differs) in &claim.relations {
        let (Some(low), Some(high)) = (get(bound, low), get(bound, high)) else { continue };
        let difference = high.wrapping_sub(low) as i64;
        if if differs { difference == gap } else { difference < gap } {
            return Err(Missing::Relation([low, high], gap, differs));
        }
    }
    Ok(())
}

fn value_at(machine: &Machine<'_>, place: Place) -> u64 {
    match place {
        Place::Register(register) => machine.registers[usize::from(register)],
        Place::Saved(frame, register) => machine.frames[usize::from(frame)].saved[usize::from(register) - 6],
        Place::Stack(frame, offset, size) => {
            let mut bytes = [0; 8];
            let size = size.min(8);
            bytes[..usize::from(size)].copy_from_slice(machine.stack_bytes(frame.into(), offset, size));
            u64::from_le_bytes(bytes)
        }
    }
}

fn is_admitted(claimed: &Claimed, value: u64, machine: &Machine<'_>) -> bool {
    let behind = |base: u64| claimed.contains(value.wrapping_sub(base));
    if claimed.nullable && value == 0 {
        return true;
    }
    match claimed.what {
        What::Number => claimed.contains(value),
        What::Context => behind(reference::context()),
        What::Window => behind(reference::window()),
        What::WindowEnd => behind(reference::window() + machine.window.len() as u64),
        What::WindowLow | What::WindowEndLow => value >> 32 == 0,
        What::Stack(frame) => behind(reference::frame(frame.into())),
        What::MapValue(map) => (0..ENTRIES).any(|entry| behind(reference::value(map.into(), entry))),
        What::Map(map) => value == reference::map(map.into()),
        What::Record(size) => {
            let records = machine.records.iter().enumerate();
            records
                .filter(|(_, record)| record.len() == size as usize)
                .any(|(at, _)| behind(reference::record(at)))
        }
        What::Clone => machine.held.iter().any(|(clone, _)| *clone == value),
        What::Code(slot) => value == reference::code(slot as usize),
    }
}

#[cfg(test)]
mod tests {
    use tidegate_abi::insn::{alu, class, jmp, mode, size, source};

    use super::*;

    /// Loads a number that nobody knows, does something to it, and gives back a verdict.
    fn program(middle: Insn) -> Vec<Insn> {
        vec![
            Insn::new(class::LDX | mode::MEM | size::DW, 2, 1, 16, 0),
            middle,
            Insn::new(class::ALU64 | source::K | alu::MOV, 0, 0, 0, 1),
            Insn::new(class::JMP | jmp::EXIT, 0, 0, 0, 0),
        ]
    }

    /// Runs one program against what was claimed of another.
    fn held_against(run: Insn, claimed: Insn) -> Result<(), Broken> {
        let code: Vec<u8> = program(claimed).iter().flat_map(|slot| slot.to_bytes()).collect();
        let mut claims = Claims::of(code.len() / 8);
        let verified = verify_watched(
            &Program { program_type: ProgramType::Stream, code: &code, maps: &[] },
            &Options::default(),
            &mut claims,
        );
        let verified = verified.expect("it is safe");
        let insns = program(run);
        for seed in 0..64 {
            let mut machine = Machine::new(ProgramType::Stream, &insns, &[], &[], &[], Chance(seed));
            follow(&mut machine, &mut claims, &verified)?;
        }
        Ok(())
    }

    /// What never finds anything proves nothing.
    #[test]
    fn a_claim_that_is_too_narrow_is_noticed() {
        let and = |imm| Insn::new(class::ALU64 | source::K | alu::AND, 2, 0, 0, imm);
        let copy = |src| Insn::new(class::ALU64 | source::X | alu::MOV, 3, src, 0, 0);
        let constant = |imm| Insn::new(class::ALU64 | source::K | alu::MOV, 3, 0, 0, imm);
        assert_eq!(held_against(and(7), and(7)), Ok(()));
        assert_eq!(held_against(and(3), and(7)), Ok(()));
        assert!(held_against(and(15), and(7)).is_err(), "known bits and bounds");
        assert!(held_against(constant(5), constant(4)).is_err(), "a constant");
        assert!(held_against(copy(1), copy(10)).is_err(), "what a pointer points to");
        assert!(held_against(constant(0), copy(2)).is_err(), "two numbers that are one");
        let exit = Insn::new(class::JMP | jmp::EXIT, 0, 0, 0, 0);
        assert!(held_against(exit, constant(0)).is_err(), "no verdict");
    }
}

//! The walk: every path from the entry, one after the other, cut short where a kept state covers it.
//!
//! Paths are taken depth first. Only states whose every continuation was walked to its end cut others short, so what is
//! left is a graph without cycles: each kept state knows the most that a run can still cost from there, and a program
//! whose walk ends can't run for ever.
//!
//! A loop is walked at once where that is possible ([`crate::rounds`]): one round from what holds in all of them, as often as
//! that claim has to change. Paths that leave the loop wait until the claim stands; a path that comes back to the head is at
//! its end, since a round more is what was walked already, as often as was proven. Where it isn't possible, the walk goes
//! round after round.
//!
//! The parts of a walk are not inlined into each other: together their frames would be more than a kernel's stack can spare.

mod regions;

use alloc::vec::Vec;
use core::sync::atomic::{AtomicU8, Ordering};

use tidegate_abi::helper::Capability;
use tidegate_abi::insn::class;
use tidegate_abi::{Verdicts, limits};

use crate::exec::{Flow, Machine, Stop};
use crate::facts::Facts;
use crate::kept::{Kept, Key, Names, Values};
use crate::memory::{Memory, OutOfMemory, append};
use crate::needs::{self, Branches, Loops};
use crate::refusal::{Reason, Refusal};
use crate::rounds::{Bounds, Round, Rounds};
use crate::state::State;
use crate::structure::{self, Structure};
use crate::{Options, Program};

/// What a walk found out about a program as a whole.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Found {
    pub(crate) most: Cost,
    pub(crate) verdicts: Verdicts,
    pub(crate) capabilities: Capability,
    pub(crate) frames: u8,
    pub(crate) steps: u32,
    pub(crate) states: u32,
}

/// What a part of a run takes at most.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cost {
    /// Slots of bytecode.
    pub(crate) insns: u64,
    /// New bytes that edits bring.
    pub(crate) bytes: u64,
}

impl Cost {
    fn insns(insns: u64) -> Self {
        Self { insns, bytes: 0 }
    }

    /// One after the other.
    fn plus(self, other: Self) -> Self {
        Self { insns: self.insns.saturating_add(other.insns), bytes: self.bytes.saturating_add(other.bytes) }
    }

    /// One or the other.
    fn or(self, other: Self) -> Self {
        Self { insns: self.insns.max(other.insns), bytes: self.bytes.max(other.bytes) }
    }

    fn times(self, rounds: u64) -> Self {
        Self { insns: self.insns.saturating_mul(rounds), bytes: self.bytes.saturating_mul(rounds) }
    }
}

/// Walked states that are remembered at one place; the oldest goes first.
const WALKED: usize = 1024;
/// Walked states that are compared in full on one arrival: the last ones, which lie nearest on the way back.
const COMPARED: usize = 24;
/// Instructions after a state was kept in which no other one is, but at the heads of loops, and where it turns out that
/// many paths pass.
const FEW: u32 = 10;
/// How many are many.
const OFTEN: u32 = 8;
/// Paths that wait at one place and are joined by one that comes there.
const JOINED: usize = 32;
/// Instructions without another way after which nothing else is expected.
const ALONE: u32 = 4096;
/// Instructions that a jump may skip for both ways to be walked as one.
const SKIPPED: usize = 8;
/// Loops that are walked at once inside each other.
const NESTED: usize = 8;
/// Times that a loop could not be walked at once before nobody tries any more.
const FAILURES: u8 = 2;
/// No node, no state, no place.
const NONE: u32 = u32::MAX;

/// Where paths part, or where a state is kept: a node of the tree of paths.
#[derive(Clone, Copy, Debug)]
struct Node {
    parent: u32,
    /// Ways from here that were not walked to their end.
    open: u32,
    /// Instructions from the parent to here.
    before: Cost,
    /// The most instructions from here to an exit on a way that was. Inside a loop that is walked at once: to where the
    /// path leaves it or comes back to its head.
    after: Cost,
    /// The most instructions of all rounds of the loop that was walked at once from here.
    rounds: Cost,
    /// The state kept here.
    kept: u32,
}

/// A path that waits for its turn.
struct Pending {
    state: Kept,
    slot: usize,
    node: u32,
    cost: Cost,
    unkept: u32,
    /// The path that waits at the same place and was there before.
    before: Option<u32>,
}

/// A loop that is walked at once.
struct Region {
    head: usize,
    frame: u8,
    /// Where the paths of a round begin.
    node: u32,
    /// The state that the loop was entered with.
    entry: Kept,
    /// What is claimed of every round; nothing in the first.
    rounds: Option<Rounds>,
    /// What the loop compared where it may leave, in the first round.
    bounds: Bounds,
    /// Paths that left the loop.
    exits: Vec<Pending>,
    /// Paths that waited when the loop was entered.
    pending: usize,
    /// States that had been walked then, of those in the log.
    logged: usize,
}

/// A state in the store, and what is known of it.
struct Stored {
    kept: Kept,
    key: Key,
    serial: u32,
    point: u32,
    /// The state kept before at the same place and not walked to its end.
    previous: u32,
    /// The most from here to an exit, once every way was walked.
    cost: Cost,
}

/// A place where states are kept.
#[derive(Default)]
struct Point {
    /// Those whose every way was walked, the last one last.
    walked: Vec<Walked>,
    /// Where the last one is, once the list is full.
    last: usize,
    /// The last one that is being walked.
    open: Option<u32>,
    /// The last path that waits here.
    waiting: Option<u32>,
    /// Paths whose state was not kept, since one was kept shortly before.
    passed: u32,
    /// Loops that start here and could not be walked at once.
    failures: u8,
    /// Some of those that were walked are in the store no more.
    stale: bool,
}

/// A state whose every way was walked.
#[derive(Clone, Copy)]
struct Walked {
    stored: u32,
    /// Another serial there: the state is gone.
    serial: u32,
    /// Registers whose number was known, and a hash of those: a state with others can't be covered.
    key: Key,
}

/// How a program is walked.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Manner {
    branches: Branches,
    /// Whether loops are walked at once.
    loops_at_once: bool,
    /// Of the steps that are left, so many parts of eight.
    share: u32,
}

/// Numbers that only choose between paths make states many: at first they are forgotten where paths meet. Rounds make
/// paths long: at first they are walked at once. What is refused then is looked at again in more detail.
const MANNERS: [Manner; 4] = [
    Manner { branches: Branches::Loops, loops_at_once: true, share: 2 },
    Manner { branches: Branches::All, loops_at_once: true, share: 2 },
    Manner { branches: Branches::Loops, loops_at_once: false, share: 6 },
    Manner { branches: Branches::All, loops_at_once: false, share: 8 },
];
/// At first each manner has this part of all steps, and two for each instruction: what one can't do in many, another one may
/// do in few.
const BRIEFLY: u32 = 64;

/// A state that was walked inside a loop that is walked at once.
#[derive(Clone, Copy)]
struct Logged {
    stored: u32,
    serial: u32,
    point: u32,
}

/// Steps between two looks at whether the verification was cancelled.
const STEPS_BETWEEN_LOOKS: u32 = 256;

/// What ends an attempt before its paths end.
#[derive(Clone, Copy)]
struct Budget<'a> {
    steps: u32,
    /// For a walk that has come to have one path only.
    single: u32,
    cancelled: Option<&'a AtomicU8>,
}

impl Budget<'_> {
    fn are_cancelled(&self) -> bool {
        self.cancelled.is_some_and(|cancelled| cancelled.load(Ordering::Relaxed) != 0)
    }
}

/// Walks all paths of `program`, and writes down what it finds out.
#[inline(never)]
pub(crate) fn explore(
    program: &Program<'_>,
    structure: &Structure,
    options: &Options<'_>,
    memory: &mut Memory,
    mut facts: Facts<'_>,
    found: &mut Found,
) -> Result<(), Refusal> {
    let mut steps = 0;
    let mut refused = Refusal::new(0, Reason::Steps { steps });
    let mut has_loops = false;
    let mut unfinished = [true; MANNERS.len()];
    for turn in 0..2 * MANNERS.len() {
        let (briefly, index) = (turn < MANNERS.len(), turn % MANNERS.len());
        let Some(&manner) = MANNERS.get(index) else { continue };
        let Some(unfinished) = unfinished.get_mut(index).filter(|unfinished| **unfinished) else { continue };
        if !manner.loops_at_once && !has_loops {
            continue;
        }
        let left = options.steps.saturating_sub(steps);
        let steps_left = if briefly {
            left.min(options.steps / BRIEFLY + 2 * structure.insns().len() as u32)
        } else {
            (u64::from(left) * u64::from(manner.share) / 8) as u32
        };
        let single = if manner == MANNERS[0] { left } else { steps_left };
        let budget = Budget { steps: steps_left, single, cancelled: options.cancelled };
        facts.clear();
        let mut met = Met::default();
        let task = Task { program, structure, manner, budget };
        let walked = attempt(task, memory, facts.reborrow(), &mut met, found);
        steps = options.steps.min(steps + met.steps);
        has_loops |= met.loops;
        found.steps = steps;
        let Err(refusal) = &walked else { return Ok(()) };
        *unfinished = matches!(refusal.reason, Reason::Steps { .. });
        let limited = *unfinished || matches!(refusal.reason, Reason::Memory);
        let cancelled = matches!(refusal.reason, Reason::Cancelled);
        if cancelled || tells(refusal) >= tells(&refused) {
            refused = *refusal;
        }
        if cancelled || limited && met.one_path && manner == MANNERS[0] {
            break;
        }
    }
    if let Reason::Steps { steps } = &mut refused.reason {
        *steps = options.steps;
    }
    refused.steps = steps;
    Err(refused)
}

/// A fact that was missing tells more than a cost that may be less on a closer look, and that more than a walk that didn't
/// come to its end. Of equals the last one tells most: what looks endless where numbers are forgotten may only be long.
fn tells(refusal: &Refusal) -> u8 {
    match refusal.reason {
        Reason::Steps { .. } | Reason::Memory | Reason::Endless => 0,
        Reason::Costly { .. } => 1,
        _ => 2,
    }
}

/// What one walk met, whatever came of it.
#[derive(Clone, Copy, Default)]
struct Met {
    steps: u32,
    /// A loop that it walked at once, or tried to.
    loops: bool,
    /// It had one path only in the end.
    one_path: bool,
}

/// What is walked, how, and for how long.
#[derive(Clone, Copy)]
struct Task<'a> {
    program: &'a Program<'a>,
    structure: &'a Structure,
    manner: Manner,
    budget: Budget<'a>,
}

#[inline(never)]
fn attempt(
    task: Task<'_>,
    memory: &mut Memory,
    mut facts: Facts<'_>,
    met: &mut Met,
    found: &mut Found,
) -> Result<(), Refusal> {
    let left = memory.left();
    let walked = {
        // Not on the stack: a kernel's is small.
        let mut place = Vec::new();
        memory.reserve_exact(&mut place, 1)?;
        match Walk::set_up(&mut place, task, memory, facts.reborrow()) {
            Ok((walk, path)) => walk.run(path, met, found),
            Err(spent) => Err(spent.into()),
        }
    };
    // Everything that the attempt took was dropped with it.
    *memory = Memory::new(left);
    walked
}

/// The places where states are kept: where jumps lead, where loops are left and where functions start.
fn find_points(
    structure: &Structure,
    loops: &Loops,
    memory: &mut Memory,
) -> Result<(Vec<Point>, Vec<u32>), OutOfMemory> {
    let mut points = Vec::new();
    let mut places = memory.filled(structure.insns().len(), NONE)?;
    let mut left = false;
    for (slot, place) in places.iter_mut().enumerate() {
        let insn = structure.insn(slot).unwrap_or_default();
        if structure.is_jump_target(slot) || structure.is_function(slot) || left {
            *place = points.len() as u32;
            memory.push(&mut points, Point::default())?;
        }
        left = loops.leaves(slot, insn).is_some();
    }
    Ok((points, places))
}

struct Walk<'a> {
    machine: Machine<'a>,
    loops: Loops,
    points: Vec<Point>,
    places: Vec<u32>,
    nodes: Vec<Node>,
    free_nodes: Vec<u32>,
    stored: Vec<Option<Stored>>,
    free_stored: Vec<u32>,
    pending: Vec<Pending>,
    /// The other way of the comparison that the path came to last.
    other: State,
    /// Loops that are walked at once, the innermost last.
    regions: Vec<Region>,
    /// States that were walked since the outermost of them was entered, with their serials.
    log: Vec<Logged>,
    names: Names,
    values: Values,
    manner: Manner,
    has_loops: bool,
    budget: Budget<'a>,
    /// Memory that is left free for the paths: with less, old states make room for new ones.
    reserve: usize,
    steps: u32,
    /// The step at which to look whether the verification was cancelled.
    next_look: u32,
    /// The step at which there was more than one way, or another path was taken up.
    parted: u32,
    states: u32,
    most_states: u32,
    serial: u32,
}

/// The path being walked.
struct Path {
    state: State,
    slot: usize,
    node: u32,
    /// Since the node.
    cost: Cost,
    /// Instructions since a state was kept.
    unkept: u32,
    /// It begins a round: there is nothing to compare its state with.
    begins: bool,
}

impl<'a> Walk<'a> {
    /// Puts a walk and the path that it begins with where there is room for them.
    #[inline(never)]
    fn set_up<'p>(
        place: &'p mut Vec<(Self, Path)>,
        task: Task<'a>,
        memory: &'a mut Memory,
        facts: Facts<'a>,
    ) -> Result<&'p mut (Self, Path), OutOfMemory> {
        let Task { program, structure, manner, budget } = task;
        let reserve = memory.left() / 4;
        let mut walk = Self {
            machine: Machine::new(program, structure, Vec::new(), memory, facts),
            loops: Loops::default(),
            points: Vec::new(),
            places: Vec::new(),
            nodes: Vec::new(),
            free_nodes: Vec::new(),
            stored: Vec::new(),
            free_stored: Vec::new(),
            pending: Vec::new(),
            other: State::default(),
            regions: Vec::new(),
            log: Vec::new(),
            names: Names::default(),
            values: Values::default(),
            manner,
            has_loops: false,
            budget,
            reserve,
            steps: 0,
            next_look: 0,
            parted: 0,
            states: 0,
            most_states: 0,
            serial: 0,
        };
        let state = walk.prepare()?;
        let path = Path { state, slot: 0, node: NONE, cost: Cost::default(), unkept: 0, begins: false };
        append(place, (walk, path))?;
        place.last_mut().ok_or(OutOfMemory)
    }

    /// What is found out before the walk, and the state that it begins with.
    fn prepare(&mut self) -> Result<State, OutOfMemory> {
        let (structure, memory) = (self.machine.structure, &mut *self.machine.memory);
        self.machine.needs = needs::analyse(structure, self.manner.branches, memory)?;
        self.loops = Loops::find(structure, memory)?;
        (self.points, self.places) = find_points(structure, &self.loops, memory)?;
        State::at_entry(memory)
    }

    fn reason(&self, stop: Stop) -> Reason {
        match stop {
            Stop::Refused => self.machine.refused().unwrap_or(Reason::Memory),
            Stop::Endless => Reason::Endless,
            Stop::Steps => Reason::Steps { steps: self.budget.steps },
            Stop::Cancelled => Reason::Cancelled,
            Stop::OutOfMemory => Reason::Memory,
        }
    }

    /// Walks all paths from where `path` begins.
    fn run(&mut self, path: &mut Path, met: &mut Met, found: &mut Found) -> Result<(), Refusal> {
        let most = self.walk(path);
        *met = Met { steps: self.steps, loops: self.has_loops, one_path: self.has_one_path() };
        let most = most.map_err(|stop| Refusal::new(path.slot, self.reason(stop)))?;
        if most.insns > limits::MAX_BUDGET.into() {
            return Err(Refusal::new(0, Reason::Costly { insns: most.insns }));
        }
        *found = Found {
            most,
            verdicts: self.machine.verdicts,
            capabilities: self.machine.capabilities,
            frames: self.machine.frames,
            steps: self.steps,
            states: self.most_states,
        };
        Ok(())
    }

    /// Walks a path and all that part from it. Returns the cost of the whole program, or what is missing where the path is.
    #[inline(never)]
    fn walk(&mut self, path: &mut Path) -> Result<Cost, Stop> {
        path.node = self.new_node(NONE, Cost::default(), 1)?;
        let mut most = Cost::default();
        loop {
            match self.advance(path) {
                Ok(true) => continue,
                Ok(false) => {}
                Err(stop) => {
                    if !self.give_up(path, stop).unwrap_or(false) {
                        return Err(stop);
                    }
                    continue;
                }
            }
            most = self.finish(path)?.unwrap_or(most);
            if !self.take_up(path)? {
                return Ok(most);
            }
        }
    }

    /// Goes on with the path that waited last. False when none waits.
    #[inline(never)]
    fn take_up(&mut self, path: &mut Path) -> Result<bool, OutOfMemory> {
        let Some(next) = self.pop_pending() else { return Ok(false) };
        let Pending { state: packed, slot, node, cost, unkept, .. } = next;
        (self.parted, path.slot) = (self.steps, slot);
        let state = packed.unpack(&self.values, self.machine.memory)?;
        packed.discard(self.machine.memory);
        let done = core::mem::replace(path, Path { state, slot, node, cost, unkept, begins: false });
        done.state.discard(self.machine.memory);
        Ok(true)
    }

    /// The path that waited last, as the next to be walked.
    fn pop_pending(&mut self) -> Option<Pending> {
        let pending = self.pending.pop()?;
        if let Some(point) = self.point_mut(pending.slot) {
            point.waiting = pending.before;
        }
        Some(pending)
    }

    /// Whether it comes to nothing but going on where there is one way only, and what is walked is no claim about a loop.
    fn has_one_path(&self) -> bool {
        self.steps - self.parted > ALONE && self.regions.is_empty()
    }

    fn push_pending(&mut self, mut pending: Pending) -> Result<(), OutOfMemory> {
        let last = self.pending.len() as u32;
        if let Some(point) = self.point_mut(pending.slot) {
            pending.before = point.waiting.replace(last);
        }
        self.machine.memory.push(&mut self.pending, pending)
    }

    /// Joins the path with those that wait where it is and differ in no more than numbers: they are covered when their turn
    /// comes.
    #[inline(never)]
    fn join_waiting(&mut self, path: &mut Path, mut waiting: Option<u32>) -> Result<(), OutOfMemory> {
        let Some(need) = self.machine.needs.get(path.slot) else { return Ok(()) };
        // Those outside of the loop wait for another state of it.
        let inside = self.regions.last().map_or(0, |region| region.pending);
        let mut last: Option<&Kept> = None;
        for _ in 0..JOINED {
            let Some(index) = waiting.map(|index| index as usize).filter(|index| *index >= inside) else {
                break;
            };
            let Some(pending) = self.pending.get(index) else { break };
            if last != Some(&pending.state) {
                let other = pending.state.unpack(&self.values, self.machine.memory)?;
                path.state.join(&other, need);
                other.discard(self.machine.memory);
            }
            (last, waiting) = (Some(&pending.state), pending.before);
        }
        Ok(())
    }

    /// Walks one instruction. False when the path is at its end.
    #[inline(never)]
    fn advance(&mut self, path: &mut Path) -> Result<bool, Stop> {
        if !core::mem::take(&mut path.begins)
            && let Some(cost) = self.arrive(path)?
        {
            path.cost = path.cost.plus(cost);
            return Ok(path.begins);
        }
        if self.steps >= self.budget.steps {
            if self.steps >= self.budget.single || !self.has_one_path() {
                return Err(Stop::Steps);
            }
            self.budget.steps = self.budget.single;
        }
        if self.steps >= self.next_look {
            self.next_look = self.steps + STEPS_BETWEEN_LOOKS;
            if self.budget.are_cancelled() {
                return Err(Stop::Cancelled);
            }
        }
        self.steps += 1;
        // An engine counts the slots of an instruction.
        let insn = self.machine.structure.insn(path.slot);
        let insns = insn.map_or(1, |insn| structure::width(insn) as u64);
        path.unkept += 1;
        self.note_bounds(path);
        let flow = self.machine.step(&mut path.state, path.slot)?;
        path.cost = path.cost.plus(Cost { insns, bytes: core::mem::take(&mut self.machine.brought) });
        match flow {
            Flow::Exit => Ok(false),
            Flow::Go(next) => {
                path.slot = next;
                Ok(true)
            }
            Flow::Fork { next, target } => self.fork(path, next, target),
        }
    }

    /// Takes both ways of a comparison, as far as they are possible.
    #[inline(never)]
    fn fork(&mut self, path: &mut Path, next: usize, target: usize) -> Result<bool, Stop> {
        let slot = path.slot;
        match self.assume_both(path)? {
            (true, true) => {
                self.parted = self.steps;
                path.slot = next;
                let skipped = self.skip(path, target)?;
                if skipped > 0 && self.join_other(path) {
                    path.cost = path.cost.plus(Cost::insns(skipped));
                } else {
                    self.part(path, slot, target, skipped)?;
                }
            }
            (true, false) => path.slot = next,
            (false, true) => {
                core::mem::swap(&mut path.state, &mut self.other);
                path.slot = target;
            }
            // The state was impossible, which can only be seen here.
            (false, false) => return Ok(false),
        }
        Ok(true)
    }

    /// Lets the path learn that the comparison it is at fails, and the other way that it holds. Returns which can be.
    #[inline(never)]
    fn assume_both(&mut self, path: &mut Path) -> Result<(bool, bool), Stop> {
        self.copy_to_other(path)?;
        let Some(insn) = self.machine.structure.insn(path.slot) else { return Ok((false, false)) };
        let can_take = self.machine.assume(&mut self.other, path.slot, insn, true)?;
        let can_pass = self.machine.assume(&mut path.state, path.slot, insn, false)?;
        Ok((can_pass, can_take))
    }

    #[inline(never)]
    fn copy_to_other(&mut self, path: &Path) -> Result<(), OutOfMemory> {
        core::mem::take(&mut self.other).discard(self.machine.memory);
        self.other = path.state.try_clone(self.machine.memory)?;
        Ok(())
    }

    /// Goes on with one of the two ways behind `slot`; the other one, which leads to `target`, waits. The path took the first one
    /// and `skipped` instructions of it already.
    #[inline(never)]
    fn part(
        &mut self,
        path: &mut Path,
        slot: usize,
        mut target: usize,
        skipped: u64,
    ) -> Result<(), OutOfMemory> {
        path.node = self.new_node(path.node, path.cost, 2)?;
        path.cost = Cost::insns(skipped);
        // At first the way into a loop, so that the ways out of it meet and are walked as one. When that is too
        // coarse, the way out: then what waits is one path, not one for every round.
        let inner_first = self.manner.branches == Branches::Loops;
        let (next_stays, target_stays) = (self.loops.stays(slot, path.slot), self.loops.stays(slot, target));
        if skipped == 0 && next_stays != target_stays && next_stays != inner_first {
            core::mem::swap(&mut path.state, &mut self.other);
            core::mem::swap(&mut path.slot, &mut target);
        }
        // Behind plain jumps, where it may meet others.
        let (slot, cost) = self.machine.pass_jumps(&self.other, target);
        if let Some(need) = self.machine.needs.get(slot) {
            self.other.forget(need);
        }
        let state = Kept::pack(&self.other, &mut self.values, self.machine.memory)?;
        let (node, cost, unkept) = (path.node, Cost::insns(cost), path.unkept);
        self.push_pending(Pending { state, slot, node, cost, unkept, before: None })
    }

    /// Walks a few instructions in a row that a jump to `target` would skip. Returns how many; 0 when it isn't so.
    fn skip(&mut self, path: &mut Path, target: usize) -> Result<u64, Stop> {
        let structure = self.machine.structure;
        let distance = target.saturating_sub(path.slot);
        let straight = |slot: &usize| {
            let insn = structure.insn(*slot).unwrap_or_default();
            !structure.is_jump_target(*slot) && !matches!(insn.class(), class::JMP | class::JMP32)
        };
        let short = self.manner.branches == Branches::Loops && (1..=SKIPPED).contains(&distance);
        if !short || !(path.slot..target).all(|slot| straight(&slot)) {
            return Ok(0);
        }
        let mut cost = 0;
        while path.slot < target {
            let Flow::Go(next) = self.machine.step(&mut path.state, path.slot)? else { break };
            cost += (next - path.slot) as u64;
            path.slot = next;
        }
        self.steps += cost as u32;
        path.unkept += cost as u32;
        Ok(cost)
    }

    /// Makes one path of the two ways behind a comparison, which meet where `path` is.
    #[inline(never)]
    fn join_other(&mut self, path: &mut Path) -> bool {
        let Some(need) = self.machine.needs.get(path.slot) else { return false };
        path.state.forget(need);
        self.other.forget(need);
        path.state.join(&self.other, need)
    }

    /// Compares the path with the states kept where it is, and keeps it when it is new. Returns the cost of what is
    /// left when a kept state covers it.
    #[inline(never)]
    fn arrive(&mut self, path: &mut Path) -> Result<Option<Cost>, Stop> {
        let place = self.places.get(path.slot).copied().unwrap_or(NONE);
        let Some(point) = self.points.get(place as usize) else { return Ok(None) };
        if let Some(need) = self.machine.needs.get(path.slot) {
            path.state.forget(need);
        }
        if let Some(region) = self.regions.last() {
            let frame = path.state.frame();
            if frame == region.frame && path.slot == region.head {
                return self.come_back(path).map(Some);
            }
            if frame < region.frame
                || frame == region.frame && !self.loops.contains(region.head as u32, path.slot)
            {
                self.leave(path)?;
                return Ok(Some(Cost::default()));
            }
        }
        if self.manner.branches == Branches::Loops {
            self.join_waiting(path, point.waiting)?;
        }
        let Some(point) = self.points.get(place as usize) else { return Ok(None) };
        let (newer, older) = point.walked.split_at_checked(point.last + 1).unwrap_or((&point.walked, &[]));
        let mut compared = 0;
        let mut key = Key::of(&path.state, None);
        for walked in newer.iter().rev().chain(older.iter().rev()) {
            if key.registers != walked.key.registers {
                key = Key::of(&path.state, Some(walked.key.registers));
            }
            if key != walked.key || compared >= COMPARED {
                continue;
            }
            compared += 1;
            let Some(Some(stored)) = self.stored.get(walked.stored as usize) else { continue };
            if stored.serial != walked.serial {
                continue;
            }
            if stored.kept.covers(&path.state, &self.values, &mut self.names, self.machine.memory)? {
                return Ok(Some(stored.cost));
            }
        }
        let is_head = self.loops.is_head(path.slot);
        let at_once =
            is_head && self.manner.loops_at_once && self.regions.len() < NESTED && point.failures < FAILURES;
        if path.unkept < FEW && point.passed < OFTEN && !is_head {
            if let Some(point) = self.points.get_mut(place as usize) {
                point.passed += 1;
            }
            return Ok(None);
        }
        self.keep(path, place)?;
        if at_once {
            self.enter(path)?;
        }
        Ok(None)
    }

    /// Keeps the state of a path at a place, to be compared with others.
    #[inline(never)]
    fn keep(&mut self, path: &mut Path, place: u32) -> Result<(), Stop> {
        let open = self.points.get(place as usize).and_then(|point| point.open);
        path.unkept = 0;
        let key = Key::of(&path.state, None);
        let kept = Kept::new(&path.state, &mut self.values, &mut self.names, self.machine.memory)?;
        if let Some(open) = open
            && let Some(Some(before)) = self.stored.get(open as usize)
            && before.kept == kept
        {
            return Err(Stop::Endless);
        }
        let previous = open.unwrap_or(NONE);
        self.serial += 1;
        let serial = self.serial;
        let cost = Cost::default();
        let stored = Stored { kept, key, serial, point: place, previous, cost };
        let index = match self.free_stored.pop() {
            Some(index) => index,
            None => {
                self.machine.memory.push(&mut self.stored, None)?;
                self.stored.len() as u32 - 1
            }
        };
        if let Some(slot) = self.stored.get_mut(index as usize) {
            *slot = Some(stored);
        }
        if let Some(point) = self.points.get_mut(place as usize) {
            point.open = Some(index);
        }
        self.states += 1;
        self.most_states = self.most_states.max(self.states);
        path.node = self.new_node(path.node, path.cost, 1)?;
        path.cost = Cost::default();
        if let Some(node) = self.nodes.get_mut(path.node as usize) {
            node.kept = index;
        }
        Ok(())
    }

    fn point_mut(&mut self, slot: usize) -> Option<&mut Point> {
        let place = self.places.get(slot).copied().unwrap_or(NONE);
        self.points.get_mut(place as usize)
    }

    fn new_node(&mut self, parent: u32, before: Cost, open: u32) -> Result<u32, OutOfMemory> {
        let (after, rounds) = (Cost::default(), Cost::default());
        let node = Node { parent, open, before, after, rounds, kept: NONE };
        if let Some(index) = self.free_nodes.pop()
            && let Some(free) = self.nodes.get_mut(index as usize)
        {
            *free = node;
            return Ok(index);
        }
        self.machine.memory.push(&mut self.nodes, node)?;
        // So that a freed node always has room in the list of free ones.
        let room = self.nodes.len() - self.free_nodes.len();
        self.machine.memory.reserve(&mut self.free_nodes, room)?;
        Ok(self.nodes.len() as u32 - 1)
    }

    /// Takes the cost of a path that is at its end up the tree. Returns the cost of the whole program when nothing is
    /// open any more.
    #[inline(never)]
    fn finish(&mut self, path: &Path) -> Result<Option<Cost>, OutOfMemory> {
        let (mut index, mut cost) = (path.node, path.cost);
        while let Some(node) = self.nodes.get_mut(index as usize) {
            node.after = node.after.or(cost);
            node.open -= 1;
            if node.open > 0 {
                return Ok(None);
            }
            if self.regions.last().is_some_and(|region| region.node == index) && self.close()? {
                return Ok(None);
            }
            let Some(node) = self.nodes.get(index as usize).copied() else { break };
            let after = node.rounds.plus(node.after);
            self.walked(node.kept, after);
            append(&mut self.free_nodes, index)?;
            cost = node.before.plus(after);
            index = node.parent;
        }
        Ok(Some(cost))
    }

    /// Every way from a kept state was walked: it may cut others short from now on.
    fn walked(&mut self, index: u32, cost: Cost) {
        let Some(Some(stored)) = self.stored.get_mut(index as usize) else { return };
        stored.cost = cost;
        let (place, previous, key) = (stored.point, stored.previous, stored.key);
        let low_memory = self.machine.memory.left() < self.reserve;
        let Some(point) = self.points.get_mut(place as usize) else { return };
        point.open = (previous != NONE).then_some(previous);
        let walked = Walked { stored: index, serial: stored.serial, key };
        let mut gone = None;
        let full = point.walked.len() >= WALKED || low_memory;
        let logged = Logged { stored: index, serial: walked.serial, point: place };
        let logged = self.regions.is_empty() || self.machine.memory.push(&mut self.log, logged).is_ok();
        if !logged {
            // What is not logged could not be forgotten with its loop.
            gone = Some(index);
        } else if !full && self.machine.memory.push(&mut point.walked, walked).is_ok() {
            point.last = point.walked.len() - 1;
        } else {
            point.last = if point.last + 1 < point.walked.len() { point.last + 1 } else { 0 };
            match point.walked.get_mut(point.last) {
                Some(oldest) => gone = Some(core::mem::replace(oldest, walked).stored),
                None => gone = Some(index),
            }
        }
        if let Some(gone) = gone {
            self.forget(gone);
        }
    }

    /// Takes a state out of the store. Who remembers it sees that by its serial.
    fn forget(&mut self, index: u32) {
        if let Some(stored) = self.stored.get_mut(index as usize).and_then(Option::take) {
            stored.kept.discard(self.machine.memory);
            self.states -= 1;
            // Without room in the list the place in the store is just not used again.
            let _ = self.machine.memory.push(&mut self.free_stored, index);
        }
    }
}

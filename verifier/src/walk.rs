//! The walk: every path from the entry, one after the other, cut short where a kept state covers it.
//!
//! Paths are taken depth first. Only states whose every continuation was walked to its end cut others short, so what is
//! left is a graph without cycles: each kept state knows the most that a run can still cost from there, and a program
//! whose walk ends can't run for ever.

use alloc::vec::Vec;

use tidegate_abi::helper::Capability;
use tidegate_abi::insn::class;

use crate::exec::{Flow, Machine};
use crate::facts::Facts;
use crate::kept::{Kept, Key, Names, Values};
use crate::memory::Memory;
use crate::needs::{self, Branches, Loops};
use crate::refusal::{Reason, Refusal};
use crate::state::State;
use crate::structure::{self, Structure};
use crate::{Options, Program};

/// What a walk found out about a program as a whole.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Found {
    pub(crate) max_cost: u64,
    pub(crate) capabilities: Capability,
    pub(crate) frames: u8,
    pub(crate) steps: u32,
    pub(crate) states: u32,
}

/// Walked states that are remembered at one place; the oldest goes first.
const WALKED: usize = 4096;
/// Walked states that are compared in full on one arrival: the last ones, which lie nearest on the way back.
const COMPARED: usize = 64;
/// Instructions after a state was kept in which no other one is, but at the heads of loops, and where it turns out that
/// many paths pass.
const FEW: u32 = 10;
/// How many are many.
const OFTEN: u32 = 8;
/// Waiting paths that are looked at for one to be joined.
const LOOKED_AT: usize = 1024;
/// Instructions that a jump may skip for both ways to be walked as one.
const SKIPPED: usize = 8;
/// No node, no state, no place.
const NONE: u32 = u32::MAX;

/// Where paths part, or where a state is kept: a node of the tree of paths.
#[derive(Clone, Copy, Debug)]
struct Node {
    parent: u32,
    /// Ways from here that were not walked to their end.
    open: u32,
    /// Instructions from the parent to here.
    before: u64,
    /// The most instructions from here to an exit on a way that was.
    after: u64,
    /// The state kept here.
    kept: u32,
}

/// A path that waits for its turn.
struct Pending {
    state: Kept,
    slot: usize,
    node: u32,
    cost: u64,
    unkept: u32,
}

/// A state in the store, and what is known of it.
struct Stored {
    kept: Kept,
    key: Key,
    point: u32,
    /// The state kept before at the same place and not walked to its end.
    previous: u32,
    /// The most instructions from here to an exit, once every way was walked.
    cost: u64,
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
    /// Paths that wait here.
    waiting: u32,
    /// Paths whose state was not kept, since one was kept shortly before.
    passed: u32,
}

/// A state whose every way was walked.
#[derive(Clone, Copy)]
struct Walked {
    stored: u32,
    /// Registers whose number was known, and a hash of those: a state with others can't be covered.
    key: Key,
}

/// Walks all paths of `program`.
pub(crate) fn explore(
    program: &Program<'_>,
    structure: &Structure,
    options: &Options,
    memory: &mut Memory,
    mut facts: Facts<'_>,
) -> Result<Found, Refusal> {
    // Numbers that only choose between paths make states many: at first they are forgotten where paths meet. What is
    // refused then is looked at again with all of them.
    let second = options.steps / 4;
    let first = match attempt(
        program,
        structure,
        Branches::Loops,
        options.steps - second,
        memory,
        facts.reborrow(),
    ) {
        Err(refusal) => refusal,
        accepted => return accepted,
    };
    facts.clear();
    let second = match attempt(program, structure, Branches::All, second, memory, facts) {
        Err(refusal) => refusal,
        accepted => return accepted,
    };
    // A fact that was missing tells more than a walk that didn't come to its end.
    let endless = matches!(second.reason, Reason::Steps { .. } | Reason::Memory);
    let refusal = if endless { first } else { second };
    Err(match refusal.reason {
        Reason::Steps { .. } => Refusal::new(refusal.insn, Reason::Steps { steps: options.steps }),
        _ => refusal,
    })
}

fn attempt(
    program: &Program<'_>,
    structure: &Structure,
    branches: Branches,
    budget: u32,
    memory: &mut Memory,
    mut facts: Facts<'_>,
) -> Result<Found, Refusal> {
    let whole = |reason| Refusal::new(0, reason);
    let left = memory.left();
    let needs = needs::analyse(structure, branches, memory).map_err(whole)?;
    let loops = Loops::find(structure, memory).map_err(whole)?;
    let (points, places) = find_points(structure, memory).map_err(whole)?;
    let state = State::at_entry(memory).map_err(whole)?;
    let found = Walk {
        machine: Machine::new(program, structure, needs, memory, facts.reborrow()),
        loops,
        points,
        places,
        nodes: Vec::new(),
        free_nodes: Vec::new(),
        stored: Vec::new(),
        free_stored: Vec::new(),
        pending: Vec::new(),
        names: Names::default(),
        values: Values::default(),
        branches,
        budget,
        reserve: left / 4,
        steps: 0,
        states: 0,
        most_states: 0,
    }
    .run(state);
    // Everything that the attempt took is dropped with it.
    *memory = Memory::new(left);
    found
}

/// The places where states are kept: where jumps lead and where functions start and are returned to.
fn find_points(structure: &Structure, memory: &mut Memory) -> Result<(Vec<Point>, Vec<u32>), Reason> {
    let mut points = Vec::new();
    let mut places = memory.filled(structure.insns().len(), NONE)?;
    for (slot, place) in places.iter_mut().enumerate() {
        if structure.is_jump_target(slot) || structure.is_function(slot) {
            *place = points.len() as u32;
            memory.push(&mut points, Point::default())?;
        }
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
    names: Names,
    values: Values,
    branches: Branches,
    budget: u32,
    /// Memory that is left free for the paths: with less, old states make room for new ones.
    reserve: usize,
    steps: u32,
    states: u32,
    most_states: u32,
}

/// The path being walked.
struct Path {
    state: State,
    slot: usize,
    node: u32,
    /// Instructions since the node.
    cost: u64,
    /// Instructions since a state was kept.
    unkept: u32,
}

impl Walk<'_> {
    fn run(mut self, state: State) -> Result<Found, Refusal> {
        let whole = |reason| Refusal::new(0, reason);
        let root = self.new_node(NONE, 0, 1).map_err(whole)?;
        let mut path = Path { state, slot: 0, node: root, cost: 0, unkept: 0 };
        let mut max_cost = 0;
        loop {
            let goes_on = self.advance(&mut path);
            let goes_on = goes_on.map_err(|reason| Refusal::new(path.slot, reason))?;
            if goes_on {
                continue;
            }
            if let Some(cost) = self.finish(&path) {
                max_cost = cost;
            }
            let Some(next) = self.pending.pop() else { break };
            if let Some(point) = self.point_mut(next.slot) {
                point.waiting -= 1;
            }
            let Pending { state: packed, slot, node, cost, unkept } = next;
            let state = packed.unpack(&self.values, self.machine.memory);
            let state = state.map_err(|reason| Refusal::new(slot, reason))?;
            packed.discard(self.machine.memory);
            let done = core::mem::replace(&mut path, Path { state, slot, node, cost, unkept });
            done.state.discard(self.machine.memory);
        }
        Ok(Found {
            max_cost,
            capabilities: self.machine.capabilities,
            frames: self.machine.frames,
            steps: self.steps,
            states: self.most_states,
        })
    }

    /// Walks one instruction. False when the path is at its end.
    fn advance(&mut self, path: &mut Path) -> Result<bool, Reason> {
        if let Some(cost) = self.arrive(path)? {
            path.cost += cost;
            return Ok(false);
        }
        if self.steps >= self.budget {
            return Err(Reason::Steps { steps: self.budget });
        }
        self.steps += 1;
        // An engine counts the slots of an instruction.
        path.cost += self.machine.structure.insn(path.slot).map_or(1, |insn| structure::width(insn) as u64);
        path.unkept += 1;
        match self.machine.step(&mut path.state, path.slot)? {
            Flow::Exit => Ok(false),
            Flow::Go(next) => {
                path.slot = next;
                Ok(true)
            }
            Flow::Fork { next, target } => self.fork(path, next, target),
        }
    }

    /// Takes both ways of a comparison, as far as they are possible.
    fn fork(&mut self, path: &mut Path, next: usize, target: usize) -> Result<bool, Reason> {
        let slot = path.slot;
        let Some(insn) = self.machine.structure.insn(slot) else { return Ok(false) };
        let mut taken = path.state.try_clone(self.machine.memory)?;
        let can_take = self.machine.assume(&mut taken, slot, insn, true)?;
        let can_pass = self.machine.assume(&mut path.state, slot, insn, false)?;
        match (can_pass, can_take) {
            (true, true) => {
                path.slot = next;
                let skipped = self.skip(path, target)?;
                if skipped > 0 && self.join_at(path, &mut taken) {
                    path.cost += skipped;
                    taken.discard(self.machine.memory);
                    return Ok(true);
                }
                let next = path.slot;
                path.node = self.new_node(path.node, path.cost, 2)?;
                path.cost = skipped;
                // At first the way into a loop, so that the ways out of it meet and are walked as one. When that is too
                // coarse, the way out: then what waits is one path, not one for every round.
                let mut later = (taken, target);
                path.slot = next;
                let inner_first = self.branches == Branches::Loops;
                let (next_stays, target_stays) =
                    (self.loops.stays(slot, next), self.loops.stays(slot, target));
                if skipped == 0 && next_stays != target_stays && next_stays != inner_first {
                    core::mem::swap(&mut path.state, &mut later.0);
                    (path.slot, later.1) = (target, next);
                }
                let (mut state, slot) = later;
                // Behind plain jumps, where it may meet others.
                let (slot, cost) = self.machine.structure.follow(slot);
                if let Some(point) = self.point_mut(slot) {
                    point.waiting += 1;
                }
                if let Some(need) = self.machine.needs.get(slot) {
                    state.forget(need);
                }
                let packed = Kept::pack(&state, &mut self.values, self.machine.memory)?;
                state.discard(self.machine.memory);
                let pending = Pending { state: packed, slot, node: path.node, cost, unkept: path.unkept };
                self.machine.memory.push(&mut self.pending, pending)?;
                return Ok(true);
            }
            (true, false) => path.slot = next,
            (false, true) => {
                core::mem::swap(&mut path.state, &mut taken);
                path.slot = target;
            }
            // The state was impossible, which can only be seen here.
            (false, false) => {
                taken.discard(self.machine.memory);
                return Ok(false);
            }
        }
        taken.discard(self.machine.memory);
        Ok(true)
    }

    /// Walks a few instructions in a row that a jump to `target` would skip. Returns how many; 0 when it isn't so.
    fn skip(&mut self, path: &mut Path, target: usize) -> Result<u64, Reason> {
        let structure = self.machine.structure;
        let distance = target.saturating_sub(path.slot);
        let straight = |slot: &usize| {
            let insn = structure.insn(*slot).unwrap_or_default();
            !structure.is_jump_target(*slot) && !matches!(insn.class(), class::JMP | class::JMP32)
        };
        let short = self.branches == Branches::Loops && (1..=SKIPPED).contains(&distance);
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

    /// Makes one path of two that meet where `path` is.
    fn join_at(&mut self, path: &mut Path, other: &mut State) -> bool {
        let Some(need) = self.machine.needs.get(path.slot) else { return false };
        path.state.forget(need);
        other.forget(need);
        path.state.join(other, need)
    }

    /// Compares the path with the states kept where it is, and keeps it when it is new. Returns the cost of what is
    /// left when a kept state covers it.
    fn arrive(&mut self, path: &mut Path) -> Result<Option<u64>, Reason> {
        let place = self.places.get(path.slot).copied().unwrap_or(NONE);
        let Some(point) = self.points.get(place as usize) else { return Ok(None) };
        if let Some(need) = self.machine.needs.get(path.slot) {
            path.state.forget(need);
            if self.branches == Branches::Loops && point.waiting > 0 {
                // Those that wait here and differ in no more than numbers are covered when their turn comes.
                for waiting in self.pending.iter().rev().take(LOOKED_AT) {
                    if waiting.slot == path.slot {
                        let other = waiting.state.unpack(&self.values, self.machine.memory)?;
                        path.state.join(&other, need);
                        other.discard(self.machine.memory);
                    }
                }
            }
        }
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
            if stored.kept.covers(&path.state, &self.values, &mut self.names, self.machine.memory)? {
                return Ok(Some(stored.cost));
            }
        }
        if path.unkept < FEW && point.passed < OFTEN && !self.loops.is_head(path.slot) {
            if let Some(point) = self.points.get_mut(place as usize) {
                point.passed += 1;
            }
            return Ok(None);
        }
        path.unkept = 0;
        let key = Key::of(&path.state, None);
        let kept = Kept::new(&path.state, &mut self.values, &mut self.names, self.machine.memory)?;
        if let Some(open) = point.open
            && let Some(Some(before)) = self.stored.get(open as usize)
            && before.kept == kept
        {
            return Err(Reason::Endless);
        }
        let stored = Stored { kept, key, point: place, previous: point.open.unwrap_or(NONE), cost: 0 };
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
        path.cost = 0;
        if let Some(node) = self.nodes.get_mut(path.node as usize) {
            node.kept = index;
        }
        Ok(None)
    }

    fn point_mut(&mut self, slot: usize) -> Option<&mut Point> {
        let place = self.places.get(slot).copied().unwrap_or(NONE);
        self.points.get_mut(place as usize)
    }

    fn new_node(&mut self, parent: u32, before: u64, open: u32) -> Result<u32, Reason> {
        let node = Node { parent, open, before, after: 0, kept: NONE };
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
    fn finish(&mut self, path: &Path) -> Option<u64> {
        let (mut index, mut cost) = (path.node, path.cost);
        while let Some(node) = self.nodes.get_mut(index as usize) {
            node.after = node.after.max(cost);
            node.open -= 1;
            if node.open > 0 {
                return None;
            }
            let node = *node;
            self.walked(node.kept, node.after);
            self.free_nodes.push(index);
            cost = node.before + node.after;
            index = node.parent;
        }
        Some(cost)
    }

    /// Every way from a kept state was walked: it may cut others short from now on.
    fn walked(&mut self, index: u32, cost: u64) {
        let Some(Some(stored)) = self.stored.get_mut(index as usize) else { return };
        stored.cost = cost;
        let (place, previous, key) = (stored.point, stored.previous, stored.key);
        let low_memory = self.machine.memory.left() < self.reserve;
        let Some(point) = self.points.get_mut(place as usize) else { return };
        point.open = (previous != NONE).then_some(previous);
        let walked = Walked { stored: index, key };
        let mut gone = None;
        let full = point.walked.len() >= WALKED || low_memory;
        if !full && self.machine.memory.push(&mut point.walked, walked).is_ok() {
            point.last = point.walked.len() - 1;
        } else {
            point.last = (point.last + 1) % point.walked.len().max(1);
            match point.walked.get_mut(point.last) {
                Some(oldest) => gone = Some(core::mem::replace(oldest, walked).stored),
                None => gone = Some(index),
            }
        }
        if let Some(gone) = gone
            && let Some(stored) = self.stored.get_mut(gone as usize).and_then(Option::take)
        {
            stored.kept.discard(self.machine.memory);
            self.states -= 1;
            // Without room in the list the place in the store is just not used again.
            let _ = self.machine.memory.push(&mut self.free_stored, gone);
        }
    }
}

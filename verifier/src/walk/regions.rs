//! Loops that are walked at once: entered, come back to, left, closed, and given up.

use tidegate_abi::insn::source;

use super::*;

impl Walk<'_> {
    /// Notes what the loop compares where it may leave, in its first round.
    pub(super) fn note_bounds(&mut self, path: &Path) {
        let Some(region) = self.regions.last_mut().filter(|region| region.rounds.is_none()) else { return };
        let Some(insn) = self.machine.structure.insn(path.slot) else { return };
        let [Some(next), Some(target)] = needs::successors(path.slot, insn) else { return };
        let stays = |slot| self.loops.contains(region.head as u32, slot);
        if path.state.frame() != region.frame || stays(next) && stays(target) {
            return;
        }
        if let Ok(bound) = self.machine.operand(&path.state, insn) {
            region.bounds.add(&bound);
        }
        if insn.opcode & source::X != 0 {
            region.bounds.add(&path.state.reg(insn.dst()));
        }
    }

    /// A path is at the head of a loop, and its state was kept there.
    #[inline(never)]
    pub(super) fn enter(&mut self, path: &Path) -> Result<(), OutOfMemory> {
        self.has_loops = true;
        let entry = Kept::pack(&path.state, &mut self.values, self.machine.memory)?;
        let region = Region {
            head: path.slot,
            frame: path.state.frame(),
            node: path.node,
            entry,
            rounds: None,
            bounds: Bounds::default(),
            exits: Vec::new(),
            pending: self.pending.len(),
            logged: self.log.len(),
        };
        self.machine.memory.push(&mut self.regions, region)
    }

    /// A path comes back to the head: it is at its end, or the round begins anew with another claim.
    #[inline(never)]
    pub(super) fn come_back(&mut self, path: &mut Path) -> Result<Cost, Stop> {
        let claimed = self.regions.last().is_some_and(|region| region.rounds.is_some());
        match if claimed { self.next_round(path)? } else { self.first_round(path)? } {
            Round::Kept => {}
            Round::Changed => self.again(path)?,
            Round::Hopeless => self.fail(path)?,
        }
        Ok(Cost::default())
    }

    #[inline(never)]
    fn next_round(&mut self, path: &Path) -> Result<Round, OutOfMemory> {
        let rounds = self.regions.last_mut().and_then(|region| region.rounds.as_mut());
        let Some(rounds) = rounds else { return Ok(Round::Kept) };
        rounds.back(&path.state, &mut self.machine, &mut self.values, &mut self.names)
    }

    #[inline(never)]
    fn first_round(&mut self, path: &Path) -> Result<Round, Stop> {
        if self.nothing_moved(path)? {
            return Err(Stop::Endless);
        }
        self.claim_rounds()?;
        let rounds = self.regions.last_mut().and_then(|region| region.rounds.as_mut());
        let Some(rounds) = rounds else { return Ok(Round::Kept) };
        let counted = rounds.first(&path.state, &mut self.machine, &mut self.values, &mut self.names)?;
        Ok(if counted { Round::Changed } else { Round::Hopeless })
    }

    /// Whether a path came back with the state that the loop was entered with, but for names.
    #[inline(never)]
    fn nothing_moved(&mut self, path: &Path) -> Result<bool, OutOfMemory> {
        let Some(region) = self.regions.last() else { return Ok(false) };
        let entry = region.entry.unpack(&self.values, self.machine.memory)?;
        let first = Kept::new(&entry, &mut self.values, &mut self.names, self.machine.memory)?;
        entry.discard(self.machine.memory);
        let again = Kept::new(&path.state, &mut self.values, &mut self.names, self.machine.memory)?;
        let nothing_moved = again == first;
        again.discard(self.machine.memory);
        first.discard(self.machine.memory);
        Ok(nothing_moved)
    }

    /// Claims nothing yet of every round.
    #[inline(never)]
    fn claim_rounds(&mut self) -> Result<(), OutOfMemory> {
        let Some(region) = self.regions.last_mut() else { return Ok(()) };
        let entry = region.entry.unpack(&self.values, self.machine.memory)?;
        region.rounds = Some(Rounds::new(entry, region.bounds));
        Ok(())
    }

    /// A path leaves the loop: it waits until the loop is closed.
    #[inline(never)]
    pub(super) fn leave(&mut self, path: &mut Path) -> Result<(), OutOfMemory> {
        let Some(region) = self.regions.last_mut() else { return Ok(()) };
        let mut joined = false;
        if self.manner.branches == Branches::Loops
            && let Some(need) = self.machine.needs.get(path.slot)
        {
            for exit in region.exits.iter_mut().filter(|exit| exit.slot == path.slot) {
                let mut other = exit.state.unpack(&self.values, self.machine.memory)?;
                joined = other.join(&path.state, need);
                if joined {
                    let packed = Kept::pack(&other, &mut self.values, self.machine.memory)?;
                    core::mem::replace(&mut exit.state, packed).discard(self.machine.memory);
                }
                other.discard(self.machine.memory);
                if joined {
                    break;
                }
            }
        }
        if !joined {
            let state = Kept::pack(&path.state, &mut self.values, self.machine.memory)?;
            let exit = Pending {
                state,
                slot: path.slot,
                node: region.node,
                cost: Cost::default(),
                unkept: path.unkept,
                before: None,
            };
            self.machine.memory.push(&mut region.exits, exit)?;
        }
        Ok(())
    }

    /// Every way of a round was walked: the loop is left. False when no path does.
    #[inline(never)]
    pub(super) fn close(&mut self) -> Result<bool, OutOfMemory> {
        let Some(&Region { node, logged, .. }) = self.regions.last() else { return Ok(false) };
        self.forget_walked(logged);
        let Some(region) = self.regions.last_mut() else { return Ok(false) };
        let most = region.rounds.as_ref().map_or(0, Rounds::most);
        let ways = region.exits.len() as u32;
        region.exits.reverse();
        if let Some(node) = self.nodes.get_mut(node as usize) {
            // Each time that control comes back costs a round, and so does the last one.
            node.rounds = node.after.times(most + 1);
            node.after = Cost::default();
            node.open = ways;
        }
        while self.let_out()? {}
        self.drop_region();
        Ok(ways > 0)
    }

    /// A path that left the loop waits with the others. False when there is none.
    #[inline(never)]
    fn let_out(&mut self) -> Result<bool, OutOfMemory> {
        let Some(region) = self.regions.last_mut() else { return Ok(false) };
        let Some(exit) = region.exits.pop() else { return Ok(false) };
        let mut state = exit.state.unpack(&self.values, self.machine.memory)?;
        exit.state.discard(self.machine.memory);
        for anchor in region.rounds.iter().flat_map(Rounds::anchors) {
            let name = self.machine.fresh();
            state.rename(anchor, name);
        }
        let packed = Kept::pack(&state, &mut self.values, self.machine.memory)?;
        state.discard(self.machine.memory);
        self.push_pending(Pending { state: packed, ..exit })?;
        Ok(true)
    }

    /// Forgets everything that was walked since the innermost loop was entered, and begins a round with its claim.
    #[inline(never)]
    fn again(&mut self, path: &mut Path) -> Result<(), OutOfMemory> {
        self.abandon(path);
        let Some(region) = self.regions.last_mut() else { return Ok(()) };
        while let Some(exit) = region.exits.pop() {
            exit.state.discard(self.machine.memory);
        }
        let state = match &region.rounds {
            Some(rounds) => rounds.state(&mut self.machine)?,
            None => region.entry.unpack(&self.values, self.machine.memory)?,
        };
        self.begin(path, state);
        Ok(())
    }

    /// The innermost loop can't be walked at once: walks it round by round.
    #[inline(never)]
    fn fail(&mut self, path: &mut Path) -> Result<(), OutOfMemory> {
        self.abandon(path);
        let Some(region) = self.regions.last() else { return Ok(()) };
        let state = region.entry.unpack(&self.values, self.machine.memory)?;
        self.begin(path, state);
        self.drop_region();
        if let Some(point) = self.point_mut(path.slot) {
            point.failures += 1;
        }
        Ok(())
    }

    /// Something is missing: in a state that is claimed of every round of a loop, so that the loop is walked round by
    /// round, or in one that is real. Returns whether the walk goes on.
    #[inline(never)]
    pub(super) fn give_up(&mut self, path: &mut Path, stop: Stop) -> Result<bool, OutOfMemory> {
        let claimed = self.regions.iter().rposition(|region| region.rounds.is_some());
        let limit = matches!(stop, Stop::Steps | Stop::OutOfMemory | Stop::Cancelled);
        let Some(claimed) = claimed.filter(|_| !limit) else { return Ok(false) };
        while self.regions.len() > claimed + 1 {
            self.drop_region();
        }
        self.fail(path)?;
        Ok(true)
    }

    /// Goes on at the head of the innermost loop.
    #[inline(never)]
    fn begin(&mut self, path: &mut Path, state: State) {
        let Some(&Region { head: slot, node, .. }) = self.regions.last() else { return };
        let next = Path { state, slot, node, cost: Cost::default(), unkept: 0, begins: true };
        core::mem::replace(path, next).state.discard(self.machine.memory);
        if let Some(node) = self.nodes.get_mut(node as usize) {
            (node.open, node.after) = (1, Cost::default());
        }
    }

    /// Takes down the tree of paths below the node of the innermost loop.
    #[inline(never)]
    fn abandon(&mut self, path: &Path) {
        let Some(&Region { node, pending, logged, .. }) = self.regions.last() else { return };
        self.take_down(path.node, node);
        while self.pending.len() > pending {
            let Some(pending) = self.pop_pending() else { break };
            self.take_down(pending.node, node);
            pending.state.discard(self.machine.memory);
        }
        self.forget_walked(logged);
    }

    /// A way from a node is not walked any more.
    fn take_down(&mut self, mut index: u32, stop: u32) {
        while index != stop
            && let Some(node) = self.nodes.get_mut(index as usize)
        {
            node.open -= 1;
            if node.open > 0 {
                return;
            }
            let node = *node;
            if let Some(Some(stored)) = self.stored.get(node.kept as usize) {
                let (place, previous) = (stored.point, stored.previous);
                if let Some(point) = self.points.get_mut(place as usize) {
                    point.open = (previous != NONE).then_some(previous);
                }
                self.forget(node.kept);
            }
            // There is room for every node that is freed.
            let _ = append(&mut self.free_nodes, index);
            index = node.parent;
        }
    }

    /// Forgets the states that were walked since the log was so long: they rest on a claim that is not made any more.
    fn forget_walked(&mut self, logged: usize) {
        for at in logged..self.log.len() {
            let Some(&Logged { stored, serial, point }) = self.log.get(at) else { break };
            if self.serial_of(stored) == Some(serial) {
                self.forget(stored);
                if let Some(point) = self.points.get_mut(point as usize) {
                    point.stale = true;
                }
            }
        }
        for at in logged..self.log.len() {
            let Some(&Logged { point, .. }) = self.log.get(at) else { break };
            let stored = &self.stored;
            let Some(point) = self.points.get_mut(point as usize).filter(|point| point.stale) else {
                continue;
            };
            let mut newer = 0;
            let mut index = 0;
            let last = point.last;
            point.walked.retain(|walked| {
                let there = stored.get(walked.stored as usize).and_then(Option::as_ref);
                let keep = there.is_some_and(|stored| stored.serial == walked.serial);
                newer += usize::from(keep && index <= last);
                index += 1;
                keep
            });
            point.stale = false;
            point.last = if newer > 0 { newer - 1 } else { point.walked.len().saturating_sub(1) };
        }
        self.log.truncate(logged);
    }

    fn serial_of(&self, stored: u32) -> Option<u32> {
        self.stored.get(stored as usize)?.as_ref().map(|stored| stored.serial)
    }

    #[inline(never)]
    fn drop_region(&mut self) {
        let Some(region) = self.regions.last_mut() else { return };
        while let Some(exit) = region.exits.pop() {
            exit.state.discard(self.machine.memory);
        }
        self.machine.memory.discard(core::mem::take(&mut region.exits));
        core::mem::take(&mut region.entry).discard(self.machine.memory);
        if let Some(rounds) = &mut region.rounds {
            rounds.discard(&mut self.machine);
        }
        self.regions.truncate(self.regions.len().saturating_sub(1));
    }
}

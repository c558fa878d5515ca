//! The tables of maps, programs and links, and the rules by which they come and go.
//!
//! All changes of the tables happen under one lock (the runtime's), and each either happens whole or not at all. The tables
//! have their room from the start. What a change takes out is handed back, so that its memory is given up outside the lock.

use alloc::vec::Vec;

use tidegate_abi::control::{self, Change, Committed, Detached, Id, IdList, LinkAttach, Status, TrialMode};
use tidegate_abi::{Hook, MapKind, limits};
use tidegate_vm::Shared;

use crate::chain::{Prepared, Published};
use crate::counters::Tally;
use crate::link::{Holding, Link};
use crate::map::Map;
use crate::memory::{insert, push, remove, room, shared};
use crate::platform::Platform;
use crate::program::Program;
use crate::trial::{Score, Share, Trial};

/// Hooks that there are.
pub(crate) const HOOKS: usize = Hook::ALL.len();

#[derive(Debug)]
pub(crate) struct Objects {
    last: Id,
    /// By id.
    maps: Vec<MapEntry>,
    /// Those that keep something of connections, by id: what ends with a connection is looked for in them alone.
    storages: Vec<Shared<Map>>,
    /// By id.
    programs: Vec<Shared<Program>>,
    /// In the order that they run.
    links: [Vec<Shared<Link>>; HOOKS],
    /// Runs are watched.
    watched: bool,
}

#[derive(Debug)]
struct MapEntry {
    map: Shared<Map>,
    /// Not yet released by whoever made it.
    held: bool,
    /// Programs that name it.
    users: usize,
}

/// What a change took out: drop it outside of all locks.
#[derive(Default)]
#[must_use]
#[expect(dead_code, reason = "the fields are there to be dropped")]
pub(crate) struct Removed {
    maps: Vec<Shared<Map>>,
    program: Option<Shared<Program>>,
    links: Vec<Shared<Link>>,
    chains: Option<Prepared>,
    /// Of each hook that was changed with others.
    hooks: [Option<(Vec<Shared<Link>>, Prepared)>; HOOKS],
}

impl Objects {
    pub(crate) fn new() -> Result<Self, Status> {
        let mut links = [const { Vec::new() }; HOOKS];
        for links in &mut links {
            *links = room(limits::MAX_LINKS)?;
        }
        Ok(Self {
            last: 0,
            maps: room(limits::MAX_RUNTIME_MAPS)?,
            storages: room(limits::MAX_RUNTIME_MAPS)?,
            programs: room(limits::MAX_PROGRAMS)?,
            links,
            watched: false,
        })
    }

    /// Maps, programs and links that there are.
    pub(crate) fn counts(&self) -> (u32, u32, u32) {
        let links: usize = self.links.iter().map(Vec::len).sum();
        (self.maps.len() as u32, self.programs.len() as u32, links as u32)
    }

    /// An id that was never given before. It is used up, whatever becomes of the object.
    pub(crate) fn new_id(&mut self) -> Result<Id, Status> {
        self.last = self.last.checked_add(1).ok_or(Status::Full)?;
        Ok(self.last)
    }

    /// The id that was given last.
    pub(crate) fn newest(&self) -> Id {
        self.last
    }

    fn map_entry(&mut self, id: Id) -> Result<(usize, &mut MapEntry), Status> {
        let at = self.maps.binary_search_by_key(&id, |entry| entry.map.id).map_err(|_| Status::NotFound)?;
        self.maps.get_mut(at).map(|entry| (at, entry)).ok_or(Status::NotFound)
    }

    pub(crate) fn map(&mut self, id: Id) -> Result<Shared<Map>, Status> {
        Ok(Shared::clone(&self.map_entry(id)?.1.map))
    }

    pub(crate) fn add_map(&mut self, map: &Shared<Map>) -> Result<(), Status> {
        if self.maps.len() >= limits::MAX_RUNTIME_MAPS {
            return Err(Status::Full);
        }
        let at = self.maps.partition_point(|entry| entry.map.id < map.id);
        insert(&mut self.maps, at, MapEntry { map: Shared::clone(map), held: true, users: 0 })?;
        if map.def.kind == MapKind::FlowStorage {
            let at = self.storages.partition_point(|storage| storage.id < map.id);
            insert(&mut self.storages, at, Shared::clone(map))?;
        }
        Ok(())
    }

    /// Takes a map out of the tables.
    fn remove_map(&mut self, at: usize) -> Option<Shared<Map>> {
        let map = remove(&mut self.maps, at)?.map;
        // Not the last of its owners: nothing is freed here.
        self.storages.retain(|storage| storage.id != map.id);
        Some(map)
    }

    /// Whoever made the map gives it up; a second time there is no one to.
    pub(crate) fn release_map(&mut self, id: Id) -> Result<Removed, Status> {
        let (at, entry) = self.map_entry(id)?;
        let mut maps = room(1)?;
        if !core::mem::take(&mut entry.held) {
            return Err(Status::NotFound);
        }
        if entry.users == 0
            && let Some(map) = self.remove_map(at)
        {
            push(&mut maps, map)?;
        }
        Ok(Removed { maps, ..Removed::default() })
    }

    /// The first map of an id greater than `after` that keeps something of connections.
    pub(crate) fn storage_after(&self, after: Id) -> Option<Shared<Map>> {
        self.storages.get(self.storages.partition_point(|map| map.id <= after)).cloned()
    }

    pub(crate) fn map_ids(&self, after: Id) -> IdList {
        list(self.maps.iter().map(|entry| entry.map.id), after)
    }

    pub(crate) fn program(&self, id: Id) -> Result<Shared<Program>, Status> {
        let at = self.programs.binary_search_by_key(&id, |program| program.id);
        at.ok().and_then(|at| self.programs.get(at)).cloned().ok_or(Status::NotFound)
    }

    /// Adds a program, unless one of its maps went while it was verified.
    pub(crate) fn add_program(&mut self, program: &Shared<Program>) -> Result<(), Status> {
        if self.programs.len() >= limits::MAX_PROGRAMS {
            return Err(Status::Full);
        }
        for map in &program.maps {
            self.map_entry(map.id)?;
        }
        for map in &program.maps {
            self.map_entry(map.id)?.1.users += 1;
        }
        let at = self.programs.partition_point(|other| other.id < program.id);
        insert(&mut self.programs, at, Shared::clone(program))
    }

    pub(crate) fn remove_program(&mut self, id: Id) -> Result<Removed, Status> {
        let at = self.programs.binary_search_by_key(&id, |program| program.id);
        let at = at.map_err(|_| Status::NotFound)?;
        let tried = |link: &Link| link.trial.as_ref().is_some_and(|trial| trial.candidate.program.id == id);
        if self.links.iter().flatten().any(|link| link.program.id == id || tried(link)) {
            return Err(Status::Busy);
        }
        let mut maps = room(limits::MAX_MAPS)?;
        let program = remove(&mut self.programs, at).ok_or(Status::NotFound)?;
        for map in &program.maps {
            let Ok((at, entry)) = self.map_entry(map.id) else { continue };
            entry.users = entry.users.saturating_sub(1);
            if entry.users == 0
                && !entry.held
                && let Some(map) = self.remove_map(at)
            {
                push(&mut maps, map)?;
            }
        }
        Ok(Removed { maps, program: Some(program), ..Removed::default() })
    }

    pub(crate) fn program_ids(&self, after: Id) -> IdList {
        list(self.programs.iter().map(|program| program.id), after)
    }

    pub(crate) fn link(&self, id: Id) -> Result<Shared<Link>, Status> {
        self.links.iter().flatten().find(|link| link.id == id).cloned().ok_or(Status::NotFound)
    }

    pub(crate) fn link_ids(&self, hook: Hook) -> IdList {
        list(self.links.get(hook.index()).into_iter().flatten().map(|link| link.id), 0)
    }

    pub(crate) fn attach(
        &mut self,
        id: Id,
        request: &LinkAttach,
        published: &[Published],
        platform: &Platform,
    ) -> Result<Removed, Status> {
        let link = self.new_link(id, request, platform)?;
        self.change(request.hook, published, platform, |links| add(links, link))
    }

    fn new_link(&self, id: Id, request: &LinkAttach, platform: &Platform) -> Result<Shared<Link>, Status> {
        if request.budget == 0 || request.budget > limits::MAX_BUDGET {
            return Err(Status::Invalid);
        }
        let program = self.program(request.program)?;
        fits(&program, request.hook, request.budget)?;
        request.filter.map_or(Ok(()), |filter| filter.check(request.hook))?;
        shared(Link {
            id,
            hook: request.hook,
            priority: request.priority,
            on_error: request.on_error,
            budget: request.budget,
            snapshot: request.snapshot,
            filter: request.filter,
            newest: id.max(program.id),
            since: id.max(program.id),
            away: Share::NONE,
            holding: shared(Holding::new(request.filter.is_some()))?,
            program,
            tally: shared(Tally::new(platform)?)?,
            trial: None,
            score: None,
            platform: *platform,
        })
    }

    /// `old` with another program, and nothing tried; `now` is newer than all ids.
    fn with_program(&self, old: &Link, program: Id, now: Id) -> Result<Shared<Link>, Status> {
        let program = self.program(program)?;
        fits(&program, old.hook, old.budget)?;
        if program.id == old.program.id {
            return old.trying(None, now);
        }
        // What a shadow was shown it need not be told again.
        let shadow = old.trial.as_ref().filter(|trial| trial.is_shadow()).map(|trial| &trial.candidate);
        let since =
            shadow.filter(|shadow| shadow.program.id == program.id).map_or(now, |shadow| shadow.since);
        let (tally, holding) = (Shared::clone(&old.tally), Shared::clone(&old.holding));
        let (trial, score, away) = (None, None, Share::NONE);
        shared(Link { newest: since, since, away, program, tally, holding, trial, score, ..*old })
    }

    /// `old` with a trial; `now` is newer than all ids.
    fn with_trial(
        &self,
        old: &Link,
        trial: control::Trial,
        now: Id,
        platform: &Platform,
    ) -> Result<Shared<Link>, Status> {
        if let TrialMode::Canary { percent, max_errors, .. } = trial.mode
            && (percent > 100 || max_errors > 1_000)
        {
            return Err(Status::Invalid);
        }
        let program = self.program(trial.program)?;
        fits(&program, old.hook, old.budget)?;
        let score = shared(Score::new(trial.mode))?;
        // What a canary does the link does; what a shadow would do it does not.
        let (tally, holding) = match trial.mode {
            TrialMode::Shadow => (shared(Tally::new(platform)?)?, shared(Holding::default())?),
            TrialMode::Canary { .. } => (Shared::clone(&old.tally), Shared::clone(&old.holding)),
        };
        let candidate = shared(Link {
            newest: now,
            since: now,
            away: Share::NONE,
            program,
            tally,
            holding,
            trial: None,
            score: Some(Shared::clone(&score)),
            ..*old
        })?;
        old.trying(Some(Trial { candidate, score }), now)
    }

    /// Makes all `changes`, or none: what runs afterwards is made beside what runs now, and then takes its place at once.
    ///
    /// A classify that goes on meanwhile ends with the links that it began with; on another hook or processor one that begins
    /// may for a moment find the old links still. None finds some of the old and some of the new ones, but for an old one that
    /// keeps something back: it is shown what comes until it is told to end, right behind.
    pub(crate) fn commit(
        &mut self,
        mut changes: &[u8],
        published: &[Published],
        platform: &Platform,
    ) -> Result<(Committed, Removed), Status> {
        let mut drafts: [Option<Vec<Shared<Link>>>; HOOKS] = [const { None }; HOOKS];
        let mut ended: Vec<Shared<Holding>> = room(limits::MAX_LINKS * HOOKS)?;
        let mut committed = Committed { first: 0, draining: 0 };
        let mut count = 0;
        let now = self.new_id()?;
        while !changes.is_empty() {
            let (change, rest) = Change::take(changes)?;
            (changes, count) = (rest, count + 1);
            if count > limits::MAX_CHANGES {
                return Err(Status::Invalid);
            }
            match change {
                Change::Attach(request) => {
                    let id = self.new_id()?;
                    let link = self.new_link(id, &request, platform)?;
                    add(self.draft(&mut drafts, request.hook)?, link)?;
                    committed.first = if committed.first == 0 { id } else { committed.first };
                }
                Change::Detach { link: id } => {
                    let link = self.link(id)?;
                    let draft = self.draft(&mut drafts, link.hook)?;
                    let at = draft.iter().position(|link| link.id == id).ok_or(Status::NotFound)?;
                    let keeps = link.holding.read().flows > 0;
                    // Twice is once too often: the other change would be about a link that is not there.
                    if ended.iter().any(|holding| Shared::is_same(holding, &link.holding)) {
                        return Err(Status::NotFound);
                    }
                    push(&mut ended, Shared::clone(&link.holding))?;
                    if keeps {
                        committed.draining += 1;
                    } else {
                        // Not its last owner: nothing is freed here.
                        drop(remove(draft, at));
                    }
                }
                Change::Replace { link: id, program } => {
                    let link = self.link(id)?;
                    let draft = self.draft(&mut drafts, link.hook)?;
                    let place = draft.iter_mut().find(|link| link.id == id).ok_or(Status::NotFound)?;
                    *place = self.with_program(place, program, now)?;
                }
                Change::Move { link: id, priority } => {
                    let draft = self.draft(&mut drafts, self.link(id)?.hook)?;
                    let at = draft.iter().position(|link| link.id == id).ok_or(Status::NotFound)?;
                    // Not its last owner: nothing is freed here.
                    let old = remove(draft, at).ok_or(Status::NotFound)?;
                    add(draft, moved(&old, priority)?)?;
                }
            }
        }
        let mut prepared: [Option<Prepared>; HOOKS] = [const { None }; HOOKS];
        for (prepared, draft) in prepared.iter_mut().zip(&drafts) {
            *prepared = draft.as_ref().map(|draft| Prepared::new(draft, platform)).transpose()?;
        }
        // From here on nothing fails.
        let mut removed = Removed::default();
        let hooks = self.links.iter_mut().zip(published).zip(drafts.into_iter().zip(prepared));
        for (((links, published), new), old) in hooks.zip(&mut removed.hooks) {
            if let (Some(draft), Some(prepared)) = new {
                let chains = published.publish(prepared, platform);
                tell(&draft, self.watched);
                *old = Some((core::mem::replace(links, draft), chains));
            }
        }
        ended.iter().for_each(|holding| holding.drain(platform));
        Ok((committed, removed))
    }

    /// The links that a hook is to have, as they are so far.
    fn draft<'d>(
        &self,
        drafts: &'d mut [Option<Vec<Shared<Link>>>; HOOKS],
        hook: Hook,
    ) -> Result<&'d mut Vec<Shared<Link>>, Status> {
        let draft = drafts.get_mut(hook.index()).ok_or(Status::Invalid)?;
        if draft.is_none() {
            *draft = Some(self.remaining(hook)?);
        }
        draft.as_mut().ok_or(Status::Invalid)
    }

    /// The links of a hook, but for those that were to end and keep nothing back any more.
    fn remaining(&self, hook: Hook) -> Result<Vec<Shared<Link>>, Status> {
        let mut new = room(limits::MAX_LINKS)?;
        let links = self.links.get(hook.index()).into_iter().flatten();
        for link in links.filter(|link| !link.is_draining() || link.holding.read().flows > 0) {
            push(&mut new, Shared::clone(link))?;
        }
        Ok(new)
    }

    /// Ends a link that keeps nothing back; else it is shown nothing new from now on.
    pub(crate) fn detach(
        &mut self,
        id: Id,
        published: &[Published],
        platform: &Platform,
    ) -> Result<(Detached, Removed), Status> {
        let link = self.link(id)?;
        let before = link.holding.read();
        let mut without = None;
        if before.flows == 0 {
            without = Some(self.prepare(link.hook, platform, |links| {
                links.retain(|link| link.id != id);
                Ok(())
            })?);
        }
        // From here on nothing fails.
        link.holding.drain(platform);
        let held = link.holding.read();
        match without {
            // It may have begun to keep something meanwhile.
            Some(without) if held.flows == 0 => {
                Ok((Detached::default(), self.publish(link.hook, without, published, platform)?))
            }
            Some(_) => Ok((held, Removed::default())),
            // Or have come to an end meanwhile: it is told when it is asked again.
            None => Ok((before, Removed::default())),
        }
    }

    /// Puts another program into a link, which keeps its id, place and counters.
    pub(crate) fn replace(
        &mut self,
        id: Id,
        program: Id,
        published: &[Published],
        platform: &Platform,
    ) -> Result<Removed, Status> {
        let (old, now) = (self.link(id)?, self.new_id()?);
        let new = self.with_program(&old, program, now)?;
        self.put(&new, published, platform)
    }

    /// Tries another program in a link, or ends the trial.
    pub(crate) fn set_trial(
        &mut self,
        id: Id,
        trial: Option<control::Trial>,
        published: &[Published],
        platform: &Platform,
    ) -> Result<Removed, Status> {
        let (old, now) = (self.link(id)?, self.new_id()?);
        let new = match trial {
            Some(_) if old.is_draining() => return Err(Status::Busy),
            Some(trial) => self.with_trial(&old, trial, now, platform)?,
            None if old.trial.is_none() => return Err(Status::NotFound),
            None => old.trying(None, now)?,
        };
        self.put(&new, published, platform)
    }

    /// Puts a link into the place of the one of its id.
    fn put(
        &mut self,
        new: &Shared<Link>,
        published: &[Published],
        platform: &Platform,
    ) -> Result<Removed, Status> {
        self.change(new.hook, published, platform, |links| {
            links.iter_mut().filter(|link| link.id == new.id).for_each(|link| *link = Shared::clone(new));
            Ok(())
        })
    }

    /// Changes the links of a hook: the new ones are made beside the old ones and take their place at once.
    fn change(
        &mut self,
        hook: Hook,
        published: &[Published],
        platform: &Platform,
        change: impl FnOnce(&mut Vec<Shared<Link>>) -> Result<(), Status>,
    ) -> Result<Removed, Status> {
        let prepared = self.prepare(hook, platform, change)?;
        self.publish(hook, prepared, published, platform)
    }

    /// The links of a hook as they will be, beside the old ones.
    fn prepare(
        &self,
        hook: Hook,
        platform: &Platform,
        change: impl FnOnce(&mut Vec<Shared<Link>>) -> Result<(), Status>,
    ) -> Result<(Vec<Shared<Link>>, Prepared), Status> {
        let mut new = self.remaining(hook)?;
        change(&mut new)?;
        let prepared = Prepared::new(&new, platform)?;
        Ok((new, prepared))
    }

    /// Has all links looked at before they run, since somebody watches runs, or no longer.
    pub(crate) fn watch(&mut self, watched: bool) {
        self.watched = watched;
        self.links.iter().for_each(|links| tell(links, watched));
    }

    /// Puts what was prepared in place.
    fn publish(
        &mut self,
        hook: Hook,
        (new, prepared): (Vec<Shared<Link>>, Prepared),
        published: &[Published],
        platform: &Platform,
    ) -> Result<Removed, Status> {
        let (links, published) =
            self.links.get_mut(hook.index()).zip(published.get(hook.index())).ok_or(Status::Invalid)?;
        let chains = published.publish(prepared, platform);
        tell(&new, self.watched);
        let links = core::mem::replace(links, new);
        Ok(Removed { links, chains: Some(chains), ..Removed::default() })
    }
}

impl Link {
    /// The same with this trial, or with none; `now` is newer than all ids.
    fn trying(&self, trial: Option<Trial>, now: Id) -> Result<Shared<Self>, Status> {
        let (program, tally, holding) = (&self.program, &self.tally, &self.holding);
        let (program, tally) = (Shared::clone(program), Shared::clone(tally));
        // The flows that a canary has had until now were not shown to the program.
        let had = self.trial.as_ref().map_or(Share::NONE, |trial| trial.score.share());
        let newest = if had == Share::NONE { self.newest } else { now };
        let away = self.away.max(had);
        shared(Self {
            newest,
            away,
            program,
            tally,
            holding: Shared::clone(holding),
            trial,
            score: None,
            ..*self
        })
    }
}

/// Marks links in which something is tried, and all of them when runs are watched.
fn tell(links: &[Shared<Link>], watched: bool) {
    for link in links {
        link.holding.set_tried(link.trial.is_some());
        link.holding.set_watched(watched);
    }
}

/// `old` at another place.
fn moved(old: &Link, priority: u16) -> Result<Shared<Link>, Status> {
    let (program, tally) = (Shared::clone(&old.program), Shared::clone(&old.tally));
    let holding = Shared::clone(&old.holding);
    let trial = old.trial.clone();
    shared(Link { priority, program, tally, holding, trial, score: None, ..*old })
}

/// Adds a link at its place.
fn add(links: &mut Vec<Shared<Link>>, link: Shared<Link>) -> Result<(), Status> {
    if links.len() >= limits::MAX_LINKS {
        return Err(Status::Full);
    }
    insert(links, links.partition_point(|other| other.order() < link.order()), link)
}

/// Whether `program` may run at `hook` within `budget`.
fn fits(program: &Program, hook: Hook, budget: u32) -> Result<(), Status> {
    if program.program_type != hook.program_type() {
        return Err(Status::Invalid);
    }
    if program.max_cost > u64::from(budget) {
        return Err(Status::OverBudget);
    }
    if !program.grants.allows(hook) || budget > program.grants.budget {
        return Err(Status::NotGranted);
    }
    Ok(())
}

/// As many ids greater than `after` as fit into a list.
fn list(ids: impl Iterator<Item = Id>, after: Id) -> IdList {
    let mut list = IdList::new();
    for id in ids.filter(|id| *id > after) {
        if list.push(id).is_err() {
            break;
        }
    }
    list
}

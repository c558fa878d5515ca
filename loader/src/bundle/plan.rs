//! What is different between a bundle and what runs, and making it the same.

mod compare;
mod running;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tidegate_abi::Hook;
use tidegate_abi::control::{Change, Id, MapRelease, ProgramUnload, Status, TrialInfo, TrialMode};

use self::compare::{Compared, compare};
use self::running::{Running, failed};
use super::{Bundle, Entry, Signer};
use crate::client::{Client, Refused};
use crate::error::Error;
use crate::grants::Granted;
use crate::host::Staged;
use crate::tally::count;

/// What has to change for a host to run a bundle.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Plan {
    /// Who signed the bundle, when a trust file was asked.
    signer: Option<Signer>,
    /// Whether there is a signature that nobody looked at, for want of a trust file.
    unchecked: bool,
    /// What its programs may do at most.
    granted: Granted,
    steps: Vec<Step>,
    /// Programs and maps that go.
    removes: Vec<Removal>,
    /// Links that are as the bundle says.
    kept: usize,
    /// Whether it was done.
    applied: bool,
    /// Instances that are loaded anew, by their places, and the maps that go on in them.
    #[serde(skip)]
    loads: BTreeMap<usize, Vec<Id>>,
    #[serde(skip)]
    running: Running,
}

/// One link that changes.
#[derive(Clone, Debug, Serialize, JsonSchema)]
struct Step {
    action: Action,
    hook: &'static str,
    priority: u16,
    /// Name of the program that runs there afterwards, or ran there.
    program: String,
    /// The link that there is.
    link: Option<Id>,
    /// What is different.
    why: Vec<String>,
    /// What is tried in the link, until then.
    trial: Option<EndedTrial>,
    /// Which program of which entry.
    #[serde(skip)]
    of: Option<(usize, usize)>,
    #[serde(skip)]
    at: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum Action {
    Attach,
    Replace,
    Detach,
    /// The link is as the bundle says, but another program is tried in it.
    EndTrial,
}

/// A program or a map that goes.
#[derive(Clone, Debug, Serialize, JsonSchema)]
struct Removal {
    what: Kind,
    id: Id,
    name: String,
    why: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Program,
    Map,
}

/// A trial that ends: a bundle says which program decides, and has no word for two.
#[derive(Clone, Debug, Serialize, JsonSchema)]
struct EndedTrial {
    /// What is tried.
    program: Id,
    name: String,
    /// `shadow` or `canary`.
    mode: &'static str,
    /// Canary: of a hundred connections it has so many.
    percent: Option<u8>,
    /// Canary: too many of its runs failed, so that it has no connection any more.
    returned: bool,
}

impl EndedTrial {
    fn new(info: &TrialInfo, name: String) -> Self {
        let (mode, percent) = match info.trial.mode {
            TrialMode::Shadow => ("shadow", None),
            TrialMode::Canary { percent, .. } => ("canary", Some(percent)),
        };
        Self { program: info.trial.program, name, mode, percent, returned: info.returned }
    }
}

impl fmt::Display for EndedTrial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { program, name, mode, percent, returned } = self;
        write!(f, "ends a {mode}: `{name}`, program {program}")?;
        match percent {
            Some(_) if *returned => f.write_str(", which has failed too often"),
            Some(percent) => write!(f, ", {percent}% of connections"),
            None => Ok(()),
        }
    }
}

impl Plan {
    /// Compares `bundle` with what the host behind `client` runs. Nothing is changed.
    ///
    /// # Errors
    /// The host does not answer, or the bundle's contents don't fit its maps.
    pub fn new(client: &mut Client, bundle: &Bundle) -> Result<Self, Error> {
        let running = Running::read(client)?;
        let mut plan = Self {
            signer: bundle.signer().cloned(),
            unchecked: bundle.signer.is_none() && bundle.read.signature.is_some(),
            granted: bundle.grants().into(),
            steps: Vec::new(),
            removes: Vec::new(),
            kept: 0,
            applied: false,
            loads: BTreeMap::new(),
            running,
        };
        let compared = compare(client, &plan.running, bundle)?;
        for (number, compared) in compared.iter().enumerate() {
            if let Some(maps) = &compared.loads {
                plan.loads.insert(number, maps.clone());
            }
        }
        let mut wanted = BTreeSet::new();
        for (number, entry) in bundle.links.iter().enumerate() {
            plan.link(number, entry, &compared[entry.instance], &mut wanted);
        }
        for (at, (link, info)) in plan.running.links.iter().enumerate() {
            if !wanted.contains(link) {
                let trial = plan.running.trial(info);
                let mut why = vec!["the bundle does not have it".into()];
                why.extend(trial.as_ref().map(EndedTrial::to_string));
                plan.steps.push(Step {
                    action: Action::Detach,
                    hook: info.hook.name(),
                    priority: info.priority,
                    program: plan.running.name(info.program),
                    link: Some(*link),
                    why,
                    trial,
                    of: None,
                    at,
                });
            }
        }
        plan.removes = plan.removals();
        Ok(plan)
    }

    /// Whether links run as the bundle says, but for what is tried in them.
    pub fn is_in_place(&self) -> bool {
        self.steps.iter().all(|step| step.action == Action::EndTrial)
    }

    /// What no link will run, and no program name, when links have changed.
    fn removals(&self) -> Vec<Removal> {
        let Running { links, programs, maps, .. } = &self.running;
        let changes = |step: &&Step| step.action != Action::EndTrial;
        let changed: BTreeSet<Id> = self.steps.iter().filter(changes).filter_map(|step| step.link).collect();
        let linked: BTreeSet<Id> = links.iter().map(|(_, info)| info.program).collect();
        let runs_on: BTreeSet<Id> =
            links.iter().filter(|(link, _)| !changed.contains(link)).map(|(_, info)| info.program).collect();
        let tried: BTreeSet<Id> =
            links.iter().filter_map(|(_, info)| Some(info.trial.as_ref()?.trial.program)).collect();
        let named: BTreeSet<Id> = programs.values().flat_map(|program| &program.maps).copied().collect();
        let named_on: BTreeSet<Id> = runs_on
            .iter()
            .filter_map(|id| programs.get(id))
            .flat_map(|program| &program.maps)
            .copied()
            .collect();
        let goes_on = |map: &Id| named_on.contains(map) || self.loads.values().flatten().any(|id| id == map);
        let programs = programs.iter().filter(|(id, _)| !runs_on.contains(id)).map(|(id, program)| Removal {
            what: Kind::Program,
            id: *id,
            name: program.name.to_string(),
            why: match (linked.contains(id), tried.contains(id)) {
                (true, _) => "no link will run it",
                (false, true) => "what is tried ends",
                (false, false) => "no link runs it",
            },
        });
        let maps = maps.iter().filter(|(id, _)| !goes_on(id)).map(|(id, map)| Removal {
            what: Kind::Map,
            id: *id,
            name: map.name.to_string(),
            why: if named.contains(id) { "no program will name it" } else { "no program names it" },
        });
        programs.chain(maps).collect()
    }

    /// The links that end.
    fn ended(&self) -> impl Iterator<Item = Id> {
        let ends = |step: &&Step| matches!(step.action, Action::Attach | Action::Detach);
        self.steps.iter().filter(ends).filter_map(|step| step.link)
    }

    /// The steps of a link of the bundle, whose instance is `compared`. Links that stay are `wanted`.
    fn link(&mut self, number: usize, entry: &Entry, compared: &Compared, wanted: &mut BTreeSet<Id>) {
        let loads = compared.loads.is_some();
        for (place, hook) in &entry.places {
            let there = self.running.at(*hook, entry.priority);
            let at = there.unwrap_or_default();
            let there = there.and_then(|at| self.running.links.get(at));
            let trial = there.and_then(|(_, info)| self.running.trial(info));
            let rules = there.map(|(_, info)| entry.rules.differences(info)).unwrap_or_default();
            wanted.extend(there.map(|(link, _)| *link));
            let action = match (there, loads, &trial) {
                (None, ..) => Action::Attach,
                (_, false, None) => {
                    self.kept += 1;
                    continue;
                }
                (_, false, Some(_)) => Action::EndTrial,
                (_, true, _) if rules.is_empty() => Action::Replace,
                (_, true, _) => Action::Attach,
            };
            let mut why = match there {
                None => vec!["it is not there".into()],
                Some(_) => [rules, compared.differs[*place].clone()].concat(),
            };
            if why.is_empty() && loads {
                why.push("its object is loaded anew".into());
            }
            why.extend(trial.as_ref().map(EndedTrial::to_string));
            self.steps.push(Step {
                action,
                hook: hook.name(),
                priority: entry.priority,
                program: compared.names[*place].clone(),
                link: there.map(|(link, _)| *link),
                why,
                trial,
                of: loads.then_some((number, *place)),
                at,
            });
        }
    }
}

/// By what a host tells whether a plan's links were changed: all of them are, at once. Not by what maps hold, for programs have
/// changed that since; ids are never given again.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Mark {
    /// Programs that no link ran before.
    programs: Vec<Id>,
    /// Links that end.
    links: Vec<Id>,
}

impl Mark {
    fn of(plan: &Plan, staged: &BTreeMap<usize, Staged>) -> Self {
        Self {
            programs: staged.values().flat_map(|staged| staged.programs().map(|(id, _)| id)).collect(),
            links: plan.ended().collect(),
        }
    }

    /// Whether the links were changed.
    ///
    /// # Errors
    /// The host does not answer.
    pub(super) fn is_made(&self, client: &mut Client) -> Result<bool, Error> {
        let links = Running::read(client)?.links;
        let runs = |program: &Id| links.iter().any(|(_, info)| info.program == *program);
        let is_there = |link: &Id| links.iter().any(|(there, _)| there == link);
        Ok(if self.programs.is_empty() {
            !self.links.iter().any(is_there)
        } else {
            self.programs.iter().any(runs)
        })
    }
}

/// Makes the host behind `client` run `bundle`, as `plan` says. `ready` hears by what the host will tell that it does, before
/// it does.
///
/// # Errors
/// A program is refused, or the host refuses: what ran runs on.
pub fn apply(
    client: &mut Client,
    bundle: &Bundle,
    plan: &mut Plan,
    ready: impl FnOnce(&Mark) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut staged: BTreeMap<usize, Staged> = BTreeMap::new();
    let done = stage(client, bundle, plan, &mut staged)
        .and_then(|()| ready(&Mark::of(plan, &staged)))
        .and_then(|()| commit(client, bundle, plan, &staged));
    if let Err(error) = done {
        for staged in staged.into_values() {
            staged.unload(client);
        }
        return Err(error);
    }
    for link in plan.ended().chain(plan.running.ending.iter().copied()) {
        match client.detach(link) {
            // What keeps nothing back any more is gone already.
            Err(refused) if refused.status != Status::NotFound => {
                return Err(failed("end a link", &refused));
            }
            _ => {}
        }
    }
    tidy(client)?;
    plan.applied = true;
    Ok(())
}

/// Loads what is new, attached to nothing.
fn stage(
    client: &mut Client,
    bundle: &Bundle,
    plan: &Plan,
    staged: &mut BTreeMap<usize, Staged>,
) -> Result<(), Error> {
    for (number, maps) in &plan.loads {
        let instance = &bundle.instances[*number];
        let maps = maps.iter().filter_map(|id| Some((*id, plan.running.maps.get(id)?)));
        let maps: Vec<_> = maps.map(|(id, map)| (id, map.name.to_string(), map.def)).collect();
        staged.insert(*number, Staged::over(client, &instance.object, &instance.setup, &maps)?);
    }
    Ok(())
}

fn commit(
    client: &mut Client,
    bundle: &Bundle,
    plan: &Plan,
    staged: &BTreeMap<usize, Staged>,
) -> Result<(), Error> {
    let mut changes: Vec<_> = plan.ended().map(|link| Change::Detach { link }).collect();
    for step in &plan.steps {
        // The link's own program in its own place: nothing is tried any more, and the rest stays.
        if let (Action::EndTrial, Some((link, info))) = (step.action, plan.running.links.get(step.at)) {
            changes.push(Change::Replace { link: *link, program: info.program });
        }
        let Some((number, place)) = step.of else { continue };
        let entry = &bundle.links[number];
        let staged = staged.get(&entry.instance);
        let program = staged.and_then(|staged| staged.programs().nth(place)).map(|(id, _)| id);
        let (Some(program), Some(hook)) = (program, Hook::from_name(step.hook)) else { continue };
        changes.push(match (step.action, step.link) {
            (Action::Replace, Some(link)) => Change::Replace { link, program },
            _ => Change::Attach(entry.attach(program, hook)),
        });
    }
    client
        .commit(&changes)
        .map(drop)
        .map_err(|refused| failed("change the links; those that ran run on", &refused))
}

/// Unloads the programs that no link runs, and gives up the maps that no program names.
fn tidy(client: &mut Client) -> Result<(), Error> {
    let running = Running::read(client)?;
    let linked: BTreeSet<Id> = running.links.iter().map(|(_, info)| info.program).collect();
    for program in running.programs.keys().filter(|id| !linked.contains(id)) {
        match client.call(&ProgramUnload { program: *program }) {
            // Somebody attached it meanwhile, or unloaded it.
            Err(Refused { status: Status::Busy | Status::NotFound, .. }) | Ok(()) => {}
            Err(refused) => return Err(failed("unload a program", &refused)),
        }
    }
    // Those of programs go with them: nobody else has to hold them.
    for map in running.maps.keys() {
        match client.call(&MapRelease { map: *map }) {
            Err(Refused { status: Status::NotFound, .. }) | Ok(()) => {}
            Err(refused) => return Err(failed("give up a map", &refused)),
        }
    }
    Ok(())
}

impl crate::cli::Report for Plan {}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(signer) = &self.signer {
            writeln!(f, "signed by {}; granted: {}", signer.name, self.granted)?;
        }
        if self.unchecked {
            writeln!(
                f,
                "its signature was not looked at: there is no trust file; granted: {}",
                self.granted
            )?;
        }
        for Step { action, hook, priority, program, link, why, .. } in &self.steps {
            let sign = match (action, link) {
                (Action::Attach, None) => '+',
                (Action::Detach, _) => '-',
                (Action::Attach | Action::Replace | Action::EndTrial, _) => '~',
            };
            writeln!(f, "{sign} {hook} {priority}: {program} ({})", why.join("; "))?;
        }
        for Removal { what, id, name, why } in &self.removes {
            writeln!(f, "- {what} {id}: {name} ({why})")?;
        }
        let (kept, steps) = (count(self.kept, "link"), count(self.steps.len(), "link"));
        if self.steps.is_empty() && self.removes.is_empty() {
            return writeln!(f, "{kept} as the bundle says; nothing to change");
        }
        let removed = |what: Kind| self.removes.iter().filter(|removal| removal.what == what).count();
        let (programs, maps) = (count(removed(Kind::Program), "program"), count(removed(Kind::Map), "map"));
        if self.applied {
            writeln!(f, "{steps} changed at once, {kept} kept; {programs} and {maps} removed")
        } else {
            writeln!(f, "{steps} to change, {kept} kept; {programs} and {maps} to remove; nothing was done")
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Program => "program",
            Self::Map => "map",
        })
    }
}

#[cfg(test)]
mod tests {
    use std::{env, fs, process};

    use tidegate_abi::control::LinkDetach;
    use tidegate_runtime::{Held, Shared};

    use super::*;
    use crate::host;

    #[test]
    fn a_link_that_is_ending_does_not_stand_for_one_that_is_to_run() {
        let path = env::temp_dir().join(format!("tidegate-ending-{}.toml", process::id()));
        let object = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/gate.o");
        fs::write(
            &path,
            format!(
                "[[link]]\nobject = {object:?}\nprogram = \"cut\"\nhooks = [\"stream-v4\"]\npriority = 1\n"
            ),
        )
        .expect("a file");
        let bundle = Bundle::read(&path, None).expect("a bundle");
        fs::remove_file(&path).expect("it is there");
        let runtime = host::runtime().expect("a runtime");
        let mut client = Client::new(Shared::clone(&runtime));
        let mut plan = Plan::new(&mut client, &bundle).expect("an answer");
        apply(&mut client, &bundle, &mut plan, |_| Ok(())).expect("it is accepted");
        assert!(Plan::new(&mut client, &bundle).expect("an answer").steps.is_empty());
        let link = runtime.chain(Hook::StreamV4).links().first().cloned().expect("it was attached");
        let kept = Held::new(&link, 5);
        client.call(&LinkDetach { link: link.id() }).expect("it is there");
        let mut plan = Plan::new(&mut client, &bundle).expect("an answer");
        let actions: Vec<_> = plan.steps.iter().map(|step| (step.action, step.link)).collect();
        assert_eq!(actions, [(Action::Attach, None)]);
        drop(kept);
        apply(&mut client, &bundle, &mut plan, |_| Ok(())).expect("it is accepted");
        let running = Running::read(&mut client).expect("an answer");
        assert_eq!((running.links.len(), running.ending.len(), running.programs.len()), (1, 0, 1));
    }
}

//! What is different between a bundle and what runs, and making it the same.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tidegate_abi::control::{
    self, Change, Id, LinkAttach, LinkInfo, LinkInfoReply, LinkList, MapInfo, MapInfoReply, MapList,
    MapLookup, MapRelease, ProgramInfo, ProgramInfoReply, ProgramList, ProgramUnload, Status,
};
use tidegate_abi::{Grants, Hook, MapKind};

use super::{Bundle, Entry, Signer};
use crate::client::{Client, Refused};
use crate::error::{Error, Exit};
use crate::grants::Granted;
use crate::host::{Planned, Staged};

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
    /// Links that are as the bundle says.
    kept: usize,
    /// Whether it was done.
    applied: bool,
    /// Whether it is of programs that each entry loads anew, by the entry's place.
    #[serde(skip)]
    loads: BTreeSet<usize>,
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
    /// Which program of which entry.
    #[serde(skip)]
    of: Option<(usize, usize)>,
    #[serde(skip)]
    at: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Action {
    Attach,
    Replace,
    Detach,
}

/// What a host has.
#[derive(Debug, Default)]
struct Running {
    /// But for those that were told to end: they are shown nothing new.
    links: Vec<(Id, LinkInfoReply)>,
    ending: Vec<Id>,
    programs: BTreeMap<Id, ProgramInfoReply>,
    maps: BTreeMap<Id, MapInfoReply>,
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
            kept: 0,
            applied: false,
            loads: BTreeSet::new(),
            running,
        };
        let mut wanted = BTreeSet::new();
        for (number, entry) in bundle.links.iter().enumerate() {
            plan.compare(client, number, entry, &mut wanted)?;
        }
        for (at, (link, info)) in plan.running.links.iter().enumerate() {
            if !wanted.contains(link) {
                plan.steps.push(Step {
                    action: Action::Detach,
                    hook: info.hook.name(),
                    priority: info.priority,
                    program: plan
                        .running
                        .programs
                        .get(&info.program)
                        .map_or_else(String::new, |p| p.name.to_string()),
                    link: Some(*link),
                    why: vec!["the bundle does not have it".into()],
                    of: None,
                    at,
                });
            }
        }
        Ok(plan)
    }

    /// Whether there is nothing to change.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    fn compare(
        &mut self,
        client: &mut Client,
        number: usize,
        entry: &Entry,
        wanted: &mut BTreeSet<Id>,
    ) -> Result<(), Error> {
        let planned = Planned::new(&entry.object, &entry.setup)?;
        let places = entry.places();
        let there: Vec<_> = places.iter().map(|(_, hook)| self.running.at(*hook, entry.priority)).collect();
        // All links of a program run one and the same; what of it is different is different for all of them.
        let mut differs: Vec<Vec<String>> = Vec::new();
        for place in 0..entry.programs.len() {
            let ids: BTreeSet<Id> = places
                .iter()
                .zip(&there)
                .filter(|((at, _), _)| *at == place)
                .filter_map(|(_, there)| there.and_then(|at| Some(self.running.links.get(at)?.1.program)))
                .collect();
            let program = &entry.object.programs()[entry.programs[place]];
            differs.push(match ids.iter().collect::<Vec<_>>()[..] {
                [id] => self.running.differences(client, *id, program, entry.setup.grants, &planned)?,
                _ => vec!["program".into()],
            });
        }
        // A link's rules stay what they are: where they are others, another link takes its place.
        let rules = |info: &LinkInfoReply| {
            let rules = [
                (info.on_error != entry.on_error, "on_error"),
                (info.budget != entry.budget, "budget"),
                (info.snapshot != entry.snapshot, "snapshot"),
            ];
            rules.into_iter().filter(|(differs, _)| *differs).map(|(_, what)| what.to_string()).collect()
        };
        let there: Vec<Option<(usize, Id, Vec<String>)>> = there
            .into_iter()
            .map(|at| {
                at.and_then(|at| self.running.links.get(at).map(|(link, info)| (at, *link, rules(info))))
            })
            .collect();
        // Programs of an entry share their maps: they are loaded together, or not at all.
        let loads = differs.iter().any(|differs| !differs.is_empty())
            || there.iter().any(|there| there.as_ref().is_none_or(|(.., rules)| !rules.is_empty()));
        if loads {
            self.loads.insert(number);
        }
        for ((place, hook), there) in places.into_iter().zip(there) {
            let (action, link, at, why) = match there {
                None => (Action::Attach, None, 0, vec!["it is not there".into()]),
                Some((at, link, rules)) => {
                    wanted.insert(link);
                    if !loads {
                        self.kept += 1;
                        continue;
                    }
                    let action = if rules.is_empty() { Action::Replace } else { Action::Attach };
                    let why: Vec<_> = rules.into_iter().chain(differs[place].iter().cloned()).collect();
                    (action, Some(link), at, if why.is_empty() { vec!["its entry".into()] } else { why })
                }
            };
            self.steps.push(Step {
                action,
                hook: hook.name(),
                priority: entry.priority,
                program: entry.setup.programs.get(place).cloned().unwrap_or_default(),
                link,
                why,
                of: Some((number, place)),
                at,
            });
        }
        Ok(())
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
        let ended = plan.steps.iter().filter(|step| step.action != Action::Replace);
        Self {
            programs: staged.values().flat_map(|staged| staged.programs().map(|(id, _)| id)).collect(),
            links: ended.filter_map(|step| step.link).collect(),
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
    let ended = plan.steps.iter().filter(|step| step.action != Action::Replace).filter_map(|step| step.link);
    for link in ended.chain(plan.running.ending.iter().copied()) {
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
    for number in &plan.loads {
        let entry = &bundle.links[*number];
        // What programs keep in maps that the bundle does not fill goes on in the new version.
        let before = plan
            .steps
            .iter()
            .filter(|step| step.of.is_some_and(|(of, _)| of == *number) && step.link.is_some());
        let mut maps = BTreeMap::new();
        for step in before {
            let program = plan
                .running
                .links
                .get(step.at)
                .and_then(|(_, info)| plan.running.programs.get(&info.program));
            for id in program.into_iter().flat_map(|program| &program.maps) {
                if let Some(map) = plan.running.maps.get(id)
                    && !entry.setup.maps.contains_key(map.name.as_str())
                {
                    maps.insert(*id, (map.name.to_string(), map.def));
                }
            }
        }
        let maps: Vec<_> = maps.into_iter().map(|(id, (name, def))| (id, name, def)).collect();
        staged.insert(*number, Staged::over(client, &entry.object, &entry.setup, &maps)?);
    }
    Ok(())
}

fn commit(
    client: &mut Client,
    bundle: &Bundle,
    plan: &Plan,
    staged: &BTreeMap<usize, Staged>,
) -> Result<(), Error> {
    let mut changes = Vec::new();
    for step in &plan.steps {
        if let (Action::Attach | Action::Detach, Some(link)) = (step.action, step.link) {
            changes.push(Change::Detach { link });
        }
    }
    for step in &plan.steps {
        let Some((number, place)) = step.of else { continue };
        let entry = &bundle.links[number];
        let program = staged.get(&number).and_then(|staged| staged.programs().nth(place)).map(|(id, _)| id);
        let (Some(program), Some(hook)) = (program, Hook::from_name(step.hook)) else { continue };
        changes.push(match (step.action, step.link) {
            (Action::Replace, Some(link)) => Change::Replace { link, program },
            _ => Change::Attach(LinkAttach {
                program,
                hook,
                priority: entry.priority,
                on_error: entry.on_error,
                budget: entry.budget,
                snapshot: entry.snapshot,
            }),
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

fn failed(doing: &str, refused: &Refused) -> Error {
    let exit = match refused.status {
        _ if refused.system.is_some() => Exit::Driver,
        Status::Version => Exit::Driver,
        Status::Refused | Status::OverBudget => Exit::Refused,
        Status::NotGranted => Exit::Denied,
        _ => Exit::Partial,
    };
    Error::new("apply", exit, format!("cannot {doing}: {refused}")).with_help(refused.help())
}

impl Running {
    fn read(client: &mut Client) -> Result<Self, Error> {
        let (mut links, mut ending) = (Vec::new(), Vec::new());
        for hook in Hook::ALL {
            let ids = client.call(&LinkList { hook }).map_err(|refused| failed("list links", &refused))?;
            for id in ids {
                match known(client.call(&LinkInfo { link: id }))? {
                    Some(info) if info.draining => ending.push(id),
                    Some(info) => links.push((id, info)),
                    None => {}
                }
            }
        }
        let mut programs = BTreeMap::new();
        let listed = |refused| failed("list objects", &refused);
        for id in client.ids(|after| ProgramList { after }).map_err(listed)? {
            if let Some(info) = known(client.call(&ProgramInfo { program: id }))? {
                programs.insert(id, info);
            }
        }
        let mut maps = BTreeMap::new();
        for id in client.ids(|after| MapList { after }).map_err(listed)? {
            if let Some(info) = known(client.call(&MapInfo { map: id }))? {
                maps.insert(id, info);
            }
        }
        Ok(Self { links, ending, programs, maps })
    }

    /// The place of the only link of this priority at a hook.
    fn at(&self, hook: Hook, priority: u16) -> Option<usize> {
        let is_there =
            |(_, (_, info)): &(usize, &(Id, LinkInfoReply))| info.hook == hook && info.priority == priority;
        let mut found = self.links.iter().enumerate().filter(is_there).map(|(at, _)| at);
        found.next().filter(|_| found.next().is_none())
    }

    /// What of a running program is not as a bundle wants it, in words.
    fn differences(
        &self,
        client: &mut Client,
        id: Id,
        program: &crate::object::Program,
        grants: Option<Grants>,
        planned: &Planned,
    ) -> Result<Vec<String>, Error> {
        let Some(info) = self.programs.get(&id) else { return Ok(vec!["program".into()]) };
        if info.tag != control::tag(program.program_type, &program.code())
            || info.name.as_str() != program.name
        {
            return Ok(vec!["program".into()]);
        }
        let mut differences = Vec::new();
        if info.grants != grants.unwrap_or(Grants::ALL) {
            differences.push("grants".into());
        }
        for (id, wanted) in info.maps.iter().zip(&program.maps) {
            let (Some(map), Some(wanted)) = (self.maps.get(id), planned.maps().nth(*wanted)) else {
                differences.push("maps".into());
                continue;
            };
            if map.name.as_str() != wanted.name || map.def != wanted.def {
                differences.push(format!("map `{}`", wanted.name));
            } else if wanted.filled && !same(client, *id, map, wanted.contents)? {
                differences.push(format!("contents of map `{}`", wanted.name));
            }
        }
        Ok(differences)
    }
}

/// Whether a map holds these entries and no others; of an array: and zeros besides.
fn same(
    client: &mut Client,
    id: Id,
    map: &MapInfoReply,
    contents: &BTreeMap<Vec<u8>, Vec<u8>>,
) -> Result<bool, Error> {
    let keys = client.keys(id).map_err(|refused| failed("read a map", &refused))?;
    let is_array = matches!(map.def.kind, MapKind::Array | MapKind::PerCpuArray);
    let mut found = 0;
    for key in keys {
        let Some(value) = known(client.call_bytes(&MapLookup { map: id, key: &key }))? else { continue };
        let holds = match contents.get(&key) {
            // A value for each processor: all of them.
            Some(wanted) => value.chunks(wanted.len().max(1)).all(|value| value == wanted),
            None => is_array && value.iter().all(|byte| *byte == 0),
        };
        if !holds {
            return Ok(false);
        }
        found += usize::from(contents.contains_key(&key));
    }
    Ok(found == contents.len())
}

/// The answer, unless what was asked about went meanwhile.
fn known<T>(answer: Result<T, Refused>) -> Result<Option<T>, Error> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(Refused { status: Status::NotFound, .. }) => Ok(None),
        Err(refused) => Err(failed("read what runs", &refused)),
    }
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
                (Action::Attach | Action::Replace, _) => '~',
            };
            writeln!(f, "{sign} {hook} {priority}: {program} ({})", why.join(", "))?;
        }
        let kept = crate::tally::count(self.kept, "link");
        match (self.steps.len(), self.applied) {
            (0, _) => writeln!(f, "{kept} as the bundle says; nothing to change"),
            (steps, true) => {
                writeln!(f, "{} changed at once, {kept} kept", crate::tally::count(steps, "link"))
            }
            (steps, false) => {
                writeln!(f, "{} to change, {kept} kept; nothing was done", crate::tally::count(steps, "link"))
            }
        }
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
        assert!(Plan::new(&mut client, &bundle).expect("an answer").is_empty());
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

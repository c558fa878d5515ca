//! Which instances of a bundle run as it says, and which have to be loaded anew.

use std::collections::{BTreeMap, BTreeSet};

use tidegate_abi::control::Id;

use super::super::{Bundle, Instance};
use super::running::Running;
use crate::client::Client;
use crate::error::Error;
use crate::host::Planned;
use crate::object::Map;

/// An instance of a bundle, and what runs at its places.
pub(super) struct Compared {
    /// Names of its programs.
    pub(super) names: Vec<String>,
    /// What of each is different, in words.
    pub(super) differs: Vec<Vec<String>>,
    /// It is loaded anew, as a whole, for its programs share their maps. These maps go on in it.
    pub(super) loads: Option<Vec<Id>>,
    /// The programs that run at its places.
    programs: BTreeSet<Id>,
}

/// Compares the instances of `bundle` with what runs.
pub(super) fn compare(
    client: &mut Client,
    running: &Running,
    bundle: &Bundle,
) -> Result<Vec<Compared>, Error> {
    let mut all = Vec::new();
    for number in 0..bundle.instances.len() {
        all.push(Compared::new(client, running, bundle, number)?);
    }
    // What two instances have is one's alone from now on. One that stays keeps what it has; what is loaded anew takes what is left.
    let mut taken = BTreeSet::new();
    for compared in all.iter_mut().filter(|compared| compared.loads.is_none()) {
        let maps = running.maps_of(&compared.programs);
        if taken.is_disjoint(&maps) {
            taken.extend(maps);
        } else {
            compared.differs.iter_mut().for_each(|differs| differs.push("its maps are another's too".into()));
            compared.loads = Some(Vec::new());
        }
    }
    for (compared, instance) in all.iter_mut().zip(&bundle.instances) {
        if let Some(maps) = &mut compared.loads {
            let old = running.maps_of(&compared.programs);
            *maps = go_on(running, instance, old.difference(&taken).copied().collect());
            taken.extend(maps.iter().copied());
        }
    }
    Ok(all)
}

impl Compared {
    fn new(client: &mut Client, running: &Running, bundle: &Bundle, number: usize) -> Result<Self, Error> {
        let instance = &bundle.instances[number];
        let planned = Planned::new(&instance.object, &instance.setup)?;
        // What runs at the places of each program.
        let mut programs = vec![BTreeSet::new(); instance.programs.len()];
        let mut is_whole = true;
        for entry in bundle.links.iter().filter(|entry| entry.instance == number) {
            for (place, hook) in &entry.places {
                let there = running.at(*hook, entry.priority).and_then(|at| running.links.get(at));
                is_whole &= there.is_some_and(|(_, link)| entry.rules.differences(link).is_empty());
                programs[*place].extend(there.map(|(_, link)| link.program));
            }
        }
        let mut differs = Vec::new();
        for (place, ids) in programs.iter().enumerate() {
            // All links of a program run one and the same.
            differs.push(match ids.iter().collect::<Vec<_>>()[..] {
                [id] => {
                    let (program, grants) = (instance.program(place), instance.setup.grants);
                    running.differences(client, *id, program, grants, &planned)?
                }
                _ => vec!["program".into()],
            });
        }
        if differs.iter().all(Vec::is_empty) {
            apart(running, instance, &programs, &mut differs);
        }
        let is_same = is_whole && differs.iter().all(Vec::is_empty);
        Ok(Self {
            names: instance.setup.programs.clone(),
            differs,
            loads: (!is_same).then(Vec::new),
            programs: programs.into_iter().flatten().collect(),
        })
    }
}

/// Adds the maps that programs of an instance are to share, and do not, to what differs. Else the programs are as they are to be.
fn apart(running: &Running, instance: &Instance, programs: &[BTreeSet<Id>], differs: &mut [Vec<String>]) {
    let mut first: BTreeMap<usize, Id> = BTreeMap::new();
    for (place, differs) in differs.iter_mut().enumerate() {
        let infos = programs[place].iter().filter_map(|id| running.programs.get(id));
        for (at, id) in infos.flat_map(|info| instance.program(place).maps.iter().zip(&info.maps)) {
            if first.entry(*at).or_insert(*id) != id {
                differs.push(format!("map `{}` of its own", instance.object.maps()[*at].name));
            }
        }
    }
}

/// Those of the `old` maps that go on in the new version of an instance: declared alike, and not filled by the bundle. What
/// programs keep there goes on with them.
fn go_on(running: &Running, instance: &Instance, old: BTreeSet<Id>) -> Vec<Id> {
    let named = (0..instance.programs.len()).flat_map(|place| &instance.program(place).maps);
    let named: BTreeSet<usize> = named.copied().collect();
    let named = named.into_iter().map(|at| &instance.object.maps()[at]);
    let free = named.filter(|map| !map.name.starts_with('.') && !instance.setup.maps.contains_key(&map.name));
    let alike = |map: &Map| {
        let is_alike = |id: &&Id| {
            running.maps.get(id).is_some_and(|old| old.name.as_str() == map.name && old.def == map.def)
        };
        old.iter().find(is_alike).copied()
    };
    free.filter_map(alike).collect()
}

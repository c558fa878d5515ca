//! What a host has, and what of it is not as a bundle wants it.

use std::collections::{BTreeMap, BTreeSet};

use tidegate_abi::control::{
    self, Id, LinkInfo, LinkInfoReply, LinkList, MapInfo, MapInfoReply, MapList, MapLookup, ProgramInfo,
    ProgramInfoReply, ProgramList, Status,
};
use tidegate_abi::{Grants, Hook, MapKind};

use super::EndedTrial;
use crate::client::{Client, Refused};
use crate::error::{Error, Exit};
use crate::host::Planned;
use crate::object::Program;

/// What a host has.
#[derive(Debug, Default)]
pub(super) struct Running {
    /// But for those that were told to end: they are shown nothing new.
    pub(super) links: Vec<(Id, LinkInfoReply)>,
    pub(super) ending: Vec<Id>,
    pub(super) programs: BTreeMap<Id, ProgramInfoReply>,
    pub(super) maps: BTreeMap<Id, MapInfoReply>,
}

pub(super) fn failed(doing: &str, refused: &Refused) -> Error {
    let message = format!("cannot {doing}: {refused}");
    if let Some(silent) = refused.silent() {
        return Error { message, ..silent };
    }
    let exit = match refused.status {
        Status::Version => Exit::Driver,
        Status::Refused | Status::OverBudget => Exit::Refused,
        Status::NotGranted => Exit::Denied,
        Status::NoTraffic => Exit::Usage,
        _ => Exit::Partial,
    };
    Error::new("apply", exit, message).with_help(refused.help())
}

impl Running {
    pub(super) fn read(client: &mut Client) -> Result<Self, Error> {
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
    pub(super) fn at(&self, hook: Hook, priority: u16) -> Option<usize> {
        let is_there =
            |(_, (_, info)): &(usize, &(Id, LinkInfoReply))| info.hook == hook && info.priority == priority;
        let mut found = self.links.iter().enumerate().filter(is_there).map(|(at, _)| at);
        found.next().filter(|_| found.next().is_none())
    }

    /// Name of a program; none when it went meanwhile.
    pub(super) fn name(&self, program: Id) -> String {
        self.programs.get(&program).map_or_else(String::new, |program| program.name.to_string())
    }

    /// What is tried in a link.
    pub(super) fn trial(&self, link: &LinkInfoReply) -> Option<EndedTrial> {
        link.trial.as_ref().map(|info| EndedTrial::new(info, self.name(info.trial.program)))
    }

    /// The maps that these programs name.
    pub(super) fn maps_of<'p>(&self, programs: impl IntoIterator<Item = &'p Id>) -> BTreeSet<Id> {
        let programs = programs.into_iter().filter_map(|id| self.programs.get(id));
        programs.flat_map(|program| &program.maps).copied().collect()
    }

    /// What of a running program is not as a bundle wants it, in words.
    pub(super) fn differences(
        &self,
        client: &mut Client,
        id: Id,
        program: &Program,
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

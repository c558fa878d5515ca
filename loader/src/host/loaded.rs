//! A policy in a runtime: its maps made and filled, its programs verified and attached, through control messages only.

use std::collections::BTreeMap;

use tidegate_abi::control::{
    Counters, Id, LinkAttach, LinkInfo, LinkReplace, MapCreate, MapDelete, MapFreeze, MapLookup, MapRelease,
    MapUpdate, Name, OnError, ProgramLoad, ProgramUnload, Status,
};
use tidegate_abi::{Grants, Hook, MapDef, MapKind, limits};
use toml::{Table, Value};

use crate::btf::Shape;
use crate::client::{Client, Refused};
use crate::error::{Error, Exit};
use crate::grants;
use crate::object::{Map, Object, Program};
use crate::scenario::literal::{self, Tree};
use crate::scenario::{Contents, write};
use crate::tally::Tally;

/// How a policy is set up.
#[derive(Clone, Debug, Default)]
pub struct Setup {
    /// Programs to attach, in this order; none: the only one that the object has.
    pub programs: Vec<String>,
    /// What a failed run does.
    pub on_error: OnError,
    /// Contents of its maps.
    pub maps: Contents,
    /// Values of its constants.
    pub globals: Table,
    /// What its programs may do at most; none: everything.
    pub grants: Option<Grants>,
}

/// An entry of a map that does not hold what was expected.
#[derive(Clone, Debug, PartialEq)]
pub struct Difference {
    /// The map.
    pub map: String,
    /// The key, as it was written.
    pub key: String,
    /// What it holds, written as the expectation was; none: there is no such entry.
    pub held: Option<Value>,
    /// Both, in words.
    pub text: String,
}

/// An entry of a map that is not what it was when the run started.
#[derive(Clone, Debug, PartialEq)]
pub struct Changed {
    /// The map.
    pub map: String,
    /// The key, as it is typed.
    pub key: String,
    /// What it holds; none: the entry is gone.
    pub value: Option<Value>,
}

/// A policy that is attached to the hooks of both address families.
#[derive(Clone, Default)]
pub struct Loaded {
    maps: Vec<LoadedMap>,
    links: Vec<Link>,
}

/// Programs and maps that are loaded and attached to nothing.
#[must_use]
pub struct Staged {
    maps: Vec<LoadedMap>,
    programs: Vec<(Program, Id)>,
    /// Those of the maps that others have, or had before.
    kept: Vec<Id>,
    /// What its programs may do at most.
    grants: Grants,
}

#[derive(Clone)]
struct LoadedMap {
    id: Id,
    name: String,
    def: MapDef,
    key: Option<Shape>,
    value: Option<Shape>,
    /// What it holds at the start of a run.
    start: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// The maps of an object as a setup fills them, of no runtime yet.
pub struct Planned {
    maps: Vec<LoadedMap>,
    filled: Vec<String>,
}

/// One of them.
pub struct PlannedMap<'p> {
    /// Its name.
    pub name: &'p str,
    /// What it is.
    pub def: MapDef,
    /// Whether its contents are the setup's, or constants of the object; else they are what programs make of them.
    pub filled: bool,
    /// What it holds at first.
    pub contents: &'p BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Planned {
    /// Those of `object`, as `setup` fills them.
    ///
    /// # Errors
    /// The setup does not fit the object.
    pub fn new(object: &Object, setup: &Setup) -> Result<Self, Error> {
        let mut loaded = Loaded { maps: Vec::new(), links: Vec::new() };
        for map in object.maps() {
            loaded.maps.push(LoadedMap::of(map, 0)?);
        }
        loaded.set_globals(&setup.globals)?;
        loaded.set_contents(&setup.maps)?;
        Ok(Self { maps: loaded.maps, filled: setup.maps.keys().cloned().collect() })
    }

    /// In the order of [`Object::maps`].
    pub fn maps(&self) -> impl Iterator<Item = PlannedMap<'_>> {
        self.maps.iter().map(|map| PlannedMap {
            name: &map.name,
            def: map.def,
            filled: self.filled.contains(&map.name) || map.name.starts_with('.') && map.def.read_only(),
            contents: &map.start,
        })
    }
}

/// A program at a hook.
#[derive(Clone)]
pub struct Link {
    /// Name of the program.
    pub program: String,
    /// Where it runs.
    pub hook: Hook,
    id: Id,
    /// Which program of those that were chosen it is.
    place: usize,
    /// The program as the runtime knows it.
    pub(super) loaded: Id,
}

impl Link {
    /// What the runtime knows it by.
    pub fn id(&self) -> Id {
        self.id
    }
}

impl Loaded {
    /// Loads the programs of `object` that `setup` names, with their maps, and attaches them.
    ///
    /// # Errors
    /// The setup does not fit the object, or the runtime refuses: then the error has the exit code of a refused program.
    pub fn new(client: &mut Client, object: &Object, setup: &Setup) -> Result<Self, Error> {
        Self::behind(client, object, setup, 0)
    }

    /// The same behind so many other programs.
    ///
    /// # Errors
    /// As [`new`](Self::new)'s.
    pub fn behind(client: &mut Client, object: &Object, setup: &Setup, others: u16) -> Result<Self, Error> {
        Staged::new(client, object, setup)?.attach_behind(client, setup.on_error, others)
    }

    /// Takes everything out of the runtime again: links, programs, maps.
    pub fn unload(self, client: &mut Client) {
        self.detach(client);
        let mut programs: Vec<Id> = self.links.iter().map(|link| link.loaded).collect();
        programs.dedup();
        give_up(client, programs, self.maps.iter().map(|map| map.id));
    }

    fn detach(&self, client: &mut Client) {
        for link in &self.links {
            // One that is gone already is as good.
            let _ = client.detach(link.id);
        }
    }

    /// Loads the programs of `object` that `setup` names beside the ones that run. A map that the new version declares as the
    /// old one did stays what it is; `setup` fills the others.
    ///
    /// # Errors
    /// The setup does not fit the object, the new programs are not for the same hooks, or the runtime refuses one: nothing of
    /// the new ones is left then.
    pub fn stage(&self, client: &mut Client, object: &Object, setup: &Setup) -> Result<Staged, Error> {
        let programs = chosen(object, &setup.programs)?;
        let places = programs
            .iter()
            .enumerate()
            .flat_map(|(place, program)| program.program_type.hooks().map(move |hook| (place, hook)));
        if !places.eq(self.links.iter().map(|link| (link.place, link.hook))) {
            return Err(Error::usage(
                "program-hooks",
                "the new version has programs for other hooks than the old one",
            )
            .with_help(
                "the same number of programs, of the same types and in the same order, take the old ones' places",
            ));
        }
        Staged::beside(client, object, setup, &self.maps)
    }

    /// Puts what was staged into the links, each at once and without a gap.
    ///
    /// # Errors
    /// The runtime refuses: the old programs run on then, and nothing of the new ones is left.
    pub fn commit(&mut self, client: &mut Client, staged: Staged) -> Result<(), Error> {
        for at in 0..self.links.len() {
            let (link, (program, id)) = (self.links[at].id, &staged.programs[self.links[at].place]);
            if let Err(refused) = client.call(&LinkReplace { link, program: *id }) {
                let error = refusal(program, &refused);
                // What ran a moment ago is taken back: it fitted then.
                for link in &self.links[..at] {
                    let _ = client.call(&LinkReplace { link: link.id, program: link.loaded });
                }
                staged.unload(client);
                return Err(error);
            }
        }
        let mut old = Vec::new();
        for link in &mut self.links {
            let (program, id) = &staged.programs[link.place];
            old.push((program.clone(), std::mem::replace(&mut link.loaded, *id)));
            link.program.clone_from(&program.name);
        }
        old.dedup_by_key(|(_, id)| *id);
        let maps = std::mem::replace(&mut self.maps, staged.maps);
        let kept = self.maps.iter().map(|map| map.id).collect();
        Staged { maps, programs: old, kept, grants: staged.grants }.unload(client);
        Ok(())
    }

    /// Makes and fills the maps of `object`, those that `old` has alike left as they are.
    fn make_maps(
        &mut self,
        client: &mut Client,
        object: &Object,
        setup: &Setup,
        old: &[LoadedMap],
    ) -> Result<(), Error> {
        for map in object.maps() {
            let alike =
                |old: &&LoadedMap| old.name == map.name && old.def == map.def && !map.name.starts_with('.');
            let id = match old.iter().find(alike) {
                Some(old) => old.id,
                None => {
                    let name = name(&map.name)?;
                    client
                        .call(&MapCreate { name, def: map.def })
                        .map_err(|error| of_map(&map.name, &error))?
                }
            };
            self.maps.push(LoadedMap::of(map, id)?);
        }
        self.set_globals(&setup.globals)?;
        self.set_contents(&setup.maps)?;
        for map in self.maps.iter().filter(|map| !old.iter().any(|old| old.id == map.id)) {
            map.reset(client).map_err(|error| of_map(&map.name, &error))?;
            if map.def.read_only() && map.name.starts_with('.') {
                client.call(&MapFreeze { map: map.id }).map_err(|error| of_map(&map.name, &error))?;
            }
        }
        Ok(())
    }

    fn load(
        &self,
        client: &mut Client,
        object: &Object,
        program: &Program,
        grants: Grants,
    ) -> Result<Id, Error> {
        let maps = program.maps.iter().filter_map(|at| self.maps.get(*at)).map(|map| map.id).collect();
        let code = program.code();
        let (name, program_type) = (name(&program.name)?, program.program_type);
        let request = ProgramLoad { name, program_type, code: &code, maps, grants };
        let loaded = client.call(&request).map_err(|refused| match refused.status {
            Status::NotGranted => grants::not_loaded(object, program, grants),
            _ => refusal(program, &refused),
        });
        Ok(loaded?.program)
    }

    /// The links, by priority.
    pub fn links(&self) -> &[Link] {
        &self.links
    }

    /// What `link` has counted.
    ///
    /// # Errors
    /// The runtime refuses.
    pub fn counters(&self, client: &mut Client, link: &Link) -> Result<Counters, Error> {
        let info =
            client.call(&LinkInfo { link: link.id }).map_err(|error| of_program(&link.program, &error))?;
        Ok(info.counters)
    }

    /// What all links have counted.
    ///
    /// # Errors
    /// The runtime refuses.
    pub fn tally(&self, client: &mut Client) -> Result<Tally, Error> {
        self.links.iter().try_fold(Tally::default(), |mut sum, link| {
            sum.add(&self.counters(client, link)?.into());
            Ok(sum)
        })
    }

    /// Puts every map that a program may have written back to its start.
    ///
    /// # Errors
    /// The runtime refuses.
    pub fn reset(&self, client: &mut Client) -> Result<(), Error> {
        for map in &self.maps {
            map.reset(client).map_err(|error| of_map(&map.name, &error))?;
        }
        Ok(())
    }

    /// Takes the records of all ring buffers, by the name of the map.
    ///
    /// # Errors
    /// The runtime refuses.
    pub fn events(&self, client: &mut Client) -> Result<BTreeMap<String, Vec<Vec<u8>>>, Error> {
        let rings = self.maps.iter().filter(|map| map.def.kind == MapKind::RingBuf);
        let take = |map: &LoadedMap| {
            let (records, _) = client.events(map.id).map_err(|error| of_map(&map.name, &error))?;
            Ok((map.name.clone(), records))
        };
        rings.map(take).collect()
    }

    /// Holds the contents of the maps against `expected`: what is different.
    ///
    /// # Errors
    /// `expected` does not fit the maps.
    pub fn differences(&self, client: &mut Client, expected: &Contents) -> Result<Vec<Difference>, Error> {
        let mut found = Vec::new();
        for (name, entries) in expected {
            let map = self.map(name)?;
            for (text, value) in entries {
                let key = map.key_of(text)?;
                let held = match client.call_bytes(&MapLookup { map: map.id, key: &key }) {
                    Ok(held) => Some(held),
                    Err(Refused { status: Status::NotFound, .. }) => None,
                    Err(error) => return Err(of_map(name, &error)),
                };
                let wanted = match value.as_str() {
                    Some("absent") => None,
                    _ => Some(map.value_of(text, value)?),
                };
                if held != wanted {
                    let show = |value: Option<&[u8]>| value.map_or("absent".into(), |value| map.show(value));
                    let (is, wanted) = (show(held.as_deref()), show(wanted.as_deref()));
                    found.push(Difference {
                        map: name.clone(),
                        key: text.clone(),
                        held: held.map(|held| write::value(&held, map.value.as_ref(), value)),
                        text: format!("map {name}: `{text}` is {is}, expected {wanted}"),
                    });
                }
            }
        }
        Ok(found)
    }

    /// The entries of arrays and hashes that are not what they were when the run started. Those of variables of the program are
    /// left out, and so are copies for each processor and values of a flow's own.
    ///
    /// # Errors
    /// The runtime refuses.
    pub fn changed(&self, client: &mut Client) -> Result<Vec<Changed>, Error> {
        let mut changed = Vec::new();
        for map in self.maps.iter().filter(|map| !map.name.starts_with('.')) {
            let entries = map.entries(client).map_err(|error| of_map(&map.name, &error))?;
            let gone = map.start.keys().filter(|key| !entries.contains_key(*key)).map(|key| (key, None));
            let held = entries.iter().filter(|(key, value)| map.start.get(*key) != Some(value));
            for (key, value) in gone.chain(held.map(|(key, value)| (key, Some(value)))) {
                changed.push(Changed {
                    map: map.name.clone(),
                    key: map.key_text(key),
                    // Where nothing else is said a number is one.
                    value: value.map(|value| write::value(value, map.value.as_ref(), &Value::Integer(0))),
                });
            }
        }
        Ok(changed)
    }

    fn map(&self, name: &str) -> Result<&LoadedMap, Error> {
        self.maps.iter().find(|map| map.name == name).ok_or_else(|| self.no_map(name))
    }

    fn no_map(&self, name: &str) -> Error {
        let known: Vec<_> =
            self.maps.iter().map(|map| map.name.as_str()).filter(|name| !name.starts_with('.')).collect();
        let help =
            if known.is_empty() { "it has no maps".into() } else { format!("it has {}", known.join(", ")) };
        Error::new("map-unknown", Exit::NotFound, format!("the object has no map `{name}`")).with_help(help)
    }

    fn set_contents(&mut self, contents: &Contents) -> Result<(), Error> {
        for (name, entries) in contents {
            let Some(at) = self.maps.iter().position(|map| map.name == *name) else {
                return Err(self.no_map(name));
            };
            let map = &mut self.maps[at];
            if map.def.kind == MapKind::RingBuf {
                return Err(Error::usage(
                    "map-data",
                    format!("map `{name}` is a ring buffer: only programs write to it"),
                ));
            }
            for (text, value) in entries {
                let key = map.key_of(text)?;
                if matches!(map.def.kind, MapKind::Array | MapKind::PerCpuArray)
                    && index(&key) >= map.def.max_entries
                {
                    let message =
                        format!("map `{name}` has entries 0 to {}, not `{text}`", map.def.max_entries - 1);
                    return Err(Error::usage("map-data", message));
                }
                let value = map.value_of(text, value)?;
                map.start.insert(key, value);
            }
        }
        Ok(())
    }

    /// Sets constants: variables in the object's read-only data, known by BTF.
    fn set_globals(&mut self, globals: &Table) -> Result<(), Error> {
        for (name, value) in globals {
            let found = self.maps.iter_mut().find_map(|map| {
                let Some(Shape::Struct { members, .. }) = &map.value else { return None };
                let member =
                    members.iter().find(|member| map.name.starts_with('.') && member.name == *name)?.clone();
                Some((map.start.values_mut().next()?, member))
            });
            let Some((bytes, member)) = found else {
                let help = "constants are declared `const volatile` and need debug information (-g)";
                return Err(Error::new(
                    "global-unknown",
                    Exit::NotFound,
                    format!("the object has no variable `{name}`"),
                )
                .with_help(help));
            };
            let (at, size) = (member.offset as usize, member.shape.size() as usize);
            let encoded = literal::data(value, size, Some(&member.shape))
                .map_err(|error| Error::usage("map-data", format!("variable `{name}`: {error}")))?;
            if let Some(place) = bytes.get_mut(at..at + size) {
                place.copy_from_slice(&encoded);
            }
        }
        Ok(())
    }
}

impl Staged {
    /// Loads the programs of `object` that `setup` names, with their maps.
    ///
    /// # Errors
    /// The setup does not fit the object, or the runtime refuses: nothing is left then.
    pub fn new(client: &mut Client, object: &Object, setup: &Setup) -> Result<Self, Error> {
        Self::beside(client, object, setup, &[])
    }

    /// As [`new`](Self::new), with those of the maps `old` (id, name, definition) that are declared alike.
    ///
    /// # Errors
    /// As [`new`](Self::new)'s; the old maps stay.
    pub fn over(
        client: &mut Client,
        object: &Object,
        setup: &Setup,
        old: &[(Id, String, MapDef)],
    ) -> Result<Self, Error> {
        let old = old.iter().map(|(id, name, def)| LoadedMap {
            id: *id,
            name: name.clone(),
            def: *def,
            key: None,
            value: None,
            start: BTreeMap::new(),
        });
        Self::beside(client, object, setup, &old.collect::<Vec<_>>())
    }

    /// As [`new`](Self::new), with those of the `old` maps that are declared alike.
    fn beside(client: &mut Client, object: &Object, setup: &Setup, old: &[LoadedMap]) -> Result<Self, Error> {
        let programs = chosen(object, &setup.programs)?;
        let mut new = Loaded { maps: Vec::new(), links: Vec::new() };
        let mut staged = Vec::new();
        let grants = setup.grants.unwrap_or(Grants::ALL);
        let made = new.make_maps(client, object, setup, old);
        let loaded = made.and_then(|()| {
            programs.into_iter().try_for_each(|program| {
                let id = new.load(client, object, program, grants)?;
                staged.push((program.clone(), id));
                Ok(())
            })
        });
        let kept = old.iter().map(|map| map.id).collect();
        let staged = Self { maps: new.maps, programs: staged, kept, grants };
        match loaded {
            Ok(()) => Ok(staged),
            Err(error) => {
                staged.unload(client);
                Err(error)
            }
        }
    }

    /// What it takes to attach the programs at every hook of their types, in their order.
    pub fn links(&self, on_error: OnError) -> Vec<LinkAttach> {
        let mut links = Vec::new();
        for (place, (program, id)) in self.programs.iter().enumerate() {
            for hook in program.program_type.hooks() {
                links.push(LinkAttach {
                    program: *id,
                    hook,
                    priority: u16::try_from(place).unwrap_or(u16::MAX),
                    on_error,
                    budget: limits::DEFAULT_BUDGET.min(self.grants.budget),
                    snapshot: false,
                    filter: None,
                });
            }
        }
        links
    }

    /// Attaches the programs at every hook of their types.
    ///
    /// # Errors
    /// The runtime refuses: nothing is left then.
    pub fn attach(self, client: &mut Client, on_error: OnError) -> Result<Loaded, Error> {
        self.attach_behind(client, on_error, 0)
    }

    fn attach_behind(self, client: &mut Client, on_error: OnError, others: u16) -> Result<Loaded, Error> {
        let mut loaded = Loaded { maps: Vec::new(), links: Vec::new() };
        for mut request in self.links(on_error) {
            request.priority = request.priority.saturating_add(others);
            let Some(place) = self.programs.iter().position(|(_, id)| *id == request.program) else {
                continue;
            };
            let program = &self.programs[place].0;
            match client.call(&request) {
                Ok(link) => loaded.links.push(Link {
                    program: program.name.clone(),
                    hook: request.hook,
                    id: link,
                    place,
                    loaded: request.program,
                }),
                Err(refused) => {
                    loaded.detach(client);
                    self.give_up(client, self.programs.iter().map(|(_, id)| *id));
                    return Err(match refused.status {
                        Status::NotGranted => {
                            grants::not_linked(&program.name, self.grants, request.hook, request.budget)
                        }
                        Status::NoTraffic => {
                            let message = format!("program `{}` can't be attached: {refused}", program.name);
                            Error::usage("hook-unshown", message).with_help(refused.help())
                        }
                        _ => refusal(program, &refused),
                    });
                }
            }
        }
        loaded.maps = self.maps;
        Ok(loaded)
    }

    /// The programs, in the order that they were named in.
    pub fn programs(&self) -> impl Iterator<Item = (Id, &Program)> {
        self.programs.iter().map(|(program, id)| (*id, program))
    }

    /// Ids and names of the maps that the programs name.
    pub fn maps(&self) -> impl Iterator<Item = (Id, &str)> {
        let is_named = |at: &usize| self.programs.iter().any(|(program, _)| program.maps.contains(at));
        let named = self.maps.iter().enumerate().filter(move |(at, _)| is_named(at));
        named.map(|(_, map)| (map.id, map.name.as_str()))
    }

    /// Ids of the maps that were made for it.
    pub fn made(&self) -> impl Iterator<Item = Id> {
        self.maps.iter().map(|map| map.id).filter(|id| !self.kept.contains(id))
    }

    /// Takes everything out of the runtime again.
    pub fn unload(self, client: &mut Client) {
        self.give_up(client, self.programs.iter().map(|(_, id)| *id));
    }

    /// Leaves the maps to the programs: each goes with the last one that names it.
    pub fn leave(&self, client: &mut Client) {
        self.give_up(client, []);
    }

    /// Lets go of programs, and of the maps that nobody else has.
    fn give_up(&self, client: &mut Client, programs: impl IntoIterator<Item = Id>) {
        give_up(client, programs, self.made());
    }
}

/// Lets go of programs and maps. Whatever is refused here stays until the runtime goes: no one names it any more.
fn give_up(client: &mut Client, programs: impl IntoIterator<Item = Id>, maps: impl IntoIterator<Item = Id>) {
    for program in programs {
        let _ = client.call(&ProgramUnload { program });
    }
    for map in maps {
        let _ = client.call(&MapRelease { map });
    }
}

impl LoadedMap {
    fn of(map: &Map, id: Id) -> Result<Self, Error> {
        Ok(Self {
            id,
            name: map.name.clone(),
            def: map.def,
            key: map.key.clone(),
            value: map.value.clone(),
            start: start(map)?,
        })
    }

    fn key_of(&self, text: &str) -> Result<Vec<u8>, Error> {
        literal::typed(text)
            .and_then(|key| literal::data(&key, self.def.key_size as usize, self.key.as_ref()))
            .map_err(|error| Error::usage("map-data", format!("map `{}`, key `{text}`: {error}", self.name)))
    }

    fn value_of(&self, key: &str, value: &Value) -> Result<Vec<u8>, Error> {
        literal::data(value, self.def.value_size as usize, self.value.as_ref()).map_err(|error| {
            Error::usage("map-data", format!("map `{}`, value of `{key}`: {error}", self.name))
        })
    }

    fn show(&self, value: &[u8]) -> String {
        match (&self.value, value) {
            (Some(Shape::Int { character: false, .. }) | None, value)
                if matches!(value.len(), 1 | 2 | 4 | 8) =>
            {
                value.iter().rev().fold(0_u64, |number, byte| number << 8 | u64::from(*byte)).to_string()
            }
            (_, value) => literal::show(value),
        }
    }

    /// The key as it is typed.
    fn key_text(&self, key: &[u8]) -> String {
        let text = match Tree::of(key, self.key.as_ref()) {
            Tree::Text(text) => text,
            other => other.to_string(),
        };
        if self.key_of(&text).as_deref() == Ok(key) {
            return text;
        }
        let digits: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("hex:{digits}")
    }

    /// What an array holds besides zeros that it held from the start, or all that a hash holds; nothing of other kinds.
    fn entries(&self, client: &mut Client) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, Refused> {
        let is_array = self.def.kind == MapKind::Array;
        let keys = match self.def.kind {
            MapKind::Array => (0..self.def.max_entries).map(|index| index.to_le_bytes().to_vec()).collect(),
            MapKind::Hash | MapKind::LruHash => client.keys(self.id)?,
            MapKind::PerCpuArray | MapKind::FlowStorage | MapKind::RingBuf => Vec::new(),
        };
        let mut entries = BTreeMap::new();
        for key in keys {
            let value = client.call_bytes(&MapLookup { map: self.id, key: &key })?;
            let is_set = value.iter().any(|byte| *byte != 0) || self.start.contains_key(&key);
            if !is_array || is_set {
                entries.insert(key, value);
            }
        }
        Ok(entries)
    }

    fn reset(&self, client: &mut Client) -> Result<(), Refused> {
        let map = self.id;
        match self.def.kind {
            MapKind::RingBuf => client.events(map).map(|_| ()),
            // Every entry exists and starts as zeros.
            MapKind::Array | MapKind::PerCpuArray => {
                let zeros = vec![0; self.def.value_size as usize];
                for index in 0..self.def.max_entries {
                    let key = index.to_le_bytes();
                    let value = self.start.get(&key[..]).unwrap_or(&zeros);
                    if client.call_bytes(&MapLookup { map, key: &key })? != *value {
                        client.call(&MapUpdate { map, key: &key, value, flags: 0 })?;
                    }
                }
                Ok(())
            }
            MapKind::Hash | MapKind::LruHash | MapKind::FlowStorage => {
                let keys = client.keys(map)?;
                for key in keys.iter().filter(|key| !self.start.contains_key(*key)) {
                    client.call(&MapDelete { map, key })?;
                }
                for (key, value) in &self.start {
                    client.call(&MapUpdate { map, key, value, flags: 0 })?;
                }
                Ok(())
            }
        }
    }
}

/// The programs of `object` that `names` names.
fn chosen<'a>(object: &'a Object, names: &[String]) -> Result<Vec<&'a Program>, Error> {
    let known =
        || object.programs().iter().map(|program| program.name.as_str()).collect::<Vec<_>>().join(", ");
    if names.is_empty() {
        return match object.programs() {
            [only] => Ok(vec![only]),
            [] => Err(Error::usage("program-none", "the object has no program")
                .with_help("programs are functions in the sections tidegate/stream and tidegate/send")),
            _ => Err(Error::usage("program-several", "the object has several programs")
                .with_help(format!("name the one to run: {}", known()))),
        };
    }
    let find = |name: &String| {
        object.program(name).ok_or_else(|| {
            Error::new("program-unknown", Exit::NotFound, format!("the object has no program `{name}`"))
                .with_help(format!("it has {}", known()))
        })
    };
    names.iter().map(find).collect()
}

/// What a map holds before anyone writes to it.
fn start(map: &Map) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, Error> {
    let Some(initial) = &map.initial else { return Ok(BTreeMap::new()) };
    let mut value = initial.clone();
    if value.len() > map.def.value_size as usize {
        let message =
            format!("section {} has {} bytes, its map {}", map.name, value.len(), map.def.value_size);
        return Err(Error::usage("map-data", message));
    }
    value.resize(map.def.value_size as usize, 0);
    Ok([(vec![0; 4], value)].into())
}

/// The index that the key of an array is.
fn index(key: &[u8]) -> u32 {
    key.first_chunk().map_or(u32::MAX, |bytes| u32::from_le_bytes(*bytes))
}

fn name(text: &str) -> Result<Name, Error> {
    Name::try_from(text).map_err(|_| {
        let message = format!("the name `{text}` is longer than {} bytes", limits::MAX_NAME);
        Error::usage("name-too-long", message)
    })
}

fn of_map(name: &str, refused: &Refused) -> Error {
    refused.silent().unwrap_or_else(|| {
        Error::new("map-refused", Exit::Usage, format!("map `{name}`: {refused}")).with_help(refused.help())
    })
}

fn of_program(name: &str, refused: &Refused) -> Error {
    refused.silent().unwrap_or_else(|| {
        Error::new("link-refused", Exit::Usage, format!("program `{name}`: {refused}"))
            .with_help(refused.help())
    })
}

/// A program that the runtime did not take: told with the source line.
fn refusal(program: &Program, refused: &Refused) -> Error {
    if let Some(error) = refused.silent() {
        return error;
    }
    let mut message = format!("program `{}` was refused: {refused}", program.name);
    if let Some(line) = refused.refusal.as_ref().and_then(|refusal| program.line(refusal.insn as usize)) {
        message += &format!("\n  {}:{}: {}", line.file, line.line, line.text.trim());
    }
    let exit = if refused.status == Status::Refused || refused.status == Status::OverBudget {
        Exit::Refused
    } else {
        Exit::Usage
    };
    Error::new("program-refused", exit, message).with_help("`tidegate verify` says more about it")
}

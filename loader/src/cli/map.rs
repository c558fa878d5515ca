//! `tidegate map create|show|dump|lookup|getnext|update|delete|freeze|release`.

use std::fmt;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use schemars::JsonSchema;
use serde::Serialize;
use tidegate_abi::control::{
    Id, MapCreate, MapDelete, MapFreeze, MapInfo, MapInfoReply, MapList, MapLookup, MapNextKey, MapRelease,
    MapUpdate, Name, Status,
};
use tidegate_abi::map::RDONLY_PROG;
use tidegate_abi::{MapDef, MapKind, limits};

use super::{Done, Report, live};
use crate::btf::Shape;
use crate::client::{Client, Refused};
use crate::error::{Error, Exit};
use crate::object::{self, Object};
use crate::scenario::literal::{self, Tree};

#[derive(Subcommand)]
pub(super) enum Verb {
    /// Make a map, which `prog load --map NAME=MAP` gives to programs; it lives until it is released and no program names it
    #[command(after_help = "For example a map that two programs share, made as one of them declares it:\n  \
        tidegate map create ports --types by_port.o\n  \
        tidegate map create ports --kind hash --key 2 --value 4 --entries 16\n  \
        tidegate prog load by_port.o --map ports=ports")]
    Create(Create),
    /// Show the maps that the host has
    Show,
    /// Print every entry of a map
    Dump(Dump),
    /// Print the value of one key
    Lookup(Entry),
    /// Print the key that follows one, in the map's own order
    Getnext(GetNext),
    /// Set the value of a key
    Update(Update),
    /// Delete a key
    Delete(Entry),
    /// End all changes of a map by commands; programs go on changing it
    Freeze {
        /// The map, by its id or its name
        map: String,
    },
    /// Give up a map that was created: it goes when no program names it any more
    Release {
        /// The map, by its id or its name
        map: String,
    },
}

#[derive(Args)]
pub(super) struct Create {
    /// What it will be called
    name: String,
    /// Kind, as `feature list maps` has them
    #[arg(long, value_parser = kind, required_unless_present = "object")]
    kind: Option<MapKind>,
    /// Bytes of a key, where the kind leaves a choice
    #[arg(long, value_name = "BYTES")]
    key: Option<u32>,
    /// Bytes of a value; none for a ring buffer
    #[arg(long, value_name = "BYTES")]
    value: Option<u32>,
    /// Entries at most, or the bytes of a ring buffer
    #[arg(long, value_name = "N", required_unless_present = "object")]
    entries: Option<u32>,
    /// Programs may read it, not write
    #[arg(long)]
    read_only: bool,
    #[command(flatten)]
    types: Types,
}

/// Where the types of keys and values are known from: a host keeps none.
#[derive(Args)]
struct Types {
    /// An object that declares the map: its types say how keys and values are read and written
    #[arg(long = "types", value_name = "OBJECT")]
    object: Option<PathBuf>,
    /// What the map is called there, if not as it is called here
    #[arg(long, value_name = "NAME", requires = "object")]
    like: Option<String>,
}

#[derive(Args)]
pub(super) struct Dump {
    /// The map, by its id or its name
    map: String,
    #[command(flatten)]
    types: Types,
}

#[derive(Args)]
pub(super) struct Entry {
    /// The map, by its id or its name
    map: String,
    /// The key, as in scenario files: a number, text, an address, cidr:10.0.0.0/8, hex:00ff, or member=value,member=value
    key: String,
    #[command(flatten)]
    types: Types,
}

#[derive(Args)]
pub(super) struct GetNext {
    /// The map, by its id or its name
    map: String,
    /// The key before, which need not be there any more; none: the first key is printed
    key: Option<String>,
    #[command(flatten)]
    types: Types,
}

#[derive(Args)]
pub(super) struct Update {
    #[command(flatten)]
    entry: Entry,
    /// The value, written as the key is; without --types several members as ["u32:1", "str:x"]
    value: String,
}

impl Entry {
    pub(super) fn map(&self) -> &str {
        &self.map
    }
}

impl Update {
    pub(super) fn map(&self) -> &str {
        &self.entry.map
    }
}

impl Maps {
    pub(super) fn ids(&self) -> impl Iterator<Item = Id> {
        self.maps.iter().map(|map| map.id)
    }
}

fn kind(text: &str) -> Result<MapKind, String> {
    MapKind::from_name(text)
        .ok_or_else(|| format!("kinds are {}", MapKind::ALL.map(MapKind::name).join(", ")))
}

/// Maps.
#[derive(Serialize, JsonSchema)]
pub(super) struct Maps {
    maps: Vec<Row>,
}

#[derive(Serialize, JsonSchema)]
struct Row {
    id: Id,
    name: String,
    kind: &'static str,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    frozen: bool,
    /// Of a ring buffer: bytes that wait.
    entries: u32,
    dropped: u64,
}

/// Entries of a map.
#[derive(Serialize, JsonSchema)]
pub(super) struct Entries {
    map: Id,
    entries: Vec<Pair>,
}

#[derive(Serialize, JsonSchema)]
struct Pair {
    key: Vec<u8>,
    value: Vec<u8>,
    /// Both in the form of their types, where those are known.
    #[serde(skip_serializing_if = "Option::is_none")]
    typed: Option<Typed>,
}

/// Numbers, texts (bytes behind `hex:`), lists, and structures with the names of their members. Of a map with a value for each
/// processor the value is a list of them.
#[derive(Serialize, JsonSchema)]
struct Typed {
    #[schemars(with = "serde_json::Value")]
    key: Tree,
    #[schemars(with = "serde_json::Value")]
    value: Tree,
}

/// A key of a map.
#[derive(Serialize, JsonSchema)]
pub(super) struct Key {
    map: Id,
    key: Vec<u8>,
    /// In the form of its type, where that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<serde_json::Value>")]
    typed: Option<Tree>,
}

/// How the keys and values of a map are read and written.
struct Form {
    map: Id,
    info: MapInfoReply,
    types: Option<object::Map>,
}

impl Types {
    /// The map that the object declares.
    fn declared(&self, name: &str) -> Result<Option<object::Map>, Error> {
        let Some(path) = &self.object else { return Ok(None) };
        let object = Object::read(path)?;
        let name = self.like.as_deref().unwrap_or(name);
        if let Some(map) = object.maps().iter().find(|map| map.name == name) {
            return Ok(Some(map.clone()));
        }
        let known: Vec<_> = object.maps().iter().map(|map| map.name.as_str()).collect();
        let message = format!("{} has no map `{name}`", path.display());
        Err(Error::new("map-unknown", Exit::NotFound, message)
            .with_help(format!("it has {}; --like NAME says which one is meant", known.join(", "))))
    }
}

impl Form {
    /// That of the host's map `name`.
    fn of(client: &mut Client, name: &str, types: &Types) -> Result<Self, Error> {
        let (map, info) = find(client, name)?;
        let types = types.declared(&info.name)?;
        if let Some(declared) = types.as_ref().filter(|declared| declared.def != info.def) {
            let message = format!(
                "the object declares `{}` as {}, the host's map `{name}` is {}",
                declared.name,
                words(&declared.def),
                words(&info.def)
            );
            return Err(Error::usage("map-differs", message));
        }
        Ok(Self { map, info, types })
    }

    fn key(&self, text: &str) -> Result<Vec<u8>, Error> {
        let shape = self.types.as_ref().and_then(|map| map.key.as_ref());
        bytes(text, self.info.def.key_size, shape, "key")
    }

    fn value(&self, text: &str) -> Result<Vec<u8>, Error> {
        let shape = self.types.as_ref().and_then(|map| map.value.as_ref());
        bytes(text, self.info.def.value_size, shape, "value")
    }

    fn pair(&self, key: Vec<u8>, value: Vec<u8>) -> Pair {
        let typed = self.types.as_ref().map(|types| {
            let one = |value: &[u8]| Tree::of(value, types.value.as_ref());
            let each = (self.info.def.value_size as usize).max(1);
            let whole = match self.info.def.kind {
                MapKind::PerCpuArray => Tree::List(value.chunks(each).map(one).collect()),
                _ => one(&value),
            };
            Typed { key: Tree::of(&key, types.key.as_ref()), value: whole }
        });
        Pair { key, value, typed }
    }
}

/// A definition in words.
pub(super) fn words(def: &MapDef) -> String {
    let MapDef { kind, key_size, value_size, max_entries, .. } = def;
    let read_only = if def.read_only() { ", read-only for programs" } else { "" };
    format!("{} of {max_entries}, key {key_size} B, value {value_size} B{read_only}", kind.name())
}

impl Create {
    /// What the arguments and the object say that it is, and which of them says it.
    fn def(&self) -> Result<MapDef, Error> {
        let declared = self.types.declared(&self.name)?.map(|map| map.def);
        let Some(kind) = self.kind.or(declared.map(|def| def.kind)) else {
            return Err(Error::usage("usage", "say what kind of map it is: --kind"));
        };
        let flags = if self.read_only { RDONLY_PROG } else { declared.map_or(0, |def| def.flags) };
        let declared = declared.filter(|def| def.kind == kind);
        let size = |said: Option<u32>, of: fn(MapDef) -> u32| said.or(declared.map(of)).unwrap_or(0);
        let def = MapDef {
            kind,
            key_size: size(self.key.or(kind.key_size()), |def| def.key_size),
            value_size: size(self.value, |def| def.value_size),
            max_entries: size(self.entries, |def| def.max_entries),
            flags,
        };
        def.check().map_err(|wrong| {
            Error::usage(
                "map-definition",
                format!("`{}` can't be {}: {}", self.name, words(&def), wrong.text()),
            )
        })?;
        Ok(def)
    }
}

pub(super) fn create(client: &mut Client, options: &Create) -> Result<Maps, Error> {
    let name = Name::try_from(options.name.as_str()).map_err(|_| {
        let message = format!("the name `{}` is longer than {} bytes", options.name, limits::MAX_NAME);
        Error::usage("name-too-long", message)
    })?;
    let doing = format!("create map `{name}`");
    let request = MapCreate { name, def: options.def()? };
    let map = client.call(&request).map_err(|refused| live::refused(&doing, &refused))?;
    let info = client.call(&MapInfo { map }).map_err(|refused| live::refused(&doing, &refused))?;
    Ok(Maps { maps: vec![Row::new(map, &info)] })
}

impl Row {
    fn new(id: Id, info: &MapInfoReply) -> Self {
        Self {
            id,
            name: info.name.to_string(),
            kind: info.def.kind.name(),
            key_size: info.def.key_size,
            value_size: info.def.value_size,
            max_entries: info.def.max_entries,
            frozen: info.frozen,
            entries: info.entries,
            dropped: info.dropped,
        }
    }
}

pub(super) fn show(client: &mut Client) -> Result<Maps, Error> {
    Ok(Maps { maps: all(client)?.iter().map(|(id, info)| Row::new(*id, info)).collect() })
}

pub(super) fn dump(client: &mut Client, options: &Dump) -> Result<Entries, Error> {
    let form = Form::of(client, &options.map, &options.types)?;
    if form.info.def.kind == MapKind::RingBuf {
        let message = format!("map `{}` is a ring buffer: it has no entries", options.map);
        return Err(Error::usage("map-kind", message).with_help("`tidegate event` takes its records"));
    }
    let refused = |refused: Refused| live::refused(&format!("dump map `{}`", options.map), &refused);
    let mut entries = Vec::new();
    for key in client.keys(form.map).map_err(refused)? {
        match client.call_bytes(&MapLookup { map: form.map, key: &key }) {
            Ok(value) => entries.push(form.pair(key, value)),
            // A program deleted it meanwhile.
            Err(refused) if refused.status == Status::NotFound => {}
            Err(other) => return Err(refused(other)),
        }
    }
    Ok(Entries { map: form.map, entries })
}

pub(super) fn lookup(client: &mut Client, entry: &Entry) -> Result<Entries, Error> {
    let form = Form::of(client, &entry.map, &entry.types)?;
    let key = form.key(&entry.key)?;
    let value = client
        .call_bytes(&MapLookup { map: form.map, key: &key })
        .map_err(|refused| live::refused(&format!("look up `{}`", entry.key), &refused))?;
    Ok(Entries { map: form.map, entries: vec![form.pair(key, value)] })
}

pub(super) fn get_next(client: &mut Client, options: &GetNext) -> Result<Key, Error> {
    let form = Form::of(client, &options.map, &options.types)?;
    let before = options.key.as_deref().map(|key| form.key(key)).transpose()?;
    let next = client.call_bytes(&MapNextKey { map: form.map, key: before.as_deref() });
    let key = next.map_err(|refused| match refused.status {
        Status::NotFound => {
            let message = match &options.key {
                Some(key) => format!("no key of map `{}` follows `{key}`", options.map),
                None => format!("map `{}` has no keys", options.map),
            };
            Error::new("not-found", Exit::NotFound, message)
        }
        _ => live::refused(&format!("ask map `{}` for a key", options.map), &refused),
    })?;
    let typed = form.types.as_ref().map(|types| Tree::of(&key, types.key.as_ref()));
    Ok(Key { map: form.map, key, typed })
}

pub(super) fn update(client: &mut Client, options: &Update) -> Result<Done, Error> {
    let Update { entry, value } = options;
    let form = Form::of(client, &entry.map, &entry.types)?;
    let (key, value) = (form.key(&entry.key)?, form.value(value)?);
    client
        .call(&MapUpdate { map: form.map, key: &key, value: &value, flags: 0 })
        .map_err(|refused| live::refused(&format!("update `{}`", entry.key), &refused))?;
    Ok(Done {})
}

pub(super) fn delete(client: &mut Client, entry: &Entry) -> Result<Done, Error> {
    let form = Form::of(client, &entry.map, &entry.types)?;
    deletable(&entry.map, form.info.def.kind)?;
    client
        .call(&MapDelete { map: form.map, key: &form.key(&entry.key)? })
        .map_err(|refused| live::refused(&format!("delete `{}`", entry.key), &refused))?;
    Ok(Done {})
}

/// That maps of this kind have entries that come and go.
fn deletable(map: &str, kind: MapKind) -> Result<(), Error> {
    let (what, help) = match kind {
        MapKind::Array | MapKind::PerCpuArray => (
            "an array: its entries are always there, and can't be deleted",
            "set it to 0: `tidegate map update MAP KEY 0`",
        ),
        MapKind::RingBuf => ("a ring buffer: it has no entries", "`tidegate event` takes its records"),
        _ => return Ok(()),
    };
    Err(Error::usage("map-kind", format!("map `{map}` is {what}")).with_help(help))
}

pub(super) fn freeze(client: &mut Client, text: &str) -> Result<Done, Error> {
    let (map, _) = find(client, text)?;
    client
        .call(&MapFreeze { map })
        .map_err(|refused| live::refused(&format!("freeze map `{text}`"), &refused))?;
    Ok(Done {})
}

pub(super) fn release(client: &mut Client, text: &str) -> Result<Done, Error> {
    let (map, _) = find(client, text)?;
    client.call(&MapRelease { map }).map_err(|refused| {
        let error = live::refused(&format!("release map `{text}`"), &refused);
        // It was found a moment ago: only programs have it.
        if refused.status == Status::NotFound {
            return Error::usage("map-programs", format!("map `{text}` is its programs' alone"))
                .with_help("it goes with the last of them: `tidegate prog unload`");
        }
        error
    })?;
    Ok(Done {})
}

fn bytes(text: &str, size: u32, shape: Option<&Shape>, what: &str) -> Result<Vec<u8>, Error> {
    literal::typed(text)
        .and_then(|value| literal::data(&value, size as usize, shape))
        .map_err(|error| Error::usage("map-data", format!("{what} `{text}`: {error}")))
}

pub(super) fn all(client: &mut Client) -> Result<Vec<(Id, MapInfoReply)>, Error> {
    let ids =
        client.ids(|after| MapList { after }).map_err(|refused| live::refused("list maps", &refused))?;
    let mut maps = Vec::new();
    for id in ids {
        match client.call(&MapInfo { map: id }) {
            Ok(info) => maps.push((id, info)),
            // It went meanwhile.
            Err(refused) if refused.status == Status::NotFound => {}
            Err(refused) => return Err(live::refused("show a map", &refused)),
        }
    }
    Ok(maps)
}

pub(super) fn find(client: &mut Client, text: &str) -> Result<(Id, MapInfoReply), Error> {
    let maps = all(client)?;
    let id = live::named("map", text, maps.iter().map(|(id, info)| (*id, info.name.as_str())))?;
    maps.into_iter()
        .find(|(found, _)| *found == id)
        .ok_or_else(|| Error::usage("not-found", "it went meanwhile"))
}

impl Report for Maps {}

impl fmt::Display for Maps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for map in &self.maps {
            let Row { id, name, kind, key_size, value_size, max_entries, .. } = map;
            write!(f, "{id}: {name}  {kind}  key {key_size} B  value {value_size} B  ")?;
            write!(f, "{} of {max_entries} entries", map.entries)?;
            if map.dropped > 0 {
                write!(f, "  {} records dropped", map.dropped)?;
            }
            writeln!(f, "{}", if map.frozen { "  frozen" } else { "" })?;
        }
        writeln!(f, "{}", crate::tally::count(self.maps.len(), "map"))
    }
}

impl Report for Key {}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.typed {
            Some(key) => writeln!(f, "{key}"),
            None => writeln!(f, "{}", literal::show(&self.key)),
        }
    }
}

impl Report for Entries {}

impl fmt::Display for Entries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Pair { key, value, typed } in &self.entries {
            match typed {
                Some(Typed { key, value }) => writeln!(f, "{key}: {value}")?,
                None => writeln!(f, "{}: {}", literal::show(key), literal::show(value))?,
            }
        }
        let many = if self.entries.len() == 1 { "entry" } else { "entries" };
        writeln!(f, "{} {many}", self.entries.len())
    }
}

//! `tidegate map show|dump|lookup|update|delete`.

use std::fmt;

use clap::{Args, Subcommand};
use schemars::JsonSchema;
use serde::Serialize;
use tidegate_abi::MapKind;
use tidegate_abi::control::{Id, MapDelete, MapInfo, MapInfoReply, MapList, MapLookup, MapUpdate, Status};

use super::{Done, Report, live};
use crate::client::Client;
use crate::error::Error;
use crate::run::value_of;
use crate::scenario::literal;

#[derive(Subcommand)]
pub(super) enum Verb {
    /// Show the maps that the host has
    Show,
    /// Print every entry of a map
    Dump {
        /// The map, by its id or its name
        map: String,
    },
    /// Print the value of one key
    Lookup(Entry),
    /// Set the value of a key
    Update(Update),
    /// Delete a key
    Delete(Entry),
}

#[derive(Args)]
pub(super) struct Entry {
    /// The map, by its id or its name
    map: String,
    /// The key, as in scenario files: a number, text, an address, or hex:00ff
    key: String,
}

#[derive(Args)]
pub(super) struct Update {
    #[command(flatten)]
    entry: Entry,
    /// The value, written as the key is; several members as ["u32:1", "str:x"]
    value: String,
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
}

pub(super) fn show(client: &mut Client) -> Result<Maps, Error> {
    let maps = all(client)?.into_iter().map(|(id, info)| Row {
        id,
        name: info.name.to_string(),
        kind: info.def.kind.name(),
        key_size: info.def.key_size,
        value_size: info.def.value_size,
        max_entries: info.def.max_entries,
        frozen: info.frozen,
        entries: info.entries,
        dropped: info.dropped,
    });
    Ok(Maps { maps: maps.collect() })
}

pub(super) fn dump(client: &mut Client, map: &str) -> Result<Entries, Error> {
    let (id, info) = find(client, map)?;
    if info.def.kind == MapKind::RingBuf {
        return Err(Error::usage("map-kind", format!("map `{map}` is a ring buffer: it has no entries")));
    }
    let keys = client.keys(id).map_err(|refused| live::refused(&format!("dump map `{map}`"), &refused))?;
    let mut entries = Vec::new();
    for key in keys {
        match client.call_bytes(&MapLookup { map: id, key: &key }) {
            Ok(value) => entries.push(Pair { key, value }),
            // A program deleted it meanwhile.
            Err(refused) if refused.status == Status::NotFound => {}
            Err(refused) => return Err(live::refused(&format!("dump map `{map}`"), &refused)),
        }
    }
    Ok(Entries { map: id, entries })
}

pub(super) fn lookup(client: &mut Client, entry: &Entry) -> Result<Entries, Error> {
    let (map, info) = find(client, &entry.map)?;
    let key = bytes(&entry.key, info.def.key_size, "key")?;
    let value = client
        .call_bytes(&MapLookup { map, key: &key })
        .map_err(|refused| live::refused(&format!("look up `{}`", entry.key), &refused))?;
    Ok(Entries { map, entries: vec![Pair { key, value }] })
}

pub(super) fn update(client: &mut Client, options: &Update) -> Result<Done, Error> {
    let Update { entry, value } = options;
    let (map, info) = find(client, &entry.map)?;
    let key = bytes(&entry.key, info.def.key_size, "key")?;
    let value = bytes(value, info.def.value_size, "value")?;
    client
        .call(&MapUpdate { map, key: &key, value: &value, flags: 0 })
        .map_err(|refused| live::refused(&format!("update `{}`", entry.key), &refused))?;
    Ok(Done {})
}

pub(super) fn delete(client: &mut Client, entry: &Entry) -> Result<Done, Error> {
    let (map, info) = find(client, &entry.map)?;
    let key = bytes(&entry.key, info.def.key_size, "key")?;
    client
        .call(&MapDelete { map, key: &key })
        .map_err(|refused| live::refused(&format!("delete `{}`", entry.key), &refused))?;
    Ok(Done {})
}

fn bytes(text: &str, size: u32, what: &str) -> Result<Vec<u8>, Error> {
    literal::data(&value_of(text)?, size as usize, None)
        .map_err(|error| Error::usage("map-data", format!("{what} `{text}`: {error}")))
}

pub(super) fn all(client: &mut Client) -> Result<Vec<(Id, MapInfoReply)>, Error> {
    let ids = live::all_ids(|after| client.call(&MapList { after }));
    let ids = ids.map_err(|refused| live::refused("list maps", &refused))?;
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

impl Report for Entries {}

impl fmt::Display for Entries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Pair { key, value } in &self.entries {
            writeln!(f, "{}: {}", literal::show(key), literal::show(value))?;
        }
        let many = if self.entries.len() == 1 { "entry" } else { "entries" };
        writeln!(f, "{} {many}", self.entries.len())
    }
}

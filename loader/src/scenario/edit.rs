//! Changes what a scenario file expects, and nothing else of it: comments, order and layout stay.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use tidegate_abi::Verdict;
use toml_edit::{Array, DocumentMut, InlineTable, Item, Table, TableLike, Value};

use super::{literal, write};
use crate::flows::Direction;

/// What would have to be expected instead of what is.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// The policy resets the connection, or does not.
    Connection {
        /// Whether it does.
        dropped: bool,
    },
    /// What one direction delivers in all.
    Whole(Direction, Delivered),
    /// Texts that don't occur, and texts that occur: by their places in the lists.
    Texts {
        /// Of this direction.
        direction: Direction,
        /// Places in the list of those that must occur.
        contains: Vec<usize>,
        /// Places in the list of those that must not.
        lacks: Vec<usize>,
        /// What is delivered, for when no text is left.
        delivered: Delivered,
    },
    /// The kinds of verdict.
    Verdicts(Vec<Verdict>),
    /// No run fails.
    NoErrors,
    /// The records of a ring buffer that are others, by their places, and how many there are.
    Events {
        /// The ring buffer.
        map: String,
        /// All records.
        records: Vec<Vec<u8>>,
    },
    /// An entry of a map.
    Entry {
        /// The map.
        map: String,
        /// The key, as it was written.
        key: String,
        /// Its value; none: it is not there.
        value: Option<toml::Value>,
    },
    /// What becomes of a packet.
    Packet {
        /// Its step, from 0.
        step: usize,
        /// What becomes of it.
        became: Became,
    },
    /// How many packets were `sent`, `blocked` or `changed`.
    Total(&'static str, u64),
}

/// What one direction delivers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delivered {
    /// What was put in.
    Unchanged,
    /// These bytes.
    Bytes(Vec<u8>),
}

/// What becomes of a packet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Became {
    /// It does not leave.
    pub blocked: bool,
    /// It leaves with this payload, which is another one.
    pub payload: Option<Vec<u8>>,
    /// It leaves for there, and was sent elsewhere.
    pub leaves_for: Option<SocketAddr>,
    /// It leaves with this type of service.
    pub tos: Option<u8>,
}

/// A scenario file that is being changed.
#[derive(Clone, Debug)]
pub struct Editor {
    document: DocumentMut,
    folder: PathBuf,
    /// What was changed: scenario and key.
    changed: BTreeSet<(usize, String)>,
}

impl Editor {
    /// The scenario file `text` in this folder; none where writing it unchanged would change a byte.
    pub fn new(text: &str, folder: &Path) -> Option<Self> {
        let document: DocumentMut = text.parse().ok()?;
        let editor = Self { document, folder: folder.into(), changed: BTreeSet::new() };
        (editor.text() == text).then_some(editor)
    }

    /// The file as it is now.
    pub fn text(&self) -> String {
        self.document.to_string()
    }

    /// How many expectations were changed.
    pub fn expectations(&self) -> usize {
        self.changed.len()
    }

    /// Changes an expectation of the scenario at this place of the file, from 0. Nothing: the file has no such place.
    pub fn apply(&mut self, scenario: usize, change: &Change) -> Option<()> {
        let folder = self.folder.clone();
        let key = match change {
            Change::Connection { dropped } => {
                let state = if *dropped { "\"dropped\"" } else { "\"open\"" };
                set(self.expect(scenario)?, "connection", state)?
            }
            Change::Whole(direction, delivered) => {
                whole(self.expect(scenario)?, *direction, delivered, &folder)?
            }
            Change::Texts { direction, contains, lacks, delivered } => {
                let expect = self.expect(scenario)?;
                let mut left = 0;
                for (list, gone) in [("contains", contains), ("lacks", lacks)] {
                    let key = format!("{}_{list}", name(*direction));
                    let Some(array) = fields(expect)?.get_mut(&key).and_then(Item::as_array_mut) else {
                        continue;
                    };
                    gone.iter().rev().for_each(|at| take_item(array, *at));
                    left += array.len();
                    if array.is_empty() {
                        remove(expect, &key)?;
                    }
                }
                if left == 0 {
                    whole(expect, *direction, delivered, &folder)?;
                }
                format!("{} texts", name(*direction))
            }
            Change::Verdicts(verdicts) => {
                let names: Vec<_> = verdicts.iter().map(|verdict| write::quoted(verdict.name())).collect();
                set(self.expect(scenario)?, "verdicts", &write::list(&names, 0))?
            }
            Change::NoErrors => set(self.expect(scenario)?, "errors", "0")?,
            Change::Events { map, records } => {
                let events = within_or_new(self.expect(scenario)?, "events")?;
                if !fields(events)?.contains_key(map) {
                    let told: Vec<_> =
                        records.iter().map(|record| write::quoted(&write::record(record))).collect();
                    set(events, map, &write::list(&told, 0))?;
                }
                let array = fields(events)?.get_mut(map).and_then(Item::as_array_mut)?;
                let starts = |text: &str, record: &[u8]| {
                    let start = super::event(text).unwrap_or_else(|| literal::bytes(text, &folder));
                    start.is_ok_and(|start| record.starts_with(&start))
                };
                for (at, record) in records.iter().enumerate() {
                    let told = write::quoted(&write::record(record));
                    match array.get_mut(at) {
                        Some(old) if old.as_str().is_some_and(|text| starts(text, record)) => {}
                        Some(old) => replace(old, &told)?,
                        None => array.push(told.parse::<Value>().ok()?),
                    }
                }
                while array.len() > records.len() {
                    take_item(array, array.len() - 1);
                }
                format!("events.{map}")
            }
            Change::Entry { map, key, value } => {
                let maps = within_or_new(self.expect(scenario)?, "maps")?;
                if !fields(maps)?.contains_key(map) {
                    set(maps, map, "{}")?;
                }
                let entries = within(maps, map)?;
                match (fields(entries)?.get_mut(key), value) {
                    (Some(entry), None) => replace(entry.as_value_mut()?, "\"absent\"")?,
                    (Some(entry), Some(value)) => rewrite(entry, value)?,
                    (None, value) => {
                        let value = value.as_ref().map_or("\"absent\"".into(), write::toml);
                        set(entries, key, &value)?;
                    }
                }
                format!("maps.{map}.{key}")
            }
            Change::Packet { step, became } => {
                let step_item = self.step(scenario, *step)?;
                packet(step_item, became, &folder)?;
                format!("step {step}")
            }
            Change::Total(what, count) => {
                let packets = within(self.expect(scenario)?, "packets")?;
                set(packets, what, &count.to_string())?;
                format!("packets.{what}")
            }
        };
        self.changed.insert((scenario, key));
        Some(())
    }

    fn scenario(&mut self, at: usize) -> Option<&mut dyn TableLike> {
        match self.document.get_mut("scenario")? {
            Item::ArrayOfTables(tables) => tables.get_mut(at).map(|table| -> &mut dyn TableLike { table }),
            Item::Value(Value::Array(tables)) => {
                tables.get_mut(at)?.as_inline_table_mut().map(|table| -> &mut dyn TableLike { table })
            }
            _ => None,
        }
    }

    /// What a scenario expects; made when nothing was said.
    fn expect(&mut self, at: usize) -> Option<&mut Item> {
        let scenario = self.scenario(at)?;
        if !scenario.contains_key("expect") {
            let mut table = Table::new();
            table.decor_mut().set_prefix("");
            scenario.insert("expect", Item::Table(table));
        }
        scenario.get_mut("expect")
    }

    fn step(&mut self, scenario: usize, at: usize) -> Option<&mut InlineTable> {
        let steps = self.scenario(scenario)?.get_mut("steps")?.as_array_mut()?;
        steps.get_mut(at)?.as_inline_table_mut()
    }
}

/// What a direction is called in an expectation.
pub fn name(direction: Direction) -> &'static str {
    match direction {
        Direction::Outbound => "sent",
        Direction::Inbound => "received",
    }
}

fn fields(item: &mut Item) -> Option<&mut dyn TableLike> {
    item.as_table_like_mut()
}

fn within<'a>(item: &'a mut Item, key: &str) -> Option<&'a mut Item> {
    fields(item)?.get_mut(key)
}

/// The same; a table that is not there is made, and its keys stand as `key.name = ..`.
fn within_or_new<'a>(item: &'a mut Item, key: &str) -> Option<&'a mut Item> {
    if !fields(item)?.contains_key(key) {
        if let Item::Value(Value::InlineTable(inline)) = item {
            append(inline, key, "{}")?;
        } else {
            let mut table = Table::new();
            table.set_dotted(true);
            fields(item)?.insert(key, Item::Table(table));
        }
    }
    within(item, key)
}

/// Puts `toml` in the place of a value. What stands around it, a comment too, stays.
fn replace(old: &mut Value, toml: &str) -> Option<()> {
    let decor = old.decor().clone();
    *old = toml.parse().ok()?;
    *old.decor_mut() = decor;
    Some(())
}

/// Sets a key of a table, written in either way; says which.
fn set(table: &mut Item, key: &str, toml: &str) -> Option<String> {
    if let Some(old) = fields(table)?.get_mut(key) {
        replace(old.as_value_mut()?, toml)?;
    } else if let Item::Value(Value::InlineTable(inline)) = table {
        append(inline, key, toml)?;
    } else {
        let mut value: Value = toml.parse().ok()?;
        *value.decor_mut() = toml_edit::Decor::new(" ", "");
        fields(table)?.insert(key, Item::Value(value));
    }
    Some(key.into())
}

/// Takes a key out of a table, written in either way.
fn remove(table: &mut Item, key: &str) -> Option<()> {
    match table {
        Item::Value(Value::InlineTable(inline)) => take(inline, key),
        other => drop(fields(other)?.remove(key)),
    }
    Some(())
}

/// Adds a key at the end of `{ .. }`. The space before the brace stays there.
fn append(table: &mut InlineTable, key: &str, toml: &str) -> Option<()> {
    let mut value: Value = toml.parse().ok()?;
    let last = table.iter_mut().last().map(|(_, last)| last);
    let end = match last {
        Some(last) => {
            let end = last.decor().suffix().cloned().unwrap_or_else(|| " ".into());
            last.decor_mut().set_suffix("");
            end
        }
        None => " ".into(),
    };
    value.decor_mut().set_prefix(" ");
    value.decor_mut().set_suffix(end);
    table.insert(key, value);
    Some(())
}

/// Takes a key out of `{ .. }`. The space before the brace stays there.
fn take(table: &mut InlineTable, key: &str) {
    let is_last = table.iter().last().is_some_and(|(last, _)| last == key);
    let end = table.remove(key).and_then(|gone| gone.decor().suffix().cloned());
    let last = table.iter_mut().last().map(|(_, last)| last);
    if let (true, Some(end), Some(last)) = (is_last, end, last) {
        last.decor_mut().set_suffix(end);
    }
}

/// Takes an item out of a list; the space behind the bracket stays there.
fn take_item(array: &mut Array, at: usize) {
    let prefix = array.get(at).and_then(|item| item.decor().prefix().cloned());
    if at < array.len() {
        array.remove(at);
    }
    if let (0, Some(prefix), Some(first)) = (at, prefix, array.get_mut(0)) {
        first.decor_mut().set_prefix(prefix);
    }
}

/// Writes a value of a map in the place of another: member by member where both have members.
fn rewrite(old: &mut Item, new: &toml::Value) -> Option<()> {
    match (new, old) {
        (toml::Value::Table(members), old) if old.is_table_like() => {
            for (name, member) in members {
                match fields(old)?.get_mut(name) {
                    Some(old) => rewrite(old, member)?,
                    None => drop(set(old, name, &write::toml(member))?),
                }
            }
            Some(())
        }
        (toml::Value::Array(items), Item::Value(Value::Array(array))) if items.len() == array.len() => {
            for (old, new) in array.iter_mut().zip(items) {
                replace(old, &write::toml(new))?;
            }
            Some(())
        }
        (new, Item::Value(value)) => replace(value, &write::toml(new)),
        _ => None,
    }
}

/// Says what a direction delivers in all. Of a list of pieces those stay that still occur, in their order.
fn whole(expect: &mut Item, direction: Direction, delivered: &Delivered, folder: &Path) -> Option<String> {
    let key = name(direction);
    let bytes = match delivered {
        Delivered::Unchanged => return set(expect, key, "\"unchanged\""),
        Delivered::Bytes(bytes) if bytes.is_empty() => return set(expect, key, "\"nothing\""),
        Delivered::Bytes(bytes) => bytes,
    };
    match fields(expect)?.get_mut(key).and_then(Item::as_value_mut) {
        Some(old) => rewrite_bytes(old, bytes, 0, folder)?,
        None => drop(set(expect, key, &write::bytes(bytes, 0))?),
    }
    Some(key.into())
}

/// Writes bytes in the place of others: a text that was one stays one, a list keeps the pieces that still occur.
fn rewrite_bytes(old: &mut Value, bytes: &[u8], indent: usize, folder: &Path) -> Option<()> {
    if let Some(array) = old.as_array_mut()
        && keep_pieces(array, bytes, folder).is_some()
    {
        return Some(());
    }
    match &write::long_pieces(bytes)[..] {
        [one] if old.is_str() => replace(old, &write::quoted(one)),
        _ => replace(old, &write::bytes(bytes, indent)),
    }
}

/// A piece in the middle that is shorter may occur anywhere.
const TELLING: usize = 8;

fn keep_pieces(array: &mut Array, bytes: &[u8], folder: &Path) -> Option<()> {
    let mut old = Vec::new();
    for piece in array.iter() {
        old.push((piece.clone(), literal::bytes(piece.as_str()?, folder).ok()?));
    }
    // Pieces that stay, with their places: at the start, at the end, and between.
    let (mut kept, mut at_end) = (Vec::new(), Vec::new());
    let (mut from, mut to) = (0, bytes.len());
    let (mut first, mut last) = (0, old.len());
    while first < last && bytes[from..to].starts_with(&old[first].1) {
        kept.push((first, from));
        from += old[first].1.len();
        first += 1;
    }
    while first < last && bytes[from..to].ends_with(&old[last - 1].1) {
        last -= 1;
        to -= old[last].1.len();
        at_end.push((last, to));
    }
    for (number, (_, piece)) in old.iter().enumerate().take(last).skip(first) {
        let found = bytes[from..to].windows(piece.len().max(TELLING)).position(|there| there == piece);
        if let Some(at) = found {
            kept.push((number, from + at));
            from += at + piece.len();
        }
    }
    kept.extend(at_end.into_iter().rev());
    if kept.is_empty() {
        return None;
    }
    let (mut next, mut from) = (0, 0);
    let mut pieces = Vec::new();
    kept.push((old.len(), bytes.len()));
    for (number, at) in kept {
        // What is new stands as what was in its place; a comment is not said twice.
        let look = old.get(next).or(old.last()).map(|(piece, _)| piece.decor().clone()).unwrap_or_default();
        let prefix = look.prefix().and_then(|prefix| prefix.as_str()).unwrap_or(" ");
        let line = prefix.rfind('\n').map_or(" ", |end| &prefix[end..]);
        for (count, piece) in write::long_pieces(&bytes[from..at]).iter().enumerate() {
            let mut value: Value = write::quoted(piece).parse().ok()?;
            let is_first = count == 0 && next < old.len();
            *value.decor_mut() = if is_first { look.clone() } else { toml_edit::Decor::new(line, "") };
            pieces.push(value);
        }
        if let Some((piece, length)) = old.get(number).map(|(value, bytes)| (value, bytes.len())) {
            pieces.push(piece.clone());
            from = at + length;
        }
        next = number + 1;
    }
    array.clear();
    pieces.into_iter().for_each(|piece| array.push_formatted(piece));
    Some(())
}

fn packet(step: &mut InlineTable, became: &Became, folder: &Path) -> Option<()> {
    match (step.get_mut("becomes"), &became.payload) {
        (Some(old), Some(payload)) => rewrite_bytes(old, payload, 4, folder)?,
        (Some(_), None) => take(step, "becomes"),
        (None, Some(payload)) => append(step, "becomes", &write::bytes(payload, 4))?,
        (None, None) => {}
    }
    let told = [
        ("is", became.blocked.then(|| "\"blocked\"".to_string())),
        ("leaves_for", became.leaves_for.map(|remote| write::quoted(&remote.to_string()))),
        ("tos", became.tos.map(|tos| tos.to_string())),
    ];
    for (key, told) in told {
        match (step.get_mut(key), told) {
            (Some(old), Some(told)) => replace(old, &told)?,
            (None, Some(told)) => append(step, key, &told)?,
            (Some(_), None) => take(step, key),
            (None, None) => {}
        }
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"# Before all.
objects = ["a.o"]   # builds

[[scenario]]  # the first
name = "one"
steps = [
    # a comment inside
    { send = "abc" }, # behind a step
]

# About the second.
[[scenario]]
name = "two"
steps = [
    { udp = "a" },
    { udp = "b", is = "blocked" },   # refused
    { udp = "c", becomes = "d", to = "192.0.2.1:5" },
]
[scenario.expect]
sent = [
    "GET / HTTP/1.1\r\n",  # the request
    "X-Via: 1\r\n",        # what is added
    "\r\n",
]
received_contains = ["a", "b"]
maps.counts = { 0 = 3, "example.org" = "absent" } # counted
maps.rules = { a = { to = "x",  hits = 1 } }
events = { log = ["str:a", "hex:00"] }
packets = { sent = 1 }
"#;

    /// The lines that a change takes out of the file, and those that it puts in.
    fn changed(scenario: usize, changes: &[Change]) -> (Vec<String>, Vec<String>) {
        let mut editor = Editor::new(FILE, Path::new(".")).expect("it stays as it is");
        for change in changes {
            editor.apply(scenario, change).expect("it can be changed");
        }
        let text = editor.text();
        let _: toml::Table = text.parse().expect("TOML");
        let hunks = crate::test::diff(FILE, &text);
        let of = |lines: fn(&crate::test::Hunk) -> &[String]| {
            hunks.iter().flat_map(|hunk| lines(hunk).to_vec()).collect()
        };
        (of(|hunk| &hunk.was), of(|hunk| &hunk.now))
    }

    fn bytes(text: &str) -> Delivered {
        Delivered::Bytes(text.into())
    }

    #[test]
    fn a_change_changes_its_line_and_nothing_else() {
        for (change, was, now) in [
            (
                Change::Entry { map: "counts".into(), key: "0".into(), value: Some(4.into()) },
                r#"maps.counts = { 0 = 3, "example.org" = "absent" } # counted"#,
                r#"maps.counts = { 0 = 4, "example.org" = "absent" } # counted"#,
            ),
            (
                Change::Entry {
                    map: "rules".into(),
                    key: "a".into(),
                    value: Some(toml::Value::Table("hits = 2\nto = \"x\"".parse().unwrap())),
                },
                r#"maps.rules = { a = { to = "x",  hits = 1 } }"#,
                r#"maps.rules = { a = { to = "x",  hits = 2 } }"#,
            ),
            (
                Change::Events { map: "log".into(), records: vec![b"abc".into(), b"x".into(), vec![1, 0]] },
                r#"events = { log = ["str:a", "hex:00"] }"#,
                r#"events = { log = ["str:a", "str:x", "hex:01"] }"#,
            ),
            (Change::Total("sent", 2), "packets = { sent = 1 }", "packets = { sent = 2 }"),
            (Change::Total("blocked", 1), "packets = { sent = 1 }", "packets = { sent = 1, blocked = 1 }"),
            (
                Change::Packet {
                    step: 0,
                    became: Became { payload: Some(b"z".into()), tos: Some(4), ..Became::default() },
                },
                r#"    { udp = "a" },"#,
                r#"    { udp = "a", becomes = "z", tos = 4 },"#,
            ),
            (
                Change::Packet { step: 1, became: Became::default() },
                r#"    { udp = "b", is = "blocked" },   # refused"#,
                r#"    { udp = "b" },   # refused"#,
            ),
            (
                Change::Packet { step: 2, became: Became { blocked: true, ..Became::default() } },
                r#"    { udp = "c", becomes = "d", to = "192.0.2.1:5" },"#,
                r#"    { udp = "c", to = "192.0.2.1:5", is = "blocked" },"#,
            ),
            (
                Change::Whole(Direction::Outbound, bytes("GET / HTTP/1.1\r\nX-Via: 2\r\n\r\n")),
                r#"    "X-Via: 1\r\n",        # what is added"#,
                r#"    "X-Via: 2\r\n",        # what is added"#,
            ),
            (
                Change::Texts {
                    direction: Direction::Inbound,
                    contains: vec![0],
                    lacks: vec![],
                    delivered: Delivered::Unchanged,
                },
                r#"received_contains = ["a", "b"]"#,
                r#"received_contains = ["b"]"#,
            ),
        ] {
            let (before, after) = changed(1, &[change]);
            assert_eq!((before, after), (vec![was.to_string()], vec![now.to_string()]));
        }
    }

    #[test]
    fn what_a_scenario_did_not_say_is_added_below_it() {
        let (was, now) = changed(
            0,
            &[Change::Connection { dropped: true }, Change::Whole(Direction::Inbound, bytes("a\u{1}"))],
        );
        assert_eq!(was, Vec::<String>::new());
        assert_eq!(now, ["[scenario.expect]", r#"connection = "dropped""#, r#"received = "hex:61 01""#]);
    }

    #[test]
    fn when_no_text_is_left_the_bytes_are_said() {
        let change = Change::Texts {
            direction: Direction::Inbound,
            contains: vec![0, 1],
            lacks: vec![],
            delivered: bytes("xyz"),
        };
        let (was, now) = changed(1, &[change]);
        assert_eq!(was, [r#"received_contains = ["a", "b"]"#]);
        assert_eq!(now, [r#"received = "xyz""#]);
    }

    #[test]
    fn a_file_that_would_not_stay_as_it_is_is_not_touched() {
        assert!(Editor::new(FILE, Path::new(".")).is_some());
        assert!(Editor::new("[[scenario", Path::new(".")).is_none());
    }
}

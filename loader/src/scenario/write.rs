//! Bytes and values in the words of a scenario file: what [`super::literal`] reads, written for people to read.

use std::fmt::Write as _;
use std::net::IpAddr;

use toml::Value;

use super::literal::{self, Tree, data, is_readable};
use crate::btf::Shape;

/// Bytes that look like text and are fewer than this, amid others that don't, are no text.
const SHORTEST_TEXT: usize = 4;
/// So many times the same byte are written as a number.
const SHORTEST_FILL: usize = 24;
/// Bytes that one line shows as hex digits.
const HEX_LINE: usize = 24;
/// Columns of a value on one line.
const WIDTH: usize = 100;

/// `bytes` as texts that stand for them, put end to end: a long text line by line.
pub fn pieces(bytes: &[u8]) -> Vec<String> {
    split(bytes, lines)
}

/// The same, but every text in one piece: for where somebody wrote it so.
pub fn long_pieces(bytes: &[u8]) -> Vec<String> {
    split(bytes, |text| vec![itself(&String::from_utf8_lossy(text))])
}

fn split(bytes: &[u8], lines: impl Fn(&[u8]) -> Vec<String>) -> Vec<String> {
    if let Some(question) = question(bytes) {
        return question;
    }
    let all = bytes.iter().copied().all(is_readable);
    let mut pieces = Vec::new();
    let mut rest = bytes;
    let mut other = 0;
    loop {
        let ahead = rest.get(other..).unwrap_or_default();
        let same = ahead.iter().take_while(|byte| Some(*byte) == ahead.first()).count();
        let text = ahead.iter().take_while(|byte| is_readable(**byte)).count();
        let is_fill = same >= SHORTEST_FILL && ahead[0].is_ascii();
        let is_text = text >= SHORTEST_TEXT || (all && text > 0);
        if !is_fill && !is_text && !ahead.is_empty() {
            other += 1;
            continue;
        }
        pieces.extend(rest[..other].chunks(HEX_LINE).map(spaced));
        rest = ahead;
        other = 0;
        if is_fill {
            pieces.push(format!("fill:{same}:{}", char::from(rest[0])));
            rest = &rest[same..];
        } else if is_text {
            // A text ends before a long fill.
            let fill =
                rest[..text].windows(SHORTEST_FILL).position(|some| some.iter().all(|byte| *byte == some[0]));
            let (now, behind) = rest.split_at(fill.unwrap_or(text));
            pieces.extend(lines(now));
            rest = behind;
        } else {
            return pieces;
        }
    }
}

/// A text, in one piece when it is short and otherwise line by line.
fn lines(text: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(text);
    let lines: Vec<&str> =
        if text.len() <= WIDTH { vec![&text] } else { text.split_inclusive('\n').collect() };
    lines.into_iter().map(itself).collect()
}

/// A text that looks like something else says that it is one.
fn itself(text: &str) -> String {
    let prefixed = text.split_once(':').is_some_and(|(prefix, _)| literal::PREFIXES.contains(&prefix));
    if prefixed || matches!(text, "unchanged" | "nothing") { format!("text:{text}") } else { text.into() }
}

fn spaced(bytes: &[u8]) -> String {
    let mut text = String::from("hex:");
    for (at, byte) in bytes.iter().enumerate() {
        // Writing to a string can't fail.
        let _ = write!(text, "{}{byte:02x}", if at == 0 { "" } else { " " });
    }
    text
}

/// A DNS message of one question: by its name.
fn question(bytes: &[u8]) -> Option<Vec<String>> {
    let (header, rest) = bytes.split_first_chunk::<12>()?;
    let length = name_length(rest)?;
    let (name, behind) = rest.split_at(length);
    let name = name_of(name)?;
    if header[4..6] != [0, 1] || behind.len() < 4 {
        return None;
    }
    for kind in literal::QUERY_TYPES {
        let whole = format!("dns-query:{name} {kind}");
        if literal::bytes(&whole, std::path::Path::new("")).as_deref() == Ok(bytes) {
            return Some(vec![whole]);
        }
    }
    let behind = behind.chunks(HEX_LINE).map(spaced);
    Some([spaced(header), format!("dns:{name}")].into_iter().chain(behind).collect())
}

/// How long the name is that `bytes` start with; its root included.
fn name_length(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        match *bytes.get(at)? {
            0 => return Some(at + 1),
            length @ 1..=63 => at += 1 + usize::from(length),
            _ => return None,
        }
    }
}

/// The name of these labels, where it can be written so that the same labels come of it.
fn name_of(bytes: &[u8]) -> Option<String> {
    let mut labels = Vec::new();
    let mut rest = bytes;
    while let [length @ 1..=63, behind @ ..] = rest {
        let (label, behind) = behind.split_at_checked(usize::from(*length))?;
        labels.push(
            str::from_utf8(label).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_graphic()))?,
        );
        rest = behind;
    }
    let name = if labels.is_empty() { ".".into() } else { labels.join(".") };
    (literal::labels(&name).as_deref() == Ok(bytes)).then_some(name)
}

/// A record of a ring buffer: how it starts, which is all of it but the zeros at its end.
pub fn record(bytes: &[u8]) -> String {
    let end = bytes.iter().rposition(|byte| *byte != 0).map_or(bytes.len(), |last| last + 1);
    let start = &bytes[..end];
    if start.iter().copied().all(is_readable) {
        return format!("str:{}", String::from_utf8_lossy(start));
    }
    spaced(start)
}

/// The value for these `bytes` of a map, in the form that `before` had as far as it goes; `shape` is its type, where it is known.
pub fn value(bytes: &[u8], shape: Option<&Shape>, before: &Value) -> Value {
    let fits = |value: &Value| data(value, bytes.len(), shape).as_deref() == Ok(bytes);
    let tree = || of_tree(&Tree::of(bytes, shape));
    let by_itself = spaced(bytes);
    [as_before(bytes, shape, before), Some(tree()), Some(Value::String(by_itself.clone()))]
        .into_iter()
        .flatten()
        .find(fits)
        .unwrap_or(Value::String(by_itself))
}

fn as_before(bytes: &[u8], shape: Option<&Shape>, before: &Value) -> Option<Value> {
    match (before, shape) {
        (Value::Table(table), Some(Shape::Struct { members, .. })) => {
            let mut table = table.clone();
            for member in members {
                let at = member.offset as usize;
                let part = bytes.get(at..at + member.shape.size() as usize)?;
                match table.get_mut(&member.name) {
                    Some(value) => *value = part_of(part, Some(&member.shape), value),
                    None if part.iter().all(|byte| *byte == 0) => {}
                    None => {
                        let value = of_tree(&Tree::of(part, Some(&member.shape)));
                        table.insert(member.name.clone(), value);
                    }
                }
            }
            Some(Value::Table(table))
        }
        (Value::Array(items), Some(Shape::Array { element, .. })) => {
            let each = bytes.chunks(element.size().max(1) as usize).zip(items);
            Some(Value::Array(each.map(|(part, item)| part_of(part, Some(element), item)).collect()))
        }
        // Each item says its size.
        (Value::Array(items), _) => {
            let mut rest = bytes;
            let mut list = Vec::new();
            for (at, item) in items.iter().enumerate() {
                let size = literal::size(item.as_str()?)?;
                let size = if at + 1 == items.len() { rest.len() } else { size };
                let (part, behind) = rest.split_at_checked(size)?;
                list.push(part_of(part, None, item));
                rest = behind;
            }
            Some(Value::Array(list))
        }
        (Value::Integer(_) | Value::Boolean(_), _) => Some(Value::Integer(number(bytes)?)),
        (Value::String(text), _) => with_prefix(text.split_once(':')?.0, bytes).map(Value::String),
        _ => None,
    }
}

/// A part of a value: as it was, when it still stands for the same.
fn part_of(bytes: &[u8], shape: Option<&Shape>, before: &Value) -> Value {
    if data(before, bytes.len(), shape).as_deref() == Ok(bytes) {
        return before.clone();
    }
    value(bytes, shape, before)
}

fn number(bytes: &[u8]) -> Option<i64> {
    let known = matches!(bytes.len(), 1 | 2 | 4 | 8);
    i64::try_from(bytes.iter().rev().fold(0_u64, |number, byte| number << 8 | u64::from(*byte)))
        .ok()
        .filter(|_| known)
}

/// `bytes` behind a prefix that was there before.
fn with_prefix(prefix: &str, bytes: &[u8]) -> Option<String> {
    let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    let rest = match prefix {
        "dns" => name_of(bytes.get(..name_length(bytes)?)?)?,
        "str" if bytes[..end].iter().copied().all(is_readable) => {
            String::from_utf8_lossy(&bytes[..end]).into()
        }
        "ip" => match bytes.len() {
            4 => IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?).to_string(),
            16 if bytes[4..].iter().all(|byte| *byte == 0) => {
                IpAddr::from(<[u8; 4]>::try_from(&bytes[..4]).ok()?).to_string()
            }
            _ => IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?).to_string(),
        },
        "u8" | "u16" | "u32" | "u64" | "i8" | "i16" | "i32" | "i64" => number(bytes)?.to_string(),
        "be16" | "be32" | "be64" => number(&bytes.iter().rev().copied().collect::<Vec<_>>())?.to_string(),
        _ => return None,
    };
    Some(format!("{prefix}:{rest}"))
}

fn of_tree(tree: &Tree) -> Value {
    match tree {
        Tree::Number(number) => {
            i64::try_from(*number).map_or_else(|_| Value::String(number.to_string()), Value::Integer)
        }
        Tree::Text(text) => Value::String(text.clone()),
        Tree::List(items) => Value::Array(items.iter().map(of_tree).collect()),
        Tree::Struct(members) => {
            Value::Table(members.iter().map(|(name, member)| (name.clone(), of_tree(member))).collect())
        }
    }
}

/// A TOML string, on one line.
pub fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            '\n' => quoted += "\\n",
            '\r' => quoted += "\\r",
            '\t' => quoted += "\\t",
            c if c.is_control() => quoted += &format!("\\u{:04x}", u32::from(c)),
            c => quoted.push(c),
        }
    }
    quoted + "\""
}

/// The TOML of a list: on one line when it is short, otherwise a line for each item, `indent` columns in.
pub fn list(items: &[String], indent: usize) -> String {
    let line = format!("[{}]", items.join(", "));
    if indent + line.len() <= WIDTH && !line.contains('\n') {
        return line;
    }
    let space = " ".repeat(indent);
    let items: String = items.iter().map(|item| format!("{space}    {item},\n")).collect();
    format!("[\n{items}{space}]")
}

/// The TOML for `bytes`: a text, or a list of them.
pub fn bytes(bytes: &[u8], indent: usize) -> String {
    let pieces: Vec<_> = pieces(bytes).iter().map(|piece| quoted(piece)).collect();
    match &pieces[..] {
        [] => quoted(""),
        [one] => one.clone(),
        several => list(several, indent),
    }
}

/// The TOML of a value.
pub fn toml(value: &Value) -> String {
    match value {
        Value::String(text) => quoted(text),
        Value::Array(items) => format!("[{}]", items.iter().map(toml).collect::<Vec<_>>().join(", ")),
        Value::Table(members) => {
            let members = members.iter().map(|(name, member)| format!("{} = {}", key(name), toml(member)));
            format!("{{ {} }}", members.collect::<Vec<_>>().join(", "))
        }
        other => other.to_string(),
    }
}

/// A key, in quotes where TOML wants them.
pub fn key(name: &str) -> String {
    let bare = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    if !name.is_empty() && name.bytes().all(bare) { name.into() } else { quoted(name) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::btf::Member;
    use std::path::Path;

    fn read(pieces: &[String]) -> Vec<u8> {
        let read = |piece: &String| literal::bytes(piece, Path::new("/nowhere")).expect("it can be read");
        pieces.iter().flat_map(read).collect()
    }

    #[test]
    fn bytes_are_written_as_people_would() {
        for (bytes, written) in [
            (&b"GET / HTTP/1.1\r\n"[..], &["GET / HTTP/1.1\r\n"][..]),
            (b"\x16\x03\x01abcd\x00", &["hex:16 03 01", "abcd", "hex:00"]),
            (b"\x16ab\x00", &["hex:16 61 62 00"]),
            (b"ab", &["ab"]),
            (b"hex:ab", &["text:hex:ab"]),
            (b"http://a", &["http://a"]),
            (b"nothing", &["text:nothing"]),
            (&[[b'a'; 3].as_slice(), &[b'='; 30]].concat(), &["aaa", "fill:30:="]),
            (&[0; 40], &["fill:40:\0"]),
            (b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x01a\0\0\x1c\0\x01", &["dns-query:a AAAA"]),
            (
                b"\xbe\xef\x01\0\0\x01\0\0\0\0\0\0\x01a\0\0\x1c\0\x01",
                &["hex:be ef 01 00 00 01 00 00 00 00 00 00", "dns:a", "hex:00 1c 00 01"],
            ),
        ] {
            assert_eq!(pieces(bytes), written);
        }
        let long = "Header: with a value\r\n".repeat(6);
        assert_eq!(pieces(long.as_bytes()).len(), 6, "long texts have a line for each line");
        assert_eq!(quoted("a\"\\\r\n\t\0é"), r#""a\"\\\r\n\t\u0000é""#);
    }

    #[test]
    fn a_value_keeps_the_form_that_it_had() {
        let int = |size| Shape::Int { size, signed: false, character: false };
        let text = Shape::Array {
            element: Box::new(Shape::Int { size: 1, signed: true, character: true }),
            count: 8,
        };
        let member = |name: &str, offset, shape| Member { name: name.into(), offset, shape };
        let members = vec![member("hits", 0, int(4)), member("to", 4, text)];
        let rule = Shape::Struct { name: "rule".into(), size: 12, members };
        for (before, bytes, shape, after) in [
            (
                "{ hits = 1, to = \"dns:a\" }",
                &b"\x02\0\0\0\x01a\0\0\0\0\0\0"[..],
                Some(&rule),
                "{ hits = 2, to = \"dns:a\" }",
            ),
            (
                "{ to = \"dns:a\" }",
                b"\x02\0\0\0\x01b\0\0\0\0\0\0",
                Some(&rule),
                "{ to = \"dns:b\", hits = 2 }",
            ),
            ("[\"u32:1\", \"dns:a\"]", b"\x02\0\0\0\x01a\0\0\0\0\0\0", Some(&rule), "[\"u32:2\", \"dns:a\"]"),
            ("[\"u32:1\", \"dns:a\"]", b"\x02\0\0\0\x01b\0\0\0\0\0\0", None, "[\"u32:2\", \"dns:b\"]"),
            ("7", b"\x08\0", None, "8"),
            ("\"be16:7\"", b"\0\x08", None, "\"be16:8\""),
            ("\"absent\"", b"\x08\0\0\0", Some(&int(4)), "8"),
            ("\"ip:10.0.0.1\"", b"\x0a\0\0\x02", None, "\"ip:10.0.0.2\""),
            ("\"str:ab\"", b"\xff\0", None, "\"hex:ff00\""),
        ] {
            let parsed =
                |toml: &str| format!("v = {toml}").parse::<toml::Table>().expect("TOML")["v"].clone();
            let now = value(bytes, shape, &parsed(before));
            assert_eq!(now, parsed(after));
            assert_eq!(parsed(&toml(&now)), now);
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_as_the_same_bytes(
            parts in prop::collection::vec(prop_oneof![
                prop::collection::vec(any::<u8>(), 0..30),
                "(text|hex|file|fill|dns|dns-query|str|x):[ -~\r\n]{0,120}".prop_map(String::into_bytes),
                (any::<u8>(), 0..60_usize).prop_map(|(byte, count)| vec![byte; count]),
            ], 0..6),
        ) {
            let whole = parts.concat();
            prop_assert_eq!(read(&pieces(&whole)), whole.clone());
            let document: toml::Table = format!("v = {}", bytes(&whole, 0)).parse().expect("TOML");
            let again: Vec<String> = match &document["v"] {
                Value::String(text) => vec![text.clone()],
                Value::Array(items) => items.iter().map(|item| item.as_str().expect("a text").into()).collect(),
                other => panic!("{other:?}"),
            };
            prop_assert_eq!(read(&again), whole);
        }
    }
}

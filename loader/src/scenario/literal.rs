//! What people write for bytes, and for the keys and values of maps.

use std::fmt::{self, Write as _};
use std::net::IpAddr;
use std::path::Path;

use serde::{Serialize, Serializer};
use toml::Value;

use crate::btf::{Member, Shape};

/// The bytes that `text` stands for: itself, or what its prefix (`text:`, `hex:`, `file:`, `fill:`, `dns:`, `dns-query:`)
/// makes of it. Files are looked up in `folder`.
///
/// # Errors
/// What is wrong with it.
pub fn bytes(text: &str, folder: &Path) -> Result<Vec<u8>, String> {
    match text.split_once(':') {
        Some(("text", rest)) => Ok(rest.into()),
        Some(("hex", rest)) => hex(rest),
        Some(("file", rest)) => {
            let path = folder.join(rest.trim());
            std::fs::read(&path).map_err(|error| format!("cannot read {}: {error}", path.display()))
        }
        Some(("fill", rest)) => {
            let (count, text) =
                rest.split_once(':').ok_or("`fill:` wants a count and a text, as fill:100:A")?;
            let count: usize =
                count.trim().parse().map_err(|_| format!("`{count}` in `fill:` is not a count"))?;
            match count.checked_mul(text.len()) {
                Some(size) if size <= LARGEST_FILL => Ok(text.repeat(count).into()),
                _ => Err(format!("`fill:` makes at most {LARGEST_FILL} bytes")),
            }
        }
        Some(("dns", name)) => labels(name.trim()),
        Some(("dns-query", question)) => query(question.trim()),
        _ => Ok(text.into()),
    }
}

/// The prefixes that [`bytes`] knows.
pub(super) const PREFIXES: [&str; 6] = ["text", "hex", "file", "fill", "dns", "dns-query"];

/// Bytes that one `fill:` may make.
const LARGEST_FILL: usize = 16 << 20;

/// A key or a value as it is typed: a list or a struct in TOML's form, everything else as text.
///
/// # Errors
/// What is wrong with the TOML.
pub fn typed(text: &str) -> Result<Value, String> {
    if !text.starts_with(['[', '{']) {
        return Ok(Value::String(text.into()));
    }
    let table: Result<toml::Table, _> = format!("value = {text}").parse();
    let mut table = table.map_err(|error| error.message().to_string())?;
    Ok(table.remove("value").unwrap_or_else(|| Value::String(text.into())))
}

/// The `size` bytes of a key or a value that was written as `value`; `shape` is its C type, where it is known.
///
/// # Errors
/// What is wrong with it, and what it should be.
pub fn data(value: &Value, size: usize, shape: Option<&Shape>) -> Result<Vec<u8>, String> {
    if let (Value::String(text), Some(Shape::Struct { members, .. })) = (value, shape)
        && let Some((first, _)) = text.split_once('=')
        && members.iter().any(|member| member.name == first.trim())
    {
        return data(&Value::Table(members_of(text)?), size, shape);
    }
    // A structure of one member, as Rust makes of a wrapped type, is written as that member.
    if let (Some(Shape::Struct { members, .. }), false) = (shape, value.is_table() || value.is_array())
        && let [member] = &members[..]
        && member.shape.size() == size as u64
    {
        return data(value, size, Some(&member.shape));
    }
    match (value, shape) {
        (Value::Integer(number), _) => integer(i128::from(*number), size),
        (Value::Boolean(truth), _) => integer((*truth).into(), size),
        (Value::String(text), _) => string(text, size, shape),
        (Value::Table(table), Some(Shape::Struct { name, members, .. })) => {
            let mut bytes = vec![0; size];
            for (key, value) in table {
                let Some(member) = members.iter().find(|member| member.name == *key) else {
                    let known: Vec<_> = members.iter().map(|member| member.name.as_str()).collect();
                    return Err(format!("struct {name} has no member `{key}`; it has {}", known.join(", ")));
                };
                let (at, length) = (member.offset as usize, member.shape.size() as usize);
                let encoded =
                    data(value, length, Some(&member.shape)).map_err(|error| format!("`{key}`: {error}"))?;
                let place = bytes.get_mut(at..at + length).ok_or("the object's BTF contradicts its map")?;
                place.copy_from_slice(&encoded);
            }
            Ok(bytes)
        }
        (Value::Table(_), _) => Err(
            "the object does not say what members this has; write it as a list, as [\"u32:1\", \"str:x\"]"
                .into(),
        ),
        (Value::Array(items), Some(Shape::Array { element, count })) => {
            if items.len() > *count as usize {
                return Err(format!("{} elements, there is room for {count}", items.len()));
            }
            let each = element.size() as usize;
            let mut bytes = Vec::with_capacity(size);
            for item in items {
                bytes.extend(data(item, each, Some(element))?);
            }
            bytes.resize(size, 0);
            Ok(bytes)
        }
        (Value::Array(items), Some(Shape::Struct { name, members, .. })) => {
            if items.len() > members.len() {
                return Err(format!("{} members, struct {name} has {}", items.len(), members.len()));
            }
            let named = members.iter().map(|member| member.name.clone()).zip(items.iter().cloned());
            data(&Value::Table(named.collect()), size, shape)
        }
        (Value::Array(items), _) => {
            let mut bytes = Vec::new();
            let mut pads = false;
            for item in items {
                let text =
                    item.as_str().ok_or("in a list each item says its size, as \"u32:1\" or \"hex:00ff\"")?;
                let (encoded, may_pad) = prefixed(text)?.ok_or_else(|| {
                    format!("`{text}` needs a prefix that says its size, as `u32:` or `hex:`")
                })?;
                bytes.extend(encoded);
                pads = may_pad;
            }
            if pads { padded(bytes, size) } else { exact(bytes, size) }
        }
        (other, _) => Err(format!("a {} can't be a key or a value", other.type_str())),
    }
}

/// Bytes in the form of their type: what is shown can be typed again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tree {
    /// A number.
    Number(i128),
    /// Text, or bytes behind `hex:`.
    Text(String),
    /// Elements.
    List(Vec<Tree>),
    /// Members by their names, in the order of the source.
    Struct(Vec<(String, Tree)>),
}

impl Tree {
    /// What `bytes` are by their type; without one as [`show`] has them.
    pub fn of(bytes: &[u8], shape: Option<&Shape>) -> Self {
        match shape {
            Some(Shape::Int { size, signed, .. })
                if matches!(size, 1 | 2 | 4 | 8) && bytes.len() == *size as usize =>
            {
                let number = bytes.iter().rev().fold(0_i128, |number, byte| number << 8 | i128::from(*byte));
                let bits = size * 8;
                let negative = *signed && number >> (bits - 1) != 0;
                Self::Number(if negative { number - (1 << bits) } else { number })
            }
            Some(Shape::Array { element, count })
                if !is_text(element, *count)
                    && element.size() > 0
                    && element.size() * u64::from(*count) == bytes.len() as u64 =>
            {
                let each = element.size() as usize;
                Self::List(bytes.chunks(each).map(|item| Self::of(item, Some(element))).collect())
            }
            Some(Shape::Struct { members, size, .. })
                if *size as usize == bytes.len() && !members.is_empty() =>
            {
                let member = |at: usize, shape: &Shape| {
                    let end = at.saturating_add(shape.size() as usize);
                    Self::of(bytes.get(at..end).unwrap_or_default(), Some(shape))
                };
                match &members[..] {
                    // As Rust calls the only member of a wrapped type.
                    [only] if matches!(&*only.name, "__0" | "0") && only.shape.size() == u64::from(*size) => {
                        member(0, &only.shape)
                    }
                    _ => Self::Struct(
                        members
                            .iter()
                            .map(|one| {
                                let shown = member(one.offset as usize, &one.shape);
                                (one.name.clone(), shown.as_address(one).unwrap_or(shown))
                            })
                            .collect(),
                    ),
                }
            }
            _ => Self::text(bytes, shape),
        }
    }

    /// What is shown of `member` as an address, where its name says that it is one: any bytes could be.
    fn as_address(&self, member: &Member) -> Option<Self> {
        let named =
            |name| member.name.strip_suffix(name).is_some_and(|rest| rest.is_empty() || rest.ends_with('_'));
        let is_bytes = matches!(&member.shape, Shape::Array { element, .. } if element.size() == 1);
        let Self::List(items) = self else { return None };
        if !is_bytes || !["addr", "address", "ip"].into_iter().any(named) {
            return None;
        }
        let byte = |item: &Self| if let Self::Number(byte) = item { u8::try_from(*byte).ok() } else { None };
        let bytes: Vec<u8> = items.iter().map(byte).collect::<Option<_>>()?;
        let address = match <[u8; 16]>::try_from(bytes.as_slice()) {
            // One of version 4 in a field for both.
            Ok([a, b, c, d, rest @ ..]) if [a, b, c, d] != [0; 4] && rest == [0; 12] => [a, b, c, d].into(),
            Ok(whole) => whole.into(),
            Err(_) => IpAddr::from(<[u8; 4]>::try_from(bytes.as_slice()).ok()?),
        };
        let text = address.to_string();
        let again = string(&text, bytes.len(), Some(&member.shape));
        again.is_ok_and(|again| again == bytes).then_some(Self::Text(text))
    }

    /// `bytes` as a text where they are one.
    fn text(bytes: &[u8], shape: Option<&Shape>) -> Self {
        let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        if let Some(text) = bytes.get(..end).and_then(|bytes| str::from_utf8(bytes).ok())
            && (end > 0 || matches!(shape, Some(Shape::Array { .. })))
            && text.bytes().all(is_readable)
        {
            // A text that looks like something else needs to say that it is one.
            for text in [text.to_string(), format!("str:{text}")] {
                if string(&text, bytes.len(), shape).is_ok_and(|again| again == bytes) {
                    return Self::Text(text);
                }
            }
        }
        Self::Text(windows_text(bytes).map_or_else(|| digits(bytes), |text| format!("utf16:{text}")))
    }
}

impl fmt::Display for Tree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // TOML's numbers have 64 bits with a sign.
            Self::Number(number) if *number > i128::from(i64::MAX) => write!(f, "\"{number}\""),
            Self::Number(number) => number.fmt(f),
            Self::Text(text) if text.starts_with("hex:") => f.write_str(text),
            Self::Text(text) => write!(f, "{text:?}"),
            Self::List(items) => {
                f.write_str("[")?;
                for (at, item) in items.iter().enumerate() {
                    f.write_str(if at == 0 { "" } else { ", " })?;
                    item.inner(f)?;
                }
                f.write_str("]")
            }
            Self::Struct(members) => {
                f.write_str("{ ")?;
                for (at, (name, member)) in members.iter().enumerate() {
                    f.write_str(if at == 0 { "" } else { ", " })?;
                    let bare = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
                    if !name.is_empty() && name.bytes().all(bare) {
                        write!(f, "{name} = ")?;
                    } else {
                        write!(f, "{name:?} = ")?;
                    }
                    member.inner(f)?;
                }
                f.write_str(" }")
            }
        }
    }
}

impl Tree {
    /// Inside of others bytes stand in quotes too, as TOML wants it.
    fn inner(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => write!(f, "{text:?}"),
            other => write!(f, "{other}"),
        }
    }
}

impl Serialize for Tree {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Number(number) => match (i64::try_from(*number), u64::try_from(*number)) {
                (Ok(number), _) => serializer.serialize_i64(number),
                (_, Ok(number)) => serializer.serialize_u64(number),
                _ => serializer.collect_str(number),
            },
            Self::Text(text) => serializer.serialize_str(text),
            Self::List(items) => serializer.collect_seq(items),
            Self::Struct(members) => {
                serializer.collect_map(members.iter().map(|(name, member)| (name, member)))
            }
        }
    }
}

pub(super) const fn is_readable(byte: u8) -> bool {
    matches!(byte, b' '..=b'~' | b'\r' | b'\n' | b'\t')
}

/// Whether an array holds text: characters, or as Rust has none, more bytes than an address has.
fn is_text(element: &Shape, count: u32) -> bool {
    const ADDRESS: u32 = 16;
    matches!(element, Shape::Int { size: 1, character, .. } if *character || count > ADDRESS)
}

/// A text as Windows has it, zeros behind it; short ones are rather numbers.
fn windows_text(bytes: &[u8]) -> Option<String> {
    const SHORTEST: usize = 4;
    let (units, odd) = bytes.as_chunks();
    let units: Vec<_> = units.iter().copied().map(u16::from_le_bytes).collect();
    let end = units.iter().rposition(|unit| *unit != 0).map_or(0, |last| last + 1);
    let text = String::from_utf16(&units[..end]).ok()?;
    let reads = odd.is_empty() && end >= SHORTEST && !text.chars().any(char::is_control);
    reads.then_some(text)
}

/// `hex:` and pairs of digits.
fn digits(bytes: &[u8]) -> String {
    let mut text = String::from("hex:");
    for byte in bytes {
        // Writing to a string can't fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// `bytes` as people like to read them: text where it is text, else pairs of hex digits.
pub fn show(bytes: &[u8]) -> String {
    let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    if end > 0 && bytes[..end].iter().copied().all(is_readable) {
        return format!("{:?}", String::from_utf8_lossy(&bytes[..end]));
    }
    digits(bytes)
}

/// Any `bytes`, so that people find their way in them: texts as text, many zeros as their number, the rest as hex digits.
pub fn describe(bytes: &[u8]) -> String {
    const TEXT: usize = 4;
    const ZEROS: usize = 5;
    let mut parts: Vec<String> = Vec::new();
    let mut hex = false;
    let mut rest = bytes;
    while let Some(first) = rest.first() {
        let text = rest.iter().take_while(|byte| matches!(byte, b' '..=b'~')).count();
        let zeros = rest.iter().take_while(|byte| **byte == 0).count();
        if text >= TEXT {
            parts.push(format!("{:?}", String::from_utf8_lossy(&rest[..text])));
            rest = &rest[text..];
            hex = false;
        } else if zeros >= ZEROS {
            parts.push(format!("00*{zeros}"));
            rest = &rest[zeros..];
            hex = false;
        } else {
            let digits = format!("{first:02x}");
            match parts.last_mut().filter(|_| hex) {
                Some(part) => part.push_str(&digits),
                None => parts.push(digits),
            }
            rest = &rest[1..];
            hex = true;
        }
    }
    parts.join(" ")
}

fn string(text: &str, size: usize, shape: Option<&Shape>) -> Result<Vec<u8>, String> {
    if let Some((bytes, pads)) = prefixed(text)? {
        return if pads { padded(bytes, size) } else { exact(widened(text, bytes, size), size) };
    }
    let is_number = match shape {
        Some(Shape::Int { .. }) => true,
        Some(_) => false,
        None => matches!(size, 1 | 2 | 4 | 8),
    };
    if is_number && let Some(number) = number(text) {
        return integer(number, size);
    }
    if matches!(size, 4 | 16)
        && let Ok(address) = text.parse()
    {
        return exact(widened("ip:", octets(address), size), size);
    }
    if matches!(shape, Some(Shape::Int { character: false, .. })) {
        return Err(format!("`{text}` is not a number"));
    }
    padded(text.into(), size)
}

/// A struct in its short form: `member=value,member=value`.
fn members_of(text: &str) -> Result<toml::Table, String> {
    let member = |part: &str| {
        let (name, value) = part
            .split_once('=')
            .ok_or_else(|| format!("`{part}` is not MEMBER=VALUE; write commas as in {{a = \"b,c\"}}"))?;
        Ok((name.trim().to_string(), Value::String(value.trim().into())))
    };
    text.split(',').map(member).collect()
}

/// How many bytes a text with a prefix stands for.
pub(super) fn size(text: &str) -> Option<usize> {
    prefixed(text).ok().flatten().map(|(bytes, _)| bytes.len())
}

/// The bytes of a text with a prefix, and whether zeros may follow them.
fn prefixed(text: &str) -> Result<Option<(Vec<u8>, bool)>, String> {
    let Some((prefix, rest)) = text.split_once(':') else { return Ok(None) };
    let rest = if matches!(prefix, "str" | "utf16") { rest } else { rest.trim() };
    let whole = |bits: usize, big_endian: bool| {
        let number = number(rest).ok_or_else(|| format!("`{rest}` in `{prefix}:` is not a number"))?;
        let mut bytes = integer(number, bits / 8)?;
        if big_endian {
            bytes.reverse();
        }
        Ok::<_, String>((bytes, false))
    };
    let address = |text: &str| text.parse().map_err(|_| format!("`{text}` in `{prefix}:` is not an address"));
    Ok(Some(match prefix {
        "str" => (rest.into(), true),
        "utf16" => (rest.encode_utf16().flat_map(u16::to_le_bytes).collect(), true),
        "hex" => (hex(rest)?, false),
        "dns" => (labels(rest)?, true),
        "ip" => (octets(address(rest)?), false),
        "cidr" => {
            let (network, length) = rest.split_once('/').ok_or("`cidr:` is written as cidr:10.0.0.0/8")?;
            let network = octets(address(network)?);
            let length = number(length).filter(|bits| (0..=network.len() as i128 * 8).contains(bits));
            let length = length.ok_or_else(|| format!("`{rest}`: the prefix is longer than the address"))?;
            ([integer(length, 4)?, network].concat(), false)
        }
        "u8" | "i8" => whole(8, false)?,
        "u16" | "i16" => whole(16, false)?,
        "u32" | "i32" => whole(32, false)?,
        "u64" | "i64" => whole(64, false)?,
        "be16" => whole(16, true)?,
        "be32" => whole(32, true)?,
        "be64" => whole(64, true)?,
        _ => return Ok(None),
    }))
}

/// An IPv4 address in a field for either version lies in the first four bytes, as in the contexts.
fn widened(text: &str, mut bytes: Vec<u8>, size: usize) -> Vec<u8> {
    if text.starts_with("ip:") && bytes.len() == 4 && size == 16 {
        bytes.resize(16, 0);
    }
    bytes
}

fn exact(bytes: Vec<u8>, size: usize) -> Result<Vec<u8>, String> {
    if bytes.len() == size {
        return Ok(bytes);
    }
    Err(format!("{} bytes were given, the map has {size}", bytes.len()))
}

fn padded(mut bytes: Vec<u8>, size: usize) -> Result<Vec<u8>, String> {
    if bytes.len() > size {
        return Err(format!("{} bytes were given, the map has room for {size}", bytes.len()));
    }
    bytes.resize(size, 0);
    Ok(bytes)
}

fn number(text: &str) -> Option<i128> {
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok().map(i128::from),
        None => text.parse().ok(),
    }
}

/// A number in `size` bytes, little-endian; either sign, as long as it fits.
fn integer(number: i128, size: usize) -> Result<Vec<u8>, String> {
    if !matches!(size, 1 | 2 | 4 | 8) {
        return Err(format!("a number has 1, 2, 4 or 8 bytes, the map has {size}"));
    }
    let bits = size as u32 * 8;
    if number < -(1 << (bits - 1)) || number >= 1 << bits {
        return Err(format!("{number} does not fit into {size} bytes"));
    }
    Ok(number.to_le_bytes()[..size].to_vec())
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().into(),
        IpAddr::V6(v6) => v6.octets().into(),
    }
}

fn hex(text: &str) -> Result<Vec<u8>, String> {
    let digits: Vec<char> = text.chars().filter(|c| !c.is_whitespace()).collect();
    let digit = |c: &char| c.to_digit(16).ok_or_else(|| format!("`{c}` in `hex:` is not a hex digit"));
    let values = digits.iter().map(digit).collect::<Result<Vec<_>, _>>()?;
    if values.len() % 2 != 0 {
        return Err("`hex:` wants whole bytes: two digits each".into());
    }
    Ok(values.chunks(2).map(|pair| pair.iter().fold(0, |byte, digit| byte << 4 | *digit as u8)).collect())
}

/// A name in its DNS form (RFC 1035 section 3.1): labels with their lengths, then the root.
pub(super) fn labels(name: &str) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    for label in name.trim_end_matches('.').split('.').filter(|_| !matches!(name, "" | ".")) {
        match u8::try_from(label.len()) {
            Ok(length @ 1..=63) => bytes.push(length),
            _ => return Err(format!("`{name}` has a label that is empty or longer than 63 bytes")),
        }
        bytes.extend(label.as_bytes());
    }
    bytes.push(0);
    if bytes.len() > 255 {
        return Err(format!("`{name}` is longer than 255 bytes"));
    }
    Ok(bytes)
}

/// The types of a query that have a name here.
pub(super) const QUERY_TYPES: [&str; 8] = ["A", "NS", "CNAME", "MX", "TXT", "AAAA", "HTTPS", "ANY"];

/// A DNS query (RFC 1035 section 4) for `NAME TYPE`: id 0x1234, recursion desired, class IN, nothing else.
fn query(question: &str) -> Result<Vec<u8>, String> {
    let (name, kind) = question.split_once(' ').unwrap_or((question, "A"));
    let kind: u16 = match kind.trim() {
        "A" => 1,
        "NS" => 2,
        "CNAME" => 5,
        "MX" => 15,
        "TXT" => 16,
        "AAAA" => 28,
        "HTTPS" => 65,
        "ANY" => 255,
        other => {
            other.parse().map_err(|_| format!("`{other}` is not a query type: A, AAAA, TXT.. or a number"))?
        }
    };
    let mut bytes = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0".to_vec();
    bytes.extend(labels(name)?);
    bytes.extend(kind.to_be_bytes());
    bytes.extend(1_u16.to_be_bytes());
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::btf::Member;

    fn here(text: &str) -> Result<Vec<u8>, String> {
        bytes(text, Path::new("."))
    }

    fn key(value: &str, size: usize) -> Result<Vec<u8>, String> {
        let table: toml::Table = format!("v = {value}").parse().expect("TOML");
        data(&table["v"], size, None)
    }

    fn int(size: u32) -> Shape {
        Shape::Int { size, signed: false, character: false }
    }

    #[test]
    fn text_is_itself_unless_it_has_a_prefix() {
        assert_eq!(here("Host: a\r\n").unwrap(), b"Host: a\r\n");
        assert_eq!(here("text:hex:41").unwrap(), b"hex:41");
        assert_eq!(here("hex:41 4a\n00").unwrap(), b"AJ\0");
        assert_eq!(here("fill:3:ab").unwrap(), b"ababab");
        assert_eq!(here("dns:a.bc").unwrap(), b"\x01a\x02bc\0");
        assert_eq!(here("dns:.").unwrap(), b"\0");
        assert_eq!(here("dns-query:a AAAA").unwrap(), b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x01a\0\0\x1c\0\x01");
    }

    #[test]
    fn what_is_wrong_with_bytes_is_said() {
        for wrong in [
            "hex:4",
            "hex:4g",
            "fill:x:a",
            "fill:3",
            "fill:99999999:aa",
            "dns:a..b",
            "dns-query:a B",
            "file:/no/such",
        ] {
            assert!(here(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn keys_and_values_take_the_form_of_their_prefix() {
        assert_eq!(key("\"str:ab\"", 4).unwrap(), b"ab\0\0");
        assert_eq!(key("\"utf16:aä\"", 6).unwrap(), b"a\0\xe4\0\0\0");
        assert_eq!(key("\"u16:258\"", 2).unwrap(), [2, 1]);
        assert_eq!(key("\"be16:258\"", 2).unwrap(), [1, 2]);
        assert_eq!(key("\"i32:-2\"", 4).unwrap(), [0xfe, 0xff, 0xff, 0xff]);
        assert_eq!(key("\"ip:10.0.0.1\"", 16).unwrap(), b"\x0a\0\0\x01\0\0\0\0\0\0\0\0\0\0\0\0");
        assert_eq!(key("\"cidr:10.0.0.0/8\"", 8).unwrap(), [8, 0, 0, 0, 10, 0, 0, 0]);
        assert_eq!(key("\"dns:a\"", 5).unwrap(), b"\x01a\0\0\0");
        assert_eq!(key("[\"u32:1\", \"str:ab\", \"hex:0000\"]", 8).unwrap(), b"\x01\0\0\0ab\0\0");
        assert_eq!(key("[\"u32:1\", \"str:ab\"]", 8).unwrap(), b"\x01\0\0\0ab\0\0");
    }

    #[test]
    fn without_a_prefix_the_size_decides() {
        assert_eq!(key("7", 8).unwrap(), [7, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(key("\"7\"", 4).unwrap(), [7, 0, 0, 0]);
        assert_eq!(key("\"0x1f\"", 1).unwrap(), [0x1f]);
        assert_eq!(key("\"10.0.0.1\"", 4).unwrap(), [10, 0, 0, 1]);
        assert_eq!(key("\"example.com\"", 12).unwrap(), b"example.com\0");
        assert_eq!(key("true", 1).unwrap(), [1]);
    }

    #[test]
    fn a_type_of_the_object_decides_where_there_is_one() {
        let text = Shape::Array {
            element: Box::new(Shape::Int { size: 1, signed: true, character: true }),
            count: 8,
        };
        assert_eq!(data(&Value::String("7".into()), 8, Some(&text)).unwrap(), b"7\0\0\0\0\0\0\0");
        let member = |name: &str, offset, shape| Member { name: name.into(), offset, shape };
        let rule = Shape::Struct {
            name: "rule".into(),
            size: 16,
            members: vec![member("action", 0, int(4)), member("to", 8, text)],
        };
        let value = |text: &str| Value::Table(text.parse().expect("TOML"));
        assert_eq!(
            data(&value("to = \"ab\"\naction = 2"), 16, Some(&rule)).unwrap(),
            b"\x02\0\0\0\0\0\0\0ab\0\0\0\0\0\0"
        );
        let items =
            |items: &[&str]| Value::Array(items.iter().map(|item| Value::String((*item).into())).collect());
        assert_eq!(
            data(&items(&["u32:2", "str:ab"]), 16, Some(&rule)),
            data(&value("to = \"ab\"\naction = 2"), 16, Some(&rule))
        );
        let unknown = data(&value("too = 1"), 16, Some(&rule)).unwrap_err();
        assert_eq!(unknown, "struct rule has no member `too`; it has action, to");
        let wrapped = Shape::Struct { name: "Id".into(), size: 4, members: vec![member("0", 0, int(4))] };
        assert_eq!(data(&Value::Integer(3), 4, Some(&wrapped)).unwrap(), [3, 0, 0, 0]);
        let list = Shape::Array { element: Box::new(int(2)), count: 3 };
        let items = Value::Array(vec![Value::Integer(1), Value::Integer(2)]);
        assert_eq!(data(&items, 6, Some(&list)).unwrap(), [1, 0, 2, 0, 0, 0]);
    }

    #[test]
    fn what_is_shown_by_its_type_can_be_typed_again() {
        let text = |count| Shape::Array {
            element: Box::new(Shape::Int { size: 1, signed: true, character: true }),
            count,
        };
        let member = |name: &str, offset, shape| Member { name: name.into(), offset, shape };
        let list = Shape::Array { element: Box::new(int(2)), count: 2 };
        let signed = Shape::Int { size: 4, signed: true, character: false };
        let members =
            vec![member("action", 0, signed), member("to", 4, text(8)), member("ports", 12, list.clone())];
        let rule = Shape::Struct { name: "rule".into(), size: 16, members };
        let wrapped = Shape::Struct { name: "Id".into(), size: 4, members: vec![member("__0", 0, int(4))] };
        let bytes_of = |count| Shape::Array { element: Box::new(int(1)), count };
        let one = Shape::Struct { name: "mark".into(), size: 8, members: vec![member("text", 0, text(8))] };
        let only = |name: &str| Shape::Struct {
            name: "s".into(),
            size: 4,
            members: vec![member(name, 0, bytes_of(4))],
        };
        let (short, skip) = (only("remote_addr"), only("skip"));
        let members = vec![member("address", 0, bytes_of(16)), member("port", 16, int(2))];
        let resolver = Shape::Struct { name: "resolver".into(), size: 18, members };
        for (bytes, shape, shown) in [
            (
                &b"\xfe\xff\xff\xffab\"c\0\0\0\0\x01\0\x02\0"[..],
                &rule,
                r#"{ action = -2, to = "ab\"c", ports = [1, 2] }"#,
            ),
            (
                b"\0\0\0\0\xff\0\0\0\0\0\0\0\0\0\0\0",
                &rule,
                r#"{ action = 0, to = "hex:ff00000000000000", ports = [0, 0] }"#,
            ),
            (b"hex:ab\0\0", &text(8), "\"str:hex:ab\""),
            (b"1.2.3.4\0\0\0\0\0\0\0\0\0", &text(16), "\"str:1.2.3.4\""),
            (b"\0\0\0\0", &text(4), "\"\""),
            (b"\x07\0\0\0", &wrapped, "7"),
            (b"a,b=c\0\0\0", &one, r#"{ text = "a,b=c" }"#),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff", &int(8), "\"18446744073709551615\""),
            (b"\x01\0\x02\0", &list, "[1, 2]"),
            (b"\\\0d\0i\0r\0 \0\xe4\0\0\0\0\0\0\0\0\0", &bytes_of(20), r#""utf16:\\dir ä""#),
            (b"example.org\0\0\0\0\0\0\0\0\0", &bytes_of(20), r#""example.org""#),
            (b"\x0a\0\0\x01", &bytes_of(4), "[10, 0, 0, 1]"),
            (
                b"\x0a\0\0\x09\0\0\0\0\0\0\0\0\0\0\0\0\x35\0",
                &resolver,
                r#"{ address = "10.0.0.9", port = 53 }"#,
            ),
            (
                b"\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01\x35\0",
                &resolver,
                r#"{ address = "2001:db8::1", port = 53 }"#,
            ),
            (&[0; 18], &resolver, r#"{ address = "::", port = 0 }"#),
            (b"\xc0\0\x02\x01", &short, r#"{ remote_addr = "192.0.2.1" }"#),
            (b"\xc0\0\x02\x01", &skip, "{ skip = [192, 0, 2, 1] }"),
        ] {
            let tree = Tree::of(bytes, Some(shape));
            assert_eq!(tree.to_string(), shown);
            let unquoted: String = match &tree {
                Tree::Text(text) => text.clone(),
                Tree::Number(number) => number.to_string(),
                _ => shown.into(),
            };
            let again = data(&typed(&unquoted).unwrap(), bytes.len(), Some(shape));
            assert_eq!(again.as_deref(), Ok(bytes), "{shown}");
        }
        let typed = |text: &str| data(&typed(text).unwrap(), 16, Some(&rule));
        assert_eq!(typed("to=ab, action=0x10").unwrap(), b"\x10\0\0\0ab\0\0\0\0\0\0\0\0\0\0");
        assert_eq!(
            typed("action=1,too=2").unwrap_err(),
            "struct rule has no member `too`; it has action, to, ports"
        );
        assert!(typed("action=1,to").unwrap_err().contains("`to` is not MEMBER=VALUE"));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        for (wrong, size) in [
            ("300", 1),
            ("1", 3),
            ("\"hex:00\"", 2),
            ("\"toolong\"", 4),
            ("\"ip:10.0.0.1\"", 8),
            ("\"cidr:10.0.0.0/33\"", 8),
            ("[1, 2]", 8),
            ("1.5", 8),
            ("{ a = 1 }", 8),
        ] {
            assert!(key(wrong, size).is_err(), "{wrong}");
        }
    }

    #[test]
    fn bytes_are_shown_as_text_where_they_are_text() {
        assert_eq!(show(b"GET /\r\n\0\0"), "\"GET /\\r\\n\"");
        assert_eq!(show(b"\x01\xff"), "hex:01ff");
        assert_eq!(show(&[0, 0]), "hex:0000");
        assert_eq!(
            describe(b"\x09\0\0\0example.org\0\0\0\0\0\0ab\x01"),
            "09000000 \"example.org\" 00*6 616201"
        );
        assert_eq!(describe(b""), "");
    }
}

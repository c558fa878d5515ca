//! The types of an object for people: as C declarations, in an order that a compiler takes, or one by one as they stand.
//!
//! What is laid out in another way than C does it by itself, as Rust's structures are, is packed and padded: the declarations
//! have the sizes and offsets of the object. Bit fields are left to the compiler.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use schemars::JsonSchema;
use serde::Serialize;

use super::types::{Bits, Btf, Encoding, Raw};

/// Types inside each other that are followed.
const MAX_DEPTH: u32 = 64;
/// Members that are written inside of others, since their types have no name.
const MAX_INLINE: u32 = 1 << 16;
/// What stands where a file goes further than anybody reads.
const TOO_DEEP: &str = "void /* nested too deeply */";

/// One type, as it stands in the file.
#[derive(Serialize, JsonSchema)]
pub struct Row {
    /// Its number.
    id: u32,
    kind: &'static str,
    /// Empty when it has none.
    name: String,
    /// Bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    size: Option<u32>,
    /// The type that it is made of, or speaks of; 0 is `void`.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    of: Option<u32>,
    /// Elements of an array.
    #[serde(skip_serializing_if = "Option::is_none")]
    count: Option<u32>,
    /// Members of a structure, parameters of a function.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    members: Vec<Part>,
    /// Of an enumeration.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    values: Vec<Constant>,
    /// Of a section: its variables, by their numbers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    variables: Vec<u32>,
}

/// A member or a parameter.
#[derive(Serialize, JsonSchema)]
struct Part {
    name: String,
    #[serde(rename = "type")]
    of: u32,
    /// Of a member: bits from the start.
    #[serde(skip_serializing_if = "Option::is_none")]
    bit_offset: Option<u32>,
    /// Of a bit field.
    #[serde(skip_serializing_if = "Option::is_none")]
    bits: Option<u32>,
}

/// A name of an enumeration.
#[derive(Serialize, JsonSchema)]
struct Constant {
    name: String,
    /// As text: it may have more digits than a JSON number keeps.
    value: String,
}

/// Every type of `btf`.
pub fn rows<'b>(btf: &'b Btf<'_>) -> impl Iterator<Item = Row> + use<'b> {
    (1..=btf.count()).filter_map(|id| {
        // The text comes from the object, which anyone may have made: nothing in it may steer a terminal.
        let clean = annotate_snippets::normalize_untrusted_str;
        let mut row = Row {
            id,
            kind: "",
            name: clean(btf.name_of(id)),
            size: None,
            of: None,
            count: None,
            members: Vec::new(),
            values: Vec::new(),
            variables: Vec::new(),
        };
        (row.kind, row.size, row.of) = match btf.raw(id)? {
            Raw::Int { size, encoding } => {
                let kind = match encoding {
                    Encoding::Unsigned => "unsigned",
                    Encoding::Signed => "signed",
                    Encoding::Character => "char",
                    Encoding::Boolean => "bool",
                };
                (kind, Some(size), None)
            }
            Raw::Float { size } => ("float", Some(size), None),
            Raw::Pointer { to } => ("pointer", None, Some(to)),
            Raw::Array { element, count } => {
                row.count = Some(count);
                ("array", None, Some(element))
            }
            Raw::Struct { word, size, members } => {
                row.members.extend(members.iter().map(|member| Part {
                    name: clean(member.name),
                    of: member.kind,
                    bit_offset: Some(member.offset),
                    bits: (member.width != 0).then_some(member.width),
                }));
                (word, Some(size), None)
            }
            Raw::Enum { size, values } => {
                let constant =
                    |(name, value): (&str, i128)| Constant { name: clean(name), value: value.to_string() };
                row.values.extend(values.into_iter().map(constant));
                ("enum", Some(size), None)
            }
            Raw::Forward { word: "union" } => ("forward-union", None, None),
            Raw::Forward { .. } => ("forward-struct", None, None),
            Raw::Typedef { to } => ("typedef", None, Some(to)),
            Raw::Qualifier { word: "", to } => ("type-tag", None, Some(to)),
            Raw::Qualifier { word, to } => (word, None, Some(to)),
            Raw::Function { prototype } => ("function", None, Some(prototype)),
            Raw::Prototype { returns, params } => {
                let part =
                    |(name, of): (&str, u32)| Part { name: clean(name), of, bit_offset: None, bits: None };
                row.members.extend(params.into_iter().map(part));
                ("prototype", None, Some(returns))
            }
            Raw::Variable { kind } => ("variable", None, Some(kind)),
            Raw::Section { variables } => {
                row.variables = variables;
                ("section", None, None)
            }
            Raw::Tag { of } => ("tag", None, Some(of)),
        };
        Some(row)
    })
}

impl std::fmt::Display for Row {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "[{}] {} {}", self.id, self.kind, if self.name.is_empty() { "-" } else { &self.name })?;
        if let Some(size) = self.size {
            write!(f, "  {size} B")?;
        }
        if let Some(count) = self.count {
            write!(f, "  {count} of")?;
        }
        if let Some(of) = self.of {
            write!(f, "  [{of}]")?;
        }
        for Part { name, of, bit_offset, bits } in &self.members {
            write!(f, "\n    {name} [{of}]")?;
            if let Some(offset) = bit_offset {
                write!(f, "  bit {offset}")?;
            }
            if let Some(bits) = bits {
                write!(f, ", {bits} bits")?;
            }
        }
        for Constant { name, value } in &self.values {
            write!(f, "\n    {name} = {value}")?;
        }
        for variable in &self.variables {
            write!(f, "\n    [{variable}]")?;
        }
        Ok(())
    }
}

/// The types, variables and functions of `btf` as C declarations.
pub fn c(btf: &Btf<'_>) -> String {
    let mut out = C {
        btf,
        text: String::new(),
        done: BTreeSet::new(),
        written: BTreeSet::new(),
        open: BTreeSet::new(),
        inline: MAX_INLINE,
        aligned: BTreeMap::new(),
    };
    for id in 1..=btf.count() {
        if !btf.name_of(id).is_empty()
            && matches!(btf.raw(id), Some(Raw::Struct { .. } | Raw::Enum { .. } | Raw::Typedef { .. }))
        {
            out.need(id, true, MAX_DEPTH);
        }
    }
    for id in 1..=btf.count() {
        let Some(Raw::Section { variables }) = btf.raw(id) else { continue };
        let _ = writeln!(out.text, "/* section {} */", identifier_or(btf.name_of(id), '.'));
        for id in variables {
            if let Some(Raw::Variable { kind }) = btf.raw(id) {
                out.need(kind, true, MAX_DEPTH);
                let line = out.declare(kind, &identifier(btf.name_of(id)), 0, MAX_DEPTH);
                let _ = writeln!(out.text, "extern {line};\n");
            }
        }
    }
    for id in 1..=btf.count() {
        if let Some(Raw::Function { prototype }) = btf.raw(id) {
            out.need(prototype, false, MAX_DEPTH);
            let line = out.declare(prototype, &identifier(btf.name_of(id)), 0, MAX_DEPTH);
            let _ = writeln!(out.text, "{line};");
        }
    }
    out.text
}

struct C<'b, 'a> {
    btf: &'b Btf<'a>,
    text: String,
    /// What was needed: the type, and whether whole or only its name.
    done: BTreeSet<(u32, bool)>,
    /// Names that stand there.
    written: BTreeSet<u32>,
    /// Structures that are being written.
    open: BTreeSet<u32>,
    inline: u32,
    /// Alignments of structures.
    aligned: BTreeMap<u32, u64>,
}

impl C<'_, '_> {
    /// Writes what has to stand in front of a use of type `id`: all of it, or for a pointer to it its name.
    fn need(&mut self, mut id: u32, whole: bool, depth: u32) {
        let mut whole = whole;
        for _ in 0..MAX_DEPTH {
            match self.btf.raw(id) {
                Some(Raw::Pointer { to }) => (id, whole) = (to, false),
                Some(Raw::Qualifier { to, .. }) => id = to,
                // Elements have to be known whole, whatever points to them.
                Some(Raw::Array { element, .. }) => (id, whole) = (element, true),
                _ => break,
            }
        }
        if depth == 0 || (whole && self.open.contains(&id)) || !self.done.insert((id, whole)) {
            return;
        }
        let name = self.btf.name_of(id);
        match self.btf.raw(id) {
            Some(Raw::Struct { word, members, .. }) => {
                if name.is_empty() {
                    self.need_members(&members, depth);
                } else if whole {
                    self.open.insert(id);
                    self.need_members(&members, depth);
                    self.open.remove(&id);
                    let body = self.body(id, 0, depth);
                    let _ = writeln!(self.text, "{body};\n");
                } else if !self.done.contains(&(id, true)) {
                    let _ = writeln!(self.text, "{word} {};\n", identifier(name));
                }
            }
            Some(Raw::Enum { .. }) if !name.is_empty() && self.written.insert(id) => {
                let body = self.body(id, 0, depth);
                let _ = writeln!(self.text, "{body};\n");
            }
            Some(Raw::Typedef { to }) => {
                self.need(to, whole, depth - 1);
                // The name is written once, whatever it is needed for.
                if self.written.insert(id) {
                    let line = self.declare(to, &identifier(name), 0, depth);
                    let _ = writeln!(self.text, "typedef {line};\n");
                }
            }
            Some(Raw::Prototype { returns, params }) => {
                self.need(returns, false, depth - 1);
                for (_, param) in params {
                    self.need(param, false, depth - 1);
                }
            }
            Some(Raw::Int { size, encoding }) if !is_c(name) && name != "bool" && self.written.insert(id) => {
                let _ = writeln!(self.text, "typedef {} {};\n", number(size, encoding), identifier(name));
            }
            Some(Raw::Float { size }) if !is_c(name) && self.written.insert(id) => {
                let word = if size == 4 { "float" } else { "double" };
                let _ = writeln!(self.text, "typedef {word} {};\n", identifier(name));
            }
            _ => {}
        }
    }

    fn need_members(&mut self, members: &[Bits<'_>], depth: u32) {
        for member in members {
            self.need(member.kind, true, depth - 1);
        }
    }

    /// `name` declared as type `id`.
    fn declare(&mut self, mut id: u32, name: &str, indent: usize, depth: u32) -> String {
        let mut name = name.to_string();
        let mut words: Vec<&str> = Vec::new();
        if depth == 0 {
            return format!("{TOO_DEEP} {name}");
        }
        let join = |words: &[&str], base: &str, name: &str| {
            let words: String = words.iter().map(|word| format!("{word} ")).collect();
            if name.is_empty() { format!("{words}{base}") } else { format!("{words}{base} {name}") }
        };
        for _ in 0..MAX_DEPTH {
            let own = self.btf.name_of(id);
            match self.btf.raw(id) {
                None => return join(&words, "void", &name),
                Some(Raw::Qualifier { word, to }) => {
                    // One for a pointer stands behind its star.
                    if !word.is_empty() {
                        words.push(word);
                    }
                    id = to;
                }
                Some(Raw::Pointer { to }) => {
                    let words: String = words.drain(..).map(|word| format!("{word} ")).collect();
                    name = format!("*{words}{name}");
                    id = to;
                }
                Some(Raw::Array { element, count }) => {
                    name = if name.starts_with('*') {
                        format!("({name})[{count}]")
                    } else {
                        format!("{name}[{count}]")
                    };
                    id = element;
                }
                Some(Raw::Prototype { returns, params }) => {
                    let params: Vec<_> = params
                        .into_iter()
                        .map(|(name, kind)| match (name, kind) {
                            ("", 0) => "...".into(),
                            _ => self.declare(kind, &identifier_or(name, '\0'), indent, depth - 1),
                        })
                        .collect();
                    let params = if params.is_empty() { "void".into() } else { params.join(", ") };
                    name = if name.starts_with('*') {
                        format!("({name})({params})")
                    } else {
                        format!("{name}({params})")
                    };
                    id = returns;
                }
                Some(Raw::Struct { .. } | Raw::Enum { .. }) if own.is_empty() => {
                    let body = self.body(id, indent, depth - 1);
                    return join(&words, &body, &name);
                }
                Some(Raw::Struct { word, .. } | Raw::Forward { word }) => {
                    return join(&words, &format!("{word} {}", identifier(own)), &name);
                }
                Some(Raw::Enum { .. }) => return join(&words, &format!("enum {}", identifier(own)), &name),
                // Newer C has the word for itself, older C does not have it.
                Some(Raw::Int { .. }) if own == "bool" => return join(&words, "_Bool", &name),
                Some(Raw::Int { .. } | Raw::Float { .. }) if is_c(own) => return join(&words, own, &name),
                Some(_) => return join(&words, &identifier(own), &name),
            }
        }
        format!("{TOO_DEEP} {name}")
    }

    /// A structure or an enumeration with all that is in it.
    fn body(&mut self, id: u32, indent: usize, depth: u32) -> String {
        let name = self.btf.name_of(id);
        let name = if name.is_empty() { String::new() } else { format!("{} ", identifier(name)) };
        let (inner, outer) = ("    ".repeat(indent + 1), "    ".repeat(indent));
        match self.btf.raw(id) {
            Some(Raw::Enum { values, size }) => {
                let mut text = format!("enum {name}{{\n");
                for (name, value) in values {
                    let _ = writeln!(text, "{inner}{} = {value},", identifier(name));
                }
                let packed = if size == 4 || size == 8 { "" } else { " __attribute__((packed))" };
                format!("{text}{outer}}}{packed}")
            }
            Some(Raw::Struct { word, size, mut members }) => {
                // The order of the source need not be that of the bytes.
                members.sort_by_key(|member| member.offset);
                let fields = members.iter().any(|member| member.width != 0 || member.offset % 8 != 0);
                let natural = fields || self.is_natural(word, size, &members, MAX_DEPTH);
                let mut text = format!("{word} {name}{{\n");
                let mut end = 0;
                for member in members {
                    if self.inline == 0 || depth == 0 {
                        let _ = writeln!(text, "{inner}/* and more */");
                        break;
                    }
                    self.inline -= u32::from(indent > 0);
                    let at = u64::from(member.offset / 8);
                    if word == "struct" && !natural && at > end {
                        let _ = writeln!(text, "{inner}unsigned char __pad_{end}[{}];", at - end);
                    }
                    end = at + self.btf.size_of(member.kind).unwrap_or(0);
                    let declared =
                        self.declare(member.kind, &identifier_or(member.name, '\0'), indent + 1, depth - 1);
                    match member.width {
                        0 => drop(writeln!(text, "{inner}{declared};")),
                        width => drop(writeln!(text, "{inner}{declared} : {width};")),
                    }
                }
                let size = u64::from(size);
                if !natural && word == "struct" && size > end {
                    let _ = writeln!(text, "{inner}unsigned char __pad_{end}[{}];", size - end);
                }
                let packed = if natural { "" } else { " __attribute__((packed))" };
                format!("{text}{outer}}}{packed}")
            }
            _ => TOO_DEEP.into(),
        }
    }

    /// Whether C puts the members where they are, and ends the structure where it ends.
    fn is_natural(&mut self, word: &str, size: u32, members: &[Bits<'_>], depth: u32) -> bool {
        let (mut end, mut most) = (0_u64, 1_u64);
        for member in members {
            let align = self.align(member.kind, depth);
            let Some(bytes) = self.btf.size_of(member.kind) else { return false };
            let at = u64::from(member.offset / 8);
            let wanted = if word == "union" { 0 } else { end.next_multiple_of(align) };
            if at != wanted {
                return false;
            }
            most = most.max(align);
            end = end.max(at.saturating_add(bytes));
        }
        end.checked_next_multiple_of(most) == Some(size.into())
    }

    /// The alignment that C gives type `id`.
    fn align(&mut self, mut id: u32, depth: u32) -> u64 {
        for _ in 0..MAX_DEPTH {
            id = match self.btf.raw(id) {
                Some(Raw::Typedef { to } | Raw::Qualifier { to, .. }) => to,
                Some(Raw::Array { element, .. }) => element,
                Some(Raw::Pointer { .. }) => return 8,
                Some(Raw::Int { size, .. } | Raw::Float { size } | Raw::Enum { size, .. }) => {
                    return u64::from(size.clamp(1, 16)).next_power_of_two();
                }
                Some(Raw::Struct { members, size, word }) if depth > 0 => {
                    if let Some(known) = self.aligned.get(&id) {
                        return *known;
                    }
                    // Of one that contains itself: anything that ends.
                    self.aligned.insert(id, 1);
                    // A packed one may stand anywhere.
                    let natural = self.is_natural(word, size, &members, depth - 1);
                    let of_members =
                        members.iter().filter(|_| natural).map(|member| self.align(member.kind, depth - 1));
                    let align = of_members.max().unwrap_or(1);
                    self.aligned.insert(id, align);
                    return align;
                }
                _ => return 1,
            };
        }
        1
    }
}

/// Whether a number's name is one that C has.
fn is_c(name: &str) -> bool {
    const WORDS: [&str; 10] =
        ["unsigned", "signed", "char", "short", "int", "long", "__int128", "float", "double", "_Bool"];
    !name.is_empty() && name.split(' ').all(|word| WORDS.contains(&word))
}

/// C's number of so many bytes.
fn number(size: u32, encoding: Encoding) -> &'static str {
    match (size, encoding) {
        (1, Encoding::Boolean) => "_Bool",
        (1, Encoding::Character) => "char",
        (1, Encoding::Signed) => "signed char",
        (1, _) => "unsigned char",
        (2, Encoding::Signed) => "short",
        (2, _) => "unsigned short",
        (4, Encoding::Signed) => "int",
        (4, _) => "unsigned int",
        (16, Encoding::Signed) => "__int128",
        (16, _) => "unsigned __int128",
        (_, Encoding::Signed) => "long long",
        _ => "unsigned long long",
    }
}

/// `name` as C can have it: other compilers write brackets and colons into names.
fn identifier(name: &str) -> String {
    let name = identifier_or(name, '\0');
    if name.starts_with(|first: char| first.is_ascii_digit()) { format!("_{name}") } else { name }
}

/// The same for a name that may be empty, or may have `also`.
fn identifier_or(name: &str, also: char) -> String {
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == also;
    name.chars().map(|c| if fits(c) { c } else { '_' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A section of these types: name, kind with its flag and count, size or type, and the words that follow.
    fn section(types: &[(&str, u32, u32, &[Word])]) -> Vec<u8> {
        let mut names = vec![0];
        let mut name = |text: &str| {
            let at = if text.is_empty() { 0 } else { names.len() as u32 };
            names.extend(text.bytes().chain((!text.is_empty()).then_some(0)));
            at
        };
        let mut body = Vec::new();
        for (text, info, size, rest) in types {
            body.extend([name(text), *info, *size]);
            body.extend(rest.iter().map(|word| match word {
                Word::Name(text) => name(text),
                Word::Number(number) => *number,
            }));
        }
        let body: Vec<u8> = body.into_iter().flat_map(u32::to_le_bytes).collect();
        let head = [0x0001_eb9f, 24, 0, body.len() as u32, body.len() as u32, names.len() as u32];
        head.into_iter().flat_map(u32::to_le_bytes).chain(body).chain(names).collect()
    }

    enum Word {
        Name(&'static str),
        Number(u32),
    }

    use Word::{Name as T, Number as N};

    const INT: u32 = 1 << 24;
    const POINTER: u32 = 2 << 24;
    const ARRAY: u32 = 3 << 24;
    const STRUCT: u32 = 4 << 24;
    const TYPEDEF: u32 = 8 << 24;
    const CONST: u32 = 10 << 24;
    /// Signed, 32 bits.
    const WHOLE: &[Word] = &[N(1 << 24 | 32)];

    fn written(types: &[(&str, u32, u32, &[Word])]) -> String {
        c(&Btf::parse(&section(types)).expect("it is well formed"))
    }

    #[test]
    fn bytes_lie_where_the_object_has_them() {
        let small: &[Word] = &[N(8)];
        // As Rust orders members, and with room behind them.
        let mixed: &[Word] = &[T("b"), N(2), N(32), T("a"), N(1), N(0)];
        let text = written(&[
            ("int", INT, 4, WHOLE),
            ("unsigned char", INT, 1, small),
            ("natural", STRUCT | 2, 8, mixed),
            ("larger", STRUCT | 2, 12, mixed),
        ]);
        assert_eq!(
            text,
            "struct natural {\n    int a;\n    unsigned char b;\n};\n\n\
             struct larger {\n    int a;\n    unsigned char b;\n    unsigned char __pad_5[7];\n} __attribute__((packed));\n\n"
        );
    }

    #[test]
    fn what_is_used_stands_in_front_of_its_use() {
        let text = written(&[
            ("user", STRUCT | 2, 16, &[T("value"), N(3), N(0), T("next"), N(2), N(64)]),
            ("", POINTER, 1, &[]),
            ("value_t", TYPEDEF, 4, &[]),
            ("value", STRUCT | 1, 8, &[T("names"), N(5), N(0)]),
            ("", POINTER, 6, &[]),
            ("", CONST, 7, &[]),
            ("", ARRAY, 0, &[N(8), N(8), N(3)]),
            ("u<32>", INT, 4, &[N(32)]),
        ]);
        assert_eq!(
            text,
            "typedef unsigned int u_32_;\n\n\
             struct value {\n    const u_32_ (*names)[3];\n};\n\n\
             typedef struct value value_t;\n\n\
             struct user {\n    value_t value;\n    struct user *next;\n};\n\n"
        );
    }

    #[test]
    fn types_that_go_on_for_ever_come_to_an_end() {
        for types in [
            &[("", POINTER, 1, &[][..])][..],
            &[("t", TYPEDEF, 1, &[])],
            &[("s", STRUCT | 1, 8, &[T("s"), N(1), N(0)])],
            &[("", ARRAY, 0, &[N(1), N(1), N(2)]), ("v", 14 << 24, 1, &[N(1)])],
            &[("t", TYPEDEF, 2, &[]), ("", STRUCT | 2, 8, &[T("a"), N(2), N(0), T("b"), N(2), N(0)])],
        ] {
            let text = written(types);
            assert!(text.len() < 16 << 20, "{} bytes", text.len());
        }
    }
}

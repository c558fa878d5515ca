//! What a policy is compiled against, rendered from the tables of the ABI: the C header, the Rust declarations, the page
//! for people.

use tidegate_abi::context::Field;
use tidegate_abi::helper::{self, HELPERS, Helper, Param};
use tidegate_abi::hook::ProgramTypes;
use tidegate_abi::{Arg, FieldKind, Hook, MapKind, ProgramType, Resource, Ret, Verdict, errno, map};

use crate::report::capabilities;

/// Text that grows line by line. Writing to a string can't fail, so neither can this.
struct Text(String);

impl Text {
    fn line(&mut self, line: impl AsRef<str>) {
        self.0.push_str(line.as_ref());
        self.0.push('\n');
    }
}

macro_rules! line {
    ($text:expr) => { $text.line("") };
    ($text:expr, $($arg:tt)*) => { $text.line(format!($($arg)*)) };
}

/// Columns that a comment may take.
const WIDTH: usize = 110;

/// The errors that helpers return, negated.
const ERRORS: &[(&str, i64)] = &[
    ("ENOENT", errno::ENOENT),
    ("EIO", errno::EIO),
    ("E2BIG", errno::E2BIG),
    ("ENOMEM", errno::ENOMEM),
    ("EEXIST", errno::EEXIST),
    ("EINVAL", errno::EINVAL),
    ("EOPNOTSUPP", errno::EOPNOTSUPP),
];

const C_TOP: &str = "\
/* What a Tidegate policy in C is compiled against. Made by `tidegate abi dump c`: do not edit.
 *
 *     clang -target bpf -mcpu=v3 -g -O2 -I programs/include -c policy.c -o policy.o
 *     tidegate verify policy.o
 */
#ifndef TIDEGATE_H
#define TIDEGATE_H

typedef unsigned char __u8;
typedef unsigned short __u16;
typedef unsigned int __u32;
typedef unsigned long long __u64;
typedef signed char __s8;
typedef short __s16;
typedef int __s32;
typedef long long __s64;

#ifndef NULL
#define NULL ((void *)0)
#endif

/* Names the ELF section: SEC(\"tidegate/stream\"), SEC(\"tidegate/send\"), SEC(\".maps\"). */
#define SEC(name) __attribute__((section(name), used))
/* A function that is compiled into its callers, and one that never is. */
#define __always_inline inline __attribute__((always_inline))
#define __noinline __attribute__((noinline))
/* Members of a map's definition: a number, a type, an array of types. */
#define __uint(name, value) int (*name)[value]
#define __type(name, type) __typeof__(type) *name
#define __array(name, type) __typeof__(type) *name[]

/* Numbers of the network in the order of the machine, and back. */
#define bpf_ntohs(x) __builtin_bswap16(x)
#define bpf_htons(x) __builtin_bswap16(x)
#define bpf_ntohl(x) __builtin_bswap32(x)
#define bpf_htonl(x) __builtin_bswap32(x)

/* IP protocol numbers. */
#define IPPROTO_ICMP 1
#define IPPROTO_TCP 6
#define IPPROTO_UDP 17
#define IPPROTO_ICMPV6 58

/* Direction of stream bytes, and who opened the connection. */
#define TIDEGATE_OUTBOUND 0
#define TIDEGATE_INBOUND 1
#define TIDEGATE_OPENER_LOCAL 0
#define TIDEGATE_OPENER_REMOTE 1

/* A clone of what is shown: handed out, edited, injected or discarded; never looked into. */
struct tidegate_clone;

";

/// The section in which an object says what it was compiled against: API versions, two bytes each.
pub(crate) const ABI_SECTION: &str = "tidegate.abi";

/// The C header. It needs no other header.
pub fn c() -> String {
    let mut text = Text(C_TOP.into());
    line!(text, "#define TIDEGATE_API_VERSION {}", tidegate_abi::API_VERSION);
    line!(text);
    c_verdicts(&mut text);
    for kind in ProgramType::ALL {
        c_context(&mut text, kind);
    }
    c_maps(&mut text);
    line!(text, "/* Helpers that fail return one of these, negated. */");
    for (name, number) in ERRORS {
        line!(text, "#define {name} {number}");
    }
    line!(text);
    for helper in HELPERS {
        c_helper(&mut text, helper);
    }
    line!(text, "/* What an object is compiled against, for its loader to see. */");
    line!(text, "static const __u16 __tidegate_abi SEC(\"{ABI_SECTION}\") = TIDEGATE_API_VERSION;");
    line!(text);
    line!(text, "#endif");
    text.0
}

fn c_verdicts(text: &mut Text) {
    line!(text, "/* What a program returns. */");
    line!(text, "enum tidegate_verdict {{");
    for verdict in Verdict::ALL {
        let name = constant(verdict.name());
        line!(text, "    /* {} */", verdict_doc(verdict));
        line!(text, "    TIDEGATE_{name} = {},", verdict as u8);
    }
    line!(text, "}};");
    line!(text);
}

fn c_context(text: &mut Text, kind: ProgramType) {
    line!(text, "/* Context of programs in section {}. */", kind.section());
    line!(text, "struct {} {{", kind.context_name());
    for field in kind.fields() {
        comment(text, "    ", field.doc, field.writable.then_some("Writable."));
        line!(text, "    {};", c_field(field));
    }
    line!(text, "}};");
    line!(text);
    line!(text, "/* Bits of {}.flags. */", kind.context_name());
    for flag in kind.flags() {
        comment(text, "", flag.doc, None);
        line!(text, "#define TIDEGATE_{} {:#x}u", flag.name, flag.bit);
    }
    line!(text);
}

fn c_field(field: &Field) -> String {
    let Field { name, size, kind, .. } = field;
    match kind {
        FieldKind::Data | FieldKind::DataEnd => format!("const void *{name}"),
        FieldKind::Bytes => format!("__u8 {name}[{size}]"),
        FieldKind::Scalar => format!("__u{} {name}", size * 8),
    }
}

fn c_maps(text: &mut Text) {
    line!(text, "/* Kinds of map, for __uint(type, ..). */");
    for kind in MapKind::ALL {
        line!(text, "#define BPF_MAP_TYPE_{} {}", constant(kind.name()), kind as u32);
    }
    line!(text);
    line!(text, "/* Map flags, for __uint(map_flags, ..): programs may read, not write. */");
    line!(text, "#define BPF_F_RDONLY_PROG {:#x}u", map::RDONLY_PROG);
    line!(text, "/* Flags of bpf_map_update_elem. */");
    line!(text, "#define BPF_ANY 0");
    line!(text, "#define BPF_NOEXIST 1");
    line!(text, "#define BPF_EXIST 2");
    line!(text);
}

fn c_helper(text: &mut Text, helper: &Helper) {
    let types = ProgramType::ALL.into_iter().filter(|kind| helper.program_types.contains(*kind));
    let only = match types.collect::<Vec<_>>().as_slice() {
        [kind] => Some(format!("Programs in {} only.", kind.section())),
        _ => None,
    };
    comment(text, "", helper.doc, only.as_deref());
    line!(
        text,
        "static {}(*const {})({}) = (void *){};",
        c_return(helper),
        helper.name,
        c_params(helper),
        number(helper.number)
    );
    line!(text);
}

/// The prototype of `helper` in C, as a policy author would write it.
pub fn prototype(helper: &Helper) -> String {
    format!("{}{}({})", c_return(helper), helper.name, c_params(helper))
}

fn c_return(helper: &Helper) -> &'static str {
    match helper.ret {
        Ret::Void => "void ",
        Ret::MapValueOrNull | Ret::RecordOrNull => "void *",
        Ret::CloneOrNull => "struct tidegate_clone *",
        Ret::Range { min: 0, max } if max == i64::from(u32::MAX) => "__u32 ",
        Ret::Range { .. } => "long ",
        Ret::Scalar => "__u64 ",
    }
}

fn c_params(helper: &Helper) -> String {
    if helper.params.is_empty() {
        return "void".into();
    }
    let param = |param: &Param| format!("{}{}", c_type(helper, param), param.name);
    helper.params.iter().map(param).collect::<Vec<_>>().join(", ")
}

fn c_type(helper: &Helper, param: &Param) -> &'static str {
    match param.arg {
        // One context type when the helper has one; else whichever the program has.
        Arg::Context => match ProgramType::ALL.map(|kind| helper.program_types.contains(kind)) {
            [true, false] => "struct tidegate_stream *",
            [false, true] => "struct tidegate_send *",
            _ => "void *",
        },
        Arg::Scalar | Arg::Flags(_) | Arg::ConstSize => "__u64 ",
        Arg::Size { .. } => "__u32 ",
        Arg::Map(_) | Arg::Writable => "void *",
        Arg::MapKey | Arg::MapValue | Arg::Readable => "const void *",
        Arg::Borrow(Resource::Clone) | Arg::Consume(Resource::Clone) => "struct tidegate_clone *",
        Arg::Borrow(Resource::Record) | Arg::Consume(Resource::Record) => "void *",
    }
}

const RUST_TOP: &str = "\
//! What a Tidegate policy in Rust is compiled against. Made by `tidegate abi dump rust`: do not edit.

use core::ffi::c_void;

";

/// The declarations of a `no_std` crate: contexts, constants and helpers.
pub fn rust() -> String {
    let mut text = Text(RUST_TOP.into());
    line!(text, "/// Version of everything below.");
    line!(text, "pub const API_VERSION: u16 = {};", tidegate_abi::API_VERSION);
    line!(text);
    line!(text, "/// What a program returns.");
    line!(text, "#[derive(Clone, Copy, Debug, PartialEq, Eq)]");
    line!(text, "#[repr(i32)]");
    line!(text, "pub enum Verdict {{");
    for verdict in Verdict::ALL {
        line!(text, "    /// {}", verdict_doc(verdict));
        line!(text, "    {verdict:?} = {},", verdict as u8);
    }
    line!(text, "}}");
    line!(text);
    for kind in ProgramType::ALL {
        rust_context(&mut text, kind);
    }
    line!(
        text,
        "/// A clone of what is shown: handed out, edited, injected or discarded; never looked into."
    );
    line!(text, "pub enum Clone {{}}");
    line!(text);
    for kind in MapKind::ALL {
        line!(text, "/// Kind of map `{}`.", kind.name());
        line!(text, "pub const BPF_MAP_TYPE_{}: usize = {};", constant(kind.name()), kind as u32);
    }
    line!(text);
    for (name, number) in ERRORS {
        line!(text, "/// A helper that fails so returns this, negated.");
        line!(text, "pub const {name}: i64 = {number};");
    }
    for helper in HELPERS {
        rust_helper(&mut text, helper);
    }
    text.0
}

fn rust_context(text: &mut Text, kind: ProgramType) {
    line!(text, "/// Context of programs in section `{}`.", kind.section());
    line!(text, "#[repr(C)]");
    line!(text, "pub struct {} {{", rust_context_name(kind));
    for field in kind.fields() {
        line!(text, "    /// {}{}", field.doc, if field.writable { " Writable." } else { "" });
        let name = field.name;
        match field.kind {
            FieldKind::Data | FieldKind::DataEnd => line!(text, "    pub {name}: *const u8,"),
            FieldKind::Bytes => line!(text, "    pub {name}: [u8; {}],", field.size),
            FieldKind::Scalar => line!(text, "    pub {name}: u{},", field.size * 8),
        }
    }
    line!(text, "}}");
    line!(text);
    for flag in kind.flags() {
        line!(text, "/// Bit of [`{}::flags`]: {}", rust_context_name(kind), flag.doc);
        line!(text, "pub const {}: u32 = {:#x};", flag.name, flag.bit);
    }
    line!(text);
}

const fn rust_context_name(kind: ProgramType) -> &'static str {
    match kind {
        ProgramType::Stream => "StreamContext",
        ProgramType::Send => "SendContext",
    }
}

fn rust_helper(text: &mut Text, helper: &Helper) {
    let params = |render: fn(&Helper, &Param) -> String| {
        helper.params.iter().map(|param| render(helper, param)).collect::<Vec<_>>().join(", ")
    };
    let returns = match helper.ret {
        Ret::Void => "",
        Ret::MapValueOrNull | Ret::RecordOrNull => " -> *mut c_void",
        Ret::CloneOrNull => " -> *mut Clone",
        Ret::Range { min: 0, max } if max == i64::from(u32::MAX) => " -> u32",
        Ret::Range { .. } => " -> i64",
        Ret::Scalar => " -> u64",
    };
    line!(text);
    line!(text, "/// {}", helper.doc);
    line!(text, "///");
    line!(text, "/// # Safety");
    line!(
        text,
        "/// The verifier holds every call against the rules of the helper; a call outside a program is undefined."
    );
    line!(text, "#[inline(always)]");
    line!(
        text,
        "pub unsafe fn {}({}){returns} {{",
        helper.name,
        params(|helper, param| format!("{}: {}", param.name, rust_type(helper, param)))
    );
    line!(
        text,
        "    let call: extern \"C\" fn({}){returns} = unsafe {{ core::mem::transmute({}usize) }};",
        params(|helper, param| rust_type(helper, param).to_string()),
        number(helper.number)
    );
    line!(text, "    call({})", params(|_, param| param.name.to_string()));
    line!(text, "}}");
}

fn rust_type(helper: &Helper, param: &Param) -> &'static str {
    match param.arg {
        Arg::Context => match ProgramType::ALL.map(|kind| helper.program_types.contains(kind)) {
            [true, false] => "*mut StreamContext",
            [false, true] => "*mut SendContext",
            _ => "*mut c_void",
        },
        Arg::Scalar | Arg::Flags(_) | Arg::ConstSize => "u64",
        Arg::Size { .. } => "u32",
        Arg::Map(_) | Arg::Writable => "*mut c_void",
        Arg::MapKey | Arg::MapValue | Arg::Readable => "*const c_void",
        Arg::Borrow(Resource::Clone) | Arg::Consume(Resource::Clone) => "*mut Clone",
        Arg::Borrow(Resource::Record) | Arg::Consume(Resource::Record) => "*mut c_void",
    }
}

const MARKDOWN_TOP: &str = "\
# Reference: what programs see, call and return

Made by `tidegate abi dump markdown` from the tables that the verifier, the machine, the C header and the Rust SDK are made
of or held against: do not edit. The [codes of refusals](refusals.md) have a page of their own.

A program is a function in a section `tidegate/stream` or `tidegate/send` (with `/` and a name behind it when an object has
several), compiled by `clang -target bpf -mcpu=v3 -g -O2` or by rustc and llc. Its only argument is its context; what it
returns is its verdict.
";

/// The page for people: verdicts, hooks, contexts, helpers, maps, limits.
pub fn markdown() -> String {
    let mut text = Text(MARKDOWN_TOP.into());
    line!(text);
    line!(text, "API version {}.", tidegate_abi::API_VERSION);
    line!(text);
    line!(text, "## Verdicts");
    line!(text);
    line!(text, "| number | C | Rust | programs | meaning |");
    line!(text, "|---:|---|---|---|---|");
    for verdict in Verdict::ALL {
        let (number, name) = (verdict as u8, constant(verdict.name()));
        let types = type_names(verdict.program_types());
        line!(text, "| {number} | `TIDEGATE_{name}` | `{verdict:?}` | {types} | {} |", verdict_doc(verdict));
    }
    line!(text);
    line!(text, "## Hooks");
    line!(text);
    line!(text, "| name | programs |");
    line!(text, "|---|---|");
    for hook in Hook::ALL {
        line!(text, "| `{}` | `{}` |", hook.name(), hook.program_type().section());
    }
    for kind in ProgramType::ALL {
        markdown_context(&mut text, kind);
    }
    line!(text);
    line!(text, "## Helpers");
    line!(text);
    line!(
        text,
        "Those below 65,536 are Linux's, with its numbers and meanings. A helper that fails returns one of these, negated:"
    );
    let errors: Vec<_> = ERRORS.iter().map(|(name, number)| format!("`{name}` ({number})")).collect();
    line!(text, "{}.", errors.join(", "));
    for helper in HELPERS {
        line!(text);
        line!(text, "### `{}`", helper.name);
        line!(text);
        line!(text, "```c");
        line!(text, "{};", prototype(helper));
        line!(text, "```");
        line!(text);
        line!(text, "{}", helper.doc);
        line!(text);
        let types = type_names(helper.program_types);
        let powers = match capabilities(helper.capability).as_slice() {
            [] => String::new(),
            powers => format!("; a program that calls it may {}", powers.join(", ")),
        };
        line!(text, "Number {}; programs: {types}{powers}.", number(helper.number));
    }
    line!(text);
    line!(text, "## Maps");
    line!(text);
    line!(text, "| number | C | `tidegate` |");
    line!(text, "|---:|---|---|");
    for kind in MapKind::ALL {
        line!(text, "| {} | `BPF_MAP_TYPE_{}` | `{}` |", kind as u32, constant(kind.name()), kind.name());
    }
    line!(text);
    line!(text, "Sizes and bounds: `tidegate feature list limits`.");
    text.0
}

fn type_names(types: ProgramTypes) -> String {
    let names = ProgramType::ALL.into_iter().filter(|kind| types.contains(*kind)).map(ProgramType::name);
    names.collect::<Vec<_>>().join(", ")
}

fn markdown_context(text: &mut Text, kind: ProgramType) {
    line!(text);
    line!(text, "## Context of `{}`", kind.section());
    line!(text);
    line!(text, "`struct {}` in C, `bindings::{}` in Rust.", kind.context_name(), rust_context_name(kind));
    line!(text);
    line!(text, "| offset | field | meaning |");
    line!(text, "|---:|---|---|");
    for field in kind.fields() {
        let more = if field.writable { " Writable." } else { "" };
        line!(text, "| {} | `{}` | {}{more} |", field.offset, c_field(field), field.doc);
    }
    line!(text);
    line!(text, "| bit of `flags` | name | meaning |");
    line!(text, "|---:|---|---|");
    for flag in kind.flags() {
        line!(text, "| {:#x} | `TIDEGATE_{}` | {} |", flag.bit, flag.name, flag.doc);
    }
}

fn verdict_doc(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Continue => "No opinion: the next program decides; the data passes when none does.",
        Verdict::Permit => "The data passes.",
        Verdict::Block => "The data is dropped: removed from the stream, or the packet is not sent.",
        Verdict::NeedMoreData => "Streams: the data is held back and shown again with what follows it.",
        Verdict::DropConnection => "Streams: the connection is reset.",
        Verdict::AllowConnection => "Streams: the data passes, and the flow is never shown again.",
        Verdict::Pend => "Streams: the data is kept back, and shown again when more comes or a map changes.",
    }
}

/// `need-more-data` as a constant: `NEED_MORE_DATA`.
fn constant(name: &str) -> String {
    name.to_uppercase().replace('-', "_")
}

/// Helper numbers as people know them: Linux's in decimal, Tidegate's own in hexadecimal.
pub fn number(number: u32) -> String {
    if number < helper::TIDEGATE_BASE { number.to_string() } else { format!("{number:#x}") }
}

/// A comment in C, broken into lines that are not too long.
fn comment(text: &mut Text, indent: &str, doc: &str, more: Option<&str>) {
    let words = doc.split_whitespace().chain(more.into_iter().flat_map(str::split_whitespace));
    let mut line = format!("{indent}/*");
    for word in words {
        // Room for the closing mark behind the last word.
        if line.len() + 1 + word.len() + 3 > WIDTH {
            text.line(&line);
            line = format!("{indent} *");
        }
        line.push(' ');
        line.push_str(word);
    }
    text.line(line + " */");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_header_is_what_the_tables_say() {
        assert_eq!(
            include_str!("../../programs/include/tidegate.h"),
            c(),
            "the tables changed: run `cargo run -p tidegate -- abi dump c > programs/include/tidegate.h`"
        );
    }

    #[test]
    fn the_bindings_of_the_sdk_are_what_the_tables_say() {
        assert_eq!(
            include_str!("../../programs/sdk/src/bindings.rs"),
            rust(),
            "the tables changed: run `cargo run -p tidegate -- abi dump rust > programs/sdk/src/bindings.rs`"
        );
    }

    #[test]
    fn the_reference_is_what_the_tables_say() {
        assert_eq!(
            include_str!("../../docs/reference.md"),
            markdown(),
            "the tables changed: run `cargo run -p tidegate -- abi dump markdown > docs/reference.md`"
        );
    }

    #[test]
    fn every_row_of_the_tables_is_in_every_form() {
        for text in [c(), rust(), markdown()] {
            for helper in HELPERS {
                assert!(
                    text.contains(&format!("{}(", helper.name))
                        || text.contains(&format!("{})(", helper.name))
                );
            }
            for field in ProgramType::ALL.into_iter().flat_map(ProgramType::fields) {
                assert!(text.contains(field.name), "{} is missing", field.name);
            }
            for flag in ProgramType::ALL.into_iter().flat_map(ProgramType::flags) {
                assert!(text.contains(flag.name), "{} is missing", flag.name);
            }
        }
    }
}

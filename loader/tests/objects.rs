//! Objects of both compilers, whole and damaged.

use std::sync::LazyLock;

use proptest::prelude::*;
use tidegate::btf::{Btf, Shape};
use tidegate::object::{Object, Program};
use tidegate_abi::insn::{call, pseudo};
use tidegate_abi::map::RDONLY_PROG;
use tidegate_abi::{Insn, MapKind, ProgramType};

const C: &[u8] = include_bytes!("fixtures/features.o");
const RUST: &[u8] = include_bytes!("fixtures/features-rs.o");

static C_OBJECT: LazyLock<Object> = LazyLock::new(|| Object::parse(C).expect("clang's object loads"));
static RUST_OBJECT: LazyLock<Object> = LazyLock::new(|| Object::parse(RUST).expect("rustc's object loads"));

fn names(object: &Object) -> Vec<(&str, ProgramType)> {
    object.programs().iter().map(|program| (program.name.as_str(), program.program_type)).collect()
}

fn functions(program: &Program) -> Vec<&str> {
    program.functions.iter().map(|function| function.name.as_str()).collect()
}

/// The slots that calls and code addresses of `program` lead to.
fn targets(program: &Program) -> Vec<usize> {
    let calls =
        program.insns.iter().enumerate().filter(|(_, insn)| insn.opcode == 0x85 && insn.src() == call::LOCAL);
    calls.map(|(slot, insn)| slot.wrapping_add_signed(insn.imm as isize + 1)).collect()
}

/// The source and the two immediates of every 64-bit load of `program`.
fn loads(program: &Program) -> Vec<(u8, usize, i32)> {
    let pairs = program.insns.windows(2).filter(|pair| pair[0].opcode == 0x18);
    pairs.map(|pair| (pair[0].src(), pair[0].imm as usize, pair[1].imm)).collect()
}

#[test]
fn every_global_function_of_a_program_section_is_a_program() {
    assert_eq!(
        names(&C_OBJECT),
        [("beside", ProgramType::Stream), ("watch", ProgramType::Stream), ("second", ProgramType::Send)]
    );
    assert_eq!(names(&RUST_OBJECT), [("watch", ProgramType::Send)]);
}

#[test]
fn the_functions_that_a_program_reaches_lie_behind_it_and_no_others() {
    let watch = C_OBJECT.program("watch").unwrap();
    assert_eq!(functions(watch), ["watch", "count", "beside", "is_watched"]);
    assert_eq!(functions(C_OBJECT.program("second").unwrap()), ["second", "is_watched"]);
    assert_eq!(
        functions(&RUST_OBJECT.programs()[0]),
        ["watch", "features::count"],
        "and not the panic handler"
    );
}

#[test]
fn calls_lead_to_functions_whatever_form_the_compiler_chose() {
    // clang: a symbol (count, beside), a section and an addend (second), already resolved in the section (is_watched).
    for program in C_OBJECT.programs().iter().chain(RUST_OBJECT.programs()) {
        let starts: Vec<usize> = program.functions.iter().map(|function| function.slot).collect();
        let mut called = targets(program);
        called.sort_unstable();
        called.dedup();
        assert_eq!(called, starts[1..], "{}", program.name);
    }
}

#[test]
fn maps_have_the_definition_and_the_types_of_the_source() {
    let map = |name: &str| C_OBJECT.maps().iter().find(|map| map.name == name).unwrap();
    let counts = map("counts");
    assert_eq!(counts.def.kind, MapKind::Hash);
    assert_eq!((counts.def.key_size, counts.def.value_size, counts.def.max_entries), (16, 8, 16));
    let Some(Shape::Struct { name, members, .. }) = &counts.key else { panic!("{:?}", counts.key) };
    assert_eq!(name, "pair");
    assert_eq!(
        members.iter().map(|member| (member.name.as_str(), member.offset)).collect::<Vec<_>>(),
        [("port", 0), ("zero", 2), ("name", 4)]
    );
    let character = Shape::Int { size: 1, signed: true, character: true };
    assert_eq!(members[2].shape, Shape::Array { element: Box::new(character), count: 12 });
    assert_eq!(counts.value, Some(Shape::Int { size: 8, signed: false, character: false }));

    let settings = map("settings");
    assert_eq!(settings.def.kind, MapKind::Array);
    assert_eq!((settings.def.value_size, settings.def.flags), (24, RDONLY_PROG));

    let counts = &RUST_OBJECT.maps()[0];
    assert_eq!((counts.name.as_str(), counts.def.key_size, counts.def.max_entries), ("counts", 16, 16));
    assert!(matches!(&counts.key, Some(Shape::Struct { members, .. }) if members[1].name == "name"));
}

#[test]
fn global_data_is_an_array_of_one_entry() {
    let watch = C_OBJECT.program("watch").unwrap();
    let map = |own: usize| &C_OBJECT.maps()[watch.maps[own]];
    let named: Vec<_> =
        loads(watch).into_iter().map(|(src, own, offset)| (src, map(own).name.as_str(), offset)).collect();
    assert_eq!(
        named,
        [
            (pseudo::MAP_IDX_VALUE, ".data", 0),
            (pseudo::MAP_IDX_VALUE, ".rodata", 0),
            (pseudo::MAP_IDX_VALUE, ".data", 0),
            (pseudo::MAP_IDX_VALUE, ".rodata.str1.1", 0),
            (pseudo::MAP_IDX, "counts", 0),
            (pseudo::MAP_IDX_VALUE, ".bss", 0),
            (pseudo::MAP_IDX, "settings", 0),
            (pseudo::MAP_IDX_VALUE, ".rodata.str2.2", 0),
        ]
    );
    let data = |name: &str| C_OBJECT.maps().iter().find(|map| map.name == name).unwrap();
    assert_eq!(data(".data").initial.as_deref(), Some([7, 0, 0, 0].as_slice()));
    assert_eq!(data(".bss").initial.as_deref(), Some([0; 8].as_slice()));
    assert_eq!(data(".rodata.str1.1").initial.as_deref(), Some(b"needle\0".as_slice()));
    assert_eq!((data(".data").def.flags, data(".rodata").def.flags), (0, RDONLY_PROG));
}

#[test]
fn every_instruction_has_the_line_that_it_came_from() {
    let watch = C_OBJECT.program("watch").unwrap();
    let find = watch.insns.iter().position(|insn| *insn == Insn::new(0x85, 0, 0, 0, 0x10003)).unwrap();
    let line = watch.line(find).unwrap();
    assert!(line.file.ends_with("features.c"), "{}", line.file);
    assert!(line.text.contains("tidegate_find(ctx, 0, \"needle\", 6)"), "{}", line.text);
    let callee = watch.functions.iter().find(|function| function.name == "is_watched").unwrap();
    assert!(watch.line(callee.slot).unwrap().text.contains("watched[at & 3] == port"));
    assert!(RUST_OBJECT.programs()[0].line(0).unwrap().file.ends_with("features.rs"));
}

/// The C object with the last `from` (the names of sections lie behind all others) made into `to`, of the same length.
fn patched(from: &[u8], to: &[u8]) -> Vec<u8> {
    assert_eq!(from.len(), to.len());
    let at = C.windows(from.len()).rposition(|window| window == from).expect("the fixture has these bytes");
    let mut bytes = C.to_vec();
    bytes[at..at + to.len()].copy_from_slice(to);
    bytes
}

#[test]
fn an_error_says_what_is_wrong_where_and_what_to_do() {
    let number = |number: u64| number.to_le_bytes();
    for (bytes, code, message, help) in [
        (b"\x7fELF".to_vec(), "object-elf", "not an ELF file", "clang -target bpf"),
        // e_machine: an object for x86-64.
        (patched(&[1, 0, 247, 0], &[1, 0, 62, 0]), "object-elf", "another machine", "clang -target bpf"),
        (
            patched(b"tidegate/send/second\0", b"tidegate/sent/second\0"),
            "object-section",
            "tidegate/sent/second",
            "tidegate/send",
        ),
        (patched(b".maps\0", b".mops\0"), "object-relocation", "section .mops", "move the variable"),
        (patched(b".BTF\0", b".BTX\0"), "object-btf", "no BTF", "compile with -g"),
        (
            patched(b"max_entries\0", b"map_entries\0"),
            "object-map",
            "map counts: member map_entries is not known",
            "max_entries",
        ),
        // The call of `is_watched`, which clang resolved itself, into its second instruction.
        (
            patched(&[0x85, 0x10, 0, 0, 13, 0, 0, 0], &[0x85, 0x10, 0, 0, 14, 0, 0, 0]),
            "object-relocation",
            "section .text, function count, instruction 21: no function starts at slot 39",
            "build it again",
        ),
        // The size of `watch`, over its end.
        (
            patched(&[number(0x58), number(248)].concat(), &[number(0x58), number(256)].concat()),
            "object-damaged",
            "watch is not whole instructions",
            "build it again",
        ),
        // The relocation of `seen`, into a kind that only data has.
        (
            patched(&[0x58, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0], &[0x58, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0]),
            "object-relocation",
            "function watch, instruction 0: a relocation of kind 2",
            "clang",
        ),
    ] {
        let error = Object::parse(&bytes).expect_err(message);
        assert_eq!(error.code, code, "{error}");
        assert!(error.message.contains(message), "{message:?} is not in: {error}");
        assert!(error.help.contains(help), "{help:?} is not in: {error}");
    }
}

#[test]
fn sections_that_share_bytes_of_the_file_are_refused() {
    // The headers are 64 bytes each at the end of the file; their offset field is at 24.
    let headers = u64::from_le_bytes(C[0x28..0x30].try_into().unwrap()) as usize;
    let mut bytes = C.to_vec();
    let first = bytes[headers + 64 + 24..headers + 64 + 32].to_vec();
    bytes[headers + 128 + 24..headers + 128 + 32].copy_from_slice(&first);
    assert!(Object::parse(&bytes).expect_err("two sections").message.contains("share bytes"));
}

/// Whatever the bytes are, loading ends with an object or with an error in words.
fn load(bytes: &[u8]) {
    if let Err(error) = Object::parse(bytes) {
        assert!(error.code.starts_with("object-") && !error.message.is_empty() && !error.help.is_empty());
    }
}

#[test]
fn an_object_that_is_cut_anywhere_is_refused() {
    for object in [C, RUST] {
        for end in 0..object.len() {
            assert!(Object::parse(&object[..end]).is_err(), "cut to {end} bytes");
        }
    }
}

#[test]
fn an_object_with_any_bit_flipped_loads_or_is_refused() {
    for object in [C, RUST] {
        let mut bytes = object.to_vec();
        for at in 0..bytes.len() {
            for bit in 0..8 {
                bytes[at] ^= 1 << bit;
                load(&bytes);
                bytes[at] ^= 1 << bit;
            }
        }
    }
}

proptest! {
    #[test]
    fn an_object_with_many_wrong_bytes_loads_or_is_refused(
        rust: bool,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..40),
    ) {
        let mut bytes = if rust { RUST } else { C }.to_vec();
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        load(&bytes);
    }

    #[test]
    fn bytes_that_are_no_object_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..512)) {
        prop_assert!(Object::parse(&bytes).is_err());
    }
}

fn btf(fixture: &str) -> Vec<u8> {
    let path = format!("{}/tests/fixtures/{fixture}", env!("CARGO_MANIFEST_DIR"));
    tidegate::object::read_btf(path.as_ref()).expect("the fixture has BTF")
}

#[test]
fn the_types_of_an_object_are_declared_as_its_source_declares_them() {
    let section = btf("features.o");
    let c = tidegate::btf::c(&Btf::parse(&section).expect("clang's BTF"));
    for part in [
        "struct pair {\n    __u16 port;\n    __u16 zero;\n    char name[12];\n};\n",
        "extern const volatile __u32 limit;",
        "extern struct {\n    int (*type)[1];\n    int (*max_entries)[16];\n    struct pair *key;\n    __u64 *value;\n} counts;",
        "int beside(struct tidegate_stream *ctx);",
    ] {
        assert!(c.contains(part), "{part}\n{c}");
    }
    let types = c.find("typedef unsigned short __u16;").zip(c.find("struct pair {"));
    assert!(types.is_some_and(|(first, then)| first < then), "{c}");
}

proptest! {
    #[test]
    fn damaged_types_are_refused_or_shown(at in any::<prop::sample::Index>(), byte in any::<u8>(), rust in any::<bool>()) {
        let mut section = btf(if rust { "features-rs.o" } else { "features.o" });
        let at = at.index(section.len());
        section[at] = byte;
        if let Ok(types) = Btf::parse(&section) {
            let _ = tidegate::btf::c(&types);
            prop_assert!(tidegate::btf::rows(&types).count() <= types.count() as usize);
        }
    }
}

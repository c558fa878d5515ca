//! Memory: the context, the stack, map values and packets, and what may be stored where.
mod common;
use common::{accepts, judge, refuses};
use tidegate_abi::{FieldKind, ProgramType};

const END: &str = "\n r0 = 0\n exit";

fn body(text: &str) -> String {
    format!("{text}{END}")
}

/// A lookup in the map of the given index; r0 is its result.
fn lookup(map: u8, rest: &str) -> String {
    format!(
        "r2 = r10\n r2 += -8\n *(u64 *)(r10 - 8) = 0\n r1 = map {map}\n call bpf_map_lookup_elem
         {rest}\n out:\n r0 = 0\n exit"
    )
}

/// The same behind a null check.
fn value(map: u8, rest: &str) -> String {
    lookup(map, &format!("if r0 == 0 goto out\n {rest}"))
}

#[test]
fn context_fields_are_read_by_their_exact_size_and_written_where_they_may_be() {
    let name = |size: usize| format!("u{}", size * 8);
    for program_type in ProgramType::ALL {
        for field in program_type.fields() {
            for size in [1, 2, 4, 8] {
                let exact = size == field.size || field.kind == FieldKind::Bytes;
                let at = field.offset;
                let load = format!("r2 = *({} *)(r1 + {at})", name(size));
                let judged = judge(program_type, &body(&load));
                assert_eq!(judged.is_ok(), exact, "{}: {load}: {judged:?}", field.name);
                let store = format!("*({} *)(r1 + {at}) = 1", name(size));
                let judged = judge(program_type, &body(&store));
                assert_eq!(judged.is_ok(), exact && field.writable, "{}: {store}: {judged:?}", field.name);
            }
            let inside = format!("r2 = *(u8 *)(r1 + {})", field.offset + 1);
            let bytes = field.kind == FieldKind::Bytes;
            assert_eq!(judge(program_type, &body(&inside)).is_ok(), bytes, "{}: {inside}", field.name);
        }
        let end = program_type.context_size();
        for outside in [format!("r2 = *(u32 *)(r1 + {end})"), "r2 = *(u64 *)(r1 - 8)".into()] {
            assert_eq!(judge(program_type, &body(&outside)).unwrap_err().code.text(), "TG0305", "{outside}");
        }
    }
    accepts(&body("r1 += 16\n r2 = *(u64 *)(r1 + 0)"));
    refuses(&body("r2 = *(u64 *)(r1 + 16)\n r2 &= 8\n r1 += r2\n r2 = *(u64 *)(r1 + 16)"), "TG0202", 2);
    refuses(&body("r2 = *(s64 *)(r1 + 0)"), "TG0101", 0);
    refuses("r2 = 1\n lock *(u32 *)(r1 + 96) += r2\n r0 = 0\n exit", "TG0306", 1);
}

#[test]
fn the_stack_is_512_bytes_below_the_frame_pointer() {
    accepts(&body("*(u8 *)(r10 - 512) = 1\n r2 = *(u64 *)(r10 - 512)\n r2 = *(u8 *)(r10 - 1)"));
    for outside in ["r10 - 513", "r10 + 0", "r10 + 8"] {
        refuses(&body(&format!("*(u8 *)({outside}) = 1")), "TG0304", 0);
        refuses(&body(&format!("r2 = *(u8 *)({outside})")), "TG0304", 0);
    }
    refuses(&body("r2 = *(u64 *)(r10 - 7)"), "TG0304", 0);
    // An offset that is computed: inside on every path, or refused.
    let at = |mask: u32| {
        body(&format!(
            "r3 = *(u64 *)(r1 + 16)\n r3 &= {mask}\n r2 = r10\n r2 += -512\n r2 += r3\n *(u64 *)(r2 + 0) = 1"
        ))
    };
    accepts(&at(504));
    refuses(&at(511), "TG0304", 5);
    refuses(&body("r2 = r10\n r2 += r2"), "TG0202", 1);
}

#[test]
fn a_pointer_on_the_stack_is_whole_or_not_a_pointer() {
    accepts(&body("*(u64 *)(r10 - 8) = r1\n r2 = *(u64 *)(r10 - 8)\n r3 = *(u64 *)(r2 + 16)"));
    // Part of it is no number.
    for (piece, at) in [("u32", 8), ("u32", 4), ("u8", 1), ("s32", 8)] {
        refuses(&body(&format!("*(u64 *)(r10 - 8) = r1\n r2 = *({piece} *)(r10 - {at})")), "TG0205", 1);
    }
    refuses(&body("*(u64 *)(r10 - 16) = r1\n r2 = *(u64 *)(r10 - 12)"), "TG0205", 1);
    refuses(&body("*(u32 *)(r10 - 8) = r1"), "TG0205", 0);
    // Nor is what a store to part of it leaves, anywhere.
    for (size, at) in [("u8", 8), ("u8", 1), ("u16", 6), ("u32", 4), ("u64", 12), ("u64", 4)] {
        let text = format!("*(u64 *)(r10 - 8) = r1\n *({size} *)(r10 - {at}) = 7\n r2 = *(u64 *)(r10 - 8)");
        if at != 4 || size != "u64" {
            refuses(&body(&text), "TG0205", 2);
        } else {
            refuses(&body(&text), "TG0304", 1);
        }
    }
    // A store at a computed place may have hit it.
    let text = "r3 = *(u64 *)(r1 + 16)\n r3 &= 8\n r2 = r10\n r2 += -16\n r2 += r3
        *(u64 *)(r10 - 8) = r1\n *(u64 *)(r2 + 0) = 0\n r4 = *(u64 *)(r10 - 8)";
    refuses(&body(text), "TG0205", 7);
    // And a pointer is not stored at one.
    refuses(
        &body("r3 = *(u64 *)(r1 + 16)\n r3 &= 8\n r2 = r10\n r2 += -16\n r2 += r3\n *(u64 *)(r2 + 0) = r1"),
        "TG0205",
        5,
    );
    // Written over as a whole it is a number again.
    accepts(&body("*(u64 *)(r10 - 8) = r1\n *(u64 *)(r10 - 8) = 7\n r2 = *(u32 *)(r10 - 8)"));
}

#[test]
fn a_value_is_as_large_as_its_map_says() {
    for (map, size) in [(0, 16), (1, 64)] {
        accepts(&value(map, &format!("r2 = *(u64 *)(r0 + {})\n *(u8 *)(r0 + {}) = 1", size - 8, size - 1)));
        refuses(&value(map, &format!("r2 = *(u64 *)(r0 + {})", size - 7)), "TG0304", 7);
        refuses(&value(map, &format!("*(u8 *)(r0 + {size}) = 1")), "TG0304", 7);
        refuses(&value(map, "r2 = *(u8 *)(r0 - 1)"), "TG0304", 7);
    }
    // An index that comes from the value itself.
    let indexed = |bound: &str| {
        value(1, &format!("r2 = *(u64 *)(r0 + 0)\n {bound}\n r0 += r2\n r3 = *(u32 *)(r0 + 0)"))
    };
    for bound in [
        "r2 &= 60",
        "r2 &= 31",
        "if r2 > 60 goto out",
        "r2 %= 61",
        "r2 >>= 59",
        "r2 <<= 58\n r2 >>= 58\n r2 &= 60",
    ] {
        accepts(&indexed(bound));
    }
    for (bound, at) in [
        ("r2 &= 63", 10),
        ("if r2 > 61 goto out", 10),
        ("if r2 s> 60 goto out", 10),
        ("if w2 > 60 goto out", 10),
        ("r2 &= -4", 10),
        ("r2 %= 62", 10),
        ("r2 s%= 8", 10),
    ] {
        refuses(&indexed(bound), "TG0304", at);
    }
}

#[test]
fn a_lookup_that_may_have_failed_is_no_pointer_yet() {
    refuses(&lookup(0, "r2 = *(u64 *)(r0 + 0)"), "TG0302", 6);
    refuses(&lookup(0, "*(u64 *)(r0 + 0) = 1"), "TG0302", 6);
    refuses(&lookup(0, "r0 += 8"), "TG0302", 6);
    refuses(&lookup(0, "r2 = 1\n lock *(u64 *)(r0 + 0) += r2"), "TG0302", 7);
    refuses(&lookup(0, "if r0 != 0 goto out\n r2 = *(u64 *)(r0 + 0)"), "TG0301", 7);
    // The check of one copy tells of all: in a register, on the stack, before or after.
    accepts(&lookup(0, "r6 = r0\n if r0 == 0 goto out\n r2 = *(u64 *)(r6 + 0)"));
    accepts(&lookup(
        0,
        "*(u64 *)(r10 - 16) = r0\n if r0 == 0 goto out\n r6 = *(u64 *)(r10 - 16)\n r2 = *(u64 *)(r6 + 0)",
    ));
    accepts(&lookup(0, "r6 = r0\n if r6 != 0 goto use\n goto out\n use:\n r2 = *(u64 *)(r0 + 0)"));
    // But not of another lookup's result.
    let second =
        "r6 = r0\n r2 = r10\n r2 += -8\n r1 = map 0\n call bpf_map_lookup_elem\n if r0 == 0 goto out";
    refuses(&lookup(0, &format!("{second}\n r2 = *(u64 *)(r6 + 0)")), "TG0302", 13);
    accepts(&lookup(0, &format!("{second}\n r2 = *(u64 *)(r0 + 0)")));
}

#[test]
fn the_packet_the_context_and_read_only_maps_are_not_written() {
    let packet = |access: &str| {
        format!(
            "r2 = *(u64 *)(r1 + 0)\n r3 = *(u64 *)(r1 + 8)\n r4 = r2\n r4 += 8\n if r4 > r3 goto out\n {access}\n out:\n r0 = 0\n exit"
        )
    };
    accepts(&packet("r5 = *(u64 *)(r2 + 0)"));
    for store in ["*(u8 *)(r2 + 0) = 1", "*(u64 *)(r2 + 0) = r4", "lock *(u64 *)(r2 + 0) += r4"] {
        let told = refuses(&packet(store), if store.contains("lock") { "TG0202" } else { "TG0306" }, 5);
        assert!(told.contains('r'), "{told}");
    }
    refuses(&packet("r5 = 1\n lock *(u64 *)(r2 + 0) += r5"), "TG0306", 6);
    accepts(&value(2, "r2 = *(u64 *)(r0 + 0)"));
    refuses(&value(2, "*(u64 *)(r0 + 0) = 1"), "TG0306", 7);
    refuses(&value(2, "r2 = 1\n lock *(u64 *)(r0 + 0) += r2"), "TG0306", 8);
    accepts("r2 = value 2 + 8\n r3 = *(u64 *)(r2 + 48)\n r0 = 0\n exit");
    refuses("r2 = value 2 + 8\n r3 = *(u64 *)(r2 + 56)\n r0 = 0\n exit", "TG0304", 2);
    refuses("r2 = value 2 + 8\n *(u64 *)(r2 + 0) = 1\n r0 = 0\n exit", "TG0306", 2);
    refuses("r2 = map 1\n r3 = *(u64 *)(r2 + 0)\n r0 = 0\n exit", "TG0301", 2);
}

#[test]
fn addresses_stay_in_registers_and_on_the_stack() {
    for pointer in ["r10", "r0"] {
        refuses(&value(1, &format!("*(u64 *)(r0 + 0) = {pointer}")), "TG0204", 7);
    }
    refuses("*(u32 *)(r1 + 96) = r10\n r0 = 0\n exit", "TG0204", 0);
    for leak in ["r0 = r10\n exit", "r0 = r1\n exit", "r0 = *(u64 *)(r1 + 8)\n exit", "r0 = map 0\n exit"] {
        assert_eq!(judge(ProgramType::Stream, leak).unwrap_err().code.text(), "TG0204", "{leak}");
    }
    // Through memory that a helper reads.
    let key = "*(u64 *)(r10 - 8) = r1\n r2 = r10\n r2 += -8\n r1 = map 0\n call bpf_map_lookup_elem\n r0 = 0\n exit";
    refuses(key, "TG0204", 5);
    refuses("r2 = r10\n r3 = 0\n call tidegate_remove\n r0 = 0\n exit", "TG0204", 2);
    refuses("r2 = r1\n r3 = 0\n call tidegate_remove\n r0 = 0\n exit", "TG0204", 2);
    // Through arithmetic and comparisons.
    for leak in [
        "r2 = r10\n r2 *= 2",
        "r2 = r10\n r2 ^= 1",
        "r2 = r10\n r2 = -r2",
        "w2 = w10",
        "r2 = r10\n r2 = be64 r2",
        "r2 = 5\n r2 -= r10",
        "r2 = r10\n r2 &= -8",
        "r2 = r10\n r2 -= r1",
    ] {
        let refused = judge(ProgramType::Stream, &body(leak)).unwrap_err();
        assert_eq!(refused.code.text(), "TG0202", "{leak}");
    }
    for leak in [
        "if r10 > 5 goto out",
        "if r1 == 7 goto out",
        "if w10 == 0 goto out",
        "if r10 s> r1 goto out",
        "if r10 & 1 goto out",
        "if r10 == r1 goto out",
    ] {
        let refused = judge(ProgramType::Stream, &format!("{leak}\n out:\n r0 = 0\n exit")).unwrap_err();
        assert_eq!(refused.code.text(), "TG0203", "{leak}");
    }
}

#[test]
fn atomics_are_aligned_and_on_numbers() {
    for at in [0, 8, 56] {
        accepts(&value(1, &format!("r2 = 1\n lock *(u64 *)(r0 + {at}) += r2")));
    }
    accepts(&value(1, "r2 = 1\n lock *(u32 *)(r0 + 60) += r2"));
    refuses(&value(1, "r2 = 1\n lock *(u64 *)(r0 + 4) += r2"), "TG0307", 8);
    refuses(&value(1, "r2 = 1\n lock *(u32 *)(r0 + 2) += r2"), "TG0307", 8);
    refuses(&value(1, "r2 = 1\n lock *(u64 *)(r0 + 64) += r2"), "TG0304", 8);
    accepts(&body("r2 = 1\n lock fetch *(u64 *)(r10 - 8) += r2\n r3 = r2"));
    refuses(&body("r2 = 1\n lock *(u64 *)(r10 - 12) += r2"), "TG0307", 1);
    // What comes back is any number of that width.
    refuses(
        &value(1, "r2 = 1\n lock fetch *(u64 *)(r0 + 0) += r2\n r0 += r2\n r3 = *(u8 *)(r0 + 0)"),
        "TG0304",
        10,
    );
    refuses(
        "r0 = 1\n *(u64 *)(r10 - 8) = 2\n r2 = 0\n lock *(u64 *)(r10 - 8) cmpxchg r2\n exit",
        "TG0601",
        4,
    );
    // Compare-and-exchange reads r0.
    refuses("r2 = 0\n lock *(u64 *)(r10 - 8) cmpxchg r2\n r0 = 0\n exit", "TG0201", 1);
}

#[test]
fn registers_hold_something_before_they_are_read() {
    for register in [0, 2, 3, 4, 5, 6, 7, 8, 9] {
        // A copy holds nothing too; compilers make such copies, and never use them.
        accepts(&body(&format!("r7 = r{register}\n w8 = w{register}\n r1 = (s8)r{register}")));
        for used in
            ["r7 += 1", "r0 = r7\n exit", "*(u64 *)(r10 - 8) = r7", "if r7 == 0 goto end\n end:", "r1 += r7"]
        {
            let at = usize::from(used.starts_with("r0")) + 1;
            refuses(&body(&format!("r7 = r{register}\n {used}")), "TG0201", at);
        }
    }
    refuses("exit", "TG0201", 0);
    // On every path.
    let one_way = "r2 = *(u64 *)(r1 + 16)\n if r2 == 0 goto skip\n r0 = 1\n skip:\n exit";
    refuses(one_way, "TG0201", 3);
    refuses("call bpf_ktime_get_ns\n r0 = r1\n exit", "TG0201", 2);
    refuses(
        "r2 = r10\n r2 += -8\n *(u64 *)(r10 - 8) = 0\n r1 = map 0\n call bpf_map_lookup_elem\n r2 = *(u64 *)(r10 - 8)\n r0 = r3\n exit",
        "TG0201",
        8,
    );
}

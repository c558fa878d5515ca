//! Calls, resources, loops and the end of a run.
mod common;
use common::{accepts, judge};
use core::sync::atomic::AtomicU8;
use tidegate_abi::helper::{Arg, HELPERS};
use tidegate_abi::{ProgramType, Verdict, limits};
use tidegate_verifier::{Argument, Options, Program, verify};

const KEY: &str = "*(u64 *)(r10 - 8) = 0\n r2 = r10\n r2 += -8\n r1 = map 0";
const RESERVE: &str = "r1 = map 3\n r2 = 16\n r3 = 0\n call bpf_ringbuf_reserve";
const SUBMIT: &str = "r1 = r6\n r2 = 0\n call bpf_ringbuf_submit";

fn body(text: &str) -> String {
    format!("{text}\n out:\n r0 = 0\n exit")
}

#[track_caller]
fn told(text: &str, code: &str) {
    match judge(ProgramType::Stream, text) {
        Ok(_) => panic!("accepted, and {code} was expected\n{text}"),
        Err(refusal) => assert_eq!(refusal.code.text(), code, "{}: {refusal}\n{text}", refusal.insn),
    }
}

#[test]
fn a_helper_is_called_by_its_program_types_only() {
    for helper in HELPERS {
        for program_type in ProgramType::ALL {
            // The first argument is not what any helper wants, so that only the helper itself can pass.
            let text = format!(
                "r6 = r1\n r1 = r10\n r2 = r10\n r3 = r10\n r4 = r10\n r5 = r10\n call {}\n r0 = 0\n exit",
                helper.name
            );
            let judged = judge(program_type, &text);
            let code = judged.as_ref().err().map(|refusal| refusal.code.text());
            let may = helper.program_types.contains(program_type);
            assert_eq!(code != Some("TG0401"), may, "{} {program_type:?}: {code:?}", helper.name);
            let refused = !helper.params.is_empty() || !may;
            assert_eq!(code.is_some(), refused, "{} {program_type:?}", helper.name);
        }
    }
    told(&body("call 4"), "TG0401");
    told(&body("call 0x7fffffff"), "TG0401");
}

#[test]
fn every_kind_of_argument_is_demanded() {
    accepts(&body(&format!("{KEY}\n call bpf_map_lookup_elem")));
    told(&body("r2 = r10\n r2 += -8\n r1 = 0\n call bpf_map_lookup_elem"), "TG0402");
    told(&body("r2 = r10\n r2 += -8\n r1 = map 3\n call bpf_map_lookup_elem"), "TG0402");
    told(&body("r2 = r10\n r2 += -4\n r1 = map 0\n call bpf_map_lookup_elem"), "TG0304");
    told(&body("r2 = 0\n r1 = map 0\n call bpf_map_lookup_elem"), "TG0301");
    // Array maps have keys of four bytes, and nothing is deleted from them.
    accepts(&body("r2 = r10\n r2 += -4\n r1 = map 1\n call bpf_map_lookup_elem"));
    told(&body("r2 = r10\n r2 += -4\n r1 = map 1\n call bpf_map_delete_elem"), "TG0402");
    // Flags are known at load.
    let update = |flags: &str| {
        body(&format!(
            "r6 = *(u64 *)(r1 + 16)\n {KEY}\n r3 = r10\n r3 += -24\n {flags}\n call bpf_map_update_elem"
        ))
    };
    for flags in ["r4 = 0", "r4 = 1", "r4 = 2", "r4 = 3"] {
        accepts(&update(flags));
    }
    for flags in ["r4 = 4", "r4 = -1", "r4 = r6", "r4 = r6\n r4 &= 1", "r4 = r10"] {
        told(&update(flags), "TG0402");
    }
    // The context is the context, unchanged.
    let remove = |context: &str| {
        body(&format!("r6 = r1\n r7 = *(u64 *)(r1 + 0)\n {context}\n r2 = 0\n r3 = 1\n call tidegate_remove"))
    };
    accepts(&remove("r1 = r6"));
    for context in ["r1 = r7", "r1 += 8", "r1 = r10", "r1 = 0"] {
        told(&remove(context), "TG0402");
    }
}

#[test]
fn what_a_helper_is_given_on_every_path_is_told() {
    // r4 is 0 on one path and 1 on the other, r3 points somewhere, and the map is the same.
    let verified = accepts(&format!(
        "r6 = *(u64 *)(r1 + 16)\n {KEY}\n r3 = r10\n r3 += -24\n *(u64 *)(r3 + 0) = 0\n *(u64 *)(r3 + 8) = 0\n r4 = 0\n call bpf_map_update_elem\n
         {KEY}\n r3 = r10\n r3 += -24\n r4 = 0\n if r6 == 0 goto call\n r4 = 1\n call:\n call bpf_map_update_elem\n r0 = 0\n exit"
    ));
    let calls = verified.insns().iter().zip(0..).filter(|(insn, _)| insn.is_helper_call());
    let told: Vec<_> =
        calls.map(|(_, slot)| [0, 1, 2, 3].map(|index| verified.argument(slot, index))).collect();
    let map = Some(Argument::Map(0));
    assert_eq!(told, [[map, None, None, Some(Argument::Number(0))], [map, None, None, None]]);
    // A call that no path reaches is given nothing; other instructions have no arguments.
    let verified = accepts("r0 = 0\n if r0 == 0 goto out\n call bpf_ktime_get_ns\n r0 = 0\n out:\n exit");
    assert_eq!([0, 1, 2].map(|slot| verified.argument(slot, 0)), [None; 3]);
    // Rounds of a loop are paths.
    let verified = accepts(&format!(
        "r6 = 0\n top:\n {KEY}\n r3 = r10\n r3 += -24\n *(u64 *)(r3 + 0) = 0\n *(u64 *)(r3 + 8) = 0\n r4 = r6\n r4 &= 1\n r5 = 7\n call bpf_map_update_elem\n
         r6 += 1\n if r6 < 9 goto top\n r0 = 0\n exit"
    ));
    let slot = verified.insns().iter().position(|insn| insn.is_helper_call()).unwrap();
    assert_eq!([0, 3].map(|index| verified.argument(slot, index)), [map, None]);
}

#[test]
fn sizes_are_within_their_bounds_and_their_memory() {
    let find = |size: &str| {
        body(&format!("r6 = *(u64 *)(r1 + 16)\n r2 = 0\n r3 = r10\n r3 += -32\n {size}\n call tidegate_find"))
    };
    for size in [
        "r4 = 1",
        "r4 = 32",
        "r4 = r6\n r4 &= 31\n r4 += 1",
        "r4 = r6\n if r4 == 0 goto out\n if r4 > 32 goto out",
    ] {
        accepts(&find(size));
    }
    for (size, code) in [
        ("r4 = 0", "TG0403"),
        ("r4 = -1", "TG0403"),
        ("r4 = 257", "TG0403"),
        ("r4 = r6", "TG0403"),
        ("r4 = r6\n r4 &= 31", "TG0403"),
        ("r4 = r6\n if r4 s> 32 goto out", "TG0403"),
        ("r4 = r6\n if w4 > 32 goto out\n if w4 == 0 goto out", "TG0403"),
        ("r4 = 33", "TG0304"),
        ("r4 = r6\n r4 &= 63\n r4 += 1", "TG0304"),
        ("r4 = r10", "TG0402"),
    ] {
        told(&find(size), code);
    }
    // What a helper writes: not the packet, not a read-only map, not over a pointer that is read later.
    let load = |to: &str| body(&format!("r6 = r1\n r2 = 0\n {to}\n r4 = 16\n call tidegate_load_bytes"));
    accepts(&load("r3 = r10\n r3 += -16"));
    accepts(&load("r3 = value 1 + 48"));
    told(&load("r3 = value 1 + 49"), "TG0304");
    told(&load("r3 = value 2 + 0"), "TG0306");
    told(&load("r3 = r6"), "TG0306");
    told(&load("r3 = 0"), "TG0301");
    let over = "*(u64 *)(r10 - 8) = r1\n r2 = 0\n r3 = r10\n r3 += -16\n r4 = 16\n call tidegate_load_bytes\n r6 = *(u64 *)(r10 - 8)\n r0 = *(u64 *)(r6 + 16)\n r0 = 0\n exit";
    assert!(judge(ProgramType::Stream, over).is_err());
    // Size zero is a size where the table says so.
    accepts(&body("r2 = 0\n r3 = r10\n r4 = 0\n call tidegate_load_bytes"));
    assert!(
        HELPERS
            .iter()
            .any(|helper| helper.params.iter().any(|param| matches!(param.arg, Arg::Size { min: 0, .. })))
    );
}

#[test]
fn a_record_is_given_back_exactly_once_on_every_path() {
    accepts(&body(&format!("{RESERVE}\n if r0 == 0 goto out\n r6 = r0\n *(u64 *)(r6 + 8) = 1\n {SUBMIT}")));
    accepts(&body(&format!(
        "{RESERVE}\n r6 = r0\n if r6 == 0 goto out\n r1 = r6\n r2 = 0\n call bpf_ringbuf_discard"
    )));
    // Kept: always, on one path, or when the null check is missing.
    told(&body(RESERVE), "TG0501");
    told(&body(&format!("{RESERVE}\n if r0 == 0 goto out\n *(u64 *)(r0 + 0) = 1")), "TG0501");
    told(
        &body(&format!(
            "r7 = *(u64 *)(r1 + 16)\n {RESERVE}\n if r0 == 0 goto out\n r6 = r0\n if r7 == 0 goto out\n {SUBMIT}"
        )),
        "TG0501",
    );
    told(&body(&format!("{RESERVE}\n if r0 != 0 goto out")), "TG0501");
    told(&body(&format!("{RESERVE}\n r6 = r0\n {SUBMIT}")), "TG0302");
    // Twice, or used afterwards, through any copy.
    let held = format!(
        "{RESERVE}\n if r0 == 0 goto out\n r6 = r0\n r7 = r0\n r7 += 8\n *(u64 *)(r10 - 8) = r0\n r8 = r0\n {SUBMIT}"
    );
    for after in [
        "r1 = r6\n r2 = 0\n call bpf_ringbuf_submit",
        "r1 = r8\n r2 = 0\n call bpf_ringbuf_discard",
        "r2 = *(u64 *)(r6 + 0)",
        "*(u64 *)(r7 + 0) = 1",
        "r9 = r8",
    ] {
        told(&body(&format!("{held}\n {after}")), "TG0502");
    }
    assert!(
        judge(
            ProgramType::Stream,
            &body(&format!("{held}\n r1 = *(u64 *)(r10 - 8)\n r2 = *(u64 *)(r1 + 0)"))
        )
        .is_err()
    );
    // Only its start, and only a record.
    told(&body(&format!("{RESERVE}\n if r0 == 0 goto out\n r6 = r0\n r6 += 8\n {SUBMIT}")), "TG0402");
    told(&body("r1 = r10\n r1 += -16\n r2 = 0\n call bpf_ringbuf_submit"), "TG0402");
    // As large as was asked for, by a number known at load.
    told(
        &body(&format!("{RESERVE}\n if r0 == 0 goto out\n r6 = r0\n *(u64 *)(r6 + 9) = 1\n {SUBMIT}")),
        "TG0304",
    );
    told(&body("r2 = *(u64 *)(r1 + 16)\n r1 = map 3\n r3 = 0\n call bpf_ringbuf_reserve"), "TG0402");
    told(&body("r1 = map 3\n r2 = 0\n r3 = 0\n call bpf_ringbuf_reserve"), "TG0402");
    // In a loop that never gives back, and more than may be held.
    let nine = format!("{RESERVE}\n").repeat(9);
    told(&body(&nine), "TG0503");
}

#[test]
fn a_clone_is_opaque_and_given_back() {
    let clone = "r6 = r1\n call tidegate_clone_stream_data\n r7 = r0\n if r0 == 0 goto out";
    accepts(&body(&format!(
        "{clone}\n r1 = r6\n r2 = r7\n r3 = 0\n call tidegate_stream_inject\n r0 = 2\n exit"
    )));
    accepts(&body(&format!("{clone}\n r1 = r7\n call tidegate_clone_discard")));
    told(&body(clone), "TG0501");
    told(&body(&format!("{clone}\n r2 = *(u8 *)(r7 + 0)")), "TG0301");
    told(&body(&format!("{clone}\n r7 += 1")), "TG0202");
    told(&body(&format!("{clone}\n r1 = r7\n r2 = 0\n call bpf_ringbuf_submit")), "TG0402");
    told(
        &body(&format!(
            "{clone}\n r1 = r7\n call tidegate_clone_discard\n r1 = r7\n call tidegate_clone_discard"
        )),
        "TG0502",
    );
    told(
        &body(&format!("{RESERVE}\n if r0 == 0 goto out\n r1 = r0\n call tidegate_clone_discard")),
        "TG0402",
    );
}

#[test]
fn loops_end_or_are_refused() {
    for bounded in [
        "r2 = 0\n top:\n r2 += 1\n if r2 < 100 goto top",
        "r2 = 100\n top:\n r2 -= 1\n if r2 != 0 goto top",
        "r2 = *(u64 *)(r1 + 16)\n if r2 > 50 goto out\n top:\n r2 += 1\n if r2 < 60 goto top",
        "w2 = 0\n top:\n w2 += 3\n if w2 s< 99 goto top",
        "r2 = 0\n r4 = 0\n top:\n r4 = 0\n inner:\n r4 += 1\n if r4 < 7 goto inner\n r2 += 1\n if r2 < 9 goto top",
    ] {
        let verified = accepts(&body(bounded));
        assert!(verified.max_cost() > 10);
    }
    for endless in [
        "top:\n goto top",
        "r2 = 0\n top:\n r2 += 0\n if r2 < 100 goto top",
        "r2 = *(u64 *)(r1 + 16)\n top:\n r2 += 1\n if r2 != 0 goto top",
        "r2 = 1\n top:\n r2 <<= 1\n r2 |= 1\n if r2 != 0 goto top",
        "r2 = *(u64 *)(r1 + 16)\n top:\n r2 -= 2\n if r2 != 1 goto top",
        "r6 = r1\n top:\n call bpf_get_prandom_u32\n if r0 != 7 goto top",
        "r2 = 0\n top:\n r2 += 1\n r2 &= 15\n if r2 < 100 goto top",
        "r2 = 0\n top:\n r2 += 1\n if r2 == 50 goto top\n if r2 > 1 goto back\n goto top\n back:\n r2 = 0\n goto top",
    ] {
        let refusal = judge(ProgramType::Stream, &body(endless)).expect_err(endless);
        assert!(
            matches!(refusal.code.text(), "TG0602" | "TG0901" | "TG0902"),
            "{} {refusal}\n{endless}",
            refusal.code
        );
    }
}

/// A run that no link could ever bring to its end is refused where its author sees it, not where it is linked.
#[test]
fn no_program_costs_more_than_any_link_allows() {
    let nested = |depth: u32, rounds: u32| {
        let (mut before, mut after) = (String::new(), String::new());
        for at in 2..2 + depth {
            before += &format!("r{at} = 0\n top{at}:\n");
            after.insert_str(0, &format!("r{at} += 1\n if r{at} < {rounds} goto top{at}\n"));
        }
        body(&(before + &after))
    };
    let most = u64::from(limits::MAX_BUDGET);
    assert!((most / 2..=most).contains(&accepts(&nested(2, 2400)).max_cost()));
    for (depth, rounds) in [(2, 3000), (3, 3000), (7, 1_000_000)] {
        told(&nested(depth, rounds), "TG0605");
    }
}

/// Nobody can be made to wait for the end of a verification that nobody wants any more.
#[test]
fn a_verification_is_cancelled_by_a_byte_and_ends_in_a_few_steps() {
    let long = "r2 = 0\n top:\n r2 += 1\n if r2 < 100000 goto top";
    let code = common::assemble(&body(long));
    let program = Program { program_type: ProgramType::Stream, code: &code, maps: &[] };
    let verify = |byte: u8| {
        let cancelled = AtomicU8::new(byte);
        verify(&program, &Options { cancelled: Some(&cancelled), ..Options::default() })
            .map(|done| done.steps())
    };
    assert_eq!(verify(1).expect_err("cancelled").code.text(), "TG0903");
    assert_eq!(verify(0).ok(), accepts_or_not(&program), "a byte that stays 0 changes nothing");
}

fn accepts_or_not(program: &Program<'_>) -> Option<u32> {
    verify(program, &Options::default()).ok().map(|done| done.steps())
}

#[test]
fn functions_have_frames_arguments_and_a_depth() {
    accepts("call twice\n r0 &= 1\n exit\n twice:\n r0 = 4\n r0 *= 2\n exit");
    // r6 to r9 survive, r1 to r5 do not, and the callee sees none of the caller's.
    accepts("r6 = r1\n call f\n r0 = *(u64 *)(r6 + 16)\n r0 = 0\n exit\n f:\n r0 = 0\n r6 = 0\n exit");
    told("call f\n r0 = *(u64 *)(r1 + 16)\n exit\n f:\n r0 = 0\n exit", "TG0201");
    told("r6 = 1\n call f\n exit\n f:\n r0 = r6\n exit", "TG0201");
    told("call f\n exit\n f:\n exit", "TG0201");
    // A pointer into a frame lives as long as the frame.
    accepts(
        "r1 = r10\n r1 += -8\n call f\n r0 = *(u64 *)(r10 - 8)\n r0 &= 1\n exit\n f:\n *(u64 *)(r1 + 0) = 1\n r0 = 0\n exit",
    );
    told("call f\n r0 = *(u64 *)(r0 - 8)\n r0 = 0\n exit\n f:\n r0 = r10\n exit", "TG0201");
    let stored = "r1 = r10\n r1 += -8\n call f\n r2 = *(u64 *)(r10 - 8)\n r0 = *(u64 *)(r2 - 8)\n r0 = 0\n exit\n f:\n *(u64 *)(r1 + 0) = r10\n r0 = 0\n exit";
    assert!(judge(ProgramType::Stream, stored).is_err());
    // Eight frames.
    let chain = |frames: usize| {
        let calls: String = (1..frames).map(|n| format!("f{n}:\n call f{}\n exit\n", n + 1)).collect();
        format!("call f1\n exit\n {calls} f{frames}:\n r0 = 0\n exit")
    };
    accepts(&chain(7));
    told(&chain(8), "TG0404");
    told("call f\n exit\n f:\n call f\n exit", "TG0404");
}

#[test]
fn indirect_calls_go_to_functions_only() {
    let function = "f:\n r0 = 0\n exit";
    accepts(&format!("r3 = code f\n callx r3\n exit\n {function}"));
    for target in [
        "r3 = 3",
        "r3 = r10",
        "r3 = r1",
        "r3 = map 0",
        "r3 = code f\n *(u64 *)(r10 - 8) = 0\n r3 = *(u64 *)(r10 - 8)",
    ] {
        told(&format!("{target}\n callx r3\n exit\n {function}"), "TG0405");
    }
    told(&format!("r3 = code f\n r3 += 8\n callx r3\n exit\n {function}"), "TG0202");
    told(&format!("r3 = code f\n r0 = *(u64 *)(r3 + 0)\n exit\n {function}"), "TG0301");
}

#[test]
fn what_is_returned_is_a_verdict_of_the_program_type() {
    for program_type in ProgramType::ALL {
        for r0 in -1..9_i64 {
            let may = Verdict::from_r0(program_type, r0 as u64).is_some();
            assert_eq!(
                judge(program_type, &format!("r0 = {r0}\n exit")).is_ok(),
                may,
                "{program_type:?} {r0}"
            );
        }
    }
    accepts("r0 = *(u64 *)(r1 + 16)\n r0 &= 3\n exit");
    for any in ["", "r0 &= 7", "if w0 > 3 goto out", "if r0 s> 3 goto out", "r0 s%= 3"] {
        told(&format!("r0 = *(u64 *)(r1 + 16)\n {any}\n exit\n out:\n r0 = 0\n exit"), "TG0601");
    }
    // Only the lower half is zero.
    told("r0 = 0x100000000 ll\n exit", "TG0601");
}

//! WFP's contract: what a program does to the bytes shown fits the verdict that it gives.
mod common;
use common::{accepts, judge};
use tidegate_abi::helper::{Capability, Effect, HELPERS};
use tidegate_abi::{ProgramType, Verdict};

const BLOCK: u8 = Verdict::Block as u8;
const MORE: u8 = Verdict::NeedMoreData as u8;

#[track_caller]
fn told(program_type: ProgramType, text: &str, code: &str) {
    match judge(program_type, text) {
        Ok(_) => panic!("accepted, and {code} was expected\n{text}"),
        Err(refusal) => assert_eq!(refusal.code.text(), code, "{}: {refusal}\n{text}", refusal.insn),
    }
}

/// Clones what is shown, and gives the clone to the helper that injects it; then `rest`.
fn inject(program_type: ProgramType, rest: &str) -> String {
    let (clone, inject) = match program_type {
        ProgramType::Stream => ("tidegate_clone_stream_data", "tidegate_stream_inject"),
        ProgramType::Send => ("tidegate_clone_net_buffer_list", "tidegate_inject_transport_send"),
    };
    format!(
        "r6 = r1\n call {clone}\n if r0 == 0 goto out\n r1 = r6\n r2 = r0\n r3 = 0\n call {inject}\n {rest}
         exit\n out:\n r0 = 1\n exit"
    )
}

#[test]
fn who_injects_a_clone_of_all_that_is_shown_blocks_it() {
    for program_type in ProgramType::ALL {
        for verdict in
            Verdict::ALL.into_iter().filter(|verdict| verdict.program_types().contains(program_type))
        {
            let text = inject(program_type, &format!("r0 = {}", verdict as u8));
            match judge(program_type, &text) {
                Ok(_) => assert_eq!(verdict, Verdict::Block, "{program_type:?}"),
                Err(refusal) => {
                    assert_eq!(refusal.code.text(), "TG0603", "{refusal}");
                    assert_ne!(verdict, Verdict::Block, "{program_type:?}");
                }
            }
        }
        // What the helper says of its success is no verdict to be given.
        told(program_type, &inject(program_type, "r0 &= 1"), "TG0603");
        told(program_type, &inject(program_type, "r0 = 2\n if r6 == 0 goto out\n r0 = 1"), "TG0603");
        // On another path, joined with one that injected.
        let either = format!(
            "r7 = *(u64 *)(r1 + 16)\n {}",
            inject(program_type, &format!("goto end\n out:\n if r7 == 0 goto end\n end:\n r0 = {BLOCK}"))
        );
        let either = either.replacen("exit\n out:\n r0 = 1\n exit", "exit", 1);
        assert!(judge(program_type, &either).is_ok(), "{either}");
        told(program_type, &either.replace(&format!("r0 = {BLOCK}"), "r0 = 1"), "TG0603");
    }
}

#[test]
fn more_data_is_not_asked_for_where_none_can_come() {
    let flags = "r2 = *(u32 *)(r1 + 40)";
    let program = |test: &str, set: u8, clear: u8| {
        format!("{flags}\n {test} goto set\n r0 = {clear}\n exit\n set:\n r0 = {set}\n exit")
    };
    let tests = [
        "if r2 & 16",
        "if w2 & 16",
        "r2 &= 16\n if r2 != 0",
        "w2 &= 16\n if w2 == 16",
        "r2 &= 16\n if r2 s> 0",
    ];
    for test in tests {
        accepts(&program(test, 1, MORE));
        told(ProgramType::Stream, &program(test, MORE, 1), "TG0604");
    }
    // Through a copy, through the stack, by a second load of the field, and in a function.
    for test in [
        "r3 = r2\n if r3 & 16",
        "*(u32 *)(r10 - 8) = r2\n r3 = *(u32 *)(r10 - 8)\n if r3 & 16",
        "r2 = 0\n r2 = *(u32 *)(r1 + 40)\n r4 = r2\n if r4 & 16",
    ] {
        told(ProgramType::Stream, &program(test, MORE, 1), "TG0604");
    }
    told(
        ProgramType::Stream,
        &format!(
            "{flags}\n r1 = r2\n r6 = r2\n call f\n if r6 & 16 goto set\n exit\n set:\n r0 = {MORE}\n exit\n f:\n r0 = 0\n exit"
        ),
        "TG0604",
    );
    // Other flags tell nothing of it.
    accepts(&program("if r2 & 4", MORE, 1));
    accepts(&program("r2 &= 24\n if r2 != 0", MORE, 1));
    accepts(&program("r2 &= 16\n if r2 == 0", MORE, 1));
}

#[test]
fn an_edit_can_lie_inside_of_what_is_shown() {
    let remove = |offset: &str, size: &str| {
        format!(
            "r6 = *(u64 *)(r1 + 16)\n r2 = {offset} ll\n r3 = {size} ll\n call tidegate_remove\n r0 = 1\n exit"
        )
    };
    for (offset, size) in [("0", "65536"), ("65536", "0"), ("65535", "1"), ("4", "8")] {
        accepts(&remove(offset, size));
    }
    for (offset, size) in [("0", "65537"), ("65537", "0"), ("65535", "2"), ("-1", "1"), ("8", "-8")] {
        told(ProgramType::Stream, &remove(offset, size), "TG0406");
    }
    // What is not known at load is held against what is shown when it runs.
    accepts("r2 = *(u64 *)(r1 + 16)\n r3 = r2\n call tidegate_remove\n r0 = 1\n exit");
}

#[test]
fn new_bytes_are_bounded_on_every_path_and_in_every_round() {
    let insert =
        |size: u32| format!("r1 = r6\n r2 = 0\n r3 = value 1 + 0\n r4 = {size}\n call tidegate_insert");
    let bytes = |text: &str| accepts(&format!("r6 = r1\n {text}\n r0 = 1\n exit")).max_new_bytes();
    assert_eq!(bytes(""), 0);
    assert_eq!(bytes(&insert(10)), 10);
    assert_eq!(bytes(&format!("{}\n {}", insert(10), insert(7))), 17);
    let own = "r1 = r6\n r2 = 0\n r3 = value 1 + 0\n r4 = 12\n r5 = 0\n call tidegate_stream_inject_data";
    assert_eq!(bytes(&format!("{}\n {own}", insert(10))), 22);
    let branch = format!(
        "r7 = *(u64 *)(r1 + 16)\n if r7 == 0 goto other\n {}\n goto end\n other:\n {}\n end:",
        insert(9),
        insert(20)
    );
    assert_eq!(bytes(&branch), 20);
    let rounds = bytes(&format!("r7 = 0\n top:\n {}\n r7 += 1\n if r7 < 20 goto top", insert(3)));
    assert!((60..=63).contains(&rounds), "{rounds}");
    // Rounds in rounds, and a function that is called in each.
    let nested = format!(
        "r7 = 0\n top:\n r8 = 0\n in:\n {}\n r8 += 1\n if r8 < 2 goto in\n {}\n r7 += 1\n if r7 < 3 goto top",
        insert(5),
        insert(1)
    );
    assert_eq!(bytes(&nested), 3 * (2 * 5 + 1));
    let called = format!(
        "r7 = 0\n top:\n r1 = r6\n call f\n r1 = r6\n call f\n r7 += 1\n if r7 < 3 goto top\n r0 = 1\n exit\n f:\n r6 = r1\n {}",
        insert(4)
    );
    assert_eq!(bytes(&called), 3 * 2 * 4);
    // No run brings more than the engine takes.
    assert_eq!(bytes(&format!("r7 = 0\n top:\n {}\n r7 += 1\n if r7 < 2000 goto top", insert(60))), 3 * 2048);
}

#[test]
fn what_a_program_does_is_told_for_those_who_grant_it() {
    let powers = |program_type: ProgramType, text: &str| {
        judge(program_type, text).unwrap_or_else(|refusal| panic!("{refusal}\n{text}")).capabilities().0
    };
    let stream = |text: &str| powers(ProgramType::Stream, text);
    assert_eq!(stream("r0 = 1\n exit"), 0);
    for taking in [Verdict::Block, Verdict::DropConnection] {
        assert_eq!(stream(&format!("r0 = {}\n exit", taking as u8)), Capability::DROP.0);
    }
    assert_eq!(stream("r0 = *(u64 *)(r1 + 16)\n r0 &= 3\n exit"), Capability::DROP.0);
    assert_eq!(stream("r0 = *(u64 *)(r1 + 16)\n r0 &= 1\n exit"), 0);
    let load = "r2 = *(u64 *)(r1 + 0)\n r3 = *(u64 *)(r1 + 8)\n r4 = r2\n r4 += 1\n if r4 > r3 goto out\n r2 = *(u8 *)(r2 + 0)\n out:\n r0 = 0\n exit";
    assert_eq!(stream(load), Capability::SEE_PAYLOAD.0);
    // A block in whose place something is injected takes nothing away.
    for program_type in ProgramType::ALL {
        let all = powers(program_type, &inject(program_type, &format!("r0 = {BLOCK}")));
        assert_eq!(all, Capability::EDIT.0 | Capability::INJECT.0);
    }
}

#[test]
fn the_verdicts_that_may_be_given_are_known() {
    let verdicts = |text: &str| {
        let given = accepts(text).verdicts();
        Verdict::ALL.into_iter().filter(|verdict| given.contains(*verdict)).collect::<Vec<_>>()
    };
    use Verdict::*;
    assert_eq!(verdicts("r0 = 3\n exit"), [NeedMoreData]);
    assert_eq!(
        verdicts("r2 = *(u64 *)(r1 + 16)\n r0 = 1\n if r2 == 0 goto out\n r0 = 4\n out:\n exit"),
        [Permit, DropConnection]
    );
    // By its bits, not only by its bounds.
    assert_eq!(verdicts("r0 = *(u64 *)(r1 + 16)\n r0 &= 2\n exit"), [Continue, Block]);
}

#[test]
fn flags_of_an_inject_are_those_of_its_row() {
    for helper in HELPERS.iter().filter(|helper| helper.effect() == Effect::Replace) {
        for program_type in ProgramType::ALL.into_iter().filter(|kind| helper.program_types.contains(*kind)) {
            for (flags, may) in [("r3 = 0", true), ("r3 = 1", false), ("r3 = *(u32 *)(r6 + 40)", false)] {
                let text = inject(program_type, &format!("r0 = {BLOCK}")).replace("r3 = 0", flags);
                let judged = judge(program_type, &text).map_err(|refusal| refusal.code.text());
                assert_eq!(judged.err(), (!may).then_some("TG0402"), "{} {flags}", helper.name);
            }
        }
    }
}

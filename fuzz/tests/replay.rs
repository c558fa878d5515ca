//! Replays the committed corpora: what the fuzzers once found interesting still holds.

use std::fs;
use std::path::Path;

/// Inputs by chance, besides the corpus.
const INPUTS: u64 = 400;

fn replay<T>(target: &str, run: fn(&[u8]) -> T) {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
    let inputs: Vec<_> = fs::read_dir(&corpus).expect("the corpus is there").collect();
    assert!(!inputs.is_empty(), "the corpus of {target} is empty");
    for input in inputs {
        let path = input.expect("the folder is readable").path();
        println!("{}", path.display());
        run(&fs::read(&path).expect("an input is readable"));
    }
}

#[test]
fn bytecode_that_is_accepted_does_not_fault() {
    replay("bytecode", tidegate_fuzz::bytecode::run);
}

#[test]
fn control_messages_change_nothing_when_refused() {
    replay("control", tidegate_fuzz::control::run);
}

#[test]
fn objects_are_read_or_refused() {
    replay("object", tidegate_fuzz::object::run);
}

#[test]
fn scenarios_and_captures_are_read_or_refused() {
    replay("scenario", tidegate_fuzz::scenario::run);
}

#[test]
fn states_of_accepted_programs_lie_in_what_was_claimed() {
    replay("verify", tidegate_fuzz::verify::run);
    let mut chance = tidegate_fuzz::reference::Chance(1);
    let mut total = tidegate_fuzz::verify::Count::default();
    for _ in 0..INPUTS {
        let input: Vec<u8> = (0..chance.below(256)).map(|_| chance.any() as u8).collect();
        total += tidegate_fuzz::verify::run(&input);
    }
    println!("{total:?}");
    assert!(total.accepted > INPUTS / 10 && total.runs > 1000, "{total:?}");
}

/// A generator whose programs are all refused would prove nothing about those that are accepted.
#[test]
fn enough_of_the_generated_programs_are_accepted() {
    let mut seed = 1_u64;
    let mut byte = || {
        seed = seed.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        (seed >> 56) as u8
    };
    let mut accepted = 0;
    for _ in 0..2000 {
        let length = usize::from(byte());
        let input: Vec<u8> = (0..length).map(|_| byte()).collect();
        accepted += usize::from(tidegate_fuzz::bytecode::run(&input));
    }
    assert!(accepted > 200, "{accepted} of 2000");
}

//! Replays the committed corpora: what the fuzzers once found interesting still holds.

use std::fs;
use std::path::Path;

fn replay(target: &str, run: fn(&[u8])) {
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

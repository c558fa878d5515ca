//! The plugin speaks the public conformance suite's protocol.

use std::io::Write;
use std::process::{Command, Stdio};

/// Runs the plugin; returns what it printed, `None` when it failed.
fn plugin(arguments: &[&str], program: &str) -> Option<String> {
    let mut plugin = Command::new(env!("CARGO_BIN_EXE_conformance"))
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the plugin starts");
    plugin.stdin.take().expect("piped").write_all(program.as_bytes()).expect("the plugin reads");
    let output = plugin.wait_with_output().expect("the plugin ends");
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// r0 = the word at r1; exit
const WORD: &str = "61 10 00 00 00 00 00 00 95 00 00 00 00 00 00 00";

#[test]
fn memory_is_an_argument_and_the_result_is_hexadecimal() {
    assert_eq!(plugin(&["78 56 34 12"], WORD).as_deref(), Some("12345678"));
    assert_eq!(plugin(&["78563412", "--cpu-version", "v4"], WORD).as_deref(), Some("12345678"));
}

#[test]
fn without_memory_the_first_argument_may_be_an_option() {
    let one = "b7 00 00 00 ff ff ff ff 95 00 00 00 00 00 00 00\n";
    assert_eq!(plugin(&[], one).as_deref(), Some("ffffffffffffffff"));
    assert_eq!(plugin(&["--cpu-version", "v4"], one).as_deref(), Some("ffffffffffffffff"));
}

#[test]
fn what_is_wrong_fails() {
    assert_eq!(plugin(&[], WORD), None, "a load from no memory");
    assert_eq!(plugin(&[], "b7 00 01 00 00 00 00 00 95 00 00 00 00 00 00 00"), None, "a reserved field");
    assert_eq!(plugin(&[], "b7 0"), None, "half a byte");
    assert_eq!(plugin(&[], ""), None, "no program");
}

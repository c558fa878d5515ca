//! No panic can be reached from a verification or from a run: the linker says so.
#![cfg(target_os = "linux")]

use std::path::Path;
use std::process::{Command, Output};

/// Builds and links `examples/no-panic.rs` with these features, as a kernel would: optimised, and aborting on panic.
fn link(features: &str) -> Output {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("no-panic");
    Command::new(env!("CARGO"))
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args(["rustc", "--release", "--quiet", "--example", "no-panic", "--features", features])
        .args(["--config", "profile.release.panic='abort'", "--config", "profile.release.debug=false"])
        .args(["--target-dir".as_ref(), target.as_os_str()])
        .args(["--", "-Clink-arg=-Wl,-z,defs,--gc-sections", "-Clink-arg=-lc"])
        .output()
        .expect("cargo starts")
}

#[test]
fn a_verification_and_a_run_reach_no_panic() {
    let (run, control) = (link("no-panic"), link("no-panic-control"));
    let text = |output: &Output| String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(run.status.success(), "a panic can be reached, or the proof does not build:\n{}", text(&run));
    assert!(!control.status.success() && text(&control).contains("it_can_panic"), "the proof proves nothing");
}

//! curl through the proxy, before a real nginx. The policies are those of target/programs (`cargo xtask programs`).

use std::path::Path;
use std::process::Command;

#[test]
fn a_header_is_changed_and_a_name_that_is_not_allowed_is_cut() {
    let bench = Path::new(env!("CARGO_BIN_EXE_bench-proxy"));
    let output = Command::new(bench)
        .arg("curl")
        .arg("--tidegate")
        .arg(bench.with_file_name("tidegate"))
        .args(["--programs", concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/programs")])
        .output()
        .expect("it starts");
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&said));
}

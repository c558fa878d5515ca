//! A mistake in a real policy is found, and its author is shown the line.

use std::fs;
use std::path::Path;
use std::process::Command;

const PROGRAMS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../programs");
/// The check that keeps `tls_sni_allow` inside the packet while it reads the server name extension.
const CHECK: &str = "p + 5 > end || ";

/// Compiles `source` as the policies are compiled, and returns what `tidegate verify` says about it.
fn verify(name: &str, source: &str) -> (Option<i32>, String) {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let (file, object) = (folder.join(format!("{name}.c")), folder.join(format!("{name}.o")));
    fs::write(&file, source).expect("the source can be written");
    let compiled = Command::new("clang-19")
        .args(["-target", "bpf", "-mcpu=v3", "-g", "-O2", "-I"])
        .arg(format!("{PROGRAMS}/include"))
        .arg("-c")
        .arg(&file)
        .arg("-o")
        .arg(&object)
        .status()
        .expect("clang-19 is needed: `cargo xtask setup` installs it");
    assert!(compiled.success());
    let verified = Command::new(env!("CARGO_BIN_EXE_tidegate")).arg("verify").arg(&object).output();
    let verified = verified.expect("the command starts");
    (verified.status.code(), String::from_utf8(verified.stdout).expect("output is text"))
}

#[test]
fn a_missing_bounds_check_is_refused_with_its_source_line_and_a_hint() {
    let whole =
        fs::read_to_string(format!("{PROGRAMS}/tls_sni_allow/tls_sni_allow.c")).expect("the policy is there");
    let planted = whole.replacen(CHECK, "", 1);
    assert_ne!(planted, whole, "the policy has no longer the check that this test takes away: name another");
    let line = 1 + whole[..whole.find(CHECK).unwrap_or(0)].matches('\n').count();

    let (exit, said) = verify("planted", &planted);
    assert_eq!(exit, Some(2), "{said}");
    for part in ["error[TG0303]", &format!("planted.c:{line}"), "if (p[2] != 0)", "data_end", "help: "] {
        assert!(said.contains(part), "{part:?} is missing in:\n{said}");
    }
    let (exit, said) = verify("whole", &whole);
    assert_eq!(exit, Some(0), "with the check it is accepted:\n{said}");
}

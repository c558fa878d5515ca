//! The Debian packages that the verbs need: which are missing, and installing them.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};

use crate::shell;

/// A Debian package, known to be there by a file that it brings.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Package {
    name: &'static str,
    proof: &'static str,
}

const fn package(name: &'static str, proof: &'static str) -> Package {
    Package { name, proof }
}

const CLANG: Package = package("clang-19", "/usr/bin/clang-19");
const CURL: Package = package("curl", "/usr/bin/curl");
const NGINX: Package = package("nginx-light", "/usr/sbin/nginx");
const OPENSSL: Package = package("openssl", "/usr/bin/openssl");
const TCPDUMP: Package = package("tcpdump", "/usr/bin/tcpdump");

/// What compiles the policies: clang for C; for Rust a compiler that has a `core` for BPF, and the `llc` of its LLVM.
pub(crate) const POLICIES: [Package; 4] = [
    CLANG,
    package("rustc-web", "/usr/bin/rustc"),
    package("libstd-rust-web-dev-bpf", "/usr/lib/rustlib/bpfel-unknown-none"),
    package("llvm-22", "/usr/bin/llc-22"),
];

/// Older compilers that policies must work with too: all that Debian 12 has, with [`POLICIES`].
pub(crate) const CLANGS: [Package; 3] =
    [package("clang-14", "/usr/bin/clang-14"), package("clang-16", "/usr/bin/clang-16"), CLANG];

/// What builds the driver: a Rust compiler with the sources of `core`, a linker of Windows images,
/// what bindgen reads, and what takes an image apart.
pub(crate) const DRIVER: [Package; 8] = [
    CLANG,
    package("rustc-web", "/usr/bin/rustc"),
    package("rust-web-src", "/usr/lib/rustlib/src/rust/library/Cargo.lock"),
    package("lld-19", "/usr/bin/lld-link-19"),
    package("libclang1-19", "/usr/lib/llvm-19/lib/libclang-19.so.1"),
    package("libclang-common-19-dev", "/usr/lib/llvm-19/lib/clang/19/include/stddef.h"),
    package("mingw-w64-common", "/usr/share/mingw-w64/include/ddk/ntddk.h"),
    package("llvm-22", "/usr/bin/llvm-objdump-22"),
];

/// What runs the driver in the lab: Wine, and what builds programs for Windows. The driver's packages come beside these.
pub(crate) const LAB: [Package; 2] = [
    package("wine64", "/usr/lib/wine/wine64"),
    package("gcc-mingw-w64-x86-64-win32", "/usr/bin/x86_64-w64-mingw32-gcc"),
];

/// What records the captures: the clients, the servers and the recorder.
pub(crate) const CAPTURES: [Package; 10] = [
    package("bind9-dnsutils", "/usr/bin/dig"),
    CURL,
    package("dnsmasq-base", "/usr/sbin/dnsmasq"),
    package("netcat-openbsd", "/usr/bin/nc.openbsd"),
    NGINX,
    package("ngtcp2-client", "/usr/bin/gtlsclient"),
    package("ngtcp2-server", "/usr/sbin/gtlsserver"),
    OPENSSL,
    package("python3-aiosmtpd", "/usr/bin/aiosmtpd"),
    TCPDUMP,
];

/// What reads a capture, independently of this project.
pub(crate) const READERS: [Package; 1] = [TCPDUMP];

/// What compiles the benches' programs, and counts instructions.
pub(crate) const BENCHES: [Package; 2] = [CLANG, package("valgrind", "/usr/bin/valgrind")];

/// What a proxy is measured and tested in front of, and what asks through it.
pub(crate) const SERVERS: [Package; 3] = [NGINX, CURL, OPENSSL];

/// What gives devices to network namespaces.
pub(crate) const NAMESPACES: [Package; 1] = [package("iproute2", "/usr/sbin/ip")];

/// What compiles libFuzzer.
pub(crate) const FUZZERS: [Package; 1] = [package("g++", "/usr/bin/c++")];

/// Makes sure that every package of `sets` is there. As root on Debian it installs what is missing, saying so first;
/// otherwise it fails and shows the command that would.
pub(crate) fn need(sets: &[&[Package]]) -> Result<()> {
    let missing = missing(sets, |proof| Path::new(proof).exists());
    if missing.is_empty() {
        return Ok(());
    }
    let names: Vec<_> = missing.iter().map(|package| package.name).collect();
    let names = names.join(" ");
    let install = format!("apt-get update && apt-get install --yes --no-install-recommends {names}");
    if !Path::new("/usr/bin/apt-get").exists() {
        bail!(
            "these Debian packages are missing: {names}\n\
             This machine has no apt-get; give it the same programs at the same paths: {}",
            missing.iter().map(|package| package.proof).collect::<Vec<_>>().join(", ")
        );
    }
    if shell::output(Command::new("id").arg("-u"))?.trim() != "0" {
        bail!(
            "these Debian packages are missing: {names}\nInstall them as root, then run this again:\n  {install}"
        );
    }
    eprintln!("Installing Debian packages: {names}");
    eprintln!("  {install}");
    // Runlevel 1 keeps a server among them (nginx) from starting as a service of this machine.
    shell::run(
        shell::command(&["sh", "-c", &format!("{} >/dev/null", install.replace("apt-get", "apt-get -qq"))])
            .env("DEBIAN_FRONTEND", "noninteractive")
            .env("RUNLEVEL", "1"),
    )
}

/// Makes sure that rustup's toolchain has what `cargo fmt` and `cargo clippy` run.
pub(crate) fn rust_components() -> Result<()> {
    for (component, verb) in [("rustfmt", "fmt"), ("clippy", "clippy")] {
        let there = Command::new("cargo").args([verb, "--version"]).output()?.status.success();
        if !there {
            bail!(
                "`cargo {verb}` does not run. Install it, then run this again:\n  rustup component add {component}"
            );
        }
    }
    Ok(())
}

/// The packages of `sets` whose proof `exists` denies, each once.
fn missing(sets: &[&[Package]], exists: impl Fn(&str) -> bool) -> Vec<Package> {
    let mut missing: Vec<Package> = Vec::new();
    for package in sets.iter().copied().flatten() {
        if !exists(package.proof) && !missing.contains(package) {
            missing.push(*package);
        }
    }
    missing
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_absent_is_asked_for_and_only_once() {
        let absent = |proof: &str| proof != "/usr/bin/clang-19" && proof != "/usr/bin/valgrind";
        let found = missing(&[&POLICIES, &BENCHES, &POLICIES], absent);
        assert_eq!(found, [CLANG, BENCHES[1]]);
    }
}

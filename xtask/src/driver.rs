//! `cargo xtask driver`: tidegate.sys on a machine without Windows, and what an image for the kernel must be.
//!
//! The sources are those that Windows builds. What stands in for the WDK lies in `kernel/driver/wdk-build` (headers of
//! mingw-w64) and `kernel/driver/sys/imports` (what may be imported); cargo is told of both on its command line only.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::headers;
use crate::image::{self, Image, Rule};
use crate::setup;
use crate::shell;

/// What is built for, and the one that is only checked.
const TARGET: &str = "x86_64-pc-windows-msvc";
const ARM: &str = "aarch64-pc-windows-msvc";

/// Where everything of it lies.
pub(crate) fn folder() -> PathBuf {
    shell::root().join("target/driver")
}

/// Builds the image and its symbols, and returns the image's path.
pub(crate) fn build() -> Result<PathBuf> {
    build_in(&folder().join("build"))
}

/// Builds with a target folder of its own: what is already compiled there is kept.
fn build_in(target: &Path) -> Result<PathBuf> {
    setup::need(&[&setup::DRIVER])?;
    import_libraries()?;
    // A lock file of its own: in the committed one wdk-build is the published crate, which stays so.
    fs::copy(shell::root().join("Cargo.lock"), folder().join("Cargo.lock"))?;
    shell::run(cargo("build", TARGET, target).arg("--quiet"))?;
    let made = target.join(TARGET).join("driver");
    let image = folder().join("tidegate.sys");
    for (from, to) in [("tidegate_sys.dll", "tidegate.sys"), ("tidegate_sys.pdb", "tidegate.pdb")] {
        fs::copy(made.join(from), folder().join(to)).with_context(|| format!("{from} was not made"))?;
    }
    image::identify(&image)?;
    Ok(image)
}

/// Checks that the driver compiles for Windows on Arm.
fn check_arm() -> Result<()> {
    shell::run(cargo("check", ARM, &folder().join("build")).arg("--quiet"))
}

/// One import library for each list of what may be imported.
fn import_libraries() -> Result<()> {
    let libraries = folder().join("imports");
    fs::create_dir_all(&libraries)?;
    for list in fs::read_dir(shell::root().join("kernel/driver/sys/imports"))? {
        let list = list?.path();
        let library = libraries.join(list.file_name().unwrap_or_default()).with_extension("lib");
        if image::newer(&list, &library) {
            let (list, library) = (format!("/def:{}", list.display()), format!("/out:{}", library.display()));
            shell::run(&mut shell::command(&["lld-link-19", "/lib", "/machine:x64", &list, &library]))?;
        }
    }
    Ok(())
}

/// A call of cargo with the compiler of Debian, which has the sources of `core`, and with all that stands in for the WDK.
fn cargo(verb: &str, target: &str, folder_of_target: &Path) -> Command {
    let (root, made) = (shell::root(), folder());
    let (root, folder) = (root.display(), made.display());
    let registry = std::env::var("CARGO_HOME")
        .unwrap_or_else(|_| format!("{}/.cargo", std::env::var("HOME").unwrap_or_default()));
    // Folders of this machine don't belong into an image that is the same wherever it is built.
    let flags = [
        "-Ctarget-feature=+crt-static".to_owned(),
        "-Clink-arg=/Brepro".to_owned(),
        format!("--remap-path-prefix={registry}/registry/src=crates"),
        format!("--remap-path-prefix={root}=tidegate"),
        "--remap-path-prefix=/usr/lib/rustlib/src/rust=rust".to_owned(),
    ];
    let flags: Vec<_> = flags.iter().map(|flag| format!("\"{flag}\"")).collect();
    let mut cargo = shell::command(&["cargo", verb, "-Zbuild-std=core,alloc", "-Zlockfile-path"]);
    for setting in [
        format!("patch.crates-io.wdk-build.path=\"{root}/kernel/driver/wdk-build\""),
        format!("resolver.lockfile-path=\"{folder}/Cargo.lock\""),
        format!("target.{target}.linker=\"lld-link-19\""),
        format!("target.{target}.rustflags=[{}]", flags.join(",")),
    ] {
        cargo.args(["--config", &setting]);
    }
    cargo.args(["--profile", "driver", "--package", "tidegate-sys", "--features", "wdk", "--target", target]);
    cargo.arg("--target-dir").arg(folder_of_target);
    cargo
        .env("RUSTC", "/usr/bin/rustc")
        .env("RUSTC_BOOTSTRAP", "1")
        .env("LIBCLANG_PATH", "/usr/lib/llvm-19/lib")
        .env("TIDEGATE_IMPORTS", format!("{folder}/imports"))
        .env_remove("RUSTFLAGS");
    cargo
}

/// Builds, holds the image against its rules, and says what it is.
pub(crate) fn run(twice: bool, arm: bool, json: bool) -> Result<()> {
    let image = Image::read(&build()?)?;
    let facts = headers::check()?;
    let mut rules = image.rules()?;
    if twice {
        rules.push(Rule::of("the same image from a second build", same_again(&image)?));
    }
    if json {
        println!("{}", image.json(&rules)?);
    } else {
        print!("{}", image.text(&rules)?);
        println!("ok   {facts} sizes, offsets and numbers of fwps-sys are those of mingw-w64's headers");
    }
    let broken = rules.iter().filter(|rule| !rule.holds()).count();
    ensure!(broken == 0, "the image breaks {broken} rules");
    if arm {
        check_arm()?;
        println!("ok   it compiles for {ARM}");
    }
    Ok(())
}

/// Builds and counts the rules that the image keeps and those that it breaks.
pub(crate) fn check() -> Result<(u64, u64)> {
    let image = Image::read(&build()?)?;
    let rules = image.rules()?;
    let broken = rules.iter().filter(|rule| !rule.holds()).count();
    if broken > 0 {
        print!("{}", image.text(&rules)?);
    }
    Ok((headers::check()? + (rules.len() - broken) as u64, broken as u64))
}

/// Builds into a fresh folder. Says what differs.
fn same_again(first: &Image) -> Result<Vec<String>> {
    let again = folder().join("again");
    if again.exists() {
        fs::remove_dir_all(&again)?;
    }
    let second = Image::read(&build_in(&again)?)?;
    Ok(if first.bytes() == second.bytes() { Vec::new() } else { vec!["the bytes differ".to_owned()] })
}

//! Compiles the policies of `programs/` into `target/programs/`.
//!
//! A policy is a folder `programs/NAME/`. `NAME.c` becomes `NAME.o` by clang; `NAME.rs` becomes `NAME-rs.o` by a
//! Rust compiler for BPF, whose output is LLVM bitcode, and the `llc` of the same LLVM. The SDK's examples are compiled alike.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::SystemTime;

use anyhow::{Context, Result};

use crate::setup;
use crate::shell;

const SDK: &str = "programs/sdk/src/lib.rs";

/// Compiles every policy, and every example of the SDK, whose object is older than anything it may be made of, and returns all objects.
pub(crate) fn build() -> Result<Vec<PathBuf>> {
    setup::need(&[&setup::POLICIES])?;
    let programs = shell::root().join("programs");
    let out = shell::root().join("target/programs");
    fs::create_dir_all(&out)?;
    let shared = newest(&programs.join("include"))?.max(newest(&programs.join("sdk/src"))?);
    let library = out.join("libtidegate_sdk.rlib");
    if shell::root().join(SDK).exists() && is_stale(&library, shared) {
        compile_sdk(&library).context("cannot compile the SDK")?;
    }

    let mut objects = Vec::new();
    for source in sources()?.into_iter().chain(examples()?) {
        if is_stale(&source.object, newest(source.source.parent().unwrap_or(&programs))?.max(shared)) {
            source.compile()?;
            eprintln!("compiled {}", source.object.strip_prefix(shell::root())?.display());
        }
        objects.push(source.object);
    }
    Ok(objects)
}

/// The source of a policy, and what it is compiled into.
pub(crate) struct Source {
    pub(crate) source: PathBuf,
    pub(crate) object: PathBuf,
    /// The commands that compile a source into an object.
    steps: fn(&Path, &Path) -> Vec<Command>,
}

impl Source {
    fn compile(&self) -> Result<()> {
        let mut steps = (self.steps)(&self.source, &self.object);
        let compiled = steps.iter_mut().try_for_each(shell::run);
        compiled.with_context(|| format!("cannot compile {}", self.source.display()))
    }

    /// Whether another source compiles in the same way, into another object. Compilers say nothing.
    pub(crate) fn compiles(&self, source: &Path, object: &Path) -> Result<bool> {
        for mut step in (self.steps)(source, object) {
            if !step.stderr(Stdio::null()).status()?.success() {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Every source of every policy.
pub(crate) fn sources() -> Result<Vec<Source>> {
    let out = shell::root().join("target/programs");
    let mut sources = Vec::new();
    for folder in folders(&shell::root().join("programs"))? {
        let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let c = Source {
            source: folder.join(format!("{name}.c")),
            object: out.join(format!("{name}.o")),
            steps: c,
        };
        let rust = Source {
            source: folder.join(format!("{name}.rs")),
            object: out.join(format!("{name}-rs.o")),
            steps: rust,
        };
        sources.extend([c, rust].into_iter().filter(|source| source.source.exists()));
    }
    Ok(sources)
}

/// The SDK's examples. They are no policies of the library: no README, and nothing says how much their scenarios notice.
fn examples() -> Result<Vec<Source>> {
    let out = shell::root().join("target/programs");
    let mut examples = Vec::new();
    for entry in fs::read_dir(shell::root().join("programs/sdk/examples"))? {
        let source = entry?.path();
        if source.extension().is_some_and(|extension| extension == "rs") {
            let name = source.file_stem().unwrap_or_default().to_string_lossy();
            let object = out.join(format!("{name}-rs.o"));
            examples.push(Source { source, object, steps: rust });
        }
    }
    examples.sort_by(|one, other| one.source.cmp(&other.source));
    Ok(examples)
}

/// Renders the documentation of the SDK, examples included. Warnings fail it. In a folder of its own: rustdoc can't go on with an
/// index that one of another version wrote.
pub(crate) fn document_sdk() -> Result<()> {
    setup::need(&[&setup::POLICIES])?;
    let words = "/usr/bin/rustdoc --edition 2024 --target bpfel-unknown-none --crate-name tidegate_sdk -D warnings -o target/doc-sdk";
    shell::run(shell::command(&words.split(' ').collect::<Vec<_>>()).arg(SDK))
}

fn c(source: &Path, object: &Path) -> Vec<Command> {
    vec![clang("clang-19", "-O2", source, object)]
}

/// Compiles with a clang and an optimisation of the caller's choice.
pub(crate) fn compile_c_with(clang: &str, level: &str, source: &Path, object: &Path) -> Result<()> {
    shell::run(&mut self::clang(clang, level, source, object))
}

fn clang(clang: &str, level: &str, source: &Path, object: &Path) -> Command {
    let mut command = shell::command(&[clang, "-target", "bpf", "-mcpu=v3", "-g", level, "-Wall", "-Werror"]);
    command.args(["-I", "programs/include", "-c", "-o"]).arg(object).arg(source);
    command
}

/// A call of the Rust compiler that has a `core` for BPF: by its path, since a `rustc` found by name would be rustup's.
fn rustc() -> Command {
    let options = "--edition 2024 --target bpfel-unknown-none -C opt-level=3 -C panic=abort -C codegen-units=1 \
                   -C target-cpu=v3 -C debuginfo=2 -D warnings";
    let mut rustc = shell::command(&["/usr/bin/rustc"]);
    rustc.args(options.split_whitespace());
    rustc
}

/// Compiles the SDK into a library that the policies in Rust are compiled against.
fn compile_sdk(library: &Path) -> Result<()> {
    shell::run(
        rustc().args(["--crate-type", "rlib", "--crate-name", "tidegate_sdk", "-o"]).arg(library).arg(SDK),
    )
}

fn rust(source: &Path, object: &Path) -> Vec<Command> {
    let library = object.with_file_name("libtidegate_sdk.rlib");
    let bitcode = object.with_extension("bc");
    let external = format!("tidegate_sdk={}", library.display());
    // For this target an "object" of rustc's is LLVM bitcode.
    let mut rustc = rustc();
    rustc.args(["--crate-type", "lib", "--emit=obj", "--extern", &external, "-o"]).arg(&bitcode).arg(source);
    let mut llc = shell::command(&["llc-22", "-mcpu=v3", "-filetype=obj", "-o"]);
    llc.arg(object).arg(bitcode);
    vec![rustc, llc]
}

pub(crate) fn folders(of: &Path) -> Result<Vec<PathBuf>> {
    let mut folders = Vec::new();
    if of.is_dir() {
        for entry in fs::read_dir(of)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                folders.push(entry.path());
            }
        }
    }
    folders.sort();
    Ok(folders)
}

fn modified(path: &Path) -> Option<SystemTime> {
    fs::metadata(path).and_then(|metadata| metadata.modified()).ok()
}

/// Whether `made` is not there or not newer than `newest` of what it is made of.
pub(crate) fn is_stale(made: &Path, newest: SystemTime) -> bool {
    modified(made).is_none_or(|made| made <= newest)
}

/// When the file changed last under `path` that did so most recently; the epoch when there is none.
pub(crate) fn newest(path: &Path) -> Result<SystemTime> {
    let mut newest = modified(path).unwrap_or(SystemTime::UNIX_EPOCH);
    if path.is_dir() {
        for entry in fs::read_dir(path)? {
            newest = newest.max(self::newest(&entry?.path())?);
        }
    }
    Ok(newest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_example_of_the_sdk_is_tested_and_shown_in_its_documentation() {
        let documentation = fs::read_to_string(shell::root().join(SDK)).unwrap();
        let examples = examples().unwrap();
        assert!(examples.len() >= 3);
        for Source { source, .. } in examples {
            assert!(source.with_extension("toml").exists(), "{} has no scenarios", source.display());
            let name = source.file_name().unwrap().to_string_lossy();
            let shown = format!("include_str!(\"../examples/{name}\")");
            assert!(documentation.contains(&shown), "{SDK} does not show {name}");
        }
        assert!(!documentation.contains("//! ```"), "an example in {SDK} that nothing compiles");
    }
}

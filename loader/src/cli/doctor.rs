//! `tidegate doctor`: what this machine has of what a policy's author needs.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

use schemars::JsonSchema;
use serde::Serialize;

use super::Report;
use crate::error::Exit;

/// Something that is needed, and what for.
struct Need {
    purpose: Purpose,
    what: &'static str,
    /// Any one of these does; the first that is found is told. A path is looked for where it is, a name in `PATH`.
    any_of: &'static [&'static str],
    /// Debian packages that bring it.
    packages: &'static str,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum Purpose {
    /// Policies in C.
    C,
    /// Policies in Rust.
    Rust,
}

/// Compilers, the newest first: every one of them is in the matrix of builds that are tested.
const NEEDS: [Need; 4] = [
    Need {
        purpose: Purpose::C,
        what: "clang with the BPF target",
        any_of: &["clang-19", "clang-16", "clang-14", "clang"],
        packages: "clang-19",
    },
    Need {
        purpose: Purpose::Rust,
        what: "a Rust compiler for BPF",
        any_of: &["/usr/bin/rustc"],
        packages: "rustc-web",
    },
    Need {
        purpose: Purpose::Rust,
        what: "its `core` for BPF",
        any_of: &["/usr/lib/rustlib/bpfel-unknown-none"],
        packages: "libstd-rust-web-dev-bpf",
    },
    Need { purpose: Purpose::Rust, what: "the llc of its LLVM", any_of: &["llc-22"], packages: "llvm-22" },
];

#[derive(Serialize, JsonSchema)]
pub(super) struct Doctor {
    tools: Vec<Tool>,
    /// What to install; empty when nothing is missing.
    missing: Vec<&'static str>,
    can: Vec<Purpose>,
}

#[derive(Serialize, JsonSchema)]
struct Tool {
    purpose: Purpose,
    what: &'static str,
    found: Option<PathBuf>,
    /// What it says of itself.
    version: Option<String>,
    packages: &'static str,
}

pub(super) fn doctor() -> Doctor {
    let tools: Vec<Tool> = NEEDS.iter().map(Need::look).collect();
    let missing = tools.iter().filter(|tool| tool.found.is_none()).map(|tool| tool.packages).collect();
    let whole = |purpose: &Purpose| tools.iter().all(|tool| tool.purpose != *purpose || tool.found.is_some());
    let can = [Purpose::C, Purpose::Rust].into_iter().filter(whole).collect();
    Doctor { missing, can, tools }
}

impl Need {
    fn look(&self) -> Tool {
        let found = self.any_of.iter().find_map(|name| find(name));
        let version = found.as_deref().filter(|path| path.is_file()).and_then(version);
        Tool { purpose: self.purpose, what: self.what, found, version, packages: self.packages }
    }
}

fn find(name: &str) -> Option<PathBuf> {
    // A name joined to a folder of `PATH`; an absolute path stays what it is.
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).map(|folder| folder.join(name)).find(|path| path.exists())
}

/// The line of `--version` that has the number.
fn version(program: &Path) -> Option<String> {
    let said = Command::new(program).arg("--version").output().ok()?;
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    said.lines()
        .map(str::trim)
        .find(|line| line.contains(|letter: char| letter.is_ascii_digit()))
        .map(Into::into)
}

impl Report for Doctor {
    fn exit(&self) -> Exit {
        if self.can.is_empty() { Exit::NotFound } else { Exit::Ok }
    }
}

impl fmt::Display for Doctor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (purpose, title) in [(Purpose::C, "policies in C"), (Purpose::Rust, "policies in Rust")] {
            let can = if self.can.contains(&purpose) { "can be built" } else { "can NOT be built" };
            writeln!(f, "{title} {can}")?;
            for tool in self.tools.iter().filter(|tool| tool.purpose == purpose) {
                match (&tool.found, &tool.version) {
                    (Some(path), Some(version)) => {
                        writeln!(f, "  {:<28} {} ({version})", tool.what, path.display())?;
                    }
                    (Some(path), None) => writeln!(f, "  {:<28} {}", tool.what, path.display())?,
                    (None, _) => writeln!(f, "  {:<28} missing: Debian's {}", tool.what, tool.packages)?,
                }
            }
        }
        if !self.missing.is_empty() {
            writeln!(
                f,
                "\nOn Debian 12, as root:\n  apt-get install --no-install-recommends {}",
                self.missing.join(" ")
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_told_with_what_brings_it() {
        let need =
            Need { purpose: Purpose::C, what: "a thing", any_of: &["no-such-program"], packages: "thing" };
        let tools = vec![need.look()];
        assert_eq!(tools[0].found, None);
        let doctor = Doctor { tools, missing: vec!["thing"], can: vec![] };
        let text = doctor.to_string();
        assert!(text.contains("policies in C can NOT be built"), "{text}");
        assert!(text.ends_with("apt-get install --no-install-recommends thing\n"), "{text}");
        assert_eq!(doctor.exit(), Exit::NotFound);
    }

    #[test]
    fn a_program_is_found_where_path_says_and_tells_its_version() {
        // Cargo runs tests with itself in `PATH`.
        let need =
            Need { purpose: Purpose::C, what: "cargo", any_of: &["no-such-program", "cargo"], packages: "" };
        let tool = need.look();
        assert!(tool.version.is_some_and(|version| version.starts_with("cargo ")));
    }
}

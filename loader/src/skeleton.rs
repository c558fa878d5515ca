//! A new policy: its source, what it is compiled against, how it is compiled, and its first scenarios.

mod names;

use std::fs;
use std::path::{Path, PathBuf};

use tidegate_abi::{ProgramType, limits};

use crate::error::{Error, Exit};
use crate::header;

/// What a policy is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Language {
    /// A file for clang, and the header that it includes
    C,
    /// A file for rustc, and the SDK that it uses
    Rust,
}

/// The SDK's sources, by their names.
const SDK: [(&str, &str); 6] = [
    ("lib.rs", include_str!("../../programs/sdk/src/lib.rs")),
    ("bindings.rs", include_str!("../../programs/sdk/src/bindings.rs")),
    ("cursor.rs", include_str!("../../programs/sdk/src/cursor.rs")),
    ("map.rs", include_str!("../../programs/sdk/src/map.rs")),
    ("send.rs", include_str!("../../programs/sdk/src/send.rs")),
    ("stream.rs", include_str!("../../programs/sdk/src/stream.rs")),
];

/// Writes a policy called `name` into `folder`, which is made. Returns the files that were written, the source first.
///
/// # Errors
/// The name is none for a policy, or something of it is there already: nothing is written then.
pub fn write(
    folder: &Path,
    name: &str,
    language: Language,
    kind: ProgramType,
) -> Result<Vec<PathBuf>, Error> {
    check(name, language)?;
    let files: Vec<(PathBuf, String)> =
        files(name, language, kind).into_iter().map(|(file, text)| (folder.join(file), text)).collect();
    if let Some((there, _)) = files.iter().find(|(file, _)| file.exists()) {
        let message = format!("{} is there already", there.display());
        return Err(Error::usage("gen-exists", message).with_help("choose another name, or another --dir"));
    }
    for (file, text) in &files {
        let written = file.parent().map_or(Ok(()), fs::create_dir_all).and_then(|()| fs::write(file, text));
        written.map_err(|error| Error::file("write", file, &error))?;
    }
    Ok(files.into_iter().map(|(file, _)| file).collect())
}

fn files(name: &str, language: Language, kind: ProgramType) -> Vec<(String, String)> {
    let (c, rust, scenarios) = match kind {
        ProgramType::Stream => (
            include_str!("skeleton/stream.c"),
            include_str!("skeleton/stream.rs"),
            include_str!("skeleton/stream.toml"),
        ),
        ProgramType::Send => (
            include_str!("skeleton/send.c"),
            include_str!("skeleton/send.rs"),
            include_str!("skeleton/send.toml"),
        ),
    };
    let of = |text: &str| text.replace("NAME", name);
    let scenarios = (format!("{name}.toml"), of(scenarios));
    let build = |text| ("build.sh".to_string(), of(text));
    match language {
        Language::C => vec![
            (format!("{name}.c"), of(c)),
            scenarios,
            build(include_str!("skeleton/build-c.sh")),
            ("tidegate.h".into(), header::c()),
        ],
        Language::Rust => {
            [(format!("{name}.rs"), of(rust)), scenarios, build(include_str!("skeleton/build-rust.sh"))]
                .into_iter()
                .chain(SDK.map(|(file, text)| (format!("tidegate-sdk/{file}"), text.to_string())))
                .collect()
        }
    }
}

/// A policy's name is a function's, a file's and a folder's.
fn check(name: &str, language: Language) -> Result<(), Error> {
    let letters = name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
    let is_name = letters
        && name.starts_with(|first: char| first.is_ascii_lowercase())
        && name.len() <= limits::MAX_NAME;
    let (why, help) = if !is_name {
        let rule = format!(
            "a name has lower-case letters, digits and underscores, begins with a letter, and has at most {} of them",
            limits::MAX_NAME
        );
        (String::new(), rule)
    } else if let Some(why) = names::taken(name, language) {
        (format!(": {why}"), format!("call it `{name}_policy`, or what it does: `no_telnet`"))
    } else {
        return Ok(());
    };
    Err(Error::new("gen-name", Exit::Usage, format!("`{name}` is no name for a policy{why}")).with_help(help))
}

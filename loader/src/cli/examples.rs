//! The examples in help texts are commands that work: each parses, and what it says of programs and maps fits the policies that it names.

use std::path::Path;
use std::process::Command;

use clap::{CommandFactory, Parser};
use tidegate_abi::ProgramType;

use super::{Cli, Noun, prog};
use crate::host::Machine;
use crate::object::Object;
use crate::run::Policy;

/// The lines of a help text that are typed, as words.
fn typed(help: &str) -> Vec<Vec<String>> {
    let mut commands = Vec::new();
    let mut in_batch = false;
    let mut lines = help.lines().map(str::trim);
    while let Some(mut line) = lines.next().map(ToString::to_string) {
        while let Some(begun) = line.strip_suffix('\\') {
            line = format!("{} {}", begun.trim(), lines.next().unwrap_or_default());
        }
        // A description stands behind at least two spaces, an ampersand, a pipe or a redirection behind the words.
        let words = shlex::split(line.split("  ").next().unwrap_or_default()).unwrap_or_default();
        let words: Vec<_> =
            words.into_iter().take_while(|word| !matches!(&word[..], "&" | "|" | ">>" | ">")).collect();
        match words.first().map(String::as_str) {
            Some("END") => in_batch = false,
            _ if in_batch => commands.push([vec!["tidegate".into()], words].concat()),
            Some("cat") => in_batch = true,
            Some("tidegate") => commands.push(words),
            _ => {}
        }
    }
    commands
}

fn helps(command: &clap::Command, all: &mut Vec<String>) {
    all.extend(command.get_after_help().map(ToString::to_string));
    command.get_subcommands().for_each(|below| helps(below, all));
}

/// The policies that a command names.
fn policies(noun: &Noun) -> Vec<&Policy> {
    match noun {
        Noun::Prog(prog::Verb::Run(options)) => vec![&options.policy],
        Noun::Prog(prog::Verb::Profile(options)) => vec![&options.policy],
        Noun::Prog(prog::Verb::Load(options)) => vec![&options.policy],
        Noun::Proxy(options) => options.chain.0.iter().collect(),
        #[cfg(target_os = "linux")]
        Noun::Tun(options) => options.policy.iter().collect(),
        _ => Vec::new(),
    }
}

/// The type of the programs that a command runs, where others are refused.
fn shown(noun: &Noun) -> Option<ProgramType> {
    match noun {
        Noun::Proxy(_) => Some(ProgramType::Stream),
        #[cfg(target_os = "linux")]
        Noun::Tun(_) => Some(ProgramType::Send),
        _ => None,
    }
}

/// The object of a policy of the library; `None` when it is an author's own.
fn compiled(policy: &Policy) -> Option<Object> {
    let name = policy.file.file_stem()?.to_str()?;
    let programs = concat!(env!("CARGO_MANIFEST_DIR"), "/../programs");
    let source = format!("{programs}/{name}/{name}.c");
    if !Path::new(&source).exists() {
        return None;
    }
    let object = std::env::temp_dir().join(format!("tidegate-examples-{}-{name}.o", std::process::id()));
    let mut clang = Command::new("clang-19");
    clang.args(["-target", "bpf", "-mcpu=v3", "-g", "-O2", "-c", "-I"]).arg(format!("{programs}/include"));
    let status = clang.arg(&source).arg("-o").arg(&object).status();
    assert!(status.expect("clang-19 is needed: `cargo xtask setup` installs it").success(), "{source}");
    let read = Object::read(&object).expect("an object");
    std::fs::remove_file(&object).expect("it is there");
    Some(read)
}

#[test]
fn what_help_texts_tell_to_type_can_be_typed() {
    let mut all = Vec::new();
    helps(&Cli::command(), &mut all);
    let commands: Vec<_> = all.iter().flat_map(|help| typed(help)).collect();
    assert!(commands.len() > 30, "they are found: {commands:#?}");
    let mut fitted = 0;
    for words in &commands {
        let cli = Cli::try_parse_from(words).unwrap_or_else(|error| panic!("{words:?}: {error}"));
        for policy in policies(&cli.noun) {
            let Some(object) = compiled(policy) else { continue };
            let setup = policy.setup_over().unwrap_or_else(|error| panic!("{words:?}: {error}"));
            // As the command does it: an object with several programs does not say which one runs.
            let machine = Machine::new(&object, &setup).unwrap_or_else(|error| panic!("{words:?}: {error}"));
            let beside = shown(&cli.noun).and_then(|kind| machine.runs_beside(kind));
            assert_eq!(beside, None, "{words:?}: it would never run");
            fitted += 1;
        }
    }
    assert!(fitted >= 3, "policies of the library are among them: {commands:#?}");
}

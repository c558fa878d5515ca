//! The command line: what the user typed becomes a call of the library, its result becomes text or JSON.
//!
//! Nouns and verbs are bpftool's. Every verb prints text for people, or with `-j` one JSON document with `"schema": 1`;
//! an error is a document too, with a stable code. The exit codes are those of [`Exit`].

mod abi;
mod completions;
mod doctor;
mod feature;
mod prog;
mod skeleton;
mod verify;
mod version;

use std::ffi::OsString;
use std::fmt;
use std::io::{self, Write};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use serde::Serialize;

use crate::error::{Error, Exit};
use crate::{proxy, run, test};

/// Version of the JSON documents. A field is never renamed or removed without raising it.
pub const SCHEMA: u32 = 1;

/// Verify, run and test policies for the Windows Filtering Platform, on any machine.
#[derive(Parser)]
#[command(
    name = "tidegate",
    version,
    propagate_version = true,
    subcommand_required = true,
    arg_required_else_help = true,
    after_help = "A first minute:\n  \
        tidegate gen skeleton c my_policy                   start a policy of your own\n  \
        tidegate verify target/programs/tls_sni_allow.o     is the policy accepted, and what can it cost?\n  \
        tidegate prog dump target/programs/tls_sni_allow.o  its bytecode beside its source\n  \
        tidegate test programs/                             run every policy's scenarios\n\n\
        Exit codes: 0 ok, 1 usage or unusable input, 2 verifier refused, 3 driver or ABI, 4 denied, 5 not found,\n\
        6 a part failed (a test, a flow)."
)]
struct Cli {
    #[command(flatten)]
    output: Output,
    #[command(subcommand)]
    noun: Noun,
}

/// How results are printed.
#[derive(Args, Clone, Copy)]
struct Output {
    /// Print one JSON document instead of text (errors too)
    #[arg(short = 'j', long = "json", global = true)]
    json: bool,
    /// Print the JSON document with line breaks (implies -j)
    #[arg(short = 'p', long = "pretty", global = true)]
    pretty: bool,
}

#[derive(Subcommand)]
enum Noun {
    /// Verify every program of an object: accepted with its worst-case cost, or refused with the source line and a hint
    #[command(visible_alias = "v")]
    Verify(verify::Options),
    /// Programs: dump, run
    #[command(subcommand, visible_alias = "p")]
    Prog(prog::Verb),
    /// Run the scenarios of policies and compare what came out with what they expect
    Test(test::Options),
    /// Relay real TCP connections through the programs of an object, on any machine
    #[command(after_help = "For example, with a web server on port 8080:\n  \
        tidegate proxy http_hdr_rewrite.o --map 'header.0=X-Via: tidegate' \\\n      \
        --listen 127.0.0.1:8000 --upstream 127.0.0.1:8080 --remote 127.0.0.1:80\n  \
        curl http://127.0.0.1:8000/\n\n\
        With -j every line is a JSON document; the last one is the summary. Ctrl-C ends it.")]
    Proxy(proxy::Options),
    /// What programs, loader and kernel agree on
    #[command(subcommand)]
    Abi(abi::Verb),
    /// Make files: the start of a policy
    #[command(subcommand)]
    Gen(skeleton::Verb),
    /// What this machine has of what a policy's author needs, and what to install
    Doctor,
    /// What this build offers to programs
    #[command(subcommand)]
    Feature(feature::Verb),
    /// Print a completion script: `tidegate completions bash > /etc/bash_completion.d/tidegate`
    Completions(completions::Options),
    /// Versions of this command, of the ABI and of the documents that it prints
    Version,
}

/// What a verb has to say: for people by [`fmt::Display`], for programs as JSON, and how the process ends.
pub trait Report: Serialize + fmt::Display {
    /// How the process ends.
    fn exit(&self) -> Exit {
        Exit::Ok
    }
}

/// What was printed and how the process ends; the form in which a verb hands its [`Report`] back.
struct Printed {
    text: String,
    exit: Exit,
}

impl Output {
    fn json(self) -> bool {
        self.json || self.pretty
    }

    fn report<R: Report>(self, report: &R) -> Result<Printed, Error> {
        let text = if self.json() { self.document(report)? } else { report.to_string() };
        Ok(Printed { text, exit: report.exit() })
    }

    fn document<T: Serialize>(self, body: &T) -> Result<String, Error> {
        #[derive(Serialize)]
        struct Document<'a, T> {
            schema: u32,
            #[serde(flatten)]
            body: &'a T,
        }
        let document = Document { schema: SCHEMA, body };
        let text = if self.pretty {
            serde_json::to_string_pretty(&document)
        } else {
            serde_json::to_string(&document)
        };
        text.map_err(|error| {
            Error::new("json", Exit::Partial, format!("cannot write the result as JSON: {error}"))
        })
    }

    fn error(self, error: &Error) -> String {
        #[derive(Serialize)]
        struct Body<'a> {
            error: Fields<'a>,
        }
        #[derive(Serialize)]
        struct Fields<'a> {
            code: &'a str,
            exit: u8,
            message: &'a str,
            help: Option<&'a str>,
        }
        let fields = Fields {
            code: error.code,
            exit: error.exit as u8,
            message: &error.message,
            help: error.help.as_deref(),
        };
        self.document(&Body { error: fields }).unwrap_or_else(|error| error.to_string())
    }
}

/// Prints what a verb tells while it runs: a line of text, or with `-j` a document on a line of its own.
struct Live(Output);

impl proxy::Output for Live {
    fn line(&mut self, line: &proxy::Line) {
        let lines = Output { pretty: false, ..self.0 };
        let text = if self.0.json() { lines.document(line) } else { Ok(line.to_string()) };
        let mut out = io::stdout().lock();
        // Nobody may be reading any more: connections go on all the same.
        let _ =
            writeln!(out, "{}", text.unwrap_or_else(|error| error.to_string())).and_then(|()| out.flush());
    }
}

/// Runs the command line `args` (the name of the command first) and says how the process ends.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args: Vec<OsString> = args.into_iter().collect();
    let cli = match Cli::try_parse_from(&args) {
        Ok(cli) => cli,
        Err(error) => return usage(&args, &error),
    };
    match dispatch(cli.output, cli.noun) {
        Ok(printed) => print(&printed.text, printed.exit),
        Err(error) if cli.output.json() => print(&cli.output.error(&error), error.exit),
        Err(error) => {
            eprintln!("{error}");
            code(error.exit)
        }
    }
}

fn dispatch(output: Output, noun: Noun) -> Result<Printed, Error> {
    match noun {
        Noun::Verify(options) => output.report(&verify::verify(&options)?),
        Noun::Prog(prog::Verb::Dump(options)) => output.report(&prog::dump(&options)?),
        Noun::Prog(prog::Verb::Run(options)) => output.report(&run::run(&options)?),
        Noun::Test(options) => output.report(&test::run(&options)?),
        Noun::Proxy(options) => {
            let summary = proxy::run(&options, &mut Live(output))?;
            Output { json: output.json(), pretty: false }.report(&summary)
        }
        Noun::Abi(abi::Verb::Dump(options)) => output.report(&abi::dump(&options)),
        Noun::Gen(skeleton::Verb::Skeleton(options)) => output.report(&skeleton::skeleton(&options)?),
        Noun::Doctor => output.report(&doctor::doctor()),
        Noun::Feature(feature::Verb::List(options)) => output.report(&feature::list(&options)),
        Noun::Completions(options) => output.report(&completions::completions(&options)),
        Noun::Version => output.report(&version::version()),
    }
}

/// What clap has to say: help and version are results, everything else is a usage error.
fn usage(args: &[OsString], error: &clap::Error) -> ExitCode {
    if !error.use_stderr() {
        return print(&error.to_string(), Exit::Ok);
    }
    let wants_json =
        args.iter().skip(1).any(|arg| matches!(arg.to_str(), Some("-j" | "--json" | "-p" | "--pretty")));
    if wants_json {
        let text = error.to_string();
        let message = text.strip_prefix("error: ").unwrap_or(&text).trim();
        return print(
            &Output { json: true, pretty: false }.error(&Error::usage("usage", message)),
            Exit::Usage,
        );
    }
    // A terminal that went away is no reason to end in another way.
    let _ = error.print();
    code(Exit::Usage)
}

/// Writes `text` with a line end; a reader that closed its end early (`| head`) is no error.
fn print(text: &str, exit: Exit) -> ExitCode {
    let mut out = io::stdout().lock();
    let written = out
        .write_all(text.as_bytes())
        .and_then(|()| if text.ends_with('\n') { Ok(()) } else { out.write_all(b"\n") });
    match written.and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            eprintln!("error[output]: cannot write the result: {error}");
            code(Exit::Partial)
        }
        _ => code(exit),
    }
}

fn code(exit: Exit) -> ExitCode {
    ExitCode::from(exit as u8)
}

//! The command line: what the user typed becomes a call of the library, its result becomes text or JSON.
//!
//! Nouns and verbs are bpftool's. Every verb prints text for people, or with `-j` one JSON document with `"schema": 1`;
//! an error is a document too, with a stable code. The exit codes are those of [`Exit`].

mod abi;
mod apply;
mod batch;
mod btf;
mod bundle;
mod completions;
#[cfg(test)]
#[path = "../tests/conform/mod.rs"]
mod conform;
mod doctor;
mod driver;
mod dump;
mod event;
#[cfg(test)]
mod examples;
mod feature;
mod flow;
mod link;
mod live;
mod man;
mod map;
mod prog;
mod schema;
mod skeleton;
mod stats;
mod timed;
mod trace;
mod trial;
mod verify;
mod version;
mod why;

use std::ffi::OsString;
use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use schemars::JsonSchema;
use serde::Serialize;

use crate::client::Client;
use crate::error::{Error, Exit};
use crate::progress::Progress;
#[cfg(target_os = "linux")]
use crate::tun;
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
    infer_subcommands = true,
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
    /// Whom the verbs that need a host speak to: `driver`, the default on Windows; `vm`, the default elsewhere, which is a proxy or a
    /// tunnel in user space with `--control vm`, at $XDG_RUNTIME_DIR/tidegate.sock (without that variable in a folder tidegate-UID among
    /// temporary files); or the path of another control socket. TIDEGATE_HOST in the environment says it for all
    #[arg(long, global = true, value_name = "HOST")]
    host: Option<PathBuf>,
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
    /// Do not show on a terminal how far a command is that takes long
    #[arg(short = 'q', long, global = true)]
    quiet: bool,
}

#[derive(Subcommand)]
enum Noun {
    /// Verify every program of an object: accepted with its worst-case cost, or refused with the source line and a hint
    #[command(visible_alias = "v")]
    Verify(verify::Options),
    /// Programs: verify, dump, run, profile; on a host: load, show, dump, stats, unload
    #[command(subcommand, visible_alias = "p")]
    Prog(prog::Verb),
    /// Links of a host, which say where a loaded program runs: attach, show, replace, order, detach
    #[command(subcommand, visible_alias = "l")]
    Link(link::Verb),
    /// Maps of a host, by which programs and people exchange data: create, show, dump, lookup, getnext, update, delete, freeze, release
    #[command(subcommand, visible_alias = "m")]
    Map(map::Verb),
    /// Connections of a host: list, explain
    #[command(subcommand)]
    Flow(flow::Verb),
    /// The records that programs leave in a ring buffer of a host, as they come
    #[command(
        visible_alias = "e",
        after_help = "With -j every line is a JSON document; the last one is the summary. Without --count or --once it goes on \
            until it is interrupted. A record goes to one reader. While it waits it holds the driver's device, or a connection to the host, open."
    )]
    Event(event::Options),
    /// What links of a host decide, as they do
    #[command(after_help = "For example:\n  \
        tidegate trace --verdict drop-connection,block --types guard.o\n  \
        tidegate trace --link 7 --count 100\n\n\
        While somebody watches, every run is slower; then nothing is. With -j every line is a JSON document, with where in its\n\
        source a run decided and what it looked up; the last one is the summary. Without --count it goes on until it is interrupted.")]
    Trace(trace::Options),
    /// Make a host run what a bundle says: what is new is loaded first, then all links change at once
    #[command(after_help = "A bundle is a TOML file; objects are looked up beside it:\n  \
        [[link]]\n  \
        object = \"tls_sni_allow.o\"     # program = \"NAME\" chooses one of several\n  \
        priority = 10                  # lower runs earlier; each link of a hook has its own\n  \
        maps.allowed = { \"good.example\" = 1 }\n\n\
        Other keys: hooks (none: both address families), on_error (\"block\", \"permit\"), budget, snapshot, globals. The host runs\n\
        what the file says and nothing else: other links end, programs that no link runs are unloaded. Maps that the file fills are\n\
        the file's, also where a program counted in them; what programs keep in others goes on in a new version.")]
    Apply(apply::Options),
    /// Say what `apply` would change
    Diff(apply::Diff),
    /// Make a host run the bundle again that ran before the last `apply`
    Rollback(apply::Rollback),
    /// Signed bundles: make a key, sign, verify; `apply --trust` takes no others
    #[command(
        subcommand,
        after_help = "For example:\n  \
            tidegate bundle keygen ops.key >> trust.toml    a key, and who trusts it\n  \
            tidegate bundle sign bundle.toml --key ops.key  writes bundle.toml.sig\n  \
            tidegate bundle verify bundle.toml --trust trust.toml\n  \
            tidegate apply bundle.toml --trust trust.toml\n\n\
            A trust file has an entry for each key, with what its bundles may do at most:\n  \
            [keys.ops]\n  \
            public = \"ed25519:...\"\n  \
            may = [\"see payload\", \"drop\"]            # also edit, inject, send events; [] is: decide, nothing else\n  \
            hooks = [\"stream-v4\", \"stream-v6\"]\n  \
            budget = 65536                         # of a link, at most"
    )]
    Bundle(bundle::Verb),
    /// Run the commands of a file, one a line; with --atomic all at once, or none
    #[command(after_help = "For example, a new version that takes the place of the old one in one step:\n  \
        cat > update <<'END'\n  \
        map create ports --types guard.o\n  \
        map update ports 23 1\n  \
        prog load guard.o --name guard-2 --map ports=ports\n  \
        link replace 7 guard-2\n  \
        link replace 8 guard-2\n  \
        prog unload guard\n  \
        END\n  \
        tidegate batch update --atomic\n\n\
        Without --atomic it stops at the first line that fails and says which (exit code 6 when others ran before). With -j every\n\
        line of output is a JSON document; the last one is the summary.")]
    Batch(batch::Options),
    /// The driver itself: install, start, stop, uninstall, status
    #[command(subcommand)]
    Driver(driver::Verb),
    /// Run the scenarios of policies and compare what came out with what they expect
    #[command(after_help = "For example:\n  \
        tidegate test programs/                           every scenario of every policy, under every cut\n  \
        tidegate test my_policy --filter 'a name'         those with this text in their name\n  \
        tidegate test my_policy --bless                   the policy is right: show what is different now, and expect it\n  \
        tidegate test my_policy --junit result.xml --sarif result.sarif\n  \
        tidegate test my_policy --record bug.pcap --flow 3   connection 3 becomes a scenario, with what the policy does now\n\n\
        --bless keeps the comments and the layout of the file. What depends on how a stream is cut, a run that failed and a policy\n\
        that is refused are never blessed: they fail as before, and it is said why. --record\n\
        expects what came out in the same way. Captures are those of tcpdump, Wireshark and `tidegate proxy --record`.")]
    Test(test::Options),
    /// Relay real TCP connections through the programs of objects, on any machine
    #[command(after_help = "For example, with a web server on port 8080:\n  \
        tidegate proxy http_hdr_rewrite.o --map 'header.0=X-Via: tidegate' \\\n      \
        --listen 127.0.0.1:8000 --upstream 127.0.0.1:8080 --remote 127.0.0.1:80\n  \
        curl http://127.0.0.1:8000/\n\n\
        Several objects run one behind the other; what is said behind an object is about it:\n  \
        tidegate proxy tls_sni_allow.o --map 'allowed.good.example=1' \\\n      \
        exfil_cap.o --prog exfil_cap --map 'cap.0=1000000' \\\n      \
        --listen 127.0.0.1:8443 --upstream 127.0.0.1:443\n\n\
        With --control it is a host, whose policies come and go while connections pass; no object need be named then:\n  \
        tidegate proxy --control vm --listen 127.0.0.1:8000 --upstream 127.0.0.1:8080\n  \
        tidegate prog load tls_sni_allow.o --attach\n  \
        tidegate link show\n\n\
        `vm` is where verbs look that name no host. With a path in its place several hosts run beside each other, and `--host PATH` says\n\
        which of them is meant.\n\n\
        What a policy did wrong in the field becomes a scenario of it:\n  \
        tidegate proxy my_policy.o --record field.pcap --listen 127.0.0.1:8000 --upstream 127.0.0.1:8080\n  \
        tidegate test my_policy --record field.pcap\n\n\
        With -j every line is a JSON document; the last one is the summary. Ctrl-C or SIGTERM ends it.")]
    Proxy(proxy::Options),
    /// Run the programs of an object on the packets that this machine sends, through TUN devices (Linux)
    #[cfg(target_os = "linux")]
    #[command(after_help = "For example, in a network namespace of its own:\n  \
        unshare --map-root-user --net\n  \
        tidegate tun dns_filter.o --map 'rules.example.com={action = 1}' &\n  \
        ip addr add 10.7.0.1/24 dev tg-in && ip link set tg-in up && ip link set tg-out up\n\n\
        What is routed into the inside device comes out of the outside one, which may be moved into another namespace, or\n\
        routed on. With --control it is a host, as `tidegate proxy` is, and no object need be named:\n  \
        tidegate tun --control vm &\n  \
        tidegate prog load dns_filter.o --map 'rules.example.com={action = 1}' --attach\n\n\
        With -j every line is a JSON document; the last one is the summary. Ctrl-C or SIGTERM ends it.")]
    Tun(tun::Options),
    /// What programs, loader and kernel agree on
    #[command(subcommand)]
    Abi(abi::Verb),
    /// The types of an object
    #[command(subcommand)]
    Btf(btf::Verb),
    /// Make files: the start of a policy, manual pages
    #[command(subcommand)]
    Gen(skeleton::Verb),
    /// What this machine has of what a policy's author needs, and what to install
    Doctor,
    /// What this build offers to programs, and what the host at hand has
    #[command(subcommand)]
    Feature(feature::Verb),
    /// Print the JSON schemas of what verbs print with -j
    Schema(schema::Options),
    /// Print a completion script: `tidegate completions bash > /etc/bash_completion.d/tidegate`
    Completions(completions::Options),
    /// Versions of this command, its verifier, the ABI and the documents that it prints; and those of the host, if there is one
    Version,
}

/// What a verb has to say: for people by [`fmt::Display`], for programs as JSON, and how the process ends.
pub trait Report: Serialize + JsonSchema + fmt::Display {
    /// How the process ends.
    fn exit(&self) -> Exit {
        Exit::Ok
    }
}

/// What a verb that only does something has to say.
#[derive(Serialize, JsonSchema)]
struct Done {}

impl Report for Done {}

impl fmt::Display for Done {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "done")
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

    /// Who is told how far a command is: whoever looks at a terminal, and reads text there.
    fn progress(self) -> Progress {
        if self.shows_progress(io::stderr().is_terminal()) {
            Progress::on_stderr()
        } else {
            Progress::default()
        }
    }

    fn shows_progress(self, terminal: bool) -> bool {
        terminal && !self.quiet && !self.json()
    }

    fn report<R: Report>(self, report: &R) -> Result<Printed, Error> {
        let text = if self.json() { self.document(report)? } else { report.to_string() };
        Ok(Printed { text, exit: report.exit() })
    }

    fn document<T: Serialize + JsonSchema>(self, body: &T) -> Result<String, Error> {
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
        self.document(&Failed { error: error.into() }).unwrap_or_else(|error| error.to_string())
    }
}

/// What is printed with `-j`.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Document_{T}")]
struct Document<'a, T> {
    schema: u32,
    #[serde(flatten)]
    body: &'a T,
}

/// The document of a verb that did not succeed.
#[derive(Serialize, JsonSchema)]
struct Failed {
    error: Fields,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Error")]
struct Fields {
    /// Stable name of the kind of error.
    code: &'static str,
    /// Exit code of the process.
    exit: u8,
    message: String,
    /// What to do about it.
    help: Option<String>,
}

impl From<&Error> for Fields {
    fn from(error: &Error) -> Self {
        let Error { code, exit, message, help } = error.clone();
        Self { code, exit: exit as u8, message, help }
    }
}

/// Prints what a verb tells while it runs: a line of text, or with `-j` a document on a line of its own.
struct Live(Output);

impl Live {
    /// Prints a line. Whether it could be: nobody may be reading any more.
    fn print(&self, line: &(impl Serialize + JsonSchema + fmt::Display)) -> io::Result<()> {
        let lines = Output { pretty: false, ..self.0 };
        let text = if self.0.json() { lines.document(line) } else { Ok(line.to_string()) };
        let mut out = io::stdout().lock();
        writeln!(out, "{}", text.unwrap_or_else(|error| error.to_string())).and_then(|()| out.flush())
    }
}

impl proxy::Output for Live {
    fn line(&mut self, line: &proxy::Line) {
        // Connections go on all the same.
        let _ = self.print(line);
    }
}

/// Runs the command line `args` (the name of the command first) and says how the process ends.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args: Vec<OsString> = args.into_iter().collect();
    let cli = match Cli::try_parse_from(&args) {
        Ok(cli) => cli,
        Err(error) => return usage(&args, &error),
    };
    let host = cli.host.as_deref();
    match dispatch(cli.output, cli.noun, host, &|| live::connect(host)) {
        Ok(printed) => print(&printed.text, printed.exit),
        Err(error) if cli.output.json() => print(&cli.output.error(&error), error.exit),
        Err(error) => {
            eprintln!("{error}");
            code(error.exit)
        }
    }
}

/// Runs what was typed. Verbs that speak to a runtime get their client by `connect`.
fn dispatch(
    output: Output,
    noun: Noun,
    host: Option<&Path>,
    connect: &dyn Fn() -> Result<Client, Error>,
) -> Result<Printed, Error> {
    match noun {
        Noun::Verify(options) | Noun::Prog(prog::Verb::Verify(options)) => {
            output.report(&verify::verify(&options, output)?)
        }
        Noun::Prog(prog::Verb::Dump(options)) => output.report(&dump::dump(&options, host, connect)?),
        Noun::Prog(prog::Verb::Run(options)) => output.report(&run::run(&options)?),
        Noun::Prog(prog::Verb::Profile(options)) => output.report(&run::profile(&options)?),
        Noun::Prog(prog::Verb::Load(options)) => output.report(&prog::load(&mut connect()?, &options)?),
        Noun::Prog(prog::Verb::Show) => output.report(&prog::show(&mut connect()?)?),
        Noun::Prog(prog::Verb::Stats(options)) => {
            let live = Live(output);
            let last = stats::stats(&mut connect()?, &options, |line| live.print(line))?;
            output.report(&last)
        }
        Noun::Prog(prog::Verb::Unload { program }) => {
            output.report(&prog::unload(&mut connect()?, &program)?)
        }
        Noun::Link(link::Verb::Attach(options)) => output.report(&link::attach(&mut connect()?, &options)?),
        Noun::Link(link::Verb::Show) => output.report(&link::show(&mut connect()?)?),
        Noun::Link(link::Verb::Replace(options)) => output.report(&link::replace(&mut connect()?, &options)?),
        Noun::Link(link::Verb::Order(options)) => output.report(&link::order(&mut connect()?, &options)?),
        Noun::Link(link::Verb::Detach { link }) => output.report(&link::detach(&mut connect()?, link)?),
        Noun::Map(map::Verb::Show) => output.report(&map::show(&mut connect()?)?),
        Noun::Map(map::Verb::Create(options)) => output.report(&map::create(&mut connect()?, &options)?),
        Noun::Map(map::Verb::Dump(options)) => output.report(&map::dump(&mut connect()?, &options)?),
        Noun::Map(map::Verb::Lookup(entry)) => output.report(&map::lookup(&mut connect()?, &entry)?),
        Noun::Map(map::Verb::Getnext(options)) => output.report(&map::get_next(&mut connect()?, &options)?),
        Noun::Map(map::Verb::Update(update)) => output.report(&map::update(&mut connect()?, &update)?),
        Noun::Map(map::Verb::Delete(entry)) => output.report(&map::delete(&mut connect()?, &entry)?),
        Noun::Map(map::Verb::Freeze { map }) => output.report(&map::freeze(&mut connect()?, &map)?),
        Noun::Map(map::Verb::Release { map }) => output.report(&map::release(&mut connect()?, &map)?),
        Noun::Flow(flow::Verb::List(options)) => output.report(&flow::list(&mut connect()?, &options)?),
        Noun::Flow(flow::Verb::Explain(options)) => {
            output.report(&flow::explain(&mut connect()?, host, &options)?)
        }
        Noun::Trace(options) => {
            let live = Live(output);
            let summary = trace::trace(&mut connect()?, host, &options, |line| live.print(line))?;
            Output { json: output.json(), pretty: false, ..output }.report(&summary)
        }
        Noun::Event(options) => {
            let live = Live(output);
            let summary = event::watch(&mut connect()?, &options, |line| live.print(line))?;
            Output { json: output.json(), pretty: false, ..output }.report(&summary)
        }
        Noun::Apply(options) => output.report(&apply::apply(&mut connect()?, host, &options)?),
        Noun::Diff(options) => output.report(&apply::diff(&mut connect()?, host, &options)?),
        Noun::Rollback(options) => output.report(&apply::rollback(&mut connect()?, host, &options)?),
        Noun::Bundle(bundle::Verb::Keygen(options)) => output.report(&bundle::keygen(&options)?),
        Noun::Bundle(bundle::Verb::Sign(options)) => output.report(&bundle::sign(&options)?),
        Noun::Bundle(bundle::Verb::Verify(options)) => output.report(&bundle::verify(host, &options)?),
        Noun::Batch(options) => {
            let live = Live(output);
            // What is done is done, whether or not somebody reads.
            let summary = batch::batch(output, &options, host, connect, |said| drop(live.print(said)))?;
            Output { json: output.json(), pretty: false, ..output }.report(&summary)
        }
        Noun::Driver(verb) => output.report(&driver::run(&verb)?),
        Noun::Test(options) => output.report(&test::run_and_tell(&options, &output.progress())?),
        Noun::Proxy(options) => {
            let summary = proxy::run(&options, &mut Live(output))?;
            Output { json: output.json(), pretty: false, ..output }.report(&summary)
        }
        #[cfg(target_os = "linux")]
        Noun::Tun(options) => {
            let live = Live(output);
            // Packets are carried all the same when nobody reads.
            let summary = tun::run(&options, |line| drop(live.print(line)))?;
            Output { json: output.json(), pretty: false, ..output }.report(&summary)
        }
        Noun::Abi(abi::Verb::Dump(options)) => output.report(&abi::dump(&options)),
        Noun::Btf(btf::Verb::Dump(options)) => output.report(&btf::dump(&options)?),
        Noun::Gen(skeleton::Verb::Skeleton(options)) => output.report(&skeleton::skeleton(&options)?),
        Noun::Gen(skeleton::Verb::Man(options)) => output.report(&man::man(&options)?),
        Noun::Doctor => output.report(&doctor::doctor()),
        Noun::Feature(feature::Verb::List(options)) => output.report(&feature::list(&options)),
        Noun::Feature(feature::Verb::Probe) => output.report(&feature::probe(&mut connect()?, host)?),
        Noun::Schema(options) => output.report(&schema::schema(&options)?),
        Noun::Completions(options) => output.report(&completions::completions(&options)),
        Noun::Version => output.report(&version::version(host, connect)),
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
            &Output { json: true, pretty: false, quiet: true }.error(&Error::usage("usage", message)),
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

#[cfg(test)]
mod tests {
    use tidegate_runtime::Shared;

    use super::*;
    use crate::host;

    /// What was typed, against a runtime of this process in the driver's place: what it printed, or the code of its error.
    fn typing() -> impl FnMut(&[&str]) -> Result<String, &'static str> {
        let runtime = host::runtime().expect("a runtime");
        move |words| {
            let cli = Cli::try_parse_from(["tidegate"].iter().chain(words)).expect("it parses");
            let printed = dispatch(cli.output, cli.noun, None, &|| Ok(Client::new(Shared::clone(&runtime))));
            printed.map(|printed| printed.text).map_err(|error| error.code)
        }
    }

    const PROBES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/probes.o");

    #[test]
    fn a_program_is_loaded_attached_fed_and_taken_out_again() {
        let mut type_ = typing();
        let loaded = type_(&["prog", "load", PROBES, "--prog", "by_port", "--map", "ports.53=1"]).unwrap();
        assert!(loaded.contains("by_port"), "{loaded}");
        assert!(type_(&["prog", "show"]).unwrap().contains("0 runs: no verdict"));
        let attached = type_(&["link", "attach", "by_port"]).unwrap();
        assert!(attached.ends_with("2 links\n"), "both address families: {attached}");
        assert_eq!(type_(&["link", "show"]).unwrap(), attached);
        assert_eq!(type_(&["prog", "unload", "by_port"]), Err("host-refused"), "it is attached");

        assert!(type_(&["map", "dump", "ports"]).unwrap().ends_with("1 entry\n"));
        assert_eq!(type_(&["map", "update", "ports", "80", "2"]), Ok("done\n".into()));
        let json = type_(&["-j", "map", "lookup", "ports", "80"]).unwrap();
        assert!(json.contains(r#""key":[80,0"#), "{json}");
        assert_eq!(type_(&["map", "delete", "ports", "80"]), Ok("done\n".into()));
        assert_eq!(type_(&["map", "lookup", "ports", "80"]), Err("not-found"));
        assert_eq!(type_(&["map", "dump", "port"]).unwrap_err(), "not-found");
        assert_eq!(type_(&["event", "ports"]), Err("map-kind"), "it has no records");

        let counted = type_(&["prog", "stats"]).unwrap();
        assert!(counted.contains("by_port at outbound-transport-v4  0 runs: no verdict"), "{counted}");
        let told = type_(&["prog", "stats", "--watch", "0", "--count", "2"]).unwrap();
        assert!(told.contains("0 runs (0 a second)"), "{told}");

        let rows = attached.lines().filter(|line| !line.starts_with(' '));
        let links: Vec<_> = rows.filter_map(|line| line.split_once(": ")).collect();
        type_(&["prog", "load", PROBES, "--prog", "by_port"]).unwrap();
        let second = type_(&["prog", "show"]).unwrap();
        let ids: Vec<_> = second.lines().filter_map(|line| line.split_once(": by_port")).collect();
        let replaced = type_(&["link", "replace", links[0].0, ids[1].0]).unwrap();
        assert!(replaced.contains(&format!("program {}", ids[1].0)), "{replaced}");
        assert_eq!(type_(&["link", "replace", links[0].0, "nobody"]), Err("not-found"));
        let tag = second.split("tag ").nth(1).and_then(|rest| rest.split(' ').next()).expect("a tag");
        assert_eq!(
            type_(&["link", "replace", links[0].0, tag]),
            Err("ambiguous"),
            "two copies of one program"
        );
        assert_eq!(type_(&["link", "replace", "77777", ids[0].0]), Err("not-found"));
        assert_eq!(type_(&["prog", "unload", ids[1].0]), Err("host-refused"), "it runs at the link now");
        for (link, _) in links {
            assert_eq!(type_(&["link", "detach", link]), Ok("done\n".into()));
        }
        for (id, _) in ids {
            assert_eq!(type_(&["prog", "unload", id]), Ok("done\n".into()));
        }
        assert_eq!(type_(&["prog", "show"]).unwrap(), "0 programs\n");
    }

    #[test]
    fn a_program_of_the_host_is_dumped_as_it_runs() {
        const FEATURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/features.o");
        let mut type_ = typing();
        type_(&["prog", "load", FEATURES, "--prog", "watch", "--name", "eye"]).unwrap();
        let of_file = type_(&["prog", "dump", FEATURES, "opcodes", "--program", "watch"]).unwrap();
        let of_host = type_(&["prog", "dump", "eye", "opcodes"]).unwrap();
        // The host knows neither lines nor the names of functions, but all that runs.
        let bytes = |text: &str| {
            let is_byte = |word: &str| word.len() == 2 && word.bytes().all(|digit| digit.is_ascii_hexdigit());
            let lines = text.lines().filter(|line| line.split_whitespace().all(is_byte));
            lines.map(str::to_string).collect::<Vec<_>>()
        };
        assert_eq!(bytes(&of_host), bytes(&of_file));
        assert!(of_host.contains("map counts") && of_host.contains("call function_"), "{of_host}");
        assert!(!of_host.contains("features.c:"), "{of_host}");
        let shown = type_(&["prog", "show"]).unwrap();
        let id = shown.split(':').next().expect("an id");
        let tag = shown.split("tag ").nth(1).and_then(|rest| rest.split(' ').next()).expect("a tag");
        for name in [id, tag] {
            assert_eq!(type_(&["prog", "dump", name, "opcodes"]).unwrap(), of_host);
        }
        let with_lines = type_(&["prog", "dump", "eye", "--types", FEATURES]).unwrap();
        assert!(
            with_lines.contains("features.c:63") && with_lines.contains("call is_watched"),
            "{with_lines}"
        );
        let with_lines = type_(&["prog", "dump", "eye", "--types", PROBES]).unwrap();
        assert!(!with_lines.contains(".c:"), "another program's lines: {with_lines}");
        assert!(type_(&["prog", "dump", "eye", "visual"]).unwrap().contains("[label=yes]"));
        assert!(type_(&["prog", "dump", "eye", "proofs"]).unwrap().contains("in every run map = map counts"));
        assert_eq!(type_(&["prog", "dump", "nobody"]), Err("not-found"));
        assert_eq!(type_(&["prog", "dump", "nobody.o"]), Err("file-not-found"));
    }

    #[test]
    fn a_map_is_made_shared_by_programs_and_given_up() {
        let mut type_ = typing();
        let made = type_(&[
            "map",
            "create",
            "mine",
            "--kind",
            "hash",
            "--key",
            "2",
            "--value",
            "4",
            "--entries",
            "16",
        ]);
        assert!(made.unwrap().contains("mine  hash  key 2 B  value 4 B  0 of 16 entries"));
        assert_eq!(
            type_(&["map", "create", "ring", "--kind", "ringbuf", "--entries", "5"]),
            Err("map-definition")
        );
        type_(&["map", "update", "mine", "53", "1"]).unwrap();
        for words in [&["--map", "losses=mine"][..], &["--map", "bytes=mine"]] {
            let words = [&["prog", "load", PROBES, "--prog", "account"], words].concat();
            assert_eq!(type_(&words), Err("map-differs"), "{words:?}");
        }
        let load = ["prog", "load", PROBES, "--prog", "by_port", "--map", "ports=mine"];
        assert_eq!(
            type_(&[&load[..], &["--map", "ports.80=1"]].concat()),
            Err("map-argument"),
            "it is the host's"
        );
        assert_eq!(
            type_(&["prog", "load", PROBES, "--prog", "by_port", "--map", "port=mine"]),
            Err("map-unknown")
        );
        assert_eq!(
            type_(&["prog", "load", PROBES, "--prog", "by_port", "--map", "ports=nobodys"]),
            Err("not-found")
        );
        assert_eq!(type_(&["map", "show"]).unwrap().lines().count(), 2, "what was refused has left no map");
        for _ in 0..2 {
            type_(&load).unwrap();
        }
        assert!(type_(&["map", "dump", "mine"]).unwrap().ends_with("1 entry\n"), "what it holds stays");
        type_(&["map", "create", "ports", "--types", PROBES]).unwrap();
        assert_eq!(type_(&["map", "create", "own", "--types", PROBES]), Err("map-unknown"));

        type_(&["map", "release", "mine"]).unwrap();
        assert_eq!(type_(&["map", "release", "mine"]), Err("map-programs"), "two programs name it");
        for program in
            type_(&["prog", "show"]).unwrap().lines().filter_map(|line| line.split_once(": by_port"))
        {
            type_(&["prog", "unload", program.0]).unwrap();
        }
        type_(&["map", "freeze", "ports"]).unwrap();
        assert_eq!(type_(&["map", "update", "ports", "1", "1"]), Err("host-refused"), "it is frozen");
        type_(&["map", "release", "ports"]).unwrap();
        assert_eq!(type_(&["map", "show"]).unwrap(), "0 maps\n");
    }

    #[test]
    fn the_version_is_that_of_the_host_too() {
        let mut type_ = typing();
        let told = type_(&["-j", "version"]).unwrap();
        let told: serde_json::Value = serde_json::from_str(&told).expect("a document");
        let host = &told["host"];
        for part in ["version", "verifier", "abi"] {
            assert_eq!(host[part], told[part], "{told}");
        }
        assert_eq!(host["kind"], "this process");
        assert!(type_(&["version"]).unwrap().contains("\n  abi        "));
    }

    #[test]
    fn what_is_not_there_or_can_not_go_is_said() {
        let mut type_ = typing();
        type_(&["prog", "load", PROBES, "--prog", "by_port", "--attach"]).unwrap();
        let links = type_(&["link", "show"]).unwrap();
        let ids: Vec<_> = links.lines().filter_map(|line| Some(line.split_once(": outbound")?.0)).collect();
        assert_eq!(type_(&["link", "order", ids[0], "--before", "9999"]), Err("not-found"));
        assert_eq!(type_(&["link", "order", "9999", "--after", ids[0]]), Err("not-found"));
        assert_eq!(type_(&["link", "order", ids[0], "--after", ids[1]]), Err("link-hook"), "another hook's");

        type_(&["map", "create", "fixed", "--kind", "array", "--value", "4", "--entries", "2"]).unwrap();
        type_(&["map", "create", "ring", "--kind", "ringbuf", "--entries", "4096"]).unwrap();
        for map in ["fixed", "ring"] {
            assert_eq!(type_(&["map", "delete", map, "0"]), Err("map-kind"), "{map}");
        }
        assert_eq!(type_(&["map", "delete", "ports", "53"]), Err("not-found"), "those of others can be");
    }

    #[test]
    fn the_key_that_follows_another_is_printed() {
        let mut type_ = typing();
        type_(&["prog", "load", PROBES, "--prog", "by_port"]).unwrap();
        type_(&["map", "create", "fixed", "--kind", "array", "--value", "4", "--entries", "2"]).unwrap();
        assert_eq!(type_(&["map", "getnext", "ports"]), Err("not-found"), "it is empty");
        type_(&["map", "update", "ports", "53", "1"]).unwrap();
        assert_eq!(type_(&["map", "getnext", "ports", "--types", PROBES]), Ok("53\n".into()));
        assert_eq!(type_(&["map", "getnext", "fixed", "0"]), Ok("hex:01000000\n".into()));
        assert_eq!(type_(&["map", "getnext", "fixed", "1"]), Err("not-found"), "it was the last");
    }

    #[test]
    fn keys_and_values_are_read_and_written_by_the_types_of_an_object() {
        const GATE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/gate.o");
        let mut type_ = typing();
        type_(&["prog", "load", GATE, "--prog", "stamp"]).unwrap();
        let typed = |words: &[&'static str]| [words, &["--types", GATE]].concat();
        type_(&typed(&["map", "update", "marks", "0", "text=<one>"])).unwrap();
        assert_eq!(type_(&typed(&["map", "dump", "marks"])).unwrap(), "0: { text = \"<one>\" }\n1 entry\n");
        type_(&typed(&["map", "update", "marks", "0", r#"{ text = "<two>" }"#])).unwrap();
        let json = type_(&typed(&["-j", "map", "lookup", "marks", "0"])).unwrap();
        assert!(json.contains(r#""typed":{"key":0,"value":{"text":"<two>"}}"#), "{json}");
        assert_eq!(
            type_(&typed(&["map", "update", "marks", "0", "test=<one>"])),
            Err("map-data"),
            "no such member"
        );
        assert_eq!(type_(&["map", "dump", "marks", "--types", GATE, "--like", "cuts"]), Err("map-differs"));
        assert_eq!(type_(&["map", "dump", "marks", "--types", PROBES]), Err("map-unknown"));
    }

    #[test]
    fn a_program_is_loaded_and_linked_within_its_grants_only() {
        let mut type_ = typing();
        let load = |grants: &[&'static str]| {
            [&["prog", "load", PROBES, "--prog", "by_port", "--attach"], grants].concat()
        };
        for beyond in [
            &["--grant-may", "see-payload,edit"][..],
            &["--grant-may", "drop,edit", "--grant-hooks", "outbound-transport-v4"],
            &["--grant-budget", "5"],
        ] {
            assert_eq!(type_(&load(beyond)), Err("not-granted"), "{beyond:?}");
            assert_eq!(type_(&["prog", "show"]).unwrap(), "0 programs\n");
            assert_eq!(type_(&["map", "show"]).unwrap(), "0 maps\n");
        }
        type_(&load(&["--grant-may", "drop,edit", "--grant-budget", "90"])).unwrap();
        let shown = type_(&["prog", "show"]).unwrap();
        assert!(
            shown.contains(
                "may decide, edit, drop  granted: may decide, edit, drop; at every hook; budget 90"
            ),
            "{shown}"
        );
        let links = type_(&["link", "show"]).unwrap();
        assert!(links.contains("budget 90\n"), "no link has more: {links}");
        let attach = ["link", "attach", "by_port", "outbound-transport-v4", "--budget"];
        assert_eq!(type_(&[&attach[..], &["91"]].concat()), Err("not-granted"));
        type_(&[&attach[..], &["90"]].concat()).unwrap();

        type_(&["prog", "load", PROBES, "--prog", "by_port", "--grant-hooks", "outbound-transport-v4"])
            .unwrap();
        let newest = type_(&["-j", "prog", "show"]).unwrap();
        let newest: serde_json::Value = serde_json::from_str(&newest).expect("a document");
        let id = newest["programs"][1]["id"].to_string();
        let rows = links.lines().filter(|line| line.contains("outbound-transport-v6"));
        let link = rows.filter_map(|line| line.split_once(':')).next().expect("a link").0;
        assert_eq!(type_(&["link", "replace", link, &id]), Err("not-granted"));
    }

    #[test]
    fn how_far_a_command_is_goes_to_people_at_a_terminal_who_want_to_know() {
        let shown = |words: &[&str], terminal| {
            let cli = Cli::try_parse_from(["tidegate"].iter().chain(words)).expect("it parses");
            cli.output.shows_progress(terminal)
        };
        assert!(shown(&["test", "programs"], true));
        assert!(!shown(&["test", "programs"], false));
        for words in [&["-q", "version"], &["version", "--quiet"], &["-j", "version"], &["version", "-p"]] {
            assert!(!shown(words, true), "{words:?}");
        }
    }

    #[test]
    fn nouns_and_verbs_are_known_by_their_first_letters_and_every_noun_has_help() {
        let mut type_ = typing();
        assert_eq!(type_(&["ma", "sh"]).unwrap(), "0 maps\n");
        assert_eq!(type_(&["p", "show"]).unwrap(), "0 programs\n");
        assert!(Cli::try_parse_from(["tidegate", "ma", "re", "1"]).is_ok());
        assert!(Cli::try_parse_from(["tidegate", "ma", "d", "1"]).is_err(), "dump or delete");
        for noun in ["prog", "link", "map", "btf", "feature", "driver", "abi", "gen"] {
            let help = Cli::try_parse_from(["tidegate", noun, "help"]).map(drop).unwrap_err();
            assert_eq!(help.kind(), clap::error::ErrorKind::DisplayHelp, "{noun}");
        }
    }

    #[test]
    fn what_is_refused_leaves_nothing_behind() {
        let mut type_ = typing();
        assert_eq!(type_(&["prog", "load", PROBES, "--map", "ports.53=1"]), Err("program-several"));
        let unknown = type_(&["prog", "load", PROBES, "--prog", "by_port", "--map", "nothing.1=1"]);
        assert_eq!(unknown, Err("map-unknown"));
        assert_eq!(type_(&["map", "show"]).unwrap(), "0 maps\n");
    }
}

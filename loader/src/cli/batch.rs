//! `tidegate batch`: commands from a file, one after the other or all at once.
//!
//! All at once means: what is new is made and attached to nothing; one message changes all links; what goes, goes then. When
//! something fails before that message is answered, what was made is taken back, and nothing has run otherwise than before.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::io::{self, Read};
use std::path::PathBuf;

use clap::{Args, Parser};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;
use shlex::Shlex;
use tidegate_abi::Hook;
use tidegate_abi::control::{Change, Id, LinkAttach, LinkInfo, LinkList, MapRelease, ProgramUnload, Status};

use super::{Cli, Done, Noun, Output, Printed, Report, btf, dispatch, flow, link, live, map, prog};
use crate::client::{Client, Refused};
use crate::error::{Error, Exit};

#[derive(Args)]
pub(super) struct Options {
    /// The file, a command a line without `tidegate` in front, as `link detach 7`; quotes and # as in a shell. - is what is
    /// typed, or comes through a pipe
    file: PathBuf,
    /// All of it or nothing: every link changes in the same moment, and when a line fails nothing has changed
    #[arg(long)]
    atomic: bool,
}

/// What one command said.
#[derive(Serialize, JsonSchema)]
pub(super) struct Said {
    line: usize,
    command: Vec<String>,
    /// What the command prints by itself.
    result: Value,
    #[serde(skip)]
    text: String,
}

/// The end of a batch.
#[derive(Serialize, JsonSchema)]
pub(super) struct Summary {
    commands: usize,
    atomic: bool,
}

/// A command of the file.
struct Line {
    number: usize,
    words: Vec<String>,
    noun: Noun,
}

/// Runs the commands of a file; `say` is told what each has said.
pub(super) fn batch(
    output: Output,
    options: &Options,
    host: Option<&std::path::Path>,
    connect: &dyn Fn() -> Result<Client, Error>,
    mut say: impl FnMut(&Said),
) -> Result<Summary, Error> {
    let file = File::read(options)?;
    let lines = file.lines()?;
    let commands = lines.len();
    // Each prints what it would print by itself, on one line where it is JSON.
    let each = Output { pretty: false, ..output };
    if options.atomic {
        let mut client = connect()?;
        for said in file.at_once(each, lines, &mut client)? {
            say(&said);
        }
        return Ok(Summary { commands, atomic: true });
    }
    for (done, Line { number, words, noun }) in lines.into_iter().enumerate() {
        let partly = |error: Error| match done {
            0 => error,
            _ => Error { exit: Exit::Partial, ..error },
        };
        let printed = dispatch(each, noun, host, connect);
        let printed = printed.map_err(|error| partly(file.at(number, &words, error)))?;
        let exit = printed.exit;
        say(&Said::new(number, &words, printed));
        if exit != Exit::Ok {
            let error = Error::new("batch-stopped", exit, format!("it ended with {}", exit as u8));
            return Err(partly(file.at(number, &words, error)));
        }
    }
    Ok(Summary { commands, atomic: false })
}

impl Said {
    fn new(line: usize, words: &[String], printed: Printed) -> Self {
        let text = printed.text.trim_end().to_string();
        let result = serde_json::from_str(&text).unwrap_or(Value::Null);
        Self { line, command: words.to_vec(), result, text }
    }
}

/// A batch as it was read.
struct File {
    name: String,
    text: String,
    atomic: bool,
}

impl File {
    fn read(options: &Options) -> Result<Self, Error> {
        let (name, text) = if options.file.as_os_str() == "-" {
            let mut text = String::new();
            let read = io::stdin().read_to_string(&mut text);
            ("-".into(), read.map(|_| text))
        } else {
            (options.file.display().to_string(), fs::read_to_string(&options.file))
        };
        let text = text.map_err(|error| Error::file("read", &options.file, &error))?;
        Ok(Self { name, text, atomic: options.atomic })
    }

    /// `error`, with the line that it is of.
    fn at(&self, number: usize, words: &[String], error: Error) -> Error {
        let message = format!("{}:{number}: `{}`: {}", self.name, words.join(" "), error.message);
        Error { message, ..error }
    }

    /// The commands. They are all looked at before one of them runs.
    fn lines(&self) -> Result<Vec<Line>, Error> {
        let mut lines = Vec::new();
        for (number, text) in (1..).zip(self.text.lines()) {
            let mut shell = Shlex::new(text);
            let words: Vec<String> = shell.by_ref().collect();
            let wrong = |code, message: &str| self.at(number, &words, Error::usage(code, message));
            if shell.had_error {
                return Err(wrong("batch-line", &format!("{text}: a quote is not closed")));
            }
            if words.is_empty() {
                continue;
            }
            let typed = ["tidegate"].into_iter().chain(words.iter().map(String::as_str)).map(OsString::from);
            let cli = Cli::try_parse_from(typed).map_err(|error| {
                let text = error.to_string();
                wrong("batch-line", text.strip_prefix("error: ").unwrap_or(&text).trim())
            })?;
            if cli.host.is_some() || cli.output.json() || cli.output.quiet {
                return Err(wrong("batch-line", "options for all lines stand in front of `batch`")
                    .with_help("as in `tidegate -j --host PATH batch FILE`"));
            }
            let (fits, help) = if self.atomic {
                (is_atomic(&cli.noun), "those that make, link, change and end programs and maps do")
            } else {
                (ends(&cli.noun), "those of programs, links, maps, bundles and objects do")
            };
            if !fits {
                let what = if self.atomic { "a batch of all or nothing" } else { "a batch" };
                return Err(wrong("batch-verb", &format!("it has no place in {what}")).with_help(help));
            }
            lines.push(Line { number, words, noun: cli.noun });
        }
        Ok(lines)
    }

    fn at_once(&self, output: Output, lines: Vec<Line>, client: &mut Client) -> Result<Vec<Said>, Error> {
        let mut all = Together::default();
        let prepared = lines.iter().try_for_each(|line| {
            all.add(client, output, &line.noun).map_err(|error| self.at(line.number, &line.words, error))
        });
        let done = prepared.and_then(|()| all.is_free(client)).and_then(|()| all.commit(client));
        if let Err(error) = done {
            all.take_back(client);
            return Err(error);
        }
        let mut said = Vec::new();
        for (line, step) in lines.iter().zip(std::mem::take(&mut all.steps)) {
            let printed = all.finish(client, output, step).map_err(|error| {
                let error = Error { exit: Exit::Partial, ..error };
                self.at(line.number, &line.words, error).with_help("the links have changed as the batch says")
            })?;
            said.push(Said::new(line.number, &line.words, printed));
        }
        Ok(said)
    }
}

/// Whether a verb comes to an end by itself, and prints when it does.
fn ends(noun: &Noun) -> bool {
    match noun {
        Noun::Prog(prog::Verb::Stats(options)) => options.ends(),
        Noun::Verify(_)
        | Noun::Prog(_)
        | Noun::Link(_)
        | Noun::Map(_)
        | Noun::Flow(flow::Verb::List(_))
        | Noun::Apply(_)
        | Noun::Diff(_)
        | Noun::Rollback(_)
        | Noun::Btf(btf::Verb::Dump(_))
        | Noun::Feature(_)
        | Noun::Version => true,
        _ => false,
    }
}

/// Whether a verb can be done with others at once.
fn is_atomic(noun: &Noun) -> bool {
    match noun {
        Noun::Prog(prog::Verb::Load(options)) => options.shadow.is_none(),
        Noun::Prog(verb) => matches!(verb, prog::Verb::Unload { .. }),
        Noun::Link(link::Verb::Replace(options)) => options.replaces().is_some(),
        Noun::Link(verb) => !matches!(verb, link::Verb::Show),
        Noun::Map(verb) => !matches!(
            verb,
            map::Verb::Show | map::Verb::Dump(_) | map::Verb::Lookup(_) | map::Verb::Getnext(_)
        ),
        _ => false,
    }
}

/// What is to happen at once.
#[derive(Default)]
struct Together {
    changes: Vec<Change>,
    /// For each line what is left to do, and to say, behind the change of links.
    steps: Vec<Step>,
    programs: Vec<Id>,
    maps: Vec<Id>,
    /// Maps that programs of the batch have brought along.
    brought: Vec<Id>,
    /// Id of the first link that was attached.
    first: Id,
}

/// What a line leaves for later.
enum Step {
    Say(Printed),
    /// So many attached links, behind so many others.
    Attached(usize, usize),
    Show(Vec<Id>),
    Detach(Id),
    Unload(Id),
    Release(Id),
}

impl Together {
    /// Does what may be done before the links change.
    fn add(&mut self, client: &mut Client, output: Output, noun: &Noun) -> Result<(), Error> {
        let step = match noun {
            Noun::Prog(prog::Verb::Load(options)) => {
                let (staged, load, on_error) = prog::stage(client, options)?;
                self.programs.extend(staged.programs().map(|(id, _)| id));
                self.brought.extend(staged.made());
                if options.attach {
                    self.changes.extend(staged.links(on_error).into_iter().map(Change::Attach));
                }
                Step::Say(output.report(&load)?)
            }
            Noun::Prog(prog::Verb::Unload { program }) => Step::Unload(prog::find(client, program)?.0),
            Noun::Link(link::Verb::Attach(options)) => {
                let changes = link::attaching(client, options)?;
                let step = Step::Attached(self.attached(), changes.len());
                self.changes.extend(changes);
                step
            }
            Noun::Link(link::Verb::Replace(options)) => {
                let Some((link, program)) = options.replaces() else { return Ok(()) };
                self.changes.push(Change::Replace { link, program: prog::find(client, program)?.0 });
                Step::Show(vec![link])
            }
            Noun::Link(link::Verb::Detach { link }) => {
                self.changes.push(Change::Detach { link: *link });
                Step::Detach(*link)
            }
            Noun::Link(link::Verb::Order(options)) => {
                if !self.changes.is_empty() && !options.is_absolute() {
                    let message =
                        "where links stand behind the lines above is not known before they stand there";
                    return Err(Error::usage("batch-order", message)
                        .with_help("say --priority, or put the line in front of other links' lines"));
                }
                let (_, changes) = link::moving(client, options)?;
                let links = changes.iter().filter_map(|change| match change {
                    Change::Move { link, .. } => Some(*link),
                    _ => None,
                });
                let step = Step::Show(links.collect());
                self.changes.extend(changes);
                step
            }
            Noun::Map(map::Verb::Create(options)) => {
                let maps = map::create(client, options)?;
                self.maps.extend(maps.ids());
                Step::Say(output.report(&maps)?)
            }
            Noun::Map(map::Verb::Update(update)) => {
                self.is_ours(client, update.map())?;
                Step::Say(output.report(&map::update(client, update)?)?)
            }
            Noun::Map(map::Verb::Delete(entry)) => {
                self.is_ours(client, entry.map())?;
                Step::Say(output.report(&map::delete(client, entry)?)?)
            }
            Noun::Map(map::Verb::Freeze { map }) => {
                self.is_ours(client, map)?;
                Step::Say(output.report(&map::freeze(client, map)?)?)
            }
            Noun::Map(map::Verb::Release { map }) => Step::Release(map::find(client, map)?.0),
            _ => Step::Say(output.report(&Done {})?),
        };
        self.steps.push(step);
        Ok(())
    }

    /// Links that are to be attached so far.
    fn attached(&self) -> usize {
        self.changes.iter().filter(|change| matches!(change, Change::Attach(_))).count()
    }

    /// Refuses a map that was there before: what it held could not be brought back as if nothing had been.
    fn is_ours(&self, client: &mut Client, name: &str) -> Result<(), Error> {
        let (map, _) = map::find(client, name)?;
        if self.maps.iter().chain(&self.brought).any(|ours| *ours == map) {
            return Ok(());
        }
        Err(Error::usage(
            "batch-map",
            format!("map `{name}` was there before: programs see each change of it at once"),
        )
        .with_help("change it without --atomic, or load the programs over a map that the batch makes"))
    }

    /// Refuses to unload what a link will run.
    fn is_free(&self, client: &mut Client) -> Result<(), Error> {
        let going: Vec<Id> = self
            .steps
            .iter()
            .filter_map(|step| match step {
                Step::Unload(program) => Some(*program),
                _ => None,
            })
            .collect();
        if going.is_empty() {
            return Ok(());
        }
        let refused = |refused: Refused| live::refused("list links", &refused);
        let mut runs = BTreeMap::new();
        for hook in Hook::ALL {
            for link in client.call(&LinkList { hook }).map_err(refused)? {
                runs.insert(link, client.call(&LinkInfo { link }).map_err(refused)?.program);
            }
        }
        let mut new = Vec::new();
        for change in &self.changes {
            match change {
                Change::Detach { link } => drop(runs.remove(link)),
                Change::Replace { link, program } => drop(runs.insert(*link, *program)),
                Change::Attach(LinkAttach { program, .. }) => new.push(*program),
                Change::Move { .. } => {}
            }
        }
        match going.iter().find(|going| runs.values().chain(&new).any(|program| program == *going)) {
            None => Ok(()),
            Some(program) => Err(Error::usage(
                "batch-busy",
                format!("a link will run program {program}, which is to be unloaded"),
            )
            .with_help("end the link in the same batch, or give it another program")),
        }
    }

    fn commit(&mut self, client: &mut Client) -> Result<(), Error> {
        if self.changes.is_empty() {
            return Ok(());
        }
        match client.commit(&self.changes) {
            Ok(committed) => {
                self.first = committed.first;
                Ok(())
            }
            Err(refused) if refused.status == Status::NotGranted => {
                Err(link::not_attached(client, "the programs", &self.changes, &refused)?)
            }
            Err(refused) => Err(live::refused("change the links; nothing was changed", &refused)),
        }
    }

    /// Takes out of the host again what the batch has made. What is refused here stays, attached to nothing.
    fn take_back(&mut self, client: &mut Client) {
        for program in self.programs.drain(..) {
            let _ = client.call(&ProgramUnload { program });
        }
        for map in self.maps.drain(..) {
            let _ = client.call(&MapRelease { map });
        }
    }

    /// Does what is left of a line, and says what the line would have said by itself.
    fn finish(&self, client: &mut Client, output: Output, step: Step) -> Result<Printed, Error> {
        match step {
            Step::Say(printed) => Ok(printed),
            Step::Attached(before, count) => {
                output.report(&link::rows(client, (self.first..).skip(before).take(count))?)
            }
            Step::Show(links) => output.report(&link::rows(client, links)?),
            Step::Detach(link) => match client.detach(link) {
                // It kept nothing back.
                Ok(()) | Err(Refused { status: Status::NotFound, .. }) => output.report(&Done {}),
                Err(refused) => Err(live::refused(&format!("end link {link}"), &refused)),
            },
            Step::Unload(program) => match client.call(&ProgramUnload { program }) {
                Ok(()) => output.report(&Done {}),
                Err(refused) => Err(live::refused(&format!("unload program {program}"), &refused)),
            },
            Step::Release(map) => match client.call(&MapRelease { map }) {
                Ok(()) => output.report(&Done {}),
                Err(refused) => Err(live::refused(&format!("release map {map}"), &refused)),
            },
        }
    }
}

impl Report for Summary {}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let commands = crate::tally::count(self.commands, "command");
        writeln!(f, "{commands}{}", if self.atomic { ", all at once" } else { "" })
    }
}

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

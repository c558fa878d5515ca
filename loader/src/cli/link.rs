//! `tidegate link attach|show|replace|detach`.

use std::fmt;

use clap::{Args, Subcommand};
use schemars::JsonSchema;
use serde::Serialize;
use tidegate_abi::control::{
    Detached, Id, LinkAttach, LinkInfo, LinkInfoReply, LinkList, LinkReplace, OnError, ProgramInfo, Status,
};
use tidegate_abi::{Hook, limits};

use super::{Report, live, prog};
use crate::client::Client;
use crate::error::Error;
use crate::grants;
use crate::run::OnErrorArg;
use crate::tally::Tally;

#[derive(Subcommand)]
pub(super) enum Verb {
    /// Run a loaded program at a hook from now on
    Attach(Attach),
    /// Show the links of every hook, in the order that they run
    Show,
    /// Run another program of the same type at a link from now on, in one step: nothing passes unseen meanwhile
    Replace {
        /// Id of the link, as `link show` has it
        link: Id,
        /// The program, by its id, its name or its tag
        program: String,
    },
    /// End a link: its program does not run there any more
    Detach {
        /// Id of the link, as `link show` has it
        link: Id,
    },
}

#[derive(Args)]
pub(super) struct Attach {
    /// The program, by its id, its name or its tag
    program: String,
    /// Where it runs; none: at both families of the stream layer, or of the outbound transport layer
    #[arg(value_parser = grants::hook)]
    hook: Option<Hook>,
    /// Lower runs earlier
    #[arg(long, default_value_t = 0)]
    priority: u16,
    /// What a failed run does with the data
    #[arg(long, value_enum, default_value = "block")]
    on_error: OnErrorArg,
    /// Instructions that one run may take
    #[arg(long, default_value_t = limits::DEFAULT_BUDGET)]
    budget: u32,
    /// What is judged is what is sent, whatever the sender does to its memory meanwhile; costs a copy
    #[arg(long)]
    snapshot: bool,
}

/// Links.
#[derive(Serialize, JsonSchema)]
pub(super) struct Links {
    links: Vec<Row>,
}

#[derive(Serialize, JsonSchema)]
struct Row {
    id: Id,
    hook: &'static str,
    program: Id,
    priority: u16,
    on_error: &'static str,
    budget: u32,
    snapshot: bool,
    /// What it keeps back: directions of connections, and bytes.
    held: Held,
    counted: Tally,
}

/// What a link keeps back.
#[derive(PartialEq, Eq, Serialize, JsonSchema)]
struct Held {
    flows: u32,
    bytes: u64,
}

impl From<Detached> for Held {
    fn from(Detached { flows, bytes }: Detached) -> Self {
        Self { flows, bytes }
    }
}

pub(super) fn attach(client: &mut Client, options: &Attach) -> Result<Links, Error> {
    let (program, kind) = prog::find(client, &options.program)?;
    let hooks = match options.hook {
        Some(hook) => vec![hook],
        None => kind.hooks().to_vec(),
    };
    let mut links = Vec::new();
    for hook in hooks {
        let request = LinkAttach {
            program,
            hook,
            priority: options.priority,
            on_error: options.on_error.into(),
            budget: options.budget,
            snapshot: options.snapshot,
        };
        match client.call(&request) {
            Ok(link) => links.push(link),
            Err(refused) => {
                // All hooks or none.
                for link in links {
                    let _ = client.detach(link);
                }
                if refused.status == Status::NotGranted {
                    return Err(not_granted(client, program, hook, options.budget)?);
                }
                return Err(live::refused(
                    &format!("attach `{}` at {}", options.program, hook.name()),
                    &refused,
                ));
            }
        }
    }
    links.into_iter().map(|id| row(client, id)).collect::<Result<_, _>>().map(|links| Links { links })
}

pub(super) fn show(client: &mut Client) -> Result<Links, Error> {
    let mut links = Vec::new();
    for hook in Hook::ALL {
        let ids = client.call(&LinkList { hook }).map_err(|refused| live::refused("list links", &refused))?;
        for id in ids {
            links.push(row(client, id)?);
        }
    }
    Ok(Links { links })
}

pub(super) fn replace(client: &mut Client, link: Id, program: &str) -> Result<Links, Error> {
    let (id, _) = prog::find(client, program)?;
    if let Err(refused) = client.call(&LinkReplace { link, program: id }) {
        if refused.status == Status::NotGranted {
            let LinkInfoReply { hook, budget, .. } = info(client, link)?;
            return Err(not_granted(client, id, hook, budget)?);
        }
        return Err(live::refused(&format!("run `{program}` at link {link}"), &refused));
    }
    Ok(Links { links: vec![row(client, link)?] })
}

pub(super) fn detach(client: &mut Client, link: Id) -> Result<super::Done, Error> {
    client.detach(link).map_err(|refused| live::refused(&format!("detach link {link}"), &refused))?;
    Ok(super::Done {})
}

fn info(client: &mut Client, link: Id) -> Result<LinkInfoReply, Error> {
    client.call(&LinkInfo { link }).map_err(|refused| live::refused("show a link", &refused))
}

/// Why the program is not granted to run at `hook` within `budget`.
fn not_granted(client: &mut Client, program: Id, hook: Hook, budget: u32) -> Result<Error, Error> {
    let info = client.call(&ProgramInfo { program });
    let info = info.map_err(|refused| live::refused("show a program", &refused))?;
    Ok(grants::not_linked(&info.name, info.grants, hook, budget))
}

fn row(client: &mut Client, id: Id) -> Result<Row, Error> {
    let info = info(client, id)?;
    Ok(Row {
        id,
        hook: info.hook.name(),
        program: info.program,
        priority: info.priority,
        on_error: match info.on_error {
            OnError::Block => "block",
            OnError::Permit => "permit",
        },
        budget: info.budget,
        snapshot: info.snapshot,
        held: info.held.into(),
        counted: info.counters.into(),
    })
}

impl Report for Links {}

impl fmt::Display for Links {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for link in &self.links {
            let Row { id, hook, program, priority, on_error, budget, snapshot, held, counted } = link;
            write!(f, "{id}: {hook}  program {program}  priority {priority}  on error {on_error}")?;
            writeln!(f, "  budget {budget}{}", if *snapshot { "  snapshot" } else { "" })?;
            write!(f, "    {} runs: {counted}", counted.runs)?;
            if *held == Held::from(Detached::default()) {
                writeln!(f)?;
            } else {
                writeln!(f, "; {} bytes of {} flows kept back", held.bytes, held.flows)?;
            }
        }
        writeln!(f, "{}", crate::tally::count(self.links.len(), "link"))
    }
}

//! `tidegate link attach|show|replace|order|detach`.

use std::fmt;

use clap::{Args, Subcommand};
use schemars::JsonSchema;
use serde::Serialize;
use tidegate_abi::control::{
    Change, Detached, FlowEnds, Id, LinkAttach, LinkInfo, LinkInfoReply, LinkList, LinkReplace, LinkTry,
    OnError, ProgramInfo, Status, Trial, TrialMode,
};
use tidegate_abi::{Hook, LinkFilter, limits};

use super::{Report, live, prog, trial};
use crate::client::{Client, Refused};
use crate::error::Error;
use crate::filter;
use crate::grants;
use crate::run::OnErrorArg;
use crate::tally::Tally;

#[derive(Subcommand)]
pub(super) enum Verb {
    /// Run a loaded program at a hook from now on
    #[command(after_help = filter::HELP)]
    Attach(Attach),
    /// Show the links of every hook, in the order that they run
    Show,
    /// Run another program of the same type at a link from now on, in one step, or try it there first: nothing passes unseen
    /// meanwhile
    #[command(
        after_help = "--shadow and --canary try the program, and `link show` tells what comes of it. Then the same command without them \
        has it replace the link's own program, and --end has the link keep its own."
    )]
    Replace(Replace),
    /// Give a link another place in the order of its hook, at once; it keeps its id, its counters and what it keeps back
    #[command(
        after_help = "Lower priorities run earlier, equal ones in the order that they were attached. --before and --after give other \
        links other priorities where there is no room between two of them, all in one step; `link show` lists links as they run."
    )]
    Order(Order),
    /// End a link: its program does not run there any more
    Detach {
        /// Id of the link, as `link show` has it
        link: Id,
    },
}

#[derive(Args)]
pub(super) struct Order {
    /// Id of the link, as `link show` has it
    link: Id,
    #[command(flatten)]
    place: Place,
}

#[derive(Args)]
#[group(required = true, multiple = false)]
struct Place {
    /// Right in front of this link
    #[arg(long, value_name = "LINK")]
    before: Option<Id>,
    /// Right behind this link
    #[arg(long, value_name = "LINK")]
    after: Option<Id>,
    /// At this priority
    #[arg(long)]
    priority: Option<u16>,
}

#[derive(Args)]
pub(super) struct Replace {
    /// Id of the link, as `link show` has it
    link: Id,
    /// The program, by its id, its name or its tag
    #[arg(required_unless_present = "end")]
    program: Option<String>,
    #[command(flatten)]
    trial: trial::Options,
    /// End what is tried in the link, which keeps its own program
    #[arg(long, conflicts_with_all = ["program", "shadow", "canary"])]
    end: bool,
}

impl Replace {
    /// The link and the program that replaces its own, when it does so at once.
    pub(super) fn replaces(&self) -> Option<(Id, &str)> {
        let program = self.program.as_deref().filter(|_| self.trial.mode().is_none());
        program.map(|program| (self.link, program))
    }
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
    /// What the link is shown, as 'tcp remote port 80,443'; none: everything at its hook
    #[arg(long, value_name = "CONDITIONS", value_parser = filter::parse)]
    filter: Option<LinkFilter>,
    /// What is judged is what is sent, whatever the sender does to its memory meanwhile; costs a copy
    #[arg(long)]
    snapshot: bool,
}

impl Order {
    /// Whether the place does not depend on where others stand.
    pub(super) fn is_absolute(&self) -> bool {
        self.place.priority.is_some()
    }
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
    /// What of its hook's data it is shown, as `link attach --filter` takes it; null: all.
    filter: Option<String>,
    /// Whether it was asked to end and still keeps something back: it is shown nothing new.
    draining: bool,
    /// What it keeps back: directions of connections, and bytes.
    held: Held,
    counted: Tally,
    /// What is tried in it.
    #[serde(skip_serializing_if = "Option::is_none")]
    trial: Option<trial::Tried>,
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
    let changes = attaching(client, options)?;
    match client.commit(&changes) {
        Ok(committed) => rows(client, (committed.first..).take(changes.len())),
        Err(refused) => Err(not_attached(client, &options.program, &changes, &refused)?),
    }
}

/// Why `changes`, which are attaches, are refused.
pub(super) fn not_attached(
    client: &mut Client,
    program: &str,
    changes: &[Change],
    refused: &Refused,
) -> Result<Error, Error> {
    if refused.status == Status::NotGranted {
        for change in changes {
            let Change::Attach(LinkAttach { program, hook, budget, .. }) = *change else { continue };
            let info = client.call(&ProgramInfo { program });
            let grants = info.map_err(|refused| live::refused("show a program", &refused))?.grants;
            if !grants.allows(hook) || budget > grants.budget {
                return not_granted(client, program, hook, budget);
            }
        }
    }
    Ok(live::refused(&format!("attach `{program}`"), refused))
}

/// The changes that an attach is: one for each hook.
pub(super) fn attaching(client: &mut Client, options: &Attach) -> Result<Vec<Change>, Error> {
    let (program, kind) = prog::find(client, &options.program)?;
    let hooks = filter::hooks(options.hook.as_slice(), kind, options.filter.as_ref())?;
    let attach = |hook| LinkAttach {
        program,
        hook,
        priority: options.priority,
        on_error: options.on_error.into(),
        budget: options.budget,
        snapshot: options.snapshot,
        filter: options.filter,
    };
    Ok(hooks.into_iter().map(attach).map(Change::Attach).collect())
}

/// The links of these ids.
pub(super) fn rows(client: &mut Client, ids: impl IntoIterator<Item = Id>) -> Result<Links, Error> {
    ids.into_iter().map(|id| row(client, id)).collect::<Result<_, _>>().map(|links| Links { links })
}

pub(super) fn show(client: &mut Client) -> Result<Links, Error> {
    let ids = ids(client)?;
    rows(client, ids)
}

/// The links, hook by hook, in the order that they run.
pub(super) fn ids(client: &mut Client) -> Result<Vec<Id>, Error> {
    let mut all = Vec::new();
    for hook in Hook::ALL {
        all.extend(ids_at(client, hook)?);
    }
    Ok(all)
}

/// The links of a hook, in the order that they run.
pub(super) fn ids_at(client: &mut Client, hook: Hook) -> Result<Vec<Id>, Error> {
    let ids = client.call(&LinkList { hook }).map_err(|refused| live::refused("list links", &refused))?;
    Ok(ids.to_vec())
}

pub(super) fn replace(client: &mut Client, options: &Replace) -> Result<Links, Error> {
    let link = options.link;
    match &options.program {
        Some(program) => put(client, link, program, options.trial.mode()),
        None => {
            let done = client.call(&LinkTry { link, trial: None });
            done.map_err(|refused| live::refused(&format!("end what is tried in link {link}"), &refused))?;
            Ok(Links { links: vec![row(client, link)?] })
        }
    }
}

/// Has a program replace a link's own, or tries it there.
pub(super) fn put(
    client: &mut Client,
    link: Id,
    program: &str,
    mode: Option<TrialMode>,
) -> Result<Links, Error> {
    let (id, _) = prog::find(client, program)?;
    let done = match mode {
        None => client.call(&LinkReplace { link, program: id }),
        Some(mode) => client.call(&LinkTry { link, trial: Some(Trial { program: id, mode }) }),
    };
    if let Err(refused) = done {
        if refused.status == Status::NotGranted {
            let LinkInfoReply { hook, budget, .. } = info(client, link)?;
            return Err(not_granted(client, id, hook, budget)?);
        }
        let verb = if mode.is_some() { "try" } else { "run" };
        return Err(live::refused(&format!("{verb} `{program}` at link {link}"), &refused));
    }
    Ok(Links { links: vec![row(client, link)?] })
}

/// Moves a link, and shows its hook's links in the order that they run now.
pub(super) fn order(client: &mut Client, options: &Order) -> Result<Links, Error> {
    let (hook, changes) = moving(client, options)?;
    client
        .commit(&changes)
        .map_err(|refused| live::refused(&format!("move link {}", options.link), &refused))?;
    let ids = client.call(&LinkList { hook }).map_err(|refused| live::refused("list links", &refused))?;
    rows(client, ids)
}

/// The changes that a move is, and the hook where they are.
pub(super) fn moving(client: &mut Client, options: &Order) -> Result<(Hook, Vec<Change>), Error> {
    let Order { link, place } = options;
    let doing = format!("move link {link}");
    let refused = |refused: Refused| live::refused(&doing, &refused);
    let hook = client.call(&LinkInfo { link: *link }).map_err(refused)?.hook;
    if let Some(priority) = place.priority {
        return Ok((hook, vec![Change::Move { link: *link, priority }]));
    }
    let mut links = Vec::new();
    for id in client.call(&LinkList { hook }).map_err(refused)? {
        links.push((id, client.call(&LinkInfo { link: id }).map_err(refused)?.priority));
    }
    let wanted = place.before.or(place.after);
    let Some(other) = wanted.filter(|other| links.iter().any(|(id, _)| id == other)) else {
        // One that is not there runs nowhere.
        if let Some(other) = wanted {
            info(client, other)?;
        }
        let message = format!("link {link} runs at {}, and the other one does not", hook.name());
        return Err(
            Error::usage("link-hook", message).with_help("`tidegate link show` lists links hook by hook")
        );
    };
    let moves = reordered(&links, *link, other, place.after.is_some()).ok_or_else(|| {
        Error::usage("link-order", format!("cannot {doing}: there are no priorities left behind it"))
            .with_help("give the links in front of it lower ones: --priority")
    })?;
    Ok((hook, moves.into_iter().map(|(link, priority)| Change::Move { link, priority }).collect()))
}

/// The priorities that change when `link` is to run next to `other`, of `links` in the order that they run; `None` when they would
/// be larger than priorities can be.
fn reordered(links: &[(Id, u16)], link: Id, other: Id, behind: bool) -> Option<Vec<(Id, u16)>> {
    let own = *links.iter().find(|(id, _)| *id == link)?;
    if link == other {
        return Some(Vec::new());
    }
    let mut wanted: Vec<_> = links.iter().copied().filter(|(id, _)| *id != link).collect();
    let at = wanted.iter().position(|(id, _)| *id == other)? + usize::from(behind);
    // As near to where it was as its neighbours allow; where they leave no room, those behind it move on.
    let from = at.checked_sub(1).and_then(|before| wanted.get(before));
    let from = from.map_or(Some(0), |(id, priority)| priority.checked_add(u16::from(*id > link)))?;
    let to = wanted.get(at);
    let to = to.map_or(Some(u16::MAX), |(id, priority)| priority.checked_sub(u16::from(link > *id)));
    let priority = to.filter(|to| from <= *to).map_or(from, |to| own.1.clamp(from, to));
    wanted.insert(at, (link, priority));
    let mut moves = Vec::new();
    let mut last: Option<(u16, Id)> = None;
    for (id, priority) in wanted {
        let least = match last {
            Some((before, other)) if other > id => before.checked_add(1)?,
            Some((before, _)) => before,
            None => 0,
        };
        let priority = priority.max(least);
        if !links.contains(&(id, priority)) {
            moves.push((id, priority));
        }
        last = Some((priority, id));
    }
    Some(moves)
}

pub(super) fn detach(client: &mut Client, link: Id) -> Result<super::Done, Error> {
    client.detach(link).map_err(|refused| live::refused(&format!("detach link {link}"), &refused))?;
    Ok(super::Done {})
}

/// The links of a hook with their filters, in the order that they run.
pub(super) fn filters(client: &mut Client, hook: Hook) -> Result<Vec<(Id, Option<LinkFilter>)>, Error> {
    let ids = ids_at(client, hook)?;
    // One that has ended meanwhile is shown nothing.
    let filter = |id| client.call(&LinkInfo { link: id }).ok().map(|info| (id, info.filter));
    Ok(ids.into_iter().filter_map(filter).collect())
}

/// Those of `links` that are shown data between these ends which goes one of these ways: 0 outbound, 1 inbound.
pub(super) fn shown(links: &[(Id, Option<LinkFilter>)], ways: &[u8], ends: &FlowEnds) -> Vec<Id> {
    let has = |filter: &LinkFilter| ways.iter().any(|way| filter.has(*way, ends));
    links.iter().filter(|(_, filter)| filter.as_ref().is_none_or(has)).map(|(id, _)| *id).collect()
}

fn info(client: &mut Client, link: Id) -> Result<LinkInfoReply, Error> {
    client.call(&LinkInfo { link }).map_err(|refused| live::refused(&format!("show link {link}"), &refused))
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
        filter: info.filter.as_ref().map(filter::show),
        draining: info.draining,
        held: info.held.into(),
        counted: info.counters.into(),
        trial: info.trial.map(Into::into),
    })
}

impl Report for Links {}

impl fmt::Display for Links {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for link in &self.links {
            let Row {
                id,
                hook,
                program,
                priority,
                on_error,
                budget,
                snapshot,
                filter,
                draining,
                held,
                counted,
                trial,
            } = link;
            write!(f, "{id}: {hook}  program {program}  priority {priority}  on error {on_error}")?;
            let (snapshot, draining) =
                (if *snapshot { "  snapshot" } else { "" }, if *draining { "  ends" } else { "" });
            writeln!(f, "  budget {budget}{snapshot}{draining}")?;
            if let Some(filter) = filter {
                writeln!(f, "    shown: {filter}")?;
            }
            write!(f, "    {} runs: {counted}", counted.runs)?;
            if *held == Held::from(Detached::default()) {
                writeln!(f)?;
            } else {
                writeln!(f, "; {} bytes of {} flows kept back", held.bytes, held.flows)?;
            }
            if let Some(trial) = trial {
                write!(f, "{trial}")?;
            }
        }
        writeln!(f, "{}", crate::tally::count(self.links.len(), "link"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn as_few_links_move_as_can() {
        let links = [(1, 10), (2, 20), (3, 20), (4, 30)];
        for (link, other, behind, moves) in [
            (4, 2, false, &[(4, 19)][..]),
            (1, 3, true, &[(1, 21)]),
            (2, 3, true, &[(2, 21)]),
            (3, 2, false, &[(3, 19)]),
            (1, 2, false, &[]),
            (2, 2, true, &[]),
        ] {
            assert_eq!(reordered(&links, link, other, behind).as_deref(), Some(moves), "{link} {other}");
        }
        assert_eq!(
            reordered(&[(1, 0), (2, 0), (3, 0)], 3, 1, false),
            Some(vec![(1, 1), (2, 1)]),
            "no room before 0"
        );
        assert_eq!(reordered(&[(1, 65_535), (2, 65_535)], 1, 2, true), None);
    }

    proptest! {
        #[test]
        fn a_link_comes_to_its_place_and_the_others_stay_in_order(
            priorities in prop::collection::vec(0..4_u16, 2..7),
            link in any::<prop::sample::Index>(),
            other in any::<prop::sample::Index>(),
            behind: bool,
        ) {
            let mut links: Vec<(Id, u16)> = (1..).zip(priorities).collect();
            let order = |links: &mut Vec<(Id, u16)>| links.sort_by_key(|(id, priority)| (*priority, *id));
            order(&mut links);
            let [link, other] = [link, other].map(|at| links[at.index(links.len())].0);
            let moves = reordered(&links, link, other, behind).expect("there is room");
            let mut wanted: Vec<_> = links.iter().map(|(id, _)| *id).filter(|id| *id != link || link == other).collect();
            if link != other {
                let at = wanted.iter().position(|id| *id == other).expect("it is there");
                wanted.insert(at + usize::from(behind), link);
            }
            let mut after: Vec<_> = links
                .iter()
                .map(|(id, priority)| (*id, moves.iter().find(|(moved, _)| moved == id).map_or(*priority, |(_, to)| *to)))
                .collect();
            order(&mut after);
            prop_assert_eq!(after.into_iter().map(|(id, _)| id).collect::<Vec<_>>(), wanted);
        }
    }
}

//! `tidegate prog`; on a host `load`, `show` and `unload`.

use std::fmt;

use clap::{Args, Subcommand};
use schemars::JsonSchema;
use serde::Serialize;

use tidegate_abi::control::{
    Id, OnError, ProgramInfo, ProgramInfoReply, ProgramList, ProgramUnload, Status, TrialMode,
};
use tidegate_abi::helper::Capability;
use tidegate_abi::{Hook, MapDef, ProgramType, limits};

use super::{Done, Report, dump, live, stats, verify};
use crate::client::Client;
use crate::error::{Error, Exit};
use crate::grants::{self, Granted};
use crate::host::{Setup, Staged};
use crate::object::Object;
use crate::report;
use crate::run;
use crate::tally::Tally;

#[derive(Subcommand)]
pub(super) enum Verb {
    /// Verify every program of an object, as `tidegate verify` does
    Verify(verify::Options),
    /// Print the bytecode of the programs in an object, or of one that the host has, beside the source lines that it came from
    #[command(after_help = "For example:\n  \
        tidegate prog dump guard.o                              as it will run, with its source\n  \
        tidegate prog dump guard.o visual | dot -Tsvg > guard.svg\n  \
        tidegate prog dump 12 opcodes --types guard.o           what the host runs, with the lines of guard.o if that is the same")]
    Dump(dump::Options),
    /// Run the programs of an object over a capture and write what comes out as a capture
    Run(run::Options),
    /// Show where the programs of an object spend their instructions over a capture: by source line and by verdict
    Profile(run::ProfileOptions),
    /// Load the programs of an object into the host, which verifies them; `link attach` makes them run
    #[command(after_help = "Two kinds of --map:\n  \
        --map NAME.KEY=VALUE    what a map of the object holds at first\n  \
        --map NAME=MAP          the object's map NAME is the host's map MAP (id or name), as `map create` or another program made\n                          \
                                it; its definition must be the same, and what it holds stays")]
    Load(LoadOptions),
    /// Show the programs that the host has, with what they counted
    Show,
    /// Show what every link has counted: once, again and again, or for Prometheus
    Stats(stats::Options),
    /// Take a program out of the host, once no link runs it any more
    Unload {
        /// The program, by its id, its name or its tag
        program: String,
    },
}

#[derive(Args)]
pub(super) struct LoadOptions {
    #[command(flatten)]
    pub(super) policy: run::Policy,
    /// What the program is called in the host, if not as in the object
    #[arg(long)]
    name: Option<String>,
    /// Attach the programs at every hook of their type at once, in their order
    #[arg(long)]
    pub(super) attach: bool,
    /// Try the program in this link, beside the link's own: `link replace LINK PROGRAM --shadow` in one step with the load
    #[arg(long, value_name = "LINK", conflicts_with = "attach")]
    pub(super) shadow: Option<Id>,
    /// What the programs may do at most: "see payload", edit, inject, "send events", drop; none: everything
    #[arg(long, value_name = "POWERS", value_delimiter = ',', value_parser = grants::power)]
    grant_may: Option<Vec<Capability>>,
    /// Where the programs may run, now and later; none: at every hook of their type
    #[arg(long, value_name = "HOOKS", value_delimiter = ',', value_parser = grants::hook)]
    grant_hooks: Option<Vec<Hook>>,
    /// Instructions that a run may take at most, whatever a link allows
    #[arg(long, value_name = "BUDGET", value_parser = clap::value_parser!(u32).range(1..=i64::from(limits::MAX_BUDGET)))]
    grant_budget: Option<u32>,
}

/// What was loaded.
#[derive(Serialize, JsonSchema)]
pub(super) struct Load {
    programs: Vec<LoadedRow>,
    maps: Vec<MapRow>,
}

#[derive(Serialize, JsonSchema)]
struct LoadedRow {
    id: Id,
    name: String,
    #[serde(rename = "type")]
    program_type: &'static str,
    /// Hash of its type and bytecode, in hexadecimal: the same wherever it is loaded, and under whatever name.
    tag: String,
    max_cost: u64,
}

impl LoadedRow {
    fn new(id: Id, info: &ProgramInfoReply) -> Self {
        Self {
            id,
            name: info.name.to_string(),
            program_type: info.program_type.name(),
            tag: tag(info),
            max_cost: info.max_cost,
        }
    }
}

/// A program's tag as people read and type it.
pub(super) fn tag(info: &ProgramInfoReply) -> String {
    format!("{:016x}", info.tag)
}

#[derive(Serialize, JsonSchema)]
struct MapRow {
    id: Id,
    name: String,
}

pub(super) fn load(client: &mut Client, options: &LoadOptions) -> Result<Load, Error> {
    let (staged, load, on_error) = stage(client, options)?;
    if let (Some(link), [program]) = (options.shadow, &*load.programs) {
        super::link::put(client, link, &program.id.to_string(), Some(TrialMode::Shadow))?;
    }
    if options.attach {
        staged.attach(client, on_error)?;
    }
    Ok(load)
}

/// Loads programs and attaches them to nothing. Their maps are theirs alone from then on.
pub(super) fn stage(client: &mut Client, options: &LoadOptions) -> Result<(Staged, Load, OnError), Error> {
    let mut object = Object::read(&options.policy.file)?;
    let (powers, hooks) = (options.grant_may.as_deref(), options.grant_hooks.as_deref());
    let granted = grants::of(powers, hooks, options.grant_budget);
    let mut setup = Setup { grants: Some(granted), ..options.policy.setup_over()? };
    if let Some(name) = &options.name {
        let chosen = match (&setup.programs[..], object.programs()) {
            ([one], _) => one.clone(),
            ([], [only]) => only.name.clone(),
            _ => {
                return Err(Error::usage(
                    "program-several",
                    format!("several programs can't be called `{name}`"),
                )
                .with_help("choose one of the object: --prog NAME"));
            }
        };
        if object.program(&chosen).is_some() {
            object.rename(&chosen, name);
            setup.programs = vec![name.clone()];
        }
    }
    let given = given(client, &object, &options.policy)?;
    let staged = Staged::over(client, &object, &setup, &given)?;
    let mut programs = Vec::new();
    for (id, _) in staged.programs() {
        let info = client.call(&ProgramInfo { program: id });
        let info = info.map_err(|refused| live::refused("show a program", &refused))?;
        programs.push(LoadedRow::new(id, &info));
    }
    let maps = staged.maps().map(|(id, name)| MapRow { id, name: name.into() }).collect();
    if options.shadow.is_some() && programs.len() != 1 {
        let message = format!("one program is tried in a link, and the object has {}", programs.len());
        return Err(Error::usage("shadow-programs", message).with_help("--prog NAME loads one of them"));
    }
    staged.leave(client);
    Ok((staged, Load { programs, maps }, setup.on_error))
}

/// The maps of the host that take the places of those of the object: id, name in the object, definition.
fn given(
    client: &mut Client,
    object: &Object,
    policy: &run::Policy,
) -> Result<Vec<(Id, String, MapDef)>, Error> {
    let mut given = Vec::new();
    for (name, map) in policy.given() {
        let Some(wanted) = object.maps().iter().find(|map| map.name == name) else {
            let known: Vec<_> = object.maps().iter().map(|map| map.name.as_str()).collect();
            let message = format!("the object has no map `{name}`");
            return Err(Error::new("map-unknown", Exit::NotFound, message)
                .with_help(format!("it has {}", known.join(", "))));
        };
        if policy.contents().any(|text| text.split_once('.').is_some_and(|(map, _)| map == name)) {
            let message = format!("`{name}` is the host's map `{map}`: what it holds stays");
            return Err(Error::usage("map-argument", message)
                .with_help("`tidegate map update` changes what a map of the host holds"));
        }
        let (id, info) = super::map::find(client, map)?;
        if info.def != wanted.def {
            let message = format!(
                "map `{map}` is not what the object declares as `{name}`: it is {}, and {} is wanted",
                super::map::words(&info.def),
                super::map::words(&wanted.def)
            );
            return Err(Error::usage("map-differs", message));
        }
        given.push((id, name.to_string(), info.def));
    }
    Ok(given)
}

impl Report for Load {}

impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for LoadedRow { id, name, program_type, max_cost, .. } in &self.programs {
            writeln!(f, "program {id}: {name} ({program_type}), at most {max_cost} instructions a run")?;
        }
        for MapRow { id, name } in &self.maps {
            writeln!(f, "map {id}: {name}")?;
        }
        Ok(())
    }
}

/// Programs of the driver.
#[derive(Serialize, JsonSchema)]
pub(super) struct Show {
    programs: Vec<ProgramRow>,
}

#[derive(Serialize, JsonSchema)]
struct ProgramRow {
    #[serde(flatten)]
    loaded: LoadedRow,
    insns: u32,
    /// What the verifier proved that it may do.
    uses: Vec<&'static str>,
    /// What it may do at most.
    granted: Granted,
    maps: Vec<Id>,
    counted: Tally,
}

pub(super) fn show(client: &mut Client) -> Result<Show, Error> {
    let programs = all(client)?.into_iter().map(|(id, info)| ProgramRow {
        loaded: LoadedRow::new(id, &info),
        insns: info.insns,
        uses: report::capabilities(Capability(info.capabilities)),
        granted: info.grants.into(),
        maps: info.maps.to_vec(),
        counted: info.counters.into(),
    });
    Ok(Show { programs: programs.collect() })
}

impl Report for Show {}

impl fmt::Display for Show {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for ProgramRow { loaded, insns, uses, granted, maps, counted } in &self.programs {
            let LoadedRow { id, name, program_type, tag, max_cost } = loaded;
            let maps: Vec<_> = maps.iter().map(ToString::to_string).collect();
            writeln!(
                f,
                "{id}: {name}  {program_type}  tag {tag}  {insns} instructions, at most {max_cost} a run"
            )?;
            let uses = if uses.is_empty() { "nothing else".into() } else { uses.join(", ") };
            writeln!(f, "    may decide, {uses}  granted: {granted}")?;
            let maps = if maps.is_empty() { "none".into() } else { maps.join(",") };
            writeln!(f, "    maps {maps}  {} runs: {counted}", counted.runs)?;
        }
        writeln!(f, "{}", crate::tally::count(self.programs.len(), "program"))
    }
}

/// Unloads a program. The maps that only programs had go with the last one that names them.
pub(super) fn unload(client: &mut Client, text: &str) -> Result<Done, Error> {
    let (program, _) = find(client, text)?;
    let doing = format!("unload `{text}`");
    client.call(&ProgramUnload { program }).map_err(|refused| {
        let error = live::refused(&doing, &refused);
        if refused.status == Status::Busy {
            error.with_help("`tidegate link detach` ends its links")
        } else {
            error
        }
    })?;
    Ok(Done {})
}

pub(super) fn all(client: &mut Client) -> Result<Vec<(Id, ProgramInfoReply)>, Error> {
    let ids = client
        .ids(|after| ProgramList { after })
        .map_err(|refused| live::refused("list programs", &refused))?;
    let mut programs = Vec::new();
    for id in ids {
        match client.call(&ProgramInfo { program: id }) {
            Ok(info) => programs.push((id, info)),
            // It went meanwhile.
            Err(refused) if refused.status == Status::NotFound => {}
            Err(refused) => return Err(live::refused("show a program", &refused)),
        }
    }
    Ok(programs)
}

/// The program that `text` names, and what it is written for.
pub(super) fn find(client: &mut Client, text: &str) -> Result<(Id, ProgramType), Error> {
    let programs = all(client)?;
    // Copies of one program have one tag: `named` says so.
    let tags: Vec<_> = programs.iter().map(|(id, info)| (*id, tag(info))).collect();
    let known = programs.iter().map(|(id, info)| (*id, info.name.as_str()));
    let by_tag = tags.iter().any(|(_, tag)| tag == text);
    let id = if by_tag {
        live::named("prog", text, tags.iter().map(|(id, tag)| (*id, tag.as_str())))?
    } else {
        live::named("prog", text, known)?
    };
    let kind = programs.iter().find(|(found, _)| *found == id).map(|(_, info)| info.program_type);
    Ok((id, kind.unwrap_or(ProgramType::Stream)))
}

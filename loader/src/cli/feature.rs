//! `tidegate feature list`: the tables of the ABI, for people who write policies.

use std::fmt;

use clap::{Args, Subcommand, ValueEnum};
use schemars::JsonSchema;
use serde::Serialize;
use tidegate_abi::hook::ProgramTypes;
use tidegate_abi::{Hook, MapKind, ProgramType, Verdict, helper, limits};

use super::Report;
use crate::header;

#[derive(Subcommand)]
pub(super) enum Verb {
    /// List the helpers, map kinds, hooks, verdicts and limits that programs can use
    List(Options),
}

#[derive(Args)]
pub(super) struct Options {
    /// Only these
    group: Option<Group>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Group {
    /// Functions that a program may call
    Helpers,
    /// Kinds of map
    Maps,
    /// Places where programs run
    Hooks,
    /// What a program may return
    Verdicts,
    /// Sizes and bounds
    Limits,
}

#[derive(Serialize, JsonSchema)]
pub(super) struct Features {
    #[serde(skip_serializing_if = "Option::is_none")]
    helpers: Option<Vec<HelperRow>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    maps: Option<Vec<MapRow>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hooks: Option<Vec<HookRow>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    verdicts: Option<Vec<VerdictRow>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    limits: Option<Vec<LimitRow>>,
}

#[derive(Serialize, JsonSchema)]
struct HelperRow {
    number: u32,
    name: &'static str,
    prototype: String,
    program_types: Vec<&'static str>,
    doc: &'static str,
}

#[derive(Serialize, JsonSchema)]
struct MapRow {
    number: u32,
    name: &'static str,
}

#[derive(Serialize, JsonSchema)]
struct HookRow {
    number: u8,
    name: &'static str,
    program_type: &'static str,
    section: &'static str,
}

#[derive(Serialize, JsonSchema)]
struct VerdictRow {
    number: u8,
    name: &'static str,
    program_types: Vec<&'static str>,
}

#[derive(Serialize, JsonSchema)]
struct LimitRow {
    name: &'static str,
    value: u64,
    doc: &'static str,
}

pub(super) fn list(options: &Options) -> Features {
    let wanted = |group| options.group.is_none_or(|only| only == group);
    Features {
        helpers: wanted(Group::Helpers).then(helpers),
        maps: wanted(Group::Maps).then(maps),
        hooks: wanted(Group::Hooks).then(hooks),
        verdicts: wanted(Group::Verdicts).then(verdicts),
        limits: wanted(Group::Limits).then(bounds),
    }
}

fn helpers() -> Vec<HelperRow> {
    let row = |helper: &helper::Helper| HelperRow {
        number: helper.number,
        name: helper.name,
        prototype: header::prototype(helper),
        program_types: names(helper.program_types),
        doc: helper.doc,
    };
    helper::HELPERS.iter().map(row).collect()
}

fn maps() -> Vec<MapRow> {
    MapKind::ALL.into_iter().map(|kind| MapRow { number: kind as u32, name: kind.name() }).collect()
}

fn hooks() -> Vec<HookRow> {
    let row = |hook: Hook| HookRow {
        number: hook as u8,
        name: hook.name(),
        program_type: hook.program_type().name(),
        section: hook.program_type().section(),
    };
    Hook::ALL.into_iter().map(row).collect()
}

fn verdicts() -> Vec<VerdictRow> {
    let row = |verdict: Verdict| VerdictRow {
        number: verdict as u8,
        name: verdict.name(),
        program_types: names(verdict.program_types()),
    };
    Verdict::ALL.into_iter().map(row).collect()
}

/// Rows of limits, by the names of their constants.
macro_rules! limits {
    ($( $name:ident $doc:literal )*) => {
        vec![$( LimitRow { name: stringify!($name), value: limits::$name as usize as u64, doc: $doc } ),*]
    };
}

fn bounds() -> Vec<LimitRow> {
    limits! {
        MAX_INSNS "instructions in one program"
        MAX_VERIFY_STEPS "instructions that one verification may walk"
        MAX_CALL_DEPTH "nested calls, the entry function included"
        STACK_FRAME "bytes of stack that each function has"
        MAX_MAPS "maps that one program may name"
        MAX_LINKS "links on one hook"
        DEFAULT_BUDGET "instructions that one run may take unless its link says otherwise"
        MAX_BUDGET "largest budget that a link may ask for"
        MAX_NAME "bytes in the name of a program or a map"
        MAX_KEY "bytes of a map key"
        MAX_VALUE "bytes of a map value"
        MAX_MAP_MEMORY "bytes that one map may take"
        MAX_RECORD "bytes of a record of a ring buffer"
        MAX_RESERVED "records that one run may hold at a time"
        MAX_WINDOW "bytes that a program is shown at once"
        MAX_EDITS "edits that one run may record"
        MAX_EDIT_BYTES "bytes of new data that the edits of one run may bring"
        MAX_CLONES "clones that one run may hold at a time"
        MAX_PATTERN "bytes of a pattern that tidegate_find takes"
        MAX_SCAN "bytes that the helpers of one run may search or copy"
    }
}

fn names(types: ProgramTypes) -> Vec<&'static str> {
    ProgramType::ALL.into_iter().filter(|kind| types.contains(*kind)).map(ProgramType::name).collect()
}

impl Report for Features {}

impl fmt::Display for Features {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(helpers) = &self.helpers {
            writeln!(f, "helpers")?;
            for row in helpers {
                writeln!(f, "  {:<8} {}", header::number(row.number), row.prototype)?;
                writeln!(f, "           {} [{}]", row.doc, row.program_types.join(", "))?;
            }
        }
        if let Some(maps) = &self.maps {
            writeln!(f, "maps")?;
            for row in maps {
                writeln!(f, "  {:<8} {}", row.number, row.name)?;
            }
        }
        if let Some(hooks) = &self.hooks {
            writeln!(f, "hooks")?;
            for row in hooks {
                writeln!(f, "  {:<8} {:<22} programs in section {}", row.number, row.name, row.section)?;
            }
        }
        if let Some(verdicts) = &self.verdicts {
            writeln!(f, "verdicts")?;
            for row in verdicts {
                writeln!(f, "  {:<8} {:<22} [{}]", row.number, row.name, row.program_types.join(", "))?;
            }
        }
        if let Some(limits) = &self.limits {
            writeln!(f, "limits")?;
            for row in limits {
                writeln!(f, "  {:<8} {:<22} {}", row.value, row.name, row.doc)?;
            }
        }
        Ok(())
    }
}

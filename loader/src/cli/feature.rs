//! `tidegate feature list`: the tables of the ABI, for people who write policies; `feature probe`: what the host at hand has.

use std::fmt;
use std::path::Path;

use clap::{Args, Subcommand, ValueEnum};
use schemars::JsonSchema;
use serde::Serialize;
use tidegate_abi::control::LinkList;
use tidegate_abi::helper::Capability;
use tidegate_abi::hook::ProgramTypes;
use tidegate_abi::{Hook, MapKind, ProgramType, Verdict, helper, limits};

use super::driver::{self, Answer};
use super::{Report, live};
use crate::client::{Client, Refused};
use crate::error::Error;
use crate::{device, header};

#[derive(Subcommand)]
pub(super) enum Verb {
    /// List the helpers, map kinds, hooks, verdicts, capabilities and limits that programs can use
    List(Options),
    /// Say what the host has: its version, whether traffic is shown to it, the hooks and the room at them, kinds of map, limits;
    /// and what the system says of the code that it lets run
    Probe,
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
    /// What a program can be granted
    Capabilities,
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
    capabilities: Option<Vec<CapabilityRow>>,
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

/// What a program is granted by its name; the verifier proves what it uses.
#[derive(Serialize, JsonSchema)]
struct CapabilityRow {
    /// Its bit.
    number: u32,
    name: &'static str,
    /// Functions that need it.
    helpers: Vec<&'static str>,
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
        capabilities: wanted(Group::Capabilities).then(capabilities),
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

fn capabilities() -> Vec<CapabilityRow> {
    let row = |(power, name): (Capability, &'static str)| {
        let needs = |helper: &&helper::Helper| helper.capability.0 & power.0 != 0;
        CapabilityRow {
            number: power.0,
            name,
            helpers: helper::HELPERS.iter().filter(needs).map(|helper| helper.name).collect(),
        }
    };
    Capability::NAMED.into_iter().map(row).collect()
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
        MAX_RUNTIME_MAPS "maps that one host holds"
        MAX_PROGRAMS "programs that one host holds"
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

/// What a host has.
#[derive(Serialize, JsonSchema)]
pub(super) struct Probe {
    /// How it was named: `driver`, or the path of a control socket.
    host: String,
    answer: Answer,
    system: System,
    hooks: Vec<Room>,
    /// Kinds of map.
    maps: Vec<&'static str>,
    /// Functions that a program may call.
    helpers: usize,
    /// What a program can be granted.
    capabilities: Vec<&'static str>,
    limits: Vec<LimitRow>,
}

/// The links of a hook.
#[derive(Serialize, JsonSchema)]
struct Room {
    hook: &'static str,
    program_type: &'static str,
    /// Whether this host ever shows it traffic.
    shown: bool,
    links: usize,
    /// Links that it can have.
    of: usize,
}

/// What the system says of itself.
#[derive(Serialize, JsonSchema)]
struct System {
    os: &'static str,
    architecture: &'static str,
    /// Drivers have to be signed.
    code_integrity: Known,
    /// The hypervisor holds code to that: memory is never both written and run.
    hvci: Known,
    /// Drivers may be signed for tests.
    test_signing: Known,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum Known {
    On,
    Off,
    /// The system does not say: only Windows does.
    Unknown,
}

impl System {
    /// `options` are `CODEINTEGRITY_OPTION_*` (winternl.h), where the system says them.
    fn new(options: Option<u32>) -> Self {
        const ENABLED: u32 = 0x1;
        const TEST_SIGN: u32 = 0x2;
        const HVCI_KMCI_ENABLED: u32 = 0x400;
        let known = |bit| match options {
            None => Known::Unknown,
            Some(options) if options & bit != 0 => Known::On,
            Some(_) => Known::Off,
        };
        Self {
            os: std::env::consts::OS,
            architecture: std::env::consts::ARCH,
            code_integrity: known(ENABLED),
            hvci: known(HVCI_KMCI_ENABLED),
            test_signing: known(TEST_SIGN),
        }
    }
}

/// Asks the host. What it does not say itself it has by its API version, which is this command's: another one would not have
/// answered.
pub(super) fn probe(client: &mut Client, host: Option<&Path>) -> Result<Probe, Error> {
    let refused = |refused: Refused| live::refused("probe the host", &refused);
    let answer = driver::ask(client).map_err(refused)?;
    let mut hooks = Vec::new();
    for hook in Hook::ALL {
        hooks.push(Room {
            hook: hook.name(),
            program_type: hook.program_type().name(),
            shown: answer.shows(hook.program_type()),
            links: client.call(&LinkList { hook }).map_err(refused)?.len(),
            of: limits::MAX_LINKS,
        });
    }
    Ok(Probe {
        host: live::name(host),
        answer,
        system: System::new(device::code_integrity()),
        hooks,
        maps: MapKind::ALL.map(MapKind::name).to_vec(),
        helpers: helper::HELPERS.len(),
        capabilities: Capability::NAMED.iter().map(|(_, name)| *name).collect(),
        limits: bounds(),
    })
}

impl Report for Probe {}

impl fmt::Display for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, answer, system, hooks, maps, helpers, capabilities, limits } = self;
        write!(f, "host {host}\n{answer}")?;
        let System { os, architecture, code_integrity, hvci, test_signing } = system;
        writeln!(
            f,
            "system {os} {architecture}: code integrity {code_integrity}, HVCI {hvci}, test signing {test_signing}"
        )?;
        writeln!(f, "hooks")?;
        for Room { hook, program_type, shown, links, of } in hooks {
            let shown = if *shown { "" } else { ", is never shown traffic here" };
            writeln!(f, "  {hook:<22} {program_type:<8} {links} of {of} links{shown}")?;
        }
        writeln!(f, "maps {}", maps.join(", "))?;
        writeln!(f, "helpers {helpers} (`tidegate feature list helpers`)")?;
        writeln!(f, "capabilities {}", capabilities.join(", "))?;
        writeln!(f, "limits")?;
        for LimitRow { name, value, doc } in limits {
            writeln!(f, "  {value:<8} {name:<22} {doc}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Known {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::On => "on",
            Self::Off => "off",
            Self::Unknown => "unknown",
        })
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
        if let Some(capabilities) = &self.capabilities {
            writeln!(f, "capabilities")?;
            for CapabilityRow { number, name, helpers } in capabilities {
                let helpers = if helpers.is_empty() {
                    "by what it returns or reads".into()
                } else {
                    helpers.join(", ")
                };
                writeln!(f, "  {number:<8} {name:<22} {helpers}")?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_system_does_not_say_is_unknown() {
        let said = |options| {
            let System { code_integrity, hvci, test_signing, .. } = System::new(options);
            (code_integrity, hvci, test_signing)
        };
        assert_eq!(said(None), (Known::Unknown, Known::Unknown, Known::Unknown));
        assert_eq!(said(Some(0x1)), (Known::On, Known::Off, Known::Off));
        assert_eq!(said(Some(0x403)), (Known::On, Known::On, Known::On));
        #[cfg(not(windows))]
        assert_eq!(device::code_integrity(), None);
    }
}

//! Bundles: a file that says which policies a host runs, and the steps that make it so.
//!
//! A host is made to run a bundle in three steps, and a client that dies in any of them leaves the old policies running, or the
//! new ones: what is new is loaded beside what runs and attached to nothing; one message changes all links at once; what no link
//! runs any more is unloaded. What a client that died has left is unloaded by the next one, for it is attached to nothing.

mod plan;
mod versions;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use tidegate_abi::control::OnError;
use tidegate_abi::{Hook, limits};
use toml::{Spanned, Table};

use crate::error::Error;
use crate::host::Setup;
use crate::object::Object;
use crate::scenario::Contents;

pub use plan::{Plan, apply};
pub use versions::Versions;

/// What a bundle says.
#[derive(Debug)]
pub struct Bundle {
    links: Vec<Entry>,
}

/// Programs of an object, and how they are linked.
#[derive(Debug)]
struct Entry {
    /// As the file names it, for people.
    name: String,
    path: PathBuf,
    object: Object,
    setup: Setup,
    /// Places in [`Object::programs`].
    programs: Vec<usize>,
    /// None: both families of the program's type.
    hooks: Option<Vec<Hook>>,
    priority: u16,
    on_error: OnError,
    budget: u32,
    snapshot: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    link: Vec<Spanned<Link>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Link {
    object: PathBuf,
    program: Option<String>,
    hooks: Option<Vec<Spanned<String>>>,
    priority: u16,
    #[serde(default)]
    on_error: Rule,
    budget: Option<u32>,
    #[serde(default)]
    snapshot: bool,
    #[serde(default)]
    maps: BTreeMap<String, Table>,
    #[serde(default)]
    globals: Table,
}

#[derive(Deserialize, Default, Clone, Copy)]
#[serde(rename_all = "lowercase")]
enum Rule {
    #[default]
    Block,
    Permit,
}

impl Bundle {
    /// Reads the bundle at `path` and the objects that it names, which are looked up beside it.
    ///
    /// # Errors
    /// The file or an object can't be used, or two programs ask for the same place.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let text = fs::read_to_string(path).map_err(|error| Error::file("read", path, &error))?;
        let at = |at: usize, message: &dyn std::fmt::Display| {
            let line = text.as_bytes().iter().take(at).filter(|byte| **byte == b'\n').count() + 1;
            Error::usage("bundle-malformed", format!("{}:{line}: {message}", path.display()))
        };
        let file: File = toml::from_str(&text)
            .map_err(|error| at(error.span().map_or(0, |span| span.start), &error.message()))?;
        let mut links = Vec::new();
        let mut places: BTreeMap<(usize, u16), usize> = BTreeMap::new();
        for link in file.link {
            let (start, link) = (link.span().start, link.into_inner());
            let hook = |name: &Spanned<String>| {
                Hook::from_name(name.as_ref()).ok_or_else(|| {
                    let known: Vec<_> = Hook::ALL.iter().map(|hook| hook.name()).collect();
                    let message = format!("there is no hook `{}`", name.as_ref());
                    at(name.span().start, &message).with_help(format!("hooks are {}", known.join(", ")))
                })
            };
            let hooks = link.hooks.as_ref().map(|hooks| hooks.iter().map(hook).collect()).transpose()?;
            let entry = Entry::new(path, link, hooks)?;
            for (_, hook) in entry.places() {
                if let Some(other) = places.insert((hook.index(), entry.priority), start) {
                    let line = text.as_bytes().iter().take(other).filter(|byte| **byte == b'\n').count() + 1;
                    let message = format!(
                        "{} has priority {} at {}, as the link in line {line} has",
                        entry.name,
                        entry.priority,
                        hook.name()
                    );
                    return Err(at(start, &message).with_help("give each its own: lower runs earlier"));
                }
            }
            links.push(entry);
        }
        Ok(Self { links })
    }
}

impl Entry {
    fn new(bundle: &Path, link: Link, hooks: Option<Vec<Hook>>) -> Result<Self, Error> {
        let path = bundle.parent().unwrap_or(Path::new(".")).join(&link.object);
        let object = Object::read(&path)?;
        let chosen = |name: &String| {
            object.programs().iter().position(|program| program.name == *name).ok_or_else(|| {
                let known: Vec<_> = object.programs().iter().map(|program| program.name.as_str()).collect();
                Error::usage("program-unknown", format!("{} has no program `{name}`", path.display()))
                    .with_help(format!("it has {}", known.join(", ")))
            })
        };
        let programs = match &link.program {
            Some(name) => vec![chosen(name)?],
            None => (0..object.programs().len()).collect(),
        };
        let names = programs.iter().map(|at| object.programs()[*at].name.clone()).collect();
        let on_error = match link.on_error {
            Rule::Block => OnError::Block,
            Rule::Permit => OnError::Permit,
        };
        Ok(Self {
            name: link.program.unwrap_or_else(|| link.object.display().to_string()),
            path,
            setup: Setup {
                programs: names,
                on_error,
                maps: Contents::from_iter(link.maps),
                globals: link.globals,
                grants: None,
            },
            object,
            programs,
            hooks,
            priority: link.priority,
            on_error,
            budget: link.budget.unwrap_or(limits::DEFAULT_BUDGET),
            snapshot: link.snapshot,
        })
    }

    /// The place of each program among those that were chosen, and where it runs.
    fn places(&self) -> Vec<(usize, Hook)> {
        let mut places = Vec::new();
        for (place, at) in self.programs.iter().enumerate() {
            let kind = self.object.programs()[*at].program_type;
            match &self.hooks {
                Some(hooks) => {
                    places.extend(
                        hooks.iter().filter(|hook| hook.program_type() == kind).map(|hook| (place, *hook)),
                    );
                }
                None => places.extend(kind.hooks().into_iter().map(|hook| (place, hook))),
            }
        }
        places
    }
}

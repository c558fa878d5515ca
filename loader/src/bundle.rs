//! Bundles: a file that says which policies a host runs, and the steps that make it so.
//!
//! A host is made to run a bundle in three steps, and a client that dies in any of them leaves the old policies running, or the
//! new ones: what is new is loaded beside what runs and attached to nothing; one message changes all links at once; what no link
//! runs any more is unloaded. What a client that died has left is unloaded by the next one, for it is attached to nothing.

mod instance;
mod plan;
mod signature;
mod trust;
mod versions;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use tidegate_abi::control::{Id, LinkAttach, LinkInfoReply, OnError};
use tidegate_abi::{Grants, Hook, LinkFilter, limits};
use toml::{Spanned, Table};

use self::instance::{Instance, Instances};
use crate::error::Error;
use crate::filter;
use crate::grants;
use crate::object::Object;
use crate::report::prove;

pub use plan::{Mark, Plan, apply};
pub use signature::{Manifest, PublicKey, SecretKey, Signature, beside};
pub use trust::{Signer, Trust, entry};
pub use versions::Versions;

/// What a bundle says.
#[derive(Debug)]
pub struct Bundle {
    /// What is loaded.
    instances: Vec<Instance>,
    /// Where it runs, in the order of the file.
    links: Vec<Entry>,
    /// What was read: once, so that what is signed, what is run and what is kept are the same.
    read: Read,
    signer: Option<Signer>,
    /// What its programs may do at most; none: everything, for nobody was asked.
    grants: Option<Grants>,
}

/// The bytes of a bundle and of what it names.
#[derive(Debug)]
struct Read {
    text: Vec<u8>,
    /// As it stands beside the bundle, whosever it is.
    signature: Option<Vec<u8>>,
    /// By the names that the bundle gives them.
    objects: BTreeMap<String, Vec<u8>>,
}

/// A `[[link]]`: where programs of an instance run, and how.
#[derive(Debug)]
struct Entry {
    /// As the file names it, for people.
    name: String,
    /// Which of [`Bundle::instances`].
    instance: usize,
    /// Which program of the instance runs at which hook.
    places: Vec<(usize, Hook)>,
    priority: u16,
    rules: Rules,
}

/// What a link is attached with, besides its place. It stays what it is for as long as the link lives.
#[derive(Debug)]
struct Rules {
    on_error: OnError,
    budget: u32,
    snapshot: bool,
    filter: Option<LinkFilter>,
}

/// A bundle file at work, and how its mistakes are told.
struct Source<'f> {
    path: &'f Path,
    text: &'f str,
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
    object: String,
    program: Option<String>,
    instance: Option<String>,
    hooks: Option<Vec<Spanned<String>>>,
    priority: u16,
    #[serde(default)]
    on_error: Rule,
    budget: Option<u32>,
    #[serde(default)]
    snapshot: bool,
    filter: Option<Spanned<String>>,
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
    /// Reads the bundle at `path` and the objects that it names, which are looked up beside it. With `trust` it must be signed by
    /// one of its keys, and what it may do is what that key is granted.
    ///
    /// # Errors
    /// The file or an object can't be used, two programs ask for the same place, or it is not signed as it must be.
    pub fn read(path: &Path, trust: Option<&Trust>) -> Result<Self, Error> {
        let folder = path.parent().unwrap_or(Path::new("."));
        let mut bundle = Self::find(path, |name| folder.join(name), trust)?;
        bundle.grant(bundle.grants)?;
        Ok(bundle)
    }

    /// Reads a bundle, and the objects that it names where `place` says that they are. Nothing of it is looked at before its
    /// signature was.
    fn find(path: &Path, place: impl Fn(&str) -> PathBuf, trust: Option<&Trust>) -> Result<Self, Error> {
        let bytes = |path: &Path| fs::read(path).map_err(|error| Error::file("read", path, &error));
        let text = bytes(path)?;
        let signature = match fs::read(beside(path)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            read => Some(read.map_err(|error| Error::file("read", &beside(path), &error))?),
        };
        let mut read = Read { text, signature, objects: BTreeMap::new() };
        let signed = trust.map(|trust| trust.check(path, read.signature.as_deref())).transpose()?;
        if let Some((manifest, ..)) = &signed {
            manifest.check_bundle(path, &read.text)?;
        }
        let text = std::str::from_utf8(&read.text)
            .map_err(|_| Error::usage("bundle-malformed", format!("{} is not text", path.display())))?;
        let source = Source { path, text };
        let file: File = toml::from_str(text)
            .map_err(|error| source.malformed(error.span().map_or(0, |span| span.start), error.message()))?;
        let (mut instances, mut links) = (Instances::default(), Vec::new());
        let mut places: BTreeMap<(usize, u16), usize> = BTreeMap::new();
        for link in file.link {
            let (start, link) = (link.span().start, link.into_inner());
            let place = place(&link.object);
            if !read.objects.contains_key(&link.object) {
                let bytes = Object::bytes(&place)?;
                if let Some((manifest, ..)) = &signed {
                    manifest.check_object(&link.object, &place, &bytes)?;
                }
                read.objects.insert(link.object.clone(), bytes);
            }
            let object = || Object::of(&place, &read.objects[&link.object]);
            let number = instances.number(&link, object)?;
            instances.give(number, &link, start, &source)?;
            let entry = Entry::new(&place, &mut instances, number, link, start, &source)?;
            for (_, hook) in &entry.places {
                if let Some(other) = places.insert((hook.index(), entry.priority), start) {
                    let message = format!(
                        "{} has priority {} at {}, as the link in line {} has",
                        entry.name,
                        entry.priority,
                        hook.name(),
                        source.line(other)
                    );
                    return Err(source
                        .malformed(start, &message)
                        .with_help("give each its own: lower runs earlier"));
                }
            }
            links.push(entry);
        }
        let (signer, grants) = signed.map(|(_, signer, grants)| (signer, grants)).unzip();
        Ok(Self { instances: instances.into_all(), links, read, signer, grants })
    }

    /// Grants its programs this. The runtime will hold them to it; what goes beyond is said now, before anything is touched.
    fn grant(&mut self, grants: Option<Grants>) -> Result<(), Error> {
        self.grants = grants;
        for instance in &mut self.instances {
            instance.setup.grants = grants;
        }
        let Some(grants) = grants else { return Ok(()) };
        for entry in &self.links {
            let (instance, budget) = (&self.instances[entry.instance], entry.rules.budget);
            for (place, hook) in &entry.places {
                let program = instance.program(*place);
                if !grants::beyond(&instance.object, program, grants).is_empty() {
                    return Err(grants::not_loaded(&instance.object, program, grants));
                }
                if !grants.allows(*hook) || budget > grants.budget {
                    return Err(grants::not_linked(&program.name, grants, *hook, budget));
                }
            }
        }
        Ok(())
    }

    /// Who signed it, when that was asked.
    pub fn signer(&self) -> Option<&Signer> {
        self.signer.as_ref()
    }

    /// What its programs may do at most.
    pub fn grants(&self) -> Grants {
        self.grants.unwrap_or(Grants::ALL)
    }

    /// What its programs do at most, by proof, and its links say.
    pub fn needs(&self) -> Grants {
        let mut needs = Grants { capabilities: 0, hooks: 0, budget: 0 };
        for entry in &self.links {
            let instance = &self.instances[entry.instance];
            for (place, hook) in &entry.places {
                if let Ok(proven) = prove(&instance.object, instance.program(*place)) {
                    needs.capabilities |= proven.capabilities().0;
                }
                needs.hooks |= Grants::hooks(&[*hook]);
                needs.budget = needs.budget.max(entry.rules.budget);
            }
        }
        needs
    }

    /// What a signature of it is of.
    ///
    /// # Errors
    /// The name of an object can't be in one.
    pub fn manifest(&self) -> Result<Manifest, Error> {
        let objects = self.read.objects.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice()));
        Manifest::new(&self.read.text, objects)
    }
}

impl Source<'_> {
    /// The line of a byte.
    fn line(&self, at: usize) -> usize {
        self.text.as_bytes().iter().take(at).filter(|byte| **byte == b'\n').count() + 1
    }

    fn malformed(&self, at: usize, message: &str) -> Error {
        self.error("bundle-malformed", at, message)
    }

    fn error(&self, code: &'static str, at: usize, message: &str) -> Error {
        Error::usage(code, format!("{}:{}: {message}", self.path.display(), self.line(at)))
    }

    fn hook(&self, name: &Spanned<String>) -> Result<Hook, Error> {
        Hook::from_name(name.as_ref()).ok_or_else(|| {
            let known: Vec<_> = Hook::ALL.iter().map(|hook| hook.name()).collect();
            self.malformed(name.span().start, &format!("there is no hook `{}`", name.as_ref()))
                .with_help(format!("hooks are {}", known.join(", ")))
        })
    }
}

impl Entry {
    /// What `link` says, which stands at `start`; its programs come to those of its instance.
    fn new(
        path: &Path,
        instances: &mut Instances,
        number: usize,
        link: Link,
        start: usize,
        source: &Source<'_>,
    ) -> Result<Self, Error> {
        // None: both families of the program's type.
        let hooks: Option<Vec<Hook>> = match &link.hooks {
            Some(hooks) => Some(hooks.iter().map(|hook| source.hook(hook)).collect::<Result<_, _>>()?),
            None => None,
        };
        let filter = match &link.filter {
            Some(text) => Some(
                filter::parse(text.as_ref())
                    .map_err(|error| source.malformed(text.span().start, &format!("the filter: {error}")))?,
            ),
            None => None,
        };
        let instance = instances.at(number);
        let chosen = match &link.program {
            Some(name) => vec![instance.find(name, path)?],
            None => (0..instance.object.programs().len()).collect(),
        };
        let mut places = Vec::new();
        for at in chosen {
            let kind = instance.object.programs()[at].program_type;
            let said: Vec<_> =
                hooks.iter().flatten().copied().filter(|hook| hook.program_type() == kind).collect();
            let at_hooks = if hooks.is_some() && said.is_empty() {
                said
            } else {
                filter::hooks(&said, kind, filter.as_ref()).map_err(|error| Error {
                    help: error.help,
                    ..source.error(error.code, start, &error.message)
                })?
            };
            // What runs nowhere is not loaded.
            if !at_hooks.is_empty() {
                let place = instance.place(at);
                places.extend(at_hooks.into_iter().map(|hook| (place, hook)));
            }
        }
        let name = link.program.unwrap_or(link.object);
        if places.is_empty() {
            let message = format!("{name} has no program for these hooks: it would run nowhere");
            return Err(source.malformed(start, &message).with_help(
                "programs in tidegate/stream run at stream hooks, those in tidegate/send at the others",
            ));
        }
        let rules = Rules {
            on_error: match link.on_error {
                Rule::Block => OnError::Block,
                Rule::Permit => OnError::Permit,
            },
            budget: link.budget.unwrap_or(limits::DEFAULT_BUDGET),
            snapshot: link.snapshot,
            filter,
        };
        Ok(Self { name, instance: number, places, priority: link.priority, rules })
    }

    /// The message that makes a link of it.
    fn attach(&self, program: Id, hook: Hook) -> LinkAttach {
        let Rules { on_error, budget, snapshot, filter } = self.rules;
        LinkAttach { program, hook, priority: self.priority, on_error, budget, snapshot, filter }
    }
}

impl Rules {
    /// What of a running link is not as these say, in words. Another link has to take its place then.
    fn differences(&self, link: &LinkInfoReply) -> Vec<String> {
        let Self { on_error, budget, snapshot, filter } = self;
        let differ = [
            (link.on_error != *on_error, "on_error"),
            (link.budget != *budget, "budget"),
            (link.snapshot != *snapshot, "snapshot"),
            (link.filter != *filter, "filter"),
        ];
        differ.into_iter().filter(|(differs, _)| *differs).map(|(_, what)| what.into()).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::env;
    use std::process;

    use super::*;

    #[test]
    fn any_byte_of_a_signed_bundle_or_its_objects_that_is_another_is_refused() {
        let folder = env::temp_dir().join(format!("tidegate-bundle-{}", process::id()));
        fs::create_dir_all(&folder).expect("a folder");
        let place = |name: &str| folder.join(name);
        let write = |name: &str, bytes: &[u8]| fs::write(place(name), bytes).expect("a file");
        let object =
            fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/gate.o")).expect("an object");
        let text = "[[link]]\nobject = \"a.o\"\nprogram = \"cut\"\npriority = 1\n\
                    [[link]]\nobject = \"b.o\"\nprogram = \"stamp\"\npriority = 2\n";
        let secret = SecretKey::generate();
        let trusted = entry("ops", secret.public());
        for (name, bytes) in [
            ("b.toml", text.as_bytes()),
            ("a.o", &object),
            ("b.o", &object),
            ("trust.toml", trusted.as_bytes()),
        ] {
            write(name, bytes);
        }
        let bundle = place("b.toml");
        let manifest = Bundle::read(&bundle, None).and_then(|bundle| bundle.manifest()).expect("a bundle");
        let signature = Signature::new(manifest, &secret).to_string();
        write("b.toml.sig", signature.as_bytes());
        let trust = Trust::read(&place("trust.toml")).expect("a trust file");
        let read = || Bundle::read(&bundle, Some(&trust)).map(drop).map_err(|error| error.code);
        assert_eq!(read(), Ok(()));
        let mut refused = BTreeMap::new();
        for (name, bytes, step) in [
            ("b.toml", text.as_bytes(), 1),
            ("b.toml.sig", signature.as_bytes(), 5),
            ("a.o", &object, 97),
            ("b.o", &object, 101),
        ] {
            for at in (0..bytes.len()).step_by(step).chain([bytes.len() - 1]) {
                let mut other = bytes.to_vec();
                other[at] ^= 1 << (at % 8);
                write(name, &other);
                let code = read().expect_err("another byte");
                *refused.entry((name, code)).or_insert(0) += 1;
            }
            write(name, &bytes[..bytes.len() - 1]);
            assert!(read().is_err(), "{name} is cut");
            write(name, bytes);
        }
        assert_eq!(read(), Ok(()), "all is as it was");
        let codes: Vec<_> = refused.keys().copied().collect();
        let changed = |name| (name, "bundle-changed");
        let of_signature = ["bundle-key", "bundle-signature"].map(|code| ("b.toml.sig", code));
        assert_eq!(codes, [&[changed("a.o"), changed("b.o"), changed("b.toml")], &of_signature[..]].concat());
        fs::remove_dir_all(&folder).expect("it is there");
    }
}

//! The trust file: whose bundles a host runs, and what each of them may do.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tidegate_abi::helper::Capability;
use tidegate_abi::{Grants, Hook, limits};
use toml::Spanned;

use super::signature::{Manifest, PublicKey, Signature, beside, denied};
use crate::error::Error;
use crate::grants;

/// What a trust file says.
#[derive(Debug)]
pub struct Trust {
    path: PathBuf,
    keys: Vec<Key>,
}

#[derive(Debug)]
struct Key {
    name: String,
    public: PublicKey,
    grants: Grants,
}

/// Who signed a bundle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Signer {
    /// As the trust file calls it.
    pub name: String,
    /// Its public key.
    pub key: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    keys: BTreeMap<String, Spanned<Entry>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    public: String,
    may: Vec<String>,
    hooks: Vec<String>,
    budget: Option<u32>,
}

/// Grants, as files say them.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Said {
    may: Vec<String>,
    hooks: Vec<String>,
    budget: u32,
}

impl Said {
    pub(super) fn new(grants: Grants) -> Self {
        let named = Capability::NAMED.into_iter().filter(|(power, _)| grants.capabilities & power.0 != 0);
        let hooks = Hook::ALL.into_iter().filter(|hook| grants.allows(*hook));
        Self {
            may: named.map(|(_, name)| name.into()).collect(),
            hooks: hooks.map(|hook| hook.name().into()).collect(),
            budget: grants.budget,
        }
    }

    pub(super) fn grants(&self) -> Result<Grants, String> {
        let powers: Vec<_> = self.may.iter().map(|name| grants::power(name)).collect::<Result<_, _>>()?;
        let hooks: Vec<_> = self.hooks.iter().map(|name| grants::hook(name)).collect::<Result<_, _>>()?;
        if self.budget > limits::MAX_BUDGET {
            return Err(format!("no budget is greater than {}", limits::MAX_BUDGET));
        }
        Ok(grants::of(Some(&powers), Some(&hooks), Some(self.budget)))
    }
}

/// An entry of a trust file, which grants everything there is.
pub fn entry(name: &str, key: PublicKey) -> String {
    let Said { may, hooks, budget } = Said::new(Grants { budget: limits::DEFAULT_BUDGET, ..Grants::ALL });
    let list = |names: &[String]| names.iter().map(|name| format!("{name:?}")).collect::<Vec<_>>().join(", ");
    format!(
        "[keys.{name}]\npublic = \"{key}\"\nmay = [{}]\nhooks = [{}]\nbudget = {budget}\n",
        list(&may),
        list(&hooks)
    )
}

impl Trust {
    /// Reads the trust file at `path`.
    ///
    /// # Errors
    /// It can't be read, or is none.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let text = fs::read_to_string(path).map_err(|error| Error::file("read", path, &error))?;
        let at = |at: usize, message: &str| {
            let line = text.as_bytes().iter().take(at).filter(|byte| **byte == b'\n').count() + 1;
            Error::usage("trust-malformed", format!("{}:{line}: {message}", path.display()))
        };
        let file: File = toml::from_str(&text)
            .map_err(|error| at(error.span().map_or(0, |span| span.start), error.message()))?;
        let mut keys: Vec<Key> = Vec::new();
        for (name, entry) in file.keys {
            let (start, entry) = (entry.span().start, entry.into_inner());
            let Entry { public, may, hooks, budget } = entry;
            let public = public.parse().map_err(|message: String| at(start, &message))?;
            let said = Said { may, hooks, budget: budget.unwrap_or(limits::DEFAULT_BUDGET) };
            let grants = said.grants().map_err(|message| at(start, &message))?;
            if let Some(other) = keys.iter().find(|key| key.public == public) {
                return Err(at(start, &format!("the key of `{name}` is that of `{}`", other.name)));
            }
            keys.push(Key { name, public, grants });
        }
        Ok(Self { path: path.into(), keys })
    }

    /// What was signed, by whom, and what that may do, when `signature` beside the bundle at `path` is of one of its keys.
    ///
    /// # Errors
    /// There is none, it is no signature, or its key is not known.
    pub(super) fn check(
        &self,
        path: &Path,
        signature: Option<&[u8]>,
    ) -> Result<(Manifest, Signer, Grants), Error> {
        let file = beside(path);
        let Some(bytes) = signature else {
            let message = format!("{} is not signed, and {} is trusted", path.display(), self.path.display());
            return Err(denied("bundle-unsigned", message)
                .with_help("`tidegate bundle sign` writes the signature beside the bundle"));
        };
        let signature = Signature::parse(&file, bytes)?;
        let Some(key) = self.keys.iter().find(|key| key.public == signature.key()) else {
            let message =
                format!("{}: {} has no key {}", file.display(), self.path.display(), signature.key());
            return Err(denied("bundle-key", message).with_help("a key that is to be trusted is added there"));
        };
        let signer = Signer { name: key.name.clone(), key: key.public.to_string() };
        Ok((signature.verify(&file)?, signer, key.grants))
    }
}

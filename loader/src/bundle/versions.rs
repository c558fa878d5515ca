//! The bundles that a host ran: the one that runs and the one before it, each with its objects, in a folder.
//!
//! `next` is written before links change and becomes `current` behind that, when `current` has become `previous`. A client that
//! died in between left a `next`: whether it was put into place, the host tells.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tidegate_abi::Grants;

use super::signature::beside;
use super::trust::Said;
use super::{Bundle, Mark, Signer, Trust};
use crate::client::Client;
use crate::error::{Error, Exit};

/// The folder.
#[derive(Clone, Debug)]
pub struct Versions(PathBuf);

/// Name of the bundle in a version's folder. Its signature is beside it.
const FILE: &str = "bundle.toml";
/// Name of what is known of it, beside what it says.
const KEPT: &str = "kept.toml";
/// Name of its [`Mark`].
const MARK: &str = "mark.toml";

/// What is known of a bundle that was kept.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    /// Where its objects are, by the names that it gives them.
    objects: BTreeMap<String, String>,
    /// Who signed it, when that was asked.
    signer: Option<Signer>,
    /// What its programs were granted then.
    grants: Option<Said>,
}

impl Versions {
    /// Those in `folder`, which need not exist.
    pub const fn at(folder: PathBuf) -> Self {
        Self(folder)
    }

    /// Waits until nobody else changes what is kept, and what a host runs by it. The folder is this process's while the file lives.
    ///
    /// # Errors
    /// The folder can't be written to.
    pub fn lock(&self) -> Result<fs::File, Error> {
        fs::create_dir_all(&self.0).map_err(|error| Error::file("make", &self.0, &error))?;
        let path = self.version("lock");
        let lock = fs::File::create(&path).and_then(|file| file.lock().map(|()| file));
        lock.map_err(|error| Error::file("lock", &path, &error))
    }

    /// The objects of the bundle that runs, as far as they can be found.
    #[must_use]
    pub fn objects(&self) -> Vec<PathBuf> {
        let files =
            fs::read_dir(self.version("current")).into_iter().flatten().flatten().map(|file| file.path());
        files.filter(|path| path.extension().is_some_and(|extension| extension == "o")).collect()
    }

    fn version(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Writes down what is about to be put into place: `bundle`, its signature and its objects, as they were read.
    ///
    /// # Errors
    /// The folder can't be written to.
    pub fn write(&self, bundle: &Bundle) -> Result<(), Error> {
        let (making, next) = (self.version("making"), self.version("next"));
        for old in [&making, &next] {
            remove(old)?;
        }
        fs::create_dir_all(&making).map_err(|error| Error::file("make", &making, &error))?;
        let write = |name: &Path, bytes: &[u8]| {
            let to = making.join(name);
            fs::write(&to, bytes).map_err(|error| Error::file("write", &to, &error))
        };
        let mut objects = BTreeMap::new();
        for (number, (name, bytes)) in bundle.read.objects.iter().enumerate() {
            let file = format!("{number}.o");
            write(file.as_ref(), bytes)?;
            objects.insert(name.clone(), file);
        }
        let (signer, grants) = (bundle.signer.clone(), bundle.grants.map(Said::new));
        let kept = toml::to_string(&Kept { objects, signer, grants })
            .map_err(|error| Error::new("bundle-kept", Exit::Partial, error.to_string()))?;
        write(KEPT.as_ref(), kept.as_bytes())?;
        if let Some(signature) = &bundle.read.signature {
            write(&beside(FILE.as_ref()), signature)?;
        }
        write(FILE.as_ref(), &bundle.read.text)?;
        rename(&making, &next)
    }

    /// What was written down was put into place.
    ///
    /// # Errors
    /// The folder can't be written to.
    pub fn promote(&self) -> Result<(), Error> {
        let [previous, current, next] = ["previous", "current", "next"].map(|name| self.version(name));
        if current.exists() {
            remove(&previous)?;
            rename(&current, &previous)?;
        }
        rename(&next, &current)
    }

    /// Forgets what was written down: it was not put into place.
    fn forget(&self) -> Result<(), Error> {
        remove(&self.version("next"))
    }

    /// Writes down by what the host will tell that `next` is in place. It may be put there behind this.
    ///
    /// # Errors
    /// The folder can't be written to.
    pub fn mark(&self, mark: &Mark) -> Result<(), Error> {
        let path = self.version("next").join(MARK);
        let text = toml::to_string(mark)
            .map_err(|error| Error::new("bundle-kept", Exit::Partial, error.to_string()))?;
        fs::write(&path, text).map_err(|error| Error::file("write", &path, &error))
    }

    /// Ends what a client that died has begun: the host tells whether it was put into place.
    ///
    /// # Errors
    /// The host does not answer, or the folder can't be used.
    pub fn settle(&self, client: &mut Client) -> Result<(), Error> {
        let next = self.version("next");
        if !next.join(FILE).exists() {
            return Ok(());
        }
        // What has no mark, or half of one, was never put into place.
        let mark = fs::read_to_string(next.join(MARK)).ok().and_then(|text| toml::from_str(&text).ok());
        let Some(mark): Option<Mark> = mark else { return self.forget() };
        if mark.is_made(client)? { self.promote() } else { self.forget() }
    }

    /// The bundle that ran before the one that runs. It may do what it might then; with `trust` it must be signed by a key that is
    /// in it now, and may do nothing that this key may not.
    ///
    /// # Errors
    /// There was none, or it is not trusted any more.
    pub fn previous(&self, trust: Option<&Trust>) -> Result<Bundle, Error> {
        if self.version("previous").join(FILE).exists() {
            return self.read("previous", trust);
        }
        let message = format!("there is nothing to go back to in {}", self.0.display());
        Err(Error::new("rollback-none", Exit::NotFound, message)
            .with_help("`tidegate apply` keeps the bundle that it replaces"))
    }

    fn read(&self, name: &str, trust: Option<&Trust>) -> Result<Bundle, Error> {
        let folder = self.version(name);
        let file = folder.join(KEPT);
        let text = fs::read_to_string(&file).map_err(|error| Error::file("read", &file, &error))?;
        let malformed = |message: &str| Error::usage("bundle-kept", format!("{}: {message}", file.display()));
        let kept: Kept = toml::from_str(&text).map_err(|error| malformed(error.message()))?;
        let then =
            kept.grants.map(|said| said.grants().map_err(|message| malformed(&message))).transpose()?;
        // One that it does not know is nowhere.
        let place = |name: &str| folder.join(kept.objects.get(name).map_or("lost.o", String::as_str));
        let mut bundle = Bundle::find(&folder.join(FILE), place, trust)?;
        bundle.signer = bundle.signer.or(kept.signer);
        let grants = bundle.grants.map_or(then, |now| Some(now.and(then.unwrap_or(Grants::ALL))));
        bundle.grant(grants)?;
        Ok(bundle)
    }
}

fn remove(folder: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::file("remove", folder, &error))
        }
        _ => Ok(()),
    }
}

fn rename(from: &Path, to: &Path) -> Result<(), Error> {
    fs::rename(from, to).map_err(|error| Error::file("rename", from, &error))
}

//! The bundles that a host ran: the one that runs and the one before it, each with its objects, in a folder.
//!
//! `next` is written before links change and becomes `current` behind that, when `current` has become `previous`. A client that
//! died in between left a `next`: whether it was put into place, the host tells.

use std::fs;
use std::path::{Path, PathBuf};

use super::{Bundle, Plan};
use crate::client::Client;
use crate::error::{Error, Exit};

/// The folder.
#[derive(Clone, Debug)]
pub struct Versions(PathBuf);

/// Name of the bundle in a version's folder.
const FILE: &str = "bundle.toml";

impl Versions {
    /// Those in `folder`, which need not exist.
    pub const fn at(folder: PathBuf) -> Self {
        Self(folder)
    }

    fn version(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Writes down what is about to be put into place: the bundle at `path`, which is `bundle`, and its objects.
    ///
    /// # Errors
    /// The folder can't be written to.
    pub fn write(&self, path: &Path, bundle: &Bundle) -> Result<(), Error> {
        let (making, next) = (self.version("making"), self.version("next"));
        for old in [&making, &next] {
            remove(old)?;
        }
        fs::create_dir_all(&making).map_err(|error| Error::file("make", &making, &error))?;
        let text = fs::read_to_string(path).map_err(|error| Error::file("read", path, &error))?;
        let mut table: toml::Table = text.parse().map_err(|error: toml::de::Error| {
            Error::usage("bundle-malformed", format!("{}: {}", path.display(), error.message()))
        })?;
        let links = table.get_mut("link").and_then(toml::Value::as_array_mut).into_iter().flatten();
        for ((number, entry), link) in bundle.links.iter().enumerate().zip(links) {
            let name = format!("{number}.o");
            let to = making.join(&name);
            fs::copy(&entry.path, &to).map_err(|error| Error::file("copy to", &to, &error))?;
            if let Some(link) = link.as_table_mut() {
                link.insert("object".into(), name.into());
            }
        }
        let file = making.join(FILE);
        fs::write(&file, table.to_string()).map_err(|error| Error::file("write", &file, &error))?;
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
    ///
    /// # Errors
    /// The folder can't be written to.
    pub fn forget(&self) -> Result<(), Error> {
        remove(&self.version("next"))
    }

    /// Ends what a client that died has begun: the host tells whether it was put into place.
    ///
    /// # Errors
    /// The host does not answer, or the folder can't be used.
    pub fn settle(&self, client: &mut Client) -> Result<(), Error> {
        let file = self.version("next").join(FILE);
        if !file.exists() {
            return Ok(());
        }
        // One that can't be read was never put into place.
        let runs = Bundle::read(&file)
            .and_then(|bundle| Plan::new(client, &bundle))
            .is_ok_and(|plan| plan.is_empty());
        if runs { self.promote() } else { self.forget() }
    }

    /// The bundle that ran before the one that runs.
    ///
    /// # Errors
    /// There was none.
    pub fn previous(&self) -> Result<PathBuf, Error> {
        let file = self.version("previous").join(FILE);
        if file.exists() {
            return Ok(file);
        }
        let message = format!("there is nothing to go back to in {}", self.0.display());
        Err(Error::new("rollback-none", Exit::NotFound, message)
            .with_help("`tidegate apply` keeps the bundle that it replaces"))
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

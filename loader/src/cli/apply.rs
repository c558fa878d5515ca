//! `tidegate apply|diff|rollback`: a host runs what a bundle says.

use std::path::{Path, PathBuf};

use clap::Args;

use super::live;
use crate::bundle::{self, Bundle, Plan, Versions};
use crate::client::Client;
use crate::error::Error;

#[derive(Args)]
pub(super) struct Options {
    /// The bundle
    file: PathBuf,
    /// Only say what would be changed
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    versions: Folder,
}

#[derive(Args)]
pub(super) struct Diff {
    /// The bundle
    file: PathBuf,
}

#[derive(Args)]
pub(super) struct Rollback {
    /// Only say what would be changed
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    versions: Folder,
}

#[derive(Args)]
struct Folder {
    /// Where the bundles that ran are kept; none: beside the host's socket
    #[arg(long, value_name = "DIR")]
    versions: Option<PathBuf>,
}

impl Folder {
    fn of(&self, host: Option<&Path>) -> Versions {
        Versions::at(self.versions.clone().unwrap_or_else(|| live::versions(host)))
    }
}

pub(super) fn apply(client: &mut Client, host: Option<&Path>, options: &Options) -> Result<Plan, Error> {
    let bundle = Bundle::read(&options.file)?;
    if options.dry_run {
        return Plan::new(client, &bundle);
    }
    put(client, &options.versions.of(host), &options.file, &bundle)
}

pub(super) fn diff(client: &mut Client, options: &Diff) -> Result<Plan, Error> {
    Plan::new(client, &Bundle::read(&options.file)?)
}

pub(super) fn rollback(client: &mut Client, host: Option<&Path>, options: &Rollback) -> Result<Plan, Error> {
    let versions = options.versions.of(host);
    if options.dry_run {
        return Plan::new(client, &Bundle::read(&versions.previous()?)?);
    }
    versions.settle(client)?;
    let file = versions.previous()?;
    put(client, &versions, &file, &Bundle::read(&file)?)
}

/// Puts a bundle into place, and keeps the one that ran.
fn put(client: &mut Client, versions: &Versions, file: &Path, bundle: &Bundle) -> Result<Plan, Error> {
    versions.settle(client)?;
    let mut plan = Plan::new(client, bundle)?;
    let changes = !plan.is_empty();
    if changes {
        versions.write(file, bundle)?;
    }
    // Without a change too: what others that died have left goes.
    if let Err(error) = bundle::apply(client, bundle, &mut plan) {
        if changes {
            versions.forget()?;
        }
        return Err(error);
    }
    if changes {
        versions.promote()?;
    }
    Ok(plan)
}

//! `tidegate apply|diff|rollback`: a host runs what a bundle says.

use std::path::{Path, PathBuf};

use clap::Args;

use super::live;
use crate::bundle::{self, Bundle, Mark, Plan, Trust, Versions};
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
    trust: TrustFile,
    #[command(flatten)]
    versions: Folder,
}

#[derive(Args)]
pub(super) struct Diff {
    /// The bundle
    file: PathBuf,
    #[command(flatten)]
    trust: TrustFile,
}

#[derive(Args)]
pub(super) struct Rollback {
    /// Only say what would be changed
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    trust: TrustFile,
    #[command(flatten)]
    versions: Folder,
}

#[derive(Args)]
pub(super) struct TrustFile {
    /// Whose bundles are taken, and what they may do: a trust file; none: TIDEGATE_TRUST in the environment, or trust.toml where
    /// the bundles that ran are kept, if it is there
    #[arg(long, value_name = "FILE")]
    trust: Option<PathBuf>,
}

impl TrustFile {
    /// What it says, when there is one.
    pub(super) fn read(&self, host: Option<&Path>) -> Result<Option<Trust>, Error> {
        live::trust(self.trust.as_deref(), host).map(|path| Trust::read(&path)).transpose()
    }
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
    let bundle = Bundle::read(&options.file, options.trust.read(host)?.as_ref())?;
    if options.dry_run {
        return Plan::new(client, &bundle);
    }
    let versions = options.versions.of(host);
    let _alone = versions.lock()?;
    versions.settle(client)?;
    put(client, &versions, &bundle)
}

pub(super) fn diff(client: &mut Client, host: Option<&Path>, options: &Diff) -> Result<Plan, Error> {
    Plan::new(client, &Bundle::read(&options.file, options.trust.read(host)?.as_ref())?)
}

pub(super) fn rollback(client: &mut Client, host: Option<&Path>, options: &Rollback) -> Result<Plan, Error> {
    let (trust, versions) = (options.trust.read(host)?, options.versions.of(host));
    if options.dry_run {
        return Plan::new(client, &versions.previous(trust.as_ref())?);
    }
    let _alone = versions.lock()?;
    versions.settle(client)?;
    let bundle = versions.previous(trust.as_ref())?;
    put(client, &versions, &bundle)
}

/// Puts a bundle into place, and keeps the one that ran.
fn put(client: &mut Client, versions: &Versions, bundle: &Bundle) -> Result<Plan, Error> {
    let mut plan = Plan::new(client, bundle)?;
    // A trial that ends makes no other bundle of the one that runs: the one before it stays the one to go back to.
    let changes = !plan.is_in_place();
    if changes {
        versions.write(bundle)?;
    }
    // Without a change too: trials end, and what others that died have left goes.
    let mark = |mark: &Mark| if changes { versions.mark(mark) } else { Ok(()) };
    if let Err(error) = bundle::apply(client, bundle, &mut plan, mark) {
        // It may be in place all the same. A host that does not answer tells the next client.
        let _ = versions.settle(client);
        return Err(error);
    }
    if changes {
        versions.promote()?;
    }
    Ok(plan)
}

//! `tidegate bundle keygen|sign|verify`: who answers for a bundle, and what it may do.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use schemars::JsonSchema;
use serde::Serialize;

use super::Report;
use super::apply::TrustFile;
use crate::bundle::{self, Bundle, SecretKey, Signature, Signer};
use crate::error::{Error, Exit};
use crate::grants::Granted;

#[derive(Subcommand)]
pub(super) enum Verb {
    /// Make a key to sign bundles with, and print the entry of a trust file that lets its bundles do everything
    Keygen(Keygen),
    /// Sign a bundle and the objects that it names; the signature is a file beside it, BUNDLE.sig
    Sign(Sign),
    /// Say whose a bundle is and what it may do, or why it is refused, as `apply` would
    Verify(Verify),
}

#[derive(Args)]
pub(super) struct Keygen {
    /// The file to write the secret key to; who can read it can sign
    key: PathBuf,
}

#[derive(Args)]
pub(super) struct Sign {
    /// The bundle
    file: PathBuf,
    /// The secret key, as `bundle keygen` wrote it
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
}

#[derive(Args)]
pub(super) struct Verify {
    /// The bundle
    file: PathBuf,
    #[command(flatten)]
    trust: TrustFile,
}

/// A key that was made.
#[derive(Serialize, JsonSchema)]
pub(super) struct Made {
    /// Where the secret key is.
    secret: String,
    /// The public key.
    public: String,
    /// An entry of a trust file, which grants it everything.
    trust: String,
}

pub(super) fn keygen(options: &Keygen) -> Result<Made, Error> {
    let key = SecretKey::generate();
    key.write(&options.key)?;
    let stem = options.key.file_stem().map(|name| name.to_string_lossy()).unwrap_or_default();
    let name: String =
        stem.chars().map(|c| if c.is_ascii_alphanumeric() || c == '_' { c } else { '-' }).collect();
    let (secret, public) = (options.key.display().to_string(), key.public());
    Ok(Made { secret, public: public.to_string(), trust: bundle::entry(&name, public) })
}

/// A bundle and what is signed of it.
#[derive(Serialize, JsonSchema)]
pub(super) struct Signed {
    /// The public key that signed.
    key: String,
    /// What it is called by the trust file that was asked.
    signer: Option<Signer>,
    objects: Vec<SignedObject>,
    /// What its programs do at most, by proof, and its links say.
    needs: Granted,
    /// What they are granted, when a trust file was asked.
    granted: Option<Granted>,
}

/// An object, and the hash of it that is signed.
#[derive(Serialize, JsonSchema)]
struct SignedObject {
    name: String,
    hash: String,
}

pub(super) fn sign(options: &Sign) -> Result<Signed, Error> {
    let key = SecretKey::read(&options.key)?;
    let bundle = Bundle::read(&options.file, None)?;
    let signature = Signature::new(bundle.manifest()?, &key);
    let file = bundle::beside(&options.file);
    fs::write(&file, signature.to_string()).map_err(|error| Error::file("write", &file, &error))?;
    signed(&bundle, key.public().to_string())
}

pub(super) fn verify(host: Option<&Path>, options: &Verify) -> Result<Signed, Error> {
    let Some(trust) = options.trust.read(host)? else {
        return Err(Error::new(
            "trust-none",
            Exit::NotFound,
            "there is no trust file to hold the signature against",
        )
        .with_help("name one: --trust FILE; `tidegate bundle keygen` prints an entry of one"));
    };
    let bundle = Bundle::read(&options.file, Some(&trust))?;
    let key = bundle.signer().map(|signer| signer.key.clone()).unwrap_or_default();
    signed(&bundle, key)
}

fn signed(bundle: &Bundle, key: String) -> Result<Signed, Error> {
    let manifest = bundle.manifest()?;
    let objects = manifest.objects().map(|(name, hash)| SignedObject { name: name.into(), hash }).collect();
    let signer = bundle.signer().cloned();
    let granted = signer.is_some().then(|| bundle.grants().into());
    Ok(Signed { key, signer, objects, needs: bundle.needs().into(), granted })
}

impl Report for Made {}

impl fmt::Display for Made {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "# {} has the secret key; keep it where nobody else reads it.", self.secret)?;
        writeln!(f, "# For a trust file, with less where its bundles may do less:")?;
        f.write_str(&self.trust)
    }
}

impl Report for Signed {}

impl fmt::Display for Signed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.signer {
            Some(signer) => writeln!(f, "signed by {}, {}", signer.name, signer.key)?,
            None => writeln!(f, "signed with {}", self.key)?,
        }
        for SignedObject { name, hash } in &self.objects {
            writeln!(f, "  {hash}  {name}")?;
        }
        writeln!(f, "needs:   {}", self.needs)?;
        match &self.granted {
            Some(granted) => writeln!(f, "granted: {granted}"),
            None => Ok(()),
        }
    }
}

//! Which programs are run, and how they are set up: the arguments that `prog run` and `proxy` share.

use std::path::PathBuf;

use tidegate_abi::control::OnError;

use crate::error::Error;
use crate::host::Setup;
use crate::scenario::{self, Contents, literal};

/// Programs of an object, with what their maps hold at first.
#[derive(clap::Args, Clone, Debug)]
pub struct Policy {
    /// The object: compiled by clang -target bpf, or by rustc and llc
    pub file: PathBuf,
    /// Program to run, when the object has several; more than one run in this order
    #[arg(long = "prog", value_name = "NAME")]
    pub programs: Vec<String>,
    /// Entry of a map before the run; KEY and VALUE as in scenario files, a struct as {member = 1} or ["u32:1", "str:x"]
    #[arg(long = "map", value_name = "NAME.KEY=VALUE")]
    pub maps: Vec<String>,
    /// File with contents of maps and values of constants: maps and globals as in a scenario file
    #[arg(long, value_name = "FILE")]
    pub map_file: Option<PathBuf>,
    /// Value of a constant of the object
    #[arg(long = "set", value_name = "NAME=VALUE")]
    pub globals: Vec<String>,
    /// What a failed run does with the data
    #[arg(long, value_enum, default_value = "block")]
    pub on_error: OnErrorArg,
}

/// [`OnError`], as it is typed.
#[derive(clap::ValueEnum, Clone, Copy, Debug)]
pub enum OnErrorArg {
    /// The data is dropped; a connection is reset
    Block,
    /// The data passes unchanged
    Permit,
}

impl From<OnErrorArg> for OnError {
    fn from(typed: OnErrorArg) -> Self {
        match typed {
            OnErrorArg::Block => Self::Block,
            OnErrorArg::Permit => Self::Permit,
        }
    }
}

impl Policy {
    /// Arguments of the form NAME=MAP: the name of a map of the object, and what a map of a host is called. Only a host has them.
    pub fn given(&self) -> impl Iterator<Item = (&str, &str)> {
        self.maps.iter().filter_map(|text| text.split_once('=').filter(|(name, _)| !name.contains('.')))
    }

    /// The other ones: contents of maps.
    pub fn contents(&self) -> impl Iterator<Item = &String> {
        self.maps.iter().filter(|text| text.split_once('=').is_none_or(|(name, _)| name.contains('.')))
    }

    /// The setup that the arguments ask for, where no map of a host can be meant.
    ///
    /// # Errors
    /// An argument, or the file with contents of maps, can't be used.
    pub fn setup(&self) -> Result<Setup, Error> {
        match self.given().next() {
            Some((name, map)) => Err(Self::not_an_entry(&format!("{name}={map}"))),
            None => self.setup_over(),
        }
    }

    fn not_an_entry(text: &str) -> Error {
        Error::usage("map-argument", format!("`--map {text}` is not NAME.KEY=VALUE"))
            .with_help("as in --map 'allowed.example.com=1' or --map 'header.0=X-Via: tidegate'")
    }

    /// The same for a host, whose maps are [`given`](Self::given).
    ///
    /// # Errors
    /// As [`setup`](Self::setup)'s.
    pub fn setup_over(&self) -> Result<Setup, Error> {
        let (mut maps, mut globals) = match &self.map_file {
            Some(path) => scenario::read_contents(path)?,
            None => (Contents::new(), toml::Table::new()),
        };
        for text in self.contents() {
            let parts = text.split_once('=').and_then(|(entry, value)| Some((entry.split_once('.')?, value)));
            let Some(((map, key), value)) = parts else {
                return Err(Self::not_an_entry(text));
            };
            maps.entry(map.into()).or_default().insert(key.into(), value_of(value)?);
        }
        for text in &self.globals {
            let Some((name, value)) = text.split_once('=') else {
                return Err(Error::usage("set-argument", format!("`--set {text}` is not NAME=VALUE")));
            };
            globals.insert(name.into(), value_of(value)?);
        }
        let (programs, on_error) = (self.programs.clone(), self.on_error.into());
        Ok(Setup { programs, on_error, maps, globals, grants: None })
    }
}

fn value_of(text: &str) -> Result<toml::Value, Error> {
    literal::typed(text).map_err(|error| Error::usage("map-argument", format!("`{text}`: {error}")))
}

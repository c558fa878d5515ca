//! Which programs are run, and how they are set up: the arguments that `prog run`, `proxy` and `tun` share.

use std::ops::Range;
use std::path::{Path, PathBuf};

use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{ArgAction, ArgMatches, Args, Command, FromArgMatches};
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

/// Policies that run one behind the other, in the order that their objects are named: what is said behind an object is about it, and
/// what is said in front of the first one about that.
#[derive(Clone, Debug, Default)]
pub struct Chain(pub Vec<Policy>);

impl Args for Chain {
    fn augment_args(command: Command) -> Command {
        Policy::augment_args(command)
            .mut_arg("file", |arg| {
                arg.required(false).num_args(1..).action(ArgAction::Append).value_name("OBJECT").help(
                    "The objects, each compiled by clang -target bpf, or by rustc and llc; their programs run one behind the other, \
                     and what is said behind an object is about it",
                )
            })
            .mut_arg("map_file", |arg| arg.action(ArgAction::Append))
            .mut_arg("on_error", |arg| arg.action(ArgAction::Append))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Chain {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let files = said::<PathBuf>(matches, "file");
        let mut chain = Vec::new();
        for (number, (at, file)) in files.iter().enumerate() {
            let begin = if number == 0 { 0 } else { *at };
            let end = files.get(number + 1).map_or(usize::MAX, |(next, _)| *next);
            chain.push(Policy::said_between(matches, file, begin..end)?);
        }
        if chain.is_empty() && ABOUT_ONE.iter().any(|id| is_said(matches, id)) {
            let message = "it is about an object, and none is named\n";
            return Err(clap::Error::raw(ErrorKind::MissingRequiredArgument, message));
        }
        Ok(Self(chain))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// What may be said about an object.
const ABOUT_ONE: [&str; 5] = ["programs", "maps", "map_file", "globals", "on_error"];

fn is_said(matches: &ArgMatches, id: &str) -> bool {
    matches.value_source(id) == Some(ValueSource::CommandLine)
}

/// What was said of an argument, each with its place among all that was said.
fn said<T: Clone + Send + Sync + 'static>(matches: &ArgMatches, id: &str) -> Vec<(usize, T)> {
    if !is_said(matches, id) {
        return Vec::new();
    }
    let values = matches.get_many::<T>(id).into_iter().flatten().cloned();
    matches.indices_of(id).into_iter().flatten().zip(values).collect()
}

impl Policy {
    /// What was said of an object at these places.
    fn said_between(matches: &ArgMatches, file: &Path, places: Range<usize>) -> Result<Self, clap::Error> {
        fn of<T: Clone + Send + Sync + 'static>(
            matches: &ArgMatches,
            id: &str,
            places: &Range<usize>,
        ) -> Vec<T> {
            said(matches, id)
                .into_iter()
                .filter(|(at, _)| places.contains(at))
                .map(|(_, value)| value)
                .collect()
        }
        fn one<T>(values: Vec<T>, name: &str, file: &Path) -> Result<Option<T>, clap::Error> {
            if values.len() > 1 {
                let message = format!("{name} is said twice of {}\n", file.display());
                return Err(clap::Error::raw(ErrorKind::ArgumentConflict, message));
            }
            Ok(values.into_iter().next())
        }
        let on_error = one(of(matches, "on_error", &places), "--on-error", file)?;
        Ok(Self {
            file: file.into(),
            programs: of(matches, "programs", &places),
            maps: of(matches, "maps", &places),
            map_file: one(of(matches, "map_file", &places), "--map-file", file)?,
            globals: of(matches, "globals", &places),
            on_error: on_error.unwrap_or(OnErrorArg::Block),
        })
    }

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

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(words: &[&str]) -> Result<Vec<Policy>, ErrorKind> {
        let command = Chain::augment_args(Command::new("test"));
        let matches =
            command.try_get_matches_from([&["test"], words].concat()).map_err(|error| error.kind())?;
        Chain::from_arg_matches(&matches).map(|chain| chain.0).map_err(|error| error.kind())
    }

    #[test]
    fn what_is_said_behind_an_object_is_about_it() {
        let one = typed(&["--map", "a.1=1", "one.o", "--prog", "p", "--prog", "q"]).expect("it parses");
        assert_eq!(one.len(), 1);
        assert_eq!(
            (&one[0].maps[..], &one[0].programs[..]),
            (&["a.1=1".into()][..], &["p".into(), "q".into()][..])
        );

        let words = [
            "--map",
            "a.1=1",
            "one.o",
            "--on-error",
            "permit",
            "two.o",
            "--map",
            "b.1=1",
            "--map-file",
            "f",
            "three.o",
        ];
        let [one, two, three] = &typed(&words).expect("it parses")[..] else { panic!("three objects") };
        assert_eq!((one.file.as_path(), &one.maps[..]), (Path::new("one.o"), &["a.1=1".into()][..]));
        assert!(matches!((one.on_error, two.on_error), (OnErrorArg::Permit, OnErrorArg::Block)));
        assert_eq!((two.file.as_path(), &two.maps[..]), (Path::new("two.o"), &["b.1=1".into()][..]));
        assert_eq!((one.map_file.clone(), two.map_file.clone()), (None, Some("f".into())));
        assert_eq!(
            (three.file.as_path(), three.maps.len(), three.programs.len()),
            (Path::new("three.o"), 0, 0)
        );

        assert_eq!(typed(&[]).expect("none need be named").len(), 0);
        assert_eq!(typed(&["--map", "a.1=1"]).err(), Some(ErrorKind::MissingRequiredArgument));
        let twice = ["one.o", "--on-error", "permit", "--on-error", "block"];
        assert_eq!(typed(&twice).err(), Some(ErrorKind::ArgumentConflict));
    }
}

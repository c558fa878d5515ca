//! What the verbs that speak to a host share: finding it, naming things in it, and saying why it refused.

use std::env;
use std::path::{Path, PathBuf};

use tidegate_abi::control::{Id, Status};

use crate::client::{Client, Refused};
use crate::device::Device;
use crate::error::{Error, Exit};
use crate::socket::{self, Socket, VM};

/// The environment variable that names the host when `--host` does not.
const VARIABLE: &str = "TIDEGATE_HOST";

/// The environment variable that names the trust file when `--trust` does not.
const TRUST: &str = "TIDEGATE_TRUST";

/// What the driver is called where a host is named.
const DRIVER: &str = "driver";

/// Where a host is.
enum Place {
    Driver,
    /// In user space, at the user's own socket.
    Vm,
    /// In user space, at this socket.
    Path(PathBuf),
}

/// The place that is `named`, or else the one that the environment names, or else the driver where one can be, and `vm` where none can.
fn place(named: Option<&Path>) -> Place {
    let environment = || env::var_os(VARIABLE).filter(|text| !text.is_empty()).map(PathBuf::from);
    match named.map(PathBuf::from).or_else(environment) {
        Some(name) if name.as_os_str() == DRIVER => Place::Driver,
        Some(name) if name.as_os_str() == VM => Place::Vm,
        Some(path) => Place::Path(path),
        None if cfg!(windows) => Place::Driver,
        None => Place::Vm,
    }
}

/// A client of the host that is meant by `named`.
pub(super) fn connect(named: Option<&Path>) -> Result<Client, Error> {
    match place(named) {
        Place::Driver => Device::open().map(Client::driver),
        Place::Vm => Socket::connect_own().map(Client::socket),
        Place::Path(path) => Socket::connect(&path).map(Client::socket),
    }
}

/// What the host is called that [`connect`] speaks to.
pub(super) fn name(named: Option<&Path>) -> String {
    match place(named) {
        Place::Driver => DRIVER.into(),
        Place::Vm => VM.into(),
        Place::Path(path) => path.display().to_string(),
    }
}

/// Whether somebody named a host: else there need not be one.
pub(super) fn is_named(named: Option<&Path>) -> bool {
    named.is_some() || env::var_os(VARIABLE).is_some_and(|text| !text.is_empty())
}

/// Where the bundles that a host ran are kept: beside its socket, or where the system keeps data of services.
pub(super) fn versions(named: Option<&Path>) -> PathBuf {
    let mut socket = match place(named) {
        Place::Driver => {
            let data = env::var_os("ProgramData").map_or_else(|| "/var/lib".into(), PathBuf::from);
            return data.join("tidegate");
        }
        Place::Vm => socket::own(),
        Place::Path(path) => path,
    };
    socket.as_mut_os_string().push(".bundles");
    socket
}

/// The trust file that is `named`, or that the environment names, or that lies where the bundles of the host are kept.
pub(super) fn trust(named: Option<&Path>, host: Option<&Path>) -> Option<PathBuf> {
    let environment = || env::var_os(TRUST).filter(|text| !text.is_empty()).map(PathBuf::from);
    let beside = || Some(versions(host).join("trust.toml")).filter(|path| path.exists());
    named.map(PathBuf::from).or_else(environment).or_else(beside)
}

/// An error of the host's, met while `doing` something.
pub(super) fn refused(doing: &str, refused: &Refused) -> Error {
    let message = format!("cannot {doing}: {refused}");
    if let Some(silent) = refused.silent() {
        return Error { message, ..silent };
    }
    let (code, exit) = match refused.status {
        Status::Version => ("host-version", Exit::Driver),
        Status::NotFound => ("not-found", Exit::NotFound),
        Status::NoTraffic => ("hook-unshown", Exit::Usage),
        Status::NotGranted => ("not-granted", Exit::Denied),
        Status::Refused | Status::OverBudget => ("program-refused", Exit::Refused),
        _ => ("host-refused", Exit::Usage),
    };
    Error::new(code, exit, message).with_help(refused.help())
}

/// The thing that `text` names, by its id or by its name: `known` has both of each.
pub(super) fn named<'a>(
    what: &str,
    text: &str,
    known: impl IntoIterator<Item = (Id, &'a str)>,
) -> Result<Id, Error> {
    let known: Vec<_> = known.into_iter().collect();
    let number = text.parse().ok();
    let found: Vec<_> =
        known.iter().filter(|(id, name)| Some(*id) == number || *name == text).map(|(id, _)| *id).collect();
    match found[..] {
        [id] => Ok(id),
        [] => Err(Error::new("not-found", Exit::NotFound, format!("the host has no {what} `{text}`"))
            .with_help(format!("`tidegate {what} show` lists them"))),
        _ => Err(Error::usage("ambiguous", format!("{} {what}s are called `{text}`", found.len()))
            .with_help("name one by its id")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_answer_of_a_host_that_is_no_success_is_told_in_words_with_what_to_do() {
        let refusals = (1..).map_while(Status::from_number).map(|status| Refused {
            status,
            system: None,
            refusal: None,
        });
        let gone = Box::new(Error::new("host-io", Exit::Driver, "gone"));
        let silent = Refused { status: Status::Malformed, system: Some(gone), refusal: None };
        let all: Vec<_> = refusals.chain([silent]).collect();
        assert!(all.len() > 10, "{all:?}");
        for answer in &all {
            let error = refused("do it", answer);
            assert_ne!(error.exit, Exit::Ok, "{answer:?}");
            assert!(error.message.starts_with("cannot do it: "), "{error}");
            assert!(
                !error.message.contains(|letter: char| letter.is_ascii_digit()),
                "a bare number: {error}"
            );
            assert!(error.help.is_some_and(|help| help.len() > 10), "{answer:?}");
        }
        assert_eq!(refused("do it", &all[all.len() - 1]).code, "host-io");
    }
}

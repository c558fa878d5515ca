//! What the verbs that speak to the driver share: finding it, naming things in it, and saying why it refused.

use tidegate_abi::control::{Id, IdList, Status};

use crate::client::{Client, Refused};
use crate::device::Device;
use crate::error::{Error, Exit};

/// A client of the driver.
pub(super) fn connect() -> Result<Client, Error> {
    Device::open().map(Client::driver)
}

/// An error of the driver's, met while `doing` something.
pub(super) fn refused(doing: &str, refused: &Refused) -> Error {
    let message = format!("cannot {doing}: {refused}");
    match refused.status {
        _ if refused.system.is_some() => Error::new("driver-io", Exit::Driver, message),
        Status::Version => Error::new("driver-version", Exit::Driver, message),
        Status::NotFound => Error::new("not-found", Exit::NotFound, message),
        Status::Refused | Status::OverBudget => Error::new("program-refused", Exit::Refused, message),
        _ => Error::new("driver-refused", Exit::Usage, message),
    }
}

/// All ids of a kind: `more` asks for those behind one.
pub(super) fn all_ids(mut more: impl FnMut(Id) -> Result<IdList, Refused>) -> Result<Vec<Id>, Refused> {
    let mut ids = Vec::new();
    loop {
        let next = more(ids.last().copied().unwrap_or(0))?;
        if next.is_empty() {
            return Ok(ids);
        }
        ids.extend(next);
    }
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
        [] => Err(Error::new("not-found", Exit::NotFound, format!("the driver has no {what} `{text}`"))
            .with_help(format!("`tidegate {what} show` lists them"))),
        _ => Err(Error::usage("ambiguous", format!("{} {what}s are called `{text}`", found.len()))
            .with_help("name one by its id")),
    }
}

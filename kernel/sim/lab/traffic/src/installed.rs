//! A policy in a runtime, the driver's or one of this process.

use std::collections::BTreeMap;

use tidegate::Error;
use tidegate::client::Client;
use tidegate::device::Device;
use tidegate::host::{Loaded, Setup};
use tidegate::object::Object;
use tidegate::tally::Tally;

/// A policy in the driver.
pub(crate) struct Installed {
    client: Client,
    loaded: Loaded,
    counted: Tally,
}

impl Installed {
    pub(crate) fn new(object: &Object, setup: &Setup) -> Result<Self, Error> {
        let mut client = Client::driver(Device::open()?);
        let loaded = Loaded::new(&mut client, object, setup)?;
        Ok(Self { client, loaded, counted: Tally::default() })
    }

    pub(crate) fn reset(&mut self) -> Result<(), Error> {
        self.loaded.reset(&mut self.client)
    }

    pub(crate) fn events(&mut self) -> Result<BTreeMap<String, Vec<Vec<u8>>>, Error> {
        self.loaded.events(&mut self.client)
    }

    /// What the policy did since this was last asked.
    pub(crate) fn tally(&mut self) -> Result<Tally, Error> {
        let now = self.loaded.tally(&mut self.client)?;
        Ok(now.since(&std::mem::replace(&mut self.counted, now)))
    }

    pub(crate) fn unload(mut self) {
        self.loaded.unload(&mut self.client);
    }
}

//! Programs, maps, links and events, and the answers to control requests.
//!
//! A [`Runtime`] is everything that one driver (or one test) holds. Control messages change it through
//! [`Runtime::handle`]; a classify takes the [`Chain`] of its hook and runs its [`Link`]s, whose programs reach their maps
//! through the helpers that [`Calls`] answers. Nothing on that path allocates, and what it locks is held for a few
//! instructions at `DISPATCH_LEVEL`.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

mod calls;
mod chain;
mod control;
mod counters;
mod dice;
mod link;
mod map;
mod memory;
mod objects;
mod platform;
mod program;
mod spin;

pub use calls::Calls;
pub use chain::Chain;
pub use link::{Link, RunError};
pub use platform::Platform;

use alloc::sync::Arc;

use tidegate_abi::Hook;
use tidegate_abi::control::Status;

use crate::chain::Published;
use crate::objects::{HOOKS, Objects};
use crate::spin::Spin;

/// Programs, maps and links of one driver, or of one test: any number may live side by side.
#[derive(Debug)]
pub struct Runtime {
    platform: Platform,
    objects: Spin<Objects>,
    chains: [Published; HOOKS],
}

impl Runtime {
    /// An empty runtime. `PASSIVE_LEVEL`.
    ///
    /// # Errors
    /// [`Status::NoMemory`].
    pub fn new(platform: Platform) -> Result<Self, Status> {
        let published = || Published::new(&platform);
        Ok(Self {
            platform,
            objects: Spin::new(Objects::new()?),
            chains: [published()?, published()?, published()?, published()?],
        })
    }

    /// [`Runtime::new`] behind a shared pointer. `PASSIVE_LEVEL`.
    ///
    /// # Errors
    /// [`Status::NoMemory`].
    pub fn shared(platform: Platform) -> Result<Arc<Self>, Status> {
        memory::shared(Self::new(platform)?)
    }

    /// The system's functions that it was made with.
    pub fn platform(&self) -> &Platform {
        &self.platform
    }

    /// What runs at `hook`, as a snapshot. IRQL <= `DISPATCH_LEVEL`; never allocates, never waits for a control request.
    pub fn chain(&self, hook: Hook) -> Chain {
        self.chains.get(hook.index()).map_or_else(Chain::default, |chains| chains.chain(&self.platform))
    }
}

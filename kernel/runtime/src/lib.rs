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
mod times;
mod trial;
mod watch;

pub use self::spin::Spin;
pub use calls::Calls;
pub use chain::Chain;
pub use link::{Held, Link, RunError};
pub use platform::Platform;
/// A shared owner whose making can fail; what the runtime hands out lies behind one.
pub use tidegate_vm::Shared;
pub use trial::{Comparison, Trial};
pub use watch::Sight;

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::fmt;
use core::sync::atomic::{AtomicU32, Ordering};

use tidegate_abi::Hook;
use tidegate_abi::control::{Filters, Id, RunInfo, Status};

use crate::chain::Published;
use crate::memory::room;
use crate::objects::{HOOKS, Objects};
use crate::watch::Watches;

/// Programs, maps and links of one driver, or of one test: any number may live side by side.
#[derive(Debug)]
pub struct Runtime {
    platform: Platform,
    objects: Spin<Objects>,
    /// By hook.
    chains: Vec<Published>,
    waker: Spin<Waker>,
    flows: Spin<Shower>,
    watches: Watches,
    filters: Spin<Filters>,
    newest: AtomicU32,
    /// How programs are made executable.
    kind: program::Kind,
}

/// Who wants to know that a control message changed a map or a link.
#[derive(Default)]
struct Waker(Option<Shared<Wake>>);

/// What is called then.
pub type Wake = Box<dyn Fn() + Send + Sync>;

impl fmt::Debug for Waker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Waker").field(&self.0.is_some()).finish()
    }
}

/// Who knows the connections that links are shown.
#[derive(Default)]
struct Shower(Option<Shared<ShowFlows>>);

/// Writes connections for [`FlowList`](tidegate_abi::control::FlowList), from where the last call ended on, as many as there is
/// room for. Returns where the next call goes on, 0 when there are no more, and how many bytes were written.
pub type ShowFlows = Box<dyn Fn(u32, &mut [u8]) -> Result<(u32, usize), Status> + Send + Sync>;

impl fmt::Debug for Shower {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Shower").field(&self.0.is_some()).finish()
    }
}

impl Runtime {
    /// An empty runtime. `PASSIVE_LEVEL`.
    ///
    /// # Errors
    /// [`Status::NoMemory`].
    pub fn new(platform: Platform) -> Result<Self, Status> {
        let mut chains = room(HOOKS)?;
        for _ in Hook::ALL {
            memory::push(&mut chains, Published::new(&platform)?)?;
        }
        Ok(Self {
            platform,
            objects: Spin::new(Objects::new()?),
            chains,
            waker: Spin::new(Waker(None)),
            flows: Spin::new(Shower(None)),
            watches: Watches::new(),
            filters: Spin::new(Filters::None),
            newest: AtomicU32::new(0),
            kind: program::Kind::Plain,
        })
    }

    /// [`Runtime::new`] behind a shared pointer. `PASSIVE_LEVEL`.
    ///
    /// # Errors
    /// [`Status::NoMemory`].
    pub fn shared(platform: Platform) -> Result<Shared<Self>, Status> {
        memory::shared(Self::new(platform)?)
    }

    /// As [`Runtime::shared`], and which instructions of its programs run is written down. `PASSIVE_LEVEL`.
    ///
    /// # Errors
    /// [`Status::NoMemory`].
    #[cfg(feature = "trace")]
    pub fn traced(platform: Platform) -> Result<Shared<Self>, Status> {
        memory::shared(Self { kind: program::Kind::Traced, ..Self::new(platform)? })
    }

    /// What all runs of a program visited, by slot. `PASSIVE_LEVEL`.
    ///
    /// # Errors
    /// [`Status::NotFound`]: there is no such program, or it is not traced.
    #[cfg(feature = "trace")]
    pub fn visits(&self, program: Id) -> Result<Vec<tidegate_vm::Visits>, Status> {
        let program = self.objects(|objects| objects.program(program))?;
        program.executable.visits().map(Iterator::collect).ok_or(Status::NotFound)
    }

    /// The system's functions that it was made with.
    pub fn platform(&self) -> &Platform {
        &self.platform
    }

    /// Has `wake` called after each control message that changed a map or a link, until the next call of this; at
    /// `PASSIVE_LEVEL`, with nothing locked.
    ///
    /// # Errors
    /// [`Status::NoMemory`]; never when there is none to be called.
    pub fn on_change(&self, wake: Option<Wake>) -> Result<(), Status> {
        let mut waker = Waker(wake.map(memory::shared).transpose()?);
        self.waker.with(&self.platform, |old| core::mem::swap(old, &mut waker));
        Ok(())
    }

    /// Has `show` tell which connections links are shown, until the next call of this; at `PASSIVE_LEVEL`, with nothing locked.
    ///
    /// # Errors
    /// [`Status::NoMemory`]; never when there is none to tell.
    pub fn show_flows(&self, show: Option<ShowFlows>) -> Result<(), Status> {
        let mut shower = Shower(show.map(memory::shared).transpose()?);
        self.flows.with(&self.platform, |old| core::mem::swap(old, &mut shower));
        Ok(())
    }

    /// Connections, as [`ShowFlows`] writes them; none where nobody knows any.
    pub(crate) fn flows(&self, from: u32, out: &mut [u8]) -> Result<(u32, usize), Status> {
        match self.flows.with(&self.platform, |shower| shower.0.clone()) {
            Some(show) => show(from, out),
            None => Ok((0, 0)),
        }
    }

    pub(crate) fn changed(&self) {
        if let Some(wake) = self.waker.with(&self.platform, |waker| waker.0.clone()) {
            wake();
        }
    }

    /// Whether the next run of a link, which is shown this flow (0: none), is to be watched. IRQL <= `DISPATCH_LEVEL`. Ask only of
    /// links that are [special](Link::is_special).
    pub fn is_watched(&self, link: &Link, flow: u64) -> bool {
        self.watches.want(link, flow, &self.platform)
    }

    /// Tells whom it concerns of a run that was watched; what `sight` knows better than `run` is taken from there. IRQL <=
    /// `DISPATCH_LEVEL`.
    pub fn tell(&self, run: RunInfo<'_>, sight: &mut Sight) {
        self.watches.tell(run, sight, &self.platform);
    }

    /// A run that is to be watched can't be, for want of memory. IRQL <= `DISPATCH_LEVEL`.
    pub fn lose(&self, link: &Link, flow: u64) {
        self.watches.lose(link.id, flow, &self.platform);
    }

    /// Notes what the filter engine was told, for who asks. IRQL <= `DISPATCH_LEVEL`.
    pub fn set_filters(&self, filters: Filters) {
        self.filters.with(&self.platform, |known| *known = filters);
    }

    pub(crate) fn filters(&self) -> Filters {
        self.filters.with(&self.platform, |known| *known)
    }

    /// A connection has ended: what flow storages keep of it goes. IRQL <= `DISPATCH_LEVEL`.
    pub fn end_flow(&self, flow: u64) {
        // One map at a time: the lock is held for a moment, however many there are.
        let mut after = 0;
        while let Some(map) = self.objects.with(&self.platform, |objects| objects.storage_after(after)) {
            after = map.id;
            map.end_flow(flow);
        }
    }

    /// The newest id of all objects: those that come later have greater ones.
    pub fn newest(&self) -> Id {
        self.newest.load(Ordering::Relaxed)
    }

    /// An id that is newer than all that were given: what comes later is told from what was there by it. IRQL <=
    /// `DISPATCH_LEVEL`.
    pub fn moment(&self) -> Id {
        // When there are no more ids nothing comes later.
        self.new_id().unwrap_or(Id::MAX)
    }

    /// An id that was never given before.
    fn new_id(&self) -> Result<Id, Status> {
        self.objects.with(&self.platform, |objects| {
            let id = objects.new_id()?;
            self.newest.store(id, Ordering::Relaxed);
            Ok(id)
        })
    }

    /// What runs at `hook`, as a snapshot. IRQL <= `DISPATCH_LEVEL`; never allocates, never waits for a control request.
    pub fn chain(&self, hook: Hook) -> Chain {
        self.chains.get(hook.index()).map_or_else(Chain::default, |chains| chains.chain(&self.platform))
    }

    /// As [`chain`](Self::chain), for a caller that runs at `DISPATCH_LEVEL` on the processor of this number.
    #[inline]
    pub fn chain_on(&self, processor: u32, hook: Hook) -> Chain {
        let here = self.chains.get(hook.index()).and_then(|chains| chains.chain_on(processor));
        here.unwrap_or_else(|| self.chain(hook))
    }
}

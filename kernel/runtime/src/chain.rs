//! Chains: what runs at a hook, as a snapshot that nobody waits for.

use alloc::vec::Vec;

use tidegate_abi::control::Status;
use tidegate_vm::Shared;

use crate::link::Link;
use crate::memory::{push, room, shared, vector};
use crate::platform::Platform;
use crate::spin::{Padded, Spin};

/// The links of a hook at one moment, in the order that they run. It keeps them, their programs and maps alive; an attach,
/// detach or replace that happens meanwhile is seen by the next chain.
#[derive(Clone, Debug, Default)]
pub struct Chain(Option<Shared<Links>>);

/// What a chain has, and what is the same for every run of it.
#[derive(Debug)]
struct Links {
    links: Vec<Shared<Link>>,
    snapshot: bool,
}

impl Chain {
    /// The links, by priority, then by age.
    #[inline]
    pub fn links(&self) -> &[Shared<Link>] {
        self.0.as_ref().map_or(&[], |chain| &chain.links)
    }

    /// Whether there is none.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Whether one of them wants the bytes judged to be the bytes sent.
    #[inline]
    pub fn is_snapshot(&self) -> bool {
        self.0.as_ref().is_some_and(|chain| chain.snapshot)
    }
}

/// Where a hook's chain is published: a copy for each processor.
///
/// A reader takes the lock of its processor's copy for as long as it takes to count one reference up, at `DISPATCH_LEVEL`: two
/// atomic operations on a cache line that no other reader writes, and one more to give the chain back. A writer builds the new copies
/// first, then swaps each under its lock; during the swaps processors may see different chains, each of them whole.
#[derive(Debug)]
pub(crate) struct Published(Vec<Padded<Spin<Chain>>>);

/// Copies of a new chain, one for each processor, made before anything changes.
pub(crate) struct Prepared(Vec<Chain>);

impl Prepared {
    pub(crate) fn new(links: &[Shared<Link>], platform: &Platform) -> Result<Self, Status> {
        let mut copies = room(platform.count())?;
        for _ in 0..platform.count() {
            let mut copy = room(links.len())?;
            for link in links {
                push(&mut copy, Shared::clone(link))?;
            }
            let snapshot = links.iter().any(|link| link.is_snapshot());
            let chain = Links { links: copy, snapshot };
            push(&mut copies, Chain(if links.is_empty() { None } else { Some(shared(chain)?) }))?;
        }
        Ok(Self(copies))
    }
}

impl Published {
    pub(crate) fn new(platform: &Platform) -> Result<Self, Status> {
        Ok(Self(vector(platform.count(), || Padded(Spin::new(Chain::default())))?))
    }

    /// The chain as it is now. IRQL <= `DISPATCH_LEVEL`.
    pub(crate) fn chain(&self, platform: &Platform) -> Chain {
        // A thread that moves to another processor in between finds a right chain too, only not an uncontended one.
        self.0
            .get(platform.index())
            .map_or_else(Chain::default, |copy| copy.0.with(platform, |chain| chain.clone()))
    }

    /// The same for a caller that runs at `DISPATCH_LEVEL` on the processor of this number; `None` when there are not so many.
    #[inline]
    pub(crate) fn chain_on(&self, processor: u32) -> Option<Chain> {
        self.0.get(processor as usize).map(|copy| copy.0.with_raised(|chain| chain.clone()))
    }

    /// Puts new copies in place; gives back the old ones, to be dropped outside of all locks.
    pub(crate) fn publish(&self, mut prepared: Prepared, platform: &Platform) -> Prepared {
        for (copy, new) in self.0.iter().zip(&mut prepared.0) {
            copy.0.with(platform, |chain| core::mem::swap(chain, new));
        }
        prepared
    }
}

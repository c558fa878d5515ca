//! What the walk finds out about each instruction, and who else is told.

use core::marker::PhantomData;

use crate::Proven;
#[cfg(feature = "claims")]
use crate::claims::{Claim, Watch};
use crate::state::State;

/// Who is told what the verifier claims: nobody in the kernel's build.
#[derive(Default)]
pub(crate) struct Watcher<'a> {
    #[cfg(feature = "claims")]
    watch: Option<&'a mut (dyn Watch + 'a)>,
    lifetime: PhantomData<&'a mut ()>,
}

#[cfg(feature = "claims")]
impl<'a> Watcher<'a> {
    pub(crate) fn new(watch: &'a mut (dyn Watch + 'a)) -> Self {
        Self { watch: Some(watch), lifetime: PhantomData }
    }

    fn reborrow(&mut self) -> Watcher<'_> {
        let watch = self.watch.as_mut().map(|watch| &mut **watch as &mut dyn Watch);
        Watcher { watch, lifetime: PhantomData }
    }

    fn restart(&mut self) {
        if let Some(watch) = &mut self.watch {
            watch.restart();
        }
    }

    fn claim(&mut self, slot: usize, state: &State) {
        if let Some(watch) = &mut self.watch {
            watch.claimed(slot, Claim::of(state));
        }
    }
}

#[cfg(not(feature = "claims"))]
impl Watcher<'_> {
    fn reborrow(&mut self) -> Self {
        Self::default()
    }

    fn restart(&mut self) {}

    fn claim(&mut self, _: usize, _: &State) {}
}

/// What was proven about each instruction so far.
pub(crate) struct Facts<'a> {
    proven: &'a mut [Proven],
    watcher: Watcher<'a>,
}

impl<'a> Facts<'a> {
    pub(crate) fn new(proven: &'a mut [Proven], watcher: &'a mut Watcher<'_>) -> Self {
        Self { proven, watcher: watcher.reborrow() }
    }

    /// For a part of the verification.
    pub(crate) fn reborrow(&mut self) -> Facts<'_> {
        Facts::new(self.proven, &mut self.watcher)
    }

    /// Forgets everything: the walk starts anew.
    pub(crate) fn clear(&mut self) {
        self.proven.fill(Proven::default());
        self.watcher.restart();
    }

    /// A path comes to `slot` in a state.
    pub(crate) fn reached(&mut self, slot: usize, state: &State) {
        self.add(slot, Proven::REACHED);
        self.watcher.claim(slot, state);
    }

    /// `fact` holds at `slot`.
    pub(crate) fn add(&mut self, slot: usize, fact: Proven) {
        if let Some(known) = self.proven.get_mut(slot) {
            *known = known.with(fact);
        }
    }
}

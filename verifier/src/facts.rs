//! What the walk finds out about each instruction, and who else is told.

use alloc::vec::Vec;
use core::marker::PhantomData;

#[cfg(feature = "claims")]
use crate::claims::{Claim, Watch};
use crate::memory::{Memory, OutOfMemory};
use crate::state::State;
use crate::structure::Structure;
use crate::value::Kind;
use crate::{Argument, Proven};

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
#[derive(Debug)]
pub(crate) struct Proofs {
    slots: Vec<Proven>,
    /// Each call of a helper.
    calls: Vec<Call>,
}

/// What a helper is given on every path that was walked to its call. Small, because a program may be nothing but calls. An
/// argument is a number or a map where its bit is set.
#[derive(Clone, Copy, Debug)]
struct Call {
    slot: u32,
    met: bool,
    numbers: u8,
    maps: u8,
    values: [u64; 5],
}

impl Proofs {
    /// Nothing is proven of the program.
    pub(crate) fn none(structure: &Structure, memory: &mut Memory) -> Result<Self, OutOfMemory> {
        let calls = structure.insns().iter().zip(0..).filter(|(insn, _)| insn.is_helper_call());
        let calls = calls.map(|(_, slot)| Call { slot, met: false, numbers: 0, maps: 0, values: [0; 5] });
        let calls = memory.collect(calls)?;
        Ok(Self { slots: memory.filled(structure.insns().len(), Proven::default())?, calls })
    }

    /// What was proven about the instruction at `slot`.
    pub(crate) fn at(&self, slot: usize) -> Proven {
        self.slots.get(slot).copied().unwrap_or_default()
    }

    /// An argument that is the same on every path.
    pub(crate) fn argument(&self, slot: usize, index: usize) -> Option<Argument> {
        let call = self.calls.get(self.call(slot)?)?;
        let value = *call.values.get(index)?;
        match 1 << index {
            bit if call.numbers & bit != 0 => Some(Argument::Number(value)),
            bit if call.maps & bit != 0 => Some(Argument::Map(value as u8)),
            _ => None,
        }
    }

    fn call(&self, slot: usize) -> Option<usize> {
        self.calls.binary_search_by_key(&slot, |call| call.slot as usize).ok()
    }

    fn clear(&mut self) {
        self.slots.fill(Proven::default());
        for call in &mut self.calls {
            (call.met, call.numbers, call.maps) = (false, 0, 0);
        }
    }

    /// A path comes to the call at `slot` in a state.
    #[inline(never)]
    fn met(&mut self, slot: usize, state: &State) {
        let Some(call) = self.call(slot).and_then(|index| self.calls.get_mut(index)) else { return };
        let (mut numbers, mut maps) = (0, 0);
        for (index, known) in call.values.iter_mut().enumerate() {
            let value = state.reg(index as u8 + 1);
            let (bits, now) = match (value.kind, value.known()) {
                (Kind::Map(map), _) => (&mut maps, map.into()),
                (_, Some(number)) => (&mut numbers, number),
                _ => continue,
            };
            if !call.met || *known == now {
                *bits |= 1 << index;
                *known = now;
            }
        }
        let before = if call.met { (call.numbers, call.maps) } else { (!0, !0) };
        (call.met, call.numbers, call.maps) = (true, before.0 & numbers, before.1 & maps);
    }
}

/// What the walk finds out goes here.
pub(crate) struct Facts<'a> {
    proofs: &'a mut Proofs,
    watcher: Watcher<'a>,
}

impl<'a> Facts<'a> {
    pub(crate) fn new(proofs: &'a mut Proofs, watcher: &'a mut Watcher<'_>) -> Self {
        Self { proofs, watcher: watcher.reborrow() }
    }

    /// For a part of the verification.
    pub(crate) fn reborrow(&mut self) -> Facts<'_> {
        Facts::new(self.proofs, &mut self.watcher)
    }

    /// Forgets everything: the walk starts anew.
    pub(crate) fn clear(&mut self) {
        self.proofs.clear();
        self.watcher.restart();
    }

    /// A path comes to `slot` in a state.
    pub(crate) fn reached(&mut self, slot: usize, state: &State) {
        self.add(slot, Proven::REACHED);
        self.watcher.claim(slot, state);
    }

    /// A path calls the helper at `slot` in a state.
    pub(crate) fn called(&mut self, slot: usize, state: &State) {
        self.proofs.met(slot, state);
    }

    /// `fact` holds at `slot`.
    pub(crate) fn add(&mut self, slot: usize, fact: Proven) {
        if let Some(known) = self.proofs.slots.get_mut(slot) {
            *known = known.with(fact);
        }
    }
}

//! What is kept about a connection: its flow context at the stream layer.
//!
//! A connection has a context when a program is to see it: it is associated when the connection is established and a link
//! waits at its stream layer, and gone with the connection or the driver, whichever is first; flowDeleteFn is called once for
//! each, and is the only place that gives the context's reference back. Connections without a context are not shown to us.
//!
//! A context has two owners: the engine's list, through which the worker and the unload find it, and the filter engine,
//! through the number that it hands to classify. While classify runs for a connection its context is not deleted.

use alloc::vec::Vec;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use fwps_sys::{FwpsFlowAssociateContext0, FwpsFlowRemoveContext0, IPPROTO, NTSTATUS};
use tidegate_abi::StreamContext;
use tidegate_abi::control::{FlowEnds, FlowInfo, FlowState, Id, Status};
use tidegate_runtime::{Link, Platform, Spin};
use tidegate_vm::{Lent, Shared};

use crate::engine::Engine;
use crate::held::Side;
use crate::injection::Failure;
use crate::layer::Layer;
use crate::memory::{self, NoMemory};

/// A connection that programs see.
pub(crate) struct Flow {
    /// Whose it is. The unload takes every flow's context off before anything else goes.
    pub(crate) engine: Shared<Engine>,
    /// The filter engine's number.
    pub(crate) id: u64,
    /// The stream layer that shows it.
    pub(crate) layer: u16,
    /// The callout that it is shown to, and that injects into it.
    pub(crate) callout: u32,
    /// What programs are told of it, whatever is shown of it.
    pub(crate) context: StreamContext,
    /// Path of the program that owns the local end, as the filter engine gives it; empty: not known.
    pub(crate) application: Vec<u8>,
    /// The newest object of the runtime when it began; 0, older than every link: it was there before it could be seen.
    pub(crate) born: Id,
    /// When that was, in nanoseconds.
    began: u64,
    /// The link that no link is shown more of it by: it reset or allowed it. 0 for none.
    pub(crate) by: AtomicU32,
    /// What is to be looked at before its data is: [`Marks`].
    marks: AtomicU32,
    /// Outbound, inbound.
    pub(crate) sides: [Spin<Side>; 2],
    /// Where it is in [`Flows::all`] and in [`Flows::held`].
    places: [AtomicUsize; 2],
}

/// Bits of a flow that make classify look at its sides: without them it does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Marks(u32);

impl Marks {
    /// No program wants to see more of it.
    pub(crate) const ALLOWED: Self = Self(1);
    /// It has ended, or was reset: nothing is injected any more.
    pub(crate) const DEAD: Self = Self(2);
    /// Bytes of one direction are kept back, or were once.
    pub(crate) const fn held(direction: usize) -> Self {
        Self(4 << direction)
    }
    /// The filter engine keeps bytes of one direction until more come.
    pub(crate) const fn waits(direction: usize) -> Self {
        Self(16 << direction)
    }
    /// Bytes of one direction that are still to come are to be removed.
    pub(crate) const fn ahead(direction: usize) -> Self {
        Self(64 << direction)
    }

    /// Those that classify looks at.
    const LOOKED_AT: u32 = 255;
    /// Programs keep something of it.
    pub(crate) const STORED: Self = Self(256);
    /// Something came that the worker has not looked at.
    pub(crate) const AGAIN: Self = Self(512);
    /// One direction has ended: nothing can follow.
    pub(crate) const fn ended(direction: usize) -> Self {
        Self(1024 << direction)
    }

    /// Whether all bits of `other` are set.
    pub(crate) const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether there is nothing to look at.
    pub(crate) const fn is_empty(self) -> bool {
        self.0 & Self::LOOKED_AT == 0
    }
}

/// Nobody asks a program about it any more.
impl Drop for Flow {
    fn drop(&mut self) {
        if self.marks().has(Marks::STORED) {
            self.engine.runtime.end_flow(self.id);
        }
    }
}

/// What is known of a connection when it is first heard of.
pub(crate) struct Begin {
    pub(crate) id: u64,
    pub(crate) layer: u16,
    pub(crate) callout: u32,
    pub(crate) context: StreamContext,
    pub(crate) application: Vec<u8>,
    pub(crate) mid_stream: bool,
}

impl Flow {
    pub(crate) fn marks(&self) -> Marks {
        Marks(self.marks.load(Ordering::Acquire))
    }

    pub(crate) fn mark(&self, mark: Marks) {
        self.marks.fetch_or(mark.0, Ordering::AcqRel);
    }

    pub(crate) fn unmark(&self, mark: Marks) {
        self.marks.fetch_and(!mark.0, Ordering::AcqRel);
    }

    /// Takes a mark off; true when it was there.
    pub(crate) fn take(&self, mark: Marks) -> bool {
        Marks(self.marks.fetch_and(!mark.0, Ordering::AcqRel)).has(mark)
    }

    /// Whether something may still be injected into it.
    pub(crate) fn is_dead(&self) -> bool {
        self.marks().has(Marks::DEAD)
    }

    /// What one direction keeps. Not nested. IRQL <= DISPATCH_LEVEL.
    pub(crate) fn side<R>(
        &self,
        direction: usize,
        platform: &Platform,
        section: impl FnOnce(&mut Side) -> R,
    ) -> R {
        let [outbound, inbound] = &self.sides;
        if direction == 0 { outbound } else { inbound }.with(platform, section)
    }

    /// Makes a context and gives the filter engine a reference to it. IRQL <= DISPATCH_LEVEL.
    ///
    /// # Errors
    /// No memory, or a refusal; nothing is left behind. `Ok(None)`: there is a context already.
    pub(crate) fn begin(engine: Lent<'_, Engine>, begin: Begin) -> Result<Option<Shared<Self>>, Failure> {
        let Begin { id, layer, callout, context, application, mid_stream } = begin;
        let flow = memory::shared(Self {
            engine: engine.share(),
            id,
            layer,
            callout,
            context,
            application,
            born: if mid_stream { 0 } else { engine.runtime.newest() },
            began: (engine.platform.now_ns)(),
            by: AtomicU32::new(0),
            marks: AtomicU32::new(0),
            sides: [Spin::new(Side::new()), Spin::new(Side::new())],
            places: [AtomicUsize::new(NOWHERE), AtomicUsize::new(NOWHERE)],
        })?;
        engine.flows.add(flow.lend(), &engine.platform)?;
        let context = Shared::into_raw(Shared::clone(&flow));
        let number = context.expose_provenance() as u64;
        // SAFETY: numbers only; the context is a reference that flowDeleteFn gives back.
        let status = unsafe { FwpsFlowAssociateContext0(id, layer, callout, number) };
        if status == NTSTATUS::SUCCESS {
            return Ok(Some(flow));
        }
        // SAFETY: the filter engine did not take the reference.
        drop(unsafe { Self::end_of_context(number) });
        engine.flows.remove(&flow, &engine.platform);
        if status == NTSTATUS::OBJECT_NAME_EXISTS { Ok(None) } else { Err(Failure::Refused) }
    }

    /// The flow that a flow context is, which stays the filter engine's.
    ///
    /// # Safety
    /// `context` is 0 or what classify was given for one of our callouts, and 'c ends with that classify.
    pub(crate) unsafe fn of_context<'c>(context: u64) -> Option<Lent<'c, Self>> {
        let flow = NonNull::new(core::ptr::with_exposed_provenance_mut::<Self>(context as usize))?;
        // SAFETY: the caller's promise: the reference that `begin` gave is not back yet.
        Some(unsafe { Lent::from_raw(flow) })
    }

    /// The reference that a flow context is.
    ///
    /// # Safety
    /// `context` is 0 or what [`Flow::begin`] gave the filter engine, which has no use for it any more.
    pub(crate) unsafe fn end_of_context(context: u64) -> Option<Shared<Self>> {
        let flow = NonNull::new(core::ptr::with_exposed_provenance_mut::<Self>(context as usize))?;
        // SAFETY: the caller's promise.
        Some(unsafe { Shared::from_raw(flow) })
    }

    /// Whether nothing of it waits: neither here nor, on our account, in the filter engine.
    pub(crate) fn is_at_rest(&self) -> bool {
        let queued =
            (0..2).any(|direction| self.side(direction, &self.engine.platform, |side| side.is_queued()));
        // Behind the locks, inside of which it is marked that something waits.
        let marks = self.marks();
        !queued && !(0..2).any(|direction| marks.has(Marks::waits(direction)))
    }

    /// Notes the link that reset or allowed it; the first one counts.
    pub(crate) fn decided(&self, by: Option<&Shared<Link>>) {
        let by = by.map_or(0, |link| link.id());
        let _ = self.by.compare_exchange(0, by, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// What control messages tell of it. IRQL <= DISPATCH_LEVEL.
    fn info(&self) -> Option<FlowInfo<'_>> {
        let (platform, marks, context) = (&self.engine.platform, self.marks(), &self.context);
        Some(FlowInfo {
            flow: self.id,
            hook: Layer::with_id(self.layer)?.hook,
            opener: context.opener,
            ends: FlowEnds {
                protocol: IPPROTO::TCP.0,
                family: context.family as u8,
                local: (context.local_addr, context.local_port),
                remote: (context.remote_addr, context.remote_port),
            },
            process: context.process_id,
            age: (platform.now_ns)().saturating_sub(self.began),
            mid_stream: self.born == 0,
            state: if marks.has(Marks::DEAD) {
                FlowState::Reset
            } else if marks.has(Marks::ALLOWED) {
                FlowState::Allowed
            } else {
                FlowState::Open
            },
            by: self.by.load(Ordering::Relaxed),
            sides: [0, 1].map(|direction| self.side(direction, platform, |side| side.info())),
            application: &self.application,
        })
    }

    /// Takes the context off its connection: flowDeleteFn is called now or when the classify that runs is over. Nothing is
    /// locked. IRQL <= DISPATCH_LEVEL.
    pub(crate) fn end(&self) {
        // SAFETY: numbers only. UNSUCCESSFUL: it has ended by itself, and flowDeleteFn was or is called.
        let _ = unsafe { FwpsFlowRemoveContext0(self.id, self.layer, self.callout) };
    }
}

/// Not in a list.
const NOWHERE: usize = usize::MAX;
/// Lists that connections are spread over, so that processors don't wait for each other.
const LISTS: usize = 64;

/// The connections that live.
pub(crate) struct Flows {
    all: Vec<List<0>>,
    /// Those of which bytes are kept back.
    pub(crate) held: List<1>,
}

impl Flows {
    /// None.
    pub(crate) fn new() -> Result<Self, NoMemory> {
        let mut all = memory::vec(LISTS)?;
        all.resize_with(LISTS, List::new);
        Ok(Self { all, held: List::new() })
    }

    /// The list that a connection is in.
    fn list(&self, id: u64) -> Option<&List<0>> {
        self.all.get(id as usize % LISTS)
    }

    /// A connection that has begun.
    fn add(&self, flow: Lent<'_, Flow>, platform: &Platform) -> Result<(), NoMemory> {
        self.list(flow.id).ok_or(NoMemory)?.add(flow, platform)
    }

    /// The context of a connection, by its number: slow, for the rare case that two processors make it.
    pub(crate) fn find(&self, id: u64, layer: u16, platform: &Platform) -> Option<Shared<Flow>> {
        self.list(id)?.find(platform, |flow| flow.id == id && flow.layer == layer)
    }

    /// Forgets a connection that has ended.
    pub(crate) fn remove(&self, flow: &Flow, platform: &Platform) {
        self.held.remove(flow, platform);
        if let Some(list) = self.list(flow.id) {
            list.remove(flow, platform);
        }
    }

    /// Calls `visit` with each connection, those excepted that come or go meanwhile; nothing is locked then.
    pub(crate) fn each(&self, platform: &Platform, mut visit: impl FnMut(Lent<'_, Flow>)) {
        self.all.iter().for_each(|list| list.each(platform, &mut visit));
    }

    /// Writes the connections of whole lists into `out`, as [`tidegate_runtime::ShowFlows`] does. `PASSIVE_LEVEL`.
    pub(crate) fn show(
        &self,
        from: u32,
        out: &mut [u8],
        platform: &Platform,
    ) -> Result<(u32, usize), Status> {
        let (room, mut left) = (out.len(), out);
        for (number, list) in self.all.iter().enumerate().skip(from as usize) {
            let before = left.len();
            let mut rest = Ok(&mut *left);
            list.each(platform, |flow| {
                rest = match (core::mem::replace(&mut rest, Err(Status::ReplyTooLarge)), flow.info()) {
                    (Ok(out), Some(info)) => info.write(out),
                    (rest, _) => rest,
                };
            });
            let behind = rest.map(|rest| rest.len());
            left = match behind {
                Ok(behind) => left.get_mut(before - behind..).unwrap_or_default(),
                // The first list has to fit, or there would be no end.
                Err(status) if before == room => return Err(status),
                Err(_) => return Ok((number as u32, room - before)),
            };
        }
        Ok((0, room - left.len()))
    }

    /// How many there are.
    pub(crate) fn count(&self, platform: &Platform) -> usize {
        self.all.iter().map(|list| list.count(platform)).sum()
    }
}

/// Connections, each of which knows its place and keeps it for as long as it is in: who goes through them comes by each once,
/// whatever comes and goes meanwhile.
pub(crate) struct List<const PLACE: usize> {
    places: Spin<Places>,
}

impl<const PLACE: usize> List<PLACE> {
    const fn new() -> Self {
        Self { places: Spin::new(Places { all: Vec::new(), taken: 0, free: 0 }) }
    }

    fn place(flow: &Flow) -> &AtomicUsize {
        let [first, second] = &flow.places;
        if PLACE == 0 { first } else { second }
    }

    /// Adds a connection, unless it is there.
    pub(crate) fn add(&self, flow: Lent<'_, Flow>, platform: &Platform) -> Result<(), NoMemory> {
        self.places.with(platform, |places| {
            if Self::place(&flow).load(Ordering::Relaxed) == NOWHERE {
                Self::place(&flow).store(places.add(flow)?, Ordering::Relaxed);
            }
            Ok(())
        })
    }

    /// Takes a connection out, if it is in.
    pub(crate) fn remove(&self, flow: &Flow, platform: &Platform) {
        let removed = self
            .places
            .with(platform, |places| places.remove(Self::place(flow).swap(NOWHERE, Ordering::Relaxed)));
        drop(removed);
    }

    /// Calls `visit` with each connection, from the last place to the first; nothing is locked then.
    pub(crate) fn each(&self, platform: &Platform, mut visit: impl FnMut(Lent<'_, Flow>)) {
        let mut end = usize::MAX;
        while let Some(flow) = self.places.with(platform, |places| places.last_before(&mut end)) {
            visit(flow.lend());
        }
    }

    /// The first connection that is such a one.
    fn find(&self, platform: &Platform, is_it: impl Fn(&Flow) -> bool) -> Option<Shared<Flow>> {
        self.places.with(platform, |places| places.flows().find(|flow| is_it(flow)).cloned())
    }

    fn count(&self, platform: &Platform) -> usize {
        self.places.with(platform, |places| places.taken)
    }

    /// Whether there is none.
    pub(crate) fn is_empty(&self, platform: &Platform) -> bool {
        self.count(platform) == 0
    }
}

/// The places of a list.
struct Places {
    all: Vec<Place>,
    /// How many are taken.
    taken: usize,
    /// The one that is taken next: free, or behind the last.
    free: usize,
}

struct Place {
    flow: Option<Shared<Flow>>,
    /// While it is free: the one that is taken after it.
    next: usize,
}

impl Places {
    fn flows(&self) -> impl Iterator<Item = &Shared<Flow>> {
        self.all.iter().filter_map(|place| place.flow.as_ref())
    }

    /// Gives a connection a place: which.
    fn add(&mut self, flow: Lent<'_, Flow>) -> Result<usize, NoMemory> {
        let at = self.free;
        if at == self.all.len() {
            if at == self.all.capacity() {
                // Doubled, so that a connection costs no copy of the list.
                memory::reserve(&mut self.all, at.max(16))?;
            }
            memory::push(&mut self.all, Place { flow: None, next: at + 1 })?;
        }
        let place = self.all.get_mut(at).ok_or(NoMemory)?;
        place.flow.get_or_insert_with(|| flow.share());
        self.free = place.next;
        self.taken += 1;
        Ok(at)
    }

    /// Frees the place of a connection.
    fn remove(&mut self, at: usize) -> Option<Shared<Flow>> {
        let place = self.all.get_mut(at)?;
        let flow = place.flow.take()?;
        place.next = self.free;
        self.free = at;
        self.taken -= 1;
        if self.taken == 0 {
            // After many have left nobody goes through their places for the few that come.
            self.all.clear();
            self.free = 0;
        }
        Some(flow)
    }

    /// The last connection at a place before `end`, which is its place then.
    fn last_before(&self, end: &mut usize) -> Option<Shared<Flow>> {
        let places = self.all.get(..*end).unwrap_or(&self.all);
        let (at, flow) =
            places.iter().enumerate().rev().find_map(|(at, place)| Some((at, place.flow.as_ref()?)))?;
        *end = at;
        Some(Shared::clone(flow))
    }
}

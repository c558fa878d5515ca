//! The stream layers: a waterfall of callouts for each direction of a connection.
//!
//! What a callout permits or injects flows on to the next lower one at once; what it blocks is gone. Work on one
//! connection is done by one thread at a time: who finds it busy leaves his item in the queue.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::mem::take;
use std::ptr::null_mut;
use std::sync::Arc;

use fwps_sys::*;

use crate::buffers::{Shape, seek};
use crate::config::{DropConnection, NeedMore, Split};
use crate::current::{self, Reason};
use crate::engine::{self, values};
use crate::flow::{Delivered, Direction, FlowSpec, FlowState};
use crate::rules;
use crate::state::{Classify, Fate, InlineInjection, Inner, Key, NblKind, State};
use crate::trace::Event;

/// One TCP connection.
pub(crate) struct Flow {
    pub(crate) spec: FlowSpec,
    pub(crate) layer: u16,
    pub(crate) state: FlowState,
    pub(crate) sides: [Side; 2],
    /// Contexts by callout and layer.
    pub(crate) contexts: BTreeMap<(u32, u16), u64>,
    /// Callouts that want to see no more of it.
    allowed: HashSet<u32>,
    busy: bool,
    work: VecDeque<Work>,
    /// Callouts that are being shown something of it.
    showing: Vec<u32>,
    /// Contexts that were removed meanwhile: their flowDeleteFn waits.
    deleted: Vec<((u32, u16), u64)>,
    /// Bytes of it were injected and lost.
    pub(crate) torn: bool,
}

/// One direction of a connection.
#[derive(Default)]
pub(crate) struct Side {
    pub(crate) out: Delivered,
    /// What each filter's callout holds or waits for.
    pub(crate) stages: HashMap<u64, Stage>,
    /// The sender has ended this direction.
    pub(crate) ended: bool,
    /// A reset was shown.
    pub(crate) reset: bool,
    clone_serial: u64,
}

/// One callout's view of one direction.
#[derive(Default)]
pub(crate) struct Stage {
    buffer: Vec<u8>,
    flags: FWPS_STREAM_FLAG,
    /// Shown again when the buffer has this many bytes.
    wait: usize,
    /// The end of the stream comes behind the buffer.
    no_more: bool,
    missed: usize,
    pub(crate) deferred: bool,
    fin_behind: bool,
    /// Something was shown here before.
    pub(crate) seen: bool,
    /// All of the latest indication was blocked.
    pub(crate) blocked_last: bool,
    pub(crate) fin_pended: bool,
    /// Serials of clones whose bytes were blocked and that were neither injected nor discarded.
    pub(crate) queue: VecDeque<u64>,
}

impl Stage {
    /// True while the callout holds data back by its own doing.
    pub(crate) fn holds(&self) -> bool {
        self.deferred || !self.queue.is_empty()
    }

    /// True while the callout owes the stream something.
    pub(crate) fn owes(&self) -> bool {
        !self.buffer.is_empty() || self.deferred || !self.queue.is_empty()
    }
}

/// Where in the waterfall an item is.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Position {
    Top,
    At(Key),
    After(Key),
}

enum Item {
    Data { bytes: Vec<u8>, flags: FWPS_STREAM_FLAG },
    Fin,
    Abort,
}

struct Work {
    direction: Direction,
    position: Position,
    /// The callout that injected it, which does not see it again.
    by: Option<u32>,
    item: Item,
}

/// A callout's place in the waterfall.
#[derive(Clone, Copy)]
struct Place {
    key: Key,
    filter: FWPS_FILTER1,
    callout: Option<FWPS_CALLOUT1>,
    id: u32,
}

impl Flow {
    pub(crate) fn new(spec: FlowSpec) -> Self {
        let layer = if spec.local.is_ipv6() { layer::STREAM_V6 } else { layer::STREAM_V4 };
        Self {
            spec,
            layer,
            state: FlowState::Open,
            sides: Default::default(),
            contexts: BTreeMap::new(),
            allowed: HashSet::new(),
            busy: false,
            work: VecDeque::new(),
            showing: Vec::new(),
            deleted: Vec::new(),
            torn: false,
        }
    }

    pub(crate) fn side(&mut self, direction: Direction) -> &mut Side {
        &mut self.sides[direction.index()]
    }

    /// True when nothing of it is going on and it has ended.
    pub(crate) fn is_over(&self) -> bool {
        let idle =
            !self.busy && self.showing.is_empty() && self.contexts.is_empty() && self.deleted.is_empty();
        let owed = self.sides.iter().flat_map(|side| side.stages.values()).any(Stage::owes);
        self.state != FlowState::Open && idle && !owed
    }

    /// True when a callout has a context of it, or had one and was not told yet.
    pub(crate) fn holds_context_of(&self, callout: u32) -> bool {
        let deleted = self.deleted.iter().map(|(key, _)| key);
        self.contexts.keys().chain(deleted).any(|(of, _)| *of == callout)
    }

    /// Takes a context away from its callout. `None` when there is none; `Some(None)` when flowDeleteFn has to wait.
    pub(crate) fn remove_context(&mut self, key: (u32, u16)) -> Option<Option<u64>> {
        let context = self.contexts.remove(&key)?;
        if !self.showing.contains(&key.0) {
            return Some(Some(context));
        }
        self.deleted.push((key, context));
        Some(None)
    }

    /// Next serial for a stream clone of one direction.
    pub(crate) fn clone_serial(&mut self, direction: Direction) -> u64 {
        let side = self.side(direction);
        side.clone_serial += 1;
        side.clone_serial
    }
}

/// Data from the application or the network.
pub(crate) fn indicate(
    sim: &Arc<Inner>,
    flow: u64,
    direction: Direction,
    bytes: &[u8],
    flags: FWPS_STREAM_FLAG,
) {
    let item = Item::Data { bytes: bytes.to_vec(), flags: flags | direction.flag() };
    start(sim, flow, direction, item, false);
}

/// The end of one direction.
pub(crate) fn fin(sim: &Arc<Inner>, flow: u64, direction: Direction) {
    start(sim, flow, direction, Item::Fin, true);
}

/// A reset.
pub(crate) fn abort(sim: &Arc<Inner>, flow: u64, direction: Direction) {
    start(sim, flow, direction, Item::Abort, true);
}

fn start(sim: &Arc<Inner>, id: u64, direction: Direction, item: Item, ends: bool) {
    {
        let mut state = sim.lock();
        let Some(flow) = state.flows.get_mut(&id) else { return };
        let resets = matches!(item, Item::Abort);
        if flow.state != FlowState::Open || (flow.side(direction).ended && !resets) {
            return;
        }
        flow.side(direction).ended |= ends;
        flow.work.push_back(Work { direction, position: Position::Top, by: None, item });
    }
    run(sim, id);
}

/// Data or a FIN that a callout injects outside its classify.
pub(crate) fn inject(
    state: &mut State,
    id: u64,
    direction: Direction,
    key: Key,
    by: u32,
    bytes: Vec<u8>,
    fin: bool,
) {
    let Some(flow) = state.flows.get_mut(&id) else { return };
    for item in items(bytes, direction.flag(), fin) {
        flow.work.push_back(Work { direction, position: Position::After(key), by: Some(by), item });
    }
}

fn items(bytes: Vec<u8>, flags: FWPS_STREAM_FLAG, fin: bool) -> impl Iterator<Item = Item> {
    let data = (!bytes.is_empty()).then_some(Item::Data { bytes, flags });
    data.into_iter().chain(fin.then_some(Item::Fin))
}

/// The flags of what a filter's callout has deferred.
pub(crate) fn deferred_flags(state: &State, id: u64, filter: u64) -> Option<FWPS_STREAM_FLAG> {
    let stage = state.flows.get(&id)?.sides[Direction::Receive.index()].stages.get(&filter)?;
    stage.deferred.then_some(stage.flags)
}

/// Resumes a deferred direction. False when it is not deferred.
pub(crate) fn resume(state: &mut State, id: u64, key: Key, filter: u64) -> bool {
    let Some(flow) = state.flows.get_mut(&id) else { return false };
    let direction = Direction::Receive;
    let Some(stage) = flow.side(direction).stages.get_mut(&filter) else { return false };
    if !take(&mut stage.deferred) {
        return false;
    }
    let fin = take(&mut stage.fin_behind);
    stage.wait = 0;
    for item in items_forced(direction.flag(), fin) {
        flow.work.push_back(Work { direction, position: Position::At(key), by: None, item });
    }
    true
}

fn items_forced(flags: FWPS_STREAM_FLAG, fin: bool) -> impl Iterator<Item = Item> {
    std::iter::once(Item::Data { bytes: Vec::new(), flags }).chain(fin.then_some(Item::Fin))
}

/// Does all the work there is for one connection, unless somebody is at it.
pub(crate) fn run(sim: &Arc<Inner>, id: u64) {
    {
        let mut state = sim.lock();
        let Some(flow) = state.flows.get_mut(&id) else { return };
        if std::mem::replace(&mut flow.busy, true) {
            return;
        }
    }
    loop {
        let work = {
            let mut state = sim.lock();
            let Some(flow) = state.flows.get_mut(&id) else { return };
            match flow.work.pop_front() {
                Some(work) => work,
                None => {
                    flow.busy = false;
                    return;
                }
            }
        };
        match work.item {
            Item::Data { bytes, flags } => {
                data(sim, id, work.direction, work.position, work.by, bytes, flags);
            }
            Item::Fin => end(sim, id, work.direction, work.position, work.by),
            Item::Abort => reset(sim, id, work.direction, work.position),
        }
    }
}

impl State {
    /// The next callout below a position that wants to see this flow.
    fn next_place(&self, id: u64, position: Position, by: Option<u32>) -> Option<Place> {
        let flow = self.flows.get(&id)?;
        for filter in self.filters.iter().filter(|filter| filter.layer == flow.layer) {
            let key = filter.key();
            let below = match position {
                Position::Top => true,
                Position::At(at) => key <= at,
                Position::After(after) => key < after,
            };
            if !below {
                continue;
            }
            let Some(callout) = self.callout_by_key(&filter.callout) else {
                if filter.action == FWP_ACTION::CALLOUT_INSPECTION
                    || filter.flags.has(FWPS_FILTER_FLAG::PERMIT_IF_CALLOUT_UNREGISTERED)
                {
                    continue;
                }
                return Some(Place { key, filter: filter.fwps(0), callout: None, id: 0 });
            };
            let flags = callout.callout.flags;
            let has_context = flow.contexts.contains_key(&(callout.id, flow.layer));
            let hidden = by == Some(callout.id)
                || flow.allowed.contains(&callout.id)
                || (flags.has(FWP_CALLOUT_FLAG::CONDITIONAL_ON_FLOW) && !has_context)
                || (flow.spec.mid_stream && !flags.has(FWP_CALLOUT_FLAG::ALLOW_MID_STREAM_INSPECTION));
            if !hidden {
                let callout_fn = Some(callout.callout);
                return Some(Place {
                    key,
                    filter: filter.fwps(callout.id),
                    callout: callout_fn,
                    id: callout.id,
                });
            }
        }
        None
    }

    fn deliver(&mut self, id: u64, direction: Direction, bytes: &[u8]) {
        if self.flows.get(&id).is_some_and(|flow| flow.torn) {
            self.violate(
                rules::LOST_BYTES,
                format!("flow {id} goes on after injected bytes of it were lost"),
            );
        }
        self.log(Event::Deliver { flow: id, direction, length: bytes.len() });
        if let Some(flow) = self.flows.get_mut(&id) {
            flow.side(direction).out.bytes.extend_from_slice(bytes);
        }
    }

    fn push_front(&mut self, id: u64, work: Work) {
        if let Some(flow) = self.flows.get_mut(&id)
            && flow.state == FlowState::Open
        {
            flow.work.push_front(work);
        }
    }

    fn stage(&mut self, id: u64, direction: Direction, filter: u64) -> Option<&mut Stage> {
        Some(self.flows.get_mut(&id)?.side(direction).stages.entry(filter).or_default())
    }
}

/// Bytes of a direction are lost above all callouts.
pub(crate) fn miss(sim: &Arc<Inner>, id: u64, direction: Direction, bytes: usize) {
    let mut state = sim.lock();
    if let Some(place) = state.next_place(id, Position::Top, None)
        && let Some(stage) = state.stage(id, direction, place.filter.filterId)
    {
        stage.missed += bytes;
    }
}

fn data(
    sim: &Arc<Inner>,
    id: u64,
    direction: Direction,
    position: Position,
    by: Option<u32>,
    bytes: Vec<u8>,
    flags: FWPS_STREAM_FLAG,
) {
    let mut state = sim.lock();
    let Some(place) = state.next_place(id, position, by) else {
        if !bytes.is_empty() {
            state.deliver(id, direction, &bytes);
        }
        return;
    };
    if place.callout.is_none() {
        return;
    }
    let limit = state.config.buffer_limit;
    let Some(stage) = state.stage(id, direction, place.filter.filterId) else { return };
    if stage.buffer.is_empty() {
        stage.buffer = bytes;
        stage.flags = flags;
    } else {
        stage.buffer.extend_from_slice(&bytes);
        stage.flags |= flags;
    }
    let full = stage.buffer.len() >= limit;
    if stage.deferred
        || stage.buffer.is_empty()
        || (stage.buffer.len() < stage.wait && !full && !stage.no_more)
    {
        return;
    }
    stage.wait = 0;
    let buffer = take(&mut stage.buffer);
    let flags = take(&mut stage.flags);
    let missed = take(&mut stage.missed);
    let mut hints = FWPS_CLASSIFY_OUT_FLAG::NONE;
    if full {
        hints |= FWPS_CLASSIFY_OUT_FLAG::BUFFER_LIMIT_REACHED;
    }
    if stage.no_more {
        hints |= FWPS_CLASSIFY_OUT_FLAG::NO_MORE_DATA;
    }
    drop(state);
    let answer = show(sim, id, direction, &place, &buffer, flags, missed, hints);
    let mut buffer = buffer;
    if answer.changed {
        buffer.iter_mut().for_each(|byte| *byte = byte.wrapping_add(1));
    }
    decide(sim, id, direction, &place, buffer, flags, hints, answer);
}

/// What a callout answered to one indication.
struct Answer {
    action: FWP_ACTION,
    stream: FWPS_STREAM_ACTION,
    required: u32,
    enforced: usize,
    /// The sender has changed its bytes meanwhile.
    changed: bool,
    classify: Classify,
}

/// Leftovers in the callout's answer fields: a callout that does not set them is caught.
const STALE_ACTION: FWPS_STREAM_ACTION = FWPS_STREAM_ACTION(0xa5a5_a5a5);
const STALE_COUNT: usize = 0xa5a5_a5a5_a5a5;
const STALE_REQUIRED: u32 = 0xa5a5_a5a5;

/// The chain that holds one indication, and where in it the data is.
fn lay_out(
    state: &mut State,
    owner: *const Inner,
    bytes: &[u8],
    flags: FWPS_STREAM_FLAG,
) -> (Vec<*mut NET_BUFFER_LIST>, FWPS_STREAM_DATA0) {
    let mut data = FWPS_STREAM_DATA0 {
        flags,
        dataOffset: FWPS_STREAM_DATA_OFFSET0 {
            netBufferList: null_mut(),
            netBuffer: null_mut(),
            mdl: null_mut(),
            mdlOffset: 0,
            netBufferOffset: 0,
            streamDataOffset: 0,
        },
        dataLength: bytes.len(),
        netBufferListChain: null_mut(),
    };
    if bytes.is_empty() {
        if !state.config.fin_has_nbl {
            return (Vec::new(), data);
        }
        let nbl = state.new_empty(owner);
        data.netBufferListChain = nbl;
        data.dataOffset.netBufferList = nbl;
        // SAFETY: just made.
        data.dataOffset.netBuffer = unsafe { (*nbl).FirstNetBuffer };
        return (vec![nbl], data);
    }
    let random = state.config.split == Split::Random;
    // Bytes of the chain that are not part of this indication, as when the rest of a chain is shown again.
    let lead = if random { state.rng.below(12) } else { 0 };
    let trail = if random { state.rng.below(12) } else { 0 };
    let mut parts = Vec::new();
    let mut rest = bytes;
    while random && parts.len() < 2 && rest.len() > 1 && state.rng.one_in(3) {
        let (part, tail) = rest.split_at(1 + state.rng.below(rest.len() - 1));
        parts.push(part);
        rest = tail;
    }
    parts.push(rest);
    let mut chain: Vec<*mut NET_BUFFER_LIST> = Vec::with_capacity(parts.len());
    let last = parts.len() - 1;
    for (index, part) in parts.into_iter().enumerate() {
        let front = if random { state.rng.below(40) } else { 0 };
        let after = if random { state.rng.below(9) } else { 0 };
        let lead = if index == 0 { lead } else { 0 };
        let trail = if index == last { trail } else { 0 };
        let nbl = if lead + trail == 0 {
            state.new_original(owner, &[Shape { before: front, data: part, after }])
        } else {
            let padded = [&[0xee; 12][..lead], part, &[0xee; 12][..trail]].concat();
            state.new_original(owner, &[Shape { before: front, data: &padded, after }])
        };
        if let Some(previous) = chain.last() {
            // SAFETY: made in the turn before.
            unsafe { (**previous).Next = nbl }
        }
        chain.push(nbl);
    }
    let first = chain[0];
    // SAFETY: just made; the first NB holds the lead and at least one byte of data.
    unsafe {
        let nb = (*first).FirstNetBuffer;
        let skip = (*nb).CurrentMdlOffset as usize + lead;
        let mut place = seek((*nb).CurrentMdl, skip).expect("the chain holds its data");
        // The data may begin behind MDLs that hold none of it.
        while place.offset == (*place.mdl).ByteCount && !(*place.mdl).Next.is_null() {
            place.mdl = (*place.mdl).Next;
            place.offset = 0;
        }
        data.dataOffset.netBufferList = first;
        data.dataOffset.netBuffer = nb;
        data.dataOffset.mdl = place.mdl;
        data.dataOffset.mdlOffset = place.offset;
    }
    data.netBufferListChain = first;
    (chain, data)
}

#[expect(clippy::too_many_arguments, reason = "one indication has this many sides, and one caller a kind")]
fn show(
    sim: &Arc<Inner>,
    id: u64,
    direction: Direction,
    place: &Place,
    bytes: &[u8],
    flags: FWPS_STREAM_FLAG,
    missed: usize,
    hints: FWPS_CLASSIFY_OUT_FLAG,
) -> Answer {
    let callout = place.callout.expect("only registered callouts are shown data");
    let mut state = sim.lock();
    state.log(Event::Indicate { flow: id, callout: place.id, flags, length: bytes.len(), missed });
    let (chain, mut data) = lay_out(&mut state, Arc::as_ptr(sim), bytes, flags);
    let classify = state.fresh();
    let record =
        Classify { shown: chain.iter().map(|nbl| *nbl as usize).collect(), flags, ..Classify::default() };
    state.classifies.insert(classify, record);
    state.running(place.id, 1);
    let flow = state.flows.get_mut(&id).expect("a flow with work exists");
    let spec = flow.spec.clone();
    let layer = flow.layer;
    let context = flow.contexts.get(&(place.id, layer)).copied().unwrap_or(0);
    flow.side(direction).stages.entry(place.filter.filterId).or_default().seen = true;
    state.enter_flow(id, place.id);
    drop(state);

    let mut storage = values::Addresses::new(spec.local, spec.remote);
    let mut fixed =
        values::stream(spec.local, spec.remote, spec.outbound, spec.loopback, spec.compartment, &mut storage);
    let mut metadata = values::no_metadata();
    metadata.currentMetadataValues = FWPS_METADATA_FIELD::FLOW_HANDLE | FWPS_METADATA_FIELD::SYSTEM_FLAGS;
    metadata.flowHandle = id;
    metadata.flags =
        if spec.mid_stream { FWPS_INCOMING_FLAG::MID_STREAM_INSPECTION } else { FWPS_INCOMING_FLAG::NONE };
    let mut packet = FWPS_STREAM_CALLOUT_IO_PACKET0 {
        streamData: &raw mut data,
        missedBytes: missed,
        countBytesRequired: STALE_REQUIRED,
        countBytesEnforced: STALE_COUNT,
        streamAction: STALE_ACTION,
    };
    let mut out = FWPS_CLASSIFY_OUT0 {
        actionType: FWP_ACTION::NONE,
        outContext: classify,
        filterId: place.filter.filterId,
        rights: FWPS_RIGHT::ACTION_WRITE,
        flags: hints,
        reserved: 0,
    };
    let call = engine::Call {
        callout: &callout,
        layer,
        values: &mut fixed,
        metadata: &metadata,
        layer_data: (&raw mut packet).cast(),
        filter: &place.filter,
        flow_context: context,
    };
    let reason = Reason::Stream { classify, callout: place.id, flow: id, direction };
    engine::classify(sim, reason, call, &mut out);
    leave_flow(sim, id, place.id);
    // SAFETY: the callout wrote through the pointer it was given; look at what is there now.
    let packet = unsafe { (&raw const packet).read_volatile() };

    let mut state = sim.lock();
    state.running(place.id, -1);
    let classify_id = classify;
    let mut classify = state.classifies.remove(&classify).expect("inserted above");
    if (out.outContext, out.filterId, out.reserved) != (classify_id, place.filter.filterId, 0) {
        state.violate(rules::READ_ONLY_OUT, "classifyOut's system members were written");
    }
    let changed = state.config.sender_changes && direction == Direction::Send && !bytes.is_empty();
    for nbl in &chain {
        state.check_original(*nbl);
        if changed {
            state.change(*nbl);
        }
    }
    if changed {
        state.read_again(&mut classify.inline);
    }
    for nbl in chain {
        state.release(nbl);
    }
    state.log(Event::Decide {
        flow: id,
        callout: place.id,
        action: out.actionType,
        stream: packet.streamAction,
        count: packet.countBytesEnforced,
        required: packet.countBytesRequired,
    });
    Answer {
        action: out.actionType,
        stream: packet.streamAction,
        required: packet.countBytesRequired,
        enforced: packet.countBytesEnforced,
        changed,
        classify,
    }
}

impl State {
    /// A sender changes its bytes in place.
    fn change(&mut self, nbl: *mut NET_BUFFER_LIST) {
        let Some(region) = self.nbl_mut(nbl).region.and_then(|base| self.regions.get_mut(&base)) else {
            return;
        };
        region.bytes.iter_mut().for_each(|byte| *byte = byte.wrapping_add(1));
        region.pristine = region.bytes.clone();
    }

    /// What is pending and shares the sender's bytes goes out as they are now.
    fn read_again(&mut self, inline: &mut [InlineInjection]) {
        for injection in inline {
            let pending: Vec<usize> = self
                .injections
                .iter()
                .filter(|pending| injection.ids.contains(&pending.id))
                .map(|pending| pending.nbl)
                .collect();
            if pending.is_empty() {
                continue;
            }
            injection.bytes.clear();
            for nbl in pending {
                // SAFETY: a pending injection keeps its NBL alive.
                let packets = unsafe { self.packets(nbl as *mut NET_BUFFER_LIST) }.unwrap_or_default();
                injection.bytes.extend(packets.concat());
            }
        }
    }

    /// A callout is about to be shown something of a flow.
    pub(crate) fn enter_flow(&mut self, id: u64, callout: u32) {
        if let Some(flow) = self.flows.get_mut(&id) {
            flow.showing.push(callout);
        }
    }

    /// What classifyFn must have left as it was.
    pub(crate) fn check_original(&mut self, nbl: *mut NET_BUFFER_LIST) {
        let info = self.nbl_mut(nbl);
        let (region, moved) = (info.region, info.shifts.values().any(|shift| *shift != 0));
        if moved {
            info.shifts.clear();
            self.violate(rules::BALANCE, "the start of an original NB was moved and not moved back");
        }
        if let Some(region) = region {
            self.check_untouched(region);
        }
    }
}

/// Applies a callout's answer to the bytes that it was shown.
#[expect(clippy::too_many_arguments, reason = "one decision has this many sides, and one caller")]
fn decide(
    sim: &Arc<Inner>,
    id: u64,
    direction: Direction,
    place: &Place,
    bytes: Vec<u8>,
    flags: FWPS_STREAM_FLAG,
    hints: FWPS_CLASSIFY_OUT_FLAG,
    mut answer: Answer,
) {
    let mut state = sim.lock();
    let inline = take(&mut answer.classify.inline);
    let (at, after) = (Position::At(place.key), Position::After(place.key));
    let filter = place.filter.filterId;
    let length = bytes.len();

    if answer.stream == STALE_ACTION {
        state.violate(rules::STALE_OUTPUT, "streamAction still holds what it held on entry");
        answer.stream = FWPS_STREAM_ACTION::NONE;
    }
    if answer.stream != FWPS_STREAM_ACTION::NONE
        && !matches!(answer.action, FWP_ACTION::NONE | FWP_ACTION::CONTINUE)
    {
        state.violate(rules::ACTION_NONE, format!("{:?} together with {:?}", answer.stream, answer.action));
    }

    // Work is pushed to the front in reverse: what was injected goes first, then what was permitted, then the rest.
    let back = |state: &mut State, direction, position, by, item| {
        state.push_front(id, Work { direction, position, by, item });
    };
    match answer.stream {
        FWPS_STREAM_ACTION::NONE => {
            if answer.required != 0 {
                let text = format!("countBytesRequired is {:#x} on {:?}", answer.required, answer.action);
                state.violate(rules::STALE_OUTPUT, text);
            }
            if answer.enforced > length {
                let text = format!("countBytesEnforced is {} of {length}", answer.enforced);
                state.violate(rules::ENFORCED, text);
                answer.enforced = length;
            }
            let permit = match answer.action {
                FWP_ACTION::PERMIT => true,
                FWP_ACTION::BLOCK => false,
                other => {
                    state.violate(rules::ACTION_SET, format!("the action is {other:?}"));
                    false
                }
            };
            if permit && answer.classify.cloned_and_injected {
                state.violate(
                    rules::CLONE_BLOCKS,
                    "the indication is permitted and its clone injected: twice the bytes",
                );
            }
            let count = if answer.enforced == 0 { length } else { answer.enforced };
            let mut bytes = bytes;
            let rest = bytes.split_off(count);
            state.settle_clones(id, direction, filter, &answer.classify.clones, permit, count == length);
            if !rest.is_empty() {
                back(&mut state, direction, at, None, Item::Data { bytes: rest, flags });
            }
            if permit {
                back(&mut state, direction, after, None, Item::Data { bytes, flags });
            } else if let Some(next) = state.next_place(id, after, None)
                && let Some(stage) = state.stage(id, direction, next.filter.filterId)
            {
                stage.missed += count;
            }
        }
        FWPS_STREAM_ACTION::NEED_MORE_DATA => {
            let refused = if hints.has(FWPS_CLASSIFY_OUT_FLAG::NO_MORE_DATA) {
                Some(rules::NO_MORE)
            } else if hints.has(FWPS_CLASSIFY_OUT_FLAG::BUFFER_LIMIT_REACHED) {
                Some(rules::BUFFER_LIMIT)
            } else {
                None
            };
            if let Some(rule) = refused {
                state.violate(rule, "NEED_MORE_DATA where there is no more");
                back(&mut state, direction, after, None, Item::Data { bytes, flags });
            } else {
                let required = if answer.required == 0 || answer.required == STALE_REQUIRED {
                    state.violate(rules::NEED_NOTHING, "NEED_MORE_DATA without countBytesRequired");
                    1
                } else {
                    answer.required as usize
                };
                let wait = match state.config.need_more {
                    NeedMore::Additional => length.saturating_add(required),
                    NeedMore::Total => required.max(length + 1),
                    NeedMore::Any => length + 1,
                };
                if let Some(stage) = state.stage(id, direction, filter) {
                    (stage.buffer, stage.flags, stage.wait) = (bytes, flags, wait);
                }
            }
        }
        FWPS_STREAM_ACTION::ALLOW_CONNECTION => {
            if state.stages_queue(id, filter) > 0 {
                state.violate(rules::ALLOW_DRAINED, "ALLOW_CONNECTION while cloned data is queued");
            }
            state.allow(id, place);
            back(&mut state, direction, after, None, Item::Data { bytes, flags });
        }
        FWPS_STREAM_ACTION::DROP_CONNECTION => {
            state.check_drop(place);
            drop(state);
            kill(sim, id, FlowState::Dropped, "dropped by a callout");
            return;
        }
        FWPS_STREAM_ACTION::DEFER => {
            if direction == Direction::Send {
                state.violate(rules::DEFER, "DEFER of outbound data");
                back(&mut state, direction, after, None, Item::Data { bytes, flags });
            } else if let Some(stage) = state.stage(id, direction, filter) {
                (stage.buffer, stage.flags, stage.deferred) = (bytes, flags, true);
            }
        }
        other => {
            state.violate(rules::STALE_OUTPUT, format!("streamAction is {other:?}, which is none"));
            back(&mut state, direction, after, None, Item::Data { bytes, flags });
        }
    }
    for injection in inline.into_iter().rev() {
        let fin = injection.flags.has_any(FWPS_STREAM_FLAG::DISCONNECT);
        let made: Vec<Item> = items(injection.bytes, injection.direction.flag(), fin).collect();
        for item in made.into_iter().rev() {
            back(&mut state, injection.direction, after, Some(place.id), item);
        }
    }
}

impl State {
    /// Checks that a filter may drop connections.
    fn check_drop(&mut self, place: &Place) {
        let action = place.filter.action.r#type;
        let only_unknown = self.config.drop_connection == DropConnection::Unknown;
        if action == FWP_ACTION::CALLOUT_INSPECTION || (only_unknown && action != FWP_ACTION::CALLOUT_UNKNOWN)
        {
            self.violate(rules::DROP_RIGHT, format!("DROP_CONNECTION from a filter of {action:?}"));
        }
    }

    /// Clones that a callout has queued of a flow, in both directions.
    fn stages_queue(&self, id: u64, filter: u64) -> usize {
        let sides = self.flows.get(&id).map_or(&[][..], |flow| &flow.sides);
        sides.iter().filter_map(|side| side.stages.get(&filter)).map(|stage| stage.queue.len()).sum()
    }

    /// Books the clones of one indication after it was permitted or blocked.
    fn settle_clones(
        &mut self,
        id: u64,
        direction: Direction,
        filter: u64,
        clones: &[usize],
        permit: bool,
        whole: bool,
    ) {
        let kept: Vec<u64> = clones
            .iter()
            .filter_map(|clone| self.nbls.get(clone))
            .filter_map(|info| match info.kind {
                NblKind::StreamClone { serial, .. } if info.fate == Fate::Idle => Some(serial),
                _ => None,
            })
            .collect();
        let Some(stage) = self.stage(id, direction, filter) else { return };
        let queued = stage.queue.len();
        stage.blocked_last = !permit && whole;
        if !permit {
            for serial in kept {
                if stage.queue.back() != Some(&serial) {
                    stage.queue.push_back(serial);
                }
            }
        } else if queued > 0 {
            let text = format!("bytes are permitted while {queued} clones of earlier bytes are queued");
            self.violate(rules::STICKY, text);
        }
    }

    /// A callout wants to see no more of a flow: what it holds of it flows on.
    fn allow(&mut self, id: u64, place: &Place) {
        let Some(flow) = self.flows.get_mut(&id) else { return };
        flow.allowed.insert(place.id);
        for direction in Direction::BOTH {
            let Some(stage) = flow.sides[direction.index()].stages.get_mut(&place.filter.filterId) else {
                continue;
            };
            stage.deferred = false;
            let bytes = take(&mut stage.buffer);
            let flags = take(&mut stage.flags);
            let fin = take(&mut stage.fin_behind);
            for item in items(bytes, flags, fin) {
                flow.work.push_back(Work { direction, position: Position::After(place.key), by: None, item });
            }
        }
    }
}

/// A FIN on its way down.
fn end(sim: &Arc<Inner>, id: u64, direction: Direction, position: Position, by: Option<u32>) {
    let mut state = sim.lock();
    let Some(place) = state.next_place(id, position, by) else {
        let Some(flow) = state.flows.get_mut(&id) else { return };
        flow.side(direction).out.fin = true;
        let over = flow.sides.iter().all(|side| side.out.fin);
        drop(state);
        if over {
            kill(sim, id, FlowState::Closed, "closed by both sides");
        }
        return;
    };
    if place.callout.is_none() {
        return;
    }
    let filter = place.filter.filterId;
    let Some(stage) = state.stage(id, direction, filter) else { return };
    if stage.deferred {
        stage.fin_behind = true;
        return;
    }
    if !stage.buffer.is_empty() {
        // What the callout waits for will not come: show it what there is, then the FIN.
        stage.no_more = true;
        let at = Position::At(place.key);
        state.push_front(id, Work { direction, position: at, by: None, item: Item::Fin });
        let item = Item::Data { bytes: Vec::new(), flags: direction.flag() };
        state.push_front(id, Work { direction, position: at, by: None, item });
        return;
    }
    let missed = take(&mut stage.missed);
    drop(state);
    let flags = direction.flag() | direction.disconnect();
    let answer = show(sim, id, direction, &place, &[], flags, missed, FWPS_CLASSIFY_OUT_FLAG::NONE);

    let mut state = sim.lock();
    let permit = state.check_end(&answer, "the FIN");
    if let Some(stage) = state.stage(id, direction, filter) {
        let queued = stage.queue.len();
        if permit && queued > 0 {
            state.violate(rules::FIN_WAITS, format!("the FIN is permitted while {queued} clones are queued"));
        } else if !permit {
            stage.fin_pended = true;
            stage.blocked_last = true;
        }
    }
    if answer.stream == FWPS_STREAM_ACTION::DROP_CONNECTION {
        state.check_drop(&place);
        drop(state);
        kill(sim, id, FlowState::Dropped, "dropped by a callout");
        return;
    }
    if answer.stream == FWPS_STREAM_ACTION::ALLOW_CONNECTION {
        state.allow(id, &place);
    }
    let after = Position::After(place.key);
    if permit {
        state.push_front(id, Work { direction, position: after, by: None, item: Item::Fin });
    }
    for injection in answer.classify.inline.into_iter().rev() {
        let fin = injection.flags.has_any(FWPS_STREAM_FLAG::DISCONNECT);
        let made: Vec<Item> = items(injection.bytes, injection.direction.flag(), fin).collect();
        for item in made.into_iter().rev() {
            let work = Work { direction: injection.direction, position: after, by: Some(place.id), item };
            state.push_front(id, work);
        }
    }
}

impl State {
    /// Checks the answer to a FIN or a reset. True when it goes on.
    fn check_end(&mut self, answer: &Answer, what: &str) -> bool {
        match answer.stream {
            FWPS_STREAM_ACTION::NONE => {
                if answer.enforced != 0 {
                    self.violate(
                        rules::ENFORCED,
                        format!("countBytesEnforced is {} on {what}", answer.enforced),
                    );
                }
                if answer.required != 0 {
                    self.violate(rules::STALE_OUTPUT, format!("countBytesRequired is not 0 on {what}"));
                }
            }
            FWPS_STREAM_ACTION::NEED_MORE_DATA | FWPS_STREAM_ACTION::DEFER => {
                self.violate(rules::NEED_AT_END, format!("{:?} on {what}", answer.stream));
                return true;
            }
            FWPS_STREAM_ACTION::ALLOW_CONNECTION => return true,
            FWPS_STREAM_ACTION::DROP_CONNECTION => return false,
            _ => {
                self.violate(rules::STALE_OUTPUT, "streamAction still holds what it held on entry");
            }
        }
        match answer.action {
            FWP_ACTION::PERMIT => true,
            FWP_ACTION::BLOCK => false,
            other => {
                self.violate(rules::ACTION_SET, format!("the action on {what} is {other:?}"));
                true
            }
        }
    }
}

/// A reset on its way down: every callout sees it, none can stop it.
fn reset(sim: &Arc<Inner>, id: u64, direction: Direction, position: Position) {
    let mut state = sim.lock();
    if let Some(flow) = state.flows.get_mut(&id) {
        flow.side(direction).reset = true;
        // What was on its way is lost with the connection.
        flow.work.clear();
    }
    let Some(place) = state.next_place(id, position, None) else {
        drop(state);
        kill(sim, id, FlowState::Aborted, "reset");
        return;
    };
    let Some(stage) = state.stage(id, direction, place.filter.filterId) else { return };
    stage.buffer.clear();
    stage.deferred = false;
    drop(state);
    if place.callout.is_some() {
        let flags = direction.flag() | direction.abort();
        let answer = show(sim, id, direction, &place, &[], flags, 0, FWPS_CLASSIFY_OUT_FLAG::NONE);
        let mut state = sim.lock();
        if !state.check_end(&answer, "the reset") {
            state.violate(rules::RESET_PASSES, format!("{:?}, {:?}", answer.action, answer.stream));
        }
    }
    let mut state = sim.lock();
    let work = Work { direction, position: Position::After(place.key), by: None, item: Item::Abort };
    state.push_front(id, work);
}

/// Ends a connection and tells the owners of its contexts.
pub(crate) fn kill(sim: &Arc<Inner>, id: u64, end: FlowState, what: &'static str) {
    let contexts = {
        let mut state = sim.lock();
        let Some(flow) = state.flows.get_mut(&id) else { return };
        if flow.state != FlowState::Open {
            return;
        }
        flow.state = end;
        flow.work.clear();
        if end != FlowState::Closed {
            flow.sides.iter_mut().for_each(|side| side.out.aborted = true);
        }
        for side in &mut flow.sides {
            for stage in side.stages.values_mut() {
                stage.buffer.clear();
                stage.deferred = false;
            }
        }
        let keys: Vec<_> = flow.contexts.keys().copied().collect();
        let contexts: Vec<_> =
            keys.into_iter().filter_map(|key| Some((key, flow.remove_context(key).flatten()?))).collect();
        state.log(Event::Ended { flow: id, what });
        contexts
    };
    for ((callout, layer), context) in contexts {
        flow_deleted(sim, callout, layer, context);
    }
}

/// A callout was shown something of a flow: contexts that were removed meanwhile go now.
pub(crate) fn leave_flow(sim: &Arc<Inner>, id: u64, callout: u32) {
    let gone: Vec<_> = {
        let mut state = sim.lock();
        let Some(flow) = state.flows.get_mut(&id) else { return };
        if let Some(at) = flow.showing.iter().position(|shown| *shown == callout) {
            flow.showing.swap_remove(at);
        }
        if flow.showing.contains(&callout) {
            return;
        }
        let gone: Vec<_> = flow.deleted.extract_if(.., |((of, _), _)| *of == callout).collect();
        gone
    };
    for ((callout, layer), context) in gone {
        flow_deleted(sim, callout, layer, context);
    }
}

/// Endpoint handles that ALE knows begin here: no injection takes them.
pub(crate) const FLOW_ENDPOINTS: u64 = 0xa1e0_0000_0000;

/// Calls flowDeleteFn.
pub(crate) fn flow_deleted(sim: &Arc<Inner>, id: u32, layer: u16, context: u64) {
    let callout = sim.lock().callout(id).and_then(|callout| callout.callout.flowDeleteFn);
    if let Some(deleted) = callout {
        // SAFETY: the callout registered it, and associated the context that it gets back here once.
        current::enter(sim, Reason::FlowDelete, || unsafe { deleted(layer, id, context) });
    }
}

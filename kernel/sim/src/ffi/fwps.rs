//! fwpkclnt.sys: callouts, handles, NBLs, injection, flow contexts.
#![expect(unreachable_pub, non_snake_case, reason = "symbols under the names of the DDI")]

use std::ffi::c_void;
use std::ptr::copy_nonoverlapping;
use std::sync::Arc;

use fwps_sys::*;

use super::ndis::new_handle;
use super::{passive, simulator_of};
use crate::buffers::{Piece, read};
use crate::config::Call;
use crate::current::{self, Reason};
use crate::engine::inject::{self, SendInject, StreamInject};
use crate::engine::{complete, stream};
use crate::flow::{Direction, FlowState};
use crate::memory::Kind;
use crate::rules;
use crate::state::{Callout, Fate, NblKind, State};

#[unsafe(no_mangle)]
pub unsafe extern "system" fn FwpsCalloutRegister1(
    deviceObject: *mut c_void,
    callout: *const FWPS_CALLOUT1,
    calloutId: *mut u32,
) -> NTSTATUS {
    let Some(sim) = simulator_of(deviceObject) else { return NTSTATUS::INVALID_PARAMETER };
    let mut state = sim.lock();
    passive(&mut state, "FwpsCalloutRegister1");
    if let Some(status) = state.fault(Call::CalloutRegister, "FwpsCalloutRegister1") {
        return status;
    }
    // SAFETY: the caller's promise.
    let callout = unsafe { *callout };
    if callout.flags.has(FWP_CALLOUT_FLAG::ALLOW_L2_BATCH_CLASSIFY) {
        state.violate(rules::L2_BATCH, "a callout asks for chains at the layer 2 layers");
    }
    if callout.classifyFn.is_none() || callout.notifyFn.is_none() {
        return NTSTATUS::FWP_NULL_POINTER;
    }
    if state.callout_by_key(&callout.calloutKey).is_some() {
        return NTSTATUS::FWP_ALREADY_EXISTS;
    }
    let id = 0x100 + state.callouts.len() as u32;
    state.callouts.push(Callout { id, callout, registered: true, running: 0 });
    if !calloutId.is_null() {
        // SAFETY: the caller's promise.
        unsafe { calloutId.write(id) }
    }
    NTSTATUS::SUCCESS
}

fn unregister(find: impl Fn(&Callout) -> bool) -> NTSTATUS {
    let Some(sim) = current::simulator() else { return NTSTATUS::FWP_CALLOUT_NOT_FOUND };
    let mut state = sim.lock();
    passive(&mut state, "FwpsCalloutUnregister");
    let Some(at) = state.callouts.iter().position(|callout| callout.registered && find(callout)) else {
        return NTSTATUS::FWP_CALLOUT_NOT_FOUND;
    };
    let (id, running, key) =
        (state.callouts[at].id, state.callouts[at].running, state.callouts[at].callout.calloutKey);
    if running > 0 {
        return NTSTATUS::FWP_IN_USE;
    }
    if state.flows.values().any(|flow| flow.holds_context_of(id)) {
        return NTSTATUS::DEVICE_BUSY;
    }
    let filters: Vec<u64> =
        state.filters.iter().filter(|filter| filter.callout == key).map(|filter| filter.id).collect();
    let owing = state
        .flows
        .values()
        .filter(|flow| flow.state == FlowState::Open)
        .flat_map(|flow| &flow.sides)
        .flat_map(|side| filters.iter().filter_map(|filter| side.stages.get(filter)))
        .any(stream::Stage::owes);
    if owing {
        state.violate(rules::REMOVED_BUSY, "a stream callout was unregistered");
    }
    state.callouts[at].registered = false;
    NTSTATUS::SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "system" fn FwpsCalloutUnregisterById0(calloutId: u32) -> NTSTATUS {
    unregister(|callout| callout.id == calloutId)
}

#[unsafe(no_mangle)]
pub unsafe extern "system" fn FwpsCalloutUnregisterByKey0(calloutKey: *const GUID) -> NTSTATUS {
    // SAFETY: the caller's promise.
    let key = unsafe { *calloutKey };
    unregister(|callout| callout.callout.calloutKey == key)
}

#[unsafe(no_mangle)]
pub unsafe extern "system" fn FwpsInjectionHandleCreate0(
    addressFamily: ADDRESS_FAMILY,
    flags: FWPS_INJECTION_TYPE,
    injectionHandle: *mut HANDLE,
) -> NTSTATUS {
    if flags.has(FWPS_INJECTION_TYPE::NETWORK) && addressFamily == ADDRESS_FAMILY::UNSPEC {
        if let Some(sim) = current::simulator() {
            sim.lock()
                .violate(rules::HANDLE_KIND, "a handle for the network layers without an address family");
        }
        return NTSTATUS::INVALID_PARAMETER;
    }
    match new_handle(Kind::Injection, Call::InjectionHandleCreate, "FwpsInjectionHandleCreate0", false) {
        Ok(handle) => {
            if let Some(sim) = current::simulator()
                && let Some(entry) = sim.lock().handles.get_mut(&(handle as usize))
            {
                let all = FWPS_INJECTION_TYPE::TRANSPORT
                    | FWPS_INJECTION_TYPE::STREAM
                    | FWPS_INJECTION_TYPE::FORWARD;
                entry.injects = if flags == FWPS_INJECTION_TYPE::NONE { all } else { flags };
            }
            // SAFETY: the caller's promise.
            unsafe { injectionHandle.write(handle) }
            NTSTATUS::SUCCESS
        }
        Err(status) => status,
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "system" fn FwpsInjectionHandleDestroy0(injectionHandle: HANDLE) -> NTSTATUS {
    let Some(sim) = simulator_of(injectionHandle) else { return NTSTATUS::INVALID_PARAMETER };
    {
        let mut state = sim.lock();
        passive(&mut state, "FwpsInjectionHandleDestroy0");
        if state.handles.get(&(injectionHandle as usize)).is_some_and(|handle| {
            handle.kind == Kind::Injection && handle.injects.has(FWPS_INJECTION_TYPE::STREAM)
        }) && state.streams_owe()
        {
            state
                .violate(rules::QUEUES_FIRST, "an injection handle is destroyed while streams are held back");
        }
        match state.handles.get_mut(&(injectionHandle as usize)) {
            Some(handle) if handle.kind == Kind::Injection && handle.live => {
                (handle.live, handle.closing) = (false, true);
            }
            _ => {
                state.violate(
                    rules::HANDLE_LIFE,
                    "FwpsInjectionHandleDestroy0 of what is none, or was destroyed",
                );
                return NTSTATUS::INVALID_PARAMETER;
            }
        }
    }
    complete::complete_handle(&sim, injectionHandle as usize);
    if let Some(handle) = sim.lock().handles.get_mut(&(injectionHandle as usize)) {
        handle.closing = false;
    }
    NTSTATUS::SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "system" fn FwpsQueryPacketInjectionState0(
    injectionHandle: HANDLE,
    netBufferList: *const NET_BUFFER_LIST,
    injectionContext: *mut HANDLE,
) -> FWPS_PACKET_INJECTION_STATE {
    let none = FWPS_PACKET_INJECTION_STATE::NOT_INJECTED;
    let Some(sim) = simulator_of(netBufferList.cast()) else { return none };
    let mut state = sim.lock();
    if !state.is_nbl(netBufferList, "FwpsQueryPacketInjectionState0") {
        return none;
    }
    let handle = injectionHandle as usize;
    match current::reason(&sim) {
        Some(Reason::Stream { .. }) => {
            state.violate(rules::QUERY_PACKETS, "FwpsQueryPacketInjectionState0 at a stream layer");
        }
        Some(Reason::Transport { classify, .. }) => {
            if let Some(record) = state.classifies.get_mut(&classify) {
                record.asked.push(handle);
            }
        }
        _ => {}
    }
    let info = state.nbl_mut(netBufferList);
    let answer = match info.injectors.last() {
        None => none,
        Some(last) if *last == handle => FWPS_PACKET_INJECTION_STATE::INJECTED_BY_SELF,
        Some(_) if info.injectors.contains(&handle) => {
            FWPS_PACKET_INJECTION_STATE::PREVIOUSLY_INJECTED_BY_SELF
        }
        Some(_) => FWPS_PACKET_INJECTION_STATE::INJECTED_BY_OTHER,
    };
    let context = info.injection_context;
    if answer == FWPS_PACKET_INJECTION_STATE::INJECTED_BY_SELF
        || answer == FWPS_PACKET_INJECTION_STATE::PREVIOUSLY_INJECTED_BY_SELF
    {
        if let Some(Reason::Transport { classify, .. }) = current::reason(&sim)
            && let Some(record) = state.classifies.get_mut(&classify)
        {
            record.known_as_own = true;
        }
        if !injectionContext.is_null() {
            // SAFETY: the caller's promise.
            unsafe { injectionContext.write(context as HANDLE) }
        }
    }
    answer
}

#[unsafe(no_mangle)]
pub unsafe extern "system" fn FwpsAllocateCloneNetBufferList0(
    originalNetBufferList: *mut NET_BUFFER_LIST,
    _netBufferListPoolHandle: HANDLE,
    _netBufferPoolHandle: HANDLE,
    _allocateCloneFlags: u32,
    netBufferList: *mut *mut NET_BUFFER_LIST,
) -> NTSTATUS {
    let Some(sim) = simulator_of(originalNetBufferList.cast()) else { return NTSTATUS::INVALID_PARAMETER };
    let mut state = sim.lock();
    state.check_locks(rules::LOCK_CLONE, "FwpsAllocateCloneNetBufferList0");
    if !state.is_nbl(originalNetBufferList, "FwpsAllocateCloneNetBufferList0") {
        return NTSTATUS::INVALID_PARAMETER;
    }
    if let Some(status) = state.fault(Call::NblClone, "FwpsAllocateCloneNetBufferList0") {
        return status;
    }
    let mut ranges = Vec::new();
    for nb in state.nbl_mut(originalNetBufferList).nbs.clone() {
        // SAFETY: an NB of a live NBL.
        match unsafe { state.pieces(nb as *mut NET_BUFFER, 0, usize::MAX) } {
            Some(pieces) => ranges.push(pieces),
            None => return NTSTATUS::INVALID_PARAMETER,
        }
    }
    let kind = NblKind::Clone { of: originalNetBufferList as usize };
    let clone = state.new_clone(Arc::as_ptr(&sim), kind, originalNetBufferList, &ranges);
    // SAFETY: the caller's promise.
    unsafe { netBufferList.write(clone) }
    NTSTATUS::SUCCESS
}

impl State {
    /// True while a callout holds bytes of an open connection back.
    fn streams_owe(&self) -> bool {
        let open = self.flows.values().filter(|flow| flow.state == FlowState::Open);
        open.flat_map(|flow| &flow.sides).flat_map(|side| side.stages.values()).any(stream::Stage::holds)
    }

    /// Frees one NBL of a callout, if it may.
    fn free(&mut self, nbl: *mut NET_BUFFER_LIST, call: &str, clones: bool) {
        if !self.is_nbl(nbl, call) {
            return;
        }
        let info = self.nbl_mut(nbl);
        let (kind, fate, moved) = (info.kind, info.fate, info.shifts.values().any(|shift| *shift != 0));
        let is_clone = matches!(kind, NblKind::Clone { .. } | NblKind::StreamClone { .. });
        if kind == NblKind::Original || is_clone != clones {
            return self.violate(rules::WRONG_FREE, format!("{call} of an NBL of another making"));
        }
        if fate == Fate::InFlight {
            return self.violate(rules::NBL_IN_FLIGHT, format!("{call} of an NBL before its completion"));
        }
        if is_clone && moved {
            self.violate(rules::BALANCE, "a clone is freed with its start moved");
        }
        if matches!(kind, NblKind::Clone { .. }) && fate == Fate::Idle && self.failed == 0 {
            self.violate(rules::IDLE_CLONE, "a clone is freed that was never injected");
        }
        if let NblKind::StreamClone { flow, direction, serial, .. } = kind {
            self.forget(flow, direction, serial);
        }
        self.release(nbl);
    }

    /// A stream clone is gone without being injected.
    fn forget(&mut self, flow: u64, direction: Direction, serial: u64) {
        if let Some(flow) = self.flows.get_mut(&flow) {
            for stage in flow.side(direction).stages.values_mut() {
                stage.queue.retain(|queued| *queued != serial);
            }
        }
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "system" fn FwpsFreeCloneNetBufferList0(
    netBufferList: *mut NET_BUFFER_LIST,
    _freeCloneFlags: u32,
) {
    if let Some(sim) = simulator_of(netBufferList.cast()) {
        sim.lock().free(netBufferList, "FwpsFreeCloneNetBufferList0", true);
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "system" fn FwpsAllocateNetBufferAndNetBufferList0(
    poolHandle: HANDLE,
    contextSize: u16,
    contextBackFill: u16,
    mdlChain: *mut MDL,
    dataOffset: u32,
    dataLength: usize,
    netBufferList: *mut *mut NET_BUFFER_LIST,
) -> NTSTATUS {
    let Some(sim) = simulator_of(poolHandle) else { return NTSTATUS::INVALID_PARAMETER };
    let mut state = sim.lock();
    let fit = state
        .handles
        .get(&(poolHandle as usize))
        .is_some_and(|pool| pool.kind == Kind::NblPool && pool.live && pool.allocates_nb);
    if !fit {
        state.violate(
            rules::POOL,
            "FwpsAllocateNetBufferAndNetBufferList0 from no pool, or from a pool not made for it",
        );
        return NTSTATUS::INVALID_PARAMETER;
    }
    if !contextSize.is_multiple_of(16) || !contextBackFill.is_multiple_of(16) {
        let text = format!("context size {contextSize}, back fill {contextBackFill}");
        state.violate(rules::BAD_NBL_PARAMETERS, text);
        return NTSTATUS::INVALID_PARAMETER;
    }
    if let Some(status) = state.fault(Call::NblAllocate, "FwpsAllocateNetBufferAndNetBufferList0") {
        return status;
    }
    let (mut held, mut mdl) = (0_usize, mdlChain);
    while !mdl.is_null() {
        if !state.usable_mdl(mdl) {
            return NTSTATUS::INVALID_PARAMETER;
        }
        // SAFETY: the MDL is live.
        (held, mdl) = unsafe { (held + (*mdl).ByteCount as usize, (*mdl).Next) };
    }
    let offset = dataOffset as usize;
    if offset.saturating_add(dataLength) > held {
        let text = format!("offset {dataOffset} and length {dataLength} in a chain of {held} bytes");
        state.violate(rules::BAD_NBL_PARAMETERS, text);
        return NTSTATUS::INVALID_PARAMETER;
    }
    // SAFETY: every MDL was just checked.
    let nbl =
        unsafe { state.new_built(Arc::as_ptr(&sim), poolHandle as usize, mdlChain, offset, dataLength) };
    if let Some(pool) = state.handles.get_mut(&(poolHandle as usize)) {
        pool.used += 1;
    }
    // SAFETY: the caller's promise.
    unsafe { netBufferList.write(nbl) }
    NTSTATUS::SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "system" fn FwpsFreeNetBufferList0(netBufferList: *mut NET_BUFFER_LIST) {
    if let Some(sim) = simulator_of(netBufferList.cast()) {
        sim.lock().free(netBufferList, "FwpsFreeNetBufferList0", false);
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "system" fn FwpsReferenceNetBufferList0(
    netBufferList: *mut NET_BUFFER_LIST,
    intendToModify: BOOLEAN,
) {
    let Some(sim) = simulator_of(netBufferList.cast()) else { return };
    let mut state = sim.lock();
    if !state.is_nbl(netBufferList, "FwpsReferenceNetBufferList0") {
        return;
    }
    let info = state.nbl_mut(netBufferList);
    info.holds += 1;
    info.references += 1;
    if intendToModify != 0
        && let Some(Reason::Transport { classify, .. }) = current::reason(&sim)
        && let Some(record) = state.classifies.get_mut(&classify)
    {
        record.modified |= record.shown.contains(&(netBufferList as usize));
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "system" fn FwpsDereferenceNetBufferList0(
    netBufferList: *mut NET_BUFFER_LIST,
    _dispatchLevel: BOOLEAN,
) {
    let Some(sim) = simulator_of(netBufferList.cast()) else { return };
    let mut state = sim.lock();
    if !state.is_nbl(netBufferList, "FwpsDereferenceNetBufferList0") {
        return;
    }
    let info = state.nbl_mut(netBufferList);
    if info.references == 0 {
        return state.violate(rules::KEEP_REFERENCE, "FwpsDereferenceNetBufferList0 without a reference");
    }
    info.references -= 1;
    state.release(netBufferList);
}

#[unsafe(no_mangle)]
pub unsafe extern "system" fn FwpsInjectTransportSendAsync1(
    injectionHandle: HANDLE,
    injectionContext: HANDLE,
    endpointHandle: u64,
    flags: u32,
    sendArgs: *mut FWPS_TRANSPORT_SEND_PARAMS1,
    addressFamily: ADDRESS_FAMILY,
    compartmentId: COMPARTMENT_ID,
    netBufferList: *mut NET_BUFFER_LIST,
    completionFn: FWPS_INJECT_COMPLETE0,
    completionContext: HANDLE,
) -> NTSTATUS {
    let Some(sim) = simulator_of(injectionHandle) else { return NTSTATUS::INVALID_PARAMETER };
    let call = SendInject {
        handle: injectionHandle as usize,
        injection_context: injectionContext as usize,
        endpoint: endpointHandle,
        flags,
        args: sendArgs,
        family: addressFamily,
        compartment: compartmentId,
        nbl: netBufferList,
        complete: completionFn,
        context: completionContext as usize,
    };
    // SAFETY: the caller's promise.
    unsafe { inject::send_inject(&sim, &call) }
}

#[unsafe(no_mangle)]
pub unsafe extern "system" fn FwpsStreamInjectAsync0(
    injectionHandle: HANDLE,
    _injectionContext: HANDLE,
    flags: u32,
    flowId: u64,
    calloutId: u32,
    layerId: u16,
    streamFlags: FWPS_STREAM_FLAG,
    netBufferList: *mut NET_BUFFER_LIST,
    dataLength: usize,
    completionFn: FWPS_INJECT_COMPLETE0,
    completionContext: HANDLE,
) -> NTSTATUS {
    let Some(sim) = simulator_of(injectionHandle) else { return NTSTATUS::INVALID_PARAMETER };
    let call = StreamInject {
        handle: injectionHandle as usize,
        flags,
        flow: flowId,
        callout: calloutId,
        layer: layerId,
        stream: streamFlags,
        chain: netBufferList,
        length: dataLength,
        complete: completionFn,
        context: completionContext as usize,
    };
    // SAFETY: the caller's promise.
    unsafe { inject::stream_inject(&sim, &call) }
}

/// The pieces of an indication, for each NBL of its chain that has some. `None` when the chain is broken.
///
/// # Safety
/// `data` is a readable stream data structure.
unsafe fn stream_pieces(
    state: &mut State,
    data: &FWPS_STREAM_DATA0,
    call: &str,
) -> Option<Vec<(*mut NET_BUFFER_LIST, Vec<Piece>)>> {
    let mut ranges = Vec::new();
    let mut left = data.dataLength;
    let mut nbl = if data.dataOffset.netBufferList.is_null() {
        data.netBufferListChain
    } else {
        data.dataOffset.netBufferList
    };
    let mut first = true;
    while left > 0 && !nbl.is_null() {
        if !state.is_nbl(nbl, call) {
            return None;
        }
        let mut pieces = Vec::new();
        for nb in state.nbl_mut(nbl).nbs.clone() {
            let nb = nb as *mut NET_BUFFER;
            let mut skip = 0;
            if std::mem::take(&mut first) {
                // SAFETY: an NB of a live NBL, and its MDLs.
                unsafe {
                    let mut mdl = (*nb).CurrentMdl;
                    while mdl != data.dataOffset.mdl && !mdl.is_null() {
                        skip += (*mdl).ByteCount as usize;
                        mdl = (*mdl).Next;
                    }
                    skip = (skip + data.dataOffset.mdlOffset as usize) - (*nb).CurrentMdlOffset as usize;
                }
            }
            // SAFETY: as above.
            let found = unsafe { state.pieces(nb, skip, left) }?;
            left -= found.iter().map(|piece| piece.length).sum::<usize>();
            pieces.extend(found);
        }
        ranges.push((nbl, pieces));
        // SAFETY: checked to be live.
        nbl = unsafe { (*nbl).Next };
    }
    if left > 0 {
        state.violate(rules::DATA_LENGTH, format!("{call}: the chain ends {left} bytes before dataLength"));
        return None;
    }
    Some(ranges)
}

#[unsafe(no_mangle)]
pub unsafe extern "system" fn FwpsCloneStreamData0(
    calloutStreamData: *mut FWPS_STREAM_DATA0,
    _netBufferListPoolHandle: HANDLE,
    _netBufferPoolHandle: HANDLE,
    _allocateCloneFlags: u32,
    netBufferListChain: *mut *mut NET_BUFFER_LIST,
) -> NTSTATUS {
    // SAFETY: the caller's promise.
    let data = unsafe { &*calloutStreamData };
    let Some(sim) = simulator_of(data.netBufferListChain.cast()) else { return NTSTATUS::INVALID_PARAMETER };
    let mut state = sim.lock();
    state.check_locks(rules::LOCK_CLONE, "FwpsCloneStreamData0");
    let Some(Reason::Stream { classify, flow, direction, .. }) = current::reason(&sim) else {
        state.violate(rules::KEEP_REFERENCE, "FwpsCloneStreamData0 outside classifyFn");
        return NTSTATUS::INVALID_PARAMETER;
    };
    if let Some(status) = state.fault(Call::StreamClone, "FwpsCloneStreamData0") {
        return status;
    }
    // SAFETY: the caller's promise.
    let Some(ranges) = (unsafe { stream_pieces(&mut state, data, "FwpsCloneStreamData0") }) else {
        return NTSTATUS::INVALID_PARAMETER;
    };
    let Some(serial) = state.flows.get_mut(&flow).map(|flow| flow.clone_serial(direction)) else {
        return NTSTATUS::INVALID_PARAMETER;
    };
    let owner = Arc::as_ptr(&sim);
    let flags = data.flags;
    let mut chain: Vec<*mut NET_BUFFER_LIST> = Vec::new();
    for (of, pieces) in ranges {
        let kind = NblKind::StreamClone { of: Some(of as usize), flow, direction, flags, serial };
        chain.push(state.new_clone(owner, kind, of, &[pieces]));
    }
    if chain.is_empty() {
        let kind = NblKind::StreamClone { of: None, flow, direction, flags, serial };
        chain.push(state.new_clone(owner, kind, std::ptr::null_mut(), &[Vec::new()]));
    }
    for pair in chain.windows(2) {
        // SAFETY: both were just made.
        unsafe { (*pair[0]).Next = pair[1] }
    }
    if let Some(record) = state.classifies.get_mut(&classify) {
        record.clones.extend(chain.iter().map(|nbl| *nbl as usize));
    }
    // SAFETY: the caller's promise.
    unsafe { netBufferListChain.write(chain[0]) }
    NTSTATUS::SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "system" fn FwpsDiscardClonedStreamData0(
    netBufferListChain: *mut NET_BUFFER_LIST,
    _allocateCloneFlags: u32,
    _dispatchLevel: BOOLEAN,
) {
    let Some(sim) = simulator_of(netBufferListChain.cast()) else { return };
    let mut state = sim.lock();
    let mut nbl = netBufferListChain;
    while !nbl.is_null() {
        if !state.is_nbl(nbl, "FwpsDiscardClonedStreamData0") {
            return;
        }
        let info = state.nbl_mut(nbl);
        let idle = matches!(info.fate, Fate::Idle | Fate::Refused);
        let NblKind::StreamClone { flow, direction, serial, .. } = info.kind else {
            return state.violate(rules::BAD_DISCARD, "an NBL that is no stream clone");
        };
        if !idle {
            return state.violate(rules::BAD_DISCARD, "a stream clone that was injected");
        }
        state.forget(flow, direction, serial);
        // SAFETY: checked to be live.
        let next = unsafe { (*nbl).Next };
        state.release(nbl);
        nbl = next;
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "system" fn FwpsCopyStreamDataToBuffer0(
    calloutStreamData: *const FWPS_STREAM_DATA0,
    buffer: *mut c_void,
    bytesToCopy: usize,
    bytesCopied: *mut usize,
) {
    // SAFETY: the caller's promise.
    let data = unsafe { *calloutStreamData };
    let mut copied = 0;
    if let Some(sim) = simulator_of(data.netBufferListChain.cast()) {
        let mut state = sim.lock();
        let wanted = FWPS_STREAM_DATA0 { dataLength: data.dataLength.min(bytesToCopy), ..data };
        // SAFETY: the caller's promise.
        if let Some(ranges) = unsafe { stream_pieces(&mut state, &wanted, "FwpsCopyStreamDataToBuffer0") } {
            for (_, pieces) in ranges {
                let bytes = read(&pieces);
                // SAFETY: the caller gives room for `bytesToCopy` bytes, and no more than that were asked for.
                unsafe { copy_nonoverlapping(bytes.as_ptr(), buffer.cast::<u8>().add(copied), bytes.len()) }
                copied += bytes.len();
            }
        }
    }
    // SAFETY: the caller's promise.
    unsafe { bytesCopied.write(copied) }
}

#[unsafe(no_mangle)]
pub unsafe extern "system" fn FwpsStreamContinue0(
    flowId: u64,
    calloutId: u32,
    layerId: u16,
    streamFlags: FWPS_STREAM_FLAG,
) -> NTSTATUS {
    let Some(sim) = current::simulator() else { return NTSTATUS::INVALID_PARAMETER };
    {
        let mut state = sim.lock();
        if let Some(status) = state.fault(Call::StreamContinue, "FwpsStreamContinue0") {
            return status;
        }
        let inside = current::in_classify(&sim);
        let stage = state.callout(calloutId).map(|callout| callout.callout.calloutKey).and_then(|key| {
            let filter =
                state.filters.iter().find(|filter| filter.layer == layerId && filter.callout == key)?;
            Some((filter.key(), filter.id))
        });
        let resumed = match stage {
            Some((key, filter)) if !inside && streamFlags.has(FWPS_STREAM_FLAG::RECEIVE) => {
                if let Some(flags) = stream::deferred_flags(&state, flowId, filter)
                    && flags != streamFlags
                {
                    let text = format!("deferred with {flags:?}, continued with {streamFlags:?}");
                    state.violate(rules::CONTINUE_FLAGS, text);
                }
                stream::resume(&mut state, flowId, key, filter)
            }
            _ => false,
        };
        if !resumed {
            state.violate(rules::CONTINUE_OUTSIDE, format!("flow {flowId}, inside classifyFn: {inside}"));
            return NTSTATUS::INVALID_PARAMETER;
        }
    }
    stream::run(&sim, flowId);
    NTSTATUS::SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "system" fn FwpsFlowAbort0(flowId: u64) -> NTSTATUS {
    let Some(sim) = current::simulator() else { return NTSTATUS::INVALID_PARAMETER };
    if let Some(status) = sim.lock().fault(Call::FlowAbort, "FwpsFlowAbort0") {
        return status;
    }
    if !sim.lock().flows.get(&flowId).is_some_and(|flow| flow.state == FlowState::Open) {
        return NTSTATUS::FWP_NOT_FOUND;
    }
    stream::kill(&sim, flowId, FlowState::Dropped, "aborted by a callout");
    NTSTATUS::SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "system" fn FwpsFlowAssociateContext0(
    flowId: u64,
    layerId: u16,
    calloutId: u32,
    flowContext: u64,
) -> NTSTATUS {
    let Some(sim) = current::simulator() else { return NTSTATUS::INVALID_PARAMETER };
    let mut state = sim.lock();
    if let Some(status) = state.fault(Call::FlowAssociate, "FwpsFlowAssociateContext0") {
        return status;
    }
    let can = state.callout(calloutId).is_some_and(|callout| callout.callout.flowDeleteFn.is_some());
    let Some(flow) = state.flows.get_mut(&flowId).filter(|flow| flow.state == FlowState::Open) else {
        return NTSTATUS::INVALID_PARAMETER;
    };
    if flowContext == 0 || !can {
        return NTSTATUS::INVALID_PARAMETER;
    }
    let slot = flow.contexts.entry((calloutId, layerId));
    match slot {
        std::collections::btree_map::Entry::Occupied(_) => NTSTATUS::OBJECT_NAME_EXISTS,
        std::collections::btree_map::Entry::Vacant(slot) => {
            slot.insert(flowContext);
            NTSTATUS::SUCCESS
        }
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "system" fn FwpsFlowRemoveContext0(flowId: u64, layerId: u16, calloutId: u32) -> NTSTATUS {
    let Some(sim) = current::simulator() else { return NTSTATUS::INVALID_PARAMETER };
    let removed = {
        let mut state = sim.lock();
        state.check_locks(rules::LOCK_REMOVE, "FwpsFlowRemoveContext0");
        state.flows.get_mut(&flowId).and_then(|flow| flow.remove_context((calloutId, layerId)))
    };
    match removed {
        None => NTSTATUS::UNSUCCESSFUL,
        Some(None) => NTSTATUS::PENDING,
        Some(Some(context)) => {
            stream::flow_deleted(&sim, calloutId, layerId, context);
            NTSTATUS::SUCCESS
        }
    }
}

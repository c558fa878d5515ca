//! What the injection functions do once their handle was found.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use fwps_sys::*;

use crate::config::{Call, Completion};
use crate::current::{self, Reason};
use crate::engine::{complete, send, stream};
use crate::flow::{Direction, FlowState};
use crate::memory::Kind;
use crate::rules;
use crate::state::{Fate, Injection, InlineInjection, Inner, Key, NblKind, PendingSend, State};
use crate::trace::Event;

/// The parameters of `FwpsStreamInjectAsync0`.
pub(crate) struct StreamInject {
    pub(crate) handle: usize,
    pub(crate) flags: u32,
    pub(crate) flow: u64,
    pub(crate) callout: u32,
    pub(crate) layer: u16,
    pub(crate) stream: FWPS_STREAM_FLAG,
    pub(crate) chain: *mut NET_BUFFER_LIST,
    pub(crate) length: usize,
    pub(crate) complete: FWPS_INJECT_COMPLETE0,
    pub(crate) context: usize,
}

/// The parameters of `FwpsInjectTransportSendAsync1`.
pub(crate) struct SendInject {
    pub(crate) handle: usize,
    pub(crate) injection_context: usize,
    pub(crate) endpoint: u64,
    pub(crate) flags: u32,
    pub(crate) args: *mut FWPS_TRANSPORT_SEND_PARAMS1,
    pub(crate) family: ADDRESS_FAMILY,
    pub(crate) compartment: COMPARTMENT_ID,
    pub(crate) nbl: *mut NET_BUFFER_LIST,
    pub(crate) complete: FWPS_INJECT_COMPLETE0,
    pub(crate) context: usize,
}

impl State {
    /// Checks an injection handle.
    fn usable_handle(&mut self, handle: usize, kind: FWPS_INJECTION_TYPE) -> bool {
        let entry = self.handles.get(&handle).filter(|entry| entry.kind == Kind::Injection);
        let (live, closing, injects) = entry.map_or((false, false, FWPS_INJECTION_TYPE::NONE), |entry| {
            (entry.live, entry.closing, entry.injects)
        });
        if closing {
            return false;
        }
        if live && injects != FWPS_INJECTION_TYPE::NONE && !injects.has(kind) {
            self.violate(rules::HANDLE_KIND, format!("{kind:?} through a handle for {injects:?}"));
        }
        if !live {
            self.violate(
                rules::HANDLE_LIFE,
                "an injection through a handle that was destroyed or never made",
            );
        }
        live
    }

    /// The NBLs of a chain that a callout wants to inject, all checked.
    ///
    /// # Safety
    /// `first` was given out by the simulator, or is NULL.
    unsafe fn chain(&mut self, first: *mut NET_BUFFER_LIST, call: &str) -> Option<Vec<*mut NET_BUFFER_LIST>> {
        let mut chain = Vec::new();
        let mut nbl = first;
        while !nbl.is_null() {
            if !self.is_nbl(nbl, call) {
                return None;
            }
            let info = self.nbl_mut(nbl);
            let (kind, fate) = (info.kind, info.fate);
            if kind == NblKind::Original {
                self.violate(
                    rules::NBL_IN_FLIGHT,
                    format!("{call} of the NBL that was shown: inject a clone or an own one"),
                );
                return None;
            }
            if fate == Fate::InFlight || chain.contains(&nbl) {
                self.violate(rules::NBL_IN_FLIGHT, format!("{call} of an NBL that is being injected"));
                return None;
            }
            chain.push(nbl);
            // SAFETY: checked to be live.
            nbl = unsafe { (*nbl).Next };
        }
        Some(chain)
    }

    fn refuse(&mut self, chain: &[*mut NET_BUFFER_LIST]) {
        for nbl in chain {
            self.nbl_mut(*nbl).fate = Fate::Refused;
        }
    }

    /// The filter through which a callout sees a flow.
    fn filter_of(&self, layer: u16, callout: u32) -> Option<(Key, u64)> {
        let key = self.callout(callout)?.callout.calloutKey;
        let filter = self.filters.iter().find(|filter| filter.layer == layer && filter.callout == key)?;
        Some((filter.key(), filter.id))
    }
}

fn direction_of(flags: FWPS_STREAM_FLAG) -> Option<Direction> {
    Direction::BOTH.into_iter().find(|direction| flags.has_any(direction.family()))
}

/// `FwpsStreamInjectAsync0`.
///
/// # Safety
/// The chain was given out by the simulator.
pub(crate) unsafe fn stream_inject(sim: &Arc<Inner>, call: &StreamInject) -> NTSTATUS {
    let mut state = sim.lock();
    // SAFETY: the caller's promise.
    let (status, ids) = unsafe { stream_inject_locked(sim, &mut state, call) };
    let length = call.length;
    state.log(Event::InjectStream {
        flow: call.flow,
        callout: call.callout,
        flags: call.stream,
        length,
        status,
    });
    let inside = state.config.completion == Completion::Inside;
    drop(state);
    if status == NTSTATUS::SUCCESS {
        stream::run(sim, call.flow);
        if inside {
            for id in ids {
                complete::complete(sim, id);
            }
        }
    }
    status
}

/// # Safety
/// As [`stream_inject`].
unsafe fn stream_inject_locked(
    sim: &Arc<Inner>,
    state: &mut State,
    call: &StreamInject,
) -> (NTSTATUS, Vec<u64>) {
    let refused = |status| (status, Vec::new());
    state.check_locks(rules::LOCK_INJECT, "FwpsStreamInjectAsync0");
    if !state.usable_handle(call.handle, FWPS_INJECTION_TYPE::STREAM) {
        // SAFETY: the caller's promise.
        if let Some(chain) = unsafe { state.chain(call.chain, "FwpsStreamInjectAsync0") } {
            state.refuse(&chain);
        }
        return refused(NTSTATUS::FWP_INJECT_HANDLE_CLOSING);
    }
    // SAFETY: the caller's promise.
    let Some(chain) = (unsafe { state.chain(call.chain, "FwpsStreamInjectAsync0") }) else {
        return refused(NTSTATUS::FWP_INVALID_PARAMETER);
    };
    if call.complete.is_none() {
        state.violate(rules::COMPLETION_REQUIRED, "FwpsStreamInjectAsync0 without completionFn");
        state.refuse(&chain);
        return refused(NTSTATUS::FWP_NULL_POINTER);
    }
    // SAFETY: every NBL of the chain is live.
    let checked = unsafe { check_stream(sim, state, call, &chain) };
    let (direction, bytes) = match checked {
        Ok(checked) => checked,
        Err(status) => {
            state.refuse(&chain);
            return refused(status);
        }
    };
    if let Some(status) = state.fault(Call::StreamInject, "FwpsStreamInjectAsync0") {
        state.refuse(&chain);
        return refused(status);
    }

    let (key, filter) = state.filter_of(call.layer, call.callout).expect("checked");
    for nbl in &chain {
        if let NblKind::StreamClone { serial, direction: of, flags, flow, .. } = state.nbl_mut(*nbl).kind {
            let kept = FWPS_STREAM_FLAG::RECEIVE_PUSH
                | FWPS_STREAM_FLAG::RECEIVE_EXPEDITED
                | FWPS_STREAM_FLAG::SEND_EXPEDITED
                | FWPS_STREAM_FLAG::SEND_NODELAY;
            if of == direction && (flags & kept).without(call.stream) != FWPS_STREAM_FLAG::NONE {
                let text = format!("shown with {flags:?}, injected with {:?}", call.stream);
                state.violate(rules::KEEP_FLAGS, text);
            }
            state.unqueue(flow, of, filter, serial, true);
            if let Some(Reason::Stream { classify, .. }) = current::reason(sim)
                && let Some(record) = state.classifies.get_mut(&classify)
            {
                record.cloned_and_injected |= record.clones.contains(&(*nbl as usize));
            }
        }
    }
    let fin = call.stream.has_any(FWPS_STREAM_FLAG::DISCONNECT);
    let ids: Vec<u64> = chain
        .into_iter()
        .map(|nbl| state.accept(call.handle, nbl, call.complete, call.context, Some(call.flow), None))
        .collect();
    match current::reason(sim) {
        Some(Reason::Stream { classify, flow, .. }) if flow == call.flow => {
            let injection = InlineInjection { direction, bytes, flags: call.stream, ids: ids.clone() };
            if let Some(record) = state.classifies.get_mut(&classify) {
                record.inline.push(injection);
            }
        }
        _ => {
            stream::inject(state, call.flow, direction, key, call.callout, bytes, fin);
        }
    }
    (NTSTATUS::SUCCESS, ids)
}

/// Checks a stream injection; gives back its direction and bytes.
///
/// # Safety
/// The NBLs are live.
unsafe fn check_stream(
    sim: &Arc<Inner>,
    state: &mut State,
    call: &StreamInject,
    chain: &[*mut NET_BUFFER_LIST],
) -> Result<(Direction, Vec<u8>), NTSTATUS> {
    let invalid = NTSTATUS::FWP_INVALID_PARAMETER;
    if call.flags != 0 || !matches!(call.layer, layer::STREAM_V4 | layer::STREAM_V6) {
        state.violate(rules::STREAM_PARAMETERS, format!("flags {:#x}, layer {}", call.flags, call.layer));
        return Err(invalid);
    }
    let Some(flow) = state.flows.get(&call.flow) else {
        state.violate(rules::STREAM_PARAMETERS, format!("there is no flow {}", call.flow));
        return Err(invalid);
    };
    let (flow_layer, ended) = (flow.layer, flow.state != FlowState::Open);
    let Some((_, filter)) = state.filter_of(call.layer, call.callout).filter(|_| flow_layer == call.layer)
    else {
        let text = format!("callout {} has no filter at the layer of flow {}", call.callout, call.flow);
        state.violate(rules::STREAM_PARAMETERS, text);
        return Err(invalid);
    };
    let reason = current::reason(sim);
    if let Some(Reason::Stream { callout, .. }) = reason
        && callout != call.callout
    {
        state.violate(
            rules::STREAM_PARAMETERS,
            format!("callout {callout} injects as callout {}", call.callout),
        );
        return Err(invalid);
    }
    let (send, receive) = (
        call.stream.has_any(FWPS_STREAM_FLAG::SEND_FAMILY),
        call.stream.has_any(FWPS_STREAM_FLAG::RECEIVE_FAMILY),
    );
    let direction = match direction_of(call.stream) {
        Some(direction) if send != receive => direction,
        _ => {
            state.violate(rules::ONE_DIRECTION, format!("stream flags {:?}", call.stream));
            return Err(invalid);
        }
    };
    let fin = call.stream.has(direction.disconnect());
    if !call.stream.has(direction.flag()) {
        let rule = if fin { rules::DISCONNECT_NEEDS_DIRECTION } else { rules::ONE_DIRECTION };
        state.violate(rule, format!("stream flags {:?}", call.stream));
        return Err(invalid);
    }
    if chain.is_empty() && !fin {
        state.violate(rules::NULL_NBL, "the NBL is NULL and no DISCONNECT flag is set");
        return Err(invalid);
    }
    if ended {
        state.violate(rules::DEAD_FLOW, format!("flow {} has ended", call.flow));
        return Err(NTSTATUS::FWP_NOT_FOUND);
    }

    let mut bytes = Vec::new();
    for nbl in chain {
        // SAFETY: the caller's promise.
        match unsafe { state.packets(*nbl) } {
            Some(packets) => packets.iter().for_each(|packet| bytes.extend_from_slice(packet)),
            None => return Err(invalid),
        }
    }
    if bytes.len() != call.length {
        let text = format!("dataLength is {}, the chain has {} bytes", call.length, bytes.len());
        state.violate(rules::DATA_LENGTH, text);
        return Err(invalid);
    }

    let flow = state.flows.get_mut(&call.flow).expect("found above");
    let side = flow.side(direction);
    let (reset, fin_out) = (side.reset, side.out.fin);
    let stage = side.stages.entry(filter).or_default();
    let (fin_pended, blocked, deferred, seen) =
        (stage.fin_pended, stage.blocked_last, stage.deferred, stage.seen);
    let shown = match reason {
        Some(Reason::Stream { classify, flow, direction, .. }) => {
            let flags = state.classifies.get(&classify).map_or(FWPS_STREAM_FLAG::NONE, |record| record.flags);
            Some((flow, direction, flags))
        }
        _ => None,
    };
    if reset {
        state.violate(rules::AFTER_ABORT, format!("flow {} was reset", call.flow));
        return Err(NTSTATUS::FWP_NOT_FOUND);
    }
    if fin_out {
        state.violate(rules::AFTER_FIN, format!("bytes for flow {} behind its FIN", call.flow));
        return Err(NTSTATUS::FWP_INVALID_PARAMETER);
    }
    match shown {
        Some((flow, shown, flags)) if flow == call.flow => {
            let its_fin = shown == direction && flags.has(direction.disconnect());
            if fin && !its_fin && !fin_pended {
                state.violate(rules::NO_FALSE_FIN, "DISCONNECT where no FIN was shown");
            }
        }
        Some((flow, ..)) => {
            let text = format!("flow {} is injected into while flow {flow} is classified", call.flow);
            state.violate(rules::OWN_FLOW_ONLY, text);
        }
        None => {
            if fin && !fin_pended {
                state.violate(rules::NO_FALSE_FIN, "DISCONNECT where no FIN was pended");
            }
            if !(deferred || fin_pended || (seen && blocked)) {
                state.violate(rules::INJECT_OUTSIDE, format!("flow {}, {direction:?}", call.flow));
            }
        }
    }
    Ok((direction, bytes))
}

impl State {
    /// Takes a clone off the queue of its stage.
    pub(crate) fn unqueue(
        &mut self,
        flow: u64,
        direction: Direction,
        filter: u64,
        serial: u64,
        injected: bool,
    ) {
        let Some(flow) = self.flows.get_mut(&flow) else { return };
        let Some(stage) = flow.side(direction).stages.get_mut(&filter) else { return };
        let Some(at) = stage.queue.iter().position(|queued| *queued == serial) else { return };
        stage.queue.remove(at);
        if at > 0 && injected {
            self.violate(rules::IN_ORDER, format!("{at} older clones are still queued"));
        }
    }

    /// Books an accepted injection of one NBL.
    fn accept(
        &mut self,
        handle: usize,
        nbl: *mut NET_BUFFER_LIST,
        complete: FWPS_INJECT_COMPLETE0,
        context: usize,
        flow: Option<u64>,
        send: Option<CheckedSend>,
    ) -> u64 {
        let id = self.fresh();
        // SAFETY: the NBL is live, and was read without complaint before.
        let bytes = unsafe { self.packets(nbl) }.unwrap_or_default().concat();
        let info = self.nbl_mut(nbl);
        info.fate = Fate::InFlight;
        info.injectors.push(handle);
        let (send, args, watched) = match send {
            Some(checked) => (Some(checked.send), checked.args, checked.watched),
            None => (None, None, Vec::new()),
        };
        let nbl = nbl as usize;
        let status = NTSTATUS::SUCCESS;
        self.injections.push_back(Injection {
            id,
            handle,
            nbl,
            complete,
            context,
            status,
            bytes,
            args,
            watched,
            flow,
            send,
            sending: false,
        });
        id
    }
}

/// `FwpsInjectTransportSendAsync1`.
///
/// # Safety
/// The NBL was given out by the simulator; `args` is as the contract wants it.
pub(crate) unsafe fn send_inject(sim: &Arc<Inner>, call: &SendInject) -> NTSTATUS {
    let mut state = sim.lock();
    // SAFETY: the caller's promise.
    let (status, id, length) = match unsafe { send_inject_locked(sim, &mut state, call) } {
        Ok((id, length)) => (NTSTATUS::SUCCESS, Some(id), length),
        Err(status) => {
            if let Some(endpoint) = state.endpoints.get_mut(&call.endpoint) {
                endpoint.refused = true;
            }
            (status, None, 0)
        }
    };
    state.log(Event::InjectSend { endpoint: call.endpoint, length, status });
    let inside = state.config.completion == Completion::Inside;
    drop(state);
    if let Some(id) = id
        && (inside || !current::in_classify(sim))
    {
        send::transmit(sim, id);
        if inside {
            complete::complete(sim, id);
        }
    }
    status
}

/// # Safety
/// As [`send_inject`].
unsafe fn send_inject_locked(
    sim: &Arc<Inner>,
    state: &mut State,
    call: &SendInject,
) -> Result<(u64, usize), NTSTATUS> {
    let invalid = NTSTATUS::FWP_INVALID_PARAMETER;
    state.check_locks(rules::LOCK_INJECT, "FwpsInjectTransportSendAsync1");
    if !state.usable_handle(call.handle, FWPS_INJECTION_TYPE::TRANSPORT) {
        if !call.nbl.is_null() && state.is_nbl(call.nbl, "FwpsInjectTransportSendAsync1") {
            state.refuse(&[call.nbl]);
        }
        return Err(NTSTATUS::FWP_INJECT_HANDLE_CLOSING);
    }
    if call.nbl.is_null() {
        state.violate(rules::SEND_PARAMETERS, "the NBL is NULL");
        return Err(invalid);
    }
    // SAFETY: the caller's promise.
    let chain = unsafe { state.chain(call.nbl, "FwpsInjectTransportSendAsync1") }.ok_or(invalid)?;
    if let [nbl] = chain[..] {
        state.nbl_mut(nbl).fate = Fate::Refused;
    } else {
        state.refuse(&chain);
        state.violate(rules::SEND_PARAMETERS, "a chain of NBLs: inject one at a time");
        return Err(invalid);
    }
    if call.complete.is_none() {
        state.violate(rules::COMPLETION_REQUIRED, "FwpsInjectTransportSendAsync1 without completionFn");
        return Err(NTSTATUS::FWP_NULL_POINTER);
    }
    // SAFETY: the NBL is live.
    let packets = unsafe { state.packets(call.nbl) }.ok_or(invalid)?;
    let length = packets.iter().map(Vec::len).sum();
    // SAFETY: the caller's promise about `args`.
    let checked = unsafe { check_send(sim, state, call, &packets) }?;
    if let Some(status) = state.fault(Call::SendInject, "FwpsInjectTransportSendAsync1") {
        return Err(status);
    }
    let endpoint = state.endpoints.get_mut(&call.endpoint);
    if let Some(endpoint) = endpoint {
        endpoint.absorbed -= 1;
        endpoint.injections += 1;
    }
    let clone_of = match state.nbl_mut(call.nbl).kind {
        NblKind::Clone { of } => Some(of),
        _ => None,
    };
    if let Some(Reason::Transport { classify, .. }) = current::reason(sim)
        && let Some(record) = state.classifies.get_mut(&classify)
    {
        record.injected_at.push(call.endpoint);
        record.cloned_and_injected |= clone_of.is_some_and(|of| record.shown.contains(&of));
    }
    state.nbl_mut(call.nbl).injection_context = call.injection_context;
    Ok((state.accept(call.handle, call.nbl, call.complete, call.context, None, Some(checked)), length))
}

/// A transport-send injection that may go on.
struct CheckedSend {
    send: PendingSend,
    /// Where the parameters are, and what they say.
    args: Option<(usize, FWPS_TRANSPORT_SEND_PARAMS1)>,
    /// Memory that must stay as it is until the completion: address and content.
    watched: Vec<(usize, Vec<u8>)>,
}

/// Injections for one packet that a sender sent, of all products together, before it counts as a loop.
const HOPS: usize = 16;

/// Bytes of the IP header that a packet begins with.
fn ip_header(packet: &[u8]) -> usize {
    match packet.first() {
        Some(first) if first >> 4 == 4 => usize::from(first & 0xf) * 4,
        Some(_) => 40,
        None => 0,
    }
}

/// Checks a transport-send injection.
///
/// # Safety
/// `call.args` is NULL or as the contract wants it.
unsafe fn check_send(
    sim: &Arc<Inner>,
    state: &mut State,
    call: &SendInject,
    packets: &[Vec<u8>],
) -> Result<CheckedSend, NTSTATUS> {
    let invalid = NTSTATUS::FWP_INVALID_PARAMETER;
    let v6 = call.family == ADDRESS_FAMILY::INET6;
    if call.flags != 0 || !matches!(call.family, ADDRESS_FAMILY::INET | ADDRESS_FAMILY::INET6) {
        state.violate(rules::SEND_PARAMETERS, format!("flags {:#x}, family {:?}", call.flags, call.family));
        return Err(invalid);
    }
    if let Some(Reason::Transport { classify, .. }) = current::reason(sim) {
        if state.classifies.get(&classify).is_some_and(|record| !record.asked.contains(&call.handle)) {
            state.violate(
                rules::SAME_HANDLE,
                "an injection through a handle that was not asked about the packet",
            );
        }
        let shown = state.classifies.get(&classify).and_then(|record| record.shown.first()).copied();
        let own = shown
            .and_then(|nbl| state.nbls.get(&nbl))
            .is_some_and(|nbl| nbl.injectors.contains(&call.handle));
        if own {
            state.violate(rules::OWN_INJECTION, "an injection in answer to what the same handle injected");
            return Err(invalid);
        }
    }
    if call.args.is_null() {
        let version = if v6 { 6 } else { 4 };
        if packets.iter().any(|packet| packet.first().is_none_or(|byte| byte >> 4 != version)) {
            state.violate(
                rules::SEND_PARAMETERS,
                "sendArgs is NULL and the NBL does not begin with an IP header",
            );
            return Err(invalid);
        }
        let length = packets.first().map_or(0, |packet| ip_header(packet));
        let header = packets.first().and_then(|packet| packet.get(..length)).unwrap_or_default().to_vec();
        let send = PendingSend { endpoint: call.endpoint, v6, remote: None, control_data: None, header };
        return Ok(CheckedSend { send, args: None, watched: Vec::new() });
    }
    if (stream::FLOW_ENDPOINTS..2 * stream::FLOW_ENDPOINTS).contains(&call.endpoint) {
        state.violate(rules::ENDPOINT_SOURCE, "the endpoint handle of a flow that was established");
        return Err(invalid);
    }
    let Some(endpoint) = state.endpoints.get(&call.endpoint).cloned() else {
        state.violate(
            rules::ENDPOINT,
            format!("endpoint handle {:#x} was never in the metadata", call.endpoint),
        );
        return Err(invalid);
    };
    if endpoint.closed {
        state.violate(rules::ENDPOINT, format!("endpoint {:#x} is closed", call.endpoint));
        return Err(NTSTATUS::FWP_NOT_FOUND);
    }
    if endpoint.injections >= HOPS * endpoint.packets.max(1) {
        let text = format!("{} injections for one list of {}", endpoint.injections, endpoint.packets);
        state.violate(rules::PING_PONG, text);
        return Err(invalid);
    }
    if endpoint.local.is_ipv6() != v6 {
        state.violate(rules::SEND_PARAMETERS, "the address family is not that of the endpoint");
        return Err(invalid);
    }
    if endpoint.protocol == crate::checksum::TCP
        && let Some(Reason::Transport { .. }) = current::reason(sim)
    {
        state.violate(rules::TCP_OUTSIDE, "TCP injected inside a classify of the transport layer");
    }
    // SAFETY: the caller's promise.
    let args = unsafe { call.args.read() };
    if args.remoteAddress.is_null() {
        state.violate(rules::SEND_PARAMETERS, "remoteAddress is NULL");
        return Err(invalid);
    }
    let size = if v6 { 16 } else { 4 };
    // SAFETY: the contract gives it this size for this family.
    let remote = unsafe { std::slice::from_raw_parts(args.remoteAddress, size) }.to_vec();
    let remote_ip = match <[u8; 16]>::try_from(remote.as_slice()) {
        Ok(octets) => IpAddr::from(Ipv6Addr::from(octets)),
        Err(_) => IpAddr::from(Ipv4Addr::new(remote[0], remote[1], remote[2], remote[3])),
    };
    let expected = match endpoint.remote.ip() {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    let reversed: Vec<u8> = expected.iter().rev().copied().collect();
    if remote != expected && remote == reversed {
        state.violate(rules::NETWORK_ORDER, format!("{remote_ip} is the remote address in host order"));
    }
    if state.engine_memory(args.remoteAddress as usize).is_some() {
        state.violate(rules::NETWORK_ORDER, "remoteAddress points into what classifyFn was given");
    }
    let mut watched = vec![(args.remoteAddress as usize, remote)];

    let mut control_data = None;
    if args.controlDataLength > 0 && !args.controlData.is_null() {
        if state.engine_memory(args.controlData as usize).is_some() {
            state.violate(rules::CONTROL_DATA, "controlData points to that of the metadata: copy it");
            return Err(invalid);
        }
        // SAFETY: the contract gives it this length.
        let bytes = unsafe {
            std::slice::from_raw_parts(args.controlData.cast::<u8>(), args.controlDataLength as usize)
        };
        watched.push((args.controlData as usize, bytes.to_vec()));
        control_data = Some(bytes.to_vec());
    } else if args.controlDataLength > 0 || !args.controlData.is_null() {
        state.violate(rules::CONTROL_DATA, "controlData and controlDataLength do not fit each other");
    } else if endpoint.had_control_data {
        state.violate(rules::CONTROL_DATA, "the packet had control data and its injection has none");
    }
    if args.headerIncludeHeaderLength > 0 && !args.headerIncludeHeader.is_null() {
        // SAFETY: the contract gives it this length.
        let bytes = unsafe {
            std::slice::from_raw_parts(args.headerIncludeHeader, args.headerIncludeHeaderLength as usize)
        };
        watched.push((args.headerIncludeHeader as usize, bytes.to_vec()));
    }
    let mut header = Vec::new();
    if let Some((_, bytes)) = watched.iter().find(|(at, _)| *at == args.headerIncludeHeader as usize) {
        header.clone_from(bytes);
    }
    match &endpoint.raw_header {
        Some(raw) if header.len() != raw.len() => {
            let text =
                format!("a raw send of {} bytes of IP header is injected with {}", raw.len(), header.len());
            state.violate(rules::RAW_HEADER, text);
            return Err(invalid);
        }
        None if !header.is_empty() => {
            state.violate(rules::RAW_HEADER, "an IP header for what no raw socket sent");
            return Err(invalid);
        }
        _ => {}
    }
    if args.remoteScopeId.0 != endpoint.scope_id.unwrap_or(0) {
        let text = format!("scope {}, in the metadata {:?}", args.remoteScopeId.0, endpoint.scope_id);
        state.violate(rules::SCOPE, text);
    }
    if call.compartment.0 != endpoint.compartment.unwrap_or(0) {
        let text = format!("compartment {}, in the metadata {:?}", call.compartment.0, endpoint.compartment);
        state.violate(rules::COMPARTMENT, text);
    }
    let remote = Some(remote_ip);
    let send = PendingSend { endpoint: call.endpoint, v6, remote, control_data, header };
    Ok(CheckedSend { send, args: Some((call.args as usize, args)), watched })
}

//! The outbound transport layers: sublayers arbitrate about each list, what they permit goes to the wire.

use std::net::{IpAddr, SocketAddr};
use std::ptr::null_mut;
use std::sync::Arc;

use fwps_sys::*;

use crate::buffers::Shape;
use crate::checksum;
use crate::config::Split;
use crate::current::Reason;
use crate::engine::{self, complete, values};
use crate::packet::{Checksum, Packet, SendOutcome, Sent};
use crate::rules;
use crate::state::{Classify, Endpoint, Inner, Region, State};
use crate::trace::Event;

/// A list on its way to the wire.
struct List {
    nbl: *mut NET_BUFFER_LIST,
    /// Names it in the trace.
    number: u64,
    endpoint_handle: Option<u64>,
    endpoint: Endpoint,
    control_data: Option<Vec<u8>>,
    ip_header: usize,
    injected: bool,
    self_injected_by: Vec<usize>,
}

/// Sends what the stack sends.
pub(crate) fn send(sim: &Arc<Inner>, packet: &Packet) -> u64 {
    let mut state = sim.lock();
    let id = state.fresh();
    let endpoint = Endpoint {
        protocol: packet.protocol,
        local: packet.local,
        remote: packet.remote,
        compartment: packet.compartment,
        scope_id: packet.scope_id,
        had_control_data: packet.control_data.is_some(),
        loopback: packet.loopback,
        flow: packet.flow.map(|flow| flow.0),
        absorbed: 0,
        refused: false,
        closed: false,
    };
    let handle = packet.endpoint.then(|| {
        let handle = 0xe000_0000 + state.fresh();
        state.endpoints.insert(handle, endpoint.clone());
        state.senders.insert(id, handle);
        handle
    });
    let header = packet.raw_ip_header.as_deref().unwrap_or(&[]);
    let buffers: Vec<Vec<u8>> =
        packet.buffers.iter().map(|buffer| with_checksum(packet, header, buffer)).collect();
    let random = state.config.split == Split::Random;
    let shapes: Vec<Shape<'_>> = buffers
        .iter()
        .map(|data| {
            // Room for the headers below, as the stack leaves it.
            let before = if random { state.rng.below(64) } else { 0 };
            Shape { before, data, after: if random { state.rng.below(9) } else { 0 } }
        })
        .collect();
    let nbl = state.new_original(Arc::as_ptr(sim), &shapes);
    // SAFETY: just made.
    unsafe { set_offload(nbl, packet) }
    drop(state);

    let list = List {
        nbl,
        number: id,
        endpoint_handle: handle,
        endpoint,
        control_data: packet.control_data.clone(),
        ip_header: header.len(),
        injected: false,
        self_injected_by: Vec::new(),
    };
    let outcome = classify_list(sim, &list);
    let mut state = sim.lock();
    state.outcomes.insert(id, outcome);
    match outcome {
        SendOutcome::Permitted => state.wire(&list, packet.remote.ip(), NTSTATUS::SUCCESS),
        SendOutcome::Absorbed => {
            if let Some(endpoint) = handle.and_then(|handle| state.endpoints.get_mut(&handle)) {
                endpoint.absorbed += 1;
            }
        }
        SendOutcome::Blocked => {}
    }
    state.release(nbl);
    id
}

fn with_checksum(packet: &Packet, header: &[u8], buffer: &[u8]) -> Vec<u8> {
    let (local, remote) = (packet.local.ip(), packet.remote.ip());
    let mut bytes = buffer.to_vec();
    checksum::put(packet.protocol, &mut bytes, 0);
    let value = match packet.checksum {
        Checksum::Full => checksum::full(local, remote, packet.protocol, &bytes),
        Checksum::Offloaded => Some(checksum::pseudo(local, remote, packet.protocol, bytes.len())),
        Checksum::Zero => Some(0),
    };
    if let Some(value) = value {
        checksum::put(packet.protocol, &mut bytes, value);
    }
    [header, &bytes].concat()
}

/// # Safety
/// The NBL was just made.
unsafe fn set_offload(nbl: *mut NET_BUFFER_LIST, packet: &Packet) {
    let v6 = packet.local.is_ipv6();
    if packet.checksum == Checksum::Offloaded {
        let mut bits = if v6 { TRANSMIT_CHECKSUM::IsIPv6 } else { TRANSMIT_CHECKSUM::IsIPv4 };
        match packet.protocol {
            checksum::TCP => bits |= TRANSMIT_CHECKSUM::TcpChecksum,
            checksum::UDP => bits |= TRANSMIT_CHECKSUM::UdpChecksum,
            _ => {}
        }
        let value = std::ptr::without_provenance_mut(bits.0 as usize);
        // SAFETY: the caller's promise.
        unsafe { NET_BUFFER_LIST::set_info(nbl, NET_BUFFER_LIST_INFO::TcpIpChecksum, value) }
    }
    if packet.segment != 0 {
        let slot = match packet.protocol {
            checksum::TCP => NET_BUFFER_LIST_INFO::TcpLargeSend,
            _ => NET_BUFFER_LIST_INFO::UdpSegmentationOffload,
        };
        let value = std::ptr::without_provenance_mut(packet.segment as usize & 0xf_ffff);
        // SAFETY: the caller's promise.
        unsafe { NET_BUFFER_LIST::set_info(nbl, slot, value) }
    }
}

/// Classifies and sends every injected list that waits for it, in the order of injection.
pub(crate) fn transmit_all(sim: &Arc<Inner>) {
    loop {
        let next = sim
            .lock()
            .injections
            .iter()
            .find(|injection| injection.send.is_some() && !injection.sending)
            .map(|injection| injection.id);
        match next {
            Some(id) => transmit(sim, id),
            None => return,
        }
    }
}

/// Classifies and sends one injected list; its completion may come afterwards.
pub(crate) fn transmit(sim: &Arc<Inner>, id: u64) {
    let mut state = sim.lock();
    let Some(injection) = state.injections.iter_mut().find(|injection| injection.id == id) else { return };
    let Some(send) = injection.send.clone().filter(|_| !injection.sending) else { return };
    injection.sending = true;
    let nbl = injection.nbl as *mut NET_BUFFER_LIST;
    let unknown = || {
        let any = if send.v6 { IpAddr::from([0_u16; 8]) } else { IpAddr::from([0_u8; 4]) };
        let any = SocketAddr::new(any, 0);
        Endpoint {
            protocol: 255,
            local: any,
            remote: any,
            compartment: None,
            scope_id: None,
            had_control_data: false,
            loopback: false,
            flow: None,
            absorbed: 0,
            refused: false,
            closed: false,
        }
    };
    let known = state.endpoints.get(&send.endpoint).cloned();
    let endpoint_handle = known.is_some().then_some(send.endpoint);
    let mut endpoint = known.unwrap_or_else(unknown);
    if let Some(remote) = send.remote {
        endpoint.remote.set_ip(remote);
    }
    let remote = endpoint.remote.ip();
    let self_injected_by = state.nbl_mut(nbl).injectors.clone();
    state.nbl_mut(nbl).holds += 1;
    drop(state);
    let list = List {
        nbl,
        number: id,
        endpoint_handle,
        endpoint,
        control_data: send.control_data,
        ip_header: 0,
        injected: true,
        self_injected_by,
    };
    let outcome = classify_list(sim, &list);
    let mut state = sim.lock();
    if outcome == SendOutcome::Permitted {
        state.wire(&list, remote, NTSTATUS::SUCCESS);
    }
    if let Some(injection) = state.injections.iter_mut().find(|injection| injection.id == id) {
        if outcome != SendOutcome::Permitted {
            injection.status = NTSTATUS::DATA_NOT_ACCEPTED;
        }
        injection.send = None;
        injection.sending = false;
    }
    state.release(nbl);
}

/// Asks every sublayer, from the heaviest down.
fn classify_list(sim: &Arc<Inner>, list: &List) -> SendOutcome {
    let layer = if list.endpoint.local.is_ipv6() {
        layer::OUTBOUND_TRANSPORT_V6
    } else {
        layer::OUTBOUND_TRANSPORT_V4
    };
    let filters: Vec<(FWPS_FILTER1, Option<FWPS_CALLOUT1>, u32)> = {
        let state = sim.lock();
        let at_layer = state.filters.iter().filter(|filter| filter.layer == layer);
        at_layer
            .map(|filter| match state.callout_by_key(&filter.callout) {
                Some(callout) => (filter.fwps(callout.id), Some(callout.callout), callout.id),
                None => (filter.fwps(0), None, 0),
            })
            .collect()
    };
    let mut decision = FWP_ACTION::CONTINUE;
    let mut rights = FWPS_RIGHT::ACTION_WRITE;
    let mut absorbed = false;
    let mut decided_in = None;
    for (filter, callout, id) in filters {
        if decided_in == Some(filter.subLayerWeight) {
            continue;
        }
        let inspects = filter.action.r#type == FWP_ACTION::CALLOUT_INSPECTION;
        let Some(callout) = callout else {
            if !inspects && !filter.flags.has(FWPS_FILTER_FLAG::PERMIT_IF_CALLOUT_UNREGISTERED) {
                (decision, rights) = (FWP_ACTION::BLOCK, FWPS_RIGHT::NONE);
                decided_in = Some(filter.subLayerWeight);
            }
            continue;
        };
        let writable = rights.has(FWPS_RIGHT::ACTION_WRITE);
        let entry = if writable { FWP_ACTION::CONTINUE } else { decision };
        let out = ask(sim, list, layer, &filter, &callout, id, entry, rights);
        sim.lock().log(Event::Send {
            packet: list.number,
            callout: id,
            action: out.actionType,
            absorbed: out.flags.has(FWPS_CLASSIFY_OUT_FLAG::ABSORB),
        });
        if inspects {
            continue;
        }
        let opinion = matches!(out.actionType, FWP_ACTION::PERMIT | FWP_ACTION::BLOCK);
        if filter.action.r#type == FWP_ACTION::CALLOUT_TERMINATING && !opinion {
            let text = format!("callout {id} of a terminating filter says {:?}", out.actionType);
            sim.lock().violate(rules::TERMINATING, text);
        }
        if opinion {
            decided_in = Some(filter.subLayerWeight);
            if writable || (decision == FWP_ACTION::PERMIT && out.actionType == FWP_ACTION::BLOCK) {
                decision = out.actionType;
                rights = out.rights & FWPS_RIGHT::ACTION_WRITE;
                absorbed = decision == FWP_ACTION::BLOCK && out.flags.has(FWPS_CLASSIFY_OUT_FLAG::ABSORB);
            }
        }
    }
    if !list.injected {
        complete::pump_sends(sim);
    }
    match decision {
        FWP_ACTION::BLOCK if absorbed => SendOutcome::Absorbed,
        FWP_ACTION::BLOCK => SendOutcome::Blocked,
        _ => SendOutcome::Permitted,
    }
}

/// Calls one callout and checks what it did.
#[expect(clippy::too_many_arguments, reason = "one classify has this many sides, and one caller")]
fn ask(
    sim: &Arc<Inner>,
    list: &List,
    layer: u16,
    filter: &FWPS_FILTER1,
    callout: &FWPS_CALLOUT1,
    id: u32,
    entry: FWP_ACTION,
    rights: FWPS_RIGHT,
) -> FWPS_CLASSIFY_OUT0 {
    let endpoint = &list.endpoint;
    let mut state = sim.lock();
    let classify = state.fresh();
    let record = Classify { shown: vec![list.nbl as usize], ..Classify::default() };
    state.classifies.insert(classify, record);
    if let Some(entry) = state.callouts.iter_mut().find(|entry| entry.id == id) {
        entry.running += 1;
    }
    let control = list.control_data.as_deref().map(|bytes| state.lend(bytes));
    let context = endpoint.flow.and_then(|flow| state.flows.get(&flow)?.contexts.get(&(id, layer)).copied());
    drop(state);

    let mut storage = values::Addresses::new(endpoint.local, endpoint.remote);
    let mut fixed = values::outbound_transport(
        endpoint.protocol,
        endpoint.local,
        endpoint.remote,
        endpoint.loopback,
        endpoint.compartment.unwrap_or(1),
        &mut storage,
    );
    let mut metadata = values::no_metadata();
    let mut fields = FWPS_METADATA_FIELD::SYSTEM_FLAGS | FWPS_METADATA_FIELD::TRANSPORT_HEADER_SIZE;
    metadata.flags = FWPS_INCOMING_FLAG::NONE;
    metadata.transportHeaderSize = match endpoint.protocol {
        checksum::TCP => 20,
        _ => 8,
    };
    if let Some(handle) = list.endpoint_handle {
        fields |= FWPS_METADATA_FIELD::TRANSPORT_ENDPOINT_HANDLE;
        metadata.transportEndpointHandle = handle;
    }
    if let Some(compartment) = endpoint.compartment {
        fields |= FWPS_METADATA_FIELD::COMPARTMENT_ID;
        metadata.compartmentId = COMPARTMENT_ID(compartment);
    }
    if let Some(scope) = endpoint.scope_id {
        fields |= FWPS_METADATA_FIELD::REMOTE_SCOPE_ID;
        metadata.remoteScopeId = SCOPE_ID(scope);
    }
    if let (Some(base), Some(bytes)) = (control, &list.control_data) {
        fields |= FWPS_METADATA_FIELD::TRANSPORT_CONTROL_DATA;
        metadata.controlData = base as *mut _;
        metadata.controlDataLength = bytes.len() as u32;
    }
    if let Some(flow) = endpoint.flow {
        fields |= FWPS_METADATA_FIELD::FLOW_HANDLE;
        metadata.flowHandle = flow;
    }
    if list.ip_header > 0 {
        fields |= FWPS_METADATA_FIELD::IP_HEADER_SIZE;
        metadata.ipHeaderSize = list.ip_header as u32;
    }
    metadata.currentMetadataValues = fields;
    let mut out = FWPS_CLASSIFY_OUT0 {
        actionType: entry,
        outContext: classify,
        filterId: filter.filterId,
        rights,
        flags: FWPS_CLASSIFY_OUT_FLAG::NONE,
        reserved: 0,
    };
    let call = engine::Call {
        callout,
        layer,
        values: &mut fixed,
        metadata: &metadata,
        layer_data: list.nbl.cast(),
        filter,
        flow_context: context.unwrap_or(0),
    };
    let reason = Reason::Transport { classify, callout: id, tcp: endpoint.protocol == checksum::TCP };
    engine::classify(sim, reason, call, &mut out);

    let mut state = sim.lock();
    if let Some(entry) = state.callouts.iter_mut().find(|entry| entry.id == id) {
        entry.running -= 1;
    }
    let record = state.classifies.remove(&classify).expect("inserted above");
    if (out.outContext, out.filterId, out.reserved) != (classify, filter.filterId, 0) {
        state.violate(rules::READ_ONLY_OUT, "classifyOut's system members were written");
    }
    if let Some(base) = control {
        state.check_untouched(base);
        state.take_back(base);
    }
    state.check_original(list.nbl);
    state.check_arbitration(list, filter, &record, entry, rights, &out);
    out
}

impl State {
    /// Lends bytes to a callout for one classify.
    fn lend(&mut self, bytes: &[u8]) -> usize {
        let bytes: Box<[u8]> = bytes.into();
        let base = bytes.as_ptr() as usize;
        let pristine = bytes.clone();
        self.regions.insert(base, Region { bytes, pristine, live: true });
        base
    }

    fn check_arbitration(
        &mut self,
        list: &List,
        filter: &FWPS_FILTER1,
        record: &Classify,
        entry: FWP_ACTION,
        rights: FWPS_RIGHT,
        out: &FWPS_CLASSIFY_OUT0,
    ) {
        let replaced = list.endpoint_handle.is_some_and(|handle| record.injected_at.contains(&handle));
        let absorbs = out.flags.has(FWPS_CLASSIFY_OUT_FLAG::ABSORB);
        let keeps_right = out.rights.has(FWPS_RIGHT::ACTION_WRITE);
        let block = out.actionType == FWP_ACTION::BLOCK;
        if !list.self_injected_by.is_empty() && record.known_as_own && (block || replaced) {
            self.violate(rules::OWN_INJECTION, "a callout does not permit what it knows to be its own");
        }
        if !rights.has(FWPS_RIGHT::ACTION_WRITE) {
            let veto = entry == FWP_ACTION::PERMIT && block;
            if (out.actionType != entry && !veto) || keeps_right {
                self.violate(rules::RIGHTS, format!("{entry:?} became {:?}", out.actionType));
            }
            if replaced || record.modified {
                self.violate(rules::RIGHTS, "a packet was taken over without the right to write");
            }
            return;
        }
        if record.modified && !(block && absorbs && !keeps_right) {
            self.violate(rules::MODIFY_ABSORBS, format!("{:?}, absorbed: {absorbs}", out.actionType));
        }
        match out.actionType {
            FWP_ACTION::BLOCK => {
                if keeps_right {
                    self.violate(rules::BLOCK_CLEARS, "BLOCK, and the right to write is still set");
                }
                if replaced && !absorbs {
                    self.violate(rules::ABSORB_AND_INJECT, "the packet was replaced and dropped loudly");
                }
            }
            FWP_ACTION::PERMIT => {
                let hard = filter.flags.has(FWPS_FILTER_FLAG::CLEAR_ACTION_RIGHT);
                if keeps_right == hard {
                    self.violate(
                        rules::PERMIT_CLEARS,
                        format!("hard filter: {hard}, right kept: {keeps_right}"),
                    );
                }
                if record.cloned_and_injected {
                    self.violate(
                        rules::ABSORB_AND_INJECT,
                        "a clone was injected and the original permitted too",
                    );
                }
            }
            _ => {}
        }
    }

    /// Puts every packet of a list on the wire.
    fn wire(&mut self, list: &List, remote: IpAddr, status: NTSTATUS) {
        let local = list.endpoint.local.ip();
        let protocol = list.endpoint.protocol;
        // SAFETY: the list is held by the caller.
        let (bits, mss) = unsafe {
            let slot = if protocol == checksum::TCP {
                NET_BUFFER_LIST_INFO::TcpLargeSend
            } else {
                NET_BUFFER_LIST_INFO::UdpSegmentationOffload
            };
            (
                NET_BUFFER_LIST::transmit_checksum(list.nbl),
                segmentation_mss(NET_BUFFER_LIST::info(list.nbl, slot)),
            )
        };
        // SAFETY: as above.
        let Some(packets) = (unsafe { self.packets(list.nbl) }) else { return };
        for packet in packets {
            let mut bytes = packet.get(list.ip_header..).unwrap_or_default().to_vec();
            self.finish_checksum(list.injected, local, remote, protocol, bits, mss, &mut bytes);
            self.log(Event::Wire { length: bytes.len(), injected: list.injected });
            self.sent.push(Sent {
                local,
                remote,
                protocol,
                checksum_ok: checksum::right(local, remote, protocol, &bytes),
                bytes,
                injected: list.injected,
                origin: (!list.injected).then_some(crate::packet::SendId(list.number)),
                control_data: list.control_data.clone(),
                status,
            });
        }
    }

    /// What the hardware does to a packet, and what it expects of an injected one.
    #[expect(clippy::too_many_arguments, reason = "a checksum is about this much, and there is one caller")]
    fn finish_checksum(
        &mut self,
        injected: bool,
        local: IpAddr,
        remote: IpAddr,
        protocol: u8,
        bits: TRANSMIT_CHECKSUM,
        mss: u32,
        bytes: &mut [u8],
    ) {
        let Some(field) = checksum::get(protocol, bytes) else { return };
        let offloaded = match protocol {
            checksum::TCP => bits.has(TRANSMIT_CHECKSUM::TcpChecksum),
            checksum::UDP => bits.has(TRANSMIT_CHECKSUM::UdpChecksum),
            _ => false,
        };
        if injected && protocol == checksum::UDP && mss == 0 {
            let says = usize::from(u16::from_be_bytes([bytes[4], bytes[5]]));
            if says != bytes.len() {
                self.violate(
                    rules::FULL_SUM,
                    format!("UDP says {says} bytes, the packet has {}", bytes.len()),
                );
            }
        }
        if offloaded || mss != 0 {
            let expected = checksum::pseudo(local, remote, protocol, bytes.len());
            if injected && mss == 0 && field != expected {
                let text = format!("the field has {field:#06x}, the pseudo-header {expected:#06x}");
                self.violate(rules::PARTIAL_SUM, text);
            }
            if let Some(full) = checksum::full(local, remote, protocol, bytes) {
                checksum::put(protocol, bytes, full);
            }
        } else if injected {
            if protocol == checksum::UDP && local.is_ipv6() && field == 0 {
                self.violate(rules::UDP6_ZERO, "an injected UDP packet over IPv6 without checksum");
            } else if !checksum::right(local, remote, protocol, bytes) {
                let full = checksum::full(local, remote, protocol, bytes).unwrap_or(0);
                self.violate(rules::FULL_SUM, format!("the field has {field:#06x}, right is {full:#06x}"));
            }
        }
    }
}

/// Moves the start of an NB. Negative `delta` advances. False when there is no room.
///
/// # Safety
/// `nb` is live.
pub(crate) unsafe fn shift(nb: *mut NET_BUFFER, delta: i64) -> bool {
    // SAFETY: the caller's promise; the chain is the NB's own.
    unsafe {
        let offset = i64::from((*nb).DataOffset) - delta;
        let length = i64::from((*nb).DataLength) + delta;
        if offset < 0 || length < 0 {
            return false;
        }
        let Some(place) = crate::buffers::seek((*nb).MdlChain, offset as usize) else { return false };
        (*nb).DataOffset = offset as u32;
        (*nb).DataLength = length as u32;
        (*nb).CurrentMdl = if length == 0 && place.mdl.is_null() { null_mut() } else { place.mdl };
        (*nb).CurrentMdlOffset = place.offset;
        true
    }
}

//! The layers of what is sent: sublayers arbitrate about each list at one layer after the other, and what they permit goes to
//! the wire. Datagrams are shown at the datagram-data layers first, errors of the stack at the ICMP error layers.

use std::net::{IpAddr, SocketAddr};
use std::ptr::null_mut;
use std::sync::Arc;

use fwps_sys::*;

use crate::buffers::Shape;
use crate::checksum;
use crate::config::Split;
use crate::current::Reason;
use crate::engine::{self, complete, stream, values};
use crate::packet::{Checksum, Packet, SendOutcome, Sent};
use crate::rules::{self, Rule};
use crate::state::{Classify, Endpoint, Inner, NblKind, Region, State};
use crate::trace::Event;

/// A list on its way to the wire.
struct List {
    nbl: *mut NET_BUFFER_LIST,
    /// Names it in the trace.
    number: u64,
    endpoint_handle: Option<u64>,
    endpoint: Endpoint,
    control_data: Option<Vec<u8>>,
    /// The IP header of a raw send.
    header: Vec<u8>,
    /// It lies in front of the transport header, in the packet itself.
    header_inside: bool,
    injected: bool,
    self_injected_by: Vec<usize>,
}

impl Endpoint {
    /// The layers that a list passes, in order.
    fn layers(&self) -> Vec<u16> {
        use layer::*;
        let v6 = self.local.is_ipv6();
        let pick = |v4, other| if v6 { other } else { v4 };
        let transport = pick(OUTBOUND_TRANSPORT_V4, OUTBOUND_TRANSPORT_V6);
        if self.icmp_error {
            vec![pick(OUTBOUND_ICMP_ERROR_V4, OUTBOUND_ICMP_ERROR_V6), transport]
        } else if self.protocol == checksum::TCP {
            vec![transport]
        } else {
            vec![pick(DATAGRAM_DATA_V4, DATAGRAM_DATA_V6), transport]
        }
    }
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
        icmp_error: packet.icmp_error,
        raw_header: packet.raw_ip_header.clone(),
        segment: packet.segment,
        packets: packet.buffers.len(),
        injections: 0,
        busy: true,
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
        header: header.to_vec(),
        header_inside: true,
        injected: false,
        self_injected_by: Vec::new(),
    };
    let outcome = classify_list(sim, &list);
    let mut state = sim.lock();
    state.outcomes.insert(id, outcome);
    if let Some(endpoint) = handle.and_then(|handle| state.endpoints.get_mut(&handle)) {
        endpoint.busy = false;
    }
    match outcome {
        SendOutcome::Permitted => drop(state.wire(&list, packet.remote.ip())),
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
            icmp_error: false,
            raw_header: None,
            segment: 0,
            packets: 1,
            injections: 0,
            busy: false,
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
        header_inside: send.remote.is_none(),
        header: send.header,
        injected: true,
        self_injected_by,
    };
    let outcome = classify_list(sim, &list);
    let mut state = sim.lock();
    let status = match outcome {
        SendOutcome::Permitted => state.wire(&list, remote),
        _ => NTSTATUS::DATA_NOT_ACCEPTED,
    };
    if let Some(injection) = state.injections.iter_mut().find(|injection| injection.id == id) {
        injection.status = status;
        injection.send = None;
        injection.sending = false;
    }
    state.release(nbl);
}

/// Asks at every layer, until one does not permit the list.
fn classify_list(sim: &Arc<Inner>, list: &List) -> SendOutcome {
    let layers = list.endpoint.layers();
    let mut outcomes = layers.into_iter().map(|layer| classify_at(sim, list, layer));
    let outcome = outcomes.find(|outcome| *outcome != SendOutcome::Permitted);
    if !list.injected {
        complete::pump_sends(sim);
    }
    outcome.unwrap_or(SendOutcome::Permitted)
}

/// Asks every sublayer of a layer, from the heaviest down.
fn classify_at(sim: &Arc<Inner>, list: &List, layer: u16) -> SendOutcome {
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
        if callout.is_some_and(|callout| callout.flags.has(FWP_CALLOUT_FLAG::CONDITIONAL_ON_FLOW))
            && sim.lock().context(list.endpoint.flow, id, layer).is_none()
        {
            continue;
        }
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
        if !list.injected {
            change_payload(sim, list);
        }
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
    state.running(id, 1);
    let control = list.control_data.as_deref().map(|bytes| state.lend(bytes));
    let context = state.context(endpoint.flow, id, layer);
    if let Some(flow) = endpoint.flow {
        state.enter_flow(flow, id);
    }
    let zero_header_size = state.config.zero_header_size;
    drop(state);

    let icmp_error = matches!(layer, layer::OUTBOUND_ICMP_ERROR_V4 | layer::OUTBOUND_ICMP_ERROR_V6);
    let datagram = matches!(layer, layer::DATAGRAM_DATA_V4 | layer::DATAGRAM_DATA_V6);
    // At the datagram-data layers the header of a raw send is beside the packet, not in it.
    let inside = if datagram && list.header_inside { list.header.len() as i64 } else { 0 };
    move_starts(list.nbl, -inside);

    let mut storage = values::Addresses::new(endpoint.local, endpoint.remote);
    let (protocol, local, remote) = (endpoint.protocol, endpoint.local, endpoint.remote);
    let (loopback, compartment) = (endpoint.loopback, endpoint.compartment.unwrap_or(1));
    let storage = &mut storage;
    let mut fixed = if icmp_error {
        values::outbound_icmp_error(local, remote, loopback, compartment, storage).to_vec()
    } else if datagram {
        values::datagram_data(protocol, local, remote, loopback, compartment, storage).to_vec()
    } else {
        values::outbound_transport(protocol, local, remote, loopback, compartment, storage).to_vec()
    };
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
    if let Some(flow) = endpoint.flow.filter(|_| !icmp_error) {
        fields |= FWPS_METADATA_FIELD::FLOW_HANDLE;
        metadata.flowHandle = flow;
    }
    let header = &list.header;
    let says_header = !header.is_empty() && (datagram || list.header_inside);
    if says_header || (zero_header_size && !icmp_error) {
        fields |= FWPS_METADATA_FIELD::IP_HEADER_SIZE;
        metadata.ipHeaderSize = header.len() as u32;
    }
    let aside = (datagram && says_header).then(|| sim.lock().lend(header));
    if let Some(base) = aside {
        fields |= FWPS_METADATA_FIELD::TRANSPORT_HEADER_INCLUDE_HEADER;
        metadata.headerIncludeHeader = base as *mut _;
        metadata.headerIncludeHeaderLength = header.len() as u32;
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
    move_starts(list.nbl, inside);
    if let Some(flow) = endpoint.flow {
        stream::leave_flow(sim, flow, id);
    }

    let mut state = sim.lock();
    state.running(id, -1);
    let record = state.classifies.remove(&classify).expect("inserted above");
    if (out.outContext, out.filterId, out.reserved) != (classify, filter.filterId, 0) {
        state.violate(rules::READ_ONLY_OUT, "classifyOut's system members were written");
    }
    for base in [control, aside].into_iter().flatten() {
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

    /// The context of a callout for a flow.
    fn context(&self, flow: Option<u64>, callout: u32, layer: u16) -> Option<u64> {
        self.flows.get(&flow?)?.contexts.get(&(callout, layer)).copied()
    }

    /// Puts every packet of a list on the wire; gives back what its completion reports.
    fn wire(&mut self, list: &List, remote: IpAddr) -> NTSTATUS {
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
        let Some(packets) = (unsafe { self.packets(list.nbl) }) else { return NTSTATUS::UNSUCCESSFUL };
        let skip = if list.header_inside { list.header.len() } else { 0 };
        let mut status = NTSTATUS::SUCCESS;
        // What a sender changes while it shares it is not what was summed up, and that is nobody's mistake but its own.
        // SAFETY: as above.
        let changing = self.config.sender_changes && unsafe { self.shares(list.nbl) };
        let wrong_sum = match self.nbl_mut(list.nbl).kind {
            _ if changing => None,
            NblKind::Clone { .. } => Some(rules::CLONE_SUM),
            _ => Some(rules::FULL_SUM),
        };
        for packet in packets {
            let mut bytes = packet.get(skip..).unwrap_or_default().to_vec();
            let cut = list.endpoint.segment as usize;
            if list.injected && mss == 0 && cut != 0 && bytes.len() > cut + checksum::header(protocol) {
                let text = format!("{} bytes that hardware would have cut into {cut}", bytes.len());
                self.violate(rules::SEGMENTATION, text);
            }
            if list.injected && mss == 0 && bytes.len() > self.config.mtu {
                status = NTSTATUS::INVALID_BUFFER_SIZE;
                continue;
            }
            self.finish_checksum(list.injected, wrong_sum, local, remote, protocol, bits, mss, &mut bytes);
            self.log(Event::Wire { length: bytes.len(), injected: list.injected });
            self.sent.push(Sent {
                local,
                remote,
                protocol,
                header: list.header.clone(),
                checksum_ok: checksum::right(local, remote, protocol, &bytes),
                bytes,
                injected: list.injected,
                origin: (!list.injected).then_some(crate::packet::SendId(list.number)),
                control_data: list.control_data.clone(),
            });
        }
        status
    }

    /// Whether an injected list has bytes in memory of the engine's own.
    ///
    /// # Safety
    /// `nbl` is live.
    unsafe fn shares(&mut self, nbl: *mut NET_BUFFER_LIST) -> bool {
        self.nbl_mut(nbl).nbs.clone().into_iter().any(|nb| {
            // SAFETY: an NB of a live NBL.
            let pieces = unsafe { self.pieces(nb as *mut NET_BUFFER, 0, usize::MAX) }.unwrap_or_default();
            pieces.iter().any(|piece| self.engine_memory(piece.address).is_some())
        })
    }

    /// What the hardware does to a packet, and what it expects of an injected one.
    #[expect(clippy::too_many_arguments, reason = "a checksum is about this much, and there is one caller")]
    fn finish_checksum(
        &mut self,
        injected: bool,
        wrong_sum: Option<Rule>,
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
                if let Some(rule) = wrong_sum {
                    self.violate(rule, format!("the field has {field:#06x}, right is {full:#06x}"));
                }
            }
        }
    }
}

/// The sender changes its payload behind a classify, if it is one that does.
fn change_payload(sim: &Arc<Inner>, list: &List) {
    let mut state = sim.lock();
    if !state.config.sender_changes || state.nbl_mut(list.nbl).region.is_none() {
        return;
    }
    let skip = list.header.len() + checksum::header(list.endpoint.protocol);
    for nb in state.nbl_mut(list.nbl).nbs.clone() {
        // SAFETY: an NB of a live NBL of the engine's own, whose bytes are the engine's to change.
        unsafe {
            for piece in state.pieces(nb as *mut NET_BUFFER, skip, usize::MAX).unwrap_or_default() {
                for at in piece.address..piece.address + piece.length {
                    let byte = at as *mut u8;
                    byte.write(byte.read().wrapping_add(1));
                }
            }
        }
    }
    let region = state.nbl_mut(list.nbl).region;
    if let Some(region) = region.and_then(|base| state.regions.get_mut(&base)) {
        region.pristine = region.bytes.clone();
    }
}

/// Moves the starts of all NBs of a list that the engine owns, or moves them back.
fn move_starts(nbl: *mut NET_BUFFER_LIST, delta: i64) {
    if delta == 0 {
        return;
    }
    // SAFETY: the caller holds the NBL, and its NBs with it.
    unsafe {
        let mut nb = NET_BUFFER_LIST::first_nb(nbl);
        while !nb.is_null() {
            shift(nb, delta);
            nb = (*nb).Next;
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

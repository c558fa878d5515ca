//! The callbacks that the filter engine calls.

use core::ffi::c_void;
use core::mem::ManuallyDrop;
use core::ptr::NonNull;

use fwps_sys::{
    FWP_ACTION, FWPS_CALLOUT_NOTIFY_TYPE, FWPS_CLASSIFY_OUT0, FWPS_FILTER1, FWPS_INCOMING_METADATA_VALUES0,
    FWPS_INCOMING_VALUES0, FWPS_RIGHT, FWPS_STREAM_CALLOUT_IO_PACKET0, GUID, NET_BUFFER_LIST, NTSTATUS,
};
use tidegate_abi::ProgramType;

use crate::engine::{Dispatch, Engine};
use crate::flow::Flow;
use crate::held;
use crate::instances;
use crate::layer::{Given, Incoming};
use crate::outcome::{SendOutcome, StreamOutcome};
use crate::packet::{Indicated, Packets};
use crate::send;
use crate::shared::Shared;
use crate::stream::{self, Indication};

/// classifyFn of every layer. IRQL <= DISPATCH_LEVEL, any thread, several at once.
///
/// # Safety
/// The filter engine calls it, for a filter that [`notify`] accepted.
pub(crate) unsafe extern "system" fn classify(
    values: *const FWPS_INCOMING_VALUES0,
    meta: *const FWPS_INCOMING_METADATA_VALUES0,
    layer_data: *mut c_void,
    _classify_context: *const c_void,
    filter: *const FWPS_FILTER1,
    flow_context: u64,
    out: *mut FWPS_CLASSIFY_OUT0,
) {
    // SAFETY: what the engine passes lives as long as the call, and only `out` is ours to write.
    let given = unsafe { (values.as_ref(), meta.as_ref(), filter.as_ref(), out.as_mut()) };
    let (Some(values), Some(meta), Some(filter), Some(out)) = given else { return };
    // SAFETY: both are what this classify was given.
    let Some(incoming) = Incoming::new(unsafe { Given::new(values, meta) }) else { return };
    // SAFETY: `notify` put the instance there; the flow context is ours.
    let (engine, flow) = unsafe { (engine_of(filter), Flow::of_context(flow_context)) };
    let engine = engine.as_deref();
    match incoming.layer.hook.program_type() {
        // SAFETY: at the stream layers this is what `layer_data` is.
        ProgramType::Stream => unsafe {
            classify_stream(engine, &incoming, flow.as_deref(), layer_data.cast(), filter, out);
        },
        // SAFETY: at the transport layers this is what `layer_data` is.
        ProgramType::Send => unsafe { classify_send(engine, &incoming, layer_data.cast(), filter, out) },
    }
}

/// The instance that a filter leads to. The reference stays the instance's own.
///
/// # Safety
/// [`notify`] accepted the filter. An instance outlives its callouts.
pub(crate) unsafe fn engine_of(filter: &FWPS_FILTER1) -> Option<ManuallyDrop<Shared<Engine>>> {
    let engine = NonNull::new(core::ptr::with_exposed_provenance_mut::<Engine>(filter.context as usize))?;
    // SAFETY: the caller's promise.
    Some(ManuallyDrop::new(unsafe { Shared::from_raw(engine) }))
}

/// # Safety
/// `packet` is NULL or what classify was given at a stream layer.
unsafe fn classify_stream(
    engine: Option<&Shared<Engine>>,
    incoming: &Incoming<'_>,
    flow: Option<&Shared<Flow>>,
    packet: *mut FWPS_STREAM_CALLOUT_IO_PACKET0,
    filter: &FWPS_FILTER1,
    out: &mut FWPS_CLASSIFY_OUT0,
) {
    // SAFETY: the caller's promise; the packet is ours to write during this call, its data is not.
    let packet = unsafe { packet.as_mut() };
    let Some(packet) = packet else {
        out.actionType = FWP_ACTION::PERMIT;
        return;
    };
    // SAFETY: it lives as long as the call.
    let outcome = match (engine, unsafe { packet.streamData.as_ref() }) {
        (Some(engine), Some(data)) => {
            let _dispatch = Dispatch::raise(&engine.platform);
            let indication = Indication {
                incoming,
                // SAFETY: the data is what this classify was given, and nothing made of it outlives it.
                data: unsafe { Indicated::new(data) },
                missed: packet.missedBytes,
                callout: filter.action.calloutId,
                flags: out.flags,
            };
            stream::classify(engine, &indication, flow)
        }
        (_, data) => StreamOutcome::Permit(data.map_or(0, |data| data.dataLength)),
    };
    outcome.write(packet, out);
}

/// # Safety
/// `nbl` is NULL or what classify was given at a transport layer.
unsafe fn classify_send(
    engine: Option<&Shared<Engine>>,
    incoming: &Incoming<'_>,
    nbl: *mut NET_BUFFER_LIST,
    filter: &FWPS_FILTER1,
    out: &mut FWPS_CLASSIFY_OUT0,
) {
    let may_write = out.rights.has(FWPS_RIGHT::ACTION_WRITE);
    if !may_write && out.actionType == FWP_ACTION::BLOCK {
        return;
    }
    // SAFETY: the list is what this classify was given, and the view does not outlive it.
    let packets = NonNull::new(nbl).map(|nbl| unsafe { Packets::new(nbl) });
    let outcome = match (engine, packets) {
        (Some(engine), Some(packets)) if !engine.is_closing() => {
            let _dispatch = Dispatch::raise(&engine.platform);
            send::classify(engine, incoming, &packets, may_write)
        }
        _ => SendOutcome::Permit,
    };
    outcome.write(filter.flags, out);
}

/// notifyFn: a filter that is added must name an instance that lives. PASSIVE_LEVEL, inside a transaction.
///
/// # Safety
/// The filter engine calls it.
pub(crate) unsafe extern "system" fn notify(
    kind: FWPS_CALLOUT_NOTIFY_TYPE,
    _filter_key: *const GUID,
    filter: *mut FWPS_FILTER1,
) -> NTSTATUS {
    if kind != FWPS_CALLOUT_NOTIFY_TYPE::ADD_FILTER {
        return NTSTATUS::SUCCESS;
    }
    // SAFETY: the filter is the engine's, and its context is the callout's to set.
    let Some(filter) = (unsafe { filter.as_mut() }) else { return NTSTATUS::INVALID_PARAMETER };
    let Some(engine) = instances::find(filter.context) else { return NTSTATUS::INVALID_PARAMETER };
    filter.context = engine.expose_provenance() as u64;
    NTSTATUS::SUCCESS
}

/// flowDeleteFn: a connection has ended, or its context was removed. Called once for each context. IRQL <= DISPATCH_LEVEL.
///
/// # Safety
/// The filter engine calls it, with a context that [`Flow::begin`] gave it.
pub(crate) unsafe extern "system" fn flow_deleted(_layer: u16, _callout: u32, context: u64) {
    // SAFETY: the promise of this callback, which is called once: the reference is ours again.
    let Some(flow) = (unsafe { Flow::of_context(context) }).map(ManuallyDrop::into_inner) else { return };
    // A context may go before its connection, when the driver is unloaded: what is kept of it then can't come back.
    let keeps = !flow.is_dead() && !flow.is_at_rest();
    if keeps {
        held::abort(&flow.engine, &flow);
    } else {
        held::give_up(&flow.engine, &flow);
    }
    flow.engine.flows.remove(&flow, &flow.engine.platform);
}

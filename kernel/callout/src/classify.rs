//! The callbacks that the filter engine calls.
//!
//! `FWPS_CALLOUT_CLASSIFY_FN1` promises a classify its values, metadata, filter and answer (`_In_`, `_Inout_`); only the layer's
//! data may be missing (`_Inout_opt_`), and is looked for.

use core::ffi::c_void;
use core::ptr::NonNull;

use fwps_sys::{
    FWP_ACTION, FWPS_CALLOUT_NOTIFY_TYPE, FWPS_CLASSIFY_OUT0, FWPS_FILTER1, FWPS_INCOMING_METADATA_VALUES0,
    FWPS_INCOMING_VALUES0, FWPS_RIGHT, FWPS_STREAM_CALLOUT_IO_PACKET0, GUID, NTSTATUS,
};
use tidegate_vm::Lent;

use crate::engine::{Dispatch, Engine};
use crate::flow::Flow;
use crate::held;
use crate::instances;
use crate::layer::{Given, Incoming};
use crate::outcome::{SendOutcome, StreamOutcome};
use crate::packet::{Indicated, Packets};
use crate::send;
use crate::stream::{self, Indication};

/// classifyFn of the stream layers. IRQL <= DISPATCH_LEVEL, any thread, several at once.
///
/// # Safety
/// The filter engine calls it, for a filter that [`notify`] accepted.
pub(crate) unsafe extern "system" fn stream(
    values: *const FWPS_INCOMING_VALUES0,
    meta: *const FWPS_INCOMING_METADATA_VALUES0,
    packet: *mut c_void,
    _classify_context: *const c_void,
    filter: *const FWPS_FILTER1,
    flow_context: u64,
    out: *mut FWPS_CLASSIFY_OUT0,
) {
    // SAFETY: what the engine passes lives as long as the call, and only `out` and the answer in the packet are ours to write.
    let (values, meta, filter, out) = unsafe { (&*values, &*meta, &*filter, &mut *out) };
    // SAFETY: as above.
    let Some(packet) = (unsafe { packet.cast::<FWPS_STREAM_CALLOUT_IO_PACKET0>().as_mut() }) else {
        out.actionType = FWP_ACTION::PERMIT;
        return;
    };
    // SAFETY: as above.
    let data = unsafe { packet.streamData.as_ref() };
    // SAFETY: `notify` put the instance there; the flow context is ours.
    let (engine, flow) = unsafe { (engine_of(filter), Flow::of_context(flow_context)) };
    let (Some(engine), Some(data)) = (engine, data) else { return unasked(packet, out) };
    // SAFETY: all of it is what this classify was given, and nothing made of it outlives it.
    let (given, data) = unsafe { (Given::new(values, meta), Indicated::new(data)) };
    let Some(incoming) = Incoming::of_stream(given) else { return unasked(packet, out) };
    let outcome = {
        let dispatch = Dispatch::raise(&engine.get().platform);
        let indication = Indication { incoming, packet, data, filter, out };
        stream::classify(engine, &indication, flow, dispatch.processor)
    };
    outcome.write(packet, out);
}

/// All passes, when something is missing that a link would be asked about.
#[cold]
#[inline(never)]
fn unasked(packet: &mut FWPS_STREAM_CALLOUT_IO_PACKET0, out: &mut FWPS_CLASSIFY_OUT0) {
    // SAFETY: what the engine passes lives as long as the call.
    let data = unsafe { packet.streamData.as_ref() };
    StreamOutcome::Permit(data.map_or(0, |data| data.dataLength)).write(packet, out);
}

/// classifyFn of the layers of what is sent. IRQL <= DISPATCH_LEVEL, any thread, several at once.
///
/// # Safety
/// The filter engine calls it, for a filter that [`notify`] accepted.
pub(crate) unsafe extern "system" fn send(
    values: *const FWPS_INCOMING_VALUES0,
    meta: *const FWPS_INCOMING_METADATA_VALUES0,
    nbl: *mut c_void,
    _classify_context: *const c_void,
    filter: *const FWPS_FILTER1,
    _flow_context: u64,
    out: *mut FWPS_CLASSIFY_OUT0,
) {
    // SAFETY: what the engine passes lives as long as the call, and only `out` is ours to write.
    let (values, meta, filter, out) = unsafe { (&*values, &*meta, &*filter, &mut *out) };
    // SAFETY: both are what this classify was given.
    let Some(incoming) = Incoming::of_send(unsafe { Given::new(values, meta) }) else { return };
    let may_write = out.rights.has(FWPS_RIGHT::ACTION_WRITE);
    if !may_write && out.actionType == FWP_ACTION::BLOCK {
        return;
    }
    // SAFETY: `notify` put the instance there.
    let engine = unsafe { engine_of(filter) };
    // SAFETY: the list is what this classify was given, and the view does not outlive it.
    let packets = NonNull::new(nbl.cast()).map(|nbl| unsafe { Packets::new(nbl) });
    let outcome = match (engine, packets) {
        (Some(engine), Some(packets)) if !engine.is_closing() => {
            let dispatch = Dispatch::raise(&engine.get().platform);
            send::classify(engine, &incoming, &packets, may_write, dispatch.processor)
        }
        _ => SendOutcome::Permit,
    };
    outcome.write(filter.flags, out);
}

/// The instance that a filter leads to. The reference stays the instance's own.
///
/// # Safety
/// [`notify`] accepted the filter, and a callback for it runs as long as 'c. An instance outlives its callouts.
pub(crate) unsafe fn engine_of<'c>(filter: &FWPS_FILTER1) -> Option<Lent<'c, Engine>> {
    let engine = NonNull::new(core::ptr::with_exposed_provenance_mut::<Engine>(filter.context as usize))?;
    // SAFETY: the caller's promise.
    Some(unsafe { Lent::from_raw(engine) })
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
    let Some(flow) = (unsafe { Flow::end_of_context(context) }) else { return };
    // A context may go before its connection, when the driver is unloaded: what is kept of it then can't come back.
    let keeps = !flow.is_dead() && !flow.is_at_rest();
    if keeps {
        held::abort(&flow.engine, &flow);
    } else {
        held::give_up(&flow.engine, &flow);
    }
    flow.engine.flows.remove(&flow, &flow.engine.platform);
}

#[cfg(test)]
mod tests {
    use core::ptr;

    use fwps_sys::{
        FWP_VALUE0, FWPS_ACTION0, FWPS_CLASSIFY_OUT_FLAG, FWPS_FILTER_FLAG, FWPS_STREAM_ACTION,
        FWPS_STREAM_DATA0, layer,
    };

    use super::*;

    #[test]
    fn whatever_is_missing_a_stream_s_answer_is_whole() {
        // SAFETY: structs of integers and pointers.
        let (meta, mut data) = unsafe {
            (core::mem::zeroed::<FWPS_INCOMING_METADATA_VALUES0>(), core::mem::zeroed::<FWPS_STREAM_DATA0>())
        };
        data.dataLength = 9;
        let values = FWPS_INCOMING_VALUES0 {
            layerId: layer::STREAM_V4,
            valueCount: 0,
            incomingValue: ptr::null_mut(),
        };
        // A filter that leads to no instance, as nobody's does.
        let filter = FWPS_FILTER1 {
            filterId: 1,
            weight: FWP_VALUE0::EMPTY,
            subLayerWeight: 0,
            flags: FWPS_FILTER_FLAG::NONE,
            numFilterConditions: 0,
            filterCondition: ptr::null_mut(),
            action: FWPS_ACTION0 { r#type: FWP_ACTION::CALLOUT_UNKNOWN, calloutId: 1 },
            context: 0,
            providerContext: ptr::null_mut(),
        };
        for missing in 0..3 {
            let given = |number: u32| number != missing;
            let mut packet = FWPS_STREAM_CALLOUT_IO_PACKET0 {
                streamData: if given(1) { &raw mut data } else { ptr::null_mut() },
                missedBytes: 0,
                countBytesRequired: 7,
                countBytesEnforced: 7,
                streamAction: FWPS_STREAM_ACTION::DEFER,
            };
            let mut out = FWPS_CLASSIFY_OUT0 {
                actionType: FWP_ACTION::NONE,
                outContext: 0,
                filterId: 1,
                rights: FWPS_RIGHT::ACTION_WRITE,
                flags: FWPS_CLASSIFY_OUT_FLAG::NONE,
                reserved: 0,
            };
            // SAFETY: what is given lives through the call.
            unsafe {
                stream(
                    &raw const values,
                    &raw const meta,
                    if given(2) { (&raw mut packet).cast() } else { ptr::null_mut() },
                    ptr::null(),
                    &raw const filter,
                    0,
                    &raw mut out,
                );
            }
            assert_eq!(out.actionType, FWP_ACTION::PERMIT, "without {missing}");
            if given(2) {
                let enforced = if given(1) { 9 } else { 0 };
                assert_eq!(
                    (packet.streamAction, packet.countBytesEnforced, packet.countBytesRequired),
                    (FWPS_STREAM_ACTION::NONE, enforced, 0),
                    "without {missing}"
                );
            }
        }
    }
}

//! The layers that only tell: a connection was established, an endpoint closes.

use std::sync::Arc;

use fwps_sys::*;

use crate::current::Reason;
use crate::engine::{self, stream, values};
use crate::flow::FlowSpec;
use crate::rules;
use crate::state::Inner;

/// Tells every callout that asked that a connection was established. One that was there before is nobody's news.
pub(crate) fn established(sim: &Arc<Inner>, id: u64, spec: &FlowSpec) {
    if spec.mid_stream {
        return;
    }
    let layer =
        if spec.local.is_ipv6() { layer::ALE_FLOW_ESTABLISHED_V6 } else { layer::ALE_FLOW_ESTABLISHED_V4 };
    let mut application: Vec<u8> = spec.application.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let mut blob = FWP_BYTE_BLOB { size: application.len() as u32, data: application.as_mut_ptr() };
    let mut storage = values::Addresses::new(spec.local, spec.remote);
    let mut fixed = values::flow_established(spec, &mut blob, &mut storage);
    let mut metadata = values::no_metadata();
    metadata.currentMetadataValues = FWPS_METADATA_FIELD::FLOW_HANDLE
        | FWPS_METADATA_FIELD::PROCESS_ID
        | FWPS_METADATA_FIELD::PROCESS_PATH
        | FWPS_METADATA_FIELD::TRANSPORT_ENDPOINT_HANDLE;
    metadata.processPath = &raw mut blob;
    metadata.transportEndpointHandle = stream::FLOW_ENDPOINTS + id;
    (metadata.flowHandle, metadata.processId) = (id, spec.process_id);
    tell(sim, layer, &mut fixed, &metadata);
}

/// Tells every callout that asked that an endpoint closes: from now on its handle names nothing.
pub(crate) fn closed(sim: &Arc<Inner>, handle: u64) {
    let local = sim.lock().endpoints.get(&handle).map(|endpoint| endpoint.local);
    let Some(local) = local else { return };
    let layer = if local.is_ipv6() { layer::ALE_ENDPOINT_CLOSURE_V6 } else { layer::ALE_ENDPOINT_CLOSURE_V4 };
    let mut metadata = values::no_metadata();
    metadata.currentMetadataValues = FWPS_METADATA_FIELD::TRANSPORT_ENDPOINT_HANDLE;
    metadata.transportEndpointHandle = handle;
    tell(sim, layer, &mut [], &metadata);
    if let Some(endpoint) = sim.lock().endpoints.get_mut(&handle) {
        endpoint.closed = true;
        // What was absorbed there is lost rightly.
        endpoint.refused = true;
    }
}

/// Calls every callout with a filter at a layer that only tells.
fn tell(
    sim: &Arc<Inner>,
    layer: u16,
    fixed: &mut [FWPS_INCOMING_VALUE0],
    metadata: &FWPS_INCOMING_METADATA_VALUES0,
) {
    let filters: Vec<_> = {
        let state = sim.lock();
        let at_layer = state.filters.iter().filter(|filter| filter.layer == layer);
        at_layer
            .filter_map(|filter| {
                let callout = state.callout_by_key(&filter.callout)?;
                Some((filter.fwps(callout.id), callout.callout, callout.id))
            })
            .collect()
    };
    for (filter, callout, id) in filters {
        let mut out = FWPS_CLASSIFY_OUT0 {
            actionType: FWP_ACTION::CONTINUE,
            outContext: 0,
            filterId: filter.filterId,
            rights: FWPS_RIGHT::ACTION_WRITE,
            flags: FWPS_CLASSIFY_OUT_FLAG::NONE,
            reserved: 0,
        };
        sim.lock().running(id, 1);
        let call = engine::Call {
            callout: &callout,
            layer,
            values: &mut *fixed,
            metadata,
            layer_data: std::ptr::null_mut(),
            filter: &filter,
            flow_context: 0,
        };
        engine::classify(sim, Reason::Notice, call, &mut out);
        let mut state = sim.lock();
        state.running(id, -1);
        if out.actionType != FWP_ACTION::CONTINUE {
            state.violate(rules::NOTIFY_ONLY, format!("the action is {:?}", out.actionType));
        }
    }
}

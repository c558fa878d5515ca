//! The engine: shows data to callouts, applies what they decide, injects and completes.

pub(crate) mod ale;
pub(crate) mod complete;
pub(crate) mod filters;
pub(crate) mod inject;
pub(crate) mod send;
pub(crate) mod stream;
pub(crate) mod values;

use std::sync::Arc;
use std::time::Instant;

use fwps_sys::*;

use crate::current::{self, Reason};
use crate::rules;
use crate::state::Inner;

/// Everything of one classifyFn call that the engine looks at afterwards.
pub(crate) struct Call<'a> {
    pub(crate) callout: &'a FWPS_CALLOUT1,
    pub(crate) layer: u16,
    pub(crate) values: &'a mut [FWPS_INCOMING_VALUE0],
    pub(crate) metadata: &'a FWPS_INCOMING_METADATA_VALUES0,
    pub(crate) layer_data: *mut core::ffi::c_void,
    pub(crate) filter: &'a FWPS_FILTER1,
    pub(crate) flow_context: u64,
}

/// Calls every callout of a layer with nothing to look at: NULL, and at a stream layer also a packet without stream data whose
/// other members hold what was left in them.
pub(crate) fn show_nothing(sim: &Arc<Inner>, layer: u16) -> Vec<FWP_ACTION> {
    let callouts: Vec<_> = {
        let state = sim.lock();
        let filters = state.filters.iter().filter(|filter| filter.layer == layer);
        filters
            .filter_map(|filter| {
                let callout = state.callout_by_key(&filter.callout)?;
                Some((filter.fwps(callout.id), callout.callout))
            })
            .collect()
    };
    let is_stream = matches!(layer, layer::STREAM_V4 | layer::STREAM_V6);
    let metadata = values::no_metadata();
    let ask = |filter: &FWPS_FILTER1, callout: &FWPS_CALLOUT1, layer_data: *mut core::ffi::c_void| {
        let call = Call {
            callout,
            layer,
            values: &mut [],
            metadata: &metadata,
            layer_data,
            filter,
            flow_context: 0,
        };
        let mut out = FWPS_CLASSIFY_OUT0 {
            actionType: FWP_ACTION::NONE,
            outContext: 0,
            filterId: filter.filterId,
            rights: FWPS_RIGHT::ACTION_WRITE,
            flags: FWPS_CLASSIFY_OUT_FLAG::NONE,
            reserved: 0,
        };
        classify(sim, Reason::Notice, call, &mut out);
        out.actionType
    };
    let mut actions = Vec::new();
    for (filter, callout) in &callouts {
        actions.push(ask(filter, callout, std::ptr::null_mut()));
        if is_stream {
            let mut packet = FWPS_STREAM_CALLOUT_IO_PACKET0 {
                streamData: std::ptr::null_mut(),
                missedBytes: 0,
                countBytesRequired: 7,
                countBytesEnforced: 7,
                streamAction: FWPS_STREAM_ACTION::DEFER,
            };
            actions.push(ask(filter, callout, (&raw mut packet).cast()));
            let mut state = sim.lock();
            if packet.streamAction != FWPS_STREAM_ACTION::NONE || packet.countBytesRequired != 0 {
                state.violate(
                    rules::STALE_OUTPUT,
                    "what was left in a packet without stream data is its answer",
                );
            }
            if packet.countBytesEnforced != 0 {
                state.violate(rules::ENFORCED, "bytes of a packet without stream data are enforced");
            }
        }
    }
    actions
}

/// Calls classifyFn, with the simulator entered and nothing locked.
pub(crate) fn classify(sim: &Arc<Inner>, reason: Reason, call: Call<'_>, out: &mut FWPS_CLASSIFY_OUT0) {
    let fixed = FWPS_INCOMING_VALUES0 {
        layerId: call.layer,
        valueCount: call.values.len() as u32,
        incomingValue: call.values.as_mut_ptr(),
    };
    let Some(classify) = call.callout.classifyFn else { return };
    let took = current::enter(sim, reason, || {
        let start = Instant::now();
        // SAFETY: the callout registered this function for exactly this; every pointer is valid for the call.
        unsafe {
            classify(
                &raw const fixed,
                call.metadata,
                call.layer_data,
                std::ptr::null(),
                call.filter,
                call.flow_context,
                out,
            );
        }
        start.elapsed()
    });
    let (count, time) = &mut sim.lock().classify_time;
    *count += 1;
    *time += took;
}

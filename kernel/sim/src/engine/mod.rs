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

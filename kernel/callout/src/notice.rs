//! The layers that only tell: a connection was established, an endpoint closes. The answer is always CONTINUE.

use core::ffi::c_void;
use core::sync::atomic::Ordering;

use fwps_sys::layer::{self, ale_flow_established as established};
use fwps_sys::{
    FWP_ACTION, FWPS_CLASSIFY_OUT0, FWPS_FILTER1, FWPS_INCOMING_METADATA_VALUES0, FWPS_INCOMING_VALUES0,
    FwpsFlowAbort0, GUID, IPPROTO,
};
use tidegate_abi::Hook;
use tidegate_abi::control::OnError;
use tidegate_vm::Lent;

use crate::classify;
use crate::engine::{Dispatch, Engine};
use crate::flow::{Begin, Flow};
use crate::injection::Failure;
use crate::layer::{Given, Layer};
use crate::memory;

/// A layer that only tells, and the callout there.
#[derive(Clone, Copy, Debug)]
pub struct Notice {
    /// `FWPS_LAYER_*`.
    pub layer: u16,
    /// Key of the callout.
    pub key: GUID,
}

/// The callouts that only want to know. Their filters are of type `CALLOUT_INSPECTION`.
pub const NOTICES: [Notice; 4] = [
    Notice {
        layer: layer::ALE_FLOW_ESTABLISHED_V4,
        key: GUID::from_u128(0x8d3a5c60_6f0e_4b52_9f27_51d1a7e4c201),
    },
    Notice {
        layer: layer::ALE_FLOW_ESTABLISHED_V6,
        key: GUID::from_u128(0x8d3a5c60_6f0e_4b52_9f27_51d1a7e4c202),
    },
    Notice {
        layer: layer::ALE_ENDPOINT_CLOSURE_V4,
        key: GUID::from_u128(0x8d3a5c60_6f0e_4b52_9f27_51d1a7e4c203),
    },
    Notice {
        layer: layer::ALE_ENDPOINT_CLOSURE_V6,
        key: GUID::from_u128(0x8d3a5c60_6f0e_4b52_9f27_51d1a7e4c204),
    },
];

/// classifyFn of the layers that only tell. IRQL <= DISPATCH_LEVEL.
///
/// # Safety
/// The filter engine calls it, for a filter that [`classify::notify`] accepted.
pub(crate) unsafe extern "system" fn told(
    values: *const FWPS_INCOMING_VALUES0,
    meta: *const FWPS_INCOMING_METADATA_VALUES0,
    _layer_data: *mut c_void,
    _classify_context: *const c_void,
    filter: *const FWPS_FILTER1,
    _flow_context: u64,
    out: *mut FWPS_CLASSIFY_OUT0,
) {
    // SAFETY: what the engine passes lives as long as the call, and only `out` is ours to write.
    let given = unsafe { (values.as_ref(), meta.as_ref(), filter.as_ref(), out.as_mut()) };
    let (Some(values), Some(meta), Some(filter), Some(out)) = given else { return };
    out.actionType = FWP_ACTION::CONTINUE;
    // SAFETY: `notify` put the instance there, and both values are what this classify was given.
    let (engine, given) = unsafe { (classify::engine_of(filter), Given::new(values, meta)) };
    let Some(engine) = engine else { return };
    let _dispatch = Dispatch::raise(&engine.platform);
    match given.layer() {
        layer::ALE_FLOW_ESTABLISHED_V4 => established(engine, &given, Hook::StreamV4),
        layer::ALE_FLOW_ESTABLISHED_V6 => established(engine, &given, Hook::StreamV6),
        _ => {
            if let Some(endpoint) = given.endpoint() {
                engine.worker.orphan(endpoint, &engine.platform);
            }
        }
    }
}

/// A connection was established: when a link waits for it, it gets a context, which makes the stream layer show it.
///
/// Without one it would pass unseen, so when there can be none the links' `on_error` decides.
fn established(engine: Lent<'_, Engine>, given: &Given<'_>, hook: Hook) {
    let chain = engine.runtime.chain(hook);
    if engine.is_closing() {
        return;
    }
    let (Some(flow), false) = (given.flow(), chain.links().is_empty()) else { return };
    if given.u8(established::IP_PROTOCOL) != Some(IPPROTO::TCP.0) {
        return;
    }
    if begin(engine, given, hook, flow).is_err() {
        let links = chain.links();
        links.iter().for_each(|link| link.count_error());
        if links.iter().any(|link| link.on_error() == OnError::Block) {
            // SAFETY: a number only.
            let _ = unsafe { FwpsFlowAbort0(flow) };
        }
    }
}

fn begin(engine: Lent<'_, Engine>, given: &Given<'_>, hook: Hook, id: u64) -> Result<(), Failure> {
    let application = memory::copied(given.blob(established::ALE_APP_ID))?;
    let layer = Layer::of(hook).id;
    let callout = engine.streams.get(hook.index()).ok_or(Failure::Unfit)?.load(Ordering::Relaxed);
    let context = given.established(hook);
    Flow::begin(engine, Begin { id, layer, callout, context, application, mid_stream: false }).map(drop)
}

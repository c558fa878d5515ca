//! Filters: which callouts are asked, and in which order.

use std::sync::Arc;

use fwps_sys::*;

use crate::current::{self, Reason};
use crate::engine::stream;
use crate::flow::FlowState;
use crate::rules;
use crate::state::{FilterEntry, Inner};

/// A filter that leads to a callout. Made with [`Filter::at`] and the builder methods.
#[derive(Clone, Debug)]
pub struct Filter {
    layer: u16,
    callout: GUID,
    sublayer: u16,
    weight: u64,
    action: FWP_ACTION,
    flags: FWPS_FILTER_FLAG,
    context: u64,
}

impl Filter {
    /// A terminating filter for everything at a layer (see [`fwps_sys::layer`]).
    pub fn at(layer: u16, callout: GUID) -> Self {
        Self {
            layer,
            callout,
            sublayer: 0x8000,
            weight: 0,
            action: FWP_ACTION::CALLOUT_TERMINATING,
            flags: FWPS_FILTER_FLAG::NONE,
            context: 0,
        }
    }

    /// Weight of its sublayer; the heaviest is asked first. Filters of equal sublayer weight share a sublayer.
    #[must_use]
    pub fn sublayer(self, sublayer: u16) -> Self {
        Self { sublayer, ..self }
    }

    /// Weight within its sublayer.
    #[must_use]
    pub fn weight(self, weight: u64) -> Self {
        Self { weight, ..self }
    }

    /// `CALLOUT_TERMINATING`, `CALLOUT_UNKNOWN` or `CALLOUT_INSPECTION`.
    #[must_use]
    pub fn action(self, action: FWP_ACTION) -> Self {
        Self { action, ..self }
    }

    /// Flags that the callout finds in the filter.
    #[must_use]
    pub fn flags(self, flags: FWPS_FILTER_FLAG) -> Self {
        Self { flags, ..self }
    }

    /// Context that the callout finds in the filter, unless its notifyFn sets another.
    #[must_use]
    pub fn context(self, context: u64) -> Self {
        Self { context, ..self }
    }
}

/// Adds a filter and tells its callout; gives back the filter's id, or why the callout refuses it.
pub(crate) fn add(sim: &Arc<Inner>, filter: &Filter) -> Result<u64, NTSTATUS> {
    let mut state = sim.lock();
    let id = state.fresh();
    drop(state);
    let mut entry = FilterEntry {
        id,
        layer: filter.layer,
        callout: filter.callout,
        sublayer: filter.sublayer,
        weight: filter.weight,
        action: filter.action,
        flags: filter.flags,
        context: filter.context,
    };
    let status = notify(sim, &mut entry, FWPS_CALLOUT_NOTIFY_TYPE::ADD_FILTER);
    if !status.nt_success() {
        return Err(status);
    }
    state = sim.lock();
    state.filters.push(entry);
    state.filters.sort_by_key(|filter| std::cmp::Reverse(filter.key()));
    Ok(id)
}

/// Removes a filter and tells its callout.
pub(crate) fn remove(sim: &Arc<Inner>, id: u64) {
    let mut state = sim.lock();
    let Some(at) = state.filters.iter().position(|filter| filter.id == id) else { return };
    let mut filter = state.filters.remove(at);
    let owing = state
        .flows
        .values()
        .filter(|flow| flow.state == FlowState::Open)
        .flat_map(|flow| &flow.sides)
        .filter_map(|side| side.stages.get(&id))
        .any(stream::Stage::owes);
    if owing {
        state.violate(rules::REMOVED_BUSY, "a stream filter was removed");
    }
    drop(state);
    let _ = notify(sim, &mut filter, FWPS_CALLOUT_NOTIFY_TYPE::DELETE_FILTER);
}

fn notify(sim: &Arc<Inner>, filter: &mut FilterEntry, kind: FWPS_CALLOUT_NOTIFY_TYPE) -> NTSTATUS {
    let callout = {
        let state = sim.lock();
        state.callout_by_key(&filter.callout).map(|callout| (callout.callout.notifyFn, callout.id))
    };
    let Some((Some(notify), id)) = callout else { return NTSTATUS::SUCCESS };
    let mut fwps = filter.fwps(id);
    let key = GUID::from_u128(u128::from(filter.id));
    let key = if kind == FWPS_CALLOUT_NOTIFY_TYPE::DELETE_FILTER { std::ptr::null() } else { &raw const key };
    let status = current::enter(sim, Reason::Notify, || {
        // SAFETY: the callout registered this function; both pointers live through the call.
        unsafe { notify(kind, key, &raw mut fwps) }
    });
    // The context of a filter is its callout's to set.
    filter.context = fwps.context;
    status
}

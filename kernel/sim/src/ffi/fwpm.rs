//! fwpkclnt.sys: management of the base filtering engine.
#![expect(unreachable_pub, non_snake_case, reason = "symbols under the names of the DDI")]

use std::ffi::c_void;
use std::sync::Arc;

use fwps_sys::*;

use super::ndis::{free_handle, new_handle};
use super::{passive, simulator_of};
use crate::config::Call;
use crate::management::{Life, Objects, Rule, enforce};
use crate::memory::Kind;
use crate::state::{Inner, State};

/// A session and its simulator, for a call at `PASSIVE_LEVEL` that may be made to fail.
fn session(handle: HANDLE, call: &'static str) -> Result<Arc<Inner>, NTSTATUS> {
    let sim = simulator_of(handle).ok_or(NTSTATUS::INVALID_PARAMETER)?;
    let mut state = sim.lock();
    passive(&mut state, call);
    if let Some(status) = state.fault(Call::Management, call) {
        return Err(status);
    }
    if !state.management.sessions.contains_key(&(handle as usize)) {
        return Err(NTSTATUS::FWP_SESSION_ABORTED);
    }
    drop(state);
    Ok(sim)
}

/// Changes objects, at once or as part of the session's transaction.
fn change(
    handle: HANDLE,
    call: &'static str,
    change: impl FnOnce(&mut State, Life) -> Result<(), NTSTATUS>,
) -> NTSTATUS {
    let done = session(handle, call).and_then(|sim| {
        {
            let mut state = sim.lock();
            let management = &state.management;
            if management.transaction.as_ref().is_some_and(|(owner, _)| *owner != handle as usize) {
                return Err(NTSTATUS::FWP_TXN_IN_PROGRESS);
            }
            let dynamic = management
                .sessions
                .get(&(handle as usize))
                .is_some_and(|flags| flags.has(FWPM_SESSION_FLAG::DYNAMIC));
            let life = if dynamic { Life::Session(handle as usize) } else { Life::Engine };
            change(&mut state, life)?;
        }
        enforce(&sim)
    });
    done.err().unwrap_or(NTSTATUS::SUCCESS)
}

fn delete(
    handle: HANDLE,
    key: *const GUID,
    call: &'static str,
    delete: fn(&mut Objects, GUID) -> Result<(), NTSTATUS>,
) -> NTSTATUS {
    // SAFETY: the caller's promise.
    let key = unsafe { *key };
    change(handle, call, |state, _| delete(&mut state.management.objects, key))
}

/// The life of an object that says of itself whether it is persistent.
fn life_of(session: Life, persistent: bool) -> Result<Life, NTSTATUS> {
    match (session, persistent) {
        (Life::Session(_), true) => Err(NTSTATUS::FWP_LIFETIME_MISMATCH),
        (_, true) => Ok(Life::Persistent),
        (session, false) => Ok(session),
    }
}

fn named(display: &FWPM_DISPLAY_DATA0) -> Result<(), NTSTATUS> {
    if display.name.is_null() { Err(NTSTATUS::FWP_NULL_DISPLAY_NAME) } else { Ok(()) }
}

/// The key behind a pointer that may be NULL.
///
/// # Safety
/// NULL, or it points to a key.
unsafe fn key_or_none(key: *const GUID) -> GUID {
    // SAFETY: the caller's promise.
    unsafe { key.as_ref() }.copied().unwrap_or_default()
}

#[unsafe(no_mangle)]
pub unsafe extern "system" fn FwpmEngineOpen0(
    serverName: *const u16,
    _authnService: u32,
    _authIdentity: *mut c_void,
    session: *const FWPM_SESSION0,
    engineHandle: *mut HANDLE,
) -> NTSTATUS {
    if !serverName.is_null() {
        return NTSTATUS::INVALID_PARAMETER;
    }
    // SAFETY: no argument.
    if unsafe { FwpmBfeStateGet0() } != FWPM_SERVICE_STATE::RUNNING {
        return NTSTATUS::EPT_NT_NOT_REGISTERED;
    }
    match new_handle(Kind::Session, Call::Management, "FwpmEngineOpen0", false) {
        Ok(handle) => {
            // SAFETY: the caller's promise.
            let flags = unsafe { session.as_ref() }.map_or(FWPM_SESSION_FLAG::NONE, |session| session.flags);
            if let Some(sim) = simulator_of(handle) {
                sim.lock().management.sessions.insert(handle as usize, flags);
            }
            // SAFETY: the caller's promise.
            unsafe { engineHandle.write(handle) }
            NTSTATUS::SUCCESS
        }
        Err(status) => status,
    }
}

/// Never made to fail: what a driver closes must be closed.
#[unsafe(no_mangle)]
pub unsafe extern "system" fn FwpmEngineClose0(engineHandle: HANDLE) -> NTSTATUS {
    let Some(sim) = simulator_of(engineHandle) else { return NTSTATUS::INVALID_PARAMETER };
    {
        let mut state = sim.lock();
        passive(&mut state, "FwpmEngineClose0");
        let management = &mut state.management;
        if management.transaction.as_ref().is_some_and(|(owner, _)| *owner == engineHandle as usize)
            && let Some((_, before)) = management.transaction.take()
        {
            management.objects = before;
        }
        management.sessions.remove(&(engineHandle as usize));
        management.objects.end_session(engineHandle as usize);
        if let Some((_, before)) = &mut management.transaction {
            before.end_session(engineHandle as usize);
        }
    }
    free_handle(engineHandle, Kind::Session, "FwpmEngineClose0");
    enforce(&sim).err().unwrap_or(NTSTATUS::SUCCESS)
}

#[unsafe(no_mangle)]
pub unsafe extern "system" fn FwpmTransactionBegin0(engineHandle: HANDLE, _flags: FWPM_TXN) -> NTSTATUS {
    let begun = session(engineHandle, "FwpmTransactionBegin0").and_then(|sim| {
        let mut state = sim.lock();
        if state.management.transaction.is_some() {
            return Err(NTSTATUS::FWP_TXN_IN_PROGRESS);
        }
        let before = state.management.objects.clone();
        state.management.transaction = Some((engineHandle as usize, before));
        Ok(())
    });
    begun.err().unwrap_or(NTSTATUS::SUCCESS)
}

/// Takes the transaction of a session, which must have one.
fn end(sim: &Inner, handle: HANDLE) -> Result<Objects, NTSTATUS> {
    let mut state = sim.lock();
    match state.management.transaction.take() {
        Some((owner, before)) if owner == handle as usize => Ok(before),
        other => {
            state.management.transaction = other;
            Err(NTSTATUS::FWP_NO_TXN_IN_PROGRESS)
        }
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "system" fn FwpmTransactionCommit0(engineHandle: HANDLE) -> NTSTATUS {
    let committed = session(engineHandle, "FwpmTransactionCommit0").and_then(|sim| {
        let before = end(&sim, engineHandle)?;
        enforce(&sim).inspect_err(|_| sim.lock().management.objects = before)
    });
    committed.err().unwrap_or(NTSTATUS::SUCCESS)
}

/// Never made to fail, as [`FwpmEngineClose0`].
#[unsafe(no_mangle)]
pub unsafe extern "system" fn FwpmTransactionAbort0(engineHandle: HANDLE) -> NTSTATUS {
    let Some(sim) = simulator_of(engineHandle) else { return NTSTATUS::INVALID_PARAMETER };
    passive(&mut sim.lock(), "FwpmTransactionAbort0");
    match end(&sim, engineHandle) {
        Ok(before) => {
            sim.lock().management.objects = before;
            NTSTATUS::SUCCESS
        }
        Err(status) => status,
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "system" fn FwpmProviderAdd0(
    engineHandle: HANDLE,
    provider: *const FWPM_PROVIDER0,
    _sd: *mut SECURITY_DESCRIPTOR,
) -> NTSTATUS {
    // SAFETY: the caller's promise.
    let provider = unsafe { &*provider };
    change(engineHandle, "FwpmProviderAdd0", |state, session| {
        named(&provider.displayData)?;
        let life = life_of(session, provider.flags.has(FWPM_PROVIDER_FLAG::PERSISTENT))?;
        state.management.objects.add_provider(provider.providerKey, life)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "system" fn FwpmProviderDeleteByKey0(engineHandle: HANDLE, key: *const GUID) -> NTSTATUS {
    delete(engineHandle, key, "FwpmProviderDeleteByKey0", Objects::delete_provider)
}

#[unsafe(no_mangle)]
pub unsafe extern "system" fn FwpmSubLayerAdd0(
    engineHandle: HANDLE,
    subLayer: *const FWPM_SUBLAYER0,
    _sd: *mut SECURITY_DESCRIPTOR,
) -> NTSTATUS {
    // SAFETY: the caller's promise.
    let (sublayer, provider) = unsafe { (&*subLayer, key_or_none((*subLayer).providerKey)) };
    change(engineHandle, "FwpmSubLayerAdd0", |state, session| {
        named(&sublayer.displayData)?;
        let life = life_of(session, sublayer.flags.has(FWPM_SUBLAYER_FLAG::PERSISTENT))?;
        state.management.objects.provider(life, provider)?;
        state.management.objects.add_sublayer(sublayer.subLayerKey, life, sublayer.weight)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "system" fn FwpmSubLayerDeleteByKey0(engineHandle: HANDLE, key: *const GUID) -> NTSTATUS {
    delete(engineHandle, key, "FwpmSubLayerDeleteByKey0", Objects::delete_sublayer)
}

#[unsafe(no_mangle)]
pub unsafe extern "system" fn FwpmCalloutAdd0(
    engineHandle: HANDLE,
    callout: *const FWPM_CALLOUT0,
    _sd: *mut SECURITY_DESCRIPTOR,
    id: *mut u32,
) -> NTSTATUS {
    // SAFETY: the caller's promise.
    let (callout, provider) = unsafe { (&*callout, key_or_none((*callout).providerKey)) };
    change(engineHandle, "FwpmCalloutAdd0", |state, session| {
        named(&callout.displayData)?;
        layer_of(callout.applicableLayer)?;
        let life = life_of(session, callout.flags.has(FWPM_CALLOUT_FLAG::PERSISTENT))?;
        state.management.objects.provider(life, provider)?;
        state.management.objects.add_callout(callout.calloutKey, life)?;
        if !id.is_null() {
            let registered = state.callout_by_key(&callout.calloutKey).map_or(0, |callout| callout.id);
            // SAFETY: the caller's promise.
            unsafe { id.write(registered) }
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "system" fn FwpmCalloutDeleteByKey0(engineHandle: HANDLE, key: *const GUID) -> NTSTATUS {
    delete(engineHandle, key, "FwpmCalloutDeleteByKey0", Objects::delete_callout)
}

#[unsafe(no_mangle)]
pub unsafe extern "system" fn FwpmFilterAdd0(
    engineHandle: HANDLE,
    filter: *const FWPM_FILTER0,
    _sd: *mut SECURITY_DESCRIPTOR,
    id: *mut u64,
) -> NTSTATUS {
    // SAFETY: the caller's promise.
    let (filter, provider) = unsafe { (&*filter, key_or_none((*filter).providerKey)) };
    change(engineHandle, "FwpmFilterAdd0", |state, session| {
        named(&filter.displayData)?;
        let number = state.fresh();
        let persistent = filter.flags.has_any(FWPM_FILTER_FLAG::PERSISTENT | FWPM_FILTER_FLAG::BOOTTIME);
        let life = life_of(session, persistent)?;
        state.management.objects.provider(life, provider)?;
        let mut flags = FWPS_FILTER_FLAG::NONE;
        for (managed, seen) in [
            (FWPM_FILTER_FLAG::CLEAR_ACTION_RIGHT, FWPS_FILTER_FLAG::CLEAR_ACTION_RIGHT),
            (
                FWPM_FILTER_FLAG::PERMIT_IF_CALLOUT_UNREGISTERED,
                FWPS_FILTER_FLAG::PERMIT_IF_CALLOUT_UNREGISTERED,
            ),
        ] {
            if filter.flags.has(managed) {
                flags |= seen;
            }
        }
        // SAFETY: the type says which member is meant; a 64-bit weight lies behind its pointer. The context of a filter
        // without a provider context is raw.
        let (weight, context) = unsafe {
            let weight = match filter.weight.r#type {
                FWP_DATA_TYPE::EMPTY => 0,
                FWP_DATA_TYPE::UINT8 if filter.weight.data.uint8 < 16 => {
                    u64::from(filter.weight.data.uint8) << 60
                }
                FWP_DATA_TYPE::UINT64 => *filter.weight.data.uint64,
                _ => return Err(NTSTATUS::FWP_INVALID_WEIGHT),
            };
            (weight, filter.context.rawContext)
        };
        // Conditions would have to be evaluated: a filter that has some is not one that this engine can stand in for.
        if filter.numFilterConditions != 0 {
            return Err(NTSTATUS::NOT_SUPPORTED);
        }
        let rule = Rule {
            layer: layer_of(filter.layerKey)?,
            sublayer: filter.subLayerKey,
            callout: filter.action.calloutKey,
            weight,
            action: filter.action.r#type,
            flags,
            context,
            id: number,
        };
        // A key of zeros asks for one.
        let key = match filter.filterKey {
            none if none == GUID::default() => GUID::from_u128(u128::from(number)),
            key => key,
        };
        state.management.objects.add_filter(key, life, rule)?;
        if !id.is_null() {
            // SAFETY: the caller's promise.
            unsafe { id.write(number) }
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "system" fn FwpmFilterDeleteByKey0(engineHandle: HANDLE, key: *const GUID) -> NTSTATUS {
    delete(engineHandle, key, "FwpmFilterDeleteByKey0", Objects::delete_filter)
}

#[unsafe(no_mangle)]
pub unsafe extern "system" fn FwpmFilterDeleteById0(engineHandle: HANDLE, id: u64) -> NTSTATUS {
    change(engineHandle, "FwpmFilterDeleteById0", |state, _| {
        let filters = &state.management.objects.filters;
        let key = filters.iter().find(|(_, (_, rule))| rule.id == id).map(|(key, _)| *key);
        state.management.objects.delete_filter(key.ok_or(NTSTATUS::FWP_FILTER_NOT_FOUND)?)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "system" fn FwpmBfeStateGet0() -> FWPM_SERVICE_STATE {
    crate::current::simulator().map_or(FWPM_SERVICE_STATE::STOPPED, |sim| sim.lock().management.state)
}

#[unsafe(no_mangle)]
pub unsafe extern "system" fn FwpmBfeStateSubscribeChanges0(
    _deviceObject: *mut c_void,
    callback: FWPM_SERVICE_STATE_CHANGE_CALLBACK0,
    context: *mut c_void,
    changeHandle: *mut HANDLE,
) -> NTSTATUS {
    match new_handle(Kind::Subscription, Call::Management, "FwpmBfeStateSubscribeChanges0", false) {
        Ok(handle) => {
            if let Some(sim) = simulator_of(handle) {
                let subscription = crate::management::Subscription { callback, context: context as usize };
                sim.lock().management.subscriptions.insert(handle as usize, subscription);
            }
            // SAFETY: the caller's promise.
            unsafe { changeHandle.write(handle) }
            NTSTATUS::SUCCESS
        }
        Err(status) => status,
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "system" fn FwpmBfeStateUnsubscribeChanges0(changeHandle: HANDLE) -> NTSTATUS {
    let Some(sim) = simulator_of(changeHandle) else { return NTSTATUS::INVALID_PARAMETER };
    {
        let mut state = sim.lock();
        passive(&mut state, "FwpmBfeStateUnsubscribeChanges0");
        state.management.subscriptions.remove(&(changeHandle as usize));
    }
    free_handle(changeHandle, Kind::Subscription, "FwpmBfeStateUnsubscribeChanges0");
    NTSTATUS::SUCCESS
}

/// The number of a layer that the simulator has.
fn layer_of(key: GUID) -> Result<u16, NTSTATUS> {
    match key {
        guid::LAYER_STREAM_V4 => Ok(layer::STREAM_V4),
        guid::LAYER_STREAM_V6 => Ok(layer::STREAM_V6),
        guid::LAYER_OUTBOUND_TRANSPORT_V4 => Ok(layer::OUTBOUND_TRANSPORT_V4),
        guid::LAYER_OUTBOUND_TRANSPORT_V6 => Ok(layer::OUTBOUND_TRANSPORT_V6),
        guid::LAYER_DATAGRAM_DATA_V4 => Ok(layer::DATAGRAM_DATA_V4),
        guid::LAYER_DATAGRAM_DATA_V6 => Ok(layer::DATAGRAM_DATA_V6),
        guid::LAYER_OUTBOUND_ICMP_ERROR_V4 => Ok(layer::OUTBOUND_ICMP_ERROR_V4),
        guid::LAYER_OUTBOUND_ICMP_ERROR_V6 => Ok(layer::OUTBOUND_ICMP_ERROR_V6),
        guid::LAYER_ALE_FLOW_ESTABLISHED_V4 => Ok(layer::ALE_FLOW_ESTABLISHED_V4),
        guid::LAYER_ALE_FLOW_ESTABLISHED_V6 => Ok(layer::ALE_FLOW_ESTABLISHED_V6),
        guid::LAYER_ALE_ENDPOINT_CLOSURE_V4 => Ok(layer::ALE_ENDPOINT_CLOSURE_V4),
        guid::LAYER_ALE_ENDPOINT_CLOSURE_V6 => Ok(layer::ALE_ENDPOINT_CLOSURE_V6),
        _ => Err(NTSTATUS::FWP_LAYER_NOT_FOUND),
    }
}

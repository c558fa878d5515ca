//! What the filter engine is told: added whenever the base filtering engine comes to run, and gone with it or with us.

use core::ffi::c_void;
use core::ptr;
use core::sync::atomic::{AtomicPtr, Ordering};

use fwps_sys::{
    FWP_ACTION, FWP_BYTE_BLOB, FWP_VALUE0, FWPM_ACTION0, FWPM_CALLOUT0, FWPM_DISPLAY_DATA0, FWPM_FILTER0,
    FWPM_FILTER0_CONTEXT, FWPM_PROVIDER0, FWPM_SERVICE_STATE, FWPM_SESSION_FLAG, FWPM_SESSION0,
    FWPM_SUBLAYER0, FWPM_TXN, FwpmBfeStateGet0, FwpmBfeStateSubscribeChanges0,
    FwpmBfeStateUnsubscribeChanges0, FwpmCalloutAdd0, FwpmCalloutDeleteByKey0, FwpmEngineClose0,
    FwpmEngineOpen0, FwpmFilterAdd0, FwpmFilterDeleteByKey0, FwpmProviderAdd0, FwpmProviderDeleteByKey0,
    FwpmSubLayerAdd0, FwpmSubLayerDeleteByKey0, FwpmTransactionAbort0, FwpmTransactionBegin0,
    FwpmTransactionCommit0, GUID, HANDLE, NTSTATUS, RPC_C_AUTHN_WINNT,
};
use tidegate_abi::{Hook, control};
use tidegate_callout as callout;
use tidegate_driver::objects::{self, Lifetime};
use tidegate_driver::parameters::Parameters;
use tidegate_runtime::{Runtime, Shared};

use crate::os;
use crate::text::wide;
use crate::trace;
use crate::work::Work;

/// How often the engine is asked when it says that it runs and then refuses; once a second.
const ATTEMPTS: u32 = 3;

/// The watch over the base filtering engine. It does not move: the engine's callback points to it.
pub(crate) struct Filters {
    lifetime: Lifetime,
    weight: u16,
    /// What every filter carries, so that its callout finds its instance.
    context: u64,
    watch: AtomicPtr<c_void>,
    /// Who is told how it stands.
    runtime: Shared<Runtime>,
    /// The session, NULL while there is none. Only the work's routine touches it, and `end` after the work.
    session: AtomicPtr<c_void>,
    work: Work,
}

impl Filters {
    /// Begins to watch, at `place`. PASSIVE_LEVEL.
    ///
    /// # Safety
    /// The place is as large and aligned as this type, is not moved, and is given back by [`Filters::end`].
    pub(crate) unsafe fn begin(
        place: *mut Self,
        device: *mut c_void,
        parameters: &Parameters,
        context: u64,
        runtime: Shared<Runtime>,
    ) -> Result<(), NTSTATUS> {
        runtime.set_filters(control::Filters::Waiting);
        let filters = Self {
            lifetime: Lifetime::of(parameters),
            weight: parameters.sublayer_weight,
            context,
            watch: AtomicPtr::new(ptr::null_mut()),
            runtime,
            session: AtomicPtr::new(ptr::null_mut()),
            work: Work::new(device, Some(follow))?,
        };
        // SAFETY: the caller's place.
        unsafe { place.write(filters) };
        // SAFETY: the place lives until the watch has ended. The handle is written while callbacks may come already.
        let subscribed = unsafe {
            FwpmBfeStateSubscribeChanges0(device, Some(changed), place.cast(), (*place).watch.as_ptr())
        };
        if let Err(status) = subscribed.ok() {
            // SAFETY: written above, and given back to the caller as bytes.
            unsafe { place.drop_in_place() };
            return Err(status);
        }
        // What changed before there was a watch is seen now.
        // SAFETY: just written.
        unsafe { (*place).work.kick(place.cast()) };
        Ok(())
    }

    /// Ends the watch and closes the session, with which its objects go unless they are persistent. PASSIVE_LEVEL.
    ///
    /// # Safety
    /// [`Filters::begin`] made it.
    pub(crate) unsafe fn end(place: *mut Self) {
        // SAFETY: ours, and ended once. It returns when no callback runs any more.
        let _ = unsafe { FwpmBfeStateUnsubscribeChanges0((*place).watch.load(Ordering::Acquire)) };
        // SAFETY: the caller's promise.
        let session = unsafe { &raw const (*place).session };
        // SAFETY: dropping the work waits for its routine; nothing but the session is looked at after it.
        let session = unsafe {
            (&raw mut (*place).work).drop_in_place();
            (&raw mut (*place).runtime).drop_in_place();
            (*session).load(Ordering::Acquire)
        };
        close(session);
    }

    /// Opens and fills a session, or forgets one, as the engine's state asks. PASSIVE_LEVEL, one call at a time.
    fn follow(&self) {
        let session = self.session.load(Ordering::Acquire);
        // SAFETY: no argument.
        let runs = unsafe { FwpmBfeStateGet0() } == FWPM_SERVICE_STATE::RUNNING;
        if runs == !session.is_null() {
            return;
        }
        if !runs {
            // The engine forgot everything of a dynamic session when it stopped.
            self.session.store(ptr::null_mut(), Ordering::Release);
            self.runtime.set_filters(control::Filters::Waiting);
            return close(session);
        }
        for attempt in 0..ATTEMPTS {
            if attempt != 0 {
                os::sleep(1000);
            }
            match self.open() {
                Ok(session) => {
                    self.session.store(session, Ordering::Release);
                    let persistent = self.lifetime.session == FWPM_SESSION_FLAG::NONE;
                    self.runtime.set_filters(control::Filters::Standing { persistent });
                    return trace::filters(NTSTATUS::SUCCESS);
                }
                Err(status) => {
                    self.runtime.set_filters(control::Filters::Refused(status.0));
                    trace::filters(status);
                }
            }
        }
    }

    fn open(&self) -> Result<HANDLE, NTSTATUS> {
        let session = FWPM_SESSION0 {
            sessionKey: GUID::default(),
            displayData: display(),
            flags: self.lifetime.session,
            txnWaitTimeoutInMSec: 0,
            processId: 0,
            sid: ptr::null_mut(),
            username: ptr::null_mut(),
            kernelMode: 0,
        };
        let mut engine = ptr::null_mut();
        // SAFETY: the session is read before the call returns.
        unsafe {
            FwpmEngineOpen0(
                ptr::null(),
                RPC_C_AUTHN_WINNT,
                ptr::null_mut(),
                &raw const session,
                &raw mut engine,
            )
        }
        .ok()?;
        // SAFETY: the engine is open, as for all calls below.
        let added = unsafe { FwpmTransactionBegin0(engine, FWPM_TXN::NONE) }.ok().and_then(|()| {
            let added = self.add(engine);
            let ended = match added {
                // SAFETY: a transaction has begun.
                Ok(()) => unsafe { FwpmTransactionCommit0(engine) }.ok(),
                // SAFETY: as above.
                Err(status) => Err(unsafe { FwpmTransactionAbort0(engine) }.ok().err().unwrap_or(status)),
            };
            added.and(ended)
        });
        if added.is_err() {
            close(engine);
        }
        added.map(|()| engine)
    }

    /// Adds everything, in place of what an earlier start may have left.
    fn add(&self, engine: HANDLE) -> Result<(), NTSTATUS> {
        let (mut provider_key, sublayer_key) = (objects::PROVIDER, objects::SUBLAYER);
        let none = FWP_BYTE_BLOB { size: 0, data: ptr::null_mut() };
        for Entry { filter, callout, .. } in entries() {
            // SAFETY: keys only. There may be nothing to delete.
            let _ = unsafe { FwpmFilterDeleteByKey0(engine, &raw const filter) };
            // SAFETY: as above.
            let _ = unsafe { FwpmCalloutDeleteByKey0(engine, &raw const callout) };
        }
        // SAFETY: as above.
        let _ = unsafe { FwpmSubLayerDeleteByKey0(engine, &raw const sublayer_key) };
        // SAFETY: as above.
        let _ = unsafe { FwpmProviderDeleteByKey0(engine, &raw const provider_key) };

        let provider = FWPM_PROVIDER0 {
            providerKey: objects::PROVIDER,
            displayData: display(),
            flags: self.lifetime.provider,
            providerData: none,
            serviceName: wide!("tidegate").as_ptr().cast_mut(),
        };
        // SAFETY: what is added is read before the call returns, here and below.
        unsafe { FwpmProviderAdd0(engine, &raw const provider, ptr::null_mut()) }.ok()?;
        let sublayer = FWPM_SUBLAYER0 {
            subLayerKey: objects::SUBLAYER,
            displayData: display(),
            flags: self.lifetime.sublayer,
            providerKey: &raw mut provider_key,
            providerData: none,
            weight: self.weight,
        };
        // SAFETY: as above.
        unsafe { FwpmSubLayerAdd0(engine, &raw const sublayer, ptr::null_mut()) }.ok()?;
        for entry in entries() {
            let callout = FWPM_CALLOUT0 {
                calloutKey: entry.callout,
                displayData: display(),
                flags: self.lifetime.callout,
                providerKey: &raw mut provider_key,
                providerData: none,
                applicableLayer: entry.layer,
                calloutId: 0,
            };
            // SAFETY: as above.
            unsafe { FwpmCalloutAdd0(engine, &raw const callout, ptr::null_mut(), ptr::null_mut()) }.ok()?;
            let filter = FWPM_FILTER0 {
                filterKey: entry.filter,
                displayData: display(),
                flags: self.lifetime.filter,
                providerKey: &raw mut provider_key,
                providerData: none,
                layerKey: entry.layer,
                subLayerKey: objects::SUBLAYER,
                weight: FWP_VALUE0::EMPTY,
                numFilterConditions: 0,
                filterCondition: ptr::null_mut(),
                action: FWPM_ACTION0 { r#type: entry.action, calloutKey: entry.callout },
                context: FWPM_FILTER0_CONTEXT { words: [self.context, 0] },
                reserved: ptr::null_mut(),
                filterId: 0,
                effectiveWeight: FWP_VALUE0::EMPTY,
            };
            // SAFETY: as above.
            unsafe { FwpmFilterAdd0(engine, &raw const filter, ptr::null_mut(), ptr::null_mut()) }.ok()?;
        }
        Ok(())
    }
}

/// A callout and the filter that leads to it.
struct Entry {
    filter: GUID,
    callout: GUID,
    layer: GUID,
    action: FWP_ACTION,
}

/// Every callout that there is.
fn entries() -> impl Iterator<Item = Entry> {
    let hooks = Hook::ALL.into_iter().map(|hook| Entry {
        filter: objects::filter_key(hook),
        callout: callout::key(hook),
        layer: objects::layer_of(hook),
        action: callout::filter_action(hook),
    });
    let notices = callout::NOTICES.into_iter().filter_map(|told| {
        let (filter, layer) = objects::notice(told.layer)?;
        Some(Entry { filter, callout: told.key, layer, action: FWP_ACTION::CALLOUT_INSPECTION })
    });
    hooks.chain(notices)
}

/// The name of every object, for people.
fn display() -> FWPM_DISPLAY_DATA0 {
    FWPM_DISPLAY_DATA0 { name: wide!("Tidegate").as_ptr(), description: ptr::null() }
}

fn close(session: HANDLE) {
    if !session.is_null() {
        // SAFETY: ours, and closed once.
        let _ = unsafe { FwpmEngineClose0(session) };
    }
}

/// The engine's state changed.
///
/// # Safety
/// `context` is what [`Filters::begin`] gave.
unsafe extern "system" fn changed(context: *mut c_void, _: FWPM_SERVICE_STATE) {
    // SAFETY: the watch ends before the place goes.
    unsafe { (*context.cast::<Filters>()).work.kick(context) };
}

/// # Safety
/// `context` is what [`changed`] gave.
unsafe extern "system" fn follow(_device: *mut c_void, context: *mut c_void) {
    // SAFETY: the work is drained before the place goes.
    let filters = unsafe { &*context.cast::<Filters>() };
    filters.work.begun();
    filters.follow();
    filters.work.ended();
}

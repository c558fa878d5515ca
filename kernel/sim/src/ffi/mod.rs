//! The functions that fwps-sys declares, by the image that exports them on Windows.

mod fwpm;
mod fwps;
mod ndis;
mod ntos;

use std::ffi::c_void;
use std::sync::Arc;

use crate::current;
use crate::memory;
use crate::rules;
use crate::state::{Inner, State};

/// Names each function once: its definition must have the type of its declaration, and stays in the link.
macro_rules! keep {
    ($($module:ident { $($function:ident,)* })*) => {
        /// Refers to every function, so that the linker keeps them for callouts that only declare them.
        pub(crate) fn keep() {
            let all = [$($({
                let both = [fwps_sys::$function, $module::$function];
                both[1] as *const c_void
            },)*)*];
            std::hint::black_box(all);
        }
    };
}

keep! {
    fwpm {
        FwpmEngineOpen0, FwpmEngineClose0, FwpmTransactionBegin0, FwpmTransactionCommit0, FwpmTransactionAbort0,
        FwpmProviderAdd0, FwpmProviderDeleteByKey0, FwpmSubLayerAdd0, FwpmSubLayerDeleteByKey0,
        FwpmCalloutAdd0, FwpmCalloutDeleteByKey0, FwpmFilterAdd0, FwpmFilterDeleteByKey0, FwpmFilterDeleteById0,
        FwpmBfeStateGet0, FwpmBfeStateSubscribeChanges0, FwpmBfeStateUnsubscribeChanges0,
    }
    fwps {
        FwpsCalloutRegister1, FwpsCalloutUnregisterById0, FwpsCalloutUnregisterByKey0,
        FwpsInjectionHandleCreate0, FwpsInjectionHandleDestroy0, FwpsQueryPacketInjectionState0,
        FwpsAllocateCloneNetBufferList0, FwpsFreeCloneNetBufferList0,
        FwpsAllocateNetBufferAndNetBufferList0, FwpsFreeNetBufferList0,
        FwpsReferenceNetBufferList0, FwpsDereferenceNetBufferList0,
        FwpsInjectTransportSendAsync1, FwpsStreamInjectAsync0, FwpsCloneStreamData0,
        FwpsDiscardClonedStreamData0, FwpsCopyStreamDataToBuffer0, FwpsStreamContinue0, FwpsFlowAbort0,
        FwpsFlowAssociateContext0, FwpsFlowRemoveContext0,
    }
    ndis {
        NdisAllocateGenericObject, NdisFreeGenericObject,
        NdisAllocateNetBufferListPool, NdisFreeNetBufferListPool,
        NdisAllocateNetBufferPool, NdisFreeNetBufferPool, NdisGetDataBuffer,
        NdisRetreatNetBufferDataStart, NdisAdvanceNetBufferDataStart,
        NdisRetreatNetBufferListDataStart, NdisAdvanceNetBufferListDataStart,
        NdisCopyFromNetBufferToNetBuffer,
    }
    ntos {
        IoAllocateMdl, IoBuildPartialMdl, MmBuildMdlForNonPagedPool, IoFreeMdl, MmMapLockedPagesSpecifyCache,
        IoAllocateWorkItem, IoQueueWorkItem, IoFreeWorkItem,
    }
}

/// The simulator of a block that a callout passed, else the one that the thread is in.
fn simulator_of(object: *const c_void) -> Option<Arc<Inner>> {
    memory::owner(object).or_else(current::simulator)
}

/// Notes a function for PASSIVE_LEVEL that is called above it.
fn passive(state: &mut State, call: &str) {
    if current::at_dispatch() {
        state.violate(rules::PASSIVE, format!("{call} at DISPATCH_LEVEL"));
    }
}

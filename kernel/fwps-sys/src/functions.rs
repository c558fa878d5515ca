//! The functions, by the image that exports them.
//!
//! "P" below is PASSIVE_LEVEL only, "D" is up to DISPATCH_LEVEL. Who owns what on return is said in one line each; the
//! DDI page of the same name has the rest.

use core::ffi::c_void;

use crate::base::{BOOLEAN, GUID, HANDLE, SECURITY_DESCRIPTOR, WSACMSGHDR};
use crate::callout::*;
use crate::constants::*;
use crate::fwpm::*;
use crate::packet::*;
use crate::status::NTSTATUS;
use crate::stream::FWPS_STREAM_DATA0;
use crate::transport::*;

/// A work routine (`IO_WORKITEM_ROUTINE`); runs at PASSIVE_LEVEL.
pub type IO_WORKITEM_ROUTINE =
    Option<unsafe extern "system" fn(deviceObject: *mut c_void, context: *mut c_void)>;

#[cfg_attr(
    all(windows, not(feature = "simulated")),
    link(name = "fwpkclnt.sys", kind = "raw-dylib", modifiers = "+verbatim")
)]
unsafe extern "system" {
    /// P. FWP_ALREADY_EXISTS when the key is registered.
    pub fn FwpsCalloutRegister1(
        deviceObject: *mut c_void,
        callout: *const FWPS_CALLOUT1,
        calloutId: *mut u32,
    ) -> NTSTATUS;

    /// P. DEVICE_BUSY while flow contexts remain, FWP_IN_USE while a classify runs: both mean "again, later".
    pub fn FwpsCalloutUnregisterById0(calloutId: u32) -> NTSTATUS;

    /// P. As [`FwpsCalloutUnregisterById0`].
    pub fn FwpsCalloutUnregisterByKey0(calloutKey: *const GUID) -> NTSTATUS;

    /// P. No flag at all means transport, stream and forward.
    pub fn FwpsInjectionHandleCreate0(
        addressFamily: ADDRESS_FAMILY,
        flags: FWPS_INJECTION_TYPE,
        injectionHandle: *mut HANDLE,
    ) -> NTSTATUS;

    /// P. Returns after every injection through the handle has completed.
    pub fn FwpsInjectionHandleDestroy0(injectionHandle: HANDLE) -> NTSTATUS;

    /// D. Answers for this handle; packet layers only.
    pub fn FwpsQueryPacketInjectionState0(
        injectionHandle: HANDLE,
        netBufferList: *const NET_BUFFER_LIST,
        injectionContext: *mut HANDLE,
    ) -> FWPS_PACKET_INJECTION_STATE;

    /// D. One NBL with new descriptors over the same bytes; the original stays alive until the clone is freed.
    pub fn FwpsAllocateCloneNetBufferList0(
        originalNetBufferList: *mut NET_BUFFER_LIST,
        netBufferListPoolHandle: HANDLE,
        netBufferPoolHandle: HANDLE,
        allocateCloneFlags: u32,
        netBufferList: *mut *mut NET_BUFFER_LIST,
    ) -> NTSTATUS;

    /// D. Frees one clone.
    pub fn FwpsFreeCloneNetBufferList0(netBufferList: *mut NET_BUFFER_LIST, freeCloneFlags: u32);

    /// D. The MDLs and their bytes stay the caller's.
    pub fn FwpsAllocateNetBufferAndNetBufferList0(
        poolHandle: HANDLE,
        contextSize: u16,
        contextBackFill: u16,
        mdlChain: *mut MDL,
        dataOffset: u32,
        dataLength: usize,
        netBufferList: *mut *mut NET_BUFFER_LIST,
    ) -> NTSTATUS;

    /// D. Frees neither MDLs nor their bytes.
    pub fn FwpsFreeNetBufferList0(netBufferList: *mut NET_BUFFER_LIST);

    /// D. Keeps the original alive after classify; given back exactly once.
    pub fn FwpsReferenceNetBufferList0(netBufferList: *mut NET_BUFFER_LIST, intendToModify: BOOLEAN);

    /// D. Gives a reference back.
    pub fn FwpsDereferenceNetBufferList0(netBufferList: *mut NET_BUFFER_LIST, dispatchLevel: BOOLEAN);

    /// D.
    pub fn FwpsGetPacketListSecurityInformation0(
        netBufferList: *mut NET_BUFFER_LIST,
        queryFlags: FWPS_PACKET_LIST_QUERY,
        packetInformation: *mut FWPS_PACKET_LIST_INFORMATION0,
    ) -> NTSTATUS;

    /// D. Puts an IP header in front and completes every checksum.
    pub fn FwpsConstructIpHeaderForTransportPacket0(
        netBufferList: *mut NET_BUFFER_LIST,
        headerIncludeHeaderLength: u32,
        addressFamily: ADDRESS_FAMILY,
        sourceAddress: *const u8,
        remoteAddress: *const u8,
        nextProtocol: i32,
        endpointHandle: u64,
        controlData: *const WSACMSGHDR,
        controlDataLength: u32,
        flags: u32,
        reserved: *mut c_void,
        interfaceIndex: u32,
        subInterfaceIndex: u32,
    ) -> NTSTATUS;

    /// D. SUCCESS gives the NBL to the completion; every other status leaves it with the caller.
    pub fn FwpsInjectTransportSendAsync1(
        injectionHandle: HANDLE,
        injectionContext: HANDLE,
        endpointHandle: u64,
        flags: u32,
        sendArgs: *mut FWPS_TRANSPORT_SEND_PARAMS1,
        addressFamily: ADDRESS_FAMILY,
        compartmentId: COMPARTMENT_ID,
        netBufferList: *mut NET_BUFFER_LIST,
        completionFn: FWPS_INJECT_COMPLETE0,
        completionContext: HANDLE,
    ) -> NTSTATUS;

    /// D. As the send; the NBL begins with its IP header.
    pub fn FwpsInjectTransportReceiveAsync0(
        injectionHandle: HANDLE,
        injectionContext: HANDLE,
        reserved: *mut c_void,
        flags: u32,
        addressFamily: ADDRESS_FAMILY,
        compartmentId: COMPARTMENT_ID,
        interfaceIndex: u32,
        subInterfaceIndex: u32,
        netBufferList: *mut NET_BUFFER_LIST,
        completionFn: FWPS_INJECT_COMPLETE0,
        completionContext: HANDLE,
    ) -> NTSTATUS;

    /// D. SUCCESS gives the chain to the completion, called once for each NBL with the same context; every other status
    /// leaves it with the caller. A NULL NBL needs a DISCONNECT flag, and completes never.
    pub fn FwpsStreamInjectAsync0(
        injectionHandle: HANDLE,
        injectionContext: HANDLE,
        flags: u32,
        flowId: u64,
        calloutId: u32,
        layerId: u16,
        streamFlags: FWPS_STREAM_FLAG,
        netBufferList: *mut NET_BUFFER_LIST,
        dataLength: usize,
        completionFn: FWPS_INJECT_COMPLETE0,
        completionContext: HANDLE,
    ) -> NTSTATUS;

    /// D. A chain of clones trimmed to the indicated data.
    pub fn FwpsCloneStreamData0(
        calloutStreamData: *mut FWPS_STREAM_DATA0,
        netBufferListPoolHandle: HANDLE,
        netBufferPoolHandle: HANDLE,
        allocateCloneFlags: u32,
        netBufferListChain: *mut *mut NET_BUFFER_LIST,
    ) -> NTSTATUS;

    /// D. Frees a chain of [`FwpsCloneStreamData0`] that was not injected.
    pub fn FwpsDiscardClonedStreamData0(
        netBufferListChain: *mut NET_BUFFER_LIST,
        allocateCloneFlags: u32,
        dispatchLevel: BOOLEAN,
    );

    /// D. Copies what was indicated, from its start.
    pub fn FwpsCopyStreamDataToBuffer0(
        calloutStreamData: *const FWPS_STREAM_DATA0,
        buffer: *mut c_void,
        bytesToCopy: usize,
        bytesCopied: *mut usize,
    );

    /// D. Ends a DEFER; inbound, and never from classifyFn.
    pub fn FwpsStreamContinue0(
        flowId: u64,
        calloutId: u32,
        layerId: u16,
        streamFlags: FWPS_STREAM_FLAG,
    ) -> NTSTATUS;

    /// D. Resets the connection. Windows 8 and later.
    pub fn FwpsFlowAbort0(flowId: u64) -> NTSTATUS;

    /// D. OBJECT_NAME_EXISTS (which passes NT_SUCCESS) means that the old context stayed.
    pub fn FwpsFlowAssociateContext0(flowId: u64, layerId: u16, calloutId: u32, flowContext: u64)
    -> NTSTATUS;

    /// D. SUCCESS: flowDeleteFn has run. PENDING: it will. UNSUCCESSFUL: there is no context.
    pub fn FwpsFlowRemoveContext0(flowId: u64, layerId: u16, calloutId: u32) -> NTSTATUS;

    /// P. Needs the base filtering engine running.
    pub fn FwpmEngineOpen0(
        serverName: *const u16,
        authnService: u32,
        authIdentity: *mut c_void,
        session: *const FWPM_SESSION0,
        engineHandle: *mut HANDLE,
    ) -> NTSTATUS;

    /// P.
    pub fn FwpmEngineClose0(engineHandle: HANDLE) -> NTSTATUS;
    /// P.
    pub fn FwpmTransactionBegin0(engineHandle: HANDLE, flags: FWPM_TXN) -> NTSTATUS;
    /// P.
    pub fn FwpmTransactionCommit0(engineHandle: HANDLE) -> NTSTATUS;
    /// P.
    pub fn FwpmTransactionAbort0(engineHandle: HANDLE) -> NTSTATUS;

    /// P.
    pub fn FwpmProviderAdd0(
        engineHandle: HANDLE,
        provider: *const FWPM_PROVIDER0,
        sd: *mut SECURITY_DESCRIPTOR,
    ) -> NTSTATUS;
    /// P.
    pub fn FwpmProviderDeleteByKey0(engineHandle: HANDLE, key: *const GUID) -> NTSTATUS;

    /// P.
    pub fn FwpmSubLayerAdd0(
        engineHandle: HANDLE,
        subLayer: *const FWPM_SUBLAYER0,
        sd: *mut SECURITY_DESCRIPTOR,
    ) -> NTSTATUS;
    /// P.
    pub fn FwpmSubLayerDeleteByKey0(engineHandle: HANDLE, key: *const GUID) -> NTSTATUS;

    /// P.
    pub fn FwpmCalloutAdd0(
        engineHandle: HANDLE,
        callout: *const FWPM_CALLOUT0,
        sd: *mut SECURITY_DESCRIPTOR,
        id: *mut u32,
    ) -> NTSTATUS;
    /// P.
    pub fn FwpmCalloutDeleteById0(engineHandle: HANDLE, id: u32) -> NTSTATUS;
    /// P.
    pub fn FwpmCalloutDeleteByKey0(engineHandle: HANDLE, key: *const GUID) -> NTSTATUS;

    /// P.
    pub fn FwpmFilterAdd0(
        engineHandle: HANDLE,
        filter: *const FWPM_FILTER0,
        sd: *mut SECURITY_DESCRIPTOR,
        id: *mut u64,
    ) -> NTSTATUS;
    /// P.
    pub fn FwpmFilterDeleteById0(engineHandle: HANDLE, id: u64) -> NTSTATUS;
    /// P.
    pub fn FwpmFilterDeleteByKey0(engineHandle: HANDLE, key: *const GUID) -> NTSTATUS;

    /// P.
    pub fn FwpmFreeMemory0(p: *mut *mut c_void);

    /// D.
    pub fn FwpmBfeStateGet0() -> FWPM_SERVICE_STATE;
    /// P.
    pub fn FwpmBfeStateSubscribeChanges0(
        deviceObject: *mut c_void,
        callback: FWPM_SERVICE_STATE_CHANGE_CALLBACK0,
        context: *mut c_void,
        changeHandle: *mut HANDLE,
    ) -> NTSTATUS;
    /// P.
    pub fn FwpmBfeStateUnsubscribeChanges0(changeHandle: HANDLE) -> NTSTATUS;
}

#[cfg_attr(
    all(windows, not(feature = "simulated")),
    link(name = "ndis.sys", kind = "raw-dylib", modifiers = "+verbatim")
)]
unsafe extern "system" {
    /// P. An owner for pools; `driverObject` is the driver's.
    pub fn NdisAllocateGenericObject(driverObject: *mut c_void, tag: u32, size: u16) -> *mut c_void;
    /// P.
    pub fn NdisFreeGenericObject(ndisObject: *mut c_void);

    /// D. NULL on failure.
    pub fn NdisAllocateNetBufferListPool(
        ndisHandle: HANDLE,
        parameters: *const NET_BUFFER_LIST_POOL_PARAMETERS,
    ) -> HANDLE;
    /// D.
    pub fn NdisFreeNetBufferListPool(poolHandle: HANDLE);
    /// D. NULL on failure.
    pub fn NdisAllocateNetBufferPool(
        ndisHandle: HANDLE,
        parameters: *const NET_BUFFER_POOL_PARAMETERS,
    ) -> HANDLE;
    /// D.
    pub fn NdisFreeNetBufferPool(poolHandle: HANDLE);

    /// D. The bytes themselves when they lie together and aligned (never to be written), else a copy in `storage`, else
    /// NULL.
    pub fn NdisGetDataBuffer(
        netBuffer: *mut NET_BUFFER,
        bytesNeeded: u32,
        storage: *mut c_void,
        alignMultiple: u32,
        alignOffset: u32,
    ) -> *mut c_void;

    /// D. Moves the start back; balanced by the advance.
    pub fn NdisRetreatNetBufferDataStart(
        netBuffer: *mut NET_BUFFER,
        dataOffsetDelta: u32,
        dataBackFill: u32,
        allocateMdlHandler: *mut c_void,
    ) -> NTSTATUS;
    /// D.
    pub fn NdisAdvanceNetBufferDataStart(
        netBuffer: *mut NET_BUFFER,
        dataOffsetDelta: u32,
        freeMdl: BOOLEAN,
        freeMdlHandler: *mut c_void,
    );
    /// D. On every NB of the list.
    pub fn NdisRetreatNetBufferListDataStart(
        netBufferList: *mut NET_BUFFER_LIST,
        dataOffsetDelta: u32,
        dataBackFill: u32,
        allocateMdlHandler: *mut c_void,
        freeMdlHandler: *mut c_void,
    ) -> NTSTATUS;
    /// D. On every NB of the list.
    pub fn NdisAdvanceNetBufferListDataStart(
        netBufferList: *mut NET_BUFFER_LIST,
        dataOffsetDelta: u32,
        freeMdl: BOOLEAN,
        freeMdlHandler: *mut c_void,
    );

    /// D.
    pub fn NdisCopyFromNetBufferToNetBuffer(
        destination: *mut NET_BUFFER,
        destinationOffset: u32,
        bytesToCopy: u32,
        source: *const NET_BUFFER,
        sourceOffset: u32,
        bytesCopied: *mut u32,
    ) -> NTSTATUS;
}

#[cfg_attr(all(windows, not(feature = "simulated")), link(name = "ntoskrnl"))]
unsafe extern "system" {
    /// D. NULL on failure. Describes nothing until it is built.
    pub fn IoAllocateMdl(
        virtualAddress: *mut c_void,
        length: u32,
        secondaryBuffer: BOOLEAN,
        chargeQuota: BOOLEAN,
        irp: *mut c_void,
    ) -> *mut MDL;
    /// D. Makes `targetMdl` describe a part of what `sourceMdl` describes; `length` 0 is all from the address on.
    pub fn IoBuildPartialMdl(
        sourceMdl: *mut MDL,
        targetMdl: *mut MDL,
        virtualAddress: *mut c_void,
        length: u32,
    );
    /// D. For bytes in nonpaged memory.
    pub fn MmBuildMdlForNonPagedPool(mdl: *mut MDL);
    /// D. One MDL, not its chain.
    pub fn IoFreeMdl(mdl: *mut MDL);
    /// D for kernel mode. Called by [`MmGetSystemAddressForMdlSafe`].
    pub fn MmMapLockedPagesSpecifyCache(
        mdl: *mut MDL,
        accessMode: i8,
        cacheType: i32,
        requestedAddress: *mut c_void,
        bugCheckOnFailure: u32,
        priority: u32,
    ) -> *mut c_void;

    /// D. NULL on failure. Work for a PASSIVE_LEVEL thread.
    pub fn IoAllocateWorkItem(deviceObject: *mut c_void) -> *mut c_void;
    /// D. `queueType` 1 is DelayedWorkQueue.
    pub fn IoQueueWorkItem(
        workItem: *mut c_void,
        workerRoutine: IO_WORKITEM_ROUTINE,
        queueType: i32,
        context: *mut c_void,
    );
    /// D. Not while the item is queued; a routine may free its own item.
    pub fn IoFreeWorkItem(workItem: *mut c_void);
}

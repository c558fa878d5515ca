//! Sizes, alignments and offsets of every struct, checked when the crate is compiled.
//!
//! `Name: size align alignment { offset member, }`. The numbers come from the public headers compiled for x64;
//! arm64 has the same.

use core::mem::{align_of, offset_of, size_of};

use crate::*;

macro_rules! layouts {
    ($($name:ty: $size:literal align $align:literal { $($offset:literal $member:ident,)* })*) => {
        $(const _: () = {
            assert!(size_of::<$name>() == $size);
            assert!(align_of::<$name>() == $align);
            $(assert!(offset_of!($name, $member) == $offset);)*
        };)*
    };
}

layouts! {
    FWPS_CALLOUT0: 48 align 8 {
        0 calloutKey, 16 flags, 24 classifyFn, 32 notifyFn, 40 flowDeleteFn,
    }
    FWPS_CALLOUT1: 48 align 8 {
        0 calloutKey, 16 flags, 24 classifyFn, 32 notifyFn, 40 flowDeleteFn,
    }
    FWPS_CLASSIFY_OUT0: 40 align 8 {
        0 actionType, 8 outContext, 16 filterId, 24 rights, 28 flags, 32 reserved,
    }
    FWPS_INCOMING_VALUE0: 16 align 8 {
        0 value,
    }
    FWPS_INCOMING_VALUES0: 16 align 8 {
        0 layerId, 4 valueCount, 8 incomingValue,
    }
    FWP_VALUE0: 16 align 8 {
        0 r#type, 8 data,
    }
    FWP_CONDITION_VALUE0: 16 align 8 {
        0 r#type, 8 data,
    }
    FWP_BYTE_BLOB: 16 align 8 {
        0 size, 8 data,
    }
    FWP_BYTE_ARRAY16: 16 align 1 {
        0 byteArray16,
    }
    FWP_V4_ADDR_AND_MASK: 8 align 4 {
        0 addr, 4 mask,
    }
    FWP_V6_ADDR_AND_MASK: 17 align 1 {
        0 addr, 16 prefixLength,
    }
    FWP_RANGE0: 32 align 8 {
        0 valueLow, 16 valueHigh,
    }
    FWPS_DISCARD_METADATA0: 16 align 8 {
        0 discardModule, 4 discardReason, 8 filterId,
    }
    FWPS_INBOUND_FRAGMENT_METADATA0: 12 align 4 {
        0 fragmentIdentification, 4 fragmentOffset, 8 fragmentLength,
    }
    IP_ADDRESS_PREFIX: 32 align 4 {
        0 Prefix, 28 PrefixLength,
    }
    SCOPE_ID: 4 align 4 {}
    WSACMSGHDR: 16 align 8 {
        0 cmsg_len, 8 cmsg_level, 12 cmsg_type,
    }
    FWPS_INCOMING_METADATA_VALUES0: 280 align 8 {
        0 currentMetadataValues, 4 flags, 8 reserved, 16 discardMetadata, 32 flowHandle,
        40 ipHeaderSize, 44 transportHeaderSize, 48 processPath, 56 token, 64 processId,
        72 sourceInterfaceIndex, 76 destinationInterfaceIndex, 80 compartmentId, 84 fragmentMetadata,
        96 pathMtu, 104 completionHandle, 112 transportEndpointHandle, 120 remoteScopeId,
        128 controlData, 136 controlDataLength, 140 packetDirection, 144 headerIncludeHeader,
        152 headerIncludeHeaderLength, 156 destinationPrefix, 188 frameLength, 192 parentEndpointHandle,
        200 icmpIdAndSequence, 204 localRedirectTargetPID, 208 originalDestination, 216 redirectRecords,
        224 currentL2MetadataValues, 228 l2Flags, 232 ethernetMacHeaderSize, 236 wiFiOperationMode,
        240 vSwitchSourcePortId, 244 vSwitchSourceNicIndex, 248 vSwitchDestinationPortId,
        256 vSwitchPacketContext, 264 subProcessTag, 272 reserved1,
    }
    FWPS_FILTER_CONDITION0: 24 align 8 {
        0 fieldId, 2 reserved, 4 matchType, 8 conditionValue,
    }
    FWPS_ACTION0: 8 align 4 {
        0 r#type, 4 calloutId,
    }
    FWPS_FILTER1: 64 align 8 {
        0 filterId, 8 weight, 24 subLayerWeight, 26 flags, 28 numFilterConditions, 32 filterCondition,
        40 action, 48 context, 56 providerContext,
    }
    FWPS_STREAM_DATA_OFFSET0: 40 align 8 {
        0 netBufferList, 8 netBuffer, 16 mdl, 24 mdlOffset, 28 netBufferOffset, 32 streamDataOffset,
    }
    FWPS_STREAM_DATA0: 64 align 8 {
        0 flags, 8 dataOffset, 48 dataLength, 56 netBufferListChain,
    }
    FWPS_STREAM_CALLOUT_IO_PACKET0: 40 align 8 {
        0 streamData, 8 missedBytes, 16 countBytesRequired, 24 countBytesEnforced, 32 streamAction,
    }
    FWPS_TRANSPORT_SEND_PARAMS0: 32 align 8 {
        0 remoteAddress, 8 remoteScopeId, 16 controlData, 24 controlDataLength,
    }
    FWPS_TRANSPORT_SEND_PARAMS1: 48 align 8 {
        0 remoteAddress, 8 remoteScopeId, 16 controlData, 24 controlDataLength, 32 headerIncludeHeader,
        40 headerIncludeHeaderLength,
    }
    FWPS_PACKET_LIST_INFORMATION0: 8 align 4 {
        0 ipsecInformation, 4 fwpInformation,
    }
    NET_BUFFER: 176 align 16 {
        0 Next, 8 CurrentMdl, 16 CurrentMdlOffset, 24 DataLength, 32 MdlChain, 40 DataOffset,
        48 ChecksumBias, 50 Reserved, 56 NdisPoolHandle, 64 NdisReserved, 80 ProtocolReserved,
        128 MiniportReserved, 160 DataPhysicalAddress, 168 SharedMemoryInfo,
    }
    NET_BUFFER_LIST: 368 align 16 {
        0 Next, 8 FirstNetBuffer, 16 Context, 24 ParentNetBufferList, 32 NdisPoolHandle,
        48 NdisReserved, 64 ProtocolReserved, 96 MiniportReserved, 112 Scratch, 120 SourceHandle,
        128 NblFlags, 132 ChildRefCount, 136 Flags, 140 Status, 144 NetBufferListInfo,
    }
    NET_BUFFER_LIST_CONTEXT: 16 align 16 {
        0 Next, 8 Size, 10 Offset,
    }
    NDIS_OBJECT_HEADER: 4 align 2 {
        0 Type, 1 Revision, 2 Size,
    }
    NET_BUFFER_LIST_POOL_PARAMETERS: 16 align 4 {
        0 Header, 4 ProtocolId, 5 fAllocateNetBuffer, 6 ContextSize, 8 PoolTag, 12 DataSize,
    }
    NET_BUFFER_POOL_PARAMETERS: 12 align 4 {
        0 Header, 4 PoolTag, 8 DataSize,
    }
    MDL: 48 align 8 {
        0 Next, 8 Size, 10 MdlFlags, 16 Process, 24 MappedSystemVa, 32 StartVa, 40 ByteCount,
        44 ByteOffset,
    }
    FWPM_DISPLAY_DATA0: 16 align 8 {
        0 name, 8 description,
    }
    FWPM_SESSION0: 72 align 8 {
        0 sessionKey, 16 displayData, 32 flags, 36 txnWaitTimeoutInMSec, 40 processId, 48 sid,
        56 username, 64 kernelMode,
    }
    FWPM_PROVIDER0: 64 align 8 {
        0 providerKey, 16 displayData, 32 flags, 40 providerData, 56 serviceName,
    }
    FWPM_SUBLAYER0: 72 align 8 {
        0 subLayerKey, 16 displayData, 32 flags, 40 providerKey, 48 providerData, 64 weight,
    }
    FWPM_CALLOUT0: 88 align 8 {
        0 calloutKey, 16 displayData, 32 flags, 40 providerKey, 48 providerData, 64 applicableLayer,
        80 calloutId,
    }
    FWPM_ACTION0: 20 align 4 {
        0 r#type, 4 calloutKey,
    }
    FWPM_FILTER_CONDITION0: 40 align 8 {
        0 fieldKey, 16 matchType, 24 conditionValue,
    }
    FWPM_FILTER0: 200 align 8 {
        0 filterKey, 16 displayData, 32 flags, 40 providerKey, 48 providerData, 64 layerKey,
        80 subLayerKey, 96 weight, 112 numFilterConditions, 120 filterCondition, 128 action,
        152 context, 168 reserved, 176 filterId, 184 effectiveWeight,
    }
}

//! What classifyFn is given and what it answers (fwpstypes.h).

use core::ffi::c_void;

use crate::base::{HANDLE, SCOPE_ID, SOCKADDR_INET, WSACMSGHDR};
use crate::constants::*;
use crate::value::{FWP_BYTE_BLOB, FWP_VALUE0};

/// The answer of a classify. Callouts write `actionType`, `rights` and `flags`; the rest is the engine's.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct FWPS_CLASSIFY_OUT0 {
    pub actionType: FWP_ACTION,
    pub outContext: u64,
    pub filterId: u64,
    pub rights: FWPS_RIGHT,
    pub flags: FWPS_CLASSIFY_OUT_FLAG,
    pub reserved: u32,
}

/// One fixed value.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct FWPS_INCOMING_VALUE0 {
    pub value: FWP_VALUE0,
}

/// The fixed values of a layer, indexed by the constants of [`crate::layer`]; a field exists iff its index is below
/// `valueCount`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct FWPS_INCOMING_VALUES0 {
    pub layerId: u16,
    pub valueCount: u32,
    pub incomingValue: *mut FWPS_INCOMING_VALUE0,
}

/// Why a packet is being discarded.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct FWPS_DISCARD_METADATA0 {
    pub discardModule: u32,
    pub discardReason: u32,
    pub filterId: u64,
}

/// Place of an inbound fragment in its datagram.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct FWPS_INBOUND_FRAGMENT_METADATA0 {
    pub fragmentIdentification: u32,
    pub fragmentOffset: u16,
    pub fragmentLength: u32,
}

/// An address and the length of its prefix.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct IP_ADDRESS_PREFIX {
    pub Prefix: SOCKADDR_INET,
    pub PrefixLength: u8,
}

/// Everything else that is known about the data. A member is meaningful only while its bit is set in
/// `currentMetadataValues`: without it the member is garbage, and on an older system may not even exist.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct FWPS_INCOMING_METADATA_VALUES0 {
    pub currentMetadataValues: FWPS_METADATA_FIELD,
    pub flags: FWPS_INCOMING_FLAG,
    pub reserved: u64,
    pub discardMetadata: FWPS_DISCARD_METADATA0,
    pub flowHandle: u64,
    pub ipHeaderSize: u32,
    pub transportHeaderSize: u32,
    pub processPath: *mut FWP_BYTE_BLOB,
    pub token: u64,
    pub processId: u64,
    pub sourceInterfaceIndex: u32,
    pub destinationInterfaceIndex: u32,
    pub compartmentId: COMPARTMENT_ID,
    pub fragmentMetadata: FWPS_INBOUND_FRAGMENT_METADATA0,
    pub pathMtu: u32,
    pub completionHandle: HANDLE,
    pub transportEndpointHandle: u64,
    pub remoteScopeId: SCOPE_ID,
    pub controlData: *mut WSACMSGHDR,
    pub controlDataLength: u32,
    pub packetDirection: FWP_DIRECTION,
    pub headerIncludeHeader: *mut c_void,
    pub headerIncludeHeaderLength: u32,
    pub destinationPrefix: IP_ADDRESS_PREFIX,
    pub frameLength: u16,
    pub parentEndpointHandle: u64,
    pub icmpIdAndSequence: u32,
    pub localRedirectTargetPID: u32,
    pub originalDestination: *mut c_void,
    pub redirectRecords: HANDLE,
    pub currentL2MetadataValues: FWPS_L2_METADATA_FIELD,
    pub l2Flags: u32,
    pub ethernetMacHeaderSize: u32,
    pub wiFiOperationMode: u32,
    pub vSwitchSourcePortId: u32,
    pub vSwitchSourceNicIndex: u16,
    pub vSwitchDestinationPortId: u32,
    pub vSwitchPacketContext: HANDLE,
    pub subProcessTag: *mut c_void,
    pub reserved1: u64,
}

impl FWPS_INCOMING_METADATA_VALUES0 {
    /// True when every member named by `fields` may be read (`FWPS_IS_METADATA_FIELD_PRESENT`).
    pub const fn has(&self, fields: FWPS_METADATA_FIELD) -> bool {
        self.currentMetadataValues.has(fields)
    }
}

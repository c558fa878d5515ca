//! What the stream layers show (fwpsk.h): TCP payload in order, without headers.

use crate::constants::{FWPS_STREAM_ACTION, FWPS_STREAM_FLAG};
use crate::packet::{MDL, NET_BUFFER, NET_BUFFER_LIST};

/// Where in the chain the indicated data begins.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct FWPS_STREAM_DATA_OFFSET0 {
    pub netBufferList: *mut NET_BUFFER_LIST,
    pub netBuffer: *mut NET_BUFFER,
    pub mdl: *mut MDL,
    pub mdlOffset: u32,
    pub netBufferOffset: u32,
    pub streamDataOffset: usize,
}

/// One indication: `dataLength` bytes from `dataOffset` on.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct FWPS_STREAM_DATA0 {
    pub flags: FWPS_STREAM_FLAG,
    pub dataOffset: FWPS_STREAM_DATA_OFFSET0,
    pub dataLength: usize,
    pub netBufferListChain: *mut NET_BUFFER_LIST,
}

/// `layerData` of the stream layers. The last three members are the callout's answer and hold leftovers on entry.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct FWPS_STREAM_CALLOUT_IO_PACKET0 {
    pub streamData: *mut FWPS_STREAM_DATA0,
    pub missedBytes: usize,
    pub countBytesRequired: u32,
    pub countBytesEnforced: usize,
    pub streamAction: FWPS_STREAM_ACTION,
}

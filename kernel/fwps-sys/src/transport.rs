//! What a transport-send injection is given (fwpsk.h).

use crate::base::{SCOPE_ID, WSACMSGHDR};

/// Send parameters without a raw header. Everything it points to must live until the injection completes.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct FWPS_TRANSPORT_SEND_PARAMS0 {
    /// 4 or 16 bytes in network order.
    pub remoteAddress: *mut u8,
    pub remoteScopeId: SCOPE_ID,
    pub controlData: *mut WSACMSGHDR,
    pub controlDataLength: u32,
}

/// Send parameters with the header of a raw, header-included send.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct FWPS_TRANSPORT_SEND_PARAMS1 {
    /// 4 or 16 bytes in network order.
    pub remoteAddress: *mut u8,
    pub remoteScopeId: SCOPE_ID,
    pub controlData: *mut WSACMSGHDR,
    pub controlDataLength: u32,
    pub headerIncludeHeader: *mut u8,
    pub headerIncludeHeaderLength: u32,
}

/// IPsec and reinjection state of a packet list, as bit fields.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct FWPS_PACKET_LIST_INFORMATION0 {
    pub ipsecInformation: u32,
    pub fwpInformation: u32,
}

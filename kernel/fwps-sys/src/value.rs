//! Typed values: how the filter engine says an address, a port or a name (fwptypes.h).

use core::ffi::c_void;

use crate::base::{SECURITY_DESCRIPTOR, SID};
use crate::macros::values;

values! {
    /// Which member of [`FWP_VALUE0_DATA`] is meant.
    FWP_DATA_TYPE: u32 {
        EMPTY = 0,
        UINT8 = 1,
        UINT16 = 2,
        UINT32 = 3,
        UINT64 = 4,
        INT8 = 5,
        INT16 = 6,
        INT32 = 7,
        INT64 = 8,
        FLOAT = 9,
        DOUBLE = 10,
        BYTE_ARRAY16_TYPE = 11,
        BYTE_BLOB_TYPE = 12,
        SID = 13,
        SECURITY_DESCRIPTOR_TYPE = 14,
        TOKEN_INFORMATION_TYPE = 15,
        TOKEN_ACCESS_INFORMATION_TYPE = 16,
        UNICODE_STRING_TYPE = 17,
        BYTE_ARRAY6_TYPE = 18,
        V4_ADDR_MASK = 0x100,
        V6_ADDR_MASK = 0x101,
        RANGE_TYPE = 0x102,
    }
}

values! {
    /// How a filter condition compares (`FWP_MATCH_*`).
    FWP_MATCH_TYPE: u32 {
        EQUAL = 0,
        GREATER = 1,
        LESS = 2,
        GREATER_OR_EQUAL = 3,
        LESS_OR_EQUAL = 4,
        RANGE = 5,
        FLAGS_ALL_SET = 6,
        FLAGS_ANY_SET = 7,
        FLAGS_NONE_SET = 8,
        EQUAL_CASE_INSENSITIVE = 9,
        NOT_EQUAL = 10,
        PREFIX = 11,
        NOT_PREFIX = 12,
    }
}

/// The payload of a value. Integers up to 32 bits are inline and only their own width is defined; a 64-bit integer
/// and everything larger is behind a pointer.
#[repr(C)]
#[derive(Clone, Copy)]
pub union FWP_VALUE0_DATA {
    pub uint8: u8,
    pub uint16: u16,
    pub uint32: u32,
    pub uint64: *mut u64,
    pub int8: i8,
    pub int16: i16,
    pub int32: i32,
    pub int64: *mut i64,
    pub float32: f32,
    pub double64: *mut f64,
    pub byteArray16: *mut FWP_BYTE_ARRAY16,
    pub byteBlob: *mut FWP_BYTE_BLOB,
    pub sid: *mut SID,
    pub sd: *mut SECURITY_DESCRIPTOR,
    pub tokenInformation: *mut c_void,
    pub tokenAccessInformation: *mut FWP_BYTE_BLOB,
    pub unicodeString: *mut u16,
    pub byteArray6: *mut [u8; 6],
}

/// A typed value (`FWP_VALUE0`).
#[repr(C)]
#[derive(Clone, Copy)]
pub struct FWP_VALUE0 {
    pub r#type: FWP_DATA_TYPE,
    pub data: FWP_VALUE0_DATA,
}

impl FWP_VALUE0 {
    /// No value.
    pub const EMPTY: Self =
        Self { r#type: FWP_DATA_TYPE::EMPTY, data: FWP_VALUE0_DATA { uint64: core::ptr::null_mut() } };
}

/// The payload of a condition value: everything a value can be, and masks and ranges.
#[repr(C)]
#[derive(Clone, Copy)]
pub union FWP_CONDITION_VALUE0_DATA {
    pub value: FWP_VALUE0_DATA,
    pub v4AddrMask: *mut FWP_V4_ADDR_AND_MASK,
    pub v6AddrMask: *mut FWP_V6_ADDR_AND_MASK,
    pub rangeValue: *mut FWP_RANGE0,
}

/// A typed value in a filter condition (`FWP_CONDITION_VALUE0`).
#[repr(C)]
#[derive(Clone, Copy)]
pub struct FWP_CONDITION_VALUE0 {
    pub r#type: FWP_DATA_TYPE,
    pub data: FWP_CONDITION_VALUE0_DATA,
}

/// Bytes with a length.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct FWP_BYTE_BLOB {
    pub size: u32,
    pub data: *mut u8,
}

/// Sixteen bytes: an IPv6 address in network order.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FWP_BYTE_ARRAY16 {
    pub byteArray16: [u8; 16],
}

/// An IPv4 address and mask, both in host byte order.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct FWP_V4_ADDR_AND_MASK {
    pub addr: u32,
    pub mask: u32,
}

/// An IPv6 address and prefix length.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct FWP_V6_ADDR_AND_MASK {
    pub addr: [u8; 16],
    pub prefixLength: u8,
}

/// A range of values, both ends included.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct FWP_RANGE0 {
    pub valueLow: FWP_VALUE0,
    pub valueHigh: FWP_VALUE0,
}

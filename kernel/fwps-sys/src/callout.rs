//! A callout, its callbacks, and the filter that leads to it (fwpsk.h).

use core::ffi::c_void;

use crate::base::{BOOLEAN, GUID};
use crate::classify::{FWPS_CLASSIFY_OUT0, FWPS_INCOMING_METADATA_VALUES0, FWPS_INCOMING_VALUES0};
use crate::constants::*;
use crate::packet::NET_BUFFER_LIST;
use crate::status::NTSTATUS;
use crate::value::{FWP_CONDITION_VALUE0, FWP_MATCH_TYPE, FWP_VALUE0};

/// classifyFn of callouts version 1 to 3. Called at IRQL <= DISPATCH_LEVEL in any thread; `layerData` may be NULL.
pub type FWPS_CALLOUT_CLASSIFY_FN1 = Option<
    unsafe extern "system" fn(
        inFixedValues: *const FWPS_INCOMING_VALUES0,
        inMetaValues: *const FWPS_INCOMING_METADATA_VALUES0,
        layerData: *mut c_void,
        classifyContext: *const c_void,
        filter: *const FWPS_FILTER1,
        flowContext: u64,
        classifyOut: *mut FWPS_CLASSIFY_OUT0,
    ),
>;

/// classifyFn of callouts version 0, which has no classify context.
pub type FWPS_CALLOUT_CLASSIFY_FN0 = Option<
    unsafe extern "system" fn(
        inFixedValues: *const FWPS_INCOMING_VALUES0,
        inMetaValues: *const FWPS_INCOMING_METADATA_VALUES0,
        layerData: *mut c_void,
        filter: *const FWPS_FILTER1,
        flowContext: u64,
        classifyOut: *mut FWPS_CLASSIFY_OUT0,
    ),
>;

/// notifyFn. Called at PASSIVE_LEVEL inside a management transaction: no `Fwpm*` call from here. `filterKey` is NULL on
/// delete. Any failure from ADD_FILTER refuses the filter.
pub type FWPS_CALLOUT_NOTIFY_FN1 = Option<
    unsafe extern "system" fn(
        notifyType: FWPS_CALLOUT_NOTIFY_TYPE,
        filterKey: *const GUID,
        filter: *mut FWPS_FILTER1,
    ) -> NTSTATUS,
>;

/// flowDeleteFn. Called once for each associated context, at IRQL <= DISPATCH_LEVEL.
pub type FWPS_CALLOUT_FLOW_DELETE_NOTIFY_FN0 =
    Option<unsafe extern "system" fn(layerId: u16, calloutId: u32, flowContext: u64)>;

/// Completion of an injection: once for each NBL, at IRQL <= DISPATCH_LEVEL, possibly before the inject call returns.
pub type FWPS_INJECT_COMPLETE0 = Option<
    unsafe extern "system" fn(
        context: *mut c_void,
        netBufferList: *mut NET_BUFFER_LIST,
        dispatchLevel: BOOLEAN,
    ),
>;

/// A callout of version 1 (Windows 7 and later). Versions 2 and 3 have the same layout.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct FWPS_CALLOUT1 {
    pub calloutKey: GUID,
    pub flags: FWP_CALLOUT_FLAG,
    pub classifyFn: FWPS_CALLOUT_CLASSIFY_FN1,
    pub notifyFn: FWPS_CALLOUT_NOTIFY_FN1,
    pub flowDeleteFn: FWPS_CALLOUT_FLOW_DELETE_NOTIFY_FN0,
}

pub type FWPS_CALLOUT2 = FWPS_CALLOUT1;
pub type FWPS_CALLOUT3 = FWPS_CALLOUT1;

/// A callout of version 0 (Windows Vista).
#[repr(C)]
#[derive(Clone, Copy)]
pub struct FWPS_CALLOUT0 {
    pub calloutKey: GUID,
    pub flags: FWP_CALLOUT_FLAG,
    pub classifyFn: FWPS_CALLOUT_CLASSIFY_FN0,
    pub notifyFn: FWPS_CALLOUT_NOTIFY_FN1,
    pub flowDeleteFn: FWPS_CALLOUT_FLOW_DELETE_NOTIFY_FN0,
}

/// One condition of a filter.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct FWPS_FILTER_CONDITION0 {
    pub fieldId: u16,
    pub reserved: u16,
    pub matchType: FWP_MATCH_TYPE,
    pub conditionValue: FWP_CONDITION_VALUE0,
}

/// What a filter does when it matches.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct FWPS_ACTION0 {
    pub r#type: FWP_ACTION,
    pub calloutId: u32,
}

/// A filter at run time. Versions 0 to 3 differ only in what `providerContext` points to.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct FWPS_FILTER1 {
    pub filterId: u64,
    pub weight: FWP_VALUE0,
    pub subLayerWeight: u16,
    pub flags: FWPS_FILTER_FLAG,
    pub numFilterConditions: u32,
    pub filterCondition: *mut FWPS_FILTER_CONDITION0,
    pub action: FWPS_ACTION0,
    pub context: u64,
    pub providerContext: *mut c_void,
}

pub type FWPS_FILTER0 = FWPS_FILTER1;
pub type FWPS_FILTER2 = FWPS_FILTER1;
pub type FWPS_FILTER3 = FWPS_FILTER1;

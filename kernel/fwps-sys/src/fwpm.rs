//! Management objects: session, provider, sublayer, callout, filter (fwpmk.h).

use core::ffi::c_void;

use crate::base::{BOOL, GUID, SID};
use crate::constants::FWP_ACTION;
use crate::macros::{flags, values};
use crate::value::{FWP_BYTE_BLOB, FWP_CONDITION_VALUE0, FWP_MATCH_TYPE, FWP_VALUE0};

/// Name and description; every added object must have a name.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct FWPM_DISPLAY_DATA0 {
    pub name: *const u16,
    pub description: *const u16,
}

/// A session with the filter engine.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct FWPM_SESSION0 {
    pub sessionKey: GUID,
    pub displayData: FWPM_DISPLAY_DATA0,
    pub flags: FWPM_SESSION_FLAG,
    /// 0 is the default of 15 seconds.
    pub txnWaitTimeoutInMSec: u32,
    pub processId: u32,
    pub sid: *mut SID,
    pub username: *mut u16,
    pub kernelMode: BOOL,
}

/// Who the other objects belong to.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct FWPM_PROVIDER0 {
    pub providerKey: GUID,
    pub displayData: FWPM_DISPLAY_DATA0,
    pub flags: FWPM_PROVIDER_FLAG,
    pub providerData: FWP_BYTE_BLOB,
    pub serviceName: *mut u16,
}

/// A place for filters; the higher its weight, the earlier it is asked.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct FWPM_SUBLAYER0 {
    pub subLayerKey: GUID,
    pub displayData: FWPM_DISPLAY_DATA0,
    pub flags: FWPM_SUBLAYER_FLAG,
    pub providerKey: *mut GUID,
    pub providerData: FWP_BYTE_BLOB,
    pub weight: u16,
}

/// A callout as management sees it.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct FWPM_CALLOUT0 {
    pub calloutKey: GUID,
    pub displayData: FWPM_DISPLAY_DATA0,
    pub flags: FWPM_CALLOUT_FLAG,
    pub providerKey: *mut GUID,
    pub providerData: FWP_BYTE_BLOB,
    pub applicableLayer: GUID,
    pub calloutId: u32,
}

/// What a filter does.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct FWPM_ACTION0 {
    pub r#type: FWP_ACTION,
    /// The callout's key, or the filter type.
    pub calloutKey: GUID,
}

/// When a filter matches: repeated fields are alternatives, different fields must all match.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct FWPM_FILTER_CONDITION0 {
    pub fieldKey: GUID,
    pub matchType: FWP_MATCH_TYPE,
    pub conditionValue: FWP_CONDITION_VALUE0,
}

/// What a filter hands to its callout.
#[repr(C)]
#[derive(Clone, Copy)]
pub union FWPM_FILTER0_CONTEXT {
    pub rawContext: u64,
    pub providerContextKey: GUID,
    /// Keeps the alignment of the C union.
    pub words: [u64; 2],
}

/// A filter as management sees it.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct FWPM_FILTER0 {
    pub filterKey: GUID,
    pub displayData: FWPM_DISPLAY_DATA0,
    pub flags: FWPM_FILTER_FLAG,
    pub providerKey: *mut GUID,
    pub providerData: FWP_BYTE_BLOB,
    pub layerKey: GUID,
    pub subLayerKey: GUID,
    /// EMPTY is automatic, UINT8 0 to 15 a class of weights, UINT64 exact.
    pub weight: FWP_VALUE0,
    pub numFilterConditions: u32,
    pub filterCondition: *mut FWPM_FILTER_CONDITION0,
    pub action: FWPM_ACTION0,
    pub context: FWPM_FILTER0_CONTEXT,
    pub reserved: *mut GUID,
    pub filterId: u64,
    pub effectiveWeight: FWP_VALUE0,
}

flags! {
    /// `FWPM_SESSION_FLAG_*`. The objects of a dynamic session go away with it.
    FWPM_SESSION_FLAG: u32 {
        DYNAMIC = 0x1,
    }
}

flags! {
    /// `FWPM_PROVIDER_FLAG_*`.
    FWPM_PROVIDER_FLAG: u32 {
        PERSISTENT = 0x1,
        DISABLED = 0x10,
    }
}

flags! {
    /// `FWPM_SUBLAYER_FLAG_*`.
    FWPM_SUBLAYER_FLAG: u32 {
        PERSISTENT = 0x1,
    }
}

flags! {
    /// `FWPM_CALLOUT_FLAG_*`.
    FWPM_CALLOUT_FLAG: u32 {
        PERSISTENT = 0x1_0000,
        USES_PROVIDER_CONTEXT = 0x2_0000,
        REGISTERED = 0x4_0000,
    }
}

flags! {
    /// `FWPM_FILTER_FLAG_*` (numbered otherwise than `FWPS_FILTER_FLAG`).
    FWPM_FILTER_FLAG: u32 {
        PERSISTENT = 0x1,
        BOOTTIME = 0x2,
        HAS_PROVIDER_CONTEXT = 0x4,
        CLEAR_ACTION_RIGHT = 0x8,
        PERMIT_IF_CALLOUT_UNREGISTERED = 0x10,
        DISABLED = 0x20,
        INDEXED = 0x40,
    }
}

values! {
    /// State of the base filtering engine (`FWPM_SERVICE_*`).
    FWPM_SERVICE_STATE: u32 {
        STOPPED = 0,
        START_PENDING = 1,
        STOP_PENDING = 2,
        RUNNING = 3,
    }
}

flags! {
    /// Flags of `FwpmTransactionBegin0`.
    FWPM_TXN: u32 {
        READ_ONLY = 0x1,
    }
}

/// The authentication service for `FwpmEngineOpen0` from the kernel.
pub const RPC_C_AUTHN_WINNT: u32 = 10;

/// Called when the base filtering engine changes state.
pub type FWPM_SERVICE_STATE_CHANGE_CALLBACK0 =
    Option<unsafe extern "system" fn(context: *mut c_void, newState: FWPM_SERVICE_STATE)>;

//! NTSTATUS and the values that these functions return.

use core::fmt;

/// A status code. Success for an injection or an allocation is [`NTSTATUS::SUCCESS`] alone: informational codes pass
/// `NT_SUCCESS` but did not do what was asked.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
#[must_use]
pub struct NTSTATUS(pub i32);

impl NTSTATUS {
    /// `Ok` for [`NTSTATUS::SUCCESS`], the code itself for everything else.
    ///
    /// # Errors
    /// Every code but `SUCCESS`, informational ones too.
    pub const fn ok(self) -> Result<(), Self> {
        if self.0 == 0 { Ok(()) } else { Err(self) }
    }

    /// The kernel's `NT_SUCCESS`: true for success and informational codes.
    pub const fn nt_success(self) -> bool {
        self.0 >= 0
    }
}

macro_rules! statuses {
    ($($name:ident = $value:expr,)*) => {
        impl NTSTATUS {
            $(pub const $name: Self = Self($value as u32 as i32);)*

            /// The name of this code, if it is one of those above.
            pub const fn name(self) -> Option<&'static str> {
                match self {
                    $(Self::$name => Some(stringify!($name)),)*
                    _ => None,
                }
            }
        }
    };
}

statuses! {
    SUCCESS = 0,
    PENDING = 0x103,
    OBJECT_NAME_EXISTS = 0x4000_0000,
    DEVICE_BUSY = 0x8000_0011_u32,
    UNSUCCESSFUL = 0xC000_0001_u32,
    INVALID_PARAMETER = 0xC000_000D_u32,
    INVALID_DEVICE_REQUEST = 0xC000_0010_u32,
    NO_MEMORY = 0xC000_0017_u32,
    ACCESS_DENIED = 0xC000_0022_u32,
    BUFFER_TOO_SMALL = 0xC000_0023_u32,
    OBJECT_NAME_NOT_FOUND = 0xC000_0034_u32,
    INSUFFICIENT_RESOURCES = 0xC000_009A_u32,
    NOT_SUPPORTED = 0xC000_00BB_u32,
    CANCELLED = 0xC000_0120_u32,
    INVALID_DEVICE_STATE = 0xC000_0184_u32,
    INVALID_BUFFER_SIZE = 0xC000_0206_u32,
    DATA_NOT_ACCEPTED = 0xC000_021B_u32,
    NOT_FOUND = 0xC000_0225_u32,
    FWP_CALLOUT_NOT_FOUND = 0xC022_0001_u32,
    FWP_CONDITION_NOT_FOUND = 0xC022_0002_u32,
    FWP_FILTER_NOT_FOUND = 0xC022_0003_u32,
    FWP_LAYER_NOT_FOUND = 0xC022_0004_u32,
    EPT_NT_NOT_REGISTERED = 0xC002_0036_u32,
    FWP_PROVIDER_NOT_FOUND = 0xC022_0005_u32,
    FWP_PROVIDER_CONTEXT_NOT_FOUND = 0xC022_0006_u32,
    FWP_SUBLAYER_NOT_FOUND = 0xC022_0007_u32,
    FWP_NOT_FOUND = 0xC022_0008_u32,
    FWP_ALREADY_EXISTS = 0xC022_0009_u32,
    FWP_IN_USE = 0xC022_000A_u32,
    FWP_DYNAMIC_SESSION_IN_PROGRESS = 0xC022_000B_u32,
    FWP_WRONG_SESSION = 0xC022_000C_u32,
    FWP_NO_TXN_IN_PROGRESS = 0xC022_000D_u32,
    FWP_TXN_IN_PROGRESS = 0xC022_000E_u32,
    FWP_TXN_ABORTED = 0xC022_000F_u32,
    FWP_SESSION_ABORTED = 0xC022_0010_u32,
    FWP_INCOMPATIBLE_TXN = 0xC022_0011_u32,
    FWP_TIMEOUT = 0xC022_0012_u32,
    FWP_INCOMPATIBLE_LAYER = 0xC022_0014_u32,
    FWP_KM_CLIENTS_ONLY = 0xC022_0015_u32,
    FWP_LIFETIME_MISMATCH = 0xC022_0016_u32,
    FWP_BUILTIN_OBJECT = 0xC022_0017_u32,
    FWP_TOO_MANY_CALLOUTS = 0xC022_0018_u32,
    FWP_NOTIFICATION_DROPPED = 0xC022_0019_u32,
    FWP_NULL_POINTER = 0xC022_001C_u32,
    FWP_INVALID_FLAGS = 0xC022_001E_u32,
    FWP_ZERO_LENGTH_ARRAY = 0xC022_0022_u32,
    FWP_NULL_DISPLAY_NAME = 0xC022_0023_u32,
    FWP_INVALID_ACTION_TYPE = 0xC022_0024_u32,
    FWP_INVALID_WEIGHT = 0xC022_0025_u32,
    FWP_MATCH_TYPE_MISMATCH = 0xC022_0026_u32,
    FWP_TYPE_MISMATCH = 0xC022_0027_u32,
    FWP_OUT_OF_BOUNDS = 0xC022_0028_u32,
    FWP_RESERVED = 0xC022_0029_u32,
    FWP_DUPLICATE_CONDITION = 0xC022_002A_u32,
    FWP_ACTION_INCOMPATIBLE_WITH_LAYER = 0xC022_002C_u32,
    FWP_ACTION_INCOMPATIBLE_WITH_SUBLAYER = 0xC022_002D_u32,
    FWP_CONTEXT_INCOMPATIBLE_WITH_LAYER = 0xC022_002E_u32,
    FWP_CONTEXT_INCOMPATIBLE_WITH_CALLOUT = 0xC022_002F_u32,
    FWP_NEVER_MATCH = 0xC022_0033_u32,
    FWP_INVALID_PARAMETER = 0xC022_0035_u32,
    FWP_TOO_MANY_SUBLAYERS = 0xC022_0036_u32,
    FWP_CALLOUT_NOTIFICATION_FAILED = 0xC022_0037_u32,
    FWP_TCPIP_NOT_READY = 0xC022_0100_u32,
    FWP_INJECT_HANDLE_CLOSING = 0xC022_0101_u32,
    FWP_INJECT_HANDLE_STALE = 0xC022_0102_u32,
    FWP_CANNOT_PEND = 0xC022_0103_u32,
    FWP_DROP_NOICMP = 0xC022_0104_u32,
}

impl fmt::Debug for NTSTATUS {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => write!(f, "STATUS_{name}"),
            None => write!(f, "{:#010x}", self.0),
        }
    }
}

impl fmt::Display for NTSTATUS {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

//! Constant families of fwpsk.h and fwptypes.h, one type each.
//!
//! Several families share numbers (condition flags and metadata bits above all): the types keep them apart.

use crate::macros::{flags, values};

values! {
    /// What a filter or a callout decides (`FWP_ACTION_*`).
    FWP_ACTION: u32 {
        BLOCK = 0x1001,
        PERMIT = 0x1002,
        CALLOUT_TERMINATING = 0x5003,
        CALLOUT_INSPECTION = 0x6004,
        CALLOUT_UNKNOWN = 0x4005,
        CONTINUE = 0x2006,
        NONE = 0x7,
        NONE_NO_MATCH = 0x8,
    }
}

flags! {
    /// What a callout may still change in a [`FWPS_CLASSIFY_OUT0`](crate::FWPS_CLASSIFY_OUT0) (`FWPS_RIGHT_*`).
    FWPS_RIGHT: u32 {
        ACTION_WRITE = 0x1,
    }
}

flags! {
    /// `FWPS_CLASSIFY_OUT_FLAG_*`. `BUFFER_LIMIT_REACHED` and `NO_MORE_DATA` come from the engine.
    FWPS_CLASSIFY_OUT_FLAG: u32 {
        ABSORB = 0x1,
        BUFFER_LIMIT_REACHED = 0x2,
        NO_MORE_DATA = 0x4,
        ALE_FAST_CACHE_CHECK = 0x8,
        ALE_FAST_CACHE_POSSIBLE = 0x10,
    }
}

values! {
    /// What a stream callout asks for instead of permit or block (`FWPS_STREAM_ACTION_*`).
    FWPS_STREAM_ACTION: u32 {
        NONE = 0,
        NEED_MORE_DATA = 1,
        DROP_CONNECTION = 2,
        DEFER = 3,
        ALLOW_CONNECTION = 4,
    }
}

flags! {
    /// Direction and kind of stream data (`FWPS_STREAM_FLAG_*`).
    FWPS_STREAM_FLAG: u32 {
        RECEIVE = 0x1,
        RECEIVE_EXPEDITED = 0x2,
        RECEIVE_DISCONNECT = 0x4,
        RECEIVE_ABORT = 0x8,
        RECEIVE_PUSH = 0x10,
        SEND = 0x10000,
        SEND_EXPEDITED = 0x20000,
        SEND_NODELAY = 0x40000,
        SEND_DISCONNECT = 0x80000,
        SEND_ABORT = 0x100000,
    }
}

impl FWPS_STREAM_FLAG {
    /// Every bit that says inbound.
    pub const RECEIVE_FAMILY: Self = Self(0x1f);
    /// Every bit that says outbound.
    pub const SEND_FAMILY: Self = Self(0x1f_0000);
    /// The end of one direction (FIN), either direction.
    pub const DISCONNECT: Self = Self::RECEIVE_DISCONNECT.with(Self::SEND_DISCONNECT);
    /// A reset, either direction.
    pub const ABORT: Self = Self::RECEIVE_ABORT.with(Self::SEND_ABORT);
}

values! {
    /// Who injected a packet, seen from one injection handle (`FWPS_PACKET_*INJECTED*`).
    FWPS_PACKET_INJECTION_STATE: u32 {
        NOT_INJECTED = 0,
        INJECTED_BY_SELF = 1,
        INJECTED_BY_OTHER = 2,
        PREVIOUSLY_INJECTED_BY_SELF = 3,
    }
}

flags! {
    /// What an injection handle is for (`FWPS_INJECTION_TYPE_*`).
    FWPS_INJECTION_TYPE: u32 {
        STREAM = 0x1,
        TRANSPORT = 0x2,
        NETWORK = 0x4,
        FORWARD = 0x8,
        L2 = 0x10,
        VSWITCH_TRANSPORT = 0x20,
    }
}

flags! {
    /// Flags of a filter as the engine sees it (`FWPS_FILTER_FLAG_*`; numbered otherwise than `FWPM_FILTER_FLAG`).
    FWPS_FILTER_FLAG: u16 {
        CLEAR_ACTION_RIGHT = 0x1,
        PERMIT_IF_CALLOUT_UNREGISTERED = 0x2,
        OR_CONDITIONS = 0x4,
        HAS_SECURITY_REALM_PROVIDER_CONTEXT = 0x8,
        SILENT_MODE = 0x10,
        IPSEC_NO_ACQUIRE_INITIATE = 0x20,
    }
}

values! {
    /// Direction of a packet, or of who opened a flow (`FWP_DIRECTION_*`).
    FWP_DIRECTION: u32 {
        OUTBOUND = 0,
        INBOUND = 1,
    }
}

values! {
    /// Address family (`AF_*`).
    ADDRESS_FAMILY: u16 {
        UNSPEC = 0,
        INET = 2,
        INET6 = 23,
    }
}

values! {
    /// IP protocol number (`IPPROTO_*`).
    IPPROTO: u8 {
        ICMP = 1,
        TCP = 6,
        UDP = 17,
        ICMPV6 = 58,
    }
}

values! {
    /// Routing compartment.
    COMPARTMENT_ID: u32 {
        UNSPECIFIED = 0,
        DEFAULT = 1,
    }
}

flags! {
    /// Values of the FLAGS field of a layer (`FWP_CONDITION_FLAG_*`). Not metadata bits, though numbers coincide.
    FWP_CONDITION_FLAG: u32 {
        IS_LOOPBACK = 0x1,
        IS_IPSEC_SECURED = 0x2,
        IS_REAUTHORIZE = 0x4,
        IS_WILDCARD_BIND = 0x8,
        IS_RAW_ENDPOINT = 0x10,
        IS_FRAGMENT = 0x20,
        IS_FRAGMENT_GROUP = 0x40,
        IS_IPSEC_NATT_RECLASSIFY = 0x80,
        REQUIRES_ALE_CLASSIFY = 0x100,
        IS_IMPLICIT_BIND = 0x200,
        IS_REASSEMBLED = 0x400,
        IS_NAME_APP_SPECIFIED = 0x4000,
        IS_PROMISCUOUS = 0x8000,
        IS_AUTH_FW = 0x1_0000,
        IS_RECLASSIFY = 0x2_0000,
        IS_OUTBOUND_PASS_THRU = 0x4_0000,
        IS_INBOUND_PASS_THRU = 0x8_0000,
        IS_CONNECTION_REDIRECTED = 0x10_0000,
        IS_PROXY_CONNECTION = 0x20_0000,
        IS_APPCONTAINER_LOOPBACK = 0x40_0000,
        IS_NON_APPCONTAINER_LOOPBACK = 0x80_0000,
        RESERVED = 0x100_0000,
        IS_HONORING_POLICY_AUTHORIZE = 0x200_0000,
    }
}

flags! {
    /// Which members of the metadata are valid (`FWPS_METADATA_FIELD_*`). A member without its bit is garbage.
    FWPS_METADATA_FIELD: u32 {
        DISCARD_REASON = 0x1,
        FLOW_HANDLE = 0x2,
        IP_HEADER_SIZE = 0x4,
        PROCESS_PATH = 0x8,
        TOKEN = 0x10,
        PROCESS_ID = 0x20,
        SYSTEM_FLAGS = 0x40,
        RESERVED = 0x80,
        SOURCE_INTERFACE_INDEX = 0x100,
        DESTINATION_INTERFACE_INDEX = 0x200,
        TRANSPORT_HEADER_SIZE = 0x400,
        COMPARTMENT_ID = 0x800,
        FRAGMENT_DATA = 0x1000,
        PATH_MTU = 0x2000,
        COMPLETION_HANDLE = 0x4000,
        TRANSPORT_ENDPOINT_HANDLE = 0x8000,
        TRANSPORT_CONTROL_DATA = 0x1_0000,
        REMOTE_SCOPE_ID = 0x2_0000,
        PACKET_DIRECTION = 0x4_0000,
        PACKET_SYSTEM_CRITICAL = 0x8_0000,
        FORWARD_LAYER_OUTBOUND_PASS_THRU = 0x10_0000,
        FORWARD_LAYER_INBOUND_PASS_THRU = 0x20_0000,
        ALE_CLASSIFY_REQUIRED = 0x40_0000,
        TRANSPORT_HEADER_INCLUDE_HEADER = 0x80_0000,
        DESTINATION_PREFIX = 0x100_0000,
        ETHER_FRAME_LENGTH = 0x200_0000,
        PARENT_ENDPOINT_HANDLE = 0x400_0000,
        ICMP_ID_AND_SEQUENCE = 0x800_0000,
        LOCAL_REDIRECT_TARGET_PID = 0x1000_0000,
        ORIGINAL_DESTINATION = 0x2000_0000,
        REDIRECT_RECORD_HANDLE = 0x4000_0000,
        SUB_PROCESS_TAG = 0x8000_0000,
    }
}

flags! {
    /// Which L2 members of the metadata are valid (`FWPS_L2_METADATA_FIELD_*`).
    FWPS_L2_METADATA_FIELD: u32 {
        ETHERNET_MAC_HEADER_SIZE = 0x1,
        WIFI_OPERATION_MODE = 0x2,
        VSWITCH_SOURCE_PORT_ID = 0x4,
        VSWITCH_SOURCE_NIC_INDEX = 0x8,
        VSWITCH_PACKET_CONTEXT = 0x10,
        VSWITCH_DESTINATION_PORT_ID = 0x20,
        RESERVED = 0x8000_0000,
    }
}

flags! {
    /// The metadata's `flags` member, valid with `SYSTEM_FLAGS` (`FWPS_INCOMING_FLAG_*`; for the system's own use).
    FWPS_INCOMING_FLAG: u32 {
        CACHE_SAFE = 0x1,
        ENFORCE_QUERY = 0x2,
        ABSORB = 0x4,
        CONNECTION_FAILING_INDICATION = 0x8,
        MID_STREAM_INSPECTION = 0x10,
        RECLASSIFY = 0x20,
        IS_LOOSE_SOURCE_FLOW = 0x40,
        IS_LOCAL_ONLY_FLOW = 0x80,
    }
}

flags! {
    /// What a callout can live with (`FWP_CALLOUT_FLAG_*`).
    FWP_CALLOUT_FLAG: u32 {
        CONDITIONAL_ON_FLOW = 0x1,
        ALLOW_OFFLOAD = 0x2,
        ENABLE_COMMIT_ADD_NOTIFY = 0x4,
        ALLOW_MID_STREAM_INSPECTION = 0x8,
        ALLOW_RECLASSIFY = 0x10,
        ALLOW_RSC = 0x40,
        ALLOW_L2_BATCH_CLASSIFY = 0x80,
        ALLOW_USO = 0x100,
        ALLOW_URO = 0x200,
    }
}

values! {
    /// Why a callout's notifyFn is called (`FWPS_CALLOUT_NOTIFY_*`).
    FWPS_CALLOUT_NOTIFY_TYPE: u32 {
        ADD_FILTER = 0,
        DELETE_FILTER = 1,
        ADD_FILTER_POST_COMMIT = 2,
    }
}

flags! {
    /// What `FwpsGetPacketListSecurityInformation0` is asked (`FWPS_PACKET_LIST_INFORMATION_QUERY_*`).
    FWPS_PACKET_LIST_QUERY: u32 {
        INBOUND = 0x1,
        OUTBOUND = 0x2,
        IPSEC = 0x4,
        FWP = 0x8,
    }
}

//! Layers at run time: their ids, and where each keeps its fixed values.
//!
//! Every layer orders its fields otherwise, so each has a module of its own. Indexes were only ever appended: a field
//! exists iff its index is below `valueCount`. V6 layers have the V4 order.

pub const STREAM_V4: u16 = 20;
pub const STREAM_V6: u16 = 22;
pub const STREAM_DISCARD_V4: u16 = 21;
pub const STREAM_DISCARD_V6: u16 = 23;
pub const OUTBOUND_TRANSPORT_V4: u16 = 16;
pub const OUTBOUND_TRANSPORT_V6: u16 = 18;
pub const INBOUND_TRANSPORT_V4: u16 = 12;
pub const INBOUND_TRANSPORT_V6: u16 = 14;
pub const DATAGRAM_DATA_V4: u16 = 24;
pub const DATAGRAM_DATA_V6: u16 = 26;
pub const OUTBOUND_ICMP_ERROR_V4: u16 = 32;
pub const OUTBOUND_ICMP_ERROR_V6: u16 = 34;
pub const INBOUND_ICMP_ERROR_V4: u16 = 28;
pub const INBOUND_ICMP_ERROR_V6: u16 = 30;
pub const OUTBOUND_IPPACKET_V4: u16 = 4;
pub const OUTBOUND_IPPACKET_V6: u16 = 6;
pub const INBOUND_IPPACKET_V4: u16 = 0;
pub const INBOUND_IPPACKET_V6: u16 = 2;
pub const ALE_AUTH_RECV_ACCEPT_V4: u16 = 44;
pub const ALE_AUTH_RECV_ACCEPT_V6: u16 = 46;
pub const ALE_AUTH_CONNECT_V4: u16 = 48;
pub const ALE_AUTH_CONNECT_V6: u16 = 50;
pub const ALE_FLOW_ESTABLISHED_V4: u16 = 52;
pub const ALE_FLOW_ESTABLISHED_V6: u16 = 54;
pub const ALE_ENDPOINT_CLOSURE_V4: u16 = 64;
pub const ALE_ENDPOINT_CLOSURE_V6: u16 = 65;
pub const STREAM_PACKET_V4: u16 = 70;
pub const STREAM_PACKET_V6: u16 = 71;

/// Fields of `FWPS_LAYER_STREAM_V4` and `_V6`.
pub mod stream {
    pub const IP_LOCAL_ADDRESS: usize = 0;
    pub const IP_LOCAL_ADDRESS_TYPE: usize = 1;
    pub const IP_REMOTE_ADDRESS: usize = 2;
    pub const IP_LOCAL_PORT: usize = 3;
    pub const IP_REMOTE_PORT: usize = 4;
    pub const DIRECTION: usize = 5;
    pub const FLAGS: usize = 6;
    pub const COMPARTMENT_ID: usize = 7;
}

/// Fields of `FWPS_LAYER_OUTBOUND_TRANSPORT_V4` and `_V6`.
pub mod outbound_transport {
    pub const IP_PROTOCOL: usize = 0;
    pub const IP_LOCAL_ADDRESS: usize = 1;
    pub const IP_LOCAL_ADDRESS_TYPE: usize = 2;
    pub const IP_REMOTE_ADDRESS: usize = 3;
    pub const IP_LOCAL_PORT: usize = 4;
    pub const IP_REMOTE_PORT: usize = 5;
    pub const IP_LOCAL_INTERFACE: usize = 6;
    pub const INTERFACE_INDEX: usize = 7;
    pub const SUB_INTERFACE_INDEX: usize = 8;
    pub const IP_DESTINATION_ADDRESS_TYPE: usize = 9;
    pub const FLAGS: usize = 10;
    pub const INTERFACE_TYPE: usize = 11;
    pub const TUNNEL_TYPE: usize = 12;
    pub const PROFILE_ID: usize = 13;
    pub const IPSEC_SECURITY_REALM_ID: usize = 14;
    pub const COMPARTMENT_ID: usize = 15;
}

/// Fields of `FWPS_LAYER_INBOUND_TRANSPORT_V4` and `_V6`.
pub mod inbound_transport {
    pub const IP_PROTOCOL: usize = 0;
    pub const IP_LOCAL_ADDRESS: usize = 1;
    pub const IP_REMOTE_ADDRESS: usize = 2;
    pub const IP_LOCAL_ADDRESS_TYPE: usize = 3;
    pub const IP_LOCAL_PORT: usize = 4;
    pub const IP_REMOTE_PORT: usize = 5;
    pub const IP_LOCAL_INTERFACE: usize = 6;
    pub const INTERFACE_INDEX: usize = 7;
    pub const SUB_INTERFACE_INDEX: usize = 8;
    pub const FLAGS: usize = 9;
    pub const INTERFACE_TYPE: usize = 10;
    pub const TUNNEL_TYPE: usize = 11;
    pub const PROFILE_ID: usize = 12;
    pub const IPSEC_SECURITY_REALM_ID: usize = 13;
    pub const COMPARTMENT_ID: usize = 14;
}

/// Fields of `FWPS_LAYER_DATAGRAM_DATA_V4` and `_V6`.
pub mod datagram_data {
    pub const IP_PROTOCOL: usize = 0;
    pub const IP_LOCAL_ADDRESS: usize = 1;
    pub const IP_REMOTE_ADDRESS: usize = 2;
    pub const IP_LOCAL_ADDRESS_TYPE: usize = 3;
    pub const IP_LOCAL_PORT: usize = 4;
    pub const IP_REMOTE_PORT: usize = 5;
    pub const IP_LOCAL_INTERFACE: usize = 6;
    pub const INTERFACE_INDEX: usize = 7;
    pub const SUB_INTERFACE_INDEX: usize = 8;
    pub const DIRECTION: usize = 9;
    pub const FLAGS: usize = 10;
    pub const INTERFACE_TYPE: usize = 11;
    pub const TUNNEL_TYPE: usize = 12;
    pub const COMPARTMENT_ID: usize = 13;
}

/// Fields of `FWPS_LAYER_OUTBOUND_ICMP_ERROR_V4` and `_V6`.
pub mod outbound_icmp_error {
    pub const IP_LOCAL_ADDRESS: usize = 0;
    pub const IP_REMOTE_ADDRESS: usize = 1;
    pub const IP_LOCAL_ADDRESS_TYPE: usize = 2;
    pub const IP_LOCAL_INTERFACE: usize = 3;
    pub const ICMP_TYPE: usize = 4;
    pub const ICMP_CODE: usize = 5;
    pub const INTERFACE_INDEX: usize = 6;
    pub const SUB_INTERFACE_INDEX: usize = 7;
    pub const INTERFACE_TYPE: usize = 8;
    pub const TUNNEL_TYPE: usize = 9;
    pub const FLAGS: usize = 10;
    pub const NEXTHOP_INTERFACE_PROFILE_ID: usize = 11;
    pub const INTERFACE_QUARANTINE_EPOCH: usize = 12;
    pub const COMPARTMENT_ID: usize = 13;
}

/// Fields of `FWPS_LAYER_STREAM_PACKET_V4` and `_V6`.
pub mod stream_packet {
    pub const IP_LOCAL_ADDRESS: usize = 0;
    pub const IP_REMOTE_ADDRESS: usize = 1;
    pub const IP_LOCAL_PORT: usize = 2;
    pub const IP_REMOTE_PORT: usize = 3;
    pub const IP_LOCAL_INTERFACE: usize = 4;
    pub const INTERFACE_INDEX: usize = 5;
    pub const SUB_INTERFACE_INDEX: usize = 6;
    pub const DIRECTION: usize = 7;
    pub const FLAGS: usize = 8;
    pub const INTERFACE_TYPE: usize = 9;
    pub const TUNNEL_TYPE: usize = 10;
    pub const COMPARTMENT_ID: usize = 11;
}

/// Fields of `FWPS_LAYER_ALE_FLOW_ESTABLISHED_V4` and `_V6`.
pub mod ale_flow_established {
    pub const ALE_APP_ID: usize = 0;
    pub const ALE_USER_ID: usize = 1;
    pub const IP_LOCAL_ADDRESS: usize = 2;
    pub const IP_LOCAL_ADDRESS_TYPE: usize = 3;
    pub const IP_LOCAL_PORT: usize = 4;
    pub const IP_PROTOCOL: usize = 5;
    pub const IP_REMOTE_ADDRESS: usize = 6;
    pub const IP_REMOTE_PORT: usize = 7;
    pub const ALE_REMOTE_USER_ID: usize = 8;
    pub const ALE_REMOTE_MACHINE_ID: usize = 9;
    pub const IP_DESTINATION_ADDRESS_TYPE: usize = 10;
    pub const IP_LOCAL_INTERFACE: usize = 11;
    pub const DIRECTION: usize = 12;
    pub const INTERFACE_TYPE: usize = 13;
    pub const TUNNEL_TYPE: usize = 14;
    pub const FLAGS: usize = 15;
    pub const ALE_ORIGINAL_APP_ID: usize = 16;
    pub const ALE_PACKAGE_ID: usize = 17;
    pub const ALE_SECURITY_ATTRIBUTE_FQBN_VALUE: usize = 18;
    pub const COMPARTMENT_ID: usize = 19;
}

/// Fields of `FWPS_LAYER_ALE_AUTH_CONNECT_V4` and `_V6`.
pub mod ale_auth_connect {
    pub const ALE_APP_ID: usize = 0;
    pub const ALE_USER_ID: usize = 1;
    pub const IP_LOCAL_ADDRESS: usize = 2;
    pub const IP_LOCAL_ADDRESS_TYPE: usize = 3;
    pub const IP_LOCAL_PORT: usize = 4;
    pub const IP_PROTOCOL: usize = 5;
    pub const IP_REMOTE_ADDRESS: usize = 6;
    pub const IP_REMOTE_PORT: usize = 7;
    pub const ALE_REMOTE_USER_ID: usize = 8;
    pub const ALE_REMOTE_MACHINE_ID: usize = 9;
    pub const IP_DESTINATION_ADDRESS_TYPE: usize = 10;
    pub const IP_LOCAL_INTERFACE: usize = 11;
    pub const FLAGS: usize = 12;
    pub const INTERFACE_TYPE: usize = 13;
    pub const TUNNEL_TYPE: usize = 14;
    pub const INTERFACE_INDEX: usize = 15;
    pub const SUB_INTERFACE_INDEX: usize = 16;
    pub const IP_ARRIVAL_INTERFACE: usize = 17;
    pub const ARRIVAL_INTERFACE_TYPE: usize = 18;
    pub const ARRIVAL_TUNNEL_TYPE: usize = 19;
    pub const ARRIVAL_INTERFACE_INDEX: usize = 20;
    pub const NEXTHOP_SUB_INTERFACE_INDEX: usize = 21;
    pub const IP_NEXTHOP_INTERFACE: usize = 22;
    pub const NEXTHOP_INTERFACE_TYPE: usize = 23;
    pub const NEXTHOP_TUNNEL_TYPE: usize = 24;
    pub const NEXTHOP_INTERFACE_INDEX: usize = 25;
    pub const ORIGINAL_PROFILE_ID: usize = 26;
    pub const CURRENT_PROFILE_ID: usize = 27;
    pub const REAUTHORIZE_REASON: usize = 28;
    pub const PEER_NAME: usize = 29;
    pub const ORIGINAL_ICMP_TYPE: usize = 30;
    pub const INTERFACE_QUARANTINE_EPOCH: usize = 31;
    pub const ALE_ORIGINAL_APP_ID: usize = 32;
    pub const ALE_PACKAGE_ID: usize = 33;
    pub const ALE_SECURITY_ATTRIBUTE_FQBN_VALUE: usize = 34;
    pub const ALE_EFFECTIVE_NAME: usize = 35;
    pub const COMPARTMENT_ID: usize = 36;
}

/// True when the V6 form of a layer is meant: of the layers above, those whose addresses are 16 bytes.
pub const fn is_v6(layer: u16) -> bool {
    matches!(
        layer,
        STREAM_V6
            | STREAM_DISCARD_V6
            | OUTBOUND_TRANSPORT_V6
            | INBOUND_TRANSPORT_V6
            | DATAGRAM_DATA_V6
            | OUTBOUND_ICMP_ERROR_V6
            | INBOUND_ICMP_ERROR_V6
            | OUTBOUND_IPPACKET_V6
            | INBOUND_IPPACKET_V6
            | ALE_AUTH_RECV_ACCEPT_V6
            | ALE_AUTH_CONNECT_V6
            | ALE_FLOW_ESTABLISHED_V6
            | ALE_ENDPOINT_CLOSURE_V6
            | STREAM_PACKET_V6
    )
}

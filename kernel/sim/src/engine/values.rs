//! Fixed values and metadata. What a callout has no right to read is garbage on purpose.

use std::net::{IpAddr, SocketAddr};

use fwps_sys::*;

use crate::flow::FlowSpec;

const GARBAGE: usize = 0xa5a5_a5a5_a5a5_a5a5;

/// Storage for the values that are behind pointers.
pub(crate) struct Addresses {
    local: FWP_BYTE_ARRAY16,
    remote: FWP_BYTE_ARRAY16,
    luid: u64,
}

impl Addresses {
    pub(crate) fn new(local: SocketAddr, remote: SocketAddr) -> Self {
        let bytes = |address: SocketAddr| match address.ip() {
            IpAddr::V6(v6) => FWP_BYTE_ARRAY16 { byteArray16: v6.octets() },
            IpAddr::V4(_) => FWP_BYTE_ARRAY16 { byteArray16: [0xa5; 16] },
        };
        Self { local: bytes(local), remote: bytes(remote), luid: 6 << 48 | 7 }
    }
}

fn garbage(r#type: FWP_DATA_TYPE) -> FWPS_INCOMING_VALUE0 {
    let data = FWP_VALUE0_DATA { uint64: std::ptr::without_provenance_mut(GARBAGE) };
    FWPS_INCOMING_VALUE0 { value: FWP_VALUE0 { r#type, data } }
}

fn uint8(number: u8) -> FWPS_INCOMING_VALUE0 {
    let mut value = garbage(FWP_DATA_TYPE::UINT8);
    value.value.data.uint8 = number;
    value
}

fn uint16(number: u16) -> FWPS_INCOMING_VALUE0 {
    let mut value = garbage(FWP_DATA_TYPE::UINT16);
    value.value.data.uint16 = number;
    value
}

fn uint32(number: u32) -> FWPS_INCOMING_VALUE0 {
    let mut value = garbage(FWP_DATA_TYPE::UINT32);
    value.value.data.uint32 = number;
    value
}

fn uint64(number: &mut u64) -> FWPS_INCOMING_VALUE0 {
    let mut value = garbage(FWP_DATA_TYPE::UINT64);
    value.value.data.uint64 = number;
    value
}

fn address(ip: IpAddr, storage: &mut FWP_BYTE_ARRAY16) -> FWPS_INCOMING_VALUE0 {
    match ip {
        IpAddr::V4(v4) => uint32(v4.to_bits()),
        IpAddr::V6(_) => {
            let mut value = garbage(FWP_DATA_TYPE::BYTE_ARRAY16_TYPE);
            value.value.data.byteArray16 = storage;
            value
        }
    }
}

fn flags(loopback: bool) -> FWPS_INCOMING_VALUE0 {
    uint32(if loopback { FWP_CONDITION_FLAG::IS_LOOPBACK.0 } else { 0 })
}

/// Unicast, as `NL_ADDRESS_TYPE` numbers it.
const UNICAST: u8 = 1;

/// The fixed values of the stream layers.
pub(crate) fn stream(
    local: SocketAddr,
    remote: SocketAddr,
    outbound: bool,
    loopback: bool,
    compartment: u32,
    storage: &mut Addresses,
) -> [FWPS_INCOMING_VALUE0; 8] {
    use layer::stream as field;
    let mut values = [garbage(FWP_DATA_TYPE::EMPTY); 8];
    values[field::IP_LOCAL_ADDRESS] = address(local.ip(), &mut storage.local);
    values[field::IP_LOCAL_ADDRESS_TYPE] = uint8(UNICAST);
    values[field::IP_REMOTE_ADDRESS] = address(remote.ip(), &mut storage.remote);
    values[field::IP_LOCAL_PORT] = uint16(local.port());
    values[field::IP_REMOTE_PORT] = uint16(remote.port());
    values[field::DIRECTION] =
        uint32(if outbound { FWP_DIRECTION::OUTBOUND.0 } else { FWP_DIRECTION::INBOUND.0 });
    values[field::FLAGS] = flags(loopback);
    values[field::COMPARTMENT_ID] = uint32(compartment);
    values
}

/// The fixed values of the outbound transport layers.
pub(crate) fn outbound_transport(
    protocol: u8,
    local: SocketAddr,
    remote: SocketAddr,
    loopback: bool,
    compartment: u32,
    storage: &mut Addresses,
) -> [FWPS_INCOMING_VALUE0; 16] {
    use layer::outbound_transport as field;
    let mut values = [garbage(FWP_DATA_TYPE::EMPTY); 16];
    values[field::IP_PROTOCOL] = uint8(protocol);
    values[field::IP_LOCAL_ADDRESS] = address(local.ip(), &mut storage.local);
    values[field::IP_LOCAL_ADDRESS_TYPE] = uint8(UNICAST);
    values[field::IP_REMOTE_ADDRESS] = address(remote.ip(), &mut storage.remote);
    values[field::IP_LOCAL_PORT] = uint16(local.port());
    values[field::IP_REMOTE_PORT] = uint16(remote.port());
    values[field::IP_LOCAL_INTERFACE] = uint64(&mut storage.luid);
    values[field::INTERFACE_INDEX] = uint32(7);
    values[field::SUB_INTERFACE_INDEX] = uint32(0);
    values[field::IP_DESTINATION_ADDRESS_TYPE] = uint8(UNICAST);
    values[field::FLAGS] = flags(loopback);
    values[field::INTERFACE_TYPE] = uint32(6);
    values[field::TUNNEL_TYPE] = uint32(0);
    values[field::PROFILE_ID] = uint32(1);
    values[field::IPSEC_SECURITY_REALM_ID] = uint64(&mut storage.luid);
    values[field::COMPARTMENT_ID] = uint32(compartment);
    values
}

/// The fixed values of the datagram-data layers, outbound.
pub(crate) fn datagram_data(
    protocol: u8,
    local: SocketAddr,
    remote: SocketAddr,
    loopback: bool,
    compartment: u32,
    storage: &mut Addresses,
) -> [FWPS_INCOMING_VALUE0; 14] {
    use layer::datagram_data as field;
    let mut values = [garbage(FWP_DATA_TYPE::EMPTY); 14];
    values[field::IP_PROTOCOL] = uint8(protocol);
    values[field::IP_LOCAL_ADDRESS] = address(local.ip(), &mut storage.local);
    values[field::IP_REMOTE_ADDRESS] = address(remote.ip(), &mut storage.remote);
    values[field::IP_LOCAL_ADDRESS_TYPE] = uint8(UNICAST);
    values[field::IP_LOCAL_PORT] = uint16(local.port());
    values[field::IP_REMOTE_PORT] = uint16(remote.port());
    values[field::IP_LOCAL_INTERFACE] = uint64(&mut storage.luid);
    values[field::INTERFACE_INDEX] = uint32(7);
    values[field::SUB_INTERFACE_INDEX] = uint32(0);
    values[field::DIRECTION] = uint32(FWP_DIRECTION::OUTBOUND.0);
    values[field::FLAGS] = flags(loopback);
    values[field::INTERFACE_TYPE] = uint32(6);
    values[field::TUNNEL_TYPE] = uint32(0);
    values[field::COMPARTMENT_ID] = uint32(compartment);
    values
}

/// The fixed values of the outbound ICMP error layers. The ports are the type and the code.
pub(crate) fn outbound_icmp_error(
    local: SocketAddr,
    remote: SocketAddr,
    loopback: bool,
    compartment: u32,
    storage: &mut Addresses,
) -> [FWPS_INCOMING_VALUE0; 14] {
    use layer::outbound_icmp_error as field;
    let mut values = [garbage(FWP_DATA_TYPE::EMPTY); 14];
    values[field::IP_LOCAL_ADDRESS] = address(local.ip(), &mut storage.local);
    values[field::IP_REMOTE_ADDRESS] = address(remote.ip(), &mut storage.remote);
    values[field::IP_LOCAL_ADDRESS_TYPE] = uint8(UNICAST);
    values[field::IP_LOCAL_INTERFACE] = uint64(&mut storage.luid);
    values[field::ICMP_TYPE] = uint16(local.port());
    values[field::ICMP_CODE] = uint16(remote.port());
    values[field::INTERFACE_INDEX] = uint32(7);
    values[field::SUB_INTERFACE_INDEX] = uint32(0);
    values[field::INTERFACE_TYPE] = uint32(6);
    values[field::TUNNEL_TYPE] = uint32(0);
    values[field::FLAGS] = flags(loopback);
    values[field::COMPARTMENT_ID] = uint32(compartment);
    values
}

/// The fixed values of the layers that tell of a new connection.
pub(crate) fn flow_established(
    spec: &FlowSpec,
    application: &mut FWP_BYTE_BLOB,
    storage: &mut Addresses,
) -> [FWPS_INCOMING_VALUE0; 24] {
    use layer::ale_flow_established as field;
    let mut values = [garbage(FWP_DATA_TYPE::EMPTY); 24];
    values[field::ALE_APP_ID] = garbage(FWP_DATA_TYPE::BYTE_BLOB_TYPE);
    values[field::ALE_APP_ID].value.data.byteBlob = application;
    values[field::IP_LOCAL_ADDRESS] = address(spec.local.ip(), &mut storage.local);
    values[field::IP_LOCAL_ADDRESS_TYPE] = uint8(UNICAST);
    values[field::IP_LOCAL_PORT] = uint16(spec.local.port());
    values[field::IP_PROTOCOL] = uint8(spec.protocol);
    values[field::IP_REMOTE_ADDRESS] = address(spec.remote.ip(), &mut storage.remote);
    values[field::IP_REMOTE_PORT] = uint16(spec.remote.port());
    values[field::IP_DESTINATION_ADDRESS_TYPE] = uint8(UNICAST);
    values[field::IP_LOCAL_INTERFACE] = uint64(&mut storage.luid);
    values[field::DIRECTION] =
        uint32(if spec.outbound { FWP_DIRECTION::OUTBOUND.0 } else { FWP_DIRECTION::INBOUND.0 });
    values[field::INTERFACE_TYPE] = uint32(6);
    values[field::TUNNEL_TYPE] = uint32(0);
    values[field::FLAGS] = flags(spec.loopback);
    values[field::COMPARTMENT_ID] = uint32(spec.compartment);
    values
}

/// Metadata in which nothing is valid.
pub(crate) fn no_metadata() -> FWPS_INCOMING_METADATA_VALUES0 {
    let mut metadata = std::mem::MaybeUninit::<FWPS_INCOMING_METADATA_VALUES0>::uninit();
    // SAFETY: every byte is written, and every member is an integer or a raw pointer, for which any bytes will do.
    let mut metadata = unsafe {
        metadata.as_mut_ptr().cast::<u8>().write_bytes(0xa5, size_of::<FWPS_INCOMING_METADATA_VALUES0>());
        metadata.assume_init()
    };
    metadata.currentMetadataValues = FWPS_METADATA_FIELD::NONE;
    metadata.currentL2MetadataValues = FWPS_L2_METADATA_FIELD::NONE;
    metadata
}

//! What classify says about the data, by layer: fixed values and metadata into a program's context.
//!
//! Every layer keeps its fixed values in an order of its own, so each has a row here. A value counts only when the layer
//! has it and it is of the type it must be; a metadata member counts only when its bit is set.

use core::ops::Deref;

use fwps_sys::layer::{
    self, ale_flow_established, datagram_data, outbound_icmp_error, outbound_transport, stream,
};
use fwps_sys::{
    ADDRESS_FAMILY, COMPARTMENT_ID, FWP_CONDITION_FLAG, FWP_DATA_TYPE, FWP_VALUE0,
    FWPS_INCOMING_METADATA_VALUES0, FWPS_INCOMING_VALUES0, FWPS_METADATA_FIELD, FWPS_STREAM_FLAG, IPPROTO,
    SCOPE_ID,
};
use tidegate_abi::context::{
    SEND_LOOPBACK, SEND_RAW, STREAM_ABORT, STREAM_DISCONNECT, STREAM_EXPEDITED, STREAM_PUSH,
};
use tidegate_abi::{Hook, SendContext, StreamContext};

use crate::checksum::Ends;

/// A layer that programs run at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layer {
    /// `FWPS_LAYER_*`.
    pub(crate) id: u16,
    /// The hook that it is.
    pub(crate) hook: Hook,
    /// Family of its addresses.
    pub(crate) family: ADDRESS_FAMILY,
    /// The only protocol that it shows, if it is only one.
    protocol: Option<IPPROTO>,
    fields: Fields,
}

/// Indexes of the fixed values that programs see. `None`: the layer does not have it.
#[derive(Clone, Copy, Debug)]
struct Fields {
    local_address: usize,
    remote_address: usize,
    local_port: usize,
    remote_port: usize,
    flags: usize,
    compartment: usize,
    /// Who opened the connection.
    opener: Option<usize>,
    /// Which way the packet goes.
    direction: Option<usize>,
    protocol: Option<usize>,
    interface: Option<usize>,
}

const STREAM: Fields = Fields {
    local_address: stream::IP_LOCAL_ADDRESS,
    remote_address: stream::IP_REMOTE_ADDRESS,
    local_port: stream::IP_LOCAL_PORT,
    remote_port: stream::IP_REMOTE_PORT,
    flags: stream::FLAGS,
    compartment: stream::COMPARTMENT_ID,
    opener: Some(stream::DIRECTION),
    direction: None,
    protocol: None,
    interface: None,
};

const OUTBOUND_TRANSPORT: Fields = Fields {
    local_address: outbound_transport::IP_LOCAL_ADDRESS,
    remote_address: outbound_transport::IP_REMOTE_ADDRESS,
    local_port: outbound_transport::IP_LOCAL_PORT,
    remote_port: outbound_transport::IP_REMOTE_PORT,
    flags: outbound_transport::FLAGS,
    compartment: outbound_transport::COMPARTMENT_ID,
    opener: None,
    direction: None,
    protocol: Some(outbound_transport::IP_PROTOCOL),
    interface: Some(outbound_transport::INTERFACE_INDEX),
};

const DATAGRAM_DATA: Fields = Fields {
    local_address: datagram_data::IP_LOCAL_ADDRESS,
    remote_address: datagram_data::IP_REMOTE_ADDRESS,
    local_port: datagram_data::IP_LOCAL_PORT,
    remote_port: datagram_data::IP_REMOTE_PORT,
    flags: datagram_data::FLAGS,
    compartment: datagram_data::COMPARTMENT_ID,
    opener: None,
    direction: Some(datagram_data::DIRECTION),
    protocol: Some(datagram_data::IP_PROTOCOL),
    interface: Some(datagram_data::INTERFACE_INDEX),
};

const OUTBOUND_ICMP_ERROR: Fields = Fields {
    local_address: outbound_icmp_error::IP_LOCAL_ADDRESS,
    remote_address: outbound_icmp_error::IP_REMOTE_ADDRESS,
    local_port: outbound_icmp_error::ICMP_TYPE,
    remote_port: outbound_icmp_error::ICMP_CODE,
    flags: outbound_icmp_error::FLAGS,
    compartment: outbound_icmp_error::COMPARTMENT_ID,
    opener: None,
    direction: None,
    protocol: None,
    interface: Some(outbound_icmp_error::INTERFACE_INDEX),
};

/// Stream layers, which come first.
const STREAMS: usize = 2;

/// Every layer, in the order of [`Hook::ALL`].
pub(crate) const LAYERS: [Layer; Hook::ALL.len()] = {
    const V4: ADDRESS_FAMILY = ADDRESS_FAMILY::INET;
    const V6: ADDRESS_FAMILY = ADDRESS_FAMILY::INET6;
    const fn row(
        id: u16,
        hook: Hook,
        family: ADDRESS_FAMILY,
        protocol: Option<IPPROTO>,
        fields: Fields,
    ) -> Layer {
        Layer { id, hook, family, protocol, fields }
    }
    let (tcp, icmp, icmp6) = (Some(IPPROTO::TCP), Some(IPPROTO::ICMP), Some(IPPROTO::ICMPV6));
    [
        row(layer::STREAM_V4, Hook::StreamV4, V4, tcp, STREAM),
        row(layer::STREAM_V6, Hook::StreamV6, V6, tcp, STREAM),
        row(layer::OUTBOUND_TRANSPORT_V4, Hook::OutboundTransportV4, V4, None, OUTBOUND_TRANSPORT),
        row(layer::OUTBOUND_TRANSPORT_V6, Hook::OutboundTransportV6, V6, None, OUTBOUND_TRANSPORT),
        row(layer::DATAGRAM_DATA_V4, Hook::DatagramDataV4, V4, None, DATAGRAM_DATA),
        row(layer::DATAGRAM_DATA_V6, Hook::DatagramDataV6, V6, None, DATAGRAM_DATA),
        row(layer::OUTBOUND_ICMP_ERROR_V4, Hook::OutboundIcmpErrorV4, V4, icmp, OUTBOUND_ICMP_ERROR),
        row(layer::OUTBOUND_ICMP_ERROR_V6, Hook::OutboundIcmpErrorV6, V6, icmp6, OUTBOUND_ICMP_ERROR),
    ]
};

/// The layers that tell of a new connection.
const ALE_FLOW_ESTABLISHED: Fields = Fields {
    local_address: ale_flow_established::IP_LOCAL_ADDRESS,
    remote_address: ale_flow_established::IP_REMOTE_ADDRESS,
    local_port: ale_flow_established::IP_LOCAL_PORT,
    remote_port: ale_flow_established::IP_REMOTE_PORT,
    flags: ale_flow_established::FLAGS,
    compartment: ale_flow_established::COMPARTMENT_ID,
    opener: Some(ale_flow_established::DIRECTION),
    direction: None,
    protocol: Some(ale_flow_established::IP_PROTOCOL),
    interface: None,
};

impl Layer {
    /// The layer of a hook.
    pub(crate) fn of(hook: Hook) -> &'static Self {
        let [first, ..] = &LAYERS;
        LAYERS.get(hook.index()).unwrap_or(first)
    }

    /// The layer that the filter engine knows by this number, if it is one of ours.
    pub(crate) fn with_id(id: u16) -> Option<&'static Self> {
        LAYERS.iter().find(|layer| layer.id == id)
    }
}

/// An address as bytes in network order, IPv4 in the first four.
type Address = [u8; 16];

/// What classify was given at any layer, for as long as it runs.
#[derive(Clone, Copy)]
pub(crate) struct Given<'c> {
    values: &'c FWPS_INCOMING_VALUES0,
    meta: &'c FWPS_INCOMING_METADATA_VALUES0,
}

impl<'c> Given<'c> {
    /// # Safety
    /// Both are what classify was given, and 'c ends with that classify.
    pub(crate) unsafe fn new(
        values: &'c FWPS_INCOMING_VALUES0,
        meta: &'c FWPS_INCOMING_METADATA_VALUES0,
    ) -> Self {
        Self { values, meta }
    }

    /// `FWPS_LAYER_*`.
    pub(crate) fn layer(&self) -> u16 {
        self.values.layerId
    }

    /// A fixed value of this type; `None` when the layer does not have it.
    fn value(&self, index: usize, of: FWP_DATA_TYPE) -> Option<&'c FWP_VALUE0> {
        if index >= self.values.valueCount as usize || self.values.incomingValue.is_null() {
            return None;
        }
        // SAFETY: the array has `valueCount` values, which live as long as the classify.
        let value = unsafe { &(*self.values.incomingValue.add(index)).value };
        (value.r#type == of).then_some(value)
    }

    pub(crate) fn u8(&self, index: usize) -> Option<u8> {
        // SAFETY: the type says that this member is the one that was written.
        self.value(index, FWP_DATA_TYPE::UINT8).map(|value| unsafe { value.data.uint8 })
    }

    fn u16(&self, index: usize) -> Option<u16> {
        // SAFETY: the type says that this member is the one that was written.
        self.value(index, FWP_DATA_TYPE::UINT16).map(|value| unsafe { value.data.uint16 })
    }

    fn u32(&self, index: usize) -> Option<u32> {
        // SAFETY: the type says that this member is the one that was written.
        self.value(index, FWP_DATA_TYPE::UINT32).map(|value| unsafe { value.data.uint32 })
    }

    /// Bytes of any kind.
    pub(crate) fn blob(&self, index: usize) -> &'c [u8] {
        let Some(value) = self.value(index, FWP_DATA_TYPE::BYTE_BLOB_TYPE) else { return &[] };
        // SAFETY: the type says that this member is the one that was written, and what it points to lives as long as the
        // classify.
        match unsafe { value.data.byteBlob.as_ref() } {
            // SAFETY: as above; the blob says how many bytes there are.
            Some(blob) if !blob.data.is_null() => unsafe {
                core::slice::from_raw_parts(blob.data, blob.size as usize)
            },
            _ => &[],
        }
    }

    /// A metadata member, when its bit is set.
    pub(crate) fn meta<T>(
        &self,
        bit: FWPS_METADATA_FIELD,
        member: impl FnOnce(&'c FWPS_INCOMING_METADATA_VALUES0) -> T,
    ) -> Option<T> {
        self.meta.has(bit).then(|| member(self.meta))
    }

    /// The flow's id, if there is one.
    pub(crate) fn flow(&self) -> Option<u64> {
        self.meta(FWPS_METADATA_FIELD::FLOW_HANDLE, |meta| meta.flowHandle)
    }

    /// The endpoint that it is about, if it is known.
    pub(crate) fn endpoint(&self) -> Option<u64> {
        self.meta(FWPS_METADATA_FIELD::TRANSPORT_ENDPOINT_HANDLE, |meta| meta.transportEndpointHandle)
    }

    /// The process that it is about, 0 when it is not known.
    pub(crate) fn process_id(&self) -> u64 {
        self.meta(FWPS_METADATA_FIELD::PROCESS_ID, |meta| meta.processId).unwrap_or(0)
    }

    /// An address: IPv4 comes as a number in host order, IPv6 as bytes in network order behind a pointer.
    fn address(&self, index: usize, v6: bool) -> Address {
        let mut address = [0; 16];
        if v6 {
            if let Some(value) = self.value(index, FWP_DATA_TYPE::BYTE_ARRAY16_TYPE) {
                // SAFETY: the type says that this member is the one that was written.
                let bytes = unsafe { value.data.byteArray16 };
                if !bytes.is_null() {
                    // SAFETY: it points to 16 bytes that live as long as the classify.
                    address = unsafe { (*bytes).byteArray16 };
                }
            }
        } else {
            let number = self.u32(index).unwrap_or(0).to_be_bytes();
            for (to, from) in address.iter_mut().zip(number) {
                *to = from;
            }
        }
        address
    }

    fn compartment(&self, fields: &Fields) -> u32 {
        self.meta(FWPS_METADATA_FIELD::COMPARTMENT_ID, |meta| meta.compartmentId.0)
            .or_else(|| self.u32(fields.compartment))
            .unwrap_or(0)
    }

    /// What programs are told of a connection, whatever is shown of it.
    fn connection(&self, fields: &Fields, v6: bool) -> StreamContext {
        StreamContext {
            flow_id: self.flow().unwrap_or(0),
            process_id: self.process_id(),
            opener: fields.opener.and_then(|index| self.u32(index)).unwrap_or(0),
            family: family(v6),
            local_port: self.u16(fields.local_port).unwrap_or(0),
            remote_port: self.u16(fields.remote_port).unwrap_or(0),
            compartment_id: self.compartment(fields),
            local_addr: self.address(fields.local_address, v6),
            remote_addr: self.address(fields.remote_address, v6),
            ..StreamContext::default()
        }
    }

    /// The same at the layers that tell of a new one, which `hook` will show.
    pub(crate) fn established(&self, hook: Hook) -> StreamContext {
        self.connection(&ALE_FLOW_ESTABLISHED, Layer::of(hook).family == ADDRESS_FAMILY::INET6)
    }
}

/// What classify was given at a layer of ours.
#[derive(Clone, Copy)]
pub(crate) struct Incoming<'c> {
    pub(crate) layer: &'static Layer,
    given: Given<'c>,
}

impl<'c> Deref for Incoming<'c> {
    type Target = Given<'c>;

    fn deref(&self) -> &Given<'c> {
        &self.given
    }
}

impl<'c> Incoming<'c> {
    /// What this classify of a stream layer was given; `None` when it is not one of ours.
    #[inline]
    pub(crate) fn of_stream(given: Given<'c>) -> Option<Self> {
        let (streams, _) = &LAYERS.split_at(STREAMS);
        Self::of(given, streams)
    }

    /// What this classify of a layer of what is sent was given; `None` when it is not one of ours.
    #[inline]
    pub(crate) fn of_send(given: Given<'c>) -> Option<Self> {
        let (_, sends) = &LAYERS.split_at(STREAMS);
        Self::of(given, sends)
    }

    #[inline]
    fn of(given: Given<'c>, layers: &'static [Layer]) -> Option<Self> {
        let layer = layers.iter().find(|layer| layer.id == given.layer())?;
        Some(Self { layer, given })
    }

    fn v6(&self) -> bool {
        self.layer.family == ADDRESS_FAMILY::INET6
    }

    fn flags(&self) -> FWP_CONDITION_FLAG {
        FWP_CONDITION_FLAG(self.u32(self.layer.fields.flags).unwrap_or(0))
    }

    /// The compartment as an injection is told it.
    pub(crate) fn compartment_id(&self) -> COMPARTMENT_ID {
        self.meta(FWPS_METADATA_FIELD::COMPARTMENT_ID, |meta| meta.compartmentId)
            .unwrap_or(COMPARTMENT_ID::UNSPECIFIED)
    }

    /// The scope of the remote address.
    pub(crate) fn remote_scope(&self) -> SCOPE_ID {
        self.meta(FWPS_METADATA_FIELD::REMOTE_SCOPE_ID, |meta| meta.remoteScopeId).unwrap_or_default()
    }

    /// The ancillary data of the send, header included. It is gone when classify returns.
    pub(crate) fn control_data(&self) -> &'c [u8] {
        let bit = FWPS_METADATA_FIELD::TRANSPORT_CONTROL_DATA;
        match self.meta(bit, |meta| (meta.controlData, meta.controlDataLength)) {
            // SAFETY: with the bit set and a pointer there are so many bytes, for as long as the classify runs.
            Some((data, length)) if !data.is_null() => unsafe {
                core::slice::from_raw_parts(data.cast(), length as usize)
            },
            _ => &[],
        }
    }

    /// The IP protocol.
    pub(crate) fn protocol(&self) -> Option<IPPROTO> {
        let said = || self.layer.fields.protocol.and_then(|index| self.u8(index)).map(IPPROTO);
        self.layer.protocol.or_else(said)
    }

    /// Whether this machine sends it. At the layers that show both ways nothing else may be looked at before.
    pub(crate) fn is_outbound(&self) -> bool {
        const OUTBOUND: u32 = 0;
        self.layer.fields.direction.is_none_or(|index| self.u32(index) == Some(OUTBOUND))
    }

    /// Bytes of the IP header that a raw socket sends with it: in front of the transport header, but at the datagram-data
    /// layers, where it is apart. 0: no raw socket sends it.
    fn ip_header_size(&self) -> u32 {
        self.meta(FWPS_METADATA_FIELD::IP_HEADER_SIZE, |meta| meta.ipHeaderSize).unwrap_or(0)
    }

    /// Whether a raw socket's IP header is apart from the packet.
    fn is_header_apart(&self) -> bool {
        matches!(self.layer.hook, Hook::DatagramDataV4 | Hook::DatagramDataV6)
    }

    /// Bytes of a raw socket's IP header that the packet begins with.
    pub(crate) fn shown_header(&self) -> u32 {
        if self.is_header_apart() { 0 } else { self.ip_header_size() }
    }

    /// A raw socket's IP header that is apart from the packet; empty for none. It is gone when classify returns.
    pub(crate) fn apart_header(&self) -> &'c [u8] {
        let bit = FWPS_METADATA_FIELD::TRANSPORT_HEADER_INCLUDE_HEADER;
        let given = self.meta(bit, |meta| (meta.headerIncludeHeader, meta.headerIncludeHeaderLength));
        match given {
            // SAFETY: with the bit set and a pointer there are so many bytes, for as long as the classify runs.
            Some((header, length)) if !header.is_null() && self.ip_header_size() != 0 => unsafe {
                core::slice::from_raw_parts(header.cast(), length as usize)
            },
            _ => &[],
        }
    }

    /// The remote address in network order: its first 4 or all 16 bytes.
    pub(crate) fn remote_address(&self) -> Address {
        self.address(self.layer.fields.remote_address, self.v6())
    }

    /// Source and destination of an outgoing packet.
    pub(crate) fn ends(&self) -> Ends {
        let (local, remote) =
            (self.address(self.layer.fields.local_address, self.v6()), self.remote_address());
        if self.v6() {
            return Ends::V6(local, remote);
        }
        let ([a, b, c, d, ..], [e, f, g, h, ..]) = (local, remote);
        Ends::V4([a, b, c, d], [e, f, g, h])
    }

    /// What programs are told of the connection that a stream layer shows. The layer does not say whose it is.
    pub(crate) fn connection(&self) -> StreamContext {
        self.given.connection(&self.layer.fields, self.v6())
    }

    /// The context of an outgoing packet, but for the window.
    pub(crate) fn send_context(&self) -> SendContext {
        let fields = &self.layer.fields;
        let mut flags = 0;
        if self.flags().has(FWP_CONDITION_FLAG::IS_LOOPBACK) {
            flags |= SEND_LOOPBACK;
        }
        if self.shown_header() != 0 {
            flags |= SEND_RAW;
        }
        let header_size =
            self.meta(FWPS_METADATA_FIELD::TRANSPORT_HEADER_SIZE, |meta| meta.transportHeaderSize);
        SendContext {
            flow_id: self.flow().unwrap_or(0),
            process_id: self.process_id(),
            flags,
            protocol: u32::from(self.protocol().unwrap_or_default().0),
            family: family(self.v6()),
            header_size: self.shown_header().saturating_add(header_size.unwrap_or(0)),
            local_port: self.u16(fields.local_port).unwrap_or(0),
            remote_port: self.u16(fields.remote_port).unwrap_or(0),
            interface_index: fields.interface.and_then(|index| self.u32(index)).unwrap_or(0),
            compartment_id: self.compartment(fields),
            local_addr: self.address(fields.local_address, self.v6()),
            remote_addr: self.remote_address(),
            ..SendContext::default()
        }
    }
}

const fn family(v6: bool) -> u32 {
    if v6 { 6 } else { 4 }
}

/// The context of a stream indication, but for the window.
pub(crate) fn indication(connection: &StreamContext, kind: FWPS_STREAM_FLAG, missed: usize) -> StreamContext {
    const TOLD: [(FWPS_STREAM_FLAG, u32); 4] = [
        (FWPS_STREAM_FLAG::RECEIVE_EXPEDITED.with(FWPS_STREAM_FLAG::SEND_EXPEDITED), STREAM_EXPEDITED),
        (FWPS_STREAM_FLAG::RECEIVE_PUSH.with(FWPS_STREAM_FLAG::SEND_NODELAY), STREAM_PUSH),
        (FWPS_STREAM_FLAG::DISCONNECT, STREAM_DISCONNECT),
        (FWPS_STREAM_FLAG::ABORT, STREAM_ABORT),
    ];
    const ANY: FWPS_STREAM_FLAG = {
        let [(a, _), (b, _), (c, _), (d, _)] = TOLD;
        a.with(b).with(c).with(d)
    };
    let mut flags = 0;
    // Most data has none.
    if kind.has_any(ANY) {
        for (bits, flag) in TOLD {
            if kind.has_any(bits) {
                flags |= flag;
            }
        }
    }
    let direction = u32::from(kind.has_any(FWPS_STREAM_FLAG::RECEIVE_FAMILY));
    // Copied as a whole, which costs less than member by member.
    let mut context = *connection;
    (context.missed_bytes, context.flags, context.direction) = (missed as u64, flags, direction);
    context
}

#[cfg(test)]
mod tests {
    use core::mem::MaybeUninit;
    use core::ptr;
    use std::vec;
    use std::vec::Vec;

    use fwps_sys::{FWP_BYTE_ARRAY16, FWP_VALUE0_DATA, FWPS_INCOMING_VALUE0};

    use super::*;

    const LOCAL6: FWP_BYTE_ARRAY16 = FWP_BYTE_ARRAY16 { byteArray16: [0x11; 16] };
    const REMOTE6: FWP_BYTE_ARRAY16 = FWP_BYTE_ARRAY16 { byteArray16: [0x22; 16] };

    fn value(of: FWP_DATA_TYPE, data: FWP_VALUE0_DATA) -> FWPS_INCOMING_VALUE0 {
        FWPS_INCOMING_VALUE0 { value: FWP_VALUE0 { r#type: of, data } }
    }

    fn u16(number: u16) -> FWPS_INCOMING_VALUE0 {
        value(FWP_DATA_TYPE::UINT16, FWP_VALUE0_DATA { uint16: number })
    }

    fn u32(number: u32) -> FWPS_INCOMING_VALUE0 {
        value(FWP_DATA_TYPE::UINT32, FWP_VALUE0_DATA { uint32: number })
    }

    fn address(layer: &Layer, v4: u32, v6: &'static FWP_BYTE_ARRAY16) -> FWPS_INCOMING_VALUE0 {
        if layer.family == ADDRESS_FAMILY::INET {
            return u32(v4);
        }
        let data = FWP_VALUE0_DATA { byteArray16: ptr::from_ref(v6).cast_mut() };
        value(FWP_DATA_TYPE::BYTE_ARRAY16_TYPE, data)
    }

    /// The fixed values of a layer, by the indexes that the platform's documents give.
    fn values(layer: &Layer) -> Vec<FWPS_INCOMING_VALUE0> {
        let local = address(layer, 0x0a01_0203, &LOCAL6);
        let remote = address(layer, 0xc000_0207, &REMOTE6);
        let none = FWPS_INCOMING_VALUE0 { value: FWP_VALUE0::EMPTY };
        match layer.hook {
            Hook::StreamV4 | Hook::StreamV6 => {
                vec![local, none, remote, u16(40_000), u16(443), u32(1), u32(0x1), u32(9)]
            }
            Hook::DatagramDataV4 | Hook::DatagramDataV6 => {
                let udp = value(FWP_DATA_TYPE::UINT8, FWP_VALUE0_DATA { uint8: 17 });
                let mut values = vec![udp, local, remote, none, u16(40_000), u16(53), none, u32(12), none];
                values.extend([u32(0), u32(0x1), none, none, u32(9)]);
                values
            }
            Hook::OutboundIcmpErrorV4 | Hook::OutboundIcmpErrorV6 => {
                let mut values = vec![local, remote, none, none, u16(40_000), u16(53), u32(12)];
                values.extend([none, none, none, u32(0x1), none, none, u32(9)]);
                values
            }
            Hook::OutboundTransportV4 | Hook::OutboundTransportV6 => {
                let udp = value(FWP_DATA_TYPE::UINT8, FWP_VALUE0_DATA { uint8: 17 });
                let mut values = vec![udp, local, none, remote, u16(40_000), u16(53), none, u32(12)];
                values.extend([none, none, u32(0x1), none, none, none, none, u32(9)]);
                values
            }
        }
    }

    /// Metadata whose every member is garbage.
    fn garbage() -> FWPS_INCOMING_METADATA_VALUES0 {
        let mut meta = MaybeUninit::<FWPS_INCOMING_METADATA_VALUES0>::uninit();
        // SAFETY: the struct is made of integers and pointers, for which any bytes will do.
        let mut meta = unsafe {
            meta.as_mut_ptr().cast::<u8>().write_bytes(0xa5, size_of::<FWPS_INCOMING_METADATA_VALUES0>());
            meta.assume_init()
        };
        meta.currentMetadataValues = FWPS_METADATA_FIELD::NONE;
        meta
    }

    fn given(layer: &Layer, values: &mut [FWPS_INCOMING_VALUE0]) -> FWPS_INCOMING_VALUES0 {
        FWPS_INCOMING_VALUES0 {
            layerId: layer.id,
            valueCount: values.len() as u32,
            incomingValue: values.as_mut_ptr(),
        }
    }

    fn incoming(given: Given<'_>) -> Option<Incoming<'_>> {
        Incoming::of_stream(given).or_else(|| Incoming::of_send(given))
    }

    fn addresses(layer: &Layer) -> ([u8; 16], [u8; 16]) {
        if layer.family == ADDRESS_FAMILY::INET6 {
            return ([0x11; 16], [0x22; 16]);
        }
        let padded = |bytes: [u8; 4]| core::array::from_fn(|at| bytes.get(at).copied().unwrap_or(0));
        (padded([10, 1, 2, 3]), padded([192, 0, 2, 7]))
    }

    #[test]
    fn every_hook_has_its_layer() {
        for hook in Hook::ALL {
            let layer = &LAYERS[hook.index()];
            assert_eq!(layer.hook, hook);
            assert_eq!(layer::is_v6(layer.id), layer.family == ADDRESS_FAMILY::INET6);
        }
    }

    #[test]
    fn a_stream_context_has_what_the_layer_says() {
        for layer in &LAYERS[..2] {
            let mut values = values(layer);
            let values = given(layer, &mut values);
            let mut meta = garbage();
            meta.flowHandle = 77;
            meta.currentMetadataValues = FWPS_METADATA_FIELD::FLOW_HANDLE;
            // SAFETY: both live through the test.
            let incoming = incoming(unsafe { Given::new(&values, &meta) }).expect("one of ours");
            let (local_addr, remote_addr) = addresses(layer);
            let expected = StreamContext {
                flow_id: 77,
                process_id: 0,
                missed_bytes: 3,
                flags: STREAM_PUSH | STREAM_DISCONNECT,
                direction: 1,
                opener: 1,
                family: if layer.family == ADDRESS_FAMILY::INET6 { 6 } else { 4 },
                local_port: 40_000,
                remote_port: 443,
                compartment_id: 9,
                local_addr,
                remote_addr,
                ..StreamContext::default()
            };
            let flags = FWPS_STREAM_FLAG::RECEIVE_PUSH | FWPS_STREAM_FLAG::RECEIVE_DISCONNECT;
            let received = FWPS_STREAM_FLAG::RECEIVE | flags;
            assert_eq!(indication(&incoming.connection(), received, 3), expected);
            assert_eq!(
                indication(&incoming.connection(), FWPS_STREAM_FLAG::SEND, 3),
                StreamContext { flags: 0, direction: 0, ..expected }
            );
        }
    }

    #[test]
    fn a_send_context_has_what_the_layer_says() {
        for layer in &LAYERS[2..] {
            let mut values = values(layer);
            let values = given(layer, &mut values);
            let mut meta = garbage();
            (meta.flowHandle, meta.processId, meta.transportHeaderSize) = (77, 88, 8);
            (meta.ipHeaderSize, meta.compartmentId) = (20, COMPARTMENT_ID(4));
            meta.currentMetadataValues = FWPS_METADATA_FIELD::FLOW_HANDLE
                | FWPS_METADATA_FIELD::PROCESS_ID
                | FWPS_METADATA_FIELD::TRANSPORT_HEADER_SIZE
                | FWPS_METADATA_FIELD::IP_HEADER_SIZE
                | FWPS_METADATA_FIELD::COMPARTMENT_ID;
            // SAFETY: both live through the test.
            let incoming = incoming(unsafe { Given::new(&values, &meta) }).expect("one of ours");
            let (local_addr, remote_addr) = addresses(layer);
            let apart = incoming.is_header_apart();
            let expected = SendContext {
                flow_id: 77,
                process_id: 88,
                flags: SEND_LOOPBACK | if apart { 0 } else { SEND_RAW },
                protocol: layer.protocol.map_or(17, |protocol| u32::from(protocol.0)),
                family: if layer.family == ADDRESS_FAMILY::INET6 { 6 } else { 4 },
                header_size: if apart { 8 } else { 28 },
                local_port: 40_000,
                remote_port: 53,
                interface_index: 12,
                compartment_id: 4,
                local_addr,
                remote_addr,
                ..SendContext::default()
            };
            assert_eq!(incoming.send_context(), expected);
        }
    }

    #[test]
    fn metadata_without_its_bit_is_not_looked_at() {
        for layer in &LAYERS {
            let mut values = values(layer);
            let values = given(layer, &mut values);
            let meta = garbage();
            // SAFETY: both live through the test.
            let incoming = incoming(unsafe { Given::new(&values, &meta) }).expect("one of ours");
            let context = incoming.send_context();
            assert_eq!((context.flow_id, context.process_id, context.header_size), (0, 0, 0));
            assert_eq!(context.flags & SEND_RAW, 0);
            assert_eq!((incoming.flow(), incoming.endpoint()), (None, None));
            assert_eq!(incoming.control_data(), b"");
            assert_eq!(
                (incoming.compartment_id(), incoming.remote_scope().0),
                (COMPARTMENT_ID::UNSPECIFIED, 0)
            );
        }
    }

    #[test]
    fn a_value_that_is_missing_or_of_another_type_is_zero() {
        for layer in &LAYERS {
            let mut all = values(layer);
            let meta = garbage();
            for count in 0..all.len() {
                let values = given(layer, &mut all[..count]);
                // SAFETY: both live through the test.
                let incoming = incoming(unsafe { Given::new(&values, &meta) }).expect("one of ours");
                let context = incoming.connection();
                let seen = |index: usize| index < count;
                assert_eq!(context.local_port != 0, seen(layer.fields.local_port));
                assert_eq!(context.remote_addr != [0; 16], seen(layer.fields.remote_address));
                assert_eq!(context.compartment_id != 0, seen(layer.fields.compartment));
            }
            for value in &mut all {
                value.value.r#type = FWP_DATA_TYPE::FLOAT;
            }
            let values = given(layer, &mut all);
            // SAFETY: both live through the test.
            let incoming = incoming(unsafe { Given::new(&values, &meta) }).expect("one of ours");
            let nothing = SendContext {
                family: family(incoming.v6()),
                protocol: layer.protocol.map_or(0, |protocol| u32::from(protocol.0)),
                ..SendContext::default()
            };
            assert_eq!(incoming.send_context(), nothing);
        }
    }

    #[test]
    fn only_what_this_machine_sends_is_looked_at_where_both_ways_are_shown() {
        for layer in &LAYERS {
            let meta = garbage();
            for (direction, outbound) in [(u32(0), true), (u32(1), false), (u16(0), false)] {
                let mut values = values(layer);
                let index = layer.fields.direction.unwrap_or(6);
                values[index] = direction;
                let values = given(layer, &mut values);
                // SAFETY: both live through the test.
                let incoming = incoming(unsafe { Given::new(&values, &meta) }).expect("one of ours");
                assert_eq!(incoming.is_outbound(), outbound || layer.fields.direction.is_none());
            }
        }
    }

    #[test]
    fn a_layer_of_nobody_s_is_none() {
        let values = FWPS_INCOMING_VALUES0 { layerId: 99, valueCount: 0, incomingValue: ptr::null_mut() };
        let meta = garbage();
        // SAFETY: both live through the test.
        assert!(incoming(unsafe { Given::new(&values, &meta) }).is_none());
    }
}

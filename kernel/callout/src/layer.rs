//! What classify says about the data, by layer: fixed values and metadata into a program's context.
//!
//! Every layer keeps its fixed values in an order of its own, so each has a row here. A value counts only when the layer
//! has it and it is of the type it must be; a metadata member counts only when its bit is set.

use fwps_sys::layer::{self, outbound_transport, stream};
use fwps_sys::{
    ADDRESS_FAMILY, COMPARTMENT_ID, FWP_CONDITION_FLAG, FWP_DATA_TYPE, FWP_VALUE0,
    FWPS_INCOMING_METADATA_VALUES0, FWPS_INCOMING_VALUES0, FWPS_METADATA_FIELD, FWPS_STREAM_DATA0,
    FWPS_STREAM_FLAG, IPPROTO, SCOPE_ID,
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
    opener: Option<usize>,
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
    protocol: Some(outbound_transport::IP_PROTOCOL),
    interface: Some(outbound_transport::INTERFACE_INDEX),
};

/// Every layer, in the order of [`Hook::ALL`].
pub(crate) const LAYERS: [Layer; Hook::ALL.len()] = [
    Layer { id: layer::STREAM_V4, hook: Hook::StreamV4, family: ADDRESS_FAMILY::INET, fields: STREAM },
    Layer { id: layer::STREAM_V6, hook: Hook::StreamV6, family: ADDRESS_FAMILY::INET6, fields: STREAM },
    Layer {
        id: layer::OUTBOUND_TRANSPORT_V4,
        hook: Hook::OutboundTransportV4,
        family: ADDRESS_FAMILY::INET,
        fields: OUTBOUND_TRANSPORT,
    },
    Layer {
        id: layer::OUTBOUND_TRANSPORT_V6,
        hook: Hook::OutboundTransportV6,
        family: ADDRESS_FAMILY::INET6,
        fields: OUTBOUND_TRANSPORT,
    },
];

/// An address as bytes in network order, IPv4 in the first four.
type Address = [u8; 16];

/// What classify was given about the data, for as long as it runs.
#[derive(Clone, Copy)]
pub(crate) struct Incoming<'c> {
    pub(crate) layer: &'static Layer,
    values: &'c FWPS_INCOMING_VALUES0,
    meta: &'c FWPS_INCOMING_METADATA_VALUES0,
}

impl<'c> Incoming<'c> {
    /// What this classify was given; `None` when its layer is not one of ours.
    ///
    /// # Safety
    /// Both are what classify was given, and 'c ends with that classify.
    pub(crate) unsafe fn new(
        values: &'c FWPS_INCOMING_VALUES0,
        meta: &'c FWPS_INCOMING_METADATA_VALUES0,
    ) -> Option<Self> {
        let layer = LAYERS.iter().find(|layer| layer.id == values.layerId)?;
        Some(Self { layer, values, meta })
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

    fn u8(&self, index: usize) -> Option<u8> {
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

    /// An address: IPv4 comes as a number in host order, IPv6 as bytes in network order behind a pointer.
    fn address(&self, index: usize) -> Address {
        let mut address = [0; 16];
        if self.v6() {
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

    fn v6(&self) -> bool {
        self.layer.family == ADDRESS_FAMILY::INET6
    }

    fn family(&self) -> u32 {
        if self.v6() { 6 } else { 4 }
    }

    fn flags(&self) -> FWP_CONDITION_FLAG {
        FWP_CONDITION_FLAG(self.u32(self.layer.fields.flags).unwrap_or(0))
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

    /// The endpoint that sends, if it is known. Nothing is injected without.
    pub(crate) fn endpoint(&self) -> Option<u64> {
        self.meta(FWPS_METADATA_FIELD::TRANSPORT_ENDPOINT_HANDLE, |meta| meta.transportEndpointHandle)
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

    fn process_id(&self) -> u64 {
        self.meta(FWPS_METADATA_FIELD::PROCESS_ID, |meta| meta.processId).unwrap_or(0)
    }

    fn compartment(&self) -> u32 {
        self.meta(FWPS_METADATA_FIELD::COMPARTMENT_ID, |meta| meta.compartmentId.0)
            .or_else(|| self.u32(self.layer.fields.compartment))
            .unwrap_or(0)
    }

    /// The IP protocol, at the layers that say it.
    pub(crate) fn protocol(&self) -> Option<IPPROTO> {
        self.layer.fields.protocol.and_then(|index| self.u8(index)).map(IPPROTO)
    }

    /// Bytes of the IP header in front of the transport header: not 0 means that a raw socket sends it.
    pub(crate) fn ip_header_size(&self) -> u32 {
        self.meta(FWPS_METADATA_FIELD::IP_HEADER_SIZE, |meta| meta.ipHeaderSize).unwrap_or(0)
    }

    /// The remote address in network order: its first 4 or all 16 bytes.
    pub(crate) fn remote_address(&self) -> Address {
        self.address(self.layer.fields.remote_address)
    }

    /// Source and destination of an outgoing packet.
    pub(crate) fn ends(&self) -> Ends {
        let (local, remote) = (self.address(self.layer.fields.local_address), self.remote_address());
        if self.v6() {
            return Ends::V6(local, remote);
        }
        let ([a, b, c, d, ..], [e, f, g, h, ..]) = (local, remote);
        Ends::V4([a, b, c, d], [e, f, g, h])
    }

    /// The context of a stream indication, but for the window.
    pub(crate) fn stream_context(&self, data: &FWPS_STREAM_DATA0, missed: usize) -> StreamContext {
        let fields = &self.layer.fields;
        let mut flags = 0;
        for (bits, flag) in [
            (FWPS_STREAM_FLAG::RECEIVE_EXPEDITED | FWPS_STREAM_FLAG::SEND_EXPEDITED, STREAM_EXPEDITED),
            (FWPS_STREAM_FLAG::RECEIVE_PUSH | FWPS_STREAM_FLAG::SEND_NODELAY, STREAM_PUSH),
            (FWPS_STREAM_FLAG::DISCONNECT, STREAM_DISCONNECT),
            (FWPS_STREAM_FLAG::ABORT, STREAM_ABORT),
        ] {
            if data.flags.has_any(bits) {
                flags |= flag;
            }
        }
        StreamContext {
            flow_id: self.flow().unwrap_or(0),
            process_id: self.process_id(),
            missed_bytes: missed as u64,
            flags,
            direction: u32::from(data.flags.has_any(FWPS_STREAM_FLAG::RECEIVE_FAMILY)),
            opener: fields.opener.and_then(|index| self.u32(index)).unwrap_or(0),
            family: self.family(),
            local_port: self.u16(fields.local_port).unwrap_or(0),
            remote_port: self.u16(fields.remote_port).unwrap_or(0),
            compartment_id: self.compartment(),
            local_addr: self.address(fields.local_address),
            remote_addr: self.address(fields.remote_address),
            ..StreamContext::default()
        }
    }

    /// The context of an outgoing packet, but for the window.
    pub(crate) fn send_context(&self) -> SendContext {
        let fields = &self.layer.fields;
        let mut flags = 0;
        if self.flags().has(FWP_CONDITION_FLAG::IS_LOOPBACK) {
            flags |= SEND_LOOPBACK;
        }
        if self.ip_header_size() != 0 {
            flags |= SEND_RAW;
        }
        let header_size =
            self.meta(FWPS_METADATA_FIELD::TRANSPORT_HEADER_SIZE, |meta| meta.transportHeaderSize);
        SendContext {
            flow_id: self.flow().unwrap_or(0),
            process_id: self.process_id(),
            flags,
            protocol: u32::from(self.protocol().unwrap_or_default().0),
            family: self.family(),
            header_size: self.ip_header_size().saturating_add(header_size.unwrap_or(0)),
            local_port: self.u16(fields.local_port).unwrap_or(0),
            remote_port: self.u16(fields.remote_port).unwrap_or(0),
            interface_index: fields.interface.and_then(|index| self.u32(index)).unwrap_or(0),
            compartment_id: self.compartment(),
            local_addr: self.address(fields.local_address),
            remote_addr: self.remote_address(),
            ..SendContext::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_hook_has_its_layer() {
        for hook in Hook::ALL {
            let layer = &LAYERS[hook.index()];
            assert_eq!(layer.hook, hook);
            assert_eq!(layer::is_v6(layer.id), layer.family == ADDRESS_FAMILY::INET6);
        }
    }
}

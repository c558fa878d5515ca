//! Another product on the machine: a callout of its own that takes every packet over and sends it again.
//!
//! What it sends is shown to everybody else, as what they send is shown to it. Two of its kind that don't know when to stop
//! send the same packet to each other for ever.

use std::ffi::c_void;
use std::ptr::null_mut;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use fwps_sys::*;

use crate::current::{self, Reason};
use crate::engine::filters::Filter;
use crate::simulator::Simulator;
use crate::state::Inner;

/// How another product sends again what it took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Again {
    /// As a clone: the platform knows where it came from.
    Clone,
    /// As a packet of its own: who injected it before is forgotten.
    Copy,
}

/// Another product; it goes when this is dropped. See [`Simulator::other_product`].
pub struct OtherProduct {
    sim: Arc<Inner>,
    filters: Vec<u64>,
    callout: u32,
    product: Box<Product>,
}

struct Product {
    again: Again,
    /// Packets that it still takes.
    left: AtomicUsize,
    handle: HANDLE,
    pool: HANDLE,
}

impl Simulator {
    /// Puts another product at the outbound transport layers, in a sublayer of this weight. It takes over `limit` packets that
    /// it did not inject itself, and permits the rest.
    ///
    /// # Panics
    /// When there already is one with this weight.
    pub fn other_product(&self, sublayer: u16, again: Again, limit: usize) -> OtherProduct {
        let key = GUID::from_u128(0x07e4_0000 + u128::from(sublayer));
        let callout = FWPS_CALLOUT1 {
            calloutKey: key,
            flags: FWP_CALLOUT_FLAG::NONE,
            classifyFn: Some(classify),
            notifyFn: Some(notify),
            flowDeleteFn: None,
        };
        let (mut id, mut handle) = (0, null_mut());
        let parameters = NET_BUFFER_LIST_POOL_PARAMETERS::for_injection(0x7265_6874);
        let pool = self.enter(|| {
            // SAFETY: every pointer lives through its call.
            unsafe {
                FwpsCalloutRegister1(self.device_object(), &raw const callout, &raw mut id)
                    .ok()
                    .expect("one product to a weight");
                let all = ADDRESS_FAMILY::UNSPEC;
                FwpsInjectionHandleCreate0(all, FWPS_INJECTION_TYPE::TRANSPORT, &raw mut handle)
                    .ok()
                    .expect("a handle");
                NdisAllocateNetBufferListPool(null_mut(), &raw const parameters)
            }
        });
        let product = Box::new(Product { again, left: AtomicUsize::new(limit), handle, pool });
        let context = std::ptr::from_ref(&*product).expose_provenance() as u64;
        let filters = [layer::OUTBOUND_TRANSPORT_V4, layer::OUTBOUND_TRANSPORT_V6]
            .map(|layer| self.add_filter(Filter::at(layer, key).sublayer(sublayer).context(context)));
        OtherProduct { sim: self.inner(), filters: filters.into(), callout: id, product }
    }
}

impl OtherProduct {
    /// Packets that it still takes.
    pub fn left(&self) -> usize {
        self.product.left.load(Ordering::Relaxed)
    }
}

impl Drop for OtherProduct {
    fn drop(&mut self) {
        self.sim.lock().filters.retain(|filter| !self.filters.contains(&filter.id));
        current::enter(&self.sim, Reason::Driver, || {
            // SAFETY: its own handles, each freed once.
            unsafe {
                let _ = FwpsInjectionHandleDestroy0(self.product.handle);
                let _ = FwpsCalloutUnregisterById0(self.callout);
                NdisFreeNetBufferListPool(self.product.pool);
            }
        });
    }
}

unsafe extern "system" fn notify(
    _: FWPS_CALLOUT_NOTIFY_TYPE,
    _: *const GUID,
    _: *mut FWPS_FILTER1,
) -> NTSTATUS {
    NTSTATUS::SUCCESS
}

unsafe extern "system" fn classify(
    values: *const FWPS_INCOMING_VALUES0,
    metadata: *const FWPS_INCOMING_METADATA_VALUES0,
    data: *mut c_void,
    _context: *const c_void,
    filter: *const FWPS_FILTER1,
    _flow: u64,
    out: *mut FWPS_CLASSIFY_OUT0,
) {
    // SAFETY: the engine passes valid pointers, and the context is the product's, which lives as long as its filter.
    let (values, metadata, product, out) = unsafe {
        let product = std::ptr::with_exposed_provenance::<Product>((*filter).context as usize);
        (&*values, &*metadata, &*product, &mut *out)
    };
    if !out.rights.has(FWPS_RIGHT::ACTION_WRITE) {
        return;
    }
    out.actionType = FWP_ACTION::PERMIT;
    // SAFETY: at the transport layers the data is an NBL.
    let state = unsafe { FwpsQueryPacketInjectionState0(product.handle, data.cast(), null_mut()) };
    let others = matches!(
        state,
        FWPS_PACKET_INJECTION_STATE::NOT_INJECTED | FWPS_PACKET_INJECTION_STATE::INJECTED_BY_OTHER
    );
    let endpoint = metadata.has(FWPS_METADATA_FIELD::TRANSPORT_ENDPOINT_HANDLE);
    let take = |left: usize| left.checked_sub(1);
    if !others || !endpoint || product.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_err()
    {
        return;
    }
    // SAFETY: as above.
    if unsafe { product.send(values, metadata, data.cast()) } {
        out.actionType = FWP_ACTION::BLOCK;
        out.flags |= FWPS_CLASSIFY_OUT_FLAG::ABSORB;
        out.rights = FWPS_RIGHT::NONE;
    }
}

/// What one of its injections owns.
struct Owned {
    bytes: Vec<u8>,
    remote: [u8; 16],
    control: Vec<u64>,
    mdl: *mut MDL,
    args: FWPS_TRANSPORT_SEND_PARAMS1,
}

impl Product {
    /// Sends a list again; false when it can't.
    ///
    /// # Safety
    /// All is what a classify at an outbound transport layer was given.
    unsafe fn send(
        &self,
        values: &FWPS_INCOMING_VALUES0,
        metadata: &FWPS_INCOMING_METADATA_VALUES0,
        nbl: *mut NET_BUFFER_LIST,
    ) -> bool {
        use layer::outbound_transport as field;
        let v6 = values.layerId == layer::OUTBOUND_TRANSPORT_V6;
        let mut owned = Box::new(Owned {
            bytes: Vec::new(),
            remote: [0; 16],
            control: Vec::new(),
            mdl: null_mut(),
            args: FWPS_TRANSPORT_SEND_PARAMS1 {
                remoteAddress: null_mut(),
                remoteScopeId: SCOPE_ID(0),
                controlData: null_mut(),
                controlDataLength: 0,
                headerIncludeHeader: null_mut(),
                headerIncludeHeaderLength: 0,
            },
        });
        // SAFETY: the caller's promise: values of the layer's types, metadata behind its bits, a live list.
        unsafe {
            let remote = (*values.incomingValue.add(field::IP_REMOTE_ADDRESS)).value;
            if v6 {
                owned.remote = (*remote.data.byteArray16).byteArray16;
            } else {
                owned.remote[..4].copy_from_slice(&remote.data.uint32.to_be_bytes());
            }
            if metadata.has(FWPS_METADATA_FIELD::TRANSPORT_CONTROL_DATA) && !metadata.controlData.is_null() {
                let length = metadata.controlDataLength as usize;
                owned.control = vec![0; length.div_ceil(8)];
                let from = metadata.controlData.cast::<u8>();
                std::ptr::copy_nonoverlapping(from, owned.control.as_mut_ptr().cast(), length);
                owned.args.controlData = owned.control.as_mut_ptr().cast();
                owned.args.controlDataLength = metadata.controlDataLength;
            }
            if metadata.has(FWPS_METADATA_FIELD::REMOTE_SCOPE_ID) {
                owned.args.remoteScopeId = metadata.remoteScopeId;
            }
            let nb = NET_BUFFER_LIST::first_nb(nbl);
            let alone = (*nb).Next.is_null();
            let mut again = null_mut();
            let status = if self.again == Again::Clone || !alone {
                FwpsAllocateCloneNetBufferList0(nbl, null_mut(), null_mut(), 0, &raw mut again)
            } else {
                let length = NET_BUFFER::data_length(nb);
                owned.bytes = vec![0; length as usize];
                let found = NdisGetDataBuffer(nb, length, owned.bytes.as_mut_ptr().cast(), 1, 0);
                if found.is_null() {
                    return false;
                }
                std::ptr::copy(found.cast::<u8>(), owned.bytes.as_mut_ptr(), length as usize);
                owned.mdl = IoAllocateMdl(owned.bytes.as_mut_ptr().cast(), length, 0, 0, null_mut());
                if owned.mdl.is_null() {
                    return false;
                }
                MmBuildMdlForNonPagedPool(owned.mdl);
                let length = length as usize;
                let mdl = owned.mdl;
                FwpsAllocateNetBufferAndNetBufferList0(self.pool, 0, 0, mdl, 0, length, &raw mut again)
            };
            if status != NTSTATUS::SUCCESS {
                if !owned.mdl.is_null() {
                    IoFreeMdl(owned.mdl);
                }
                return false;
            }
            if owned.mdl.is_null() || NET_BUFFER_LIST::transmit_checksum(nbl).0 != 0 {
                // The sum of the pseudo-header is in the packet: say so again.
                let slot = NET_BUFFER_LIST_INFO::TcpIpChecksum;
                NET_BUFFER_LIST::set_info(again, slot, NET_BUFFER_LIST::info(nbl, slot));
            }
            let family = if v6 { ADDRESS_FAMILY::INET6 } else { ADDRESS_FAMILY::INET };
            let compartment = if metadata.has(FWPS_METADATA_FIELD::COMPARTMENT_ID) {
                metadata.compartmentId
            } else {
                COMPARTMENT_ID::UNSPECIFIED
            };
            let owned = Box::into_raw(owned);
            (*owned).args.remoteAddress = (&raw mut (*owned).remote).cast();
            let status = FwpsInjectTransportSendAsync1(
                self.handle,
                null_mut(),
                metadata.transportEndpointHandle,
                0,
                &raw mut (*owned).args,
                family,
                compartment,
                again,
                Some(completed),
                owned.cast(),
            );
            if status != NTSTATUS::SUCCESS {
                completed(owned.cast(), again, 1);
            }
            status == NTSTATUS::SUCCESS
        }
    }
}

unsafe extern "system" fn completed(context: *mut c_void, nbl: *mut NET_BUFFER_LIST, _: BOOLEAN) {
    // SAFETY: what `send` gave away, once.
    unsafe {
        let owned = Box::from_raw(context.cast::<Owned>());
        if owned.mdl.is_null() {
            FwpsFreeCloneNetBufferList0(nbl, 0);
        } else {
            FwpsFreeNetBufferList0(nbl);
            IoFreeMdl(owned.mdl);
        }
    }
}

//! A callout whose classifyFn is a closure, and the few functions that tests share.
#![allow(dead_code, reason = "each test binary uses some of it")]

use std::any::Any;
use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::c_void;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::ptr::null_mut;

use fwps_sim::{Config, Direction, Filter, FlowId, FlowSpec, Simulator, Violation};
use fwps_sys::*;

/// What a test callout is shown.
pub(crate) struct Shown<'a> {
    pub(crate) sim: &'a Driver,
    pub(crate) values: &'a FWPS_INCOMING_VALUES0,
    pub(crate) metadata: &'a FWPS_INCOMING_METADATA_VALUES0,
    pub(crate) data: *mut c_void,
    pub(crate) filter: &'a FWPS_FILTER1,
    pub(crate) out: &'a mut FWPS_CLASSIFY_OUT0,
}

type Classify = Box<dyn FnMut(&mut Shown<'_>)>;

/// A loaded driver with one callout.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Driver {
    pub(crate) key: GUID,
    pub(crate) callout: u32,
    pub(crate) injection: HANDLE,
    pub(crate) pool: HANDLE,
    pub(crate) device: *mut c_void,
}

thread_local! {
    static CLASSIFY: RefCell<HashMap<u32, (Driver, Option<Classify>)>> = RefCell::default();
    static DELETED: RefCell<Vec<u64>> = RefCell::default();
    static FAILED: RefCell<Vec<Box<dyn Any + Send>>> = RefCell::default();
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
    // SAFETY: the engine passes valid pointers.
    let (values, metadata, filter, out) = unsafe { (&*values, &*metadata, &*filter, &mut *out) };
    let id = filter.action.calloutId;
    let taken = CLASSIFY.with(|all| {
        let mut all = all.borrow_mut();
        let entry = all.get_mut(&id).expect("a registered callout");
        (entry.0, entry.1.take())
    });
    let (driver, Some(mut body)) = taken else {
        // Called again from inside the body: what it injects is shown to it before the inject call returns.
        return out.actionType = FWP_ACTION::PERMIT;
    };
    // A failed assertion must not unwind through the engine's frames: it waits for `unload`.
    let call = AssertUnwindSafe(|| body(&mut Shown { sim: &driver, values, metadata, data, filter, out }));
    if let Err(panic) = catch_unwind(call) {
        FAILED.with(|failed| failed.borrow_mut().push(panic));
    }
    CLASSIFY.with(|all| all.borrow_mut().get_mut(&id).expect("still there").1 = Some(body));
}

unsafe extern "system" fn notify(
    _: FWPS_CALLOUT_NOTIFY_TYPE,
    _: *const GUID,
    _: *mut FWPS_FILTER1,
) -> NTSTATUS {
    NTSTATUS::SUCCESS
}

unsafe extern "system" fn flow_deleted(_: u16, _: u32, context: u64) {
    DELETED.with(|deleted| deleted.borrow_mut().push(context));
}

/// Contexts that flowDeleteFn was called with.
pub(crate) fn deleted() -> Vec<u64> {
    DELETED.with(|deleted| deleted.borrow().clone())
}

/// Loads a driver whose callout runs `body`.
pub(crate) fn load(
    sim: &Simulator,
    key: u128,
    flags: FWP_CALLOUT_FLAG,
    body: impl FnMut(&mut Shown<'_>) + 'static,
) -> Driver {
    let key = GUID::from_u128(key);
    let driver = sim.enter(|| {
        let callout = FWPS_CALLOUT1 {
            calloutKey: key,
            flags,
            classifyFn: Some(classify),
            notifyFn: Some(notify),
            flowDeleteFn: Some(flow_deleted),
        };
        let (mut id, mut injection) = (0, null_mut());
        let parameters = NET_BUFFER_LIST_POOL_PARAMETERS::for_injection(0x6574_6454);
        // SAFETY: every pointer lives through its call.
        unsafe {
            FwpsCalloutRegister1(sim.device_object(), &raw const callout, &raw mut id).ok().unwrap();
            FwpsInjectionHandleCreate0(ADDRESS_FAMILY::UNSPEC, FWPS_INJECTION_TYPE::NONE, &raw mut injection)
                .ok()
                .unwrap();
            let pool = NdisAllocateNetBufferListPool(null_mut(), &raw const parameters);
            Driver { key, callout: id, injection, pool, device: sim.device_object() }
        }
    });
    CLASSIFY.with(|all| all.borrow_mut().insert(driver.callout, (driver, Some(Box::new(body)))));
    driver
}

/// Unloads it in the right order.
pub(crate) fn unload(sim: &Simulator, driver: Driver) {
    if let Some(panic) = FAILED.with(|failed| failed.borrow_mut().pop()) {
        resume_unwind(panic);
    }
    sim.enter(|| {
        // SAFETY: the handles are the driver's.
        unsafe {
            FwpsInjectionHandleDestroy0(driver.injection).ok().unwrap();
            FwpsCalloutUnregisterById0(driver.callout).ok().unwrap();
            NdisFreeNetBufferListPool(driver.pool);
        }
    });
    CLASSIFY.with(|all| all.borrow_mut().remove(&driver.callout));
}

/// A simulator with one callout for one layer.
pub(crate) fn start(
    config: Config,
    layer: u16,
    body: impl FnMut(&mut Shown<'_>) + 'static,
) -> (Simulator, Driver) {
    let sim = Simulator::new(config);
    let driver = load(&sim, 0xa, FWP_CALLOUT_FLAG::NONE, body);
    let filter = Filter::at(layer, driver.key);
    // A filter of a stream may drop connections, whichever document is right.
    let is_stream = matches!(layer, layer::STREAM_V4 | layer::STREAM_V6);
    sim.add_filter(if is_stream { filter.action(FWP_ACTION::CALLOUT_UNKNOWN) } else { filter });
    (sim, driver)
}

/// Unloads, and gives back what was broken.
pub(crate) fn broken(sim: Simulator, driver: Driver) -> Vec<Violation> {
    unload(&sim, driver);
    sim.end()
}

/// A connection to talk about.
pub(crate) fn flow(sim: &Simulator) -> FlowId {
    let spec = FlowSpec::outbound("10.0.0.2:40000".parse().unwrap(), "192.0.2.1:80".parse().unwrap());
    sim.open_flow(&spec)
}

impl Shown<'_> {
    pub(crate) fn packet(&mut self) -> &mut FWPS_STREAM_CALLOUT_IO_PACKET0 {
        // SAFETY: at the stream layers layerData is this.
        unsafe { &mut *self.data.cast() }
    }

    pub(crate) fn stream(&mut self) -> &mut FWPS_STREAM_DATA0 {
        // SAFETY: the simulator always gives stream data.
        unsafe { &mut *self.packet().streamData }
    }

    pub(crate) fn length(&mut self) -> usize {
        self.stream().dataLength
    }

    pub(crate) fn flags(&mut self) -> FWPS_STREAM_FLAG {
        self.stream().flags
    }

    pub(crate) fn is_fin(&mut self) -> bool {
        self.flags().has_any(FWPS_STREAM_FLAG::DISCONNECT)
    }

    pub(crate) fn flow(&self) -> u64 {
        self.metadata.flowHandle
    }

    pub(crate) fn direction(&mut self) -> Direction {
        if self.flags().has(FWPS_STREAM_FLAG::SEND) { Direction::Send } else { Direction::Receive }
    }

    /// Everything that was indicated, copied by the system's function.
    pub(crate) fn bytes(&mut self) -> Vec<u8> {
        let length = self.length();
        let (mut bytes, mut copied) = (vec![0; length], 0);
        // SAFETY: the buffer has that many bytes.
        unsafe {
            FwpsCopyStreamDataToBuffer0(self.stream(), bytes.as_mut_ptr().cast(), length, &raw mut copied);
        }
        assert_eq!(copied, length);
        bytes
    }

    fn answer(&mut self, action: FWP_ACTION, count: usize) {
        self.out.actionType = action;
        let packet = self.packet();
        packet.streamAction = FWPS_STREAM_ACTION::NONE;
        packet.countBytesRequired = 0;
        packet.countBytesEnforced = count;
    }

    pub(crate) fn permit(&mut self, count: usize) {
        self.answer(FWP_ACTION::PERMIT, count);
    }

    pub(crate) fn permit_all(&mut self) {
        let length = self.length();
        self.permit(length);
    }

    pub(crate) fn block(&mut self, count: usize) {
        self.answer(FWP_ACTION::BLOCK, count);
    }

    pub(crate) fn block_all(&mut self) {
        let length = self.length();
        self.block(length);
    }

    pub(crate) fn act(&mut self, action: FWPS_STREAM_ACTION, required: u32) {
        self.answer(FWP_ACTION::NONE, 0);
        let packet = self.packet();
        packet.streamAction = action;
        packet.countBytesRequired = required;
    }

    pub(crate) fn clone_stream(&mut self) -> *mut NET_BUFFER_LIST {
        let mut chain = null_mut();
        // SAFETY: the stream data is the engine's.
        unsafe {
            FwpsCloneStreamData0(self.stream(), null_mut(), null_mut(), 0, &raw mut chain).ok().unwrap();
        }
        chain
    }

    /// Injects bytes of its own into the direction that is shown.
    pub(crate) fn inject(&mut self, bytes: &[u8]) {
        let flags = self.direction().flag();
        let (nbl, buffer) = built(self.sim, bytes);
        stream_inject(self.sim, self.flow(), flags, nbl, bytes.len(), free_built, buffer).ok().unwrap();
    }

    /// The decision of a packet layer.
    pub(crate) fn decide(&mut self, action: FWP_ACTION) {
        self.out.actionType = action;
        if action == FWP_ACTION::BLOCK {
            self.out.rights = FWPS_RIGHT::NONE;
        }
    }

    pub(crate) fn absorb(&mut self) {
        self.decide(FWP_ACTION::BLOCK);
        self.out.flags |= FWPS_CLASSIFY_OUT_FLAG::ABSORB;
    }

    pub(crate) fn injection_state(&self) -> FWPS_PACKET_INJECTION_STATE {
        // SAFETY: at the packet layers layerData is an NBL.
        unsafe { FwpsQueryPacketInjectionState0(self.sim.injection, self.data.cast(), null_mut()) }
    }
}

/// Memory behind a built NBL: freed by its completion.
pub(crate) struct Buffer {
    pub(crate) bytes: Vec<u8>,
    pub(crate) mdl: *mut MDL,
    pub(crate) args: FWPS_TRANSPORT_SEND_PARAMS1,
    pub(crate) remote: [u8; 4],
    pub(crate) control: Vec<u8>,
}

/// An NBL over new memory.
pub(crate) fn built(driver: &Driver, bytes: &[u8]) -> (*mut NET_BUFFER_LIST, *mut Buffer) {
    try_built(driver, bytes).expect("no failure was asked for")
}

/// An NBL over new memory, if there is any.
pub(crate) fn try_built(driver: &Driver, bytes: &[u8]) -> Option<(*mut NET_BUFFER_LIST, *mut Buffer)> {
    let args = FWPS_TRANSPORT_SEND_PARAMS1 {
        remoteAddress: null_mut(),
        remoteScopeId: SCOPE_ID(0),
        controlData: null_mut(),
        controlDataLength: 0,
        headerIncludeHeader: null_mut(),
        headerIncludeHeaderLength: 0,
    };
    let mut buffer = Box::new(Buffer {
        bytes: bytes.to_vec(),
        mdl: null_mut(),
        args,
        remote: [0; 4],
        control: Vec::new(),
    });
    let mut nbl = null_mut();
    // SAFETY: the buffer outlives the MDL and the NBL.
    unsafe {
        let data = buffer.bytes.as_mut_ptr();
        let mdl = IoAllocateMdl(data.cast(), bytes.len() as u32, 0, 0, null_mut());
        if mdl.is_null() {
            return None;
        }
        MmBuildMdlForNonPagedPool(mdl);
        buffer.mdl = mdl;
        let status =
            FwpsAllocateNetBufferAndNetBufferList0(driver.pool, 0, 0, mdl, 0, bytes.len(), &raw mut nbl);
        if status != NTSTATUS::SUCCESS {
            IoFreeMdl(mdl);
            return None;
        }
    }
    Some((nbl, Box::into_raw(buffer)))
}

/// Frees what `built` made.
pub(crate) unsafe extern "system" fn free_built(context: *mut c_void, nbl: *mut NET_BUFFER_LIST, _: BOOLEAN) {
    // SAFETY: the completion owns both.
    unsafe {
        let buffer = Box::from_raw(context.cast::<Buffer>());
        FwpsFreeNetBufferList0(nbl);
        IoFreeMdl(buffer.mdl);
    }
}

/// Frees one clone.
pub(crate) unsafe extern "system" fn free_clone(_: *mut c_void, nbl: *mut NET_BUFFER_LIST, _: BOOLEAN) {
    // SAFETY: the completion owns it.
    unsafe { FwpsFreeCloneNetBufferList0(nbl, 0) }
}

/// Frees nothing.
pub(crate) unsafe extern "system" fn forget(_: *mut c_void, _: *mut NET_BUFFER_LIST, _: BOOLEAN) {}

/// `FwpsStreamInjectAsync0` as a callout calls it.
pub(crate) fn stream_inject<T>(
    driver: &Driver,
    flow: u64,
    flags: FWPS_STREAM_FLAG,
    nbl: *mut NET_BUFFER_LIST,
    length: usize,
    complete: unsafe extern "system" fn(*mut c_void, *mut NET_BUFFER_LIST, BOOLEAN),
    context: *mut T,
) -> NTSTATUS {
    // SAFETY: the NBL is the caller's.
    unsafe {
        FwpsStreamInjectAsync0(
            driver.injection,
            null_mut(),
            0,
            flow,
            driver.callout,
            layer::STREAM_V4,
            flags,
            nbl,
            length,
            Some(complete),
            context.cast(),
        )
    }
}

/// The bytes of the first packet of an NBL.
pub(crate) fn packet_bytes(nbl: *mut c_void) -> Vec<u8> {
    // SAFETY: the NBL is live, and storage has room.
    unsafe {
        let nb = NET_BUFFER_LIST::first_nb(nbl.cast());
        let length = NET_BUFFER::data_length(nb);
        let mut storage = vec![0; length as usize];
        let found = NdisGetDataBuffer(nb, length, storage.as_mut_ptr().cast(), 1, 0);
        assert!(!found.is_null());
        std::slice::from_raw_parts(found.cast::<u8>(), length as usize).to_vec()
    }
}

thread_local! {
    /// The NBL of the latest transport injection.
    pub(crate) static LAST: std::cell::Cell<*mut NET_BUFFER_LIST> = const { std::cell::Cell::new(null_mut()) };
}

/// Injects over IPv6 to the documentation prefix.
pub(crate) fn send_inject_v6(shown: &Shown<'_>, bytes: &[u8]) {
    let (nbl, buffer) = built(shown.sim, bytes);
    // SAFETY: the buffer lives until the completion.
    unsafe {
        (*buffer).control = std::net::Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).octets().to_vec();
        (*buffer).args.remoteAddress = (*buffer).control.as_mut_ptr();
        FwpsInjectTransportSendAsync1(
            shown.sim.injection,
            null_mut(),
            shown.metadata.transportEndpointHandle,
            0,
            &raw mut (*buffer).args,
            ADDRESS_FAMILY::INET6,
            shown.metadata.compartmentId,
            nbl,
            Some(free_built),
            buffer.cast(),
        )
        .ok()
        .unwrap();
    }
}

/// The context of every transport injection.
pub(crate) const CONTEXT: usize = 0x51;

/// `FwpsInjectTransportSendAsync1` with parameters after `metadata`, to `remote`.
pub(crate) fn send_inject(
    driver: &Driver,
    metadata: &FWPS_INCOMING_METADATA_VALUES0,
    remote: [u8; 4],
    bytes: &[u8],
    change: impl FnOnce(&mut Buffer),
) -> NTSTATUS {
    let (nbl, buffer) = built(driver, bytes);
    // SAFETY: the buffer lives until the completion.
    unsafe {
        (*buffer).remote = remote;
        (*buffer).args.remoteAddress = (&raw mut (*buffer).remote).cast();
        change(&mut *buffer);
        LAST.set(nbl);
        let compartment = if metadata.has(FWPS_METADATA_FIELD::COMPARTMENT_ID) {
            metadata.compartmentId
        } else {
            COMPARTMENT_ID::UNSPECIFIED
        };
        let status = FwpsInjectTransportSendAsync1(
            driver.injection,
            CONTEXT as HANDLE,
            metadata.transportEndpointHandle,
            0,
            &raw mut (*buffer).args,
            ADDRESS_FAMILY::INET,
            compartment,
            nbl,
            Some(free_built),
            buffer.cast(),
        );
        if status != NTSTATUS::SUCCESS {
            free_built(buffer.cast(), nbl, 0);
        }
        status
    }
}

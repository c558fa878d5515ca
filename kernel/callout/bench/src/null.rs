//! A filter engine that costs next to nothing and checks nothing: what is measured is the callout, not the simulator.
//!
//! Descriptors come from free lists. What is injected is accepted, and completes when the classify is over, or inside of the
//! call when the deepest stack is looked for. Everything belongs to the thread.
#![expect(unreachable_pub, non_snake_case, reason = "symbols under the names of the DDI")]

use std::cell::{Cell, RefCell, UnsafeCell};
use std::ffi::c_void;
use std::ops::Range;
use std::ptr::null_mut;

use fwps_sys::*;

/// What a completion is called with later.
struct Pending {
    complete: FWPS_INJECT_COMPLETE0,
    context: *mut c_void,
    nbl: *mut NET_BUFFER_LIST,
}

#[repr(C, align(16))]
struct List {
    nbl: UnsafeCell<NET_BUFFER_LIST>,
    nb: UnsafeCell<NET_BUFFER>,
}

thread_local! {
    static LISTS: UnsafeCell<Vec<*mut List>> = const { UnsafeCell::new(Vec::new()) };
    static MDLS: UnsafeCell<Vec<*mut MDL>> = const { UnsafeCell::new(Vec::new()) };
    static PENDING: UnsafeCell<Vec<Pending>> = const { UnsafeCell::new(Vec::new()) };
    static CALLOUTS: RefCell<Vec<FWPS_CALLOUT1>> = const { RefCell::new(Vec::new()) };
    static AT_ONCE: Cell<bool> = const { Cell::new(false) };
    static SHOWN: Cell<(usize, usize)> = const { Cell::new((0, 0)) };
    static COPIED: Cell<usize> = const { Cell::new(0) };
    static WORK: Cell<(IO_WORKITEM_ROUTINE, usize)> = const { Cell::new((None, 0)) };
}

/// The callout of this key.
pub(crate) fn callout(key: &GUID) -> Option<FWPS_CALLOUT1> {
    CALLOUTS.with(|all| all.borrow().iter().find(|callout| callout.calloutKey == *key).copied())
}

/// Injections complete inside of their call from now on.
pub(crate) fn complete_at_once(at_once: bool) {
    AT_ONCE.set(at_once);
}

/// The memory that is shown: bytes that are injected from elsewhere were copied or made.
pub(crate) fn show(memory: Range<usize>) {
    SHOWN.set((memory.start, memory.end));
}

/// Bytes injected since the last call that are not of the memory shown.
pub(crate) fn copied() -> usize {
    COPIED.replace(0)
}

/// Runs the work that was queued, and every completion.
#[inline]
pub(crate) fn settle() {
    let (work, context) = WORK.replace((None, 0));
    if let Some(work) = work {
        // SAFETY: the driver queued it with this context, for one run.
        unsafe { work(null_mut(), context as *mut c_void) }
    }
    // SAFETY: the list is this thread's, and completions don't inject.
    while let Some(pending) = PENDING.with(|all| unsafe { (*all.get()).pop() }) {
        complete(&pending);
    }
}

fn complete(pending: &Pending) {
    // SAFETY: the NBL is in flight, its owner is told once.
    unsafe {
        (*pending.nbl).Status = NTSTATUS::SUCCESS;
        if let Some(complete) = pending.complete {
            complete(pending.context, pending.nbl, 1);
        }
    }
}

fn inject(nbl: *mut NET_BUFFER_LIST, complete_fn: FWPS_INJECT_COMPLETE0, context: *mut c_void) -> NTSTATUS {
    let (start, end) = SHOWN.get();
    // SAFETY: the caller gives a live NBL.
    unsafe {
        let mut mdl = (*(*nbl).FirstNetBuffer).MdlChain;
        let mut foreign = 0;
        while !mdl.is_null() {
            let at = MDL::virtual_address(mdl) as usize;
            if !(start..end).contains(&at) {
                foreign += (*mdl).ByteCount as usize;
            }
            mdl = (*mdl).Next;
        }
        COPIED.set(COPIED.get() + foreign);
    }
    let pending = Pending { complete: complete_fn, context, nbl };
    if AT_ONCE.get() {
        complete(&pending);
    } else {
        // SAFETY: the list is this thread's.
        PENDING.with(|all| unsafe { (*all.get()).push(pending) });
    }
    NTSTATUS::SUCCESS
}

fn zeroed<T>() -> *mut T {
    // SAFETY: plain C structs, for which zeroes are values.
    Box::into_raw(unsafe { Box::<T>::new_zeroed().assume_init() })
}

/// An MDL over `length` bytes at `address`.
pub(crate) fn describe(mdl: *mut MDL, address: usize, length: u32, mapped: bool) {
    // SAFETY: the MDL is the caller's.
    unsafe {
        (*mdl).Next = null_mut();
        (*mdl).MdlFlags = if mapped { MDL_FLAG::MAPPED_TO_SYSTEM_VA } else { MDL_FLAG::NONE };
        (*mdl).MappedSystemVa = address as *mut c_void;
        (*mdl).StartVa = (address & !4095) as *mut c_void;
        (*mdl).ByteOffset = (address & 4095) as u32;
        (*mdl).ByteCount = length;
    }
}

/// An NBL with one NB over an MDL chain.
pub(crate) fn list(chain: *mut MDL, offset: u32, length: u32) -> *mut NET_BUFFER_LIST {
    // SAFETY: the list is this thread's; what it holds is nobody else's.
    let list = LISTS.with(|all| unsafe { (*all.get()).pop() }).unwrap_or_else(zeroed);
    // SAFETY: as above.
    unsafe {
        let (nbl, nb) = ((*list).nbl.get(), (*list).nb.get());
        (*nbl).Next = null_mut();
        (*nbl).FirstNetBuffer = nb;
        (*nb).MdlChain = chain;
        (*nb).DataOffset = offset;
        (*nb).DataLength = length;
        (*nb).CurrentMdl = chain;
        (*nb).CurrentMdlOffset = offset;
        nbl
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "system" fn FwpsCalloutRegister1(
    _device: *mut c_void,
    callout: *const FWPS_CALLOUT1,
    id: *mut u32,
) -> NTSTATUS {
    CALLOUTS.with(|all| {
        let mut all = all.borrow_mut();
        // SAFETY: the caller's promise.
        unsafe {
            all.push(*callout);
            id.write(all.len() as u32);
        }
    });
    NTSTATUS::SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "system" fn FwpsCalloutUnregisterById0(_id: u32) -> NTSTATUS {
    NTSTATUS::SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "system" fn FwpsInjectionHandleCreate0(
    _family: ADDRESS_FAMILY,
    _flags: FWPS_INJECTION_TYPE,
    handle: *mut HANDLE,
) -> NTSTATUS {
    // SAFETY: the caller's promise.
    unsafe { handle.write(8 as HANDLE) }
    NTSTATUS::SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "system" fn FwpsInjectionHandleDestroy0(_handle: HANDLE) -> NTSTATUS {
    settle();
    NTSTATUS::SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "system" fn FwpsQueryPacketInjectionState0(
    _handle: HANDLE,
    _nbl: *const NET_BUFFER_LIST,
    _context: *mut HANDLE,
) -> FWPS_PACKET_INJECTION_STATE {
    FWPS_PACKET_INJECTION_STATE::NOT_INJECTED
}

#[unsafe(no_mangle)]
pub unsafe extern "system" fn FwpsAllocateNetBufferAndNetBufferList0(
    _pool: HANDLE,
    _contextSize: u16,
    _contextBackFill: u16,
    chain: *mut MDL,
    offset: u32,
    length: usize,
    out: *mut *mut NET_BUFFER_LIST,
) -> NTSTATUS {
    // SAFETY: the caller's promise.
    unsafe { out.write(list(chain, offset, length as u32)) }
    NTSTATUS::SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "system" fn FwpsFreeNetBufferList0(nbl: *mut NET_BUFFER_LIST) {
    // SAFETY: made by `list`, whose first member the NBL is.
    LISTS.with(|all| unsafe { (*all.get()).push(nbl.cast()) });
}

#[unsafe(no_mangle)]
pub unsafe extern "system" fn FwpsReferenceNetBufferList0(_nbl: *mut NET_BUFFER_LIST, _modify: BOOLEAN) {}

#[unsafe(no_mangle)]
pub unsafe extern "system" fn FwpsDereferenceNetBufferList0(_nbl: *mut NET_BUFFER_LIST, _dispatch: BOOLEAN) {}

#[unsafe(no_mangle)]
pub unsafe extern "system" fn FwpsInjectTransportSendAsync1(
    _handle: HANDLE,
    _injectionContext: HANDLE,
    _endpoint: u64,
    _flags: u32,
    _args: *mut FWPS_TRANSPORT_SEND_PARAMS1,
    _family: ADDRESS_FAMILY,
    _compartment: COMPARTMENT_ID,
    nbl: *mut NET_BUFFER_LIST,
    complete: FWPS_INJECT_COMPLETE0,
    context: HANDLE,
) -> NTSTATUS {
    inject(nbl, complete, context)
}

#[unsafe(no_mangle)]
pub unsafe extern "system" fn FwpsStreamInjectAsync0(
    _handle: HANDLE,
    _injectionContext: HANDLE,
    _flags: u32,
    _flow: u64,
    _callout: u32,
    _layer: u16,
    _stream: FWPS_STREAM_FLAG,
    nbl: *mut NET_BUFFER_LIST,
    _length: usize,
    complete: FWPS_INJECT_COMPLETE0,
    context: HANDLE,
) -> NTSTATUS {
    inject(nbl, complete, context)
}

#[unsafe(no_mangle)]
pub unsafe extern "system" fn FwpsFlowAbort0(_flow: u64) -> NTSTATUS {
    NTSTATUS::SUCCESS
}

/// Where the contexts of flows go; what is measured passes them itself.
#[unsafe(no_mangle)]
pub unsafe extern "system" fn FwpsFlowAssociateContext0(
    flow: u64,
    _layer: u16,
    _callout: u32,
    context: u64,
) -> NTSTATUS {
    CONTEXTS.with(|all| {
        let mut all = all.borrow_mut();
        let at = flow as usize;
        if all.len() <= at {
            all.resize(at + 1, 0);
        }
        all[at] = context;
    });
    NTSTATUS::SUCCESS
}

thread_local! {
    static CONTEXTS: RefCell<Vec<u64>> = const { RefCell::new(Vec::new()) };
}

/// The contexts that were associated, by flow.
pub(crate) fn contexts() -> Vec<u64> {
    CONTEXTS.with(|all| all.borrow().clone())
}

#[unsafe(no_mangle)]
pub unsafe extern "system" fn FwpsFlowRemoveContext0(flow: u64, layer: u16, id: u32) -> NTSTATUS {
    let context = CONTEXTS.with(|all| all.borrow_mut().get_mut(flow as usize).map(std::mem::take));
    let callout = CALLOUTS.with(|all| all.borrow().get((id as usize).wrapping_sub(1)).copied());
    let deleted = callout.and_then(|callout| callout.flowDeleteFn);
    let (Some(deleted), Some(context)) = (deleted, context.filter(|context| *context != 0)) else {
        return NTSTATUS::UNSUCCESSFUL;
    };
    // SAFETY: the callout associated this context, and gets it back once.
    unsafe { deleted(layer, id, context) };
    NTSTATUS::SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "system" fn NdisAllocateGenericObject(
    _driver: *mut c_void,
    _tag: u32,
    _size: u16,
) -> *mut c_void {
    8 as *mut c_void
}

#[unsafe(no_mangle)]
pub unsafe extern "system" fn NdisFreeGenericObject(_object: *mut c_void) {}

#[unsafe(no_mangle)]
pub unsafe extern "system" fn NdisAllocateNetBufferListPool(
    _object: HANDLE,
    _parameters: *const NET_BUFFER_LIST_POOL_PARAMETERS,
) -> HANDLE {
    8 as HANDLE
}

#[unsafe(no_mangle)]
pub unsafe extern "system" fn NdisFreeNetBufferListPool(_pool: HANDLE) {}

#[unsafe(no_mangle)]
pub unsafe extern "system" fn IoAllocateMdl(
    address: *mut c_void,
    length: u32,
    _secondary: BOOLEAN,
    _quota: BOOLEAN,
    _irp: *mut c_void,
) -> *mut MDL {
    // SAFETY: the list is this thread's.
    let mdl = MDLS.with(|all| unsafe { (*all.get()).pop() }).unwrap_or_else(zeroed);
    describe(mdl, address as usize, length, false);
    mdl
}

#[unsafe(no_mangle)]
pub unsafe extern "system" fn MmBuildMdlForNonPagedPool(mdl: *mut MDL) {
    // SAFETY: the caller's MDL.
    unsafe { (*mdl).MdlFlags = MDL_FLAG::SOURCE_IS_NONPAGED_POOL }
}

#[unsafe(no_mangle)]
pub unsafe extern "system" fn IoBuildPartialMdl(
    _source: *mut MDL,
    target: *mut MDL,
    address: *mut c_void,
    length: u32,
) {
    describe(target, address as usize, length, true);
}

#[unsafe(no_mangle)]
pub unsafe extern "system" fn IoFreeMdl(mdl: *mut MDL) {
    // SAFETY: the list is this thread's.
    MDLS.with(|all| unsafe { (*all.get()).push(mdl) });
}

#[unsafe(no_mangle)]
pub unsafe extern "system" fn MmMapLockedPagesSpecifyCache(
    mdl: *mut MDL,
    _mode: i8,
    _cache: i32,
    _address: *mut c_void,
    _bugcheck: u32,
    _priority: u32,
) -> *mut c_void {
    // SAFETY: the caller's MDL.
    unsafe { (*mdl).MappedSystemVa }
}

#[unsafe(no_mangle)]
pub unsafe extern "system" fn IoAllocateWorkItem(_device: *mut c_void) -> *mut c_void {
    8 as *mut c_void
}

#[unsafe(no_mangle)]
pub unsafe extern "system" fn IoQueueWorkItem(
    _item: *mut c_void,
    routine: IO_WORKITEM_ROUTINE,
    _queue: i32,
    context: *mut c_void,
) {
    WORK.set((routine, context as usize));
}

#[unsafe(no_mangle)]
pub unsafe extern "system" fn IoFreeWorkItem(_item: *mut c_void) {}

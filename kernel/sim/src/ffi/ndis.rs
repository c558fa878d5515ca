//! ndis.sys: pools, and the bytes of an NB.
#![expect(unreachable_pub, non_snake_case, reason = "symbols under the names of the DDI")]

use std::ffi::c_void;
use std::ptr::{copy_nonoverlapping, null_mut};
use std::sync::Arc;

use fwps_sys::*;

use super::{passive, simulator_of};
use crate::buffers::read;
use crate::config::Call;
use crate::engine::send::shift;
use crate::memory::{self, Kind, Life};
use crate::state::{Handle, State};
use crate::{current, rules};

/// Makes a handle of the simulator that the thread is in.
pub(super) fn new_handle(
    kind: Kind,
    call: Call,
    name: &'static str,
    allocates_nb: bool,
) -> Result<HANDLE, NTSTATUS> {
    let Some(sim) = current::simulator() else { return Err(NTSTATUS::INVALID_DEVICE_STATE) };
    let mut state = sim.lock();
    if kind != Kind::NblPool && kind != Kind::NbPool {
        passive(&mut state, name);
    }
    if let Some(status) = state.fault(call, name) {
        return Err(status);
    }
    let handle: *mut usize = memory::allocate(kind, Arc::as_ptr(&sim));
    state.handles.insert(
        handle as usize,
        Handle {
            kind,
            live: true,
            closing: false,
            injects: FWPS_INJECTION_TYPE::NONE,
            used: 0,
            allocates_nb,
        },
    );
    Ok(handle.cast())
}

/// Ends a pool or an NDIS object.
pub(super) fn free_handle(handle: HANDLE, kind: Kind, name: &str) {
    let Some(sim) = simulator_of(handle) else { return };
    let mut state = sim.lock();
    match state.handles.get_mut(&(handle as usize)) {
        Some(entry) if entry.kind == kind && entry.live => {
            entry.live = false;
            let used = entry.used;
            if used > 0 {
                state.violate(rules::POOL_LEFT, format!("{name} while {used} NBLs of it are left"));
            }
        }
        _ => state.violate(rules::POOL_LEFT, format!("{name} of what is none, or was freed")),
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "system" fn NdisAllocateGenericObject(
    _driver: *mut c_void,
    _tag: u32,
    _size: u16,
) -> *mut c_void {
    new_handle(Kind::Generic, Call::PoolAllocate, "NdisAllocateGenericObject", false).unwrap_or(null_mut())
}

#[unsafe(no_mangle)]
pub unsafe extern "system" fn NdisFreeGenericObject(ndisObject: *mut c_void) {
    free_handle(ndisObject, Kind::Generic, "NdisFreeGenericObject");
}

#[unsafe(no_mangle)]
pub unsafe extern "system" fn NdisAllocateNetBufferListPool(
    _ndisHandle: HANDLE,
    parameters: *const NET_BUFFER_LIST_POOL_PARAMETERS,
) -> HANDLE {
    // SAFETY: the caller's promise.
    let parameters = unsafe { &*parameters };
    let fit = parameters.fAllocateNetBuffer != 0 && parameters.DataSize == 0;
    new_handle(Kind::NblPool, Call::PoolAllocate, "NdisAllocateNetBufferListPool", fit).unwrap_or(null_mut())
}

#[unsafe(no_mangle)]
pub unsafe extern "system" fn NdisFreeNetBufferListPool(poolHandle: HANDLE) {
    free_handle(poolHandle, Kind::NblPool, "NdisFreeNetBufferListPool");
}

#[unsafe(no_mangle)]
pub unsafe extern "system" fn NdisAllocateNetBufferPool(
    _ndisHandle: HANDLE,
    _parameters: *const NET_BUFFER_POOL_PARAMETERS,
) -> HANDLE {
    new_handle(Kind::NbPool, Call::PoolAllocate, "NdisAllocateNetBufferPool", false).unwrap_or(null_mut())
}

#[unsafe(no_mangle)]
pub unsafe extern "system" fn NdisFreeNetBufferPool(poolHandle: HANDLE) {
    free_handle(poolHandle, Kind::NbPool, "NdisFreeNetBufferPool");
}

/// Checks that an NB is live.
fn usable_nb(state: &mut State, nb: *const NET_BUFFER, call: &str) -> bool {
    let live = memory::life(nb.cast(), Kind::Nb) == Life::Live;
    if !live {
        state.violate(rules::FREED_NBL, format!("{call} on {nb:p}, which is no live NB"));
    }
    live
}

#[unsafe(no_mangle)]
pub unsafe extern "system" fn NdisGetDataBuffer(
    netBuffer: *mut NET_BUFFER,
    bytesNeeded: u32,
    storage: *mut c_void,
    alignMultiple: u32,
    alignOffset: u32,
) -> *mut c_void {
    let Some(sim) = simulator_of(netBuffer.cast()) else { return null_mut() };
    let mut state = sim.lock();
    if !usable_nb(&mut state, netBuffer, "NdisGetDataBuffer") {
        return null_mut();
    }
    if bytesNeeded == 0 || !alignMultiple.is_power_of_two() {
        let text = format!("NdisGetDataBuffer for {bytesNeeded} bytes, alignment {alignMultiple}");
        state.violate(rules::BAD_DATA_BUFFER, text);
        return null_mut();
    }
    // SAFETY: the NB is live.
    let length = unsafe { (*netBuffer).DataLength };
    if bytesNeeded > length || state.fault(Call::DataBuffer, "NdisGetDataBuffer").is_some() {
        return null_mut();
    }
    // SAFETY: the NB is live.
    let Some(pieces) = (unsafe { state.pieces(netBuffer, 0, bytesNeeded as usize) }) else {
        return null_mut();
    };
    if let [piece] = pieces[..]
        && piece.mapped
        && (piece.address + alignMultiple as usize - alignOffset as usize)
            .is_multiple_of(alignMultiple as usize)
    {
        return piece.address as *mut c_void;
    }
    if !storage.is_null() {
        let bytes = read(&pieces);
        // SAFETY: the caller promises storage for that many bytes.
        unsafe { copy_nonoverlapping(bytes.as_ptr(), storage.cast(), bytes.len()) }
    }
    storage
}

/// Moves the start of one NB, and remembers by how much.
fn move_start(netBuffer: *mut NET_BUFFER, delta: i64, call: &str) -> NTSTATUS {
    let Some(sim) = simulator_of(netBuffer.cast()) else { return NTSTATUS::INVALID_PARAMETER };
    let mut state = sim.lock();
    if !usable_nb(&mut state, netBuffer, call) {
        return NTSTATUS::INVALID_PARAMETER;
    }
    // SAFETY: the NB is live.
    if !unsafe { shift(netBuffer, delta) } {
        if delta < 0 {
            state.violate(rules::BALANCE, format!("{call} beyond the end of the packet"));
        }
        return NTSTATUS::INSUFFICIENT_RESOURCES;
    }
    if let Some(nbl) = state.nbs.get(&(netBuffer as usize)).copied() {
        *state.nbl_mut(nbl as *const _).shifts.entry(netBuffer as usize).or_default() += delta;
    }
    NTSTATUS::SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "system" fn NdisRetreatNetBufferDataStart(
    netBuffer: *mut NET_BUFFER,
    dataOffsetDelta: u32,
    _dataBackFill: u32,
    _allocateMdlHandler: *mut c_void,
) -> NTSTATUS {
    move_start(netBuffer, i64::from(dataOffsetDelta), "NdisRetreatNetBufferDataStart")
}

#[unsafe(no_mangle)]
pub unsafe extern "system" fn NdisAdvanceNetBufferDataStart(
    netBuffer: *mut NET_BUFFER,
    dataOffsetDelta: u32,
    _freeMdl: BOOLEAN,
    _freeMdlHandler: *mut c_void,
) {
    let _ = move_start(netBuffer, -i64::from(dataOffsetDelta), "NdisAdvanceNetBufferDataStart");
}

/// The NBs of a live NBL.
fn nbs_of(netBufferList: *mut NET_BUFFER_LIST, call: &str) -> Vec<*mut NET_BUFFER> {
    let Some(sim) = simulator_of(netBufferList.cast()) else { return Vec::new() };
    let mut state = sim.lock();
    if !state.is_nbl(netBufferList, call) {
        return Vec::new();
    }
    state.nbl_mut(netBufferList).nbs.iter().map(|nb| *nb as *mut NET_BUFFER).collect()
}

#[unsafe(no_mangle)]
pub unsafe extern "system" fn NdisRetreatNetBufferListDataStart(
    netBufferList: *mut NET_BUFFER_LIST,
    dataOffsetDelta: u32,
    _dataBackFill: u32,
    _allocateMdlHandler: *mut c_void,
    _freeMdlHandler: *mut c_void,
) -> NTSTATUS {
    let mut done = Vec::new();
    for nb in nbs_of(netBufferList, "NdisRetreatNetBufferListDataStart") {
        let status = move_start(nb, i64::from(dataOffsetDelta), "NdisRetreatNetBufferListDataStart");
        if status != NTSTATUS::SUCCESS {
            for nb in done {
                let _ = move_start(nb, -i64::from(dataOffsetDelta), "NdisRetreatNetBufferListDataStart");
            }
            return status;
        }
        done.push(nb);
    }
    NTSTATUS::SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "system" fn NdisAdvanceNetBufferListDataStart(
    netBufferList: *mut NET_BUFFER_LIST,
    dataOffsetDelta: u32,
    _freeMdl: BOOLEAN,
    _freeMdlHandler: *mut c_void,
) {
    for nb in nbs_of(netBufferList, "NdisAdvanceNetBufferListDataStart") {
        let _ = move_start(nb, -i64::from(dataOffsetDelta), "NdisAdvanceNetBufferListDataStart");
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "system" fn NdisCopyFromNetBufferToNetBuffer(
    destination: *mut NET_BUFFER,
    destinationOffset: u32,
    bytesToCopy: u32,
    source: *const NET_BUFFER,
    sourceOffset: u32,
    bytesCopied: *mut u32,
) -> NTSTATUS {
    let Some(sim) = simulator_of(destination.cast()) else { return NTSTATUS::INVALID_PARAMETER };
    let mut state = sim.lock();
    if !usable_nb(&mut state, destination, "NdisCopyFromNetBufferToNetBuffer")
        || !usable_nb(&mut state, source, "NdisCopyFromNetBufferToNetBuffer")
    {
        return NTSTATUS::INVALID_PARAMETER;
    }
    // SAFETY: both NBs are live.
    let (from, to) = unsafe {
        let from = state.pieces(source.cast_mut(), sourceOffset as usize, bytesToCopy as usize);
        (from, state.pieces(destination, destinationOffset as usize, bytesToCopy as usize))
    };
    let (Some(from), Some(to)) = (from, to) else { return NTSTATUS::INVALID_PARAMETER };
    let bytes = read(&from);
    let mut rest = bytes.as_slice();
    for piece in to {
        let (now, later) = rest.split_at(rest.len().min(piece.length));
        // SAFETY: the piece describes that many bytes of a live MDL; the caller asked to write them.
        unsafe { copy_nonoverlapping(now.as_ptr(), piece.address as *mut u8, now.len()) }
        rest = later;
    }
    if !bytesCopied.is_null() {
        // SAFETY: the caller's promise.
        unsafe { bytesCopied.write((bytes.len() - rest.len()) as u32) }
    }
    NTSTATUS::SUCCESS
}

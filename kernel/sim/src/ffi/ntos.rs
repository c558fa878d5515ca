//! ntoskrnl.exe: MDLs and work items.
#![expect(unreachable_pub, non_snake_case, reason = "symbols under the names of the DDI")]

use std::ffi::c_void;
use std::ptr::null_mut;

use fwps_sys::*;

use super::simulator_of;
use crate::buffers::describe;
use crate::config::Call;
use crate::memory::{self, Kind, Life, MDL_BUILT, MDL_OF_ENGINE, MDL_UNBUILT};
use crate::state::WorkItem;
use crate::{current, rules};

#[unsafe(no_mangle)]
pub unsafe extern "system" fn IoAllocateMdl(
    virtualAddress: *mut c_void,
    length: u32,
    _secondaryBuffer: BOOLEAN,
    _chargeQuota: BOOLEAN,
    _irp: *mut c_void,
) -> *mut MDL {
    let sim = current::simulator();
    if let Some(sim) = &sim
        && sim.lock().fault(Call::MdlAllocate, "IoAllocateMdl").is_some()
    {
        return null_mut();
    }
    let owner = sim.as_ref().map_or(std::ptr::null(), std::sync::Arc::as_ptr);
    let mdl: *mut MDL = memory::allocate(Kind::Mdl, owner);
    // SAFETY: just allocated.
    unsafe {
        describe(mdl, virtualAddress as usize, length as usize, MDL_FLAG::NONE);
        let header = memory::details(mdl.cast());
        header.detail = MDL_UNBUILT;
        header.extent = length as usize;
    }
    if let Some(sim) = sim {
        sim.lock().mdls.insert(mdl as usize);
    }
    mdl
}

#[unsafe(no_mangle)]
pub unsafe extern "system" fn MmBuildMdlForNonPagedPool(mdl: *mut MDL) {
    match memory::life(mdl.cast(), Kind::Mdl) {
        // SAFETY: the MDL is live, and the caller's.
        Life::Live => unsafe {
            (*mdl).MdlFlags |= MDL_FLAG::SOURCE_IS_NONPAGED_POOL;
            (*mdl).MappedSystemVa = MDL::virtual_address(mdl);
            let header = memory::details(mdl.cast());
            if header.detail == MDL_UNBUILT {
                header.detail = MDL_BUILT;
            }
        },
        other => complain(mdl, other, "MmBuildMdlForNonPagedPool"),
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "system" fn IoBuildPartialMdl(
    sourceMdl: *mut MDL,
    targetMdl: *mut MDL,
    virtualAddress: *mut c_void,
    length: u32,
) {
    let target_life = memory::life(targetMdl.cast(), Kind::Mdl);
    if target_life != Life::Live {
        return complain(targetMdl, target_life, "IoBuildPartialMdl");
    }
    let Some(sim) = simulator_of(sourceMdl.cast()) else { return };
    let mut state = sim.lock();
    if !state.usable_mdl(sourceMdl) {
        return;
    }
    // SAFETY: both MDLs are live; the target is the caller's.
    unsafe {
        let start = MDL::virtual_address(sourceMdl) as usize;
        let count = (*sourceMdl).ByteCount as usize;
        let at = virtualAddress as usize;
        let room = (start + count).saturating_sub(at);
        let length = if length == 0 { room } else { length as usize };
        let header = memory::details(targetMdl.cast());
        if at < start || length > room || length > header.extent || header.detail == MDL_OF_ENGINE {
            let text = format!(
                "a partial MDL of {length} bytes: its source has {room} from there on, it has room for {}",
                header.extent
            );
            return state.violate(rules::BAD_MDL, text);
        }
        let mapped =
            (*sourceMdl).MdlFlags & (MDL_FLAG::MAPPED_TO_SYSTEM_VA | MDL_FLAG::SOURCE_IS_NONPAGED_POOL);
        describe(targetMdl, at, length, MDL_FLAG::PARTIAL | mapped);
        (*targetMdl).MappedSystemVa = if mapped == MDL_FLAG::NONE { null_mut() } else { virtualAddress };
        header.detail = MDL_BUILT;
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "system" fn IoFreeMdl(mdl: *mut MDL) {
    let found = memory::life(mdl.cast(), Kind::Mdl);
    if found != Life::Live {
        return complain(mdl, found, "IoFreeMdl");
    }
    let Some(sim) = memory::owner(mdl.cast()) else {
        // SAFETY: a live MDL of nobody: its caller's alone.
        return drop(unsafe { memory::bury(mdl) });
    };
    let mut state = sim.lock();
    if !state.mdls.remove(&(mdl as usize)) {
        return state.violate(rules::FREED_MDL, "IoFreeMdl of an MDL of the stack");
    }
    // SAFETY: live, and no longer registered.
    let grave = unsafe { memory::bury(mdl) };
    state.bury(grave);
}

#[unsafe(no_mangle)]
pub unsafe extern "system" fn MmMapLockedPagesSpecifyCache(
    mdl: *mut MDL,
    _accessMode: i8,
    _cacheType: i32,
    _requestedAddress: *mut c_void,
    _bugCheckOnFailure: u32,
    _priority: u32,
) -> *mut c_void {
    let Some(sim) = simulator_of(mdl.cast()) else { return null_mut() };
    let mut state = sim.lock();
    if !state.usable_mdl(mdl) || state.fault(Call::MdlMap, "MmMapLockedPagesSpecifyCache").is_some() {
        return null_mut();
    }
    // SAFETY: the MDL is live; mapping it is what its owner asks for.
    unsafe {
        (*mdl).MdlFlags |= MDL_FLAG::MAPPED_TO_SYSTEM_VA;
        (*mdl).MappedSystemVa = MDL::virtual_address(mdl);
        (*mdl).MappedSystemVa
    }
}

/// Notes a call on something that is no live MDL.
fn complain(mdl: *mut MDL, life: Life, call: &str) {
    let Some(sim) = simulator_of(mdl.cast()) else { return };
    let rule = if life == Life::Freed { rules::FREED_MDL } else { rules::BAD_MDL };
    sim.lock().violate(rule, format!("{call} on {mdl:p}: {life:?}"));
}

#[unsafe(no_mangle)]
pub unsafe extern "system" fn IoAllocateWorkItem(deviceObject: *mut c_void) -> *mut c_void {
    let Some(sim) = simulator_of(deviceObject) else { return null_mut() };
    let mut state = sim.lock();
    if state.fault(Call::WorkItemAllocate, "IoAllocateWorkItem").is_some() {
        return null_mut();
    }
    let item: *mut usize = memory::allocate(Kind::WorkItem, std::sync::Arc::as_ptr(&sim));
    let device = deviceObject as usize;
    state.work_items.insert(item as usize, WorkItem { routine: None, context: 0, device, queued: false });
    item.cast()
}

#[unsafe(no_mangle)]
pub unsafe extern "system" fn IoQueueWorkItem(
    workItem: *mut c_void,
    workerRoutine: IO_WORKITEM_ROUTINE,
    _queueType: i32,
    context: *mut c_void,
) {
    let Some(sim) = simulator_of(workItem) else { return };
    let mut state = sim.lock();
    match state.work_items.get_mut(&(workItem as usize)) {
        Some(item) if !item.queued => {
            item.routine = workerRoutine;
            item.context = context as usize;
            item.queued = true;
            state.work_queue.push_back(workItem as usize);
        }
        Some(_) => state.violate(rules::WORK_ITEM, "a work item is queued while it is queued"),
        None => state.violate(rules::WORK_ITEM, "a work item is queued that does not exist"),
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "system" fn IoFreeWorkItem(workItem: *mut c_void) {
    let Some(sim) = simulator_of(workItem) else { return };
    let mut state = sim.lock();
    match state.work_items.get(&(workItem as usize)) {
        Some(item) if item.queued => {
            state.violate(rules::WORK_ITEM, "a work item is freed while it is queued");
        }
        Some(_) => {
            state.work_items.remove(&(workItem as usize));
            // SAFETY: made by `IoAllocateWorkItem`, and no longer registered.
            let grave = unsafe { memory::bury(workItem.cast::<usize>()) };
            state.bury(grave);
        }
        None => state.violate(rules::WORK_ITEM, "a work item is freed that does not exist"),
    }
}

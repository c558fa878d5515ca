//! The same decisions by a callout written by hand, in plain Rust: no programs, no plans, no counters. The limit.

use std::ffi::c_void;
use std::ptr::null_mut;

use fwps_sys::*;

/// What a policy sees of an indication or a packet.
pub(crate) struct Shown<'a> {
    pub(crate) bytes: &'a [u8],
}

/// What a policy wants.
#[derive(Clone, Copy)]
pub(crate) enum Wish {
    Next,
    Permit,
    Block,
    /// So many bytes from this offset on become these.
    Replace(usize, usize, &'static [u8]),
}

/// The policies of a layer, in order.
pub(crate) type Policies = Vec<fn(&Shown<'_>) -> Wish>;

fn ask(policies: &Policies, shown: &Shown<'_>) -> Wish {
    for policy in policies {
        match policy(shown) {
            Wish::Next => {}
            wish => return wish,
        }
    }
    Wish::Permit
}

/// classifyFn of the stream layers. The filter's context points to the policies.
pub(crate) unsafe extern "system" fn stream(
    values: *const FWPS_INCOMING_VALUES0,
    meta: *const FWPS_INCOMING_METADATA_VALUES0,
    data: *mut c_void,
    _context: *const c_void,
    filter: *const FWPS_FILTER1,
    _flow_context: u64,
    out: *mut FWPS_CLASSIFY_OUT0,
) {
    // SAFETY: all of it is as at a stream layer, and the context is the policies'.
    unsafe {
        let packet = &mut *data.cast::<FWPS_STREAM_CALLOUT_IO_PACKET0>();
        let data = &*packet.streamData;
        let length = data.dataLength;
        let policies = &*std::ptr::with_exposed_provenance::<Policies>((*filter).context as usize);
        let mdl = data.dataOffset.mdl;
        let Some(bytes) = together(data) else { return unseen(packet, &mut *out, length) };
        let shown = Shown { bytes };
        packet.streamAction = FWPS_STREAM_ACTION::NONE;
        packet.countBytesRequired = 0;
        packet.countBytesEnforced = length;
        (*out).actionType = match ask(policies, &shown) {
            Wish::Next | Wish::Permit => FWP_ACTION::PERMIT,
            Wish::Block => FWP_ACTION::BLOCK,
            Wish::Replace(at, remove, new) => {
                let flow = (*meta).flowHandle;
                let layer = (*values).layerId;
                let nbl = data.dataOffset.netBufferList;
                let callout = (*filter).action.calloutId;
                edit_stream(nbl, mdl, shown.bytes, at, remove, new, (flow, layer, callout, data.flags))
            }
        };
    }
}

/// The bytes, when they lie in one MDL and can be mapped, as most do: to take it for granted is to read what is not there.
unsafe fn together<'c>(data: &FWPS_STREAM_DATA0) -> Option<&'c [u8]> {
    let FWPS_STREAM_DATA_OFFSET0 { netBuffer: nb, mdl, mdlOffset: offset, .. } = data.dataOffset;
    // SAFETY: the caller's data is as at a stream layer.
    unsafe {
        let (nb, end) = (&*nb, offset as usize + data.dataLength);
        let before = nb.CurrentMdlOffset as usize;
        let inside = nb.CurrentMdl == mdl && offset as usize >= before;
        if !inside || end > before + nb.DataLength as usize || end > (*mdl).ByteCount as usize {
            return None;
        }
        let start = MmGetSystemAddressForMdlSafe(mdl, NORMAL_PAGE_PRIORITY).cast::<u8>();
        if start.is_null() {
            return None;
        }
        Some(std::slice::from_raw_parts(start.add(offset as usize), data.dataLength))
    }
}

/// What is not looked at passes.
#[cold]
#[inline(never)]
fn unseen(packet: &mut FWPS_STREAM_CALLOUT_IO_PACKET0, out: &mut FWPS_CLASSIFY_OUT0, length: usize) {
    packet.streamAction = FWPS_STREAM_ACTION::NONE;
    packet.countBytesRequired = 0;
    packet.countBytesEnforced = length;
    out.actionType = FWP_ACTION::PERMIT;
}

/// classifyFn that does nothing.
pub(crate) unsafe extern "system" fn nothing(
    _: *const FWPS_INCOMING_VALUES0,
    _: *const FWPS_INCOMING_METADATA_VALUES0,
    _: *mut c_void,
    _: *const c_void,
    _: *const FWPS_FILTER1,
    _: u64,
    _: *mut FWPS_CLASSIFY_OUT0,
) {
}

/// New bytes, and what stays of an original on both sides of them.
struct Edit {
    new: Vec<u8>,
    original: *mut NET_BUFFER_LIST,
    /// In the order that they go out in; the last one may be missing.
    mdls: [*mut MDL; 4],
}

impl Edit {
    /// Shares `bytes`, which lie in `source`, but for `remove` from `at` on; the first `head` of the new bytes go in front.
    unsafe fn new(
        original: *mut NET_BUFFER_LIST,
        source: *mut MDL,
        bytes: &[u8],
        at: usize,
        remove: usize,
        new: Vec<u8>,
        head: usize,
    ) -> Self {
        // SAFETY: the classify's own data; every descriptor is freed by the completion.
        unsafe {
            let mut edit = Self { new, original, mdls: [null_mut(); 4] };
            FwpsReferenceNetBufferList0(original, FALSE);
            let kept = |from: usize, to: usize| {
                let start = bytes.as_ptr().add(from).cast_mut().cast();
                let mdl = IoAllocateMdl(start, (to - from) as u32, 0, 0, null_mut());
                IoBuildPartialMdl(source, mdl, start, (to - from) as u32);
                mdl
            };
            let own = edit.new.as_mut_ptr();
            let own = |from: usize, to: usize| {
                let mdl = IoAllocateMdl(own.add(from).cast(), (to - from) as u32, 0, 0, null_mut());
                MmBuildMdlForNonPagedPool(mdl);
                mdl
            };
            let (behind, end) = (at + remove, bytes.len());
            edit.mdls = if head == 0 {
                [kept(0, at), own(0, edit.new.len()), kept(behind, end), null_mut()]
            } else {
                [own(0, head), kept(head, at), own(head, edit.new.len()), kept(behind, end)]
            };
            for pair in edit.mdls.windows(2) {
                (*pair[0]).Next = pair[1];
            }
            edit
        }
    }
}

impl Drop for Edit {
    fn drop(&mut self) {
        // SAFETY: `new` made all of it.
        unsafe {
            for mdl in self.mdls.into_iter().filter(|mdl| !mdl.is_null()) {
                IoFreeMdl(mdl);
            }
            FwpsDereferenceNetBufferList0(self.original, FALSE);
        }
    }
}

/// Shares what stays with the original, and injects it around the new bytes.
unsafe fn edit_stream(
    original: *mut NET_BUFFER_LIST,
    source: *mut MDL,
    bytes: &[u8],
    at: usize,
    remove: usize,
    new: &'static [u8],
    (flow, layer, callout, flags): (u64, u16, u32, FWPS_STREAM_FLAG),
) -> FWP_ACTION {
    // SAFETY: the classify's own data.
    unsafe {
        let edit = Box::new(Edit::new(original, source, bytes, at, remove, new.into(), 0));
        let (mut nbl, length) = (null_mut(), bytes.len() - remove + new.len());
        let pool = 8 as HANDLE;
        let _ = FwpsAllocateNetBufferAndNetBufferList0(pool, 0, 0, edit.mdls[0], 0, length, &raw mut nbl);
        let context = Box::into_raw(edit).cast();
        let handle = 8 as HANDLE;
        let _ = FwpsStreamInjectAsync0(
            handle,
            null_mut(),
            0,
            flow,
            callout,
            layer,
            flags,
            nbl,
            length,
            Some(stream_done),
            context,
        );
        FWP_ACTION::BLOCK
    }
}

unsafe extern "system" fn stream_done(context: *mut c_void, nbl: *mut NET_BUFFER_LIST, _: BOOLEAN) {
    // SAFETY: what `edit_stream` gave away.
    unsafe {
        FwpsFreeNetBufferList0(nbl);
        drop(Box::from_raw(context.cast::<Edit>()));
    }
}

/// What an injected packet owns.
struct Packet {
    edit: Edit,
    remote: [u8; 4],
    args: FWPS_TRANSPORT_SEND_PARAMS1,
}

/// classifyFn of the outbound transport layers: UDP over IPv4 in one mapped MDL.
pub(crate) unsafe extern "system" fn send(
    values: *const FWPS_INCOMING_VALUES0,
    meta: *const FWPS_INCOMING_METADATA_VALUES0,
    data: *mut c_void,
    _context: *const c_void,
    filter: *const FWPS_FILTER1,
    _flow_context: u64,
    out: *mut FWPS_CLASSIFY_OUT0,
) {
    // SAFETY: all of it is as at an outbound transport layer, and the context is the policies'.
    unsafe {
        let state = FwpsQueryPacketInjectionState0(8 as HANDLE, data.cast(), null_mut());
        if state != FWPS_PACKET_INJECTION_STATE::NOT_INJECTED {
            (*out).actionType = FWP_ACTION::PERMIT;
            return;
        }
        let nb = &*(*data.cast::<NET_BUFFER_LIST>()).FirstNetBuffer;
        let start = (*nb.CurrentMdl).MappedSystemVa.cast::<u8>().add(nb.CurrentMdlOffset as usize);
        let shown = Shown { bytes: std::slice::from_raw_parts(start, nb.DataLength as usize) };
        let policies = &*std::ptr::with_exposed_provenance::<Policies>((*filter).context as usize);
        match ask(policies, &shown) {
            Wish::Next | Wish::Permit => (*out).actionType = FWP_ACTION::PERMIT,
            Wish::Block => {
                (*out).actionType = FWP_ACTION::BLOCK;
                (*out).rights = FWPS_RIGHT::NONE;
            }
            Wish::Replace(at, remove, new) => {
                let mut bytes = Vec::with_capacity(UDP_HEADER + new.len());
                bytes.extend_from_slice(&shown.bytes[..UDP_HEADER]);
                bytes.extend_from_slice(new);
                let field = |index: usize| (*(*values).incomingValue.add(index)).value.data.uint32;
                use layer::outbound_transport as of;
                let rest = [&shown.bytes[UDP_HEADER..at], new, &shown.bytes[at + remove..]];
                let ends = [field(of::IP_LOCAL_ADDRESS), field(of::IP_REMOTE_ADDRESS)];
                let length = finish(&mut bytes[..UDP_HEADER], rest, ends);
                let edit = Edit::new(data.cast(), nb.CurrentMdl, shown.bytes, at, remove, bytes, UDP_HEADER);
                inject(edit, length, field(of::IP_REMOTE_ADDRESS), &*meta);
                (*out).actionType = FWP_ACTION::BLOCK;
                (*out).flags |= FWPS_CLASSIFY_OUT_FLAG::ABSORB;
                (*out).rights = FWPS_RIGHT::NONE;
            }
        }
    }
}

const UDP_HEADER: usize = 8;

/// Length and checksum of a UDP packet whose header is `header`; gives back the length. Every piece begins at an even place.
fn finish(header: &mut [u8], rest: [&[u8]; 3], ends: [u32; 2]) -> usize {
    let length = header.len() + rest.iter().map(|bytes| bytes.len()).sum::<usize>();
    header[4..6].copy_from_slice(&(length as u16).to_be_bytes());
    header[6..8].fill(0);
    let mut sum = ends.iter().map(|end| u64::from(*end)).sum::<u64>() + 17 + length as u64;
    for bytes in std::iter::once(&*header).chain(rest) {
        let (words, last) = bytes.as_chunks::<4>();
        sum += words.iter().map(|word| u64::from(u32::from_be_bytes(*word))).sum::<u64>();
        let mut word = [0; 4];
        word[..last.len()].copy_from_slice(last);
        sum += u64::from(u32::from_be_bytes(word));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    let sum = if sum == 0xffff { 0xffff } else { !(sum as u16) };
    header[6..8].copy_from_slice(&sum.to_be_bytes());
    length
}

unsafe fn inject(edit: Edit, length: usize, remote: u32, meta: &FWPS_INCOMING_METADATA_VALUES0) {
    let packet = Box::new(Packet {
        edit,
        remote: remote.to_be_bytes(),
        args: FWPS_TRANSPORT_SEND_PARAMS1 {
            remoteAddress: null_mut(),
            remoteScopeId: SCOPE_ID(0),
            controlData: null_mut(),
            controlDataLength: 0,
            headerIncludeHeader: null_mut(),
            headerIncludeHeaderLength: 0,
        },
    });
    // SAFETY: everything is the packet's until the completion.
    unsafe {
        let mut nbl = null_mut();
        let pool = 8 as HANDLE;
        let _ =
            FwpsAllocateNetBufferAndNetBufferList0(pool, 0, 0, packet.edit.mdls[0], 0, length, &raw mut nbl);
        let packet = Box::into_raw(packet);
        (*packet).args.remoteAddress = (&raw mut (*packet).remote).cast();
        let _ = FwpsInjectTransportSendAsync1(
            8 as HANDLE,
            null_mut(),
            meta.transportEndpointHandle,
            0,
            &raw mut (*packet).args,
            ADDRESS_FAMILY::INET,
            meta.compartmentId,
            nbl,
            Some(send_done),
            packet.cast(),
        );
    }
}

unsafe extern "system" fn send_done(context: *mut c_void, nbl: *mut NET_BUFFER_LIST, _: BOOLEAN) {
    // SAFETY: what `inject` gave away.
    unsafe {
        FwpsFreeNetBufferList0(nbl);
        drop(Box::from_raw(context.cast::<Packet>()));
    }
}

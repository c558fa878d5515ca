//! What a Tidegate policy in Rust is compiled against. Made by `tidegate abi dump rust`: do not edit.

use core::ffi::c_void;

/// Version of everything below.
pub const API_VERSION: u16 = 3;

/// What a program returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum Verdict {
    /// No opinion: the next program decides; the data passes when none does.
    Continue = 0,
    /// The data passes.
    Permit = 1,
    /// The data is dropped: removed from the stream, or the packet is not sent.
    Block = 2,
    /// Streams: the data is held back and shown again with what follows it.
    NeedMoreData = 3,
    /// Streams: the connection is reset.
    DropConnection = 4,
    /// Streams: the data passes, and the flow is never shown again.
    AllowConnection = 5,
    /// Streams: the data is kept back, and shown again when more comes or a map changes.
    Pend = 6,
}

/// Context of programs in section `tidegate/stream`.
#[repr(C)]
pub struct StreamContext {
    /// First byte shown.
    pub data: *const u8,
    /// Behind the last byte shown.
    pub data_end: *const u8,
    /// The flow's id, the same for both directions; not reused while the flow lives.
    pub flow_id: u64,
    /// The process that owns the local end, 0 when it is not known.
    pub process_id: u64,
    /// Bytes of this direction that a callout above took before these. Not 0: resynchronise or give up.
    pub missed_bytes: u64,
    /// TIDEGATE_STREAM_* bits of this indication.
    pub flags: u32,
    /// Direction of these bytes: 0 outbound (sent by this machine), 1 inbound.
    pub direction: u32,
    /// Who opened the connection: 0 this machine, 1 the remote one.
    pub opener: u32,
    /// Address family: 4 or 6.
    pub family: u32,
    /// Local port, host order.
    pub local_port: u16,
    /// Remote port, host order.
    pub remote_port: u16,
    /// Network compartment, 0 when it is not known.
    pub compartment_id: u32,
    /// Local address, network order.
    pub local_addr: [u8; 16],
    /// Remote address, network order.
    pub remote_addr: [u8; 16],
    /// The verdict covers so many of the bytes shown, the rest is shown again at once. 0: all of them. Writable.
    pub bytes_enforced: u32,
    /// With NEED_MORE_DATA: so many more bytes are needed at least. 0: any. Writable.
    pub bytes_required: u32,
    /// Zero.
    pub reserved: u64,
}

/// Bit of [`StreamContext::flags`]: Out-of-band (urgent) data.
pub const STREAM_EXPEDITED: u32 = 0x1;
/// Bit of [`StreamContext::flags`]: The sender asked for prompt delivery.
pub const STREAM_PUSH: u32 = 0x2;
/// Bit of [`StreamContext::flags`]: The direction ends here (FIN).
pub const STREAM_DISCONNECT: u32 = 0x4;
/// Bit of [`StreamContext::flags`]: The connection was reset.
pub const STREAM_ABORT: u32 = 0x8;
/// Bit of [`StreamContext::flags`]: No more data can be had: NEED_MORE_DATA is refused.
pub const STREAM_NO_MORE_DATA: u32 = 0x10;
/// Bit of [`StreamContext::flags`]: The connection began before the link could see it: what it is shown first is not the beginning.
pub const STREAM_MID_STREAM: u32 = 0x20;
/// Bit of [`StreamContext::flags`]: The bytes were kept back (PEND) and are shown again.
pub const STREAM_HELD: u32 = 0x40;

/// Context of programs in section `tidegate/send`.
#[repr(C)]
pub struct SendContext {
    /// First byte shown: the transport header (the IP header when RAW is set).
    pub data: *const u8,
    /// Behind the last byte shown.
    pub data_end: *const u8,
    /// The flow's id, 0 when there is none.
    pub flow_id: u64,
    /// The process that sends, 0 when it is not known.
    pub process_id: u64,
    /// TIDEGATE_SEND_* bits of this packet.
    pub flags: u32,
    /// IP protocol number: 1 ICMP, 6 TCP, 17 UDP, 58 ICMPv6.
    pub protocol: u32,
    /// Address family: 4 or 6.
    pub family: u32,
    /// Bytes of the transport header: the payload starts at data + header_size.
    pub header_size: u32,
    /// Local port, host order; for ICMP the type.
    pub local_port: u16,
    /// Remote port, host order; for ICMP the code.
    pub remote_port: u16,
    /// Interface that the packet leaves by, 0 when it is not known.
    pub interface_index: u32,
    /// Network compartment, 0 when it is not known.
    pub compartment_id: u32,
    /// Zero.
    pub reserved: u32,
    /// Local address, network order.
    pub local_addr: [u8; 16],
    /// Remote address, network order.
    pub remote_addr: [u8; 16],
}

/// Bit of [`SendContext::flags`]: The packet stays on this machine.
pub const SEND_LOOPBACK: u32 = 0x1;
/// Bit of [`SendContext::flags`]: A raw socket sends it: the data starts at the IP header.
pub const SEND_RAW: u32 = 0x2;
/// Bit of [`SendContext::flags`]: Another driver injected it.
pub const SEND_REINJECTED: u32 = 0x4;

/// A clone of what is shown: handed out, edited, injected or discarded; never looked into.
pub enum Clone {}

/// Kind of map `hash`.
pub const BPF_MAP_TYPE_HASH: usize = 1;
/// Kind of map `array`.
pub const BPF_MAP_TYPE_ARRAY: usize = 2;
/// Kind of map `percpu_array`.
pub const BPF_MAP_TYPE_PERCPU_ARRAY: usize = 6;
/// Kind of map `lru_hash`.
pub const BPF_MAP_TYPE_LRU_HASH: usize = 9;
/// Kind of map `flow_storage`.
pub const BPF_MAP_TYPE_FLOW_STORAGE: usize = 24;
/// Kind of map `ringbuf`.
pub const BPF_MAP_TYPE_RINGBUF: usize = 27;

/// A helper that fails so returns this, negated.
pub const ENOENT: i64 = 2;
/// A helper that fails so returns this, negated.
pub const EIO: i64 = 5;
/// A helper that fails so returns this, negated.
pub const E2BIG: i64 = 7;
/// A helper that fails so returns this, negated.
pub const ENOMEM: i64 = 12;
/// A helper that fails so returns this, negated.
pub const EEXIST: i64 = 17;
/// A helper that fails so returns this, negated.
pub const EINVAL: i64 = 22;
/// A helper that fails so returns this, negated.
pub const EOPNOTSUPP: i64 = 95;

/// The value of a key, or null.
///
/// # Safety
/// The verifier holds every call against the rules of the helper; a call outside a program is undefined.
#[inline(always)]
pub unsafe fn bpf_map_lookup_elem(map: *mut c_void, key: *const c_void) -> *mut c_void {
    let call: extern "C" fn(*mut c_void, *const c_void) -> *mut c_void = unsafe { core::mem::transmute(1usize) };
    call(map, key)
}

/// Sets the value of a key. Flags: 0 any, 1 only if it is new (BPF_NOEXIST), 2 only if it exists (BPF_EXIST).
///
/// # Safety
/// The verifier holds every call against the rules of the helper; a call outside a program is undefined.
#[inline(always)]
pub unsafe fn bpf_map_update_elem(map: *mut c_void, key: *const c_void, value: *const c_void, flags: u64) -> i64 {
    let call: extern "C" fn(*mut c_void, *const c_void, *const c_void, u64) -> i64 = unsafe { core::mem::transmute(2usize) };
    call(map, key, value, flags)
}

/// Deletes a key.
///
/// # Safety
/// The verifier holds every call against the rules of the helper; a call outside a program is undefined.
#[inline(always)]
pub unsafe fn bpf_map_delete_elem(map: *mut c_void, key: *const c_void) -> i64 {
    let call: extern "C" fn(*mut c_void, *const c_void) -> i64 = unsafe { core::mem::transmute(3usize) };
    call(map, key)
}

/// Nanoseconds since the machine started, not counting sleep; never runs backwards.
///
/// # Safety
/// The verifier holds every call against the rules of the helper; a call outside a program is undefined.
#[inline(always)]
pub unsafe fn bpf_ktime_get_ns() -> u64 {
    let call: extern "C" fn() -> u64 = unsafe { core::mem::transmute(5usize) };
    call()
}

/// A pseudo-random number. Not for secrets.
///
/// # Safety
/// The verifier holds every call against the rules of the helper; a call outside a program is undefined.
#[inline(always)]
pub unsafe fn bpf_get_prandom_u32() -> u32 {
    let call: extern "C" fn() -> u32 = unsafe { core::mem::transmute(7usize) };
    call()
}

/// Number of the processor that runs the program.
///
/// # Safety
/// The verifier holds every call against the rules of the helper; a call outside a program is undefined.
#[inline(always)]
pub unsafe fn bpf_get_smp_processor_id() -> u32 {
    let call: extern "C" fn() -> u32 = unsafe { core::mem::transmute(8usize) };
    call()
}

/// Copies a record into a ring buffer. A record that does not fit is dropped and counted.
///
/// # Safety
/// The verifier holds every call against the rules of the helper; a call outside a program is undefined.
#[inline(always)]
pub unsafe fn bpf_ringbuf_output(ringbuf: *mut c_void, data: *const c_void, size: u32, flags: u64) -> i64 {
    let call: extern "C" fn(*mut c_void, *const c_void, u32, u64) -> i64 = unsafe { core::mem::transmute(130usize) };
    call(ringbuf, data, size, flags)
}

/// Reserves a zeroed record in a ring buffer, or null when it does not fit (counted). Submit or discard it.
///
/// # Safety
/// The verifier holds every call against the rules of the helper; a call outside a program is undefined.
#[inline(always)]
pub unsafe fn bpf_ringbuf_reserve(ringbuf: *mut c_void, size: u64, flags: u64) -> *mut c_void {
    let call: extern "C" fn(*mut c_void, u64, u64) -> *mut c_void = unsafe { core::mem::transmute(131usize) };
    call(ringbuf, size, flags)
}

/// Hands a reserved record to the reader.
///
/// # Safety
/// The verifier holds every call against the rules of the helper; a call outside a program is undefined.
#[inline(always)]
pub unsafe fn bpf_ringbuf_submit(data: *mut c_void, flags: u64) {
    let call: extern "C" fn(*mut c_void, u64) = unsafe { core::mem::transmute(132usize) };
    call(data, flags)
}

/// Gives a reserved record back unread.
///
/// # Safety
/// The verifier holds every call against the rules of the helper; a call outside a program is undefined.
#[inline(always)]
pub unsafe fn bpf_ringbuf_discard(data: *mut c_void, flags: u64) {
    let call: extern "C" fn(*mut c_void, u64) = unsafe { core::mem::transmute(133usize) };
    call(data, flags)
}

/// Of a ring buffer: 0 bytes not yet read, 1 its size, 2 the reader's position, 3 the writer's position.
///
/// # Safety
/// The verifier holds every call against the rules of the helper; a call outside a program is undefined.
#[inline(always)]
pub unsafe fn bpf_ringbuf_query(ringbuf: *mut c_void, flags: u64) -> u64 {
    let call: extern "C" fn(*mut c_void, u64) -> u64 = unsafe { core::mem::transmute(134usize) };
    call(ringbuf, flags)
}

/// Replaces `remove` bytes from `offset` of what is shown with `data`. Offsets always speak of the bytes as shown; edits come in the order of their offsets and don't overlap. -EOPNOTSUPP where the length of a TCP packet would change: use the stream layer for that.
///
/// # Safety
/// The verifier holds every call against the rules of the helper; a call outside a program is undefined.
#[inline(always)]
pub unsafe fn tidegate_replace(ctx: *mut c_void, offset: u64, remove: u64, data: *const c_void, size: u32) -> i64 {
    let call: extern "C" fn(*mut c_void, u64, u64, *const c_void, u32) -> i64 = unsafe { core::mem::transmute(0x10000usize) };
    call(ctx, offset, remove, data, size)
}

/// Inserts `data` before the byte at `offset` of what is shown; at its length: behind the last byte.
///
/// # Safety
/// The verifier holds every call against the rules of the helper; a call outside a program is undefined.
#[inline(always)]
pub unsafe fn tidegate_insert(ctx: *mut c_void, offset: u64, data: *const c_void, size: u32) -> i64 {
    let call: extern "C" fn(*mut c_void, u64, *const c_void, u32) -> i64 = unsafe { core::mem::transmute(0x10001usize) };
    call(ctx, offset, data, size)
}

/// Removes `size` bytes from `offset` of what is shown.
///
/// # Safety
/// The verifier holds every call against the rules of the helper; a call outside a program is undefined.
#[inline(always)]
pub unsafe fn tidegate_remove(ctx: *mut c_void, offset: u64, size: u64) -> i64 {
    let call: extern "C" fn(*mut c_void, u64, u64) -> i64 = unsafe { core::mem::transmute(0x10002usize) };
    call(ctx, offset, size)
}

/// Offset of the first place at or behind `offset` where the bytes shown equal `pattern`, or -ENOENT.
///
/// # Safety
/// The verifier holds every call against the rules of the helper; a call outside a program is undefined.
#[inline(always)]
pub unsafe fn tidegate_find(ctx: *mut c_void, offset: u64, pattern: *const c_void, size: u32) -> i64 {
    let call: extern "C" fn(*mut c_void, u64, *const c_void, u32) -> i64 = unsafe { core::mem::transmute(0x10003usize) };
    call(ctx, offset, pattern, size)
}

/// Copies `size` bytes from `offset` of what is shown; when not all of them are there, zeroes `to` and returns -EINVAL.
///
/// # Safety
/// The verifier holds every call against the rules of the helper; a call outside a program is undefined.
#[inline(always)]
pub unsafe fn tidegate_load_bytes(ctx: *mut c_void, offset: u64, to: *mut c_void, size: u32) -> i64 {
    let call: extern "C" fn(*mut c_void, u64, *mut c_void, u32) -> i64 = unsafe { core::mem::transmute(0x10004usize) };
    call(ctx, offset, to, size)
}

/// The value of this connection, or null. Flag 1 makes it, zeroed, when there is none: for stream programs, whose connections are known to end; null when the map is full.
///
/// # Safety
/// The verifier holds every call against the rules of the helper; a call outside a program is undefined.
#[inline(always)]
pub unsafe fn tidegate_flow_storage_get(ctx: *mut c_void, map: *mut c_void, flags: u64) -> *mut c_void {
    let call: extern "C" fn(*mut c_void, *mut c_void, u64) -> *mut c_void = unsafe { core::mem::transmute(0x10005usize) };
    call(ctx, map, flags)
}

/// Deletes the value of this connection. The end of the connection does so too.
///
/// # Safety
/// The verifier holds every call against the rules of the helper; a call outside a program is undefined.
#[inline(always)]
pub unsafe fn tidegate_flow_storage_delete(ctx: *mut c_void, map: *mut c_void) -> i64 {
    let call: extern "C" fn(*mut c_void, *mut c_void) -> i64 = unsafe { core::mem::transmute(0x10006usize) };
    call(ctx, map)
}

/// A clone of the bytes shown (FwpsCloneStreamData0), to be edited and injected; null when one is held already. Inject or discard it.
///
/// # Safety
/// The verifier holds every call against the rules of the helper; a call outside a program is undefined.
#[inline(always)]
pub unsafe fn tidegate_clone_stream_data(ctx: *mut StreamContext) -> *mut Clone {
    let call: extern "C" fn(*mut StreamContext) -> *mut Clone = unsafe { core::mem::transmute(0x10010usize) };
    call(ctx)
}

/// Injects the clone in place of the bytes shown (FwpsStreamInjectAsync0). The program must return BLOCK, or both would pass.
///
/// # Safety
/// The verifier holds every call against the rules of the helper; a call outside a program is undefined.
#[inline(always)]
pub unsafe fn tidegate_stream_inject(ctx: *mut StreamContext, clone: *mut Clone, flags: u64) -> i64 {
    let call: extern "C" fn(*mut StreamContext, *mut Clone, u64) -> i64 = unsafe { core::mem::transmute(0x10011usize) };
    call(ctx, clone, flags)
}

/// Sends `data` of the program's own in a direction of the connection (0 outbound, 1 inbound), in front of what is shown when it is the same. Flag 1 ends the direction behind it, where its own end is what is shown. Nothing is sent when the verdict is NEED_MORE_DATA, PEND or DROP_CONNECTION.
///
/// # Safety
/// The verifier holds every call against the rules of the helper; a call outside a program is undefined.
#[inline(always)]
pub unsafe fn tidegate_stream_inject_data(ctx: *mut StreamContext, direction: u64, data: *const c_void, size: u32, flags: u64) -> i64 {
    let call: extern "C" fn(*mut StreamContext, u64, *const c_void, u32, u64) -> i64 = unsafe { core::mem::transmute(0x10012usize) };
    call(ctx, direction, data, size, flags)
}

/// Removes the `size` bytes of this direction that follow those shown, in whatever pieces they come: an edit that reaches over the end of what is shown. The verdict must cover all bytes shown.
///
/// # Safety
/// The verifier holds every call against the rules of the helper; a call outside a program is undefined.
#[inline(always)]
pub unsafe fn tidegate_remove_ahead(ctx: *mut StreamContext, size: u64) -> i64 {
    let call: extern "C" fn(*mut StreamContext, u64) -> i64 = unsafe { core::mem::transmute(0x10013usize) };
    call(ctx, size)
}

/// Copies the path of the program that owns the local end, as the filter engine gives it (UTF-16, little-endian), zero behind its end, and returns all of its bytes; -ENOENT when it is not known.
///
/// # Safety
/// The verifier holds every call against the rules of the helper; a call outside a program is undefined.
#[inline(always)]
pub unsafe fn tidegate_stream_application(ctx: *mut StreamContext, to: *mut c_void, size: u32) -> i64 {
    let call: extern "C" fn(*mut StreamContext, *mut c_void, u32) -> i64 = unsafe { core::mem::transmute(0x10014usize) };
    call(ctx, to, size)
}

/// A clone of the packet shown (FwpsAllocateCloneNetBufferList0), to be edited and injected; null when one is held already. Inject or discard it.
///
/// # Safety
/// The verifier holds every call against the rules of the helper; a call outside a program is undefined.
#[inline(always)]
pub unsafe fn tidegate_clone_net_buffer_list(ctx: *mut SendContext) -> *mut Clone {
    let call: extern "C" fn(*mut SendContext) -> *mut Clone = unsafe { core::mem::transmute(0x10020usize) };
    call(ctx)
}

/// Injects the clone in place of the packet shown (FwpsInjectTransportSendAsync1); lengths and checksums are made right. The program must return BLOCK, or both would be sent.
///
/// # Safety
/// The verifier holds every call against the rules of the helper; a call outside a program is undefined.
#[inline(always)]
pub unsafe fn tidegate_inject_transport_send(ctx: *mut SendContext, clone: *mut Clone, flags: u64) -> i64 {
    let call: extern "C" fn(*mut SendContext, *mut Clone, u64) -> i64 = unsafe { core::mem::transmute(0x10021usize) };
    call(ctx, clone, flags)
}

/// Sends the packet, or its clone, to another address: 4 bytes for IPv4, 16 for IPv6, network order, of the packet's own family (-EINVAL). `port` is UDP's, host order; 0 keeps it. Replies come from there. -EOPNOTSUPP for TCP and for raw sends.
///
/// # Safety
/// The verifier holds every call against the rules of the helper; a call outside a program is undefined.
#[inline(always)]
pub unsafe fn tidegate_set_remote(ctx: *mut SendContext, address: *const c_void, size: u32, port: u64) -> i64 {
    let call: extern "C" fn(*mut SendContext, *const c_void, u32, u64) -> i64 = unsafe { core::mem::transmute(0x10022usize) };
    call(ctx, address, size, port)
}

/// Sends the packet, or its clone, with this type of service (IPv4) or traffic class (IPv6): DSCP in the upper six bits. -EOPNOTSUPP for TCP and for raw sends.
///
/// # Safety
/// The verifier holds every call against the rules of the helper; a call outside a program is undefined.
#[inline(always)]
pub unsafe fn tidegate_set_tos(ctx: *mut SendContext, tos: u64) -> i64 {
    let call: extern "C" fn(*mut SendContext, u64) -> i64 = unsafe { core::mem::transmute(0x10023usize) };
    call(ctx, tos)
}

/// Replaces `remove` bytes from `offset` of the clone with `data`; offsets speak of the bytes as shown, as with tidegate_replace. Size 0 removes. -EOPNOTSUPP where the length of a TCP packet would change: use the stream layer for that.
///
/// # Safety
/// The verifier holds every call against the rules of the helper; a call outside a program is undefined.
#[inline(always)]
pub unsafe fn tidegate_clone_replace(clone: *mut Clone, offset: u64, remove: u64, data: *const c_void, size: u32) -> i64 {
    let call: extern "C" fn(*mut Clone, u64, u64, *const c_void, u32) -> i64 = unsafe { core::mem::transmute(0x10030usize) };
    call(clone, offset, remove, data, size)
}

/// Gives a clone back without injecting it.
///
/// # Safety
/// The verifier holds every call against the rules of the helper; a call outside a program is undefined.
#[inline(always)]
pub unsafe fn tidegate_clone_discard(clone: *mut Clone) {
    let call: extern "C" fn(*mut Clone) = unsafe { core::mem::transmute(0x10031usize) };
    call(clone)
}

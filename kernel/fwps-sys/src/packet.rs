//! Packet memory: NET_BUFFER_LIST, NET_BUFFER and MDL (nbl.h, wdm.h).
//!
//! Only the system makes these. They are never held by value, and NBLs and NBs never behind a reference either: the
//! length of an NBL depends on the Windows version. The accessors below stand for the headers' inline macros.

use core::ffi::c_void;
use core::ptr::{addr_of, addr_of_mut};

use crate::base::{BOOLEAN, HANDLE};
use crate::functions::MmMapLockedPagesSpecifyCache;
use crate::macros::{flags, values};
use crate::status::NTSTATUS;

/// A list of packets that share their out-of-band information.
#[repr(C, align(16))]
#[non_exhaustive]
pub struct NET_BUFFER_LIST {
    pub Next: *mut NET_BUFFER_LIST,
    pub FirstNetBuffer: *mut NET_BUFFER,
    pub Context: *mut NET_BUFFER_LIST_CONTEXT,
    pub ParentNetBufferList: *mut NET_BUFFER_LIST,
    pub NdisPoolHandle: HANDLE,
    /// The hole that the 16-byte alignment of the next member leaves.
    _hole: usize,
    pub NdisReserved: [*mut c_void; 2],
    pub ProtocolReserved: [*mut c_void; 4],
    pub MiniportReserved: [*mut c_void; 2],
    pub Scratch: *mut c_void,
    pub SourceHandle: HANDLE,
    pub NblFlags: u32,
    pub ChildRefCount: i32,
    pub Flags: u32,
    pub Status: NTSTATUS,
    /// Indexed by [`NET_BUFFER_LIST_INFO`]; older systems have fewer slots than this.
    pub NetBufferListInfo: [*mut c_void; NET_BUFFER_LIST_INFO::COUNT],
}

/// One packet.
#[repr(C, align(16))]
#[non_exhaustive]
pub struct NET_BUFFER {
    pub Next: *mut NET_BUFFER,
    pub CurrentMdl: *mut MDL,
    pub CurrentMdlOffset: u32,
    /// The hole before the next member, which is a union with the pointer-sized `stDataLength`.
    _hole: u32,
    /// Bytes of this packet from the current position on.
    pub DataLength: u32,
    _upper_half: u32,
    pub MdlChain: *mut MDL,
    pub DataOffset: u32,
    /// The end of the prefix `NET_BUFFER_DATA`.
    _end_of_prefix: u32,
    pub ChecksumBias: u16,
    pub Reserved: u16,
    pub NdisPoolHandle: HANDLE,
    pub NdisReserved: [*mut c_void; 2],
    pub ProtocolReserved: [*mut c_void; 6],
    pub MiniportReserved: [*mut c_void; 4],
    pub DataPhysicalAddress: u64,
    pub SharedMemoryInfo: *mut c_void,
}

/// Head of the context area of an NBL; the area itself follows `Offset` bytes further.
#[repr(C, align(16))]
#[non_exhaustive]
pub struct NET_BUFFER_LIST_CONTEXT {
    pub Next: *mut NET_BUFFER_LIST_CONTEXT,
    pub Size: u16,
    pub Offset: u16,
}

/// A run of bytes, possibly not mapped yet.
#[repr(C)]
#[non_exhaustive]
pub struct MDL {
    pub Next: *mut MDL,
    pub Size: i16,
    pub MdlFlags: MDL_FLAG,
    pub Process: *mut c_void,
    pub MappedSystemVa: *mut c_void,
    pub StartVa: *mut c_void,
    pub ByteCount: u32,
    pub ByteOffset: u32,
}

flags! {
    /// `MDL_*` flags.
    MDL_FLAG: i16 {
        MAPPED_TO_SYSTEM_VA = 0x1,
        PAGES_LOCKED = 0x2,
        SOURCE_IS_NONPAGED_POOL = 0x4,
        ALLOCATED_FIXED_SIZE = 0x8,
        PARTIAL = 0x10,
        NETWORK_HEADER = 0x1000,
        MAPPING_CAN_FAIL = 0x2000,
    }
}

flags! {
    /// `NDIS_NBL_FLAGS_*`.
    NDIS_NBL_FLAGS: u32 {
        SEND_READ_ONLY = 0x1,
        RECV_READ_ONLY = 0x2,
        IS_IPV4 = 0x200,
        IS_IPV6 = 0x400,
        IS_TCP = 0x800,
        IS_UDP = 0x1000,
        IS_LOOPBACK_PACKET = 0x8000,
    }
}

values! {
    /// Slots of `NetBufferListInfo`. The filter platform's own tag (slot 10) is not named: it is never touched.
    NET_BUFFER_LIST_INFO: usize {
        TcpIpChecksum = 0,
        IPsecOffload = 1,
        TcpLargeSend = 2,
        ClassificationHandle = 3,
        Ieee8021Q = 4,
        CancelId = 5,
        UdpSegmentationOffload = 22,
    }
}

impl NET_BUFFER_LIST_INFO {
    /// Slots of an NBL since NDIS 6.80.
    pub const COUNT: usize = 27;
}

flags! {
    /// The checksum slot on transmit (`NDIS_TCP_IP_CHECKSUM_NET_BUFFER_LIST_INFO`): what is left to be computed below.
    TRANSMIT_CHECKSUM: u32 {
        IsIPv4 = 0x1,
        IsIPv6 = 0x2,
        TcpChecksum = 0x4,
        UdpChecksum = 0x8,
        IpHeaderChecksum = 0x10,
    }
}

/// The maximum segment size in a large-send or UDP-segmentation slot; not 0 means that packets may exceed the MTU.
pub fn segmentation_mss(slot: *mut c_void) -> u32 {
    slot as usize as u32 & 0xf_ffff
}

impl NET_BUFFER_LIST {
    /// The next NBL of the chain.
    /// # Safety
    /// `nbl` is a live NBL.
    #[inline]
    pub unsafe fn next(nbl: *const Self) -> *mut Self {
        // SAFETY: the caller's promise.
        unsafe { addr_of!((*nbl).Next).read() }
    }

    /// Changes the chain.
    /// # Safety
    /// `nbl` is a live NBL that the caller owns.
    #[inline]
    pub unsafe fn set_next(nbl: *mut Self, next: *mut Self) {
        // SAFETY: the caller's promise.
        unsafe { addr_of_mut!((*nbl).Next).write(next) }
    }

    /// The first packet of the list.
    /// # Safety
    /// `nbl` is a live NBL.
    #[inline]
    pub unsafe fn first_nb(nbl: *const Self) -> *mut NET_BUFFER {
        // SAFETY: the caller's promise.
        unsafe { addr_of!((*nbl).FirstNetBuffer).read() }
    }

    /// How the injection of this list ended; read in its completion.
    /// # Safety
    /// `nbl` is a live NBL.
    #[inline]
    pub unsafe fn status(nbl: *const Self) -> NTSTATUS {
        // SAFETY: the caller's promise.
        unsafe { addr_of!((*nbl).Status).read() }
    }

    /// One out-of-band slot.
    /// # Safety
    /// `nbl` is a live NBL and the running system has this slot (slots up to 17 exist since Windows 7).
    #[inline]
    pub unsafe fn info(nbl: *const Self, slot: NET_BUFFER_LIST_INFO) -> *mut c_void {
        // SAFETY: the caller's promise.
        unsafe { addr_of!((*nbl).NetBufferListInfo).cast::<*mut c_void>().add(slot.0).read() }
    }

    /// Writes one out-of-band slot.
    /// # Safety
    /// `nbl` is a live NBL that the caller owns and the running system has this slot.
    #[inline]
    pub unsafe fn set_info(nbl: *mut Self, slot: NET_BUFFER_LIST_INFO, value: *mut c_void) {
        // SAFETY: the caller's promise.
        unsafe { addr_of_mut!((*nbl).NetBufferListInfo).cast::<*mut c_void>().add(slot.0).write(value) }
    }

    /// What of the checksums is left to the hardware.
    /// # Safety
    /// `nbl` is a live NBL.
    #[inline]
    pub unsafe fn transmit_checksum(nbl: *const Self) -> TRANSMIT_CHECKSUM {
        // SAFETY: the caller's promise; every system has slot 0.
        TRANSMIT_CHECKSUM(unsafe { Self::info(nbl, NET_BUFFER_LIST_INFO::TcpIpChecksum) } as usize as u32)
    }
}

impl NET_BUFFER {
    /// The next packet of the list.
    /// # Safety
    /// `nb` is a live NB.
    #[inline]
    pub unsafe fn next(nb: *const Self) -> *mut Self {
        // SAFETY: the caller's promise.
        unsafe { addr_of!((*nb).Next).read() }
    }

    /// The MDL that holds the current position.
    /// # Safety
    /// `nb` is a live NB.
    #[inline]
    pub unsafe fn current_mdl(nb: *const Self) -> *mut MDL {
        // SAFETY: the caller's promise.
        unsafe { addr_of!((*nb).CurrentMdl).read() }
    }

    /// The current position within that MDL, in bytes.
    /// # Safety
    /// `nb` is a live NB.
    #[inline]
    pub unsafe fn current_mdl_offset(nb: *const Self) -> u32 {
        // SAFETY: the caller's promise.
        unsafe { addr_of!((*nb).CurrentMdlOffset).read() }
    }

    /// Bytes from the current position to the end of the packet.
    /// # Safety
    /// `nb` is a live NB.
    #[inline]
    pub unsafe fn data_length(nb: *const Self) -> u32 {
        // SAFETY: the caller's promise.
        unsafe { addr_of!((*nb).DataLength).read() }
    }

    /// The head of the MDL chain, which may begin before the current position.
    /// # Safety
    /// `nb` is a live NB.
    #[inline]
    pub unsafe fn mdl_chain(nb: *const Self) -> *mut MDL {
        // SAFETY: the caller's promise.
        unsafe { addr_of!((*nb).MdlChain).read() }
    }
}

impl MDL {
    /// The next MDL of the chain.
    /// # Safety
    /// `mdl` is a live MDL.
    #[inline]
    pub unsafe fn next(mdl: *const Self) -> *mut Self {
        // SAFETY: the caller's promise.
        unsafe { addr_of!((*mdl).Next).read() }
    }

    /// Changes the chain.
    /// # Safety
    /// `mdl` is a live MDL that the caller owns.
    #[inline]
    pub unsafe fn set_next(mdl: *mut Self, next: *mut Self) {
        // SAFETY: the caller's promise.
        unsafe { addr_of_mut!((*mdl).Next).write(next) }
    }

    /// Bytes that the MDL describes (`MmGetMdlByteCount`).
    /// # Safety
    /// `mdl` is a live MDL.
    #[inline]
    pub unsafe fn byte_count(mdl: *const Self) -> u32 {
        // SAFETY: the caller's promise.
        unsafe { addr_of!((*mdl).ByteCount).read() }
    }

    /// The address that the MDL was made for (`MmGetMdlVirtualAddress`); what `IoBuildPartialMdl` wants, not to be read.
    /// # Safety
    /// `mdl` is a live MDL.
    #[inline]
    pub unsafe fn virtual_address(mdl: *const Self) -> *mut c_void {
        // SAFETY: the caller's promise.
        unsafe {
            let offset = addr_of!((*mdl).ByteOffset).read();
            addr_of!((*mdl).StartVa).read().wrapping_byte_add(offset as usize)
        }
    }
}

/// How hard the system tries to map (`MM_PAGE_PRIORITY`).
pub const NORMAL_PAGE_PRIORITY: u32 = 16;
/// The mapping cannot be executed.
pub const MDL_MAPPING_NO_EXECUTE: u32 = 0x4000_0000;
const KERNEL_MODE: i8 = 0;
const MM_CACHED: i32 = 1;

/// The system address of the bytes of `mdl`, mapped if it was not; NULL when the system cannot. IRQL <= DISPATCH_LEVEL.
/// The header's inline function of this name.
///
/// # Safety
/// `mdl` is a live MDL whose pages are locked or from nonpaged memory.
#[inline]
pub unsafe fn MmGetSystemAddressForMdlSafe(mdl: *mut MDL, priority: u32) -> *mut c_void {
    // SAFETY: the caller's promise.
    unsafe {
        let flags = addr_of!((*mdl).MdlFlags).read();
        if flags.has_any(MDL_FLAG::MAPPED_TO_SYSTEM_VA | MDL_FLAG::SOURCE_IS_NONPAGED_POOL) {
            addr_of!((*mdl).MappedSystemVa).read()
        } else {
            let priority = priority | MDL_MAPPING_NO_EXECUTE;
            MmMapLockedPagesSpecifyCache(mdl, KERNEL_MODE, MM_CACHED, core::ptr::null_mut(), 0, priority)
        }
    }
}

/// Head of an NDIS structure.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct NDIS_OBJECT_HEADER {
    /// `NDIS_OBJECT_TYPE_DEFAULT`, 0x80.
    pub Type: u8,
    pub Revision: u8,
    pub Size: u16,
}

/// What kind of NBL pool to make; revision 1.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct NET_BUFFER_LIST_POOL_PARAMETERS {
    pub Header: NDIS_OBJECT_HEADER,
    pub ProtocolId: u8,
    pub fAllocateNetBuffer: BOOLEAN,
    pub ContextSize: u16,
    pub PoolTag: u32,
    pub DataSize: u32,
}

impl NET_BUFFER_LIST_POOL_PARAMETERS {
    /// A pool as `FwpsAllocateNetBufferAndNetBufferList0` needs it: one NB in each NBL, no data of its own.
    pub const fn for_injection(tag: u32) -> Self {
        Self {
            Header: NDIS_OBJECT_HEADER { Type: 0x80, Revision: 1, Size: size_of::<Self>() as u16 },
            ProtocolId: 0,
            fAllocateNetBuffer: 1,
            ContextSize: 0,
            PoolTag: tag,
            DataSize: 0,
        }
    }
}

/// What kind of NB pool to make; revision 1.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct NET_BUFFER_POOL_PARAMETERS {
    pub Header: NDIS_OBJECT_HEADER,
    pub PoolTag: u32,
    pub DataSize: u32,
}

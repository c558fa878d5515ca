//! The Windows base types that everything else is made of.

use core::ffi::c_void;
use core::fmt;

/// An opaque handle: pointer size, meaning known only to who gave it.
pub type HANDLE = *mut c_void;

/// One byte, 0 or not 0.
pub type BOOLEAN = u8;

/// Four bytes, 0 or not 0.
pub type BOOL = i32;

pub const TRUE: BOOLEAN = 1;
pub const FALSE: BOOLEAN = 0;

/// A globally unique identifier, in the memory order of Windows.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct GUID {
    pub Data1: u32,
    pub Data2: u16,
    pub Data3: u16,
    pub Data4: [u8; 8],
}

impl GUID {
    /// The GUID whose usual text is this number in hexadecimal, read without its dashes.
    pub const fn from_u128(text: u128) -> Self {
        Self {
            Data1: (text >> 96) as u32,
            Data2: (text >> 80) as u16,
            Data3: (text >> 64) as u16,
            Data4: (text as u64).to_be_bytes(),
        }
    }
}

impl fmt::Display for GUID {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}-{:04x}-{:04x}-", self.Data1, self.Data2, self.Data3)?;
        for (index, byte) in self.Data4.iter().enumerate() {
            write!(f, "{}{byte:02x}", if index == 2 { "-" } else { "" })?;
        }
        Ok(())
    }
}

impl fmt::Debug for GUID {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A security identifier; only ever passed on.
pub type SID = c_void;

/// A security descriptor; only ever passed on.
pub type SECURITY_DESCRIPTOR = c_void;

/// A socket address of either family, for places where only its size matters.
#[repr(C, align(4))]
#[derive(Clone, Copy)]
pub struct SOCKADDR_INET(pub [u8; 28]);

/// The zone (low 28 bits) and level (high 4 bits) of an IPv6 scope.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct SCOPE_ID(pub u32);

/// The head of one ancillary-data object; its data follows, aligned to 8.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct WSACMSGHDR {
    pub cmsg_len: usize,
    pub cmsg_level: i32,
    pub cmsg_type: i32,
}

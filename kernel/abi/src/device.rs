//! The driver's device: its names, its parameters, and the codes of its requests.
//!
//! Every request is buffered: what goes in is a control message, what comes out is its reply. The I/O manager holds the
//! rights in a code against those that the handle was opened with, before the driver sees anything.

/// Name of the service, and of the images `tidegate.sys` and `tidegate.inf`.
pub const SERVICE: &str = "tidegate";
/// The device in the system's namespace.
pub const DEVICE: &str = r"\Device\Tidegate";
/// The link through which user mode finds it.
pub const LINK: &str = r"\DosDevices\Tidegate";
/// What user mode opens.
pub const PATH: &str = r"\\.\Tidegate";
/// Who may open it: the system and administrators, all of it; nobody else.
pub const SDDL: &str = "D:P(A;;GA;;;SY)(A;;GA;;;BA)";
/// Tag of everything that the driver allocates; the debugger shows it as `Tide`.
pub const POOL_TAG: u32 = u32::from_le_bytes(*b"Tide");

/// `FILE_DEVICE_NETWORK`.
pub const DEVICE_TYPE: u32 = 0x12;
/// `FILE_READ_ACCESS`.
const READ: u32 = 1;
/// `FILE_WRITE_ACCESS`.
const WRITE: u32 = 2;

/// `CTL_CODE` with `METHOD_BUFFERED`.
const fn code(function: u32, access: u32) -> u32 {
    DEVICE_TYPE << 16 | access << 14 | function << 2
}

/// A request that changes nothing: see [`crate::control::changes`]. The handle needs the right to read.
pub const QUERY: u32 = code(0x800, READ);
/// Any request. The handle needs the rights to read and to write.
pub const CHANGE: u32 = code(0x801, READ | WRITE);
/// An [`EventRead`](crate::control::EventRead) that waits until there are records, or until it is cancelled.
pub const WAIT: u32 = code(0x802, READ | WRITE);

/// Bytes that a reply may need, whatever it says: a buffer that is smaller is refused by the driver.
pub const MIN_REPLY: usize = 32;

/// A number under the service's `Parameters` key (`REG_DWORD`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parameter {
    /// Name of the value.
    pub name: &'static str,
    /// What holds when there is no such value, or one of another type or out of range.
    pub default: u32,
    /// The least and the greatest value.
    pub range: (u32, u32),
    /// What it says.
    pub doc: &'static str,
}

/// The parameters.
pub mod parameter {
    use super::Parameter;

    /// See its `doc`, as of the others.
    pub const BOOT_PERSISTENT: Parameter = Parameter {
        name: "BootPersistent",
        default: 0,
        range: (0, 1),
        doc: "1: filters outlive the driver and the system's restart. 0: they go with the driver.",
    };
    /// See its `doc`.
    pub const PERMIT_IF_UNLOADED: Parameter = Parameter {
        name: "PermitIfUnloaded",
        default: 0,
        range: (0, 1),
        doc: "1: traffic passes while persistent filters are there and the driver is not. 0: it is blocked.",
    };
    /// See its `doc`.
    pub const SUBLAYER_WEIGHT: Parameter = Parameter {
        name: "SubLayerWeight",
        default: 0x8000,
        range: (0, 0xffff),
        doc: "The place among other products' sublayers: the greater, the earlier.",
    };
    /// See its `doc`.
    pub const MAX_WAITS: Parameter = Parameter {
        name: "MaxWaits",
        default: 64,
        range: (1, 1024),
        doc: "Requests for events that may wait at a time.",
    };

    /// All of them.
    pub const ALL: [Parameter; 4] = [BOOT_PERSISTENT, PERMIT_IF_UNLOADED, SUBLAYER_WEIGHT, MAX_WAITS];
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_those_of_ctl_code() {
        // DeviceType 31..16, RequiredAccess 15..14, FunctionCode 13..2, TransferType 1..0 (0: buffered).
        for (code, function, access) in [(QUERY, 0x800, 1), (CHANGE, 0x801, 3), (WAIT, 0x802, 3)] {
            assert_eq!(code >> 16, 0x12);
            assert_eq!(code >> 14 & 3, access);
            assert_eq!(code >> 2 & 0xfff, function);
            assert_eq!(code & 3, 0);
        }
    }

    #[test]
    fn defaults_lie_in_their_ranges() {
        for parameter in parameter::ALL {
            let (least, greatest) = parameter.range;
            assert!((least..=greatest).contains(&parameter.default), "{}", parameter.name);
        }
    }
}

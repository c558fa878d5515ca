//! The service's parameters, from a registry that anyone with its rights may have written to.

use tidegate_abi::device::{Parameter, parameter};

/// `REG_DWORD`.
const REG_DWORD: u32 = 4;
/// Bytes of a `KEY_VALUE_PARTIAL_INFORMATION` before its data: title index, type, length.
const HEAD: usize = 12;

/// What the driver was told under its `Parameters` key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parameters {
    /// Filters outlive the driver.
    pub boot_persistent: bool,
    /// Traffic passes while the filters are there and the driver is not.
    pub permit_if_unloaded: bool,
    /// The place among other sublayers.
    pub sublayer_weight: u16,
    /// Requests for events that may wait at a time.
    pub max_waits: u32,
}

impl Parameters {
    /// Reads every parameter through `value`, which answers a name with the `KEY_VALUE_PARTIAL_INFORMATION` that the registry
    /// gave, or nothing. What is missing, of another type, too short or out of range counts as its default.
    pub fn read<V: AsRef<[u8]>>(mut value: impl FnMut(&'static str) -> Option<V>) -> Self {
        let mut number = |parameter: Parameter| {
            let read = value(parameter.name).and_then(|value| dword(value.as_ref()));
            let (least, greatest) = parameter.range;
            read.filter(|read| (least..=greatest).contains(read)).unwrap_or(parameter.default)
        };
        Self {
            boot_persistent: number(parameter::BOOT_PERSISTENT) != 0,
            permit_if_unloaded: number(parameter::PERMIT_IF_UNLOADED) != 0,
            sublayer_weight: number(parameter::SUBLAYER_WEIGHT) as u16,
            max_waits: number(parameter::MAX_WAITS),
        }
    }
}

impl Default for Parameters {
    fn default() -> Self {
        Self::read(|_| None::<[u8; 0]>)
    }
}

/// The number in a `KEY_VALUE_PARTIAL_INFORMATION`.
fn dword(information: &[u8]) -> Option<u32> {
    let (head, data) = information.split_first_chunk::<HEAD>()?;
    let [_, _, _, _, k0, k1, k2, k3, l0, l1, l2, l3] = *head;
    let (kind, length) = (u32::from_le_bytes([k0, k1, k2, k3]), u32::from_le_bytes([l0, l1, l2, l3]));
    let number = data.first_chunk::<4>()?;
    (kind == REG_DWORD && length == 4).then_some(u32::from_le_bytes(*number))
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    fn information(kind: u32, data: &[u8]) -> Vec<u8> {
        let mut all = [0_u32.to_le_bytes(), kind.to_le_bytes(), (data.len() as u32).to_le_bytes()].concat();
        all.extend_from_slice(data);
        all
    }

    #[test]
    fn what_is_written_is_read() {
        let read = Parameters::read(|name| {
            let value: u32 = match name {
                "BootPersistent" => 1,
                "SubLayerWeight" => 0xffff,
                "MaxWaits" => 2,
                _ => return None,
            };
            Some(information(REG_DWORD, &value.to_le_bytes()))
        });
        assert_eq!(
            read,
            Parameters {
                boot_persistent: true,
                permit_if_unloaded: false,
                sublayer_weight: 0xffff,
                max_waits: 2
            }
        );
    }

    #[test]
    fn what_is_not_a_number_in_range_is_the_default() {
        let one = 1_u32.to_le_bytes();
        for odd in [
            information(3, &one),                        // REG_BINARY
            information(1, &one),                        // REG_SZ
            information(REG_DWORD, &one[..3]),           // too short
            information(REG_DWORD, &[1, 0, 0, 0, 0]),    // too long
            information(REG_DWORD, &one)[..15].to_vec(), // cut
            information(REG_DWORD, &0x10000_u32.to_le_bytes()),
            Vec::new(),
        ] {
            assert_eq!(Parameters::read(|_| Some(odd.clone())), Parameters::default(), "{odd:02x?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_of_the_registry_give_parameters_in_range(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let read = Parameters::read(|_| Some(&bytes));
            let (least, greatest) = parameter::MAX_WAITS.range;
            prop_assert!((least..=greatest).contains(&read.max_waits));
        }
    }
}

//! What a packet is sent with beside its bytes: where it goes, and its ancillary data with the type of service.
//!
//! A datagram has no IP header yet when programs see it, so that both go to the stack as parameters of the send. Ancillary
//! data is a row of objects, each a `WSACMSGHDR` and its value, both aligned to 8 (WSASendMsg, `WSA_CMSG_SPACE`).

use alloc::vec::Vec;

use fwps_sys::IPPROTO;
use tidegate_abi::errno;

use crate::injection::Failure;
use crate::memory;

/// Bytes of a `WSACMSGHDR`: `cmsg_len` of 8, level and type of 4 each.
const HEADER: usize = 16;
/// Bytes of an object whose value is an `INT`, and with its padding.
const INT: usize = HEADER + 4;
const INT_SPACE: usize = INT.next_multiple_of(8);

/// What a program wants to be different.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Envelope {
    v6: bool,
    protocol: IPPROTO,
    /// Where the packet goes instead, network order, IPv4 in the first four, and to which port; 0: the same.
    pub(crate) remote: Option<([u8; 16], u16)>,
    /// Its type of service, or traffic class.
    pub(crate) tos: Option<u8>,
}

impl Envelope {
    /// Nothing different, for a packet of this family and protocol.
    pub(crate) const fn new(v6: bool, protocol: IPPROTO) -> Self {
        Self { v6, protocol, remote: None, tos: None }
    }

    /// True when nothing is different.
    pub(crate) const fn is_empty(&self) -> bool {
        self.remote.is_none() && self.tos.is_none()
    }

    /// Sends the packet to `address`, of its own family, and to `port`, 0 for the same.
    ///
    /// # Errors
    /// What a helper negates: `EINVAL` for an address of another family or a number that is no port, `EOPNOTSUPP` for a port
    /// where there are none.
    pub(crate) fn set_remote(&mut self, address: &[u8], port: u64) -> Result<(), i64> {
        let port = u16::try_from(port).map_err(|_| errno::EINVAL)?;
        if address.len() != if self.v6 { 16 } else { 4 } {
            return Err(errno::EINVAL);
        }
        if port != 0 && self.protocol != IPPROTO::UDP {
            return Err(errno::EOPNOTSUPP);
        }
        let mut bytes = [0; 16];
        bytes.iter_mut().zip(address).for_each(|(to, from)| *to = *from);
        self.remote = Some((bytes, port));
        Ok(())
    }

    /// Sends the packet with this type of service.
    ///
    /// # Errors
    /// What a helper negates: `EINVAL` for a number of more than 8 bits.
    pub(crate) fn set_tos(&mut self, tos: u64) -> Result<(), i64> {
        self.tos = Some(u8::try_from(tos).map_err(|_| errno::EINVAL)?);
        Ok(())
    }

    /// A copy of a send's ancillary data, in words for its alignment, with the type of service that is wanted, and its bytes.
    ///
    /// # Errors
    /// No memory, or objects that don't fit into each other when one of them is to be found.
    pub(crate) fn control(&self, data: &[u8]) -> Result<(Vec<u64>, u32), Failure> {
        let end = data.len().next_multiple_of(8);
        let found = if self.tos.is_some() { self.find(data)? } else { None };
        let (at, len) = match (self.tos, found) {
            (None, _) => (end, data.len()),
            (Some(_), Some(at)) => (at, data.len()),
            (Some(_), None) => (end, end + INT_SPACE),
        };
        let mut words = memory::filled(len.div_ceil(8), 0_u64)?;
        copy(&mut words, data);
        if let Some(tos) = self.tos {
            let (level, kind) = self.tos_option();
            let object = [INT as u64, u64::from(level) | u64::from(kind) << 32, u64::from(tos)];
            let place = words.get_mut(at / 8..).unwrap_or_default();
            place.iter_mut().zip(object).for_each(|(to, from)| *to = from);
        }
        Ok((words, u32::try_from(len).map_err(|_| Failure::Unfit)?))
    }

    /// Level and type of the option (ws2ipdef.h: `IP_TOS`, `IPV6_TCLASS`).
    const fn tos_option(&self) -> (u32, u32) {
        if self.v6 { (41, 39) } else { (0, 3) }
    }

    /// Where the type of service that the sender has set is.
    fn find(&self, data: &[u8]) -> Result<Option<usize>, Failure> {
        let mut at = 0;
        while at < data.len() {
            let object = data.get(at..).unwrap_or_default();
            let (Some(len), Some(level), Some(kind)) =
                (number::<8>(object, 0), number::<4>(object, 8), number::<4>(object, 12))
            else {
                return Err(Failure::Unfit);
            };
            let len = usize::try_from(len).map_err(|_| Failure::Unfit)?;
            if len < HEADER || len > object.len() {
                return Err(Failure::Unfit);
            }
            let (wanted_level, wanted_kind) = self.tos_option();
            if (level, kind) == (u64::from(wanted_level), u64::from(wanted_kind)) {
                return if len == INT { Ok(Some(at)) } else { Err(Failure::Unfit) };
            }
            at += len.next_multiple_of(8);
        }
        Ok(None)
    }
}

/// Copies bytes into words; those behind the last byte stay.
pub(crate) fn copy(words: &mut [u64], bytes: &[u8]) {
    let (whole, rest) = bytes.as_chunks::<8>();
    let mut last = [0; 8];
    last.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
    let last = (!rest.is_empty()).then_some(&last);
    for (word, bytes) in words.iter_mut().zip(whole.iter().chain(last)) {
        *word = u64::from_ne_bytes(*bytes);
    }
}

/// A number of the machine's order.
fn number<const BYTES: usize>(object: &[u8], at: usize) -> Option<u64> {
    let bytes = object.get(at..)?.first_chunk::<BYTES>()?;
    let mut all = [0; 8];
    all.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
    Some(u64::from_le_bytes(all))
}

#[cfg(test)]
mod tests {
    use std::vec;

    use proptest::prelude::*;

    use super::*;

    fn object(level: u32, kind: u32, value: &[u8]) -> Vec<u8> {
        let mut bytes = ((HEADER + value.len()) as u64).to_le_bytes().to_vec();
        bytes.extend(level.to_le_bytes());
        bytes.extend(kind.to_le_bytes());
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        bytes
    }

    fn bytes((words, len): (Vec<u64>, u32)) -> Vec<u8> {
        let mut bytes: Vec<_> = words.into_iter().flat_map(u64::to_ne_bytes).collect();
        bytes.truncate(len as usize);
        bytes
    }

    fn with(v6: bool, tos: Option<u8>) -> Envelope {
        Envelope { tos, ..Envelope::new(v6, IPPROTO::UDP) }
    }

    #[test]
    fn the_type_of_service_is_added_or_takes_the_place_of_the_sender_s() {
        for (v6, level, kind) in [(false, 0, 3), (true, 41, 39)] {
            let other = object(level, 19, &[7; 9]);
            let wanted = object(level, kind, &46_u32.to_le_bytes());
            let set = |data: &[u8]| bytes(with(v6, Some(46)).control(data).expect("memory"));
            assert_eq!(set(&[]), wanted);
            assert_eq!(set(&other), [&*other, &wanted].concat());
            let before = object(level, kind, &8_u32.to_le_bytes());
            assert_eq!(set(&[&*before, &other].concat()), [&*wanted, &other].concat());
            assert_eq!(set(&[&*other, &before].concat()), [&*other, &wanted].concat());
        }
    }

    #[test]
    fn objects_that_don_t_fit_into_each_other_are_an_error_only_where_they_are_looked_at() {
        for len in [0_u64, 15, 25, u64::MAX] {
            let mut data = object(0, 1, &[1; 8]);
            data[..8].copy_from_slice(&len.to_le_bytes());
            assert_eq!(with(false, Some(1)).control(&data), Err(Failure::Unfit));
            assert_eq!(bytes(with(false, None).control(&data).expect("memory")), data);
        }
        assert_eq!(with(false, Some(1)).control(&object(0, 3, &[1; 8])), Err(Failure::Unfit));
    }

    #[test]
    fn an_address_is_of_the_packet_s_family_and_a_port_where_there_are_ports() {
        let mut envelope = Envelope::new(false, IPPROTO::UDP);
        assert_eq!(envelope.set_remote(&[1; 16], 0), Err(errno::EINVAL));
        assert_eq!(envelope.set_remote(&[1; 4], 65_536), Err(errno::EINVAL));
        assert_eq!(envelope.set_tos(256), Err(errno::EINVAL));
        assert!(envelope.is_empty());
        assert_eq!(envelope.set_remote(&[1; 4], 53), Ok(()));
        assert_eq!(
            envelope.remote.map(|(address, port)| (address[..5].to_vec(), port)),
            Some((vec![1, 1, 1, 1, 0], 53))
        );
        let mut envelope = Envelope::new(true, IPPROTO::ICMPV6);
        assert_eq!(envelope.set_remote(&[1; 16], 1), Err(errno::EOPNOTSUPP));
        assert_eq!(envelope.set_remote(&[1; 16], 0), Ok(()));
    }

    proptest! {
        #[test]
        fn any_ancillary_data_is_copied_or_refused(data: Vec<u8>, v6: bool, tos: Option<u8>) {
            match with(v6, tos).control(&data) {
                Ok(copy) if tos.is_none() => prop_assert_eq!(bytes(copy), data),
                Ok(copy) => prop_assert!(bytes(copy).len() >= data.len()),
                Err(failure) => prop_assert!(tos.is_some() && failure == Failure::Unfit),
            }
        }
    }
}

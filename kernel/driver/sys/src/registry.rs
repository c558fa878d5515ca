//! The service's `Parameters` key.

use core::mem::size_of;
use core::ptr;

use tidegate_driver::parameters::Parameters;
use wdk_sys::ntddk::{ZwClose, ZwOpenKey, ZwQueryValueKey};
use wdk_sys::{
    _KEY_VALUE_INFORMATION_CLASS::KeyValuePartialInformation, HANDLE, OBJ_CASE_INSENSITIVE,
    OBJ_KERNEL_HANDLE, OBJECT_ATTRIBUTES, ULONG, UNICODE_STRING,
};

use crate::text::{unicode, wide};

/// `KEY_QUERY_VALUE`.
const QUERY_VALUE: u32 = 1;
/// Bytes of a value that are looked at: a number with its head, and one more, so that a longer value is seen to be longer.
const ROOM: usize = 20;

/// Reads the parameters of the service whose key is `service`. PASSIVE_LEVEL. What can't be read is a default.
pub(crate) fn parameters(service: &UNICODE_STRING) -> Parameters {
    let Some(service) = Key::open(ptr::null_mut(), service) else { return Parameters::default() };
    let Some(key) = Key::open(service.0, &unicode(wide!("Parameters"))) else { return Parameters::default() };
    Parameters::read(|name| key.value(name))
}

/// An open key.
struct Key(HANDLE);

impl Key {
    fn open(root: HANDLE, name: &UNICODE_STRING) -> Option<Self> {
        let mut attributes = OBJECT_ATTRIBUTES {
            Length: size_of::<OBJECT_ATTRIBUTES>() as ULONG,
            RootDirectory: root,
            ObjectName: ptr::from_ref(name).cast_mut(),
            Attributes: OBJ_CASE_INSENSITIVE | OBJ_KERNEL_HANDLE,
            SecurityDescriptor: ptr::null_mut(),
            SecurityQualityOfService: ptr::null_mut(),
        };
        let mut handle = ptr::null_mut();
        // SAFETY: everything pointed to lives until the call returns; the name is only read.
        let status = unsafe { ZwOpenKey(&raw mut handle, QUERY_VALUE, &raw mut attributes) };
        (status == 0).then_some(Self(handle))
    }

    /// The `KEY_VALUE_PARTIAL_INFORMATION` of a value, if it is short.
    fn value(&self, name: &str) -> Option<[u8; ROOM]> {
        let mut wide = [0_u16; 32];
        let length = name.len();
        wide.get_mut(..length)?.iter_mut().zip(name.bytes()).for_each(|(to, from)| *to = from.into());
        let bytes = (length * 2) as u16;
        let mut name = UNICODE_STRING { Length: bytes, MaximumLength: bytes, Buffer: wide.as_mut_ptr() };
        // Words, since the information is aligned.
        let mut information = [0_u32; ROOM / 4];
        let mut used = 0;
        // SAFETY: everything pointed to is ours and lives until the call returns, which writes no more than it is told.
        let status = unsafe {
            ZwQueryValueKey(
                self.0,
                &raw mut name,
                KeyValuePartialInformation,
                information.as_mut_ptr().cast(),
                ROOM as ULONG,
                &raw mut used,
            )
        };
        let mut all = [0; ROOM];
        all.iter_mut()
            .zip(information.iter().flat_map(|word| word.to_ne_bytes()))
            .for_each(|(to, from)| *to = from);
        (status == 0 && used as usize <= ROOM).then_some(all)
    }
}

impl Drop for Key {
    fn drop(&mut self) {
        // SAFETY: ours, and closed once.
        let _ = unsafe { ZwClose(self.0) };
    }
}

//! The control device: secure from its first instant, and closed to who has no business there.

use alloc::vec::Vec;
use core::ffi::c_void;
use core::mem::MaybeUninit;
use core::ptr;

use fwps_sys::ntos::WdmlibIoCreateDeviceSecure;
use fwps_sys::{GUID, NTSTATUS};
use tidegate_abi::device;
use tidegate_driver::request::{self, Kind};
use tidegate_runtime::{Runtime, Shared};
use wdk_sys::ntddk::{IoCreateSymbolicLink, IoDeleteDevice, IoDeleteSymbolicLink};
use wdk_sys::{DEVICE_OBJECT, DRIVER_OBJECT, FILE_DEVICE_SECURE_OPEN, IRP, UNICODE_STRING};

use crate::filters::Filters;
use crate::irp::Irp;
use crate::text::{unicode, wide};
use crate::waits::Waits;

/// The class under which an administrator may give the device another security descriptor.
static CLASS: GUID = GUID::from_u128(0x8d3a5c60_6f0e_4b52_9f27_51d1a7e4c200);

/// The bits of a code that say how data is passed; 0 is `METHOD_BUFFERED`.
const METHOD: u32 = 3;

/// What hangs on the device object: the system allocates it with the device, and it does not move.
pub(crate) struct Extension {
    runtime: Option<Shared<Runtime>>,
    pub(crate) waits: MaybeUninit<Waits>,
    pub(crate) filters: MaybeUninit<Filters>,
}

/// The device. [`Device::delete`] ends it.
pub(crate) struct Device(*mut DEVICE_OBJECT);

impl Device {
    /// Creates the device. Nobody can open it before DriverEntry has returned. PASSIVE_LEVEL.
    pub(crate) fn create(driver: *mut DRIVER_OBJECT, runtime: Shared<Runtime>) -> Result<Self, NTSTATUS> {
        let (name, sddl) = (unicode(wide!(device::DEVICE)), unicode(wide!(device::SDDL)));
        let mut object = ptr::null_mut();
        // SAFETY: the driver object is our own; what else is pointed to is read before the call returns.
        unsafe {
            WdmlibIoCreateDeviceSecure(
                driver.cast(),
                size_of::<Extension>() as u32,
                (&raw const name).cast(),
                device::DEVICE_TYPE,
                FILE_DEVICE_SECURE_OPEN,
                0,
                (&raw const sddl).cast(),
                &raw const CLASS,
                &raw mut object,
            )
        }
        .ok()?;
        let device = Self(object.cast());
        let extension = Extension {
            runtime: Some(runtime),
            waits: MaybeUninit::uninit(),
            filters: MaybeUninit::uninit(),
        };
        // SAFETY: the extension is as large as this, and aligned for anything.
        unsafe { device.extension().write(extension) };
        Ok(device)
    }

    pub(crate) fn object(&self) -> *mut c_void {
        self.0.cast()
    }

    pub(crate) fn extension(&self) -> *mut Extension {
        // SAFETY: the device is ours.
        unsafe { (*self.0).DeviceExtension }.cast()
    }

    /// Deletes it. Waits and filters have ended. PASSIVE_LEVEL.
    pub(crate) fn delete(self) {
        // SAFETY: written when the device was created; the driver is being unloaded, so that no handle is open.
        unsafe { (*self.extension()).runtime = None };
        // SAFETY: ours, and deleted once.
        unsafe { IoDeleteDevice(self.0) };
    }
}

/// The two names of a link: its own, and the device's.
fn link() -> (UNICODE_STRING, UNICODE_STRING) {
    (unicode(wide!(device::LINK)), unicode(wide!(device::DEVICE)))
}

/// Makes the name by which user mode finds the device.
pub(crate) fn create_link() -> Result<(), NTSTATUS> {
    let (mut link, mut device) = link();
    // SAFETY: both are read before the call returns.
    NTSTATUS(unsafe { IoCreateSymbolicLink(&raw mut link, &raw mut device) }).ok()
}

/// Takes it away.
pub(crate) fn delete_link() {
    let (mut link, _) = link();
    // SAFETY: read before the call returns. There is nothing to be done about a link that is gone already.
    let _ = unsafe { IoDeleteSymbolicLink(&raw mut link) };
}

/// Opening: the system has held the caller against the security descriptor.
///
/// # Safety
/// The I/O manager calls it, as all below.
pub(crate) unsafe extern "C" fn create(_: *mut DEVICE_OBJECT, irp: *mut IRP) -> i32 {
    // SAFETY: the I/O manager's.
    unsafe { Irp::new(irp) }.complete(NTSTATUS::SUCCESS, 0)
}

/// A handle's cleanup, and its close: what waits through it ends, and nothing else. Either may come first or alone.
///
/// # Safety
/// As [`create`].
pub(crate) unsafe extern "C" fn close(device: *mut DEVICE_OBJECT, irp: *mut IRP) -> i32 {
    // SAFETY: the I/O manager's.
    let irp = unsafe { Irp::new(irp) };
    irp.close_file();
    // SAFETY: a handle is open, so that the driver has started and not stopped.
    unsafe { (*extension(device)).waits.assume_init_ref() }.cancel_all(irp.file());
    irp.complete(NTSTATUS::SUCCESS, 0)
}

/// A request. PASSIVE_LEVEL, in its sender's thread.
///
/// # Safety
/// As [`create`].
pub(crate) unsafe extern "C" fn control(device: *mut DEVICE_OBJECT, irp: *mut IRP) -> i32 {
    // SAFETY: as in `close`.
    let extension = unsafe { &*extension(device) };
    // SAFETY: the I/O manager's.
    let irp = unsafe { Irp::new(irp) };
    match answer(extension, irp) {
        Ok(Answer::Pending(status)) => status.0,
        Ok(Answer::Done(bytes)) => irp.complete(NTSTATUS::SUCCESS, bytes),
        Err(status) => irp.complete(status, 0),
    }
}

/// What became of a request.
enum Answer {
    /// It waits, or was completed already.
    Pending(NTSTATUS),
    /// So many bytes are the reply.
    Done(usize),
}

fn answer(extension: &Extension, irp: Irp) -> Result<Answer, NTSTATUS> {
    let (code, lengths) = irp.device_control();
    // Codes with another way of passing data are refused by their number; their buffer is none of ours.
    // SAFETY: a buffered request, and the only borrow.
    let buffer = if code & METHOD == 0 { unsafe { irp.buffer(lengths) } } else { &mut [] };
    let message = buffer.get(..lengths.input).unwrap_or_default();
    match request::judge(code, lengths, message)? {
        // SAFETY: the driver has started.
        Kind::Wait => Ok(Answer::Pending(unsafe { extension.waits.assume_init_ref() }.wait(irp, message))),
        Kind::Answer => {
            let runtime = extension.runtime.as_ref().ok_or(NTSTATUS::INVALID_DEVICE_STATE)?;
            // Request and reply share the buffer: the request moves out of the way.
            let mut copy: Vec<u8> = Vec::new();
            copy.try_reserve_exact(message.len()).map_err(|_| NTSTATUS::INSUFFICIENT_RESOURCES)?;
            copy.extend_from_slice(message);
            let reply = buffer.get_mut(..lengths.output).unwrap_or_default();
            Ok(Answer::Done(runtime.handle_until(irp.cancelled(), &copy, reply)))
        }
    }
}

/// Everything else that a device may be asked.
///
/// # Safety
/// As [`create`].
pub(crate) unsafe extern "C" fn unsupported(_: *mut DEVICE_OBJECT, irp: *mut IRP) -> i32 {
    // SAFETY: the I/O manager's.
    unsafe { Irp::new(irp) }.complete(NTSTATUS::INVALID_DEVICE_REQUEST, 0)
}

fn extension(device: *mut DEVICE_OBJECT) -> *mut Extension {
    // SAFETY: the driver has one kind of device only.
    unsafe { (*device).DeviceExtension }.cast()
}

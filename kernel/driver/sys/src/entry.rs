//! DriverEntry and DriverUnload: each part with how it is taken and given back.

use core::cell::UnsafeCell;

use fwps_sys::NTSTATUS;
use tidegate_abi::control::Status;
use tidegate_callout::{self as callout, Callouts, Objects, Options};
use tidegate_driver::parameters::Parameters;
use tidegate_driver::sequence::{self, Step};
use tidegate_runtime::{Runtime, Shared};
use wdk_sys::{
    DRIVER_OBJECT, IRP_MJ_CLEANUP, IRP_MJ_CLOSE, IRP_MJ_CREATE, IRP_MJ_DEVICE_CONTROL, UNICODE_STRING,
};

use crate::device::{self, Device};
use crate::filters::Filters;
use crate::os;
use crate::registry;
use crate::trace;
use crate::waits::Waits;

/// What was taken.
struct Parts {
    driver: *mut DRIVER_OBJECT,
    parameters: Parameters,
    runtime: Option<Shared<Runtime>>,
    device: Option<Device>,
    callouts: Option<Callouts>,
}

/// The parts of a driver that runs.
struct Running(UnsafeCell<Option<Parts>>);

// SAFETY: DriverEntry writes it and DriverUnload takes it; the system calls each once, one after the other.
unsafe impl Sync for Running {}

static RUNNING: Running = Running(UnsafeCell::new(None));

/// The image is loaded. PASSIVE_LEVEL, in a system thread.
///
/// # Safety
/// The system calls it, once.
#[unsafe(export_name = "DriverEntry")]
pub(crate) unsafe extern "system" fn driver_entry(
    driver: *mut DRIVER_OBJECT,
    service: *const UNICODE_STRING,
) -> i32 {
    // SAFETY: the system's, until the call returns.
    let parameters = unsafe { service.as_ref() }.map(registry::parameters).unwrap_or_default();
    let mut parts = Parts { driver, parameters, runtime: None, device: None, callouts: None };
    if let Err((_, status)) = sequence::start(&mut parts) {
        return status.0;
    }
    // SAFETY: the driver object is our own, and no request comes before this returns.
    unsafe {
        for routine in &mut (*driver).MajorFunction {
            *routine = Some(device::unsupported);
        }
        for (function, routine) in [
            (IRP_MJ_CREATE, device::create as unsafe extern "C" fn(_, _) -> _),
            (IRP_MJ_CLEANUP, device::close),
            (IRP_MJ_CLOSE, device::close),
            (IRP_MJ_DEVICE_CONTROL, device::control),
        ] {
            (*driver).MajorFunction[function as usize] = Some(routine);
        }
        (*driver).DriverUnload = Some(unload);
    }
    // SAFETY: nothing else touches it now.
    unsafe { *RUNNING.0.get() = Some(parts) };
    trace::started();
    NTSTATUS::SUCCESS.0
}

/// The image is about to go. No handle is open. PASSIVE_LEVEL, in a system thread.
///
/// # Safety
/// The system calls it, once, after a DriverEntry that succeeded.
unsafe extern "C" fn unload(_: *mut DRIVER_OBJECT) {
    trace::stopped();
    // SAFETY: nothing else touches it now.
    if let Some(mut parts) = unsafe { (*RUNNING.0.get()).take() } {
        sequence::stop(&mut parts);
    }
}

impl Parts {
    fn device(&self) -> Result<&Device, NTSTATUS> {
        self.device.as_ref().ok_or(NTSTATUS::INVALID_DEVICE_STATE)
    }

    fn runtime(&self) -> Result<Shared<Runtime>, NTSTATUS> {
        self.runtime.clone().ok_or(NTSTATUS::INVALID_DEVICE_STATE)
    }
}

impl sequence::Parts for Parts {
    type Error = NTSTATUS;

    fn acquire(&mut self, step: Step) -> Result<(), NTSTATUS> {
        // Said here, since afterwards the provider is given back too.
        self.take(step).inspect_err(|status| trace::failed(step, *status))
    }

    fn release(&mut self, step: Step) {
        match step {
            Step::Tracing => trace::unregister(),
            Step::Runtime => self.runtime = None,
            Step::Device => {
                if let Some(device) = self.device.take() {
                    device.delete();
                }
            }
            Step::Waits => {
                if let Some(device) = &self.device {
                    // SAFETY: it was begun, and the callouts are gone.
                    unsafe { Waits::end((*device.extension()).waits.as_mut_ptr()) };
                }
            }
            Step::Callouts => {
                // The image can't go while a callout is registered: it is tried until it is done.
                let mut callouts = self.callouts.take();
                while let Some(Err(busy)) = callouts.take().map(Callouts::unregister) {
                    trace::busy(busy.status);
                    os::sleep(10);
                    callouts = Some(busy.callouts);
                }
            }
            Step::Filters => {
                // The filter engine may keep bytes of a connection for us: while it does, no filter may go.
                while self.callouts.as_ref().is_some_and(|callouts| callouts.drain() > 0) {
                    os::sleep(10);
                }
                if let Some(device) = &self.device {
                    // SAFETY: it was begun.
                    unsafe { Filters::end((*device.extension()).filters.as_mut_ptr()) };
                }
            }
            Step::Link => device::delete_link(),
        }
    }
}

impl Parts {
    fn take(&mut self, step: Step) -> Result<(), NTSTATUS> {
        match step {
            Step::Tracing => trace::register(),
            Step::Runtime => {
                let runtime = Runtime::shared(os::platform()?).map_err(status)?;
                self.runtime = Some(runtime);
                Ok(())
            }
            Step::Device => {
                self.device = Some(Device::create(self.driver, self.runtime()?)?);
                Ok(())
            }
            Step::Waits => {
                let (runtime, device) = (self.runtime()?, self.device()?);
                // SAFETY: the extension lives as long as the device, and does not move.
                unsafe {
                    let place = (*device.extension()).waits.as_mut_ptr();
                    Waits::begin(place, device.object(), runtime, self.parameters.max_waits)
                }
            }
            Step::Callouts => {
                let objects = Objects { driver: self.driver.cast(), device: self.device()?.object() };
                let registered = Callouts::register(objects, self.runtime()?, Options::default());
                self.callouts = Some(registered.map_err(|error| match error {
                    callout::Error::NoMemory => NTSTATUS::INSUFFICIENT_RESOURCES,
                    callout::Error::System(status) => status,
                })?);
                Ok(())
            }
            Step::Filters => {
                let context = self.callouts.as_ref().map_or(0, Callouts::context);
                let device = self.device()?;
                // SAFETY: as for the waits.
                unsafe {
                    let place = (*device.extension()).filters.as_mut_ptr();
                    Filters::begin(place, device.object(), &self.parameters, context, self.runtime()?)
                }
            }
            Step::Link => device::create_link(),
        }
    }
}

/// A status of the runtime as one of the system.
fn status(status: Status) -> NTSTATUS {
    match status {
        Status::NoMemory => NTSTATUS::INSUFFICIENT_RESOURCES,
        _ => NTSTATUS::UNSUCCESSFUL,
    }
}

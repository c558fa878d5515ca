//! Requests as they are, without a client that knows how to make them.

use std::io;
use std::time::Duration;

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(windows), expect(dead_code, reason = "without a driver nothing is answered"))]
pub(crate) enum Sent {
    /// With a reply.
    Answered,
    /// With an error.
    Refused,
    /// By being cancelled.
    Cancelled,
}

pub(crate) use system::Handle;

#[cfg(windows)]
mod system {
    use std::ffi::c_void;
    use std::ptr::{null, null_mut};

    use tidegate_abi::device;
    use windows_sys::Win32::Foundation::{
        CloseHandle, ERROR_IO_PENDING, ERROR_OPERATION_ABORTED, GENERIC_READ, GENERIC_WRITE, GetLastError,
        HANDLE, INVALID_HANDLE_VALUE, WAIT_OBJECT_0,
    };
    use windows_sys::Win32::Storage::FileSystem::{
        CreateFileW, FILE_FLAG_OVERLAPPED, FILE_SHARE_READ, FILE_SHARE_WRITE, OPEN_EXISTING,
    };
    use windows_sys::Win32::System::IO::{CancelIoEx, DeviceIoControl, GetOverlappedResult, OVERLAPPED};
    use windows_sys::Win32::System::Threading::{CreateEventW, WaitForSingleObject};

    use super::*;

    /// A handle to the driver's device.
    pub(crate) struct Handle {
        device: HANDLE,
        overlapped: bool,
    }

    /// A request under way: what the system writes to must not move or go until it is over.
    struct Pending {
        overlapped: OVERLAPPED,
        input: Vec<u8>,
        output: Vec<u8>,
    }

    impl Pending {
        fn new(input: &[u8], room: usize) -> Box<Self> {
            // SAFETY: all zeros is what the system asks for.
            let mut overlapped: OVERLAPPED = unsafe { std::mem::zeroed() };
            // SAFETY: an event without a name.
            overlapped.hEvent = unsafe { CreateEventW(null(), 1, 0, null()) };
            Box::new(Self { overlapped, input: input.into(), output: vec![0; room] })
        }

        fn start(&mut self, device: HANDLE, code: u32, asynchronous: bool) -> Result<(), u32> {
            let overlapped = if asynchronous { &raw mut self.overlapped } else { null_mut() };
            let mut written = 0;
            // SAFETY: both buffers are as long as said, and stay until the request is over: the caller sees to that.
            let done = unsafe {
                DeviceIoControl(
                    device,
                    code,
                    self.input.as_ptr().cast::<c_void>(),
                    self.input.len() as u32,
                    self.output.as_mut_ptr().cast::<c_void>(),
                    self.output.len() as u32,
                    &raw mut written,
                    overlapped,
                )
            };
            // SAFETY: asks the thread's own last error.
            if done != 0 { Ok(()) } else { Err(unsafe { GetLastError() }) }
        }
    }

    impl Drop for Pending {
        fn drop(&mut self) {
            // SAFETY: the event is this request's, which is over.
            unsafe { CloseHandle(self.overlapped.hEvent) };
        }
    }

    impl Handle {
        pub(crate) fn open(write: bool, overlapped: bool) -> io::Result<Self> {
            let path: Vec<u16> = device::PATH.encode_utf16().chain([0]).collect();
            let access = if write { GENERIC_READ | GENERIC_WRITE } else { GENERIC_READ };
            let flags = if overlapped { FILE_FLAG_OVERLAPPED } else { 0 };
            let share = FILE_SHARE_READ | FILE_SHARE_WRITE;
            // SAFETY: the path ends with a zero.
            let device = unsafe {
                CreateFileW(path.as_ptr(), access, share, null(), OPEN_EXISTING, flags, null_mut())
            };
            if device == INVALID_HANDLE_VALUE {
                return Err(io::Error::last_os_error());
            }
            Ok(Self { device, overlapped })
        }

        /// Sends a request; cancels it when it takes longer than `patience`, where the handle lets one do so.
        pub(crate) fn send(&self, code: u32, input: &[u8], room: usize, patience: Duration) -> Sent {
            // Without a way to cancel it, nothing that waits is asked for.
            let code = if code == device::WAIT && !self.overlapped { device::CHANGE } else { code };
            let mut request = Pending::new(input, room);
            match request.start(self.device, code, self.overlapped) {
                Ok(()) => Sent::Answered,
                Err(ERROR_IO_PENDING) => self.end(&mut request, patience),
                Err(_) => Sent::Refused,
            }
        }

        fn end(&self, request: &mut Pending, patience: Duration) -> Sent {
            let mut written = 0;
            // SAFETY: the request is under way on this handle, and is waited for to its end before it goes.
            unsafe {
                let waited = WaitForSingleObject(request.overlapped.hEvent, patience.as_millis() as u32);
                if waited != WAIT_OBJECT_0 {
                    CancelIoEx(self.device, &raw const request.overlapped);
                }
                if GetOverlappedResult(self.device, &raw const request.overlapped, &raw mut written, 1) != 0 {
                    return Sent::Answered;
                }
                if GetLastError() == ERROR_OPERATION_ABORTED { Sent::Cancelled } else { Sent::Refused }
            }
        }

        /// Sends a request and leaves it behind: the handle is closed while it waits.
        pub(crate) fn leave(self, code: u32, input: &[u8]) -> Sent {
            if !self.overlapped {
                return self.send(code, input, 4096, Duration::ZERO);
            }
            let mut request = Pending::new(input, 4096);
            match request.start(self.device, code, true) {
                Ok(()) => Sent::Answered,
                Err(ERROR_IO_PENDING) => {
                    let event = request.overlapped.hEvent;
                    drop(self);
                    // The event is signalled when the driver has let go of it; when it does not, this never ends.
                    // SAFETY: the event is the request's own.
                    unsafe { WaitForSingleObject(event, u32::MAX) };
                    Sent::Cancelled
                }
                Err(_) => Sent::Refused,
            }
        }
    }

    impl Drop for Handle {
        fn drop(&mut self) {
            // SAFETY: opened here, closed once.
            unsafe { CloseHandle(self.device) };
        }
    }
}

#[cfg(not(windows))]
mod system {
    use super::*;

    /// There is no device here.
    pub(crate) struct Handle;

    impl Handle {
        pub(crate) fn open(_: bool, _: bool) -> io::Result<Self> {
            Err(io::ErrorKind::Unsupported.into())
        }

        pub(crate) fn send(&self, _: u32, _: &[u8], _: usize, _: Duration) -> Sent {
            Sent::Refused
        }

        pub(crate) fn leave(self, _: u32, _: &[u8]) -> Sent {
            Sent::Refused
        }
    }
}

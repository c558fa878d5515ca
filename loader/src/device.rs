//! The driver's device: messages go in, replies come out.
//!
//! The only `unsafe` of the loader is here: a device is spoken to by one call of the system, which the standard library does not have.

use std::fs::File;
use std::io;

use tidegate_abi::device;

use crate::error::{Error, Exit};

/// What Windows says of the integrity of code: `CODEINTEGRITY_OPTION_*`. `None` where nobody says it.
#[cfg(windows)]
#[expect(unsafe_code, reason = "a call of the system")]
pub fn code_integrity() -> Option<u32> {
    use windows_sys::Wdk::System::SystemInformation::{
        NtQuerySystemInformation, SystemCodeIntegrityInformation,
    };
    use windows_sys::Win32::System::WindowsProgramming::SYSTEM_CODEINTEGRITY_INFORMATION;
    let size = size_of::<SYSTEM_CODEINTEGRITY_INFORMATION>() as u32;
    let mut said = SYSTEM_CODEINTEGRITY_INFORMATION { Length: size, CodeIntegrityOptions: 0 };
    // SAFETY: the structure lives as long as the call, and its size is given.
    let status = unsafe {
        NtQuerySystemInformation(
            SystemCodeIntegrityInformation,
            (&raw mut said).cast(),
            size,
            std::ptr::null_mut(),
        )
    };
    (status >= 0).then_some(said.CodeIntegrityOptions)
}

/// The same elsewhere.
#[cfg(not(windows))]
pub fn code_integrity() -> Option<u32> {
    None
}

/// The driver's device, open for reading and changing.
#[derive(Debug)]
pub struct Device(File);

impl Device {
    /// Opens it.
    ///
    /// # Errors
    /// There is no driver, or it may not be used.
    pub fn open() -> Result<Self, Error> {
        if cfg!(not(windows)) {
            return Err(Error::new("driver-none", Exit::Driver, "the driver runs on Windows only")
                .with_help("`tidegate test` and `tidegate prog run` show policies at work on any machine"));
        }
        File::options().read(true).write(true).open(device::PATH).map(Self).map_err(|error| {
            match error.kind() {
                io::ErrorKind::PermissionDenied => {
                    let message = "only administrators may talk to the driver";
                    Error::new("driver-denied", Exit::Denied, message)
                        .with_help("run this in a console of an administrator")
                }
                io::ErrorKind::NotFound => {
                    let message = format!("the driver is not running: there is no {}", device::PATH);
                    Error::new("driver-none", Exit::Driver, message)
                        .with_help("`tidegate driver status` says more, `tidegate driver start` starts it")
                }
                _ => Error::new("driver-io", Exit::Driver, format!("cannot open {}: {error}", device::PATH)),
            }
        })
    }

    /// Sends a control message and waits for its reply. Returns the length of the reply.
    ///
    /// # Errors
    /// The system, or the driver in place of an answer.
    pub fn exchange(&self, request: &[u8], reply: &mut [u8]) -> io::Result<usize> {
        self.control(device::CHANGE, request, reply)
    }

    /// Sends a request for events, which the driver answers when there are some.
    ///
    /// # Errors
    /// As for [`exchange`](Self::exchange).
    pub fn wait(&self, request: &[u8], reply: &mut [u8]) -> io::Result<usize> {
        self.control(device::WAIT, request, reply)
    }

    /// One request with a control code.
    #[cfg(windows)]
    #[expect(unsafe_code, reason = "a call of the system")]
    fn control(&self, code: u32, input: &[u8], output: &mut [u8]) -> io::Result<usize> {
        use std::os::windows::io::AsRawHandle;
        use std::ptr::null_mut;

        use windows_sys::Win32::System::IO::DeviceIoControl;

        let length = |bytes: &[u8]| {
            u32::try_from(bytes.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))
        };
        let (input_length, output_length) = (length(input)?, length(output)?);
        let mut written = 0;
        // SAFETY: the handle is open, both buffers are as long as said, and the call returns when it is done with them.
        let done = unsafe {
            DeviceIoControl(
                self.0.as_raw_handle(),
                code,
                input.as_ptr().cast(),
                input_length,
                output.as_mut_ptr().cast(),
                output_length,
                &raw mut written,
                null_mut(),
            )
        };
        if done == 0 { Err(io::Error::last_os_error()) } else { Ok(written as usize) }
    }

    #[cfg(not(windows))]
    fn control(&self, _: u32, _: &[u8], _: &mut [u8]) -> io::Result<usize> {
        // `open` gives none.
        Err(io::Error::new(io::ErrorKind::Unsupported, format!("{:?} is no device", self.0)))
    }
}

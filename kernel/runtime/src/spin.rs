//! Short critical sections that classify and control requests share.

use crate::platform::Platform;

/// Data behind a spin lock that is held at `DISPATCH_LEVEL`, so that its holder is never preempted: a waiter at classify
/// waits for the few instructions of the section, not for a thread that lost its processor.
///
/// Keep sections short and free of calls that may wait. Sections of two locks nest only as their owners' docs say.
#[derive(Debug)]
pub struct Spin<T>(spin::Mutex<T>);

impl<T> Spin<T> {
    /// Data behind a lock.
    pub const fn new(value: T) -> Self {
        Self(spin::Mutex::new(value))
    }

    /// Runs `section` on the data with the lock held and the IRQL raised.
    pub fn with<R>(&self, platform: &Platform, section: impl FnOnce(&mut T) -> R) -> R {
        let irql = (platform.raise)();
        let result = self.with_raised(section);
        (platform.lower)(irql);
        result
    }

    /// The same where the IRQL is `DISPATCH_LEVEL` already.
    #[inline]
    pub fn with_raised<R>(&self, section: impl FnOnce(&mut T) -> R) -> R {
        section(&mut self.0.lock())
    }
}

/// A value on cache lines of its own (128 bytes: processors fetch lines in pairs).
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Padded<T>(pub(crate) T);

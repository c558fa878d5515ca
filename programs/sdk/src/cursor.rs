//! Reading forward through the bytes shown.

use core::marker::PhantomData;

use crate::Error;

/// A place in the bytes shown. Every step is compared with their end, in the form that the verifier knows.
#[derive(Clone, Copy)]
pub struct Cursor<'a> {
    at: *const u8,
    start: *const u8,
    end: *const u8,
    shown: PhantomData<&'a [u8]>,
}

impl<'a> Cursor<'a> {
    /// A cursor at the first byte shown.
    ///
    /// # Safety
    /// `start` and `end` are a context's `data` and `data_end`, and the context outlives `'a`.
    #[inline(always)]
    pub(crate) unsafe fn new(start: *const u8, end: *const u8) -> Self {
        Self { at: start, start, end, shown: PhantomData }
    }

    /// The next `N` bytes; the cursor moves behind them.
    ///
    /// # Errors
    /// [`Error::Short`] when fewer are left; the cursor stays.
    #[inline(always)]
    pub fn take<const N: usize>(&mut self) -> Result<&'a [u8; N], Error> {
        let behind = self.at.wrapping_add(N);
        if behind > self.end {
            return Err(Error::Short);
        }
        let bytes = self.at.cast::<[u8; N]>();
        self.at = behind;
        // SAFETY: the N bytes at `at` end at or before `end`, and what is shown is readable while the context lives.
        Ok(unsafe { &*bytes })
    }

    /// A number of one byte.
    ///
    /// # Errors
    /// [`Error::Short`].
    #[inline(always)]
    pub fn u8(&mut self) -> Result<u8, Error> {
        Ok(self.take::<1>()?[0])
    }

    /// A number of two bytes in network order.
    ///
    /// # Errors
    /// [`Error::Short`].
    #[inline(always)]
    pub fn u16(&mut self) -> Result<u16, Error> {
        Ok(u16::from_be_bytes(*self.take::<2>()?))
    }

    /// Moves `n` bytes on, perhaps behind the end: the next read says so.
    #[inline(always)]
    pub fn skip(&mut self, n: u16) {
        self.at = self.at.wrapping_add(n as usize);
    }

    /// Whether `n` more bytes are there.
    #[inline(always)]
    pub fn has(&self, n: u16) -> bool {
        self.at.wrapping_add(n as usize) <= self.end
    }

    /// Offset of the cursor from the first byte shown.
    #[inline(always)]
    pub fn offset(&self) -> u64 {
        self.at as u64 - self.start as u64
    }
}

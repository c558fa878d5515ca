//! Text as the kernel takes it: UTF-16 with a length.

use wdk_sys::UNICODE_STRING;

/// `text` as UTF-16 with a zero behind it; ASCII only.
pub(crate) const fn utf16<const N: usize>(text: &str) -> [u16; N] {
    let (bytes, mut wide, mut at) = (text.as_bytes(), [0; N], 0);
    assert!(bytes.len() + 1 == N && text.is_ascii());
    while at < bytes.len() {
        wide[at] = bytes[at] as u16;
        at += 1;
    }
    wide
}

/// A `UNICODE_STRING` over what [`utf16`] made.
pub(crate) const fn unicode(wide: &'static [u16]) -> UNICODE_STRING {
    let bytes = (wide.len() * 2) as u16;
    UNICODE_STRING { Length: bytes - 2, MaximumLength: bytes, Buffer: wide.as_ptr().cast_mut() }
}

/// A constant `&str` as a static of UTF-16, zero-terminated.
macro_rules! wide {
    ($text:expr) => {{
        static WIDE: [u16; $text.len() + 1] = $crate::text::utf16($text);
        WIDE.as_slice()
    }};
}
pub(crate) use wide;

//! Finding bytes in bytes: in linear time whatever the bytes are, and without a path that panics.

use memchr::memchr;
use tidegate_abi::limits::MAX_PATTERN;

/// Where `pattern` begins in `bytes` for the first time. No pattern longer than [`MAX_PATTERN`] is found.
///
/// Knuth, Morris and Pratt's way, which never looks back; where nothing has matched yet, whole words are skipped.
pub(crate) fn find(bytes: &[u8], pattern: &[u8]) -> Option<usize> {
    let Some(first) = pattern.first() else { return Some(0) };
    let borders = Borders::of(pattern)?;
    let (mut at, mut matched) = (0, 0);
    loop {
        if matched == 0 {
            at += memchr(*first, bytes.get(at..)?)?;
        }
        let byte = bytes.get(at)?;
        if pattern.get(matched) == Some(byte) {
            at += 1;
            matched += 1;
            if matched == pattern.len() {
                return at.checked_sub(matched);
            }
        } else {
            matched = borders.shorter(matched);
        }
    }
}

/// For each length of a pattern's start: how much of its own start it ends with.
struct Borders([u8; MAX_PATTERN]);

impl Borders {
    fn of(pattern: &[u8]) -> Option<Self> {
        let mut borders = Self([0; MAX_PATTERN]);
        let mut matched = 0;
        for (at, byte) in pattern.iter().enumerate().skip(1) {
            while matched > 0 && pattern.get(matched) != Some(byte) {
                matched = borders.shorter(matched);
            }
            matched += usize::from(pattern.get(matched) == Some(byte));
            // Less than `at + 1`, so that it fits.
            *borders.0.get_mut(at)? = matched as u8;
        }
        Some(borders)
    }

    /// What still matches when the byte behind `matched` bytes does not.
    fn shorter(&self, matched: usize) -> usize {
        matched.checked_sub(1).and_then(|last| self.0.get(last)).map_or(0, |border| usize::from(*border))
    }
}

const _: () = assert!(MAX_PATTERN <= 1 + u8::MAX as usize);

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use memchr::memmem;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_longest_pattern_is_found_and_a_longer_one_is_not() {
        let mut bytes = std::vec![b'a'; 3 * MAX_PATTERN];
        bytes.push(b'b');
        let from = bytes.len() - MAX_PATTERN;
        assert_eq!(find(&bytes, &bytes[from..]), Some(from));
        assert_eq!(find(&bytes, &bytes[from - 1..]), None);
        assert_eq!(find(&bytes, b""), Some(0));
        assert_eq!(find(b"", b"a"), None);
    }

    fn few_letters(most: usize) -> impl Strategy<Value = Vec<u8>> {
        proptest::collection::vec(prop_oneof![Just(b'a'), Just(b'a'), Just(b'b'), Just(b'c')], 0..most)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn it_finds_what_memmem_finds(bytes in few_letters(200), pattern in few_letters(12)) {
            prop_assert_eq!(find(&bytes, &pattern), memmem::find(&bytes, &pattern));
        }

        #[test]
        fn what_was_cut_out_is_found_there_or_before(bytes in few_letters(400), from in 0_usize..400, len in 0_usize..257) {
            let from = from.min(bytes.len());
            let pattern = &bytes[from..(from + len).min(bytes.len())];
            prop_assert_eq!(find(&bytes, pattern), memmem::find(&bytes, pattern));
        }
    }
}

//! The hash of a key: fast, and seeded, since keys come from the network.

use crate::memory::words;

/// A secret that a map hashes its keys with. Whoever does not know it can't choose keys that share a bucket.
///
/// Each word is folded in by a widening multiplication. That is no cryptographic hash: it withstands people who choose keys,
/// not those who can also time each lookup.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seed(u64, u64);

impl Seed {
    pub(crate) fn new(random: fn() -> u64) -> Self {
        // An odd multiplier is never zero, so that no word is lost in it.
        Self(random(), random() | 1)
    }

    pub(crate) fn hash(self, key: &[u8]) -> u32 {
        self.hash_words(key.len(), words(key))
    }

    /// The hash of a key of `len` bytes as it lies in memory.
    pub(crate) fn hash_words(self, len: usize, words: impl Iterator<Item = u64>) -> u32 {
        let state = words.fold(self.0 ^ len as u64, |state, word| fold(state ^ word, self.1));
        let hash = fold(state, self.1.rotate_left(32) | 1);
        (hash ^ hash >> 32) as u32
    }
}

fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    (product as u64) ^ (product >> 64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counting_keys_spread_over_buckets_whatever_the_seed() {
        for seed in [Seed(0, 0x9e37_79b9_7f4a_7c15), Seed(u64::MAX, 0xd1b5_4a32_d192_ed03)] {
            let mut buckets = [0_u32; 64];
            for key in 0..4096_u32 {
                buckets[seed.hash(&key.to_le_bytes()) as usize % 64] += 1;
            }
            assert!(buckets.iter().all(|count| *count < 256), "{seed:?}: {buckets:?}");
        }
    }

    #[test]
    fn length_and_every_byte_matter() {
        let seed = Seed(0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3211);
        let key = [0_u8; 24];
        for at in 0..24 {
            let mut other = key;
            other[at] = 1;
            assert_ne!(seed.hash(&key), seed.hash(&other), "byte {at}");
        }
        assert_ne!(seed.hash(&key[..3]), seed.hash(&key[..4]));
    }
}

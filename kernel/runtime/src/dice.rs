//! Pseudo-random numbers for programs: cheap, and not for secrets.

use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use tidegate_abi::control::Status;

use crate::memory::vector;
use crate::platform::Platform;
use crate::spin::Padded;

/// A counter for each processor, whose mixed values (SplitMix64) are the numbers.
#[derive(Debug)]
pub(crate) struct Dice(Vec<Padded<AtomicU64>>);

/// Step of the counters: odd, so that they meet every number; 2^64 divided by the golden ratio.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

impl Dice {
    pub(crate) fn new(platform: &Platform) -> Result<Self, Status> {
        Ok(Self(vector(platform.count(), || Padded(AtomicU64::new((platform.random)())))?))
    }

    /// The next number of this processor. Any IRQL.
    pub(crate) fn roll(&self, platform: &Platform) -> u32 {
        let count = self.0.get(platform.index()).map_or(0, |count| count.0.fetch_add(STEP, Relaxed));
        let mixed = (count ^ count >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed >> 32) as u32
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::platform::tests::platform;

    #[test]
    fn numbers_hardly_repeat_and_use_all_their_bits() {
        let platform = platform(1);
        let dice = Dice::new(&platform).expect("small");
        let rolls: BTreeSet<u32> = (0..1000).map(|_| dice.roll(&platform)).collect();
        assert!(rolls.len() > 990);
        for bit in 0..32 {
            let ones = rolls.iter().filter(|roll| *roll >> bit & 1 == 1).count();
            assert!((350..650).contains(&ones), "bit {bit}: {ones} of 1000");
        }
    }
}

//! What the runtime needs from the system under it.

/// The system's functions, given once at [`crate::Runtime::new`]. The driver gives ntoskrnl's, everything else std's.
#[derive(Clone, Copy, Debug)]
pub struct Platform {
    /// Nanoseconds since the machine started, not counting sleep; never runs backwards. Any IRQL.
    pub now_ns: fn() -> u64,
    /// A number that an attacker can't guess: it seeds the hash of map keys. `PASSIVE_LEVEL`.
    pub random: fn() -> u64,
    /// Number of the processor that runs the caller, below [`processors`](Self::processors). Any IRQL.
    pub processor: fn() -> u32,
    /// Processors that the machine may ever have, hot-added ones included.
    pub processors: u32,
    /// Raises the IRQL to `DISPATCH_LEVEL` and returns what it was (`KeRaiseIrql`). Does nothing on std.
    pub raise: fn() -> u8,
    /// What a classify begins with: [`raise`](Self::raise) and, behind it, [`processor`](Self::processor).
    pub enter: fn() -> (u8, u32),
    /// Lowers the IRQL to what [`raise`](Self::raise) returned (`KeLowerIrql`). Does nothing on std.
    pub lower: fn(u8),
    /// A record was put into a ring buffer: who waits for one may look. IRQL <= `DISPATCH_LEVEL`, for every record.
    pub wake: fn(),
}

impl Platform {
    /// Processors, at least one.
    pub(crate) fn count(&self) -> usize {
        self.processors.max(1) as usize
    }

    /// The current processor as an index below [`count`](Self::count), whatever the system says.
    pub(crate) fn index(&self) -> usize {
        (self.processor)() as usize % self.count()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use core::sync::atomic::{AtomicU64, Ordering};

    use super::Platform;

    /// A platform whose clock and randomness count up, so that tests repeat.
    pub(crate) fn platform(processors: u32) -> Platform {
        fn count() -> u64 {
            static NEXT: AtomicU64 = AtomicU64::new(1);
            NEXT.fetch_add(1, Ordering::Relaxed).wrapping_mul(0x9e37_79b9_7f4a_7c15)
        }
        Platform {
            now_ns: count,
            random: count,
            processor: || 0,
            processors,
            raise: || 0,
            enter: || (0, 0),
            lower: |irql| assert_eq!(irql, 0, "lowered to what it was"),
            wake: || {},
        }
    }
}

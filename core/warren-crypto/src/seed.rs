//! Randomness as a value: seeded once by the shell, the same for ever after.

use std::time::Duration;

use rand_chacha::ChaCha20Rng;
use rand_core::{Rng, SeedableRng};

/// A deterministic generator (ChaCha20). The shell seeds it from the operating system, a test from a number.
pub struct Random(ChaCha20Rng);

impl Random {
    pub fn from_seed(seed: [u8; 32]) -> Self {
        Self(ChaCha20Rng::from_seed(seed))
    }

    pub fn fill(&mut self, bytes: &mut [u8]) {
        self.0.fill_bytes(bytes);
    }

    pub fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        self.fill(&mut bytes);
        bytes
    }

    pub fn u32(&mut self) -> u32 {
        self.0.next_u32()
    }

    pub fn u64(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// Uniform in `0..bound`; 0 when `bound` is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        if bound == 0 {
            return 0;
        }
        // Values in the last, incomplete stretch of multiples would favour small results.
        let limit = u64::MAX - u64::MAX % bound;
        loop {
            let value = self.u64();
            if value < limit {
                return value % bound;
            }
        }
    }

    /// Uniform in `low..high`, to the nanosecond; `low` if the range is empty.
    pub fn range_duration(&mut self, low: Duration, high: Duration) -> Duration {
        let span = u64::try_from(high.saturating_sub(low).as_nanos()).unwrap_or(u64::MAX);
        low + Duration::from_nanos(self.below(span))
    }

    /// An independent generator for a part of the caller.
    #[must_use]
    pub fn fork(&mut self) -> Random {
        Random::from_seed(self.bytes())
    }
}

impl std::fmt::Debug for Random {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Random(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_values_and_a_fork_others() {
        let (mut a, mut b) = (Random::from_seed([3; 32]), Random::from_seed([3; 32]));
        assert_eq!(a.u64(), b.u64());
        let mut fork = a.fork();
        assert_ne!(fork.u64(), a.u64());
    }

    #[test]
    fn values_stay_below_their_bound() {
        let mut random = Random::from_seed([4; 32]);
        assert!((0..1000).all(|_| random.below(7) < 7));
        assert_eq!(random.below(0), 0);
    }
}

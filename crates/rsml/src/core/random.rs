//! Random numbers for timing.

/// A small deterministic generator (SplitMix64, Steele et al. 2014) that can be cloned, compared
/// and hashed with the replica that owns it. Only timing depends on it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Jitter(u64);

impl Jitter {
    /// The same numbers for the same seed.
    pub(crate) fn new(seed: u64) -> Jitter {
        Jitter(seed)
    }

    /// A number from 0 to `bound - 1`; 0 for a bound of 0.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % bound.max(1)
    }
}

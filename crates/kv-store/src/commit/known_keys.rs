//! Keys that are known to have a value: overwriting one needs no lookup to keep the row count.
//!
//! A fixed table of 128-bit hashes: 16 bytes per key of any length. In a full bucket the oldest
//! hash is replaced. Invariant: a key whose hash is in the table has a value in the current state.
//! Two keys of one database may share a hash (about once in 10²⁰ databases of a billion keys); the
//! row count is then off by one. Nothing else depends on this table.

use xxhash_rust::xxh3::xxh3_128;

/// Slots per bucket; a hash may be in any slot of its bucket. Four fill one cache line.
const WAYS: usize = 4;

/// Marks a free slot: the one hash in 2¹²⁸ that can't be kept.
const FREE: u128 = 0;

pub(crate) struct KnownKeys {
    /// Newest first within each bucket.
    buckets: Vec<[u128; WAYS]>,
    /// Mixed into every hash: a new salt forgets all keys at once.
    salt: u128,
}

/// The hash of a key.
#[derive(Clone, Copy)]
pub(crate) struct KeyHash(u128);

impl KeyHash {
    /// Half of its bits.
    pub fn short(self) -> u64 {
        self.0 as u64
    }
}

pub(crate) fn hash(prefix: &[u8]) -> KeyHash {
    KeyHash(xxh3_128(prefix))
}

impl KnownKeys {
    /// A table for about `keys` keys. Its memory is touched only as keys come.
    pub fn new(keys: usize) -> Self {
        KnownKeys { buckets: vec![[FREE; WAYS]; keys.div_ceil(WAYS).max(1)], salt: 0 }
    }

    /// Forgets every key.
    pub fn forget_all(&mut self) {
        self.salt = xxh3_128(&self.salt.to_be_bytes());
    }

    /// Whether the key is known to have a value.
    pub fn contains(&self, key: KeyHash) -> bool {
        let key = self.salted(key);
        key.0 != FREE && self.buckets[self.bucket(key)].contains(&key.0)
    }

    /// Records that the key has a value from now on, or has none.
    pub fn set(&mut self, key: KeyHash, exists: bool) {
        let key = self.salted(key);
        let bucket = self.bucket(key);
        let places = &mut self.buckets[bucket];
        match (places.iter().position(|place| *place == key.0), exists) {
            (Some(place), false) => places[place] = FREE,
            (None, true) => {
                let given_up = places.iter().position(|place| *place == FREE).unwrap_or(WAYS - 1);
                places[..=given_up].rotate_right(1);
                places[0] = key.0;
            }
            _ => {}
        }
    }

    fn salted(&self, key: KeyHash) -> KeyHash {
        KeyHash(key.0 ^ self.salt)
    }

    fn bucket(&self, key: KeyHash) -> usize {
        let low_bits = key.0 as u64;
        (low_bits % self.buckets.len() as u64) as usize
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn known_keys_have_values_even_when_the_table_is_far_too_small() {
        let mut known = KnownKeys::new(16);
        let mut truth = HashSet::new();
        let mut hits = 0;
        for step in 0..10_000_u64 {
            // A walk over 40 keys; each is deleted now and then.
            let key = (step * 7 % 40).to_be_bytes();
            let exists = step % 3 != 0;
            known.set(hash(&key), exists);
            if exists {
                truth.insert(key)
            } else {
                truth.remove(&key)
            };
            for other in (0..40_u64).map(u64::to_be_bytes) {
                if known.contains(hash(&other)) {
                    hits += 1;
                    assert!(truth.contains(&other), "step {step}");
                }
            }
        }
        assert!(hits > 0);
    }

    #[test]
    fn a_key_is_known_from_its_write_to_its_deletion() {
        let mut known = KnownKeys::new(100);
        known.set(hash(b"a"), true);
        known.set(hash(b"a"), true);
        assert!(known.contains(hash(b"a")) && !known.contains(hash(b"b")));
        known.set(hash(b"a"), false);
        assert!(!known.contains(hash(b"a")));
    }

    #[test]
    fn all_keys_can_be_forgotten_at_once() {
        let mut known = KnownKeys::new(100);
        known.set(hash(b"a"), true);
        known.forget_all();
        assert!(!known.contains(hash(b"a")));
        known.set(hash(b"a"), true);
        assert!(known.contains(hash(b"a")));
    }
}

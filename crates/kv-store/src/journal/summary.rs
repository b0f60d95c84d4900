//! Summaries of stretches of the journal, in little memory: reads of few keys skip the others.
//!
//! Invariant: a summary never denies an effect that was added to it. It may claim some that were
//! not.

use xxhash_rust::xxh3::xxh3_128;

/// Longest kept part of the lowest and of the highest key.
const END_BYTES: usize = 30;
/// 64-bit words of the set of keys: 2,048 bits, for some hundreds of keys.
const WORDS: usize = 32;

#[derive(Clone)]
pub(crate) struct Summary {
    is_empty: bool,
    has_ranges: bool,
    /// One bit for each family, by the hash of its name.
    families: u64,
    /// A Bloom filter over the hashes of keys, with two bits each.
    keys: [u64; WORDS],
    lowest: End,
    highest: End,
}

/// The beginning of an encoded key.
#[derive(Clone, Copy)]
struct End {
    length: u8,
    bytes: [u8; END_BYTES],
}

impl End {
    const EMPTY: End = End { length: 0, bytes: [0; END_BYTES] };

    fn of(key: &[u8]) -> End {
        let length = key.len().min(END_BYTES);
        let mut end = End { length: length as u8, bytes: [0; END_BYTES] };
        end.bytes[..length].copy_from_slice(&key[..length]);
        end
    }

    fn kept(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }

    /// Whether `key` sorts after every key with this beginning.
    fn is_before(&self, key: &[u8]) -> bool {
        let key = &key[..key.len().min(END_BYTES)];
        self.kept() < key
    }
}

impl Default for Summary {
    fn default() -> Self {
        Summary {
            is_empty: true,
            has_ranges: false,
            families: 0,
            keys: [0; WORDS],
            lowest: End::EMPTY,
            highest: End::EMPTY,
        }
    }
}

fn family_bit(encoded: &[u8]) -> u64 {
    let length = usize::from(encoded.first().copied().unwrap_or(0));
    let name = encoded.get(1..=length).unwrap_or(encoded);
    let mixed = name.iter().fold(length as u64, |mixed, byte| mixed.wrapping_mul(31).wrapping_add(u64::from(*byte)));
    1 << (mixed % 64)
}

/// The hash of a key: half of the one that the table of known keys has, so that it is made once for
/// each write.
pub(super) fn hash_of(prefix: &[u8]) -> u64 {
    xxh3_128(prefix) as u64
}

fn key_bits(hash: u64) -> [(usize, u64); 2] {
    [hash, hash >> 32].map(|bits| ((bits as usize / 64) % WORDS, 1 << (bits % 64)))
}

impl Summary {
    pub fn clear(&mut self) {
        *self = Summary::default();
    }

    pub fn add_key(&mut self, prefix: &[u8], hash: u64) {
        for (word, bit) in key_bits(hash) {
            self.keys[word] |= bit;
        }
        self.families |= family_bit(prefix);
        self.stretch(prefix, prefix);
    }

    pub fn add_range(&mut self, begin: &[u8], end: &[u8]) {
        self.has_ranges = true;
        self.families |= family_bit(begin);
        self.stretch(begin, end);
    }

    fn stretch(&mut self, low: &[u8], high: &[u8]) {
        if self.is_empty || low < self.lowest.kept() {
            self.lowest = End::of(low);
        }
        if self.is_empty || self.highest.is_before(high) {
            self.highest = End::of(high);
        }
        self.is_empty = false;
    }

    /// Adds all of another summary.
    pub fn merge(&mut self, other: &Summary) {
        if other.is_empty {
            return;
        }
        self.has_ranges |= other.has_ranges;
        self.families |= other.families;
        self.keys.iter_mut().zip(other.keys).for_each(|(word, more)| *word |= more);
        self.stretch(other.lowest.kept(), other.highest.kept());
    }

    /// Whether a key or range between `begin` and `end` may have been touched.
    pub fn may_touch_range(&self, begin: &[u8], end: &[u8]) -> bool {
        !self.is_empty && self.lowest.kept() < end && !self.highest.is_before(begin)
    }

    /// Whether the key may have been touched. `hash`: of the prefix.
    pub fn may_touch_key(&self, prefix: &[u8], hash: u64) -> bool {
        if self.is_empty || prefix < self.lowest.kept() || self.highest.is_before(prefix) {
            return false;
        }
        self.has_ranges || key_bits(hash).iter().all(|(word, bit)| self.keys[*word] & bit != 0)
    }

    /// The set of families that may have been touched, and that of a family of these keys.
    pub fn has_family_of(&self, encoded: &[u8]) -> bool {
        self.families & family_bit(encoded) != 0
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::key_codec;

    fn key() -> impl Strategy<Value = Vec<u8>> {
        let byte = prop_oneof![Just(0u8), Just(0xff), Just(b'a'), any::<u8>()];
        (prop_oneof![Just(""), Just("f"), Just("fg")], vec(byte, 0..40))
            .prop_map(|(family, key)| key_codec::prefix(family, &key))
    }

    proptest! {
        #[test]
        fn nothing_that_was_added_is_denied(
            parts in vec((vec(key(), 0..6), vec((key(), key()), 0..2)), 1..4),
            begin in key(),
            end in key(),
        ) {
            let hash = |key: &[u8]| hash_of(key);
            let mut whole = Summary::default();
            for (keys, ranges) in &parts {
                let mut part = Summary::default();
                keys.iter().for_each(|key| part.add_key(key, hash(key)));
                ranges.iter().filter(|(begin, end)| begin < end).for_each(|(begin, end)| part.add_range(begin, end));
                whole.merge(&part);
            }
            let keys = || parts.iter().flat_map(|(keys, _)| keys);
            let ranges = || parts.iter().flat_map(|(_, ranges)| ranges).filter(|(begin, end)| begin < end);
            for key in keys() {
                prop_assert!(whole.may_touch_key(key, hash(key)) && whole.has_family_of(key));
            }
            for (from, to) in ranges() {
                prop_assert!(whole.may_touch_key(from, hash(from)) && whole.has_family_of(from));
                prop_assert!(whole.may_touch_range(from, to));
            }
            if keys().any(|key| begin <= *key && *key < end)
                || ranges().any(|(from, to)| begin < *to && *from < end && begin < end)
            {
                prop_assert!(whole.may_touch_range(&begin, &end));
            }
        }
    }

    #[test]
    fn most_keys_that_were_not_added_are_denied() {
        let hash = |key: &[u8]| hash_of(key);
        let key = |number: u32| key_codec::prefix("", &number.to_be_bytes());
        let mut summary = Summary::default();
        (0..300).map(|number| key(2 * number)).for_each(|key| summary.add_key(&key, hash(&key)));
        let claimed = (0..300).map(|number| key(2 * number + 1)).filter(|key| summary.may_touch_key(key, hash(key)));
        assert!(claimed.count() < 60);
        assert!(!summary.may_touch_range(&key(600), &key(700)));
    }
}

//! Which key is next, and what its value is.
//!
//! Key number N is N in hexadecimal, padded on the left with zeros to the key's length. The value of a recorded key repeats
//! the key, so that a check needs only the key to know the value.

use std::time::{SystemTime, UNIX_EPOCH};

use super::LoadArgs;
use crate::failure::Failure;

/// Bits of a unique key's number that count; those above name the run, so that no run writes the keys of another.
const COUNTER_BITS: u32 = 36;

pub struct KeySpace {
    keys: u64,
    key_size: usize,
    random: SplitMix64,
    /// The next unique key; `None`: keys are random.
    next_unique: Option<u64>,
}

impl KeySpace {
    pub fn new(args: &LoadArgs) -> Result<Self, Failure> {
        let key_size = args.key_size as usize;
        let needed = if args.unique { 16 } else { hex_digits(args.keys - 1) };
        if key_size < needed {
            let what = if args.unique { "unique keys".to_string() } else { format!("{} keys", args.keys) };
            return Err(Failure::Usage(format!("--key-size {key_size}: {what} need at least {needed} bytes")));
        }
        // A clock before 1970 only makes for a less unlikely name.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let run = now.as_millis() as u64 & ((1 << (64 - COUNTER_BITS)) - 1);
        Ok(KeySpace {
            keys: args.keys,
            key_size,
            random: SplitMix64(now.as_nanos() as u64),
            next_unique: args.unique.then_some(run << COUNTER_BITS),
        })
    }

    pub fn next_number(&mut self) -> u64 {
        match &mut self.next_unique {
            Some(next) => {
                *next += 1;
                *next
            }
            None => self.random.next() % self.keys,
        }
    }

    /// A coin.
    pub fn flip(&mut self) -> bool {
        self.random.next() & 1 == 0
    }

    pub fn key_size(&self) -> usize {
        self.key_size
    }

    pub fn key(&self, number: u64) -> Vec<u8> {
        let mut key = vec![0; self.key_size];
        write_key(&mut key, number);
        key
    }
}

fn hex_digits(number: u64) -> usize {
    (64 - number.leading_zeros()).div_ceil(4).max(1) as usize
}

/// Writes key `number` over all of `place`.
pub fn write_key(place: &mut [u8], mut number: u64) {
    for byte in place.iter_mut().rev() {
        *byte = b"0123456789abcdef"[(number & 15) as usize];
        number >>= 4;
    }
}

/// Writes the value of a recorded key over all of `place`.
pub fn write_value_of(key: &[u8], place: &mut [u8]) {
    for chunk in place.chunks_mut(key.len()) {
        chunk.copy_from_slice(&key[..chunk.len()]);
    }
}

/// Bytes that do not compress, always the same.
pub fn noise(length: usize) -> Vec<u8> {
    let mut random = SplitMix64(7);
    let mut bytes: Vec<u8> = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        bytes.extend_from_slice(&random.next().to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// Steele, Lea, Flood: *Fast Splittable Pseudorandom Number Generators* (2014). Good enough to spread keys.
struct SplitMix64(u64);

impl SplitMix64 {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_its_number_in_hexadecimal_padded_with_zeros() {
        let mut key = [0; 6];
        write_key(&mut key, 0x1f);
        assert_eq!(&key, b"00001f");
    }

    #[test]
    fn digits_are_counted_for_the_largest_number() {
        assert_eq!([0, 15, 16, u64::MAX].map(hex_digits), [1, 1, 2, 16]);
    }

    #[test]
    fn the_value_of_a_key_repeats_it_to_any_length() {
        let mut value = [0; 7];
        write_value_of(b"abc", &mut value);
        assert_eq!(&value, b"abcabca");
    }
}

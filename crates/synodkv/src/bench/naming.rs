//! The keys of records, and values derived from keys.
//!
//! The key of record N is N in hexadecimal, padded on the left with zeros to the key's length; with
//! YCSB `user` and the hash of N in decimal, so that neighbours in the order of keys are strangers.
//! The value of a recorded key repeats the key, so that a check needs only the key to know the
//! value.

use super::distribution::fnv_hash;

/// Hexadecimal digits of a unique key's number.
pub const UNIQUE_DIGITS: usize = 16;
const YCSB_PREFIX: &[u8] = b"user";
/// Digits of the largest hash.
const YCSB_DIGITS: usize = 19;
pub const YCSB_KEY_BYTES: usize = YCSB_PREFIX.len() + YCSB_DIGITS;

/// The scheme of the records' keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Naming {
    Hexadecimal { key_size: usize },
    Ycsb,
}

impl Naming {
    pub fn key_size(self) -> usize {
        match self {
            Naming::Hexadecimal { key_size } => key_size,
            Naming::Ycsb => YCSB_KEY_BYTES,
        }
    }

    pub fn key(self, number: u64) -> Vec<u8> {
        let mut key = vec![0; self.key_size()];
        self.write_key(&mut key, number);
        key
    }

    /// Writes the key of record `number` over all of `place`.
    pub fn write_key(self, place: &mut [u8], number: u64) {
        match self {
            Naming::Hexadecimal { .. } => write_digits(place, number, 16),
            Naming::Ycsb => {
                let (prefix, digits) = place.split_at_mut(YCSB_PREFIX.len());
                prefix.copy_from_slice(YCSB_PREFIX);
                write_digits(digits, fnv_hash(number), 10);
            }
        }
    }
}

/// Fills `place` with the last digits of `number`.
fn write_digits(place: &mut [u8], mut number: u64, base: u64) {
    for byte in place.iter_mut().rev() {
        *byte = b"0123456789abcdef"[(number % base) as usize];
        number /= base;
    }
}

/// Writes the value of a recorded key over all of `place`.
pub fn write_value_of(key: &[u8], place: &mut [u8]) {
    for chunk in place.chunks_mut(key.len()) {
        chunk.copy_from_slice(&key[..chunk.len()]);
    }
}

pub fn hex_digits(number: u64) -> usize {
    (64 - number.leading_zeros()).div_ceil(4).max(1) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_its_number_in_hexadecimal_padded_with_zeros() {
        assert_eq!(Naming::Hexadecimal { key_size: 6 }.key(0x1f), b"00001f");
    }

    #[test]
    fn a_key_of_ycsb_is_user_and_the_hash_of_its_number() {
        assert_eq!(Naming::Ycsb.key(0), b"user6284781860667377211");
        assert_eq!(Naming::Ycsb.key(1), b"user8517097267634966620");
        assert_eq!(Naming::Ycsb.key(7).len(), Naming::Ycsb.key_size());
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

//! Keys and values as callers have them, and positions between keys.

use bytes::Bytes;

/// Lies behind every key of a server with the default limits: no key is longer.
pub(crate) const END_OF_KEYS: Bytes = Bytes::from_static(&[0xFF; 10_000]);

/// What can be a key, a value or an operand. What is owned is moved, what is borrowed is copied.
pub trait IntoBytes {
    fn into_bytes(self) -> Bytes;
}

macro_rules! moved {
    ($($owned:ty),*) => {
        $(impl IntoBytes for $owned {
            fn into_bytes(self) -> Bytes {
                Bytes::from(self)
            }
        })*
    };
}

macro_rules! copied {
    ($($borrowed:ty),*) => {
        $(impl IntoBytes for $borrowed {
            fn into_bytes(self) -> Bytes {
                Bytes::copy_from_slice(self.as_ref())
            }
        })*
    };
}

moved!(String, Vec<u8>, Bytes);
copied!(&str, &String, &[u8], &Vec<u8>);

impl IntoBytes for &Bytes {
    fn into_bytes(self) -> Bytes {
        self.clone()
    }
}

impl<const N: usize> IntoBytes for [u8; N] {
    fn into_bytes(self) -> Bytes {
        Bytes::copy_from_slice(&self)
    }
}

impl<const N: usize> IntoBytes for &[u8; N] {
    fn into_bytes(self) -> Bytes {
        Bytes::copy_from_slice(self)
    }
}

/// The first possible key after `key`.
pub(crate) fn key_after(key: &[u8]) -> Bytes {
    let mut after = Vec::with_capacity(key.len() + 1);
    after.extend_from_slice(key);
    after.push(0);
    after.into()
}

/// Whether `end` is the first possible key after `begin`: the range holds one key at most.
pub(crate) fn holds_one_key(begin: &[u8], end: &[u8]) -> bool {
    end.len() == begin.len() + 1 && end.last() == Some(&0) && end.starts_with(begin)
}

/// The end of the range of all keys that begin with `prefix`.
///
/// ```
/// assert_eq!(kv_client::prefix_end("jobs/"), "jobs0");
/// ```
pub fn prefix_end(prefix: impl IntoBytes) -> Bytes {
    let prefix = prefix.into_bytes();
    // Trailing 0xFF cannot grow; what is left of them can.
    match prefix.iter().rposition(|byte| *byte != 0xFF) {
        Some(last) => {
            let mut end = prefix[..=last].to_vec();
            end[last] += 1;
            end.into()
        }
        None => END_OF_KEYS,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_prefix_lies_behind_all_its_keys_and_before_all_others() {
        assert_eq!(prefix_end("a"), "b");
        assert_eq!(prefix_end([b'a', 0xFF]), "b");
        assert_eq!(prefix_end([0xFF, 0xFF]), END_OF_KEYS);
        assert_eq!(prefix_end(""), END_OF_KEYS);
    }

    #[test]
    fn a_range_of_one_key_is_recognised() {
        assert!(holds_one_key(b"k", &key_after(b"k")));
        assert!(!holds_one_key(b"k", b"l"));
        assert!(!holds_one_key(b"k", b"k\x01"));
        assert!(!holds_one_key(b"k", b"k\0\0"));
    }
}

//! Conversion of keys and values to bytes, and positions between keys.

use std::sync::LazyLock;

use bytes::Bytes;

/// The largest value of `limits.max_key_bytes` that a server's configuration accepts.
const LONGEST_KEY_BYTES: usize = 1 << 20;

/// A position after every key of every server. Before it is sent, `KnownLimits::bound` shortens it
/// to the length that the server's own limit requires.
pub(crate) fn end_of_keys() -> Bytes {
    static END: LazyLock<Bytes> = LazyLock::new(|| vec![0xFF; LONGEST_KEY_BYTES + 1].into());
    END.clone()
}

/// A key, a value or an operand. Owned data is moved and borrowed data is copied.
pub trait IntoBytes {
    /// The data as [`Bytes`].
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

/// Whether `end` is the first possible key after `begin`, so that the range contains only `begin`.
pub(crate) fn holds_one_key(begin: &[u8], end: &[u8]) -> bool {
    end.len() == begin.len() + 1 && end.last() == Some(&0) && end.starts_with(begin)
}

/// The end of the range of all keys that begin with `prefix`: the first possible key after them.
///
/// There is no such key if the prefix is empty or consists of `0xFF` bytes. The result then is
/// longer than every key, and this client sends no more of it than the server needs.
///
/// ```
/// assert_eq!(kv_client::prefix_end("jobs/"), "jobs0");
/// ```
pub fn prefix_end(prefix: impl IntoBytes) -> Bytes {
    let prefix = prefix.into_bytes();
    // A trailing 0xFF cannot be incremented; the last byte before it can.
    match prefix.iter().rposition(|byte| *byte != 0xFF) {
        Some(last) => {
            let mut end = prefix[..=last].to_vec();
            end[last] += 1;
            end.into()
        }
        None => end_of_keys(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_prefix_sorts_after_its_keys_and_before_all_later_ones() {
        assert_eq!(prefix_end("a"), "b");
        assert_eq!(prefix_end([b'a', 0xFF]), "b");
        assert_eq!(prefix_end([0xFF, 0xFF]), end_of_keys());
        assert_eq!(prefix_end(""), end_of_keys());
    }

    #[test]
    fn a_range_of_one_key_is_recognised() {
        assert!(holds_one_key(b"k", &key_after(b"k")));
        assert!(!holds_one_key(b"k", b"l"));
        assert!(!holds_one_key(b"k", b"k\x01"));
        assert!(!holds_one_key(b"k", b"k\0\0"));
    }
}

//! The encoding of keys and values in the data table.
//!
//! ```text
//! key   = family length (u8) | family name | escaped user key | 00 00 | inverted version (u64, big-endian)
//! value = 00 | the value            a value
//!       = 01                        a tombstone: deleted at this version
//! ```
//! In an escaped user key each `00` byte is followed by `FF`. So encoded keys sort by family, then
//! user key, then version from newest to oldest; no key's prefix (everything but the version) is a
//! prefix of another's; and all versions of one user key are adjacent. The default family is the
//! empty name.

use bytes::Bytes;
use kv_api::KvError;

/// Longest family name, in bytes.
pub const MAX_FAMILY_BYTES: usize = u8::MAX as usize;

/// Sorts after every key: a family name of 255 bytes is UTF-8, which never holds 0xFF.
pub const END: [u8; 2] = [0xff; 2];

const VERSION_BYTES: usize = 8;
const ESCAPE: [u8; 2] = [0x00, 0xff];
const TERMINATOR: [u8; 2] = [0x00, 0x00];
/// Replaces the terminator to sort after every version of the key and before every other key.
const AFTER_TERMINATOR: u8 = 0x01;

const VALUE_TAG: u8 = 0;
const TOMBSTONE_TAG: u8 = 1;

/// Refuses a family name that is too long to be encoded.
///
/// # Errors
/// [`KvError::InvalidOperation`].
pub fn check_family(family: &str) -> Result<(), KvError> {
    if family.len() <= MAX_FAMILY_BYTES {
        return Ok(());
    }
    Err(KvError::InvalidOperation(format!(
        "column family name of {} bytes is longer than the limit of {MAX_FAMILY_BYTES} bytes",
        family.len()
    )))
}

/// Appends what all keys of a family begin with. The name has passed [`check_family`].
fn push_family(into: &mut Vec<u8>, family: &str) {
    let length = u8::try_from(family.len()).expect("family names are checked before they are encoded");
    into.push(length);
    into.extend_from_slice(family.as_bytes());
}

/// Sets `into` to the prefix of a key: its encoding without the version. The name has passed
/// [`check_family`].
pub fn set_prefix(into: &mut Vec<u8>, family: &str, user_key: &[u8]) {
    into.clear();
    push_family(into, family);
    let mut rest = user_key;
    while let Some(zero) = rest.iter().position(|byte| *byte == 0) {
        into.extend_from_slice(&rest[..zero]);
        into.extend_from_slice(&ESCAPE);
        rest = &rest[zero + 1..];
    }
    into.extend_from_slice(rest);
    into.extend_from_slice(&TERMINATOR);
}

/// The prefix of a key; see [`set_prefix`].
pub fn prefix(family: &str, user_key: &[u8]) -> Vec<u8> {
    let mut into = Vec::with_capacity(1 + family.len() + user_key.len() + TERMINATOR.len() + VERSION_BYTES);
    set_prefix(&mut into, family, user_key);
    into
}

/// Sorts after every key of the family and before those of the next.
pub fn family_end(family: &str) -> Vec<u8> {
    let mut end = Vec::with_capacity(1 + family.len());
    push_family(&mut end, family);
    // A length of 255 is followed by a name, whose UTF-8 never holds 0xFF: the last byte can always
    // be raised.
    *end.last_mut().expect("the length byte is there") += 1;
    end
}

/// The encoding of a version: newer ones sort first.
pub fn version_suffix(version: u64) -> [u8; VERSION_BYTES] {
    (!version).to_be_bytes()
}

/// Sets `into` to the key of `version` of the key that `prefix` belongs to. A seek there finds the
/// newest version that is not newer.
pub fn set_versioned(into: &mut Vec<u8>, prefix: &[u8], version: u64) {
    into.clear();
    into.extend_from_slice(prefix);
    into.extend_from_slice(&version_suffix(version));
}

/// Sets `into` to a key that sorts after all versions of the key that `prefix` belongs to.
pub fn set_after(into: &mut Vec<u8>, prefix: &[u8]) {
    into.clear();
    into.extend_from_slice(prefix);
    *into.last_mut().expect("a prefix ends with a terminator") = AFTER_TERMINATOR;
}

/// Length of the prefix that `encoded` begins with; `None` when it begins with none.
pub fn prefix_length(encoded: &[u8]) -> Option<usize> {
    let mut at = 1 + usize::from(*encoded.first()?);
    loop {
        at += encoded.get(at..)?.iter().position(|byte| *byte == 0)?;
        match encoded.get(at + 1)? {
            0x00 => return Some(at + 2),
            _ => at += 2,
        }
    }
}

/// Splits a key of the data table into its prefix and version.
///
/// # Errors
/// [`KvError::Corruption`] when it is no such key.
pub fn split(encoded: &[u8]) -> Result<(&[u8], u64), KvError> {
    let (prefix, inverted) = encoded.split_last_chunk::<VERSION_BYTES>().ok_or_else(|| damaged(encoded))?;
    if !prefix.ends_with(&TERMINATOR) {
        return Err(damaged(encoded));
    }
    Ok((prefix, !u64::from_be_bytes(*inverted)))
}

/// The user key in a prefix.
///
/// # Errors
/// [`KvError::Corruption`] when it is no prefix.
pub fn user_key(prefix: &[u8]) -> Result<Bytes, KvError> {
    let family_bytes = 1 + usize::from(*prefix.first().ok_or_else(|| damaged(prefix))?);
    let escaped = prefix.get(family_bytes..).and_then(|rest| rest.strip_suffix(&TERMINATOR));
    unescape(escaped.ok_or_else(|| damaged(prefix))?).ok_or_else(|| damaged(prefix))
}

/// The family name in a prefix.
///
/// # Errors
/// [`KvError::Corruption`] when it is no prefix.
pub fn family(prefix: &[u8]) -> Result<&str, KvError> {
    let (length, rest) = prefix.split_first().ok_or_else(|| damaged(prefix))?;
    let name = rest.get(..usize::from(*length)).ok_or_else(|| damaged(prefix))?;
    std::str::from_utf8(name).map_err(|_| damaged(prefix))
}

fn unescape(escaped: &[u8]) -> Option<Bytes> {
    if !escaped.contains(&0) {
        return Some(Bytes::copy_from_slice(escaped));
    }
    let mut key = Vec::with_capacity(escaped.len());
    let mut rest = escaped;
    while let Some(zero) = rest.iter().position(|byte| *byte == 0) {
        key.extend_from_slice(&rest[..=zero]);
        rest = rest[zero..].strip_prefix(&ESCAPE)?;
    }
    key.extend_from_slice(rest);
    Some(key.into())
}

/// The stored form of a row, in two parts: a tag, and the value, which is empty for a tombstone.
pub fn row_parts(value: Option<&[u8]>) -> [&[u8]; 2] {
    match value {
        Some(value) => [&[VALUE_TAG], value],
        None => [&[TOMBSTONE_TAG], &[]],
    }
}

/// Decodes a stored row; `None` is a tombstone.
///
/// # Errors
/// [`KvError::Corruption`] when it has no valid tag.
pub fn row_value(stored: &[u8]) -> Result<Option<&[u8]>, KvError> {
    match stored.split_first() {
        Some((&VALUE_TAG, value)) => Ok(Some(value)),
        Some((&TOMBSTONE_TAG, [])) => Ok(None),
        _ => Err(KvError::Corruption(format!("a stored row of {} bytes has no valid tag", stored.len()))),
    }
}

fn damaged(encoded: &[u8]) -> KvError {
    KvError::Corruption(format!("a stored key of {} bytes is not laid out as keys are", encoded.len()))
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    /// Keys rich in the bytes that the encoding treats specially.
    fn tricky_key() -> impl Strategy<Value = Vec<u8>> {
        vec(prop_oneof![Just(0x00), Just(0x01), Just(0xff), any::<u8>()], 0..12)
    }

    fn family_name() -> impl Strategy<Value = String> {
        prop_oneof![Just(String::new()), "[a-c\0]{0,3}", Just("x".repeat(255))]
    }

    fn encoded(family: &str, key: &[u8], version: u64) -> Vec<u8> {
        let mut into = Vec::new();
        set_versioned(&mut into, &prefix(family, key), version);
        into
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(name in family_name(), key in tricky_key(), version: u64) {
            let stored = encoded(&name, &key, version);
            let (start, decoded_version) = split(&stored).unwrap();
            prop_assert_eq!(decoded_version, version);
            prop_assert_eq!(user_key(start).unwrap(), Bytes::from(key));
            prop_assert_eq!(family(start).unwrap(), &name);
            prop_assert_eq!(prefix_length(&stored), Some(start.len()));
            prop_assert_eq!(prefix_length(start), Some(start.len()));
        }

        #[test]
        fn encoded_keys_order_by_key_then_newest_version_first(
            a in tricky_key(), b in tricky_key(), version_a: u64, version_b: u64,
        ) {
            let expected = a.cmp(&b).then(version_b.cmp(&version_a));
            prop_assert_eq!(encoded("f", &a, version_a).cmp(&encoded("f", &b, version_b)), expected);
        }

        #[test]
        fn families_lie_apart(a in family_name(), b in family_name(), key in tricky_key(), version: u64) {
            let stored = encoded(&a, &key, version);
            let inside = stored >= prefix(&b, b"") && stored < family_end(&b);
            prop_assert_eq!(inside, a == b);
            prop_assert!(stored.as_slice() < END.as_slice());
        }

        #[test]
        fn the_position_after_a_key_is_before_the_next(a in tricky_key(), b in tricky_key(), version: u64) {
            let mut after = Vec::new();
            set_after(&mut after, &prefix("", &a));
            prop_assert_eq!(encoded("", &b, version) < after, b <= a);
        }

        #[test]
        fn damaged_keys_never_panic(stored in vec(any::<u8>(), 0..20)) {
            let _ = (prefix_length(&stored), user_key(&stored), family(&stored), row_value(&stored));
            if let Ok((start, _)) = split(&stored) {
                let _ = user_key(start);
            }
        }
    }

    #[test]
    fn a_family_name_that_fits_no_length_byte_is_refused() {
        assert_eq!(check_family(&"x".repeat(255)), Ok(()));
        let error = check_family(&"x".repeat(256)).unwrap_err();
        assert!(error.to_string().contains("256 bytes"), "{error}");
    }
}

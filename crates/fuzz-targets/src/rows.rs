//! Keys and values as they lie in the database.

use kv_store::key_codec::{family, prefix, prefix_length, row_value, set_versioned, split, user_key};

/// Decoding accepts exactly the keys that encoding makes: no two stored keys are the same row.
pub fn key(stored: &[u8]) {
    let _value = row_value(stored);
    let _length = prefix_length(stored);
    let Ok((stored_prefix, version)) = split(stored) else { return };
    let (Ok(family), Ok(key)) = (family(stored_prefix), user_key(stored_prefix)) else { return };
    let mut again = Vec::new();
    set_versioned(&mut again, &prefix(family, &key), version);
    assert_eq!(again, stored, "family {family:?}, key {key:?}, version {version}");
    assert_eq!(prefix_length(stored), Some(stored_prefix.len()));
}

pub fn seeds() -> Vec<Vec<u8>> {
    let rows = [("", &b""[..], 1), ("", b"key", 2), ("family", b"\0zero\0\xff", u64::MAX), ("f", b"\0\0", 1 << 40)];
    let stored = rows.map(|(family, key, version)| {
        let mut stored = Vec::new();
        set_versioned(&mut stored, &prefix(family, key), version);
        stored
    });
    stored.into()
}

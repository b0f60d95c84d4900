//! Superseded values: those in the data table that a newer version hides from every reader.
//!
//! With a watermark F every read is at a version >= F, and finds the newest version of each key up
//! to its own. So among the versions of a key up to F only the newest can be found, and the other
//! values may be dropped. Tombstones stay: each has a GC entry, and is removed by
//! [`crate::gc::step`], which relies on finding it. The newest version stays even where a range
//! clear hides it: collecting the clear counts it.
//!
//! Because of that count, F must be below every range clear that is not collected yet; see
//! [`crate::gc::step::filter_watermark`].
//!
//! Engines use this when they rewrite persisted data. Damaged entries stay, so that readers find
//! the damage.

use crate::key_codec;

/// Decides for each entry of the data table whether it may be dropped. Entries must come in order;
/// some may be left out.
pub(crate) struct Superseded {
    watermark: u64,
    /// Prefix of the last entry.
    prefix: Vec<u8>,
    /// The newest version of that key up to the watermark, once it has come.
    newest: Option<u64>,
}

impl Superseded {
    /// With a watermark of 0 nothing may be dropped.
    pub fn new(watermark: u64) -> Self {
        Superseded { watermark, prefix: Vec::new(), newest: None }
    }

    /// Whether this entry may be dropped. Only an entry that came before, and stays, makes another
    /// superseded: an entry that the engine leaves out costs space and nothing else.
    pub fn may_drop(&mut self, key: &[u8], stored: &[u8]) -> bool {
        if self.watermark == 0 {
            return false;
        }
        let (Ok((prefix, version)), Ok(value)) = (key_codec::split(key), key_codec::row_value(stored)) else {
            return false;
        };
        if prefix != self.prefix {
            self.prefix.clear();
            self.prefix.extend_from_slice(prefix);
            self.newest = None;
        }
        match self.newest {
            Some(newest) => version < newest && value.is_some(),
            None => {
                self.newest = (version <= self.watermark).then_some(version);
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::collection::btree_map;
    use proptest::prelude::*;

    use super::*;

    type Entries = BTreeMap<Vec<u8>, Vec<u8>>;

    fn entry(key: &str, version: u64, value: Option<&str>) -> (Vec<u8>, Vec<u8>) {
        let mut encoded = Vec::new();
        key_codec::set_versioned(&mut encoded, &key_codec::prefix("", key.as_bytes()), version);
        (encoded, key_codec::row_parts(value.map(str::as_bytes)).concat())
    }

    fn filtered(entries: &Entries, watermark: u64) -> Entries {
        let mut filter = Superseded::new(watermark);
        entries
            .iter()
            .filter(|(key, stored)| !filter.may_drop(key, stored))
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect()
    }

    /// The entry that a read finds.
    fn found(entries: &Entries, key: &str, version: u64) -> Option<(Vec<u8>, Vec<u8>)> {
        let (from, _) = entry(key, version, None);
        let next =
            entries.range(from..).next().filter(|(at, _)| at.starts_with(&key_codec::prefix("", key.as_bytes())));
        next.map(|(k, v)| (k.clone(), v.clone()))
    }

    /// Many versions of few keys; one version in three is a tombstone.
    fn entries() -> impl Strategy<Value = Entries> {
        btree_map(("[ab]{1,2}", 1..20_u64), 0..3_u8, 0..40).prop_map(|all| {
            let value = |kind: u8| (kind > 0).then_some("value");
            all.into_iter().map(|((key, version), kind)| entry(&key, version, value(kind))).collect()
        })
    }

    proptest! {
        #[test]
        fn values_found_from_the_watermark_on_stay_and_else_only_tombstones_do(
            entries in entries(), watermark in 0..22_u64,
        ) {
            let left = filtered(&entries, watermark);
            let keys = ["a", "b", "aa", "ab", "ba", "bb"];
            let mut needed = Entries::new();
            for (key, version) in keys.iter().flat_map(|key| (watermark..22).map(move |version| (key, version))) {
                let before = found(&entries, key, version);
                prop_assert_eq!(&found(&left, key, version), &before);
                needed.extend(before);
            }
            let is_tombstone = |stored: &[u8]| key_codec::row_value(stored).unwrap().is_none();
            let dropped_all = left.iter().all(|(key, stored)| needed.contains_key(key) || is_tombstone(stored));
            let tombstones = entries.iter().filter(|(_, stored)| is_tombstone(stored)).count();
            prop_assert_eq!(left.values().filter(|stored| is_tombstone(stored)).count(), tombstones);
            prop_assert!(watermark == 0 || dropped_all);
            if watermark == 0 {
                prop_assert_eq!(left, entries);
            }
        }

        #[test]
        fn an_engine_that_leaves_out_entries_drops_nothing_that_is_needed(
            entries in entries(), watermark in 1..22_u64, shown in any::<u64>(),
        ) {
            let mut filter = Superseded::new(watermark);
            let mut left = Entries::new();
            for (place, (key, stored)) in entries.iter().enumerate() {
                if shown & (1 << (place % 64)) == 0 || !filter.may_drop(key, stored) {
                    left.insert(key.clone(), stored.clone());
                }
            }
            for (key, version) in ["a", "b", "aa", "ab"].iter().flat_map(|key| (watermark..22).map(move |v| (key, v))) {
                prop_assert_eq!(found(&left, key, version), found(&entries, key, version));
            }
        }

        #[test]
        fn damaged_entries_stay_and_cause_no_drop(key: Vec<u8>, stored: Vec<u8>) {
            let mut filter = Superseded::new(u64::MAX);
            let (older, value) = entry("k", 5, Some("v"));
            prop_assert!(!filter.may_drop(&entry("k", 9, None).0, &[7]));
            prop_assert!(!filter.may_drop(&key, &stored));
            prop_assert!(!filter.may_drop(&older, &value));
        }
    }
}

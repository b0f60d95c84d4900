//! A cache of rows that were read, so that reading a popular key again needs no engine.
//!
//! An entry says: at version `as_of` the newest visible version of this key is `version`, with this
//! value. That stays true for ever. It also answers a read at
//! - an older version `v >= version`: nothing between the two was visible at `as_of`;
//! - a newer version, if since `as_of` nobody has written the key or cleared a range.
//!
//! So nothing is ever removed from the cache because of a write. The writer only notes the version
//! of the newest write to each *stripe* of keys (keys whose hashes agree in some bits), and of the
//! newest range clear. An entry whose stripe, or any range, was written after `as_of` no longer
//! answers newer reads.
//!
//! Invariant: a version is noted before it is published. So a reader at a published version sees
//! every note up to it, and a note above it only makes the reader ask the engine.

use std::hash::{BuildHasherDefault, Hash, Hasher};
use std::sync::atomic::Ordering;

use bytes::Bytes;
use quick_cache::sync::Cache;
use quick_cache::{Equivalent, Weighter};

use crate::sync::AtomicU64;

/// Memory of an entry besides key and value: that of the cache's tables, and of two allocations.
const ENTRY_OVERHEAD_BYTES: u64 = 160;

/// One stripe for this many bytes of the cache.
const BYTES_PER_STRIPE: usize = 256;
const MAX_STRIPES: usize = 1 << 18;

/// A larger row is not kept: it would drive many small ones out, and gains the least.
const MAX_ROW_BYTES: usize = 16 << 10;

/// See the module's documentation. A cache of 0 bytes keeps nothing.
pub(crate) struct RowCache {
    rows: Option<Cache<Key, Entry, Weight, BuildHasherDefault<Given>>>,
    /// The version of the newest write to a key of each stripe. Their number is a power of two.
    stripes: Box<[AtomicU64]>,
    /// The version of the newest range clear.
    cleared: AtomicU64,
}

/// A key in the encoding of [`crate::key_codec`], family included.
struct Key {
    hash: u64,
    prefix: Box<[u8]>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    /// The version of the value; for a key without a value `as_of`, because it may have had one
    /// before.
    version: u64,
    value: Option<Bytes>,
    as_of: u64,
}

/// What to look up: a key and its hash.
#[derive(Clone, Copy)]
pub(crate) struct Wanted<'a> {
    pub hash: u64,
    pub prefix: &'a [u8],
}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

impl Hash for Wanted<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.prefix == other.prefix
    }
}

impl Eq for Key {}

impl Equivalent<Key> for Wanted<'_> {
    fn equivalent(&self, key: &Key) -> bool {
        *self.prefix == *key.prefix
    }
}

/// Takes over the hash that a key brings along.
#[derive(Default)]
struct Given(u64);

impl Hasher for Given {
    fn write(&mut self, _: &[u8]) {
        unreachable!("keys hash as one number");
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[derive(Clone)]
struct Weight;

impl Weighter<Key, Entry> for Weight {
    fn weight(&self, key: &Key, entry: &Entry) -> u64 {
        let value = entry.value.as_ref().map_or(0, Bytes::len);
        key.prefix.len() as u64 + value as u64 + ENTRY_OVERHEAD_BYTES
    }
}

impl RowCache {
    /// A cache of about `bytes`, the versions of stripes not included, which take a thirtieth more.
    /// Nothing is known about writes up to `version`, the newest one now.
    pub fn new(bytes: usize, version: u64) -> Self {
        let entries = bytes / (2 * ENTRY_OVERHEAD_BYTES as usize);
        let rows =
            (entries > 0).then(|| Cache::with(entries, bytes as u64, Weight, Default::default(), Default::default()));
        let stripes = (bytes / BYTES_PER_STRIPE).next_power_of_two().min(MAX_STRIPES);
        RowCache {
            rows,
            stripes: (0..stripes).map(|_| AtomicU64::new(version)).collect(),
            cleared: AtomicU64::new(version),
        }
    }

    /// The answer to a read at `version`, which is published: the visible value, or `Some(None)` if
    /// there is none. `None`: unknown.
    pub fn get(&self, key: Wanted<'_>, version: u64) -> Option<Option<Bytes>> {
        let entry = self.rows.as_ref()?.get(&key)?;
        let is_answer = entry.version <= version && (version <= entry.as_of || !self.is_changed(key.hash, entry.as_of));
        is_answer.then_some(entry.value)
    }

    /// Keeps what a read at `as_of` found: the visible value and its version, or `None`.
    pub fn put(&self, key: Wanted<'_>, found: Option<(u64, Bytes)>, as_of: u64) {
        let Some(rows) = &self.rows else { return };
        let bytes = key.prefix.len() + found.as_ref().map_or(0, |(_, value)| value.len());
        // An entry that is outdated already would answer only older reads.
        if bytes > MAX_ROW_BYTES || self.is_changed(key.hash, as_of) {
            return;
        }
        let (version, value) = found.map_or((as_of, None), |(version, value)| (version, Some(value)));
        rows.insert(Key { hash: key.hash, prefix: key.prefix.into() }, Entry { version, value, as_of });
    }

    /// Notes a write to a key, before its version is published. Versions never go back.
    pub fn note_write(&self, hash: u64, version: u64) {
        self.stripe(hash).store(version, Ordering::Relaxed);
    }

    /// Notes a range clear, before its version is published.
    pub fn note_clear(&self, version: u64) {
        self.cleared.store(version, Ordering::Relaxed);
    }

    /// Whether the key may have changed after `as_of`. Relaxed loads suffice: the caller has read a
    /// published version before.
    fn is_changed(&self, hash: u64, as_of: u64) -> bool {
        self.stripe(hash).load(Ordering::Relaxed) > as_of || self.cleared.load(Ordering::Relaxed) > as_of
    }

    fn stripe(&self, hash: u64) -> &AtomicU64 {
        // Other bits than those by which the cache finds the place of an entry.
        &self.stripes[(hash >> 20) as usize & (self.stripes.len() - 1)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: Wanted<'static> = Wanted { hash: 7 << 20, prefix: b"key" };

    fn value(text: &'static str) -> Option<Bytes> {
        Some(Bytes::from_static(text.as_bytes()))
    }

    /// A cache that knows from a read at version 10 that the value is of version 5.
    fn cache() -> RowCache {
        let cache = RowCache::new(100_000, 0);
        cache.put(KEY, Some((5, Bytes::from_static(b"value"))), 10);
        cache
    }

    #[test]
    fn an_entry_answers_reads_from_its_version_on() {
        let cache = cache();
        assert_eq!(
            [4, 5, 10, 11].map(|version| cache.get(KEY, version)),
            [None, Some(value("value")), Some(value("value")), Some(value("value"))]
        );
        assert_eq!(cache.get(Wanted { prefix: b"other", ..KEY }, 10), None);
    }

    #[test]
    fn after_a_write_to_the_key_an_entry_answers_only_reads_up_to_its_own() {
        for note in [|cache: &RowCache, version| cache.note_write(KEY.hash, version), RowCache::note_clear] {
            let cache = cache();
            note(&cache, 10);
            assert_eq!(cache.get(KEY, 11), Some(value("value")), "what was read then includes version 10");
            note(&cache, 11);
            assert_eq!([10, 11, 12].map(|version| cache.get(KEY, version)), [Some(value("value")), None, None]);
        }
    }

    #[test]
    fn a_new_cache_knows_nothing_about_earlier_writes() {
        let cache = RowCache::new(100_000, 11);
        cache.put(KEY, Some((5, Bytes::from_static(b"value"))), 10);
        assert_eq!([10, 11].map(|version| cache.get(KEY, version)), [None, None]);
        cache.put(KEY, Some((5, Bytes::from_static(b"value"))), 11);
        assert_eq!(cache.get(KEY, 12), Some(value("value")));
    }

    #[test]
    fn a_write_to_another_stripe_changes_nothing() {
        let cache = cache();
        cache.note_write(8 << 20, 11);
        assert_eq!(cache.get(KEY, 11), Some(value("value")));
    }

    #[test]
    fn a_key_without_a_value_may_have_had_one_before() {
        let cache = RowCache::new(100_000, 0);
        cache.put(KEY, None, 10);
        assert_eq!([9, 10, 11].map(|version| cache.get(KEY, version)), [None, Some(None), Some(None)]);
        cache.note_write(KEY.hash, 11);
        assert_eq!(cache.get(KEY, 11), None);
    }

    #[test]
    fn what_was_outdated_before_it_came_is_not_kept() {
        let cache = RowCache::new(100_000, 0);
        cache.note_write(KEY.hash, 11);
        cache.put(KEY, Some((5, Bytes::from_static(b"value"))), 10);
        assert_eq!(cache.get(KEY, 10), None);
        cache.put(KEY, Some((11, Bytes::from_static(b"newer"))), 11);
        assert_eq!(cache.get(KEY, 12), Some(value("newer")));
    }

    #[test]
    fn large_rows_and_any_row_of_a_cache_without_memory_are_not_kept() {
        let cache = RowCache::new(1 << 20, 0);
        let row = |bytes| Some((5, Bytes::from(vec![0; bytes])));
        cache.put(KEY, row(MAX_ROW_BYTES - KEY.prefix.len() + 1), 10);
        assert_eq!(cache.get(KEY, 10), None);
        cache.put(KEY, row(MAX_ROW_BYTES - KEY.prefix.len()), 10);
        assert!(cache.get(KEY, 10).is_some());
        let none = RowCache::new(0, 0);
        none.put(KEY, row(1), 10);
        assert_eq!(none.get(KEY, 10), None);
    }

    #[test]
    fn memory_is_bounded() {
        let cache = RowCache::new(100_000, 0);
        for number in 0..10_000_u64 {
            let prefix = number.to_be_bytes();
            let hash = xxhash_rust::xxh3::xxh3_64(&prefix);
            cache.put(Wanted { hash, prefix: &prefix }, Some((5, Bytes::from_static(&[0; 100]))), 10);
        }
        let rows = cache.rows.as_ref().unwrap();
        assert!(rows.weight() <= 100_000 && rows.len() > 100, "{} rows, {} bytes", rows.len(), rows.weight());
    }
}

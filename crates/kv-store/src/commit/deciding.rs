//! The state of one batch while it is decided: reads of the current state, and the changes that
//! commits make to it.

use bytes::Bytes;
use kv_api::{ClearCause, KvError};

use super::conflict_index::NewestWrite;
use super::known_keys::{self, KeyHash};
use super::state_machine::StateMachine;
use crate::engine::{Cursor, Engine, Table, WriteBatch};
use crate::gc::entries;
use crate::gc::range_clears::RangeClear;
use crate::journal::Effects;
use crate::key_codec;
use crate::read::scan;

/// A version and its value.
type NewestEntry<'v> = (u64, Option<&'v [u8]>);

/// Looks up single keys in the engine, with one cursor that is made when it is first needed.
pub(crate) struct Lookup<'e> {
    pub engine: &'e dyn Engine,
    cursor: Option<Box<dyn Cursor + 'e>>,
    scratch: Vec<u8>,
}

impl<'e> Lookup<'e> {
    fn new(engine: &'e dyn Engine) -> Self {
        Lookup { engine, cursor: None, scratch: Vec::new() }
    }

    /// The newest version of a key in the engine, and its value: `None` for a tombstone.
    pub fn newest(&mut self, prefix: &[u8]) -> Result<Option<NewestEntry<'_>>, KvError> {
        if self.cursor.is_none() {
            self.cursor = Some(self.engine.key_cursor()?);
        }
        let cursor = self.cursor.as_mut().expect("it was just made");
        let found = scan::newest_at(cursor.as_mut(), prefix, u64::MAX, &mut self.scratch)?;
        Ok(found.map(|entry| (entry.version, entry.value)))
    }
}

/// One batch while it is decided. Its methods return the storage's errors as errors, and refusals
/// as verdicts.
pub(crate) struct Deciding<'a, 'e> {
    pub state: &'a mut StateMachine,
    pub lookup: Lookup<'e>,
    pub batch: &'a mut WriteBatch,
    /// The same effects, for the journal.
    pub effects: &'a mut Effects,
    /// The newest version before the batch. Newer versions are in `batch` and not in the engine.
    pub before: u64,
    /// GC entries that the current commit has written: the number of the next one.
    pub gc_entries: u32,
    /// Whether the window's time samples differ from the stored ones.
    pub samples_changed: bool,
    /// Scratch memory for an encoded key.
    pub prefix: Vec<u8>,
}

impl<'a, 'e> Deciding<'a, 'e> {
    /// Begins a batch.
    pub fn new(
        state: &'a mut StateMachine,
        engine: &'e dyn Engine,
        batch: &'a mut WriteBatch,
        effects: &'a mut Effects,
    ) -> Self {
        let before = state.counters.version;
        let lookup = Lookup::new(engine);
        Deciding { state, lookup, batch, effects, before, gc_entries: 0, samples_changed: false, prefix: Vec::new() }
    }
}

impl Deciding<'_, '_> {
    /// Counts a version. What is written and cleared from now on belongs to it.
    pub fn next_version(&mut self) -> u64 {
        self.state.counters.version += 1;
        let version = self.state.counters.version;
        self.effects.begin(version, self.state.window.time_us());
        version
    }

    /// Writes a version of a key: a value, or a tombstone for `None`.
    pub fn write(&mut self, prefix: &[u8], value: Option<&[u8]>) -> Result<(), KvError> {
        let hash = known_keys::hash(prefix);
        let existed = self.exists(prefix, hash)?;
        let exists = value.is_some();
        self.effects.write(prefix, hash.short(), value);
        self.state.known_keys.set(hash, exists);
        match (existed, exists) {
            (false, true) => self.state.counters.rows += 1,
            // Saturating, because `existed` may be wrong when two keys share a hash: see
            // `known_keys`.
            (true, false) => self.state.counters.rows = self.state.counters.rows.saturating_sub(1),
            _ => {}
        }
        let version = self.state.counters.version;
        self.state.row_cache.note_write(hash.short(), version);
        let entry = self.batch.put_parts(
            Table::Data,
            &[prefix, &key_codec::version_suffix(version)],
            &key_codec::row_parts(value),
        );
        if !exists {
            entries::put_key_tombstone(self.batch, version, self.gc_entries, prefix);
            self.gc_entries += 1;
        }
        self.state.index.record(prefix, NewestWrite { version, exists, entry });
        self.state.clears.record_write(prefix, version);
        Ok(())
    }

    /// Clears a range of encoded prefixes.
    pub fn clear(&mut self, begin: Bytes, end: Bytes, cause: ClearCause) {
        self.effects.clear_range(&begin, &end, cause);
        let version = self.state.counters.version;
        self.state.row_cache.note_clear(version);
        entries::put_range_clear(self.batch, version, self.gc_entries, &begin, &end);
        self.state.uncollected.insert((version, self.gc_entries), begin.clone());
        self.gc_entries += 1;
        self.state.recent_clears.push_back(version);
        self.state.clears.insert(RangeClear { begin, end, version });
    }

    /// The newest version of a key. The caller only needs versions above `after`: where the index
    /// alone proves that there is none, the engine is not read.
    pub fn newest_version(&mut self, prefix: &[u8], after: u64) -> Result<Option<u64>, KvError> {
        if let Some(newest) = self.state.index.get(prefix) {
            return Ok(Some(newest.version));
        }
        if after >= self.state.index.complete_after() {
            return Ok(None);
        }
        Ok(self.lookup.newest(prefix)?.map(|(version, _)| version))
    }

    /// Whether the key has a value at this point of the batch.
    fn exists(&mut self, prefix: &[u8], hash: KeyHash) -> Result<bool, KvError> {
        let covered = self.covered(prefix);
        if covered == 0 && self.state.known_keys.contains(hash) {
            return Ok(true);
        }
        if let Some(newest) = self.state.index.get(prefix).filter(|newest| newest.version > self.state.collected_up_to)
        {
            return Ok(newest.exists && newest.version >= covered);
        }
        let newest = self.lookup.newest(prefix)?;
        Ok(newest.is_some_and(|(version, value)| value.is_some() && version >= covered))
    }

    /// The key's value at this point of the batch.
    pub fn current_value(&mut self, prefix: &[u8]) -> Result<Option<Bytes>, KvError> {
        let covered = self.covered(prefix);
        if let Some(newest) = self.state.index.get(prefix).filter(|newest| newest.version > self.state.collected_up_to)
        {
            if !newest.exists || newest.version < covered {
                return Ok(None);
            }
            if newest.version > self.before {
                let value = key_codec::row_value(self.batch.value(newest.entry))?;
                return Ok(value.map(Bytes::copy_from_slice));
            }
        }
        let newest = self.lookup.newest(prefix)?.filter(|(version, _)| *version >= covered);
        Ok(newest.and_then(|(_, value)| value).map(Bytes::copy_from_slice))
    }

    /// Version of the newest range clear over the key; 0 if there is none.
    fn covered(&self, prefix: &[u8]) -> u64 {
        match self.state.clears.is_empty() {
            true => 0,
            false => self.state.clears.newest_covering(prefix, u64::MAX).unwrap_or(0),
        }
    }
}

//! Decides commits. The verdicts, versions and writes depend only on the database's content and the commits in their order:
//! not on time, batch borders, restarts or what the conflict index still remembers.
//!
//! Of one commit, in this order: kinds that are not supported, then malformed operations, then conflicts. A refused
//! commit takes no version and leaves no trace. An empty one succeeds at its read version and leaves none either.

use std::{
    collections::{BTreeSet, HashSet},
    sync::Arc,
};

use bytes::Bytes;
use kv_api::{AtomicCommit, CommitResult, CommitVerdict, KeyRef, KvError};

use crate::{
    conflict_index::{ConflictIndex, NewestWrite},
    engine::{Cursor, Engine, Table, WriteBatch},
    key_codec,
    known_keys::{self, KnownKeys},
    meta::{self, Counters},
    resolve::{Resolved, Write, resolve},
    scan::{self, Bounds},
};

/// Most keys that a conflict names; of more, the first in order of key and family.
pub const MAX_REPORTED_CONFLICTS: usize = 100;

/// The state that decides commits. After an error of any method it no longer agrees with the engine: drop it.
pub(crate) struct StateMachine {
    counters: Counters,
    /// Families that were ever written to.
    families: BTreeSet<String>,
    index: ConflictIndex,
    known_keys: KnownKeys,
}

impl StateMachine {
    pub fn load(engine: &dyn Engine, conflict_index_entries: usize, known_keys: usize) -> Result<Self, KvError> {
        let counters = meta::load_counters(engine)?;
        Ok(StateMachine {
            counters,
            families: meta::load_families(engine)?,
            index: ConflictIndex::new(counters.version, conflict_index_entries),
            known_keys: KnownKeys::new(known_keys),
        })
    }

    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Decides all commits in order, each seeing the ones before it, and adds what they write to `batch`. The engine is
    /// read but not written: its content must be the state before this batch.
    ///
    /// Call [`Self::written`] once the batch is in the engine, before anything else.
    pub fn decide<'c>(
        &mut self,
        engine: &dyn Engine,
        commits: impl IntoIterator<Item = &'c AtomicCommit>,
        batch: &mut WriteBatch,
    ) -> Result<Vec<CommitVerdict>, KvError> {
        let before = self.counters;
        let mut deciding = Deciding { state: self, lookup: Lookup::new(engine), batch, prefix: Vec::new() };
        let verdicts = commits.into_iter().map(|commit| deciding.decide(commit)).collect::<Result<Vec<_>, _>>()?;
        if self.counters != before {
            meta::put_counters(batch, self.counters);
        }
        Ok(verdicts)
    }

    /// The batch of the last [`Self::decide`] is in the engine.
    pub fn written(&mut self) {
        self.index.trim();
    }
}

/// Lookups of single keys in the engine, by one cursor that is made when first needed.
struct Lookup<'e> {
    engine: &'e dyn Engine,
    cursor: Option<Box<dyn Cursor + 'e>>,
    scratch: Vec<u8>,
}

impl<'e> Lookup<'e> {
    fn new(engine: &'e dyn Engine) -> Self {
        Lookup { engine, cursor: None, scratch: Vec::new() }
    }

    fn newest(&mut self, prefix: &[u8]) -> Result<Option<NewestWrite>, KvError> {
        let cursor = match &mut self.cursor {
            Some(cursor) => cursor,
            None => self.cursor.insert(self.engine.key_cursor()?),
        };
        let found = scan::newest_at(cursor.as_mut(), prefix, u64::MAX, &mut self.scratch)?;
        Ok(found.map(|entry| NewestWrite { version: entry.version, exists: entry.value.is_some() }))
    }
}

/// One batch being decided. Errors of its methods are the storage's; refusals are verdicts.
struct Deciding<'a, 'e> {
    state: &'a mut StateMachine,
    lookup: Lookup<'e>,
    batch: &'a mut WriteBatch,
    /// Scratch memory.
    prefix: Vec<u8>,
}

impl Deciding<'_, '_> {
    fn decide(&mut self, commit: &AtomicCommit) -> Result<CommitVerdict, KvError> {
        let version = self.state.counters.version + 1;
        let Resolved { writes, generated_keys, generated_values } = match resolve(commit, version) {
            Ok(resolved) => resolved,
            Err(refusal) => return Ok(Err(refusal)),
        };
        if writes.is_empty() {
            return Ok(Ok(CommitResult { version: commit.read_version, ..CommitResult::default() }));
        }
        if commit.has_read_conflicts()
            && let Err(refusal) = self.check_conflicts(commit)?
        {
            return Ok(Err(refusal));
        }
        self.state.counters.version = version;
        self.write_last_of_each_key(&writes)?;
        Ok(Ok(CommitResult { version, generated_keys, generated_values }))
    }

    /// A key has one version per commit, so of several writes to it only the last exists.
    fn write_last_of_each_key(&mut self, writes: &[Write<'_>]) -> Result<(), KvError> {
        if let [write] = writes {
            return self.write(write);
        }
        let mut later = HashSet::with_capacity(writes.len());
        for write in writes.iter().rev() {
            if later.insert((write.family, write.key.as_ref())) {
                self.write(write)?;
            }
        }
        Ok(())
    }

    fn write(&mut self, write: &Write<'_>) -> Result<(), KvError> {
        if !self.state.families.contains(write.family) {
            self.state.families.insert(write.family.to_owned());
            meta::put_family(self.batch, write.family);
        }
        key_codec::set_prefix(&mut self.prefix, write.family, &write.key);
        let hash = known_keys::hash(&self.prefix);
        let existed = self.state.known_keys.contains(hash) || self.newest(None)?.is_some_and(|newest| newest.exists);
        let exists = write.value.is_some();
        self.state.known_keys.set(hash, exists);
        match (existed, exists) {
            (false, true) => self.state.counters.rows += 1,
            // Saturating, because "existed" is certain only up to a collision of hashes: see `known_keys`.
            (true, false) => self.state.counters.rows = self.state.counters.rows.saturating_sub(1),
            _ => {}
        }
        let version = self.state.counters.version;
        self.batch.put_parts(
            Table::Data,
            &[&self.prefix, &key_codec::version_suffix(version)],
            &key_codec::row_parts(write.value.as_deref()),
        );
        self.state.index.record(&self.prefix, NewestWrite { version, exists });
        Ok(())
    }

    /// The newest write of the key whose prefix is in `self.prefix`. With `after`, only writes newer than that matter, and
    /// the engine is not asked where the index alone knows that there is none.
    fn newest(&mut self, after: Option<u64>) -> Result<Option<NewestWrite>, KvError> {
        if let Some(newest) = self.state.index.get(&self.prefix) {
            return Ok(Some(newest));
        }
        if after.is_some_and(|after| after >= self.state.index.floor()) {
            return Ok(None);
        }
        self.lookup.newest(&self.prefix)
    }

    fn check_conflicts(&mut self, commit: &AtomicCommit) -> Result<Result<(), KvError>, KvError> {
        let (read_version, current) = (commit.read_version, self.state.counters.version);
        if read_version > current {
            return Ok(Err(KvError::FutureVersion { read_version, current }));
        }
        let mut conflicts = BTreeSet::new();
        if read_version < current {
            self.collect_key_conflicts(commit, &mut conflicts)?;
            self.collect_range_conflicts(commit, &mut conflicts)?;
        }
        match conflicts.is_empty() {
            true => Ok(Ok(())),
            false => {
                let keys = conflicts.into_iter().take(MAX_REPORTED_CONFLICTS).collect();
                Ok(Err(KvError::Conflict { keys }))
            }
        }
    }

    fn collect_key_conflicts(&mut self, commit: &AtomicCommit, found: &mut BTreeSet<KeyRef>) -> Result<(), KvError> {
        for read in &commit.read_conflicts {
            if self.written_after(&read.column_family, &read.key, commit.read_version)? {
                found.insert(read.clone());
            }
        }
        if commit.read_conflict_keys.is_empty() {
            return Ok(());
        }
        // Taken out while the loop needs the rest of the state.
        let families = std::mem::take(&mut self.state.families);
        for key in &commit.read_conflict_keys {
            for family in &families {
                if self.written_after(family, key, commit.read_version)? {
                    found.insert(KeyRef { key: key.clone(), column_family: family.clone() });
                }
            }
        }
        self.state.families = families;
        Ok(())
    }

    fn written_after(&mut self, family: &str, key: &Bytes, read_version: u64) -> Result<bool, KvError> {
        key_codec::set_prefix(&mut self.prefix, family, key);
        Ok(self.newest(Some(read_version))?.is_some_and(|newest| newest.version > read_version))
    }

    fn collect_range_conflicts(&mut self, commit: &AtomicCommit, found: &mut BTreeSet<KeyRef>) -> Result<(), KvError> {
        for range in commit.read_conflict_ranges.iter().filter(|range| range.begin < range.end) {
            let bounds = Bounds::range(&range.column_family, &range.begin, &range.end);
            let (index, most) = (&mut self.state.index, MAX_REPORTED_CONFLICTS);
            let mut written = index.written_in(&bounds.begin, &bounds.end, commit.read_version, most);
            if commit.read_version < index.floor() {
                let older = scan::written_after(self.lookup.engine, &bounds, commit.read_version, most)?;
                written.extend(older.into_iter().map(Arc::from));
            }
            for prefix in written.into_iter().take(most) {
                let key = key_codec::user_key(&prefix)?;
                found.insert(KeyRef { key, column_family: range.column_family.clone() });
            }
        }
        Ok(())
    }
}

//! The database in its simplest form: every version of every key is kept, every question is
//! answered from all versions that may matter, and nothing is ever removed, cached or batched. It
//! decides the writes of the log one by one; its verdict on each is the one that every replica must
//! give.
//!
//! Written from the description of the interface, not from the store's code: of that it shares
//! nothing but the vocabulary.

mod changes;
mod history;
#[cfg(test)]
mod tests;
mod values;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use kv_api::access::{AccessChange, Policy};
use kv_api::{
    AtomicCommit, ClearCause, CommitResult, CommitVerdict, FamilyChange, IDEMPOTENCY_SECONDS, KeyRef, KvError,
    LoggedWrite, Mutation, MutationKind,
};

use changes::ChangeLog;
pub use history::History;

/// Maximum number of keys that a conflict names.
const MAX_KEYS: usize = 100;
/// Marks of the readable window are at least this part of it apart.
const WINDOW_PARTS: u64 = 64;

pub struct Reference {
    pub history: History,
    pub changes: ChangeLog,
    pub version: u64,
    /// The oldest version that can be read.
    pub oldest_readable: u64,
    /// Those that exist, without the default one.
    pub families: Arc<Vec<String>>,
    /// Who may do what. The decisions are those of the vocabulary.
    pub policy: Arc<Policy>,
    time_us: u64,
    /// Times, and what was newest then.
    marks: Vec<(u64, u64)>,
    once: BTreeMap<Bytes, Remembered>,
}

/// A commit with an idempotency id that has succeeded.
struct Remembered {
    time_us: u64,
    /// Without its ids.
    commit: AtomicCommit,
    result: CommitResult,
}

impl Default for Reference {
    fn default() -> Self {
        Reference {
            history: History::default(),
            changes: ChangeLog::default(),
            version: 1,
            oldest_readable: 0,
            families: Arc::default(),
            policy: Arc::default(),
            time_us: 0,
            marks: Vec::new(),
            once: BTreeMap::new(),
        }
    }
}

impl Reference {
    pub fn has_family(&self, name: &str) -> bool {
        name.is_empty() || self.families.iter().any(|family| family == name)
    }

    /// Decides the next write of the log, whose entry has the replicated time `time_us`.
    pub fn decide(&mut self, time_us: u64, write: &LoggedWrite) -> CommitVerdict {
        self.advance(time_us, write.window_us());
        if let Err(refusal) = self.policy.upholds(write.authority.as_ref()) {
            let id = write.commit.as_ref().map_or(&[][..], |commit| &commit.idempotency_id);
            return self.once.get(id).map(|earlier| earlier.result.clone()).ok_or(refusal);
        }
        write.creates.iter().for_each(|name| self.create_family(name));
        match (&write.commit, &write.family, &write.access) {
            (Some(commit), None, None) => self.decide_commit(commit),
            (None, Some(change), None) => self.change_family(change),
            (None, None, Some(change)) => self.change_access(change, write.wall_us),
            (None, None, None) if write.passes_time => {
                Ok(CommitResult { version: self.version, ..CommitResult::default() })
            }
            _ => panic!("no client makes such a write: {write:?}"),
        }
    }

    fn advance(&mut self, time_us: u64, window_us: u64) {
        assert!(time_us >= self.time_us, "replicated time went back: {} -> {time_us}", self.time_us);
        let apart_us = (window_us / WINDOW_PARTS).max(1);
        // The newest version at the beginning of a silence was still the newest this much later.
        let silence = Some(self.time_us + apart_us).filter(|at| *at < time_us);
        self.time_us = time_us;
        for now in silence.into_iter().chain([time_us]) {
            let is_due = |(marked_us, version): &(u64, u64)| now >= marked_us + apart_us && self.version > *version;
            if self.marks.last().is_none_or(is_due) {
                self.marks.push((now, self.version));
            }
        }
        if let Some(cutoff) = time_us.checked_sub(window_us) {
            let old = self.marks.partition_point(|(marked_us, _)| *marked_us <= cutoff);
            let oldest = self.marks[..old].last().map_or(0, |(_, version)| *version);
            self.oldest_readable = self.oldest_readable.max(oldest);
        }
        let lifetime_us = IDEMPOTENCY_SECONDS * 1_000_000;
        self.once.retain(|_, remembered| time_us < remembered.time_us + lifetime_us);
    }

    fn decide_commit(&mut self, commit: &AtomicCommit) -> CommitVerdict {
        for id in &commit.finished_ids {
            self.once.remove(id);
        }
        let bare = AtomicCommit { idempotency_id: Bytes::new(), finished_ids: Vec::new(), ..commit.clone() };
        if let Some(earlier) = self.once.get(&commit.idempotency_id) {
            assert_eq!(earlier.commit, bare, "a client uses one id for one commit");
            return Ok(earlier.result.clone());
        }
        self.check_families(commit)?;
        if commit.mutations.is_empty() {
            return Ok(CommitResult { version: commit.read_version, ..CommitResult::default() });
        }
        if commit.has_read_conflicts() {
            self.check_conflicts(commit)?;
        }
        let result = self.commit(commit);
        if !commit.idempotency_id.is_empty() {
            let remembered = Remembered { time_us: self.time_us, commit: bare, result: result.clone() };
            self.once.insert(commit.idempotency_id.clone(), remembered);
        }
        Ok(result)
    }

    fn check_families(&self, commit: &AtomicCommit) -> Result<(), KvError> {
        let read = commit.read_conflicts.iter().map(|key| &key.column_family);
        let read = read.chain(commit.read_conflict_ranges.iter().map(|range| &range.column_family));
        let mut named = read.chain(commit.mutations.iter().map(|mutation| &mutation.column_family));
        match named.find(|name| !self.has_family(name)) {
            Some(name) => Err(KvError::UnknownColumnFamily { name: name.clone(), existing: Vec::new() }),
            None => Ok(()),
        }
    }

    fn check_conflicts(&self, commit: &AtomicCommit) -> Result<(), KvError> {
        let read_version = commit.read_version;
        if read_version > self.version {
            return Err(KvError::FutureVersion { read_version, current: self.version });
        }
        if read_version < self.oldest_readable {
            return Err(KvError::TransactionTooOld { read_version, oldest: self.oldest_readable });
        }
        let history = &self.history;
        let mut changed = BTreeSet::new();
        for key in &commit.read_conflicts {
            if history.changed_after(&key.column_family, &key.key, read_version) {
                changed.insert(key.clone());
            }
        }
        for family in history.families() {
            for key in &commit.read_conflict_keys {
                if history.changed_after(family, key, read_version) {
                    changed.insert(KeyRef { key: key.clone(), column_family: family.clone() });
                }
            }
        }
        for range in &commit.read_conflict_ranges {
            changed.extend(history.changed_in(range, read_version).into_iter().take(MAX_KEYS));
        }
        match changed.is_empty() {
            true => Ok(()),
            false => Err(KvError::Conflict { keys: changed.into_iter().take(MAX_KEYS).collect() }),
        }
    }

    fn commit(&mut self, commit: &AtomicCommit) -> CommitResult {
        self.next_version();
        let mut result = CommitResult { version: self.version, ..CommitResult::default() };
        commit.mutations.iter().for_each(|mutation| self.execute(mutation, &mut result));
        self.history.join_clears(self.version);
        self.changes.end();
        result
    }

    fn next_version(&mut self) {
        self.version += 1;
        self.changes.begin(self.version, self.time_us);
    }

    fn write(&mut self, family: &str, key: &Bytes, value: Option<Bytes>) {
        self.history.write(self.version, family, key, value.clone());
        self.changes.write(family, key, value);
    }

    fn clear(&mut self, family: &str, begin: &Bytes, end: Option<&Bytes>, cause: ClearCause) {
        self.history.clear(self.version, family, begin, end);
        self.changes.clear(family, begin, end, cause);
    }

    fn execute(&mut self, mutation: &Mutation, result: &mut CommitResult) {
        let version = self.version;
        let (family, key, value) = (mutation.column_family.as_str(), &mutation.key, &mutation.value);
        let number = result.generated_keys.len() + result.generated_values.len();
        let stamped = |buffer: &Bytes| {
            let at = mutation.stamp_offset.map_or(buffer.len() - 10, |offset| offset as usize);
            let stamp = [&version.to_be_bytes()[..], &(number as u16).to_be_bytes()].concat();
            Bytes::from([&buffer[..at], &stamp, &buffer[at + 10..]].concat())
        };
        match mutation.kind() {
            MutationKind::Set => self.write(family, key, Some(value.clone())),
            MutationKind::Delete => self.write(family, key, None),
            MutationKind::SetVersionstampedKey => {
                let key = stamped(key);
                self.write(family, &key, Some(value.clone()));
                result.generated_keys.push(key);
            }
            MutationKind::SetVersionstampedValue => {
                let value = stamped(value);
                self.write(family, key, Some(value.clone()));
                result.generated_values.push(value);
            }
            MutationKind::ClearRange if key < value => self.clear(family, key, Some(value), ClearCause::Transaction),
            MutationKind::ClearRange => {}
            kind => {
                if let Some(after) = values::after(kind, self.history.get(family, key, version), value) {
                    self.write(family, key, after);
                }
            }
        }
    }

    fn create_family(&mut self, name: &str) {
        if !self.has_family(name) {
            let mut names = self.families.to_vec();
            names.push(name.into());
            names.sort();
            self.families = Arc::new(names);
        }
    }

    fn change_access(&mut self, change: &AccessChange, wall_us: u64) -> CommitVerdict {
        let mut policy = Policy::clone(&self.policy);
        policy.change(change, wall_us)?;
        self.policy = Arc::new(policy);
        self.next_version();
        Ok(CommitResult { version: self.version, ..CommitResult::default() })
    }

    fn change_family(&mut self, change: &FamilyChange) -> CommitVerdict {
        let name = change.name.as_str();
        if change.drop {
            if !self.has_family(name) {
                return Err(KvError::UnknownColumnFamily { name: name.into(), existing: Vec::new() });
            }
            self.next_version();
            self.clear(name, &Bytes::new(), None, ClearCause::FamilyDropped);
            self.families = Arc::new(self.families.iter().filter(|family| *family != name).cloned().collect());
        } else {
            self.create_family(name);
        }
        Ok(CommitResult { version: self.version, ..CommitResult::default() })
    }
}

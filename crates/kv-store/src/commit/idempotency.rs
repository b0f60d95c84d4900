//! The idempotency table: results of commits that carry an idempotency id. A repeated commit gets
//! the first result instead of being executed again.
//!
//! A record lives for [`IDEMPOTENCY_SECONDS`] of replicated time, or until the client reports that
//! it is done with the id. The content of the table follows from the log alone. Memory holds what
//! it takes to find and expire records; the results are in the meta table.
//!
//! Invariants: `by_version` has exactly the ids of `records`; records in order of commit version
//! are in order of time, too.

use std::collections::{BTreeMap, HashMap};

use bytes::{Buf, Bytes};
use kv_api::{AtomicCommit, CommitResult, IDEMPOTENCY_SECONDS, KvError, LoggedWrite, decode_verdict, encode_verdict};
use xxhash_rust::xxh3::xxh3_128;

use crate::engine::{Engine, Table, WriteBatch};
use crate::meta;

/// Maximum number of records. Beyond it commits with new ids are refused, and no record is dropped
/// early. Replicas must agree on it, so it is no setting.
pub const MAX_RECORDS: usize = 1_000_000;

const LIFETIME_US: u64 = IDEMPOTENCY_SECONDS * 1_000_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Record {
    time_us: u64,
    version: u64,
    /// Hash of the commit without its ids.
    body: u128,
}

#[derive(Debug, Default)]
pub(crate) struct IdempotencyTable {
    records: HashMap<Bytes, Record>,
    by_version: BTreeMap<u64, Bytes>,
    /// Results of the current batch, which are not in the meta table yet.
    fresh: HashMap<Bytes, CommitResult>,
}

/// An answer of the table about an id.
pub(crate) enum Earlier {
    Nothing,
    /// The same commit succeeded.
    Succeeded(CommitResult),
    /// Another commit succeeded under this id.
    Another,
}

impl IdempotencyTable {
    /// Loads the table from the meta table.
    pub fn load(engine: &dyn Engine) -> Result<IdempotencyTable, KvError> {
        let mut table = IdempotencyTable::default();
        meta::each_idempotency_record(engine, |id, stored| {
            let (record, _) = decode(stored)?;
            table.by_version.insert(record.version, id.clone());
            table.records.insert(id, record);
            Ok(())
        })?;
        Ok(table)
    }

    /// The number of records.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Looks the commit's id up.
    pub fn earlier(&self, engine: &dyn Engine, commit: &AtomicCommit) -> Result<Earlier, KvError> {
        let id = &commit.idempotency_id;
        let Some(record) = self.records.get(id) else {
            return Ok(Earlier::Nothing);
        };
        if record.body != body(commit) {
            return Ok(Earlier::Another);
        }
        if let Some(result) = self.fresh.get(id) {
            return Ok(Earlier::Succeeded(result.clone()));
        }
        let stored = engine.get(Table::Meta, &meta::record_key(id))?;
        let missing = || KvError::Corruption("the result of an idempotency id is missing".into());
        let stored = stored.ok_or_else(missing)?;
        let (_, verdict) = decode(&stored)?;
        match decode_verdict(verdict) {
            Ok(Ok(result)) => Ok(Earlier::Succeeded(result)),
            _ => Err(damaged(stored.len())),
        }
    }

    /// Records that the commit succeeded with `result` at `time_us`.
    pub fn remember(&mut self, batch: &mut WriteBatch, commit: &AtomicCommit, result: &CommitResult, time_us: u64) {
        let id = commit.idempotency_id.clone();
        let record = Record { time_us, version: result.version, body: body(commit) };
        let head = [&record.time_us.to_be_bytes()[..], &record.version.to_be_bytes(), &record.body.to_be_bytes()];
        batch.put_parts(
            Table::Meta,
            &[&meta::record_key(&id)],
            &[&head.concat(), &encode_verdict(&Ok(result.clone()))],
        );
        self.by_version.insert(record.version, id.clone());
        self.fresh.insert(id.clone(), result.clone());
        let before = self.records.insert(id, record);
        assert_eq!(before, None, "an id is looked up before it is used");
    }

    /// Removes records that clients are done with.
    pub fn forget(&mut self, batch: &mut WriteBatch, ids: &[Bytes]) {
        for id in ids {
            if let Some(record) = self.records.remove(id) {
                self.by_version.remove(&record.version);
                self.fresh.remove(id);
                batch.delete(Table::Meta, &meta::record_key(id));
            }
        }
    }

    /// Removes records that are too old at `now_us`.
    pub fn expire(&mut self, batch: &mut WriteBatch, now_us: u64) {
        while let Some((_, id)) = self.by_version.first_key_value() {
            if self.records[id].time_us.saturating_add(LIFETIME_US) > now_us {
                return;
            }
            let id = id.clone();
            self.forget(batch, &[id]);
        }
    }

    /// The batch is in the engine.
    pub fn written(&mut self) {
        self.fresh.clear();
    }
}

/// Hashes all that the commit does and depends on, without its ids.
fn body(commit: &AtomicCommit) -> u128 {
    let bare = AtomicCommit { idempotency_id: Bytes::new(), finished_ids: Vec::new(), ..commit.clone() };
    xxh3_128(&LoggedWrite::commit(bare).to_bytes())
}

fn decode(mut stored: &[u8]) -> Result<(Record, &[u8]), KvError> {
    if stored.len() < 32 {
        return Err(damaged(stored.len()));
    }
    let record = Record { time_us: stored.get_u64(), version: stored.get_u64(), body: stored.get_u128() };
    Ok((record, stored))
}

fn damaged(length: usize) -> KvError {
    KvError::Corruption(format!("its record of {length} bytes about an idempotency id cannot be read"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{Durability, MemoryEngine};

    fn commit(id: &'static str, value: &'static str) -> AtomicCommit {
        AtomicCommit { idempotency_id: id.into(), ..AtomicCommit::of(vec![kv_api::Mutation::set("key", value)]) }
    }

    fn result(version: u64) -> CommitResult {
        CommitResult { version, ..CommitResult::default() }
    }

    /// A table and the engine that stores it.
    struct Kept {
        table: IdempotencyTable,
        engine: MemoryEngine,
    }

    impl Kept {
        fn new() -> Self {
            Kept { table: IdempotencyTable::default(), engine: MemoryEngine::new(Durability::EveryWrite) }
        }

        /// Writes one batch.
        fn write(&mut self, change: impl FnOnce(&mut IdempotencyTable, &mut WriteBatch)) {
            let mut batch = WriteBatch::new();
            change(&mut self.table, &mut batch);
            self.engine.write(&batch).unwrap();
            self.table.written();
        }

        fn earlier(&self, commit: &AtomicCommit) -> Result<Earlier, KvError> {
            self.table.earlier(&self.engine, commit)
        }

        fn found(&self, commit: &AtomicCommit) -> Option<CommitResult> {
            match self.earlier(commit).unwrap() {
                Earlier::Succeeded(result) => Some(result),
                Earlier::Nothing => None,
                Earlier::Another => panic!("it is the same commit"),
            }
        }

        fn open_again(&mut self) {
            self.table = IdempotencyTable::load(&self.engine).unwrap();
        }
    }

    #[test]
    fn a_result_is_kept_for_exactly_its_lifetime_across_restarts() {
        let mut kept = Kept::new();
        for (id, version, time_us) in [("a", 2, 5), ("b", 3, 5), ("c", 4, 6)] {
            kept.write(|table, batch| table.remember(batch, &commit(id, "1"), &result(version), time_us));
        }
        let there = |kept: &Kept| ["a", "b", "c"].map(|id| kept.found(&commit(id, "1")).map(|result| result.version));
        for (now_us, expected) in [
            (LIFETIME_US + 4, [Some(2), Some(3), Some(4)]),
            (LIFETIME_US + 5, [None, None, Some(4)]),
            (LIFETIME_US + 6, [None, None, None]),
        ] {
            kept.write(|table, batch| table.expire(batch, now_us));
            assert_eq!(there(&kept), expected, "at {now_us}");
            kept.open_again();
            assert_eq!((there(&kept), kept.table.len()), (expected, expected.iter().flatten().count()));
        }
        assert!(kept.table.by_version.is_empty());
    }

    #[test]
    fn a_result_is_found_in_its_own_batch_and_later_and_only_by_the_same_commit() {
        let mut kept = Kept::new();
        kept.write(|table, batch| {
            let engine = MemoryEngine::new(Durability::EveryWrite);
            table.remember(batch, &commit("a", "1"), &result(2), 5);
            let found = table.earlier(&engine, &commit("a", "1"));
            assert!(
                matches!(found, Ok(Earlier::Succeeded(found)) if found == result(2)),
                "it is not in the engine yet"
            );
        });
        let finishing = AtomicCommit { finished_ids: vec!["x".into()], ..commit("a", "1") };
        assert_eq!((kept.found(&commit("a", "1")), kept.found(&finishing)), (Some(result(2)), Some(result(2))));
        assert!(matches!(kept.earlier(&commit("a", "2")), Ok(Earlier::Another)));
        assert!(matches!(kept.earlier(&commit("b", "1")), Ok(Earlier::Nothing)));
    }

    #[test]
    fn results_that_clients_are_done_with_are_forgotten_for_good() {
        let mut kept = Kept::new();
        kept.write(|table, batch| table.remember(batch, &commit("a", "1"), &result(2), 5));
        kept.write(|table, batch| table.forget(batch, &["a".into(), "never seen".into()]));
        assert_eq!((kept.found(&commit("a", "1")), kept.table.len()), (None, 0));
        kept.open_again();
        assert_eq!((kept.found(&commit("a", "1")), kept.table.len()), (None, 0));
    }

    #[test]
    fn a_truncated_record_is_damage() {
        let whole = [&5_u64.to_be_bytes()[..], &2_u64.to_be_bytes(), &body(&commit("a", "1")).to_be_bytes()].concat();
        for length in [0, 31, 32] {
            let mut kept = Kept::new();
            kept.write(|_, batch| batch.put(Table::Meta, &meta::record_key(b"a"), &whole[..length]));
            let loaded = IdempotencyTable::load(&kept.engine);
            assert_eq!(loaded.is_err(), length < 32, "{length} bytes");
            if let Ok(table) = loaded {
                // The result is missing.
                let read = table.earlier(&kept.engine, &commit("a", "1"));
                assert!(matches!(read, Err(KvError::Corruption(_))));
            }
        }
    }
}

//! Results of commits that carry an idempotency id, so that a repeat gets the first result instead of committing again.
//!
//! A record lives for [`IDEMPOTENCY_SECONDS`] of replicated time, or until the client says that it is done with it. What is
//! here follows from the log alone. In memory is what finding and expiring takes; results are in the meta table.
//!
//! Invariants: `by_version` has exactly the ids of `records`; commit versions order records by time, too.

use std::collections::{BTreeMap, HashMap};

use bytes::{Buf, Bytes};
use kv_api::{AtomicCommit, CommitResult, IDEMPOTENCY_SECONDS, KvError, LoggedWrite, decode_verdict, encode_verdict};
use xxhash_rust::xxh3::xxh3_128;

use crate::{
    engine::{Engine, Table, WriteBatch},
    meta,
};

/// Most results that are remembered; beyond it new ids are refused, and none is forgotten early. Part of what replicas
/// agree on, and so no setting.
pub const MAX_RECORDS: usize = 1_000_000;

const LIFETIME_US: u64 = IDEMPOTENCY_SECONDS * 1_000_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Record {
    time_us: u64,
    version: u64,
    /// Hash of all of the commit but its ids.
    body: u128,
}

#[derive(Debug, Default)]
pub(crate) struct Once {
    records: HashMap<Bytes, Record>,
    by_version: BTreeMap<u64, Bytes>,
    /// Results of the batch that is being decided: not in the table yet.
    fresh: HashMap<Bytes, CommitResult>,
}

/// What is known of an id.
pub(crate) enum Earlier {
    Nothing,
    /// The same commit succeeded.
    Succeeded(CommitResult),
    /// Another commit succeeded under this id.
    Another,
}

impl Once {
    pub fn load(engine: &dyn Engine) -> Result<Once, KvError> {
        let mut once = Once::default();
        meta::each_once(engine, |id, stored| {
            let (record, _) = decode(stored)?;
            once.by_version.insert(record.version, id.clone());
            once.records.insert(id, record);
            Ok(())
        })?;
        Ok(once)
    }

    pub fn len(&self) -> usize {
        self.records.len()
    }

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
        let stored = engine.get(Table::Meta, &meta::once_key(id))?;
        let missing = || KvError::Corruption("the result of an idempotency id is gone".into());
        let stored = stored.ok_or_else(missing)?;
        let (_, verdict) = decode(&stored)?;
        match decode_verdict(verdict) {
            Ok(Ok(result)) => Ok(Earlier::Succeeded(result)),
            _ => Err(damaged(stored.len())),
        }
    }

    /// The commit succeeded with `result` at `time_us`.
    pub fn remember(&mut self, batch: &mut WriteBatch, commit: &AtomicCommit, result: &CommitResult, time_us: u64) {
        let id = commit.idempotency_id.clone();
        let record = Record { time_us, version: result.version, body: body(commit) };
        let head = [&record.time_us.to_be_bytes()[..], &record.version.to_be_bytes(), &record.body.to_be_bytes()];
        batch.put_parts(Table::Meta, &[&meta::once_key(&id)], &[&head.concat(), &encode_verdict(&Ok(result.clone()))]);
        self.by_version.insert(record.version, id.clone());
        self.fresh.insert(id.clone(), result.clone());
        let before = self.records.insert(id, record);
        assert_eq!(before, None, "an id is looked up before it is used");
    }

    /// Forgets what clients are done with.
    pub fn forget(&mut self, batch: &mut WriteBatch, ids: &[Bytes]) {
        for id in ids {
            if let Some(record) = self.records.remove(id) {
                self.by_version.remove(&record.version);
                self.fresh.remove(id);
                batch.delete(Table::Meta, &meta::once_key(id));
            }
        }
    }

    /// Forgets what is too old at `now_us`.
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

/// Everything that the commit does and depends on, but not its ids.
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

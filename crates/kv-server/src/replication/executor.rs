//! Applies the consensus log to the database: in order, each operation once.

use std::sync::Arc;

use bytes::Bytes;
use kv_api::{KvError, LoggedWrite, TimedWrite, UnreadableWrite, encode_verdict};
use kv_store::{PreparedBatch, StateBlob, TransactionalKvDatabase};
use rsml::{CommittedValue, ExecutedBatch, ExecutionError, ExecutionNotifier, SealedState, Sequence, Snapshots};

use super::level_record::check_level;
use super::place::DatabasePlace;
use super::snapshots::{Installed, ReplicaSnapshots, failed};
use crate::router::{LocalReader, ReadSlots};

/// Applies committed operations to its replica's database. Verdicts, rows and RSML's own state go
/// into one engine batch. A witness stores RSML's own state and nothing else: its requests have no
/// outcomes, and nobody may ask for them.
///
/// When the log says so, another database replaces the present one under its readers. Running reads
/// keep the old one, and no reader ever sees an older version than before.
pub struct KvStoreExecutor {
    databases: Arc<dyn DatabasePlace>,
    /// The live database, the same that `reader` reads.
    database: Arc<TransactionalKvDatabase>,
    reader: LocalReader,
    next: Sequence,
    installed: Installed,
}

impl KvStoreExecutor {
    /// Opens the database of `generation`, which is live according to the log. It is empty if the
    /// previous one was damaged.
    pub fn open(databases: Arc<dyn DatabasePlace>, slots: ReadSlots, generation: u64) -> Result<Self, ExecutionError> {
        let database = databases.clone().open(generation).map_err(failed)?;
        check_level(&database).map_err(failed)?;
        let next = expected_by(&database).map_err(failed)?;
        let reader = LocalReader::new(database.clone(), slots);
        Ok(KvStoreExecutor { databases, database, reader, next, installed: Installed::default() })
    }

    /// A reader of whichever database is live.
    pub fn reader(&self) -> &LocalReader {
        &self.reader
    }
}

fn expected_by(database: &TransactionalKvDatabase) -> Result<Sequence, KvError> {
    Ok(Sequence(database.state_blob()?.map_or(0, |(sequence, _)| sequence)).next())
}

/// The writes of all requests. One that the log must not hold at its feature level stops this
/// replica: it is neither executed nor passed over.
fn timed_writes(values: &[CommittedValue]) -> Result<Vec<TimedWrite>, ExecutionError> {
    let mut writes = Vec::with_capacity(values.iter().map(|value| value.requests.len()).sum());
    for value in values {
        for request in &value.requests {
            let write = LoggedWrite::from_bytes(request.payload.clone()).map_err(unreadable)?;
            let (needed, level) = (write.level(), value.feature_level.0);
            if needed > level {
                let sequence = value.sequence;
                return Err(ExecutionError::too_new(format!(
                    "entry {sequence} holds a write of feature level {needed}, and the cluster is at level {level}"
                )));
            }
            writes.push(TimedWrite { time_us: value.time_us, write });
        }
    }
    Ok(writes)
}

fn unreadable(error: UnreadableWrite) -> ExecutionError {
    match error {
        UnreadableWrite::Damaged(_) => ExecutionError::failed(error.to_string()),
        UnreadableWrite::Unknown => ExecutionError::too_new(error.to_string()),
    }
}

/// No outcome: those of a witness are used by nobody.
fn without_outcomes(values: &[CommittedValue]) -> Vec<Bytes> {
    vec![Bytes::new(); values.iter().map(|value| value.requests.len()).sum()]
}

/// Values that the database has decided and not written yet.
struct PreparedValues<'e> {
    prepared: PreparedBatch<'e>,
    outcomes: Vec<Bytes>,
    next: &'e mut Sequence,
}

impl ExecutedBatch for PreparedValues<'_> {
    fn outcomes(&self) -> &[Bytes] {
        &self.outcomes
    }

    fn commit(self: Box<Self>, sealed: SealedState) -> Result<Vec<Bytes>, ExecutionError> {
        let PreparedValues { prepared, outcomes, next } = *self;
        prepared.commit(StateBlob { sequence: sealed.sequence.0, blob: sealed.state }).map_err(failed)?;
        *next = sealed.sequence.next();
        Ok(outcomes)
    }
}

impl ExecutionNotifier for KvStoreExecutor {
    fn notify_commit_batch<'e>(
        &'e mut self,
        values: &'e [CommittedValue],
    ) -> Result<Box<dyn ExecutedBatch + 'e>, ExecutionError> {
        let is_witness = self.databases.is_witness();
        let writes = if is_witness { Vec::new() } else { timed_writes(values)? };
        let level = values.last().map_or(self.database.level(), |value| value.feature_level.0);
        let prepared = self.database.prepare_at(&writes, level).map_err(failed)?;
        let outcomes = match is_witness {
            true => without_outcomes(values),
            false => prepared.verdicts().iter().map(encode_verdict).collect(),
        };
        Ok(Box::new(PreparedValues { prepared, outcomes, next: &mut self.next }))
    }

    fn sealed_state(&self) -> Result<Option<Bytes>, ExecutionError> {
        Ok(self.database.state_blob().map_err(failed)?.map(|(_, blob)| blob))
    }

    fn next_expected_sequence(&self) -> Sequence {
        self.next
    }

    /// A database in memory does not survive a restart and depends on the whole log, so no entry
    /// may be trimmed.
    fn persisted_sequence(&self) -> Result<Sequence, ExecutionError> {
        if !self.databases.survive_exit() {
            return Ok(Sequence::ZERO);
        }
        self.database.persisted_sequence().map(Sequence).map_err(failed)
    }

    fn start_flush(&mut self) {
        if self.databases.survive_exit() {
            self.databases.start_flush(self.database.clone());
        }
    }

    fn is_ready(&self) -> bool {
        self.database.state_blob().is_ok()
    }

    fn snapshots(&self) -> Arc<dyn Snapshots> {
        Arc::new(ReplicaSnapshots {
            reader: self.reader.clone(),
            databases: self.databases.clone(),
            installed: self.installed.clone(),
        })
    }

    fn switch_to(&mut self, generation: u64) -> Result<(), ExecutionError> {
        let missing = || ExecutionError::failed(format!("the database of generation {generation} was not built"));
        let database = self.installed.take(generation).ok_or_else(missing)?;
        self.installed.remove_before(generation);
        let (before, after) = (self.database.applied_version(), database.applied_version());
        if after < before {
            let text = format!("the database of generation {generation} has version {after}, and {before} was read");
            return Err(ExecutionError::failed(text));
        }
        self.next = expected_by(&database).map_err(failed)?;
        self.databases.clone().watch(generation, &database);
        self.database = database.clone();
        let old = self.reader.switch(database);
        self.reader.applied_advanced();
        tracing::info!(generation, version = after.0, "switched to another database");
        self.databases.close(old);
        Ok(())
    }
}

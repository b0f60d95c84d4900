//! From the consensus log to the database: in order, each operation once.

use std::sync::Arc;

use bytes::Bytes;
use kv_api::{AtomicCommit, KvError, encode_verdict};
use kv_store::StateBlob;
use rsml::{
    CommittedValue, ExecutionError, ExecutionNotifier, SealedState, Sequence, Snapshot, SnapshotSink, Snapshots,
};

use super::operation;
use crate::router::LocalReader;

/// Applies committed operations to its replica's database. Verdicts, rows and RSML's own state go into one engine batch.
pub struct KvStoreExecutor {
    reader: LocalReader,
    next: Sequence,
    survives_exit: bool,
    flushing: Option<std::thread::JoinHandle<()>>,
}

impl KvStoreExecutor {
    /// `survives_exit`: whether what the database has flushed is there after a restart. Otherwise the log is all there is,
    /// and nothing in it may ever be let go.
    pub fn new(reader: LocalReader, survives_exit: bool) -> Result<Self, KvError> {
        let applied = reader.database().state_blob()?.map_or(0, |(sequence, _)| sequence);
        Ok(KvStoreExecutor { reader, next: Sequence(applied).next(), survives_exit, flushing: None })
    }
}

fn failed(error: KvError) -> ExecutionError {
    ExecutionError::failed(error.to_string())
}

impl ExecutionNotifier for KvStoreExecutor {
    fn notify_commit_batch(
        &mut self,
        values: &[CommittedValue],
        seal: &mut dyn FnMut(&[Bytes]) -> SealedState,
    ) -> Result<Vec<Bytes>, ExecutionError> {
        let payloads = values.iter().flat_map(|value| &value.requests).map(|request| request.payload.clone());
        let commits: Vec<AtomicCommit> =
            payloads.map(operation::decode).collect::<Result<_, String>>().map_err(ExecutionError::failed)?;
        let mut outcomes = Vec::new();
        let mut next = self.next;
        self.reader
            .database()
            .apply(&commits, &mut |verdicts| {
                outcomes = verdicts.iter().map(encode_verdict).collect();
                let sealed = seal(&outcomes);
                next = sealed.sequence.next();
                StateBlob { sequence: sealed.sequence.0, blob: sealed.state }
            })
            .map_err(failed)?;
        self.next = next;
        self.reader.applied_advanced();
        Ok(outcomes)
    }

    fn sealed_state(&self) -> Result<Option<Bytes>, ExecutionError> {
        Ok(self.reader.database().state_blob().map_err(failed)?.map(|(_, blob)| blob))
    }

    fn next_expected_sequence(&self) -> Sequence {
        self.next
    }

    fn persisted_sequence(&self) -> Result<Sequence, ExecutionError> {
        if !self.survives_exit {
            return Ok(Sequence::ZERO);
        }
        self.reader.database().persisted_sequence().map(Sequence).map_err(failed)
    }

    /// In a thread of its own: writing out a full buffer takes a while, and applying goes on meanwhile.
    fn start_flush(&mut self) {
        if !self.survives_exit || self.flushing.as_ref().is_some_and(|thread| !thread.is_finished()) {
            return;
        }
        let database = self.reader.database().clone();
        let flush = move || {
            if let Err(error) = database.flush() {
                tracing::error!(%error, "the database cannot be written out; the log cannot be trimmed");
            }
        };
        match std::thread::Builder::new().name("kv-flush".to_string()).spawn(flush) {
            Ok(thread) => self.flushing = Some(thread),
            Err(error) => tracing::error!(%error, "no thread to write the database out"),
        }
    }

    fn is_ready(&self) -> bool {
        self.reader.database().state_blob().is_ok()
    }

    fn snapshots(&self) -> Arc<dyn Snapshots> {
        Arc::new(NoSnapshots)
    }

    fn switch_to(&mut self, generation: u64) -> Result<(), ExecutionError> {
        Err(ExecutionError::failed(format!("the database of generation {generation} cannot be opened: {NO_COPIES}")))
    }
}

const NO_COPIES: &str = "this version of the program cannot copy databases";

struct NoSnapshots;

impl Snapshots for NoSnapshots {
    fn take(&self) -> Result<Snapshot, ExecutionError> {
        Err(ExecutionError::failed(NO_COPIES))
    }

    fn begin_install(&self, _generation: u64) -> Result<Box<dyn SnapshotSink>, ExecutionError> {
        Err(ExecutionError::failed(NO_COPIES))
    }
}

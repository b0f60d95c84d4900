//! Applies writes in two steps: decides them, then writes their effects.
//!
//! Between the steps the caller sees the verdicts, so that its state blob can depend on them and
//! still be in the same engine batch.

use std::sync::atomic::Ordering;

use kv_api::{CommitVerdict, KvError, TimedWrite};

use super::core::{Core, Writer};
use crate::engine::WriteBatch;
use crate::meta::{self, StateBlob};
use crate::sync::MutexGuard;

/// A larger batch buffer is freed instead of kept.
const MAX_KEPT_BATCH_BYTES: usize = 16 << 20;

/// Writes that are decided and not written yet. It holds the writer's lock: no other batch is
/// decided until this one is committed.
///
/// Dropping it uncommitted ends writing for good. The state machine is ahead of the engine then,
/// and the database has to be opened again.
#[must_use = "a batch that is not committed ends writing for good"]
pub struct PreparedBatch<'d> {
    core: &'d Core,
    writer: MutexGuard<'d, Writer>,
    verdicts: Vec<CommitVerdict>,
    /// Writes that took a version.
    committed: u64,
    is_written: bool,
}

impl PreparedBatch<'_> {
    /// The verdict of each write, in order.
    pub fn verdicts(&self) -> &[CommitVerdict] {
        &self.verdicts
    }

    /// Writes the effects of the batch and `blob` in one engine batch, publishes them to readers,
    /// and returns the verdicts. The engine's [`Durability`](crate::Durability) says when the batch
    /// survives a crash.
    ///
    /// # Errors
    /// Those of the storage. They are final: every later call fails, too.
    pub fn commit(self, blob: StateBlob) -> Result<Vec<CommitVerdict>, KvError> {
        self.write(Some(&blob))
    }

    /// Writes the effects of the batch, and removes the blob of the last one.
    pub(super) fn forget_blob(mut self) -> Result<(), KvError> {
        meta::delete_blob(&mut self.writer.batch);
        self.write(None).map(drop)
    }

    /// [`Self::commit`], also for a standalone database, which has no state blob.
    pub(crate) fn write(mut self, blob: Option<&StateBlob>) -> Result<Vec<CommitVerdict>, KvError> {
        self.is_written = true;
        let written = self.core.write_prepared(&mut self.writer, blob);
        self.core.damage.watch(written).inspect_err(|error| self.core.stop_after(error))?;
        let verdicts = std::mem::take(&mut self.verdicts);
        let aborted = verdicts.iter().filter(|verdict| verdict.is_err()).count() as u64;
        self.core.committed.fetch_add(self.committed, Ordering::Relaxed);
        self.core.aborted.fetch_add(aborted, Ordering::Relaxed);
        Ok(verdicts)
    }
}

impl Drop for PreparedBatch<'_> {
    fn drop(&mut self) {
        if !self.is_written {
            self.core.stop_after(&KvError::Storage("a prepared batch was never written".into()));
        }
    }
}

impl Core {
    /// `raise`: the feature level after these writes, if they raise it.
    pub fn prepare<'c>(
        &self,
        writes: impl IntoIterator<Item = &'c TimedWrite>,
        raise: Option<u32>,
    ) -> Result<PreparedBatch<'_>, KvError> {
        let mut writer = self.writer()?;
        let Writer { state, batch, effects, level, .. } = &mut *writer;
        batch.clear();
        effects.clear();
        if let Some(raised) = raise.filter(|raised| raised != level) {
            assert!(raised > *level, "the feature level of a database never goes down: {level} to {raised}");
            *level = raised;
            meta::put_level(batch, raised);
        }
        let version_before = state.counters().version;
        let decided = self.damage.watch(state.decide(&*self.engine, writes, batch, effects));
        let verdicts = decided.inspect_err(|error| self.stop_after(error))?;
        // Repeats of earlier commits and clock ticks take no version.
        let committed = state.counters().version - version_before;
        Ok(PreparedBatch { core: self, writer, verdicts, committed, is_written: false })
    }

    pub(super) fn write_prepared(&self, writer: &mut Writer, blob: Option<&StateBlob>) -> Result<(), KvError> {
        let Writer { state, batch, effects, gc, .. } = writer;
        // Before the batch: a process that is killed in between must not leave a hole.
        if let (Some(journal), Some(block)) = (&self.journal, effects.finish()) {
            journal.append(&block);
        }
        effects.clear();
        if let Some(blob) = blob {
            meta::put_blob(batch, blob);
        }
        if !batch.is_empty() {
            self.space.write(&*self.engine, batch)?;
            gc.written(batch);
        }
        state.written();
        if batch.size_bytes() > MAX_KEPT_BATCH_BYTES {
            *batch = WriteBatch::new();
        }
        self.publish(writer);
        Ok(())
    }
}

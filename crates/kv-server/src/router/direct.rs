//! The router of standalone mode, which runs every operation on the one database.

use std::sync::Arc;

use async_trait::async_trait;
use kv_api::{KvError, KvOperation, KvOutcome, LoggedWrite, ReadAt};
use kv_store::TransactionalKvDatabase;

use super::{LocalReader, RequestContext, RequestRouter, WriteSettings, authorized};
use crate::space::SpaceWatch;

/// Runs operations on a local database. Everything that the database has applied is durable, and
/// nothing else was acknowledged, so its newest version is always a linearizable read point.
pub struct DirectRouter {
    database: Arc<TransactionalKvDatabase>,
    reader: LocalReader,
    settings: WriteSettings,
    space: Arc<SpaceWatch>,
}

impl DirectRouter {
    /// A router over one database, which refuses writes while `space` has none.
    pub fn new(
        database: Arc<TransactionalKvDatabase>,
        reader: LocalReader,
        settings: WriteSettings,
        space: Arc<SpaceWatch>,
    ) -> Self {
        DirectRouter { database, reader, settings, space }
    }

    async fn write(&self, write: LoggedWrite, context: &RequestContext) -> Result<KvOutcome, KvError> {
        let write = authorized(write, context, &self.database)?;
        if !self.space.admit(write.size_bytes()) {
            return Err(KvError::StorageFull(self.space.refusal()));
        }
        let mut pending = self.database.submit(write)?;
        let verdict = match tokio::time::timeout_at(context.deadline, &mut pending).await {
            Ok(verdict) => verdict,
            Err(_) => pending.give_up(),
        };
        verdict.map(KvOutcome::Committed)
    }
}

#[async_trait]
impl RequestRouter for DirectRouter {
    async fn route(&self, operation: KvOperation, context: &RequestContext) -> Result<KvOutcome, KvError> {
        let newest = self.database.applied_version();
        match operation {
            KvOperation::ReadVersion => Ok(KvOutcome::ReadVersion(newest)),
            KvOperation::AtomicCommit(commit) => {
                self.write(self.settings.commit(commit, &self.database), context).await
            }
            KvOperation::ChangeFamily(change) => self.write(self.settings.family(change), context).await,
            KvOperation::ChangeAccess(change) => self.write(self.settings.access(change), context).await,
            KvOperation::ClockTick => self.write(self.settings.clock_tick(), context).await,
            KvOperation::ReadChanges(query) => {
                let changes = self.reader.poll_changes(&query, context.hurry.as_deref(), context.deadline).await;
                changes.map(KvOutcome::Changes)
            }
            KvOperation::Get { at: ReadAt::Version(version), .. }
            | KvOperation::GetRange { at: ReadAt::Version(version), .. } => {
                if version > newest {
                    // Nobody else commits, so there is nothing to wait for.
                    return Err(KvError::FutureVersion { read_version: version.0, current: newest.0 });
                }
                self.reader.read(operation, version, context.deadline).await
            }
            KvOperation::Get { .. } | KvOperation::GetRange { .. } => {
                self.reader.read(operation, newest, context.deadline).await
            }
        }
    }
}

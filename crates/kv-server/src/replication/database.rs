//! The replicated database as a `KvDatabase`. It has no logic of its own.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use kv_api::{
    AtomicCommit, CommitResult, DatabaseStatistics, KeyRef, KvDatabase, KvError, KvOperation, KvOutcome, RangeQuery,
    ReadAt, Rows, Version,
};
use tokio::time::Instant;

use super::local_replicas::LocalReplicas;
use super::router::{ConsensusRouter, INTERNAL_TIMEOUT};
use crate::router::{RequestContext, RequestRouter};

/// The cluster's database, for embedders and tests. Each call ends within ten seconds.
pub struct ReplicatedKvDatabase {
    router: Arc<ConsensusRouter>,
    local: Arc<LocalReplicas>,
}

impl ReplicatedKvDatabase {
    /// The database that `router` reads and writes.
    pub fn new(router: Arc<ConsensusRouter>, local: Arc<LocalReplicas>) -> Self {
        ReplicatedKvDatabase { router, local }
    }

    async fn route(&self, operation: KvOperation) -> Result<KvOutcome, KvError> {
        self.router.route(operation, &RequestContext::internal(Instant::now() + INTERNAL_TIMEOUT)).await
    }
}

/// By contract, the router returns the outcome of the operation's kind.
fn mismatch(outcome: KvOutcome) -> ! {
    panic!("the router answered with an outcome of another kind: {outcome:?}")
}

#[async_trait]
impl KvDatabase for ReplicatedKvDatabase {
    async fn read_version(&self) -> Result<Version, KvError> {
        match self.route(KvOperation::ReadVersion).await? {
            KvOutcome::ReadVersion(version) => Ok(version),
            other => mismatch(other),
        }
    }

    async fn get(&self, key: KeyRef, at: ReadAt) -> Result<Option<Bytes>, KvError> {
        match self.route(KvOperation::Get { key, at }).await? {
            KvOutcome::Value(value) => Ok(value),
            other => mismatch(other),
        }
    }

    async fn get_range(&self, query: RangeQuery, at: ReadAt) -> Result<Rows, KvError> {
        match self.route(KvOperation::GetRange { query, at }).await? {
            KvOutcome::Rows(rows) => Ok(rows),
            other => mismatch(other),
        }
    }

    async fn atomic_commit(&self, commit: AtomicCommit) -> Result<CommitResult, KvError> {
        match self.route(KvOperation::AtomicCommit(commit)).await? {
            KvOutcome::Committed(result) => Ok(result),
            other => mismatch(other),
        }
    }

    async fn statistics(&self) -> Result<DatabaseStatistics, KvError> {
        Ok(self.local.replicas()[0].reader.database().statistics_now())
    }
}

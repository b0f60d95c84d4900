//! Reports about the cluster and this server. Every number is measured or left out.

use std::sync::Arc;

use kv_api::KvError;

use super::KvServiceCore;
use crate::cluster::{ClusterSnapshot, ClusterView, ReplicaStatus};

/// The cluster at one point in time.
pub type ClusterHealth = ClusterSnapshot;

/// Statistics of the answering database, and of the requests that this server has answered since it
/// started.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct DatabaseFigures {
    /// Visible rows, an estimate.
    pub total_keys: u64,
    /// Bytes of live files and write buffers.
    pub total_size_bytes: u64,
    /// Requests of methods that write rows.
    pub write_operations: u64,
    /// Requests of methods that read rows.
    pub read_operations: u64,
    /// Average over reads and writes, from a request's arrival to its reply; 0 before the first.
    pub average_response_time_ms: f64,
    /// Commits in progress.
    pub active_transactions: u64,
    /// Committed transactions of all clients of the cluster.
    pub committed_transactions: u64,
    /// Refused transactions of all clients of the cluster.
    pub aborted_transactions: u64,
    /// Hit rate of the block cache in percent.
    pub cache_hit_rate_percent: Option<u64>,
    /// Bytes that wait for compaction.
    pub compaction_pending_bytes: Option<u64>,
}

impl KvServiceCore {
    /// The view of the cluster.
    pub fn cluster(&self) -> &Arc<dyn ClusterView> {
        &self.parts.cluster
    }

    /// The cluster as seen from this server.
    pub async fn cluster_health(&self) -> ClusterHealth {
        self.parts.cluster.snapshot().await
    }

    /// The state of a replica (`None` for the answering one), and the cluster as seen with it.
    pub async fn node_info(&self, node_id: Option<i32>) -> Result<(ReplicaStatus, ClusterSnapshot), KvError> {
        let cluster = self.parts.cluster.snapshot().await;
        let found = match node_id {
            None => cluster.replica(cluster.node_id),
            Some(id) => u32::try_from(id).ok().and_then(|id| cluster.replica(id)),
        };
        let Some(replica) = found.cloned() else {
            let id = node_id.unwrap_or(cluster.node_id as i32);
            let ids: Vec<String> = cluster.replicas.iter().map(|replica| replica.id.to_string()).collect();
            return Err(KvError::InvalidOperation(format!("Node {id} not found: there are {}", ids.join(", "))));
        };
        Ok((replica, cluster))
    }

    /// The statistics of the first database in this process.
    pub async fn database_figures(&self) -> Result<DatabaseFigures, KvError> {
        let replicas = self.parts.replicas.replicas();
        let Some(replica) = replicas.first() else {
            return Err(KvError::Storage("this server has no database open".to_string()));
        };
        let database = replica.reader.database().statistics_now();
        let traffic = self.parts.metrics.traffic();
        Ok(DatabaseFigures {
            total_keys: database.total_keys,
            total_size_bytes: database.total_size_bytes,
            write_operations: traffic.writes,
            read_operations: traffic.reads,
            average_response_time_ms: traffic.average_response_time_ms,
            active_transactions: traffic.active_transactions,
            committed_transactions: database.committed_transactions,
            aborted_transactions: database.aborted_transactions,
            cache_hit_rate_percent: database.cache_hit_rate_percent,
            compaction_pending_bytes: database.compaction_pending_bytes,
        })
    }
}

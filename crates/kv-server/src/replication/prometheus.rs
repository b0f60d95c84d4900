//! Exports the metrics of consensus to Prometheus. They are read from the replicas at each scrape.

use std::sync::Arc;

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntCounterVec, IntGaugeVec, Opts};
use rsml::DriverStatus;

use super::local_replicas::LocalReplicas;

/// Name, help text and reader of a metric.
type Figure = (&'static str, &'static str, fn(&DriverStatus) -> u64);

const COUNTERS: [Figure; 14] = [
    ("synodkv_proposals_total", "Values proposed by this replica as primary.", |s| s.core.proposals),
    ("synodkv_view_changes_total", "Views whose log this replica adopted.", |s| s.core.view_changes),
    ("synodkv_snapshots_installed_total", "Copies of another replica's database that replaced this one's.", |s| {
        s.core.snapshots_installed
    }),
    ("synodkv_requests_executed_total", "Operations applied.", |s| s.requests_executed),
    ("synodkv_fsyncs_total", "Syncs of the consensus log.", |s| s.storage.fsyncs),
    ("synodkv_log_entries_written_total", "Entries written to the consensus log.", |s| s.storage.entries_written),
    ("synodkv_log_bytes_written_total", "Bytes written to the consensus log.", |s| s.storage.bytes_written),
    ("synodkv_peer_bytes_sent_total", "Bytes sent to other replicas.", |s| s.network.bytes_sent),
    ("synodkv_peer_bytes_received_total", "Bytes received from other replicas.", |s| s.network.bytes_received),
    ("synodkv_peer_messages_dropped_total", "Messages to other replicas that were dropped.", |s| {
        s.network.messages_dropped
    }),
    (
        "synodkv_peer_connections_rejected_total",
        "Connections to the peer port that were closed because they came from no peer.",
        |s| s.network.connections_rejected,
    ),
    ("synodkv_peer_tls_failures_total", "Connections between replicas, either way, that failed over TLS.", |s| {
        s.network.tls_failures
    }),
    ("synodkv_peer_messages_unknown_total", "Messages of a kind that this version does not know, ignored.", |s| {
        s.messages_unknown
    }),
    ("synodkv_foreign_messages_total", "Messages of another cluster, disk or start, ignored.", |s| {
        s.core.foreign_messages
    }),
];

const GAUGES: [Figure; 19] = [
    ("synodkv_feature_level", "The feature level that the database has applied.", |s| {
        u64::from(s.core.feature_level.0)
    }),
    ("synodkv_feature_level_highest", "The highest feature level that this program executes.", |s| {
        u64::from(s.core.levels.highest.0)
    }),
    ("synodkv_view", "The view promised.", |s| s.core.view.0),
    ("synodkv_epoch", "The epoch of the members under which this replica acts.", |s| s.core.epoch.0),
    ("synodkv_voters", "Members that vote in that epoch.", |s| s.core.configuration.voters().count() as u64),
    ("synodkv_members", "Members in that epoch.", |s| s.core.configuration.members.len() as u64),
    ("synodkv_is_voter", "1 while the disk of this replica votes.", |s| u64::from(s.core.is_voter)),
    ("synodkv_is_primary", "1 on the primary.", |s| u64::from(s.core.role == "primary")),
    ("synodkv_is_catching_up", "1 while this replica receives a copy of another's database.", |s| {
        u64::from(s.core.is_catching_up)
    }),
    ("synodkv_copy_received_bytes", "Bytes of that copy received so far.", |s| {
        s.core.copy.as_ref().map_or(0, |c| c.received)
    }),
    ("synodkv_log_held_for", "Replicas that fetch a copy, for which the log is kept whatever its size.", |s| {
        s.core.log_held_for.len() as u64
    }),
    ("synodkv_is_stalled", "1 while a thread of this replica is stalled.", |s| u64::from(s.stalled.is_some())),
    ("synodkv_log_lost_entries", "Lost log entries that were not fetched from other replicas yet.", |s| {
        s.core.lost.iter().map(|(from, to)| to.0 - from.0 + 1).sum()
    }),
    ("synodkv_log_last_sequence", "The last entry of the log.", |s| s.core.last.0),
    ("synodkv_committed_sequence", "The last entry known to be committed.", |s| s.core.commit.0),
    ("synodkv_applied_sequence", "The last entry applied to the database.", |s| s.digest_sequence.0),
    ("synodkv_pending_request_bytes", "Bytes of operations without an outcome.", |s| {
        s.core.pending_request_bytes as u64
    }),
    ("synodkv_peer_queued_bytes", "Bytes that wait to be sent to other replicas.", |s| s.network.bytes_queued),
    ("synodkv_log_disk_bytes", "Bytes of the consensus log on disk.", |s| s.storage.bytes_on_disk),
];

/// The values of the log by their number of operations, as a cumulative count per upper bound.
const BATCH_SIZES: (&str, &str) =
    ("synodkv_batch_size_values_total", "Values applied with at most `le` operations, cumulative.");

/// The Prometheus collector of consensus metrics.
pub struct ConsensusCollector {
    local: Arc<LocalReplicas>,
}

impl ConsensusCollector {
    /// A collector for these replicas.
    pub fn new(local: Arc<LocalReplicas>) -> Self {
        ConsensusCollector { local }
    }

    fn families(&self) -> prometheus::Result<Vec<MetricFamily>> {
        let statuses: Vec<(String, DriverStatus)> =
            self.local.replicas().iter().map(|r| (r.id.to_string(), r.consensus.status())).collect();
        let mut families = Vec::new();
        for (name, help, figure) in COUNTERS {
            let counter = IntCounterVec::new(Opts::new(name, help), &["replica"])?;
            for (id, status) in &statuses {
                counter.with_label_values(&[id.as_str()]).inc_by(figure(status));
            }
            families.extend(counter.collect());
        }
        for (name, help, figure) in GAUGES {
            let gauge = IntGaugeVec::new(Opts::new(name, help), &["replica"])?;
            for (id, status) in &statuses {
                gauge.with_label_values(&[id.as_str()]).set(i64::try_from(figure(status)).unwrap_or(i64::MAX));
            }
            families.extend(gauge.collect());
        }
        let sizes = IntCounterVec::new(Opts::new(BATCH_SIZES.0, BATCH_SIZES.1), &["replica", "le"])?;
        for (id, status) in &statuses {
            let mut sum = 0;
            for (power, count) in status.batch_sizes.iter().enumerate() {
                sum += count;
                let bound = ((1u64 << power) - 1).to_string();
                sizes.with_label_values(&[id.as_str(), bound.as_str()]).inc_by(sum);
            }
        }
        families.extend(sizes.collect());
        Ok(families)
    }
}

impl Collector for ConsensusCollector {
    fn desc(&self) -> Vec<&Desc> {
        Vec::new()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.families().unwrap_or_else(|error| {
            tracing::error!(%error, "cannot collect the metrics of consensus");
            Vec::new()
        })
    }
}

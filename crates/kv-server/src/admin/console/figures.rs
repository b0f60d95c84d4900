//! The figures that the series of the console show, and the metrics that they follow from.

use kv_api::thrift::MethodKind;

/// One series.
pub(super) struct Figure {
    /// Its name in the JSON, which never changes its meaning.
    pub name: &'static str,
    /// Its name for people.
    pub label: &'static str,
    /// `per_second`, `bytes_per_second`, `bytes`, `count` or `seconds`.
    pub unit: &'static str,
    /// The metric that it follows from.
    pub metric: &'static str,
    /// How it follows.
    pub how: How,
}

/// How a value follows from a metric with all its labels.
#[derive(Clone, Copy)]
pub(super) enum How {
    /// The sum of a counter over methods of a kind, or over all of its labels, by the second.
    Rate(Option<MethodKind>),
    /// The same over all labels, for a counter that is not there before it counts something.
    LateRate,
    /// The sum.
    Sum,
    /// The largest.
    Largest,
    /// A quantile of a histogram over methods of a kind, in the last second.
    Quantile(f64, MethodKind),
}

const fn figure(name: &'static str, label: &'static str, unit: &'static str, metric: &'static str, how: How) -> Figure {
    Figure { name, label, unit, metric, how }
}

const REQUESTS: &str = "synodkv_requests_total";
const LATENCY: &str = "synodkv_request_seconds";
const BYTES: &str = "bytes";
const COUNT: &str = "count";
const SECONDS: &str = "seconds";
const RATE: &str = "per_second";
const BYTE_RATE: &str = "bytes_per_second";

/// All series. A server without a metric, for example a standalone one without consensus, has only
/// gaps in its series.
#[rustfmt::skip]
pub(super) const FIGURES: [Figure; 29] = [
    figure("reads", "Reads", RATE, REQUESTS, How::Rate(Some(MethodKind::Read))),
    figure("writes", "Writes", RATE, REQUESTS, How::Rate(Some(MethodKind::Write))),
    figure("errors", "Requests answered with an error", RATE, "synodkv_request_errors_total", How::LateRate),
    figure("commits", "Transactions committed", RATE, "synodkv_database_committed_transactions", How::Rate(None)),
    figure("conflicts", "Transactions refused", RATE, "synodkv_database_aborted_transactions", How::Rate(None)),
    figure("read_p50", "Read time, median", SECONDS, LATENCY, How::Quantile(0.5, MethodKind::Read)),
    figure("read_p99", "Read time, 99 %", SECONDS, LATENCY, How::Quantile(0.99, MethodKind::Read)),
    figure("write_p50", "Write time, median", SECONDS, LATENCY, How::Quantile(0.5, MethodKind::Write)),
    figure("write_p99", "Write time, 99 %", SECONDS, LATENCY, How::Quantile(0.99, MethodKind::Write)),
    figure("connections", "Client connections", COUNT, "synodkv_connections_open", How::Sum),
    figure("new_connections", "New client connections", RATE, "synodkv_connections_total", How::Rate(None)),
    figure("received", "Received from clients", BYTE_RATE, "synodkv_received_bytes_total", How::Rate(None)),
    figure("sent", "Sent to clients", BYTE_RATE, "synodkv_sent_bytes_total", How::Rate(None)),
    figure("rows", "Visible rows", COUNT, "synodkv_database_keys", How::Largest),
    figure("data", "Size of the data", BYTES, "synodkv_database_bytes", How::Sum),
    figure("stored_versions", "Versions of rows stored", COUNT, "synodkv_database_stored_versions", How::Largest),
    figure("compaction", "Waiting for compaction", BYTES, "synodkv_database_compaction_pending_bytes", How::Sum),
    figure("range_clears", "Range clears not finished", COUNT, "synodkv_database_pending_range_clears", How::Largest),
    figure("pins", "Pinned versions", COUNT, "synodkv_database_pins", How::Largest),
    figure("free_space", "Free disk space", BYTES, "synodkv_data_dir_free_bytes", How::Sum),
    figure("log_syncs", "Syncs of the log", RATE, "synodkv_fsyncs_total", How::Rate(None)),
    figure("log_written", "Written to the log", BYTE_RATE, "synodkv_log_bytes_written_total", How::Rate(None)),
    figure("log_size", "Size of the log", BYTES, "synodkv_log_disk_bytes", How::Sum),
    figure("proposals", "Values proposed", RATE, "synodkv_proposals_total", How::Rate(None)),
    figure("waiting", "Operations without an outcome", BYTES, "synodkv_pending_request_bytes", How::Sum),
    figure("peers_sent", "Sent to other replicas", BYTE_RATE, "synodkv_peer_bytes_sent_total", How::Rate(None)),
    figure("peers_received", "Received from other replicas", BYTE_RATE, "synodkv_peer_bytes_received_total", How::Rate(None)),
    figure("peers_queued", "Waiting for other replicas", BYTES, "synodkv_peer_queued_bytes", How::Sum),
    figure("view_changes", "View changes", RATE, "synodkv_view_changes_total", How::Rate(None)),
];

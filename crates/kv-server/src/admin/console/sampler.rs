//! Fills the series, once a second, from the metrics that the server has anyway.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use kv_api::thrift::{Method, MethodKind};
use prometheus::proto::{Metric, MetricFamily};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::series::SharedSeries;
use crate::metrics::ServerMetrics;

/// One series.
pub(super) struct Figure {
    /// Its name in the JSON, which never changes its meaning.
    pub name: &'static str,
    /// Its name for people.
    pub label: &'static str,
    /// `per_second`, `bytes_per_second`, `bytes`, `count` or `seconds`.
    pub unit: &'static str,
    metric: &'static str,
    how: How,
}

/// How a value follows from a metric with all its labels.
#[derive(Clone, Copy)]
enum How {
    /// The sum of a counter over methods of a kind, or over all of its labels, by the second.
    Rate(Option<MethodKind>),
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
    figure("errors", "Requests answered with an error", RATE, "synodkv_request_errors_total", How::Rate(None)),
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

const SECOND: Duration = Duration::from_secs(1);

/// Takes a sample each second until `stop`.
pub(super) async fn run(metrics: Arc<ServerMetrics>, series: Arc<SharedSeries>, stop: CancellationToken) {
    let start = Instant::now();
    let mut ticks = tokio::time::interval_at(start, SECOND);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut sampler = Sampler::default();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            now = ticks.tick() => {
                let values = sampler.take(&metrics.registry().gather(), Instant::now());
                series.push((now - start).as_secs(), &values);
            }
        }
    }
}

/// Keeps the counts of the last sample, from which rates follow.
#[derive(Default)]
struct Sampler {
    last: Option<(Instant, Vec<Counted>)>,
}

/// The raw numbers behind one series.
#[derive(Clone, Default)]
struct Counted {
    /// A sum, a level, or the observations of a histogram; `None` if there is no such metric.
    value: Option<f64>,
    /// The bounds of a histogram, each with the observations up to it.
    buckets: Vec<(f64, u64)>,
}

impl Sampler {
    fn take(&mut self, families: &[MetricFamily], now: Instant) -> Vec<f32> {
        let families: HashMap<&str, &MetricFamily> = families.iter().map(|family| (family.name(), family)).collect();
        let count = |figure: &Figure| families.get(figure.metric).map(|f| counted(f, figure.how)).unwrap_or_default();
        let counted: Vec<Counted> = FIGURES.iter().map(count).collect();
        let last = self.last.replace((now, counted.clone()));
        let value = |(at, figure): (usize, &Figure)| {
            let before = last.as_ref().map(|(then, counted)| (now - *then, &counted[at]));
            value(figure.how, &counted[at], before).map_or(f32::NAN, |value| value as f32)
        };
        FIGURES.iter().enumerate().map(value).collect()
    }
}

fn counted(family: &MetricFamily, how: How) -> Counted {
    let kind = match how {
        How::Rate(kind) => kind,
        How::Quantile(_, kind) => Some(kind),
        How::Sum | How::Largest => None,
    };
    let metrics = family.get_metric().iter().filter(|metric| kind.is_none_or(|kind| kind_of(metric) == Some(kind)));
    let mut counted = Counted::default();
    for metric in metrics {
        let histogram = metric.get_histogram();
        let value =
            metric.get_counter().get_value() + metric.get_gauge().get_value() + histogram.get_sample_count() as f64;
        counted.value = Some(match (counted.value, how) {
            (None, _) => value,
            (Some(before), How::Largest) => before.max(value),
            (Some(before), _) => before + value,
        });
        for (at, bucket) in histogram.get_bucket().iter().enumerate() {
            match counted.buckets.get_mut(at) {
                Some((_, count)) => *count += bucket.cumulative_count(),
                None => counted.buckets.push((bucket.upper_bound(), bucket.cumulative_count())),
            }
        }
    }
    counted
}

fn kind_of(metric: &Metric) -> Option<MethodKind> {
    let label = metric.get_label().iter().find(|label| label.name() == "method")?;
    Method::ALL.iter().find(|method| method.name() == label.value()).map(|method| method.kind())
}

/// The value of a series; `None` for a gap.
fn value(how: How, now: &Counted, before: Option<(Duration, &Counted)>) -> Option<f64> {
    match how {
        How::Sum | How::Largest => now.value,
        How::Rate(_) => {
            let (took, before) = before?;
            let grown = now.value? - before.value?;
            // A counter begins again at 0 with another database; that second has no rate.
            (grown >= 0.0 && !took.is_zero()).then(|| grown / took.as_secs_f64())
        }
        How::Quantile(quantile, _) => quantile_of(quantile, now, before?.1),
    }
}

/// A quantile of what was observed between two samples, from the buckets, evenly spread within each.
fn quantile_of(quantile: f64, now: &Counted, before: &Counted) -> Option<f64> {
    let all = now.value? - before.value?;
    if all <= 0.0 || now.buckets.len() != before.buckets.len() {
        return None;
    }
    let rank = quantile * all;
    let (mut below, mut lower) = (0.0, 0.0);
    for ((bound, count), (_, count_before)) in now.buckets.iter().zip(&before.buckets) {
        let up_to = count.saturating_sub(*count_before) as f64;
        if up_to >= rank && up_to > below {
            return Some(lower + (bound - lower) * ((rank - below) / (up_to - below)));
        }
        (below, lower) = (up_to, *bound);
    }
    // Beyond the last bound, nothing more is known.
    Some(lower)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(name: &str) -> usize {
        FIGURES.iter().position(|figure| figure.name == name).expect(name)
    }

    #[test]
    fn each_series_has_one_name() {
        let names: std::collections::HashSet<&str> = FIGURES.iter().map(|figure| figure.name).collect();
        assert_eq!(names.len(), FIGURES.len());
    }

    #[test]
    fn rates_and_quantiles_are_of_the_time_between_two_samples() {
        let metrics = ServerMetrics::new();
        let mut sampler = Sampler::default();
        let start = Instant::now();
        metrics.request_ended(Method::Get, Duration::from_secs(9), None);
        let first = sampler.take(&metrics.registry().gather(), start);
        assert!(first[at("reads")].is_nan(), "nothing to compare with");
        for _ in 0..10 {
            metrics.request_ended(Method::Get, Duration::from_micros(300), None);
        }
        metrics.request_ended(Method::SetKey, Duration::from_micros(300), Some("STORAGE_FULL"));
        let second = sampler.take(&metrics.registry().gather(), start + Duration::from_secs(2));
        assert_eq!((second[at("reads")], second[at("writes")], second[at("errors")]), (5.0, 0.5, 0.5));
        let median = second[at("read_p50")];
        assert!((0.000_25..=0.000_5).contains(&median), "{median}");
        assert!(second[at("log_syncs")].is_nan(), "no consensus here");
        let third = sampler.take(&metrics.registry().gather(), start + Duration::from_secs(3));
        assert_eq!(third[at("reads")], 0.0);
        assert!(third[at("read_p50")].is_nan(), "no reads, no time");
    }

    #[test]
    fn a_counter_that_begins_again_gives_a_gap() {
        let counted = |value| Counted { value: Some(value), buckets: Vec::new() };
        let rate = |now: f64| value(How::Rate(None), &counted(now), Some((SECOND, &counted(10.0))));
        assert_eq!((rate(12.0), rate(3.0)), (Some(2.0), None));
    }
}

//! The metrics of a server, in one Prometheus registry. They are also the source of the traffic
//! counts that `getDatabaseStats` returns.
//!
//! Other parts, such as replication, register their own collectors at [`ServerMetrics::registry`].

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use kv_api::thrift::MethodKind;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{
    Encoder, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGaugeVec, Opts, Registry,
    TextEncoder,
};

use crate::cluster::LocalDatabases;
use crate::thrift_server::{Method, ThriftServerCounters};

/// From a cached read to the default deadline, in seconds.
const LATENCY_BUCKETS: &[f64] = &[
    0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];

/// Sums over reads and writes since the server started.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Traffic {
    /// Requests of methods that read rows.
    pub reads: u64,
    /// Requests of methods that write rows.
    pub writes: u64,
    /// 0 before the first.
    pub average_response_time_ms: f64,
    /// Commits in progress.
    pub active_transactions: u64,
}

/// The metrics of one server.
pub struct ServerMetrics {
    registry: Registry,
    /// By method, in the order of `Method::ALL`.
    methods: Vec<MethodMetrics>,
    errors: IntCounterVec,
    active_transactions: AtomicU64,
}

struct MethodMetrics {
    requests: IntCounter,
    latency: Histogram,
}

impl ServerMetrics {
    /// Metrics in a new registry.
    pub fn new() -> Arc<Self> {
        let registry = Registry::new();
        let requests =
            IntCounterVec::new(Opts::new("synodkv_requests_total", "Requests answered, by method"), &["method"])
                .expect("a valid metric");
        let latency = HistogramOpts::new("synodkv_request_seconds", "From a request's arrival to its reply, by method")
            .buckets(LATENCY_BUCKETS.to_vec());
        let latency = HistogramVec::new(latency, &["method"]).expect("a valid metric");
        let errors = Opts::new("synodkv_request_errors_total", "Requests answered with an error, by method and code");
        let errors = IntCounterVec::new(errors, &["method", "code"]).expect("a valid metric");
        let register = |collector: Box<dyn Collector>| registry.register(collector).expect("each name is used once");
        register(Box::new(requests.clone()));
        register(Box::new(latency.clone()));
        register(Box::new(errors.clone()));
        let of_method = |method: &Method| MethodMetrics {
            requests: requests.with_label_values(&[method.name()]),
            latency: latency.with_label_values(&[method.name()]),
        };
        let methods = Method::ALL.iter().map(of_method).collect();
        Arc::new(ServerMetrics { registry, methods, errors, active_transactions: AtomicU64::new(0) })
    }

    /// Where other parts register their collectors. Names begin with `synodkv_`.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Counts a request that ended. `code` is the code of its error, if it failed.
    pub fn request_ended(&self, method: Method, took: Duration, code: Option<&str>) {
        let metrics = &self.methods[method as usize];
        metrics.requests.inc();
        metrics.latency.observe(took.as_secs_f64());
        if let Some(code) = code {
            self.errors.with_label_values(&[method.name(), code]).inc();
        }
    }

    /// Requests that were answered with one of these errors, over all methods.
    pub fn errors(&self, codes: &[&str]) -> u64 {
        let is_asked = |metric: &&prometheus::proto::Metric| {
            metric.get_label().iter().any(|label| label.name() == "code" && codes.contains(&label.value()))
        };
        let families = self.errors.collect();
        let asked = families.iter().flat_map(|family| family.get_metric()).filter(is_asked);
        asked.map(|metric| metric.get_counter().get_value() as u64).sum()
    }

    /// Counts an active transaction until the returned value is dropped.
    pub fn begin_transaction(&self) -> ActiveTransaction<'_> {
        self.active_transactions.fetch_add(1, Ordering::Relaxed);
        ActiveTransaction(&self.active_transactions)
    }

    /// The sums over all methods.
    pub fn traffic(&self) -> Traffic {
        let (mut traffic, mut seconds) = (Traffic::default(), 0.0);
        for (method, metrics) in Method::ALL.iter().zip(&self.methods) {
            match method.kind() {
                MethodKind::Read => traffic.reads += metrics.requests.get(),
                MethodKind::Write => traffic.writes += metrics.requests.get(),
                MethodKind::Other => continue,
            }
            seconds += metrics.latency.get_sample_sum();
        }
        let answered = traffic.reads + traffic.writes;
        if answered > 0 {
            traffic.average_response_time_ms = seconds * 1000.0 / answered as f64;
        }
        traffic.active_transactions = self.active_transactions.load(Ordering::Relaxed);
        traffic
    }

    /// Adds the metrics of the sockets and of the databases in this process, which are read at each
    /// scrape.
    pub fn watch(&self, counters: Arc<ThriftServerCounters>, replicas: Arc<dyn LocalDatabases>) {
        let register = |collector: Box<dyn Collector>| {
            self.registry.register(collector).expect("called once for each server");
        };
        register(Box::new(ConnectionCollector::new(counters)));
        register(Box::new(DatabaseCollector::new(replicas)));
    }

    /// The metrics page in the Prometheus text format.
    pub fn page(&self) -> String {
        let mut page = Vec::new();
        if let Err(error) = TextEncoder::new().encode(&self.registry.gather(), &mut page) {
            tracing::error!(%error, "cannot write the page of metrics");
        }
        String::from_utf8_lossy(&page).into_owned()
    }
}

/// An active transaction, counted until it is dropped.
pub struct ActiveTransaction<'a>(&'a AtomicU64);

impl Drop for ActiveTransaction<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Measures one request.
pub struct Stopwatch(Instant);

impl Stopwatch {
    /// Starts to measure.
    pub fn start() -> Self {
        Stopwatch(Instant::now())
    }

    /// The time since the start.
    pub fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }
}

type ReadCounter = fn(&ThriftServerCounters) -> &AtomicU64;

/// The Thrift server's own counters.
struct ConnectionCollector {
    counters: Arc<ThriftServerCounters>,
    open: prometheus::IntGauge,
    totals: Vec<(IntCounter, ReadCounter)>,
}

impl ConnectionCollector {
    fn new(counters: Arc<ThriftServerCounters>) -> Self {
        let table: [(&str, &str, ReadCounter); 9] = [
            ("synodkv_connections_total", "Connections accepted", |c| &c.connections_total),
            ("synodkv_connections_refused_total", "Connections beyond max_connections", |c| &c.connections_refused),
            ("synodkv_connections_displaced_total", "Idle connections closed for new ones", |c| {
                &c.connections_displaced
            }),
            ("synodkv_connections_timed_out_total", "Connections closed by a timeout", |c| &c.connections_timed_out),
            ("synodkv_received_bytes_total", "Bytes of requests", |c| &c.bytes_in),
            ("synodkv_sent_bytes_total", "Bytes of replies", |c| &c.bytes_out),
            ("synodkv_protocol_errors_total", "Invalid messages", |c| &c.protocol_errors),
            ("synodkv_handler_panics_total", "Requests whose handler panicked", |c| &c.handler_panics),
            ("synodkv_oversized_replies_total", "Replies too long to be sent", |c| &c.oversized_replies),
        ];
        let counter = |(name, help, read): (&str, &str, ReadCounter)| {
            (IntCounter::new(name, help).expect("a valid metric"), read)
        };
        let open =
            prometheus::IntGauge::new("synodkv_connections_open", "Connections open now").expect("a valid metric");
        ConnectionCollector { counters, open, totals: table.into_iter().map(counter).collect() }
    }
}

impl Collector for ConnectionCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.open.desc().into_iter().chain(self.totals.iter().flat_map(|(counter, _)| counter.desc())).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.open.set(self.counters.connections_open.load(Ordering::Relaxed) as i64);
        let mut families = self.open.collect();
        for (counter, read) in &self.totals {
            // Two concurrent scrapes may both add the difference; the next one corrects that.
            let (shown, now) = (counter.get(), read(&self.counters).load(Ordering::Relaxed));
            if now >= shown {
                counter.inc_by(now - shown);
            } else {
                counter.reset();
                counter.inc_by(now);
            }
            families.extend(counter.collect());
        }
        families
    }
}

/// The metrics of the databases.
struct DatabaseCollector {
    replicas: Arc<dyn LocalDatabases>,
    gauges: Vec<IntGaugeVec>,
}

impl DatabaseCollector {
    fn new(replicas: Arc<dyn LocalDatabases>) -> Self {
        let names = [
            ("synodkv_database_keys", "Visible rows"),
            ("synodkv_database_bytes", "Bytes of live files and write buffers"),
            ("synodkv_database_committed_transactions", "Transactions committed since the start"),
            ("synodkv_database_aborted_transactions", "Transactions refused since the start"),
            ("synodkv_database_applied_version", "Newest commit version that readers see"),
            ("synodkv_database_compaction_pending_bytes", "Bytes waiting for compaction"),
            ("synodkv_database_oldest_readable_version", "Start of the readable window; pinned versions may be older"),
            ("synodkv_database_pending_range_clears", "Range clears that are not finished yet"),
            ("synodkv_database_stored_versions", "Versions of rows that are stored, an estimate"),
            ("synodkv_database_swept_versions", "Versions removed behind deletes and range clears since the start"),
            ("synodkv_database_idempotency_ids", "Results of commits remembered under an idempotency id"),
            ("synodkv_database_pins", "Pins of versions, by clients"),
        ];
        let gauge =
            |(name, help): (&str, &str)| IntGaugeVec::new(Opts::new(name, help), &["replica"]).expect("a valid metric");
        DatabaseCollector { replicas, gauges: names.into_iter().map(gauge).collect() }
    }
}

impl Collector for DatabaseCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.gauges.iter().flat_map(|gauge| gauge.desc()).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        for replica in self.replicas.replicas() {
            let database = replica.reader.database();
            let figures = database.statistics_now();
            let kept = database.retention();
            let values = [
                Some(figures.total_keys),
                Some(figures.total_size_bytes),
                Some(figures.committed_transactions),
                Some(figures.aborted_transactions),
                Some(database.applied_version().0),
                figures.compaction_pending_bytes,
                Some(kept.oldest_readable),
                Some(kept.pending_clears),
                kept.stored_versions,
                Some(kept.collected_versions),
                Some(kept.remembered_ids),
                Some(kept.pins),
            ];
            let label = replica.id.to_string();
            for (gauge, value) in self.gauges.iter().zip(values) {
                if let Some(value) = value {
                    gauge.with_label_values(&[&label]).set(i64::try_from(value).unwrap_or(i64::MAX));
                }
            }
        }
        self.gauges.iter().flat_map(|gauge| gauge.collect()).collect()
    }
}

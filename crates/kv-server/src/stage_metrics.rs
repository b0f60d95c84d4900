//! Metrics of the stages of requests, and of the threads that all writes pass. They are read from
//! the databases of this process at each scrape, and added up.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use prometheus::core::{Collector, Desc};
use prometheus::proto::{Bucket, Counter, Histogram, LabelPair, Metric, MetricFamily, MetricType};
use stage_times::{BOUNDS_US, Snapshot, Stage, StageFigures, Worker};

use crate::cluster::LocalDatabases;

/// Exports them to Prometheus.
pub(crate) struct StageCollector {
    replicas: Arc<dyn LocalDatabases>,
    descriptions: [Desc; 2],
}

const STAGES: (&str, &str) = (
    "synodkv_stage_seconds",
    "Time of requests in each stage of their way; log_sync of a replica: of each write to the log",
);
const BUSY: (&str, &str) = (
    "synodkv_thread_busy_seconds_total",
    "Time in which a thread that all writes pass has worked; of all replicas of this process together",
);

impl StageCollector {
    pub fn new(replicas: Arc<dyn LocalDatabases>) -> Self {
        let describe = |(name, help): (&str, &str), label: &str| {
            Desc::new(name.into(), help.into(), vec![label.into()], HashMap::new()).expect("a valid metric")
        };
        StageCollector { replicas, descriptions: [describe(STAGES, "stage"), describe(BUSY, "thread")] }
    }
}

impl Collector for StageCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let snapshot = self.replicas.stages(Instant::now());
        vec![stages(&snapshot), busy(&snapshot)]
    }
}

fn stages(snapshot: &Snapshot) -> MetricFamily {
    let metric = |stage: Stage| labelled("stage", stage.name(), |m| m.set_histogram(histogram(snapshot.stage(stage))));
    family(STAGES, MetricType::HISTOGRAM, Stage::ALL.map(metric).into())
}

fn busy(snapshot: &Snapshot) -> MetricFamily {
    let counter = |worker: Worker| {
        let mut counter = Counter::default();
        counter.set_value(snapshot.busy(worker).as_secs_f64());
        counter
    };
    let metric = |worker: Worker| labelled("thread", worker.name(), |m| m.set_counter(counter(worker)));
    let metrics = Worker::ALL.map(metric).into();
    family(BUSY, MetricType::COUNTER, metrics)
}

fn histogram(figures: &StageFigures) -> Histogram {
    let mut sum = 0;
    let bucket = |(bound_us, count): (&u64, &u64)| {
        sum += count;
        let mut bucket = Bucket::default();
        bucket.set_upper_bound(*bound_us as f64 / 1e6);
        bucket.set_cumulative_count(sum);
        bucket
    };
    let mut histogram = Histogram::default();
    histogram.set_bucket(BOUNDS_US.iter().zip(&figures.buckets).map(bucket).collect());
    histogram.set_sample_count(figures.count());
    histogram.set_sample_sum(figures.sum_ns as f64 / 1e9);
    histogram
}

fn labelled(name: &str, value: &str, set: impl FnOnce(&mut Metric)) -> Metric {
    let mut label = LabelPair::default();
    label.set_name(name.to_string());
    label.set_value(value.to_string());
    let mut metric = Metric::from_label(vec![label]);
    set(&mut metric);
    metric
}

fn family((name, help): (&str, &str), kind: MetricType, metrics: Vec<Metric>) -> MetricFamily {
    let mut family = MetricFamily::default();
    family.set_name(name.to_string());
    family.set_help(help.to_string());
    family.set_field_type(kind);
    family.set_metric(metrics);
    family
}

//! The counts and latencies of a run.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use hdrhistogram::Histogram;
use kv_client::ErrorCode;
use serde::Serialize;
use tokio::time::Instant;

use super::args::LoadArgs;
use super::workload::{Operation, Workload};

/// Longer latencies are recorded as this.
const LONGEST_US: u64 = 600_000_000;

pub struct Statistics {
    begun: Instant,
    /// Latencies of successful requests, in µs.
    latencies: Histogram<u64>,
    /// Latencies of each operation, if there are several.
    by_operation: BTreeMap<Operation, Histogram<u64>>,
    /// Successful requests that were answered before the run's end.
    operations: u64,
    errors: BTreeMap<String, u64>,
    /// Attempts at a transaction that were followed by another one, by error code.
    retries: BTreeMap<String, u64>,
    connections_lost: u64,
    last_success: Instant,
    longest_pause: Duration,
    /// For the progress line: the time of the last one, and `operations` then.
    progress: (Instant, u64),
}

impl Statistics {
    pub fn new(begun: Instant, operations: impl IntoIterator<Item = Operation>) -> Self {
        let mut by_operation: BTreeMap<_, _> = operations.into_iter().map(|each| (each, histogram())).collect();
        if by_operation.len() == 1 {
            by_operation.clear();
        }
        Statistics {
            begun,
            latencies: histogram(),
            by_operation,
            operations: 0,
            errors: BTreeMap::new(),
            retries: BTreeMap::new(),
            connections_lost: 0,
            last_success: begun,
            longest_pause: Duration::ZERO,
            progress: (begun, 0),
        }
    }

    /// Counts a successful request. `in_time` means before the end of the run; later replies count
    /// for latency, not for throughput.
    pub fn success(&mut self, operation: Operation, latency: Duration, now: Instant, in_time: bool) {
        let latency_us = (latency.as_micros() as u64).max(1);
        self.latencies.saturating_record(latency_us);
        if let Some(latencies) = self.by_operation.get_mut(&operation) {
            latencies.saturating_record(latency_us);
        }
        self.longest_pause = self.longest_pause.max(now.saturating_duration_since(self.last_success));
        self.last_success = now;
        self.operations += u64::from(in_time);
    }

    pub fn error(&mut self, code: &str, count: u64) {
        add(&mut self.errors, code, count);
    }

    pub fn retry(&mut self, code: &str) {
        add(&mut self.retries, code, 1);
    }

    pub fn connection_lost(&mut self) {
        self.connections_lost += 1;
    }

    pub fn progress_line(&mut self, now: Instant) -> String {
        let (then, counted) = std::mem::replace(&mut self.progress, (now, self.operations));
        let rate = (self.operations - counted) as f64 / now.duration_since(then).as_secs_f64().max(1e-3);
        let errors: u64 = self.errors.values().sum();
        format!("{:.0} s  {rate:.0}/s  {errors} errors", now.duration_since(self.begun).as_secs_f64())
    }

    pub fn report(&self, args: &LoadArgs) -> Report {
        let now = Instant::now();
        let seconds = now.duration_since(self.begun).as_secs_f64().min(args.seconds as f64);
        let ended = self.begun + Duration::from_secs_f64(seconds);
        let last_pause = ended.saturating_duration_since(self.last_success);
        let by_operation = self.by_operation.iter();
        let shape = args.shape();
        Report {
            workload: args.workload.name(),
            concurrency: args.concurrency,
            connections: args.connections(),
            keys: args.records.keys,
            distribution: args.distribution().name(),
            key_size: shape.naming.key_size(),
            value_size: shape.value_size,
            rate: args.rate,
            seconds,
            operations: self.operations,
            throughput: self.operations as f64 / seconds.max(1e-3),
            latency: Latency::of(&self.latencies),
            by_operation: by_operation.map(|(operation, each)| (operation.name(), Part::of(each))).collect(),
            transactions: (args.workload == Workload::Txn).then(|| self.transactions()),
            errors: self.errors.values().sum(),
            errors_by_code: self.errors.clone(),
            connections_lost: self.connections_lost,
            longest_pause_ms: self.longest_pause.max(last_pause).as_secs_f64() * 1e3,
        }
    }

    fn transactions(&self) -> Transactions {
        Transactions {
            conflicts: self.retries.get(ErrorCode::Conflict.as_str()).copied().unwrap_or(0),
            retries: self.retries.values().sum(),
            retries_by_code: self.retries.clone(),
        }
    }
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LONGEST_US, 3).expect("valid bounds")
}

fn add(counts: &mut BTreeMap<String, u64>, code: &str, count: u64) {
    if count == 0 {
        return;
    }
    match counts.get_mut(code) {
        Some(counted) => *counted += count,
        None => {
            counts.insert(code.to_string(), count);
        }
    }
}

#[derive(Debug, Serialize)]
pub struct Report {
    pub workload: &'static str,
    pub concurrency: u32,
    pub connections: u32,
    pub keys: u64,
    pub distribution: &'static str,
    pub key_size: usize,
    pub value_size: usize,
    pub rate: Option<f64>,
    pub seconds: f64,
    /// Successful requests answered within the run; transactions that committed.
    pub operations: u64,
    /// Operations per second.
    pub throughput: f64,
    #[serde(flatten)]
    pub latency: Latency,
    /// Results by kind of operation; empty if there is only one.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub by_operation: BTreeMap<&'static str, Part>,
    #[serde(flatten)]
    pub transactions: Option<Transactions>,
    pub errors: u64,
    pub errors_by_code: BTreeMap<String, u64>,
    pub connections_lost: u64,
    /// The longest time without a success.
    pub longest_pause_ms: f64,
}

#[derive(Debug, Serialize)]
pub struct Latency {
    pub mean_us: f64,
    pub p50_us: u64,
    pub p90_us: u64,
    pub p99_us: u64,
    pub p999_us: u64,
    pub max_us: u64,
}

impl Latency {
    fn of(latencies: &Histogram<u64>) -> Self {
        let quantile = |q: f64| latencies.value_at_quantile(q);
        Latency {
            mean_us: latencies.mean(),
            p50_us: quantile(0.5),
            p90_us: quantile(0.9),
            p99_us: quantile(0.99),
            p999_us: quantile(0.999),
            max_us: latencies.max(),
        }
    }
}

impl fmt::Display for Latency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |us: u64| us as f64 / 1e3;
        let (p50, p90, p99) = (ms(self.p50_us), ms(self.p90_us), ms(self.p99_us));
        let (p999, max) = (ms(self.p999_us), ms(self.max_us));
        write!(f, "p50 {p50:.3}  p90 {p90:.3}  p99 {p99:.3}  p99.9 {p999:.3}  max {max:.3}")
    }
}

/// Results of one kind of operation.
#[derive(Debug, Serialize)]
pub struct Part {
    /// Successful requests, including those answered after the end of the run.
    pub operations: u64,
    #[serde(flatten)]
    pub latency: Latency,
}

impl Part {
    fn of(latencies: &Histogram<u64>) -> Self {
        Part { operations: latencies.len(), latency: Latency::of(latencies) }
    }
}

#[derive(Debug, Serialize)]
pub struct Transactions {
    /// Attempts that failed with a conflict.
    pub conflicts: u64,
    /// Attempts that were followed by another one, for any reason.
    pub retries: u64,
    pub retries_by_code: BTreeMap<String, u64>,
}

impl fmt::Display for Transactions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Transactions { conflicts, retries, retries_by_code } = self;
        write!(f, "retries        {retries}, of them {conflicts} after a conflict")?;
        let others: Vec<String> = codes(retries_by_code, |code| code != ErrorCode::Conflict.as_str());
        if others.is_empty() { Ok(()) } else { write!(f, "  ({})", others.join(", ")) }
    }
}

fn codes(counts: &BTreeMap<String, u64>, is_wanted: impl Fn(&str) -> bool) -> Vec<String> {
    counts.iter().filter(|(code, _)| is_wanted(code)).map(|(code, count)| format!("{code} {count}")).collect()
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{}: {} under way on {} connections, keys of {} and values of {} bytes, {} of {} keys, {:.1} s",
            self.workload,
            self.concurrency,
            self.connections,
            self.key_size,
            self.value_size,
            self.distribution,
            self.keys,
            self.seconds
        )?;
        let what = if self.transactions.is_some() { "commits" } else { "throughput" };
        writeln!(f, "{what:<14} {:.0}/s  ({} operations)", self.throughput, self.operations)?;
        writeln!(f, "latency (ms)   {}", self.latency)?;
        for (name, part) in &self.by_operation {
            writeln!(f, "  {name:<18} {}  ({} operations)", part.latency, part.operations)?;
        }
        if let Some(transactions) = &self.transactions {
            writeln!(f, "{transactions}")?;
        }
        writeln!(f, "longest pause  {:.0} ms without a success", self.longest_pause_ms)?;
        let codes = codes(&self.errors_by_code, |_| true);
        let codes = if codes.is_empty() { String::new() } else { format!("  ({})", codes.join(", ")) };
        write!(f, "errors         {}{codes}, connections lost: {}", self.errors, self.connections_lost)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_pause_is_the_longest_time_between_successes() {
        let begun = Instant::now();
        let at = |ms| begun + Duration::from_millis(ms);
        let mut statistics = Statistics::new(begun, [Operation::Update]);
        for ms in [10, 20, 520, 530] {
            statistics.success(Operation::Update, Duration::from_millis(1), at(ms), true);
        }
        assert_eq!(statistics.longest_pause, Duration::from_millis(500));
    }

    #[test]
    fn late_replies_count_for_latency_only() {
        let begun = Instant::now();
        let mut statistics = Statistics::new(begun, [Operation::Update]);
        statistics.success(Operation::Update, Duration::from_micros(5), begun, true);
        statistics.success(Operation::Update, Duration::from_micros(5), begun, false);
        assert_eq!((statistics.operations, statistics.latencies.len()), (1, 2));
    }
}

//! What a run counted.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;
use tokio::time::Instant;

use super::LoadArgs;

/// Latencies above this are counted as this.
const LONGEST_US: u64 = 600_000_000;

pub struct Statistics {
    begun: Instant,
    /// Of successful requests, in µs.
    latencies: Histogram<u64>,
    /// Successful requests that were answered before the run's end.
    operations: u64,
    errors: BTreeMap<String, u64>,
    connections_lost: u64,
    last_success: Instant,
    longest_pause: Duration,
    /// For the progress line: when it was made last, and `operations` then.
    progress: (Instant, u64),
}

impl Statistics {
    pub fn new(begun: Instant) -> Self {
        Statistics {
            begun,
            latencies: Histogram::new_with_bounds(1, LONGEST_US, 3).expect("valid bounds"),
            operations: 0,
            errors: BTreeMap::new(),
            connections_lost: 0,
            last_success: begun,
            longest_pause: Duration::ZERO,
            progress: (begun, 0),
        }
    }

    /// `in_time`: before the end of the run; later replies count for latency, not for throughput.
    pub fn success(&mut self, latency: Duration, now: Instant, in_time: bool) {
        self.latencies.saturating_record((latency.as_micros() as u64).max(1));
        self.longest_pause = self.longest_pause.max(now.saturating_duration_since(self.last_success));
        self.last_success = now;
        self.operations += u64::from(in_time);
    }

    pub fn error(&mut self, code: &str, count: u64) {
        if count == 0 {
            return;
        }
        match self.errors.get_mut(code) {
            Some(counted) => *counted += count,
            None => {
                self.errors.insert(code.to_string(), count);
            }
        }
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

    pub fn report(&self, args: &LoadArgs, connections: u32) -> Report {
        let now = Instant::now();
        let seconds = now.duration_since(self.begun).as_secs_f64().min(args.seconds as f64);
        let ended = self.begun + Duration::from_secs_f64(seconds);
        let last_pause = ended.saturating_duration_since(self.last_success);
        let quantile = |q: f64| self.latencies.value_at_quantile(q);
        Report {
            workload: args.workload.name(),
            concurrency: args.concurrency,
            connections,
            key_size: args.key_size,
            value_size: args.value_size,
            rate: args.rate,
            seconds,
            operations: self.operations,
            throughput: self.operations as f64 / seconds.max(1e-3),
            mean_us: self.latencies.mean(),
            p50_us: quantile(0.5),
            p90_us: quantile(0.9),
            p99_us: quantile(0.99),
            p999_us: quantile(0.999),
            max_us: self.latencies.max(),
            errors: self.errors.values().sum(),
            errors_by_code: self.errors.clone(),
            connections_lost: self.connections_lost,
            longest_pause_ms: self.longest_pause.max(last_pause).as_secs_f64() * 1e3,
        }
    }
}

#[derive(Debug, Serialize)]
pub struct Report {
    pub workload: &'static str,
    pub concurrency: u32,
    pub connections: u32,
    pub key_size: u32,
    pub value_size: u32,
    pub rate: Option<f64>,
    pub seconds: f64,
    /// Successful requests answered within the run.
    pub operations: u64,
    /// Of them, per second.
    pub throughput: f64,
    pub mean_us: f64,
    pub p50_us: u64,
    pub p90_us: u64,
    pub p99_us: u64,
    pub p999_us: u64,
    pub max_us: u64,
    pub errors: u64,
    pub errors_by_code: BTreeMap<String, u64>,
    pub connections_lost: u64,
    /// The longest time without a success.
    pub longest_pause_ms: f64,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |us: u64| us as f64 / 1e3;
        writeln!(
            f,
            "{}: {} under way on {} connections, keys of {} and values of {} bytes, {:.1} s",
            self.workload, self.concurrency, self.connections, self.key_size, self.value_size, self.seconds
        )?;
        writeln!(f, "throughput     {:.0}/s  ({} operations)", self.throughput, self.operations)?;
        writeln!(
            f,
            "latency (ms)   p50 {:.3}  p90 {:.3}  p99 {:.3}  p99.9 {:.3}  max {:.3}",
            ms(self.p50_us),
            ms(self.p90_us),
            ms(self.p99_us),
            ms(self.p999_us),
            ms(self.max_us)
        )?;
        writeln!(f, "longest pause  {:.0} ms without a success", self.longest_pause_ms)?;
        let codes: Vec<String> = self.errors_by_code.iter().map(|(code, count)| format!("{code} {count}")).collect();
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
        let mut statistics = Statistics::new(begun);
        for ms in [10, 20, 520, 530] {
            statistics.success(Duration::from_millis(1), at(ms), true);
        }
        assert_eq!(statistics.longest_pause, Duration::from_millis(500));
    }

    #[test]
    fn late_replies_count_for_latency_only() {
        let begun = Instant::now();
        let mut statistics = Statistics::new(begun);
        statistics.success(Duration::from_micros(5), begun, true);
        statistics.success(Duration::from_micros(5), begun, false);
        assert_eq!((statistics.operations, statistics.latencies.len()), (1, 2));
    }
}

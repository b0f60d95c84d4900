//! Counts and latencies, printed with the names that `synodkv bench --format json` uses.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use hdrhistogram::Histogram;

use crate::args::Args;
use crate::keys::Kind;

const LONGEST_US: u64 = 600_000_000;

pub struct Stats {
    all: Histogram<u64>,
    reads: Histogram<u64>,
    updates: Histogram<u64>,
    /// Successful operations that ended before the end of the run.
    pub operations: u64,
    pub conflicts: u64,
    errors: BTreeMap<&'static str, u64>,
}

impl Stats {
    pub fn new() -> Stats {
        let histogram = || Histogram::new_with_bounds(1, LONGEST_US, 3).expect("valid bounds");
        Stats {
            all: histogram(),
            reads: histogram(),
            updates: histogram(),
            operations: 0,
            conflicts: 0,
            errors: BTreeMap::new(),
        }
    }

    pub fn success(&mut self, kind: Kind, latency: Duration, in_time: bool) {
        let us = (latency.as_micros() as u64).max(1);
        self.all.saturating_record(us);
        match kind {
            Kind::Get => self.reads.saturating_record(us),
            Kind::Put | Kind::Create => self.updates.saturating_record(us),
            Kind::Txn => {}
        }
        self.operations += u64::from(in_time);
    }

    pub fn error(&mut self, code: &'static str) {
        *self.errors.entry(code).or_default() += 1;
    }

    pub fn json(&self, args: &Args, seconds: f64) -> String {
        let mut line = format!(
            "{{\"workload\":\"{}\",\"concurrency\":{},\"connections\":{},\"keys\":{},\"value_size\":{},\
             \"seconds\":{seconds:.3},\"operations\":{},\"throughput\":{:.3},{}",
            args.workload.name(),
            args.concurrency,
            args.connections,
            args.records,
            args.value_size,
            self.operations,
            self.operations as f64 / seconds.max(1e-3),
            latency(&self.all)
        );
        if !self.reads.is_empty() && !self.updates.is_empty() {
            let (reads, updates) = (latency(&self.reads), latency(&self.updates));
            let _ = write!(line, ",\"by_operation\":{{\"read\":{{{reads}}},\"update\":{{{updates}}}}}");
        }
        let errors: u64 = self.errors.values().sum();
        let codes: Vec<String> = self.errors.iter().map(|(code, count)| format!("\"{code}\":{count}")).collect();
        let _ = write!(
            line,
            ",\"conflicts\":{},\"errors\":{errors},\"errors_by_code\":{{{}}}}}",
            self.conflicts,
            codes.join(",")
        );
        line
    }
}

fn latency(latencies: &Histogram<u64>) -> String {
    let quantile = |q: f64| latencies.value_at_quantile(q);
    format!(
        "\"mean_us\":{:.1},\"p50_us\":{},\"p90_us\":{},\"p99_us\":{},\"p999_us\":{},\"max_us\":{}",
        latencies.mean(),
        quantile(0.5),
        quantile(0.9),
        quantile(0.99),
        quantile(0.999),
        latencies.max()
    )
}

//! Fills the series, once a second, from the metrics that the server has anyway.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use kv_api::thrift::{Method, MethodKind};
use prometheus::proto::{Metric, MetricFamily};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::figures::{FIGURES, Figure, How};
use super::series::SharedSeries;
use crate::metrics::ServerMetrics;

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
        How::LateRate | How::Sum | How::Largest => None,
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
            rate(now.value? - before.value?, took)
        }
        How::LateRate => {
            let (took, before) = before?;
            rate(now.value.unwrap_or(0.0) - before.value.unwrap_or(0.0), took)
        }
        How::Quantile(quantile, _) => quantile_of(quantile, now, before?.1),
    }
}

/// A counter begins again at 0 with another database; that second has no rate.
fn rate(grown: f64, took: Duration) -> Option<f64> {
    (grown >= 0.0 && !took.is_zero()).then(|| grown / took.as_secs_f64())
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

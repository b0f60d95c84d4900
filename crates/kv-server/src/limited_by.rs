//! Judges the limit of the requests of this server, over the last ten seconds, from the
//! stages of requests, the threads that all writes pass, the processors, and the errors.
//!
//! The names never change their meaning. A judgement comes with the figures that it follows from,
//! so that whoever doubts it can judge themselves.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};
use stage_times::{Snapshot, Stage, Worker};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::cluster::LocalDatabases;
use crate::metrics::ServerMetrics;
use crate::space::SpaceWatch;

/// How often a sample is taken.
const INTERVAL: Duration = Duration::from_secs(1);
/// How many intervals a judgement covers.
const WINDOW: usize = 10;
/// With fewer requests in a second, nothing is judged.
const FEWEST_REQUESTS: f64 = 1.0;
/// A log that is busy, and finishes fewer syncs in a second, waits for its disk and for nothing else.
const FEWEST_SYNCS: f64 = 1.0;
/// A thread that works for this share of the time is the limit, and so are the processors.
const BUSY: f64 = 0.85;
/// This share of requests refused because space, memory or places are lacking is a limit.
const REFUSED: f64 = 0.01;
/// This share of writes refused because of conflicts is a limit.
const CONFLICTS: f64 = 0.2;
/// The wait for other replicas is a limit if it is this share of a write, and longer than the log
/// takes by this factor.
const QUORUM_SHARE: f64 = 0.5;
const QUORUM_FACTOR: f64 = 3.0;
/// A shorter wait is not worth naming.
const QUORUM_AT_LEAST_MS: f64 = 2.0;

/// Counters at a moment.
#[derive(Clone)]
struct Sample {
    at: Instant,
    stages: Snapshot,
    /// Busy and all time of the processors of this machine; `None` if the kernel does not tell.
    processors: Option<(u64, u64)>,
    reads: u64,
    writes: u64,
    conflicts: u64,
    refused: u64,
}

/// The figures of a span of time.
#[derive(Clone, Debug, Default, PartialEq)]
struct Figures {
    seconds: f64,
    reads_per_second: f64,
    writes_per_second: f64,
    /// Share of the time in which the log works, and the apply thread; the mean over the replicas of
    /// this process.
    log_busy: f64,
    apply_busy: f64,
    syncs_per_second: f64,
    /// Share of the time in which the processors of the machine work.
    processors_busy: Option<f64>,
    /// Shares of the writes, and of all requests.
    conflicts: f64,
    refused: f64,
    has_space: bool,
    /// Mean times, in milliseconds.
    stages_ms: [f64; Stage::ALL.len()],
}

impl Figures {
    fn between(earlier: &Sample, later: &Sample, replicas: usize, has_space: bool) -> Figures {
        let seconds = (later.at - earlier.at).as_secs_f64().max(0.001);
        let passed = later.stages.since(&earlier.stages);
        let of = |count: u64, all: u64| if all == 0 { 0.0 } else { count as f64 / all as f64 };
        let grown = |figure: fn(&Sample) -> u64| figure(later).saturating_sub(figure(earlier));
        let (reads, writes) = (grown(|s| s.reads), grown(|s| s.writes));
        let busy = |worker| (passed.busy(worker).as_secs_f64() / seconds / replicas.max(1) as f64).min(1.0);
        let processors = earlier.processors.zip(later.processors).map(|((busy_before, all_before), (busy, all))| {
            of(busy.saturating_sub(busy_before), all.saturating_sub(all_before))
        });
        Figures {
            seconds,
            reads_per_second: reads as f64 / seconds,
            writes_per_second: writes as f64 / seconds,
            log_busy: busy(Worker::Log),
            apply_busy: busy(Worker::Apply),
            syncs_per_second: passed.stage(Stage::LogSync).count() as f64 / seconds,
            processors_busy: processors,
            conflicts: of(grown(|s| s.conflicts), writes),
            refused: of(grown(|s| s.refused), reads + writes),
            has_space,
            stages_ms: Stage::ALL.map(|stage| passed.stage(stage).mean().as_secs_f64() * 1e3),
        }
    }

    fn stage_ms(&self, stage: Stage) -> f64 {
        self.stages_ms[stage as usize]
    }

    /// The mean time of a write, from its queue to its reply.
    fn write_ms(&self) -> f64 {
        // Either the log or the quorum: on a replica they pass together.
        let log_ms = match self.stage_ms(Stage::Quorum) {
            0.0 => self.stage_ms(Stage::LogSync),
            quorum_ms => quorum_ms,
        };
        log_ms
            + [Stage::Queue, Stage::Order, Stage::Apply, Stage::Reply]
                .map(|stage| self.stage_ms(stage))
                .iter()
                .sum::<f64>()
    }

    /// The name of the limit, and what it means.
    fn judge(&self) -> (&'static str, String) {
        let percent = |share: f64| share * 100.0;
        if !self.has_space {
            return ("space", "writes are refused because the disk is full".to_string());
        }
        if self.reads_per_second + self.writes_per_second < FEWEST_REQUESTS && self.log_busy < BUSY {
            return ("workload", "nothing: there are hardly any requests".to_string());
        }
        if self.log_busy >= BUSY && self.syncs_per_second < FEWEST_SYNCS {
            return ("disk_sync", "the disk of the log hangs: it hardly finishes a sync".to_string());
        }
        // Before the threads: those wait for processors, too.
        if let Some(busy) = self.processors_busy.filter(|busy| *busy >= BUSY) {
            return ("cpu", format!("the processors of this machine are {:.0} % busy", percent(busy)));
        }
        if self.log_busy >= BUSY && self.log_busy >= self.apply_busy {
            let (busy, sync_ms) = (percent(self.log_busy), self.stage_ms(Stage::LogSync));
            return ("disk_sync", format!("the disk of the log is {busy:.0} % busy; a sync takes {sync_ms:.1} ms"));
        }
        if self.apply_busy >= BUSY {
            return (
                "apply",
                format!("applying writes to the database takes {:.0} % of the time", percent(self.apply_busy)),
            );
        }
        if self.refused >= REFUSED {
            let refused = percent(self.refused);
            return (
                "admission",
                format!("{refused:.0} % of the requests are refused: more wait than limits and memory allow"),
            );
        }
        if self.conflicts >= CONFLICTS {
            let conflicts = percent(self.conflicts);
            return (
                "conflicts",
                format!("{conflicts:.0} % of the writes conflict with others: `synodkv top --by conflicts`"),
            );
        }
        let (quorum_ms, log_ms) = (self.stage_ms(Stage::Quorum), self.stage_ms(Stage::LogSync));
        let is_long = quorum_ms >= QUORUM_AT_LEAST_MS && quorum_ms >= log_ms * QUORUM_FACTOR;
        if is_long && quorum_ms >= self.write_ms() * QUORUM_SHARE {
            let text = format!(
                "a write waits {quorum_ms:.1} ms for a majority of the replicas, and the log here takes {log_ms:.1} ms: \
                 the network or the disks of the others"
            );
            return ("network", text);
        }
        ("workload", "nothing: more requests at a time would be served".to_string())
    }

    fn to_json(&self) -> Value {
        let (name, text) = self.judge();
        let rounded = |value: f64| (value * 1e3).round() / 1e3;
        let stages = Stage::ALL.iter().map(|stage| (stage.name().to_string(), rounded(self.stage_ms(*stage)).into()));
        json!({
            "name": name,
            "text": text,
            "figures": {
                "seconds": rounded(self.seconds),
                "reads_per_second": rounded(self.reads_per_second),
                "writes_per_second": rounded(self.writes_per_second),
                "log_busy": rounded(self.log_busy),
                "apply_busy": rounded(self.apply_busy),
                "syncs_per_second": rounded(self.syncs_per_second),
                "processors_busy": self.processors_busy.map(rounded),
                "conflicts": rounded(self.conflicts),
                "refused": rounded(self.refused),
                "write_ms": rounded(self.write_ms()),
                "stages_ms": stages.collect::<Map<String, Value>>(),
            },
        })
    }
}

/// Watches what limits the requests.
pub(crate) struct LimitWatch {
    replicas: Arc<dyn LocalDatabases>,
    metrics: Arc<ServerMetrics>,
    space: Arc<SpaceWatch>,
    /// Oldest first, [`WINDOW`] + 1 at most.
    samples: Mutex<VecDeque<Sample>>,
}

impl LimitWatch {
    pub fn new(replicas: Arc<dyn LocalDatabases>, metrics: Arc<ServerMetrics>, space: Arc<SpaceWatch>) -> Arc<Self> {
        Arc::new(LimitWatch { replicas, metrics, space, samples: Mutex::default() })
    }

    /// Takes a sample each second until `stop`.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = ticks.tick() => self.add(self.sample()),
            }
        }
    }

    fn sample(&self) -> Sample {
        let (at, traffic) = (Instant::now(), self.metrics.traffic());
        Sample {
            at,
            stages: self.replicas.stages(at),
            processors: std::fs::read_to_string("/proc/stat").ok().and_then(|stat| processor_time(&stat)),
            reads: traffic.reads,
            writes: traffic.writes,
            conflicts: self.metrics.errors(&["CONFLICT"]),
            refused: self.metrics.errors(&["OVERLOADED", "STORAGE_FULL"]),
        }
    }

    fn add(&self, sample: Sample) {
        let mut samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        if samples.len() > WINDOW {
            samples.pop_front();
        }
        samples.push_back(sample);
    }

    /// The limit of the requests now, for `/status`; null in the first second.
    pub fn show(&self) -> Value {
        let samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(first) = samples.front().filter(|_| samples.len() > 1).cloned() else { return Value::Null };
        drop(samples);
        // The present counts: a disk that hangs since a moment ago is seen.
        Figures::between(&first, &self.sample(), self.replicas.replicas().len(), self.space.has_space()).to_json()
    }
}

/// Busy and all time of the processors together, from `/proc/stat`. Waiting for disks is not busy.
fn processor_time(stat: &str) -> Option<(u64, u64)> {
    let line = stat.lines().next()?.strip_prefix("cpu ")?;
    // user nice system idle iowait irq softirq steal; what follows is part of the first ones.
    let times: Vec<u64> = line.split_whitespace().take(8).map(|time| time.parse().ok()).collect::<Option<_>>()?;
    let idle = times.get(3)? + times.get(4)?;
    let all = times.iter().sum::<u64>();
    Some((all.saturating_sub(idle), all))
}

#[cfg(test)]
mod tests {
    use stage_times::StageTimes;

    use super::*;

    /// A server under a load that nothing limits.
    fn figures() -> Figures {
        let mut figures = Figures { has_space: true, writes_per_second: 500.0, ..Figures::default() };
        (figures.log_busy, figures.apply_busy, figures.processors_busy) = (0.4, 0.2, Some(0.3));
        figures.syncs_per_second = 400.0;
        for (stage, ms) in [(Stage::Queue, 0.1), (Stage::LogSync, 1.0), (Stage::Quorum, 1.5), (Stage::Apply, 0.3)] {
            figures.stages_ms[stage as usize] = ms;
        }
        figures
    }

    fn name(change: impl FnOnce(&mut Figures)) -> &'static str {
        let mut figures = figures();
        change(&mut figures);
        figures.judge().0
    }

    #[test]
    fn each_limit_is_named_where_it_is_planted() {
        assert_eq!(name(|_| {}), "workload");
        assert_eq!(name(|f| f.log_busy = 0.95), "disk_sync");
        assert_eq!(name(|f| f.apply_busy = 0.95), "apply");
        assert_eq!(name(|f| f.processors_busy = Some(0.97)), "cpu");
        assert_eq!(name(|f| f.refused = 0.05), "admission");
        assert_eq!(name(|f| f.conflicts = 0.4), "conflicts");
        assert_eq!(name(|f| f.has_space = false), "space");
        assert_eq!(name(|f| f.stages_ms[Stage::Quorum as usize] = 40.0), "network");
        // Nobody asks for anything, and the disk hangs.
        assert_eq!(name(|f| f.writes_per_second = 0.0), "workload");
        assert_eq!(name(|f| (f.writes_per_second, f.log_busy) = (0.0, 1.0)), "disk_sync");
    }

    #[test]
    fn a_cause_is_named_before_its_effects() {
        // Without processors all threads are late; without a fast disk requests are refused.
        assert_eq!(name(|f| (f.processors_busy, f.apply_busy) = (Some(0.99), 0.99)), "cpu");
        assert_eq!(name(|f| (f.log_busy, f.refused) = (0.99, 0.3)), "disk_sync");
        // A disk that hangs is not the processors' fault.
        assert_eq!(name(|f| (f.processors_busy, f.log_busy, f.syncs_per_second) = (Some(1.0), 1.0, 0.0)), "disk_sync");
        // The log itself takes as long as the majority does: it is not the network.
        assert_eq!(name(|f| f.stages_ms = [0.1, 0.1, 30.0, 31.0, 0.2, 0.1, 0.0, 0.0, 0.0]), "workload");
    }

    #[test]
    fn figures_are_differences_between_two_samples() {
        let times = StageTimes::default();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let sample = |at: Instant, writes, processors| Sample {
            at,
            stages: times.snapshot(at),
            processors: Some(processors),
            reads: 0,
            writes,
            conflicts: writes / 4,
            refused: 0,
        };
        times.observe(Stage::Quorum, Duration::from_millis(500));
        let before = sample(at(0), 100, (1_000, 10_000));
        times.begin_work(Worker::Log, at(0));
        times.end_work(Worker::Log, at(9));
        times.observe_all(Stage::Quorum, Duration::from_millis(8), 100);
        let figures = Figures::between(&before, &sample(at(10), 300, (1_500, 11_000)), 1, true);
        assert_eq!((figures.writes_per_second, figures.conflicts), (20.0, 0.25));
        assert_eq!(figures.processors_busy, Some(0.5));
        assert!((figures.log_busy - 0.9).abs() < 1e-3, "{figures:?}");
        assert_eq!(figures.stage_ms(Stage::Quorum), 8.0);
        assert_eq!(figures.to_json()["name"], "disk_sync");
        let in_three = Figures::between(&before, &sample(at(10), 300, (1_500, 11_000)), 3, true);
        assert!((in_three.log_busy - 0.3).abs() < 1e-3, "{in_three:?}");
    }

    #[test]
    fn waiting_for_disks_is_no_work_of_processors() {
        let stat = "cpu  100 5 50 700 145 0 0 0 9 9\ncpu0 1 2 3 4 5\n";
        assert_eq!(processor_time(stat), Some((155, 1000)));
        assert_eq!(processor_time("intr 5"), None);
        assert_eq!(processor_time("cpu  1 2"), None);
        let own = std::fs::read_to_string("/proc/stat").expect("Linux");
        assert!(processor_time(&own).is_some_and(|(busy, all)| 0 < busy && busy < all), "{own}");
    }
}

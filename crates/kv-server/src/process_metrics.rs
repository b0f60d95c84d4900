//! Metrics of the whole process: its release, its problems, its slow requests.

use std::sync::{Arc, Weak};

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntCounter, IntGauge, Opts};

use crate::problems::Problems;
use crate::request_watch::RequestWatch;

/// Exports them to Prometheus; read at each scrape. Holds nothing that holds the metrics or a
/// database: a circle would keep the databases open after a stop.
pub(crate) struct ProcessCollector {
    watch: Arc<RequestWatch>,
    problems: Weak<Problems>,
    build: IntGauge,
    count: IntGauge,
    slow: IntCounter,
}

impl ProcessCollector {
    pub fn new(watch: Arc<RequestWatch>, problems: &Arc<Problems>) -> Self {
        let build = Opts::new("synodkv_build_info", "1, with the release as a label");
        let build = IntGauge::with_opts(build.const_label("version", env!("CARGO_PKG_VERSION")));
        let build = build.expect("a valid metric");
        build.set(1);
        let count = IntGauge::new("synodkv_problems", "Problems that /status of this server names");
        let slow = IntCounter::new("synodkv_slow_requests_total", "Requests that took log.slow_ms or longer");
        let (count, slow) = (count.expect("a valid metric"), slow.expect("a valid metric"));
        ProcessCollector { watch, problems: Arc::downgrade(problems), build, count, slow }
    }
}

impl Collector for ProcessCollector {
    fn desc(&self) -> Vec<&Desc> {
        [self.build.desc(), self.count.desc(), self.slow.desc()].concat()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let count = self.problems.upgrade().map_or(0, |problems| problems.list().len());
        self.count.set(i64::try_from(count).unwrap_or(i64::MAX));
        // Two concurrent scrapes may both add the difference; the next one corrects that.
        let (shown, now) = (self.slow.get(), self.watch.slow_requests());
        if now < shown {
            self.slow.reset();
        }
        self.slow.inc_by(now.saturating_sub(self.slow.get()));
        [self.build.collect(), self.count.collect(), self.slow.collect()].concat()
    }
}

//! Metrics of the change journal and of the polls.

use std::sync::Arc;

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntCounterVec, IntGaugeVec, Opts};

use crate::cluster::{LocalDatabase, LocalDatabases};
use crate::problems::Problem;

/// Figures for each replica of the process.
pub(crate) struct ChangesCollector {
    replicas: Arc<dyn LocalDatabases>,
    journal_bytes: IntGaugeVec,
    oldest_version: IntGaugeVec,
    waiting_polls: IntGaugeVec,
    polls: IntCounterVec,
}

impl ChangesCollector {
    pub fn new(replicas: Arc<dyn LocalDatabases>) -> Self {
        let gauge = |name: &str, help: &str| {
            IntGaugeVec::new(Opts::new(format!("synodkv_changes_{name}"), help), &["replica"]).expect("a valid metric")
        };
        let polls = Opts::new("synodkv_changes_polls_total", "Polls for changes and watches of keys");
        ChangesCollector {
            replicas,
            journal_bytes: gauge("journal_bytes", "Bytes of the files of the change journal"),
            oldest_version: gauge(
                "oldest_version",
                "Changes after this version can be read; absent while the journal cannot be written",
            ),
            waiting_polls: gauge("waiting_polls", "Polls for changes that wait"),
            polls: IntCounterVec::new(polls, &["replica"]).expect("a valid metric"),
        }
    }

    /// The replicas whose journal cannot be written.
    pub fn problems(replicas: &dyn LocalDatabases) -> Vec<Problem> {
        let problem = |replica: LocalDatabase| {
            let failure = replica.reader.database().journal_statistics()?.failure?;
            let text = format!("its change journal cannot be written, and nobody can read changes here: {failure}");
            let remedy = "make space or check the disk; the journal begins again by itself, and readers that were behind \
                          are told that their version is too old";
            Some(Problem::new("change_journal", text, remedy).of_replica(replica.id))
        };
        replicas.replicas().into_iter().filter_map(problem).collect()
    }
}

impl Collector for ChangesCollector {
    fn desc(&self) -> Vec<&Desc> {
        let gauges = [&self.journal_bytes, &self.oldest_version, &self.waiting_polls];
        gauges.into_iter().flat_map(Collector::desc).chain(self.polls.desc()).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.oldest_version.reset();
        for replica in self.replicas.replicas() {
            let label = replica.id.to_string();
            let number = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
            if let Some(journal) = replica.reader.database().journal_statistics() {
                self.journal_bytes.with_label_values(&[&label]).set(number(journal.bytes));
                if let Some(oldest) = journal.oldest {
                    self.oldest_version.with_label_values(&[&label]).set(number(oldest));
                }
            }
            let polls = replica.reader.hub().statistics();
            self.waiting_polls.with_label_values(&[&label]).set(number(polls.waiting));
            let counter = self.polls.with_label_values(&[&label]);
            counter.inc_by(polls.total.saturating_sub(counter.get()));
        }
        let gauges = [&self.journal_bytes, &self.oldest_version, &self.waiting_polls];
        gauges.into_iter().flat_map(Collector::collect).chain(self.polls.collect()).collect()
    }
}

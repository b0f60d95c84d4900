//! Counters of the events of a run.

use std::collections::BTreeMap;
use std::fmt;

use rsml::coverage::POINTS;

use super::workload::Kind;
use crate::history::Outcome;

#[derive(Clone, Debug, Default)]
pub struct Counters {
    pub seeds: u64,
    pub simulated_us: u64,
    pub events: u64,
    pub views_led: u64,
    pub acknowledged: u64,
    /// Faults and rare events, by name.
    pub counts: BTreeMap<&'static str, u64>,
    /// How often each of [`POINTS`] was taken; empty without the cargo feature `coverage`.
    pub coverage: Vec<u64>,
    /// Pairs of these that were taken one after the other, as numbers; of one run only.
    pub pairs: Vec<usize>,
    /// Operations of clients: Ok, Fail, Unknown.
    pub operations: BTreeMap<Kind, [u64; 3]>,
}

impl Counters {
    pub fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    pub fn operation(&mut self, kind: Kind, outcome: Outcome) {
        let place = match outcome {
            Outcome::Ok => 0,
            Outcome::Fail => 1,
            Outcome::Unknown => 2,
        };
        self.operations.entry(kind).or_default()[place] += 1;
    }

    pub fn add(&mut self, other: &Counters) {
        self.seeds += other.seeds;
        self.simulated_us += other.simulated_us;
        self.events += other.events;
        self.views_led += other.views_led;
        self.acknowledged += other.acknowledged;
        for (what, count) in &other.counts {
            *self.counts.entry(what).or_default() += count;
        }
        self.coverage.resize(self.coverage.len().max(other.coverage.len()), 0);
        for (sum, count) in self.coverage.iter_mut().zip(&other.coverage) {
            *sum += count;
        }
        for (kind, counts) in &other.operations {
            let sum = self.operations.entry(*kind).or_default();
            (0..3).for_each(|place| sum[place] += counts[place]);
        }
    }

    /// The points that were never taken.
    pub fn uncovered(&self) -> Vec<&'static str> {
        POINTS.iter().zip(&self.coverage).filter(|(_, count)| **count == 0).map(|(name, _)| *name).collect()
    }

    /// How many operations of clients that only read took effect.
    pub fn reads(&self) -> u64 {
        self.operations.iter().filter(|(kind, _)| kind.is_read_only()).map(|(_, counts)| counts[0]).sum()
    }
}

impl fmt::Display for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let simulated = self.simulated_us as f64 / 1e6;
        writeln!(f, "{} seeds, {simulated:.0} simulated seconds, {} events", self.seeds, self.events)?;
        writeln!(f, "{} views led, {} commits acknowledged", self.views_led, self.acknowledged)?;
        writeln!(f, "faults and rare events:")?;
        for (what, count) in &self.counts {
            writeln!(f, "  {what:<32} {count:>10}")?;
        }
        writeln!(f, "operations of clients:                     ok       fail    unknown")?;
        for (kind, [ok, fail, unknown]) in &self.operations {
            writeln!(f, "  {:<32} {ok:>10} {fail:>10} {unknown:>10}", kind.name())?;
        }
        if !self.coverage.is_empty() {
            writeln!(f, "paths of the core taken:")?;
        }
        for (name, count) in POINTS.iter().zip(&self.coverage) {
            writeln!(f, "  {name:<36} {count:>10}")?;
        }
        Ok(())
    }
}

//! Judges of a run: each knows one promise of the product and says whether what was seen keeps it.
//!
//! They know nothing of the simulator: the same ones judge a run of real processes with wall-clock
//! microseconds.
//!
//! | checker | fed with | rejects |
//! |---|---|---|
//! | [`agreement`] | every delivery of every replica | two values at one sequence, holes, going back |
//! | [`chosen`] | durable logs, deliveries, commit points told | what no majority held durably in one view |
//! | [`configurations`] | under which members each replica acts, every delivery | two configurations of an epoch, an epoch that goes back |
//! | [`promises`] | durable hard states, votes, who leads | a promise that goes back, two primaries in a view |
//! | [`digests`] | digests after each apply | different ones at one sequence |
//! | [`levels`] | feature levels after each apply, entries that raise it | different ones at one sequence, going back, a member left out |
//! | [`durability`] | acknowledgements, later observations | an acknowledged write that is not there |
//! | [`exactly_once`] | fates of requests, effects seen | effects twice, never, or of refused requests |
//! | [`linearizability`] | a history of registers | anything but one order of effects within the calls |
//! | [`serializability`] | a history of transactions over lists | cycles; dirty, torn and invented reads |
//! | [`versions`] | read and commit versions of clients | versions that contradict real time |
//! | [`queue`] | versionstamped pushes, scans, pops | order, losses, duplicates |
//! | [`bank`] | transfers and readings of all balances | a total that changes |
//!
//! [`agreement`], [`chosen`], [`promises`], [`digests`], [`durability`] and [`exactly_once`] are
//! fed during the run, so that it can stop at the first violation; the others judge a finished
//! history. Two moments that are equal count as overlapping: a clock of microseconds cannot tell
//! them apart, and no checker may reject what may have been right.

pub mod agreement;
pub mod bank;
pub mod chosen;
pub mod configurations;
mod cycles;
pub mod digests;
pub mod durability;
pub mod exactly_once;
pub mod leases;
pub mod levels;
pub mod linearizability;
pub mod promises;
pub mod queue;
pub mod serializability;
pub mod versions;

#[cfg(test)]
mod random_histories;

use std::fmt;

/// A broken promise, and how it shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    pub checker: &'static str,
    /// Its name in the literature, where it has one.
    pub anomaly: &'static str,
    /// The observations, for the reader of a report.
    pub story: String,
}

impl Violation {
    fn new(checker: &'static str, anomaly: &'static str, story: String) -> Violation {
        Violation { checker, anomaly, story }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.checker, self.anomaly, self.story)
    }
}

impl std::error::Error for Violation {}

/// The result of a checker that always terminates.
pub type Verdict = Result<(), Violation>;

//! Promises: what a disk has promised never goes back, across restarts too; no vote leaves below
//! it; and one replica at most ever leads a view, with a quorum of promises behind it.
//!
//! Source: Lamport, *Paxos Made Simple* (an acceptor answers no ballot below the highest that it
//! has promised). Promises belong to disks, not to replicas: a replica that lost its disk comes
//! back under another name and owes nothing.
//!
//! O(log n) per event. It looks at what is durable and at what leaves a replica, not at what
//! replicas hold in memory.

use std::collections::BTreeMap;

use rsml::{DiskId, ReplicaId, View};

use super::{Verdict, Violation};

#[derive(Debug, Default)]
pub struct Promises {
    durable: BTreeMap<DiskId, View>,
    primaries: BTreeMap<View, ReplicaId>,
}

impl Promises {
    /// The disk durably holds a promise of `view`: after a write, or as found at a start.
    pub fn durable(&mut self, disk: DiskId, view: View) -> Verdict {
        let before = self.durable.insert(disk, view).unwrap_or_default();
        if view < before {
            let story = format!("disk {disk:?} holds a promise of {view} after one of {before}");
            return Err(Violation::new("promises", "promise went back", story));
        }
        Ok(())
    }

    /// A promise or an acceptance of `view` leaves the replica of this disk.
    pub fn votes(&self, disk: DiskId, view: View) -> Verdict {
        let durable = self.durable.get(&disk).copied().unwrap_or_default();
        if durable < view {
            let story = format!("disk {disk:?} votes in {view} while its durable promise is {durable}");
            return Err(Violation::new("promises", "vote before its promise", story));
        }
        Ok(())
    }

    /// A promise (1b) of `view` leaves: nothing higher may be durable, since the log it tells of
    /// may be newer by then.
    pub fn promises(&self, disk: DiskId, view: View) -> Verdict {
        self.votes(disk, view)?;
        match self.durable.get(&disk) {
            Some(durable) if *durable > view => {
                let story = format!("disk {disk:?} answers {view} after it promised {durable}");
                Err(Violation::new("promises", "vote below a promise", story))
            }
            _ => Ok(()),
        }
    }

    /// The replica begins to lead `view`, in a cluster whose `voters` are these disks.
    pub fn leads(&mut self, replica: ReplicaId, view: View, voters: &[DiskId]) -> Verdict {
        let primary = *self.primaries.entry(view).or_insert(replica);
        if primary != replica {
            let story = format!("replicas {primary} and {replica} both lead {view}");
            return Err(Violation::new("promises", "two primaries in one view", story));
        }
        let promised = voters.iter().filter(|disk| self.durable.get(disk).is_some_and(|held| *held >= view)).count();
        if promised * 2 <= voters.len() {
            let story = format!("replica {replica} leads {view} with {promised} of {} promises", voters.len());
            return Err(Violation::new("promises", "primary without a quorum", story));
        }
        Ok(())
    }

    pub fn views_led(&self) -> usize {
        self.primaries.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DISKS: [DiskId; 3] = [DiskId(10), DiskId(11), DiskId(12)];

    fn promised(views: [u64; 3]) -> Promises {
        let mut promises = Promises::default();
        for (disk, view) in DISKS.into_iter().zip(views) {
            promises.durable(disk, View(view)).expect("monotone");
        }
        promises
    }

    #[test]
    fn rising_promises_and_one_primary_per_view_are_accepted() {
        let mut promises = promised([256, 256, 0]);
        promises.leads(ReplicaId(0), View(256), &DISKS).expect("a quorum");
        promises.durable(DISKS[1], View(513)).expect("rises");
        promises.durable(DISKS[2], View(513)).expect("rises");
        promises.leads(ReplicaId(1), View(513), &DISKS).expect("a quorum");
        promises.promises(DISKS[2], View(513)).expect("as promised");
        assert_eq!(promises.views_led(), 2);
    }

    #[test]
    fn a_promise_forgotten_over_a_restart_is_rejected() {
        let mut promises = promised([256, 256, 0]);
        let violation = promises.durable(DISKS[0], View(0)).expect_err("went back");
        assert_eq!(violation.anomaly, "promise went back");
    }

    #[test]
    fn another_disk_owes_nothing() {
        promised([256, 256, 0]).durable(DiskId(13), View(0)).expect("a new disk");
    }

    #[test]
    fn two_primaries_in_one_view_are_rejected() {
        let mut promises = promised([256, 256, 256]);
        promises.leads(ReplicaId(0), View(256), &DISKS).expect("the first");
        let violation = promises.leads(ReplicaId(1), View(256), &DISKS).expect_err("the second");
        assert_eq!(violation.anomaly, "two primaries in one view");
    }

    #[test]
    fn a_primary_without_a_quorum_of_promises_is_rejected() {
        let violation = promised([256, 0, 0]).leads(ReplicaId(0), View(256), &DISKS).expect_err("alone");
        assert_eq!(violation.anomaly, "primary without a quorum");
    }

    #[test]
    fn a_vote_before_its_promise_is_durable_is_rejected() {
        let violation = promised([0, 0, 0]).votes(DISKS[0], View(256)).expect_err("too early");
        assert_eq!(violation.anomaly, "vote before its promise");
    }

    #[test]
    fn a_promise_of_a_view_below_the_durable_one_is_rejected() {
        let violation = promised([513, 0, 0]).promises(DISKS[0], View(256)).expect_err("too late");
        assert_eq!(violation.anomaly, "vote below a promise");
    }
}

//! Leases: while a primary serves reads without asking anybody, because a quorum lets nobody else
//! lead, none of these peers promises a higher view, and nobody begins to lead one.
//!
//! Source: rule 9 of the protocol (Gray, Cheriton, *Leases*, SOSP 1989, for the idea). A stale read
//! needs such a breach, a write, and a read in the right moment; this sees the breach by itself.
//!
//! It takes the primary's own word for what it relies on. That it relies on too few is seen when
//! another one leads.

use rsml::{ReplicaId, View};

use super::{Verdict, Violation};

/// The leases on which a primary relies at this moment, by its own clock.
#[derive(Clone, Debug)]
pub struct Lease {
    pub primary: ReplicaId,
    pub view: View,
    pub grantors: Vec<ReplicaId>,
}

/// `replica` promises `promised` at this moment, be it in memory.
pub fn promises(replica: ReplicaId, promised: View, held: &[Lease]) -> Verdict {
    let broken = held.iter().find(|lease| lease.view < promised && lease.grantors.contains(&replica));
    broken.map_or(Ok(()), |lease| {
        let story = format!("replica {replica} promises {promised} while {lease:?} holds");
        Err(Violation::new("leases", "promise under a lease", story))
    })
}

/// `replica` begins to lead `view` at this moment.
pub fn leads(replica: ReplicaId, view: View, held: &[Lease]) -> Verdict {
    let broken = held.iter().find(|lease| lease.view < view && lease.primary != replica);
    broken.map_or(Ok(()), |lease| {
        let story = format!("replica {replica} leads {view} while {lease:?} holds");
        Err(Violation::new("leases", "another primary under a lease", story))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held() -> Vec<Lease> {
        vec![Lease { primary: ReplicaId(0), view: View(256), grantors: vec![ReplicaId(1)] }]
    }

    #[test]
    fn who_granted_no_lease_may_promise_what_it_likes() {
        promises(ReplicaId(2), View(513), &held()).expect("nobody relies on it");
        promises(ReplicaId(1), View(256), &held()).expect("the view of the lease");
        promises(ReplicaId(1), View(513), &[]).expect("there is no lease");
        leads(ReplicaId(0), View(512), &held()).expect("its own lease");
        leads(ReplicaId(2), View(2), &held()).expect("a view that is over");
    }

    #[test]
    fn a_lessor_that_promises_a_higher_view_is_found() {
        let violation = promises(ReplicaId(1), View(513), &held()).expect_err("it let nobody else lead");
        assert_eq!(violation.anomaly, "promise under a lease");
    }

    #[test]
    fn a_second_primary_is_found_though_no_lessor_made_it() {
        let violation = leads(ReplicaId(2), View(514), &held()).expect_err("reads are served without asking");
        assert_eq!(violation.anomaly, "another primary under a lease");
    }
}

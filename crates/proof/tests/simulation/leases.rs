//! A replica that granted a lease lets no other one lead before it is over, under all faults. The
//! simulator sees every promise that breaks a lease on which a primary relies (`checkers::leases`);
//! these scenes make the moments in which one could be given.

use proof::simulator::{Cluster, Faults, WorkloadProfile};

/// Nearly as long as the shortest election timeout, so that a candidate is most likely to come too
/// early.
const LEASE_US: u64 = 290_000;

/// A cluster of three with leases; the primary, and the others.
fn led_cluster(seed: u64) -> (Cluster, usize, [usize; 2]) {
    let faults = Faults { lease_us: LEASE_US, ..Faults::none() };
    let mut cluster = Cluster::new(3, seed, faults, WorkloadProfile::calm());
    cluster.run(3_000_000);
    let primary = cluster.nodes.iter().position(|n| n.is_primary()).expect("a healthy cluster has a primary");
    (cluster, primary, [(primary + 1) % 3, (primary + 2) % 3])
}

fn cut_link(cluster: &mut Cluster, a: usize, b: usize) {
    cluster.cut.extend([(a, b), (b, a)]);
}

fn relies_on(cluster: &Cluster, primary: usize, grantor: usize) -> bool {
    cluster.relied_on(primary).is_some_and(|grantors| grantors == [grantor])
}

#[test]
fn a_replica_that_starts_again_keeps_the_lease_that_it_may_have_granted() {
    for seed in 1..41 {
        let (mut cluster, primary, [grantor, candidate]) = led_cluster(seed);
        // The candidate has not heard from the primary for long; its lease is over, and it asks for
        // votes again and again.
        cut_link(&mut cluster, primary, candidate);
        cluster.run(2_000_000);
        assert!(relies_on(&cluster, primary, grantor), "seed {seed}: the scene is another one");
        cut_link(&mut cluster, primary, grantor);
        cluster.crash(grantor);
        cluster.start(grantor);
        cluster.run(1_000_000);
        assert!(!cluster.nodes[primary].is_primary(), "seed {seed}: it leads alone");
        cluster.heal_and_converge(5_000_000);
    }
}

#[test]
fn who_granted_a_lease_does_not_stand_before_it_is_over() {
    for seed in 1..41 {
        let (mut cluster, primary, [grantor, other]) = led_cluster(seed);
        cut_link(&mut cluster, primary, other);
        cluster.run(2_000_000);
        assert!(relies_on(&cluster, primary, grantor), "seed {seed}: the scene is another one");
        // It learns that the connection to its primary has ended, and looks for another one at
        // once.
        cut_link(&mut cluster, primary, grantor);
        cluster.disconnect(grantor, primary);
        cluster.run(1_000_000);
        cluster.heal_and_converge(5_000_000);
    }
}

/// A primary that hands over gives up its own lease, and that of nobody else.
#[test]
fn one_that_was_told_to_stand_does_not_break_the_lease_of_another_view() {
    let mut seen = 0;
    for seed in 1..61 {
        let (mut cluster, primary, others) = led_cluster(seed);
        // Of two that stand at once, the one with the greater id asks for the higher view.
        let (next, late) = (others[0].min(others[1]), others[0].max(others[1]));
        cut_link(&mut cluster, late, next);
        cluster.transfer(primary, Some(late));
        let deadline = cluster.now + 500_000;
        while cluster.relied_on(primary).is_some() && cluster.now < deadline {
            cluster.run(10);
        }
        // It was just asked to stand, but its own promise takes long to become durable.
        cluster.nodes[late].log.hangs_until = cluster.now + 400_000;
        cluster.run(1_000);
        // The primary is back at once, and does not lead. When the lease of its former start is
        // over, it helps the other one to lead, and grants it a lease.
        cut_link(&mut cluster, primary, next);
        cut_link(&mut cluster, primary, late);
        cluster.crash(primary);
        cluster.start(primary);
        cluster.run(LEASE_US + 1_000);
        cluster.cut.remove(&(primary, next));
        cluster.cut.remove(&(next, primary));
        cluster.disconnect(next, primary);
        cluster.run(85_000);
        // Now the late one asks for promises, of the former primary only.
        cluster.cut.remove(&(late, primary));
        cluster.cut.remove(&(primary, late));
        let is_candidate = cluster.is_candidate(late);
        seen += usize::from(is_candidate && relies_on(&cluster, next, primary));
        cluster.run(200_000);
        cluster.heal_and_converge(5_000_000);
    }
    assert!(seen > 5, "the scene came about {seen} times only");
}

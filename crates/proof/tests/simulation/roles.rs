//! When the primary changes and when it does not: disks that hang or are slow, transfers, replicas that may not lead.

use proof::simulator::{Cluster, Faults, WorkloadProfile};
use rsml::core::Input;

const ELECTION_MAX_US: u64 = 600_000;
const LONG_US: u64 = 60_000_000;

fn led_cluster(count: u8, seed: u64) -> (Cluster, usize) {
    let mut cluster = Cluster::new(count, seed, Faults::none(), WorkloadProfile::calm());
    cluster.run(3_000_000);
    let primary = cluster.nodes.iter().position(|n| n.is_primary()).expect("a healthy cluster has a primary");
    (cluster, primary)
}

/// How long it takes until another node than `former` leads.
fn replaced_after_us(cluster: &mut Cluster, former: usize) -> u64 {
    let from = cluster.now;
    while !cluster.nodes.iter().enumerate().any(|(id, n)| id != former && n.is_primary()) {
        assert!(cluster.now < from + LONG_US, "nobody replaces the primary");
        cluster.run(1_000);
    }
    cluster.now - from
}

#[test]
fn a_primary_whose_disk_hangs_is_replaced_as_fast_as_one_that_falls_silent() {
    for seed in 1..41 {
        for count in [3, 5] {
            let (mut cluster, primary) = led_cluster(count, seed);
            cluster.nodes[primary].log.hangs_until = cluster.now + LONG_US;
            let us = replaced_after_us(&mut cluster, primary);
            assert!(us < ELECTION_MAX_US, "seed {seed}, {count} replicas: after {us} µs");
            cluster.crash(primary);
            cluster.heal_and_converge(5_000_000);
        }
    }
}

#[test]
fn slow_disks_everywhere_do_not_make_views_change_again_and_again() {
    for seed in 1..101 {
        let (mut cluster, _) = led_cluster(3, seed);
        cluster.faults.disk_us = vec![900_000];
        let before = cluster.views_led();
        cluster.run(60_000_000);
        // To each replica the first write that takes so long may look like one that hangs, when it leads; and no later one.
        let after = cluster.views_led();
        assert!(after <= before + 3, "seed {seed}: views go on changing: {before}, {after}");
        cluster.heal_and_converge(30_000_000);
    }
}

#[test]
fn a_primary_whose_disk_is_steadily_slower_than_the_others_stays_or_goes_once() {
    for seed in 1..41 {
        let (mut cluster, primary) = led_cluster(3, seed);
        let slow = |node: usize| if node == primary { 500_000 } else { 2_000 };
        cluster.faults.disk_us = (0..3).map(slow).collect();
        let views = cluster.views_led();
        cluster.run(20_000_000);
        assert!(cluster.views_led() <= views + 1, "seed {seed}: views go on changing");
        cluster.heal_and_converge(10_000_000);
    }
}

#[test]
fn a_transfer_stops_writes_for_less_than_an_election_timeout() {
    for seed in 1..41 {
        let (mut cluster, primary) = led_cluster(3, seed);
        cluster.transfer(primary, None);
        let us = replaced_after_us(&mut cluster, primary);
        assert!(us < 100_000, "seed {seed}: after {us} µs");
        cluster.heal_and_converge(5_000_000);
    }
}

#[test]
fn a_primary_that_stops_is_replaced_within_some_heartbeats() {
    for seed in 1..41 {
        let (mut cluster, primary) = led_cluster(3, seed);
        cluster.stop(primary);
        let us = replaced_after_us(&mut cluster, primary);
        assert!(us < 200_000, "seed {seed}: after {us} µs");
        cluster.heal_and_converge(5_000_000);
    }
}

#[test]
fn a_primary_that_may_not_lead_or_has_no_space_makes_room_for_one_that_can() {
    for seed in 1..21 {
        for unfit in [Input::Eligible(false), Input::Space(false)] {
            let (mut cluster, primary) = led_cluster(3, seed);
            cluster.input(primary, unfit.clone());
            replaced_after_us(&mut cluster, primary);
            let views = cluster.views_led();
            cluster.run(10_000_000);
            assert_eq!(cluster.views_led(), views, "seed {seed}, {unfit:?}: views go on changing");
            assert!(!cluster.nodes[primary].is_primary(), "seed {seed}, {unfit:?}: it leads again");
            cluster.heal_and_converge(5_000_000);
        }
    }
}

#[test]
fn where_no_replica_has_space_the_primary_stays_and_serves_reads() {
    for seed in 1..21 {
        let (mut cluster, _) = led_cluster(3, seed);
        for node in 0..3 {
            cluster.input(node, Input::Space(false));
            // Writes in progress find no space either.
            cluster.nodes[node].log.hangs_until = cluster.now + 10_000_000;
        }
        cluster.run(1_000_000);
        let primary = cluster.nodes.iter().position(|n| n.is_primary()).expect("there still is one");
        let views = cluster.views_led();
        for second in 0..8 {
            let reads = cluster.figures().reads();
            cluster.run(1_000_000);
            assert!(cluster.figures().reads() > reads, "seed {seed}: no reads in second {second}");
        }
        assert_eq!(cluster.views_led(), views, "seed {seed}: views change because disks are full");
        assert!(cluster.nodes[primary].is_primary(), "seed {seed}: another one leads");
        assert!(cluster.figures().counts["refused for want of space"] > 100, "seed {seed}: writes are taken");
        cluster.heal_and_converge(5_000_000);
    }
}

#[test]
fn full_replicas_elect_one_of_them_when_the_primary_dies() {
    for seed in 1..21 {
        let (mut cluster, primary) = led_cluster(3, seed);
        for node in 0..3 {
            cluster.input(node, Input::Space(false));
        }
        cluster.run(1_000_000);
        cluster.crash(primary);
        let views = cluster.views_led();
        cluster.run(4 * ELECTION_MAX_US);
        assert!(cluster.views_led() > views, "seed {seed}: nobody leads");
        cluster.heal_and_converge(5_000_000);
    }
}

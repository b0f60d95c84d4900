//! The three partial partitions of the Omni-Paxos paper (Ng, Haridi, Carbone, EuroSys 2023, section
//! 2) with five replicas, and some of their one-way relatives: each must end with one primary that
//! stays.

use proof::simulator::{Cluster, Faults, WorkloadProfile};

const ELECTION_TIMEOUT_US: u64 = 600_000;

/// A cluster of `count` with a primary, numbered so that the primary is the first of the returned
/// nodes.
fn led_cluster(count: u8, seed: u64) -> (Cluster, Vec<usize>) {
    let mut cluster = Cluster::new(count, seed, Faults::none(), WorkloadProfile::calm());
    cluster.run(3_000_000);
    let primary = cluster.nodes.iter().position(|n| n.is_primary()).expect("a healthy cluster has a primary");
    let others = (0..count as usize).filter(|node| *node != primary);
    let nodes = std::iter::once(primary).chain(others).collect();
    (cluster, nodes)
}

/// Within four election timeouts `node`'s clients are served, and from then on no view changes.
fn expect_stable_service(cluster: &mut Cluster, node: usize, what: &str) {
    cluster.run(4 * ELECTION_TIMEOUT_US);
    let views = cluster.views_led();
    let before = cluster.applied(node);
    run_with_notes(cluster, &[node], 5_000_000);
    assert_eq!(cluster.views_led(), views, "{what}: views still change");
    assert!(cluster.applied(node).0 > before.0 + 10, "{what}: no progress beyond {before}");
}

/// The usual clients may all be waiting for whoever is cut off; these nodes have somebody else come
/// by.
fn run_with_notes(cluster: &mut Cluster, nodes: &[usize], for_us: u64) {
    for _ in 0..for_us / 100_000 {
        nodes.iter().for_each(|node| cluster.blind_note(*node));
        cluster.run(100_000);
    }
}

fn seeds() -> std::ops::Range<u64> {
    1..41
}

#[test]
fn a_replica_that_alone_hears_a_quorum_leads_in_the_end() {
    for seed in seeds() {
        let (mut cluster, n) = led_cluster(5, seed);
        cluster.leave_links(&[(n[1], n[0]), (n[1], n[2]), (n[1], n[3]), (n[1], n[4])]);
        expect_stable_service(&mut cluster, n[1], "quorum loss");
        assert!(cluster.nodes[n[1]].is_primary(), "seed {seed}: another one leads");
        cluster.heal_and_converge(5_000_000);
    }
}

#[test]
fn a_lagging_replica_that_alone_hears_a_quorum_leads_in_the_end() {
    for seed in seeds() {
        let (mut cluster, n) = led_cluster(5, seed);
        // It misses entries first: others hold a longer log.
        let links: Vec<(usize, usize)> =
            [0, 2, 3, 4].iter().flat_map(|a| [0, 2, 3, 4].map(|b| (n[*a], n[b]))).collect();
        cluster.leave_links(&links);
        cluster.run(1_000_000);
        // The primary is gone altogether, and only the lagging one hears from a quorum.
        cluster.leave_links(&[(n[1], n[2]), (n[1], n[3]), (n[1], n[4])]);
        expect_stable_service(&mut cluster, n[1], "constrained election");
        assert!(cluster.nodes[n[1]].is_primary(), "seed {seed}: another one leads");
        cluster.heal_and_converge(5_000_000);
    }
}

#[test]
fn in_a_chain_of_three_one_primary_stays() {
    for seed in seeds() {
        let (mut cluster, n) = led_cluster(3, seed);
        cluster.leave_links(&[(n[0], n[1]), (n[1], n[2])]);
        expect_stable_service(&mut cluster, n[1], "chain with the primary at its end");
        cluster.leave_links(&[(n[0], n[1]), (n[0], n[2])]);
        expect_stable_service(&mut cluster, n[0], "chain with the former primary in the middle");
        cluster.heal_and_converge(5_000_000);
    }
}

#[test]
fn a_link_that_works_one_way_only_does_not_change_views_for_ever() {
    for seed in seeds() {
        for (from, to) in [(0, 1), (1, 0), (1, 2)] {
            let (mut cluster, n) = led_cluster(3, seed);
            cluster.cut.insert((n[from], n[to]));
            expect_stable_service(&mut cluster, n[0], "one-way link");
            cluster.heal_and_converge(5_000_000);
        }
    }
}

#[test]
fn a_primary_that_is_heard_by_all_and_hears_nobody_is_replaced() {
    for seed in seeds() {
        let (mut cluster, n) = led_cluster(3, seed);
        cluster.cut.extend([(n[1], n[0]), (n[2], n[0])]);
        expect_stable_service(&mut cluster, n[1], "deaf primary");
        assert!(!cluster.nodes[n[0]].is_primary(), "seed {seed}: it still leads");
        cluster.heal_and_converge(5_000_000);
    }
}

/// All 64 ways to cut directions between three replicas.
#[test]
fn wherever_two_replicas_hear_each_other_one_primary_stays() {
    let directions = [(0, 1), (1, 0), (0, 2), (2, 0), (1, 2), (2, 1)];
    for pattern in 0..64_u32 {
        let is_cut = |direction: usize| pattern >> direction & 1 == 1;
        let is_connected = [0, 2, 4].iter().any(|first| !is_cut(*first) && !is_cut(first + 1));
        for seed in (1..4).filter(|_| is_connected) {
            let (mut cluster, n) = led_cluster(3, seed);
            let cut = directions.iter().enumerate().filter(|(direction, _)| is_cut(*direction));
            cluster.cut = cut.map(|(_, (from, to))| (n[*from], n[*to])).collect();
            cluster.run(4 * ELECTION_TIMEOUT_US);
            let views = cluster.views_led();
            let newest = |cluster: &Cluster| n.iter().map(|node| cluster.applied(*node)).max();
            let before = newest(&cluster);
            run_with_notes(&mut cluster, &n, 3_000_000);
            assert_eq!(cluster.views_led(), views, "pattern {pattern}, seed {seed}: views still change");
            assert!(newest(&cluster) > before, "pattern {pattern}, seed {seed}: no progress beyond {before:?}");
            cluster.heal_and_converge(5_000_000);
        }
    }
}

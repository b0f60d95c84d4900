//! Upgrades one node at a time, and what keeps the feature level from being raised.

use super::*;

/// Three nodes with old programs, which know of no levels, and clients that write.
fn old_cluster(seed: u64) -> Cluster {
    let faults = Faults { level_heard_us: 1_000_000, ..Faults::none() };
    let mut cluster = Cluster::new(3, seed, faults, WorkloadProfile::calm());
    cluster.run(2_000_000);
    cluster
}

fn levels(cluster: &Cluster) -> [u32; 3] {
    [0, 1, 2].map(|node| cluster.level_of(node))
}

fn primary(cluster: &Cluster) -> usize {
    cluster.nodes.iter().position(|node| node.is_primary()).expect("one leads")
}

/// Asks the primary, and waits for a while.
fn finalize(cluster: &mut Cluster) {
    cluster.raise_level(primary(cluster), None, false);
    cluster.run(500_000);
}

fn replace_program(cluster: &mut Cluster, node: usize, highest: u32) {
    cluster.take_down(node);
    cluster.install(node, highest);
    cluster.run(200_000);
    cluster.bring_back(node);
    cluster.run(2_000_000);
}

#[test]
fn a_rolling_upgrade_changes_nothing_until_it_is_finished() {
    for seed in 1..21 {
        let mut cluster = old_cluster(seed);
        for node in [2, 0, 1] {
            finalize(&mut cluster);
            assert_eq!(levels(&cluster), [1, 1, 1], "seed {seed}: node {node} runs the old program");
            replace_program(&mut cluster, node, 2);
        }
        cluster.run(5_000_000);
        assert_eq!(levels(&cluster), [1, 1, 1], "seed {seed}: nobody asked");
        finalize(&mut cluster);
        assert_eq!(levels(&cluster), [2, 2, 2], "seed {seed}");
        cluster.heal_and_converge(5_000_000);
    }
}

#[test]
fn until_it_is_finished_the_old_program_can_be_put_back() {
    for seed in 1..11 {
        let mut cluster = old_cluster(seed);
        for highest in [2, 1, 2] {
            for node in 0..3 {
                replace_program(&mut cluster, node, highest);
            }
        }
        finalize(&mut cluster);
        assert_eq!(levels(&cluster), [2, 2, 2], "seed {seed}");
        cluster.heal_and_converge(5_000_000);
    }
}

#[test]
fn a_node_that_is_away_keeps_the_level_from_being_raised() {
    for seed in 1..11 {
        let mut cluster = old_cluster(seed);
        for node in 0..3 {
            replace_program(&mut cluster, node, 2);
        }
        let away = (primary(&cluster) + 1) % 3;
        cluster.take_down(away);
        cluster.run(2_000_000);
        cluster.raise_level(primary(&cluster), None, false);
        cluster.run(2_000_000);
        cluster.bring_back(away);
        cluster.run(1_000_000);
        assert_eq!(levels(&cluster), [1, 1, 1], "seed {seed}");
        finalize(&mut cluster);
        assert_eq!(levels(&cluster), [2, 2, 2], "seed {seed}");
        cluster.heal_and_converge(5_000_000);
    }
}

#[test]
fn an_observer_with_an_old_program_keeps_the_level_from_being_raised() {
    for seed in 1..11 {
        let faults = Faults { level_heard_us: 10_000_000, ..Faults::none() };
        let mut cluster = Cluster::new(3, seed, faults, WorkloadProfile::calm());
        cluster.run(2_000_000);
        for node in 0..3 {
            replace_program(&mut cluster, node, 2);
        }
        // The disk that votes was heard lately, and executed level 2.
        let replaced = (primary(&cluster) + 1) % 3;
        cluster.take_down(replaced);
        cluster.replace_disk(replaced, true);
        cluster.install(replaced, 1);
        cluster.bring_back(replaced);
        cluster.run(2_000_000);
        cluster.raise_level(primary(&cluster), None, false);
        cluster.run(2_000_000);
        assert_eq!(levels(&cluster), [1, 1, 1], "seed {seed}");
        cluster.heal_and_converge(5_000_000);
    }
}

#[test]
fn a_disk_that_is_lost_during_an_upgrade_is_passed_over_by_force_and_its_successor_votes() {
    for seed in 1..11 {
        let faults = Faults { level_heard_us: 1_000_000, readmit: true, ..Faults::none() };
        let mut cluster = Cluster::new(3, seed, faults, WorkloadProfile::calm());
        cluster.run(2_000_000);
        for node in 0..3 {
            replace_program(&mut cluster, node, 2);
        }
        let lost = (primary(&cluster) + 1) % 3;
        cluster.take_down(lost);
        cluster.replace_disk(lost, true);
        cluster.bring_back(lost);
        cluster.run(2_000_000);
        finalize(&mut cluster);
        assert_eq!(levels(&cluster), [1, 1, 1], "seed {seed}: the disk that votes is away");
        cluster.raise_level(primary(&cluster), None, true);
        cluster.run(10_000_000);
        assert_eq!(levels(&cluster), [2, 2, 2], "seed {seed}");
        let successor = cluster.nodes[lost].running.as_ref().expect("it runs");
        assert!(successor.core.status().is_voter, "seed {seed}: the new disk votes");
        cluster.heal_and_converge(5_000_000);
    }
}

#[test]
fn a_new_cluster_begins_at_the_highest_level_of_all_programs() {
    for (highest, seed) in [(2, 1), (3, 2), (2, 3), (3, 4)] {
        let faults = Faults { highest_level: highest, ..Faults::none() };
        let mut cluster = Cluster::new(3, seed, faults, WorkloadProfile::calm());
        cluster.run(2_000_000);
        let lowest = cluster.nodes.iter().map(|node| node.program.highest.0).min().expect("three nodes");
        assert_eq!(levels(&cluster), [lowest; 3], "seed {seed}");
        cluster.heal_and_converge(5_000_000);
    }
}

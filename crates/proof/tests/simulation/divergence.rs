//! One replica's database stops being what the log says: rule 12 must find it, and must not accuse anybody else.

use proof::simulator::{Cluster, Faults, Mode, Random, Settings, WorkloadProfile};

use crate::{run_all_with, seeds};

#[test]
fn a_replica_that_executes_otherwise_stops_alone_and_the_others_go_on() {
    for seed in seeds() {
        let mut random = Random::new(seed);
        let replicas = if random.one_in(3) { 5 } else { 3 };
        let faults = Faults::bad_weather(&mut random);
        let mut cluster = Cluster::new(replicas, seed, faults, WorkloadProfile::calm());
        cluster.run(2_000_000);
        let node = random.below(u64::from(replicas)) as usize;
        cluster.corrupt(node);
        cluster.run(10_000_000);
        let stopped = |cluster: &Cluster| (0..cluster.nodes.len()).filter(|n| cluster.nodes[*n].stopped).collect();
        let early: Vec<usize> = stopped(&cluster);
        assert!(early.iter().all(|stopped| *stopped == node), "seed {seed}: {early:?} stopped, {node} is wrong");
        cluster.heal_and_converge(30_000_000);
        let stopped: Vec<usize> = stopped(&cluster);
        assert_eq!(stopped, [node], "seed {seed}: others stopped, or none");
    }
}

#[test]
fn three_replicas_with_a_corrupted_one_accuse_nobody_else() {
    run_all_with(Settings { replicas: Some(3), mode: Mode::Corruption, ..Settings::default() });
}

#[test]
fn five_replicas_with_a_corrupted_one_accuse_nobody_else() {
    run_all_with(Settings { replicas: Some(5), mode: Mode::Corruption, ..Settings::default() });
}

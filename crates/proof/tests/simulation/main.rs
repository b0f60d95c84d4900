//! Simulations of whole clusters as tests: a bounded number of seeds each.
//!
//! `SIM_SEED=N cargo test -p proof --release` replays seed N in each of them; `SIM_SEEDS=N` runs N fresh ones (default
//! 60), from `SIM_FIRST_SEED` on if given. `scripts/sim.sh` runs many more.

mod divergence;
mod leases;
mod partitions;
mod roles;
mod upgrades;

use proof::simulator::{Cluster, Faults, Mode, Settings, WorkloadProfile, run};

fn seeds() -> Vec<u64> {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    if let Some(seed) = number("SIM_SEED") {
        return vec![seed];
    }
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_nanos() as u64;
    let first = number("SIM_FIRST_SEED").unwrap_or(now % 1_000_000_000);
    (first..first + number("SIM_SEEDS").unwrap_or(60)).collect()
}

fn run_all(replicas: u8) {
    run_all_with(Settings { replicas: Some(replicas), ..Settings::default() });
}

fn run_all_with(settings: Settings) {
    let mut figures = proof::simulator::Counters::default();
    for seed in seeds() {
        match run(seed, settings) {
            Ok(success) => figures.add(&success.figures),
            Err(failure) => {
                panic!(
                    "seed {seed} failed: {}\nreplay: scripts/sim.sh --seed {seed} {settings} --verbose",
                    failure.reason
                )
            }
        }
    }
    println!("{figures}");
    assert!(figures.acknowledged > 0 && figures.reads() > 0, "a simulation in which nothing happens proves nothing");
}

#[test]
fn three_replicas_agree_under_all_faults() {
    run_all(3);
}

#[test]
fn five_replicas_agree_under_all_faults() {
    run_all(5);
}

#[test]
fn three_replicas_with_leases_serve_no_stale_read() {
    run_all_with(Settings { replicas: Some(3), mode: Mode::Leases, ..Settings::default() });
}

#[test]
fn five_replicas_with_leases_serve_no_stale_read() {
    run_all_with(Settings { replicas: Some(5), mode: Mode::Leases, ..Settings::default() });
}

#[test]
fn three_replicas_that_lost_too_much_refuse_and_are_never_wrong() {
    run_all_with(Settings { replicas: Some(3), mode: Mode::BeyondBudget, ..Settings::default() });
}

#[test]
fn one_replica_survives_its_crashes() {
    run_all(1);
}

#[test]
fn a_healthy_cluster_keeps_its_primary() {
    for seed in seeds().into_iter().take(20) {
        let mut cluster = Cluster::new(3, seed, Faults::none(), WorkloadProfile::calm());
        cluster.run(10_000_000);
        cluster.heal_and_converge(5_000_000);
        assert_eq!(cluster.views_led(), 1, "seed {seed}: views changed without a fault");
    }
}

#[test]
fn one_seed_gives_one_run() {
    let settings = Settings { trace: true, ..Settings::default() };
    let trace = |seed| match run(seed, settings) {
        Ok(success) => success.trace_hash,
        Err(failure) => panic!("seed {seed} failed: {}", failure.reason),
    };
    for seed in seeds().into_iter().take(5) {
        assert_eq!(trace(seed), trace(seed), "seed {seed} ran differently the second time");
    }
}

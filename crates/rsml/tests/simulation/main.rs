//! Whole clusters in one thread: the shipped core and applier over a simulated network, disk and clock, with faults.
//!
//! One seed is one run. `RSML_SEED=N cargo test -p rsml --release --test simulation` replays seed N;
//! `RSML_SEEDS=N` runs N fresh ones (default 200), from `RSML_FIRST_SEED` on if given.

mod chaos;
mod checks;
mod cluster;
mod disk;
mod divergence;
mod executor;
mod faults;
mod node;
mod partitions;
mod random;
mod roles;

use cluster::Cluster;
use faults::Faults;

fn seeds() -> Vec<u64> {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    if let Some(seed) = number("RSML_SEED") {
        return vec![seed];
    }
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_nanos() as u64;
    let first = number("RSML_FIRST_SEED").unwrap_or(now % 1_000_000_000);
    (first..first + number("RSML_SEEDS").unwrap_or(200)).collect()
}

fn run(replicas: u8, faults: fn(&mut random::Random) -> Faults) {
    let (mut total, mut views, mut crashes, mut acknowledged, mut reads, mut trims) = (0, 0, 0, 0, 0, 0);
    let (mut transfers, mut storage_full, mut diverged, mut simulated_us) = (0, 0, 0, 0);
    let (mut snapshots, mut losses, mut databases, mut wipes) = (0, 0, 0, 0);
    let (mut given_up, mut voided, mut withdrawn) = (0, 0, 0);
    let started = std::time::Instant::now();
    for seed in seeds() {
        let result = std::panic::catch_unwind(|| {
            let mut random = random::Random::new(seed);
            let faults = faults(&mut random);
            let mut cluster = Cluster::new(replicas, seed, faults);
            cluster.run(10_000_000);
            cluster.heal_and_converge(30_000_000);
            cluster.figures()
        });
        match result {
            Ok(figures) => {
                total += 1;
                views += figures.view_changes;
                crashes += figures.crashes;
                acknowledged += figures.acknowledged;
                reads += figures.reads;
                trims += figures.trims;
                transfers += figures.transfers;
                storage_full += figures.storage_full;
                snapshots += figures.snapshots;
                losses += figures.losses;
                databases += figures.databases_lost;
                wipes += figures.wipes;
                diverged += figures.diverged;
                given_up += figures.given_up;
                voided += figures.voided;
                withdrawn += figures.withdrawn;
                simulated_us += figures.simulated_us;
            }
            Err(panic) => {
                eprintln!(
                    "seed {seed} failed; replay: RSML_SEED={seed} cargo test -p rsml --release --test simulation"
                );
                std::panic::resume_unwind(panic);
            }
        }
    }
    let seconds = started.elapsed().as_secs_f64();
    println!(
        "{total} seeds, {views} view changes, {crashes} crashes, {acknowledged} acknowledged, {reads} reads, {trims} trims, \
         {transfers} transfers, {storage_full} refused for want of space, {diverged} stopped for divergence"
    );
    println!("{snapshots} snapshots, {losses} damaged logs, {databases} databases lost, {wipes} disks replaced");
    println!("{given_up} given up late, {voided} of them voided, {withdrawn} never sent");
    println!(
        "{seconds:.1} s: {:.1} seeds/s, {:.0} times as fast as life",
        f64::from(total) / seconds,
        simulated_us as f64 / 1e6 / seconds
    );
    assert!(acknowledged > 0 && reads > 0, "a simulation in which nothing happens proves nothing");
}

#[test]
fn three_replicas_agree_under_all_faults() {
    run(3, Faults::any);
}

#[test]
fn five_replicas_agree_under_all_faults() {
    run(5, Faults::any);
}

#[test]
fn three_replicas_with_leases_serve_no_stale_read() {
    run(3, Faults::any_and_leases);
}

#[test]
fn five_replicas_with_leases_serve_no_stale_read() {
    run(5, Faults::any_and_leases);
}

#[test]
fn one_replica_survives_its_crashes() {
    run(1, Faults::any);
}

#[test]
fn a_healthy_cluster_keeps_its_primary() {
    for seed in seeds().into_iter().take(20) {
        let mut cluster = Cluster::new(3, seed, Faults::none());
        cluster.run(10_000_000);
        cluster.heal_and_converge(5_000_000);
        assert_eq!(cluster.views_led(), 1, "seed {seed}: views changed without a fault");
    }
}

#[test]
fn one_seed_gives_one_run() {
    let trace = |seed| {
        let mut random = random::Random::new(seed);
        let faults = Faults::any(&mut random);
        let mut cluster = Cluster::new(3, seed, faults);
        cluster.record_trace();
        cluster.run(3_000_000);
        cluster.trace_hash()
    };
    for seed in seeds().into_iter().take(5) {
        assert_eq!(trace(seed), trace(seed), "seed {seed} ran differently the second time");
    }
}

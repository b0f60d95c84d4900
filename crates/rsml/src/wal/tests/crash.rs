//! Crashes of the process and losses of power: acknowledged writes survive, and nothing else
//! appears.

use super::*;
use crate::wal::Fault;

const SEGMENT_BYTES: u64 = 16384;

/// A history of writes in groups, with bases, truncations, large entries and trims. It depends only
/// on the seed.
struct Scenario {
    groups: Vec<Vec<Persist>>,
    /// The states after each write; the first one is the empty log.
    states: Vec<Model>,
}

impl Scenario {
    fn new(seed: u64, group_count: u64) -> Self {
        let mut scenario = Scenario { groups: Vec::new(), states: vec![Model::default()] };
        let mut random = seed;
        let mut next = move |below: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) % below
        };
        for _ in 0..group_count {
            let mut group = Vec::new();
            for _ in 0..=next(2) {
                let number = scenario.states.len() as u64;
                let mut model = scenario.states.last().expect("never empty").clone();
                let length = if next(6) == 0 { 5000 } else { next(700) as usize };
                let entries = entries(number * 10, next(4), length);
                let back = next(4);
                let base = (next(5) == 0).then(|| Sequence((model.last + next(6)).saturating_sub(3)));
                let last = model.last.max(base.map_or(0, |base| base.0));
                let write = if next(4) == 0 {
                    replace(number, (last + 1).saturating_sub(back).max(1), &entries)
                } else {
                    append(number, last + 1, &entries)
                };
                let write = Persist { base, ..write };
                model.apply(&write);
                scenario.states.push(model);
                group.push(write);
            }
            scenario.groups.push(group);
        }
        scenario
    }

    /// Performs the groups until storage fails. Returns how many writes were acknowledged, and
    /// below which sequence the log was trimmed.
    fn run(&self, storage: &mut WalStorage) -> (usize, u64) {
        let (mut acknowledged, mut trimmed_below) = (0, 0);
        for (position, group) in self.groups.iter().enumerate() {
            if storage.persist(group).is_err() {
                break;
            }
            acknowledged += group.len();
            if position % 3 == 2 {
                let below = self.states[acknowledged].last.saturating_sub(3);
                trimmed_below = trimmed_below.max(below);
                if storage.trim(Sequence(below)).is_err() {
                    break;
                }
            }
        }
        (acknowledged, trimmed_below)
    }

    fn check(&self, recovered: &Found, acknowledged: usize, trimmed_below: u64, what: &str) {
        let matching = self.states[acknowledged..].iter().any(|state| state.matches(recovered, trimmed_below));
        let expected = &self.states[acknowledged];
        assert!(
            matching,
            "{what}: {acknowledged} acknowledged\nrecovered {recovered:?}\nexpected {expected:?} or later"
        );
    }
}

fn stop_at_every_operation(seed: u64, power_is_lost: bool) {
    let scenario = Scenario::new(seed, 12);
    for operations in 0.. {
        let what = format!("seed {seed}, stopped after {operations} operations");
        let disk = SimulatedDisk::new(seed * 1000 + operations);
        disk.stop_after(operations);
        let mut storage = wal_over(&disk, SEGMENT_BYTES);
        let opened = storage.recover();
        let (acknowledged, trimmed) = if opened.is_ok() { scenario.run(&mut storage) } else { (0, 0) };
        if power_is_lost {
            disk.crash()
        } else {
            disk.kill()
        }
        let recovered = recover(&disk, SEGMENT_BYTES).unwrap_or_else(|error| panic!("{what}: {error}"));
        scenario.check(&recovered, acknowledged, trimmed, &what);
        disk.crash();
        let again = recover(&disk, SEGMENT_BYTES).unwrap_or_else(|error| panic!("{what}, twice: {error}"));
        assert_eq!(again, recovered, "{what}: the second recovery differs");
        if acknowledged == scenario.states.len() - 1 {
            break;
        }
    }
}

#[test]
fn acknowledged_writes_survive_a_loss_of_power_at_every_operation() {
    (0..12).for_each(|seed| stop_at_every_operation(seed, true));
}

#[test]
fn acknowledged_writes_survive_the_death_of_the_process_at_every_operation() {
    (20..26).for_each(|seed| stop_at_every_operation(seed, false));
}

/// Segments are removed one after the other, each durably: whenever power is lost, none is missing
/// between those that are left.
#[test]
fn a_trim_of_many_segments_leaves_no_gap_at_a_loss_of_power_at_every_operation() {
    let whole = SimulatedDisk::new(1);
    let written = entries(1, 15, 100);
    let mut storage = wal_over(&whole, SEGMENT_BYTES);
    storage.recover().expect("the disk is healthy");
    for (sequence, entry) in (1..).zip(&written) {
        storage.persist(&[append(sequence, sequence, std::slice::from_ref(entry))]).expect("the disk is healthy");
    }
    drop(storage);
    assert_eq!(whole.names().len(), 5, "segments of three entries each");
    for operations in 0..=8 {
        for seed in 0..8 {
            let disk = whole.duplicate();
            disk.reseed(seed * 1000 + operations);
            let mut storage = wal_over(&disk, SEGMENT_BYTES);
            storage.recover().expect("nothing is damaged");
            disk.stop_after(operations);
            let is_done = storage.trim(Sequence(13)).is_ok();
            disk.crash();
            let found = recover(&disk, SEGMENT_BYTES).expect("nothing is damaged");
            let what = format!("seed {seed}, stopped after {operations} operations");
            assert_eq!(found.damaged(), [], "{what}: entries are missing between others");
            assert_eq!(found.entries, intact(&written[found.first.0 as usize - 1..]), "{what}");
            assert!(!is_done || found.first == Sequence(13), "{what}: removed segments are back: {}", found.first);
        }
    }
}

#[test]
fn recovery_may_be_interrupted_at_every_operation() {
    let scenario = Scenario::new(3, 8);
    let disk = SimulatedDisk::new(5);
    let mut storage = wal_over(&disk, SEGMENT_BYTES);
    storage.recover().expect("the disk is healthy");
    let (acknowledged, trimmed) = scenario.run(&mut storage);
    disk.inject(Fault::FailWrite);
    let number = scenario.states.len() as u64;
    let write = append(number, scenario.states[acknowledged].last + 1, &entries(900, 3, 3000));
    storage.persist(std::slice::from_ref(&write)).expect_err("the write fails");
    for seed in 0..40 {
        for operations in 0.. {
            let disk = disk.duplicate();
            disk.reseed(seed);
            disk.kill();
            disk.stop_after(operations);
            let interrupted = recover(&disk, SEGMENT_BYTES).is_err();
            disk.crash();
            let recovered = recover(&disk, SEGMENT_BYTES).expect("a torn group is removed");
            let mut with_write = scenario.states[acknowledged].clone();
            with_write.apply(&write);
            if !with_write.matches(&recovered, trimmed) {
                scenario.check(&recovered, acknowledged, trimmed, &format!("seed {seed}, {operations} operations"));
            }
            if !interrupted {
                break;
            }
        }
    }
}

#[test]
fn writing_continues_after_each_of_many_crashes() {
    for seed in 0..30 {
        let disk = SimulatedDisk::new(seed);
        let mut model = Model::default();
        for round in 1..20 {
            let mut storage = wal_over(&disk, SEGMENT_BYTES);
            let recovered = open(&mut storage).expect("only torn tails");
            let what = format!("seed {seed}, round {round}");
            assert!(model.matches(&recovered, 0), "{what}\nrecovered {recovered:?}\nmodel {model:?}");
            let kept = append(round * 10, model.last + 1, &entries(round * 100, 2, 600));
            storage.persist(std::slice::from_ref(&kept)).expect("the disk is healthy");
            model.apply(&kept);
            let torn = replace(round * 10 + 1, model.last, &entries(round * 100 + 10, 3, 2500));
            disk.stop_after(1 + seed % 2);
            let written = storage.persist(std::slice::from_ref(&torn));
            disk.crash();
            let recovered = recover(&disk, SEGMENT_BYTES).expect("only torn tails");
            if written.is_ok() || !model.matches(&recovered, 0) {
                model.apply(&torn);
            }
            assert!(model.matches(&recovered, 0), "{what}, torn\nrecovered {recovered:?}\nmodel {model:?}");
        }
    }
}

#[test]
fn after_a_failed_sync_nothing_more_is_written() {
    let disk = SimulatedDisk::new(9);
    let mut storage = wal_over(&disk, SEGMENT_BYTES);
    storage.recover().expect("the disk is healthy");
    disk.inject(Fault::FailSync);
    let failed = storage.persist(&[append(1, 1, &entries(1, 1, 10))]).expect_err("the sync fails");
    assert!(matches!(failed, StorageError::Io { what: "writing the log", .. }), "{failed}");
    let operations = disk.operations();
    storage.persist(&[append(2, 1, &entries(1, 1, 10))]).expect_err("the log is unusable");
    storage.read(Sequence(1), Sequence(1), 10).expect_err("the log is unusable");
    storage.trim(Sequence(1)).expect_err("the log is unusable");
    assert_eq!(disk.operations(), operations);
}

#[test]
fn recovered_entries_survive_although_a_sync_had_failed_before() {
    for seed in 0..50 {
        let disk = SimulatedDisk::new(seed);
        let mut storage = wal_over(&disk, SEGMENT_BYTES);
        storage.recover().expect("the disk is healthy");
        storage.persist(&[append(1, 1, &entries(1, 2, 100))]).expect("the disk is healthy");
        disk.inject(Fault::FailSync);
        storage.persist(&[append(2, 3, &entries(3, 3, 2000))]).expect_err("the sync fails");
        disk.kill();
        let recovered = recover(&disk, SEGMENT_BYTES).expect("the page cache still has everything");
        assert_eq!(recovered.last, Sequence(5));
        disk.crash();
        assert_eq!(recover(&disk, SEGMENT_BYTES).expect("it was made durable"), recovered, "seed {seed}");
    }
}

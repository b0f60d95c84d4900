//! Random histories that are right by construction, and the same with one error planted: the first
//! must be accepted and the second rejected.
//!
//! Operations take effect one after the other at growing moments, on a plain model; each is called
//! a random time before its moment and returns a random time after, so that many overlap. Every
//! test runs a fixed row of seeds and names the one that failed.

use std::collections::BTreeMap;

use super::linearizability::{self, CONFIGURATIONS, Judgement};
use super::queue::{self, QueueKind};
use super::serializability;
use super::versions::{self, VersionKind};
use crate::history::{ClientId, ListStep, ListTransaction, Operation, Outcome, RegisterKind};

const SEEDS: u64 = 300;

/// SplitMix64 (Steele et al. 2014).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % bound
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    fn pick<T: Clone>(&mut self, of: &[T]) -> Option<T> {
        (!of.is_empty()).then(|| of[self.below(of.len() as u64) as usize].clone())
    }
}

/// Moments, calls, returns and outcomes for `count` operations that take effect 10 us apart.
fn intervals(random: &mut Random, count: u64) -> Vec<(u64, u64, Outcome)> {
    (1..=count)
        .map(|index| {
            let moment = 1_000 + index * 10;
            let reach = if random.one_in(10) { 500 } else { 30 };
            let outcome = match random.below(10) {
                0 => Outcome::Unknown,
                1 => Outcome::Fail,
                _ => Outcome::Ok,
            };
            (moment - random.below(reach), moment + random.below(reach), outcome)
        })
        .collect()
}

/// Whether it changes the model: always, never, or by chance if nobody will know.
fn happens(random: &mut Random, outcome: Outcome) -> bool {
    match outcome {
        Outcome::Ok => true,
        Outcome::Fail => false,
        Outcome::Unknown => random.one_in(2),
    }
}

fn operation<K>(client: usize, interval: (u64, u64, Outcome), kind: K) -> Operation<K> {
    let (called_us, returned_us, outcome) = interval;
    Operation { client: ClientId(client as u64), called_us, returned_us, kind, outcome }
}

fn is_before<K>(first: &Operation<K>, second: &Operation<K>) -> bool {
    first.outcome == Outcome::Ok && first.returned_us < second.called_us
}

// --- registers ---

fn registers(random: &mut Random, count: u64) -> Vec<Operation<RegisterKind>> {
    let mut model: BTreeMap<u64, u64> = BTreeMap::new();
    let intervals = intervals(random, count);
    let mut history = Vec::new();
    for (index, interval) in intervals.into_iter().enumerate() {
        let (key, value) = (random.below(3), index as u64 + 1);
        let present = model.get(&key).copied().unwrap_or_default();
        let kind = match random.below(4) {
            0 => RegisterKind::Write { key, value },
            1 => RegisterKind::CompareAndSet { key, expected: present, new: value },
            _ => RegisterKind::Read { key, value: present },
        };
        if let Some((key, value)) = kind.written().filter(|_| happens(random, interval.2)) {
            model.insert(key, value);
        }
        history.push(operation(index, interval, kind));
    }
    history
}

/// Every way to make one read wrong for sure: the read, and the value.
fn wrong_reads(history: &[Operation<RegisterKind>]) -> Vec<(usize, u64)> {
    let mut wrong = Vec::new();
    let writes: Vec<_> = history.iter().filter_map(|o| o.kind.written().map(|(key, value)| (o, key, value))).collect();
    for (index, read) in history.iter().enumerate().filter(|(_, o)| o.outcome == Outcome::Ok) {
        let RegisterKind::Read { key, .. } = read.kind else { continue };
        wrong.push((index, 1_000_000));
        for (write, _, value) in writes.iter().filter(|(_, of, _)| *of == key) {
            let overwritten = writes.iter().any(|(w, of, _)| *of == key && is_before(write, w) && is_before(w, read));
            if write.outcome == Outcome::Fail || write.called_us > read.returned_us || overwritten {
                wrong.push((index, *value));
            }
        }
    }
    wrong
}

#[test]
fn random_registers_are_accepted_and_with_one_wrong_read_rejected() {
    for seed in 0..SEEDS {
        let mut random = Random(seed);
        let mut history = registers(&mut random, 60);
        assert_eq!(linearizability::check(&history, CONFIGURATIONS), Judgement::Linearizable, "seed {seed}");
        let Some((index, wrong)) = random.pick(&wrong_reads(&history)) else { continue };
        if let RegisterKind::Read { value, .. } = &mut history[index].kind {
            *value = wrong;
        }
        let verdict = linearizability::check(&history, CONFIGURATIONS);
        assert!(
            matches!(verdict, Judgement::NotLinearizable(_)),
            "seed {seed}: operation {index} is wrong; {verdict:?}"
        );
    }
}

#[test]
fn a_long_random_history_of_registers_is_decided() {
    let history = registers(&mut Random(7), 20_000);
    assert_eq!(linearizability::check(&history, CONFIGURATIONS), Judgement::Linearizable);
}

// --- transactions over lists ---

fn lists(random: &mut Random, count: u64) -> Vec<Operation<ListTransaction>> {
    let mut model: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
    let intervals = intervals(random, count);
    let mut history = Vec::new();
    for (index, interval) in intervals.into_iter().enumerate() {
        let mut after = model.clone();
        let mut steps = Vec::new();
        for step in 0..1 + random.below(4) {
            let key = random.below(4);
            let list = after.entry(key).or_default();
            if random.one_in(2) {
                let element = index as u64 * 10 + step + 1;
                list.push(element);
                steps.push(ListStep::Append { key, element });
            } else {
                steps.push(ListStep::Read { key, list: list.clone() });
            }
        }
        if happens(random, interval.2) {
            model = after;
        }
        let version = random.one_in(2).then_some(index as u64 + 1);
        history.push(operation(index, interval, ListTransaction { steps, version }));
    }
    history
}

fn appends(operation: &Operation<ListTransaction>, key: u64) -> Vec<u64> {
    let of = |step: &ListStep| match step {
        ListStep::Append { key: other, element } if *other == key => Some(*element),
        _ => None,
    };
    operation.kind.steps.iter().filter_map(of).collect()
}

/// Plants one error that cannot be explained; false if the history has no place for this kind of
/// error.
fn spoil(random: &mut Random, history: &mut [Operation<ListTransaction>], kind: u64) -> bool {
    let mut places = Vec::new();
    for (index, reader) in history.iter().enumerate().filter(|(_, o)| o.outcome == Outcome::Ok) {
        for (step, read) in reader.kind.steps.iter().enumerate() {
            let ListStep::Read { key, list } = read else { continue };
            if !appends(reader, *key).is_empty() {
                continue;
            }
            let mut spoiled = list.clone();
            let is_planted = match kind {
                // Somebody's acknowledged append, and all after it, is missing though it returned
                // before.
                0 => history.iter().filter(|w| is_before(w, reader)).flat_map(|w| appends(w, *key)).any(|element| {
                    let place = list.iter().position(|other| *other == element);
                    spoiled.truncate(place.unwrap_or(spoiled.len()));
                    place.is_some()
                }),
                // One append stands there twice.
                1 => list.first().copied().is_some_and(|first| {
                    spoiled.push(first);
                    true
                }),
                // Two appends have changed places, while another read has them in order.
                2 => {
                    let others =
                        history.iter().enumerate().filter(|(other, o)| *other != index && o.outcome == Outcome::Ok);
                    let longest = others
                        .flat_map(|(_, o)| &o.kind.steps)
                        .filter_map(|s| match s {
                            ListStep::Read { key: other, list } if other == key => Some(list.len()),
                            _ => None,
                        })
                        .max();
                    list.len() >= 2 && longest.is_some_and(|length| length >= 2) && {
                        spoiled.swap(0, 1);
                        true
                    }
                }
                // An append of a transaction that failed.
                3 => history
                    .iter()
                    .filter(|w| w.outcome == Outcome::Fail)
                    .flat_map(|w| appends(w, *key))
                    .next()
                    .is_some_and(|element| {
                        spoiled.push(element);
                        true
                    }),
                // An append of a transaction that was called after this one returned.
                _ => history
                    .iter()
                    .filter(|w| w.outcome == Outcome::Ok && w.called_us > reader.returned_us)
                    .map(|w| appends(w, *key))
                    .find(|elements| !elements.is_empty())
                    .is_some_and(|elements| {
                        spoiled.extend(elements);
                        true
                    }),
            };
            if is_planted {
                places.push((index, step, spoiled));
            }
        }
    }
    let Some((index, step, spoiled)) = random.pick(&places) else { return false };
    if let ListStep::Read { list, .. } = &mut history[index].kind.steps[step] {
        *list = spoiled;
    }
    true
}

#[test]
fn random_transactions_are_accepted_and_with_one_error_rejected() {
    let mut planted = [0; 5];
    for seed in 0..SEEDS {
        let mut random = Random(seed);
        let mut history = lists(&mut random, 60);
        assert_eq!(serializability::check(&history), Ok(()), "seed {seed}");
        let kind = seed % 5;
        if spoil(&mut random, &mut history, kind) {
            planted[kind as usize] += 1;
            assert!(serializability::check(&history).is_err(), "seed {seed}: an error of kind {kind} passed");
        }
    }
    assert!(planted.iter().all(|count| *count > 20), "{planted:?}");
}

#[test]
fn a_long_random_history_of_transactions_is_judged() {
    assert_eq!(serializability::check(&lists(&mut Random(7), 3_000)), Ok(()));
}

// --- versions and queues ---

#[test]
fn random_versions_are_accepted_and_with_one_that_went_back_rejected() {
    for seed in 0..SEEDS {
        let mut random = Random(seed);
        let mut version = 100;
        let mut history: Vec<_> = intervals(&mut random, 60)
            .into_iter()
            .enumerate()
            .map(|(index, interval)| {
                let is_commit = random.one_in(2);
                version += u64::from(is_commit && happens(&mut random, interval.2));
                let kind = if is_commit { VersionKind::Commit(version) } else { VersionKind::Read(version) };
                operation(index, interval, kind)
            })
            .collect();
        assert_eq!(versions::check(&history), Ok(()), "seed {seed}");
        let told = |o: &Operation<VersionKind>| match o.kind {
            VersionKind::Read(version) | VersionKind::Commit(version) => version,
        };
        let late: Vec<(usize, u64)> = (0..history.len())
            .filter(|late| history[*late].outcome == Outcome::Ok)
            .filter_map(|late| {
                let before = history.iter().filter(|earlier| is_before(earlier, &history[late]));
                before.map(told).max().map(|highest| (late, highest))
            })
            .collect();
        let Some((index, highest)) = random.pick(&late) else { continue };
        history[index].kind = VersionKind::Read(highest - 1);
        assert!(versions::check(&history).is_err(), "seed {seed}: operation {index} went back to {}", highest - 1);
    }
}

#[test]
fn random_queues_are_accepted_and_with_one_element_missing_or_moved_rejected() {
    for seed in 0..SEEDS {
        let mut random = Random(seed);
        let mut model: BTreeMap<u128, u64> = BTreeMap::new();
        let mut history = Vec::new();
        for (index, interval) in intervals(&mut random, 60).into_iter().enumerate() {
            let (element, stamp) = (index as u64 + 1, (index as u128 + 1) << 16);
            let kind = match random.below(4) {
                0 | 1 => QueueKind::Push { element, stamp },
                2 => QueueKind::Scan { seen: model.iter().map(|(stamp, element)| (*stamp, *element)).collect() },
                _ => match model.values().next() {
                    Some(first) => QueueKind::Pop { element: *first },
                    None => continue,
                },
            };
            match &kind {
                QueueKind::Push { .. } if happens(&mut random, interval.2) => drop(model.insert(stamp, element)),
                QueueKind::Pop { .. } if happens(&mut random, interval.2) => drop(model.pop_first()),
                _ => {}
            }
            history.push(operation(index, interval, kind));
        }
        assert_eq!(queue::check(&history), Ok(()), "seed {seed}");
        let scans: Vec<(usize, usize)> = (0..history.len())
            .filter(|scan| history[*scan].outcome == Outcome::Ok)
            .flat_map(|scan| match &history[scan].kind {
                QueueKind::Scan { seen } if seen.len() >= 2 => vec![(scan, seen.len())],
                _ => Vec::new(),
            })
            .collect();
        let Some((index, length)) = random.pick(&scans) else { continue };
        let place = random.below(length as u64 - 1) as usize;
        if let QueueKind::Scan { seen } = &mut history[index].kind {
            seen.swap(place, place + 1);
        }
        assert!(queue::check(&history).is_err(), "seed {seed}: scan {index} has two elements swapped");
    }
}

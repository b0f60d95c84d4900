//! Queue: pushes whose keys are versionstamps. Stamps are unique, grow with real time, and are the
//! order in which everyone sees the elements; pops take from the front, each element once.
//!
//! Source: the promise of versionstamps (FoundationDB, "the versionstamp recipe for queues"), and
//! Herlihy and Wing, *Linearizability* (1990), for the queue. Polynomial: stamps tell the order, so
//! that nothing is searched. O(n log n) for stamps and real time, O(pushes × (scans + pops)) for
//! the rest.
//!
//! Elements are unique in a history. A pop whose outcome is unknown may have removed what it tried
//! to take. Pops of an empty queue are not judged.

use std::collections::BTreeMap;

use super::{Verdict, Violation};
use crate::history::{Operation, Outcome};

/// A versionstamp: 10 bytes, big-endian.
pub type Stamp = u128;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum QueueKind {
    /// The stamp is valid only for `Ok`.
    Push { element: u64, stamp: Stamp },
    /// Everything in the queue, in the order of keys.
    Scan { seen: Vec<(Stamp, u64)> },
    /// Reads the first element and removes it, in one transaction.
    Pop { element: u64 },
}

type History = [Operation<QueueKind>];

pub fn check(history: &History) -> Verdict {
    let stamps = check_identity(history)?;
    check_real_time(history)?;
    check_scans(history, &stamps)?;
    check_pops(history, &stamps)
}

fn violation(anomaly: &'static str, story: String) -> Verdict {
    Err(Violation::new("queue", anomaly, story))
}

/// Every element has one stamp and every stamp one element, and nothing is seen that was not
/// pushed. Returns the stamps.
fn check_identity(history: &History) -> Result<BTreeMap<u64, Stamp>, Violation> {
    let mut pushes: BTreeMap<u64, Outcome> = BTreeMap::new();
    let mut stamps: BTreeMap<u64, Stamp> = BTreeMap::new();
    let mut elements: BTreeMap<Stamp, u64> = BTreeMap::new();
    let mut learn = |element: u64, stamp: Stamp| {
        let other = *elements.entry(stamp).or_insert(element);
        if other != element {
            return violation("versionstamp given twice", format!("{stamp:#x} to {other} and {element}"));
        }
        let other = *stamps.entry(element).or_insert(stamp);
        if other != stamp {
            return violation("duplicate execution", format!("{element} stands at {other:#x} and at {stamp:#x}"));
        }
        Ok(())
    };
    for operation in history {
        if let QueueKind::Push { element, stamp } = operation.kind {
            pushes.insert(element, operation.outcome);
            if operation.outcome == Outcome::Ok {
                learn(element, stamp)?;
            }
        }
    }
    let known = |element: u64, who: &Operation<QueueKind>| match pushes.get(&element) {
        None => violation("invented element", format!("client {} sees {element}", who.client.0)),
        Some(Outcome::Fail) => violation("dirty read", format!("client {} sees {element}: failed", who.client.0)),
        Some(_) => Ok(()),
    };
    for operation in history.iter().filter(|operation| operation.outcome == Outcome::Ok) {
        match &operation.kind {
            QueueKind::Push { .. } => {}
            QueueKind::Pop { element } => known(*element, operation)?,
            QueueKind::Scan { seen } => {
                for (stamp, element) in seen {
                    known(*element, operation)?;
                    learn(*element, *stamp)?;
                }
            }
        }
    }
    Ok(stamps)
}

/// A push that begins after a stamp was reported or read gets a higher one.
fn check_real_time(history: &History) -> Verdict {
    let told = |operation: &Operation<QueueKind>| match &operation.kind {
        QueueKind::Push { stamp, .. } => Some(*stamp),
        QueueKind::Scan { seen } => seen.iter().map(|(stamp, _)| *stamp).max(),
        QueueKind::Pop { .. } => None,
    };
    let is_ok = |operation: &&Operation<QueueKind>| operation.outcome == Outcome::Ok;
    let mut by_return: Vec<(u64, Stamp)> =
        history.iter().filter(is_ok).filter_map(|o| told(o).map(|stamp| (o.returned_us, stamp))).collect();
    by_return.sort_unstable();
    let mut pushes: Vec<&Operation<QueueKind>> =
        history.iter().filter(is_ok).filter(|o| matches!(o.kind, QueueKind::Push { .. })).collect();
    pushes.sort_by_key(|push| push.called_us);
    let mut returned = by_return.into_iter().peekable();
    let mut highest = 0;
    for push in pushes {
        while let Some((_, stamp)) = returned.next_if(|(returned_us, _)| *returned_us < push.called_us) {
            highest = highest.max(stamp);
        }
        let QueueKind::Push { element, stamp } = push.kind else { continue };
        if stamp <= highest {
            let story =
                format!("{element}, pushed at {} us, got {stamp:#x}; {highest:#x} was known before", push.called_us);
            return violation("versionstamp against real time", story);
        }
    }
    Ok(())
}

/// When an element may first be gone, and when it certainly is: the call of the first pop of it
/// that may have worked, and the return of the one that did.
fn removals(history: &History) -> BTreeMap<u64, (u64, u64)> {
    let mut removals: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
    for operation in history.iter().filter(|operation| operation.outcome != Outcome::Fail) {
        if let QueueKind::Pop { element } = operation.kind {
            let sure_us = if operation.outcome == Outcome::Ok { operation.returned_us } else { u64::MAX };
            let known = removals.entry(element).or_insert((u64::MAX, u64::MAX));
            *known = (known.0.min(operation.called_us), known.1.min(sure_us));
        }
    }
    removals
}

fn acknowledged(history: &History) -> impl Iterator<Item = (u64, &Operation<QueueKind>)> {
    history.iter().filter(|operation| operation.outcome == Outcome::Ok).filter_map(|operation| match operation.kind {
        QueueKind::Push { element, .. } => Some((element, operation)),
        _ => None,
    })
}

fn check_scans(history: &History, stamps: &BTreeMap<u64, Stamp>) -> Verdict {
    let removals = removals(history);
    let maybe_gone = |element: u64| removals.get(&element).map_or(u64::MAX, |(maybe_us, _)| *maybe_us);
    let surely_gone = |element: u64| removals.get(&element).map_or(u64::MAX, |(_, sure_us)| *sure_us);
    for scan in history.iter().filter(|operation| operation.outcome == Outcome::Ok) {
        let QueueKind::Scan { seen } = &scan.kind else { continue };
        let who = format!("the scan of client {} at {} us", scan.client.0, scan.called_us);
        if let Some(pair) = seen.windows(2).find(|pair| pair[0].0 >= pair[1].0) {
            return violation("not in order", format!("{who}: {:#x} before {:#x}", pair[0].0, pair[1].0));
        }
        let elements: std::collections::BTreeSet<u64> = seen.iter().map(|(_, element)| *element).collect();
        if let Some(element) = elements.iter().find(|element| surely_gone(**element) < scan.called_us) {
            return violation("popped element is back", format!("{who} sees {element}"));
        }
        for (element, push) in acknowledged(history) {
            let must_be_there = push.returned_us < scan.called_us && maybe_gone(element) > scan.returned_us;
            if must_be_there && !elements.contains(&element) {
                let story = format!("{who} misses {element}, acknowledged at {} us", push.returned_us);
                return violation("lost acknowledged write", story);
            }
        }
        // A scan that sees a later element sees the earlier ones, even those that were not
        // acknowledged yet.
        let last = seen.last().map_or(0, |(stamp, _)| *stamp);
        for (element, stamp) in stamps {
            if *stamp < last && maybe_gone(*element) > scan.returned_us && !elements.contains(element) {
                return violation("hole", format!("{who} sees {last:#x}, but not {element} at {stamp:#x}"));
            }
        }
    }
    Ok(())
}

fn check_pops(history: &History, stamps: &BTreeMap<u64, Stamp>) -> Verdict {
    let removals = removals(history);
    let mut popped = std::collections::BTreeSet::new();
    for pop in history.iter().filter(|operation| operation.outcome == Outcome::Ok) {
        let QueueKind::Pop { element } = pop.kind else { continue };
        if !popped.insert(element) {
            return violation("popped twice", format!("{element}, again by client {}", pop.client.0));
        }
        let Some(stamp) = stamps.get(&element) else { continue };
        for (other, push) in acknowledged(history) {
            let is_before = stamps.get(&other).is_some_and(|earlier| earlier < stamp);
            let is_there = push.returned_us < pop.called_us
                && removals.get(&other).is_none_or(|(maybe_us, _)| *maybe_us > pop.returned_us);
            if is_before && is_there {
                let story = format!("client {} pops {element} while {other} stands before it", pop.client.0);
                return violation("popped out of order", story);
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::QueueKind::{Pop, Push, Scan};
    use super::*;
    use crate::history::ClientId;

    fn ok(called_us: u64, returned_us: u64, kind: QueueKind) -> Operation<QueueKind> {
        Operation { client: ClientId(called_us), called_us, returned_us, kind, outcome: Outcome::Ok }
    }

    fn with(outcome: Outcome, called_us: u64, kind: QueueKind) -> Operation<QueueKind> {
        Operation { client: ClientId(called_us), called_us, returned_us: called_us + 1, kind, outcome }
    }

    fn push(called_us: u64, element: u64, stamp: Stamp) -> Operation<QueueKind> {
        ok(called_us, called_us + 5, Push { element, stamp })
    }

    fn scan(called_us: u64, seen: &[(Stamp, u64)]) -> Operation<QueueKind> {
        ok(called_us, called_us + 5, Scan { seen: seen.to_vec() })
    }

    #[test]
    fn a_queue_in_order_is_accepted() {
        let unknown = with(Outcome::Unknown, 12, Push { element: 4, stamp: 0 });
        let popping = with(Outcome::Unknown, 60, Pop { element: 2 });
        check(&[
            push(0, 1, 10),
            push(10, 2, 20),
            unknown,
            scan(20, &[(10, 1), (20, 2), (21, 4)]),
            ok(30, 35, Pop { element: 1 }),
            push(40, 3, 30),
            scan(50, &[(20, 2), (21, 4), (30, 3)]),
            popping,
            scan(70, &[(21, 4), (30, 3)]),
        ])
        .expect("in order");
    }

    #[test]
    fn bad_queues_are_rejected_by_name() {
        let two = [push(0, 1, 10), push(10, 2, 20)];
        let cases = [
            ("versionstamp given twice", vec![push(3, 3, 20)]),
            ("versionstamp against real time", vec![push(20, 3, 15)]),
            ("not in order", vec![scan(20, &[(20, 2), (10, 1)])]),
            ("lost acknowledged write", vec![scan(20, &[(20, 2)])]),
            ("hole", vec![ok(4, 12, Scan { seen: vec![(20, 2)] })]),
            ("duplicate execution", vec![scan(20, &[(10, 1), (20, 2), (30, 1)])]),
            ("invented element", vec![scan(20, &[(10, 1), (20, 2), (30, 9)])]),
            ("dirty read", vec![with(Outcome::Fail, 12, Push { element: 3, stamp: 0 }), scan(20, &[(30, 3)])]),
            ("popped twice", vec![ok(20, 25, Pop { element: 1 }), ok(30, 35, Pop { element: 1 })]),
            ("popped out of order", vec![ok(20, 25, Pop { element: 2 })]),
            ("popped element is back", vec![ok(20, 25, Pop { element: 1 }), scan(30, &[(10, 1), (20, 2)])]),
            (
                "versionstamp against real time",
                vec![scan(14, &[(10, 1), (20, 2), (30, 3)]), push(25, 4, 25), {
                    with(Outcome::Unknown, 11, Push { element: 3, stamp: 0 })
                }],
            ),
        ];
        for (anomaly, more) in cases {
            let history: Vec<_> = two.iter().cloned().chain(more).collect();
            assert_eq!(check(&history).expect_err(anomaly).anomaly, anomaly);
        }
    }
}

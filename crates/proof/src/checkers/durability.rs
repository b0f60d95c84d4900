//! Durability: what was acknowledged is there, at every later look and at the end.
//!
//! Two forms. [`Durability`] watches writes that each leave something of their own (an element, a
//! request, a stamped key): whoever looks at everything, later than the acknowledgement, must see
//! it, unless somebody asked for its removal before the look ended. [`final_registers`] judges the
//! last values of overwritten registers.
//!
//! Source: the promise of an acknowledgement. It is weaker than linearizability (what is seen too
//! early or out of order is accepted), but needs no search: O(n) per look, O(n log n) for
//! registers.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;

use super::{Verdict, Violation};
use crate::history::{Operation, Outcome, RegisterKind};

#[derive(Debug)]
pub struct Durability<T> {
    /// The acknowledged items, and the time when that was known.
    acknowledged: BTreeMap<T, u64>,
    /// From when on it may be missing, because its removal was asked for.
    removed: BTreeMap<T, u64>,
}

impl<T> Default for Durability<T> {
    fn default() -> Self {
        Durability { acknowledged: BTreeMap::new(), removed: BTreeMap::new() }
    }
}

impl<T: Ord + Clone + Debug> Durability<T> {
    pub fn acknowledge(&mut self, write: T, returned_us: u64) {
        self.acknowledged.entry(write).or_insert(returned_us);
    }

    /// Somebody calls for the removal of `write` now; whether that succeeds does not matter.
    pub fn remove(&mut self, write: T, called_us: u64) {
        self.removed.entry(write).or_insert(called_us);
    }

    /// Somebody (`who`) looked at everything, between these two moments, and saw `seen`.
    pub fn observe(&self, who: &str, called_us: u64, returned_us: u64, seen: &BTreeSet<T>) -> Verdict {
        for (write, acknowledged_us) in &self.acknowledged {
            let may_be_gone = self.removed.get(write).is_some_and(|removed_us| *removed_us <= returned_us);
            if *acknowledged_us < called_us && !may_be_gone && !seen.contains(write) {
                let story =
                    format!("{write:?}, acknowledged at {acknowledged_us} us: {who} misses it at {called_us} us");
                return Err(Violation::new("durability", "lost acknowledged write", story));
            }
        }
        Ok(())
    }

    pub fn acknowledged(&self) -> usize {
        self.acknowledged.len()
    }
}

/// `last` holds the value of every register after the end of `history` (0 or nothing: absent). Each
/// must stem from a write that no acknowledged write follows.
pub fn final_registers(history: &[Operation<RegisterKind>], last: &BTreeMap<u64, u64>) -> Verdict {
    // Per key: the call of the latest acknowledged write, and per value when the latest write of it
    // returned.
    let mut latest_calls: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
    let mut returns: BTreeMap<(u64, u64), u64> = BTreeMap::new();
    for operation in history {
        let Some((key, value)) = operation.kind.written() else { continue };
        let returned_us = match operation.outcome {
            Outcome::Ok => operation.returned_us,
            Outcome::Unknown => u64::MAX,
            Outcome::Fail => continue,
        };
        let returned = returns.entry((key, value)).or_default();
        *returned = returned_us.max(*returned);
        if operation.outcome == Outcome::Ok {
            let latest = latest_calls.entry(key).or_default();
            *latest = (operation.called_us, value).max(*latest);
        }
    }
    for key in returns.keys().map(|(key, _)| *key).chain(last.keys().copied()).collect::<BTreeSet<u64>>() {
        let value = last.get(&key).copied().unwrap_or_default();
        let (called_us, acknowledged) = latest_calls.get(&key).copied().unwrap_or_default();
        let Some(returned_us) = returns.get(&(key, value)).copied().or((value == 0).then_some(0)) else {
            let story = format!("key {key} ends with {value}, which nobody wrote");
            return Err(Violation::new("durability", "invented value", story));
        };
        if returned_us < called_us {
            let story = format!("key {key} ends with {value}, but {acknowledged} was written later, at {called_us} us");
            return Err(Violation::new("durability", "lost acknowledged write", story));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::ClientId;

    fn seen(writes: &[u64]) -> BTreeSet<u64> {
        writes.iter().copied().collect()
    }

    fn acknowledged() -> Durability<u64> {
        let mut durability = Durability::default();
        durability.acknowledge(1, 100);
        durability.acknowledge(2, 200);
        durability
    }

    #[test]
    fn whoever_looks_later_sees_every_acknowledged_write() {
        acknowledged().observe("a scan", 300, 310, &seen(&[1, 2, 3])).expect("all are there");
        acknowledged().observe("a scan", 150, 160, &seen(&[1])).expect("2 was not acknowledged yet");
        acknowledged().observe("a scan", 200, 210, &seen(&[1])).expect("2 was acknowledged in the same moment");
    }

    #[test]
    fn a_lost_acknowledged_write_is_rejected() {
        let violation = acknowledged().observe("a scan", 300, 310, &seen(&[2])).expect_err("1 is lost");
        assert_eq!(violation.anomaly, "lost acknowledged write");
    }

    #[test]
    fn what_was_removed_may_be_missing_but_not_before() {
        let mut durability = acknowledged();
        durability.remove(1, 400);
        durability.observe("a scan", 390, 405, &seen(&[2])).expect("the removal overlaps");
        durability.observe("a scan", 300, 310, &seen(&[2])).expect_err("not removed yet");
    }

    fn write(value: u64, called_us: u64, returned_us: u64, outcome: Outcome) -> Operation<RegisterKind> {
        let kind = RegisterKind::Write { key: 1, value };
        Operation { client: ClientId(0), called_us, returned_us, kind, outcome }
    }

    #[test]
    fn the_last_value_is_one_that_no_acknowledged_write_follows() {
        use Outcome::{Ok, Unknown};
        let history = [write(1, 0, 10, Ok), write(2, 20, 30, Ok), write(3, 25, 35, Ok), write(4, 5, 0, Unknown)];
        for value in [2, 3, 4] {
            final_registers(&history, &BTreeMap::from([(1, value)])).expect("overlapping or unknown");
        }
        for (value, anomaly) in [(1, "lost acknowledged write"), (0, "lost acknowledged write"), (9, "invented value")]
        {
            let violation = final_registers(&history, &BTreeMap::from([(1, value)])).expect_err("overwritten");
            assert_eq!(violation.anomaly, anomaly);
        }
    }

    #[test]
    fn a_failed_write_that_stays_is_rejected() {
        let history = [write(1, 0, 10, Outcome::Ok), write(2, 20, 30, Outcome::Fail)];
        let violation = final_registers(&history, &BTreeMap::from([(1, 2)])).expect_err("it failed");
        assert_eq!(violation.anomaly, "invented value");
    }
}

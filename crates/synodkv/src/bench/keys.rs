//! Chooses the next record and operation of a run.

use std::collections::BTreeSet;
use std::time::{SystemTime, UNIX_EPOCH};

use super::args::LoadArgs;
use super::distribution::Chooser;
use super::random::SplitMix64;
use super::workload::{Mix, Operation};

/// Bits of a unique key's number that hold a counter. The bits above identify the run, so that no
/// run writes the keys of another.
const COUNTER_BITS: u32 = 36;

/// Chooses the next operation and record.
pub struct KeySpace {
    random: SplitMix64,
    chooser: Chooser,
    records: Records,
    mix: Mix,
    scan_rows: u64,
    /// The next unique key; `None` if keys are drawn at random.
    next_unique: Option<u64>,
}

impl KeySpace {
    pub fn new(args: &LoadArgs) -> Self {
        let (records, workload) = (args.records.keys, args.workload);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let run = now.as_millis() as u64 & ((1 << (64 - COUNTER_BITS)) - 1);
        KeySpace {
            random: SplitMix64::of_the_clock(),
            chooser: Chooser::new(args.distribution(), records, workload.inserts()),
            records: Records::loaded(records),
            mix: workload.mix(),
            scan_rows: u64::from(args.scan_rows),
            next_unique: args.unique.then_some(run << COUNTER_BITS),
        }
    }

    pub fn next_operation(&mut self) -> Operation {
        if let [(only, _)] = self.mix {
            return *only;
        }
        let mut roll = self.random.below(100);
        for (operation, percent) in self.mix {
            if roll < *percent {
                return *operation;
            }
            roll -= percent;
        }
        unreachable!("a mix adds up to 100");
    }

    /// A record that exists; with unique keys, one that does not.
    pub fn next_number(&mut self) -> u64 {
        match &mut self.next_unique {
            Some(next) => {
                *next += 1;
                *next
            }
            None => self.chooser.next(self.records.existing, &mut self.random),
        }
    }

    /// Two different records, or the same one twice if there is only one.
    pub fn next_two(&mut self) -> (u64, u64) {
        let one = self.next_number();
        let mut other = self.next_number();
        while other == one && self.records.existing > 1 {
            other = self.next_number();
        }
        (one, other)
    }

    pub fn next_scan_rows(&mut self) -> i32 {
        1 + self.random.below(self.scan_rows) as i32
    }

    pub fn begin_insert(&mut self) -> u64 {
        self.records.begin_insert()
    }

    pub fn end_insert(&mut self, number: u64, succeeded: bool) {
        self.records.end_insert(number, succeeded);
    }
}

/// Tracks which records exist while some are being inserted.
///
/// Invariant: all records below `existing` exist. `ahead` holds those inserted above it, and
/// `failed` those to be tried again.
#[derive(Debug)]
struct Records {
    existing: u64,
    next: u64,
    ahead: BTreeSet<u64>,
    failed: Vec<u64>,
}

impl Records {
    fn loaded(count: u64) -> Self {
        Records { existing: count, next: count, ahead: BTreeSet::new(), failed: Vec::new() }
    }

    fn begin_insert(&mut self) -> u64 {
        self.failed.pop().unwrap_or_else(|| {
            self.next += 1;
            self.next - 1
        })
    }

    fn end_insert(&mut self, number: u64, succeeded: bool) {
        if !succeeded {
            self.failed.push(number);
            return;
        }
        self.ahead.insert(number);
        while self.ahead.remove(&self.existing) {
            self.existing += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::args::tests::load_args;
    use super::*;

    #[test]
    fn operations_come_as_often_as_their_mix_says() {
        let mut keys = KeySpace::new(&load_args(&["--workload", "ycsb-e"]));
        let inserts = (0..100_000).filter(|_| keys.next_operation() == Operation::Insert).count();
        assert!((4_500..5_500).contains(&inserts), "{inserts} of 100000");
    }

    #[test]
    fn scans_are_of_one_row_up_to_the_most() {
        let mut keys = KeySpace::new(&load_args(&["--workload", "ycsb-e", "--scan-rows", "5"]));
        let lengths: BTreeSet<i32> = (0..1000).map(|_| keys.next_scan_rows()).collect();
        assert_eq!(lengths, (1..=5).collect());
    }

    #[test]
    fn a_record_is_asked_for_only_when_all_before_it_are_inserted() {
        let mut records = Records::loaded(10);
        let (first, second, third) = (records.begin_insert(), records.begin_insert(), records.begin_insert());
        assert_eq!((first, second, third), (10, 11, 12));
        records.end_insert(second, true);
        assert_eq!(records.existing, 10);
        records.end_insert(first, false);
        records.end_insert(third, true);
        assert_eq!(records.existing, 10);
        assert_eq!(records.begin_insert(), first, "what failed is tried again");
        records.end_insert(first, true);
        assert_eq!(records.existing, 13);
    }

    #[test]
    fn a_transaction_gets_two_different_records() {
        let mut keys = KeySpace::new(&load_args(&["--workload", "txn", "--keys", "2"]));
        for _ in 0..100 {
            let (one, other) = keys.next_two();
            assert_ne!(one, other);
        }
    }
}

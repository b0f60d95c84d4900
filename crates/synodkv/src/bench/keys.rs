//! Records: which one is next, what its key is, and what its value.
//!
//! The key of record N is N in hexadecimal, padded on the left with zeros to the key's length; with YCSB `user` and the
//! hash of N in decimal, so that neighbours in the order of keys are strangers. The value of a recorded key repeats the
//! key, so that a check needs only the key to know the value.

use std::collections::BTreeSet;
use std::time::{SystemTime, UNIX_EPOCH};

use super::args::LoadArgs;
use super::distribution::{Chooser, fnv_hash};
use super::random::SplitMix64;
use super::workload::{Mix, Operation};

/// Bits of a unique key's number that count; those above name the run, so that no run writes the keys of another.
const COUNTER_BITS: u32 = 36;
/// Hexadecimal digits of a unique key's number.
pub const UNIQUE_DIGITS: usize = 16;
const YCSB_PREFIX: &[u8] = b"user";
/// Digits of the largest hash.
const YCSB_DIGITS: usize = 19;
pub const YCSB_KEY_BYTES: usize = YCSB_PREFIX.len() + YCSB_DIGITS;

/// How records are called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Naming {
    Hexadecimal { key_size: usize },
    Ycsb,
}

impl Naming {
    pub fn key_size(self) -> usize {
        match self {
            Naming::Hexadecimal { key_size } => key_size,
            Naming::Ycsb => YCSB_KEY_BYTES,
        }
    }

    pub fn key(self, number: u64) -> Vec<u8> {
        let mut key = vec![0; self.key_size()];
        self.write_key(&mut key, number);
        key
    }

    /// Writes the key of record `number` over all of `place`.
    pub fn write_key(self, place: &mut [u8], number: u64) {
        match self {
            Naming::Hexadecimal { .. } => write_digits(place, number, 16),
            Naming::Ycsb => {
                let (prefix, digits) = place.split_at_mut(YCSB_PREFIX.len());
                prefix.copy_from_slice(YCSB_PREFIX);
                write_digits(digits, fnv_hash(number), 10);
            }
        }
    }
}

/// Fills `place` with the last digits of `number`.
fn write_digits(place: &mut [u8], mut number: u64, base: u64) {
    for byte in place.iter_mut().rev() {
        *byte = b"0123456789abcdef"[(number % base) as usize];
        number /= base;
    }
}

/// Writes the value of a recorded key over all of `place`.
pub fn write_value_of(key: &[u8], place: &mut [u8]) {
    for chunk in place.chunks_mut(key.len()) {
        chunk.copy_from_slice(&key[..chunk.len()]);
    }
}

/// Says what comes next.
pub struct KeySpace {
    random: SplitMix64,
    chooser: Chooser,
    records: Records,
    mix: Mix,
    scan_rows: u64,
    /// The next unique key; `None`: keys are drawn.
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

    /// Two different records; the same one twice, where there is only one.
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

/// Which records exist while some are inserted.
///
/// Invariant: all below `existing` exist. `ahead` holds those inserted above it, `failed` those that are to be tried again.
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

pub fn hex_digits(number: u64) -> usize {
    (64 - number.leading_zeros()).div_ceil(4).max(1) as usize
}

#[cfg(test)]
mod tests {
    use super::super::args::tests::load_args;
    use super::*;

    #[test]
    fn a_key_is_its_number_in_hexadecimal_padded_with_zeros() {
        assert_eq!(Naming::Hexadecimal { key_size: 6 }.key(0x1f), b"00001f");
    }

    #[test]
    fn a_key_of_ycsb_is_user_and_the_hash_of_its_number() {
        assert_eq!(Naming::Ycsb.key(0), b"user6284781860667377211");
        assert_eq!(Naming::Ycsb.key(1), b"user8517097267634966620");
        assert_eq!(Naming::Ycsb.key(7).len(), Naming::Ycsb.key_size());
    }

    #[test]
    fn digits_are_counted_for_the_largest_number() {
        assert_eq!([0, 15, 16, u64::MAX].map(hex_digits), [1, 1, 2, 16]);
    }

    #[test]
    fn the_value_of_a_key_repeats_it_to_any_length() {
        let mut value = [0; 7];
        write_value_of(b"abc", &mut value);
        assert_eq!(&value, b"abcabca");
    }

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

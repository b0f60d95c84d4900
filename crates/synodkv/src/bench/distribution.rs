//! How often each record is requested: the distributions of YCSB (Cooper, Silberstein, Tam,
//! Ramakrishnan, Sears: *Benchmarking Cloud Serving Systems with YCSB*, SoCC 2010).
//!
//! - *Uniform*: all records equally.
//! - *Zipfian*: a few records get most requests, spread over the key space by a hash.
//! - *Latest*: the records inserted last get most requests.

use clap::ValueEnum;

use super::random::SplitMix64;

/// The skew that YCSB uses.
const THETA: f64 = 0.99;
/// Number of popularity ranks of the scrambled distribution, as in YCSB. It is far larger than the
/// number of records, so that the skew does not depend on that number, and an added record does not
/// displace another.
const SCRAMBLED_RANKS: u64 = 10_000_000_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Distribution {
    /// All records equally.
    Uniform,
    /// A few records, spread over the key space, get most requests (theta 0.99).
    Zipfian,
    /// The records inserted last get most requests.
    Latest,
}

impl Distribution {
    pub fn name(self) -> &'static str {
        match self {
            Distribution::Uniform => "uniform",
            Distribution::Zipfian => "zipfian",
            Distribution::Latest => "latest",
        }
    }
}

/// Draws ranks from 0 (the most frequent) to `items` - 1, rank r with a probability proportional to
/// 1 / (r + 1)^0.99.
///
/// Gray, Sundaresan, Englert, Baclawski, Weinberger: *Quickly Generating Billion-Record Synthetic
/// Databases*, SIGMOD 1994. The first two ranks are exact, the others an approximation.
#[derive(Clone, Debug)]
pub struct Zipfian {
    items: u64,
    zeta: f64,
    eta: f64,
}

impl Zipfian {
    pub fn over(items: u64) -> Self {
        assert!(items > 0, "a distribution over nothing");
        let mut zipfian = Zipfian { items, zeta: zeta(items), eta: 0.0 };
        zipfian.eta = zipfian.eta();
        zipfian
    }

    /// Adds items, which become the least frequent ones.
    pub fn grow_to(&mut self, items: u64) {
        assert!(items >= self.items, "a distribution cannot shrink: {} -> {items}", self.items);
        if items > self.items {
            self.zeta += (self.items + 1..=items).map(weight).sum::<f64>();
            self.items = items;
            self.eta = self.eta();
        }
    }

    fn eta(&self) -> f64 {
        (1.0 - (2.0 / self.items as f64).powf(1.0 - THETA)) / (1.0 - (1.0 + weight(2)) / self.zeta)
    }

    pub fn next(&self, random: &mut SplitMix64) -> u64 {
        let unit = random.unit();
        let place = unit * self.zeta;
        if place < 1.0 || self.items == 1 {
            return 0;
        }
        if place < 1.0 + weight(2) || self.items == 2 {
            return 1;
        }
        let rank = self.items as f64 * (self.eta * unit - self.eta + 1.0).powf(1.0 / (1.0 - THETA));
        // Rounding may yield `items`, which is out of range.
        (rank as u64).min(self.items - 1)
    }
}

/// The frequency of the item of rank `place` - 1, relative to the first.
fn weight(place: u64) -> f64 {
    (place as f64).powf(-THETA)
}

/// The sum of the weights of all items: the first thousand one by one, the others by the formula of
/// Euler and Maclaurin.
fn zeta(items: u64) -> f64 {
    const COUNTED: u64 = 1000;
    let counted: f64 = (1..=items.min(COUNTED)).map(weight).sum();
    if items <= COUNTED {
        return counted;
    }
    let (from, to) = (COUNTED as f64, items as f64);
    let integral = (to.powf(1.0 - THETA) - from.powf(1.0 - THETA)) / (1.0 - THETA);
    let slope = |x: f64| -THETA * x.powf(-THETA - 1.0);
    counted + integral + (weight(items) - weight(COUNTED)) / 2.0 + (slope(to) - slope(from)) / 12.0
}

/// Draws record numbers.
#[derive(Clone, Debug)]
pub enum Chooser {
    Uniform,
    /// `span` is the number of records over which ranks are spread, including those to be inserted.
    Zipfian {
        ranks: Zipfian,
        span: u64,
    },
    /// The distance back from the last record.
    Latest(Zipfian),
}

impl Chooser {
    /// `records` is their present number. `may_grow` says that some are inserted while numbers are
    /// drawn.
    pub fn new(distribution: Distribution, records: u64, may_grow: bool) -> Self {
        match distribution {
            Distribution::Uniform => Chooser::Uniform,
            Distribution::Zipfian => {
                // A record keeps its popularity only if the span stays the same. The span has room
                // for twice as many; records beyond that are inserted but never requested.
                let span = if may_grow { records.saturating_mul(2) } else { records };
                Chooser::Zipfian { ranks: Zipfian::over(SCRAMBLED_RANKS), span }
            }
            Distribution::Latest => Chooser::Latest(Zipfian::over(records)),
        }
    }

    /// Draws one of the records 0 to `records` - 1; `records` must never decrease.
    pub fn next(&mut self, records: u64, random: &mut SplitMix64) -> u64 {
        match self {
            Chooser::Uniform => random.below(records),
            Chooser::Zipfian { ranks, span } => loop {
                let number = fnv_hash(ranks.next(random)) % *span;
                if number < records {
                    return number;
                }
            },
            Chooser::Latest(back) => {
                back.grow_to(records);
                records - 1 - back.next(random)
            }
        }
    }
}

/// The hash of YCSB: FNV-1a over the 8 bytes, lowest byte first (Fowler, Noll, Vo), without its
/// sign.
pub fn fnv_hash(number: u64) -> u64 {
    let hash = number
        .to_le_bytes()
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
    (hash as i64).unsigned_abs()
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    const DRAWS: u64 = 400_000;

    fn counts(mut draw: impl FnMut(&mut SplitMix64) -> u64) -> HashMap<u64, u64> {
        let mut random = SplitMix64::seeded(11);
        let mut counts = HashMap::new();
        for _ in 0..DRAWS {
            *counts.entry(draw(&mut random)).or_default() += 1;
        }
        counts
    }

    /// Checks a count within five standard deviations for this probability, plus a fraction `slack`
    /// of its expectation.
    #[track_caller]
    fn assert_frequency(what: &str, count: u64, probability: f64, slack: f64) {
        let expected = DRAWS as f64 * probability;
        let allowed = 5.0 * (expected * (1.0 - probability)).sqrt() + slack * expected;
        assert!(
            (count as f64 - expected).abs() <= allowed,
            "{what}: {count} times, expected {expected:.0}±{allowed:.0}"
        );
    }

    #[test]
    fn the_sum_of_weights_is_that_of_counting_and_that_of_ycsb() {
        let counted: f64 = (1..=123_456).map(weight).sum();
        assert!((zeta(123_456) - counted).abs() < 1e-9, "{} {counted}", zeta(123_456));
        assert!((zeta(SCRAMBLED_RANKS) - 26.469_028_201_783_02).abs() < 1e-6, "{}", zeta(SCRAMBLED_RANKS));
    }

    #[test]
    fn ranks_come_as_often_as_their_weights_say() {
        for items in [1, 2, 3, 1000] {
            let zipfian = Zipfian::over(items);
            let counts = counts(|random| zipfian.next(random));
            assert!(counts.keys().all(|rank| *rank < items));
            let share = |ranks: std::ops::Range<u64>| {
                let count = ranks.clone().filter_map(|rank| counts.get(&rank)).sum();
                (count, ranks.map(|rank| weight(rank + 1)).sum::<f64>() / zipfian.zeta)
            };
            for rank in 0..items.min(2) {
                let (count, probability) = share(rank..rank + 1);
                assert_frequency(&format!("rank {rank} of {items}"), count, probability, 0.0);
            }
            if items == 1000 {
                // For these, the formula is only an approximation.
                for ranks in [2..10, 10..100, 100..1000] {
                    let (count, probability) = share(ranks.clone());
                    assert_frequency(&format!("ranks {ranks:?}"), count, probability, 0.1);
                }
            }
        }
    }

    #[test]
    fn a_grown_distribution_is_the_one_that_was_made_so_large() {
        let mut grown = Zipfian::over(10);
        grown.grow_to(11);
        grown.grow_to(5000);
        let made = Zipfian::over(5000);
        assert!((grown.zeta - made.zeta).abs() < 1e-9 && (grown.eta - made.eta).abs() < 1e-9, "{grown:?} {made:?}");
    }

    #[test]
    fn scrambled_popularity_is_spread_by_a_hash_and_keeps_its_skew() {
        let records = 10_000;
        let mut chooser = Chooser::new(Distribution::Zipfian, records, false);
        let counts = counts(|random| chooser.next(records, random));
        let first = fnv_hash(0) % records;
        let second = fnv_hash(1) % records;
        assert_ne!(first, 0, "the most popular record is not simply the first one");
        let zeta = zeta(SCRAMBLED_RANKS);
        // Ranks that hash to the same record by chance add about a ten-thousandth.
        assert_frequency("the first", counts[&first], 1.0 / zeta, 0.01);
        assert_frequency("the second", counts[&second], weight(2) / zeta, 0.01);
    }

    #[test]
    fn a_record_keeps_its_popularity_while_others_are_inserted() {
        let mut chooser = Chooser::new(Distribution::Zipfian, 1000, true);
        let before = counts(|random| chooser.next(1000, random));
        let after = counts(|random| chooser.next(1100, random));
        let most =
            |counts: &HashMap<u64, u64>| counts.iter().max_by_key(|(_, count)| **count).map(|(record, _)| *record);
        assert_eq!(most(&before), most(&after));
        assert!(before.keys().all(|record| *record < 1000) && after.keys().any(|record| *record >= 1000));
    }

    #[test]
    fn the_latest_record_is_the_most_popular_one_also_after_inserts() {
        let mut chooser = Chooser::new(Distribution::Latest, 100, true);
        for records in [100, 500] {
            let counts = counts(|random| chooser.next(records, random));
            let zeta = zeta(records);
            assert_frequency("the last", counts[&(records - 1)], 1.0 / zeta, 0.0);
            assert_frequency("the last but one", counts[&(records - 2)], weight(2) / zeta, 0.0);
            assert!(counts.keys().all(|record| *record < records));
        }
    }

    #[test]
    fn uniform_records_come_alike() {
        let mut chooser = Chooser::new(Distribution::Uniform, 10, false);
        let counts = counts(|random| chooser.next(10, random));
        (0..10).for_each(|record| assert_frequency(&format!("record {record}"), counts[&record], 0.1, 0.0));
    }

    #[test]
    fn the_hash_is_that_of_ycsb() {
        // FNV-1a of eight zero bytes, and of 01 00 00 00 00 00 00 00.
        assert_eq!(fnv_hash(0), 0xa8c7_f832_281a_39c5_u64.wrapping_neg());
        assert_eq!(fnv_hash(1), 0x89cd_3129_1d2a_efa4_u64.wrapping_neg());
    }
}

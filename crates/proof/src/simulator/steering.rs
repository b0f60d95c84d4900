//! Which seeds to try next: half of them fresh, half of them variations of those that took rare
//! ways.
//!
//! A run's *kind* is the set of choices of its seed before it begins: replicas, weights of faults,
//! workload of clients, starting situation. The rest is drawn from the whole seed. A *variation*
//! has the kind of another seed and a course of its own; it is a seed like any other, and replays
//! alone.
//!
//! Rare is a pair of marked paths (`rsml::coverage`), taken one after the other, that few runs
//! took. Kinds that took such pairs are kept, and tried again as long as their pairs stay rare.

use super::random::Random;

/// Marks seeds that are variations: then the kind, then what tells variations of one kind apart.
const IS_VARIATION: u64 = 1 << 63;
const KIND_BITS: u32 = 40;
const VARIATION_BITS: u32 = 63 - KIND_BITS;
/// The number of kinds that are kept.
const KEPT: usize = 256;
/// A pair is rare if fewer than one in this many runs took it.
const RARE: u64 = 100;

/// The seed from which everything is drawn that is decided before a run begins.
pub fn kind_of(seed: u64) -> u64 {
    if seed & IS_VARIATION == 0 { seed } else { (seed >> VARIATION_BITS) & ((1 << KIND_BITS) - 1) }
}

fn variation(kind: u64, random: &mut Random) -> u64 {
    IS_VARIATION | kind << VARIATION_BITS | random.below(1 << VARIATION_BITS)
}

struct Kept {
    kind: u64,
    pairs: Vec<usize>,
}

pub struct Steering {
    random: Random,
    /// How many runs took each pair.
    taken: Vec<u64>,
    runs: u64,
    kept: Vec<Kept>,
}

impl Steering {
    pub fn new(first: u64) -> Steering {
        Steering { random: Random::new(!first), taken: Vec::new(), runs: 0, kept: Vec::new() }
    }

    /// A variation to try instead of the fresh seed, if one is due.
    pub fn choose(&mut self) -> Option<u64> {
        if self.kept.is_empty() || self.random.one_in(2) {
            return None;
        }
        let count = self.kept.len() as u64;
        let drawn: Vec<usize> = (0..3).map(|_| self.random.below(count) as usize).collect();
        let best = drawn.into_iter().max_by(|a, b| self.rarity(*a).total_cmp(&self.rarity(*b)))?;
        Some(variation(self.kept[best].kind, &mut self.random))
    }

    /// A run took these pairs.
    pub fn learn(&mut self, seed: u64, pairs: Vec<usize>) {
        self.runs += 1;
        for pair in &pairs {
            self.taken.resize(self.taken.len().max(pair + 1), 0);
            self.taken[*pair] += 1;
        }
        let kind = kind_of(seed);
        // The marks of a kind that does not fit into a variation are for those that do.
        if kind >> KIND_BITS != 0 || !pairs.iter().any(|pair| self.taken[*pair] * RARE < self.runs.max(RARE + 1)) {
            return;
        }
        let kept = Kept { kind, pairs };
        if self.kept.len() < KEPT {
            self.kept.push(kept);
        } else {
            let place = self.random.below(KEPT as u64) as usize;
            let rarity = rarity(&self.taken, &kept.pairs);
            if rarity >= self.rarity(place) {
                self.kept[place] = kept;
            }
        }
    }

    /// Different pairs that any run took.
    pub fn pairs(&self) -> usize {
        self.taken.iter().filter(|runs| **runs > 0).count()
    }

    fn rarity(&self, place: usize) -> f64 {
        rarity(&self.taken, &self.kept[place].pairs)
    }
}

fn rarity(taken: &[u64], pairs: &[usize]) -> f64 {
    pairs.iter().map(|pair| 1.0 / taken[*pair] as f64).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variation_has_the_kind_of_its_seed_and_another_course() {
        let mut random = Random::new(1);
        let kind = 999_999_999_999;
        let (first, second) = (variation(kind, &mut random), variation(kind, &mut random));
        assert_ne!(first, second);
        assert_eq!((kind_of(first), kind_of(second), kind_of(kind)), (kind, kind, kind));
    }

    #[test]
    fn what_takes_rare_ways_is_varied_until_they_are_rare_no_more() {
        let mut steering = Steering::new(5);
        for seed in 0..1_000 {
            steering.learn(seed, if seed == 700 { vec![1, 2, 3] } else { vec![1, 2] });
        }
        let chosen: Vec<u64> = (0..200).filter_map(|_| steering.choose()).map(kind_of).collect();
        let is_rare = |chosen: &[u64]| chosen.iter().filter(|kind| **kind == 700).count();
        assert!(chosen.len() > 50 && chosen.len() < 150, "half are fresh: {}", chosen.len());
        let before = is_rare(&chosen);
        for seed in 1_000..3_000 {
            steering.learn(seed, vec![1, 2, 3]);
        }
        let chosen: Vec<u64> = (0..200).filter_map(|_| steering.choose()).map(kind_of).collect();
        assert!(before > is_rare(&chosen), "{before} before, {} then", is_rare(&chosen));
    }
}

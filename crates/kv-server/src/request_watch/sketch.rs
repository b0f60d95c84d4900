//! The SpaceSaving sketch (Metwally, Agrawal, El Abbadi: *Efficient Computation of Frequent and
//! Top-k Elements in Data Streams*, ICDT 2005): the most frequent keys of a stream, in fixed memory.
//!
//! Invariants: the counts sum up to the weight of everything added; the true weight of a key is at
//! most its count, and at least its count minus its error; a key with more than 1/k of the weight is
//! present.

use std::collections::HashMap;

use bytes::Bytes;

/// Keys that a sketch holds.
pub(super) const MAX_KEYS: usize = 128;

/// A key with its count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Counted {
    /// The key, perhaps only its beginning.
    pub key: Bytes,
    /// At least how often it occurred.
    pub count: u64,
    /// By how much that may be too many.
    pub error: u64,
}

/// The most frequent keys.
#[derive(Debug, Default)]
pub(super) struct Sketch {
    slots: Vec<Counted>,
    places: HashMap<Bytes, usize>,
}

impl Sketch {
    /// Counts an occurrence.
    pub fn add(&mut self, key: &[u8], weight: u64) {
        if let Some(place) = self.places.get(key) {
            self.slots[*place].count += weight;
            return;
        }
        let key = Bytes::copy_from_slice(key);
        if self.slots.len() < MAX_KEYS {
            self.places.insert(key.clone(), self.slots.len());
            self.slots.push(Counted { key, count: weight, error: 0 });
            return;
        }
        let least = self.slots.iter().enumerate().min_by_key(|(_, slot)| slot.count);
        let Some((place, slot)) = least else { return };
        let (error, replaced) = (slot.count, slot.key.clone());
        self.places.remove(&replaced);
        self.places.insert(key.clone(), place);
        self.slots[place] = Counted { key, count: error + weight, error };
    }

    /// All keys, in no order.
    pub fn keys(&self) -> &[Counted] {
        &self.slots
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn counts_bound_the_truth_and_frequent_keys_are_present(
            stream in proptest::collection::vec((0u16..400, 1u64..4), 0..2000), hot in 0u16..400,
        ) {
            let (mut sketch, mut truth) = (Sketch::default(), HashMap::<[u8; 2], u64>::new());
            let hot = std::iter::repeat_n((hot, 1), stream.len() / 20);
            for (key, weight) in stream.into_iter().chain(hot) {
                sketch.add(&key.to_be_bytes(), weight);
                *truth.entry(key.to_be_bytes()).or_default() += weight;
            }
            let all: u64 = truth.values().sum();
            prop_assert_eq!(sketch.keys().iter().map(|slot| slot.count).sum::<u64>(), all);
            prop_assert!(sketch.keys().len() <= MAX_KEYS && sketch.places.len() == sketch.keys().len());
            for slot in sketch.keys() {
                let true_count = truth[&slot.key[..]];
                prop_assert!(slot.count - slot.error <= true_count && true_count <= slot.count);
            }
            for (key, count) in truth {
                let is_frequent = count > all / MAX_KEYS as u64;
                prop_assert!(!is_frequent || sketch.keys().iter().any(|slot| slot.key == key[..]));
            }
        }
    }
}

//! Executes the mutations of one commit in order, each seeing the effects of the ones before it.
//! The result is at most one version per key, and disjoint range clears; a key that was written
//! after a clear over it is kept.

use std::collections::BTreeMap;

use bytes::Bytes;
use kv_api::atomic::{self, AtomicChange};
use kv_api::{CommitResult, KvError, Mutation, MutationKind};

use super::deciding::Deciding;
use super::resolve::Stamps;
use crate::key_codec;

/// Keys are encoded prefixes, which keeps families apart.
pub(crate) struct Execution {
    /// The final value of each key that was written and not cleared afterwards; `None` is a delete.
    pub points: BTreeMap<Vec<u8>, Option<Bytes>>,
    /// Disjoint, non-adjacent ranges: begin to end.
    pub clears: BTreeMap<Vec<u8>, Vec<u8>>,
    pub result: CommitResult,
    stamps: Stamps,
}

impl Execution {
    /// For a commit that gets `version`.
    pub fn new(version: u64) -> Self {
        Execution {
            points: BTreeMap::new(),
            clears: BTreeMap::new(),
            result: CommitResult { version, ..CommitResult::default() },
            stamps: Stamps::new(version),
        }
    }

    /// Executes one mutation, which has passed [`crate::commit::resolve::check`].
    pub fn execute(&mut self, deciding: &mut Deciding<'_, '_>, mutation: &Mutation) -> Result<(), KvError> {
        let prefix = |key: &[u8]| key_codec::prefix(&mutation.column_family, key);
        match mutation.kind() {
            MutationKind::Set => {
                self.points.insert(prefix(&mutation.key), Some(mutation.value.clone()));
            }
            MutationKind::Delete => {
                self.points.insert(prefix(&mutation.key), None);
            }
            MutationKind::SetVersionstampedKey => {
                let key = self.stamps.fill(&mutation.key, mutation.stamp_offset);
                self.points.insert(prefix(&key), Some(mutation.value.clone()));
                self.result.generated_keys.push(key);
            }
            MutationKind::SetVersionstampedValue => {
                let value = self.stamps.fill(&mutation.value, mutation.stamp_offset);
                self.points.insert(prefix(&mutation.key), Some(value.clone()));
                self.result.generated_values.push(value);
            }
            MutationKind::ClearRange if mutation.key < mutation.value => {
                self.clear(prefix(&mutation.key), prefix(&mutation.value));
            }
            // An empty range.
            MutationKind::ClearRange => {}
            kind => {
                let prefix = prefix(&mutation.key);
                let stored = self.value(deciding, &prefix)?;
                match atomic::combine(kind, stored, &mutation.value) {
                    AtomicChange::Set(value) => drop(self.points.insert(prefix, Some(value))),
                    AtomicChange::Delete => drop(self.points.insert(prefix, None)),
                    AtomicChange::Keep => {}
                }
            }
        }
        Ok(())
    }

    /// The key's value after the mutations executed so far.
    fn value(&self, deciding: &mut Deciding<'_, '_>, prefix: &[u8]) -> Result<Option<Bytes>, KvError> {
        match self.points.get(prefix) {
            Some(value) => Ok(value.clone()),
            None if self.is_cleared(prefix) => Ok(None),
            None => deciding.current_value(prefix),
        }
    }

    fn is_cleared(&self, prefix: &[u8]) -> bool {
        let before = self.clears.range::<[u8], _>((std::ops::Bound::Unbounded, std::ops::Bound::Included(prefix)));
        before.last().is_some_and(|(_, end)| prefix < end.as_slice())
    }

    fn clear(&mut self, mut begin: Vec<u8>, mut end: Vec<u8>) {
        let covered: Vec<Vec<u8>> = self.points.range(begin.clone()..end.clone()).map(|(key, _)| key.clone()).collect();
        covered.iter().for_each(|key| drop(self.points.remove(key)));
        // Merge the range with all that it touches. They are disjoint, so their ends are in the
        // order of their begins.
        let touched = self.clears.range(..=end.clone()).rev().take_while(|(_, other)| **other >= begin);
        let touched: Vec<Vec<u8>> = touched.map(|(key, _)| key.clone()).collect();
        for other in touched {
            let other_end = self.clears.remove(&other).expect("it was just found");
            begin = begin.min(other);
            end = end.max(other_end);
        }
        self.clears.insert(begin, end);
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn clears_stay_disjoint_and_cover_what_was_cleared(ranges in vec((0u8..40, 1u8..10), 0..20)) {
            let mut execution = Execution::new(2);
            let mut cleared = [false; 60];
            for (begin, length) in ranges {
                execution.clear(vec![begin], vec![begin + length]);
                cleared[usize::from(begin)..usize::from(begin + length)].fill(true);
                let flat: Vec<(&Vec<u8>, &Vec<u8>)> = execution.clears.iter().collect();
                prop_assert!(flat.iter().all(|(begin, end)| begin < end));
                prop_assert!(flat.windows(2).all(|pair| pair[0].1 < pair[1].0));
                for (key, expected) in (0u8..).zip(cleared) {
                    prop_assert_eq!(execution.is_cleared(&[key]), expected);
                }
            }
        }
    }
}

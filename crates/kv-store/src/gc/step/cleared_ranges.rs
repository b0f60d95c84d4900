//! Cleared ranges: a walk over the entries of the range, that goes on from step to step.
//!
//! Each deleted range that an engine holds costs whoever reads, and a seek into many adjacent ones goes through them all. So
//! entries are removed one by one where they are few, and a large run of them as few ranges: over several steps the walk
//! only counts, and holds the run back. For that nobody may write into what it has passed, and [`GcProgress::written`](super::GcProgress::written)
//! watches over it. Where somebody does, the walk goes over it once more, and removes with each step what it has found.

use kv_api::KvError;

use super::run::Run;
use super::{STEPS_BEFORE_SEEK, Step};
use crate::engine::{Cursor, Table};
use crate::gc::entries::{self, RangeClear};
use crate::key_codec;

/// A run is not held back beyond this: what is held back is walked over again after a restart.
const LONGEST_RUN_ENTRIES: u64 = 500_000;

/// A clear of which a part is done.
#[derive(Debug)]
pub(super) struct ClearProgress {
    version: u64,
    number: u32,
    /// Prefix of the key to go on at.
    next: Vec<u8>,
    /// What lies before that and is to be removed: a long run, or none.
    run: Run,
    /// Whether somebody writes into the range, so that nothing is held back.
    is_written_to: bool,
}

impl ClearProgress {
    pub fn is_holding_back(&self) -> bool {
        self.run.is_long()
    }

    /// Whether a key lies within what is held back.
    pub fn has_passed(&self, key: &[u8]) -> bool {
        self.run.first().is_some_and(|first| first <= key) && key < self.next.as_slice()
    }

    /// Forgets what is held back: it is not known any more to have nothing between.
    pub fn walk_again(&mut self) {
        if let Some(first) = self.run.first() {
            // Its first key is one that was found in the table, and split then.
            self.next = key_codec::prefix_length(first).map_or(first.to_vec(), |length| first[..length].to_vec());
            self.run = Run::default();
            self.is_written_to = true;
        }
    }
}

impl Step<'_, '_> {
    /// Returns where to go on; `None` when the clear is done.
    pub(super) fn collect_range(
        &mut self,
        clear: &RangeClear,
        begun: Option<ClearProgress>,
    ) -> Result<Option<ClearProgress>, KvError> {
        assert!(clear.version <= self.watermark, "a clear at {} is still seen from {}", clear.version, self.watermark);
        self.result.entries_looked_at += 1;
        self.collected_ranges.insert(clear.begin.clone(), clear.end.clone());
        let RangeClear { version, number, .. } = *clear;
        let begun = begun.filter(|begun| (begun.version, begun.number) == (version, number));
        let begin =
            || ClearProgress { version, number, next: clear.begin.to_vec(), run: Run::default(), is_written_to: false };
        let ClearProgress { next, run, is_written_to, .. } = begun.unwrap_or_else(begin);
        let mut walk = Walk {
            cursor: self.engine.cursor(Table::Data, &next, &clear.end)?,
            clear_version: version,
            prefix: Vec::new(),
            run,
            target: Vec::new(),
        };
        walk.cursor.seek(&next)?;
        // One key at least, so that the smallest budget leads on.
        while walk.take_key()? {
            self.collect_key(&mut walk)?;
            if walk.run.entries >= LONGEST_RUN_ENTRIES {
                walk.run.end(self.batch, &mut self.result);
            }
            if self.is_over() && walk.take_key()? {
                if is_written_to || !walk.run.is_long() {
                    walk.run.end(self.batch, &mut self.result);
                }
                let Walk { prefix: next, run, .. } = walk;
                return Ok(Some(ClearProgress { version, number, next, run, is_written_to }));
            }
        }
        walk.run.end(self.batch, &mut self.result);
        entries::remove_range_clear(self.batch, version, number);
        self.result.range_clears_done.push((version, number));
        Ok(None)
    }

    /// From the newest entry of a key to that of the next.
    fn collect_key(&mut self, walk: &mut Walk<'_>) -> Result<(), KvError> {
        self.pass_survivors(walk)?;
        let mut of_key = 0;
        while let Some((_, stored)) = walk.entry()? {
            if of_key == 0 && key_codec::row_value(stored)?.is_some() {
                walk.run.rows += 1;
            }
            of_key += 1;
            self.result.entries_looked_at += 1;
            let (key, _) = walk.cursor.entry().expect("the entry just looked at");
            walk.run.push(key, self.range_delete_entries);
            if of_key == self.range_delete_entries {
                key_codec::set_behind(&mut walk.target, &walk.prefix);
                walk.run.reach(&walk.target);
                return walk.cursor.seek(&walk.target);
            }
            walk.cursor.next()?;
        }
        Ok(())
    }

    /// To the newest entry of the key that is older than the clear, or beyond the key.
    fn pass_survivors(&mut self, walk: &mut Walk<'_>) -> Result<(), KvError> {
        for _ in 0..STEPS_BEFORE_SEEK {
            match walk.entry()? {
                Some((version, _)) if version >= walk.clear_version => {
                    self.result.entries_looked_at += 1;
                    walk.run.end(self.batch, &mut self.result);
                    walk.cursor.next()?;
                }
                _ => return Ok(()),
            }
        }
        key_codec::set_versioned(&mut walk.target, &walk.prefix, walk.clear_version - 1);
        walk.cursor.seek(&walk.target)
    }
}

/// A walk over the entries of a cleared range.
struct Walk<'e> {
    cursor: Box<dyn Cursor + 'e>,
    clear_version: u64,
    /// Of the current key.
    prefix: Vec<u8>,
    run: Run,
    /// Where to seek: kept for its memory.
    target: Vec<u8>,
}

impl Walk<'_> {
    /// Makes the key under the cursor the current one; false at the end.
    fn take_key(&mut self) -> Result<bool, KvError> {
        let Some((key, _)) = self.cursor.entry() else { return Ok(false) };
        let (prefix, _) = key_codec::split(key)?;
        self.prefix.clear();
        self.prefix.extend_from_slice(prefix);
        Ok(true)
    }

    /// Version and stored value under the cursor; `None` beyond the current key.
    fn entry(&self) -> Result<Option<(u64, &[u8])>, KvError> {
        let Some((key, stored)) = self.cursor.entry().filter(|(key, _)| key.starts_with(&self.prefix)) else {
            return Ok(None);
        };
        Ok(Some((key_codec::split(key)?.1, stored)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_back_begins_with_its_first_key_and_ends_before_the_next() {
        let key = |name: &[u8], version| {
            let mut key = Vec::new();
            key_codec::set_versioned(&mut key, &key_codec::prefix("", name), version);
            key
        };
        let mut run = Run::default();
        run.push(&key(b"b", 7), 2);
        let next = key_codec::prefix("", b"d");
        let mut clear = ClearProgress { version: 9, number: 0, next: next.clone(), run, is_written_to: false };
        assert!(!clear.is_holding_back(), "one entry is no long run");
        clear.run.push(&key(b"c", 7), 2);
        assert!(clear.is_holding_back());
        // Of one key newer versions come first.
        let keys = [key(b"a", 7), key(b"b", 8), key(b"b", 7), key(b"b", 6), key(b"c", 9), next, key(b"d", 9)];
        let passed = keys.map(|key| clear.has_passed(&key));
        assert_eq!(passed, [false, false, true, true, true, false, false]);
        clear.walk_again();
        assert_eq!((clear.next, clear.is_written_to), (key_codec::prefix("", b"b"), true));
    }
}

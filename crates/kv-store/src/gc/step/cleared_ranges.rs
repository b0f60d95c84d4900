//! Collects cleared ranges: a walk over the entries of a range, continued from step to step.
//!
//! Each deleted range in an engine makes reads slower, and a seek into many adjacent ones passes
//! them all. So a few entries are removed one by one, and a long run as few ranges: the walk holds
//! a run back over several steps and only counts it. This is sound only while nobody writes into
//! the part that was passed, which [`GcProgress::written`](super::GcProgress::written) watches. If
//! somebody does, the walk passes that part again, and each step removes what it has found.

use kv_api::KvError;

use super::run::Run;
use super::{STEPS_BEFORE_SEEK, Step};
use crate::engine::{Cursor, Table};
use crate::gc::entries::{self, RangeClear};
use crate::key_codec;

/// A run is held back up to this length: after a restart the walk has to pass it again.
const LONGEST_RUN_ENTRIES: u64 = 500_000;

/// A clear that is partly collected.
#[derive(Debug)]
pub(super) struct ClearProgress {
    version: u64,
    number: u32,
    /// Prefix of the key at which the walk continues.
    next: Vec<u8>,
    /// The run before that which is not removed yet: a long one, or none.
    run: Run,
    /// Whether somebody wrote into the range: then nothing is held back.
    is_written_to: bool,
}

impl ClearProgress {
    /// Whether a long run is held back.
    pub fn is_holding_back(&self) -> bool {
        self.run.is_long()
    }

    /// Whether a key lies within the run that is held back.
    pub fn has_passed(&self, key: &[u8]) -> bool {
        self.run.first().is_some_and(|first| first <= key) && key < self.next.as_slice()
    }

    /// Forgets the run that is held back: a write may have come between its entries.
    pub fn walk_again(&mut self) {
        if let Some(first) = self.run.first() {
            // This key was read from the table and could be split then.
            self.next = key_codec::prefix_length(first).map_or(first.to_vec(), |length| first[..length].to_vec());
            self.run = Run::default();
            self.is_written_to = true;
        }
    }
}

impl Step<'_, '_> {
    /// Continues to collect a clear. Returns where the next step continues; `None` when the clear
    /// is finished.
    pub(super) fn collect_range(
        &mut self,
        clear: &RangeClear,
        begun: Option<ClearProgress>,
    ) -> Result<Option<ClearProgress>, KvError> {
        assert!(clear.version <= self.watermark, "a clear at {} is still seen from {}", clear.version, self.watermark);
        self.result.entries_read += 1;
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
        // Take at least one key, so that the smallest budget makes progress.
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

    /// Passes one key: from its newest entry to that of the next key.
    fn collect_key(&mut self, walk: &mut Walk<'_>) -> Result<(), KvError> {
        self.pass_survivors(walk)?;
        let mut of_key = 0;
        while let Some((_, stored)) = walk.entry()? {
            if of_key == 0 && key_codec::row_value(stored)?.is_some() {
                walk.run.rows += 1;
            }
            of_key += 1;
            self.result.entries_read += 1;
            let (key, _) = walk.cursor.entry().expect("the entry just looked at");
            walk.run.push(key, self.range_delete_entries);
            if of_key == self.range_delete_entries {
                key_codec::set_after(&mut walk.target, &walk.prefix);
                walk.run.reach(&walk.target);
                return walk.cursor.seek(&walk.target);
            }
            walk.cursor.next()?;
        }
        Ok(())
    }

    /// Moves to the newest entry of the key that is older than the clear, or beyond the key.
    fn pass_survivors(&mut self, walk: &mut Walk<'_>) -> Result<(), KvError> {
        for _ in 0..STEPS_BEFORE_SEEK {
            match walk.entry()? {
                Some((version, _)) if version >= walk.clear_version => {
                    self.result.entries_read += 1;
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
    /// Prefix of the current key.
    prefix: Vec<u8>,
    run: Run,
    /// The target of a seek; kept to reuse its memory.
    target: Vec<u8>,
}

impl Walk<'_> {
    /// Makes the key under the cursor the current one; false at the end of the range.
    fn take_key(&mut self) -> Result<bool, KvError> {
        let Some((key, _)) = self.cursor.entry() else { return Ok(false) };
        let (prefix, _) = key_codec::split(key)?;
        self.prefix.clear();
        self.prefix.extend_from_slice(prefix);
        Ok(true)
    }

    /// Version and stored row under the cursor; `None` beyond the current key.
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
    fn a_run_that_is_held_back_begins_with_its_first_key_and_ends_before_the_next() {
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
        // Newer versions of a key sort first.
        let keys = [key(b"a", 7), key(b"b", 8), key(b"b", 7), key(b"b", 6), key(b"c", 9), next, key(b"d", 9)];
        let passed = keys.map(|key| clear.has_passed(&key));
        assert_eq!(passed, [false, false, true, true, true, false, false]);
        clear.walk_again();
        assert_eq!((clear.next, clear.is_written_to), (key_codec::prefix("", b"b"), true));
    }
}

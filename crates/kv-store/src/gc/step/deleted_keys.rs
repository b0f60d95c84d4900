//! Collects deleted keys. Many GC entries are processed in order of their keys: neighbours, such as
//! the deleted keys of a queue, are then found by stepping from one to the next.

use std::cmp::Reverse;

use kv_api::KvError;

use super::{STEPS_BEFORE_SEEK, Step};
use crate::engine::{Cursor, Table};
use crate::gc::entries::{self, GcEntries, KeyTombstone};
use crate::key_codec;

/// Approximate cost of one GC entry: the entry itself, the tombstone, and the value before it.
const ENTRIES_PER_TOMBSTONE: u64 = 3;

impl Step<'_, '_> {
    /// Processes GC entries of versions before `end`. Returns the version of the oldest one that is
    /// left, or of the last one processed.
    pub(super) fn collect_deleted_keys(&mut self, tombstones: &mut GcEntries<'_>, end: u64) -> Result<u64, KvError> {
        let most = (self.budget_entries.saturating_sub(self.result.entries_read) / ENTRIES_PER_TOMBSTONE).max(1);
        let mut gathered = gather(tombstones, end, most)?;
        self.result.entries_read += gathered.len() as u64;
        let last = gathered[gathered.len() - 1].version;
        assert!(last <= self.watermark, "a delete at {last} is still seen from {}", self.watermark);
        // Of one key the newest comes first: removing up to it removes the others.
        gathered.sort_by(|left, right| {
            left.prefix.cmp(&right.prefix).then_with(|| Reverse(left.version).cmp(&Reverse(right.version)))
        });
        let cursor = self.engine.cursor(Table::Data, &gathered[0].prefix, &key_codec::END)?;
        let mut walk = Walk { cursor, is_on_entry: false, target: Vec::new() };
        let mut done = 0;
        for of_key in gathered.chunk_by(|left, right| left.prefix == right.prefix) {
            if done > 0 && self.is_over() {
                break;
            }
            self.collect_deleted_key(&mut walk, &of_key[0])?;
            of_key
                .iter()
                .for_each(|tombstone| entries::remove_key_tombstone(self.batch, tombstone.version, tombstone.number));
            done += of_key.len();
        }
        let left = &gathered[done..];
        self.result.more |= !left.is_empty();
        Ok(left.iter().map(|tombstone| tombstone.version).min().unwrap_or(last))
    }

    /// Removes the tombstone of this GC entry and all older versions of the key.
    fn collect_deleted_key(&mut self, walk: &mut Walk<'_>, tombstone: &KeyTombstone) -> Result<(), KvError> {
        walk.go_to_tombstone(tombstone)?;
        let mut of_key = 0;
        while let Some((key, _)) = walk.cursor.entry().filter(|(key, _)| key.starts_with(&tombstone.prefix)) {
            if of_key == self.range_delete_entries {
                key_codec::set_after(&mut walk.target, &tombstone.prefix);
                self.batch.delete_range(Table::Data, key, &walk.target);
                walk.is_on_entry = false;
                break;
            }
            self.batch.delete(Table::Data, key);
            of_key += 1;
            walk.cursor.next()?;
        }
        self.result.entries_read += of_key;
        self.result.removed_versions += of_key;
        Ok(())
    }
}

/// The next GC entries before version `end`: at least one, at most `most`.
fn gather(tombstones: &mut GcEntries<'_>, end: u64, most: u64) -> Result<Vec<KeyTombstone>, KvError> {
    let mut gathered = Vec::new();
    while (gathered.len() as u64) < most {
        let Some(tombstone) = tombstones.key_tombstone()?.filter(|tombstone| tombstone.version < end) else { break };
        gathered.push(tombstone);
        tombstones.next()?;
    }
    assert!(!gathered.is_empty(), "GC entries before version {end} were seen, and are gone");
    Ok(gathered)
}

/// A walk over the entries of deleted keys, in order.
struct Walk<'e> {
    cursor: Box<dyn Cursor + 'e>,
    /// Whether the cursor is at the end of the part walked so far; false while it has no position.
    is_on_entry: bool,
    /// The target of a seek; kept to reuse its memory.
    target: Vec<u8>,
}

impl Walk<'_> {
    /// Moves to the newest version of the key that is not newer than the GC entry.
    ///
    /// If the key has no such version, nothing is to be removed. If that version is no tombstone,
    /// the GC entry is wrong and the value must stay.
    fn go_to_tombstone(&mut self, tombstone: &KeyTombstone) -> Result<(), KvError> {
        if !self.step_to_tombstone(tombstone)? {
            key_codec::set_versioned(&mut self.target, &tombstone.prefix, tombstone.version);
            self.cursor.seek(&self.target)?;
        }
        self.is_on_entry = true;
        let Some((key, stored)) = self.cursor.entry().filter(|(key, _)| key.starts_with(&tombstone.prefix)) else {
            return Ok(());
        };
        let (_, version) = key_codec::split(key)?;
        match version == tombstone.version && key_codec::row_value(stored)?.is_none() {
            true => Ok(()),
            false => Err(KvError::Corruption(format!(
                "a key was deleted at version {}, and there is a value of version {version} instead of a tombstone",
                tombstone.version
            ))),
        }
    }

    /// Steps forward from the current entry to a version of this key that is not newer than the GC
    /// entry; false if none is near.
    fn step_to_tombstone(&mut self, tombstone: &KeyTombstone) -> Result<bool, KvError> {
        if !self.is_on_entry {
            return Ok(false);
        }
        for _ in 0..STEPS_BEFORE_SEEK {
            match self.cursor.entry().filter(|(key, _)| key.starts_with(&tombstone.prefix)) {
                Some((key, _)) if key_codec::split(key)?.1 > tombstone.version => self.cursor.next()?,
                Some(_) => return Ok(true),
                None => return Ok(false),
            }
        }
        Ok(false)
    }
}

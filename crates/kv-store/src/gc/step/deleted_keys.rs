//! Deleted keys. The tombstones of many are worked off in order of the keys, so that neighbours, as a queue leaves them behind, are
//! found by stepping from one to the next.

use std::cmp::Reverse;

use kv_api::KvError;

use super::{STEPS_BEFORE_SEEK, Step};
use crate::engine::{Cursor, Table};
use crate::gc::entries::{self, GcEntries, KeyTombstone};
use crate::key_codec;

/// What a tombstone costs, roughly: itself, its tombstone, and the value before.
const ENTRIES_PER_TOMBSTONE: u64 = 3;

impl Step<'_, '_> {
    /// Works off tombstones of versions before `end`. Returns the version of the oldest one that is left, or of the last one done.
    pub(super) fn collect_deleted_keys(&mut self, tombstones: &mut GcEntries<'_>, end: u64) -> Result<u64, KvError> {
        let most = (self.budget_entries.saturating_sub(self.result.entries_looked_at) / ENTRIES_PER_TOMBSTONE).max(1);
        let mut gathered = gather(tombstones, end, most)?;
        self.result.entries_looked_at += gathered.len() as u64;
        let last = gathered[gathered.len() - 1].version;
        assert!(last <= self.watermark, "a delete at {last} is still seen from {}", self.watermark);
        // Of one key the newest first: everything up to it goes with it.
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

    /// Removes the tombstone of `tombstone` and all that is older of its key.
    fn collect_deleted_key(&mut self, walk: &mut Walk<'_>, tombstone: &KeyTombstone) -> Result<(), KvError> {
        walk.go_to_tombstone(tombstone)?;
        let mut of_key = 0;
        while let Some((key, _)) = walk.cursor.entry().filter(|(key, _)| key.starts_with(&tombstone.prefix)) {
            if of_key == self.range_delete_entries {
                key_codec::set_behind(&mut walk.target, &tombstone.prefix);
                self.batch.delete_range(Table::Data, key, &walk.target);
                walk.is_on_entry = false;
                break;
            }
            self.batch.delete(Table::Data, key);
            of_key += 1;
            walk.cursor.next()?;
        }
        self.result.entries_looked_at += of_key;
        self.result.removed_versions += of_key;
        Ok(())
    }
}

/// The next tombstones before version `end`, at most so many; one at least.
fn gather(tombstones: &mut GcEntries<'_>, end: u64, most: u64) -> Result<Vec<KeyTombstone>, KvError> {
    let mut gathered = Vec::new();
    while (gathered.len() as u64) < most {
        let Some(tombstone) = tombstones.key_tombstone()?.filter(|tombstone| tombstone.version < end) else { break };
        gathered.push(tombstone);
        tombstones.next()?;
    }
    assert!(!gathered.is_empty(), "tombstones before version {end} were seen, and are gone");
    Ok(gathered)
}

/// A walk over the entries of deleted keys, in their order.
struct Walk<'e> {
    cursor: Box<dyn Cursor + 'e>,
    /// Whether the cursor is where the walk has come to, and not yet anywhere.
    is_on_entry: bool,
    /// Where to seek: kept for its memory.
    target: Vec<u8>,
}

impl Walk<'_> {
    /// To the newest entry of the key that is not newer than the tombstone.
    ///
    /// A tombstone that finds no tombstone has nothing to remove; but what it finds instead must not be removed.
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

    /// From the entry behind the key before, if this key comes there; whether that led to an entry that is not newer.
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

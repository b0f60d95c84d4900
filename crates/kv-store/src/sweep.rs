//! Removes from the data table what deletes and range clears have made needless, in small steps.
//!
//! The notes of the garbage table are worked off in order of version, up to a floor: no read and no conflict check is at an
//! older version than that. Of one version, range clears come first, because a tombstone of the same commit goes with
//! everything older, also with rows that the clear has yet to count.
//!
//! - Of a deleted key every version up to the tombstone goes, the tombstone and its note included, in one batch.
//! - Of a cleared range every version older than the clear goes. A write of the clear's own version is that of the same
//!   commit, behind the clear, and stays. The note goes in the batch in which the walk reaches the end, so that the clear
//!   hides what is left until then. A walk that a restart interrupts begins anew.
//!
//! So after every batch each read and each check at or above the floor finds what it found before. Rows that a clear hides
//! still count as rows until they are swept; each step says how many it removes, and they must be counted down in the
//! same batch.
//!
//! A step decides on what it has read: from its begin until its batch is written, nobody else may write to the engine. A
//! row that was written into a range meanwhile would be removed with it.
//!
//! Whoever keeps the range clears in memory drops a clear only when the batch that ends it is written, and a reader looks
//! at the clears before it makes its cursor: then it knows each clear whose rows it may still find.

use std::collections::BTreeMap;

use bytes::Bytes;
use kv_api::KvError;

use crate::{
    engine::{Cursor, Engine, Table, WriteBatch},
    garbage::{self, KeyTombstone, Notes, RangeClear},
    key_codec,
};

/// From so many adjacent entries on, one delete of their range costs less than one delete for each.
const RANGE_DELETE_ENTRIES: usize = 32;

/// Entries of one key that are passed one by one before a seek jumps over the rest.
const STEPS_BEFORE_SEEK: usize = 8;

/// Where sweeping has got to. Begins anew with each opening of a database.
#[derive(Debug, Default)]
pub(crate) struct SweepProgress {
    /// Version of the note worked at last: there is none of an older one.
    version: u64,
    /// The version up to which all clears are known to be swept; `None`: not looked up yet.
    swept: Option<u64>,
    clear: Option<ClearProgress>,
}

/// A clear of which a part is done.
#[derive(Debug)]
struct ClearProgress {
    version: u64,
    number: u32,
    /// The key to go on at.
    prefix: Bytes,
}

/// What one step does, once its batch is written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Swept {
    /// Notes and versions that the step has looked at.
    pub entries_looked_at: u64,
    /// Versions that it removes; of a key with very many, only those that it has looked at.
    pub removed_versions: u64,
    /// Rows that a clear has made invisible: they are counted down in the same batch.
    pub rows_cleared: u64,
    /// Clears that are done: version and number.
    pub range_clears_done: Vec<(u64, u32)>,
    /// Whether there is more to do at this floor.
    pub more: bool,
}

/// The floor for [`Engine::set_filter_floor`]: the last floor of a sweep, but below every range clear that was not swept then,
/// because its sweep counts the newest version of each key that is older than the clear, also where a newer one was
/// written since. As it is persisted: what compactions drop, they drop from the persisted state, and a crash goes back
/// to it.
pub(crate) fn filter_floor(engine: &dyn Engine) -> Result<u64, KvError> {
    garbage::load_persisted_swept(engine)
}

/// Adds the next deletes to `batch`, looking at `budget_entries` entries, or a few dozen more. The caller writes the batch
/// before anybody else writes, and before the next step.
pub(crate) fn sweep(
    engine: &dyn Engine,
    floor: u64,
    budget_entries: u64,
    progress: &mut SweepProgress,
    batch: &mut WriteBatch,
) -> Result<Swept, KvError> {
    let mut tombstones = Notes::key_tombstones(engine, progress.version)?;
    let mut clears = Notes::range_clears(engine, progress.version)?;
    let mut step = Step::new(engine, floor, budget_entries, batch);
    while let Some(oldest) = oldest(&tombstones, &clears, floor)? {
        let clear = match oldest.kind {
            Kind::Clear => clears.range_clear()?,
            Kind::Tombstone => None,
        };
        if step.is_over() || clear.as_ref().is_some_and(|clear| step.has_swept_in(clear)) {
            step.swept.more = true;
            break;
        }
        progress.version = oldest.version;
        step.swept.entries_looked_at += 1;
        match clear {
            None => {
                step.sweep_tombstone(&tombstones.key_tombstone()?.expect("there is a note"))?;
                tombstones.next()?;
            }
            Some(clear) => {
                progress.clear = step.sweep_clear(&clear, progress.clear.take())?;
                if progress.clear.is_none() {
                    clears.next()?;
                }
            }
        }
    }
    let Step { swept, batch, .. } = step;
    let cleared = clears.version()?.filter(|version| *version <= floor).map_or(floor, |left| left - 1);
    note_swept(engine, cleared, progress, batch)?;
    Ok(swept)
}

/// Records that all clears up to `version` are swept.
fn note_swept(
    engine: &dyn Engine,
    version: u64,
    progress: &mut SweepProgress,
    batch: &mut WriteBatch,
) -> Result<(), KvError> {
    let known = match progress.swept {
        Some(known) => known,
        None => garbage::load_swept(engine)?,
    };
    progress.swept = Some(known.max(version));
    if version > known {
        garbage::put_swept(batch, version);
    }
    Ok(())
}

struct Oldest {
    version: u64,
    kind: Kind,
}

/// Clears sort before tombstones of the same version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Clear,
    Tombstone,
}

/// The note that comes next; `None` when there is none up to the floor.
fn oldest(tombstones: &Notes<'_>, clears: &Notes<'_>, floor: u64) -> Result<Option<Oldest>, KvError> {
    let clear = clears.version()?.map(|version| (version, Kind::Clear));
    let tombstone = tombstones.version()?.map(|version| (version, Kind::Tombstone));
    let next = clear.into_iter().chain(tombstone).min().filter(|(version, _)| *version <= floor);
    Ok(next.map(|(version, kind)| Oldest { version, kind }))
}

struct Step<'a, 'e> {
    engine: &'e dyn Engine,
    floor: u64,
    budget_entries: u64,
    batch: &'a mut WriteBatch,
    swept: Swept,
    /// The ranges swept in this step, by their begin; they do not overlap.
    swept_ranges: BTreeMap<Bytes, Bytes>,
    /// Made when first needed.
    keys: Option<Box<dyn Cursor + 'e>>,
    /// Where to seek: kept for its memory.
    target: Vec<u8>,
}

impl<'a, 'e> Step<'a, 'e> {
    fn new(engine: &'e dyn Engine, floor: u64, budget_entries: u64, batch: &'a mut WriteBatch) -> Self {
        let (swept, swept_ranges) = (Swept::default(), BTreeMap::new());
        Step { engine, floor, budget_entries, batch, swept, swept_ranges, keys: None, target: Vec::new() }
    }

    /// Whether the engine still shows, in the range of this clear, what the batch removes for another one: it would be
    /// counted once more.
    fn has_swept_in(&self, clear: &RangeClear) -> bool {
        let last_before_end = self.swept_ranges.range(..clear.end.clone()).next_back();
        last_before_end.is_some_and(|(_, end)| *end > clear.begin)
    }

    fn is_over(&self) -> bool {
        self.swept.entries_looked_at >= self.budget_entries
    }

    fn sweep_tombstone(&mut self, note: &KeyTombstone) -> Result<(), KvError> {
        assert!(note.version <= self.floor, "a delete at {} is still seen from {}", note.version, self.floor);
        let cursor = match &mut self.keys {
            Some(cursor) => cursor,
            None => self.keys.insert(self.engine.key_cursor()?),
        };
        key_codec::set_versioned(&mut self.target, &note.prefix, note.version);
        cursor.seek(&self.target)?;
        check_tombstone(cursor.as_ref(), note)?;
        let mut run = Run::default();
        while let Some((key, _)) = cursor.entry().filter(|(key, _)| key.starts_with(&note.prefix)) {
            self.swept.entries_looked_at += 1;
            run.push(key);
            if run.entries == RANGE_DELETE_ENTRIES {
                key_codec::set_behind(&mut self.target, &note.prefix);
                run.reach(&self.target);
                break;
            }
            cursor.next()?;
        }
        self.swept.removed_versions += run.entries as u64;
        run.end(self.batch);
        garbage::remove_key_tombstone(self.batch, note.version, note.number);
        Ok(())
    }

    /// Returns where to go on; `None` when the clear is done.
    fn sweep_clear(
        &mut self,
        clear: &RangeClear,
        progress: Option<ClearProgress>,
    ) -> Result<Option<ClearProgress>, KvError> {
        assert!(clear.version <= self.floor, "a clear at {} is still seen from {}", clear.version, self.floor);
        self.swept_ranges.insert(clear.begin.clone(), clear.end.clone());
        let begun = progress.filter(|done| (done.version, done.number) == (clear.version, clear.number));
        let begin = begun.map_or(clear.begin.clone(), |done| done.prefix);
        let mut walk = ClearWalk {
            cursor: self.engine.cursor(Table::Data, &begin, &clear.end)?,
            version: clear.version,
            prefix: Vec::new(),
            run: Run::default(),
        };
        walk.cursor.seek(&begin)?;
        // One key at least, so that the smallest budget leads on.
        while walk.take_key()? {
            self.sweep_key(&mut walk)?;
            if self.is_over() && walk.take_key()? {
                walk.run.end(self.batch);
                let RangeClear { version, number, .. } = *clear;
                return Ok(Some(ClearProgress { version, number, prefix: walk.prefix.into() }));
            }
        }
        walk.run.end(self.batch);
        garbage::remove_range_clear(self.batch, clear.version, clear.number);
        self.swept.range_clears_done.push((clear.version, clear.number));
        Ok(None)
    }

    /// From the newest entry of a key to that of the next.
    fn sweep_key(&mut self, walk: &mut ClearWalk<'_>) -> Result<(), KvError> {
        self.pass_survivors(walk)?;
        let mut of_key = 0;
        while let Some((_, stored)) = walk.entry()? {
            if of_key == 0 && key_codec::row_value(stored)?.is_some() {
                self.swept.rows_cleared += 1;
            }
            of_key += 1;
            self.swept.entries_looked_at += 1;
            self.swept.removed_versions += 1;
            let (key, _) = walk.cursor.entry().expect("the entry just looked at");
            walk.run.push(key);
            if of_key == RANGE_DELETE_ENTRIES {
                key_codec::set_behind(&mut self.target, &walk.prefix);
                walk.run.reach(&self.target);
                return walk.cursor.seek(&self.target);
            }
            walk.cursor.next()?;
        }
        Ok(())
    }

    /// To the newest entry of the key that is older than the clear, or beyond the key.
    fn pass_survivors(&mut self, walk: &mut ClearWalk<'_>) -> Result<(), KvError> {
        for _ in 0..STEPS_BEFORE_SEEK {
            match walk.entry()? {
                Some((version, _)) if version >= walk.version => {
                    self.swept.entries_looked_at += 1;
                    walk.run.take().end(self.batch);
                    walk.cursor.next()?;
                }
                _ => return Ok(()),
            }
        }
        key_codec::set_versioned(&mut self.target, &walk.prefix, walk.version - 1);
        walk.cursor.seek(&self.target)
    }
}

/// A note that finds no tombstone has nothing to remove; but what it finds instead must not be removed.
fn check_tombstone(cursor: &dyn Cursor, note: &KeyTombstone) -> Result<(), KvError> {
    let Some((key, stored)) = cursor.entry().filter(|(key, _)| key.starts_with(&note.prefix)) else {
        return Ok(());
    };
    let (_, version) = key_codec::split(key)?;
    match version == note.version && key_codec::row_value(stored)?.is_none() {
        true => Ok(()),
        false => Err(KvError::Corruption(format!(
            "a key was deleted at version {}, and there is a value of version {version} instead of a tombstone",
            note.version
        ))),
    }
}

/// A walk over the entries of a cleared range.
struct ClearWalk<'e> {
    cursor: Box<dyn Cursor + 'e>,
    /// Of the clear.
    version: u64,
    /// Of the current key.
    prefix: Vec<u8>,
    run: Run,
}

impl ClearWalk<'_> {
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

/// Entries to remove, with nothing between them.
#[derive(Default)]
struct Run {
    entries: usize,
    /// The first ones.
    keys: Vec<Vec<u8>>,
    /// Sorts behind the last one.
    end: Vec<u8>,
}

impl Run {
    fn push(&mut self, key: &[u8]) {
        if self.entries < RANGE_DELETE_ENTRIES {
            self.keys.push(key.to_vec());
        }
        self.entries += 1;
        self.end.clear();
        self.end.extend_from_slice(key);
        self.end.push(0);
    }

    /// Everything up to `end` goes, too. Only for a run that is long enough to be removed as a range.
    fn reach(&mut self, end: &[u8]) {
        assert!(self.entries >= RANGE_DELETE_ENTRIES, "a run of {} entries is removed one by one", self.entries);
        self.end.clear();
        self.end.extend_from_slice(end);
    }

    fn take(&mut self) -> Run {
        std::mem::take(self)
    }

    fn end(self, batch: &mut WriteBatch) {
        match self.keys.first() {
            Some(first) if self.entries >= RANGE_DELETE_ENTRIES => batch.delete_range(Table::Data, first, &self.end),
            _ => self.keys.iter().for_each(|key| batch.delete(Table::Data, key)),
        }
    }
}

#[cfg(test)]
mod tests;

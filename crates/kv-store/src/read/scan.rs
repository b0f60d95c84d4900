//! Scans of the data table: the rows visible at a version, in either direction, and the keys
//! written after a version.
//!
//! A row that a range clear hides is skipped like a deleted one. Where nothing was written to the
//! range since, the scan skips all of it.
//!
//! Newer versions than the one asked for may be written during a scan. They are skipped, so a scan
//! needs no engine snapshot. At most one entry is held in memory. A key with many versions costs a
//! few steps and then one seek.

use kv_api::KvError;

use crate::engine::{Cursor, Engine, Table};
use crate::gc::range_clears::RangeClears;
use crate::key_codec;

/// Entries of one key that are stepped over before a seek skips the rest. A step costs a small
/// fraction of a seek, and most keys have few versions.
const STEPS_BEFORE_SEEK: usize = 8;

/// A long read calls it now and then; false ends the read.
pub(crate) type MayContinue<'r> = &'r dyn Fn() -> bool;

/// Keys between two such calls: some hundred microseconds.
const KEYS_BEFORE_ASKING: u32 = 1024;

/// Encoded keys `begin <= key < end`.
pub(crate) struct Bounds {
    pub begin: Vec<u8>,
    pub end: Vec<u8>,
}

impl Bounds {
    /// The keys `begin <= key < end` of a family.
    pub fn range(family: &str, begin: &[u8], end: &[u8]) -> Self {
        Bounds { begin: key_codec::prefix(family, begin), end: key_codec::prefix(family, end) }
    }

    /// All keys `>= begin` of a family.
    pub fn rest_of_family(family: &str, begin: &[u8]) -> Self {
        Bounds { begin: key_codec::prefix(family, begin), end: key_codec::family_end(family) }
    }
}

/// A version of a key under the cursor. Without a value it is a tombstone.
pub(crate) struct VersionEntry<'c> {
    pub version: u64,
    pub value: Option<&'c [u8]>,
}

/// A visible row under the cursor.
pub(crate) struct VisibleRow<'w> {
    /// Encoded family and user key.
    pub prefix: &'w [u8],
    pub value: &'w [u8],
}

/// The newest version of a key that is not newer than `version`.
pub(crate) fn newest_at<'c>(
    cursor: &'c mut dyn Cursor,
    prefix: &[u8],
    version: u64,
    scratch: &mut Vec<u8>,
) -> Result<Option<VersionEntry<'c>>, KvError> {
    key_codec::set_versioned(scratch, prefix, version);
    cursor.seek(scratch)?;
    match cursor.entry() {
        Some((key, value)) if key.starts_with(prefix) => {
            let (_, version) = key_codec::split(key)?;
            Ok(Some(VersionEntry { version, value: key_codec::row_value(value)? }))
        }
        _ => Ok(None),
    }
}

/// The prefixes of the keys in `bounds` that have a version newer than `version`, tombstones
/// included: the first `most` in order.
pub(crate) fn written_after(
    engine: &dyn Engine,
    bounds: &Bounds,
    version: u64,
    most: usize,
) -> Result<Vec<Vec<u8>>, KvError> {
    let mut walk = Walk::new(engine, bounds, false)?;
    let mut written = Vec::new();
    while written.len() < most {
        let Some(newest) = walk.entry_version()? else {
            break;
        };
        if newest > version {
            written.push(walk.prefix.clone());
        }
        walk.go_to_next_key()?;
    }
    Ok(written)
}

/// Iterates over the rows visible at a version.
pub(crate) struct VisibleRows<'e> {
    walk: Walk<'e>,
    clears: RangeClears,
    version: u64,
    reverse: bool,
    may_continue: MayContinue<'e>,
    /// Keys passed since the last call of `may_continue`.
    passed: u32,
    /// The value of the current row: a backward scan's cursor has already left it.
    value: Vec<u8>,
}

impl<'e> VisibleRows<'e> {
    /// Begins a scan. `clears` must be of a moment before this call, or of one at which `version`
    /// was applied.
    pub fn new(
        engine: &'e dyn Engine,
        clears: RangeClears,
        bounds: &Bounds,
        version: u64,
        reverse: bool,
        may_continue: MayContinue<'e>,
    ) -> Result<Self, KvError> {
        let walk = Walk::new(engine, bounds, reverse)?;
        Ok(VisibleRows { walk, clears, version, reverse, may_continue, passed: 0, value: Vec::new() })
    }

    /// The next row; `None` at the end.
    ///
    /// # Errors
    /// [`KvError::Timeout`] when `may_continue` returned false.
    pub fn next_row(&mut self) -> Result<Option<VisibleRow<'_>>, KvError> {
        let found = if self.reverse { self.advance_backward()? } else { self.advance_forward()? };
        Ok(found.then_some(VisibleRow { prefix: &self.walk.prefix, value: &self.value }))
    }

    /// Calls `may_continue` when it is time, also in long stretches without a visible row.
    fn ask(&mut self) -> Result<(), KvError> {
        self.passed += 1;
        if self.passed < KEYS_BEFORE_ASKING {
            return Ok(());
        }
        self.passed = 0;
        match (self.may_continue)() {
            true => Ok(()),
            false => Err(KvError::Timeout("the range took too long to read: ask for fewer rows".into())),
        }
    }

    /// Begins at the newest entry of a key; ends with the cursor on the newest entry of the next
    /// key.
    fn advance_forward(&mut self) -> Result<bool, KvError> {
        while let Some(newest) = self.walk.entry_version()? {
            self.ask()?;
            let found = match newest <= self.version || self.walk.skip_newer(self.version)? {
                true => self.keep_value()?,
                false => false,
            };
            if !found && let Some((_, end)) = self.clears.empty_around(&self.walk.prefix, self.version) {
                self.walk.cursor.seek(end)?;
                continue;
            }
            self.walk.go_to_next_key()?;
            if found {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Begins at the oldest entry of a key; ends with the cursor on the oldest entry of the key
    /// before.
    fn advance_backward(&mut self) -> Result<bool, KvError> {
        while let Some(oldest) = self.walk.entry_version()? {
            self.ask()?;
            let found = oldest <= self.version && self.keep_newest_backward()?;
            if !found && let Some((begin, _)) = self.clears.empty_around(&self.walk.prefix, self.version) {
                self.walk.cursor.seek_before(begin)?;
                continue;
            }
            self.walk.go_to_previous_key()?;
            if found {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Moves back over the entries of the key up to the newest visible one, and keeps its value.
    fn keep_newest_backward(&mut self) -> Result<bool, KvError> {
        let mut found = self.keep_value()?;
        for _ in 0..STEPS_BEFORE_SEEK {
            self.walk.cursor.prev()?;
            if !self.walk.on_same_key() || self.walk.version_here()? > self.version {
                return Ok(found);
            }
            found = self.keep_value()?;
        }
        key_codec::set_versioned(&mut self.walk.target, &self.walk.prefix, self.version);
        self.walk.cursor.seek(&self.walk.target)?;
        if self.walk.on_same_key() {
            found = self.keep_value()?;
        }
        Ok(found)
    }

    /// Keeps the value under the cursor; false for a tombstone, and for a row that a clear hides.
    fn keep_value(&mut self) -> Result<bool, KvError> {
        let (key, stored) = self.walk.cursor.entry().expect("the cursor is on an entry of the key");
        self.value.clear();
        let Some(value) = key_codec::row_value(stored)? else {
            return Ok(false);
        };
        if !self.clears.is_empty() && self.clears.hide(&self.walk.prefix, key_codec::split(key)?.1, self.version) {
            return Ok(false);
        }
        self.value.extend_from_slice(value);
        Ok(true)
    }
}

/// A cursor and its current key.
struct Walk<'e> {
    cursor: Box<dyn Cursor + 'e>,
    /// Prefix of the current key.
    prefix: Vec<u8>,
    /// The target of the next seek; kept to reuse its memory.
    target: Vec<u8>,
}

impl<'e> Walk<'e> {
    fn new(engine: &'e dyn Engine, bounds: &Bounds, reverse: bool) -> Result<Self, KvError> {
        let mut cursor = engine.cursor(Table::Data, &bounds.begin, &bounds.end)?;
        match reverse {
            false => cursor.seek(&bounds.begin)?,
            true => cursor.seek_before(&bounds.end)?,
        }
        Ok(Walk { cursor, prefix: Vec::new(), target: Vec::new() })
    }

    /// Makes the key under the cursor the current one, and returns its version; `None` at the end.
    fn entry_version(&mut self) -> Result<Option<u64>, KvError> {
        let Some((key, _)) = self.cursor.entry() else {
            return Ok(None);
        };
        let (prefix, version) = key_codec::split(key)?;
        self.prefix.clear();
        self.prefix.extend_from_slice(prefix);
        Ok(Some(version))
    }

    fn on_same_key(&self) -> bool {
        self.cursor.entry().is_some_and(|(key, _)| key.starts_with(&self.prefix))
    }

    /// Version of the entry under the cursor. There must be one.
    fn version_here(&self) -> Result<u64, KvError> {
        let (key, _) = self.cursor.entry().expect("the cursor is on an entry of the key");
        Ok(key_codec::split(key)?.1)
    }

    /// Moves to the newest entry of the current key that is not newer than `version`; false if
    /// there is none.
    fn skip_newer(&mut self, version: u64) -> Result<bool, KvError> {
        for _ in 0..STEPS_BEFORE_SEEK {
            self.cursor.next()?;
            if !self.on_same_key() {
                return Ok(false);
            }
            if self.version_here()? <= version {
                return Ok(true);
            }
        }
        key_codec::set_versioned(&mut self.target, &self.prefix, version);
        self.cursor.seek(&self.target)?;
        Ok(self.on_same_key())
    }

    /// Moves to the newest entry of the next key.
    fn go_to_next_key(&mut self) -> Result<(), KvError> {
        for _ in 0..STEPS_BEFORE_SEEK {
            if !self.on_same_key() {
                return Ok(());
            }
            self.cursor.next()?;
        }
        if self.on_same_key() {
            key_codec::set_after(&mut self.target, &self.prefix);
            self.cursor.seek(&self.target)?;
        }
        Ok(())
    }

    /// Moves to the oldest entry of the previous key.
    fn go_to_previous_key(&mut self) -> Result<(), KvError> {
        for _ in 0..STEPS_BEFORE_SEEK {
            if !self.on_same_key() {
                return Ok(());
            }
            self.cursor.prev()?;
        }
        if self.on_same_key() {
            self.cursor.seek_before(&self.prefix)?;
        }
        Ok(())
    }
}

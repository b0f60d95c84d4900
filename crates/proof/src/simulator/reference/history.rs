//! Every version of every key, and every range that was ever cleared.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use kv_api::{KeyRange, KeyRef, KeySelector, KvError, RangeQuery, Row, Rows};

/// The value of a key from a version on.
struct Entry {
    version: u64,
    value: Option<Bytes>,
    /// A range was cleared, the key itself was not written.
    by_clear: bool,
}

pub struct Clear {
    version: u64,
    family: String,
    begin: Bytes,
    /// `None`: the end of the family.
    end: Option<Bytes>,
}

impl Clear {
    fn covers(&self, family: &str, key: &[u8]) -> bool {
        let is_before_end = self.end.as_ref().is_none_or(|end| key < end.as_ref());
        self.family == family && self.begin.as_ref() <= key && is_before_end
    }
}

#[derive(Default)]
pub struct History {
    /// By family and key; entries of a key in the order of versions.
    families: BTreeMap<String, BTreeMap<Bytes, Vec<Entry>>>,
    clears: Vec<Clear>,
}

impl History {
    /// Every family that was ever written to, or cleared.
    pub fn families(&self) -> impl Iterator<Item = &String> {
        self.families.keys()
    }

    pub fn get(&self, family: &str, key: &[u8], version: u64) -> Option<&Bytes> {
        let entries = self.families.get(family)?.get(key)?;
        value_at(entries, version)
    }

    /// All rows of a family in order.
    pub fn rows(&self, family: &str, version: u64) -> impl Iterator<Item = (&Bytes, &Bytes)> {
        let keys = self.families.get(family).into_iter().flatten();
        keys.filter_map(move |(key, entries)| Some((key, value_at(entries, version)?)))
    }

    pub fn range(&self, query: &RangeQuery, version: u64) -> Result<Rows, KvError> {
        // Selectors may name any key of the family.
        let keys = self.families.get(&query.column_family).into_iter();
        let all: Vec<(&Bytes, &Bytes)> = match (&query.begin_selector, &query.end_selector) {
            (None, None) if query.begin >= query.end => return Ok(Rows::default()),
            (None, None) => {
                let inside = keys.flat_map(|keys| keys.range(query.begin.clone()..query.end.clone()));
                inside.filter_map(|(key, entries)| Some((key, value_at(entries, version)?))).collect()
            }
            _ => self.rows(&query.column_family, version).collect(),
        };
        let before = |end: &Bytes, or_equal| all.partition_point(|(key, _)| *key < end || or_equal && *key == end);
        let place = |key: &Bytes, selector: &Option<KeySelector>| match selector {
            None => before(key, false),
            Some(selector) => {
                let named = before(&selector.key, selector.or_equal) as i64 - 1 + i64::from(selector.offset);
                named.clamp(0, all.len() as i64) as usize
            }
        };
        let begin = place(&query.begin, &query.begin_selector);
        let end = place(&query.end, &query.end_selector).max(begin);
        let row = |(key, value): &(&Bytes, &Bytes)| Row { key: (*key).clone(), value: (*value).clone() };
        let mut rows: Vec<Row> = all[begin..end].iter().map(row).collect();
        if query.reverse {
            rows.reverse();
        }
        rows.drain(..rows.len().min(query.skip as usize));
        cut(rows, query)
    }

    /// The key is written at `version`, which is the newest.
    pub fn write(&mut self, version: u64, family: &str, key: &Bytes, value: Option<Bytes>) {
        let entries = self.entries(family, key);
        if entries.last().is_some_and(|last| last.version == version && !last.by_clear) {
            entries.pop();
        }
        entries.push(Entry { version, value, by_clear: false });
    }

    /// The range is cleared at `version`: what the same commit has written there before never was.
    pub fn clear(&mut self, version: u64, family: &str, begin: &Bytes, end: Option<&Bytes>) {
        let keys = self.families.entry(family.into()).or_default();
        let from_begin = keys.range_mut(begin.clone()..);
        for (_, entries) in from_begin.take_while(|(key, _)| end.is_none_or(|end| *key < end)) {
            entries.retain(|entry| entry.version < version);
            if entries.last().is_some_and(|last| last.value.is_some()) {
                entries.push(Entry { version, value: None, by_clear: true });
            }
        }
        self.clears.push(Clear { version, family: family.into(), begin: begin.clone(), end: end.cloned() });
    }

    /// Of the commit at `version`, clears that touch count as one.
    pub fn join_clears(&mut self, version: u64) {
        let first = self.clears.partition_point(|clear| clear.version < version);
        let mut fresh = self.clears.split_off(first);
        fresh.sort_by(|a, b| (&a.family, &a.begin).cmp(&(&b.family, &b.begin)));
        for clear in fresh {
            let Some(last) = self.clears[first..].last_mut().filter(|last| touches(last, &clear)) else {
                self.clears.push(clear);
                continue;
            };
            last.end = match (last.end.take(), clear.end) {
                (Some(a), Some(b)) => Some(a.max(b)),
                _ => None,
            };
        }
    }

    /// Whether the key was written or cleared after `version`.
    pub fn changed_after(&self, family: &str, key: &Bytes, version: u64) -> bool {
        let entries = self.families.get(family).and_then(|keys| keys.get(key));
        let is_written = entries.is_some_and(|entries| written_after(entries, version));
        is_written || self.clears_after(version).any(|clear| clear.covers(family, key))
    }

    /// Where a range was written or cleared after `version`: keys, and the first place of it in
    /// each clear.
    pub fn changed_in(&self, range: &KeyRange, version: u64) -> BTreeSet<KeyRef> {
        let mut found = BTreeSet::new();
        if range.begin >= range.end {
            return found;
        }
        let family = &range.column_family;
        if let Some(keys) = self.families.get(family) {
            let inside = keys.range(range.begin.clone()..range.end.clone());
            let written = inside.filter(|(_, entries)| written_after(entries, version));
            found.extend(written.map(|(key, _)| KeyRef { key: key.clone(), column_family: family.clone() }));
        }
        for clear in self.clears_after(version).filter(|clear| clear.family == *family) {
            let overlaps = clear.begin < range.end && clear.end.as_ref().is_none_or(|end| *end > range.begin);
            if overlaps {
                let key = clear.begin.clone().max(range.begin.clone());
                found.insert(KeyRef { key, column_family: family.clone() });
            }
        }
        found
    }

    fn clears_after(&self, version: u64) -> impl Iterator<Item = &Clear> {
        let first = self.clears.partition_point(|clear| clear.version <= version);
        self.clears[first..].iter()
    }

    fn entries(&mut self, family: &str, key: &Bytes) -> &mut Vec<Entry> {
        if !self.families.contains_key(family) {
            self.families.insert(family.into(), BTreeMap::new());
        }
        let keys = self.families.get_mut(family).expect("it was just made");
        keys.entry(key.clone()).or_default()
    }
}

fn touches(first: &Clear, second: &Clear) -> bool {
    first.family == second.family && first.end.as_ref().is_none_or(|end| second.begin <= *end)
}

fn value_at(entries: &[Entry], version: u64) -> Option<&Bytes> {
    let newer = entries.partition_point(|entry| entry.version <= version);
    entries[..newer].last()?.value.as_ref()
}

fn written_after(entries: &[Entry], version: u64) -> bool {
    entries.iter().rev().take_while(|entry| entry.version > version).any(|entry| !entry.by_clear)
}

/// As many rows as the query lets into one reply.
fn cut(mut rows: Vec<Row>, query: &RangeQuery) -> Result<Rows, KvError> {
    let bytes = |rows: &[Row]| rows.iter().map(|row| row.key.len() + row.value.len()).sum::<usize>() as u64;
    let is_asked_for = |taken: usize| {
        let has_rows = query.limit.is_some_and(|limit| taken as u64 >= limit);
        let has_bytes = taken > 0 && query.target_bytes.is_some_and(|target| bytes(&rows[..taken]) >= target);
        !(has_rows || has_bytes)
    };
    let fits = |taken: usize| bytes(&rows[..taken]) + 16 * taken as u64 <= query.max_bytes;
    let mut taken = 0;
    while taken < rows.len() && is_asked_for(taken) {
        if !fits(taken + 1) {
            match query.target_bytes {
                Some(_) if taken > 0 => break,
                _ => return Err(KvError::ResultTooLarge { limit: query.max_bytes }),
            }
        }
        taken += 1;
    }
    let has_more = taken < rows.len();
    rows.truncate(taken);
    Ok(Rows { rows, has_more })
}

//! Reads at a version: of a key, of a range, and hashes of rows with which replicas are compared.

use bytes::Bytes;
use kv_api::{KvError, RangeQuery, Row, Rows};
use xxhash_rust::xxh3::Xxh3;

use super::scan::{self, Bounds, MayContinue, VisibleRow, VisibleRows};
use super::selectors::Resolver;
use crate::engine::Engine;
use crate::gc::range_clears::RangeClears;
use crate::key_codec;

/// Bytes that a row counts in a reply in addition to its key and value, so that a reply of many
/// tiny rows is bounded, too.
const ROW_OVERHEAD_BYTES: u64 = 16;

/// The hash of consecutive rows of one family; see [`crate::TransactionalKvDatabase::hash_rows`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowsHash {
    /// The number of rows.
    pub count: u64,
    /// XXH3 (64 bits, seed 0) over each row's key and value, each preceded by its length (u64,
    /// little-endian).
    pub hash: u64,
    /// The first key after the hashed rows; `None`: the family has no more.
    pub next: Option<Bytes>,
}

/// The value of a key at `version`, and the version of that value.
pub(crate) fn read_key(
    engine: &dyn Engine,
    clears: &RangeClears,
    prefix: &[u8],
    version: u64,
) -> Result<Option<(u64, Bytes)>, KvError> {
    let mut cursor = engine.key_cursor()?;
    let mut scratch = Vec::with_capacity(prefix.len() + 8);
    let newest = scan::newest_at(cursor.as_mut(), prefix, version, &mut scratch)?;
    let visible = newest.filter(|newest| !clears.hide(prefix, newest.version, version));
    Ok(visible.and_then(|newest| Some((newest.version, Bytes::copy_from_slice(newest.value?)))))
}

/// The rows that `query` asks for at `version`.
pub(crate) fn read_range(
    engine: &dyn Engine,
    clears: RangeClears,
    query: &RangeQuery,
    version: u64,
    may_continue: MayContinue<'_>,
) -> Result<Rows, KvError> {
    key_codec::check_family(&query.column_family)?;
    let bounds = Resolver { engine, clears: &clears, version, may_continue }.bounds(query)?;
    if bounds.begin >= bounds.end {
        return Ok(Rows::default());
    }
    let mut visible = VisibleRows::new(engine, clears, &bounds, version, query.reverse, may_continue)?;
    for _ in 0..query.skip {
        if visible.next_row()?.is_none() {
            return Ok(Rows::default());
        }
    }
    let mut reply = Reply { query, rows: Vec::new(), row_bytes: 0, reply_bytes: 0 };
    while let Some(VisibleRow { prefix, value }) = visible.next_row()? {
        // There is one more row than the caller asked for, so `has_more` is exact.
        if reply.is_full() {
            return Ok(Rows { rows: reply.rows, has_more: true });
        }
        let row = Row { key: key_codec::user_key(prefix)?, value: Bytes::copy_from_slice(value) };
        if !reply.add(row)? {
            return Ok(Rows { rows: reply.rows, has_more: true });
        }
    }
    Ok(Rows { rows: reply.rows, has_more: false })
}

struct Reply<'q> {
    query: &'q RangeQuery,
    rows: Vec<Row>,
    /// Bytes of keys and values.
    row_bytes: u64,
    /// The same plus the overhead of each row.
    reply_bytes: u64,
}

impl Reply<'_> {
    /// Whether the reply has all that the caller asked for. Even the smallest byte target gets one
    /// row.
    fn is_full(&self) -> bool {
        let rows_reached = self.query.limit.is_some_and(|limit| self.rows.len() as u64 >= limit);
        let bytes_reached = self.query.target_bytes.is_some_and(|target| self.row_bytes >= target);
        rows_reached || (bytes_reached && !self.rows.is_empty())
    }

    /// Adds a row. False when it does not fit and the caller allows the reply to end early; an
    /// error when the caller does not.
    fn add(&mut self, row: Row) -> Result<bool, KvError> {
        let row_bytes = (row.key.len() + row.value.len()) as u64;
        let reply_bytes = self.reply_bytes + row_bytes + ROW_OVERHEAD_BYTES;
        if reply_bytes > self.query.max_bytes {
            let may_end_here = self.query.target_bytes.is_some() && !self.rows.is_empty();
            return if may_end_here { Ok(false) } else { Err(KvError::ResultTooLarge { limit: self.query.max_bytes }) };
        }
        self.row_bytes += row_bytes;
        self.reply_bytes = reply_bytes;
        self.rows.push(row);
        Ok(true)
    }
}

/// Hashes at most `limit` rows of a family from the key `begin` on.
pub(crate) fn hash_rows(
    engine: &dyn Engine,
    clears: RangeClears,
    family: &str,
    begin: &[u8],
    version: u64,
    limit: u64,
    may_continue: MayContinue<'_>,
) -> Result<RowsHash, KvError> {
    key_codec::check_family(family)?;
    let bounds = Bounds::rest_of_family(family, begin);
    let mut visible = VisibleRows::new(engine, clears, &bounds, version, false, may_continue)?;
    let mut hasher = Xxh3::new();
    let mut count = 0;
    while let Some(VisibleRow { prefix, value }) = visible.next_row()? {
        let key = key_codec::user_key(prefix)?;
        if count == limit {
            return Ok(RowsHash { count, hash: hasher.digest(), next: Some(key) });
        }
        for part in [key.as_ref(), value] {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
        count += 1;
    }
    Ok(RowsHash { count, hash: hasher.digest(), next: None })
}

//! Reads of single keys, and key selectors.

use bytes::Bytes;
use kv_api::{KeyRef, Version, atomic};

use super::attempt::{Inner, Transaction};
use super::conflicts::ReadMode;
use super::stream::{RangeStream, Scan};
use super::writes::LocalValue;
use crate::ClientError;
use crate::keys::{IntoBytes, end_of_keys, key_after};
use crate::range::{KeySelector, Range};

/// Reads of a transaction that do not cause conflicts. Made by [`Transaction::snapshot`].
#[derive(Clone, Debug)]
pub struct Snapshot {
    transaction: Transaction,
}

impl Transaction {
    /// The value of a key; `None` if the key does not exist.
    ///
    /// # Errors
    /// [`ClientError::Unreadable`] if the key or its value will contain a versionstamp that this
    /// transaction wrote, or any other [`ClientError`] of a read.
    pub async fn get(&self, key: impl IntoBytes) -> Result<Option<Bytes>, ClientError> {
        self.read(key.into_bytes(), ReadMode::Tracked).await
    }

    /// The key that a selector selects; `None` if that is before the first key or after the last
    /// one.
    ///
    /// # Errors
    /// As [`Transaction::get`].
    pub async fn get_key(&self, selector: &KeySelector) -> Result<Option<Bytes>, ClientError> {
        self.find(selector, ReadMode::Tracked).await
    }

    /// The rows of a range, as a stream that requests them page by page. The range counts as read only
    /// up to the last row that the stream has returned.
    ///
    /// ```no_run
    /// # async fn example(tx: kv_client::Transaction) -> Result<(), kv_client::ClientError> {
    /// use kv_client::Range;
    ///
    /// let mut users = tx.get_range(Range::prefix("users/"));
    /// while let Some(row) = users.next().await? {
    ///     println!("{:?} = {:?}", row.key, row.value);
    /// }
    /// let first_ten = tx.get_range(Range::from("a".."m").limit(10)).all().await?;
    /// # drop(first_ten);
    /// # Ok(())
    /// # }
    /// ```
    pub fn get_range(&self, range: impl Into<Range>) -> RangeStream {
        RangeStream::new(self.clone(), range.into(), ReadMode::Tracked)
    }

    /// Reads that do not cause conflicts: the commit succeeds even if what they returned is written
    /// in the meantime. They use the same version and see the transaction's own writes as well.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot { transaction: self.clone() }
    }

    async fn read(&self, key: Bytes, mode: ReadMode) -> Result<Option<Bytes>, ClientError> {
        let operations = match self.local(&key).await? {
            LocalValue::Known(value) => return Ok(value),
            LocalValue::Unreadable => return Err(self.unreadable(key)),
            LocalValue::Operations(operations) => operations,
        };
        let version = self.read_version().await?;
        let Inner { database, retry, .. } = &*self.inner;
        let key_ref = KeyRef { key: key.clone(), column_family: self.family.to_string() };
        let found = self.inner.observe(database.get(key_ref, version, retry.deadline).await)?;
        let mut state = self.inner.state();
        state.check()?;
        if mode == ReadMode::Tracked {
            state.conflicts.add_key(&self.family, key);
        }
        Ok(atomic::apply_all(&operations, found))
    }

    /// What the transaction's own writes say about a key.
    async fn local(&self, key: &[u8]) -> Result<LocalValue, ClientError> {
        let look_up = || {
            let state = self.inner.state();
            state.check()?;
            Ok(state.writes.local(&self.family, key))
        };
        match look_up()? {
            LocalValue::Unreadable if self.inner.read_version.get().is_none() => {
                // The read version narrows down which versionstamps are possible.
                self.read_version().await?;
                look_up()
            }
            local => Ok(local),
        }
    }

    pub(super) fn unreadable(&self, key: Bytes) -> ClientError {
        ClientError::Unreadable { family: self.family.to_string(), key }
    }

    pub(super) async fn find(&self, selector: &KeySelector, mode: ReadMode) -> Result<Option<Bytes>, ClientError> {
        let origin = self.bound(selector.origin());
        let (scan, count) = if selector.offset > 0 {
            (Scan { begin: origin, end: self.bound(end_of_keys()), reverse: false }, i64::from(selector.offset))
        } else {
            (Scan { begin: Bytes::new(), end: origin, reverse: true }, 1 - i64::from(selector.offset))
        };
        let mut rows = RangeStream::scan(self.clone(), scan, Some(count as usize), mode);
        let (mut found, mut key) = (0, None);
        while let Some(row) = rows.next().await? {
            found += 1;
            key = Some(row.key);
        }
        Ok(key.filter(|_| found == count))
    }

    /// Shortens the end of a range to the length that the server needs.
    pub(super) fn bound(&self, end: Bytes) -> Bytes {
        self.inner.database.limits().bound(end)
    }

    /// The position right before the key that the selector selects. The commonest selector needs no
    /// request for that.
    pub(super) async fn position(&self, selector: &KeySelector, mode: ReadMode) -> Result<Bytes, ClientError> {
        match selector.offset {
            1 => Ok(self.bound(selector.origin())),
            2.. => {
                // That is the same position as right after the previous key, which is found by
                // reading one key less.
                let before = selector.clone().offset_by(-1);
                let found = self.find(&before, mode).await?;
                Ok(found.map_or_else(|| self.bound(end_of_keys()), |key| key_after(&key)))
            }
            ..=0 => Ok(self.find(selector, mode).await?.unwrap_or_default()),
        }
    }
}

impl Snapshot {
    /// As [`Transaction::family`].
    pub fn family(&self, name: &str) -> Snapshot {
        self.transaction.family(name).snapshot()
    }

    /// As [`Transaction::read_version`].
    ///
    /// # Errors
    /// Those of the client.
    pub async fn read_version(&self) -> Result<Version, ClientError> {
        self.transaction.read_version().await
    }

    /// As [`Transaction::get`].
    ///
    /// # Errors
    /// As [`Transaction::get`].
    pub async fn get(&self, key: impl IntoBytes) -> Result<Option<Bytes>, ClientError> {
        self.transaction.read(key.into_bytes(), ReadMode::Snapshot).await
    }

    /// As [`Transaction::get_key`].
    ///
    /// # Errors
    /// As [`Transaction::get`].
    pub async fn get_key(&self, selector: &KeySelector) -> Result<Option<Bytes>, ClientError> {
        self.transaction.find(selector, ReadMode::Snapshot).await
    }

    /// As [`Transaction::get_range`].
    pub fn get_range(&self, range: impl Into<Range>) -> RangeStream {
        RangeStream::new(self.transaction.clone(), range.into(), ReadMode::Snapshot)
    }
}

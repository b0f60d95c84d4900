//! Reading keys, and finding them by their place.

use bytes::Bytes;
use kv_api::{KeyRef, Version, atomic};

use super::stream::{RangeStream, Walk};
use super::writes::Local;
use super::{Inner, Transaction};
use crate::ClientError;
use crate::keys::{IntoBytes, end_of_keys};
use crate::range::{KeySelector, Range};

/// Whether what is read can make the commit fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Noted {
    Yes,
    No,
}

/// Reads of a transaction that make no conflict: see [`Transaction::snapshot`].
#[derive(Clone, Debug)]
pub struct Snapshot {
    transaction: Transaction,
}

impl Transaction {
    /// The value of a key; `None` when it does not exist.
    ///
    /// # Errors
    /// Those of the client; [`ClientError::Unreadable`] for what only the commit will know.
    pub async fn get(&self, key: impl IntoBytes) -> Result<Option<Bytes>, ClientError> {
        self.read(key.into_bytes(), Noted::Yes).await
    }

    /// The key that a selector names; `None` when it lies before the first or behind the last one.
    ///
    /// # Errors
    /// As [`Transaction::get`].
    pub async fn get_key(&self, selector: &KeySelector) -> Result<Option<Bytes>, ClientError> {
        self.find(selector, Noted::Yes).await
    }

    /// The rows of a range, as a stream that asks for them page by page. Only what it hands out counts as read.
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
        RangeStream::new(self.clone(), range.into(), Noted::Yes)
    }

    /// The same reads, at the same version and with the own writes on top, that do not count as read: what is written
    /// there meanwhile does not make the commit fail.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot { transaction: self.clone() }
    }

    async fn read(&self, key: Bytes, noted: Noted) -> Result<Option<Bytes>, ClientError> {
        let operations = match self.local(&key).await? {
            Local::Known(value) => return Ok(value),
            Local::Unreadable => return Err(self.unreadable(key)),
            Local::OnDatabase(operations) => operations,
        };
        let version = self.read_version().await?;
        let Inner { database, retry, .. } = &*self.inner;
        let key_ref = KeyRef { key: key.clone(), column_family: self.family.to_string() };
        let found = self.inner.observe(database.get(key_ref, version, retry.deadline).await)?;
        let mut state = self.inner.state();
        state.check()?;
        if noted == Noted::Yes {
            state.conflicts.add_key(&self.family, key);
        }
        Ok(atomic::apply_all(&operations, found))
    }

    /// What the own writes say about a key.
    async fn local(&self, key: &[u8]) -> Result<Local, ClientError> {
        let look = || {
            let state = self.inner.state();
            state.check()?;
            Ok(state.writes.local(&self.family, key))
        };
        match look()? {
            Local::Unreadable if self.inner.read_version.get().is_none() => {
                // With the version more is known of the stamps to come.
                self.read_version().await?;
                look()
            }
            local => Ok(local),
        }
    }

    pub(super) fn unreadable(&self, key: Bytes) -> ClientError {
        ClientError::Unreadable { family: self.family.to_string(), key }
    }

    pub(super) async fn find(&self, selector: &KeySelector, noted: Noted) -> Result<Option<Bytes>, ClientError> {
        let origin = self.bound(selector.origin());
        let (walk, count) = if selector.offset > 0 {
            (Walk { begin: origin, end: self.bound(end_of_keys()), reverse: false }, i64::from(selector.offset))
        } else {
            (Walk { begin: Bytes::new(), end: origin, reverse: true }, 1 - i64::from(selector.offset))
        };
        let mut rows = RangeStream::walk(self.clone(), walk, Some(count as usize), noted);
        let (mut found, mut key) = (0, None);
        while let Some(row) = rows.next().await? {
            found += 1;
            key = Some(row.key);
        }
        Ok(key.filter(|_| found == count))
    }

    /// The same end of a range, no longer than the server has to know.
    pub(super) fn bound(&self, end: Bytes) -> Bytes {
        self.inner.database.limits().bound(end)
    }

    /// A place between keys: right before the key that the selector names. The nearest ones need no look at the database.
    pub(super) async fn place(&self, selector: &KeySelector, noted: Noted) -> Result<Bytes, ClientError> {
        match selector.offset {
            1 => Ok(self.bound(selector.origin())),
            2.. => {
                // Right behind the key before it is the same place, and is found by reading one key less.
                let before = selector.clone().offset_by(-1);
                let found = self.find(&before, noted).await?;
                Ok(found.map_or_else(|| self.bound(end_of_keys()), |key| crate::keys::key_after(&key)))
            }
            ..=0 => Ok(self.find(selector, noted).await?.unwrap_or_default()),
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
        self.transaction.read(key.into_bytes(), Noted::No).await
    }

    /// As [`Transaction::get_key`].
    ///
    /// # Errors
    /// As [`Transaction::get`].
    pub async fn get_key(&self, selector: &KeySelector) -> Result<Option<Bytes>, ClientError> {
        self.transaction.find(selector, Noted::No).await
    }

    /// As [`Transaction::get_range`].
    pub fn get_range(&self, range: impl Into<Range>) -> RangeStream {
        RangeStream::new(self.transaction.clone(), range.into(), Noted::No)
    }
}

//! Reads at a version.

use bytes::Bytes;
use kv_api::{KeyRef, KvError, RangeQuery, Rows, Version};

use super::TransactionalKvDatabase;
use crate::commit::known_keys;
use crate::key_codec;
use crate::read::reads::{self, RowsHash};
use crate::read::row_cache::Wanted;

impl TransactionalKvDatabase {
    /// The value of `key` at `version`.
    ///
    /// # Errors
    /// [`KvError::FutureVersion`] above the applied version, [`KvError::TransactionTooOld`] before
    /// the readable window, [`KvError::UnknownColumnFamily`].
    pub fn read_at(&self, key: &KeyRef, version: Version) -> Result<Option<Bytes>, KvError> {
        self.core.check_applied(version)?;
        self.check_family(&key.column_family)?;
        let prefix = key_codec::prefix(&key.column_family, &key.key);
        let wanted = Wanted { hash: known_keys::hash(&prefix).short(), prefix: &prefix };
        let cached = self.core.row_cache.get(wanted, version.0);
        let found = match cached {
            Some(_) => None,
            None => {
                let clears = self.core.clears();
                self.core.damage.watch(reads::read_key(&*self.core.engine, &clears, &prefix, version.0))?
            }
        };
        // Check after the read: if the version is still readable now, it was readable during the
        // read.
        self.core.check_readable(version)?;
        if let Some(value) = cached {
            return Ok(value);
        }
        let value = found.as_ref().map(|(_, value)| value.clone());
        // Only what was readable may be kept: of other versions parts may have been removed.
        self.core.row_cache.put(wanted, found, version.0);
        Ok(value)
    }

    /// The rows of `query` at `version`. Only the rows of the reply are held in memory, not the
    /// whole range.
    ///
    /// `max_bytes` counts each row as its key, its value and 16 bytes more. Where a reply would
    /// exceed it, a caller that set `target_bytes` gets a shorter reply, and others get
    /// [`KvError::ResultTooLarge`]; so does a first row that alone is too large.
    ///
    /// # Errors
    /// Those of [`Self::read_at`], and [`KvError::ResultTooLarge`].
    pub fn range_at(&self, query: &RangeQuery, version: Version) -> Result<Rows, KvError> {
        self.range_at_while(query, version, &|| true)
    }

    /// Like [`Self::range_at`], for callers that may stop waiting: about every thousand keys the
    /// read calls `may_continue`, and ends when that returns false.
    ///
    /// # Errors
    /// Those of [`Self::range_at`], and [`KvError::Timeout`] when `may_continue` returned false.
    pub fn range_at_while(
        &self,
        query: &RangeQuery,
        version: Version,
        may_continue: &dyn Fn() -> bool,
    ) -> Result<Rows, KvError> {
        let _reading = self.core.readers.begin(version.0);
        self.core.check_applied(version)?;
        self.core.check_readable(version)?;
        self.check_family(&query.column_family)?;
        let clears = self.core.clears();
        self.core.damage.watch(reads::read_range(&*self.core.engine, clears, query, version.0, may_continue))
    }

    /// Hashes at most `limit` rows of one family at `version`, beginning at the key `begin`. A
    /// family that does not exist has no rows.
    ///
    /// # Errors
    /// [`KvError::FutureVersion`] above the applied version, [`KvError::TransactionTooOld`] before
    /// the readable window.
    pub fn hash_rows(&self, family: &str, begin: &[u8], version: Version, limit: u64) -> Result<RowsHash, KvError> {
        self.hash_rows_while(family, begin, version, limit, &|| true)
    }

    /// Like [`Self::hash_rows`], and may end early as [`Self::range_at_while`] does.
    pub fn hash_rows_while(
        &self,
        family: &str,
        begin: &[u8],
        version: Version,
        limit: u64,
        may_continue: &dyn Fn() -> bool,
    ) -> Result<RowsHash, KvError> {
        let _reading = self.core.readers.begin(version.0);
        self.core.check_applied(version)?;
        self.core.check_readable(version)?;
        let clears = self.core.clears();
        self.core.damage.watch(reads::hash_rows(
            &*self.core.engine,
            clears,
            family,
            begin,
            version.0,
            limit,
            may_continue,
        ))
    }

    fn check_family(&self, name: &str) -> Result<(), KvError> {
        match self.has_family(name) {
            true => Ok(()),
            false => {
                let existing = self.column_families().to_vec();
                Err(KvError::UnknownColumnFamily { name: name.into(), existing })
            }
        }
    }
}

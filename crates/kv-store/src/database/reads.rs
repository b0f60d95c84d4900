//! Reads of the database at a version.

use bytes::Bytes;
use kv_api::{KeyRef, KvError, RangeQuery, Rows, Version};

use super::TransactionalKvDatabase;
use crate::read::reads::{self, RowsHash};

impl TransactionalKvDatabase {
    /// The value of `key` at `version`.
    ///
    /// # Errors
    /// [`KvError::FutureVersion`] above the applied version, [`KvError::TransactionTooOld`] before the readable window,
    /// [`KvError::UnknownColumnFamily`].
    pub fn read_at(&self, key: &KeyRef, version: Version) -> Result<Option<Bytes>, KvError> {
        self.core.check_applied(version)?;
        self.check_family(&key.column_family)?;
        let clears = self.core.clears();
        let value = self.core.damage.watch(reads::read_key(&*self.core.engine, &clears, key, version.0))?;
        // Asked afterwards: what was readable at this moment was there a moment before.
        self.core.check_readable(version)?;
        Ok(value)
    }

    /// The rows of `query` at `version`. Rows of the reply, never the whole range, are held in memory.
    ///
    /// `max_bytes` counts each row with 16 bytes more than its key and value; a caller that set `target_bytes` gets a
    /// shorter reply there instead of [`KvError::ResultTooLarge`], unless the first row alone is too large.
    ///
    /// # Errors
    /// Those of [`Self::read_at`], too.
    pub fn range_at(&self, query: &RangeQuery, version: Version) -> Result<Rows, KvError> {
        self.range_at_while(query, version, &|| true)
    }

    /// The same, for callers that may lose patience: after every thousand keys or so `goes_on` is asked, and the read is
    /// given up when it says no.
    ///
    /// # Errors
    /// [`KvError::Timeout`] then.
    pub fn range_at_while(
        &self,
        query: &RangeQuery,
        version: Version,
        goes_on: &dyn Fn() -> bool,
    ) -> Result<Rows, KvError> {
        let _reading = self.core.readers.begin(version.0);
        self.core.check_applied(version)?;
        self.core.check_readable(version)?;
        self.check_family(&query.column_family)?;
        let clears = self.core.clears();
        self.core.damage.watch(reads::read_range(&*self.core.engine, clears, query, version.0, goes_on))
    }

    /// Hashes the rows of one family at `version`, from the key `begin` on, at most `limit` of them. A family that does not
    /// exist has no rows.
    pub fn hash_rows(&self, family: &str, begin: &[u8], version: Version, limit: u64) -> Result<RowsHash, KvError> {
        self.hash_rows_while(family, begin, version, limit, &|| true)
    }

    /// The same, as [`Self::range_at_while`].
    pub fn hash_rows_while(
        &self,
        family: &str,
        begin: &[u8],
        version: Version,
        limit: u64,
        goes_on: &dyn Fn() -> bool,
    ) -> Result<RowsHash, KvError> {
        let _reading = self.core.readers.begin(version.0);
        self.core.check_applied(version)?;
        self.core.check_readable(version)?;
        let clears = self.core.clears();
        self.core.damage.watch(reads::hash_rows(&*self.core.engine, clears, family, begin, version.0, limit, goes_on))
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

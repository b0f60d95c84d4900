//! Fills an empty engine with rows that all have one version, for a restore.
//!
//! Invariants:
//! - rows arrive in the order of the data table, each key once, so the engine gets no row twice;
//! - the records that make the engine a database are written last: without [`BulkLoad::finish`] it
//!   opens as an empty one, which is why the caller builds it where no server looks;
//! - the same rows give the same database on every replica.
//!
//! Left out on purpose: conflict checks, idempotency records, range clears. A loaded database has
//! no past: every version before that of its rows is unreadable.

use std::sync::Arc;

use kv_api::access::Policy;
use kv_api::{KvError, Version};

use crate::engine::{Engine, Table, WriteBatch};
use crate::gc::window::Window;
use crate::key_codec;
use crate::meta::{self, Counters, FamilyState, StateBlob};

/// Bytes that are written to the engine in one batch.
const BATCH_BYTES: usize = 4 << 20;

/// A database that is being filled.
pub struct BulkLoad {
    engine: Arc<dyn Engine>,
    version: Version,
    level: u32,
    families: Vec<String>,
    policy: Option<Policy>,
    batch: WriteBatch,
    rows: u64,
    /// The prefix of the last row.
    last: Vec<u8>,
    prefix: Vec<u8>,
    key: Vec<u8>,
}

impl BulkLoad {
    /// Begins to fill `engine`, which must be empty, with rows of `version` at the feature level
    /// `level`.
    ///
    /// # Errors
    /// [`KvError::InvalidOperation`] if the engine holds something, or the version is none of a
    /// commit; else those of the storage.
    pub fn begin(engine: Arc<dyn Engine>, version: Version, level: u32) -> Result<BulkLoad, KvError> {
        if version <= Version::EMPTY {
            return Err(KvError::InvalidOperation(format!("rows of a load cannot have version {}", version.0)));
        }
        for table in Table::ALL {
            let mut cursor = engine.cursor(table, &[], &key_codec::END)?;
            cursor.seek(&[])?;
            if cursor.entry().is_some() {
                return Err(KvError::InvalidOperation("a database is loaded into an empty engine only".to_string()));
            }
        }
        Ok(BulkLoad {
            engine,
            version,
            level,
            families: Vec::new(),
            policy: None,
            batch: WriteBatch::new(),
            rows: 0,
            last: Vec::new(),
            prefix: Vec::new(),
            key: Vec::new(),
        })
    }

    /// Creates a family besides the default one, whose name is empty.
    ///
    /// # Errors
    /// [`KvError::InvalidOperation`] if the name is too long or empty.
    pub fn family(&mut self, name: &str) -> Result<(), KvError> {
        key_codec::check_family(name)?;
        if name.is_empty() {
            return Err(KvError::InvalidOperation("the default family is always there".to_string()));
        }
        self.families.push(name.to_string());
        Ok(())
    }

    /// Sets users, roles and tokens; without a call there are none.
    pub fn policy(&mut self, policy: Policy) {
        self.policy = Some(policy);
    }

    /// Adds a row. Rows come in the order of [`Self::order`] of their families, then of their keys.
    ///
    /// # Errors
    /// [`KvError::InvalidOperation`] if the row is not behind the one before; else those of the
    /// storage.
    pub fn row(&mut self, family: &str, key: &[u8], value: &[u8]) -> Result<(), KvError> {
        key_codec::check_family(family)?;
        key_codec::set_prefix(&mut self.prefix, family, key);
        if self.prefix <= self.last {
            return Err(KvError::InvalidOperation(format!(
                "row {} to load, `{}`, is not behind the one before",
                self.rows + 1,
                key.escape_ascii()
            )));
        }
        std::mem::swap(&mut self.prefix, &mut self.last);
        key_codec::set_versioned(&mut self.key, &self.last, self.version.0);
        self.batch.put_parts(Table::Data, &[&self.key], &key_codec::row_parts(Some(value)));
        self.rows += 1;
        if self.batch.size_bytes() >= BATCH_BYTES {
            self.engine.write(&self.batch)?;
            self.batch.clear();
        }
        Ok(())
    }

    /// Sorts names of families in the order in which their rows are loaded: the default one first,
    /// then shorter names before longer ones.
    pub fn order(families: &mut [String]) {
        families.sort_by(|a, b| (a.len(), a.as_str()).cmp(&(b.len(), b.as_str())));
    }

    /// Makes the engine a database, with the record of the replication layer if it is a replica's,
    /// durably. Returns the number of rows.
    ///
    /// # Errors
    /// Those of the storage.
    pub fn finish(mut self, state: Option<&StateBlob>) -> Result<u64, KvError> {
        let mut window = Window::default();
        window.close_before(self.version.0);
        meta::put_format(&mut self.batch);
        if self.level > meta::FIRST_LEVEL {
            meta::put_level(&mut self.batch, self.level);
        }
        for family in &self.families {
            meta::put_family(&mut self.batch, family, FamilyState::Exists);
        }
        if let Some(policy) = &self.policy {
            meta::put_policy(&mut self.batch, policy);
        }
        meta::put_counters(&mut self.batch, Counters { version: self.version.0, rows: self.rows }, &window);
        meta::put_samples(&mut self.batch, &window);
        if let Some(state) = state {
            meta::put_blob(&mut self.batch, state);
        }
        self.engine.write(&self.batch)?;
        self.engine.flush()?;
        Ok(self.rows)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{Durability, MemoryEngine};
    use crate::{StoreOptions, TransactionalKvDatabase};

    fn memory() -> Arc<dyn Engine> {
        Arc::new(MemoryEngine::new(Durability::EveryWrite))
    }

    #[test]
    fn a_loaded_database_holds_the_rows_at_their_version_and_nothing_before() {
        let engine = memory();
        let mut load = BulkLoad::begin(engine.clone(), Version(500), 1).unwrap();
        let mut families = vec!["users".to_string(), "b".to_string(), String::new()];
        BulkLoad::order(&mut families);
        assert_eq!(families, ["", "b", "users"]);
        for family in &families[1..] {
            load.family(family).unwrap();
        }
        for family in &families {
            for number in 0..10_u8 {
                load.row(family, &[0, number], &[number; 3]).unwrap();
            }
        }
        assert_eq!(load.finish(None).unwrap(), 30);
        let database = TransactionalKvDatabase::open(engine, StoreOptions::standalone()).unwrap();
        assert_eq!(database.applied_version(), Version(500));
        assert_eq!(*database.column_families(), ["b", "users"]);
        let hashed = database.hash_rows("users", &[0, 4], Version(500), 100).unwrap();
        assert_eq!((hashed.count, hashed.next), (6, None));
        assert!(matches!(
            database.hash_rows("users", &[], Version(499), 1),
            Err(KvError::TransactionTooOld { oldest: 500, .. })
        ));
    }

    #[test]
    fn rows_out_of_order_and_repeated_ones_are_refused() {
        let mut load = BulkLoad::begin(memory(), Version(500), 1).unwrap();
        load.row("", b"b", b"").unwrap();
        for key in [&b"b"[..], b"a"] {
            let error = load.row("", key, b"").unwrap_err().to_string();
            assert!(error.contains("is not behind the one before"), "{error}");
        }
    }

    #[test]
    fn only_an_empty_engine_is_loaded() {
        let engine = memory();
        drop(TransactionalKvDatabase::open(engine.clone(), StoreOptions::standalone()).unwrap());
        assert!(matches!(BulkLoad::begin(engine, Version(500), 1), Err(KvError::InvalidOperation(_))));
    }
}

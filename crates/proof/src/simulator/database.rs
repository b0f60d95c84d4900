//! A node's database: the shipped executor over the shipped transactional store, on an engine in memory that loses at a
//! crash what was not flushed.

use std::sync::Arc;

use bytes::Bytes;
use kv_api::{AtomicCommit, KeyRef, KvError, RangeQuery, Rows, Version};
use kv_server::replication::{KvStoreExecutor, encode_operation};
use kv_server::router::{LocalReader, ReadSlots};
use kv_store::{Durability, Engine, MemoryEngine, StoreOptions, TransactionalKvDatabase};

use super::random::Random;

/// What outlives the process.
pub struct DatabaseFiles {
    engine: Arc<MemoryEngine>,
}

/// The open database; readers use it beside the executor, as the server's do.
pub struct Database {
    store: Arc<TransactionalKvDatabase>,
}

impl DatabaseFiles {
    pub fn new() -> DatabaseFiles {
        DatabaseFiles { engine: Arc::new(MemoryEngine::new(Durability::UntilFlush)) }
    }

    /// To be called when the process is dead.
    pub fn crash(&self) {
        self.engine.crash();
    }

    pub fn open(&self, random: &mut Random) -> (Database, KvStoreExecutor) {
        // Small caches, so that verdicts come from the table as well as from memory.
        let options = StoreOptions {
            conflict_index_entries: random.pick(&[0, 3, 50, 1_000]),
            known_keys: random.pick(&[1, 16, 1_000]),
            group_commit: None,
        };
        let engine: Arc<dyn Engine> = self.engine.clone();
        let store = TransactionalKvDatabase::open(engine, options).expect("the database is sound");
        let reader = LocalReader::new(store.clone(), ReadSlots::new(1));
        let executor = KvStoreExecutor::new(reader, true).expect("the database is sound");
        (Database { store }, executor)
    }
}

impl Database {
    pub fn applied_version(&self) -> u64 {
        self.store.applied_version().0
    }

    pub fn flush(&self) {
        self.store.flush().expect("memory never fails");
    }

    pub fn get(&self, key: &KeyRef, version: u64) -> Result<Option<Bytes>, KvError> {
        self.store.read_at(key, Version(version))
    }

    pub fn range(&self, query: &RangeQuery, version: u64) -> Result<Rows, KvError> {
        self.store.range_at(query, Version(version))
    }

    /// A hash over all rows of all families as they are now.
    pub fn hash(&self, families: &[&str]) -> u64 {
        let version = self.store.applied_version();
        families.iter().fold(0, |sum: u64, family| {
            let rows = self.store.hash_rows(family, b"", version, u64::MAX).expect("memory never fails");
            assert_eq!(rows.next, None, "all rows were asked for");
            sum.rotate_left(7) ^ rows.hash ^ rows.count
        })
    }
}

/// A commit as it stands in the log.
pub fn encode(commit: AtomicCommit) -> Bytes {
    encode_operation(commit)
}

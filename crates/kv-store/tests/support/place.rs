//! Where a test's database lives, and how to close, crash and open it again.

use std::sync::Arc;

use kv_store::{Durability, Engine, MemoryEngine, StoreOptions, TransactionalKvDatabase};

/// An engine under test. At most one database is open on it at a time.
pub enum Place {
    Memory(Arc<MemoryEngine>),
    #[cfg(feature = "rocksdb")]
    Rocks(rocks::RocksPlace),
}

/// One place for each engine of this build.
pub fn all(durability: Durability) -> Vec<Place> {
    vec![
        Place::Memory(Arc::new(MemoryEngine::new(durability))),
        #[cfg(feature = "rocksdb")]
        Place::Rocks(rocks::RocksPlace::new(durability)),
    ]
}

impl Place {
    pub fn engine(&self) -> Arc<dyn Engine> {
        match self {
            Place::Memory(engine) => engine.clone(),
            #[cfg(feature = "rocksdb")]
            Place::Rocks(place) => place.engine(),
        }
    }

    /// A replica's database; every one opened here before must be dropped.
    pub fn open(&self) -> Arc<TransactionalKvDatabase> {
        self.open_with(StoreOptions::replicated())
    }

    pub fn open_with(&self, options: StoreOptions) -> Arc<TransactionalKvDatabase> {
        TransactionalKvDatabase::open(self.engine(), options).unwrap()
    }

    /// With a conflict index, and a memory of known keys, of `entries`.
    pub fn open_with_index(&self, entries: usize) -> Arc<TransactionalKvDatabase> {
        let options = StoreOptions::replicated();
        self.open_with(StoreOptions { conflict_index_entries: entries, known_keys: entries, ..options })
    }

    /// Ends the process in effect: what is not persisted is lost. Takes the database that is open here.
    pub fn crash(&mut self, database: Arc<TransactionalKvDatabase>) {
        match self {
            Place::Memory(engine) => {
                drop(database);
                engine.crash();
            }
            #[cfg(feature = "rocksdb")]
            Place::Rocks(place) => place.crash(database),
        }
    }
}

#[cfg(feature = "rocksdb")]
mod rocks {
    use std::{
        path::Path,
        sync::{Arc, LazyLock},
    };

    use kv_api::KvError;
    use kv_store::{
        Durability, Engine, EngineKind, ResourceOptions, SharedResources, TransactionalKvDatabase, open_engine,
    };
    use tempfile::TempDir;

    static RESOURCES: LazyLock<SharedResources> =
        LazyLock::new(|| SharedResources::new(ResourceOptions::default()).unwrap());

    pub struct RocksPlace {
        durability: Durability,
        folder: TempDir,
    }

    impl RocksPlace {
        pub fn new(durability: Durability) -> Self {
            RocksPlace { durability, folder: tempfile::tempdir().unwrap() }
        }

        pub fn engine(&self) -> Arc<dyn Engine> {
            self.try_engine().unwrap()
        }

        pub fn try_engine(&self) -> Result<Arc<dyn Engine>, KvError> {
            open_engine(EngineKind::RocksDb, self.folder.path(), self.durability, &RESOURCES)
        }

        /// The files of an open database are what a killed process leaves behind.
        pub fn crash(&mut self, database: Arc<TransactionalKvDatabase>) {
            let left_behind = tempfile::tempdir().unwrap();
            copy_files(self.folder.path(), left_behind.path());
            drop(database);
            self.folder = left_behind;
        }
    }

    fn copy_files(from: &Path, to: &Path) {
        for entry in std::fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_file() && entry.file_name() != "LOCK" {
                std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
            }
        }
    }
}

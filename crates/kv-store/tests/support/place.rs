//! Storage for a test's database, which can be closed, crashed and opened again.

use std::sync::Arc;

use std::sync::Mutex;

use kv_store::engine::EngineInstall;
use kv_store::{
    DatabaseInstall, Durability, Engine, MemoryEngine, MemoryInstall, StoreOptions, TransactionalKvDatabase,
};

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

    /// Opens a replica's database. Every one opened here before must be dropped.
    pub fn open(&self) -> Arc<TransactionalKvDatabase> {
        self.open_with(StoreOptions::replicated())
    }

    pub fn open_with(&self, options: StoreOptions) -> Arc<TransactionalKvDatabase> {
        TransactionalKvDatabase::open(self.engine(), options).unwrap()
    }

    /// Like [`Self::open`], with a conflict index and a table of known keys of `entries`.
    pub fn open_with_index(&self, entries: usize) -> Arc<TransactionalKvDatabase> {
        let options = StoreOptions::replicated();
        self.open_with(StoreOptions { conflict_index_entries: entries, known_keys: entries, ..options })
    }

    /// Simulates the end of the process: what is not persisted is lost. Takes the open database.
    pub fn crash(&mut self, database: Arc<TransactionalKvDatabase>) {
        self.crash_with(database);
    }

    /// The same, for an engine without a database.
    pub fn crash_engine(&mut self, engine: Arc<dyn Engine>) {
        self.crash_with(engine);
    }

    /// `open` must be all that is open here.
    fn crash_with<T>(&mut self, open: T) {
        match self {
            Place::Memory(engine) => {
                drop(open);
                engine.crash();
            }
            #[cfg(feature = "rocksdb")]
            Place::Rocks(place) => place.crash(open),
        }
    }
}

/// Storage in which a replica's database may exist, be built from a copy, and be removed.
pub enum Home {
    /// The engine stands for the content of a disk.
    Memory(Arc<Mutex<Option<Arc<MemoryEngine>>>>, Durability),
    #[cfg(feature = "rocksdb")]
    Rocks(rocks::RocksHome),
}

/// One home for each engine of this build.
pub fn homes() -> Vec<Home> {
    vec![
        Home::memory(Durability::UntilFlush),
        #[cfg(feature = "rocksdb")]
        Home::Rocks(rocks::RocksHome::new()),
    ]
}

impl Home {
    pub fn memory(durability: Durability) -> Self {
        Home::Memory(Arc::default(), durability)
    }

    /// An empty home of the same kind.
    pub fn another(&self) -> Self {
        match self {
            Home::Memory(_, durability) => Home::memory(*durability),
            #[cfg(feature = "rocksdb")]
            Home::Rocks(_) => Home::Rocks(rocks::RocksHome::new()),
        }
    }

    pub fn has_files(&self) -> bool {
        !matches!(self, Home::Memory(..))
    }

    pub fn open(&self) -> Arc<TransactionalKvDatabase> {
        let engine: Arc<dyn Engine> = match self {
            Home::Memory(engine, durability) => {
                engine.lock().unwrap().get_or_insert_with(|| Arc::new(MemoryEngine::new(*durability))).clone()
            }
            #[cfg(feature = "rocksdb")]
            Home::Rocks(home) => home.engine(),
        };
        TransactionalKvDatabase::open(engine, StoreOptions::replicated()).unwrap()
    }

    pub fn begin_install(&self) -> DatabaseInstall {
        self.begin_install_with(StoreOptions::replicated())
    }

    pub fn begin_install_with(&self, options: StoreOptions) -> DatabaseInstall {
        let install: Box<dyn EngineInstall> = match self {
            Home::Memory(engine, durability) => {
                *engine.lock().unwrap() = None;
                Box::new(KeptInstall { install: MemoryInstall::new(*durability), into: engine.clone() })
            }
            #[cfg(feature = "rocksdb")]
            Home::Rocks(home) => home.begin_install(),
        };
        DatabaseInstall::new(install, options)
    }

    /// Whether a database exists here.
    pub fn exists(&self) -> bool {
        match self {
            Home::Memory(engine, _) => engine.lock().unwrap().is_some(),
            #[cfg(feature = "rocksdb")]
            Home::Rocks(home) => home.path().exists(),
        }
    }

    /// Names of the entries of the folder that contains this home.
    pub fn neighbours(&self) -> Vec<String> {
        match self {
            Home::Memory(..) => Vec::new(),
            #[cfg(feature = "rocksdb")]
            Home::Rocks(home) => home.neighbours(),
        }
    }

    /// Loses what a crash would lose. Takes the open database.
    pub fn crash(&mut self, database: Arc<TransactionalKvDatabase>) {
        match self {
            Home::Memory(engine, _) => {
                drop(database);
                engine.lock().unwrap().as_ref().expect("it was open").crash();
            }
            #[cfg(feature = "rocksdb")]
            Home::Rocks(home) => home.crash(database),
        }
    }
}

/// Keeps the finished engine where its home finds it.
struct KeptInstall {
    install: MemoryInstall,
    into: Arc<Mutex<Option<Arc<MemoryEngine>>>>,
}

impl EngineInstall for KeptInstall {
    fn write(&mut self, bytes: &[u8]) -> Result<(), kv_api::KvError> {
        self.install.write(bytes)
    }

    fn finish(self: Box<Self>) -> Result<Arc<dyn Engine>, kv_api::KvError> {
        let engine = Arc::new(self.install.into_engine()?);
        *self.into.lock().unwrap() = Some(engine.clone());
        Ok(engine)
    }
}

#[cfg(feature = "rocksdb")]
pub mod rocks {
    use std::path::PathBuf;
    use std::sync::{Arc, LazyLock};

    use kv_api::KvError;
    use kv_store::engine::EngineInstall;
    use kv_store::{
        Durability, Engine, EngineKind, ResourceOptions, SharedResources, TransactionalKvDatabase, begin_install,
        open_engine,
    };
    use tempfile::TempDir;

    use super::super::left_behind;

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

        /// The files of an open database are what a killed process leaves.
        pub fn crash<T>(&mut self, open: T) {
            let folder = tempfile::tempdir().unwrap();
            left_behind::copy(self.folder.path(), folder.path());
            drop(open);
            self.folder = folder;
        }
    }

    /// A folder `db` in a folder of its own.
    pub struct RocksHome(TempDir);

    impl RocksHome {
        pub fn new() -> Self {
            RocksHome(tempfile::tempdir().unwrap())
        }

        pub fn path(&self) -> PathBuf {
            self.0.path().join("db")
        }

        pub fn engine(&self) -> Arc<dyn Engine> {
            self.try_engine().unwrap()
        }

        pub fn try_engine(&self) -> Result<Arc<dyn Engine>, KvError> {
            open_engine(EngineKind::RocksDb, &self.path(), Durability::UntilFlush, &RESOURCES)
        }

        pub fn begin_install(&self) -> Box<dyn EngineInstall> {
            begin_install(EngineKind::RocksDb, &self.path(), Durability::UntilFlush, &RESOURCES).unwrap()
        }

        pub fn neighbours(&self) -> Vec<String> {
            let names = std::fs::read_dir(self.0.path()).unwrap();
            let mut names: Vec<_> = names.map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
            names.sort();
            names
        }

        pub fn crash(&mut self, database: Arc<TransactionalKvDatabase>) {
            let home = RocksHome::new();
            std::fs::create_dir(home.path()).unwrap();
            left_behind::copy(&self.path(), &home.path());
            drop(database);
            *self = home;
        }
    }
}

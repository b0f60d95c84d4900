//! Engines for the tests inside this crate, which can be reopened and crashed.

use std::sync::Arc;

use super::{Durability, Engine, MemoryEngine};

/// An engine and its storage.
pub(crate) enum Place {
    Memory(Arc<MemoryEngine>),
    #[cfg(feature = "rocksdb")]
    Rocks(rocks::RocksPlace),
}

/// One place for each engine of this build.
pub(crate) fn all(durability: Durability) -> Vec<Place> {
    vec![
        memory(durability),
        #[cfg(feature = "rocksdb")]
        Place::Rocks(rocks::RocksPlace::new(durability)),
    ]
}

pub(crate) fn memory(durability: Durability) -> Place {
    Place::Memory(Arc::new(MemoryEngine::new(durability)))
}

impl Place {
    pub fn engine(&self) -> Arc<dyn Engine> {
        match self {
            Place::Memory(engine) => engine.clone(),
            #[cfg(feature = "rocksdb")]
            Place::Rocks(place) => place.engine(),
        }
    }

    /// Simulates the end of the process: loses what is not persisted. Nobody may hold the engine.
    pub fn crash(&mut self) {
        match self {
            Place::Memory(engine) => engine.crash(),
            #[cfg(feature = "rocksdb")]
            Place::Rocks(place) => place.crash(),
        }
    }

    /// Closes and reopens the engine. Nobody may hold it.
    pub fn restart(&mut self) {
        match self {
            Place::Memory(_) => {}
            #[cfg(feature = "rocksdb")]
            Place::Rocks(place) => place.restart(),
        }
    }
}

#[cfg(feature = "rocksdb")]
#[path = "../../tests/support/left_behind.rs"]
mod left_behind;

#[cfg(feature = "rocksdb")]
pub(crate) mod rocks {
    use std::path::Path;
    use std::sync::{Arc, LazyLock};

    use tempfile::TempDir;

    use super::left_behind;
    use crate::engine::{Durability, Engine, ResourceOptions, RocksEngine, RocksOptions, SharedResources};

    static RESOURCES: LazyLock<SharedResources> =
        LazyLock::new(|| SharedResources::new(ResourceOptions::default()).unwrap());

    pub(crate) struct RocksPlace {
        engine: Option<Arc<RocksEngine>>,
        durability: Durability,
        folder: TempDir,
    }

    impl RocksPlace {
        pub fn new(durability: Durability) -> Self {
            let folder = tempfile::tempdir().unwrap();
            let engine = Some(open(folder.path(), durability));
            RocksPlace { engine, durability, folder }
        }

        pub fn engine(&self) -> Arc<dyn Engine> {
            self.engine.clone().expect("it is open")
        }

        pub fn restart(&mut self) {
            self.engine = None;
            self.engine = Some(open(self.folder.path(), self.durability));
        }

        /// The files of an open database are what a killed process leaves.
        pub fn crash(&mut self) {
            let folder = tempfile::tempdir().unwrap();
            left_behind::copy(self.folder.path(), folder.path());
            self.engine = None;
            self.folder = folder;
            self.restart();
        }
    }

    pub(crate) fn open(path: &Path, durability: Durability) -> Arc<RocksEngine> {
        let options = RocksOptions::new(durability, RESOURCES.clone());
        Arc::new(RocksEngine::open(path, options).unwrap())
    }
}

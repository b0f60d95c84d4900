//! What the engines of one process share, so that three replicas do not take three times the threads and memory.

use kv_api::KvError;

/// Sizes of the shared resources.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResourceOptions {
    /// Cache of blocks read from files, all engines together.
    pub block_cache_bytes: usize,
    /// Write buffers of all engines together; when more is in use, the engines flush. Too small a figure makes very many
    /// small files.
    pub write_buffers_bytes: usize,
    /// Threads that flush and compact, all engines together; at least 2 (one flushes, the others compact).
    pub background_threads: u32,
    /// Table files that each engine keeps open; RocksDB takes 20 at least. Those that are closed are opened again when they
    /// are read.
    pub max_open_files: u32,
}

impl Default for ResourceOptions {
    fn default() -> Self {
        ResourceOptions {
            block_cache_bytes: 256 << 20,
            write_buffers_bytes: 768 << 20,
            background_threads: 2,
            max_open_files: 1000,
        }
    }
}

/// Background threads, block cache and write buffer budget of all RocksDB engines of a process. Clones share them.
#[derive(Clone)]
pub struct SharedResources {
    #[cfg(feature = "rocksdb")]
    pub(super) env: rocksdb::Env,
    #[cfg(feature = "rocksdb")]
    pub(super) block_cache: rocksdb::Cache,
    #[cfg(feature = "rocksdb")]
    pub(super) write_buffers: rocksdb::WriteBufferManager,
    options: ResourceOptions,
}

impl SharedResources {
    pub fn new(options: ResourceOptions) -> Result<Self, KvError> {
        if options.background_threads < 2 {
            return Err(KvError::InvalidOperation(format!(
                "{} background threads are too few: at least 2 are needed, one to flush and one to compact",
                options.background_threads
            )));
        }
        Self::with_threads(options)
    }

    #[cfg(feature = "rocksdb")]
    fn with_threads(options: ResourceOptions) -> Result<Self, KvError> {
        let mut env = rocksdb::Env::new().map_err(|error| KvError::Storage(error.to_string()))?;
        // A pool of its own for flushes: behind a long compaction they would stall the writers.
        env.set_high_priority_background_threads(1);
        env.set_low_priority_background_threads(i32::try_from(options.background_threads - 1).unwrap_or(i32::MAX));
        Ok(SharedResources {
            env,
            block_cache: rocksdb::Cache::new_hyper_clock_cache(options.block_cache_bytes, 0),
            write_buffers: rocksdb::WriteBufferManager::new_write_buffer_manager(options.write_buffers_bytes, false),
            options,
        })
    }

    #[cfg(not(feature = "rocksdb"))]
    fn with_threads(options: ResourceOptions) -> Result<Self, KvError> {
        Ok(SharedResources { options })
    }

    pub fn options(&self) -> ResourceOptions {
        self.options
    }
}

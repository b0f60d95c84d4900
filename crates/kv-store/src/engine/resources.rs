//! Resources that the engines of a process share, so that three replicas do not take three times
//! the threads and memory.

use kv_api::KvError;

/// Sizes of the shared resources, and shares in them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResourceOptions {
    /// Size of the block cache of all engines together.
    pub block_cache_bytes: usize,
    /// Memory of each database for rows that were read. 0: none are kept.
    pub row_cache_bytes: usize,
    /// Memory for the write buffers of all engines together; above it the engines flush. A small
    /// value leads to many small files.
    pub write_buffers_bytes: usize,
    /// Threads of all engines together for flushes and compactions. At least 2: one flushes, the
    /// others compact.
    pub background_threads: u32,
    /// Table files that each engine keeps open; RocksDB keeps at least 20. Other files are opened
    /// when they are read.
    pub max_open_files: u32,
}

impl Default for ResourceOptions {
    fn default() -> Self {
        ResourceOptions {
            block_cache_bytes: 256 << 20,
            row_cache_bytes: 32 << 20,
            write_buffers_bytes: 768 << 20,
            background_threads: 2,
            max_open_files: 1000,
        }
    }
}

/// The background threads, block cache and write buffer budget of all RocksDB engines of a process.
/// Clones share them.
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
    /// Starts the threads, and allocates the cache.
    ///
    /// # Errors
    /// [`KvError::InvalidOperation`] for options out of range.
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
        // Flushes get threads of their own: waiting for a long compaction they would stall the
        // writers.
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

    /// The sizes with which the resources were made.
    pub fn options(&self) -> ResourceOptions {
        self.options
    }
}

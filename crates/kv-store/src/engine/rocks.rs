//! The RocksDB engine: one database folder, a column family per table.
//!
//! Invariants:
//! - under [`Durability::UntilFlush`] the write-ahead log is off on every write, and the column families are flushed only
//!   together (`atomic_flush`, and `flush_cfs_opt` over all): flushing one alone would leave a state after a crash in
//!   which the applied sequence and the data disagree;
//! - under [`Durability::EveryWrite`] every write is synced to the write-ahead log before it returns;
//! - scans use total order; only [`RocksEngine::key_cursor`] looks at prefix filters.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use kv_api::KvError;
use rocksdb::{
    BlockBasedOptions, ColumnFamily, ColumnFamilyDescriptor, DB, DBCompressionType, DBRawIterator, FlushOptions,
    Options, ReadOptions, ReadTier, SliceTransform, WriteOptions, properties,
    statistics::{StatsLevel, Ticker},
};

use super::{Cursor, Durability, Engine, EngineStatistics, SharedResources, Table, WriteBatch};
use crate::key_codec;

/// How a RocksDB database is opened.
pub struct RocksOptions {
    pub durability: Durability,
    pub resources: SharedResources,
    /// Size at which one table's write buffer is written to a file.
    pub write_buffer_bytes: usize,
    /// Files kept open at a time.
    pub max_open_files: i32,
}

impl RocksOptions {
    /// The defaults.
    pub fn new(durability: Durability, resources: SharedResources) -> Self {
        // Three databases of two tables each may share the budget: one buffer must not fill it before it holds a row.
        let share = resources.options().write_buffers_bytes / 6;
        RocksOptions { durability, resources, write_buffer_bytes: share.clamp(1 << 20, 64 << 20), max_open_files: 1000 }
    }
}

/// A RocksDB database. Dropping it closes it; one process at a time may have a folder open.
pub struct RocksEngine {
    db: DB,
    path: PathBuf,
    durability: Durability,
    /// Kept for its statistics.
    options: Options,
    write_options: WriteOptions,
}

const DATA_FAMILY: &str = "data";
const META_FAMILY: &str = "meta";

impl RocksEngine {
    /// Opens the database in the folder `path`, creating folder and database where they do not exist.
    pub fn open(path: impl AsRef<Path>, options: RocksOptions) -> Result<Self, KvError> {
        let path = path.as_ref().to_owned();
        let db_options = database_options(&options);
        let families = [
            ColumnFamilyDescriptor::new(DATA_FAMILY, data_options(&options)),
            ColumnFamilyDescriptor::new(META_FAMILY, family_options(&options)),
        ];
        let db = DB::open_cf_descriptors(&db_options, &path, families)
            .map_err(|error| KvError::Storage(format!("cannot open the database in {}: {error}", path.display())))?;
        let mut write_options = WriteOptions::default();
        match options.durability {
            Durability::EveryWrite => write_options.set_sync(true),
            Durability::UntilFlush => write_options.disable_wal(true),
        }
        Ok(RocksEngine { db, path, durability: options.durability, options: db_options, write_options })
    }

    /// Where the database lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn family(&self, table: Table) -> &ColumnFamily {
        let name = match table {
            Table::Data => DATA_FAMILY,
            Table::Meta => META_FAMILY,
        };
        self.db.cf_handle(name).expect("both column families are opened with the database")
    }

    fn failed(&self, error: rocksdb::Error) -> KvError {
        storage_error(&self.path, error)
    }

    /// A RocksDB integer property, summed over both tables.
    fn property_sum(&self, name: &properties::PropName) -> Option<u64> {
        Table::ALL
            .iter()
            .map(|table| self.db.property_int_value_cf(self.family(*table), name).ok().flatten())
            .sum::<Option<u64>>()
    }

    fn cache_hit_rate_percent(&self) -> Option<u64> {
        let hits = self.options.get_ticker_count(Ticker::BlockCacheHit);
        let misses = self.options.get_ticker_count(Ticker::BlockCacheMiss);
        (hits * 100).checked_div(hits + misses)
    }
}

fn storage_error(path: &Path, error: rocksdb::Error) -> KvError {
    KvError::Storage(format!("database in {}: {error}", path.display()))
}

fn database_options(options: &RocksOptions) -> Options {
    let resources = &options.resources;
    let mut db_options = Options::default();
    db_options.create_if_missing(true);
    db_options.create_missing_column_families(true);
    db_options.set_env(&resources.env);
    db_options.set_write_buffer_manager(&resources.write_buffers);
    db_options.set_max_background_jobs(i32::try_from(resources.options().background_threads).unwrap_or(i32::MAX));
    db_options.set_max_open_files(options.max_open_files);
    db_options.set_unordered_write(false);
    db_options.set_atomic_flush(options.durability == Durability::UntilFlush);
    // Smooth the writing of large files, so that a sync of the log does not wait behind them.
    db_options.set_bytes_per_sync(1 << 20);
    db_options.set_max_total_wal_size(512 << 20);
    db_options.set_keep_log_file_num(4);
    db_options.set_max_log_file_size(8 << 20);
    // No periodic statistics: they would be threads and wake-ups that nobody reads.
    db_options.set_stats_dump_period_sec(0);
    db_options.set_stats_persist_period_sec(0);
    db_options.enable_statistics();
    db_options.set_statistics_level(StatsLevel::ExceptHistogramOrTimers);
    db_options
}

fn block_options(options: &RocksOptions) -> BlockBasedOptions {
    let mut blocks = BlockBasedOptions::default();
    blocks.set_block_cache(&options.resources.block_cache);
    blocks.set_block_size(8 << 10);
    blocks.set_bloom_filter(10.0, false);
    blocks.set_optimize_filters_for_memory(true);
    // Indexes and filters count as cache, so that the cache's size bounds the memory.
    blocks.set_cache_index_and_filter_blocks(true);
    blocks.set_pin_l0_filter_and_index_blocks_in_cache(true);
    blocks
}

fn family_options(options: &RocksOptions) -> Options {
    let mut family = Options::default();
    family.set_write_buffer_size(options.write_buffer_bytes);
    // What an empty buffer takes already; by default an eighth of its size.
    family.set_arena_block_size((options.write_buffer_bytes / 32).clamp(64 << 10, 1 << 20));
    family.set_max_write_buffer_number(4);
    family.set_compression_type(DBCompressionType::Lz4);
    family.set_block_based_table_factory(&block_options(options));
    family
}

/// The data table's filters hold key prefixes (the key without its version): every lookup asks for "the newest version
/// up to V", and none for one exact version.
fn data_options(options: &RocksOptions) -> Options {
    let mut family = family_options(options);
    let mut blocks = block_options(options);
    blocks.set_whole_key_filtering(false);
    family.set_block_based_table_factory(&blocks);
    family.set_prefix_extractor(SliceTransform::create(
        "synodkv.key-without-version.1",
        |key| &key[..key_codec::prefix_length(key).unwrap_or(key.len())],
        Some(|key| key_codec::prefix_length(key).is_some()),
    ));
    family.set_memtable_prefix_bloom_ratio(0.05);
    family
}

impl Engine for RocksEngine {
    fn durability(&self) -> Durability {
        self.durability
    }

    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, KvError> {
        let value = self.db.get_cf(self.family(table), key).map_err(|error| self.failed(error))?;
        Ok(value.map(Bytes::from))
    }

    fn write(&self, batch: &WriteBatch) -> Result<(), KvError> {
        // Per entry RocksDB adds a tag, a family number and two lengths.
        let capacity_bytes = batch.size_bytes() + batch.len() * 12 + 64;
        let mut writes = rocksdb::WriteBatch::with_capacity_bytes(capacity_bytes);
        let (data, meta) = (self.family(Table::Data), self.family(Table::Meta));
        for put in batch.iter() {
            match put.table {
                Table::Data => writes.put_cf(data, put.key, put.value),
                Table::Meta => writes.put_cf(meta, put.key, put.value),
            }
        }
        self.db.write_opt(writes, &self.write_options).map_err(|error| self.failed(error))
    }

    fn cursor(&self, table: Table, lower: &[u8], upper: &[u8]) -> Result<Box<dyn Cursor + '_>, KvError> {
        let mut read = ReadOptions::default();
        read.set_total_order_seek(true);
        read.set_iterate_lower_bound(lower);
        read.set_iterate_upper_bound(upper);
        let iterator = self.db.raw_iterator_cf_opt(self.family(table), read);
        // RocksDB does not cope with bounds the wrong way round; such a range is simply empty.
        let empty = lower >= upper;
        Ok(Box::new(RocksCursor { iterator, path: &self.path, empty }))
    }

    fn key_cursor(&self) -> Result<Box<dyn Cursor + '_>, KvError> {
        let mut read = ReadOptions::default();
        read.set_prefix_same_as_start(true);
        let iterator = self.db.raw_iterator_cf_opt(self.family(Table::Data), read);
        Ok(Box::new(RocksCursor { iterator, path: &self.path, empty: false }))
    }

    fn flush(&self) -> Result<(), KvError> {
        let mut flush = FlushOptions::default();
        flush.set_wait(true);
        let families = Table::ALL.map(|table| self.family(table));
        self.db.flush_cfs_opt(&families, &flush).map_err(|error| self.failed(error))
    }

    fn persisted_get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, KvError> {
        let mut read = ReadOptions::default();
        read.set_read_tier(ReadTier::Persisted);
        let value = self.db.get_cf_opt(self.family(table), key, &read).map_err(|error| self.failed(error))?;
        Ok(value.map(Bytes::from))
    }

    fn statistics(&self) -> EngineStatistics {
        let unflushed_bytes = self.property_sum(properties::CUR_SIZE_ALL_MEM_TABLES).unwrap_or(0);
        let file_bytes = self.property_sum(properties::LIVE_SST_FILES_SIZE).unwrap_or(0);
        EngineStatistics {
            size_bytes: file_bytes + unflushed_bytes,
            unflushed_bytes,
            compaction_pending_bytes: self.property_sum(properties::ESTIMATE_PENDING_COMPACTION_BYTES),
            cache_hit_rate_percent: self.cache_hit_rate_percent(),
        }
    }
}

struct RocksCursor<'e> {
    iterator: DBRawIterator<'e>,
    path: &'e Path,
    empty: bool,
}

impl RocksCursor<'_> {
    /// An iterator that stops may have reached its end or a fault.
    fn check(&self) -> Result<(), KvError> {
        if self.iterator.valid() {
            return Ok(());
        }
        self.iterator.status().map_err(|error| storage_error(self.path, error))
    }
}

impl Cursor for RocksCursor<'_> {
    fn seek(&mut self, target: &[u8]) -> Result<(), KvError> {
        if self.empty {
            return Ok(());
        }
        self.iterator.seek(target);
        self.check()
    }

    fn seek_before(&mut self, target: &[u8]) -> Result<(), KvError> {
        if self.empty {
            return Ok(());
        }
        self.iterator.seek_for_prev(target);
        if self.iterator.key() == Some(target) {
            self.iterator.prev();
        }
        self.check()
    }

    fn next(&mut self) -> Result<(), KvError> {
        self.iterator.next();
        self.check()
    }

    fn prev(&mut self) -> Result<(), KvError> {
        self.iterator.prev();
        self.check()
    }

    fn entry(&self) -> Option<(&[u8], &[u8])> {
        self.iterator.item()
    }
}

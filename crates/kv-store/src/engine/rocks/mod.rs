//! The RocksDB engine: a database folder with a column family for each table.
//!
//! [`copy`] makes copies, and [`install`] builds databases from them; [`errors`] tells damage from
//! other faults; [`filter`] drops superseded values; [`folder`] handles files; [`options`]
//! configures RocksDB.
//!
//! Invariants:
//! - under [`Durability::UntilFlush`] no write uses the write-ahead log, and the column families
//!   are flushed only together (`atomic_flush`, and `flush_cfs_opt` over all): after a crash,
//!   flushing one alone would leave an applied sequence that disagrees with the data;
//! - under [`Durability::EveryWrite`] every write is synced to the write-ahead log before it
//!   returns;
//! - scans use total order; only [`RocksEngine::key_cursor`] uses prefix filters.

mod copy;
mod errors;
mod filter;
mod folder;
mod install;
mod options;
mod stopped;
#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use kv_api::KvError;
use rocksdb::checkpoint::Checkpoint;
use rocksdb::statistics::Ticker;
use rocksdb::{
    BottommostLevelCompaction, ColumnFamily, CompactOptions, DB, DBRawIterator, FlushOptions, Options, ReadOptions,
    ReadTier, WriteOptions, properties,
};

use super::{BatchEntry, Cursor, Durability, Engine, EngineCopy, EngineStatistics, Table, WriteBatch};
use copy::RocksCopy;
use errors::{open_error, storage_error};
use filter::FilterWatermark;
use folder::Folder;
use options::{Create, database_options, families, family_name, is_former_layout};

pub use install::RocksInstall;
pub use options::RocksOptions;
pub(super) use stopped::StoppedRocks;

/// Write buffers with this many deleted entries are flushed, so that a compaction removes them:
/// readers pass deleted entries one by one, at some microseconds for ten.
const MAX_DELETES_UNFLUSHED: u64 = 50_000;

/// Maximum number of files that wait for compaction before such a flush is put off. RocksDB slows
/// writers down from 20 files on.
const MAX_FILES_TO_ADD_TO: u64 = 8;

/// A deleted range counts as this many deleted entries: seeks into adjacent ranges pass them all,
/// and each takes longer to pass.
const DELETES_OF_RANGE: u64 = 500;

/// A RocksDB database. Dropping it closes it. Only one process at a time may have a folder open.
pub struct RocksEngine {
    /// Declared before the folder, so that the database is closed before its files are removed.
    db: DB,
    folder: Folder,
    filter_watermark: FilterWatermark,
    opened_with: RocksOptions,
    /// Kept for the statistics.
    options: Options,
    write_options: WriteOptions,
    batches_written: AtomicU64,
    /// Approximate number of deletes since the last flush of the write buffers.
    deletes: AtomicU64,
}

impl RocksEngine {
    /// Opens the database in the folder `path`; creates folder and database if there is none.
    ///
    /// # Errors
    /// [`KvError::Corruption`] when there is a database and it is damaged; other errors of the
    /// storage.
    pub fn open(path: impl AsRef<Path>, options: RocksOptions) -> Result<Self, KvError> {
        let folder = Folder::new(path.as_ref());
        folder.remove_leftover_copies();
        let db_options = database_options(&options, what_to_create(&folder, &options));
        let filter_watermark = FilterWatermark::default();
        let db = DB::open_cf_descriptors(&db_options, folder.path(), families(&options, &filter_watermark))
            .map_err(|error| open_error(folder.path(), &error))?;
        // RocksDB syncs its folder, but not the entry of the folder in its parent.
        folder.sync()?;
        let mut write_options = WriteOptions::default();
        match options.durability {
            Durability::EveryWrite => write_options.set_sync(true),
            Durability::UntilFlush => write_options.disable_wal(true),
        }
        Ok(RocksEngine {
            db,
            folder,
            filter_watermark,
            opened_with: options,
            options: db_options,
            write_options,
            batches_written: AtomicU64::new(0),
            deletes: AtomicU64::new(0),
        })
    }

    /// The folder of the database.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    fn family(&self, table: Table) -> &ColumnFamily {
        self.db.cf_handle(family_name(table)).expect("all column families are opened with the database")
    }

    /// Reads every row of every table, which finds damage in any file.
    ///
    /// # Errors
    /// [`KvError::Corruption`] when there is damage; other errors of the storage.
    fn read_everything(&self) -> Result<(), KvError> {
        for table in Table::ALL {
            let mut read = ReadOptions::default();
            read.set_total_order_seek(true);
            read.fill_cache(false);
            read.set_readahead_size(2 << 20);
            let mut rows = self.db.raw_iterator_cf_opt(self.family(table), read);
            rows.seek_to_first();
            while rows.valid() {
                rows.next();
            }
            rows.status().map_err(|error| self.failed(error))?;
        }
        Ok(())
    }

    /// Flushes all write buffers together; `wait`: returns when they are in files.
    fn flush_all(&self, wait: bool) -> Result<(), KvError> {
        self.deletes.store(0, Ordering::Relaxed);
        let mut flush = FlushOptions::default();
        flush.set_wait(wait);
        let families = Table::ALL.map(|table| self.family(table));
        self.db.flush_cfs_opt(&families, &flush).map_err(|error| self.failed(error))
    }

    fn flush_after_many(&self, deletes: u64) {
        if deletes == 0 || self.deletes.fetch_add(deletes, Ordering::Relaxed) + deletes < MAX_DELETES_UNFLUSHED {
            return;
        }
        // While compactions are behind, more files would only make writers wait for them.
        if self.files_to_compact() > MAX_FILES_TO_ADD_TO {
            return;
        }
        // The batch is written. The next write or flush will meet the cause of a failed flush, too.
        if let Err(error) = self.flush_all(false) {
            tracing::debug!(%error, "cannot flush write buffers with many deletes");
        }
    }

    /// Files of the data table on level 0.
    fn files_to_compact(&self) -> u64 {
        let files = self.db.property_value_cf(self.family(Table::Data), properties::num_files_at_level(0));
        files.ok().flatten().and_then(|files| files.parse().ok()).unwrap_or(0)
    }

    fn failed(&self, error: rocksdb::Error) -> KvError {
        storage_error(self.folder.path(), &error)
    }

    fn property(&self, table: Table, name: &properties::PropName) -> Option<u64> {
        self.db.property_int_value_cf(self.family(table), name).ok().flatten()
    }

    /// A RocksDB integer property, added up over all tables.
    fn property_sum(&self, name: &properties::PropName) -> Option<u64> {
        Table::ALL.iter().map(|table| self.property(*table, name)).sum()
    }

    fn cache_hit_rate_percent(&self) -> Option<u64> {
        let hits = self.options.get_ticker_count(Ticker::BlockCacheHit);
        let misses = self.options.get_ticker_count(Ticker::BlockCacheMiss);
        (hits * 100).checked_div(hits + misses)
    }
}

/// The parts that opening may create. If rows were written before, anything missing is damage and
/// must not be created, except the table that the former layout did not have.
fn what_to_create(folder: &Folder, options: &RocksOptions) -> Create {
    if !folder.holds_rows() {
        return Create::Everything;
    }
    // A folder that cannot be listed cannot be opened either, and opening reports why.
    let listed = DB::list_cf(&database_options(options, Create::Nothing), folder.path());
    match listed.is_ok_and(|families| is_former_layout(&families)) {
        true => Create::Families,
        false => Create::Nothing,
    }
}

impl Engine for RocksEngine {
    fn folder(&self) -> Option<&Path> {
        Some(self.folder.path())
    }

    fn durability(&self) -> Durability {
        self.opened_with.durability
    }

    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, KvError> {
        let value = self.db.get_cf(self.family(table), key).map_err(|error| self.failed(error))?;
        Ok(value.map(Bytes::from))
    }

    fn write(&self, batch: &WriteBatch) -> Result<(), KvError> {
        // RocksDB adds a tag, a family number and two lengths to each entry.
        let capacity_bytes = batch.size_bytes() + batch.len() * 12 + 64;
        let mut writes = rocksdb::WriteBatch::with_capacity_bytes(capacity_bytes);
        let [data, meta, garbage] = [Table::Data, Table::Meta, Table::Garbage].map(|table| self.family(table));
        let family = |table| match table {
            Table::Data => data,
            Table::Meta => meta,
            Table::Garbage => garbage,
        };
        let mut deletes = 0;
        for entry in batch.iter() {
            match entry {
                BatchEntry::Put { table, key, value } => writes.put_cf(family(table), key, value),
                BatchEntry::Delete { table, key } => {
                    writes.delete_cf(family(table), key);
                    deletes += 1;
                }
                BatchEntry::DeleteRange { table, begin, end } => {
                    writes.delete_range_cf(family(table), begin, end);
                    deletes += DELETES_OF_RANGE;
                }
            }
        }
        let written = self.db.write_opt(writes, &self.write_options).map_err(|error| self.failed(error));
        if written.is_ok() {
            self.batches_written.fetch_add(1, Ordering::Relaxed);
            self.flush_after_many(deletes);
        }
        match (written, self.opened_with.durability) {
            // The content of the write-ahead log after a failed write is unknown.
            (Err(KvError::StorageFull(reason)), Durability::EveryWrite) => Err(KvError::Storage(reason)),
            (written, _) => written,
        }
    }

    fn batches_written(&self) -> u64 {
        self.batches_written.load(Ordering::Relaxed)
    }

    fn cursor(&self, table: Table, lower: &[u8], upper: &[u8]) -> Result<Box<dyn Cursor + '_>, KvError> {
        let mut read = ReadOptions::default();
        read.set_total_order_seek(true);
        read.set_iterate_lower_bound(lower);
        read.set_iterate_upper_bound(upper);
        let iterator = self.db.raw_iterator_cf_opt(self.family(table), read);
        // RocksDB fails on bounds in the wrong order; such a range is empty.
        let empty = lower >= upper;
        Ok(Box::new(RocksCursor { iterator, path: self.folder.path(), empty }))
    }

    fn key_cursor(&self) -> Result<Box<dyn Cursor + '_>, KvError> {
        let mut read = ReadOptions::default();
        read.set_prefix_same_as_start(true);
        let iterator = self.db.raw_iterator_cf_opt(self.family(Table::Data), read);
        Ok(Box::new(RocksCursor { iterator, path: self.folder.path(), empty: false }))
    }

    fn flush(&self) -> Result<(), KvError> {
        self.flush_all(true)
    }

    fn persisted_get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, KvError> {
        let mut read = ReadOptions::default();
        read.set_read_tier(ReadTier::Persisted);
        let value = self.db.get_cf_opt(self.family(table), key, &read).map_err(|error| self.failed(error))?;
        Ok(value.map(Bytes::from))
    }

    fn set_filter_watermark(&self, version: u64) {
        self.filter_watermark.raise(version);
    }

    fn compact_data(&self, begin: &[u8], end: &[u8]) -> Result<(), KvError> {
        if begin >= end {
            return Ok(());
        }
        let mut compact = CompactOptions::default();
        // Compactions of other ranges may run at the same time.
        compact.set_exclusive_manual_compaction(false);
        // Superseded values are on the last level, too. Files there that this compaction has just
        // written are not rewritten again.
        compact.set_bottommost_level_compaction(BottommostLevelCompaction::ForceOptimized);
        self.db.compact_range_cf_opt(self.family(Table::Data), Some(begin), Some(end), &compact);
        Ok(())
    }

    /// The last keys of files: the files of one level do not overlap, and most bytes are on the
    /// last level.
    fn data_splits(&self, slice_bytes: u64) -> Result<Vec<Vec<u8>>, KvError> {
        let mut files = self.db.live_files().map_err(|error| self.failed(error))?;
        files.retain(|file| file.column_family_name == family_name(Table::Data));
        let last_level = files.iter().map(|file| file.level).max();
        files.retain(|file| Some(file.level) == last_level);
        files.sort_by(|left, right| left.end_key.cmp(&right.end_key));
        let (mut splits, mut slice) = (Vec::new(), 0);
        for file in files {
            slice += file.size as u64;
            if let Some(end) = file.end_key.filter(|_| slice >= slice_bytes) {
                splits.push(end);
                slice = 0;
            }
        }
        Ok(splits)
    }

    fn copy(&self) -> Result<Box<dyn EngineCopy>, KvError> {
        Ok(Box::new(RocksCopy::take(self)?))
    }

    fn link_to(&self, path: &Path) -> Result<(), KvError> {
        Checkpoint::new(&self.db).and_then(|made| made.create_checkpoint(path)).map_err(|error| self.failed(error))?;
        Folder::new(path).sync()
    }

    fn remove_when_closed(&self) {
        self.folder.remove_when_dropped();
    }

    fn statistics(&self) -> EngineStatistics {
        let unflushed_bytes = self.property_sum(properties::CUR_SIZE_ALL_MEM_TABLES).unwrap_or(0);
        let file_bytes = self.property_sum(properties::LIVE_SST_FILES_SIZE).unwrap_or(0);
        EngineStatistics {
            size_bytes: file_bytes + unflushed_bytes,
            data_entries: self.property(Table::Data, properties::ESTIMATE_NUM_KEYS),
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
    /// An iterator that is not valid has reached its end, or met an error.
    fn check(&self) -> Result<(), KvError> {
        if self.iterator.valid() {
            return Ok(());
        }
        self.iterator.status().map_err(|error| storage_error(self.path, &error))
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

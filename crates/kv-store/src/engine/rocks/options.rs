//! The configuration of RocksDB.

use rocksdb::statistics::StatsLevel;
use rocksdb::{BlockBasedOptions, ColumnFamilyDescriptor, DBCompressionType, Options, SliceTransform};

use super::super::{Durability, SharedResources, Table};
use super::filter::{FilterWatermark, SupersededFactory};
use crate::key_codec;

/// Every file of the data table is rewritten at this interval if nothing else causes it.
const PERIODIC_COMPACTION_S: u64 = 7 * 24 * 3600;

/// A file is compacted when half of this many consecutive entries are deletes, or half of all its
/// entries.
const DELETION_WINDOW_ENTRIES: usize = 4096;

/// How a RocksDB database is opened.
#[derive(Clone)]
pub struct RocksOptions {
    /// Which writes survive a crash.
    pub durability: Durability,
    /// Resources shared with the other databases of the process.
    pub resources: SharedResources,
    /// A table's write buffer of this size is flushed to a file.
    pub write_buffer_bytes: usize,
}

impl RocksOptions {
    /// The default options.
    pub fn new(durability: Durability, resources: SharedResources) -> Self {
        // Three databases with two large tables each may share the budget: empty write buffers must
        // not use it up.
        let share = resources.options().write_buffers_bytes / 6;
        RocksOptions { durability, resources, write_buffer_bytes: share.clamp(1 << 20, 64 << 20) }
    }
}

/// The column family of a table.
pub(super) fn family_name(table: Table) -> &'static str {
    match table {
        Table::Data => "data",
        Table::Meta => "meta",
        Table::Garbage => "garbage",
    }
}

/// Whether a database has the families of the former layout, and so lacks only the garbage table.
pub(super) fn is_former_layout(families: &[String]) -> bool {
    let has = |table| families.iter().any(|name| name == family_name(table));
    has(Table::Data) && has(Table::Meta) && !has(Table::Garbage)
}

/// RocksDB always has the default family, which stays empty here. It is configured like the others
/// all the same: after a full disk RocksDB resumes only when the largest write buffer that it knows
/// of fits.
pub(super) fn families(options: &RocksOptions, filter_watermark: &FilterWatermark) -> Vec<ColumnFamilyDescriptor> {
    vec![
        ColumnFamilyDescriptor::new(rocksdb::DEFAULT_COLUMN_FAMILY_NAME, family_options(options)),
        ColumnFamilyDescriptor::new(family_name(Table::Data), data_options(options, filter_watermark)),
        ColumnFamilyDescriptor::new(family_name(Table::Meta), family_options(options)),
        ColumnFamilyDescriptor::new(family_name(Table::Garbage), garbage_options(options)),
    ]
}

/// The parts of a database that opening it creates if they are missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Create {
    Nothing,
    /// Tables of an existing database.
    Families,
    Everything,
}

pub(super) fn database_options(options: &RocksOptions, create: Create) -> Options {
    let resources = &options.resources;
    let mut db_options = Options::default();
    db_options.create_if_missing(create == Create::Everything);
    db_options.create_missing_column_families(create != Create::Nothing);
    // Damage must be found, and must stop writing.
    db_options.set_paranoid_checks(true);
    db_options.set_env(&resources.env);
    db_options.set_write_buffer_manager(&resources.write_buffers);
    db_options.set_max_background_jobs(i32::try_from(resources.options().background_threads).unwrap_or(i32::MAX));
    db_options.set_max_open_files(i32::try_from(resources.options().max_open_files).unwrap_or(i32::MAX));
    db_options.set_unordered_write(false);
    db_options.set_atomic_flush(options.durability == Durability::UntilFlush);
    // Write large files evenly, so that a sync of the log does not wait behind them.
    db_options.set_bytes_per_sync(1 << 20);
    db_options.set_max_total_wal_size(512 << 20);
    db_options.set_keep_log_file_num(4);
    db_options.set_max_log_file_size(8 << 20);
    // No periodic statistics: nobody reads them, and they cost threads and wake-ups.
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
    // Count indexes and filters as cache, so that the size of the cache bounds memory.
    blocks.set_cache_index_and_filter_blocks(true);
    blocks.set_pin_l0_filter_and_index_blocks_in_cache(true);
    blocks
}

fn family_options(options: &RocksOptions) -> Options {
    let mut family = Options::default();
    family.set_write_buffer_size(options.write_buffer_bytes);
    // Allocate write buffers in blocks of this size instead of an eighth of the buffer: even an
    // empty buffer takes one.
    family.set_arena_block_size((options.write_buffer_bytes / 32).clamp(64 << 10, 1 << 20));
    family.set_max_write_buffer_number(4);
    family.set_compression_type(DBCompressionType::Lz4);
    family.set_block_based_table_factory(&block_options(options));
    family
}

/// The data table's filters contain key prefixes (keys without their version): every lookup asks
/// for the newest version up to V, and none for an exact version.
fn data_options(options: &RocksOptions, filter_watermark: &FilterWatermark) -> Options {
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
    family.set_compaction_filter_factory(SupersededFactory::new(filter_watermark.clone()));
    // Where nothing is written any more, nothing triggers a compaction, and superseded values would
    // stay forever.
    family.set_periodic_compaction_seconds(PERIODIC_COMPACTION_S);
    compact_where_much_is_deleted(&mut family);
    family
}

/// A queue: an entry is deleted soon after it is written, from the front, and few exist at a time.
/// Files that consist of deletes, which a reader at the front would have to pass, are compacted at
/// once.
fn garbage_options(options: &RocksOptions) -> Options {
    let mut family = family_options(options);
    compact_where_much_is_deleted(&mut family);
    family
}

/// Readers pass deleted entries one by one until a compaction removes them.
fn compact_where_much_is_deleted(family: &mut Options) {
    family.add_compact_on_deletion_collector_factory(DELETION_WINDOW_ENTRIES, DELETION_WINDOW_ENTRIES / 2, 0.5);
}

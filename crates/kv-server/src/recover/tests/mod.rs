//! Recovery of real directories: a log on disk, a database of RocksDB, and what a server would find
//! there afterwards.

#[cfg(feature = "rocksdb")]
mod applying;
#[cfg(feature = "rocksdb")]
mod inspecting;
mod planning;
#[cfg(feature = "rocksdb")]
mod survivor;

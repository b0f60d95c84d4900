//! Garbage collection.

pub(crate) mod collector;
pub(crate) mod data_compaction;
pub(crate) mod entries;
pub(crate) mod range_clears;
pub(crate) mod step;
pub(crate) mod window;

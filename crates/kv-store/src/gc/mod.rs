//! Garbage collection: removes versions that nobody can read any more.
//!
//! - [`window`]: which versions are readable, by replicated time.
//! - [`entries`]: the garbage table, in which each commit records the deletes and range clears it
//!   made.
//! - [`range_clears`]: the clears in memory, which hide rows until they are collected.
//! - [`step`]: removes, in small steps, what deletes and range clears left behind.
//! - [`data_compaction`]: rewrites the data table where the engine's own compactions leave
//!   overwritten values behind ([`crate::engine::superseded`]).
//! - [`collector`]: the thread that runs the steps.
//!
//! No read and no verdict depends on how far garbage collection is.

pub(crate) mod collector;
pub(crate) mod data_compaction;
pub(crate) mod entries;
pub(crate) mod range_clears;
pub(crate) mod step;
pub(crate) mod window;

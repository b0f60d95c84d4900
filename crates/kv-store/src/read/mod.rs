//! Reads at a version, and the readers that keep old versions from being removed.

pub(crate) mod readers;
pub(crate) mod reads;
pub(crate) mod row_cache;
pub(crate) mod scan;
pub(crate) mod selectors;

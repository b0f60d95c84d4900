//! Reads at a version, and who reads.

pub(crate) mod readers;
pub(crate) mod reads;
pub(crate) mod scan;
pub(crate) mod selectors;

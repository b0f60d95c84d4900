//! Whole clusters in one thread, with faults.

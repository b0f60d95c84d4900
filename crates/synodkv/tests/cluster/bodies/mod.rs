//! The tests, by subject.

mod configuration;
mod conflicts;
mod failover;
mod operators;
mod partition;
mod replication;
mod restart;
mod snapshots;

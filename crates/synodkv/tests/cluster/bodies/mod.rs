//! The tests, by subject.

mod catching_up;
mod configuration;
mod conflicts;
mod failover;
mod losses;
mod operators;
mod partition;
mod replication;
mod restart;
mod snapshots;
mod tls;
mod transactions;

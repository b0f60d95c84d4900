//! The tests, by subject.

mod catching_up;
mod configuration;
mod conflicts;
mod failover;
mod families;
mod idempotency;
mod losses;
mod operations;
mod operators;
mod partition;
mod replication;
mod restart;
mod snapshots;
mod tls;
mod transactions;
mod window;

//! Tests of the real program under faults that break such stores in practice: few descriptors,
//! badly behaved clients, names that do not resolve, full disks, logs that nobody reads. Each file
//! covers one kind of fault.
//!
//! A test that needs root, or a facility that this machine lacks, says so on standard error and
//! passes; see [`harness::skip`].

mod harness;
#[path = "../cluster/ports.rs"]
mod ports;
#[path = "../cluster/signals.rs"]
mod signals;
mod thrift;
#[path = "../cluster/waiting.rs"]
mod waiting;

mod access;
mod addresses;
mod archive;
#[cfg(feature = "rocksdb")]
mod backup;
#[cfg(feature = "rocksdb")]
mod backup_kills;
#[cfg(feature = "rocksdb")]
mod backup_users;
mod changes;
mod configuration;
mod consumers;
#[cfg(feature = "rocksdb")]
mod convert;
mod data;
mod health;
mod limits;
mod load;
mod logging;
mod members;
mod network;
#[cfg(feature = "rocksdb")]
mod power;
#[cfg(feature = "rocksdb")]
mod recover;
mod supervisor;
mod tls;
mod tools;
mod witness;

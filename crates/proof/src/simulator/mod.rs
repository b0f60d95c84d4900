//! Whole clusters in one thread: the shipped consensus core, applier, write-ahead log, executor and
//! key-value database, over a simulated network, disk and clock, with clients and faults.
//!
//! One seed is one run: everything random comes from it, time is a number, and nothing depends on
//! threads. A run has three phases (see [`phases`]): faults of all kinds; a connected majority that
//! must make progress; all of them, who must agree. [`watch`] and [`oracle`] check at every step
//! what must always hold; in the end [`records`] judges what the clients saw.
//!
//! Left out: threads and the drivers around the core (the process tests have them), the Thrift
//! front end, RocksDB (the engine in memory stands for it and loses at a crash what was not
//! flushed), TCP (links lose, double and reorder messages, but never damage one: a checksum would
//! drop it).

mod access;
mod campaign;
mod chaos;
mod claims;
mod clients;
mod clock;
mod cluster;
mod counters;
mod database;
mod engine;
mod events;
mod expected_log;
mod faults;
mod feeds;
mod garbage;
mod journal;
mod lease_scenarios;
mod log_disk;
mod losses;
mod members;
mod network;
mod node;
mod operations;
mod oracle;
mod phases;
mod polls;
mod programs;
mod random;
mod records;
mod reference;
mod retries;
mod rows;
mod run;
mod scratch;
mod starting_situations;
mod steering;
mod threads;
mod upgrades;
mod watch;
mod workload;

pub use campaign::{Campaign, Plan, Until, campaign};
pub use cluster::Cluster;
pub use counters::Counters;
pub use faults::Faults;
pub use random::Random;
pub use run::{Failure, Mode, Settings, Success, run};
pub use workload::WorkloadProfile;

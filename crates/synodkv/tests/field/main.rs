//! What breaks stores of this kind in practice, tried on the real program: few descriptors, badly behaved clients, names that
//! do not resolve, disks that fill up, logs that nobody reads. Each file is one kind of fault.
//!
//! A test that needs root, or something that this machine does not have, says so on standard error and passes; see
//! [`harness::skip`].

mod harness;
#[path = "../cluster/ports.rs"]
mod ports;
#[path = "../cluster/signals.rs"]
mod signals;
#[path = "../cluster/waiting.rs"]
mod waiting;

mod configuration;
mod data;
mod health;
mod limits;
mod logging;
mod network;
#[cfg(feature = "rocksdb")]
mod power;
mod tools;

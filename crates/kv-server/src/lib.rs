//! The SynodKV server: from a socket to a database and back.
//!
//! ```text
//! thrift_server ──> handler ──> service_core ──> router ──> database, or consensus
//!                               ^                  ^
//! admin ────────────────────────┘    fault_injection (on request)
//! ```
//!
//! A mode is a [`ServerManager`] that puts a [`BackEnd`] (a router, a view of the cluster, the
//! local databases) under the one [`FrontEnd`]. Nothing above the router knows the mode.

mod accepting;
pub mod access;
pub mod admin;
pub mod budget;
mod byte_budget;
mod certificates;
mod changes;
mod changes_metrics;
mod clock_tick;
pub mod cluster;
pub mod config;
pub mod connection_order;
pub mod convert;
pub mod data_dir;
mod directory_id;
mod error;
pub mod failover;
mod fault_injection;
pub mod front_end;
pub mod handler;
pub mod health;
mod limited_by;
pub mod manager;
pub mod membership;
mod metrics;
mod mode;
pub mod order;
mod ports;
pub mod problems;
mod process_metrics;
pub mod recover;
pub mod replication;
mod request_watch;
pub mod restarting;
pub mod restore;
pub mod router;
pub mod service_core;
pub mod space;
mod stage_metrics;
pub mod standalone;
#[cfg(test)]
mod tests;
pub mod thrift_server;
pub mod tls;
pub mod upgrade;

pub use certificates::check_certificates;
pub use config::{Config, ConfigError, Environment, Overrides};
pub use error::ServerError;
pub use front_end::{BackEnd, FrontEnd, ListenAddresses};
pub use handler::UnifiedThriftHandler;
pub use manager::ServerManager;
pub use mode::Mode;
pub use replication::{ReplicatedKvDatabase, ReplicatedServerManager};
pub use router::{DirectRouter, LocalReader, RequestContext, RequestRouter};
pub use service_core::KvServiceCore;
pub use standalone::StandaloneServerManager;

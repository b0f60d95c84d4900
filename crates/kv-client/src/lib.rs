//! A client of SynodKV: asynchronous, typed, safe to share between tasks.
//!
//! ```no_run
//! # async fn example() -> Result<(), kv_client::ClientError> {
//! use kv_client::{Client, KeyRef, Options};
//!
//! let client = Client::connect(["127.0.0.1:9090"], Options::default()).await?;
//! client.set(KeyRef::new("hello"), "world").await?;
//! assert_eq!(client.get(KeyRef::new("hello")).await?.as_deref(), Some(&b"world"[..]));
//! # Ok(())
//! # }
//! ```
//!
//! **Layers.** [`Client`] picks an endpoint and decides whether a failed request may be sent again. Each `endpoint` is one
//! task that connects when there is something to send, with back-off. A `session` is the life of one connection: many
//! requests under way at once, answered in their order, nothing shared and nothing locked. `codec` and `convert` know the
//! wire format and the structs; nothing else does.
//!
//! **What is sent again.** A request that surely was not sent goes to the next endpoint. A read goes there also when its
//! connection broke. A write whose connection broke under way may have happened: it ends with
//! [`ClientError::ConnectionLost`], whose [`ClientError::maybe_committed`] is true, and is never repeated here. An error
//! that the server itself answered is handed to the caller as it is.
//!
//! Left out on purpose: transactions with a retry loop. They are built on [`Client::read_version`],
//! [`Client::snapshot_get`] and [`Client::commit`].

mod backoff;
mod client;
mod cluster;
mod codec;
mod convert;
mod database;
mod endpoint;
mod error;
mod idempotency;
mod keys;
mod options;
mod range;
mod run;
mod session;
mod stamped;
mod transaction;
mod versions;

pub use bytes::Bytes;
pub use client::{Client, Committed, Pong, RangeRead};
pub use database::Database;
pub use error::{ClientError, ErrorCode};
pub use keys::{IntoBytes, prefix_end};
pub use kv_api::thrift::generated::{ClusterHealth, NodeStatus};
pub use kv_api::{AtomicCommit, KeyRange, KeyRef, Mutation, MutationKind, Row, Rows, Version};
pub use options::{Options, ReadFrom, TransactionOptions};
pub use range::{KeySelector, Range};
pub use stamped::{Stamped, VERSIONSTAMP_BYTES};
pub use transaction::{RangeStream, Snapshot, Transaction};

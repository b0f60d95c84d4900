//! A client of SynodKV: asynchronous, typed, safe to share between tasks. `docs/CLIENT.md` is an introduction.
//!
//! ```no_run
//! # async fn example() -> Result<(), kv_client::ClientError> {
//! use kv_client::{ClientError, Database, Options};
//!
//! let db = Database::connect(["127.0.0.1:9090"], Options::default()).await?;
//! let greeting = db
//!     .run(|tx| async move {
//!         let greeting = tx.get("hello").await?;
//!         tx.set("hello", "world");
//!         Ok::<_, ClientError>(greeting)
//!     })
//!     .await?;
//! # drop(greeting);
//! # Ok(())
//! # }
//! ```
//!
//! **[`Database`]** is what programs use. It finds the replicas of a cluster through any of them, and
//! [`run`](Database::run)s transactions until they commit. A [`Transaction`] reads at one version, from any replica, and sees
//! its own writes on top; it notes exactly what it took from the database, so that its commit fails when any of that has
//! changed. Commits happen once: each has an idempotency id, under which it is sent again whenever its outcome is unknown.
//! A failover is a pause.
//!
//! **[`Client`]** sends single requests to the addresses it was given and no others: for tools, tests, and looking at one
//! particular replica.
//!
//! **Errors.** [`ClientError`] always tells two things: [`is_retryable`](ClientError::is_retryable), whether another attempt
//! may succeed, and [`maybe_committed`](ClientError::maybe_committed), whether the write may have happened. Only where the
//! latter is true the outcome is unknown.
//!
//! **Layers.** Transactions keep reads and writes (`transaction`), the database repeats them (`run`). `cluster` picks a
//! replica for each request and decides what a failure means. A [`Client`] does so among a fixed list. Each `endpoint` has
//! tasks that connect when there is something to send, with back-off. A `session` is the life of one connection: many
//! requests under way at once, answered in their order, nothing shared and nothing locked. `codec` and `convert` know the wire
//! format and the structs; nothing else does.
//!
//! **Bounds.** Requests under way are bounded in number for each connection ([`Options::max_in_flight`]) and in memory for a
//! database ([`Options::max_in_flight_bytes`]); a transaction by [`Options::max_transaction_bytes`]. A range of any length is
//! read in pages ([`Options::range_page_bytes`]). What is too much waits.
//!
//! **What a [`Client`] sends again.** A request that surely was not sent goes to the next endpoint. A read goes there also
//! when its connection broke, or when there was no answer for [`Options::hedge_after`]. A write whose connection broke under way may have happened: it ends with
//! [`ClientError::ConnectionLost`] and is never repeated. An error that the server itself answered is handed to the caller as
//! it is.
//!
//! Left out on purpose: a cache of what was read. Reading the same key twice in a transaction asks twice, and the answer is
//! the same.

mod backoff;
mod client;
mod cluster;
mod codec;
mod convert;
mod database;
mod endpoint;
mod error;
mod hedge;
mod hold;
mod idempotency;
mod keys;
mod limits;
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
pub use hedge::first_answer;
pub use hold::Hold;
pub use keys::{IntoBytes, prefix_end};
pub use kv_api::thrift::generated::{ClusterHealth, NodeStatus};
pub use kv_api::{AtomicCommit, KeyRange, KeyRef, Limits, Mutation, MutationKind, Row, Rows, Version};
pub use options::{Options, ReadFrom, TransactionOptions};
pub use range::{KeySelector, Range};
pub use stamped::{Stamped, VERSIONSTAMP_BYTES};
pub use transaction::{RangeStream, Snapshot, Transaction};

//! A client of SynodKV: asynchronous, typed, and safe to share between tasks. `docs/CLIENT.md` is
//! an introduction.
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
//! **[`Database`]** is the handle that most programs use. It finds all replicas of a cluster
//! through any of them, and [`run`](Database::run)s transactions until they commit. A
//! [`Transaction`] reads at one version, from any replica, and sees its own writes on top. It
//! records exactly what it read from the database, and its commit fails if any of that has changed.
//! Each commit happens once: it carries an idempotency id, under which it is sent again whenever
//! its outcome is unknown. To the program, a failover is just a pause.
//!
//! **[`Client`]** sends single requests to the addresses it was given and to no others. It is meant
//! for tools, for tests, and for inspecting one particular replica.
//!
//! **Errors.** Every [`ClientError`] answers two questions: whether another attempt may succeed
//! ([`is_retryable`](ClientError::is_retryable)), and whether the write may have happened
//! ([`maybe_committed`](ClientError::maybe_committed)). The outcome is unknown only if the latter
//! is true.
//!
//! **Layers.** `transaction` records the reads and writes of a transaction, and `run` repeats it.
//! `cluster` picks a replica for each request and decides what a failure means; a [`Client`] picks
//! one of a fixed list (`endpoint_list`). Each `endpoint` has tasks that connect when there is
//! something to send, with back-off. A `session` is one connection from its first request to its
//! end: many requests in flight at once, answered in their order, without shared state or locks.
//! Only `connector` knows what a connection is made of, and only `codec` knows the wire format.
//! `convert` translates between the structs of the wire and those of this crate.
//!
//! **Bounds.** [`Options::max_in_flight`] bounds the requests in flight on each connection,
//! [`Options::max_in_flight_bytes`] their memory for each database, and
//! [`Options::max_transaction_bytes`] the size of a transaction. A range of any length is read in
//! pages ([`Options::range_page_bytes`]). Requests beyond a bound wait; a transaction beyond its
//! bound fails.
//!
//! **Which requests a [`Client`] sends again.** A request that was not sent goes to the next
//! endpoint. A read also goes there if its connection broke, or if there was no answer for
//! [`Options::hedge_after`]. A write whose connection broke while it was in flight may have
//! happened: it ends with [`ClientError::ConnectionLost`] and is never repeated. An error that the
//! server itself answered is returned to the caller unchanged.
//!
//! There is deliberately no cache. Reading the same key twice in a transaction asks the server
//! twice, and gives the same answer.

#![warn(missing_docs)]

mod backoff;
mod changes;
mod client;
mod cluster;
mod codec;
mod connector;
mod convert;
mod database;
mod endpoint;
mod endpoint_list;
mod error;
mod handle;
mod hedge;
mod hold;
mod idempotency;
mod keys;
mod limits;
mod options;
mod pending;
mod range;
mod reply;
mod request;
mod results;
mod run;
mod session;
mod stamped;
mod tls;
mod transaction;
mod versions;

pub use bytes::Bytes;
pub use changes::{ChangeConsumer, ChangeFeed, ChangedKeys, ChangesBatch, ChangesRequest, Start, prefix_range};
pub use client::Client;
pub use database::Database;
pub use error::{ClientError, ErrorCode};
pub use hedge::first_answer;
pub use hold::Hold;
pub use keys::{IntoBytes, prefix_end};
pub use kv_api::thrift::generated::{ClusterHealth, NodeStatus};
pub use kv_api::{
    AtomicCommit, Change, ChangeRange, ClearCause, Effect, FamilyEffect, KeyRange, KeyRef, Limits, Mutation,
    MutationKind, Row, Rows, Version,
};
pub use options::{Options, ReadFrom, Token, TransactionOptions};
pub use range::{KeySelector, Range};
pub use request::RangeRead;
pub use results::{Committed, Pong};
pub use stamped::{Stamped, VERSIONSTAMP_BYTES};
pub use tls::{Tls, TlsFailure};
pub use transaction::{RangeStream, Snapshot, Transaction};

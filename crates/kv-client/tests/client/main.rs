//! Tests of the client against scripted servers that answer or misbehave as each test says: single
//! requests against one server, and transactions against a few replicas of one small database.

mod clock;
mod commits;
mod doubt;
mod exchanges;
mod pages;
mod peer;
mod reads;
mod replicas;
mod requests;
mod rounds;
mod runs;
mod store;
mod storm;

use std::time::Duration;

use kv_client::{ClientError, Database, Options, TransactionOptions};
use peer::Peer;

/// Options with short pauses, so that tests of failures are quick. Tests wait for the longer timeouts
/// only if those are what they test.
fn options() -> Options {
    Options {
        backoff_min: Duration::from_millis(1),
        backoff_max: Duration::from_millis(20),
        transaction: TransactionOptions { timeout: Duration::from_secs(20), ..TransactionOptions::default() },
        ..Options::default()
    }
}

/// Options for tests of a single replica: no other one is asked.
fn alone() -> Options {
    Options { discovery: false, ..options() }
}

async fn connect(peer: &Peer, options: Options) -> Database {
    Database::connect([peer.address()], options).await.expect("the replica is there")
}

/// Sets a key in a transaction of its own.
async fn set(db: &Database, key: &str, value: &str) -> Result<(), ClientError> {
    db.run(async |tx| {
        tx.set(key, value);
        Ok(())
    })
    .await
}

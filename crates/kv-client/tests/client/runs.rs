//! `Database::run`, and the ways in which transactions end.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use kv_api::thrift::generated::SnapshotGetResponse;
use kv_api::thrift::{ThriftCall, ThriftReply};
use kv_client::{ClientError, Database, ErrorCode, KeySelector, Options, Stamped, TransactionOptions, Version};

use crate::peer::Action;
use crate::store::Store;
use crate::{alone, connect};

#[derive(Debug, PartialEq)]
enum BodyError {
    NoMoney,
    Database(ClientError),
}

impl From<ClientError> for BodyError {
    fn from(error: ClientError) -> Self {
        BodyError::Database(error)
    }
}

fn too_old() -> Action {
    Action::Reply(ThriftReply::SnapshotGet(SnapshotGetResponse {
        value: Vec::new(),
        found: false,
        error: Some("too old".to_string()),
        error_code: Some("TRANSACTION_TOO_OLD".to_string()),
        leader_endpoint: None,
    }))
}

/// This allows transactions to run in tasks of their own.
#[tokio::test]
async fn all_handles_and_futures_can_be_sent_between_threads() {
    fn sent<T: Send>(_: T) {}
    let store = Store::default();
    let db = connect(&store.faultless().await, alone()).await;
    let tx = db.transaction();
    sent(db.run(|tx| async move { tx.get("k").await }));
    sent(tx.get("k"));
    sent(tx.snapshot().get("k"));
    sent(tx.get_key(&KeySelector::last_less_than("k")));
    sent(tx.get_range("a".."b"));
    sent(tx.get_range("a".."b").all());
    sent(tx.read_version());
    sent(tx.commit());
    sent(tx.on_error(ClientError::TransactionEnded("never")));
    sent(Database::connect(["127.0.0.1:1"], alone()));
}

#[tokio::test]
async fn an_error_of_the_body_ends_the_transaction_and_is_returned_unchanged() {
    let store = Store::default();
    let db = connect(&store.faultless().await, alone()).await;
    let bodies = AtomicUsize::new(0);
    let result: Result<(), BodyError> = db
        .run(async |tx| {
            bodies.fetch_add(1, Ordering::SeqCst);
            tx.get("k").await?;
            tx.set("k", "v");
            Err(BodyError::NoMoney)
        })
        .await;
    assert_eq!(result, Err(BodyError::NoMoney));
    assert_eq!(bodies.load(Ordering::SeqCst), 1);
    assert_eq!(store.contents().commits.len(), 0);
}

#[tokio::test]
async fn an_error_of_the_body_after_a_retryable_read_failure_runs_the_body_again() {
    let store = Store::default();
    store.set("k", "v");
    // After one such answer the client asks the primary; after two the version is too old.
    let mut left = 2;
    let peer = store
        .replica(move |call, _| {
            let is_spoiled = matches!(call, ThriftCall::SnapshotGet(_)) && left > 0;
            left -= usize::from(is_spoiled);
            is_spoiled.then(too_old)
        })
        .await;
    let db = connect(&peer, alone()).await;
    // The body converts the client's error to a type of its own.
    let value: Result<_, String> = db
        .run(async |tx| Ok(tx.get("k").await.map_err(|error| format!("hidden: {error}")).map_err(Hidden)?))
        .await
        .map_err(|Hidden(text)| text);
    assert_eq!(value.map(|value| value.is_some()), Ok(true));
    assert_eq!(store.calls_of("getReadVersion"), 2);
}

struct Hidden(String);

impl From<ClientError> for Hidden {
    fn from(error: ClientError) -> Self {
        Hidden(error.to_string())
    }
}

#[tokio::test]
async fn a_body_runs_no_more_often_than_the_options_allow() {
    let store = Store::default();
    let peer = store.replica(|call, _| matches!(call, ThriftCall::SnapshotGet(_)).then(too_old)).await;
    let db = connect(&peer, alone()).await;
    let options = TransactionOptions { max_retries: Some(2), ..TransactionOptions::default() };
    let bodies = AtomicUsize::new(0);
    let error = db
        .run_with(options, async |tx| {
            bodies.fetch_add(1, Ordering::SeqCst);
            tx.get("k").await
        })
        .await
        .expect_err("it never succeeds");
    assert_eq!(error.code(), Some(&ErrorCode::TransactionTooOld));
    assert_eq!(bodies.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn a_body_is_not_repeated_after_the_timeout() {
    let store = Store::default();
    let peer = store.replica(|call, _| matches!(call, ThriftCall::SnapshotGet(_)).then(too_old)).await;
    let db = connect(&peer, alone()).await;
    let options = TransactionOptions { timeout: Duration::from_millis(50), ..TransactionOptions::default() };
    let error = db.run_with(options, async |tx| tx.get("k").await).await.expect_err("it never succeeds");
    assert!(error.is_retryable() && !error.maybe_committed(), "{error:?}");
}

#[tokio::test]
async fn concurrent_transfers_lose_no_money() {
    let store = Store::default();
    store.set("a", "100");
    store.set("b", "100");
    let db = connect(&store.faultless().await, alone()).await;
    let transfer = |db: Database, from: &'static str, to: &'static str| async move {
        db.run(|tx| async move {
            let number = |value: Option<kv_client::Bytes>| {
                String::from_utf8_lossy(&value.expect("both exist")).parse::<i64>().expect("a number")
            };
            let (left, right) = (number(tx.get(from).await?), number(tx.get(to).await?));
            tx.set(from, (left - 1).to_string());
            tx.set(to, (right + 1).to_string());
            Ok::<_, ClientError>(())
        })
        .await
    };
    let tasks: Vec<_> = (0..20)
        .map(|i| if i % 2 == 0 { ("a", "b") } else { ("b", "a") })
        .map(|(from, to)| tokio::spawn(transfer(db.clone(), from, to)))
        .collect();
    for task in tasks {
        task.await.expect("no panic").expect("it is committed");
    }
    let number = |key| store.value(key).expect("both exist").parse::<i64>().expect("a number");
    assert_eq!((number("a"), number("b")), (100, 100));
}

#[tokio::test]
async fn a_transaction_without_writes_sends_no_commit() {
    let store = Store::default();
    store.set("k", "v");
    let db = connect(&store.faultless().await, alone()).await;
    let tx = db.transaction();
    tx.get("k").await.expect("a value");
    assert_eq!(tx.commit().await.map(|committed| committed.version), Ok(Version(2)));
    assert_eq!(store.contents().commits.len(), 0);
}

#[tokio::test]
async fn a_transaction_without_reads_needs_no_read_version_of_its_own() {
    let store = Store::default();
    let db = connect(&store.faultless().await, alone()).await;
    for value in ["1", "2", "3"] {
        let tx = db.transaction();
        tx.set("k", value);
        tx.commit().await.expect("it is committed");
    }
    assert_eq!(store.calls_of("getReadVersion"), 1, "only the first one knew no version yet");
    let contents = store.contents();
    let versions: Vec<i64> = contents.commits.iter().map(|commit| commit.read_version).collect();
    assert_eq!(versions, [1, 2, 3], "each commit reports a version");
}

/// The server drops its record of a commit after a while. A copy that arrives even later must not
/// be executed again.
#[tokio::test]
async fn every_commit_depends_on_a_version_so_that_a_very_late_copy_is_too_old() {
    let store = Store::default();
    let db = connect(&store.faultless().await, alone()).await;
    for is_reader in [false, true] {
        let tx = db.transaction();
        if is_reader {
            tx.get("k").await.expect("an answer");
        }
        tx.set("k", "v");
        tx.commit().await.expect("it is committed");
        let contents = store.contents();
        let commit = contents.commits.last().expect("there was a commit");
        let has_conflicts = commit.read_conflicts.is_some() || commit.read_conflict_ranges.is_some();
        assert!(has_conflicts, "otherwise the server would not check its read version");
        assert!(commit.read_version > 0);
    }
}

#[tokio::test]
async fn a_transaction_that_has_ended_has_no_further_effect() {
    let store = Store::default();
    let db = connect(&store.faultless().await, alone()).await;
    let tx = db.transaction();
    tx.set("k", "v");
    let committed = tx.commit().await.expect("it is committed");
    tx.set("k", "too late");
    assert_eq!(tx.commit().await.as_ref(), Ok(&committed), "it returns the same result again");
    assert_eq!(tx.committed(), Some(committed));
    assert!(matches!(tx.get("k").await, Err(ClientError::TransactionEnded(_))));
    assert_eq!(store.value("k").as_deref(), Some("v"));
}

#[tokio::test]
async fn on_error_returns_a_new_transaction_after_a_conflict() {
    let store = Store::default();
    let db = connect(&store.faultless().await, alone()).await;
    let mut tx = db.transaction();
    let mut conflicts = 0;
    loop {
        tx.get("k").await.expect("no failure");
        if conflicts == 0 {
            store.set("k", "theirs");
        }
        tx.set("k", "mine");
        match tx.commit().await {
            Ok(_) => break,
            Err(error) => {
                assert_eq!(error.code(), Some(&ErrorCode::Conflict));
                conflicts += 1;
                tx = tx.on_error(error).await.expect("a conflict can be retried");
            }
        }
    }
    assert_eq!((conflicts, store.value("k").as_deref()), (1, Some("mine")));
}

#[tokio::test]
async fn an_invalid_write_makes_every_later_call_fail() {
    let store = Store::default();
    let db = connect(&store.faultless().await, Options { max_transaction_bytes: Some(10), ..alone() }).await;
    let tx = db.transaction();
    tx.set("", "v");
    assert!(matches!(tx.get("k").await, Err(ClientError::InvalidArgument(_))));
    assert!(matches!(tx.commit().await, Err(ClientError::InvalidArgument(_))));
    let tx = db.transaction();
    tx.set("key", "longer than ten bytes");
    tx.delete("key");
    let error = tx.commit().await.expect_err("it is too large");
    assert_eq!(error, ClientError::TransactionTooLarge { size_bytes: 24, limit_bytes: 10 });
    assert_eq!(store.contents().commits.len(), 0);
}

#[tokio::test]
async fn a_commit_returns_the_keys_that_it_generated() {
    let store = Store::default();
    let db = connect(&store.faultless().await, alone()).await;
    let tx = db.transaction();
    tx.set_versionstamped_key(Stamped::after("jobs/"), "first");
    tx.set_versionstamped_key(Stamped::after("jobs/"), "second");
    assert!(matches!(tx.get_range("jobs/".."jobs0").all().await, Err(ClientError::Unreadable { .. })));
    let committed = tx.commit().await.expect("it is committed");
    assert_eq!(committed.generated_keys.len(), 2);
    let rows = db.transaction().get_range("jobs/".."jobs0").all().await.expect("rows");
    assert_eq!(rows.iter().map(|row| &row.value[..]).collect::<Vec<_>>(), [&b"first"[..], b"second"]);
    assert_eq!(rows.iter().map(|row| row.key.clone()).collect::<Vec<_>>(), committed.generated_keys);
    assert_eq!(committed.versionstamp.map(|stamp| stamp.to_vec()), Some(rows[0].key[5..].to_vec()));
}

//! The loop around transactions, and how they end.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use kv_api::thrift::generated::SnapshotGetResponse;
use kv_api::thrift::{ThriftCall, ThriftReply};
use kv_client::{ClientError, Database, ErrorCode, KeySelector, Options, Stamped, TransactionOptions, Version};

use crate::peer::Action;
use crate::store::Store;
use crate::{alone, connect};

#[derive(Debug, PartialEq)]
enum Own {
    NoMoney,
    Database(ClientError),
}

impl From<ClientError> for Own {
    fn from(error: ClientError) -> Self {
        Own::Database(error)
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

/// So that transactions can run in tasks of their own.
#[tokio::test]
async fn everything_can_be_sent_between_threads() {
    fn sent<T: Send>(_: T) {}
    let store = Store::default();
    let db = connect(&store.honest().await, alone()).await;
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
async fn an_own_error_ends_the_transaction_and_comes_out_as_it_is() {
    let store = Store::default();
    let db = connect(&store.honest().await, alone()).await;
    let bodies = AtomicUsize::new(0);
    let result: Result<(), Own> = db
        .run(async |tx| {
            bodies.fetch_add(1, Ordering::SeqCst);
            tx.get("k").await?;
            tx.set("k", "v");
            Err(Own::NoMoney)
        })
        .await;
    assert_eq!(result, Err(Own::NoMoney));
    assert_eq!(bodies.load(Ordering::SeqCst), 1);
    assert_eq!(store.contents().commits.len(), 0);
}

#[tokio::test]
async fn an_error_after_a_read_that_has_to_be_repeated_runs_the_body_again() {
    let store = Store::default();
    store.set("k", "v");
    // One such answer could be due to a replica that is behind.
    let mut left = 2;
    let peer = store
        .replica(move |call, _| {
            let is_spoiled = matches!(call, ThriftCall::SnapshotGet(_)) && left > 0;
            left -= usize::from(is_spoiled);
            is_spoiled.then(too_old)
        })
        .await;
    let db = connect(&peer, alone()).await;
    // Whatever type it was put into.
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
async fn a_body_runs_no_more_often_than_allowed() {
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
        .expect_err("it never works");
    assert_eq!(error.code(), Some(&ErrorCode::TransactionTooOld));
    assert_eq!(bodies.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn a_body_runs_no_longer_than_allowed() {
    let store = Store::default();
    let peer = store.replica(|call, _| matches!(call, ThriftCall::SnapshotGet(_)).then(too_old)).await;
    let db = connect(&peer, alone()).await;
    let options = TransactionOptions { timeout: Duration::from_millis(50), ..TransactionOptions::default() };
    let error = db.run_with(options, async |tx| tx.get("k").await).await.expect_err("it never works");
    assert!(error.is_retryable() && !error.maybe_committed(), "{error:?}");
}

#[tokio::test]
async fn concurrent_transfers_lose_no_money() {
    let store = Store::default();
    store.set("a", "100");
    store.set("b", "100");
    let db = connect(&store.honest().await, alone()).await;
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
async fn a_transaction_that_writes_nothing_commits_nothing() {
    let store = Store::default();
    store.set("k", "v");
    let db = connect(&store.honest().await, alone()).await;
    let tx = db.transaction();
    tx.get("k").await.expect("a value");
    assert_eq!(tx.commit().await.map(|committed| committed.version), Ok(Version(2)));
    assert_eq!(store.contents().commits.len(), 0);
}

#[tokio::test]
async fn a_transaction_that_reads_nothing_needs_no_read_version_of_its_own() {
    let store = Store::default();
    let db = connect(&store.honest().await, alone()).await;
    for value in ["1", "2", "3"] {
        let tx = db.transaction();
        tx.set("k", value);
        tx.commit().await.expect("it is committed");
    }
    assert_eq!(store.calls_of("getReadVersion"), 1, "for the first one, when no version was known yet");
    let contents = store.contents();
    let versions: Vec<i64> = contents.commits.iter().map(|commit| commit.read_version).collect();
    assert_eq!(versions, [1, 2, 3], "each commit tells a version");
}

/// The record of a commit goes after a while. A copy that arrives even later must not happen again.
#[tokio::test]
async fn a_copy_that_comes_very_late_finds_its_version_too_old() {
    let store = Store::default();
    let db = connect(&store.honest().await, alone()).await;
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
        assert!(has_conflicts, "or else its read version would not be looked at");
        assert!(commit.read_version > 0);
    }
}

#[tokio::test]
async fn a_transaction_that_has_ended_does_nothing_more() {
    let store = Store::default();
    let db = connect(&store.honest().await, alone()).await;
    let tx = db.transaction();
    tx.set("k", "v");
    let committed = tx.commit().await.expect("it is committed");
    tx.set("k", "too late");
    assert_eq!(tx.commit().await.as_ref(), Ok(&committed), "it says the same again");
    assert_eq!(tx.committed(), Some(committed));
    assert!(matches!(tx.get("k").await, Err(ClientError::TransactionEnded(_))));
    assert_eq!(store.value("k").as_deref(), Some("v"));
}

#[tokio::test]
async fn a_loop_by_hand_gets_a_new_transaction_after_a_conflict() {
    let store = Store::default();
    let db = connect(&store.honest().await, alone()).await;
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
                tx = tx.on_error(error).await.expect("a conflict is tried again");
            }
        }
    }
    assert_eq!((conflicts, store.value("k").as_deref()), (1, Some("mine")));
}

#[tokio::test]
async fn misuse_is_told_by_every_later_call() {
    let store = Store::default();
    let db = connect(&store.honest().await, Options { max_transaction_bytes: Some(10), ..alone() }).await;
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
async fn a_commit_tells_the_keys_that_it_made() {
    let store = Store::default();
    let db = connect(&store.honest().await, alone()).await;
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

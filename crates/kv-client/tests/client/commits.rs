//! Commits happen once, whatever happens to their answers.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use kv_api::thrift::{ThriftCall, ThriftReply};
use kv_client::{ClientError, ErrorCode, Options, TransactionOptions};

use crate::peer::Action;
use crate::store::{Store, refused};
use crate::{alone, connect, set};

fn is_commit(call: &ThriftCall) -> bool {
    matches!(call, ThriftCall::AtomicCommit(_))
}

/// Applies `spoil` to the first `count` commits.
fn first_commits(
    count: usize,
    mut spoil: impl FnMut(&ThriftCall, &Store) -> Action + Send + 'static,
) -> impl FnMut(&ThriftCall, &Store) -> Option<Action> + Send {
    let mut left = count;
    move |call, store| {
        if left == 0 || !is_commit(call) {
            return None;
        }
        left -= 1;
        Some(spoil(call, store))
    }
}

/// Executes the commit, and closes the connection instead of answering.
fn lose_answer(call: &ThriftCall, store: &Store) -> Action {
    store.serve(call.clone());
    Action::Close
}

fn unknown_result(_: &ThriftCall, _: &Store) -> Action {
    Action::Reply(ThriftReply::AtomicCommit(refused("COMMIT_UNKNOWN_RESULT")))
}

#[tokio::test]
async fn a_commit_whose_answer_was_lost_is_sent_again_and_happens_once() {
    let store = Store::default();
    let peer = store.replica(first_commits(2, lose_answer)).await;
    let db = connect(&peer, alone()).await;
    let bodies = AtomicUsize::new(0);
    let committed = db
        .run_with(TransactionOptions::default(), async |tx| {
            bodies.fetch_add(1, Ordering::SeqCst);
            tx.set("k", "v");
            Ok::<_, ClientError>(())
        })
        .await
        .expect("it is committed")
        .1;
    assert_eq!(committed.version.0, 2, "the version of the first copy");
    assert_eq!(bodies.load(Ordering::SeqCst), 1);
    let contents = store.contents();
    assert_eq!(contents.commits.len(), 3);
    assert!(contents.commits.iter().all(|commit| *commit == contents.commits[0]));
}

#[tokio::test]
async fn sending_the_commit_again_resolves_an_unknown_result() {
    for is_executed in [false, true] {
        let store = Store::default();
        let spoil = move |call: &ThriftCall, store: &Store| {
            if is_executed {
                store.serve(call.clone());
            }
            unknown_result(call, store)
        };
        let peer = store.replica(first_commits(1, spoil)).await;
        let db = connect(&peer, alone()).await;
        set(&db, "k", "v").await.expect("it is committed");
        assert_eq!(store.value("k").as_deref(), Some("v"));
        assert_eq!(store.contents().commits.len(), 1 + usize::from(is_executed));
    }
}

#[tokio::test]
async fn a_result_is_finished_only_if_no_copy_can_be_in_flight() {
    let store = Store::default();
    let peer = store.replica(first_commits(1, lose_answer)).await;
    let db = connect(&peer, alone()).await;
    for value in ["lost", "clean", "last"] {
        set(&db, "k", value).await.expect("it is committed");
    }
    let contents = store.contents();
    let [lost, again, clean, last] = &contents.commits[..] else { panic!("{:?}", contents.commits) };
    assert_eq!(lost.idempotency_id, again.idempotency_id);
    assert_eq!(clean.finished_idempotency_ids, None);
    assert_eq!(
        last.finished_idempotency_ids.as_deref(),
        Some(&[clean.idempotency_id.clone().expect("it has one")][..])
    );
}

#[tokio::test]
async fn finished_ids_that_a_failed_commit_should_have_reported_are_reported_by_the_next_one() {
    let store = Store::default();
    let refuse = |_: &ThriftCall, _: &Store| Action::Reply(ThriftReply::AtomicCommit(refused("INVALID_OPERATION")));
    let mut count = 0;
    let peer = store
        .replica(move |call, store| {
            count += usize::from(is_commit(call));
            (is_commit(call) && count == 2).then(|| refuse(call, store))
        })
        .await;
    let db = connect(&peer, alone()).await;
    set(&db, "k", "first").await.expect("it is committed");
    set(&db, "k", "second").await.expect_err("it is refused");
    set(&db, "k", "third").await.expect("it is committed");
    let contents = store.contents();
    let first = contents.commits[0].idempotency_id.clone().expect("it has one");
    assert_eq!(contents.commits[1].finished_idempotency_ids, Some(vec![first]));
}

#[tokio::test]
async fn a_result_that_stays_unknown_is_an_error_and_the_body_does_not_run_again() {
    let store = Store::default();
    let peer = store.replica(first_commits(usize::MAX, unknown_result)).await;
    let db = connect(&peer, alone()).await;
    let options = TransactionOptions { timeout: Duration::from_millis(100), ..TransactionOptions::default() };
    let bodies = AtomicUsize::new(0);
    let error = db
        .run_with(options, async |tx| {
            bodies.fetch_add(1, Ordering::SeqCst);
            tx.set("k", "v");
            Ok::<_, ClientError>(())
        })
        .await
        .expect_err("no server knows the result");
    assert!(matches!(error, ClientError::CommitUnknown { attempts: 2.., .. }), "{error:?}");
    assert!(error.maybe_committed());
    assert_eq!(bodies.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn without_an_idempotency_id_a_commit_with_an_unknown_result_is_not_sent_again() {
    let store = Store::default();
    let peer = store.replica(first_commits(1, lose_answer)).await;
    let transaction = TransactionOptions { idempotent: false, ..TransactionOptions::default() };
    let db = connect(&peer, Options { transaction, ..alone() }).await;
    let error = set(&db, "k", "v").await.expect_err("its answer is lost");
    assert!(matches!(error, ClientError::ConnectionLost { .. }) && error.maybe_committed(), "{error:?}");
    let contents = store.contents();
    assert_eq!(contents.commits.len(), 1);
    assert_eq!(contents.commits[0].idempotency_id, None);
}

#[tokio::test]
async fn a_conflict_after_a_lost_copy_runs_the_body_again() {
    let store = Store::default();
    // The first copy never arrives, and then another client is faster.
    let lose_request = |_: &ThriftCall, store: &Store| {
        store.set("k", "theirs");
        Action::Close
    };
    let peer = store.replica(first_commits(1, lose_request)).await;
    let db = connect(&peer, alone()).await;
    let bodies = Arc::new(AtomicUsize::new(0));
    let seen = db
        .run(|tx| {
            let bodies = bodies.clone();
            async move {
                bodies.fetch_add(1, Ordering::SeqCst);
                let seen = tx.get("k").await?;
                tx.set("k", "mine");
                Ok::<_, ClientError>(seen)
            }
        })
        .await
        .expect("it is committed");
    assert_eq!(seen.as_deref(), Some(&b"theirs"[..]));
    assert_eq!(bodies.load(Ordering::SeqCst), 2);
    assert_eq!(store.value("k").as_deref(), Some("mine"));
}

#[tokio::test]
async fn a_commit_that_an_overloaded_or_full_server_refuses_is_sent_again_later() {
    let store = Store::default();
    let mut codes = vec!["OVERLOADED", "STORAGE_FULL", "NO_PRIMARY", "TIMEOUT"];
    let spoil = move |_: &ThriftCall, _: &Store| {
        Action::Reply(ThriftReply::AtomicCommit(refused(codes.pop().expect("there is a code for each spoiled commit"))))
    };
    let peer = store.replica(first_commits(4, spoil)).await;
    let db = connect(&peer, alone()).await;
    set(&db, "k", "v").await.expect("it is committed");
    set(&db, "k", "w").await.expect("it is committed");
    let contents = store.contents();
    assert!(contents.commits[1].finished_idempotency_ids.is_some(), "none of those answers left a copy in flight");
}

#[tokio::test]
async fn an_invalid_commit_fails_at_once() {
    let store = Store::default();
    let spoil = |_: &ThriftCall, _: &Store| Action::Reply(ThriftReply::AtomicCommit(refused("UNKNOWN_COLUMN_FAMILY")));
    let peer = store.replica(first_commits(1, spoil)).await;
    let db = connect(&peer, alone()).await;
    let error = set(&db, "k", "v").await.expect_err("it is refused");
    assert_eq!(error.code(), Some(&ErrorCode::UnknownColumnFamily));
    assert!(!error.maybe_committed() && !error.is_retryable());
}

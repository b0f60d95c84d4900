//! Finding the replicas of a cluster, and working without some of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use kv_api::thrift::generated::{AtomicCommitResponse, SnapshotGetResponse};
use kv_api::thrift::{ThriftCall, ThriftReply};
use kv_client::{Database, ErrorCode, Options, ReadFrom, TransactionOptions};

use crate::peer::{Action, Peer, unreachable_address};
use crate::store::{Store, refused};
use crate::{connect, options, set};

async fn three(store: &Store) -> [Peer; 3] {
    [store.faultless().await, store.faultless().await, store.faultless().await]
}

/// Waits until the client has found and used all replicas.
async fn settled(db: &Database, store: &Store) {
    let expected = store.contents().addresses.len();
    while db.addresses().len() < expected || db.primary().is_none() {
        tokio::task::yield_now().await;
    }
    // A replica that was found may not have been reached yet: wait until each has served a read.
    while (0..expected).any(|number| !store.replicas_of("snapshotGet").contains(&number)) {
        db.transaction().get("k").await.expect("an answer");
    }
    store.contents().calls.clear();
}

fn behind(call: &ThriftCall) -> Option<Action> {
    let ThriftCall::SnapshotGet(_) = call else { return None };
    Some(Action::Reply(ThriftReply::SnapshotGet(SnapshotGetResponse {
        value: Vec::new(),
        found: false,
        error: Some("that version is newer than this replica".to_string()),
        error_code: Some("FUTURE_VERSION".to_string()),
        leader_endpoint: None,
    })))
}

#[tokio::test]
async fn one_address_is_enough_to_find_all_replicas_and_the_primary() {
    let store = Store::default();
    let peers = three(&store).await;
    store.contents().primary = 1;
    let db = connect(&peers[2], options()).await;
    settled(&db, &store).await;
    assert_eq!(db.primary(), Some(peers[1].address()));
    for _ in 0..60 {
        db.transaction().get("k").await.expect("an answer");
        set(&db, "k", "v").await.expect("it is committed");
    }
    assert!(store.replicas_of("getReadVersion").iter().all(|number| *number == 1));
    assert!(store.replicas_of("atomicCommit").iter().all(|number| *number == 1));
    for number in 0..3 {
        let reads = store.replicas_of("snapshotGet").iter().filter(|one| **one == number).count();
        assert!(reads >= 5, "replica {number} served {reads} of 60 reads");
    }
}

#[tokio::test]
async fn reads_can_be_restricted_to_the_primary() {
    let store = Store::default();
    let peers = three(&store).await;
    let db = connect(&peers[2], Options { read_from: ReadFrom::Primary, ..options() }).await;
    while db.primary().is_none() || db.addresses().len() < 3 {
        tokio::task::yield_now().await;
    }
    db.transaction().get("k").await.expect("an answer");
    while store.replicas_of("snapshotGet").last() != Some(&0) {
        db.transaction().get("k").await.expect("an answer");
    }
    store.contents().calls.clear();
    for _ in 0..20 {
        db.transaction().get("k").await.expect("an answer");
    }
    assert!(store.replicas_of("snapshotGet").iter().all(|number| *number == 0));
}

#[tokio::test]
async fn without_discovery_only_the_given_addresses_are_used() {
    let store = Store::default();
    let peers = three(&store).await;
    let db = connect(&peers[2], Options { discovery: false, ..options() }).await;
    for _ in 0..20 {
        db.transaction().get("k").await.expect("an answer");
        set(&db, "k", "v").await.expect("it is committed");
    }
    assert!(store.contents().calls.iter().all(|(number, _)| *number == 2));
}

#[tokio::test]
async fn a_read_that_meets_a_replica_behind_its_version_goes_to_the_primary() {
    let store = Store::default();
    let primary = store.faultless().await;
    let _behind = store.replica(|call, _| behind(call)).await;
    let db = connect(&primary, options()).await;
    while !store.replicas_of("snapshotGet").contains(&1) {
        assert_eq!(db.transaction().get("k").await, Ok(None));
    }
}

#[tokio::test]
async fn a_version_that_even_the_primary_does_not_know_is_an_error() {
    let store = Store::default();
    let peer = store.replica(|call, _| behind(call)).await;
    let db = connect(&peer, options()).await;
    while db.primary().is_none() {
        tokio::task::yield_now().await;
    }
    let error = db.transaction().get("k").await.expect_err("no replica knows it");
    assert_eq!(error.code(), Some(&ErrorCode::FutureVersion));
}

#[tokio::test]
async fn a_failover_causes_no_error() {
    let store = Store::default();
    let [first, second, _third] = three(&store).await;
    let db = connect(&second, options()).await;
    settled(&db, &store).await;
    set(&db, "k", "before").await.expect("it is committed");
    first.stop().await;
    {
        let mut contents = store.contents();
        (contents.primary, contents.view) = (2, 2);
    }
    for _ in 0..20 {
        set(&db, "k", "after").await.expect("it is committed");
        db.transaction().get("k").await.expect("an answer");
    }
    // The client finds the new primary by itself.
    while *store.replicas_of("atomicCommit").last().expect("there were commits") != 2 {
        set(&db, "k", "after").await.expect("it is committed");
    }
}

#[tokio::test]
async fn a_silent_replica_costs_one_attempt() {
    let store = Store::default();
    let is_silent = Arc::new(AtomicBool::new(false));
    let silent = is_silent.clone();
    let fault = move |_: &ThriftCall, _: &Store| silent.load(Ordering::SeqCst).then_some(Action::Silence);
    let primary = store.replica(fault).await;
    let _other = store.faultless().await;
    let patient = Options { attempt_timeout: Duration::from_millis(100), ..options() };
    let db = connect(&primary, patient).await;
    settled(&db, &store).await;
    is_silent.store(true, Ordering::SeqCst);
    set(&db, "k", "v").await.expect("it is committed");
    assert_eq!(store.replicas_of("atomicCommit"), [0, 1]);
    db.transaction().get("k").await.expect("an answer");
}

/// Connects to a secondary that refuses commits and names a primary which the client does not know.
/// `refuse` makes the refusal of the primary's address. The commit must reach that primary.
async fn check_that_the_named_primary_is_asked(refuse: impl Fn(&str) -> AtomicCommitResponse + Send + 'static) {
    let store = Store::default();
    let elsewhere = Store::default();
    let primary = elsewhere.faultless().await;
    let address = primary.address();
    let fault = move |call: &ThriftCall, _: &Store| {
        let ThriftCall::AtomicCommit(_) = call else { return None };
        Some(Action::Reply(ThriftReply::AtomicCommit(refuse(&address))))
    };
    let secondary = store.replica(fault).await;
    let db = connect(&secondary, options()).await;
    set(&db, "k", "v").await.expect("it is committed");
    assert_eq!(elsewhere.value("k").as_deref(), Some("v"));
}

#[tokio::test]
async fn the_primary_that_a_replica_names_in_a_field_is_asked() {
    check_that_the_named_primary_is_asked(|address| AtomicCommitResponse {
        leader_endpoint: Some(address.to_string()),
        ..refused("NO_PRIMARY")
    })
    .await;
}

/// Servers that are older than the field name the primary only in the text of the error.
#[tokio::test]
async fn the_primary_that_a_replica_names_in_its_error_text_is_asked() {
    check_that_the_named_primary_is_asked(|address| AtomicCommitResponse {
        error: Some(format!("Not leader, try leader at: {address} (node 1)")),
        ..refused("NO_PRIMARY")
    })
    .await;
}

#[tokio::test]
async fn reported_addresses_that_cannot_be_reached_do_not_delay_requests() {
    let store = Store::default();
    let peer = store.faultless().await;
    {
        let mut contents = store.contents();
        contents.addresses = vec![unreachable_address(), unreachable_address()];
        contents.primary = 1;
    }
    let db = connect(&peer, options()).await;
    while db.primary().is_none() {
        tokio::task::yield_now().await;
    }
    for _ in 0..20 {
        set(&db, "k", "v").await.expect("it is committed");
        db.transaction().get("k").await.expect("an answer");
    }
}

#[tokio::test]
async fn without_any_replica_a_read_ends_at_its_deadline_and_names_the_addresses() {
    let store = Store::default();
    let peer = store.faultless().await;
    let address = peer.address();
    let transaction = TransactionOptions { timeout: Duration::from_millis(100), ..TransactionOptions::default() };
    let db = connect(&peer, Options { transaction, discovery: false, ..options() }).await;
    peer.stop().await;
    let error = db.transaction().get("k").await.expect_err("no replica is there");
    assert!(error.is_retryable() && !error.maybe_committed());
    assert!(error.to_string().contains(&address), "{error}");
}

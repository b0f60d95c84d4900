//! Single requests: a [`Client`] against a scripted server.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::peer::{Action, Peer, unreachable_address};
use kv_api::thrift::generated::*;
use kv_api::thrift::{ApplicationErrorKind, ThriftCall, ThriftException, ThriftReply};
use kv_client::{AtomicCommit, Client, ClientError, ErrorCode, KeyRef, Mutation, Options, RangeRead, Version};

/// Options with short pauses, so that tests of failures are quick. Tests wait for the longer timeouts
/// only if those are what they test.
fn options() -> Options {
    Options { request_timeout: Duration::from_secs(20), backoff_max: Duration::from_millis(20), ..Options::default() }
}

fn key(text: &'static str) -> KeyRef {
    KeyRef::new(text)
}

fn found(value: &[u8]) -> ThriftReply {
    GetResponse { value: value.to_vec(), found: true, error: None, error_code: None, leader_endpoint: None }.into()
}

fn set_done() -> ThriftReply {
    SetResponse { success: true, error: None, error_code: None, leader_endpoint: None }.into()
}

fn no_reply(call: ThriftCall) -> Action {
    panic!("a request that this test does not expect: {call:?}")
}

#[tokio::test]
async fn a_value_that_was_set_is_read_back() {
    let peer = Peer::with_memory().await;
    let client = Client::connect([peer.address()], options()).await.expect("the peer is there");
    assert_eq!(client.get(key("hello")).await, Ok(None));
    client.set(key("hello"), "world").await.expect("set");
    assert_eq!(client.get(key("hello")).await, Ok(Some("world".into())));
    client.delete(key("hello")).await.expect("delete");
    assert_eq!(client.get(key("hello")).await, Ok(None));
}

#[tokio::test]
async fn a_ping_returns_the_address_that_answered() {
    let peer = Peer::start(no_reply).await;
    let client =
        Client::connect([unreachable_address(), peer.address()], options()).await.expect("the second is there");
    assert_eq!(client.ping().await.expect("pong").endpoint, peer.address());
}

#[tokio::test]
async fn requests_share_one_connection_and_do_not_wait_for_each_other() {
    const REQUESTS: usize = 100;
    // The server answers only after it has received all requests.
    let peer = Peer::start_batched(REQUESTS, |call| match call {
        ThriftCall::Get(request) => Action::Reply(found(&request.key)),
        other => no_reply(other),
    })
    .await;
    let client = Client::connect([peer.address()], options()).await.expect("the peer is there");
    let tasks: Vec<_> = (0..REQUESTS)
        .map(|i| {
            let client = client.clone();
            tokio::spawn(async move { (i, client.get(KeyRef::new(format!("key {i}"))).await) })
        })
        .collect();
    for task in tasks {
        let (i, value) = task.await.expect("no panic");
        assert_eq!(value, Ok(Some(format!("key {i}").into())));
    }
    assert_eq!(peer.connections(), 1);
}

#[tokio::test]
async fn if_no_address_can_be_reached_the_error_names_every_one() {
    let addresses = [unreachable_address(), unreachable_address()];
    let error = Client::connect(addresses.clone(), options()).await.expect_err("no process listens");
    assert!(error.is_retryable() && !error.maybe_committed());
    for address in addresses {
        assert!(error.to_string().contains(&format!("{address}: connection refused")), "{error}");
    }
}

#[tokio::test]
async fn connecting_to_no_address_is_an_error() {
    let error = Client::connect(Vec::<String>::new(), options()).await.expect_err("no address");
    assert!(matches!(error, ClientError::InvalidArgument(_)), "{error:?}");
}

#[tokio::test]
async fn a_read_whose_connection_breaks_is_answered_by_the_next_endpoint() {
    let breaks = Peer::start(|_| Action::Close).await;
    let answers = Peer::start(|_| Action::Reply(found(b"from the second"))).await;
    let client = Client::connect([breaks.address(), answers.address()], options()).await.expect("both are there");
    assert_eq!(client.get(key("k")).await, Ok(Some("from the second".into())));
}

#[tokio::test]
async fn a_write_whose_connection_breaks_in_flight_may_have_happened_and_is_not_repeated() {
    let writes = Arc::new(AtomicUsize::new(0));
    let count = |writes: &Arc<AtomicUsize>| {
        let writes = writes.clone();
        move |_| {
            writes.fetch_add(1, Ordering::SeqCst);
            Action::Close
        }
    };
    let (first, second) = (Peer::start(count(&writes)).await, Peer::start(count(&writes)).await);
    let client = Client::connect([first.address(), second.address()], options()).await.expect("both are there");
    let error = client.set(key("k"), "v").await.expect_err("the connection broke");
    assert!(matches!(error, ClientError::ConnectionLost { .. }), "{error:?}");
    assert!(error.maybe_committed() && error.is_retryable());
    assert_eq!(writes.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_write_that_was_not_sent_goes_to_the_next_endpoint() {
    let gone = Peer::start(no_reply).await;
    let there = Peer::start(|_| Action::Reply(set_done())).await;
    let client = Client::connect([gone.address(), there.address()], options()).await.expect("both are there");
    gone.stop().await;
    // The first attempt may still find the old connection half open. Its result is then unknown.
    let result = client.set(key("k"), "v").await;
    assert!(result.is_ok() || result.as_ref().is_err_and(ClientError::maybe_committed), "{result:?}");
    assert_eq!(client.set(key("k"), "v").await, Ok(()));
}

#[tokio::test]
async fn a_closed_connection_is_reopened() {
    let asked = AtomicUsize::new(0);
    let peer = Peer::start(move |_| match asked.fetch_add(1, Ordering::SeqCst) {
        0 => Action::Close,
        _ => Action::Reply(found(b"v")),
    })
    .await;
    let client = Client::connect([peer.address()], options()).await.expect("the peer is there");
    assert_eq!(client.get(key("k")).await, Ok(Some("v".into())));
    assert_eq!(peer.connections(), 2);
}

#[tokio::test]
async fn without_an_answer_a_request_ends_at_its_deadline() {
    let peer = Peer::start(|_| Action::Silence).await;
    let impatient = Options { request_timeout: Duration::from_millis(50), ..options() };
    let client = Client::connect([peer.address()], impatient).await.expect("the peer is there");
    let read = client.get(key("k")).await.expect_err("no answer comes");
    let write = client.set(key("k"), "v").await.expect_err("no answer comes");
    assert!(matches!(read, ClientError::DeadlineExceeded { timeout_ms: 50, .. }), "{read:?}");
    assert!(read.is_retryable() && !read.maybe_committed());
    assert!(write.maybe_committed());
}

#[tokio::test]
async fn a_connection_that_stopped_answering_is_abandoned() {
    let asked = AtomicUsize::new(0);
    let peer = Peer::start(move |_| match asked.fetch_add(1, Ordering::SeqCst) {
        0 => Action::Silence,
        _ => Action::Reply(found(b"v")),
    })
    .await;
    let short = Duration::from_millis(50);
    let options = Options { request_timeout: short, stall_timeout: short, ..options() };
    let client = Client::connect([peer.address()], options).await.expect("the peer is there");
    client.get(key("k")).await.expect_err("no answer comes");
    // The second request is sent on the same connection, or on a new one once the first was
    // abandoned. Either way an answer comes eventually, because silence does not block later
    // requests forever.
    while client.get(key("k")).await != Ok(Some("v".into())) {}
}

#[tokio::test]
async fn a_conflict_has_its_own_code_and_names_its_keys() {
    let peer = Peer::start(|call| match call {
        ThriftCall::AtomicCommit(request) => {
            assert_eq!(request.read_conflict_keys, [b"read".to_vec()]);
            Action::Reply(
                AtomicCommitResponse {
                    success: false,
                    error: Some("conflict".to_string()),
                    error_code: Some("CONFLICT".to_string()),
                    committed_version: None,
                    versionstamp: None,
                    generated_keys: None,
                    generated_values: None,
                    conflicting_keys: Some(vec![kv_api::thrift::generated::KeyRef {
                        key: b"read".to_vec(),
                        column_family: None,
                    }]),
                    retryable: None,
                    maybe_committed: None,
                    leader_endpoint: None,
                }
                .into(),
            )
        }
        other => no_reply(other),
    })
    .await;
    let client = Client::connect([peer.address()], options()).await.expect("the peer is there");
    let commit = AtomicCommit {
        read_version: 7,
        read_conflict_keys: vec!["read".into()],
        ..AtomicCommit::of(vec![Mutation::set("k", "v")])
    };
    match client.commit(commit).await {
        Err(error @ ClientError::Refused { .. }) => {
            assert_eq!(error.code(), Some(&ErrorCode::Conflict));
            assert!(error.is_retryable() && !error.maybe_committed());
            let ClientError::Refused { conflicting_keys, .. } = error else { unreachable!("matched above") };
            assert_eq!(conflicting_keys, [key("read")]);
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_commit_returns_its_version() {
    let peer = Peer::start(|call| match call {
        ThriftCall::AtomicCommit(request) => {
            assert_eq!(request.operations.len(), 2);
            Action::Reply(
                AtomicCommitResponse {
                    success: true,
                    error: None,
                    error_code: None,
                    committed_version: Some(42),
                    versionstamp: Some(vec![0; 10]),
                    generated_keys: None,
                    generated_values: None,
                    conflicting_keys: None,
                    retryable: None,
                    maybe_committed: None,
                    leader_endpoint: None,
                }
                .into(),
            )
        }
        other => no_reply(other),
    })
    .await;
    let client = Client::connect([peer.address()], options()).await.expect("the peer is there");
    let commit = AtomicCommit::of(vec![Mutation::set("a", "1"), Mutation::delete("b")]);
    let committed = client.commit(commit).await.expect("committed");
    assert_eq!(committed.version, Version(42));
    assert_eq!(committed.versionstamp.as_deref(), Some(&[0; 10][..]));
}

#[tokio::test]
async fn a_range_is_returned_in_order_and_says_whether_there_are_more_rows() {
    let peer = Peer::start(|call| match call {
        ThriftCall::SnapshotGetRange(request) => {
            assert_eq!((request.read_version, request.limit, request.reverse), (9, Some(2), None));
            let row = |name: &str| KeyValue { key: name.as_bytes().to_vec(), value: b"v".to_vec() };
            Action::Reply(
                SnapshotGetRangeResponse {
                    key_values: vec![row("a"), row("b")],
                    success: true,
                    error: None,
                    has_more: true,
                    error_code: None,
                    leader_endpoint: None,
                }
                .into(),
            )
        }
        other => no_reply(other),
    })
    .await;
    let client = Client::connect([peer.address()], options()).await.expect("the peer is there");
    let range = RangeRead { begin: "a".into(), end: "z".into(), limit: Some(2), ..RangeRead::default() };
    let rows = client.snapshot_get_range(range, Version(9)).await.expect("rows");
    assert_eq!(rows.rows.iter().map(|row| &row.key[..]).collect::<Vec<_>>(), [b"a", b"b"]);
    assert!(rows.has_more);
}

#[tokio::test]
async fn a_write_that_ends_with_an_internal_exception_may_have_happened() {
    let peer = Peer::start(|_| {
        Action::Reply(ThriftReply::Exception(ThriftException::new(ApplicationErrorKind::InternalError, "it broke")))
    })
    .await;
    let client = Client::connect([peer.address()], options()).await.expect("the peer is there");
    let error = client.set(key("k"), "v").await.expect_err("an exception");
    assert!(error.to_string().contains("it broke"), "{error}");
    assert!(error.maybe_committed() && !error.is_retryable());
}

#[tokio::test]
async fn a_server_that_speaks_another_protocol_is_named() {
    let peer = Peer::start(|_| Action::Bytes(b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec())).await;
    let client = Client::connect([peer.address()], options()).await.expect("the peer is there");
    let error = client.get(key("k")).await.expect_err("not a reply");
    assert!(matches!(&error, ClientError::Malformed { endpoint, .. } if *endpoint == peer.address()), "{error:?}");
}

#[tokio::test]
async fn a_version_is_pinned_for_the_requested_time() {
    let peer = Peer::start(|call| match call {
        ThriftCall::PinSnapshot(request) => {
            assert_eq!((request.read_version, request.ttl_ms), (7, Some(1500)));
            Action::Reply(PinSnapshotResponse::new(true, None, None, None, None).into())
        }
        ThriftCall::UnpinSnapshot(request) => {
            assert_eq!(request.read_version, 7);
            let refusal = ("no pins here".to_string(), "NOT_SUPPORTED".to_string());
            Action::Reply(UnpinSnapshotResponse::new(false, refusal.0, refusal.1).into())
        }
        other => no_reply(other),
    })
    .await;
    let client = Client::connect([peer.address()], options()).await.expect("the peer is there");
    assert_eq!(client.pin_snapshot(Version(7), Duration::from_millis(1500)).await, Ok(()));
    let error = client.unpin_snapshot(Version(7)).await.expect_err("it is refused");
    assert_eq!(error.code(), Some(&ErrorCode::NotSupported));
}

#[tokio::test]
async fn a_read_goes_to_the_next_endpoint_while_the_first_one_hangs() {
    let hangs = Peer::start(|_| Action::Silence).await;
    let answers = Peer::start(|_| Action::Reply(found(b"from the second"))).await;
    let options = Options { hedge_after: Duration::from_millis(20), ..options() };
    let client = Client::connect([hangs.address(), answers.address()], options).await.expect("both are there");
    assert_eq!(client.get(key("k")).await, Ok(Some("from the second".into())));
    // The next request does not wait for that server at all.
    assert_eq!(client.get(key("k")).await, Ok(Some("from the second".into())));
}

#[tokio::test]
async fn a_version_is_too_old_only_if_every_endpoint_says_so() {
    let too_old = |_| {
        let error = (Some("too old".to_string()), Some("TRANSACTION_TOO_OLD".to_string()));
        let (value, found) = (Vec::new(), false);
        Action::Reply(
            SnapshotGetResponse { value, found, error: error.0, error_code: error.1, leader_endpoint: None }.into(),
        )
    };
    let pinned = |_| {
        let value = b"pinned".to_vec();
        Action::Reply(
            SnapshotGetResponse { value, found: true, error: None, error_code: None, leader_endpoint: None }.into(),
        )
    };
    let (first, second, third) = (Peer::start(too_old).await, Peer::start(pinned).await, Peer::start(too_old).await);
    let client = Client::connect([first.address(), second.address()], options()).await.expect("both are there");
    assert_eq!(client.snapshot_get(key("k"), Version(7)).await, Ok(Some("pinned".into())));
    let client = Client::connect([first.address(), third.address()], options()).await.expect("both are there");
    let error = client.snapshot_get(key("k"), Version(7)).await.expect_err("no server can read it");
    assert_eq!(error.code(), Some(&ErrorCode::TransactionTooOld));
}

#[tokio::test]
async fn the_limits_of_the_server_bound_the_ends_of_ranges() {
    let peer = Peer::start(|call| match call {
        ThriftCall::GetClusterHealth(_) => {
            let limits = ServerLimits::new(20, 200, 2000, 7, 3000);
            Action::Reply(GetClusterHealthResponse::new(true, None, None, None, limits).into())
        }
        ThriftCall::GetRange(request) => {
            assert_eq!(request.end_key, Some(vec![0xFF; 21]), "one byte longer than the longest key");
            Action::Reply(GetRangeResponse::new(Vec::new(), true, None, false, None, None).into())
        }
        ThriftCall::AtomicCommit(request) => {
            assert_eq!(request.operations[0].value, Some(vec![0xFF; 21]));
            assert_eq!(request.read_conflict_ranges.expect("a range")[0].end_key, [0xFF; 21]);
            Action::Reply(
                AtomicCommitResponse::new(true, None, None, 8, None, None, None, None, None, None, None).into(),
            )
        }
        other => no_reply(other),
    })
    .await;
    let client = Client::connect([peer.address()], options()).await.expect("the peer is there");
    let limits = client.limits().await.expect("limits");
    assert_eq!((limits.max_key_bytes, limits.max_value_bytes, limits.max_transaction_bytes), (20, 200, 2000));
    let all = RangeRead { end: kv_client::prefix_end(""), ..RangeRead::default() };
    assert_eq!(client.get_range(all).await.expect("rows").rows, []);
    let end = kv_client::prefix_end("");
    let everything = kv_client::KeyRange { begin: "a".into(), end: end.clone(), column_family: String::new() };
    let kind = kv_client::MutationKind::ClearRange as i32;
    let clear = AtomicCommit::of(vec![Mutation { kind, value: end, ..Mutation::delete("a") }]);
    let clear = AtomicCommit { read_version: 7, read_conflict_ranges: vec![everything], ..clear };
    client.commit(clear).await.expect("committed");
}

#[tokio::test]
async fn a_hold_renews_its_pin_by_a_timer_until_it_is_released() {
    let pins = Arc::new(AtomicUsize::new(0));
    let most = Arc::new(AtomicUsize::new(0));
    let (counted, total) = (pins.clone(), most.clone());
    let peer = Peer::start(move |call| match call {
        ThriftCall::PinSnapshot(request) => {
            assert_eq!((request.read_version, request.ttl_ms), (7, Some(60)));
            counted.fetch_add(1, Ordering::SeqCst);
            total.fetch_add(1, Ordering::SeqCst);
            Action::Reply(PinSnapshotResponse::new(true, None, None, None, None).into())
        }
        ThriftCall::UnpinSnapshot(_) => {
            counted.fetch_sub(1, Ordering::SeqCst);
            Action::Reply(UnpinSnapshotResponse::new(true, None, None).into())
        }
        other => no_reply(other),
    })
    .await;
    let client = Client::connect([peer.address()], options()).await.expect("the peer is there");
    let hold = client.hold_snapshot(Version(7), Duration::from_millis(60)).await.expect("a pin");
    // Nothing reads in the meantime.
    while most.load(Ordering::SeqCst) < 5 {
        tokio::task::yield_now().await;
    }
    hold.release().await;
    assert!(pins.load(Ordering::SeqCst) <= 1, "a renewal in flight may leave one pin behind");
}

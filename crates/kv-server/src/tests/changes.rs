//! Polls for changes, watches of keys and streams of changes through real sockets.

use std::time::{Duration, Instant};

use kv_api::thrift::ThriftReply;
use serde_json::Value;

use super::access::Guarded;
use super::commits::{commit, operation};
use super::*;

pub(super) fn poll(after_version: i64, max_wait_ms: i32) -> wire::PollChangesRequest {
    wire::PollChangesRequest {
        after_version,
        ranges: None,
        max_wait_ms: Some(max_wait_ms),
        max_bytes: None,
        max_versions: None,
        with_values: None,
        cluster_id: None,
        auth_token: None,
    }
}

pub(super) fn watch(key: &[u8], at_version: i64, max_wait_ms: i32) -> wire::WatchKeysRequest {
    wire::WatchKeysRequest {
        keys: vec![wire::KeyRef { key: key.to_vec(), column_family: None }],
        at_version,
        max_wait_ms: Some(max_wait_ms),
        cluster_id: None,
        auth_token: None,
    }
}

fn within(begin: &[u8], end: &[u8], poll: wire::PollChangesRequest) -> wire::PollChangesRequest {
    let range = wire::ChangeRange { column_family: None, begin_key: Some(begin.to_vec()), end_key: Some(end.to_vec()) };
    wire::PollChangesRequest { ranges: Some(vec![range]), ..poll }
}

/// The versions with their keys.
fn keys(response: &wire::PollChangesResponse) -> Vec<(i64, Vec<Vec<u8>>)> {
    assert!(response.success && response.error.is_none(), "{response:?}");
    let of_version = |change: &wire::ChangedVersion| {
        (change.version, change.operations.iter().map(|operation| operation.key.clone()).collect())
    };
    response.changes.iter().map(of_version).collect()
}

/// Polls that wait now.
fn waiting(server: &TestServer) -> u64 {
    server.manager.front_end().core().replicas().replicas()[0].reader.hub().statistics().waiting
}

async fn until_waiting(server: &TestServer, polls: u64) {
    let began = Instant::now();
    while waiting(server) != polls {
        assert!(began.elapsed() < PATIENCE, "{polls} polls do not wait");
        tokio::task::yield_now().await;
    }
}

/// How long a poll waits that is expected to end for another reason.
const LONG_MS: i32 = 30_000;

#[tokio::test]
async fn each_version_comes_once_with_what_it_did() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    assert!(client.call(set(b"a", b"1")).await.success);
    let clear = operation("clear_range", b"b", Some(b"d"));
    let add = operation("add", b"n", Some(&[5, 0]));
    let mut other = operation("set", b"k", Some(b"v"));
    other.column_family = Some("users".to_string());
    assert!(client.call(commit(1, vec![clear, add, other])).await.success);
    assert!(client.call(delete(b"a")).await.success);
    let reply = client.call(poll(1, 0)).await;
    let expected =
        [(2, vec![b"a".to_vec()]), (3, vec![b"b".to_vec(), b"n".to_vec(), b"k".to_vec()]), (4, vec![b"a".to_vec()])];
    assert_eq!(keys(&reply), expected);
    assert_eq!(
        (reply.through_version, reply.has_more, reply.oldest_version, reply.cluster_id),
        (4, false, Some(1), None)
    );
    let operations = &reply.changes[1].operations;
    assert_eq!((operations[0].type_.as_str(), operations[0].end_key.as_deref()), ("clear_range", Some(&b"d"[..])));
    assert_eq!((operations[1].type_.as_str(), operations[1].value.as_deref()), ("set", Some(&[5, 0][..])));
    assert_eq!(operations[2].column_family.as_deref(), Some("users"));
    assert_eq!(reply.changes[2].operations[0].type_, "delete");
    // A part of a clear, and nothing of another family.
    let part = client.call(within(b"c", b"c1", poll(1, 0))).await;
    assert_eq!(keys(&part), [(3, vec![b"c".to_vec()])]);
    assert_eq!(part.changes[0].operations[0].end_key.as_deref(), Some(&b"c1"[..]));
    let without = client.call(wire::PollChangesRequest { with_values: Some(false), ..poll(1, 0) }).await;
    assert_eq!(without.changes[0].operations[0].value.as_deref(), Some(&b""[..]));
}

#[tokio::test]
async fn a_poll_waits_for_a_change_that_concerns_it_and_no_longer() {
    let server = TestServer::start().await;
    let (mut waiter, mut writer) = (server.client().await, server.client().await);
    let waits = tokio::spawn(async move { waiter.call(within(b"m", b"n", poll(1, LONG_MS))).await });
    until_waiting(&server, 1).await;
    assert!(writer.call(set(b"a", b"1")).await.success);
    assert!(writer.call(set(b"n", b"1")).await.success);
    assert_eq!(waiting(&server), 1, "neither concerns it");
    assert!(writer.call(set(b"m1", b"1")).await.success);
    let reply = tokio::time::timeout(PATIENCE, waits).await.expect("it is woken").expect("no panic");
    assert_eq!(keys(&reply), [(4, vec![b"m1".to_vec()])]);
    // With the time up, it says how far everything is known.
    let reply = writer.call(within(b"x", b"y", poll(4, 50))).await;
    assert_eq!((keys(&reply), reply.through_version), (vec![], 4));
    // A version that does not exist yet is waited for.
    let reply = writer.call(poll(9, 10)).await;
    assert_eq!((keys(&reply), reply.through_version, reply.has_more), (vec![], 9, false));
    until_waiting(&server, 0).await;
}

#[tokio::test]
async fn a_poll_ends_when_another_request_is_behind_it() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    let began = Instant::now();
    let replies = client.call_all(vec![poll(1, LONG_MS).into(), set(b"a", b"1").into(), poll(1, 0).into()]).await;
    assert!(began.elapsed() < Duration::from_secs(10), "the write had to wait");
    let [ThriftReply::PollChanges(first), ThriftReply::SetKey(set), ThriftReply::PollChanges(last)] = &replies[..]
    else {
        panic!("{replies:?}")
    };
    assert!(set.success && first.success);
    assert_eq!(keys(last), [(2, vec![b"a".to_vec()])]);
}

#[tokio::test]
async fn a_poll_whose_client_is_gone_leaves_nothing_behind() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    let waits = tokio::spawn(async move { client.call(poll(1, LONG_MS)).await });
    until_waiting(&server, 1).await;
    waits.abort();
    until_waiting(&server, 0).await;
}

#[tokio::test]
async fn a_stopping_server_lets_nobody_wait() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    let waits = tokio::spawn(async move { client.call(poll(1, LONG_MS)).await });
    until_waiting(&server, 1).await;
    let TestServer { manager, _folder } = server;
    let began = Instant::now();
    Box::new(manager).shutdown().await;
    assert!(began.elapsed() < Duration::from_secs(10));
    let reply = waits.await.expect("no panic");
    assert_eq!((keys(&reply), reply.through_version), (vec![], 1));
}

#[tokio::test]
async fn the_metrics_show_the_journal_and_the_polls() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    assert!(client.call(set(b"a", b"1")).await.success);
    assert!(client.call(poll(1, 0)).await.success);
    let page = reqwest::get(server.url("/metrics")).await.expect("HTTP").text().await.expect("text");
    let value = |name: &str| {
        let line =
            page.lines().find(|line| line.starts_with(&format!("synodkv_changes_{name}{{"))).expect("the metric");
        line.rsplit(' ').next().and_then(|number| number.parse::<u64>().ok()).expect("a number")
    };
    assert!(value("journal_bytes") > 50);
    assert_eq!((value("oldest_version"), value("waiting_polls"), value("polls_total")), (1, 0, 1));
}

#[tokio::test]
async fn long_changes_come_in_pages_of_whole_versions() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    let value = vec![7; 90_000];
    for number in 0..60u8 {
        assert!(client.call(set(&[b'k', number], &value)).await.success);
    }
    let (mut after, mut seen, mut pages) = (1, Vec::new(), 0);
    loop {
        let reply = client.call(wire::PollChangesRequest { max_bytes: Some(1 << 20), ..poll(after, 0) }).await;
        let bytes: usize =
            reply.changes.iter().map(|change| change.operations[0].value.as_ref().map_or(0, Vec::len)).sum();
        assert!(bytes <= 1 << 20);
        seen.extend(keys(&reply).into_iter().map(|(version, _)| version));
        (after, pages) = (reply.through_version, pages + 1);
        if !reply.has_more {
            break;
        }
    }
    assert_eq!(seen, (2..62).collect::<Vec<i64>>());
    assert!((6..12).contains(&pages), "{pages}");
    // One version that is longer than what was asked for comes nevertheless.
    let reply = client.call(wire::PollChangesRequest { max_bytes: Some(1), ..poll(1, 0) }).await;
    assert_eq!((keys(&reply).len(), reply.through_version, reply.has_more), (1, 2, true));
}

#[tokio::test]
async fn what_is_too_old_is_refused_with_the_oldest_version() {
    let small = |config: &mut Config| {
        config.changes.max_mb = 1;
    };
    let server = TestServer::with(small).await;
    let mut client = server.client().await;
    for number in 0..40u8 {
        assert!(client.call(set(&[number], &[7; 90_000])).await.success);
    }
    let reply = client.call(poll(1, 0)).await;
    assert_eq!((reply.success, reply.error_code.as_deref()), (false, Some("TRANSACTION_TOO_OLD")));
    let oldest = reply.oldest_version.expect("the oldest version");
    assert!(oldest > 10 && oldest < 41, "{oldest}");
    let reply = client.call(wire::PollChangesRequest { max_versions: Some(1), ..poll(oldest, 0) }).await;
    assert_eq!(keys(&reply)[0].0, oldest + 1);
    let reply = client.call(watch(b"k", 1, 0)).await;
    assert_eq!((reply.error_code.as_deref(), reply.oldest_version), (Some("TRANSACTION_TOO_OLD"), Some(oldest)));
    let answer = reqwest::get(server.url("/changes?after=1")).await.expect("HTTP");
    assert_eq!(answer.status(), reqwest::StatusCode::GONE);
    let body: Value = serde_json::from_str(&answer.text().await.expect("text")).expect("JSON");
    assert_eq!(body["oldest_version"], oldest);
}

#[tokio::test]
async fn keys_are_watched_until_one_changes() {
    let server = TestServer::start().await;
    let (mut waiter, mut writer) = (server.client().await, server.client().await);
    let request = wire::WatchKeysRequest {
        keys: vec![
            wire::KeyRef { key: b"a".to_vec(), column_family: None },
            wire::KeyRef { key: b"b".to_vec(), column_family: Some("users".to_string()) },
        ],
        ..watch(b"", 1, LONG_MS)
    };
    let asked = request.clone();
    let waits = tokio::spawn(async move { waiter.call(asked).await });
    until_waiting(&server, 1).await;
    assert!(writer.call(set(b"b", b"1")).await.success);
    assert_eq!(waiting(&server), 1, "that is another family");
    let users = Some("users".to_string());
    assert!(writer.call(wire::SetRequest { column_family: users.clone(), ..set(b"b", b"1") }).await.success);
    let reply = tokio::time::timeout(PATIENCE, waits).await.expect("it is woken").expect("no panic");
    assert_eq!(reply.changed, [wire::KeyRef { key: b"b".to_vec(), column_family: users }]);
    assert_eq!(reply.through_version, 3);
    let clear = operation("clear_range", b"0", Some(b"z"));
    assert!(writer.call(commit(1, vec![clear])).await.success);
    let reply = writer.call(wire::WatchKeysRequest { at_version: 3, ..request }).await;
    assert_eq!(reply.changed, [wire::KeyRef { key: b"a".to_vec(), column_family: None }]);
}

#[tokio::test]
async fn many_polls_wait_at_once_and_one_too_many_is_refused() {
    let server = TestServer::with(|config| config.changes.max_polls = 50).await;
    let mut waits = tokio::task::JoinSet::new();
    for number in 0..50u8 {
        let mut client = server.client().await;
        waits.spawn(async move { client.call(within(&[number], &[number + 1], poll(1, LONG_MS))).await });
    }
    until_waiting(&server, 50).await;
    let mut writer = server.client().await;
    let refused = writer.call(poll(1, LONG_MS)).await;
    assert_eq!(refused.error_code.as_deref(), Some("OVERLOADED"));
    for number in 0..50u8 {
        assert!(writer.call(set(&[number, 0], b"v")).await.success);
    }
    let mut woken: Vec<Vec<u8>> = Vec::new();
    while let Some(reply) = waits.join_next().await {
        let found = keys(&reply.expect("no panic"));
        assert_eq!(found.len(), 1);
        woken.extend(found[0].1.clone());
    }
    woken.sort();
    assert_eq!(woken, (0..50u8).map(|number| vec![number, 0]).collect::<Vec<_>>());
}

#[tokio::test]
async fn bad_requests_say_what_is_allowed() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    let bad = [
        (poll(0, 0), "after_version = 0: versions start at 1"),
        (poll(1, 30_001), "max_wait_ms = 30001; allowed: 0 to 30000"),
        (wire::PollChangesRequest { max_bytes: Some(0), ..poll(1, 0) }, "max_bytes = 0; allowed: 1 to 16777216"),
        (wire::PollChangesRequest { max_versions: Some(0), ..poll(1, 0) }, "max_versions = 0; allowed: 1 and more"),
        (within(b"b", b"a", poll(1, 0)), "a range of changes ends before it begins"),
    ];
    for (request, expected) in bad {
        let reply = client.call(request).await;
        let found = (reply.error_code.as_deref(), reply.error.as_deref());
        assert_eq!(found, (Some("INVALID_OPERATION"), Some(expected)));
    }
    let many = vec![wire::ChangeRange { column_family: None, begin_key: None, end_key: None }; 1001];
    let reply = client.call(wire::PollChangesRequest { ranges: Some(many), ..poll(1, 0) }).await;
    assert_eq!(reply.error.as_deref(), Some("1001 ranges; at most 1000 are allowed"));
    let elsewhere = wire::PollChangesRequest { cluster_id: Some("aff5".into()), ..poll(1, 0) };
    assert_eq!(client.call(elsewhere).await.error_code.as_deref(), Some("CLUSTER_CHANGED"));
    let reply = client.call(wire::WatchKeysRequest { keys: vec![], ..watch(b"", 1, 0) }).await;
    assert_eq!(reply.error.as_deref(), Some("0 keys to watch; allowed: 1 to 10000"));
    let off = TestServer::with(|config| config.changes.enabled = false).await;
    let reply = off.client().await.call(poll(1, 0)).await;
    assert_eq!(reply.error_code.as_deref(), Some("NOT_SUPPORTED"));
    for (query, expected) in
        [("after=x", "after = `x`"), ("value=1", "unknown parameter `value`"), ("values=2", "values")]
    {
        let answer = reqwest::get(server.url(&format!("/changes?{query}"))).await.expect("HTTP");
        assert_eq!(answer.status(), reqwest::StatusCode::BAD_REQUEST, "{query}");
        let body = answer.text().await.expect("text");
        assert!(body.contains(expected), "{body}");
    }
}

/// The events of a stream, until `enough` says so.
async fn events(
    url: &str,
    last: Option<&str>,
    enough: impl Fn(&[(String, String, Value)]) -> bool,
) -> Vec<(String, String, Value)> {
    let client = reqwest::Client::new();
    let request = client.get(url);
    let request = match last {
        Some(id) => request.header("Last-Event-ID", id),
        None => request,
    };
    let mut answer = request.send().await.expect("HTTP");
    assert_eq!(answer.headers()["content-type"], "text/event-stream");
    let (mut text, mut found) = (String::new(), Vec::new());
    while !enough(&found) {
        let piece =
            tokio::time::timeout(PATIENCE, answer.chunk()).await.expect("events").expect("bytes").expect("more");
        text.push_str(std::str::from_utf8(&piece).expect("text"));
        while let Some((event, rest)) = text.split_once("\n\n") {
            let field = |name: &str| {
                let line = event.lines().find_map(|line| line.strip_prefix(&format!("{name}: ")));
                line.unwrap_or_default().to_owned()
            };
            found.push((field("id"), field("event"), serde_json::from_str(&field("data")).unwrap_or(Value::Null)));
            text = rest.to_owned();
        }
    }
    found
}

#[tokio::test]
async fn a_stream_of_events_continues_after_the_last_one() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    assert!(client.call(set(b"user/1", b"a")).await.success);
    assert!(client.call(set(b"other", b"b")).await.success);
    assert!(client.call(set(b"user/\xff", b"c")).await.success);
    let url = server.url("/changes?prefix=user/&after=1");
    let found = events(&url, None, |found| found.len() >= 2).await;
    assert_eq!((found[0].0.as_str(), found[0].1.as_str()), ("2", "change"));
    assert_eq!(
        found[0].2["changes"][0],
        serde_json::json!({
            "type": "set", "family": "default", "key": "user/1", "value": "a",
        })
    );
    assert_eq!(found[1].2["changes"][0]["key"], serde_json::json!({ "hex": "757365722fff" }));
    // The same stream, cut off after its first event, by another client.
    let found = events(&url, Some("2"), |found| !found.is_empty()).await;
    assert_eq!(found[0].0, "4");
    // A change of other keys advances it, too.
    assert!(client.call(set(b"other", b"d")).await.success);
    let found = events(&url, Some("4"), |found| !found.is_empty()).await;
    assert_eq!((found[0].0.as_str(), found[0].1.as_str()), ("5", "progress"));
}

#[tokio::test]
async fn only_what_may_be_read_and_watched_is_shown() {
    let guarded = Guarded::start().await;
    guarded.user("some", 2, &["read,watch default prefix:eu/"]).await;
    guarded.user("blind", 3, &["watch *", "read default prefix:eu/"]).await;
    guarded.user("deaf", 4, &["read *"]).await;
    let mut root = guarded.client(1).await;
    assert!(root.call(set(b"eu/1", b"a")).await.success);
    assert!(root.call(set(b"us/1", b"b")).await.success);
    let clear = operation("clear_range", b"a", Some(b"z"));
    assert!(root.call(commit(1, vec![clear])).await.success);
    let after = root.call(wire::GetReadVersionRequest { auth_token: None }).await.read_version - 3;
    let own = || within(b"eu/", b"eu0", poll(after, 0));
    for id in [2, 3] {
        let mut client = guarded.client(id).await;
        let reply = client.call(own()).await;
        let found: Vec<Vec<u8>> = keys(&reply).into_iter().flat_map(|(_, keys)| keys).collect();
        assert_eq!(found, [b"eu/1".to_vec(), b"eu/".to_vec()], "and the clear is cut");
        assert_eq!(reply.changes[1].operations[0].end_key.as_deref(), Some(&b"eu0"[..]));
        for wide in [poll(after, 0), within(b"eu/", b"eu1", poll(after, 0)), within(b"us/", b"us0", poll(after, 0))] {
            let reply = client.call(wide).await;
            assert_eq!((reply.error_code.as_deref(), reply.changes.len()), (Some("FORBIDDEN"), 0));
        }
        assert_eq!(client.call(watch(b"us/1", after, 0)).await.error_code.as_deref(), Some("FORBIDDEN"));
        assert_eq!(client.call(watch(b"eu/1", after, 0)).await.changed.len(), 1);
    }
    let reply = guarded.client(4).await.call(own()).await;
    assert_eq!(reply.error_code.as_deref(), Some("FORBIDDEN"), "it may not watch");
    let stream = |id| guarded.ask(crate::access::HttpMethod::Get, id, "/changes?after=1");
    assert_eq!(stream(None).await.0, reqwest::StatusCode::UNAUTHORIZED);
    assert_eq!(stream(Some(2)).await.0, reqwest::StatusCode::FORBIDDEN);
    // A right that is taken away during a wait counts after it.
    let mut waiter = guarded.client(2).await;
    let now = root.call(wire::GetReadVersionRequest { auth_token: None }).await.read_version;
    let waits = tokio::spawn(async move { waiter.call(within(b"eu/", b"eu0", poll(now, LONG_MS))).await });
    until_waiting(&guarded.server, 1).await;
    guarded.post(Some(1), "/auth/roles/of-some?grant=read%20users").await;
    assert!(root.call(set(b"eu/2", b"secret")).await.success);
    let reply = tokio::time::timeout(PATIENCE, waits).await.expect("it is woken").expect("no panic");
    assert_eq!((reply.success, reply.changes.len()), (false, 0), "{reply:?}");
}

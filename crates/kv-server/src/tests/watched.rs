//! Tests of the paths that show slow requests and the most used keys.

use kv_api::thrift::OrderedFloat;
use serde_json::Value;

use super::*;

async fn fetch(server: &TestServer, path: &str) -> (u16, Value) {
    let answer = tokio::time::timeout(PATIENCE, reqwest::get(server.url(path))).await.expect("an answer");
    let answer = answer.expect("HTTP");
    let status = answer.status().as_u16();
    let text = answer.text().await.expect("text");
    (status, serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}")))
}

/// Every commit fails after this time.
fn delayed(milliseconds: i32) -> wire::FaultInjectionRequest {
    wire::FaultInjectionRequest {
        fault_type: "LATE".to_string(),
        probability: Some(OrderedFloat(1.0)),
        duration_ms: Some(milliseconds),
        target_operation: Some("commit".to_string()),
        auth_token: None,
    }
}

#[tokio::test]
async fn a_slow_request_is_shown_with_its_key_and_its_client_and_a_fast_one_is_not() {
    let server = TestServer::with(|config| {
        config.server.allow_fault_injection = true;
        config.log.slow_ms = 20;
    })
    .await;
    let mut client = server.client().await;
    assert!(client.call(delayed(30)).await.success);
    let late = wire::SetRequest { column_family: Some("users".to_string()), ..set(b"\xff/late", b"value") };
    assert_eq!(client.call(late).await.error_code.as_deref(), Some("LATE"));
    let (status, slow) = fetch(&server, "/slow").await;
    assert_eq!((status, &slow["slow_ms"]), (200, &20.into()));
    let requests = slow["requests"].as_array().expect("a list");
    let late = requests.iter().find(|request| request["method"] == "setKey").unwrap_or_else(|| panic!("{slow}"));
    assert_eq!((&late["family"], &late["key"], &late["bytes"]), (&"users".into(), &"\\xff/late".into(), &11.into()));
    assert_eq!(late["error"], "LATE");
    assert!(late["duration_ms"].as_f64() >= Some(30.0), "{late}");
    assert!(late["address"].as_str().is_some_and(|address| address.starts_with("127.0.0.1:")), "{late}");
}

#[tokio::test]
async fn a_poll_that_waits_for_changes_is_not_slow() {
    let server = TestServer::with(|config| config.log.slow_ms = 20).await;
    let mut client = server.client().await;
    assert!(client.call(super::changes::poll(1, 50)).await.success);
    let (_, slow) = fetch(&server, "/slow").await;
    let requests = slow["requests"].as_array().expect("a list");
    assert!(requests.iter().all(|request| request["method"] != "pollChanges"), "{slow}");
}

#[tokio::test]
async fn with_the_limit_0_nothing_is_slow() {
    let server = TestServer::with(|config| {
        config.server.allow_fault_injection = true;
        config.log.slow_ms = 0;
    })
    .await;
    let mut client = server.client().await;
    assert!(client.call(delayed(30)).await.success);
    client.call(set(b"k", b"v")).await;
    let (_, slow) = fetch(&server, "/slow?limit=1000").await;
    assert_eq!((&slow["all"], &slow["slow_ms"]), (&0.into(), &0.into()));
}

#[tokio::test]
async fn the_keys_in_use_are_shown_by_kind_and_family() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    // So many that chance leaves none of both uncounted.
    for _ in 0..2000 {
        client.call(get(b"read")).await;
        client.call(set(b"written", b"v")).await;
    }
    for (by, key) in [("reads", "read"), ("writes", "written")] {
        let (_, top) = fetch(&server, &format!("/top?by={by}&family=default")).await;
        let keys = top["keys"].as_array().expect("a list");
        assert_eq!((keys.len(), &keys[0]["key"], &keys[0]["family"]), (1, &key.into(), &"default".into()), "{top}");
        let count = keys[0]["count"].as_u64().expect("whole");
        assert!((1000..3000).contains(&count), "an estimate of 2000: {count}");
        assert_eq!(fetch(&server, &format!("/top?by={by}&family=users")).await.1["keys"], serde_json::json!([]));
    }
}

#[tokio::test]
async fn wrong_parameters_are_refused_with_what_is_allowed() {
    let server = TestServer::start().await;
    for (path, allowed) in [
        ("/slow?limit=0", "1 to 1000"),
        ("/slow?limit=x", "1 to 1000"),
        ("/slow?by=reads", "allowed: limit"),
        ("/top?by=bytes", "reads, writes, conflicts"),
        ("/top?limit=129", "1 to 128"),
        ("/top?x=1", "by, family and limit"),
    ] {
        let (status, body) = fetch(&server, path).await;
        assert_eq!(status, 400, "{path}");
        assert!(body["error"].as_str().is_some_and(|error| error.contains(allowed)), "{path}: {body}");
    }
}

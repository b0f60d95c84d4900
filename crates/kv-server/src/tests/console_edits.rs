//! The past of a key and edits of it, over HTTP.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use reqwest::StatusCode;
use reqwest::header::{CONTENT_TYPE, HOST, ORIGIN};
use serde_json::{Value, json};

use super::*;

fn hex(text: &str) -> String {
    text.bytes().map(|byte| format!("{byte:02x}")).collect()
}

async fn answer(request: reqwest::RequestBuilder) -> (StatusCode, Value) {
    let answer = tokio::time::timeout(PATIENCE, request.send()).await.expect("an answer").expect("HTTP");
    let (status, text) = (answer.status(), answer.text().await.expect("text"));
    (status, serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}")))
}

async fn get(server: &TestServer, path: &str) -> Value {
    let (status, body) = answer(reqwest::Client::new().get(server.url(path))).await;
    assert_eq!(status, StatusCode::OK, "{path}: {body}");
    body
}

async fn editable() -> TestServer {
    TestServer::with(|config| config.admin.console_edits = true).await
}

/// An edit as the console asks for it.
fn edit(server: &TestServer, key: &str, value: Option<&str>, expected: &Value) -> reqwest::RequestBuilder {
    let body = json!({ "value": value.map(|value| BASE64.encode(value)), "expected": expected });
    let url = server.url(&format!("/console/api/key?key={}", hex(key)));
    let own = format!("http://{}", server.manager.admin_addr());
    reqwest::Client::new().post(url).header(ORIGIN, own).json(&body)
}

async fn shown(server: &TestServer, key: &str) -> Value {
    get(server, &format!("/console/api/key?key={}", hex(key))).await
}

#[tokio::test]
async fn an_edit_writes_what_it_says_and_names_the_value_it_leaves() {
    let server = editable().await;
    let (status, done) = answer(edit(&server, "k", Some("one"), &Value::Null)).await;
    assert_eq!(status, StatusCode::OK, "{done}");
    let one = shown(&server, "k").await;
    assert_eq!((&one["value"], &one["hash"]), (&BASE64.encode("one").into(), &done["hash"]));
    let (status, done) = answer(edit(&server, "k", Some(""), &one["hash"])).await;
    assert_eq!(status, StatusCode::OK, "{done}");
    let empty = shown(&server, "k").await;
    assert_eq!((&empty["found"], &empty["length"]), (&true.into(), &0.into()), "empty is not absent");
    let (status, done) = answer(edit(&server, "k", None, &empty["hash"])).await;
    assert_eq!((status, &done["hash"]), (StatusCode::OK, &Value::Null), "{done}");
    assert_eq!(shown(&server, "k").await["found"], false);
}

#[tokio::test]
async fn an_edit_of_a_value_that_has_changed_writes_nothing() {
    let server = editable().await;
    let mut client = server.client().await;
    client.call(set(b"k", b"seen")).await;
    let seen = shown(&server, "k").await["hash"].clone();
    client.call(set(b"k", b"theirs")).await;
    for (value, expected) in [(Some("mine"), &seen), (None, &seen), (Some("mine"), &Value::Null), (None, &json!("x"))] {
        let (status, body) = answer(edit(&server, "k", value, expected)).await;
        assert_eq!(status, StatusCode::CONFLICT, "{value:?} {expected}: {body}");
        assert!(body["error"].as_str().is_some_and(|error| error.contains("nothing was written")), "{body}");
    }
    assert_eq!(shown(&server, "k").await["value"], BASE64.encode("theirs"));
}

/// Editors who have seen the same value: one of them wins, whatever the order.
#[tokio::test]
async fn of_editors_who_saw_the_same_value_one_wins() {
    let server = editable().await;
    let mut seen = Value::Null;
    for round in 0..10 {
        let values: Vec<String> = (0..8).map(|editor| format!("{round}/{editor}")).collect();
        let edits = values.iter().map(|value| answer(edit(&server, "k", Some(value), &seen)));
        let answers = futures_util::future::join_all(edits).await;
        let won: Vec<usize> = (0..answers.len()).filter(|at| answers[*at].0 == StatusCode::OK).collect();
        assert_eq!(won.len(), 1, "round {round}: {answers:?}");
        // With too many at a time, some have to try again.
        let refused = [StatusCode::CONFLICT, StatusCode::SERVICE_UNAVAILABLE];
        let others = answers.iter().filter(|(status, _)| *status != StatusCode::OK);
        assert!(others.into_iter().all(|(status, _)| refused.contains(status)), "{answers:?}");
        let now = shown(&server, "k").await;
        assert_eq!(now["value"], BASE64.encode(&values[won[0]]), "round {round}");
        seen = now["hash"].clone();
    }
    let past = get(&server, &format!("/console/api/history?key={}", hex("k"))).await;
    assert_eq!(past["entries"].as_array().map(Vec::len), Some(10), "one write for each round: {past}");
}

#[tokio::test]
async fn only_the_console_of_this_server_edits_and_only_if_it_may() {
    let off = TestServer::start().await;
    let (status, body) = answer(edit(&off, "k", Some("v"), &Value::Null)).await;
    assert_eq!(status, StatusCode::FORBIDDEN, "{body}");
    assert!(body["error"].as_str().is_some_and(|error| error.contains("admin.console_edits")), "{body}");
    let writes = TestServer::with(|config| config.admin.console_writes = true).await;
    assert_eq!(answer(edit(&writes, "k", Some("v"), &Value::Null)).await.0, StatusCode::FORBIDDEN);

    let server = editable().await;
    let url = server.url(&format!("/console/api/key?key={}", hex("k")));
    let own = format!("http://{}", server.manager.admin_addr());
    let body = json!({ "value": BASE64.encode("v"), "expected": null }).to_string();
    let ask = |headers: &[(reqwest::header::HeaderName, &str)]| {
        let request = reqwest::Client::new().post(&url).body(body.clone());
        headers.iter().fold(request, |request, (name, value)| request.header(name, *value))
    };
    let kind = (CONTENT_TYPE, "application/json");
    for (headers, expected) in [
        (vec![kind.clone()], StatusCode::FORBIDDEN),
        (vec![kind.clone(), (ORIGIN, "http://evil.example")], StatusCode::FORBIDDEN),
        (vec![kind.clone(), (ORIGIN, "null")], StatusCode::FORBIDDEN),
        (vec![kind.clone(), (ORIGIN, "http://evil.example"), (HOST, "evil.example")], StatusCode::FORBIDDEN),
        (vec![(CONTENT_TYPE, "text/plain"), (ORIGIN, &own)], StatusCode::UNSUPPORTED_MEDIA_TYPE),
        (vec![(ORIGIN, &own)], StatusCode::UNSUPPORTED_MEDIA_TYPE),
    ] {
        let (status, body) = answer(ask(&headers)).await;
        assert_eq!(status, expected, "{headers:?}: {body}");
    }
    assert_eq!(shown(&server, "k").await["found"], false, "nothing was written");
    assert_eq!(answer(ask(&[kind, (ORIGIN, &own)])).await.0, StatusCode::OK);
    // Failover and members stay read-only.
    let failover = reqwest::Client::new().post(server.url("/failover")).header(ORIGIN, &own);
    assert_eq!(answer(failover).await.0, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn the_history_holds_every_value_newest_first_and_within_bounds() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    let long = "x".repeat((16 << 10) + 1);
    for value in ["a", "b", &long] {
        client.call(set(b"k", value.as_bytes())).await;
        client.call(set(b"k0", b"another key")).await;
    }
    let path = format!("/console/api/history?key={}", hex("k"));
    let past = get(&server, &path).await;
    let entries = past["entries"].as_array().expect("entries");
    let lengths: Vec<u64> = entries.iter().map(|entry| entry["length"].as_u64().expect("a length")).collect();
    assert_eq!(lengths, [long.len() as u64, 1, 1]);
    assert_eq!((&entries[0]["is_cut"], &entries[1]["is_cut"]), (&true.into(), &false.into()));
    assert_eq!((&entries[1]["value"], &entries[2]["value"]), (&BASE64.encode("b").into(), &BASE64.encode("a").into()));
    assert_eq!((&past["is_complete"], &past["left_out"]), (&true.into(), &0.into()));
    let newest = get(&server, &format!("{path}&limit=1")).await;
    assert_eq!((newest["entries"].as_array().map(Vec::len), &newest["left_out"]), (Some(1), &2.into()));
    let later = get(&server, &format!("{path}&after={}", entries[1]["version"])).await;
    assert_eq!(later["entries"].as_array().map(Vec::len), Some(1), "{later}");
    for (query, word) in [("limit=101", "1 to 100"), ("after=0", "1 or more"), ("colour=red", "colour")] {
        let (status, body) = answer(reqwest::Client::new().get(server.url(&format!("{path}&{query}")))).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{body}");
        assert!(body["error"].as_str().is_some_and(|error| error.contains(word)), "{body}");
    }
}

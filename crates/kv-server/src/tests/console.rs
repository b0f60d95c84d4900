//! The web console over HTTP: its files, its JSON, and who gets what of it.

use reqwest::StatusCode;
use reqwest::header::{CONTENT_SECURITY_POLICY, HOST, LOCATION, ORIGIN};
use serde_json::{Value, json};

use super::access::{Guarded, token};
use super::*;
use crate::access::HttpMethod;

fn hex(text: &str) -> String {
    text.bytes().map(|byte| format!("{byte:02x}")).collect()
}

async fn send(request: reqwest::RequestBuilder) -> (StatusCode, reqwest::header::HeaderMap, String) {
    let answer = tokio::time::timeout(PATIENCE, request.send()).await.expect("an answer").expect("HTTP");
    let (status, headers) = (answer.status(), answer.headers().clone());
    (status, headers, answer.text().await.expect("text"))
}

async fn json_of(request: reqwest::RequestBuilder) -> (StatusCode, Value) {
    let (status, _, text) = send(request).await;
    (status, serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}")))
}

async fn get_json(server: &TestServer, path: &str) -> (StatusCode, Value) {
    json_of(reqwest::Client::new().get(server.url(path))).await
}

async fn with_rows(rows: &[(&str, &str)]) -> TestServer {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    for (key, value) in rows {
        assert!(client.call(set(key.as_bytes(), value.as_bytes())).await.success);
    }
    server
}

fn names(page: &Value) -> Vec<(String, String)> {
    let text = |entry: &Value, field: &str| entry[field].as_str().expect("text").to_string();
    let entries = page["entries"].as_array().expect("entries");
    entries.iter().map(|entry| (text(entry, "kind"), text(entry, "key"))).collect()
}

#[tokio::test]
async fn the_files_come_with_a_strict_policy_and_the_root_leads_to_them() {
    let server = TestServer::start().await;
    let client = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().expect("a client");
    for path in ["/", "/console", "/console/"] {
        let (status, headers, _) = send(client.get(server.url(path))).await;
        assert_eq!(
            (status, &headers[LOCATION]),
            (StatusCode::TEMPORARY_REDIRECT, &"/console/overview".parse().expect("a value"))
        );
    }
    for (path, kind) in [("overview", "text/html"), ("main.js", "text/javascript"), ("console.css", "text/css")] {
        let (status, headers, text) = send(client.get(server.url(&format!("/console/{path}")))).await;
        assert_eq!(status, StatusCode::OK, "{path}");
        assert!(headers["content-type"].to_str().expect("text").starts_with(kind) && !text.is_empty(), "{path}");
        let policy = headers[CONTENT_SECURITY_POLICY].to_str().expect("text");
        assert!(policy.starts_with("default-src 'self'; ") && !policy.contains("unsafe"), "{policy}");
        assert!(headers["x-content-type-options"] == "nosniff" && headers["x-frame-options"] == "DENY");
    }
    let (status, body) = json_of(client.get(server.url("/console/none.js"))).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    assert!(body["error"].as_str().is_some_and(|error| error.contains("none.js")), "{body}");
    let (status, body) = json_of(client.post(server.url("/console/main.js"))).await;
    assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED);
    assert!(body["error"].as_str().is_some_and(|error| error.contains("GET only")), "{body}");
}

#[tokio::test]
async fn keys_are_listed_by_folder_and_page() {
    let server = with_rows(&[("a/1", "x"), ("a/2", "y"), ("b", "a longer value"), ("c/1", "z")]).await;
    let (status, page) = get_json(&server, "/console/api/keys?limit=2").await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(names(&page), [("folder".into(), hex("a/")), ("key".into(), hex("b"))]);
    assert_eq!((&page["entries"][1]["length"], &page["next"]), (&14.into(), &hex("b").into()));
    let (_, rest) = get_json(&server, &format!("/console/api/keys?limit=2&after={}", hex("b"))).await;
    assert_eq!((names(&rest), &rest["next"]), (vec![("folder".into(), hex("c/"))], &Value::Null));
    let (_, below) = get_json(&server, &format!("/console/api/keys?prefix={}", hex("a/"))).await;
    assert_eq!(names(&below), [("key".into(), hex("a/1")), ("key".into(), hex("a/2"))]);
    let (_, flat) = get_json(&server, "/console/api/keys?delimiter=").await;
    assert_eq!(names(&flat).len(), 4);
}

#[tokio::test]
async fn a_folder_of_many_rows_costs_little_and_hides_nothing_behind_it() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    let operations = (0..2_000).map(|n| commits::operation("set", format!("big/{n:05}").as_bytes(), Some(b"v")));
    assert!(client.call(commits::commit(0, operations.collect())).await.success);
    client.call(set(b"small", b"v")).await;
    let (_, page) = get_json(&server, "/console/api/keys").await;
    assert_eq!(names(&page), [("folder".into(), hex("big/")), ("key".into(), hex("small"))]);
    let (_, page) = get_json(&server, &format!("/console/api/keys?prefix={}&limit=500", hex("big/"))).await;
    assert_eq!((names(&page).len(), &page["next"]), (500, &hex("big/00499").into()));
}

#[tokio::test]
async fn a_value_is_shown_at_its_version() {
    let server = with_rows(&[("k", "old")]).await;
    let url = format!("/console/api/key?key={}", hex("k"));
    let (status, old) = get_json(&server, &url).await;
    assert_eq!((status, &old["value"], &old["found"]), (StatusCode::OK, &"b2xk".into(), &true.into()));
    server.client().await.call(set(b"k", b"new")).await;
    let (_, new) = get_json(&server, &url).await;
    assert_eq!(new["value"], "bmV3");
    let (_, then) = get_json(&server, &format!("{url}&version={}", old["version"])).await;
    assert_eq!((&then["value"], &then["version"]), (&old["value"], &old["version"]));
    let (_, stale) = get_json(&server, &format!("{url}&version=stale")).await;
    assert_eq!((&stale["value"], &stale["version"]), (&"bmV3".into(), &Value::Null));
    let (status, none) = get_json(&server, &format!("/console/api/key?key={}", hex("none"))).await;
    assert_eq!((status, &none["found"], &none["value"]), (StatusCode::OK, &false.into(), &Value::Null));
}

#[tokio::test]
async fn a_long_value_is_cut_off() {
    let server = TestServer::with(|config| config.limits.max_value_bytes = 2 << 20).await;
    let long = vec![b'x'; (1 << 20) + 1];
    assert!(server.client().await.call(set(b"k", &long)).await.success);
    let (_, shown) = get_json(&server, &format!("/console/api/key?key={}", hex("k"))).await;
    assert_eq!((&shown["is_cut"], &shown["length"]), (&true.into(), &long.len().into()));
    assert_eq!(shown["value"].as_str().map(str::len), Some((1usize << 20).div_ceil(3) * 4));
}

#[tokio::test]
async fn bad_requests_are_refused_with_what_is_allowed() {
    let server = TestServer::start().await;
    let too_long = format!("/console/api/key?key={}", "61".repeat(10_001));
    for (path, status, part) in [
        ("/console/api/keys?family=nobody", 404, "nobody"),
        ("/console/api/keys?limit=501", 400, "1 to 500"),
        ("/console/api/keys?prefix=x", 400, "hexadecimal"),
        ("/console/api/keys?colour=red", 400, "colour"),
        ("/console/api/keys?version=99999999999", 503, "version"),
        ("/console/api/key", 400, "`key` is missing"),
        ("/console/api/key?key=", 400, "at least one byte"),
        (&too_long, 400, "at most 10000"),
        ("/console/api/series?step=5", 400, "1 or 10"),
        ("/console/api/series?names=nothing", 400, "no series `nothing`"),
        ("/console/api/nothing", 404, "/console"),
    ] {
        let (found, body) = get_json(&server, path).await;
        let error = body["error"].as_str().unwrap_or_else(|| panic!("{path}: {body}"));
        assert!(found.as_u16() == status && error.contains(part), "{path}: {found} {error}");
    }
}

#[tokio::test]
async fn the_configuration_has_origins_and_the_series_their_points() {
    let server = TestServer::start().await;
    let (status, body) = get_json(&server, "/console/api/config").await;
    assert_eq!(status, StatusCode::OK);
    let settings = body["settings"].as_array().expect("settings");
    let window = settings.iter().find(|one| one["key"] == "storage.readable_window_ms").expect("the setting");
    assert_eq!((&window["origin"], &window["is_set"]), (&"default".into(), &false.into()));
    // The first sample is taken at once, the next one a second later.
    let page = loop {
        let (_, page) = get_json(&server, "/console/api/series?names=connections,rows").await;
        if page["newest"].as_u64().is_some() {
            break page;
        }
        tokio::task::yield_now().await;
    };
    let shown: Vec<&Value> = page["series"].as_array().expect("series").iter().map(|one| &one["name"]).collect();
    assert_eq!(shown, [&json!("connections"), &json!("rows")]);
    assert_eq!((&page["step_seconds"], &page["length"]), (&1.into(), &600.into()));
    assert_eq!(page["series"][1]["points"][0], 0.0);
}

#[tokio::test]
async fn permissions_on_ranges_of_keys_hold_in_the_console() {
    let guarded = Guarded::start().await;
    let mut root = guarded.client(1).await;
    for key in [&b"eu/1"[..], b"us/1"] {
        assert!(root.call(set(key, b"v")).await.success);
    }
    guarded.user("eva", 2, &["read default prefix:eu/"]).await;
    guarded.user("mia", 3, &["admin:status *"]).await;
    guarded.user("wim", 4, &["read,watch default prefix:eu/"]).await;
    let ask = async |id: u64, path: &str| guarded.ask(HttpMethod::Get, Some(id), path).await;
    let (eu, us) = (hex("eu/"), hex("us/"));
    for (id, path, expected) in [
        (2, format!("/console/api/keys?prefix={eu}"), StatusCode::OK),
        (2, format!("/console/api/keys?prefix={eu}&version=stale"), StatusCode::OK),
        (2, format!("/console/api/key?key={}", hex("eu/1")), StatusCode::OK),
        (2, "/console/api/keys".into(), StatusCode::FORBIDDEN),
        (2, format!("/console/api/keys?prefix={}", hex("eu")), StatusCode::FORBIDDEN),
        (2, format!("/console/api/keys?prefix={us}"), StatusCode::FORBIDDEN),
        (2, format!("/console/api/keys?prefix={us}&version=stale"), StatusCode::FORBIDDEN),
        (2, format!("/console/api/keys?family=users&prefix={eu}"), StatusCode::FORBIDDEN),
        (2, format!("/console/api/key?key={}", hex("us/1")), StatusCode::FORBIDDEN),
        (2, format!("/console/api/key?key={}&version=1", hex("us/1")), StatusCode::FORBIDDEN),
        // The past of a key needs `watch`, too.
        (2, format!("/console/api/history?key={}", hex("eu/1")), StatusCode::FORBIDDEN),
        (4, format!("/console/api/history?key={}", hex("eu/1")), StatusCode::OK),
        (4, format!("/console/api/history?key={}", hex("us/1")), StatusCode::FORBIDDEN),
        (2, "/console/api/config".into(), StatusCode::FORBIDDEN),
        (2, "/console/api/series".into(), StatusCode::FORBIDDEN),
        (3, "/console/api/config".into(), StatusCode::OK),
        (3, "/console/api/series".into(), StatusCode::OK),
        (3, "/console/api/keys".into(), StatusCode::FORBIDDEN),
        (3, format!("/console/api/key?key={}", hex("eu/1")), StatusCode::FORBIDDEN),
    ] {
        let (status, body) = ask(id, &path).await;
        assert_eq!(status, expected, "{id} {path}: {body}");
    }
    let (_, session) = ask(2, "/console/api/session").await;
    assert_eq!((&session["user"], &session["may_see_status"]), (&"eva".into(), &false.into()));
    assert_eq!(session["column_families"], Value::Null, "the names of families may be a secret");
    let (_, session) = ask(1, "/console/api/session").await;
    assert_eq!((&session["user"], &session["may_change_members"]), (&"root".into(), &true.into()));
}

#[tokio::test]
async fn only_the_console_of_this_server_may_ask_for_changes_and_only_if_it_is_allowed_to() {
    let wanted = json!({ "expected_epoch": 1, "members": [] }).to_string();
    for allowed in [false, true] {
        let server = TestServer::with(|config| config.admin.console_writes = allowed).await;
        let own = format!("http://{}", server.manager.admin_addr());
        let other = "http://127.0.0.1:1".to_string();
        let ask = |path: &str, origin: &str, host: Option<&str>| {
            let request = reqwest::Client::new().post(server.url(path)).header(ORIGIN, origin).body(wanted.clone());
            match host {
                Some(host) => request.header(HOST, host),
                None => request,
            }
        };
        let forbidden = |status: StatusCode| status == StatusCode::FORBIDDEN;
        assert_eq!(forbidden(json_of(ask("/failover", &own, None)).await.0), !allowed);
        assert_eq!(forbidden(json_of(ask("/members", &own, None)).await.0), !allowed);
        // The console may always ask for the conditions of a change.
        assert!(!forbidden(json_of(ask("/members?dry_run=1", &own, None)).await.0));
        assert_eq!(forbidden(json_of(ask("/members?dry_run=0", &own, None)).await.0), !allowed);
        assert!(forbidden(json_of(ask("/members?dry_run=1", &other, None)).await.0));
        assert!(forbidden(json_of(ask("/failover", &other, None)).await.0));
        // A name that its owner lets stand for this address.
        let (name, host) = ("http://evil.example:9190", "evil.example:9190");
        assert!(forbidden(json_of(ask("/failover", name, Some(host))).await.0));
    }
}

#[tokio::test]
async fn a_page_behind_a_foreign_name_reads_no_rows() {
    let server = with_rows(&[("k", "v")]).await;
    let ask = |host: &str| reqwest::Client::new().get(server.url("/console/api/keys")).header(HOST, host);
    let (status, body) = json_of(ask("evil.example:9190")).await;
    assert_eq!(status, StatusCode::FORBIDDEN, "{body}");
    assert!(body["error"].as_str().is_some_and(|error| error.contains("localhost")), "{body}");
    assert_eq!(json_of(ask("localhost:9190")).await.0, StatusCode::OK);
    let guarded = Guarded::start().await;
    let by_name = reqwest::Client::new().get(guarded.server.url("/console/api/keys")).header(HOST, "kv.example:9190");
    assert_eq!(json_of(by_name.bearer_auth(token(1))).await.0, StatusCode::OK, "a token that such a page cannot have");
}

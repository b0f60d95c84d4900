//! Tests of the admin interface over HTTP.

use serde_json::Value;

use super::*;

async fn fetch(url: String) -> (u16, String) {
    let response =
        tokio::time::timeout(PATIENCE, super::http_client().get(url).send()).await.expect("an answer").expect("HTTP");
    (response.status().as_u16(), response.text().await.expect("text"))
}

async fn fetch_json(url: String) -> (u16, Value) {
    let (status, text) = fetch(url).await;
    (status, serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}")))
}

#[tokio::test]
async fn a_running_server_is_live_and_ready() {
    let server = TestServer::start().await;
    assert_eq!(fetch(server.url("/health/live")).await.0, 200);
    let (status, ready) = fetch_json(server.url("/health/ready")).await;
    assert_eq!((status, &ready["ready"]), (200, &Value::Bool(true)));
}

#[tokio::test]
async fn the_status_shows_the_replica_and_its_families() {
    let server = TestServer::start().await;
    let (status, body) = fetch_json(server.url("/status")).await;
    assert_eq!(status, 200);
    assert_eq!((&body["mode"], &body["node_id"], &body["primary"]), (&"standalone".into(), &0.into(), &0.into()));
    assert_eq!(body["column_families"], serde_json::json!(["default", "users"]));
    assert_eq!((&body["access"]["enabled"], &body["access"]["details"]), (&false.into(), &"/auth".into()));
    let replica = &body["replicas"][0];
    assert_eq!((&replica["id"], &replica["role"]), (&0.into(), &"primary".into()));
    assert_eq!(replica["observer"], false, "it votes alone");
    assert_eq!(replica["reachable"], true);
    assert_eq!(replica["admin"], server.manager.admin_addr().to_string());
}

#[tokio::test]
async fn a_full_disk_is_a_problem_that_the_status_names() {
    let server = TestServer::with(|config| config.storage.min_free_mb = 1 << 30).await;
    let mut client = server.client().await;
    let reply = client.call(commits::commit(0, vec![commits::operation("set", b"k", Some(b"v"))])).await;
    assert_eq!(reply.error_code.as_deref(), Some("STORAGE_FULL"));
    let (_, status) = fetch_json(server.url("/status")).await;
    let problem = status["replicas"][0]["problem"].as_str().expect("a problem");
    assert!(problem.contains("writes are refused") && problem.contains("storage.min_free_mb"), "{problem}");
    assert_eq!((&status["problems"][0]["kind"], &status["problems"][0]["replica"]), (&"disk_full".into(), &0.into()));
    assert_eq!(status["cluster_status"], "unhealthy");
}

#[tokio::test]
async fn the_metrics_count_requests_and_errors_by_method() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    client.call(set(b"k", b"v")).await;
    client.call(get(b"")).await;
    let (status, page) = fetch(server.url("/metrics")).await;
    assert_eq!(status, 200);
    for line in [
        "synodkv_requests_total{method=\"setKey\"} 1",
        "synodkv_request_errors_total{code=\"KEY_EMPTY\",method=\"get\"} 1",
        "synodkv_request_seconds_count{method=\"get\"} 1",
        "synodkv_connections_open 1",
        "synodkv_database_keys{replica=\"0\"} 1",
    ] {
        assert!(page.contains(line), "`{line}` is not in\n{page}");
    }
}

#[tokio::test]
async fn the_retention_of_old_versions_is_shown() {
    let server = TestServer::with(|config| config.storage.readable_window_ms = 1_000).await;
    let mut client = server.client().await;
    let clear = commits::operation("clear_range", b"a", Some(b"z"));
    let request = commits::commit(0, vec![commits::operation("set", b"k", Some(b"v")), clear]);
    let request = wire::AtomicCommitRequest { idempotency_id: Some(b"once".to_vec()), ..request };
    assert!(client.call(request).await.success);
    assert!(client.call(wire::PinSnapshotRequest { read_version: 1, ttl_ms: None, auth_token: None }).await.success);
    let (_, status) = fetch_json(server.url("/status")).await;
    let replica = &status["replicas"][0];
    assert_eq!((&replica["oldest_readable"], &replica["pending_clears"]), (&1.into(), &1.into()));
    let (_, page) = fetch(server.url("/metrics")).await;
    for line in [
        "synodkv_database_oldest_readable_version{replica=\"0\"} 1",
        "synodkv_database_pending_range_clears{replica=\"0\"} 1",
        "synodkv_database_idempotency_ids{replica=\"0\"} 1",
        "synodkv_database_pins{replica=\"0\"} 1",
        "synodkv_database_swept_versions{replica=\"0\"} 0",
        "synodkv_database_stored_versions{replica=\"0\"} 0",
    ] {
        assert!(page.contains(line), "`{line}` is not in\n{page}");
    }
}

#[tokio::test]
async fn rows_are_hashed_in_pieces_that_join_up() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    for key in [b"a", b"b", b"c"] {
        client.call(set(key, b"v")).await;
    }
    let (status, whole) = fetch_json(server.url("/rows/hash")).await;
    assert_eq!((status, &whole["count"], &whole["next"]), (200, &3.into(), &Value::Null));
    let version = whole["version"].as_u64().expect("a version");
    client.call(set(b"b", b"changed")).await;
    let (_, then) = fetch_json(server.url(&format!("/rows/hash?version={version}&replica=0"))).await;
    assert_eq!(then["hash"], whole["hash"]);
    let (_, now) = fetch_json(server.url("/rows/hash?family=default")).await;
    assert_ne!(now["hash"], whole["hash"]);

    let (_, first) = fetch_json(server.url(&format!("/rows/hash?version={version}&limit=2"))).await;
    assert_eq!((&first["count"], &first["next"]), (&2.into(), &"63".into()));
    let (_, second) = fetch_json(server.url(&format!("/rows/hash?version={version}&begin=63"))).await;
    assert_eq!((&second["count"], &second["next"]), (&1.into(), &Value::Null));
    let (_, none) = fetch_json(server.url(&format!("/rows/hash?version={version}&limit=0"))).await;
    assert_eq!((&none["count"], &none["next"]), (&0.into(), &"61".into()));
}

#[tokio::test]
async fn an_invalid_failover_is_refused() {
    let server = TestServer::start().await;
    let client = super::http_client();
    let web_page = client.post(server.url("/failover")).header("origin", "http://somewhere");
    for (request, status, part) in [
        (client.get(server.url("/failover")), 405, "POST only"),
        (client.post(server.url("/status")), 405, "GET only"),
        (client.post(server.url("/failover?to=x")), 400, "`x`: expected the id"),
        (client.post(server.url("/failover?from=1")), 400, "unknown parameter `from`"),
        (client.post(server.url("/failover")), 400, "standalone"),
        (web_page, 403, "web page"),
    ] {
        let answer = tokio::time::timeout(PATIENCE, request.send()).await.expect("an answer").expect("HTTP");
        assert_eq!(answer.status().as_u16(), status, "{part}");
        let body: Value = serde_json::from_str(&answer.text().await.expect("text")).expect("JSON");
        let error = body["error"].as_str().expect("an error");
        assert!(error.contains(part), "{error}");
    }
}

#[tokio::test]
async fn invalid_requests_are_refused_with_what_is_allowed() {
    let server = TestServer::start().await;
    for (path, status, part) in [
        ("/nowhere", 404, "/rows/hash"),
        ("/rows/hash?replica=4", 404, "replica 4"),
        ("/rows/hash?family=nobody", 404, "nobody"),
        ("/rows/hash?version=x", 400, "version"),
        ("/rows/hash?limit=1000001", 400, "0 to"),
        ("/rows/hash?begin=abc", 400, "hexadecimal"),
        ("/rows/hash?begin=%2B1", 400, "hexadecimal"),
        ("/rows/hash?colour=red", 400, "colour"),
    ] {
        let (found, body) = fetch_json(server.url(path)).await;
        assert_eq!(found, status, "{path}");
        let error = body["error"].as_str().expect("an error");
        assert!(error.contains(part), "{path}: {error}");
    }
}

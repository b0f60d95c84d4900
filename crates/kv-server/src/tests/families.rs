//! Tests of column families that are created and dropped over HTTP.

use reqwest::Method;
use serde_json::Value;

use super::*;

async fn ask(server: &TestServer, method: Method, path: &str) -> (u16, Value) {
    let request = super::http_client().request(method, server.url(path));
    let answer = tokio::time::timeout(PATIENCE, request.send()).await.expect("an answer").expect("HTTP");
    let status = answer.status().as_u16();
    let text = answer.text().await.expect("text");
    (status, serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}")))
}

async fn refusal(server: &TestServer, method: Method, path: &str, status: u16) -> String {
    let (found, body) = ask(server, method, path).await;
    assert_eq!(found, status, "{body}");
    body["error"].as_str().expect("an error").to_string()
}

fn in_family<T>(name: &str, with: impl FnOnce(Option<String>) -> T) -> T {
    with(Some(name.to_string()))
}

async fn set_in(client: &mut Client, family: &str, key: &[u8]) -> wire::SetResponse {
    client.call(in_family(family, |column_family| wire::SetRequest { column_family, ..set(key, b"v") })).await
}

async fn get_in(client: &mut Client, family: &str, key: &[u8]) -> wire::GetResponse {
    client.call(in_family(family, |column_family| wire::GetRequest { column_family, ..get(key) })).await
}

#[tokio::test]
async fn a_family_can_be_used_from_its_creation_until_it_is_dropped() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    let unknown = Some("UNKNOWN_COLUMN_FAMILY");
    assert_eq!(set_in(&mut client, "orders", b"k").await.error_code.as_deref(), unknown);
    let (status, created) = ask(&server, Method::POST, "/column-families/orders").await;
    assert_eq!((status, &created["column_family"], &created["exists"]), (200, &"orders".into(), &true.into()));
    assert!(set_in(&mut client, "orders", b"k").await.success);
    assert_eq!(ask(&server, Method::POST, "/column-families/orders").await.0, 200, "once more changes nothing");
    assert!(get_in(&mut client, "orders", b"k").await.found);
    assert!(!client.call(get(b"k")).await.found, "families are apart");

    let version = client.call(wire::GetReadVersionRequest { auth_token: None }).await.read_version;
    let (status, dropped) = ask(&server, Method::DELETE, "/column-families/orders").await;
    assert_eq!((status, &dropped["exists"]), (200, &false.into()));
    assert_eq!(dropped["version"].as_i64(), Some(version + 1), "it takes a version, like every change of rows");
    assert_eq!(get_in(&mut client, "orders", b"k").await.error_code.as_deref(), unknown);
    // A new family with the old name is empty.
    assert_eq!(ask(&server, Method::POST, "/column-families/orders").await.0, 200);
    let reply = get_in(&mut client, "orders", b"k").await;
    assert_eq!((reply.found, reply.error), (false, None));
}

#[tokio::test]
async fn the_list_shows_which_families_are_configured_and_which_exist() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    ask(&server, Method::POST, "/column-families/orders").await;
    let family = |name: &str, exists: bool, configured: bool| serde_json::json!({ "name": name, "exists": exists, "configured": configured });
    let (status, list) = ask(&server, Method::GET, "/column-families").await;
    let expected = [family("default", true, false), family("orders", true, false), family("users", false, true)];
    assert_eq!((status, &list["column_families"]), (200, &Value::from(expected.to_vec())));
    assert!(set_in(&mut client, "users", b"k").await.success);
    let (_, list) = ask(&server, Method::GET, "/column-families").await;
    assert_eq!(list["column_families"][2], family("users", true, true));
    let (_, status) = ask(&server, Method::GET, "/status").await;
    assert_eq!(status["column_families"], serde_json::json!(["default", "orders", "users"]));
}

#[tokio::test]
async fn an_invalid_creation_or_drop_is_refused_with_the_next_step() {
    let server = TestServer::start().await;
    let create = |name: &str| format!("/column-families/{name}");
    let error = refusal(&server, Method::POST, &create("a%20b"), 400).await;
    assert!(error.contains("'a b'") && error.contains("1 to 64 letters"), "{error}");
    let error = refusal(&server, Method::POST, &create(&"x".repeat(65)), 400).await;
    assert!(error.contains("1 to 64 letters"), "{error}");
    let error = refusal(&server, Method::POST, &create("default"), 400).await;
    assert!(error.contains("always there"), "{error}");
    let error = refusal(&server, Method::DELETE, &create("default"), 400).await;
    assert!(error.contains("default column family cannot be dropped"), "{error}");
    let error = refusal(&server, Method::DELETE, &create("nobody"), 404).await;
    assert!(error.starts_with("Column family 'nobody' not found; there are default, users"), "{error}");
    let error = refusal(&server, Method::DELETE, &create("users"), 400).await;
    assert!(error.contains("storage.column_families") && error.contains("restart them, and then drop it"), "{error}");
    let error = refusal(&server, Method::GET, &create("users"), 405).await;
    assert!(error.contains("POST and DELETE only"), "{error}");
    let error = refusal(&server, Method::POST, "/column-families", 405).await;
    assert!(error.contains("GET only"), "{error}");
    let page = super::http_client().delete(server.url(&create("users"))).header("origin", "http://somewhere");
    assert_eq!(page.send().await.expect("an answer").status().as_u16(), 403);
}

#[tokio::test]
async fn the_number_of_families_is_limited() {
    let server = TestServer::start().await;
    for number in 0..kv_store::MAX_COLUMN_FAMILIES {
        assert_eq!(ask(&server, Method::POST, &format!("/column-families/f{number}")).await.0, 200);
    }
    let error = refusal(&server, Method::POST, "/column-families/one-more", 400).await;
    assert!(error.contains("no more fit"), "{error}");
}

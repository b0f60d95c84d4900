//! Authentication and permissions through real sockets: what a client without an identity gets, and
//! the ways around a permission that other stores had.

use kv_api::thrift::{Method, ThriftCall, ThriftReply, ThriftRequest};
use reqwest::StatusCode;
use serde_json::Value;

use super::commits::{commit, operation};
use super::methods::every_call;
use super::*;
use crate::access::{HttpMethod, Route, Rule, digest_of, rule_of_method, token_text};

pub(super) fn token(id: u64) -> String {
    token_text(id, &[id as u8; 32])
}

fn hash(id: u64) -> String {
    digest_of(&token(id)).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A server with authentication: token 1 is that of root.
pub(super) struct Guarded {
    pub(super) server: TestServer,
    http: reqwest::Client,
}

impl Guarded {
    pub(super) async fn start() -> Guarded {
        Guarded::with(|_| {}).await
    }

    async fn with(change: impl FnOnce(&mut Config)) -> Guarded {
        let guarded = Guarded { server: TestServer::with(change).await, http: reqwest::Client::new() };
        guarded.post(None, &format!("/auth/enable?id=1&sha256={}", hash(1))).await;
        guarded
    }

    pub(super) async fn ask(&self, method: HttpMethod, token: Option<u64>, path: &str) -> (StatusCode, Value) {
        let method = method.name().parse().expect("a method");
        let request = self.http.request(method, self.server.url(path));
        let request = match token {
            Some(id) => request.bearer_auth(self::token(id)),
            None => request,
        };
        let answer = tokio::time::timeout(PATIENCE, request.send()).await.expect("an answer").expect("HTTP");
        let status = answer.status();
        (status, serde_json::from_str(&answer.text().await.expect("text")).unwrap_or(Value::Null))
    }

    /// A change that must succeed.
    async fn post(&self, token: Option<u64>, path: &str) {
        let (status, body) = self.ask(HttpMethod::Post, token, path).await;
        assert_eq!(status, StatusCode::OK, "{path}: {body}");
    }

    async fn delete(&self, path: &str) {
        let (status, body) = self.ask(HttpMethod::Delete, Some(1), path).await;
        assert_eq!(status, StatusCode::OK, "{path}: {body}");
    }

    /// Creates a user whose role has these grants, and its token.
    pub(super) async fn user(&self, name: &str, id: u64, grants: &[&str]) {
        let encoded = |grant: &&str| format!("grant={}", grant.replace(' ', "%20").replace('\\', "%5C"));
        let grants: Vec<String> = grants.iter().map(encoded).collect();
        self.post(Some(1), &format!("/auth/roles/of-{name}?{}", grants.join("&"))).await;
        self.post(Some(1), &format!("/auth/users/{name}?role=of-{name}")).await;
        self.post(Some(1), &format!("/auth/tokens/{id:x}?user={name}&sha256={}", hash(id))).await;
    }

    /// A client with the identity of this token.
    pub(super) async fn client(&self, id: u64) -> Client {
        let mut client = self.server.client().await;
        let reply = client.call(wire::AuthenticateRequest { token: token(id).into() }).await;
        assert!(reply.success && reply.user.is_some(), "{reply:?}");
        client
    }
}

/// The code of the error in a reply.
fn code(reply: &ThriftReply) -> Option<String> {
    match reply {
        ThriftReply::Get(reply) => reply.error_code.clone(),
        ThriftReply::SetKey(reply) => reply.error_code.clone(),
        ThriftReply::GetReadVersion(reply) => reply.error_code.clone(),
        ThriftReply::AtomicCommit(reply) => reply.error_code.clone(),
        ThriftReply::SnapshotRead(reply) => reply.error_code.clone(),
        ThriftReply::SnapshotGet(reply) => reply.error_code.clone(),
        ThriftReply::SnapshotGetRange(reply) => reply.error_code.clone(),
        ThriftReply::GetRange(reply) => reply.error_code.clone(),
        ThriftReply::DeleteKey(reply) => reply.error_code.clone(),
        ThriftReply::Ping(_) => None,
        ThriftReply::Authenticate(reply) => reply.error_code.clone(),
        ThriftReply::SetVersionstampedKey(reply) => reply.error_code.clone(),
        ThriftReply::SetVersionstampedValue(reply) => reply.error_code.clone(),
        ThriftReply::AddReadConflict(reply) => reply.error_code.clone(),
        ThriftReply::AddReadConflictRange(reply) => reply.error_code.clone(),
        ThriftReply::SetReadVersion(reply) => reply.error_code.clone(),
        ThriftReply::GetCommittedVersion(reply) => reply.error_code.clone(),
        ThriftReply::SetFaultInjection(reply) => reply.error_code.clone(),
        ThriftReply::GetClusterHealth(reply) => reply.error_code.clone(),
        ThriftReply::GetDatabaseStats(reply) => reply.error_code.clone(),
        ThriftReply::GetNodeInfo(reply) => reply.error_code.clone(),
        ThriftReply::PinSnapshot(reply) => reply.error_code.clone(),
        ThriftReply::UnpinSnapshot(reply) => reply.error_code.clone(),
        ThriftReply::Exception(exception) => Some(format!("exception: {exception}")),
    }
}

async fn code_of<R: ThriftRequest>(client: &mut Client, request: R) -> Option<String> {
    code(&client.call_all(vec![request.into()]).await[0])
}

async fn forbids<R: ThriftRequest>(client: &mut Client, request: R) -> bool {
    code_of(client, request).await.as_deref() == Some("FORBIDDEN")
}

/// Many calls at once, so that one that slipped through would show itself in the data.
#[tokio::test]
async fn without_an_identity_every_method_but_the_open_ones_is_refused_and_has_no_effect() {
    let guarded = Guarded::start().await;
    let mut client = guarded.server.client().await;
    let calls: Vec<ThriftCall> =
        every_call().into_iter().filter(|call| call.method() != Method::Authenticate).collect();
    assert_eq!(calls.len() + 1, Method::ALL.len(), "each method is tried");
    let methods: Vec<Method> = calls.iter().map(ThriftCall::method).collect();
    let before = guarded.server.manager.database().applied_version();
    for (method, reply) in methods.iter().zip(client.call_all(calls).await) {
        let expected = (rule_of_method(*method) != Rule::Open).then(|| "UNAUTHENTICATED".to_string());
        assert_eq!(code(&reply), expected, "{method:?}");
    }
    assert_eq!(guarded.server.manager.database().applied_version(), before, "nothing was written");
}

#[tokio::test]
async fn without_an_identity_every_route_but_the_open_ones_is_refused() {
    let guarded = Guarded::start().await;
    for route in Route::ALL {
        let (method, pattern) = route.place();
        let path = pattern.replace("{name}", "x").replace("{id}", "7");
        let is_open = route.rule() == Rule::Open;
        let (status, body) = guarded.ask(method, None, &path).await;
        assert_eq!(status, if is_open { StatusCode::OK } else { StatusCode::UNAUTHORIZED }, "{path}");
        assert!(is_open || body["error"].as_str().is_some_and(|error| error.contains("authenticat")), "{path}: {body}");
        let (status, _) = guarded.ask(method, Some(9), &path).await;
        assert_eq!(status, if is_open { StatusCode::OK } else { StatusCode::UNAUTHORIZED }, "a wrong token: {path}");
    }
}

#[tokio::test]
async fn a_user_without_grants_is_forbidden_every_route_but_the_open_ones() {
    let guarded = Guarded::start().await;
    guarded.user("eve", 2, &[]).await;
    for route in Route::ALL {
        let (method, pattern) = route.place();
        let path = pattern.replace("{name}", "x").replace("{id}", "7");
        let expected = if route.rule() == Rule::Open { StatusCode::OK } else { StatusCode::FORBIDDEN };
        assert_eq!(guarded.ask(method, Some(2), &path).await.0, expected, "{path}");
    }
}

#[tokio::test]
async fn an_identity_holds_for_the_connection_and_takes_effect_before_its_reply() {
    let guarded = Guarded::start().await;
    let mut client = guarded.server.client().await;
    let authenticate = wire::AuthenticateRequest { token: token(1).into() };
    let replies =
        client.call_all(vec![get(b"k").into(), authenticate.into(), set(b"k", b"v").into(), get(b"k").into()]);
    let codes: Vec<Option<String>> = replies.await.iter().map(code).collect();
    assert_eq!(codes, [Some("UNAUTHENTICATED".to_string()), None, None, None]);
    let mut other = guarded.server.client().await;
    assert_eq!(code_of(&mut other, get(b"k")).await.as_deref(), Some("UNAUTHENTICATED"));
    let with_token = wire::GetRequest { auth_token: Some(token(1).into()), ..get(b"k") };
    assert_eq!(code_of(&mut other, with_token).await, None, "the token of this request");
    let health = wire::GetClusterHealthRequest { auth_token: Some(token(1).into()) };
    assert_eq!(code_of(&mut other, health).await, None, "a field that was always there");
    assert_eq!(code_of(&mut other, get(b"k")).await.as_deref(), Some("UNAUTHENTICATED"));
}

#[tokio::test]
async fn a_refused_token_is_the_reason_for_the_refusals_after_it() {
    let guarded = Guarded::start().await;
    let mut client = guarded.server.client().await;
    let reply = client.call(wire::AuthenticateRequest { token: token(9).into() }).await;
    assert_eq!((reply.success, reply.error_code.as_deref()), (false, Some("UNAUTHENTICATED")));
    let error = client.call(get(b"k")).await.error.expect("an error");
    assert!(error.contains("the token is not valid"), "{error}");
}

/// GHSA-xg4h-6gfc-h4m8 and its kind: a permission for some keys that reaches further.
#[tokio::test]
async fn a_range_or_a_selector_reaches_no_further_than_the_grant() {
    let guarded = Guarded::start().await;
    guarded.user("eve", 2, &["read default prefix:b"]).await;
    let mut root = guarded.client(1).await;
    for key in [b"a", b"b", b"c"] {
        root.call(set(key, b"v")).await;
    }
    let mut eve = guarded.client(2).await;
    let range = |begin: &[u8], end: &[u8]| wire::GetRangeRequest {
        begin_key: Some(begin.to_vec()),
        end_key: Some(end.to_vec()),
        ..everything()
    };
    let rows = eve.call(range(b"b", b"c")).await;
    assert_eq!(rows.key_values.len(), 1, "{rows:?}");
    for beyond in [
        range(b"b", b"c\0"),
        range(b"a", b"c"),
        everything(),
        wire::GetRangeRequest { end_or_equal: Some(true), ..range(b"b", b"c") },
        wire::GetRangeRequest { end_offset: Some(1), ..range(b"b", b"c") },
    ] {
        assert!(forbids(&mut eve, beyond).await);
    }
    let selector = |offset| Some(wire::KeySelector { key: b"b".to_vec(), or_equal: false, offset });
    let from = |begin| wire::GetRangeRequest { begin_selector: begin, ..range(b"", b"c") };
    assert!(!forbids(&mut eve, from(selector(1))).await, "it ends at the key that it names");
    assert!(forbids(&mut eve, from(selector(0))).await, "it walks below the grant");
    assert!(forbids(&mut eve, from(selector(2))).await, "it walks as far as there are keys");
    let snapshot = ranges::snapshot(range(b"a", b"c"), 2);
    assert!(forbids(&mut eve, snapshot).await, "the past has the same permissions");
}

/// CVE-2026-33343 and its kind: a request inside of another one.
#[tokio::test]
async fn an_operation_inside_a_commit_needs_what_it_needs_alone() {
    let guarded = Guarded::start().await;
    guarded.user("eve", 2, &["read,write default prefix:b"]).await;
    let mut eve = guarded.client(2).await;
    let good = || operation("set", b"b", Some(b"v"));
    assert_eq!(code_of(&mut eve, commit(0, vec![good()])).await, None);
    for bad in [
        operation("set", b"a", Some(b"v")),
        operation("delete", b"c", None),
        operation("clear_range", b"a", Some(b"c")),
        operation("clear_range", b"b", Some(b"c\0")),
        operation("add", b"a", Some(b"\x01")),
        operation("SET_VERSIONSTAMPED_KEY", &[0; 11], Some(b"v")),
        wire::Operation { column_family: Some("users".to_string()), ..good() },
    ] {
        let name = format!("{bad:?}");
        assert!(forbids(&mut eve, commit(0, vec![good(), bad])).await, "{name}");
    }
    let version = eve.call(wire::GetReadVersionRequest { auth_token: None }).await.read_version;
    let conflicts: [wire::AtomicCommitRequest; 3] = [
        wire::AtomicCommitRequest { read_conflict_keys: vec![b"b".to_vec()], ..commit(version, vec![good()]) },
        wire::AtomicCommitRequest {
            read_conflicts: Some(vec![wire::KeyRef { key: b"a".to_vec(), column_family: None }]),
            ..commit(version, vec![good()])
        },
        wire::AtomicCommitRequest {
            read_conflict_ranges: Some(vec![wire::KeyRange {
                begin_key: b"b".to_vec(),
                end_key: b"d".to_vec(),
                column_family: None,
            }]),
            ..commit(version, Vec::new())
        },
    ];
    for conflict in conflicts {
        assert!(forbids(&mut eve, conflict).await, "a conflict tells that somebody wrote");
    }
}

#[tokio::test]
async fn a_commit_that_is_refused_changes_nothing() {
    let guarded = Guarded::start().await;
    guarded.user("eve", 2, &["write default prefix:b"]).await;
    let mut eve = guarded.client(2).await;
    let operations = vec![operation("set", b"b", Some(b"v")), operation("set", b"a", Some(b"v"))];
    assert!(forbids(&mut eve, commit(0, operations)).await);
    assert!(!guarded.client(1).await.call(get(b"b")).await.found);
    assert!(forbids(&mut eve, get(b"b")).await, "to write is not to read");
}

/// CVE-2026-33413 and its kind: a way to the state of the cluster without a permission.
#[tokio::test]
async fn reports_and_faults_need_their_verbs() {
    let guarded = Guarded::with(|config| config.server.allow_fault_injection = true).await;
    guarded.user("eve", 2, &["read,write *"]).await;
    guarded.user("mon", 3, &["admin:status *"]).await;
    let (mut eve, mut mon) = (guarded.client(2).await, guarded.client(3).await);
    let stats = || wire::GetDatabaseStatsRequest { auth_token: None, include_detailed_stats: None };
    assert!(forbids(&mut eve, stats()).await && !forbids(&mut mon, stats()).await);
    let fault = || wire::FaultInjectionRequest {
        fault_type: "TIMEOUT".to_string(),
        probability: Some(1.0.into()),
        duration_ms: None,
        target_operation: None,
        auth_token: None,
    };
    assert!(forbids(&mut eve, fault()).await && forbids(&mut mon, fault()).await);
    assert!(forbids(&mut mon, get(b"k")).await && forbids(&mut mon, everything()).await);
    for (path, for_eve) in [("/status", 403), ("/metrics", 403), ("/auth", 403), ("/rows/hash", 200)] {
        assert_eq!(guarded.ask(HttpMethod::Get, Some(2), path).await.0.as_u16(), for_eve, "{path}");
    }
    assert_eq!(guarded.ask(HttpMethod::Get, Some(3), "/metrics").await.0, StatusCode::OK);
    assert_eq!(guarded.ask(HttpMethod::Get, Some(3), "/rows/hash").await.0, StatusCode::FORBIDDEN);
    assert_eq!(guarded.ask(HttpMethod::Post, Some(3), "/failover").await.0, StatusCode::FORBIDDEN);
    assert_eq!(guarded.ask(HttpMethod::Post, Some(2), "/auth/users/x?role=root").await.0, StatusCode::FORBIDDEN);
    assert_eq!(guarded.ask(HttpMethod::Post, Some(2), "/column-families/x").await.0, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn the_names_of_other_families_are_told_only_to_those_who_may_know_them() {
    let guarded = Guarded::start().await;
    guarded.user("eve", 2, &["read nope"]).await;
    let unknown = || wire::GetRequest { column_family: Some("nope".to_string()), ..get(b"k") };
    let error = guarded.client(2).await.call(unknown()).await.error.expect("an error");
    assert!(error.contains("nope") && !error.contains("users"), "{error}");
    let error = guarded.client(1).await.call(unknown()).await.error.expect("an error");
    assert!(error.contains("users"), "{error}");
}

#[tokio::test]
async fn a_revoked_token_and_a_smaller_role_hold_for_connections_that_are_open() {
    let guarded = Guarded::start().await;
    guarded.user("eve", 2, &["read,write *"]).await;
    let mut eve = guarded.client(2).await;
    assert_eq!(code_of(&mut eve, set(b"k", b"v")).await, None);
    guarded.post(Some(1), "/auth/roles/of-eve?grant=read%20*").await;
    assert!(forbids(&mut eve, set(b"k", b"v")).await);
    assert_eq!(code_of(&mut eve, get(b"k")).await, None);
    guarded.delete("/auth/tokens/2").await;
    assert_eq!(code_of(&mut eve, get(b"k")).await.as_deref(), Some("UNAUTHENTICATED"));
}

#[tokio::test]
async fn the_policy_is_shown_without_hashes_and_decisions_are_explained() {
    let guarded = Guarded::start().await;
    guarded.user("eve", 2, &["read,write users prefix:eu/"]).await;
    let (_, policy) = guarded.ask(HttpMethod::Get, Some(1), "/auth").await;
    assert_eq!(policy["enabled"], true);
    assert!(policy.to_string().contains("read,write users prefix:eu/"), "{policy}");
    assert!(
        !policy.to_string().contains(&hash(2)[..16]) && policy.to_string().contains("0000000000000002"),
        "{policy}"
    );
    let check = async |key: &str| {
        let path = format!("/auth/check?user=eve&verb=write&family=users&key={key}");
        guarded.ask(HttpMethod::Get, Some(1), &path).await.1
    };
    assert_eq!(check("65752f31").await["allowed"], true);
    let access = guarded.ask(HttpMethod::Get, Some(1), "/status").await.1["access"].take();
    assert_eq!((&access["enabled"], &access["revision"]), (&true.into(), &policy["revision"]));
    assert_eq!((&access["users"], &access["roles"], &access["tokens"]), (&2.into(), &6.into(), &2.into()));
    assert!(!access.to_string().contains("eve"), "who may see the status need not know the names: {access}");
    let denied = check("7573").await;
    assert_eq!(denied["allowed"], false);
    assert!(denied["reasons"].to_string().contains("do not add up to `write`"), "{denied}");
}

#[tokio::test]
async fn without_authentication_everybody_may_do_everything_as_before() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    let reply = client.call(wire::AuthenticateRequest { token: token(7).into() }).await;
    assert_eq!((reply.success, reply.user), (true, None));
    assert!(client.call(set(b"k", b"v")).await.success);
}

#[tokio::test]
async fn the_audit_log_tells_who_did_what_and_who_was_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("audit.log");
    let guarded = Guarded::with(|config| {
        config.audit.file = Some(file.clone());
        config.audit.keys = crate::access::AuditKeys::Full;
    })
    .await;
    guarded.user("eve", 2, &["write default prefix:b"]).await;
    let mut eve = guarded.client(2).await;
    eve.call(set(b"b", b"value")).await;
    eve.call(get(b"b")).await;
    guarded.server.client().await.call(set(b"b", b"value")).await;
    let lines: Vec<Value> = loop {
        let text = std::fs::read_to_string(&file).expect("a file");
        let lines: Vec<Value> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        if lines.iter().filter(|line| line["method"] == "setKey").count() == 2 {
            break lines;
        }
        tokio::task::yield_now().await;
    };
    let of = |method: &str| lines.iter().filter(|line| line["method"] == method).collect::<Vec<_>>();
    let shown = |line: &Value| format!("{} {} {} {}", line["user"], line["by"], line["keys"], line["outcome"]);
    assert_eq!(shown(of("setKey")[0]), r#""eve" "token" ["b"] "ok""#);
    assert_eq!(shown(of("setKey")[1]), r#"null null null "UNAUTHENTICATED""#);
    assert_eq!(shown(of("get")[0]), r#""eve" "token" ["b"] "FORBIDDEN""#);
    let changes: Vec<&Value> = lines.iter().map(|line| &line["change"]).filter(|change| !change.is_null()).collect();
    assert_eq!(changes[0], "enable authentication with token 0000000000000001");
    assert!(changes.iter().any(|change| **change == "set role of-eve to write default prefix:b"), "{changes:?}");
    let text = std::fs::read_to_string(&file).expect("a file");
    assert!(!text.contains(&hash(2)) && !text.contains(&token(2)) && !text.contains("value"), "{text}");
}

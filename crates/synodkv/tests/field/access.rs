//! Tests of authentication: rights that are taken away under load, servers that cannot know what changed, and logs
//! that must not hold a token.

use std::collections::BTreeSet;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use kv_api::thrift::generated as wire;
use reqwest::Method;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::{Cluster, Server, Setup, assert_exit, cli, run, signal, text};
use crate::thrift::Client;
use crate::tls::Certificates;
use crate::waiting::eventually;

/// The folder with the token of root, after authentication was enabled at this server.
struct Root {
    folder: TempDir,
    admin: String,
}

impl Root {
    fn enable(server: &Server, flags: &[&str]) -> Root {
        let root = Root { folder: tempfile::tempdir().expect("a folder"), admin: server.admin.clone() };
        let file = root.file();
        assert_exit(&root.cli(&[&["enable", "--root-token-file", &file], flags].concat()), 0);
        root
    }

    fn file(&self) -> String {
        self.folder.path().join("root.token").display().to_string()
    }

    fn token(&self) -> String {
        fs::read_to_string(self.file()).expect("a file").trim().to_string()
    }

    /// `auth` with these arguments, on behalf of root.
    fn cli(&self, arguments: &[&str]) -> std::process::Output {
        let file = self.file();
        let token: &[&str] = if fs::exists(&file).expect("a folder") { &["--token-file", &file] } else { &[] };
        cli("127.0.0.1:1", &self.admin, &[&["auth"], arguments, token].concat(), b"")
    }

    /// A new user with these grants. Returns its token.
    fn user(&self, name: &str, grants: &[&str]) -> String {
        let grants: Vec<&str> = grants.iter().flat_map(|grant| ["--grant", grant]).collect();
        assert_exit(&self.cli(&[&["role", "set", name], &grants[..]].concat()), 0);
        assert_exit(&self.cli(&["user", "add", name, "--role", name]), 0);
        let created = self.cli(&["token", "create", name]);
        assert_exit(&created, 0);
        text(&created.stdout).trim().to_string()
    }

    /// A request to the admin interface of this server, on behalf of root.
    async fn ask(&self, server: &Server, method: Method, path: &str) -> (u16, String) {
        let client = crate::harness::http_client().timeout(Duration::from_secs(30)).build().expect("a client");
        let request = client.request(method, format!("http://{}{path}", server.admin)).bearer_auth(self.token());
        let answer = request.send().await.expect("an answer");
        (answer.status().as_u16(), answer.text().await.expect("text"))
    }
}

/// The part of a token that is no secret.
fn id_of(token: &str) -> &str {
    token.split('_').nth(1).expect("a token")
}

/// A connection on behalf of the holder of this token, which the server may have to hear of first.
async fn connect(server: &Server, token: &str) -> Client {
    let mut client = Client::connect(&server.thrift).await.expect("it listens");
    eventually("the server knows the token", async || {
        let reply = client.call(wire::AuthenticateRequest::new(token.into())).await?;
        reply.error.map_or(Ok(()), Err)
    })
    .await;
    client
}

fn get(key: &str) -> wire::GetRequest {
    wire::GetRequest { key: key.as_bytes().to_vec(), column_family: None, consistency: None, auth_token: None }
}

fn set(key: &str) -> wire::SetRequest {
    wire::SetRequest { key: key.as_bytes().to_vec(), value: b"v".to_vec(), column_family: None, auth_token: None }
}

/// One request of the load, and what became of it.
struct Asked {
    began: Instant,
    /// The key that it writes; `None` for a read.
    writes: Option<String>,
    /// The code of its error.
    refused: Option<String>,
}

const REQUESTS: u64 = 10_000;
/// How many requests have begun when the rights are taken away.
const REVOKED_AFTER: u64 = 3_000;

/// Half of the requests write, and half read; each connection has one under way.
async fn load(cluster: &Cluster, token: &str, name: &'static str, begun: &Arc<AtomicU64>) -> Vec<Asked> {
    let mut workers = tokio::task::JoinSet::new();
    for (number, server) in cluster.servers.iter().cycle().take(24).enumerate() {
        let (mut client, begun) = (connect(server, token).await, begun.clone());
        workers.spawn(async move {
            let mut asked = Vec::new();
            loop {
                let place = begun.fetch_add(1, Ordering::Relaxed);
                if place >= REQUESTS {
                    return asked;
                }
                let (began, key) = (Instant::now(), format!("{name}/{number}/{place}"));
                let writes = place.is_multiple_of(2);
                let refused = match writes {
                    true => client.call(set(&key)).await.expect("an answer").error_code,
                    false => client.call(get(&key)).await.expect("an answer").error_code,
                };
                asked.push(Asked { began, writes: writes.then_some(key), refused });
            }
        });
    }
    workers.join_all().await.into_iter().flatten().collect()
}

/// Keys of this round that are there.
async fn written(server: &Server, root: &Root, name: &str) -> BTreeSet<String> {
    let mut client = connect(server, &root.token()).await;
    let mut range =
        wire::GetRangeRequest::new(None, None, None, None, None, None, 0, None, None, None, None, None, None, None);
    (range.begin_key, range.end_key) = (Some(format!("{name}/").into_bytes()), Some(format!("{name}0").into_bytes()));
    let rows = client.call(range).await.expect("an answer");
    assert!(rows.error.is_none() && !rows.has_more, "{:?}", rows.error);
    rows.key_values.into_iter().map(|row| String::from_utf8(row.key).expect("text")).collect()
}

/// In each round the rights are taken away in another way, at another server.
#[test]
fn no_request_succeeds_that_began_after_its_rights_were_taken_away() {
    run(async {
        let cluster = Cluster::start(Setup::default()).await;
        let root = Root::enable(&cluster.servers[0], &[]);
        type PathOfToken = fn(&str) -> String;
        let rounds: [(&'static str, Method, PathOfToken); 3] = [
            ("revoked", Method::DELETE, |token| format!("/auth/tokens/{}", id_of(token))),
            ("disabled", Method::POST, |_| "/auth/users/disabled/disabled?value=1".to_string()),
            ("weakened", Method::POST, |_| {
                "/auth/roles/weakened?grant=read,write%20default%20prefix:other".to_string()
            }),
        ];
        for (round, (name, method, path)) in rounds.into_iter().enumerate() {
            let token = root.user(name, &[&format!("read,write default prefix:{name}/")]);
            let begun = Arc::new(AtomicU64::new(0));
            let revoking = async {
                eventually("the load is under way", async || match begun.load(Ordering::Relaxed) {
                    REVOKED_AFTER.. => Ok(()),
                    few => Err(format!("{few} requests")),
                })
                .await;
                let (status, body) = root.ask(&cluster.servers[round], method, &path(&token)).await;
                let acknowledged = Instant::now();
                assert_eq!(status, 200, "{body}");
                acknowledged
            };
            let (asked, acknowledged) = tokio::join!(load(&cluster, &token, name, &begun), revoking);

            assert_eq!(asked.len() as u64, REQUESTS);
            let (late, early): (Vec<&Asked>, Vec<&Asked>) = asked.iter().partition(|one| one.began > acknowledged);
            assert!(late.len() > 100, "{name}: only {} requests began afterwards", late.len());
            let through = late.iter().filter(|one| one.refused.is_none()).count();
            assert_eq!(through, 0, "{name}: of {} requests that began afterwards, so many succeeded", late.len());
            let served = early.iter().filter(|one| one.refused.is_none()).count();
            assert!(served > 1_000, "{name}: only {served} requests were served before");
            for one in &asked {
                let known = one.refused.as_deref().is_none_or(|code| ["UNAUTHENTICATED", "FORBIDDEN"].contains(&code));
                assert!(known, "{name}: {:?}", one.refused);
            }
            // What was refused has not happened, and what was acknowledged has.
            for server in &cluster.servers {
                let succeeded = asked.iter().filter(|one| one.refused.is_none());
                let expected: BTreeSet<String> = succeeded.filter_map(|one| one.writes.clone()).collect();
                assert_eq!(written(server, &root, name).await, expected, "{name}");
            }
        }
    });
}

#[test]
fn a_server_without_a_primary_answers_nothing_after_the_time_that_is_set() {
    run(async {
        let cluster = Cluster::start(Setup::toml("[auth]\nmax_staleness_ms = 400\n")).await;
        let primary = cluster.primary().await;
        let root = Root::enable(&cluster.servers[0], &[]);
        // A secondary without any other replica, and then a primary without one.
        for left in [(primary + 1) % 3, primary] {
            let server = &cluster.servers[left];
            let others = || cluster.servers.iter().filter(|other| other.thrift != server.thrift);
            // Before it has applied that authentication is enabled, it serves everybody.
            eventually("authentication is enabled here", async || match server.get("/status").await?.0 {
                401 => Ok(()),
                other => Err(format!("{other} without a token")),
            })
            .await;
            let mut client = connect(server, &root.token()).await;
            let stale = || wire::GetRequest { consistency: Some("stale".to_string()), ..get("k") };
            eventually("stale reads are served", async || match client.call(stale()).await?.error {
                None => Ok(()),
                Some(error) => Err(error),
            })
            .await;
            others().for_each(|other| signal(other.id(), "STOP"));
            let error = eventually("stale reads are refused", async || {
                let reply = client.call(stale()).await?;
                reply.error.filter(|_| reply.error_code.as_deref() == Some("NO_PRIMARY")).ok_or("served".to_string())
            })
            .await;
            // Far less than the default, which is 5 s: more than that would say that the setting has no effect.
            let told: u64 = error.split(' ').filter_map(|word| word.parse().ok()).next().expect("a time");
            assert!((400..4_000).contains(&told), "{error}");
            let (status, body) = root.ask(server, Method::GET, "/status").await;
            assert!(status == 503 && body.contains("does not know who may do what"), "{status} {body}");
            assert_eq!(server.get("/health/live").await.expect("an answer").0, 200);
            others().for_each(|other| signal(other.id(), "CONT"));
            eventually("stale reads are served again", async || client.call(stale()).await?.error.map_or(Ok(()), Err))
                .await;
        }
    });
}

/// Signed with a key that was thrown away. Of user `mallory`, for 2100.
const JWT: &str = "eyJhbGciOiAiRWREU0EifQ.eyJpc3MiOiAiaHR0cHM6Ly9pc3N1ZXIiLCAiYXVkIjogInN5bm9ka3YiLCAic3ViIjogIm1hbGxv\
                   cnkiLCAiZXhwIjogNDEwMjQ0NDgwMCwgInN5bm9ka3Zfcm9sZXMiOiBbInJlYWRlciJdfQ.l63JWxR1QUyXK66-eUv_khceJEDk7\
                   uhOXKHqm4pp43SODoEPqdVtlb7zaPHH7Se4VgExYUcUt0OzrrQ9tNCEDA";
const JWT_KEYS: &str = r#"{"keys":[{"kty":"OKP","crv":"Ed25519","x":"YDPEIqxF47JLg0VvQE7IKsiaSp_HrujDThJdjJNSULY"}]}"#;

/// Sends these bytes and reads until the server has said all that it has to say about them.
async fn raw(address: &str, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.expect("it listens");
    let _the_server_may_have_hung_up = stream.write_all(bytes).await;
    stream.shutdown().await.expect("a socket");
    let mut answer = Vec::new();
    let _reset_or_closed = stream.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).into_owned()
}

/// Shows this token in every way, and returns what the server answered.
async fn show(server: &Server, token: &str) -> Vec<String> {
    let mut answers = Vec::new();
    let mut client = Client::connect(&server.thrift).await.expect("it listens");
    let of_request = || Some(token.into());
    let requests = [
        wire::GetRequest { auth_token: of_request(), ..get("k") },
        wire::GetRequest { auth_token: of_request(), ..get("") },
        wire::GetRequest { auth_token: of_request(), column_family: Some("nowhere".into()), ..get("k") },
    ];
    for request in requests {
        answers.push(format!("{:?}", client.call(request).await));
    }
    answers.push(format!("{:?}", client.call(wire::SetRequest { auth_token: of_request(), ..set("k") }).await));
    answers.push(format!("{:?}", client.call(wire::AuthenticateRequest::new(token.into())).await));
    answers.push(format!("{:?}", client.call(get("k")).await));
    // In messages that are cut off, wrong, or too long.
    let mut message = Vec::new();
    let call = wire::AuthenticateRequest::new(token.into()).into();
    kv_api::thrift::wire::encode_call(&mut message, Default::default(), 1, &call);
    answers.push(raw(&server.thrift, &message[..message.len() - 3]).await);
    for at in 0..message.len().min(40) {
        let mut changed = message.clone();
        changed[at] ^= 0x55;
        // A reply repeats the name of the method. If its length is wrong, what comes after it is part of it.
        let _repeats_what_was_sent = raw(&server.thrift, &changed).await;
    }
    answers.push(raw(&server.thrift, token.as_bytes()).await);
    for scheme in ["Bearer ", "bearer  ", "Basic ", "", "Bearer \u{7f}", "Bearer x "] {
        for path in ["/status", "/auth", "/auth/check?user=x", "/nowhere", "/health/live"] {
            let request = format!(
                "GET {path} HTTP/1.1\r\nhost: x\r\nauthorization: {scheme}{token}\r\nconnection: close\r\n\r\n"
            );
            answers.push(raw(&server.admin, request.as_bytes()).await);
        }
    }
    let long = format!("GET /status HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\n\r\n", token.repeat(2_000));
    answers.push(raw(&server.admin, long.as_bytes()).await);
    answers
}

#[test]
fn no_log_answer_or_metric_shows_a_token_however_it_comes() {
    run(async {
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name).display().to_string();
        fs::write(path("keys.json"), JWT_KEYS).expect("a file");
        let certificates = Certificates::new();
        certificates.issue(&["server"]);
        let toml = certificates.toml("server", "mode = \"allow\"\n")
            + &format!(
                "[log]\nlevel = \"trace\"\n[audit]\nfile = \"{}\"\nreads = \"all\"\nkeys = \"full\"\n\
                 [auth]\njwt_keys = \"{}\"\njwt_issuer = \"https://issuer\"\njwt_audience = \"synodkv\"\n",
                path("audit.log"),
                path("keys.json")
            );
        let mut server = Server::standalone(Setup::toml(&toml)).await;
        let root = Root::enable(&server, &[]);
        let good = root.user("anna", &["read,write *", "admin:status *", "admin:auth *"]);
        let revoked = root.user("eve", &["read *"]);
        assert_exit(&root.cli(&["token", "revoke", id_of(&revoked)]), 0);
        let unknown = format!("synodkv_00000000000000ff_{}", "5ec7e7".repeat(10) + "0000");
        let malformed = format!("synodkv_{}", "5ec7e8".repeat(10));
        let forged = format!("{}{}", &JWT[..JWT.len() - 12], "AAAAAAAAAAAA");
        let tokens = [good.clone(), revoked, unknown, malformed, forged, JWT.to_string(), root.token()];
        let mut answers = Vec::new();
        for token in &tokens {
            answers.extend(show(&server, token).await);
        }
        // Over TLS, by the commands.
        fs::write(path("anna.token"), &good).expect("a file");
        for arguments in [&["get", "k"][..], &["status"], &["auth", "show"], &["auth", "token", "list"]] {
            let output = certificates.cli(&server, &[arguments, &["--token-file", &path("anna.token")]].concat());
            answers.extend([text(&output.stdout), text(&output.stderr)]);
        }
        let (status, metrics) = root.ask(&server, Method::GET, "/metrics").await;
        assert!(status == 200 && metrics.contains("authenticate"), "{metrics}");
        answers.push(metrics);
        assert!(server.stop().await.success());

        let (log, audit) = (server.log_text(), fs::read_to_string(path("audit.log")).expect("a file"));
        for (what, part) in [(&log, "DEBUG"), (&audit, "mallory"), (&audit, "anna")] {
            assert!(what.contains(part), "no {part} in {what}");
        }
        answers.extend([log, audit]);
        for token in &tokens {
            // Any long piece of the secret, which for a JWT is its signature.
            let secret = token.rsplit(['_', '.']).next().expect("a part");
            let pieces = (0..secret.len().saturating_sub(16)).step_by(4).map(|at| &secret[at..at + 16]);
            for piece in pieces {
                let shown = answers.iter().find(|answer| answer.contains(piece));
                assert!(shown.is_none(), "{piece} of {token} is shown: {shown:?}");
            }
        }
    });
}

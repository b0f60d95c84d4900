//! Tests of TLS with clients and operators: certificates that are renewed under load, and peers that
//! half open connections, show wrong certificates, or speak something else.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use kv_client::{Client, ClientError, KeyRef, Options, Tls};
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::{Cluster, PROGRAM, Server, Setup, assert_exit, cli, run, text};
use crate::waiting::eventually;

/// A folder with an authority and the certificates that it signed.
pub struct Certificates {
    folder: TempDir,
}

impl Certificates {
    pub fn new() -> Certificates {
        let folder = tempfile::tempdir().expect("a folder");
        let certificates = Certificates { folder };
        certificates.make(&certificates.path("").display().to_string(), &["init"]);
        certificates
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Runs `cert` on this folder, or on another one.
    fn make(&self, dir: &str, arguments: &[&str]) {
        let mut command = Command::new(PROGRAM);
        let made = command.arg("cert").args(arguments).args(["--dir", dir]).output().expect("the program runs");
        assert_exit(&made, 0);
    }

    pub fn issue(&self, arguments: &[&str]) {
        self.make(&self.path("").display().to_string(), &[&["issue"], arguments].concat());
    }

    /// For a client without a certificate.
    pub fn tls(&self) -> Tls {
        Tls::new(self.path("ca.pem")).expect("an authority")
    }

    fn tls_of(&self, name: &str) -> Tls {
        let (certificate, key) = (self.path(&format!("{name}.pem")), self.path(&format!("{name}.key")));
        Tls::with_identity(self.path("ca.pem"), certificate, key).expect("an identity")
    }

    /// `[server.tls]` and, for the tests' own probes, an admin interface that allows both.
    pub fn toml(&self, certificate: &str, more: &str) -> String {
        let path = |name: &str| self.path(name).display().to_string();
        let (pem, key) = (path(&format!("{certificate}.pem")), path(&format!("{certificate}.key")));
        let files = format!("certificate = \"{pem}\"\nkey = \"{key}\"\n");
        format!("[server.tls]\n{files}{more}[admin.tls]\nmode = \"allow\"\n{files}")
    }

    /// Flags for a command.
    fn flags(&self) -> [String; 2] {
        ["--ca".to_string(), self.path("ca.pem").display().to_string()]
    }

    pub fn cli(&self, server: &Server, arguments: &[&str]) -> Output {
        let [ca, file] = &self.flags();
        cli(&server.thrift, &server.admin, &[arguments, &[ca, file]].concat(), b"")
    }
}

async fn standalone(more: &str) -> (Certificates, Server) {
    let certificates = Certificates::new();
    certificates.issue(&["server"]);
    let server = Server::standalone(Setup::toml(&certificates.toml("server", more))).await;
    (certificates, server)
}

fn patient(tls: Option<Tls>) -> Options {
    Options { tls, request_timeout: Duration::from_secs(30), ..Options::default() }
}

async fn connect(address: &str, tls: Tls) -> Client {
    Client::connect([address.to_string()], patient(Some(tls))).await.expect("it serves")
}

async fn refused(address: &str, tls: Option<Tls>) -> ClientError {
    Client::connect([address.to_string()], patient(tls)).await.map(drop).expect_err("it refuses")
}

/// A figure of `/metrics` with its label.
async fn figure(server: &Server, name: &str) -> i64 {
    let (_, page) = server.get("/metrics").await.expect("an answer");
    let line = page.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("no {name} in {page}"));
    line.rsplit(' ').next().expect("a figure").parse().expect("a number")
}

async fn problems(server: &Server) -> Vec<Value> {
    server.status().await.expect("an answer")["problems"].as_array().cloned().unwrap_or_default()
}

#[test]
fn commands_reach_a_server_with_tls_and_others_are_told_what_is_missing() {
    run(async {
        let (certificates, server) = standalone("").await;
        assert_exit(&certificates.cli(&server, &["set", "k", "v"]), 0);
        assert_eq!(text(&certificates.cli(&server, &["get", "k"]).stdout).trim_end(), "v");
        assert_exit(&certificates.cli(&server, &["status"]), 0);
        assert_exit(&certificates.cli(&server, &["verify"]), 0);
        let bench = ["bench", "--workload", "mixed", "--seconds", "1", "--keys", "100", "--concurrency", "200"];
        let bench = certificates.cli(&server, &[&bench[..], &["--connections", "4", "--format", "json"]].concat());
        assert_exit(&bench, 0);
        let report: Value = serde_json::from_slice(&bench.stdout).expect("JSON");
        assert_eq!(
            report["errors"].as_u64().or_else(|| report["errors"]["total"].as_u64()).unwrap_or(0),
            0,
            "{report}"
        );
        assert_exit(&certificates.cli(&server, &["bench", "--workload", "txn", "--seconds", "1", "--keys", "100"]), 0);

        let without = server.cli(&["get", "k"]);
        assert_exit(&without, 3);
        assert!(text(&without.stderr).contains("this server speaks TLS only"), "{}", text(&without.stderr));
        let wrong = Certificates::new();
        let refused = wrong.cli(&server, &["get", "k"]);
        assert_exit(&refused, 3);
        assert!(text(&refused.stderr).contains("TLS failed: invalid peer certificate"), "{}", text(&refused.stderr));
        assert!(figure(&server, "synodkv_tls_handshakes_total{listener=\"thrift\"}").await > 4);
        assert!(figure(&server, "synodkv_tls_handshake_failures_total{listener=\"thrift\"}").await >= 2);
        let left = figure(&server, "synodkv_certificate_expiry_seconds{listener=\"thrift\"}").await;
        assert!((364 * 86_400..=365 * 86_400).contains(&left), "{left}");
    });
}

#[test]
fn a_profile_spares_all_flags() {
    run(async {
        let (certificates, server) = standalone("").await;
        let home = tempfile::tempdir().expect("a folder");
        fs::create_dir(home.path().join("synodkv")).expect("a folder");
        let profile = format!(
            "[default]\naddr = \"{}\"\nadmin = [\"{}\"]\nca = \"{}\"\n[other]\naddr = \"127.0.0.1:1\"\n",
            server.thrift,
            server.admin,
            certificates.path("ca.pem").display()
        );
        fs::write(home.path().join("synodkv/profiles.toml"), profile).expect("a file");
        let command = |arguments: &[&str]| {
            let mut command = Command::new(PROGRAM);
            command.args(arguments).env_remove("SYNODKV_ADDR").env_remove("SYNODKV_ADMIN");
            command.env("XDG_CONFIG_HOME", home.path()).output().expect("the program runs")
        };
        assert_exit(&command(&["set", "k", "v"]), 0);
        assert_exit(&command(&["verify"]), 0);
        let other = command(&["get", "k", "--profile", "other"]);
        assert_exit(&other, 3);
        assert!(text(&other.stderr).contains("127.0.0.1:1"), "{}", text(&other.stderr));
        let none = command(&["get", "k", "--profile", "none", "--addr", &server.thrift]);
        assert!(text(&none.stderr).contains("TLS only"), "{}", text(&none.stderr));
        let unknown = command(&["get", "k", "--profile", "x"]);
        assert_exit(&unknown, 2);
        assert!(text(&unknown.stderr).contains("there are: default, other"), "{}", text(&unknown.stderr));
    });
}

#[test]
fn one_port_serves_clients_with_and_without_tls_while_they_move() {
    run(async {
        let (certificates, server) = standalone("mode = \"allow\"\n").await;
        let silent = TcpStream::connect(&server.thrift).await.expect("it listens");
        assert_exit(&server.cli(&["set", "k", "v"]), 0);
        assert_exit(&certificates.cli(&server, &["set", "k", "w"]), 0);
        assert_exit(&certificates.cli(&server, &["status"]), 0);
        assert_exit(&server.cli(&["status"]), 0);
        // One that has said nothing may have no request yet.
        let mut byte = [0];
        let waited = tokio::time::timeout(Duration::from_secs(3), silent.peek(&mut byte)).await;
        assert!(waited.is_err(), "a silent client was disconnected: {waited:?}");
    });
}

/// The status line and the body of an answer over TLS.
async fn https_get(server: &Server, tls: &Tls, path: &str) -> String {
    let stream = TcpStream::connect(&server.admin).await.expect("it listens");
    let mut stream = tls.secure(&server.admin, stream).await.expect("it speaks TLS");
    let request = format!("GET {path} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\r\n", server.admin);
    stream.write_all(request.as_bytes()).await.expect("it reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("it answers and ends in good order");
    answer
}

/// A server whose admin interface requires TLS as well.
async fn with_tls_everywhere() -> (Certificates, Server) {
    let certificates = Certificates::new();
    certificates.issue(&["server"]);
    let toml = certificates.toml("server", "");
    let (server_tls, _) = toml.split_once("[admin.tls]").expect("both sections");
    let server = Server::standalone(Setup::toml(server_tls)).await;
    (certificates, server)
}

#[test]
fn the_admin_interface_takes_the_settings_of_the_server() {
    run(async {
        let (certificates, server) = with_tls_everywhere().await;
        let (code, plain) = server.get("/status").await.expect("an answer");
        assert!(code == 400 && plain.contains("speaks HTTPS only"), "{code} {plain}");
        let status = https_get(&server, &certificates.tls(), "/status").await;
        assert!(status.starts_with("HTTP/1.1 200"), "{status}");
        assert_exit(&certificates.cli(&server, &["status"]), 0);
        let without = server.cli(&["status"]);
        assert!(text(&without.stderr).contains("speaks HTTPS only"), "{}", text(&without.stderr));
    });
}

#[test]
fn tls_where_there_is_none_is_said_so() {
    run(async {
        let certificates = Certificates::new();
        let server = Server::standalone(Setup::default()).await;
        for arguments in [&["get", "k"][..], &["status"]] {
            let output = certificates.cli(&server, arguments);
            assert_exit(&output, 3);
            assert!(text(&output.stderr).contains("TLS"), "{}", text(&output.stderr));
        }
        assert_exit(&server.cli(&["set", "k", "v"]), 0);
    });
}

#[test]
fn clients_need_a_certificate_where_one_is_required() {
    run(async {
        let certificates = Certificates::new();
        certificates.issue(&["server"]);
        certificates.issue(&["client", "alice"]);
        let more = format!("client_ca = \"{}\"\n", certificates.path("ca.pem").display());
        let server = Server::standalone(Setup::toml(&certificates.toml("server", &more))).await;
        let client = connect(&server.thrift, certificates.tls_of("client-alice")).await;
        client.set(KeyRef::new("k"), "v").await.expect("a write");
        let error = refused(&server.thrift, Some(certificates.tls())).await;
        assert!(error.to_string().contains("CertificateRequired"), "{error}");
        // A certificate that another authority signed, and one that signed itself.
        let foreign = Certificates::new();
        foreign.issue(&["client", "alice"]);
        for name in ["client-alice", "ca"] {
            let paths = [certificates.path("ca.pem"), foreign.path(&format!("{name}.pem"))];
            let tls = Tls::with_identity(&paths[0], &paths[1], foreign.path(&format!("{name}.key")));
            let error = refused(&server.thrift, Some(tls.expect("an identity"))).await;
            assert!(error.to_string().contains("alert"), "{error}");
        }
        client.set(KeyRef::new("k"), "w").await.expect("others are not disturbed");
    });
}

/// Nothing, the first byte, or the beginning of a long first message.
async fn half_open(address: &str, index: usize) -> TcpStream {
    let beginnings: [&[u8]; 3] = [&[], &[0x16], &[0x16, 3, 1, 0x40, 0, 1, 0, 0x3f, 0xfc, 3, 3]];
    let mut stream = TcpStream::connect(address).await.expect("it listens");
    match stream.write_all(beginnings[index % beginnings.len()]).await {
        Err(error) if ![ErrorKind::BrokenPipe, ErrorKind::ConnectionReset].contains(&error.kind()) => panic!("{error}"),
        Ok(()) | Err(_) => stream,
    }
}

/// Waits until the server has closed all: the oldest at once, and the others after the time for a handshake.
async fn all_close(half_open: Vec<TcpStream>) {
    for mut stream in half_open {
        let mut rest = Vec::new();
        let _reset_or_closed = stream.read_to_end(&mut rest).await;
    }
}

#[test]
fn a_thousand_half_open_handshakes_keep_no_operator_out() {
    run(async {
        let (certificates, server) = with_tls_everywhere().await;
        let tls = certificates.tls();
        let mut crowd = Vec::new();
        for index in 0..1_000 {
            crowd.push(half_open(&server.admin, index).await);
            if index % 50 == 0 {
                let live = https_get(&server, &tls, "/health/live").await;
                assert!(live.starts_with("HTTP/1.1 200"), "{live}");
            }
        }
        all_close(crowd).await;
        let metrics = https_get(&server, &tls, "/metrics").await;
        assert!(metrics.contains("synodkv_tls_handshake_failures_total{listener=\"admin\"} "), "{metrics}");
    });
}

#[test]
fn a_thousand_half_open_handshakes_disturb_nobody() {
    run(async {
        let (certificates, server) = standalone("").await;
        let client = connect(&server.thrift, certificates.tls()).await;
        client.set(KeyRef::new("k"), "v").await.expect("a write");
        let before = server.resident_bytes();
        let mut crowd = Vec::new();
        for index in 0..1_000 {
            crowd.push(half_open(&server.thrift, index).await);
            if index % 50 == 0 {
                client.set(KeyRef::new("k"), "v").await.expect("a write");
                connect(&server.thrift, certificates.tls())
                    .await
                    .set(KeyRef::new("k"), "w")
                    .await
                    .expect("a new client");
            }
        }
        let grown = server.resident_bytes().saturating_sub(before);
        assert!(grown < 64 << 20, "{grown} bytes more");
        all_close(crowd).await;
        assert!(figure(&server, "synodkv_connections_open").await <= 2);
        assert!(figure(&server, "synodkv_tls_handshake_failures_total{listener=\"thrift\"}").await >= 100);
    });
}

#[test]
fn a_reload_that_fails_is_told_and_ends_with_the_file_put_back() {
    run(async {
        let (certificates, server) = standalone("").await;
        assert_eq!(problems(&server).await, Vec::<Value>::new());
        let key = fs::read(certificates.path("server.key")).expect("a file");
        fs::write(certificates.path("server.key"), "nothing").expect("a file");
        assert_exit(&certificates.cli(&server, &["set", "k", "v"]), 0);
        let found = problems(&server).await;
        assert!(found.iter().any(|problem| problem["kind"] == "tls_reload_failed"), "{found:?}");
        assert!(found[0]["text"].as_str().is_some_and(|text| text.contains("server.key holds no private key")));
        assert!(figure(&server, "synodkv_tls_reload_failures_total{listener=\"thrift\"}").await >= 1);
        fs::write(certificates.path("server.key"), key).expect("a file");
        eventually("the problem is over", async || {
            assert_exit(&certificates.cli(&server, &["set", "k", "v"]), 0);
            match problems(&server).await {
                none if none.is_empty() => Ok(()),
                some => Err(format!("{some:?}")),
            }
        })
        .await;
        certificates.issue(&["server", "--days", "5", "--renew"]);
        assert_exit(&certificates.cli(&server, &["set", "k", "v"]), 0);
        let found = problems(&server).await;
        assert!(found.iter().any(|problem| problem["kind"] == "certificate_expires"), "{found:?}");
    });
}

#[test]
fn a_server_does_not_listen_beyond_its_machine_without_tls() {
    let folder = tempfile::tempdir().expect("a folder");
    let serve = |arguments: &[&str], variables: &[(&str, &str)]| {
        let mut command = Command::new(PROGRAM);
        command.arg("serve").args(arguments).args(["--print-config", "--data-dir"]).arg(folder.path().join("data"));
        command.envs(variables.iter().copied()).output().expect("the program runs")
    };
    let refused = serve(&["--thrift-addr", "0.0.0.0:9090"], &[]);
    assert_exit(&refused, 2);
    let message = text(&refused.stderr);
    let lines = ["server.thrift_addr = 0.0.0.0:9090", "--thrift-addr", "[server.tls]", "certificate = ", "key = "];
    for part in lines.into_iter().chain(["`allow_insecure = true` in [server]", "docs/SECURITY.md"]) {
        assert!(message.contains(part), "no {part} in {message}");
    }
    assert_exit(&serve(&["--admin-addr", "10.0.0.1:9190"], &[]), 2);
    let insecure = [("SYNODKV_SERVER_ALLOW_INSECURE", "true")];
    assert_exit(&serve(&["--thrift-addr", "0.0.0.0:9090"], &insecure), 0);
    assert_exit(&serve(&["--thrift-addr", "localhost:9090"], &[]), 0);
    assert_exit(&serve(&["--thrift-addr", "[::1]:9090"], &[]), 0);

    let config = folder.path().join("cluster.toml");
    let list = (0..3).map(|id| {
        let host = format!("10.0.0.{id}");
        format!("[[replication.replicas]]\nid={id}\npeer='{host}:1'\nthrift='{host}:2'\nadmin='{host}:3'\n")
    });
    fs::write(&config, list.collect::<String>()).expect("a file");
    let cluster = ["--config", config.to_str().expect("text"), "--node-id", "1"];
    let refused = serve(&cluster, &insecure);
    assert_exit(&refused, 2);
    let message = text(&refused.stderr);
    for part in ["replication.replicas[].peer of id 1 = 10.0.0.1:1", "[replication.tls]", "replica-1.pem"] {
        assert!(message.contains(part), "no {part} in {message}");
    }
    assert_exit(&serve(&cluster, &[insecure[0], ("SYNODKV_REPLICATION_ALLOW_INSECURE", "true")]), 0);
    let tls = ["CERTIFICATE", "KEY"].map(|name| (format!("SYNODKV_SERVER_TLS_{name}"), "/x".to_string()));
    let peers = ["CA", "CERTIFICATE", "KEY"].map(|name| (format!("SYNODKV_REPLICATION_TLS_{name}"), "/x".to_string()));
    let all: Vec<(&str, &str)> =
        tls.iter().chain(&peers).map(|(name, value)| (name.as_str(), value.as_str())).collect();
    assert_exit(&serve(&cluster, &all), 0);
}

/// Replaces a file as a whole.
fn put(path: &Path, text: &[u8]) {
    let new = path.with_extension("new");
    fs::write(&new, text).expect("a file");
    fs::rename(new, path).expect("the same folder");
}

struct Load {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Load {
    /// Writes over a new connection each time. Panics at the first failure.
    fn start(addresses: &[String], tls: &Tls) -> Load {
        let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let one = |address: &String| {
            let (stop, done, address, tls) = (stop.clone(), done.clone(), address.clone(), tls.clone());
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let client = connect(&address, tls.clone()).await;
                    client
                        .set(KeyRef::new(address.clone()), "v")
                        .await
                        .unwrap_or_else(|error| panic!("{address}: {error}"));
                    done.fetch_add(1, Ordering::Relaxed);
                }
            })
        };
        let tasks = addresses.iter().map(one).collect();
        Load { stop, done, tasks }
    }

    /// Waits for this many more writes.
    async fn more(&self, count: u64) {
        let until = self.done.load(Ordering::Relaxed) + count;
        eventually("the load goes on", async || match self.done.load(Ordering::Relaxed) {
            done if done >= until => Ok(()),
            _ if self.tasks.iter().any(tokio::task::JoinHandle::is_finished) => panic!("a request failed"),
            done => Err(format!("{done} of {until}")),
        })
        .await;
    }

    async fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.expect("no request failed");
        }
    }
}

/// `bench` in the background over lasting connections.
fn bench(cluster: &Cluster, certificates: &Certificates) -> Child {
    let mut command = Command::new(PROGRAM);
    command.args(["bench", "--workload", "put", "--seconds", "5", "--keys", "1000", "--format", "json"]);
    command.args(["--addr", &cluster.thrift()]).args(certificates.flags());
    command.arg("--cert").arg(certificates.path("client-load.pem"));
    command.arg("--key").arg(certificates.path("client-load.key"));
    command.stdout(Stdio::piped()).spawn().expect("the program runs")
}

#[test]
fn the_authority_is_replaced_under_load_without_a_failed_request() {
    run(async {
        let certificates = Certificates::new();
        let issue = |renew: &[&str]| {
            for id in ["0", "1", "2"] {
                certificates.issue(&[&["replica", id], renew].concat());
            }
            certificates.issue(&[&["client", "load"], renew].concat());
        };
        issue(&[]);
        let mut cluster = Cluster::not_started(Setup::default());
        let trusted = certificates.path("trusted.pem");
        let old = fs::read(certificates.path("ca.pem")).expect("a file");
        put(&trusted, &old);
        for (id, server) in cluster.servers.iter_mut().enumerate() {
            let more = format!("client_ca = \"{}\"\n", trusted.display());
            let files = certificates.toml(&format!("replica-{id}"), &more).replace("[admin.tls]", "[unused]");
            let (files, _) = files.split_once("[unused]").expect("both sections");
            let pem = |suffix: &str| certificates.path(&format!("replica-{id}.{suffix}")).display().to_string();
            let peers = format!(
                "[replication.tls]\nca = \"{}\"\ncertificate = \"{}\"\nkey = \"{}\"\n[admin.tls]\nmode = \"off\"\n",
                trusted.display(),
                pem("pem"),
                pem("key")
            );
            let text = fs::read_to_string(&server.config).expect("a configuration");
            fs::write(&server.config, format!("{text}{files}{peers}")).expect("a configuration");
            server.start();
        }
        cluster.ready().await;
        let addresses: Vec<String> = cluster.servers.iter().map(|server| server.thrift.clone()).collect();
        let identity = (certificates.path("client-load.pem"), certificates.path("client-load.key"));
        let tls = Tls::with_identity(&trusted, &identity.0, &identity.1).expect("an identity");
        let stale = certificates.folder.path().join("stale");
        fs::create_dir(&stale).expect("a folder");
        for name in ["client-load.pem", "client-load.key"] {
            fs::copy(certificates.path(name), stale.join(name)).expect("a copy");
        }
        let load = Load::start(&addresses, &tls);
        let bench = bench(&cluster, &certificates);
        load.more(30).await;

        // First everybody believes both authorities, then all get certificates of the new one, and
        // then the old one is no longer believed.
        for name in ["ca.pem", "ca.key"] {
            fs::remove_file(certificates.path(name)).expect("a file");
        }
        certificates.make(&certificates.path("").display().to_string(), &["init"]);
        let new = fs::read(certificates.path("ca.pem")).expect("a file");
        put(&trusted, &[old, new.clone()].concat());
        load.more(60).await;
        issue(&["--renew"]);
        load.more(60).await;
        put(&trusted, &new);
        load.more(60).await;

        let stale = Tls::with_identity(&trusted, stale.join("client-load.pem"), stale.join("client-load.key"));
        let error = refused(&addresses[0], Some(stale.expect("an identity"))).await;
        assert!(error.to_string().contains("alert"), "{error}");
        load.end().await;
        let report = bench.wait_with_output().expect("it ends");
        assert_exit(&report, 0);
        let report: Value = serde_json::from_slice(&report.stdout).expect("JSON");
        assert!(!report["errors"].to_string().contains(|digit: char| ('1'..='9').contains(&digit)), "{report}");

        // Peers connect again with the renewed files.
        let primary = cluster.primary().await;
        let other = &mut cluster.servers[(primary + 1) % 3];
        other.kill().await;
        other.start();
        cluster.ready().await;
        for server in &cluster.servers {
            assert_eq!(figure(server, "synodkv_peer_tls_failures_total").await, 0);
            assert!(figure(server, "synodkv_certificate_expiry_seconds{listener=\"peer\"}").await > 0);
        }
    });
}

//! The interface of clusters to test bodies.

use std::collections::BTreeMap;
use std::time::Duration;

use kv_client::{Client, Database, Options, RangeRead, TransactionOptions, Version};
use serde_json::Value;

use crate::journal;
use crate::links::LinkState;
use crate::waiting::{PATIENCE, eventually};

/// Settings of a test that differ from the defaults.
#[derive(Clone, Debug)]
pub struct Settings {
    pub request_timeout_ms: u64,
    pub no_primary_wait_ms: u64,
    /// Less makes databases write their rows to files sooner.
    pub write_buffer_mb: u32,
    /// Replicas trim their log after a few megabytes, even if another one still needs it.
    pub short_log: bool,
    /// How a process is cut off from the others.
    pub isolation: LinkState,
    /// Replicas have certificates.
    pub tls: bool,
    /// How long versions stay readable.
    pub readable_window_ms: u64,
    /// A replica that came back with an empty disk votes again by itself.
    pub readmits: bool,
}

impl Default for Settings {
    fn default() -> Self {
        // Long timeouts, because the machine may be slow. A test that expects refusals shortens
        // them.
        Settings {
            request_timeout_ms: 30_000,
            no_primary_wait_ms: 20_000,
            write_buffer_mb: 64,
            short_log: false,
            isolation: LinkState::Closed,
            tls: false,
            readable_window_ms: 60_000,
            readmits: true,
        }
    }
}

impl Settings {
    /// For tests that want to see requests refused.
    pub fn impatient() -> Settings {
        Settings { request_timeout_ms: 1_500, no_primary_wait_ms: 700, ..Settings::default() }
    }

    /// For tests that expect refusals but also do much work: requests are refused after a while,
    /// not at once.
    pub fn refusing_soon(self) -> Settings {
        Settings { request_timeout_ms: 8_000, no_primary_wait_ms: 5_000, ..self }
    }

    pub fn with_tls(self) -> Settings {
        Settings { tls: true, ..self }
    }

    pub fn with_silence(self) -> Settings {
        Settings { isolation: LinkState::Silent, ..self }
    }
}

/// Count and hash of all rows of the default family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowsHash {
    pub count: u64,
    pub hashes: Vec<String>,
}

/// A cluster of servers, numbered from 0. Where each runs one replica, the numbers are those of the
/// replicas.
pub trait TestCluster: Sized {
    /// Returns once every server is ready.
    async fn start(settings: Settings) -> Self;

    /// A server's Thrift address. All addresses of a server stay the same over restarts.
    fn thrift(&self, server: usize) -> String;
    fn admin(&self, server: usize) -> String;
    fn servers(&self) -> usize;
    fn is_running(&self, server: usize) -> bool;
    /// The number of databases.
    fn replicas(&self) -> usize;
    fn server_of(&self, replica: usize) -> usize;

    /// Kills a server abruptly.
    async fn kill(&mut self, server: usize);
    /// Ends a server in good order.
    async fn stop(&mut self, server: usize);
    /// Starts a server again that was ended. Returns once it listens; it may have no primary yet.
    async fn restart(&mut self, server: usize);

    /// Hashes one replica's own database once it has applied the version.
    async fn rows_hash(&self, replica: usize, version: Version) -> RowsHash;

    /// Panics in servers, even in those that continued.
    fn panics(&self) -> Vec<String> {
        journal::panics()
    }

    // ---- what follows from the above

    /// Whether a server loses its rows when it ends, because only an engine in memory holds them.
    fn forgets_all_at_exit(&self) -> bool {
        cfg!(not(feature = "rocksdb")) && self.replicas() == 1
    }

    fn running(&self) -> Vec<usize> {
        (0..self.servers()).filter(|server| self.is_running(*server)).collect()
    }

    /// A client of this server only.
    async fn client(&self, server: usize) -> Client {
        connect(vec![self.thrift(server)]).await
    }

    /// A client of all servers, beginning with this one.
    async fn client_of_all(&self, first: usize) -> Client {
        let all = (0..self.servers()).map(|step| self.thrift((first + step) % self.servers()));
        connect(all.collect()).await
    }

    /// The database of the whole cluster.
    async fn database(&self) -> Database {
        let addresses: Vec<String> = (0..self.servers()).map(|server| self.thrift(server)).collect();
        let transaction = TransactionOptions { timeout: PATIENCE, ..TransactionOptions::default() };
        let options = Options { transaction, ..Options::default() };
        eventually(&format!("one of {addresses:?} can be reached"), async || {
            Database::connect(addresses.clone(), options.clone()).await.map_err(|error| error.to_string())
        })
        .await
    }

    async fn each_client(&self) -> Vec<Client> {
        let mut clients = Vec::new();
        for server in self.running() {
            clients.push(self.client(server).await);
        }
        clients
    }

    async fn status(&self, server: usize) -> Result<Value, String> {
        let (code, body) = http_get(&self.admin(server), "/status").await?;
        if code != 200 {
            return Err(format!("{code}: {body}"));
        }
        serde_json::from_str(&body).map_err(|error| format!("{error}: {body}"))
    }

    async fn is_ready(&self, server: usize) -> Result<(), String> {
        match http_get(&self.admin(server), "/health/ready").await? {
            (200, _) => Ok(()),
            (code, body) => Err(format!("server {server} is not ready: {code} {body}")),
        }
    }

    /// Returns once every running server serves linearizable reads.
    async fn ready(&self) {
        for server in self.running() {
            eventually(&format!("server {server} is ready"), async || self.is_ready(server).await).await;
        }
    }

    /// The primary among these servers, once all of them follow one.
    async fn primary_among(&self, servers: &[usize]) -> usize {
        eventually(&format!("one of {servers:?} leads the others"), async || {
            let mut told = Vec::new();
            for &server in servers {
                self.is_ready(server).await?;
                told.push(self.status(server).await?["primary"].as_u64().map(|id| id as usize));
            }
            match told[0] {
                Some(primary) if servers.contains(&primary) && told.iter().all(|t| *t == Some(primary)) => Ok(primary),
                _ => Err(format!("they name {told:?}")),
            }
        })
        .await
    }

    async fn primary(&self) -> usize {
        self.primary_among(&self.running()).await
    }

    async fn stop_all(&mut self) {
        for server in self.running() {
            self.stop(server).await;
        }
    }

    async fn kill_all(&mut self) {
        for server in self.running() {
            self.kill(server).await;
        }
    }

    /// Starts every server that was ended, and returns once they are ready.
    async fn restart_all(&mut self) {
        for server in 0..self.servers() {
            if !self.is_running(server) {
                self.restart(server).await;
            }
        }
        self.ready().await;
    }

    /// Checks that every database holds the same rows at a version that covers everything
    /// acknowledged. Returns their number.
    async fn assert_replicas_agree(&self) -> u64 {
        self.ready().await;
        let client = self.client(self.running()[0]).await;
        let version = client.read_version().await.expect("a ready server gives a read version");
        let mut hashes = Vec::new();
        for replica in 0..self.replicas() {
            hashes.push(self.rows_hash(replica, version).await);
        }
        for (replica, hash) in hashes.iter().enumerate() {
            assert_eq!(*hash, hashes[0], "replicas {replica} and 0 hold different rows at version {version}");
        }
        self.assert_digests_agree().await;
        hashes[0].count
    }

    /// Checks that all replicas have the same digest at the same sequence.
    async fn assert_digests_agree(&self) {
        let digests = eventually("all replicas have applied the same sequence", async || {
            let mut digests = BTreeMap::new();
            let mut sequences = Vec::new();
            for replica in 0..self.replicas() {
                let status = self.status(self.server_of(replica)).await?;
                let replica = &status["replicas"][replica];
                sequences.push(replica["digest_sequence"].as_u64());
                digests.insert(replica["id"].to_string(), replica["digest"].to_string());
            }
            let same = sequences.iter().all(|sequence| *sequence == sequences[0]);
            if same { Ok(digests) } else { Err(format!("they are at {sequences:?}")) }
        })
        .await;
        let first = digests.values().next().expect("a replica");
        assert!(digests.values().all(|digest| digest == first), "digests differ at one sequence: {digests:?}");
    }
}

/// A cluster in which servers can be cut off from each other. Clients reach all of them all the
/// time.
pub trait Partitionable: TestCluster {
    /// Cuts all connections between this server and the others.
    fn isolate(&self, server: usize);
    /// Blocks messages from `from` to `to`. The other direction still works.
    fn cut_one_way(&self, from: usize, to: usize);
    fn heal(&self);

    /// Cuts all connections between these two. A third one still receives from both.
    fn cut(&self, one: usize, other: usize) {
        self.cut_one_way(one, other);
        self.cut_one_way(other, one);
    }

    fn others(&self, server: usize) -> Vec<usize> {
        (0..self.servers()).filter(|other| *other != server).collect()
    }
}

pub async fn connect(addresses: Vec<String>) -> Client {
    // The server's own, more specific error must come before the client's timeout.
    let options = Options { request_timeout: Duration::from_secs(35), ..Options::default() };
    eventually(&format!("one of {addresses:?} can be reached"), async || {
        Client::connect(addresses.clone(), options.clone()).await.map_err(|error| error.to_string())
    })
    .await
}

/// An HTTP client. Its library takes the cryptography of the process, also without TLS.
fn http_client() -> reqwest::ClientBuilder {
    let _ = tokio_rustls::rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().no_proxy()
}

/// Status code and body.
pub async fn http_get(address: &str, path: &str) -> Result<(u16, String), String> {
    let client = http_client().timeout(Duration::from_secs(30)).build();
    let url = format!("http://{address}{path}");
    let response = client.expect("a client").get(url).send().await.map_err(|error| format!("{error:?}"))?;
    let code = response.status().as_u16();
    Ok((code, response.text().await.map_err(|error| format!("{error:?}"))?))
}

/// Posts, and follows redirections like `curl -L`.
pub async fn http_post(address: &str, path: &str) -> Result<(u16, Value), String> {
    http_send("POST", address, path).await
}

/// Sends a request with any method, and follows redirections.
pub async fn http_send(method: &str, address: &str, path: &str) -> Result<(u16, Value), String> {
    let client = http_client().timeout(Duration::from_secs(30)).build();
    let url = format!("http://{address}{path}");
    let method = method.parse::<reqwest::Method>().expect("a method");
    let response = client.expect("a client").request(method, url).send().await.map_err(|error| format!("{error:?}"))?;
    let code = response.status().as_u16();
    let body = response.bytes().await.map_err(|error| format!("{error:?}"))?;
    Ok((code, serde_json::from_slice(&body).map_err(|error| format!("{error}: {body:?}"))?))
}

/// All rows with this key prefix, as of a version.
pub async fn rows_at(client: &Client, prefix: &str, version: Version) -> BTreeMap<String, String> {
    let range =
        RangeRead { begin: prefix.to_string().into(), end: format!("{prefix}\x7f").into(), ..RangeRead::default() };
    let rows = client.snapshot_get_range(range, version).await.expect("the rows of a version");
    assert!(!rows.has_more, "no limit was given");
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("tests write text");
    rows.rows.into_iter().map(|row| (text(&row.key), text(&row.value))).collect()
}

//! The admin HTTP interface, as a client sees it.

use std::time::Duration;

use kv_client::{Client, Options};
use reqwest::{Method, StatusCode};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::cli::{AdminTarget, check_addresses};
use crate::failure::Failure;

/// Longer than a server waits for a version that it has not applied yet.
const TIMEOUT: Duration = Duration::from_secs(30);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// How long an address that gave no answer may take to show that it is a Thrift address.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

/// What the commands read of `/status`.
#[derive(Clone, Debug, Deserialize)]
pub struct Status {
    pub mode: String,
    pub cluster_id: Option<String>,
    pub primary: Option<u32>,
    pub view: Option<u64>,
    #[serde(default)]
    pub column_families: Vec<String>,
    pub replicas: Vec<Replica>,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Replica {
    pub id: u32,
    pub role: String,
    pub reachable: bool,
    pub view: Option<u64>,
    pub last_sequence: Option<u64>,
    pub committed: Option<u64>,
    pub applied: Option<u64>,
    pub digest: Option<String>,
    pub digest_sequence: Option<u64>,
    /// What is wrong with it, as far as is known.
    pub problem: Option<String>,
    pub thrift: Option<String>,
    /// Where it can be asked; several replicas of one process share it.
    pub admin: Option<String>,
}

#[derive(Clone)]
pub struct AdminClient {
    http: reqwest::Client,
}

impl AdminClient {
    pub fn new() -> Result<Self, Failure> {
        AdminClient::with_timeout(TIMEOUT)
    }

    /// An answer that takes longer than `timeout` is not waited for.
    pub fn with_timeout(timeout: Duration) -> Result<Self, Failure> {
        let http = reqwest::Client::builder().timeout(timeout).connect_timeout(CONNECT_TIMEOUT).no_proxy().build();
        Ok(AdminClient { http: http.map_err(|e| Failure::Failed(e.to_string()))? })
    }

    /// GETs a JSON document; an error says what the server said.
    pub async fn get<T: DeserializeOwned>(
        &self,
        address: &str,
        path: &str,
        query: &[(&str, String)],
    ) -> Result<T, String> {
        let response = self.http.get(url(address, path, query)).send().await.map_err(|error| plain_reason(&error))?;
        answer(response).await
    }

    /// POSTs to the first address that can be reached: see [`Self::ask_first`].
    pub async fn post_first<T: DeserializeOwned>(
        &self,
        target: &AdminTarget,
        path: &str,
        query: &[(&str, String)],
    ) -> Result<T, Failure> {
        self.ask_first(Method::POST, target, path, query).await
    }

    /// Asks the first address that can be reached, and where that one points. Where an answer stays away, it is not asked
    /// again: what was asked for may have happened.
    pub async fn ask_first<T: DeserializeOwned>(
        &self,
        method: Method,
        target: &AdminTarget,
        path: &str,
        query: &[(&str, String)],
    ) -> Result<T, Failure> {
        check_addresses("--admin", &target.admin_addresses)?;
        let mut reasons = Vec::new();
        for address in &target.admin_addresses {
            match self.http.request(method.clone(), url(address, path, query)).send().await {
                Ok(response) => {
                    let asked = response.url().authority().to_string();
                    return answer(response).await.map_err(|reason| Failure::Failed(format!("{asked}: {reason}")));
                }
                Err(error) if error.is_connect() => {
                    // Perhaps not this one, but where it points.
                    let asked = error.url().map_or(address.clone(), |url| url.authority().to_string());
                    reasons.push((asked, plain_reason(&error)));
                }
                Err(_) if speaks_thrift(address).await => return Err(thrift_address(address)),
                Err(error) => {
                    let reason = plain_reason(&error);
                    return Err(Failure::Failed(format!("{address}: {reason}; see `synodkv status`, and try again")));
                }
            }
        }
        Err(unreachable_failure(reasons).await)
    }

    /// The status as the first address tells it that answers, with that address.
    pub async fn first_status<T: DeserializeOwned>(&self, target: &AdminTarget) -> Result<(String, T), Failure> {
        check_addresses("--admin", &target.admin_addresses)?;
        let mut reasons = Vec::new();
        for address in &target.admin_addresses {
            match self.get(address, "/status", &[]).await {
                Ok(status) => return Ok((address.clone(), status)),
                Err(reason) => reasons.push((address.clone(), reason)),
            }
        }
        Err(unreachable_failure(reasons).await)
    }
}

fn url(address: &str, path: &str, query: &[(&str, String)]) -> String {
    // reqwest's own query encoding is a feature that this build leaves out; what is asked for needs none.
    let query: Vec<String> = query.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let separator = if query.is_empty() { "" } else { "?" };
    format!("http://{address}{path}{separator}{}", query.join("&"))
}

/// The document that a server answered with; an error says what it said instead.
async fn answer<T: DeserializeOwned>(response: reqwest::Response) -> Result<T, String> {
    let status = response.status();
    let body = response.bytes().await.map_err(|error| plain_reason(&error))?;
    if !status.is_success() {
        return Err(refusal(status, &body));
    }
    serde_json::from_slice(&body).map_err(|error| format!("an answer that makes no sense: {error}"))
}

/// Of addresses where no admin interface could be asked, each with the reason.
async fn unreachable_failure(reasons: Vec<(String, String)>) -> Failure {
    for (address, _) in &reasons {
        if speaks_thrift(address).await {
            return thrift_address(address);
        }
    }
    let reasons: Vec<String> = reasons.iter().map(|(address, reason)| format!("{address}: {reason}")).collect();
    Failure::Failed(format!(
        "cannot reach the admin interface at {}; is the server running? start one with `synodkv serve`, or say where it is \
         with --admin HOST:PORT",
        reasons.join("; ")
    ))
}

fn thrift_address(address: &str) -> Failure {
    Failure::Failed(format!(
        "{address} is a Thrift address; --admin takes the admin address, by default 127.0.0.1:9190 (server.admin_addr)"
    ))
}

/// Whether a Thrift server answers there.
async fn speaks_thrift(address: &str) -> bool {
    let options = Options { connect_timeout: PROBE_TIMEOUT, ..Options::default() };
    Client::connect([address], options).await.is_ok()
}

/// The words of the error at the bottom, which say what happened; those above it say only that something did.
fn plain_reason(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "no answer in time".to_string();
    }
    let mut bottom: &dyn std::error::Error = error;
    while let Some(source) = bottom.source() {
        bottom = source;
    }
    match bottom.downcast_ref::<std::io::Error>() {
        Some(io) if io.kind() == std::io::ErrorKind::ConnectionRefused => "connection refused".to_string(),
        _ => bottom.to_string(),
    }
}

fn refusal(status: StatusCode, body: &[u8]) -> String {
    let said =
        serde_json::from_slice::<Value>(body).ok().and_then(|json| Some(json.get("error")?.as_str()?.to_string()));
    let said = said.unwrap_or_else(|| String::from_utf8_lossy(&body[..body.len().min(500)]).trim().to_string());
    if said.is_empty() { status.to_string() } else { format!("{status}: {said}") }
}

//! A client of the admin HTTP interface.
//!
//! A server that hangs is not down: it accepts connections and never answers. So no request waits
//! for a single server. Queries go to the next address after a short pause, or to all at the same
//! time. A request that changes something goes, once, to one server that has just shown that it
//! works.

use std::time::Duration;

use hyper::body::Bytes;
use hyper::{Method, StatusCode};
use kv_client::{Client, Options, Token, first_answer};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use crate::access;
use crate::failure::Failure;
use crate::http::{self, Asked, HttpClient, HttpFailure};
use crate::targets::AdminTarget;

/// How long a server may take to report its status, for which it asks no other server.
const STATUS_TIMEOUT: Duration = Duration::from_secs(5);
/// The next address is asked after this time without an answer.
const HEDGE_AFTER: Duration = Duration::from_secs(1);
/// How long to wait for the other servers once one has reported its status.
const GATHERING: Duration = Duration::from_secs(1);
/// A working server answers a liveness check within this time.
const SIGN_OF_LIFE: Duration = Duration::from_secs(2);
/// A timeout longer than a server takes for a failover or a change of column families.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(15);
/// How long to check whether an address without an answer is a Thrift address.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

/// The part of `/status` that the commands read.
#[derive(Clone, Debug, Deserialize)]
pub struct Status {
    pub mode: String,
    pub cluster_id: Option<String>,
    /// The replica that reported for its process.
    pub node_id: Option<u32>,
    pub primary: Option<u32>,
    pub view: Option<u64>,
    pub epoch: Option<u64>,
    pub feature_level: Option<u32>,
    pub next_feature_level: Option<u32>,
    /// Why the level cannot be raised now.
    pub feature_level_obstacle: Option<String>,
    #[serde(default)]
    pub column_families: Vec<String>,
    /// `None`: the server is older than users and roles.
    pub access: Option<Access>,
    #[serde(default)]
    pub problems: Vec<Problem>,
    /// `None`: the server is older than this, or has just started.
    pub limited_by: Option<LimitedBy>,
    pub replicas: Vec<Replica>,
}

/// The limit of the requests of the server that reports it.
#[derive(Clone, Debug, Deserialize)]
pub struct LimitedBy {
    pub name: String,
    pub text: String,
}

/// Users and roles, as far as everybody may know who may see the status.
#[derive(Clone, Debug, Deserialize)]
pub struct Access {
    pub enabled: bool,
    pub revision: u64,
    pub users: usize,
    pub roles: usize,
    pub tokens: usize,
}

/// A problem of a server and its remedy.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Problem {
    pub kind: String,
    /// The replica that has the problem; `None` if it concerns the whole process.
    pub replica: Option<u32>,
    pub text: String,
    pub remedy: String,
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
    pub feature_level: Option<u32>,
    pub lowest_level: Option<u32>,
    pub highest_level: Option<u32>,
    /// Its most serious known problem.
    pub problem: Option<String>,
    pub thrift: Option<String>,
    /// Its admin address, which the replicas of one process share.
    pub admin: Option<String>,
}

/// Why a request got no document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoAnswer {
    /// The request was definitely not sent.
    NotSent(String),
    /// The request may have arrived, but there was no answer.
    Silent(String),
    /// The server answered with an error.
    Refused(StatusCode, String),
}

impl std::fmt::Display for NoAnswer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            NoAnswer::NotSent(reason) | NoAnswer::Silent(reason) => f.write_str(reason),
            NoAnswer::Refused(status, reason) if reason.is_empty() => write!(f, "{status}"),
            NoAnswer::Refused(status, reason) => write!(f, "{status}: {reason}"),
        }
    }
}

/// A server's report about itself and the others.
pub struct Answer {
    pub address: String,
    pub document: Value,
    pub status: Status,
}

/// The reports of all servers of a cluster.
pub struct Gathered {
    /// At least one, in the order of the addresses.
    pub answers: Vec<Answer>,
    /// Addresses that did not answer, with the reasons.
    pub unanswered: Vec<(String, String)>,
}

impl Gathered {
    /// The most informed answer: that of a primary, in the newest view.
    pub fn best(&self) -> &Answer {
        let knows = |answer: &&Answer| (answer.status.primary.is_some(), answer.status.view);
        // The first of equals.
        self.answers.iter().rev().max_by_key(knows).expect("somebody answered")
    }
}

#[derive(Clone)]
pub struct AdminClient {
    http: HttpClient,
    token: Option<Token>,
}

impl AdminClient {
    pub fn new() -> Result<Self, Failure> {
        Ok(AdminClient { http: HttpClient::new(access::tls()?), token: access::token()? })
    }

    async fn send<T: DeserializeOwned>(
        &self,
        method: Method,
        place: (&str, &str),
        query: &[(&str, String)],
        body: Bytes,
        timeout: Duration,
    ) -> Result<T, NoAnswer> {
        let body = self.ask(method, place, query, body, timeout).await?;
        serde_json::from_slice(&body).map_err(|error| NoAnswer::Silent(format!("an invalid answer: {error}")))
    }

    async fn ask(
        &self,
        method: Method,
        (address, path): (&str, &str),
        query: &[(&str, String)],
        body: Bytes,
        timeout: Duration,
    ) -> Result<Bytes, NoAnswer> {
        let asked = Asked { method, path: with_query(path, query), token: self.token.as_ref(), body };
        let answer = self.http.send(address, asked, timeout).await;
        let http::Answer { status, body } = answer.map_err(|failure| match failure {
            HttpFailure::NotSent(reason) => NoAnswer::NotSent(reason),
            HttpFailure::Silent(reason) => NoAnswer::Silent(reason),
        })?;
        if !status.is_success() {
            return Err(NoAnswer::Refused(status, refusal(&body)));
        }
        Ok(body)
    }

    /// GETs a JSON document.
    pub async fn get<T: DeserializeOwned>(
        &self,
        address: &str,
        path: &str,
        query: &[(&str, String)],
        timeout: Duration,
    ) -> Result<T, NoAnswer> {
        self.send(Method::GET, (address, path), query, Bytes::new(), timeout).await
    }

    /// GETs a page of text.
    pub async fn get_text(&self, address: &str, path: &str, timeout: Duration) -> Result<String, NoAnswer> {
        let body = self.ask(Method::GET, (address, path), &[], Bytes::new(), timeout).await?;
        Ok(String::from_utf8_lossy(&body).into_owned())
    }

    /// GETs a document that may take the server long. The server must show in the meantime that it
    /// still works.
    pub async fn get_slowly<T: DeserializeOwned>(
        &self,
        address: &str,
        path: &str,
        query: &[(&str, String)],
        timeout: Duration,
    ) -> Result<T, NoAnswer> {
        let hangs = async {
            loop {
                tokio::time::sleep(SIGN_OF_LIFE).await;
                let alive = self.get::<Value>(address, "/health/live", &[], SIGN_OF_LIFE).await;
                if let Err(NoAnswer::NotSent(_) | NoAnswer::Silent(_)) = alive {
                    return NoAnswer::Silent("it hangs: it accepts connections but does not answer".to_string());
                }
            }
        };
        tokio::select! {
            document = self.get(address, path, query, timeout) => document,
            reason = hangs => Err(reason),
        }
    }

    /// GETs a document from the first server that answers, with its address.
    pub async fn first<T: DeserializeOwned>(&self, target: &AdminTarget, path: &str) -> Result<(String, T), Failure> {
        self.first_with(target, path, &[]).await
    }

    /// GETs a document with parameters from the first server that answers, with its address.
    pub async fn first_with<T: DeserializeOwned>(
        &self,
        target: &AdminTarget,
        path: &str,
        query: &[(&str, String)],
    ) -> Result<(String, T), Failure> {
        let addresses = &target.addresses()?;
        let questions: Vec<_> =
            addresses.iter().map(|address| self.get_slowly::<T>(address, path, query, CHANGE_TIMEOUT)).collect();
        match first_answer(questions, HEDGE_AFTER).await {
            Ok((place, document)) => Ok((addresses[place].clone(), document)),
            Err(failures) => {
                let named = failures.into_iter().map(|(place, no_answer)| (addresses[place].clone(), no_answer));
                let named: Vec<_> = named.collect();
                // A server that refuses knows more than one that does not answer.
                let refused = named.iter().find(|(_, no_answer)| matches!(no_answer, NoAnswer::Refused(..)));
                match refused {
                    Some((address, no_answer)) => Err(failure_of(address, no_answer.clone())),
                    None => Err(self.unreachable(named).await),
                }
            }
        }
    }

    /// Sends a request that changes something to a server that has just shown that it works. The
    /// request is sent once: without an answer, the change may have happened.
    pub async fn change<T: DeserializeOwned>(
        &self,
        method: Method,
        target: &AdminTarget,
        path: &str,
        query: &[(&str, String)],
    ) -> Result<T, Failure> {
        let (address, _) = self.first::<Value>(target, "/health/live").await?;
        self.change_at(method, &address, path, query).await
    }

    /// Sends a request that changes something to this server, once.
    pub async fn change_at<T: DeserializeOwned>(
        &self,
        method: Method,
        address: &str,
        path: &str,
        query: &[(&str, String)],
    ) -> Result<T, Failure> {
        let changed = self.send(method, (address, path), query, Bytes::new(), CHANGE_TIMEOUT).await;
        changed.map_err(|no_answer| failure_of(address, no_answer))
    }

    /// Posts a document to this server, once.
    pub async fn post<T: DeserializeOwned>(
        &self,
        address: &str,
        path: &str,
        query: &[(&str, String)],
        document: &impl Serialize,
    ) -> Result<T, NoAnswer> {
        let body = serde_json::to_vec(document).map_err(|error| NoAnswer::NotSent(error.to_string()))?;
        self.send(Method::POST, (address, path), query, body.into(), CHANGE_TIMEOUT).await
    }

    /// The status of every server that answers: of the given ones, and of those that they name.
    pub async fn gather(&self, target: &AdminTarget) -> Result<Gathered, Failure> {
        let addresses = target.addresses()?;
        let mut asking = Asking { client: self.clone(), asked: Vec::new(), answers: JoinSet::new() };
        addresses.iter().for_each(|address| {
            asking.ask(address);
        });
        let (mut answers, mut missing) = (Vec::new(), Vec::new());
        // Until the first answer, all servers may use their full time.
        let mut ends_at = Instant::now() + STATUS_TIMEOUT + HEDGE_AFTER;
        while let Ok(Some(finished)) = timeout_at(ends_at, asking.answers.join_next()).await {
            let (address, answer) = finished.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
            let (document, status) = match answer {
                Ok(answer) => answer,
                Err(no_answer) => {
                    missing.push((address, no_answer));
                    continue;
                }
            };
            let mut has_new = answers.is_empty();
            for named in status.replicas.iter().filter_map(|replica| replica.admin.as_deref()) {
                has_new |= is_place(named) && asking.ask(named);
            }
            if has_new {
                ends_at = Instant::now() + GATHERING;
            }
            answers.push(Answer { address, document, status });
        }
        if answers.is_empty() {
            return Err(self.unreachable(missing).await);
        }
        let asked = asking.asked;
        answers.sort_by_key(|answer| asked.iter().position(|address| *address == answer.address));
        let silent = format!("no answer for {} s", GATHERING.as_secs());
        let unanswered = asked.iter().filter(|address| answers.iter().all(|answer| answer.address != **address));
        let unanswered = unanswered.map(|address| {
            let reason = missing.iter().find(|(other, _)| other == address).map(|(_, reason)| reason.to_string());
            (address.clone(), reason.unwrap_or_else(|| silent.clone()))
        });
        Ok(Gathered { unanswered: unanswered.collect(), answers })
    }

    async fn status(&self, address: &str) -> StatusAnswer {
        let document: Value = self.get(address, "/status", &[], STATUS_TIMEOUT).await?;
        let status = serde_json::from_value(document.clone())
            .map_err(|error| NoAnswer::Silent(format!("an invalid status: {error}")))?;
        Ok((document, status))
    }
}

/// A status as received, and the part that this program reads.
type StatusAnswer = Result<(Value, Status), NoAnswer>;

/// Concurrent requests for the status of servers.
struct Asking {
    client: AdminClient,
    asked: Vec<String>,
    answers: JoinSet<(String, StatusAnswer)>,
}

impl Asking {
    /// Asks each address once. Returns whether this one is new.
    fn ask(&mut self, address: &str) -> bool {
        if self.asked.iter().any(|other| other == address) {
            return false;
        }
        self.asked.push(address.to_string());
        let (client, address) = (self.client.clone(), address.to_string());
        self.answers.spawn(async move {
            let answer = client.status(&address).await;
            (address, answer)
        });
        true
    }
}

/// Whether one can connect to an address; a server may name `0.0.0.0`, where it listens on all
/// interfaces.
fn is_place(address: &str) -> bool {
    address.rsplit_once(':').is_some_and(|(host, port)| {
        !matches!(host, "" | "0.0.0.0" | "[::]") && port.parse::<u16>().is_ok_and(|port| port != 0)
    })
}

pub fn failure_of(address: &str, no_answer: NoAnswer) -> Failure {
    match no_answer {
        NoAnswer::NotSent(_) => Failure::Unsure(format!("cannot reach {address}: {no_answer}; nothing was done")),
        NoAnswer::Silent(_) => Failure::Unsure(format!(
            "{address}: {no_answer}; the change may have happened: see `synodkv status` before you try again"
        )),
        NoAnswer::Refused(status, _) if status.is_client_error() => Failure::Failed(format!("{address}: {no_answer}")),
        NoAnswer::Refused(..) => Failure::Unsure(format!("{address}: {no_answer}")),
    }
}

fn with_query(path: &str, query: &[(&str, String)]) -> String {
    let query: Vec<String> = query.iter().map(|(name, value)| format!("{name}={}", encoded(value))).collect();
    let separator = if query.is_empty() { "" } else { "?" };
    format!("{path}{separator}{}", query.join("&"))
}

/// Text as a part of a URL.
pub fn encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

impl AdminClient {
    /// The error about addresses where no admin interface answered, each with its reason.
    async fn unreachable(&self, reasons: Vec<(String, NoAnswer)>) -> Failure {
        // A server that wants to know who asks is there.
        let wants_identity = |answer: &NoAnswer| {
            matches!(answer, NoAnswer::Refused(StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, _))
        };
        if let Some((address, refused)) = reasons.iter().find(|(_, answer)| wants_identity(answer)) {
            return failure_of(address, refused.clone());
        }
        for (address, _) in &reasons {
            if self.speaks_thrift(address).await {
                return Failure::Unsure(format!(
                    "{address} is a Thrift address; --admin takes the admin address, by default 127.0.0.1:9190 \
                     (server.admin_addr)"
                ));
            }
        }
        let reasons: Vec<String> = reasons.iter().map(|(address, reason)| format!("{address}: {reason}")).collect();
        Failure::Unsure(format!(
            "cannot reach the admin interface at {}; is the server running? start one with `synodkv serve`, or give its \
             address with --admin HOST:PORT",
            reasons.join("; ")
        ))
    }

    /// Whether a Thrift server answers at this address.
    async fn speaks_thrift(&self, address: &str) -> bool {
        let tls = access::tls().ok().flatten();
        let options = Options { connect_timeout: PROBE_TIMEOUT, tls, ..Options::default() };
        Client::connect([address], options).await.is_ok()
    }
}

/// The error text of the server's refusal.
fn refusal(body: &[u8]) -> String {
    let said =
        serde_json::from_slice::<Value>(body).ok().and_then(|json| Some(json.get("error")?.as_str()?.to_string()));
    said.unwrap_or_else(|| String::from_utf8_lossy(&body[..body.len().min(500)]).trim().to_string())
}
/// The primary's server, for a request that only the primary can carry out. The request is sent
/// once, so this must be a server that has just answered.
pub fn server_of_the_primary(gathered: &Gathered) -> Result<&str, Failure> {
    let best = gathered.best();
    // Any server can say why there is no primary.
    let Some(primary) = best.status.primary else { return Ok(&best.address) };
    // The server that reports itself as primary, at the address where it answered.
    if let Some(own) = gathered.answers.iter().find(|answer| answer.status.node_id == Some(primary)) {
        return Ok(&own.address);
    }
    let admin = best.status.replicas.iter().find(|replica| replica.id == primary).and_then(|r| r.admin.as_ref());
    match gathered.unanswered.iter().find(|(address, _)| Some(address) == admin) {
        None => Ok(&best.address),
        Some((address, reason)) => Err(Failure::Unsure(format!(
            "replica {primary} leads, and its server does not answer ({address}: {reason}), so it was not told; where a \
             primary hangs, the others elect another one by themselves within some seconds: see `synodkv status`. If \
             replica {primary} still leads then, only its admin interface is out of reach from here: to make another one \
             lead, stop its process (SIGTERM; kill -9 if that has no effect)"
        ))),
    }
}

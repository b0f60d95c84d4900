//! The admin HTTP interface, as a client sees it.
//!
//! A server that hangs is not one that is down: it takes connections and never answers. So nobody is waited for alone.
//! Questions go to the next address after a short pause, or to all at the same time. What changes something goes to one server
//! that has just given a sign of life, and is sent once.

use std::time::Duration;

use kv_client::{Client, Options, first_answer};
use reqwest::{Method, StatusCode};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use crate::failure::Failure;
use crate::targets::{AdminTarget, check_addresses};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a server may take to tell its status, for which it asks nobody.
const STATUS_TIMEOUT: Duration = Duration::from_secs(5);
/// The next address is asked when there was no answer for so long.
const HEDGE_AFTER: Duration = Duration::from_secs(1);
/// How long the other servers are waited for once one has told its status.
const GATHERING: Duration = Duration::from_secs(1);
/// A server that works tells within this time that it does.
const SIGN_OF_LIFE: Duration = Duration::from_secs(2);
/// Longer than a server takes for a failover or a change of column families.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(15);
/// How long an address that gave no answer may take to show that it is a Thrift address.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

/// What the commands read of `/status`.
#[derive(Clone, Debug, Deserialize)]
pub struct Status {
    pub mode: String,
    pub cluster_id: Option<String>,
    /// The replica that answered for its process.
    pub node_id: Option<u32>,
    pub primary: Option<u32>,
    pub view: Option<u64>,
    #[serde(default)]
    pub column_families: Vec<String>,
    #[serde(default)]
    pub problems: Vec<Problem>,
    pub replicas: Vec<Replica>,
}

/// Something that is wrong at a server, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Problem {
    pub kind: String,
    /// `None`: it concerns the whole process.
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
    /// What is wrong with it, as far as is known.
    pub problem: Option<String>,
    pub thrift: Option<String>,
    /// Where it can be asked; several replicas of one process share it.
    pub admin: Option<String>,
}

/// Why there is no document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoAnswer {
    /// It surely was not asked.
    NotSent(String),
    /// It may have been asked, and says nothing.
    Silent(String),
    /// It said something else.
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

/// What a server told of itself and the others.
pub struct Answer {
    pub address: String,
    pub document: Value,
    pub status: Status,
}

/// What all servers of a cluster told.
pub struct Gathered {
    /// At least one, in the order of the addresses.
    pub answers: Vec<Answer>,
    /// Who did not answer, and why.
    pub unanswered: Vec<(String, String)>,
}

impl Gathered {
    /// The answer of whoever knows most: a primary, in the newest view.
    pub fn best(&self) -> &Answer {
        let knows = |answer: &&Answer| (answer.status.primary.is_some(), answer.status.view);
        // Of equals the first.
        self.answers.iter().rev().max_by_key(knows).expect("somebody answered")
    }
}

#[derive(Clone)]
pub struct AdminClient {
    http: reqwest::Client,
}

impl AdminClient {
    pub fn new() -> Result<Self, Failure> {
        let http = reqwest::Client::builder().connect_timeout(CONNECT_TIMEOUT).no_proxy().build();
        Ok(AdminClient { http: http.map_err(|e| Failure::Unsure(e.to_string()))? })
    }

    async fn send<T: DeserializeOwned>(
        &self,
        method: Method,
        (address, path): (&str, &str),
        query: &[(&str, String)],
        timeout: Duration,
    ) -> Result<T, NoAnswer> {
        let request = self.http.request(method, url(address, path, query)).timeout(timeout);
        let response = request.send().await.map_err(|error| match error.is_connect() {
            true => NoAnswer::NotSent(plain_reason(&error)),
            false => NoAnswer::Silent(plain_reason(&error)),
        })?;
        let status = response.status();
        let body = response.bytes().await.map_err(|error| NoAnswer::Silent(plain_reason(&error)))?;
        if !status.is_success() {
            return Err(NoAnswer::Refused(status, refusal(&body)));
        }
        serde_json::from_slice(&body)
            .map_err(|error| NoAnswer::Silent(format!("an answer that makes no sense: {error}")))
    }

    /// GETs a JSON document.
    pub async fn get<T: DeserializeOwned>(
        &self,
        address: &str,
        path: &str,
        query: &[(&str, String)],
        timeout: Duration,
    ) -> Result<T, NoAnswer> {
        self.send(Method::GET, (address, path), query, timeout).await
    }

    /// GETs a document that a server may take long for, from one that works: it must give signs of life meanwhile.
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
                    return NoAnswer::Silent("it hangs: it takes connections and does not answer".to_string());
                }
            }
        };
        tokio::select! {
            document = self.get(address, path, query, timeout) => document,
            reason = hangs => Err(reason),
        }
    }

    /// GETs a document of the first server that answers, with its address.
    pub async fn first<T: DeserializeOwned>(&self, target: &AdminTarget, path: &str) -> Result<(String, T), Failure> {
        check_addresses("--admin", &target.admin_addresses)?;
        let addresses = &target.admin_addresses;
        let questions: Vec<_> =
            addresses.iter().map(|address| self.get_slowly::<T>(address, path, &[], CHANGE_TIMEOUT)).collect();
        match first_answer(questions, HEDGE_AFTER).await {
            Ok((place, document)) => Ok((addresses[place].clone(), document)),
            Err(failures) => {
                let named = failures.into_iter().map(|(place, no_answer)| (addresses[place].clone(), no_answer));
                let named: Vec<_> = named.collect();
                // Whoever refuses knows more than whoever is not there.
                let refused = named.iter().find(|(_, no_answer)| matches!(no_answer, NoAnswer::Refused(..)));
                match refused {
                    Some((address, no_answer)) => Err(failure_of(address, no_answer.clone())),
                    None => Err(unreachable_failure(named).await),
                }
            }
        }
    }

    /// Changes something, at a server that has just given a sign of life. It is asked once: where an answer stays away, what
    /// was asked for may have happened.
    pub async fn change<T: DeserializeOwned>(
        &self,
        method: Method,
        target: &AdminTarget,
        path: &str,
    ) -> Result<T, Failure> {
        let (address, _) = self.first::<Value>(target, "/health/live").await?;
        self.change_at(method, &address, path, &[]).await
    }

    /// The same, at this server.
    pub async fn change_at<T: DeserializeOwned>(
        &self,
        method: Method,
        address: &str,
        path: &str,
        query: &[(&str, String)],
    ) -> Result<T, Failure> {
        let changed = self.send(method, (address, path), query, CHANGE_TIMEOUT).await;
        changed.map_err(|no_answer| failure_of(address, no_answer))
    }

    /// The status of every server, as far as they answer: of the given ones, and of those that they name.
    pub async fn gather(&self, target: &AdminTarget) -> Result<Gathered, Failure> {
        check_addresses("--admin", &target.admin_addresses)?;
        let mut asking = Asking { client: self.clone(), asked: Vec::new(), answers: JoinSet::new() };
        target.admin_addresses.iter().for_each(|address| {
            asking.ask(address);
        });
        let (mut answers, mut missing) = (Vec::new(), Vec::new());
        // Everybody may take their time until somebody has answered.
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
            return Err(unreachable_failure(missing).await);
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
            .map_err(|error| NoAnswer::Silent(format!("a status that makes no sense: {error}")))?;
        Ok((document, status))
    }
}

/// A status as it came, and what this program reads of it.
type StatusAnswer = Result<(Value, Status), NoAnswer>;

/// Servers that are asked for their status at the same time.
struct Asking {
    client: AdminClient,
    asked: Vec<String>,
    answers: JoinSet<(String, StatusAnswer)>,
}

impl Asking {
    /// Each once; whether this one is new.
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

/// Whether an address can be one to connect to: a server that listens everywhere names no place.
fn is_place(address: &str) -> bool {
    address.rsplit_once(':').is_some_and(|(host, port)| {
        !matches!(host, "" | "0.0.0.0" | "[::]") && port.parse::<u16>().is_ok_and(|port| port != 0)
    })
}

fn failure_of(address: &str, no_answer: NoAnswer) -> Failure {
    match no_answer {
        NoAnswer::NotSent(_) => Failure::Unsure(format!("cannot reach {address}: {no_answer}; nothing was done")),
        NoAnswer::Silent(_) => Failure::Unsure(format!(
            "{address}: {no_answer}; what was asked for may have been done: see `synodkv status` before you try again"
        )),
        NoAnswer::Refused(status, _) if status.is_client_error() => Failure::Failed(format!("{address}: {no_answer}")),
        NoAnswer::Refused(..) => Failure::Unsure(format!("{address}: {no_answer}")),
    }
}

fn url(address: &str, path: &str, query: &[(&str, String)]) -> String {
    // reqwest's own query encoding is a feature that this build leaves out; what is asked for needs none.
    let query: Vec<String> = query.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let separator = if query.is_empty() { "" } else { "?" };
    format!("http://{address}{path}{separator}{}", query.join("&"))
}

/// Of addresses where no admin interface could be asked, each with the reason.
async fn unreachable_failure(reasons: Vec<(String, NoAnswer)>) -> Failure {
    for (address, _) in &reasons {
        if speaks_thrift(address).await {
            return Failure::Unsure(format!(
                "{address} is a Thrift address; --admin takes the admin address, by default 127.0.0.1:9190 \
                 (server.admin_addr)"
            ));
        }
    }
    let reasons: Vec<String> = reasons.iter().map(|(address, reason)| format!("{address}: {reason}")).collect();
    Failure::Unsure(format!(
        "cannot reach the admin interface at {}; is the server running? start one with `synodkv serve`, or say where it is \
         with --admin HOST:PORT",
        reasons.join("; ")
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

/// What the server said instead of doing it.
fn refusal(body: &[u8]) -> String {
    let said =
        serde_json::from_slice::<Value>(body).ok().and_then(|json| Some(json.get("error")?.as_str()?.to_string()));
    said.unwrap_or_else(|| String::from_utf8_lossy(&body[..body.len().min(500)]).trim().to_string())
}

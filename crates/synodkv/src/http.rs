//! A small HTTP client: one request per connection, with or without TLS.

use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, LOCATION};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use kv_client::{Tls, Token};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, timeout, timeout_at};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// A server sends a request on to the one that can answer it.
const MAX_REDIRECTIONS: usize = 3;
/// Longest answer; that of `/status` for many replicas has some tens of KiB.
const MAX_ANSWER_BYTES: usize = 64 << 20;

/// Why there is no answer.
#[derive(Debug)]
pub enum HttpFailure {
    /// The request was definitely not sent.
    NotSent(String),
    /// The request may have arrived.
    Silent(String),
}

/// An answer with any status but a redirection.
pub struct Answer {
    pub status: StatusCode,
    pub body: Bytes,
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// A request.
#[derive(Clone, Debug)]
pub struct Asked<'a> {
    pub method: Method,
    /// With its query.
    pub path: String,
    pub token: Option<&'a Token>,
    /// JSON, or nothing.
    pub body: Bytes,
}

#[derive(Clone)]
pub struct HttpClient {
    tls: Option<Tls>,
}

impl HttpClient {
    pub fn new(tls: Option<Tls>) -> Self {
        HttpClient { tls }
    }

    /// Sends a request to `HOST:PORT`.
    pub async fn send(&self, address: &str, mut asked: Asked<'_>, patience: Duration) -> Result<Answer, HttpFailure> {
        let deadline = Instant::now() + patience;
        let mut address = address.to_string();
        for _ in 0..=MAX_REDIRECTIONS {
            let stream = self.connect(&address, deadline).await.map_err(HttpFailure::NotSent)?;
            let exchanged = timeout_at(deadline, exchange(stream, &address, &asked)).await;
            let (answer, location) = match exchanged {
                Ok(exchanged) => exchanged.map_err(HttpFailure::Silent)?,
                Err(_) => return Err(HttpFailure::Silent(TOO_LATE.to_string())),
            };
            match location.filter(|_| answer.status.is_redirection()) {
                None => return Ok(answer),
                Some(location) => (address, asked.path) = parts(&location).map_err(HttpFailure::Silent)?,
            }
        }
        Err(HttpFailure::NotSent("the servers send the request on and on".to_string()))
    }

    async fn connect(&self, address: &str, deadline: Instant) -> Result<Box<dyn Stream>, String> {
        let connecting = async {
            let stream = dial::connect(address).await.map_err(|error| plain_reason(&error))?;
            Ok(match &self.tls {
                None => Box::new(stream) as Box<dyn Stream>,
                Some(tls) => Box::new(tls.secure(address, stream).await.map_err(|failure| failure.to_string())?),
            })
        };
        let connected = timeout(CONNECT_TIMEOUT, connecting);
        timeout_at(deadline, connected).await.ok().and_then(Result::ok).unwrap_or_else(|| Err(TOO_LATE.to_string()))
    }
}

const TOO_LATE: &str = "no answer in time";

/// The answer, and where it sends the request on to.
async fn exchange(
    stream: Box<dyn Stream>,
    address: &str,
    asked: &Asked<'_>,
) -> Result<(Answer, Option<String>), String> {
    let Asked { method, path, token, body } = asked;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| reason(&error))?;
    let mut request = Request::builder().method(method).uri(path).header(HOST, address).header(ACCEPT, "*/*");
    if let Some(token) = token {
        request = request.header(AUTHORIZATION, format!("Bearer {}", token.reveal()));
    }
    if !body.is_empty() {
        request = request.header(CONTENT_TYPE, "application/json");
    }
    let request = request.body(Full::new(body.clone())).map_err(|error| error.to_string())?;
    let answering = async {
        let response = sender.send_request(request).await.map_err(|error| reason(&error))?;
        let (head, body) = response.into_parts();
        let body = Limited::new(body, MAX_ANSWER_BYTES).collect().await.map_err(|error| error.to_string())?;
        let location = head.headers.get(LOCATION).and_then(|location| location.to_str().ok()).map(str::to_string);
        Ok((Answer { status: head.status, body: body.to_bytes() }, location))
    };
    let mut answering = std::pin::pin!(answering);
    tokio::select! {
        answer = &mut answering => answer,
        // The connection may end with the last byte of the answer.
        _ended = connection => answering.await,
    }
}

/// The address and the path of a URL.
fn parts(url: &str) -> Result<(String, String), String> {
    let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
    let rest = rest.ok_or_else(|| format!("it sends the request on to {url}, which is no address"))?;
    let (address, path) = rest.split_once('/').unwrap_or((rest, ""));
    Ok((address.to_string(), format!("/{path}")))
}

/// The text of the innermost error, which says what happened; the outer ones only say that
/// something failed.
fn reason(error: &hyper::Error) -> String {
    let mut bottom: &dyn std::error::Error = error;
    while let Some(source) = bottom.source() {
        bottom = source;
    }
    bottom.to_string()
}

/// The operating system's message without its error number.
fn plain_reason(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::ConnectionRefused => "connection refused".to_string(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_split_into_address_and_path() {
        let split = |url| parts(url).map(|(address, path)| format!("{address} {path}"));
        assert_eq!(split("http://h:1/failover?to=2"), Ok("h:1 /failover?to=2".to_string()));
        assert_eq!(split("https://[::1]:2"), Ok("[::1]:2 /".to_string()));
        assert!(split("ftp://h").is_err());
    }
}

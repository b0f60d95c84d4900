//! One GET request to an admin interface, without a library: the answer ends where the connection
//! does.

use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// A process that stands still takes connections and never answers.
const TIMEOUT: Duration = Duration::from_secs(2);

/// The JSON document at `path`; an error for any status but 200.
pub async fn get(address: &str, path: &str) -> Result<Value, String> {
    let answer = timeout(TIMEOUT, exchange(address, path)).await.map_err(|_| "no answer in time".to_string())?;
    let answer = answer.map_err(|error| error.to_string())?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or("no HTTP answer")?;
    let status = head.lines().next().unwrap_or_default();
    if !status.contains(" 200 ") {
        return Err(format!("{status}: {body}"));
    }
    serde_json::from_str(body).map_err(|error| error.to_string())
}

async fn exchange(address: &str, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    // Of version 1.0, so that the answer comes in one piece and the connection is closed after it.
    let request = format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

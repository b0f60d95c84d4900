//! Connections of clients that never say who they are: however many there are, they keep nobody else
//! out, and they end soon.

use std::net::SocketAddr;
use std::time::Instant;

use reqwest::StatusCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::access::{Guarded, token};
use super::*;
use crate::access::HttpMethod;

/// How many connect. A listener has far fewer places for them.
const CROWD: usize = 600;

async fn connect(address: SocketAddr) -> TcpStream {
    TcpStream::connect(address).await.expect("it listens")
}

/// A connection that begins like this. One that the server has closed already counts as well.
async fn begin(address: SocketAddr, beginning: &[u8]) -> TcpStream {
    let mut stream = connect(address).await;
    let _it_may_be_closed = stream.write_all(beginning).await;
    stream
}

/// Waits until the server has closed all of them.
async fn all_end(crowd: Vec<TcpStream>) {
    for mut stream in crowd {
        let mut rest = Vec::new();
        let ended = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut rest)).await;
        let _reset_or_closed = ended.expect("the server closes the connection");
    }
}

/// Sends a request over a lasting connection, and returns the status of the answer.
async fn http(stream: &mut TcpStream, path: &str, token: Option<&str>) -> String {
    let bearer = token.map(|token| format!("authorization: Bearer {token}\r\n")).unwrap_or_default();
    stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: x\r\n{bearer}\r\n").as_bytes()).await.expect("it reads");
    let mut answer = Vec::new();
    loop {
        let read = tokio::time::timeout(PATIENCE, stream.read_buf(&mut answer)).await;
        assert_ne!(read.expect("an answer").expect("an answer"), 0, "closed after {answer:?}");
        let answer = String::from_utf8_lossy(&answer);
        let Some((head, body)) = answer.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).expect("a length");
        if body.len() >= length.parse::<usize>().expect("a number") {
            return head.split(' ').nth(1).expect("a status").to_string();
        }
    }
}

#[tokio::test]
async fn a_crowd_of_strangers_keeps_nobody_out_of_the_admin_interface() {
    let guarded = Guarded::start().await;
    let address = guarded.server.manager.admin_addr();
    // It stays, although the crowd is larger than the number of connections.
    let mut known = connect(address).await;
    let secret = token(1);
    let beginnings: [&[u8]; 4] = [
        b"",
        b"GET /status HTTP/1.1\r\nhost: x\r\nx-slow: ",
        b"GET /health/live HTTP/1.1\r\nhost: x\r\n\r\n",
        b"GET /status HTTP/1.1\r\nhost: x\r\n\r\n",
    ];
    let mut crowd = Vec::new();
    for index in 0..CROWD {
        crowd.push(begin(address, beginnings[index % beginnings.len()]).await);
        if index % 50 == 0 {
            assert_eq!(http(&mut known, "/status", Some(&secret)).await, "200");
            assert_eq!(guarded.ask(HttpMethod::Get, Some(1), "/status").await.0, StatusCode::OK, "a new client");
        }
    }
    all_end(crowd).await;
    assert_eq!(http(&mut known, "/status", Some(&secret)).await, "200", "who is known has more time");
}

#[tokio::test]
async fn a_crowd_of_strangers_keeps_nobody_out_of_the_thrift_interface() {
    let guarded = Guarded::start().await;
    let address = guarded.server.manager.thrift_addr();
    let mut known = guarded.client(1).await;
    let beginnings: [&[u8]; 3] = [b"", &[0x80, 1, 0, 1], &[0, 0, 0x3f, 0xff, 0x82]];
    let mut crowd = Vec::new();
    for index in 0..CROWD {
        crowd.push(begin(address, beginnings[index % beginnings.len()]).await);
        if index % 50 == 0 {
            assert!(known.call(set(b"k", b"v")).await.success);
            assert!(guarded.client(1).await.call(set(b"k", b"v")).await.success, "a new client");
        }
    }
    all_end(crowd).await;
    assert!(known.call(set(b"k", b"v")).await.success);
}

/// Ten seconds are the time for the head of a request of those who are known, and thirty that for the
/// rest of a message.
#[tokio::test]
async fn a_stranger_has_little_time() {
    let guarded = Guarded::start().await;
    let (admin, thrift) = (guarded.server.manager.admin_addr(), guarded.server.manager.thrift_addr());
    let began = Instant::now();
    let slow = vec![
        begin(admin, b"").await,
        begin(admin, b"GET /status HT").await,
        begin(admin, b"GET /health/live HTTP/1.1\r\nhost: x\r\n\r\n").await,
        begin(thrift, b"").await,
        begin(thrift, &[0x80, 1, 0, 1, 0]).await,
    ];
    all_end(slow).await;
    assert!(began.elapsed().as_secs() < 9, "after {:?}", began.elapsed());
}

#[tokio::test]
async fn without_authentication_nobody_is_a_stranger() {
    let server = TestServer::start().await;
    let mut crowd = Vec::new();
    // All connections that the interface has by default.
    for _ in 0..64 {
        crowd.push(connect(server.manager.admin_addr()).await);
    }
    for stream in &mut crowd {
        assert_eq!(http(stream, "/health/live", None).await, "200");
    }
}

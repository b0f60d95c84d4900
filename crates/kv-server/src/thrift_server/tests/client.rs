//! A client that sends whatever a test tells it to, valid or not.

use kv_api::thrift::generated::{GetRequest, GetResponse};
use kv_api::thrift::wire::{self, Encoding, Scanner, WireLimits};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;

pub struct Client {
    pub stream: TcpStream,
    pub encoding: Encoding,
    input: Vec<u8>,
    last_sequence_id: i32,
}

impl Client {
    pub async fn connect(address: SocketAddr) -> Client {
        let stream = TcpStream::connect(address).await.expect("the server listens");
        stream.set_nodelay(true).expect("a socket");
        Client { stream, encoding: Encoding::default(), input: Vec::new(), last_sequence_id: 0 }
    }

    pub async fn send_bytes(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.expect("the server reads");
    }

    pub fn encode(&mut self, call: impl Into<ThriftCall>) -> Vec<u8> {
        self.last_sequence_id += 1;
        let mut bytes = Vec::new();
        wire::encode_call(&mut bytes, self.encoding, self.last_sequence_id, &call.into());
        bytes
    }

    pub async fn send(&mut self, call: impl Into<ThriftCall>) {
        let bytes = self.encode(call);
        self.send_bytes(&bytes).await;
    }

    /// Sends a `get` of each key, all at once.
    pub async fn send_gets(&mut self, keys: &[&str]) {
        let mut bytes = Vec::new();
        for key in keys {
            bytes.extend(self.encode(get(key)));
        }
        self.send_bytes(&bytes).await;
    }

    /// The next reply as bytes, or `None` when the server has closed the connection.
    pub async fn receive_bytes(&mut self) -> Option<(Vec<u8>, Encoding)> {
        let limits = WireLimits { max_message_bytes: 100 << 20, max_string_bytes: 100 << 20, ..WireLimits::default() };
        let mut scanner = Scanner::new(limits);
        loop {
            if let Some(envelope) = scanner.scan(&self.input).expect("the server speaks Thrift") {
                let rest = self.input.split_off(envelope.end);
                return Some((std::mem::replace(&mut self.input, rest), envelope.encoding));
            }
            let read = tokio::time::timeout(PATIENCE, self.stream.read_buf(&mut self.input));
            match read.await.expect("the server answers or closes") {
                Ok(0) | Err(_) => {
                    assert!(self.input.is_empty(), "the connection ended in the middle of a reply");
                    return None;
                }
                Ok(_) => {}
            }
        }
    }

    /// The next reply, to a call of `method`, and its sequence id.
    pub async fn receive(&mut self, method: Method) -> (i32, ThriftReply) {
        let (message, encoding) = self.receive_bytes().await.expect("the connection is open");
        assert_eq!(encoding, self.encoding, "a reply is encoded as its call");
        let limits = WireLimits { max_message_bytes: 100 << 20, max_string_bytes: 100 << 20, ..WireLimits::default() };
        wire::decode_reply(&message, encoding, limits, method).expect("a reply")
    }

    /// The value in the next reply, which is to a `get`.
    pub async fn receive_value(&mut self) -> String {
        match self.receive(Method::Get).await {
            (_, ThriftReply::Get(GetResponse { value, .. })) => String::from_utf8(value).expect("text"),
            other => panic!("not a value: {other:?}"),
        }
    }

    /// The exception in the next reply, and its sequence id.
    pub async fn receive_exception(&mut self) -> (i32, ThriftException) {
        match self.receive(Method::Get).await {
            (sequence_id, ThriftReply::Exception(exception)) => (sequence_id, exception),
            other => panic!("not an exception: {other:?}"),
        }
    }

    /// Checks that the connection works: a `get` is answered.
    pub async fn assert_alive(&mut self) {
        self.send(get("alive")).await;
        assert_eq!(self.receive_value().await, "alive");
    }

    pub async fn assert_closed(&mut self) {
        assert_eq!(self.receive_bytes().await, None, "the server should have closed the connection");
    }

    /// Closes the sending side only.
    pub async fn finish(&mut self) {
        self.stream.shutdown().await.expect("the connection is open");
    }
}

pub fn get(key: &str) -> GetRequest {
    GetRequest::new(key.as_bytes().to_vec(), None, None, None)
}

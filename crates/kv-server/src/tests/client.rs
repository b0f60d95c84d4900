//! A minimal Thrift client: one call after another, or several at once.

use std::net::SocketAddr;

use kv_api::thrift::wire::{self, Encoding, Scanner, WireLimits};
use kv_api::thrift::{Method, ThriftCall, ThriftReply, ThriftRequest};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::PATIENCE;

pub struct Client {
    pub encoding: Encoding,
    stream: TcpStream,
    input: Vec<u8>,
    last_sequence_id: i32,
}

impl Client {
    pub async fn connect(address: SocketAddr) -> Client {
        let stream = TcpStream::connect(address).await.expect("the server listens");
        stream.set_nodelay(true).expect("a socket");
        Client { encoding: Encoding::default(), stream, input: Vec::new(), last_sequence_id: 0 }
    }

    /// One call and its reply.
    pub async fn call<R: ThriftRequest>(&mut self, request: R) -> R::Response
    where
        R::Response: std::fmt::Debug,
    {
        let mut replies = self.call_all(vec![request.into()]).await;
        let reply = replies.pop().expect("a reply to the call");
        R::response_of(reply).unwrap_or_else(|other| panic!("not a reply to {}: {other:?}", R::METHOD.name()))
    }

    /// Sends all calls at once, and returns their replies.
    pub async fn call_all(&mut self, calls: Vec<ThriftCall>) -> Vec<ThriftReply> {
        let mut bytes = Vec::new();
        for call in &calls {
            self.last_sequence_id += 1;
            wire::encode_call(&mut bytes, self.encoding, self.last_sequence_id, call);
        }
        self.stream.write_all(&bytes).await.expect("the server reads");
        let mut replies = Vec::new();
        for call in &calls {
            replies.push(self.receive(call.method()).await);
        }
        replies
    }

    async fn receive(&mut self, method: Method) -> ThriftReply {
        let limits = WireLimits { max_message_bytes: 100 << 20, max_string_bytes: 100 << 20, ..WireLimits::default() };
        let mut scanner = Scanner::new(limits);
        loop {
            if let Some(envelope) = scanner.scan(&self.input).expect("the server speaks Thrift") {
                let rest = self.input.split_off(envelope.end);
                let message = std::mem::replace(&mut self.input, rest);
                return wire::decode_reply(&message, envelope.encoding, limits, method).expect("a reply").1;
            }
            let read = tokio::time::timeout(PATIENCE, self.stream.read_buf(&mut self.input)).await;
            let read = read.expect("the server answers").expect("the connection works");
            assert_ne!(read, 0, "the server closed the connection");
        }
    }
}

//! A Thrift connection that neither tries again nor connects again.

use kv_api::thrift::generated as wire;
use kv_api::thrift::wire::{Encoding, Scanner, WireLimits, decode_reply, encode_call};
use kv_api::thrift::{Method, ThriftReply, ThriftRequest};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::waiting::{PATIENCE, eventually};

/// One Thrift connection.
pub struct Client {
    pub stream: TcpStream,
    input: Vec<u8>,
}

impl Client {
    pub async fn connect(address: &str) -> Result<Client, String> {
        let stream = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
        Ok(Client { stream, input: Vec::new() })
    }

    /// A connection that is accepted and answered.
    pub async fn let_in(address: &str) -> Client {
        eventually("a client is let in", async || {
            let mut client = Client::connect(address).await?;
            client.ping().await?;
            Ok(client)
        })
        .await
    }

    pub async fn send<R: ThriftRequest>(&mut self, request: R) -> Result<(), String> {
        let mut bytes = Vec::new();
        encode_call(&mut bytes, Encoding::default(), 1, &request.into());
        self.stream.write_all(&bytes).await.map_err(|error| error.to_string())
    }

    pub async fn receive(&mut self, method: Method) -> Result<ThriftReply, String> {
        let limits = WireLimits { max_message_bytes: 100 << 20, max_string_bytes: 100 << 20, ..WireLimits::default() };
        let mut scanner = Scanner::new(limits);
        loop {
            if let Some(envelope) = scanner.scan(&self.input).expect("the server speaks Thrift") {
                let rest = self.input.split_off(envelope.end);
                let message = std::mem::replace(&mut self.input, rest);
                return Ok(decode_reply(&message, envelope.encoding, limits, method).expect("a reply").1);
            }
            let read = tokio::time::timeout(PATIENCE, self.stream.read_buf(&mut self.input)).await;
            if read.map_err(|_| "no answer".to_string())?.map_err(|error| error.to_string())? == 0 {
                return Err("the server closed the connection".into());
            }
        }
    }

    pub async fn call<R: ThriftRequest>(&mut self, request: R) -> Result<R::Response, String> {
        self.send(request).await?;
        let reply = self.receive(R::METHOD).await?;
        R::response_of(reply).map_err(|other| format!("{other:?}"))
    }

    pub async fn ping(&mut self) -> Result<(), String> {
        self.call(wire::PingRequest { message: None, timestamp: None }).await.map(|_| ())
    }

    pub async fn set(&mut self, key: &str, value: Vec<u8>) {
        let request = wire::SetRequest { key: key.as_bytes().to_vec(), value, column_family: None, auth_token: None };
        let reply = self.call(request).await.expect("an answer");
        assert!(reply.success, "{reply:?}");
    }

    pub async fn is_found(&mut self, key: &str) -> bool {
        let request =
            wire::GetRequest { key: key.as_bytes().to_vec(), column_family: None, consistency: None, auth_token: None };
        self.call(request).await.expect("an answer").found
    }
}

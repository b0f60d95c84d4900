//! Raw Thrift calls, for requests that the client library does not make.

use kv_api::thrift::generated as wire;
use kv_api::thrift::wire::{Encoding, Scanner, WireLimits, decode_reply, encode_call};
use kv_api::thrift::{Method, ThriftReply, ThriftRequest};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::cluster::TestCluster;
use crate::waiting::PATIENCE;

/// One connection; one call after another.
pub struct RawClient {
    stream: TcpStream,
    input: Vec<u8>,
    last_sequence_id: i32,
}

impl RawClient {
    pub async fn connect(cluster: &impl TestCluster, server: usize) -> RawClient {
        let stream = TcpStream::connect(cluster.thrift(server)).await.expect("the server listens");
        RawClient { stream, input: Vec::new(), last_sequence_id: 0 }
    }

    pub async fn to_each(cluster: &impl TestCluster) -> Vec<RawClient> {
        let mut clients = Vec::new();
        for server in cluster.running() {
            clients.push(RawClient::connect(cluster, server).await);
        }
        clients
    }

    pub async fn call<R: ThriftRequest>(&mut self, request: R) -> R::Response
    where
        R::Response: std::fmt::Debug,
    {
        self.last_sequence_id += 1;
        let mut bytes = Vec::new();
        encode_call(&mut bytes, Encoding::default(), self.last_sequence_id, &request.into());
        self.stream.write_all(&bytes).await.expect("the server reads");
        let reply = self.receive(R::METHOD).await;
        R::response_of(reply).unwrap_or_else(|other| panic!("not a reply to {}: {other:?}", R::METHOD.name()))
    }

    async fn receive(&mut self, method: Method) -> ThriftReply {
        let limits = WireLimits::default();
        let mut scanner = Scanner::new(limits);
        loop {
            if let Some(envelope) = scanner.scan(&self.input).expect("the server speaks Thrift") {
                let rest = self.input.split_off(envelope.end);
                let message = std::mem::replace(&mut self.input, rest);
                return decode_reply(&message, envelope.encoding, limits, method).expect("a reply").1;
            }
            let read = tokio::time::timeout(PATIENCE, self.stream.read_buf(&mut self.input)).await;
            let read = read.expect("the server answers").expect("the connection works");
            assert_ne!(read, 0, "the server closed the connection");
        }
    }

    pub async fn read_version(&mut self) -> i64 {
        let reply = self.call(wire::GetReadVersionRequest { auth_token: None }).await;
        assert!(reply.success, "{reply:?}");
        reply.read_version
    }

    pub async fn get(&mut self, key: &[u8]) -> Option<Vec<u8>> {
        let request = wire::GetRequest { key: key.to_vec(), column_family: None, consistency: None, auth_token: None };
        let reply = self.call(request).await;
        assert_eq!(reply.error, None);
        reply.found.then_some(reply.value)
    }

    pub async fn set(&mut self, key: &[u8], value: &[u8]) {
        let request =
            wire::SetRequest { key: key.to_vec(), value: value.to_vec(), column_family: None, auth_token: None };
        let reply = self.call(request).await;
        assert!(reply.success, "{reply:?}");
    }

    pub async fn get_at(&mut self, key: &[u8], read_version: i64) -> wire::SnapshotGetResponse {
        self.call(wire::SnapshotGetRequest { key: key.to_vec(), read_version, column_family: None, auth_token: None })
            .await
    }

    /// Makes a commit that must succeed, and returns its version.
    pub async fn commit(&mut self, operations: Vec<wire::Operation>) -> i64 {
        let reply = self.call(commit(operations)).await;
        assert!(reply.success, "{reply:?}");
        reply.committed_version.expect("a version")
    }

    /// The keys of a range of at most 1000 rows, as text.
    pub async fn keys(&mut self, request: wire::GetRangeRequest) -> Vec<String> {
        let reply = self.call(request).await;
        assert!(reply.success && !reply.has_more, "{reply:?}");
        reply.key_values.into_iter().map(|row| String::from_utf8(row.key).expect("tests write text")).collect()
    }
}

pub fn operation(kind: &str, key: &[u8], value: Option<&[u8]>) -> wire::Operation {
    wire::Operation {
        type_: kind.to_string(),
        key: key.to_vec(),
        value: value.map(<[u8]>::to_vec),
        column_family: None,
        stamp_offset: None,
    }
}

pub fn put(key: &[u8], value: &[u8]) -> wire::Operation {
    operation("set", key, Some(value))
}

/// A commit of a client that knows all fields of the reply.
pub fn commit(operations: Vec<wire::Operation>) -> wire::AtomicCommitRequest {
    wire::AtomicCommitRequest {
        read_version: 0,
        operations,
        read_conflict_keys: Vec::new(),
        timeout_seconds: None,
        read_conflict_ranges: None,
        idempotency_id: None,
        read_conflicts: None,
        finished_idempotency_ids: None,
        include_details: Some(true),
        auth_token: None,
    }
}

/// The keys `begin <= key < end`.
pub fn range(begin: &[u8], end: &[u8]) -> wire::GetRangeRequest {
    wire::GetRangeRequest {
        begin_key: Some(begin.to_vec()),
        end_key: Some(end.to_vec()),
        begin_offset: None,
        begin_or_equal: None,
        end_offset: None,
        end_or_equal: None,
        limit: None,
        column_family: None,
        reverse: None,
        target_bytes: None,
        begin_selector: None,
        end_selector: None,
        consistency: None,
        auth_token: None,
    }
}

/// A range as of a version.
pub fn range_at(range: wire::GetRangeRequest, read_version: i64) -> wire::SnapshotGetRangeRequest {
    wire::SnapshotGetRangeRequest {
        begin_key: range.begin_key,
        end_key: range.end_key,
        begin_offset: range.begin_offset,
        begin_or_equal: range.begin_or_equal,
        end_offset: range.end_offset,
        end_or_equal: range.end_or_equal,
        read_version,
        limit: range.limit,
        column_family: range.column_family,
        reverse: range.reverse,
        target_bytes: range.target_bytes,
        begin_selector: range.begin_selector,
        end_selector: range.end_selector,
        auth_token: None,
    }
}

//! The common parts of the steps: connections taken in turn, short calls, and the checks of a success and a failure.

use thrift::protocol::{TInputProtocol, TOutputProtocol};

use crate::generated::*;

pub type Client = TransactionalKVSyncClient<Box<dyn TInputProtocol>, Box<dyn TOutputProtocol>>;
/// A name, and what is done with a key prefix of its own.
pub type Step = (&'static str, fn(&mut Kv, &[u8]));

pub const FUTURE: i64 = 1_000_000;
pub const FAMILY: Option<&str> = Some("interop");

/// A response in which a failure can stand.
pub trait Reply {
    /// Absent where the reply has no such field.
    fn success(&self) -> Option<bool>;
    fn error(&self) -> Option<&str>;
    /// The outer one is absent where the reply has no such field.
    fn code(&self) -> Option<Option<&str>>;
}

macro_rules! replies {
    ($($name:ident: $success:ident, $code:ident;)*) => {$(
        impl Reply for $name {
            fn success(&self) -> Option<bool> {
                replies!(@success $success, self)
            }
            fn error(&self) -> Option<&str> {
                self.error.as_deref()
            }
            fn code(&self) -> Option<Option<&str>> {
                replies!(@code $code, self)
            }
        }
    )*};
    (@success success, $self:ident) => { Some($self.success) };
    (@success none, $self:ident) => { None };
    (@code always, $self:ident) => { Some($self.error_code.as_deref()) };
    (@code added, $self:ident) => {{
        #[cfg(feature = "extensions")]
        let code = Some($self.error_code.as_deref());
        #[cfg(not(feature = "extensions"))]
        let code = None;
        code
    }};
}

replies! {
    AtomicCommitResponse: success, always;
    DeleteResponse: success, always;
    FaultInjectionResponse: success, added;
    GetClusterHealthResponse: success, added;
    GetDatabaseStatsResponse: success, added;
    GetNodeInfoResponse: success, added;
    GetRangeResponse: success, added;
    GetReadVersionResponse: success, added;
    GetResponse: none, added;
    SetResponse: success, always;
    SetVersionstampedKeyResponse: success, added;
    SetVersionstampedValueResponse: success, added;
    SnapshotGetRangeResponse: success, added;
    SnapshotGetResponse: none, added;
    SnapshotReadResponse: none, added;
}

#[cfg(feature = "extensions")]
replies! {
    AuthenticateResponse: success, always;
    PinSnapshotResponse: success, always;
    UnpinSnapshotResponse: success, always;
}

#[track_caller]
pub fn succeeded<R: Reply>(reply: R) -> R {
    assert!(reply.success().unwrap_or(true), "it failed: {:?}", reply.error());
    // An empty text counts as a failure in existing clients: absent is absent.
    assert_eq!(reply.error(), None);
    reply
}

#[track_caller]
pub fn failed<R: Reply>(reply: R, text: &str, code: &str) -> R {
    assert!(!reply.success().unwrap_or(false), "it should have failed with {code}");
    let error = reply.error().expect("an error");
    assert!(error.contains(text), "{error} should contain {text}");
    if let Some(found) = reply.code() {
        assert_eq!(found, Some(code), "{error}");
    }
    reply
}

/// The value of a read; `None` where there is none.
#[track_caller]
pub fn value_of<R: Reply>(reply: R, parts: impl FnOnce(R) -> (bool, Vec<u8>)) -> Option<Vec<u8>> {
    let (found, value) = parts(succeeded(reply));
    assert!(found || value.is_empty());
    found.then_some(value)
}

/// `names(key, "a b")`: key followed by a, key followed by b.
#[cfg(feature = "extensions")]
pub fn names(key: &[u8], text: &str) -> Vec<Vec<u8>> {
    text.split(' ').map(|name| [key, name.as_bytes()].concat()).collect()
}

pub fn join(key: &[u8], tail: impl AsRef<[u8]>) -> Vec<u8> {
    [key, tail.as_ref()].concat()
}

pub fn stamp(version: i64, counter: u16) -> Vec<u8> {
    [&version.to_be_bytes()[..], &counter.to_be_bytes()].concat()
}

pub fn operation(kind: &str, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Operation {
    operation_in(None, kind, key, Some(value.as_ref()))
}

pub fn delete(key: impl AsRef<[u8]>) -> Operation {
    operation_in(None, "delete", key, None)
}

pub fn operation_in(family: Option<&str>, kind: &str, key: impl AsRef<[u8]>, value: Option<&[u8]>) -> Operation {
    Operation {
        type_: kind.to_string(),
        key: key.as_ref().to_vec(),
        value: value.map(<[u8]>::to_vec),
        column_family: family.map(str::to_string),
        #[cfg(feature = "extensions")]
        stamp_offset: None,
    }
}

pub fn commit(version: i64, operations: Vec<Operation>, conflicts: &[&[u8]]) -> AtomicCommitRequest {
    AtomicCommitRequest {
        read_version: version,
        operations,
        read_conflict_keys: conflicts.iter().map(|key| key.to_vec()).collect(),
        timeout_seconds: None,
        #[cfg(feature = "extensions")]
        read_conflict_ranges: None,
        #[cfg(feature = "extensions")]
        idempotency_id: None,
        #[cfg(feature = "extensions")]
        read_conflicts: None,
        #[cfg(feature = "extensions")]
        finished_idempotency_ids: None,
        #[cfg(feature = "extensions")]
        include_details: None,
        #[cfg(feature = "extensions")]
        auth_token: None,
    }
}

/// The fields of both requests for ranges.
#[derive(Clone, Default)]
pub struct Range {
    pub begin_key: Option<Vec<u8>>,
    pub end_key: Option<Vec<u8>>,
    pub begin_offset: Option<i32>,
    pub begin_or_equal: Option<bool>,
    pub end_offset: Option<i32>,
    pub end_or_equal: Option<bool>,
    pub limit: Option<i32>,
    pub column_family: Option<String>,
    #[cfg(feature = "extensions")]
    pub reverse: Option<bool>,
    #[cfg(feature = "extensions")]
    pub target_bytes: Option<i32>,
    #[cfg(feature = "extensions")]
    pub begin_selector: Option<KeySelector>,
    #[cfg(feature = "extensions")]
    pub end_selector: Option<KeySelector>,
}

impl Range {
    pub fn new(begin: impl AsRef<[u8]>, end: impl AsRef<[u8]>) -> Self {
        let (begin_key, end_key) = (Some(begin.as_ref().to_vec()), Some(end.as_ref().to_vec()));
        Range { begin_key, end_key, ..Range::default() }
    }

    pub fn now(self) -> GetRangeRequest {
        GetRangeRequest {
            begin_key: self.begin_key,
            end_key: self.end_key,
            begin_offset: self.begin_offset,
            begin_or_equal: self.begin_or_equal,
            end_offset: self.end_offset,
            end_or_equal: self.end_or_equal,
            limit: self.limit,
            column_family: self.column_family,
            #[cfg(feature = "extensions")]
            reverse: self.reverse,
            #[cfg(feature = "extensions")]
            target_bytes: self.target_bytes,
            #[cfg(feature = "extensions")]
            begin_selector: self.begin_selector,
            #[cfg(feature = "extensions")]
            end_selector: self.end_selector,
            #[cfg(feature = "extensions")]
            consistency: None,
            #[cfg(feature = "extensions")]
            auth_token: None,
        }
    }

    pub fn at(self, version: i64) -> SnapshotGetRangeRequest {
        SnapshotGetRangeRequest {
            begin_key: self.begin_key,
            end_key: self.end_key,
            begin_offset: self.begin_offset,
            begin_or_equal: self.begin_or_equal,
            end_offset: self.end_offset,
            end_or_equal: self.end_or_equal,
            read_version: version,
            limit: self.limit,
            column_family: self.column_family,
            #[cfg(feature = "extensions")]
            reverse: self.reverse,
            #[cfg(feature = "extensions")]
            target_bytes: self.target_bytes,
            #[cfg(feature = "extensions")]
            begin_selector: self.begin_selector,
            #[cfg(feature = "extensions")]
            end_selector: self.end_selector,
            #[cfg(feature = "extensions")]
            auth_token: None,
        }
    }
}

/// The result of a range.
#[derive(Debug, PartialEq)]
pub struct Rows {
    pub rows: Vec<(Vec<u8>, Vec<u8>)>,
    pub has_more: bool,
}

impl Rows {
    fn new(rows: Vec<KeyValue>, has_more: bool) -> Self {
        Rows { rows: rows.into_iter().map(|row| (row.key, row.value)).collect(), has_more }
    }

    pub fn keys(&self) -> Vec<Vec<u8>> {
        self.rows.iter().map(|(key, _)| key.clone()).collect()
    }
}

/// A connection to each server; every call goes to the next one.
pub struct Kv {
    clients: Vec<Client>,
    calls: usize,
    /// While set, all calls go to this one.
    only: Option<usize>,
    pub nodes: i32,
    /// That of all clients; `None` without authentication.
    #[cfg_attr(not(feature = "extensions"), allow(dead_code))]
    pub token: Option<String>,
}

impl Kv {
    pub fn new(clients: Vec<Client>, nodes: i32, token: Option<String>) -> Self {
        Kv { clients, calls: 0, only: None, nodes, token }
    }

    pub fn next(&mut self) -> &mut Client {
        self.calls += 1;
        let place = self.only.unwrap_or(self.calls % self.clients.len());
        &mut self.clients[place]
    }

    /// Calls that go through one and the same connection.
    pub fn by_one<T>(&mut self, calls: impl FnOnce(&mut Kv) -> T) -> T {
        struct Release<'a>(&'a mut Kv);
        impl Drop for Release<'_> {
            fn drop(&mut self) {
                self.0.only = None;
            }
        }
        self.only = Some(self.calls % self.clients.len());
        calls(Release(self).0)
    }

    pub fn try_put(&mut self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>, family: Option<&str>) -> SetResponse {
        let (key, value) = (key.as_ref().to_vec(), value.as_ref().to_vec());
        let request = SetRequest {
            key,
            value,
            column_family: family.map(str::to_string),
            #[cfg(feature = "extensions")]
            auth_token: None,
        };
        self.next().set_key(request).expect("a reply")
    }

    #[track_caller]
    pub fn put(&mut self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) {
        succeeded(self.try_put(key, value, None));
    }

    pub fn try_delete(&mut self, key: &[u8], family: Option<&str>) -> DeleteResponse {
        let request = DeleteRequest {
            key: key.to_vec(),
            column_family: family.map(str::to_string),
            #[cfg(feature = "extensions")]
            auth_token: None,
        };
        self.next().delete_key(request).expect("a reply")
    }

    pub fn try_get(&mut self, key: impl AsRef<[u8]>, family: Option<&str>) -> GetResponse {
        let request = GetRequest {
            key: key.as_ref().to_vec(),
            column_family: family.map(str::to_string),
            #[cfg(feature = "extensions")]
            consistency: None,
            #[cfg(feature = "extensions")]
            auth_token: None,
        };
        self.next().get(request).expect("a reply")
    }

    #[track_caller]
    pub fn get_in(&mut self, family: Option<&str>, key: impl AsRef<[u8]>) -> Option<Vec<u8>> {
        value_of(self.try_get(key, family), |reply| (reply.found, reply.value))
    }

    #[track_caller]
    pub fn get(&mut self, key: impl AsRef<[u8]>) -> Option<Vec<u8>> {
        self.get_in(None, key)
    }

    pub fn try_snapshot_read(&mut self, key: &[u8], version: i64, family: Option<&str>) -> SnapshotReadResponse {
        let column_family = family.map(str::to_string);
        let request = SnapshotReadRequest {
            key: key.to_vec(),
            read_version: version,
            column_family,
            #[cfg(feature = "extensions")]
            auth_token: None,
        };
        self.next().snapshot_read(request).expect("a reply")
    }

    #[track_caller]
    pub fn snapshot_read(&mut self, key: impl AsRef<[u8]>, version: i64) -> Option<Vec<u8>> {
        value_of(self.try_snapshot_read(key.as_ref(), version, None), |reply| (reply.found, reply.value))
    }

    pub fn try_snapshot_get(&mut self, key: &[u8], version: i64) -> SnapshotGetResponse {
        let request = SnapshotGetRequest {
            key: key.to_vec(),
            read_version: version,
            column_family: None,
            #[cfg(feature = "extensions")]
            auth_token: None,
        };
        self.next().snapshot_get(request).expect("a reply")
    }

    #[track_caller]
    pub fn snapshot_get(&mut self, key: impl AsRef<[u8]>, version: i64) -> Option<Vec<u8>> {
        value_of(self.try_snapshot_get(key.as_ref(), version), |reply| (reply.found, reply.value))
    }

    #[track_caller]
    pub fn version(&mut self) -> i64 {
        succeeded(
            self.next()
                .get_read_version(GetReadVersionRequest {
                    #[cfg(feature = "extensions")]
                    auth_token: None,
                })
                .expect("a reply"),
        )
        .read_version
    }

    pub fn commit(&mut self, request: AtomicCommitRequest) -> AtomicCommitResponse {
        self.next().atomic_commit(request).expect("a reply")
    }

    /// Succeeds; returns the committed version.
    #[track_caller]
    pub fn commit_all(&mut self, operations: Vec<Operation>) -> i64 {
        succeeded(self.commit(commit(0, operations, &[]))).committed_version.expect("a version")
    }

    #[track_caller]
    pub fn range(&mut self, range: Range) -> Rows {
        let reply = succeeded(self.next().get_range(range.now()).expect("a reply"));
        Rows::new(reply.key_values, reply.has_more)
    }

    #[track_caller]
    pub fn snapshot_range(&mut self, version: i64, range: Range) -> Rows {
        let reply = succeeded(self.next().snapshot_get_range(range.at(version)).expect("a reply"));
        Rows::new(reply.key_values, reply.has_more)
    }
}

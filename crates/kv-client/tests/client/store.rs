//! A small database behind scripted servers, which act as its replicas. Each replica can be made to
//! misbehave.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kv_api::thrift::generated::*;
use kv_api::thrift::{ThriftCall, ThriftReply};

use crate::peer::{Action, Peer};

pub type Map = BTreeMap<Vec<u8>, Vec<u8>>;

/// What a replica does instead of serving a call; `None` means that it serves the call.
type Fault = Box<dyn FnMut(&ThriftCall, &Store) -> Option<Action> + Send>;

#[derive(Clone, Default)]
pub struct Store {
    contents: Arc<Mutex<Contents>>,
}

pub struct Contents {
    /// The rows as of each version, from 1 on.
    versions: Vec<Map>,
    /// The keys and ranges that each version wrote.
    written: Vec<Vec<(Vec<u8>, Vec<u8>)>>,
    /// The results of commits with an idempotency id.
    results: HashMap<Vec<u8>, AtomicCommitResponse>,
    /// The commits that took effect, each with its version.
    pub executed: Vec<(i64, AtomicCommitRequest)>,
    /// A commit that depends on an older version is refused.
    oldest: i64,
    /// Every commit that arrived, in order.
    pub commits: Vec<AtomicCommitRequest>,
    /// All calls in order: the number of the replica, and the name of the method.
    pub calls: Vec<(usize, &'static str)>,
    pub addresses: Vec<String>,
    pub primary: usize,
    pub view: i64,
}

impl Default for Contents {
    fn default() -> Self {
        Contents {
            versions: vec![Map::new(), Map::new()],
            written: vec![Vec::new(), Vec::new()],
            results: HashMap::new(),
            executed: Vec::new(),
            oldest: 0,
            commits: Vec::new(),
            calls: Vec::new(),
            addresses: Vec::new(),
            primary: 0,
            view: 1,
        }
    }
}

impl Store {
    pub fn contents(&self) -> MutexGuard<'_, Contents> {
        self.contents.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts one more replica.
    pub async fn replica(&self, fault: impl FnMut(&ThriftCall, &Store) -> Option<Action> + Send + 'static) -> Peer {
        let (store, fault): (Store, Mutex<Fault>) = (self.clone(), Mutex::new(Box::new(fault)));
        let number = self.contents().addresses.len();
        let peer = Peer::start(move |call| {
            store.contents().calls.push((number, call.method().name()));
            let action = fault.lock().unwrap_or_else(PoisonError::into_inner)(&call, &store);
            action.unwrap_or_else(|| Action::Reply(store.serve(call)))
        })
        .await;
        self.contents().addresses.push(peer.address());
        peer
    }

    /// A replica without faults.
    pub async fn faultless(&self) -> Peer {
        self.replica(|_, _| None).await
    }

    pub fn serve(&self, call: ThriftCall) -> ThriftReply {
        let mut contents = self.contents();
        match call {
            ThriftCall::Get(request) => contents.get_newest(&request.key).into(),
            ThriftCall::SetKey(request) => contents.set(request).into(),
            ThriftCall::GetReadVersion(_) => contents.read_version().into(),
            ThriftCall::SnapshotGet(request) => contents.get(&request).into(),
            ThriftCall::SnapshotGetRange(request) => contents.range(&request).into(),
            ThriftCall::AtomicCommit(request) => contents.commit(request).into(),
            ThriftCall::GetClusterHealth(_) => contents.health().into(),
            other => panic!("a request that this store does not know: {other:?}"),
        }
    }

    /// Writes as another client would.
    pub fn set(&self, key: &str, value: &str) {
        self.contents().set(SetRequest { key: key.into(), value: value.into(), column_family: None, auth_token: None });
    }

    /// Acts as if enough time had passed that all results are forgotten and all present versions
    /// are too old to depend on.
    pub fn expire_everything(&self) {
        let mut contents = self.contents();
        contents.results.clear();
        contents.oldest = contents.newest() + 1;
    }

    pub fn value(&self, key: &str) -> Option<String> {
        let contents = self.contents();
        let value = contents.versions.last().expect("there is always a version").get(key.as_bytes())?;
        Some(String::from_utf8_lossy(value).into_owned())
    }

    /// How often this method was called at all replicas together.
    pub fn calls_of(&self, method: &str) -> usize {
        self.contents().calls.iter().filter(|(_, name)| *name == method).count()
    }

    /// The numbers of the replicas at which this method was called, in the order of the calls.
    pub fn replicas_of(&self, method: &str) -> Vec<usize> {
        let contents = self.contents();
        contents.calls.iter().filter(|(_, name)| *name == method).map(|(number, _)| *number).collect()
    }
}

pub fn refused(code: &str) -> AtomicCommitResponse {
    let (message, code) = (format!("refused: {code}"), code.to_string());
    AtomicCommitResponse::new(false, message, code, None, None, None, None, None, None, None, None)
}

impl Contents {
    pub fn newest(&self) -> i64 {
        self.versions.len() as i64 - 1
    }

    fn read_version(&self) -> GetReadVersionResponse {
        GetReadVersionResponse {
            read_version: self.newest(),
            success: true,
            error: None,
            error_code: None,
            leader_endpoint: None,
        }
    }

    fn get(&self, request: &SnapshotGetRequest) -> SnapshotGetResponse {
        let value = self.versions[request.read_version as usize].get(&request.key).cloned();
        let found = value.is_some();
        SnapshotGetResponse {
            value: value.unwrap_or_default(),
            found,
            error: None,
            error_code: None,
            leader_endpoint: None,
        }
    }

    fn range(&self, request: &SnapshotGetRangeRequest) -> SnapshotGetRangeResponse {
        let begin = request.begin_key.clone().unwrap_or_default();
        let end = request.end_key.clone().expect("the client always gives an end");
        let rows = self.versions[request.read_version as usize].range(begin..end);
        let mut rows: Vec<KeyValue> =
            rows.map(|(key, value)| KeyValue { key: key.clone(), value: value.clone() }).collect();
        if request.reverse == Some(true) {
            rows.reverse();
        }
        let limit = request.limit.filter(|limit| *limit > 0).map_or(usize::MAX, |limit| limit as usize);
        let target = request.target_bytes.expect("the client always gives a page size") as usize;
        let (mut page, mut bytes) = (Vec::new(), 0);
        let all = rows.len();
        for row in rows {
            if page.len() == limit || bytes >= target {
                break;
            }
            bytes += row.key.len() + row.value.len();
            page.push(row);
        }
        let has_more = page.len() < all;
        SnapshotGetRangeResponse {
            key_values: page,
            success: true,
            error: None,
            has_more,
            error_code: None,
            leader_endpoint: None,
        }
    }

    /// The rows as of a version.
    pub fn rows(&self, version: i64) -> &Map {
        &self.versions[version as usize]
    }

    fn get_newest(&self, key: &[u8]) -> GetResponse {
        let value = self.rows(self.newest()).get(key).cloned();
        GetResponse {
            found: value.is_some(),
            value: value.unwrap_or_default(),
            error: None,
            error_code: None,
            leader_endpoint: None,
        }
    }

    fn set(&mut self, request: SetRequest) -> SetResponse {
        let operation = Operation::new("set".to_string(), request.key, request.value, None, None);
        let operations = vec![operation];
        self.execute(&AtomicCommitRequest::new(0, operations, Vec::new(), None, None, None, None, None, None, None));
        SetResponse { success: true, error: None, error_code: None, leader_endpoint: None }
    }

    /// Does the same as a real server: checks for a known id, then for conflicts, then executes.
    fn commit(&mut self, request: AtomicCommitRequest) -> AtomicCommitResponse {
        self.commits.push(request.clone());
        for id in request.finished_idempotency_ids.iter().flatten() {
            self.results.remove(id);
        }
        if let Some(known) = request.idempotency_id.as_ref().and_then(|id| self.results.get(id)) {
            return known.clone();
        }
        let depends = request.read_conflicts.is_some() || request.read_conflict_ranges.is_some();
        if depends && request.read_version < self.oldest {
            return refused("TRANSACTION_TOO_OLD");
        }
        if self.has_conflict(&request) {
            return refused("CONFLICT");
        }
        let response = self.execute(&request);
        if let Some(id) = request.idempotency_id {
            self.results.insert(id, response.clone());
        }
        response
    }

    /// Whether anything that the commit depends on was written since its read version.
    fn has_conflict(&self, request: &AtomicCommitRequest) -> bool {
        let single =
            request.read_conflicts.iter().flatten().map(|key| (key.key.clone(), [&key.key[..], &[0]].concat()));
        let ranges = request.read_conflict_ranges.iter().flatten();
        let ranges = ranges.map(|range| (range.begin_key.clone(), range.end_key.clone()));
        let read: Vec<_> = single.chain(ranges).collect();
        let since = self.written.iter().skip(request.read_version as usize + 1).flatten();
        since.into_iter().any(|(begin, end)| read.iter().any(|read| *begin < read.1 && read.0 < *end))
    }

    fn execute(&mut self, request: &AtomicCommitRequest) -> AtomicCommitResponse {
        let version = self.versions.len() as u64;
        let mut rows = self.versions.last().expect("there is always a version").clone();
        let (mut written, mut generated) = (Vec::new(), Vec::new());
        for (count, operation) in request.operations.iter().enumerate() {
            let mut key = operation.key.clone();
            let value = operation.value.clone().unwrap_or_default();
            let mut end = [&key[..], &[0]].concat();
            match operation.type_.as_str() {
                "set" => drop(rows.insert(key.clone(), value)),
                "delete" => drop(rows.remove(&key)),
                "clear_range" => {
                    rows.retain(|existing, _| *existing < key || *existing >= value);
                    end = value;
                }
                "SET_VERSIONSTAMPED_KEY" => {
                    let offset = operation.stamp_offset.expect("the client always gives an offset") as usize;
                    key[offset..offset + 8].copy_from_slice(&version.to_be_bytes());
                    key[offset + 8..offset + 10].copy_from_slice(&(count as u16).to_be_bytes());
                    rows.insert(key.clone(), value);
                    generated.push(key.clone());
                    end = [&key[..], &[0]].concat();
                }
                other => panic!("an operation that this store does not know: {other}"),
            }
            written.push((key, end));
        }
        self.versions.push(rows);
        self.written.push(written);
        self.executed.push((version as i64, request.clone()));
        let stamp = [&version.to_be_bytes()[..], &[0, 0]].concat();
        let generated = (!generated.is_empty()).then_some(generated);
        AtomicCommitResponse::new(true, None, None, version as i64, stamp, generated, None, None, None, None, None)
    }

    fn health(&self) -> GetClusterHealthResponse {
        let node = |number: usize| NodeStatus {
            node_id: number as i32,
            endpoint: self.addresses[number].clone(),
            status: "healthy".to_string(),
            is_leader: number == self.primary,
            last_seen_timestamp: 0,
            term: self.view,
            uptime_seconds: None,
        };
        let count = self.addresses.len();
        let health = ClusterHealth {
            nodes: (0..count).map(node).collect(),
            healthy_nodes_count: count as i32,
            total_nodes_count: count as i32,
            leader: Some(node(self.primary)),
            cluster_status: "healthy".to_string(),
            current_term: self.view,
        };
        GetClusterHealthResponse {
            success: true,
            cluster_health: Some(health),
            error: None,
            error_code: None,
            limits: None,
        }
    }
}

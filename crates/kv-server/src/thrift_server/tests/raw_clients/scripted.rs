//! A service whose calls end when the test says so.

use std::collections::{HashMap, HashSet};
use std::sync::Mutex;

use tokio::sync::watch;

use super::*;

/// How a call ends.
#[derive(Clone)]
#[allow(clippy::large_enum_variant, reason = "nearly all are replies")]
pub enum End {
    Reply(ThriftReply),
    NeedsRoom,
    Panic,
}

/// A service that identifies calls by their keys. A call ends once its key is released, as planned:
/// the first call of a key with the first end, and so on; further ones with the last.
#[derive(Default)]
pub struct Scripted {
    plans: Mutex<HashMap<String, Vec<End>>>,
    state: watch::Sender<State>,
}

#[derive(Default)]
pub struct State {
    released: HashSet<String>,
    /// The keys in the order in which their calls began, ended, and were dropped before they ended.
    pub started: Vec<String>,
    pub ended: Vec<String>,
    pub dropped: Vec<String>,
    /// The connection of each call.
    pub connections: HashMap<String, u64>,
}

impl Scripted {
    pub fn plan(&self, key: &str, ends: impl IntoIterator<Item = End>) {
        let ends: Vec<End> = ends.into_iter().collect();
        assert!(!ends.is_empty());
        self.plans.lock().expect("no panic while locked").insert(key.to_string(), ends);
    }

    pub fn release(&self, key: &str) {
        self.state.send_modify(|state| {
            state.released.insert(key.to_string());
        });
    }

    pub fn with_state<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.state.borrow())
    }

    pub async fn until(&self, what: &str, condition: impl FnMut(&State) -> bool) {
        let mut state = self.state.subscribe();
        let waited = tokio::time::timeout(PATIENCE, state.wait_for(condition)).await;
        drop(waited.unwrap_or_else(|_| panic!("still waiting until {what}")).expect("the service lives"));
    }

    pub async fn until_started(&self, count: usize) {
        self.until("calls have started", |state| state.started.len() >= count).await;
    }

    /// Lets the calls of a key end. If one is running, waits until it has ended.
    pub async fn end(&self, key: &str) {
        self.release(key);
        if self.with_state(|state| state.started.iter().any(|started| started == key)) {
            self.until("the call has ended", |state| state.ended.iter().any(|ended| ended == key)).await;
        }
    }

    pub fn forget(&self) {
        self.state.send_modify(|state| *state = State::default());
    }

    fn next_end(&self, key: &str) -> End {
        let mut plans = self.plans.lock().expect("no panic while locked");
        let ends = plans.get_mut(key).unwrap_or_else(|| panic!("nothing is planned for {key}"));
        if ends.len() > 1 { ends.remove(0) } else { ends[0].clone() }
    }
}

/// Records if a call is dropped before it ends.
struct UnderWay<'a> {
    script: &'a Scripted,
    key: String,
    has_ended: bool,
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        let key = std::mem::take(&mut self.key);
        let has_ended = self.has_ended;
        self.script.state.send_modify(|state| if has_ended { state.ended.push(key) } else { state.dropped.push(key) });
    }
}

#[async_trait]
impl ThriftService for Scripted {
    async fn call(&self, connection: &ConnectionContext, call: ThriftCall, _: CallTerms) -> Served {
        let key = match &call {
            ThriftCall::Get(request) => request.key.clone(),
            ThriftCall::SetKey(request) => request.key.clone(),
            ThriftCall::GetRange(request) => request.begin_key.clone().expect("a key"),
            other => panic!("not in this service: {}", other.method().name()),
        };
        let key = String::from_utf8(key).expect("keys of tests are text");
        self.state.send_modify(|state| {
            state.started.push(key.clone());
            state.connections.insert(key.clone(), connection.connection_id);
        });
        let mut under_way = UnderWay { script: self, key: key.clone(), has_ended: false };
        let mut state = self.state.subscribe();
        drop(state.wait_for(|state| state.released.contains(&key)).await.expect("the service lives"));
        under_way.has_ended = true;
        match self.next_end(&key) {
            End::Reply(reply) => reply.into(),
            End::NeedsRoom => Served::NeedsRoom,
            End::Panic => panic!("as planned"),
        }
    }
}

//! A service whose `get` behaves as its key says.

use std::sync::Mutex;

use kv_api::thrift::generated::{GetRangeResponse, GetRequest, GetResponse, KeyValue, PingResponse, SetResponse};
use tokio::sync::watch;

use super::*;

/// `get` of `wait-N` waits until `release(N)`, `panic` and `panic-later` panic, `big-N` answers N
/// bytes, `wrong` answers as another method; every other key answers with itself. `setKey` answers
/// with the length of the value in `error`. `getRange` answers with one row, whose value has as
/// many bytes as its begin key says.
pub struct FakeService {
    /// The keys in the order in which `get` was first polled.
    pub started: watch::Sender<Vec<String>>,
    released: watch::Sender<u64>,
    /// The deadlines of the calls, in order.
    pub deadlines: Mutex<Vec<Instant>>,
    /// The memory reserved for the reply of each range.
    pub rooms: Mutex<Vec<usize>>,
}

impl Default for FakeService {
    fn default() -> Self {
        FakeService {
            started: watch::Sender::new(vec![]),
            released: watch::Sender::new(0),
            deadlines: Mutex::default(),
            rooms: Mutex::default(),
        }
    }
}

impl FakeService {
    /// Lets every `get` of `wait-M` with M up to this finish.
    pub fn release(&self, number: u64) {
        self.released.send_replace(number);
    }

    pub fn started(&self) -> Vec<String> {
        self.started.borrow().clone()
    }

    pub async fn until_started(&self, count: usize) {
        let mut started = self.started.subscribe();
        let enough = started.wait_for(|started| started.len() >= count);
        tokio::time::timeout(PATIENCE, enough).await.expect("calls are started").expect("the service lives");
    }

    async fn get(&self, request: GetRequest) -> ThriftReply {
        let key = String::from_utf8(request.key).expect("keys of tests are text");
        self.started.send_modify(|started| started.push(key.clone()));
        let mut value = key.clone().into_bytes();
        if key == "panic" {
            panic!("as ordered");
        } else if key == "panic-later" {
            tokio::task::yield_now().await;
            panic!("as ordered, later");
        } else if key == "wrong" {
            return SetResponse::new(true, None, None, None).into();
        } else if let Some(number) = key.strip_prefix("wait-") {
            let number: u64 = number.parse().expect("a number");
            self.released.subscribe().wait_for(|released| *released >= number).await.expect("the service lives");
        } else if let Some(length) = key.strip_prefix("big-") {
            value = vec![7; length.parse().expect("a number")];
        }
        GetResponse::new(value, true, None, None, None).into()
    }
}

#[async_trait]
impl ThriftService for FakeService {
    async fn call(&self, _: &ConnectionContext, call: ThriftCall, terms: CallTerms) -> Served {
        match call {
            ThriftCall::Get(request) => {
                self.deadlines.lock().expect("no panic while locked").push(terms.deadline);
                self.get(request).await.into()
            }
            ThriftCall::GetRange(request) => {
                self.rooms.lock().expect("no panic while locked").push(terms.room_bytes);
                let length = request.begin_key.as_deref().map(String::from_utf8_lossy).expect("a key");
                let length: usize = length.parse().expect("a number");
                if length > terms.room_bytes {
                    return Served::NeedsRoom;
                }
                // As if the value were being read.
                tokio::task::yield_now().await;
                GetRangeResponse::new(vec![KeyValue::new(vec![], vec![7; length])], true, None, false, None, None)
                    .into()
            }
            ThriftCall::Ping(request) => {
                let message = request.message.unwrap_or_else(|| b"pong".to_vec());
                PingResponse::new(message, request.timestamp.unwrap_or(0), 1).into()
            }
            ThriftCall::SetKey(request) => SetResponse::new(true, request.value.len().to_string(), None, None).into(),
            other => {
                let text = format!("not in this service: {}", other.method().name());
                ThriftReply::Exception(ThriftException::new(ApplicationErrorKind::InternalError, text)).into()
            }
        }
    }
}

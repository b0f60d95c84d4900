//! Read versions. Callers that come while enough rounds are under way share the next one.
//!
//! A caller never shares a round that began before it called, so its version covers everything acknowledged before.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kv_api::Version;
use kv_api::thrift::generated::GetReadVersionRequest;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use crate::client::Kind;
use crate::cluster::{Cluster, Errand, Target};
use crate::{ClientError, convert};

/// A version that was heard of so long ago is recent: well within the time for which versions stay readable.
const RECENT: Duration = Duration::from_secs(2);

/// How much longer than its deadline a caller waits: what the round says at that time tells more.
const GRACE: Duration = Duration::from_millis(100);

/// Rounds under way at a time: few callers do not wait for each other, many share.
const MAX_ROUNDS: usize = 4;

pub(crate) struct ReadVersions {
    cluster: Arc<Cluster>,
    rounds: Mutex<Rounds>,
    /// The newest version that was heard of, and when.
    newest: Mutex<Option<(Version, Instant)>>,
}

#[derive(Default)]
struct Rounds {
    under_way: usize,
    waiting: Vec<Caller>,
}

struct Caller {
    deadline: Instant,
    answer: oneshot::Sender<Result<Version, ClientError>>,
}

impl ReadVersions {
    pub fn new(cluster: Arc<Cluster>) -> Arc<Self> {
        Arc::new(ReadVersions { cluster, rounds: Mutex::default(), newest: Mutex::default() })
    }

    pub async fn get(self: &Arc<Self>, deadline: Instant) -> Result<Version, ClientError> {
        let begun = Instant::now();
        let (answer, version) = oneshot::channel();
        if self.join(Caller { deadline, answer }) {
            tokio::spawn(self.clone().run_rounds());
        }
        match timeout_at(deadline + GRACE, version).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) | Err(_) => {
                let timeout_ms = begun.elapsed().as_millis() as u64;
                Err(ClientError::DeadlineExceeded {
                    endpoint: "the cluster".into(),
                    timeout_ms,
                    maybe_committed: false,
                })
            }
        }
    }

    /// A version that was the newest a moment ago; it may not cover what was acknowledged since.
    pub async fn recent(self: &Arc<Self>, deadline: Instant) -> Result<Version, ClientError> {
        let heard = *self.newest();
        match heard {
            Some((version, at)) if at.elapsed() < RECENT => Ok(version),
            _ => self.get(deadline).await,
        }
    }

    /// This version exists.
    pub fn note(&self, version: Version) {
        let mut newest = self.newest();
        if newest.is_none_or(|(known, _)| known <= version) {
            *newest = Some((version, Instant::now()));
        }
    }

    /// What was heard of is not recent.
    pub fn forget(&self) {
        *self.newest() = None;
    }

    /// Waits for the next round; true when a task has to be started for it.
    fn join(&self, caller: Caller) -> bool {
        let mut rounds = self.rounds();
        rounds.waiting.push(caller);
        let is_new = rounds.under_way < MAX_ROUNDS;
        rounds.under_way += usize::from(is_new);
        is_new
    }

    async fn run_rounds(self: Arc<Self>) {
        while let Some((callers, deadline)) = self.next_round() {
            let errand = Errand { target: Target::Primary, kind: Kind::Read, has_id: false, deadline, cost_bytes: 0 };
            let answer = self.cluster.call(GetReadVersionRequest {}, errand, |response| {
                convert::success(response.success, response.error, response.error_code)?;
                Ok(convert::version(response.read_version))
            });
            let answer = answer.await.map(|answer| answer.value);
            answer.iter().for_each(|version| self.note(*version));
            for caller in callers {
                // Whoever stopped waiting does not mind.
                let _ = caller.answer.send(answer.clone());
            }
        }
    }

    /// All who wait, and until when the last of them does. Nobody: this task is no longer needed.
    fn next_round(&self) -> Option<(Vec<Caller>, Instant)> {
        let mut rounds = self.rounds();
        let callers = std::mem::take(&mut rounds.waiting);
        match callers.iter().map(|caller| caller.deadline).max() {
            Some(deadline) => Some((callers, deadline)),
            None => {
                rounds.under_way -= 1;
                None
            }
        }
    }

    fn newest(&self) -> MutexGuard<'_, Option<(Version, Instant)>> {
        self.newest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn rounds(&self) -> MutexGuard<'_, Rounds> {
        // What it guards is right after every step.
        self.rounds.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

//! Read versions. Each round of requests to the cluster obtains one version for all callers that
//! were waiting when the round began.
//!
//! A caller never joins a round that began before its call, so its version covers everything that
//! was acknowledged before.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kv_api::Version;
use kv_api::thrift::generated::GetReadVersionRequest;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use crate::cluster::Cluster;
use crate::request::{Access, CallOptions, Target};
use crate::{ClientError, convert};

/// A version counts as recent if it was the newest one at most this long ago. Versions stay
/// readable for much longer.
const RECENT: Duration = Duration::from_secs(2);

/// How long a caller still waits after its deadline. Its round usually ends at the deadline, with an
/// error that says more than a timeout of the caller.
const GRACE: Duration = Duration::from_millis(100);

/// Maximum number of concurrent rounds: a few callers each get a round of their own at once, many
/// callers share.
const MAX_ROUNDS: usize = 4;

pub(crate) struct ReadVersions {
    cluster: Arc<Cluster>,
    rounds: Mutex<Rounds>,
    /// The newest version known to exist, and when it was learned.
    newest: Mutex<Option<(Version, Instant)>>,
}

#[derive(Default)]
struct Rounds {
    running: usize,
    /// Callers that the next round will serve.
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

    /// A version that covers everything acknowledged before the call.
    pub async fn get(self: &Arc<Self>, deadline: Instant) -> Result<Version, ClientError> {
        let begun = Instant::now();
        let (answer, version) = oneshot::channel();
        if self.enqueue(Caller { deadline, answer }) {
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

    /// A version that was the newest one a moment ago. It may not cover what was acknowledged
    /// since.
    pub async fn recent(self: &Arc<Self>, deadline: Instant) -> Result<Version, ClientError> {
        let newest = *self.newest();
        match newest {
            Some((version, at)) if at.elapsed() < RECENT => Ok(version),
            _ => self.get(deadline).await,
        }
    }

    /// Records that this version exists.
    pub fn observe(&self, version: Version) {
        let mut newest = self.newest();
        if newest.is_none_or(|(known, _)| known <= version) {
            *newest = Some((version, Instant::now()));
        }
    }

    /// Discards the newest known version, which has turned out to be too old.
    pub fn forget(&self) {
        *self.newest() = None;
    }

    /// Adds a caller to the next round. Returns whether a task has to be started for that round.
    fn enqueue(&self, caller: Caller) -> bool {
        let mut rounds = self.rounds();
        rounds.waiting.push(caller);
        let is_new = rounds.running < MAX_ROUNDS;
        rounds.running += usize::from(is_new);
        is_new
    }

    async fn run_rounds(self: Arc<Self>) {
        while let Some((callers, deadline)) = self.next_round() {
            let (target, access) = (Target::Primary, Access::Read);
            let options = CallOptions { target, access, has_id: false, deadline, cost_bytes: 0 };
            let answer = self.cluster.call(GetReadVersionRequest { auth_token: None }, options, |response| {
                convert::success(response.success, response.error, response.error_code, response.leader_endpoint)?;
                Ok(convert::version(response.read_version))
            });
            let answer = answer.await.map(|answer| answer.value);
            answer.iter().for_each(|version| self.observe(*version));
            for caller in callers {
                // A caller that has given up is ignored.
                let _ = caller.answer.send(answer.clone());
            }
        }
    }

    /// The callers of the next round, and the latest of their deadlines. `None` if no caller waits;
    /// the task that asked then ends.
    fn next_round(&self) -> Option<(Vec<Caller>, Instant)> {
        let mut rounds = self.rounds();
        let callers = std::mem::take(&mut rounds.waiting);
        match callers.iter().map(|caller| caller.deadline).max() {
            Some(deadline) => Some((callers, deadline)),
            None => {
                rounds.running -= 1;
                None
            }
        }
    }

    fn newest(&self) -> MutexGuard<'_, Option<(Version, Instant)>> {
        self.newest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn rounds(&self) -> MutexGuard<'_, Rounds> {
        // A panic while this was locked cannot have left it inconsistent.
        self.rounds.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

//! The handle of a running replica.

use std::sync::Arc;
use std::time::{Duration, Instant as StdInstant};

use bytes::Bytes;
use stage_times::{Stage, StageTimes};
use tokio::sync::{oneshot, watch};

use super::core_lock::CoreLock;
use super::error::{ReadError, RequestError, WITHOUT_DATA};
use super::failure::Failure;
use super::heartbeat::StalledThread;
use super::options::ReplicaOptions;
use super::shared::ReplicaShared;
use super::status::{DriverStatus, RoleChange};
use super::sync;
use super::sync::atomic::Ordering;
use super::sync::thread::JoinHandle;
use super::sync::{Mutex, mpsc};
use super::waiters::{Answer, TransferReply};
use super::work::Event;
use crate::core::{
    Input, MemberChange, Precondition, RaiseError, RaiseId, ReadId, ReconfigureError, ReconfigureId, RequestId,
    TransferError, TransferId,
};
use crate::{Epoch, FeatureLevel, Membership, ReplicaId, Sequence, View};

/// Grace period after the deadline in which the outcome of a request already sent is still
/// reported.
const GRACE: Duration = Duration::from_millis(100);

/// The maximum number of requests and reads without an answer; more are refused.
const MAX_UNFINISHED: usize = 1 << 20;

/// How long a primary that is about to stop waits for another replica to lead.
const HAND_OVER_WAIT: Duration = Duration::from_millis(500);

/// A running replica. Start one with [`ConsensusReplica::recover`]. Dropping it stops it; the
/// outcome of requests that were sent is unknown then.
pub struct ConsensusReplica {
    core: Arc<CoreLock>,
    options: ReplicaOptions,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl ConsensusReplica {
    pub(super) fn new(core: Arc<CoreLock>, options: ReplicaOptions, threads: Vec<JoinHandle<()>>) -> Self {
        ConsensusReplica { core, options, threads: Mutex::new(threads) }
    }

    pub(super) fn shared(&self) -> &ReplicaShared {
        self.core.shared()
    }

    fn next_id(&self) -> u64 {
        self.shared().next_id.fetch_add(1, Ordering::Relaxed)
    }

    /// Has `payload` executed by all replicas, and returns the outcome. The request takes its place
    /// in this replica's session when this function is called, not when the future is first polled.
    /// The future ends shortly after `deadline` at the latest. Dropping it does not cancel the
    /// request.
    ///
    /// # Errors
    /// Only [`RequestError::Unknown`] leaves open whether the request is executed.
    pub fn execute_request_async(
        &self,
        payload: Bytes,
        deadline: StdInstant,
    ) -> impl Future<Output = Result<Bytes, RequestError>> + Send + 'static {
        let id = RequestId(self.next_id());
        let (reply, outcome) = oneshot::channel();
        let now = sync::now();
        let cancel_at = deadline.min(now + self.options.no_primary_wait);
        self.shared().requests().add(id, now, cancel_at, deadline, reply);
        let unfinished = Unfinished::begin(&self.core);
        if self.options.core.is_witness {
            self.shared().requests().refuse(id, RequestError::NotExecuted(WITHOUT_DATA.into()));
        } else if unfinished.is_too_many {
            self.shared().requests().refuse(id, RequestError::Overloaded);
        } else if !unfinished.submit(Input::Propose { id, payload }) {
            self.shared().requests().refuse(id, RequestError::NotExecuted("the replica has stopped".into()));
        }
        let stages = self.shared().stages.clone();
        async move {
            let _unfinished = unfinished;
            // The core cancels requests that it could not send in time, so only a request that was
            // sent is left at the deadline. A void may still take its place: then it is known not
            // to be executed.
            match tokio::time::timeout_at((deadline + GRACE).into(), outcome).await {
                Ok(Ok(Answer { result, applied })) => {
                    if let Some(applied) = applied {
                        stages.observe(Stage::Reply, sync::now().saturating_duration_since(applied));
                    }
                    result
                }
                Ok(Err(_)) => Err(RequestError::Unknown("the replica has stopped".into())),
                Err(_) => Err(RequestError::Unknown("no outcome before the deadline".into())),
            }
        }
    }

    /// Returns a linearizable read point, once this replica's database has applied everything that
    /// was committed when this function was called.
    ///
    /// # Errors
    /// There was no read point before `deadline` or within [`ReplicaOptions::no_primary_wait`], or
    /// the replica is overloaded or has stopped.
    pub async fn read_barrier(&self, deadline: StdInstant) -> Result<Sequence, ReadError> {
        if self.options.core.is_witness {
            return Err(ReadError::Witness);
        }
        let started = sync::now();
        let deadline = deadline.min(started + self.options.no_primary_wait);
        let id = ReadId(self.next_id());
        let (reply, point) = oneshot::channel();
        self.shared().reads().add(id, reply);
        let unfinished = Unfinished::begin(&self.core);
        if unfinished.is_too_many {
            self.shared().reads().remove(id);
            return Err(ReadError::Overloaded);
        }
        if !unfinished.submit(Input::Read(id)) {
            self.shared().reads().remove(id);
            return Err(ReadError::Stopped("it was shut down".into()));
        }
        match tokio::time::timeout_at(deadline.into(), point).await {
            Ok(Ok(point)) => point,
            Ok(Err(_)) => Err(ReadError::Stopped("it was shut down".into())),
            Err(_) => {
                self.shared().reads().remove(id);
                self.shared().inbox.push(Event::Input(Input::CancelRead(id)));
                Err(ReadError::NoPrimary { waited_ms: (sync::now() - started).as_millis() as u64 })
            }
        }
    }

    /// This replica's id.
    pub fn id(&self) -> ReplicaId {
        self.options.core.me
    }

    /// The replica that leads, as far as this one knows.
    pub fn primary(&self) -> Option<ReplicaId> {
        self.shared().watch.borrow().primary
    }

    /// The highest view that this replica has promised.
    pub fn view(&self) -> View {
        self.shared().watch.borrow().view
    }

    /// Whether this replica leads.
    pub fn is_primary(&self) -> bool {
        self.shared().watch.borrow().is_primary
    }

    /// The last sequence that this replica's database has applied.
    pub fn applied(&self) -> Sequence {
        Sequence(self.shared().applied.load(Ordering::Acquire))
    }

    /// The feature level that this replica's database has applied. Every request that is passed to
    /// [`ConsensusReplica::execute_request_async`] from now on is executed at this level or a
    /// higher one.
    pub fn feature_level(&self) -> FeatureLevel {
        FeatureLevel(self.shared().level.load(Ordering::Acquire))
    }

    /// For how long this replica's database may have missed what the primary committed: at least
    /// everything from before is applied. `None`: no primary was heard since the start.
    pub fn behind_for(&self) -> Option<Duration> {
        let at = self.shared().up_to_date_at.load(Ordering::Relaxed).checked_sub(1)?;
        Some(Duration::from_micros(self.shared().now().0.saturating_sub(at)))
    }

    /// How long requests of this replica spend in each stage, and how busy its threads are.
    pub fn stages(&self) -> &StageTimes {
        &self.shared().stages
    }

    /// Receives every change of role, view and primary, and the replica's failure.
    pub fn watch(&self) -> watch::Receiver<RoleChange> {
        self.shared().watch.subscribe()
    }

    /// The replica's status, refreshed every few milliseconds while no thread is stalled.
    pub fn status(&self) -> DriverStatus {
        let stalled = self.stalled();
        DriverStatus { stalled, ..self.shared().status().clone() }
    }

    /// A thread that makes no progress although it has work: it has ended although the replica has
    /// not stopped, or it has not finished one piece of work for [`ReplicaOptions::stalled_after`],
    /// for instance because a disk hangs in a sync. A thread that waits for space does not count.
    /// Only a restart of the process helps such a replica.
    pub fn stalled(&self) -> Option<StalledThread> {
        let (is_stopped, lacks_space) = {
            let status = self.shared().status();
            (status.failed.is_some(), status.core.storage_full)
        };
        if is_stopped { None } else { self.shared().beats.stalled(sync::now(), lacks_space) }
    }

    /// Lets another replica lead: `to`, or the voter that is furthest along. Only the primary can
    /// do that. Returns the new primary. Requests wait for some milliseconds during the transfer;
    /// none is refused.
    ///
    /// # Errors
    /// The primary is the same as before.
    pub fn transfer_primary(
        &self,
        to: Option<ReplicaId>,
        deadline: StdInstant,
    ) -> impl Future<Output = Result<ReplicaId, TransferError>> + Send + 'static {
        let (reply, result) = oneshot::channel();
        self.start_transfer(to, deadline, Box::new(|result| drop(reply.send(result))));
        async move { result.await.unwrap_or_else(|_| Err(TransferError::Stopped("it was shut down".into()))) }
    }

    fn start_transfer(&self, to: Option<ReplicaId>, deadline: StdInstant, reply: TransferReply) {
        let id = TransferId(self.next_id());
        let deadline = self.shared().at(deadline);
        self.shared().transfers().add(id, reply);
        if self.shared().inbox.is_closed() {
            self.shared().transfers().abandon("it was shut down");
        } else {
            self.core.submit(Event::Input(Input::Transfer { id, to, deadline }));
        }
    }

    /// Raises the feature level of the cluster: to `to`, or to the highest that the programs of all
    /// members execute. Only the primary can do that. Returns the level once this replica has
    /// applied it. From then on releases that do not execute it cannot be put back.
    ///
    /// With `force`, members whose voting disk was not heard from lately are passed over, as long
    /// as the voting disks of a majority were: the way out if a disk is lost for good.
    ///
    /// # Errors
    /// The level is the same as before, unless the error is [`RaiseError::TimedOut`] or
    /// [`RaiseError::Stopped`]: then it may still be raised.
    pub async fn raise_feature_level(
        &self,
        to: Option<FeatureLevel>,
        force: bool,
        deadline: StdInstant,
    ) -> Result<FeatureLevel, RaiseError> {
        let stopped = || Err(RaiseError::Stopped("it was shut down".into()));
        let id = RaiseId(self.next_id());
        let (reply, result) = oneshot::channel();
        let deadline = self.shared().at(deadline);
        self.shared().raises().add(id, reply);
        if !self.core.shared().inbox.push(Event::Input(Input::Raise { id, to, force, deadline })) {
            self.shared().raises().abandon(stopped);
        }
        result.await.unwrap_or_else(|_| stopped())
    }

    /// Replaces the members of the cluster. Only the primary can do that, and only from feature
    /// level [`epochs_level`](crate::core::CoreOptions::epochs_level) on. Returns the epoch of the
    /// new members once this replica acts under them.
    ///
    /// # Errors
    /// The members are the same as before, unless the error is [`ReconfigureError::TimedOut`] or
    /// [`ReconfigureError::Stopped`]: then they may still be replaced. Asking again is safe, since
    /// the change names the epoch whose members it replaces.
    pub async fn reconfigure(&self, change: MemberChange, deadline: StdInstant) -> Result<Epoch, ReconfigureError> {
        let stopped = || Err(ReconfigureError::Stopped("it was shut down".into()));
        let id = ReconfigureId(self.next_id());
        let (reply, result) = oneshot::channel();
        let deadline = self.shared().at(deadline);
        self.shared().reconfigurations().add(id, reply);
        if !self.core.shared().inbox.push(Event::Input(Input::Reconfigure { id, change, deadline })) {
            self.shared().reconfigurations().abandon(stopped);
        }
        result.await.unwrap_or_else(|_| stopped())
    }

    /// The members of the cluster as this replica knows them, and where they are reached.
    pub fn membership(&self) -> Arc<Membership> {
        self.shared().membership()
    }

    /// The conditions of this change of the members, and which of them hold now. Changes nothing.
    ///
    /// # Errors
    /// The replica has stopped.
    pub async fn preconditions(&self, change: MemberChange) -> Result<Vec<Precondition>, ReconfigureError> {
        let id = ReconfigureId(self.next_id());
        let (reply, result) = oneshot::channel();
        self.shared().checks().add(id, reply);
        if !self.core.shared().inbox.push(Event::Input(Input::CheckChange { id, change })) {
            self.shared().checks().drop_all();
        }
        result.await.map_err(|_| ReconfigureError::Stopped("it was shut down".into()))
    }

    /// Sets whether this replica may lead; initially it may. A replica that may not lead votes and
    /// follows. A primary that may no longer lead hands over as soon as another replica can lead.
    pub fn set_eligible(&self, is_eligible: bool) {
        if !self.shared().inbox.is_closed() {
            self.core.submit(Event::Input(Input::Eligible(is_eligible)));
        }
    }

    /// Ends this replica like a failure of its own parts: for callers that find something unsound
    /// that it depends on.
    pub fn fail(&self, failure: Failure) {
        self.shared().inbox.push(Event::Failed(failure));
    }

    /// Stops all threads and closes the connections. Blocks until they have ended. Durable data
    /// stays; the outcome of requests that were sent is unknown.
    ///
    /// A primary announces that it no longer leads. With `hand_over` it first lets another replica
    /// lead, if one can soon: then the cluster's requests are delayed only by some milliseconds.
    /// That is useless if all replicas stop.
    pub fn stop(&self, hand_over: bool) {
        if hand_over && self.is_primary() {
            let (reply, result) = mpsc::channel();
            self.start_transfer(None, sync::now() + HAND_OVER_WAIT, Box::new(move |r| drop(reply.send(r))));
            match result.recv_timeout(HAND_OVER_WAIT) {
                Ok(Ok(primary)) => tracing::info!(replica = self.id().0, "handed over to replica {primary}"),
                Ok(Err(error)) => tracing::warn!(replica = self.id().0, %error, "stopping without a hand-over"),
                Err(_) => {
                    tracing::warn!(replica = self.id().0, "stopping without a hand-over: no replica took over in time")
                }
            }
        }
        self.shared().inbox.close();
        let threads = std::mem::take(&mut *self.threads.lock().expect("no holder of this lock panics"));
        for thread in threads {
            let _ = thread.join();
        }
    }
}

/// A request or read in progress.
struct Unfinished {
    core: Arc<CoreLock>,
    is_alone: bool,
    is_too_many: bool,
}

impl Unfinished {
    fn begin(core: &Arc<CoreLock>) -> Self {
        let others = core.shared().unfinished.fetch_add(1, Ordering::Relaxed);
        Unfinished { core: core.clone(), is_alone: others == 0, is_too_many: others >= MAX_UNFINISHED }
    }

    /// If there are no others, runs the core at once. Otherwise wakes the core thread: until it
    /// runs, more may arrive, and then all share a value of the log or a round of confirmations.
    /// Returns false if the replica has stopped.
    fn submit(&self, input: Input) -> bool {
        if self.core.shared().inbox.is_closed() {
            return false;
        }
        if self.is_alone {
            self.core.submit(Event::Input(input));
            return true;
        }
        self.core.shared().inbox.push(Event::Input(input))
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        self.core.shared().unfinished.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for ConsensusReplica {
    fn drop(&mut self) {
        self.stop(false);
    }
}

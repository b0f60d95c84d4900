//! The handle of a running replica.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant as Clock};

use bytes::Bytes;
use tokio::sync::{oneshot, watch};

use super::copy_log::CopySent;
use super::heartbeat::{Heartbeats, StalledThread};
use super::inbox::Inbox;
use super::network::NetworkManager;
use super::seat::{Seat, SeatLock};
use super::snapshots::SnapshotWork;
use super::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use super::sync::thread::JoinHandle;
use super::sync::{Mutex, MutexGuard, mpsc};
use super::threads::{self, ApplyWork, LogWork};
use super::waiters::{ReadWaiters, RequestWaiters, TransferReply, TransferWaiters};
use super::{Event, Failure, ReadError, RequestError, StartError, Storage, sync};
use crate::core::{CoreOptions, Input, ReadId, Replica, ReplicaStatus, RequestId, Start, TransferError, TransferId};
use crate::transport::{EventSink, Transport, TransportStatistics, Trouble};
use crate::{
    Applier, DiskId, ExecutionError, ExecutionNotifier, Instant, Recovered, ReplicaId, ReplicatedState, Sequence,
    StorageStatistics, View,
};

/// How long after its deadline a request that was sent may still be found out about.
const GRACE: Duration = Duration::from_millis(100);

/// Most requests and reads without an answer; more are refused.
const MAX_UNFINISHED: usize = 1 << 20;

/// How long a primary that is to stop waits for another one to lead.
const HAND_OVER_WAIT: Duration = Duration::from_millis(500);

/// How a replica is run.
#[derive(Clone)]
pub struct ReplicaOptions {
    pub core: CoreOptions,
    /// The database is asked to flush when so much was written to the log since the last time.
    pub flush_after_log_bytes: u64,
    /// Most bytes of entries and requests that came from peers and are not taken yet; more are dropped, and peers send
    /// again. At least the longest message.
    pub max_waiting_bytes: usize,
    /// A request that finds no primary for this long is surely not executed.
    pub no_primary_wait: Duration,
    /// Random; become the disk's and the cluster's name if they have none yet.
    pub new_disk_id: u128,
    pub new_cluster_id: u128,
    /// Whether the disks have space for more writes, besides what the log says of its own: asked about once a second, by a
    /// thread that may be kept waiting. Should say so while there still is some, for what is under way.
    pub has_space: Arc<dyn Fn() -> bool + Send + Sync>,
    /// Whether they have far more than that: enough to keep the log for a replica that gets a copy of the database, however
    /// much is written meanwhile. Asked like `has_space`.
    pub is_roomy: Arc<dyn Fn() -> bool + Send + Sync>,
    /// A thread that has not finished one piece of work for so long stands still: see [`ConsensusReplica::stalled`].
    pub stands_still_after: Duration,
}

impl ReplicaOptions {
    /// The default of `max_waiting_bytes`.
    pub const MAX_WAITING_BYTES: usize = 256 << 20;

    /// The defaults around `core`.
    pub fn new(core: CoreOptions, new_disk_id: u128, new_cluster_id: u128) -> Self {
        ReplicaOptions {
            core,
            flush_after_log_bytes: 256 << 20,
            max_waiting_bytes: Self::MAX_WAITING_BYTES,
            no_primary_wait: Duration::from_secs(5),
            new_disk_id,
            new_cluster_id,
            has_space: Arc::new(|| true),
            is_roomy: Arc::new(|| true),
            stands_still_after: Duration::from_secs(30),
        }
    }
}

impl std::fmt::Debug for ReplicaOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut text = f.debug_struct("ReplicaOptions");
        text.field("core", &self.core).field("no_primary_wait", &self.no_primary_wait).finish_non_exhaustive()
    }
}

/// Told to watchers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoleChange {
    pub view: View,
    pub primary: Option<ReplicaId>,
    pub is_primary: bool,
    /// The primary serves reads: everything chosen before its view is applied or on the way.
    pub established: bool,
    /// This replica leads, and has applied everything chosen before its view.
    pub recovered: bool,
    /// Why the replica stopped, if it did.
    pub failed: Option<Failure>,
}

/// Everything about a replica that operators want to see.
#[derive(Clone, Debug)]
pub struct DriverStatus {
    pub core: ReplicaStatus,
    pub storage: StorageStatistics,
    pub network: TransportStatistics,
    /// Why there is no connection to a peer, for each to which there is none; under the own id, why no peer can connect to
    /// this replica.
    pub troubles: BTreeMap<ReplicaId, Arc<Trouble>>,
    /// How fast the copy of a database has come that this replica gets, in bytes per second.
    pub copy_bytes_per_second: Option<u64>,
    /// Copies of this replica's database that peers get.
    pub sending: Vec<CopySent>,
    /// A thread of this replica that stands still.
    pub stalled: Option<StalledThread>,
    /// The log waits for file descriptors.
    pub lacks_descriptors: bool,
    /// Messages of a kind that this version does not know; they are ignored.
    pub messages_unknown: u64,
    /// The running digest at `digest_sequence`.
    pub digest: u64,
    pub digest_sequence: Sequence,
    /// Requests executed, of all sessions, since start.
    pub requests_executed: u64,
    /// `batch_sizes[i]`: values with fewer than 2^i requests, and at least 2^(i-1).
    pub batch_sizes: Vec<u64>,
    pub failed: Option<Failure>,
}

impl DriverStatus {
    /// Before anything has happened.
    fn first(core: ReplicaStatus, storage: StorageStatistics, state: &ReplicatedState) -> Self {
        DriverStatus {
            core,
            storage,
            network: TransportStatistics::default(),
            troubles: BTreeMap::new(),
            copy_bytes_per_second: None,
            sending: Vec::new(),
            stalled: None,
            lacks_descriptors: false,
            messages_unknown: 0,
            digest: state.digest,
            digest_sequence: state.sequence,
            requests_executed: 0,
            batch_sizes: vec![0; 24],
            failed: None,
        }
    }
}

pub(super) struct Shared {
    pub inbox: Inbox<Event>,
    /// Bytes of entries and requests in `inbox` that came from peers.
    pub waiting_bytes: AtomicUsize,
    /// The bound of it.
    pub max_waiting_bytes: usize,
    pub seat: SeatLock,
    pub beats: Heartbeats,
    pub log: Inbox<LogWork>,
    pub apply: Inbox<ApplyWork>,
    pub snapshots: Inbox<SnapshotWork>,
    pub requests: Mutex<RequestWaiters>,
    pub reads: Mutex<ReadWaiters>,
    pub transfers: Mutex<TransferWaiters>,
    pub applied: AtomicU64,
    pub status: Mutex<DriverStatus>,
    pub watch: watch::Sender<RoleChange>,
    pub started: Clock,
    next_id: AtomicU64,
    /// Requests and reads without an answer: when there is none, nothing is under way that new ones could join.
    unfinished: AtomicUsize,
}

/// Locks stay usable after a panic: it ends the replica, and whoever waits must still be told.
impl Shared {
    fn new(options: &ReplicaOptions, started: Clock, status: DriverStatus) -> Self {
        let role = RoleChange {
            view: status.core.view,
            primary: None,
            is_primary: false,
            established: false,
            recovered: false,
            failed: None,
        };
        Shared {
            inbox: Inbox::new(),
            waiting_bytes: AtomicUsize::new(0),
            max_waiting_bytes: options.max_waiting_bytes,
            seat: Mutex::new(None),
            beats: Heartbeats::new(options.stands_still_after),
            log: Inbox::new(),
            apply: Inbox::new(),
            snapshots: Inbox::new(),
            requests: Mutex::new(RequestWaiters::new()),
            reads: Mutex::new(ReadWaiters::default()),
            transfers: Mutex::new(TransferWaiters::default()),
            applied: AtomicU64::new(status.digest_sequence.0),
            status: Mutex::new(status),
            watch: watch::Sender::new(role),
            started,
            next_id: AtomicU64::new(1),
            unfinished: AtomicUsize::new(0),
        }
    }

    pub fn now(&self) -> Instant {
        Instant((sync::now() - self.started).as_micros() as u64)
    }

    pub fn status(&self) -> MutexGuard<'_, DriverStatus> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn requests(&self) -> MutexGuard<'_, RequestWaiters> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn reads(&self) -> MutexGuard<'_, ReadWaiters> {
        self.reads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn transfers(&self) -> MutexGuard<'_, TransferWaiters> {
        self.transfers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A running replica. Dropping it stops it; requests that were sent then end as unknown.
pub struct ConsensusReplica {
    pub(super) shared: Arc<Shared>,
    options: ReplicaOptions,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl ConsensusReplica {
    /// Recovers from storage and database and starts to take part. `open` opens the database of the generation that the
    /// log names. `connect` makes the transport, which delivers to the given sink; it is called last, when everything
    /// else is sound.
    ///
    /// Where the log no longer reaches back to what the database holds (it was lost, and is empty), the replica gets a
    /// copy of a peer's.
    pub fn start<S: Storage, E: ExecutionNotifier>(
        options: ReplicaOptions,
        mut storage: S,
        open: impl FnOnce(u64) -> Result<E, ExecutionError>,
        connect: impl FnOnce(EventSink) -> std::io::Result<Arc<dyn Transport>>,
    ) -> Result<ConsensusReplica, StartError> {
        let recovered = storage.recover()?;
        let executor = open(recovered.hard_state.map_or(0, |hard| hard.generation))?;
        let applier = Applier::new(executor)?.recording_every(options.core.digest_interval);
        let state = applier.state().clone();
        if recovered.last < state.sequence {
            let (first, last) = (recovered.first, recovered.last);
            return Err(StartError::LogApartFromDatabase { first, last, applied: state.sequence });
        }
        let needs_database = recovered.first > state.sequence.next();
        let entries = if needs_database { Vec::new() } else { storage.load(state.sequence.next())? };
        warn_of_losses(options.core.me, &recovered, &entries, needs_database);
        let new_disk_id = DiskId(options.new_disk_id);
        let start =
            Start { recovered, entries, state: state.clone(), new_disk_id, new_cluster_id: options.new_cluster_id };
        let started = sync::now();
        let core = Replica::new(options.core.clone(), start, Instant(0));
        Self::run(options, core, started, storage, applier, connect)
    }

    /// Runs a core that has counted its time from `started`.
    pub(super) fn run<S: Storage, E: ExecutionNotifier>(
        options: ReplicaOptions,
        core: Replica,
        started: Clock,
        storage: S,
        applier: Applier<E>,
        connect: impl FnOnce(EventSink) -> std::io::Result<Arc<dyn Transport>>,
    ) -> Result<ConsensusReplica, StartError> {
        let status = DriverStatus::first(core.status(), storage.statistics(), applier.state());
        let shared = Arc::new(Shared::new(&options, started, status));
        let network = NetworkManager::new(connect(NetworkManager::sink(Arc::downgrade(&shared)))?);
        *shared.seat.lock().expect("nobody holds it yet") = Some(Seat::new(core, network));
        let threads = threads::spawn(&shared, &options, storage, applier);
        Ok(ConsensusReplica { shared, options, threads: Mutex::new(threads) })
    }

    fn next_id(&self) -> u64 {
        self.shared.next_id.fetch_add(1, Ordering::Relaxed)
    }

    /// Has `payload` executed by all replicas. The request takes its place in this replica's session when this function
    /// is called, not when the future is first polled. Ends at `deadline` at the latest.
    pub fn execute_request_async(
        &self,
        payload: Bytes,
        deadline: Clock,
    ) -> impl Future<Output = Result<Bytes, RequestError>> + Send + 'static {
        let id = RequestId(self.next_id());
        let (reply, outcome) = oneshot::channel();
        let give_up = deadline.min(sync::now() + self.options.no_primary_wait);
        self.shared.requests().add(id, give_up, deadline, reply);
        let unfinished = Unfinished::begin(&self.shared);
        if unfinished.is_too_many {
            self.shared.requests().refuse(id, RequestError::Overloaded);
        } else if !unfinished.submit(Input::Propose { id, payload }) {
            self.shared.requests().refuse(id, RequestError::NotExecuted("the replica has stopped".into()));
        }
        async move {
            let _unfinished = unfinished;
            // The core takes back what was not sent in time, so only a request that was sent is left at the deadline. A
            // void may still take its place: then it is known that it did not happen.
            match tokio::time::timeout_at((deadline + GRACE).into(), outcome).await {
                Ok(Ok(outcome)) => outcome,
                Ok(Err(_)) => Err(RequestError::Unknown("the replica has stopped".into())),
                Err(_) => Err(RequestError::Unknown("no outcome before the deadline".into())),
            }
        }
    }

    /// A linearizable read point: returns once this replica's database has applied everything that was committed when
    /// the call was made.
    pub async fn read_barrier(&self, deadline: Clock) -> Result<Sequence, ReadError> {
        let started = sync::now();
        let deadline = deadline.min(started + self.options.no_primary_wait);
        let id = ReadId(self.next_id());
        let (reply, point) = oneshot::channel();
        self.shared.reads().add(id, reply);
        let unfinished = Unfinished::begin(&self.shared);
        if unfinished.is_too_many {
            self.shared.reads().remove(id);
            return Err(ReadError::Overloaded);
        }
        if !unfinished.submit(Input::Read(id)) {
            self.shared.reads().remove(id);
            return Err(ReadError::Stopped("it was shut down".into()));
        }
        match tokio::time::timeout_at(deadline.into(), point).await {
            Ok(Ok(point)) => point,
            Ok(Err(_)) => Err(ReadError::Stopped("it was shut down".into())),
            Err(_) => {
                self.shared.reads().remove(id);
                self.shared.inbox.push(Event::Input(Input::CancelRead(id)));
                Err(ReadError::NoPrimary { waited_ms: (sync::now() - started).as_millis() as u64 })
            }
        }
    }

    pub fn id(&self) -> ReplicaId {
        self.options.core.me
    }

    /// Who leads, as far as this replica knows.
    pub fn primary(&self) -> Option<ReplicaId> {
        self.shared.watch.borrow().primary
    }

    pub fn view(&self) -> View {
        self.shared.watch.borrow().view
    }

    pub fn is_primary(&self) -> bool {
        self.shared.watch.borrow().is_primary
    }

    /// The last sequence that this replica's database has applied.
    pub fn applied(&self) -> Sequence {
        Sequence(self.shared.applied.load(Ordering::Acquire))
    }

    /// Changes of role, view and primary, and the replica's failure.
    pub fn watch(&self) -> watch::Receiver<RoleChange> {
        self.shared.watch.subscribe()
    }

    /// Refreshed every few milliseconds, as long as no thread stands still.
    pub fn status(&self) -> DriverStatus {
        let stalled = self.stalled();
        DriverStatus { stalled, ..self.shared.status().clone() }
    }

    /// A thread that does not get on though it has work: it has ended although the replica has not stopped, or it has not
    /// finished one piece of work for [`ReplicaOptions::stands_still_after`], as where a disk hangs in a synchronisation. Not where it waits for
    /// space. Such a replica is of no use to its clients before its process is started anew.
    pub fn stalled(&self) -> Option<StalledThread> {
        let (is_stopped, lacks_space) = {
            let status = self.shared.status();
            (status.failed.is_some(), status.core.storage_full)
        };
        if is_stopped { None } else { self.shared.beats.stalled(sync::now(), lacks_space) }
    }

    /// Lets another replica lead: `to`, or the voter that is furthest along. Returns who leads then. Only the primary can.
    /// Requests wait for some milliseconds meanwhile, and none is refused.
    pub fn transfer_primary(
        &self,
        to: Option<ReplicaId>,
        deadline: Clock,
    ) -> impl Future<Output = Result<ReplicaId, TransferError>> + Send + 'static {
        let (reply, result) = oneshot::channel();
        self.start_transfer(to, deadline, Box::new(|result| drop(reply.send(result))));
        async move { result.await.unwrap_or_else(|_| Err(TransferError::Stopped("it was shut down".into()))) }
    }

    fn start_transfer(&self, to: Option<ReplicaId>, deadline: Clock, reply: TransferReply) {
        let id = TransferId(self.next_id());
        let deadline = Instant(deadline.saturating_duration_since(self.shared.started).as_micros() as u64);
        self.shared.transfers().add(id, reply);
        if self.shared.inbox.is_closed() {
            self.shared.transfers().abandon("it was shut down");
        } else {
            self.shared.bring(Event::Input(Input::Transfer { id, to, deadline }));
        }
    }

    /// Whether this replica may lead; at first it may. One that may not votes and follows, and a primary that may not
    /// hands over as soon as another replica can lead.
    pub fn set_eligible(&self, is_eligible: bool) {
        if !self.shared.inbox.is_closed() {
            self.shared.bring(Event::Input(Input::Eligible(is_eligible)));
        }
    }

    /// Ends this replica as a failure of its own parts would: something that it stands on was found to be unsound.
    pub fn fail(&self, failure: Failure) {
        self.shared.inbox.push(Event::Failed(failure));
    }

    /// Stops all threads and closes the connections. What is durable stays; requests that were sent end as unknown.
    ///
    /// A primary says that it leads no more. With `hand_over` it first lets another replica lead, if one can soon: the
    /// cluster then goes on after some milliseconds. Without any use where all replicas stop.
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
        self.shared.inbox.close();
        let threads = std::mem::take(&mut *self.threads.lock().expect("no holder of this lock panics"));
        for thread in threads {
            let _ = thread.join();
        }
    }
}

fn warn_of_losses(id: ReplicaId, recovered: &Recovered, entries: &[Option<Bytes>], needs_database: bool) {
    let lost = entries.iter().filter(|entry| entry.is_none()).count();
    if lost > 0 || !recovered.lost.is_empty() {
        tracing::warn!(replica = id.0, ranges = ?recovered.lost, entries_to_apply = lost,
            "parts of the log are damaged; they are fetched from the other replicas. Check the disk");
    }
    if needs_database {
        tracing::warn!(
            replica = id.0,
            log_begins_at = recovered.first.0,
            "the log begins after the end of the database; a copy of a peer's database will replace it"
        );
    }
}

/// A request or read under way.
struct Unfinished {
    shared: Arc<Shared>,
    is_alone: bool,
    is_too_many: bool,
}

impl Unfinished {
    fn begin(shared: &Arc<Shared>) -> Self {
        let others = shared.unfinished.fetch_add(1, Ordering::Relaxed);
        Unfinished { shared: shared.clone(), is_alone: others == 0, is_too_many: others >= MAX_UNFINISHED }
    }

    /// The only one is taken to the core at once. Where others are under way the core thread is woken instead: by the time
    /// it runs, more may have come, and all share a value of the log or a round of confirmations. False: stopped.
    fn submit(&self, input: Input) -> bool {
        if self.shared.inbox.is_closed() {
            return false;
        }
        if self.is_alone {
            self.shared.bring(Event::Input(input));
            return true;
        }
        self.shared.inbox.push(Event::Input(input))
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        self.shared.unfinished.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for ConsensusReplica {
    fn drop(&mut self) {
        self.stop(false);
    }
}

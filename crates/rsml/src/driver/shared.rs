//! The state that the threads of a replica share, except for the core itself.

use std::sync::{Arc, PoisonError};
use std::time::Instant as StdInstant;

use stage_times::StageTimes;
use tokio::sync::watch;

use super::apply_queue::ApplyQueue;
use super::heartbeat::Heartbeats;
use super::inbox::Inbox;
use super::options::ReplicaOptions;
use super::status::{DriverStatus, RoleChange};
use super::sync;
use super::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize};
use super::sync::{Mutex, MutexGuard};
use super::waiters::{CheckWaiters, RaiseWaiters, ReadWaiters, ReconfigureWaiters, RequestWaiters, TransferWaiters};
use super::work::{Event, LogWork, SnapshotWork};
use crate::{Instant, Membership};

pub struct ReplicaShared {
    /// Events that wait for the core.
    pub inbox: Inbox<Event>,
    /// Bytes of entries and requests from peers in `inbox`.
    pub waiting_bytes: AtomicUsize,
    /// The bound of `waiting_bytes`.
    pub max_waiting_bytes: usize,
    pub beats: Heartbeats,
    pub stages: Arc<StageTimes>,
    pub log: Inbox<LogWork>,
    pub apply: ApplyQueue,
    pub snapshots: Inbox<SnapshotWork>,
    requests: Mutex<RequestWaiters>,
    reads: Mutex<ReadWaiters>,
    transfers: Mutex<TransferWaiters>,
    raises: Mutex<RaiseWaiters>,
    reconfigurations: Mutex<ReconfigureWaiters>,
    checks: Mutex<CheckWaiters>,
    membership: Mutex<Arc<Membership>>,
    /// The last sequence that the database has applied.
    pub applied: AtomicU64,
    /// The core's time, plus 1, at which all that the primary had committed is applied by now; 0:
    /// never since the start.
    pub up_to_date_at: AtomicU64,
    /// The feature level there.
    pub level: AtomicU32,
    status: Mutex<DriverStatus>,
    pub watch: watch::Sender<RoleChange>,
    /// When the core's time was 0.
    pub started: StdInstant,
    /// The next [`RequestId`](crate::core::RequestId), `ReadId`, `TransferId`, `RaiseId` or `ReconfigureId`.
    pub next_id: AtomicU64,
    /// The number of requests and reads without an answer. If it is 0, a new one has no others to
    /// share a batch with.
    pub unfinished: AtomicUsize,
}

impl ReplicaShared {
    pub fn new(options: &ReplicaOptions, started: StdInstant, status: DriverStatus) -> Self {
        let role = RoleChange {
            view: status.core.view,
            primary: None,
            is_primary: false,
            established: false,
            recovered: false,
            failed: None,
        };
        ReplicaShared {
            inbox: Inbox::new(),
            waiting_bytes: AtomicUsize::new(0),
            max_waiting_bytes: options.max_waiting_bytes,
            beats: Heartbeats::new(options.stalled_after),
            stages: Arc::default(),
            log: Inbox::new(),
            apply: ApplyQueue::new(),
            snapshots: Inbox::new(),
            requests: Mutex::new(RequestWaiters::new(status.core.boot)),
            reads: Mutex::new(ReadWaiters::default()),
            transfers: Mutex::new(TransferWaiters::default()),
            raises: Mutex::new(RaiseWaiters::default()),
            reconfigurations: Mutex::new(ReconfigureWaiters::default()),
            checks: Mutex::new(CheckWaiters::default()),
            membership: Mutex::new(Arc::new(options.core.membership.clone())),
            applied: AtomicU64::new(status.digest_sequence.0),
            up_to_date_at: AtomicU64::new(0),
            level: AtomicU32::new(status.core.feature_level.0),
            status: Mutex::new(status),
            watch: watch::Sender::new(role),
            started,
            next_id: AtomicU64::new(1),
            unfinished: AtomicUsize::new(0),
        }
    }

    /// The core's time.
    pub fn now(&self) -> Instant {
        self.at(sync::now())
    }

    /// The core's time at `instant`; 0 if that lies before the start.
    pub fn at(&self, instant: StdInstant) -> Instant {
        Instant(instant.saturating_duration_since(self.started).as_micros() as u64)
    }
}

/// The locks stay usable after a panic: the panic ends the replica, and the callers that wait must
/// still be answered.
impl ReplicaShared {
    pub fn status(&self) -> MutexGuard<'_, DriverStatus> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn requests(&self) -> MutexGuard<'_, RequestWaiters> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn reads(&self) -> MutexGuard<'_, ReadWaiters> {
        self.reads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn raises(&self) -> MutexGuard<'_, RaiseWaiters> {
        self.raises.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn reconfigurations(&self) -> MutexGuard<'_, ReconfigureWaiters> {
        self.reconfigurations.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn membership(&self) -> Arc<Membership> {
        self.membership.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn set_membership(&self, membership: Membership) {
        *self.membership.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(membership);
    }

    pub fn checks(&self) -> MutexGuard<'_, CheckWaiters> {
        self.checks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn transfers(&self) -> MutexGuard<'_, TransferWaiters> {
        self.transfers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

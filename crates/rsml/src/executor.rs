//! The executor: the state machine of this library's user, to which committed values are passed.

use std::sync::Arc;

use bytes::Bytes;

use crate::{Boot, DiskId, ExecutionError, FeatureLevel, Sequence, Snapshots};

/// One request to execute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommittedRequest {
    /// With `boot`: the session that the request belongs to.
    pub disk_id: DiskId,
    /// The start of that disk.
    pub boot: Boot,
    /// The request's number in its session, counted from 1.
    pub number: u64,
    /// The request as passed to
    /// [`execute_request_async`](crate::ConsensusReplica::execute_request_async).
    pub payload: Bytes,
}

/// One entry of the log, without the requests that must not be executed: duplicates, and requests
/// whose predecessors are missing, which will come again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommittedValue {
    /// The entry's position in the log.
    pub sequence: Sequence,
    /// Replicated time in microseconds. It never decreases.
    pub time_us: u64,
    /// The feature level of the cluster at this entry. A request of a kind above it must not be
    /// executed, nor passed over: [`ExecutionError::too_new`].
    pub feature_level: FeatureLevel,
    /// The requests to execute, in order.
    pub requests: Vec<CommittedRequest>,
}

/// The library's own state, which the executor must store in the same atomic write as the data it
/// changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealedState {
    /// The last sequence whose effects the write contains.
    pub sequence: Sequence,
    /// Opaque bytes.
    pub state: Bytes,
}

/// The state machine. Its methods are called on one thread, in log order, and each request is
/// executed exactly once.
///
/// The outcome of a request may depend only on earlier requests and the replicated time: the same
/// log must lead to the same bytes on every replica.
pub trait ExecutionNotifier: Send + 'static {
    /// Executes all requests of `values` in order, but writes nothing yet. The library computes its
    /// own state from the outcomes, and then passes it to [`ExecutedBatch::commit`].
    ///
    /// # Errors
    /// The replica stops.
    fn notify_commit_batch<'e>(
        &'e mut self,
        values: &'e [CommittedValue],
    ) -> Result<Box<dyn ExecutedBatch + 'e>, ExecutionError>;

    /// The same for one value.
    ///
    /// # Errors
    /// The replica stops.
    fn notify_commit<'e>(
        &'e mut self,
        value: &'e CommittedValue,
    ) -> Result<Box<dyn ExecutedBatch + 'e>, ExecutionError> {
        self.notify_commit_batch(std::slice::from_ref(value))
    }

    /// [`SealedState::state`] of the last commit; `None` if the database is empty.
    ///
    /// # Errors
    /// The replica stops, or does not start.
    fn sealed_state(&self) -> Result<Option<Bytes>, ExecutionError>;

    /// The sequence that the database expects next: one more than that of the last commit.
    fn next_expected_sequence(&self) -> Sequence;

    /// The last sequence whose effects are durable.
    ///
    /// # Errors
    /// The replica stops.
    fn persisted_sequence(&self) -> Result<Sequence, ExecutionError>;

    /// Makes everything that was applied durable, so that the log can be trimmed. Called from time
    /// to time, when the log has grown much. May return before that is done, and must not block for
    /// long.
    fn start_flush(&mut self);

    /// Whether the database is open and sound, so that requests can be executed.
    fn is_ready(&self) -> bool;

    /// Makes copies of this database, and databases from the copies of peers. The returned object
    /// is used until the replica stops, so it must follow [`ExecutionNotifier::switch_to`].
    fn snapshots(&self) -> Arc<dyn Snapshots>;

    /// Switches to the database of `generation`, whose
    /// [`SnapshotSink::finish`](crate::SnapshotSink::finish) has returned. From then on, every
    /// other method refers to it. The database before it is removed as soon as nobody reads it.
    /// Called once the log durably names this generation as the present one.
    ///
    /// # Errors
    /// The replica stops.
    fn switch_to(&mut self, generation: u64) -> Result<(), ExecutionError>;
}

/// Requests that are executed but not written yet; implemented by the state machine. The library
/// commits every batch that it gets, unless the process ends first.
pub trait ExecutedBatch {
    /// The outcome of every request, in order.
    fn outcomes(&self) -> &[Bytes];

    /// Writes the changes of the requests and `sealed` in one atomic write, so that data and state
    /// agree even after a crash. Returns the outcomes.
    ///
    /// # Errors
    /// The replica stops.
    fn commit(self: Box<Self>, sealed: SealedState) -> Result<Vec<Bytes>, ExecutionError>;
}

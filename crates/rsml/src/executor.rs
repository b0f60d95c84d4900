//! Where committed values go: the state machine of the user of this library, and the part of RSML that stands before it.

use std::sync::Arc;

use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::value::{ReplicatedState, Value};
use crate::{Boot, DiskId, Sequence, Snapshots};

/// One request to execute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommittedRequest {
    /// Whose session it belongs to, and its number there.
    pub disk_id: DiskId,
    pub boot: Boot,
    pub number: u64,
    pub payload: Bytes,
}

/// One entry of the log, without what is not to be executed (duplicates, requests that come again later).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommittedValue {
    pub sequence: Sequence,
    /// Replicated time in microseconds; never goes back.
    pub time_us: u64,
    pub requests: Vec<CommittedRequest>,
}

/// What the executor must store in the same atomic write as the data it changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealedState {
    pub sequence: Sequence,
    pub state: Bytes,
}

/// What an error of the executor says about the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExecutionErrorKind {
    /// Something failed; what the database holds is as sound as before.
    Failed,
    /// The process lacks something that others may give back, such as file descriptors. The database is sound, and a new
    /// start gets over it.
    Starved,
    /// The database holds what was never written: it is of no use any more, and is rebuilt from a peer.
    Corrupt,
}

/// Execution failed in a way that leaves this replica unable to go on: it stops.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {reason}", .kind.words())]
pub struct ExecutionError {
    pub kind: ExecutionErrorKind,
    pub reason: String,
}

impl ExecutionErrorKind {
    fn words(self) -> &'static str {
        match self {
            ExecutionErrorKind::Failed => "execution failed",
            ExecutionErrorKind::Starved => "execution lacks something that it needs",
            ExecutionErrorKind::Corrupt => "the database is damaged",
        }
    }
}

impl ExecutionError {
    pub fn failed(reason: impl Into<String>) -> Self {
        ExecutionError { kind: ExecutionErrorKind::Failed, reason: reason.into() }
    }

    pub fn starved(reason: impl Into<String>) -> Self {
        ExecutionError { kind: ExecutionErrorKind::Starved, reason: reason.into() }
    }

    pub fn corrupt(reason: impl Into<String>) -> Self {
        ExecutionError { kind: ExecutionErrorKind::Corrupt, reason: reason.into() }
    }
}

/// Implemented by the state machine. Called from one thread, in log order, each request exactly once.
///
/// What a request decides may depend on nothing but the requests before it and the replicated time: the same log must
/// give the same bytes on every replica.
pub trait ExecutionNotifier: Send + 'static {
    /// Executes all requests of `values` in order, and writes nothing yet: the library computes its own state from the
    /// outcomes, and then calls [`ExecutedBatch::commit`] with it.
    fn notify_commit_batch<'e>(
        &'e mut self,
        values: &'e [CommittedValue],
    ) -> Result<Box<dyn ExecutedBatch + 'e>, ExecutionError>;

    /// The same for one value.
    fn notify_commit<'e>(
        &'e mut self,
        value: &'e CommittedValue,
    ) -> Result<Box<dyn ExecutedBatch + 'e>, ExecutionError> {
        self.notify_commit_batch(std::slice::from_ref(value))
    }

    /// The state sealed last; `None` in an empty database.
    fn sealed_state(&self) -> Result<Option<Bytes>, ExecutionError>;

    /// The sequence that the database expects next: one more than the last sealed.
    fn next_expected_sequence(&self) -> Sequence;

    /// The last sequence whose effects would survive a crash now.
    fn persisted_sequence(&self) -> Result<Sequence, ExecutionError>;

    /// Asked now and then, when the log has grown much since: make what was applied survive a crash, so that the log can
    /// be trimmed. May return before it is done; must not block for long.
    fn start_flush(&mut self);

    /// Whether requests can be executed at all (the database is open and sound).
    fn is_ready(&self) -> bool;

    /// Where copies of this database are made, and databases from copies of others; stays the same when the database is
    /// switched.
    fn snapshots(&self) -> Arc<dyn Snapshots>;

    /// From now on the database is that of `generation`, whose [`SnapshotSink::finish`](crate::SnapshotSink::finish) has
    /// returned; every other method speaks of it. The one before is removed as soon as nobody reads it. Called when the
    /// log says durably that this generation is the live one.
    fn switch_to(&mut self, generation: u64) -> Result<(), ExecutionError>;
}

/// Requests that are executed and not written yet; implemented by the state machine. The library commits every batch that it
/// gets, unless the process ends first.
pub trait ExecutedBatch {
    /// The outcome of every request, in order.
    fn outcomes(&self) -> &[Bytes];

    /// Writes what the requests changed and `sealed` in one atomic write, so that data and state never disagree after a
    /// crash. Returns the outcomes.
    fn commit(self: Box<Self>, sealed: SealedState) -> Result<Vec<Bytes>, ExecutionError>;
}

/// What applying some entries led to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Every request executed, with its outcome.
    pub outcomes: Vec<(DiskId, Boot, u64, Bytes)>,
    /// Every void that took the place of a request, which so will never be executed.
    pub voided: Vec<(DiskId, Boot, u64)>,
    /// Requests per value applied.
    pub batch_sizes: Vec<usize>,
    /// The running digest at each multiple of the digest interval that was reached.
    pub digests: Vec<(Sequence, u64)>,
}

/// The running digest is recorded at every multiple of this sequence.
pub const DIGEST_INTERVAL: u64 = 1024;

/// Stands between the log and the executor: decodes entries, lets each request of a session through once and in order,
/// keeps replicated time and the running digest. Deterministic.
pub struct Applier<E> {
    executor: E,
    state: ReplicatedState,
    digest_interval: u64,
}

impl<E: ExecutionNotifier> Applier<E> {
    pub fn new(executor: E) -> Result<Self, ExecutionError> {
        let state = Self::stored_state(&executor)?;
        Ok(Applier { executor, state, digest_interval: DIGEST_INTERVAL })
    }

    fn stored_state(executor: &E) -> Result<ReplicatedState, ExecutionError> {
        let state = match executor.sealed_state()? {
            Some(bytes) => ReplicatedState::from_bytes(&bytes)
                .ok_or_else(|| ExecutionError::corrupt("it holds a replicated state that cannot be read"))?,
            None => ReplicatedState::default(),
        };
        let expected = executor.next_expected_sequence();
        if expected != state.sequence.next() {
            let text = format!("the database expects sequence {expected}, its state is of {}", state.sequence);
            return Err(ExecutionError::failed(text));
        }
        Ok(state)
    }

    /// Records digests at other sequences; the same for all replicas of a cluster.
    pub fn recording_every(mut self, digest_interval: u64) -> Self {
        self.digest_interval = digest_interval.max(1);
        self
    }

    /// Goes on with the database of another generation, which was installed from a snapshot.
    pub fn switch_to(&mut self, generation: u64) -> Result<(), ExecutionError> {
        self.executor.switch_to(generation)?;
        let state = Self::stored_state(&self.executor)?;
        assert!(state.sequence > self.state.sequence, "a snapshot took the database back to {}", state.sequence);
        self.state = state;
        Ok(())
    }

    pub fn state(&self) -> &ReplicatedState {
        &self.state
    }

    pub fn executor(&self) -> &E {
        &self.executor
    }

    pub fn executor_mut(&mut self) -> &mut E {
        &mut self.executor
    }

    /// Applies consecutive entries in one atomic write.
    pub fn apply(&mut self, entries: Vec<(Sequence, Bytes)>) -> Result<Applied, ExecutionError> {
        let mut state = self.state.clone();
        let mut voided = Vec::new();
        let admit = |(sequence, entry)| admit(&mut state, sequence, entry, &mut voided);
        let values: Vec<CommittedValue> = entries.into_iter().map(admit).collect();
        let requests = || values.iter().flat_map(|v| &v.requests);
        let executed = self.executor.notify_commit_batch(&values)?;
        assert_eq!(executed.outcomes().len(), requests().count(), "one outcome per request");
        let digests = fold_digest(&mut state, &values, executed.outcomes(), self.digest_interval);
        let outcomes = executed.commit(SealedState { sequence: state.sequence, state: state.to_bytes() })?;
        self.state = state;
        let outcomes = requests().zip(outcomes).map(|(r, o)| (r.disk_id, r.boot, r.number, o)).collect();
        Ok(Applied { outcomes, voided, batch_sizes: values.iter().map(|v| v.requests.len()).collect(), digests })
    }
}

/// Takes what was executed into the running digest, and records it exactly at each multiple of `interval`, wherever the
/// batch begins and ends.
fn fold_digest(
    state: &mut ReplicatedState,
    values: &[CommittedValue],
    outcomes: &[Bytes],
    interval: u64,
) -> Vec<(Sequence, u64)> {
    let mut outcomes = outcomes.iter();
    let mut recorded = Vec::new();
    for value in values {
        for (request, outcome) in value.requests.iter().zip(outcomes.by_ref()) {
            state.digest = xxh3_64_with_seed(outcome, xxh3_64_with_seed(&request.payload, state.digest));
        }
        if value.sequence.0.is_multiple_of(interval) {
            state.record_digest(value.sequence);
            recorded.push((value.sequence, state.digest));
        }
    }
    recorded
}

/// Takes one entry into the state, and keeps of it what is to be executed.
fn admit(
    state: &mut ReplicatedState,
    sequence: Sequence,
    entry: Bytes,
    voided: &mut Vec<(DiskId, Boot, u64)>,
) -> CommittedValue {
    assert_eq!(sequence, state.sequence.next(), "entries are applied in order and without holes");
    state.sequence = sequence;
    let value = Value::from_bytes(entry);
    if let Some(birth) = &value.birth {
        state.cluster_id = birth.cluster_id();
        state.configuration = birth.configuration();
    }
    state.time_us = state.time_us.max(value.time_us);
    let mut requests = Vec::new();
    for batch in value.batches {
        let (disk_id, boot) = (DiskId(batch.disk_id.into()), Boot(batch.boot));
        let session = state.sessions.entry(disk_id).or_default();
        for (number, payload) in batch.into_requests() {
            if session.admit(boot, number) {
                match payload {
                    Some(payload) => requests.push(CommittedRequest { disk_id, boot, number, payload }),
                    None => {
                        coverage!("requests.voided");
                        voided.push((disk_id, boot, number));
                    }
                }
            }
        }
    }
    CommittedValue { sequence, time_us: state.time_us, requests }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(sequence: u64) -> CommittedValue {
        let request = |number| CommittedRequest {
            disk_id: DiskId(1),
            boot: Boot(1),
            number,
            payload: Bytes::from(format!("{sequence}.{number}")),
        };
        CommittedValue { sequence: Sequence(sequence), time_us: 0, requests: (0..sequence % 3).map(request).collect() }
    }

    /// Folds the values `1..=last` in batches of the given sizes, again and again.
    fn fold(last: u64, sizes: &[usize]) -> Vec<(Sequence, u64)> {
        let values: Vec<CommittedValue> = (1..=last).map(value).collect();
        let (mut state, mut recorded, mut rest) = (ReplicatedState::default(), Vec::new(), &values[..]);
        for size in sizes.iter().cycle() {
            let (batch, after) = rest.split_at((*size).min(rest.len()));
            let outcomes: Vec<Bytes> = batch.iter().flat_map(|v| &v.requests).map(|r| r.payload.slice(1..)).collect();
            recorded.extend(fold_digest(&mut state, batch, &outcomes, 4));
            rest = after;
            if rest.is_empty() {
                return recorded;
            }
        }
        unreachable!("the sizes repeat for ever")
    }

    #[test]
    fn every_request_every_outcome_and_their_order_make_the_digest() {
        let values: Vec<CommittedValue> = (1..=5).map(value).collect();
        let digest = |values: &[CommittedValue], outcomes: &[Bytes]| {
            let mut state = ReplicatedState::default();
            fold_digest(&mut state, values, outcomes, 4);
            state.digest
        };
        let count = values.iter().map(|value| value.requests.len()).sum();
        let outcomes: Vec<Bytes> = (0..count).map(|place: usize| Bytes::from(format!("outcome {place}"))).collect();
        let right = digest(&values, &outcomes);
        for place in 0..outcomes.len() {
            let mut others = outcomes.clone();
            others[place] = Bytes::from_static(b"another outcome");
            assert_ne!(digest(&values, &others), right, "outcome {place}");
            others = outcomes.clone();
            others.swap(place, (place + 1) % outcomes.len());
            assert_ne!(digest(&values, &others), right, "outcomes {place} and the next one in each other's place");
        }
        let mut others = values.clone();
        others[1].requests[0].payload = Bytes::from_static(b"another request");
        assert_ne!(digest(&others, &outcomes), right);
    }

    #[test]
    fn digests_are_recorded_exactly_at_their_sequences_wherever_batches_end() {
        let one_by_one = fold(19, &[1]);
        let sequences: Vec<u64> = one_by_one.iter().map(|(sequence, _)| sequence.0).collect();
        assert_eq!(sequences, [4, 8, 12, 16]);
        for sizes in [&[3][..], &[7, 2], &[19], &[4], &[5, 1, 1]] {
            assert_eq!(fold(19, sizes), one_by_one, "{sizes:?}");
        }
    }
}

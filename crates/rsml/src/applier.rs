//! The applier: turns entries of the log into calls of the executor.

use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::value::{ReplicatedState, Value};
use crate::{
    Boot, CommittedRequest, CommittedValue, DIGEST_INTERVAL, DiskId, ExecutionError, ExecutionNotifier, FeatureLevel,
    LevelRange, SealedState, Sequence,
};

/// The result of applying some entries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// The session, number and outcome of every request that was executed.
    pub outcomes: Vec<(DiskId, Boot, u64, Bytes)>,
    /// The session and number of every request whose slot was taken by a void: it will never be
    /// executed.
    pub voided: Vec<(DiskId, Boot, u64)>,
    /// The number of requests in each value.
    pub batch_sizes: Vec<usize>,
    /// The running digest at each multiple of the digest interval that was reached.
    pub digests: Vec<(Sequence, u64)>,
}

/// Decodes entries, passes each request of a session to the executor once and in order, and
/// maintains the replicated state: sessions, replicated time, configuration, feature level and the
/// running digest. Deterministic.
///
/// The feature level comes from the log alone. Whether this program executes it decides only
/// whether it goes on: an entry above that is an error, and never passed over (rule 13).
pub struct Applier<E> {
    executor: E,
    state: ReplicatedState,
    /// What this program executes.
    levels: LevelRange,
    digest_interval: u64,
}

impl<E: ExecutionNotifier> Applier<E> {
    /// Continues from the state in the executor's database, with a program that executes `levels`.
    ///
    /// # Errors
    /// The database holds no sound state, or is of another feature level.
    pub fn new(executor: E, levels: LevelRange) -> Result<Self, ExecutionError> {
        let state = Self::stored_state(&executor, levels)?;
        Ok(Applier { executor, state, levels, digest_interval: DIGEST_INTERVAL })
    }

    fn stored_state(executor: &E, levels: LevelRange) -> Result<ReplicatedState, ExecutionError> {
        let state = match executor.sealed_state()? {
            Some(bytes) => ReplicatedState::from_bytes(&bytes)
                .ok_or_else(|| ExecutionError::corrupt("it holds a replicated state that cannot be read"))?,
            None => ReplicatedState::default(),
        };
        let expected = executor.next_expected_sequence();
        if expected != state.sequence.next() {
            let text = format!(
                "the database expects sequence {expected}, but its state belongs to sequence {}",
                state.sequence
            );
            return Err(ExecutionError::failed(text));
        }
        if state.sequence > Sequence::ZERO && !levels.contains(state.feature_level) {
            return Err(not_executed("the database is", state.feature_level, levels));
        }
        Ok(state)
    }

    /// Records digests at another interval than [`DIGEST_INTERVAL`]. It must be the same on all
    /// replicas.
    pub fn recording_every(mut self, digest_interval: u64) -> Self {
        self.digest_interval = digest_interval.max(1);
        self
    }

    /// Continues with the database of another generation, which was installed from a snapshot.
    ///
    /// # Errors
    /// The new database holds no sound state.
    ///
    /// # Panics
    /// If the new database is not ahead of the present one.
    pub fn switch_to(&mut self, generation: u64) -> Result<(), ExecutionError> {
        self.executor.switch_to(generation)?;
        let state = Self::stored_state(&self.executor, self.levels)?;
        assert!(state.sequence > self.state.sequence, "a snapshot took the database back to {}", state.sequence);
        let (before, after) = (self.state.feature_level, state.feature_level);
        assert!(after >= before, "a snapshot took the feature level back from {before} to {after}");
        self.state = state;
        Ok(())
    }

    /// The replicated state after the last entry that was applied.
    pub fn state(&self) -> &ReplicatedState {
        &self.state
    }

    /// The state machine.
    pub fn executor(&self) -> &E {
        &self.executor
    }

    /// The state machine. Only the applier may execute requests.
    pub fn executor_mut(&mut self) -> &mut E {
        &mut self.executor
    }

    /// Applies consecutive entries in one atomic write.
    ///
    /// # Errors
    /// The executor's; or an entry is of a feature level that this program does not execute. Then
    /// none of the entries is applied.
    ///
    /// # Panics
    /// If the entries do not follow the last one that was applied.
    pub fn apply(&mut self, entries: Vec<(Sequence, Bytes)>) -> Result<Applied, ExecutionError> {
        let mut state = self.state.clone();
        let mut voided = Vec::new();
        let levels = self.levels;
        let admit = |(sequence, entry)| admit(&mut state, levels, sequence, entry, &mut voided);
        let values: Vec<CommittedValue> = entries.into_iter().map(admit).collect::<Result<_, _>>()?;
        let requests = || values.iter().flat_map(|v| &v.requests);
        let executed = match &values[..] {
            [value] => self.executor.notify_commit(value)?,
            values => self.executor.notify_commit_batch(values)?,
        };
        assert_eq!(executed.outcomes().len(), requests().count(), "one outcome per request");
        let before = self.state.feature_level;
        let digests = fold_digest(&mut state, before, &values, executed.outcomes(), self.digest_interval);
        let outcomes = executed.commit(SealedState { sequence: state.sequence, state: state.to_bytes() })?;
        self.state = state;
        let outcomes = requests().zip(outcomes).map(|(r, o)| (r.disk_id, r.boot, r.number, o)).collect();
        Ok(Applied { outcomes, voided, batch_sizes: values.iter().map(|v| v.requests.len()).collect(), digests })
    }
}

fn not_executed(what: &str, level: FeatureLevel, levels: LevelRange) -> ExecutionError {
    ExecutionError::too_new(format!(
        "{what} at feature level {level}, and this program executes {levels}: start a release that executes level {level}"
    ))
}

/// Adds requests and outcomes, and each new feature level, to the running digest, and records the
/// digest exactly at each multiple of `interval`, wherever the batch begins and ends.
///
/// The levels are in it so that a replica which passed over an entry that raises the level, because
/// its program knows of none, is found to have diverged.
fn fold_digest(
    state: &mut ReplicatedState,
    mut level: FeatureLevel,
    values: &[CommittedValue],
    outcomes: &[Bytes],
    interval: u64,
) -> Vec<(Sequence, u64)> {
    let mut outcomes = outcomes.iter();
    let mut recorded = Vec::new();
    for value in values {
        if value.feature_level != level {
            level = value.feature_level;
            state.digest = xxh3_64_with_seed(&level.0.to_le_bytes(), state.digest);
        }
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

/// Updates the state by one entry, and returns the requests of the entry that are to be executed.
fn admit(
    state: &mut ReplicatedState,
    levels: LevelRange,
    sequence: Sequence,
    entry: Bytes,
    voided: &mut Vec<(DiskId, Boot, u64)>,
) -> Result<CommittedValue, ExecutionError> {
    assert_eq!(sequence, state.sequence.next(), "entries are applied in order and without gaps");
    state.sequence = sequence;
    let value = Value::from_bytes(entry);
    if let Some(birth) = &value.birth {
        state.be_born(birth);
    }
    if let Some(seal) = &value.reconfigure {
        state.reconfigure(seal, sequence);
    }
    state.time_us = state.time_us.max(value.time_us);
    let level = value.level_after(state.feature_level);
    if level != state.feature_level {
        if !levels.contains(level) {
            return Err(not_executed(&format!("from entry {sequence} on the log is"), level, levels));
        }
        coverage!("rule13.raised");
        state.feature_level = level;
    }
    let mut requests = Vec::new();
    value.advance_sessions(&mut state.sessions, |disk_id, boot, number, payload| match payload {
        Some(payload) => requests.push(CommittedRequest { disk_id, boot, number, payload }),
        None => {
            coverage!("requests.voided");
            voided.push((disk_id, boot, number));
        }
    });
    Ok(CommittedValue { sequence, time_us: state.time_us, feature_level: level, requests })
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
        CommittedValue {
            sequence: Sequence(sequence),
            time_us: 0,
            feature_level: FeatureLevel(if sequence < 7 { 1 } else { 2 }),
            requests: (0..sequence % 3).map(request).collect(),
        }
    }

    /// Folds the values `1..=last` in batches of these sizes, which repeat.
    fn fold(last: u64, sizes: &[usize]) -> Vec<(Sequence, u64)> {
        let values: Vec<CommittedValue> = (1..=last).map(value).collect();
        let (mut state, mut recorded, mut rest) = (ReplicatedState::default(), Vec::new(), &values[..]);
        let mut level = FeatureLevel::FIRST;
        for size in sizes.iter().cycle() {
            let (batch, after) = rest.split_at((*size).min(rest.len()));
            let outcomes: Vec<Bytes> = batch.iter().flat_map(|v| &v.requests).map(|r| r.payload.slice(1..)).collect();
            recorded.extend(fold_digest(&mut state, level, batch, &outcomes, 4));
            level = batch.last().map_or(level, |value| value.feature_level);
            rest = after;
            if rest.is_empty() {
                return recorded;
            }
        }
        unreachable!("the sizes repeat forever")
    }

    #[test]
    fn the_digest_depends_on_every_request_every_outcome_and_their_order() {
        let values: Vec<CommittedValue> = (1..=5).map(value).collect();
        let digest = |values: &[CommittedValue], outcomes: &[Bytes]| {
            let mut state = ReplicatedState::default();
            fold_digest(&mut state, FeatureLevel::FIRST, values, outcomes, 4);
            state.digest
        };
        let count = values.iter().map(|value| value.requests.len()).sum();
        let outcomes: Vec<Bytes> = (0..count).map(|index: usize| Bytes::from(format!("outcome {index}"))).collect();
        let right = digest(&values, &outcomes);
        for index in 0..outcomes.len() {
            let mut others = outcomes.clone();
            others[index] = Bytes::from_static(b"another outcome");
            assert_ne!(digest(&values, &others), right, "outcome {index}");
            others = outcomes.clone();
            others.swap(index, (index + 1) % outcomes.len());
            assert_ne!(digest(&values, &others), right, "outcome {index} and the next one swapped");
        }
        let mut others = values.clone();
        others[1].requests[0].payload = Bytes::from_static(b"another request");
        assert_ne!(digest(&others, &outcomes), right);
        others = values;
        others[3].feature_level = FeatureLevel(2);
        assert_ne!(digest(&others, &outcomes), right, "the level was raised elsewhere");
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

    /// An executor without requests: it holds only the state.
    #[derive(Default)]
    struct Holder(Option<SealedState>);

    struct Held<'e>(&'e mut Holder);

    impl crate::ExecutedBatch for Held<'_> {
        fn outcomes(&self) -> &[Bytes] {
            &[]
        }

        fn commit(self: Box<Self>, sealed: SealedState) -> Result<Vec<Bytes>, ExecutionError> {
            self.0.0 = Some(sealed);
            Ok(Vec::new())
        }
    }

    impl ExecutionNotifier for Holder {
        fn notify_commit_batch<'e>(
            &'e mut self,
            _values: &'e [CommittedValue],
        ) -> Result<Box<dyn crate::ExecutedBatch + 'e>, ExecutionError> {
            Ok(Box::new(Held(self)))
        }

        fn sealed_state(&self) -> Result<Option<Bytes>, ExecutionError> {
            Ok(self.0.as_ref().map(|sealed| sealed.state.clone()))
        }

        fn next_expected_sequence(&self) -> Sequence {
            self.0.as_ref().map_or(Sequence::ZERO, |sealed| sealed.sequence).next()
        }

        fn persisted_sequence(&self) -> Result<Sequence, ExecutionError> {
            Ok(Sequence::ZERO)
        }

        fn start_flush(&mut self) {}

        fn is_ready(&self) -> bool {
            true
        }

        fn snapshots(&self) -> std::sync::Arc<dyn crate::Snapshots> {
            unreachable!("nobody copies it")
        }

        fn switch_to(&mut self, _generation: u64) -> Result<(), ExecutionError> {
            unreachable!("there is no other")
        }
    }

    fn raise(sequence: u64, to: u32) -> (Sequence, Bytes) {
        (Sequence(sequence), Value { raise_feature_level: to, ..Value::default() }.to_bytes())
    }

    #[test]
    fn a_level_above_those_of_the_program_stops_it_before_anything_is_applied() {
        let mut applier = Applier::new(Holder::default(), LevelRange::new(1, 2)).expect("it is empty");
        applier.apply(vec![raise(1, 0), raise(2, 2)]).expect("the program executes level 2");
        assert_eq!(applier.state().feature_level, FeatureLevel(2));
        let error = applier.apply(vec![raise(3, 0), raise(4, 3)]).expect_err("nor does it pass it over");
        assert_eq!(error.kind, crate::ExecutionErrorKind::TooNew);
        assert!(error.reason.contains("level 3") && error.reason.contains("levels 1 to 2"), "{error}");
        assert_eq!(applier.state().sequence, Sequence(2));
    }

    #[test]
    fn a_database_of_another_level_is_not_started_with() {
        let mut applier = Applier::new(Holder::default(), LevelRange::new(1, 3)).expect("it is empty");
        applier.apply(vec![raise(1, 2)]).expect("the program executes level 2");
        let database = || Holder(applier.executor().0.clone());
        for levels in [LevelRange::new(1, 2), LevelRange::new(2, 4)] {
            let again = Applier::new(database(), levels).expect("it executes level 2");
            assert_eq!(again.state().feature_level, FeatureLevel(2), "the level is that of the database");
        }
        for (levels, text) in [(LevelRange::new(1, 1), "executes level 1"), (LevelRange::new(3, 4), "levels 3 to 4")] {
            let error = Applier::new(database(), levels).err().expect("it does not execute level 2");
            assert_eq!(error.kind, crate::ExecutionErrorKind::TooNew);
            assert!(error.reason.contains("level 2") && error.reason.contains(text), "{error}");
        }
    }
}

//! A state machine for simulations: a list of every request executed. It loses at a crash what was not flushed.

use bytes::Bytes;
use rsml::{CommittedValue, ExecutionError, ExecutionNotifier, SealedState, Sequence};

#[derive(Clone, Default)]
struct Contents {
    sequence: Sequence,
    state: Option<Bytes>,
    executed: Vec<(Sequence, Bytes)>,
}

#[derive(Clone, Default)]
pub struct ListExecutor {
    memory: Contents,
    persisted: Contents,
}

impl ListExecutor {
    pub fn flush(&mut self) {
        self.persisted = self.memory.clone();
    }

    pub fn crash(&mut self) {
        self.memory = self.persisted.clone();
    }

    /// Every request executed, with the sequence of its value.
    pub fn executed(&self) -> &[(Sequence, Bytes)] {
        &self.memory.executed
    }
}

impl ExecutionNotifier for ListExecutor {
    fn notify_commit_batch(
        &mut self,
        values: &[CommittedValue],
        seal: &mut dyn FnMut(&[Bytes]) -> SealedState,
    ) -> Result<Vec<Bytes>, ExecutionError> {
        let mut outcomes = Vec::new();
        for value in values {
            for request in &value.requests {
                self.memory.executed.push((value.sequence, request.payload.clone()));
                outcomes.push(Bytes::from(format!("{}@{}", self.memory.executed.len(), value.sequence)));
            }
        }
        let sealed = seal(&outcomes);
        self.memory.sequence = sealed.sequence;
        self.memory.state = Some(sealed.state);
        Ok(outcomes)
    }

    fn sealed_state(&self) -> Result<Option<Bytes>, ExecutionError> {
        Ok(self.memory.state.clone())
    }

    fn next_expected_sequence(&self) -> Sequence {
        self.memory.sequence.next()
    }

    fn persisted_sequence(&self) -> Result<Sequence, ExecutionError> {
        Ok(self.persisted.sequence)
    }

    fn is_ready(&self) -> bool {
        true
    }
}

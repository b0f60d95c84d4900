//! A state machine for simulations: a list of every request executed. It loses at a crash what was not flushed.

use bytes::Bytes;
use rsml::{CommittedValue, ExecutionError, ExecutionNotifier, SealedState, Sequence};

/// How much of the list there is, and the state sealed with it.
#[derive(Clone, Default)]
struct Mark {
    sequence: Sequence,
    state: Option<Bytes>,
    executed: usize,
}

#[derive(Clone, Default)]
pub struct ListExecutor {
    executed: Vec<(Sequence, Bytes)>,
    memory: Mark,
    persisted: Mark,
}

impl ListExecutor {
    pub fn flush(&mut self) {
        self.persisted = self.memory.clone();
    }

    pub fn crash(&mut self) {
        self.memory = self.persisted.clone();
        self.executed.truncate(self.memory.executed);
    }

    /// Every request executed, with the sequence of its value.
    pub fn executed(&self) -> &[(Sequence, Bytes)] {
        &self.executed
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
                self.executed.push((value.sequence, request.payload.clone()));
                outcomes.push(Bytes::from(format!("{}@{}", self.executed.len(), value.sequence)));
            }
        }
        let sealed = seal(&outcomes);
        self.memory = Mark { sequence: sealed.sequence, state: Some(sealed.state), executed: self.executed.len() };
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

    fn start_flush(&mut self) {
        self.flush();
    }

    fn is_ready(&self) -> bool {
        true
    }
}

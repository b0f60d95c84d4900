//! A state machine for simulations: a list of every request executed. It loses at a crash what was not flushed.

use bytes::Bytes;
use rsml::{CommittedValue, ExecutionError, ExecutionNotifier, SealedState, Sequence};

/// How much of the list there is, and the state sealed with it.
#[derive(Clone, Default)]
struct Mark {
    sequence: Sequence,
    state: Option<Bytes>,
    executed: usize,
    /// Not 0: outcomes are wrong by this much.
    skew: usize,
}

#[derive(Clone, Default)]
pub struct ListExecutor {
    executed: Vec<(Sequence, Bytes)>,
    memory: Mark,
    persisted: Mark,
    /// The next outcome is wrong, and nothing else.
    slips: bool,
}

impl ListExecutor {
    pub fn flush(&mut self) {
        self.persisted = self.memory.clone();
    }

    pub fn crash(&mut self) {
        self.memory = self.persisted.clone();
        self.executed.truncate(self.memory.executed);
    }

    /// The database is damaged without noticing: all outcomes are wrong from now on.
    pub fn corrupt_state(&mut self) {
        self.memory.skew += 1;
    }

    /// The next request is executed wrongly.
    pub fn corrupt_outcome(&mut self) {
        self.slips = true;
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
                let count = self.executed.len() + self.memory.skew + usize::from(std::mem::take(&mut self.slips));
                outcomes.push(Bytes::from(format!("{count}@{}", value.sequence)));
            }
        }
        let sealed = seal(&outcomes);
        let executed = self.executed.len();
        self.memory = Mark { sequence: sealed.sequence, state: Some(sealed.state), executed, ..self.memory };
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

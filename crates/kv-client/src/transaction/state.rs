//! What a transaction has read and will write, and where it stands.

use super::conflicts::Conflicts;
use super::writes::Writes;
use crate::ClientError;
use crate::results::Committed;

pub(super) struct State {
    pub writes: Writes,
    pub conflicts: Conflicts,
    pub phase: Phase,
    /// The error of an invalid call that could not return one. Every later call returns it.
    pub misuse: Option<ClientError>,
    /// The first failure after which the transaction should be repeated.
    pub failure: Option<ClientError>,
}

pub(super) enum Phase {
    Active,
    Committed(Committed),
    Ended(&'static str),
}

impl State {
    pub fn new() -> Self {
        State {
            writes: Writes::new(),
            conflicts: Conflicts::default(),
            phase: Phase::Active,
            misuse: None,
            failure: None,
        }
    }

    /// Returns an error unless the transaction can still be used.
    pub fn check(&self) -> Result<(), ClientError> {
        match (&self.misuse, &self.phase) {
            (Some(misuse), _) => Err(misuse.clone()),
            (None, Phase::Active) => Ok(()),
            (None, Phase::Committed(_)) => Err(ClientError::TransactionEnded("it is committed")),
            (None, Phase::Ended(reason)) => Err(ClientError::TransactionEnded(reason)),
        }
    }

    pub fn end(&mut self, reason: &'static str) {
        self.phase = Phase::Ended(reason);
        // Free the memory now: the program may keep a handle for a long time.
        self.writes = Writes::new();
        self.conflicts = Conflicts::default();
    }
}

//! The applied policy of a process with replicas.

use std::sync::Arc;
use std::time::Duration;

use kv_api::KvError;
use kv_api::access::Policy;

use super::local_replicas::{LocalReplica, LocalReplicas};
use crate::access::PolicySource;

/// The policy that this process applied last, from the replica that is furthest along.
pub struct ReplicatedPolicy {
    local: Arc<LocalReplicas>,
    /// How old it may be.
    max_staleness: Duration,
}

impl ReplicatedPolicy {
    /// The policy of these replicas. Once it is enabled, it must not be older than `max_staleness`.
    pub fn new(local: Arc<LocalReplicas>, max_staleness: Duration) -> Self {
        ReplicatedPolicy { local, max_staleness }
    }

    /// The replica of this process that has applied most.
    fn newest(&self) -> &LocalReplica {
        let replicas = self.local.replicas();
        replicas.iter().max_by_key(|replica| replica.consensus.applied()).expect("there is at least one")
    }
}

impl PolicySource for ReplicatedPolicy {
    fn enabled_revision(&self) -> u64 {
        self.newest().reader.enabled_revision()
    }

    fn policy(&self) -> Arc<Policy> {
        self.newest().reader.database().policy()
    }

    fn check_fresh(&self) -> Result<(), KvError> {
        let behind = self.local.replicas().iter().filter_map(|replica| replica.consensus.behind_for()).min();
        if behind.is_some_and(|behind| behind <= self.max_staleness) {
            return Ok(());
        }
        let how_long = behind.map_or("since it started".to_string(), |behind| format!("for {} ms", behind.as_millis()));
        Err(KvError::NoPrimary(format!(
            "this server has applied nothing new of a primary {how_long}, so it does not know who may do what; it serves \
             again once it has"
        )))
    }
}

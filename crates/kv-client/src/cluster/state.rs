//! What all users of a cluster share: the members, and the memory that requests may take.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, Semaphore, SemaphorePermit};

use super::members::{Members, Replica};
use crate::Options;
use crate::limits::KnownLimits;
use crate::request::Target;

/// Memory is granted in units of this many bytes.
const MEMORY_UNIT_BYTES: usize = 1 << 10;

pub(super) struct ClusterState {
    pub options: Options,
    pub limits: KnownLimits,
    members: Mutex<Members>,
    /// Asks for an early refresh: after a failure, the list of members may be out of date.
    pub refresh_soon: Notify,
    /// The memory budget for requests in flight and their replies, in units.
    memory: Semaphore,
}

impl ClusterState {
    pub fn new(replicas: Vec<Arc<Replica>>, options: Options, limits: KnownLimits) -> Self {
        let units = (options.max_in_flight_bytes / MEMORY_UNIT_BYTES).clamp(1, u32::MAX as usize);
        ClusterState {
            options,
            limits,
            members: Mutex::new(Members { replicas, primary: None, view: 0 }),
            refresh_soon: Notify::new(),
            memory: Semaphore::new(units.min(Semaphore::MAX_PERMITS)),
        }
    }

    pub fn members(&self) -> MutexGuard<'_, Members> {
        // A panic while this was locked cannot have left it inconsistent.
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reserves memory for a request and its reply, and waits until there is enough.
    pub async fn reserve_memory(&self, bytes: usize) -> Option<SemaphorePermit<'_>> {
        let all = (self.options.max_in_flight_bytes / MEMORY_UNIT_BYTES).max(1);
        // A request larger than the whole budget gets all of it.
        let units = bytes.div_ceil(MEMORY_UNIT_BYTES).clamp(1, all);
        // The semaphore is never closed, so this succeeds.
        self.memory.acquire_many(u32::try_from(units).unwrap_or(u32::MAX)).await.ok()
    }

    /// The replica to ask next; `None` if all were tried.
    pub fn choose(&self, target: Target, tried: &[Arc<str>]) -> Option<Arc<Replica>> {
        self.members().choose(target, tried)
    }

    pub fn is_primary(&self, replica: &Replica) -> bool {
        self.members().primary.as_ref() == Some(replica.address())
    }

    /// Marks a replica that did not answer.
    pub fn suspect(&self, replica: &Replica) {
        replica.is_suspected.store(true, Ordering::Relaxed);
        let mut members = self.members();
        if members.primary.as_ref() == Some(replica.address()) {
            members.primary = None;
        }
        drop(members);
        self.refresh_soon.notify_one();
    }

    /// Takes over the primary's address from the refusal of another replica.
    pub fn follow_hint(&self, address: &str) {
        let mut members = self.members();
        let is_known = members.replicas.iter().any(|replica| &**replica.address() == address);
        if !is_known && self.options.discovery {
            let replica = Replica::reported(address, &self.options);
            // Try it at once: no other replica can answer.
            replica.is_suspected.store(false, Ordering::Relaxed);
            members.replicas.push(replica);
        }
        members.primary = Some(address.into());
        drop(members);
        self.refresh_soon.notify_one();
    }
}

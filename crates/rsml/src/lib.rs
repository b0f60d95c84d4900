//! RSML: a replicated state machine library. Multi-Paxos over opaque values, for clusters of 1 to 7 replicas.

mod storage;
pub mod transport;
mod types;
pub mod wal;

pub use storage::{HardState, Persist, Recovered, Storage, StorageError, StorageStatistics, Ticket};
pub use types::{Boot, ClusterId, DiskId, Epoch, Instant, ReplicaId, Sequence, View};

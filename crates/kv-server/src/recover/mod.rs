//! Recovery from the loss of a quorum: most replicas of a cluster are gone for good, and a new
//! cluster is founded on what a surviving one holds. Everything here works on the directory
//! of a server that does not run.
//!
//! The operator goes three steps (`synodkv recover`):
//!
//! 1. [`inspect`] each survivor: what its log and its database hold. It changes nothing.
//! 2. [`make_plan`] of all inspections: which survivor to keep, and what may be lost.
//! 3. [`Recovery::run`] on that survivor's directory: makes it the only member of a new cluster.
//!
//! Invariants:
//! - The choice is that of phase 1: the log of the greatest (epoch, accepted view, length) holds
//!   every entry that any survivor can know as chosen. A plan keeps less only if the operator names the replica to keep.
//! - Former members can neither join nor vote: the cluster and the disk have new names, and the new
//!   configuration has one member.
//! - No version is given out twice, and none from before is readable: see
//!   [`kv_store::TransactionalKvDatabase::begin_new_history`].
//! - Everything new is built aside, and then takes the place of the old by renaming. From the first
//!   step to the last no server opens the directory, and repeating the recovery finishes it.
//! - Nothing old is changed or removed: log and database stay as `….before-recovery-<n>`.
//!
//! Not supported: filling lost entries of the log that is kept from other survivors. A cluster with
//! a primary does that; here it would need both disks in one place, and a proof that both logs have
//! the same entry there. Operators are told so.

mod apply;
mod choice;
mod directory;
mod error;
mod inspection;
mod plan;
mod record;
mod refused;
mod words;

#[cfg(test)]
mod tests;

pub use apply::{Recovered, Recovery, Step};
pub use choice::make_plan;
pub use error::RecoverError;
pub use inspection::{DatabaseState, Inspection, LogExtent, MemberEntry, MembersAt, inspect};
pub use plan::Plan;

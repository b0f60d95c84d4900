//! Every state that a small cluster can reach: a model check of the shipped consensus core.
//!
//! The state machine that is explored is [`rsml::core::Replica`] itself, not a description of it;
//! [`stateright`] visits all states within the bounds. The surroundings of the replicas are as
//! simple as possible:
//!
//! - **Network**: the set of all messages ever sent. Any of them may arrive at any time, any number
//!   of times, or never, which covers loss, duplication and every order.
//! - **Disks**: the log writes of each replica complete one by one, whenever the checker likes. A
//!   crash keeps any number of them, in order.
//! - **Databases**: execute at once. A crash leaves either all that was executed or the state at
//!   the cluster's birth.
//! - **Time** does not exist: every timeout fires whenever the checker likes, see
//!   [`Replica::canonicalize`].
//!
//! # Left out
//! - A *pre-vote* is one step: a replica whose timeout fires stands for election with the grant of
//!   any other, whether that one would grant it or not. This allows more campaigns than in practice
//!   and never fewer, except after two replicas were asked in vain.
//! - *Reports* never arrive, so no log is trimmed and no snapshot is needed; birth and wiped disks
//!   are not part of it.
//! - Every input is followed by its outputs at once; in practice several inputs may share one batch
//!   of outputs.
//! - Timeouts of one replica fire in the order heartbeat, retry, election, as their defaults are
//!   ordered.
//! - Entries are small, and nothing reaches a limit of bytes: no chunked fetch, no installing of a
//!   staged prefix.
//! - Views, values, reads, restarts and questions where a log ends (probes) are bounded; see
//!   [`Bounds`].
//!
//! Symmetry is not used: a view belongs to a replica, which makes the replicas different.
//!
//! # Checked in every state
//! - All deliveries agree.
//! - Every entry that any replica believes to be chosen is durable on a quorum of disks, for good,
//!   and under the view of the primary that was the first to know.
//! - No replica delivers an entry that its disk does not hold.
//! - Promises never go back, claims in messages are durable when they leave, and primaries have a
//!   quorum of promises.
//! - A read's point covers everything delivered anywhere before the read began.
//! - The assertions of the core hold.
//!
//! The checker compares states by 64-bit hashes (with 10⁸ states, one is passed over with a
//! probability of about 10⁻³).
//!
//! [`Replica::canonicalize`]: rsml::core::Replica::canonicalize

mod cluster;
mod node;
mod observed;
mod table;
mod voters;

pub use cluster::{Action, Bounds, Cluster, Disks, State};
pub use node::Broken;

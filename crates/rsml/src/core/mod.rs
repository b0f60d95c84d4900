//! The consensus core: one deterministic state machine without I/O, clock, threads or randomness of
//! its own.
//!
//! # The protocol
//!
//! The replicas of a cluster keep copies of one database. They agree on one *log* of values, and
//! each applies the log to its database, in order; equal logs make equal databases. The core
//! decides what the log holds. It is Multi-Paxos (Lamport, *Paxos Made Simple*) in the form that
//! Omni-Paxos (Ng, Haridi, Carbone, EuroSys 2023) calls sequence consensus.
//!
//! - A **view** is a ballot: the higher one wins. Each view has one *owner*, the only replica that
//!   may lead it. The replica that leads is the **primary**; those that follow it are
//!   **secondaries**. (Raft: term, leader, follower.)
//! - A **quorum** is a majority of the **voters**. Any two quorums share a voter, so what one
//!   quorum has done, the next one finds. A replica on a replaced disk is an **observer**: it
//!   follows, and has no vote.
//! - **Phase 1** elects. A replica that hears from no primary for an *election timeout* picks a
//!   view above all that it knows, and asks all others to *promise* (1a, 1b) that they take part in
//!   no lower one. Each promise reports a log. Of the logs of a quorum the candidate *adopts* the
//!   one with the greatest (accepted view, length): it holds every entry that may have been chosen.
//!   A *pre-vote* comes first, so that a replica that cannot win disturbs nobody.
//! - **Phase 2** replicates. The primary alone extends the log. It sends each entry to all others
//!   in an *accept* (2a), and they answer once the entry is durable (2b): that answer is a
//!   **vote**. An entry is **chosen** (committed) when a quorum has voted for it in the current
//!   view. Votes are cumulative, so any number of entries may be in flight, and a lost message
//!   costs nothing but time. An accept without entries is the *heartbeat*.
//! - The **commit point** is the sequence through which the log is known to be chosen. Chosen
//!   entries are delivered to the executor; an entry that it has executed is **applied**.
//!
//! # The rules
//!
//! Safety rests on thirteen rules. Each is asserted where it could be broken (in brackets), and
//! coverage points are named after them.
//!
//! 1. An entry is accepted only if the one before it is held in the same view. So a vote is one
//!    number ([`Acceptor::append`]).
//! 2. A replica makes a log of view v its own (`accepted_view` := v) in the one durable write after
//!    which it holds v's entries through L_v, the length with which v was adopted, and through its
//!    own commit point. The same write removes what the old log had beyond. Entries that arrive
//!    before are *staged*. Committed entries are never cut ([`Acceptor::adopt`]).
//! 3. Every claim of a message is durable before the message leaves. A replica that has promised a
//!    higher view sends no vote in a lower one, and leads none (`phase1`,
//!    [`Replica::check_invariants`]).
//! 4. An entry is chosen when a quorum holds it durably in the *current* view; votes of other views
//!    do not count (`primary`).
//! 5. Entries are delivered only when they are chosen and durable here, and only if the durable log
//!    is of the view in which that was learned, or of a later one, or the entries were received as
//!    committed ones ([`Learner::deliver`]).
//! 6. After a failed write or synchronisation the replica stops, since nobody knows what is on the
//!    disk (the driver).
//! 7. Entries that a disk has lost are declared: they count in the log's length, and no vote
//!    reaches beyond the first of them until they are repaired (`choice`, [`Acceptor::repair`]).
//! 8. A read joins no confirmation round that began before the read came (`reads`).
//! 9. A replica that granted a lease promises nothing to another candidate before the lease is over
//!    (`lease`).
//! 10. A snapshot or a committed entry only takes a replica forward, and changes no vote
//!     ([`Acceptor::install_committed`], [`Acceptor::install_snapshot`]).
//! 11. Replicated time never goes back ([`Proposer::value`]).
//! 12. Running digests are equal at equal sequences; a replica that a majority contradicts stops
//!     (`digests`).
//! 13. Only an entry of the log changes the feature level, and only upwards. A primary appends one
//!     only if every member was heard from lately with a program that executes the new level. An
//!     entry of a level that a replica's program does not execute stops that replica (`level`,
//!     [`crate::Applier`]).
//!
//! # Epochs
//!
//! The members change at places in the log: twelve more rules, M1 to M12, say how one epoch follows
//! another (`epochs`), and when a primary may propose that (`reconfigure`).
//!
//! # The contract with the driver
//!
//! [`Replica::step`] takes one [`Input`]; [`Replica::ready`] returns the [`Outputs`] of all inputs
//! since the last call. The driver performs everything in them. Log writes are performed in the
//! order of their ids, and reported as done with [`Input::Durable`]; messages may be sent at once,
//! in any order, several times or never.
//!
//! # Where things are
//!
//! The parts are plain state with the rules that guard it: [`Acceptor`] (promise and log),
//! [`Learner`] (commit point), [`Proposer`] (what only a primary knows), [`ViewManager`] (role and
//! election timer), [`Membership`] (members and majorities), `Requests` (this replica's session),
//! `Reads` (linearizable read points), `Digests` (whether all execute alike). They meet only in
//! [`Replica`], whose `impl` is spread over files by subject:
//!
//! | file | subject |
//! |---|---|
//! | `replica` | the state, `step`, `ready`, ticks |
//! | `dispatch` | messages in and out |
//! | `birth` | how a cluster begins |
//! | `pre_vote`, `phase1`, `choice` | elections |
//! | `primary`, `progress`, `secondary` | replication |
//! | `forwarding` | requests and reads on their way to the primary |
//! | `catch_up`, `trimming` | snapshots, and how long the log is kept |
//! | `transfer`, `fitness`, `lease` | which replica should lead, and may |
//! | `level` | the feature level, and when it is raised |
//! | `epochs`, `reconfigure` | how members change |
//! | `status`, `freshness` | reports to peers and operators, and how old the state is |
//! | `canonical` | one form of equal states, for the model checker |

mod acceptor;
mod birth;
mod canonical;
mod catch_up;
pub(crate) mod choice;
mod digests;
mod dispatch;
mod epochs;
mod fitness;
mod forwarding;
mod freshness;
mod ids;
mod input;
mod learner;
mod lease;
mod level;
mod log;
mod membership;
mod options;
mod output;
mod phase1;
mod pre_vote;
mod primary;
mod progress;
mod proposer;
mod random;
mod reads;
mod reconfigure;
mod replica;
mod requests;
mod secondary;
mod snapshot;
mod status;
mod transfer;
mod trimming;
mod upkeep;
mod view_manager;

pub use acceptor::Acceptor;
pub use digests::{DivergedPeer, Divergence, DivergenceKind, RefusedCopy};
pub use ids::{RaiseId, ReadId, ReconfigureId, RequestId, TransferId};
pub use input::Input;
pub use learner::Learner;
pub use level::RaiseError;
pub use membership::Membership;
pub use options::CoreOptions;
pub use output::{LogRead, Outgoing, Outputs, ReadPurpose, Refusal};
pub use proposer::Proposer;
pub use random::Jitter;
pub use reconfigure::{MAX_OBSERVERS, MAX_VOTERS, MemberChange, Precondition, ReconfigureError, Unready};
pub(crate) use replica::configuration_at;
pub use replica::{Replica, Start};
pub use snapshot::{CopyStatus, InstallEvent, InstallStep, SnapshotPiece, SnapshotRead};
pub use status::ReplicaStatus;
pub use transfer::TransferError;
pub use view_manager::{Role, ViewManager};

#[cfg(test)]
mod tests;

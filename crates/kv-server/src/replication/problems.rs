//! The problems of a cluster's replicas that this process can detect, each with its remedy.

use std::time::Duration;

use rsml::transport::{Trouble, TroubleKind};
use rsml::{
    Configuration, ConfiguredMember, DivergedPeer, DriverStatus, Epoch, FailureKind, ReplicaId, StalledThread,
    ThreadKind,
};

use super::members::Members;
use crate::cluster::{ReplicaStatus, Role};
use crate::problems::Problem;
use crate::space::disk_full;

/// How long a server must have run before a silent peer is a problem; peers may be starting, too.
const MISSED_AFTER: Duration = Duration::from_secs(5);

/// A single write that takes this long means more than a busy disk.
const DISK_PATIENCE_US: u64 = 5_000_000;

const NO_VOTE: &str = "no_vote";

/// The most serious problem, which makes a replica unhealthy. Being an observer is not one.
pub(super) fn most_serious(problems: Vec<Problem>) -> Option<Problem> {
    problems.into_iter().find(|problem| problem.kind != NO_VOTE)
}

/// The problems of a replica of this process, the most serious first.
pub(super) fn of_local(id: u32, status: &DriverStatus) -> Vec<Problem> {
    let stopped = status
        .failed
        .as_ref()
        .map(|failure| Problem::new("stopped", format!("it has stopped: {failure}"), after(failure.kind)));
    let copy = copy_refused(status).or_else(|| status.core.is_catching_up.then(|| copy_under_way(status)));
    let unreachable = status.troubles.get(&status.core.id).map(|trouble| disconnected(trouble));
    let found = [
        stopped,
        log_blocked(status),
        stall(status),
        copy,
        log_damaged(status),
        shortage(status),
        unreachable,
        not_a_member(status),
    ];
    found.into_iter().flatten().map(|problem| problem.of_replica(id)).collect()
}

fn log_blocked(status: &DriverStatus) -> Option<Problem> {
    let (from, to) = status.core.blocked?;
    Some(Problem::new(
        "log_blocked",
        format!(
            "no replica can lead: entries {from} to {to} are blocked, because all disks that had them have lost them"
        ),
        "bring back a disk that has them, or restore a backup of all replicas (see \"A damaged log or database\" in \
         docs/OPERATIONS.md)",
    ))
}

fn log_damaged(status: &DriverStatus) -> Option<Problem> {
    let (first, last) = status.core.lost.first().zip(status.core.lost.last())?;
    let (from, to) = (first.0, last.1);
    Some(Problem::new(
        "log_damaged",
        format!("its disk has lost entries between {from} and {to} of the log; it fetches them from the others"),
        "wait until it has them; test the disk if that happens again",
    ))
}

fn shortage(status: &DriverStatus) -> Option<Problem> {
    if status.lacks_descriptors {
        return Some(Problem::new(
            "descriptors",
            "its log waits for a file descriptor for its next file",
            "close connections, or raise the limit (`ulimit -n`, LimitNOFILE= of systemd) and restart; writes continue by \
             themselves once one is free",
        ));
    }
    status.core.storage_full.then(disk_full)
}

/// A problem if the replica takes no part in agreeing on writes.
fn not_a_member(status: &DriverStatus) -> Option<Problem> {
    if status.failed.is_some() {
        return None;
    }
    if status.core.cluster_id == rsml::ClusterId::NONE {
        return Some(Problem::new(
            "not_founded",
            "it belongs to no cluster yet",
            "start all configured replicas: they bootstrap a cluster once all of them run with empty directories. Where the \
             others have a cluster already, this one joins it without a vote as soon as one of them answers",
        ));
    }
    let (id, configuration) = (status.core.id, &status.core.configuration);
    let is_removed = configuration.epoch > Epoch::FIRST && !configuration.members.contains_key(&id);
    if is_removed {
        return Some(removed(status.core.is_retired));
    }
    if status.core.is_voter { None } else { without_vote(configuration, id) }
}

fn removed(is_retired: bool) -> Problem {
    let remedy = match is_retired {
        true => "stop its server: the others can do without it. `synodkv member add` makes it a member again",
        false => "wait until the others can do without it, and then stop its server",
    };
    Problem::new("removed", "it is no member of the cluster any more, and answers no requests", remedy)
}

/// A stalled thread or, reported sooner, a disk that does not answer.
fn stall(status: &DriverStatus) -> Option<Problem> {
    let remedy = "check the disk and the kernel's log of this machine";
    let Some(StalledThread { thread, since, has_ended }) = &status.stalled else {
        let waits_us = status.core.disk_waits_us;
        let hangs = waits_us >= DISK_PATIENCE_US && !status.core.storage_full && status.failed.is_none();
        let text = format!("its disk has not finished a write to the log for {} s", waits_us / 1_000_000);
        let remedy =
            format!("{remedy}. The others continue without it; a primary whose disk hangs lets another one lead");
        return hangs.then(|| Problem::new("disk_hangs", text, remedy));
    };
    let (name, since_s) = (thread.name(), since.elapsed().as_secs());
    let text = match (has_ended, thread) {
        (true, _) => format!("its thread {name} ended {since_s} s ago, though it has not stopped"),
        (false, ThreadKind::Log) => format!("its disk hangs: its thread {name} has waited for it for {since_s} s"),
        (false, _) => format!("its thread {name} has stood still for {since_s} s"),
    };
    Some(Problem::new("stalled", text, format!("{remedy}; then restart the server")))
}

/// The replica needs a copy, but the databases of the others differ.
fn copy_refused(status: &DriverStatus) -> Option<Problem> {
    let refused = status.core.refused_copy.as_ref()?;
    Some(Problem::new(
        "copy_refused",
        refused.to_string(),
        "start all replicas; if no majority agrees then, choose which database to keep (see \"Replicas that disagree\" in \
         docs/OPERATIONS.md)",
    ))
}

fn copy_under_way(status: &DriverStatus) -> Problem {
    let rate = |bytes: u64| format!("{:.1} MB/s", bytes as f64 / 1e6);
    let text = match &status.core.copy {
        None => "it needs a copy of another replica's database, and no replica sends one".to_string(),
        Some(copy) if copy.total == 0 => format!("it waits for replica {} to make a copy of its database", copy.source),
        Some(copy) => format!(
            "it receives a copy of the database of replica {}: {} % of {:.1} MB, at {}",
            copy.source,
            copy.received * 100 / copy.total,
            copy.total as f64 / 1e6,
            rate(status.copy_bytes_per_second.unwrap_or(0)),
        ),
    };
    let remedy = match status.core.copy {
        None => "start the other replicas, and check why they cannot be reached",
        Some(_) => "wait until it is complete; meanwhile this replica does not lead, and may serve old data",
    };
    Problem::new("copy_under_way", text, remedy)
}

fn after(kind: FailureKind) -> &'static str {
    match kind {
        FailureKind::Storage => {
            "check the disk and the server's log; then start the server again (see \"A disk that fails\" in \
             docs/OPERATIONS.md)"
        }
        FailureKind::Damaged | FailureKind::Diverged => {
            "start the server again: the replica is rebuilt from another one. Then test the memory and the disk of this \
             machine"
        }
        FailureKind::DivergedWithoutMajority => {
            "an operator must decide which database is right: see \"Replicas that disagree\" in docs/OPERATIONS.md"
        }
        FailureKind::TooNew => {
            "start a release that executes that feature level (see \"Upgrades\" in docs/OPERATIONS.md); the data is sound"
        }
        FailureKind::Execution | FailureKind::Invariant => {
            "keep the server's log and report it; then start the server again"
        }
        FailureKind::Starved => {
            "raise the limits of the process (LimitNOFILE= of systemd, fs.file-max); it starts again by itself"
        }
        FailureKind::ShutDown => "start the server again",
    }
}

/// A replica has no vote although one might expect it to have one.
fn without_vote(configuration: &Configuration, id: ReplicaId) -> Option<Problem> {
    match configuration.members.get(&id) {
        Some(ConfiguredMember::Observer { .. }) => None,
        Some(ConfiguredMember::Voter { .. } | ConfiguredMember::Witness { .. }) => Some(Problem::new(
            NO_VOTE,
            "it is an observer without a vote: its disk is another one than the one that votes under its id",
            "wait: once it has caught up, the primary lets its disk vote by itself (from feature level 2 on, unless \
             replication.readmit_replaced_disk = false). See \"A lost disk\" in docs/OPERATIONS.md",
        )),
        None => Some(Problem::new(
            NO_VOTE,
            "it is an observer without a vote: only the configuration files name it, and the cluster began without it",
            "make it a member with `synodkv member add`, and let it vote with `synodkv member promote`",
        )),
    }
}

/// The problems of a replica in another process, as `seen_by` sees it, the most serious first. `up`
/// is how long this process has run.
pub(super) fn of_peer(peer: &ReplicaStatus, seen_by: &DriverStatus, up: Duration) -> Vec<Problem> {
    let id = ReplicaId(u8::try_from(peer.id).expect("the configuration bounds replica ids"));
    let mut found = Vec::new();
    if let Some(diverged) = seen_by.core.diverged_peers.get(&id) {
        found.push(divergence(diverged));
    }
    let trouble = seen_by.troubles.get(&id).filter(|trouble| trouble.kind != TroubleKind::Unreachable);
    if let Some(trouble) = trouble {
        found.push(disconnected(trouble));
    } else if !peer.reachable && (peer.last_seen.is_some() || up >= MISSED_AFTER) {
        found.push(unreachable(id, peer, seen_by, up));
    }
    if let Some(report) = seen_by.core.reports.get(&id).filter(|_| peer.reachable) {
        if report.storage_full {
            found.push(disk_full());
        }
        if report.is_observer {
            found.extend(without_vote(&seen_by.core.configuration, id));
        }
    }
    found.into_iter().map(|problem| problem.of_replica(peer.id)).collect()
}

/// The problem of a missing connection whose cause is known.
fn disconnected(trouble: &Trouble) -> Problem {
    let Trouble { address, reason, .. } = trouble;
    let since_s = trouble.since.elapsed().as_secs();
    match trouble.kind {
        TroubleKind::Unresolved => Problem::new(
            "name_unresolved",
            format!("for {since_s} s: cannot resolve {address}: {reason}"),
            "check the name server, or correct the name in replication.replicas. It is looked up again with each attempt; \
             no restart is needed when it comes back",
        ),
        TroubleKind::NotListening => Problem::new(
            "not_listening",
            format!("for {since_s} s: cannot listen on {address}: {reason}; the other replicas do not reach it"),
            "give this machine the address, free the port, or correct the address in replication.replicas; it is tried again",
        ),
        TroubleKind::OtherCluster => Problem::new(
            "other_cluster",
            format!("for {since_s} s there has been no connection to it at {address}: {reason}"),
            "correct the address in replication.replicas if it is wrong. If that cluster was recovered without this replica, \
             nothing of these data belongs to it: move this data directory aside, and start with an empty one (see \"Two \
             replicas of three are gone\" in docs/OPERATIONS.md)",
        ),
        TroubleKind::Refused | TroubleKind::Unreachable => Problem::new(
            "peer_refused",
            format!("for {since_s} s there has been no connection to it at {address}: {reason}"),
            "check its log, and compare replication.replicas, replication.tls and the version of both",
        ),
    }
}

fn unreachable(id: ReplicaId, peer: &ReplicaStatus, seen_by: &DriverStatus, up: Duration) -> Problem {
    let address = peer.peer.as_deref().unwrap_or("no address");
    let text = match seen_by.core.heard_us.get(&id) {
        Some(us) => format!("its last message arrived {} s ago (at {address})", us / 1_000_000),
        None => format!("no message from it since this server started, {} s ago (at {address})", up.as_secs()),
    };
    let reason = seen_by.troubles.get(&id).map(|trouble| format!(": {}", trouble.reason)).unwrap_or_default();
    let text = format!("{text}{reason}");
    let remedy = "start its server, or check the network between the two; it then catches up by itself";
    Problem::new("peer_unreachable", text, remedy)
}

/// The report of the others about a diverged replica, which has most likely stopped by now.
fn divergence(diverged: &DivergedPeer) -> Problem {
    let DivergedPeer { sequence, expected, found } = diverged;
    Problem::new(
        "diverged",
        format!(
            "its database has diverged: its digest at sequence {sequence} is {found:016x}, a majority of the replicas has \
             {expected:016x}"
        ),
        "start its server again: the replica is rebuilt from another one. Then test the memory and the disk of its machine",
    )
}

/// A problem of the whole cluster: too few voting replicas are available.
pub(super) fn of_cluster(members: &Members, replicas: &[ReplicaStatus], is_bootstrapped: bool) -> Option<Problem> {
    let votes = |replica: &&ReplicaStatus| replica.reachable && replica.role != Role::Observer;
    let (there, needed) = (replicas.iter().filter(votes).count(), members.majority());
    if !is_bootstrapped || there >= needed {
        return None;
    }
    let missing = |replica: &ReplicaStatus| match replica.role {
        _ if !replica.reachable => Some(format!("replica {} is silent", replica.id)),
        Role::Observer if members.get(replica.id).is_some_and(|member| member.votes) => {
            Some(format!("replica {} has no vote, because its disk is another one", replica.id))
        }
        _ => None,
    };
    let missing: Vec<String> = replicas.iter().filter_map(missing).collect();
    Some(Problem::new(
        "no_majority",
        format!(
            "no majority: {there} of {} replicas can vote, and {needed} are needed; {}",
            members.count(),
            missing.join(", ")
        ),
        "start the missing ones with their own directories, and writes continue by themselves. Remove no directory: one of \
         them may be the only copy left. If disks are lost for good, see \"Two replicas of three are gone\" in \
         docs/OPERATIONS.md",
    ))
}

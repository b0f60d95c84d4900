//! The messages of a server to the service manager that started it (systemd, `Type=notify`), over the
//! datagram socket in `NOTIFY_SOCKET`.
//!
//! | message | when |
//! |---|---|
//! | `STATUS=…` | at the start, and when the role of this server or the reachable replicas change |
//! | `EXTEND_TIMEOUT_USEC=…` | until the server listens: a start that applies a long log is no failure |
//! | `READY=1` | once the server listens, as with the line that begins with `ready` |
//! | `WATCHDOG=1` | three times per `WATCHDOG_USEC`, for as long as the runtime executes tasks |
//! | `STOPPING=1` | when the server begins to stop |
//!
//! The watchdog is fed from time alone. Feeding does no I/O but the datagram, takes no lock, and
//! waits for no other part of the server: a disk that hangs, a lost quorum or a full data directory
//! are handled by the protocol, and a restart would only make them worse. A process whose runtime
//! has stood still is restarted.
//!
//! No send blocks: a message that does not fit into the socket is left out, and the next one
//! follows soon.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use kv_server::Mode;
use kv_server::cluster::{ClusterSnapshot, ClusterView, Role};
use tokio::time::{Instant, MissedTickBehavior};

/// How often the status is looked at.
const STATUS_INTERVAL: Duration = Duration::from_secs(2);
/// How often a start asks for more time, and for how much.
const STARTING_INTERVAL: Duration = Duration::from_secs(10);
const STARTING_EXTENSION: Duration = Duration::from_secs(60);
/// A replica that is further behind than this says so.
const NOTABLE_LAG: u64 = 1_000;

/// The service manager, if one started this process and listens.
pub struct Supervisor {
    socket: Option<Arc<UnixDatagram>>,
    /// The view of the running server; another one after each of its restarts.
    cluster: Arc<Mutex<Option<Weak<dyn ClusterView>>>>,
}

impl Supervisor {
    /// Says that the server starts, and feeds the watchdog from now on. Must be called in the
    /// runtime that executes the server.
    pub fn of_environment() -> Supervisor {
        let supervisor = Supervisor { socket: connect().map(Arc::new), cluster: Arc::default() };
        let Some(socket) = &supervisor.socket else { return supervisor };
        supervisor.say("STATUS=starting");
        if let Some(limit) = watchdog_limit() {
            tokio::spawn(feed(socket.clone(), limit / 3));
        }
        supervisor
    }

    /// Waits for a start, for which the service manager gets patience.
    pub async fn while_starting<T>(&self, start: impl Future<Output = T>) -> T {
        let mut start = std::pin::pin!(start);
        let mut ticks = tokio::time::interval(STARTING_INTERVAL);
        loop {
            tokio::select! {
                biased;
                started = &mut start => return started,
                _ = ticks.tick() => self.say(&format!("EXTEND_TIMEOUT_USEC={}", STARTING_EXTENSION.as_micros())),
            }
        }
    }

    /// Says that the server listens, and follows its status from now on.
    pub fn ready(&self) {
        let Some(socket) = &self.socket else { return };
        self.say("READY=1\nSTATUS=listening");
        tokio::spawn(follow(socket.clone(), self.cluster.clone()));
    }

    /// Where [`Seen::set`] puts the view of a server.
    pub fn seen(&self) -> Seen {
        Seen(self.cluster.clone())
    }

    /// Says that the server stops.
    pub fn stopping(&self) {
        self.say("STOPPING=1\nSTATUS=stopping");
    }

    fn say(&self, message: &str) {
        if let Some(socket) = &self.socket {
            say(socket, message);
        }
    }
}

/// The view of the cluster that the status is made from.
#[derive(Clone)]
pub struct Seen(Arc<Mutex<Option<Weak<dyn ClusterView>>>>);

impl Seen {
    /// Keeps the view of the server that runs now.
    pub fn set(&self, cluster: &Arc<dyn ClusterView>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::downgrade(cluster));
    }
}

/// The socket of the service manager. A path that begins with `@` is a name in the abstract
/// namespace.
fn connect() -> Option<UnixDatagram> {
    let path = std::env::var_os("NOTIFY_SOCKET").filter(|path| !path.is_empty())?;
    let address = match path.as_bytes().split_first() {
        Some((b'@', name)) => SocketAddr::from_abstract_name(name),
        _ => SocketAddr::from_pathname(&path),
    };
    let connected = address.and_then(|address| {
        let socket = UnixDatagram::unbound()?;
        socket.connect_addr(&address)?;
        socket.set_nonblocking(true)?;
        Ok(socket)
    });
    connected
        .inspect_err(|error| {
            tracing::warn!("NOTIFY_SOCKET={}: cannot reach the service manager: {error}", path.display());
        })
        .ok()
}

/// The time after which the service manager restarts a process that does not feed its watchdog.
fn watchdog_limit() -> Option<Duration> {
    let limit = std::env::var("WATCHDOG_USEC").ok()?;
    let is_for_us = std::env::var("WATCHDOG_PID").map_or(true, |id| id == std::process::id().to_string());
    match limit.parse() {
        Ok(0) => None,
        Ok(limit) => Some(Duration::from_micros(limit)).filter(|_| is_for_us),
        Err(_) => {
            tracing::warn!("WATCHDOG_USEC={limit}: expected a number of microseconds; the watchdog is not fed");
            None
        }
    }
}

fn say(socket: &UnixDatagram, message: &str) {
    match socket.send(message.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::WouldBlock => {
            tracing::debug!(%error, "cannot reach the service manager");
        }
        _ => {}
    }
}

async fn feed(socket: Arc<UnixDatagram>, interval: Duration) {
    let mut ticks = tokio::time::interval(interval.max(Duration::from_millis(1)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        say(&socket, "WATCHDOG=1");
    }
}

/// Sends the status whenever it has changed. Apart from the watchdog, because a view may wait.
async fn follow(socket: Arc<UnixDatagram>, cluster: Arc<Mutex<Option<Weak<dyn ClusterView>>>>) {
    let mut ticks = tokio::time::interval_at(Instant::now(), STATUS_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last = String::new();
    loop {
        ticks.tick().await;
        let view = cluster.lock().unwrap_or_else(PoisonError::into_inner).as_ref().and_then(Weak::upgrade);
        let Some(view) = view else { continue };
        let status = describe(&view.snapshot().await);
        if status != last {
            say(&socket, &format!("STATUS={status}"));
            last = status;
        }
    }
}

/// One line for `systemctl status`. Holds nothing that changes with each write.
fn describe(cluster: &ClusterSnapshot) -> String {
    if cluster.mode == Mode::Standalone {
        return "standalone".to_string();
    }
    let id = cluster.node_id;
    let Some(own) = cluster.replica(id) else { return format!("replica {id} is no member") };
    if cluster.cluster_id.is_none() {
        return format!("replica {id} waits for the other replicas: the first start of a cluster needs all of them");
    }
    let role = match own.role {
        Role::Primary => "primary",
        Role::Secondary => "secondary",
        Role::Candidate => "candidate",
        Role::Observer => "observer",
        Role::Witness => "witness",
        Role::Removed => "removed",
        Role::Unknown => "unknown",
    };
    let mut text = format!("replica {id}: {role} in view {}", cluster.view);
    match cluster.primary {
        Some(primary) if primary != id => text += &format!(", primary is replica {primary}"),
        Some(_) => {}
        None => text += ", no primary",
    }
    let reachable = cluster.replicas.iter().filter(|replica| replica.reachable).count();
    text += &format!(", {reachable} of {} replicas reachable", cluster.replicas.len());
    let committed = cluster.replicas.iter().filter_map(|replica| replica.committed).max();
    let behind = committed.unwrap_or(0).saturating_sub(own.applied.unwrap_or(0));
    if behind > NOTABLE_LAG {
        // Rounded, so that it does not change all the time.
        text += &format!(", more than {} entries behind", behind / NOTABLE_LAG * NOTABLE_LAG);
    }
    if let Some(problem) = &own.problem {
        text += &format!("; {}", problem.text.replace(['\n', '\r'], " "));
    }
    text
}

#[cfg(test)]
mod tests {
    use kv_server::cluster::ReplicaStatus;
    use kv_server::problems::Problem;

    use super::*;

    fn replica(id: u32, role: Role, committed: u64, applied: u64) -> ReplicaStatus {
        ReplicaStatus {
            id,
            role,
            reachable: id != 2,
            last_seen: None,
            view: 7,
            last_sequence: Some(committed),
            committed: Some(committed),
            applied: Some(applied),
            digest: None,
            oldest_readable: None,
            pending_clears: None,
            levels: None,
            uptime: None,
            problem: None,
            copy: None,
            sends_copies: Vec::new(),
            peer: None,
            thrift: String::new(),
            admin: String::new(),
        }
    }

    fn cluster(node_id: u32, primary: Option<u32>) -> ClusterSnapshot {
        ClusterSnapshot {
            mode: Mode::Replicated,
            cluster_id: Some("c1".to_string()),
            node_id,
            primary,
            view: 7,
            epoch: 1,
            replicas: vec![
                replica(0, Role::Primary, 9_000, 9_000),
                replica(1, Role::Secondary, 8_000, 4_500),
                replica(2, Role::Unknown, 0, 0),
            ],
        }
    }

    #[test]
    fn the_status_names_the_role_the_primary_and_a_lag() {
        assert_eq!(describe(&cluster(0, Some(0))), "replica 0: primary in view 7, 2 of 3 replicas reachable");
        assert_eq!(
            describe(&cluster(1, Some(0))),
            "replica 1: secondary in view 7, primary is replica 0, 2 of 3 replicas reachable, more than 4000 entries behind"
        );
        let mut troubled = cluster(0, None);
        troubled.replicas[0].problem = Some(Problem::new("disk_full", "its disk\nis full", "make space"));
        let text = describe(&troubled);
        assert!(text.contains("no primary") && text.ends_with("; its disk is full"), "{text}");
    }

    #[test]
    fn before_the_bootstrap_the_status_says_what_it_waits_for() {
        let text = describe(&ClusterSnapshot { cluster_id: None, ..cluster(1, None) });
        assert!(text.starts_with("replica 1 waits for the other replicas"), "{text}");
        assert_eq!(describe(&ClusterSnapshot { mode: Mode::Standalone, ..cluster(0, None) }), "standalone");
    }
}
